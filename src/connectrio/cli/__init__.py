"""The command lines: `connectrio` and `flyte-connector`. Thin: what they do is done by the packages beside this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["flyte_connector", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The script `connectrio`; `arguments` are those of the process unless given."""
    from connectrio.cli.app import connectrio_app, dispatch

    sys.exit(dispatch(connectrio_app(), arguments))


def flyte_connector(arguments: Sequence[str] | None = None) -> NoReturn:
    """The script `flyte-connector`, by the name that flyte-sdk's documentation gives it."""
    from connectrio.cli.app import dispatch, flyte_connector_app

    sys.exit(dispatch(flyte_connector_app(), arguments))
