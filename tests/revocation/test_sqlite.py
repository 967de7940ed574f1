"""What the SQLite store does beyond the contract: its URL, its files, and the interleavings it was made for."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, not_before, session_key, tag_key
from wsgi_rollsession.revocation.sqlite import SQLiteRevocations
from wsgi_rollsession.testing import in_fork

from .workers import HOUR_MS, Worker, eventually

A, B, C, D = (session_key(bytes([n]) * 16) for n in range(4))
OPTIONS = StoreOptions(lifetime_ms=HOUR_MS)


class Clock:
    """A store clock that moves when told to."""

    def __init__(self) -> None:
        self.ms = int(time.time() * 1000)

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revocations.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Callable[..., Any]]:
    stores = []

    def open_one(lifetime_ms: int = HOUR_MS, accept_amnesia: bool = False) -> Any:
        stores.append(SQLiteRevocations(str(path), StoreOptions(lifetime_ms, accept_amnesia), _clock=clock))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


# The URL and the file


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://revocations.db",
        "sqlite:revocations.db",
        "sqlite:///:memory:",
        "sqlite:///revocations.db?timeout=5",
        "sqlite:///revocations.db#x",
        "sqlite:///directory/",
    ],
)
def test_wrong_urls(url: str) -> None:
    """A URL that names no file, the memory, or an option is refused, and the message shows it."""
    with pytest.raises(ConfigurationError, match="requires sqlite:///") as caught:
        open_store(url, OPTIONS)
    assert repr(url) in str(caught.value)


def test_a_relative_path_is_fixed_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a relative path leads does not change with the process's working directory."""
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///relative.db", OPTIONS)
    monkeypatch.chdir("/")
    store.fence([A], 1)
    store.close()
    assert (tmp_path / "relative.db").exists()


def test_construction_creates_nothing(path: Path) -> None:
    """The files are created when first used: at construction the process may still be another user."""
    SQLiteRevocations(str(path), OPTIONS).close()
    assert list(path.parent.iterdir()) == []


def test_a_missing_directory(path: Path) -> None:
    """A directory that does not exist is named."""
    with pytest.raises(ConfigurationError, match=r"existing directory, received .*/nowhere'"):
        SQLiteRevocations(str(path.parent / "nowhere" / "revocations.db"), OPTIONS)


def test_what_cannot_be_written() -> None:
    """A directory, or a file, that this process cannot write to is named."""
    directory = Path(tempfile.mkdtemp())
    try:
        (directory / "revocations.db").touch()
        (directory / "revocations.db").chmod(0o444)

        def child() -> None:
            directory.chmod(0o777)
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(ConfigurationError, match="file it can read and write"):
                SQLiteRevocations(str(directory / "revocations.db"), OPTIONS)

        def child_in_read_only_directory() -> None:
            directory.chmod(0o555)
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(ConfigurationError, match="directory it can write to"):
                SQLiteRevocations(str(directory / "revocations.db"), OPTIONS)

        in_fork(child)
        in_fork(child_in_read_only_directory)
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_something_else(path: Path) -> None:
    """A file that is no database, a database of something else, and a directory are refused and left alone."""
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(ConfigurationError, match="requires a revocation database"):
        SQLiteRevocations(str(path), OPTIONS)
    assert path.read_bytes() == b"something else " * 1000
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE fences (mine)")
    connection.close()
    with pytest.raises(ConfigurationError, match="with other tables"):
        SQLiteRevocations(str(path), OPTIONS)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="file it can read and write"):
        SQLiteRevocations(str(path), OPTIONS)


def test_the_stamp_has_the_permissions_of_the_database(path: Path, opened: Callable[..., Any]) -> None:
    """Who may not read the database may not read the stamp."""
    path.touch(0o600)
    opened().fence([A], 1)
    assert stat.S_IMODE((path.parent / "revocations.db-stamp").stat().st_mode) == 0o600


def test_raises_are_durable(opened: Callable[..., Any]) -> None:
    """A commit is on the disk before it returns: WAL with synchronous=FULL."""
    store = opened()
    store.fence([A], 1)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_was_raised_survives(opened: Callable[..., Any]) -> None:
    """Fences and genesis are there when all processes have ended and another starts."""
    store = opened()
    store.fence([A], ENDED)
    genesis = store.confirm([EVERYTHING])
    store.close()
    assert opened().confirm([A, EVERYTHING]) == [ENDED, *genesis]


def test_closed(opened: Callable[..., Any]) -> None:
    """A closed store is unavailable; what it knew it still recalls."""
    store = opened()
    store.fence([A], ENDED)
    store.close()
    for call in (lambda: store.lookup([A]), lambda: store.fence([A], 1), store.status):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()
    assert store.recall([A]) == [ENDED]


def test_status(opened: Callable[..., Any], clock: Clock) -> None:
    """The status says how large and how old the set is."""
    store = opened()
    assert store.status()["fences"] == 0
    store.fence([A, B], 1)
    status = store.status()
    assert status["fences"] == 2
    assert status["genesis"] == clock.ms // 1000
    assert status["lifetime"] == HOUR_MS // 1000
    assert status["database_bytes"] > 0
    assert status["wal_bytes"] > 0


# Checks without I/O


def test_a_check_asks_nobody_while_nothing_changes(opened: Callable[..., Any]) -> None:
    """While the stamp is unchanged, a check does not use the database at all."""
    store = opened()
    store.fence([A], 7)
    store.lookup([A])
    store._check_at = float("inf")  # not even the periodic look
    store._reader.close()
    assert store.lookup([A]) == store.confirm([A]) == [7]


def test_the_other_threads_do_not_wait_for_a_writer(opened: Callable[..., Any], path: Path) -> None:
    """While a thread waits for a database that another process has locked, the others read, even what is new."""
    store, other = opened(), opened()
    store.fence([A], 1)
    other.lookup([A])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.fence, [B], 1)
        answers = 0
        while not waiting.done():
            store._seen = -1  # as if the stamp had changed
            assert store.lookup([A]) == [1]
            answers += 1
        with pytest.raises(StoreUnavailable, match="locked"):
            waiting.result()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert answers > 10


def test_threads_check_while_others_raise(opened: Callable[..., Any]) -> None:
    """Each thread that checks sees numbers that only grow, up to the last."""
    store, writer = opened(), opened()
    stop = threading.Event()

    def check() -> int:
        last = 0
        while not stop.is_set():
            (number,) = store.lookup([A])
            assert number >= last
            last = number
        return store.lookup([A])[0]

    with ThreadPoolExecutor(4) as pool:
        checks = [pool.submit(check) for _ in range(4)]
        try:
            for number in range(1, 50):
                writer.fence([A], number)
        finally:
            stop.set()
        assert [one.result() for one in checks] == [49] * 4


# The interleavings behind the order of commit, stamp and rows


def test_a_raise_while_the_rows_are_read(opened: Callable[..., Any]) -> None:
    """A raise that comes after the rows were read, before the reader remembers the stamp, is seen by the next check."""
    store, writer = opened(), opened()
    store.lookup([A])
    rows = store._new_rows

    def rows_and_then_a_raise(reader: Any) -> Any:
        yield from rows(reader)
        store._new_rows = rows
        writer.fence([A], ENDED)

    store._new_rows = rows_and_then_a_raise
    writer.fence([B], 1)
    assert store.lookup([B]) == [1]
    assert store.lookup([A]) == [ENDED]


def test_a_slow_writer_of_the_stamp(opened: Callable[..., Any]) -> None:
    """A writer that is held up between commit and stamp hides nobody else's raise, before or after it goes on."""
    slow, fast, reader = opened(), opened(), opened()
    for store in (slow, fast, reader):
        store.lookup([A])
        store._check_at = float("inf")  # the periodic look must not be what saves it
    committed, go_on = threading.Event(), threading.Event()
    write = slow._stamp.write

    def write_late(*args: int) -> None:
        committed.set()
        assert go_on.wait(30)
        write(*args)

    slow._stamp.write = write_late
    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(slow.fence, [A], ENDED)
        assert committed.wait(30)
        fast.fence([B], ENDED)
        assert reader.lookup([B]) == [ENDED]
        reader._check_at = float("inf")
        fast.fence([C], ENDED)
        go_on.set()
        held_up.result()
    assert reader.lookup([A, B, C]) == [ENDED, ENDED, ENDED]
    reader._check_at = float("inf")
    fast.fence([D], ENDED)
    assert reader.lookup([D]) == [ENDED]


def test_the_stamp_is_lost_before_a_raise_returns(opened: Callable[..., Any], path: Path) -> None:
    """An advance that was committed when the stamp file vanished is not made, and so refused, a second time."""
    store, reader = opened(), opened()
    store.lookup([A])
    reader.lookup([A])
    write = store._stamp.write

    def write_and_lose(*args: int) -> None:
        write(*args)
        os.unlink(f"{path}-stamp")

    store._stamp.write = write_and_lose
    assert store.advance(A, 0, 1) is True
    assert os.path.exists(f"{path}-stamp")
    assert reader.lookup([A]) == [1]


def test_a_stamp_never_comes_back(opened: Callable[..., Any]) -> None:
    """Each raise leaves a stamp that was not there before, also that of a store found new."""
    store = opened()
    seen = {0}
    for number in range(50):
        store.fence([A], number + 1)
        assert store._view[0] not in seen
        seen.add(store._view[0])


# Bounded by itself


def test_expired_rows_leave_and_nothing_is_missed(opened: Callable[..., Any], clock: Clock) -> None:
    """However many lifetimes pass, no more than those of one are held; a reader with increments misses none."""
    store, reader = opened(), opened()
    for step in range(400):
        clock.ms += HOUR_MS // 20
        key = session_key(step.to_bytes(16, "big"))
        store.fence([key], ENDED)
        assert reader.lookup([key]) == [ENDED]
    (rows,) = store._writer.execute("SELECT count(*) FROM fences").fetchone()
    assert rows <= 20 + 3 + 1  # a lifetime of them, the margin for clock steps, and EVERYTHING
    assert len(reader._replica) <= 20 + 3 + 1 + 4  # and a generation
    assert reader.lookup([EVERYTHING]) != [0]


def test_the_sequence_goes_on_when_all_rows_are_gone(opened: Callable[..., Any], clock: Clock) -> None:
    """A reader that waits for what is newer sees a raise after every row it knew was removed."""
    store, reader = opened(), opened()
    store.fence([A, B], 1)
    assert reader.lookup([A]) == [1]
    clock.ms += 3 * HOUR_MS
    store.fence([C], 1)
    clock.ms += 3 * HOUR_MS
    store.fence([D], 1)
    assert reader.lookup([C, D])[1] == 1


def test_the_longest_lifetime_counts(opened: Callable[..., Any], clock: Clock) -> None:
    """A process with a short lifetime raises for the longest one announced, even if that came after it started."""
    short = opened(lifetime_ms=HOUR_MS)
    short.lookup([A])
    opened(lifetime_ms=24 * HOUR_MS).lookup([A])
    short.fence([A], ENDED)
    clock.ms += 23 * HOUR_MS
    short.fence([B], ENDED)
    assert opened(lifetime_ms=HOUR_MS).lookup([A]) == [ENDED]
    assert short.lookup([A]) == [ENDED]


def test_an_expiry_never_moves_forward(opened: Callable[..., Any], clock: Clock) -> None:
    """A fence that is raised again by a clock that is a little behind is kept as long as it was to be."""
    store = opened()
    store.fence([A], ENDED)
    (before,) = store._writer.execute("SELECT expires FROM fences WHERE key = ?", (A,)).fetchone()
    clock.ms -= CLOCK_STEP_MS // 2
    store.fence([A], 1)
    assert store._writer.execute("SELECT number, expires FROM fences WHERE key = ?", (A,)).fetchone() == (ENDED, before)


def test_the_wal_stays_small(opened: Callable[..., Any], path: Path) -> None:
    """Raises do not make the write-ahead log grow without end."""
    store, reader = opened(), opened()
    for n in range(600):
        store.fence([session_key(n.to_bytes(16, "big"))], 1)
        reader.lookup([A])
    assert os.path.getsize(f"{path}-wal") < 8 * 1024 * 1024


# Genesis, and clocks


def test_genesis_is_written_once(opened: Callable[..., Any], clock: Clock) -> None:
    """Who finds the store empty refuses what was created until then; who comes later leaves it at that."""
    first = not_before(clock.ms)
    assert opened().confirm([EVERYTHING]) == [first]
    clock.ms += HOUR_MS
    assert opened().confirm([EVERYTHING]) == [first]


@pytest.mark.parametrize("raises_meanwhile", [True, False])
def test_a_clock_that_stepped_forward_and_back(
    opened: Callable[..., Any], clock: Clock, raises_meanwhile: bool
) -> None:
    """What was dropped by a wrong clock is read again, or, if it is gone, everything older is refused."""
    store = opened()
    store.fence([A], ENDED)
    store.lookup([A])
    created = clock.ms
    clock.ms += 30 * HOUR_MS
    if raises_meanwhile:
        store.fence([B], ENDED)
    store._check_at = 0.0
    store.lookup([A])
    clock.ms -= 30 * HOUR_MS
    store._check_at = 0.0
    number, everything = store.lookup([A, EVERYTHING])
    assert number == ENDED or created <= everything * 1000
    if raises_meanwhile:
        assert everything >= not_before(clock.ms + 30 * HOUR_MS)
        assert store.fence_now([tag_key("user:42")]) > everything
        assert opened().confirm([EVERYTHING]) == [everything]
    else:
        assert number == ENDED


def test_a_small_step_is_nothing(opened: Callable[..., Any], clock: Clock) -> None:
    """A clock that steps by less than the margin drops nothing that could matter, and refuses nobody."""
    store = opened()
    (genesis,) = store.lookup([EVERYTHING])
    store.fence([A], ENDED)
    clock.ms += HOUR_MS + CLOCK_STEP_MS - 1
    store.fence([B], ENDED)
    clock.ms -= CLOCK_STEP_MS - 1
    store._check_at = 0.0
    assert store.lookup([A, EVERYTHING]) == [ENDED, genesis]


# Processes


def test_many_processes_create_it_at_once(path: Path) -> None:
    """Workers that start together on a missing database all work, on one genesis."""
    workers = [Worker(f"sqlite:///{path}") for _ in range(6)]
    try:
        for worker in workers:
            worker.begin("confirm", [EVERYTHING])
        assert len({worker.answer()[0] for worker in workers}) == 1
        for n, worker in enumerate(workers):
            worker.call("fence", [A], n + 1)
            assert all(other.call("lookup", [A]) == [n + 1] for other in workers)
    finally:
        for worker in workers:
            worker.kill()


def test_a_fork_closes_the_parents_files_first(opened: Callable[..., Any]) -> None:
    """A child inherits no connection, whose locks SQLite would believe it has; the parent opens its own again."""
    store = opened()
    store.fence([A], 1)

    def child() -> None:
        assert store._writer is None
        assert store._reader is None
        store.fence([A], 2)
        store.close()

    in_fork(child)
    assert store.lookup([A]) == [2]
    store.fence([A], 3)
    assert store._process == os.getpid()


def test_a_fork_that_python_does_not_know_of(opened: Callable[..., Any]) -> None:
    """A child forked by C code, as uWSGI does it, uses connections of its own and leaves the parent's open."""
    store = opened()
    store.fence([A], 1)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        try:
            store.fence([A], 2)
            fine = store.lookup([A]) == [2] and store._process == os.getpid()
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.lookup([A]) == [2]
    store.fence([A], 3)
    assert opened().lookup([A]) == [3]


def test_the_stamp_of_a_dead_writer(path: Path) -> None:
    """The raise of a writer that died between commit and stamp is seen by the next periodic look."""
    reader, writer = Worker(f"sqlite:///{path}"), Worker(f"sqlite:///{path}")
    try:
        assert reader.call("lookup", [A]) == [0]
        writer.call("die_before_stamp")
        writer.begin("fence", [A], ENDED)
        writer.process.join(30)
        eventually(lambda: reader.call("lookup", [A]) == [ENDED])
    finally:
        reader.kill()
        writer.kill()
