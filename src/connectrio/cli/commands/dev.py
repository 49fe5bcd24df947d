"""`connectrio dev`: a host for the author of a connector, which starts again when a file is saved."""

from __future__ import annotations

import errno
import shlex
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter

from connectrio._version import __version__
from connectrio.cli import event_loop
from connectrio.cli.commands.serve import read_toml, settings_app
from connectrio.cli.errors import CommandError, UsageError, command_error
from connectrio.cli.hosting import LogFormat, explained_start
from connectrio.cli.options.log_level import LogLevel
from connectrio.cli.script import end_process
from connectrio.cli.watching import Watched, forget_bytecode, watched, watching
from connectrio.connector.failures import LoadFailure
from connectrio.host.lifecycle import Addresses, HostError, HostState, completes_before
from connectrio.host.loading import ENTRY_POINT_GROUP
from connectrio.host.ports import bind_tcp
from connectrio.host.samples import Sample
from connectrio.host.settings import Backend, HostSettings, default_backend
from connectrio.logs import host_logging
from connectrio.processes.control import Described, ServeOptions
from connectrio.processes.supervisor import Supervisor, supervise
from connectrio.rpc.sockets import stop_listening
from connectrio.terminal import print_error, print_line, print_note, print_table, print_warning

__all__ = ["dev", "dev_app"]

_SETTINGS = HostSettings()
_LOG_LEVEL = ["info"]
_LOOPBACK = "127.0.0.1"
_DEFAULT_TARGET = f"{_LOOPBACK}:{HostSettings.port}"
# ports that are tried, from the one that was asked for
_PORTS = 100


def dev(
    modules: Annotated[list[str] | None, Parameter(name="MODULE", show_default=False)] = None,
    /,
    *,
    watch: Annotated[list[Path] | None, Parameter(consume_multiple=True, show_default=False)] = None,
    open: Annotated[bool, Parameter(negative=())] = False,  # noqa: A002 - the flag's name
    settings: Annotated[HostSettings, Parameter(name="*", consume_multiple=True)] = _SETTINGS,
    backend: Backend | None = None,
    processes: int = 1,
    log_level: LogLevel = _LOG_LEVEL,
    log_format: LogFormat = "console",
    config: Path | None = None,  # noqa: ARG001 - TomlFile reads it, before the others have their values
) -> None:
    """Host the connectors of a module while you write them: when you save a file, the new code serves.

    Calls in flight finish on the old code. A module that cannot be loaded is shown with its line; until the next save
    mends it, health is NOT_SERVING, and its calls are answered UNAVAILABLE with the error.

    It listens on 127.0.0.1 unless --host says otherwise, and takes the next free port for one that is taken. The
    settings are those of `connectrio serve`, with its variables and its TOML file.

    :param modules: modules or .py files that register connectors; by default those that ./pyproject.toml offers as
        entry points
    :param watch: further files to watch, and directories with all that is in them
    :param open: open the status page in a browser
    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
    :param processes: as for `connectrio serve`
    :param log_level: as for `connectrio serve`
    :param log_format: as for `connectrio serve`
    :param config: as for `connectrio serve`
    """
    if find_spec("watchfiles") is None:
        raise CommandError(
            "connectrio dev needs watchfiles, which is not installed", hint="pip install 'connectrio[dev]'"
        )
    named = list(dict.fromkeys([*(modules or ()), *settings.modules])) or _offered()
    what = watched(named, watch or ())
    settings = replace(settings, modules=named, host=settings.host or _LOOPBACK)
    with host_logging(log_level, log_format), explained_start():
        settings = event_loop.run(lambda: _with_free_ports(settings), backend)
        if log_level == _LOG_LEVEL:  # the author has not asked for the start and the end of each process
            log_level = [*log_level, "connectrio.host.host=warning"]
        options = ServeOptions(settings, processes, backend or default_backend(), list(log_level), log_format)
        supervise(options, end_process(), _Author(what, opens=open).conduct)


def _offered() -> list[str]:
    """Return the modules that ./pyproject.toml offers as entry points.

    :raises UsageError: it offers none, or is no TOML
    """
    project = Path("pyproject.toml")
    try:
        found = read_toml(project)["project"]["entry-points"][ENTRY_POINT_GROUP] if project.exists() else {}
        modules = [str(value).partition(":")[0].strip() for value in found.values()]
    except (KeyError, TypeError, AttributeError):
        modules = []
    if not modules:
        raise UsageError(
            f"no module is named, and ./pyproject.toml has no entry points of {ENTRY_POINT_GROUP}",
            hint="name the file that registers your connector: connectrio dev my_connector.py",
        )
    return modules


async def _with_free_ports(settings: HostSettings) -> HostSettings:
    """Return the settings with ports that nobody has, and say which differ from what was asked for."""
    port = await _free_port(settings.host, settings.port, "gRPC", "--port")
    exporter = await _free_port(settings.host, settings.prometheus_port, "the status page", "--prometheus-port", port)
    return replace(settings, port=port, prometheus_port=exporter)


async def _free_port(host: str | None, wanted: int, purpose: str, setting: str, not_this: int = 0) -> int:
    """Return the first free port from `wanted` on; 0 stays.

    :raises HostError: there is none, or the address cannot be listened on
    """
    for port in range(wanted, min(wanted + _PORTS, 65535) + 1):
        if port == not_this != 0:
            continue
        try:
            bound = await bind_tcp(host, port, purpose=purpose, setting=setting)
        except HostError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
            continue
        for each in bound:
            stop_listening(each)
        if port != wanted:
            print_warning(f"port {wanted} is taken: {purpose} gets port {port}")
        return port
    raise HostError(f"no port from {wanted} on is free for {purpose}; choose one with {setting}")


class _Author:
    """Replaces the process at each save, and shows the author what became of it.

    :param opens: open the status page, once
    """

    def __init__(self, what: Watched, *, opens: bool) -> None:
        self._what = what
        self._opens = opens
        self._files: set[Path] = set()
        self._changed = anyio.Event()
        self._shown: Described | None = None

    async def conduct(self, supervisor: Supervisor) -> None:
        """Start the code as it is, and again at each change, until cancelled, or for `timeout` seconds."""
        print_line(f"connectrio {__version__} dev", "bold green")
        print_line(f"  modules  {' '.join(supervisor.settings.modules)}")
        print_line(f"  watches  {self._what}")
        with anyio.move_on_after(supervisor.settings.timeout):
            async with watching(self._what, self._note):
                while True:
                    self._changed = anyio.Event()
                    await completes_before(self._changed, lambda: self._reload(supervisor))
                    await self._changed.wait()

    def _note(self, files: set[Path]) -> None:
        self._files |= files
        self._changed.set()

    async def _reload(self, supervisor: Supervisor) -> None:
        """Start the code as it is; when it serves, the old one drains. The next change cancels this."""
        files, self._files = self._files, set()
        forget_bytecode(files)
        if files:
            print_line(f"{', '.join(sorted(map(_short, files)))} changed", "cyan")
        began = time.monotonic()
        try:
            await supervisor.replace()
        except HostError as error:
            await self._show_broken(supervisor, error)
        else:
            await self._show(supervisor, f"{time.monotonic() - began:.2f} s")
        supervisor.prepare()

    async def _show_broken(self, supervisor: Supervisor, error: HostError) -> None:
        print_error(str(command_error(error)))
        source = ", ".join(f"module {each}" for each in supervisor.settings.modules)
        is_first = supervisor.state is HostState.STARTING
        try:
            await supervisor.replace(LoadFailure(source, "cannot be loaded", str(error)))
        except HostError:
            if is_first:
                raise
            print_note("the code of before goes on")
        else:
            print_note("calls are answered UNAVAILABLE with this error; mend it and save")
            self._open(supervisor)

    async def _show(self, supervisor: Supervisor, duration: str) -> None:
        """Say that the code serves, after so long; and what it serves, if that is new."""
        addresses, found = supervisor.addresses, await supervisor.describe()
        if addresses is None or found is None:
            return
        print_line(f"serving after {duration}", "bold green")
        if found != self._shown:
            self._shown = found
            _print_host(supervisor.settings, addresses, found)
        self._open(supervisor)

    def _open(self, supervisor: Supervisor) -> None:
        if self._opens and supervisor.addresses is not None:
            self._opens = False
            webbrowser.open(f"{supervisor.addresses.url}/status")


def _short(path: Path) -> str:
    """Return a path as the author would write it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _print_host(settings: HostSettings, addresses: Addresses, found: Described) -> None:
    print_line(f"  gRPC     {addresses.target}")
    if settings.page:
        print_line(f"  page     {addresses.url}/status")
    print_table("Connectors", ("Connector Name", "Task Types", "Loaded from"), found.connectors)
    for failure in found.not_loaded:
        print_line(f"not loaded: {failure}", "yellow")
    if found.samples:
        print_line("Try it:", "bold")
    for sample in found.samples:
        several = sum(each.module == sample.module for each in found.samples) > 1
        for command in _commands(sample, addresses.target, several=several):
            print_line(f"  {shlex.join(command)}")
    print_line(f"In production: {shlex.join(['connectrio', 'serve', '--modules', *settings.modules])}", "dim")


def _commands(sample: Sample, target: str, *, several: bool) -> Sequence[Sequence[str]]:
    """Return the commands that try a connector: on the host, and against the rules."""
    where = [] if target == _DEFAULT_TARGET else ["--target", target]
    one = ["--task-type", sample.task_type] if several else []
    return (
        ["connectrio", "run", sample.task_type, *where, *sample.options],
        ["connectrio", "check", sample.module, *one, *sample.options],
    )


dev_app = settings_app("dev", dev, "connectrio dev my_connector.py\n  connectrio dev my_package --watch queries --open")
