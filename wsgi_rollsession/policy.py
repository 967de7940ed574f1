"""What is alive: pure functions. Times are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from .revocation.fence import ENDED
from .token import NEVER, UNLIMITED, Lease, Record

#: A cookie from further in the future than this was not issued by a clock that can be relied upon.
CLOCK_TOLERANCE_MS = 60_000


def extended(record: Record, issued: int, lease: Lease) -> tuple[int, int]:
    """The last confirmed activity, and the idle timeout (s) stamped, of a session with a lease.

    A lease for a *later* version shows that the cookie is an old copy: the lease must not keep it alive.
    """
    if lease.version > record.version or lease.renewed <= issued:
        return issued, record.idle
    return lease.renewed, min(record.idle, lease.idle)


def idle(record: Record, idle_s: int) -> int:
    """The idle timeout (s) that applies: the smaller of the one stamped and today's."""
    return record.idle if record.idle < idle_s else idle_s


def end(record: Record, absolute_ms: int) -> int:
    """The absolute deadline that applies: the earlier of the one stamped and today's."""
    if absolute_ms == NEVER:
        return record.ends
    today = record.created + absolute_ms
    return record.ends if record.ends < today else today


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


#: Over for everybody, whatever other versions or leases of the session there may be. Nothing is by a clock: that of
#: another host may be behind, or its configuration may be that of yesterday.
OVER = frozenset((Why.EVERYTHING, Why.ENDED, Why.TAG))
#: Those after which no request that is still in flight will show the session alive, so that its cookies can go.
FINAL = OVER | {Why.ABSOLUTE, Why.IDLE}


def expired(now: int, seen: int, idle_s: int, ends: int) -> Why | None:
    """Why a session is over by the clock alone, or None. *idle_s* is the smaller of that stamped and today's."""
    if now >= ends:
        return Why.ABSOLUTE
    if idle_s != UNLIMITED and now >= (deadline := seen + idle_s * 1000):
        # Of two requests sent together, the first may have been in time, and have rolled the session.
        return Why.LAPSED if now < deadline + CLOCK_TOLERANCE_MS else Why.IDLE
    if seen > now + CLOCK_TOLERANCE_MS:
        return Why.FUTURE
    return None


def refused(record: Record, numbers: Sequence[int]) -> Why | None:
    """Why the fences refuse a session, or None. *numbers* are today's, of everything, the session itself and its tags.

    By a number that the same fence had when the session began, nothing is refused: ``Record.passed``.
    """
    _, version, created, _, _, _, passed, _, _ = record
    if numbers[0] > passed[0] and created <= numbers[0] * 1000:
        return Why.EVERYTHING
    if version < numbers[1]:
        return Why.ENDED if numbers[1] == ENDED else Why.SUPERSEDED
    for at in range(2, len(numbers)):
        if numbers[at] > passed[at - 1] and created <= numbers[at] * 1000:
            return Why.TAG
    return None
