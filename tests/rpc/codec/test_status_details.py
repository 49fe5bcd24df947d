"""The details of a status, as google.rpc.Status."""

from __future__ import annotations

from base64 import b64decode
from contextlib import nullcontext
from typing import Any

import grpclib.events
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import StatusDetailsCodecBase

from connectrio.idl.flyteidl2.core import TaskLog
from connectrio.rpc import GRPCError, Server, current_call
from connectrio.rpc.codec import DecodeError, PackedMessage, StatusDetailsCodec, encode
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import HeaderList
from rpc.kit.playing import OK, RESPONSE, playing
from rpc.kit.script import UNARY, Note, Script, ScriptStub
from rpc.kit.serving import captured_logs

INFO = error_details_pb2.ErrorInfo(reason="QUOTA", domain="a.b", metadata={"k": "v"})
LINK = TaskLog(uri="https://x", name="log")
PACKED_LINK = PackedMessage("type.googleapis.com/flyteidl2.core.TaskLog", encode(LINK))


def packed(message: Any) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(message)
    return result


# encoding


@pytest.mark.parametrize(
    ("detail", "sent"),
    [
        (INFO, packed(INFO)),
        (packed(INFO), packed(INFO)),
        (LINK, any_pb2.Any(type_url=PACKED_LINK.type_url, value=PACKED_LINK.value)),
        (PACKED_LINK, any_pb2.Any(type_url=PACKED_LINK.type_url, value=PACKED_LINK.value)),
    ],
    ids=["protobuf's", "protobuf's Any", "betterproto2's", "ours"],
)
def test_details_are_packed_once(detail: Any, sent: any_pb2.Any):
    data = StatusDetailsCodec().encode(Status.ABORTED, "why ü", [detail])
    assert status_pb2.Status.FromString(data) == status_pb2.Status(code=10, message="why ü", details=[sent])


def test_a_status_without_a_message():
    data = StatusDetailsCodec().encode(Status.ABORTED, None, [])
    assert status_pb2.Status.FromString(data) == status_pb2.Status(code=10)


@pytest.mark.parametrize("detail", ["text", PACKED_LINK.value, Note("x"), None])
def test_what_is_no_message_is_refused(detail: Any):
    with pytest.raises(TypeError, match=f"{type(detail).__name__} cannot be a detail of a status"):
        StatusDetailsCodec().encode(Status.ABORTED, "", [detail])


def test_a_class_without_a_name_is_refused():
    with pytest.raises(TypeError, match=r"kit\.script\.Note cannot be a detail of a status"):
        StatusDetailsCodec([Note])


# decoding


def decoded(codec: StatusDetailsCodec, *details: any_pb2.Any) -> list[Any]:
    status = status_pb2.Status(code=10, message="why", details=details)
    return codec.decode(Status.ABORTED, "why", status.SerializeToString())


def test_known_types_are_unpacked_and_others_stay():
    codec = StatusDetailsCodec([error_details_pb2.ErrorInfo, TaskLog])
    retry = error_details_pb2.RetryInfo(retry_delay={"seconds": 5})
    link = any_pb2.Any(type_url="elsewhere.example/flyteidl2.core.TaskLog", value=PACKED_LINK.value)
    assert decoded(codec, packed(INFO), packed(retry), link) == [
        INFO,
        PackedMessage("type.googleapis.com/google.rpc.RetryInfo", retry.SerializeToString()),
        LINK,
    ]


@pytest.mark.parametrize("name", ["google.rpc.ErrorInfo", "flyteidl2.core.TaskLog"])
def test_a_detail_that_is_not_what_its_name_says_stays(name: str):
    codec = StatusDetailsCodec([error_details_pb2.ErrorInfo, TaskLog])
    assert decoded(codec, any_pb2.Any(type_url=f"x/{name}", value=b"\xff")) == [PackedMessage(f"x/{name}", b"\xff")]


def test_what_is_no_status_is_refused():
    with pytest.raises(DecodeError):
        StatusDetailsCodec().decode(Status.ABORTED, None, b"\xff")


# what grpc-go 1.85 sent for `status.New(codes.ResourceExhausted, "tröuble").WithDetails(…)`
FROM_GO = (
    "CAgSCHRyw7Z1YmxlGkAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5FcnJvckluZm8SFAoFUVVPVEESA2EuYhoGCgFrEgF2GjYKKHR5"
    "cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SCgoICAEQgMq17gE"
)
DETAILS_FROM_GO = [INFO, error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000})]


def test_details_of_grpc_go():
    codec = StatusDetailsCodec([error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo])
    data = b64decode(FROM_GO + "=")
    assert codec.decode(Status.RESOURCE_EXHAUSTED, "tröuble", data) == DETAILS_FROM_GO
    assert codec.encode(Status.RESOURCE_EXHAUSTED, "tröuble", DETAILS_FROM_GO) == data


# over a channel


@pytest.mark.parametrize("begun", [False, True], ids=["alone", "in trailers"])
async def test_details_reach_the_caller(begun: bool):
    async def method(stream):
        if begun:
            await stream.send_initial_metadata()
        raise GRPCError(Status.ABORTED, "why", [INFO, LINK])

    server = Server([Script(method)], status_details_codec=StatusDetailsCodec())
    codec = StatusDetailsCodec([error_details_pb2.ErrorInfo])
    async with memory_channel(server, status_details_codec=codec) as channel:
        for _ in range(2):
            with pytest.raises(GRPCError) as caught:
                await ScriptStub(channel).unary(Note())
            assert (caught.value.status, caught.value.message) == (Status.ABORTED, "why")
            assert caught.value.details == [INFO, PACKED_LINK]


async def test_details_are_told_again_and_to_listeners():
    async def method(stream):
        raise GRPCError(Status.ABORTED, "why", [INFO])

    async def listen(event: grpclib.events.RecvTrailingMetadata) -> None:
        heard.append(event.status_details)

    heard: list[Any] = []
    codec = StatusDetailsCodec([error_details_pb2.ErrorInfo])
    async with memory_channel(
        Server([Script(method)], status_details_codec=codec), status_details_codec=codec
    ) as channel:
        grpclib.events.listen(channel, grpclib.events.RecvTrailingMetadata, listen)
        async with channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note) as call:
            await call.send_message(Note())
            for receive in call.recv_message, call.recv_message, call.recv_trailing_metadata:
                with pytest.raises(GRPCError) as caught:
                    await receive()
                assert caught.value.details == [INFO]
    assert heard == [[INFO]]


class Failing(StatusDetailsCodecBase):
    """A codec of somebody's that fails."""

    def encode(self, status, message, details):
        raise NotImplementedError

    def decode(self, status, message, data):
        raise LookupError("no such details")


@pytest.mark.parametrize(
    ("codec", "value", "warnings"),
    [
        (None, FROM_GO, 0),
        (StatusDetailsCodec(), "not base64!", 1),
        (StatusDetailsCodec(), "/w", 1),
        (Failing(), FROM_GO, 1),
    ],
    ids=["no codec", "no base64", "no status", "codec fails"],
)
async def test_a_status_is_not_lost_with_its_details(codec: Any, value: str, warnings: int):
    async def call_answered_with(*blocks: HeaderList) -> GRPCError:
        async with playing(channel={"status_details_codec": codec}) as played:
            peer = await played.connected()
            call = await played.called()
            for block in blocks:
                await peer.send(peer.make.headers(1, block, end_stream=block is blocks[-1]))
            await call.ended.wait()
            assert isinstance(call.error, GRPCError)
            return call.error

    trailers = [("grpc-status", "8"), ("grpc-message", "why"), ("grpc-status-details-bin", value)]
    for blocks in [RESPONSE, trailers], [[*RESPONSE, *trailers]]:
        with captured_logs() as logs:
            error = await call_answered_with(*blocks)
        assert (error.status, error.message, error.details) == (Status.RESOURCE_EXHAUSTED, "why", None)
        assert [line["log_level"] for line in logs if "details" in line["event"]] == ["warning"] * warnings


# trailing metadata

PAIRS = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-raw-bin", b"\0\xff"), ("x-raw-bin", b"")]


@pytest.mark.parametrize("how", ["alone", "in trailers", "with a message"])
async def test_all_trailing_metadata_reaches_the_caller(how: str):
    async def method(stream):
        current_call().set_trailing_metadata(PAIRS)
        if how == "in trailers":
            await stream.send_initial_metadata()
        if how != "with a message":
            raise GRPCError(Status.ABORTED)
        await stream.send_message(Note())

    async with memory_channel(Server([Script(method)])) as channel:
        call = channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note)
        with nullcontext() if how == "with a message" else pytest.raises(GRPCError):
            async with call:
                await call.send_message(Note())
                await call.recv_message()
        assert list(call.trailing_metadata.items()) == PAIRS


async def test_of_trailers_only_the_reserved_names_are_kept_back():
    async with playing() as played:
        peer = await played.connected()
        async with played.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note) as call:
            await call.send_message(Note())
            await peer.whole(1)
            sent = [("x-a", "1"), ("te", "x"), ("user-agent", "me"), ("x-raw-bin", "AP8,Yg"), ("grpc-new", "x")]
            await peer.send(
                peer.make.headers(1, RESPONSE),
                peer.make.message(1, b""),
                peer.make.headers(1, [*OK, *sent], end_stream=True),
            )
            await call.recv_message()
            await call.recv_trailing_metadata()
        assert list(call.trailing_metadata.items()) == [
            ("x-a", "1"),
            ("te", "x"),
            ("user-agent", "me"),
            ("x-raw-bin", b"\0\xff"),
            ("x-raw-bin", b"b"),
        ]
