"""Connections to Redis: to a server, or to the primary that Sentinels name (to a cluster: ``redis_cluster``).

A *link* carries commands to the server that holds a shard. redis-py makes the connections (TLS, users, protocol) and
finds primaries; pooling, time-outs and retries are done here, for they are what the store promises its callers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Protocol

import redis
from redis import connection as connections
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from redis.sentinel import Sentinel

from .redis_url import CONNECT_TIMEOUT, REPLY_TIMEOUT, RedisAddress

#: One of redis-py's connections, whose methods carry no types.
Connection = Any
Command = tuple[Any, ...]
#: What a server said of itself (INFO) when a connection to it was made; empty if the user may not ask.
Info = dict[str, Any]
Answer = tuple[list[Any], Info]
#: Is told of every server that was connected to; refuses it by raising a redis error.
Greet = Callable[[Info], None]

# redis-py has no types for these either.
_unix: Any = connections.UnixDomainSocketConnection
_sentinel: Any = Sentinel

#: Seconds for which the Sentinels' word is taken, which server is the primary.
PRIMARY_CHECK = 1.0


class Link(Protocol):
    shards: int

    def exchange(self, shard: int, commands: Sequence[Command], *, retry: bool) -> Answer:
        """The replies to *commands*, sent as one pipeline, and who gave them. An error reply is returned, not raised.

        *retry*: the commands may be sent twice, so a connection found dead is replaced.

        Raises:
            redis.RedisError, OSError: the server could not be reached, or did not answer in time.
        """

    def open(self, shard: int) -> tuple[Connection, Info]:
        """A connection of the caller's own to the server that holds *shard*, and who that is."""

    def is_current(self, connection: Connection) -> bool:
        """Whether *connection* leads to a server that is still the primary, as far as can be told from elsewhere."""

    def forget(self) -> None:
        """What is known of who holds which shard is wrong: find out anew, with fresh connections."""

    def close(self) -> None: ...


def connect(address: RedisAddress, greet: Greet) -> Link:
    """The link to *address*. Nothing is connected until it is used."""
    if address.scheme == "redis+cluster":
        from .redis_cluster import ClusterLink  # which is made of what is here

        return ClusterLink(address, greet)
    if address.scheme == "redis+sentinel":
        sentinel = _sentinel(
            list(address.hosts), sentinel_kwargs=redis_options(address.sentinel, **tls_options(address))
        )
        return SentinelLink(address, lambda: _find_primary(sentinel, address.service), greet)
    if address.scheme == "unix":
        return NodeLink(lambda: _unix(path=address.path, **redis_options(address.connection, db=address.db)), greet)
    return NodeLink(lambda: make_connection(address, *address.hosts[0]), greet)


def _find_primary(sentinel: Any, service: str) -> tuple[str, int]:
    asked = copy(sentinel)
    # It moves the Sentinel that answers to the front. Two threads that do so in one list can lose another from it.
    asked.sentinels = list(sentinel.sentinels)
    found: tuple[str, int] = asked.discover_master(service)
    sentinel.sentinels = asked.sentinels
    return found


def redis_options(given: Any, **more: Any) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": REPLY_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),  # redis-py's own retries would multiply the time-outs
        "protocol": 2,
        **given,
        **more,
    }


def tls_options(address: RedisAddress) -> dict[str, Any]:
    """For redis-py's clients, which choose the kind of connection by ``ssl``."""
    return {"ssl": address.tls} | {name: value for name, value in address.connection.items() if name.startswith("ssl_")}


def make_connection(address: RedisAddress, host: str, port: int, **more: Any) -> Connection:
    kind: Any = connections.SSLConnection if address.tls else connections.Connection
    return kind(**redis_options(address.connection, host=host, port=port, db=address.db, socket_keepalive=True, **more))


class NodeLink:
    """One server, and the idle connections to it. A thread never waits for a connection that another one uses."""

    shards = 1

    def __init__(self, make: Callable[[], Connection], greet: Greet) -> None:
        self._make = make
        self._greet = greet
        self._idle: list[tuple[Connection, Info]] = []
        self._pid = os.getpid()

    def exchange(self, shard: int, commands: Sequence[Command], *, retry: bool) -> Answer:
        taken = self._take(certain=not retry)
        if taken is not None:
            try:
                return self._send(*taken, commands)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                # The others lead to the same server. It may be dead; or, after a hang, no longer the primary.
                self._idle.clear()
                if not retry or isinstance(error, redis.TimeoutError):
                    raise
        return self._send(*self.open(shard), commands)

    def open(self, shard: int) -> tuple[Connection, Info]:
        connection = self._make()
        try:
            connection.connect()
            info = _info(connection)
            self._greet(info)
        except BaseException:
            connection.disconnect()
            raise
        return connection, info

    def _take(self, certain: bool) -> tuple[Connection, Info] | None:
        if self._pid != os.getpid():  # after a fork the sockets belong to the parent
            self._idle, self._pid = [], os.getpid()
        while True:
            try:
                connection, info = self._idle.pop()
            except IndexError:
                return None
            # Something to read on an idle connection is its end, as a rule. Looking costs a system call, so it is
            # done only where finding out by sending would be too late.
            if self.is_current(connection) and (not certain or _is_quiet(connection)):
                return connection, info
            connection.disconnect()

    def _send(self, connection: Connection, info: Info, commands: Sequence[Command]) -> Answer:
        try:
            replies = ask(connection, commands)
        except BaseException:  # also a greenlet's time-out: what is still to be read would answer the next caller
            connection.disconnect()
            raise
        if any(isinstance(reply, redis.ReadOnlyError) for reply in replies):
            connection.disconnect()  # it was the primary once; the next connection looks for the present one
            self.forget()
        else:
            self._idle.append((connection, info))
        return replies, info

    def is_current(self, connection: Connection) -> bool:
        return True

    def forget(self) -> None:
        self.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[0].disconnect()


class SentinelLink(NodeLink):
    """The primary that the Sentinels name. They are asked before every connection, and once a second.

    For a primary that was replaced, because it hung or by hand, goes on as a primary until a Sentinel demotes it, some
    ten seconds after it is back. Who has a connection to it would miss what is raised at the new one meanwhile.
    """

    def __init__(self, address: RedisAddress, find: Callable[[], tuple[str, int]], greet: Greet) -> None:
        super().__init__(self._make_connection, greet)
        self._address = address
        self._find = find
        self._primary: tuple[str, int] | None = None
        self._check_at = 0.0

    def _make_connection(self) -> Connection:
        self._primary = self._find()
        self._check_at = time.monotonic() + PRIMARY_CHECK
        return make_connection(self._address, *self._primary)

    def is_current(self, connection: Connection) -> bool:
        begun = time.monotonic()
        if begun >= self._check_at:
            try:
                self._primary = self._find()
            except (redis.RedisError, OSError):
                pass  # no Sentinel knows of another one
            now = time.monotonic()
            # Only now, so that no other thread goes on with a connection meanwhile. Sentinels that hang are asked less.
            self._check_at = now + PRIMARY_CHECK + 4 * (now - begun)
        return (connection.host, connection.port) == self._primary


def _is_quiet(connection: Connection) -> bool:
    try:
        return not connection.can_read(timeout=0)
    except (redis.RedisError, OSError):
        return False


def ask(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send *commands* in one go, and read a reply for each. An error reply is an element of the list."""
    if len(commands) == 1:
        connection.send_packed_command(connection.pack_command(*commands[0]), check_health=False)
    else:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as error:
            replies.append(error)
    return replies


def _info(connection: Connection) -> Info:
    (reply,) = ask(connection, [("INFO",)])
    if isinstance(reply, NoPermissionError):
        return {}
    if isinstance(reply, Exception):
        raise reply
    return {**parse_info(reply), "asked_at": time.monotonic()}


def parse_info(reply: bytes) -> Info:
    """INFO's lines as a dictionary of text and whole numbers."""
    found: Info = {}
    for line in reply.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = int(value) if value.isdecimal() else value
    return found
