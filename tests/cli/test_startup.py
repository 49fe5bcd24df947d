"""What a process that is a host does to start sooner: only there, and undone where it must be."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from connectrio.cli.script import load_structlog, starting
from connectrio.rpc.garbage import without_collections


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_no_collections_while_a_block_runs():
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with without_collections():
        pass
    assert not gc.isenabled()


def test_what_was_there_before_serving_is_not_collected_again():
    before = gc.get_threshold()
    try:
        with starting() as started:
            assert not gc.isenabled()
            started()
            assert gc.isenabled()
            assert gc.get_freeze_count() > 0
            assert gc.get_threshold()[0] >= 2000
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)


def test_a_start_that_fails_leaves_nothing_behind():
    frozen = gc.get_freeze_count()
    with pytest.raises(OSError, match="taken"), starting():
        raise OSError("taken")
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_structlog_without_rich():
    """In a process of its own: here both are imported."""
    program = (
        "import sys\n"
        "from connectrio.cli.script import load_structlog\n"
        "load_structlog()\n"
        "assert 'rich' not in sys.modules and 'structlog' in sys.modules\n"
        "from connectrio.logs import configure_logging, get_logger\n"
        "configure_logging('info', 'console')\n"
        "try: raise ValueError('no')\n"
        "except ValueError: get_logger('connectrio').exception('failed')\n"
        "import rich.console"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert "ValueError: no" in ran.stderr


def test_what_is_loaded_stays():
    loaded = dict(sys.modules)
    load_structlog()
    assert dict(sys.modules) == loaded
