"""The store's clock, where that is the host's, and what is computed from it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .fence import not_before

#: An expiry that is never reached, in Unix milliseconds.
NEVER = (1 << 63) - 1

#: Fences are kept this much longer than their lifetime, in milliseconds: a clock that steps forward by less, and
#: back, has dropped none that still refuses something. A larger step is treated as a loss.
CLOCK_STEP_MS = 60_000


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def next_not_before(store_ms: int, held: Sequence[int]) -> int:
    """The number that refuses every session created until now.

    *held* are the present numbers of the keys to be raised and of ``EVERYTHING``: a session created under one
    of them is stamped just after it, up to three seconds ahead of the clock, and this has to go past that.
    """
    number = not_before(store_ms)
    return max([number, *(one + 1 for one in held if one >= number)])
