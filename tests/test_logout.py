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
    Handler,
    another,
    answering,
    call,
    filter_of,
    get,
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


def ours(browser: Browser) -> list[str]:
    """The cookies that the browser has, in whatever form, but for the slot."""
    return [name for name in [*browser.jar, *browser.partition] if not name.endswith("-slot")]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"cookie_path": "/app"},
    {"cookie_domain": "example.org"},
    {"samesite": "Strict"},
    {"samesite": "None", "partitioned": True},
    {"insecure_http": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("leave", [logout, lambda s: s.clear(), lambda s: s.forget()], ids=["end", "clear", "forget"])
def test_logout_deletes_with_the_same_attributes(clock: Clock, leave: Handler, options: dict[str, Any]) -> None:
    """The cookies of a session that is logged out, its lease too, are deleted with the attributes they have."""
    browser = logged_in(clock, **options)
    clock.advance(100)
    browser.do(who)
    assert len(ours(browser)) == 2
    browser.do(leave)  # the jar compares the attributes
    assert ours(browser) == []


@pytest.mark.parametrize("end", [logout, lambda s: s.clear(), login("bob")])
def test_partitioned_was_switched_on(clock: Clock, end: Handler) -> None:
    """Once a site is partitioned, what it set before is deleted too: to a browser these are two cookies."""
    browser = logged_in(clock, samesite="None")
    browser.application = another(browser, samesite="None", partitioned=True)
    browser.do(put("a", 1))
    assert len(ours(browser)) == 2
    browser.do(end)
    assert len(ours(browser)) == (end is not logout and browser.do(who) == "bob"), "one of the forms is left"


@pytest.mark.parametrize("end", [logout, lambda s: s.clear(), login("bob"), lambda s: s.regenerate()])
def test_what_is_deleted(clock: Clock, end: Handler) -> None:
    """A login, an epoch and a logout delete all cookies of our names that were presented, opened or not; no other."""
    browser = logged_in(clock)
    (name,) = browser.sessions
    planted = {
        "__Host-session": "junk",
        "__Host-session-lease": "junk",
        "__Host-session-3": "junk",
        "__Host-session-4b-lease": "junk",
    }
    others = {"__Host-session-5": "x", "__Host-session-1c": "x", "__Host-sessions": "x", "session-1": "x"}
    header = "; ".join(f"{each}={value}" for each, value in (planted | others | browser.cookies).items())
    sent = call(browser.application, end, header).sent()
    deleted = {each for each, value in sent.items() if not value}
    assert deleted == {*planted, name} - {each for each, value in sent.items() if value}


@pytest.mark.parametrize("end", [logout, lambda s: s.clear(), login("bob")])
def test_the_cookies_of_dead_sessions_are_deleted(clock: Clock, end: Handler) -> None:
    """A logout, and a login, delete also what is dead already."""
    browser = raced(clock, [login("alice"), put("note", 1), login("carol")])
    clock.advance(100)
    browser.do(who)
    clock.advance(DAY - 1000)  # of everything, only the cookies are left
    browser.do(end)
    assert len(browser.sessions) == (browser.do(who) == "bob")


# Ending


@pytest.mark.parametrize("end", [logout, lambda s: s.clear(), login("dave"), login("alice")])
def test_all_logins_presented_are_ended(clock: Clock, end: Handler) -> None:
    """A logout, and a login, end every login that the request presented."""
    browser = raced(clock, [login("alice"), login("bob"), login("carol"), login("alice")])
    pairs = [f"{name}={value}" for name, value in browser.sessions.items()]
    browser.do(end)
    assert [presenting(browser, pair) for pair in pairs] == [None] * 4
    assert len(browser.sessions) == (browser.do(who) is not None)


@pytest.mark.parametrize(("end", "left"), [(logout, None), (lambda s: s.clear(), 1), (login("dave"), None)])
def test_a_visitor_that_is_presented_beside_a_login(clock: Clock, end: Handler, left: Any) -> None:
    """An anonymous session beside a login is ended by ``invalidate`` and by a login, and by no other logout."""
    browser = raced(clock, [put("note", 1), login("alice")])
    header = f"__Host-session={browser.sessions['__Host-session']}"
    browser.do(end)
    assert "__Host-session" not in browser.sessions
    assert presenting(browser, header, get("note")) == left


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
    ((name, value),) = browser.sessions.items()
    clock.advance(3000)
    browser.do(who)
    clock.advance(1000)
    assert browser.do(who) == "alice"
    call(browser.application, logout, f"{name}={value}")
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
    assert list(answer.sent()) == ["__Host-session-slot"]
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
    """``revoke_others`` ends all sessions of a tag but this one, which keeps its data, tags and id in a new epoch."""
    one, other = two_devices(clock)
    old, old_header = one.do(lambda s: s.id), one.header()
    one.do(lambda s: s.revoke_others("user:alice"))
    assert one.do(lambda s: (s["user"], "user:alice" in s.tags, s.id == old)) == ("alice", True, True)
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
    """A login whose tag is revoked before its response is a conflict, and nothing is sent."""
    browser = open_browser(clock, answering)

    def handler(session: Session) -> None:
        login("alice")(session)
        filter_of(browser).revoke("user:alice")

    answer = browser.receive(browser.call(handler))
    assert (answer.status, answer.set_cookies) == ("409 Conflict", [])
    assert browser.do(who) is None


def test_a_session_is_created_when_it_is_created(clock: Clock) -> None:
    """A login right after a revocation has the real time as its creation, from which its deadlines count."""
    browser = open_browser(clock)
    filter_of(browser).revoke("user:alice")
    filter_of(browser).revoke_everything()
    for handler in (login("alice"), lambda s: s.revoke_others("user:alice"), lambda s: s.regenerate(tags=[])):
        answer = browser.receive(browser.call(handler))
        assert browser.do(lambda s: s.created.timestamp()) == clock()
        assert max(answer.max_ages()) == DAY


# What is no end


@pytest.mark.parametrize("empty", [lambda s: s.pop("message"), lambda s: s.__delitem__("message")], ids=["pop", "del"])
def test_being_empty_ends_nothing(clock: Clock, empty: Handler) -> None:
    """A login that held one message, which was taken out, is a login; so is an anonymous session what it was."""
    for begin in (lambda s: s.regenerate(tags=["user:alice"]), lambda s: None):
        browser = open_browser(clock)
        browser.do(lambda s, begin=begin: (begin(s), s.update(message="hello")))  # type: ignore[misc]
        id_ = browser.do(lambda s: (s.id, s.ended))
        browser.do(empty)
        assert browser.do(lambda s: (s.id, s.ended)) == id_, "ended by being empty"
        assert browser.do(dict) == {}


def test_a_visitor_that_is_cleared_becomes_another(clock: Clock) -> None:
    """Clearing an anonymous session deletes its cookies, or replaces it; a copy of it is what it was."""
    for after, left in ((lambda s: None, {}), (put("b", 2), {"b": 2})):
        browser = open_browser(clock)
        browser.do(put("a", 1))
        before, copy = browser.do(lambda s: s.id), browser.copied()
        browser.do(lambda s, after=after: (s.clear(), after(s)))  # type: ignore[misc]
        assert browser.do(dict) == left
        assert browser.do(lambda s: s.id) != before
        assert copy.do(dict) == {"a": 1}
        assert bool(browser.sessions) == bool(left)


# By the identity key


IN: dict[str, Handler] = {
    "assigned": put("user", 42),
    "updated": lambda s: s.update(user=42),
    "or": lambda s: s.__ior__({"user": 42}),
    "default": lambda s: s.setdefault("user", 42),
    "with tags": lambda s: (s.update(user=42), s.regenerate(tags=["tenant:7"])),
    "as text": put("user", "42"),
}
OUT: dict[str, Handler] = {
    "pop": lambda s: s.pop("user"),
    "pop with a default": lambda s: s.pop("user", None),
    "del": lambda s: s.__delitem__("user"),
    "None": put("user", None),
    "empty text": put("user", ""),
    "False": put("user", False),
    "empty list": put("user", []),
    "popitem": lambda s: [s.popitem() for _ in range(len(s))],
    "clear": lambda s: s.clear(),
}
AFTER: dict[str, Handler] = {
    "nothing": lambda s: None,
    "a message": put("message", "bye"),
    "saved": lambda s: s.save(),
    "a message, saved": lambda s: (s.update(message="bye"), s.save()),
}


@pytest.mark.parametrize("begin", IN.values(), ids=list(IN))
@pytest.mark.parametrize("leave", OUT.values(), ids=list(OUT))
@pytest.mark.parametrize("after", AFTER.values(), ids=list(AFTER))
def test_an_identity_that_comes_and_goes(clock: Clock, begin: Handler, leave: Handler, after: Handler) -> None:
    """However the identity key appears, that is a login; however it goes, a logout, and what is left is anonymous."""
    browser = open_browser(clock, identity_key="user", renew_after=0)
    browser.do(put("cart", [1]))
    visitor = browser.do(lambda s: s.id)
    browser.do(begin)
    assert browser.do(lambda s: (s.ended, "user:42" in s.tags, s.authenticated_at is not None)) == (None, True, True)
    login_id = browser.do(lambda s: s.id)
    assert login_id != visitor
    thief = browser.copied()
    browser.do(lambda s: (leave(s), after(s)))
    assert thief.do(who) is None
    found = browser.do(dict)
    assert not found.pop("user", None)
    assert found.pop("message", "bye") == "bye"
    emptied = leave in (OUT["clear"], OUT["popitem"])
    assert found == ({} if emptied else {"cart": [1]})
    assert browser.do(lambda s: (s.id != login_id, s.authenticated_at, list(s.tags))) == (True, None, [])


def test_an_identity_that_changes_back(clock: Clock) -> None:
    """An identity that is what it was when the response starts is neither a login nor a logout."""
    browser = open_browser(clock, identity_key="user")
    browser.do(put("user", 42))
    before = browser.do(lambda s: (s.id, s.version))
    browser.do(lambda s: (s.pop("user"), s.update(user="42"), s.update(user=42)))
    assert browser.do(lambda s: (s.id, s.version)) == before
