"""Running the host of `connectrio serve`, and reading plain command lines without cyclopts.

cyclopts takes a fifth of the time in which a host starts, and 3 MB. Most hosts start with a line that is all
`--name value`, which `plain_serve` reads. cyclopts reads all other lines (help, other spellings, mistakes, settings
from the environment or a file). What plain_serve reads means the same to cyclopts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from connectrio.cli.errors import FAILURE, CommandError, UsageError, command_error
from connectrio.cli.event_loop import event_loop
from connectrio.cli.script import end_process, is_script, load_structlog, starting
from connectrio.host.settings import Backend, HostSettings, changed_settings, default_backend

load_structlog()

from connectrio.logs import (  # noqa: E402 - imports structlog, perhaps with rich
    LogFormat,
    LogLevel,
    get_logger,
    host_logging,
    writes_json,
)

if TYPE_CHECKING:
    from connectrio.host.host import Host
    from connectrio.host.lifecycle import Addresses

__all__ = ["DEFAULT_FILE", "LogFormat", "explained_start", "host", "plain_serve", "variable"]

log = get_logger("connectrio.host.host")

DEFAULT_FILE = "connectrio.toml"

_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*|[a-z]+(?:_[a-z]+)*)")
_TEXT = re.compile(r"[\w./:][\w./:-]*", re.ASCII)
# for each type whose values are one word: its pattern, and what converts it
_ONE_WORD: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "int": (re.compile(r"[0-9]{1,15}"), int),
    "float": (re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?"), float),
    "str": (_TEXT, str),
    "Path": (_TEXT, Path),
    **{
        name: (re.compile("|".join(get_args(choices))), convert)
        for name, choices, convert in (
            ("Backend", Backend, str),
            ("LogLevel", LogLevel, lambda level: [level]),
            ("LogFormat", LogFormat, str),
        )
    },
}
# variables that are read elsewhere, and those that Kubernetes makes of a Service
_NOT_OURS = re.compile(r"^CONNECTRIO_DUCKDB_|_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_[A-Z]+(_|$)")
# the parameters of `host` beside the settings, and the type of each flag
_BESIDE = {"backend": "Backend", "processes": "int", "log_level": "LogLevel", "log_format": "LogFormat"}
_TYPES = {field.name: str(field.type).removesuffix(" | None") for field in fields(HostSettings)} | _BESIDE


def variable(setting: str) -> str:
    """Return the environment variable of a setting: `CONNECTRIO_PORT` for "port"."""
    return f"CONNECTRIO_{setting.upper()}"


def host(
    settings: HostSettings,
    *,
    backend: Backend | None = None,
    processes: int = 1,
    log_level: Sequence[str] = ("info",),
    log_format: LogFormat = "auto",
) -> None:
    """Host connectors until a signal stops it.

    :param processes: the number of hosts that share the one port
    :param log_level: see `connectrio.logs.Levels.read`
    :raises CommandError: the host cannot start
    """
    with host_logging(log_level, log_format, owns_process=is_script()), explained_start():
        event_loop(backend)  # fails if it is not installed
        _check_job_store(settings)
        _warn_of_variables()
        if processes != 1:
            from connectrio.processes.control import ServeOptions
            from connectrio.processes.launch import become_supervisor

            options = ServeOptions(settings, processes, backend or default_backend(), list(log_level), log_format)
            if end_process() is not None:
                become_supervisor(options)
            from connectrio.processes.supervisor import supervise

            supervise(options)
            return
        # another program's garbage collector stays as it is
        with starting() if is_script() else nullcontext(lambda: None) as started:
            from connectrio.host.runner import announce, run_host

            def announce_start(host: Host, addresses: Addresses) -> None:
                announce(host, addresses)
                started()

            run_host(settings, backend=backend, announce=announce_start, end_process=end_process())


def _check_job_store(settings: HostSettings) -> None:
    """Check that the command line, which every user of the machine can read, has no password.

    :raises UsageError: it has
    """
    url = settings.job_store
    has_password = url is not None and changed_settings(settings)["job_store"] != url
    if has_password and any(word.endswith(str(url)) for word in sys.argv):
        raise UsageError(
            "--job-store has a password, and every user of this machine can read command lines: give the URL as"
            f" {variable('job_store')} or in the TOML file, or leave the password to PGPASSWORD, PGPASSFILE or a"
            " service of libpq"
        )


def _warn_of_variables() -> None:
    """Log which variables of the environment look like settings and are none: their names may be misspelt."""
    prefix = variable("")
    # the last ones are of the commands that ask a host
    known = {name.upper() for name in (*_TYPES, "config", "url", "target", "token")}
    for name, value in sorted(os.environ.items()):
        # Kubernetes sets its own for each Service whose name begins so
        if not name.startswith(prefix) or _NOT_OURS.search(name) or value.startswith(("tcp://", "udp://", "sctp://")):
            continue
        setting = name.removeprefix(prefix)
        if setting not in known:
            import difflib  # most hosts have none

            near = difflib.get_close_matches(setting, known, n=1, cutoff=0.55)
            fields = {"nearest": prefix + near[0]} if near else {}
            log.warning("a variable of the environment is no setting, and has no effect", variable=name, **fields)


@contextmanager
def explained_start() -> Iterator[None]:
    """Say why the host cannot start if this block raises that: in a line of the log, if all lines there are JSON.

    :raises CommandError: otherwise
    """
    from connectrio.host.lifecycle import HostError

    try:
        yield
    except (CommandError, HostError) as error:
        if is_script() and writes_json():
            picture = getattr(error, "picture", "")
            fields = {"exception": picture} if picture else {}
            log.error("the host cannot start", error=str(error), **fields)  # noqa: TRY400 - the text says what to do
            raise SystemExit(FAILURE) from error
        raise error if isinstance(error, CommandError) else command_error(error) from error


def plain_serve(arguments: Sequence[str]) -> Callable[[], None] | None:
    """Return the call of `host` that `arguments` ask for; None if the command line needs cyclopts."""
    if Path(DEFAULT_FILE).exists() or any(os.environ.get(variable(name)) for name in (*_TYPES, "config")):
        return None
    flags: dict[str, list[str]] = {}
    words: list[str] | None = None
    for word in arguments:
        flag = _FLAG.fullmatch(word)
        if flag is None and words is not None and _TEXT.fullmatch(word):
            words.append(word)
        elif flag is None or (name := flag[1].replace("-", "_")) in flags:
            return None
        else:
            words = flags[name] = []
    try:
        given = dict(_setting(flag, words) for flag, words in flags.items())
        beside = {name: given.pop(name) for name in _BESIDE if name in given}
        return partial(host, HostSettings(**given), **beside)
    except ValueError:  # for a value that HostSettings refuses, cyclopts names the option
        return None


def _setting(flag: str, words: list[str]) -> tuple[str, Any]:
    """Return the setting of a flag and its value.

    :raises ValueError: it takes cyclopts to read this
    """
    positive = flag.removeprefix("no_")
    if _TYPES.get(positive) == "bool" and not words:
        return positive, flag == positive
    kind = _TYPES.get(flag, "")
    if kind == "list[str]" and words:
        return flag, words
    if kind in _ONE_WORD and len(words) == 1:
        pattern, convert = _ONE_WORD[kind]
        if pattern.fullmatch(words[0]):
            return flag, convert(words[0])
    raise ValueError(flag)
