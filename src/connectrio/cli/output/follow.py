"""Following a job to its end: polls that back off, log lines as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, cast

import anyio

from connectrio.cli.errors import explained
from connectrio.cli.event_loop import unwrapped
from connectrio.cli.output.render import FINAL
from connectrio.client.jobs import Jobs
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, Resource
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import GRPCError, Status

__all__ = ["Backoff", "Follower", "LogReader", "View"]

# seconds
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 3.0
_GROWTH = 1.5
# how long a host may be away while a job is followed: a pod that is replaced takes about a minute
_PATIENCE = 60.0

_TRANSIENT = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}


class View(Protocol):
    """Where what happens to a job is shown."""

    def state(self, resource: Resource) -> None:
        """The job was polled."""

    def line(self, line: LogLine) -> None:
        """The job has written a line to its log."""

    def notice(self, text: str) -> None:
        """Something happened on the way to the job."""

    def log_ended(self, error: GRPCError) -> None:
        """There will be no more lines, because of `error`."""


class Backoff:
    """How long to wait before asking again: longer each time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._next = _FIRST_PAUSE

    def next(self) -> float:
        """The next pause, in seconds."""
        pause, self._next = self._next, min(self._next * _GROWTH, _LONGEST_PAUSE)
        return pause


class LogReader:
    """A job's log, read piece by piece: each piece begins where the one before it ended.

    A connector that knows tokens ends each piece with one, and the last one with an empty token. Of a connector that
    knows none, each piece is the whole log.

    :ivar token: where the next piece begins
    :ivar ended: there is no next piece
    """

    def __init__(self, jobs: Jobs, meta: bytes, token: str = "", lines: int = 0) -> None:
        self.token = token
        self.ended = False
        self._jobs = jobs
        self._meta = meta
        self._lines = lines
        self._seen = 0  # lines since `token`

    async def read_all(self) -> AsyncGenerator[LogLine]:
        """The lines that are new, piece by piece until a piece has none. Close it, if it is left before its end.

        :raises GRPCError: a call failed; what was read counts all the same
        """
        is_more = True
        while is_more:
            before, is_empty = self.token, True
            async with aclosing(self.read()) as lines:
                async for line in lines:
                    is_empty = False
                    yield line
            is_more = not (is_empty or self.ended or self.token == before)

    async def read(self) -> AsyncGenerator[LogLine]:
        """The lines of the next piece that are new. Close it, if it is left before its end.

        :raises GRPCError: the call failed; what was read counts all the same
        """
        began_at, following, skip = self.token, "", self._seen
        stream = self._jobs.logs(self._meta, began_at, self._lines)
        async with aclosing(cast("AsyncGenerator[GetTaskLogsResponse]", stream)) as responses:
            async for response in responses:
                if response.header is not None:
                    following = response.header.token
                for line in _lines_of(response):
                    if skip:
                        skip -= 1
                        continue
                    self._seen += 1
                    yield line
        if following not in ("", began_at):
            self.token, self._seen = following, 0
        self.ended = bool(began_at) and not following


def _lines_of(response: GetTaskLogsResponse) -> list[LogLine]:
    if response.body is None:
        return []
    return response.body.lines or [LogLine(message=text) for text in response.body.results]


class Follower:
    """Follows one job until it is in a final phase and its log has been read to the end.

    :param log: where to begin reading the log; at its beginning unless given
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
        """The job's state at its end.

        :raises CommandError: a poll failed, or the host was unavailable for too long
        """
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_log)
                resource = await self._poll_until_final()
                self._ended.set()
                # a log that does not end with its job is not waited for
                tasks.cancel_scope.deadline = anyio.current_time() + self._jobs.timeout
        return resource

    async def _poll_until_final(self) -> Resource:
        backoff = Backoff()
        while True:
            resource = await self._poll()
            self._view.state(resource)
            if resource.phase in FINAL:
                return resource
            await anyio.sleep(backoff.next())

    async def _poll(self) -> Resource:
        """One answer of the host, however often it has to be asked."""
        give_up_at = anyio.current_time() + self._patience
        backoff = Backoff()
        while True:
            try:
                return await self._jobs.get(self._meta)
            except GRPCError as error:
                left = give_up_at - anyio.current_time()
                if error.status not in _TRANSIENT or left <= 0:
                    with explained():
                        raise
                self._view.notice(f"{error.status.name}: {error.message}; trying for another {left:.0f} seconds")
            await anyio.sleep(backoff.next())

    async def _follow_log(self) -> None:
        backoff = Backoff()
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
