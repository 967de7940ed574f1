"""The Redis client that Python contenders are given: redis-py's own, with the store gate before each write."""

from __future__ import annotations

from typing import Any

from ..tiny import Lab

WRITES = {"SET", "SETEX", "PSETEX", "GETSET", "HSET", "HMSET"}


def gated_redis(lab: Lab) -> Any:
    import redis

    if not lab.gated:
        return redis.Redis.from_url(lab.redis_url)

    class GatedRedis(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            if args[0] in WRITES:
                lab.gates.enter("store")
            return super().execute_command(*args, **options)

    return GatedRedis.from_url(lab.redis_url)
