"""Compile the .proto files beside this script into betterproto2 stubs (`just gen`).

Usage: python protos/generate.py [OUTPUT_DIRECTORY]

protoc (from grpcio-tools) parses the files, betterproto2's compiler renders them. Both run in this process, so the
result depends on nothing that is installed outside the project's environment.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from betterproto2_compiler.known_types import WRAPPED_TYPES
from betterproto2_compiler.lib.google.protobuf import FileDescriptorSet, SourceCodeInfo
from betterproto2_compiler.lib.google.protobuf.compiler import CodeGeneratorRequest
from betterproto2_compiler.plugin.parser import generate_code
from grpc_tools import protoc

PROTOS = Path(__file__).parent
IDL = PROTOS.parent / "src" / "connectrio" / "idl"
OPTIONS = "client_generation=async,server_generation=async"

# As `datetime` and `timedelta` these two would lose nanoseconds, and one value out of Python's range would make the
# whole request undecodable. They stay messages; `connectrio.literals` converts them, with a clear error.
KEPT_AS_MESSAGES = [("google.protobuf", "Timestamp"), ("google.protobuf", "Duration")]

PACKAGE_DOCSTRING = '''"""Messages and service bases generated from `protos/` by `just gen`; never edited by hand."""\n'''


def parse(protos: Path) -> FileDescriptorSet:
    """Run protoc over all of `protos`; the descriptors come back in dependency order, with their comments."""
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "descriptors.bin"
        arguments = ["protoc", f"-I{protos}", f"-I{well_known}", f"--descriptor_set_out={out}"]
        code = protoc.main([*arguments, "--include_imports", "--include_source_info", *files])
        if code != 0:
            raise SystemExit(code)
        descriptors = FileDescriptorSet.parse(out.read_bytes())
    for file in descriptors.file:
        if file.package.startswith("google."):
            file.source_code_info = SourceCodeInfo()  # the comments there are not ours to carry
    return descriptors


def render(descriptors: FileDescriptorSet) -> dict[str, str]:
    """The generated files: path below the output directory → text."""
    for name in KEPT_AS_MESSAGES:
        WRAPPED_TYPES.pop(name, None)
    request = CodeGeneratorRequest(
        file_to_generate=[file.name for file in descriptors.file],
        parameter=OPTIONS,
        proto_file=descriptors.file,
    )
    with contextlib.chdir(PROTOS.parent):  # the compiler formats with the ruff settings of the working directory
        files = {file.name: file.content for file in generate_code(request).file}
    files["__init__.py"] = PACKAGE_DOCSTRING
    del files["py.typed"]
    return files


def generate(output: Path) -> None:
    """Replace `output` with freshly generated stubs."""
    files = render(parse(PROTOS))
    if output.exists():
        shutil.rmtree(output)
    for name, text in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else IDL)
