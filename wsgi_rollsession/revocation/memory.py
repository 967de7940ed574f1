"""``memory://``: the revocation set of one process. For tests, development, and servers of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..errors import ConfigurationError
from . import StoreOptions
from .clock import (
    SteadyClock,
    expiry,
    genesis,
    has_stepped_back,
    monotonic_ms,
    next_revoked_before,
    wall_clock_ms,
    when_it_may,
)
from .fence import EVERYTHING, exceed
from .forks import ForkSafeLock
from .local_set import LocalSet

_first = ForkSafeLock()


class MemoryRevocations:
    """The protocol over a ``LocalSet``. A fork gets a copy of its own, so this must not serve several processes.

    ``memory://`` is one set a process, whoever opens it; each object made otherwise is a set of its own. Every start
    begins with an empty set: sessions created before it are refused, unless ``accept_amnesia``.
    """

    shared = False
    _of_process: ClassVar[MemoryRevocations | None] = None

    def __init__(
        self,
        options: StoreOptions,
        *,
        _clock: Callable[[], int] = wall_clock_ms,
        _monotonic: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._options = options
        self._clock = _clock
        self._monotonic = _monotonic
        self._lock = ForkSafeLock()
        self._steady = SteadyClock(_clock, _monotonic)
        self._local = LocalSet(options.lifetime_ms)
        self._latest_ms = _clock()  # when an entry may have been dropped last
        self._ahead_ms = self._latest_ms - _monotonic()  # the wall clock, less the monotonic one
        self._refuse_until(self._latest_ms)

    def _refuse_until(self, lost_until_ms: int) -> None:
        """Refuse the sessions created until then, whose fences may not be here."""
        self._genesis_ms = lost_until_ms
        number = genesis(max(lost_until_ms, self._steady()), self._local.numbers((EVERYTHING,)))
        self._local.add(EVERYTHING, 0 if self._options.accept_amnesia else number, 0)

    @classmethod
    def from_url(cls, url: str, options: StoreOptions) -> MemoryRevocations:
        """``memory://`` and nothing more.

        Raises:
            ConfigurationError: the URL goes on.
        """
        if url not in ("memory:", "memory://"):
            raise ConfigurationError(f"revocations: requires just memory://, received {url!r}")
        with _first:
            opened = MemoryRevocations._of_process
            if opened is None:
                opened = MemoryRevocations._of_process = cls(options)
            else:
                opened._open_again(options)
            return opened

    def _open_again(self, options: StoreOptions) -> None:
        """Go by the longest lifetime, and refuse what was created before this set began, unless all accept it."""
        with self._lock:
            before = self._options
            accept_amnesia = before.accept_amnesia and options.accept_amnesia
            self._options = StoreOptions(max(before.lifetime_ms, options.lifetime_ms), accept_amnesia)
            self._local.lifetime_ms = self._options.lifetime_ms
            if before.accept_amnesia and not accept_amnesia:
                self._refuse_until(self._genesis_ms)

    @classmethod
    def by_clock(cls, options: StoreOptions, clock: Callable[[], float]) -> MemoryRevocations:
        """One whose time is that of *clock*, in Unix seconds, which may stand still, and not go back: for tests."""
        begun = monotonic_ms()

        def milliseconds() -> int:
            return int(clock() * 1000)

        def wall() -> int:
            # Who revokes the same again and again waits for this clock, also while the other one stands still.
            return milliseconds() + monotonic_ms() - begun

        return cls(options, _clock=wall, _monotonic=milliseconds)

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        if has_stepped_back(self._clock(), self._latest_ms):
            with self._lock:
                self._notice_step()
        return self._local.numbers(keys)

    def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
        self._steady()  # which knows of the wall clock what it has seen: sessions begin with this question
        return MemoryRevocations.lookup(self, keys)

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._local.numbers(keys)

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        with self._lock:
            self._notice_step()
            self._raise([(key, number) for key in keys])

    def fence_now(self, keys: Sequence[bytes]) -> int:
        def attempt() -> int | None:
            with self._lock:
                self._notice_step()
                held = self._local.numbers(keys)
                number = next_revoked_before(self._steady(), held, everything=EVERYTHING in keys)
                if number is not None:
                    self._raise([(key, number) for key in keys])
            return number

        return when_it_may(attempt)

    def compare_and_raise(self, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]]) -> bool:
        with self._lock:
            self._notice_step()
            if exceed(self._local.numbers([key for key, _ in limits]), limits):
                return False
            self._raise(raises)
        return True

    def _raise(self, raises: Sequence[tuple[bytes, int]]) -> None:
        wall, now, lifetime = self._clock(), self._monotonic(), self._options.lifetime_ms
        self._local.load((key, number, now + expiry(wall, number, lifetime) - wall) for key, number in raises)
        self._local.purge(now)

    def _notice_step(self) -> None:
        """When the wall clock has gone back, sessions live longer than the fences that refuse them."""
        now, monotonic = self._clock(), self._monotonic()
        expected = max(monotonic + self._ahead_ms, self._latest_ms)
        if has_stepped_back(now, expected):
            self._refuse_until(expected)
            self._latest_ms, self._ahead_ms = now, now - monotonic
        else:
            self._latest_ms, self._ahead_ms = max(now, self._latest_ms), max(now - monotonic, self._ahead_ms)

    def status(self) -> dict[str, Any]:
        return {
            "store": "memory",
            "fences": len(self._local) - 1,
            "genesis": self._genesis_ms // 1000,
            "lifetime": self._options.lifetime_ms // 1000,
        }

    def close(self) -> None:
        pass
