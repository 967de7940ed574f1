"""Everything around the filter: clocks, browsers, processes and their wires to the store, and the cookies there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from wsgi_rollsession import RollSession, StoreUnavailable, generate_key
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.revocation import StoreOptions, clock
from wsgi_rollsession.revocation.clock import SteadyClock
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.seal import Unsealable, open_lease, open_session
from wsgi_rollsession.token import FAIL_OPEN, TRANSIENT, UNASKED, Record, unpack

from .model import EVERYTHING, Copy, Lease, Model, Setup

#: Unix milliseconds. Times are multiples of 125 ms, which seconds as a float carry exactly.
START = 4_000_000_000_000
KEYS = [generate_key() for _ in range(4)]
NAME = "__Host-session"
SLOT = f"{NAME}-slot"
SLOTS = frozenset(f"{NAME}-{pair}{half}" for pair in "1234" for half in ("", "b"))
NAMES = frozenset((NAME, *SLOTS))
LONGEST = Setup(idle_s=3600, absolute_s=36000, keys=(0, 1, 2, 3))


@lru_cache
def ring(keys: tuple[int, ...]) -> KeyRing:
    """The keys with these numbers."""
    return KeyRing([KEYS[each] for each in keys])


class Sleep:
    """In place of ``time``, where a store waits until it may revoke: time passes in the world."""

    world: World | None = None
    time_ns, monotonic_ns = staticmethod(time.time_ns), staticmethod(time.monotonic_ns)

    def sleep(self, seconds: float) -> None:
        assert self.world is not None
        self.world.clock.advance(125)


class Clock:
    """The wall clock, and one that nobody sets, in milliseconds."""

    def __init__(self) -> None:
        self.wall = self.highest = START
        self.monotonic = 1_000_000

    def __call__(self) -> float:
        return self.wall / 1000

    def now(self) -> int:
        return self.wall

    def steadily(self) -> int:
        return self.monotonic

    def advance(self, ms: int) -> None:
        self.wall += ms
        self.highest += ms
        self.monotonic += ms
        self.highest = max(self.highest, self.wall)

    def step(self, ms: int) -> None:
        """Set the clock; back by no more than 59 s behind what it would be."""
        self.wall = max(self.wall + ms, self.highest - 59_000)
        self.highest = max(self.highest, self.wall)


class Call(NamedTuple):
    """A call of the store."""

    method: str
    #: What was known after it; its own number if it raised something. Without an answer: what had happened.
    event: int
    answered: bool = True
    yes: bool = True
    raised: bool = False
    #: The clock when its answer arrived.
    until: int = 0


class Wire:
    """One process's connection to the store that all share.

    While it is down, the process knows what it knew. While it lags, a load knows what was known then.
    """

    shared = True

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_down = False
        self.view: tuple[dict[bytes, int], int] | None = None

    def freeze(self) -> None:
        if self.view is None:
            self.view = dict(self.world.store._local._state[0]), self.world.model.event

    def cut(self) -> None:
        self.freeze()
        self.is_down = True

    def mend(self) -> None:
        self.is_down, self.view = False, None

    @property
    def event(self) -> int:
        """What a load knows."""
        return self.world.model.event if self.view is None else self.view[1]

    def _ask(self, method: str, *arguments: Any) -> Any:
        world = self.world
        calls, at = world.calls, world.asked
        world.asked += 1
        if world.pause is not None:
            world.paused(at, "before")
        if self.is_down:
            calls.append(Call(method, world.model.event, answered=False, until=world.clock.wall))
            raise StoreUnavailable("down")
        raised, event = False, world.model.event
        if method == "lookup" and self.view is not None:
            known, event = self.view
            result: Any = [known.get(key, 0) for key in arguments[0]]
        else:
            result = getattr(world.store, method)(*arguments)
            if method[0] == "f" or (method[0] == "c" and result and arguments[1]):
                raised, event = True, world.model.tick()
        if world.pause is not None:
            world.paused(at, "after")
        calls.append(Call(method, event, True, result is not False, raised, world.clock.wall))
        return result

    def lookup(self, keys: Sequence[bytes]) -> Any:
        return self._ask("lookup", keys)

    def lookup_now(self, keys: Sequence[bytes]) -> Any:
        return self._ask("lookup_now", keys)

    def last_known(self, keys: Sequence[bytes]) -> Any:
        self.world.calls.append(Call("last_known", self.event, until=self.world.clock.wall))
        if self.view is None:
            return self.world.store.last_known(keys)
        return [self.view[0].get(key, 0) for key in keys]

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        self._ask("fence", keys, number)

    def fence_now(self, keys: Sequence[bytes]) -> Any:
        return self._ask("fence_now", keys)

    def compare_and_raise(self, limits: Any, raises: Any) -> Any:
        return self._ask("compare_and_raise", limits, raises)

    def close(self) -> None:
        pass


class Process:
    """A server process: the filter with one configuration."""

    def __init__(self, world: World, setup: Setup, wire: Any, application: Callable[..., Any]) -> None:
        self.setup, self.wire = setup, wire
        self.filter = RollSession(
            application,
            keys=[KEYS[each] for each in setup.keys],
            revocations=lambda options: wire,
            clock=world.clock,
            idle_timeout=setup.idle_s,
            absolute_timeout=setup.absolute_s,
            renew_after=setup.renew_after_s,
            rolling=setup.rolling,
            versioned=setup.versioned,
            outage=setup.outage,
            identity_key="user" if setup.identity else None,
        )
        self.sessions = self.filter.sessions
        site = self.sessions._site
        site.steady_clock = SteadyClock(world.clock.now, world.clock.steadily)
        self.idle_s: int = self.sessions.settings.idle_s
        self.absolute_ms: int = self.sessions.settings.absolute_ms


class Cookie(NamedTuple):
    """A session cookie that was sealed, and with which key."""

    name: str
    value: str
    key: int
    copy: Copy


class LeaseCookie(NamedTuple):
    """A lease cookie, under its own name."""

    name: str
    value: str
    key: int
    lease: Lease


class Sealed(NamedTuple):
    """What a session cookie says."""

    issued: int
    record: Record
    fail_open: bool
    unasked: bool
    transient: bool


class Browser:
    """A cookie jar. Its clock is not the server's."""

    def __init__(self, number: int, clock: Clock) -> None:
        self.number, self.clock = number, clock
        self.jar: dict[str, tuple[str, int | None]] = {}
        #: How often a login or a logout has told it which slot is next.
        self.turn = 0
        self.set_back = -1  # the turn in which a late answer told it one that had been used already

    def cookies(self) -> list[tuple[str, str]]:
        """What it would send."""
        now = self.clock.monotonic
        return [(name, value) for name, (value, until) in self.jar.items() if until is None or until > now]

    def put(self, name: str, value: str | None, max_age: int | None) -> None:
        if value is None or (max_age is not None and max_age <= 0):
            self.jar.pop(name, None)
        else:
            self.jar[name] = value, None if max_age is None else self.clock.monotonic + max_age * 1000


class World:
    """All of it."""

    def __init__(self, application: Callable[..., Any], setups: Sequence[Setup]) -> None:
        self.clock = Clock()
        if isinstance(clock.time, Sleep):
            clock.time.world = self
        self.model = Model()
        self.application = application
        self.lifetime_ms = 0
        self.store = self._new_store()
        self.model.revoke(EVERYTHING, 0, self.clock.wall, "6: the store's beginning went unnoticed")
        self.clock.advance(20_000)
        self.wires = [Wire(self) for _ in setups]
        self.processes = [Process(self, setup, wire, application) for setup, wire in zip(setups, self.wires)]
        self._observer: Process | None = None
        for process in self.processes:
            self.announce(process)
        self.browsers = [Browser(number, self.clock) for number in range(2)]
        #: Every session cookie and lease that was ever sealed for sending, by value.
        self.cookies: dict[str, Cookie] = {}
        self.leases: dict[str, LeaseCookie] = {}
        #: The id in a session cookie, by its value.
        self.ids: dict[str, str] = {}
        # The calls of the store that the running operation has made, and when it is to be paused
        self.calls: list[Call] = []
        self.asked = 0
        self.pause: tuple[int, str, Sequence[Any]] | None = None
        self.run: Callable[[Sequence[Any]], None] = lambda steps: None

    def _new_store(self) -> MemoryRevocations:
        return MemoryRevocations(
            StoreOptions(lifetime_ms=self.lifetime_ms), _clock=self.clock.now, _monotonic=self.clock.steadily
        )

    @property
    def observer(self) -> Process:
        """A process whose timeouts are longer than all others', which knows all keys, and asks the store itself."""
        if self._observer is None:
            self._observer = Process(self, LONGEST, Direct(self), self.application)
        return self._observer

    def lose_store(self) -> None:
        """The store loses its data."""
        self.store = self._new_store()
        for wire in self.wires:
            if not wire.is_down:
                wire.view = None

    def announce(self, process: Process) -> None:
        """As a store of several processes has it: the longest lifetime that any process announced counts."""
        self.lifetime_ms = max(self.lifetime_ms, process.sessions.settings.fence_lifetime_ms)
        self.store._options = replace(self.store._options, lifetime_ms=self.lifetime_ms)
        self.store._local.lifetime_ms = self.lifetime_ms

    def restart(self, where: int, setup: Setup) -> None:
        """Requests in flight are served by the old process."""
        self.processes[where] = Process(self, setup, self.wires[where], self.application)
        self.announce(self.processes[where])

    def purge(self) -> None:
        """The store drops every fence that it need not keep."""
        self.store._local._purged_ms = -(1 << 60)
        self.store._local.purge(self.clock.monotonic)

    def paused(self, at: int, when: str) -> None:
        """The process is suspended here, if it is to be, while others run."""
        pause = self.pause
        if pause is not None and pause[0] == at and pause[1] == when:
            saved = self.calls, self.asked
            self.pause, self.calls, self.asked = None, [], 0
            try:
                self.run(pause[2])
            finally:
                self.calls, self.asked = saved

    # What cookies say

    def unseal(self, name: str, value: str) -> Sealed:
        """What a session cookie says. It has to open."""
        issued, plaintext = open_session(ring((0, 1, 2, 3)), name, value)
        record = unpack(plaintext)
        flags = record.flags
        return Sealed(issued, record, bool(flags & FAIL_OPEN), bool(flags & UNASKED), bool(flags & TRANSIENT))

    def unseal_id(self, cookie: Cookie) -> str:
        """The id of the session in a cookie."""
        return self.ids[cookie.value]

    def unseal_lease(self, name: str, value: str, among: Sequence[tuple[Copy, str]]) -> Lease | None:
        """The lease in a cookie, if it is of one of these sessions, which come with their ids."""
        for copy, id_ in among:
            try:
                renewed, idle_s, version = open_lease(ring((0, 1, 2, 3)), name, bytes.fromhex(id_), value)
            except Unsealable:
                continue
            return Lease(copy.life, version, renewed, idle_s)
        return None


class Direct:
    """The store itself."""

    shared = True

    def __init__(self, world: World) -> None:
        self.world = world

    def lookup(self, keys: Sequence[bytes]) -> Any:
        return self.world.store.lookup(keys)

    lookup_now = last_known = lookup
