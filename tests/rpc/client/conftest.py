from __future__ import annotations

import pytest

from e2e.programs import hold_port


@pytest.fixture
def held_port():
    """A port where nobody listens but the servers that a test starts there, one after the other."""
    with hold_port() as held:
        yield held.getsockname()[1]
