"""`just audit`: what is known is told, and what could not be asked is never taken for safe."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import audit
import pytest
from audit import FAILED, KNOWN, NONE_KNOWN, NOT_AUDITED

from ci.harness import ROOT

FLAW = {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "…"}
CANARY = {"name": "jinja2", "version": "2.10", "vulns": [FLAW]}
# an index without data, in two forms
EMPTY = {"name": "jinja2", "version": "2.10", "vulns": []}
SKIPPED = {"name": "jinja2", "skip_reason": "Dependency not found"}

SAFE = {"name": "h11", "version": "0.16.0", "vulns": []}
UNSAFE = {"name": "h11", "version": "0.16.0", "vulns": [{**FLAW, "id": "GHSA-x", "fix_versions": [], "aliases": []}]}
UNKNOWN = {"name": "private", "skip_reason": "Dependency not found"}


@pytest.fixture
def answers(monkeypatch):
    """What each source answers: to the canary, and to all others. An answer that is no list breaks pip-audit."""
    given: dict[str, tuple[object, object]] = {}
    asked: list[str] = []
    run = subprocess.run

    def fake(command, **rest):
        if "pip_audit" not in command:
            return run(command, **rest)
        source = command[command.index("--vulnerability-service") + 1]
        is_canary = command[-1].endswith("canary.txt")
        is_image = command[-1] == str(audit.IMAGE)
        answer = [] if is_image else given[source][not is_canary]
        asked.append(source)
        if isinstance(answer, list):
            return subprocess.CompletedProcess(command, 0, json.dumps({"dependencies": answer, "fixes": []}), "")
        return subprocess.CompletedProcess(command, 1, "", f"Traceback…\n{answer}\n")

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(audit, "resolved", lambda directory: directory / "requirements.txt")
    return given, asked


@pytest.mark.parametrize(
    ("of_all", "code", "printed", "said"),
    [
        ([SAFE], NONE_KNOWN, "", "1 packages audited with pypi; 0 known"),
        ([SAFE, UNSAFE], KNOWN, "h11 0.16.0: GHSA-x; fixed in no release\n", "2 packages audited with pypi; 1 known"),
        ([SAFE, UNKNOWN], NOT_AUDITED, "", "not audited: private: Dependency not found"),
        ([UNSAFE, UNKNOWN], KNOWN, "h11 0.16.0: GHSA-x; fixed in no release\n", "not audited: private"),
        ([UNKNOWN], NOT_AUDITED, "", "0 packages audited"),
        ([], NOT_AUDITED, "", "0 packages audited"),
        (
            "no such file",
            NOT_AUDITED,
            "",
            "not audited: pip-audit cannot ask pypi about requirements.txt: no such file",
        ),
    ],
)
def test_the_exit_code_says_what_is_known(answers, capsys, of_all, code, printed, said):
    answers[0]["pypi"] = ([CANARY], of_all)
    assert audit.main([]) == code
    written = capsys.readouterr()
    assert written.out == printed
    assert said in written.err


@pytest.mark.parametrize("of_canary", [[EMPTY], [SKIPPED], [], "the name cannot be resolved"], ids=str)
def test_a_source_without_data_is_not_believed(answers, capsys, of_canary):
    given, asked = answers
    given["pypi"] = (of_canary, [SAFE])
    given["osv"] = (of_canary, [SAFE])
    assert audit.main([]) == NOT_AUDITED
    assert asked == ["pypi", "osv"]
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("not audited: no source of vulnerability data can be reached.")
    assert written.err.count("pypi") == written.err.count("osv") == 1


def test_the_other_source_is_asked_then(answers):
    given, asked = answers
    given["pypi"] = ([EMPTY], [SAFE])
    given["osv"] = ([CANARY], [UNSAFE])
    assert audit.main([]) == KNOWN
    assert asked == ["pypi", "osv", "osv", "osv"]


def test_files_are_audited_in_place_of_the_project(answers, tmp_path):
    given, asked = answers
    given["pypi"] = ([CANARY], [SAFE])
    assert audit.main([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]) == NONE_KNOWN
    assert len(asked) == 3


def test_what_the_image_holds_is_audited_too():
    """By pip-audit's own reader: hashes and markers are understood."""
    sources = pytest.importorskip("pip_audit._dependency_source", reason="pip-audit is not installed")
    read = sources.RequirementSource([audit.IMAGE], no_deps=True, disable_pip=True)
    assert len(list(read.collect())) > 20


def test_a_project_that_cannot_be_resolved_is_an_error(answers, monkeypatch, capsys):
    answers[0]["pypi"] = ([CANARY], [SAFE])

    def fail(directory):
        raise subprocess.CalledProcessError(1, ["uv"], stderr="no solution")

    monkeypatch.setattr(audit, "resolved", fail)
    assert audit.main([]) == FAILED
    assert "no solution" in capsys.readouterr().err


def test_a_real_audit_says_plainly_whether_it_was_one():
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed; get it with: uv sync --inexact --group release")
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; get it with: pip install uv")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py"], capture_output=True, text=True, check=False, timeout=170
    )
    if done.returncode in (NONE_KNOWN, KNOWN):
        assert "packages audited with" in done.stderr
        assert bool(done.stdout) == (done.returncode == KNOWN)
    else:
        assert "not audited: " in done.stderr
        assert "0 known" not in done.stderr
