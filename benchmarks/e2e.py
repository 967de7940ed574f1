"""End to end: gunicorn under wrk on loopback, every entry between two runs of the bare application, as ratios.

Both are sent the same bytes, the entry's cookies included.

The load generator, the server and, where there is one, Redis share the machine. With more than one core the server has
the first to itself and the others keep off it; so what is measured is what one core of a web server delivers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .browser import Browser, HTTPServer, cookie_header
from .cost import FLOOR, SIZE, login_path
from .servers import free_port, stopped_at_exit, wait_for_port

WORKERS = {"sync": ["-k", "sync", "-w", "1"], "gthread": ["-k", "gthread", "-w", "1", "--threads", "4"]}
CONNECTIONS = 8


@dataclass(frozen=True)
class Entry:
    """A contender in one mode. Every request is a GET that presents a live session."""

    contender: str
    mode: str
    #: Whose bare form it is compared with: the plain WSGI application's, or that of its own framework.
    beside: str = "rollsession-memory"
    #: Whether the application looks at the session. The smallest possible one does not.
    reads: bool = True

    @property
    def name(self) -> str:
        return f"{self.contender}, {self.mode}{'' if self.reads else ', untouched'}"

    @property
    def path(self) -> str:
        return "/read" if self.reads else "/untouched"


OURS = [
    Entry("rollsession-sqlite", "still", reads=False),
    Entry("rollsession-sqlite", "roll", reads=False),
    Entry("rollsession-follow", "still", reads=False),
    Entry("rollsession-follow", "roll", reads=False),
    Entry("rollsession-sqlite", "still"),
    Entry("rollsession-sqlite", "roll"),
    Entry("rollsession-redis", "still"),
    Entry("rollsession-redis", "roll"),
    Entry("rollsession-follow", "still"),
    Entry("rollsession-follow", "roll"),
]
#: The bare application that also calls the primitives, to open, or to open and seal, and sends the headers for it.
FLOORS = [Entry(FLOOR, "still"), Entry(FLOOR, "roll")]
#: The bare application again, in another process: what differs from 1 is noise.
CONTROL = Entry("rollsession-memory", "bare", reads=False)
PEERS = [
    Entry("beaker-cookie", "roll"),
    Entry("beaker-file", "roll"),
    Entry("beaker-redis", "roll"),
    Entry("webob-profile", "roll"),
    Entry("pyramid-nacl", "roll", beside="pyramid-nacl"),
    Entry("flask", "roll", beside="flask"),
]


ALL = [*OURS, CONTROL, *FLOORS, *PEERS]
QUICK = [OURS[0], OURS[1], OURS[4]]


def missing() -> str | None:
    return None if shutil.which("wrk") else "wrk is not installed on this machine (on Debian: apt install wrk)"


def pinned(core: int) -> list[str]:
    """The command prefix that keeps a process on one core, where that can be had."""
    enough = len(os.sched_getaffinity(0)) > 1 if hasattr(os, "sched_getaffinity") else False
    if not enough or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[core])]


@dataclass(frozen=True)
class Running:
    server: HTTPServer
    process: int

    def cpu(self) -> float:
        """Seconds of processor time that gunicorn's worker has used."""
        import psutil

        times = [child.cpu_times() for child in psutil.Process(self.process).children()]
        return float(sum(each.user + each.system for each in times))


@contextmanager
def serving(entry: Entry, worker: str, redis_url: str) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rollsession-e2e-") as directory:
        environment = {
            **os.environ,
            "BENCH_CONTENDER": entry.contender,
            "BENCH_MODE": entry.mode,
            "BENCH_REDIS": redis_url,
            "BENCH_DIRECTORY": directory,
        }
        command = [*pinned(0), sys.executable, "-m", "gunicorn", "benchmarks.wsgi:application", *WORKERS[worker]]
        command += ["-b", f"127.0.0.1:{port}", "--log-level", "error", "--keep-alive", "30"]
        process = subprocess.Popen(command, env=environment)
        with stopped_at_exit(process):
            wait_for_port(port, process)
            yield Running(HTTPServer(port), process.pid)


def visitor(entry: Entry, running: Running) -> dict[str, str]:
    """The cookies of somebody who has just logged in."""
    browser = Browser(running.server)
    browser.get(login_path(SIZE))
    if entry.mode != "bare" and entry.contender != FLOOR and browser.user() != "alice":
        raise RuntimeError("the session that the load would read is not alive")
    return browser.jar


def load(running: Running, path: str, jar: dict[str, str], seconds: float) -> dict[str, float]:
    """Requests per second, latencies in milliseconds and the worker's processor time per request in seconds."""
    command = [*pinned(-1), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency"]
    command += ["-H", f"Cookie: {cookie_header(jar)}"] if jar else []
    before = running.cpu()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{running.server.port}{path}"], capture_output=True, text=True, check=True
    )
    found = parsed(done.stdout)
    return found | {"cpu": (running.cpu() - before) / found["requests"]}


def parsed(report: str) -> dict[str, float]:
    """What wrk printed. Answers other than 2xx and 3xx make the whole measurement void."""
    if "Non-2xx" in report:
        raise RuntimeError(report)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", report)
    requests = re.search(r"(\d+) requests in", report)
    percentiles = dict(re.findall(r"^\s+(50|99)%\s+([\d.]+[mu]?s)", report, re.MULTILINE))
    if rate is None or requests is None or len(percentiles) != 2:
        raise RuntimeError(report)
    return {
        "rate": float(rate[1]),
        "requests": float(requests[1]),
        "p50": milliseconds(percentiles["50"]),
        "p99": milliseconds(percentiles["99"]),
    }


def milliseconds(text: str) -> float:
    for unit, factor in (("us", 0.001), ("ms", 1.0), ("s", 1000.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(text)


def rounds_of(entry: Entry, rounds: int) -> int:
    """No target hangs by a few per cent of a peer, so a third of the rounds does for them."""
    return max(1, rounds // 3) if entry in PEERS else rounds


def run(
    workers: list[str], entries: list[Entry], rounds: int, seconds: float, redis_url: str, step: Callable[[str], Any]
) -> dict[str, Any]:
    """worker -> entry -> one measurement per round, each with the mean of the bare application's before and after it.

    The machine drifts from second to second, so a pair would compare two machines.
    """
    results: dict[str, Any] = {}
    for worker in workers:
        with ExitStack() as stack:
            bare = {
                name: stack.enter_context(serving(Entry(name, "bare"), worker, redis_url))
                for name in dict.fromkeys(entry.beside for entry in entries)
            }
            servers = {entry: stack.enter_context(serving(entry, worker, redis_url)) for entry in entries}
            found: dict[str, Any] = {entry.name: [] for entry in entries}
            for number in range(rounds):
                for entry, server in servers.items():
                    if number >= rounds_of(entry, rounds):
                        continue
                    jar = visitor(entry, server)
                    plain = bare[entry.beside]
                    before, measured, after = (load(each, entry.path, jar, seconds) for each in (plain, server, plain))
                    mean = {name: (before[name] + after[name]) / 2 for name in before}
                    found[entry.name].append({"bare": mean, "entry": measured})
                    step(f"{worker}: {entry.name}")
            results[worker] = found
    return results
