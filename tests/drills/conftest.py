"""What the tests of drills share."""

from __future__ import annotations

import pytest

from drills.polling import NoPollerError, build_poller


@pytest.fixture(scope="session")
def poller(tmp_path_factory):
    """The client in Go."""
    try:
        return build_poller(tmp_path_factory.mktemp("poller"))
    except NoPollerError as error:
        pytest.skip(str(error))
