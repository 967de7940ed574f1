"""What an application with a dead Redis still does: requests per second, and the longest, by policy and kind of death.

    python -m benchmarks.outage [--seconds 3] [--out docs/outage.md]

Four threads send requests that read their session and roll it on every response, through the middleware, without HTTP.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from pathlib import Path

from tests.browser import call
from tests.faults.load import Login, new_worker
from tests.servers import Proxy, RedisServer, running
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation.redis.address import CONNECT_TIMEOUT, REPLY_TIMEOUT


class Phase:
    """What the threads count."""

    def __init__(self) -> None:
        self.served = self.refused = 0
        self.longest = 0.0


def drive(url: str, outage: str, seconds: float, proxy: Proxy) -> dict[str, Phase]:
    worker = new_worker(url, outage=outage)
    phases: dict[str, Phase] = {}
    current = Phase()
    stop = threading.Event()

    def run() -> None:
        login = Login("user", {})
        login.receive(call(worker, lambda session: session.update(user="user"), ""))
        while not stop.is_set():
            phase, begun = current, time.monotonic()
            try:
                answer = call(worker, lambda session: session.get("user"), login.header())
                ok = answer.status.startswith("200") and answer.result == "user"
            except StoreUnavailable:
                ok = False
            if ok:
                phase.served += 1
                login.receive(answer)
            else:
                phase.refused += 1
            phase.longest = max(phase.longest, time.monotonic() - begun)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    for name in ("working", "hangs", "working after", "refuses connections", "working again"):
        current = Phase()  # what happens between two phases belongs to neither
        proxy.stalled = name == "hangs"
        proxy.refusing = name.startswith("refuses")
        if proxy.refusing:
            proxy.cut()
        if name.startswith("working"):
            time.sleep(2.0)  # a call that still waits, and one pause of the breaker
        current = phases[name] = Phase()
        time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    worker.close()
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("docs/outage.md"))
    arguments = parser.parse_args()
    logging.getLogger("wsgi_rollsession").setLevel(logging.CRITICAL)
    lines = [
        "# What an application does without its Redis\n",
        "\n",
        "Made by `python -m benchmarks.outage`; do not edit. Four threads send requests that read their session and "
        "roll it on every response, through the middleware in one process, without HTTP. The first request that meets "
        f"a server that hangs waits for it, at most {CONNECT_TIMEOUT:g} s for a connection and {REPLY_TIMEOUT:g} s for "
        "a reply; then the store is left alone for a second at a time.\n",
        "\n",
        "| mode | `outage=` | Redis | served, per second | against working | refused, per second | longest request |\n",
        "|---|---|---|---:|---:|---:|---:|\n",
    ]
    with running(RedisServer()) as server, running(Proxy(server.port)) as proxy:
        for follow in ("", "?follow=1"):
            for outage in ("degrade", "closed"):
                phases = drive(proxy.url + follow, outage, arguments.seconds, proxy)
                base = phases["working"].served or 1
                for name, phase in phases.items():
                    lines.append(
                        f"| {'follow' if follow else 'direct'} | {outage} | {name} "
                        f"| {phase.served / arguments.seconds:.0f} | {phase.served / base:.2f} "
                        f"| {phase.refused / arguments.seconds:.0f} | {phase.longest:.2f} s |\n"
                    )
    lines.append(
        "\nA request counts where it began; the two seconds after each outage are not counted. More are served without "
        "Redis than with it, because nothing is asked. `degrade` serves them and rolls nothing; `closed` answers 503, "
        "after up to `max_staleness` in follow mode.\n"
    )
    arguments.out.write_text("".join(lines), encoding="utf-8")
    print("".join(lines))


if __name__ == "__main__":
    main()
