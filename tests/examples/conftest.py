"""What lies in the folders of the gRPC examples needs stubs: test_grpc_examples.py makes them, and runs it."""

collect_ignore_glob = ["greeter/*", "chat/*"]
