"""The fields of a call, on each line that is written in it."""

from __future__ import annotations

import json
import logging
import threading

import anyio
import pytest
import structlog
from anyio import to_thread

from connectrio.diagnostics import LONGEST_TEXT, SafeLogger
from connectrio.logs import configure_logging, get_logger, line_fields, line_mask

ours = get_logger("connectrio.tests")
rpc = SafeLogger("connectrio.rpc")


@pytest.fixture
def call():
    """The fields of a call, and how often they were asked for."""
    asked = []

    def fields():
        asked.append(1)
        return {"execution": "ex1", "operation": "get"}

    token = line_fields.set(fields)
    yield asked
    line_fields.reset(token)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_each_line_has_them(call, capsys):
    configure_logging("info", "json")
    ours.info("one")
    rpc.warning("two %(peer)s", {"peer": "unix:"})
    structlog.get_logger("author").info("three")
    assert [(line["execution"], line["operation"]) for line in lines(capsys)] == [("ex1", "get")] * 3


def test_fields_of_a_line_win(call, capsys):
    configure_logging("info", "json")
    ours.info("one", operation="create")
    assert [(line["execution"], line["operation"]) for line in lines(capsys)] == [("ex1", "create")]


def test_no_field_of_an_author_takes_the_place_of_the_calls(call, capsys):
    """Not even one that the call does not have: who looks for a job would find the line of another."""
    configure_logging("info", "json")
    structlog.get_logger("author").info("one", operation=None, job="spark-1", rows=3)
    structlog.get_logger("author").info("two", extra={"a": 1}, key="k")
    structlog.get_logger("author").info("three", extra="text", key="k")
    with structlog.contextvars.bound_contextvars(job="bound", tenant="t"):
        structlog.get_logger("author").info("four")
    one, two, three, four = lines(capsys)
    assert (one["execution"], one["operation"], one["rows"]) == ("ex1", "get", 3)
    assert "job" not in one
    assert one["extra"] == {"operation": None, "job": "spark-1"}
    assert two["extra"] == {"a": 1, "key": "k"}
    assert three["extra"] == {"extra": "text", "key": "k"}
    assert (four["tenant"], four["extra"]) == ("t", {"job": "bound"})


class Failing:
    def __str__(self):
        return "shown by hunter2"


@pytest.fixture
def mask():
    """Replaces "hunter2" in what is written."""
    token = line_mask.set(lambda text: text.replace("hunter2", "[secret]"))
    yield
    line_mask.reset(token)


def test_no_text_of_an_author_shows_a_secret(mask, capsys):
    configure_logging("info", "json")
    author = structlog.get_logger("author")
    author.info("it is hunter2", deep={"a": ["hunter2"], "hunter2": 2}, value=Failing())
    try:
        raise ValueError("hunter2")
    except ValueError:
        author.exception("failed")
        ours.exception("of ours")
    written = capsys.readouterr().err
    assert "hunter2" not in written
    one, two, three = [json.loads(line) for line in written.splitlines()]
    assert one["event"] == "it is [secret]"
    assert (one["deep"], one["value"]) == ({"a": ["[secret]"], "[secret]": 2}, "shown by [secret]")
    assert two["exception"].endswith("ValueError: [secret]")
    assert three["exception"].endswith("ValueError: [secret]")


def test_a_secret_on_the_edge_of_a_cut_is_not_shown(mask, capsys):
    configure_logging("info", "json")
    structlog.get_logger("author").info("x" * (LONGEST_TEXT // 2 - 3) + "hunter2" + "y" * LONGEST_TEXT)
    assert "hun" not in capsys.readouterr().err


def test_texts_of_ours_are_not_searched(mask, capsys):
    configure_logging("info", "json")
    ours.info("hunter2", job="hunter2")
    [line] = lines(capsys)
    assert (line["event"], line["job"]) == ("hunter2", "hunter2")


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_mask_that_fails_costs_the_text_and_not_the_line(capsys, error):
    def fails(_text):
        ours.info("from within")
        raise error

    configure_logging("info", "json")
    token = line_mask.set(fails)
    try:
        structlog.get_logger("author").info("a secret", rows=3)
    finally:
        line_mask.reset(token)
    within, line = lines(capsys)
    assert within["event"] == "from within"
    assert line["event"] == f"[text withheld: {error.__name__} while its secrets were looked for]"
    assert (line["rows"], line["level"]) == (3, "info")


def test_they_are_not_asked_for_by_lines_that_are_not_written(call, capsys):
    configure_logging("info", "json")
    ours.debug("not written")
    rpc.debug("not written")
    structlog.get_logger("author").debug("not written")
    assert call == []
    ours.info("written")
    assert call == [1]


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
def test_a_function_that_raises_harms_nothing(capsys, error):
    def fields():
        raise error

    configure_logging("info", "json")
    token = line_fields.set(fields)
    try:
        ours.info("still here")
    finally:
        line_fields.reset(token)
    assert [line["event"] for line in lines(capsys)] == ["still here"]


def test_a_function_may_write_lines_itself(capsys):
    def fields():
        ours.info("from within")
        return {"key": "k"}

    configure_logging("info", "json")
    token = line_fields.set(fields)
    try:
        ours.info("outer")
        assert line_fields.get() is fields
    finally:
        line_fields.reset(token)
    assert [(line["event"], line.get("key")) for line in lines(capsys)] == [("from within", None), ("outer", "k")]


async def test_they_reach_worker_threads_and_stay_in_their_task(capsys):
    configure_logging("info", "json")

    async def in_call(name):
        line_fields.set(lambda: {"key": name})
        await anyio.lowlevel.checkpoint()
        ours.info("in the task", by=name)
        await to_thread.run_sync(lambda: ours.info("in a thread", by=name))

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(in_call, name)
    ours.info("outside")
    found = lines(capsys)
    assert all(line.get("key") == line.get("by") for line in found)
    assert len(found) == 5


def test_lines_of_logging_in_an_embedding_program_have_them(call, caplog):
    with caplog.at_level(logging.INFO):
        ours.info("event", mine=1)
        ours.debug("not written")
    assert caplog.messages == ["event='event' mine=1 execution='ex1' operation='get'"]
    assert call == [1]


def test_lines_of_a_programs_structlog_have_them(call):
    written = []

    def keep(logger, method, event):
        written.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    ours.debug("not written")
    assert call == []
    assert not ours.is_enabled_for("debug")
    ours.info("event", operation="mine")
    assert written == [{"event": "event", "execution": "ex1", "operation": "mine"}]


def test_a_thread_that_knows_no_call_writes_lines_without(call, capsys):
    configure_logging("info", "json")
    thread = threading.Thread(target=lambda: ours.info("from a thread"))
    thread.start()
    thread.join()
    assert [line["event"] for line in lines(capsys)] == ["from a thread"]
