"""The seven invariants, one section each. tests/test_mutants.py shows for each of them that it can fail.

The tests take no fixtures, so that they can be run again with a mechanism switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from wsgi_rollsession import RollSession, Session, SessionConflict, StoreUnavailable, generate_key
from wsgi_rollsession import presented as presented_module
from wsgi_rollsession.cookies import CANDIDATES
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS
from wsgi_rollsession.revocation.memory import MemoryRevocations

from .browser import KEY, Answer, Browser, Clock, announce, call, get, login, logout, memory, put, untouched, who, wrap

MINUTE = 60.0
HOUR = 60 * MINUTE


class World:
    """Processes that share a store and a clock, and the browsers in front of them."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
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
        self.application = wrap(self.clock, **{"revocations": self.store, **self.options})
        self.lifetime_s = announce(self.store, self.application) / 1000
        return self.application

    def browser(self, user: str | None = None) -> Browser:
        """A browser, perhaps with somebody logged in, whose requests go to the latest process."""
        browser = Browser(lambda *arguments: self.application(*arguments), self.clock)
        if user is not None:
            browser.do(login(user))
        return browser

    def thief(self, *victims: Browser) -> Browser:
        """A browser that has copied the cookies of others, and keeps them whatever it is told."""
        thief = self.browser()
        for victim in victims:
            thief.jar |= {name: (value, None, rest) for name, (value, _, rest) in victim.jar.items()}
        return thief

    def forget_fences(self) -> None:
        """Let the store drop every fence that it need not keep any longer."""
        self.store._local._purged_ms = 0
        self.store._local.purge(int(self.clock() * 1000))


def issues(answer: Answer) -> dict[str, str]:
    """What an answer sets, without what it deletes."""
    return {name: value for name, value in answer.sent().items() if value}


def held(browser: Browser, handler: Callable[[Session], Any] = who) -> Any:
    """What a request would find, without its answer ever arriving."""
    return browser.call(handler, **{"wsgi_rollsession.roll": False}).result


# 1. Dead stays dead: after invalidate() or revoke() returned, no cookie ever issued for that session is accepted or
# re-issued, whatever order responses arrive in.


def test_invariant_1_nothing_is_accepted_after_a_logout() -> None:
    """Every cookie that a session ever had is refused after its logout: the first, the last, with and without lease."""
    world = World()
    browser = world.browser("alice")
    copies = [world.thief(browser)]
    for step in range(3):
        world.clock.advance(MINUTE)
        browser.do(put("step", step))
        copies.append(world.thief(browser))
        browser.do(who)
        copies.append(world.thief(browser))
    browser.do(logout)
    assert [held(copy) for copy in copies] == [None] * 7, "accepted after its logout"


def test_invariant_1_nothing_is_issued_after_a_logout() -> None:
    """A response that was under way during the logout issues nothing, whether it only read or wrote."""
    for r1 in (who, put("note", 1), untouched):
        world = World()
        browser = world.browser("alice")

        def handler(session: Session, browser: Browser = browser, r1: Callable[[Session], Any] = r1) -> None:
            session.get("user")
            browser.do(logout)
            r1(session)

        late = browser.call(handler)
        assert issues(late) == {}, "issued after the logout"


def test_invariant_1_a_logout_where_the_session_is_over_already() -> None:
    """A logout ends the session although it is past the deadline where it is answered: elsewhere it may not be."""
    world = World(absolute_timeout="2h")
    browser = world.browser("alice")
    thief = world.thief(browser)
    world.clock.advance(11 * MINUTE)
    world.process(idle_timeout="10m", absolute_timeout="10m")
    browser.do(logout)
    world.process(idle_timeout="30m", absolute_timeout="2h")
    assert held(thief) is None, "the logout was not recorded"


def test_invariant_1_logged_out_as_long_as_it_could_live() -> None:
    """A logged-out session is refused until the last moment at which it would have been alive, purges included."""
    world = World(idle_timeout="1h", absolute_timeout="24h")
    browser = world.browser("alice")
    thief = world.thief(browser)
    browser.do(logout)
    world.clock.advance(HOUR - 1)
    world.forget_fences()
    assert held(thief) is None, "the fence was dropped too early"


def test_invariant_1_long_requests_are_no_way_around_the_fence() -> None:
    """What is emitted long after its check lives no longer for that: its time is that of the request's arrival."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    lookup_now = world.store.lookup_now
    armed = [True]

    def ask_and_linger(keys: Any) -> Any:
        numbers = lookup_now(keys)
        if armed:
            armed.clear()
            browser.do(logout)
            world.clock.advance(30 * MINUTE)
        return numbers

    thief = world.thief(browser)
    with mock.patch.object(world.store, "lookup_now", ask_and_linger):
        late = thief.call(who)
    assert issues(late), "the check came before the logout"
    thief.receive(late)
    world.clock.advance(31 * MINUTE)  # the hour of the fence is over, and its reserves
    world.clock.advance(CLOCK_STEP_MS / 1000 + 10)
    world.forget_fences()
    assert held(thief) is None, "alive again"


def test_invariant_1_a_process_that_cannot_ask_extends_nothing() -> None:
    """A process that lost the store and does not know of a logout accepts the session, but not past its deadline."""
    world = World(idle_timeout="1h")
    browser = world.browser("alice")
    thief = world.thief(browser)

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


def test_invariant_1_a_logout_ends_every_session_that_was_presented() -> None:
    """Two logins raced and the browser holds both sessions: the logout ends both, so none is uncovered by it."""
    world = World()
    browser = world.browser()
    late = browser.call(login("alice"), header="")
    world.clock.advance(1)
    browser.do(login("bob"))
    browser.receive(late)
    thief = world.thief(browser)
    assert len(thief.jar) == 2
    browser.do(logout)
    assert browser.jar == {}
    assert held(thief) is None, "an older session was uncovered"


def test_invariant_1_a_logout_ends_more_sessions_than_are_examined() -> None:
    """A logout also ends the presented sessions beyond the number that loading examines."""
    world = World()
    browser = world.browser()
    late = [browser.call(login(f"user{number}"), header="") for number in range(CANDIDATES + 4)]
    for answer in late:
        browser.receive(answer)
    thief = world.thief(browser)
    browser.do(logout)
    for name in thief.jar:
        assert call(world.application, who, f"{name}={thief.jar[name][0]}").result is None, "an older session was left"


def test_invariant_1_log_out_everywhere() -> None:
    """Revoking a tag ends all its sessions, in every browser, and a login afterwards works and revives none."""
    world = World()
    first, second, other = world.browser("alice"), world.browser("alice"), world.browser("bob")
    thief = world.thief(first)
    world.application.revoke("user:alice")
    assert (held(first), held(second), held(other)) == (None, None, "bob"), "the tag's sessions have ended"
    second.do(login("alice"))
    assert held(second) == "alice", "a login right after log out everywhere works"
    assert (held(first), held(thief)) == (None, None), "the login revived an old cookie"


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


def test_invariant_1_regenerate_ends_the_old_session() -> None:
    """After a login, the session id from before it is worth nothing: nobody who planted it gets in."""
    world = World()
    browser = world.browser()
    browser.do(put("cart", 1))
    planted = world.thief(browser)
    browser.do(login("alice"))
    assert held(browser, get("cart")) == 1
    assert held(planted, get("cart")) is None, "the id from before the login"


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


def test_invariant_1_emptying_is_a_logout() -> None:
    """session.clear(), by which many applications log out, is as final as invalidate()."""
    world = World()
    browser = world.browser("alice")
    thief = world.thief(browser)
    browser.do(lambda session: session.clear())
    assert held(thief) is None, "cleared but not ended"
    assert browser.jar == {}


def test_invariant_1_in_the_single_layout() -> None:
    """The single layout keeps the fence: what was logged out is neither accepted nor issued."""
    world = World(cookie_layout="single")
    browser = world.browser("alice")
    thief = world.thief(browser)

    def handler(session: Session) -> None:
        session["note"] = 1
        browser.do(logout)

    late = browser.call(handler)
    assert issues(late) == {}, "issued after the logout"
    assert held(thief) is None, "accepted after its logout"


# 2. No lost login: a response for one session never changes what the browser holds for another.


def test_invariant_2_no_response_touches_another_session() -> None:
    """Whatever a late response for alice's session sends or deletes, bob's cookies stay as they are."""
    for r1 in (who, put("note", 1), logout, lambda session: session.clear()):
        world = World()
        browser = world.browser("alice")
        late = browser.call(r1)
        browser.do(logout)
        browser.do(login("bob"))
        before = dict(browser.jar)
        browser.receive(late)
        assert {name: browser.jar.get(name) for name in before} == before, "another session's cookies"
        assert held(browser) == "bob", "the login was lost"


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
    """Two logins raced: the later one is the session, in whatever order they arrive."""
    for swap in (False, True):
        world = World()
        browser = world.browser()
        first = browser.call(login("alice"))
        world.clock.advance(1)
        second = browser.call(login("bob"))
        for answer in (second, first) if swap else (first, second):
            browser.receive(answer)
        assert held(browser) == "bob", "the earlier login won"


# 3. No stale overwrite: a response that did not write never changes session data; with strict, neither does a response
# that wrote from an old version.


def test_invariant_3_only_a_write_sends_the_session() -> None:
    """A response that did not change the session sends a lease at most, and what arrives late undoes no write."""
    world = World()
    browser = world.browser("alice")
    (name,) = browser.jar
    for r1 in (who, untouched, put("user", "alice"), lambda session: list(session.items())):
        late = browser.call(r1)
        assert list(issues(late)) == [f"{name}-lease"], "only a write sends the session"
        browser.do(put("cart", world.clock()))
        browser.receive(late)
        assert held(browser, get("cart")) == world.clock(), "a read undid a write"
        world.clock.advance(MINUTE)


def test_invariant_3_keys_are_rotated_by_writes_only() -> None:
    """A new key does not make reads send the session again."""
    world = World()
    browser = world.browser("alice")
    (name,) = browser.jar
    world.process(keys=[generate_key(), KEY])
    assert list(issues(browser.call(who))) == [f"{name}-lease"], "only a write sends the session"


def test_invariant_3_strict_refuses_the_second_writer() -> None:
    """With strict, of two writes from the same version the second is refused, and the first is kept."""
    world = World(strict=True)
    browser = world.browser("alice")

    def handler(session: Session) -> None:
        session["cart"] = "late"
        browser.do(put("cart", "first"))
        with pytest.raises(SessionConflict):
            session.save()

    late = browser.call(handler)
    browser.receive(late)
    assert held(browser, get("cart")) == "first", "the second writer won"


def test_invariant_3_strict_refuses_old_copies() -> None:
    """With strict, a copy from before a write is not accepted any more: nothing is rolled back by it."""
    world = World(strict=True)
    browser = world.browser("alice")
    browser.do(put("balance", 10))
    thief = world.thief(browser)
    browser.do(put("balance", 0))
    assert held(thief, get("balance")) is None, "rolled back"


def test_invariant_3_strict_old_copies_are_not_kept_alive_by_fresh_leases() -> None:
    """With strict, an old copy does not outlive the fence that refuses it, not even with the new copy's leases."""
    world = World(strict=True, idle_timeout="1h")
    browser = world.browser("alice")
    browser.do(put("balance", 10))
    old = world.thief(browser)
    browser.do(put("balance", 0))
    for _ in range(9):
        world.clock.advance(15 * MINUTE)
        browser.do(who)
        world.forget_fences()
    assert held(browser, get("balance")) == 0
    leases = {name: kept for name, kept in world.thief(browser).jar.items() if name.endswith("-lease")}
    assert len(leases) == 1
    old.jar |= leases
    assert held(old, get("balance")) is None, "rolled back by an old copy and a fresh lease"


# 4. Deadlines only shrink: no sequence of rolls, writes, restarts, key rotations or configuration changes extends a
# session past the absolute deadline it was created with, or past idle since its last confirmed activity.


def test_invariant_4_the_absolute_deadline_stands() -> None:
    """Neither rolls nor writes, under whatever keys and absolute timeout, move a session's absolute deadline."""
    world = World(idle_timeout="1h", absolute_timeout="2h")
    browser = world.browser("alice")
    thief = world.thief(browser)
    for step in range(7):
        world.clock.advance(17 * MINUTE)
        if step == 3:
            world.process(absolute_timeout="24h", keys=[generate_key(), KEY])
        browser.do(put("step", step) if step % 2 else who)
        thief.jar |= world.thief(browser).jar
    assert held(thief) == "alice"
    world.clock.advance(MINUTE)
    assert held(thief) is None, "past its absolute deadline"


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
    thief = world.thief(browser)
    world.clock.advance(HOUR - 1)
    assert held(thief) == "alice"
    world.clock.advance(1)
    assert held(thief) is None, "past its idle timeout"


def test_invariant_4_a_longer_timeout_does_not_reach_back() -> None:
    """A session that was issued under a short idle timeout keeps it when the configuration gets a longer one."""
    world = World(idle_timeout="10m")
    browser = world.browser("alice")
    thief = world.thief(browser)
    world.process(idle_timeout="2h")
    world.clock.advance(11 * MINUTE)
    assert held(thief) is None, "past the idle timeout that it was issued under"


def test_invariant_4_a_longer_timeout_revives_nothing() -> None:
    """A session that was logged out under a short timeout stays dead when its fence is gone and the timeout longer."""
    world = World(idle_timeout="10m")
    browser = world.browser("alice")
    thief = world.thief(browser)
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
        thieves = [world.thief(browser)]
        browser.do(who)
        thieves.append(world.thief(browser))  # with a lease
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
    thief = world.thief(browser)
    world.process(idle_timeout="2h")
    world.clock.advance(11 * MINUTE)
    assert held(thief) is None, "past the idle timeout that it was last rolled under"


def test_invariant_4_rolling_off_and_on() -> None:
    """Sessions of a configuration without an idle timeout end at their absolute deadline when rolling is turned on."""
    world = World(rolling=False, absolute_timeout="2h")
    browser = world.browser("alice")
    thief = world.thief(browser)
    world.process(rolling=True, idle_timeout="1h", absolute_timeout="24h")
    for _ in range(5):
        world.clock.advance(29 * MINUTE)
        thief.do(who)
    assert held(thief) is None, "past its absolute deadline"


# 5. Short-lived means bounded: the revocation set holds at most the fences raised within one lifetime window, and
# shrinks by itself.


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


# 6. Amnesia is noticed: a store that lost its data is detected; sessions created before the loss are refused unless
# configured otherwise.


def test_invariant_6_a_store_that_lost_its_data_refuses() -> None:
    """Sessions from before the loss are refused, dead or alive; those from after it work."""
    world = World()
    dead, alive = world.browser("alice"), world.browser("bob")
    thief = world.thief(dead)
    dead.do(logout)
    world.clock.advance(MINUTE)
    world.store = world.new_store()
    world.process()
    assert (held(thief), held(alive)) == (None, None), "from before the loss"
    world.clock.advance(1)
    alive.do(login("bob"))
    assert held(alive) == "bob"


# 7. Bad input is boring: any Cookie header yields a session or an empty session, never an exception, within bounded
# time; one log line says why, without secrets.


def test_invariant_7_garbage_is_an_empty_session() -> None:
    """Cookies that are damaged in any way give an empty session, and can be followed by a login."""
    world = World()
    browser = world.browser("alice")
    browser.do(who)
    name, lease_name = sorted(browser.jar, key=len)
    value, lease = browser.jar[name][0], browser.jar[lease_name][0]
    other = world.browser("bob")
    (other_name,) = other.jar
    damaged = [
        "", "=", ";", ";;=;", name, f"{name}=", f"{name}={value[:-1]}", f"{name}={value[:-4]}", f"{name}={value}A",
        f"{name}={'A' * len(value)}", f"{name}={value[:-1]}=", f"{name}={'=' * len(value)}", f"{name}={value[::-1]}",
        f"{name}={'é' * len(value)}", f"{name}={chr(0xff) * len(value)}", f"{name}={value.swapcase()}",
        f"{name}={value[:100]}\0{value[101:]}", f"{name}={'/' * len(value)}", f"{name}={'+' * len(value)}",
        f"{other_name}={value}", f"{lease_name}={value}", f"{name}={lease}", f"{name}-lease={lease}",
        f"{name.lower()}={value}", f"x{name}={value}", f"{name} ={value}", f"a={name}={value}", "A" * 100_000,
        f"{name}={'A' * 100_000}", f"{name}=;" * 10_000,
    ]  # fmt: skip
    for header in damaged:
        try:
            answer = call(world.application, who, header)
        except Exception as error:
            raise AssertionError(f"{header[:60]!r} raised {error!r}") from error
        assert answer.result is None, header[:60]
        assert issues(answer) == {}, header[:60]
    for header in (
        f"{name}={value}; {lease_name}=garbage",
        f'{name}="{value}"',
        f"\t{name}={value} ;",
        f";{name}={value}",
    ):
        assert call(world.application, who, header).result == "alice", header[-20:]


def test_invariant_7_the_work_for_one_header_is_bounded() -> None:
    """However many sessions a header presents, a bounded number is opened, and one question is asked of the store."""
    world = World()
    browser = world.browser()
    many = [browser.call(login("alice"), header="") for _ in range(300)]
    header = "; ".join(f"{name}={value}" for answer in many for name, value in answer.sent().items())
    opened: list[str] = []
    open_session = presented_module.open_session

    def counting(ring: Any, name: str, value: str) -> Any:
        opened.append(name)
        return open_session(ring, name, value)

    with mock.patch.object(presented_module, "open_session", counting):
        assert call(world.application, who, header).result == "alice"
    assert len(opened) <= CANDIDATES == 8, "opened more than it examines"


def test_invariant_7_one_line_says_why_without_secrets() -> None:
    """A refused cookie is one line in the log that says why and has neither its value nor a key."""
    world = World()
    browser = world.browser("alice")
    ((name, (value, _, _)),) = browser.jar.items()
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
            lines.clear()
            assert call(world.application, who, f"{name}={damaged}").result is None
            assert len(lines) == 1, "one line"
            assert damaged[20:40] not in lines[0], "without secrets"
            assert KEY[20:40] not in lines[0], "without secrets"
            assert reason in lines[0]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
