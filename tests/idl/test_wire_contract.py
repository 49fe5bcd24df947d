"""The .proto files of this project mean on the wire what Flyte's and gRPC's own do."""

from __future__ import annotations

import importlib
import shutil

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpclib.const import Cardinality

from connectrio.idl.flyteidl.service import AgentMetadataServiceBase, AsyncAgentServiceBase, SyncAgentServiceBase
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceBase, ConnectorMetadataServiceBase
from connectrio.idl.grpc.health.v1 import HealthBase
from idl.wire_contract import PUBLISHED, compare, newer_than_the_wheel, published_facts
from idl.wire_facts import MISSING, PROTOS, parse_protos


def test_our_protos_agree_with_the_published_ones():
    found = compare(parse_protos())
    lines = [f"{name}: ours is {ours}; theirs is {theirs}" for name, (ours, theirs) in found.items()]
    assert not found, "\n".join([f"{len(found)} differences:", *lines])


def test_what_newer_releases_added_is_absent_from_the_wheel():
    """No entry of ADDED overwrites what the installed wheel says itself."""
    assert not newer_than_the_wheel().keys() & published_facts("flyteidl2").keys()


def test_the_comparison_covers_what_a_call_can_carry():
    """So many facts that an empty or a cut-off comparison would be noticed, and some that are easily left out."""
    facts = published_facts("flyteidl2")
    assert len(facts) > 500
    assert facts["flyteidl2.core.Literal"] == "a message, reserved numbers [(6, 6), (7, 7)], reserved names []"
    assert facts["flyteidl2.core.Literal.MetadataEntry.value"] == 'field 2: string, singular, json "value"'
    assert facts["flyteidl2.core.Backoff.factor"] == 'field 2: double, optional, json "factor"'
    assert facts["flyteidl2.core.TaskExecution.Phase.RETRYABLE_FAILED"] == "value 8"
    assert facts["flyteidl2.core.TaskLog.ShowWhilePending"] == 'field 5: bool, singular, json "ShowWhilePending"'
    assert "google.protobuf.ListValue.values" in facts
    assert "grpc.health.v1.Health/List" in published_facts("grpc.health")


CONNECTOR = "flyteidl2/connector/connector.proto"
SERVICE = "flyteidl2/connector/service.proto"
LITERALS = "flyteidl2/core/literals.proto"
EXECUTION = "flyteidl2/core/execution.proto"
SECURITY = "flyteidl2/core/security.proto"
TASKS = "flyteidl2/core/tasks.proto"
HEALTH = "grpc/health/v1/health.proto"

NOTHING_RESERVED = "reserved numbers [], reserved names []"

# One change to a .proto file each, and all that the comparison must say about it: file, old, new, differences.
DOCTORED = {
    "a changed number": (
        LITERALS,
        "string hash = 4;",
        "string hash = 12;",
        {
            "flyteidl2.core.Literal.hash": (
                'field 12: string, singular, json "hash"',
                'field 4: string, singular, json "hash"',
            )
        },
    ),
    "a changed name": (
        LITERALS,
        "string hash = 4;",
        "string digest = 4;",
        {
            "flyteidl2.core.Literal.digest": ('field 4: string, singular, json "digest"', MISSING),
            "flyteidl2.core.Literal.hash": (MISSING, 'field 4: string, singular, json "hash"'),
        },
    ),
    "a changed json name": (
        EXECUTION,
        "string icon_uri = 9;",
        'string icon_uri = 9 [json_name = "icon"];',
        {
            "flyteidl2.core.TaskLog.icon_uri": (
                'field 9: string, singular, json "icon"',
                'field 9: string, singular, json "iconUri"',
            )
        },
    ),
    "a changed type": (
        CONNECTOR,
        "int32 version = 2;",
        "int64 version = 2;",
        {
            "flyteidl2.connector.TaskCategory.version": (
                'field 2: int64, singular, json "version"',
                'field 2: int32, singular, json "version"',
            )
        },
    ),
    "another enum": (
        CONNECTOR,
        "flyteidl2.core.TaskExecution.Phase phase = 5;",
        "flyteidl2.core.WorkerKind phase = 5;",
        {
            "flyteidl2.connector.Resource.phase": (
                'field 5: enum flyteidl2.core.WorkerKind, singular, json "phase"',
                'field 5: enum flyteidl2.core.TaskExecution.Phase, singular, json "phase"',
            )
        },
    ),
    "a field repeated": (
        CONNECTOR,
        "int32 version = 2;",
        "repeated int32 version = 2;",
        {
            "flyteidl2.connector.TaskCategory.version": (
                'field 2: int32, packed, json "version"',
                'field 2: int32, singular, json "version"',
            )
        },
    ),
    "a field repeated, not packed": (
        CONNECTOR,
        "int32 version = 2;",
        "repeated int32 version = 2 [packed = false];",
        {
            "flyteidl2.connector.TaskCategory.version": (
                'field 2: int32, repeated, json "version"',
                'field 2: int32, singular, json "version"',
            )
        },
    ),
    "a dropped oneof": (
        CONNECTOR,
        "oneof part {\n    GetTaskLogsResponseHeader header = 1;\n    GetTaskLogsResponseBody body = 2;\n  }",
        "GetTaskLogsResponseHeader header = 1;\n  GetTaskLogsResponseBody body = 2;",
        {
            "flyteidl2.connector.GetTaskLogsResponse.body": (
                'field 2: message flyteidl2.connector.GetTaskLogsResponseBody, singular with presence, json "body"',
                'field 2: message flyteidl2.connector.GetTaskLogsResponseBody, in oneof part, json "body"',
            ),
            "flyteidl2.connector.GetTaskLogsResponse.header": (
                'field 1: message flyteidl2.connector.GetTaskLogsResponseHeader, singular with presence, json "header"',
                'field 1: message flyteidl2.connector.GetTaskLogsResponseHeader, in oneof part, json "header"',
            ),
        },
    ),
    "a renamed oneof": (
        TASKS,
        "oneof interruptible_value {",
        "oneof preemptible_value {",
        {
            "flyteidl2.core.TaskMetadata.interruptible": (
                'field 8: bool, in oneof preemptible_value, json "interruptible"',
                'field 8: bool, in oneof interruptible_value, json "interruptible"',
            )
        },
    ),
    "a dropped optional": (
        LITERALS,
        "optional double factor = 2;",
        "double factor = 2;",
        {
            "flyteidl2.core.Backoff.factor": (
                'field 2: double, singular, json "factor"',
                'field 2: double, optional, json "factor"',
            )
        },
    ),
    "a dropped field": (
        SECURITY,
        "string task_type = 1;",
        "",
        {"flyteidl2.core.Connection.task_type": (MISSING, 'field 1: string, singular, json "taskType"')},
    ),
    "a field too many": (
        CONNECTOR,
        "message DeleteTaskResponse {",
        "message DeleteTaskResponse {\n  bool done = 1;",
        {"flyteidl2.connector.DeleteTaskResponse.done": ('field 1: bool, singular, json "done"', MISSING)},
    ),
    "a dropped enum value": (
        EXECUTION,
        "RETRYABLE_FAILED = 8;",
        "",
        {"flyteidl2.core.TaskExecution.Phase.RETRYABLE_FAILED": (MISSING, "value 8")},
    ),
    "a renumbered enum value": (
        EXECUTION,
        "RETRYABLE_FAILED = 8;",
        "RETRYABLE_FAILED = 9;",
        {"flyteidl2.core.TaskExecution.Phase.RETRYABLE_FAILED": ("value 9", "value 8")},
    ),
    "a renamed enum value": (
        EXECUTION,
        "RETRYABLE_FAILED = 8;",
        "FAILED_FOR_NOW = 8;",
        {
            "flyteidl2.core.TaskExecution.Phase.FAILED_FOR_NOW": ("value 8", MISSING),
            "flyteidl2.core.TaskExecution.Phase.RETRYABLE_FAILED": (MISSING, "value 8"),
        },
    ),
    "a reserved enum number": (
        EXECUTION,
        "RETRYABLE_FAILED = 8;",
        "RETRYABLE_FAILED = 8;\n    reserved 9;",
        {
            "flyteidl2.core.TaskExecution.Phase": (
                "an enum, reserved numbers [(9, 9)], reserved names []",
                f"an enum, {NOTHING_RESERVED}",
            )
        },
    ),
    "other values in a map": (
        SECURITY,
        "map<string, string> secrets = 2;",
        "map<string, bytes> secrets = 2;",
        {
            "flyteidl2.core.Connection.SecretsEntry.value": (
                'field 2: bytes, singular, json "value"',
                'field 2: string, singular, json "value"',
            )
        },
    ),
    "a list of pairs for a map": (
        LITERALS,
        "map<string, Literal> literals = 1;",
        "message LiteralsEntry { string key = 1; Literal value = 2; }\n  repeated LiteralsEntry literals = 1;",
        {
            "flyteidl2.core.LiteralMap.LiteralsEntry": (
                f"a message, {NOTHING_RESERVED}",
                f"a map entry, {NOTHING_RESERVED}",
            )
        },
    ),
    "a number no longer reserved": (
        LITERALS,
        "reserved 7;",
        "",
        {
            "flyteidl2.core.Literal": (
                "a message, reserved numbers [(6, 6)], reserved names []",
                "a message, reserved numbers [(6, 6), (7, 7)], reserved names []",
            )
        },
    ),
    "a reserved name": (
        LITERALS,
        "message Void {",
        'message Void {\n  reserved "why";',
        {
            "flyteidl2.core.Void": (
                "a message, reserved numbers [], reserved names ['why']",
                f"a message, {NOTHING_RESERVED}",
            )
        },
    ),
    "a message that nothing refers to": (
        LITERALS,
        "message Void {",
        "message Span {}\n\nmessage Void {",
        {"flyteidl2.core.Span": (f"a message, {NOTHING_RESERVED}", MISSING)},
    ),
    "an enum that nothing refers to": (
        LITERALS,
        "message Void {",
        "message Void {\n  enum Why {\n    UNKNOWN = 0;\n  }",
        {
            "flyteidl2.core.Void.Why": (f"an enum, {NOTHING_RESERVED}", MISSING),
            "flyteidl2.core.Void.Why.UNKNOWN": ("value 0", MISSING),
        },
    ),
    "a dropped method": (
        HEALTH,
        "rpc List(HealthListRequest) returns (HealthListResponse);",
        "",
        {
            "grpc.health.v1.Health/List": (
                MISSING,
                "grpc.health.v1.HealthListRequest → grpc.health.v1.HealthListResponse",
            )
        },
    ),
    "a method too many": (
        HEALTH,
        "rpc List(",
        "rpc Ping(HealthListRequest) returns (HealthListRequest);\n  rpc List(",
        {
            "grpc.health.v1.Health/Ping": (
                "grpc.health.v1.HealthListRequest → grpc.health.v1.HealthListRequest",
                MISSING,
            )
        },
    ),
    "another response": (
        HEALTH,
        "rpc List(HealthListRequest) returns (HealthListResponse);",
        "rpc List(HealthListRequest) returns (HealthCheckResponse);",
        {
            "grpc.health.v1.Health/List": (
                "grpc.health.v1.HealthListRequest → grpc.health.v1.HealthCheckResponse",
                "grpc.health.v1.HealthListRequest → grpc.health.v1.HealthListResponse",
            )
        },
    ),
    "a dropped stream": (
        SERVICE,
        "returns (stream GetTaskLogsResponse)",
        "returns (GetTaskLogsResponse)",
        {
            "flyteidl2.connector.AsyncConnectorService/GetTaskLogs": (
                "flyteidl2.connector.GetTaskLogsRequest → flyteidl2.connector.GetTaskLogsResponse",
                "flyteidl2.connector.GetTaskLogsRequest → stream flyteidl2.connector.GetTaskLogsResponse",
            )
        },
    ),
    "a stream of requests": (
        SERVICE,
        "rpc CreateTask(CreateTaskRequest)",
        "rpc CreateTask(stream CreateTaskRequest)",
        {
            "flyteidl2.connector.AsyncConnectorService/CreateTask": (
                "stream flyteidl2.connector.CreateTaskRequest → flyteidl2.connector.CreateTaskResponse",
                "flyteidl2.connector.CreateTaskRequest → flyteidl2.connector.CreateTaskResponse",
            )
        },
    ),
}


@pytest.mark.parametrize(("path", "old", "new", "expected"), DOCTORED.values(), ids=DOCTORED)
def test_the_comparison_finds(tmp_path, path, old, new, expected):
    shutil.copytree(PROTOS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (tmp_path / path).read_text()
    assert text.count(old) == 1
    (tmp_path / path).write_text(text.replace(old, new))
    assert compare(parse_protos(tmp_path)) == expected


BASES = (
    AgentMetadataServiceBase,
    AsyncAgentServiceBase,
    SyncAgentServiceBase,
    AsyncConnectorServiceBase,
    ConnectorMetadataServiceBase,
    HealthBase,
)
CARDINALITIES = {
    (False, False): Cardinality.UNARY_UNARY,
    (False, True): Cardinality.UNARY_STREAM,
    (True, False): Cardinality.STREAM_UNARY,
    (True, True): Cardinality.STREAM_STREAM,
}


def route(method: MethodDescriptor):
    """The path of a method, and what a handler at that path must be like."""
    messages = [named(message.file.package, message.name) for message in (method.input_type, method.output_type)]
    return (
        f"/{method.containing_service.full_name}/{method.name}",
        CARDINALITIES[method.client_streaming, method.server_streaming],
        *messages,
    )


def test_the_generated_bases_serve_the_published_routes():
    handlers = {}
    for base in BASES:
        handlers |= base().__mapping__()
    found = {
        (path, handler.cardinality, handler.request_type, handler.reply_type) for path, handler in handlers.items()
    }
    assert found == {
        route(method) for services in PUBLISHED.values() for service in services for method in service.methods
    }


def named(package: str, name: str) -> type:
    """Our class of that name; for a message of Flyte 1 it may be Flyte 2's, see test_flyte1."""
    return getattr(importlib.import_module(f"connectrio.idl.{package}"), name)
