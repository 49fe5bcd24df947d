"""Our host and flyte-sdk's, asked the same: what they answer is equal, or in the table, or a failure."""

from __future__ import annotations

import subprocess

import pytest

from differential.compare import compare
from differential.document import DOCUMENT, with_results
from differential.hosts import our_host, their_host
from differential.run import all_requests, ask_all
from e2e.reference import VERSION, find_reference

VERSION_OF = "import importlib.metadata; print(importlib.metadata.version('flyte'))"


@pytest.fixture(scope="module")
def python(pytestconfig):
    """The Python of an environment with the version of flyte-sdk that the table is about."""
    python = find_reference(pytestconfig)
    found = subprocess.run([python, "-c", VERSION_OF], check=True, capture_output=True, text=True).stdout.strip()
    if found != VERSION:
        pytest.skip(f"the table is about flyte-sdk {VERSION}, not {found}; CONNECTRIO_REFERENCE=1 installs it")
    return python


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    return all_requests(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def theirs(python, requests):
    """What flyte-sdk's host answers."""
    with their_host(python) as host:
        return ask_all(host.ready().target, requests, theirs=True)


def test_requests_have_names_of_their_own(requests):
    assert len({request.name for request in requests}) == len(requests) > 1000


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_answers_are_equal_or_differ_as_the_table_says(backend, requests, theirs):
    with our_host(backend) as host:
        ours = ask_all(host.ready().target, requests, theirs=False)
    comparison = compare(theirs, ours)
    assert not comparison.problems, "\n".join(comparison.problems)
    assert DOCUMENT.read_text() == with_results(comparison), "write it anew: cd tests && python -m differential.run"
