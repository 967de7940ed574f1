"""Instructions per request under valgrind's callgrind: the figure that does not move with the load of the machine.

Each case is run N times and then 2N times; the difference, over N, is free of start-up and of everything that happens
once. The two are told apart by ``os.getloadavg()``, at which callgrind writes its counters and sets them to zero.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .contenders import contenders
from .cost import FLOOR, SIZE, Bench, floor_functions

N = 50
WARM = 20
CROWD = 40


def missing() -> str | None:
    return None if shutil.which("valgrind") else "valgrind is not installed on this machine"


def main(name: str, redis_url: str) -> None:
    """The workload, in the process that callgrind watches. Prints the cases in their order."""
    for case, function in cases(name, redis_url):
        for repeat in (WARM, N, 2 * N):
            for _ in range(repeat):
                function()
            os.getloadavg()
        print(case)


def cases(name: str, redis_url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    if name == FLOOR:
        yield from floor_functions().items()
        return
    from wsgi_rollsession import presented
    from wsgi_rollsession.revocation.sqlite import store

    # What is done once in a while is no part of a request, but under valgrind it would become one.
    store.PERIOD = store.LOOK = 1e9
    presented.REMEMBERED = CROWD // 2  # so that fewer visitors than in ``cost`` suffice to have only new cookies
    bench = Bench(contenders()[name], redis_url, (SIZE,), CROWD)
    yield from bench.cases((SIZE,))
    bench.verify()


def measure(name: str, redis_url: str) -> dict[str, float]:
    """Instructions of one request, by case."""
    with tempfile.TemporaryDirectory(prefix="rollsession-callgrind-") as directory:
        out = Path(directory, "out")
        valgrind = ["valgrind", "--tool=callgrind", "--dump-before=getloadavg", f"--callgrind-out-file={out}"]
        worker = [sys.executable, "-m", "benchmarks.instructions", name, redis_url]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": directory}
        done = subprocess.run([*valgrind, *worker], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        dumps = [total(Path(f"{out}.{number}")) for number in range(1, 3 * len(done.stdout.split()) + 1)]
    return {case: (dumps[3 * index + 2] - dumps[3 * index + 1]) / N for index, case in enumerate(done.stdout.split())}


def total(dump: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{dump}: no totals")
    return int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
