"""Lines that are written by a thread, to readers that are slow, gone or come back."""

from __future__ import annotations

import io
import os
import socket
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectrio.logs import _writer
from connectrio.logs._processors import processors
from connectrio.logs._writer import Writer

PATIENCE = 60


class Pipe:
    """A pipe, and the stream that a process would have as its standard error."""

    def __init__(self):
        self.reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "w")

    def fill(self):
        """Leave no room, as a reader does that has stopped."""
        os.set_blocking(self.stream.fileno(), False)
        try:
            while True:
                os.write(self.stream.fileno(), b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(self.stream.fileno(), True)

    def read_until(self, end):
        data = b""
        while not data.endswith(end):
            data += os.read(self.reading, 65536)
        return data

    def close(self):
        os.close(self.reading)
        self.stream.close()


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


@contextmanager
def started(stream, **options):
    """A writer, and the numbers of dropped lines that it has told of."""
    dropped = []
    writer = Writer(stream, on_drop=dropped.append, **options)
    writer.start()
    yield writer, dropped
    writer.stop(PATIENCE)


def test_lines_arrive_in_order(pipe):
    with started(pipe.stream) as (writer, dropped):
        for number in range(1000):
            writer.offer(f"{number}\n")
        assert pipe.read_until(b"999\n") == b"".join(b"%d\n" % number for number in range(1000))
    assert dropped == []


def test_flush_waits_for_what_was_offered(pipe):
    with started(pipe.stream) as (writer, _):
        writer.offer("a\n")
        assert writer.flush(PATIENCE)
        assert os.read(pipe.reading, 10) == b"a\n"


def test_a_full_pipe_holds_nobody_and_drops_what_is_too_much(pipe, monkeypatch):
    monkeypatch.setattr(_writer, "_MOST_WAITING", 10 * (_writer._COST_OF_A_LINE + 2))
    gaps = []
    pipe.fill()
    with started(pipe.stream, on_gap=gaps.append) as (writer, dropped):
        for _ in range(15):
            writer.offer("a\n")
        assert not writer.flush(0.01)
        assert sum(dropped) == 5
        assert pipe.read_until(b"xa\n" + 9 * b"a\n").count(b"a\n") == 10
        assert writer.flush(PATIENCE)
        assert gaps == [5]
        writer.offer("b\n")
        assert pipe.read_until(b"b\n") == b"b\n"
    assert sum(dropped) == 5


def test_lines_are_together_only_as_far_as_a_pipe_takes_them_in_one_piece(pipe, monkeypatch):
    pipe.fill()
    sizes = []
    write = os.write
    monkeypatch.setattr(
        _writer.os, "write", lambda descriptor, data: sizes.append(len(data)) or write(descriptor, data)
    )
    with started(pipe.stream) as (writer, _):
        for length in (1000, 2000, 1500, 9000, 10):
            writer.offer("a" * (length - 1) + "\n")
        pipe.read_until(b"a" * 9 + b"\n")
    assert sizes in ([1000, 3500, 9000, 10], [3000, 1500, 9000, 10])


def test_a_reader_that_has_gone_costs_each_line():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, started(stream) as (writer, dropped):
        writer.offer("a\n")
        writer.offer("b\n")
        assert writer.flush(PATIENCE)
        assert sum(dropped) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has such a file")
def test_a_full_disk_costs_each_line():
    with Path("/dev/full").open("w") as stream, started(stream) as (writer, dropped):
        writer.offer("a\n")
        assert writer.flush(PATIENCE)
    assert dropped == [1]


def test_a_line_that_was_cut_short_is_ended(monkeypatch, pipe):
    """The next one is a line of its own."""
    answers = [3, OSError("the disk is full")]
    write = os.write

    def fails_once(descriptor, data):
        answer = answers.pop(0) if answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        return write(descriptor, data[:answer])

    monkeypatch.setattr(_writer.os, "write", fails_once)
    with started(pipe.stream) as (writer, dropped):
        writer.offer("first line\n")
        assert writer.flush(PATIENCE)
        writer.offer("second\n")
        assert pipe.read_until(b"second\n") == b"fir\nsecond\n"
    assert dropped == [1]


def test_a_descriptor_that_does_not_block_is_waited_for():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs.makefile("w") as stream, started(stream) as (writer, dropped):
        text = "a" * 2_000_000 + "\n"
        writer.offer(text)
        theirs.close()
        data = b""
        while len(data) < len(text):
            data += ours.recv(65536)
    assert dropped == []


def test_a_descriptor_that_somebody_closes_is_not_the_next_ones(pipe):
    """Its number would be that of the next connection."""
    with started(pipe.stream) as (writer, _):
        number = pipe.stream.fileno()
        before = os.dup(number)
        os.close(number)
        others = os.pipe()
        assert number in others
        writer.offer("a\n")
        assert pipe.read_until(b"a\n") == b"a\n"
        for each in others:
            os.close(each)
        os.dup2(before, number)
        os.close(before)


def test_a_stream_that_is_no_file():
    stream = io.StringIO()
    with started(stream) as (writer, _):
        writer.offer("a\n")
    assert stream.getvalue() == "a\n"


def test_a_process_without_the_stream():
    with started(None) as (writer, dropped):
        writer.offer("a\n")
        assert writer.flush(PATIENCE)
    assert dropped == [1]


def test_before_its_start_and_after_its_end_it_writes_at_once(pipe):
    writer = Writer(pipe.stream)
    writer.offer("a\n")
    assert os.read(pipe.reading, 10) == b"a\n"
    writer.start()
    writer.stop(PATIENCE)
    writer.offer("b\n")
    assert os.read(pipe.reading, 10) == b"b\n"


def test_after_an_end_that_could_not_wait_nothing_is_written(pipe):
    """It would wait for ever, and the process would not end."""
    dropped = []
    pipe.fill()
    writer = Writer(pipe.stream, on_drop=dropped.append)
    writer.start()
    writer.offer("a\n")
    writer.stop(0.01)
    writer.offer("b\n")
    assert dropped == [1]
    pipe.read_until(b"xa\n")


def test_a_stream_that_raises_costs_the_line():
    class Closed(io.StringIO):
        def write(self, text):
            raise ValueError("I/O operation on closed file")

    dropped = []
    Writer(Closed(), on_drop=dropped.append).offer("a\n")
    assert dropped == [1]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking a process that has threads is a warning")
def test_a_child_writes_for_itself(pipe):
    with started(pipe.stream) as (writer, _):
        child = os.fork()
        if child == 0:
            writer.offer("from the child\n")
            os._exit(0)
        os.waitpid(child, 0)
        assert pipe.read_until(b"child\n") == b"from the child\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking a process that has threads is a warning")
def test_a_child_keeps_no_duplicate_of_the_output(pipe):
    with started(pipe.stream) as (writer, _):
        duplicate = writer._descriptor
        child = os.fork()
        if child == 0:
            try:
                os.fstat(duplicate)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("is_terminal", "no_color"), [(True, ""), (True, "1"), (False, "")])
def test_colours(monkeypatch, is_terminal, no_color):
    monkeypatch.setattr("os.isatty", lambda descriptor: is_terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    renderer = processors(console=True, process=None)[-1]
    line = renderer(None, "info", {"event": "it happens", "level": "info", "execution": "f7c1", "domain": "d"})
    assert ("\x1b" in line) == (is_terminal and not no_color)
    if not is_terminal:
        assert line.split() == ["[info", "]", "it", "happens", "execution=f7c1", "domain=d"]
