"""Whether the cost stays flat while the revocation set grows: 10^3 to 10^7 fences in every store and in the follower.

One process fills a store and measures it; another then opens what is there, and tells how long that took and what
memory it holds. Run by itself: ``python -m benchmarks.scale --role fill --store sqlite --url … --count 1000 --facts …``
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from math import log10
from pathlib import Path
from statistics import median
from typing import Any

from .cost import PYPERF
from .servers import redis_server

#: Milliseconds that a fence lives here: longer than any run.
LIFETIME = 6 * 3_600_000
CHUNK = {"memory": 10_000, "sqlite": 10_000, "redis": 500}
#: Revocations by which the purge is measured.
PURGES = 200
STORES = ("memory", "sqlite", "redis")


def digests(count: int, start: int = 0) -> Iterator[bytes]:
    """*count* keys that any process can compute again: evenly spread, as hashes are."""
    from hashlib import blake2b

    for number in range(start, start + count):
        yield blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def fill(store: Any, kind: str, count: int) -> float:
    """Raise *count* fences, many in a call. Seconds."""
    from wsgi_rollsession.revocation.fence import ENDED

    size, seconds = CHUNK[kind], 0.0
    for start in range(0, count, size):
        keys = list(digests(min(size, count - start), start))
        began = time.perf_counter()
        store.fence(keys, ENDED)
        seconds += time.perf_counter() - began
    return seconds


def questions(count: int) -> Iterator[Sequence[bytes]]:
    """What loads ask: everything, a session and one tag. Half of the sessions have been ended."""
    from wsgi_rollsession.revocation.fence import EVERYTHING

    step = max(1, count // 500)
    ended = [next(digests(1, number)) for number in range(0, count, step)][:500]
    living = list(digests(500 + 1, 1 << 60))
    tag = living.pop()
    return cycle([(EVERYTHING, key, tag) for pair in zip(ended, living) for key in pair])


def resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def wait_until_followed(store: Any, count: int) -> None:
    """Ask until the follower's local set answers by itself."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        store.lookup(next(questions(count)))  # the first one starts the follower
        if time.monotonic() < store._follower.fresh_until:
            return
        time.sleep(0.01)
    raise TimeoutError("the follower did not catch up in 600 s")


def main() -> None:
    import pyperf

    from wsgi_rollsession.revocation import StoreOptions, open_store
    from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING

    runner = pyperf.Runner()
    for option in ("--role", "--store", "--url", "--count", "--facts"):
        runner.argparser.add_argument(option, required=True)
    arguments = runner.parse_args()
    kind, count = arguments.store, int(arguments.count)
    facts: dict[str, Any] = {}

    def timed(name: str, function: Callable[[], Any]) -> None:
        facts[name] = median(runner.bench_func(name, function).get_values())

    before = resident()
    store = open_store(arguments.url, StoreOptions(lifetime_ms=LIFETIME))
    began = time.perf_counter()
    if arguments.role == "fill":
        facts["fill_s"] = fill(store, kind, count)
    elif kind == "follow":
        wait_until_followed(store, count)
    else:
        store.lookup((EVERYTHING,))
    facts["open_s"] = time.perf_counter() - began
    facts["memory"] = resident() - before
    asked = questions(count)
    numbers = [store.lookup(next(asked))[1] for _ in range(1000)]
    if sum(number == ENDED for number in numbers) != 500:
        raise RuntimeError("the store does not know what it was told")
    timed("lookup_s", lambda: store.lookup(next(asked)))
    timed("confirm_s", lambda: store.lookup_now(next(asked)))
    fresh = digests(1_000_000, 1 << 61)
    timed("fence_s", lambda: store.fence((next(fresh),), ENDED))
    store.close()
    Path(arguments.facts).write_text(json.dumps(facts))


def process(role: str, store: str, url: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rollsession-scale-") as directory:
        facts = Path(directory, "facts.json")
        command = [sys.executable, "-m", "benchmarks.scale", "--role", role, "--store", store, "--url", url]
        command += ["--count", str(count), "--facts", str(facts), *PYPERF, "--values", "7"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return dict(json.loads(facts.read_text()))


def measure(kind: str, count: int) -> dict[str, dict[str, Any]]:
    """``kind`` (and for Redis its follower too) at one size: store -> facts."""
    if kind == "memory":
        return {"memory": process("fill", "memory", "memory://", count)}
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="rollsession-scale-") as directory:
            path = Path(directory, "revocations.db")
            filled = process("fill", kind, f"sqlite:///{path}", count)
            opened = process("open", kind, f"sqlite:///{path}", count)
            opened["fill_s"] = filled["fill_s"]
            opened["database"] = sum(each.stat().st_size for each in Path(directory).iterdir())
            return {"sqlite": opened | purge(path, count)}
    with redis_server() as url:
        import redis

        client = redis.Redis.from_url(url)
        empty = client.info("memory")["used_memory"]
        filled = process("fill", kind, url, count)
        filled["redis_memory"] = client.info("memory")["used_memory"] - empty
        return {"redis": filled, "follow": process("open", "follow", f"{url}?follow=1", count)}


def purge(path: Path, count: int) -> dict[str, float]:
    """A day later, when all has expired: what each further revocation removes of it, and what that costs."""
    from wsgi_rollsession.revocation import StoreOptions
    from wsgi_rollsession.revocation.fence import ENDED
    from wsgi_rollsession.revocation.sqlite import SQLiteRevocations

    tomorrow = int(time.time() * 1000) + 86_400_000
    store = SQLiteRevocations(str(path), StoreOptions(lifetime_ms=LIFETIME), _clock=lambda: tomorrow)
    fresh = digests(1_000_000, 1 << 62)
    before, longest, began = rows(path), 0.0, time.perf_counter()
    for _ in range(PURGES):
        started = time.perf_counter()
        store.fence((next(fresh),), ENDED)
        longest = max(longest, time.perf_counter() - started)
    seconds = time.perf_counter() - began
    store.close()
    return {
        "purge_call_s": seconds / PURGES,
        "purge_longest_s": longest,
        "purged_per_call": (before + PURGES - rows(path)) / PURGES,
        "purged_database": sum(each.stat().st_size for each in path.parent.iterdir()),
    }


def rows(path: Path) -> int:
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM fences").fetchone()[0])
    finally:
        connection.close()


def run(counts: list[int], step: Callable[[str], Any]) -> dict[str, Any]:
    """store -> count -> facts."""
    results: dict[str, Any] = {}
    for count in counts:
        for kind in STORES:
            for store, facts in measure(kind, count).items():
                results.setdefault(store, {})[str(count)] = facts
            step(f"{kind}: {count:,} fences")
    return results


def slope(counts: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of growth: least squares of log(value) over log(count). 0 is flat, 1 is proportional."""
    xs, ys = [log10(count) for count in counts], [log10(value) for value in values]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys)) / sum((x - middle_x) ** 2 for x in xs)


if __name__ == "__main__":
    main()
