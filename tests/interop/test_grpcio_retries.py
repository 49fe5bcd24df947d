"""Retry policies beside grpcio's client: both call the same server of grpcio's with the same service config.

The server fails the attempts of a call as a plan says. What it sees of each client, and how their calls end, must be
the same. Left out are a pushback of 0, after which grpcio's client makes no attempt and waits for the deadline, and a
token ratio without a decimal point, which it takes for thousandths.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio import to_thread

from connectrio.rpc import Channel, GRPCError, closing, options_from_service_config
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, ScriptStub
from rpc.kit.serving import PATIENCE

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")


@dataclass(frozen=True)
class Answer:
    """How the server answers one attempt.

    :ivar pushback: the value of grpc-retry-pushback-ms
    :ivar begins: sends the response's headers first
    """

    status: str = "OK"
    pushback: str | None = None
    begins: bool = False


@dataclass
class PlannedServer:
    """A server of grpcio's.

    :ivar plan: the answers to the next attempts; OK afterwards
    :ivar seen: of each attempt, its `grpc-previous-rpc-attempts` and its request
    """

    port: int = 0
    plan: list[Answer] = field(default_factory=list)
    seen: list[tuple[str | None, bytes]] = field(default_factory=list)

    def answer(self, request: bytes, context: Any) -> bytes:
        self.seen.append((dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts"), request))
        answer = self.plan.pop(0) if self.plan else Answer()
        if answer.begins:
            context.send_initial_metadata(())
        if answer.pushback is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", answer.pushback),))
        if answer.status != "OK":
            context.abort(getattr(grpc.StatusCode, answer.status), "as planned")
        return request

    def handlers(self) -> dict[str, Any]:
        def answer_all(requests: Iterator[bytes], context: Any) -> bytes:
            return self.answer(b"".join(requests), context)

        made = {
            UNARY: grpc.unary_unary_rpc_method_handler(self.answer),
            SERVER_STREAMING: grpc.unary_stream_rpc_method_handler(lambda *call: iter([self.answer(*call)])),
            CLIENT_STREAMING: grpc.stream_unary_rpc_method_handler(answer_all),
            BIDI: grpc.stream_stream_rpc_method_handler(lambda *call: iter([answer_all(*call)])),
        }
        return {path.rpartition("/")[2]: handler for path, handler in made.items()}


@asynccontextmanager
async def planned_server() -> AsyncIterator[PlannedServer]:
    with ThreadPoolExecutor(4) as workers:
        server, planned = grpc.server(workers), PlannedServer()
        planned.port = server.add_insecure_port("127.0.0.1:0")
        service = UNARY.split("/")[1]
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, planned.handlers())])
        server.start()
        try:
            yield planned
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(server.stop(None).wait)


Result = tuple[list[tuple[str | None, bytes]], str]
Call = tuple[str, list[Answer]]

TEXTS = ["a", "b"]


def with_grpcio(server: PlannedServer, config: str, calls: list[Call]) -> list[Result]:
    results: list[Result] = []
    options = [("grpc.service_config", config)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        for path, plan in calls:
            server.plan, server.seen = list(plan), []
            texts = [text.encode() for text in TEXTS]
            try:
                if path == UNARY:
                    channel.unary_unary(path)(texts[0], timeout=PATIENCE)
                elif path == SERVER_STREAMING:
                    list(channel.unary_stream(path)(texts[0], timeout=PATIENCE))
                elif path == CLIENT_STREAMING:
                    channel.stream_unary(path)(iter(texts), timeout=PATIENCE)
                else:
                    list(channel.stream_stream(path)(iter(texts), timeout=PATIENCE))
                status = "OK"
            except grpc.RpcError as error:
                status = error.code().name
            results.append((server.seen, status))
    return results


async def with_ours(server: PlannedServer, config: str, calls: list[Call]) -> list[Result]:
    results: list[Result] = []
    async with Channel(f"127.0.0.1:{server.port}", options=options_from_service_config(config)) as channel:
        stub = ScriptStub(channel, timeout=PATIENCE)
        for path, plan in calls:
            server.plan, server.seen = list(plan), []
            notes = [Note(text) for text in TEXTS]
            try:
                if path == UNARY:
                    await stub.unary(notes[0])
                elif path == CLIENT_STREAMING:
                    await stub.client_streaming(notes)
                else:
                    answers = stub.server_streaming(notes[0]) if path == SERVER_STREAMING else stub.bidi(notes)
                    async with closing(answers) as replies:
                        _ = [reply async for reply in replies]
                status = "OK"
            except GRPCError as error:
                status = error.status.name
            results.append((server.seen, status))
    return results


def config(throttling: dict[str, float] | None = None, names: list[dict[str, str]] | None = None, **retry: Any) -> str:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
        **retry,
    }
    made: dict[str, Any] = {"methodConfig": [{"name": names or [{}], "retryPolicy": policy}]}
    if throttling is not None:
        made["retryThrottling"] = throttling
    return json.dumps(made)


DOWN, ABORTED, BROKEN = Answer("UNAVAILABLE"), Answer("ABORTED"), Answer("INTERNAL")
PLANS = {
    "success at once": [],
    "success at last": [DOWN, ABORTED, DOWN],
    "too many failures": [DOWN] * 9,
    "not retryable": [BROKEN],
    "not retryable in the end": [DOWN, BROKEN],
    "forbidden": [Answer("UNAVAILABLE", "-1")],
    "forbidden later": [DOWN, Answer("UNAVAILABLE", "-1")],
    "forbidden by nonsense": [Answer("UNAVAILABLE", "soon")],
    "told when": [Answer("UNAVAILABLE", "5"), Answer("ABORTED", "1")],
    "told when, but not retryable": [Answer("INTERNAL", "1")],
    "told when, but too often": [Answer("UNAVAILABLE", "1")] * 9,
    "the response has begun": [DOWN, Answer("UNAVAILABLE", begins=True)],
}


@pytest.mark.parametrize("path", [UNARY, SERVER_STREAMING, CLIENT_STREAMING, BIDI])
async def test_each_kind_of_call(path: str):
    calls = [(path, plan) for plan in PLANS.values()]
    async with planned_server() as server:
        theirs = await to_thread.run_sync(with_grpcio, server, config(), calls)
        ours = await with_ours(server, config(), calls)
    assert dict(zip(PLANS, ours, strict=True)) == dict(zip(PLANS, theirs, strict=True))
    sent = b"a" if path in (UNARY, SERVER_STREAMING) else b"ab"
    assert ours[1] == ([(None, sent), ("1", sent), ("2", sent), ("3", sent)], "OK")


@pytest.mark.parametrize(
    "made",
    [
        config(maxAttempts=9),
        config(maxAttempts=2),
        config(names=[{"service": "test.Script", "method": "Unary"}]),
        config(names=[{"service": "test.Script"}]),
        config(names=[{"service": "test.Script", "method": "Bidi"}]),
        config(names=[{"service": "test"}]),
        config(retryableStatusCodes=["INTERNAL"]),
    ],
)
async def test_configs(made: str):
    calls: list[Call] = [(UNARY, [DOWN] * 9), (UNARY, [BROKEN])]
    async with planned_server() as server:
        theirs = await to_thread.run_sync(with_grpcio, server, made, calls)
        assert await with_ours(server, made, calls) == theirs


@pytest.mark.parametrize(
    "throttling",
    [{"maxTokens": 4, "tokenRatio": 0.5}, {"maxTokens": 3, "tokenRatio": 1.0}, {"maxTokens": 10, "tokenRatio": 0.1}],
)
async def test_throttling(throttling: dict[str, float]):
    bad, good = [DOWN] * 9, list[Answer]()
    begun = [Answer("UNAVAILABLE", begins=True)]
    plans = [bad, bad, good, good, bad, begun, *[good] * 5, bad, [BROKEN], bad, [Answer("ABORTED", "-1")], bad]
    calls = [(UNARY, plan) for plan in plans]
    async with planned_server() as server:
        theirs = await to_thread.run_sync(with_grpcio, server, config(throttling), calls)
        assert await with_ours(server, config(throttling), calls) == theirs
