"""Protobuf's descriptors for reflection: which file declares a name, and which files it imports.

Source: descriptor.proto. Of its messages, only the fields that hold names are defined here; a file itself stays the
bytes that protoc wrote.
"""
# ruff: noqa: RUF009 - betterproto2.field makes a field of a dataclass, as dataclasses.field does

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import betterproto2

from connectrio.rpc._codec.decoder import decode
from connectrio.rpc._codec.wire import DecodeError

_M = TypeVar("_M", bound=betterproto2.Message)


@dataclass(eq=False, repr=False)
class _FileSet(betterproto2.Message):
    """The .proto files, each still encoded."""

    file: list[bytes] = betterproto2.field(1, betterproto2.TYPE_BYTES, repeated=True)


@dataclass(eq=False, repr=False)
class _DeclaredName(betterproto2.Message):
    """A method, a value of an enum, or a oneof."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class _DeclaredField(betterproto2.Message):
    """A field, or an extension of the message `extendee`, whose full name has a leading dot."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    extendee: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    number: int = betterproto2.field(3, betterproto2.TYPE_INT32)


@dataclass(eq=False, repr=False)
class _DeclaredScope(betterproto2.Message):
    """An enum with its values, or a service with its methods."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    children: list[_DeclaredName] = betterproto2.field(2, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class _DeclaredMessage(betterproto2.Message):
    """A message with all that is declared inside it."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    fields: list[_DeclaredField] = betterproto2.field(2, betterproto2.TYPE_MESSAGE, repeated=True)
    messages: list[_DeclaredMessage] = betterproto2.field(3, betterproto2.TYPE_MESSAGE, repeated=True)
    enums: list[_DeclaredScope] = betterproto2.field(4, betterproto2.TYPE_MESSAGE, repeated=True)
    extensions: list[_DeclaredField] = betterproto2.field(6, betterproto2.TYPE_MESSAGE, repeated=True)
    oneofs: list[_DeclaredName] = betterproto2.field(8, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class _DeclaredFile(betterproto2.Message):
    """A .proto file."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    package: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    imports: list[str] = betterproto2.field(3, betterproto2.TYPE_STRING, repeated=True)
    messages: list[_DeclaredMessage] = betterproto2.field(4, betterproto2.TYPE_MESSAGE, repeated=True)
    enums: list[_DeclaredScope] = betterproto2.field(5, betterproto2.TYPE_MESSAGE, repeated=True)
    services: list[_DeclaredScope] = betterproto2.field(6, betterproto2.TYPE_MESSAGE, repeated=True)
    extensions: list[_DeclaredField] = betterproto2.field(7, betterproto2.TYPE_MESSAGE, repeated=True)


class UnknownNameError(LookupError):
    """No file has or declares that name."""


class Descriptors:
    """A set of .proto files, and where each name is declared.

    :ivar services: the full names of the services
    :param files: encoded FileDescriptorProtos; of several with the same name, the first one counts
    :raises ValueError: a file cannot be decoded, or imports one that is missing
    """

    def __init__(self, files: Iterable[bytes]) -> None:
        self.services: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}
        self._declared_in: dict[str, str] = {}
        self._extensions: dict[str, dict[int, str]] = {}
        for encoded in files:
            file = _decode(_DeclaredFile, encoded)
            if file.name not in self._files:
                self._files[file.name] = encoded
                self._imports[file.name] = file.imports
                self._add_names(file)
        for name, imports in self._imports.items():
            missing = [imported for imported in imports if imported not in self._files]
            if missing:
                raise ValueError(f"{name} imports {', '.join(missing)}: run protoc with --include_imports")

    def with_imports(self, name: str) -> list[bytes]:
        """Return the file of that name and all that it imports, directly or not, each once.

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
        """Return the name of the file that declares a full name.

        :raises UnknownNameError: no file does
        """
        try:
            return self._declared_in[symbol]
        except KeyError:
            raise UnknownNameError(f"unknown symbol {symbol!r}") from None

    def file_of_extension(self, message: str, number: int) -> str:
        """Return the name of the file that declares the extension of `message` with that number.

        :raises UnknownNameError: no file does
        """
        try:
            return self._extensions[message][number]
        except KeyError:
            raise UnknownNameError(f"unknown extension {number} of {message!r}") from None

    def extension_numbers(self, message: str) -> list[int]:
        """Return the numbers of all extensions of `message`, in order.

        :raises UnknownNameError: there is no such message
        """
        if message not in self._extensions:
            raise UnknownNameError(f"unknown message {message!r}")
        return sorted(self._extensions[message])

    def _add_names(self, file: _DeclaredFile) -> None:
        scope = f"{file.package}." if file.package else ""
        names = list(_names_of_enums(scope, file.enums))
        for service in file.services:
            full_name = scope + service.name
            self.services.add(full_name)
            names += [full_name, *(f"{full_name}.{method.name}" for method in service.children)]
        extensions = [(scope, extension) for extension in file.extensions]
        for full_name, message in _walk(scope, file.messages):
            inside = f"{full_name}."
            self._extensions.setdefault(full_name, {})
            names += [full_name, *(inside + field.name for field in message.fields)]
            names += (inside + oneof.name for oneof in message.oneofs)
            names += _names_of_enums(inside, message.enums)
            extensions += [(inside, extension) for extension in message.extensions]
        for inside, extension in extensions:
            names.append(inside + extension.name)
            self._extensions.setdefault(extension.extendee.removeprefix("."), {})[extension.number] = file.name
        self._declared_in.update(dict.fromkeys(names, file.name))


def split_file_set(encoded: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the bytes of each file in an encoded FileDescriptorSet.

    :raises ValueError: `encoded` is not a FileDescriptorSet
    """
    return [(_decode(_DeclaredName, file).name, file) for file in _decode(_FileSet, encoded).file]


def _walk(scope: str, messages: Iterable[_DeclaredMessage]) -> Iterator[tuple[str, _DeclaredMessage]]:
    """Yield each message, nested ones included, after its full name."""
    for message in messages:
        yield scope + message.name, message
        yield from _walk(f"{scope}{message.name}.", message.messages)


def _names_of_enums(scope: str, enums: Iterable[_DeclaredScope]) -> Iterator[str]:
    for enum in enums:
        yield scope + enum.name
        for value in enum.children:
            yield scope + value.name  # by protobuf's rules a value is a sibling of its enum,
            yield f"{scope}{enum.name}.{value.name}"  # but everyone expects it inside


def _decode(cls: type[_M], encoded: bytes) -> _M:
    try:
        message: _M = decode(encoded, cls)
    except DecodeError as error:
        raise ValueError(f"not a FileDescriptorSet, as protoc --descriptor_set_out writes it: {error}") from error
    return message
