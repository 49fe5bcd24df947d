"""Make a host give up hosted code after a tenth of a second, so that tests need not wait for seconds."""

from __future__ import annotations

import probes  # noqa: F401 - a host refuses a module that has nothing to do with its connectors

from connectrio.flyte import _loop_pool, affinity

_loop_pool._CANCEL_TIMEOUT = affinity._CLOSE_TIMEOUT = 0.1
