"""purerpc with protobuf and the bare servicer. python purerpc_server.py PORT asyncio|uvloop|trio"""

import sys

import anyio
from flyteidl2.connector.connector_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    GetTaskRequest,
    GetTaskResponse,
    Resource,
)
from flyteidl2.core.execution_pb2 import TaskExecution
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl2.task.common_pb2 import NamedLiteral, Outputs
from purerpc import Server, Service

service = Service("flyteidl2.connector.AsyncConnectorService")


@service.rpc("CreateTask")
async def create_task(message: CreateTaskRequest) -> CreateTaskResponse:
    if len(message.inputs.literals) != 6:
        raise ValueError("these are not the inputs that were sent")
    return CreateTaskResponse(resource_meta=b'{"job_id": "0123456789abcdef"}')


@service.rpc("GetTask")
async def get_task(message: GetTaskRequest) -> GetTaskResponse:
    rows = Literal(scalar=Scalar(primitive=Primitive(integer=42)))
    return GetTaskResponse(
        resource=Resource(
            phase=TaskExecution.SUCCEEDED,
            message="done",
            outputs=Outputs(literals=[NamedLiteral(name="rows", value=rows)]),
        )
    )


async def main():
    server = Server(port=int(sys.argv[1]))
    server.add_service(service)
    await server.serve_async()


backend, options = sys.argv[2], {}
if backend == "uvloop":
    backend, options = "asyncio", {"use_uvloop": True}
anyio.run(main, backend=backend, backend_options=options)
