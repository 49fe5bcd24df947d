"""What an author of connectors writes against. It knows nothing of gRPC servers and hosts."""
