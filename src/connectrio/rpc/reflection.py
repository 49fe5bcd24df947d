"""Server reflection (grpc.reflection.v1 and v1alpha), which lets clients such as grpcurl call without .proto files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import anyio
import betterproto2
import grpclib.server
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from connectrio.idl.grpc.reflection.v1 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from connectrio.rpc._codec.descriptors import Descriptors, UnknownNameError, split_file_set
from connectrio.rpc.codec import encode_field

if TYPE_CHECKING:
    from connectrio.rpc._server.server import Servicer

__all__ = ["Reflection", "bundled_descriptors", "service_names"]

# Both versions have the same messages on the wire, so v1's classes serve v1alpha too.
_OWN_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_OWN_PROTOS = "grpc/"
_DESCRIPTORS = "descriptors.binpb"

_Stream = grpclib.server.Stream[ServerReflectionRequest, ServerReflectionResponse]


def service_names(servicers: Iterable[Servicer]) -> list[str]:
    """Return the full names of the services that `servicers` implement."""
    paths = (path for servicer in servicers for path in servicer.__mapping__())
    return list(dict.fromkeys(path.split("/")[1] for path in paths))


def bundled_descriptors() -> bytes:
    """Return an encoded FileDescriptorSet of all .proto files that this package has stubs for."""
    return resources.files("connectrio.idl").joinpath(_DESCRIPTORS).read_bytes()


def _load(services: Iterable[str], descriptors: bytes | Callable[[], bytes]) -> Descriptors:
    encoded = descriptors() if callable(descriptors) else descriptors
    own = [file for name, file in split_file_set(bundled_descriptors()) if name.startswith(_OWN_PROTOS)]
    loaded = Descriptors([*(file for _, file in split_file_set(encoded)), *own])
    missing = [name for name in services if name not in loaded.services]
    if missing:
        raise ValueError(f"the descriptors lack {', '.join(missing)}: name its .proto file to protoc as well")
    return loaded


def _descriptors_of(service: str, message: type[Any]) -> bytes:
    """Return descriptors that have `service`, found by the class of one of its messages.

    protobuf's classes know them; for betterproto2's, `connectrio rpc gen` writes a file into the package of the stubs.
    """
    if hasattr(message, "DESCRIPTOR"):
        return _descriptors_of_protobuf(service, message.DESCRIPTOR.file)
    package = message.__module__
    while package:
        # a module that is no package (`__main__`) has no files
        if hasattr(sys.modules.get(package), "__path__"):
            file = resources.files(package).joinpath(_DESCRIPTORS)
            if file.is_file():
                return file.read_bytes()
        package = package.rpartition(".")[0]
    raise ValueError(
        f"no {_DESCRIPTORS} in the package of {message.__module__}: make the stubs with `connectrio rpc gen`, or give"
        " Reflection the descriptors that protoc writes"
    )


def _descriptors_of_protobuf(service: str, file: Any) -> bytes:
    """Return an encoded FileDescriptorSet of the file that declares `service`, and of all that it imports.

    :param file: protobuf's descriptor of a file in the same pool
    """
    with contextlib.suppress(KeyError):  # then the file has to do, and is checked
        file = file.pool.FindFileContainingSymbol(service)
    found = {file.name: file}
    todo = [file]
    while todo:
        new = [each for each in todo.pop().dependencies if each.name not in found]
        found.update({each.name: each for each in new})
        todo += new
    return b"".join(encode_field(1, each.serialized_pb) for each in found.values())


class Reflection:
    """The servicer that describes the services of a server, so that tools such as grpcurl need no .proto file.

    It answers both versions of the protocol, v1 and v1alpha.

    For stubs that `connectrio rpc gen` has made, and for grpclib's, use `of`:

        servicers = [Greeter(), Health()]
        server = Server([*servicers, Reflection.of(servicers)])

    For other stubs, pass the descriptors:

        reflection = Reflection(service_names(servicers), Path("greeter.binpb").read_bytes())

    :param services: the full names of the services to list; reflection's own are added
    :param descriptors: an encoded FileDescriptorSet of the services, as `protoc --include_imports
        --descriptor_set_out=greeter.binpb greeter.proto` writes it; it need not contain health's and reflection's own.
        Or a function that returns one: it is called for the first request that needs it, and its result is not
        checked before
    :raises ValueError: the descriptors cannot be decoded, or lack a service or an imported file
    """

    def __init__(self, services: Iterable[str], descriptors: bytes | Callable[[], bytes] = b"") -> None:
        self._services = sorted({*services, *_OWN_SERVICES})
        self._descriptors = cache(partial(_load, self._services, descriptors))
        if not callable(descriptors):
            self._descriptors()  # check them now
        self._receive_scopes: set[anyio.CancelScope] = set()
        self._ended = False

    @classmethod
    def of(cls, servicers: Iterable[Servicer]) -> Self:
        """Return the reflection of `servicers`, with the descriptors that their stubs come with.

        These are stubs that `connectrio rpc gen` has made, or grpclib's with protobuf's messages.

        :param servicers: all that the server is to list, `Health` too
        :raises ValueError: the stubs of one have no descriptors, or these are without its service
        """
        mapping = {path: handler for each in servicers for path, handler in each.__mapping__().items()}
        messages = {path.split("/")[1]: handler.request_type for path, handler in mapping.items()}
        # by protobuf's encoding, two sets one after the other are one set
        return cls(messages, b"".join(_descriptors_of(*each) for each in messages.items()))

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(
            self._answer_all, Cardinality.STREAM_STREAM, ServerReflectionRequest, ServerReflectionResponse
        )
        return {f"/{name}/ServerReflectionInfo": handler for name in _OWN_SERVICES}

    def end_streams(self) -> None:
        """End every stream with UNAVAILABLE: clients keep streams open between requests, which would delay a drain."""
        self._ended = True
        for scope in self._receive_scopes:
            scope.cancel()

    async def _answer_all(self, stream: _Stream) -> None:
        while (request := await self._next_request(stream)) is not None:
            await stream.send_message(self._answer(request))

    async def _next_request(self, stream: _Stream) -> ServerReflectionRequest | None:
        if not self._ended:
            with anyio.CancelScope() as scope:
                self._receive_scopes.add(scope)
                try:
                    return await stream.recv_message()
                finally:
                    self._receive_scopes.discard(scope)
        raise GRPCError(Status.UNAVAILABLE, "the server is shutting down")

    def _answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        try:
            found = self._find(*betterproto2.which_one_of(request, "message_request"))
        except UnknownNameError as error:
            found = _error(Status.NOT_FOUND, str(error))
        return ServerReflectionResponse(valid_host=request.host, original_request=request, **found)

    def _find(self, question: str, value: Any) -> dict[str, Any]:
        """Return the field of the response that answers a question, and its value.

        :raises UnknownNameError: there is no answer
        """
        match question:
            case "file_by_filename":
                return self._files(value)
            case "file_containing_symbol":
                return self._files(self._descriptors().file_of_symbol(value))
            case "file_containing_extension":
                file = self._descriptors().file_of_extension(value.containing_type, value.extension_number)
                return self._files(file)
            case "all_extension_numbers_of_type":
                numbers = self._descriptors().extension_numbers(value)
                found = ExtensionNumberResponse(base_type_name=value, extension_number=numbers)
                return {"all_extension_numbers_response": found}
            case "list_services":
                services = [ServiceResponse(name=name) for name in self._services]
                return {"list_services_response": ListServiceResponse(service=services)}
            case _:
                return _error(Status.INVALID_ARGUMENT, "this server does not know that kind of request")

    def _files(self, name: str) -> dict[str, Any]:
        files = self._descriptors().with_imports(name)
        return {"file_descriptor_response": FileDescriptorResponse(file_descriptor_proto=files)}


def _error(status: Status, message: str) -> dict[str, Any]:
    return {"error_response": ErrorResponse(error_code=status.value, error_message=message)}
