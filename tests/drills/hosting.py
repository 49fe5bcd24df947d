"""A host to drill: `connectrio serve` with the drilled connector."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import grpc
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub

from drills.attacks.attack import Attack
from drills.orders import order
from e2e.client import fetch
from e2e.programs import HeldPorts, Program

HERE = Path(__file__).parent
BACKENDS = ("asyncio", "uvloop", "trio")

# seconds; only ends a drill that fails
PATIENCE = 120.0

# seconds; short, so that drills of time-outs end soon. The defaults are 10 to 60
TIMEOUTS = {
    "handshake_timeout": 2,
    "header_block_timeout": 2,
    "write_stall_timeout": 2,
    "tls_handshake_timeout": 2,
}


class DrillHost(Program):
    """`connectrio serve` on a free port of the loopback interface. A context manager that ends it.

    :param held: sockets that it is given
    :param settings: fields of `HostSettings`
    """

    def __init__(
        self, backend: str, *, env: dict[str, str] | None = None, held: HeldPorts | None = None, **settings: Any
    ) -> None:
        settings = {
            "host": "127.0.0.1",
            "port": 0,
            "prometheus_port": 0,
            "modules": HERE / "connector.py",
            "backend": backend,
            "log_format": "json",
            # else each call writes a line; what is served comes from the other two
            "log_level": ["warning", "connectrio.host=info", "connectrio.processes=info"],
            **settings,
        }
        given = [
            (name, one) for name, value in settings.items() for one in (value if isinstance(value, list) else [value])
        ]
        flags = [part for name, value in given for part in (f"--{name.replace('_', '-')}", value)]
        command = [Path(sys.executable).parent / "connectrio", "serve", "--no-entry-points", *flags]
        wrapper, descriptors = ([], []) if held is None else (held.wrapper, held.descriptors)
        super().__init__([*wrapper, *command], cwd=HERE, env=env, descriptors=descriptors)

    def ready(self) -> Self:
        """This, once it serves, and its exporter too: that opens what it needs at its first connection, or soon.

        :raises TimeoutError: it does not
        """
        fetch(f"{self.wait_for_log('serving', patience=PATIENCE)['http']}/healthz")
        return self

    @property
    def target(self) -> str:
        """The address of its gRPC server."""
        return str(self.wait_for_log("serving")["grpc"])

    def target_of(self, attack: Attack) -> str:
        """The address that an attack goes to."""
        address = str(self.wait_for_log("serving")["http"])
        return address.partition("://")[2] if attack.exporter else self.target

    def drain(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)


class Control:
    """Asks a host for its report, over a separate connection."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = AsyncConnectorServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def report(self, argument: str = "") -> dict[str, Any]:
        """Return the report of the connector."""
        response = self._stub.GetTask(order("report", argument), timeout=PATIENCE)
        return dict(json.loads(response.resource.message))


def environment() -> dict[str, str]:
    """For programs of the drills, which import from `tests`."""
    return {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
