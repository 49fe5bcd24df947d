"""Replacements for functions of betterproto2 0.10 (its package `grpclib`), for calls on our channels and servers.

What is wrong with them there:

- `ServiceStub._stream_stream` sends a call's messages with `asyncio.ensure_future`: in a task that nobody owns, and on
  trio with an error.
- `ServiceStub._send_messages` goes on sending when the server has ended the call, and leaves the generator of the
  messages open.
- `ServiceStub._unary_stream` and `_stream_stream` are read by a stub's own generator. When that is closed early, it
  drops them without closing them.
- `ServiceBase._call_rpc_handler_server_stream` leaves a servicer's generator open when sending fails or is cancelled.
  Its `finally` blocks run when the garbage collector finds it, on asyncio in a task that nobody owns; trio warns of it.

The first `Channel` replaces the stubs' functions (`_client/stubs.py`), the first `Server` the servicers'
(`_server/server.py`). Calls on other channels and servers still run betterproto2's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def replace(owner: type[Any], name: str, ours: Callable[..., Any], is_ours: Callable[..., bool]) -> None:
    """Let the function `name` of the class `owner` be `ours`, where `is_ours` is true of its positional arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (ours if is_ours(*args) else original)(*args, **kwargs)

    setattr(owner, name, staticmethod(chosen) if isinstance(vars(owner)[name], staticmethod) else chosen)
