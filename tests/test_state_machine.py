"""Random histories: browsers, requests in flight, late answers, clocks, keys, configurations, outages and revocations.

A model that knows no cookies says which sessions may be alive. What the filter does is held against it at every load,
at every answer's arrival, and by a thief who has kept every cookie that was ever issued.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)

from wsgi_rollsession import RollSession, SessionConflict, StoreUnavailable, generate_key
from wsgi_rollsession.exchange import Exchange
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.settings import Settings

from .browser import Answer, Browser, Clock, announce, memory, wrap
from .test_mutants import MUTANTS

USERS = ("alice", "bob")
IDLE = (60, 600, 3600)
ABSOLUTE = (3600, 7200)
KEYS = [generate_key() for _ in range(4)]
OPERATIONS = st.sampled_from(["read", "untouched", "write", "login", "logout", "others"])


class Wire:
    """One process's connection to the store that all share. While it is down, the process knows what it knew."""

    shared = True

    def __init__(self, store: MemoryRevocations) -> None:
        self.store = store
        self.known: dict[bytes, int] | None = None

    @property
    def down(self) -> bool:
        return self.known is not None

    def cut(self) -> None:
        self.known = dict(self.store._local._state[0])

    def mend(self) -> None:
        self.known = None

    def last_known(self, keys: Any) -> Any:
        if self.known is None:
            return self.store.last_known(keys)
        return [self.known.get(key, 0) for key in keys]

    def ask(self, method: str, *arguments: Any) -> Any:
        if self.down:
            raise StoreUnavailable("down")
        return getattr(self.store, method)(*arguments)

    def lookup(self, keys: Any) -> Any:
        return self.ask("lookup", keys)

    def lookup_now(self, keys: Any) -> Any:
        return self.ask("lookup_now", keys)

    def fence(self, keys: Any, number: int) -> None:
        self.ask("fence", keys, number)

    def fence_now(self, keys: Any) -> Any:
        return self.ask("fence_now", keys)

    def compare_and_raise(self, limits: Any, raises: Any) -> Any:
        return self.ask("compare_and_raise", limits, raises)


class Model:
    """What may be said of one session."""

    def __init__(self, user: str | None, created: int, idle: int, ends: int) -> None:
        self.user = user  # None: nobody logged in, something was stored
        self.created = created
        self.seen = created
        self.idle = idle
        self.ends = ends
        self.dead = False
        self.version = 0  # strict: the version that was confirmed to supersede earlier ones

    def expired(self, now: int, today: Settings) -> bool:
        ends = min(self.ends, self.created + today.absolute_ms)
        return now >= ends or now >= self.seen + min(self.idle, today.idle_s) * 1000


class Request:
    """A request, stopped at its arrival, or after it has looked at the session, or before its answer."""

    def __init__(self, number: int, browser: Browser, process: RollSession, now: int, cookies: dict[str, str]) -> None:
        self.number, self.browser, self.process, self.now = number, browser, process, now
        self.presented = list(cookies)
        self.touches = False
        self.operation = ""
        self.user = ""
        self.session: Any = None
        self.steps: Iterator[bytes] = iter(())
        self.started: list[Any] = []
        self.written: str | None = None  # the id of the session that it wrote
        self.data: dict[str, Any] = {}
        self.degraded = False  # it met an outage


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Stops before and after it looks at the session."""
    machine, request = environ["test.machine"], environ["test.request"]
    request.session = environ[SESSION]
    if request.touches:
        machine.look(request)
    yield b""
    machine.operate(request)
    start_response("200 OK", [])
    yield b""


class Histories(RuleBasedStateMachine):
    requests = Bundle("requests")
    answers = Bundle("answers")

    @initialize(strict=st.booleans(), renew_after=st.sampled_from([0, 30]))
    def begin(self, strict: bool, renew_after: int) -> None:
        self.clock = Clock()
        self.strict = strict
        self.renew_after = renew_after
        self.keys = [KEYS[0]]
        self.store = memory(self.clock)
        self.clock.advance(10)
        self.wires = [Wire(self.store), Wire(self.store)]
        self.configurations: list[dict[str, Any]] = [{"idle_timeout": 600, "absolute_timeout": 3600}] * 2
        self.processes: list[RollSession] = []
        self.restart()
        self.browsers = [Browser(None, self.clock), Browser(None, self.clock)]  # type: ignore[arg-type]
        self.queued: list[dict[str, str]] = [{}, {}]
        self.models: dict[str, Model] = {}
        self.names: dict[str, str] = {}  # cookie name -> session id
        self.issued: dict[str, list[str]] = {}  # cookie name -> all its values
        self.counter = 0
        self.in_flight: list[Request] = []

    def ms(self) -> int:
        return int(self.clock() * 1000)

    def restart(self) -> None:
        self.processes = [
            wrap(
                self.clock, application, revocations=wire, keys=list(self.keys), strict=self.strict,
                renew_after=self.renew_after, **configuration,
            )
            for wire, configuration in zip(self.wires, self.configurations, strict=True)
        ]  # fmt: skip
        # What an observer sees depends on the cookies and the store alone.
        limits = {"idle_timeout": max(IDLE), "absolute_timeout": max(ABSOLUTE)}
        self.observer = wrap(self.clock, application, revocations=self.store, keys=list(self.keys), **limits)
        for process in self.processes:  # as a store of several processes does when one of them opens it
            announce(self.store, process)

    # What the model holds against the filter

    def check_loaded(self, process: RollSession, now: int, session_id: str, version: int) -> None:
        """A session was found by a request that arrived at *now*: may it have been?"""
        model = self.models[session_id]
        assert not model.expired(now, process.settings), "4: alive past its deadline"
        if not process.revocations.down:  # type: ignore[attr-defined]
            assert not model.dead, "1: alive after its end"
            if self.strict:
                assert version >= model.version, "3: an old version was accepted"

    def look(self, request: Request) -> None:
        """The request loads its session."""
        session = request.session
        if session._loaded or session.is_new:
            return
        self.check_loaded(request.process, request.now, session.id, session.version)
        if not request.process.revocations.down:  # type: ignore[attr-defined]
            model = self.models[session.id]
            model.seen = max(model.seen, request.now)

    def operate(self, request: Request) -> None:
        """What the handler does, and what then must be so."""
        session = request.session
        if request.operation != "untouched":
            self.look(request)
        match request.operation:
            case "login":
                try:
                    session.regenerate(tags=[request.user, "tenant"])
                except SessionConflict:
                    assert self.models[session.id].dead or self.strict, "the session was not lost"
                    return
                except StoreUnavailable:
                    return
                if not request.process.revocations.down:  # type: ignore[attr-defined]
                    self.end(request.presented)
                session["user"] = request.user
                session["number"] = request.number
                self.add(request, request.user)
            case "others":
                model = self.models.get(session.id)
                if model is None or model.user is None:
                    return
                try:
                    session.revoke_others(model.user)
                except (SessionConflict, StoreUnavailable):
                    return
                for other in self.models.values():
                    other.dead = other.dead or other.user == model.user
                self.end(request.presented)
                self.add(request, model.user)
                self.models[session.id].ends = model.ends
            case "write":
                if session.is_new:
                    self.add(request, None)
                session["number"] = request.number
            case "logout":
                try:
                    session.invalidate()
                except StoreUnavailable:
                    return
                self.end(request.presented)
            case _:
                return
        request.data = dict(session)
        request.written = session.id if request.operation != "logout" else None

    def add(self, request: Request, user: str | None) -> None:
        options = request.process.settings
        ends = request.now + options.absolute_ms
        self.models[request.session.id] = Model(user, request.session._record.created, options.idle_s, ends)
        self.models[request.session.id].seen = request.now

    def end(self, names: list[str]) -> None:
        for name in names:
            if name in self.names:
                self.models[self.names[name]].dead = True

    def peek(self, cookies: dict[str, str], process: RollSession) -> tuple[str | None, dict[str, Any], int]:
        """The session, its data and version that these cookies give, without any effect."""
        header = "; ".join(f"{name}={value}" for name, value in cookies.items())
        session = Exchange(process._context, header, self.ms())
        if session.is_new:
            return None, {}, 0
        return session.id, dict(session), session.version

    # What happens

    @rule(who=st.integers(0, 1))
    def queue(self, who: int) -> None:
        """A browser sends a request which will arrive later than those that it sends after it."""
        self.queued[who] = self.browsers[who].cookies

    @rule(target=requests, who=st.integers(0, 1), where=st.integers(0, 1), touches=st.booleans(), queued=st.booleans())
    def send(self, who: int, where: int, touches: bool, queued: bool = False) -> Request:
        """A request arrives at a process, and perhaps looks at its session."""
        self.counter += 1
        cookies = self.queued[who] if queued else self.browsers[who].cookies
        request = Request(self.counter, self.browsers[who], self.processes[where], self.ms(), cookies)
        request.touches = touches
        request.degraded = request.process.revocations.down  # type: ignore[attr-defined]
        environ = {"wsgi.multiprocess": True, "test.machine": self, "test.request": request}
        if cookies:
            environ["HTTP_COOKIE"] = "; ".join(f"{name}={value}" for name, value in cookies.items())

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            request.started = headers

        request.steps = iter(request.process(environ, start_response))
        next(request.steps)
        self.in_flight.append(request)
        return request

    @rule(
        target=answers,
        request=consumes(requests),
        operation=OPERATIONS,
        user=st.sampled_from(USERS),
    )
    def answer(self, request: Request, operation: str, user: str) -> tuple[Request, Answer]:
        """A request does what it came for, and is answered; the answer has not arrived."""
        answer = Answer("", [], None, b"")
        if request not in self.in_flight:  # it took too long and was given up
            return request, answer
        self.in_flight.remove(request)
        request.operation, request.user = operation, user
        request.degraded = request.degraded or request.process.revocations.down  # type: ignore[attr-defined]
        try:
            list(request.steps)
        except StoreUnavailable:  # an error page
            assert request.process.revocations.down  # type: ignore[attr-defined]
            request.written = None
            return request, answer
        answer = Answer("", request.started, None, b"")
        sent = {name: value for name, value in answer.sent().items() if value}
        for name, value in sent.items():
            self.issued.setdefault(name, []).append(value)
            if not name.endswith("-lease"):
                assert request.written is not None, "3: the session was sent without a write"
                self.names[name] = request.written
                model = self.models[request.written]
                assert not model.dead or request.process.revocations.down, "1: issued after its end"  # type: ignore[attr-defined]
                if self.strict:
                    model.version = max(model.version, request.session.version)
            elif not request.process.revocations.down:  # type: ignore[attr-defined]
                model = self.models[self.names[name.removesuffix("-lease")]]
                assert not model.dead, "1: a lease was issued after its end"
                # An untouched request may have been the first to look.
                model.seen = max(model.seen, request.now)
            else:
                raise AssertionError("4: a lease was issued in an outage")
        if not any(not name.endswith("-lease") for name in sent):
            request.written = None
        return request, answer

    @rule(
        who=st.integers(0, 1),
        where=st.integers(0, 1),
        touches=st.booleans(),
        operation=OPERATIONS,
        user=st.sampled_from(USERS),
    )
    def round_trip(self, who: int, where: int, touches: bool, operation: str, user: str) -> None:
        """A request that nothing interferes with."""
        self.arrive(self.answer(self.send(who, where, touches), operation, user))

    @rule(
        who=st.integers(0, 1),
        where=st.tuples(st.integers(0, 1), st.integers(0, 1)),
        touches=st.booleans(),
        operations=st.tuples(
            OPERATIONS, st.lists(OPERATIONS, min_size=1, max_size=2), st.lists(OPERATIONS, max_size=2)
        ),
        user=st.sampled_from(USERS),
    )
    def race(
        self, who: int, where: tuple[int, int], touches: bool, operations: tuple[str, list[str], list[str]], user: str
    ) -> None:
        """A row of the race table, made up: a request, what happens before its answer, and before its arrival."""
        late, first, second = operations
        request = self.send(who, where[0], touches)
        for operation in first:
            self.round_trip(who, where[1], touches, operation, user)
        arriving = self.answer(request, late, user)
        for operation in second:
            self.round_trip(who, where[1], touches, operation, user)
        self.arrive(arriving)

    @rule(arriving=consumes(answers))
    def arrive(self, arriving: tuple[Request, Answer]) -> None:
        """An answer reaches its browser, however late."""
        request, answer = arriving
        browser, written = request.browser, request.written
        before, data_before, _ = self.peek(browser.cookies, self.observer)
        browser.receive(answer)
        after, data_after, _ = self.peek(browser.cookies, self.observer)
        if after == written != before:
            if written is not None:
                assert data_after == request.data
        elif before is None:
            # An answer to a request in which the session was still alive may have rolled it.
            assert after is None or after in [self.names.get(name) for name in request.presented], "1: revived"
        if before is None or request.degraded or self.models[before].expired(request.now, request.process.settings):
            return
        if after != before:
            # A lease that is older than the one in its place ends the session earlier.
            if after is None and any(name.endswith("-lease") for name in answer.sent()):
                return
            assert after is not None, "2: the login was lost"
            assert after == written, "2: the login was lost"
            old, new = self.models[before], self.models[after]
            assert old.user is None or (new.user is not None and new.created >= old.created), "2: the login was hidden"
        elif written != before:
            assert data_after == data_before, "3: a response that did not write it changed the session"

    @rule(seconds=st.sampled_from([0.001, 0.5, 1, 3, 29, 31, 45, 61, 300, 601, 3700]))
    def advance(self, seconds: float) -> None:
        """Time passes. A request that would take as long as a session lives is given up by its server."""
        self.clock.advance(seconds)
        shortest = min(IDLE) * 1000
        self.in_flight = [request for request in self.in_flight if self.ms() - request.now < shortest]

    @rule(what=st.sampled_from([*USERS, "tenant", "everything"]), where=st.integers(0, 1))
    def revoke(self, what: str, where: int) -> None:
        """A user is logged out everywhere, or all users are, or all sessions end."""
        self.advance(2)  # numbers run ahead of the clock by seconds at most, and then a revocation waits for it
        try:
            if what == "everything":
                self.processes[where].revoke_everything()
            else:
                self.processes[where].revoke(what)
        except StoreUnavailable:
            return
        for model in self.models.values():
            if what in (model.user, "everything") or (what == "tenant" and model.user is not None):
                model.dead = True

    @rule(
        what=st.sampled_from(["forget", "configure", "rotate", "cut or mend"]),
        where=st.integers(0, 1),
        idle=st.sampled_from(IDLE),
        absolute=st.sampled_from(ABSOLUTE),
    )
    def operator(self, what: str, where: int, idle: int, absolute: int) -> None:
        """What operators, and networks, do."""
        wire = self.wires[where]
        if what == "forget":  # the store drops every fence that it need not keep
            self.store._local._purged_ms = 0
            self.store._local.purge(self.ms())
        elif what == "configure":  # the old process goes on serving the requests that are in flight
            self.configurations[where] = {"idle_timeout": idle, "absolute_timeout": absolute}
            self.restart()
        elif what == "rotate" and len(self.keys) < len(KEYS):
            self.keys.insert(0, KEYS[len(self.keys)])
            self.restart()
        elif wire.down:
            wire.mend()
        else:
            wire.cut()

    @rule(where=st.integers(0, 1))
    def steal(self, where: int) -> None:
        """A thief who has kept every cookie presents each of them, with each lease."""
        process = self.processes[where]
        for name in self.names:
            for value in self.issued[name][-4:]:
                for lease in ["", *self.issued.get(f"{name}-lease", [])[-4:]]:
                    session_id, _, version = self.peek({name: value, f"{name}-lease": lease}, process)
                    if session_id is not None:
                        self.check_loaded(process, self.ms(), session_id, version)

    def teardown(self) -> None:
        """At the end, the thief tries once more."""
        if hasattr(self, "models"):
            for wire in self.wires:
                wire.mend()
            self.steal(0)
            self.steal(1)


TestHistories = Histories.TestCase
# Derandomized: a suite that is red on some days only helps nobody. To search on, raise max_examples.
TestHistories.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [
        "isolation off",
        "lease off",
        "invalidate() ends only the chosen session",
        "a logout only deletes the cookies",
        "no fence check on load",
        "no fence check before a roll",
        "regenerate() leaves the old session alone",
        "the fences of tags are ignored",
        "stamped expiry off",
        "today's configuration is ignored",
        "only the browser ends sessions",
        "strict writes do not take turns",
    ],
)
def test_the_machine_notices(mutant: str) -> None:
    """With a mechanism switched off, some history breaks an invariant, and the machine says which."""
    search = settings(
        max_examples=1000, stateful_step_count=50, deadline=None, phases=[Phase.generate], derandomize=True
    )
    with MUTANTS[mutant].off(), pytest.raises(AssertionError, match=r"^[1-4]: "):
        run_state_machine_as_test(Histories, settings=search)
