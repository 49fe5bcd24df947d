"""flyte-sdk, imported."""

import warnings

with warnings.catch_warnings():
    # pydantic's, of flyte-sdk's own classes; it is not ours to mend, and an error here for as long as warnings are
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401 - for tests, which find it imported

import pytest

from flyte_sdk.harness import PATIENCE


@pytest.fixture(autouse=True)
def _busy_machines_are_waited_for(monkeypatch):
    """Hosted code that takes long to end, because the machine is busy, is not given up. Tests may set other bounds."""
    for bound in ("_calls._CANCEL_TIMEOUT", "_loop_thread._UNWIND_TIMEOUT", "_loop_pool._CLOSE_TIMEOUT"):
        monkeypatch.setattr(f"connectrio.flyte.{bound}", PATIENCE)
