"""`connectrio serve`: where its settings come from, and running the host."""
