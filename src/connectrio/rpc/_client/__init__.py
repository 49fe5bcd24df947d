"""The client: channels and the calls on them."""
