"""What lies in the folders of the gRPC examples needs stubs: tests/rpc/test_examples.py makes them, and runs it."""

collect_ignore_glob = ["greeter/*", "chat/*"]
