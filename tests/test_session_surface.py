"""What applications can ask a session, and what they get: why nobody is logged in, since and until when, copies.

One section for each rule; the rule is in its first docstring.
"""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from wsgi_rollsession import (
    ConfigurationError,
    Ended,
    RollSession,
    Session,
    SessionCommitted,
    SessionConflict,
    Sessions,
    StoreUnavailable,
    generate_key,
)
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.settings import DEFAULTS, Options

from .browser import (
    KEY,
    START,
    Answer,
    Browser,
    Clock,
    Fragile,
    Handler,
    Steps,
    another,
    call,
    filter_of,
    get,
    login,
    logout,
    memory,
    open_browser,
    put,
    store_of,
    untouched,
    who,
    with_error_page,
    wrap,
)

HOUR = 3600


def at(seconds: float) -> datetime:
    """A moment of the test's, as the session says it."""
    return datetime.fromtimestamp(START + seconds, timezone.utc)


def ended(session: Session) -> Ended | None:
    """Why nobody is logged in."""
    return session.ended


def begun(**options: Any) -> Browser:
    """Alice, who has just logged in."""
    clock = Clock(START - 60)
    options.setdefault("revocations", memory(clock))
    clock.now = START
    browser = open_browser(clock, **options)
    browser.do(login("alice"))
    return browser


def another_process(browser: Browser, **options: Any) -> None:
    """The application, restarted with other options, over the same store."""
    browser.application = another(browser, **options)


# Why nobody is logged in


def elsewhere(handler: Handler) -> Callable[[Browser], Any]:
    """The same cookies, in another request, whose answer does not arrive."""
    return lambda browser: browser.call(handler)


def step_back(browser: Browser) -> None:
    """The clock of the machine that serves the next request is behind."""
    browser.clock.step(-61)


ENDINGS: dict[str, tuple[Callable[[Browser], Any], Ended]] = {
    "idle": (lambda browser: browser.clock.advance(HOUR), Ended.IDLE),
    "the absolute timeout": (
        lambda browser: [(browser.clock.advance(1800), browser.do(untouched)) for _ in range(48)],
        Ended.ABSOLUTE,
    ),
    "issued ahead": (step_back, Ended.FUTURE),
    "logged out elsewhere": (elsewhere(logout), Ended.LOGGED_OUT),
    "cleared elsewhere": (elsewhere(lambda session: session.clear()), Ended.LOGGED_OUT),
    "bob elsewhere": (elsewhere(lambda session: session.regenerate(tags=["user:bob"])), Ended.LOGGED_OUT),
    "revoke_session": (
        lambda browser: filter_of(browser).sessions.revoke_session(browser.do(lambda s: s.id)),
        Ended.LOGGED_OUT,
    ),
    "revoke": (lambda browser: filter_of(browser).sessions.revoke("user:alice"), Ended.REVOKED),
    "revoke_everything": (lambda browser: filter_of(browser).sessions.revoke_everything(), Ended.REVOKED),
    "regenerated elsewhere": (elsewhere(lambda session: session.regenerate()), Ended.SUPERSEDED),
    "others revoked elsewhere": (elsewhere(lambda session: session.revoke_others("user:alice")), Ended.SUPERSEDED),
    "another key": (lambda browser: another_process(browser, keys=generate_key()), Ended.KEY_GONE),
    "a new store": (
        lambda browser: (
            browser.clock.advance(10),
            another_process(browser, revocations=memory(browser.clock)),
        ),
        Ended.STORE_LOST,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_why_nobody_is_logged_in(ending: str) -> None:
    """``ended`` tells apart all the ways in which a login ends; None while somebody is logged in."""
    browser = begun()
    end, why = ENDINGS[ending]
    assert browser.do(ended) is None
    end(browser)
    browser = browser.copied()  # whatever Max-Age said
    assert browser.do(ended) is why
    assert browser.do(who) is None
    assert str(why) == why.value and why == why.value, "a text, for people"


@pytest.mark.parametrize("beside", ["a visitor", "junk", "a lease"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_why_nobody_is_logged_in_beside_something_else(ending: str, beside: str) -> None:
    """An anonymous session that is alive, or what is not authentic, does not hide why a login ended."""
    browser = begun()
    end, why = ENDINGS[ending]
    end(browser)
    browser = browser.copied()
    if beside == "a visitor":
        browser.do(put("message", "sorry"))
        assert browser.do(get("message")) == "sorry"
    else:
        browser.jar["__Host-session-3" + ("-lease" if beside == "a lease" else "")] = ("junk", None, "")
    assert browser.do(ended) is why


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_login_after_the_end(ending: str) -> None:
    """Whatever ended a login, the next one works, and nothing is left of the reason."""
    browser = begun()
    ENDINGS[ending][0](browser)
    browser.do(login("bob"))
    assert browser.do(lambda session: (session.ended, session["user"])) == (None, "bob")
    browser.do(logout)
    assert browser.do(ended) is Ended.NEVER


@pytest.mark.parametrize("header", ["", "a=b", "__Host-session=junk", "__Host-session-1=junk", "__Host-session-slot=1"])
def test_never_logged_in(header: str) -> None:
    """Without an authentic login in the request nobody ever was logged in, as far as anybody can tell."""
    clock = Clock()
    assert call(wrap(clock), ended, header).result is Ended.NEVER


def test_a_visitor_was_never_logged_in() -> None:
    """An anonymous session, alive or dead, is nobody's; under a key that is gone, too."""
    clock = Clock()
    browser = open_browser(clock, revocations=memory(clock))
    browser.do(put("cart", 1))
    assert browser.do(ended) is Ended.NEVER
    thief = browser.copied()
    clock.advance(HOUR)
    assert thief.do(ended) is Ended.NEVER
    thief.application = wrap(clock, keys=generate_key())
    assert thief.do(ended) is Ended.NEVER


@pytest.mark.parametrize("reverse", [False, True])
def test_of_several_that_ended_the_last_login_counts(reverse: bool) -> None:
    """A browser with an old login that was idle and a newer one that was revoked is told of the newer one."""
    browser = begun()
    older = dict(browser.jar)
    browser.do(logout)
    browser.clock.advance(60)
    browser.do(login("alice"))
    filter_of(browser).sessions.revoke("user:alice")
    jars = [older, browser.jar]
    header = "; ".join(
        f"{name}={kept[0]}" for jar in (reversed(jars) if reverse else jars) for name, kept in jar.items()
    )
    assert browser.call(ended, header=header).result is Ended.REVOKED


@pytest.mark.parametrize(
    ("handler", "after"),
    [
        (logout, Ended.LOGGED_OUT),
        (lambda session: session.clear(), Ended.LOGGED_OUT),
        (lambda session: session.pop("user"), Ended.LOGGED_OUT),
        (lambda session: session.forget(), Ended.LOGGED_OUT),
        (lambda session: session.clear() or session.update(message="bye"), Ended.LOGGED_OUT),
        (lambda session: session.clear() or session.save(), Ended.LOGGED_OUT),
        (lambda session: session.clear() or session.revert(), None),
        (lambda session: session.pop("user") and session.revert(), None),
        (lambda session: session.clear() or session.update(user="bob"), None),
        (lambda session: session.update(user="bob"), None),
        (lambda session: session.regenerate(), None),
        (lambda session: session.invalidate() or session.regenerate(), None),
        (lambda session: session.invalidate() or session.update(user="bob"), None),
        (lambda session: session.pop("anything", 0), None),
    ],
)
@pytest.mark.parametrize("answered", [False, True], ids=["", "answered"])
def test_ended_follows_the_request(handler: Handler, after: Ended | None, answered: bool) -> None:
    """It says how it is by what the application has done so far, and still does after the response has started."""
    browser = begun(identity_key="user")
    steps = Steps(browser)
    steps.do(handler)
    if answered:
        steps.answer()
    assert steps.session.ended is after


# Until when


@pytest.mark.parametrize(
    ("options", "arguments", "seconds"),
    [
        ({}, {}, HOUR),
        ({"idle_timeout": "15m"}, {}, 900),
        ({"idle_timeout": None}, {}, 86400),
        ({"idle_timeout": "24h"}, {}, 86400),
        ({"rolling": False, "idle_timeout": "1h"}, {}, 86400),
        ({"absolute_timeout": None}, {}, HOUR),
        ({"absolute_timeout": "1h"}, {}, HOUR),
        ({}, {"idle_timeout": 600}, 600),
        ({}, {"idle_timeout": "10m"}, 600),
        ({}, {"idle_timeout": timedelta(minutes=10)}, 600),
        ({}, {"idle_timeout": "2h"}, HOUR),
        ({}, {"absolute_timeout": "30m"}, 1800),
        ({}, {"absolute_timeout": "48h"}, HOUR),
        ({}, {"idle_timeout": "20m", "absolute_timeout": "10m"}, 600),
        ({"absolute_timeout": None}, {"absolute_timeout": "10m"}, 600),
        ({"idle_timeout": None}, {"idle_timeout": "10m"}, 600),
    ],
    ids=str,
)
def test_until_when(options: dict[str, Any], arguments: dict[str, Any], seconds: int) -> None:
    """``expires`` is when the session ends without further activity: alive a millisecond before, over then."""
    clock = Clock()
    browser = open_browser(clock, **options)

    def begin(session: Session) -> None:
        session.regenerate(tags=["user:alice"], **arguments)
        session["user"] = "alice"

    browser.do(begin)
    thief = browser.copied()
    expires = thief.do(lambda session: session.expires)
    assert expires == at(seconds)
    assert expires.tzinfo is timezone.utc
    clock.now = expires.timestamp() - 0.001
    assert thief.call(who).result == "alice"
    clock.now = expires.timestamp()
    assert thief.call(who).result is None


def test_activity_shows_in_the_next_request() -> None:
    """A roll moves ``expires`` and ``last_activity``, up to the absolute deadline; in the request after it."""
    browser = begun(absolute_timeout="2h")
    for moment in (1800, 3600, 5400):
        browser.clock.now = START + moment
        before = browser.do(lambda session: (session.last_activity, session.expires))
        assert before[0] == at(moment - 1800)
        assert browser.do(lambda session: session.last_activity) == at(moment)
        assert browser.do(lambda session: session.expires) == at(min(moment + HOUR, 2 * HOUR))


def test_five_minutes_before_the_end() -> None:
    """An application that looks, and opts out of rolling, can warn its user in time."""
    browser = begun()

    def ends_soon(session: Session) -> bool:
        assert session.expires is not None
        return session.expires - datetime.fromtimestamp(browser.clock.now, timezone.utc) <= timedelta(minutes=5)

    for moment, soon in ((3299, False), (3300, True), (3599, True)):
        browser.clock.now = START + moment
        assert browser.do(ends_soon, **{"wsgi_rollsession.roll": False}) is soon


NOTHING = {"created": None, "authenticated_at": None, "last_activity": None, "expires": None, "version": 0}


@pytest.mark.parametrize("handler", [who, put("x", 1), logout, lambda session: session.clear()])
def test_a_session_that_has_not_begun(handler: Handler) -> None:
    """It has no times and version 0; but an id, which it keeps when it begins."""
    steps = Steps(open_browser(Clock()))
    steps.do(handler)
    session = steps.session
    assert {name: getattr(session, name) for name in NOTHING} == NOTHING
    assert session.id == session.id
    assert len(session.id) == 32
    assert not session.tags


@pytest.mark.parametrize("handler", [put("x", 1), lambda session: session.regenerate(), login("alice")])
def test_an_id_is_kept_when_the_session_begins(handler: Handler) -> None:
    """Whoever logs the id before the response logs the right one."""
    clock = Clock()
    browser = open_browser(clock)

    def begin(session: Session) -> str:
        handler(session)
        return session.id

    assert browser.do(begin) == browser.do(lambda session: session.id)


# Since when


def since(session: Session) -> tuple[datetime | None, datetime | None, str]:
    """When its user logged in, when the session was created, and its id."""
    return session.authenticated_at, session.created, session.id


@pytest.mark.parametrize("save", [False, True])
def test_since_when(save: bool) -> None:
    """``authenticated_at`` is the login's; nothing but another authentication moves it, and that not ``created``."""
    browser = begun()
    clock, (_, _, login_id) = browser.clock, browser.do(since)
    assert browser.do(since) == (at(0), at(0), login_id)
    kept: list[Handler] = [who, put("x", 1), lambda session: session.regenerate(), untouched]
    kept.append(lambda session: session.revoke_others("user:alice"))
    for handler in kept:
        clock.advance(600)
        browser.do(handler)
        assert browser.do(since) == (at(0), at(0), login_id)

    def again(session: Session) -> None:
        session.regenerate(tags=["user:alice"])
        assert session.authenticated_at == at(3000 + 600)
        if save:
            session.save()

    clock.advance(600)
    browser.do(again)
    clock.advance(1)
    assert browser.do(since) == (at(3600), at(0), login_id)


def test_since_when_of_others() -> None:
    """Another user's login begins anew; an anonymous session has no login time."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user")
    browser.do(put("cart", 1))
    assert browser.do(since)[:2] == (None, at(0))
    for moment, user in ((10, "alice"), (20, "bob"), (30, "bob")):
        clock.now = START + moment
        browser.do(put("user", user))
        assert browser.do(since)[:2] == (at(min(moment, 20)),) * 2
    browser.do(put("theme", "dark"))
    clock.now = START + 40
    browser.do(lambda session: session.pop("user"))
    assert browser.do(since)[:2] == (None, at(40)), "what is left is another session"


def test_a_slow_login_counts_from_its_call() -> None:
    """What ``regenerate()`` stated is true of the moment of the call, however long the response takes."""
    clock = Clock()
    browser = open_browser(clock)

    def slow(session: Session) -> None:
        session.regenerate(tags=["user:alice"])
        clock.advance(60)

    browser.do(slow)
    assert browser.do(since)[:2] == (at(0), at(0))


# Lifetimes of one login


def lasting(**arguments: Any) -> Handler:
    """Log in for so long."""

    def handler(session: Session) -> None:
        session.regenerate(tags=["user:alice"], **arguments)
        session["user"] = "alice"

    return handler


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    "handler", [untouched, who, put("x", 1), lambda s: s.regenerate(), lambda s: s.regenerate(tags=["user:alice"])]
)
def test_a_shorter_idle_timeout_is_kept(handler: Handler, versioned: bool) -> None:
    """Rolls, writes, epochs and re-authentication extend a login by the idle timeout that it was given, not more."""
    clock = Clock()
    browser = open_browser(clock, versioned=versioned)
    browser.do(lasting(idle_timeout="10m"))
    for _ in range(5):
        clock.advance(599)
        browser.do(handler)
        thief = browser.copied()
        assert thief.do(lambda session: session.expires) == datetime.fromtimestamp(clock.now + 600, timezone.utc)
    clock.advance(600)
    assert thief.do(ended) is Ended.IDLE


@pytest.mark.parametrize("handler", [untouched, who, put("x", 1), lambda session: session.regenerate()])
def test_a_shorter_absolute_timeout_is_kept(handler: Handler) -> None:
    """Nothing but another authentication moves the end of a login."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(lasting(absolute_timeout="2h"))
    for _ in range(3):
        clock.advance(1799)
        browser.do(handler)
    thief = browser.copied()
    assert thief.do(lambda session: session.expires) == at(2 * HOUR)
    clock.now = START + 2 * HOUR
    assert thief.do(ended) is Ended.ABSOLUTE


@pytest.mark.parametrize(
    ("first", "then", "seconds"),
    [
        ({}, {"absolute_timeout": "30m"}, 1800),
        ({"absolute_timeout": "2h"}, {"absolute_timeout": "30m"}, 1800),
        ({"absolute_timeout": "30m"}, {"absolute_timeout": "2h"}, 1800),
        ({"absolute_timeout": "30m"}, {}, 1800),
        ({"idle_timeout": "20m"}, {"idle_timeout": "30m"}, 600 + 1200),
        ({"idle_timeout": "20m"}, {"idle_timeout": "5m"}, 600 + 300),
        ({"idle_timeout": "20m"}, {}, 600 + 1200),
        ({}, {"idle_timeout": "5m"}, 600 + 300),
    ],
    ids=str,
)
def test_an_epoch_can_only_shorten(first: dict[str, Any], then: dict[str, Any], seconds: int) -> None:
    """Deadlines only shrink: counted from the login, whatever the epoch asks for."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(lasting(**first))
    clock.advance(600)
    browser.do(lambda session: session.regenerate(**then))
    assert browser.copied().do(lambda session: session.expires) == at(seconds)


@pytest.mark.parametrize(
    ("then", "hours"), [({}, 2), ({"absolute_timeout": "4h"}, 4), ({"absolute_timeout": "1h"}, 1)], ids=str
)
def test_another_authentication_begins_anew(then: dict[str, Any], hours: int) -> None:
    """With the lengths that the login had, or those that are given, as at a login."""
    clock = Clock()
    browser = open_browser(clock, idle_timeout="4h")
    browser.do(lasting(absolute_timeout="2h"))
    clock.advance(HOUR)
    browser.do(lasting(**then))
    assert browser.do(lambda session: session.expires) == at(HOUR + hours * HOUR)


@pytest.mark.parametrize("handler", [untouched, who, put("x", 1), lambda session: session.regenerate()])
@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"absolute_timeout": "8h"}, 8 * HOUR),
        ({"absolute_timeout": "48h"}, 24 * HOUR),
        ({"absolute_timeout": None, "idle_timeout": "23h"}, 24 * HOUR),
        ({"absolute_timeout": "8h", "idle_timeout": "8h"}, 8 * HOUR),
    ],
)
def test_another_configuration_counts_from_the_login(options: dict[str, Any], seconds: int, handler: Handler) -> None:
    """An absolute timeout that is lowered counts from the login; one that is raised extends nobody."""
    clock = Clock()
    store = memory(clock)
    browser = open_browser(clock, revocations=store, idle_timeout="23h")
    browser.do(login("alice"))
    clock.advance(7 * HOUR)
    browser.application = wrap(clock, revocations=store, **{"idle_timeout": "7h", **options})
    assert browser.do(ended) is (None if options.get("idle_timeout") else Ended.IDLE)
    if options.get("idle_timeout"):
        browser.do(handler)
        clock.now = START + seconds - 1
        thief = browser.copied()
        if thief.do(ended) is not Ended.IDLE:
            assert thief.do(lambda session: session.expires) == at(seconds)
        clock.now = START + seconds
        assert thief.do(ended) is not None


@pytest.mark.parametrize("name", ["idle_timeout", "absolute_timeout"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "soon", "", True, timedelta(milliseconds=1), [], "1y"], ids=repr)
def test_what_is_no_duration(name: str, value: Any) -> None:
    """The error names the argument, and nothing has happened."""
    browser = begun()
    steps = Steps(browser)
    with pytest.raises(ValueError, match=name):
        steps.session.regenerate(**{name: value})
    assert steps.session.changed is False


def closed(browser: Browser) -> Browser:
    """The browser, closed and opened again: what has no Max-Age is gone."""
    again = Browser(browser.application, browser.clock)
    again.jar = {name: kept for name, kept in browser.jar.items() if kept[1] is not None}
    return again


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    "handler", [who, put("x", 1), lambda s: s.regenerate(), lambda s: s.regenerate(tags=["user:alice"])]
)
def test_a_login_for_as_long_as_the_browser_runs(handler: Handler, versioned: bool) -> None:
    """``persistent=False``: no session or lease cookie has a Max-Age, whatever happens to the session."""
    clock = Clock()
    browser = open_browser(clock, versioned=versioned)
    browser.do(lasting(persistent=False))
    for _ in range(3):
        clock.advance(1800)
        browser.do(handler)
        assert browser.do(who) == "alice"
        assert set(closed(browser).cookies) == {"__Host-session-slot"}
    clock.advance(HOUR)
    assert browser.do(ended) is Ended.IDLE, "and its deadlines apply all the same"


@pytest.mark.parametrize(
    ("first", "then", "stays"),
    [
        (None, None, True),
        (True, None, True),
        (False, None, False),
        (False, True, True),
        (True, False, False),
        (None, False, False),
        (False, False, False),
    ],
)
def test_remember_me_can_be_changed(first: bool | None, then: bool | None, stays: bool) -> None:
    """An epoch keeps what the login was, unless it says otherwise; another login begins with the default."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(lasting(persistent=first))
    browser.do(lambda session: session.regenerate(persistent=then))
    assert closed(browser).do(who) == ("alice" if stays else None)
    browser.do(login("bob"))
    assert closed(browser).do(who) == "bob"


# Is it alive, now?

_NOT_MEANWHILE = ("another key", "a new store", "issued ahead", "the absolute timeout")
CHECKS = {name: ending for name, ending in ENDINGS.items() if name not in _NOT_MEANWHILE}


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("ending", CHECKS)
def test_check(ending: str, versioned: bool) -> None:
    """``check()`` asks the store: True, and False from the moment in which somebody else has ended the session."""
    browser = begun(versioned=versioned)
    end, why = CHECKS[ending]
    steps = Steps(browser).look()
    assert steps.session.check()
    end(browser)
    assert not steps.session.check()
    assert not steps.session.check()
    assert steps.session.ended is why
    steps.session["x"] = 1
    with pytest.raises(SessionConflict, match=str(why)):
        steps.session.save()
    assert steps.answer().set_cookies == [], "what has died is not written, and not rolled"
    assert not steps.session.check()


@pytest.mark.parametrize("ending", CHECKS)
def test_check_in_a_stream(ending: str) -> None:
    """It works after the headers, where a change is too late; so a stream can stop after a logout."""
    browser = begun()
    end, _ = CHECKS[ending]
    heard: list[bytes] = []

    def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        session = environ[SESSION]
        environ["test.handler"](session)
        start_response("200 OK", [])
        for at_part in range(9):
            if not session.check():
                return
            yield b"part"
            heard.append(b"part")
            if at_part == 2:
                end(browser)

    application = wrap(browser.clock, stream, revocations=store_of(browser))
    for handler in (untouched, who):
        heard.clear()
        steps = call(application, handler, browser.header())
        assert steps.body == b"part" * (3 if handler is untouched else 0)


@pytest.mark.parametrize("handler", [untouched, who, put("x", 1), logout, lambda session: session.clear()])
def test_check_where_there_is_none(handler: Handler) -> None:
    """A session that has not begun, or has just been ended, is not alive."""
    for browser in (open_browser(Clock()), begun()):
        steps = Steps(browser)
        steps.do(handler)
        assert steps.session.check() is (bool(browser.jar) and handler not in (logout,) and not steps.session.ended)


def test_check_of_a_visitor() -> None:
    """An anonymous session is asked about likewise."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(put("cart", 1))
    steps = Steps(browser)
    assert steps.session.check()
    browser.call(logout)
    assert not steps.session.check()
    assert steps.session.ended is Ended.NEVER


def test_check_of_what_was_saved() -> None:
    """What this request has sealed counts: its own epoch does not make it dead, that of another does."""
    browser = begun()
    steps = Steps(browser)
    steps.session.regenerate()
    assert steps.session.check()
    steps.session.save()
    assert steps.session.check()
    filter_of(browser).sessions.revoke("user:alice")
    assert not steps.session.check()
    assert not [value for name, value in steps.answer().sent().items() if name == "__Host-session-1b" and value]


@pytest.mark.parametrize(("outage", "alive"), [("degrade", True), ("open", True), ("closed", None)])
@pytest.mark.parametrize("known_dead", [False, True])
def test_check_in_an_outage(outage: str, alive: bool | None, known_dead: bool) -> None:
    """By the outage policy, as a load; what this process knows to be dead is dead."""
    clock = Clock()
    store = Fragile(memory(clock))
    browser = begun(revocations=store, outage=outage)
    steps = Steps(browser).look()
    if known_dead:
        browser.call(logout)
    store.is_down = True
    if alive is None:
        with pytest.raises(StoreUnavailable):
            steps.session.check()
    else:
        assert steps.session.check() is not known_dead


# Copies, and what a session is not

DATA: dict[str, Any] = {"user": "alice", "list": [1, [2]], "dict": {"a": {"b": 1}}, "none": None}

COPIES: dict[str, Callable[[Session], Any]] = {
    "copy()": lambda session: session.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "| {}": lambda session: session | {},
    "{} |": lambda session: {} | session,
    "| itself": lambda session: session | session,
    "JSON": lambda session: json.loads(json.dumps(session.copy())),
    "JSON of dict()": lambda session: json.loads(json.dumps(dict(session))),
    "pickle of a copy": lambda session: pickle.loads(pickle.dumps(copy.copy(session))),
    "deepcopy of what holds it": lambda session: copy.deepcopy({"session": session})["session"],
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_plain(how: str) -> None:
    """A copy is a dict that shares nothing with the session: changing it changes no session, and is not noticed."""
    browser = begun()
    browser.do(lambda session: session.update(DATA))
    steps = Steps(browser)
    copied = COPIES[how](steps.session)
    assert type(copied) is dict
    assert copied == DATA
    assert type(copied["dict"]["a"]) is dict
    copied["list"][1].append(3)
    copied["dict"]["a"]["b"] = 2
    copied["x"] = 1
    assert steps.session == DATA
    assert steps.session.changed is False


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda session: session | {"user": "bob", "x": 1}, {**DATA, "user": "bob", "x": 1}),
        (lambda session: {"user": "bob", "x": 1} | session, {**DATA, "x": 1}),
        (lambda session: {**session, "x": 1}, {**DATA, "x": 1}),
        (lambda session: dict(session, x=1), {**DATA, "x": 1}),
    ],
)
def test_or(expression: Callable[[Session], Any], expected: dict[str, Any]) -> None:
    """``|`` makes a dict, as the right side has it, and leaves the session alone."""
    browser = begun()
    browser.do(lambda session: session.update(DATA))
    steps = Steps(browser)
    found = expression(steps.session)
    assert type(found) is dict and found == expected
    assert steps.session == DATA and not steps.session.changed


@pytest.mark.parametrize("other", [{"x": 1}, [("x", 1)], {"x": 1}.items()], ids=["a dict", "pairs", "items"])
def test_ior(other: Any) -> None:
    """``|=`` changes the session itself, with whatever ``update`` takes."""
    browser = begun()

    def handler(session: Session) -> None:
        same = session
        session |= other
        assert session is same

    browser.do(handler)
    assert browser.do(get("x")) == 1


@pytest.mark.parametrize("other", [None, 1, "ab", [("x", 1)], ["x"]], ids=repr)
def test_or_with_anything_else(other: Any) -> None:
    """As for a dict: a TypeError."""
    session = Steps(begun()).session
    with pytest.raises(TypeError):
        session | other
    with pytest.raises(TypeError):
        other | session


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_session_is_not_pickled(protocol: int) -> None:
    """It is one request's; the error says what can be done."""
    with pytest.raises(TypeError, match="copy"):
        pickle.dumps(Steps(begun()).session, protocol)


ATTRIBUTES = [
    "user",
    "user_id",
    "x",
    "_x",
    "__x__",
    "permanent",
    "modified",
    "new",
    "is_new",
    "expiry",
    "max_age",
    "data",
]
PROPERTIES = [name for name in vars(Session) if not name.startswith("_")]


@pytest.mark.parametrize("name", [*ATTRIBUTES, *PROPERTIES, "copy", "__dict__", "get", "update", "__class__"])
def test_no_attribute_can_be_set(name: str) -> None:
    """``session.user = 42`` is an error, and not kept by nobody; so is setting or deleting what a session has."""
    session = Steps(begun()).session
    with pytest.raises((AttributeError, TypeError)):
        setattr(session, name, 42)
    if name != "__class__":
        with pytest.raises(AttributeError):
            delattr(session, name)
    assert session["user"] == "alice"
    assert not session.changed


@pytest.mark.parametrize("name", ["user", "is_new", "modified"])
def test_no_attribute_is_there(name: str) -> None:
    """Nor is there any that a framework's session would have."""
    session = Steps(begun()).session
    assert not hasattr(session, name)
    assert not hasattr(session, "__dict__")


# Two threads look first

LOOKS: dict[str, Callable[[Session], Any]] = {
    "get": lambda session: session["user"],
    "list": lambda session: id(session["list"]),
    "len": len,
    "iter": list,
    "in": lambda session: "user" in session,
    "copy": lambda session: session.copy(),
    "equality": lambda session: session == {"user": "alice", "list": []},
    "id": lambda session: session.id,
    "version": lambda session: session.version,
    "tags": lambda session: session.tags,
    "expires": lambda session: session.expires,
    "ended": lambda session: session.ended,
    "authenticated_at": lambda session: session.authenticated_at,
}


class SlowStore(Fragile):
    """A store whose answer to a load takes a moment, and that counts loads."""

    loads = 0

    def lookup(self, keys: Any) -> Any:
        self.loads += 1
        time.sleep(0.002)
        return self._store.lookup(keys)


@pytest.mark.parametrize("look", [*LOOKS, "each another"])
@pytest.mark.parametrize("state", ["alice", "a visitor", "nobody", "dead"])
def test_two_threads_look_first(look: str, state: str) -> None:
    """Loading is safe, and happens once: every thread sees the same session, whoever looks first, and at what."""
    clock = Clock()
    store = SlowStore(memory(clock))
    browser = open_browser(clock, revocations=store)
    if state != "nobody":
        browser.do(login("alice") if state != "a visitor" else put("user", "alice"))
        browser.do(put("list", []))
    if state == "dead":
        browser.call(logout)
    looks = list(LOOKS.values()) if look == "each another" else [LOOKS[look]] * 8
    for _ in range(3):
        session = Steps(browser).session
        store.loads = 0
        barrier = threading.Barrier(len(looks))
        found: list[Any] = [None] * len(looks)

        def run(number: int, session: Session = session, barrier: Any = barrier, found: list[Any] = found) -> None:
            barrier.wait()
            try:
                found[number] = looks[number](session)
            except Exception as error:
                found[number] = type(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(looks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def expected(one: Callable[[Session], Any], session: Session = session) -> Any:
            try:
                return one(session)
            except KeyError:
                return KeyError

        assert found == [expected(one) for one in looks]
        assert store.loads == (1 if state != "nobody" else 0)


# Activity


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("minutes", [14, 15, 16, 40])
@pytest.mark.parametrize("slow", [untouched, who, put("x", 1), lambda session: session.save()])
def test_a_slow_request_logs_out_nobody_who_clicks(slow: Handler, minutes: int, versioned: bool) -> None:
    """Its answer comes last, and brings no older lease: whoever clicked all the while is still there."""
    browser = begun(idle_timeout="15m", versioned=versioned)
    steps = Steps(browser)
    if slow is not untouched:
        steps.look()
    for _ in range(minutes):
        browser.clock.advance(60)
        browser.do(who)
    steps.do(slow)
    answer = steps.answer()
    browser.receive(answer)
    for _ in range(14):
        browser.clock.advance(60)
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("slow", [untouched, who, put("x", 1)])
def test_a_slow_request_alone_does_not_outlive_its_timeout(slow: Handler) -> None:
    """A session that is over when the response starts is not revived by it."""
    browser = begun(idle_timeout="15m")
    steps = Steps(browser)
    if slow is not untouched:
        steps.look()
    browser.clock.advance(15 * 60)
    thief = browser.copied()
    steps.do(slow)
    answer = steps.answer()
    assert answer.set_cookies == []
    thief.receive(answer)
    assert thief.do(ended) is Ended.IDLE


# Options


def misspelt(name: str) -> Iterator[str]:
    """Ways to get it wrong."""
    yield name[:-1]
    yield name + "s"
    yield name.replace("_", "")
    yield name.replace("e", "", 1)
    yield name[0] + name[2] + name[1] + name[3:]
    yield name.upper()


@pytest.mark.parametrize("name", [*DEFAULTS, "keys", "revocations"])
def test_a_misspelt_option_is_an_error_with_a_suggestion(name: str) -> None:
    """``idle_timout=3`` is refused, and the message names what was meant."""
    for wrong in misspelt(name):
        if wrong in (*DEFAULTS, "keys", "revocations"):
            continue
        options: dict[str, Any] = {"keys": KEY, "revocations": "memory://", wrong: 3}
        for make in (lambda **options: RollSession(untouched, **options), Sessions):
            with pytest.raises(ConfigurationError, match=f"^{wrong}: ") as raised:
                make(**options)
            if wrong != name.upper():
                assert f"did you mean {name}?" in str(raised.value)


def test_an_option_of_another_kind_is_an_error() -> None:
    """Without a suggestion where nothing is close; what was removed is unknown, too."""
    for wrong in ("wibble", "strict", "cookie_layout"):
        with pytest.raises(ConfigurationError, match=f"^{wrong}: requires one of ") as raised:
            Sessions(keys=KEY, revocations="memory://", **{wrong: 1})  # type: ignore[typeddict-unknown-key]
        assert wrong == "cookie_layout" or "did you mean" not in str(raised.value)


def test_every_option_is_a_typed_keyword() -> None:
    """Type checkers know every option by its name, so they refuse a misspelt one."""
    assert Options.__annotations__.keys() == {"keys", "revocations", *DEFAULTS}
    for make in (RollSession, Sessions):
        assert make.__init__.__annotations__["options"] == "Unpack[Options]"


# A logout in an outage


@pytest.mark.parametrize("outage", ["degrade", "closed", "open"])
@pytest.mark.parametrize("way", ["invalidate", "the identity"])
def test_a_logout_in_an_outage_can_be_forgotten_here(way: str, outage: str) -> None:
    """The error stays an error; its page can have this browser forget, which ends nothing elsewhere."""
    clock = Clock()
    store = Fragile(memory(clock))
    page = with_error_page(StoreUnavailable, "503 Service Unavailable")
    browser = open_browser(clock, page, revocations=store, outage=outage, identity_key="user")
    browser.do(put("user", "alice"))
    clock.advance(1200)
    browser.do(who)
    thief = browser.copied()
    header = browser.header()
    steps = Steps(browser).look()
    store.is_down = True
    if way == "invalidate":
        with pytest.raises(StoreUnavailable):
            steps.session.invalidate()
    else:
        steps.session.pop("user")
        with pytest.raises(StoreUnavailable):
            steps.session.save()
    steps.session.forget()
    answer: Answer = steps.answer()
    assert steps.error is None
    browser.receive(answer)
    assert set(browser.cookies) == {"__Host-session-slot"}
    assert {name for name, value in answer.sent().items() if not value} == {
        pair.partition("=")[0] for pair in header.split("; ") if "-slot=" not in pair
    }
    store.is_down = False
    assert browser.do(ended) is Ended.NEVER
    assert thief.do(who) == "alice", "nothing was ended"


@pytest.mark.parametrize("after", ["the header", "a message"])
def test_forget(after: str) -> None:
    """``forget()`` is for the response: too late after it; what is stored after it begins a session."""
    browser = begun()
    steps = Steps(browser)
    if after == "the header":
        steps.answer()
        with pytest.raises(Exception, match="headers"):
            steps.session.forget()
        return
    steps.session.forget()
    steps.session["message"] = "try again"
    browser.receive(steps.answer())
    assert browser.do(lambda session: session.copy()) == {"message": "try again"}
    assert set(browser.cookies) == {"__Host-session", "__Host-session-slot"}


def test_a_login_by_the_identity_key_before_its_response() -> None:
    """Once the identity is assigned, the session is the one that begins: its tags, its login time, another id."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user_id")
    browser.do(put("cart", 1))

    def handler(session: Session) -> str:
        before = session.id
        session["user_id"] = 7
        assert session.ended is None
        assert "user:7" in session.tags
        assert session.authenticated_at is not None
        assert session.version == 0
        assert session.id != before
        return session.id

    assert browser.do(handler) == browser.do(lambda session: session.id)


def test_another_user_before_the_response() -> None:
    """Once somebody else is assigned, nothing of the tags is those of the user before."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user_id")
    browser.do(put("user_id", 42))

    def handler(session: Session) -> None:
        session["user_id"] = 43
        assert "user:42" not in session.tags
        session.regenerate(tags=session.tags)

    browser.do(handler)
    assert browser.do(lambda session: ("user:43" in session.tags, "user:42" in session.tags)) == (True, False)
    browser.do(lambda session: session.pop("user_id") and (session.tags, session.authenticated_at))
    assert browser.do(lambda session: (len(session.tags), session.authenticated_at)) == (0, None)


@pytest.mark.parametrize("tag", ["", None, 42, ["user:42"]])
def test_what_is_no_tag(tag: Any) -> None:
    """An empty tag, or none at all, is refused where it is given: to revoke it would end nothing, and look done."""
    application = wrap(Clock())
    for attempt in (lambda: application.revoke(tag), lambda: application.revoke_session(tag)):
        with pytest.raises((TypeError, ValueError)):
            attempt()
    with pytest.raises((TypeError, ValueError)):
        Browser(application).do(lambda session: session.regenerate(tags=[tag]))
    assert Browser(application).do(lambda session: "" in session.tags) is False


def test_since_when_before_the_response() -> None:
    """A login that was called for begins at its call; an epoch without another authentication is of the same login."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)

    def begin(session: Session) -> Any:
        session.regenerate(tags=["user:alice"])
        clock.advance(10)
        return session.created, session.authenticated_at

    at = clock()
    created, authenticated = browser.do(begin)
    assert created == authenticated
    assert created.timestamp() == at
    clock.advance(100)
    found = browser.do(lambda session: session.regenerate() or (session.created, session.authenticated_at))
    assert found == (created, authenticated)
    found = browser.do(lambda session: session.regenerate(tags=["user:alice"]) or session.authenticated_at)
    assert found.timestamp() == clock()


def test_a_tag_given_twice_is_one() -> None:
    """It counts once against the limit, too."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)
    browser.do(lambda session: session.regenerate(tags=["user:alice"] * 33))
    assert browser.do(lambda session: len(session.tags)) == 1


def test_a_second_logout_after_the_headers_is_too_late() -> None:
    """Though the first, which found nobody, was in time: what cannot be done is not said to be done."""
    clock = Clock()
    steps = Steps(Browser(wrap(clock, identity_key="user"), clock))
    assert steps.session.pop("user", "nobody") == "nobody"
    steps.answer()
    with pytest.raises(SessionCommitted):
        steps.session.pop("user", "nobody")
