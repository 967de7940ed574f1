"""What ends a login: by itself, by its tags, by another; and which cookies are deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import Session
from wsgi_rollsession.revocation.fence import ENDED, session_key

from .browser import (
    Browser,
    Clock,
    call,
    filter_of,
    logged_in,
    login,
    logout,
    open_browser,
    presenting,
    put,
    raced,
    store_of,
    who,
    wrap,
)

HOUR, DAY = 3600, 86400
LONG = "x" * 2000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cookie_path": "/app"},
        {"cookie_domain": "example.org"},
        {"samesite": "Strict"},
        {"samesite": "None", "partitioned": True},
        {"insecure_http": True},
        {"cookie_layout": "single"},
    ],
)
def test_logout_deletes_with_the_same_attributes(clock: Clock, options: dict[str, Any]) -> None:
    """The cookies of a session that is logged out, its lease too, are deleted with the attributes they have."""
    browser = logged_in(clock, **options)
    clock.advance(100)
    browser.do(who)
    assert len(browser.cookies) == (1 if "cookie_layout" in options else 2)
    browser.do(logout)  # the jar compares the attributes
    assert browser.jar == {}


@pytest.mark.parametrize(
    ("end", "deleted"),
    [
        (lambda browser: call(browser.application, logout, browser.header()), True),
        (lambda browser: filter_of(browser).revoke("user:alice"), True),
        (lambda browser: filter_of(browser).revoke_everything(), True),
        (lambda browser: browser.clock.advance(HOUR + 60), True),
        (lambda browser: browser.clock.advance(HOUR + 59), False),
    ],
    ids=["logged out", "tag", "everything", "idle timeout", "idle timeout a moment ago"],
)
def test_the_cookies_of_dead_sessions_are_deleted(clock: Clock, end: Callable[[Any], Any], deleted: bool) -> None:
    """A response that finds a session dead for good deletes its cookies, and no response deletes others."""
    browser = logged_in(clock)
    header = browser.header()
    end(browser)
    answer = call(browser.application, who, header)
    assert answer.result is None
    assert list(answer.sent().values()) == ([""] if deleted else [])


def test_logout_ends_all_sessions_presented(clock: Clock) -> None:
    """A logout ends every session that the request presented, also those past the eight that a load looks at."""
    browser = raced(clock, [login(f"user{number}") for number in range(20)])
    pairs = browser.header().split("; ")
    browser.do(logout)
    assert browser.cookies == {}
    assert [presenting(browser, pair) for pair in pairs] == [None] * 20


def test_login_ends_all_sessions_presented(clock: Clock) -> None:
    """A login ends every session that the request presented, and leaves one."""
    browser = raced(clock, [login(f"user{number}") for number in range(20)])
    pairs = browser.header().split("; ")
    browser.do(login("alice"))
    assert browser.do(who) == "alice"
    assert len(browser.cookies) == 1
    assert [presenting(browser, pair) for pair in pairs] == [None] * 20


def test_logout_raises_the_fence_first(clock: Clock) -> None:
    """When ``invalidate`` has returned, the session is dead for everybody, while its request still goes on."""
    browser = logged_in(clock)
    header = browser.header()

    def handler(session: Session) -> Any:
        before = presenting(browser, header)
        session.invalidate()
        return before, presenting(browser, header)

    assert browser.do(handler) == ("alice", None)


def test_login_ends_the_session_before_it(clock: Clock) -> None:
    """A session id from before a login is worth nothing after it, so planting one gains nothing."""
    browser = open_browser(clock)
    browser.do(put("basket", [1]))
    planted = browser.header()
    browser.do(login("alice"))
    assert browser.do(dict) == {"basket": [1], "user": "alice"}
    assert presenting(browser, planted, dict) == {}


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda browser: browser.do(put("a", 1)),
        lambda browser: (browser.clock.advance(100), browser.do(who)),
    ],
    ids=["written", "rolled"],
)
def test_logout_with_older_cookies(clock: Clock, versioned: bool, prepare: Callable[[Browser], Any]) -> None:
    """A logout that was sent before a write or a roll had arrived ends the session as well."""
    browser = logged_in(clock, versioned=versioned)
    old = browser.header()
    prepare(browser)
    call(browser.application, logout, old)
    assert browser.do(who) is None


def test_logout_after_the_idle_timeout(clock: Clock) -> None:
    """A logout with the session cookie alone, when only its lease shows that it is alive, ends it for who has both."""
    browser = logged_in(clock)
    (session,) = browser.header().split("; ")
    clock.advance(3000)
    browser.do(who)
    clock.advance(1000)
    assert browser.do(who) == "alice"
    call(browser.application, logout, session)
    assert browser.do(who) is None


def test_saved_and_logged_out_in_one_request(clock: Clock) -> None:
    """A session that was saved and then ended in one request is not sent, and what was sealed is dead."""
    browser = open_browser(clock)

    def handler(session: Session) -> str:
        session["a"] = 1
        session.save()
        saved = session.id
        session.invalidate()
        return saved

    answer = browser.call(handler)
    assert not answer.set_cookies
    store = store_of(browser)
    assert list(store.lookup_now([session_key(bytes.fromhex(answer.result))])) == [ENDED]


def two_devices(clock: Clock) -> tuple[Browser, Browser]:
    """Alice's browsers, before one application."""
    one = logged_in(clock)
    other = Browser(one.application, clock)
    other.do(login("alice"))
    return one, other


def test_log_out_everywhere(clock: Clock) -> None:
    """``revoke`` ends all sessions that carry the tag, and no others."""
    one, other = two_devices(clock)
    bob = Browser(one.application, clock)
    bob.do(login("bob"))
    filter_of(one).revoke("user:alice")
    assert [browser.do(who) for browser in (one, other, bob)] == [None, None, "bob"]


def test_log_out_everywhere_and_in_again(clock: Clock) -> None:
    """Logging in again works at once after a revocation, and a second revocation at once ends that session too."""
    one, other = two_devices(clock)
    application = one.application
    for _ in range(3):
        application.revoke("user:alice")
        assert one.do(who) is None
        one.do(login("alice"))
        assert one.do(who) == "alice"
        assert other.do(who) is None


def test_log_out_the_others(clock: Clock) -> None:
    """``revoke_others`` ends all sessions of a tag but this one, which keeps its data and tags under another id."""
    one, other = two_devices(clock)
    old, old_header = one.do(lambda s: s.id), one.header()
    one.do(lambda s: s.revoke_others("user:alice"))
    assert one.do(lambda s: (s["user"], "user:alice" in s.tags, s.id != old)) == ("alice", True, True)
    assert other.do(who) is None
    assert presenting(one, old_header) is None


def test_a_fence_of_a_tag_survives_the_next_login(clock: Clock) -> None:
    """A login does not revive what a revocation of its tag has ended."""
    one, other = two_devices(clock)
    stolen = other.header()
    filter_of(one).revoke("user:alice")
    one.do(login("alice"))
    clock.advance(100)
    one.do(login("alice"))
    assert presenting(one, stolen) is None


def test_everything(clock: Clock) -> None:
    """``revoke_everything`` ends all sessions, tagged or not, and new ones work at once."""
    application = wrap(clock)
    browsers = [Browser(application, clock) for _ in range(3)]
    for browser, handler in zip(browsers, (login("alice"), login("bob"), put("user", "nobody"))):
        browser.do(handler)
    application.revoke_everything()
    assert [browser.do(who) for browser in browsers] == [None] * 3
    for browser, handler in zip(browsers, (login("alice"), login("bob"), put("user", "nobody"))):
        browser.do(handler)
    assert [browser.do(who) for browser in browsers] == ["alice", "bob", "nobody"]


def test_any_tag_of_several(clock: Clock) -> None:
    """A session with several tags ends with any one of them."""
    for tag in ("user:42", "tenant:7", "oidc:https://issuer.example|sid"):
        browser = open_browser(clock)
        browser.do(lambda s: s.regenerate(tags=["user:42", "tenant:7", "oidc:https://issuer.example|sid"]))
        filter_of(browser).revoke("user:4", "tenant:77", "oidc:")
        assert browser.do(lambda s: s.version != 0) is True
        filter_of(browser).revoke("unrelated", tag)
        assert browser.do(lambda s: s.version != 0) is False


def test_revoked_while_logging_in(clock: Clock) -> None:
    """A login whose tag is revoked before its response is not completed."""
    browser = open_browser(clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        filter_of(browser).revoke("user:alice")

    assert not browser.receive(browser.call(handler)).set_cookies
    assert browser.do(who) is None


def test_a_session_is_created_when_it_is_created(clock: Clock) -> None:
    """A login right after a revocation has the real time as its creation, from which its deadlines count."""
    browser = open_browser(clock)
    filter_of(browser).revoke("user:alice")
    filter_of(browser).revoke_everything()
    for handler in (login("alice"), lambda s: s.revoke_others("user:alice"), lambda s: s.regenerate(tags=[])):
        answer = browser.receive(browser.call(handler))
        assert browser.do(lambda s: s.created.timestamp()) == clock()
        assert answer.max_ages()[0] == DAY
