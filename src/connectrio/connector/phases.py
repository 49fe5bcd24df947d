"""Flyte's phases, and the other system's words for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.logs import get_logger

__all__ = ["FAILED_PHASES", "FINAL_PHASES", "PhaseMap"]

logger = get_logger("connectrio.connector.base")

FAILED_PHASES = frozenset({Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED})
"""The phases of a job that has ended without success."""

FINAL_PHASES = FAILED_PHASES | {Phase.SUCCEEDED}
"""The phases of a job that has ended: no other one follows."""

# a system that invents states must not fill the memory or the log
_MOST_REPORTED = 100
_LONGEST_STATE = 100


class PhaseMap:
    """A total map: it has a phase for every state that the other system can report.

        PHASES = PhaseMap({"queued": Phase.QUEUED, "success": Phase.SUCCEEDED, "failed_with_error": Phase.FAILED})

        async def get(self, resource_meta, **kwargs):
            return Resource(PHASES[await fetch_state(resource_meta)])

    The case of strings does not matter. A state that is not in the map, which a new version of the other system may
    bring, counts as `unknown` and is logged once.

    :param phases: state → phase
    :param unknown: the phase of states that are not in the map. RUNNING, the default, lets the executor ask again
    :param system: the other system's name, for the log
    :raises ValueError: a phase that no job can have, or two states that differ only in case and have different phases
    """

    def __init__(self, phases: Mapping[Any, Phase], *, unknown: Phase = Phase.RUNNING, system: str = "") -> None:
        self._phases: dict[Any, Phase] = {}
        self._unknown = _checked("unknown", unknown)
        self._system = system
        self._reported: set[str] = set()
        for state, phase in phases.items():
            if self._phases.setdefault(_normal(state), _checked(state, phase)) is not phase:
                raise ValueError(f"{state!r} is there twice, in different cases, and with different phases")

    def __getitem__(self, state: Any) -> Phase:
        """Return the phase of `state`; never raises."""
        try:
            return self._phases[_normal(state)]
        except (KeyError, TypeError):  # TypeError: not hashable, such as a list
            self._report(state)
            return self._unknown

    def __repr__(self) -> str:
        return f"PhaseMap({self._phases!r}, unknown={self._unknown!r}, system={self._system!r})"

    def _report(self, state: Any) -> None:
        text = state[:_LONGEST_STATE] if isinstance(state, str) else f"an object of class {type(state).__qualname__}"
        if text in self._reported or len(self._reported) >= _MOST_REPORTED:
            return
        self._reported.add(text)
        logger.warning(
            "a state that the connector does not know; update its PhaseMap",
            state=text,
            system=self._system,
            taken_for=self._unknown.name,
        )


def _normal(state: Any) -> Any:
    return state.casefold() if isinstance(state, str) else state


def _checked(state: Any, phase: Any) -> Phase:
    if not isinstance(phase, Phase) or phase is Phase.UNDEFINED or phase not in set(Phase):
        raise ValueError(f"{state!r} is mapped to {phase!r}, which is no phase of a job")
    return phase
