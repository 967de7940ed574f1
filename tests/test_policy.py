"""The policy, as tables. Times are milliseconds here, counted from an arbitrary moment."""

from __future__ import annotations

import pytest

from wsgi_rollsession.policy import OVER, Ended, end, expired, extended, idle, limits, refused
from wsgi_rollsession.revocation.fence import ENDED
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease, Record

T = 1_800_000_000_000
S = T // 1000
HOUR = 3_600_000
EVERYTHING = "by everything"


def record(
    *, version: int = 1, created: int = T, authenticated: int = 0, idle: int = 3600, ends: int = T + 24 * HOUR
) -> Record:
    return Record(bytes(16), version, created, authenticated, idle, ends, 0, (0,), (), b"{}")


@pytest.mark.parametrize(
    ("lease", "last_activity", "stamped"),
    [
        (Lease(T + 5, 3600, 3), T + 5, 3600),
        (Lease(T - 5, 3600, 3), T, 3600),
        (Lease(T, 3600, 3), T, 3600),
        (Lease(T + 5, 3600, 2), T + 5, 3600),
        (Lease(T + 5, 3600, 4), T, 3600),
        (Lease(T + 5, 3600, ENDED), T, 3600),
        (Lease(T + 5, 900, 3), T + 5, 900),
        (Lease(T + 5, 7200, 3), T + 5, 3600),
        (Lease(T + 5, UNLIMITED, 3), T + 5, 3600),
        (Lease(T - 5, 900, 3), T, 3600),
        (Lease(T + 5, 900, 4), T, 3600),
    ],
    ids=[
        "later",
        "earlier",
        "same moment",
        "of an earlier version",
        "of the next version",
        "of the last version",
        "of a shorter timeout",
        "of a longer timeout",
        "of no timeout",
        "earlier, of a shorter timeout",
        "of the next version, of a shorter timeout",
    ],
)
def test_extended(lease: Lease, last_activity: int, stamped: int) -> None:
    """A lease moves the last activity forward, shortens the idle timeout at most, and helps no older version."""
    assert extended(record(version=3), T, lease) == (last_activity, stamped)


@pytest.mark.parametrize(
    ("version", "of_lease", "counts"),
    [
        (1 << 16 | 3, 1 << 16 | 3, True),
        (1 << 16 | 3, 1 << 16 | 1, True),
        (1 << 16 | 3, 1 << 16 | 4, False),
        (1 << 16 | 3, 3, False),
        (1 << 16 | 1, 65_535, False),
        (3, 1 << 16 | 1, False),
        (2 << 16 | 1, 1 << 16 | 65_535, False),
    ],
)
def test_a_lease_is_of_an_epoch(version: int, of_lease: int, counts: bool) -> None:
    """A lease of another epoch does not extend a session, whichever number is larger."""
    lease = Lease(T + 5, 3600, of_lease)
    assert extended(record(version=version), T, lease) == (T + 5 if counts else T, 3600)


@pytest.mark.parametrize(
    ("stamped", "today", "applies"),
    [(3600, 3600, 3600), (3600, 900, 900), (900, 3600, 900), (UNLIMITED, 900, 900), (900, UNLIMITED, 900)],
)
def test_idle(stamped: int, today: int, applies: int) -> None:
    """The idle timeout that applies is the smaller of the one stamped and the one of today's configuration."""
    assert idle(record(idle=stamped), today) == applies


@pytest.mark.parametrize(
    ("authenticated", "ends", "absolute_ms", "limit"),
    [
        (0, T + 24 * HOUR, 24 * HOUR, T + 24 * HOUR),
        (0, T + 24 * HOUR, 8 * HOUR, T + 8 * HOUR),
        (0, T + 8 * HOUR, 24 * HOUR, T + 8 * HOUR),
        (0, T + 8 * HOUR, NEVER, T + 8 * HOUR),
        (0, NEVER, 8 * HOUR, T + 8 * HOUR),
        (0, NEVER, NEVER, NEVER),
        (T, T + 24 * HOUR, 8 * HOUR, T + 8 * HOUR),
        (T + HOUR, T + 25 * HOUR, 24 * HOUR, T + 25 * HOUR),
        (T + HOUR, T + 25 * HOUR, 8 * HOUR, T + 9 * HOUR),
        (T + HOUR, T + 2 * HOUR, 8 * HOUR, T + 2 * HOUR),
        (T + HOUR, NEVER, NEVER, NEVER),
    ],
)
def test_end(authenticated: int, ends: int, absolute_ms: int, limit: int) -> None:
    """The absolute deadline that applies is the earlier of the one stamped and today's, counted from the login."""
    assert end(record(authenticated=authenticated, ends=ends), absolute_ms) == limit


@pytest.mark.parametrize(
    ("now", "last_activity", "idle_s", "ends", "why"),
    [
        (T, T, 3600, T + HOUR, None),
        (T + HOUR - 1, T, 3600, NEVER, None),
        (T + HOUR, T, 3600, NEVER, Ended.IDLE),
        (T + HOUR + 60_000, T, 3600, NEVER, Ended.IDLE),
        (T + HOUR - 1, T + HOUR - 1, 3600, T + HOUR, None),
        (T + HOUR, T + HOUR, 3600, T + HOUR, Ended.ABSOLUTE),
        (T + 9 * HOUR, T, 3600, T + HOUR, Ended.ABSOLUTE),
        (T + 9 * HOUR, T, UNLIMITED, NEVER, None),
        (T, T + 60_000, 3600, NEVER, None),
        (T, T + 60_001, 3600, NEVER, Ended.FUTURE),
        (T, T + 60_001, UNLIMITED, NEVER, Ended.FUTURE),
    ],
)
def test_expired(now: int, last_activity: int, idle_s: int, ends: int, why: Ended | None) -> None:
    """A session is over from the very millisecond of its deadline, and one from the future is not believed."""
    assert expired(now, last_activity, idle_s, ends) is why


@pytest.mark.parametrize(
    ("created", "version", "passed", "numbers", "why"),
    [
        (T, 1, (0,), (0, 0), None),
        (T, 1, (0,), (S, 0), EVERYTHING),
        (T + 1, 1, (0,), (S, 0), None),
        (T, 1, (0,), (S + 1, 0), EVERYTHING),
        (T, 1, (S + 1,), (S + 1, 0), None),
        (T, 1, (S + 2,), (S + 1, 0), None),
        (T, 1, (S + 1,), (S + 2, 0), EVERYTHING),
        (T + 2001, 1, (S + 1,), (S + 2, 0), None),
        (T, 1, (0,), (0, 1), None),
        (T, 1, (0,), (0, 2), Ended.SUPERSEDED),
        (T, 7, (0,), (0, 7), None),
        (T, 6, (0,), (0, 7), Ended.SUPERSEDED),
        (T, 6, (ENDED,), (0, 7), Ended.SUPERSEDED),
        (T, 7, (0,), (0, ENDED), Ended.LOGGED_OUT),
        (T, S, (0,), (0, S), None),
        (T, 1, (0, 0, 0), (0, 0, 0, 0), None),
        (T, 1, (0, 0), (0, 0, S), Ended.REVOKED),
        (T, 1, (0, 0, 0), (0, 0, 0, S), Ended.REVOKED),
        (T + 1, 1, (0, 0, 0), (0, 0, S, S), None),
        (T + 1, 1, (0, 0, 0), (0, 0, S, S + 1), Ended.REVOKED),
        (T, 1, (0, S + 3, S + 2), (0, 0, S + 3, S + 2), None),
        (T, 1, (0, S + 3, S + 2), (0, 0, S + 3, S + 3), Ended.REVOKED),
        (T, 1, (0, S + 3, 0), (0, 0, S + 3, S + 3), Ended.REVOKED),
        (T, 1, (0, S + 3), (S + 3, 0, S + 3), EVERYTHING),
        (T, 1, (S + 3, 0), (S + 3, 0, S + 3), Ended.REVOKED),
        (T, 1, (0, 0), (S, ENDED, S), EVERYTHING),
    ],
)
def test_refused(
    created: int, version: int, passed: tuple[int, ...], numbers: tuple[int, ...], why: Ended | str | None
) -> None:
    """A session is refused on the wrong side of any of its fences: everything's, its own, its tags'.

    But not by a number that the same fence had when the session began.
    """
    session = record(version=version, created=created)._replace(passed=passed)
    if why is EVERYTHING:  # an even number is that of a revocation
        why = Ended.STORE_LOST if numbers[0] % 2 else Ended.REVOKED
    assert refused(numbers, limits(session)) is why


@pytest.mark.parametrize(
    ("created", "passed", "expected"),
    [
        (T, (0,), (S - 1, 7)),
        (T + 1, (0,), (S, 7)),
        (T + 999, (S + 2, 0), (S + 2, 7, S)),
        (T, (0, S, S - 1), (S - 1, 7, S, S - 1)),
        (0, (0,), (0, 7)),
        (1, (0,), (0, 7)),
    ],
)
def test_limits(created: int, passed: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """A fence may have the number that the session has passed, or any that lies before its creation."""
    assert limits(record(version=7, created=created)._replace(passed=passed)) == expected


@pytest.mark.parametrize(("number", "why"), [(S + 2, Ended.REVOKED), (S + 3, Ended.STORE_LOST)])
def test_the_number_of_everything_says_why(number: int, why: Ended) -> None:
    """An even number of everything is a revocation, an odd one a loss of data: whatever the second of the clock."""
    for shift in (0, 2, 4, 1_000_000):
        assert refused((number + shift, ENDED), (S, 1)) is why


@pytest.mark.parametrize("why", Ended)
def test_over(why: Ended) -> None:
    """By nothing but a fence is a session over for everybody; a later version is not its end."""
    assert (why in OVER) is (why in (Ended.LOGGED_OUT, Ended.REVOKED, Ended.STORE_LOST))
    assert str(why) == why.value
