"""Several processes on one port: from their start to their end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from urllib.request import urlopen

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)

from connectrio.host.settings import HostSettings
from connectrio.processes.control import ServeOptions
from connectrio.processes.supervisor import Supervisor
from e2e.client import Client, fetch, order
from e2e.programs import UNSHARE, children_of, eventually, why_no_namespace
from processes.hosts import LONG, Processes, is_alive, pid_behind
from rpc.kit.certificates import issue

SUCCESSES = 'flyte_connector_requests_success_total{operation="get",task_type="probe"}'


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_life(backend):
    with Processes(backend) as program, ExitStack() as stack:
        host = program.ready()
        eventually(lambda: host.report()[0] == 200 and host.all_serve, LONG)
        report = host.report()[1]
        assert (report["state"], report["connectors"]) == ("serving", 6)
        clients = host.clients_of_all(stack)
        assert sorted(clients) == sorted(host.pids)
        eventually(lambda: host.metric(SUCCESSES) == host.calls, LONG)
        eventually(lambda: host.metric("connectrio_processes_ready") == 2, LONG)
        assert host.metric("connectrio_ready") == 1
        assert host.metric('connectrio_state{state="serving"}') == 2
        assert host.metric('connectrio_connections_open{kind="tcp"}') >= len(clients)

        killed, other = clients
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in host.pids and host.all_serve, LONG)
        assert host.wait_for_log("a process ended; it is started again")["reason"] == "signal SIGKILL"
        assert pid_behind(clients[other]) == other
        assert host.metric("connectrio_process_restarts_total") == 1
        # the counts of the killed process are not lost
        eventually(lambda: host.metric(SUCCESSES) == host.calls + 1, LONG)
        clients = host.clients_of_all(stack)
        assert sorted(clients) == sorted(host.pids)

        calls = [client.start("get", meta=order("sleep", 1, id="flight")) for client in clients.values()]
        host.wait_for("started", 2, id="flight")
        host.send(signal.SIGTERM)
        assert all(call.result().resource.message for call in calls)
        assert host.wait(LONG) == 0
        assert {line["process"] for line in host.log if line["event"] == "drained"} == {0, 1}
        assert not any(is_alive(pid) for pid in clients)


def test_the_first_answer_has_the_number_of_connectors():
    """The supervisor answers before a process has told it what it serves."""
    with Processes("asyncio", log_format="console") as program:
        url = program.wait_for_output(re.compile(r"(http://\S+)/metrics"), patience=LONG)[1]
        assert json.loads(fetch(f"{url}/healthz")[1])["connectors"] == 6  # which asks no process
        program.send(signal.SIGTERM)
        assert program.wait(LONG) == 0
        assert "is serving in 2 processes" in program.output


def test_before_a_process_serves_the_number_of_connectors_is_not_known():
    options = ServeOptions(HostSettings(), 2, "asyncio", ["info"], "json")
    assert Supervisor(options).connectors is None


def test_the_report_of_all_processes():
    with Processes("asyncio", "--hang-limit", "120") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        told = json.loads(fetch(f"{host.url}/api/status")[1])
        assert (told["state"], told["is_ready"], told["not_ready"]) == ("serving", True, [])
        assert {each["process"] for each in told["connectors"]} == {0, 1}
        assert [each["pid"] for each in told["processes"]] == host.pids
        stacks = json.loads(fetch(f"{host.url}/api/stacks?limit=10000")[1])["stacks"]
        assert {each["process"] for each in stacks if each["name"] == "MainThread"} == {0, 1}
        # one process creates a job, the other is asked for it: it has one name, and is one job
        creator, other = clients.values()
        created = creator.call("create", task_execution_metadata=attempt("f1two"))
        other.call("get", meta=created.resource_meta)
        [job] = json.loads(fetch(f"{host.url}/api/jobs/f1two")[1])["jobs"]
        assert (job["task"]["execution"], job["origin"], job["polls"]) == ("f1two", "fresh", 1)
        assert job["process"] == host.pids.index(list(clients)[1])
        # one that does not answer is missing, and named
        frozen = next(iter(clients))
        number = host.pids.index(frozen)
        os.kill(frozen, signal.SIGSTOP)
        try:
            told = json.loads(fetch(f"{host.url}/api/status")[1])
            assert {each["process"] for each in told["connectors"]} == {1 - number}
            assert (number, "process") in {(each["process"], each["kind"]) for each in told["attention"]}
            assert told["processes"][number]["state"] == "not answering"
            assert told["is_ready"]
        finally:
            os.kill(frozen, signal.SIGCONT)
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0


def attempt(execution):
    run = WorkflowExecutionIdentifier(project="sales", domain="production", name=execution)
    node = NodeExecutionIdentifier(node_id="n0", execution_id=run)
    return TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))


def test_a_job_is_created_once_by_all(tmp_path):
    with (
        Processes("asyncio", "--job-lease", "3600", env={"TMPDIR": str(tmp_path)}) as program,
        ExitStack() as stack,
    ):
        host = program.ready()
        [store] = tmp_path.glob("connectrio-*/jobs.db")
        assert store.parent.stat().st_mode & 0o777 == 0o700
        one, other = host.clients_of_all(stack).values()
        created = one.call("create", meta=order("echo", id="first"), task_execution_metadata=attempt("f1"))
        again = other.call("create", meta=order("echo", id="first"), task_execution_metadata=attempt("f1"))
        assert again.resource_meta == created.resource_meta
        origins = 'connectrio_creates_total{origin="%s",task_type="probe"}'
        eventually(lambda: (host.metric(origins % "fresh"), host.metric(origins % "replayed")) == (1, 1), LONG)
        assert host.metric("connectrio_job_store_up") == 1
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0
    assert list(tmp_path.glob("connectrio-*")) == []


def test_without_a_temporary_directory_the_processes_share_no_jobs(tmp_path):
    gone = tmp_path / "gone"
    program = [
        "import tempfile; from connectrio.processes.supervisor import _job_store; from connectrio import HostSettings",
        f"tempfile.tempdir = {str(gone)!r}",
        "with _job_store(HostSettings()) as store: print(store)",
        "with _job_store(HostSettings(create_memory=0)) as store: print(store)",
        "with _job_store(HostSettings(job_store='postgresql://db')) as store: print(store)",
    ]
    ran = subprocess.run([sys.executable, "-c", "\n".join(program)], check=True, capture_output=True, text=True)
    assert [line for line in ran.stdout.splitlines() if "{" not in line and "share no job store" not in line] == [
        "None", "None", "postgresql://db"
    ]  # fmt: skip
    assert (ran.stdout + ran.stderr).count("the processes share no job store") == 1


def test_a_second_signal_stops_all_at_once():
    with Processes("asyncio") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        calls = [client.start("get", meta=order("sleep", 60, id="long")) for client in clients.values()]
        host.wait_for("started", 2, id="long")
        host.send(signal.SIGINT)
        eventually(lambda: sum(line["event"] == "draining" for line in host.log) == 2)
        assert fetch(f"{host.url}/readyz")[0] == 503
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 128 + signal.SIGTERM
        for call in calls:
            assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
        eventually(lambda: not any(is_alive(pid) for pid in clients), LONG)


def test_a_process_that_is_told_to_end_is_followed_by_another():
    with Processes("trio") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        told = next(iter(clients))
        call = clients[told].start("get", meta=order("sleep", 1, id="flight"))
        host.wait_for("started", id="flight")
        os.kill(told, signal.SIGTERM)
        assert call.result().resource.message
        eventually(lambda: told not in host.pids and host.all_serve, LONG)
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0


def test_a_process_that_leaves_a_child_is_followed_by_another_and_its_port_stays_with_the_others():
    with Processes("asyncio") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        killed, other = clients
        child = clients[killed].echo(meta=order("fork"))
        try:
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: killed not in host.pids and host.all_serve, LONG)
            for _ in range(20):  # the kernel would give some of them to the child
                with Client(host.target) as client:
                    assert pid_behind(client) in host.pids
            assert pid_behind(clients[other]) == other
            host.send(signal.SIGHUP)
            assert host.wait(LONG) == 0
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(host.target.rpartition(":")[2])))
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_time_limit_ends_all():
    with Processes("asyncio", "--timeout", "0.1", processes=3) as program:
        assert program.wait(LONG) == 0
        assert {line["process"] for line in program.log if line["event"] == "drained"} == {0, 1, 2}


def test_processes_whose_supervisor_is_gone_end_in_order():
    with Processes("asyncio") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        calls = [client.start("get", meta=order("sleep", 1, id="flight")) for client in clients.values()]
        host.wait_for("started", 2, id="flight")
        host.kill()
        assert all(call.result().resource.message for call in calls)
        eventually(lambda: not any(is_alive(pid) for pid in clients), LONG)


def test_a_module_that_cannot_be_loaded_stops_the_start():
    with Processes("asyncio", modules="no_such_module") as program:
        assert program.wait(LONG) == 1
        assert (
            "cannot load connectors from 'no_such_module': ModuleNotFoundError: No module named 'no_such_module'"
            in program.errors
        )
        assert "Traceback" not in program.errors


def test_a_process_that_dies_while_it_starts_stops_the_start(tmp_path):
    module = tmp_path / "deadly.py"
    module.write_text("import os\nos._exit(7)\n")
    with Processes("asyncio", modules=str(module)) as program:
        assert program.wait(LONG) == 1
        assert re.search(r"process \d ended with exit code 7 before it served", program.errors)


FAILS_WITH_A_STUCK_THREAD = """
import threading
import connectrio.connectors.duckdb
from connectrio.processes import _worker

async def fail(*_):
    raise RuntimeError("a fault in the host")

threading.Thread(target=threading.Event().wait, name="AnyIO worker thread").start()
_worker._Worker._tell = fail
"""


INTERRUPTED = """
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, ResourceMeta

@dataclass
class Job(ResourceMeta):
    job_id: str = ""

class Interrupted(AsyncConnector[Job]):
    name = "Interrupted"
    task_type_name = "interrupted"
    metadata_type = Job

    @asynccontextmanager
    async def lifespan(self):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupt)
            yield

    async def create(self, **kwargs): ...
    async def get(self, **kwargs): ...
    async def delete(self, **kwargs): ...

async def interrupt():
    await anyio.sleep(2)
    raise KeyboardInterrupt  # here

ConnectorRegistry.register(Interrupted())
"""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_process_that_a_connector_interrupts_says_so(tmp_path, backend):
    module = tmp_path / "interrupted.py"
    module.write_text(INTERRUPTED)
    place = f"{module}:{INTERRUPTED.splitlines().index('    raise KeyboardInterrupt  # here') + 1} in interrupt"
    with Processes(backend, modules=str(module)) as program:
        reason = program.wait_for_log("a process ended; it is started again", patience=LONG)["reason"]
        assert reason == f"code of a connector has ended the host: KeyboardInterrupt, at {place}"
        line = program.wait_for_log("code of a connector has ended the host")
        assert (line["level"], line["where"], line["module"]) == ("error", place, "interrupted")


def test_a_process_that_fails_while_a_thread_is_stuck_is_followed_by_another(tmp_path):
    module = tmp_path / "failing.py"
    module.write_text(FAILS_WITH_A_STUCK_THREAD)
    with Processes("asyncio", modules=str(module)) as program:
        host = program.ready()
        eventually(lambda: any(each["restarts"] for each in host.report()[1]["processes"]), LONG)
        assert host.wait_for_log("a process ended; it is started again")["reason"] == "exit code 1"


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port(shares):
    with socket.socket() as taken:
        if shares:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Processes("asyncio", port=port) as program:
            assert program.wait(LONG) == 1
            assert f"cannot listen on 127.0.0.1:{port} for gRPC: another process has it" in program.errors


def test_a_unix_socket_goes_with_one_process_only(tmp_path):
    with Processes("asyncio", "--unix-socket", str(tmp_path / "socket")) as program:
        assert program.wait(LONG) == 1
        assert "a Unix socket cannot be shared by several processes" in program.errors


STUCK = """
import time
from dataclasses import dataclass
from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

@dataclass
class Job(ResourceMeta):
    id: str = ""

class Stuck(AsyncConnector[Job]):
    name, task_type_name, metadata_type = "Stuck", "stuck", Job

    def get(self, resource_meta, **kwargs):
        time.sleep(3600)

    def create(self, **kwargs):
        return Job()

    def delete(self, resource_meta, **kwargs):
        pass

ConnectorRegistry.register(Stuck())
"""


def test_sigusr1_shows_the_stuck_threads_of_all_processes(tmp_path):
    module = tmp_path / "stuck.py"
    module.write_text(STUCK)
    with Processes("asyncio", "--poll-absorb", "0", "--get-limit", "0.2", modules=str(module)) as program:
        host = program.ready()

        def is_stuck() -> bool:
            with Client(host.target) as client, pytest.raises(grpc.RpcError):
                client.call("get", task_type="stuck", meta=b"{}")
            # on a busy machine its thread may not have begun
            return host.metric('connectrio_stuck_threads{method="Stuck.get",task_type="stuck"}') > 0

        eventually(is_stuck, LONG)
        host.send(signal.SIGUSR1)
        eventually(lambda: "a worker thread is stuck" in host.errors, LONG)
        line = next(json.loads(line) for line in host.errors.splitlines() if "a worker thread is stuck" in line)
        assert line["method"] == "Stuck.get"
        assert "time.sleep(3600)" in line["stack"]
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0


def test_a_process_that_does_not_answer_is_not_ready():
    with Processes("asyncio") as program, ExitStack() as stack:
        host = program.ready()
        clients = host.clients_of_all(stack)
        stopped, other = clients
        os.kill(stopped, signal.SIGSTOP)
        try:
            eventually(lambda: host.states == (200, ["not answering", "serving"]), LONG)
            assert host.metric('connectrio_connector_up{task_type="probe",version="0"}') == 1
            os.kill(other, signal.SIGSTOP)
            eventually(lambda: host.states == (503, ["not answering", "not answering"]), LONG)
        finally:
            for pid in clients:
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: host.all_serve, LONG)
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_frozen_process_is_replaced(backend):
    with Processes(backend, "--hang-limit", "2") as program:
        host = program.ready()
        frozen, other = host.pids
        os.kill(frozen, signal.SIGSTOP)
        eventually(lambda: host.all_serve and frozen not in host.pids, LONG)
        assert other in host.pids
        assert host.metric("connectrio_process_restarts_total") == 1
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0
        assert "gave no sign of life for 2 s" in host.errors


def test_a_supervisor_of_a_frozen_process_ends():
    with Processes("asyncio", "--grace", "0", "--hang-limit", "3600") as program:
        host = program.ready()
        os.kill(host.pids[0], signal.SIGSTOP)
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0
        assert "did not end after it was told to" in host.errors


def test_as_process_1():
    lacks = why_no_namespace()
    if lacks:
        pytest.skip(lacks)
    with Processes("asyncio", wrapper=UNSHARE) as program:
        host = program.ready()
        with Client(host.target) as client:
            call = client.start("get", meta=order("sleep", 1, id="flight"))
            host.wait_for("started", id="flight")
            (inside,) = children_of(host.pid)
            os.kill(inside, signal.SIGTERM)
            assert call.result().resource.message
        assert host.wait(LONG) == 0


def test_the_certificate_of_the_exporters_port(tmp_path):
    issued = issue(tmp_path, "server", "localhost", "127.0.0.1", not_after=datetime(2031, 1, 1, tzinfo=UTC))
    options = ["--prometheus-tls", "--tls-cert", str(issued.cert), "--tls-key", str(issued.key)]
    with Processes("asyncio", *options) as program:
        host = program.ready()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urlopen(f"{host.url}/api/status", context=context) as answer:
            certificates = json.load(answer)["certificates"]
        end = datetime(2031, 1, 1, tzinfo=UTC).timestamp()
        assert {(each["port"], each["expires"]) for each in certificates} == {("gRPC", end), ("exporter", end)}
        with urlopen(f"{host.url}/metrics", context=context) as answer:
            assert 'connectrio_certificate_expiry_timestamp_seconds{file="' in answer.read().decode()
        host.send(signal.SIGTERM)
        assert host.wait(LONG) == 0
