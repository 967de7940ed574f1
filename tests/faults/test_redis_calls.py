"""How long a call takes and how many connections a process holds, whatever the server or the network does."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.test_redis_standalone import CALL, STORE
from tests.servers import Opener, Proxy, RedisServer, free_port, key, running
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation.breaker import Breaker
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import node, shard
from wsgi_rollsession.revocation.redis.wire import KEEPALIVE

#: Seconds that a busy machine may add to a call.
BUSY = 0.75

Report = Callable[..., None]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running(RedisServer()) as one:
        yield one


def seconds(function: Callable[[], object]) -> float:
    """How long *function* takes, which may find the store unavailable."""
    begun = time.monotonic()
    with contextlib.suppress(StoreUnavailable):
        function()
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("drip", "delay"),
    [(0.2, 0.0), (0.01, 0.0), (0.0, 0.225), (0.0, 0.12)],
    ids=["drips", "trickles", "450 ms", "240 ms"],
)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_one_deadline(
    server: RedisServer, opened: Opener, drip: float, delay: float, connected: bool, report: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A call ends within its time, however slowly the bytes of its replies come, and however many replies it needs."""
    # As if a second passed between the calls: each is tried, whatever became of the last, and asks who answers.
    monkeypatch.setattr(Breaker.__init__, "__defaults__", (0.0,))
    monkeypatch.setattr(shard, "PULSE", 0.0)
    with running(Proxy(server.port)) as proxy:
        store = opened(proxy.url)
        if connected:
            store.fence([key()], ENDED)
        proxy.drip, proxy.delay = drip, delay
        took = []
        for call in (
            lambda: store.lookup_now([EVERYTHING, key()]),
            lambda: store.fence([key()], ENDED),
            lambda: store.compare_and_raise([(key(), 0)], [(key(), 1)]),
            lambda: opened(proxy.url),
        ):
            took.append(seconds(call))
    assert max(took) < CALL + BUSY
    slow = f"a byte every {drip} s" if drip else f"a round trip of {2 * delay:.2f} s"
    report(
        store=STORE,
        fault=f"{slow}, {'on an open connection' if connected else 'while connecting'}",
        promise=f"a call ends within {CALL} s (a busy machine may add {BUSY} s)",
        observed=f"the longest of {len(took)} took {max(took):.2f} s",
    )


def test_connections_that_were_forgotten(server: RedisServer, opened: Opener, report: Report) -> None:
    """A connection that a firewall forgot costs a logout some of its time, and does not make it fail."""
    with running(Proxy(server.port)) as proxy:
        store = opened(proxy.url)
        failed, took = 0, []
        for _ in range(3):
            for call in (
                lambda: store.fence([key()], ENDED),
                lambda: store.lookup_now([EVERYTHING, key()]),
                lambda: store.compare_and_raise([(key(), 0)], [(key(), 1)]),
            ):
                store.fence([key()], ENDED)
                time.sleep(1.2)
                proxy.forget()
                begun = time.monotonic()
                try:
                    call()
                except StoreUnavailable:
                    failed += 1
                took.append(time.monotonic() - begun)
    assert failed == 0
    assert max(took) < CALL + BUSY
    report(
        store=STORE,
        fault="connections that a firewall has forgotten",
        promise=f"one more try on a new connection, within the {CALL} s of the call",
        observed=f"0 of {len(took)} calls failed, the longest took {max(took):.2f} s",
    )


def test_keepalive_is_set(server: RedisServer, opened: Opener) -> None:
    """Idle connections are tried by the kernel, so that a firewall does not forget them."""
    store = opened(server.url)
    store.lookup_now([EVERYTHING])
    (channel,) = store._shards.link._idle  # type: ignore[attr-defined]
    assert channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for name, value in KEEPALIVE.items():
        assert channel.socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def _together(threads: int, work: Callable[[], object]) -> None:
    barrier = threading.Barrier(threads)

    def run() -> None:
        barrier.wait()
        work()

    started = [threading.Thread(target=run) for _ in range(threads)]
    for each in started:
        each.start()
    for each in started:
        each.join(60)


def test_idle_connections_are_closed(opened: Opener, monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    """What two hundred threads needed once is closed when nobody has used it for a while."""
    with running(RedisServer()) as server, running(Proxy(server.port)) as proxy:
        store = opened(proxy.url)
        proxy.delay = 0.005

        def ask() -> None:
            with contextlib.suppress(StoreUnavailable):
                store.lookup_now([EVERYTHING])

        _together(200, ask)
        many = _clients(server)
        proxy.delay = 0.0
        monkeypatch.setattr(node, "IDLE", 0.5)
        time.sleep(1.1)  # for the breaker, if that was too much for this machine
        for _ in range(3):
            store.lookup_now([EVERYTHING])
            time.sleep(0.1)
        few = _clients(server)
    assert 10 < many <= 50
    assert few <= 2
    report(
        store=STORE,
        fault="200 threads ask at once",
        promise="at most max_connections=50; idle ones are closed after 30 s, with the next question",
        observed=f"{many} connections, and {few} after that time",
    )


def _clients(server: RedisServer) -> int:
    with server.client() as client:
        return len(client.client_list()) - 1


@pytest.mark.parametrize("follow", ["", "&follow=1"])
def test_more_threads_than_connections(opened: Opener, follow: str, report: Report) -> None:
    """Threads wait for a connection, within the time of their call, where the server allows fewer than there are."""
    with running(RedisServer(maxclients=20)) as server:
        store = opened(f"{server.url}?max_connections=15{follow}")
        failed = []

        def work() -> None:
            for _ in range(20):
                try:
                    store.lookup_now([EVERYTHING, key()])
                    store.fence([key()], ENDED)
                except StoreUnavailable as error:
                    failed.append(error)

        _together(40, work)
    assert not failed
    report(
        store=STORE,
        fault=f"40 threads, a server that allows 20 connections, max_connections=15{follow}",
        promise="threads wait for each other's connections",
        observed="0 of 1600 calls failed",
    )


def test_waiting_for_a_connection_ends(opened: Opener, server: RedisServer) -> None:
    """Who gets no connection in the time of a call fails by then, and is told which option it is about."""
    with running(Proxy(server.port)) as proxy:
        store = opened(proxy.url + "?max_connections=1")
        store.lookup_now([EVERYTHING])
        proxy.stalled = True
        errors: list[str] = []
        took: list[float] = []

        def ask() -> None:
            begun = time.monotonic()
            try:
                store.lookup_now([EVERYTHING])
            except StoreUnavailable as error:
                errors.append(str(error))
            took.append(time.monotonic() - begun)

        _together(8, ask)
        proxy.stalled = False
    assert len(errors) == 8
    assert max(took) < CALL + BUSY


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{port}", "redis+sentinel://127.0.0.1:{port}/x", "redis+cluster://127.0.0.1:{port}"]
)
def test_a_wrong_host_is_said_at_start(opened: Opener, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A store is asked once when it is opened; that it cannot be is said at ERROR then, and not by the first logout."""
    took = seconds(lambda: opened(url.format(port=free_port())))
    lines = [record for record in caplog.records if "cannot be used" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR]
    assert took < CALL + BUSY


def test_a_host_that_does_not_answer_is_said_at_start(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """A host that swallows connections holds the start for the time of one call."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        took = seconds(lambda: opened(f"redis://127.0.0.1:{listener.getsockname()[1]}"))
    assert "cannot be used" in caplog.text
    assert took < CALL + BUSY


def test_nothing_is_kept_from_the_start(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """After asking at the start, no connection is open: a process that is forked from this one would share it."""
    with running(RedisServer()) as server:
        for follow in ("", "?follow=1"):
            opened(server.url + follow)
            assert _clients(server) == 0
        caplog.clear()
        opened(server.url)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
