"""Make a host give up hosted code after a tenth of a second, so that tests need not wait for seconds."""

from __future__ import annotations

from connectrio.flyte import _loop_pool, affinity

_loop_pool._CANCEL_TIMEOUT = affinity._CLOSE_TIMEOUT = 0.1
