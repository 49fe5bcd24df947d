"""Paths and `file://` URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

__all__ = ["in_same_form", "local_path", "path_or_url"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_file_url(location: str) -> bool:
    """Whether `location` is a URL of this machine's files."""
    return location[:7].lower() == "file://"


def local_path(location: str, what: str) -> Path:
    """The absolute path of a path or `file://` URL.

    :param what: what is there, for the error: "output_prefix"
    :raises ValueError: it is neither; the text says what can be given
    """
    if not location:
        raise ValueError(f"{what} is empty; the DuckDB connector needs a path or a file:// URL there")
    if is_file_url(location):
        location = _decode(location, what)
    elif _URL.match(location):
        raise ValueError(
            f"{what} is {location!r}, but the DuckDB connector writes to its host's files only:"
            " give it a path or a file:// URL (on a volume that the readers mount as well)"
        )
    if "\0" in location:
        raise ValueError(f"{what} holds a NUL character: {location!r}")
    return Path(os.path.abspath(location))  # noqa: PTH100 - resolves ".." as a shell does, and touches no file


def path_or_url(location: str, what: str) -> str:
    """`location` as DuckDB opens it, which takes percent-escapes in `file://` URLs for characters of the name."""
    return _decode(location, what) if is_file_url(location) else location


def in_same_form(path: Path, location: str) -> str:
    """`path` as a `file://` URL where `location` is one, else as a path."""
    return path.as_uri() if is_file_url(location) else str(path)


def _decode(url: str, what: str) -> str:
    # not urlsplit: it would cut names at "?" and "#", which people do not escape in file URLs
    host, slash, rest = url[7:].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise ValueError(f"{what} is {url!r}: the path of a file:// URL begins after three slashes, file:///path")
    try:
        return "/" + unquote(rest, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is {url!r}, whose escapes are not UTF-8") from error
