"""What happens while a process waits for the store, or is suspended: smallest cases of what random histories found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsgi_rollsession import Ended, Session, SessionConflict, StoreUnavailable
from wsgi_rollsession.middleware import ROLL
from wsgi_rollsession.token import UNASKED

from .browser import (
    Browser,
    Clock,
    Fragile,
    Handler,
    Lagging,
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
    who,
    wrap,
)

KEY = "user"


def opened(clock: Clock, **options: object) -> tuple[Browser, Fragile]:
    """A browser before an application whose store can be watched, and that store."""
    store = Fragile(memory(clock, 90_000))
    clock.advance(10)
    return open_browser(clock, revocations=store, **options), store


def test_a_new_tag_that_was_revoked_since_the_call_leaves_the_session_as_it_was(clock: Clock) -> None:
    """``regenerate()`` with a tag that is revoked before the response is not kept, and nobody is logged out by it."""
    browser, _ = opened(clock, identity_key=KEY)
    browser.do(put(KEY, "alice"))
    request = Steps(browser)
    request.do(lambda session: session.regenerate(tags=["user:alice", "admin"]))
    filter_of_browser = browser.application
    filter_of_browser.sessions.revoke("admin")  # type: ignore[attr-defined]
    browser.receive(request.answer())
    assert browser.do(who) == "alice"


def test_a_session_whose_new_tag_was_revoked_is_alive(clock: Clock) -> None:
    """``save()`` says what happened, and the request goes on with the session as it was."""
    browser, _ = opened(clock, identity_key=KEY)
    browser.do(put(KEY, "alice"))
    session = Steps(browser).session
    session.regenerate(tags=["user:alice", "admin"])
    browser.application.sessions.revoke("admin")  # type: ignore[attr-defined]
    with pytest.raises(SessionConflict, match="another request was first, or one of the new tags was revoked"):
        session.save()
    assert session.check()
    assert session.ended is None
    session.revert()
    session["x"] = 1
    session.save()


@pytest.mark.parametrize("act", [lambda session: session.save(), lambda session: session.revoke_others("user:alice")])
def test_an_epoch_of_a_login_that_has_timed_out_meanwhile_raises_no_fence(
    clock: Clock, act: Callable[[Session], None]
) -> None:
    """Its time has passed during the request: nothing is raised for what nobody accepts, and ``ended`` says why."""
    browser, store = opened(clock, absolute_timeout="1h")
    browser.do(login("alice"))
    session = Steps(browser).session
    session.regenerate()
    clock.advance(3600)
    fences = store.status()["fences"]
    with pytest.raises(SessionConflict, match="absolute timeout"):
        act(session)
    assert session.ended is Ended.ABSOLUTE
    assert store.status()["fences"] == fences


@pytest.mark.parametrize("outage", ["degrade", "open"])
@pytest.mark.parametrize("is_called", [True, False], ids=["regenerate", "the identity key"])
@pytest.mark.parametrize("before", [None, put("cart", 1)], ids=["nobody", "a visitor"])
def test_a_login_whose_response_meets_an_outage_has_passed_nothing(
    clock: Clock, outage: str, is_called: bool, before: Handler | None
) -> None:
    """The record says that nobody could be asked, though somebody could be when the application called."""
    browser, store = opened(clock, outage=outage, identity_key=KEY)
    if before is not None:
        browser.do(before)
    request = Steps(browser)
    request.do(login("alice") if is_called else put(KEY, "alice"))
    begins = clock() if is_called else clock() + 600
    clock.advance(600)
    store.is_down = True
    browser.receive(request.answer())
    ((_, found),) = filter_of(browser).sessions._site.open_header(browser.header()).sessions
    assert found.record.flags & UNASKED
    assert set(found.record.passed) == {0}
    # Not of the response: a fence that was raised since the call may be kept for one idle timeout and no longer.
    assert found.last_activity == found.record.authenticated == begins * 1000


@pytest.mark.parametrize("outage", ["degrade", "open"])
def test_a_login_in_an_outage_takes_nothing_over_that_is_known_to_be_over(clock: Clock, outage: str) -> None:
    """What this process knows of the anonymous session counts: data of one that was ended do not live on in a login."""
    browser, store = opened(clock, outage=outage)
    browser.do(put("cart", "book"))
    request = Steps(browser)
    request.do(login("alice"))
    browser.call(logout)
    store.is_down = True
    browser.receive(request.answer())
    assert browser.do(dict) == {"user": "alice"}


@pytest.mark.parametrize("back", [0, 20])
def test_revoke_others_ends_what_began_while_it_waited(clock: Clock, back: int) -> None:
    """A process that is suspended before its raise is confirmed does not miss who logged in meanwhile."""
    browser, store = opened(clock)
    browser.do(login("alice"))
    other = Browser(browser.application, clock)

    def suspended() -> None:
        clock.advance(20)
        other.do(login("alice"))
        clock.step(-back)  # so that no time seems to have passed

    store.before[len(store.asked) + 1] = suspended  # the second question is the raise
    browser.do(lambda session: session.revoke_others("user:alice"))
    assert (browser.do(who), other.do(who)) == ("alice", None)


@pytest.mark.parametrize("ends", [lambda session: session.invalidate(), lambda session: session.clear()])
def test_passes_of_one_environ_take_one_pair_of_slots(clock: Clock, ends: object) -> None:
    """A pass that logs in takes the pair that a logout in the pass before has taken."""
    passes = [ends, login("bob")]

    def application(environ: dict[str, object], start_response: object) -> list[bytes]:
        passes.pop(0)(environ["wsgi_rollsession.session"])  # type: ignore[operator]
        start_response("200 OK", [])  # type: ignore[operator]
        return [b""]

    browser = open_browser(clock)
    browser.do(login("alice"))
    twice = wrap(clock, application, revocations=browser.application.sessions.revocations)  # type: ignore[attr-defined]

    def retried(environ: dict[str, object], start_response: object) -> object:
        list(twice(environ, lambda *given: None))
        return twice(environ, start_response)  # type: ignore[arg-type]

    browser.receive(call(retried, get("x"), browser.header()))  # type: ignore[arg-type]
    assert [name for name in browser.cookies if not name.endswith(("-slot", "-lease"))] == ["__Host-session-2"]
    assert browser.cookies["__Host-session-slot"] == "2"


def test_a_clock_that_was_ahead_for_a_moment_hides_nobody(clock: Clock) -> None:
    """What a store has seen of the clock when somebody logged in counts, though it went back before it was asked."""
    browser, _ = opened(clock)
    clock.step(30)
    browser.do(login("alice"))
    clock.step(-5)
    browser.application.sessions.revoke("user:alice")  # type: ignore[attr-defined]
    assert browser.do(who) is None


def test_a_clock_that_was_ahead_for_a_moment_hides_nobody_from_revoke_others(clock: Clock) -> None:
    """As above, where the session that ends the others makes the number."""
    browser, _ = opened(clock)
    other = Browser(browser.application, clock)
    clock.step(30)
    other.do(login("alice"))
    clock.step(-5)
    browser.do(login("alice"))
    browser.do(lambda session: session.revoke_others("user:alice"))
    assert (browser.do(who), other.do(who)) == ("alice", None)


def test_regenerate_that_was_a_part_of_a_logout_is_over_with_it(clock: Clock) -> None:
    """``pop()`` where nobody is found, ``regenerate()``, ``save()``: the response begins no login."""
    browser, _ = opened(clock, identity_key=KEY)

    def handler(session: Session) -> None:
        session.pop(KEY, None)
        session.regenerate()
        session.save()

    browser.do(handler)
    assert [name for name in browser.cookies if not name.endswith("-slot")] == []


def test_a_login_that_was_suspended_for_longer_than_it_lives_is_none(clock: Clock) -> None:
    """A revocation after the call may have been forgotten by the time of the answer: nothing is sent."""
    browser, store = opened(clock, idle_timeout=100)
    request = Steps(browser)
    request.do(login("alice"))
    store.before[len(store.asked)] = lambda: clock.advance(100)
    browser.receive(request.answer())
    assert isinstance(request.error, SessionConflict)
    assert browser.do(who) is None


@pytest.mark.parametrize("begin", [login("alice"), put(KEY, "alice")], ids=["regenerate", "the identity key"])
def test_a_login_does_not_take_over_what_has_timed_out_while_the_store_answered(clock: Clock, begin: Handler) -> None:
    """A fence that ended the visitor's session could be forgotten by then: its data do not live on."""
    browser, store = opened(clock, identity_key=KEY)
    browser.do(put("cart", 1))
    clock.advance(3599)
    request = Steps(browser).look()
    store.after[len(store.asked) + 1] = lambda: clock.advance(1)  # the second question is the raise
    request.do(begin)
    browser.receive(request.answer())
    assert isinstance(request.error, SessionConflict)
    assert store.asked[-1] == "compare_and_raise"
    assert browser.do(dict) == {}


def test_a_login_over_somebody_that_was_revoked_with_them_says_why(clock: Clock) -> None:
    """Everything is revoked between call and response: the session that was there is over, too, and known to be."""
    browser, _ = opened(clock, identity_key=KEY)
    browser.do(put(KEY, "alice"))
    session = Steps(browser).session
    login("bob")(session)
    browser.application.revoke_everything()  # type: ignore[attr-defined]
    with pytest.raises(SessionConflict, match=r"^revoked$"):
        session.save()
    session.revert()
    assert session.ended is Ended.REVOKED


def test_who_was_ended_by_a_login_that_came_too_late_is_logged_out(clock: Clock) -> None:
    """The store has ended alice, and bob's own short life is over when it answers: the request says that nobody is."""
    browser, store = opened(clock, identity_key=KEY)
    browser.do(put(KEY, "alice"))
    session = Steps(browser).session
    session.regenerate(tags=["user:bob"], idle_timeout=10)
    session[KEY] = "bob"
    store.after[len(store.asked)] = lambda: clock.advance(10)
    with pytest.raises(SessionConflict, match="longer than its idle timeout"):
        session.save()
    session.revert()
    assert session.ended is Ended.LOGGED_OUT


@pytest.mark.parametrize("out", [lambda session: session.pop(KEY), put(KEY, None)])
@pytest.mark.parametrize("is_known", [False, True], ids=["", "and known to be"])
def test_what_is_left_of_a_login_that_was_ended_is_nothing(clock: Clock, out: Handler, is_known: bool) -> None:
    """1. Alice is loaded. 2. She is logged out elsewhere. 3. The identity is taken out, and that is saved."""
    browser, _ = opened(clock, identity_key=KEY)
    browser.do(lambda session: session.update(user="alice", cart=1))
    request = Steps(browser).look()
    browser.call(logout)
    if is_known:
        assert not request.session.check()
    request.do(out)
    request.session.save()
    assert request.session.copy() == {}
    browser.receive(request.answer())
    assert browser.do(dict) == {}


@pytest.mark.parametrize("lasts", [0, 1])
def test_what_is_left_of_a_login_that_timed_out_while_the_store_answered_is_nothing(clock: Clock, lasts: int) -> None:
    """A fence that ended it earlier could be forgotten by then: its data do not live on."""
    browser, store = opened(clock, identity_key=KEY)
    browser.do(lambda session: session.update(user="alice", cart=1))
    clock.advance(3598)
    request = Steps(browser).look()
    request.do(lambda session: session.pop(KEY))
    store.after[len(store.asked) + 1] = lambda: clock.advance(2 - lasts)  # the second question is the raise
    browser.receive(request.answer())
    assert store.asked[-2:] == ["lookup_now", "compare_and_raise"]
    assert browser.do(dict) == ({"cart": 1} if lasts else {})


@pytest.mark.parametrize("act", [put(KEY, "bob"), put("x", 1)], ids=["another login", "a write"])
def test_what_was_refused_by_what_cannot_be_found_yet_is_not_over_for_everybody(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, act: Handler
) -> None:
    """Another process is raising something: the session counts as an old copy, whose login may be alive elsewhere."""
    store = memory(clock, 90_000)
    browser = Browser(wrap(clock, revocations=store, identity_key=KEY, versioned=True), clock)
    browser.do(put(KEY, "alice"))
    session = Steps(browser).session
    act(session)
    monkeypatch.setattr(store, "compare_and_raise", lambda limits, raises: False)
    with pytest.raises(SessionConflict, match="superseded"):
        session.save()
    session.revert()
    assert session.ended is Ended.SUPERSEDED


def test_who_takes_out_an_identity_that_an_older_epoch_had_is_logged_out(clock: Clock) -> None:
    """Nobody is found, for a newer epoch is under way; ``ended`` says what this request has done about it."""
    browser, _ = opened(clock, identity_key=KEY)
    browser.do(put("cart", 1))
    visitor = dict(browser.jar)
    browser.do(put(KEY, "alice"))
    clock.advance(100)
    browser.do(who)
    browser.jar |= visitor
    assert len(browser.cookies) == 4, "a visitor's, hers, its lease, and the slot"
    browser.call(lambda session: session.regenerate())
    request = Steps(browser)
    assert request.session.ended is Ended.SUPERSEDED
    request.session.pop(KEY, None)
    request.session.save()
    assert request.session.ended is Ended.LOGGED_OUT
    browser.receive(request.answer())
    assert set(browser.cookies) == {"__Host-session", "__Host-session-slot"}


def test_a_save_that_was_not_confirmed_can_be_tried_again(clock: Clock) -> None:
    """With ``outage="closed"`` it raises, and has changed nothing: once the store is back, it works."""
    browser, store = opened(clock, outage="closed", identity_key=KEY)
    browser.do(put(KEY, "alice"))
    session = Steps(browser).session
    session["x"] = 1
    store.is_down = True
    with pytest.raises(StoreUnavailable):
        session.save()
    store.is_down = False
    assert session.ended is None
    session.save()
    assert session.version == 2


class Timeout(BaseException):
    """What servers that interrupt a request raise, as gevent's time-outs: no ``Exception``."""


@pytest.mark.parametrize("act", [put("x", 1), put(KEY, "bob"), lambda session: session.regenerate()])
def test_a_response_that_was_interrupted_is_not_sent_later(clock: Clock, act: Handler) -> None:
    """Whatever is raised while the store is asked: the error page has nothing of what the response would have had."""
    browser, store = opened(clock, identity_key=KEY)
    browser.do(put(KEY, "alice"))
    request = Steps(browser)
    request.do(act)

    def interrupted() -> None:
        raise Timeout

    store.before[len(store.asked)] = interrupted
    with pytest.raises(Timeout):
        request.answer()
    assert request.answer().set_cookies == []
    assert browser.do(dict) == {KEY: "alice"}


@pytest.mark.parametrize("outage", ["degrade", "closed", "open"])
def test_the_call_of_regenerate_over_somebody_says_that_nobody_can_be_asked(clock: Clock, outage: str) -> None:
    """It raises there, and has asked for nothing."""
    browser, store = opened(clock, outage=outage)
    browser.do(login("alice"))
    session = Steps(browser).look().session
    store.is_down = True
    with pytest.raises(StoreUnavailable):
        session.regenerate()
    assert not session.changed


def test_check_asks_the_store_itself(clock: Clock) -> None:
    """What this process has not heard of yet counts."""
    browser = open_browser(clock, revocations=Lagging(clock))
    browser.do(login("alice"))
    session = Steps(browser).look().session
    browser.call(logout)
    assert not session.check()


def test_what_was_saved_and_has_died_since_is_dropped_without_an_error(clock: Clock) -> None:
    """As a write that was not saved: the response goes out, and the log says so."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    request = Steps(browser)
    request.session["x"] = 1
    request.session.save()
    browser.call(logout)
    answer = request.answer()
    assert request.error is None
    assert answer.set_cookies == []


def test_a_write_in_an_outage_is_as_short_as_the_lease_was(clock: Clock) -> None:
    """A configuration that was shorter when it was rolled last: what extends nothing keeps that."""
    browser, store = opened(clock)
    browser.do(login("alice"))
    long = browser.application
    browser.application = another(browser, idle_timeout="10m")
    clock.advance(100)
    browser.do(who)
    browser.application = long
    clock.advance(100)
    store.is_down = True
    browser.do(put("x", 1))
    store.is_down = False
    assert "__Host-session-1-lease" in browser.cookies
    del browser.jar["__Host-session-1-lease"]
    clock.advance(499)
    asked = {ROLL: False}
    assert browser.do(who, **asked) == "alice"
    clock.advance(1)
    assert browser.do(who) is None
