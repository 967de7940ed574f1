"""What is alive: pure functions. Times are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from .revocation.fence import ENDED
from .token import NEVER, UNLIMITED, Lease, Record, epoch

#: A cookie from further in the future than this was not issued by a clock that can be relied upon.
CLOCK_TOLERANCE_MS = 60_000


class Ended(str, Enum):
    """Why nobody is logged in. The value is for people; ``session.ended is Ended.IDLE`` is for programs."""

    #: The request presented no login.
    NEVER = "never logged in"
    #: Its cookie was sealed with a key that is not in the ring.
    KEY_GONE = "sealed with a key that is gone"
    #: No activity for longer than the idle timeout.
    IDLE = "idle timeout"
    #: The absolute timeout since the login has passed.
    ABSOLUTE = "absolute timeout"
    #: Issued more than a minute ahead of this machine's clock.
    FUTURE = "issued in the future"
    #: By itself, or by ``revoke_session``.
    LOGGED_OUT = "logged out"
    #: A later version or epoch of the same login exists: this is an old copy, or the later one is on its way.
    SUPERSEDED = "superseded by a later version"
    #: By one of its tags, or by ``revoke_everything``.
    REVOKED = "revoked"
    #: The revocation store has lost its data since.
    STORE_LOST = "the revocation store lost its data"

    def __str__(self) -> str:
        return self.value


#: Over for everybody, whatever other versions or leases of the session there may be. Nothing is by a clock: that of
#: another host may be behind, or its configuration may be that of yesterday.
OVER = frozenset((Ended.LOGGED_OUT, Ended.REVOKED, Ended.STORE_LOST))


def extended(record: Record, issued: int, lease: Lease) -> tuple[int, int]:
    """The last confirmed activity, and the idle timeout (s) stamped, of a session with a lease.

    A lease for a *later* version, or another epoch, shows that the cookie is an old copy: it must not keep it alive.
    """
    if lease.version > record.version or epoch(lease.version) != epoch(record.version) or lease.renewed <= issued:
        return issued, record.idle
    return lease.renewed, min(record.idle, lease.idle)


def idle(record: Record, idle_s: int) -> int:
    """The idle timeout (s) that applies: the smaller of the one stamped and today's."""
    return record.idle if record.idle < idle_s else idle_s


def end(record: Record, absolute_ms: int) -> int:
    """The absolute deadline that applies, counted from the login: the earlier of the one stamped and today's."""
    if absolute_ms == NEVER:
        return record.ends
    today = (record.authenticated or record.created) + absolute_ms
    return record.ends if record.ends < today else today


def expired(now: int, last_activity: int, idle_s: int, ends: int) -> Ended | None:
    """Why a session is over by the clock alone, or None. *idle_s* is the smaller of that stamped and today's."""
    if now >= ends:
        return Ended.ABSOLUTE
    if idle_s != UNLIMITED and now >= last_activity + idle_s * 1000:
        return Ended.IDLE
    if last_activity > now + CLOCK_TOLERANCE_MS:
        return Ended.FUTURE
    return None


def limits(record: Record) -> tuple[int, ...]:
    """The largest numbers that the fences of everything, of the session and of its tags may have for it to be alive.

    A fence of everything or of a tag refuses what was created until its number, unless the session has passed it.
    """
    earlier = (record.created - 1) // 1000  # the largest number that lies before the creation
    passed, *of_tags = [earlier if earlier > number else number for number in record.passed]
    return (passed, record.version, *of_tags)


def refused(numbers: Sequence[int], limits: Sequence[int]) -> Ended | None:
    """Why the fences refuse a session, or None. *numbers* are today's, *limits* those of the session."""
    for at, limit in enumerate(limits):
        number = numbers[at]
        if number > limit:
            if at == 0:
                # The lowest bit says why everything was raised (``revocation.fence``).
                return Ended.STORE_LOST if number & 1 else Ended.REVOKED
            if at == 1:
                return Ended.LOGGED_OUT if number == ENDED else Ended.SUPERSEDED
            return Ended.REVOKED
    return None
