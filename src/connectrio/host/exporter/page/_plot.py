"""Small plots of a connector's last half hour, as SVG with the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from connectrio.host.exporter.page._words import count, took
from connectrio.telemetry.report import Minute

__all__ = ["plot_calls", "plot_latency"]

_MINUTES = 30
# of a bar and the gap after it, in the units of the drawing
_STEP = 4
_HEIGHT = 24

_PLOT = Markup(
    '<svg class="plot" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
    "<title>{}</title>{}</svg>"
)
_BARS = Markup('<path class="{}" d="{}"/>')


def plot_calls(minutes: Sequence[Minute], now: float) -> Markup:
    """Draw calls per minute, those that failed in another colour on top, and in a third those that were absorbed."""
    placed = _placed(minutes, now)
    highest = max((each.calls for each in minutes), default=0)
    failures, absorbed = sum(each.failures for each in minutes), sum(each.absorbed for each in minutes)
    text = (
        f"Calls per minute in the last 30 minutes: {count(highest)} at most, "
        f"{count(placed[_MINUTES - 1].calls if _MINUTES - 1 in placed else 0)} in this one; "
        f"{count(failures)} failed, of which {count(absorbed)} were absorbed."
    )
    shapes: dict[str, str] = {}
    for index, each in placed.items():
        parts = [("bad", each.failures - each.absorbed), ("warn", each.absorbed)]
        _add_bar(shapes, index, each.calls / (highest or 1), parts, each.calls)
    return _draw(text, shapes)


def plot_latency(minutes: Sequence[Minute], now: float) -> Markup:
    """Draw the seconds that 95 % of the calls of each minute took at most."""
    known = {index: each.p95 for index, each in _placed(minutes, now).items() if each.p95 is not None}
    highest = max(known.values(), default=0.0)
    text = f"Seconds that 95 % of the calls took, by minute, in the last 30 minutes: {took(highest)} at most."
    shapes: dict[str, str] = {}
    for index, p95 in known.items():
        _add_bar(shapes, index, p95 / (highest or 1), [], 1)
    return _draw(text if known else "No calls in the last 30 minutes.", shapes)


def _placed(minutes: Sequence[Minute], now: float) -> dict[int, Minute]:
    """Return the minutes by their place; minutes without calls may be missing."""
    placed = {_MINUTES - 1 - int((now - each.at) // 60): each for each in minutes}
    return {index: each for index, each in placed.items() if 0 <= index < _MINUTES}


def _add_bar(shapes: dict[str, str], index: int, share: float, parts: Sequence[tuple[str, int]], whole: int) -> None:
    """Add a bar of this share of the height to the outlines of all bars, by class: first its named parts."""
    height = max(share * (_HEIGHT - 1), 1.0 if share else 0.0)
    top = _HEIGHT - height
    of_parts = sum(number for _, number in parts)
    whole = max(whole, of_parts)
    for name, number in [*parts, ("bar", whole - of_parts)]:
        if number > 0:
            part = height * number / whole
            shapes[name] = f"{shapes.get(name, '')}M{index * _STEP} {top:.1f}h3v{part:.1f}h-3z"
            top += part


def _draw(text: str, shapes: Mapping[str, str]) -> Markup:
    line = f"M0 {_HEIGHT}h{_MINUTES * _STEP}v1H0z"
    drawn = [_BARS.format(name, outline) for name, outline in {**shapes, "line": line}.items()]
    return _PLOT.format(_MINUTES * _STEP, _HEIGHT + 1, text, text, Markup("").join(drawn))
