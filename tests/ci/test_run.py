"""`.ci/run`: what runs beside other steps can fail it, and what it calls exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ci.harness import ROOT

SCRIPT = (ROOT / ".ci" / "run").read_text()


def run(tmp_path: Path, *lines: str) -> tuple[int, str]:
    """Run these lines after the functions of .ci/run; return the exit code, and what they write."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_text("\n".join([SCRIPT[: SCRIPT.index('step "set-up"')], *lines, ""]))
    ran = subprocess.run(["bash", script], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


def test_what_runs_beside_is_shown_where_it_is_joined(tmp_path):
    code, written = run(
        tmp_path, "f() { echo one; cat; echo two >&2; }", "beside 'a step' f", "echo meanwhile", "joined 'a step'"
    )
    assert (code, written) == (0, "meanwhile\n\n== a step\none\ntwo\n")


def test_what_fails_beside_fails_the_run(tmp_path):
    code, written = run(tmp_path, "f() { echo why; false; echo no; }", "beside bad f", "joined bad", "echo unreachable")
    assert (code, written) == (1, "\n== bad\nwhy\n")


def test_a_run_that_fails_does_not_wait_for_what_runs_beside(tmp_path):
    code, written = run(tmp_path, "f() { exec sleep 3600; }", "beside long f", "false")
    assert (code, written) == (1, "")


def test_tests_that_have_run_are_left_out(tmp_path):
    line = re.search(r"^read -ra deployed .*$", SCRIPT, re.MULTILINE)[0]
    code, written = run(tmp_path, 'uv() { printf "tests/a tests/b.py"; }', line, 'echo "${deployed[@]/#/--ignore=}"')
    assert (code, written) == (0, "--ignore=tests/a --ignore=tests/b.py\n")


def test_its_syntax_is_right_and_its_recipes_exist():
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    recipes = set(re.findall(r"^([\w-]+)(?: \*?\w+)*:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bjust ([a-z][\w-]*)", SCRIPT))
    assert {"lint", "paths", "deploy-check", "test", "test-fast"} <= called
    # one that is missing is told: the tests that need its tools are skipped
    assert called - recipes - {"deploy-tools"} == set()


def test_deploy_check_runs_the_tests_of_deploy_even_where_tools_are_missing():
    text = (ROOT / "justfile").read_text()
    recipe = re.search(r"^deploy-check .*\n((?:    .*\n)+)", text, re.MULTILINE)[1]
    assert " deploy-tools || echo " in recipe
    assert " test {{deploy_tests}} " in recipe
    paths = re.search(r'^deploy_tests := "(.*)"$', text, re.MULTILINE)[1].split()
    assert "tests/deploy" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    # and no test twice
    assert "just deploy-check\n" in SCRIPT
    assert "just --evaluate deploy_tests" in SCRIPT
    assert 'just test "${deployed[@]/#/--ignore=}"\n' in SCRIPT
