"""What is alive, and what a response does: pure functions. Times are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from .revocation.fence import ENDED
from .token import NEVER, UNLIMITED, Lease, Record

#: A cookie from further in the future than this was not issued by a clock that can be relied upon.
CLOCK_TOLERANCE_MS = 60_000


def last_seen(record: Record, issued: int, lease: Lease | None) -> int:
    """The last confirmed activity: the later of the cookie's issue and a lease for this version or an earlier one.

    A lease for a *later* version shows that the cookie is an old copy: the lease must not keep it alive.
    """
    if lease is not None and lease.version <= record.version and lease.renewed > issued:
        return lease.renewed
    return issued


def idle_limit(record: Record, lease: Lease | None, idle_s: int) -> int:
    """The idle timeout (s) that applies: the smallest of those stamped and today's."""
    stamped = record.idle if lease is None or lease.idle > record.idle else lease.idle
    return stamped if stamped < idle_s else idle_s


def end(record: Record, absolute_ms: int) -> int:
    """The absolute deadline that applies: the earlier of the one stamped and today's."""
    if absolute_ms == NEVER:
        return record.ends
    return min(record.ends, record.created + absolute_ms)


class Why(Enum):
    """Why a session is not alive."""

    ABSOLUTE = "absolute timeout"
    IDLE = "idle timeout"
    LAPSED = "idle timeout, a moment ago"
    FUTURE = "issued in the future"
    EVERYTHING = "everything was revoked, or the store lost its data"
    ENDED = "logged out"
    SUPERSEDED = "superseded by a later version"
    TAG = "one of its tags was revoked"


#: Those after which no request that is still in flight can show the session alive, so that its cookies can go.
FINAL = frozenset((Why.ABSOLUTE, Why.IDLE, Why.EVERYTHING, Why.ENDED, Why.TAG))


def expired(now: int, seen: int, idle_s: int, ends: int) -> Why | None:
    """Why a session is over by the clock alone, or None."""
    if now >= ends:
        return Why.ABSOLUTE
    if idle_s != UNLIMITED and now >= (deadline := seen + idle_s * 1000):
        # Of two requests sent together, the first may have been in time, and have rolled the session.
        return Why.LAPSED if now < deadline + CLOCK_TOLERANCE_MS else Why.IDLE
    if seen > now + CLOCK_TOLERANCE_MS:
        return Why.FUTURE
    return None


def refused(created: int, version: int, numbers: Sequence[int]) -> Why | None:
    """Why the fences refuse a session, or None. *numbers* are those of everything, the session and its tags."""
    if created <= numbers[0] * 1000:
        return Why.EVERYTHING
    if version < numbers[1]:
        return Why.ENDED if numbers[1] == ENDED else Why.SUPERSEDED
    for number in numbers[2:]:
        if created <= number * 1000:
            return Why.TAG
    return None


def created_after(now: int, numbers: Sequence[int]) -> int:
    """When a new session is created, such that the not-before *numbers* that exist already do not refuse it."""
    return max(now, max(numbers) * 1000 + 1)


class Decision(Enum):
    """What a response does with the session's cookies."""

    NOTHING = "nothing"
    ROLL = "roll"
    WRITE = "write"
    END = "end"


def decide(*, alive: bool, changed: bool, emptied: bool, due: bool) -> Decision:
    """What a response does.

    Args:
        alive: the request presented a session that is alive, or has begun a new one.
        changed: its data, tags or id differ from what the browser holds.
        emptied: it began with content and has none left.
        due: activity was seen, rolling is wanted, and the last confirmed activity is ``renew_after`` ago.
    """
    if not alive:
        return Decision.NOTHING
    if changed:
        return Decision.END if emptied else Decision.WRITE
    return Decision.ROLL if due else Decision.NOTHING
