"""How clients find the pods: through nginx, through Envoy, by a Service's address, or by the name of a headless one.

Each has a `target` for clients, and learns of a change when `update` is called.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from drills.cluster.names import NAME, NameServer
from drills.hosting import HERE, PATIENCE, environment
from e2e.programs import Program, eventually, hold_port

PROXIES = HERE.parents[1] / "deploy" / "proxies"
PACKAGES = {"nginx": "apt-get install nginx", "envoy": "uv sync --group proxies"}
# the lines of deploy/proxies/nginx.conf that name hosts
_NGINX_SERVER = re.compile(r"^    server [\d.]+:\d+ (.*);\n", re.MULTILINE)
_NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class MissingToolError(Exception):
    """A program is not installed."""


class Way:
    """A way to the pods.

    :ivar target: what clients are told
    :ivar update: tells it the addresses of the pods, "ip:port"
    """

    def __init__(self, target: str, update: Callable[[Sequence[str]], None]) -> None:
        self.target = target
        self.update = update


def find_program(name: str) -> str:
    """Return the path of a program.

    :raises MissingToolError: it is not installed
    """
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/go/bin", str(Path(sys.executable).parent)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise MissingToolError(f"{name} is not installed; get it with: {PACKAGES.get(name, name)}")
    return found


@contextmanager
def nginx(folder: Path, pods: Sequence[str]) -> Iterator[Way]:
    """deploy/proxies/nginx.conf; it reloads at each change."""
    with hold_port() as held:
        port = held.getsockname()[1]

    def write(addresses: Sequence[str]) -> None:
        servers = iter(addresses)
        conf = (PROXIES / "nginx.conf").read_text()
        (options, *_) = _NGINX_SERVER.findall(conf)
        lines = "".join(f"    server {address} {options};\n" for address in servers)
        conf = re.sub(r"(    server [\d.]+:.*\n)+", lines, conf, count=1)
        put(folder / "connectors.conf", conf.replace("listen 8000", f"listen 127.0.0.1:{port}"))

    paths = "".join(f"{kind}_temp_path {folder};" for kind in _NGINX_TEMPORARY)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; user root; pid {folder}/pid; error_log {folder}/log info; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/connectors.conf; }}\n"
    )
    write(pods)
    with Program([find_program("nginx"), "-e", folder / "log", "-c", folder / "nginx.conf"], cwd=folder) as program:

        def update(addresses: Sequence[str]) -> None:
            if addresses:  # nginx refuses an upstream without servers, and keeps what it has
                write(addresses)
                program.send(signal.SIGHUP)

        yield from _listening(port, Way(f"127.0.0.1:{port}", update))
        program.send(signal.SIGTERM)
        program.wait(PATIENCE)


@contextmanager
def envoy(folder: Path, pods: Sequence[str]) -> Iterator[Way]:
    """deploy/proxies/envoy.yaml; it reads deploy/proxies/endpoints.yaml again at each change."""
    with hold_port() as held:
        port = held.getsockname()[1]
    conf = yaml.safe_load((PROXIES / "envoy.yaml").read_text())
    [listener], [cluster] = (conf["static_resources"][kind] for kind in ("listeners", "clusters"))
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    cluster["eds_cluster_config"]["eds_config"]["path_config_source"]["path"] = str(folder / "endpoints.yaml")
    (folder / "envoy.yaml").write_text(yaml.safe_dump(conf))
    version = 1

    def update(addresses: Sequence[str]) -> None:
        nonlocal version
        endpoints = yaml.safe_load((PROXIES / "endpoints.yaml").read_text())
        [resource] = endpoints["resources"]
        resource["endpoints"] = [{"lb_endpoints": [{"endpoint": _envoy_address(each)} for each in addresses]}]
        endpoints["version_info"] = str(version := version + 1)
        put(folder / "endpoints.yaml", yaml.safe_dump(endpoints))

    update(pods)
    command = [find_program("envoy"), "-c", folder / "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
    with Program([*command, "-l", "warning"], cwd=folder) as program:
        yield from _listening(port, Way(f"127.0.0.1:{port}", update))
        program.send(signal.SIGTERM)
        program.wait(PATIENCE)


@contextmanager
def service(folder: Path, pods: Sequence[str]) -> Iterator[Way]:
    """A Service with an address of its own: each new connection goes to a pod at random, as kube-proxy does it."""
    with hold_port() as held:
        port = held.getsockname()[1]
    with forwarding("127.0.0.1", port, folder / "endpoints.json", pods) as update:
        yield Way(f"127.0.0.1:{port}", update)


@contextmanager
def names(folder: Path, pods: Sequence[str]) -> Iterator[Way]:
    """A headless Service: its name has the addresses of the pods."""
    port = pods[0].rpartition(":")[2]
    with NameServer() as server:

        def update(addresses: Sequence[str]) -> None:
            server.addresses = [address.rpartition(":")[0] for address in addresses]

        update(pods)
        yield Way(f"dns://{server.address}/{NAME}:{port}", update)


WAYS: dict[str, Callable[[Path, Sequence[str]], AbstractContextManager[Way]]] = {
    "nginx": nginx,
    "envoy": envoy,
    "service": service,
    "names": names,
}


@contextmanager
def forwarding(host: str, port: int, file: Path, to: Sequence[str]) -> Iterator[Callable[[Sequence[str]], None]]:
    """Run a forwarder. Yield what changes the addresses that new connections are passed on to."""

    def update(addresses: Sequence[str]) -> None:
        put(file, json.dumps(list(addresses)))

    update(to)
    with forwarder(host, port, file):
        yield update


def forwarder(host: str, port: int, file: Path) -> Program:
    """Return a forwarder that listens."""
    command = [sys.executable, "-m", "drills.cluster.forwarder", host, str(port), file]
    program = Program(command, cwd=HERE, env=environment())
    program.wait_for("serving", patience=PATIENCE)
    return program


def put(file: Path, text: str) -> None:
    """Replace a file as a whole, so that nobody reads half of it."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)


def _envoy_address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"address": {"socket_address": {"address": host, "port_value": int(port)}}}


def _listening(port: int, way: Way) -> Iterator[Way]:
    def listens() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    eventually(listens, PATIENCE)
    yield way
