"""What can break under a SQLite store: no confirmed fence is lost, or the loss is seen and the sessions refused.

Set ROLLSESSION_FAULT_REPORT to the name of a file to have each test append what it promised and observed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, session_key
from wsgi_rollsession.revocation.sqlite import SQLiteRevocations
from wsgi_rollsession.revocation.sqlite.store import PERIOD, WAIT

from .workers import HOUR_MS, Worker, eventually, report

A, B, C = (session_key(bytes([n]) * 16) for n in range(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revocations.db"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_one(**options: bool) -> Worker:
        workers.append(Worker(f"sqlite:///{path}", **options))
        with suppress(StoreUnavailable):
            workers[-1].call("lookup", [A])
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.kill()


def refuses(worker: Worker, key: bytes, created_ms: int) -> bool:
    """Whether a session that was ended, and created at *created_ms*, is refused by what *worker* answers."""
    number, everything = worker.call("lookup_now", [key, EVERYTHING])
    return bool(number == ENDED or created_ms <= everything * 1000)


def created_now(worker: Worker) -> int:
    """When (Unix milliseconds) a session is created now, under the everything-fence that *worker* sees."""
    return int(max(time.time() * 1000, worker.call("lookup_now", [EVERYTHING])[0] * 1000 + 1))


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def copy(path: Path, to: Path) -> None:
    """A backup as one should be made."""
    source, target = sqlite3.connect(path), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


def test_the_disk_is_full(start: Callable[..., Worker]) -> None:
    """Raises fail, what is confirmed stays refused everywhere, and raising works again when there is room."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    one.call("limit_files")
    confirmed, refused = [], 0
    for n in range(400):
        key = n.to_bytes(16, "big")
        try:
            one.call("fence", [key], ENDED)
            confirmed.append(key)
        except StoreUnavailable:
            refused += 1
            break
    assert refused == 1
    for worker in (one, other):
        assert worker.call("last_known" if worker is one else "lookup_now", [A]) == [ENDED]
    one.call("unlimit_files")

    def raises_again() -> bool:
        try:
            one.call("fence", [B], ENDED)
        except StoreUnavailable:
            return False
        return True

    seconds = eventually(raises_again)
    keys = [A, B, *confirmed]
    assert one.call("lookup_now", keys) == other.call("lookup_now", keys) == [ENDED] * len(keys)
    assert start().call("lookup_now", keys) == [ENDED] * len(keys)
    report(
        "the disk is full",
        "logouts fail with an error, nothing confirmed is lost, recovery without a restart",
        f"{len(keys)} of {len(keys)} confirmed fences held in 3 processes; raised again {seconds:.1f} s after room was"
        " made",
    )


def test_the_files_are_deleted(start: Callable[..., Worker], path: Path) -> None:
    """Every process notices within a period, and refuses what was created before; those that knew a fence keep it."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    other.call("lookup_now", [A])
    created = created_now(one)
    assert one.call("lookup_now", [EVERYTHING])[0] * 1000 < created
    remove(path, "", "-wal", "-shm", "-stamp")
    begun = time.monotonic()
    while time.monotonic() < begun + 3 * PERIOD:
        for worker in (one, other):
            assert refuses(worker, A, created)
            if created > worker.call("lookup_now", [EVERYTHING])[0] * 1000:
                seconds = time.monotonic() - begun  # when one of them had not noticed yet
    for worker in (one, other, start()):
        assert created <= worker.call("lookup_now", [EVERYTHING])[0] * 1000
    one.call("fence", [B], ENDED)
    assert other.call("lookup_now", [B]) == [ENDED]
    report(
        "the database and its companions are deleted under running workers",
        "the loss is detected; sessions created before it are refused; running workers still know the fences",
        f"detected after {seconds:.1f} s; the old session refused in 3 of 3 processes; raises shared again",
    )


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")], ids=" and ".join)
def test_the_write_ahead_log_is_deleted(start: Callable[..., Worker], path: Path, suffixes: tuple[str, ...]) -> None:
    """A knows x; -wal and -shm are deleted under it; B starts, and opens new ones; A raises y, B raises z, and both are
    confirmed: each is seen by the other at once. What only the deleted log had is lost, which is noticed."""
    one = start()
    one.call("fence", [A], ENDED)
    created = created_now(one)
    remove(path, *suffixes)
    other = start()
    eventually(lambda: works(one, "fence", [B], ENDED))
    eventually(lambda: works(other, "fence", [C], ENDED))
    for worker in (one, other, start()):
        eventually(
            lambda worker=worker: works(worker, "lookup_now", [B, C])
        )  # at first it may be unavailable, not wrong
        assert worker.call("lookup_now", [B, C]) == [ENDED, ENDED]
        assert refuses(worker, A, created)
    report(
        f"{' and '.join(f'`{suffix}`' for suffix in suffixes)} deleted under a running worker",
        "never two sets: what was confirmed after the deletion is seen by all; if fences were lost, that is noticed",
        "raises of both sides seen by 3 of 3 processes; the session ended before was refused by all",
    )


def works(worker: Worker, *order: Any) -> bool:
    """Whether *worker* did it: False if the store was unavailable."""
    try:
        worker.call(*order)
    except StoreUnavailable:
        return False
    return True


def test_a_raise_after_the_deletion_is_not_lost(start: Callable[..., Worker], path: Path) -> None:
    """A raise into a file that was just deleted is made again in the new one before it is confirmed."""
    one, other = start(), start()
    remove(path, "", "-wal", "-shm")
    one.call("fence", [A], ENDED)  # at once: no periodic look has taken place
    assert start().call("lookup_now", [A]) == [ENDED]
    eventually(lambda: other.call("lookup_now", [A]) == [ENDED])
    report(
        "a logout right after the database was deleted",
        "it is confirmed only once it is in the file that others open",
        "a process started afterwards refused the session",
    )


@pytest.mark.parametrize("stamp", ["kept", "gone"])
def test_the_database_is_replaced_by_an_older_copy(start: Callable[..., Worker], path: Path, stamp: str) -> None:
    """Restoring a backup under running workers refuses every session that was created before."""
    one, other = start(), start()
    one.call("fence", [B], ENDED)
    copy(path, path.parent / "backup")
    one.call("fence", [A], ENDED)
    created = created_now(one)
    other.call("lookup_now", [A])
    remove(path, "-wal", "-shm", *(["-stamp"] if stamp == "gone" else []))
    os.replace(path.parent / "backup", path)
    seconds = eventually(lambda: created <= other.call("lookup_now", [EVERYTHING])[0] * 1000)
    for worker in (one, other, start()):
        eventually(lambda worker=worker: created <= worker.call("lookup_now", [EVERYTHING])[0] * 1000)
        assert refuses(worker, A, created)
        assert worker.call("lookup_now", [B]) == [ENDED]
    everything = one.call("lookup_now", [EVERYTHING])
    time.sleep(2 * PERIOD)
    assert one.call("lookup_now", [EVERYTHING]) == other.call("lookup_now", [EVERYTHING]) == everything
    report(
        f"the database is replaced by an older copy under running workers, the stamp file {stamp}",
        "the loss is detected, once; sessions created before it are refused",
        f"detected after {seconds:.1f} s; the session whose fence the copy lacks refused in 3 of 3 processes",
    )


@pytest.mark.parametrize("lost", [1, 5])
def test_an_older_copy_is_restored_in_place(start: Callable[..., Worker], path: Path, lost: int) -> None:
    """A restore through SQLite, which keeps the file and changes what is in it, is noticed as well."""
    one, other = start(), start()
    copy(path, path.parent / "backup")
    for _ in range(lost):
        one.call("fence", [A], ENDED)
    created = created_now(one)
    copy(path.parent / "backup", path)
    other.call("fence", [B], ENDED)  # which uses the sequence number of a row that was lost
    seconds = eventually(lambda: created <= other.call("lookup_now", [EVERYTHING])[0] * 1000)
    for worker in (one, other, start()):
        eventually(lambda worker=worker: created <= worker.call("lookup_now", [EVERYTHING])[0] * 1000)
        assert refuses(worker, A, created)
    everything = one.call("lookup_now", [EVERYTHING])
    begun = time.monotonic()
    while time.monotonic() < begun + 2 * PERIOD:  # nobody acts on it again
        assert (
            one.call("lookup_now", [EVERYTHING, B]) == other.call("lookup_now", [EVERYTHING, B]) == [*everything, ENDED]
        )
    report(
        f"an older copy, {lost} raises behind, is restored into the database under running workers, by SQLite itself",
        "the loss is detected; sessions created before it are refused",
        f"detected after {seconds:.1f} s; the session whose fence the copy lacks refused in 3 of 3 processes",
    )


def test_an_older_copy_is_restored_while_nothing_runs(start: Callable[..., Worker], path: Path) -> None:
    """The stamp remembers how far the database was, so a backup restored before a restart is noticed, too."""
    one = start()
    copy(path, path.parent / "backup")
    one.call("fence", [A], ENDED)
    created = created_now(one)
    one.call("close")
    one.kill()
    remove(path, "-wal", "-shm")
    os.replace(path.parent / "backup", path)
    worker = start()
    assert worker.call("lookup_now", [A]) == [0]
    assert refuses(worker, A, created)
    report(
        "an older copy of the database is restored while no worker runs",
        "the loss is detected by the stamp file; sessions created before it are refused",
        "the session whose fence the copy lacks was refused at the first check",
    )


def test_the_loss_can_be_accepted(start: Callable[..., Worker], path: Path) -> None:
    """With ``accept_amnesia``, a replaced database refuses nobody anew; running workers keep what they knew."""
    one = start(accept_amnesia=True)
    one.call("fence", [A], ENDED)
    remove(path, "", "-wal", "-shm")
    eventually(lambda: one.call("lookup_now", [A]) == [ENDED] and path.exists())
    assert one.call("lookup_now", [A, EVERYTHING]) == [ENDED, 0]


def test_the_database_is_overwritten_in_place(start: Callable[..., Worker], path: Path) -> None:
    """Garbage in place of the database makes the store unavailable, or is outlived; it never crashes a worker."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    other.call("lookup_now", [A])
    with path.open("r+b") as file:
        file.write(b"garbage!" * 1024)
    outcomes = set()
    for _ in range(20):
        for worker in (one, other):
            try:
                assert worker.call("lookup_now", [A]) == [ENDED]
                outcomes.add("the fence held")
            except StoreUnavailable:
                outcomes.add("StoreUnavailable")
            try:
                worker.call("fence", [B], ENDED)
            except StoreUnavailable:
                outcomes.add("StoreUnavailable")
            assert worker.call("last_known", [A]) == [ENDED]
        time.sleep(PERIOD / 10)
    report(
        "the database is overwritten with garbage in place",
        "StoreUnavailable, never a crash; running workers still know the fences",
        f"{' or '.join(sorted(outcomes))}; both workers alive and still knew the fence",
    )


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_the_stamp_is_lost(start: Callable[..., Worker], path: Path, how: str) -> None:
    """Without its stamp file a worker is current again after a period at the latest, and nothing is lost."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    if how == "deleted":
        remove(path, "-stamp")
    else:
        shutil.copy(f"{path}-stamp", path.parent / "copy")
        os.replace(path.parent / "copy", f"{path}-stamp")
    third = start()
    third.call("fence", [B], ENDED)
    seconds = eventually(
        lambda: one.call("lookup_now", [A, B]) == other.call("lookup_now", [A, B]) == [ENDED, ENDED],
    )
    for number in range(1, 10):
        one.call("fence", [C], number)
        assert other.call("lookup_now", [C]) == third.call("lookup_now", [C]) == [number]
    report(
        f"the stamp file is {how} under running workers",
        f"nothing is lost; a running worker may be {PERIOD:g} s behind, once",
        f"all workers current after {seconds:.1f} s, and at once from then on",
    )


def test_the_database_is_locked_for_seconds(start: Callable[..., Worker], path: Path) -> None:
    """Reads go on, raises fail within the documented bound, and both work when the lock is gone."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    begun, slowest, reads = time.monotonic(), 0.0, 0
    while time.monotonic() < begun + 3 * WAIT:
        call = time.monotonic()
        with pytest.raises(StoreUnavailable):
            one.call("fence", [B], ENDED)
        slowest = max(slowest, time.monotonic() - call)
        assert one.call("lookup_now", [A]) == other.call("lookup_now", [A]) == [ENDED]
        reads += 2
    assert slowest < WAIT + 5  # generous: the machine may be busy
    blocker.execute("ROLLBACK")
    blocker.close()

    def raises_again() -> bool:
        try:
            one.call("fence", [B], ENDED)
        except StoreUnavailable:
            return False
        return True

    seconds = eventually(raises_again)
    assert other.call("lookup_now", [A, B]) == [ENDED, ENDED]
    report(
        f"another process locks the database for {3 * WAIT:g} s",
        f"reads go on; a logout fails within {WAIT:g} s; recovery without a restart",
        f"{reads} of {reads} reads answered; slowest failure {slowest:.1f} s; raised again after {seconds:.1f} s",
    )


def test_a_worker_is_killed_in_the_middle_of_a_write(start: Callable[..., Worker], path: Path) -> None:
    """Whenever a worker is killed, every raise that it had confirmed holds, and the others go on."""
    other = start()
    held = 0
    for round in range(8):
        victim = start()
        victim.begin("raise_until_killed")
        last = -1
        stop = 20 + 7 * round
        while last < stop:
            last = victim.answer()
        victim.process.kill()
        victim.process.join()
        keys = [n.to_bytes(16, "big") for n in range(last + 1)]
        assert other.call("lookup_now", keys) == [n + 1 for n in range(last + 1)]
        other.call("fence", [A], round + 1)
        held += len(keys)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    report(
        "a worker is killed (SIGKILL) in the middle of its writes, 8 times",
        "every confirmed fence is kept, and seen by the others at once",
        f"{held} of {held} confirmed fences held; the database is intact",
    )


def test_a_writer_dies_between_commit_and_stamp(start: Callable[..., Worker]) -> None:
    """A raise that was committed and not announced was not confirmed; the others see it after a period at most."""
    reader, writer = start(), start()
    writer.call("die_before_stamp")
    writer.begin("fence", [A], ENDED)
    writer.process.join(30)
    seconds = eventually(lambda: reader.call("lookup_now", [A]) == [ENDED])
    report(
        "a writer is killed between its commit and its stamp",
        f"the logout was not confirmed; it takes effect within {PERIOD:g} s all the same",
        f"seen by another process after {seconds:.1f} s",
    )


def test_a_worker_that_cannot_open_it(path: Path) -> None:
    """A store whose directory vanished is unavailable, not a crash, and works when the directory is back."""
    store = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))
    away = path.parent.with_name("away")
    path.parent.rename(away)
    with pytest.raises(StoreUnavailable):
        store.lookup([A])
    with pytest.raises(StoreUnavailable):
        store.fence([A], ENDED)
    assert store.last_known([A]) == [0]
    away.rename(path.parent)

    def works() -> bool:
        try:
            store.fence([A], ENDED)
            return list(store.lookup([A])) == [ENDED]
        except StoreUnavailable:
            return False

    eventually(works)
    store.close()
