"""A job of a test, and its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from connectrio.client.jobs import Jobs, LogReader, log_lines, poll_backoff
from connectrio.connector.base import Phase, TaskLog
from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.literals import literal_to_python
from connectrio.service.operations import Operation

__all__ = ["Job", "LogPage", "State"]

T = TypeVar("T")
Perform = Callable[[Operation, Awaitable[T]], Awaitable[T]]

# seconds between two polls: short, because the vendor is part of the test
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25


@dataclass(frozen=True)
class State:
    """The state of a job, as the executor gets it, with Python values for literals.

    :ivar outputs: output name → value, in every phase; the executor reads them only of a job that has SUCCEEDED
    :ivar message: shown to the user for failed and queued jobs
    """

    phase: Phase
    message: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    custom_info: Mapping[str, Any] = field(default_factory=dict)
    log_links: Sequence[TaskLog] = ()

    @property
    def succeeded(self) -> bool:
        """Whether the job has SUCCEEDED."""
        return self.phase is Phase.SUCCEEDED

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.phase in FINAL_PHASES

    @classmethod
    def of(cls, resource: Resource) -> State:
        """Return the state that a response reports.

        :raises LiteralError: an output has no Python value
        """
        literals = () if resource.outputs is None else resource.outputs.literals
        return cls(
            phase=Phase(resource.phase),
            message=resource.message,
            outputs={named.name: None if named.value is None else literal_to_python(named.value) for named in literals},
            custom_info={} if resource.custom_info is None else resource.custom_info.to_dict(),
            log_links=tuple(resource.log_links),
        )


@dataclass(frozen=True)
class LogPage:
    """Some lines of a job's log.

    :ivar token: where the next page begins; "" if the connector names no next page
    """

    lines: Sequence[LogLine]
    token: str


class Job:
    """A job that `LocalHost.create` has made. All calls raise `GRPCError` with the status that the executor sees.

    :ivar meta: the resource meta, by which the connector finds the job again. The executor stores and logs it
    """

    def __init__(self, jobs: Jobs, meta: bytes, perform: Perform[Any]) -> None:
        self.meta = meta
        self._jobs = jobs
        self._perform = perform

    def __repr__(self) -> str:
        return f"Job({self._jobs.category.name!r}, {self.meta!r})"

    async def get(self) -> State:
        """Poll the job once.

        :raises GRPCError: the call failed
        """
        return State.of(await self._perform(Operation.GET, self._jobs.get(self.meta)))

    async def wait(self, until: Callable[[State], bool] | None = None, *, seconds: float = 60.0) -> State:
        """Poll the job until it has ended, and return its state.

        :param until: return the first state for which this is true instead
        :param seconds: how long to wait at most
        :raises TimeoutError: it took longer; the message has the last state
        :raises GRPCError: a poll failed
        """
        backoff = poll_backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        state: State | None = None
        with anyio.move_on_after(seconds):
            while True:
                state = await self.get()
                if until(state) if until is not None else state.final:
                    return state
                await anyio.sleep(backoff.next())
        raise TimeoutError(f"the job was not in the awaited state after {seconds:g} s; its last state was {state}")

    async def delete(self) -> None:
        """Cancel the job.

        :raises GRPCError: the call failed
        """
        await self._perform(Operation.DELETE, self._jobs.delete(self.meta))

    async def log_page(self, token: str = "", lines: int = 0) -> LogPage:
        """Call GetTaskLogs once.

        :param token: where to begin: the token of the page before
        :param lines: how many to ask for; 0 leaves it to the connector
        :raises GRPCError: the call failed
        """

        async def read() -> LogPage:
            found: list[LogLine] = []
            following = ""
            async for response in self._jobs.logs(self.meta, token, lines):
                if response.header is not None:
                    following = response.header.token
                found += log_lines(response)
            return LogPage(found, following)

        page: LogPage = await self._perform(Operation.GET_LOGS, read())
        return page

    async def logs(self) -> list[str]:
        """Return the texts of all lines of the log, read page by page.

        :raises GRPCError: a call failed
        """

        async def read() -> list[str]:
            async with aclosing(LogReader(self._jobs, self.meta).read_all()) as lines:
                return [line.message async for line in lines]

        texts: list[str] = await self._perform(Operation.GET_LOGS, read())
        return texts

    async def metrics(self, queries: Sequence[str] = ()) -> dict[str, Any]:
        """Return metric name → its data, as JSON has it.

        :raises GRPCError: the call failed
        """
        results = await self._perform(Operation.GET_METRICS, self._jobs.metrics(self.meta, queries))
        return {result.metric: {} if result.data is None else result.data.to_dict() for result in results}
