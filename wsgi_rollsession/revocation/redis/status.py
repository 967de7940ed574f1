"""What an operator wants to know of a shard and its server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from ..fence import EVERYTHING
from .follower import REPORT_EXPIRES
from .shard import Shard
from .wire import Command, parse_info


def status(shard: Shard, until: float) -> dict[str, Any]:
    """One shard and its server. ``fences`` counts raises in the log: a key that was raised twice counts twice."""
    shard.pulse(until)
    names = shard.names
    questions: list[Command] = [
        ("XLEN", names.log),
        ("MEMORY", "USAGE", names.log),
        ("MGET", names.everything, names.lifetime),
        ("HGETALL", names.followers),
        ("INFO",),
        ("XREVRANGE", names.log, "+", "-", "COUNT", 2),
    ]
    # What an ACL does not permit, or a server does not know, is left out.
    length, usage, found, followers, info_text, last = (
        [] if isinstance(reply, Exception) else reply for reply in shard.ask(questions, until)
    )
    info, length = parse_info(info_text or b""), length or 0
    return {
        "fences": length,
        "genesis": int(found[0] or 0) if found else 0,
        "lifetime": int(found[1] or 0) // 1000 if found else 0,
        "stream_length": length,
        "memory_bytes": (usage or 0) + length * _size_of_one(shard, last, until),
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
        "clock_ahead_ms": round(shard.epoch.clock.ahead_ms or 0),
        "followers": _followers(followers),
    }


def _size_of_one(shard: Shard, entries: Sequence[Any], until: float) -> int:
    """Bytes that the newest fence takes, by MEMORY USAGE."""
    keys = [entry[:16] for _, (_, entry) in entries if entry[:16] != EVERYTHING]
    if not keys:
        return 0
    (usage,) = shard.ask([("MEMORY", "USAGE", shard.names.base + keys[0])], until)
    return usage if isinstance(usage, int) else 0


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
