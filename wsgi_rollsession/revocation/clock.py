"""The store's clocks, where they are the host's, and what is computed from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..errors import StoreUnavailable
from .fence import ENDED, revoked_before
from .forks import ForkSafeLock

#: A time that never comes, in Unix milliseconds.
NEVER = (1 << 63) - 1

#: Fences are kept this much longer than their lifetime, in milliseconds: a wall clock that steps by less, forward and
#: back or just back, has dropped none that still refuses something. A larger step back is treated as a loss.
CLOCK_STEP_MS = 60_000

#: How far, in seconds, repeated revocations may take a revoked-before past that of the clock.
RUN_AHEAD_S = 5

_RETRY_S = 0.1
_RETRIES = 100


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds of a clock that never steps."""
    return time.monotonic_ns() // 1_000_000


class SteadyClock:
    """Unix milliseconds that never go back within this process: the wall clock, held against the monotonic one.

    From it the stores make revoked-before numbers. So when the wall clock steps back, "log out everywhere" still covers
    the sessions that were created before the step.
    """

    def __init__(self, wall: Callable[[], int] = wall_clock_ms, monotonic: Callable[[], int] = monotonic_ms) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = ForkSafeLock()
        self._latest_ms, self._at_ms = wall(), monotonic()

    def __call__(self) -> int:
        with self._lock:
            now, at = self._wall(), self._monotonic()
            self._latest_ms, self._at_ms = max(now, self._latest_ms + at - self._at_ms), at
            return self._latest_ms


def has_stepped_back(now_ms: int, before_ms: int) -> bool:
    """Whether the wall clock, which showed *before_ms* some time ago, went back by more than the margin."""
    return now_ms < before_ms - CLOCK_STEP_MS


def expiry(now_ms: int, number: int, lifetime_ms: int) -> int:
    """Until when a fence is kept that is raised to *number* now. On the clock of *now_ms*, which is the wall clock.

    At least until the clock has passed the number. Otherwise the next revoked-before of its key, after it was gone,
    could be smaller than one that a session has passed.
    """
    expires_ms = now_ms + lifetime_ms
    if number != ENDED and number * 1000 > expires_ms:
        expires_ms = number * 1000
    return expires_ms + CLOCK_STEP_MS


def genesis(store_ms: int, known: Sequence[int] = ()) -> int:
    """The number for ``EVERYTHING`` when fences raised until *store_ms* have been lost. Odd.

    It has to exceed every number that a session may have passed: those *known*, and those that are lost, which had
    run ahead of the clock by at most ``RUN_AHEAD_S``.
    """
    return min(max([revoked_before(store_ms) + RUN_AHEAD_S + 1, *(number + 1 for number in known)]) | 1, ENDED)


def next_revoked_before(store_ms: int, held: Sequence[int], *, everything: bool = False) -> int | None:
    """The number that refuses every session created until now, or None: not just now, ask again in a moment.

    *held* are the present numbers of the keys to be raised. A session that began under one has passed it, so this
    has to be larger; so each of several revocations within a second runs one ahead of the one before (two, if
    ``EVERYTHING`` is among the keys, which *everything* says: the number is even then).
    """
    clock = revoked_before(store_ms)
    number = max([clock, *(one + 1 for one in held)])
    if everything:
        number += number & 1
    # Further ahead than it can run, it was raised before the clock was set back. To wait for that would take too long.
    if RUN_AHEAD_S < number - clock <= 2 * RUN_AHEAD_S:
        return None
    return min(number, ENDED)


def when_it_may(attempt: Callable[[], int | None]) -> int:
    """Wait until *attempt* returns a number, for some seconds at most.

    Raises:
        StoreUnavailable: others revoke the same all the time.
    """
    for _ in range(_RETRIES):
        number = attempt()
        if number is not None:
            return number
        time.sleep(_RETRY_S)
    raise StoreUnavailable("the same is being revoked again and again")
