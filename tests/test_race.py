"""The race table: scenarios S1-S11, in all their variants, on every store, by direct WSGI calls.

R1 is a request in flight: its handler does not return before what the scenario wants has happened. Every scenario
returns what a browser, or a thief, ends up with. tests/test_race_http.py plays the same over real HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from wsgi_rollsession import RollSession, Session
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import EVERYTHING
from wsgi_rollsession.revocation.memory import MemoryRevocations

from .browser import (
    Answer,
    Browser,
    Clock,
    answering,
    elevate,
    farewell,
    get,
    login,
    logout,
    open_browser,
    put,
    untouched,
    who,
    wrap,
)

R1 = Callable[[Session], Any]
#: What browsers restore at once, and how much each of these sessions holds.
TABS, SIZE = 15, 2000
#: The longest header field that gunicorn takes by default (limit_request_field_size); Apache's is as long.
LONGEST_FIELD = 8190


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "revocations.db"
        return f"sqlite:///{path}"
    return str(request.getfixturevalue("redis_url"))


def table(clock: Clock, **options: Any) -> RollSession:
    """The filter, rolling on every response."""
    return wrap(clock, answering, renew_after=0, **options)


@pytest.fixture
def application(request: pytest.FixtureRequest, store: str) -> Iterator[RollSession]:
    """The application, on a clock near the real one, which the stores follow."""
    wrapped = table(Clock(time.time()), revocations=store, **getattr(request, "param", {}))
    yield wrapped
    wrapped.close()


def clock_of(application: RollSession) -> Clock:
    """The clock that the application goes by."""
    clock = application.sessions.settings.clock
    assert isinstance(clock, Clock)
    return clock


def in_flight(browser: Browser, r1: R1, meanwhile: Callable[[], None]) -> Answer:
    """R1: looks at the session, then *meanwhile* happens, then it does its thing and is answered."""

    def handler(session: Session) -> None:
        session.get("user")
        meanwhile()
        r1(session)

    return browser.call(handler)


def logged_in(application: RollSession) -> Browser:
    """A browser in which alice has just logged in."""
    browser = Browser(application, clock_of(application))
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
    thief = browser.copied()
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
    store = application.sessions.revocations
    thief, armed = browser.copied(), [True]

    def then_logout(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asking(*arguments: Any) -> Any:
            answer = ask(*arguments)
            if armed:
                armed.clear()
                browser.copied().do(logout)
            return answer

        return asking

    store.lookup_now = then_logout(store.lookup_now)  # type: ignore[method-assign]
    store.compare_and_raise = then_logout(store.compare_and_raise)  # type: ignore[method-assign]
    try:
        late = browser.call(r1)
    finally:
        del store.lookup_now, store.compare_and_raise
    assert not armed, "the logout did land in between"
    thief.take(late)
    browser.receive(late)
    return browser.do(who) or thief.do(who)


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
    clock_of(application).advance(5)
    browser.receive(browser.call(r1, header=header))
    browser.do(untouched)
    return browser.do(who)


def s8_first_visit(application: RollSession, r1: R1) -> Any:
    """R1 was sent without any cookie, and is answered after bob's login. Who is the user?"""
    browser = Browser(application, clock_of(application))
    browser.do(login("bob"))
    clock_of(application).advance(5)
    browser.receive(browser.call(r1, header=""))
    browser.do(untouched)
    return browser.do(who)


def s9(application: RollSession, when: str) -> Any:
    """R1 elevates its user, and is in flight while he logs out; its response arrives. Who is logged in, or a copy of?

    It is held before it regenerates, or after that; or it has been answered, and the answer is under way.
    """
    browser = logged_in(application)
    thief = browser.copied()
    out = browser.copied()  # the logout presents the cookies from before, whatever has arrived since

    def handler(session: Session) -> None:
        session.get("user")
        if when == "held before":
            out.do(logout)
        elevate(session)
        if when == "held after":
            out.do(logout)

    late = browser.call(handler)
    if when == "answered":
        out.do(logout)
    thief.take(late)
    browser.receive(late)
    return browser.do(who) or thief.do(who)


BEFORE: dict[str, Callable[[Browser], Any]] = {
    "first visit": lambda browser: None,
    "with a cart": lambda browser: browser.do(put("cart", [1])),
    "logged in": lambda browser: browser.do(login("alice")),
    "logged out": lambda browser: (browser.do(login("alice")), browser.do(logout)),
}


def s10(application: RollSession, before: Callable[[Browser], Any]) -> Any:
    """Fifteen tabs are restored, each logs in, and all are answered. Who sends the next request, if servers take it?"""
    browser = Browser(application, clock_of(application))
    before(browser)
    header, answers = browser.header(), []

    def tab(number: int) -> Answer:
        def handler(session: Session) -> None:
            session.get("user")
            if number:
                answers.append(tab(number - 1))
            login("alice")(session)
            session["page"] = f"{number:02}" * (SIZE // 2)

        return browser.call(handler, header=header)

    answers.append(tab(TABS - 1))
    assert len(answers) == TABS
    for answer in answers:
        browser.receive(answer)
    return browser.do(who) if len(browser.header()) <= LONGEST_FIELD else "too large"


LEAVE: dict[str, R1] = {
    "pop": lambda session: session.pop("user", None),
    "del": lambda session: session.pop("user"),
    "None": put("user", None),
    "clear": lambda session: session.clear(),
    "clear, message": farewell,
    "invalidate": logout,
}


def s11(application: RollSession, leave: R1) -> Any:
    """Logout as frameworks document it, with a cart left; then the cookies from before are sent. Who is it?"""
    browser = logged_in(application)
    browser.do(put("cart", [1]))
    thief = browser.copied()
    browser.do(leave)
    assert browser.do(who) is None
    return thief.do(who)


class Row(NamedTuple):
    """What happens, in which variants, and what a browser, or a thief, must end up with."""

    play: Callable[[RollSession, Any], Any]
    outcome: Any
    variants: Mapping[str, Any]


IN_FLIGHT: dict[str, R1] = {"read": lambda session: session.get("user"), "write": put("note", "from R1")}
ELEVATION = {each: each for each in ("held before", "held after", "answered")}

ROWS: dict[str, Row] = {
    "S1 S2 resurrection": Row(s1_s2, None, IN_FLIGHT),
    "S3 replay": Row(s3, None, IN_FLIGHT),
    "S4 lost login": Row(s4, "bob", IN_FLIGHT),
    "S5 stale overwrite": Row(s5, 1, IN_FLIGHT),
    "S6 store interleaving": Row(s6, None, IN_FLIGHT),
    "S7 late": Row(s7, "bob", IN_FLIGHT),
    "S8 queued": Row(s8, "bob", IN_FLIGHT),
    "S8 queued past the login": Row(s8_late, "bob", IN_FLIGHT),
    "S8 first visit": Row(s8_first_visit, "bob", IN_FLIGHT),
    "S9 elevation": Row(s9, None, ELEVATION),
    "S10 logins in parallel": Row(s10, "alice", BEFORE),
    "S11 documented logout": Row(s11, None, LEAVE),
}
PLAYS = [(row, variant) for row, each in ROWS.items() for variant in each.variants]
#: Without an identity key nothing says that these are logouts; and without versions a write refuses no older copy.
WRITES = {("S11 documented logout", variant): "alice" for variant in ("pop", "del", "None")}


def expected(row: str, variant: str, options: Mapping[str, Any]) -> Any:
    """What a browser ends up with under *options*."""
    if (row, variant) == ("S5 stale overwrite", "write") and not options.get("versioned"):
        return None  # the last write to arrive wins
    if not options:
        return WRITES.get((row, variant), ROWS[row].outcome)
    return ROWS[row].outcome


@pytest.mark.parametrize(("row", "variant"), PLAYS)
def test_the_table(application: RollSession, row: str, variant: str) -> None:
    """Every row of the race table holds, in every variant; what is no logout without an identity key is none."""
    play, _, variants = ROWS[row]
    assert play(application, variants[variant]) == expected(row, variant, {})


@pytest.mark.parametrize("application", [{"versioned": True}], indirect=True, ids=["versioned"])
@pytest.mark.parametrize(("row", "variant"), PLAYS)
def test_versioned(application: RollSession, row: str, variant: str) -> None:
    """With versions checked every row holds, also that of two writers: the one from an old version is dropped."""
    play, _, variants = ROWS[row]
    assert play(application, variants[variant]) == expected(row, variant, {"versioned": True})


@pytest.mark.parametrize("application", [{"identity_key": "user"}], indirect=True, ids=["identity"])
@pytest.mark.parametrize(("row", "variant"), PLAYS)
def test_identity(application: RollSession, row: str, variant: str) -> None:
    """With an identity key every row holds, also that of frameworks' own ways to log out."""
    play, _, variants = ROWS[row]
    assert play(application, variants[variant]) == expected(row, variant, {"identity_key": "user"})


def test_logins_whose_anonymous_session_another_process_is_ending() -> None:
    """What refuses a login may not be found yet when the store is asked for it: SQLite's readers are told afterwards.

    Two requests log in over the same anonymous session. 1. Both read it. 2. One ends it. 3. The other is refused.
    """
    clock = Clock()

    class TellsLater(MemoryRevocations):
        def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
            return [self.lookup((EVERYTHING,))[0], *(0 for _ in keys[1:])]

    now = lambda: int(clock() * 1000)  # noqa: E731
    store = TellsLater(StoreOptions(lifetime_ms=86_400_000, accept_amnesia=True), _clock=now, _monotonic=now)
    browser = open_browser(clock, revocations=store, identity_key="user")
    browser.do(put("pad", 1))

    def slow(session: Session) -> None:
        session["user"] = "alice"
        browser.call(put("user", "alice"))

    browser.do(slow)
    assert browser.do(who) == "alice"
