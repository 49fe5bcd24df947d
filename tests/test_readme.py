"""What the README shows is what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from connectrio.cli.app import connectrio_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = {path.name: path.read_text() for path in (ROOT / "tests" / "examples").glob("*.py")}
CONNECTRIO = [sys.executable, "-m", "connectrio"]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_every_program_is_part_of_an_example_that_the_tests_run(block):
    assert any(block in text for text in EXAMPLES.values())


def test_every_command_is_there():
    named = set(re.findall(r"(?:^|[`$] ?|run )connectrio ([a-z]+)", README, re.MULTILINE))
    assert {"serve", "demo", "run", "ls"} <= named
    assert named <= set(connectrio_app())


def test_the_table_of_commands_has_all_of_them():
    rows = re.findall(r"^\| `connectrio (.*?) \|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    assert named == {name for name in connectrio_app() if not name.startswith("-")}


def test_the_demo_prints_what_is_shown():
    shown = re.search(r"```text\n(== Job\n.*?)```", README, re.DOTALL)[1]
    ran = subprocess.run([*CONNECTRIO, "demo"], check=True, capture_output=True, text=True, timeout=300)
    printed = ran.stdout.splitlines()
    # ids, times, directories, progress, and what is left out
    differing = re.compile(
        r"\b[0-9a-f]{32}\b|[\d:]+\.\d+(?= )|(?<=after )[\d.]+ s|/tmp/\S*?/result|(RUNNING|progress:).*|…"
    )
    lines = {differing.sub("*", line) for line in printed}
    assert [line for line in shown.splitlines() if differing.sub("*", line) not in {*lines, "*", "  *"}] == []


def test_the_grpc_example_runs():
    ran = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "examples" / "grpc_on_trio.py"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "SERVING\n"


def test_the_connector_runs(tmp_path):
    """The README's own session: a host with hello.py, and `connectrio run`."""
    free_ports = ["--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]
    modules = ["--no-entry-points", "--modules", ROOT / "tests" / "examples" / "hello.py"]
    host = subprocess.Popen(
        [*CONNECTRIO, "serve", "--log-format", "console", *free_ports, *modules],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        lines = iter(host.stdout.readline, "")
        target = next(line.split()[1] for line in lines if line.lstrip().startswith("gRPC"))
        command = [*CONNECTRIO, "run", "hello", "--input", "name=Flyte", "--target", target]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert ran.stdout.splitlines() == ["SUCCEEDED", "Outputs   Value", "greeting  Hello, Flyte!"]
        assert ran.stderr.splitlines()[0] == 'created {"name":"Flyte"}'
    finally:
        host.terminate()
        host.communicate(timeout=60)
    assert host.returncode == 0
