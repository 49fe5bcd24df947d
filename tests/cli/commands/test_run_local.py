"""`connectrio run` without a server."""

from __future__ import annotations

import signal
import sys

import pytest

from cli.harness import TOY_MODULE, Process

LOCAL = ["run", "toy", "--modules", str(TOY_MODULE)]

SECRETIVE = """
import time
from dataclasses import dataclass
from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

@dataclass
class Meta(ResourceMeta):
    seen: list[str]

class Secretive(AsyncConnector[Meta]):
    task_type_name = "secretive"
    metadata_type = Meta

    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Meta(sorted(f"{name} of {len(value)}" for name, value in kwargs.items()))

    def get(self, resource_meta, *, token, **kwargs):
        if token == "hang":
            print("hanging", flush=True)
            time.sleep(600)
        return Resource(Phase.SUCCEEDED, outputs={"seen": resource_meta.seen})

    def delete(self, resource_meta, **kwargs):
        print("deleted", flush=True)

ConnectorRegistry.register(Secretive(), override=True)
"""


def run_program(*arguments, cwd, environment):
    """Run a command as a process of its own, where no module is imported yet. It leaves outputs in `cwd` only."""
    with Process(*map(str, arguments), cwd=cwd, environment={"TMPDIR": str(cwd), **environment}) as command:
        return command.wait()


@pytest.fixture
def secretive(tmp_path):
    path = tmp_path / "secretive.py"
    path.write_text(SECRETIVE)
    yield str(path)
    sys.modules.pop("secretive", None)  # the next one is at another place


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("ABORTED", 4), ("RETRYABLE_FAILED", 75)])
def test_final_phases_are_exit_codes(run, end, code, backend):
    outcome = run(*LOCAL, "--input", f"end={end}", "--json", "--backend", backend)
    assert outcome.code == code
    assert outcome.document["phase"] == end
    assert "line 2" in outcome.err


def test_a_secret_that_the_connector_needs_has_a_hint(run, tmp_path):
    path = tmp_path / "needy.py"
    needy = SECRETIVE.replace("execution_metadata=None, **", "execution_metadata=None, *, token, **")
    path.write_text(needy.replace('"secretive"', '"needy"'))
    outcome = run("run", "needy", "--modules", str(path))
    assert outcome.code == 1
    assert "Secretive.create needs 'token'" in outcome.err
    assert "hint: add --secret NAME=VARIABLE" in outcome.err


def test_a_module_that_is_not_there(run):
    outcome = run("run", "toy", "--modules", "no_such_module_here")
    assert outcome.code == 1
    assert "cannot load connectors from 'no_such_module_here'" in outcome.err


def test_a_task_type_that_the_module_does_not_have(run):
    outcome = run("run", "nope", "--modules", str(TOY_MODULE))
    assert outcome.code == 1
    assert "NOT_FOUND: Cannot find connector for task type: nope." in outcome.err
    assert "hint: install the package of the connector, or name the module" in outcome.err
    assert "connectrio ls" not in outcome.err  # there is no host to ask


@pytest.mark.parametrize("command", [["run", "toy", "--modules"], ["check"]])
def test_a_module_that_registers_no_connector(run, tmp_path, command):
    path = tmp_path / "forgetful.py"
    path.write_text("from connectrio import AsyncConnector\n\nclass Forgotten(AsyncConnector): ...\n")
    outcome = run(*command, str(path))
    sys.modules.pop("forgetful")
    assert outcome.code == 1
    assert f"Its class Forgotten ({path}:3) is not registered" in outcome.err


def test_the_user_chooses_the_connector(tmp_path):
    """The module comes before the one that is installed, unless the user says otherwise."""
    pytest.importorskip("duckdb")
    path = tmp_path / "duck_of_mine.py"
    path.write_text(SECRETIVE.replace('"secretive"', '"duckdb"'))
    command = [
        "run",
        "duckdb",
        "--local",
        "--modules",
        path,
        "--sql",
        "select 1",
        "--secret",
        "token=VENDOR",
        "--output",
        "result",
        "--json",
    ]
    environment = {"VENDOR": "12345"}
    for options, outputs in (
        ([], ["seen"]),
        (["--exclude", "connectrio"], ["seen"]),
        (["--prefer", "duckdb=connectrio"], ["result"]),
        (["--exclude", "duck_of_mine"], ["result"]),
    ):
        outcome = run_program(*command, *options, environment=environment, cwd=tmp_path)
        assert list(outcome.document["outputs"]) == outputs


def test_connectors_that_clash_are_named(tmp_path):
    """With those that cannot be loaded, and the job runs nevertheless."""
    site = tmp_path / "site"
    metadata = site / "ducks-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ducks\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[flyte.connectors]\na = duck_a\nb = duck_b\nc = duck_c\n")
    for name in ("duck_a", "duck_b"):
        (site / f"{name}.py").write_text(SECRETIVE.replace(", override=True", ""))
    outcome = run_program(
        "run", "secretive", "--local", "--secret", "token=VENDOR", "--json",
        environment={"VENDOR": "12345", "PYTHONPATH": str(site)}, cwd=tmp_path,
    )  # fmt: skip
    assert outcome.code == 0
    assert "warning: entry point b (duck_b): 2 connectors serve the task type secretive in version 0" in outcome.err
    assert "warning: entry point c (duck_c): ModuleNotFoundError" in outcome.err


@pytest.mark.parametrize("option", ["--prefer", "--exclude"])
def test_a_choice_needs_connectors_in_this_process(run, option):
    outcome = run("run", "toy", option, "mine")
    assert outcome.code == 2
    assert f"{option} is about a job in this process: give --local or --modules as well" in outcome.err
    outcome = run("run", "toy", "--local", option, "toy=")
    assert outcome.code == 2
    assert f"{option} must be SOURCE or TYPE=SOURCE" in outcome.err


def test_several_modules_as_serve_takes_them(run, secretive):
    outcome = run("run", "toy", "--modules", str(TOY_MODULE), secretive, "--input", "end=SUCCEEDED", "--json")
    assert (outcome.code, outcome.document["phase"]) == (0, "SUCCEEDED")
    outcome = run("run", "nope", "--modules", str(TOY_MODULE), secretive)
    assert "NOT_FOUND: Cannot find connector for task type: nope." in outcome.err


def test_the_log_of_a_host_in_this_process(run):
    outcome = run(*LOCAL, "--input", "end=SUCCEEDED")
    assert "call finished" not in outcome.err
    outcome = run(*LOCAL, "--input", "end=SUCCEEDED", "--log-level", "info", "connectrio.rpc=error")
    assert outcome.code == 0
    assert "call finished" in outcome.err


def test_a_log_level_needs_a_host_in_this_process(run):
    outcome = run("run", "toy", "--log-level", "info")
    assert outcome.code == 2
    assert "--log-level is about a job in this process: give --local or --modules as well" in outcome.err
    outcome = run(*LOCAL, "--log-level", "loud")
    assert outcome.code == 2
    assert "'loud' is no log level" in outcome.err


@pytest.mark.parametrize("option", ["--prefer", "--exclude"])
def test_a_choice_that_no_connector_matches_is_named(run, option):
    outcome = run(*LOCAL, option, "toy=no_such_place")
    assert outcome.code == 0
    assert (
        f"{option} toy=no_such_place: no connector in --modules (--local adds those installed) comes from"
        in outcome.err
    )
    outcome = run(*LOCAL, "--local", option, "no_such_place")
    assert f"{option} no_such_place: no connector that is installed or in --modules comes from there" in outcome.err


def test_secrets_come_from_named_variables(run, secretive, monkeypatch):
    monkeypatch.setenv("VENDOR_TOKEN", "12345")
    outcome = run("run", "secretive", "--modules", secretive, "--secret", "token=VENDOR_TOKEN", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["outputs"] == {"seen": ["token of 5"]}
    custom = 'secrets={"token": "VENDOR_TOKEN"}'
    outcome = run("run", "secretive", "--modules", secretive, "--custom", custom, "--json")
    assert outcome.document["outputs"] == {"seen": ["token of 5"]}
    monkeypatch.delenv("VENDOR_TOKEN")
    outcome = run("run", "secretive", "--modules", secretive, "--custom", custom)
    assert outcome.code == 2
    assert "custom['secrets']: the environment variable that should hold the secret 'token' is not set" in outcome.err
    assert "--secret token=VARIABLE" in outcome.err


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_deletes_the_job(tmp_path, backend):
    arguments = [*LOCAL, "--input", "end=NEVER", "--output-prefix", str(tmp_path), "--backend", backend]
    with Process(*arguments, cwd=tmp_path) as command:
        command.error_with("RUNNING")
        command.signal(signal.SIGINT)
        outcome = command.wait()
    assert outcome.code == 130
    assert (tmp_path / "deleted").exists()
    assert outcome.err.endswith("interrupted; deleting the job\ninterrupted; the job was deleted\n")


def test_a_connector_that_hangs_in_a_thread_does_not_keep_a_signal_from_ending_the_command(tmp_path, secretive):
    arguments = ["run", "secretive", "--modules", secretive, "--secret", "token=T", "--backend", "asyncio"]
    with Process(*arguments, cwd=tmp_path, environment={"T": "hang"}) as command:
        command.error_with("hanging")
        command.signal(signal.SIGINT)
        outcome = command.wait()
    assert outcome.code == 130
    assert "deleted\n" in outcome.err
    assert outcome.out == ""
    assert "interrupted; the job was deleted" in outcome.err


CHATTY = """
import ctypes
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
from connectrio.literals import DataFrame, Dir, File

print("while it is imported")
logging.basicConfig(stream=sys.stdout, level="INFO")

@dataclass
class Meta(ResourceMeta):
    id: str

class Chatty(AsyncConnector[Meta]):
    task_type_name = "chatty"
    metadata_type = Meta

    def create(self, task_template, output_prefix, **kwargs):
        print("in a thread")
        os.write(1, b"past Python\\n")
        subprocess.run([sys.executable, "-c", "print('in a process')"], check=True)
        print("before the process", file=sys.__stdout__, flush=True)
        directory = output_prefix.removeprefix("file://")
        if os.path.isdir(directory):
            open(os.path.join(directory, "made"), "w").close()
        return Meta("1")

    async def get(self, resource_meta, **kwargs):
        print("on the event loop")
        logging.info("in the log")
        outputs = {
            "table": DataFrame(uri="bq://project:dataset.table"),
            "wide": DataFrame(uri="snowflake://user:acc/wh/db/schema/table", format="snowflake"),
            "model": File(path="s3://bucket/model.pt"),
            "parts": Dir(path="gs://bucket/parts"),
        }
        return Resource(Phase.SUCCEEDED, outputs=outputs)

    async def delete(self, resource_meta, **kwargs):
        print("deleted")

ConnectorRegistry.register(Chatty())
"""
OWN_PRINTS = ("while it is imported", "in a thread", "on the event loop", "in the log")
ALL_PRINTS = (*OWN_PRINTS, "past Python", "in a process", "before the process")


@pytest.fixture
def chatty(tmp_path):
    path = tmp_path / "chatty.py"
    path.write_text(CHATTY)
    return str(path)


@pytest.mark.parametrize("command", [["run", "chatty", "--modules"], ["check"]])
def test_what_connectors_print_goes_to_standard_error(tmp_path, chatty, command):
    outcome = run_program(*command, chatty, "--json", environment={}, cwd=tmp_path)
    assert isinstance(outcome.document, dict)  # and nothing else
    assert [text for text in ALL_PRINTS if text not in outcome.err] == []


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_references_to_stored_data_are_printed(tmp_path, chatty, backend):
    arguments = ["run", "chatty", "--modules", chatty, "--backend", backend]
    outcome = run_program(*arguments, "--json", environment={}, cwd=tmp_path)
    addresses = {name: value.get("uri") or value["path"] for name, value in outcome.document["outputs"].items()}
    assert addresses == {
        "table": "bq://project:dataset.table",
        "wide": "snowflake://user:acc/wh/db/schema/table",
        "model": "s3://bucket/model.pt",
        "parts": "gs://bucket/parts",
    }
    outcome = run_program(*arguments, environment={}, cwd=tmp_path)
    assert outcome.out == (
        "SUCCEEDED\n"
        "Outputs  Value\n"
        "table    bq://project:dataset.table\n"
        "wide     snowflake://user:acc/wh/db/schema/table\n"
        "model    s3://bucket/model.pt\n"
        "parts    gs://bucket/parts\n"
    )


def test_a_program_that_runs_the_command_keeps_its_standard_output(run, chatty):
    """Only `sys.stdout` is another one meanwhile."""
    before = sys.stdout
    outcome = run("run", "chatty", "--modules", chatty, "--output-prefix", f"{chatty}.outputs", "--json")
    sys.modules.pop("chatty")
    assert outcome.document["phase"] == "SUCCEEDED"
    assert [text for text in OWN_PRINTS if text not in outcome.err] == ["in the log"]  # pytest has set up logging
    assert sys.stdout is before


@pytest.mark.parametrize("command", [["run", "chatty", "--modules"], ["check"]])
@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_the_directory_for_outputs_is_made(tmp_path, chatty, form, command):
    path = tmp_path / "a" / "b c"
    run_program(*command, chatty, "--output-prefix", form.format(path), environment={}, cwd=tmp_path)
    assert (path / "made").exists()


def test_a_directory_for_outputs_that_stays_empty_is_removed(run, tmp_path):
    assert run(*LOCAL, "--output-prefix", str(tmp_path / "outputs")).code == 0
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "outputs").mkdir()
    assert run(*LOCAL, "--output-prefix", str(tmp_path / "outputs")).code == 0
    assert (tmp_path / "outputs").exists()


def test_a_directory_for_outputs_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").touch()
    outcome = run(*LOCAL, "--output-prefix", str(tmp_path / "file" / "outputs"))
    assert outcome.code == 2
    assert f"cannot make the directory {tmp_path}/file/outputs for outputs: Not a directory" in outcome.err


def test_outputs_at_a_url_need_no_directory(run, tmp_path):
    assert run(*LOCAL, "--output-prefix", "s3://bucket/outputs").code == 0
    assert list(tmp_path.glob("s3*")) == []


LATE = """
import time
from dataclasses import dataclass
from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskLogsResponseBody

@dataclass
class Meta(ResourceMeta):
    pass

class Late(AsyncConnector[Meta]):
    task_type_name = "late"
    metadata_type = Meta
    reads = 0

    async def create(self, **kwargs):
        return Meta()

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.FAILED, message="exit code 1")

    async def delete(self, resource_meta, **kwargs):
        raise RuntimeError("it has ended")

    async def get_logs(self, resource_meta, api_key="none", **kwargs):
        self.reads += 1
        lines = [f"key {len(api_key)}", "starting"]
        if self.reads >= 5:
            lines.append("the line that says why it failed")
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=lines))

ConnectorRegistry.register(Late())
"""


def test_secrets_reach_get_logs(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    arguments = ["run", "late", "--modules", "late.py", "--log-wait", "0"]
    outcome = run_program(*arguments, "--secret", "api_key=KEY", environment={"KEY": "12345"}, cwd=tmp_path)
    assert "\n  key 5\n" in outcome.err


def test_log_lines_that_come_after_the_end_of_the_job(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    arguments = ["run", "late", "--modules", "late.py", "--log-wait"]
    outcome = run_program(*arguments, "2", environment={}, cwd=tmp_path)
    assert outcome.code == 1
    assert "FAILED; waiting for the last log lines, 2 s without one ends this\n" in outcome.err
    assert outcome.err.endswith("  the line that says why it failed\n")
    outcome = run_program(*arguments, "0", environment={}, cwd=tmp_path)
    assert outcome.err.endswith("  starting\n")


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_signal_while_late_log_lines_are_waited_for(tmp_path, backend):
    """The job has ended, and is not deleted."""
    (tmp_path / "late.py").write_text(LATE)
    arguments = ["run", "late", "--modules", "late.py", "--log-wait", "3600", "--backend", backend]
    with Process(*arguments, cwd=tmp_path) as command:
        command.error_with("says why it failed")
        command.signal(signal.SIGINT)
        outcome = command.wait()
    assert (outcome.code, outcome.out) == (1, "FAILED: exit code 1\n")
    assert outcome.err.endswith("interrupted; the job has ended, but its log may be incomplete\n")
