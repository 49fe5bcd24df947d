"""Prints for commands: tables and colours on a terminal, plain lines elsewhere, JSON for machines.

rich is imported when something is first drawn on a terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from connectrio.diagnostics import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "console",
    "is_terminal",
    "open_standard_descriptors",
    "print_code",
    "print_error",
    "print_heading",
    "print_json",
    "print_line",
    "print_note",
    "print_table",
    "print_to",
    "print_warning",
    "printable",
    "shown",
]

# what a terminal or a reader of lines may take for more than text, and JSON may have as it is: DEL, C1 controls, marks
# that change the direction of text, line separators
_NOT_PLAIN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def open_standard_descriptors() -> None:
    """Open /dev/null for those of standard input, output and error that the process was started without.

    Otherwise the next sockets would get their numbers. What a library prints would go to a client, and libuv ends the
    process when it closes such a socket.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def is_terminal(stream: IO[str] | None = None) -> bool:
    """Return whether `stream` (by default standard output) is a terminal."""
    stream = stream or sys.stdout
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it was closed
        return False


@cache
def console(*, stderr: bool = False) -> Console:
    """Return rich's console for standard output, or for standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False)


def shown(text: str) -> str:
    """Return `text` as commands show it: control characters escaped, and its further lines indented.

    So a text from a server cannot control the terminal, nor look like a line that the command itself has printed.
    """
    return printable(text).replace("\n", "\n    ")


def print_line(text: str, style: str = "") -> None:
    """Print a line on standard output, styled on a terminal."""
    print_to(sys.stdout, text, style)


def print_error(message: str, hint: str = "", *, failed: bool = True) -> None:
    """Print on standard error why the command ends early, and what to do next.

    :param failed: False if the user has ended the command
    """
    print_to(sys.stderr, f"error: {message}" if failed else message, "red" if failed else "yellow")
    if hint:
        print_to(sys.stderr, f"hint: {hint}", "dim")


def print_warning(message: str) -> None:
    """Print a warning on standard error. The command goes on."""
    print_to(sys.stderr, f"warning: {message}", "yellow")


def print_note(message: str) -> None:
    """Print advice on standard error."""
    print_to(sys.stderr, message, "dim")


def print_to(stream: IO[str] | None, text: str, style: str = "") -> None:
    """Print a line on standard output or error, styled on a terminal.

    :raises OSError: standard output does not take it. On standard error, the line is lost
    """
    if stream is None:  # the process was started without it
        return
    try:
        if style and is_terminal(stream):
            console(stderr=stream is sys.stderr).print(shown(text), style=style, soft_wrap=True)
        else:
            print(shown(text), file=stream, flush=True)
    except (OSError, ValueError):
        # its reader has gone, the disk is full, or it was closed; messages and warnings end no command
        if stream is not sys.stderr:
            raise


def print_json(document: Any, *, indent: int = 2) -> None:
    """Print a JSON document on standard output.

    :param indent: spaces; 0 for one line
    """
    import msgspec

    text = msgspec.json.encode(document)
    formatted = (msgspec.json.format(text, indent=indent) if indent else text).decode()
    # these can only be in strings, where an escape means the same
    print(_NOT_PLAIN.sub(lambda found: f"\\u{ord(found[0]):04x}", formatted), flush=True)


def print_heading(text: str) -> None:
    """Print the title of the lines that follow."""
    if is_terminal():
        from rich.rule import Rule

        console().print()
        console().print(Rule(text, style="cyan", align="left"), style="bold")
    else:
        print(f"\n== {printable(text)}", flush=True)


def print_code(code: str, language: str) -> None:
    """Print code, coloured on a terminal and indented elsewhere."""
    if is_terminal():
        from rich.syntax import Syntax

        console().print(Syntax(code, language, theme="ansi_dark", background_color="default", padding=(0, 2)))
    else:
        print("\n".join(f"  {line}" for line in code.splitlines()), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print a table: drawn on a terminal, aligned columns without the title elsewhere.

    :param right: the columns to align right, such as numbers
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if is_terminal():
        from rich.table import Table

        table = Table(title=title or None, title_style="bold", header_style="bold cyan")
        for column in columns:
            table.add_column(column, overflow="fold", justify="right" if column in right else "left")
        for row in cells:
            table.add_row(*row)
        console().print(table)
        return
    one_line = [[cell.replace("\n", " ") for cell in row] for row in [list(columns), *cells]]
    widths = [max(map(len, column)) for column in zip(*one_line, strict=True)]
    for row in one_line:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        print("  ".join(padded).rstrip(), flush=True)
