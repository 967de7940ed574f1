"""The primary that Sentinels name."""

from __future__ import annotations

from time import monotonic
from typing import Any

import redis

from . import wire
from .address import CONNECT_TIMEOUT, RedisAddress
from .node import Greet, Node
from .wire import FAILURES, Channel

#: Seconds for which the Sentinels' word is taken, which server is the primary.
PRIMARY_CHECK = 1.0
#: Seconds that one Sentinel has to answer, connecting included, before the next one is asked.
SENTINEL_TIMEOUT = CONNECT_TIMEOUT


class SentinelLink(Node):
    """The primary, by name. The Sentinels are asked before every connection, and once a second.

    For a primary that was replaced, because it hung or by hand, goes on as a primary until a Sentinel demotes it, some
    ten seconds after it is back. Who has a connection to it would miss what is raised at the new one meanwhile.
    """

    def __init__(self, address: RedisAddress, greet: Greet) -> None:
        super().__init__(self._make_connection, greet, address.max_connections)
        self._address = address
        self._sentinels = [_sentinel(address, host, port) for host, port in address.hosts]
        self._primary: tuple[str, int] | None = None
        self._check_at = 0.0

    def _make_connection(self, until: float) -> Any:
        self._primary = self.find(until)
        self._check_at = monotonic() + PRIMARY_CHECK
        return wire.make(self._address, *self._primary)

    def find(self, until: float) -> tuple[str, int]:
        """Ask one Sentinel after the other which server is the primary. One that fails is asked last from now on.

        Raises:
            redis.ConnectionError: none knows it.
        """
        for sentinel in self._sentinels:
            question = ("SENTINEL", "MASTER", self._address.service)
            try:
                (reply,), _ = sentinel.exchange(0, [question], min(until, monotonic() + SENTINEL_TIMEOUT), retry=True)
            except FAILURES:
                reply = None
            if isinstance(reply, list):
                state = dict(zip(reply[::2], reply[1::2]))
                flags = set(state.get(b"flags", b"").split(b","))
                if b"master" in flags and not flags & {b"s_down", b"o_down"}:
                    return state[b"ip"].decode(), int(state[b"port"])
            # Of one list, so that none is lost if two threads do so at once.
            self._sentinels = [*(each for each in self._sentinels if each is not sentinel), sentinel]
        raise redis.ConnectionError("no Sentinel can be reached that knows the primary")

    def is_current(self, channel: Channel, until: float) -> bool:
        begun = monotonic()
        if begun >= self._check_at:
            try:
                # In a part of the time, for the question itself comes after it.
                self._primary = self.find(min(until, begun + SENTINEL_TIMEOUT))
            except FAILURES:
                pass  # no Sentinel knows of another one
            now = monotonic()
            # Only now, so that no other thread goes on with a connection meanwhile. Sentinels that hang are asked less.
            self._check_at = now + PRIMARY_CHECK + 4 * (now - begun)
        connection = channel.connection
        return (connection.host, connection.port) == self._primary

    def close(self) -> None:
        super().close()
        for sentinel in self._sentinels:
            sentinel.close()


def _sentinel(address: RedisAddress, host: str, port: int) -> Node:
    def make(until: float) -> Any:
        return wire.make(address, host, port, address.sentinel)

    return Node(make, lambda channel, until: None, address.max_connections)
