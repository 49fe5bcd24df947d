"""The example of the document "Call a server" runs on every backend, and prints what the document says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "call_a_server.py"

OUTPUT = """\
SERVING
SERVING
SERVING
DEADLINE_EXCEEDED the deadline passed before the call was done
7f3a Status.OK
7f3a Status.NOT_FOUND
SERVING
SERVING
TRANSIENT_FAILURE no healthy server for {target}: the health service says NOT_SERVING
READY
READY
SERVING
"""


async def test_the_example(capsys: pytest.CaptureFixture[str]):
    await runpy.run_path(str(EXAMPLE))["main"]()
    assert re.sub(r"127\.0\.0\.1:[0-9]+", "{target}", capsys.readouterr().out) == OUTPUT
