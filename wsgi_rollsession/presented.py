"""A session as a request presents it: opened, with the expiry and the fences that apply to it.

What opens is remembered, because a browser sends the same values again and again; whether it is alive is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from time import time
from typing import NamedTuple

from . import policy, token
from .cookies import Cookies
from .keys import KeyRing
from .policy import FINAL, OVER
from .revocation import Revocations
from .revocation.fence import EVERYTHING, session_digest
from .seal import Unsealable, open_lease, open_session
from .settings import Settings
from .token import ESTABLISHED, Record

log = logging.getLogger("wsgi_rollsession")

#: Session cookies, and pairs of one and its lease, remembered as opened in each process. A roll does not change the
#: session cookie, so a browser sends the same value with every request until something is written.
REMEMBERED = 1024


class Opened(NamedTuple):
    """What a session cookie, with its lease if there is one, says by itself, whenever it is presented."""

    #: The last confirmed activity (Unix ms), and the idle timeout (s) and deadline (Unix ms) that apply.
    seen: int
    idle: int
    ends: int
    record: Record
    #: Those of the fences that apply, as ``policy.refused`` wants them. The second is the session's own.
    keys: tuple[bytes, ...]


class Context:
    """What every request shares: made once."""

    __slots__ = (
        "absolute_ms",
        "clock",
        "cookies",
        "idle_s",
        "open",
        "open_leased",
        "outage",
        "renew_after_ms",
        "ring",
        "rolls",
        "store",
        "strict",
    )

    def __init__(self, settings: Settings, ring: KeyRing, store: Revocations) -> None:
        self.ring = ring
        self.store = store
        self.clock: Callable[[], float] = time
        self.cookies = Cookies(settings)
        self.rolls = settings.rolls
        self.strict = settings.strict
        self.outage = settings.outage
        self.idle_s = settings.idle_s
        self.absolute_ms = settings.absolute_ms
        self.renew_after_ms = settings.renew_after_ms
        # Pure functions of what is in the cookies: whether the session is alive is asked every time. What does not open
        # raises, and is not remembered.
        self.open: Callable[[str, str], Opened] = lru_cache(REMEMBERED)(self._open)
        self.open_leased: Callable[[str, str, str], Opened] = lru_cache(REMEMBERED)(self._open_leased)

    def _open(self, name: str, value: str) -> Opened:
        issued, plaintext = open_session(self.ring, name, value)
        record = token.unpack(plaintext)
        keys = (EVERYTHING, session_digest(record.id)[:16], *record.tags)
        return Opened(issued, policy.idle(record, self.idle_s), policy.end(record, self.absolute_ms), record, keys)

    def _open_leased(self, name: str, value: str, lease_value: str) -> Opened:
        issued, idle, ends, record, keys = self.open(name, value)
        lease = open_lease(self.ring, self.cookies.lease_name(name), record.id, lease_value)
        seen, stamped = policy.extended(record, issued, lease)
        return Opened(seen, min(stamped, idle), ends, record, keys)


class Presented:
    """A session whose cookie the request carried, and which is authentic."""

    __slots__ = ("ends", "has_lease", "idle", "keys", "name", "record", "seen", "why")

    def __init__(self, context: Context, name: str, value: str, lease_value: str | None, now: int) -> None:
        if lease_value is None:
            opened = context.open(name, value)
        else:
            try:
                opened = context.open_leased(name, value, lease_value)
            except Unsealable as error:
                opened = context.open(name, value)  # raises, if it was not the lease
                log.info("lease of session cookie %r ignored: %s", name, error)
        self.name = name
        self.has_lease = lease_value is not None
        self.seen, self.idle, self.ends, self.record, self.keys = opened
        #: Why the session is not alive, or None.
        self.why = policy.expired(now, self.seen, self.idle, self.ends)

    @property
    def key(self) -> bytes:
        """The session's own fence."""
        return self.keys[1]

    def is_somebody(self, now: int) -> bool:
        """Whether it says who its user is, and may still be accepted somewhere, under another configuration even."""
        record = self.record
        earlier = now - policy.CLOCK_TOLERANCE_MS  # another host's clock may be behind
        if self.why in OVER or policy.expired(earlier, self.seen, record.idle, record.ends) in FINAL:
            return False
        return bool(record.tags or record.flags & ESTABLISHED)
