"""`connectrio run`: exit codes, and what becomes of the job when it is interrupted."""

from __future__ import annotations

import json
import os
import signal

import pytest

from cli.harness import PATIENCE, Process, serving_toys

PHASES = [("SUCCEEDED", 0), ("FAILED", 1), ("ABORTED", 4), ("RETRYABLE_FAILED", 75)]


@pytest.mark.parametrize(("phase", "code"), PHASES)
def test_final_phases_are_exit_codes(ask, phase, code):
    outcome = ask("run", "toy", "--input", f"end={phase}", "--input", "message=so it ended", "--json")
    assert outcome.code == code
    document = outcome.document
    assert (document["phase"], document["message"]) == (phase, "so it ended")
    assert document["resource_meta"]["end"] == phase
    assert document["outputs"]["answer"] == 42


def test_progress_and_log_go_to_standard_error(ask):
    outcome = ask("run", "toy", "--output-prefix", "/out")
    lines = outcome.err.splitlines()
    assert lines[0].startswith('created {"number":')
    assert "RUNNING  40 %  at it" in lines
    assert [line for line in lines if "line" in line] == [f"  12:30:0{n}.000 line {n}" for n in range(3)]
    assert outcome.out.splitlines()[:3] == ["SUCCEEDED", "Outputs  Value", "answer   42"]


def test_a_connector_without_logs_is_run_all_the_same(ask):
    outcome = ask("run", "mute")
    assert outcome.code == 0
    assert "UNIMPLEMENTED" not in outcome.err


@pytest.fixture
def host_process(tmp_path):
    """A host in a process: that, and its target."""
    with serving_toys(tmp_path) as (host, target):
        yield host, target


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The target of a host in a process."""
    with serving_toys(tmp_path_factory.mktemp("host")) as (_, target):
        yield target


def running(tmp_path, target, *options):
    arguments = ["run", "toy", "--input", "end=NEVER", "--output-prefix", str(tmp_path)]
    return Process(*arguments, "--target", target, "--timeout", str(PATIENCE), *options, cwd=tmp_path)


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_deletes_the_job(tmp_path, target, backend, signum):
    with running(tmp_path, target, "--backend", backend) as command:
        command.error_with("RUNNING")
        command.signal(signum)
        outcome = command.wait()
    assert outcome.code == 130
    assert (tmp_path / "deleted").exists()
    assert outcome.err.splitlines()[-2:] == ["interrupted; deleting the job", "interrupted; the job was deleted"]
    assert "Traceback" not in outcome.err


def test_a_job_that_cannot_be_deleted_is_named(tmp_path, host_process):
    host, target = host_process
    with running(tmp_path, target) as command:
        meta = command.error_with("created").removeprefix("created ")
        command.error_with("RUNNING")
        host.signal(signal.SIGKILL)
        host.wait()
        command.signal(signal.SIGINT)
        outcome = command.wait()
    assert outcome.code == 130
    assert "interrupted, and the job was not deleted: UNAVAILABLE: " in outcome.err
    assert json.loads(meta)["end"] == "NEVER"
    assert f"connectrio delete toy '{meta}'" in outcome.err


@pytest.fixture
def creating(tmp_path, host_process):
    """A command whose job is being created, and goes on being so until somebody writes to the gate."""
    host, target = host_process
    os.mkfifo(tmp_path / "gate")
    with running(tmp_path, target, "--input", "hold=true") as command:
        host.error_with('"creating"')
        yield command


def test_an_interrupt_while_the_job_is_created_deletes_it(tmp_path, creating):
    creating.signal(signal.SIGINT)
    creating.error_with("interrupted; waiting for the job's name, to delete it")
    (tmp_path / "gate").write_bytes(b"")
    outcome = creating.wait()
    assert outcome.code == 130
    assert outcome.err.endswith("interrupted; deleting the job\ninterrupted; the job was deleted\n")
    assert (tmp_path / "deleted").exists()


def test_a_second_interrupt_ends_the_command_at_once(tmp_path, creating):
    creating.signal(signal.SIGINT)
    creating.error_with("interrupted")
    creating.signal(signal.SIGINT)
    outcome = creating.wait()
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "deleted").exists()
