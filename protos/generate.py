"""Compile the .proto files beside this script into betterproto2 stubs and a file of descriptors (`just gen`).

Usage: python protos/generate.py [OUTPUT_DIRECTORY]

protoc (from grpcio-tools) parses the files, betterproto2's compiler renders them, ruff formats the result: all three
from the environment of the Python that runs this script, so the result depends on nothing that is installed elsewhere.
The descriptors, without comments, are what the server's reflection tells of its services.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from betterproto2_compiler.known_types import WRAPPED_TYPES
from betterproto2_compiler.lib.google.protobuf import FileDescriptorSet, SourceCodeInfo
from betterproto2_compiler.lib.google.protobuf.compiler import CodeGeneratorRequest
from betterproto2_compiler.plugin.parser import generate_code
from grpc_tools import protoc  # type: ignore[import-untyped]  # grpcio-tools ships no type information

PROTOS = Path(__file__).parent
IDL = PROTOS.parent / "src" / "connectrio" / "idl"
OPTIONS = "client_generation=async,server_generation=async"

# As `datetime` and `timedelta` these two would lose nanoseconds, and one value out of Python's range would make the
# whole request undecodable. They stay messages; `connectrio.literals` converts them, with a clear error.
KEPT_AS_MESSAGES = [("google.protobuf", "Timestamp"), ("google.protobuf", "Duration")]

DESCRIPTORS = "descriptors.binpb"
TIMESTAMPS = "google/protobuf/__init__.py"

PACKAGE_DOCSTRING = '"""Messages and service bases generated from `protos/` by `just gen`; never edited by hand."""\n'


def compile_descriptors(protos: Path, *options: str) -> bytes:
    """Run protoc over all of `protos`; an encoded FileDescriptorSet of them and what they import, that before them."""
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "descriptors.bin"
        arguments = ["protoc", f"-I{protos}", f"-I{well_known}", f"--descriptor_set_out={out}", "--include_imports"]
        code = protoc.main([*arguments, *options, *files])
        if code != 0:
            raise SystemExit(code)
        return out.read_bytes()


def parse(protos: Path) -> FileDescriptorSet:
    """The descriptors of `protos`, with their comments."""
    descriptors = FileDescriptorSet.parse(compile_descriptors(protos, "--include_source_info"))
    for file in descriptors.file:
        if file.package.startswith("google."):
            file.source_code_info = SourceCodeInfo()  # the comments there are not ours to carry
    return descriptors


@contextlib.contextmanager
def compiler_surroundings() -> Iterator[None]:
    """The working directory and the PATH that betterproto2's compiler takes its ruff and its ruff settings from."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), path])
    try:
        with contextlib.chdir(PROTOS.parent):
            yield
    finally:
        os.environ["PATH"] = path


def render(descriptors: FileDescriptorSet) -> dict[str, str]:
    """The generated files: path below the output directory → text."""
    for name in KEPT_AS_MESSAGES:
        WRAPPED_TYPES.pop(name, None)
    request = CodeGeneratorRequest(
        file_to_generate=[file.name for file in descriptors.file],
        parameter=OPTIONS,
        proto_file=descriptors.file,
    )
    with compiler_surroundings():
        files = {file.name: file.content for file in generate_code(request).file}
    files["__init__.py"] = PACKAGE_DOCSTRING
    files[TIMESTAMPS] = without_dateutil(files[TIMESTAMPS])
    del files["py.typed"]
    return files


def without_dateutil(module: str) -> str:
    """`module` with dateutil imported where it is used: to read a Timestamp from JSON, which hosts never do.

    It would take them 10 ms and 1 MB.

    :raises SystemExit: the compiler writes something else now
    """
    at_the_top, use = "import dateutil.parser\n", "            dt = dateutil.parser.isoparse(value)\n"
    if module.count(at_the_top) != 1 or module.count("dateutil") != 2 or use not in module:
        raise SystemExit(f"{TIMESTAMPS} uses dateutil in another way: adapt without_dateutil in {__file__}")
    return module.replace(at_the_top, "").replace(use, f"            {at_the_top}\n{use}")


def generate(output: Path) -> None:
    """Make `output` hold freshly generated stubs and descriptors, and no other Python file.

    A file is replaced only if its text changes, and at once, so a program that imports the stubs meanwhile never finds
    half of them.

    :raises SystemExit: `output` is a directory with something else in it
    """
    if output.exists() and any(output.iterdir()) and not (output / "message_pool.py").exists():
        raise SystemExit(f"{output} holds something else than generated stubs: name an empty or a new directory")
    files = {output / name: text.encode() for name, text in render(parse(PROTOS)).items()}
    files[output / DESCRIPTORS] = compile_descriptors(PROTOS)
    for path, content in files.items():
        replace(path, content)
    for stale in set(output.rglob("*.py")) - files.keys():
        stale.unlink()


def replace(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step, unless it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        return
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else IDL)
