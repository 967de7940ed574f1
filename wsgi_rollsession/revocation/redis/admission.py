"""Which servers are trusted with fences, and who they are: by INFO and ROLE, as far as the user may ask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import redis

from .address import RedisAddress
from .epoch import Server
from .wire import Channel, Command, parse_info

log = logging.getLogger("wsgi_rollsession")

_QUESTIONS: tuple[Command, ...] = (("INFO",), ("ROLE",))


class Admission:
    """Refuses, by a redis error, servers that must not be trusted; tells who the others are."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._said: set[str] = set()
        in_cluster = address.scheme == "redis+cluster"
        #: What ``admit`` is to be shown the replies to.
        self.questions: tuple[Command, ...] = (*_QUESTIONS, ("CLUSTER", "MYID")) if in_cluster else _QUESTIONS

    def greet(self, channel: Channel, until: float) -> Server:
        """Ask the server at the end of *channel*, which has just been connected to."""
        return self.admit(channel.ask(self.questions, until))

    def admit(self, replies: Sequence[Any]) -> Server:
        """Who gave *replies*. An error among them says that the command is forbidden, or not known there.

        Raises:
            redis.ConnectionError: the server is a replica, is loading its data, or may drop fences.
        """
        text, role, *node = replies
        if isinstance(role, list) and role[0] != b"master":
            raise NotThePrimary("it is a read-only replica")
        if not isinstance(text, bytes):
            self._say_once(
                logging.WARNING,
                "does not permit INFO: restarts, evictions, and what it would be refused for, cannot be seen",
            )
            if not isinstance(role, list):
                self._say_once(logging.WARNING, "does not permit ROLE: a replica cannot be told from the primary")
            return Server()
        info = parse_info(text)
        if info.get("loading"):
            raise redis.BusyLoadingError("it is loading its data")
        if info.get("role") == "slave":
            raise NotThePrimary("it is a read-only replica")
        self._check_policy(info)
        return Server(
            run_id=_word(info, "run_id"),
            replid=_word(info, "master_replid"),
            replid2=_word(info, "master_replid2"),
            # Redis 6 does not count. But there, only who has been a replica has a backlog before it has one itself.
            replicated=bool(info.get("total_net_repl_input_bytes", info.get("repl_backlog_active"))),
            aof=bool(info.get("aof_enabled")),
            evicted=int(info.get("evicted_keys", 0)),
            node=node[0] if node and isinstance(node[0], bytes) else b"",
        )

    def _check_policy(self, info: dict[str, Any]) -> None:
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and info.get("maxmemory"):
            message = f"drops fences when its memory is full: maxmemory-policy must be noeviction, it is {policy}"
            if not self._address.accept_eviction:
                raise redis.ConnectionError(f"it {message} (eviction=accept in the URL takes the risk)")
            self._say_once(logging.ERROR, message)

    def _say_once(self, level: int, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.log(level, "revocation store %s %s", self._address, message)


class NotThePrimary(redis.ConnectionError):
    """Find the primary anew."""


def check_role(role: Any) -> None:
    """Raise ``NotThePrimary`` if *role*, the reply to ROLE, is that of a replica. An error says nothing."""
    if isinstance(role, list) and role[0] != b"master":
        raise NotThePrimary("it has become a read-only replica")


def _word(info: dict[str, Any], name: str) -> bytes:
    return str(info.get(name, "")).encode()
