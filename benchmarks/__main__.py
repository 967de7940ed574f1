"""``make bench`` and ``make bench-quick``: measure, keep the raw numbers, write the report.

python -m benchmarks [--quick] [--only race,cost,…] [--out DIRECTORY] [--report-only]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.servers import RedisServer, running

from . import capacity, cost, e2e, instructions, machine, propagation, report, scale
from .contenders import Contender, contenders
from .contenders import node as node_peers
from .servers import redis_server

Step = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    race_runs: int
    rounds: int
    values: int
    sizes: tuple[int, ...]
    e2e_rounds: int
    e2e_seconds: float
    counts: tuple[int, ...]
    followers: int
    logouts: int
    #: Names to which cost, end to end and capacity are restricted; everything if empty.
    only: tuple[str, ...] = ()
    #: And instructions, which are slow to count.
    counted: tuple[str, ...] = ()


FULL = Effort(20, 3, 5, cost.SIZES, 9, 1, tuple(10**power for power in range(3, 8)), 8, 400)
QUICK = Effort(
    5,
    2,
    3,
    (cost.SIZE, 1000),
    2,
    1,
    (1_000, 10_000, 30_000),
    4,
    50,
    ("rollsession-sqlite", "rollsession-follow", "pyramid-nacl", "beaker-cookie", "flask-session-redis"),
    ("rollsession-sqlite", "pyramid-nacl"),
)


def chosen(effort: Effort) -> list[Contender]:
    return [each for each in contenders().values() if each.timed and (not effort.only or each.name in effort.only)]


def to_count(effort: Effort) -> list[str]:
    """Without the follower: its thread works by the clock and not by the request."""
    return [each for each in effort.counted or [each.name for each in chosen(effort)] if each != "rollsession-follow"]


def race_table(effort: Effort, step: Step) -> dict[str, Any]:
    """Every contender in a process of its own, several at once: nothing here depends on time."""
    results: dict[str, Any] = {}
    with redis_server() as url, ThreadPoolExecutor(8) as pool:
        running = {}
        for each in contenders().values():
            why = node_peers.missing() if each.serves == "http" else None
            if why is not None:
                results[each.name] = {"title": each.title, "missing": why}
                step(each.name)
                continue
            command = [sys.executable, "-m", "benchmarks.race", each.name, str(effort.race_runs), url]
            running[pool.submit(subprocess.run, command, capture_output=True, text=True)] = each
        for future in as_completed(running):
            each, done = running[future], future.result()
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                results[each.name] = {"title": each.title, "missing": f"could not be driven: {' '.join(last)}"}
            else:
                results[each.name] = json.loads(done.stdout)
            step(each.name)
    return {"runs": effort.race_runs, "contenders": {name: results[name] for name in contenders()}}


def costs(effort: Effort, step: Step) -> dict[str, Any]:
    """name -> case -> one value per round; contenders take turns within a round."""
    found: dict[str, Any] = {"times": {}, "facts": {}, "steps": {}}
    sizes = ",".join(map(str, effort.sizes))
    with redis_server() as url:
        for _ in range(effort.rounds):
            for name in (cost.STEPS, cost.FLOOR, *(each.name for each in chosen(effort))):
                # Where each request is a transaction on the disk, fewer repetitions must do.
                loops = ("--loops", "40") if name in ("django-db", "django-cached_db", "beaker-file") else ()
                times, facts = cost.measure(name, url, ("--values", str(effort.values), "--sizes", sizes, *loops))
                cases = found["steps"] if name == cost.STEPS else found["times"].setdefault(name, {})
                for case, seconds in times.items():
                    cases.setdefault(case, []).append(seconds)
                found["facts"] |= {name: facts} if facts else {}
                step(name)
    return found


def instruction_counts(effort: Effort, step: Step) -> dict[str, Any]:
    why = instructions.missing()
    if why is not None:
        return {"missing": why}
    names = [cost.FLOOR, *to_count(effort)]
    with redis_server() as url, ThreadPoolExecutor(2) as pool:
        running = {pool.submit(instructions.measure, name, url): name for name in names}
        counted = {}
        for future in as_completed(running):
            counted[running[future]] = future.result()
            step(running[future])
    return {"contenders": {name: counted[name] for name in names}}


def end_to_end(effort: Effort, step: Step) -> dict[str, Any]:
    why = e2e.missing()
    if why is not None:
        return {"missing": why}
    entries = e2e.QUICK if effort.only else e2e.ALL
    with redis_server() as url:
        return e2e.run(list(e2e.WORKERS), entries, effort.e2e_rounds, effort.e2e_seconds, url, step)


def e2e_steps(effort: Effort) -> int:
    entries = e2e.QUICK if effort.only else e2e.ALL
    return len(e2e.WORKERS) * sum(e2e.rounds_of(entry, effort.e2e_rounds) for entry in entries)


def scales(effort: Effort, step: Step) -> dict[str, Any]:
    return scale.run(list(effort.counts), step)


def propagations(effort: Effort, step: Step) -> dict[str, Any]:
    """Seconds from the call of a logout until the fence is in another process's local set (see ``propagation``)."""
    with running(RedisServer()) as server:
        trips = propagation.round_trips(server)
        found = {"round trip to Redis (PING)": trips}
        for rate, pause in ((20, 0.05), (500, 0.002)):
            name = f"{effort.followers} followers, {rate} logouts a second"
            found[name] = propagation.measure(server, effort.followers, effort.logouts, pause)
            step(name)
    parts = {"median": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: {key: propagation.percentile(values, part) for key, part in parts.items()}
        for name, values in found.items()
    }


def capacities(effort: Effort, step: Step) -> dict[str, Any]:
    names = [name for name in (*capacity.OURS, *capacity.PEERS) if not effort.only or name in effort.only]
    return capacity.run(names, step)


#: Section -> (how it is measured, how many steps that has).
SECTIONS: dict[str, tuple[Callable[[Effort, Step], dict[str, Any]], Callable[[Effort], int]]] = {
    "race": (race_table, lambda effort: len(contenders())),
    "instructions": (instruction_counts, lambda effort: 1 + len(to_count(effort))),
    "cost": (costs, lambda effort: effort.rounds * (2 + len(chosen(effort)))),
    "e2e": (end_to_end, e2e_steps),
    "scale": (scales, lambda effort: len(scale.STORES) * len(effort.counts)),
    "propagation": (propagations, lambda effort: 2),
    "capacity": (capacities, lambda effort: len(capacity.OURS + capacity.PEERS)),
}


@contextmanager
def progress(console: Console, name: str, steps: int) -> Iterator[Step]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[section]:13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=steps, section=name)
        yield lambda what: bar.update(task, advance=1, description=what)
        bar.update(task, description="", completed=steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs, smaller sets")
    parser.add_argument("--only", default=",".join(SECTIONS), help="the sections to measure, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the report goes")
    parser.add_argument("--report-only", action="store_true", help="write the report again from the raw numbers")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    console = Console(stderr=True)
    raw = arguments.out / "benchmarks"
    raw.mkdir(parents=True, exist_ok=True)
    commit = machine.describe()["commit"]  # now: the results are in the repository too, and make it a changed one
    for name in () if arguments.report_only else arguments.only.split(","):
        measure, steps = SECTIONS[name]
        with progress(console, name, steps(effort)) as step:
            found = {
                "machine": machine.describe() | {"commit": commit},
                "quick": arguments.quick,
                "results": measure(effort, step),
            }
        (raw / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    reached = report.write(arguments.out, raw)
    for line in reached:
        console.print(line, markup=False, highlight=False)
    console.print(f"Written: {arguments.out / 'benchmarks.md'}, the raw numbers and plots in {raw}")


if __name__ == "__main__":
    main()
