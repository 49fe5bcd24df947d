"""The server: its connections and the calls on them."""
