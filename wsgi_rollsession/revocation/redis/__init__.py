"""Redis or Valkey: the store that several hosts share. docs/operating-redis.md says how to run it.

``store`` (the protocol) is made of ``follower`` and ``status``, over ``shard``: what is in Redis, and whether it is
still the same data (``epoch``), on a server that may be trusted with it (``admission``). ``links`` lead to it.
"""

from .store import RedisRevocations

__all__ = ["RedisRevocations"]
