"""`connectrio completion`: what a real bash makes of the TAB key, and where the script is installed."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess

import pytest
from cyclopts.completion import ShellDetectionError

from cli.harness import PATIENCE

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="there is no bash on the PATH")


@pytest.fixture
def bash(tmp_path):
    """Types lines at an interactive bash, whose `connectrio` tells with what it was called."""
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "TERM": "dumb"}

    def type_in(preparation: str, typed: str) -> str:
        (tmp_path / "home" / ".inputrc").write_text("set bell-style none\n")
        (tmp_path / "rc").write_text(f"{preparation}\nconnectrio() {{ printf 'called<%s>\\n' \"$*\"; }}\nPS1=\n")
        own, others = pty.openpty()
        command = [BASH, "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]
        shell = subprocess.Popen(
            command, stdin=others, stdout=others, stderr=others, env=environment, cwd=tmp_path, start_new_session=True
        )
        os.close(others)
        seen = b""
        try:
            os.write(own, typed.encode() + b"\n")
            while not (called := re.search(rb"called<(.*?)>\r\n", seen)):
                seen += os.read(own, 1024)
        finally:
            shell.kill()
            shell.wait(PATIENCE)
            os.close(own)
        return called[1].decode()

    return type_in


@needs_bash
@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("connectrio ser\t", "serve"),
        ("connectrio serve --dr\td\t", "serve --drain-delay"),
        ("connectrio serve --backend t\t", "serve --backend trio"),
        ("connectrio new q --template s\tq\t", "new q --template sql"),
    ],
)
def test_bash_completes(run, tmp_path, bash, typed, called):
    outcome = run("completion", "bash")
    assert (outcome.code, outcome.err) == (0, "")
    (tmp_path / "script").write_text(outcome.out)
    assert bash(f". '{tmp_path}/script'", typed).rstrip() == called


@needs_bash
def test_what_is_installed_is_loaded(run, tmp_path, bash, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    outcome = run("completion", "bash", "--install")
    script = home / ".local" / "share" / "bash-completion" / "completions" / "connectrio"
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"installed as {script}; open a new shell to use it\n"
    assert bash(f". '{home}/.bashrc'", "connectrio ser\t").rstrip() == "serve"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_every_command(run, shell):
    script = run("completion", shell).out
    for name in ("serve", "demo", "new", "check", "--drain-delay"):
        assert name.removeprefix("--" if shell == "fish" else "") in script


def test_without_a_name_it_takes_the_shell_that_runs_it(run, monkeypatch):
    monkeypatch.setattr("connectrio.cli.commands.completion.detect_shell", lambda: "fish")
    assert run("completion").out == run("completion", "fish").out


def test_an_unknown_shell(run, monkeypatch):
    def unknown():
        raise ShellDetectionError

    monkeypatch.setattr("connectrio.cli.commands.completion.detect_shell", unknown)
    outcome = run("completion")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "error: it is not clear which shell this is\nhint: name it: connectrio completion bash\n"


def test_a_home_where_nothing_can_be_written(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    outcome = run("completion", "bash", "--install")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: cannot install it as {tmp_path}/file/")
