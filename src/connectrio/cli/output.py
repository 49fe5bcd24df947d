"""A job as commands show it: its state, metrics and log lines, once or until it has ended."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

import anyio
import msgspec

from connectrio.cli.errors import explained
from connectrio.cli.event_loop import unwrapped
from connectrio.client.jobs import Jobs, LogReader, error_text, execution_of, poll_backoff
from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, Resource
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_to_python
from connectrio.rpc import GRPCError, Status
from connectrio.terminal import console, is_terminal, print_line, print_table, print_to, printable, shown

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "LOG_WAIT",
    "Follower",
    "JobView",
    "View",
    "created_document",
    "job_view",
    "line_document",
    "line_text",
    "meta_document",
    "outputs_of",
    "phase_name",
    "print_metrics",
    "print_resource",
    "resource_document",
    "struct_document",
]

_STYLES = {Phase.SUCCEEDED: "green", Phase.FAILED: "red", Phase.ABORTED: "yellow", Phase.RETRYABLE_FAILED: "red"}
# seconds between two polls
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 3.0
# how many times `log_wait` the lines after the end of a job may take in all
_LOG_WAITS = 6
# seconds for which a host may be unavailable: to replace a pod takes about a minute
_PATIENCE = 60.0

LOG_WAIT = 5.0
"""Seconds without a line of its log after which a job's log counts as complete, when the job has ended."""

_TRANSIENT = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}


def phase_name(phase: Phase) -> str:
    """Return the phase's name, or its number if this version of the protocol has no name for it."""
    return phase.name or str(int(phase))


def meta_document(meta: bytes) -> dict[str, Any]:
    """Return a resource meta for JSON: as the JSON it holds, if any, and as base64."""
    document: dict[str, Any] = {"resource_meta_base64": base64.b64encode(meta).decode()}
    try:
        return {"resource_meta": msgspec.json.decode(meta), **document}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"resource_meta": None, **document}


def created_document(meta: bytes, request: CreateTaskRequest) -> dict[str, Any]:
    """Return a job that was created, for JSON: its resource meta, and the execution that it belongs to."""
    execution = execution_of(request)
    parts = {"project": execution.project, "domain": execution.domain, "name": execution.name}
    return {**meta_document(meta), "execution": parts}


def outputs_of(outputs: Outputs | None) -> dict[str, Any]:
    """Return output name → Python value, or the literal as proto-JSON if it has no Python value."""
    values: dict[str, Any] = {}
    for named in outputs.literals if outputs is not None else ():
        try:
            values[named.name] = None if named.value is None else literal_to_python(named.value)
        except LiteralError:
            values[named.name] = {} if named.value is None else named.value.to_dict()
    return values


def struct_document(struct: Struct | None) -> dict[str, Any]:
    """Return a protobuf Struct for JSON, with whole numbers as integers."""
    return {} if struct is None else {key: _integral(value) for key, value in struct.to_dict().items()}


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def resource_document(resource: Resource) -> dict[str, Any]:
    """Return the state of a job for JSON."""
    return {
        "phase": phase_name(resource.phase),
        "message": resource.message,
        "outputs": outputs_of(resource.outputs),
        "custom_info": struct_document(resource.custom_info),
        "log_links": [{"name": link.name, "uri": link.uri} for link in resource.log_links],
    }


def print_resource(resource: Resource) -> None:
    """Print the state of a job for people."""
    print_line(": ".join(_phase_and_message(resource)), _STYLES.get(resource.phase, "cyan"))
    _print_pairs("Outputs", outputs_of(resource.outputs))
    _print_pairs("Details", struct_document(resource.custom_info))
    for link in resource.log_links:
        print_line(f"{link.name or 'link'}: {link.uri}")


def _phase_and_message(resource: Resource) -> list[str]:
    """Return the phase and the message, if that is not empty; only the message if it begins with the phase, as the
    host's answer in place of a failed poll does."""
    phase, message = phase_name(resource.phase), resource.message
    if re.match(rf"{re.escape(phase)}\b", message):
        return [message]
    return [phase, message] if message else [phase]


def print_metrics(results: list[ExecutionMetricResult]) -> None:
    """Print the metrics of a job for people."""
    rows = []
    for result in results:
        data = struct_document(result.data)
        # most connectors report a value with its unit
        is_measure = data.keys() == {"value", "unit"}
        text = f"{_value_text(data['value'])} {data['unit']}" if is_measure else _value_text(data)
        rows.append((result.metric, text))
    print_table("Metrics", ("Metric", "Data"), rows)


def _print_pairs(title: str, values: dict[str, Any]) -> None:
    if values:
        print_table(title, (title, "Value"), [(name, _value_text(value)) for name, value in values.items()])


def _value_text(value: Any) -> str:
    """Return a value for people: texts and references to stored data as they are, all else as JSON."""
    match value:
        case str():
            return value
        case File() | Dir():
            return value.path
        case DataFrame():
            return value.uri
    return msgspec.json.encode(value).decode()


def line_text(line: LogLine) -> str:
    """Return a line of a log for people."""
    time = f"{_iso(line.timestamp)[11:23]} " if line.timestamp is not None else ""
    return f"{time}{line.message.rstrip()}"


def line_document(line: LogLine) -> dict[str, Any]:
    """Return a line of a log for JSON."""
    originator = LogLineOriginator(line.originator).name or str(int(line.originator))
    return {
        "timestamp": None if line.timestamp is None else _iso(line.timestamp),
        "message": line.message,
        "originator": originator,
    }


def _iso(timestamp: Timestamp) -> str:
    return timestamp.to_datetime().isoformat(timespec="microseconds").replace("+00:00", "Z")


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

    def waits_for_log(self, resource: Resource, seconds: float) -> None:
        """The job has ended, and its log may get further lines; none for `seconds` is taken for its end."""


class Follower:
    """Follows one job until it has ended and its log has been read to the end.

    Systems that collect logs have the last lines of a job some seconds after its end. So its log is read on until the
    connector says that it has ended, or no line has come for `log_wait`.

    :param log: where to begin reading the log; by default at its beginning
    :param log_wait: seconds without a line after the end of the job; it takes six times as long at most
    :param patience: seconds for which the host may be unavailable
    :ivar resource: the job's state when it had ended; None before
    """

    def __init__(
        self,
        jobs: Jobs,
        meta: bytes,
        view: View,
        *,
        log: LogReader | None = None,
        log_wait: float = LOG_WAIT,
        patience: float = _PATIENCE,
    ) -> None:
        self.resource: Resource | None = None
        self._jobs = jobs
        self._meta = meta
        self._view = view
        self._log_wait = log_wait
        self._patience = patience
        self._log = log or LogReader(jobs, meta)
        self._ended = anyio.Event()
        self._is_log_over = False

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
                self.resource = resource
                self._ended.set()
                # give up a log that does not end with its job
                seconds = max(self._jobs.timeout, _LOG_WAITS * self._log_wait)
                tasks.cancel_scope.deadline = anyio.current_time() + seconds
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
            was_last = self.resource is not None
            if await self._show_new_lines():
                backoff.reset()
            if self._is_log_over:
                return
            if was_last:
                break
            with anyio.move_on_after(backoff.next()):
                await self._ended.wait()
        await self._show_late_lines()

    async def _show_late_lines(self) -> None:
        """Read the log on until no line has come for `log_wait`."""
        if self.resource is None or not self._log_wait:
            return
        self._view.waits_for_log(self.resource, self._log_wait)
        backoff = poll_backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        give_up_at = anyio.current_time() + self._log_wait
        while not self._is_log_over and (left := give_up_at - anyio.current_time()) > 0:
            await anyio.sleep(min(backoff.next(), left))
            if await self._show_new_lines():
                backoff.reset()
                give_up_at = anyio.current_time() + self._log_wait

    async def _show_new_lines(self) -> bool:
        """Return whether there were any."""
        is_new = False
        try:
            async with aclosing(self._log.read_all()) as lines:
                async for line in lines:
                    self._view.line(line)
                    is_new = True
        except GRPCError as error:
            if error.status not in _TRANSIENT:
                self._view.log_ended(error)
                self._is_log_over = True
        self._is_log_over = self._is_log_over or self._log.ended
        return is_new


class JobView:
    """Shows a job on any stream: one plain line for each change."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._shown = ""

    def say(self, text: str, style: str = "") -> None:  # noqa: ARG002 - for views that have styles
        """Show a line of text."""
        print_to(self._stream, text)

    def state(self, resource: Resource) -> None:
        """Show the phase and the progress if they have changed. The command itself shows how the job ended."""
        percent = _percent_done(resource)
        phase, *message = _phase_and_message(resource)
        progress = [] if percent is None else [f"{percent:.0f} %"]
        summary = "  ".join([phase, *progress, *message])
        if summary != self._shown and resource.phase not in FINAL_PHASES:
            self._shown = summary
            self.say(summary)

    def line(self, line: LogLine) -> None:
        """Show a line of the job's log."""
        self.say(f"  {line_text(line)}", "dim")

    def notice(self, text: str) -> None:
        """Show a warning."""
        self.say(f"warning: {text}", "yellow")

    def log_ended(self, error: GRPCError) -> None:
        """Show why no more lines will come, unless the connector has no logs."""
        if error.status is not Status.UNIMPLEMENTED:
            self.notice(f"no more log lines: {error_text(error)}")

    def waits_for_log(self, resource: Resource, seconds: float) -> None:
        """Show how the job has ended, and what the command waits for."""
        self.say(f"{phase_name(resource.phase)}; waiting for the last log lines, {seconds:g} s without one ends this")


class _LiveJobView(JobView):
    """Shows a job on a terminal: a moving line, and the log above it."""

    def __init__(self, stream: IO[str], progress: Progress) -> None:
        super().__init__(stream)
        self._progress = progress
        self._task = progress.add_task("", total=None, detail="")

    def say(self, text: str, style: str = "") -> None:
        """Show a line of text above the moving one."""
        from rich.text import Text

        # print(style=…) would colour the moving line too
        self._progress.console.print(Text(shown(text), style=style))

    def state(self, resource: Resource) -> None:
        """Update the moving line."""
        percent = _percent_done(resource)
        self._progress.update(
            self._task,
            description=phase_name(resource.phase),
            detail=printable(resource.message.partition("\n")[0]),
            total=None if percent is None else 100.0,
            completed=percent or 0.0,
        )


@contextmanager
def job_view(stream: IO[str] | None) -> Iterator[JobView]:
    """Show one job on standard output or error in this block. The moving line is removed at its end."""
    if stream is None or not is_terminal(stream):
        yield JobView(stream)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", style="bold cyan", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False, table_column=one_line),
    )
    with Progress(*columns, console=console(stderr=stream is sys.stderr), transient=True) as progress:
        yield _LiveJobView(stream, progress)


def _percent_done(resource: Resource) -> float | None:
    """Return how much of the job is done; None if its custom info has no `progress` in percent."""
    progress: Any = struct_document(resource.custom_info).get("progress")
    return min(max(float(progress), 0.0), 100.0) if isinstance(progress, int | float) else None
