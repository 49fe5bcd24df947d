"""A connector that writes to the log, prints and fails in every way; its `resource_meta` says in which."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from dataclasses import dataclass

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

vendor = logging.getLogger("vendor.client")


@dataclass
class Job(ResourceMeta):
    does: str = ""


class ExitsError(Exception):
    def __str__(self):
        raise SystemExit(9)

    __repr__ = __str__


class Collected:
    def __del__(self):
        raise ValueError("while it was collected")


def fail():
    raise ValueError("in code that nobody waits for")


def fail_in_text():
    raise ExitsError


def fail_deeply():
    error = ValueError("innermost")
    for number in range(5000):
        error = ExceptionGroup(str(number), [error, ValueError("beside")])
    raise error


def fail_to_forge():
    raise ValueError("\x1b[2Jfirst\n2026-01-01 [info] call finished\rforged \x9b31m\u2028too")


def write():
    print("first\nsecond", file=sys.stderr)
    print("on standard output")


def close():
    sys.stderr.close()
    sys.stdout.close()


def log():
    vendor.warning("a vendor's %s", "line")
    for _ in range(100):
        vendor.error("again and again")
    vendor.error("with a traceback", exc_info=ExitsError())
    vendor.info("a detail")
    vendor.debug("too detailed")


def flood():
    for number in range(10_000):
        # no two of one sort, or most would be left out: numbers in a text make no difference
        word = "".join("abcdefghij"[int(digit)] for digit in str(number))
        vendor.error(f"{word} {'x' * 1000}")


def thread():
    failing = threading.Thread(target=fail, name="a connector's")
    failing.start()
    failing.join()


def callback():
    asyncio.get_running_loop().call_soon(fail)
    return anyio.sleep(0.01)


# what a poll does, by the word in the job's resource meta
DEEDS = {
    "raise": fail,
    "exit": fail_in_text,
    "nest": fail_deeply,
    "forge": fail_to_forge,
    "print": write,
    "close": close,
    "log": log,
    "flood": flood,
    "warn": lambda: warnings.warn("old", stacklevel=1),
    "thread": thread,
    "collect": lambda: Collected() and None,
    "callback": callback,
}


class Noisy(AsyncConnector[Job]):
    name = "Noisy"
    task_type_name = "noisy"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job()

    async def get(self, resource_meta, **kwargs):
        done = DEEDS.get(resource_meta.does, lambda: None)()
        if done is not None:
            await done
        return Resource(Phase.SUCCEEDED)

    async def delete(self, resource_meta, **kwargs):
        pass


ConnectorRegistry.register(Noisy())
