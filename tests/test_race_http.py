"""The race table over real HTTP: gunicorn's gthread workers, two processes of four threads, on SQLite and on Redis.

The same rows and outcomes as in tests/test_race.py. R1 is always served by one process, and what happens meanwhile by
the other, so that what one of them knows has to reach the other. Every outcome is asked of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .http_client import Server, WebBrowser, gunicorn
from .test_race import LONGEST_FIELD, PLAYS, ROWS, SIZE, TABS, expected

MOUNTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "versioned": {"versioned": True},
    "identity": {"identity_key": "user"},
}


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn for all rows of one store, rolling on every response."""
    folder = tmp_path_factory.mktemp("race")
    store = f"sqlite:///{folder}/revocations.db"
    if request.param == "redis":
        store = request.getfixturevalue("redis_server").url
    mounts = {name: {"revocations": store, "renew_after": 0, **options} for name, options in MOUNTS.items()}
    with gunicorn(folder, mounts, worker_class="gthread", threads=4) as running:
        yield running


class Stage:
    """A browser in front of a mount, and the two processes behind it."""

    def __init__(self, server: Server, mount: str) -> None:
        self.server, self.mount = server, mount
        self.here, self.there = server.workers

    def browser(self, user: str | None = "alice") -> WebBrowser:
        browser = self.server.browser(self.mount)
        if user is not None:
            browser.go(f"login?user={user}", on=self.here)
        return browser

    def copied(self, browser: WebBrowser) -> WebBrowser:
        """Another who holds the same cookies, whatever Max-Age says."""
        thief = self.browser(None)
        thief.jar = {name: (value, None, rest) for name, (value, _, rest) in browser.jar.items()}
        return thief

    def ask(self, browser: WebBrowser, key: str = "user") -> Any:
        """What both processes say."""
        answers = [browser.go(f"read?key={key}", on=worker) for worker in (self.here, self.there)]
        assert answers[0] == answers[1]
        return answers[0]


def s1_s2(stage: Stage, r1: str) -> Any:
    """R1 blocks in the handler; logout completes; R1's response arrives. Who is logged in?"""
    browser = stage.browser()
    with browser.in_flight(r1, on=stage.here) as late:
        browser.go("logout", on=stage.there)
    browser.receive(late.result())
    return stage.ask(browser)


def s3(stage: Stage, r1: str) -> Any:
    """The cookies copied before logout are sent after it. Who is logged in?"""
    browser = stage.browser()
    browser.go(r1, on=stage.here)
    thief = stage.copied(browser)
    browser.go("logout", on=stage.there)
    return stage.ask(thief)


def s4(stage: Stage, r1: str) -> Any:
    """R1 blocks; logout; login as bob; R1's response arrives. Who is the user?"""
    browser = stage.browser()
    with browser.in_flight(r1, on=stage.here) as late:
        browser.go("logout", on=stage.there)
        browser.go("login?user=bob", on=stage.there)
    browser.receive(late.result())
    return stage.ask(browser)


def s5(stage: Stage, r1: str) -> Any:
    """R1 blocks; another request writes cart=1 and completes; R1's response arrives. The cart?"""
    browser = stage.browser()
    with browser.in_flight(r1, on=stage.here) as late:
        browser.go("write?key=cart&value=1", on=stage.there)
    browser.receive(late.result())
    cart = stage.ask(browser, "cart")
    return cart and int(cart)


def s6(stage: Stage, r1: str) -> Any:
    """A logout lands between the authoritative check and the response's emission. Is a copy of it accepted?"""
    browser = stage.browser()
    thief = stage.copied(browser)
    with browser.in_flight(r1, on=stage.here, kind="confirm_gate") as waiting:
        browser.go("logout", on=stage.there)
    late = waiting.result()
    thief.take(late)
    browser.receive(late)
    return stage.ask(browser) or stage.ask(thief)


def s7(stage: Stage, r1: str) -> Any:
    """R1 is fully answered before the logout, but its response arrives after bob's login. Who is the user?"""
    browser = stage.browser()
    late = browser.fetch(r1, on=stage.here)
    browser.go("logout", on=stage.there)
    browser.go("login?user=bob", on=stage.there)
    browser.receive(late)
    return stage.ask(browser)


def s8(stage: Stage, r1: str) -> Any:
    """R1, sent before the logout, is processed after it; its response arrives after bob's login. Who is the user?"""
    browser = stage.browser()
    header = browser.header()
    browser.go("logout", on=stage.there)
    late = browser.fetch(r1, on=stage.here, header=header)
    browser.go("login?user=bob", on=stage.there)
    browser.receive(late)
    return stage.ask(browser)


def s8_late(stage: Stage, r1: str) -> Any:
    """S8, but R1 is processed after bob's login: what it begins is newer than bob's session. Who is the user?"""
    browser = stage.browser()
    header = browser.header()
    browser.go("logout", on=stage.there)
    browser.go("login?user=bob", on=stage.there)
    browser.receive(browser.fetch(r1, on=stage.here, header=header))
    browser.go("untouched", on=stage.there)
    return stage.ask(browser)


def s8_first_visit(stage: Stage, r1: str) -> Any:
    """R1 was sent without any cookie, and is answered after bob's login. Who is the user?"""
    browser = stage.browser("bob")
    browser.receive(browser.fetch(r1, on=stage.there, header=""))
    browser.go("untouched", on=stage.here)
    return stage.ask(browser)


#: Where a request that elevates its user waits.
HELD = {"held before": "gate", "held after": "done_gate", "held at the store": "confirm_gate"}


def s9(stage: Stage, when: str) -> Any:
    """R1 elevates its user, and is in flight while he logs out; its response arrives. Who is logged in, or a copy?"""
    browser = stage.browser()
    thief, out = stage.copied(browser), stage.copied(browser)
    if when == "answered":
        answer = browser.fetch("elevate", on=stage.here)
        out.go("logout", on=stage.there)
    else:
        with browser.in_flight("elevate", on=stage.here, kind=HELD[when]) as late:
            out.go("logout", on=stage.there)
        answer = late.result()
    thief.take(answer)
    browser.receive(answer)
    return stage.ask(browser) or stage.ask(thief)


def s10(stage: Stage, before: str) -> Any:
    """Fifteen tabs are restored, each logs in, and all are answered. Who sends the next request, if servers take it?"""
    browser = stage.browser(None)
    for path in {
        "first visit": [],
        "with a cart": ["write?key=cart&value=1"],
        "logged in": ["login?user=alice"],
        "logged out": ["login?user=alice", "logout"],
    }[before]:
        browser.go(path, on=stage.here)
    header = browser.header()
    with ThreadPoolExecutor(TABS) as pool:
        flights = [pool.submit(browser.fetch, f"login?user=alice&size={SIZE}", header=header) for _ in range(TABS)]
    for flight in flights:
        browser.receive(flight.result())
    return stage.ask(browser) if len(browser.header()) <= LONGEST_FIELD else "too large"


def s11(stage: Stage, how: str) -> Any:
    """Logout as frameworks document it, with a cart left; then the cookies from before are sent. Who is it?"""
    browser = stage.browser()
    browser.go("write?key=cart&value=1", on=stage.here)
    thief = stage.copied(browser)
    browser.go(f"leave?how={how.replace(', ', '-')}", on=stage.there)
    assert stage.ask(browser) is None
    return stage.ask(thief)


SCENARIOS: dict[str, Callable[[Stage, str], Any]] = {
    "S1 S2 resurrection": s1_s2,
    "S3 replay": s3,
    "S4 lost login": s4,
    "S5 stale overwrite": s5,
    "S6 store interleaving": s6,
    "S7 late": s7,
    "S8 queued": s8,
    "S8 queued past the login": s8_late,
    "S8 first visit": s8_first_visit,
    "S9 elevation": s9,
    "S10 logins in parallel": s10,
    "S11 documented logout": s11,
}


#: The direct table's, and one that needs a second process.
PLAYED = [*PLAYS, ("S9 elevation", "held at the store")]
#: What the variants of R1 are here; those of the later rows are told by their names.
PATHS = {"read": "read", "write": "write?key=note&value=from-R1"}


def play(stage: Stage, row: str, variant: str) -> Any:
    """What a browser, or a thief, ends up with."""
    return SCENARIOS[row](stage, PATHS.get(variant, variant))


def test_the_rows_are_those_of_the_direct_table() -> None:
    """No row of the race table is played by direct calls only."""
    assert set(SCENARIOS) == set(ROWS)


@pytest.mark.parametrize(("row", "variant"), PLAYED)
@pytest.mark.parametrize("mount", MOUNTS)
def test_row(server: Server, mount: str, row: str, variant: str) -> None:
    """Every row ends over HTTP, with two processes, as it does in the direct table."""
    assert play(Stage(server, mount), row, variant) == expected(row, variant, MOUNTS[mount])
