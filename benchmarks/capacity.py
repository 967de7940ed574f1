"""A capacity model on paper from measured costs, checked at one point by measurement.

Measured: what each kind of request costs the Redis server (commands, bytes, processor time) and what a session or a
fence takes of its memory. Assumed: what visitors do (``Visitors``). The rest is arithmetic.

Run by itself for one contender: ``python -m benchmarks.capacity NAME REDIS_URL`` prints its measurements as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .browser import Browser, WSGIServer
from .contenders import contenders
from .cost import SIZE, login_path
from .servers import redis_server
from .tiny import Lab

OURS = ("rollsession-redis", "rollsession-follow")
PEERS = ("flask-session-redis", "beaker-redis", "pyramid-session-redis", "django-cache")
OPERATIONS = ("read", "roll", "write", "login", "logout")
REQUESTS = 300  # of each kind
RATES = (1_000, 100_000, 10_000_000)  # requests per second


@dataclass(frozen=True)
class Visitors:
    """What the model assumes. All times in seconds."""

    pause: float = 10  # between two requests of a visitor
    visit: float = 1800  # from login to logout, or to leaving without one
    leave_by_logout: float = 0.5
    writes: float = 0.05  # of the requests
    renew_after: float = 60
    idle: float = 3600  # how long a record outlives its visitor's last request; and how long a fence is kept
    worker: float = 2000  # requests per second of one worker process

    def mix(self) -> dict[str, float]:
        """Shares of the requests."""
        login = self.pause / self.visit
        shares = {
            "write": self.writes,
            "roll": self.pause / self.renew_after,
            "login": login,
            "logout": login * self.leave_by_logout,
        }
        return {"read": 1 - sum(shares.values()), **shares}


@dataclass(frozen=True)
class Limits:
    """What one Redis server and one host of workers can take."""

    cores: float = 1  # Redis executes commands on one
    bytes_per_second: float = 1.25e9  # 10 Gbit/s
    memory: float = 64e9
    local_set: float = 1e9  # memory that one may want to spend on a local set in each worker process


class Meter:
    """Reads off the server what it has done."""

    def __init__(self, redis_url: str) -> None:
        import redis

        self._client = redis.Redis.from_url(redis_url)

    def read(self) -> dict[str, Any]:
        info = self._client.info("all")
        calls = {name[8:]: value["calls"] for name, value in info.items() if name.startswith("cmdstat_")}
        # What this meter and a follower's waiting cost is not the requests'.
        calls = {name: count for name, count in calls.items() if name not in ("info", "xread", "client", "hello")}
        return {
            "calls": calls,
            "commands": sum(calls.values()),
            "bytes": info["total_net_input_bytes"] + info["total_net_output_bytes"],
            "out": info["total_net_output_bytes"],
            "cpu": info["used_cpu_sys"] + info["used_cpu_user"],
            "memory": info["used_memory"],
        }

    def difference(self, function: Callable[[], None], per: int) -> dict[str, Any]:
        """What *function* caused, per one of its *per* repetitions, without what reading the meter itself sends."""
        start, ready = self.read(), self.read()
        function()
        done = self.read()
        found = {name: (done[name] - ready[name]) / per for name in ("commands", "bytes", "out", "cpu", "memory")}
        for name in ("bytes", "out", "cpu"):
            found[name] -= (ready[name] - start[name]) / per
        found["calls"] = {
            name: round((count - ready["calls"].get(name, 0)) / per, 3)
            for name, count in done["calls"].items()
            if count != ready["calls"].get(name, 0)
        }
        return found


class Site:
    """One contender as a site with many visitors. ``play`` makes requests of one kind."""

    def __init__(self, name: str, redis_url: str) -> None:
        contender = contenders()[name]
        os.environ.setdefault("ROLLSESSION_KEYS", _key())
        directory = Lab().directory
        roll = contender.build(Lab("roll", redis_url, directory=directory))
        # Peers with a store refresh the record on every request; here a roll is due only now and then.
        still = contender.build(Lab("still", redis_url, directory=directory)) if contender.ours else roll
        self._applications = {"roll": WSGIServer(roll, None), "still": WSGIServer(still, None)}  # type: ignore[arg-type]
        self._visitors: list[dict[str, str]] = []

    def play(self, operation: str, times: int) -> None:
        for number in range(times):
            server = self._applications["roll" if operation == "roll" else "still"]
            browser = Browser(server)
            if operation == "login":
                browser.get(f"{login_path(SIZE)}")
                self._visitors.append(browser.jar)
            elif operation == "logout":
                Browser(server, self._visitors.pop(0)).get("/logout")
            else:
                place = number % len(self._visitors)
                browser = Browser(server, self._visitors[place])
                browser.get(f"/write?k=note&v={number}" if operation == "write" else "/read")
                self._visitors[place] = browser.jar


def _key() -> str:
    from wsgi_rollsession import generate_key

    return generate_key()


def main(name: str, redis_url: str) -> None:
    meter, site = Meter(redis_url), Site(name, redis_url)
    site.play("login", 5)
    for operation in ("read", "roll", "write", "logout"):  # connections, scripts, the follower: made once
        site.play(operation, 2)
    time.sleep(1.0)
    found = {}
    for operation in ("login", "read", "roll", "write"):
        found[operation] = meter.difference(partial(site.play, operation, REQUESTS), REQUESTS)
    found["logout"] = meter.difference(partial(site.play, "logout", REQUESTS), REQUESTS)
    site.play("login", REQUESTS)
    many = 5 * REQUESTS
    facts: dict[str, Any] = {"operations": found}
    facts["session_memory"] = meter.difference(partial(site.play, "login", many), many)["memory"]
    facts["fence_memory"] = meter.difference(partial(site.play, "logout", many), many)["memory"]
    facts["fence_out"] = found["logout"]["out"]
    facts["check"] = check(site, meter, found)
    print(json.dumps(facts))


def check(site: Site, meter: Meter, operations: dict[str, Any]) -> dict[str, Any]:
    """The mix of the model, played; the commands, bytes and processor time that it predicts beside those measured."""
    total = 5400
    played = {operation: round(share * total) for operation, share in Visitors().mix().items()}

    def play() -> None:
        for operation, times in played.items():
            site.play(operation, times)

    measured = meter.difference(play, 1)
    predicted = {
        name: sum(times * operations[operation][name] for operation, times in played.items())
        for name in ("commands", "bytes", "cpu")
    }
    return {name: {"predicted": predicted[name], "measured": measured[name]} for name in predicted}


def run(names: list[str], step: Callable[[str], Any]) -> dict[str, Any]:
    """Contender -> its measurements, each on a Redis server of its own."""
    results = {}
    for name in dict.fromkeys((*OURS, *names)):
        with redis_server() as url:
            command = [sys.executable, "-m", "benchmarks.capacity", name, url]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        results[name] = json.loads(done.stdout)
        step(name)
    follow, direct = results["rollsession-follow"], results["rollsession-redis"]
    # Each fence reaches the one follower that was running: what that adds to the bytes sent.
    follow["fan_out_bytes"] = max(0.0, follow["fence_out"] - direct["fence_out"])
    return results


def model(facts: dict[str, Any], rate: float, visitors: Visitors | None = None) -> dict[str, Any]:
    """Redis at *rate* requests per second: commands, bytes and cores a second, memory, and what breaks first."""
    visitors, limits = visitors or Visitors(), Limits()
    mix = visitors.mix()
    per_request = {
        name: sum(share * facts["operations"][operation][name] for operation, share in mix.items())
        for name in ("commands", "bytes", "cpu")
    }
    ended = rate * mix["logout"] * visitors.idle  # fences alive
    found: dict[str, Any] = {"commands": rate * per_request["commands"], "cores": rate * per_request["cpu"]}
    found["bytes"] = rate * per_request["bytes"]
    if "fan_out_bytes" in facts:  # every worker process follows every fence
        processes = max(1.0, rate / visitors.worker)
        found["bytes"] += rate * mix["logout"] * facts["fan_out_bytes"] * (processes - 1)
        found["local_set"] = ended * 10
    if facts["stores_sessions"]:
        stored = rate * mix["login"] * (visitors.visit + visitors.idle * (1 - visitors.leave_by_logout))
        found["memory"] = stored * facts["session_memory"]
    else:
        found["memory"] = ended * facts["fence_memory"]
    strain = {
        "the one core on which Redis executes commands": found["cores"] / limits.cores,
        "the network, at 10 Gbit/s": found["bytes"] / limits.bytes_per_second,
        "memory, at 64 GB": found["memory"] / limits.memory,
        "the local set in each process, at 1 GB": found.get("local_set", 0) / limits.local_set,
    }
    found["first"] = max(strain, key=strain.__getitem__)
    found["strain"] = strain[found["first"]]
    return found


def models(results: dict[str, Any]) -> dict[str, dict[int, Any]]:
    """Contender -> rate -> the model."""
    return {
        name: {rate: model({**facts, "stores_sessions": name in PEERS}, rate) for rate in RATES}
        for name, facts in results.items()
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
