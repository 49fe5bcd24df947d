"""Programs of users under mypy and pyright, strict: what is right is accepted, and what is wrong is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from type_checks.checkers import CHECKERS, PROTOS, copy_examples, copy_project, pyright, why_no_pyright

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(params=CHECKERS)
def check(request: pytest.FixtureRequest):
    if request.param == "pyright" and (reason := why_no_pyright()):
        pytest.skip(reason)
    return CHECKERS[request.param]


def test_the_examples_and_every_shape_of_a_method_are_accepted(check, tmp_path: Path):
    copy_examples(tmp_path)
    shutil.copy(PROGRAMS / "accepted.py", tmp_path)
    assert len(list(tmp_path.rglob("*.py"))) > 5
    assert check(tmp_path) == []


@pytest.mark.parametrize("proto", PROTOS, ids=lambda proto: proto.stem)
def test_examples_with_stubs_are_accepted(check, proto: Path, tmp_path: Path):
    copy_project(proto, tmp_path)
    assert check(tmp_path) == []


def test_a_grpc_service_by_hand_is_accepted(check, tmp_path: Path):
    shutil.copy(PROGRAMS / "grpc_by_hand.py", tmp_path)
    assert check(tmp_path) == []


def test_mistakes_are_refused_where_they_are(request, check, tmp_path: Path):
    marks = ("# refused: ", f"# refused by {request.node.callspec.params['check']}: ")
    lines = (PROGRAMS / "refused.py").read_text().splitlines()
    shutil.copy(PROGRAMS / "refused.py", tmp_path)
    found = check(tmp_path)
    expected = {number for number, line in enumerate(lines, 1) if any(mark in line for mark in marks)}
    assert len(expected) >= 9
    assert {refusal.line for refusal in found} == expected, "\n".join(map(str, found))


def test_a_connector_without_annotations_has_only_these_missing(check, tmp_path: Path):
    shutil.copy(PROGRAMS / "unannotated.py", tmp_path)
    found = check(tmp_path)
    assert found
    assert [str(each) for each in found if not re.search("annotation|unknown", each.text)] == []


def test_pyright_as_by_default_accepts_a_connector_without_annotations(tmp_path: Path):
    if reason := why_no_pyright():
        pytest.skip(reason)
    shutil.copy(PROGRAMS / "unannotated.py", tmp_path)
    assert pyright(tmp_path, mode="standard") == []
