"""Instructions that a server executes for each call, counted by valgrind's callgrind: figures that do not wobble."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from load import Shape, make
from peers import Peer, running
from work import Work

_FEW, _MANY = 100, 500
_SHAPE = Shape(8)
_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


def instructions_per_call(peer: Peer, work: Work) -> float:
    """For one call, of the whole process in user space; the kernel's part is not counted.

    Two runs that differ in nothing but the number of calls: their difference has neither the start nor the end in it.

    :raises SystemExit: valgrind is not there
    """
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not on the PATH; on Debian: apt-get install valgrind")
    return (_executed(peer, work, _MANY) - _executed(peer, work, _FEW)) / (_MANY - _FEW)


def _executed(peer: Peer, work: Work, calls: int) -> int:
    with tempfile.TemporaryDirectory() as directory:
        counted = Path(directory, "counted")
        with running(peer, wrapper=["valgrind", "--tool=callgrind", f"--callgrind-out-file={counted}"]) as host:
            make(host.port, work, _SHAPE, calls)
        found = _TOTAL.search(counted.read_text())
        if found is None:
            raise SystemExit(f"callgrind has counted nothing of {peer.name}")
        return int(found.group(1))
