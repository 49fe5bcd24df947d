"""Small drills: attacks, restarts, killed clients, and a soak. No durations are asserted.

Each attack is tried on one event loop, and some of each kind on the others; `just drills` tries all of them on all.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from drills import drain, kill, restart, soak
from drills.attacks.attack import Attack, Attacker
from drills.attacks.catalogue import ATTACKS
from drills.good import GoodClient
from drills.hosting import BACKENDS, PATIENCE, TIMEOUTS, DrillHost
from drills.process import MIB, resident
from rpc.kit.certificates import Pki

# of what an attack could do
SIZE = 0.02
# bytes that a host may use more after all attacks: threads, caches, memory that Python keeps
GROWTH = 200 * MIB

# small, so that they are used up soon
LIMITS = {"max_connections": 100, "max_concurrent_streams": 200, "reset_budget": 100}

PLAIN = [attack for attack in ATTACKS.values() if not attack.tls]
AT_ONCE = [attack for attack in PLAIN if not attack.slow]
SLOW = [attack for attack in PLAIN if attack.slow]
TLS = [attack for attack in ATTACKS.values() if attack.tls]

# where all attacks are tried; on the others, these are
THOROUGH = "uvloop"
OF_EACH_KIND = (
    "rapid-reset",
    "made-you-reset-data",
    "too-many-streams",
    "continuation-flood",
    "hpack-bomb",
    "ping-flood",
    "empty-data",
    "data-dribble",
    "half-a-message",
    "decompression-bomb",
    "unread-pages",
)


@pytest.fixture(scope="module")
def attacked(request):
    """A host, and a good client that calls it all the time."""
    with DrillHost(request.param, **TIMEOUTS, **LIMITS) as host, GoodClient(host.target, rate=20) as client:
        client.ready()
        before = resident(host.pid)
        yield host, client
        assert resident(host.pid) - before < GROWTH


@pytest.fixture(scope="module")
def attacked_tls(request, tmp_path_factory):
    """The same with TLS."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    settings = {**TIMEOUTS, **LIMITS, "tls_cert": pki.server.cert, "tls_key": pki.server.key}
    with DrillHost(request.param, **settings) as host, GoodClient(host.target, rate=20, authority=pki.ca) as client:
        client.ready()
        yield host, client


def run(attack: Attack, target: str) -> Attacker:
    """Attack once."""
    attacker = Attacker(target, ends=time.monotonic() + PATIENCE, size=SIZE)
    attack.run(attacker)
    return attacker


def assert_good_client_is_served(client: GoodClient) -> None:
    client.wait_for_more(5)
    assert {call["outcome"] for call in client.events("call")} == {"done"}


def assert_expected(attack: Attack, attacker: Attacker) -> None:
    assert attacker.answers
    assert [answer for answer in attacker.answers if not attack.is_expected(answer)] == []


@pytest.mark.parametrize("attacked", [THOROUGH], indirect=True)
@pytest.mark.parametrize("attack", AT_ONCE, ids=lambda attack: attack.name)
def test_an_attack_hurts_nobody(attacked, attack: Attack):
    host, client = attacked
    attacker = run(attack, host.target_of(attack))
    assert_expected(attack, attacker)
    assert_good_client_is_served(client)


@pytest.mark.parametrize("attacked", [backend for backend in BACKENDS if backend != THOROUGH], indirect=True)
def test_attacks_of_each_kind_hurt_nobody(attacked):
    host, client = attacked
    for name in OF_EACH_KIND:
        attacker = run(ATTACKS[name], host.target_of(ATTACKS[name]))
        assert_expected(ATTACKS[name], attacker)
        assert_good_client_is_served(client)


@pytest.mark.parametrize("attacked", [THOROUGH], indirect=True)
def test_attacks_that_last_until_the_host_has_enough(attacked):
    host, client = attacked
    with ThreadPoolExecutor(len(SLOW)) as pool:
        attackers = list(pool.map(lambda attack: run(attack, host.target_of(attack)), SLOW))
    for attack, attacker in zip(SLOW, attackers, strict=True):
        assert_expected(attack, attacker)
    assert_good_client_is_served(client)


@pytest.mark.parametrize("attacked_tls", ["trio"], indirect=True)
def test_attacks_on_tls(attacked_tls):
    host, client = attacked_tls
    with ThreadPoolExecutor(len(TLS)) as pool:
        attackers = list(pool.map(lambda attack: run(attack, host.target), TLS))
    for attack, attacker in zip(TLS, attackers, strict=True):
        assert_expected(attack, attacker)
    assert_good_client_is_served(client)


def test_a_rolling_restart_loses_no_call():
    # a third of that is more than the second after which a client tries a host again that it did not find
    report = drain.drill("trio", "grpcio", connections=5, rate=40, seconds=6)
    assert report.passed, report


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_of_clients_that_are_killed_are_cancelled_and_leave_nothing(backend: str):
    report = kill.drill(backend, kills=5, shape=(2, 5), looks=1)
    assert len(report.delays_ms) == 50
    assert report.passed, report


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_soak_loses_nothing(backend: str):
    report = soak.drill(backend, 8, rate=5)
    assert report.lost == 0, report
    assert {"job: SUCCEEDED", "query: SUCCEEDED"} <= set(report.outcomes)
    assert {"refused", "answered"} <= set(report.vendor)
    assert report.killed["calls"] == report.killed["cancelled"] > 0
    assert report.exit_code == 0


@pytest.mark.parametrize(("backend", "way"), [("uvloop", "hand-over"), ("trio", "hand-over"), ("asyncio", "held")])
def test_a_restart_in_place_loses_no_poll(poller, backend: str, way: str):
    # however long the next host takes to start, no call fails for that
    report = restart.drill(backend, way, poller, pause=0.5, deadline=f"{PATIENCE}s", connect=f"{PATIENCE}s")
    assert report.polls.calls > 0
    assert report.fresh.calls > 0
    assert report.passed, report


def test_without_that_polls_fail(poller):
    """So the drill sees what it is for."""
    report = restart.drill("uvloop", "plain", poller, pause=0.5)
    assert set(report.polls.failed) == {"Unavailable"}
    assert report.passed
