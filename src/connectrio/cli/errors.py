"""How a command fails: one message, a hint what to do next, an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "TEMPORARY_FAILURE",
    "UNREACHABLE",
    "USAGE",
    "CommandError",
    "UsageError",
    "explained",
]

FAILURE = 1
USAGE = 2
# of `health`: the host could not be asked
UNREACHABLE = 3
# sysexits.h, EX_TEMPFAIL: trying again may help
TEMPORARY_FAILURE = 75
# 128 + SIGINT, as shells have it
INTERRUPTED = 130


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
    """The command line asks for something that cannot be."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=USAGE)


@contextmanager
def explained(*, unreachable: int = FAILURE) -> Iterator[None]:
    """A failed call in this block becomes a `CommandError` that says `status name: message`.

    :param unreachable: the exit code when the host did not answer
    """
    from connectrio.rpc import GRPCError

    try:
        yield
    except GRPCError as error:
        name = error.status.name
        raise CommandError(
            f"{name}: {error.message}" if error.message else name,
            hint=_HINTS.get(name, ""),
            code=unreachable if name in _NO_ANSWER else FAILURE,
        ) from error


_NO_ANSWER = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}

_HINTS = {
    "UNAVAILABLE": "is the host running, and is --target its address? start one with: connectrio serve",
    "DEADLINE_EXCEEDED": "give the call more time with --timeout SECONDS",
    "NOT_FOUND": "see what the host serves with: connectrio ls",
    "INVALID_ARGUMENT": "compare the inputs, or the resource meta, with what the connector expects",
    "UNAUTHENTICATED": "pass credentials with --secret NAME=ENVIRONMENT_VARIABLE",
    "PERMISSION_DENIED": "pass other credentials with --secret NAME=ENVIRONMENT_VARIABLE",
    "UNIMPLEMENTED": "the connector does not offer this, or the target is no connector host",
    "INTERNAL": "the host's log has the whole story",
}
