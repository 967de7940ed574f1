"""Replacing a session: nothing that has been ended lives on in another, and fences that are passed refuse no login.

Where requests interleave, a docstring numbers the steps. "R" is the request that regenerates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import Session, SessionConflict, SessionTooLarge, StoreUnavailable
from wsgi_rollsession.revocation.memory import MemoryRevocations

from .browser import (
    START,
    Answer,
    Browser,
    Clock,
    answering,
    filter_of,
    get,
    login,
    logout,
    open_browser,
    put,
    store_of,
    who,
    with_error_page,
    wrap,
)
from .browser import memory as empty

HOUR = 3600
Step = Callable[[Browser], Any]


def memory(clock: Clock) -> MemoryRevocations:
    """An empty store, which the clock has left behind."""
    store = empty(clock, 2 * HOUR)
    clock.advance(10)
    return store


def visiting(clock: Clock, **options: Any) -> Browser:
    """A browser before an application of its own."""
    return open_browser(clock, answering, revocations=memory(clock), **options)


def logged_in(clock: Clock, **options: Any) -> Browser:
    """A browser in which alice has just logged in, before an application of its own."""
    browser = visiting(clock, **options)
    browser.do(login("alice"))
    browser.do(put("secret", 1))
    return browser


REPLACE: dict[str, Callable[[Session], Any]] = {
    "regenerate": lambda s: s.regenerate(),
    "regenerate with tags": lambda s: s.regenerate(tags=["user:alice", "role:admin"]),
    "revoke_others": lambda s: s.revoke_others("user:alice"),
}
END: dict[str, Step] = {
    "logout": lambda browser: browser.do(logout),
    "clear": lambda browser: browser.do(lambda s: s.clear()),
    "login as another": lambda browser: browser.do(login("bob")),
    "revoke": lambda browser: filter_of(browser).revoke("user:alice"),
    "revoke_session": lambda browser: filter_of(browser).revoke_session(browser.do(lambda s: s.id)),
    "revoke_everything": lambda browser: filter_of(browser).revoke_everything(),
    "revoke_others elsewhere": lambda browser: elsewhere(browser).do(lambda s: s.revoke_others("user:alice")),
}


def elsewhere(browser: Browser) -> Browser:
    other = Browser(browser.application, browser.clock)
    other.do(login("alice"))
    return other


every_replacement = pytest.mark.parametrize("replace", REPLACE.values(), ids=list(REPLACE))


@every_replacement
@pytest.mark.parametrize("end", END.values(), ids=list(END))
@pytest.mark.parametrize("pause", [0, 20])
def test_what_was_ended_meanwhile_is_not_carried_on(
    clock: Clock, replace: Callable[[Session], Any], end: Step, pause: float
) -> None:
    """1. R loads the session. 2. It is ended, which returns. 3. R replaces it: a conflict, and nothing lives on."""
    browser = logged_in(clock)
    other = browser.copied()

    def handler(session: Session) -> None:
        assert session["user"] == "alice"
        clock.advance(pause)
        end(browser)
        clock.advance(pause)
        for again in (replace, replace, lambda s: s.save()):
            with pytest.raises(SessionConflict):
                again(session)

    answer = other.receive(other.call(handler))
    assert answer.issued() == {}
    clock.advance(10)
    assert other.do(dict) == {}


@every_replacement
def test_versioned_what_was_written_meanwhile_is_not_undone(clock: Clock, replace: Callable[[Session], Any]) -> None:
    """1. R loads a balance of 100. 2. Another request spends it. 3. R replaces the session: a conflict."""
    browser = logged_in(clock, versioned=True)
    browser.do(put("balance", 100))

    def handler(session: Session) -> None:
        assert session["balance"] == 100
        browser.do(put("balance", 0))
        with pytest.raises(SessionConflict):
            replace(session)

    answer = browser.call(handler)
    assert answer.set_cookies == []
    browser.receive(answer)
    assert browser.do(get("balance")) == 0


@every_replacement
@pytest.mark.parametrize("versioned", [False, True])
def test_a_conflict_that_was_caught_is_not_forgotten(
    clock: Clock, replace: Callable[[Session], Any], versioned: bool
) -> None:
    """1. R loads. 2. Logout. 3. R catches the conflict of ``save``. 4. R replaces the session: a conflict again."""
    browser = logged_in(clock, versioned=versioned)
    other = browser.copied()

    def handler(session: Session) -> None:
        session["n"] = 1
        browser.do(logout)
        with pytest.raises(SessionConflict):
            session.save()
        with pytest.raises(SessionConflict):
            replace(session)

    assert other.receive(other.call(handler)).issued() == {}
    assert other.do(dict) == {}


@pytest.mark.parametrize("end", END.values(), ids=list(END))
def test_after_a_conflict_one_can_start_over(clock: Clock, end: Step) -> None:
    """1. R loads. 2. The session is ended. 3. R's login is a conflict. 4. ``invalidate``, login: the data are gone."""
    browser = logged_in(clock)
    other = browser.copied()

    def handler(session: Session) -> None:
        assert session["secret"] == 1
        end(browser)
        with pytest.raises(SessionConflict):
            session.regenerate(tags=["user:alice"])
        session.invalidate()
        assert dict(session) == {}
        session.regenerate(tags=["user:alice"])
        session["user"] = "alice again"

    other.do(handler)
    assert other.do(dict) == {"user": "alice again"}


def between(browser: Browser, step: Callable[[], Any]) -> None:
    """Have *step* happen once, between the next question to the fences and what follows from its answer."""
    store = store_of(browser)
    lookup_now, armed = store.lookup_now, [True]

    def ask_then_step(keys: Any) -> Any:
        numbers = lookup_now(keys)
        if armed:
            armed.clear()
            step()
        return numbers

    store.lookup_now = ask_then_step  # type: ignore[method-assign]


@every_replacement
@pytest.mark.parametrize("end", END.values(), ids=list(END))
def test_what_is_ended_at_the_very_moment(clock: Clock, replace: Callable[[Session], Any], end: Step) -> None:
    """1. R asks the fences, which know nothing. 2. The session is ended. 3. R's answer carries no session on."""
    browser = logged_in(clock)
    other = browser.copied()

    def handler(session: Session) -> None:
        assert session["user"] == "alice"
        between(browser, lambda: end(browser))
        replace(session)  # a conflict, or the check before the answer finds it

    answer = other.call(handler)
    assert answer.issued() == {}, "carried on"
    assert other.receive(answer).result is None
    assert other.do(dict) == {}, "carried on"


@pytest.mark.parametrize("again", [lambda s: None, lambda s: s.regenerate()], ids=["once", "twice"])
def test_a_login_that_is_revoked_before_it_is_sent(clock: Clock, again: Callable[[Session], Any]) -> None:
    """1. R logs in. 2. The account is disabled. 3. R regenerates again. 4. R is answered: a conflict."""
    browser = visiting(clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        filter_of(browser).revoke("user:alice")
        clock.advance(30)
        again(session)

    answer = browser.receive(browser.call(handler))
    assert (answer.status, answer.set_cookies) == ("409 Conflict", [])


def test_regenerating_twice(clock: Clock) -> None:
    """A second ``regenerate`` in a request keeps the tags of the first, and the login that they said."""
    for second in (lambda s: s.regenerate(), lambda s: s.regenerate(tags=["user:alice", "role:admin"])):
        browser = visiting(clock)
        browser.do(lambda s, second=second: (login("alice")(s), second(s)))  # type: ignore[misc]
        assert browser.do(lambda s: "user:alice" in s.tags)
        filter_of(browser).revoke("user:alice")
        assert browser.do(who) is None


@pytest.mark.parametrize("error", [SessionTooLarge, StoreUnavailable])
def test_a_response_that_failed_is_not_tried_again(clock: Clock, error: type[Exception]) -> None:
    """1. R regenerates. 2. Its response fails. 3. The store is back, and the error page starts: R has done nothing."""
    browser = visiting(clock)
    browser.do(login("alice"))
    filter_of(browser)._application = with_error_page(error, "500 Oh")
    store = store_of(browser)

    def handler(session: Session) -> None:
        session.regenerate()
        if error is SessionTooLarge:
            session["much"] = "x" * 5000
        else:
            store.compare_and_raise = fail_once  # type: ignore[method-assign]

    def fail_once(*arguments: Any) -> Any:
        del store.compare_and_raise
        raise StoreUnavailable

    answer = browser.receive(browser.call(handler))
    assert (answer.status, answer.set_cookies) == ("500 Oh", []), "tried again"
    assert browser.do(dict) == {"user": "alice"}


# revoke_others


def test_login_and_everybody_else_out(clock: Clock) -> None:
    """``revoke_others`` works in the very request that logs in, as when a password has been changed."""
    other = logged_in(clock)
    browser = Browser(other.application, clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        session.revoke_others("user:alice")

    browser.do(handler)
    assert (browser.do(who), other.do(who)) == ("alice", None)


def test_revoke_others_keeps_what_was_changed_before_it(clock: Clock) -> None:
    """What was stored goes into the new epoch, is done with it, and counts as saved."""
    browser = logged_in(clock)

    def handler(session: Session) -> Any:
        session["x"] = 1
        session.revoke_others("user:alice")
        done = session.changed, session.version
        session["x"] = 2
        session.revert()
        return done, session["x"], session.version

    assert browser.do(handler) == ((False, 1 << 16 | 1), 1, 1 << 16 | 1)
    assert browser.do(lambda session: (session["x"], session.version)) == (1, 1 << 16 | 1)


def test_revoke_others_of_a_tag_that_is_not_mine(clock: Clock) -> None:
    """A tag that the session does not have is refused, whoever has it, and nothing has changed."""
    browser, other = logged_in(clock), open_browser(clock)
    other.application = browser.application
    other.do(login("bob"))
    for session_of in (browser, other):
        with pytest.raises(ValueError, match="requires a tag of this session"):
            session_of.call(lambda s: s.revoke_others("user:carol"))
    with pytest.raises(ValueError, match="requires a tag"):
        Browser(browser.application, clock).call(lambda s: s.revoke_others("user:alice"))
    with pytest.raises(ValueError, match="requires a tag"):
        other.call(lambda s: s.revoke_others("user:alice"))
    assert (browser.do(who), other.do(who)) == ("alice", "bob")


def test_revoke_others_lets_no_other_tag_pass(clock: Clock) -> None:
    """1. R loads. 2. Another tag of the session is revoked. 3. R revokes the others by the first: a conflict."""
    browser = logged_in(clock)
    browser.do(lambda s: s.regenerate(tags=["user:alice", "tenant:7"]))

    def handler(session: Session) -> None:
        assert session["user"] == "alice"
        filter_of(browser).revoke("tenant:7")
        with pytest.raises(SessionConflict):
            session.revoke_others("user:alice")

    assert browser.receive(browser.call(handler)).issued() == {}
    assert browser.do(who) is None


def test_two_revoke_others_at_once(clock: Clock) -> None:
    """Of two sessions that revoke the others, each in the middle of the other's, one stays."""
    browser = logged_in(clock)
    other = elsewhere(browser)

    def handler(session: Session) -> None:
        between(browser, lambda: other.do(lambda s: s.revoke_others("user:alice")))
        with pytest.raises(SessionConflict):
            session.revoke_others("user:alice")

    browser.do(handler)
    assert (browser.do(who), other.do(who)) == (None, "alice")


@pytest.mark.parametrize("order", ["regenerate first", "regenerate last"])
def test_revoke_others_beside_a_regenerate(clock: Clock, order: str) -> None:
    """Of a ``revoke_others`` and a ``regenerate`` of one session at once one wins, and its user is logged in."""
    browser = logged_in(clock)
    other = browser.copied()
    asked: list[Callable[[Session], Any]] = [lambda s: s.regenerate(), lambda s: s.revoke_others("user:alice")]
    if order == "regenerate first":
        asked.reverse()
    outer, inner = asked
    answers: list[Answer] = []
    store = store_of(browser)
    compare_and_raise = store.compare_and_raise

    def handler(session: Session) -> None:
        session.get("user")
        store.compare_and_raise = overtaken  # type: ignore[method-assign]
        outer(session)

    def overtaken(*arguments: Any) -> Any:
        store.compare_and_raise = compare_and_raise  # type: ignore[method-assign]
        answers.append(other.call(inner))
        return compare_and_raise(*arguments)

    answers.append(browser.call(handler))
    for answer in answers:
        browser.receive(answer)
    assert browser.do(who) == "alice", "nobody is left"
    assert sorted(len(answer.issued()) for answer in answers) == [0, 1]


# What a session has passed


def login_to_tenant(session: Session) -> None:
    session.regenerate(tags=["user:alice", "tenant:7"])
    session["user"] = "alice"


def many_times(browser: Browser, step: str) -> None:
    """Three hundred revocations, some at once, then one a second, each of which the browser gets past."""
    for number in range(300):
        browser.clock.advance(1 if number > 4 else 0)
        if step == "revoke_others":
            browser.do(lambda s: s.revoke_others("user:alice"))
        else:
            filter_of(browser).revoke("user:alice")
            browser.do(login_to_tenant)


def forget_everything(browser: Browser) -> None:
    """The store loses its data, and the application starts again."""
    browser.application = wrap(browser.clock, revocations=memory(browser.clock))


FENCES: dict[str, Step] = {
    "the same tag": lambda browser: filter_of(browser).revoke("user:alice"),
    "another tag": lambda browser: filter_of(browser).revoke("tenant:7"),
    "everything": lambda browser: filter_of(browser).revoke_everything(),
    "amnesia": forget_everything,
}


@pytest.mark.parametrize("step", ["revoke_others", "revoke and login"])
@pytest.mark.parametrize("fence", FENCES.values(), ids=list(FENCES))
@pytest.mark.parametrize("pause", [0, 60])
def test_many_revocations_do_not_outrun_other_fences(clock: Clock, step: str, fence: Step, pause: float) -> None:
    """1. Three hundred revocations, whose numbers are ahead of the clock. 2. Another fence is raised: it refuses."""
    browser = logged_in(clock)
    browser.do(login_to_tenant)
    many_times(browser, step)
    assert browser.do(who) == "alice"
    assert browser.do(lambda s: s.created.timestamp()) <= clock()
    clock.advance(pause)
    header = browser.header()
    fence(browser)
    assert browser.call(who, header=header).result is None, "survived another fence"


def test_a_fence_passed_for_one_tag_is_not_passed_for_another(clock: Clock) -> None:
    """1. A tenant is revoked. 2. A login passes that. 3. At once its user is revoked: the session is refused."""
    browser = visiting(clock)
    filter_of(browser).revoke("tenant:7")
    browser.do(lambda s: s.regenerate(tags=["user:alice", "tenant:7"]))
    assert browser.do(lambda s: s.ended) is None
    filter_of(browser).revoke("user:alice")
    assert browser.do(lambda s: s.ended) is not None


def test_what_began_by_storing_passes_too(clock: Clock) -> None:
    """A session begun by storing, just after everything was revoked, lives; one from just before does not."""
    browser, other = (open_browser(clock) for _ in range(2))
    other.application = browser.application
    other.do(put("n", 1))
    filter_of(browser).revoke_everything()
    browser.do(put("n", 1))
    assert (browser.do(get("n")), other.do(get("n"))) == (1, None)


def test_saved_and_then_revoked(clock: Clock) -> None:
    """1. R stores something for the first time and saves. 2. Everything is revoked. 3. R's answer carries nothing."""
    browser = visiting(clock)

    def handler(session: Session) -> None:
        session["n"] = 1
        session.save()
        filter_of(browser).revoke_everything()

    assert browser.receive(browser.call(handler)).set_cookies == []


# Deadlines


@pytest.mark.parametrize(
    ("first", "again", "ends"),
    [
        (login("alice"), lambda s: s.regenerate(), 24 * HOUR),
        (login("alice"), lambda s: s.revoke_others("user:alice"), 24 * HOUR),
        (lambda s: (s.regenerate(), s.update(n=1)), lambda s: s.regenerate(), 24 * HOUR),
        (login("alice"), lambda s: s.regenerate(tags=["user:alice"]), 25 * HOUR),
        (login("alice"), lambda s: s.regenerate(tags=[]), 25 * HOUR),
        (put("n", 1), lambda s: s.regenerate(), 25 * HOUR),
        (put("n", 1), login("alice"), 25 * HOUR),
    ],
    ids=[
        "a login, without tags",
        "a login, revoke_others",
        "a login without tags, without tags",
        "a login, with tags",
        "a login, with no tag",
        "anonymous, without tags",
        "anonymous, with tags",
    ],
)
def test_the_absolute_deadline(clock: Clock, first: Any, again: Any, ends: float) -> None:
    """Only what says that somebody was authenticated begins the absolute timeout anew, and says when that was."""
    browser = open_browser(clock, idle_timeout="24h")
    browser.do(first)
    was_anonymous = browser.do(lambda s: s.authenticated_at) is None
    clock.advance(HOUR)
    browser.do(lambda s: (again(s), s.update(mark=1)))
    authenticated = START + HOUR if ends > 24 * HOUR else START
    assert browser.do(lambda s: s.authenticated_at.timestamp()) == authenticated
    assert browser.do(lambda s: s.created.timestamp()) == (clock() if was_anonymous else START)
    header = browser.header()
    clock.now = START + 24 * HOUR - 1
    if ends > 24 * HOUR:
        browser.do(get("mark"))
        header = browser.header()
    clock.now = START + ends - 0.001
    assert browser.call(get("mark"), header=header).result == 1
    clock.now = START + ends
    assert browser.call(get("mark"), header=header).result is None


def test_the_absolute_deadline_of_today(clock: Clock) -> None:
    """Regenerating without tags does not get past a deadline that has become shorter since the login."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    browser.application = wrap(clock, revocations=store_of(browser), absolute_timeout="2h")
    for _ in range(3):
        clock.advance(2399)
        browser.do(lambda s: s.regenerate())
    assert browser.do(who) == "alice"
    clock.now = START + 2 * HOUR
    assert browser.do(who) is None


@pytest.mark.parametrize("versioned", [False, True])
def test_a_login_button_pressed_twice(clock: Clock, versioned: bool) -> None:
    """Two logins in flight from one anonymous session both work; the first has its data; a logout ends what is left.

    1. Both requests load the anonymous session. 2. The first regenerates, and so ends it. 3. The second regenerates.
    """
    browser = visiting(clock, versioned=versioned)
    browser.do(put("cart", [1]))
    first = []

    def second(session: Session) -> None:
        session.get("cart")
        first.append(browser.call(login("alice")))
        login("alice")(session)

    answer = browser.call(second)
    copy = browser.copied()
    copy.receive(first[0])
    assert copy.do(dict) == {"user": "alice", "cart": [1]}
    browser.receive(first[0])
    browser.receive(answer)
    assert browser.do(dict) == {"user": "alice"}
    browser.do(logout)
    assert browser.do(who) is None
