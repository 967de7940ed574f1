"""``follow=1``: a process that keeps the whole set, against real servers and real processes."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import HOUR, Proxy, RedisServer, free_port, is_fresh, key, running, wait_until
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations
from wsgi_rollsession.testing.stores import in_fork

Follow = Callable[..., RedisRevocations]


def threads() -> int:
    return sum(thread.name == "rollsession-follower" for thread in threading.enumerate())


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Opens stores in follow mode that are up to date, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, more: str = "", options: StoreOptions = HOUR, start: bool = True) -> RedisRevocations:
            store = RedisRevocations.from_url(f"{url}?follow=1{more}", options)
            stack.callback(store.close)
            if start:
                store.lookup([EVERYTHING])
                wait_until(lambda: is_fresh(store), what="a follower that is up to date")
            return store

        yield opener


@pytest.fixture
def writer(redis_url: str) -> Iterator[RedisRevocations]:
    """Another process's store, as it were: asked directly, and straight to the server."""
    with contextlib.closing(RedisRevocations.from_url(redis_url, HOUR)) as store:
        yield store


def test_reads_cost_no_command_and_rolls_one(follow: Follow, redis_url: str, redis_server: RedisServer) -> None:
    """By the server's own count: ten thousand loads ask nothing, and each roll asks one MGET.

    The follower itself asks one MGET and one XREAD a turn, which comes when there are news, or after 0.4 s.
    """
    store = follow(redis_url)
    keys = [EVERYTHING, key(), key()]
    store.lookup_now(keys)
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(10_000):
        store.lookup(keys)
    counts = redis_server.commandstats()
    assert counts.get("mget", 0) <= counts.get("xread", 0) + 1 < 20
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(300):
        store.lookup_now(keys)
    counts = redis_server.commandstats()
    assert abs(counts["mget"] - counts.get("xread", 0) - 300) <= 1
    assert not {name for name in counts if name.startswith("eval")}


def test_it_begins_with_everything_that_is_there(follow: Follow, redis_url: str, writer: RedisRevocations) -> None:
    """The log is the set: a new process knows all fences before it answers from its local set."""
    sessions = [key() for _ in range(2_500)]
    for start in range(0, 2_500, 100):
        writer.fence(sessions[start : start + 100], ENDED)
    store = follow(redis_url)
    assert list(store.last_known(sessions)) == [ENDED] * 2_500
    assert list(store.last_known([EVERYTHING])) == list(writer.lookup_now([EVERYTHING]))


def test_it_starts_with_the_first_question(follow: Follow, redis_url: str, redis_server: RedisServer) -> None:
    """Opening a store asks once, keeps no connection and starts no thread; the first load asks the server itself."""
    before = threads()
    session = key()
    store = follow(redis_url, start=False)
    assert threads() == before
    with contextlib.closing(RedisRevocations.from_url(redis_url, HOUR)) as other:
        other.fence([session], ENDED)
    assert list(store.lookup([session])) == [ENDED]
    assert threads() == before + 1


def test_news_arrive_and_are_never_unlearnt(follow: Follow, redis_url: str, writer: RedisRevocations) -> None:
    """Raises by others arrive by themselves, of sessions, tags and everything; numbers only grow."""
    store = follow(redis_url)
    session, tag = key(), key()
    writer.fence([session], 3)
    number = writer.fence_now([tag])
    everything = writer.fence_now([EVERYTHING])
    wait_until(lambda: list(store.lookup([session, tag, EVERYTHING])) == [3, number, everything])
    writer.fence([session], 2)
    writer.compare_and_raise([(session, 3)], [(session, 4)])
    wait_until(lambda: list(store.lookup([session])) == [4])


def test_own_raises_are_seen_at_once(follow: Follow, redis_url: str) -> None:
    """What this process raised, its next load refuses, without waiting for the log to bring it."""
    store = follow(redis_url)
    for _ in range(200):
        session = key()
        store.fence([session], ENDED)
        assert list(store.lookup([session])) == [ENDED]


def test_an_idle_follower_is_idle(follow: Follow, redis_url: str, redis_server: RedisServer) -> None:
    """With nothing to report, a process asks less than four times a second."""
    follow(redis_url)
    redis_server.command("CONFIG", "RESETSTAT")
    begun, cpu = time.monotonic(), time.process_time()
    time.sleep(2)
    assert redis_server.commandstats()["xread"] <= 4 * (time.monotonic() - begun) + 1
    assert time.process_time() - cpu < 1


def test_it_resumes_where_it_was(follow: Follow, redis_url: str, writer: RedisRevocations, proxy: Proxy) -> None:
    """After a cut connection it goes on from its last entry, and misses none of those raised meanwhile."""
    store = follow(proxy.url)
    for _ in range(3):
        proxy.refusing = True
        proxy.cut()
        sessions = [key() for _ in range(50)]
        writer.fence(sessions, ENDED)
        proxy.refusing = False
        wait_until(lambda s=sessions: list(store.last_known(s)) == [ENDED] * 50)
    stream = store._follower._streams[0]
    assert stream.asked_from != b"0"


def test_a_reply_cut_in_the_middle_costs_no_entry(
    follow: Follow, redis_url: str, writer: RedisRevocations, proxy: Proxy
) -> None:
    """A connection that breaks off in the middle of the news is replaced, and the news are read again."""
    store = follow(proxy.url)
    for size in (5, 40, 90):
        proxy.cut_replies_after = size
        session = key()
        writer.fence([session], ENDED)
        wait_until(lambda s=session: list(store.last_known([s])) == [ENDED])


def test_past_max_staleness_it_asks(
    follow: Follow, redis_url: str, writer: RedisRevocations, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """When the server hangs, loads are answered for max_staleness and then ask, which is an outage.

    What the process knows is still the last known; recovery needs no restart; each change is logged once.
    """
    store = follow(proxy.url, "&max_staleness=0.5")
    session, later = key(), key()
    writer.fence([session], ENDED)
    wait_until(lambda: list(store.lookup([session])) == [ENDED])
    stalled_at = time.monotonic()
    proxy.stalled = True
    writer.fence([later], ENDED)
    wait_until(lambda: not is_fresh(store))
    assert time.monotonic() - stalled_at < 0.5 + 2
    with pytest.raises(StoreUnavailable):
        store.lookup([session])
    assert list(store.last_known([session])) == [ENDED]
    wait_until(lambda: "is cut off" in caplog.text)
    proxy.stalled = False
    wait_until(lambda: is_fresh(store))
    assert list(store.last_known([later])) == [ENDED]
    assert caplog.text.count("is cut off") == 1
    wait_until(lambda: caplog.text.count("is back after") == 1)


def test_an_answer_that_was_held_up_proves_nothing_newer(
    follow: Follow, redis_url: str, writer: RedisRevocations, proxy: Proxy
) -> None:
    """Staleness counts from the question: a late answer does not make a local set fresh that lacks what came since."""
    store = follow(proxy.url)
    for _ in range(5):
        proxy.stalled = True
        time.sleep(0.45)  # the answer to an open question is on its way, and held up
        session = key()
        raised_at = time.monotonic()
        writer.fence([session], ENDED)
        time.sleep(0.2)
        proxy.stalled = False
        deadline = raised_at + 1.0
        while time.monotonic() < raised_at + 1.5:
            try:
                number = store.lookup([session])[0]
            except StoreUnavailable:
                continue
            assert number == ENDED or time.monotonic() < deadline
            if number == ENDED:
                break
            time.sleep(0.001)
        wait_until(lambda: is_fresh(store))


def test_a_trimmed_log_is_no_gap(
    follow: Follow, redis_url: str, writer: RedisRevocations, proxy: Proxy, redis_server: RedisServer
) -> None:
    """The log is trimmed by age, so what was trimmed while the process was away has expired; the rest is read."""
    store = follow(proxy.url)
    old = key()
    writer.fence([old], ENDED)
    wait_until(lambda: list(store.last_known([old])) == [ENDED])
    proxy.refusing = True
    proxy.cut()
    time.sleep(0.01)
    with redis_server.client() as client:
        client.xtrim("rollsession:{0}:log", maxlen=0, approximate=False)
    new = [key() for _ in range(10)]
    writer.fence(new, ENDED)
    proxy.refusing = False
    wait_until(lambda: list(store.last_known([old, *new])) == [ENDED] * 11)


def test_flushall_is_noticed_and_nothing_forgotten(
    follow: Follow, redis_url: str, writer: RedisRevocations, redis_server: RedisServer
) -> None:
    """A follower that finds the set empty writes genesis anew, keeps what it knew, and raises what was recent again."""
    store = follow(redis_url)
    session = key()
    writer.fence([session], ENDED)
    wait_until(lambda: list(store.last_known([session])) == [ENDED])
    (before,) = store.last_known([EVERYTHING])
    time.sleep(1.1)
    redis_server.command("FLUSHALL")
    wait_until(lambda: store.lookup([EVERYTHING])[0] > before)
    assert list(store.lookup([session])) == [ENDED]
    with contextlib.closing(RedisRevocations.from_url(redis_url, HOUR)) as fresh:
        assert fresh.lookup_now([EVERYTHING])[0] > before
        wait_until(lambda: list(fresh.lookup_now([session])) == [ENDED])
    after = key()
    writer.fence([after], ENDED)
    wait_until(lambda: list(store.lookup([after])) == [ENDED])


def test_interrupted_healing_goes_on(
    follow: Follow, redis_url: str, writer: RedisRevocations, redis_server: RedisServer, proxy: Proxy
) -> None:
    """A follower that is cut off while it raises lost fences again raises the rest when it is back.

    Many fences; FLUSHALL; the follower finds it and begins to raise them again; after the first the network hangs,
    until that has timed out; then it is back.
    """
    store = follow(proxy.url)
    sessions = [key() for _ in range(2000)]
    writer.fence(sessions, ENDED)
    wait_until(lambda: list(store.last_known(sessions)) == [ENDED] * len(sessions))
    with redis_server.client() as client:
        client.flushall()
        wait_until(lambda: client.exists(b"rollsession:{0}:" + sessions[0]))
        proxy.stalled = True
        healed = client.dbsize()
        time.sleep(1.5)
        proxy.stalled = False
    assert healed < len(sessions)
    with contextlib.closing(RedisRevocations.from_url(redis_url, HOUR)) as fresh:
        wait_until(lambda: list(fresh.lookup_now(sessions)) == [ENDED] * len(sessions))


def test_a_demoted_primary_is_not_followed(
    follow: Follow, redis_server: RedisServer, proxy: Proxy, redis_url: str
) -> None:
    """A primary that became a replica is not called fresh, although its answers go on.

    REPLICAOF arrives while the follower is not blocked in XREAD, which would have told it: the answer to its last
    question is on its way when the server is demoted, and its next question is answered by a replica.
    """
    store = follow(proxy.url)
    try:
        proxy.stalled = True
        time.sleep(0.5)
        redis_server.command("REPLICAOF", "127.0.0.1", 1)
        proxy.stalled = False
        time.sleep(2.0)
        assert not is_fresh(store)
        with pytest.raises(StoreUnavailable):
            store.lookup([EVERYTHING])
    finally:
        redis_server.command("REPLICAOF", "NO", "ONE")
    wait_until(lambda: is_fresh(store), what="it is followed again")


def test_an_entry_that_cannot_be_read(follow: Follow, redis_url: str, redis_server: RedisServer) -> None:
    """While the log holds something that is no fence, loads ask; when it is gone, the process follows again."""
    store = follow(redis_url)
    name = redis_server.command("XADD", "rollsession:{0}:log", "*", "f", "short")
    wait_until(lambda: not is_fresh(store))
    session = key()
    store.fence([session], ENDED)
    assert list(store.lookup([session])) == [ENDED]
    redis_server.command("XDEL", "rollsession:{0}:log", name)
    wait_until(lambda: is_fresh(store))


def test_without_a_thread_loads_ask(follow: Follow, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, loads ask the server, and the process follows as soon as one can."""
    store = follow(redis_url, start=False)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            assert store.lookup([EVERYTHING])[0] > 0
    store.lookup([EVERYTHING])
    wait_until(lambda: is_fresh(store))


def test_a_server_whose_clock_is_behind_the_old_log(follow: Follow, redis_server: RedisServer) -> None:
    """Entry ids that go backwards (an emptied server with an earlier clock) do not hide new entries."""
    with running(RedisServer()) as server:
        with server.client() as client:
            store = follow(server.url)
            log_key = "rollsession:{0}:log"
            ahead = int(time.time() * 1000) + 600_000
            client.xadd(log_key, {"f": key() + b"\xff" * 4}, id=f"{ahead}-0")
            wait_until(lambda: store._follower._streams[0].position == f"{ahead}-0".encode())
            time.sleep(1.1)
            client.flushall()
            session = key()
            with contextlib.closing(RedisRevocations.from_url(server.url, HOUR)) as other:
                other.fence([session], ENDED)
            wait_until(lambda: list(store.last_known([session])) == [ENDED])


@pytest.mark.parametrize("appendonly", ["no", "yes"])
def test_a_restarted_server(follow: Follow, appendonly: str) -> None:
    """A server that comes back, with its data or without, is followed again; what was known stays known."""
    with running(RedisServer(appendonly=appendonly, appendfsync="always")) as server:
        store = follow(server.url)
        session, later = key(), key()
        store.fence([session], ENDED)
        (before,) = store.last_known([EVERYTHING])
        time.sleep(2.1)  # a genesis is odd: those of two seconds may be one number
        server.kill()
        server.start()
        wait_until(lambda: is_fresh(store))
        with contextlib.closing(RedisRevocations.from_url(server.url, HOUR)) as other:
            wait_until(lambda: other.lookup_now([session])[0] == ENDED or other.lookup_now([EVERYTHING])[0] > before)
            other.fence([later], ENDED)
        wait_until(lambda: list(store.last_known([session, later])) == [ENDED, ENDED])
        assert (store.lookup_now([EVERYTHING])[0] > before) is (appendonly == "no")


def test_a_snapshot_older_than_the_last_fences_is_distrusted(follow: Follow) -> None:
    """Restarted from an RDB snapshot, a server has an old genesis and lacks fences: old sessions are refused."""
    with running(RedisServer()) as server:
        writer = RedisRevocations.from_url(server.url, HOUR)
        (before,) = writer.lookup_now([EVERYTHING])
        server.command("SAVE")
        writer.fence([session := key()], ENDED)
        writer.close()
        time.sleep(1.1)
        server.kill()
        server.start()
        with contextlib.closing(RedisRevocations.from_url(server.url, HOUR)) as fresh:
            assert list(fresh.lookup_now([session])) == [0]
            assert fresh.lookup_now([EVERYTHING])[0] > before
        with contextlib.closing(RedisRevocations.from_url(server.url, HOUR)) as again:
            first = again.lookup_now([EVERYTHING])
            assert list(again.lookup_now([EVERYTHING])) == list(first)


def test_each_process_of_a_fork_follows_by_itself(follow: Follow, redis_url: str, writer: RedisRevocations) -> None:
    """After a fork (gunicorn --preload) the child starts a thread of its own with its first load, lazily."""
    store = follow(redis_url)
    begin, session = key(), key()

    def child() -> None:
        wait_until(lambda: list(store.lookup([begin])) == [ENDED], 20)
        wait_until(lambda: store.lookup([begin]) and threads() == 1, 20)  # what the parent knew is fresh for a while
        wait_until(lambda: list(store.last_known([session])) == [ENDED], 20)
        store.close()
        assert threads() == 0

    writer.fence([begin], ENDED)
    timer = threading.Timer(1.5, writer.fence, ([session], ENDED))
    timer.start()
    in_fork(child)
    timer.join()
    wait_until(lambda: list(store.last_known([session])) == [ENDED])


def test_the_thread_ends_with_the_store(redis_url: str, redis_server: RedisServer) -> None:
    """close() ends the thread and its connections, and so does dropping the last reference to the store."""
    before = threads()
    for drop in (lambda store: store.close(), lambda store: None):
        store = RedisRevocations.from_url(redis_url + "?follow=1", HOUR)
        store.lookup([EVERYTHING])
        wait_until(lambda s=store: is_fresh(s))
        drop(store)
        del store
        gc.collect()
        wait_until(lambda: threads() == before)
    with redis_server.client() as client:
        wait_until(lambda: not [c for c in client.client_list() if c["cmd"] in ("xread", "xread|xread")])


def test_status_shows_the_followers(follow: Follow, redis_url: str) -> None:
    """Status, asked from anywhere, shows how far each process that follows is behind."""
    follow(redis_url)
    with contextlib.closing(RedisRevocations.from_url(redis_url, HOUR)) as store:
        followers = wait_until(lambda: store.status()["followers"])
    ((name, report),) = followers.items()
    assert name.endswith(f":{os.getpid()}")
    assert 0 <= report["staleness_ms"] <= 1000
    assert {"delay_ms", "fences", "reported_s_ago"} <= set(report)


APPLICATION = """
import json, os, threading, time
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.fence import EVERYTHING

store = open_store(os.environ["STORE"], StoreOptions(lifetime_ms=3_600_000))

def application(environ, start_response):
    word = bytes.fromhex(environ["PATH_INFO"].strip("/"))
    number = store.lookup([word, EVERYTHING])[0] if word else 0
    answer = {
        "pid": os.getpid(),
        "number": number,
        "fresh": time.monotonic() < store._follower.fresh_until,
        "threads": sum(thread.name == "rollsession-follower" for thread in threading.enumerate()),
    }
    time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


def test_who_comes_while_the_thread_starts_does_not_wait(
    follow: Follow, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start a thread gives way to other greenlets of the same thread: one that waited would wait for ever."""
    store = follow(redis_url, start=False)
    start, answers = threading.Thread.start, []

    def start_and_give_way(thread: threading.Thread) -> None:
        if thread.name == "rollsession-follower":
            answers.extend(store.lookup([EVERYTHING]))
        start(thread)

    def ask() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_and_give_way)
            store.lookup([EVERYTHING])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive()
    assert len(answers) == 1
    wait_until(lambda: is_fresh(store), what="a follower that is up to date")
    assert threads() == 1


def test_who_was_about_to_start_the_thread_finds_it_started(follow: Follow, redis_url: str) -> None:
    """Another thread has done it between the look whether it runs and the claim: there is one all the same."""
    store = follow(redis_url, start=False)
    follower = store._follower
    assert follower is not None

    class Late(dict[int, object]):
        def setdefault(self, pid: int, claim: object) -> object:  # type: ignore[override]
            follower._starting = {}
            follower.start()
            follower._starting = self
            return super().setdefault(pid, claim)

    follower._starting = Late()
    follower.start()
    wait_until(lambda: is_fresh(store), what="a follower that is up to date")
    assert threads() == 1


@pytest.mark.parametrize(
    "options",
    [
        ["-k", "gthread", "--threads", "4"],
        ["-k", "gthread", "--threads", "4", "--preload"],
        # Two connections at once: a worker without that limit may accept all that there are.
        ["-k", "gevent", "--worker-connections", "2"],
        ["-k", "gevent", "--worker-connections", "2", "--preload"],
        ["-k", "sync", "--preload"],
    ],
    ids=" ".join,
)
def test_under_gunicorn(
    redis_url: str, redis_server: RedisServer, writer: RedisRevocations, tmp_path: Path, options: list[str]
) -> None:
    """Every worker follows, in one thread; a reload leaves no thread and no connection behind; all end with it."""
    (tmp_path / "application.py").write_text(APPLICATION)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "--graceful-timeout", "2"]
    with (tmp_path / "log").open("wb") as log_file:
        process = subprocess.Popen(
            [*command, *options, "application:application"],
            cwd=tmp_path,
            env={**os.environ, "STORE": redis_url + "?follow=1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=log_file,
        )

    def ask(word: bytes = b"") -> dict[str, int]:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{word.hex()}", timeout=5) as reply:
                return dict(json.load(reply))
        return {}

    def both_follow(not_these: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
        found: dict[int, dict[str, int]] = {}

        def seen() -> bool:
            with ThreadPoolExecutor(8) as pool:  # one at a time might all go to the same worker
                for answer in pool.map(ask, [key() for _ in range(8)]):
                    if answer and answer["fresh"] and answer["pid"] not in not_these:
                        found[answer["pid"]] = answer
            return len(found) == 2

        wait_until(seen, 30, "both workers follow")
        assert [answer["threads"] for answer in found.values()] == [1, 1]
        return set(found)

    def following() -> int:
        with redis_server.client() as client:
            return sum(c["cmd"].startswith("xread") for c in client.client_list())

    try:
        workers = both_follow()
        session = key()
        writer.fence([session], ENDED)
        wait_until(lambda: all(ask(session).get("number") == ENDED for _ in range(10)))
        process.send_signal(signal.SIGHUP)
        both_follow(not_these=workers)
        wait_until(lambda: following() == 2, 30, "the old workers' connections are gone")
    finally:
        process.terminate()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 0
    wait_until(lambda: following() == 0, 20)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Exception" not in log
