"""How a host ends: its calls, its health, its process."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from e2e.client import Client, fetch, order
from e2e.programs import CONNECTORS, HOUR, UNSHARE, children_of, eventually, why_no_namespace


def test_sigterm_loses_no_call_in_flight(start_host):
    with start_host() as host, host.client() as client:
        calls = [client.start("get", meta=order("gate", id="flight")) for _ in range(50)]
        calls += [client.start("get", task_type="plain", meta=order("gate", id="flight")) for _ in range(5)]
        stream = client.start("get_logs", meta=order("gate", id="flight"))
        host.wait_for("started", 56, id="flight")
        host.send(signal.SIGTERM)
        host.wait_for_log("draining")
        host.open_gate()
        assert all(call.result().resource.message for call in calls)
        assert len(list(stream)) == 2
        assert host.wait() == 0
        assert {ended["outcome"] for ended in host.events("ended", id="flight")} == {"returned"}


def test_health_flips_and_new_calls_are_answered_during_the_delay(start_host):
    with start_host(drain_delay=HOUR) as host, host.client() as client:
        watch = client.health.Watch(HealthCheckRequest(), timeout=30)
        assert next(watch).status == HealthCheckResponse.SERVING
        host.send(signal.SIGTERM)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        for service in ("", "flyteidl2.connector.AsyncConnectorService"):
            response = client.health.Check(HealthCheckRequest(service=service), timeout=30)
            assert response.status == HealthCheckResponse.NOT_SERVING
        status, text = fetch(f"{host.url}/readyz")
        assert (status, json.loads(text)["state"]) == (503, "draining")
        assert fetch(f"{host.url}/healthz")[0] == 200
        with Client(host.target) as newcomer:
            newcomer.call("get")
        # no test waits for the end of the delay
        host.send(signal.SIGTERM)
        assert host.wait() == 128 + signal.SIGTERM


def test_sigint_closes_the_listener_and_ends_watches_while_calls_are_in_flight(start_host):
    with start_host() as host, host.client() as client:
        watch = client.health.Watch(HealthCheckRequest(), timeout=30)
        assert next(watch).status == HealthCheckResponse.SERVING
        call = client.start("get", task_type="plain", meta=order("gate", id="gated"))
        host.wait_for("started", id="gated")
        host.send(signal.SIGINT)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as raised:
            next(watch)
        assert raised.value.code() is StatusCode.UNAVAILABLE
        # the listener closes a moment later or earlier than the watch
        eventually(lambda: refuses_connections(host.target))
        assert fetch(f"{host.url}/readyz")[0] == 503
        host.open_gate()
        assert call.result().resource.message
        assert host.wait() == 0


def refuses_connections(target):
    with Client(target) as client:
        error = client.start("get").exception()
    return error is not None and error.code() is StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_child_that_a_connector_has_forked_keeps_no_port_and_no_connection(start_host, signum, code):
    with start_host() as host, host.client() as client:
        child = client.echo(meta=order("fork"))
        try:
            address, _, port = host.target.partition(":")
            exporter = int(host.url.rpartition(":")[2])
            with socket.create_connection((address, int(port))) as connected:
                host.send(signum)
                assert host.wait() == code
                with suppress(ConnectionResetError):
                    while connected.recv(65536):
                        pass
            for free in (int(port), exporter):
                eventually(lambda free=free: is_refused((address, free)))
                with socket.socket() as next_host:
                    next_host.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    next_host.bind((address, free))
                    next_host.listen()
        finally:
            os.kill(child, signal.SIGKILL)


def is_refused(address):
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_terminal_that_hangs_up_loses_no_call(start_host):
    """Shells and session managers send SIGHUP as well, and with it SIGTERM: that is no second request."""
    with start_host() as host, host.client() as client:
        call = client.start("get", meta=order("gate", id="flight"))
        host.wait_for("started", id="flight")
        host.send(signal.SIGHUP)
        host.wait_for_log("draining")
        for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            host.send(signum)
        eventually(lambda: refuses_connections(host.target))
        assert host.is_running
        host.open_gate()
        assert call.result().resource.message
        assert host.wait() == 0


def test_after_a_hang_up_a_second_sigterm_stops_at_once(start_host):
    with start_host(grace=HOUR) as host, host.client() as client:
        call = client.start("get", meta=order("sleep", HOUR, id="patient"))
        host.wait_for("started", id="patient")
        host.send(signal.SIGHUP)
        host.wait_for_log("draining")
        host.send(signal.SIGTERM)
        host.wait_for_log("shutting down; send the signal again to stop at once")
        host.send(signal.SIGINT)
        assert host.wait() == 128 + signal.SIGINT
        assert call.exception().code() is StatusCode.UNAVAILABLE


def test_nohup_ignores_the_hang_up(start_host):
    with start_host(wrapper=["nohup"]) as host, host.client() as client:
        host.send(signal.SIGHUP)
        client.call("get")
        host.send(signal.SIGTERM)
        assert host.wait() == 0
        assert "SIGHUP" not in host.errors


def test_calls_beyond_the_grace_are_told_that_the_server_is_unavailable(start_host):
    with start_host(grace=0.3) as host, host.client() as client:
        calls = [client.start("get", meta=order("sleep", 60, id=str(number))) for number in range(3)]
        for number in range(3):
            host.wait_for("started", id=str(number))
        host.send(signal.SIGTERM)
        for call in calls:
            assert call.exception().code() is StatusCode.UNAVAILABLE
            assert call.exception().details() == "the server is shutting down"
        assert host.wait() == 0
        assert [host.wait_for("ended", id=str(number))["outcome"] for number in range(3)] == ["cancelled"] * 3


def test_a_second_signal_stops_at_once(start_host):
    with start_host(grace=HOUR) as host, host.client() as client:
        calls = [
            client.start("get", meta=order("sleep", HOUR, id="patient")),
            client.start("get", task_type="plain", meta=order("gate", id="stuck")),
        ]
        for name in ("patient", "stuck"):
            host.wait_for("started", id=name)
        host.send(signal.SIGTERM)
        host.wait_for_log("draining")
        host.send(signal.SIGINT)
        assert host.wait() == 128 + signal.SIGINT
        for call in calls:
            assert call.exception().code() is StatusCode.UNAVAILABLE


def test_a_second_signal_stops_a_host_whose_event_loop_is_blocked(start_host, tmp_path):
    with start_host() as host, host.client() as client:
        blocked = client.start("get", meta=order("until", tmp_path / "never", id="blocked"))
        host.wait_for("started", id="blocked")
        # two equal signals at once may be delivered as one; and the order of these two is not fixed
        host.send(signal.SIGTERM)
        host.send(signal.SIGINT)
        assert host.wait() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
        assert blocked.exception().code() is StatusCode.UNAVAILABLE


def test_a_signal_while_modules_are_being_loaded(start_host, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    module = str(CONNECTORS / "slow_to_load.py")
    with start_host(modules=[module], env={"SLOW_TO_LOAD": str(tmp_path / "fifo")}) as host:
        host.wait_for("loading")
        host.send(signal.SIGTERM)
        (tmp_path / "fifo").write_text("go on")
        assert host.wait() == 0


def test_as_process_1(start_host):
    lacks = why_no_namespace()
    if lacks:
        pytest.skip(lacks)
    with start_host(wrapper=UNSHARE) as host, host.client() as client:
        assert host.wait_for("serving")["pid"] == 1
        call = client.start("get", meta=order("sleep", 0.5, id="flight"))
        host.wait_for("started", id="flight")
        (inside,) = children_of(host.pid)
        os.kill(inside, signal.SIGTERM)
        assert call.result().resource.message
        assert host.wait() == 0
