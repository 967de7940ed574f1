"""Every row of "What to alert on" in docs/operating-redis.md is fired here, by what it is there for."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_redis_standalone import server_with_clock
from tests.servers import Opener, Proxy, RedisServer, answers, free_port, key, running, wait_until
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating-redis.md"

#: The first cell of a row, and the tests that fire it.
FIRED: dict[str, list[str]] = {}


def fires(row: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Notes which row a test is about."""

    def note(test: Callable[..., None]) -> Callable[..., None]:
        FIRED.setdefault(row, []).append(test.__name__)
        return test

    return note


def rows() -> dict[str, str]:
    """The table: what to look at, and when to alert."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("## What to alert on")[2].partition("\n## ")[0]
    lines = [re.split(r" *\| *", line)[1:3] for line in text.splitlines() if line.startswith("| ")]
    return dict(lines[1:])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running(RedisServer()) as one:
        yield one


def lines(caplog: pytest.LogCaptureFixture, pattern: str, level: int = logging.ERROR) -> list[str]:
    """The lines at *level* that match *pattern*, in which … stands for anything."""
    expression = ".*".join(re.escape(part) for part in pattern.split("…"))
    found = [record.getMessage() for record in caplog.records if record.levelno == level]
    return [line for line in found if re.search(expression, line)]


def test_every_row_is_fired() -> None:
    """The rows of the table are those that the tests below fire."""
    assert set(rows()) == set(FIRED)


@fires("log: `revocation store … is unavailable`")
def test_unavailable(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server that is gone is one line at ERROR, and one at WARNING when it is back."""
    store = opened(server.url)
    server.kill()
    for _ in range(3):
        assert not answers(store)
    assert len(lines(caplog, "revocation store … is unavailable")) == 1
    server.start()
    wait_until(lambda: answers(store))
    assert len(lines(caplog, "revocation store … is available again", logging.WARNING)) == 1


@fires("log: `revocation store … is unavailable`")
def test_refused_questions(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A question that the server refuses, because the user may not ask it, is an outage and is logged as one."""
    store = opened(server.url)
    server.command("ACL", "SETUSER", "default", "-mget")
    for _ in range(3):
        assert not answers(store)
    assert len(lines(caplog, "revocation store … is unavailable")) == 1


@fires("log: `revocation store … cannot be used`")
def test_cannot_be_used(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong address is said when the process starts."""
    opened(f"redis://127.0.0.1:{free_port()}")
    assert len(lines(caplog, "revocation store … cannot be used")) == 1


@fires("log: `(writing) is unavailable`")
def test_writing(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server that answers questions and refuses logouts is one line of its own."""
    store = opened(server.url)
    server.command("CONFIG", "SET", "maxmemory", "1")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.fence([key()], ENDED)
        assert answers(store)
    assert len(lines(caplog, "(writing) is unavailable")) == 1


LOSS = "log: `sessions created before now are`"


@fires(LOSS)
@pytest.mark.parametrize("accept", [False, True])
def test_lost(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture, accept: bool) -> None:
    """FLUSHALL is said once, also where the loss is accepted."""
    store = opened(server.url, StoreOptions(3_600_000, accept_amnesia=accept))
    caplog.clear()
    server.command("FLUSHALL")
    for _ in range(3):
        answers(store)
    what = "accepted nevertheless" if accept else "refused"
    assert len(lines(caplog, f"has lost data: sessions created before now are {what}")) == 1


@fires(LOSS)
def test_restarted(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """A restart that may have lost the last fences is said once."""
    with running(RedisServer(appendonly="yes", appendfsync="everysec")) as server:
        store = opened(server.url)
        with server.client() as client:  # or everything is lost, while the disk is busy
            wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        server.kill()
        server.start()
        wait_until(lambda: answers(store))
        answers(store)
        assert len(lines(caplog, "was restarted without … sessions created before now are refused")) == 1


@fires(LOSS)
def test_evicted(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that were evicted, under a policy that is gone again, are said once."""
    store = opened(server.url)
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        for number in range(50):
            client.set(number, "x" * 10_000)
        client.config_set("maxmemory", client.info()["used_memory"] - 200_000)
        client.set("x", "y")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 0)
        evicted = client.info()["evicted_keys"]
    time.sleep(1.1)
    for _ in range(3):
        answers(store)
    said = lines(caplog, "has evicted … sessions created before now are refused")
    assert evicted
    assert len(said) == 1 or lines(caplog, "has lost data")  # if what tells it was evicted, too


@fires(LOSS)
def test_clock_stepped(opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server's clock that steps forward far is said once."""
    with running(server_with_clock(tmp_path / "clock")) as server:
        store = opened(server.url)
        caplog.clear()
        (tmp_path / "clock").write_text("+7200")
        time.sleep(1.1)
        for _ in range(3):
            answers(store)
        assert len(lines(caplog, "the clock of … stepped … sessions created before now are refused")) == 1


@fires("log: `this host's clock stepped back`")
def test_this_host_stepped_back(
    opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's own clock that goes back is said: it accepts sessions for so much longer."""
    store = opened(server.url)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 300)
    time.sleep(1.1)
    for _ in range(3):
        answers(store)
    assert len(lines(caplog, "this host's clock stepped back")) == 1


@fires("log: `drops fences`")
def test_drops_fences(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """eviction=accept is said once by each process, where the server does evict."""
    with running(RedisServer(maxmemory="100mb", maxmemory_policy="allkeys-lru")) as server:
        store = opened(server.url + "?eviction=accept")
        answers(store)
        assert len(lines(caplog, "drops fences")) == 1


@fires("log: `does not permit`")
def test_does_not_permit(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """What the user may not ask is said once by each process."""
    with running(RedisServer(user="default on nopass ~* &* +@all -info -role")) as server:
        store = opened(server.url)
        for _ in range(3):
            assert answers(store)
        assert len(lines(caplog, "does not permit", logging.WARNING)) == 2


@fires("log: `follower … is cut off`")
def test_follower(opened: Opener, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A follower that is cut off says so once, and when it is back."""
    with running(Proxy(server.port)) as proxy:
        store = opened(proxy.url + "?follow=1")
        store.lookup([EVERYTHING])
        wait_until(lambda: time.monotonic() < store._follower.fresh_until)
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: lines(caplog, "follower … is cut off", logging.WARNING))
        proxy.refusing = False
        wait_until(lambda: lines(caplog, "is back after", logging.WARNING))
        assert len(lines(caplog, "follower … is cut off", logging.WARNING)) == 1


@pytest.fixture
def status(opened: Opener, server: RedisServer) -> Callable[[], dict[str, Any]]:
    """What a process that has just been opened says of the server."""
    return lambda: opened(server.url).status()


@fires("`genesis`")
def test_genesis(status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """It moves when data are lost."""
    before = status()["genesis"]
    time.sleep(2.1)
    server.command("FLUSHALL")
    assert status()["genesis"] > before


@fires("`followers`: `staleness_ms`, `delay_ms`, `reported_s_ago`")
def test_followers(opened: Opener, status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """A process that follows is listed, with figures; one that is cut off reports no more."""
    with running(Proxy(server.port)) as proxy:
        store = opened(proxy.url + "?follow=1")
        assert not status()["followers"]
        store.lookup([EVERYTHING])
        (report,) = wait_until(lambda: status()["followers"]).values()
        assert {"staleness_ms", "delay_ms", "reported_s_ago"} <= set(report)
        assert report["staleness_ms"] < 500
        proxy.stalled = True
        wait_until(lambda: next(iter(status()["followers"].values()))["reported_s_ago"] > 6)


@fires("`maxmemory_policy`, `evicted_keys`")
def test_policy(opened: Opener) -> None:
    """A policy that evicts, and that it has, are shown where they are accepted."""
    with running(RedisServer(maxmemory_policy="allkeys-random")) as server:
        with server.client() as client:
            for number in range(50):
                client.set(number, "x" * 10_000)
            client.config_set("maxmemory", client.info()["used_memory"] - 200_000)
            client.set("x", "y")
            client.config_set("maxmemory", "100mb")
        status = opened(server.url + "?eviction=accept").status()
    assert status["maxmemory_policy"] != "noeviction"
    assert status["evicted_keys"] > 0


@fires("`used_memory`, `maxmemory`")
def test_memory(status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """How full the server is can be seen before it is."""
    with server.client() as client:
        client.config_set("maxmemory", int(client.info()["used_memory"] * 1.2))
    found = status()
    assert found["used_memory"] > 0.8 * found["maxmemory"] > 0


@fires("`fences`, `stream_length`")
def test_fences(opened: Opener, status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """A loop that revokes is seen, also if it revokes the same."""
    before = status()
    store, tag = opened(server.url), key()
    for _ in range(50):
        store.fence([tag], 5)
    after = status()
    assert after["fences"] - before["fences"] == after["stream_length"] - before["stream_length"] == 50


@fires("`replicas`")
def test_replicas(status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """A replica is listed, until it is gone."""
    assert status()["replicas"] == []
    with running(RedisServer(replicaof=f"127.0.0.1 {server.port}")):
        wait_until(lambda: len(status()["replicas"]) == 1)
    wait_until(lambda: status()["replicas"] == [])


@fires("`persistence`")
def test_persistence(opened: Opener, status: Callable[[], dict[str, Any]], server: RedisServer) -> None:
    """Whether there is an append-only file, and whether the last save failed, is shown."""
    assert status()["persistence"]["aof_enabled"] == 0
    server.command("CONFIG", "SET", "appendonly", "yes")
    assert status()["persistence"]["aof_enabled"] == 1
    server.folder.joinpath("dump.rdb").mkdir()
    server.command("BGSAVE", "SCHEDULE")
    wait_until(lambda: status()["persistence"]["rdb_last_bgsave_status"] == "err")


@fires("`clock_ahead_ms`")
def test_clock_ahead(opened: Opener, tmp_path: Path) -> None:
    """How far the server's clock is from this host's is shown."""
    with running(server_with_clock(tmp_path / "clock")) as server:
        assert abs(opened(server.url).status()["clock_ahead_ms"]) < 2000
        (tmp_path / "clock").write_text("+30")
        assert opened(server.url).status()["clock_ahead_ms"] > 28_000
