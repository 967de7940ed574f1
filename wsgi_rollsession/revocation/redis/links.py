"""The way to the server that holds a shard: one server, the primary that Sentinels name, or a cluster's node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from . import wire
from .address import RedisAddress
from .cluster import ClusterLink
from .node import Answer, Greet, Node
from .sentinel import SentinelLink
from .wire import Channel, Command


class Link(Protocol):
    """Every method ends at *until*, by ``time.monotonic()``.

    Raises:
        redis.RedisError, OSError: the server could not be reached, was refused, or did not answer in time.
    """

    shards: int

    def exchange(self, shard: int, commands: Sequence[Command], until: float, *, retry: bool) -> Answer:
        """The replies to *commands*, sent as one pipeline, and the connection that they came by.

        *retry*: the commands may be sent twice, so a connection found dead is replaced.
        """

    def open(self, shard: int, until: float) -> Channel:
        """A connection of the caller's own to the server that holds *shard*."""

    def is_current(self, channel: Channel, until: float) -> bool:
        """Whether *channel* leads to a server that is still the primary, as far as can be told from elsewhere."""

    def forget(self) -> None:
        """What is known of who holds which shard is wrong: find out anew, with fresh connections."""

    def close(self) -> None:
        """Close what is idle. Whoever asks again connects again."""


def connect(address: RedisAddress, greet: Greet) -> Link:
    """The link to *address*. Nothing is connected until it is used."""
    if address.scheme == "redis+cluster":
        return ClusterLink(address, greet)
    if address.scheme == "redis+sentinel":
        return SentinelLink(address, greet)
    place = () if address.path else address.hosts[0]
    return Node(lambda until: wire.make(address, *place), greet, address.max_connections)
