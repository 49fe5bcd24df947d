"""Errors at the start of a host, and their messages."""

from __future__ import annotations

import json
import signal
import socket
from urllib.parse import unquote

import pytest
from flyteidl2.connector.connector_pb2 import ListConnectorsRequest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from e2e.client import fetch
from e2e.programs import CONNECTORS, HostProgram

LIFESPANS = str(CONNECTORS / "lifespans.py")


def start_error(**settings):
    with HostProgram("asyncio", **settings) as host:
        assert host.wait() == 1
        return host.wait_for("failed")["error"]


@pytest.mark.parametrize(
    ("setting", "flag", "purpose"),
    [("port", "--port", "gRPC"), ("prometheus_port", "--prometheus-port", "the metrics")],
)
def test_a_taken_port(setting, flag, purpose):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start_error(**{setting: port}) == (
            f"cannot listen on 127.0.0.1:{port} for {purpose}: another process has it. Stop that one, or choose"
            f" another port with {flag} (0 takes any free one)"
        )


def test_a_module_that_cannot_be_loaded():
    assert start_error(modules=["no_such_module"]) == (
        "cannot load connectors from 'no_such_module': ModuleNotFoundError: No module named 'no_such_module'"
    )


def install(directory, **entry_points):
    """Make a distribution with these entry points, and a module of the same name for each."""
    metadata = directory / "x-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    lines = [f"{name} = {name}_module" for name in entry_points]
    (metadata / "entry_points.txt").write_text("\n".join(["[flyte.connectors]", *lines]))
    for name, source in entry_points.items():
        (directory / f"{name}_module.py").write_text(source)


def test_an_entry_point_that_cannot_be_loaded(tmp_path):
    good = (CONNECTORS / "lifespans.py").read_text()
    install(tmp_path, broken="raise RuntimeError('no license found: ∅')", good=good)
    failure = {"source": "entry point broken (broken_module)", "error": "RuntimeError"}
    env = {"PYTHONPATH": str(tmp_path), "LIFESPAN": "fine"}
    with HostProgram("asyncio", entry_points=True, env=env) as host, host.client() as client:
        report = json.loads(fetch(f"{host.url}/healthz")[1])
        assert failure in report["failures"]
        assert client.call("get", task_type="holder", meta=b'{"seconds": 0}')
        for call in (
            client.connectors.ListConnectors.with_call(ListConnectorsRequest(), timeout=30),
            client.health.Check.with_call(HealthCheckRequest(), timeout=30),
        ):
            trailers = [
                unquote(value) for key, value in call[1].trailing_metadata() if key == "connectrio-load-failure"
            ]
            assert f"{failure['source']}: {failure['error']}" in trailers
        host.wait_for_log("an entry point failed to load")
        (line,) = [line for line in host.log if line.get("source") == failure["source"]]
        assert (line["level"], line["event"]) == ("warning", "an entry point failed to load")
        assert line["error"] == "RuntimeError: no license found: ∅"


def test_lifespans_are_open_from_before_the_first_call_till_after_the_last():
    with HostProgram("uvloop", modules=[LIFESPANS], env={"LIFESPAN": "fine"}) as host, host.client() as client:
        call = client.start("get", task_type="holder", meta=b'{"seconds": 0.5}')
        host.wait_for("called")
        host.send(signal.SIGTERM)
        call.result()
        assert host.wait() == 0
        order = [json.loads(line)["event"] for line in host.output.splitlines()]
        assert order == ["opening", "opened", "serving", "called", "answered", "closed"]


def test_a_signal_while_a_lifespan_hangs_as_it_opens():
    with HostProgram("trio", modules=[LIFESPANS], env={"LIFESPAN": "hangs"}) as host:
        host.wait_for("opening")
        host.send(signal.SIGTERM)
        assert host.wait() == 0
        assert not host.events("serving")
