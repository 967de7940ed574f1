"""The race table: scenarios S1-S8, read and write, in both layouts, on every store, by direct WSGI calls.

R1 is a request in flight: its handler does not return before what the scenario wants has happened. Every scenario
returns what a browser, or a thief, ends up with. tests/test_race_http.py plays the same over real HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wsgi_rollsession import RollSession, Session

from .browser import Answer, Browser, Clock, get, login, logout, put, untouched, who, wrap

R1 = Callable[[Session], Any]


def read(session: Session) -> None:
    """R1's reading variant."""
    session.get("user")


def write(session: Session) -> None:
    """R1's writing variant."""
    session["note"] = "from R1"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "revocations.db"
        return f"sqlite:///{path}"
    return str(request.getfixturevalue("redis_url"))


@pytest.fixture
def clock() -> Clock:
    """A clock near the real one, which the stores follow."""
    return Clock(time.time())


@pytest.fixture
def application(request: pytest.FixtureRequest, store: str, clock: Clock) -> Iterator[RollSession]:
    """The filter, rolling on every response."""
    wrapped = wrap(clock, revocations=store, renew_after=0, **getattr(request, "param", {}))
    yield wrapped
    wrapped.close()


def in_flight(browser: Browser, r1: R1, meanwhile: Callable[[], None]) -> Answer:
    """R1: looks at the session, then *meanwhile* happens, then it does its thing and is answered."""

    def handler(session: Session) -> None:
        session.get("user")
        meanwhile()
        r1(session)

    return browser.call(handler)


def logged_in(application: RollSession) -> Browser:
    browser = Browser(application)
    browser.clock = application._context.clock  # type: ignore[assignment]
    browser.do(login("alice"))
    return browser


def s1_s2(application: RollSession, r1: R1) -> Any:
    """R1 blocks in the handler; logout completes; R1's response arrives. Who is logged in?"""
    browser = logged_in(application)
    late = in_flight(browser, r1, lambda: browser.do(logout))
    browser.receive(late)
    return browser.do(who)


def s3(application: RollSession, r1: R1) -> Any:
    """The cookies copied before logout are sent after it. Who is logged in?"""
    browser = logged_in(application)
    browser.do(r1)
    thief = Browser(application, browser.clock)
    thief.jar = dict(browser.jar)
    browser.do(logout)
    return thief.do(who)


def s4(application: RollSession, r1: R1) -> Any:
    """R1 blocks; logout; login as bob; R1's response arrives. Who is the user?"""
    browser = logged_in(application)

    def meanwhile() -> None:
        browser.do(logout)
        browser.do(login("bob"))

    browser.receive(in_flight(browser, r1, meanwhile))
    return browser.do(who)


def s5(application: RollSession, r1: R1) -> Any:
    """R1 blocks; another request writes cart=1 and completes; R1's response arrives. The cart?"""
    browser = logged_in(application)
    browser.receive(in_flight(browser, r1, lambda: browser.do(put("cart", 1))))
    return browser.do(get("cart"))


def s6(application: RollSession, r1: R1) -> Any:
    """A logout lands between the authoritative check and the response's emission. Is a copy of it accepted?"""
    browser = logged_in(application)
    store = application.revocations
    lookup_now = store.lookup_now
    armed = [True]

    def ask_then_logout(keys: Any) -> Any:
        numbers = lookup_now(keys)
        if armed:
            armed.clear()
            browser.do(logout)
        return numbers

    browser_at_r1 = browser.header()
    application._context.store.lookup_now = ask_then_logout  # type: ignore[method-assign]
    try:
        late = browser.call(r1, header=browser_at_r1)
    finally:
        del application._context.store.lookup_now
    assert not armed, "the logout did land in between"
    thief = Browser(application, browser.clock)
    thief.receive(Answer("", [("Set-Cookie", each) for each in late.set_cookies if "Max-Age=0" not in each], None, b""))
    stolen = "; ".join([browser_at_r1, thief.header()])
    browser.receive(late)
    return browser.do(who) or thief.call(who, header=stolen).result


def s7(application: RollSession, r1: R1) -> Any:
    """R1 is fully answered before the logout, but its response arrives after bob's login. Who is the user?"""
    browser = logged_in(application)
    late = browser.call(r1)
    browser.do(logout)
    browser.do(login("bob"))
    browser.receive(late)
    return browser.do(who)


def s8(application: RollSession, r1: R1) -> Any:
    """R1, sent before the logout, is processed after it; its response arrives after bob's login. Who is the user?"""
    browser = logged_in(application)
    header = browser.header()
    browser.do(logout)
    late = browser.call(r1, header=header)
    browser.do(login("bob"))
    browser.receive(late)
    return browser.do(who)


def s8_late(application: RollSession, r1: R1) -> Any:
    """S8, but R1 is processed after bob's login: what it begins is newer than bob's session. Who is the user?"""
    browser = logged_in(application)
    header = browser.header()
    browser.do(logout)
    browser.do(login("bob"))
    application._context.clock.advance(5)  # type: ignore[attr-defined]
    browser.receive(browser.call(r1, header=header))
    browser.do(untouched)
    return browser.do(who)


def s8_first_visit(application: RollSession, r1: R1) -> Any:
    """R1 was sent without any cookie, and is answered after bob's login. Who is the user?"""
    browser = Browser(application, application._context.clock)  # type: ignore[arg-type]
    browser.do(login("bob"))
    application._context.clock.advance(5)  # type: ignore[attr-defined]
    browser.receive(browser.call(r1, header=""))
    browser.do(untouched)
    return browser.do(who)


Scenario = Callable[[RollSession, R1], Any]
#: Scenario -> what happens, and what a browser, or a thief, must end up with.
ROWS: dict[str, tuple[Scenario, Any]] = {
    "S1 S2 resurrection": (s1_s2, None),
    "S3 replay": (s3, None),
    "S4 lost login": (s4, "bob"),
    "S5 stale overwrite": (s5, 1),
    "S6 store interleaving": (s6, None),
    "S7 late": (s7, "bob"),
    "S8 queued": (s8, "bob"),
    "S8 queued past the login": (s8_late, "bob"),
    "S8 first visit": (s8_first_visit, "bob"),
}
VARIANTS: dict[str, R1] = {"read": read, "write": write}
#: What the single layout gives up, having neither names of its own for every session nor a lease.
LOST_BY_SINGLE = {
    ("S5 stale overwrite", "read"): None,  # a roll sends the whole session again, as it was
    ("S5 stale overwrite", "write"): None,
    ("S7 late", "read"): None,  # R1's session is dead, but its cookie has replaced bob's
    ("S7 late", "write"): None,
    ("S8 queued", "write"): None,  # R1 begins a session of its own, under the one name there is
    ("S8 queued past the login", "write"): None,
    ("S8 first visit", "write"): None,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("row", ROWS)
def test_isolated(application: RollSession, row: str, variant: str) -> None:
    """Every row of the race table holds in the isolated layout, whether R1 reads or writes."""
    scenario, outcome = ROWS[row]
    if (row, variant) == ("S5 stale overwrite", "write"):
        outcome = None  # without strict, the last write to arrive wins
    assert scenario(application, VARIANTS[variant]) == outcome


@pytest.mark.parametrize("application", [{"cookie_layout": "single"}], indirect=True, ids=["single"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("row", ROWS)
def test_single(application: RollSession, row: str, variant: str) -> None:
    """The single layout resurrects nobody either; what it loses, it loses in just this way."""
    scenario, outcome = ROWS[row]
    assert scenario(application, VARIANTS[variant]) == LOST_BY_SINGLE.get((row, variant), outcome)


@pytest.mark.parametrize("application", [{"strict": True}], indirect=True, ids=["strict"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("row", ROWS)
def test_strict(application: RollSession, row: str, variant: str) -> None:
    """With strict, every row holds, also that of two writers: the one from an old version is dropped."""
    scenario, outcome = ROWS[row]
    assert scenario(application, VARIANTS[variant]) == outcome
