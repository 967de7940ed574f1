"""Which structure the local set should be: memory, loading and look-up of four candidates, at several sizes.

    python -m benchmarks.local_set_candidates            # prints the tables of docs/local-set.md; some five minutes
    python -m benchmarks.local_set_candidates --largest 1000000

Each pair of candidate and size runs in a process of its own. Memory is the growth of the process (resident set),
not what the objects say of themselves. Times are processor time, those of look-ups the least of several runs, so
that other work on the machine counts little. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import subprocess
import sys
import time
import timeit
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from wsgi_rollsession.revocation.fence import EVERYTHING
from wsgi_rollsession.revocation.local_set import LocalSet

HOUR_MS = 3_600_000
SIZES = [100, 10_000, 100_000, 1_000_000, 10_000_000]

Rows = Iterator[tuple[bytes, int, int]]


class Dictionary:
    """dict[bytes, int]: nothing to build, the whole key."""

    def __init__(self) -> None:
        self.entries: dict[bytes, int] = {}

    def load(self, rows: Rows) -> None:
        entries = self.entries
        for key, number, _ in rows:
            entries[key] = max(number, entries.get(key, 0))

    def numbers(self, keys: Sequence[bytes]) -> list[int]:
        entries = self.entries
        return [entries[key] if key in entries else 0 for key in keys]


class SortedArray:
    """A sorted array of 64-bit fingerprints with an array of numbers beside it, and bisect. Loaded at once: to add
    to it means to build it anew."""

    def load(self, rows: Rows) -> None:
        pairs = array("Q")
        numbers = array("I")
        for key, number, _ in rows:
            pairs.append(int.from_bytes(key[:8], "big"))
            numbers.append(number)
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        self.fingerprints = array("Q", map(pairs.__getitem__, order))
        self.values = array("I", map(numbers.__getitem__, order))

    def numbers(self, keys: Sequence[bytes]) -> list[int]:
        fingerprints, found = self.fingerprints, []
        for key in keys:
            fingerprint = int.from_bytes(key[:8], "big")
            at = bisect_left(fingerprints, fingerprint)
            found.append(self.values[at] if at < len(fingerprints) and fingerprints[at] == fingerprint else 0)
        return found


class OpenAddressing:
    """A hash table with linear probing in two arrays, grown by doubling at two thirds full."""

    def __init__(self) -> None:
        self.used = 0
        self._make(1 << 10)

    def _make(self, size: int) -> None:
        self.mask = size - 1
        self.fingerprints = array("Q", bytes(8 * size))
        self.values = array("I", bytes(4 * size))

    def load(self, rows: Rows) -> None:
        for key, number, _ in rows:
            self._add(int.from_bytes(key[:8], "big"), number)

    def _add(self, fingerprint: int, number: int) -> None:
        fingerprints, mask = self.fingerprints, self.mask
        at = fingerprint & mask
        while (held := fingerprints[at]) and held != fingerprint:
            at = (at + 1) & mask
        if held:
            self.values[at] = max(number, self.values[at])
            return
        fingerprints[at] = fingerprint
        self.values[at] = number
        self.used += 1
        if self.used * 3 > (mask + 1) * 2:
            values = self.values
            self.used = 0
            self._make((mask + 1) * 2)
            for fingerprint, number in zip(fingerprints, values):
                if fingerprint:
                    self._add(fingerprint, number)

    def numbers(self, keys: Sequence[bytes]) -> list[int]:
        fingerprints, mask, found = self.fingerprints, self.mask, []
        for key in keys:
            fingerprint = int.from_bytes(key[:8], "big")
            at = fingerprint & mask
            while (held := fingerprints[at]) and held != fingerprint:
                at = (at + 1) & mask
            found.append(self.values[at] if held else 0)
        return found


class Buckets(LocalSet):
    """What was chosen: a dictionary up to 8192 entries, then byte strings searched by rfind. With generations."""

    def __init__(self) -> None:
        super().__init__(HOUR_MS)


CANDIDATES = {one.__name__: one for one in (Dictionary, SortedArray, OpenAddressing, Buckets)}


def rows(count: int) -> Rows:
    """Fences raised evenly over one lifetime."""
    generator = random.Random(1)
    for n in range(count):
        yield generator.randbytes(16), 4_000_000_000 - n, n * HOUR_MS // count + 1


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(name: str, count: int) -> dict[str, float]:
    begun = time.process_time()
    for _ in rows(count):
        pass
    making = time.process_time() - begun
    candidate = CANDIDATES[name]()
    gc.collect()
    before, begun = resident(), time.process_time()
    candidate.load(rows(count))
    loading = time.process_time() - begun - making
    gc.collect()
    grown = resident() - before
    held = [key for key, _, _ in rows(count)][:: max(1, count // 1000)]
    if name != "SortedArray":  # which cannot be added to
        candidate.load(iter([(EVERYTHING, 1, HOUR_MS)]))
    missing = [random.Random(-n - 2).randbytes(16) for n in range(1000)]

    def cost(calls: list[tuple[bytes, ...]]) -> float:
        """Nanoseconds of ``numbers``, over many different keys, so that the caches of the processor do not help."""

        def run() -> None:
            numbers = candidate.numbers
            for keys in calls:
                numbers(keys)

        def bare() -> None:
            for _ in calls:
                pass

        each = [
            min(timeit.repeat(one, timer=time.process_time, number=20, repeat=15)) / 20 / len(calls)
            for one in (run, bare)
        ]
        return (each[0] - each[1]) * 1e9

    return {
        "bytes": grown / count,
        "load": loading,
        "hit": cost([(key,) for key in held]),
        "miss": cost([(key,) for key in missing]),
        "check": cost([(key, other, EVERYTHING) for key, other in pairwise(missing)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave out larger sets")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}.\n")
    print("| fences | structure | bytes a fence | load, s | look-up, found, µs | missing, µs | check of 3 keys, µs |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for count in (one for one in SIZES if one <= arguments.largest):
        for name in CANDIDATES:
            command = [sys.executable, "-m", "benchmarks.local_set_candidates", "--one", name, str(count)]
            one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            size = f"{one['bytes']:.1f}" if count >= 100_000 else "-"
            times = " | ".join(f"{one[field] / 1000:.2f}" for field in ("hit", "miss", "check"))
            print(f"| {count:,} | {name} | {size} | {one['load']:.2f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
