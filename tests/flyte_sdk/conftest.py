"""Import flyte-sdk once, and let slow machines have time."""

import warnings

with warnings.catch_warnings():
    # pydantic's warning about flyte-sdk's classes, which would be an error here
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401 - so that tests need not import it

import pytest

from flyte_sdk.harness import PATIENCE


@pytest.fixture(autouse=True)
def _busy_machines_are_waited_for(monkeypatch):
    """Do not give up hosted code that ends late on a busy machine. Tests may set other bounds."""
    for bound in ("_loop_pool._CANCEL_TIMEOUT", "_loop_thread._UNWIND_TIMEOUT", "affinity._CLOSE_TIMEOUT"):
        monkeypatch.setattr(f"connectrio.flyte.{bound}", PATIENCE)
