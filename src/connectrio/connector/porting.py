"""What connectors for flyte-sdk import beside its base classes, under the same names.

New connectors need none of it: `PhaseMap` takes unknown states too, and `logging.getLogger(__name__)` is a logger.
"""

from __future__ import annotations

import logging

from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase

__all__ = ["convert_to_flyte_phase", "is_terminal_phase", "system_logger"]

system_logger = logging.getLogger("connectrio.connector.ported")
"""The logger of connectors that share one, in place of `flyte.system_logger`."""

_PHASES = {
    **dict.fromkeys(("failed", "timeout", "timedout", "canceled", "cancelled", "skipped"), Phase.FAILED),
    "internal_error": Phase.RETRYABLE_FAILED,
    **dict.fromkeys(("done", "succeeded", "success", "completed"), Phase.SUCCEEDED),
    **dict.fromkeys(("running", "terminating"), Phase.RUNNING),
    "pending": Phase.INITIALIZING,
}


def convert_to_flyte_phase(state: str) -> Phase:
    """Return the phase of a state, by the words that many systems have for them; their case does not matter.

    They are those of flyte-sdk (`flyte/connectors/utils.py`, 2.12). A `PhaseMap` of the system's own words is better.

    :raises ValueError: the state is none of these words
    """
    try:
        return _PHASES[state.lower()]
    except KeyError:
        raise ValueError(f"Unrecognized state: {state}") from None


def is_terminal_phase(phase: int) -> bool:
    """Return whether a job in this phase has ended. RETRYABLE_FAILED counts, which flyte-sdk leaves out."""
    return phase in FINAL_PHASES
