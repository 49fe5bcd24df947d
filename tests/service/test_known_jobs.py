"""Jobs that the host polls by itself: because of limits, or many with one request."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import anyio
import pytest
from grpclib import GRPCError
from multidict import MultiDict
from structlog.testing import capture_logs

from connectrio import PermanentFailure, Phase, Resource, current_call
from connectrio.connector.failures import UnknownJobError
from connectrio.rpc.call import Call, set_current_call
from connectrio.service.known_jobs import AccountJobs
from rpc.kit.virtual_time import in_virtual_time
from service.harness import Job, secrets
from service.vendor import Clients, OneByOne, Together, Vendor, gated, polling


def meta(job: str) -> bytes:
    return Job(job).encode()


async def poll(service, job, **fields):
    return (await service.get(resource_meta=meta(job), **fields)).resource


@pytest.fixture
def crowd(anyio_backend):
    """Ends of many jobs, in the first two minutes; of fewer on trio, for the time that it takes."""
    rng = random.Random(2026)
    count = 10_000 if anyio_backend[0] == "asyncio" else 2_000
    return {f"job {number}": rng.uniform(0, 120) for number in range(count)}


async def follow_all(service, vendor, ends) -> Clients:
    """Poll all jobs twice a minute until each client was told of the end."""
    began = anyio.current_time()
    vendor.ends = {job: began + end for job, end in ends.items()}
    clients = Clients(service)
    async with polling(service), anyio.create_task_group() as tasks:
        for number, job in enumerate(ends):
            tasks.start_soon(clients.follow, job, 30 * number / len(ends))
    assert clients.ended.keys() == ends.keys()
    return clients


@in_virtual_time
async def test_ten_thousand_jobs_one_by_one(crowd):
    """30 requests a second are a ninth of what their clients ask for. None fails, and none waits longer than others."""
    vendor = Vendor(rate=30)
    service = gated(OneByOne(vendor, rate_calls=30))
    began = anyio.current_time()
    clients = await follow_all(service, vendor, crowd)
    assert vendor.refused == 0
    stale = [message for message in clients.messages if message.startswith("RUNNING, as of ")]
    assert service.sample("limited_polls_total") >= len(stale) > 0
    assert service.sample("absorbed_polls_total") == 0
    # one round: all jobs at 30 a second. Each is polled within it and a minute, and its client hears of it a poll later
    one_round = 1.01 * len(crowd) / 30
    assert max(times[0] for times in vendor.polled.values()) - began < one_round + 60
    for times in vendor.polled.values():
        assert all(later - earlier < one_round + 60 for earlier, later in pairwise(times))
    late = [clients.ended[job] - vendor.ends[job] for job in crowd]
    assert max(late) < one_round + 90


@in_virtual_time
async def test_ten_thousand_jobs_together(crowd):
    """With one request for a hundred jobs, the same vendor's limit is no limit."""
    vendor = Vendor(rate=30)
    service = gated(Together(vendor, rate_calls=30))
    clients = await follow_all(service, vendor, crowd)
    assert vendor.refused == 0
    # most of them for first polls, in the first half minute; later, one for a hundred jobs each ten seconds
    assert vendor.requests.total() < 1500
    for times in vendor.polled.values():
        assert all(later - earlier <= 20 for earlier, later in pairwise(times))
    late = [clients.ended[job] - vendor.ends[job] for job in crowd]
    assert max(late) < 20 + 2 * 30


@in_virtual_time
async def test_whoever_polls_often_takes_no_turns_from_others():
    vendor = Vendor(rate=1)
    service = gated(OneByOne(vendor, rate_calls=1))
    often, seldom = Clients(service, period=0.5), Clients(service, period=20)
    async with polling(service) as tasks:
        for number in range(10):
            tasks.start_soon(seldom.follow, f"seldom {number}", 2.0 * number)
        for number in range(10):
            tasks.start_soon(often.follow, f"often {number}", 0.1 * number)
        await anyio.sleep(600)
    counts = {job: len(times) for job, times in vendor.polled.items()}
    assert vendor.refused == 0
    assert min(counts[f"seldom {number}"] for number in range(10)) >= 600 / 1.01 / 20 / 2


@in_virtual_time
async def test_a_few_jobs_are_polled_when_their_clients_ask():
    """Nothing is kept back, or late, as long as the limits are not reached."""
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=30))
    async with polling(service):
        for _ in range(5):
            for number in range(10):
                assert (await poll(service, str(number))).message == "at work"
            await anyio.sleep(30)
    assert vendor.requests == {"get": 50}
    assert service.sample("background_polls_total", operation="get") == 0


@in_virtual_time
async def test_a_final_state_is_kept_with_its_outputs():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=10))
    async with polling(service):
        await poll(service, "a")
        vendor.ends["b"] = 0
        assert "not seen by this host yet" in (await poll(service, "b")).message
        await anyio.sleep(20)
        requests = vendor.requests.total()
        for _ in range(3):
            resource = await poll(service, "b")
            assert resource.phase is Phase.SUCCEEDED
            assert resource.outputs.literals[0].value.scalar.primitive.string_value == "b"
            assert resource.message == ""
    assert vendor.requests.total() == requests


@in_virtual_time
async def test_the_age_of_what_was_found_in_the_background_is_told():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=30))
    async with polling(service):
        await poll(service, "a")
        await poll(service, "b")
        await anyio.sleep(60)
        await poll(service, "a")  # takes the turn
        assert (await poll(service, "b")).message == "RUNNING, as of 30 s ago: at work"
        (job,) = [job for job in service.servicer.account.jobs if "30 s" in job.message]
        assert anyio.current_time() - job.polled == pytest.approx(30, abs=1)


@in_virtual_time
async def test_errors_in_the_background_are_what_the_client_would_get():
    vendor = Vendor()
    states = {}

    class Script(OneByOne):
        async def get(self, resource_meta, **kwargs):
            await self.vendor.request("get")
            if (error := states.get(resource_meta.id)) is not None:
                raise error
            return self.vendor.state(resource_meta.id)

    service = gated(Script(vendor, rate_calls=10, rate_seconds=100), poll_absorb=600)
    async with polling(service):
        for _ in range(10):
            await poll(service, "taker")
        states |= {"gone": UnknownJobError("gone"), "broken": ConnectionResetError("reset")}
        states["bad"] = PermanentFailure("bad SQL")
        for job in states:
            assert (await poll(service, job)).phase is Phase.RUNNING
        await anyio.sleep(140)
        for _ in range(10):
            await poll(service, "taker")
        with pytest.raises(GRPCError, match="gone"):
            await poll(service, "gone")
        # the executor counts errors: one for one
        assert (await poll(service, "gone")).phase is Phase.RUNNING
        absorbed = await poll(service, "broken")
        assert absorbed.phase is Phase.RUNNING
        assert "tried again. failed to get tiny task with error:\n reset." in absorbed.message
        failed = await poll(service, "bad")
        assert (failed.phase, failed.message) == (Phase.FAILED, "bad SQL")


@in_virtual_time
async def test_jobs_that_fail_take_no_turns_from_others():
    vendor = Vendor(rate=1)

    class Half(OneByOne):
        async def get(self, resource_meta, **kwargs):
            await self.vendor.request("get")
            state = self.vendor.state(resource_meta.id)
            if resource_meta.id.startswith("bad"):
                raise ConnectionResetError("reset")
            return state

    service = gated(Half(vendor, rate_calls=1), poll_retry=0)
    clients = Clients(service, period=5)
    async with polling(service) as tasks:
        for number in range(10):
            tasks.start_soon(clients.follow, f"bad {number}", 0.3 * number)
            tasks.start_soon(clients.follow, f"good {number}", 0.3 * number)
        await anyio.sleep(600)
    counts = {job: len(times) for job, times in vendor.polled.items()}
    assert len(counts) == 20
    assert min(counts.values()) >= 600 / 1.01 / 20 / 2


@in_virtual_time
async def test_without_a_task_for_it_nothing_is_polled_in_the_background():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=10))
    for _ in range(4):
        await poll(service, "a")
        await poll(service, "b")
        await anyio.sleep(11)
    assert vendor.requests == {"get": 4}


# many at a time


@in_virtual_time
async def test_one_request_polls_many_jobs():
    vendor = Vendor()
    service = gated(Together(vendor, poll_max_age=20))
    async with polling(service):
        for _ in range(20):
            for number in range(50):
                assert (await poll(service, str(number))).message == "at work"
            await anyio.sleep(30)
    assert vendor.requests["get"] == 50
    assert vendor.requests["get_many"] <= 600 / 10 + 2
    ages = [b - a for times in vendor.polled.values() for a, b in pairwise(times)]
    assert max(ages) <= 20


@in_virtual_time
async def test_a_batch_has_a_limit_and_one_connection():
    batches = []

    class Watched(Together):
        async def get_many(self, resource_metas, **kwargs):
            batches.append((len(resource_metas), kwargs))
            return await super().get_many(resource_metas)

    service = gated(Watched(Vendor(), many_limit=4, account_names=()))
    async with polling(service):
        for number in range(10):
            await poll(service, str(number), connection=secrets(token="ab"[number % 2]))
        await anyio.sleep(12)
    assert {size for size, _ in batches} == {4, 1}
    assert sorted(kwargs["token"] for size, kwargs in batches for _ in range(size)) == ["a"] * 5 + ["b"] * 5


@in_virtual_time
async def test_what_is_not_listed_is_polled_with_get():
    vendor = Vendor()
    connector = Together(vendor)
    connector.unlisted = frozenset({"b"})
    service = gated(connector)
    async with polling(service):
        for _ in range(10):
            for job in ("a", "b"):
                assert (await poll(service, job)).message == "at work"
            await anyio.sleep(30)
    assert all(later - earlier <= 20 for earlier, later in pairwise(vendor.polled["b"]))


@in_virtual_time
async def test_an_item_may_be_an_error():
    class Some(Together):
        async def get_many(self, resource_metas, **kwargs):
            answers = {"gone": UnknownJobError("gone"), "bad": PermanentFailure("bad SQL"), "odd": "odd"}
            return [answers.get(meta.id, Resource(Phase.QUEUED)) for meta in resource_metas]

    service = gated(Some(Vendor()))
    async with polling(service):
        for job in ("a", "gone", "bad", "odd"):
            await poll(service, job)
        await anyio.sleep(15)
        assert (await poll(service, "a")).phase is Phase.QUEUED
        with pytest.raises(GRPCError, match="gone"):
            await poll(service, "gone")
        assert (await poll(service, "bad")).phase is Phase.FAILED
        with pytest.raises(GRPCError, match=r"Some\.get_many returned an object of class str, not a Resource"):
            await poll(service, "odd")


@in_virtual_time
async def test_a_vendor_that_fails_for_the_moment_is_absorbed():
    vendor = Vendor()
    service = gated(Together(vendor), poll_absorb=100)
    async with polling(service):
        await poll(service, "a")
        vendor.error = ConnectionResetError("reset")
        await anyio.sleep(30)
        for _ in range(3):
            resource = await poll(service, "a")
            assert resource.message.startswith("RUNNING, as of ")
            assert "reset" in resource.message
            await anyio.sleep(30)
        await anyio.sleep(30)
        with pytest.raises(GRPCError, match="reset"):
            await poll(service, "a")
        vendor.error = None
        await anyio.sleep(30)
        assert (await poll(service, "a")).message == "at work"
    assert vendor.requests["get"] == 1


@in_virtual_time
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda _: [], "returned 0 items for 2 jobs; return one for each"),
        (lambda _: None, "returned None, not a Sequence"),
        (lambda _: 1 / 0, "division by zero"),
    ],
)
async def test_a_get_many_with_a_bug_is_done_without(answer, text):
    class Buggy(Together):
        async def get_many(self, resource_metas, **kwargs):
            return answer(resource_metas)

    vendor = Vendor()
    service = gated(Buggy(vendor))
    async with polling(service):
        with capture_logs() as logs:
            for _ in range(10):
                for job in ("a", "b"):
                    assert (await poll(service, job)).message == "at work"
                await anyio.sleep(30)
    lines = [line for line in logs if line["event"].startswith("get_many failed")]
    assert text in lines[0]["exception"]
    assert (lines[0]["method"].rpartition(">.")[2], lines[0]["jobs"]) == ("Buggy.get_many", 2)
    assert len(lines) < 5


@in_virtual_time
async def test_get_many_has_another_chance():
    """After ten polls one by one, in case that only one of the jobs was the reason."""
    broken = True

    class Sometimes(Together):
        async def get_many(self, resource_metas, **kwargs):
            if broken:
                raise KeyError("a state that is new")
            return await super().get_many(resource_metas)

    vendor = Vendor()
    service = gated(Sometimes(vendor))
    async with polling(service) as tasks:
        tasks.start_soon(Clients(service).follow, "a", 0)
        await anyio.sleep(50)
        broken = False
        await anyio.sleep(250)
    assert 10 <= vendor.requests["get"] <= 13
    assert vendor.requests["get_many"] >= 15


@in_virtual_time
async def test_a_get_many_that_hangs_is_stopped():
    class Hanging(Together):
        async def get_many(self, resource_metas, **kwargs):
            await anyio.sleep_forever()

    service = gated(Hanging(Vendor()), get_limit=30)
    async with polling(service):
        await poll(service, "a")
        await anyio.sleep(60)
        assert "could not be read" in (await poll(service, "a")).message


@in_virtual_time
async def test_nothing_that_a_connector_raises_ends_the_host(anyio_backend):
    class Wild(Together):
        async def get_many(self, resource_metas, **kwargs):
            raised.append(SystemExit(3) if raised or anyio_backend[0] == "trio" else asyncio.CancelledError())
            raise raised[-1]

    raised = []
    vendor = Vendor()
    service = gated(Wild(vendor))
    async with polling(service) as tasks:
        tasks.start_soon(Clients(service).follow, "a", 0)
        await anyio.sleep(300)
    assert len(raised) >= 2
    assert len(vendor.polled["a"]) >= 25


@in_virtual_time
async def test_jobs_that_nobody_polls_are_forgotten():
    vendor = Vendor()
    service = gated(Together(vendor))
    async with polling(service):
        await poll(service, "a", connection=secrets(token="t"))
        assert service.sample("known_jobs") == 1
        await anyio.sleep(600)
        requests = vendor.requests.total()
        assert requests <= 300 / 10 + 5
        assert service.sample("known_jobs") == 0
        await anyio.sleep(600)
        assert vendor.requests.total() == requests
        assert (await poll(service, "a", connection=secrets(token="t"))).message == "at work"


@in_virtual_time
async def test_deleted_jobs_are_forgotten():
    vendor = Vendor()
    service = gated(Together(vendor))
    async with polling(service):
        await poll(service, "a")
        await service.delete(resource_meta=meta("a"))
        await anyio.sleep(100)
    assert vendor.requests == {"get": 1, "delete": 1}


@in_virtual_time
async def test_final_jobs_are_not_polled_again():
    vendor = Vendor()
    vendor.ends["a"] = 0
    service = gated(Together(vendor))
    async with polling(service):
        await poll(service, "a")
        await anyio.sleep(100)
        assert (await poll(service, "a")).phase is Phase.SUCCEEDED
    assert vendor.requests == {"get": 1}


@in_virtual_time
async def test_it_stops_with_the_drain():
    vendor = Vendor()
    service = gated(Together(vendor))
    async with polling(service):
        await poll(service, "a")
        service.servicer.known_jobs.stop()
        await anyio.sleep(100)
        assert vendor.requests == {"get": 1}
        # calls in flight are answered as long as they may go on
        assert (await poll(service, "a")).message == "at work"


@in_virtual_time
async def test_the_background_knows_of_no_call():
    seen = []

    class Curious(Together):
        async def get_many(self, resource_metas, **kwargs):
            seen.append(current_call())
            return await super().get_many(resource_metas)

    service = gated(Curious(Vendor()))
    async with polling(service):
        set_current_call(Call("/x", MultiDict({"authorization": "Bearer x"}), peer="10.0.0.1:7"))
        await poll(service, "a", connection=secrets(token="hunter2"))
        await anyio.sleep(15)
    assert [(call.key, call.peer, dict(call.metadata)) for call in seen] == [(None, "", {})]


@in_virtual_time
async def test_secrets_are_masked_in_what_was_found_in_the_background():
    class Careless(Together):
        async def get_many(self, resource_metas, **kwargs):
            return [Resource(Phase.QUEUED, message="with " + kwargs["token"]) for _ in resource_metas]

    service = gated(Careless(Vendor()))
    async with polling(service):
        await poll(service, "a", connection=secrets(token="hunter2"))
        await anyio.sleep(15)
        for _ in range(2):
            assert (await poll(service, "a", connection=secrets(token="hunter2"))).message == "with [secret token]"
    (job,) = service.servicer.account.jobs
    assert job.message == "with [secret token]"


@in_virtual_time
async def test_memory_for_states_is_bounded_and_none_is_lost(monkeypatch):
    monkeypatch.setattr("connectrio.service.known_jobs._MOST_BYTES", 100_000)
    vendor = Vendor()

    class Large(Together):
        async def get_many(self, resource_metas, **kwargs):
            await self.vendor.request("get_many")
            return [Resource(Phase.SUCCEEDED, outputs={"text": "x" * 10_000}) for _ in resource_metas]

    service = gated(Large(vendor, many_limit=5, max_vendor_calls=2))
    known = service.servicer.known_jobs
    async with polling(service):
        for number in range(100):
            await poll(service, str(number))
        most = rounds = 0
        done = set()
        while len(done) < 100:
            await anyio.sleep(30)
            most = max(most, known.bytes)
            rounds += 1
            for number in set(range(100)) - done:
                resource = await poll(service, str(number))
                if resource.phase is Phase.SUCCEEDED:
                    assert resource.outputs is not None
                    done.add(number)
        assert most < 300_000
        assert rounds < 15


@in_virtual_time
async def test_the_number_of_jobs_is_bounded(monkeypatch):
    monkeypatch.setattr("connectrio.service.known_jobs._MOST_JOBS", 10)
    service = gated(Together(Vendor()))
    async with polling(service):
        for number in range(30):
            await poll(service, str(number))
        assert service.sample("known_jobs") == 10
        assert (await poll(service, "0")).message == "at work"


@in_virtual_time
@pytest.mark.parametrize("connector", [OneByOne, Together])
async def test_more_jobs_than_can_be_known_end_too(monkeypatch, connector):
    """Those that are known keep their places until their ends are told; if each poll took one, none would last."""
    monkeypatch.setattr("connectrio.service.known_jobs._MOST_JOBS", 20)
    vendor = Vendor()
    service = gated(connector(vendor, rate_calls=1, rate_seconds=10, many_limit=2))
    vendor.ends = {str(number): 0.0 for number in range(30)}
    clients = Clients(service)
    async with polling(service) as tasks:
        for number in range(30):
            tasks.start_soon(clients.follow, str(number), float(number))
        await anyio.sleep(600)
        assert clients.ended.keys() == vendor.ends.keys()
        assert service.sample("known_jobs") <= 20


@in_virtual_time
async def test_jobs_beyond_those_that_can_be_known_are_polled_one_by_one(monkeypatch):
    monkeypatch.setattr("connectrio.service.known_jobs._MOST_JOBS", 20)
    vendor = Vendor()
    service = gated(Together(vendor))
    async with polling(service) as tasks:
        for number in range(22):
            tasks.start_soon(Clients(service).follow, str(number), float(number))
        await anyio.sleep(300 + 25)
    counts = {job: len(times) for job, times in vendor.polled.items()}
    assert vendor.requests["get"] <= 20 + 2 * 11
    assert min(counts.values()) >= 10


@in_virtual_time
async def test_outputs_that_cannot_be_stored_now_are_not_lost(monkeypatch):
    """What is kept of a job stays as it was reported."""
    service = gated(Together(Vendor()), max_response_size=65536, storage_schemes=["memory"])

    class Large(Together):
        async def get_many(self, resource_metas, **kwargs):
            return [Resource(Phase.SUCCEEDED, outputs={"text": "x" * 100_000}) for _ in resource_metas]

    service = gated(Large(Vendor()), max_response_size=65536)
    writes = []

    async def fit(resource, output_prefix):
        writes.append(len(resource.outputs.literals))
        resource.outputs = None
        if len(writes) == 1:
            raise ConnectionResetError("the store")

    monkeypatch.setattr(service.servicer._outputs, "fit", fit)
    async with polling(service):
        await poll(service, "a")
        await anyio.sleep(15)
        assert (await poll(service, "a")).phase is Phase.RUNNING
        assert (await poll(service, "a")).phase is Phase.SUCCEEDED
    assert writes == [1, 1]


@in_virtual_time
async def test_a_fault_of_the_host_s_own_ends_no_host(monkeypatch):
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=10))
    take = AccountJobs._next_jobs
    faults = iter([ValueError("a bug")])

    def fail_once(jobs):
        for fault in faults:
            raise fault
        return take(jobs)

    monkeypatch.setattr(AccountJobs, "_next_jobs", fail_once)
    async with polling(service):
        with capture_logs() as logs:
            for job in "ab":
                await poll(service, job)
            await anyio.sleep(20)
        [line] = [line for line in logs if line["log_level"] == "error"]
        assert line["event"] == "polls in the background have failed; the next poll of a client starts them"
        await poll(service, "b")
        await anyio.sleep(20)
        assert vendor.polled["b"]
        assert service.sample("background_polls_total", operation="get") > 0
