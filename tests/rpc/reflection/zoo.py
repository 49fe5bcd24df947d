""".proto files with everything that reflection can be asked about, and functions that ask."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_tools import protoc
from grpclib.const import Cardinality

from connectrio.idl.grpc.reflection.v1 import ServerReflectionRequest as Request
from connectrio.idl.grpc.reflection.v1 import ServerReflectionResponse as Response
from connectrio.rpc import Channel

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
V1ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

# zoo.proto imports left and right, which both import bottom
FILES = {
    "zoo.proto": """
        syntax = "proto2";
        package zoo;
        import "side/left.proto";
        import "side/right.proto";
        message Animal {
          optional string name = 1;
          oneof home { string cage = 2; string pond = 3; }
          map<string, side.Left> friends = 4;
          enum Diet { GRASS = 0; MEAT = 1; }
          message Leg { optional int32 length = 1; message Toe { optional bool claw = 1; } }
          extensions 100 to 199;
          extend Animal { optional string colour = 150; }
        }
        enum Season { SUMMER = 0; WINTER = 1; }
        extend Animal { optional int32 legs = 100; optional side.Right keeper = 120; }
        service Keeper {
          rpc Feed(Animal) returns (side.Left);
          rpc Watch(stream Animal) returns (stream side.Right);
        }
    """,
    "side/left.proto": 'syntax = "proto3"; package side; import "bottom.proto"; message Left { Bottom bottom = 1; }',
    "side/right.proto": 'syntax = "proto3"; package side; import "bottom.proto"; message Right { Bottom bottom = 1; }',
    "bottom.proto": 'syntax = "proto3"; message Bottom { string text = 1; }',
    "alone.proto": 'syntax = "proto2"; import "zoo.proto"; extend zoo.Animal { optional bool wild = 199; }',
}


@cache
def descriptors(*options: str, only: str = "") -> bytes:
    """Return the FileDescriptorSet that protoc makes of these files, or of one of them."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in FILES.items():
            path = Path(directory, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        out = Path(directory, "out.binpb")
        names = [only] if only else list(FILES)
        assert protoc.main(["protoc", f"-I{directory}", f"--descriptor_set_out={out}", *options, *names]) == 0
        return out.read_bytes()


async def ask(channel: Channel, *requests: Request, method: str = V1) -> list[Response]:
    """Send the requests one after another on one stream; return the answers."""
    answers: list[Any] = []
    async with channel.request(method, Cardinality.STREAM_STREAM, Request, Response) as stream:
        await stream.send_request()
        for request in requests:
            await stream.send_message(request)
            answers.append(await stream.recv_message())
        await stream.end()
        assert await stream.recv_message() is None
    return answers


def file_names(response: Response) -> list[str]:
    """Return the names of the files in an answer."""
    assert response.file_descriptor_response is not None, response
    files = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file).name for file in files]
