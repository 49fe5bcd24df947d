"""grpclib's own server with this project's stubs. python grpclib_server.py PORT asyncio|uvloop"""

import asyncio
import sys

from bare_servicer import BareServicer
from grpclib.server import Server


async def main():
    server = Server([BareServicer()])
    await server.start("127.0.0.1", int(sys.argv[1]))
    await server.wait_closed()


if sys.argv[2] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
