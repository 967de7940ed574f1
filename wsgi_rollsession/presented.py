"""A session as a request presents it: opened, with the expiry and the fences that apply to it.

What opens is remembered, because a browser sends the same values again and again; whether it is alive is not.
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
from .seal import Unsealable, open_lease, open_session
from .settings import Settings
from .token import Record

#: Session cookies, and pairs of one and its lease, remembered as opened in each process. A roll does not change the
#: session cookie, so a browser sends the same value with every request until something is written.
REMEMBERED = 1024


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


class Site:
    """What all requests share: the settings, the cookies, the revocation set, and what was opened last."""

    __slots__ = ("clock", "cookies", "identity_key", "open", "open_leased", "ring", "settings", "steady_clock", "store")

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
        self.open_leased: Callable[[str, str, str], Opened] = lru_cache(REMEMBERED)(self._open_leased)

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

    def _open_leased(self, name: str, value: str, lease_value: str) -> Opened:
        opened = self.open(name, value)
        issued, idle, _, record, _, _ = opened
        lease = open_lease(self.ring, self.cookies.lease_name(name), record.id, lease_value)
        last_activity, stamped = policy.extended(record, issued, lease)
        return opened._replace(last_activity=last_activity, idle=min(stamped, idle))


class Presented:
    """A session whose cookie the request carried, and which is authentic; or which this request has sealed."""

    __slots__ = ("ended", "ends", "idle", "keys", "last_activity", "limits", "name", "record")

    def __init__(self, name: str, opened: Opened) -> None:
        self.name = name
        self.last_activity, self.idle, self.ends, self.record, self.keys, self.limits = opened
        #: Why it is not alive, or None.
        self.ended: Ended | None = None

    @property
    def key(self) -> bytes:
        """The session's own fence."""
        return self.keys[1]

    @property
    def is_login(self) -> bool:
        return self.record.authenticated != 0

    def expired(self, now: int) -> Ended | None:
        """Why it is over by the clock at *now* (Unix ms), or None."""
        return policy.expired(now, self.last_activity, self.idle, self.ends)

    def may_live_elsewhere(self, now: int) -> bool:
        """Whether it may be accepted by another host's clock and configuration, or has a later version or lease."""
        record = self.record
        earlier = now - policy.CLOCK_TOLERANCE_MS  # another host's clock may be behind
        by_clock = policy.expired(earlier, self.last_activity, record.idle, record.ends)
        return self.ended not in OVER and by_clock in (None, Ended.FUTURE)


def open_presented(site: Site, name: str, value: str, leases: Sequence[str]) -> tuple[Presented, Unsealable | None]:
    """The session in a cookie, with the best authentic of its *leases*; and why a lease was not used, if one was not.

    Raises:
        Unsealable: the cookie is not authentic.
        ValueError: it is authentic and malformed.
    """
    best, refusal = None, None
    for lease in leases:
        try:
            opened = site.open_leased(name, value, lease)
        except Unsealable as error:
            refusal = error
        else:
            if best is None or opened.last_activity > best.last_activity:
                best = opened
    return Presented(name, best if best is not None else site.open(name, value)), refusal


def rank(each: Presented) -> tuple[bool, int, int, int]:
    """Which of several sessions is *the* session: the largest.

    A login outranks an anonymous session: a request that presents none may be in flight during the login, store
    something, be answered after it, and would hide it.
    """
    record = each.record
    return record.authenticated != 0, record.created, record.version, each.last_activity
