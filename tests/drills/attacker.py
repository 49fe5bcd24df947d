"""The attacker's process: python -m drills.attacker NAME TARGET SECONDS

It attacks again and again until its time is over, and prints what it got, a JSON line for each connection.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from drills.attacks.attack import Attacker
from drills.attacks.catalogue import ATTACKS


def main(name: str, target: str, seconds: str) -> None:
    """Attack, and print the result."""
    attacker = Attacker(target, ends=time.monotonic() + float(seconds))
    print(json.dumps({"event": "begun", "at": time.monotonic()}), flush=True)
    while attacker.has_time:
        ATTACKS[name].run(attacker)
    print(json.dumps({"event": "over", "at": time.monotonic()}))
    for answer in attacker.answers:
        print(json.dumps({"event": "answer", **asdict(answer)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
