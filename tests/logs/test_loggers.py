"""Where log lines go, in a host's own process and in other programs."""

from __future__ import annotations

import io
import json
import logging

import anyio
import pytest
import structlog

from connectrio.connector.registry import Registry
from connectrio.diagnostics import dropped_lines
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.logs import configure_logging, get_logger, host_logging

RPC = logging.getLogger("connectrio.rpc")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_what_rpc_logs_is_a_line_of_the_host(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json", process=2)
    RPC.info("a connection from %(peer)s was refused: %(reason)s", {"peer": "127.0.0.1:5", "reason": OSError("no")})
    [line] = lines(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "a connection from 127.0.0.1:5 was refused: no",
        "peer": "127.0.0.1:5",
        "reason": "no",
        "level": "info",
        "process": 2,
    }


def test_the_level_of_the_host_counts_for_rpc(capsys: pytest.CaptureFixture[str]):
    configure_logging("warning", "json")
    RPC.info("nothing")
    RPC.warning("100 % of it")
    assert [line["event"] for line in lines(capsys)] == ["100 % of it"]


def test_tracebacks_of_rpc_have_no_local_variables(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    try:
        token = "secret"  # noqa: F841 - a local variable that must not be shown
        raise ValueError("boom")
    except ValueError:
        RPC.exception("the servicer of %(rpc)s raised", {"rpc": "/a/b"})
    text = capsys.readouterr().err
    assert "secret" not in text
    assert json.loads(text)["exception"].endswith("\nValueError: boom")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_line_that_cannot_be_written_hurts_nobody(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    RPC.info("before %(value)s", {"value": Unprintable()})
    RPC.info("after")
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "after"


async def test_a_connector_that_sets_up_logging_does_not_silence_its_host(capsys: pytest.CaptureFixture[str], tmp_path):
    module = tmp_path / f"sets_up_{tmp_path.name}.py"
    # what `logging.config.dictConfig` does to a logger that it does not name
    module.write_text(
        "import logging\nlogging.getLogger('connectrio.rpc').disabled = True\n"
        "from connectrio import ConnectorRegistry\nfrom service.harness import connector\n"
        "ConnectorRegistry.register(connector())\n"
    )
    settings = HostSettings(host="127.0.0.1", port=0, prometheus_port=0, modules=[str(module)])
    configure_logging("info", "json")
    async with anyio.create_task_group() as tasks:
        host = Host(settings, registry=Registry())
        await tasks.start(host.serve)
        RPC.warning("still here")
        await host.shutdown()
    assert "still here" in [line["event"] for line in lines(capsys)]


def test_a_program_that_sets_up_structlog_anew_still_has_the_lines(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    structlog.configure(wrapper_class=structlog.BoundLogger, processors=[structlog.processors.JSONRenderer()])
    RPC.warning("a connection from %(peer)s was refused: %(reason)s", {"peer": "unix:", "reason": "no"})
    [line] = lines(capsys)
    assert (line["event"], line["peer"]) == ("a connection from unix: was refused: no", "unix:")


def test_in_other_programs_rpc_logs_through_logging(caplog: pytest.LogCaptureFixture):
    RPC.warning("a connection from %(peer)s was refused: %(reason)s", {"peer": "unix:", "reason": "no"})
    assert caplog.messages == ["a connection from unix: was refused: no"]


def test_a_standard_error_that_is_closed_costs_the_lines(monkeypatch: pytest.MonkeyPatch):
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr("sys.stderr", stream)
        before = dropped_lines()
        configure_logging("info", "auto")
        get_logger("connectrio").info("nobody reads this")
        assert dropped_lines() == before + 1


def test_values_of_a_line_are_plain_and_bounded(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    endless: list[object] = []
    endless.append(endless)
    get_logger("connectrio").info(
        "values",
        text="a\n\u2028b",
        number=3,
        huge=10**5000,
        infinite=float("inf"),
        items=[1, ("a", None)],
        mapping={"a": True, 1: Unprintable()},
        endless=endless,
        long="x" * 1_000_000,
    )
    [text] = capsys.readouterr().err.splitlines()
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["text"], line["number"], line["infinite"]) == ("a\n\u2028b", 3, "inf")
    assert line["items"] == [1, ["a", None]]
    assert line["mapping"] == {"a": True, "1": "(RuntimeError in the error's own text)"}
    assert len(text) < 100_000


def test_lines_of_other_libraries_are_lines_of_the_host(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    handler = RPC.handlers[0]
    for level in (5, 10, 20, 25, 30, 45, 70):
        handler.handle(logging.LogRecord("vendor", level, "file.py", 1, "at %d", (level,), None))
    assert [(line["event"], line["level"], line["logger"]) for line in lines(capsys)] == [
        ("at 20", "info", "vendor"),
        ("at 25", "info", "vendor"),
        ("at 30", "warning", "vendor"),
        ("at 45", "error", "vendor"),
        ("at 70", "critical", "vendor"),
    ]


async def test_a_connector_that_changes_structlog_changes_nothing_for_its_host(capsys: pytest.CaptureFixture[str]):
    configure_logging("info", "json")
    structlog.reset_defaults()
    get_logger("connectrio").info("as before")
    assert [line["event"] for line in lines(capsys)] == ["as before"]


def test_a_host_writes_its_lines_before_its_logging_ends(capsys: pytest.CaptureFixture[str]):
    with host_logging("info", "json"):
        for number in range(100):
            get_logger("connectrio").info(f"line {number}")
    assert [line["event"] for line in lines(capsys)] == [f"line {number}" for number in range(100)]
