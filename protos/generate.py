"""Compile the .proto files beside this script into betterproto2 stubs and a file of descriptors (`just gen`).

Usage: python protos/generate.py [OUTPUT_DIRECTORY]

`connectrio.codegen` makes them, as `connectrio rpc gen` makes those of users; here they get what hosts need beside.
The server's reflection answers with the descriptors. They have no comments.

A message of Flyte 1 gets no class of its own if Flyte 2 has one that reads and writes the same: its name is an alias.
Of 116 classes that leaves 28, and a host starts sooner.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from betterproto2_compiler.compile.naming import pythonize_class_name
from betterproto2_compiler.known_types import WRAPPED_TYPES
from betterproto2_compiler.lib.google.protobuf import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    SourceCodeInfo,
)
from betterproto2_compiler.plugin.parser import traverse

from connectrio.codegen import DESCRIPTORS, OccupiedError, ProtoError, compile_descriptors, render_stubs, write_package

PROTOS = Path(__file__).parent
IDL = PROTOS.parent / "src" / "connectrio" / "idl"

# `datetime` and `timedelta` have no nanoseconds, and one value out of their range would make the whole request
# undecodable. So these two stay messages; `connectrio.literals` converts them, with a clear error.
KEPT_AS_MESSAGES = [("google.protobuf", "Timestamp"), ("google.protobuf", "Duration")]

Declared = DescriptorProto | EnumDescriptorProto

WELL_KNOWN = "google/protobuf/__init__.py"

# a struct's fields by name, as protobuf's own class has them
STRUCT_ITEMS = """
    def __getitem__(self, key: str) -> typing.Any:
        return self.fields[key].to_dict()

    def __contains__(self, key: object) -> bool:
        return key in self.fields

    def __iter__(self) -> typing.Iterator[str]:
        return iter(self.fields)

    def keys(self) -> typing.KeysView[str]:
        return self.fields.keys()

    def items(self) -> typing.ItemsView[str, typing.Any]:
        return self.to_dict().items()

    def get(self, key: str, default: typing.Any = None) -> typing.Any:
        return self.fields[key].to_dict() if key in self.fields else default
"""

PACKAGE_DOCSTRING = '"""Messages and service bases generated from `protos/` by `just gen`; never edited by hand."""\n'


def proto_files() -> list[Path]:
    """Return the .proto files, in order."""
    return sorted(PROTOS.rglob("*.proto"))


def parse() -> FileDescriptorSet:
    """Return the descriptors of all .proto files, with their comments."""
    descriptors = FileDescriptorSet.parse(compile_descriptors(proto_files(), [PROTOS], "--include_source_info"))
    for file in descriptors.file:
        if file.package.startswith("google."):
            file.source_code_info = SourceCodeInfo()  # comments of others
    return descriptors


def declared_in(parent: FileDescriptorProto | DescriptorProto) -> list[Declared]:
    """Return the messages and enums that stand directly in a file or in a message."""
    messages = parent.message_type if isinstance(parent, FileDescriptorProto) else parent.nested_type
    return [*messages, *parent.enum_type]


def find_aliases(descriptors: FileDescriptorSet) -> dict[str, str]:
    """Return Flyte 1's messages and enums that need no class of their own: full name → that of Flyte 2's.

    Flyte 2's has the same name, and every field of Flyte 1's, equal in name, number and type. It may have more. Types
    of fields are equal if one is an alias of the other, so pairs are removed until the rest agrees.
    """
    declared = {f".{file.package}.{item.name}": item for file in descriptors.file for item in declared_in(file)}
    in_flyte_2 = {item.name: name for name, item in declared.items() if name.startswith(".flyteidl2.")}
    aliases = {
        name: in_flyte_2[item.name]
        for name, item in declared.items()
        if name.startswith(".flyteidl.") and item.name in in_flyte_2
    }
    while True:
        agreeing = {
            one: two
            for one, two in aliases.items()
            if set(contract(declared[one], aliases)) <= set(contract(declared[two], aliases))
        }
        if agreeing == aliases:
            return aliases
        aliases = agreeing


def contract(item: Declared, aliases: dict[str, str]) -> Iterator[tuple[object, ...]]:
    """Yield the facts on which two types must agree, for `item` and the types within it."""
    if isinstance(item, EnumDescriptorProto):
        yield from (("value", value.name, value.number) for value in item.value)
        return
    for field in item.field:
        oneof = None if field.oneof_index is None else item.oneof_decl[field.oneof_index].name
        of_type = (field.type, field.label, field.proto3_optional, resolve(field.type_name, aliases))
        yield "field", field.name, field.number, field.json_name, oneof, *of_type
    for nested in declared_in(item):
        yield "nested", nested.name, type(nested)
        yield from ((nested.name, *fact) for fact in contract(nested, aliases))


def resolve(name: str, aliases: dict[str, str]) -> str:
    """Return the full name of the type that has a class: `name` may be, or may stand within, an alias."""
    outermost = re.match(r"[.a-z0-9_]+\.[A-Z]\w*", name)
    if outermost is None:
        return name
    return aliases.get(outermost[0], outermost[0]) + name[outermost.end() :]


def cut_aliases(file: FileDescriptorProto, aliases: dict[str, str]) -> dict[str, list[str]]:
    """Remove the aliases from `file`, and let the rest refer to what they are aliases of.

    :return: the Python names that the file's package no longer defines, by the package that does
    """
    moved: dict[str, list[str]] = {}
    for item, _, name in traverse(file):
        if isinstance(item, DescriptorProto):
            for field in item.field:
                field.type_name = resolve(field.type_name, aliases)
            if item.options is not None and item.options.map_entry:
                continue
        target = aliases.get(f".{file.package}.{name.split('.')[0]}")
        if target is not None:
            package = target[1:].rpartition(".")[0]
            moved.setdefault(package, []).append(pythonize_class_name(name))
    for method in (method for service in file.service for method in service.method):
        method.input_type = resolve(method.input_type, aliases)
        method.output_type = resolve(method.output_type, aliases)
    names = [f".{file.package}.{item.name}" for item in declared_in(file)]
    messages = [index for index, name in enumerate(names[: len(file.message_type)]) if name not in aliases]
    enums = [index for index, name in enumerate(names[len(file.message_type) :]) if name not in aliases]
    file.message_type = [file.message_type[index] for index in messages]
    file.enum_type = [file.enum_type[index] for index in enums]
    # a comment's path begins with the number of the field `message_type` or `enum_type`, and an index
    kept = {4: messages, 5: enums}
    comments = file.source_code_info or SourceCodeInfo()
    comments.location = [
        location
        for location in comments.location
        if location.path[:1] not in ([4], [5]) or location.path[1] in kept[location.path[0]]
    ]
    for location in comments.location:
        if location.path[:1] in ([4], [5]):
            location.path[1] = kept[location.path[0]].index(location.path[1])
    return moved


def with_aliases(module: str, package: str, moved: dict[str, list[str]]) -> str:
    """Return the text of `package`, with the names of `moved` imported and exported."""
    names = re.search(r"__all__ = (\(.*?\))\n", module, re.DOTALL)
    pool = re.search(r"from \.+message_pool import .*\n", module)
    if names is None or pool is None:
        raise SystemExit(f"the module of {package} is built in another way: adapt with_aliases in {__file__}")
    exported = sorted([*ast.literal_eval(names[1]), *(name for group in moved.values() for name in group)])
    root = "." * (package.count(".") + 2)
    imports = [
        line
        for source, group in sorted(moved.items())
        for line in (f"from {root}{source} import (", *(f"    {name}," for name in sorted(group)), ")")
    ]
    return "".join(
        [
            module[: names.start()],
            "\n".join(["__all__ = (", *(f'    "{name}",' for name in exported), ")", ""]),
            module[names.end() : pool.start()],
            "\n".join([*imports, module[pool.start() :]]),
        ]
    )


def render(descriptors: FileDescriptorSet) -> dict[str, str]:
    """Return the generated files: path below the output directory → text."""
    for name in KEPT_AS_MESSAGES:
        WRAPPED_TYPES.pop(name, None)
    aliases = find_aliases(descriptors)
    moved: dict[str, dict[str, list[str]]] = {}
    for file in descriptors.file:
        for source, names in cut_aliases(file, aliases).items():
            moved.setdefault(file.package, {}).setdefault(source, []).extend(names)
    files = render_stubs(descriptors)
    for package, sources in moved.items():
        path = f"{package.replace('.', '/')}/__init__.py"
        files[path] = with_aliases(files[path], package, sources)
    for file in descriptors.file:
        path = f"{file.package.replace('.', '/')}/__init__.py"
        files[path] = with_nested_enums(files[path], file)
    files["__init__.py"] = PACKAGE_DOCSTRING
    files[WELL_KNOWN] = with_struct_items(without_dateutil(files[WELL_KNOWN]))
    del files["py.typed"]
    return files


def with_nested_enums(module: str, file: FileDescriptorProto) -> str:
    """Return the text of a package, in which a message's class has the values of its enums, as in protobuf's classes.

    So it is `TaskExecution.RUNNING` and `TaskLog.DASHBOARD` here too.

    :raises SystemExit: the compiler writes something else now
    """
    for item, _, name in traverse(file):
        if isinstance(item, EnumDescriptorProto) and "." in name:
            message, enum = name.rpartition(".")[0], pythonize_class_name(name)
            end = f'\n\ndefault_message_pool.register_message("{file.package}", "{message}"'
            if module.count(end) != 1:
                raise SystemExit(f"{file.package} registers {message} in another way: adapt {__file__}")
            values = [f"    {value.name} = {enum}.{value.name}" for value in item.value]
            lines = ["", f"    {item.name} = {enum}", *values, ""]
            module = module.replace(end, "\n".join(lines) + end)
    return module


def with_struct_items(module: str) -> str:
    """Return `module` with a Struct whose fields can be read by name: `task_template.custom["queue"]`.

    :raises SystemExit: the compiler writes something else now
    """
    end = '\n\ndefault_message_pool.register_message("google.protobuf", "Struct"'
    if module.count(end) != 1:
        raise SystemExit(f"{WELL_KNOWN} registers Struct in another way: adapt with_struct_items in {__file__}")
    return module.replace(end, STRUCT_ITEMS + end)


def without_dateutil(module: str) -> str:
    """Return `module` with dateutil imported only to read a Timestamp from JSON, which hosts never do.

    Its import takes 10 ms and 1 MB.

    :raises SystemExit: the compiler writes something else now
    """
    at_the_top, use = "import dateutil.parser\n", "            dt = dateutil.parser.isoparse(value)\n"
    if module.count(at_the_top) != 1 or module.count("dateutil") != 2 or use not in module:
        raise SystemExit(f"{WELL_KNOWN} uses dateutil in another way: adapt without_dateutil in {__file__}")
    return module.replace(at_the_top, "").replace(use, f"            {at_the_top}\n{use}")


def generate(output: Path) -> None:
    """Make `output` hold freshly generated stubs and descriptors, and no other Python file.

    :raises SystemExit: a file cannot be compiled, or `output` is a directory with something else in it
    """
    try:
        files = {name: text.encode() for name, text in render(parse()).items()}
        files[DESCRIPTORS] = compile_descriptors(proto_files(), [PROTOS])
        write_package(output, files)
    except (ProtoError, OccupiedError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else IDL)
