"""The client of the benchmark: keeps so many GetTask calls in flight for so long, and prints what it saw as JSON.

python load.py PORT STREAMS SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc

REQUEST = connector_pb2.GetTaskRequest(
    resource_meta=b'{"job_id": "0123456789abcdef"}',
    task_category=connector_pb2.TaskCategory(name="bench"),
    output_prefix="s3://bucket/some/prefix",
)


async def load(port: int, streams: int, seconds: float) -> dict[str, float]:
    """Run the load after half a second of warm-up."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.AsyncConnectorServiceStub(channel)

        async def caller(until: float) -> None:
            while (started := time.perf_counter()) < until:
                await stub.GetTask(REQUEST)
                latencies.append(time.perf_counter() - started)

        async def phase(length: float) -> float:
            latencies.clear()
            started = time.perf_counter()
            await asyncio.gather(*(caller(started + length) for _ in range(streams)))
            return time.perf_counter() - started

        await phase(0.5)
        elapsed = await phase(seconds)
    latencies.sort()
    return {
        "calls_per_second": len(latencies) / elapsed,
        "median_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
