"""Redis or Valkey: the store that several hosts share. docs/operating-redis.md says how to run it.

It is asked in one round trip; or, with ``follow=1``, every process follows the stream of raised fences and loads
cost no round trip (``follower``). Rolls and writes ask in either case.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar

import redis
from redis.sentinel import MasterNotFoundError

from ..errors import StoreUnavailable
from . import StoreOptions
from .breaker import Breaker
from .clock import when_it_may
from .fence import EVERYTHING, exceed
from .follower import REPORT_EXPIRES, Follower
from .local_set import LocalSet
from .redis_link import Command, parse_info
from .redis_scripts import COMPARE_AND_RAISE, FENCE, FENCE_NOW, Script
from .redis_shards import Refused, Shards
from .redis_url import RedisAddress, parse

T = TypeVar("T")


class RedisRevocations:
    """See ``Revocations``. A call returns or fails within the time-outs of ``redis_url``, and never waits for a
    connection that another thread uses.

    What this process raised or was told of, it remembers, and answers are never below that. So a primary that lost
    a fence in a fail-over does not make a process forget it that knew it.
    """

    shared = True

    def __init__(self, address: RedisAddress, options: StoreOptions) -> None:
        self._shards = Shards(address, options)
        self._wait = address.wait
        # In a cluster, one primary may be away while the others answer.
        count = self._shards.link.shards
        names = [str(address)] if count == 1 else [f"{address} (shard {shard})" for shard in range(count)]
        self._breakers = [Breaker(name) for name in names]
        self._writing = Breaker(f"{address} (writing)", pause=0.0)
        self._known = LocalSet(options.lifetime_ms)
        self._remembered = self._known.numbers if count == 1 else self._remembered_by_shard
        self._lifetime_ms = options.lifetime_ms
        self._follower = None
        if address.follow:
            self._follower = Follower(self._shards, self._known, address.max_staleness)
            # The thread must not keep a store alive that nobody uses any more.
            weakref.finalize(self, self._follower.stop)

    @classmethod
    def from_url(cls, url: str, options: StoreOptions) -> RedisRevocations:
        """
        Raises:
            ConfigurationError: names the part of *url*, what it requires and what it received.
        """
        return cls(parse(url), options)

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
        for shard, some in self._shards.group(keys, everywhere=False).items():
            for key, number in zip(some, self._call(shard, self._shards.numbers, shard, some), strict=True):
                if number > found[key]:
                    found[key] = number
        numbers = [found[key] for key in keys]
        if numbers != known:
            self._learn(found.items())
        return numbers

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._remembered(keys)

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        for shard, some in self._shards.group(keys, everywhere=True).items():
            self._write(shard, FENCE, some, number, retry=True)
        self._learn((key, number) for key in keys)

    def fence_now(self, keys: Sequence[bytes]) -> int:
        """See ``Revocations``. It waits for some seconds if *keys* were revoked several times just now (``clock``)."""
        groups = self._shards.group(keys, everywhere=True)
        number, numbers = 0, {}
        for shard, some in groups.items():

            def attempt(shard: int = shard, some: Sequence[bytes] = some, least: int = number) -> int | None:
                return int(self._write(shard, FENCE_NOW, some, least, retry=True)) or None

            number = numbers[shard] = when_it_may(attempt)
        for shard, some in groups.items():
            if numbers[shard] < number:  # a later shard's clock, or what it held, was ahead
                self._write(shard, FENCE, some, number, retry=True)
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
        parts = self._shards.group([key for key, _ in raises], everywhere=True)
        asked = self._shards.group(keys, everywhere=False)
        first = next(iter(parts))
        own = asked.pop(first, [])
        for shard, some in asked.items():
            others = _of(some, limits)
            if exceed(self._call(shard, self._shards.numbers, shard, [key for key, _ in others]), others):
                return False
        if not self._compare_and_raise(first, _of(own, limits), _of(parts.pop(first), raises)):
            return False
        for shard, some in parts.items():
            self._compare_and_raise(shard, (), _of(some, raises))
        self._learn(raises)
        return True

    def _compare_and_raise(
        self, shard: int, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]]
    ) -> bool:
        keys, numbers = zip(*limits, *raises)
        # Not repeated on a fresh connection if a second try would be refused by what the first one wrote.
        retry = not any(key == raised and number > limit for key, limit in limits for raised, number in raises)
        value = self._write(shard, COMPARE_AND_RAISE, keys, len(limits), *numbers, retry=retry)
        if value != b"1":
            return False
        everything = [number for key, number in raises if key == EVERYTHING]
        self._shards.seen[shard] = max([self._shards.seen[shard], *everything])
        return True

    def status(self) -> dict[str, Any]:
        shards = [self._call(shard, self._status_of, shard) for shard in range(self._shards.link.shards)]
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
            shards = self._shards.group(keys, everywhere=False)
            everything = max(self._shards.seen[shard] for shard in shards)
            return [everything if key == EVERYTHING else n for key, n in zip(keys, numbers, strict=True)]
        return numbers

    def _learn(self, fences: Iterable[tuple[bytes, int]]) -> None:
        now = int(time.monotonic() * 1000)
        self._known.load((key, number, now + self._lifetime_ms) for key, number in fences if number)
        self._known.purge(now)

    def _write(self, shard: int, script: Script, keys: Sequence[bytes], *args: int, retry: bool) -> bytes:
        def run() -> bytes:
            return self._shards.script(shard, script, keys, *args, retry=retry, wait=self._wait)

        # A server that refuses writes still answers questions, so that is not an outage.
        result: bytes | Refused = self._breakers[shard].call(_translated, run)
        written: bytes = self._writing.call(_accepted, result)
        return written

    def _call(self, shard: int, function: Callable[..., T], *args: object) -> T:
        result: T | Refused = self._breakers[shard].call(_translated, function, *args)
        return _accepted(result)

    def _status_of(self, shard: int) -> dict[str, Any]:
        """One shard and its server. ``fences`` counts raises in the log: a key that was raised twice counts twice."""
        self._shards.hello(shard)
        names = self._shards.names[shard]
        questions: list[Command] = [
            ("XLEN", names.log),
            ("MEMORY", "USAGE", names.log),
            ("MGET", names.everything, names.lifetime),
            ("HGETALL", names.followers),
            ("INFO",),
            ("XREVRANGE", names.log, "+", "-", "COUNT", 2),
        ]
        replies, _ = self._shards.link.exchange(shard, questions, retry=True)
        # What an ACL does not permit is left out.
        length, usage, found, followers, info_text, last = (
            [] if isinstance(reply, Exception) else reply for reply in replies
        )
        info, length = parse_info(info_text or b""), length or 0
        return {
            "fences": length,
            "genesis": int(found[0] or 0),
            "lifetime": int(found[1] or 0) // 1000,
            "stream_length": length,
            "memory_bytes": (usage or 0) + length * self._size_of_one(shard, last),
            "server": " ".join(
                f"{name} {info[field]}"
                for name, field in (("Valkey", "valkey_version"), ("Redis", "redis_version"))
                if field in info
            ),
            "role": info.get("role"),
            "replicas": [info[name] for name in sorted(info) if name.startswith("slave") and name[5:].isdecimal()],
            "persistence": {name: info.get(name) for name in ("aof_enabled", "rdb_last_bgsave_status", "loading")},
            "used_memory": info.get("used_memory"),
            "maxmemory": info.get("maxmemory"),
            "maxmemory_policy": info.get("maxmemory_policy"),
            "evicted_keys": info.get("evicted_keys"),
            "clock_ahead_ms": round(self._shards.clock_ahead_ms(shard) or 0),
            "followers": _followers(followers),
        }

    def _size_of_one(self, shard: int, entries: Sequence[Any]) -> int:
        """Bytes that the newest fence takes, by MEMORY USAGE."""
        names = self._shards.names[shard]
        keys = [entry[:16] for _, (_, entry) in entries if entry[:16] != EVERYTHING]
        if not keys:
            return 0
        ((usage,), _) = self._shards.link.exchange(shard, [("MEMORY", "USAGE", names.base + keys[0])], retry=True)
        return usage if isinstance(usage, int) else 0


def _of(keys: Sequence[bytes], pairs: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Those of *pairs* whose key is one of *keys*, in their order."""
    return [pair for pair in pairs if pair[0] in keys]


def _translated(function: Callable[..., T], *args: object) -> T | Refused:
    """Any failure as the one exception that a store raises; a refusal is returned, for it is no outage."""
    try:
        return function(*args)
    except Refused as error:
        return error
    except MasterNotFoundError:
        # redis-py 6 describes the client in the message, its password included.
        raise StoreUnavailable("MasterNotFoundError: no Sentinel can be reached that knows the primary") from None
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise StoreUnavailable(f"what is stored there cannot be read: {error}") from error


def _accepted(result: T | Refused) -> T:
    if isinstance(result, Refused):
        raise StoreUnavailable(str(result)) from result
    return result


def _followers(reply: Sequence[bytes]) -> dict[str, Any]:
    """The reports of the processes that follow, by host and process id."""
    now = time.time() * 1000
    found = {}
    for name, text in zip(reply[::2], reply[1::2], strict=True):
        report = json.loads(text)
        seconds = (now - report.pop("at")) / 1000
        if seconds < REPORT_EXPIRES:
            found[name.decode()] = {**report, "reported_s_ago": round(seconds, 1)}
    return found
