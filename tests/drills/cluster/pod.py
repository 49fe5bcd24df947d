"""A pod: a host at an address of its own, that is probed, told to end, and killed if it does not."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from drills.cluster.ways import forwarder, put
from drills.hosting import HERE, PATIENCE, DrillHost
from e2e.programs import Program, eventually

# seconds between two probes, and for an answer
PROBE_PERIOD, PROBE_TIMEOUT = 0.5, 2.0


class Pod:
    """Runs one host.

    :param number: of this pod, which its address has
    :param sidecar: seconds after the order to end for which a proxy beside the host goes on; None: there is no proxy,
        "last": it ends after the host

    :ivar address: where clients reach it, "ip:port"
    :ivar killed: whether the host was killed, because `grace_period` was over
    :ivar exit_code: of the host, once it has ended
    :ivar drained: seconds from SIGTERM to its end
    """

    def __init__(
        self,
        number: int,
        *,
        backend: str,
        port: int,
        folder: Path,
        settings: Mapping[str, Any],
        env: dict[str, str],
        sidecar: float | str | None = None,
    ) -> None:
        ip = f"127.0.{13 + number // 200}.{number % 200 + 1}"
        self.address = f"{ip}:{port}"
        self.killed = False
        self.exit_code: int | None = None
        self.drained = 0.0
        self._sidecar_ends = sidecar
        self._sidecar: Program | None = None
        own_ip = ip if sidecar is None else ip.replace("127.0.", "127.1.", 1)
        module = HERE / "cluster" / "journaled.py"
        self._host = DrillHost(backend, env=env, modules=module, host=own_ip, port=port, **settings)
        self._ending: threading.Thread | None = None
        if sidecar is not None:
            file = folder / f"sidecar-{number}.json"
            put(file, json.dumps([f"{own_ip}:{port}"]))
            self._sidecar = forwarder(ip, port, file)

    def wait_until_ready(self) -> None:
        """Probe it until it is ready, as kubelet does.

        :raises ChildProcessError: it has ended before
        """
        end = time.monotonic() + PATIENCE
        while not self._probe():
            if not self._host.is_running:
                raise ChildProcessError(f"a pod ended before it was ready: {self._host.errors}")
            if time.monotonic() > end:
                raise TimeoutError("a pod does not become ready")
            time.sleep(PROBE_PERIOD)

    def _probe(self) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, options=options) as channel:
            try:
                answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=PROBE_TIMEOUT)
            except grpc.RpcError:
                return False
        return bool(answer.status == HealthCheckResponse.SERVING)

    def delete(self, grace_period: float, pre_stop: float) -> None:
        """Begin to end it: `pre_stop` seconds later it gets SIGTERM, and `grace_period` seconds from now it is
        killed.
        """
        self._ending = threading.Thread(target=self._end, args=(grace_period, pre_stop))
        self._ending.start()

    def _end(self, grace_period: float, pre_stop: float) -> None:
        kill_at = time.monotonic() + grace_period
        time.sleep(min(pre_stop, grace_period))
        told = time.monotonic()
        self._host.drain()
        leaving = None
        if isinstance(self._sidecar_ends, float):
            leaving = threading.Timer(self._sidecar_ends, self._end_sidecar)
            leaving.start()
        try:
            self.exit_code = self._host.wait(max(0.01, kill_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.killed = True
            self._host.send(signal.SIGKILL)
            self.exit_code = self._host.wait(PATIENCE)
        self.drained = time.monotonic() - told
        if leaving is not None:
            leaving.join()
        self._end_sidecar()

    def _end_sidecar(self) -> None:
        if self._sidecar is not None and self._sidecar.is_running:
            self._sidecar.send(signal.SIGTERM)
            self._sidecar.wait(PATIENCE)

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._ending is not None:
            self._ending.join()
        eventually(lambda: not self._host.is_running, PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Kill what still runs."""
        self._host.__exit__(*raised)
        if self._sidecar is not None:
            self._sidecar.__exit__(*raised)
        if self._ending is not None:
            self._ending.join(PATIENCE)
