"""gRPC for anyio: a server and a channel for grpclib's servicers and betterproto's stubs, on asyncio and trio."""
