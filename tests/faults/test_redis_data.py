"""Is it still the same data? One Redis server that loads, loses, evicts, or is another one than it seems."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser import call
from tests.faults.load import new_worker
from tests.faults.test_redis_standalone import KEPT, NOTICED, STORE, asked, server_with_clock
from tests.servers import HOUR, Opener, Proxy, RedisServer, key, running, wait_until
from wsgi_rollsession import RollSession, Session
from wsgi_rollsession.errors import SessionConflict, StoreUnavailable
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations

Report = Callable[..., None]


def errors(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """The lines at ERROR with *text* in them."""
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    return [line for line in lines if text in line]


ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
#: Loading takes a while: so many microseconds for each command. Clients are answered after every 1024 of them.
SLOW = {**ALWAYS, "key_load_delay": 100}


def test_asked_while_it_loads(opened: Opener, report: Report, caplog: pytest.LogCaptureFixture) -> None:
    """A server that loads its append-only file is an outage; when it is up, nobody is logged out, and none is told so.

    While it loads, its INFO says ``aof_enabled:0``.
    """
    with running(RedisServer(**SLOW)) as server:
        one, follower = opened(server.url), opened(server.url + "?follow=1")
        sessions = [key() for _ in range(6000)]
        for start in range(0, 6000, 100):
            one.fence(sessions[start : start + 100], ENDED)
        (genesis,) = one.lookup_now([EVERYTHING])
        follower.lookup([EVERYTHING])
        caplog.clear()
        server.kill()
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                asked(one, [EVERYTHING])
                with contextlib.closing(RedisRevocations.from_url(server.url, HOUR)) as new:
                    asked(new, [EVERYTHING])
                time.sleep(0.02)

        asking = threading.Thread(target=ask)
        asking.start()
        server.start()
        stop.set()
        asking.join(20)
        loading = caplog.text.count("it is loading")
        assert loading, "it was never asked while it loaded, so this shows nothing"
        assert wait_until(lambda: asked(one, [EVERYTHING, *sessions])) == [genesis] + [ENDED] * len(sessions)
        wait_until(lambda: asked(follower, [EVERYTHING]))
        assert list(follower.last_known([EVERYTHING])) == [genesis]
    assert not errors(caplog, "sessions created before")
    report(
        store=STORE,
        fault="asked while it loads its append-only file (appendfsync always)",
        promise=KEPT,
        observed="an outage until it had loaded; nobody was logged out",
    )


@pytest.mark.slow
def test_twenty_restarts_under_eight_followers(opened: Opener, report: Report) -> None:
    """With appendfsync always, twenty restarts in a row log nobody out, whenever eight followers ask."""
    with running(RedisServer(**SLOW)) as server:
        followers = [opened(server.url + "?follow=1") for _ in range(8)]
        sessions = [key() for _ in range(3000)]
        for start in range(0, 3000, 100):
            followers[0].fence(sessions[start : start + 100], ENDED)
        (genesis,) = followers[0].lookup_now([EVERYTHING])
        stop = threading.Event()

        def ask(store: RedisRevocations) -> None:
            while not stop.is_set():
                with contextlib.suppress(StoreUnavailable):
                    store.lookup([EVERYTHING, key()])
                    store.lookup_now([EVERYTHING, key()])
                time.sleep(0.005)

        threads = [threading.Thread(target=ask, args=(store,)) for store in followers]
        for thread in threads:
            thread.start()
        kept = 0
        try:
            for number in range(20):
                time.sleep(0.2 + 0.05 * number)
                server.kill()
                server.start()
                wait_until(lambda: all(asked(store, [EVERYTHING]) for store in followers))
                kept += all(asked(store, [EVERYTHING, *sessions]) == [genesis] + [ENDED] * 3000 for store in followers)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        assert kept == 20
    report(
        store=STORE,
        fault="20 times kill -9 and restart, appendfsync always, eight processes that follow",
        promise=KEPT,
        observed=f"after {kept} of 20 restarts all fences were there and nobody was logged out",
    )


@pytest.mark.parametrize("follow", ["", "?follow=1"])
def test_lost_and_refuses_writes(follow: str, report: Report, caplog: pytest.LogCaptureFixture) -> None:
    """Redis that lost its data and takes no writes (OOM): with degrade, what was logged out stays so, and it is said.

    The process that is shown the cookies has not heard of the logouts, and knows them by nothing but the genesis, which
    it applies although it cannot be written.
    """
    with running(RedisServer()) as server:
        workers = [new_worker(server.url + follow, outage="degrade") for _ in range(2)]
        one, other = workers
        with contextlib.closing(one), contextlib.closing(other):
            cookies = [_log_in(one, number) for number in range(20)]
            assert [call(other, _who, each).result for each in cookies] == list(range(20))
            time.sleep(1.1)
            with server.client() as client:
                client.config_set("maxmemory", 1)
                client.flushall()
            wait_until(lambda: call(other, _who, cookies[0]).result is None)
            assert len(errors(caplog, "has lost data")) <= 2  # each process once
            accepted = [call(other, _who, each).result for each in cookies]
            assert accepted == [None] * 20
            assert wait_until(lambda: errors(caplog, "is unavailable"))
            server.command("CONFIG", "SET", "maxmemory", "0")
            wait_until(lambda: _serves(other))
            assert [call(other, _who, each).result for each in cookies] == [None] * 20
    report(
        store=STORE,
        fault=f'FLUSHALL while it refuses writes (OOM), with outage="degrade"{" and follow=1" if follow else ""}',
        promise=NOTICED,
        observed="0 of 20 sessions accepted, and one line at ERROR for the loss, one for the outage",
    )


def _log_in(worker: RollSession, number: int) -> str:
    """Logs somebody in. Returns the cookies."""

    def handler(session: Session) -> None:
        session.regenerate(tags=[f"user:{number}"])
        session["user"] = number

    answer = call(worker, handler, "")
    return "; ".join(f"{name}={value}" for name, value in answer.sent().items() if value)


def _serves(worker: RollSession) -> bool:
    with contextlib.suppress(SessionConflict):  # everything was refused while it logged in
        return bool(call(worker, _who, _log_in(worker, 100)).result == 100)
    return False


def _who(session: Session) -> Any:
    return session.get("user")


@pytest.mark.parametrize("follow", ["", "?follow=1"])
def test_eviction_is_switched_on(opened: Opener, follow: str, report: Report, caplog: pytest.LogCaptureFixture) -> None:
    """A policy that evicts, switched on under open connections, is an outage within about a second; and what it has
    evicted by then is a loss when the server may be asked again."""
    with running(RedisServer()) as server:
        store = opened(server.url + follow)
        sessions = [[key() for _ in range(100)] for _ in range(60)]
        for batch in sessions:
            store.fence(batch, ENDED)
        (before,) = store.lookup([EVERYTHING])
        caplog.clear()
        with server.client() as client:
            client.config_set("maxmemory-policy", "volatile-random")
            client.config_set("maxmemory", client.info()["used_memory"] - 300_000)
            begun = time.monotonic()
            wait_until(lambda: not _loads(store), what="it is noticed")
            took = time.monotonic() - begun
            client.set("x", "y")
            evicted = client.info()["evicted_keys"]
            assert evicted
            wait_until(lambda: errors(caplog, "must be noeviction"))
            time.sleep(2.1)
            client.config_set("maxmemory", 0)
            wait_until(lambda: asked(store, [EVERYTHING]))
        assert store.lookup_now([EVERYTHING])[0] > before
        assert opened(server.url).lookup_now([EVERYTHING])[0] > before
        assert len(errors(caplog, "has evicted")) == 1
    assert took < 1.0 + 1.0 + 1.0  # a pulse, what a follower may be late, and a busy machine
    report(
        store=STORE,
        fault=f"an eviction policy switched on under open connections, memory full{', follow=1' if follow else ''}",
        promise="an outage within 1 s (with follow=1, and max_staleness); afterwards, a loss that is noticed",
        observed=f"an outage after {took:.1f} s; {evicted} keys were evicted, and all sessions refused",
    )


def _loads(store: RedisRevocations) -> bool:
    try:
        return bool(store.lookup([EVERYTHING]))
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("follow", ["", "?follow=1"])
def test_a_proxy_keeps_connections_over_a_restart(
    opened: Opener, follow: str, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a proxy that keeps its clients' connections, a restart from a snapshot is recognised within a second."""
    with running(RedisServer()) as server, running(Proxy(server.port, keeps=True)) as proxy:
        store, writer = opened(proxy.url + follow), opened(server.url)
        (before,) = store.lookup([EVERYTHING])
        time.sleep(2.1)
        server.command("SAVE")
        writer.fence([session := key()], ENDED)
        wait_until(lambda: _loads(store))
        connections = proxy.connections
        caplog.clear()
        server.kill()
        server.start()
        begun = time.monotonic()
        wait_until(lambda: (asked(store, [EVERYTHING]) or [0])[0] > before)
        took = time.monotonic() - begun
        fresh = opened(server.url)
        assert list(fresh.lookup_now([session])) == [0]
        assert fresh.lookup_now([EVERYTHING])[0] > before
        assert len(errors(caplog, "was restarted without")) == 1
        assert follow or proxy.connections == connections, "it was connected to again, so this shows nothing"
    report(
        store=STORE,
        fault=f"restart from a snapshot, behind a proxy that keeps connections{', follow=1' if follow else ''}",
        promise=NOTICED + ", within 1 s",
        observed=f"recognised after {took:.1f} s; the session whose fence the snapshot lacks was refused",
    )


def test_a_restart_with_a_wrong_clock(opened: Opener, report: Report, tmp_path: Path) -> None:
    """Redis booted with its clock two minutes behind, which is then set: its uptime is no proof of anything."""
    clock = tmp_path / "clock"
    with running(server_with_clock(clock)) as server:
        store = opened(server.url)
        (before,) = store.lookup_now([EVERYTHING])
        server.command("SAVE")
        store.fence([key()], ENDED)
        server.kill()
        clock.write_text("-120")
        server.start()
        clock.write_text("+0")
        wait_until(lambda: server.client().info()["uptime_in_seconds"] > 100)
        assert opened(server.url).lookup_now([EVERYTHING])[0] > before
        assert wait_until(lambda: asked(store, [EVERYTHING]))[0] > before
        program = server.program
    report(
        store=STORE,
        fault="restart from a snapshot with its clock 120 s behind, which is then set",
        promise=NOTICED,
        observed="recognised by its run id",
        program=program,
    )


@pytest.mark.parametrize("how", ["FLUSHALL", "restart empty", "restart, everysec", "restart, always"])
def test_one_line_for_each_loss(opened: Opener, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process says once, at ERROR, that sessions are refused; after a restart that is trusted, it says nothing."""
    persistence = {"restart, everysec": {"appendonly": "yes"}, "restart, always": ALWAYS}.get(how, {})
    with running(RedisServer(**persistence)) as server:
        store = opened(server.url + "?follow=1")
        store.lookup([EVERYTHING])
        store.fence([key()], ENDED)
        caplog.clear()
        if how == "FLUSHALL":
            server.command("FLUSHALL")
        else:
            server.kill()
            server.start()
        for _ in range(30):
            asked(store, [EVERYTHING])
            with contextlib.suppress(StoreUnavailable):
                store.fence([key()], ENDED)
            time.sleep(0.1)
    assert len(errors(caplog, "sessions created before")) == (how != "restart, always")


def test_a_raise_that_finds_no_data_says_so(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """Where a logout is the first to find the set empty, its script writes genesis: one line at ERROR, one genesis."""
    with running(RedisServer()) as server:
        store = opened(server.url)
        store.lookup_now([EVERYTHING])
        caplog.clear()
        server.command("FLUSHALL")
        store.fence([session := key()], ENDED)
        (genesis,) = opened(server.url).lookup_now([EVERYTHING])
        time.sleep(1.1)
        assert list(store.lookup_now([EVERYTHING, session])) == [genesis, ENDED]
        assert len(errors(caplog, "has lost data")) == 1


def test_a_first_start_says_so(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """A new store and one that was lost while no process ran look alike, so the first process says it at ERROR."""
    with running(RedisServer()) as server:
        opened(server.url)
        opened(server.url)
        assert len(errors(caplog, "it is new, or has lost data: sessions created before now are refused")) == 1
