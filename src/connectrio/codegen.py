"""Stubs and descriptors from .proto files, for `connectrio rpc gen` and for our own stubs (extra `gen`).

protoc (of grpcio-tools) parses the files, betterproto2's compiler renders them, and ruff formats the result. All three
come from the environment of the running Python, so the result depends on nothing that is installed elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import keyword
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped] # noqa: F401 - whether it is there: it runs as a process
from betterproto2_compiler.lib.google.protobuf import FileDescriptorSet
from betterproto2_compiler.lib.google.protobuf.compiler import CodeGeneratorRequest
from betterproto2_compiler.plugin.parser import generate_code

__all__ = ["DESCRIPTORS", "OccupiedError", "ProtoError", "compile_descriptors", "render_stubs", "write_package"]

# what `connectrio.rpc.reflection` reads, beside the stubs
DESCRIPTORS = "descriptors.binpb"

_OPTIONS = "client_generation=async,server_generation=async"
# Type checkers check programs against the stubs, and not the stubs, whatever the project's settings are: a field that
# is called `list` is an error of mypy, and most functions of betterproto2's well-known types lack a type.
_HEADER = "# mypy: ignore-errors\n# pyright: basic\n"
_RUFF = 'line-length = 120\ntarget-version = "py311"\n'
# each generated package has this file, and each generated module this word
_POOL = "message_pool.py"
_MARK = "@generated"


class ProtoError(Exception):
    """The .proto files cannot be compiled. The text is the compiler's own, with file and line."""


class OccupiedError(Exception):
    """The output directory holds files that were not generated, which would be lost or would stand in the way."""


def compile_descriptors(files: Iterable[Path | str], import_paths: Iterable[Path], *options: str) -> bytes:
    """Return an encoded FileDescriptorSet of `files` and of all that they import, each file after its imports.

    protoc's warnings are printed on standard error.

    :param files: below one of `import_paths`
    :param import_paths: the directories in which imports are looked up; Google's well-known types are found anyway
    :param options: further ones of protoc, such as "--include_source_info"
    :raises ProtoError: protoc refuses a file, or does not find an import
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, DESCRIPTORS)
        # -P: what lies in the working directory must not take the place of a module
        protoc = [sys.executable, "-P", "-m", "grpc_tools.protoc", *(f"-I{path}" for path in import_paths)]
        command = [*protoc, f"--descriptor_set_out={out}", "--include_imports", *options, *map(str, files)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if ran.returncode != 0:
            raise ProtoError(ran.stderr.strip())
        sys.stderr.write(ran.stderr)
        return out.read_bytes()


def render_stubs(descriptors: FileDescriptorSet) -> dict[str, str]:
    """Return the Python files for `descriptors`: path below the output directory → text.

    The compiler's warnings, such as about two classes of one name, are printed on standard error.

    :param descriptors: with source info, from which the docstrings come
    :raises ProtoError: betterproto2 has no Python for something in them
    """
    for file in descriptors.file:
        words = [word for word in file.package.split(".") if keyword.iskeyword(word)]
        if words or file.package.split(".")[0] == Path(_POOL).stem:
            name = words[0] if words else Path(_POOL).stem
            raise ProtoError(f"{file.name}: no Python module of the package {file.package} can be named {name!r}")
    request = CodeGeneratorRequest(
        file_to_generate=[file.name for file in descriptors.file], parameter=_OPTIONS, proto_file=descriptors.file
    )
    said = io.StringIO()
    try:
        with _compiler_surroundings(), contextlib.redirect_stderr(said):
            files = {file.name: file.content and _HEADER + file.content for file in generate_code(request).file}
    except (NotImplementedError, SyntaxError, ValueError) as error:
        raise ProtoError(f"betterproto2's compiler cannot render these files: {error}") from error
    sys.stderr.writelines(line for line in said.getvalue().splitlines(True) if not line.startswith("Writing "))
    return files


@contextlib.contextmanager
def _compiler_surroundings() -> Iterator[None]:
    """Set the PATH and the working directory in which betterproto2's compiler looks for ruff and for its settings."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), path])
    try:
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            Path("ruff.toml").write_text(_RUFF)
            yield
    finally:
        os.environ["PATH"] = path


def write_package(output: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory `output` hold `files` and no other Python file.

    A file is replaced only if its content changes, and at once, so a program that imports the package meanwhile never
    finds half of a file.

    :param files: path below `output` → content
    :raises OccupiedError: `output` holds something that was not generated; then nothing is changed
    """
    if output.exists() and any(output.iterdir()) and not (output / _POOL).exists():
        raise OccupiedError(f"{output} holds something else than generated stubs: name an empty or a new directory")
    stale = set(output.rglob("*.py")) - {output / name for name in files}
    foreign = sorted(str(path) for path in stale if path.read_text().strip() and _MARK not in path.read_text())
    if foreign:
        raise OccupiedError(f"{', '.join(foreign)}: not generated; move it, or name another directory than {output}")
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
    for path in stale:
        path.unlink()
