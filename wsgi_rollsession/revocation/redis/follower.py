"""``follow=1``: one thread of the process follows the log of raised fences in Redis, and keeps the local set current.

It asks in a loop, for each shard: "what is the everything-fence, and what came after entry X; answer when there is
something, or after a while". Each answer proves that at the moment of *asking* nothing was missing, so that moment,
not the answer's, is what staleness is counted from: an answer that was held up on its way proves nothing newer.

The log is trimmed by age only, and everything that still matters is in it. So resuming after an interruption means
asking for what came after the last entry seen, and starting anew means asking from the beginning. Nothing is ever
taken out of the local set for it: what the process knew, it still knows.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from struct import unpack
from time import monotonic
from typing import Any

import redis
from redis.exceptions import AskError, MovedError

from ..fence import EVERYTHING
from ..local_set import LocalSet
from .address import REPLY_TIMEOUT
from .admission import NotThePrimary, check_role
from .scripts import FENCE
from .shard import Refused, Shard, Shards, deadline
from .wire import Channel, Command

log = logging.getLogger("wsgi_rollsession")

#: Seconds between two tries to reach a server that is away.
RECONNECT_PAUSE = 0.5
#: Seconds for which entries may gather after some have come: so at most 500 turns a second, whatever is raised.
_GATHER = 0.002
#: Entries asked for at a time. It bounds how long the thread holds the interpreter lock, to some 2 ms.
_BATCH = 1000
#: Seconds between two reports of this process for ``rollsession status``, and until a report is forgotten.
_REPORT_EVERY = 5.0
REPORT_EXPIRES = 60.0
#: A fail-over can lose what was raised just before it. Followers raise again what they were told in so many seconds.
_HEAL_SECONDS = 60.0
_HEAL_ENTRIES = 10_000

_BEGINNING = b"0"


class _Stream:
    """How far this process is in the log of one shard."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.channel: Channel | None = None
        self.run_id: bytes | None = None  # of the server that the position is about
        self.position = _BEGINNING  # the newest entry seen
        self.asked_from = _BEGINNING  # the position in the open question
        self.asked_at = 0.0
        self.awaited = 0  # how many replies to the open question are still to come
        self.proven = 0.0  # up to this moment the local set is complete
        self.record: bytes | None = None  # Names.server, which is written anew when data is lost or changes servers
        self.changed = False  # since the last question
        self.recent: deque[tuple[float, bytes]] = deque(maxlen=_HEAL_ENTRIES)
        self.healing: dict[bytes, None] = {}  # recent entries that have not been seen in a log begun anew

    def restart(self) -> None:
        """Begin at the beginning: the log is another one, or has lost entries."""
        self.position = _BEGINNING
        since = monotonic() - _HEAL_SECONDS
        self.healing.update((entry, None) for when, entry in self.recent if when >= since)


class Follower:
    """Keeps *local* current with *shards*. ``start`` is cheap, idempotent, and needed again after a fork."""

    def __init__(self, shards: Shards, local: LocalSet, max_staleness: float) -> None:
        #: Until when (``time.monotonic()``) the local set may answer.
        self.fresh_until = 0.0
        self._shards = shards
        self._local = local
        self._keep_ms = shards.options.lifetime_ms
        self._max_staleness = max_staleness
        # An answer may take so long, and only then proves the moment of its question: two turns must fit.
        self._block_ms = int(max_staleness * 400)
        self._pid = 0
        self._starting: dict[int, object] = {}  # the process that does, and a claim of one of its threads
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None
        self._streams: list[_Stream] = []
        self._down_since = 0.0
        self._delay_ms = 0

    def start(self) -> None:
        """Start the thread, unless it runs in this process already or ``stop`` was called."""
        pid, mine = os.getpid(), object()
        # Not with a lock: to start a thread gives way to other greenlets, and one that waits for a lock from before
        # gevent was there waits for ever. Nobody has to wait, for who does not find the follower ready asks.
        if self._pid == pid or self._stopped or self._starting.setdefault(pid, mine) is not mine:
            return
        try:
            if self._pid != pid:  # nor has another thread done it meanwhile
                self._start()
                self._pid = pid
        except (OSError, RuntimeError) as error:  # too many files, or threads; the next load tries again
            self._lost(error)
        finally:
            del self._starting[pid]

    def _start(self) -> None:
        self._streams = [_Stream(shard) for shard in self._shards.all]
        self._wake, sleeper = socket.socketpair()
        run = threading.Thread(target=self._run, args=(sleeper,), name="rollsession-follower", daemon=True)
        try:
            run.start()
        except RuntimeError:
            self._wake.close()
            sleeper.close()
            raise
        self._thread = run

    def stop(self) -> None:
        """End the thread, for good."""
        self._stopped = True
        self.fresh_until = 0.0
        if self._pid == os.getpid() and self._wake is not None and self._thread is not None:
            self._wake.close()
            if self._thread is not threading.current_thread():
                self._thread.join(2.0)

    def _run(self, sleeper: socket.socket) -> None:
        with sleeper:
            while not self._stopped:
                with selectors.DefaultSelector() as selector:
                    selector.register(sleeper, selectors.EVENT_READ)
                    try:
                        self._follow(selector)
                    except Exception as error:  # also of what is in the log and cannot be read: loads ask meanwhile
                        self._lost(error)
                    finally:
                        for stream in self._streams:
                            if stream.channel is not None:
                                stream.channel.close()
                                stream.channel = None
                if not self._stopped:
                    with selectors.DefaultSelector() as selector:
                        selector.register(sleeper, selectors.EVENT_READ)
                        selector.select(RECONNECT_PAUSE)

    def _lost(self, error: Exception) -> None:
        if not self._down_since and not self._stopped:
            self._down_since = monotonic()
            log.warning("follower of %s is cut off, loads ask meanwhile: %s", self._shards.address, error)

    def _follow(self, selector: selectors.BaseSelector) -> None:
        """Follow until something fails or ``stop`` is called."""
        for stream in self._streams:
            stream.shard.pulse(deadline())
            selector.register(self._connect(stream).socket, selectors.EVENT_READ, stream)
            self._ask(stream)
        report_at = 0.0
        while True:
            overdue = min(self._overdue(stream) for stream in self._streams)
            ready = selector.select(max(0.0, overdue - monotonic()))
            if self._stopped:
                return
            if not ready:
                raise redis.TimeoutError("no answer to the follower in time")
            news = False
            for key, _ in ready:
                news |= key.data is not None and self._receive(key.data)
            proven = min(stream.proven for stream in self._streams)
            if proven:
                self._caught_up(proven)
                if monotonic() >= report_at:
                    self._report(monotonic() - proven, first=not report_at)
                    report_at = monotonic() + _REPORT_EVERY
            self._local.purge(int(monotonic() * 1000))
            if news:
                time.sleep(_GATHER)
            for stream in self._streams:
                if not stream.awaited:
                    self._ask(stream)

    def _connect(self, stream: _Stream) -> Channel:
        stream.channel = channel = self._shards.link.open(stream.shard.index, deadline())
        stream.proven = 0.0
        run_id = channel.server.run_id
        if not run_id or run_id != stream.run_id:
            stream.restart()
        stream.run_id = run_id
        return channel

    def _ask(self, stream: _Stream) -> None:
        stream.shard.pulse_if_due(deadline())
        names = stream.shard.names
        assert stream.channel is not None
        if not self._shards.link.is_current(stream.channel, deadline()):
            raise redis.ConnectionError("another server has become the primary")
        questions: list[Command] = [
            ("ROLE",),  # a primary that became a replica would go on answering
            ("MGET", *names.state),
            ("XREAD", "COUNT", _BATCH, "BLOCK", self._block_ms, "STREAMS", names.log, stream.position),
        ]
        stream.asked_at = monotonic()
        stream.asked_from = stream.position
        stream.awaited = len(questions)
        stream.channel.send(questions, self._overdue(stream))

    def _overdue(self, stream: _Stream) -> float:
        """When the answer to the open question is late."""
        return stream.asked_at + self._block_ms / 1000 + REPLY_TIMEOUT

    def _receive(self, stream: _Stream) -> bool:
        """Take the replies that have come. True if there were entries."""
        channel = stream.channel
        assert channel is not None
        news = False
        while stream.awaited and channel.has_reply():
            reply = channel.receive()
            stream.awaited -= 1
            if stream.awaited == 2:
                self._check_role(reply)
                continue
            if isinstance(reply, Exception):
                if isinstance(reply, (MovedError, AskError)):
                    self._shards.link.forget()
                raise reply
            if stream.awaited:
                self._look_at(stream, reply)
            else:
                entries = reply[0][1] if reply else ()
                news = bool(entries)
                self._take(stream, entries)
        return news

    def _check_role(self, reply: Any) -> None:
        try:
            check_role(reply)
        except NotThePrimary:
            self._shards.link.forget()
            raise

    def _look_at(self, stream: _Stream, state: Sequence[Any]) -> None:
        """*state* (``Names.state``) was read from the server that is followed."""
        assert stream.channel is not None
        shard = stream.shard
        if not shard.is_as_it_was(state, stream.channel.server):
            shard.pulse(deadline())
        _, lifetime, record = state
        stream.changed = stream.record not in (None, record)
        stream.record = record
        self._keep_ms = self._local.lifetime_ms = max(int(lifetime or 0), self._keep_ms)

    def _take(self, stream: _Stream, entries: Sequence[Any]) -> None:
        now = monotonic()
        expiry = int(now * 1000) + self._keep_ms
        rows = [(entry[:16], unpack(">I", entry[16:])[0], expiry) for _, (_, entry) in entries]
        self._local.load(rows)
        for key, number, _ in rows:
            if key == EVERYTHING:
                stream.shard.raised(number)
        for _, (_, entry) in entries:
            stream.recent.append((now, entry))
            stream.healing.pop(entry, None)
        if entries:
            stream.position = entries[-1][0]
        if stream.changed and stream.asked_from != _BEGINNING:
            log.warning("follower of %s: the data have moved, or are others; reading them anew", self._shards.address)
            stream.restart()
        elif len(entries) < _BATCH:
            self._at_end(stream, entries)

    def _at_end(self, stream: _Stream, entries: Sequence[Any]) -> None:
        """The log has been read to its end, as it was when the question was asked."""
        if stream.healing:
            self._heal(stream)
        if entries and stream.asked_from != _BEGINNING:
            self._measure(stream, entries[0][0])
        stream.proven = stream.asked_at

    def _heal(self, stream: _Stream) -> None:
        lost = list(stream.healing)
        for entry in lost:
            try:
                number = unpack(">I", entry[16:])[0]
                stream.shard.script(FENCE, [entry[:16]], number, until=deadline(), retry=True)
            except Refused:  # by a full memory, say, which does not keep us from following
                return
            del stream.healing[entry]  # only now: what was interrupted goes on after the next answer
        log.warning("revocation store %s had lost %d recent fences; raised again", self._shards.address, len(lost))

    def _caught_up(self, proven: float) -> None:
        self.fresh_until = proven + self._max_staleness
        if self._down_since:
            log.warning("follower of %s is back after %.1f s", self._shards.address, monotonic() - self._down_since)
            self._down_since = 0.0

    def _measure(self, stream: _Stream, name: bytes) -> None:
        """How long ago, by the server's clock, the oldest of the entries that have just come was written."""
        ahead = stream.shard.epoch.clock.ahead_ms
        if ahead is not None:
            delay = time.time() * 1000 + ahead - int(name.partition(b"-")[0])
            self._delay_ms = max(self._delay_ms, int(delay))

    def _report(self, staleness: float, *, first: bool) -> None:
        """Tell ``rollsession status`` about this process."""
        shard = self._shards.all[0]
        name = shard.names.followers
        now = int(time.time() * 1000)
        report = {
            "at": now,
            "staleness_ms": int(staleness * 1000),
            "delay_ms": self._delay_ms,
            "fences": len(self._local),
        }
        self._delay_ms = 0
        commands: list[Command] = [
            ("HSET", name, f"{socket.gethostname()}:{os.getpid()}", json.dumps(report)),
            ("PEXPIRE", name, int(REPORT_EXPIRES * 1000)),
        ]
        if first:  # processes that have ended left theirs
            (reply,) = shard.ask([("HGETALL", name)], deadline())
            if isinstance(reply, list):
                old = [w for w, r in zip(reply[::2], reply[1::2], strict=True) if now - _at(r) > REPORT_EXPIRES * 1000]
                commands += [("HDEL", name, *old)] if old else []
        shard.ask(commands, deadline())


def _at(report: bytes) -> int:
    try:
        return int(json.loads(report)["at"])
    except (ValueError, KeyError, TypeError):
        return 0
