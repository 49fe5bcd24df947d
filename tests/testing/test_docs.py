"""What docs/how-to/authors.md shows is what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "authors.md").read_text()
EXAMPLES = [path.read_text() for path in (ROOT / "tests" / "examples").glob("*.py")]


@pytest.mark.parametrize(
    ("block", "output"), re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)
)
def test_every_program_is_part_of_an_example_that_the_tests_run_or_prints_what_is_shown(block: str, output: str):
    if output:
        ran = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=True)
        assert ran.stdout == output
    else:
        assert any(block in text for text in EXAMPLES)
