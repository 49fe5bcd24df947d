"""Draw docs/images/dashboard.png: the dashboard's file, with the answers of a real Prometheus.

It runs two hosts in trouble for some minutes. Grafana is not asked: the page is our own, and only looks alike.

    cd tests && uv run python -m deploy.picture
"""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.scene import DASHBOARD, ROOT, replaced, scene
from e2e.test_prometheus import Prometheus

PICTURE = ROOT / "docs" / "images" / "dashboard.png"
# what is drawn; all rows would be too long for a page
ROWS = ("At a glance", "Calls", "The systems behind the connectors")
# seconds of the scene, and when the warehouse is down
LASTS, DOWN, BACK = 240, 100, 150
# what `$__rate_interval` stands for: Grafana takes four scrapes at least
WINDOW = "10s"
WIDTH, UNIT = 1080, 30
COLOURS = ("#3b7dd8", "#e0752d", "#3f9e5a", "#b04dc4", "#c9a400", "#d64550", "#2ca3a3", "#8a6d5c")
PAGE = """<!doctype html><meta charset="utf-8"><title>connectrio</title><style>
body {{ margin: 0; padding: 8px; background: #f4f5f7; font: 12px "DejaVu Sans", sans-serif; color: #24292e }}
main {{ display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: {unit}px; gap: 6px }}
section {{ background: #fff; border: 1px solid #dcdfe4; border-radius: 3px; padding: 5px 8px; overflow: hidden }}
h1 {{ font-size: 13px; margin: 8px 2px 0 }} h2 {{ font-size: 12px; margin: 0 0 2px; font-weight: 600 }}
strong {{ font-size: 30px; font-weight: 600; display: block; margin-top: 16px }}
p {{ margin: 0; font-size: 10.5px; line-height: 14px; height: 28px; overflow: hidden }}
i {{ display: inline-block; width: 9px; height: 3px; margin: 0 4px 3px 0 }}
span {{ margin-right: 9px; white-space: nowrap }}
</style><main>{panels}</main>"""


@dataclass(frozen=True)
class Line:
    """A series of a panel.

    :ivar points: seconds and values
    """

    name: str
    points: list[tuple[float, float]]


def shown(value: float, unit: str) -> str:
    """A value with its unit, as short as Grafana writes it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    return f"{value:.3g}" + {"reqps": "/s", "Bps": " B/s"}.get(unit, "")


def lines(program: Prometheus, panel: dict, start: float, end: float) -> list[Line]:
    """Ask Prometheus for the series of a panel."""
    found = []
    for target in panel["targets"]:
        expr = replaced(target["expr"], WINDOW)
        data = program.get("query_range", query=expr, start=f"{start}", end=f"{end}", step="1")
        for series in data["result"]:
            name = re.sub(
                r"{{(\w+)}}", lambda match, known=series["metric"]: known.get(match[1], ""), target["legendFormat"]
            )
            points = [(float(when), float(value)) for when, value in series["values"]]
            found.append(Line(name, [(when - start, value) for when, value in points if not math.isnan(value)]))
    return [line for line in found if line.points]


def graph(panel: dict, series: list[Line], seconds: float) -> str:
    """Draw lines over time, or areas that add up."""
    defaults = panel["fieldConfig"]["defaults"]
    is_stacked = "stacking" in defaults["custom"]
    width, height, left = panel["gridPos"]["w"] * WIDTH / 24 - 24, 132, 52
    base: dict[float, float] = {}
    drawn = []
    for line in series:
        tops = [(when, value + (base.get(round(when), 0.0) if is_stacked else 0.0)) for when, value in line.points]
        bottoms = [(when, base.get(round(when), 0.0)) for when, _ in line.points] if is_stacked else []
        base |= {round(when): value for when, value in tops} if is_stacked else {}
        drawn.append((tops, bottoms))
    highest = max((value for tops, _ in drawn for _, value in tops), default=0.0) or 1.0
    step = 10 ** math.floor(math.log10(highest / 2))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 4 >= highest)
    most = step * math.ceil(highest / step)

    def place(when: float, value: float) -> str:
        return f"{left + when / seconds * (width - left):.1f},{height - value / most * (height - 8):.1f}"

    parts = []
    for number in range(round(most / step) + 1):
        y = height - number * step / most * (height - 8)
        parts.append(f'<path d="M{left} {y:.1f}H{width}" stroke="#e4e6ea"/>')
        label = shown(number * step, defaults["unit"])
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for minute in range(int(seconds // 60) + 1):
        x = left + minute * 60 / seconds * (width - left)
        anchor = "end" if x > width - 20 else "middle"
        parts.append(f'<text x="{x:.0f}" y="{height + 13}" text-anchor="{anchor}">{minute} min</text>')
    for number, (tops, bottoms) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(*each) for each in tops)
        if is_stacked:
            area = " ".join([path, *(place(*each) for each in reversed(bottoms))])
            parts.append(f'<polygon points="{area}" fill="{colour}" fill-opacity="0.6"/>')
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    legend = "".join(
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{html.escape(line.name)}</span>'
        for number, line in enumerate(series)
    )
    drawing = f'<svg width="{width:.0f}" height="{height + 17}" font-size="10" fill="#57606a">{"".join(parts)}</svg>'
    return f"{drawing}<p>{legend}</p>"


def number(panel: dict, series: list[Line]) -> str:
    """Write the newest value, in the colour of its threshold."""
    if not series:
        return "<strong>none</strong>"
    value = series[0].points[-1][1]
    defaults = panel["fieldConfig"]["defaults"]
    steps = [each["color"] for each in defaults["thresholds"]["steps"] if (each["value"] or -math.inf) <= value]
    colour = {"green": "#2f8a4a", "yellow": "#b58900", "red": "#c4343f"}[steps[-1]]
    return f'<strong style="color:{colour}">{shown(value, defaults["unit"])}</strong>'


def page(answers: dict[int, list[Line]], seconds: float) -> str:
    """Return the page with those panels that have answers, and the headings of their rows.

    :param answers: by the id of the panel
    """
    parts, first = [], 0
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        style = f"grid-area:{place['y'] - first + 1}/{place['x'] + 1}/span {place['h']}/span {place['w']}"
        if panel["type"] == "row" and panel["title"] in ROWS:
            parts.append(f'<h1 style="{style}">{html.escape(panel["title"])}</h1>')
        elif panel["id"] in answers:
            series = answers[panel["id"]]
            body = number(panel, series) if panel["type"] == "stat" else graph(panel, series, seconds)
            parts.append(f'<section style="{style}"><h2>{html.escape(panel["title"])}</h2>{body}</section>')
    return PAGE.format(unit=UNIT - 6, panels="".join(parts))


def wanted() -> list[dict]:
    """The panels of the rows that are drawn."""
    found, row = [], ""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif row in ROWS:
            found.append(panel)
    return found


def watch(directory: Path) -> dict[int, list[Line]]:
    """Let hosts run into trouble; return what Prometheus says of it."""
    with scene(directory, hosts=2, every="2s", clients=3, pause=0.5, polls=30) as running:
        start = time.time()
        for when in range(LASTS):
            time.sleep(max(0.0, start + when - time.time()))
            if when == DOWN:
                (running.troubles / "down").touch()
            if when == BACK:
                (running.troubles / "down").unlink()
            if when % 60 == 30:
                for kind in ("block", "wrong", "bug"):
                    running.trouble(when // 60 % 2, kind)
        end = time.time()
        return {panel["id"]: lines(running.prometheus, panel, end - LASTS, end) for panel in wanted()}


def take(text: str, picture: Path) -> None:
    """Take a picture of a page, with Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed; get it with: apt-get install chromium")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(text)
        lowest = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in wanted())
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
                "--hide-scrollbars", "--force-device-scale-factor=1.25", f"--window-size={WIDTH},{lowest * UNIT + 12}",
                f"--screenshot={picture}", file.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        found = watch(Path(folder))
    take(page(found, LASTS), PICTURE)
