"""The command lines `connectrio` and `flyte-connector`. The packages beside this one do the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from connectrio.cli.script import run_script
from connectrio.rpc.garbage import without_collections

__all__ = ["connectrio_script", "flyte_connector", "flyte_connector_script", "main"]

# 128 + SIGINT, as shells have it; `errors` is not imported yet when Ctrl-C comes
_INTERRUPTED = 130
# each script's command that hosts
_SERVES = {"connectrio_app": "serve", "flyte_connector_app": "c0"}


def connectrio_script() -> NoReturn:
    """Run `connectrio` and end the process: the installed script."""
    run_script(partial(_run, "connectrio_app", None))


def flyte_connector_script() -> NoReturn:
    """Run `flyte-connector`, as flyte-sdk's documentation names it, and end the process: the installed script."""
    run_script(partial(_run, "flyte_connector_app", None))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command `connectrio` inside another program.

    :param arguments: those of the process unless given
    :raises SystemExit: with the command's exit code, when it has ended
    """
    sys.exit(_run("connectrio_app", arguments))


def flyte_connector(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command `flyte-connector` inside another program, as `main` runs `connectrio`."""
    sys.exit(_run("flyte_connector_app", arguments))


def _run(name: str, arguments: Sequence[str] | None) -> int:
    """Return the exit code of a script. Ctrl-C shows no traceback, not even while this is still importing."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] == [_SERVES[name]]:
            with without_collections():
                from connectrio.cli.errors import exit_code
                from connectrio.cli.hosting import plain_serve

                serve = plain_serve(words[1:])
            if serve is not None:
                return exit_code(serve)
        with without_collections():
            from connectrio.cli import app

        return app.dispatch(getattr(app, name)(), words)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseExceptionGroup as group:  # Ctrl-C while an event loop starts or ends
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return _INTERRUPTED
