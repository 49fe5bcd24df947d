"""Protobuf's descriptors, as far as reflection goes: which file declares a name, and what that file imports.

Source: descriptor.proto. Of its messages only the fields that hold names are declared here; a file itself stays the
bytes that protoc wrote.
"""
# ruff: noqa: RUF009 - betterproto2.field makes a field of a dataclass, as dataclasses.field does

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import betterproto2

from connectrio.rpc.codec import DecodeError, decode

_M = TypeVar("_M", bound=betterproto2.Message)


@dataclass(eq=False, repr=False)
class _FileSet(betterproto2.Message):
    file: list[bytes] = betterproto2.field(1, betterproto2.TYPE_BYTES, repeated=True)


@dataclass(eq=False, repr=False)
class _Named(betterproto2.Message):
    """A method, a value of an enum, or a oneof."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class _Field(betterproto2.Message):
    """A field, or an extension of the message `extendee`, which is written with a leading dot."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    extendee: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    number: int = betterproto2.field(3, betterproto2.TYPE_INT32)


@dataclass(eq=False, repr=False)
class _Parent(betterproto2.Message):
    """An enum with its values, or a service with its methods."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    children: list[_Named] = betterproto2.field(2, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class _Message(betterproto2.Message):
    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    fields: list[_Field] = betterproto2.field(2, betterproto2.TYPE_MESSAGE, repeated=True)
    messages: list[_Message] = betterproto2.field(3, betterproto2.TYPE_MESSAGE, repeated=True)
    enums: list[_Parent] = betterproto2.field(4, betterproto2.TYPE_MESSAGE, repeated=True)
    extensions: list[_Field] = betterproto2.field(6, betterproto2.TYPE_MESSAGE, repeated=True)
    oneofs: list[_Named] = betterproto2.field(8, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class _File(betterproto2.Message):
    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    package: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    imports: list[str] = betterproto2.field(3, betterproto2.TYPE_STRING, repeated=True)
    messages: list[_Message] = betterproto2.field(4, betterproto2.TYPE_MESSAGE, repeated=True)
    enums: list[_Parent] = betterproto2.field(5, betterproto2.TYPE_MESSAGE, repeated=True)
    services: list[_Parent] = betterproto2.field(6, betterproto2.TYPE_MESSAGE, repeated=True)
    extensions: list[_Field] = betterproto2.field(7, betterproto2.TYPE_MESSAGE, repeated=True)


class UnknownNameError(LookupError):
    """No file declares that."""


class Descriptors:
    """Files, and which of them declares what.

    :ivar services: the full names of the services
    :param files: each an encoded FileDescriptorProto; of several with the same name the first counts
    :raises ValueError: a file cannot be decoded, or imports one that is missing
    """

    def __init__(self, files: Iterable[bytes]) -> None:
        self.services: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._declared_in: dict[str, str] = {}
        self._extensions: dict[str, dict[int, str]] = {}
        for encoded in files:
            file = _decode(_File, encoded)
            if file.name not in self._files:
                self._files[file.name] = encoded
                self._imports[file.name] = file.imports
                self._add_names(file)
        for name, imports in self._imports.items():
            missing = [imported for imported in imports if imported not in self._files]
            if missing:
                raise ValueError(f"{name} imports {', '.join(missing)}: run protoc with --include_imports")

    def with_imports(self, name: str) -> list[bytes]:
        """The file of that name, and all that it imports, directly or not, each once.

        :raises UnknownNameError: there is no such file
        """
        if name not in self._files:
            raise UnknownNameError(f"unknown file {name!r}")
        found = {name: None}
        todo = [name]
        while todo:
            new = [imported for imported in self._imports[todo.pop()] if imported not in found]
            found.update(dict.fromkeys(new))
            todo += new
        return [self._files[each] for each in found]

    def file_of_symbol(self, symbol: str) -> str:
        """The name of the file that declares a full name.

        :raises UnknownNameError: none does
        """
        try:
            return self._declared_in[symbol]
        except KeyError:
            raise UnknownNameError(f"unknown symbol {symbol!r}") from None

    def file_of_extension(self, message: str, number: int) -> str:
        """The name of the file that declares the extension of `message` with that number.

        :raises UnknownNameError: none does
        """
        try:
            return self._extensions[message][number]
        except KeyError:
            raise UnknownNameError(f"unknown extension {number} of {message!r}") from None

    def extension_numbers(self, message: str) -> list[int]:
        """The numbers of all extensions of `message`, in order.

        :raises UnknownNameError: there is no such message
        """
        if message not in self._extensions:
            raise UnknownNameError(f"unknown message {message!r}")
        return sorted(self._extensions[message])

    def _add_names(self, file: _File) -> None:
        scope = f"{file.package}." if file.package else ""
        names = [*_names_of_enums(scope, file.enums), *_names_of_extensions(scope, file.extensions)]
        for service in file.services:
            self.services.add(scope + service.name)
            names += [scope + service.name, *(f"{scope}{service.name}.{method.name}" for method in service.children)]
        self._add_extensions(file, file.extensions)
        for name, message in _walk(scope, file.messages):
            self._extensions.setdefault(name, {})
            self._add_extensions(file, message.extensions)
            names += [name, *_names_inside(f"{name}.", message)]
        self._declared_in.update(dict.fromkeys(names, file.name))

    def _add_extensions(self, file: _File, extensions: Iterable[_Field]) -> None:
        for extension in extensions:
            extended = extension.extendee.removeprefix(".")
            self._extensions.setdefault(extended, {})[extension.number] = file.name


def split_file_set(encoded: bytes) -> list[tuple[str, bytes]]:
    """The name and the bytes of each file in an encoded FileDescriptorSet.

    :raises ValueError: it is none
    """
    return [(_decode(_Named, file).name, file) for file in _decode(_FileSet, encoded).file]


def _walk(scope: str, messages: Iterable[_Message]) -> Iterator[tuple[str, _Message]]:
    """The full name of each message, nested ones included, and the message."""
    for message in messages:
        yield scope + message.name, message
        yield from _walk(f"{scope}{message.name}.", message.messages)


def _names_inside(scope: str, message: _Message) -> Iterator[str]:
    """The full names in a message, but for nested messages and theirs."""
    for field in message.fields:
        yield scope + field.name
    for oneof in message.oneofs:
        yield scope + oneof.name
    yield from _names_of_enums(scope, message.enums)
    yield from _names_of_extensions(scope, message.extensions)


def _names_of_enums(scope: str, enums: Iterable[_Parent]) -> Iterator[str]:
    for enum in enums:
        yield scope + enum.name
        for value in enum.children:
            yield scope + value.name  # by protobuf's rules a value is a sibling of its enum,
            yield f"{scope}{enum.name}.{value.name}"  # but everyone expects it inside


def _names_of_extensions(scope: str, extensions: Iterable[_Field]) -> Iterator[str]:
    for extension in extensions:
        yield scope + extension.name


def _decode(cls: type[_M], encoded: bytes) -> _M:
    try:
        message: _M = decode(encoded, cls)
    except DecodeError as error:
        raise ValueError(f"not a FileDescriptorSet, as protoc --descriptor_set_out writes it: {error}") from error
    return message
