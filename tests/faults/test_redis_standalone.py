"""One Redis server, broken in every way that one server can break, under load."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.faults.load import BOUND, BUSY, Load, kept
from tests.servers import Proxy, RedisServer, redis_servers, running, wait_until
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import Revocations, StoreOptions, open_store
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis.address import CALL_TIMEOUT

STORE = "Redis, one server"
KEPT = "no confirmed logout is forgotten; nobody else is logged out"
NOTICED = "the loss is noticed: every session from before it is refused"
#: Seconds after which a call fails, whatever the server does.
CALL = CALL_TIMEOUT

Report = Callable[..., None]


@pytest.fixture(params=["aof", "everysec", "rdb", "none"])
def persistence(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, with an append-only file."""
    with running(RedisServer(appendonly="yes", appendfsync="everysec")) as one:
        yield one


def noticed(load: Load) -> None:
    assert load.counts["kept"] == 0
    assert load.longest < BOUND


def test_killed_and_restarted(persistence: str, report: Report) -> None:
    """kill -9 and restart: with appendfsync always nothing is lost; without, the loss, or that it may be, is noticed.

    ``everysec`` has Redis answer before it writes while its disk is busy (the next test).
    """
    options = {
        "aof": {"appendonly": "yes", "appendfsync": "always"},
        "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
        "rdb": {"save": '"3600 1"'},
        "none": {},
    }[persistence]
    with running(RedisServer(**options)) as server:
        with Load(server.url) as load:
            if persistence == "rdb":
                server.command("SAVE")
                logouts = load.counts["logouts"]
                load.await_(lambda: load.counts["logouts"] > logouts + 20, "logouts after the snapshot")
            server.kill()
            time.sleep(0.5)
            server.start()
    if persistence == "aof":
        kept(load)
    else:
        noticed(load)
    with_what = {
        "aof": "with an append-only file, appendfsync always",
        "everysec": "with an append-only file, appendfsync everysec",
        "rdb": "with an RDB snapshot that lacks the last logouts",
        "none": "without persistence",
    }[persistence]
    promise = KEPT if persistence == "aof" else NOTICED
    report(store=STORE, fault=f"kill -9 and restart {with_what}", promise=promise, observed=load.observed())


#: For LD_PRELOAD: the disk takes three seconds to sync while the file SLOW_DISK exists.
SLOW_DISK = """
#include <stdlib.h>
#include <unistd.h>
static int sync_slowly(void) { if (access(getenv("SLOW_DISK"), F_OK) == 0) sleep(3); return 0; }
int fsync(int file) { (void)file; return sync_slowly(); }
int fdatasync(int file) { (void)file; return sync_slowly(); }
"""


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_killed_while_its_disk_is_slow(appendfsync: str, report: Report, tmp_path: Path) -> None:
    """With everysec, a logout is confirmed and lost, and the loss is noticed; with always, it is not confirmed.

    While the disk is busy with the last second, ``everysec`` has Redis answer, and write up to two seconds later.
    """
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler (cc), so a server's disk cannot be slowed down")
    library, slow = tmp_path / "slow.so", tmp_path / "slow"
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", library], input=SLOW_DISK, text=True, check=True)
    environment = {"LD_PRELOAD": str(library), "SLOW_DISK": str(slow)}
    options = StoreOptions(lifetime_ms=3_600_000)
    before, session = os.urandom(16), os.urandom(16)
    confirmed = True
    with running(RedisServer(environment=environment, appendonly="yes", appendfsync=appendfsync)) as server:
        with contextlib.closing(open_store(server.url, options)) as store:
            store.fence([before], ENDED)
            (genesis,) = store.lookup_now([EVERYTHING])
            slow.touch()
            if appendfsync == "everysec":
                wait_until(lambda: _syncs(server, store), 30, "the disk is busy")
            try:
                store.fence([session], ENDED)
            except StoreUnavailable:
                confirmed = False
            server.kill()
        slow.unlink()
        server.start()
        with contextlib.closing(open_store(server.url, options)) as fresh:
            everything, *numbers = fresh.lookup_now([EVERYTHING, before, session])
    assert numbers[0] == ENDED
    if appendfsync == "everysec":
        assert (confirmed, numbers[1]) == (True, 0)
        assert everything > genesis
    else:
        assert not confirmed
        assert everything == genesis
    report(
        store=STORE,
        fault=f"kill -9 while its disk is slow, appendfsync {appendfsync}",
        promise=NOTICED if confirmed else "the logout raises, for it was not confirmed; nobody else is logged out",
        observed="the logout was confirmed, its fence was gone after the restart, and all sessions were refused"
        if confirmed
        else "not confirmed; the other sessions were kept",
    )


def _syncs(server: RedisServer, store: Revocations) -> bool:
    """Whether the server is syncing its file now; what it is to write comes from here."""
    store.fence([os.urandom(16)], ENDED)
    with contextlib.closing(server.client()) as client:
        return bool(client.info("persistence")["aof_pending_bio_fsync"])


def test_hangs(server: RedisServer, report: Report) -> None:
    """SIGSTOP for longer than the time-out: a request waits for it once, and all goes on by itself afterwards."""
    with Load(server.url) as load:
        server.suspend()
        time.sleep(2.0)
        server.resume()
    kept(load)
    assert load.counts["failed"]
    assert load.longest < CALL + BUSY
    promise = (
        f"{KEPT}; a call fails within {CALL} s, and "
        f"a request waits for one such call: after it, the others fail at once (a busy machine may add {BUSY} s)"
    )
    report(store=STORE, fault="SIGSTOP for 2 s", promise=promise, observed=load.observed())


def test_hangs_with_degrade(server: RedisServer, report: Report) -> None:
    """The same with the default policy: loads are served meanwhile, and no session is accepted afterwards."""
    with Load(server.url, outage="degrade") as load:
        load.blind_until, load.blind_because = float("inf"), "during the outage"
        server.suspend()
        time.sleep(2.0)
        server.resume()
        load.settle()
        load.blind_until = time.monotonic() + 1.0
    kept(load)
    promise = f"{KEPT}; meanwhile loads are accepted unchecked, by processes that did not know of the logout"
    report(store=STORE, fault='SIGSTOP for 2 s, with outage="degrade"', promise=promise, observed=load.observed())


def test_refuses_connections(server: RedisServer, report: Report) -> None:
    """Connections cut and refused for a second."""
    with running(Proxy(server.port)) as proxy:
        with Load(proxy.url) as load:
            proxy.refusing = True
            proxy.cut()
            time.sleep(1.0)
            proxy.refusing = False
    kept(load)
    assert load.counts["failed"]
    report(store=STORE, fault="connection refused for 1 s", promise=KEPT, observed=load.observed())


def test_cut_in_the_middle_of_replies(server: RedisServer, report: Report) -> None:
    """Connections that break off within a reply, again and again, at every offset."""
    with running(Proxy(server.port)) as proxy:
        with Load(proxy.url) as load:
            for number in range(60):
                proxy.cut_replies_after = number % 30
                time.sleep(0.02)
            proxy.cut_replies_after = None
    kept(load)
    report(store=STORE, fault="60 replies cut in the middle", promise=KEPT, observed=load.observed())


def test_flushed(server: RedisServer, report: Report) -> None:
    """FLUSHALL under load: genesis is written anew, and refuses what was there before."""
    with Load(server.url) as load:
        server.command("FLUSHALL")
    noticed(load)
    report(store=STORE, fault="FLUSHALL", promise=NOTICED, observed=load.observed())


def test_out_of_memory(server: RedisServer, report: Report) -> None:
    """Memory limit reached: logouts raise, and what is there is still asked."""
    with Load(server.url) as load:
        server.command("CONFIG", "SET", "maxmemory", "1")
        failed = load.counts["unconfirmed"]
        load.await_(lambda: load.counts["unconfirmed"] > failed + 10, "logouts fail")
        server.command("CONFIG", "SET", "maxmemory", "0")
    kept(load)
    promise = f"{KEPT}; logouts raise, everything else works"
    report(store=STORE, fault="out of memory (OOM, noeviction)", promise=promise, observed=load.observed())


def test_evicts(report: Report) -> None:
    """A policy that drops fences when memory is full: the server is refused before it can."""
    lost = 0
    with running(RedisServer(maxmemory_policy="volatile-lru")) as server:
        server.command("CONFIG", "SET", "maxmemory", server.client().info()["used_memory"] + 1_500_000)
        options = StoreOptions(lifetime_ms=3_600_000)
        with contextlib.closing(open_store(server.url, options)) as store, pytest.raises(Exception, match="noeviction"):
            store.fence([os.urandom(16)], ENDED)
        # And this is what it is refused for.
        with contextlib.closing(open_store(server.url + "?eviction=accept", options)) as store:
            batches = [[os.urandom(16) for _ in range(100)] for _ in range(150)]
            for batch in batches:
                store.fence(batch, ENDED)
        with contextlib.closing(open_store(server.url + "?eviction=accept", options)) as fresh:
            lost = sum(number == 0 for batch in batches for number in fresh.lookup_now(batch))
            assert fresh.lookup_now([EVERYTHING])
    assert lost
    report(
        store=STORE,
        fault="maxmemory-policy volatile-lru, memory full",
        promise="refused at the first contact, with the setting's name in the error and the log",
        observed=f"refused. With eviction=accept, {lost} of 15000 fences were evicted and missed.",
    )


def test_becomes_a_replica(server: RedisServer, report: Report) -> None:
    """A primary that is demoted under open connections is an outage until it is a primary again."""
    with running(RedisServer()) as other, Load(server.url) as load:
        server.command("REPLICAOF", "127.0.0.1", 1)  # of nobody who answers, so that its data stay
        time.sleep(1.5)
        server.command("REPLICAOF", "NO", "ONE")
        assert other.port
    kept(load)
    assert load.counts["failed"]
    report(store=STORE, fault="made a read-only replica for 1.5 s", promise=KEPT, observed=load.observed())


def server_with_clock(clock: Path) -> RedisServer:
    """A server whose clock is ahead by what the file *clock* says, by libfaketime."""
    named = os.environ.get("ROLLSESSION_LIBFAKETIME")
    libraries = [Path(named)] if named else sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("libfaketime is not installed, so a server's clock cannot be set (apt install libfaketime)")
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    for program in redis_servers():
        if runs_with(program, libraries[0]):
            return RedisServer(program=program, environment=environment)
    pytest.skip("libfaketime works with no redis-server here (`python tests/fetch_redis.py FOLDER` gets one)")


@cache
def runs_with(program: str, library: Path) -> bool:
    """Whether *program* starts with *library* loaded. Debian's hangs: its allocator asks for the time first of all."""
    try:
        command, environment = [program, "--version"], {**os.environ, "LD_PRELOAD": str(library)}
        return subprocess.run(command, env=environment, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.parametrize(
    ("seconds", "promise"),
    [
        pytest.param(-7200, KEPT, marks=pytest.mark.slow),
        pytest.param(50, f"{KEPT} (steps up to 60 s)", marks=pytest.mark.slow),
        (7200, "fences expire early, which every process notices within 1 s: all sessions from before are refused"),
    ],
    ids=["back", "a little", "far"],
)
def test_clock_steps(seconds: int, promise: str, report: Report, tmp_path: Path) -> None:
    """The server's clock is set back, forward a little, and forward past the lifetime of all fences."""
    clock = tmp_path / "clock"
    with running(server_with_clock(clock)) as server:
        with Load(server.url) as load:
            if not promise.startswith(KEPT):
                load.blind_until = float("inf")
            before = server.command("TIME")[0]
            clock.write_text(f"{seconds:+d}")
            assert abs(server.command("TIME")[0] - before - seconds) < 5
            load.blind_until = min(load.blind_until, time.monotonic() + 1.5)
            time.sleep(5.0)  # past the margin by which a session may be created in the future
    if promise.startswith(KEPT):
        kept(load)
    else:
        noticed(load)
    fault = f"its clock steps by {seconds:+d} s"
    report(store=STORE, fault=fault, promise=promise, observed=load.observed(), program=server.program)


def test_the_clock_of_one_host_steps_forward_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and application on one host: fences that expired while its clock was ahead are missed when it is back.

    A logout; the clock goes two hours forward, for both, and the server drops the fence; a process asks meanwhile; the
    clock comes back, and the session would be alive again. Only that process can notice.
    """
    clock, real, real_ns, ahead = tmp_path / "clock", time.time, time.time_ns, 0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ahead * 1_000_000_000)
    session, numbers = os.urandom(16), []
    with running(server_with_clock(clock)) as server:
        with contextlib.closing(open_store(server.url, StoreOptions(lifetime_ms=3_600_000))) as store:
            store.fence([session], ENDED)
            for ahead in (0, 7200, 0):
                clock.write_text(f"{ahead:+d}")
                time.sleep(1.1)
                numbers.append(store.lookup_now([EVERYTHING])[0])
        with contextlib.closing(open_store(server.url, StoreOptions(lifetime_ms=3_600_000))) as fresh:
            assert list(fresh.lookup_now([session, EVERYTHING])) == [0, numbers[2]]
    # The clock that numbers are made from does not go back.
    assert numbers[0] == numbers[1] < numbers[2] < time.time() + 7200 + 60


def test_clock_step_that_could_not_be_answered(tmp_path: Path) -> None:
    """A step of the server's clock that was noticed while it refused to write is answered as soon as it writes.

    The clock goes two hours forward while the memory is full: the question fails, for nothing tells the others that the
    sessions are refused; this process knows it. Then there is memory again, and the clock does not step any more.
    """
    clock = tmp_path / "clock"
    with running(server_with_clock(clock)) as server:
        with contextlib.closing(open_store(server.url, StoreOptions(lifetime_ms=3_600_000))) as store:
            (before,) = store.lookup_now([EVERYTHING])
            server.command("CONFIG", "SET", "maxmemory", "1")
            clock.write_text("+7200")
            time.sleep(1.1)
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    store.lookup_now([EVERYTHING])
            assert store.last_known([EVERYTHING])[0] > before
            server.command("CONFIG", "SET", "maxmemory", "0")
            wait_until(lambda: asked(store, [EVERYTHING]))
            assert store.lookup_now([EVERYTHING])[0] > before
        with contextlib.closing(open_store(server.url, StoreOptions(lifetime_ms=3_600_000))) as fresh:
            assert fresh.lookup_now([EVERYTHING])[0] > before


def asked(store: Revocations, keys: list[bytes]) -> list[int]:
    """The numbers of *keys*; none while the store is unavailable."""
    try:
        return list(store.lookup_now(keys))
    except StoreUnavailable:
        return []


def test_clock_is_behind(tmp_path: Path) -> None:
    """A server whose clock is two hours behind still revokes what was created until now by the caller's clock."""
    clock = tmp_path / "clock"
    with running(server_with_clock(clock)) as server:
        clock.write_text("-7200")
        with contextlib.closing(open_store(server.url, StoreOptions(lifetime_ms=3_600_000))) as store:
            assert store.lookup_now([EVERYTHING])[0] > time.time()
            assert store.fence_now([os.urandom(16)]) > time.time()
            server.command("FLUSHALL")
            assert store.lookup_now([EVERYTHING])[0] > time.time()
