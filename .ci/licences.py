"""The licences of what is installed with connectrio, from the metadata of the packages.

    uv run python .ci/licences.py

installs connectrio with all extras in a temporary environment, and writes the tables of docs/reference/licences.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "licences.md"
_TABLES = re.compile(r"(?<=<!-- written by .ci/licences.py -->\n).*(?=<!-- up to here -->)", re.DOTALL)

# the licences that a package may have, and why each is acceptable
ACCEPTED = {
    "0BSD": "permissive",
    "Apache-2.0": "permissive; it is connectrio's own",
    "BSD-2-Clause": "permissive",
    "BSD-3-Clause": "permissive",
    "ISC": "permissive",
    "MIT": "permissive",
    "MIT-0": "permissive",
    "PSF-2.0": "permissive; it is Python's own",
    "Unlicense": "permissive",
    "EPL-2.0": "binds who changes and passes on the package itself; we do not",
    "LGPL-3.0-only": "binds who changes and passes on the package itself; users can replace it",
    "MPL-2.0": "binds who changes and passes on the package's own files; we do not",
}

# what classifiers and the field License say, in the words of SPDX
_WORDS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Apache 2.0": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
}

# a sentence that only this licence has, for packages that come with its text alone
_SENTENCES = {
    "Apache-2.0": "Apache License Version 2.0, January 2004",
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "BSD-3-Clause": "endorse or promote products derived from this software without specific prior written permission",
    "BSD-2-Clause": "Redistributions in binary form must reproduce the above copyright notice",
}


class LicenceError(Exception):
    """A package does not say its licence in words that are understood."""


@dataclass(frozen=True, order=True)
class Package:
    """A row of a table.

    :ivar licence: an SPDX expression
    :ivar extras: those of connectrio that bring it, sorted; empty if connectrio itself does
    :ivar is_direct: pyproject.toml names it
    """

    name: str
    licence: str
    extras: tuple[str, ...]
    is_direct: bool


def licence_of(package: Distribution) -> str:
    """Return the licence of an installed package as an SPDX expression.

    :raises LicenceError: it does not say one
    """
    name = canonicalize_name(package.name)
    metadata = package.metadata
    fields = [each for key in ("License-Expression", "License") for each in metadata.get_all(key) or []]
    for each in fields:
        try:
            return canonicalize_license_expression(each)
        except InvalidLicenseExpression:
            continue
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or [] if "License ::" in each]
    known = sorted({_WORDS[each] for each in [*classifiers, *fields] if each in _WORDS})
    if "BSD License" in classifiers or not known:
        known += [each for each in licences_in(files_of(package)) if each not in known]
    if not known:
        raise LicenceError(f"{name} {package.version} says its licence in no words that are understood: {fields}, "
                           f"{classifiers}; add what it says, or a sentence of its licence file, to .ci/licences.py"
                           )  # fmt: skip
    return " OR ".join(sorted(known))


def files_of(package: Distribution) -> Iterator[str]:
    """Yield the texts of a package's licence files."""
    for each in package.files or []:
        if ".dist-info/" in str(each) and re.match(r"(LICEN[CS]E|COPYING)", each.name, re.IGNORECASE):
            yield each.read_text(encoding="utf-8")


def licences_in(texts: Iterable[str]) -> Iterator[str]:
    """Yield the licences that these texts are, by a sentence of each."""
    for text in texts:
        plain = " ".join(re.sub(r"[*#]", " ", text).split())
        for licence, sentence in _SENTENCES.items():
            if sentence in plain:
                yield licence
                break


def refused(licence: str) -> set[str]:
    """Return the licences of an expression that are not accepted; none if those that can be chosen are."""
    if "(" in licence:  # all of them, until a package needs more
        return set(re.findall(r"[\w.-]+", licence)) - ACCEPTED.keys() - {"AND", "OR"}
    return min((set(choice.split(" AND ")) - ACCEPTED.keys() for choice in licence.split(" OR ")), key=len)


def packages_in(directory: Path) -> list[Package]:
    """Return what connectrio and its extras bring, of the packages that are installed in this directory, sorted."""
    installed: dict[str, Distribution] = {
        canonicalize_name(each.name): each for each in distributions(path=[str(directory)])
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = brought_by(installed, project["dependencies"])
    optional = project["optional-dependencies"]
    of_extras = {extra: brought_by(installed, wanted) - own for extra, wanted in optional.items()}
    direct = {canonicalize_name(Requirement(each).name) for each in sum(optional.values(), project["dependencies"])}
    packages = []
    for name in own.union(*of_extras.values()):
        extras = tuple(sorted(extra for extra, names in of_extras.items() if name in names))
        packages.append(Package(name, licence_of(installed[name]), extras, name in direct))
    return sorted(packages)


def brought_by(installed: dict[str, Distribution], wanted: list[str]) -> set[str]:
    """Return the names of the installed packages that these requirements bring, directly or not."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [Requirement(each) for each in wanted if applies(Requirement(each), "")]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name not in installed:
            continue
        names.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                of_this = [Requirement(each) for each in installed[name].requires or []]
                left += [each for each in of_this if applies(each, extra)]
    return names


def applies(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds on this machine, for this extra of the package that has it."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def tables(packages: list[Package]) -> str:
    """Return the tables of the page."""
    own = [each for each in packages if not each.extras]
    others = [each for each in packages if each.extras]
    lines = ["", "### connectrio itself", "", "| package | licence |", "|---|---|"]
    lines += [f"| {shown(each)} | {each.licence} |" for each in own]
    lines += ["", "### Extras", "", "| package | licence | extras that bring it |", "|---|---|---|"]
    lines += [
        f"| {shown(each)} | {each.licence} | {', '.join(f'`{extra}`' for extra in each.extras)} |" for each in others
    ]
    lines += ["", "### Accepted licences", "", "| licence | why |", "|---|---|"]
    lines += [f"| {licence} | {why} |" for licence, why in ACCEPTED.items()]
    return "\n".join([*lines, "", ""])


def shown(package: Package) -> str:
    """Return the name of a package as the page has it: in bold if connectrio's own requirements name it."""
    return f"**{package.name}**" if package.is_direct else package.name


def rows(page: str) -> dict[str, str]:
    """Return the licence of each package on the page, by its name as shown."""
    listed = page.partition("### connectrio itself")[2].partition("### Accepted licences")[0]
    return dict(re.findall(r"^\| (\**[a-z0-9-]+\**) \| ([^|]+) \|", listed, re.MULTILINE))


def install_all(directory: Path, source: Path = ROOT) -> Path:
    """Install connectrio with all extras in a fresh environment; return the directory of its packages."""
    extras = tomllib.loads((source / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    python = directory / "bin" / "python"
    wanted = f"connectrio[{','.join(extras)}] @ {source.as_uri()}"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, directory], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, wanted], check=True)
    [packages] = directory.glob("lib/python*/site-packages")
    return packages


def main() -> int:
    """Write the page; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="licences-") as made:
        try:
            packages = packages_in(install_all(Path(made, "venv")))
        except LicenceError as error:
            print(error, file=sys.stderr)
            return 1
    PAGE.write_text(_TABLES.sub(lambda _: tables(packages), PAGE.read_text()))
    code = 0
    for each in packages:
        if missing := refused(each.licence):
            print(
                f"{each.name}: {', '.join(missing)} is not accepted; see ACCEPTED in .ci/licences.py", file=sys.stderr
            )
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
