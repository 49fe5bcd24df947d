"""grpc.aio with protobuf, and a servicer that only builds its answers. python grpcio_server.py PORT"""

import asyncio
import sys

import grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from flyteidl2.core import execution_pb2, literals_pb2
from flyteidl2.task import common_pb2


class Servicer(service_pb2_grpc.AsyncConnectorServiceServicer):
    async def CreateTask(self, request, context):
        if len(request.inputs.literals) != 6:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these are not the inputs that were sent")
        return connector_pb2.CreateTaskResponse(resource_meta=b'{"job_id": "0123456789abcdef"}')

    async def GetTask(self, request, context):
        rows = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=42)))
        return connector_pb2.GetTaskResponse(
            resource=connector_pb2.Resource(
                phase=execution_pb2.TaskExecution.SUCCEEDED,
                message="done",
                outputs=common_pb2.Outputs(literals=[common_pb2.NamedLiteral(name="rows", value=rows)]),
            )
        )


async def main():
    server = grpc.aio.server()
    service_pb2_grpc.add_AsyncConnectorServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
