"""What two choices of the SQLite store cost: a rollback journal, not WAL, and a stamp that is read, not mapped.

``python -m benchmarks.sqlite_choices [directory on the disk that is meant]``
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

JOURNALS = (("WAL", "FULL"), ("PERSIST", "FULL"), ("TRUNCATE", "FULL"), ("DELETE", "EXTRA"))
COMMITS = 100
#: Repetitions, each journal after the other, so that a busy disk is busy for all of them.
ROUNDS = 5
LEASE = 0.008


def commits(directory: Path, journal: str, synchronous: str) -> list[float]:
    """Seconds of commits as the store makes them: a row, a mark, and the stamp, on the disk."""
    connection = sqlite3.connect(directory / "r.db", isolation_level=None)
    execute = connection.execute
    execute(f"PRAGMA journal_mode = {journal}")
    execute(f"PRAGMA synchronous = {synchronous}")
    execute("CREATE TABLE fences (seq INTEGER PRIMARY KEY, key BLOB UNIQUE, number INTEGER, raised INTEGER)")
    execute("CREATE INDEX fences_raised ON fences (raised)")
    execute("CREATE TABLE history (sequence INTEGER PRIMARY KEY, id INTEGER, at INTEGER)")
    stamp = os.open(directory / "r.db-stamp", os.O_RDWR | os.O_CREAT)
    seconds = []
    for n in range(COMMITS + 10):
        began = time.perf_counter()
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO fences VALUES (?, ?, ?, ?)", (n, os.urandom(16), 1, n))
        execute("INSERT INTO history VALUES (?, ?, ?)", (n, n, n))
        execute("COMMIT")
        os.pwrite(stamp, os.urandom(88), 0)
        os.fsync(stamp)
        seconds.append(time.perf_counter() - began)
    connection.close()
    os.close(stamp)
    return seconds[10:]


def looks(directory: Path) -> dict[str, Callable[[], object]]:
    """The ways to find out that nothing has changed, each with a look-up of three keys."""
    path = directory / "stamp"
    path.write_bytes(os.urandom(4096))
    stamp = os.open(path, os.O_RDWR)
    view = memoryview(mmap.mmap(stamp, 88, access=mmap.ACCESS_READ)).cast("Q")
    seen, content, held = view[0], os.pread(stamp, 88, 0), {b"%016d" % n: n for n in range(1000)}
    keys, state = [b"%016d" % n for n in (3, 7, 2000)], os.stat(path)
    until = 0.0
    monotonic = time.monotonic

    def numbers() -> list[int]:
        return [held[key] if key in held else 0 for key in keys]

    def mapping() -> list[int]:
        assert view[0] == seen
        return numbers()

    def each_time() -> list[int]:
        assert os.pread(stamp, 88, 0) == content
        return numbers()

    def once_a_lease() -> list[int]:
        nonlocal until
        if monotonic() >= until:
            began = monotonic()
            assert os.pread(stamp, 88, 0) == content
            assert os.stat(path).st_ino == os.stat(path).st_ino == state.st_ino
            until = began + LEASE
        return numbers()

    return {"a mapping": mapping, "pread": each_time, "pread and stat once a lease": once_a_lease}


def alone(look: Callable[[], object], count: int = 100_000) -> float:
    """Seconds a look."""
    began = time.perf_counter()
    for _ in range(count):
        look()
    return (time.perf_counter() - began) / count


def among_threads(look: Callable[[], object], threads: int = 8, for_s: float = 2.0) -> list[float]:
    """Seconds that a look takes in a thread of a busy gthread worker, which computes for a while between two."""
    seconds: list[float] = []
    end = time.monotonic() + for_s

    def serve() -> None:
        while time.monotonic() < end:
            sum(range(10_000))
            began = time.perf_counter()
            look()
            seconds.append(time.perf_counter() - began)
            os.stat("/")  # stands for the socket: the interpreter lock is released

    workers = [threading.Thread(target=serve) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sorted(seconds)


def main(directory: str | None = None) -> None:
    print(f"load {os.getloadavg()[0]:.1f}, SQLite {sqlite3.sqlite_version}")
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for journal, synchronous in JOURNALS:
            with tempfile.TemporaryDirectory(dir=directory) as place:
                found.setdefault(f"{journal}, {synchronous}", []).extend(commits(Path(place), journal, synchronous))
    for name, seconds in found.items():
        seconds.sort()
        print(f"{name}: a commit {median(seconds) * 1e3:.1f} ms, p99 {seconds[len(seconds) * 99 // 100] * 1e3:.1f} ms")
    with tempfile.TemporaryDirectory() as place:
        for name, look in looks(Path(place)).items():
            best = min(alone(look) for _ in range(5))
            busy = among_threads(look)
            mean, p99 = sum(busy) / len(busy), busy[len(busy) * 99 // 100]
            print(f"{name}: a check {best * 1e6:.2f} µs; in one of 8 busy threads", end=" ")
            print(f"mean {mean * 1e6:.0f} µs, p99 {p99 * 1e3:.2f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
