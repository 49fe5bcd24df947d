"""Every message, enum, service, method and oneof says in one line what it is for; the stubs carry it as docstring."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, ServiceDescriptorProto

from idl.wire_facts import PROTOS, parse_protos

OUR_FILES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))

# Where a descriptor keeps its parts: the field numbers that a path in SourceCodeInfo is made of.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 3, 4, 8
SERVICE_METHOD = 2

Path = tuple[int, ...]


@pytest.fixture(scope="module")
def files():
    return {file.name: file for file in parse_protos().file}


@pytest.mark.parametrize("name", OUR_FILES)
def test_everything_says_what_it_is_for(files, name):
    file = files[name]
    comments = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
    lines = {what: comments.get(path, "").count("\n") for path, what in commented_parts(file)}
    assert {what: count for what, count in lines.items() if count != 1} == {}


def commented_parts(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    """The path and the name of each part of a file that needs a comment."""
    for index, message in enumerate(file.message_type):
        yield from message_parts(message, (FILE_MESSAGE, index), message.name)
    for index, enum in enumerate(file.enum_type):
        yield (FILE_ENUM, index), enum.name
    for index, service in enumerate(file.service):
        yield from service_parts(service, (FILE_SERVICE, index))


def message_parts(message: DescriptorProto, path: Path, name: str) -> Iterator[tuple[Path, str]]:
    yield path, name
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_parts(nested, (*path, MESSAGE_NESTED, index), f"{name}.{nested.name}")
    for index, enum in enumerate(message.enum_type):
        yield (*path, MESSAGE_ENUM, index), f"{name}.{enum.name}"
    synthetic = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in synthetic:
            yield (*path, MESSAGE_ONEOF, index), f"{name}.{oneof.name}"


def service_parts(service: ServiceDescriptorProto, path: Path) -> Iterator[tuple[Path, str]]:
    yield path, service.name
    for index, method in enumerate(service.method):
        yield (*path, SERVICE_METHOD, index), f"{service.name}/{method.name}"
