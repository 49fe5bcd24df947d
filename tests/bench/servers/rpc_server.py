"""connectrio.rpc's server with the bare servicer. python rpc_server.py PORT asyncio|uvloop|trio"""

import sys

import anyio
from bare_servicer import BareServicer

from connectrio.host.settings import anyio_backend
from connectrio.rpc import Server


async def main():
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=int(sys.argv[1]))
    await Server([BareServicer()]).serve(listener)


backend, options = anyio_backend(sys.argv[2])
anyio.run(main, backend=backend, backend_options=options)
