"""One connector that keeps to every rule, and for each rule one that does not."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from connectrio import (
    AsyncConnector,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
    Phase,
    Resource,
    ResourceMeta,
    TransientError,
    UnknownJobError,
    current_call,
)


@dataclass
class Meta(ResourceMeta):
    number: int
    note: str = ""


class Good(AsyncConnector[Meta]):
    """Keeps to every rule."""

    name = "Good"
    task_type_name = "sample"
    metadata_type = Meta

    def __init__(self) -> None:
        self.jobs: dict[int, Phase] = {}

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        await anyio.lowlevel.checkpoint()
        self.jobs[len(self.jobs)] = Phase.RUNNING
        return Meta(len(self.jobs) - 1)

    async def get(self, resource_meta, **kwargs):
        await anyio.lowlevel.checkpoint()
        phase = self.jobs[resource_meta.number]
        if phase is Phase.RUNNING:
            self.jobs[resource_meta.number] = Phase.SUCCEEDED
        return Resource(phase, message="at it")

    async def delete(self, resource_meta, **kwargs):
        await anyio.lowlevel.checkpoint()
        if self.jobs[resource_meta.number] is Phase.RUNNING:
            self.jobs[resource_meta.number] = Phase.ABORTED

    async def get_logs(self, resource_meta, **kwargs):
        await anyio.lowlevel.checkpoint()
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["a line"]))

    async def get_metrics(self, resource_meta, **kwargs):
        return GetTaskMetricsResponse()


class Complete(Good):
    """Keeps to the rules for what a connector need not have, too."""

    create_is_idempotent = True

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, Meta] = {}

    async def create(self, *args, **kwargs):
        key = current_call().key
        if key not in self.keys:
            made = await super().create(*args, **kwargs)
            if key is None:
                return made
            self.keys[key] = made
        return self.keys[key]

    async def get_many(self, resource_metas, **kwargs):
        return [Resource(self.jobs[meta.number]) for meta in resource_metas]

    def lines(self) -> int:
        return 3

    async def get_logs(self, resource_meta, token="", **kwargs):
        start, end = int(token or 0), self.lines()
        following = str(start + 2) if start + 2 < end else ""
        yield GetTaskLogsResponse(
            body=GetTaskLogsResponseBody(results=[f"line {number}" for number in range(start, min(start + 2, end))])
        )
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=following))


class Nameless(Good):
    name = AsyncConnector.name


class NoLifespan(Good):
    """Cannot be opened."""

    @asynccontextmanager
    async def lifespan(self):
        raise OSError("no disk")
        yield


class BadClose(Good):
    """Cannot be closed."""

    @asynccontextmanager
    async def lifespan(self):
        yield
        raise OSError("no disk any more")


class NoCreate(Good):
    """Starts nothing."""

    async def create(self, *args, **kwargs):
        raise RuntimeError("nothing works")


async def others() -> None:
    """Let calls that came at the same time go on. `wait_all_tasks_blocked` may not return on a busy machine."""
    for _ in range(500):
        await anyio.lowlevel.checkpoint()


class Racing(Good):
    """Gives several jobs the same number."""

    async def create(self, *args, **kwargs):
        number = len(self.jobs)
        await others()
        self.jobs[number] = Phase.RUNNING
        return Meta(number)


class OneAtATime(Good):
    """Has a connection that does one thing at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = False

    @asynccontextmanager
    async def _connection(self):
        if self._busy:
            raise RuntimeError("the connection is busy")
        self._busy = True
        try:
            await others()
            yield
        finally:
            self._busy = False


class CreatesOneAtATime(OneAtATime):
    """Uses it to create."""

    async def create(self, *args, **kwargs):
        async with self._connection():
            return await super().create(*args, **kwargs)


class PollsOneAtATime(OneAtATime):
    """Uses it to poll."""

    async def get(self, resource_meta, **kwargs):
        async with self._connection():
            return await super().get(resource_meta)


@dataclass
class BinaryMeta(Meta):
    def encode(self):
        return b"\xff" + super().encode()

    @classmethod
    def decode(cls, data):
        return super().decode(data[1:])


class Binary(Good):
    """Its resource meta is no JSON."""

    metadata_type = BinaryMeta

    async def create(self, *args, **kwargs):
        return BinaryMeta((await super().create(*args, **kwargs)).number)


@dataclass
class ForgetfulMeta(Meta):
    @classmethod
    def decode(cls, data):
        return cls(Meta.decode(data).number)


class Forgetful(Good):
    """Its resource meta is read as another one."""

    metadata_type = ForgetfulMeta

    async def create(self, *args, **kwargs):
        return ForgetfulMeta((await super().create(*args, **kwargs)).number, "noted")


class UnknownPhase(Good):
    """Reports a phase that is none."""

    async def get(self, resource_meta, **kwargs):
        return Resource(99)


class Endless(Good):
    """Its jobs never end."""

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.RUNNING)


class Undead(Good):
    """Its jobs go on after their end."""

    polls = 0

    async def get(self, resource_meta, **kwargs):
        self.polls += 1
        return Resource(Phase.SUCCEEDED if self.polls % 2 else Phase.RUNNING)


@dataclass
class TrustingMeta(Meta):
    @classmethod
    def decode(cls, data):
        return super().decode(data) if data.startswith(b"{") else cls(0)


class Trusting(Good):
    """Takes any bytes for a job of its own."""

    metadata_type = TrustingMeta

    async def create(self, *args, **kwargs):
        return TrustingMeta((await super().create(*args, **kwargs)).number)


class DeletesOnce(Good):
    """Forgets what it has deleted, and complains about it."""

    async def delete(self, resource_meta, **kwargs):
        del self.jobs[resource_meta.number]


class ForgetsDeleted(Good):
    """Forgets what it has deleted."""

    async def delete(self, resource_meta, **kwargs):
        self.jobs.pop(resource_meta.number, None)


class NoLogs(Good):
    """Has no logs when one looks."""

    async def get_logs(self, resource_meta, **kwargs):
        raise RuntimeError("no logs")


class NoMetrics(Good):
    """Has no metrics when one looks."""

    async def get_metrics(self, resource_meta, **kwargs):
        raise RuntimeError("no metrics")


class Chatty(Good):
    """Tells its secrets."""

    async def create(self, *args, token, **kwargs):
        return Meta((await super().create(*args, **kwargs)).number, f"Bearer {token}")

    async def get(self, resource_meta, **kwargs):
        resource = await super().get(resource_meta)
        resource.message = resource_meta.note
        return resource

    async def get_logs(self, resource_meta, **kwargs):
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[resource_meta.note]))


class Swallowing(Good):
    """Takes cancellation for a failure of the vendor."""

    async def get(self, resource_meta, **kwargs):
        try:
            return await super().get(resource_meta)
        except BaseException:  # noqa: BLE001 - what is wrong with it
            return Resource(Phase.RUNNING)


class Converting(Good):
    """Raises something else where it is cancelled."""

    async def delete(self, resource_meta, **kwargs):
        try:
            await super().delete(resource_meta)
        except BaseException as error:
            raise RuntimeError("interrupted") from error


class MakesAnother(Complete):
    """Makes a second job for the same key."""

    async def create(self, *args, **kwargs):
        return await Good.create(self, *args, **kwargs)


class RefusesAgain(Complete):
    """Takes the second request for a mistake."""

    async def create(self, *args, **kwargs):
        if current_call().key in self.keys:
            raise RuntimeError("there is such a job")
        return await super().create(*args, **kwargs)


class Sorting(Complete):
    """Answers in an order of its own."""

    async def get_many(self, resource_metas, **kwargs):
        return (await super().get_many(resource_metas))[::-1]


class LeavesOut(Complete):
    """Leaves out what it does not know."""

    async def get_many(self, resource_metas, **kwargs):
        return (await super().get_many(resource_metas))[1:]


class Mistaken(Complete):
    """Takes each job for a lost one."""

    async def get_many(self, resource_metas, **kwargs):
        return [UnknownJobError("gone") for _ in resource_metas]


class NotTogether(Complete):
    """Cannot ask for many."""

    async def get_many(self, resource_metas, **kwargs):
        raise RuntimeError("no list")


class Circling(Complete):
    """Has pages that lead back to the first."""

    async def get_logs(self, resource_meta, token="", **kwargs):
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token="b" if token == "a" else "a"))


class Moving(Complete):
    """Has other lines whenever one looks."""

    looks = 0

    async def get_logs(self, resource_meta, **kwargs):
        self.looks += 1
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[f"look {self.looks}"]))


class Growing(Complete):
    """Says that the log has ended, and has more lines later."""

    polls = 0

    async def delete(self, resource_meta, **kwargs):
        self.polls += 1  # what comes late has come by then
        await super().delete(resource_meta)

    def lines(self) -> int:
        return 4 if self.polls else 3


class Hiding(Good):
    """Has errors of its own in place of the vendor's."""

    async def get(self, resource_meta, **kwargs):
        try:
            return await super().get(resource_meta)
        except OSError:
            raise RuntimeError("it failed") from None

    async def delete(self, resource_meta, **kwargs):
        try:
            await super().delete(resource_meta)
        except KeyError:
            raise UnknownJobError("there is no such job") from None
        except ConnectionError as error:
            raise RuntimeError("it failed") from error
        except TimeoutError:
            raise TransientError("later", retry_after=5) from None
        except (ValueError, IndexError):
            raise RuntimeError("not the vendor's") from None


class Clock:
    """What time it is, for who looks for steps that block: connectors say how long they take.

    :ivar watched: whether anybody looks now
    :ivar seen: set when somebody has looked where a step spends its time
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.watched = False
        self.seen = threading.Event()

    def perf_counter(self) -> float:
        return self._now

    def block(self) -> None:
        """Take a quarter of a second, and until whoever looks has seen it."""
        self.seen.clear()
        self._now += 0.25
        assert not self.watched or self.seen.wait(30)


class Blocking(Good):
    """Blocks the event loop."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    async def get(self, resource_meta, **kwargs):
        self._clock.block()
        return await super().get(resource_meta)


# connector → the rules that it breaks, and where
BREAKS = {
    Good: set(),
    Complete: set(),
    MakesAnother: {("idempotence", "MakesAnother.create")},
    RefusesAgain: {("idempotence", "RefusesAgain.create")},
    Sorting: {("get-many", "Sorting.get_many")},
    LeavesOut: {("get-many", "LeavesOut.get_many")},
    # the host polls with it, too
    Mistaken: {("get-many", "Mistaken.get_many"), ("poll", "Mistaken.get")},
    NotTogether: {("get-many", "NotTogether.get_many")},
    Circling: {("late-logs", "Circling.get_logs")},
    Moving: {("late-logs", "Moving.get_logs")},
    Growing: {("late-logs", "Growing.get_logs")},
    Hiding: {("retry-after", "Hiding.get")},
    Nameless: {("names", "Nameless")},
    NoLifespan: {("lifespan", "NoLifespan.lifespan")},
    BadClose: {("lifespan", "BadClose.lifespan")},
    NoCreate: {("create", "NoCreate.create")},
    Racing: {("concurrency", "Racing.create")},
    CreatesOneAtATime: {("concurrency", "CreatesOneAtATime.create")},
    PollsOneAtATime: {("concurrency", "PollsOneAtATime.get")},
    Binary: {("metadata", "Binary.create")},
    Forgetful: {("metadata", "Forgetful.create")},
    UnknownPhase: {("poll", "UnknownPhase.get"), ("get-after-delete", "UnknownPhase.get")},
    Endless: {("end", "Endless.get")},
    Undead: {("end", "Undead.get")},
    Trusting: {("garbage", "Trusting.get")},
    DeletesOnce: {("delete", "DeletesOnce.delete")},
    ForgetsDeleted: {("get-after-delete", "ForgetsDeleted.get")},
    NoLogs: {("logs", "NoLogs.get_logs")},
    NoMetrics: {("metrics", "NoMetrics.get_metrics")},
    Chatty: {("secrets", "Chatty.create"), ("secrets", "Chatty.get"), ("secrets", "Chatty.logs")},
    Swallowing: {("cancellation", "Swallowing.get")},
    Converting: {("cancellation", "Converting.delete")},
    Blocking: {("blocking", "Blocking.get")},
}
