"""The parts of the reference that are made from the code: python tests/docs/generated.py writes them.

A part stands in its page between `<!-- generated: NAME -->` and `<!-- up to here -->`. `test_generated.py` fails while
one is not up to date.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cyclopts
import msgspec
from grpclib import GRPCError
from grpclib.const import Status

TESTS = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))

import connectrio  # noqa: E402 - the tests' folders are modules
from connectrio.cli import errors as cli_errors  # noqa: E402
from connectrio.cli.app import connectrio_app  # noqa: E402
from connectrio.cli.commands.serve import serve  # noqa: E402
from connectrio.cli.hosting import variable  # noqa: E402
from connectrio.cli.options.type_names import parse_type  # noqa: E402
from connectrio.cli.output import outputs_of  # noqa: E402
from connectrio.cli.settings_help import SettingHelp, settings_help  # noqa: E402
from connectrio.host.settings import HostSettings  # noqa: E402
from connectrio.idl.flyteidl2.core import TaskExecutionPhase  # noqa: E402
from connectrio.idl.flyteidl2.task import NamedLiteral, Outputs  # noqa: E402
from connectrio.literals import literal_to_python, python_to_literal_as  # noqa: E402
from connectrio.literals.declared import codec_for  # noqa: E402
from connectrio.service import errors as service_errors  # noqa: E402
from connectrio.service.operations import Operation  # noqa: E402
from drills.cluster import figures  # noqa: E402

DOCS = TESTS.parent / "docs"
_PART = re.compile(r"(?<=<!-- generated: )(\w+)( -->\n).*?(?=<!-- up to here -->)", re.DOTALL)


def cell(text: str) -> str:
    """A text as the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    return f"`{cell(str(text))}`"


def table(head: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are named in `head`."""
    names = head.split(" | ")
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def defaults() -> dict[str, Any]:
    """The default of each setting; None where there is none."""
    found = {each.name: None if each.default is inspect.Parameter.empty else each.default
             for each in inspect.signature(serve).parameters.values() if each.name != "settings"}  # fmt: skip
    for each in fields(HostSettings):
        found[each.name] = each.default if each.default_factory is MISSING else each.default_factory()
    return found | {"log_level": ["info"]}


def types() -> dict[str, str]:
    """The type of each setting, as annotated."""
    found = {each.name: str(each.type) for each in fields(HostSettings)}
    found |= {"backend": "Backend", "processes": "int", "log_level": "list[str]", "log_format": "LogFormat"}
    return found | {"config": "Path"}


_TYPES = {
    "int": "whole number", "float": "number", "str": "text", "bool": "true or false", "Path": "path",
    "list[str]": "list of texts", "tuple[str, ...]": "list of texts", "Backend": "`asyncio`, `uvloop` or `trio`",
    "LogFormat": "`auto`, `console` or `json`", "Literal['1.2', '1.3']": "`1.2` or `1.3`",
    'Literal["1.2", "1.3"]': "`1.2` or `1.3`",
}  # fmt: skip


def type_text(setting: SettingHelp, annotation: str) -> str:
    text = _TYPES[annotation.removesuffix(" | None")]
    return setting.unit if setting.unit and text in ("number", "whole number") else text


def grouped() -> dict[str, list[SettingHelp]]:
    found: dict[str, list[SettingHelp]] = {}
    for each in settings_help(serve).values():
        found.setdefault(each.group, []).append(each)
    return found


def toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json.dumps, value))}]"
    return str(value) if isinstance(value, float) else json.dumps(value, default=str)


def settings() -> Iterator[str]:
    """A table for each group: flag, variable and key; type and unit; default; meaning."""
    kinds, known = types(), defaults()
    for title, group in grouped().items():
        yield f"### {title}\n"
        rows = []
        for each in group:
            flag = each.name.replace("_", "-")
            flags = f"`--{flag}`, `--no-{flag}`" if kinds[each.name] == "bool" else f"`--{flag}`"
            names = [flags, code(variable(each.name)) if each.name != "config" else "", code(each.name)]
            spelt = "<br>".join(filter(None, names if each.name != "config" else names[:1]))
            default = known[each.name]
            shown = "" if default is None or default in ([], ()) else code(toml(default))
            rows.append((spelt, type_text(each, kinds[each.name]), shown, cell(each.text)))
        yield from table("flag, variable, key in TOML | type or unit | default | what it is", rows)


_EXAMPLES = {
    "host": "127.0.0.1", "page_token_file": "/etc/connectrio/tokens", "timeout": 60.0, "modules": ["my_connector.py"],
    "prefer": ["warehouse=my_package"], "exclude": ["flyteplugins-duckdb"], "tls_cert": "/etc/tls/tls.crt",
    "tls_key": "/etc/tls/tls.key", "tls_client_ca": "/etc/tls/ca.crt", "unix_socket": "/run/connectrio.sock",
    "logs_limit": 3600.0, "job_store": "postgresql://database/jobs", "backend": "uvloop",
    "connector_options": ["snowflake.rate_calls=30"],
}  # fmt: skip


def sample() -> Iterator[str]:
    """A TOML file with every setting, as a comment, and the first sentence of what it is."""
    known = defaults()
    yield '```toml title="connectrio.toml"'
    for title, group in grouped().items():
        yield f"\n# {title.upper()}"
        for each in group:
            if each.name == "config":
                continue
            default = known[each.name]
            is_none = default is None or default in ([], ())
            text = each.summary + ("; none by default" if is_none and "default" not in each.summary else "")
            yield f"\n# {text}"
            yield f"# {each.name} = {toml(_EXAMPLES[each.name] if is_none else default)}"
    yield "```\n"


def all_commands(app: cyclopts.App, path: str = "connectrio") -> Iterator[tuple[str, cyclopts.App]]:
    """Yield each command with its full name."""
    for name in app:
        if not name.startswith("-"):
            command = app[name]
            if command.default_command is None:
                yield from all_commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command


def said_of(command: cyclopts.App) -> list[str]:
    """The paragraphs of a command's help."""
    text = inspect.getdoc(command.default_command) or ""
    return [" ".join(each.split()) for each in text.partition(":param")[0].strip().split("\n\n")]


def overview() -> Iterator[str]:
    """What each command does, in a sentence."""
    found = all_commands(connectrio_app())
    rows = [(f"[`{name}`](#{name.replace(' ', '-')})", cell(said_of(each)[0])) for name, each in found]
    yield from table("command | what it does", rows)


def commands() -> Iterator[str]:
    """Each command: what it does, an example, its arguments and options."""
    app = connectrio_app()
    for name, command in all_commands(app):
        yield f"### {name}\n"
        yield from (f"{paragraph}\n" for paragraph in said_of(command))
        examples = (command.help_epilogue or "").removeprefix("Examples:\n").splitlines()
        yield from (f"    {line.strip()}" for line in examples)
        yield ""
        if name == "connectrio serve":
            yield "Its options are the [settings](settings.md).\n"
        elif rows := options_of(app, command):
            yield from table("argument or option | default | what it is", rows)


def options_of(app: cyclopts.App, command: cyclopts.App) -> list[tuple[str, ...]]:
    """A row for each argument and option of a command."""
    rows = []
    for each in command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True):
        default = each.field_info.default
        if each.show and each.names != ("*",):
            shown = "" if default in (None, inspect.Parameter.empty, [], (), False) else code(toml(default))
            rows.append((", ".join(map(code, each.names)), shown, cell(each.parameter.help or "")))
    return rows


_VALUES: dict[str, tuple[str, Any]] = {
    "int": ("INTEGER", 5), "float": ("FLOAT", 0.5), "str": ("STRING", "east"), "bool": ("BOOLEAN", True),
    "datetime": ("DATETIME", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    "duration": ("DURATION", timedelta(minutes=1, seconds=30)), "none": ("NONE", None),
    "enum(red|green)": ("enum type", "red"), "list[int]": ("collection", [1, 2]),
    "dict[str, float]": ("map", {"a": 0.5}), "int|none": ("union", 5), "dict": ("STRUCT", {"n": 1, "x": [0.5]}),
    "bytes": ("BINARY", b"\x00\x01"), "file": ("blob, SINGLE", "s3://b/a.csv"), "dir": ("blob, MULTIPART", "s3://b/d"),
    "dataframe": ("structured dataset", "s3://b/t.parquet"),
}  # fmt: skip


def literals() -> Iterator[str]:
    """A row for each type: how the command line, Flyte, Python and JSON have it."""
    rows = []
    for name, (flyte, value) in _VALUES.items():
        declared = parse_type(name)
        literal = python_to_literal_as(value, declared)
        python = repr(literal_to_python(literal, declared)).replace("datetime.timezone.utc", "UTC")
        printed = msgspec.json.encode(
            outputs_of(Outputs(literals=[NamedLiteral(name="v", value=literal)]))["v"]
        ).decode()
        codec = codec_for(declared)
        takes = cell((inspect.getdoc(type(codec)) or "").split("\n\n")[0])
        rows.append((code(name), flyte, code(codec.label), code(python.replace("datetime.", "")), code(printed), takes))
    yield from table("type on the command line | Flyte's type | Python | for example | in JSON | what it takes", rows)


_RAISED: list[tuple[str, BaseException]] = [
    ("`PermanentFailure` in `create`: the call succeeds, and the first poll reports FAILED. Other methods:",
     connectrio.PermanentFailure("the table is gone")),
    ("`InvalidRequestError`", connectrio.InvalidRequestError("a task without a query")),
    ("`UnknownJobError`", connectrio.UnknownJobError("job 5 is unknown")),
    ("`TransientError`", connectrio.TransientError("the vendor answers 503")),
    ("`GRPCError`", GRPCError(Status.RESOURCE_EXHAUSTED, "the quota is used up")),
    ("`NotImplementedError`, or a method that the connector does not have", NotImplementedError("no logs")),
    ("any other exception, also `SystemExit`", KeyError("id")),
    ("the host's limit for the operation has passed (`--get-limit`…)",
     service_errors.TimeLimitError("took longer than 60 s")),
    ("inputs, a resource meta or a token that the connector cannot read", service_errors.RequestError("input 'n' …")),
    ("an unknown task type, version or connector",
     service_errors.RequestError("no connector for 'spark'", Status.NOT_FOUND)),
    ("more calls than the host takes at once", service_errors.OverloadError("too many calls")),
    ("the connector's lifespan is not open, or its circuit breaker is", service_errors.OutageError("is not open")),
    ("a limit of the connector's policy allows no call now", service_errors.LimitedError("30 calls per minute")),
]  # fmt: skip


def statuses() -> Iterator[str]:
    """What is raised in a connector or found by the host, and the status that its client gets."""
    rows = []
    for what, error in _RAISED:
        failure = service_errors.classify(error, Operation.GET, "warehouse")
        rows.append((what, failure.status.name, code(" ".join(failure.message.split())), failure.severity.name.lower()))
    yield from table("what has happened | status | text for the client, for example | logged as", rows)


def hints() -> Iterator[str]:
    """What the commands advise for each status."""
    yield from table("status | what to do", [(name, cell(hint)) for name, hint in cli_errors._HINTS.items()])


def phases() -> Iterator[str]:
    """The phases of a job."""
    yield from table("phase | number", [(code(each.name), str(each.value)) for each in TaskExecutionPhase])


def rollouts() -> Iterator[str]:
    """What twenty replacements under load have cost."""
    head = "clients reach the hosts | processes | `drain_delay` | pods replaced | calls | failed | jobs | made twice"
    yield from table(f"{head} | slowest call", list(figures.rollouts_table()))


def situations() -> Iterator[str]:
    """What was tried of rolling updates, and what it has cost."""
    head = "row | what happens | settings | calls that failed | jobs made twice | what it asks"
    yield from table(head, list(figures.rows_table()))


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    each.__name__: each
    for each in (settings, sample, overview, commands, literals, statuses, hints, phases, rollouts, situations)
}


def current(page: str) -> str:
    """Return a page with its parts as they should be."""
    return _PART.sub(lambda part: "".join([part[1], part[2], "\n", *(line + "\n" for line in PARTS[part[1]]())]), page)


if __name__ == "__main__":
    for path in DOCS.rglob("*.md"):
        before = path.read_text()
        if (after := current(before)) != before:
            path.write_text(after)
