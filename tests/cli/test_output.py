"""Following a job: polls, log pieces, hosts that are away. No server: calls are scripted."""

from __future__ import annotations

import sys
from contextlib import aclosing

import anyio
import pytest

from connectrio.cli import event_loop, output
from connectrio.cli.errors import CommandError
from connectrio.cli.output import Follower, JobView
from connectrio.client.jobs import LogReader, poll_backoff
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    Resource,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.rpc import GRPCError, Status
from rpc.kit.virtual_time import in_virtual_time

AWAY = GRPCError(Status.UNAVAILABLE, "connection refused")
# what a host answers in place of a poll that fails
ABSORBED = "RUNNING, not seen by this host yet: the job's state could not be read"
RUNNING = Resource(phase=Phase.RUNNING)
DONE = Resource(phase=Phase.SUCCEEDED)


def piece(*lines, token=None):
    """A stream of one piece of a log."""
    body = [GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[LogLine(message=line) for line in lines]))]
    header = [] if token is None else [GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=token))]
    return [*body, *header]


class ScriptedJobs:
    """Answers of a host, in order; the last one again and again. An exception in place of an answer is raised."""

    category = TaskCategory(name="toy")
    timeout = 60.0

    def __init__(self, polls=(DONE,), pieces=((),)):
        self._polls = list(polls)
        self._pieces = list(pieces)
        self.tokens = []

    async def get(self, meta):
        await anyio.lowlevel.checkpoint()
        answer = self._polls.pop(0) if len(self._polls) > 1 else self._polls[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def logs(self, meta, token="", lines=0):
        self.tokens.append(token)
        for part in self._pieces.pop(0) if len(self._pieces) > 1 else self._pieces[0]:
            await anyio.lowlevel.checkpoint()
            if isinstance(part, Exception):
                raise part
            yield part


class Shown(JobView):
    """What a person would have seen."""

    def __init__(self):
        self.states, self.lines, self.notices = [], [], []

    def state(self, resource):
        self.states.append(resource.phase)

    def line(self, line):
        self.lines.append(line.message)

    def notice(self, text):
        self.notices.append(text)

    def waits_for_log(self, resource, seconds):
        self.notices.append(f"{resource.phase.name}, {seconds:g} s")


@pytest.fixture
def shown():
    return Shown()


@pytest.fixture
def _no_pauses(monkeypatch):
    monkeypatch.setattr(output, "_FIRST_PAUSE", 0.001)


async def read(log):
    async with aclosing(log.read()) as lines:
        return [line.message async for line in lines]


def test_pauses_grow_up_to_a_limit():
    backoff = poll_backoff(0.2, 3.0)
    pauses = [backoff.next() for _ in range(9)]
    assert pauses == pytest.approx([0.2, 0.3, 0.45, 0.675, 1.0125, 1.51875, 2.278125, 3.0, 3.0])
    backoff.reset()
    assert backoff.next() == 0.2


async def test_pieces_begin_where_the_one_before_ended():
    jobs = ScriptedJobs(pieces=[piece("a", "b", token="2"), piece(token="2"), piece("c", token="")])
    log = LogReader(jobs, b"")
    assert [await read(log) for _ in range(3)] == [["a", "b"], [], ["c"]]
    assert jobs.tokens == ["", "2", "2"]
    assert log.ended


async def test_without_tokens_each_piece_is_the_whole_log():
    log = LogReader(ScriptedJobs(pieces=[piece("a"), piece("a", "b"), piece("a", "b", token="")]), b"")
    assert [await read(log) for _ in range(3)] == [["a"], ["b"], []]
    assert not log.ended


async def test_a_log_that_was_read_to_its_end_at_once_is_not_repeated():
    log = LogReader(ScriptedJobs(pieces=[piece("a", "b", token="")]), b"")
    assert [await read(log), await read(log)] == [["a", "b"], []]


async def test_a_piece_that_broke_off_is_gone_on_with():
    jobs = ScriptedJobs(pieces=[piece("a", token="1"), [*piece("b"), AWAY], piece("b", "c", token="3")])
    log = LogReader(jobs, b"")
    assert await read(log) == ["a"]
    broken = log.read()
    assert (await anext(broken)).message == "b"
    with pytest.raises(GRPCError):
        await anext(broken)
    assert await read(log) == ["c"]
    assert jobs.tokens == ["", "1", "1"]


async def test_old_connectors_send_texts():
    response = GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["a", "b"]))
    assert await read(LogReader(ScriptedJobs(pieces=[[response]]), b"")) == ["a", "b"]


@pytest.mark.usefixtures("_no_pauses")
async def test_it_polls_until_a_final_phase_and_reads_the_log_to_its_end(shown):
    jobs = ScriptedJobs(
        polls=[RUNNING, RUNNING, DONE],
        pieces=[piece("a", token="1"), piece("b", token="2"), piece("c", token="3"), piece("d", token="")],
    )
    assert await Follower(jobs, b"", shown).follow() == DONE
    assert shown.states == [Phase.RUNNING, Phase.RUNNING, Phase.SUCCEEDED]
    assert shown.lines == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED])
async def test_what_was_logged_last_is_shown(shown, phase):
    jobs = ScriptedJobs(polls=[Resource(phase=phase)], pieces=[piece("a", token="1"), piece("b", token="")])
    await Follower(jobs, b"", shown).follow()
    assert shown.lines == ["a", "b"]


@in_virtual_time
@pytest.mark.usefixtures("_no_pauses")
async def test_a_host_that_is_away_for_a_while_is_waited_for(shown):
    jobs = ScriptedJobs(polls=[RUNNING, AWAY, AWAY, DONE], pieces=[[AWAY], piece("a")])
    assert await Follower(jobs, b"", shown).follow() == DONE
    away = "UNAVAILABLE: connection refused; trying for another 60 seconds"
    assert shown.notices == [away, away, "SUCCEEDED, 5 s"]
    assert shown.lines == ["a"]


@pytest.mark.usefixtures("_no_pauses")
async def test_patience_ends(shown):
    with pytest.raises(CommandError, match="UNAVAILABLE: connection refused"):
        await Follower(ScriptedJobs(polls=[RUNNING, AWAY]), b"", shown, patience=0).follow()


@pytest.mark.usefixtures("_no_pauses")
async def test_any_other_error_of_a_poll_ends_it(shown):
    jobs = ScriptedJobs(polls=[RUNNING, GRPCError(Status.NOT_FOUND, "no such job")])
    with pytest.raises(CommandError, match="NOT_FOUND: no such job"):
        await Follower(jobs, b"", shown).follow()


@pytest.mark.usefixtures("_no_pauses")
async def test_a_log_that_fails_does_not_end_the_job(shown):
    jobs = ScriptedJobs(polls=[RUNNING, DONE], pieces=[[GRPCError(Status.INTERNAL, "oops")]])
    assert await Follower(jobs, b"", shown).follow() == DONE
    assert shown.notices == ["no more log lines: INTERNAL: oops"]


class Late(ScriptedJobs):
    """A job that ends at once, and whose log gets lines later, each so many seconds after the job's end."""

    def __init__(self, *due, fails=None):
        super().__init__()
        self._due, self._fails = due, fails
        self.began = anyio.current_time()

    async def logs(self, meta, token="", lines=0):
        age = anyio.current_time() - self.began
        if self._fails is not None and age > self._fails:
            raise AWAY
        for response in piece(*[f"{due}" for due in self._due if due <= age]):
            yield response


@in_virtual_time
@pytest.mark.parametrize(
    ("due", "log_wait", "lines", "ends_after"),
    [
        ((0, 2, 6.5), 5, ["0", "2", "6.5"], 11.5),
        ((0, 2, 8), 5, ["0", "2"], 7),
        ((0, 2), 0, ["0"], 0),
        (range(100), 5, [f"{second}" for second in range(27)], 30),
        (range(100), 10, [f"{second}" for second in range(57)], 60),
    ],
)
async def test_late_lines_are_waited_for(shown, due, log_wait, lines, ends_after):
    """So many seconds without one; but six times as long at most, and not less than a call may take."""
    jobs = Late(*due)
    jobs.timeout = 10.0
    assert await Follower(jobs, b"", shown, log_wait=log_wait).follow() == DONE
    assert shown.lines[: len(lines)] == lines
    assert len(shown.lines) <= len(lines) + 4
    # a pause between two looks is three seconds at most
    assert ends_after <= anyio.current_time() - jobs.began < ends_after + 3.1
    assert shown.notices == ([f"SUCCEEDED, {log_wait} s"] if log_wait else [])


@in_virtual_time
async def test_a_host_that_goes_away_while_late_lines_are_waited_for(shown):
    jobs = Late(0, 2, fails=3)
    assert await Follower(jobs, b"", shown).follow() == DONE
    assert shown.lines == ["0", "2"]


@in_virtual_time
async def test_a_log_that_is_at_its_end_is_not_waited_for(shown):
    began = anyio.current_time()
    jobs = ScriptedJobs(pieces=[piece("a", token="1"), piece(token="")])
    assert await Follower(jobs, b"", shown).follow() == DONE
    assert anyio.current_time() - began < 1
    assert shown.notices == []


@in_virtual_time
async def test_who_waits_for_late_lines_can_be_told_to_stop(shown):
    """The state of the job is known by then."""
    follower = Follower(Late(0), b"", shown, log_wait=3600)
    with anyio.move_on_after(60) as scope:
        await follower.follow()
    assert scope.cancelled_caught
    assert follower.resource == DONE


@in_virtual_time
async def test_a_log_that_does_not_end_with_its_job_is_not_waited_for(shown):
    class Endless(ScriptedJobs):
        timeout = 0.01

        async def logs(self, meta, token="", lines=0):
            for response in piece("a"):
                yield response
            await anyio.sleep_forever()

    assert await Follower(Endless(), b"", shown).follow() == DONE


async def test_unwrapped_prefers_what_nobody_expected():
    async def fail(error):
        raise error

    async def fail_twice():
        with event_loop.unwrapped():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail, CommandError("expected"))
                tasks.start_soon(fail, ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        await fail_twice()


@pytest.mark.parametrize(
    ("message", "shown"),
    [("", "RUNNING"), ("at it", "RUNNING: at it"), (ABSORBED, ABSORBED), ("RUNNINGS", "RUNNING: RUNNINGS")],
)
def test_a_phase_is_shown_once(capsys, message, shown):
    resource = Resource(phase=Phase.RUNNING, message=message)
    output.print_resource(resource)
    assert capsys.readouterr().out == f"{shown}\n"
    with output.job_view(sys.stderr) as view:
        view.state(resource)
    assert capsys.readouterr().err == shown.replace("RUNNING: ", "RUNNING  ") + "\n"
