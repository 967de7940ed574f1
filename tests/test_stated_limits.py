"""What docs/security-model.md says does not hold, where no other test shows it: so much is given up, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from webob import Request

from wsgi_rollsession import Ended, RollSession, Session, SessionConflict
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.testing import read_session

from .browser import KEY, Browser, Clock, Steps, get, login, logout, put, who, wrap


@pytest.mark.parametrize(
    ("logins", "out", "stays"), [(3, False, True), (4, False, False), (1, True, True), (2, True, False)]
)
def test_a_late_write_after_many_logins(logins: int, out: bool, stays: bool) -> None:
    """It meets a live login after four logins, or two with a logout before each; and not sooner."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)
    browser.do(login("alice"))
    late = browser.call(put("late", 1))
    for at in range(logins):
        clock.advance(1)
        if out:
            browser.do(logout)
        browser.do(login(f"bob{at}"))
    browser.receive(late)
    assert browser.do(who) == (f"bob{logins - 1}" if stays else None), "and never alice"


@pytest.mark.parametrize(("epochs", "stays"), [(1, True), (2, False)])
def test_a_late_write_after_two_epochs(epochs: int, stays: bool) -> None:
    """It lands in the slot of the second, and the user is logged out; beside the first it does no harm."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)
    browser.do(login("alice"))
    late = browser.call(put("late", 1))
    for _ in range(epochs):
        clock.advance(1)
        browser.do(Session.regenerate)
    browser.receive(late)
    assert browser.do(who) == ("alice" if stays else None)
    assert browser.do(lambda session: session.ended) is (None if stays else Ended.SUPERSEDED)


@pytest.mark.parametrize("arrival", ["wr", "rw"])
@pytest.mark.parametrize("answered", ["wr", "rw"])
def test_a_write_beside_a_regenerate_is_lost(answered: str, arrival: str) -> None:
    """Whichever is answered first, and whichever arrives last: what ``regenerate`` has loaded goes on."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)
    browser.do(login("alice"))
    requests = {"w": Steps(browser).look(), "r": Steps(browser).look()}
    requests["w"].do(put("late", 1))
    requests["r"].do(Session.regenerate)
    answers = {each: requests[each].answer() for each in answered}
    for each in arrival:
        browser.receive(answers[each])
    assert (browser.do(who), browser.do(get("late"))) == ("alice", None)
    assert requests["w"].error is None
    assert requests["r"].error is None


def test_what_a_process_does_that_has_not_heard_of_a_logout_yet() -> None:
    """``follow=1``: it serves a load, and extends nothing and writes nothing, for that is asked of the server."""
    clock = Clock()
    wrapped = wrap(clock)
    browser = Browser(wrapped, clock)
    browser.do(login("alice"))
    thief = browser.copied()
    clock.advance(100)
    store = wrapped.sessions.revocations
    before = {}

    def remember(keys: Iterable[bytes]) -> list[int]:
        return [before.get(key, 0) for key in keys]

    lookup_now = store.lookup
    before.update({key: lookup_now((key,))[0] for key in _asked(wrapped, thief)})
    browser.do(logout)
    store.lookup, store.lookup_now = remember, lookup_now  # type: ignore[method-assign,assignment]
    for handler in (who, put("late", 1)):
        answer = thief.call(handler)
        assert answer.set_cookies == []
    assert thief.call(who).result == "alice"
    step = Steps(thief).look()
    step.do(Session.save)
    assert isinstance(step.error, SessionConflict)


def _asked(wrapped: RollSession, browser: Browser) -> list[bytes]:
    """The keys that a load asks for."""
    store, keys = wrapped.sessions.revocations, []
    lookup = store.lookup

    def asked(some: Any) -> Any:
        keys.extend(some)
        return lookup(some)

    store.lookup = asked  # type: ignore[method-assign]
    browser.call(who)
    store.lookup = lookup  # type: ignore[method-assign]
    return keys


def _streamed(application: Callable[..., Any]) -> tuple[RollSession, Any]:
    wrapped = RollSession(application, keys=KEY, revocations="memory://", amnesia="accept")
    return wrapped, Request.blank("/").get_response(wrapped)


def test_a_nested_change_after_the_headers() -> None:
    """On a list that was read before, it cannot be noticed: no error, and it is not kept."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        cart = environ[SESSION].setdefault("cart", [])
        start_response("200 OK", [])
        cart.append("tea")
        return []

    wrapped, answer = _streamed(application)
    assert read_session(wrapped, answer.headers.getall("Set-Cookie")).data == {"cart": []}


def test_a_body_that_reads_the_session_first() -> None:
    """Its headers are gone: no ``Vary``."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield str(environ[SESSION].get("user")).encode()

    _, answer = _streamed(application)
    assert answer.text == "None"
    assert "Vary" not in answer.headers
