"""Prometheus itself: it scrapes a host, answers questions about it, and evaluates the chart's alerts."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families_of

from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, GetTaskRequest, TaskCategory
from connectrio.rpc import Channel
from e2e.client import fetch
from e2e.programs import MARK, eventually
from host.catalogue import ALERTS, alerts
from host.test_catalogue import QUERIES, needs_promtool
from rpc.kit.serving import held_port
from service.harness import META, Complete

# seconds; only ends a test that fails
PATIENCE = 60.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
P99 = "histogram_quantile(0.99, sum by (operation, le) (connectrio_request_duration_seconds_bucket{task_type='tiny'}))"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed; on Debian: apt-get install prometheus"
)


class Prometheus:
    """A Prometheus that answers at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **arguments: str):
        """Return the data of an answer of its API; None while it does not answer."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 503:  # which it says while it starts
                    raise AssertionError(error.read()) from error
            return None
        except urllib.error.URLError:
            return None
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, query: str) -> dict[tuple[str, ...], float]:
        """Return the values of a query, by their labels' values."""
        data = self.get("query", query=query) or {"result": []}
        return {tuple(each["metric"].values()): float(each["value"][1]) for each in data["result"]}

    def target(self):
        """Return the state of the scraped host; None before the first scrape."""
        data = self.get("targets")
        active = data["activeTargets"] if data else []
        return active[0] if active and active[0]["health"] != "unknown" else None


@contextmanager
def prometheus(directory: Path, *targets: str, every: str = "200ms") -> Iterator[Prometheus]:
    """Run Prometheus.

    :param targets: what it scrapes, as HOST:PORT
    :param every: how often it scrapes, and evaluates the alerts
    """
    config = directory / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: {every}}}\n"
        f"rule_files: ['{ALERTS}']\n"
        "scrape_configs:\n"
        f"  - {{job_name: connectrio, static_configs: [{{targets: {list(targets)}}}]}}\n"
    )
    with held_port() as port, (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            env=MARK,
        )  # fmt: skip
        try:
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


@needs_prometheus
async def test_prometheus_answers_questions_about_a_host(tmp_path):
    registry = Registry()
    registry.register(Complete())
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        async with Channel(addresses.target) as channel:
            request = GetTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))
            await AsyncConnectorServiceStub(channel).get_task(request)
            for _ in range(95):
                host.metrics.request_ended("tiny", "create", Status.OK, 0.004)
            for seconds in (3.0, 3.0, 3.0, 3.0, 40.0):
                host.metrics.request_ended(
                    "tiny", "create", Status.OK, seconds, exemplar={"trace_id": f"slow-{seconds}"}
                )
            host.metrics.vendor_failed("tiny", "get", "throttled")
            with prometheus(tmp_path, addresses.url.removeprefix("http://")) as program:
                await to_thread.run_sync(partial(ask, program))
        await host.shutdown()


def ask(program: Prometheus) -> None:
    """Ask what a person would ask. All has happened before the first scrape."""
    eventually(lambda: program.target() is not None, PATIENCE)
    assert (program.target()["health"], program.target()["lastError"]) == ("up", "")
    eventually(lambda: len(program.query(P99)) == 2, PATIENCE)
    answers = program.query(P99)
    # of 100 creates the 99th took between 2.5 and 5 s, and four of them are in that bucket
    assert answers["create",] == pytest.approx(5.0)
    assert 0 < answers["get",] < 1
    assert program.query("sum by (kind) (connectrio_vendor_errors_total)") == {("throttled",): 1}
    assert program.query("count(connectrio_build_info)") == {(): 1}
    assert program.query("sum(connectrio_ready)") == {(): 1}

    eventually(lambda: bool(program.get("query_exemplars", query=P99, start="0", end="99999999999")), PATIENCE)
    found = program.get("query_exemplars", query=P99, start="0", end="99999999999")
    names = {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}
    assert names == {"slow-3.0", "slow-40.0"}

    for query in QUERIES:
        program.query(query)  # all can be evaluated
    eventually(lambda: all(rule["health"] == "ok" for rule in rules(program)), PATIENCE)
    found = {rule["name"]: rule for rule in rules(program) if rule["type"] == "alerting"}
    assert set(found) == set(alerts())
    assert [name for name, rule in found.items() if rule["state"] == "firing"] == []


def rules(program: Prometheus):
    return [rule for group in program.get("rules")["groups"] for rule in group["rules"]]


@needs_promtool
async def test_promtool_finds_nothing_wrong():
    registry = Registry()
    registry.register(Complete())
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        host.metrics.request_ended("tiny", "create", Status.OK, 1.0, exemplar={"trace_id": "t"})
        host.metrics.request_ended("tiny", "create", Status.INTERNAL, 1.0)
        host.metrics.vendor_failed("tiny", "get", "throttled")
        _, text = await to_thread.run_sync(fetch, f"{addresses.url}/metrics")
        openmetrics = urllib.request.Request(f"{addresses.url}/metrics", headers={"accept": OPENMETRICS})
        _, strict = await to_thread.run_sync(fetch, openmetrics)
        checked = await anyio.run_process(["promtool", "check", "metrics"], input=text.encode(), check=False)
        await host.shutdown()
    assert "connectrio_request_duration_seconds_bucket" in text
    # promtool reads the text format only; this parser is stricter than Prometheus' own for OpenMetrics
    assert "connectrio_request_duration_seconds" in {family.name for family in families_of(strict)}
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
