"""A vendor with a rate limit, and the clients of many jobs, in virtual time."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import asynccontextmanager

import anyio

from connectrio import ConnectorPolicy, Phase, Resource, TransientError
from service.harness import Base, Job, Service


class TooManyRequestsError(Exception):
    """What an HTTP client raises for 429."""

    status_code = 429


class Vendor:
    """Answers at most `rate` requests in any `seconds`, and others with 429. Jobs end when they are told to.

    :ivar polled: by job, when its state was told
    :ivar refused: how many requests were answered with 429
    """

    def __init__(self, rate: int = 10**9, seconds: float = 1.0, latency: float = 0.05) -> None:
        self.rate, self.seconds, self.latency = rate, seconds, latency
        self.ends: dict[str, float] = {}
        self.polled: dict[str, list[float]] = {}
        self.requests: Counter[str] = Counter()
        self.refused = 0
        self.active = self.most_active = 0
        self.error: Exception | None = None
        self._lately: deque[float] = deque()

    async def request(self, kind: str) -> None:
        """Take part in a request, or be refused."""
        now = anyio.current_time()
        while self._lately and self._lately[0] <= now - self.seconds:
            self._lately.popleft()
        if len(self._lately) >= self.rate:
            self.refused += 1
            raise TooManyRequestsError(f"more than {self.rate} requests in {self.seconds} s")
        self._lately.append(now)
        self.requests[kind] += 1
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await anyio.sleep(self.latency)
        finally:
            self.active -= 1
        if self.error is not None:
            raise self.error

    def state(self, job: str) -> Resource:
        """The state of a job."""
        now = anyio.current_time()
        self.polled.setdefault(job, []).append(now)
        if now >= self.ends.get(job, float("inf")):
            return Resource(Phase.SUCCEEDED, outputs={"name": job})
        return Resource(Phase.RUNNING, message="at work")


class OneByOne(Base):
    """Asks the vendor for one job at a time."""

    def __init__(self, vendor: Vendor, **policy) -> None:
        self.vendor = vendor
        self.policy = ConnectorPolicy(**policy)

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        await self.vendor.request("create")
        return Job(output_prefix or "7")

    async def get(self, resource_meta, **kwargs):
        await self.vendor.request("get")
        return self.vendor.state(resource_meta.id)

    async def delete(self, resource_meta, **kwargs):
        await self.vendor.request("delete")

    def is_transient(self, error):
        return isinstance(error, TooManyRequestsError | TransientError | ConnectionError | TimeoutError)


class Together(OneByOne):
    """Asks the vendor for many jobs at a time, and for those that it was not told of, for one."""

    unlisted: frozenset[str] = frozenset()

    async def get_many(self, resource_metas, **kwargs):
        await self.vendor.request("get_many")
        return [None if meta.id in self.unlisted else self.vendor.state(meta.id) for meta in resource_metas]


def gated(connector, **settings) -> Service:
    """A service on the virtual clock, with a host's settings for polls."""
    return Service(connector, **{"clock": anyio.current_time, "poll_retry": 4, "poll_absorb": 600, **settings})


@asynccontextmanager
async def polling(service: Service):
    """Have the service poll in the background."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(service.servicer.known_jobs.run)
        yield tasks
        tasks.cancel_scope.cancel()


class Clients:
    """Poll jobs until each client has its end.

    :ivar ended: by job, when its client was told of its end
    :ivar messages: of the answers before
    """

    def __init__(self, service: Service, period: float = 30.0) -> None:
        self.service, self.period = service, period
        self.ended: dict[str, float] = {}
        self.messages: list[str] = []
        self.polls = 0

    async def follow(self, job: str, first: float) -> None:
        """Poll one job, which ends successfully."""
        await anyio.sleep(first)
        while True:
            self.polls += 1
            resource = (await self.service.get(resource_meta=Job(job).encode())).resource
            if resource.phase is Phase.SUCCEEDED:
                assert resource.outputs is not None, job
                self.ended[job] = anyio.current_time()
                return
            assert resource.phase is Phase.RUNNING
            self.messages.append(resource.message)
            await anyio.sleep(self.period)
