"""A failing store is not hammered: after a failure, calls fail at once for a while, and one tries again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import StoreUnavailable
from .forks import ForkSafeLock

log = logging.getLogger("wsgi_rollsession")
T = TypeVar("T")


class Busy(StoreUnavailable):
    """So many wanted to be served that this one was not in time. That is no failure of the store."""


class Breaker:
    """Wraps the calls of one store that can fail, and logs each transition once.

    Args:
        name: what the log calls the store; it must carry no password.
        pause: seconds during which calls fail without being tried, after one has failed.
    """

    def __init__(self, name: str, pause: float = 1.0) -> None:
        self._name = name
        self._pause = pause
        self._lock = ForkSafeLock()
        self._down_since = 0.0  # 0: up
        self._retry_at = 0.0

    @property
    def is_down(self) -> bool:
        return self._down_since != 0.0

    def call(self, function: Callable[..., T], *args: object) -> T:
        """``function(*args)``, which raises ``StoreUnavailable`` when the store does not answer."""
        if self._down_since:
            with self._lock:
                now = time.monotonic()
                if self._down_since and now < self._retry_at:
                    raise StoreUnavailable(f"{self._name} is unavailable; next try in {self._retry_at - now:.1f} s")
                self._retry_at = now + self._pause  # this thread tries; the others fail until it has succeeded
        try:
            result = function(*args)
        except Busy:
            raise
        except StoreUnavailable as error:
            self._failed(error)
            raise
        if self._down_since:
            self._recovered()
        return result

    def _failed(self, error: StoreUnavailable) -> None:
        with self._lock:
            now = time.monotonic()
            self._retry_at = now + self._pause
            first, self._down_since = not self._down_since, self._down_since or now
        if first:
            log.error("revocation store %s is unavailable: %s", self._name, error)

    def _recovered(self) -> None:
        with self._lock:
            down, self._down_since = self._down_since, 0.0
        if down:
            log.warning("revocation store %s is available again after %.1f s", self._name, time.monotonic() - down)
