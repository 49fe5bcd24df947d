"""A bar chart of rates, as SVG that reads well on light and dark pages."""

from __future__ import annotations

from html import escape

from figures import CPU, RATE, Table

_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 18, 6, 170, 460, 150
_COLOURS = {"connectrio": "#2f7ed8", "c0": "#d9822b"}
_OTHERS = "#8a8f98"


def plot(tables: list[Table]) -> str:
    """One group of bars for each table that has rates: calls per second of the server's own core."""
    parts, y = [], 10.0
    for table in tables:
        if not all(rounds and RATE.name in rounds[0] for rounds in table.rounds.values()):
            continue
        y += 22
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(table.title)}, calls/s</text>')
        y += 8
        drawn, y = _bars(table, y)
        parts += drawn
    style = "text{font:13px system-ui,sans-serif;fill:#777}"
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{y + 10:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(table: Table, y: float) -> tuple[list[str], float]:
    parts = []
    most = max(table.median(peer, RATE) for peer in table.rounds)
    for peer in table.rounds:
        rate = table.median(peer, RATE)
        length = _WIDTH * rate / most
        colour = _COLOURS.get(peer.partition(" ")[0], _OTHERS)
        said = f"{rate:,.0f} ({table.median(peer, CPU) * 1e6:,.0f} µs)"
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 14:.0f}" text-anchor="end">{escape(peer)}</text>',
            f'<rect x="{_LEFT}" y="{y:.0f}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 14:.0f}">{said}</text>',
        ]
        y += _BAR + _GAP
    return parts, y
