"""Command lines of `connectrio serve` that are understood without cyclopts.

cyclopts takes a fifth of the time in which a host starts, and a tenth of its memory. Most hosts are started by a line
that is all `--name value`: that is read here. Whatever else there is (help, other spellings, mistakes, settings from
the environment or a file) is left to cyclopts, which makes the same of what is read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

from connectrio.cli.serve.run import LogFormat, LogLevel, host
from connectrio.cli.serve.variables import DEFAULT_FILE, variable
from connectrio.host.settings import Backend, HostSettings

__all__ = ["plain_serve"]

_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*|[a-z]+(?:_[a-z]+)*)")
_TEXT = re.compile(r"[\w./:][\w./:-]*", re.ASCII)
# for types that are given as one word: how that looks, and what makes a value of it
_ONE_WORD: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "int": (re.compile(r"[0-9]{1,15}"), int),
    "float": (re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?"), float),
    "str": (_TEXT, str),
    "Path": (_TEXT, Path),
    **{
        name: (re.compile("|".join(get_args(choices))), str)
        for name, choices in (("Backend", Backend), ("LogLevel", LogLevel), ("LogFormat", LogFormat))
    },
}
_SETTINGS = {field.name: str(field.type).removesuffix(" | None") for field in fields(HostSettings)}
_BESIDE = {"backend": "Backend", "processes": "int", "log_level": "LogLevel", "log_format": "LogFormat"}


class _NotPlainError(Exception):
    """It takes cyclopts to say what this is."""


def plain_serve(arguments: Sequence[str]) -> Callable[[], None] | None:
    """What `connectrio serve` does with `arguments`; None if it takes more to find out."""
    if Path(DEFAULT_FILE).exists() or any(os.environ.get(variable(name)) for name in (*_SETTINGS, *_BESIDE, "config")):
        return None
    try:
        given = dict(_setting(name, words) for name, words in _flags(arguments))
        beside = {name: given.pop(name) for name in _BESIDE if name in given}
        return partial(host, HostSettings(**given), **beside)
    except (_NotPlainError, ValueError):  # the latter from HostSettings: cyclopts says to which option it belongs
        return None


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag's name, and the words behind it."""
    seen: dict[str, list[str]] = {}
    words: list[str] | None = None
    for word in arguments:
        if flag := _FLAG.fullmatch(word):
            name = flag[1].replace("-", "_")
            if name in seen:
                raise _NotPlainError
            words = seen[name] = []
        elif words is None or not _TEXT.fullmatch(word):
            raise _NotPlainError
        else:
            words.append(word)
    yield from seen.items()


def _setting(flag: str, words: list[str]) -> tuple[str, Any]:
    positive = flag.removeprefix("no_")
    if _SETTINGS.get(positive) == "bool" and not words:
        return positive, flag == positive
    return flag, _value(_SETTINGS.get(flag) or _BESIDE.get(flag), words)


def _value(kind: str | None, words: list[str]) -> Any:
    if kind == "list[str]" and words:
        return words
    if kind not in _ONE_WORD or len(words) != 1:
        raise _NotPlainError
    pattern, make = _ONE_WORD[kind]
    if not pattern.fullmatch(words[0]):
        raise _NotPlainError
    return make(words[0])
