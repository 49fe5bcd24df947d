"""Make a host give up hosted code after a tenth of a second, so that tests need not wait for seconds."""

from __future__ import annotations

from connectrio.flyte import _calls, _loop_pool

_calls._CANCEL_TIMEOUT = _loop_pool._CLOSE_TIMEOUT = 0.1
