"""``memory://``: the revocation set of one process. For tests, development, and servers of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigurationError
from . import StoreOptions
from .clock import CLOCK_STEP_MS, NEVER, next_not_before, wall_clock_ms
from .fence import EVERYTHING, not_before
from .forks import ForkSafeLock
from .replica import Replica


class MemoryRevocations:
    """The protocol over a ``Replica``. A fork gets a copy of its own, so this must not serve several processes.

    Every start begins with an empty set: sessions created before it are refused, unless ``accept_amnesia``.
    """

    shared = False

    def __init__(self, options: StoreOptions, *, _clock: Callable[[], int] = wall_clock_ms) -> None:
        self._lifetime_ms = options.lifetime_ms
        self._clock = _clock
        self._lock = ForkSafeLock()
        self._replica = Replica(options.lifetime_ms)
        self._genesis_ms = _clock()
        self._replica.add(EVERYTHING, 0 if options.accept_amnesia else not_before(self._genesis_ms), NEVER)

    @classmethod
    def from_url(cls, url: str, options: StoreOptions) -> MemoryRevocations:
        """``memory://`` and nothing more.

        Raises:
            ConfigurationError: the URL goes on.
        """
        if url not in ("memory:", "memory://"):
            raise ConfigurationError(f"revocations: requires just memory://, received {url!r}")
        return cls(options)

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._replica.numbers(keys)

    confirm = recall = lookup

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        with self._lock:
            self._raise(keys, number)

    def fence_now(self, keys: Sequence[bytes]) -> int:
        with self._lock:
            number = next_not_before(self._clock(), self._replica.numbers((*keys, EVERYTHING)))
            self._raise(keys, number)
        return number

    def advance(self, key: bytes, current: int, new: int) -> bool:
        with self._lock:
            if self._replica.numbers((key,))[0] > current:
                return False
            self._raise((key,), new)
        return True

    def _raise(self, keys: Sequence[bytes], number: int) -> None:
        now = self._clock()
        self._replica.load((key, number, now + self._lifetime_ms + CLOCK_STEP_MS) for key in keys)
        self._replica.purge(now)

    def status(self) -> dict[str, Any]:
        return {
            "store": "memory",
            "fences": len(self._replica) - 1,
            "genesis": self._genesis_ms // 1000,
            "lifetime": self._lifetime_ms // 1000,
        }

    def close(self) -> None:
        pass
