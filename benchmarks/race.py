"""The race table: what becomes of a logout, a login and a write while another request is in flight.

Run by itself for one contender: ``python -m benchmarks.race NAME RUNS`` prints the outcomes as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable

from .browser import Browser, Flight, Response, Server
from .contenders import Contender, contenders
from .tiny import Lab

# Outcomes. "resurrected": the browser is logged in again. "record back": the browser is not, but the stored record
# is, so that a copied cookie works again. "too large": a server would refuse the Cookie header. Users are named,
# "nobody" included.
WORDS = {"alice": "old user", "bob": "bob", None: "nobody"}


#: Seconds between a login and what is played with it: several peers count age in whole seconds and re-issue a cookie
#: only when it has one.
AGE = 2.1
#: What browsers restore at once, and bytes of each session as JSON.
TABS, SIZE = 15, 2000
#: The longest header field that gunicorn takes by default (limit_request_field_size); Apache's is as long.
LONGEST_FIELD = 8190


def check(server: Server) -> None:
    """A contender that loses its user by itself must not pass for one that holds."""
    browser = Browser(server)
    for path in ("/login?user=alice", "/elevate"):
        browser.get(path)
        if browser.user() != "alice":
            raise RuntimeError(f"{path} does not work")


class Scene:
    """A browser in which alice has just logged in, and a request of hers to race with."""

    def __init__(self, server: Server, stored: bool, writes: bool) -> None:
        self.stored, self.gates = stored, server.gates
        self.path = "/write?k=note&v=1" if writes else "/read?"
        self.browser = Browser(server)
        self.browser.get("/login?user=alice")
        self.copied = self.browser.copy()

    def take_off(self, path: str = "") -> Flight:
        """Send the request, which has read the session and waits in the handler when this returns."""
        self.gates.arm("handler")
        flight = Flight(self.browser, path or f"{self.path}&gate=1")
        if not flight.held("handler"):
            raise RuntimeError(f"the request did not reach the handler: {flight.answered()}")
        return flight

    def land(self, flight: Flight) -> str:
        """Let the request go on and its response arrive. Tells of an answer that the application did not give."""
        self.gates.release("handler")
        return note(flight.land())

    def after_logout(self, *thieves: Browser) -> str:
        """Who is logged in: the browser, or whoever copied its cookies before the logout, or those of *thieves*."""
        if self.browser.user() is not None:
            return "resurrected"
        replayed = self.stored and any(thief.user() is not None for thief in (self.copied, *thieves))
        return "record back" if replayed else "safe"


def note(response: Response) -> str:
    return f", request gets {response.status}" if response.status >= 400 else ""


def resurrection(scene: Scene) -> str:
    flight = scene.take_off()
    scene.browser.get("/logout")
    told = scene.land(flight)
    return scene.after_logout() + told


def replay(scene: Scene) -> str:
    scene.browser.get("/logout")
    return "safe" if scene.copied.user() is None else "accepted"


def lost_login(scene: Scene) -> str:
    flight = scene.take_off()
    scene.browser.get("/logout")
    scene.browser.get("/login?user=bob")
    scene.land(flight)
    return WORDS[scene.browser.user()]


def stale_overwrite(scene: Scene) -> str:
    flight = scene.take_off()
    scene.browser.get("/write?k=cart&v=1")
    scene.land(flight)
    return "kept" if scene.browser.me().get("cart") == "1" else "lost"


def store_interleaving(scene: Scene) -> str:
    if not scene.stored:
        return "-"
    scene.gates.arm("store")
    flight = Flight(scene.browser, scene.path)
    written = flight.held("store")
    scene.copied.copy().get("/logout")
    scene.gates.release("store")
    response = flight.answered()
    if not written:
        return "no write"
    answer = scene.copied.get("/me")
    if answer.status >= 400 and scene.gates.saw == "alice":
        return f"recreated, its own request gets {answer.status}"
    return ("recreated" if answer.json().get("user") is not None else "safe") + note(response)


def late(scene: Scene) -> str:
    response = scene.browser.send(scene.path)
    scene.browser.get("/logout")
    scene.browser.get("/login?user=bob")
    scene.browser.receive(response)
    return WORDS[scene.browser.user()]


def queued(scene: Scene) -> str:
    scene.browser.get("/logout")
    response = scene.copied.send(scene.path)
    scene.browser.get("/login?user=bob")
    scene.browser.receive(response)
    return WORDS[scene.browser.user()]


def elevation_before(scene: Scene) -> str:
    return elevation_held(scene, "/elevate?gate=before")


def elevation_after(scene: Scene) -> str:
    return elevation_held(scene, "/elevate?gate=after")


def elevation_held(scene: Scene, path: str) -> str:
    flight = scene.take_off(path)
    scene.browser.get("/logout")
    scene.gates.release("handler")
    return elevated(scene, flight.answered())


def elevation_answered(scene: Scene) -> str:
    response = scene.browser.send("/elevate")
    scene.browser.get("/logout")
    return elevated(scene, response)


def elevated(scene: Scene, response: Response) -> str:
    """Let the answer arrive after the logout, at the browser and at somebody who copies all cookies that pass by."""
    thief = scene.copied.copy()
    thief.receive(response)
    scene.browser.receive(response)
    return scene.after_logout(thief) + note(response)


def logins_in_parallel(scene: Scene) -> str:
    browser = scene.browser
    browser.get("/logout")
    browser.get_at_once(f"/login?user=alice&size={SIZE}", TABS)
    if browser.header_bytes > LONGEST_FIELD:
        return "too large"
    return "answered" if browser.user() == "alice" else WORDS[browser.user()]


def documented_logout(scene: Scene) -> str:
    """As S3, for a session that holds more than its user, which the documented logout may leave in it."""
    scene.browser.get("/write?k=cart&v=1")
    copied = scene.browser.copy()
    scene.browser.get("/leave")
    if scene.browser.user() is not None:
        return "no logout"
    return "safe" if copied.user() is None else "accepted"


#: Column -> (what happens, whether the request in flight writes).
SCENARIOS: dict[str, tuple[Callable[[Scene], str], bool]] = {
    "S1 resurrection, read": (resurrection, False),
    "S2 resurrection, write": (resurrection, True),
    "S3 replay": (replay, False),
    "S4 lost login, read": (lost_login, False),
    "S4 lost login, write": (lost_login, True),
    "S5 stale overwrite, read": (stale_overwrite, False),
    "S5 stale overwrite, write": (stale_overwrite, True),
    "S6 store interleaving, read": (store_interleaving, False),
    "S6 store interleaving, write": (store_interleaving, True),
    "S7 late, read": (late, False),
    "S7 late, write": (late, True),
    "S8 queued, read": (queued, False),
    "S8 queued, write": (queued, True),
    "S9a elevation, held before it": (elevation_before, False),
    "S9b elevation, held after it": (elevation_after, False),
    "S9c elevation, answered": (elevation_answered, False),
    "S10 logins in parallel": (logins_in_parallel, False),
    "S11 documented logout, replay": (documented_logout, False),
}

#: What counts as holding. "S5, write" has no entry: two writers, and without versions the last one wins.
GOOD = {
    "resurrection": ("safe",),
    "replay": ("safe",),
    "lost_login": ("bob",),
    "stale_overwrite": ("kept",),
    "store_interleaving": ("safe", "no write", "-"),
    "late": ("bob",),
    "queued": ("bob",),
    "elevation_before": ("safe",),
    "elevation_after": ("safe",),
    "elevation_answered": ("safe",),
    "logins_in_parallel": ("answered",),
    "documented_logout": ("safe",),
}


def holds(scenario: str, outcome: str) -> bool:
    return outcome.partition(",")[0] in GOOD[SCENARIOS[scenario][0].__name__]


def run(server: Server, contender: Contender, runs: int) -> dict[str, dict[str, int]]:
    """Play every scenario *runs* times: scenario -> outcome -> how often."""
    check(server)
    scenes = {
        name: [Scene(server, contender.stored, writes) for _ in range(runs)] for name, (_, writes) in SCENARIOS.items()
    }
    time.sleep(AGE)
    return {name: dict(Counter(SCENARIOS[name][0](scene) for scene in played)) for name, played in scenes.items()}


def main(name: str, runs: str, redis_url: str = "") -> None:
    contender = contenders()[name]
    with contender.open(Lab(redis_url=redis_url, gated=True)) as server:
        json.dump({"title": contender.title, "table": run(server, contender, int(runs))}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
