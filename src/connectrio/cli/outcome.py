"""What a command's end, or failure, is to whoever ran it: an exit code, and a message on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from connectrio.cli.errors import INTERRUPTED, CommandError
from connectrio.cli.script import is_script
from connectrio.terminal import print_error

__all__ = ["exit_code"]

# 128 + SIGPIPE, as shells have it
_BROKEN_PIPE = 141


def exit_code(command: Callable[[], int | None]) -> int:
    """Run `command`; its exit code."""
    try:
        code = command() or 0
        sys.stdout.flush()
    except CommandError as error:
        print_error(str(error), error.hint, failed=error.code != INTERRUPTED)
        return error.code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        # nobody reads what was printed; what is left must not fail again when the interpreter flushes it
        if is_script():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code
