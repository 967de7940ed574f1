"""One primary, two replicas, three Sentinels: fail-over under load, and what asynchronous replication can lose."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.load import PATIENCE, Load, kept
from tests.servers import RedisServer, SentinelGroup, running, wait_until
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations
from wsgi_rollsession.revocation.redis.sentinel import PRIMARY_CHECK

STORE = "Redis, Sentinel (a primary, two replicas, three Sentinels)"
KEPT = "with wait={}, no confirmed logout is forgotten; nobody else is logged out"
#: Seconds for which a primary that was replaced may be believed: the Sentinels are asked once a second, and tell each
#: other within another one.
BELIEVED = PRIMARY_CHECK + 1.0

Report = Callable[..., None]


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelGroup]:
    with running(SentinelGroup()) as one:
        yield one


@pytest.fixture
def group(sentinels: SentinelGroup) -> SentinelGroup:
    """The group, with all its servers running and replicating, whatever the last test left."""
    for server in sentinels.servers:
        if server.process is None or server.process.poll() is not None:
            server.start()

    def whole() -> bool:
        primary = sentinels.primary
        for sentinel in sentinels.sentinels:
            seen = [
                sentinel.client().sentinel_master(sentinels.name),
                *sentinel.client().sentinel_slaves(sentinels.name),
            ]
            if len(seen) != 3 or any("down" in str(each["flags"]) for each in seen):
                return False
        return primary.client().info()["role"] == "master" and primary.command("WAIT", 2, 300) == 2

    wait_until(whole, PATIENCE, "a whole group")
    return sentinels


def is_replica(server: RedisServer) -> bool:
    return server.client().info()["role"] == "slave"


def test_primary_dies(group: SentinelGroup, report: Report) -> None:
    """kill -9 of the primary: a replica that has every confirmed fence takes over; the old one comes back read-only.

    wait=2, for there are two replicas, and only what both have is certain to outlive a fail-over: Sentinel goes by what
    it was last told of how far they are. So nothing is confirmed until the old primary is back.
    """
    with Load(group.url + "?wait=2") as load:
        old = group.primary
        old.kill()
        new = group.await_new_primary(old)
        old.start()
        wait_until(lambda: is_replica(old), PATIENCE, "the old primary is a read-only replica")
        assert new.port != old.port
    kept(load)
    fault = "kill -9 of the primary, fail-over, and the old primary back as a read-only replica"
    report(store=STORE, fault=fault, promise=KEPT.format(2), observed=load.observed())


@pytest.mark.slow
def test_primary_hangs(group: SentinelGroup, report: Report) -> None:
    """SIGSTOP of the primary until another has taken over: when it wakes, nobody believes it.

    wait=1, so that the new primary confirms logouts while the old one sleeps. That is enough here, where both replicas
    get all that the primary has sent before it hung.
    """
    with Load(group.url + "?wait=1") as load:
        load.late = BELIEVED
        old = group.primary
        old.suspend()
        try:
            group.await_new_primary(old)
            logouts = load.counts["logouts"]
            load.await_(lambda: load.counts["logouts"] > logouts + 20, "logouts at the new primary")
        finally:
            old.resume()
        wait_until(lambda: is_replica(old), PATIENCE, "the old primary is demoted")
    kept(load)
    fault = "SIGSTOP of the primary, fail-over, SIGCONT"
    promise = f"{KEPT.format(1)}; who has a connection to it believes it for up to 1 s after the Sentinels name another"
    report(store=STORE, fault=fault, promise=promise, observed=load.observed())


def test_primary_is_replaced_by_hand(group: SentinelGroup, report: Report) -> None:
    """SENTINEL FAILOVER: the old primary goes on as a primary for about ten seconds, and what is confirmed is kept."""
    with Load(group.url + "?wait=2") as load:
        old = group.primary
        group.sentinels[0].command("SENTINEL", "FAILOVER", group.name)
        group.await_new_primary(old)
        wait_until(lambda: is_replica(old), PATIENCE, "the old primary is demoted")
    kept(load)
    fault = "SENTINEL FAILOVER, while the old primary lives"
    report(store=STORE, fault=fault, promise=KEPT.format(2), observed=load.observed())


def test_replaced_primary_is_not_believed(group: SentinelGroup, report: Report) -> None:
    """A process with a connection to a primary that has been replaced, and does not know it, asks the new one.

    The old one hangs until the Sentinels have replaced it, and wakes up. It is a primary as before for ten seconds,
    until one of them demotes it; meanwhile it answers, and has not heard of the logout.
    """
    session, options = os.urandom(16), StoreOptions(lifetime_ms=3_600_000)
    with store(group.url) as idle, store(group.url) as other:
        old = group.primary
        old.suspend()
        try:
            group.await_new_primary(old)
            wait_until(lambda: _fenced(other, session), 30, "a logout at the new primary")
        finally:
            old.resume()
        assert list(idle.lookup_now([session])) == [ENDED]
        assert not is_replica(old), "it was demoted before it could be asked, so this shows nothing"
        assert idle.compare_and_raise([(session, 0)], [(session, 1)]) is False
        with contextlib.closing(RedisRevocations.from_url(group.url, options)) as fresh:
            assert list(fresh.lookup_now([session])) == [ENDED]
    report(
        store=STORE,
        fault="SIGSTOP of the primary, fail-over, SIGCONT, and a process that asked nothing meanwhile",
        promise="its first question goes to the new primary, though the old one still takes itself for the primary",
        observed="the session was refused",
    )


def test_follower_leaves_a_replaced_primary(group: SentinelGroup, report: Report) -> None:
    """A process that follows the old primary, which lives on after SENTINEL FAILOVER, goes over to the new one."""
    session = os.urandom(16)
    with store(group.url + "?follow=1") as follower:
        follower.lookup([EVERYTHING])
        wait_until(lambda: time.monotonic() < follower._follower.fresh_until)
        old = group.primary
        group.sentinels[0].command("SENTINEL", "FAILOVER", group.name)
        group.await_new_primary(old)
        time.sleep(BELIEVED)
        with store(group.url) as other:
            wait_until(lambda: _fenced(other, session), 30, "a logout at the new primary")
        begun = time.monotonic()
        wait_until(lambda: list(follower.lookup([session])) == [ENDED], 30, "the follower has heard of it")
        took = time.monotonic() - begun
        assert not is_replica(old), "it was demoted too early, so this shows nothing"
    report(
        store=STORE,
        fault="SENTINEL FAILOVER, while the old primary lives, and a process that follows it",
        promise="it goes over to the new primary within 1 s after the Sentinels name it, and hears of new logouts",
        observed=f"a logout at the new primary was heard of after {took:.2f} s, before the old one was demoted",
    )


def isolate(primary: RedisServer) -> None:
    """No replica hears of the primary's next writes; connections that clients have are not affected."""
    primary.command("CONFIG", "SET", "requirepass", "nobody-knows")
    with primary.client(password="nobody-knows") as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")


def fail_over(group: SentinelGroup, old: RedisServer) -> None:
    old.kill()
    group.await_new_primary(old)


@contextlib.contextmanager
def store(url: str) -> Iterator[RedisRevocations]:
    with contextlib.closing(RedisRevocations.from_url(url, StoreOptions(lifetime_ms=3_600_000))) as one:
        one.lookup_now([EVERYTHING])
        yield one


@pytest.mark.parametrize("wait", [0, 1])
def test_asynchronous_replication(group: SentinelGroup, wait: int, report: Report) -> None:
    """A fence that no replica has yet is lost by a fail-over; with wait=1 its raising was never confirmed."""
    session = os.urandom(16)
    confirmed = True
    with store(f"{group.url}?wait={wait}") as one:
        primary = group.primary
        isolate(primary)
        try:
            one.fence([session], ENDED)
        except StoreUnavailable as error:
            assert "0 of 1 replicas" in str(error)  # noqa: PT017
            confirmed = False
    fail_over(group, primary)
    with contextlib.closing(RedisRevocations.from_url(group.url, StoreOptions(3_600_000))) as fresh:
        number = wait_until(lambda: _try(fresh, [session, EVERYTHING]), 30)[0]
    assert confirmed is (wait == 0)
    assert number == 0
    report(
        store=STORE,
        fault=f"a fail-over between a logout and its replication, wait={wait}",
        promise="the logout raises, for it was not confirmed" if wait else "none: this is what wait=N is for",
        observed="not confirmed (0 of 1 replicas), and gone after the fail-over"
        if wait
        else "the logout was confirmed, and the fence was gone after the fail-over",
    )


def test_followers_heal_what_a_fail_over_lost(group: SentinelGroup, report: Report) -> None:
    """Without wait, a fence that a following process had heard of is raised again at the new primary by it."""
    session = os.urandom(16)
    with store(group.url) as one, store(group.url + "?follow=1") as follower:
        follower.lookup([EVERYTHING])
        wait_until(lambda: time.monotonic() < follower._follower.fresh_until)
        primary = group.primary
        isolate(primary)
        one.fence([session], ENDED)
        wait_until(lambda: list(follower.last_known([session])) == [ENDED])
        fail_over(group, primary)
        with contextlib.closing(RedisRevocations.from_url(group.url, StoreOptions(3_600_000))) as fresh:
            wait_until(lambda: (_try(fresh, [session]) or [0])[0] == ENDED, 30, "the fence is back")
    report(
        store=STORE,
        fault="a fail-over between a logout and its replication, wait=0, while another process follows",
        promise="followers raise again at the new primary what they had heard of in the last minute",
        observed="the fence was gone, and came back",
    )


def _fenced(one: RedisRevocations, session: bytes) -> bool:
    try:
        one.fence([session], ENDED)
    except StoreUnavailable:
        return False
    return True


def _try(one: RedisRevocations, keys: list[bytes]) -> list[int] | None:
    try:
        return list(one.lookup_now(keys))
    except StoreUnavailable:
        return None
