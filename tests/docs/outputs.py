"""Comparing what a program wrote with what a document shows."""

from __future__ import annotations

import re

# the host of a test listens on the loopback interface alone
_LISTENING = re.compile(r", listening on 0\.0\.0\.0:\d+ and \[::\]:\d+$")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def pattern(shown: list[str]) -> re.Pattern[str]:
    """Return what matches the shown lines: … is any text in its line, and any lines where it stands alone."""
    lines = []
    for line in shown:
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(".*".join(map(re.escape, _LISTENING.sub("", line).split("…"))) + r"[ \t]*\n")
    return re.compile("".join(lines))


def plain(written: str) -> str:
    """Return what was written without colours, with an end of line."""
    text = _COLOURS.sub("", written).replace("\r\n", "\n")
    return text if text.endswith("\n") or not text else text + "\n"


def difference(shown: list[str], written: str) -> str | None:
    """Return what to tell of an output that is not as shown; None if it is."""
    while shown and not shown[-1]:
        shown = shown[:-1]
    if pattern(shown).fullmatch(plain(written).rstrip("\n") + "\n"):
        return None
    matched = max((n for n in range(len(shown) + 1) if pattern(shown[:n]).match(plain(written))), default=0)
    missing = f"no such line, or not there: {shown[matched]!r}" if matched < len(shown) else "more was written"
    return f"{missing}\nit wrote:\n{written}"
