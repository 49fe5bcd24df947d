"""Where a channel connects to: the targets of gRPC's naming document that need no resolver of their own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio.abc import AnyByteStream

_ADDRESS = re.compile(r"(?:dns:(?:///)?)?(?P<host>\[[0-9a-fA-F:.]+(?:%[\w.~-]+)?\]|[^\[\]:/]+):(?P<port>[0-9]+)")


def parse_target(target: str) -> tuple[Callable[[], Awaitable[AnyByteStream]], str]:
    """How to connect to `target`, and the `:authority` its requests carry.

    :param target: "host:port", "dns:///host:port", "[ipv6]:port" or "unix:/path"
    :raises ValueError: none of these
    """
    if target.startswith("unix:"):
        path = target.removeprefix("unix:").removeprefix("//")
        if path:
            return partial(anyio.connect_unix, path), "localhost"
    match = _ADDRESS.fullmatch(target)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"cannot connect to {target!r}: expected host:port, [ipv6]:port or unix:/path")
    host, port = match["host"].strip("[]"), int(match["port"])
    return partial(anyio.connect_tcp, host, port), f"{match['host']}:{port}"
