"""``python -m tests.histories --count 200000 --processes 2 --seed 1``: many random histories, and what was met.

``--mutants``: how many histories it takes until one notices that a rule is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .mutants import HEADING, report
from .run import explained, run, tabulated


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many histories; with --mutants, at most for each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the page here; the mutants are added to it")
    parser.add_argument("--explain", metavar="SEED", nargs="*", help="make the histories of these seeds small")
    parser.add_argument("--mutants", action="store_true")
    given = parser.parse_args(arguments)
    if given.explain:
        for name in given.explain:
            print(explained(name))
        return 0
    if given.mutants:
        page, missed = report(given.count, given.processes, given.seed)
        print(page)
        if given.out and not missed:
            text = given.out.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
            given.out.write_text(f"{text}\n\n{page}", encoding="utf-8")
        return 1 if missed else 0
    began = time.monotonic()

    def say(done: int, failed: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} histories, {failed} failed", end="", file=sys.stderr, flush=True)

    counts, failures = run(given.count, given.processes, given.seed, say)
    command = f"python -m tests.histories --count {given.count} --seed {given.seed}"
    page = tabulated(counts, failures, given.seed, command)
    print(page)
    print(f"{time.monotonic() - began:.0f} s")
    if given.out and not failures:
        given.out.write_text(page, encoding="utf-8")
    kinds: dict[str, str] = {}
    for position, (name, message) in enumerate(failures):
        if position < 20:
            print(f"seed {name}: {message}")
        kinds.setdefault(message[:30], name)
    for name in list(kinds.values())[:5]:
        print(explained(name))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
