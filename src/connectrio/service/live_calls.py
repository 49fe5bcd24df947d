"""Where the calls that are being answered are: in a queue, in a thread, in a connector's code, and at which line.

Nothing is written down while a call goes on. When somebody asks, the tasks of the event loop are looked at: the frame
of an RPC method has its `CallRecord` in a local variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import anyio

from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.methods import ConnectorMethod
from connectrio.service.places import home_of, place_of
from connectrio.service.slots import Slots
from connectrio.service.telemetry import CallRecord
from connectrio.service.vendor_gate import VendorAccount
from connectrio.service.workers import Workers
from connectrio.telemetry.report import CallReport
from connectrio.telemetry.stacks import frames_of
from connectrio.telemetry.turns import Turns

__all__ = ["FoundCalls", "Position", "calls_of_tasks", "record_of", "report_calls", "runs_in"]

# the functions whose local variable `record` is the call's
_METHODS = {
    method.__code__
    for method in (
        AsyncConnectorService.create_task,
        AsyncConnectorService.get_task,
        AsyncConnectorService.delete_task,
        AsyncConnectorService.get_task_metrics,
        AsyncConnectorService.send_task_logs,
    )
}
# the frames that say where a call is, the innermost of which counts
_STAGES = {
    Slots.enter.__code__: "queued",
    VendorAccount.turn.__code__: "queued",
    Workers.run.__code__: "thread",
    ConnectorMethod.__call__.__code__: "connector",
}
# the calls that are reported
_MOST_CALLS = 500


FoundCalls = list[tuple[CallRecord, list[FrameType]]]
"""Calls, and the frames of each below the RPC method."""


@dataclass(frozen=True)
class Position:
    """Where a call is.

    :ivar stage: see `CallReport`
    :ivar waits: the innermost line of the connector's code, or else of any
    """

    stage: str = "host"
    waits: str = ""


async def calls_of_tasks(turns: Turns) -> FoundCalls:
    """Return the calls of the running event loop's tasks, and the frames of each below the RPC method."""
    found: FoundCalls = []
    for task in anyio.get_running_tasks():
        record: CallRecord | None = None
        below: list[FrameType] = []
        for frame in frames_of(task.coro):
            if frame.f_code in _METHODS:
                record = record_of(frame)
                below = []
            below.append(frame)
        if record is not None:
            found.append((record, below))
        await turns.end()
    return found


def record_of(frame: FrameType) -> CallRecord | None:
    """Return the call that a frame of an RPC method answers; None for other frames. Any thread may ask."""
    local = frame.f_locals.get("record") if frame.f_code in _METHODS else None
    return local if isinstance(local, CallRecord) else None


def runs_in(frames: Iterable[FrameType]) -> Iterator[Any]:
    """Yield what runs in worker threads for the call with these frames, see `Workers.runs`."""
    for frame in frames:
        if frame.f_code is Workers.run.__code__ and (run := frame.f_locals.get("run")) is not None:
            yield run


async def report_calls(service: AsyncConnectorService, found: FoundCalls, turns: Turns) -> list[CallReport]:
    """Return the calls that a service answers now, those that have taken longest first.

    :param found: by `calls_of_tasks`
    """
    account = service.account
    frames = {id(record): below for record, below in found}
    calls: list[CallReport] = []
    for record in list(account.calls)[:_MOST_CALLS]:
        position = _position(record, frames.get(id(record), []))
        seconds = record.seconds
        calls.append(
            CallReport(
                operation=record.call.operation.value,
                task_type=record.shown_type,
                version=record.call.version,
                task=record.for_task,
                key=record.shown_key,
                job=record.shown_job,
                peer=record.peer,
                method=record.method,
                retries=record.retries,
                started=round(account.wall_clock() - seconds, 3),
                seconds=round(seconds, 3),
                stage=position.stage,
                waits=position.waits,
            )
        )
        await turns.end()
    return calls


def _position(record: CallRecord, frames: list[FrameType]) -> Position:
    stage = "host"
    home = "" if record.connector is None else home_of(record.connector)
    own = ""
    for frame in frames:
        stage = _STAGES.get(frame.f_code, stage)
        if home and frame.f_code.co_filename.startswith(home):
            own = place_of(frame)
        for run in runs_in([frame]):
            inner = list(run.frames())
            own = next((place_of(each) for each in inner if home and each.f_code.co_filename.startswith(home)), own)
            own = own or (place_of(inner[0]) if inner else "")
    return Position(stage, own or (place_of(frames[-1]) if frames else ""))
