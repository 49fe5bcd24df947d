"""What an author of connectors writes against."""
