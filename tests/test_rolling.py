"""What activity extends, and what it costs: leases, deadlines, and the questions that a response asks."""

from __future__ import annotations

import sys
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from wsgi_rollsession import Session, SessionCommitted, generate_key
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.middleware import ROLL, SESSION
from wsgi_rollsession.revocation.fence import ENDED, session_key
from wsgi_rollsession.seal import seal_lease
from wsgi_rollsession.token import Lease

from .browser import (
    START,
    Browser,
    Clock,
    Lagging,
    Steps,
    another,
    call,
    dispatch,
    filter_of,
    get,
    logged_in,
    login,
    open_browser,
    presenting,
    put,
    untouched,
    who,
)

HOUR, DAY = 3600, 86400
LONG = "x" * 2000


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
    (name,) = browser.sessions
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
    (name,) = browser.sessions
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
        (age,) = answer.max_ages()
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
        assert answer.max_ages() == [int(end - clock())]
    (header,) = [f"{name}={value}" for name, value in answer.sent().items()]
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
    ((name, value),) = browser.sessions.items()
    session = f"{name}={value}"
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
    ((name, value),) = other.sessions.items()
    clock.advance(1000)
    planted = f"{name}={value}; {name}-lease={lease}"
    assert presenting(browser, f"{planted}; {browser.header()}") == "alice", "alice's lease for bob"
    assert presenting(browser, planted) is None, "alice's lease for bob"


def test_a_forged_lease_does_not_help(clock: Clock) -> None:
    """A lease made with another key is ignored, and the session stands as it is."""
    browser = logged_in(clock)
    ((name, value),) = browser.sessions.items()
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


def test_rolling_off(clock: Clock) -> None:
    """Without rolling, a session has a fixed end, reading sends nothing, and writing does not move the end."""
    browser = logged_in(clock, rolling=False, absolute_timeout="8h")
    clock.advance(5 * HOUR)
    assert not browser.receive(browser.call(who)).set_cookies
    assert browser.receive(browser.call(put("a", 1))).max_ages() == [3 * HOUR]
    header = browser.header()
    clock.advance(3 * HOUR - 0.001)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_without_an_absolute_timeout(clock: Clock) -> None:
    """Without an absolute timeout a session lives as long as it is used, in cookies of 400 days."""
    browser = open_browser(clock, absolute_timeout=None)
    assert browser.receive(browser.call(login("alice"))).max_ages() == [400 * DAY]
    for _ in range(100):
        clock.advance(3500)
        assert browser.do(who) == "alice"


def test_a_session_from_the_future_is_not_believed(clock: Clock) -> None:
    """A cookie issued more than a minute ahead of this machine's clock is refused, and left to the browser."""
    browser = logged_in(clock)
    for back, user in ((60, "alice"), (0.001, None)):
        clock.advance(-back)
        answer = browser.call(who)
        assert (answer.result, answer.set_cookies) == (user, [])


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


@pytest.mark.parametrize("how", ["environ", "roll_if", "public"])
def test_a_write_that_must_not_roll_extends_nothing(how: str) -> None:
    """Polling that writes, but opts out of rolling, keeps its data and does not keep the session alive."""
    clock = Clock()
    options: dict[str, Any] = {"roll_if": lambda environ: environ["PATH_INFO"] != "/poll"} if how == "roll_if" else {}
    browser = open_browser(clock, idle_timeout="1h", **options)
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


def stamped(time: float, size: int) -> str:
    """Junk of *size* bytes with a time stamp in the clear."""
    return urlsafe_b64encode(b"\x01" * 5 + int(time * 1000).to_bytes(6, "big") + bytes(size - 11)).decode()


#: Where junk can stand: in a slot, as an anonymous session, as either's lease, and under a name that is none of ours.
PLACES = ["-2", "", "-2-lease", "-lease", "-AAAAAAAA", "-slot"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", ["{session}; {planted}", "{planted}; {session}"])
@pytest.mark.parametrize("handler", [untouched, who])
def test_planted_garbage_does_not_stop_rolling(clock: Clock, place: str, where: str, handler: Any) -> None:
    """A cookie from a sibling host, with a time stamp of the future in garbage, does not stop the rolling."""
    browser = logged_in(clock, cookie_domain="example.org")
    planted = f"__Secure-session{place}={stamped(clock() + 1e6, 99)}"
    clock.advance(1000)
    answer = browser.call(handler, header=where.format(session=browser.header(), planted=planted))
    (name,) = browser.sessions
    assert list(answer.sent()) == [f"{name}-lease"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("idle_s", [3600, 3599])
@pytest.mark.parametrize("where", ["{planted}; {session}", "{session}; {planted}"])
@pytest.mark.parametrize("handler", [untouched, who])
def test_a_fresh_lease_is_a_hint(clock: Clock, place: str, idle_s: int, where: str, handler: Any) -> None:
    """What reads like a fresh lease at the header's end stops the roll of a request that does not look, and no more."""
    browser = logged_in(clock)
    (name,) = browser.sessions
    clock.advance(100)
    clear = b"\x01" * 5 + int(clock() * 1000).to_bytes(6, "big") + idle_s.to_bytes(4, "big")
    planted = f"__Host-session{place}={urlsafe_b64encode(clear + bytes(21)).decode()}"
    answer = browser.call(handler, header=where.format(session=browser.header(), planted=planted))
    stops = where.endswith("{planted}") and place.endswith("-lease") and idle_s == 3600 and handler is untouched
    assert list(answer.sent()) == ([] if stops else [f"{name}-lease"])


@pytest.mark.parametrize(("age", "stops"), [(60, False), (59.999, True), (0, True), (-60, True), (-60.001, False)])
def test_how_old_a_hint_may_be(clock: Clock, age: float, stops: bool) -> None:
    """A lease at the header's end is fresh within ``renew_after``; what no process can have made by now is no hint."""
    browser = logged_in(clock)
    clock.advance(100)
    clear = b"\x01" * 5 + round((clock() - age) * 1000).to_bytes(6, "big") + (3600).to_bytes(4, "big")
    planted = f"__Host-session-2-lease={urlsafe_b64encode(clear + bytes(21)).decode()}"
    answer = browser.call(untouched, header=f"{browser.header()}; {planted}")
    assert bool(answer.set_cookies) is not stops


@pytest.mark.parametrize("handler", [untouched, who])
@pytest.mark.parametrize("idle_s", [1, 20, 100, 1000])
def test_a_login_with_a_short_idle_timeout_is_rolled_in_time(clock: Clock, handler: Any, idle_s: int) -> None:
    """Whoever is active every third of the idle timeout stays logged in, however short it is beside ``renew_after``."""
    browser = logged_in(clock)
    browser.do(lambda s: s.regenerate(idle_timeout=idle_s))
    for _ in range(10):
        clock.advance(idle_s / 3)
        browser.do(handler)
    assert browser.do(who) == "alice"
    clock.advance(idle_s)
    assert browser.do(who) is None


@pytest.mark.parametrize("persistent", [None, True, False])
def test_a_session_until_the_browser_is_closed(clock: Clock, persistent: bool | None) -> None:
    """With ``persistent=False`` neither the session, nor its leases, writes and epochs carry a Max-Age."""
    browser = open_browser(clock, renew_after=0)
    for handler in (
        lambda s: (s.regenerate(tags=["user:alice"], persistent=persistent), s.update(user="alice")),
        who,
        put("a", 1),
        lambda s: s.regenerate(),
        who,
    ):
        answer = browser.receive(browser.call(handler))
        ages = [each for each in answer.max_ages() if each]
        assert bool(ages) == (persistent is not False), answer.set_cookies
    ages = browser.receive(browser.call(lambda s: s.regenerate(persistent=True))).max_ages()
    assert any(ages)


STORABLE = [
    ("Cache-Control", "public"),
    ("Cache-Control", "max-age=600"),
    ("Cache-Control", "s-maxage=1"),
    ("Cache-Control", 'private="Set-Cookie", max-age=60'),
    ("Expires", "Fri, 01 Jan 2100 00:00:00 GMT"),
    ("CDN-Cache-Control", "max-age=600"),
    ("Surrogate-Control", "max-age=600"),
]
OTHERS = [
    ("Content-Type", "text/html"),
    ("Cache-Control", "no-cache"),
    ("Cache-Control", "private, max-age=600"),
    ("Cache-Control", "max-age=0"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
]


@pytest.mark.parametrize("handler", [untouched, who])
@pytest.mark.parametrize("header", STORABLE)
def test_what_a_shared_cache_may_store_carries_no_lease(clock: Clock, handler: Any, header: tuple[str, str]) -> None:
    """A response that shared caches may store is not rolled; it says that it varies, where the session was read."""
    browser = logged_in(clock)
    clock.advance(100)
    answer = browser.call(handler, **{"test.headers": [header]})
    assert answer.set_cookies == [], "a cache could store the lease"
    assert answer.header("Vary") == (None if handler is untouched else "Cookie"), "a cache could serve it to others"


@pytest.mark.parametrize(
    ("handler", "directive"), [(untouched, "private"), (who, "private"), (put("a", 1), "no-store")]
)
@pytest.mark.parametrize("header", OTHERS)
def test_what_carries_our_cookies_is_in_no_shared_cache(
    clock: Clock, handler: Any, directive: str, header: tuple[str, str]
) -> None:
    """A lease goes with ``private``, a session with ``no-store``, both with ``Vary: Cookie``."""
    browser = logged_in(clock)
    clock.advance(100)
    answer = browser.call(handler, **{"test.headers": [header]})
    assert len(answer.set_cookies) == 1
    assert directive in (answer.header("Cache-Control") or ""), "a cache could store the cookie"
    assert answer.header("Vary") == "Cookie", "a cache could serve it to others"


@pytest.mark.parametrize("handler", [untouched, who])
@pytest.mark.parametrize("later", [HOUR, HOUR + 59, HOUR + 60, 5 * HOUR])
def test_a_session_that_is_over_is_not_rolled(clock: Clock, handler: Any, later: float) -> None:
    """A session past its idle timeout gets no lease, looked at or not, and nothing is deleted."""
    browser = logged_in(clock)
    clock.advance(later)
    assert browser.call(handler).sent() == {}


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

    browser.application._application = application
    assert browser.call(untouched).set_cookies


@pytest.mark.parametrize("handler", [untouched, who])
def test_no_roll_goes_back_in_time(clock: Clock, handler: Any) -> None:
    """With ``renew_after=0``, a session that a clock ahead of this one has issued is not rolled, looked at or not."""
    browser = logged_in(clock, renew_after=0)
    clock.advance(-1)
    assert not browser.call(handler).set_cookies
    clock.advance(1)
    assert browser.call(handler).set_cookies


@pytest.fixture
def lagging(clock: Clock) -> tuple[Lagging, Browser]:
    """Somebody logged in, whose next response is due to roll the session."""
    store = Lagging(clock)
    clock.advance(10)
    browser = open_browser(clock, revocations=store)
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
    browser = open_browser(clock, revocations=store, rolling=False)
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


def starting_twice(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Starts a response, and then an error page instead of it."""
    start_response("200 OK", [])
    environ["test.handler"](environ[SESSION])
    try:
        raise LookupError
    except LookupError:
        start_response("500 Internal Server Error", [], sys.exc_info())
    return []


def test_a_response_that_starts_over_carries_what_was_decided(clock: Clock, lagging: tuple[Lagging, Browser]) -> None:
    """What a response carries is decided once: an error page instead of it has the same, and the store is not asked."""
    store, browser = lagging
    application, sent = filter_of(browser), []
    application._application = starting_twice
    environ = {"HTTP_COOKIE": browser.header(), "wsgi.multiprocess": False, "test.handler": untouched}
    list(application(environ, lambda status, headers, exc_info=None: sent.append((status[:3], headers))))
    assert [status for status, _ in sent] == ["200", "500"]
    assert sent[0][1] == sent[1][1]
    assert any("-lease=" in value for _, value in sent[0][1])
    assert store.asked == ["lookup_now"]


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


def test_a_nested_change_after_the_response_was_decided(clock: Clock) -> None:
    """A list that was read before can be changed after the headers, which nobody notices; an error page lacks it."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        numbers = environ[SESSION].setdefault("numbers", [1])
        environ["test.handler"] = lambda session: numbers.append(2)
        return starting_twice(environ, start_response)

    browser = open_browser(clock, application)
    browser.receive(browser.call(untouched))
    filter_of(browser)._application = dispatch
    assert browser.do(get("numbers")) == [1]


@pytest.mark.parametrize("handler", [untouched, who])
def test_a_stream_lives_by_the_lease_that_its_response_carried(clock: Clock, handler: Any) -> None:
    """``check()`` in the body of a response that was rolled counts from the roll."""
    request = Steps(logged_in(clock))
    clock.advance(3590)
    request.do(handler)
    assert request.answer().set_cookies
    clock.advance(3590)
    assert request.session.check()
    clock.advance(20)
    assert not request.session.check()


def test_a_visitors_write_that_must_not_roll_extends_nothing(clock: Clock) -> None:
    """What is nobody's is held to it as well."""
    browser = open_browser(clock)
    browser.do(put("a", 1))
    before = browser.do(lambda session: session.expires)
    clock.advance(600)
    browser.do(put("a", 2), **{ROLL: False})
    assert browser.do(lambda session: (session["a"], session.expires), **{ROLL: False}) == (2, before)


@pytest.mark.parametrize("handler", [put("a", 1), lambda session: session.update(a=1) or session.save()])
def test_a_write_is_as_short_as_the_timeout_it_was_made_under(clock: Clock, handler: Any) -> None:
    """A configuration that was shorter for a while: what was written under it does not live longer afterwards."""
    browser = logged_in(clock, idle_timeout="2h")
    long = browser.application
    browser.application = another(browser, idle_timeout="10m")
    browser.do(handler)
    browser.application = long
    clock.advance(599)
    assert browser.do(who, **{ROLL: False}) == "alice"
    clock.advance(1)
    assert browser.do(who) is None
