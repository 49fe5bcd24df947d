"""A connector that blocks the event loop is named, and probes see it."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.client import OPERATIONS, fetch, order
from e2e.programs import eventually

BLOCKED = "the event loop is blocked, and with it all calls; make the method a plain `def`, or await"


@pytest.fixture(scope="module")
def watched(start_host):
    with start_host(watchdog=0.5) as host, host.client() as client:
        # what is imported at the first call of each kind may take its time as well
        for operation in OPERATIONS:
            client.call(operation)
        eventually(lambda: fetch(f"{host.url}/readyz")[0] == 200)
        yield host


@pytest.fixture
def blocked(watched, tmp_path):
    """Blocks the host's event loop in a method, from its start to the test's end."""
    calls = []

    with watched.client() as client:

        def block(operation):
            call = client.start(operation, meta=order("until", tmp_path / "go on", id=str(tmp_path)))
            calls.append((operation, call))
            # from here on, the event loop accepts no connection of a prober, which would have to wait with it
            watched.wait_for("started", id=str(tmp_path))

        yield block
        (tmp_path / "go on").touch()
        for operation, call in calls:
            assert list(call) if operation == "get_logs" else call.result()
    eventually(lambda: fetch(f"{watched.url}/readyz")[0] == 200)


def count(url, name, **labels):
    families = text_string_to_metric_families(fetch(f"{url}/metrics")[1])
    return sum(s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items())


@pytest.mark.parametrize(
    ("operation", "method"), [("get", "Probe.get"), ("delete", "Probe.delete"), ("get_metrics", "Probe.get_metrics")]
)
def test_while_it_lasts(watched, blocked, operation, method):
    labels = {"task_type": "probe", "operation": operation}
    before = count(watched.url, "connectrio_event_loop_blocks_total", **labels)
    blocked(operation)
    for path in ("/readyz", "/healthz", "/nowhere"):
        status, text = fetch(f"{watched.url}{path}")
        report = json.loads(text)
        assert status == 503
        assert (report["state"], report["method"]) == ("blocked", method)
        assert "probes.py:" in report["line"]
        assert report["line"].endswith(" in act")
    assert count(watched.url, "connectrio_event_loop_blocks_total", **labels) == before + 1
    assert fetch(f"{watched.url}/")[1].startswith("# HELP")
    line = [line for line in watched.log if line["event"] == BLOCKED][-1]
    assert (line["method"], line["operation"], line["task_type"]) == (method, operation, "probe")
    assert line["level"] == "error"
    assert "in act" in line["stack"]


def test_a_generator_of_logs(watched, blocked):
    blocked("get_logs")
    assert json.loads(fetch(f"{watched.url}/readyz")[1])["method"] == "Probe.get_logs"


def test_afterwards(watched, tmp_path):
    labels = {"task_type": "probe", "operation": "get"}
    before = count(watched.url, "connectrio_event_loop_blocked_seconds_total", **labels)
    with watched.client() as client:
        call = client.start("get", meta=order("until", tmp_path / "go on", id=str(tmp_path)))
        watched.wait_for("started", id=str(tmp_path))
        assert fetch(f"{watched.url}/readyz")[0] == 503
        (tmp_path / "go on").touch()
        assert call.result().resource.message == "{}"
    eventually(lambda: fetch(f"{watched.url}/readyz")[0] == 200)
    # the metric is raised, and the log line written, before that
    assert count(watched.url, "connectrio_event_loop_blocked_seconds_total", **labels) >= before + 0.5
    freed = [line["method"] for line in watched.log if line["event"] == "the event loop is free again"]
    assert "Probe.get" in freed


def test_a_thread_that_is_busy_blocks_nothing(watched, tmp_path):
    with watched.client() as client:
        call = client.start("get", task_type="plain", meta=order("block", 1.5))
        assert call.result().resource.message
    assert "Plain.get" not in [line["method"] for line in watched.log if line["event"] == BLOCKED]
