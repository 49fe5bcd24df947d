"""Shows a job while it runs: a moving line on a terminal, a plain line for each change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from connectrio.cli.output.render import line_text, phase_name, struct_document
from connectrio.client.jobs import error_text
from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import GRPCError, Status
from connectrio.terminal import console, is_terminal, printable

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["JobView", "job_view"]


class JobView:
    """Shows a job on any stream: one plain line for each change."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown = ""

    def say(self, text: str, style: str = "") -> None:  # noqa: ARG002 - for views that have styles
        """Show a line of text."""
        print(printable(text), file=self._stream, flush=True)

    def state(self, resource: Resource) -> None:
        """Show the phase and the progress if they have changed. The command itself shows how the job ended."""
        percent = _percent_done(resource)
        progress = "" if percent is None else f"{percent:.0f} %"
        summary = "  ".join(part for part in (phase_name(resource.phase), progress, resource.message) if part)
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
        self._progress.console.print(Text(printable(text), style=style))

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
def job_view(stream: IO[str]) -> Iterator[JobView]:
    """Show one job on standard output or error in this block. The moving line is removed at its end."""
    if not is_terminal(stream):
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
