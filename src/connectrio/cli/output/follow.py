"""Following a job to its end: polls that back off, log lines as they come."""

from __future__ import annotations

from contextlib import aclosing
from typing import Protocol

import anyio

from connectrio.cli.errors import explained
from connectrio.cli.event_loop import unwrapped
from connectrio.client.jobs import Jobs, LogReader, error_text, poll_backoff
from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import GRPCError, Status

__all__ = ["Follower", "View"]

# seconds between two polls
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 3.0
# seconds for which a host may be unavailable: to replace a pod takes about a minute
_PATIENCE = 60.0

_TRANSIENT = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}


class View(Protocol):
    """Shows what happens to a job."""

    def state(self, resource: Resource) -> None:
        """The job was polled."""

    def line(self, line: LogLine) -> None:
        """The job has written a line to its log."""

    def notice(self, text: str) -> None:
        """A poll failed and will be repeated."""

    def log_ended(self, error: GRPCError) -> None:
        """No more lines will come, because of `error`."""


class Follower:
    """Follows one job until it has ended and its log has been read to the end.

    :param log: where to begin reading the log; by default at its beginning
    :param patience: seconds for which the host may be unavailable
    """

    def __init__(
        self, jobs: Jobs, meta: bytes, view: View, *, log: LogReader | None = None, patience: float = _PATIENCE
    ) -> None:
        self._jobs = jobs
        self._meta = meta
        self._view = view
        self._patience = patience
        self._log = log or LogReader(jobs, meta)
        self._ended = anyio.Event()

    async def follow(self) -> Resource:
        """Show the job until it has ended, and return its last state.

        :raises CommandError: a poll failed, or the host was unavailable for too long
        """
        backoff = poll_backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_log)
                while True:
                    resource = await self._poll()
                    self._view.state(resource)
                    if resource.phase in FINAL_PHASES:
                        break
                    await anyio.sleep(backoff.next())
                self._ended.set()
                # give up a log that does not end with its job
                tasks.cancel_scope.deadline = anyio.current_time() + self._jobs.timeout
        return resource

    async def _poll(self) -> Resource:
        """Poll the job, again and again while the host is unavailable."""
        give_up_at = anyio.current_time() + self._patience
        backoff = poll_backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                return await self._jobs.get(self._meta)
            except GRPCError as error:
                left = give_up_at - anyio.current_time()
                if error.status not in _TRANSIENT or left <= 0:
                    with explained():
                        raise
                self._view.notice(f"{error_text(error)}; trying for another {left:.0f} seconds")
            await anyio.sleep(backoff.next())

    async def _follow_log(self) -> None:
        backoff = poll_backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            was_last = self._ended.is_set()
            try:
                async with aclosing(self._log.read_all()) as lines:
                    async for line in lines:
                        self._view.line(line)
                        backoff.reset()
            except GRPCError as error:
                if error.status not in _TRANSIENT:
                    self._view.log_ended(error)
                    return
            if was_last or self._log.ended:
                return
            with anyio.move_on_after(backoff.next()):
                await self._ended.wait()
