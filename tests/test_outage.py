"""What works while the revocation store does not answer, and when it has lost its data. The stores are real.

Redis is killed; SQLite's database gives way to a directory of its name.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wsgi_rollsession import RollSession, Session, StoreUnavailable
from wsgi_rollsession.standing import WITHOUT, Ask, Outage, Without

from .browser import (
    Answer,
    Browser,
    Clock,
    Fragile,
    Steps,
    call,
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
from .servers import RedisServer, running

HOUR = 3600
POLICIES = ["degrade", "closed", "open"]


class RedisOutage:
    """A Redis server of its own for each test."""

    def __init__(self) -> None:
        self.server = RedisServer()
        self.url = self.server.url

    def begin(self, application: RollSession) -> None:
        self.server.kill()

    def end(self, application: RollSession) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


class SQLiteOutage:
    """A database whose file is moved away, and comes back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "revocations.db"
        self.url = f"sqlite:///{self.path}"

    def begin(self, application: RollSession) -> None:
        for suffix in ("", "-journal"):
            if (path := Path(f"{self.path}{suffix}")).exists():
                path.rename(f"{path}.away")
        self.path.mkdir()
        self._notice(application)

    def end(self, application: RollSession) -> None:
        shutil.rmtree(self.path)
        for suffix in ("", "-journal"):
            if (path := Path(f"{self.path}{suffix}.away")).exists():
                path.rename(f"{self.path}{suffix}")
        self._notice(application)

    @staticmethod
    def _notice(application: RollSession) -> None:
        # Until its next look at the files, some milliseconds later, a process rightly goes by what it knows.
        store: Any = application.sessions.revocations
        store._current_until = store._check_at = 0.0

    def stop(self) -> None:
        pass


@pytest.fixture(params=["redis", "sqlite"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store that can be made to fail."""
    with running(RedisOutage() if request.param == "redis" else SQLiteOutage(tmp_path)) as one:
        yield one


@pytest.fixture
def redis_outage() -> Iterator[RedisOutage]:
    """A Redis server that can be made to fail, and has forgotten everything when it comes back."""
    with running(RedisOutage()) as one:
        yield one


class Scene:
    """An application, and browsers from before the outage: alice's, one without a login, and one without cookies."""

    def __init__(self, store: Any, **options: Any) -> None:
        # Amnesia is tested below. Here, a server that comes back without its data does not matter.
        self.clock = Clock(time.time() - 100)
        self.store = store
        self.application = wrap(self.clock, revocations=store.url, **{"amnesia": "accept", **options})
        self.alice, self.visitor, self.stranger = (Browser(self.application, self.clock) for _ in range(3))
        self.alice.do(login("alice"))
        self.visitor.do(put("basket", [1]))
        self.clock.advance(100)

    def fail(self) -> None:
        self.store.begin(self.application)

    def recover(self) -> None:
        self.store.end(self.application)
        time.sleep(1.05)  # the breaker's pause: a failing store is not hammered

    def close(self) -> None:
        self.application.close()


@pytest.fixture(params=POLICIES)
def scene(request: pytest.FixtureRequest, outage: Any) -> Iterator[Scene]:
    """An outage under each of the policies."""
    one = Scene(outage, outage=request.param)
    one.fail()
    yield one
    one.close()


def outcome(browser: Browser, handler: Callable[..., Any]) -> str:
    """How a request went: ``503``, ``error``, or what its response sent, if anything."""
    try:
        answer = browser.call(handler)
    except StoreUnavailable:
        return "error"
    if answer.status.startswith("503"):
        return "503"
    assert answer.status == "200 OK"
    names = {name: value for name, value in answer.sent().items() if not name.endswith("-slot")}
    kinds = {
        ("lease" if name.endswith("-lease") else "session") if value else "deletion" for name, value in names.items()
    }
    return " and ".join(sorted(kinds)) or f"{answer.result}"


def policy(degrade: str, closed: str, open: str) -> dict[str, str]:
    return {"degrade": degrade, "closed": closed, "open": open}


def expect(scene: Scene, found: str, expected: dict[str, str]) -> None:
    assert found == expected[scene.application.sessions.settings.outage.value]


def test_load(scene: Scene) -> None:
    """A session is accepted until its own deadline, except under ``closed``, which answers 503."""
    expect(scene, outcome(scene.alice, lambda s: who(s) == "alice"), policy("True", "503", "lease"))


def test_load_until_its_own_deadline(scene: Scene) -> None:
    """In an outage a session is not accepted past its last confirmed deadline."""
    scene.clock.advance(HOUR - 100)
    expect(scene, outcome(scene.alice, who), policy("None", "None", "None"))


def test_roll(scene: Scene) -> None:
    """A session that cannot be checked is rolled under ``open`` only."""
    expect(scene, outcome(scene.alice, untouched), policy("None", "503", "lease"))


def test_write(scene: Scene) -> None:
    """A session that cannot be checked is written, except under ``closed``."""
    expect(scene, outcome(scene.alice, put("a", 1)), policy("session", "503", "session"))


def test_a_write_extends_nothing(scene: Scene) -> None:
    """A write that nobody could confirm keeps the last confirmed activity, except under ``open``."""
    if scene.application.sessions.settings.outage.value == "closed":
        assert outcome(scene.alice, put("a", 1)) == "503"
        return
    scene.alice.do(put("a", 1))
    assert scene.alice.do(get("a")) == 1
    scene.clock.advance(HOUR - 100)
    expect(scene, outcome(scene.alice, get("a")), policy("None", "503", "lease"))


def test_logout(scene: Scene) -> None:
    """A logout is an error that the application sees, and the session lives on."""
    expect(scene, outcome(scene.alice, logout), policy("error", "503", "error"))
    assert scene.alice.cookies


def test_clearing(scene: Scene) -> None:
    """Clearing a login is a logout, and so an error; clearing an anonymous session needs nobody, nor does emptying."""
    expect(scene, outcome(scene.alice, lambda s: s.clear()), policy("error", "503", "error"))
    expect(scene, outcome(scene.visitor, lambda s: s.clear()), policy("deletion", "503", "deletion"))
    expect(scene, outcome(scene.visitor, lambda s: s.pop("basket")), policy("session", "503", "session"))


def test_to_be_forgotten(scene: Scene) -> None:
    """Who asked to log out can be forgotten by this browser at least; the error stays, and a copy is still accepted."""
    if scene.application.sessions.settings.outage.value == "closed":
        return
    copy = scene.alice.copied()

    def handler(session: Session) -> None:
        try:
            session.invalidate()
        finally:
            session.forget()

    scene.application._application = error_page
    answer = scene.alice.receive(scene.alice.call(handler))
    assert answer.status == "503 Service Unavailable"
    assert list(scene.alice.cookies) == ["__Host-session-slot"]
    assert copy.do(who) == "alice"


def test_revoke(scene: Scene) -> None:
    """Revoking a tag, a session or everything is an error under every policy."""
    for revoke in (
        lambda: scene.application.revoke("user:alice"),
        lambda: scene.application.revoke_session("0" * 32),
        scene.application.revoke_everything,
    ):
        with pytest.raises(StoreUnavailable):
            revoke()


def test_first_login(scene: Scene) -> None:
    """Who has no session yet can log in, except under ``closed``."""
    expect(scene, outcome(scene.stranger, login("carol")), policy("session", "503", "session"))


def test_login_from_an_anonymous_session(scene: Scene) -> None:
    """Who has a session without tags can log in, except under ``closed``."""
    expect(scene, outcome(scene.visitor, login("carol")), policy("deletion and session", "503", "deletion and session"))


def test_login_from_a_tagged_session(scene: Scene) -> None:
    """A session that says who somebody is cannot be left behind: a login over it, or a regenerate, is an error."""
    for handler in (login("carol"), login("alice"), lambda s: s.regenerate()):
        expect(scene, outcome(scene.alice, handler), policy("error", "503", "error"))
    assert scene.alice.cookies


@pytest.mark.parametrize("policy_name", POLICIES)
def test_an_identity_in_an_outage(outage: Any, policy_name: str) -> None:
    """An identity that appears is a first login; one that changes or goes is an error, from ``start_response``."""
    scene = Scene(outage, outage=policy_name, identity_key="user")
    scene.fail()
    closed = policy_name == "closed"
    for handler in (put("user", "bob"), lambda s: s.pop("user"), put("user", None)):
        assert outcome(scene.alice, handler) == ("503" if closed else "error")
    assert outcome(scene.visitor, put("user", "carol")) == ("503" if closed else "deletion and session")
    assert outcome(scene.stranger, put("user", "carol")) == ("503" if closed else "session")
    scene.close()


def test_a_stream_that_asks_again(scene: Scene) -> None:
    """``check`` goes by what is known, except under ``closed``, where it raises."""
    expect(scene, outcome(scene.alice, lambda s: s.check()), policy("True", "503", "lease"))


@pytest.mark.parametrize("age", [0, HOUR])
def test_an_established_session_cannot_be_left_behind(outage: Any, age: float) -> None:
    """A session begun by ``regenerate`` says who somebody is, tags or not, until it is dead for good."""
    for policy_name in ("degrade", "open"):
        scene = Scene(outage, outage=policy_name)
        scene.stranger.do(lambda s: (s.regenerate(), s.update(user="carol")))
        header = scene.stranger.header()
        scene.fail()
        scene.clock.advance(age)
        for handler in (lambda s: s.regenerate(), login("bob")):
            with pytest.raises(StoreUnavailable):
                call(scene.application, handler, header)
        scene.recover()
        if age == 0:
            assert scene.stranger.do(who) == "carol"
        scene.close()


def test_revoke_others(scene: Scene) -> None:
    """Logging out everywhere else is an error, and nothing has changed."""
    expect(scene, outcome(scene.alice, lambda s: s.revoke_others("user:alice")), policy("error", "503", "error"))
    assert scene.alice.cookies


def test_login_after_a_session_has_expired(scene: Scene) -> None:
    """A dead session whose cookie is still there does not keep its owner from logging in."""
    scene.clock.advance(2 * HOUR)
    assert scene.alice.cookies
    expect(scene, outcome(scene.alice, login("alice")), policy("deletion and session", "503", "deletion and session"))


def test_a_session_that_is_over_here_only_cannot_be_left_behind(outage: Any) -> None:
    """A login must end the session before it, although today's shorter timeouts or this host's clock say it is over."""
    scene = Scene(outage, idle_timeout="1h", absolute_timeout="1h")
    header = scene.alice.header()
    shorter = wrap(scene.clock, revocations=outage.url, amnesia="accept", idle_timeout="5m", absolute_timeout="5m")
    assert call(shorter, who, header).result == "alice"
    scene.fail()
    outage._notice(shorter) if isinstance(outage, SQLiteOutage) else None
    for application, age in ((shorter, 1000), (scene.application, HOUR - 1000 - 100 + 1)):
        scene.clock.advance(age)
        with pytest.raises(StoreUnavailable):
            call(application, login("bob"), header)
    shorter.close()
    scene.close()


def test_login_after_a_session_has_ended(outage: Any) -> None:
    """A session that is known to have ended does not keep its owner from logging in, though nobody can be asked."""
    scene = Scene(outage)
    header = scene.alice.header()
    scene.alice.do(logout)
    scene.fail()
    assert call(scene.application, login("alice"), header).status == "200 OK"
    scene.close()


def test_several_sessions(outage: Any) -> None:
    """Sessions beside the latest login stay, if nobody confirms their end."""
    scene = Scene(outage)
    (slot,) = [each for each in scene.alice.header().split("; ") if "-slot=" in each]
    scene.alice.receive(scene.alice.call(login("bob"), header=slot))
    assert len(scene.alice.sessions) == 2
    scene.fail()
    answer = scene.alice.call(who)
    assert (answer.result, answer.set_cookies) == ("bob", [])
    scene.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_versioned_writes(outage: Any, policy: str) -> None:
    """With versions checked, a write that nobody confirms is an error under every policy, except to a new session."""
    scene = Scene(outage, versioned=True, outage=policy)
    scene.fail()
    closed = policy == "closed"
    assert outcome(scene.alice, put("a", 1)) == ("503" if closed else "error")
    assert outcome(scene.stranger, put("a", 1)) == ("503" if closed else "session")
    scene.close()


@pytest.mark.parametrize("change", [lambda s: None, lambda s: s.update(n=2)], ids=["saved", "saved and changed"])
def test_a_versioned_write_that_was_saved_survives(outage: Any, change: Any) -> None:
    """1. ``save`` is confirmed. 2. The outage begins. 3. The answer, or the error page, carries what was saved."""
    scene = Scene(outage, versioned=True)

    def handler(session: Session) -> None:
        session["n"] = 1
        session.save()
        scene.fail()
        change(session)

    browser = scene.alice
    browser.application = wrap(
        scene.clock, error_page, revocations=scene.application.sessions.revocations, versioned=True
    )
    browser.do(handler)
    assert browser.do(lambda s: (s["user"], s["n"], s.version)) == ("alice", 1, 2)
    scene.recover()
    browser.application = scene.application
    assert browser.do(lambda s: (s["user"], s["n"], s.version)) == ("alice", 1, 2)
    scene.close()


error_page = with_error_page(StoreUnavailable, "503 Service Unavailable")


def test_closed_error_page_after_a_save(tmp_path: Path) -> None:
    """Under ``closed``, 1. ``save`` is confirmed. 2. The outage begins. 3. The application's error page lacks it."""
    scene = Scene(SQLiteOutage(tmp_path), outage="closed")

    def handler(session: Session) -> None:
        session["n"] = 1
        session.save()
        scene.fail()

    scene.application._application = error_page
    answer = scene.alice.call(handler)
    assert (answer.status, answer.body, answer.set_cookies) == ("503 Service Unavailable", b"", [])
    scene.close()


def test_a_session_left_behind_is_ended_by_a_logout(outage: Any) -> None:
    """1. A login in an outage leaves an anonymous session behind. 2. The store is back. 3. A logout ends that too."""
    scene = Scene(outage)
    header = scene.visitor.header()

    def handler(session: Session) -> None:
        scene.fail()
        login("carol")(session)
        assert call(scene.application, get("basket"), header).result == [1]
        scene.recover()
        session.invalidate()

    scene.visitor.do(handler)
    assert call(scene.application, get("basket"), header).result is None
    scene.close()


def test_a_write_keeps_the_shorter_timeout(outage: Any) -> None:
    """1. A lease under an idle timeout of 600 s. 2. Unconfirmed, a write under 3600 s. 3. It is over after 600 s."""
    scene = Scene(outage)
    scene.alice.application = wrap(scene.clock, revocations=scene.application.sessions.revocations, idle_timeout=600)
    scene.alice.do(who)
    scene.alice.application = scene.application
    scene.fail()
    scene.clock.advance(300)
    scene.alice.do(put("a", 1))
    scene.clock.advance(299.5)
    assert scene.alice.do(get("a")) == 1
    scene.clock.advance(1)
    assert scene.alice.do(get("a")) is None
    scene.close()


@pytest.mark.parametrize(
    ("begun", "now", "extends"),
    [("degrade", "open", False), ("open", "open", True), ("open", "degrade", False), ("closed", "open", False)],
)
def test_extended_unchecked_only_if_always_so(outage: Any, begun: str, now: str, extends: bool) -> None:
    """A session is extended unchecked only if it began, and is used, under ``open``: its fences live long enough."""
    scene = Scene(outage, outage=begun)
    later = wrap(scene.clock, revocations=scene.application.sessions.revocations, outage=now)
    scene.alice.application = later
    scene.clock.advance(100)
    assert outcome(scene.alice, who) == "lease", "while the store can be asked"
    assert scene.alice.do(who) == "alice"
    scene.fail()
    scene.clock.advance(HOUR - 100)
    assert outcome(scene.alice, who) == ("lease" if extends else "alice")
    scene.alice.do(put("a", 1))
    assert scene.alice.do(who) == "alice"
    scene.clock.advance(100)
    assert scene.alice.do(who) == ("alice" if extends else None)
    scene.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_recovery(outage: Any, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything works again by itself, and the log has one line for each transition, however many calls failed."""
    caplog.set_level(logging.WARNING)
    scene = Scene(outage, outage=policy)
    scene.fail()
    for _ in range(20):
        outcome(scene.alice, who)
        outcome(scene.alice, logout)
    scene.recover()
    assert outcome(scene.alice, untouched) == "lease"
    assert scene.alice.do(who) == "alice"
    header = scene.alice.header()
    scene.alice.do(logout)
    assert call(scene.application, who, header).result is None
    for text in ("is unavailable:", "is available again"):
        lines = [each.getMessage() for each in caplog.records if text in each.getMessage()]
        assert 1 <= len(lines) == len({line.partition(" is ")[0] for line in lines})
    scene.close()


@pytest.mark.parametrize("policy", ["degrade", "open"])
@pytest.mark.parametrize("handler", [who, untouched])
def test_what_is_known_is_applied(outage: Any, policy: str, handler: Any) -> None:
    """Under every policy, a process refuses, and does not roll, in an outage what it knows to have been ended."""
    scene = Scene(outage, outage=policy, amnesia="refuse")
    header = scene.alice.header()
    scene.alice.do(logout)
    scene.fail()
    answer: Answer = call(scene.application, handler, header)
    assert (answer.status, answer.result) == ("200 OK", None)
    assert not any(answer.sent().values())
    scene.close()


def test_an_ended_session_does_not_outlive_an_outage(tmp_path: Path) -> None:
    """What logged out before an outage is dead after it."""
    scene = Scene(SQLiteOutage(tmp_path))
    header = scene.alice.header()
    scene.alice.do(logout)
    scene.fail()
    outcome(scene.visitor, put("a", 1))
    scene.recover()
    assert call(scene.application, who, header).result is None
    scene.close()


def test_a_server_that_hangs(redis_outage: RedisOutage) -> None:
    """A store that takes connections and never answers holds a request up for a bounded time, and only one of many."""
    scene = Scene(redis_outage)
    redis_outage.server.suspend()
    try:
        started = time.monotonic()
        for _ in range(50):
            assert outcome(scene.alice, who) == "alice"
        assert time.monotonic() - started < 30
    finally:
        redis_outage.server.resume()
    scene.close()


# The table of ``standing.WITHOUT``, row by row, in action. The store is one in memory that fails when the test says so.


class Case(NamedTuple):
    """A row of the table: what a request does, some of it before the store fails; and what shows how it went."""

    #: What the browser did long before.
    begun: Callable[[Session], Any]
    before: Callable[[Session], Any]
    do: Callable[[Session], Any]
    #: What the response carries then, or "error".
    outcomes: dict[Without, str]


def save_something(session: Session) -> None:
    """Store something, now."""
    session["n"] = 1
    session.save()


FAIL, SKIP, LAST_KNOWN, EXTEND = Without.FAIL, Without.SKIP, Without.LAST_KNOWN, Without.EXTEND
alice = login("alice")
CASES: list[tuple[Ask, Case]] = [
    (Ask.LOAD, Case(alice, untouched, who, {FAIL: "error", LAST_KNOWN: "alice"})),
    (Ask.LOAD, Case(alice, who, lambda s: s.check(), {FAIL: "error", LAST_KNOWN: "True"})),
    (Ask.ROLL, Case(alice, who, untouched, {SKIP: "nothing", EXTEND: "lease"})),
    (Ask.WRITE, Case(alice, who, put("n", 1), {FAIL: "error", LAST_KNOWN: "old session", EXTEND: "session"})),
    (Ask.WRITE, Case(alice, who, save_something, {FAIL: "error", LAST_KNOWN: "old session", EXTEND: "session"})),
    (Ask.WRITE, Case(put("n", 1), who, put("n", 2), {FAIL: "error", LAST_KNOWN: "old session", EXTEND: "session"})),
    (Ask.SEND, Case(alice, save_something, untouched, {FAIL: "error", LAST_KNOWN: "session"})),
    (Ask.BEGIN, Case(untouched, who, put("n", 1), {FAIL: "error", LAST_KNOWN: "session"})),
    (Ask.BEGIN, Case(untouched, who, login("alice"), {FAIL: "error", LAST_KNOWN: "session"})),
    (Ask.END, Case(alice, who, logout, {FAIL: "error"})),
    (Ask.END, Case(alice, who, lambda s: s.clear(), {FAIL: "error"})),
    (Ask.END, Case(alice, who, login("bob"), {FAIL: "error"})),
    (Ask.END, Case(alice, who, lambda s: s.regenerate(), {FAIL: "error"})),
    (Ask.END, Case(alice, login("bob"), untouched, {FAIL: "error"})),
    (Ask.END, Case(alice, who, lambda s: s.revoke_others("user:alice"), {FAIL: "error"})),
]  # fmt: skip


def fragile(clock: Clock, **options: Any) -> tuple[Fragile, RollSession]:
    """A store that can fail, and an application before it."""
    store = Fragile(memory(clock, 24 * HOUR))
    clock.advance(10)
    return store, wrap(clock, revocations=store, **options)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("ask", "case"), CASES)
def test_a_row_of_the_table(clock: Clock, policy: str, ask: Ask, case: Case) -> None:
    """What a request does that needs the store, and gets no answer, goes as the table says for its policy."""
    store, application = fragile(clock, outage=policy)
    browser = Browser(application, clock)
    browser.do(case.begun)
    clock.advance(100)
    steps = Steps(browser)
    steps.do(case.before)
    store.is_down = True
    result = steps.do(case.do)
    if steps.error is None and ask is not Ask.LOAD:
        sent = [each for each in steps.answer().sent().items() if each[1] and not each[0].endswith("-slot")]
        result = "nothing"
        for name, value in sent:
            result = "lease" if name.endswith("-lease") else "session"
            if result == "session":
                store.is_down = False
                last = application.sessions.begin_header(f"{name}={value}").last_activity
                result = "session" if last is not None and last.timestamp() == clock() else "old session"
    assert isinstance(steps.error, StoreUnavailable | None)
    expected = case.outcomes[WITHOUT[ask][Outage(policy)]]
    assert ("error" if steps.error is not None else str(result)) == expected


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("do", [put("n", 1), save_something, lambda s: s.save()])
def test_the_row_of_versioned_writes(clock: Clock, policy: str, do: Callable[[Session], Any]) -> None:
    """With versions checked, a write to a session that exists fails, whatever the policy; so does asking for one."""
    store, application = fragile(clock, outage=policy, versioned=True)
    browser = Browser(application, clock)
    browser.do(login("alice"))
    steps = Steps(browser).look()
    store.is_down = True
    steps.do(do)
    steps.answer()
    assert isinstance(steps.error, StoreUnavailable)
    assert set(WITHOUT[Ask.VERSIONED].values()) == {Without.FAIL}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("handler", [who, untouched, put("n", 1)])
def test_the_row_of_other_logins(clock: Clock, policy: str, handler: Any) -> None:
    """Other logins that could not be ended are left to the next roll, under every policy, and nothing is said."""
    store, application = fragile(clock, outage=policy, renew_after=0)
    browser = Browser(application, clock)
    late = browser.call(login("alice"))
    browser.do(logout)
    clock.advance(1)
    browser.do(login("bob"))
    browser.receive(late)
    header = f"__Host-session-1={browser.cookies['__Host-session-1']}"
    store.asked.clear()
    store.fails_at = 1  # the first asks whether bob's may go on
    answer = browser.receive(browser.call(handler))
    assert store.asked == ["lookup_now", "fence"]
    assert answer.status == "200 OK"
    assert answer.set_cookies
    assert call(application, who, header).result == "alice"
    store.fails_at = None
    browser.do(handler)
    assert call(application, who, header).result is None
    assert browser.do(who) == "bob"
    assert set(WITHOUT[Ask.OTHERS].values()) == {Without.SKIP}


def test_every_row_of_the_table_is_played() -> None:
    """No row of the table is without a test of it in action."""
    assert {ask for ask, _ in CASES} | {Ask.VERSIONED, Ask.OTHERS} == set(WITHOUT)


# Amnesia


def after_loss(outage: RedisOutage, **options: Any) -> Scene:
    """A scene whose store has lost everything."""
    scene = Scene(outage)
    before = Browser(scene.application, scene.clock)
    before.do(login("bob"))
    scene.stranger.jar = dict(before.jar)
    before.do(logout)
    scene.fail()
    outage.server.start()
    scene.close()
    scene.application = wrap(scene.clock, revocations=outage.url, **options)
    for browser in (scene.alice, scene.visitor, scene.stranger):
        browser.application = scene.application
    return scene


def test_amnesia_refuses_what_was_there_before(redis_outage: RedisOutage) -> None:
    """A store that lost its data is noticed: all sessions from before are refused, and new ones work at once."""
    scene = after_loss(redis_outage)
    assert scene.alice.do(who) is None
    assert scene.visitor.do(get("basket")) is None
    assert scene.stranger.do(who) is None, "logged out before the loss"
    scene.alice.do(login("alice"))
    assert scene.alice.do(who) == "alice"
    scene.close()


def test_amnesia_accepted(redis_outage: RedisOutage) -> None:
    """With ``amnesia="accept"`` sessions from before a loss are accepted, those that were logged out among them."""
    scene = after_loss(redis_outage, amnesia="accept")
    assert scene.alice.do(who) == "alice"
    assert scene.visitor.do(get("basket")) == [1]
    assert scene.stranger.do(who) == "bob", "the documented price"
    scene.close()


def test_amnesia_of_memory() -> None:
    """A restart of a process with ``memory://`` is a loss: its sessions from before are refused."""
    clock = Clock()

    def start() -> RollSession:
        return wrap(clock, revocations=memory(clock, HOUR))

    browser = Browser(start(), clock)
    browser.do(login("alice"))
    assert browser.do(who) == "alice"
    clock.advance(5)
    browser.application = start()
    assert browser.do(who) is None
    browser.do(login("alice"))
    assert browser.do(who) == "alice"


def test_amnesia_of_a_deleted_database(tmp_path: Path) -> None:
    """A database that was deleted under a running process is a loss, which the log says."""
    clock = Clock(time.time())
    application = wrap(clock, revocations=f"sqlite:///{tmp_path}/revocations.db", amnesia="refuse")
    browser = Browser(application, clock)
    browser.do(login("alice"))
    clock.advance(5)
    for path in tmp_path.iterdir():
        path.unlink()
    SQLiteOutage._notice(application)
    assert browser.do(who) is None
    browser.do(login("alice"))
    assert browser.do(who) == "alice"
    application.close()
