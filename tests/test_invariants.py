"""The eight invariants, one section each. tests/test_mutants.py shows for each of them that it can fail.

The tests take no fixtures, so that they can be run again with a mechanism switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from wsgi_rollsession import (
    Ended,
    RollSession,
    Session,
    SessionConflict,
    SessionTooLarge,
    StoreUnavailable,
    generate_key,
)
from wsgi_rollsession import presented as presented_module
from wsgi_rollsession.cookies import LONGEST_HEADER, PAIRS
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS
from wsgi_rollsession.revocation.memory import MemoryRevocations

from .browser import (
    KEY,
    Answer,
    Browser,
    Clock,
    Handler,
    announce,
    answering,
    call,
    dispatch,
    farewell,
    get,
    login,
    logout,
    memory,
    put,
    untouched,
    who,
    with_error_page,
    wrap,
)

MINUTE = 60.0
HOUR = 60 * MINUTE


class World:
    """Processes that share a store and a clock, and the browsers in front of them."""

    def __init__(self, application: Any = answering, **options: Any) -> None:
        self.clock = Clock()
        self.wrapped = application
        self.options = {"renew_after": 0, "keys": KEY} | options
        self.store = self.new_store()
        self.clock.advance(10)  # past its genesis
        self.application = self.process()

    def new_store(self) -> MemoryRevocations:
        """An empty store."""
        return memory(self.clock)

    def process(self, **changes: Any) -> RollSession:
        """Another process, perhaps with another configuration. Later ones of the browsers' requests go to it."""
        self.options |= changes
        self.application = wrap(self.clock, self.wrapped, **{"revocations": self.store, **self.options})
        self.lifetime_s = announce(self.store, self.application) / 1000
        return self.application

    def browser(self, user: str | None = None) -> Browser:
        """A browser, perhaps with somebody logged in, whose requests go to the latest process."""
        browser = Browser(lambda *arguments: self.application(*arguments), self.clock)
        if user is not None:
            browser.do(login(user))
        return browser

    def forget_fences(self) -> None:
        """Let the store drop every fence that it need not keep any longer."""
        self.store._local._purged_ms = 0
        self.store._local.purge(int(self.clock() * 1000))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """A store that does not answer."""
        down = mock.Mock(side_effect=StoreUnavailable("down"))
        names = ("lookup", "lookup_now", "fence", "fence_now", "compare_and_raise")
        with mock.patch.multiple(self.store, **dict.fromkeys(names, down)):
            yield


def user(session: Session) -> Any:
    """Who is logged in, None for nobody."""
    return session.get("user") or None


def held(browser: Browser, handler: Callable[[Session], Any] = user) -> Any:
    """What a request would find, without its answer ever arriving."""
    return browser.call(handler, **{"wsgi_rollsession.roll": False}).result


#: Every way to log out, with ``identity_key="user"``.
LOGOUTS: dict[str, Handler] = {
    "invalidate": logout,
    "clear": lambda session: session.clear(),
    "clear and a message": farewell,
    "pop": lambda session: session.pop("user", None),
    "None": put("user", None),
    "an empty text": put("user", ""),
}
#: Every way to go on with another cookie for the same login.
RENEWALS: dict[str, Handler] = {
    "regenerate": lambda session: session.regenerate(),
    "regenerate with tags": lambda session: session.regenerate(tags=["user:alice", "role:admin"]),
    "revoke_others": lambda session: session.revoke_others("user:alice"),
}


# 1. Dead stays dead: after a logout or revocation was confirmed, no cookie ever issued for that session is accepted or
# re-issued, and its data does not live on in another, whatever order responses arrive in.


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_1_nothing_is_accepted_after_a_logout(leave: Handler) -> None:
    """Every cookie that a session ever had is refused after its logout: the first, the last, with and without lease."""
    world = World(identity_key="user")
    browser = world.browser("alice")
    copies = [browser.copied()]
    for step in range(3):
        world.clock.advance(MINUTE)
        browser.do(put("step", step))
        copies.append(browser.copied())
        browser.do(who)
        copies.append(browser.copied())
    browser.do(leave)
    assert held(browser) is None, "still logged in"
    assert [held(copy) for copy in copies] == [None] * 7, "accepted after its logout"


def test_invariant_1_nothing_is_issued_after_a_logout() -> None:
    """A response that was under way during the logout issues nothing, whether it only read or wrote."""
    for r1 in (who, put("note", 1), untouched, *RENEWALS.values()):
        world = World()
        browser = world.browser("alice")

        def handler(session: Session, browser: Browser = browser, r1: Callable[[Session], Any] = r1) -> None:
            session.get("user")
            browser.do(logout)
            r1(session)

        late = browser.call(handler)
        assert late.issued() == {}, "issued after the logout"


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_1_a_logout_where_the_session_is_over_already(leave: Handler) -> None:
    """A logout ends the session although it is past the deadline where it is answered: elsewhere it may not be."""
    world = World(absolute_timeout="2h", identity_key="user")
    browser = world.browser("alice")
    thief = browser.copied()
    world.clock.advance(11 * MINUTE)
    world.process(idle_timeout="10m", absolute_timeout="10m")
    browser.do(leave)
    world.process(idle_timeout="30m", absolute_timeout="2h")
    assert held(thief) is None, "the logout was not recorded"


def test_invariant_1_logged_out_as_long_as_it_could_live() -> None:
    """A logged-out session is refused until the last moment at which it would have been alive, purges included."""
    world = World(idle_timeout="1h", absolute_timeout="24h")
    browser = world.browser("alice")
    thief = browser.copied()
    browser.do(logout)
    world.clock.advance(HOUR - 1)
    world.forget_fences()
    assert held(thief) is None, "the fence was dropped too early"


def test_invariant_1_a_logout_after_an_epoch_is_kept_as_long() -> None:
    """The fence of a login that was raised before, for an epoch, is kept for a whole window from the logout."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    browser.do(lambda session: session.regenerate())
    world.clock.advance(50 * MINUTE)
    browser.do(who)
    thief = browser.copied()
    browser.do(logout)
    world.clock.advance(50 * MINUTE)
    world.forget_fences()
    assert held(thief) is None, "the fence was dropped too early"


def test_invariant_1_long_requests_are_no_way_around_the_fence() -> None:
    """What is emitted long after its check lives no longer for that: it is stamped before the fences are asked."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    lookup_now = world.store.lookup_now
    armed = [True]

    def ask_and_linger(keys: Any) -> Any:
        numbers = lookup_now(keys)
        if armed:
            armed.clear()
            browser.copied().do(logout)
            world.clock.advance(30 * MINUTE)
        return numbers

    thief = browser.copied()
    with mock.patch.object(world.store, "lookup_now", ask_and_linger):
        late = thief.call(who)
    assert late.issued(), "the check came before the logout"
    thief.receive(late)
    world.clock.advance(31 * MINUTE)  # the hour of the fence is over, and its reserves
    world.clock.advance(CLOCK_STEP_MS / 1000 + 10)
    world.forget_fences()
    assert held(thief) is None, "alive again"


@pytest.mark.parametrize("r1", [untouched, who, put("note", 1), *RENEWALS.values()])
def test_invariant_1_a_suspended_process_revives_nothing(r1: Handler) -> None:
    """A process that stands still between stamp and check emits nothing if the session is over by then.

    1. R1 loads the session, and does its thing. 2. It is logged out. 3. R1 is answered an hour later, but for a minute:
    that is stamped, and the process stands still for five minutes. 4. The fence is gone, and so nobody refuses it.
    """
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    thief = browser.copied()

    def handler(session: Session) -> None:
        session.get("user")
        r1(session)
        browser.do(logout)
        world.clock.advance(59 * MINUTE)
        world.store.lookup_now = before(world.store.lookup_now)  # type: ignore[method-assign]
        world.store.compare_and_raise = before(world.store.compare_and_raise)  # type: ignore[method-assign]

    def before(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asking(*arguments: Any) -> Any:
            if world.clock() < stands_still_until:
                world.clock.now = stands_still_until
                world.forget_fences()
            return ask(*arguments)

        return asking

    stands_still_until = world.clock() + 64 * MINUTE
    late = thief.call(handler)
    assert world.clock() == stands_still_until
    thief.take(late)
    assert held(thief) is None, "alive again"


def test_invariant_1_a_process_that_cannot_ask_extends_nothing() -> None:
    """A process that lost the store and does not know of a logout accepts the session, but not past its deadline."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    thief = browser.copied()

    class Unreachable(MemoryRevocations):
        def lookup(self, keys: Any) -> Any:
            raise StoreUnavailable("down")

        lookup_now = lookup

    alone = Unreachable(StoreOptions(lifetime_ms=0, accept_amnesia=True))
    elsewhere = world.application
    browser.do(logout)
    for _ in range(5):
        world.application = wrap(world.clock, revocations=alone, renew_after=0)
        thief.do(who)
        thief.do(put("note", world.clock()))
        world.clock.advance(20 * MINUTE)
    world.application = elsewhere
    world.forget_fences()
    assert held(thief) is None, "the outage extended it past its fence"


def two_logins(world: World) -> Browser:
    """A browser that holds two logins: one was answered late, after a logout that knew nothing of it, and another."""
    browser = world.browser()
    late = browser.call(login("alice"))
    browser.do(logout)
    world.clock.advance(1)
    browser.do(login("bob"))
    browser.receive(late)
    assert len(browser.sessions) == 2
    return browser


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_1_a_logout_ends_every_login_that_was_presented(leave: Handler) -> None:
    """Two logins raced and the browser holds both: the logout ends both, so none is uncovered by it."""
    world = World(identity_key="user")
    browser = two_logins(world)
    thief = browser.copied()
    browser.do(leave)
    assert held(browser) is None
    for name in thief.sessions:
        assert call(world.application, who, f"{name}={thief.jar[name][0]}").result is None, "an older login was left"


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_1_a_logout_ends_any_number_of_logins(leave: Handler) -> None:
    """A logout ends all logins that a header presents, also under one name, and among junk of their shape."""
    world = World(identity_key="user")
    pairs = []
    for number in range(20):
        ((name, value),) = world.browser(f"user{number}").sessions.items()
        pairs += [f"{name}={value}", f"{name}={'A' * len(value)}"]
    call(world.application, leave, "; ".join(pairs))
    assert [call(world.application, who, pair).result for pair in pairs] == [None] * 40, "a login was left"


def test_invariant_1_log_out_everywhere() -> None:
    """Revoking a tag ends all its sessions, in every browser, and a login afterwards works and revives none."""
    world = World()
    first, second, other = world.browser("alice"), world.browser("alice"), world.browser("bob")
    thief = first.copied()
    world.application.revoke("user:alice")
    assert (held(first), held(second), held(other)) == (None, None, "bob"), "the tag's sessions have ended"
    second.do(login("alice"))
    assert held(second) == "alice", "a login right after log out everywhere works"
    assert (held(first), held(thief)) == (None, None), "the login revived an old cookie"


def test_invariant_1_log_out_everywhere_by_identity() -> None:
    """A login by the identity key, and one by ``regenerate`` beside it, can be revoked by the user's tag."""
    world = World(identity_key="user")
    for begin in (put("user", 42), lambda session: (session.regenerate(tags=["tenant:7"]), session.update(user=42))):
        browser = world.browser()
        browser.do(begin)
        assert held(browser) == 42
        world.application.revoke("user:42")
        assert held(browser) is None, "the user's tag does not end it"


def test_invariant_1_log_out_everywhere_after_a_step_back() -> None:
    """A clock that is set back by some seconds hides nobody from "log out everywhere"."""
    world = World()
    browser = world.browser("alice")
    world.clock.advance(1)
    world.clock.step(-30)
    world.application.revoke("user:alice")
    assert held(browser) is None, "missed by the revocation"


@pytest.mark.parametrize("second", ["tenant", "everything"])
def test_invariant_1_one_revocation_after_another(second: str) -> None:
    """A session that began just after its user's revocation is ended by that of another of its tags, and by all."""
    world = World()
    browser = world.browser("alice")
    world.clock.advance(0.1)
    world.application.revoke("user:alice")

    def login_again(session: Session) -> None:
        session.regenerate(tags=["user:alice", "tenant:7"])
        session["user"] = "alice"

    browser.do(login_again)
    assert held(browser) == "alice"
    world.clock.advance(0.5)
    if second == "tenant":
        world.application.revoke("tenant:7")
    else:
        world.application.revoke_everything()
    assert held(browser) is None, "survived the second revocation"


def test_invariant_1_a_revocation_between_login_and_response() -> None:
    """What is revoked after the call of ``regenerate`` is not passed by the login, which begins with the response."""
    world = World()
    browser = world.browser()

    def handler(session: Session) -> None:
        login("alice")(session)
        world.clock.advance(1)
        world.application.revoke("user:alice")
        world.clock.advance(30)

    browser.do(handler)
    assert held(browser) is None, "it has passed what was raised since its call"


def test_invariant_1_a_login_in_an_outage_has_passed_nothing() -> None:
    """A login that could not ask has passed no fence: for it the time of its creation decides."""
    world = World()
    world.application.revoke("user:alice")
    early, late = world.browser(), world.browser()
    with world.outage():
        early.do(login("alice"))
        world.clock.advance(10)
        late.do(login("alice"))
    assert (held(early), held(late)) == (None, "alice"), "passed what it could not ask for"


def test_invariant_1_a_login_in_an_outage_leaves_nobody_behind() -> None:
    """A login that could not end the one before it is refused, although that is over by the clock here."""
    world = World(absolute_timeout="2h")
    browser = world.browser("alice")
    thief = browser.copied()
    world.clock.advance(11 * MINUTE)
    world.process(idle_timeout="10m", absolute_timeout="10m")
    with world.outage():
        try:
            browser.do(login("bob"))
        except StoreUnavailable:
            pass
    assert held(browser) != "bob", "somebody was left behind"
    world.process(idle_timeout="30m", absolute_timeout="2h")
    assert held(thief) == "alice"


def test_invariant_1_a_login_ends_the_session_before_it() -> None:
    """After a login, the session id from before it is worth nothing: nobody who planted it gets in."""
    world = World()
    browser = world.browser()
    browser.do(put("cart", 1))
    planted, before = browser.copied(), held(browser, lambda session: session.id)
    browser.do(login("alice"))
    assert held(browser, get("cart")) == 1
    assert held(browser, lambda session: session.id) != before, "the id from before the login"
    assert held(planted, get("cart")) is None, "the session from before the login"


@pytest.mark.parametrize("renew", RENEWALS.values(), ids=list(RENEWALS))
def test_invariant_1_an_epoch_ends_the_one_before(renew: Handler) -> None:
    """Whoever holds a copy from before a ``regenerate`` holds nothing: a role given up is given up."""
    world = World()
    browser = world.browser("alice")
    copies = [browser.copied()]
    browser.do(put("role", "admin"))
    copies.append(browser.copied())
    browser.do(lambda session: (renew(session), session.pop("role")))
    assert held(browser) == "alice"
    assert [held(copy) for copy in copies] == [None, None], "an earlier epoch was accepted"


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
@pytest.mark.parametrize("renew", RENEWALS.values(), ids=list(RENEWALS))
def test_invariant_1_a_logout_ends_the_epoch_under_way(renew: Handler, leave: Handler) -> None:
    """1. A ``regenerate`` is answered, and under way. 2. A logout that presents the cookies from before. 3. It arrives.

    However the logout is asked for, and although it finds nobody logged in.
    """
    world = World(identity_key="user")
    browser = world.browser("alice")
    thief = browser.copied()
    late = browser.call(renew)
    assert late.issued()
    browser.do(leave)
    thief.take(late)
    browser.receive(late)
    assert (held(browser), held(thief)) == (None, None), "logged in again after the logout"


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_1_a_logout_that_is_overtaken_by_an_epoch(leave: Handler) -> None:
    """1. A logout loads the session. 2. A ``regenerate`` is answered. 3. The logout is. 4. That answer arrives."""
    world = World(identity_key="user")
    browser = world.browser("alice")
    browser.do(put("cart", 1))
    under_way = []

    def handler(session: Session) -> None:
        session.get("user")
        under_way.append(browser.call(RENEWALS["regenerate"]))
        leave(session)

    browser.do(handler)
    assert under_way[0].issued()
    browser.receive(under_way[0])
    assert held(browser) is None, "logged in again after the logout"
    assert held(browser, get("cart")) is None, "its data live on"


def test_invariant_1_reads_leave_a_logout_what_it_needs() -> None:
    """1. A ``regenerate`` is under way. 2. A read with the cookies from before. 3. Logout. 4. It arrives."""
    world = World()
    browser = world.browser("alice")
    late = browser.call(lambda session: session.regenerate())
    for handler in (who, untouched, put("note", 1)):
        browser.do(handler)
    browser.do(logout)
    browser.receive(late)
    assert held(browser) is None, "logged in again after the logout"


#: What ends a session while another request of it is at work.
ENDS: dict[str, Callable[[World, Browser], Any]] = {
    "logout": lambda world, browser: browser.do(logout),
    "clear": lambda world, browser: browser.do(lambda session: session.clear()),
    "login as another": lambda world, browser: browser.do(login("bob")),
    "revoke": lambda world, browser: world.application.revoke("user:alice"),
    "revoke_everything": lambda world, browser: world.application.revoke_everything(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_invariant_1_the_data_do_not_live_on(end: Callable[[World, Browser], Any]) -> None:
    """What a session held that was ended meanwhile is in no session that a response begins, whatever it does."""
    for r1 in (
        put("note", 1),
        lambda session: session.pop("user"),
        put("user", "bob"),
        lambda session: session.regenerate(tags=["user:bob"]),
        *RENEWALS.values(),
    ):
        world = World(identity_key="user")
        browser = world.browser("alice")
        browser.do(put("secret", 1))
        other = browser.copied()

        def handler(
            session: Session,
            world: World = world,
            browser: Browser = browser,
            r1: Callable[[Session], Any] = r1,
        ) -> None:
            session.get("user")
            end(world, browser)
            r1(session)

        other.take(other.call(handler))
        assert held(other, get("secret")) is None, "its data live on"


def test_invariant_1_the_data_of_an_ended_visitor_do_not_live_on() -> None:
    """A login in a session that was invalidated meanwhile begins with what its own request assigned."""
    for begin in (login("alice"), put("user", "alice")):
        world = World(identity_key="user")
        browser = world.browser()
        browser.do(put("secret", 1))
        other = browser.copied()

        def handler(session: Session, browser: Browser = browser, begin: Callable[[Session], Any] = begin) -> None:
            session.get("secret")
            browser.do(logout)
            begin(session)

        other.do(handler)
        assert held(other, dict) == {"user": "alice"}, "its data live on"


def test_invariant_1_another_user_begins_with_nothing() -> None:
    """Who logs in over somebody else gets what his own request assigned, and nothing of the other's."""
    for options, begin in (
        ({}, login("bob")),
        ({"identity_key": "user"}, login("bob")),
        ({"identity_key": "user"}, put("user", "bob")),
    ):
        world = World(**options)
        browser = world.browser("alice")
        browser.do(put("is_admin", True))
        thief = browser.copied()
        browser.do(lambda session, begin=begin: (begin(session), session.update(new=1)))  # type: ignore[misc]
        assert held(browser, dict) == {"user": "bob", "new": 1}, "the other user's data"
        assert held(thief) is None, "the other user's session"


def test_invariant_1_revoke_session_and_everything() -> None:
    """A session can be ended by its id, and all of them at once, from anywhere."""
    world = World()
    alice, bob = world.browser("alice"), world.browser("bob")
    world.application.revoke_session(held(alice, lambda session: session.id))
    assert (held(alice), held(bob)) == (None, "bob")
    world.application.revoke_everything()
    assert held(bob) is None, "everything was revoked"
    bob.do(login("bob"))
    assert held(bob) == "bob"


def test_invariant_1_the_id_ends_every_epoch() -> None:
    """The id that a list of devices has ends the login, whichever of its epochs the device is in by then."""
    world = World()
    browser = world.browser("alice")
    listed = held(browser, lambda session: session.id)
    for renew in RENEWALS.values():
        browser.do(renew)
    assert held(browser) == "alice"
    world.application.revoke_session(listed)
    assert held(browser) is None, "the id is that of an earlier epoch"


# 2. No lost login: a response for one session never changes what the browser holds for a logged-in other one.


#: Everything that a response can be for.
DOINGS: list[Handler] = [who, put("note", 1), *LOGOUTS.values(), *RENEWALS.values(), login("carol")]


@pytest.mark.parametrize("r1", DOINGS)
def test_invariant_2_no_response_touches_another_session(r1: Handler) -> None:
    """Whatever a late response for alice's session sends or deletes, bob's cookies stay as they are."""
    world = World(identity_key="user")
    browser = world.browser("alice")
    late = browser.call(r1)
    browser.do(logout)
    browser.do(login("bob"))
    browser.do(who)
    before = browser.sessions
    browser.receive(late)
    assert {name: browser.sessions.get(name) for name in before} == before, "another session's cookies"


@pytest.mark.parametrize("r1", [who, put("note", 1), *LOGOUTS.values(), *RENEWALS.values()])
def test_invariant_2_no_late_response_hides_a_login(r1: Handler) -> None:
    """After whatever late response for alice's session, bob is still logged in."""
    for switch in (lambda browser: (browser.do(logout), browser.do(login("bob"))), lambda b: b.do(login("bob"))):
        world = World(identity_key="user")
        browser = world.browser("alice")
        late = browser.call(r1)
        world.clock.advance(1)
        switch(browser)
        browser.receive(late)
        browser.do(who)
        assert held(browser) == "bob", "the login was lost"


def test_invariant_2_an_epoch_beside_a_login() -> None:
    """1. A ``regenerate`` of alice is under way. 2. bob logs in, from the same cookies. 3. It arrives."""
    world = World()
    browser = world.browser("alice")
    late = browser.call(lambda session: session.regenerate())
    browser.do(login("bob"))
    browser.receive(late)
    assert held(browser) == "bob", "an answer for a dead epoch lies where the login was"


@pytest.mark.parametrize("leave", LOGOUTS.values(), ids=list(LOGOUTS))
def test_invariant_2_a_logout_beside_a_login(leave: Handler) -> None:
    """1. alice's login is under way. 2. A logout that presents nothing. 3. bob logs in. 4. It arrives: bob's stays."""
    world = World(identity_key="user")
    browser = world.browser()
    late = browser.call(login("alice"))
    browser.do(leave)
    world.clock.advance(1)
    browser.do(login("bob"))
    browser.receive(late)
    assert held(browser) == "bob", "the late login lies where the later one was"


def test_invariant_2_a_slot_that_is_taken() -> None:
    """Whatever the slot cookie says, a login takes no slot in which the request presents something."""
    for slot in ("1", "2", "3", "4", "5", "junk", ""):
        world = World()
        browser = world.browser("alice")
        browser.jar["__Host-session-slot"] = (slot, None, "")
        late = browser.call(put("note", 1))
        browser.do(login("bob"))
        browser.receive(late)
        assert held(browser) == "bob", "the login lies where a late write arrives"


def test_invariant_2_an_anonymous_session_does_not_hide_a_login() -> None:
    """A session that began because a request without cookies stored something does not take a login's place."""
    world = World()
    browser = world.browser()
    browser.do(login("bob"))
    world.clock.advance(5)
    browser.receive(browser.call(put("note", 1), header=""))
    assert held(browser) == "bob", "the login was hidden"
    browser.do(who)
    assert held(browser) == "bob", "the login was ended"


def test_invariant_2_the_later_of_two_logins_wins() -> None:
    """Of two logins in slots of their own the later is the session, in whatever order they arrive."""
    for swap in (False, True):
        world = World()
        browser = world.browser()
        first = browser.call(login("alice"))
        browser.do(logout)
        world.clock.advance(1)
        second = browser.call(login("bob"))
        for answer in (second, first) if swap else (first, second):
            browser.receive(answer)
        assert len(browser.sessions) == 2
        assert held(browser) == "bob", "the earlier login won"
        browser.do(who)
        assert held(browser) == "bob", "the later login was ended"


def test_invariant_2_logins_in_parallel_leave_one() -> None:
    """Of logins that were sent with the same cookies the one that arrives last stays, in every order."""
    for swap in (False, True):
        world = World()
        browser = world.browser()
        browser.do(put("cart", 1))
        answers = [browser.call(login("alice")), browser.call(login("alice"))]
        for answer in reversed(answers) if swap else answers:
            browser.receive(answer)
        assert held(browser) == "alice", "nobody was left"
        browser.do(untouched)
        assert held(browser) == "alice", "nobody was left"


# 3. No stale overwrite: a response that did not write never changes session data; with versions checked, neither does a
# response that wrote from an old version.


def test_invariant_3_only_a_write_sends_the_session() -> None:
    """A response that did not change the session sends a lease at most, and what arrives late undoes no write."""
    world = World()
    browser = world.browser("alice")
    (name,) = browser.sessions
    for r1 in (who, untouched, put("user", "alice"), lambda session: list(session.items())):
        late = browser.call(r1)
        assert list(late.issued()) == [f"{name}-lease"], "only a write sends the session"
        browser.do(put("cart", world.clock()))
        browser.receive(late)
        assert held(browser, get("cart")) == world.clock(), "a read undid a write"
        world.clock.advance(MINUTE)


def test_invariant_3_keys_are_rotated_by_writes_only() -> None:
    """A new key does not make reads send the session again."""
    world = World()
    browser = world.browser("alice")
    (name,) = browser.sessions
    world.process(keys=[generate_key(), KEY])
    assert list(browser.call(who).issued()) == [f"{name}-lease"], "only a write sends the session"


@pytest.mark.parametrize("second", [put("cart", "late"), *RENEWALS.values()])
def test_invariant_3_versioned_refuses_the_second_writer(second: Handler) -> None:
    """With versions checked, the second of two requests that write or renew one version is refused."""
    world = World(versioned=True)
    browser = world.browser("alice")

    def handler(session: Session) -> None:
        session.get("cart")
        browser.do(put("cart", "first"))
        with pytest.raises(SessionConflict):
            second(session)
            session.save()

    late = browser.call(handler)
    browser.receive(late)
    assert held(browser, get("cart")) == "first", "the second writer won"


def test_invariant_3_versioned_refuses_old_copies() -> None:
    """With versions checked, a copy from before a write is not accepted any more: nothing is rolled back by it."""
    world = World(versioned=True)
    browser = world.browser("alice")
    browser.do(put("balance", 10))
    thief = browser.copied()
    browser.do(put("balance", 0))
    assert held(thief, get("balance")) is None, "rolled back"


def test_invariant_3_versioned_old_copies_are_not_kept_alive_by_fresh_leases() -> None:
    """With versions checked, an old copy does not outlive the fence that refuses it, not even with new leases."""
    world = World(versioned=True, idle_timeout="1h")
    browser = world.browser("alice")
    browser.do(put("balance", 10))
    old = browser.copied()
    browser.do(put("balance", 0))
    for _ in range(9):
        world.clock.advance(15 * MINUTE)
        browser.do(who)
        world.forget_fences()
    assert held(browser, get("balance")) == 0
    leases = {name: kept for name, kept in browser.copied().jar.items() if name.endswith("-lease")}
    assert len(leases) == 1
    old.jar |= leases
    assert held(old, get("balance")) is None, "rolled back by an old copy and a fresh lease"


# 4. Deadlines only shrink, counted from the login, whatever is rolled, written, regenerated, restarted, rotated or
# reconfigured; and activity never goes backwards by more than ``renew_after`` and the time a response is on its way.


def test_invariant_4_the_absolute_deadline_stands() -> None:
    """Nothing but a login moves a session's absolute deadline, under whatever keys and absolute timeout."""
    world = World(idle_timeout="1h", absolute_timeout="2h")
    browser = world.browser("alice")
    copies = []
    for step in range(7):
        world.clock.advance(17 * MINUTE)
        if step == 3:
            world.process(absolute_timeout="24h", keys=[generate_key(), KEY])
        browser.do((who, put("step", step), RENEWALS["regenerate"], RENEWALS["revoke_others"])[step % 4])
        copies.append(browser.copied())
    assert held(copies[-1]) == "alice"
    world.clock.advance(MINUTE)
    assert [held(copy) for copy in copies] == [None] * 7, "past its absolute deadline"


def test_invariant_4_a_shorter_absolute_timeout_counts_from_the_login() -> None:
    """A deadline that has become shorter since the login holds for its later epochs, too."""
    world = World(idle_timeout="1h", absolute_timeout="24h")
    browser = world.browser("alice")
    world.process(absolute_timeout="2h")
    for _ in range(3):
        world.clock.advance(39 * MINUTE)
        browser.do(RENEWALS["regenerate"])
    assert held(browser) == "alice"
    world.process(absolute_timeout="24h")
    world.clock.advance(3 * MINUTE)
    assert held(browser.copied()) is None, "past its absolute deadline"


def test_invariant_4_a_login_of_a_shorter_life() -> None:
    """Lifetimes that ``regenerate`` was given shorten those of the configuration, never lengthen them, and stay."""
    world = World(idle_timeout="1h", absolute_timeout="4h")

    def remembered(idle: str, absolute: str) -> Handler:
        def handler(session: Session) -> None:
            login("alice")(session)
            session.regenerate(tags=["user:alice"], idle_timeout=idle, absolute_timeout=absolute)

        return handler

    for idle, absolute, lives, ends in (("10m", "30m", 10, 30), ("10h", "100h", 60, 240)):
        browser = world.browser()
        browser.do(remembered(idle, absolute))
        left = browser.copied()
        begun = world.clock()
        for step in range(2, ends, 8):
            world.clock.now = begun + step * MINUTE
            for each in (who, put("step", step), RENEWALS["regenerate"], RENEWALS["revoke_others"]):
                browser.do(each)
            if step < lives:
                assert held(browser) == "alice"
        assert held(left) is None
        world.clock.now = begun + ends * MINUTE - 1
        assert held(browser) == "alice"
        world.clock.advance(1)
        assert held(browser.copied()) is None, "past the deadline it was given"
        browser.do(remembered(idle, absolute))
        idling = browser.copied()
        world.clock.advance(lives * MINUTE - 1)
        assert held(idling) == "alice"
        world.clock.advance(1)
        assert held(idling) is None, "past the idle timeout it was given"


def test_invariant_4_a_login_of_a_longer_life() -> None:
    """Lifetimes that are longer than those of the configuration are the configuration's, also when that gets longer."""
    world = World(idle_timeout="30m", absolute_timeout="1h")
    browser = world.browser()

    def handler(session: Session) -> None:
        login("alice")(session)
        session.regenerate(tags=["user:alice"], idle_timeout="10h", absolute_timeout="100h")

    for begin in (handler, RENEWALS["regenerate"]):
        browser.do(begin)
        world.process(idle_timeout="20h", absolute_timeout="200h")
    thief = browser.copied()
    world.clock.advance(29 * MINUTE)
    browser.do(who)
    assert held(thief) == "alice"
    world.clock.advance(MINUTE)
    assert (held(thief), held(browser)) == (None, "alice"), "longer than it was configured to live"
    world.clock.advance(29 * MINUTE)
    browser.do(who)
    world.clock.advance(MINUTE)
    assert held(browser.copied()) is None, "longer than it was configured to live"


def test_invariant_4_activity_does_not_go_back() -> None:
    """A report takes 40 minutes while its user clicks: its answer arrives last, and carries no older lease."""
    for r1 in (who, put("report", 1)):
        world = World(idle_timeout="1h")
        browser = world.browser("alice")

        def handler(
            session: Session, world: World = world, browser: Browser = browser, r1: Callable[[Session], Any] = r1
        ) -> None:
            session.get("user")
            for _ in range(4):
                world.clock.advance(10 * MINUTE)
                browser.do(who)
            r1(session)

        browser.receive(browser.call(handler))
        world.clock.advance(59 * MINUTE)
        assert held(browser) == "alice", "an active user is out"


def test_invariant_4_a_lease_of_another_epoch_extends_nothing() -> None:
    """A lease from a host whose clock is ahead is worth nothing to a later epoch of the login."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    world.clock.step(50)
    late = browser.call(who)
    world.clock.step(-50)
    for _ in range(2):  # there and back: a pair has two slots
        browser.do(RENEWALS["regenerate"])
    browser.receive(late)
    kept = browser.copied()
    assert set(late.issued()) < set(kept.cookies)
    world.clock.advance(HOUR - 1)
    assert held(kept) == "alice"
    world.clock.advance(1)
    assert held(kept) is None, "extended by another epoch's lease"


def test_invariant_4_max_age_is_what_is_left() -> None:
    """The browser is told to forget cookies no later than the session ends, and never a negative number."""
    world = World(idle_timeout="1h", absolute_timeout="90m")
    browser = world.browser("alice")
    world.clock.advance(59 * MINUTE)
    for handler in (who, put("note", 1)):
        answer = browser.receive(browser.call(handler))
        (age,) = [int(each.partition("Max-Age=")[2].partition(";")[0]) for each in answer.set_cookies]
        assert 0 <= age <= 31 * MINUTE, "longer than the session lives"


def test_invariant_4_the_idle_timeout_is_enforced() -> None:
    """A session that was not seen for the idle timeout is over, and a copy of it cannot be revived."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    thief = browser.copied()
    world.clock.advance(HOUR - 1)
    assert held(thief) == "alice"
    world.clock.advance(1)
    assert held(thief) is None, "past its idle timeout"


def test_invariant_4_a_longer_timeout_does_not_reach_back() -> None:
    """A session that was issued under a short idle timeout keeps it when the configuration gets a longer one."""
    world = World(idle_timeout="10m")
    browser = world.browser("alice")
    thief = browser.copied()
    world.process(idle_timeout="2h")
    world.clock.advance(11 * MINUTE)
    assert held(thief) is None, "past the idle timeout that it was issued under"


def test_invariant_4_a_longer_timeout_revives_nothing() -> None:
    """A session that was logged out under a short timeout stays dead when its fence is gone and the timeout longer."""
    world = World(idle_timeout="10m")
    browser = world.browser("alice")
    thief = browser.copied()
    browser.do(logout)
    world.clock.advance(20 * MINUTE)
    world.forget_fences()
    world.process(idle_timeout="2h")
    assert held(thief) is None, "a configuration change brought it back"


def test_invariant_4_a_shorter_timeout_holds_at_once() -> None:
    """A shorter idle or absolute timeout of today applies to the sessions of yesterday."""
    for change in ({"idle_timeout": "10m"}, {"idle_timeout": "10m", "absolute_timeout": "10m"}):
        world = World()
        browser = world.browser("alice")
        thieves = [browser.copied()]
        browser.do(who)
        thieves.append(browser.copied())  # with a lease
        assert len(thieves[1].jar) > len(thieves[0].jar)
        world.clock.advance(11 * MINUTE)
        assert [held(thief) for thief in thieves] == ["alice", "alice"]
        world.process(**change)
        assert [held(thief) for thief in thieves] == [None, None], "past today's timeout"


def test_invariant_4_a_roll_is_as_short_as_the_timeout_it_was_made_under() -> None:
    """A session that was rolled under a short timeout was extended by the short one, though a longer one follows."""
    world = World(idle_timeout="2h")
    browser = world.browser("alice")
    world.clock.advance(5 * MINUTE)
    world.process(idle_timeout="10m")
    browser.do(who)
    thief = browser.copied()
    world.process(idle_timeout="2h")
    world.clock.advance(11 * MINUTE)
    assert held(thief) is None, "past the idle timeout that it was last rolled under"


def test_invariant_4_rolling_off_and_on() -> None:
    """Sessions of a configuration without an idle timeout end at their absolute deadline when rolling is turned on."""
    world = World(rolling=False, absolute_timeout="2h")
    browser = world.browser("alice")
    thief = browser.copied()
    world.process(rolling=True, idle_timeout="1h", absolute_timeout="24h")
    for _ in range(5):
        world.clock.advance(29 * MINUTE)
        thief.do(who)
    assert held(thief) is None, "past its absolute deadline"


# 5. Bounded: the revocation set holds the fences of one lifetime window, and shrinks by itself. A browser holds a
# bounded number of our cookies, whatever races.


def test_invariant_5_the_set_is_bounded() -> None:
    """However long logouts go on, the set holds those of one lifetime, and of the reserves that docs/ name."""
    world = World(idle_timeout="10m")
    window = world.lifetime_s + CLOCK_STEP_MS / 1000
    window += world.lifetime_s / 8  # fences are dropped an eighth of a lifetime at a time
    every = 10.0
    for _ in range(int(5 * window / every)):
        world.browser("alice").do(logout)
        world.clock.advance(every)
        assert world.store.status()["fences"] <= window / every + 1, "more than one lifetime's fences"


def test_invariant_5_visitors_cost_the_set_nothing() -> None:
    """No fence is raised to begin, write, clear or drop an anonymous session, or to choose between two."""
    world = World()
    browser = world.browser()
    browser.do(put("note", 1))
    old = browser.header()
    for handler in (put("note", 2), who, untouched, lambda session: session.clear(), put("note", 3), farewell):
        world.clock.advance(1)
        browser.do(handler)
        browser.receive(browser.call(who, header=f"{old}; {browser.header()}"))
    assert world.store.status()["fences"] == 0, "a fence for what is nobody's"


def test_invariant_5_a_first_visit_gets_one_cookie() -> None:
    """Thirty images of a first visit, each of which stores something, leave one cookie."""
    world = World()
    browser = world.browser()
    for answer in [browser.call(put("seen", number), header="") for number in range(30)]:
        browser.receive(answer)
    assert list(browser.cookies) == ["__Host-session"], "a cookie for each image"


def test_invariant_5_logins_in_parallel_share_a_slot() -> None:
    """Fifteen tabs that log in at once leave one login, and the next request is that of a user."""
    world = World()
    for browser in (world.browser(), world.browser("alice")):
        answers = [browser.call(login("alice")) for _ in range(15)]
        for answer in answers:
            browser.receive(answer)
        assert len(browser.sessions) <= 2, "a slot for each of them"
        assert held(browser) == "alice"


def test_invariant_5_the_jar_is_bounded() -> None:
    """Whatever is answered late, a browser holds an anonymous session, eight slots, their leases, and the last pair."""
    world = World(identity_key="user")
    browser = world.browser()
    late: list[Answer] = []
    for step in range(100):
        late += [browser.call(handler) for handler in (put("n", step), login("alice"), who, RENEWALS["regenerate"])]
        if step % 3 == 0:
            browser.receive(browser.call(logout))
        if step % 5 == 0:
            world.clock.advance(1)
        if step % 2:
            for _ in range(3):
                browser.receive(late.pop(len(late) * 7 // 11))
    for answer in reversed(late):
        browser.receive(answer)
    assert len(browser.sessions) <= 1 + 2 * PAIRS, "more cookies than there are names"
    assert len(browser.cookies) <= 2 * (1 + 2 * PAIRS) + 1, "more cookies than there are names"


def test_invariant_5_what_no_key_opens_is_deleted() -> None:
    """After 18 restarts with new keys, and a login after each, one login is left; a logout deletes also the last."""
    world = World()
    browser = world.browser()
    for _ in range(18):
        world.process(keys=generate_key())
        browser.do(login("alice"))
        browser.do(who)
    assert len(browser.sessions) == 1, "cookies that no key opens are left"
    world.process(keys=generate_key())
    browser.do(logout)
    assert list(browser.cookies) == ["__Host-session-slot"], "cookies that no key opens are left"


# 6. Amnesia is noticed: a store that lost its data is detected; sessions created before the loss are refused unless
# configured otherwise.


def test_invariant_6_a_store_that_lost_its_data_refuses() -> None:
    """Sessions from before the loss are refused, dead or alive, and are told why; those from after it work."""
    world = World()
    dead, alive = world.browser("alice"), world.browser("bob")
    thief = dead.copied()
    dead.do(logout)
    world.clock.advance(MINUTE)
    world.store = world.new_store()
    world.process()
    assert (held(thief), held(alive)) == (None, None), "from before the loss"
    assert held(alive, lambda session: session.ended) is Ended.STORE_LOST, "nobody is told of the loss"
    world.clock.advance(1)
    alive.do(login("bob"))
    assert held(alive) == "bob"


def test_invariant_6_a_revocation_is_no_loss() -> None:
    """Whoever is ended by a revocation of everything, at whatever moment, is not told that the store lost its data."""
    for moment in (0, 0.5, 1, 1.5):
        world = World()
        browser = world.browser("alice")
        world.clock.advance(moment)
        world.application.revoke_everything()
        assert held(browser, lambda session: session.ended) is Ended.REVOKED, "taken for a loss"


# 7. Bad input is boring: any Cookie header yields a session or an empty session, never an exception, within bounded
# time; one log line says why, without secrets.


def test_invariant_7_garbage_is_an_empty_session() -> None:
    """Cookies that are damaged in any way give an empty session, and can be followed by a login."""
    world = World()
    browser = world.browser("alice")
    browser.do(who)
    (name,) = browser.sessions
    lease_name = f"{name}-lease"
    value, lease = browser.cookies[name], browser.cookies[lease_name]
    other_name = "__Host-session-3"
    damaged = [
        "", "=", ";", ";;=;", name, f"{name}=", f"{name}={value[:-1]}", f"{name}={value[:-4]}", f"{name}={value}A",
        f"{name}={'A' * len(value)}", f"{name}={value[:-1]}=", f"{name}={'=' * len(value)}", f"{name}={value[::-1]}",
        f"{name}={'é' * len(value)}", f"{name}={chr(0xff) * len(value)}", f"{name}={value.swapcase()}",
        f"{name}={value[:100]}\0{value[101:]}", f"{name}={'/' * len(value)}", f"{name}={'+' * len(value)}",
        f"{other_name}={value}", f"{lease_name}={value}", f"{name}={lease}", f"{name}-lease={lease}",
        f"{name}b={value}", f"__Host-session={value}", f"{name}0={value}", f"__Host-session-5={value}",
        f"__Host-session-slot={value}", f"__Host-session-slot=9; {name}={lease}",
        f"{name.lower()}={value}", f"x{name}={value}", f"{name} ={value}", f"a={name}={value}", "A" * 100_000,
        f"{name}={'A' * 100_000}", f"{name}=;" * 10_000,
    ]  # fmt: skip
    for header in damaged:
        for handler in (who, untouched, login("bob"), logout):
            try:
                answer = call(world.application, handler, header)
            except Exception as error:
                raise AssertionError(f"{header[:60]!r} raised {error!r}") from error
            assert answer.status == "200 OK", header[:60]
            assert answer.result is None, header[:60]
            assert len(answer.issued()) == (handler not in (who, untouched, logout)), header[:60]
    for header in (
        f"{name}={value}; {lease_name}=garbage",
        f'{name}="{value}"',
        f"\t{name}={value} ;",
        f";{name}={value}",
    ):
        assert call(world.application, who, header).result == "alice", header[-20:]


def test_invariant_7_only_what_authenticates_counts() -> None:
    """Junk of our shape, however much there is, hides no login, and keeps no logout from ending it."""
    world = World()
    browser = world.browser("alice")
    ((name, value),) = browser.sessions.items()
    for count in (8, 64, 300):
        for planted in ("A" * 176, "A" * len(value), value[:-4] + "AAAA", "x", ""):
            names = [name, "__Host-session", *(f"__Host-session-{pair}{half}" for pair in "1234" for half in ("", "b"))]
            junk = [f"{names[number % len(names)]}={planted}" for number in range(count)]
            for header in ("; ".join([*junk, browser.header()]), "; ".join([browser.header(), *junk])):
                header = header[-LONGEST_HEADER:] if header.endswith(browser.header()) else header[:LONGEST_HEADER]
                assert call(world.application, who, header).result == "alice", "hidden by junk"
    thief = browser.copied()
    call(world.application, logout, "; ".join([*junk, browser.header()]))
    assert held(thief) is None, "kept alive by junk"


def test_invariant_7_the_best_lease_counts() -> None:
    """Junk, and an older lease, beside the lease of a session take nothing from it, in either order."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    world.clock.advance(MINUTE)
    browser.do(who)
    (lease,) = [each for each in browser.header().split("; ") if "-lease=" in each]
    world.clock.advance(50 * MINUTE)
    browser.do(who)
    world.clock.advance(50 * MINUTE)
    name = lease.partition("=")[0]
    for planted in (lease, f"{name}={'A' * 48}", f"{name}=x"):
        for header in (f"{planted}; {browser.header()}", f"{browser.header()}; {planted}"):
            assert call(world.application, who, header).result == "alice", "the lease was hidden"


def test_invariant_7_the_work_for_one_header_is_bounded() -> None:
    """Of a header a bounded part is looked at, junk is not opened, and one question is asked of the store."""
    world = World()
    many = [world.browser("alice") for _ in range(400)]
    header = "; ".join(f"{name}={value}" for browser in many for name, value in browser.sessions.items())
    assert len(header) > LONGEST_HEADER
    junk = f"__Host-session-1={'A' * 200}; " * 100
    opened: list[str] = []
    open_session, asked = presented_module.open_session, mock.Mock(side_effect=world.store.lookup)

    def counting(ring: Any, name: str, value: str) -> Any:
        found = open_session(ring, name, value)
        opened.append(name)
        return found

    with (
        mock.patch.object(presented_module, "open_session", counting),
        mock.patch.object(world.store, "lookup", asked),
    ):
        answer = call(world.application, who, junk + header, **{"wsgi_rollsession.roll": False})
        assert answer.result == "alice"
    assert 0 < len(opened) <= LONGEST_HEADER // len(header.partition("; ")[0]), "opened more than it looks at"
    assert asked.call_count == 1, "asked more than once"


def test_invariant_7_one_line_says_why_without_secrets() -> None:
    """What is refused of a request is one line in the log that says why and has neither its value nor a key."""
    world = World()
    browser = world.browser("alice")
    ((name, value),) = browser.sessions.items()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("wsgi_rollsession")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        for damaged, reason in (
            (value[:-4] + "AAAA", "not authentic"),
            (value[:-4], "wrong length"),
            ("B" + value[1:], "unknown format version"),
            (value[:2] + ("-" if value[2] == "_" else "_") + value[3:], "unknown key"),
        ):
            for times in (1, 64):
                lines.clear()
                assert call(world.application, who, "; ".join([f"{name}={damaged}"] * times)).result is None
                assert len(lines) == 1, "one line"
                assert damaged[20:40] not in lines[0], "without secrets"
                assert KEY[20:40] not in lines[0], "without secrets"
                assert reason in lines[0]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# 8. All or nothing: a response that did not go out has ended and begun nothing, save what the application asked to have
# done at once.


def too_large(session: Session) -> None:
    """Have the session fit into no cookie."""
    session["large"] = "x" * 5000


class Failure(Exception):
    """The application's own."""


def _raise(session: Session) -> None:
    raise Failure


#: What is staged. Each but the last ends something.
STAGED: dict[str, Handler] = {
    "login as another": login("bob"),
    "regenerate": lambda session: session.regenerate(),
    "regenerate with tags": lambda session: session.regenerate(tags=["user:alice", "role:admin"]),
    "clear": lambda session: session.clear(),
    "clear and a message": farewell,
    "another identity": put("user", "bob"),
    "no identity": lambda session: session.pop("user"),
    "a write": put("note", 1),
}


def try_in_vain(world: World, browser: Browser, handler: Handler, failure: Handler) -> Answer | None:
    """A request that does something, and fails. The answer, if there is one."""

    def both(session: Session) -> None:
        session.get("user")
        handler(session)
        failure(session)

    try:
        return browser.receive(browser.call(both))
    except (Failure, SessionTooLarge, StoreUnavailable):
        return None


@pytest.mark.parametrize("handler", STAGED.values(), ids=list(STAGED))
def test_invariant_8_a_request_that_failed_has_done_nothing(handler: Handler) -> None:
    """An application that raises, or whose session does not fit, has ended and begun nothing."""
    for failure in (_raise, too_large):
        world = World(identity_key="user")
        browser = world.browser("alice")
        browser.do(put("cart", [1]))
        copy = browser.copied()
        assert try_in_vain(world, browser, handler, failure) is None
        assert held(copy, dict) == {"user": "alice", "cart": [1]}, "something was ended"
        assert world.store.status()["fences"] == 0, "something was ended"
        assert browser.sessions == copy.sessions, "something has begun"


@pytest.mark.parametrize("handler", STAGED.values(), ids=list(STAGED))
def test_invariant_8_a_login_that_failed_has_done_nothing(handler: Handler) -> None:
    """The same from an anonymous session: the cart is still there."""
    for failure in (_raise, too_large):
        world = World(identity_key="user")
        browser = world.browser()
        browser.do(lambda session: session.update(cart=[1]))
        copy = browser.copied()
        with pytest.raises(KeyError) if handler is STAGED["no identity"] else _nothing():
            assert try_in_vain(world, browser, handler, failure) is None
        assert held(copy, dict) == {"cart": [1]}, "something was ended"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_invariant_8_a_store_that_fails_has_ended_nothing() -> None:
    """A store that dies has ended all that a login or logout ends, or nothing: it is one step."""
    for handler in (login("bob"), logout, farewell, lambda session: session.pop("user"), RENEWALS["regenerate"]):
        world = World(identity_key="user")
        browser = two_logins(world)
        copies = browser.copied()
        each_of_them = [f"{name}={value}" for name, value in copies.sessions.items()]
        raises = mock.Mock(side_effect=[mock.DEFAULT, *[StoreUnavailable("down")] * 9])

        def once(do: Callable[..., Any], raises: mock.Mock = raises) -> Callable[..., Any]:
            def raising(*arguments: Any) -> Any:
                raises()
                return do(*arguments)

            return raising

        names = ("fence", "compare_and_raise")
        with mock.patch.multiple(world.store, **{name: once(getattr(world.store, name)) for name in names}):
            try_in_vain(world, browser, handler, who)
        alive = [call(world.application, who, each).result for each in each_of_them]
        assert alive == [None, None], "a step of several"


@pytest.mark.parametrize("handler", STAGED.values(), ids=list(STAGED))
def test_invariant_8_the_error_page_carries_nothing_that_failed(handler: Handler) -> None:
    """The error page for a response that could not start is sent, and is that of the session as it was before."""
    world = World(with_error_page(SessionTooLarge, "500 Oh"), identity_key="user")
    browser = world.browser("alice")
    answer = try_in_vain(world, browser, handler, too_large)
    assert answer is not None
    (name,) = browser.sessions
    assert (answer.status, list(answer.issued())) == ("500 Oh", [f"{name}-lease"]), "the failed attempt was sent"
    assert held(browser, dict) == {"user": "alice"}, "the failed attempt was sent"


def test_invariant_8_what_was_done_at_once_stays_done() -> None:
    """What ``save``, ``invalidate`` and ``revoke_others`` did is done and sent, though the response failed after it."""
    for handler, found in (
        (lambda session: (session.update(note=1), session.save()), {"user": "alice", "note": 1}),
        (lambda session: (session.regenerate(), session.update(note=1), session.save()), {"user": "alice", "note": 1}),
        (lambda session: session.revoke_others("user:alice"), {"user": "alice"}),
        (lambda session: session.invalidate(), {}),
    ):
        world = World(with_error_page(SessionTooLarge, "500 Oh"), identity_key="user", versioned=True)
        browser = world.browser("alice")
        old = browser.copied()
        answer = try_in_vain(world, browser, handler, too_large)  # type: ignore[arg-type]
        assert answer is not None
        assert answer.status == "500 Oh"
        assert held(browser, dict) == found, "what was done is lost"
        assert held(old) is None, "what was done is lost"


def count(session: Session) -> None:
    """Count one up."""
    session["n"] = session.get("n", 0) + 1


def count_and_fail(session: Session) -> None:
    """Count one up, save that, and fail in what follows."""
    count(session)
    session.save()
    session["n"] = 100
    raise Failure


@pytest.mark.parametrize("first", [count, count_and_fail])
@pytest.mark.parametrize("versioned", [False, True])
def test_invariant_8_a_pass_that_was_discarded(first: Handler, versioned: bool) -> None:
    """What a discarded pass of an environ has done counts for the next one, whose response carries it; no more."""
    world = World(dispatch, versioned=versioned)

    def twice(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Retry middleware outside of the filter."""
        handler = environ["test.handler"]
        environ["test.handler"] = first
        try:
            world.application(environ, lambda *discarded: None)
        except Failure:
            pass
        environ["test.handler"] = handler
        return world.application(environ, start_response)

    browser = world.browser("alice")
    browser.application = twice
    browser.do(count)
    browser.application = world.application
    assert browser.do(dict) == {"user": "alice", "n": 2}, "the discarded pass was forgotten"


def test_invariant_8_a_retry_inside_the_application() -> None:
    """``revert`` goes back to what was loaded, or last saved: what was staged is not done, and a visit counts once."""
    world = World(identity_key="user")
    browser = world.browser("alice")

    def visit(session: Session) -> None:
        session["visits"] = session.get("visits", 0) + 1

    for handler in STAGED.values():
        browser.do(put("visits", 0))

        def retried(session: Session, handler: Handler = handler) -> None:
            visit(session)
            handler(session)
            session.revert()
            visit(session)

        browser.do(retried)
        assert held(browser, dict) == {"user": "alice", "visits": 1}, "the first try counts"
    assert world.store.status()["fences"] == 0
