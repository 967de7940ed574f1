"""The store's clock, where that is the host's, and what is computed from it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .fence import not_before

#: An expiry that is never reached, in Unix milliseconds.
NEVER = (1 << 63) - 1


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def next_not_before(store_ms: int, held: Sequence[int]) -> int:
    """The number that refuses every session created until now, where *held* are the present numbers.

    A session created under a fence is stamped just after it, which may be up to three seconds ahead of the
    clock. So a second "log out everywhere" within that time has to go past the first.
    """
    return max(not_before(store_ms), *(number + 1 for number in held if number >= not_before(store_ms)), 0)
