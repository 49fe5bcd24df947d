"""The table of differences is exact, in the document too."""

from __future__ import annotations

from pathlib import Path

import pytest

from flytekit_sdk import test_equality
from flytekit_sdk.table import DIFFERENCES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "how-to" / "flytekit.md").read_text()


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda each: each.case)
def test_both_answer_as_the_table_says(ours, reference, difference):
    assert (difference.answer(reference), difference.answer(ours)) == (difference.theirs, difference.ours)


def test_the_document_has_the_table_and_the_numbers():
    table = DOCUMENT.partition("| what is asked |")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [difference.row for difference in DIFFERENCES]
    counts = (test_equality.CREATES, test_equality.GETS, test_equality.EXECUTIONS)
    assert "{} CreateTask, {} GetTask and {} ExecuteTaskSync".format(*counts) in " ".join(DOCUMENT.split())
