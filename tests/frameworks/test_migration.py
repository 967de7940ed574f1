"""Moving in: sessions of Flask, Pyramid, Beaker and Django go on here, once; their cookies log nobody in again."""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import flask
import flask_login
import pytest
from beaker.middleware import SessionMiddleware
from beaker.session import CookieSession
from django.core import signing
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.security import forget, remember
from pyramid.session import SignedCookieSessionFactory
from pyramid.testing import DummyRequest
from webob import Response

import wsgi_rollsession.migration as migration
from wsgi_rollsession import ConfigurationError, Ended, RollSession, Session, SessionTooLarge, StoreUnavailable
from wsgi_rollsession.flask import RollSessions
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.migration import BeakerCookie, DjangoCookie, FlaskCookie, PyramidCookie
from wsgi_rollsession.moving import OldCookies, OldSession
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.testing import fresh_revocations

from ..browser import KEY, Answer, Browser, Clock, Fragile, get, put, untouched
from . import test_pyramid as test_pyramid_module

SECRET = "the secret of the old system, and long enough for all of them"
HOUR, DAY = 3600, 86400
SWITCHED_BY = "2200-01-01"


class System(NamedTuple):
    """An old system."""

    cookie: Callable[..., Any]
    #: What it sends for a session with these data.
    issue: Callable[[dict[str, Any]], str]


def by_flask(data: dict[str, Any]) -> str:
    app = flask.Flask("old")
    app.secret_key = SECRET

    @app.route("/")
    def index() -> str:
        flask.session.update(data)
        return "ok"

    return _value(app.test_client().get("/").headers["Set-Cookie"])


def by_pyramid(data: dict[str, Any]) -> str:
    request, response = DummyRequest(), Response()
    SignedCookieSessionFactory(SECRET)(request).update(data)
    request._process_response_callbacks(response)
    return _value(response.headers["Set-Cookie"])


def by_beaker(data: dict[str, Any], **options: Any) -> str:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["beaker.session"].update(data)
        environ["beaker.session"].save()
        start_response("200 OK", [])
        return [b""]

    options = {"type": "cookie", "validate_key": SECRET, "data_serializer": "json", **options}
    sent: list[tuple[str, str]] = []
    SessionMiddleware(application, **options)({}, lambda status, headers, exc_info=None: sent.extend(headers))
    return _value(dict(sent)["Set-cookie"])


def by_django(data: dict[str, Any]) -> str:
    salt = "django.contrib.sessions.backends.signed_cookies"
    return signing.TimestampSigner(key=SECRET, fallback_keys=[], salt=salt).sign_object(
        data, serializer=signing.JSONSerializer, compress=True
    )


def _value(set_cookie: str) -> str:
    return set_cookie.partition("=")[2].partition(";")[0].strip('"')


SYSTEMS = {
    "flask": System(lambda **given: FlaskCookie(SECRET, **given), by_flask),
    "pyramid": System(lambda **given: PyramidCookie(SECRET, **given), by_pyramid),
    "beaker": System(lambda **given: BeakerCookie(SECRET, **{"lifetime": HOUR, **given}), by_beaker),
    "django": System(lambda **given: DjangoCookie(SECRET, **given), by_django),
}
ALICE = {"user_id": "alice", "cart": ["tea"], "é": {"n": 1.5}}


@pytest.fixture
def clock() -> Clock:
    """Of now, for what the old systems sign has their time in it."""
    return Clock(time.time())


@pytest.fixture(params=SYSTEMS.values(), ids=list(SYSTEMS))
def system(request: pytest.FixtureRequest) -> System:
    found: System = request.param
    return found


def site(clock: Clock, *old: OldCookies, **options: Any) -> RollSession:
    """The new system."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["test.holder"]["result"] = environ["test.handler"](environ[SESSION])
        start_response("200 OK", [("Content-Type", "text/plain"), *environ.get("test.headers", ())])
        return [b"ok"]

    given = {"absolute_timeout": "31d", "revocations": fresh_revocations(clock), **options}
    return RollSession(application, keys=KEY, identity_key="user_id", clock=clock, moving_in=[*old], **given)


def moved(clock: Clock, system: System, data: dict[str, Any] = ALICE, **options: Any) -> Browser:
    """A browser that has the old cookie, and visits the new system next."""
    old = system.cookie(switched_by=SWITCHED_BY)
    return with_cookie(Browser(site(clock, old, **options), clock), old, system.issue(data))


def with_cookie(browser: Browser, old: OldCookies, value: str) -> Browser:
    browser.jar[old.cookie_name] = (value, None, f"Path={old.path}; HttpOnly")
    return browser


def who(session: Session) -> Any:
    return session.get("user_id")


def become(user: str) -> Callable[[Session], None]:
    return put("user_id", user)


def ours(browser: Browser) -> set[str]:
    return {name for name in browser.cookies if name.startswith("__Host-") and not name.endswith("-slot")}


def old_ones(browser: Browser) -> set[str]:
    return {name for name in browser.cookies if not name.startswith("__Host-")}


LOGOUTS: dict[str, Callable[[Session], Any]] = {
    "pop": lambda session: session.pop("user_id", None),
    "invalidate": lambda session: session.invalidate(),
    "clear": lambda session: session.clear(),
}
each_logout = pytest.mark.parametrize("logout", LOGOUTS.values(), ids=LOGOUTS)


# Nobody is logged out


def test_a_session_moves_in(clock: Clock, system: System) -> None:
    """Who was logged in, is: with all data, with a tag for ``revoke``, and without the old cookie."""
    browser = moved(clock, system)
    assert browser.do(lambda session: session.copy()) == ALICE
    assert old_ones(browser) == set() and ours(browser) == {"__Host-session-1b"}
    assert browser.do(lambda session: (who(session), "user:alice" in session.tags, session.ended)) == (
        "alice",
        True,
        None,
    )


def test_a_session_moves_in_once(clock: Clock, system: System) -> None:
    """The cookie that was copied before is refused from then on, and the new session goes on."""
    browser = moved(clock, system)
    thief = browser.copied()
    browser.do(who)
    assert thief.do(lambda session: (who(session), session.ended)) == (None, Ended.SUPERSEDED)
    assert browser.do(who) == "alice"


def test_a_request_that_does_not_look_moves_nothing(clock: Clock, system: System) -> None:
    """A request that does not look at the session leaves the old cookie as it is, also where each one is extended."""
    browser = moved(clock, system, renew_after=0)
    assert browser.call(untouched).set_cookies == []
    assert browser.do(who) == "alice"


def test_what_the_first_request_stores_is_kept(clock: Clock, system: System) -> None:
    """The request that moves in may write, save and regenerate as any other."""
    for handler in (
        put("cart", ["milk"]),
        lambda session: (session.update(cart=["milk"]), session.save()),
        lambda session: (session.update(cart=["milk"]), session.regenerate()),
        lambda session: (session.save(), session["cart"].__setitem__(0, "milk")),
        lambda session: (session.update(cart=["milk"]), session.save(), session.revoke_others("user:alice")),
    ):
        browser = moved(clock, system)
        thief = browser.copied()
        browser.do(handler)
        assert browser.do(get("cart")) == ["milk"] and thief.do(who) is None and len(ours(browser)) == 1


def test_a_visitors_session_moves_in(clock: Clock, system: System) -> None:
    """The data of an anonymous session go on in an anonymous one."""
    browser = moved(clock, system, {"cart": ["tea"]})
    assert browser.do(get("cart")) == ["tea"]
    assert old_ones(browser) == set() and ours(browser) == {"__Host-session"}
    browser.do(become("alice"))
    assert browser.do(get("cart")) == ["tea"] and browser.do(who) == "alice"


def test_a_visitor_who_has_a_session_here_already(clock: Clock, system: System) -> None:
    """An anonymous session here is not overwritten by the old one's data."""
    old = system.cookie(switched_by=SWITCHED_BY)
    browser = Browser(site(clock, old), clock)
    browser.do(put("cart", ["milk"]))
    with_cookie(browser, old, system.issue({"cart": ["tea"]}))
    assert browser.do(get("cart")) == ["milk"]


def test_deadlines_count_from_the_login(clock: Clock) -> None:
    """The absolute timeout counts from the session's beginning, as far as its cookie tells."""
    old = PyramidCookie(SECRET, switched_by=SWITCHED_BY, lifetime="31d")
    now = clock()
    value = PyramidSerializer().dumps([now - 60, now - 9 * DAY, {"user_id": "alice"}]).decode()
    browser = with_cookie(Browser(site(clock, old, absolute_timeout="10d", idle_timeout="10d"), clock), old, value)
    assert browser.do(lambda session: session.authenticated_at) == datetime.fromtimestamp(
        int((now - 9 * DAY) * 1000) / 1000, timezone.utc
    )
    browser = browser.copied()
    clock.advance(DAY)
    assert browser.do(lambda session: (who(session), session.ended)) == (None, Ended.ABSOLUTE)


def PyramidSerializer(secret: str = SECRET) -> Any:
    """What signs Pyramid's cookies."""
    from webob.cookies import JSONSerializer, SignedSerializer

    return SignedSerializer(secret, "pyramid.session.", "sha512", serializer=JSONSerializer())


@pytest.mark.parametrize(("late", "expected"), [(-60, "alice"), (60, None)])
def test_lifetimes_of_the_old_system(clock: Clock, system: System, late: float, expected: str | None) -> None:
    """An old cookie is accepted for as long as the old system did, and no longer."""
    old = system.cookie(switched_by=SWITCHED_BY, lifetime=HOUR)
    browser = with_cookie(Browser(site(clock, old), clock), old, system.issue(ALICE))
    clock.advance(HOUR + late)
    assert browser.do(who) == expected


@pytest.mark.parametrize(("expiry", "after", "expected"), [(600, 500, "alice"), (600, 700, None), (0, 700, "alice")])
def test_djangos_set_expiry(clock: Clock, expiry: int, after: int, expected: str | None) -> None:
    """What Django's ``set_expiry()`` has shortened stays short."""
    browser = moved(clock, SYSTEMS["django"], {**ALICE, "_session_expiry": expiry})
    clock.advance(after)
    assert browser.do(who) == expected


def test_djangos_set_expiry_to_a_time(clock: Clock) -> None:
    """Also if it was a time."""
    at = datetime.fromtimestamp(clock() + 600, timezone.utc).isoformat()
    browser = moved(clock, SYSTEMS["django"], {**ALICE, "_session_expiry": at})
    clock.advance(700)
    assert browser.do(who) is None


def test_conversion(clock: Clock) -> None:
    """``convert`` says what is stored, and may refuse: by whatever it raises, a KeyError for a visitor, say."""

    def convert(data: dict[str, Any]) -> dict[str, Any]:
        if data["user"] == "mallory":
            raise ValueError("not that one")
        return {"user_id": data["user"]}

    old = FlaskCookie(SECRET, switched_by=SWITCHED_BY, convert=convert)
    for data, expected in (({"user": "alice"}, {"user_id": "alice"}), ({"user": "mallory"}, {}), ({"cart": 1}, {})):
        browser = with_cookie(Browser(site(clock, old), clock), old, by_flask(data))
        assert browser.do(lambda session: session.copy()) == expected


def test_several_old_systems(clock: Clock) -> None:
    """Cookies of several old systems may move in."""
    flask_cookie, django_cookie = (SYSTEMS[name].cookie(switched_by=SWITCHED_BY) for name in ("flask", "django"))
    application = site(clock, flask_cookie, django_cookie)
    for old, value in ((flask_cookie, by_flask(ALICE)), (django_cookie, by_django(ALICE))):
        assert with_cookie(Browser(application, clock), old, value).do(who) == "alice"


# An old cookie logs nobody in again


@each_logout
def test_replay_after_logout(clock: Clock, system: System, logout: Callable[[Session], Any]) -> None:
    """After a logout neither the old cookie nor any other of that login is accepted, as long as it would have been."""
    browser = moved(clock, system, idle_timeout="31d")
    thief = browser.copied()
    browser.do(who)
    later = browser.copied()
    browser.do(logout)
    for seconds in (0, 1000, 7 * DAY, 23 * DAY):
        clock.advance(seconds)
        assert browser.do(who) is None and thief.copied().do(who) is None and later.copied().do(who) is None


@each_logout
def test_logout_by_the_first_request(clock: Clock, system: System, logout: Callable[[Session], Any]) -> None:
    """A logout that presents the old cookie ends it, and deletes it."""
    browser = moved(clock, system)
    thief = browser.copied()
    browser.do(logout)
    assert browser.do(who) is None and thief.do(who) is None
    assert old_ones(browser) == set() and ours(browser) <= {"__Host-session"}  # a cart


@each_logout
def test_logout_while_it_moves_in(clock: Clock, system: System, logout: Callable[[Session], Any]) -> None:
    """A logout that can present the old cookie only, for the answer is on its way, ends the login that moved in."""
    browser = moved(clock, system)
    on_its_way = browser.call(who)
    browser.do(logout)
    browser.receive(on_its_way)
    assert browser.do(who) is None


def test_all_cookies_of_a_session_are_one(clock: Clock) -> None:
    """Where cookies tell which session they are of (Pyramid, Beaker), the logout ends all that were ever issued."""
    pyramid_cookie = PyramidCookie(SECRET, switched_by=SWITCHED_BY)
    now, dumps = clock(), PyramidSerializer().dumps
    issued = [dumps([now - age, now - 300, {"user_id": "alice", "auth.userid": "alice"}]).decode() for age in (9, 6, 3)]
    request: dict[str, Any] = {"cookie": f"beaker.session.id={by_beaker(ALICE)}"}
    again = CookieSession(request, validate_key=SECRET, data_serializer="json")
    again["more"] = 1
    again.save()
    beaker = [by_beaker(ALICE)]
    beaker = [request["cookie"].partition("=")[2], _value(request["cookie_out"].strip())]
    for old, values in ((pyramid_cookie, issued), (SYSTEMS["beaker"].cookie(switched_by=SWITCHED_BY), beaker)):
        assert len(set(values)) == len(values)
        application = site(clock, old)
        first, *others = [with_cookie(Browser(application, clock), old, value) for value in values]
        first.do(who)
        first.do(LOGOUTS["pop"])
        assert [each.do(who) for each in others] == [None] * len(others)


def test_other_spellings_of_a_cookie(clock: Clock) -> None:
    """A signature that is spelled otherwise does not make another session of an old cookie."""
    for name in ("flask", "django"):
        browser = moved(clock, SYSTEMS[name])
        (cookie,) = old_ones(browser)
        value = browser.cookies[cookie]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        thieves = []
        for last in alphabet:  # the last digit of base64 has spare bits
            thief = browser.copied()
            thief.jar[cookie] = (value[:-1] + last, None, "")
            thieves.append(thief)
        browser.do(who)
        assert {thief.do(who) for thief in thieves} == {None}


def test_revoke_before_it_moves_in(clock: Clock, system: System) -> None:
    """``revoke`` and ``revoke_everything`` end sessions of the old system, too."""
    for revoke in (lambda each: each.revoke("user:alice"), lambda each: each.revoke_everything()):
        browser = moved(clock, system)
        clock.advance(10)
        revoke(browser.application)
        assert browser.do(lambda session: (who(session), session.ended)) == (None, Ended.REVOKED)


def test_revoke_after_it_moved_in(clock: Clock, system: System) -> None:
    """``revoke``, ``revoke_session`` and ``revoke_everything`` end what has moved in, and the cookie it came from."""
    for revoke in (
        lambda each, _: each.revoke("user:alice"),
        lambda each, id_: each.revoke_session(id_),
        lambda each, _: each.revoke_everything(),
    ):
        browser = moved(clock, system)
        thief = browser.copied()
        id_ = browser.do(lambda session: session.id)
        clock.advance(10)
        revoke(browser.application, id_)
        assert browser.do(who) is None and thief.do(who) is None


def test_another_user_logs_in(clock: Clock, system: System) -> None:
    """Who logs in by the first request over somebody's old session has nothing of it, and the old one is over."""
    browser = moved(clock, system)
    thief = browser.copied()
    browser.do(become("bob"))
    assert browser.do(lambda session: session.copy()) == {"user_id": "bob"}
    assert thief.do(who) is None and old_ones(browser) == set()


def test_fixation(clock: Clock, system: System) -> None:
    """Who plants his own old anonymous cookie in a browser gets nothing of the login that follows."""
    browser = moved(clock, system, {"cart": ["tea"]})
    attacker = browser.copied()
    browser.do(become("alice"))
    assert browser.do(who) == "alice" and attacker.do(who) is None


def test_a_late_response_of_the_old_system(clock: Clock) -> None:
    """A cookie that the old system sent late does not log in again after a logout here; the next logout deletes it."""
    system = SYSTEMS["flask"]
    browser = moved(clock, system)
    old = system.cookie(switched_by=SWITCHED_BY)
    browser.do(who)
    browser.do(LOGOUTS["pop"])
    with_cookie(browser, old, system.issue({**ALICE, "cart": ["late"]}))
    assert browser.do(who) is None
    browser.do(LOGOUTS["pop"])
    assert old_ones(browser) == set()


def test_a_late_response_of_the_old_system_before_the_logout(clock: Clock) -> None:
    """A cookie that the old system sent late does not displace what has moved in, and ends with its logout."""
    system = SYSTEMS["flask"]
    browser = moved(clock, system)
    old = system.cookie(switched_by=SWITCHED_BY)
    browser.do(put("cart", ["new"]))
    with_cookie(browser, old, system.issue({**ALICE, "cart": ["late"]}))
    thief = Browser(browser.application, clock)
    thief.jar[old.cookie_name] = browser.jar[old.cookie_name]
    assert browser.do(get("cart")) == ["new"]
    browser.do(LOGOUTS["pop"])
    assert browser.do(who) is None and thief.do(who) is None and old_ones(browser) == set()


# Two requests at once


def test_requests_at_once(clock: Clock, system: System) -> None:
    """Three requests that all read the old cookie are all served, and there is one login, whoever is answered first."""
    for order in permutations(range(3)):
        browser = moved(clock, system)
        seen, answers = at_once(browser, 3)
        assert seen == ["alice"] * 3
        assert sum("__Host-session-1b" in answer.sent() for answer in answers) == 1
        for number in order:
            browser.receive(answers[number])
        assert browser.do(who) == "alice" and len(ours(browser)) == 1 and old_ones(browser) == set()


def at_once(browser: Browser, count: int) -> tuple[list[Any], list[Answer]]:
    """So many requests, each of which begins when the one before has read: whom they found, and the answers."""
    seen: list[Any] = []
    answers: list[Answer] = []

    def handler(session: Session) -> None:
        seen.append(who(session))
        if len(seen) < count:
            answers.append(browser.call(handler))

    answers.append(browser.call(handler))
    return seen, answers


def test_a_write_that_loses_is_dropped(clock: Clock, system: System, caplog: pytest.LogCaptureFixture) -> None:
    """Of two requests that write at once, the one that is answered later is dropped, and the log says so."""
    browser = moved(clock, system)

    def slow(session: Session) -> None:
        session["cart"] = ["slow"]
        browser.do(put("cart", ["fast"]))

    with caplog.at_level(logging.WARNING):
        browser.do(slow)
    assert browser.do(get("cart")) == ["fast"] and "dropped" in caplog.text


def test_a_request_between_answer_and_arrival(clock: Clock, system: System) -> None:
    """A request that presents the old cookie after it has moved in finds nobody, and takes nothing away."""
    browser = moved(clock, system)
    on_its_way = browser.call(who)
    between = browser.call(lambda session: (who(session), session.ended))
    assert between.result == (None, Ended.SUPERSEDED)
    browser.receive(on_its_way)
    browser.receive(between)
    assert browser.do(who) == "alice"
    browser.receive(browser.call(put("flash", "hello")))
    assert browser.do(who) == "alice"


@each_logout
def test_late_answers_after_a_logout(clock: Clock, system: System, logout: Callable[[Session], Any]) -> None:
    """Whatever order answers come in, after the logout nobody is logged in."""
    for order in permutations(range(3)):
        browser = moved(clock, system)
        answers = [browser.call(who), browser.call(put("cart", 1)), browser.call(logout)]
        for number in order:
            browser.receive(answers[number])
        assert browser.do(who) is None


def test_another_user_logs_in_while_it_moves_in(clock: Clock, system: System) -> None:
    """The answer that moves alice in arrives after bob's login: bob is logged in, and alice's session is over."""
    browser = moved(clock, system)
    on_its_way = browser.call(who)
    browser.do(become("bob"))
    browser.receive(on_its_way)
    assert browser.do(who) == "bob"
    browser.do(LOGOUTS["pop"])
    assert browser.do(who) is None


# What goes wrong


def test_an_application_that_fails(clock: Clock, system: System) -> None:
    """A request that raises has not moved anything in: the next one does."""

    def fails(session: Session) -> None:
        assert who(session) == "alice"
        raise ZeroDivisionError

    browser = moved(clock, system)
    with pytest.raises(ZeroDivisionError):
        browser.call(fails)
    assert browser.do(who) == "alice"


def test_a_request_that_is_run_again(clock: Clock, system: System) -> None:
    """Passes through the filter again, with a session that has moved in or not, end in one login."""

    def twice(application: Any) -> Any:
        def retrying(environ: dict[str, Any], start_response: Any) -> Any:
            list(application(environ, lambda *_: None))
            return application(environ, start_response)

        return retrying

    for handler in (who, put("cart", 1), lambda session: session.save()):
        browser = moved(clock, system)
        thief = browser.copied()
        filtered, browser.application = browser.application, twice(browser.application)
        browser.do(handler)
        browser.application = filtered
        assert browser.do(who) == "alice" and thief.do(who) is None
        assert old_ones(browser) == set() and len(ours(browser)) == 1


def test_reverting(clock: Clock, system: System) -> None:
    """``revert()`` takes back what was stored, and the session moves in."""
    browser = moved(clock, system)
    thief = browser.copied()
    browser.do(lambda session: (session.update(cart=0), session.revert()))
    assert browser.do(get("cart")) == ["tea"] and thief.do(who) is None


def test_too_large(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A session that does not fit here does not move in, which the log says; and nothing is an error."""
    data = {**ALICE, "text": "compresses well " * 300}
    for name in ("flask", "django"):
        browser = moved(clock, SYSTEMS[name], data)
        with caplog.at_level(logging.WARNING):
            assert browser.do(who) is None
        assert "does not fit" in caplog.text
        browser.do(become("alice"))
        assert browser.do(who) == "alice"
        caplog.clear()


def test_what_the_request_adds_does_not_fit(clock: Clock, system: System) -> None:
    """If it does not fit with what the request stores, that is an error, and it moves in with the next."""
    browser = moved(clock, system)
    with pytest.raises(SessionTooLarge):
        browser.call(put("cart", "x" * 5000))
    assert browser.do(get("cart")) == ["tea"]


def broken(clock: Clock) -> tuple[Fragile, Callable[[StoreOptions], Any]]:
    held: list[Fragile] = []

    def opened(options: StoreOptions) -> Any:
        held.append(Fragile(fresh_revocations(clock)(options)))  # type: ignore[arg-type]
        return held[0]

    class Later:
        def __setattr__(self, name: str, value: Any) -> None:
            setattr(held[0], name, value)

    return Later(), opened  # type: ignore[return-value]


@pytest.mark.parametrize("outage", ["degrade", "open"])
def test_an_outage(clock: Clock, system: System, outage: str) -> None:
    """In an outage the session is there, as others are, and does not move in; what would change it is an error."""
    store, opened = broken(clock)
    browser = moved(clock, system, revocations=opened, outage=outage)
    thief = browser.copied()
    store.is_down = True
    answer = browser.receive(browser.call(who))
    assert answer.result == "alice" and answer.set_cookies == []
    for handler in (put("cart", 1), *LOGOUTS.values(), become("bob"), lambda session: session.regenerate()):
        with pytest.raises(StoreUnavailable):
            browser.call(handler)
    store.is_down = False
    assert browser.do(get("cart")) == ["tea"] and browser.do(who) == "alice" and thief.do(who) is None


def test_an_outage_closed(clock: Clock, system: System) -> None:
    """``outage="closed"``: a request that presents an old cookie is answered 503, as with a session's."""
    store, opened = broken(clock)
    browser = moved(clock, system, revocations=opened, outage="closed")
    store.is_down = True
    for handler in (who, untouched, put("a", 1)):
        assert browser.call(handler).status == "503 Service Unavailable"
    store.is_down = False
    assert browser.do(who) == "alice"


def test_an_outage_that_begins_within_the_request(clock: Clock, system: System) -> None:
    """If the store fails after the session was read, what only read it is answered."""
    for outage in ("degrade", "closed"):
        store, opened = broken(clock)
        browser = moved(clock, system, revocations=opened, outage=outage)

        def reads(session: Session, store: Any = store) -> Any:
            found = who(session)
            store.is_down = True
            return found

        assert browser.do(reads) == "alice"
        store.is_down = False
        assert browser.do(who) == "alice" and old_ones(browser) == set()


@pytest.mark.parametrize(("switched_by", "expected"), [(60, "alice"), (-60, None)])
def test_a_store_that_is_new(clock: Clock, system: System, switched_by: float, expected: str | None) -> None:
    """A new store is no loss of data until the switch is over; afterwards it does not know what has been used."""
    at = datetime.fromtimestamp(clock() + switched_by, timezone.utc)
    old = system.cookie(switched_by=at)
    value = system.issue(ALICE)
    application = site(clock, old, revocations=lambda options: MemoryRevocations.by_clock(options, clock))
    browser = with_cookie(Browser(application, clock), old, value)
    assert browser.do(who) == expected
    if expected is None:
        assert browser.do(lambda session: session.ended) is Ended.STORE_LOST
    else:
        clock.advance(10)
        application.revoke_everything()
        assert browser.do(who) is None


def test_garbage(clock: Clock, system: System, caplog: pytest.LogCaptureFixture) -> None:
    """What the old system has not signed is nobody's, without an error."""
    good = system.issue(ALICE)
    old = system.cookie(switched_by=SWITCHED_BY)
    for value in ("", "x", '"', "é", "." * 50, ":" * 50, good[:-9], good[9:], good[::-1], "A" * 9000, good.swapcase()):
        browser = with_cookie(Browser(site(clock, old), clock), old, value)
        with caplog.at_level(logging.INFO):
            assert browser.do(lambda session: (who(session), session.ended)) == (None, Ended.NEVER)
        assert not value.strip('"') or "refused" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("what", ["unsigned", "another secret's", "converted"])
def test_a_refusal_quotes_nothing(clock: Clock, system: System, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that an old cookie was refused, and shows no part of it: no signature, no data, nothing planted."""

    def convert(data: dict[str, Any]) -> dict[str, Any]:
        return {"user_id": int(data["user_id"])}  # whose error quotes what is no number

    planted = "\x1b[31mplanted"
    good = system.issue(ALICE)
    value = {
        "unsigned": f"{planted}.{planted}:{planted}" * 3,
        "another secret's": good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:],
        "converted": good,
    }[what]
    old = system.cookie(switched_by=SWITCHED_BY, convert=convert if what == "converted" else None)
    browser = Browser(site(clock, old), clock)
    with caplog.at_level(logging.INFO):
        assert browser.call(who, header=f"{old.cookie_name}={value}").result is None
    assert "refused" in caplog.text
    assert "alice" not in caplog.text and planted[0] not in caplog.text and "planted" not in caplog.text
    assert not any(value[at : at + 10] in caplog.text for at in range(len(value) - 9))


def test_a_reader_of_ones_own_that_quotes_the_cookie(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is named in the log, without its message."""

    class Reader:
        cookie_name, path, domain, lifetime_s, switched_by = "old", "/", None, HOUR, 7_258_118_400.0

        def read(self, value: str) -> OldSession:
            raise ValueError(f"cannot read {value}")

    browser = Browser(site(clock, Reader()), clock)
    with caplog.at_level(logging.INFO):
        assert browser.call(who, header="old=secret").result is None
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_several_values_under_one_name(clock: Clock, system: System) -> None:
    """Of several cookies of one name, for several paths, one that is authentic counts."""
    old = system.cookie(switched_by=SWITCHED_BY)
    application = site(clock, old)
    browser = Browser(application, clock)
    header = f"{old.cookie_name}=junk; {old.cookie_name}={system.issue(ALICE)}; x{old.cookie_name}=1"
    assert browser.call(who, header=header).result == "alice"


def test_sessions_without_json(clock: Clock) -> None:
    """What is signed, and no session, is refused: other shapes, NaN, identities that are none."""
    pyramid_dumps = PyramidSerializer().dumps
    now = clock()
    for value in (
        [now, now],
        1,
        [now, now, []],
        ["x", "y", {}],
        [now, now, {"a": float("nan")}],
        [now, now, {"user_id": 1.5}],
    ):
        old = PyramidCookie(SECRET, switched_by=SWITCHED_BY)
        browser = with_cookie(Browser(site(clock, old), clock), old, pyramid_dumps(value).decode())
        assert browser.do(lambda session: session.copy()) == {}


def test_cookies_from_the_future(clock: Clock, system: System) -> None:
    """A cookie that was issued minutes ahead of this clock is refused."""
    browser = moved(clock, system)
    clock.step(-600)
    assert browser.do(who) is None


def test_beakers_pickles_are_refused(clock: Clock) -> None:
    """A pickled cookie is not read, though it is authentic."""
    ran: list[int] = []

    class Runs:
        def __reduce__(self) -> Any:
            return (exec, ("import wsgi_rollsession; wsgi_rollsession.ran = True",))

    value = by_beaker({"user_id": "alice", "x": Runs()}, data_serializer="pickle")
    old = SYSTEMS["beaker"].cookie(switched_by=SWITCHED_BY)
    assert with_cookie(Browser(site(clock, old), clock), old, value).do(who) is None
    import wsgi_rollsession

    assert not ran and not hasattr(wsgi_rollsession, "ran")


def test_beakers_encrypted_cookies(clock: Clock) -> None:
    """An encrypted Beaker cookie moves in with its key, and not with another."""
    value = by_beaker(ALICE, encrypt_key="secret", crypto_type="cryptography")
    for key, expected in (("secret", "alice"), ("another", None), (None, None)):
        old = BeakerCookie(SECRET, encrypt_key=key, crypto_type="cryptography", lifetime=HOUR, switched_by=SWITCHED_BY)
        assert with_cookie(Browser(site(clock, old), clock), old, value).do(who) == expected


def test_flasks_and_djangos_fallback_keys(clock: Clock) -> None:
    """Cookies signed with a key of yesterday move in, too."""
    for cookie, issue in ((FlaskCookie, by_flask), (DjangoCookie, by_django)):
        old: Any = cookie(["new", SECRET], switched_by=SWITCHED_BY)
        assert with_cookie(Browser(site(clock, old), clock), old, issue(ALICE)).do(who) == "alice"
        old = cookie("another", switched_by=SWITCHED_BY)
        assert with_cookie(Browser(site(clock, old), clock), old, issue(ALICE)).do(who) is None


def test_flasks_tagged_values_stay_tagged(clock: Clock) -> None:
    """What Flask tags, because JSON has no type for it, stays as Flask tagged it."""
    browser = moved(clock, SYSTEMS["flask"], {**ALICE, "at": datetime(2026, 1, 1, tzinfo=timezone.utc), "pair": (1, 2)})
    assert browser.do(lambda session: (session["at"], session["pair"])) == (
        {" d": "Thu, 01 Jan 2026 00:00:00 GMT"},
        {" t": [1, 2]},
    )


def test_attributes_of_the_deletion(clock: Clock) -> None:
    """The old cookie is deleted with the path and domain that it had."""
    old = FlaskCookie(SECRET, switched_by=SWITCHED_BY, cookie_name="old", path="/shop", domain="example.com")
    browser = with_cookie(Browser(site(clock, old), clock), old, by_flask(ALICE))
    cookies = browser.call(who).set_cookies
    assert "old=; Max-Age=0; Path=/shop; Domain=example.com; HttpOnly" in cookies


def test_cookies_in_parts(clock: Clock, system: System) -> None:
    """``commit_parts`` has the deletion of the old cookie among its parts."""
    browser = moved(clock, system)
    sessions = browser.application.sessions  # type: ignore[attr-defined]
    session = sessions.begin_header(browser.header())
    assert who(session) == "alice"
    headers, parts = sessions.commit_parts(session, "200 OK", [])
    assert {each.name: bool(each.value) for each in parts} == {
        **dict.fromkeys(old_ones(browser), False),
        "__Host-session-1b": True,
    }
    assert ("Cache-Control", "no-store") in headers


def test_by_another_clock(clock: Clock, system: System) -> None:
    """``by_clock`` keeps the old cookies."""
    browser = moved(clock, system)
    session = browser.application.sessions.by_clock(clock).begin_header(browser.header())  # type: ignore[attr-defined]
    assert who(session) == "alice"


# Through the adapters


def test_flask_login(clock: Clock) -> None:
    """Who is logged in with Flask-Login and Flask's own sessions stays so, and has what Flask's tags carry."""

    def application(*, adapted: bool) -> flask.Flask:
        app = flask.Flask("shop")
        app.secret_key = SECRET
        if adapted:
            app.config.update(ROLLSESSION_KEYS=KEY, ROLLSESSION_CLOCK=clock, ROLLSESSION_ABSOLUTE_TIMEOUT="31d")
            app.config.update(ROLLSESSION_REVOCATIONS=fresh_revocations(clock))
            app.config.update(ROLLSESSION_MOVING_IN=[FlaskCookie(SECRET, switched_by=SWITCHED_BY)])
            RollSessions(app)
        flask_login.LoginManager(app).user_loader(lambda name: User(name))

        @app.route("/")
        def index() -> str:
            do = flask.request.environ["test.handler"]
            flask.request.environ["test.holder"]["result"] = do()
            return "ok"

        return app

    class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
        def __init__(self, name: str) -> None:
            self.id = name

    def login() -> None:
        flask_login.login_user(User("alice"))
        flask.session["pair"] = (1, datetime(2026, 1, 1, tzinfo=timezone.utc))

    def seen() -> Any:
        return flask_login.current_user.get_id(), flask.session.get("pair")

    test: dict[str, Any] = {"test.handler": login, "test.holder": {}}
    answer = application(adapted=False).test_client().get("/", environ_overrides=test)
    browser: Any = Browser(application(adapted=True), clock)
    with_cookie(browser, FlaskCookie(SECRET, switched_by=SWITCHED_BY), _value(answer.headers["Set-Cookie"]))
    thief = browser.copied()
    assert browser.do(seen) == ("alice", (1, datetime(2026, 1, 1, tzinfo=timezone.utc)))
    assert browser.do(seen)[0] == "alice" and thief.do(seen) == (None, None)
    browser.do(flask_login.logout_user)
    assert browser.do(seen)[0] is None and old_ones(browser) == set()


@pytest.mark.parametrize("around", [False, True])
def test_pyramid(clock: Clock, around: bool) -> None:
    """Who is logged in with Pyramid's own sessions stays so, with his token and his messages, until ``forget()``."""

    def policy_and_view(config: Any) -> None:
        config.set_security_policy(test_pyramid_module.Policy())
        config.add_view(test_pyramid_module.view)

    old = Configurator(session_factory=SignedCookieSessionFactory(SECRET))
    policy_and_view(old)
    before: Any = Browser(old.make_wsgi_app(), clock)

    def login(request: Any) -> None:
        remember(request, "alice")
        request.session.flash("hello")
        get_csrf_token(request)

    value = _value(before.call(login).set_cookies[0])
    cookie = PyramidCookie(SECRET, switched_by=SWITCHED_BY)
    after: Any = Browser(test_pyramid_module.site(clock, around=around, moving_in=[cookie]), clock)
    with_cookie(after, cookie, value)
    thief = after.copied()
    user = lambda request: request.authenticated_userid  # noqa: E731
    assert after.do(user) == "alice" and thief.do(user) is None
    assert after.do(lambda request: (request.session.pop_flash(), "_csrft_" in request.session)) == (["hello"], True)
    after.do(lambda request: forget(request))
    assert after.do(user) is None and old_ones(after) == set()


# Configuration


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FlaskCookie(SECRET, switched_by="soon"), "switched_by"),
        (lambda: FlaskCookie(SECRET, switched_by=3), "switched_by"),  # type: ignore[arg-type]
        (lambda: FlaskCookie(SECRET, switched_by=SWITCHED_BY, lifetime=None), "lifetime"),  # type: ignore[arg-type]
        (lambda: BeakerCookie(SECRET, switched_by=SWITCHED_BY, lifetime="none"), "lifetime"),
    ],
)
def test_wrong_cookies(make: Callable[[], Any], match: str) -> None:
    """What is wrong with an old cookie's options is named."""
    with pytest.raises(ConfigurationError, match=match):
        make()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"identity_key": None}, "identity_key"),
        ({"insecure_http": True}, "cookie_name"),
        ({"moving_in": [object()]}, "moving_in"),
        ({"moving_in": "no.such:thing"}, "moving_in"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    """Without an identity key, or under the old cookie's name, nothing can move in."""
    given = {"identity_key": "user_id", "moving_in": FlaskCookie(SECRET, switched_by=SWITCHED_BY), **options}
    with pytest.raises(ConfigurationError, match=match):
        RollSession(None, keys=KEY, revocations="memory://", **given)  # type: ignore[arg-type]


OLD = [FlaskCookie(SECRET, switched_by=SWITCHED_BY)]


def test_old_cookies_by_name(clock: Clock) -> None:
    """In an ini file, ``moving_in`` is the module:name of a list."""
    application = site(clock)
    named = RollSession(
        application, keys=KEY, revocations="memory://", identity_key="user_id", moving_in=f"{__name__}:OLD"
    )
    assert named.sessions.settings.moving_in == tuple(OLD)


def test_fences_live_as_long_as_old_cookies(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The revocation set keeps fences for as long as an old cookie could be accepted; shorter deadlines are said."""
    with caplog.at_level(logging.WARNING):
        application = site(clock, FlaskCookie(SECRET, switched_by=SWITCHED_BY), absolute_timeout="24h")
    assert application.sessions.settings.fence_lifetime_ms > 31 * DAY * 1000
    assert "absolute_timeout" in caplog.text


def test_the_core_knows_no_framework() -> None:
    """The package imports no framework, and reads no old cookie, by itself."""
    root = Path(migration.__file__).parent
    for path in root.glob("*.py"):
        if path.name in ("migration.py", "pyramid.py", "beaker.py"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {"flask", "pyramid", "beaker", "django", "itsdangerous"} & {each.partition(".")[0] for each in names}
        relative = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
        assert not {"migration", "pyramid", "beaker", "flask", "django"} & {each.partition(".")[0] for each in relative}


@pytest.mark.parametrize("secret", ["", " ", None, [], ["new", ""], ["new", None], [None]])
@pytest.mark.parametrize("kind", [FlaskCookie, PyramidCookie, DjangoCookie, BeakerCookie])
def test_an_empty_secret(kind: Any, secret: Any) -> None:
    """With an empty secret anybody could sign a cookie that moves in: it is refused at start."""
    if kind in (PyramidCookie, BeakerCookie) and isinstance(secret, list):
        secret = secret[-1] if secret else ""
    with pytest.raises(ConfigurationError, match="requires the secret of the old system"):
        kind(secret, switched_by="2099-01-01", lifetime="1d")
