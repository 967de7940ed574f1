"""All or nothing: what a response that did not go out has ended and begun, what is done at once, and going back.

The rule: nothing, but for what ``save()``, ``invalidate()`` and ``revoke_others()`` did when they were called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from wsgi_rollsession import (
    Ended,
    RollSessionError,
    Session,
    SessionCommitted,
    SessionTooLarge,
    SessionValueError,
    StoreUnavailable,
)
from wsgi_rollsession.middleware import SESSION

from .browser import (
    START,
    Answer,
    Browser,
    Clock,
    Fragile,
    Handler,
    Steps,
    call,
    get,
    in_turn,
    login,
    logout,
    memory,
    put,
    regenerate,
    untouched,
    who,
    wrap,
)

KEY = "user"
LARGE = "x" * 4096


def save(session: Session) -> None:
    """Do it now."""
    session.save()


#: What is asked for and happens when the response starts.
STAGED: dict[str, Handler] = {
    "a write": put("x", 1),
    "a nested write": lambda session: session.setdefault("list", []).append(1),
    "an epoch": regenerate,
    "authenticated again": lambda session: session.regenerate(tags=["user:alice", "role"]),
    "bob": put(KEY, "bob"),
    "bob, regenerate": in_turn(lambda session: session.regenerate(tags=["user:bob"]), put(KEY, "bob")),
    "a logout": lambda session: session.pop(KEY, None),
    "a logout, with a message": in_turn(lambda session: session.pop(KEY, None), put("message", "bye")),
    "a clear": lambda session: session.clear(),
    "a clear, with a message": in_turn(lambda session: session.clear(), put("message", "bye")),
    "a clear, then bob": in_turn(lambda session: session.clear(), put(KEY, "bob")),
}

#: What the browser holds before.
BEFORE: dict[str, Callable[[Browser], Any]] = {
    "nobody": lambda browser: None,
    "a visitor": lambda browser: browser.do(put("cart", [1])),
    "alice": lambda browser: browser.do(in_turn(put(KEY, "alice"), put("cart", [1]), put("list", []))),
    "alice, and a visitor": lambda browser: visitor_beside_alice(browser),
}


def visitor_beside_alice(browser: Browser) -> None:
    """What is left if a visitor's image is answered after a login."""
    late = browser.call(put("cart", [2]))
    BEFORE["alice"](browser)
    browser.receive(late)


class Scene:
    """A browser, what it holds, and the store that may fail."""

    def __init__(self, before: str, **options: Any) -> None:
        self.clock = Clock()
        self.memory = memory(self.clock)
        self.store = Fragile(self.memory)
        self.application = wrap(self.clock, revocations=self.store, identity_key=KEY, **options)
        self.browser = Browser(self.application, self.clock)
        BEFORE[before](self.browser)
        self.clock.advance(1200)

    def state(self) -> Any:
        """What the browser and whoever copied its cookies have, and how much the store holds."""

        def look(session: Session) -> Any:
            return session.copy(), session.id if session.version else None, session.version, session.tags, session.ended

        return Steps(self.browser).do(look), self.jar(), self.memory.status()["fences"]

    def jar(self) -> dict[str, str]:
        """What the browser holds; without leases, for an error page rolls like any other page."""
        return {name: value for name, (value, _, _) in self.browser.jar.items() if not name.endswith("-lease")}


def fails_itself(scene: Scene, action: Handler) -> None:
    """The application raises before its response starts."""

    def broken(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        action(environ[SESSION])
        raise ZeroDivisionError

    application = wrap(scene.clock, broken, revocations=scene.store, identity_key=KEY)
    with pytest.raises(ZeroDivisionError):
        call(application, untouched, scene.browser.header())


def is_too_large(scene: Scene, action: Handler) -> None:
    """What is to be kept does not fit."""
    steps = Steps(scene.browser)
    steps.do(in_turn(action, put("large", LARGE)))
    scene.browser.receive(steps.answer())
    assert isinstance(steps.error, SessionTooLarge)


def is_too_large_for_save(scene: Scene, action: Handler) -> None:
    """What is to be kept does not fit, and the application asks for it now."""
    steps = Steps(scene.browser)
    steps.do(in_turn(action, put("large", LARGE), save))
    assert isinstance(steps.error, SessionTooLarge)
    # The application gives up: its response never starts


def is_no_json(scene: Scene, action: Handler) -> None:
    """A nested change brought in what JSON cannot carry."""
    steps = Steps(scene.browser)
    steps.do(in_turn(action, put("bad", []), lambda session: session["bad"].append({1})))
    scene.browser.receive(steps.answer())
    assert isinstance(steps.error, SessionValueError)


FAILURES = {
    "the application fails": fails_itself,
    "too large": is_too_large,
    "too large, saved": is_too_large_for_save,
    "no JSON": is_no_json,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("action", STAGED)
def test_what_did_not_go_out_has_done_nothing(action: str, before: str, failure: str) -> None:
    """A response that fails has ended and begun nothing; the browser and every copy go on; and a retry works."""
    scene, other = Scene(before), Scene(before)
    state = scene.state()
    FAILURES[failure](scene, STAGED[action])
    if "alice" not in before and "a logout" in action:
        # Where nobody is found there is nothing to be certain of: the next login takes another pair
        scene.browser.jar.pop("__Host-session-slot", None)
    assert scene.state() == state
    for one in (scene, other):  # and again, without the failure
        one.browser.do(STAGED[action])
    assert scene.browser.do(outcome) == other.browser.do(outcome)
    assert scene.jar().keys() == other.jar().keys()


def outcome(session: Session) -> Any:
    """What two sessions of the same history have in common."""
    return session.copy(), session.version, session.ended, sorted(session.tags)


def assert_alike(scene: Scene, other: Scene) -> None:
    """What both browsers hold says the same."""
    assert scene.browser.do(outcome) == other.browser.do(outcome)
    assert set(scene.browser.cookies) == set(other.browser.cookies)


@pytest.mark.parametrize("versioned", [False, True], ids=["", "versioned"])
@pytest.mark.parametrize("does_it", [False, True], ids=["refused", "done, and not confirmed"])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("action", STAGED)
def test_the_store_fails_at_every_question(action: str, before: str, does_it: bool, versioned: bool) -> None:
    """Whichever question the store does not answer: an answer is as if it had worked, or as if nothing had been asked.

    A question that was acted on and not confirmed may have ended what was there; it has begun nothing.
    """
    for fails_at in range(6):
        scene = Scene(before, versioned=versioned)
        thief = scene.browser.copied()
        state = scene.state()
        steps = Steps(scene.browser).look()
        scene.store.asked.clear()
        scene.store.fails_at, scene.store.does_it = fails_at, does_it
        steps.do(STAGED[action])
        if steps.error is None:
            answer = steps.answer()
            scene.browser.receive(answer)
        asked = len(scene.store.asked)
        scene.store.fails_at = None
        if steps.error is not None:
            assert isinstance(steps.error, StoreUnavailable)
            if "alice" in before or "logout" not in action:
                assert scene.jar() == state[1], "nothing is sent"
            scene.browser.jar.pop("__Host-session-slot", None) if "__Host-session-slot" not in state[1] else None
            if not does_it:
                assert scene.state() == state, (fails_at, scene.store.asked)
            assert thief.do(who) in ("alice" if "alice" in before else None, None)
        elif "bob" in action:
            assert scene.browser.do(who) == "bob"
            assert thief.do(who) is None, "what is confirmed is confirmed"
        elif "logout" in action or "clear" in action:
            assert scene.browser.do(who) is None
            assert thief.do(who) is None
        if asked <= fails_at:
            break
    else:
        raise AssertionError("there are more questions than this test knows")


@pytest.mark.parametrize("outage", ["degrade", "closed", "open"])
@pytest.mark.parametrize("action", ["an epoch", "bob", "bob, regenerate", "a logout", "a clear", "authenticated again"])
def test_an_outage_ends_and_begins_nothing_over_somebody(action: str, outage: str) -> None:
    """While the store is down, whatever ends a login raises, and that login is what it was."""
    scene = Scene("alice", outage=outage)
    state = scene.state()
    steps = Steps(scene.browser).look()
    scene.store.is_down = True
    steps.do(STAGED[action])
    if steps.error is None:
        answer = steps.answer()
        assert all(name.endswith("-lease") for name in answer.sent()), "the error page may extend what was loaded"
    assert isinstance(steps.error, StoreUnavailable)
    scene.store.is_down = False
    assert scene.state() == state


# The error page


DONE: dict[str, tuple[Handler, Callable[[Browser], bool]]] = {
    "a saved write": (in_turn(put("y", 2), save), lambda browser: browser.do(get("y")) == 2),
    "a saved epoch": (in_turn(regenerate, save), lambda browser: "__Host-session-1b" in browser.cookies),
    "a saved switch": (in_turn(put(KEY, "carol"), save), lambda browser: browser.do(who) == "carol"),
    "a saved logout": (in_turn(lambda session: session.pop(KEY), save), lambda browser: browser.do(who) is None),
    "a saved clear": (in_turn(lambda session: session.clear(), save), lambda browser: len(browser.cookies) == 1),
    "invalidate": (logout, lambda browser: len(browser.cookies) == 1),
    "invalidate, twice": (in_turn(logout, logout), lambda browser: len(browser.cookies) == 1),
    "log out others": (
        lambda session: session.revoke_others("user:alice"),
        lambda browser: "__Host-session-1b" in browser.cookies and browser.do(who) == "alice",
    ),
    "forget": (lambda session: session.forget(), lambda browser: len(browser.cookies) == 1),
}


@pytest.mark.parametrize("failure", [LARGE, {1}], ids=["too large", "no JSON"])
@pytest.mark.parametrize("action", ["", *STAGED])
@pytest.mark.parametrize("done", DONE)
def test_an_error_page_sends_what_was_done(done: str, action: str, failure: Any) -> None:
    """What was done at once is sent with the error page, and nothing of what was asked for after it."""
    scene = Scene("alice")
    do, is_done = DONE[done]

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        session = environ[SESSION]
        do(session)
        STAGED.get(action, untouched)(session)
        session["bad"] = []
        session["bad"].append(failure)
        try:
            start_response("200 OK", [])
        except RollSessionError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return [b""]

    browser = scene.browser
    filtered = wrap(scene.clock, application, revocations=scene.store, identity_key=KEY)
    answer = browser.receive(call(filtered, untouched, browser.header()))
    assert answer.status.startswith("500")
    assert is_done(browser)
    seen = browser.do(lambda session: session.copy())
    assert not {"x", "bad", "message"} & seen.keys()
    assert seen.get(KEY) != "bob"


@pytest.mark.parametrize("done", DONE)
def test_a_response_that_starts_twice_sends_the_same(done: str) -> None:
    """An error page after a response that had started carries the same cookies, and decides nothing again."""
    scene = Scene("alice")
    steps = Steps(scene.browser)
    steps.do(DONE[done][0])
    steps.session["z"] = 1
    first, second = steps.answer(), steps.answer()
    assert first.set_cookies
    assert second.set_cookies == first.set_cookies
    with pytest.raises(SessionCommitted):
        steps.session["z"] = 2


@pytest.mark.parametrize("action", STAGED)
@pytest.mark.parametrize("before", BEFORE)
def test_what_was_too_large_can_be_made_smaller(action: str, before: str) -> None:
    """An application that catches the error of ``save()``, and removes what was too large, goes on from there."""
    scene, other = Scene(before), Scene(before)

    def careful(session: Session) -> None:
        STAGED[action](session)
        session["large"] = LARGE
        with pytest.raises(SessionTooLarge):
            session.save()
        del session["large"]

    scene.browser.do(careful)
    other.browser.do(STAGED[action])

    assert_alike(scene, other)


# Going back


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("action", STAGED)
def test_revert(action: str, before: str) -> None:
    """``revert()`` goes back to what was loaded: nothing is asked for any more, and the response says so."""
    scene = Scene(before)
    state = scene.state()
    scene.clock.now -= 1190  # no roll is due
    steps = Steps(scene.browser)
    loaded = steps.do(lambda session: (session.copy(), session.version, session.ended, session.tags, session.expires))
    session_id = steps.session.id
    steps.do(STAGED[action])
    steps.session.revert()
    assert steps.session.changed is False
    assert steps.do(lambda s: (s.copy(), s.version, s.ended, s.tags, s.expires)) == loaded
    assert before == "nobody" or steps.session.id == session_id
    assert steps.answer().set_cookies == []
    assert steps.error is None
    scene.clock.now += 1190
    assert scene.state() == state


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("saved", STAGED)
def test_revert_goes_back_to_what_was_saved(saved: str, before: str) -> None:
    """What ``save()`` did is done: ``revert()`` goes back to it, and the response carries it."""
    scene, other = Scene(before), Scene(before)

    def tries(session: Session) -> None:
        STAGED[saved](session)
        session.save()
        kept = session.copy(), session.version, session.ended
        for action in STAGED.values():
            with suppress(RollSessionError):
                action(session)
            session.revert()
            assert (session.copy(), session.version, session.ended) == kept

    def once(session: Session) -> None:
        STAGED[saved](session)
        session.save()

    scene.browser.do(tries)
    other.browser.do(once)

    assert_alike(scene, other)


@pytest.mark.parametrize("before", BEFORE)
def test_a_retry_inside_the_application_counts_once(before: str) -> None:
    """A transaction that is tried three times counts a visit once, if it goes back before it tries again."""
    scene = Scene(before)

    def visits(session: Session) -> None:
        for _ in range(3):
            session.revert()
            session["visits"] = session.get("visits", 0) + 1
            session.setdefault("log", []).append("visit")

    for at in range(1, 4):
        scene.browser.do(visits)
        assert scene.browser.do(lambda session: (session["visits"], len(session["log"]))) == (at, at)


def test_revert_after_the_end() -> None:
    """``invalidate()`` is done: there is nothing to go back to. ``revert()`` is too late once the headers are sent."""
    scene = Scene("alice")
    steps = Steps(scene.browser)
    steps.do(logout)
    steps.session.revert()
    assert steps.session.copy() == {}
    assert steps.session.ended is Ended.LOGGED_OUT
    scene.browser.receive(steps.answer())
    assert scene.browser.do(who) is None
    with pytest.raises(SessionCommitted):
        steps.session.revert()


# The same request again


class Retry:
    """A middleware outside of the filter that calls it again with the same environ, and sends the last answer."""

    def __init__(self, application: Callable[..., Any], passes: int, commits: bool) -> None:
        self.application, self.passes, self.commits = application, passes, commits

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        for at in range(self.passes):
            environ["test.pass"] = at
            last = at == self.passes - 1
            discard: Callable[..., Any] = lambda status, headers, exc_info=None: lambda data: None  # noqa: E731
            try:
                body = self.application(environ, start_response if last else discard)
            except ZeroDivisionError:
                assert not last
        return body


def passing(*handlers: Handler, commits: bool) -> Callable[..., Any]:
    """An application whose passes do what *handlers* say; all but the last fail, before or after they started."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        at = environ["test.pass"]
        result = handlers[at](environ[SESSION])
        last = at == len(handlers) - 1
        if last:
            environ["test.holder"]["result"] = result
        if last or commits:
            start_response("200 OK", [])
        if not last:
            raise ZeroDivisionError
        return [b"ok"]

    return application


def rerun(scene: Scene, *handlers: Handler, commits: bool) -> Answer:
    """One request of several passes."""
    application = passing(*handlers, commits=commits)
    # The same Sessions, so that it is the same filter
    filtered = scene.application
    inner, filtered._application = filtered._application, application
    try:
        retry = Retry(filtered, len(handlers), commits)
        return scene.browser.receive(call(retry, untouched, scene.browser.header()))
    finally:
        filtered._application = inner


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("commits", [False, True], ids=["fails before", "discarded"])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("action", STAGED)
def test_the_last_pass_of_an_environ_counts(action: str, before: str, commits: bool, passes: int) -> None:
    """A retry middleware outside: the last pass sends cookies, and what it did is what the browser has."""
    scene, other = Scene(before), Scene(before)
    thief = scene.browser.copied()
    rerun(scene, *[STAGED[action]] * passes, commits=commits)
    other.browser.do(STAGED[action])

    def look(session: Session) -> Any:
        return {key: value for key, value in session.items() if key != "list"}, session.ended is None

    assert scene.browser.do(look) == other.browser.do(look)
    if "alice" in before and action not in ("a write", "a nested write"):
        assert thief.do(who) is None, "what was ended is ended"
    if not commits:
        assert scene.browser.do(lambda session: session.version) == other.browser.do(lambda session: session.version)
        assert set(scene.browser.cookies) == set(other.browser.cookies)


@pytest.mark.parametrize("commits", [False, True], ids=["fails before", "discarded"])
@pytest.mark.parametrize("second", ["nothing", "a read", *STAGED, *DONE])
@pytest.mark.parametrize("first", DONE)
def test_what_a_discarded_pass_has_done_is_sent(first: str, second: str, commits: bool) -> None:
    """What a pass did at once stays done: the next starts from there, and sends the cookies of both."""
    scene, other = Scene("alice"), Scene("alice")
    thief = scene.browser.copied()
    handlers: dict[str, Handler] = {"nothing": untouched, "a read": who, **STAGED}
    handlers |= {name: handler for name, (handler, _) in DONE.items()}

    def gently(session: Session) -> None:
        with suppress(KeyError, ValueError, RollSessionError):  # what is not there to be done
            handlers[second](session)

    rerun(scene, DONE[first][0], gently, commits=commits)
    other.browser.do(DONE[first][0])
    other.browser.do(gently)

    def look(session: Session) -> Any:
        return session.copy(), session.ended is None

    assert scene.browser.do(look) == other.browser.do(look), "as two requests"
    if first not in ("forget", "a saved write"):
        assert thief.do(who) is None
    # A request takes one pair of slots, however often it is run: the names may be those of another pair.
    assert len(scene.browser.sessions) == len(other.browser.sessions)


def test_a_pass_that_only_read_leaves_nothing() -> None:
    """A pass that failed after a look, or a change that was never committed, is forgotten."""
    scene = Scene("alice")
    answer = rerun(scene, put("visits", 1), who, commits=False)
    assert answer.result == "alice"
    assert scene.browser.do(get("visits")) is None


def test_what_a_pass_rolled_and_the_next_wrote_is_in_no_cache() -> None:
    """A lease of one pass, and the session of the next: the response is that of a session."""
    scene = Scene("alice")
    answer = rerun(scene, who, put("x", 1), commits=True)
    assert list(answer.sent()) == ["__Host-session-1-lease", "__Host-session-1"]
    assert answer.header("Cache-Control") == "no-store"


def test_an_environ_of_other_sessions_is_another_request() -> None:
    """What another ``Sessions`` has begun and done in an environ is not sent here."""
    scene, other = Scene("alice"), Scene("alice")
    environ: dict[str, Any] = {"HTTP_COOKIE": scene.browser.header()}
    put("x", 1)(session := scene.application.sessions.begin(environ))
    session.save()
    begun = other.application.sessions.begin(environ)
    headers = other.application.sessions.commit(begun, "200 OK", [])
    assert not any(value.startswith("__Host-session-1=") for _, value in headers), "only rolled, by its own clock"


@pytest.mark.parametrize("first", ["a saved write", "a saved switch", "log out others"])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("other", [None, "", "a=b", "another visitor's"])
def test_an_environ_with_other_cookies_is_another_request(first: str, other: str | None, passes: int) -> None:
    """Whoever uses the dict of one browser's request for another's gives away no cookie: that is no second pass."""
    scene = Scene("alice")
    sessions = scene.application.sessions
    visitor = Browser(scene.application, scene.clock)
    visitor.do(put("cart", [2]))
    environ: dict[str, Any] = {"HTTP_COOKIE": scene.browser.header()}
    for _ in range(passes):
        session = sessions.begin(environ)
        with suppress(ValueError):  # carol has not alice's tag
            DONE[first][0](session)
        assert sessions.commit(session, "200 OK", [])
    del environ["HTTP_COOKIE"]
    if other is not None:
        environ["HTTP_COOKIE"] = visitor.header() if other == "another visitor's" else other
    session = sessions.begin(environ)
    assert session.copy() == ({"cart": [2]} if other == "another visitor's" else {})
    assert not [name for name, _ in sessions.commit(session, "200 OK", []) if name == "Set-Cookie"]


def test_a_session_of_another_filter_is_left_alone() -> None:
    """With two filters, the inner one does nothing: the session in the environ is not its own."""
    clock = Clock(START)
    outer = wrap(clock, wrap(clock))
    browser = Browser(outer, clock)
    browser.do(login("alice"))
    assert len(browser.cookies) == 2
    assert browser.do(who) == "alice"
    for at in range(2):
        answer = call(Retry(outer, 2, True), put("visits", at), browser.header())
        browser.receive(answer)
        assert browser.do(get("visits")) == at
