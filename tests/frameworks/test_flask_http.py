"""The race table over HTTP for Flask with Flask-Login: gunicorn, two processes of four threads, SQLite and Redis.

R1 is served by one process, and what happens meanwhile by the other. Logins and logouts are ``login_user()`` and
``logout_user()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ..browser import Answer
from ..http_client import Server, WebBrowser, gunicorn

MOUNTS: dict[str, dict[str, Any]] = {"shop": {}, "versioned": {"versioned": True}}
#: What browsers restore at once, and the size of each session; and the longest header field that gunicorn takes.
TABS, SIZE, LONGEST_FIELD = 15, 2000, 8190


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn for all rows of one store, rolling on every response."""
    folder = tmp_path_factory.mktemp("flask")
    store = f"sqlite:///{folder}/revocations.db"
    if request.param == "redis":
        store = request.getfixturevalue("redis_server").url
    mounts = {name: {"revocations": store, "renew_after": 0, **options} for name, options in MOUNTS.items()}
    application = ("tests.frameworks.flask_site:create()",)
    with gunicorn(folder, mounts, application=application, worker_class="gthread", threads=4) as running:
        yield running


class Stage:
    """A browser in which alice has logged in, in front of a mount, and the two processes behind it."""

    def __init__(self, server: Server, mount: str) -> None:
        self.here, self.there = server.workers
        self.server, self.mount = server, mount
        self.browser = self.new("alice")

    def new(self, user: str | None = None) -> WebBrowser:
        """Another browser."""
        browser = self.server.browser(self.mount)
        if user is not None:
            browser.go(f"login?user={user}", on=self.here)
        return browser

    def thief(self, *answers: Answer) -> WebBrowser:
        """Who has copied what the browser has now, and whatever passes by, and deletes nothing."""
        thief = self.new()
        thief.jar = dict(self.browser.jar)
        for answer in answers:
            kept = [("Set-Cookie", each) for each in answer.set_cookies if "Max-Age=0" not in each]
            thief.receive(Answer("", kept, None, b""))
        return thief

    def logout(self) -> None:
        """By the other process."""
        self.browser.go("logout", on=self.there)

    def login(self, user: str) -> None:
        """By the other process."""
        self.browser.go(f"login?user={user}", on=self.there)

    def ask(self, browser: WebBrowser | None = None, key: str = "user") -> Any:
        """What both processes say."""
        answers = [(browser or self.browser).go(f"read?key={key}", on=each) for each in (self.here, self.there)]
        assert answers[0] == answers[1]
        return answers[0]


def resurrection(stage: Stage, r1: str) -> Any:
    """R1 is held; logout; its answer arrives. Who is logged in, at the browser or at whoever copied all of it?"""
    at_r1 = stage.thief()
    with stage.browser.in_flight(r1, on=stage.here) as flight:
        stage.logout()
    late = flight.result()
    at_r1.receive(late)
    stage.browser.receive(late)
    return stage.ask() or stage.ask(at_r1)


def replay(stage: Stage, r1: str) -> Any:
    """The cookies from before the logout are sent after it."""
    stage.browser.go(r1, on=stage.here)
    thief = stage.thief()
    stage.logout()
    return stage.ask(thief)


def lost_login(stage: Stage, r1: str) -> Any:
    """R1 is held; logout; bob logs in; its answer arrives. Who is the user?"""
    with stage.browser.in_flight(r1, on=stage.here) as flight:
        stage.logout()
        stage.login("bob")
    stage.browser.receive(flight.result())
    return stage.ask()


def stale_overwrite(stage: Stage, r1: str) -> Any:
    """R1 is held; another request stores a cart; its answer arrives. The cart?"""
    with stage.browser.in_flight(r1, on=stage.here) as flight:
        stage.browser.go("write?key=cart&value=1", on=stage.there)
    stage.browser.receive(flight.result())
    return stage.ask(key="cart")


def store_interleaving(stage: Stage, r1: str) -> Any:
    """A logout lands between the question to the store and the answer to the browser. Is a copy of it accepted?"""
    before = stage.thief()
    with stage.browser.in_flight(r1, on=stage.here, kind="confirm_gate") as flight:
        stage.logout()
    late = flight.result()
    thief = stage.thief(late)
    before.receive(Answer("", [("Set-Cookie", each) for each in late.set_cookies if "=;" not in each], None, b""))
    stage.browser.receive(late)
    return stage.ask() or stage.ask(thief) or stage.ask(before)


def late(stage: Stage, r1: str) -> Any:
    """R1 is answered before the logout; its answer arrives after bob's login. Who is the user?"""
    answer = stage.browser.fetch(r1, on=stage.here)
    stage.logout()
    stage.login("bob")
    stage.browser.receive(answer)
    return stage.ask()


def queued(stage: Stage, r1: str) -> Any:
    """R1, sent before the logout, is processed after it; its answer arrives after bob's login. Who is the user?"""
    header = stage.browser.header()
    stage.logout()
    answer = stage.browser.fetch(r1, on=stage.here, header=header)
    stage.login("bob")
    stage.browser.receive(answer)
    return stage.ask()


def elevation(gate: str) -> Callable[[Stage, str], Any]:
    """A request that changes rights is in flight; logout, with the cookies from before; its answer arrives."""

    def scenario(stage: Stage, r1: str) -> Any:
        if gate == "answered":
            answer = stage.browser.fetch("elevate", on=stage.here)
            stage.logout()
        else:
            with stage.browser.in_flight("elevate", on=stage.here, kind=gate) as flight:
                stage.logout()
            answer = flight.result()
        thief = stage.thief(answer)
        stage.browser.receive(answer)
        return stage.ask() or stage.ask(thief)

    return scenario


def logins_in_parallel(stage: Stage, r1: str) -> Any:
    """Many tabs log in with the same cookies, to large sessions. Is the next request answered, and as whom?"""
    stage.logout()
    header = stage.browser.header()
    path = f"login?user=alice&size={SIZE}"
    with ThreadPoolExecutor(TABS) as pool:
        answers = list(pool.map(lambda _: stage.browser.fetch(path, header=header), range(TABS)))
    for answer in answers:
        stage.browser.receive(answer)
    assert len(stage.browser.header()) < LONGEST_FIELD
    return stage.ask()


def documented_logout(stage: Stage, r1: str) -> Any:
    """As the replay, of a session that holds more than its user, which ``logout_user()`` leaves in it."""
    stage.browser.go("write?key=cart&value=1", on=stage.here)
    thief = stage.thief()
    stage.logout()
    assert stage.ask(key="cart") == "1"
    return stage.ask(thief)


ROWS: dict[str, tuple[Callable[[Stage, str], Any], Any]] = {
    "S1 S2 resurrection": (resurrection, None),
    "S3 replay": (replay, None),
    "S4 lost login": (lost_login, "bob"),
    "S5 stale overwrite": (stale_overwrite, "1"),
    "S6 store interleaving": (store_interleaving, None),
    "S7 late": (late, "bob"),
    "S8 queued": (queued, "bob"),
    "S9a elevation, held before it": (elevation("gate"), None),
    "S9b elevation, held after it": (elevation("late_gate"), None),
    "S9c elevation, answered": (elevation("answered"), None),
    "S9d elevation, held after the store's answer": (elevation("confirm_gate"), None),
    "S10 logins in parallel": (logins_in_parallel, "alice"),
    "S11 documented logout, replay": (documented_logout, None),
}
VARIANTS = {"read": "read", "write": "write?key=note&value=from-R1"}
#: These have no R1.
WITHOUT_R1 = ("S9", "S10", "S11")


@pytest.mark.parametrize(
    ("row", "variant"),
    [(row, variant) for row in ROWS for variant in VARIANTS if variant == "read" or not row.startswith(WITHOUT_R1)],
)
@pytest.mark.parametrize("mount", MOUNTS)
def test_row(server: Server, mount: str, row: str, variant: str) -> None:
    """Every row of the race table holds for a Flask application; of two writers, only with versions."""
    scenario, outcome = ROWS[row]
    if (mount, row, variant) == ("shop", "S5 stale overwrite", "write"):
        outcome = None  # the last write to arrive wins
    assert scenario(Stage(server, mount), VARIANTS[variant]) == outcome
