"""A session as a request presents it: opened, with the expiry and the fences that apply to it.

What opens is remembered, because a browser sends the same header again and again; whether it is alive is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from . import policy, token
from .cookies import Cookies
from .policy import OVER, Ended
from .revocation import Revocations
from .revocation.clock import SteadyClock
from .revocation.fence import EVERYTHING, session_key
from .seal import UnknownKey, Unsealable, open_lease, open_session
from .settings import Settings
from .token import Lease, Record

#: Headers, and session cookies, remembered as opened in each process. A browser sends the same header until something
#: is written or rolled; a roll does not change the session cookie.
REMEMBERED = 1024
#: Longer headers are not remembered, in characters.
LONGEST_REMEMBERED = 4096
#: How many pairs of a session and a lease are tried for one header.
MOST_TRIALS = 4096


class Opened(NamedTuple):
    """What a session cookie, with its lease if there is one, says by itself, whenever it is presented."""

    #: The last confirmed activity (Unix ms), and the idle timeout (s) and deadline (Unix ms) that apply.
    last_activity: int
    idle: int
    ends: int
    record: Record
    #: The fences that apply (the second is the session's own), and the limits of their numbers (``policy.limits``).
    keys: tuple[bytes, ...]
    limits: tuple[int, ...]


class Opening(NamedTuple):
    """What a Cookie header says by itself, whenever it is sent."""

    #: The session cookies that are authentic, by name, in the order of the header. A name may stand there twice.
    sessions: tuple[tuple[str, Opened], ...]
    #: The names of session cookies that are there, authentic or not; and those of leases too.
    session_names: tuple[str, ...]
    names: tuple[str, ...]
    #: The pair of slots used last, or 0: not authenticated.
    slot: int
    #: What is to be said of what is not authentic, and whether a login whose key is gone is among it.
    refusals: tuple[str, ...]
    key_is_gone: bool


NOTHING = Opening((), (), (), 0, (), False)


class _Unremembered(Exception):  # what a function with a memory must not remember
    def __init__(self, opening: Opening) -> None:
        self.opening = opening


class Site:
    """What all requests share: the settings, the cookies, the revocation set, and what was opened last."""

    __slots__ = (
        "_last_lease",
        "_open_header",
        "clock",
        "cookies",
        "identity_key",
        "open",
        "ring",
        "settings",
        "steady_clock",
        "store",
    )

    def __init__(self, settings: Settings, store: Revocations) -> None:
        self.settings = settings
        self.store = store
        self.ring = settings.ring
        self.clock = settings.clock
        self.identity_key = settings.identity_key
        #: Unix milliseconds, from which revoked-before numbers are made.
        self.steady_clock = SteadyClock(lambda: int(settings.clock() * 1000))
        self.cookies = Cookies(settings)
        # Pure functions of what is in the cookies: whether the session is alive is asked every time. What does not open
        # raises, and is not remembered.
        self.open: Callable[[str, str], Opened] = lru_cache(REMEMBERED)(self._open)
        self._open_header: Callable[[str], Opening] = lru_cache(REMEMBERED)(self._opening)
        self._last_lease: Callable[[str], Lease | None] = lru_cache(REMEMBERED)(self.cookies.last_lease)

    def open_header(self, header: str) -> Opening:
        """What *header* presents, whatever it holds."""
        if self.cookies.anonymous not in header:
            return NOTHING
        try:
            return self._open_header(header)
        except _Unremembered as unremembered:
            return unremembered.opening

    def last_lease(self, header: str) -> Lease | None:
        """What the last cookie of ours in *header* says, if it is a lease: not authenticated, so only ever a hint."""
        return self._last_lease(header) if len(header) <= LONGEST_REMEMBERED else self.cookies.last_lease(header)

    def _opening(self, header: str) -> Opening:
        found = self.cookies.parse(header)
        opened, refusals, key_is_gone = [], [], False
        for name, value in found.sessions:
            try:
                opened.append((name, self.open(name, value)))
            except (Unsealable, ValueError) as error:  # ValueError: authentic, and malformed
                refusals.append(f"session cookie {name!r} refused: {error}")
                key_is_gone |= isinstance(error, UnknownKey) and self.cookies.is_login(name)
        sessions = []
        for name, each in opened:
            leases = found.leases.get(name)
            if leases:
                if len(opened) > 1:  # each lease is tried with each session of its name: a square of work
                    leases = leases[-(MOST_TRIALS // len(opened)) :]
                each, refusal = self._with_lease(name, each, leases)
                if refusal is not None:
                    refusals.append(f"lease of session cookie {name!r} ignored: {refusal}")
            sessions.append((name, each))
        opening = Opening(
            tuple(sessions), tuple(name for name, _ in found.sessions), tuple(found.names), found.slot,
            tuple(refusals), key_is_gone,
        )  # fmt: skip
        if refusals or not sessions or len(header) > LONGEST_REMEMBERED:
            raise _Unremembered(opening)  # so garbage displaces nothing
        return opening

    def _with_lease(self, name: str, opened: Opened, leases: Sequence[str]) -> tuple[Opened, str | None]:
        """A session with the best authentic of its *leases*; and why a lease was not used, if one was not."""
        best, refusal = opened, None
        for value in leases:
            try:
                lease = open_lease(self.ring, self.cookies.lease_name(name), opened.record.id, value)
            except Unsealable as error:
                refusal = str(error)  # an error kept in a frame that it refers to would be a cycle
            else:
                last_activity, idle = policy.extended(opened.record, opened.last_activity, lease)
                if last_activity > best.last_activity:
                    best = opened._replace(last_activity=last_activity, idle=min(idle, opened.idle))
        return best, refusal

    def _open(self, name: str, value: str) -> Opened:
        issued, plaintext = open_session(self.ring, name, value)
        return self.opened(issued, token.unpack(plaintext))

    def opened(self, issued: int, record: Record) -> Opened:
        """What a record says that was sealed at *issued* (Unix ms)."""
        settings = self.settings
        return Opened(
            issued,
            policy.idle(record, settings.idle_s),
            policy.end(record, settings.absolute_ms),
            record,
            (EVERYTHING, session_key(record.id), *record.tags),
            policy.limits(record),
        )


class Presented:
    """A session whose cookie the request carried, and which is authentic; or which this request has sealed."""

    __slots__ = ("ended", "ends", "idle", "is_login", "keys", "last_activity", "limits", "name", "record")

    def __init__(self, name: str, opened: Opened) -> None:
        self.name = name
        self.last_activity, self.idle, self.ends, self.record, self.keys, self.limits = opened
        self.is_login = self.record.authenticated != 0
        #: Why it is not alive, or None.
        self.ended: Ended | None = None

    def written(self, record: Record, issued: int, idle: int) -> Presented:
        """The same session with the next version, sealed at *issued* (Unix ms) under the idle timeout *idle* (s)."""
        everything, _, *tags = self.limits
        opened = Opened(issued, idle, self.ends, record, self.keys, (everything, record.version, *tags))
        return Presented(self.name, opened)

    @property
    def key(self) -> bytes:
        """The session's own fence."""
        return self.keys[1]

    def is_due(self, now: int, settings: Settings) -> bool:
        """Whether its last activity is so long ago at *now* (Unix ms) that it is to be rolled.

        A session whose idle timeout is shorter than the configuration's is rolled more often in proportion.
        """
        after_ms = settings.renew_after_ms
        if self.idle != settings.idle_s:
            after_ms = after_ms * self.idle // settings.idle_s
        return now - self.last_activity >= after_ms

    def expired(self, now: int) -> Ended | None:
        """Why it is over by the clock at *now* (Unix ms), or None."""
        return policy.expired(now, self.last_activity, self.idle, self.ends)

    def may_live_elsewhere(self, now: int) -> bool:
        """Whether it may be accepted by another host's clock and configuration, or has a later version or lease."""
        record = self.record
        earlier = now - policy.CLOCK_TOLERANCE_MS  # another host's clock may be behind
        by_clock = policy.expired(earlier, self.last_activity, record.idle, record.ends)
        return self.ended not in OVER and by_clock in (None, Ended.FUTURE)


def rank(each: Presented) -> tuple[bool, int, int, int]:
    """Which of several sessions is *the* session: the largest.

    A login outranks an anonymous session: a request that presents none may be in flight during the login, store
    something, be answered after it, and would hide it.
    """
    record = each.record
    return record.authenticated != 0, record.created, record.version, each.last_activity
