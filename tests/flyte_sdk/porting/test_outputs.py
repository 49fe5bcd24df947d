"""flyte-sdk's files, directories and data frames as outputs of a connector for connectrio."""

from __future__ import annotations

import flyte.io
import pytest

from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_to_python, outputs_to_literals

URI = "s3://bucket/x.csv"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (flyte.io.File(path=URI), File(URI)),
        (flyte.io.File.from_existing_remote(URI), File.from_existing_remote(URI)),
        (flyte.io.File(path=URI, format="csv", hash="h"), File(URI, format="csv", hash="h")),
        (flyte.io.Dir.from_existing_remote(URI), Dir.from_existing_remote(URI)),
        (flyte.io.Dir.from_existing_remote(URI, "h"), Dir.from_existing_remote(URI, "h")),
        (flyte.io.DataFrame(uri=URI), DataFrame(URI)),
        (flyte.io.DataFrame(uri=URI, format=None, hash="h"), DataFrame(URI, hash="h")),
    ],
)
def test_they_are_written_as_ours(theirs, ours):
    outputs = outputs_to_literals({"one": theirs, "many": [theirs]})
    assert [literal_to_python(each.value) for each in outputs.literals] == [ours, [ours]]
    assert outputs == outputs_to_literals({"one": ours, "many": [ours]})


def test_a_data_frame_that_is_not_stored_is_an_error():
    with pytest.raises(LiteralError, match=r"output 'x'.*DataFrame that is not stored yet"):
        outputs_to_literals({"x": flyte.io.DataFrame()})


class Csv(flyte.io.File):
    """A class of a connector's own."""


@pytest.mark.parametrize("cls", [Csv, flyte.io.File[str]])
def test_a_subclass_is_its_base(cls):
    assert literal_to_python(outputs_to_literals({"x": cls(path=URI)}).literals[0].value) == File(URI)
