"""Asks which vulnerabilities are known of the packages that connectrio's users get.

    uv run just audit [FILE…]

Without a file: connectrio's dependencies and those of all extras, at the newest versions that pyproject.toml allows,
and what the container image holds. A file has pinned requirements, as a constraints file has.

The answer is pip-audit's, from the package index or from OSV. An index without such data looks like one that knows of
no vulnerability. So each source is first asked about a release that is known to be vulnerable. One that does not know
that is not believed. Exit codes: 0 nothing is known, 1 something is, 2 a program failed, 3 not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "deploy" / "constraints.txt"
SOURCES = ("pypi", "osv")  # as pip-audit calls them
CANARY = "jinja2==2.10"  # of 2018: leaves its sandbox, CVE-2019-10906
NONE_KNOWN, KNOWN, FAILED, NOT_AUDITED = range(4)


class AuditError(Exception):
    """The packages were not audited: why."""


@dataclass
class Report:
    """What a source says about some packages.

    :ivar audited: names of the packages that it knows
    :ivar unknown: for each other package, why it was not audited
    :ivar vulnerabilities: a line for each
    """

    audited: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    vulnerabilities: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Audit these files, or what pyproject.toml asks for; return the exit code."""
    try:
        source = find_source()
        with tempfile.TemporaryDirectory() as made:
            files = list(map(Path, arguments)) or [resolved(Path(made)), IMAGE]
            reports = [ask(source, each) for each in files]
    except AuditError as error:
        print(f"not audited: {error}", file=sys.stderr)
        return NOT_AUDITED
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"not audited: {error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr)
        return FAILED
    known = [each for report in reports for each in report.vulnerabilities]
    unknown = [each for report in reports for each in report.unknown]
    for line in known:
        print(line)
    for line in unknown:
        print(f"not audited: {line}", file=sys.stderr)
    count = sum(len(report.audited) for report in reports)
    print(f"{count} packages audited with {source}; {len(known)} known vulnerabilities", file=sys.stderr)
    if known:
        return KNOWN
    return NOT_AUDITED if unknown or not count else NONE_KNOWN


def find_source() -> str:
    """Return a source that knows of the canary's vulnerability.

    :raises AuditError: no source does
    """
    reasons = []
    with tempfile.TemporaryDirectory() as made:
        canary = Path(made, "canary.txt")
        canary.write_text(f"{CANARY}\n")
        for source in SOURCES:
            try:
                report = ask(source, canary)
            except AuditError as error:
                reasons.append(str(error))
                continue
            if report.vulnerabilities:
                return source
            told = report.unknown[0] if report.unknown else "it lists none"
            reasons.append(f"{source} knows of no vulnerability in {CANARY}, which has one: {told}")
    raise AuditError("no source of vulnerability data can be reached. Repeat it where one can; see SECURITY.md\n  "
                     + "\n  ".join(reasons))  # fmt: skip


def resolved(directory: Path) -> Path:
    """Return a file in this directory with the newest versions of all that pyproject.toml asks for, and its extras."""
    file = directory / "requirements.txt"
    command = ["uv", "pip", "compile", "--quiet", "--all-extras", "--no-header", "--no-annotate"]
    subprocess.run(
        [*command, "--output-file", file, ROOT / "pyproject.toml"], check=True, capture_output=True, text=True
    )
    return file


def ask(source: str, file: Path) -> Report:
    """Return what a source says about pinned requirements.

    :raises AuditError: it cannot be asked
    """
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", source, "--format", "json"]
    command += ["--progress-spinner", "off", "--no-deps", "--disable-pip", "--requirement", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or "it wrote nothing").splitlines()[-1]
        raise AuditError(f"pip-audit cannot ask {source} about {file.name}: {last}") from None
    return read(answer)


def read(answer: dict[str, Any]) -> Report:
    """Return the report in pip-audit's JSON."""
    report = Report()
    for package in answer["dependencies"]:
        name = package["name"]
        if "skip_reason" in package:
            report.unknown.append(f"{name}: {package['skip_reason']}")
            continue
        report.audited.append(name)
        for each in package["vulns"]:
            names = ", ".join([each["id"], *each["aliases"]])
            fixed = ", ".join(each["fix_versions"]) or "no release"
            report.vulnerabilities.append(f"{name} {package['version']}: {names}; fixed in {fixed}")
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
