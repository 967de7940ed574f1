"""What requests and responses do with sessions over time: rolling, deadlines, endings, versions, tags."""

from __future__ import annotations

import logging
import re
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import RollSession, Session, SessionCommitted, SessionConflict, generate_key
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, session_key, tag_key
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.seal import seal_lease
from wsgi_rollsession.token import Lease

from .browser import START, Browser, Clock, call, dispatch, get, login, logout, memory, put, untouched, who, wrap

HOUR, DAY = 3600, 86400
LONG = "x" * 2000


@pytest.fixture
def clock() -> Clock:
    """The clock of one test."""
    return Clock()


def open_browser(clock: Clock, **options: Any) -> Browser:
    """A browser before an application of its own. The store is as if it had been there for long."""
    return Browser(wrap(clock, **{"amnesia": "accept", **options}), clock)


def logged_in(clock: Clock, user: str = "alice", **options: Any) -> Browser:
    """A browser in which somebody has just logged in."""
    browser = open_browser(clock, **options)
    browser.do(login(user))
    return browser


def another(browser: Browser, **options: Any) -> RollSession:
    """The same application under other options, with the same store."""
    return wrap(browser.clock, revocations=browser.application.revocations, **options)  # type: ignore[attr-defined]


def presenting(browser: Browser, header: str, handler: Callable[[Session], Any] = who) -> Any:
    """The result for somebody who sends *header*."""
    return call(browser.application, handler, header).result


def max_ages(cookies: list[str]) -> list[int]:
    return [int(re.search("; Max-Age=([^;]*)", cookie).group(1)) for cookie in cookies]  # type: ignore[union-attr]


# Rolling


@pytest.mark.parametrize(
    ("options", "waits", "rolls"),
    [
        ({}, [0, 59.999, 0.001, 59.999, 0.001], [False, False, True, False, True]),
        ({"renew_after": 0}, [0, 0, 1, 0], [True, True, True, True]),
        ({"renew_after": "10m"}, [599.999, 0.001, 600, 599], [False, True, True, False]),
        ({"idle_timeout": 60}, [5, 1, 5, 1], [False, True, False, True]),
        ({"rolling": False}, [100, 1000, 10_000], [False, False, False]),
        ({"idle_timeout": None}, [100, 1000, 10_000], [False, False, False]),
    ],
    ids=["default", "0", "10m", "idle 60", "not rolling", "no idle timeout"],
)
@pytest.mark.parametrize("handler", [who, untouched])
def test_cadence(clock: Clock, handler: Any, options: dict[str, Any], waits: list[float], rolls: list[bool]) -> None:
    """A session is rolled when its last activity is ``renew_after`` ago, looked at or not, and not again before."""
    browser = logged_in(clock, **options)
    (name,) = browser.cookies
    for wait, roll in zip(waits, rolls):
        clock.advance(wait)
        answer = browser.receive(browser.call(handler))
        assert list(answer.sent()) == ([f"{name}-lease"] if roll else [])


def test_a_roll_is_small(clock: Clock) -> None:
    """A roll sends at most 200 bytes, whatever the session holds, and not the session."""
    browser = logged_in(clock)
    browser.do(put("much", LONG))
    sizes = set()
    for _ in range(3):
        clock.advance(100)
        (cookie,) = browser.receive(browser.call(who)).set_cookies
        sizes.add(len(f"Set-Cookie: {cookie}\r\n"))
    assert len(sizes) == 1
    assert sizes.pop() <= 200


@pytest.mark.parametrize("handler", [untouched, who, get("much"), lambda s: s.save()])
def test_a_response_that_did_not_write_does_not_send_the_session(clock: Clock, handler: Any) -> None:
    """No response but a write sends the session cookie, however long ago it was sent."""
    browser = logged_in(clock)
    (name,) = browser.cookies
    for wait in (0, 61, 1800, 3500):
        clock.advance(wait)
        assert name not in browser.receive(browser.call(handler)).sent()


def test_rolling_goes_on_to_the_absolute_deadline_and_not_past_it(clock: Clock) -> None:
    """However active, a session ends its absolute timeout after login; Max-Age is the time left, never negative."""
    browser = logged_in(clock, renew_after=0)
    end = START + DAY
    while clock() < end - 0.001:
        clock.advance(min(1799, end - 0.001 - clock()))
        answer = browser.call(who)
        assert answer.result == "alice"
        (age,) = max_ages(answer.set_cookies)
        assert age == max(0, min(HOUR, int(end - clock())))
        browser.receive(answer)
        browser.jar = {name: (value, None, rest) for name, (value, _, rest) in browser.jar.items()}
    header = browser.header()
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_writing_goes_on_to_the_absolute_deadline_and_not_past_it(clock: Clock) -> None:
    """However often it is written, a session keeps the absolute deadline of its login."""
    browser = logged_in(clock)
    end = START + DAY
    while clock() < end - 0.001:
        clock.advance(min(1799, end - 0.001 - clock()))
        answer = browser.receive(browser.call(put("time", clock())))
        assert max_ages(answer.set_cookies) == [int(end - clock())]
    header = "; ".join(f"{name}={value}" for name, (value, _, _) in browser.jar.items()) or answer.set_cookies[0]
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_idle_timeout(clock: Clock) -> None:
    """A session without activity ends with the very millisecond of its idle timeout."""
    browser = logged_in(clock)
    header = browser.header()
    clock.advance(HOUR - 0.001)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_idle_timeout_after_a_roll(clock: Clock) -> None:
    """A roll extends a session by the idle timeout from that activity, and only with its lease."""
    browser = logged_in(clock)
    (session,) = browser.header().split("; ")
    clock.advance(3000)
    browser.do(who)
    header = browser.header()
    clock.advance(HOUR - 0.001)
    assert presenting(browser, header) == "alice"
    assert presenting(browser, session) is None
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_a_lease_alone_is_nothing(clock: Clock) -> None:
    """A lease without its session cookie gives no session, and nothing is sent for it."""
    browser = logged_in(clock)
    clock.advance(100)
    browser.do(who)
    (lease,) = [each for each in browser.header().split("; ") if "-lease=" in each]
    answer = call(browser.application, who, lease)
    assert (answer.result, answer.set_cookies) == (None, [])


def test_a_lease_of_another_session_is_nothing(clock: Clock) -> None:
    """A lease copied beside another session, under either name, does not extend it."""
    browser, other = logged_in(clock), logged_in(clock, "bob")
    other.application = browser.application
    clock.advance(3000)
    browser.do(who)
    lease = browser.cookies[next(name for name in browser.cookies if name.endswith("-lease"))]
    name, value = other.header().split("=", 1)
    clock.advance(1000)
    assert presenting(browser, f"{name}={value}; {name}-lease={lease}; {browser.header()}") == "alice"
    assert presenting(browser, f"{name}={value}; {name}-lease={lease}") is None


def test_rolling_off(clock: Clock) -> None:
    """Without rolling, a session has a fixed end, reading sends nothing, and writing does not move the end."""
    browser = logged_in(clock, rolling=False, absolute_timeout="8h")
    clock.advance(5 * HOUR)
    assert not browser.receive(browser.call(who)).set_cookies
    assert max_ages(browser.receive(browser.call(put("a", 1))).set_cookies) == [3 * HOUR]
    header = browser.header()
    clock.advance(3 * HOUR - 0.001)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_without_an_absolute_timeout(clock: Clock) -> None:
    """Without an absolute timeout a session lives as long as it is used, in cookies of 400 days."""
    browser = open_browser(clock, absolute_timeout=None)
    assert max_ages(browser.receive(browser.call(login("alice"))).set_cookies) == [400 * DAY]
    for _ in range(100):
        clock.advance(3500)
        assert browser.do(who) == "alice"


@pytest.mark.parametrize("handler", [untouched, who])
def test_single_layout_rolls_by_sending_the_session(clock: Clock, handler: Any) -> None:
    """The single layout sends its one cookie again, for the idle timeout and no longer than the absolute one."""
    browser = logged_in(clock, cookie_layout="single", absolute_timeout=5000)
    ages = []
    for _ in range(3):
        clock.advance(1600)
        answer = browser.receive(browser.call(handler))
        assert (list(answer.sent()), answer.header("Cache-Control")) == (["__Host-session"], "no-store")
        ages += max_ages(answer.set_cookies)
    assert ages == [3400, 1800, 200]
    clock.advance(200)
    assert browser.do(who) is None


def test_a_session_from_the_future_is_not_believed(clock: Clock) -> None:
    """A cookie issued more than a minute ahead of this machine's clock is refused, and left to the browser."""
    browser = logged_in(clock)
    for back, user in ((60, "alice"), (0.001, None)):
        clock.advance(-back)
        answer = browser.call(who)
        assert (answer.result, answer.set_cookies) == (user, [])


# Deletion


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
        (lambda browser: browser.application.revoke("user:alice"), True),
        (lambda browser: browser.application.revoke_everything(), True),
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


@pytest.mark.parametrize("value", ["garbage", "A" * 132, "A" * 500])
def test_what_was_not_sealed_here_is_not_deleted(clock: Clock, value: str) -> None:
    """A cookie that does not open gives an empty session, and the response sends nothing for it."""
    answer = call(wrap(clock), who, f"__Host-session-AAAAAAAA={value}; __Host-session-AAAAAAAA-lease={value}")
    assert (answer.result, answer.set_cookies) == (None, [])


def bad_cookies() -> dict[str, str]:
    """Cookie headers that a browser with a session could never have got from us, by what is wrong with them."""
    clock = Clock()
    name, _, value = logged_in(clock).header().partition("=")
    other_key = logged_in(clock, keys=generate_key()).header()
    return {
        "garbage": f"{name}=garbage",
        "truncated": f"{name}={value[:-64]}",
        "tampered": f"{name}={value[:100]}{'B' if value[100] != 'B' else 'C'}{value[101:]}",
        "another key": other_key,
        "another name": f"{name[:-1]}{'B' if name[-1] != 'B' else 'C'}={value}",
        "session as lease": f"{name}-lease={value}",
        "oversized": f"{name}={value}{'A' * 64 * 100}",
        "not ASCII": f"{name}={value[:100]}\xe9{value[101:]}",
        "a name that is not ASCII": f"{name[:-1]}\xe9={value}",
        "escaped": f"{name}={value[:100]}%41{value[103:]}",
        "many": "; ".join(f"{name[:-3]}{number:03}={value}" for number in range(100)),
    }


BAD = bad_cookies()


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("handler", [untouched, who, logout, put("a", 1), login("alice")])
def test_bad_cookies(clock: Clock, what: str, handler: Any) -> None:
    """Garbage, truncated, tampered, wrong-key, wrong-name, oversized, non-ASCII: an empty session, and no error."""
    application = wrap(clock, amnesia="accept")
    answer = call(application, lambda s: (dict(s), s.is_new, handler(s)), BAD[what])
    assert answer.result[:2] == ({}, True)
    assert call(application, handler, BAD[what]).status == "200 OK"


# Several sessions at once


def raced(clock: Clock, handlers: list[Callable[[Session], Any]], **options: Any) -> Browser:
    """A browser that holds what requests have begun that did not know of each other, a second apart."""
    browser = open_browser(clock, **options)
    for handler in handlers:
        browser.receive(browser.call(handler, header=""))
        clock.advance(1)
    assert len(browser.cookies) == len(handlers)
    return browser


def test_the_latest_login_wins(clock: Clock) -> None:
    """Of several logins, the latest is the session; the others are ended, and their cookies deleted."""
    browser = raced(clock, [login("alice"), login("carol"), login("bob")])
    pairs = browser.header().split("; ")
    assert presenting(browser, "; ".join(reversed(pairs))) == "bob"
    assert browser.do(who) == "bob"
    assert browser.header() == pairs[2]
    assert [presenting(browser, pair) for pair in pairs] == [None, None, "bob"]


def test_a_login_outranks_a_session_that_just_began(clock: Clock) -> None:
    """A session that a request began by storing something does not hide a login that it did not know of."""
    browser = raced(clock, [login("alice"), put("note", 1)])
    assert browser.do(who) == "alice"
    assert len(browser.cookies) == 1


def test_the_latest_of_sessions_without_login_wins(clock: Clock) -> None:
    """Of several sessions that requests began by storing something, the latest stays."""
    browser = raced(clock, [put("note", 1), put("note", 2)])
    assert browser.do(get("note")) == 2
    assert browser.do(get("note")) == 2
    assert len(browser.cookies) == 1


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


def test_eight_sessions_are_looked_at(clock: Clock) -> None:
    """Of more than eight sessions in a header, the last eight are looked at when one is loaded."""
    browser = raced(clock, [login(f"user{number}") for number in range(9)])
    pairs = browser.header().split("; ")
    assert presenting(browser, "; ".join([pairs[8], *pairs[:8]])) == "user7"


def test_a_dead_session_beside_a_live_one(clock: Clock) -> None:
    """The cookies of a dead session are deleted beside a live one, which stays."""
    browser = raced(clock, [login("alice"), login("bob")])
    alice, bob = browser.header().split("; ")
    call(browser.application, logout, alice)
    answer = browser.receive(browser.call(who))
    assert answer.result == "bob"
    assert list(answer.sent()) == [alice.partition("=")[0]]
    assert browser.header() == bob


# Ending


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


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda browser: browser.do(put("a", 1)),
        lambda browser: (browser.clock.advance(100), browser.do(who)),
    ],
    ids=["written", "rolled"],
)
def test_logout_with_older_cookies(clock: Clock, strict: bool, prepare: Callable[[Browser], Any]) -> None:
    """A logout that was sent before a write or a roll had arrived ends the session as well."""
    browser = logged_in(clock, strict=strict)
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
    store = browser.application.revocations  # type: ignore[attr-defined]
    assert list(store.lookup_now([session_key(bytes.fromhex(answer.result))])) == [ENDED]


def test_logged_out_and_in_again_in_the_single_layout(clock: Clock) -> None:
    """In the single layout a session that takes another's place is sent under its name, which is not deleted too."""
    for handler in (lambda s: (s.invalidate(), s.update(user="bob")), login("bob")):
        browser = logged_in(clock, cookie_layout="single")
        answer = browser.receive(browser.call(handler))
        assert len(answer.set_cookies) == 1
        assert browser.do(who) == "bob"


# Versions


def test_without_strict_the_last_write_to_arrive_wins(clock: Clock) -> None:
    """Without ``strict``, of two writes from one version the browser keeps the one whose response comes last."""
    browser = logged_in(clock)
    one, other = browser.call(put("n", 1)), browser.call(put("n", 2))
    browser.receive(other)
    browser.receive(one)
    assert browser.do(get("n")) == 1


def test_strict_save_raises_for_the_second_writer(clock: Clock) -> None:
    """With ``strict``, the second of two writes from one version raises ``SessionConflict`` from ``save``."""
    browser = logged_in(clock, strict=True)

    def second(session: Session) -> None:
        session["n"] = 2
        browser.do(put("n", 1))
        with pytest.raises(SessionConflict, match=r"another request|later version"):
            session.save()

    answer = browser.call(second)
    assert not answer.set_cookies
    browser.receive(answer)
    assert browser.do(get("n")) == 1


def test_strict_drops_the_second_write(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With ``strict``, the second of two writes from one version is dropped at its response, which the log says."""
    browser = logged_in(clock, strict=True)

    def second(session: Session) -> None:
        session["n"] = 2
        browser.do(put("n", 1))

    answer = browser.receive(browser.call(second))
    assert answer.status == "200 OK"
    assert not answer.set_cookies
    assert browser.do(get("n")) == 1
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING and "amnesia" not in each.message]
    assert "a write was dropped" in warning.message


def test_strict_is_atomic(clock: Clock) -> None:
    """With ``strict``, a write that lands between another's check and its confirmation wins; the other is refused."""
    browser = logged_in(clock, strict=True)
    store = browser.application.revocations  # type: ignore[attr-defined]
    lookup_now, armed = store.lookup_now, [True]

    def ask_then_write(keys: Any) -> Any:
        numbers = lookup_now(keys)
        if armed:
            armed.clear()
            browser.do(put("n", 1))
        return numbers

    def second(session: Session) -> None:
        session["n"] = 2
        with pytest.raises(SessionConflict, match="superseded by a later version"):
            session.save()

    store.lookup_now = ask_then_write
    answer = browser.receive(browser.call(second))
    assert not answer.set_cookies
    assert browser.do(get("n")) == 1


def test_strict_writes_several_times_in_one_request(clock: Clock) -> None:
    """With ``strict``, a request may save several times, and the response carries the last."""
    browser = logged_in(clock, strict=True)
    browser.do(lambda s: (s.update(n=1), s.save(), s.update(n=2), s.save(), s.update(n=3)))
    assert browser.do(lambda s: (s["n"], s.version)) == (3, 4)


def test_strict_refuses_older_copies(clock: Clock) -> None:
    """With ``strict``, a copy from before the last write is refused: an old balance cannot be had back."""
    browser = logged_in(clock, strict=True)
    browser.do(put("balance", 100))
    rich = browser.header()
    browser.do(put("balance", 0))
    assert presenting(browser, rich, get("balance")) is None
    assert browser.do(get("balance")) == 0


def test_without_strict_older_copies_are_accepted(clock: Clock) -> None:
    """Without ``strict``, a copy from before the last write is a session like any other."""
    browser = logged_in(clock)
    browser.do(put("balance", 100))
    rich = browser.header()
    browser.do(put("balance", 0))
    assert presenting(browser, rich, get("balance")) == 100


def test_strict_refuses_older_copies_when_their_fence_is_gone(clock: Clock) -> None:
    """With ``strict``, fresh leases do not keep an old copy alive until the fence that refuses it is gone."""
    browser = logged_in(clock, strict=True, revocations=memory(clock, HOUR))
    browser.do(put("balance", 100))
    (rich,) = browser.header().split("; ")
    browser.do(put("balance", 0))
    key = session_key(bytes.fromhex(browser.do(lambda s: s.id)))
    for _ in range(4):
        clock.advance(3000)
        browser.do(who)
    other = logged_in(clock, "bob")
    other.application = browser.application
    other.do(logout)  # raising a fence drops those that have expired
    store = browser.application.revocations  # type: ignore[attr-defined]
    assert list(store.lookup_now([key])) == [0]
    (lease,) = [each for each in browser.header().split("; ") if "-lease=" in each]
    assert presenting(browser, f"{rich}; {lease}", get("balance")) is None
    assert browser.do(get("balance")) == 0


def test_a_lease_for_an_earlier_version_extends_a_later_one(clock: Clock) -> None:
    """A lease sent before a write, and arriving after it, extends the session that was written."""
    browser = logged_in(clock)
    clock.advance(100)
    rolled = browser.call(who)
    browser.do(put("a", 1))
    browser.receive(rolled)
    clock.advance(HOUR - 0.001)
    assert browser.do(get("a")) == 1


def test_strict_does_not_log_out_who_is_a_version_behind(clock: Clock) -> None:
    """With ``strict``, a request sent before a write and handled after it deletes nothing, and writes nothing."""
    browser = logged_in(clock, strict=True, renew_after=0)
    old = browser.header()
    written = browser.call(put("n", 1))
    behind = [browser.call(handler, header=old) for handler in (who, untouched, lambda s: s.pop("n", None))]
    browser.receive(written)
    for answer in behind:
        assert not answer.set_cookies
        browser.receive(answer)
    assert browser.do(get("n")) == 1


def test_a_read_is_not_rolled_after_another_wrote(clock: Clock) -> None:
    """With ``strict``, a response whose session was written meanwhile carries no lease, and deletes nothing."""
    browser = logged_in(clock, strict=True, renew_after=0)

    def reader(session: Session) -> None:
        session.get("user")
        browser.do(put("n", 1))

    assert not browser.call(reader).set_cookies
    assert browser.do(get("n")) == 1


# Tags


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
    one.application.revoke("user:alice")  # type: ignore[attr-defined]
    assert [browser.do(who) for browser in (one, other, bob)] == [None, None, "bob"]


def test_log_out_everywhere_and_in_again(clock: Clock) -> None:
    """Logging in again works at once after a revocation, and a second revocation at once ends that session too."""
    one, other = two_devices(clock)
    application = one.application
    for _ in range(3):
        application.revoke("user:alice")  # type: ignore[attr-defined]
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
    one.application.revoke("user:alice")  # type: ignore[attr-defined]
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
        browser.application.revoke("user:4", "tenant:77", "oidc:")  # type: ignore[attr-defined]
        assert browser.do(lambda s: s.is_new) is False
        browser.application.revoke("unrelated", tag)  # type: ignore[attr-defined]
        assert browser.do(lambda s: s.is_new) is True


def test_revoked_while_logging_in(clock: Clock) -> None:
    """A login whose tag is revoked before its response is not completed."""
    browser = open_browser(clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        browser.application.revoke("user:alice")  # type: ignore[attr-defined]

    assert not browser.receive(browser.call(handler)).set_cookies
    assert browser.do(who) is None


def test_a_session_is_created_when_it_is_created(clock: Clock) -> None:
    """A login right after a revocation has the real time as its creation, from which its deadlines count."""
    browser = open_browser(clock)
    browser.application.revoke("user:alice")  # type: ignore[attr-defined]
    browser.application.revoke_everything()  # type: ignore[attr-defined]
    for handler in (login("alice"), lambda s: s.revoke_others("user:alice"), lambda s: s.regenerate(tags=[])):
        answer = browser.receive(browser.call(handler))
        assert browser.do(lambda s: s.created.timestamp()) == clock()
        assert max_ages(answer.set_cookies)[0] == DAY


# Changes of configuration. The store is one database, opened anew by every process that runs under other options.


class Deployment:
    """One key, one clock and one database; ``run`` starts the application under some options."""

    def __init__(self, clock: Clock, path: Path) -> None:
        self.clock = clock
        self.url = f"sqlite:///{path / 'revocations.db'}"
        self.application: RollSession | None = None

    def run(self, **options: Any) -> RollSession:
        if self.application is not None:
            self.application.close()
        self.application = wrap(self.clock, revocations=self.url, amnesia="accept", **options)
        return self.application

    def others_log_out(self) -> None:
        """Somebody else logs out, which makes the store drop what has expired."""
        other = Browser(self.application, self.clock)  # type: ignore[arg-type]
        other.do(login("other"))
        other.do(logout)


@pytest.fixture
def deployment(clock: Clock, tmp_path: Path) -> Any:
    """A deployment that is stopped after the test."""
    deployed = Deployment(clock, tmp_path)
    yield deployed
    if deployed.application is not None:
        deployed.application.close()


NOT_ROLLING = {"rolling": False}
CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    # issued under, then run under, and how long the session then lives without activity
    ("restart", {}, {}, HOUR),
    ("idle shortened", {"idle_timeout": "1h"}, {"idle_timeout": "10m"}, 600),
    ("idle lengthened", {"idle_timeout": "10m"}, {"idle_timeout": "8h"}, 600),
    ("idle removed", {"idle_timeout": "10m"}, {"idle_timeout": None}, 600),
    ("idle introduced", {"idle_timeout": None}, {"idle_timeout": "10m"}, 600),
    ("absolute shortened", {"rolling": False}, {"rolling": False, "absolute_timeout": "2h"}, 2 * HOUR),
    ("absolute lengthened", {"rolling": False, "absolute_timeout": "2h"}, {"rolling": False}, 2 * HOUR),
    ("absolute removed", {"absolute_timeout": "30m", "idle_timeout": "30m"}, {"absolute_timeout": None}, 1800),
    ("absolute introduced", {"absolute_timeout": None}, {"absolute_timeout": "1800", "idle_timeout": "1800"}, 1800),
    ("rolling switched off", {"idle_timeout": "10m"}, NOT_ROLLING, 600),
    ("rolling switched on", NOT_ROLLING, {"idle_timeout": "10m"}, 600),
]


@pytest.mark.parametrize(("before", "after", "lives"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_the_earlier_deadline_counts(
    clock: Clock, deployment: Deployment, before: dict[str, Any], after: dict[str, Any], lives: float
) -> None:
    """A session ends at the earlier of the deadlines stamped into it and those of today's configuration."""
    browser = logged_in(clock)
    browser.application = deployment.run(**before)
    browser.do(login("alice"))
    header = browser.header()
    browser.application = deployment.run(**after)
    clock.advance(lives - 0.001)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


@pytest.mark.parametrize(("before", "after", "lives"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
@pytest.mark.parametrize("keep", [who, lambda s: s.update(n=s.get("n", 0) + 1)], ids=["rolling", "writing"])
def test_no_activity_outlives_the_absolute_deadline(
    clock: Clock, deployment: Deployment, keep: Any, before: dict[str, Any], after: dict[str, Any], lives: float
) -> None:
    """Under a new configuration, activity extends a session up to the deadline it was created with, and not past it."""
    browser = Browser(deployment.run(**before), clock)
    browser.do(login("alice"))
    ends = START + (deployment.application.settings.absolute_timeout or 2 * DAY)  # type: ignore[union-attr, operator]
    browser.application = deployment.run(**after)
    ends = min(ends, START + (deployment.application.settings.absolute_timeout or 2 * DAY))  # type: ignore[union-attr, operator]
    while clock() < ends - 500:
        clock.advance(499)
        browser.do(keep)
    header = "; ".join(f"{name}={value}" for name, (value, _, _) in browser.jar.items())
    clock.now = ends
    if ends < START + 2 * DAY:
        assert presenting(browser, header) is None


def test_a_shorter_timeout_and_back(clock: Clock, deployment: Deployment) -> None:
    """A session logged out under a shorter timeout stays dead when the longer one comes back, its fence being kept."""
    browser = Browser(deployment.run(idle_timeout="4h"), clock)
    browser.do(login("alice"))
    header = browser.header()
    browser.application = deployment.run(idle_timeout="5m")
    clock.advance(100)
    browser.do(logout)
    clock.advance(1000)
    deployment.others_log_out()
    browser.application = deployment.run(idle_timeout="4h")
    deployment.others_log_out()
    assert presenting(browser, header) is None


@pytest.mark.parametrize("end", [logout, login("bob")])
@pytest.mark.parametrize("elsewhere", ["a shorter timeout", "a clock that is ahead"])
def test_past_the_absolute_deadline_where_it_is_ended(
    clock: Clock, deployment: Deployment, end: Any, elsewhere: str
) -> None:
    """A logout or login ends the presented session although it is over there: another process may not think so."""
    browser = Browser(deployment.run(absolute_timeout="1h", idle_timeout="1h"), clock)
    browser.do(login("alice"))
    header = browser.header()
    if elsewhere == "a shorter timeout":
        browser.application = deployment.run(absolute_timeout="5m", idle_timeout="5m")
        clock.advance(1000)
    else:
        clock.advance(3601)
    call(browser.application, end, header)
    if elsewhere != "a shorter timeout":
        clock.advance(-2)
    browser.application = deployment.run(absolute_timeout="1h", idle_timeout="1h")
    assert presenting(browser, header) is None


def test_a_longer_timeout_after_the_fence_is_gone(clock: Clock, deployment: Deployment) -> None:
    """A session logged out stays dead under a longer timeout, after its fence was dropped: its own deadline is past."""
    browser = Browser(deployment.run(idle_timeout="5m"), clock)
    browser.do(login("alice"))
    header = browser.header()
    browser.do(logout)
    clock.advance(1000)
    deployment.others_log_out()
    browser.application = deployment.run(idle_timeout="8h")
    deployment.others_log_out()
    assert presenting(browser, header) is None


def test_a_session_lives_through_a_restart(clock: Clock, deployment: Deployment) -> None:
    """Sessions, and logouts, survive a restart of the application."""
    alice, bob = (Browser(deployment.run(), clock) for _ in range(2))
    bob.application = alice.application = deployment.run()
    alice.do(login("alice"))
    bob.do(login("bob"))
    header = bob.header()
    bob.do(logout)
    alice.application = deployment.run()
    assert alice.do(who) == "alice"
    assert presenting(alice, header) is None


def test_a_lease_from_a_shorter_timeout_is_not_stretched(clock: Clock, deployment: Deployment) -> None:
    """A session rolled under a shorter idle timeout ends with that, though it was issued under a longer one."""
    browser = Browser(deployment.run(idle_timeout="4h"), clock)
    browser.do(login("alice"))
    browser.application = deployment.run(idle_timeout="10m")
    clock.advance(100)
    browser.do(who)
    header = browser.header()
    browser.application = deployment.run(idle_timeout="4h")
    clock.advance(599.999)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_a_forged_lease_does_not_help(clock: Clock) -> None:
    """A lease made with another key is ignored, and the session stands as it is."""
    browser = logged_in(clock)
    name, _, value = browser.header().partition("=")
    forged = seal_lease(
        KeyRing(generate_key()),
        f"{name}-lease",
        bytes.fromhex(browser.do(lambda s: s.id)),
        Lease(int((clock() + 3000) * 1000), HOUR, 1),
    )
    header = f"{name}={value}; {name}-lease={forged}"
    assert presenting(browser, header) == "alice"
    clock.advance(HOUR)
    assert presenting(browser, header) is None


def test_tags_are_hashed_in_the_store(clock: Clock, deployment: Deployment) -> None:
    """No name of a tag, and no session id, is in the store's files."""
    browser = Browser(deployment.run(), clock)
    browser.do(login("alice@example.org"))
    id_ = bytes.fromhex(browser.do(lambda s: s.id))
    browser.application.revoke("user:alice@example.org")  # type: ignore[attr-defined]
    browser.do(logout)
    deployment.application.close()  # type: ignore[union-attr]
    held = b"".join(path.read_bytes() for path in Path(deployment.url[10:]).parent.iterdir())
    assert tag_key("user:alice@example.org") in held
    assert b"alice" not in held
    assert id_ not in held


def test_a_write_that_extends_nothing_keeps_the_shorter_timeout(clock: Clock) -> None:
    """1. A lease under an idle timeout of 600 s. 2. A write that must not roll, under 3600 s: over after 600 s."""
    browser = logged_in(clock, renew_after=0)
    long = another(browser, roll_if=lambda environ: False)
    browser.application = another(browser, idle_timeout=600)
    clock.advance(300)
    browser.do(who)
    browser.application = long
    clock.advance(300)
    browser.do(put("n", 1))
    clock.advance(299.999)
    assert presenting(browser, browser.header()) == "alice"
    clock.advance(0.001)
    assert presenting(browser, browser.header()) is None


@pytest.mark.parametrize("where", ["{session}; {planted}", "{planted}; {session}"])
def test_planted_garbage_does_not_stop_rolling(clock: Clock, where: str) -> None:
    """A cookie from a sibling host, with a time stamp of the future in garbage, does not stop the rolling."""
    browser = logged_in(clock, cookie_domain="example.org")
    stamped = b"\x01" * 5 + int((clock() + 1e6) * 1000).to_bytes(6, "big") + bytes(88)
    planted = f"__Secure-session-AAAAAAAA={urlsafe_b64encode(stamped).decode()}"
    clock.advance(1000)
    answer = browser.call(untouched, header=where.format(session=browser.header(), planted=planted))
    (name,) = browser.cookies
    assert list(answer.sent()) == [f"{name}-lease"]


@pytest.mark.parametrize("first", ["a fresh lease without its session", "a session that is not looked at"])
def test_what_is_not_looked_at_does_not_stop_rolling(clock: Clock, first: str) -> None:
    """A fresh time stamp in what no load looks at, in front of the session, does not make it look fresh."""
    browser = logged_in(clock)
    (name,) = browser.cookies
    clock.advance(100)
    stamped = urlsafe_b64encode(b"\x01" * 5 + int(clock() * 1000).to_bytes(6, "big") + bytes(25)).decode()
    if first.startswith("a fresh lease"):
        header = f"__Host-session-AAAAAAAA-lease={stamped}; {browser.header()}"
    else:
        garbage = "; ".join(f"__Host-session-AAAAAAA{number}={'A' * 48}" for number in range(7))
        header = f"__Host-session-AAAAAAAA={stamped}; {garbage}; {browser.header()}"
    assert list(browser.call(untouched, header=header).sent()) == [f"{name}-lease"]


@pytest.mark.parametrize("handler", [untouched, who])
@pytest.mark.parametrize(
    ("later", "deleted"), [(HOUR, False), (HOUR + 59, False), (HOUR + 60, True)], ids=["just", "a moment ago", "long"]
)
def test_a_session_that_is_over_is_not_rolled(clock: Clock, handler: Any, later: float, deleted: bool) -> None:
    """A session past its idle timeout gets no lease, looked at or not, and is deleted when it is dead for good."""
    browser = logged_in(clock)
    (name,) = browser.cookies
    clock.advance(later)
    assert browser.call(handler).sent() == ({name: ""} if deleted else {})


@pytest.mark.parametrize("handler", [untouched, who])
def test_a_roll_sorts_out_several_sessions(clock: Clock, handler: Any) -> None:
    """A response that is due to roll, looked at or not, rolls the session alone, and ends and deletes the others."""
    browser = raced(clock, [login("alice"), login("bob")])
    alice, bob = browser.header().split("; ")
    clock.advance(100)
    sent = browser.receive(browser.call(handler)).sent()
    assert {name: bool(value) for name, value in sent.items()} == {
        bob.partition("=")[0] + "-lease": True,
        alice.partition("=")[0]: False,
    }
    assert [call(browser.application, who, each).result for each in (alice, bob)] == [None, "bob"]


def test_a_change_after_an_untouched_response_that_rolled(clock: Clock) -> None:
    """A session that was rolled without being looked at can be read in the body, and not changed in silence."""
    browser = logged_in(clock)
    clock.advance(100)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        assert environ[SESSION].get("user") == "alice"
        with pytest.raises(SessionCommitted):
            environ[SESSION]["user"] = "bob"
        return []

    browser.application._application = application  # type: ignore[attr-defined]
    assert browser.call(untouched).set_cookies


@pytest.mark.parametrize("handler", [untouched, who])
def test_no_roll_goes_back_in_time(clock: Clock, handler: Any) -> None:
    """With ``renew_after=0``, a session that a clock ahead of this one has issued is not rolled, looked at or not."""
    browser = logged_in(clock, renew_after=0)
    clock.advance(-1)
    assert not browser.call(handler).set_cookies
    clock.advance(1)
    assert browser.call(handler).set_cookies


def test_a_roll_that_is_refused_ends_no_other_session(clock: Clock) -> None:
    """1. Two sessions are presented. 2. The later ends after the load. 3. Only that one is deleted, none is ended."""
    browser = raced(clock, [login("alice"), login("bob")], revocations=Lagging(clock))
    _, bob = browser.header().split("; ")
    id_ = bytes.fromhex(call(browser.application, lambda s: s.id, bob).result)
    clock.advance(100)

    def reader(session: Session) -> Any:
        user = session.get("user")
        browser.application.revocations.fence([session_key(id_)], ENDED)  # type: ignore[attr-defined]
        return user

    answer = browser.receive(browser.call(reader))
    assert (answer.result, answer.sent()) == ("bob", {bob.partition("=")[0]: ""})
    assert browser.application.revocations.lookup_now(  # type: ignore[attr-defined]
        [session_key(bytes.fromhex(browser.do(lambda s: s.id)))]
    ) == [0]
    assert browser.do(who) == "alice"


def test_a_load_that_was_interrupted_is_none(lagging: tuple[Lagging, Browser]) -> None:
    """When the question of a load was broken off, the session counts as not looked at, and the response can start."""
    store, browser = lagging
    lookup = store.lookup

    def interrupted(keys: Any) -> Any:
        store.lookup = lookup  # type: ignore[method-assign]
        raise Interrupted

    def handler(session: Session) -> Any:
        with pytest.raises(Interrupted):
            session.get("user")

    store.lookup = interrupted  # type: ignore[method-assign]
    assert any(name.endswith("-lease") for name in browser.call(handler).sent())
    store.lookup = interrupted  # type: ignore[method-assign]
    assert browser.do(lambda s: (handler(s), who(s))[1]) == "alice"


def test_a_response_that_starts_over_carries_what_changed_between(clock: Clock) -> None:
    """A response that starts over after it went well is decided on anew: with a list as it is by then."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        numbers = environ[SESSION].setdefault("numbers", [1])
        start_response("200 OK", [])
        numbers.append(2)
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return []

    browser = Browser(wrap(clock, application), clock)
    browser.receive(browser.call(untouched))
    browser.application._application = dispatch  # type: ignore[attr-defined]
    assert browser.do(get("numbers")) == [1, 2]


def test_the_single_layout_leaves_a_foreign_lease_alone(clock: Clock) -> None:
    """In the single layout, which has no leases, a logout does not delete what another has called one."""
    browser = logged_in(clock, cookie_layout="single")
    answer = browser.call(logout, header=f"{browser.header()}; __Host-session-lease=another's")
    assert list(answer.sent()) == ["__Host-session"]


@pytest.mark.parametrize("how", ["environ", "roll_if", "public"])
def test_a_write_that_must_not_roll_extends_nothing(how: str) -> None:
    """Polling that writes, but opts out of rolling, keeps its data and does not keep the session alive."""
    clock = Clock()
    options: dict[str, Any] = {"roll_if": lambda environ: environ["PATH_INFO"] != "/poll"} if how == "roll_if" else {}
    browser = Browser(wrap(clock, idle_timeout="1h", **options), clock)
    browser.do(login("alice"))
    asked: dict[str, Any] = {
        "environ": {"wsgi_rollsession.roll": False},
        "roll_if": {"PATH_INFO": "/poll"},
        "public": {"test.headers": [("Cache-Control", "public")]},
    }[how]
    for minute in range(5):
        clock.advance(660)
        browser.do(put("polled", minute), **asked)
        assert browser.do(get("polled"), **asked) == minute
    clock.advance(660)
    assert browser.do(who, **asked) is None


# The check of a request that leaves its session alone


class Lagging(MemoryRevocations):
    """A store whose loads answer from a copy that has not heard of anything yet, and which counts what it is asked."""

    def __init__(self, clock: Clock) -> None:
        now = lambda: int(clock() * 1000)  # noqa: E731
        super().__init__(StoreOptions(lifetime_ms=86_400_000), _clock=now, _monotonic=now)
        self.asked: list[str] = []

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        self.asked.append("lookup")
        return [super().lookup((EVERYTHING,))[0], *(0 for _ in keys[1:])]

    def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
        self.asked.append("lookup_now")
        return super().lookup(keys)


@pytest.fixture
def lagging(clock: Clock) -> tuple[Lagging, Browser]:
    """Somebody logged in, whose next response is due to roll the session."""
    store = Lagging(clock)
    clock.advance(10)
    browser = Browser(wrap(clock, revocations=store), clock)
    browser.do(login("alice"))
    clock.advance(100)
    store.asked.clear()
    return store, browser


def test_an_untouched_request_asks_once_and_authoritatively(lagging: tuple[Lagging, Browser]) -> None:
    """A request that leaves its session alone costs one question if a roll is due, and that is the one of a roll."""
    store, browser = lagging
    header = browser.header()
    assert any(name.endswith("-lease") for name in browser.call(untouched).sent())
    assert store.asked == ["lookup_now"]
    store.fence([session_key(bytes.fromhex(browser.do(lambda s: s.id)))], ENDED)
    assert not any(call(browser.application, untouched, header).sent().values())


def test_an_untouched_request_that_cannot_roll_asks_nothing(clock: Clock) -> None:
    """With rolling off, a request that leaves its session alone does not ask the store."""
    store = Lagging(clock)
    clock.advance(10)
    browser = Browser(wrap(clock, revocations=store, rolling=False), clock)
    browser.do(login("alice"))
    clock.advance(100)
    store.asked.clear()
    assert not browser.call(untouched).set_cookies
    assert store.asked == []


def test_a_request_that_reads_asks_again_before_it_rolls(lagging: tuple[Lagging, Browser]) -> None:
    """What was true at load is not relied upon by the roll: the handler may have taken long."""
    store, browser = lagging
    browser.do(who)
    assert store.asked == ["lookup", "lookup_now"]


def test_a_response_that_starts_over_asks_again(clock: Clock, lagging: tuple[Lagging, Browser]) -> None:
    """A roll that is decided on again is checked again: a logout may have come between."""
    store, browser = lagging
    application = browser.application
    sent: list[Any] = []

    def starts_twice(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        store.fence([session_key(session_id)], ENDED)
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return []

    session_id = bytes.fromhex(call(application, lambda s: s.id, browser.header()).result)
    application._application = starts_twice
    environ = {"HTTP_COOKIE": browser.header(), "wsgi.multiprocess": False}
    list(application(environ, lambda status, headers, exc_info=None: sent.append(headers)))
    assert [any("lease=" in value and "Max-Age=0" not in value for _, value in each) for each in sent] == [True, False]


class Interrupted(BaseException):
    """As a greenlet's time-out is: it may come anywhere."""


def test_a_roll_that_was_interrupted_asks_again(lagging: tuple[Lagging, Browser]) -> None:
    """When the question before a roll was broken off, what a later load was told is no answer to it."""
    store, browser = lagging
    application, sent = browser.application, []
    session_id = bytes.fromhex(call(application, lambda s: s.id, browser.header()).result)
    lookup_now = store.lookup_now

    def interrupted(keys: Sequence[bytes]) -> Sequence[int]:
        store.lookup_now = lookup_now  # type: ignore[method-assign]
        raise Interrupted

    def handler(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(Interrupted):
            start_response("200 OK", [])
        environ["wsgi_rollsession.session"].get("user")
        store.fence([session_key(session_id)], ENDED)
        start_response("500 Internal Server Error", [])
        return []

    store.lookup_now = interrupted  # type: ignore[method-assign]
    application._application = handler
    environ = {"HTTP_COOKIE": browser.header(), "wsgi.multiprocess": False}
    list(application(environ, lambda status, headers, exc_info=None: sent.extend(headers)))
    assert not any("lease=" in value and "Max-Age=0" not in value for _, value in sent)
