"""Compares this project's .proto files with the descriptors that Flyte and gRPC publish in their wheels."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from flyteidl.service import agent_pb2
from flyteidl2.connector import service_pb2
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from packaging.version import Version

from idl.wire_facts import Facts, declared_types, differences, facts_of, load, types_of

PUBLISHED = {
    "flyteidl": list(agent_pb2.DESCRIPTOR.services_by_name.values()),
    "flyteidl2": list(service_pb2.DESCRIPTOR.services_by_name.values()),
    "grpc.health": list(health_pb2.DESCRIPTOR.services_by_name.values()),
}

# What flyteidl2 added to the contract after 2.0.51, the release that flyte-sdk 2.12 pins, and in which release.
ADDED = {
    "flyteidl2.core.AcceleratorModel.APPLE_SILICON_GPU": ("2.0.52", "value 500"),
    "flyteidl2.core.GPUAccelerator.DeviceClass.APPLE_SILICON": ("2.0.52", "value 5"),
    "flyteidl2.core.WorkerKind.WORKER_KIND_MICROVM": ("2.0.52", "value 2"),
    "flyteidl2.core.WorkerKind.WORKER_KIND_REUSABLE": ("2.0.53", "value 3"),
    "flyteidl2.core.ReusePolicy.name": ("2.0.53", 'field 7: string, singular, json "name"'),
    "flyteidl2.core.ReusePolicy.version": ("2.0.53", 'field 8: string, singular, json "version"'),
}


def message_classes(services: Iterable[ServiceDescriptor]) -> dict[str, type[Message]]:
    """protobuf's classes for all messages that a call of these services can carry, by full name."""
    return {
        name: GetMessageClass(found)
        for name, found in types_of(services).items()
        if isinstance(found, Descriptor) and not found.GetOptions().map_entry
    }


def main_messages(services: Iterable[ServiceDescriptor]) -> list[str]:
    """The requests and responses, and what these mostly consist of: drawn on its own, it comes out deeper."""
    methods = [method for service in services for method in service.methods]
    calls = {message.full_name for method in methods for message in (method.input_type, method.output_type)}
    return sorted(calls | {"flyteidl2.core.Literal", "flyteidl2.core.LiteralType", "flyteidl2.core.TaskTemplate"})


def our_services(files: FileDescriptorSet, pool: DescriptorPool, package: str) -> list[ServiceDescriptor]:
    return [
        service
        for file in files.file
        if f"{file.package}.".startswith(f"{package}.")
        for service in pool.FindFileByName(file.name).services_by_name.values()
    ]


def published_facts(package: str) -> Facts:
    """About the published services, and all that they refer to."""
    services = PUBLISHED[package]
    return facts_of(services, types_of(services).values())


def newer_than_the_wheel() -> Facts:
    """What the installed flyteidl2 does not say yet; nothing if it is as new as our protos."""
    installed = Version(version("flyteidl2"))
    return {name: fact for name, (release, fact) in ADDED.items() if Version(release) > installed}


def our_facts(files: FileDescriptorSet, package: str) -> Facts:
    """About all that the files of `package` declare, needed by a service or not, and all that they refer to."""
    pool = load(files)
    services = our_services(files, pool, package)
    return facts_of(services, (declared_types(files, pool, package) | types_of(services)).values())


def compare(files: FileDescriptorSet) -> dict[str, tuple[str, str]]:
    """The facts on which our files and the published ones differ: name → (ours, theirs)."""
    theirs = {package: published_facts(package) for package in PUBLISHED}
    theirs["flyteidl2"] |= newer_than_the_wheel()
    return {
        name: difference
        for package in PUBLISHED
        for name, difference in differences(our_facts(files, package), theirs[package]).items()
    }
