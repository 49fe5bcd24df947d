"""The commands of `connectrio` and `flyte-connector`. Each command's module is imported when the command is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cyclopts

from connectrio._version import __version__
from connectrio.cli.errors import UsageError, exit_code
from connectrio.rpc.garbage import without_collections
from connectrio.terminal import is_terminal

__all__ = ["connectrio_app", "dispatch", "flyte_connector_app"]

# group → command → its module and its examples
_COMMANDS = {
    "Hosting": {
        "demo": ("demo", "connectrio demo --backend trio"),
        "new": ("new", "connectrio new acme-reports --template http"),
        "check": ("check", "connectrio check my_connector.py --input n=21 --secret token=TOKEN"),
    },
    "Jobs": {
        "run": ("jobs", "connectrio run duckdb --sql 'select $n * 2 as twice' --input n=21 --output result"),
        "create": (
            "jobs",
            "connectrio create duckdb --sql 'select $day as day' --input day:datetime=2024-01-01 --json",
        ),
        "get": (
            "jobs",
            "connectrio get duckdb '{…}'\n  connectrio create duckdb --sql 'select 1' | connectrio get duckdb -",
        ),
        "logs": ("jobs", "connectrio logs duckdb @meta.json --follow"),
        "metrics": ("jobs", "connectrio metrics duckdb @meta.json --json"),
        "delete": ("jobs", "connectrio delete duckdb @meta.json"),
    },
    "Hosts": {
        "ps": ("status", "connectrio ps --search f7c1"),
        "top": ("status", "connectrio top\n  connectrio top --once"),
        "show": (
            "status",
            "connectrio show f7c1\n  connectrio create duckdb --sql 'select 1' | connectrio show -",
        ),
        "stacks": ("status", "connectrio stacks --url http://127.0.0.1:9090"),
        "ls": ("hosts", "connectrio ls --target 127.0.0.1:8000 --json"),
        "health": ("hosts", "connectrio health && echo ready\n  connectrio health --watch"),
    },
}

_EXAMPLES = """\
connectrio demo
  connectrio serve --modules my_connector.py
  connectrio run duckdb --sql 'select $n * 2 as twice' --input n=21 --output result
  connectrio ls"""


def connectrio_app() -> cyclopts.App:
    """Make the `connectrio` command."""
    app = _app("connectrio", "Hosts Flyte connectors, and talks to hosts of connectors.", _EXAMPLES)
    for order, (title, commands) in enumerate(_COMMANDS.items()):
        group = cyclopts.Group(title, sort_key=order)
        if title == "Hosting":
            app.command("connectrio.cli.commands.serve:serve_app", name="serve", group=group)
            app.command("connectrio.cli.commands.dev:dev_app", name="dev", group=group)
        for name, (module, example) in commands.items():
            app.command(
                f"connectrio.cli.commands.{module}:{name}",
                name=name,
                group=group,
                help_epilogue=_examples(example),
                version_flags=(),  # --version is the task type's, where a command has it
            )
    app.command(
        "connectrio.cli.commands.rpc:rpc_app", name="rpc", group=cyclopts.Group("gRPC", sort_key=len(_COMMANDS))
    )
    app.command(
        "connectrio.cli.commands.completion:completion",
        name="completion",
        help_epilogue=_examples('connectrio completion --install\n  eval "$(connectrio completion bash)"'),
    )
    app.command(_version, name="version", help_epilogue="")
    return app


def flyte_connector_app() -> cyclopts.App:
    """Make the `flyte-connector` command. The images of flyte-sdk start a host with its `c0`."""
    app = _app("flyte-connector", "Hosts Flyte connectors.", "flyte-connector c0 --port 8000 --prometheus_port 9090")
    app.command("connectrio.cli.commands.serve:c0_app", name="c0")
    return app


def _app(name: str, summary: str, example: str) -> cyclopts.App:
    return cyclopts.App(
        name=name,
        help=summary,
        help_format="plaintext",
        help_epilogue=_examples(example),
        version=__version__,
        default_parameter=cyclopts.Parameter(negative_iterable=(), negative_none=()),
    )


def _examples(example: str) -> str:
    return f"Examples:\n  {example}"


def _version() -> None:
    """Print the version."""
    print(__version__)


def dispatch(app: cyclopts.App, arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` ask for, and return its exit code.

    :param arguments: by default those of the process
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: _run_command(app, given))


def _run_command(app: cyclopts.App, arguments: list[str]) -> int:
    _prepare_help(app, arguments)
    try:
        with without_collections():
            command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise UsageError(str(error).strip(), hint=_help_hint(app, arguments)) from error
    except ValueError as error:  # from the validation of a dataclass of options
        raise UsageError(str(error), hint=_help_hint(app, arguments)) from error
    return command(*bound.args, **bound.kwargs) or 0


def _prepare_help(app: cyclopts.App, arguments: list[str]) -> None:
    """Set up what only help needs, because it takes time."""
    is_overview = not arguments or arguments[0] in app.help_flags
    if is_overview:
        app.help_epilogue = f"{app.help_epilogue}\n\nDocumentation: {_documentation()}"
        for name in app:
            app[name]  # imports its module: the overview shows the first line of its docstring
    is_group = arguments == ["rpc"]  # which has commands of its own, and shows them
    if not is_terminal() and (is_overview or is_group or any(flag in arguments for flag in app.help_flags)):
        from cyclopts.help.formatters import PlainFormatter
        from rich.console import Console

        app.help_formatter = PlainFormatter()
        app.console = Console(width=1000, color_system=None)  # a line for each option, for grep


def _documentation() -> str:
    """Return the address of the documentation, as the package's metadata has it."""
    from importlib.metadata import metadata

    urls = dict(url.split(", ", 1) for url in metadata("connectrio").get_all("Project-URL", []))
    return str(urls["Documentation"])


def _help_hint(app: cyclopts.App, arguments: list[str]) -> str:
    known, _, _ = app.parse_commands(arguments)
    return f"see: {' '.join([app.name[0], *known, '--help'])}"
