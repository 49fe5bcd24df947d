"""Server reflection (grpc.reflection.v1 and v1alpha): what grpcurl and its like ask, to call without .proto files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import anyio
import betterproto2
import grpclib.server
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from connectrio.idl.grpc.reflection.v1 import (
    ErrorResponse,
    ExtensionNumberResponse,
    ExtensionRequest,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from connectrio.rpc._descriptors import Descriptors, UnknownNameError, split_file_set

if TYPE_CHECKING:
    from connectrio.rpc._server.server import Servicer

__all__ = ["Reflection", "bundled_descriptors", "service_names"]

# The messages of both are the same on the wire, so that v1's classes serve v1alpha as well.
_OWN_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_OWN_PROTOS = "grpc/"

_Stream = grpclib.server.Stream[ServerReflectionRequest, ServerReflectionResponse]


def service_names(servicers: Iterable[Servicer]) -> list[str]:
    """The full names of the services that `servicers` are."""
    paths = (path for servicer in servicers for path in servicer.__mapping__())
    return list(dict.fromkeys(path.split("/")[1] for path in paths))


def bundled_descriptors() -> bytes:
    """The encoded FileDescriptorSet of every .proto file that this package has stubs for."""
    return resources.files("connectrio.idl").joinpath("descriptors.binpb").read_bytes()


def _load(services: Iterable[str], descriptors: bytes | Callable[[], bytes]) -> Descriptors:
    encoded = descriptors() if callable(descriptors) else descriptors
    own = [file for name, file in split_file_set(bundled_descriptors()) if name.startswith(_OWN_PROTOS)]
    loaded = Descriptors([*(file for _, file in split_file_set(encoded)), *own])
    missing = [name for name in services if name not in loaded.services]
    if missing:
        raise ValueError(f"the descriptors lack {', '.join(missing)}: name its .proto file to protoc as well")
    return loaded


class Reflection:
    """The servicer that tells what a server serves, in both versions of the protocol.

        servicers = [Greeter(), Health()]
        server = Server([*servicers, Reflection(service_names(servicers), Path("greeter.binpb").read_bytes())])

    :param services: the full names of the services to list; reflection's own are added
    :param descriptors: an encoded FileDescriptorSet with what the services need, as `protoc --include_imports
        --descriptor_set_out=greeter.binpb greeter.proto` writes it. Health's and reflection's own may be missing. A
        function that returns one is called for the first request that needs it: for descriptors that are known to be
        right, and that few clients ask for
    :raises ValueError: the descriptors cannot be decoded, or lack a service or an imported file
    """

    def __init__(self, services: Iterable[str], descriptors: bytes | Callable[[], bytes] = b"") -> None:
        self._services = sorted({*services, *_OWN_SERVICES})
        self._descriptors = cache(partial(_load, self._services, descriptors))
        if not callable(descriptors):
            self._descriptors()  # what is wrong with them is told now
        self._waiting: set[anyio.CancelScope] = set()
        self._ended = False

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(
            self._answer_all, Cardinality.STREAM_STREAM, ServerReflectionRequest, ServerReflectionResponse
        )
        return {f"/{name}/ServerReflectionInfo": handler for name in _OWN_SERVICES}

    def end_streams(self) -> None:
        """End every stream with UNAVAILABLE: clients keep them open between requests, and would hold up a drain."""
        self._ended = True
        for scope in self._waiting:
            scope.cancel()

    async def _answer_all(self, stream: _Stream) -> None:
        while (request := await self._next_request(stream)) is not None:
            await stream.send_message(self._answer(request))

    async def _next_request(self, stream: _Stream) -> ServerReflectionRequest | None:
        if not self._ended:
            with anyio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    return await stream.recv_message()
                finally:
                    self._waiting.discard(scope)
        raise GRPCError(Status.UNAVAILABLE, "the server is shutting down")

    def _answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        response = partial(ServerReflectionResponse, valid_host=request.host, original_request=request)
        question, value = betterproto2.which_one_of(request, "message_request")
        try:
            return response(**self._find(question, value))
        except UnknownNameError as error:
            return response(error_response=_error(Status.NOT_FOUND, str(error)))

    def _find(self, question: str, value: Any) -> dict[str, Any]:
        """The field of the response that answers, and what to set it to.

        :raises UnknownNameError: there is no answer
        """
        match question:
            case "file_by_filename":
                return self._files(value)
            case "file_containing_symbol":
                return self._files(self._descriptors().file_of_symbol(value))
            case "file_containing_extension":
                return self._files_of_extension(value)
            case "all_extension_numbers_of_type":
                numbers = self._descriptors().extension_numbers(value)
                found = ExtensionNumberResponse(base_type_name=value, extension_number=numbers)
                return {"all_extension_numbers_response": found}
            case "list_services":
                services = [ServiceResponse(name=name) for name in self._services]
                return {"list_services_response": ListServiceResponse(service=services)}
            case _:
                return {
                    "error_response": _error(Status.INVALID_ARGUMENT, "the request asks nothing that is known here")
                }

    def _files(self, name: str) -> dict[str, Any]:
        files = self._descriptors().with_imports(name)
        return {"file_descriptor_response": FileDescriptorResponse(file_descriptor_proto=files)}

    def _files_of_extension(self, extension: ExtensionRequest) -> dict[str, Any]:
        return self._files(self._descriptors().file_of_extension(extension.containing_type, extension.extension_number))


def _error(status: Status, message: str) -> ErrorResponse:
    return ErrorResponse(error_code=status.value, error_message=message)
