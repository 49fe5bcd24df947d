"""Texts about errors whose classes do what they can against it, and lines that nobody can write."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import nullcontext
from functools import partial

import pytest
from anyio import get_cancelled_exc_class

from connectrio import diagnostics
from connectrio.diagnostics import (
    LONGEST_TEXT,
    Repeats,
    SafeLogger,
    dropped_lines,
    format_error,
    format_stack,
    printable,
    raised_in,
    text_of,
)


class ExitsError(Exception):
    def __str__(self):
        raise SystemExit(9)

    __repr__ = __str__


class InterruptsError(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class NoTextError(Exception):
    def __str__(self):
        return 7  # noqa: PLE0307 - that is what this is about


class LongError(Exception):
    def __str__(self):
        return "y" * 20_000_000


class EvilText(str):
    __slots__ = ()

    def __str__(self):
        raise SystemExit

    __format__ = __len__ = __getitem__ = encode = __str__


class GivesEvilTextError(Exception):
    def __str__(self):
        return EvilText("harmless")


class HidesError(Exception):
    """Every attribute that tells of an error raises."""

    @property
    def nothing(self):
        raise SystemExit

    __class__ = __cause__ = __context__ = __traceback__ = __suppress_context__ = __notes__ = nothing

    def __bool__(self):
        raise SystemExit


class Meta(type):
    @property
    def __name__(cls):
        raise SystemExit


class NamelessClassError(Exception, metaclass=Meta):
    pass


class Endless(ExceptionGroup):
    @property
    def exceptions(self):
        while True:
            yield self


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("plain"), "plain"),
        (ValueError(), ""),
        (ExitsError(), "(SystemExit in the error's own text)"),
        (InterruptsError(), "(KeyboardInterrupt in the error's own text)"),
        (NoTextError(), "(TypeError in the error's own text)"),
        (GivesEvilTextError(), "harmless"),
    ],
)
def test_the_text_of_an_error(error, text):
    assert text_of(error) == text
    assert type(text_of(error)) is str


def test_a_very_long_text_loses_its_middle():
    text = text_of(LongError())
    assert len(text) < 5 * LONGEST_TEXT
    assert "characters …] yyy" in text


# as names: pytest could not look at some of them
@pytest.mark.parametrize(
    "name", ["ExitsError", "InterruptsError", "NoTextError", "GivesEvilTextError", "HidesError", "NamelessClassError"]
)
def test_a_traceback_of_an_error_that_is_hostile(name):
    with pytest.raises(globals()[name]) as caught:
        raise globals()[name]("x")
    text = format_error(caught.value)
    assert text.startswith("Traceback (most recent call last):\n")
    assert name in text.splitlines()[-1]


def test_a_traceback_is_as_python_prints_it():
    try:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("two\nlines") from error
    except ValueError as raised:
        raised.add_note("a note")
        text = format_error(raised)
    first, _, second = text.partition(f"\n\n{diagnostics._CAUSE}\n\n")
    assert first.startswith("Traceback (most recent call last):\n  File ")
    assert first.endswith("\nKeyError: 'key'")
    assert second.endswith("\nValueError: two\nlines\na note")


def in_framework(name):
    """A function that calls another one; its frame is of the module `name`."""
    scope = {"__name__": name}
    exec(compile("def run(function):\n    function()\n", f"{name}.py", "exec"), scope)
    return scope["run"]


def caught(function):
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        error.__traceback__ = error.__traceback__.tb_next  # without this function
        return error


def fails():
    raise ValueError("no")


def passing(*names, end=fails):
    """`end`, called by functions of these modules."""
    function = end
    for name in reversed(names):
        function = partial(in_framework(name), function)
    return function


def shown(error):
    """The modules of the frames in a traceback, and what stands for folded ones."""
    return re.findall(r'File "(?:\S*/)?(\S+?)\.py"|\[(… .* …)\]', format_error(error))


def places(error):
    return [file or folded for file, folded in shown(error)]


def test_frames_of_the_host_around_those_of_an_author_are_folded():
    names = ["connectrio.service.x", "anyio._backends", "connectrio.rpc", "author", "asyncio.tasks", "httpx", "author"]
    assert places(caught(passing(*names))) == [
        "… 3 frames of connectrio and anyio …",
        "author",
        "… 1 frame of asyncio …",
        "httpx",
        "author",
        "test_diagnostics",
    ]


def test_the_frame_that_raised_is_shown():
    error = caught(passing("author", "connectrio.a", "connectrio.b", end=partial(in_framework("connectrio.c"), None)))
    assert places(error) == ["author", "… 2 frames of connectrio …", "connectrio.c"]


def test_an_error_of_the_hosts_own_is_shown_as_it_is():
    error = caught(passing("connectrio.a", "anyio.b", end=partial(in_framework("connectrio.c"), None)))
    assert places(error) == ["connectrio.a", "anyio.b", "connectrio.c"]


@pytest.mark.parametrize("name", ["connectrio.connectors.duckdb", "connectrio_of_mine", "anyio_tools", None, 7])
def test_frames_of_connectors_are_never_folded(name):
    scope = {"__name__": name}
    exec(compile("def run(function):\n    function()\n", "mine.py", "exec"), scope)
    error = caught(partial(in_framework("connectrio.a"), partial(scope["run"], fails)))
    assert places(error) == ["… 1 frame of connectrio …", "mine", "test_diagnostics"]


def test_causes_and_members_are_folded_and_lose_nothing():
    inner = caught(passing("connectrio.a", "anyio.a", "author"))
    outer = caught(passing("connectrio.a", "trio.b", end=partial(in_framework("connectrio.c"), None)))
    outer.__cause__ = ExceptionGroup("several", [inner, KeyError("beside")])
    assert places(outer) == [
        "… 2 frames of connectrio and anyio …",
        "author",
        "test_diagnostics",
        "… 2 frames of connectrio and trio …",
        "connectrio.c",
    ]
    assert "KeyError: 'beside'" in format_error(outer)


def test_a_stack_is_folded_like_a_traceback():
    seen = []

    def blocks():
        seen.append(format_stack(sys._getframe()))
        raise ValueError

    caught(passing("connectrio.service.x", "anyio.y", "author", "asyncio.z", end=blocks))
    [text] = seen
    *_, one, two, three = [line for line in text.splitlines() if "[…" in line or "File" in line]
    assert "… 2 frames of connectrio and anyio …" in text
    assert "author" in one
    assert two == "  [… 1 frame of asyncio …]"
    assert "in blocks" in three


def test_an_error_while_another_was_handled():
    try:
        try:
            raise ValueError("first")
        except ValueError:
            raise TypeError("second")  # noqa: B904 - that is what this is about
    except TypeError as raised:
        error = raised
    assert diagnostics._CONTEXT in format_error(error)
    error.__suppress_context__ = True
    assert "first" not in format_error(error)


def test_the_members_of_a_group():
    text = format_error(ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])]))
    assert text.splitlines() == [
        "ExceptionGroup: several (2 sub-exceptions)",
        "  +---------------- 1 ----------------",
        "  | ValueError: one",
        "  +---------------- 2 ----------------",
        "  | ExceptionGroup: more (1 sub-exception)",
        "  |   +---------------- 1 ----------------",
        "  |   | KeyError: 'two'",
    ]


def test_a_syntax_error_shows_the_line():
    with pytest.raises(SyntaxError) as caught:
        compile("a =", "connector.py", "exec")
    assert '  File "connector.py", line 1\n' in format_error(caught.value)


def deep_groups():
    error = ValueError("0")
    for number in range(5000):
        error = ExceptionGroup(str(number), [error, ValueError("x")])
    return error


def groups_that_share():
    """2 ** 60 leaves in 61 objects."""
    error = ValueError("leaf")
    for _ in range(60):
        error = ExceptionGroup("g", [error, error])
    return error


def long_chain():
    error = ValueError("0")
    for number in range(20_000):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    return error


def cycle():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def endless():
    return Endless("e", [ExitsError()])


@pytest.mark.parametrize("make", [deep_groups, groups_that_share, long_chain, cycle, endless])
def test_what_is_nested_without_end_has_a_bounded_traceback(make):
    text = format_error(make())
    assert len(text) <= LONGEST_TEXT + 100
    assert text.startswith(
        (
            "ExceptionGroup: 4999",
            "ExceptionGroup: g",
            "ValueError: ",
            "[… ValueError",
            "tests.test_diagnostics.Endless: e",
        )
    )


def test_many_long_texts_fit_into_one():
    assert len(format_error(ExceptionGroup("g", [LongError(), LongError(), LongError()]))) < LONGEST_TEXT + 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\r", "\\x1b[2J\\r"),
    ],
)
def test_what_could_control_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


def test_a_field_has_one_line():
    assert printable("a\nb\tc", keep="") == "a\\nb\\tc"


def test_what_repeats_is_left_out_and_counted():
    now = [0.0]
    repeats = Repeats(1.0, lambda: now[0])
    assert [repeats.count("a") for _ in range(3)] == [0, None, None]
    assert repeats.count("b") == 0
    now[0] = 1.0
    assert [repeats.count("a"), repeats.count("a")] == [2, None]
    now[0] = 2.0
    assert repeats.count("a") == 1


def test_what_was_left_out_at_last_is_told_once():
    now = [0.0]
    repeats = Repeats(1.0, lambda: now[0])
    asked = []
    for number in range(4):
        repeats.count("a", lambda number=number: asked.append(number) or f"a {number}")
    repeats.count("b", lambda: "b")
    assert (repeats.untold(), asked) == ([], [1])
    now[0] = 1.0
    assert repeats.untold() == [("a 1", 3)]
    assert repeats.untold() == []
    assert [repeats.count("a", lambda: "a"), repeats.count("a", lambda: "a")] == [0, None]
    assert repeats.untold(at_end=True) == [("a", 1)]


def test_what_was_left_out_is_told_although_many_others_came():
    repeats = Repeats(1.0, lambda: 0.0)
    assert [repeats.count("a", lambda: "a") for _ in range(3)] == [0, None, None]
    for number in range(1000):
        repeats.count(number, lambda: "other")
    assert repeats.untold() == [("a", 2)]


def test_lines_that_all_differ_take_no_more_memory():
    repeats = Repeats()
    for number in range(1000):
        assert repeats.count(number) == 0
    assert len(repeats._lines) == 256


class Fails(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def emit(self, record):
        raise self.error


@pytest.mark.parametrize("error", [ValueError(), RecursionError(), SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_fails_costs_the_line(error):
    logger = logging.getLogger("connectrio.rpc.test")
    handler = Fails(error)
    logger.addHandler(handler)
    before = dropped_lines()
    try:
        SafeLogger("connectrio.rpc.test").warning("%(a)s", {"a": 1})
    finally:
        logger.removeHandler(handler)
    assert dropped_lines() == before + 1


def test_a_repeated_warning_says_how_many_were_left_out(caplog):
    log = SafeLogger("connectrio.rpc.test")
    now = [0.0]
    log._repeats = Repeats(1.0, lambda: now[0])
    for _ in range(3):
        log.repeated_warning("no file is left: %(error)s", {"error": "EMFILE"})
    now[0] = 1.0
    log.repeated_warning("no file is left: %(error)s", {"error": "EMFILE"})
    assert caplog.messages == [
        "no file is left: EMFILE",
        "no file is left: EMFILE; lines like this that were left out: 2",
    ]


def test_the_place_of_a_line_is_where_it_was_logged(caplog):
    SafeLogger("connectrio.rpc.test").warning("here")
    assert caplog.records[0].funcName == "test_the_place_of_a_line_is_where_it_was_logged"


def test_where_an_error_was_raised():
    """The author's frame, also if the framework raises for it."""

    def fail() -> None:
        with nullcontext():
            get_cancelled_exc_class()  # raises, because no event loop runs

    with pytest.raises(RuntimeError) as raised:
        fail()
    assert raised_in(raised.value) == (
        f"{__file__}:{fail.__code__.co_firstlineno + 2} in {fail.__qualname__}",
        __name__,
    )
    assert raised_in(ValueError()) == ("", "")
