"""What two sides must agree on to read each other's bytes and JSON: flat facts, so that two sets can be compared.

A fact is a name and what is so named: `flyteidl2.core.Literal.hash` → `field 4: string, singular, json "hash"`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"

MISSING = "missing"

Facts = dict[str, str]
Type = Descriptor | EnumDescriptor


def parse_protos(protos: Path = PROTOS) -> FileDescriptorSet:
    """All files below `protos` and those they import, in an order in which a pool takes them."""
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "descriptors.bin"
        options = [f"-I{protos}", f"-I{WELL_KNOWN}", f"--descriptor_set_out={out}", "--include_imports"]
        assert protoc.main(["protoc", *options, "--include_source_info", *files]) == 0
        return FileDescriptorSet.FromString(out.read_bytes())


def load(files: FileDescriptorSet) -> DescriptorPool:
    """A pool of their own for these files."""
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def types_of(services: Iterable[ServiceDescriptor]) -> dict[str, Type]:
    """Every message and enum that a call of these services can carry, and the messages that these are nested in."""
    found: dict[str, Type] = {}
    todo: list[Type | None] = []
    for service in services:
        for method in service.methods:
            todo += [method.input_type, method.output_type]
    while todo:
        found_type = todo.pop()
        if found_type is None or found_type.full_name in found:
            continue
        found[found_type.full_name] = found_type
        todo.append(found_type.containing_type)
        if isinstance(found_type, Descriptor):
            for field in found_type.fields:
                todo += [field.message_type, field.enum_type]
    return found


def declared_types(files: FileDescriptorSet, pool: DescriptorPool, package: str) -> dict[str, Type]:
    """Every message and enum that the files of `package` and of the packages below it declare."""
    found: dict[str, Type] = {}
    todo: list[Type] = []
    for file in files.file:
        if f"{file.package}.".startswith(f"{package}."):
            descriptor = pool.FindFileByName(file.name)
            todo += [*descriptor.message_types_by_name.values(), *descriptor.enum_types_by_name.values()]
    while todo:
        found_type = todo.pop()
        found[found_type.full_name] = found_type
        if isinstance(found_type, Descriptor):
            todo += [*found_type.nested_types, *found_type.enum_types]
    return found


def facts_of(services: Iterable[ServiceDescriptor], types: Iterable[Type]) -> Facts:
    """All facts about these services and types, by name."""
    facts: Facts = {}
    for service in services:
        facts |= service_facts(service)
    for found_type in types:
        facts |= dict(message_facts(found_type) if isinstance(found_type, Descriptor) else enum_facts(found_type))
    return facts


def differences(ours: Facts, theirs: Facts) -> dict[str, tuple[str, str]]:
    """The facts on which the two do not agree: name → (what we say, what they say)."""
    return {
        name: (ours.get(name, MISSING), theirs.get(name, MISSING))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


def service_facts(service: ServiceDescriptor) -> Facts:
    facts = {service.full_name: "a service"}
    for method in service.methods:
        request = "stream " * method.client_streaming + method.input_type.full_name
        response = "stream " * method.server_streaming + method.output_type.full_name
        facts[f"{service.full_name}/{method.name}"] = f"{request} → {response}"
    return facts


def message_facts(message: Descriptor) -> Iterator[tuple[str, str]]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    kind = "a map entry" if proto.options.map_entry else "a message"
    # the end of a message's reserved range is exclusive, an enum's is inclusive
    ranges = [(reserved.start, reserved.end - 1) for reserved in proto.reserved_range]
    yield message.full_name, f"{kind}, {reserved_fact(ranges, proto.reserved_name)}"
    optional = {field.name for field in proto.field if field.proto3_optional}
    for field in message.fields:
        yield field.full_name, field_fact(field, optional=field.name in optional)


def field_fact(field: FieldDescriptor, *, optional: bool) -> str:
    return f'field {field.number}: {type_name(field)}, {label(field, optional=optional)}, json "{field.json_name}"'


def type_name(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{name} {named.full_name}" if named else name


def label(field: FieldDescriptor, *, optional: bool) -> str:
    if field.is_repeated:
        return "packed" if field.is_packed else "repeated"
    if field.is_required:
        return "required"
    if optional:
        return "optional"
    if field.containing_oneof:
        return f"in oneof {field.containing_oneof.name}"
    return "singular with presence" if field.has_presence else "singular"


def enum_facts(enum: EnumDescriptor) -> Iterator[tuple[str, str]]:
    proto = EnumDescriptorProto()
    enum.CopyToProto(proto)
    ranges = [(reserved.start, reserved.end) for reserved in proto.reserved_range]
    yield enum.full_name, f"an enum, {reserved_fact(ranges, proto.reserved_name)}"
    for value in enum.values:
        yield f"{enum.full_name}.{value.name}", f"value {value.number}"


def reserved_fact(ranges: Iterable[tuple[int, int]], names: Iterable[str]) -> str:
    return f"reserved numbers {sorted(ranges)}, reserved names {sorted(names)}"
