"""Is this still the same data? What is known of one shard's, and what follows from another look at it. No I/O.

The data say which server process they were last seen in (``Record``), and a server says who it is (``Server``). If the
two differ, the data have come there by a fail-over, with a slot of a cluster, or by a restart; and a restart brings
back all that was confirmed only where writes are on the disk before they are answered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from ..clock import CLOCK_STEP_MS

EMPTY = "held no data: it is new, or has lost data"
LOST = "has lost data"
RESTARTED = "was restarted without an append-only file and appendfsync always, so recent fences may be lost"
EVICTED = "has evicted {} keys, which may have been fences"

_UNKNOWN = b"-"


class Act(Enum):
    """What is to be done about a sighting."""

    #: Tell the server the lifetime of fences; and the genesis, if it has no everything-fence.
    ANNOUNCE = auto()
    #: Say that the data have been lost, or may have been: the everything-fence goes up.
    DISTRUST = auto()
    #: Write into the data which server has them now, and that everything goes up, if it is to be distrusted.
    ADOPT = auto()
    #: The server's everything-fence is behind what this process knows: raise it.
    RESTORE = auto()
    #: A clock has stepped so that fences have expired: everything goes up.
    CLOCK = auto()


class Step(NamedTuple):
    act: Act
    why: str = ""
    #: Of RESTORE: what the everything-fence has to be at least. Of ADOPT: 1 if it has to go up.
    number: int = 0


@dataclass(frozen=True)
class Server:
    """Who answered, by INFO. Without ``run_id`` it is not known: the user may not ask."""

    run_id: bytes = b""
    #: The names of its history of writes, and of the one that it went on from when it became a primary.
    replid: bytes = b""
    replid2: bytes = b""
    #: Whether it has received a history from another server since it was started.
    replicated: bool = False
    #: Whether it has an append-only file.
    aof: bool = False
    evicted: int = 0
    #: Its name in a cluster, which a restart does not change.
    node: bytes = b""

    def is_foreign_to(self, record: Record) -> bool:
        """Whether the data were last seen in another process."""
        return bool(self.run_id) and self.run_id != record.run_id

    def continues(self, record: Record) -> bool:
        """Whether the data have come here from a server that was alive: by a fail-over, or with a slot."""
        if self.replid2 == record.replid:
            # From Redis 7.0 on, a primary that was restarted from a snapshot goes on from a history, too.
            return self.replicated
        return bool(self.node) and bool(record.node) and self.node != record.node


@dataclass(frozen=True)
class Record:
    """What the data say of themselves (``Names.server``): which server process had them, and a random word."""

    run_id: bytes
    replid: bytes
    node: bytes
    evicted: int
    #: Goes with the data, wherever they go.
    word: bytes

    @classmethod
    def parse(cls, text: bytes) -> Record:
        """
        Raises:
            ValueError: it is none.
        """
        run_id, replid, node, evicted, word = text.split()
        return cls(run_id, replid, b"" if node == _UNKNOWN else node, int(evicted), word)

    @classmethod
    def of(cls, server: Server, word: bytes = b"") -> Record:
        word = word or os.urandom(6).hex().encode()
        return cls(server.run_id, server.replid or _UNKNOWN, server.node, server.evicted, word)

    def __bytes__(self) -> bytes:
        return b" ".join((self.run_id, self.replid, self.node or _UNKNOWN, b"%d" % self.evicted, self.word))


@dataclass(frozen=True)
class Sighting:
    """What was read in one round trip, and from whom."""

    everything: int | None
    lifetime: int | None
    record: Record | None
    server: Server = Server()
    #: Whether the server is known to write to its disk before it answers. Asked where that matters only.
    durable: bool = False
    #: The server's clock, in Unix milliseconds.
    server_ms: float | None = None


class Epoch:
    """What this process knows of one shard's data."""

    def __init__(self, lifetime_ms: int, *, accept_amnesia: bool = False, accept_eviction: bool = False) -> None:
        self._lifetime_ms = lifetime_ms
        self._accept_amnesia = accept_amnesia
        self._accept_eviction = accept_eviction
        #: The largest everything-fence that is known. A loss that could not be written is in it.
        self.everything = 0
        #: Whether a loss was noticed that the server has not been told yet.
        self.owed = False
        self.clock = ServerClock()
        self._word = b""

    def judge(self, seen: Sighting, wall_ms: float, monotonic_ms: float) -> list[Step]:
        """What is to be done, in this order. Then ``accept`` what the server says afterwards; or ``lost``, if a loss
        was among it and it could not be done."""
        steps = []
        loss = self._loss(seen)
        if loss:
            steps.append(Step(Act.DISTRUST, loss))
        if seen.everything is None or seen.lifetime is None or seen.lifetime < self._lifetime_ms:
            steps.append(Step(Act.ANNOUNCE))
        if seen.server.run_id and seen.record != self.record_for(seen):
            # Where data are missing, genesis says so.
            goes_up = bool(loss) and loss not in (EMPTY, LOST) and not self._accept_amnesia
            steps.append(Step(Act.ADOPT, number=int(goes_up)))
        if seen.server_ms is not None and (step := self.watch(seen.server_ms, wall_ms, monotonic_ms)):
            steps.append(step)
        if seen.everything is not None and not self._accept_amnesia:
            # Whoever began a session under the number that is lost has passed it.
            least = self.everything + 1 | 1 if loss == LOST else self.everything
            if seen.everything < least:
                steps.append(Step(Act.RESTORE, number=least))
        return steps

    def _loss(self, seen: Sighting) -> str:
        record, server = seen.record, seen.server
        if seen.everything is None:
            return self.missing
        if self._word and (record is None or record.word != self._word):
            return LOST
        if record is None or not server.run_id:
            return ""
        if server.is_foreign_to(record):
            return "" if seen.durable or server.continues(record) else RESTARTED
        if server.evicted > record.evicted and not self._accept_eviction:
            return EVICTED.format(server.evicted - record.evicted)
        return ""

    @property
    def missing(self) -> str:
        """What it means that there is no everything-fence."""
        return LOST if self._word or self.everything else EMPTY

    def record_for(self, seen: Sighting) -> Record:
        """What the data should say of themselves."""
        if seen.record is None:
            return Record.of(seen.server)
        wanted = Record.of(seen.server, seen.record.word)
        if self._accept_eviction and not seen.server.is_foreign_to(seen.record):
            return replace(wanted, evicted=seen.record.evicted)  # it is for those who do not accept it
        return wanted

    def watch(self, server_ms: float, wall_ms: float, monotonic_ms: float) -> Step | None:
        """What follows from the server's clock: a CLOCK step if fences were lost by it, or nothing."""
        why = self.clock.watch(server_ms, wall_ms, monotonic_ms)
        return Step(Act.CLOCK, why) if why else None

    def accept(self, everything: int, word: bytes) -> None:
        """The data are as they should be: the server's everything-fence, and the word of its record, if it has one."""
        self._word = word
        self.everything = max(everything, self.everything)
        self.owed = False

    def lost(self, number: int) -> None:
        """There was a loss, and the server could not be told: *number* counts in this process. Once for a loss."""
        if not self.owed:
            self.owed = True
            self.everything = max(number, self.everything)

    def begun(self, number: int) -> None:
        """A script of this process found no data and wrote genesis: the record that is missing is no second loss."""
        self._word = b""
        self.everything = max(number, self.everything)

    def raised(self, number: int) -> None:
        """The everything-fence was raised to *number*."""
        self.everything = max(number, self.everything)


class ServerClock:
    """Notices that a server's clock has stepped so that fences expired before the sessions that they refuse."""

    def __init__(self) -> None:
        # The server's clock, less this host's wall clock and less its monotonic one, when it was least ahead.
        self._least: tuple[float, float] | None = None
        # The server's clock and this host's wall clock, both less the monotonic one, when they were furthest ahead.
        self._furthest = float("-inf"), float("-inf")
        #: This host's clock was set back by so many seconds, which is nothing that a fence could cure.
        self.host_stepped_back = 0.0

    @property
    def ahead_ms(self) -> float | None:
        """How far the server's clock is ahead of ours, if that is known."""
        return None if self._least is None else self._least[0]

    def watch(self, server_ms: float, wall_ms: float, monotonic_ms: float) -> str:
        """What the clock has done since it was last looked at, if fences were lost by it, or an empty text."""
        ahead, ticks, ours = server_ms - wall_ms, server_ms - monotonic_ms, wall_ms - monotonic_ms
        before, furthest = self._least, self._furthest
        if before is None or ahead < before[0]:
            self._least = before = ahead, ticks
        # On one host, both clocks go forward together, and fences expire; when both come back, sessions revive.
        back = min(furthest[0] - ticks, furthest[1] - ours)
        if back > CLOCK_STEP_MS:
            self._furthest = ticks, ours
            return f"and that of this host stepped back by {back / 1000:.0f} s"
        self._furthest = max(furthest[0], ticks), max(furthest[1], ours)
        if ahead <= before[0] + CLOCK_STEP_MS:
            return ""
        self._least = ahead, ticks
        step = (ahead - before[0]) / 1000
        if ticks < before[1] + CLOCK_STEP_MS:
            self.host_stepped_back += step
            return ""
        return f"stepped forward by {step:.0f} s"
