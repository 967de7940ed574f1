"""What the SQLite store does beyond the contract: its URL, its files, and the interleavings it was made for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS, RUN_AHEAD_S, genesis, next_revoked_before
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, revoked_before, session_key
from wsgi_rollsession.revocation.sqlite import SQLiteRevocations
from wsgi_rollsession.revocation.sqlite.continuity import Generation, Mark
from wsgi_rollsession.revocation.sqlite.database import is_mounted, read
from wsgi_rollsession.revocation.sqlite.generation import LEASE, SETTLED, GenerationFile, decoded, file_state
from wsgi_rollsession.testing.stores import in_fork

from .workers import HOUR_MS, Worker, eventually

A, B, C, D = (session_key(bytes([n]) * 16) for n in range(4))
OPTIONS = StoreOptions(lifetime_ms=HOUR_MS)


class Clock:
    """The host's clocks, which move when told to. Time passes for both; the wall clock can also be set."""

    def __init__(self) -> None:
        self.ms = int(time.time() * 1000)
        self.monotonic_ms = HOUR_MS

    def __call__(self) -> int:
        return self.ms

    def passes(self, ms: int) -> None:
        self.ms += ms
        self.monotonic_ms += ms


def due(store: Any) -> None:
    """The next check looks at the rows, whatever the stamp says."""
    store._current_until = store._check_at = 0.0


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
        options = StoreOptions(lifetime_ms, accept_amnesia)
        stores.append(SQLiteRevocations(str(path), options, _clock=clock, _monotonic=lambda: clock.monotonic_ms))
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


def test_a_relative_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A relative URL is a warning that says which database it means; an absolute one is not."""
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///relative.db", OPTIONS)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"sqlite:///{tmp_path}/relative.db" in record.getMessage()
    caplog.clear()
    open_store(f"sqlite:///{tmp_path}/relative.db", OPTIONS)
    assert not caplog.records


def test_a_new_database_is_told(opened: Callable[..., Any], path: Path, caplog: Any) -> None:
    """A database that did not exist is a warning with its absolute path, once; that it is used again is none."""
    opened().lookup([A])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"sqlite:///{path} is a new revocation database" in record.getMessage()
    caplog.clear()
    opened().lookup([A])
    assert not caplog.records


@pytest.mark.parametrize("name", ["r.db", "two words.db", "back\\slash.db"])
def test_mounted_by_itself(tmp_path: Path, name: str) -> None:
    """A mount of just this path is found in the list of mounts, whatever characters it has."""
    path = tmp_path / name
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    line = "36 35 98:0 /mnt1 {} rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    mounts.write_text(line.format(tmp_path) + line.format(escaped + "x"))
    assert not is_mounted(str(path), str(mounts))
    mounts.write_text(line.format("/") + line.format(escaped))
    assert is_mounted(str(path), str(mounts))
    assert not is_mounted(str(path), str(tmp_path / "nowhere"))


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
    """A commit is on the disk before it returns: synchronous=FULL. Nothing is mapped into memory."""
    store = opened()
    store.fence([A], 1)
    assert store._files.writer.execute("PRAGMA journal_mode").fetchone() == ("persist",)
    assert store._files.writer.execute("PRAGMA mmap_size").fetchone() == (0,)
    assert store._files.writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_was_raised_survives(opened: Callable[..., Any]) -> None:
    """Fences and genesis are there when all processes have ended and another starts."""
    store = opened()
    store.fence([A], ENDED)
    genesis = store.lookup_now([EVERYTHING])
    store.close()
    assert opened().lookup_now([A, EVERYTHING]) == [ENDED, *genesis]


def test_closed(opened: Callable[..., Any]) -> None:
    """A closed store is unavailable; what it knew is still the last known."""
    store = opened()
    store.fence([A], ENDED)
    store.close()
    for call in (lambda: store.lookup([A]), lambda: store.fence([A], 1), store.status):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()
    assert store.last_known([A]) == [ENDED]


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


# Checks without I/O


def test_a_check_asks_nobody_while_nothing_changes(opened: Callable[..., Any]) -> None:
    """While the stamp is unchanged, a check does not use the database at all."""
    store = opened()
    store.fence([A], 7)
    store.lookup([A])
    store._check_at = float("inf")  # not even the periodic look
    store._files.reader.close()
    assert store.lookup([A]) == store.lookup_now([A]) == [7]


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
            for number in range(1, 20):
                writer.fence([A], number)
        finally:
            stop.set()
        assert [one.result() for one in checks] == [19] * 4


# The interleavings behind the order of commit, stamp and rows


def test_a_raise_while_the_rows_are_read(opened: Callable[..., Any]) -> None:
    """A raise that comes after the rows were read, before the reader remembers the stamp, is seen by the next check."""
    store, writer = opened(), opened()
    store.lookup([A])
    learn = store._learn

    def learn_and_then_a_raise(fences: Any) -> None:
        learn(fences)
        store._learn = learn
        writer.fence([A], ENDED)

    store._learn = learn_and_then_a_raise
    writer.fence([B], 1)
    assert store.lookup([B]) == [1]
    assert store.lookup([A]) == [ENDED]


def test_a_slow_writer_of_the_stamp(opened: Callable[..., Any]) -> None:
    """A writer that is held up between commit and stamp holds up no check, and no raise for longer than itself; what
    it has not confirmed is seen by those who look at the rows."""
    slow, fast, reader = opened(), opened(), opened()
    for store in (slow, fast, reader):
        store.lookup([A])
    committed, go_on = threading.Event(), threading.Event()
    settle = slow._files.generation.settle

    def settle_late(*args: Any) -> None:
        committed.set()
        assert go_on.wait(30)
        settle(*args)

    slow._files.generation.settle = settle_late
    with ThreadPoolExecutor(2) as pool:
        held_up = pool.submit(slow.fence, [A], ENDED)
        assert committed.wait(30)
        other = pool.submit(fast.fence, [B], ENDED)
        assert reader.lookup([B]) == [0]
        due(reader)
        assert reader.lookup([A]) == [ENDED]
        reader._check_at = float("inf")  # the periodic look must not be what it takes to see the rest
        go_on.set()
        held_up.result()
        other.result()
    assert reader.lookup([A, B]) == [ENDED, ENDED]
    slow.fence([C], ENDED)
    assert reader.lookup([C]) == [ENDED]


def test_a_writer_that_does_not_go_on(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A raise behind a writer that has stopped fails in time, and says why."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WRITE_WAIT", 0.2)
    stopped, other = opened(), opened()
    other.lookup([A])
    stopped.lookup([A])
    with stopped._files.generation.turn(0.0):
        with pytest.raises(StoreUnavailable, match="in the middle of a write"):
            other.fence([A], 1)
        assert other._writing.is_down
        assert other.lookup([A]) == [0]


def test_nobody_commits_while_a_reader_looks(opened: Callable[..., Any], path: Path, clock: Clock) -> None:
    """What the rows, the stamp and the file say belongs together."""
    store = opened()
    store.fence([A], 1)
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:

        def look() -> bool:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO meta VALUES ('x', 1)")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("COMMIT")
            return True

        reading, has_looked = read(store._files.reader, time.monotonic() + 5, look, clock(), None, most=10)
        assert has_looked
        assert (A, 1) in reading.fences
        other.execute("COMMIT")  # as soon as it is read


def test_what_a_reading_says(opened: Callable[..., Any], path: Path, clock: Clock) -> None:
    """Which commit is the newest, whether another is in the history, and whether all its rows are there."""
    store = opened()
    store.fence([A], 1)
    before = store._position
    store.fence([B], 2)

    def reading(position: Mark, **options: Any) -> Any:
        return read(store._files.reader, time.monotonic() + 5, int, clock(), position, **options)[0]

    found = reading(before).found
    assert (found.tip, found.parent, found.has_position) == (store._position, before.id, True)
    assert not reading(before._replace(id=before.id + 1)).found.has_position
    assert [key for key, _ in reading(before, loaded=before, after=before.sequence, most=9).fences] == [B]
    unknown = before._replace(id=before.id + 1)
    assert len(reading(before, loaded=unknown, after=before.sequence, most=9).fences) == 3  # from the beginning
    assert reading(before, census=True).is_complete
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM fences WHERE key = ?", (A,))
    assert not reading(before, census=True).is_complete
    assert reading(before).is_complete  # nobody asked


@pytest.mark.parametrize(
    ("column", "value"), [("key", b"short"), ("key", "text"), ("number", "two"), ("number", 2.5), ("number", None)]
)
def test_a_row_that_was_never_written_is_damage(clock: Clock, column: str, value: Any) -> None:
    """It is not passed over, and not taken for something else."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE fences (seq INTEGER PRIMARY KEY, key, number, raised)")
        connection.execute("CREATE TABLE history (sequence INTEGER PRIMARY KEY, id, at, rows, total)")
        connection.execute("CREATE TABLE meta (name, value)")
        row = {"key": A, "number": 1, column: value}
        connection.execute("INSERT INTO fences VALUES (1, ?, ?, ?)", (row["key"], row["number"], clock.ms))
        with pytest.raises(ValueError):
            read(connection, 0.0, int, clock(), None, most=9)


def test_a_writer_that_stops_after_others_were_served(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last commit on, one waits no longer than for a writer that does not go on."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WRITE_WAIT", 0.2)
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.LONGEST_WAIT", 60.0)
    stopped, other = opened(), opened()
    other.lookup([A])
    stopped.fence([A], 1)
    generation = stopped._files.generation
    with ThreadPoolExecutor(1) as pool, generation.turn(0.0):
        waiting = pool.submit(other.fence, [B], 1)
        time.sleep(0.1)
        generation.settle(Generation(stopped._position._replace(id=1), stopped._files.state()))
        with pytest.raises(StoreUnavailable, match="in the middle of a write"):
            waiting.result(20)
        generation.settle(Generation(stopped._position, stopped._files.state()))


def test_contention_is_no_outage(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A raise that was not in time because others were served meanwhile fails alone: the next one is tried."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WRITE_WAIT", 0.3)
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.LONGEST_WAIT", 0.3)
    busy, other = opened(), opened()
    other.lookup([A])
    busy.fence([A], 1)
    generation = busy._files.generation
    with ThreadPoolExecutor(1) as pool, generation.turn(0.0):
        waiting = pool.submit(other.fence, [B], 1)
        time.sleep(0.1)
        generation.settle(Generation(busy._position, busy._files.state())._replace(mark=busy._position._replace(id=1)))
        with pytest.raises(StoreUnavailable, match="not this one's turn"):
            waiting.result()
        generation.settle(Generation(busy._position, busy._files.state()))
    assert not other._writing.is_down
    other.fence([B], 1)
    assert busy.lookup([B]) == [1]


@pytest.mark.parametrize("same_process", [False, True])
def test_a_raise_waits_on_while_others_are_served(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, same_process: bool
) -> None:
    """As long as commits are made, one waits longer than for a writer that does not go on."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WRITE_WAIT", 0.2)
    busy, other = opened(), opened()
    other.lookup([A])
    busy.fence([A], 1)
    generation = busy._files.generation
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        stack.enter_context(other._write_lock if same_process else generation.turn(0.0))
        waiting = pool.submit(other.fence, [B], 1)
        for number in range(1, 9):
            time.sleep(0.1)
            generation.settle(Generation(busy._position._replace(id=number), busy._files.state()))
        generation.settle(Generation(busy._position, busy._files.state()))
        assert not waiting.done()
        stack.close()
        waiting.result()
    assert busy.lookup([B]) == [1]


def test_who_has_waited_long_for_its_turn_has_time_to_commit(
    opened: Callable[..., Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has waited for others counts not as what it waits for a reader."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WRITE_WAIT", 0.2)
    busy, other = opened(), opened()
    other.lookup([A])
    busy.fence([A], 1)
    generation = busy._files.generation
    with ThreadPoolExecutor(1) as pool, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        with generation.turn(0.0):
            waiting = pool.submit(other.fence, [B], 1)
            for number in range(1, 6):
                time.sleep(0.1)
                generation.settle(Generation(busy._position._replace(id=number), busy._files.state()))
            generation.settle(Generation(busy._position, busy._files.state()))
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM meta").fetchone()
        time.sleep(0.2)
        reader.execute("ROLLBACK")
        waiting.result()
    assert busy.lookup([B]) == [1]


def test_a_look_holds_for_longer_than_the_switch_interval() -> None:
    """Or a thread that looks again and again, and gives up the interpreter each time for a moment, keeps it."""
    assert 1.2 * sys.getswitchinterval() < LEASE


def test_threads_are_served_together(opened: Callable[..., Any]) -> None:
    """What other threads want to raise while one waits for its turn is in the same commit, each with its own result."""
    store, other = opened(), opened()
    store.fence([A], 3)
    other.lookup([A])
    before = store._position.sequence
    keys = [session_key(bytes([n, 9]) * 8) for n in range(8)]
    with ThreadPoolExecutor(10) as pool, other._files.generation.turn(0.0):
        raising = [pool.submit(store.fence, [key], 1) for key in keys]
        refused = pool.submit(store.compare_and_raise, [(A, 2)], [(A, 4)])
        made = pool.submit(store.compare_and_raise, [(A, 3)], [(C, 4)])
        time.sleep(0.2)
    for each in raising:
        each.result()
    assert refused.result() is False
    assert made.result() is True
    assert other.lookup([*keys, A, C]) == [1] * 8 + [3, 4]
    (commits,) = store._files.writer.execute("SELECT count(*) FROM history WHERE sequence > ?", (before,)).fetchone()
    assert commits <= 2


def test_the_stamp_is_lost_before_a_raise_returns(opened: Callable[..., Any], path: Path) -> None:
    """A conditional raise, committed when the stamp file vanished, is not made, and so refused, a second time."""
    store, reader = opened(), opened()
    store.lookup([A])
    reader.lookup([A])
    settle = store._files.generation.settle

    def settle_and_lose(*args: Any) -> None:
        settle(*args)
        os.unlink(f"{path}-stamp")

    store._files.generation.settle = settle_and_lose
    (everything,) = reader.lookup([EVERYTHING])
    assert store.compare_and_raise([(A, 0)], [(A, 1)]) is True
    assert os.path.exists(f"{path}-stamp")
    assert reader.lookup([A, EVERYTHING]) == [1, everything]


def test_a_stamp_never_comes_back(opened: Callable[..., Any]) -> None:
    """Each raise leaves a stamp that was not there before, also that of a store found new."""
    store = opened()
    seen = set()
    for number in range(20):
        store.fence([A], number + 1)
        settled = store._files.generation.content()[:SETTLED]
        assert settled not in seen
        seen.add(settled)


# Bounded by itself


def test_what_has_expired_is_not_loaded(opened: Callable[..., Any], clock: Clock) -> None:
    """A process that starts after a burst has expired holds nothing of it; what is alive, and what is read in several
    pieces, it holds."""
    store = opened()
    expired = [session_key(n.to_bytes(16, "big")) for n in range(20_000)]
    store.fence(expired, ENDED)
    clock.passes(HOUR_MS + CLOCK_STEP_MS + 1)
    alive = [session_key(n.to_bytes(16, "big")) for n in range(50_000, 60_000)]
    store.fence(alive, ENDED)
    (rows,) = store._files.reader.execute("SELECT count(*) FROM fences").fetchone()
    fresh = opened()
    assert fresh.lookup_now([alive[0], alive[-1], expired[-1]]) == [ENDED, ENDED, 0]
    assert rows > 29_000
    assert len(fresh._local) == 10_001


def test_expired_rows_leave_and_nothing_is_missed(opened: Callable[..., Any], clock: Clock) -> None:
    """However many lifetimes pass, no more than those of one are held; a reader with increments misses none."""
    store, reader = opened(), opened()
    for step in range(400):
        clock.passes(HOUR_MS // 20)
        key = session_key(step.to_bytes(16, "big"))
        store.fence([key], ENDED)
        assert reader.lookup([key]) == [ENDED]
    (rows,) = store._files.writer.execute("SELECT count(*) FROM fences").fetchone()
    assert rows <= 20 + 3 + 1  # a lifetime of them, the margin for clock steps, and EVERYTHING
    assert len(reader._local) <= 20 + 3 + 1 + 4  # and a generation
    assert reader.lookup([EVERYTHING]) != [0]


def test_the_sequence_goes_on_when_all_rows_are_gone(opened: Callable[..., Any], clock: Clock) -> None:
    """A reader that waits for what is newer sees a raise after every row it knew was removed."""
    store, reader = opened(), opened()
    store.fence([A, B], 1)
    assert reader.lookup([A]) == [1]
    clock.passes(3 * HOUR_MS)
    store.fence([C], 1)
    clock.passes(3 * HOUR_MS)
    store.fence([D], 1)
    assert reader.lookup([C, D])[1] == 1


def test_the_longest_lifetime_counts(opened: Callable[..., Any], clock: Clock) -> None:
    """A process with a short lifetime raises for the longest one announced, even if that came after it started."""
    short = opened(lifetime_ms=HOUR_MS)
    short.lookup([A])
    opened(lifetime_ms=24 * HOUR_MS).lookup([A])
    short.fence([A], ENDED)
    clock.passes(23 * HOUR_MS)
    short.fence([B], ENDED)
    assert opened(lifetime_ms=HOUR_MS).lookup([A]) == [ENDED]
    assert short.lookup([A]) == [ENDED]


def test_an_expiry_never_moves_forward(opened: Callable[..., Any], clock: Clock) -> None:
    """A fence that is raised again by a clock that is a little behind is kept as long as it was to be."""
    store = opened()
    store.fence([A], ENDED)
    (before,) = store._files.writer.execute("SELECT raised FROM fences WHERE key = ?", (A,)).fetchone()
    clock.ms -= CLOCK_STEP_MS // 2
    store.fence([A], 1)
    assert store._files.writer.execute("SELECT number, raised FROM fences WHERE key = ?", (A,)).fetchone() == (
        ENDED,
        before,
    )


def test_the_journal_stays_small(opened: Callable[..., Any], path: Path) -> None:
    """A commit of many rows does not leave a large journal behind."""
    store = opened()
    keys = [n.to_bytes(16, "big") for n in range(30_000)]
    store.fence(keys, 1)
    store.fence(keys, 2)
    store.fence([A], 1)
    assert os.path.getsize(f"{path}-journal") <= 1024 * 1024


# Genesis, and clocks


def test_genesis_is_written_once(opened: Callable[..., Any], clock: Clock) -> None:
    """Who finds the store empty refuses what was created until then; who comes later leaves it at that."""
    first = genesis(clock.ms)
    assert opened().lookup_now([EVERYTHING]) == [first]
    clock.passes(HOUR_MS)
    assert opened().lookup_now([EVERYTHING]) == [first]


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
    due(store)
    store.lookup([A])
    clock.ms -= 30 * HOUR_MS
    due(store)
    number, everything = store.lookup([A, EVERYTHING])
    assert number == ENDED or created <= everything * 1000
    if raises_meanwhile:
        assert everything >= revoked_before(clock.ms + 30 * HOUR_MS)
        assert opened().lookup_now([EVERYTHING]) == [everything]
        clock.passes(10_000)  # numbers run ahead of the clock, which does not go back, by seconds at most
        assert store.fence_now([EVERYTHING]) > everything
    else:
        assert number == ENDED


def test_a_small_step_back_hides_nobody(opened: Callable[..., Any], clock: Clock) -> None:
    """The clock steps back by 30 s: a revocation covers what was created before the step."""
    store = opened()
    store.lookup([A])
    clock.passes(10_000)  # past its genesis
    due(store)
    store.lookup([A])
    created = clock.ms
    clock.ms -= 30_000
    for keys in ([A], [B, EVERYTHING]):
        assert store.fence_now(keys) * 1000 >= created


def test_a_small_step_is_nothing(opened: Callable[..., Any], clock: Clock) -> None:
    """A clock that steps by less than the margin drops nothing that could matter, and refuses nobody."""
    store = opened()
    (genesis,) = store.lookup([EVERYTHING])
    store.fence([A], ENDED)
    clock.ms += HOUR_MS + CLOCK_STEP_MS - 1
    store.fence([B], ENDED)
    clock.ms -= CLOCK_STEP_MS - 1
    due(store)
    assert store.lookup([A, EVERYTHING]) == [ENDED, genesis]


# Processes


def test_many_processes_create_it_at_once(path: Path) -> None:
    """Workers that start together on a missing database all work, on one genesis."""
    workers = [Worker(f"sqlite:///{path}") for _ in range(6)]
    try:
        for worker in workers:
            worker.begin("lookup_now", [EVERYTHING])
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
        assert store._files is None
        store.fence([A], 2)
        store.close()

    in_fork(child)
    assert store.lookup([A]) == [2]
    store.fence([A], 3)
    assert store._files._process == os.getpid()


def test_a_fork_that_python_does_not_know_of(opened: Callable[..., Any]) -> None:
    """A child forked by C code, as uWSGI does it, uses connections of its own and leaves the parent's open."""
    store = opened()
    store.fence([A], 1)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        try:
            store.fence([A], 2)
            fine = store.lookup([A]) == [2] and store._files._process == os.getpid()
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


# Found by review


def test_two_paths_to_one_database(path: Path, clock: Clock) -> None:
    """Two releases of an application reach one database by symbolic links of their own: B raises, and A, whose
    periodic look is not due, sees it, for both use the stamp beside the file that is meant."""
    stores = []
    for name in ("one", "two"):
        (path.parent / name).mkdir()
        (path.parent / name / "db").symlink_to(path)
        stores.append(SQLiteRevocations(str(path.parent / name / "db"), OPTIONS))
    one, two = stores
    for n in range(20):
        key = session_key(bytes([n]) * 16)
        one.lookup_now([key])
        one._check_at = float("inf")
        two.fence([key], ENDED)
        assert one.lookup_now([key]) == [ENDED]
    for store in stores:
        store.close()
    assert [entry.name for entry in (path.parent / "one").iterdir()] == ["db"]


def test_a_stamp_that_is_not_whole(path: Path) -> None:
    """A stamp file that was truncated or overwritten says nothing, and reading it raises nothing."""
    path.touch()
    generation = GenerationFile(str(path))
    state = file_state(str(path))
    assert state is not None
    assert decoded(generation.content()) is None
    generation.settle(Generation(Mark(1, 2, 3), state))
    assert decoded(generation.content()) == Generation(Mark(1, 2, 3), state)
    for change in (lambda: os.truncate(f"{path}-stamp", 8), lambda: os.pwrite(generation.fd, b"x", 20)):
        change()
        assert decoded(generation.content()) is None
        assert generation.intent(generation.content()) == 0
    generation.close()


def test_an_intent_that_was_copied(path: Path) -> None:
    """A commit that was announced in a stamp counts only while nobody else has touched it: a copy is of the past."""
    path.touch()
    generation = GenerationFile(str(path))
    generation.intend(7)
    assert generation.intent(generation.content()) == 7
    time.sleep(10 * LEASE)  # the time of a change may be that of the kernel's last tick
    os.utime(f"{path}-stamp")
    assert generation.intent(generation.content()) == 0
    generation.close()


def test_a_group_shares_the_stamp_whatever_the_umask(path: Path, opened: Callable[..., Any]) -> None:
    """A database of mode 0660 has a stamp of that mode, also under the umask 022: or the group's other user would
    find the store unavailable."""
    path.touch()
    path.chmod(0o660)
    umask = os.umask(0o022)
    try:
        opened().fence([A], 1)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((path.parent / "revocations.db-stamp").stat().st_mode) == 0o660


@pytest.mark.parametrize("statement", ["DELETE FROM meta WHERE name = 'id'", "DELETE FROM meta", "DELETE FROM history"])
def test_rows_that_somebody_removed(opened: Callable[..., Any], path: Path, statement: str) -> None:
    """Whatever is missing in the database's own tables: the store goes on or is unavailable; no other exception."""
    store = opened()
    store.fence([A], ENDED)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    due(store)
    for call in (
        lambda: store.lookup_now([A]),
        lambda: store.fence([A], 2),
        store.status,
        lambda: opened().lookup_now([A]),
    ):
        with contextlib.suppress(StoreUnavailable):
            call()
    assert store.last_known([A]) == [ENDED]


def test_a_tag_at_the_largest_number(opened: Callable[..., Any]) -> None:
    """``fence_now`` of a key that has ended leaves it ended; its number stays one of 32 bits."""
    store = opened()
    store.fence([A], ENDED)
    assert store.fence_now([A]) == ENDED
    assert opened().lookup_now([A]) == [ENDED]


def test_a_longer_lifetime_counts_for_what_is_there(opened: Callable[..., Any], clock: Clock) -> None:
    """Raised under a lifetime of an hour; ten minutes later a process announces a day; six hours and three raises
    later the fence is there, also in the process that knew the short lifetime."""
    short = opened(lifetime_ms=HOUR_MS)
    short.fence([A], ENDED)
    clock.passes(HOUR_MS // 6)
    opened(lifetime_ms=24 * HOUR_MS).lookup_now([A])
    for key in (B, C, D):
        clock.passes(2 * HOUR_MS)
        due(short)
        short.fence([key], ENDED)
        assert short.lookup_now([A]) == [ENDED]
    assert opened(lifetime_ms=24 * HOUR_MS).lookup_now([A]) == [ENDED]


def test_what_was_dropped_is_read_again_under_a_longer_lifetime(opened: Callable[..., Any], clock: Clock) -> None:
    """A process has dropped what has expired. Then another announces a longer lifetime, for which that is not over."""
    short = opened(lifetime_ms=HOUR_MS)
    short.fence([A], ENDED)
    for _ in range(3):
        clock.passes(HOUR_MS)
        due(short)
        short.lookup([A])
    assert short.lookup([A]) == [0]
    opened(lifetime_ms=24 * HOUR_MS).lookup([A])
    due(short)
    assert short.lookup([A]) == [ENDED]


def test_what_was_passed_over_is_read_again_when_the_clock_goes_back(opened: Callable[..., Any], clock: Clock) -> None:
    """A process begins while the wall clock is ahead, and reads nothing that looks expired. Then the clock is right."""
    opened().fence([A], ENDED)
    clock.ms += 2 * HOUR_MS
    store = opened()
    assert store.lookup([A]) == [0]
    clock.ms -= 2 * HOUR_MS
    due(store)
    assert store.lookup([A]) == [ENDED]


def test_a_number_that_has_run_ahead_is_kept(opened: Callable[..., Any], clock: Clock) -> None:
    """A tag's number was pushed five hours ahead, and sessions have passed it. Kept for a lifetime of one hour only,
    it would be gone after two, and the next revocation of the tag would have a smaller number."""
    store, other = opened(), opened()
    ahead = revoked_before(clock.ms + 5 * HOUR_MS)
    store.fence([A], ahead)
    for _ in range(4):
        clock.passes(HOUR_MS)
        store.fence([B], ENDED)
        for each in (store, other, opened()):
            due(each)
            assert each.lookup_now([A]) == [ahead]
    clock.passes(2 * HOUR_MS)
    store.fence([B], ENDED)
    assert opened().lookup_now([A]) == [0]


def test_the_wall_clock_jumps_ahead_and_back_between_two_looks(opened: Callable[..., Any], clock: Clock) -> None:
    """Logout; the wall clock is two hours ahead when the periodic look drops what has expired; the clock is right
    again. The very next check, for which no look is due, still refuses the session."""
    store = opened()
    store.fence([A], ENDED)
    clock.passes(HOUR_MS // 6)
    clock.ms += 2 * HOUR_MS
    due(store)
    assert store.lookup_now([A]) == [ENDED]
    clock.ms -= 2 * HOUR_MS
    assert store.lookup_now([A]) == [ENDED]


def test_the_wall_clock_goes_back_while_nothing_is_raised(opened: Callable[..., Any], clock: Clock) -> None:
    """Logout; half a lifetime passes, and the wall clock is set back by nearly as much. More than a lifetime after the
    logout its session has still nearly half of it to live, and is refused."""
    store = opened()
    store.fence([A], ENDED)
    clock.passes(HOUR_MS // 2)
    due(store)
    store.lookup_now([A])
    clock.ms -= HOUR_MS // 2 - CLOCK_STEP_MS
    for _ in range(5):
        clock.passes(HOUR_MS // 8)
        due(store)
        assert store.lookup_now([A]) == [ENDED]


def test_the_wall_clock_goes_back_behind_a_raise(opened: Callable[..., Any], clock: Clock) -> None:
    """A fence was raised by a clock that is then set back by more than the margin: its session will live for longer
    than the fence. So all sessions from before are refused, once, by every process."""
    store, other = opened(), opened()
    store.fence([A], ENDED)
    before, created = store.lookup_now([EVERYTHING])[0], clock.ms
    other.lookup_now([EVERYTHING])
    clock.ms -= 2 * CLOCK_STEP_MS
    for each in (store, other):
        due(each)
    numbers = {each.lookup_now([EVERYTHING])[0] for each in (store, other, opened())}
    assert len(numbers) == 1
    assert numbers.pop() > before
    assert store.lookup_now([EVERYTHING])[0] * 1000 >= created


def test_a_loss_after_everything_was_revoked_again_and_again(
    opened: Callable[..., Any], clock: Clock, path: Path
) -> None:
    """Everything is revoked until that has to wait; a session has passed the last number; all files are lost. The
    genesis that a new process writes a second later is larger, so the session is refused."""
    store = opened()
    store.lookup_now([EVERYTHING])
    clock.passes(HOUR_MS)
    passed = [store.fence_now([EVERYTHING]) for _ in range(RUN_AHEAD_S // 2 + 1)]
    assert passed == sorted(set(passed))
    assert next_revoked_before(clock.ms, passed, everything=True) is None
    store.close()
    for file in path.parent.iterdir():
        file.unlink()
    clock.passes(1000)
    assert opened().lookup_now([EVERYTHING])[0] > passed[-1]


def test_what_another_thread_has_read_meanwhile_is_enough(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that has not got its turn in time is answered by what was read since it began, and by nothing older."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WAIT", 0.3)
    store, writer = opened(), opened()
    writer.fence([A], 1)
    assert store.lookup([A]) == [1]
    with ThreadPoolExecutor(1) as pool:
        for is_read in (True, False):
            writer.fence([A], 2)
            with store._read_lock:
                due(store)
                waiting = pool.submit(store.lookup, [A])
                time.sleep(0.1)
                if is_read:
                    assert store._read_rows(store._files, time.monotonic() + 5)
                    assert waiting.result() == [2]
                else:
                    with pytest.raises(StoreUnavailable, match="took too long"):
                        waiting.result()


def test_a_large_set_is_loaded_while_others_wait(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread loads the set for longer than a call waits for others: those that ask meanwhile get their answer
    when it is done, and those that raise do so as soon as they have opened the files."""
    opened().fence([A], 7)
    store = opened()
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store.WAIT", 0.1)
    learn, begun = store._learn, threading.Event()

    def learn_slowly(fences: Any) -> None:
        begun.set()
        time.sleep(0.5)
        learn(fences)

    store._learn = learn_slowly
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(store.lookup_now, [A])
        assert begun.wait(30)
        others = [pool.submit(store.lookup_now, [A]) for _ in range(4)]
        raising = pool.submit(store.fence, [B], 1)
        assert [one.result() for one in (first, *others)] == [[7]] * 5
        raising.result()
    assert opened().lookup_now([A, B]) == [7, 1]


def test_what_others_load_does_not_prolong_a_wait(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that another holds up is given up in time, however much is committed and read meanwhile."""
    store, other = opened(), opened()
    store.fence([A], 7)
    for name, seconds in (("WAIT", 0.1), ("WRITE_WAIT", 0.5), ("LONGEST_WAIT", 1.0)):
        monkeypatch.setattr(f"wsgi_rollsession.revocation.sqlite.store.{name}", seconds)
    with ThreadPoolExecutor(1) as pool, store._write_lock:
        waiting = pool.submit(store.fence, [B], 1)
        number, end = 0, time.monotonic() + 10
        while not waiting.done() and time.monotonic() < end:
            other.fence([C], number := number + 1)
            store.lookup_now([C])
        assert waiting.done()
        with pytest.raises(StoreUnavailable, match="not this one's turn"):
            waiting.result()


def test_the_replica_can_be_written_while_a_set_is_loaded(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches of rows other threads may write to the local set: a raise does not wait for the whole set."""
    monkeypatch.setattr("wsgi_rollsession.revocation.sqlite.store._BATCH", 10)
    keys = [session_key(n.to_bytes(16, "big")) for n in range(35)]
    opened().fence(keys, 1)
    store = opened()
    learn, batches = store._learn, []

    def learn_and_count(fences: Any) -> None:
        batches.append(list(fences))
        assert not store._local._lock.locked()
        learn(batches[-1])

    store._learn = learn_and_count
    assert store.lookup_now(keys) == [1] * 35
    assert [len(batch) for batch in batches] == [10, 10, 10, 6]


def test_compare_and_raise_heeds_what_the_process_knows(opened: Callable[..., Any], clock: Clock) -> None:
    """The wall clock is far ahead while a raise removes what has expired, and so a fence that is needed: the process
    that knows it refuses the raise, as it refuses the session."""
    store = opened()
    store.fence([A], 5)
    clock.ms += 2 * HOUR_MS
    store.fence([B], 1)
    assert store.lookup_now([A]) == [5]
    assert store.compare_and_raise([(A, 4)], [(A, 5)]) is False
    assert store.compare_and_raise([(A, 5)], [(A, 6)]) is True


def test_an_older_copy_in_place_in_the_middle_of_a_commit(
    opened: Callable[..., Any], path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An older copy is written over the database while a commit is: what the commit does not touch is older, and the
    file looks as if the commit had changed it. The rows are fewer than were counted, which every new process notices,
    and one that runs does so soon."""
    keys = [session_key(n.to_bytes(16, "big")) for n in range(3000)]
    store, running = opened(), opened()
    store.fence(keys[:-100], ENDED)
    older = path.read_bytes()
    store.fence(keys[-100:], ENDED)
    running.lookup(keys[:1])
    settle, created = store._files.generation.settle, clock.ms

    def replaced_and_settle(generation: Generation) -> None:
        with path.open("r+b") as file:
            newer = file.read(4096 * 4)
            file.seek(0)
            file.write(older)
            file.seek(0)
            file.write(newer)
        state = file_state(str(path))
        assert state is not None
        settle(generation._replace(file=state))

    clock.passes(60_000)
    store._files.generation.settle = replaced_and_settle
    store.fence([A], ENDED)
    running._census_at = 0.0
    for each in (running, opened()):
        due(each)
        (everything,) = each.lookup([EVERYTHING])
        assert created <= everything * 1000
    assert sum("has lost fences" in record.getMessage() for record in caplog.records) == 1
