"""The protocol, on Redis.

It is asked in one round trip; or, with ``follow=1``, every process follows the stream of raised fences and loads
cost no round trip (``follower``). Rolls and writes ask in either case.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar

from ...errors import StoreUnavailable
from .. import StoreOptions
from ..breaker import Breaker
from ..clock import when_it_may
from ..fence import EVERYTHING, exceed
from ..local_set import LocalSet
from .address import RedisAddress, parse
from .follower import Follower
from .scripts import COMPARE_AND_RAISE, FENCE, FENCE_NOW, Script
from .shard import Refused, Shard, Shards, deadline
from .status import status
from .wire import FAILURES

log = logging.getLogger("wsgi_rollsession")
T = TypeVar("T")


class RedisRevocations:
    """See ``Revocations``. A call returns or fails within ``address.CALL_TIMEOUT``.

    What this process raised or was told of, it remembers, and answers are never below that. So a primary that lost
    a fence in a fail-over does not make a process forget it that knew it.
    """

    shared = True

    def __init__(self, address: RedisAddress, options: StoreOptions) -> None:
        self._known = known = LocalSet(options.lifetime_ms)
        self._shards = Shards(address, options, lambda number: known.add(EVERYTHING, number, 0))
        self._wait = address.wait
        self._writing = Breaker(f"{address} (writing)", pause=0.0)
        self._remembered = self._known.numbers if len(self._shards.all) == 1 else self._remembered_by_shard
        self._lifetime_ms = options.lifetime_ms
        self._follower = None
        if address.follow:
            self._follower = Follower(self._shards, self._known, address.max_staleness)
            # The thread must not keep a store alive that nobody uses any more.
            weakref.finalize(self, self._follower.stop)
        self._try_it()

    @classmethod
    def from_url(cls, url: str, options: StoreOptions) -> RedisRevocations:
        """
        Raises:
            ConfigurationError: names the part of *url*, what it requires and what it received.
        """
        return cls(parse(url), options)

    def _try_it(self) -> None:
        """Ask once, so that what is wrong with the address is not found out by the first logout."""
        try:
            until = deadline()
            for shard in self._shards.all:
                _translated(shard.numbers, (EVERYTHING,), until)
        except StoreUnavailable as error:
            log.error("revocation store %s cannot be used: %s", self._shards.address, error)
        finally:
            self._shards.close()  # who is forked from this process needs connections of its own

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        follower = self._follower
        if follower is not None:
            if monotonic() < follower.fresh_until:
                return self._remembered(keys)
            follower.start()
        return self.lookup_now(keys)

    def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
        known = self._remembered(keys)
        found = dict(zip(keys, known, strict=True))
        until = deadline()
        for shard, some in self._shards.group(keys, everywhere=False).items():
            for key, number in zip(some, self._numbers(shard, some, until), strict=True):
                if number > found[key]:
                    found[key] = number
        numbers = [found[key] for key in keys]
        if numbers != known:
            self._learn(found.items())
        return numbers

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._remembered(keys)

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        until = deadline()
        for shard, some in self._shards.group(keys, everywhere=True).items():
            self._write(shard, FENCE, some, number, until=until, retry=True)
        self._learn((key, number) for key in keys)

    def fence_now(self, keys: Sequence[bytes]) -> int:
        """See ``Revocations``. It waits for some seconds if *keys* were revoked several times just now (``clock``)."""
        groups = self._shards.group(keys, everywhere=True)
        number, numbers = 0, {}
        for shard, some in groups.items():

            def attempt(shard: Shard = shard, some: Sequence[bytes] = some, least: int = number) -> int | None:
                return int(self._write(shard, FENCE_NOW, some, least, until=deadline(), retry=True)) or None

            number = numbers[shard] = when_it_may(attempt)
        for shard, some in groups.items():
            if numbers[shard] < number:  # a later shard's clock, or what it held, was ahead
                self._write(shard, FENCE, some, number, until=deadline(), retry=True)
        self._learn((key, number) for key in keys)
        return number

    def compare_and_raise(self, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]]) -> bool:
        """See ``Revocations``. One script, so one atomic step, on one server.

        A cluster has no such step over several shards. There, the limits of the other shards are asked first; then the
        shard of the first raise decides, by its own limits, atomically with its own raises; then the rest is raised.
        What is raised in another shard between question and decision is not seen; and if a shard fails after the
        decision, that raises ``StoreUnavailable`` although some were raised, as whenever that may have happened.
        """
        keys = [key for key, _ in limits]
        if exceed(self._remembered(keys), limits):  # also if a fail-over lost it
            return False
        if not raises:
            return not exceed(self.lookup_now(keys), limits)
        until = deadline()
        parts = self._shards.group([key for key, _ in raises], everywhere=True)
        asked = self._shards.group(keys, everywhere=False)
        first = next(iter(parts))
        own = asked.pop(first, [])
        for shard, some in asked.items():
            others = _of(some, limits)
            if exceed(self._numbers(shard, [key for key, _ in others], until), others):
                return False
        if not self._compare_and_raise(first, _of(own, limits), _of(parts.pop(first), raises), until):
            return False
        for shard, some in parts.items():
            self._compare_and_raise(shard, (), _of(some, raises), until)
        self._learn(raises)
        return True

    def _compare_and_raise(
        self, shard: Shard, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]], until: float
    ) -> bool:
        keys, numbers = zip(*limits, *raises)
        # Not repeated on a fresh connection if a second try would be refused by what the first one wrote.
        retry = not any(key == raised and number > limit for key, limit in limits for raised, number in raises)
        value = self._write(shard, COMPARE_AND_RAISE, keys, len(limits), *numbers, until=until, retry=retry)
        if value != b"1":
            return False
        for key, number in raises:
            if key == EVERYTHING:
                shard.raised(number)
        return True

    def status(self) -> dict[str, Any]:
        until = deadline()
        shards = [shard.breaker.call(_translated, status, shard, until) for shard in self._shards.all]
        whole = shards[0]
        for shard in shards[1:]:
            for name in ("fences", "stream_length", "memory_bytes"):
                whole[name] += shard[name]
            for name in ("genesis", "lifetime"):
                whole[name] = max(whole[name], shard[name])
            whole["followers"] |= shard["followers"]
        return {"store": str(self._shards.address), "shards": len(shards), **whole}

    def close(self) -> None:
        if self._follower is not None:
            self._follower.stop()
        self._shards.close()

    def _remembered_by_shard(self, keys: Sequence[bytes]) -> list[int]:
        """Of a cluster: the everything-fence that counts is that of the shards that the other keys are in."""
        numbers = self._known.numbers(keys)
        if EVERYTHING in keys:
            everything = max(shard.epoch.everything for shard in self._shards.group(keys, everywhere=False))
            return [everything if key == EVERYTHING else n for key, n in zip(keys, numbers, strict=True)]
        return numbers

    def _learn(self, fences: Iterable[tuple[bytes, int]]) -> None:
        now = int(time.monotonic() * 1000)
        self._known.load((key, number, now + self._lifetime_ms) for key, number in fences if number)
        self._known.purge(now)

    def _numbers(self, shard: Shard, keys: Sequence[bytes], until: float) -> Sequence[int]:
        numbers: Sequence[int] = shard.breaker.call(_translated, shard.numbers, keys, until)
        self._shards.announce(until)
        return numbers

    def _write(
        self, shard: Shard, script: Script, keys: Sequence[bytes], *args: int, until: float, retry: bool
    ) -> bytes:
        def run() -> bytes | Refused:
            try:
                return shard.script(script, keys, *args, until=until, retry=retry, wait=self._wait)
            except Refused as error:
                return error

        # A server that refuses writes still answers questions, so that is not an outage.
        result = shard.breaker.call(_translated, run)
        written: bytes = self._writing.call(_accepted, result)
        return written


def _of(keys: Sequence[bytes], pairs: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Those of *pairs* whose key is one of *keys*, in their order."""
    return [pair for pair in pairs if pair[0] in keys]


def _translated(function: Callable[..., T], *args: object) -> T:
    """Any failure as the one exception that a store raises. A question that is refused is one."""
    try:
        return function(*args)
    except Refused as error:
        raise StoreUnavailable(str(error)) from error
    except FAILURES as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise StoreUnavailable(f"what is stored there cannot be read: {error}") from error


def _accepted(result: T | Refused) -> T:
    if isinstance(result, Refused):
        raise StoreUnavailable(str(result)) from result
    return result
