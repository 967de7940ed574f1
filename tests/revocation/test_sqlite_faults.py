"""What can break under a SQLite store: no confirmed fence is lost, or the loss is seen and the sessions refused.

Set ROLLSESSION_FAULT_REPORT to the name of a file to have each test append what it promised and observed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, session_key
from wsgi_rollsession.revocation.sqlite import SQLiteRevocations
from wsgi_rollsession.revocation.sqlite.store import PERIOD, WRITE_WAIT

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
    remove(path, "", "-journal", "-stamp")
    begun, seconds = time.monotonic(), 0.0
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


def everything(worker: Worker) -> int:
    return int(worker.call("lookup_now", [EVERYTHING])[0])


@pytest.mark.parametrize("suffixes", [("-journal",), ("-stamp",), ("-journal", "-stamp")], ids=" and ".join)
def test_what_is_beside_the_database_is_deleted(
    start: Callable[..., Worker], path: Path, suffixes: tuple[str, ...]
) -> None:
    """A knows x; what is beside the database is deleted under it; B starts; A raises y, B raises z, and both are
    confirmed: each is seen by the other at once, x is still known to both, and nobody is logged out."""
    one = start()
    one.call("fence", [A], ENDED)
    before = everything(one)
    remove(path, *suffixes)
    time.sleep(0.05)  # longer than a look holds
    one.call("lookup_now", [A])
    other = start()
    one.call("fence", [B], ENDED)
    other.call("fence", [C], ENDED)
    for worker in (one, other, start()):
        assert worker.call("lookup_now", [A, B, C]) == [ENDED, ENDED, ENDED]
        assert everything(worker) == before
    report(
        f"{' and '.join(f'`{suffix}`' for suffix in suffixes)} deleted under a running worker",
        "a running process knows that the database is complete, and says so: nothing is lost, nobody is logged out",
        "raises of both sides, and the one before, seen by 3 of 3 processes at once",
    )


def test_a_worker_is_killed_and_what_is_beside_the_database_deleted(
    start: Callable[..., Worker], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody runs who could know whether the database is complete: all sessions from before are refused."""
    one = start()
    keys = [n.to_bytes(16, "big") for n in range(50)]
    for key in keys:
        one.call("fence", [key], ENDED)
    created = created_now(one)
    one.kill()
    remove(path, "-journal", "-stamp")
    store = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))
    assert store.lookup_now([EVERYTHING])[0] * 1000 >= created
    assert list(store.lookup_now(keys)) == [ENDED] * 50
    store.close()
    assert errors(caplog) == 1
    report(
        "a worker is killed, then everything beside the database is deleted (`rm r.db-*`), while nothing runs",
        "it cannot be known whether the database is complete: sessions from before are refused; one ERROR",
        "all 50 sessions that were ended before refused; one ERROR",
    )


def errors(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelname == "ERROR" and "has lost fences" in record.getMessage() for record in caplog.records)


def test_an_older_copy_and_as_many_raises_as_it_lacks(start: Callable[..., Worker], path: Path) -> None:
    """An older copy is renamed over the database, and a process that did not know raises until the length agrees."""
    one, other = start(), start()
    shutil.copy2(path, path.parent / "backup")
    shutil.copy2(f"{path}-stamp", path.parent / "backup-stamp")
    for n in range(5):
        one.call("fence", [bytes([n]) * 16], ENDED)
    created = created_now(one)
    one.kill()
    os.replace(path.parent / "backup", path)
    os.replace(path.parent / "backup-stamp", f"{path}-stamp")
    third = start()
    for n in range(5):
        third.call("fence", [bytes([n + 5]) * 16], ENDED)
    for worker in (other, third, start()):
        for n in range(5):
            assert refuses(worker, bytes([n]) * 16, created)
    report(
        "an older copy of database and stamp renamed over them under a running worker, then as many raises as it lacks",
        "the history tells, not its length: sessions from before are refused",
        "the 5 sessions whose fences it lacks refused in 3 of 3 processes",
    )


def test_a_journal_of_another_time(start: Callable[..., Worker], path: Path) -> None:
    """The journal of a transaction that was under way is put back beside a newer database: SQLite undoes what it says,
    which is noticed."""
    one = start()
    one.call("fence", [A], ENDED)
    one.kill()
    half_way = sqlite3.connect(path, isolation_level=None)
    half_way.execute("PRAGMA journal_mode = PERSIST")
    half_way.execute("PRAGMA cache_size = 1")
    half_way.execute("BEGIN IMMEDIATE")
    rows = [(seq, seq.to_bytes(16, "big")) for seq in range(1000, 3000)]
    half_way.executemany("INSERT INTO fences VALUES (?, ?, 1, 1)", rows)  # so many that they are written before
    shutil.copy2(f"{path}-journal", path.parent / "journal")
    half_way.execute("ROLLBACK")
    half_way.close()
    two = start()
    two.call("fence", [B], ENDED)
    created = created_now(two)
    two.kill()
    shutil.copy2(path.parent / "journal", f"{path}-journal")
    three = start()
    assert refuses(three, A, created)
    assert refuses(three, B, created)
    three.call("fence", [C], ENDED)
    assert start().call("lookup_now", [C]) == [ENDED]
    report(
        "the journal of an older, unfinished transaction is put back beside the database",
        "what SQLite undoes by it is noticed; sessions from before are refused",
        "both sessions that were ended before refused",
    )


@pytest.mark.parametrize("what", ["-stamp", "-journal", ""])
@pytest.mark.parametrize("how", ["truncated", "overwritten by an equal file", "overwritten with garbage"])
def test_no_file_operation_kills_a_worker(start: Callable[..., Worker], path: Path, what: str, how: str) -> None:
    """Whatever is done to a file, in place and again and again while workers check and raise: they live, what was
    confirmed is refused, and they raise again."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    created = created_now(one)
    file = Path(f"{path}{what}")
    for _ in range(2):
        if how == "truncated":
            os.truncate(file, file.stat().st_size // 3)
        elif how == "overwritten by an equal file":
            shutil.copy(file, path.parent / "equal")
            shutil.copy(path.parent / "equal", file)
        else:
            with file.open("r+b") as opened:
                opened.write(os.urandom(5000))
        for worker in (one, other):
            eventually(lambda worker=worker: works(worker, "fence", [B], ENDED))
            assert refuses(worker, A, created)
    assert start().call("lookup_now", [B]) == [ENDED]
    assert one.process.is_alive()
    assert other.process.is_alive()
    report(
        f"{f'`{what}`' if what else 'the database'} is {how}, in place, twice, under running workers",
        "no worker dies; what was confirmed is refused; logouts work again, into what all can read",
        "both workers alive, the session refused, a logout after it seen by a new process",
    )


def test_a_damaged_database_is_set_aside(
    path: Path, caplog: pytest.LogCaptureFixture, start: Callable[..., Worker]
) -> None:
    """Garbage in place of the database is renamed, the set begins anew with a genesis, and that is told once."""
    one = start()
    one.call("fence", [A], ENDED)
    created = created_now(one)
    one.kill()
    path.write_bytes(b"garbage!" * 4096)
    path.chmod(0o640)
    store = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))
    store.fence([B], ENDED)
    assert store.lookup_now([EVERYTHING])[0] * 1000 >= created
    assert Path(f"{path}-damaged").read_bytes() == b"garbage!" * 4096
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert errors(caplog) == 1
    assert start().call("lookup_now", [B, EVERYTHING]) == store.lookup_now([B, EVERYTHING])
    store.close()
    report(
        "the database is overwritten with garbage while nothing runs",
        "it is set aside and begun anew; sessions from before are refused; one ERROR names both files",
        "a logout worked at once; the session ended before was refused; one ERROR",
    )


@pytest.mark.parametrize("exists", [True, False], ids=["old database", "new database"])
def test_root_is_the_first_to_use_it(path: Path, exists: bool) -> None:
    """Root revokes while no worker runs: what it creates belongs to whom the database belongs to, and a new database
    to whom its directory belongs to."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    nobody = 65534
    os.chown(path.parent, nobody, nobody)
    if exists:
        path.touch()
        path.chmod(0o660)
        os.chown(path, nobody, nobody)
    store = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))
    store.fence_now([EVERYTHING])
    store.close()
    for suffix in ("", "-stamp", "-journal"):
        found = os.stat(f"{path}{suffix}")
        assert (found.st_uid, found.st_gid) == (nobody, nobody), suffix
        assert stat.S_IMODE(found.st_mode) == stat.S_IMODE(path.stat().st_mode), suffix
    report(
        "root runs `rollsession revoke` while no worker runs",
        "files belong to the owner of the database, and have its mode; a new database belongs to its directory's owner",
        "owner and mode of `-stamp` and `-journal` are those of the database",
    )


def test_a_hard_link(path: Path) -> None:
    """A database with two names is refused: a stamp belongs to one of them."""
    one = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))
    one.fence([A], ENDED)
    other = path.parent / "other.db"
    os.link(path, other)
    for name in (path, other):
        with pytest.raises(ConfigurationError, match=r"one name.*a hard link"):
            SQLiteRevocations(str(name), StoreOptions(lifetime_ms=HOUR_MS))
    one.close()
    report(
        "the database file has a second name (a hard link)",
        "whoever starts under either name is refused, with the reason",
        "ConfigurationError under both names",
    )


def test_a_bind_mount_of_the_file(path: Path) -> None:
    """Where just the file is mounted, without what is beside it, it is refused; a mounted directory is fine."""
    with closing(SQLiteRevocations(str(path), StoreOptions(lifetime_ms=HOUR_MS))) as store:
        store.fence([A], ENDED)
    elsewhere = path.parent / "else where"
    elsewhere.mkdir()
    (elsewhere / "r.db").touch()
    program = (
        "import sys; from wsgi_rollsession.revocation import StoreOptions, open_store\n"
        "store = open_store('sqlite:///' + sys.argv[1], StoreOptions(3600000))\n"
        "print(store.lookup_now([bytes.fromhex(sys.argv[2])]))"
    )
    script = 'mount --bind "$0" "$1" && exec "$2" -c "$3" "$4" "$5"'
    unshare = ["unshare", "-m", "sh", "-c", script]

    def run(what: Path, where: Path, database: Path) -> subprocess.CompletedProcess[str]:
        python = [sys.executable, program, str(database), A.hex()]
        return subprocess.run([*unshare, str(what), str(where), *python], capture_output=True, text=True)

    directory = run(path.parent, elsewhere, elsewhere / "revocations.db")
    if "lookup" not in directory.stderr and directory.returncode:
        pytest.skip(f"needs to be allowed to mount: {directory.stderr.strip()}")
    assert directory.stdout == f"[{ENDED}]\n"
    file = run(path, elsewhere / "r.db", elsewhere / "r.db")
    assert "mounted by itself" in file.stderr
    report(
        "the database file is mounted at a second path (a bind mount of the file, as in `-v /host/r.db:/app/r.db`)",
        "refused where it is mounted; a mount of its directory is fine",
        "ConfigurationError; with the directory mounted, a logout of the other side is seen",
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
    remove(path, "", "-journal")
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
    remove(path, "-journal", *(["-stamp"] if stamp == "gone" else []))
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
    remove(path, "-journal")
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
    remove(path, "", "-journal")
    eventually(lambda: one.call("lookup_now", [A]) == [ENDED] and path.exists())
    assert one.call("lookup_now", [A, EVERYTHING]) == [ENDED, 0]


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
        "nothing is lost; a running worker may be some milliseconds behind, once",
        f"all workers current after {seconds:.1f} s, and at once from then on",
    )


def test_the_database_is_locked_for_seconds(start: Callable[..., Worker], path: Path) -> None:
    """Reads go on, raises fail within the documented bound, and both work when the lock is gone."""
    one, other = start(), start()
    one.call("fence", [A], ENDED)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    begun, slowest, reads = time.monotonic(), 0.0, 0
    while time.monotonic() < begun + WRITE_WAIT + 1:
        call = time.monotonic()
        with pytest.raises(StoreUnavailable):
            one.call("fence", [B], ENDED)
        slowest = max(slowest, time.monotonic() - call)
        assert one.call("lookup_now", [A]) == other.call("lookup_now", [A]) == [ENDED]
        reads += 2
    assert slowest < WRITE_WAIT + 5  # generous: the machine may be busy
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
        f"another process locks the database for {WRITE_WAIT + 1:g} s",
        f"reads go on; a logout fails within {WRITE_WAIT:g} s; recovery without a restart",
        f"{reads} of {reads} reads answered; slowest failure {slowest:.1f} s; raised again after {seconds:.1f} s",
    )


def test_a_worker_is_killed_in_the_middle_of_a_write(start: Callable[..., Worker], path: Path) -> None:
    """Whenever a worker is killed, every raise that it had confirmed holds, and the others go on."""
    other = start()
    before = everything(other)
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
    assert everything(other) == before
    other.kill()
    assert everything(start()) == before
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
