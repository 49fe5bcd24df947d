"""How a command ends: an exit code and, if it failed, a message on standard error with a hint what to do next.

Every start of the command line imports this first, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from connectrio.cli.script import is_script
from connectrio.terminal import print_error

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "TEMPORARY_FAILURE",
    "UNREACHABLE",
    "USAGE",
    "CommandError",
    "UsageError",
    "command_error",
    "exit_code",
    "explained",
]

FAILURE = 1
USAGE = 2
# `health` got no answer
UNREACHABLE = 3
# EX_TEMPFAIL of sysexits.h: trying again may help
TEMPORARY_FAILURE = 75
# 128 + SIGINT, as shells report it
INTERRUPTED = 130
# 128 + SIGPIPE
_BROKEN_PIPE = 141

# for a call that has not reached a host
_NO_CONNECTION = "is the host running, and is --target its address? start one with: connectrio serve"
_NO_CONNECTOR = "see what the host serves with: connectrio ls"
_NO_CREDENTIALS = "add --secret NAME=VARIABLE, with an environment variable that has the secret; or --config NAME=VALUE"
_FOREIGN_META = "give what `connectrio create` printed for this job, as it is, as @FILE, or by a pipe as -"
_NO_ANSWER = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
_HINTS = {
    "UNAVAILABLE": "this may pass, so try again later; what is wrong with the host: connectrio top --once",
    "DEADLINE_EXCEEDED": "give the call more time with --timeout SECONDS",
    # a job, where it is no connector
    "NOT_FOUND": "it may have ended long ago, or be on another host; the jobs that this one knows: connectrio ps --all",
    "INVALID_ARGUMENT": "compare the inputs, or the resource meta, with what the connector expects",
    "UNAUTHENTICATED": "pass credentials with --secret NAME=ENVIRONMENT_VARIABLE",
    "PERMISSION_DENIED": "pass other credentials with --secret NAME=ENVIRONMENT_VARIABLE",
    "UNIMPLEMENTED": "the connector does not offer this, or the target is no connector host",
    "INTERNAL": "the host's log has the details",
}


class CommandError(Exception):
    """Ends a command with a message on standard error.

    :param hint: what to do next
    :param code: the exit code
    """

    def __init__(self, message: str, *, hint: str = "", code: int = FAILURE) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class UsageError(CommandError):
    """The command line is wrong."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=USAGE)


def command_error(error: Exception) -> CommandError:
    """Return what ends a command whose host cannot start; for a module that cannot be loaded, with its picture."""
    picture = getattr(error, "picture", "")
    return CommandError(f"{error}\n{picture}" if picture else str(error))


def exit_code(command: Callable[[], int | None]) -> int:
    """Run `command`, print the error that ended it, and return its exit code."""
    try:
        code = command() or 0
        if sys.stdout is not None:  # None: the process was started without it
            sys.stdout.flush()
    except CommandError as error:
        print_error(str(error), error.hint, failed=error.code != INTERRUPTED)
        return error.code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        # the reader of our output has gone; the interpreter's last flush must not fail again
        if is_script():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code


@contextmanager
def explained(
    *, unreachable: int = FAILURE, late: str = _HINTS["DEADLINE_EXCEEDED"], unserved: str = _NO_CONNECTOR
) -> Iterator[None]:
    """Turn a failed call in this block into a `CommandError` that says `STATUS: message`, with a hint.

    :param unreachable: the exit code if the host did not answer
    :param late: the hint if it did not answer in time
    :param unserved: the hint if no connector serves the task type
    """
    from connectrio.client.jobs import error_text
    from connectrio.rpc import GRPCError

    try:
        yield
    except GRPCError as error:
        name = error.status.name
        hint = {**_HINTS, "DEADLINE_EXCEEDED": late}.get(name, "")
        if (error.message or "").startswith("cannot connect to "):
            hint = _NO_CONNECTION
        elif (error.message or "").startswith("Cannot find connector "):
            hint = unserved
        elif "the connection has no secret" in (error.message or ""):
            hint = _NO_CREDENTIALS
        elif "resource_meta" in (error.message or "") and name == "INVALID_ARGUMENT":
            hint = _FOREIGN_META
        raise CommandError(
            error_text(error),
            hint=hint,
            code=unreachable if name in _NO_ANSWER else FAILURE,
        ) from error
