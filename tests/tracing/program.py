"""Host a connector in memory with tracing, once for each argument after the first, make a call, and print the log.

python program.py BACKEND CALLS...
"""

from __future__ import annotations

import logging
import sys

import anyio

from connectrio import HostSettings
from connectrio.host.settings import anyio_backend
from connectrio.testing import hosting
from service.harness import connector


async def host(calls: int) -> None:
    """Host the connector for some calls."""
    async with hosting(connector(), settings=HostSettings(tracing=True)) as local:
        for _ in range(calls):
            await local.create()
    print("the host has stopped")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    name, options = anyio_backend(sys.argv[1])  # type: ignore[arg-type]
    for count in sys.argv[2:]:
        anyio.run(host, int(count), backend=name, backend_options=options)
