"""TLS over any byte stream."""
