"""Everybody logs out at once: processes with some threads each, all in one SQLite store.

``python -m benchmarks.storm --processes 64 --threads 4 --rounds 3``
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

#: Milliseconds that a fence lives: longer than any run.
LIFETIME = 3_600_000


def serve(path: str, threads: int, rounds: int, number: int, ready: Any, begin: Any, results: Any) -> None:
    """One process. Its threads log out, *rounds* times each, and then each asks for what it has raised."""
    from wsgi_rollsession import StoreUnavailable
    from wsgi_rollsession.revocation import StoreOptions, open_store
    from wsgi_rollsession.revocation.fence import ENDED

    store = open_store(f"sqlite:///{path}", StoreOptions(LIFETIME))
    seconds: list[float] = []
    failures: list[str] = []

    def log_out(thread: int) -> None:
        for turn in range(rounds):
            key = b"%05d %03d %03d..." % (number, thread, turn)
            began = time.perf_counter()
            try:
                store.fence([key], ENDED)
            except StoreUnavailable as error:
                failures.append(str(error))
            else:
                seconds.append(time.perf_counter() - began)
                if store.lookup_now([key])[0] != ENDED:
                    failures.append("confirmed and forgotten")

    store.lookup_now([b"." * 16])
    workers = [threading.Thread(target=log_out, args=(thread,)) for thread in range(threads)]
    ready.release()
    begin.wait()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    store.close()
    results.put((seconds, failures))


def storm(path: Path, processes: int, threads: int, rounds: int) -> dict[str, Any]:
    """What *processes* x *threads* logouts at once took, *rounds* times without a pause, and which of them failed."""
    spawn = multiprocessing.get_context("spawn")
    ready, begin, results = spawn.Semaphore(0), spawn.Event(), spawn.Queue()
    arguments = [(str(path), threads, rounds, number, ready, begin, results) for number in range(processes)]
    workers = [spawn.Process(target=serve, args=each, daemon=True) for each in arguments]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    began = time.perf_counter()
    begin.set()
    found = [results.get(timeout=300) for _ in workers]
    total = time.perf_counter() - began
    for worker in workers:
        worker.join()
    seconds = sorted(each for one, _ in found for each in one)
    failures = [each for _, some in found for each in some]
    return {
        "logouts": len(seconds),
        "failures": len(failures),
        "first_failure": failures[0] if failures else "",
        "total_s": total,
        "median_s": seconds[len(seconds) // 2],
        "p99_s": seconds[len(seconds) * 99 // 100],
        "longest_s": seconds[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("processes", 64), ("threads", 4), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--directory", help="where the database is to be", default=tempfile.gettempdir())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollsession-storm-", dir=options.directory) as directory:
        found = storm(Path(directory, "r.db"), options.processes, options.threads, options.rounds)
    found = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
    print(f"load {os.getloadavg()[0]:.1f}:", ", ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
