"""The bare servicer with this project's stubs: it only builds its answers."""

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceBase,
    CreateTaskResponse,
    GetTaskResponse,
    Resource,
)
from connectrio.idl.flyteidl2.core import Literal, Primitive, Scalar, TaskExecutionPhase
from connectrio.idl.flyteidl2.task import NamedLiteral, Outputs


class BareServicer(AsyncConnectorServiceBase):
    async def create_task(self, message):
        if len(message.inputs.literals) != 6:
            raise GRPCError(Status.INVALID_ARGUMENT, "these are not the inputs that were sent")
        return CreateTaskResponse(resource_meta=b'{"job_id": "0123456789abcdef"}')

    async def get_task(self, message):
        rows = Literal(scalar=Scalar(primitive=Primitive(integer=42)))
        return GetTaskResponse(
            resource=Resource(
                phase=TaskExecutionPhase.SUCCEEDED,
                message="done",
                outputs=Outputs(literals=[NamedLiteral(name="rows", value=rows)]),
            )
        )
