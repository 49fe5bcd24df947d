"""Tries the rules on one connector with a sample task."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import msgspec
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.client.jobs import error_text
from connectrio.client.task import new_execution
from connectrio.conformance._answers import LogPages, check_get_many, check_idempotence, check_retry_after
from connectrio.conformance._methods import check_methods
from connectrio.conformance._report import Report
from connectrio.connector.base import AsyncConnector
from connectrio.connector.registry import Registry
from connectrio.diagnostics import text_of, type_name
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate
from connectrio.literals import LiteralError
from connectrio.masking import SHORTEST_SECRET, SecretMask
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation
from connectrio.testing import Job, LocalHost, State, serving_in_memory

__all__ = ["check_connector"]

# calls that are made at once
_AT_ONCE = 4
_GARBAGE = b"\xff\x00 not a resource meta"


async def check_connector(
    connector: AsyncConnector[Any], request: CreateTaskRequest, *, seconds: float = 60.0
) -> Report:
    """Try every rule on `connector`.

    It creates several jobs of the task, and deletes each of them.

    :param request: the sample task, with the secrets that the connector needs
    :param seconds: how long one job may take
    """
    report = Report(connector.name)
    registry = Registry()
    registry.register(connector)
    # failures that a host would retry or hide must be seen here
    settings = HostSettings(entry_points=False, poll_retry=0, poll_absorb=0, watchdog=0)
    cls = type(connector)
    if connector.name == AsyncConnector.name:
        report.found("names", cls.__qualname__, f"its name is the default, {connector.name!r}")
    if not cls.__doc__ and not connector.converts_inputs:  # the host makes the class of a connector for flyte-sdk
        report.found("names", cls.__qualname__, "it has no docstring")
    check_retry_after(connector, report)
    with _captured_logs() as logs:
        async with serving_in_memory(settings, registry) as host:
            if host.host.failures:
                report.skip("the lifespan could not be opened")
            else:
                await _Check(connector, request, seconds, host, report, logs).run()
        for failure in host.host.failures:
            report.found("lifespan", f"{cls.__qualname__}.lifespan", failure.error)
    report.finish()
    return report


class _Check:
    """Tries the rules that need jobs, once."""

    def __init__(
        self,
        connector: AsyncConnector[Any],
        request: CreateTaskRequest,
        seconds: float,
        host: LocalHost,
        report: Report,
        logs: list[str],
    ) -> None:
        self._connector = connector
        self._class = type(connector).__qualname__
        self._request = request
        self._seconds = seconds
        self._host = host
        host.secrets_for_logs = False  # as for the executor
        self._report = report
        self._logs = logs
        self._jobs: list[Job] = []  # deleted at the end
        self._pages: LogPages | None = None

    async def run(self) -> None:
        together = await self._create_at_once()
        job = await self._create()
        if job is None:
            self._report.skip("there is no job without `create`")
            await self._clean_up()
            return
        try:
            await self._check_concurrency(together)
            meta = self._check_metadata(job)
            state = await self._check_end(job)
            await self._check_reports(job)
            await self._check_garbage()
            await self._check_deletion(job, "the job has ended" if state is not None else "the job runs")
            deleted = await self._check_early_deletion()
            await self._check_answers([job, *deleted])
            if self._connector.converts_inputs:
                own_loop = "a connector for flyte-sdk or flytekit runs in an event loop of its own"
                self._report.untried |= {"cancellation": own_loop, "blocking": own_loop}
            elif meta is not None:
                await check_methods(self._connector, self._new_request, meta, self._created, self._report)
            self._check_secrets(job, state)
            await self._check_late_logs()
        finally:
            await self._clean_up()

    def _new_request(self) -> CreateTaskRequest:
        """Return a copy of the sample task that becomes a job of its own."""
        request = copy.deepcopy(self._request)
        request.task_execution_metadata = new_execution(request.template or TaskTemplate(), domain="check")
        return request

    def _created(self, meta: Any) -> None:
        self._jobs.append(self._host.job(self._request, meta.encode()))

    async def _create(self) -> Job | None:
        try:
            job = await self._host.submit(self._new_request())
        except GRPCError as error:
            self._found("create", "create", error_text(error))
            return None
        self._jobs.append(job)
        return job

    async def _create_at_once(self) -> list[Job | GRPCError]:
        """Create several jobs at once, on a connector that has answered no call yet. Return them, or their errors."""
        results: list[Job | GRPCError] = []

        async def create() -> None:
            try:
                job = await self._host.submit(self._new_request())
            except GRPCError as error:
                results.append(error)
            else:
                results.append(job)
                self._jobs.append(job)

        async with anyio.create_task_group() as tasks:
            for _ in range(_AT_ONCE):
                tasks.start_soon(create)
        return results

    async def _check_concurrency(self, created: list[Job | GRPCError]) -> None:
        """Report what fails only because calls come at once: `create` has succeeded alone since."""
        for error in created:
            if isinstance(error, GRPCError):
                self._found("concurrency", "create", f"called {_AT_ONCE} times at once, it failed: {error_text(error)}")
        jobs = [job for job in created if isinstance(job, Job)]
        different = len({job.meta for job in jobs})
        if different < len(jobs):
            self._found("concurrency", "create", f"{len(jobs)} jobs, asked for at once, are only {different}")
        failed: list[tuple[Job, GRPCError]] = []

        async def poll(job: Job) -> None:
            try:
                await job.get()
            except GRPCError as error:
                failed.append((job, error))
            except LiteralError:
                pass  # the rule "poll" reports it

        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(poll, job)
        for job, error in failed:
            with suppress(GRPCError, LiteralError):  # as above
                await job.get()
                self._found("concurrency", "get", f"called {len(jobs)} times at once, it failed: {error_text(error)}")

    def _check_metadata(self, job: Job) -> Any:
        """Return the object that `decode` makes of a job's resource meta; None if it fails."""
        try:
            msgspec.json.decode(job.meta)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._found("metadata", "create", f"the resource meta is not JSON: {job.meta[:80]!r}")
        try:
            meta = self._connector.metadata_type.decode(job.meta)
            again = meta.encode()
        except Exception as error:  # noqa: BLE001 - both may be the connector's code
            problem = f"{type_name(error)}: {text_of(error)}"
            self._found("metadata", "create", f"its resource meta cannot be decoded again: {problem}")
            return None
        if again != job.meta:
            self._found("metadata", "create", f"{job.meta[:80]!r} was decoded, and encodes as {again[:80]!r}")
        return meta

    async def _check_end(self, job: Job) -> State | None:
        """Return the job's last state; None if it does not end."""
        try:
            state = await job.wait(seconds=self._seconds)
            later = await job.get()
        except GRPCError as error:
            self._found("poll", "get", f"a poll failed: {error_text(error)}")
        except LiteralError as error:
            self._found("poll", "get", f"an output cannot be read: {error}")
        except TimeoutError as error:
            self._found("end", "get", str(error))
        else:
            if later.phase is not state.phase:
                self._found("end", "get", f"a job that was {state.phase.name} was {later.phase.name} afterwards")
            return state
        return None

    async def _check_reports(self, job: Job) -> None:
        for rule, operation, call in (
            ("logs", Operation.GET_LOGS, job.logs),
            ("metrics", Operation.GET_METRICS, job.metrics),
        ):
            if not ConnectorMethod.of(self._connector, operation).overridden:
                self._report.untried[rule] = f"there is no {operation.value}"
                continue
            try:
                found = await call()
                if rule == "logs":
                    self._pages = LogPages(job, f"{self._class}.get_logs", self._report)
                    await self._pages.read()
            except GRPCError as error:
                if error.status is Status.UNIMPLEMENTED:
                    self._report.untried[rule] = f"there is no {operation.value}"
                    continue
                self._found(rule, operation.value, f"it failed for a job that has ended: {error_text(error)}")
            else:
                self._logs.append(repr(found))
        if "logs" in self._report.untried:
            self._report.untried["late-logs"] = self._report.untried["logs"]

    async def _check_garbage(self) -> None:
        try:
            state = await self._host.job(self._request, _GARBAGE).get()
        except GRPCError as error:
            if error.status not in (Status.INVALID_ARGUMENT, Status.NOT_FOUND):
                self._found("garbage", "get", f"for bytes that are no resource meta it failed with {error_text(error)}")
        else:
            self._found("garbage", "get", f"for bytes that are no resource meta it reported {state.phase.name}")

    async def _check_deletion(self, job: Job, when: str) -> None:
        for count in ("once", "twice"):
            try:
                await job.delete()
            except GRPCError as error:
                self._found("delete", "delete", f"called {count}, when {when}, it failed: {error_text(error)}")
                return
        try:
            await job.get()
        except GRPCError as error:
            self._found("get-after-delete", "get", f"after delete, it failed: {error_text(error)}")

    async def _check_early_deletion(self) -> list[Job]:
        """Return the job that was deleted; none if it could not be created."""
        job = await self._create()
        if job is None:
            return []
        await self._check_deletion(job, "the job had just been created")
        if not any(finding.rule in ("delete", "get-after-delete", "poll", "end") for finding in self._report.findings):
            await self._check_end(job)
        return [job]

    async def _check_answers(self, jobs: list[Job]) -> None:
        """Try `create` and `get_many` of the connector itself: a host makes no job twice, and asks for many by itself.

        :param jobs: one that has ended, and one that was deleted early
        """
        service = self._host.host.service
        if service is None:  # it has not started
            return
        metas = await check_idempotence(self._connector, self._new_request(), service.workers, self._report)
        for meta in metas:
            self._created(meta)
        fresh = await self._create()
        jobs = jobs if fresh is None else [fresh, *jobs]
        await check_get_many(self._connector, self._request, jobs, service.workers, self._report)

    async def _check_late_logs(self) -> None:
        """Look for lines that have come since the log was read."""
        if self._pages is not None:
            with suppress(GRPCError):  # its log may have gone with the job
                await self._pages.read_later()

    def _check_secrets(self, job: Job, state: State | None) -> None:
        connection = self._request.connection or Connection()
        names = [name for name, value in connection.secrets.items() if len(value.strip()) >= SHORTEST_SECRET]
        if not names:
            self._report.untried["secrets"] = "the sample task has none: give some with --secret"
            return
        mask = SecretMask(connection.secrets)
        for method, what, text in (
            ("create", "the resource meta holds", job.meta.decode("utf-8", "replace")),
            ("get", "the job's state holds", repr(state)),
            ("logs", "a log line, or a metric, holds", "\n".join(self._logs)),
        ):
            masked = mask.text(text, len(text))  # the host has done that already with what it sends and logs
            for name in names:
                if f"[secret {name}]" in masked:
                    self._found("secrets", method, f"{what} the secret {name!r}")

    async def _clean_up(self) -> None:
        """Delete all jobs. Failures are reported by the rule about `delete`."""
        with anyio.move_on_after(self._seconds, shield=True):
            for job in self._jobs:
                try:
                    await job.delete()
                except GRPCError:
                    continue

    def _found(self, rule: str, method: str, what: str) -> None:
        self._report.found(rule, f"{self._class}.{method}", what)


@contextmanager
def _captured_logs() -> Iterator[list[str]]:
    """Collect the texts that are logged with Python's `logging` in this block."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)
