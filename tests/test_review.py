"""What combinations of operations have shown: identities as JSON has them, ids before the response, passes, errors."""

from __future__ import annotations

import enum
import gc
import weakref
from itertools import product
from typing import Any
from unittest import mock

import pytest

from wsgi_rollsession import Ended, Session, SessionConflict, SessionTooLarge
from wsgi_rollsession.seal import Unsealable, open_lease
from wsgi_rollsession.token import UNASKED

from .browser import (
    Browser,
    Clock,
    Fragile,
    Handler,
    Steps,
    another,
    call,
    filter_of,
    get,
    logged_in,
    login,
    memory,
    open_browser,
    put,
    untouched,
    who,
    with_error_page,
    wrap,
)
from .test_staging import LARGE

KEY = "user"


class User(str, enum.Enum):
    """Users who call themselves otherwise than JSON does."""

    ALICE = "alice"


class Number(int):
    """A number that calls itself otherwise than JSON does."""

    def __str__(self) -> str:
        return "nobody"


@pytest.mark.parametrize(("value", "tag"), [(User.ALICE, "user:alice"), (Number(42), "user:42")])
@pytest.mark.parametrize("saved", [False, True], ids=["", "saved"])
def test_an_identity_is_what_its_cookie_says(clock: Clock, value: Any, tag: str, saved: bool) -> None:
    """A subclass of text or of the integers gives the tag of what the next request reads, so ``revoke`` finds it."""
    browser = open_browser(clock, identity_key=KEY)

    def log_in(session: Session) -> bool:
        session[KEY] = value
        if saved:
            session.save()
        return tag in session.tags

    assert browser.do(log_in)
    assert browser.do(lambda session: f"user:{session[KEY]}") == tag
    browser.application.revoke(tag)  # type: ignore[attr-defined]
    assert browser.do(lambda session: session.ended) is Ended.REVOKED


def about(session: Session) -> Any:
    """What an application writes into its list of devices."""
    return session.id, sorted(session.tags), session.ended


@pytest.mark.parametrize("before", [None, put("cart", 1), put(KEY, "bob")], ids=["nobody", "a visitor", "bob"])
@pytest.mark.parametrize(
    "handler",
    [
        put(KEY, "alice"),
        lambda session: session.regenerate() or session.update(user="alice"),
        lambda session: session.update(user="alice") or session.regenerate(tags=["device:1"]),
        lambda session: session.clear() or session.update(user="alice"),
        lambda session: session.update(user=None, message="bye"),
        lambda session: session.update(user=None, message="bye") or session.regenerate(),
        lambda session: session.update(user=None, message="bye") or session.regenerate(tags=["device:1"]),
    ],
    ids=["in", "regenerate, in", "in, regenerate", "clear, in", "out", "out, regenerate", "out, with tags"],
)
def test_what_a_session_says_before_its_response(clock: Clock, before: Handler | None, handler: Handler) -> None:
    """``id``, ``tags`` and ``ended`` are those of the session that the response carries, whoever logs in or out."""
    browser = open_browser(clock, identity_key=KEY)
    if before is not None:
        browser.do(before)
    steps = Steps(browser)
    steps.do(handler)
    said = about(steps.session)
    browser.receive(steps.answer())
    assert about(steps.session) == said
    found = browser.do(about)
    assert found[:2] == said[:2]
    assert (found[2] is None) is (said[2] is None)


@pytest.mark.parametrize("before", [None, put("cart", 1)], ids=["nobody", "a visitor"])
@pytest.mark.parametrize("saves", [0, 1, 2])
@pytest.mark.parametrize("order", [1, -1])
def test_a_logout_of_nobody_that_regenerates_logs_nobody_in(
    clock: Clock, before: Handler | None, saves: int, order: int
) -> None:
    """``regenerate()`` beside a logout is none of the logins, at the first ``save()`` and at what follows it."""
    browser = open_browser(clock, identity_key=KEY)
    if before is not None:
        browser.do(before)

    def log_out(session: Session) -> Ended | None:
        asks: list[Handler] = [ASKS["out"], ASKS["regenerate"]]
        for ask in asks[::order]:
            ask(session)
        for _ in range(saves):
            session.save()
        return session.ended

    assert browser.do(log_out) is Ended.NEVER
    assert browser.do(lambda session: (session.ended, session.authenticated_at)) == (Ended.NEVER, None)


@pytest.mark.parametrize("before", [None, put("cart", 1)], ids=["nobody", "a visitor"])
def test_a_logout_of_nobody_that_was_saved_is_done(clock: Clock, before: Handler | None) -> None:
    """The response has nothing more to do, and who regenerates afterwards logs in."""
    browser = open_browser(clock, identity_key=KEY)
    if before is not None:
        browser.do(before)
    session = Steps(browser).session
    session.pop(KEY, None)
    assert session.changed
    session.save()
    assert not session.changed
    session.regenerate()
    assert session.ended is None


@pytest.mark.parametrize("tags", [None, ["user:alice"]])
@pytest.mark.parametrize("saved", [False, True], ids=["", "saved"])
def test_a_login_that_is_too_large_has_logged_nobody_out(clock: Clock, tags: list[str] | None, saved: bool) -> None:
    """Cleared, taken out, and begun anew: where that does not fit, nothing has happened, as with any other login."""
    browser = logged_in(clock, identity_key=KEY)
    steps = Steps(browser)

    def log_in(session: Session) -> None:
        session.clear()
        session.pop(KEY, None)
        session.regenerate(tags=tags)
        session["large"] = LARGE
        if saved:
            session.save()

    steps.do(log_in)
    browser.receive(steps.answer())
    assert isinstance(steps.error, SessionTooLarge)
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("value", [{"id": 1}, [42], True, 1.5], ids=str)
@pytest.mark.parametrize("somebody", [False, True], ids=["a visitor", "somebody"])
def test_what_was_stored_before_there_was_an_identity_key(clock: Clock, value: Any, somebody: bool) -> None:
    """What could not be assigned today can be read, written, logged out, and replaced by a login of another."""
    browser = open_browser(clock)
    if somebody:
        browser.do(lambda session: session.regenerate(tags=["user:1"]))
    browser.do(lambda session: session.update({KEY: value, "cart": [1]}))
    browser.application = another(browser, identity_key=KEY)
    ended = None if somebody else Ended.NEVER
    assert browser.do(lambda session: (session[KEY], session.ended, session.changed)) == (value, ended, False)
    browser.do(put("x", 1))
    assert browser.do(get("x")) == 1
    for handler, left in ((lambda session: session.pop(KEY), {"cart": [1], "x": 1}), (put(KEY, 1), {KEY: 1})):
        one, thief = browser.copied(), browser.copied()
        one.do(handler)
        assert one.do(lambda session: session.copy()) == left
        assert thief.do(who) is None
        browser = open_browser(clock)
        browser.do(lambda session: session.update({KEY: value, "cart": [1]}))
        browser.application = another(browser, identity_key=KEY)


def test_who_was_there_before_the_identity_key_can_log_in(clock: Clock) -> None:
    """To assign what an anonymous session holds already is a login: it ends that session, and can be revoked."""
    browser = open_browser(clock)
    browser.do(lambda session: session.update(user=42, cart=1))
    browser.application = another(browser, identity_key=KEY)
    thief = browser.copied()
    browser.do(put("x", 1))
    assert browser.do(lambda session: (session.ended, len(session.tags))) == (Ended.NEVER, 0)
    browser.do(put(KEY, 42))
    assert thief.do(who) is None
    found = browser.do(lambda session: (session.copy(), session.ended, "user:42" in session.tags))
    assert found == ({"user": 42, "cart": 1, "x": 1}, None, True)


def test_a_revocation_before_the_response_of_an_identity(clock: Clock) -> None:
    """1. Alice is stored, ``regenerate()``. 2. Her account is disabled. 3. The response: a conflict."""
    browser = open_browser(clock, revocations=memory(clock), identity_key=KEY)

    def handler(session: Session) -> None:
        session[KEY] = "alice"
        session.regenerate(tags=["device:1"])
        browser.application.revoke("user:alice")  # type: ignore[attr-defined]

    with pytest.raises(SessionConflict, match="revoked before its response"):
        browser.call(handler)
    assert browser.do(who) is None


@pytest.mark.parametrize("before", [put("cart", 1), put(KEY, "alice")], ids=["a visitor", "alice"])
def test_a_login_that_was_revoked_leaves_the_session_as_it_was(clock: Clock, before: Handler) -> None:
    """Bob's account is disabled between his login and its response: the error page goes on with what was there."""
    browser = open_browser(clock, revocations=memory(clock), identity_key=KEY)
    clock.advance(100)
    browser.do(before)
    data = browser.do(lambda session: session.copy())
    steps = Steps(browser)
    steps.do(login("bob"))
    browser.application.revoke("user:bob")  # type: ignore[attr-defined]
    with pytest.raises(SessionConflict, match="revoked before its response"):
        steps.session.save()
    steps.session.revert()
    assert steps.session.check()
    steps.session["message"] = "This account is disabled."
    browser.receive(steps.answer())
    assert browser.do(lambda session: session.copy()) == {**data, "message": "This account is disabled."}


@pytest.mark.parametrize("staged", [put(KEY, "bob"), put("x", 1), login("bob"), put("x", LARGE)])
def test_a_503_carries_nothing_of_what_the_application_did_not_finish(clock: Clock, staged: Handler) -> None:
    """``outage="closed"``: the application raised, so what it had staged is not done, though the store is back."""
    store = Fragile(memory(clock))
    browser = open_browser(clock, revocations=store, outage="closed", identity_key=KEY)
    browser.do(put(KEY, "alice"))
    before = browser.cookies

    def handler(session: Session) -> None:
        session["saved"] = 1
        session.save()
        staged(session)
        store.is_down = True
        try:
            session.check()
        finally:
            store.is_down = False

    assert browser.receive(browser.call(handler)).status.startswith("503")
    assert browser.cookies.keys() == before.keys()
    assert browser.do(lambda session: session.copy()) == {KEY: "alice", "saved": 1}


@pytest.mark.parametrize(
    ("saved", "pair"),
    [(lambda session: session.regenerate(), "1"), (put(KEY, "bob"), "2"), (lambda session: session.pop(KEY), "2")],
    ids=["an epoch", "another login", "a logout with a cart left"],
)
def test_a_503_deletes_what_was_ended_where_what_was_saved_cannot_be_sent(
    clock: Clock, saved: Handler, pair: str
) -> None:
    """1. ``save()`` ends what was there. 2. The store fails for the rest of the request. 3. The 503 says what ended."""
    store = Fragile(memory(clock))
    browser = open_browser(clock, revocations=store, outage="closed", identity_key=KEY)
    browser.do(lambda session: session.update(user="alice", cart=[1]))

    def handler(session: Session) -> None:
        saved(session)
        session.save()
        store.is_down = True
        session.check()

    assert browser.receive(browser.call(handler)).status.startswith("503")
    assert browser.cookies == {"__Host-session-slot": pair}


@pytest.mark.parametrize("last", ["clear", "invalidate", "forget"])
def test_a_pass_deletes_what_an_earlier_pass_would_have_deleted(clock: Clock, last: str) -> None:
    """1. A pass regenerates, and is discarded. 2. The next is back at the first name, and logs out: all is deleted."""
    browser = logged_in(clock, identity_key=KEY)
    sessions = browser.application.sessions  # type: ignore[attr-defined]
    environ: dict[str, Any] = {"HTTP_COOKIE": browser.header()}
    first = sessions.begin(environ)
    first.regenerate()
    sessions.commit(first, "200 OK", [])
    second = sessions.begin(environ)
    second.regenerate()
    second.save()
    getattr(second, last)()
    answer = call(browser.application, untouched, "")
    answer.headers = sessions.commit(second, "200 OK", [])
    browser.receive(answer)
    assert list(browser.cookies) == ["__Host-session-slot"]


@pytest.mark.parametrize("lease", ["A" * 48, "A", "another session's"])
def test_a_lease_that_is_none_leaves_no_cycle(clock: Clock, lease: str) -> None:
    """Nothing of a request with a damaged, or an orphaned, lease waits for the garbage collector."""
    browser, other = logged_in(clock), logged_in(clock)
    clock.advance(600)
    other.do(who)
    lease = other.cookies["__Host-session-1-lease"] if lease == "another session's" else lease
    header = f"{browser.header()}; __Host-session-1-lease={lease}"
    errors = []

    def opening(*arguments: Any) -> Any:
        try:
            return open_lease(*arguments)
        except Unsealable as error:
            errors.append(weakref.ref(error))
            raise

    gc.disable()
    try:
        with mock.patch("wsgi_rollsession.presented.open_lease", opening):
            assert browser.call(who, header=header).result == "alice"
        assert [error() for error in errors] == [None]
    finally:
        gc.enable()


def append(session: Session) -> None:
    """A nested change."""
    session.setdefault("list", []).append(1)


#: What a request can ask for.
ASKS: dict[str, Handler] = {
    "write": put("x", 1),
    "nested": append,
    "regenerate": lambda session: session.regenerate(),
    "alice's tags": lambda session: session.regenerate(tags=["user:alice"]),
    "bob's tags": lambda session: session.regenerate(tags=["user:bob"]),
    "alice": put(KEY, "alice"),
    "bob": put(KEY, "bob"),
    "out": lambda session: session.pop(KEY, None),
    "clear": lambda session: session.clear(),
}
HELD: dict[str, Handler | None] = {
    "nobody": None,
    "a visitor": put("cart", 1),
    "alice": login("alice"),
}


def whole(session: Session) -> Any:
    """All that there is to know of a session, but what differs between two histories."""
    return session.copy(), session.ended, sorted(session.tags), session.version


@pytest.mark.parametrize("identity_key", [None, KEY])
@pytest.mark.parametrize("before", HELD)
@pytest.mark.parametrize("first", ASKS)
def test_every_three_in_one_request(first: str, before: str, identity_key: str | None) -> None:
    """Whatever is asked for, in any order: a ``save()`` more changes nothing, and what does not fit does nothing."""
    for then in product(ASKS, repeat=2):
        asks = [ASKS[each] for each in (first, *then)]
        outcomes = []
        for end in (untouched, lambda session: session.save(), put("large", LARGE)):
            clock = Clock()
            application = wrap(
                clock, with_error_page(SessionTooLarge, "500"), revocations=memory(clock), identity_key=identity_key
            )
            clock.advance(100)
            browser = Browser(application, clock)
            if (begin := HELD[before]) is not None:
                browser.do(begin)
            held, thief = browser.copied().do(whole), browser.copied()

            def handler(session: Session, asks: list[Handler] = asks, end: Handler = end) -> Any:
                for ask in asks:
                    ask(session)
                end(session)
                return session.id, sorted(session.tags), session.ended is None

            answer = browser.receive(browser.call(handler))
            clock.advance(1)
            if end is untouched or answer.status.startswith("200"):
                found = browser.do(lambda session: (session.id, sorted(session.tags), session.ended is None))
                assert answer.result[2] is found[2], (then, "who is logged in was known before")
                assert found[:2] == answer.result[:2] or browser.do(whole)[3] == 0, (then, "and by which id")
                outcomes.append((browser.do(whole), thief.do(whole)))
            else:
                assert browser.do(whole) == held, then
                assert thief.do(whole) == held, then
        assert len(outcomes) == 2
        assert outcomes[0] == outcomes[1], then


def test_a_login_without_an_identity_is_taken_over_by_nobody_else() -> None:
    """A login that has tags, and no identity, may be of anybody: whoever is stored over it gets none of its data."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user")
    browser.do(lambda s: (s.regenerate(tags=["user:alice"]), s.update(secret=1)))
    browser.do(put("user", "bob"))
    assert browser.do(lambda s: s.copy()) == {"user": "bob"}
    other = open_browser(clock, identity_key="user")
    other.do(lambda s: (s.regenerate(tags=["user:bob"]), s.update(cart=1)))
    other.do(put("user", "bob"))
    assert other.do(lambda s: s.copy()) == {"user": "bob", "cart": 1}


def test_clear_and_regenerate_is_no_login_of_nobody() -> None:
    """With an identity key, ``clear()`` and ``regenerate()`` are how some log out."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user")
    browser.do(put("user", "alice"))
    browser.do(lambda s: (s.clear(), s.regenerate()))
    assert browser.do(lambda s: s.ended) is not None


def test_a_switch_that_does_not_fit_loses_nothing() -> None:
    """1. Somebody else is stored, and too much. 2. ``save()`` raises. 3. The user before is stored: all is kept."""
    clock = Clock()
    browser = open_browser(clock, identity_key="user")
    browser.do(lambda s: s.update(user="alice", cart=1))

    def handler(session: Session) -> None:
        session["user"], session["pad"] = "bob", "x" * 5000
        with pytest.raises(SessionTooLarge):
            session.save()
        session["user"] = "alice"
        del session["pad"]

    browser.do(handler)
    assert browser.do(lambda s: s.copy()) == {"user": "alice", "cart": 1}


@pytest.mark.parametrize("value", [{"id": 1}, [42], True, 1.5], ids=str)
def test_who_was_stored_before_there_was_an_identity_key_can_regenerate(clock: Clock, value: Any) -> None:
    """The same login in another epoch, whatever its identity was stored as."""
    browser = open_browser(clock)
    browser.do(lambda session: session.regenerate(tags=["user:1"]))
    browser.do(put(KEY, value))
    before = browser.do(lambda session: session.id)
    browser.application = another(browser, identity_key=KEY)
    browser.do(lambda session: session.regenerate())
    assert browser.do(lambda session: (session.id, session[KEY])) == (before, value)


@pytest.mark.parametrize("why", [Ended.NEVER, Ended.IDLE, Ended.REVOKED])
def test_whoever_clears_the_session_of_nobody_is_told_why_there_is_none(clock: Clock, why: Ended) -> None:
    """Nobody was logged out by it."""
    browser = open_browser(clock, identity_key=KEY)
    if why is not Ended.NEVER:
        browser.do(put(KEY, "alice"))
    if why is Ended.IDLE:
        clock.advance(3600)
    elif why is Ended.REVOKED:
        browser.application.revoke("user:alice")  # type: ignore[attr-defined]
    assert browser.do(lambda session: (session.clear(), session.ended)) == (None, why)


def test_a_login_without_an_identity_is_logged_out_with_its_cart_left(clock: Clock) -> None:
    """Whoever logged in by tags alone is somebody: to take the identity out, which is not there, is their logout."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.regenerate(tags=["user:alice"]) or session.update(cart=1))
    thief = browser.copied()
    browser.do(lambda session: session.pop(KEY, None))
    assert thief.do(dict) == {}
    assert browser.do(lambda session: (session.copy(), session.ended)) == ({"cart": 1}, Ended.NEVER)


def test_other_tags_of_the_same_identity_are_the_same_user(clock: Clock) -> None:
    """With an identity key it says who is who: another device, or role, loses no data."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.regenerate(tags=["device:1"]) or session.update(user="alice", cart=1))
    before = browser.do(lambda session: session.id)
    browser.do(lambda session: session.regenerate(tags=["device:2"]))
    found = browser.do(
        lambda session: (session.id, session["cart"], "device:1" in session.tags, "user:alice" in session.tags)
    )
    assert found == (before, 1, False, True)


def test_a_login_without_an_identity_that_has_died_is_followed_by_nobody(clock: Clock) -> None:
    """Somebody was logged in: whoever is stored then, even if the tags name the same user, meets a conflict."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.regenerate(tags=["user:bob"]))
    request = Steps(browser).look()
    browser.call(lambda session: session.invalidate())
    assert not request.session.check()
    request.do(put(KEY, "bob"))
    browser.receive(request.answer())
    assert isinstance(request.error, SessionConflict)
    assert browser.do(who) is None


def test_a_login_without_tags_and_identity_becomes_whoever_is_stored(clock: Clock) -> None:
    """Nothing says that it was somebody else's."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.regenerate() or session.update(cart=1))
    browser.do(put(KEY, "alice"))
    assert browser.do(dict) == {"cart": 1, KEY: "alice"}


@pytest.mark.parametrize("before", [None, put("cart", 1), login("alice")], ids=["nobody", "a visitor", "alice"])
def test_without_an_identity_key_clear_and_regenerate_is_a_login(clock: Clock, before: Handler | None) -> None:
    """Nothing else could say that it is one."""
    browser = open_browser(clock)
    if before is not None:
        browser.do(before)
    browser.do(lambda session: session.clear() or session.regenerate())
    assert browser.do(lambda session: (session.ended, session.copy())) == (None, {})


@pytest.mark.parametrize("tags", [None, ["user:alice"]])
def test_regenerate_and_clear_is_a_logout(clock: Clock, tags: list[str] | None) -> None:
    """What was asked for before ``clear()`` is cleared with the rest."""
    browser = logged_in(clock)
    browser.do(lambda session: session.regenerate(tags=tags, persistent=False) or session.clear())
    assert browser.do(lambda session: (session.ended, session.copy())) == (Ended.NEVER, {})


def test_who_clears_what_has_died_can_log_in(clock: Clock) -> None:
    """There is nothing left that could live on."""
    browser = logged_in(clock)
    request = Steps(browser).look()
    browser.call(lambda session: session.invalidate())
    assert not request.session.check()
    request.session.clear()
    request.do(login("bob"))
    browser.receive(request.answer())
    assert request.error is None
    assert browser.do(who) == "bob"


def test_whoever_ends_a_visitors_session_logs_nobody_out(clock: Clock) -> None:
    """``ended`` is about logins."""
    browser = open_browser(clock)
    browser.do(put("cart", 1))
    assert browser.do(lambda session: (session.invalidate(), session.ended)) == (None, Ended.NEVER)


def test_the_call_of_regenerate_says_that_time_is_over(clock: Clock) -> None:
    """It raises there, and not only when the response starts."""
    browser = logged_in(clock)
    session = Steps(browser).look().session
    clock.advance(3600)
    with pytest.raises(SessionConflict, match="idle timeout"):
        session.regenerate()
    assert session.ended is Ended.IDLE


@pytest.mark.parametrize("save", [False, True], ids=["", "saved"])
def test_an_identity_that_changes_there_and_back_is_the_same_login(clock: Clock, save: bool) -> None:
    """Compared is what was loaded, or last saved, with what is there by now."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.update(user="alice", cart=1))
    before = browser.do(lambda session: session.id)

    def handler(session: Session) -> None:
        session["x"] = 1
        if save:
            session.save()
        session[KEY] = "bob"
        session[KEY] = "alice"

    browser.do(handler)
    assert browser.do(lambda session: (session.id, session.copy())) == (before, {KEY: "alice", "cart": 1, "x": 1})


def test_every_session_of_a_request_has_an_id_of_its_own(clock: Clock) -> None:
    """A visitor, a login, what is left of it, and another login: each saved."""
    browser = open_browser(clock, identity_key=KEY)

    def handler(session: Session) -> list[str]:
        ids = []
        for handle in (put("cart", 1), put(KEY, "alice"), lambda s: s.pop(KEY), put(KEY, "bob"), put(KEY, "carol")):
            handle(session)
            session.save()
            ids.append(session.id)
        return ids

    ids = browser.do(handler)
    assert len(set(ids)) == 5
    assert browser.do(lambda session: (session.id, session[KEY])) == (ids[-1], "carol")


def test_the_call_of_regenerate_says_that_there_is_no_epoch_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises there: the response would drop it without a word to the user."""
    browser = logged_in(clock)
    monkeypatch.setattr("wsgi_rollsession.token._MOST_EPOCHS", 0)
    session = Steps(browser).session
    with pytest.raises(SessionConflict, match="log in again"):
        session.regenerate()
    assert session.ended is None


def test_somebody_else_who_regenerates_and_goes_takes_nothing_along(clock: Clock) -> None:
    """Until the response, nothing is dropped that the user from before still needs."""
    browser = open_browser(clock, identity_key=KEY)
    browser.do(lambda session: session.update(user="alice", cart=1))

    def handler(session: Session) -> None:
        session[KEY] = "bob"
        session.regenerate()
        session[KEY] = "alice"

    browser.do(handler)
    assert browser.do(dict) == {KEY: "alice", "cart": 1}


def test_without_an_identity_key_somebody_else_sees_nothing_at_once(clock: Clock) -> None:
    """The call says that it is another user: what the application reads after it is not the other's."""
    browser = logged_in(clock)
    assert browser.do(lambda session: session.regenerate(tags=["user:bob"]) or session.copy()) == {}


def test_to_forget_nobody_logs_nobody_out(clock: Clock) -> None:
    """``ended`` says what it said."""
    browser = open_browser(clock)
    assert browser.do(lambda session: (session.forget(), session.ended)) == (None, Ended.NEVER)


def test_what_is_known_to_be_dead_is_not_asked_about(clock: Clock) -> None:
    """``check()`` says so again, also while nobody can be asked, and if the clock is set."""
    store = Fragile(memory(clock))
    browser = open_browser(clock, revocations=store, outage="closed")
    browser.do(login("alice"))
    session = Steps(browser).look().session
    clock.step(-61)
    assert not session.check()
    assert session.ended is Ended.FUTURE
    clock.step(61)
    store.is_down = True
    assert not session.check()


def test_a_login_and_an_epoch_of_one_response_tell_the_slot(clock: Clock) -> None:
    """Each saved: what the login has said of its pair is sent with the epoch."""
    browser = open_browser(clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        session.save()
        session.regenerate()
        session.save()

    browser.do(handler)
    assert set(browser.cookies) == {"__Host-session-1b", "__Host-session-slot"}
    assert browser.cookies["__Host-session-slot"] == "1"


@pytest.mark.parametrize("order", [1, -1])
def test_the_tag_of_the_identity_is_one_of_32(clock: Clock, order: int) -> None:
    """The limit counts it, at the call or when the response starts, and nothing has happened."""
    browser = open_browser(clock, identity_key=KEY)
    for count, fits in ((31, True), (32, False)):
        tags = [f"role:{at}" for at in range(count)]
        asks: list[Handler] = [lambda s, tags=tags: s.regenerate(tags=tags), put(KEY, "alice")]  # type: ignore[misc]

        def handler(session: Session, asks: list[Handler] = asks) -> None:
            for ask in asks[::order]:
                ask(session)

        if fits:
            browser.do(handler)
            assert browser.do(lambda session: len(session.tags)) == 32
            browser.do(lambda session: session.invalidate())
        else:
            with pytest.raises(ValueError, match="at most 32"):
                browser.call(handler)
    assert browser.do(who) is None


@pytest.mark.parametrize("begin", [put("cart", 1), login("alice")], ids=["a visitor", "a login"])
@pytest.mark.parametrize("is_back", [False, True])
def test_what_began_in_an_outage_says_so(clock: Clock, begin: Handler, is_back: bool) -> None:
    """It has passed nothing; of a login, the moment of its call counts, though the store is back at the response."""
    store = Fragile(memory(clock))
    browser = open_browser(clock, revocations=store)
    clock.advance(100)
    store.is_down = True
    request = Steps(browser)
    request.do(begin)
    store.is_down = not (is_back and request.session.ended is None)
    browser.receive(request.answer())
    ((_, found),) = filter_of(browser).sessions._site.open_header(browser.header()).sessions
    assert found.record.flags & UNASKED
    assert set(found.record.passed) == {0}
