"""The page on licences: it has what is installed, and nothing is installed whose licence nobody has accepted."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import Distribution

import licences
import pytest
from licences import ACCEPTED, PAGE, LicenceError

from ci.harness import ROOT

THREE = """to endorse or promote products derived from this software without specific
prior written permission. Redistributions in binary form must reproduce the above copyright notice"""
PERMISSION = "Permission is hereby granted, free of charge, to any\n person obtaining a copy of this software"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """What connectrio and all its extras bring, really installed."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; get it with: pip install uv")
    try:
        return licences.packages_in(licences.install_all(tmp_path_factory.mktemp("all") / "venv"))
    except subprocess.CalledProcessError:
        pytest.skip("the registry of packages cannot be reached")


def test_every_licence_is_accepted(packages):
    refused = {each.name: each.licence for each in packages if licences.refused(each.licence)}
    assert refused == {}, "see ACCEPTED in .ci/licences.py"


def test_the_page_has_what_is_installed(packages):
    """Exact for what pyproject.toml names. What others need changes with their releases; the licences must agree."""
    page = licences.rows(PAGE.read_text())
    found = {licences.shown(each): each.licence for each in packages}
    assert {name for name in page if "**" in name} == {licences.shown(each) for each in packages if each.is_direct}
    assert len(found.keys() & page.keys()) > 0.8 * len(found), "write it with: python .ci/licences.py"
    assert {name: page[name] for name in page if name in found and page[name] != found[name]} == {}


def test_the_page_has_what_is_accepted():
    after = PAGE.read_text().partition("### Accepted licences")[2]
    for licence, why in ACCEPTED.items():
        assert f"| {licence} | {why} |" in after, "write it with: python .ci/licences.py"


def package(tmp_path, metadata: str, **files: str) -> Distribution:
    """An installed package with this metadata and these files beside it."""
    directory = tmp_path / "thing-1.0.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{metadata}")
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "RECORD").write_text("".join(f"{directory.name}/{name},,\n" for name in files))
    return Distribution.at(directory)


BSD = "Classifier: License :: OSI Approved :: BSD License\n"
CLASSIFIERS = (
    "Classifier: License :: OSI Approved\n"
    "Classifier: License :: OSI Approved :: MIT License\n"
    "Classifier: License :: OSI Approved :: Apache Software License\n"
)


@pytest.mark.parametrize(
    ("metadata", "text", "licence"),
    [
        ("License-Expression: apache-2.0 or mit\nLicense: other\n", "", "Apache-2.0 OR MIT"),
        ("License: MPL-2.0\n", "", "MPL-2.0"),
        ("License: Dual License\n" + CLASSIFIERS, "", "Apache-2.0 OR MIT"),
        ("License: Apache 2.0\n", "", "Apache-2.0"),
        ("License: BSD\n" + BSD, THREE, "BSD-3-Clause"),
        (BSD, "Redistributions in binary form\n * must reproduce the above copyright notice", "BSD-2-Clause"),
        ("", PERMISSION, "MIT"),
    ],
)  # fmt: skip
def test_what_metadata_say_in_their_many_ways(tmp_path, metadata, text, licence):
    assert licences.licence_of(package(tmp_path, metadata, LICENSE=text, NOTES=PERMISSION)) == licence


@pytest.mark.parametrize("metadata", ["", "License: as you like\n", BSD])
def test_a_package_that_does_not_say_its_licence_is_named(tmp_path, metadata):
    with pytest.raises(LicenceError, match=r"thing 1\.0 says its licence in no words that are understood"):
        licences.licence_of(package(tmp_path, metadata, LICENSE="Do what you like."))


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", set()),
        ("GPL-3.0-only", {"GPL-3.0-only"}),
        ("MIT AND GPL-3.0-only", {"GPL-3.0-only"}),
        ("GPL-2.0-or-later OR EPL-2.0", set()),
        ("GPL-2.0-only OR AGPL-3.0-only AND MIT", {"GPL-2.0-only"}),
        ("(MIT OR GPL-2.0-only) AND ISC", {"GPL-2.0-only"}),
        ("MIT WITH Some-exception", {"MIT WITH Some-exception"}),
    ],
)
def test_of_licences_to_choose_from_one_must_be_accepted(licence, refused):
    assert licences.refused(licence) == refused


def test_extras_of_extras_and_markers_are_followed(tmp_path):
    for name, requires in {
        "a": "Requires-Dist: b[x]\nRequires-Dist: not-here; python_version < '3'\n",
        "b": "Provides-Extra: x\nProvides-Extra: y\nRequires-Dist: c; extra == 'x'\nRequires-Dist: d; extra == 'y'\n",
        "c": "Requires-Dist: a\n",  # a circle
        "d": "",
    }.items():
        directory = tmp_path / f"{name}-1.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n{requires}")
    installed = {each.name: each for each in licences.distributions(path=[str(tmp_path)])}
    assert licences.brought_by(installed, ["a", "absent"]) == {"a", "b", "c"}


def test_our_own_licence_is_accepted_and_declared():
    assert ACCEPTED["Apache-2.0"].endswith("connectrio's own")
    assert 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]' in (ROOT / "pyproject.toml").read_text()
