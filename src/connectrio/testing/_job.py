"""A job of a test, and what is known of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from connectrio.client.jobs import Jobs
from connectrio.connector.base import Phase, TaskLog
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.literals import literal_to_python
from connectrio.service.operations import Operation

__all__ = ["Job", "LogPage", "State"]

T = TypeVar("T")
Perform = Callable[[Operation, Awaitable[T]], Awaitable[T]]

_FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED})

# seconds between two polls; a test has no vendor to be polite to
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
_GROWTH = 1.5


@dataclass(frozen=True)
class State:
    """The state of a job, as the executor gets it, with Python values for literals.

    :ivar outputs: output name → value, whatever the phase; the executor reads them of a job that has SUCCEEDED
    :ivar message: what the user reads of failed and queued jobs
    """

    phase: Phase
    message: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    custom_info: Mapping[str, Any] = field(default_factory=dict)
    log_links: Sequence[TaskLog] = ()

    @property
    def succeeded(self) -> bool:
        """Whether the job has ended well."""
        return self.phase is Phase.SUCCEEDED

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.phase in _FINAL

    @classmethod
    def of(cls, resource: Resource) -> State:
        """The state that a response reports.

        :raises LiteralError: an output has no value
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

    :ivar meta: the bytes by which the connector finds it again, as the executor stores and logs them
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
        """Poll the job until it is at its end.

        :param until: wait for the first state of which this is true instead
        :param seconds: how long at most
        :raises TimeoutError: it took longer; the message has the last state
        :raises GRPCError: a poll failed
        """
        reached = until or (lambda state: state.final)
        pause = _FIRST_PAUSE
        state: State | None = None
        with anyio.move_on_after(seconds):
            while True:
                state = await self.get()
                if reached(state):
                    return state
                await anyio.sleep(pause)
                pause = min(pause * _GROWTH, _LONGEST_PAUSE)
        raise TimeoutError(f"the job was not where it was waited for after {seconds:g} s; its last state was {state}")

    async def delete(self) -> None:
        """Cancel the job.

        :raises GRPCError: the call failed
        """
        await self._perform(Operation.DELETE, self._jobs.delete(self.meta))

    async def log_page(self, token: str = "", lines: int = 0) -> LogPage:
        """One answer to GetTaskLogs.

        :param token: where to begin: the token of the page before
        :param lines: how many are wanted; 0 for the connector's choice
        :raises GRPCError: the call failed
        """
        page: LogPage = await self._perform(Operation.GET_LOGS, self._log_page(token, lines))
        return page

    async def logs(self) -> list[str]:
        """The texts of all lines that there are, page by page.

        :raises GRPCError: a call failed
        """
        texts: list[str] = []
        token = ""
        while True:
            page = await self.log_page(token)
            texts += [line.message for line in page.lines]
            if not page.lines or page.token in ("", token):
                return texts
            token = page.token

    async def metrics(self, queries: Sequence[str] = ()) -> dict[str, Any]:
        """Metric name → its data, as JSON has it.

        :raises GRPCError: the call failed
        """
        results = await self._perform(Operation.GET_METRICS, self._jobs.metrics(self.meta, queries))
        return {result.metric: {} if result.data is None else result.data.to_dict() for result in results}

    async def _log_page(self, token: str, lines: int) -> LogPage:
        found: list[LogLine] = []
        following = ""
        async for response in self._jobs.logs(self.meta, token, lines):
            if response.header is not None:
                following = response.header.token
            if response.body is not None:
                found += response.body.lines or [LogLine(message=text) for text in response.body.results]
        return LogPage(found, following)
