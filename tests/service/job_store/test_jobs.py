"""The table of jobs, on each database: who may create a job, and what is remembered of it."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from connectrio.service.job_store import jobs
from connectrio.service.job_store.jobs import Answered, Claim, Held, InDoubt, JobStoreSchemaError
from connectrio.service.job_store.store import _sessions

HOUR = 3600.0
PAST = -1.0


@pytest.fixture
def session(database):
    with closing(_sessions(database)()) as session:
        jobs.create_schema(session)
        yield session


def claim(session, owner="a", key="cr-1", *, task="t", attempt=0, lease=HOUR, memory=HOUR, retakes=True):
    return jobs.claim(
        session, key=key, task=task, attempt=attempt, owner=owner, lease=lease, memory=memory, retakes=retakes
    )


def finish(session, mine, owner="a", meta=b"\0meta", memory=HOUR):
    return jobs.finish(session, mine, owner, meta, memory, "fresh")


def test_one_host_creates_and_the_others_get_its_answer(session):
    mine = claim(session)
    assert isinstance(mine, Claim)
    assert mine.begun is None
    held = claim(session, "b")
    assert isinstance(held, Held)
    assert HOUR - 60 < held.seconds <= HOUR
    assert jobs.begin(session, mine, "a", HOUR, "cr-1")
    assert isinstance(claim(session, "b"), Held)
    assert finish(session, mine) == b"\0meta"
    assert claim(session, "b") == claim(session, "a") == Answered(b"\0meta")
    # what is said a second time, because the first answer was lost, changes nothing
    assert finish(session, mine) == b"\0meta"
    assert finish(session, mine, meta=b"other") == b"\0meta"


def test_a_claim_that_was_not_begun_is_taken_over_and_fenced(session):
    old = claim(session, lease=PAST)
    new = claim(session, "b", retakes=False)
    assert isinstance(new, Claim)
    assert (new.begun, new.fence > old.fence) == (None, True)
    # the old host wakes
    assert not jobs.begin(session, old, "a", HOUR, "cr-1")
    jobs.release(session, old, "a")
    jobs.abandon(session, old, "a")
    assert finish(session, old) is None
    assert isinstance(claim(session, "c"), Held)
    assert finish(session, new, "b", b"b's") == b"b's"
    assert finish(session, old) == b"b's"


def test_a_later_attempt_withdraws_what_was_not_begun(session):
    mine = claim(session)
    assert not jobs.withdraw(session, "cr-1")
    jobs.renew(session, "a", ["cr-1"], PAST)
    assert jobs.withdraw(session, "cr-1")
    # the old host wakes, and renews its lease first
    jobs.renew(session, "a", ["cr-1"], HOUR)
    assert not jobs.begin(session, mine, "a", HOUR, "cr-1")
    mine = claim(session)
    jobs.begin(session, mine, "a", PAST, "cr-1")
    assert not jobs.withdraw(session, "cr-1")


def test_nobody_begins_after_the_end_of_its_lease(session):
    mine = claim(session, lease=PAST)
    assert not jobs.begin(session, mine, "a", HOUR, "cr-1")
    jobs.renew(session, "a", ["cr-1"], HOUR)
    assert jobs.begin(session, mine, "a", HOUR, "cr-1")


@pytest.mark.parametrize("retakes", [True, False])
def test_a_claim_that_was_begun_is_in_doubt(session, retakes):
    old = claim(session)
    assert jobs.begin(session, old, "a", PAST, "cr-0")
    found = claim(session, "b", retakes=retakes)
    if not retakes:
        assert found == InDoubt("cr-0")
        # the answer comes late, but nobody has taken over
        assert finish(session, old) == b"\0meta"
        assert claim(session, "b", retakes=False) == Answered(b"\0meta")
        return
    assert isinstance(found, Claim)
    assert (found.begun, found.fence > old.fence) == ("cr-0", True)
    assert finish(session, old) is None


def test_a_host_claims_again_what_it_may_have_claimed(session):
    """The connection was lost before it had the answer."""
    assert isinstance(claim(session), Claim)
    mine = claim(session)
    assert isinstance(mine, Claim)
    assert jobs.begin(session, mine, "a", HOUR, "cr-1")
    assert isinstance(claim(session), Held)


def test_what_is_given_up_is_free_at_once(session):
    mine = claim(session)
    jobs.begin(session, mine, "a", HOUR, "cr-1")
    jobs.release(session, mine, "a")
    again = claim(session, "b", retakes=False)
    assert isinstance(again, Claim)
    assert again.fence > mine.fence
    jobs.begin(session, again, "b", HOUR, "cr-1")
    jobs.abandon(session, again, "b")
    assert claim(session, "a", retakes=False) == InDoubt("cr-1")


def test_only_the_owners_leases_are_renewed(session):
    mine, _ = claim(session, lease=PAST), claim(session, key="cr-2", lease=PAST)
    claim(session, "b", key="cr-2", lease=PAST)
    jobs.renew(session, "a", ["cr-1", "cr-2", *(f"cr-x{number}" for number in range(500))], HOUR)
    assert isinstance(claim(session, "c"), Held)
    assert isinstance(claim(session, "c", key="cr-2"), Claim)
    assert jobs.begin(session, mine, "a", HOUR, "cr-1")


def test_a_lost_job_serves_one_later_attempt(session):
    first = claim(session)
    finish(session, first)
    second = claim(session, "b", "cr-2", attempt=1)
    [earlier] = jobs.earlier_attempts(session, "t", 1)
    assert (earlier.key, earlier.meta, earlier.asked) == ("cr-1", b"\0meta", False)
    assert jobs.adopt(session, second, "b", "cr-1", HOUR) == b"\0meta"
    assert jobs.adopt(session, second, "b", "cr-1", HOUR) == b"\0meta"  # asked again: the answer was lost
    assert claim(session, "c", "cr-2", attempt=1) == Answered(b"\0meta")
    third = claim(session, "c", "cr-3", attempt=2)
    assert [(each.key, each.asked) for each in jobs.earlier_attempts(session, "t", 2)] == [
        ("cr-2", False),
        ("cr-1", True),
    ]
    assert jobs.adopt(session, third, "c", "cr-1", HOUR) is None
    assert jobs.earlier_attempts(session, "t", 0) == []


def test_who_has_lost_its_claim_adopts_nothing(session):
    finish(session, claim(session))
    old = claim(session, "b", "cr-2", attempt=1, lease=PAST)
    claim(session, "c", "cr-2", attempt=1)
    assert jobs.adopt(session, old, "b", "cr-1", HOUR) is None
    assert not jobs.earlier_attempts(session, "t", 1)[0].asked


def test_a_job_that_a_client_knows_is_not_lost(session):
    finish(session, claim(session))
    jobs.mark_asked(session, [jobs.meta_hash(b"\0meta"), *map(str, range(300))])
    second = claim(session, "b", "cr-2", attempt=1)
    assert jobs.earlier_attempts(session, "t", 1)[0].asked
    assert jobs.adopt(session, second, "b", "cr-1", HOUR) is None


def test_what_is_old_is_forgotten(session):
    finish(session, claim(session), memory=PAST)
    claim(session, key="cr-2", memory=PAST)  # within its lease
    claim(session, key="cr-3", memory=PAST, lease=PAST)
    for number in range(4, 8):
        finish(session, claim(session, key=f"cr-{number}"), memory=HOUR + number)
    jobs.clean(session, 3)
    assert session.execute("SELECT key FROM connectrio_jobs ORDER BY key") == [
        ("cr-2",), ("cr-5",), ("cr-6",), ("cr-7",)
    ]  # fmt: skip


def test_a_job_without_a_claim_is_recorded_once(session):
    mine = claim(session)
    jobs.record(session, "cr-1", "t", 0, "b", b"b's", HOUR)
    assert isinstance(claim(session, "b"), Held)
    finish(session, mine)
    jobs.record(session, "cr-2", "t", 1, "b", b"b's", HOUR)
    assert claim(session, key="cr-2", attempt=1) == Answered(b"b's")


def test_the_tables_are_made_by_many_at_once(database):
    errors = []
    barrier = threading.Barrier(8)

    def make():
        barrier.wait()
        try:
            with closing(_sessions(database)()) as session:
                jobs.create_schema(session)
                claim(session)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with closing(_sessions(database)()) as session:
        assert session.execute("SELECT version FROM connectrio_schema") == [(jobs.VERSION,)]


def test_the_documents_have_the_tables():
    document = (Path(__file__).parents[3] / "docs" / "how-to" / "job-once.md").read_text()
    [shown] = [block for block in re.findall(r"```sql\n(.*?)```", document, re.DOTALL) if "CREATE TABLE" in block]
    made = ";".join(jobs.SCHEMA).replace("{bytes}", "BYTEA").replace(" IF NOT EXISTS", "")
    inserted = f"INSERT INTO connectrio_schema VALUES ({jobs.VERSION});"
    assert shown.replace(inserted, "").replace(";", "").split() == made.replace(";", " ").split()


def test_tables_of_another_version_are_refused(session):
    session.execute("UPDATE connectrio_schema SET version = 7")
    with pytest.raises(JobStoreSchemaError, match="are of version 7, and this host needs version 1"):
        jobs.create_schema(session)


def test_of_many_that_claim_at_once_one_gets_it(session, database):
    found = []

    def ask(owner):
        with closing(_sessions(database)()) as own:
            barrier.wait()
            found.append(claim(own, owner))

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=partial(ask, str(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(each).__name__ for each in found) == ["Claim", *["Held"] * 7]
