"""One server, and this process's connections to it."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import redis

from .wire import Channel, Command

#: The replies to commands, and the connection that they came by. An error reply is returned, not raised.
Answer = tuple[list[Any], Channel]
#: Is shown every connection that was made, and says by a given moment who is there; or refuses it, by a redis error.
Greet = Callable[[Channel, float], Any]

#: Seconds after which a connection that nobody used is closed.
IDLE = 30.0
#: Seconds after which an idle connection may have been forgotten on its way: it is given up for a fresh one sooner.
_STALE = 1.0


class Node:
    """One server, and the idle connections to it. Safe to use from several threads, and after a fork."""

    shards = 1

    def __init__(self, make: Callable[[float], Any], greet: Greet, limit: int) -> None:
        self._make = make
        self._greet = greet
        self._limit = limit
        self._idle: list[Channel] = []
        self._renew()

    def _renew(self) -> None:
        self._idle = []  # after a fork the sockets belong to the parent
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(self._limit):
            self._permits.put(None)
        self._pid = os.getpid()

    def exchange(self, shard: int, commands: Sequence[Command], until: float, *, retry: bool) -> Answer:
        """See ``Link``. Waits for a connection if all are in use."""
        if self._pid != os.getpid():
            self._renew()
        permits = self._permits
        try:
            permits.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            raise redis.TimeoutError(f"all {self._limit} connections are in use (max_connections=)") from None
        try:
            return self._exchange(commands, until, retry)
        finally:
            permits.put(None)

    def _exchange(self, commands: Sequence[Command], until: float, retry: bool) -> Answer:
        channel = self._take(until, certain=not retry)
        if channel is not None:
            stale = monotonic() - channel.idle_since > _STALE
            try:
                return self._send(channel, commands, until)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                # The others lead to the same server. It may be dead; or, after a hang, no longer the primary.
                self.close()
                if not retry or (isinstance(error, redis.TimeoutError) and not stale) or monotonic() >= until:
                    raise
        return self._send(self.open(shard=0, until=until), commands, until)

    def open(self, shard: int, until: float) -> Channel:
        """See ``Link``."""
        channel = Channel(self._make(until), until)
        try:
            channel.server = self._greet(channel, until)
        except BaseException:
            channel.close()
            raise
        return channel

    def _take(self, until: float, certain: bool) -> Channel | None:
        while True:
            try:
                channel = self._idle.pop()
            except IndexError:
                return None
            # Looking whether it has ended costs a system call, so it is done only where finding out by sending would be
            # too late.
            if (
                monotonic() - channel.idle_since < IDLE
                and self.is_current(channel, until)
                and (not certain or channel.is_quiet())
            ):
                return channel
            channel.close()

    def _send(self, channel: Channel, commands: Sequence[Command], until: float) -> Answer:
        try:
            replies = channel.ask(commands, until)
        except BaseException:  # also a greenlet's time-out: what is still to be read would answer the next caller
            channel.close()
            raise
        if any(isinstance(reply, redis.ReadOnlyError) for reply in replies):
            channel.close()  # it was the primary once; the next connection looks for the present one
            self.forget()
        else:
            self._put(channel)
        return replies, channel

    def _put(self, channel: Channel) -> None:
        channel.idle_since = now = monotonic()
        self._idle.append(channel)
        try:
            while self._idle[0].idle_since < now - IDLE:
                self._idle.pop(0).close()
        except IndexError:  # other threads took them
            pass

    def is_current(self, channel: Channel, until: float) -> bool:
        """See ``Link``."""
        return True

    def forget(self) -> None:
        """See ``Link``."""
        self.close()

    def close(self) -> None:
        """See ``Link``."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
