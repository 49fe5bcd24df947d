"""The two scripts: versions, help, how they end, what they import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from connectrio import __version__
from connectrio.cli import app as cli_app
from connectrio.cli import main

COMMANDS = ["serve", "demo", "run", "create", "get", "logs", "metrics", "delete", "ls", "health", "rpc", "version"]


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version(run, argument):
    outcome = run(argument)
    assert (outcome.code, outcome.out) == (0, f"{__version__}\n")


def test_the_version_of_flyte_connector(run):
    assert run.flyte_connector("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_has_every_command_with_a_sentence(run, arguments):
    outcome = run(*arguments)
    assert outcome.code == 0
    lines = [line.strip() for line in outcome.out.splitlines()]
    for command in COMMANDS:
        assert any(line.startswith(f"{command}: ") and len(line) > 20 for line in lines), command
    assert "Examples:" in lines
    assert "Documentation: https://connectrio.github.io/connectrio/" in lines


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_each_commands_help_explains_its_options_and_has_an_example(run, command):
    outcome = run(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    text = outcome.out
    assert text.startswith(f"Usage: connectrio {command}")
    assert f"\n  connectrio {command}" in text.partition("Examples:")[2]
    assert ":param" not in text
    unexplained = [line for line in text.splitlines() if line.startswith("  --") and ":" not in line]
    assert unexplained == []


def test_help_of_c0(run):
    assert "flyte-connector c0 --port 8000" in run.flyte_connector("c0", "--help").out


def test_the_version_option_of_a_command_is_the_task_types(run):
    outcome = run("get", "toy", "{}", "--version")
    assert outcome.code == 2
    assert "--version requires an argument" in outcome.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("of a nursery", [KeyboardInterrupt()])])
def test_a_keyboard_interrupt_outside_of_an_event_loop_is_no_traceback(run, monkeypatch, error):
    def interrupted(app, arguments):
        raise error

    monkeypatch.setattr(cli_app, "_run_command", interrupted)
    outcome = run("ls")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


def test_a_bug_is_a_traceback(monkeypatch):
    """Nothing is hidden: only what is expected becomes a message."""

    def broken(app, arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(cli_app, "_run_command", broken)
    with pytest.raises(ZeroDivisionError):
        main(["ls"])


def test_a_bug_beside_a_keyboard_interrupt_is_a_traceback(monkeypatch):
    def broken(app, arguments):
        raise BaseExceptionGroup("of a nursery", [KeyboardInterrupt(), ZeroDivisionError()])

    monkeypatch.setattr(cli_app, "_run_command", broken)
    with pytest.raises(BaseExceptionGroup):
        main(["ls"])


HEAVY = ["duckdb", "h11", "prometheus_client", "connectrio.host.host", "connectrio.connectors"]


@pytest.mark.parametrize(
    ("command", "option", "says"),
    [
        (["ls", "--json"], "--target", "UNAVAILABLE"),
        (["health"], "--target", "UNAVAILABLE"),
        (["get", "toy", "{}"], "--target", "UNAVAILABLE"),
        (["create", "toy"], "--target", "UNAVAILABLE"),
        (["ps"], "--url", "no answer"),
        (["show", "f7c1"], "--url", "no answer"),
    ],
)
def test_client_commands_import_no_host_and_no_connector(free_target, command, option, says, tmp_path):
    address = free_target if option == "--target" else f"http://{free_target}"
    program = (
        "import sys; from connectrio.cli.app import *;"
        f"dispatch(connectrio_app(), {[*command, option, address]!r});"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
    assert says in ended.stderr
