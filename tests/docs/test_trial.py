"""The trial of a page finds what its reader would find: each kind of fault, with its line."""

from __future__ import annotations

import pytest

from docs.blocks import Block, Command, commands
from docs.outputs import difference
from docs.trial import Trial


def block(language, text, title="", **marks):
    return Block("page.md:7", language, title, text, {name.replace("_", " "): value for name, value in marks.items()})


@pytest.fixture
def trial(tmp_path):
    with Trial.of(tmp_path) as made:
        yield made


def wrong_of(trial, *blocks):
    """The complaint about the last block."""
    for each in blocks[:-1]:
        trial.take(each, None)
    with pytest.raises(AssertionError) as caught:
        trial.take(blocks[-1], None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shown", "written", "is_equal"),
    [
        (["one", "two"], "one\ntwo\n", True),
        (["one …"], "one and more\n", True),
        (["…", "two"], "one\n\ntwo\n", True),
        (["one", "…"], "one\n", True),
        (["one", ""], "\x1b[31mone\x1b[0m\n", True),
        (["one"], "one\ntwo\n", False),
        (["two"], "one\ntwo\n", False),
        (["a.c"], "abc\n", False),
    ],
)
def test_an_output_is_compared_line_by_line(shown, written, is_equal):
    assert (difference(shown, written) is None) == is_equal


def test_a_session_is_commands_with_their_continuations_and_outputs():
    text = "$ echo a \\\n> b\na b\n$ true\n"
    assert commands(block("console", text)) == [
        Command("page.md:8", "echo a \\\nb", ["a b"]),
        Command("page.md:11", "true", []),
    ]


def test_variables_and_the_directory_are_kept(trial):
    trial.take(block("console", "$ mkdir new && cd new\n$ export WORD=hello\n"), None)
    trial.take(block("console", "$ echo $WORD > file; ls\nfile\n$ cat file\nhello\n"), None)


def test_a_file_is_written_and_replaced(trial):
    trial.take(block("text", "one\n", title="folder/a.txt"), None)
    trial.take(block("text", "two\n", title="folder/a.txt"), None)
    trial.take(block("console", "$ cat folder/a.txt\ntwo\n"), None)


def test_an_output_that_differs_is_told_with_its_line(trial):
    told = wrong_of(trial, block("console", "$ true\n$ echo two\none\n"))
    assert told.startswith("page.md:9: no such line, or not there: 'one'")
    assert "it wrote:\ntwo\n" in told


def test_a_command_that_fails_says_how_to_mark_that(trial):
    assert "<!-- exits: 3 -->" in wrong_of(trial, block("console", "$ exit 3\n"))
    trial.take(block("console", "$ exit 3\n", exits="3"), None)


def test_a_script_that_is_no_excerpt_is_run(trial):
    following = block("text", "3\n")
    trial.take(block("python", "print(1 + 2)\n"), following)
    assert "ValueError: no" in wrong_of(trial, block("python", "raise ValueError('no')\n"))
    with pytest.raises(AssertionError, match=r"page\.md:7"):
        trial.take(block("python", "print(4)\n"), following)


def test_an_excerpt_is_not_run(trial):
    trial.take(block("python", "def f():\n    raise ValueError\n\n\nf()\n", title="a.py"), None)
    trial.take(block("python", "    raise ValueError\n\nf()\n"), None)


def test_ports_are_free_ones_that_outputs_do_not_show(trial):
    trial.take(block("console", "$ echo 127.0.0.1:8000 $CONNECTRIO_TARGET\n127.0.0.1:8000 127.0.0.1:8000\n"), None)
    trial.take(block("text", "8000\n", title="port.txt"), None)
    assert (trial.directory / "port.txt").read_text() != "8000\n"


SERVER = """\
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
print("ready", flush=True)
signal.pause()
"""


def test_a_program_keeps_running_until_it_is_stopped(trial):
    trial.take(block("text", SERVER.format(code=0), title="server.py"), None)
    trial.take(block("console", "$ python -u server.py\nready\n", keeps_running=""), None)
    [running] = trial._running
    assert running._process.poll() is None
    trial.stop("python -u server", "page.md:9")
    assert running._process.poll() == 0
    with pytest.raises(AssertionError, match="no program is running"):
        trial.stop("python -u server", "page.md:9")


def test_a_program_that_ends_with_an_error_is_told(trial):
    trial.take(block("text", SERVER.format(code=5), title="server.py"), None)
    trial.take(block("console", "$ python server.py\nready\n", keeps_running=""), None)
    with pytest.raises(AssertionError, match="ended with 5"):
        trial.stop("", "page.md:9")


def test_a_program_that_does_not_start_is_told(trial):
    told = wrong_of(trial, block("console", "$ python -c 'print(1); exit(1)'\nready\n", keeps_running=""))
    assert told.startswith("page.md:8: no such line")
