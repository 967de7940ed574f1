"""Django's Redis cache with the store gate before ``set()``, where the check of the session engine is behind it."""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.redis import RedisCache

from . import django as contender


class GatedRedisCache(RedisCache):  # type: ignore[misc]
    def set(self, *args: Any, **kwargs: Any) -> None:
        contender.LAB.gates.enter("store")
        super().set(*args, **kwargs)
