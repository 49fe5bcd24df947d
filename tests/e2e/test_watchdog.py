"""The host names a connector that blocks the event loop, and probes show it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.client import OPERATIONS, fetch, order
from e2e.programs import HOUR, eventually

BLOCKED = "the event loop is blocked, and with it all calls; make the method a plain `def`, or await"
FREE = "the event loop is free again"


@pytest.fixture(scope="module")
def watched(start_host):
    with start_host(watchdog=0.5) as host, host.client() as client:
        # imports at the first call of each kind may take time as well
        for operation in OPERATIONS:
            client.call(operation)
        eventually(lambda: is_ready(host))
        yield host


def is_ready(host):
    return fetch(f"{host.url}/readyz")[0] == 200


class Blocker:
    """Blocks the host's event loop in a method, from `begin` to `end`."""

    def __init__(self, host, client, directory):
        self._host = host
        self._client = client
        self._directory = directory
        self._files = count(1)
        self._ends = ExitStack()

    def begin(self, operation):
        """What /readyz says then.

        A machine that stalls before the method begins is reported itself, and for as long as the method blocks: then
        the method blocks again.
        """
        while True:
            go_on = self._directory / f"go on {next(self._files)}"
            call = self._client.start(operation, meta=order("until", go_on, id=str(go_on)), deadline=HOUR)
            self._ends.callback(self._end, operation, call, go_on)
            # from here on, the blocked event loop accepts no connection of a prober
            self._host.wait_for("started", id=str(go_on))
            status, text = fetch(f"{self._host.url}/readyz")
            report = json.loads(text)
            if status != 503 or report["method"].startswith("Probe."):
                return report
            self.end()

    def _end(self, operation, call, go_on):
        go_on.touch()
        assert list(call) if operation == "get_logs" else call.result()
        eventually(lambda: is_ready(self._host))

    def end(self):
        self._ends.close()

    def attention(self):
        """What the host says, after the end, that somebody should look at."""
        self.end()
        return json.loads(fetch(f"{self._host.url}/api/status")[1])["attention"]


@pytest.fixture
def blocker(watched, tmp_path):
    with watched.client() as client:
        blocker = Blocker(watched, client, tmp_path)
        yield blocker
        blocker.end()


def counted(url, name, **labels):
    families = text_string_to_metric_families(fetch(f"{url}/metrics")[1])
    return sum(s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items())


@pytest.mark.parametrize(
    ("operation", "method"), [("get", "Probe.get"), ("delete", "Probe.delete"), ("get_metrics", "Probe.get_metrics")]
)
def test_while_it_lasts(watched, blocker, operation, method):
    labels = {"task_type": "probe", "operation": operation}
    before = counted(watched.url, "connectrio_event_loop_blocks_total", **labels)
    blocker.begin(operation)
    for path in ("/readyz", "/healthz", "/nowhere"):
        status, text = fetch(f"{watched.url}{path}")
        report = json.loads(text)
        assert status == 503
        assert (report["state"], report["method"]) == ("blocked", method)
        assert "probes.py:" in report["line"]
        assert report["line"].endswith(" in act")
        for_job = f", for job {report['job']}"
        assert report["not_ready"] == [f"{method} blocks the event loop at {report['line']}{for_job}"]
        assert "plain `def`" in report["what_to_do"]
    assert counted(watched.url, "connectrio_event_loop_blocks_total", **labels) == before + 1
    assert fetch(f"{watched.url}/")[1].startswith("# HELP")
    eventually(lambda: lines_about(watched, BLOCKED, method))
    line = lines_about(watched, BLOCKED, method)[-1]
    assert (line["operation"], line["task_type"]) == (operation, "probe")
    assert line["level"] == "error"
    assert "in act" in line["stack"]
    assert line["job"] == report["job"]
    [job] = [each for each in blocker.attention() if report["job"] in each["text"]]
    assert (job["kind"], job["task_type"]) == ("blocked", "probe")
    assert job["text"].endswith(for_job)


def lines_about(host, event, method):
    return [line for line in host.log if line["event"] == event and line["method"] == method]


def test_a_generator_of_logs(blocker):
    assert blocker.begin("get_logs")["method"] == "Probe.get_logs"


def test_afterwards(watched, blocker):
    labels = {"task_type": "probe", "operation": "get"}
    before = counted(watched.url, "connectrio_event_loop_blocked_seconds_total", **labels)
    freed = len(lines_about(watched, FREE, "Probe.get"))
    assert blocker.begin("get")["state"] == "blocked"
    blocker.end()
    # the metric is raised, and the log line written, before it is ready
    assert counted(watched.url, "connectrio_event_loop_blocked_seconds_total", **labels) >= before + 0.5
    eventually(lambda: len(lines_about(watched, FREE, "Probe.get")) > freed)


def test_a_thread_that_is_busy_blocks_nothing(watched, tmp_path):
    with watched.client() as client:
        call = client.start("get", task_type="plain", meta=order("block", 1.5))
        assert call.result().resource.message
    assert lines_about(watched, BLOCKED, "Plain.get") == []
