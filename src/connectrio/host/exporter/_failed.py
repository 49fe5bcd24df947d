"""Log the requests to the exporter that fail."""

from __future__ import annotations

from connectrio.diagnostics import Repeats
from connectrio.logs import get_logger

__all__ = ["FailedRequests"]

logger = get_logger("connectrio.host.exporter")

# seconds
_INTERVAL = 60.0


class FailedRequests:
    """Logs each sort of error once a minute: every page that is open asks again, every few seconds."""

    def __init__(self) -> None:
        self._repeats = Repeats(_INTERVAL)

    def log(self, path: str, error: Exception) -> None:
        """Log a request's error, with its traceback, unless one of its class was raised at the same line lately."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        at = None if place is None else (place.tb_frame.f_code, place.tb_lineno)
        left_out = self._repeats.count((type(error), at))
        if left_out is not None:
            counted = {"left_out": left_out} if left_out else {}
            logger.error("a request to the exporter failed", path=path, exc_info=error, **counted)
