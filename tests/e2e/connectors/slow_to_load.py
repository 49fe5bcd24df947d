"""A module that finishes loading when the FIFO in SLOW_TO_LOAD is written to."""

import os
from pathlib import Path

import connectrio.connectors.duckdb  # noqa: F401 - registers a connector: a host refuses a module that has none

os.write(1, b'{"event": "loading"}\n')
Path(os.environ["SLOW_TO_LOAD"]).read_text()
