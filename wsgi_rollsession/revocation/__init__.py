"""The revocation set: a short-lived, shared, grow-only map from key to number.

Built-in stores, by the scheme of their URL: ``memory``, ``sqlite``, ``redis``, ``rediss``, ``unix``,
``redis+sentinel``, ``redis+cluster``. Another package adds a scheme by the entry point group
``wsgi_rollsession.revocations``: a callable ``(url: str, options: StoreOptions) -> Revocations``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from ..errors import ConfigurationError

__all__ = ["Revocations", "StoreOptions", "open_store"]


@dataclass(frozen=True)
class StoreOptions:
    """What every store is told when it is opened."""

    #: Milliseconds that a fence must be kept after it was raised. A store keeps the largest lifetime that
    #: any process ever announced to it, and uses that: a process with a longer timeout may have issued
    #: sessions that one with a shorter timeout revokes (docs/decisions.md).
    lifetime_ms: int
    #: The amnesia policy. False: a store found empty refuses the sessions created before that moment.
    accept_amnesia: bool = False


class Revocations(Protocol):
    """What the middleware asks of a store. Safe to call from any thread, and after a fork.

    Keys are 16 bytes, numbers are unsigned 32-bit (see ``fence``). A miss is not an error: its number is 0.
    A failure is ``StoreUnavailable``, within the store's documented time bound, and nothing else.
    """

    #: False if only this process sees the set; the middleware then refuses to serve under several processes.
    shared: bool

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        """The numbers of *keys*, for loading a session. May be as old as the store documents."""

    def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
        """The numbers of *keys*, authoritative: includes every fence whose raising has returned, anywhere."""

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        """The numbers that this process knows without asking anybody, for use in an outage. Never raises."""

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        """Raise *keys* to *number*. Returns when the store has confirmed it.

        Merge is ``max``, for the number and for the lifetime: whatever the number, each key is kept for a lifetime
        from now on, or for what is left of its own, if that is longer.
        """

    def fence_now(self, keys: Sequence[bytes]) -> int:
        """Raise *keys* to ``revoked_before(the store's clock)``, or one past what they hold if that is more.

        Returns that number, once confirmed. If it runs seconds ahead of the clock, waits first. The clock does not go
        back within a process (``SteadyClock``). With ``EVERYTHING`` among *keys*, the number is even (see ``fence``).
        """

    def compare_and_raise(self, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]]) -> bool:
        """Raise every (key, number) of *raises* if no key of *limits* holds more than its limit; in one atomic step.

        False, and nothing is raised, if one does. Either may be empty: a raise without a condition, or just the
        question. Held is what the store holds, or this process remembers, whichever is more. Merge as in ``fence``.
        """

    def status(self) -> dict[str, Any]:
        """What an operator wants to know: at least ``fences`` (how many) and ``genesis`` (Unix seconds)."""

    def close(self) -> None:
        """Release connections and threads. Harmless when repeated."""


_BUILT_IN = {
    "memory": "memory:MemoryRevocations",
    "sqlite": "sqlite:SQLiteRevocations",
    "redis": "redis:RedisRevocations",
    "rediss": "redis:RedisRevocations",
    "unix": "redis:RedisRevocations",
    "redis+sentinel": "redis:RedisRevocations",
    "redis+cluster": "redis:RedisRevocations",
}


def open_store(url: str, options: StoreOptions) -> Revocations:
    """The store that *url* names.

    Raises:
        ConfigurationError: the URL has no known scheme, or its store refuses it.
    """
    scheme, found, _ = url.partition(":")
    if not found:
        raise ConfigurationError("revocations: requires a URL such as sqlite:///revocations.db, received no scheme")
    if scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        factory = getattr(import_module(f"{__name__}.{module}"), name).from_url
    else:
        found_points = entry_points(group="wsgi_rollsession.revocations", name=scheme)
        if not found_points:
            known = ", ".join(sorted(_BUILT_IN))
            raise ConfigurationError(f"revocations: requires a scheme of {known}, received {scheme!r}")
        factory = next(iter(found_points)).load()
    return cast(Callable[[str, StoreOptions], Revocations], factory)(url, options)
