"""Other processes that use a store, for the tests to command, stop and kill. And where fault tests report."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wsgi_rollsession.revocation import StoreOptions, open_store

HOUR_MS = 3_600_000
_spawn = multiprocessing.get_context("spawn")


def report(fault: str, promise: str, observed: str, store: str = "sqlite") -> None:
    """Append what a fault test promised and saw to the file of ROLLSESSION_FAULT_REPORT, if that is set."""
    if path := os.environ.get("ROLLSESSION_FAULT_REPORT"):
        row = {"store": store, "fault": fault, "promise": promise, "observed": observed}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _serve(url: str, options: dict[str, Any], orders: Connection) -> None:
    store: Any = open_store(url, StoreOptions(**options))
    while True:
        name, args = orders.recv()
        try:
            if name == "die_before_stamp":  # at the next raise, after its commit
                store.lookup([])
                store._files.generation.settle = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
                result = None
            elif name == "limit_files":  # no file grows beyond its present size: the disk is full
                limit = os.path.getsize(store._path)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                result = None
            elif name == "unlimit_files":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                result = None
            elif name == "raise_until_killed":
                for n in range(1_000_000):
                    key = n.to_bytes(16, "big")
                    store.fence([key], n + 1)
                    orders.send((True, n))
                result = None
            else:
                result = getattr(store, name)(*args)
            orders.send((True, result))
        except Exception as error:
            orders.send((False, error))


class Worker:
    """A process with the store of *url* open. ``call`` answers as the store in it does, exceptions included."""

    def __init__(self, url: str, lifetime_ms: int = HOUR_MS, accept_amnesia: bool = False) -> None:
        self.orders, theirs = _spawn.Pipe()
        options = {"lifetime_ms": lifetime_ms, "accept_amnesia": accept_amnesia}
        self.process = _spawn.Process(target=_serve, args=(url, options, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, name: str, *args: Any) -> None:
        self.orders.send((name, args))

    def answer(self, seconds: float = 60.0) -> Any:
        assert self.orders.poll(seconds), f"the worker did not answer within {seconds:g} s"
        fine, result = self.orders.recv()
        if not fine:
            raise result
        return result

    def call(self, name: str, *args: Any) -> Any:
        self.begin(name, *args)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.orders.close()


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> float:
    """Wait until *condition* holds. Returns how many seconds that took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + seconds, f"not within {seconds:g} s"
        time.sleep(0.01)
    return time.monotonic() - begun
