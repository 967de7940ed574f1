"""The policy, as tables. Times are milliseconds here, counted from an arbitrary moment."""

from __future__ import annotations

import pytest

from wsgi_rollsession.policy import (
    FINAL,
    Why,
    end,
    expired,
    extended,
    refused,
)
from wsgi_rollsession.revocation.fence import ENDED
from wsgi_rollsession.token import NEVER, UNLIMITED, Lease, Record

T = 1_800_000_000_000
S = T // 1000
HOUR = 3_600_000


def record(*, version: int = 1, created: int = T, idle: int = 3600, ends: int = T + 24 * HOUR) -> Record:
    return Record(bytes(16), version, created, idle, ends, 1, (0,), (), b"{}")


@pytest.mark.parametrize(
    ("lease", "seen", "idle"),
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
def test_extended(lease: Lease, seen: int, idle: int) -> None:
    """A lease moves the last activity forward, shortens the idle timeout at most, and helps no older version."""
    assert extended(record(version=3), T, lease) == (seen, idle)


@pytest.mark.parametrize(
    ("ends", "absolute_ms", "limit"),
    [
        (T + 24 * HOUR, 24 * HOUR, T + 24 * HOUR),
        (T + 24 * HOUR, 8 * HOUR, T + 8 * HOUR),
        (T + 8 * HOUR, 24 * HOUR, T + 8 * HOUR),
        (T + 8 * HOUR, NEVER, T + 8 * HOUR),
        (NEVER, 8 * HOUR, T + 8 * HOUR),
        (NEVER, NEVER, NEVER),
    ],
)
def test_end(ends: int, absolute_ms: int, limit: int) -> None:
    """The absolute deadline that applies is the earlier of the one stamped and the one of today's configuration."""
    assert end(record(ends=ends), absolute_ms) == limit


@pytest.mark.parametrize(
    ("now", "seen", "idle_s", "ends", "why"),
    [
        (T, T, 3600, T + HOUR, None),
        (T + HOUR - 1, T, 3600, NEVER, None),
        (T + HOUR, T, 3600, NEVER, Why.LAPSED),
        (T + HOUR + 59_999, T, 3600, NEVER, Why.LAPSED),
        (T + HOUR + 60_000, T, 3600, NEVER, Why.IDLE),
        (T + HOUR - 1, T + HOUR - 1, 3600, T + HOUR, None),
        (T + HOUR, T + HOUR, 3600, T + HOUR, Why.ABSOLUTE),
        (T + 9 * HOUR, T, 3600, T + HOUR, Why.ABSOLUTE),
        (T + 9 * HOUR, T, UNLIMITED, NEVER, None),
        (T, T + 60_000, 3600, NEVER, None),
        (T, T + 60_001, 3600, NEVER, Why.FUTURE),
        (T, T + 60_001, UNLIMITED, NEVER, Why.FUTURE),
    ],
)
def test_expired(now: int, seen: int, idle_s: int, ends: int, why: Why | None) -> None:
    """A session is over from the very millisecond of its deadline, and one from the future is not believed."""
    assert expired(now, seen, idle_s, ends) is why


@pytest.mark.parametrize(
    ("created", "version", "passed", "numbers", "why"),
    [
        (T, 1, (0,), (0, 0), None),
        (T, 1, (0,), (S, 0), Why.EVERYTHING),
        (T + 1, 1, (0,), (S, 0), None),
        (T, 1, (0,), (S + 1, 0), Why.EVERYTHING),
        (T, 1, (S + 1,), (S + 1, 0), None),
        (T, 1, (S + 2,), (S + 1, 0), None),
        (T, 1, (S + 1,), (S + 2, 0), Why.EVERYTHING),
        (T + 2001, 1, (S + 1,), (S + 2, 0), None),
        (T, 1, (0,), (0, 1), None),
        (T, 1, (0,), (0, 2), Why.SUPERSEDED),
        (T, 7, (0,), (0, 7), None),
        (T, 6, (0,), (0, 7), Why.SUPERSEDED),
        (T, 6, (ENDED,), (0, 7), Why.SUPERSEDED),
        (T, 7, (0,), (0, ENDED), Why.ENDED),
        (T, S, (0,), (0, S), None),
        (T, 1, (0, 0, 0), (0, 0, 0, 0), None),
        (T, 1, (0, 0), (0, 0, S), Why.TAG),
        (T, 1, (0, 0, 0), (0, 0, 0, S), Why.TAG),
        (T + 1, 1, (0, 0, 0), (0, 0, S, S), None),
        (T + 1, 1, (0, 0, 0), (0, 0, S, S + 1), Why.TAG),
        (T, 1, (0, S + 3, S + 2), (0, 0, S + 3, S + 2), None),
        (T, 1, (0, S + 3, S + 2), (0, 0, S + 3, S + 3), Why.TAG),
        (T, 1, (0, S + 3, 0), (0, 0, S + 3, S + 3), Why.TAG),
        (T, 1, (0, S + 3), (S + 3, 0, S + 3), Why.EVERYTHING),
        (T, 1, (S + 3, 0), (S + 3, 0, S + 3), Why.TAG),
        (T, 1, (0, 0), (S, ENDED, S), Why.EVERYTHING),
    ],
)
def test_refused(
    created: int, version: int, passed: tuple[int, ...], numbers: tuple[int, ...], why: Why | None
) -> None:
    """A session is refused on the wrong side of any of its fences: everything's, its own, its tags'.

    But not by a number that the same fence had when the session began.
    """
    session = record(version=version, created=created)._replace(passed=passed)
    assert refused(session, numbers) is why


@pytest.mark.parametrize("why", Why)
def test_final(why: Why) -> None:
    """Cookies are deleted only of a session that no request still in flight can have kept alive or written."""
    assert (why in FINAL) is (why not in (Why.LAPSED, Why.FUTURE, Why.SUPERSEDED))
