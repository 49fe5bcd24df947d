"""What others print to the standard output and error of a host."""

from __future__ import annotations

import io
import sys
import tracemalloc

import pytest

from connectrio.logs._streams import Lines, stream_to


def test_text_becomes_lines():
    lines = []
    take = Lines(lines.append)
    for piece in ("a", "b\nc\n\n", "  \n", "d"):
        take(piece)
    assert lines == ["ab", "c"]
    take("\n")
    assert lines == ["ab", "c", "d"]


def test_a_line_without_an_end_is_cut():
    lines = []
    Lines(lines.append)("x" * 100_000)
    assert [len(line) for line in lines] == [100_000]


def test_a_long_line_between_short_ones():
    lines = []
    take = Lines(lines.append)
    take("a\n" + "x" * 200_000 + "\nb\n" * 50_000 + "c")
    assert [len(line) for line in lines] == [1, 200_000, *[1] * 50_000]
    take("\n")
    assert lines[-1] == "c"


def test_the_lines_of_a_very_long_text_take_little_memory():
    take = Lines(lambda line: None)
    text = "\n" * 5_000_000
    tracemalloc.start()
    try:
        take(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # a list of all has 40 MB


def test_what_is_printed_arrives_at_once():
    pieces = []
    stream = stream_to(pieces.append, io.StringIO())
    print("no newline", end="", file=stream)
    assert pieces == ["no newline"]
    stream.buffer.write(b"\xffbytes")
    assert pieces[1:] == ["\\xffbytes"]


def test_closing_it_closes_it_for_nobody():
    pieces = []
    stream = stream_to(pieces.append, io.StringIO())
    stream.close()
    stream.buffer.close()
    print("still here", file=stream)
    assert "".join(pieces) == "still here\n"


def test_it_stands_for_the_stream_before(tmp_path):
    with (tmp_path / "file").open("w") as before:
        stream = stream_to(print, before)
        assert (stream.fileno(), stream.isatty(), stream.name) == (before.fileno(), False, before.name)
    assert not stream.isatty()


def test_a_process_without_the_stream():
    stream = stream_to(lambda _: None, None)
    print("nothing", file=stream)
    assert not stream.isatty()
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()
    assert sys.stderr is not stream
