"""Hosted connectors in a program of one's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from flyteidl.core.literals_pb2 import LiteralMap

HERE = Path(__file__).parent


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_python_values_as_inputs(flytekit_python, backend):
    command = [flytekit_python, HERE / "programs" / "direct.py", backend]
    env = {**os.environ, "PYTHONPATH": str(HERE / "connectors")}
    ran = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    created, ended = [line for line in ran.stdout.splitlines() if line.startswith(("{", "SUCCEEDED"))]
    arguments = dict(json.loads(json.loads(created)["said"]))
    inputs = LiteralMap.FromString(bytes.fromhex(arguments["inputs"][1])).literals
    assert inputs["n"].scalar.primitive.integer == 7
    assert inputs["text"].scalar.primitive.string_value == "seven"
    assert arguments["output_prefix"] == ["str", "'s3://x'"]
    assert ended == "SUCCEEDED a"
