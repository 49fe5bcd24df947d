"""`connectrio rpc gen`: makes stubs for a service of your own."""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from connectrio.cli.errors import CommandError, UsageError
from connectrio.terminal import print_code, print_heading, print_line

if TYPE_CHECKING:
    from betterproto2_compiler.lib.google.protobuf import FileDescriptorSet

__all__ = ["gen", "rpc_app"]

_EXAMPLES = (
    "connectrio rpc gen greeter.proto\n  connectrio rpc gen -I protos protos/shop/v1/*.proto --out src/shop/stubs"
)

_NEXT = """\
import anyio
from connectrio.rpc import Reflection, Server
from {module} import {service}Base

class {service}({service}Base):
    pass  # your methods: {methods}

async def main():
    servicers = [{service}()]
    server = Server([*servicers, Reflection.of(servicers)])
    await server.serve(await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=50051))

anyio.run(main)  # on trio: anyio.run(main, backend="trio")"""

rpc_app = App(
    name="rpc",
    help="Make stubs for gRPC services of your own.",
    help_epilogue=f"Examples:\n  {_EXAMPLES}",
    version_flags=(),
)


@rpc_app.command(help_epilogue=f"Examples:\n  {_EXAMPLES}")
def gen(
    *protos: Path,
    out: Path = Path("stubs"),
    proto_path: Annotated[list[Path] | None, Parameter(name=("--proto-path", "-I"), negative=())] = None,
) -> None:
    """Make a Python package of .proto files: messages, clients, bases of servicers, and descriptors for reflection.

    Name all files of the package at once: generated modules that are not made again are removed.

    Exit codes: 0 made, 1 the files cannot be compiled, 2 wrong usage.

    :param protos: the .proto files
    :param out: the directory of the package; made if it is missing
    :param proto_path: a directory that imports in .proto files begin in, as of protoc; may be given several times. By
        default the working directory, or that of a file elsewhere
    """
    try:
        from betterproto2_compiler.lib.google.protobuf import FileDescriptorSet

        from connectrio import codegen
    except ModuleNotFoundError as error:
        raise CommandError(
            "this needs betterproto2-compiler and grpcio-tools: pip install 'connectrio[gen]'"
        ) from error

    files, paths = _checked(protos, proto_path or [])
    if not out.resolve().name.isidentifier() or keyword.iskeyword(out.resolve().name):
        raise UsageError(f"--out {out}: a package of this name cannot be imported; take letters, digits and _")
    try:
        descriptors = FileDescriptorSet.parse(codegen.compile_descriptors(files, paths, "--include_source_info"))
        made = {name: text.encode() for name, text in codegen.render_stubs(descriptors).items()}
        made[codegen.DESCRIPTORS] = codegen.compile_descriptors(files, paths)
        codegen.write_package(out, made)
    except codegen.ProtoError as error:
        raise CommandError(str(error), hint=_hint(str(error), files)) from error
    except codegen.OccupiedError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot write the package to {out}: {error.strerror}") from error
    for name in sorted(made):
        print_line(f"wrote {out / name}")
    _print_next(out, descriptors)


def _checked(protos: tuple[Path, ...], proto_path: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files and the import paths for protoc, which compares them as texts."""
    if not protos:
        raise UsageError("name at least one .proto file")
    for path in protos:
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
    for path in proto_path:
        if not path.is_dir():
            raise UsageError(f"-I {path}: no such directory")
    files, paths = [_short(path) for path in protos], [_short(path) for path in proto_path]
    if not paths:
        return files, list(dict.fromkeys(path.parent if path.is_absolute() else Path() for path in files))
    for file in files:
        if not any(file.is_relative_to(path) for path in paths):
            raise UsageError(f"{file} is in none of the directories of -I: {', '.join(map(str, paths))}")
    return files, paths


def _short(path: Path) -> Path:
    """Return `path` as protoc's messages should show it: relative if it is below the working directory."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - symbolic links stay as they were given
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def _hint(message: str, files: list[Path]) -> str:
    """Return where an import that protoc has not found is, or what to do if it is nowhere."""
    missing = re.search(r"^(\S+): File not found", message, re.MULTILINE)
    if missing is None:
        return ""
    for directory in (parent for file in files for parent in file.parents):
        if (directory / missing[1]).is_file():
            return f"{missing[1]} is in {directory}: add -I {directory}"
    return f"name the directory in which {missing[1]} is with -I DIRECTORY"


def _print_next(out: Path, descriptors: FileDescriptorSet) -> None:
    """Print a program that serves the first service."""
    from betterproto2_compiler.compile.naming import pythonize_class_name, pythonize_method_name

    services = [(file.package, service) for file in descriptors.file for service in file.service]
    if not services:
        return
    package = Path(os.path.abspath(out))  # noqa: PTH100 - as above
    names = [package.name]
    while (package := package.parent).joinpath("__init__.py").exists():
        names.insert(0, package.name)
    proto_package, service = services[0]
    print_heading("Next: serve it")
    print_code(
        _NEXT.format(
            module=".".join([*names, *filter(None, [proto_package])]),
            service=pythonize_class_name(service.name),
            methods=", ".join(pythonize_method_name(method.name) for method in service.method),
        ),
        "python",
    )
