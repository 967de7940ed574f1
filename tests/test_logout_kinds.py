"""Every way in which applications log out, against whatever else is under way; and what a login leaves behind.

The rules: a logout is unconditional, and whoever was logged in never is again by any cookie that was issued. What is
left (a cart) goes on for nobody in particular if the session was alive at that moment. Somebody else who logs in gets
nothing of whoever was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations
from typing import Any

import pytest

from wsgi_rollsession import Ended, Session, SessionConflict

from .browser import (
    Answer,
    Browser,
    Clock,
    Fragile,
    Handler,
    Steps,
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


def replace(session: Session) -> None:
    """What frameworks do that hold a session as a dict and store it whole."""
    kept = session.copy()
    kept.pop(KEY, None)
    session.clear()
    session.update(kept)


def merge(value: Any) -> Handler:
    """``session |= …``, which is a statement."""

    def handler(session: Session) -> None:
        session |= {KEY: value}

    return handler


def each(*handlers: Handler) -> Handler:
    """One after the other. What is not there to be removed, or has died, ends only its own part."""

    def handler(session: Session) -> None:
        for one in handlers:
            with suppress(KeyError, ValueError, SessionConflict):
                one(session)

    return handler


def popitems(session: Session) -> None:
    """Remove everything, key by key."""
    while session:
        session.popitem()


#: Every way to take the identity out, and whether the rest of the session stays.
LEAVING: dict[str, tuple[Handler, bool]] = {
    "pop": (lambda session: session.pop(KEY), True),
    "pop, default": (lambda session: session.pop(KEY, None), True),
    "del": (lambda session: session.__delitem__(KEY), True),
    "None": (put(KEY, None), True),
    "empty text": (put(KEY, ""), True),
    "False": (put(KEY, False), True),
    "empty list": (put(KEY, []), True),
    "empty tuple": (put(KEY, ()), True),
    "empty dict": (put(KEY, {}), True),
    "popitem": (popitems, False),
    "clear": (lambda session: session.clear(), False),
    "clear twice": (each(lambda session: session.clear(), lambda session: session.clear()), False),
    "update": (lambda session: session.update({KEY: None}), True),
    "update by keyword": (lambda session: session.update(user=""), True),
    "|=": (merge(None), True),
    "setdefault after pop": (
        each(lambda session: session.pop(KEY, None), lambda session: session.setdefault(KEY, "")),
        True,
    ),
    "keys of a login, each": (
        each(*(lambda session, key=key: session.pop(key, None) for key in (KEY, "_fresh"))),
        True,
    ),
    "pop, saved": (each(lambda session: session.pop(KEY, None), lambda session: session.save()), True),
    "pop, then a new id": (each(lambda session: session.pop(KEY, None), lambda session: session.regenerate()), True),
    "a new id, then pop": (each(lambda session: session.regenerate(), lambda session: session.pop(KEY, None)), True),
    "changed back and forth": (each(put(KEY, "bob"), lambda session: session.pop(KEY, None)), True),
    "replaced": (replace, True),
    "invalidate": (logout, False),
}
#: With nobody there, it does nothing that could be seen; so it ends nothing that is on its way to the browser.
BLIND = "popitem"
#: What is stored after these is stored in a session of its own, whatever became of the one before.
ANEW = ("clear", "clear twice", "invalidate", "pop, saved", "replaced")
#: Which the application itself stores anew.
COPIED = "replaced"

AFTER = ("nothing", "a message, beside a cart from before")


def as_bob(session: Session) -> None:
    """Another user, by ``regenerate``."""
    session.regenerate(tags=["user:bob"])
    session[KEY] = "bob"


#: What else is under way, with the same cookies.
FLIGHTS: dict[str, Handler] = {
    "untouched": lambda session: None,
    "a read": who,
    "a write": put("seen", 1),
    "a saved write": each(put("seen", 1), lambda session: session.save()),
    "an emptied session": lambda session: session.pop("cart", None),
    "regenerate": lambda session: session.regenerate(),
    "regenerate, saved": each(lambda session: session.regenerate(), lambda session: session.save()),
    "authenticated again": lambda session: session.regenerate(tags=["user:alice", "role"]),
    "log out others": each(lambda session: session.revoke_others("user:alice")),
    "the same user again": lambda session: KEY in session and session.update({KEY: session[KEY]}),
    "bob": put(KEY, "bob"),
    "bob, regenerate": as_bob,
    "another logout": lambda session: session.pop(KEY, None),
}
BOBS = ("bob", "bob, regenerate")


def assigned(session: Session) -> None:
    """Log in by the identity key alone."""
    session[KEY] = "alice"


LOGINS = {"by the identity key": assigned, "by regenerate": login("alice")}


def interleavings(first: int, second: int) -> Iterator[str]:
    """All orders of so many parts of a flight ("f") and of a logout ("l")."""
    for chosen in combinations(range(first + second), second):
        yield "".join("l" if at in chosen else "f" for at in range(first + second))


ORDERS = list(interleavings(3, 2))


def arrive(browser: Browser, *answers: Answer) -> Browser:
    """A browser that holds what *browser* does, and gets *answers*."""
    copy = browser.copied()
    for answer in answers:
        copy.receive(answer)
    return copy


class Case:
    """Alice is logged in. She logs out, and something else is under way, both with the same cookies."""

    def __init__(self, first: Browser, way: str, after: str, flight: str, order: str) -> None:
        self.first = first
        leave, _ = LEAVING[way]
        self.flight, self.logout = Steps(first), Steps(first)
        self.answers: dict[str, Answer] = {}
        self.found = self.was_alive = self.flight_found = False
        parts: dict[str, list[Callable[[], None]]] = {
            "f": [self._look_flight(flight), lambda: self.flight.do(FLIGHTS[flight]), self._answer_flight],
            "l": [self._look, lambda: self._log_out(leave, after)],
        }
        for part in order:
            parts[part].pop(0)()

    def _look_flight(self, flight: str) -> Callable[[], None]:
        def look() -> None:
            if flight != "untouched":
                self.flight_found = self.flight.do(who) == "alice"

        return look

    def _answer_flight(self) -> None:
        self.answers["flight"] = self.flight.answer()

    def _look(self) -> None:
        self.found = self.logout.do(who) == "alice"

    def _log_out(self, leave: Handler, after: str) -> None:
        self.was_alive = Steps(self.first).do(who) == "alice"
        with suppress(KeyError):
            leave(self.logout.session)
        if after != "nothing":
            self.logout.session["message"] = "bye"
        self.answers["logout"] = self.logout.answer()

    def browsers(self) -> dict[str, Browser]:
        """What a browser may hold by now, or a thief."""
        late, early = self.answers["flight"], self.answers["logout"]
        return {
            "the cookies from before": arrive(self.first),
            "the flight's answer alone": arrive(self.first, late),
            "the logout's answer alone": arrive(self.first, early),
            "the logout's answer first": arrive(self.first, early, late),
            "the flight's answer first": arrive(self.first, late, early),
        }


@pytest.mark.parametrize("flight", FLIGHTS)
@pytest.mark.parametrize("way", LEAVING)
@pytest.mark.parametrize(("how", "versioned"), [("by the identity key", False), ("by regenerate", True)])
def test_whoever_logs_out_never_is_again(how: str, versioned: bool, way: str, flight: str) -> None:
    """A logout, however it is made, ends every cookie that was issued or is under way, in every order of events."""
    clock = Clock()
    application = wrap(clock, revocations=memory(clock), identity_key=KEY, versioned=versioned)
    for after in AFTER:
        for order in ORDERS:
            browser = Browser(application, clock)
            browser.do(LOGINS[how])
            if after != "nothing":
                browser.do(put("cart", [1]))
            clock.advance(1200)  # a roll is due
            case = Case(browser, way, after, flight, order)
            told = (after, order, case.found, case.was_alive, str(case.flight.error))
            assert case.logout.error is None, told
            if way == BLIND and not case.found:
                continue
            browsers = case.browsers()
            for name, one in browsers.items():
                seen = one.do(lambda session: session.copy())
                assert seen.get(KEY) != "alice", (name, seen, told)
                if "first" in name and (case.flight_found or flight == "untouched"):
                    check_what_is_left(case, way, after, flight, seen, (name, seen, told))
            for name, one in browsers.items():
                for handler in (lambda session: session.regenerate(), put("x", 1)):
                    one.do(each(handler))
                    assert one.do(who) != "alice", (name, told)


def check_what_is_left(case: Case, way: str, after: str, flight: str, seen: dict[str, Any], told: Any) -> None:
    """Of the cart and the message: after both answers have arrived."""
    if not case.found and "a new id" in way:
        return  # with nobody there, that is a login, of which this test knows no more
    if flight in BOBS:
        if case.flight.error is None:
            assert seen.get(KEY) == "bob", ("a login is not lost by the logout of somebody else", told)
        if seen.get(KEY) == "bob":
            assert seen == {KEY: "bob"}, ("nothing of hers", told)
            return
    if flight in ("another logout", "bob", "bob, regenerate") and case.flight.error is None:
        return  # that leaves an anonymous session, too: of two, one stays
    died_meanwhile = case.found and not case.was_alive
    assert ("message" in seen) == (after != "nothing" and (way in ANEW or not died_meanwhile)), told
    if way != COPIED:
        keeps = after != "nothing" and LEAVING[way][1] and case.found and case.was_alive
        assert ("cart" in seen) == keeps, told


@pytest.mark.parametrize("way", LEAVING)
@pytest.mark.parametrize("save", [False, True], ids=["", "saved"])
def test_what_is_left_begins_a_session_of_nobody(way: str, save: bool) -> None:
    """What stays after a logout is an anonymous session: another id, no tags, no login time, its own name."""
    clock = Clock()
    browser = open_browser(clock, identity_key=KEY)
    browser.do(assigned)
    browser.do(put("cart", [1]))
    before = browser.do(lambda session: session.id)
    leave, keeps = LEAVING[way]

    def leaving(session: Session) -> None:
        leave(session)
        session["message"] = "bye"
        if save:
            session.save()

    browser.do(leaving)
    assert set(browser.cookies) == {"__Host-session", "__Host-session-slot"}
    session = browser.do(lambda session: session)
    assert session.id != before
    assert not session.tags
    assert session.authenticated_at is None
    assert session.ended is Ended.NEVER, "as far as these cookies tell"
    assert session.get("cart") == ([1] if keeps else None)
    assert session["message"] == "bye"


@pytest.mark.parametrize("way", [way for way in LEAVING if way != BLIND])
@pytest.mark.parametrize("beside", ["", "an anonymous session"])
def test_a_logout_where_nobody_was_found(way: str, beside: str) -> None:
    """A logout ends what is on its way to the browser, though all that the request presents is an epoch too old."""
    clock = Clock()
    application = wrap(clock, identity_key=KEY)
    browser = Browser(application, clock)
    if beside:
        browser.do(put("anything", 1))
        anonymous = dict(browser.jar)
    browser.do(assigned)
    if beside:
        browser.jar |= anonymous
    late = browser.call(lambda session: session.regenerate())
    leave, _ = LEAVING[way]
    assert browser.do(who) is None
    browser.do(each(leave))
    assert arrive(browser, late).do(who) != "alice"
    assert not [name for name in browser.cookies if name.startswith("__Host-session-1")]


@pytest.mark.parametrize("way", [way for way in LEAVING if way != BLIND])
@pytest.mark.parametrize("save", [False, True], ids=["", "saved"])
def test_a_logout_in_an_anonymous_session_that_has_died(way: str, save: bool) -> None:
    """A logout ends every login presented even where the session that was found is another one, and dies meanwhile."""
    clock = Clock()
    application = wrap(clock, identity_key=KEY)
    browser = Browser(application, clock)
    browser.do(put("cart", [1]))
    anonymous = dict(browser.jar)
    browser.do(assigned)
    late = browser.call(lambda session: session.regenerate())
    other = Browser(application, clock)
    other.do(put("cart", [2]))
    browser.jar |= {name: kept for name, kept in other.jar.items() if name in anonymous}
    steps = Steps(browser).look()
    assert steps.session["cart"] == [2]
    other.do(logout)
    assert not steps.session.check()
    steps.do(each(LEAVING[way][0]))
    if save:
        steps.do(lambda session: session.save())
    steps.session["message"] = "bye"
    steps.answer()
    assert arrive(browser, late).do(who) != "alice"


def test_a_look_before_a_logout_is_a_limit() -> None:
    """What cannot be seen is not a logout: an application that asks first, and finds nobody, takes nothing out."""
    clock = Clock()
    browser = open_browser(clock, identity_key=KEY)
    browser.do(assigned)
    late = browser.call(lambda session: session.regenerate())

    def careful(session: Session) -> None:
        if KEY in session:
            session.pop(KEY)

    browser.do(careful)
    assert arrive(browser, late).do(who) == "alice"


@pytest.mark.parametrize("value", ["alice", "alice again", 0, 7, -1, "0", " ", "None"])
def test_whoever_is_somebody(value: str | int) -> None:
    """Every text but the empty one and every number is somebody; who can be revoked by it."""
    clock = Clock()
    application = wrap(clock, identity_key=KEY)
    browser = Browser(application, clock)
    browser.do(put(KEY, value))
    assert browser.do(lambda session: session.ended) is None
    assert browser.do(lambda session: f"user:{value}" in session.tags)
    application.revoke(f"user:{value}")
    assert browser.do(lambda session: session.ended) is Ended.REVOKED
    assert browser.do(get(KEY)) is None


@pytest.mark.parametrize("value", [None, "", False, [], {}, ()])
def test_whoever_is_nobody(value: Any) -> None:
    """What stands for nobody in the identity key logs nobody in."""
    clock = Clock()
    browser = open_browser(clock, identity_key=KEY)
    browser.do(put(KEY, value))
    assert browser.do(lambda session: session.ended) is Ended.NEVER
    assert "__Host-session" in browser.cookies
    browser.do(assigned)
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("value", [1.5, True, ["alice"], {"id": 1}, (1,)], ids=repr)
@pytest.mark.parametrize("logged_in", [False, True], ids=["nobody", "somebody"])
def test_whoever_cannot_be_an_identity(value: Any, logged_in: bool) -> None:
    """Any other value of the identity key is refused where it is assigned, and nothing has happened."""
    clock = Clock()
    browser = open_browser(clock, identity_key=KEY)
    if logged_in:
        browser.do(assigned)
    with pytest.raises(TypeError, match="identity"):
        browser.call(put(KEY, value))
    assert browser.do(who) == ("alice" if logged_in else None)


# Somebody else


def by_two_tags(session: Session) -> None:
    session.regenerate(tags=["user:2", "tenant:7"])
    session["user"] = "bob"


#: How somebody else logs in over a session, and whether there is an identity key, and the tags from before.
SWITCHES: dict[str, tuple[Handler, str | None, list[str]]] = {
    "assigned": (put(KEY, "bob"), KEY, ["user:alice"]),
    "updated": (lambda session: session.update(user="bob"), KEY, ["user:alice"]),
    "|=": (merge("bob"), KEY, ["user:alice"]),
    "pop, then assigned": (each(lambda session: session.pop(KEY), put(KEY, "bob")), KEY, ["user:alice"]),
    "there and back and there": (each(put(KEY, "bob"), put(KEY, "alice"), put(KEY, "bob")), KEY, ["user:alice"]),
    "regenerate, then assigned": (each(lambda s: s.regenerate(), put(KEY, "bob")), KEY, ["user:alice"]),
    "assigned, then regenerate": (each(put(KEY, "bob"), lambda s: s.regenerate()), KEY, ["user:alice"]),
    "regenerate with tags, then assigned": (as_bob, KEY, ["user:alice"]),
    "the same tags": (each(lambda s: s.regenerate(tags=["staff"]), put(KEY, "bob")), KEY, ["staff"]),
    "by tags": (as_bob, None, ["user:alice"]),
    "by tags that overlap": (by_two_tags, None, ["user:1", "tenant:7"]),
    "invalidate, then anew": (each(logout, as_bob), None, ["user:alice"]),
    "clear, then anew": (each(lambda session: session.clear(), as_bob), None, ["user:alice"]),
    "clear, then assigned": (each(lambda session: session.clear(), put(KEY, "bob")), KEY, ["user:alice"]),
}


@pytest.mark.parametrize("save", [False, True], ids=["", "saved"])
@pytest.mark.parametrize("how", SWITCHES)
def test_whoever_logs_in_over_somebody_gets_nothing_of_theirs(how: str, save: bool) -> None:
    """Another user begins with what that request assigned; the session from before is ended, in every copy."""
    clock = Clock()
    handler, identity_key, tags = SWITCHES[how]
    application = wrap(clock, identity_key=identity_key)
    browser = Browser(application, clock)

    def begin(session: Session) -> None:
        session.regenerate(tags=tags)
        session.update(user="alice", is_admin=True, cart=[1], nested={"a": [1]})

    browser.do(begin)
    thief = browser.copied()
    before = browser.do(lambda session: session.id)
    late = browser.call(put("is_admin", True))

    def switch(session: Session) -> None:
        session["nested"]["a"].append(2)  # a change, but no assignment
        session.setdefault("is_admin", False)  # nor is this
        handler(session)
        session["theme"] = "dark"
        if save:
            session.save()

    browser.do(switch)
    browser.receive(late)
    assert browser.do(lambda session: session.copy()) == {"user": "bob", "theme": "dark"}
    assert browser.do(lambda session: session.id) != before
    assert thief.do(who) is None
    assert browser.do(lambda session: "user:alice" in session.tags) is False


@pytest.mark.parametrize("value", [42, "42"])
def test_the_same_user_written_otherwise_is_the_same_user(value: Any) -> None:
    """An identity is compared as text: a framework that loads 42 as "42" switches nobody."""
    clock = Clock()
    browser = open_browser(clock, identity_key=KEY)
    browser.do(each(put(KEY, 42), put("cart", [1])))
    before = browser.do(lambda session: session.id)
    browser.do(put(KEY, value))
    assert browser.do(lambda session: (session.id, session["cart"])) == (before, [1])


@pytest.mark.parametrize(
    ("held", "tags"),
    [
        (["user:1"], ["user:1"]),
        (["user:1"], ["user:1", "admin"]),
        (["user:1", "admin"], ["user:1"]),
        ([], ["user:1"]),
        (["user:1"], []),
    ],
)
def test_tags_that_contain_each_other_are_the_same_user(held: list[str], tags: list[str]) -> None:
    """Without an identity key, a role that is gained or given up keeps the login and its data."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(each(lambda session: session.regenerate(tags=held), put("cart", [1])))
    before = browser.do(lambda session: session.id)
    browser.do(lambda session: session.regenerate(tags=tags))
    assert browser.do(lambda session: (session.id, session["cart"])) == (before, [1])
    assert browser.do(lambda session: all(tag in session.tags for tag in tags) and len(session.tags) == len(tags))


# Being empty ends nothing


EMPTYING: dict[str, Handler] = {
    "pop": lambda session: session.pop("message"),
    "pop, default": lambda session: session.pop("message", None),
    "del": lambda session: session.__delitem__("message"),
    "popitem": lambda session: session.popitem(),
    "all popitems": popitems,
    "pop, saved": each(lambda session: session.pop("message"), lambda session: session.save()),
    "pop, twice": each(lambda session: session.pop("message"), lambda session: session.pop("message", None)),
}


@pytest.mark.parametrize("versioned", [False, True], ids=["", "versioned"])
@pytest.mark.parametrize("who_is", ["somebody", "nobody"])
@pytest.mark.parametrize("how", EMPTYING)
def test_an_empty_session_is_a_session(how: str, who_is: str, versioned: bool) -> None:
    """A session whose only message was shown goes on: being empty ends nothing and logs nobody out."""
    clock = Clock()
    browser = open_browser(clock, versioned=versioned)
    if who_is == "somebody":
        browser.do(lambda session: session.regenerate(tags=["user:alice"]))
    browser.do(put("message", "hello"))
    before = browser.do(lambda session: (session.id, session.created, session.ended))
    browser.do(EMPTYING[how])
    assert browser.do(lambda session: session.copy()) == {}
    assert browser.do(lambda session: (session.id, session.created, session.ended)) == before
    clock.advance(3000)
    browser.do(lambda session: None)  # a roll
    clock.advance(3000)
    assert browser.do(lambda session: session.id) == before[0]


@pytest.mark.parametrize("outage", ["degrade", "closed", "open"])
@pytest.mark.parametrize("how", EMPTYING)
def test_the_last_message_of_a_visitor_in_an_outage(how: str, outage: str) -> None:
    """A visitor's last message is shown while the store is down, unless the policy is to serve nobody then."""
    clock = Clock()
    store = Fragile(memory(clock))
    browser = open_browser(clock, revocations=store, outage=outage)
    browser.do(put("message", "hello"))
    store.is_down = True
    answer = browser.call(EMPTYING[how])
    if outage == "closed":
        assert answer.status.startswith("503")
        return
    assert answer.status == "200 OK"
    browser.receive(answer)
    assert browser.do(get("message")) is None


@pytest.mark.parametrize("message", [False, True], ids=["", "and a message"])
def test_a_visitor_whose_session_is_cleared_is_another_visitor(message: bool) -> None:
    """An anonymous session that is cleared is gone from the browser, and no fence is raised for it."""
    clock = Clock()
    store = memory(clock)
    browser = open_browser(clock, revocations=store)
    browser.do(put("cart", [1]))
    before, fences = browser.do(lambda session: session.id), store.status()["fences"]
    thief = browser.copied()

    def clear(session: Session) -> None:
        session.clear()
        if message:
            session["message"] = "bye"

    browser.do(clear)
    assert browser.do(lambda session: session.copy()) == ({"message": "bye"} if message else {})
    assert browser.do(lambda session: session.id) != before
    assert ("__Host-session" in browser.cookies) == message
    assert store.status()["fences"] == fences
    assert thief.do(get("cart")) == [1], "nobody's: not worth a fence"


# A session that is being ended while another request makes it somebody's


ENDINGS: dict[str, Callable[[Browser], Any]] = {
    "invalidate": lambda browser: browser.do(logout),
    "a login elsewhere": lambda browser: browser.do(login("bob")),
    "everything is revoked": lambda browser: browser.application.revoke_everything(),  # type: ignore[attr-defined]
    "time": lambda browser: browser.clock.advance(3601),
}
BEGINNINGS: dict[str, Handler] = {
    "regenerate": lambda session: session.regenerate(),
    "regenerate with tags": lambda session: session.regenerate(tags=["user:alice"]),
    "regenerate, saved": lambda session: session.regenerate() or session.save(),
    "identity": put(KEY, "alice"),
    "identity, saved": lambda session: session.update(user="alice") or session.save(),
}


@pytest.mark.parametrize("at", ["before the call", "before the answer"])
@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_data_of_a_session_that_was_ended_do_not_live_on_in_a_login(ending: str, how: str, at: str) -> None:
    """A visitor's session that dies under a login: the login begins with what its own request assigned."""
    clock = Clock()
    application = wrap(clock, identity_key=KEY)
    browser = Browser(application, clock)
    browser.do(put("cart", [1]))
    elsewhere = browser.copied()
    steps = Steps(browser).look()
    if at == "before the call":
        ENDINGS[ending](elsewhere)
    steps.session["theme"] = "dark"
    steps.do(BEGINNINGS[how])
    is_saved = "saved" in how
    if at == "before the answer" and not is_saved:
        ENDINGS[ending](elsewhere)
    revoked = ending in ("everything is revoked", "time") and at == "before the answer" and how.startswith("regenerate")
    browser.receive(steps.answer())
    seen = browser.do(lambda session: session.copy())
    if at == "before the answer" and is_saved:
        assert seen.get("cart") == [1], "taken over before it was ended"
    elif revoked and not is_saved:
        assert steps.error is not None, "a revocation between the call and the response covers the login"
        assert seen == {}
    else:
        assert steps.error is None
        assert "cart" not in seen
        assert seen["theme"] == "dark"
        assert browser.do(lambda session: session.ended) is None


@pytest.mark.parametrize("at", ["before the call", "before the answer"])
@pytest.mark.parametrize("how", [*BEGINNINGS, "bob", "bob, regenerate"])
@pytest.mark.parametrize("ending", ["invalidate", "everything is revoked", "time", "regenerated elsewhere"])
def test_a_login_that_has_ended_does_not_go_on_in_another(ending: str, how: str, at: str) -> None:
    """A user's session that dies during a request is a conflict for whatever would take it over; nothing is issued.

    ``regenerate()`` is a write: found dead by the response, it is dropped, and the log says so.
    """
    clock = Clock()
    application = wrap(clock, identity_key=KEY)
    browser = Browser(application, clock)
    browser.do(each(login("alice"), put("secret", 1)))
    elsewhere = browser.copied()
    endings = {**ENDINGS, "regenerated elsewhere": lambda one: one.do(lambda session: session.regenerate())}
    steps = Steps(browser).look()
    if at == "before the call":
        endings[ending](elsewhere)
    steps.do({**FLIGHTS, **BEGINNINGS}[how])
    if at == "before the answer":
        if "saved" in how:
            return
        endings[ending](elsewhere)
    browser.receive(steps.answer())
    assert browser.do(lambda session: session.copy()) == {}
    if how not in ("identity", "identity, saved"):  # which change nothing: alice is who she was
        is_dropped = at == "before the answer" and how in ("regenerate", "regenerate with tags")
        assert steps.error is None if is_dropped else isinstance(steps.error, SessionConflict)
        assert browser.do(lambda session: session.ended) is not None


def test_a_request_that_presents_an_epoch_too_old_is_told_why() -> None:
    """A request in flight that presents what another has just regenerated finds nobody, and ``ended`` says why."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(login("alice"))
    late = Steps(browser)
    browser.do(lambda session: session.regenerate())
    assert late.do(who) is None
    assert late.session.ended is Ended.SUPERSEDED
    assert browser.do(who) == "alice"
