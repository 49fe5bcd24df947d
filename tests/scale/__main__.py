"""Measure this machine, and simulate the cases of the scale plan.

    uv run just scale                  # what is not in figures.json yet
    uv run just scale --again limits   # measure the machine again; "agreement", "refused" and "cases" simulate again

Each result is written when it is there, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from scale import model, real
from scale.plan import cases, refused
from scale.test_agreement import CASES as AGREEMENT

FIGURES = Path(__file__).with_name("figures.json")


def load() -> dict[str, Any]:
    """Return the figures that are there."""
    found: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return {"limits": {}, "agreement": {}, "refused": {}, "cases": {}, **found}


def save(figures: dict[str, Any]) -> None:
    """Write the figures: a line for each result."""
    lines = []
    for part, results in figures.items():
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(result)}" for name, result in results.items())
        lines.append(f" {json.dumps(part)}: {{\n{rows}\n }}")
    written = FIGURES.with_suffix(".new")
    written.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    written.replace(FIGURES)


def main() -> None:
    """Measure and simulate what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", nargs="+", choices=("limits", "agreement", "refused", "cases"), default=[])
    options = parser.parse_args()
    logging.getLogger("connectrio").setLevel(logging.CRITICAL)  # the vendor's refusals would fill the terminal
    figures = load()
    for part in options.again:
        figures[part] = {}
    if not figures["limits"]:
        from scale import limits

        for name, measure in limits.PARTS.items():
            _say(f"limits: {name}")
            figures["limits"][name] = measure()
        save(figures)
    for name, case in AGREEMENT.items():
        if figures["agreement"].get(name, {}).get("case") != case.as_dict():
            _say(f"agreement: {name}")
            both = {"real": real.simulate(case), "model": model.simulate(case)}
            figures["agreement"][name] = {"case": case.as_dict(), **both}
            save(figures)
    for name, case in refused().items():
        if figures["refused"].get(name, {}).get("case") != case.as_dict():
            _say(f"refused: {name}")
            figures["refused"][name] = {"case": case.as_dict(), "result": real.simulate(case)}
            save(figures)
    limits_seen = figures["limits"]
    plan = cases(limits_seen["get"]["cpu_us"] / 1e6, limits_seen["background"]["cpu_us"] / 1e6)
    figures["cases"] = {name: result for name, result in figures["cases"].items() if name in plan}
    for name, case in plan.items():
        if figures["cases"].get(name, {}).get("case") != case.as_dict():
            _say(name)
            began = time.process_time()
            result = model.simulate(case)
            figures["cases"][name] = {"case": case.as_dict(), "result": result}
            print(f"{time.process_time() - began:6.1f} s  {name}: {result}", flush=True)
            save(figures)
    figures["cases"] = {name: figures["cases"][name] for name in plan}
    save(figures)


def _say(what: str) -> None:
    print(f"\r{what}\033[K", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
