"""Which of the cookies that a request presents is the session, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import Ended, Session, generate_key
from wsgi_rollsession.revocation.fence import ENDED, session_key

from .browser import (
    Browser,
    Clock,
    Fragile,
    Lagging,
    call,
    filter_of,
    get,
    logged_in,
    login,
    logout,
    memory,
    open_browser,
    presenting,
    put,
    raced,
    store_of,
    untouched,
    who,
    wrap,
)


def fence_of(browser: Browser, header: str | None = None) -> int:
    """The number of the fence of the session that is presented."""
    id_ = presenting(browser, browser.header() if header is None else header, lambda s: s.id)
    (number,) = store_of(browser).lookup_now([session_key(bytes.fromhex(id_))])
    return number


@pytest.mark.parametrize("value", ["garbage", "A" * 132, "A" * 500])
@pytest.mark.parametrize("name", ["__Host-session", "__Host-session-2", "__Host-session-4b"])
def test_what_was_not_sealed_here_is_not_deleted(clock: Clock, name: str, value: str) -> None:
    """A cookie that does not open gives an empty session, and a response that reads sends nothing for it."""
    answer = call(wrap(clock), who, f"{name}={value}; {name}-lease={value}")
    assert (answer.result, answer.set_cookies) == (None, [])


def bad_cookies() -> dict[str, str]:
    """Cookie headers that a browser with a session could never have got from us, by what is wrong with them."""
    clock = Clock()
    ((name, value),) = logged_in(clock).sessions.items()
    ((_, other_key),) = logged_in(clock, keys=generate_key()).sessions.items()
    return {
        "garbage": f"{name}=garbage",
        "truncated": f"{name}={value[:-64]}",
        "tampered": f"{name}={value[:100]}{'B' if value[100] != 'B' else 'C'}{value[101:]}",
        "another key": f"{name}={other_key}",
        "another slot": f"{name}b={value}",
        "another pair": f"__Host-session-2={value}",
        "no slot": f"__Host-session={value}",
        "another name": f"__Host-session-5={value}",
        "session as lease": f"{name}-lease={value}",
        "session as slot": f"__Host-session-slot={value}",
        "oversized": f"{name}={value}{'A' * 64 * 100}",
        "not ASCII": f"{name}={value[:100]}\xe9{value[101:]}",
        "a name that is not ASCII": f"{name[:-1]}\xe9={value}",
        "escaped": f"{name}={value[:100]}%41{value[103:]}",
        "many": "; ".join(f"__Host-session-{number % 4 + 1}b={value}" for number in range(100)),
    }


BAD = bad_cookies()


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("handler", [untouched, who, logout, lambda s: s.clear(), put("a", 1), login("alice")])
def test_bad_cookies(clock: Clock, what: str, handler: Any) -> None:
    """Garbage, truncated, tampered, wrong-key, wrong-name, oversized, non-ASCII: an empty session, and no error."""
    application = wrap(clock)
    answer = call(application, lambda s: (dict(s), s.version, s.ended, handler(s)), BAD[what])
    assert answer.result[:2] == ({}, 0)
    assert (answer.result[2] is Ended.KEY_GONE) == (what == "another key")
    assert call(application, handler, BAD[what]).status == "200 OK"


# Several sessions at once


def pairs_of(browser: Browser) -> list[str]:
    """The session cookies that the browser sends, each as it stands in the header."""
    return [f"{name}={value}" for name, value in browser.sessions.items()]


def test_the_latest_login_wins(clock: Clock) -> None:
    """Of several logins, the latest is the session; the others are ended when it is rolled, and not deleted."""
    browser = raced(clock, [login("alice"), login("carol"), login("bob")])
    pairs = pairs_of(browser)
    assert presenting(browser, "; ".join(reversed(pairs))) == "bob"
    assert browser.do(who) == "bob"
    assert pairs_of(browser) == pairs
    clock.advance(60)
    assert browser.do(who) == "bob"
    assert [presenting(browser, pair) for pair in pairs] == [None, None, "bob"]
    assert pairs_of(browser) == pairs


@pytest.mark.parametrize("handler", [put("a", 1), lambda s: (s.update(a=1), s.save())])
def test_a_write_ends_the_other_logins(clock: Clock, handler: Any) -> None:
    """A write of the latest login ends the others, too, as a roll does."""
    browser = raced(clock, [login("alice"), login("bob")])
    pairs = pairs_of(browser)
    browser.do(handler)
    assert browser.do(who) == "bob"
    assert presenting(browser, pairs[0]) is None, "another login was left"


def test_a_login_outranks_a_session_that_just_began(clock: Clock) -> None:
    """A session that a request began by storing something does not hide a login that it did not know of; both stay."""
    browser = raced(clock, [login("alice"), put("note", 1)])
    clock.advance(100)
    assert browser.do(who) == "alice"
    assert len(browser.sessions) == 2
    assert presenting(browser, f"__Host-session={browser.sessions['__Host-session']}", get("note")) == 1


def test_the_later_of_two_visitors_replaces_the_other(clock: Clock) -> None:
    """Requests that each begin an anonymous session overwrite each other: the browser holds what came last."""
    browser = open_browser(clock)
    for answer in [browser.call(put("note", number)) for number in (1, 2)]:
        browser.receive(answer)
        clock.advance(1)
    assert browser.do(get("note")) == 2
    assert list(browser.cookies) == ["__Host-session"]


def test_the_latest_of_sessions_without_login_wins(clock: Clock) -> None:
    """Of two anonymous sessions in one header, as under a path and a domain, the latest is the session; none ends."""
    browser = open_browser(clock, renew_after=0)
    headers = []
    for note in (1, 2):
        browser.jar.clear()
        browser.do(put("note", note))
        headers.append(browser.header())
        clock.advance(1)
    for header in ("; ".join(headers), "; ".join(reversed(headers))):
        assert presenting(browser, header, get("note")) == 2
    assert [presenting(browser, header, get("note")) for header in headers] == [1, 2]


def test_an_untouched_response_sorts_out_nothing(clock: Clock) -> None:
    """A response that does not look at the session leaves several of them as they are."""
    browser = raced(clock, [login("alice"), login("bob")])
    assert not browser.call(untouched).set_cookies


def test_one_name_twice(clock: Clock) -> None:
    """Of two versions of one session in a header, the later is the session, in either order, and nothing is deleted."""
    browser = logged_in(clock)
    old = browser.header()
    clock.advance(1)
    browser.do(put("a", 1))
    for header in (f"{old}; {browser.header()}", f"{browser.header()}; {old}"):
        answer = call(browser.application, dict, header)
        assert answer.result == {"user": "alice", "a": 1}
        assert not answer.set_cookies


@pytest.mark.parametrize("handler", [who, untouched, put("b", 1)])
def test_two_versions_of_one_login_are_one(clock: Clock, handler: Any) -> None:
    """A roll or a write with two versions of one login in its header ends neither: they are one login."""
    browser = logged_in(clock)
    old = browser.header()
    browser.do(put("a", 1))
    clock.advance(100)
    assert call(browser.application, handler, f"{old}; {browser.header()}").set_cookies
    assert browser.do(who) == "alice", "ended as another login"


def test_every_session_is_looked_at(clock: Clock) -> None:
    """However many sessions a header presents, the latest is the session, wherever it stands."""
    application = wrap(clock)
    pairs = []
    for number in range(40):
        browser = Browser(application, clock)
        browser.do(login(f"user{number}"))
        pairs += pairs_of(browser)
        clock.advance(1)
    for header in (pairs, [pairs[-1], *pairs[:-1]], [*pairs[20:], *pairs[:20]]):
        assert call(application, who, "; ".join(header)).result == "user39"


@pytest.mark.parametrize("wait", [0, 100])
def test_a_dead_session_beside_a_live_one(clock: Clock, wait: float) -> None:
    """A dead session beside a live one is left where it is, whether the live one is rolled or not."""
    browser = raced(clock, [login("alice"), login("bob")])
    pairs = pairs_of(browser)
    call(browser.application, logout, pairs[0])
    clock.advance(wait)
    answer = browser.receive(browser.call(who))
    assert answer.result == "bob"
    assert all(answer.sent().values())
    assert pairs_of(browser) == pairs


@pytest.mark.parametrize("handler", [untouched, who])
def test_a_roll_sorts_out_several_logins(clock: Clock, handler: Any) -> None:
    """A response that is due to roll, looked at or not, rolls the latest login alone, and ends the others."""
    browser = raced(clock, [login("alice"), login("bob")])
    alice, bob = pairs_of(browser)
    clock.advance(100)
    sent = browser.receive(browser.call(handler)).sent()
    assert list(sent) == [bob.partition("=")[0] + "-lease"]
    assert [presenting(browser, each) for each in (alice, bob)] == [None, "bob"], "another login was left"


def test_a_roll_that_is_refused_ends_no_other_session(clock: Clock) -> None:
    """1. Two logins are presented. 2. The later ends after the load. 3. The other is not ended, and is the session."""
    browser = raced(clock, [login("alice"), login("bob")], revocations=Lagging(clock))
    alice, bob = pairs_of(browser)
    id_ = bytes.fromhex(presenting(browser, bob, lambda s: s.id))
    clock.advance(100)

    def reader(session: Session) -> Any:
        user = session.get("user")
        store_of(browser).fence([session_key(id_)], ENDED)
        return user

    answer = browser.receive(browser.call(reader))
    assert (answer.result, answer.sent()) == ("bob", {})
    assert fence_of(browser, alice) == 0, "a session that is dead has ended the other"
    store_of(browser).lookup = store_of(browser).lookup_now  # type: ignore[method-assign]
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("handler", [who, untouched, put("a", 1)])
def test_an_answer_that_nobody_gave_ends_no_other_session(clock: Clock, handler: Any) -> None:
    """``outage="open"`` issues unasked; but only the store's own yes says that the other login is the older one."""
    store = Fragile(memory(clock))
    browser = raced(clock, [login("alice"), login("bob")], revocations=store, outage="open")
    alice, bob = pairs_of(browser)
    clock.advance(100)
    store.fails_at = len(store.asked)  # and answers again afterwards
    sent = browser.receive(browser.call(handler)).sent()
    assert list(sent) == [bob.partition("=")[0] + ("" if handler not in (who, untouched) else "-lease")]
    assert "fence" not in store.asked
    assert fence_of(browser, alice) == 0


@pytest.mark.parametrize("handler", [who, untouched, put("a", 1)])
def test_closed_answers_where_several_logins_cannot_be_asked_about(clock: Clock, handler: Any) -> None:
    """Which of them is the session is a question to the store, too: the 503 goes out without its answer."""
    store = Fragile(memory(clock))
    browser = raced(clock, [login("alice"), login("bob")], revocations=store, outage="closed")
    clock.advance(100)
    store.is_down = True
    answer = browser.call(handler)
    assert (answer.status, answer.set_cookies) == ("503 Service Unavailable", [])


def test_other_logins_are_ended_once(clock: Clock) -> None:
    """Several writes of one request raise one fence for what lies beside its session."""
    store = Fragile(memory(clock))
    browser = raced(clock, [login("alice"), login("bob")], revocations=store)

    def handler(session: Session) -> None:
        for at in range(3):
            session["at"] = at
            session.save()

    browser.do(handler)
    assert store.asked.count("fence") == 1
    assert browser.do(who) == "bob"


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda browser: call(browser.application, logout, browser.header()), Ended.LOGGED_OUT),
        (lambda browser: filter_of(browser).revoke("user:alice"), Ended.REVOKED),
        (lambda browser: filter_of(browser).revoke_everything(), Ended.REVOKED),
        (lambda browser: browser.clock.advance(3600), Ended.IDLE),
        (lambda browser: browser.clock.advance(24 * 3600), Ended.ABSOLUTE),
        (lambda browser: browser.clock.advance(-61), Ended.FUTURE),
        (lambda browser: browser.call(lambda s: s.regenerate()), Ended.SUPERSEDED),
    ],
    ids=["logged out", "tag", "everything", "idle", "absolute", "future", "superseded"],
)
@pytest.mark.parametrize("handler", [who, untouched, put("a", 1), lambda s: s.save()])
def test_reads_and_writes_delete_nothing(
    clock: Clock, end: Callable[[Any], Any], why: Ended, handler: Callable[[Session], Any]
) -> None:
    """Whatever a response finds dead, for whatever reason, it deletes nothing; the session says why it is dead."""
    browser = logged_in(clock)
    header = browser.header()
    end(browser)
    answer = call(browser.application, handler, header)
    assert all(answer.sent().values()), "a read or a write deleted something"
    assert presenting(browser, header, lambda s: (s.ended, who(s))) == (why, None)
