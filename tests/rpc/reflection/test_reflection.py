"""Reflection's answer to each kind of request."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from flyteidl2.connector import connector_pb2, service_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

import connectrio.host.host
from connectrio.idl.grpc.health.v1 import HealthCheckRequest
from connectrio.idl.grpc.reflection.v1 import ExtensionRequest
from connectrio.rpc import Channel, Server
from connectrio.rpc.health import Health
from connectrio.rpc.reflection import Reflection, bundled_descriptors, service_names
from connectrio.rpc.testing import memory_channel
from rpc.reflection.zoo import V1, V1ALPHA, Request, Response, ask, descriptors, file_names

KEEPER = "zoo.Keeper"
OWN = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
NOT_FOUND = Status.NOT_FOUND.value
INVALID_ARGUMENT = Status.INVALID_ARGUMENT.value

in_both_versions = pytest.mark.parametrize("method", [V1, V1ALPHA])


@asynccontextmanager
async def reflecting(reflection: Reflection | None = None) -> AsyncIterator[Channel]:
    """A channel to a server that describes the zoo."""
    server = Server([reflection or Reflection([KEEPER], descriptors())])
    async with memory_channel(server) as channel:
        yield channel


async def answer(request: Request) -> Response:
    async with reflecting() as channel:
        [response] = await ask(channel, request)
        return response


def error_of(response: Response) -> tuple[int, str]:
    assert response.error_response is not None, response
    return response.error_response.error_code, response.error_response.error_message


# the services


@in_both_versions
async def test_the_services_are_listed_with_reflections_own(method: str):
    async with reflecting() as channel:
        [response] = await ask(channel, Request(list_services="*"), method=method)
        assert [service.name for service in response.list_services_response.service] == [*OWN, KEEPER]


async def test_the_text_of_the_question_for_services_means_nothing():
    response = await answer(Request(list_services=""))
    assert len(response.list_services_response.service) == 3


def test_the_names_of_servicers():
    assert service_names([Health(), Reflection([])]) == ["grpc.health.v1.Health", *OWN]


async def test_descriptors_lie_beside_the_stubs():
    async with reflecting(Reflection.of([Health(), Reflection([])])) as channel:
        [listed] = await ask(channel, Request(list_services="*"))
        assert [service.name for service in listed.list_services_response.service] == ["grpc.health.v1.Health", *OWN]
        [found] = await ask(channel, Request(file_containing_symbol="grpc.health.v1.Health"))
        assert file_names(found) == ["grpc/health/v1/health.proto"]


def servicer_of(request_type: type, service: str = KEEPER) -> types.SimpleNamespace:
    handler = Handler(None, Cardinality.UNARY_UNARY, request_type, request_type)
    return types.SimpleNamespace(__mapping__=lambda: {f"/{service}/Feed": handler})


async def test_protobufs_messages_know_their_descriptors():
    """Those of the file that declares the service, which is another one than theirs, and of its imports."""
    service = "flyteidl2.connector.AsyncConnectorService"
    async with reflecting(Reflection.of([servicer_of(connector_pb2.CreateTaskRequest, service)])) as channel:
        [found] = await ask(channel, Request(file_containing_symbol=service))
        assert file_names(found)[0] == service_pb2.DESCRIPTOR.name
        assert {"flyteidl2/connector/connector.proto", "google/protobuf/struct.proto"} <= set(file_names(found))


def test_stubs_without_descriptors_are_refused():
    with pytest.raises(ValueError, match=r"no descriptors.binpb in the package of \S*test_reflection: make the stubs"):
        Reflection.of([servicer_of(type("Animal", (), {"__module__": __name__}))])


@pytest.mark.parametrize("message", [HealthCheckRequest, connector_pb2.CreateTaskRequest])
def test_descriptors_of_other_services_are_refused(message: type):
    with pytest.raises(ValueError, match=r"the descriptors lack zoo\.Keeper"):
        Reflection.of([servicer_of(message)])


# files


@in_both_versions
async def test_a_file_comes_first_and_all_that_it_imports_once(method: str):
    async with reflecting() as channel:
        [response] = await ask(channel, Request(file_by_filename="zoo.proto"), method=method)
        names = file_names(response)
        assert names[0] == "zoo.proto"
        assert sorted(names) == ["bottom.proto", "side/left.proto", "side/right.proto", "zoo.proto"]


async def test_a_file_is_what_protoc_wrote_to_the_byte():
    response = await answer(Request(file_by_filename="bottom.proto"))
    expected = [file for file in FileDescriptorSet.FromString(descriptors()).file if file.name == "bottom.proto"]
    assert response.file_descriptor_response.file_descriptor_proto == [expected[0].SerializeToString()]


@pytest.mark.parametrize("name", ["", "nowhere.proto", "/zoo.proto", "side\\left.proto"])
async def test_an_unknown_file(name: str):
    assert error_of(await answer(Request(file_by_filename=name))) == (NOT_FOUND, f"unknown file {name!r}")


# names


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("zoo.Keeper", "zoo.proto"),
        ("zoo.Keeper.Feed", "zoo.proto"),
        ("zoo.Animal", "zoo.proto"),
        ("zoo.Animal.name", "zoo.proto"),
        ("zoo.Animal.home", "zoo.proto"),
        ("zoo.Animal.FriendsEntry.value", "zoo.proto"),
        ("zoo.Animal.Leg.Toe", "zoo.proto"),
        ("zoo.Animal.Leg.Toe.claw", "zoo.proto"),
        ("zoo.Animal.Diet", "zoo.proto"),
        ("zoo.Animal.MEAT", "zoo.proto"),
        ("zoo.Animal.Diet.MEAT", "zoo.proto"),
        ("zoo.Animal.colour", "zoo.proto"),
        ("zoo.Season", "zoo.proto"),
        ("zoo.WINTER", "zoo.proto"),
        ("zoo.Season.WINTER", "zoo.proto"),
        ("zoo.legs", "zoo.proto"),
        ("side.Left", "side/left.proto"),
        ("Bottom", "bottom.proto"),
        ("Bottom.text", "bottom.proto"),
        ("wild", "alone.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ErrorResponse.error_code", "grpc/reflection/v1alpha/reflection.proto"),
        ("grpc.health.v1.Health.Check", "grpc/health/v1/health.proto"),
    ],
)
async def test_the_file_of_a_symbol(symbol: str, file: str):
    assert file_names(await answer(Request(file_containing_symbol=symbol)))[0] == file


@pytest.mark.parametrize("symbol", ["", ".zoo.Animal", "zoo", "Animal", "zoo.Keeper/Feed", "zoo.animal", "é" * 1000])
async def test_an_unknown_symbol(symbol: str):
    response = await answer(Request(file_containing_symbol=symbol))
    assert error_of(response) == (NOT_FOUND, f"unknown symbol {symbol!r}")


# extensions


@pytest.mark.parametrize(
    ("number", "file"), [(100, "zoo.proto"), (120, "zoo.proto"), (150, "zoo.proto"), (199, "alone.proto")]
)
async def test_the_file_of_an_extension(number: int, file: str):
    extension = ExtensionRequest(containing_type="zoo.Animal", extension_number=number)
    assert file_names(await answer(Request(file_containing_extension=extension)))[0] == file


@pytest.mark.parametrize(("name", "number"), [("zoo.Animal", 101), ("zoo.Nobody", 100), (".zoo.Animal", 100), ("", 0)])
async def test_an_unknown_extension(name: str, number: int):
    extension = ExtensionRequest(containing_type=name, extension_number=number)
    response = await answer(Request(file_containing_extension=extension))
    assert error_of(response) == (NOT_FOUND, f"unknown extension {number} of {name!r}")


@pytest.mark.parametrize(("name", "numbers"), [("zoo.Animal", [100, 120, 150, 199]), ("zoo.Animal.Leg", [])])
async def test_the_numbers_of_a_messages_extensions(name: str, numbers: list[int]):
    response = (await answer(Request(all_extension_numbers_of_type=name))).all_extension_numbers_response
    assert response.base_type_name == name
    assert response.extension_number == numbers


@pytest.mark.parametrize("name", ["zoo.Nobody", "zoo.Keeper", "zoo.Season", ""])
async def test_extension_numbers_of_what_is_no_message(name: str):
    response = await answer(Request(all_extension_numbers_of_type=name))
    assert error_of(response) == (NOT_FOUND, f"unknown message {name!r}")


# the stream


@in_both_versions
async def test_an_error_is_an_answer_and_the_stream_goes_on(method: str):
    requests = [
        Request(file_containing_symbol="zoo.Nobody"),
        Request(),
        Request(file_containing_symbol="zoo.Animal"),
    ]
    async with reflecting() as channel:
        unknown, unset, known = await ask(channel, *requests, method=method)
        assert error_of(unknown)[0] == NOT_FOUND
        assert error_of(unset)[0] == INVALID_ARGUMENT
        assert file_names(known)[0] == "zoo.proto"


@pytest.mark.parametrize(
    "request_",
    [
        Request(host="here", list_services=""),
        Request(host="here", file_by_filename="zoo.proto"),
        Request(host="here", file_containing_symbol="nobody"),
        Request(host="here"),
        Request(),
    ],
)
async def test_the_host_and_the_request_are_echoed(request_: Request):
    response = await answer(request_)
    assert response.valid_host == request_.host
    assert response.original_request == request_


async def test_what_an_earlier_answer_had_is_sent_again():
    """So that clients need not remember."""
    async with reflecting() as channel:
        one, other = await ask(channel, *[Request(file_containing_symbol="zoo.Animal")] * 2)
        assert file_names(one) == file_names(other)


async def test_a_client_that_asks_nothing():
    async with reflecting() as channel:
        assert await ask(channel) == []


async def test_streams_that_wait_are_ended_and_new_ones_refused():
    reflection = Reflection([KEEPER], descriptors())
    answered, ended = anyio.Event(), anyio.Event()

    async def keep_a_stream() -> None:
        async with channel.request(V1, Cardinality.STREAM_STREAM, Request, Response) as stream:
            await stream.send_message(Request(list_services=""))
            await stream.recv_message()
            answered.set()
            with pytest.raises(GRPCError, match="shutting down") as raised:
                await stream.recv_message() or await stream.recv_trailing_metadata()
            assert raised.value.status is Status.UNAVAILABLE
            ended.set()

    async with reflecting(reflection) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(keep_a_stream)
        await answered.wait()
        reflection.end_streams()
        await ended.wait()
        with pytest.raises(GRPCError, match="shutting down"):
            await ask(channel, Request(list_services=""))


# a server's own descriptors


def test_without_any_it_tells_of_health_and_itself():
    reflection = Reflection(["grpc.health.v1.Health"])
    assert f"/{OWN[0]}/ServerReflectionInfo" in reflection.__mapping__()


async def test_descriptors_from_a_function_are_read_once_when_they_are_needed():
    read = []

    def count() -> bytes:
        read.append(True)
        return descriptors()

    async with reflecting(Reflection([KEEPER], count)) as channel:
        await ask(channel, Request(list_services=""))
        assert read == []
        for _ in range(2):
            [response] = await ask(channel, Request(file_by_filename="zoo.proto"))
            assert file_names(response)[0] == "zoo.proto"
    assert read == [True]


def test_the_descriptors_of_a_host_have_its_services():
    """They are not checked when a host starts."""
    Reflection(filter(None, connectrio.host.host._HEALTH_NAMES), bundled_descriptors())


def test_a_service_that_the_descriptors_lack_is_an_error_at_once():
    with pytest.raises(ValueError, match=r"the descriptors lack zoo\.Aviary, zoo\.Pond: "):
        Reflection(["zoo.Pond", KEEPER, "zoo.Aviary"], descriptors())


def test_an_imported_file_that_is_missing_is_an_error_at_once():
    alone = descriptors(only="zoo.proto")
    with pytest.raises(ValueError, match=r"zoo.proto imports side/left.proto, side/right.proto: .* --include_imports"):
        Reflection([KEEPER], alone)
    Reflection([KEEPER], descriptors("--include_imports", only="zoo.proto"))


@pytest.mark.parametrize("junk", [b"junk", b"\xff" * 20, descriptors()[:-1], descriptors()[1:]])
def test_what_is_no_descriptor_set_is_an_error_at_once(junk: bytes):
    with pytest.raises(ValueError, match="not a FileDescriptorSet, as protoc --descriptor_set_out writes it"):
        Reflection([], junk)


async def test_a_servers_own_copy_of_a_bundled_file_counts():
    mine = FileDescriptorSet.FromString(bundled_descriptors())
    [health] = [file for file in mine.file if file.name == "grpc/health/v1/health.proto"]
    health.options.java_package = "mine"
    reflection = Reflection(["grpc.health.v1.Health"], FileDescriptorSet(file=[health]).SerializeToString())
    async with reflecting(reflection) as channel:
        [response] = await ask(channel, Request(file_by_filename="grpc/health/v1/health.proto"))
        assert response.file_descriptor_response.file_descriptor_proto == [health.SerializeToString()]


async def test_nothing_of_the_host_is_told_by_a_server_that_does_not_serve_it():
    assert error_of(await answer(Request(file_containing_symbol="flyteidl2.core.Literal")))[0] == NOT_FOUND
