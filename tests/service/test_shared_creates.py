"""A job is created once, whichever of several hosts is asked for it."""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from connectrio import ConnectorPolicy, Phase, Resource, current_call
from connectrio.service.job_identity import JobIdentity
from connectrio.service.job_store import store
from connectrio.service.job_store.sqlite import SqliteSession
from connectrio.service.job_store.store import JobStore
from connectrio.service.shared_creates import SharedCreates
from service.harness import PATIENCE, Base, Gate, Job, Service, attempt, connector

LEASE = 6.0
TWICE = "a host ended while it created a job; it is created again, and may exist twice in the other system"
AGAIN = "a host ended while it created a job; the other system is asked again under the same key"
LOST = "the answer to an earlier attempt was lost; its job serves this one"
AWAY, BACK = "the job store does not answer", "the job store answers again"


async def eventually(condition) -> None:
    """Wait until it holds; threads have to do something."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - they set no event
            await anyio.sleep(0.005)


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch):
    """A slow machine is no database that is away."""
    monkeypatch.setattr(store, "_TIMEOUT", PATIENCE)


class Database:
    """An SQLite file with a clock that tests move.

    :ivar is_away: whether sessions fail
    :ivar is_read_only: whether it refuses what would change it
    :ivar is_lost_after_claim: whether it goes away before it has answered to a claim
    :ivar questions: how many statements it was given
    """

    def __init__(self, path) -> None:
        self.url = f"sqlite://{path}/jobs.db"
        self.time = 1e9
        self.is_away = self.is_read_only = self.is_lost_after_claim = False
        self.questions = 0

    def go_away(self) -> None:
        """Let all sessions fail, and nobody wait for long."""
        self.is_away = True
        store._TIMEOUT = 0.3

    def come_back(self) -> None:
        """Let them work again."""
        store._TIMEOUT = PATIENCE
        self.is_away = False

    def session(self):
        if self.is_away:
            raise ConnectionRefusedError("nobody listens")
        return _Session(self)

    def rows(self, columns):
        """The rows of the table."""
        session = SqliteSession(self.url)
        try:
            return session.execute(f"SELECT {columns} FROM connectrio_jobs ORDER BY key, attempt")
        finally:
            session.close()


class _Session(SqliteSession):
    def __init__(self, database) -> None:
        super().__init__(database.url, lambda: database.time)
        self._database = database

    def execute(self, statement, parameters=()):
        if self._database.is_away:
            raise ConnectionResetError("the server has gone")
        self._database.questions += 1
        self._connection.execute(f"PRAGMA query_only = {self._database.is_read_only:d}")
        rows = super().execute(statement, parameters)
        if self._database.is_lost_after_claim and statement.startswith("INSERT"):
            self._database.is_lost_after_claim = False
            self._database.go_away()
            raise ConnectionResetError("the server has gone")
        return rows


class Vendor:
    """Another system, which gives each `create` a job, or finds the one of the key; `create` waits for `go_on`."""

    def __init__(self, **members) -> None:
        self.jobs: list[str] = []
        self.keys: list[str] = []
        self.phase = Phase.RUNNING
        self.begun = anyio.Event()
        self.go_on = anyio.Event()
        self.go_on.set()
        self.is_idempotent = members.get("create_is_idempotent", False)

        async def create(_self, **kwargs):
            key = current_call().key
            self.keys.append(key)
            self.begun.set()
            await self.go_on.wait()
            if not self.is_idempotent or key not in self.jobs:
                self.jobs.append(key if self.is_idempotent else str(len(self.jobs)))
            return Job(key if self.is_idempotent else self.jobs[-1])

        async def get(_self, **kwargs):
            return Resource(self.phase)

        self.connector = connector(Base, **{"create": create, "get": get, **members})


class Hosts:
    """Hosts that share a database."""

    def __init__(self, database, vendor, stack, *, is_required=False) -> None:
        self.database, self.vendor = database, vendor
        self._stack, self._is_required = stack, is_required

    async def another(self, **settings) -> Service:
        shared = JobStore(self.database.url, lease=LEASE, memory=600.0, make_session=self.database.session)
        await shared.open()
        self._stack.push_async_callback(shared.aclose)
        host = Service(self.vendor.connector, shared=SharedCreates(shared, is_required=self._is_required), **settings)
        host.metrics.registry.register(shared)
        host.store = shared
        return host

    async def crash(self, host) -> None:
        """Let a host look to the others as if it had ended: nothing it does arrives any more, and its lease ends."""
        host.store._is_closing = True
        host.store._wake.set()
        await anyio.to_thread.run_sync(host.store._thread.join)
        host.store._away = "this host has ended"
        self.database.time += LEASE + 1


@asynccontextmanager
async def hosts(path, vendor, **options):
    async with AsyncExitStack() as stack:
        yield Hosts(Database(path), vendor, stack, **options)


def origins(service) -> dict[str, float]:
    found = {each: service.sample("creates_total", origin=each) for each in ("fresh", "joined", "replayed", "adopted")}
    return {origin: count for origin, count in found.items() if count}


def create(host, number=0, **fields):
    return host.create(task_execution_metadata=attempt(number), **fields)


async def test_another_host_replays_the_answer(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        assert await create(one) == await create(two) == await create(two)
        assert vendor.jobs == ["0"]
        assert (origins(one), origins(two)) == ({"fresh": 1}, {"replayed": 2})
        [(key, meta, origin, owner)] = cluster.database.rows("key, meta, origin, owner")
        assert (key, meta, origin, owner) == (vendor.keys[0], Job("0").encode(), "fresh", one.store._owner)


async def test_another_host_joins_a_create_that_goes_on(tmp_path):
    vendor = Vendor()
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one, two = await cluster.another(), await cluster.another()
        answers = []

        async def ask(host):
            answers.append(await create(host))

        tasks.start_soon(ask, one)
        await vendor.begun.wait()
        tasks.start_soon(ask, two)
        await eventually(lambda: len(two.creates) == 1)
        vendor.go_on.set()
        await eventually(lambda: len(answers) == 2)
        assert answers[0] == answers[1]
        assert vendor.jobs == ["0"]
        assert origins(two) in ({"joined": 1}, {"replayed": 1})


async def test_a_lease_is_renewed_as_long_as_the_host_lives(tmp_path):
    vendor = Vendor()
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one = await cluster.another()
        tasks.start_soon(create, one)
        await vendor.begun.wait()
        [(first,)] = cluster.database.rows("lease")
        cluster.database.time += LEASE - 1
        one.store._renewed_at -= LEASE
        await eventually(lambda: cluster.database.rows("lease") == [(first + LEASE - 1,)])
        vendor.go_on.set()


async def test_a_create_that_fails_is_free_for_others(tmp_path):
    vendor = Vendor()
    errors = [ValueError("no")]

    async def failing(_self, **kwargs):
        if errors:
            raise errors.pop()
        return Job("1")

    vendor.connector = connector(Base, create=failing)
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        with pytest.raises(Exception, match="no"):
            await create(one)
        assert (await create(two)).resource_meta == Job("1").encode()
        assert two.sample("creates_in_doubt_total") == 0


@pytest.mark.parametrize("connector", ["idempotent", "at_most_once", "other"])
async def test_a_host_ends_while_it_creates(tmp_path, connector):
    """The window: its code has begun, and the answer was not written down."""
    members = {
        "create_is_idempotent": connector == "idempotent",
        "policy": ConnectorPolicy(at_most_once=connector == "at_most_once"),
    }
    vendor = Vendor(**members)
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one, two = await cluster.another(), await cluster.another()
        tasks.start_soon(_until_cancelled, one)
        await vendor.begun.wait()
        vendor.jobs.append(vendor.keys[0])  # the vendor has the job, and the host ends before it has the answer
        await cluster.crash(one)
        vendor.go_on.set()
        with capture_logs() as logs:
            if connector == "at_most_once":
                with pytest.raises(Exception, match=f"ended while it created this job, under the key {vendor.keys[0]}"):
                    await create(two)
                # nor for the next attempt
                with pytest.raises(Exception, match=f"ended while it created this job, under the key {vendor.keys[0]}"):
                    await create(two, 1)
            else:
                await create(two)
        tasks.cancel_scope.cancel()
    again = {"idempotent": [AGAIN], "at_most_once": [], "other": [TWICE]}[connector]
    assert [line["event"] for line in logs if line["event"] in (AGAIN, TWICE)] == again
    assert two.sample("creates_in_doubt_total") == (2 if connector == "at_most_once" else 1)
    assert len(set(vendor.keys)) == 1
    assert len(vendor.jobs) == {"idempotent": 1, "at_most_once": 1, "other": 2}[connector] + (
        # the first host's own create goes on in this process, which the crash of a real one would have ended
        connector in ("other", "at_most_once")
    )


async def _until_cancelled(host):
    try:
        await create(host)
    except Exception:  # noqa: BLE001 - its store is gone
        await anyio.sleep_forever()


async def test_a_host_ends_before_it_begins(tmp_path):
    """It has the claim, and waits for a thread: nothing has happened, so another host creates the job without doubt."""
    gate = Gate()
    vendor = Vendor()

    def plain(self, **kwargs):
        vendor.keys.append(current_call().key)
        return gate.pass_through(Job("1"))

    vendor.connector = connector(Base, create=plain)
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one, two = await cluster.another(), await cluster.another()
        for number in range(8):  # all threads of the host, and its further ones
            tasks.start_soon(partial(one.create, task_execution_metadata=attempt(node=f"n{number}")))
        await eventually(lambda: len(cluster.database.rows("key")) == 8)
        await eventually(lambda: sum(begun is not None for (begun,) in cluster.database.rows("begun")) == 4)
        waiting = {key for key, begun in cluster.database.rows("key, begun") if begun is None}
        await cluster.crash(one)
        with capture_logs() as logs:
            async with anyio.create_task_group() as others:
                gate.open()
                for number in range(8):
                    others.start_soon(partial(_create_quietly, two, number))
        assert {line["key"] for line in logs if line["event"] == TWICE}.isdisjoint(waiting)
        tasks.cancel_scope.cancel()


async def _create_quietly(host, number):
    await host.create(task_execution_metadata=attempt(node=f"n{number}"))


async def test_a_host_that_was_stopped_begins_nothing(tmp_path):
    """As after SIGSTOP: its lease has passed between the claim and the connector's code."""
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        begin = one.store.begin

        async def stopped(claim, under):
            cluster.database.time += LEASE + 1
            await create(two)
            return await begin(claim, under)

        one.store.begin = stopped
        with pytest.raises(Exception, match="stopped for longer than its lease"):
            await create(one)
        assert vendor.jobs == ["0"]
        assert await create(one) == await create(two)


@pytest.mark.parametrize("is_idempotent", [True, False])
async def test_a_host_that_was_stopped_overwrites_nothing(tmp_path, is_idempotent):
    vendor = Vendor(create_is_idempotent=is_idempotent)
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        finish = one.store.finish

        async def stopped(claim, meta, origin):
            cluster.database.time += LEASE + 1
            official.append(await create(two))
            return await finish(claim, meta, origin)

        official = []
        one.store.finish = stopped
        with capture_logs() as logs:
            answer = await create(one)
        assert [answer] == official
        orphans = [line for line in logs if line["event"].startswith("a job exists twice")]
        expected = [] if is_idempotent else [Job("0").encode().decode()]
        assert [line["resource_meta"] for line in orphans] == expected


async def test_a_later_attempt_gets_the_lost_job_of_another_host(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        first = await create(one)
        with capture_logs() as logs:
            assert await create(two, 1) == first
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == [LOST]
        assert await create(one, 1) == first
        assert (origins(one), origins(two)) == ({"fresh": 1, "replayed": 1}, {"adopted": 1})
        # and it is lost for the third attempt as well, which nobody has polled
        assert await create(one, 2) == first


async def test_a_job_that_was_polled_on_another_host_is_not_lost(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        first = await create(one)
        await two.get(resource_meta=first.resource_meta)
        await eventually(lambda: cluster.database.rows("asked") == [(1,)])
        assert await create(one, 1) != first
        assert vendor.jobs == ["0", "1"]


async def test_a_lost_job_that_has_failed_serves_nobody(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        first = await create(one)
        vendor.phase = Phase.RETRYABLE_FAILED
        assert await create(two, 1) != first


async def test_a_later_attempt_waits_for_the_one_of_another_host(tmp_path):
    vendor = Vendor()
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one, two = await cluster.another(), await cluster.another()
        tasks.start_soon(create, one)
        await vendor.begun.wait()
        answers = []

        async def ask():
            answers.append(await create(two, 1))

        tasks.start_soon(ask)
        await eventually(lambda: len(cluster.database.rows("key")) == 2)
        vendor.go_on.set()
        await eventually(lambda: answers)
        assert vendor.jobs == ["0"]
        assert origins(two) == {"adopted": 1}


async def test_a_host_that_was_stopped_begins_no_earlier_attempt(tmp_path):
    """Nobody has taken its claim over, but a later attempt at the task has created the job."""
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        begin = one.store.begin

        async def stopped(claim, under):
            # its thread in the background wakes first, and renews the leases
            one.store._active.clear()
            cluster.database.time += LEASE + 1
            await create(two, 1)
            one.store._active[claim.key] = claim
            one.store._renewed_at -= LEASE
            await eventually(lambda: not one.store._has_work())
            return await begin(claim, under)

        one.store.begin = stopped
        with pytest.raises(Exception, match="stopped for longer than its lease"):
            await create(one)
        assert vendor.jobs == ["0"]


async def test_a_later_attempt_finds_the_job_of_a_host_that_has_ended(tmp_path):
    """The other system is asked under the key of the earlier attempt, also by the attempt after that."""
    vendor = Vendor(create_is_idempotent=True)
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster, anyio.create_task_group() as tasks:
        one, two, three = [await cluster.another() for _ in range(3)]
        tasks.start_soon(_until_cancelled, one)
        await vendor.begun.wait()
        vendor.jobs.append(vendor.keys[0])
        await cluster.crash(one)
        vendor.begun = anyio.Event()
        tasks.start_soon(partial(_until_cancelled_attempt, two, 1))
        await vendor.begun.wait()
        await cluster.crash(two)
        vendor.go_on.set()
        answer = await create(three, 2)
        tasks.cancel_scope.cancel()
    assert set(vendor.keys) == {vendor.keys[0]}
    assert vendor.jobs == [vendor.keys[0]]
    assert answer.resource_meta == Job(vendor.keys[0]).encode()


async def _until_cancelled_attempt(host, number):
    try:
        await create(host, number)
    except Exception:  # noqa: BLE001 - its store is gone
        await anyio.sleep_forever()


async def test_while_the_store_is_away_each_host_remembers_for_itself(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        with capture_logs() as logs:
            cluster.database.go_away()
            first = await create(one)
            assert await create(one) == first
            assert await create(one, 1) == first
            assert one.metrics.registry.get_sample_value("connectrio_job_store_up") == 0
            cluster.database.come_back()
            await eventually(lambda: one.metrics.registry.get_sample_value("connectrio_job_store_up") == 1)
            await eventually(lambda: len(cluster.database.rows("key")) == 2)
        assert [line["event"] for line in logs if line["event"] in (AWAY, BACK)] == [AWAY, BACK]
        assert [line["reason"] for line in logs if line["event"] == AWAY] == ["ConnectionRefusedError: nobody listens"]
        # what was created meanwhile is known to all
        assert await create(two) == first
        assert vendor.jobs == ["0"]


async def test_a_job_is_written_down_whose_claim_had_no_answer(tmp_path):
    """The claim is in the database, although the host does not know it and creates the job alone."""
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        cluster.database.is_lost_after_claim = True
        first = await create(one)
        cluster.database.come_back()
        await eventually(lambda: one.store.is_up and two.store.is_up)
        cluster.database.time += LEASE + 1
        assert await create(two) == first
        assert vendor.jobs == ["0"]


@pytest.mark.parametrize("by", ["setting", "connector"])
async def test_where_the_store_is_required_nothing_is_created_without_it(tmp_path, by):
    vendor = Vendor(policy=ConnectorPolicy(at_most_once=by == "connector"))
    async with hosts(tmp_path, vendor, is_required=by == "setting") as cluster:
        one = await cluster.another()
        cluster.database.go_away()
        with pytest.raises(Exception, match=r"the job store does not answer .*; nothing was created; try again"):
            await create(one)
        assert one.count("create", "503") == 1
        assert vendor.keys == []
        # polls do not need it
        await one.get(resource_meta=Job("0").encode())
        cluster.database.come_back()
        await eventually(lambda: one.store.is_up)
        await create(one)
        assert vendor.jobs == ["0"]


@pytest.mark.parametrize("is_required", [True, False])
async def test_the_store_is_lost_between_claim_and_begin(tmp_path, is_required):
    vendor = Vendor()
    async with hosts(tmp_path, vendor, is_required=is_required) as cluster:
        one = await cluster.another()
        begin = one.store.begin

        async def lost(claim, under):
            cluster.database.go_away()
            return await begin(claim, under)

        one.store.begin = lost
        if is_required:
            with pytest.raises(Exception, match="nothing was created"):
                await create(one)
            assert vendor.keys == []
        else:
            await create(one)
            assert vendor.jobs == ["0"]
        cluster.database.come_back()
        # what was to be written is written when it is back
        written = [] if is_required else [(Job("0").encode(),)]
        await eventually(lambda: cluster.database.rows("meta") == written)


async def test_an_answer_is_written_when_the_store_is_back(tmp_path):
    vendor = Vendor()
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor, is_required=True) as cluster, anyio.create_task_group() as tasks:
        one, two = await cluster.another(), await cluster.another()
        tasks.start_soon(create, one)
        await vendor.begun.wait()
        cluster.database.go_away()
        vendor.go_on.set()
        await eventually(lambda: one.store._pending)
        cluster.database.come_back()
        await eventually(lambda: two.store.is_up and not one.store._pending)
        assert (await create(two)).resource_meta == Job("0").encode()
        assert vendor.jobs == ["0"]


async def test_an_answer_does_not_wait_long_behind_others(tmp_path):
    """It cannot be cancelled, so a slow database and many creates would keep a host from ending."""
    async with hosts(tmp_path, Vendor()) as cluster:
        one = await cluster.another()
        name = JobIdentity("cr-1", "t-1", 0, declares_outputs=False)
        claim, _ = await one.store.claim(name, retakes=True, with_earlier=False)
        assert await one.store.begin(claim, claim.key)
        store._TIMEOUT = 0.1
        others = [object() for _ in range(int(one.store._places.total_tokens))]
        for each in others:
            await one.store._places.acquire_on_behalf_of(each)
        with anyio.fail_after(60):
            assert await one.store.finish(claim, b"meta", "fresh") == b"meta"
        assert one.store.is_up
        store._TIMEOUT = PATIENCE
        await eventually(lambda: cluster.database.rows("meta") == [(b"meta",)])


async def test_a_database_that_restarts_at_once_is_not_away(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor, is_required=True) as cluster:
        one = await cluster.another()
        cluster.database.is_away = True
        back = threading.Timer(0.3, cluster.database.come_back)
        back.start()
        with capture_logs() as logs:
            await create(one)
        back.join()
        assert AWAY not in [line["event"] for line in logs]
        assert vendor.jobs == ["0"]


async def test_a_database_that_only_answers_questions_is_not_back(tmp_path):
    """It is full, or a read-only copy; if it counted as back each time, each create would wait for it again."""
    vendor = Vendor()
    async with hosts(tmp_path, vendor, is_required=True) as cluster:
        one = await cluster.another()
        await create(one)
        cluster.database.is_read_only = True
        store._TIMEOUT = 0.3
        with capture_logs() as logs:
            with pytest.raises(Exception, match="attempt to write a readonly database"):
                await create(one, output_prefix="another")
            asked = cluster.database.questions
            await eventually(lambda: cluster.database.questions > asked + 5)
            assert not one.store.is_up
            cluster.database.is_read_only = False
            store._TIMEOUT = PATIENCE
            await eventually(lambda: one.store.is_up)
        assert [line["event"] for line in logs if line["event"] in (AWAY, BACK)] == [AWAY, BACK]
        await create(one, output_prefix="another")


@pytest.mark.parametrize("hangs", ["SELECT 1", "CREATE TABLE"])
async def test_a_database_that_hangs_at_the_start_is_left(tmp_path, hangs):
    """Whatever it does not answer, the session is ended, so that the next one may find it back."""
    database, aborted = Database(tmp_path), threading.Event()

    class Hanging(_Session):
        def execute(self, statement, parameters=()):
            if not aborted.is_set() and statement.startswith(hangs):
                assert aborted.wait(60), "nobody ends the session"
                raise ConnectionAbortedError
            return super().execute(statement, parameters)

        def abort(self):
            aborted.set()

    store._TIMEOUT = 0.3
    found = JobStore(database.url, lease=LEASE, memory=600.0, make_session=lambda: Hanging(database))
    found._thread.start()  # as `open`, without a call that hangs as well
    try:
        found._wake.set()
        found._cleaned_at = -store._CLEANING
        await eventually(aborted.is_set)
    finally:
        await found.aclose()


async def test_a_client_that_goes_away_before_the_beginning_leaves_no_claim(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        waits = anyio.Event()

        async def begin(claim, under):
            waits.set()
            await anyio.sleep_forever()

        one.store.begin, kept = begin, one.store.begin
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, one)
            await waits.wait()
            tasks.cancel_scope.cancel()
        one.store.begin = kept
        await eventually(lambda: cluster.database.rows("key") == [])
        await create(two)
        assert two.sample("creates_in_doubt_total") == 0


async def test_a_create_that_takes_too_long_is_in_doubt(tmp_path):
    vendor = Vendor()
    vendor.go_on = anyio.Event()
    async with hosts(tmp_path, vendor) as cluster:
        one = await cluster.another(create_limit=0.1)
        with pytest.raises(Exception, match=r"took longer than create_limit|stopped after 0.1 s"):
            await create(one)
        await eventually(lambda: [row for row in cluster.database.rows("begun, lease") if row[0] and not row[1]])


@pytest.mark.parametrize("at_most_once", [False, True])
async def test_a_large_resource_meta_is_not_stored(tmp_path, at_most_once):
    """Its job exists, but another host cannot tell which one it is."""
    vendor, created = Vendor(), []

    async def large(_self, **kwargs):
        created.append(current_call().key)
        return Job("x" * store.LONGEST_META)

    policy = ConnectorPolicy(at_most_once=at_most_once)
    vendor.connector = connector(Base, create=large, policy=policy)
    async with hosts(tmp_path, vendor) as cluster:
        one, two = await cluster.another(), await cluster.another()
        assert await create(one) == await create(one)
        await eventually(lambda: cluster.database.rows("begun, meta, lease") == [(created[0], None, 0)])
        if at_most_once:
            with pytest.raises(Exception, match="The connector is at_most_once, so it is not created again"):
                await create(two)
        else:
            await create(two)
        assert two.sample("creates_in_doubt_total") == 1
        assert len(created) == (1 if at_most_once else 2)


async def test_tables_of_another_version_count_as_away(tmp_path):
    vendor = Vendor()
    async with hosts(tmp_path, vendor) as cluster:
        await cluster.another()
        session = cluster.database.session()
        session.execute("UPDATE connectrio_schema SET version = 2")
        session.close()
        with capture_logs() as logs:
            other = await cluster.another()
        [line] = [line for line in logs if line["event"] == AWAY]
        assert "are of version 2, and this host needs version 1" in line["reason"]
        assert not other.store.is_up


def test_the_metrics():
    registry = CollectorRegistry()
    shared = JobStore("sqlite:///nowhere/jobs.db", lease=LEASE, memory=1.0)
    registry.register(shared)
    shared.doubts["tiny"] += 1
    assert registry.get_sample_value("connectrio_job_store_up") == 1
    assert registry.get_sample_value("connectrio_creates_in_doubt_total", {"task_type": "tiny"}) == 1
