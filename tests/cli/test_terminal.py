"""What is printed where: on terminals, in pipes, to readers that have gone."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess

import pytest

from cli.harness import CONNECTRIO
from connectrio.terminal import print_error, print_json, print_line, print_table, printable

COLOUR = "\x1b["


def on_a_terminal(*arguments, cwd, watch=lambda shown: None, started=lambda process: None):
    """The exit code of a command whose standard output and error are a terminal, and what it shows.

    :param watch: given what is shown so far, whenever there is more
    :param started: given the process
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([*CONNECTRIO, *arguments], cwd=cwd, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    started(process)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
            watch(shown.decode(errors="replace"))
    except OSError:
        pass  # Linux's way to say that nobody has the other end any more
    os.close(ours)
    return process.wait(), shown.decode(errors="replace")  # a signal may end it in the middle of a character


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ümlauts and 漢字", "plain, with ümlauts and 漢字"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x07\r\x00", "\\x07\\r\\x00"),
        ("\u202egnihton", "\\u202egnihton"),
        ("\udc80", "\\udc80"),
        ("\u2028\u2029\x9b", "\\u2028\\u2029\\x9b"),
    ],
)
def test_control_characters_are_spelled_out(text, shown):
    assert printable(text) == shown


def test_further_lines_of_a_text_are_indented(capsys):
    """So that none looks like a line that the command has printed."""
    print_line("RUNNING: first\nSUCCEEDED\r\x1b[2J")
    print_error("no\nhint: yes")
    printed = capsys.readouterr()
    assert printed.out == "RUNNING: first\n    SUCCEEDED\\r\\x1b[2J\n"
    assert printed.err == "error: no\n    hint: yes\n"


@pytest.mark.parametrize("indent", [0, 2])
def test_json_has_nothing_that_controls_a_terminal_or_ends_a_line(capsys, indent):
    text = "\x1b[2J\x7f\x9b31m\u2028\u202e ü漢"
    print_json({"message": text}, indent=indent)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "ü漢" in printed
    assert json.loads(printed) == {"message": text}


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "no space"), ValueError("closed")])
def test_a_message_that_cannot_be_printed_is_lost(monkeypatch, error):
    class Full:
        closed = False

        def isatty(self):
            return False

        def write(self, text):
            raise error

    monkeypatch.setattr("sys.stderr", Full())
    print_error("what", "to do")
    monkeypatch.setattr("sys.stderr", None)
    print_error("what", "to do")
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(type(error)):
        print_line("what was asked for")


def test_a_table_in_a_pipe(capsys):
    print_table("unseen", ("name", "n"), [("a", "5"), ("b\nc", "1,000")], right=("n",))
    assert capsys.readouterr().out.splitlines() == ["name      n", "a         5", "b c   1,000"]


def test_an_empty_table_in_a_pipe(capsys):
    print_table("unseen", ("name", "value"), [])
    assert capsys.readouterr().out == "name  value\n"


def test_ls_on_a_terminal(tmp_path, host):
    code, shown = on_a_terminal("ls", "--target", host.target, cwd=tmp_path)
    assert code == 0
    assert COLOUR in shown
    assert "│ Toy            │ toy (0)    │" in plain(shown)
    assert "warning: not loaded: entry point broken" in plain(shown)


def test_run_on_a_terminal(tmp_path, host, toy):
    def end_it_once_it_is_shown(shown):
        if "RUNNING" in plain(shown):
            toy.ends[len(toy.calls)] = "SUCCEEDED"

    arguments = ["run", "toy", "--input", "end=NEVER", "--target", host.target]
    code, shown = on_a_terminal(*arguments, cwd=tmp_path, watch=end_it_once_it_is_shown)
    assert code == 0
    text = plain(shown)
    assert "created {" in text
    assert "RUNNING" in text
    assert "40%" in text or "at it" in text
    assert "12:30:00.000 line 0" in text
    assert "SUCCEEDED" in text
    assert "│ answer" in text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_an_error_on_a_terminal_is_red(tmp_path, free_target):
    code, shown = on_a_terminal("ls", "--target", free_target, cwd=tmp_path)
    assert code == 1
    assert shown.startswith("\x1b[31merror: UNAVAILABLE: ")


def test_json_has_no_colour_even_on_a_terminal(tmp_path, host):
    _, shown = on_a_terminal("ls", "--json", "--target", host.target, cwd=tmp_path)
    assert COLOUR not in shown


def test_a_reader_that_has_gone_is_no_traceback(tmp_path, host):
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*CONNECTRIO, "ls", "--target", host.target]
    ended = subprocess.run(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (ended.returncode, ended.stderr) == (141, "")
