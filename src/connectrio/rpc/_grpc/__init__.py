"""gRPC over HTTP/2: headers, messages, compression."""
