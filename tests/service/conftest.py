"""Fixtures of the service's tests."""

from __future__ import annotations

import pytest

from service.harness import Gate


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()
