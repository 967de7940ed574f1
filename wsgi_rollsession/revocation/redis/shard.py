"""The revocation set inside Redis: its keys, what is asked, and that its data are still what they were.

Of each shard ``{n}`` (one without a cluster), with the prefix ``rollsession``:

    rollsession:{0}:<16 bytes>   a fence: its number as decimal text; expires by itself
    rollsession:{0}:<EVERYTHING> the everything-fence; never expires. Missing: the shard has lost its data
    rollsession:{0}:lifetime     the longest lifetime ever announced, in milliseconds
    rollsession:{0}:log          a stream of every raise, 16 bytes of key and 4 of number; trimmed by that lifetime
    rollsession:{0}:server       which server process has this data, and a random word (``epoch.Record``)
    rollsession:{0}:followers    a hash: what each process that follows last said of itself

Every shard has an everything-fence of its own, so a cluster that loses one primary's data refuses the sessions
whose fences were there. A script writes fence and log entry together, so the log is complete.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import redis
from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, NoScriptError, TryAgainError

from .. import StoreOptions
from ..breaker import Breaker
from ..clock import SteadyClock, genesis
from ..fence import EVERYTHING
from .address import CALL_TIMEOUT, RedisAddress
from .admission import Admission, NotThePrimary
from .epoch import Act, Epoch, Record, Server, Sighting, Step
from .links import Link, connect
from .scripts import ADOPT, FENCE, HELLO, Script
from .wire import FAILURES, Command

log = logging.getLogger("wsgi_rollsession")

#: Seconds between two looks at who the server is, and its clock; they travel with a question that is asked anyway.
PULSE = 1.0
#: Seconds between two tries to tell all shards of a cluster the lifetime, while one of them is away.
_ANNOUNCE_EVERY = 5.0
#: Milliseconds that WAIT waits for replicas; the reply must come before the connection's time-out.
WAIT_MS = 250


def deadline() -> float:
    """By when a call that begins now has to be over, by ``time.monotonic()``."""
    return monotonic() + CALL_TIMEOUT


@dataclass(frozen=True)
class Names:
    """The keys of one shard."""

    base: bytes
    everything: bytes
    lifetime: bytes
    server: bytes
    log: bytes
    followers: bytes

    @property
    def state(self) -> tuple[bytes, bytes, bytes]:
        """What is read with every question."""
        return self.everything, self.lifetime, self.server

    @classmethod
    def of(cls, prefix: str, shard: int) -> Names:
        base = f"{prefix}:{{{shard}}}:".encode()
        return cls(base, base + EVERYTHING, *(base + name for name in (b"lifetime", b"server", b"log", b"followers")))


class Refused(Exception):
    """The server answered that it does not do this now: out of memory, no permission, too few replicas."""


class Shard:
    """One shard. Raises redis errors, ``OSError`` and ``Refused``; the store above translates them."""

    def __init__(self, index: int, name: str, whole: Shards) -> None:
        self.index = index
        self.names = Names.of(whole.address.prefix, index)
        self.name = name
        self.breaker = Breaker(name)
        self.epoch = Epoch(
            whole.options.lifetime_ms,
            accept_amnesia=whole.options.accept_amnesia,
            accept_eviction=whole.address.accept_eviction,
        )
        self._whole = whole
        self._link = whole.link
        self._pulse_at = 0.0
        # As it was when it was found to be in order: ``Names.state``, and in which server process.
        self._state: Sequence[bytes | None] = ()
        self._run_id = b""
        self._losses = 0  # how many were noticed
        self._judged = 0  # how often the data were judged
        self._gate = threading.Lock()
        self._pid = os.getpid()

    def numbers(self, keys: Sequence[bytes], until: float) -> list[int]:
        """The numbers of *keys*, in one round trip."""
        base = self.names.base
        question = (b"MGET", *self.names.state, *[base + key for key in keys])
        found = None
        while found is None:
            judged = self._judged
            if monotonic() < self._pulse_at:
                (reply,), channel = self._link.exchange(self.index, [question], until, retry=True)
                found = _values(reply)
                if self.is_as_it_was(found[:3], channel.server):
                    break
            found = self._take_pulse(question, until, judged)
        everything = self.epoch.everything
        return [
            everything if key == EVERYTHING else int(number or 0) for key, number in zip(keys, found[3:], strict=True)
        ]

    def is_as_it_was(self, state: Sequence[bytes | None], server: Server) -> bool:
        """Whether *state* (``Names.state``), read from *server*, is what was in order when it was last judged."""
        return state == self._state and server.run_id == self._run_id

    def pulse(self, until: float) -> None:
        """Ask who the server is, and see to it that its data are, or are said not to be, what they were."""
        self._take_pulse((b"MGET", *self.names.state), until, self._judged)

    def pulse_if_due(self, until: float) -> None:
        if monotonic() >= self._pulse_at:
            self.pulse(until)

    def script(
        self, script: Script, keys: Sequence[bytes], *args: int, until: float, retry: bool, wait: int = 0
    ) -> bytes:
        """Run *script*, and have *wait* replicas confirm it. Returns its value.

        Raises:
            Refused: the server is there, but did not do it, or too few replicas confirmed it.
        """
        self.pulse_if_due(until)
        losses = self._losses
        value, begun, _, server = self._run(script, keys, *args, until=until, retry=retry, wait=wait)
        if begun is not None:
            self._notice(Step(Act.DISTRUST, self.epoch.missing))
            self._learn(lambda: self.epoch.begun(int(begun)))
        elif server.run_id != self._run_id:
            # It was done by another server than the one that was looked at.
            self.pulse(until)
            if self._losses != losses:
                raise Refused("the server has lost data meanwhile; it may have happened")
        return value

    def ask(self, commands: Sequence[Command], until: float) -> list[Any]:
        """The replies to *commands*, which may be asked twice."""
        return self._link.exchange(self.index, commands, until, retry=True)[0]

    def raised(self, number: int) -> None:
        """The everything-fence was raised to *number* by this process, or another that told it."""
        self._learn(lambda: self.epoch.raised(number))

    # Judging

    def _take_pulse(self, question: Command, until: float, judged: int) -> list[bytes | None] | None:
        """Ask *question*, an MGET of the state and more, and who answers, and judge it; one thread after the other.

        What is judged was asked with nobody else judging. So what one thread has just set right is no news to another.
        None if one has done so since there were *judged*: it is to be asked anew.
        """
        self._pulse_at = monotonic() + PULSE  # the others go on meanwhile
        try:
            with self._alone(until):
                if self._judged != judged:
                    return None
                commands = [*self._whole.admission.questions, (b"TIME",), question]
                replies, channel = self._link.exchange(self.index, commands, until, retry=True)
                *identity, now, reply = replies
                found = _values(reply)
                server = channel.server = self._whole.admission.admit(identity)
                self._judge(found[:3], server, now, until)
                self._judged += 1
                return found
        except BaseException as error:
            self._pulse_at = 0.0
            if isinstance(error, NotThePrimary):
                self._link.forget()  # the next connection looks for the primary
            raise

    @contextmanager
    def _alone(self, until: float) -> Iterator[None]:
        if self._pid != os.getpid():  # another thread of the parent may have held it
            self._gate, self._pid = threading.Lock(), os.getpid()
        gate = self._gate
        if not gate.acquire(timeout=max(0.0, until - monotonic())):
            raise redis.TimeoutError("another thread still waits for the server")
        try:
            yield
        finally:
            gate.release()

    def _judge(self, state: Sequence[bytes | None], server: Server, now: Any, until: float) -> None:
        """Have the epoch judge *state* as *server* told it, and do what it says."""
        everything, lifetime, text = state
        record = None if text is None else Record.parse(text)
        foreign = record is not None and server.is_foreign_to(record)
        sighting = Sighting(
            everything=None if everything is None else int(everything),
            lifetime=None if lifetime is None else int(lifetime),
            record=record,
            server=server,
            durable=foreign and server.aof and self._writes_before_it_answers(until),
            server_ms=int(now[0]) * 1000 + int(now[1]) // 1000 if isinstance(now, list) else None,
        )
        steps = self.epoch.judge(sighting, time.time() * 1000, monotonic() * 1000)
        self._say_steps_back()
        loss = next((step for step in steps if step.act in (Act.DISTRUST, Act.CLOCK)), None)
        if loss is not None:
            self._notice(loss)
        try:
            number, word, refused = self._carry_out(steps, sighting, text or b"", until)
        except (*FAILURES, Refused):
            self._state = ()
            if loss is not None:
                self._apply_loss()
            raise
        self._learn(lambda: self.epoch.accept(number, word))
        # Otherwise it is another one now, and what was read is what it must not be again: emptied, say.
        self._state = state if len(steps) == refused else ()
        self._run_id = server.run_id

    def _carry_out(self, steps: Sequence[Step], seen: Sighting, text: bytes, until: float) -> tuple[int, bytes, int]:
        """Do *steps*. Returns the server's everything-fence and the word of its record, as they are then, and how many
        steps were refused."""
        refused = 0
        number, word = seen.everything or 0, seen.record.word if seen.record else b""
        lost = self.epoch.owed or any(step.act is Act.DISTRUST for step in steps)
        for step in steps:
            try:
                match step.act:
                    case Act.ANNOUNCE:
                        number = int(self._run(HELLO, (), until=until)[0])
                    case Act.ADOPT:
                        wanted = bytes(self.epoch.record_for(seen))
                        value, _, more, _ = self._run(ADOPT, (), text, wanted, step.number, until=until)
                        number, word = int(value), Record.parse(more[0]).word
                    case Act.CLOCK if not self._whole.options.accept_amnesia:
                        number = self._genesis()
                        self._run(FENCE, (EVERYTHING,), number, until=until)
                    case Act.RESTORE if number < step.number:
                        self._run(FENCE, (EVERYTHING,), step.number, until=until)
                        number = step.number
            except Refused:
                refused += 1
                # By a full memory, say. Where that is bookkeeping, what was read is good, and the next one tries again.
                match step.act:
                    case Act.ANNOUNCE if seen.everything is not None:
                        pass
                    case Act.ADOPT if not step.number:
                        pass
                    case Act.RESTORE if not lost:
                        pass
                    case _:
                        raise
        return number, word, refused

    def _writes_before_it_answers(self, until: float) -> bool:
        """Whether the server is known to answer a write only when it is on its disk."""
        (reply,) = self.ask([("CONFIG", "GET", "*appendfsync*")], until)
        # It may not permit the question. Then the default is likelier, which is another.
        found = dict(zip(reply[::2], reply[1::2])) if isinstance(reply, list) else {}
        return found.get(b"appendfsync") == b"always" and found.get(b"no-appendfsync-on-rewrite") == b"no"

    def _apply_loss(self) -> None:
        """Nothing can be written about a loss. What this process refuses for it needs no server."""
        number = 0 if self._whole.options.accept_amnesia else self._genesis()
        self._learn(lambda: self.epoch.lost(number))

    def _genesis(self) -> int:
        return genesis(self._whole.steady(), (self.epoch.everything,))

    def _learn(self, change: Callable[[], None]) -> None:
        before = self.epoch.everything
        change()
        if self.epoch.everything != before:
            self._whole.on_everything(self.epoch.everything)

    def _notice(self, loss: Step) -> None:
        """One line at ERROR for every loss, however often it is met until the server has been told."""
        if self.epoch.owed:
            return
        self._losses += 1
        accepted = self._whole.options.accept_amnesia
        what = "accepted nevertheless (amnesia=accept)" if accepted else "refused"
        whose = "the clock of " if loss.act is Act.CLOCK else ""
        log.error("%srevocation store %s %s: sessions created before now are %s", whose, self.name, loss.why, what)

    def _say_steps_back(self) -> None:
        seconds, self.epoch.clock.host_stepped_back = self.epoch.clock.host_stepped_back, 0.0
        if seconds:
            log.error("this host's clock stepped back by %.0f s: it accepts sessions for so much longer", seconds)

    # Scripts

    def _run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *args: int | bytes,
        until: float,
        retry: bool = True,
        wait: int = 0,
    ) -> tuple[bytes, bytes | None, list[Any], Server]:
        """Run *script*. Returns its value, the genesis if it wrote one, what else it says, and who did it."""
        whole, names = self._whole, self.names
        words = [names.everything, names.lifetime, names.log, *[names.base + key for key in keys]]
        # A session that began under the everything-fence has passed it. So if it is lost, the new one must go past the
        # old one; and the first ones of a cluster's shards are alike, or a session could begin before that of one.
        least = self.epoch.everything + 1 if self.epoch.everything else whole.everything()
        call = (len(words), *words, *whole.preface, least, whole.steady(), *args)
        waiting: list[Command] = [("WAIT", wait, WAIT_MS)] if wait else []
        replies, channel = self._link.exchange(
            self.index, [("EVALSHA", script.sha, *call), *waiting], until, retry=retry
        )
        if isinstance(replies[0], NoScriptError):
            replies, channel = self._link.exchange(
                self.index, [("EVAL", script.text, *call), *waiting], until, retry=retry
            )
        for reply in replies:
            if isinstance(reply, (redis.ReadOnlyError, ClusterDownError, MasterDownError)):
                raise reply
            if isinstance(reply, Exception):
                raise Refused(str(reply)) from reply
        if wait and replies[1] < wait:
            raise Refused(f"{replies[1]} of {wait} replicas confirmed it in time; it may have happened")
        now, value, begun, *more = replies[0]
        if EVERYTHING in keys and value != b"0":
            self.raised(int(value))
        self._watch_clock(now, until)
        return bytes(value), begun, more, channel.server

    def _watch_clock(self, server_ms: int, until: float) -> None:
        self._whole.steady()  # which knows of the wall clock what it has seen
        step = self.epoch.watch(server_ms, time.time() * 1000, monotonic() * 1000)
        self._say_steps_back()
        if step is None:
            return
        self._notice(step)
        # Not by this call, which has done what it was to do: the next question raises it.
        self._apply_loss()
        self._state, self._pulse_at = (), 0.0


class Shards:
    """All shards of the set, and what they have in common.

    Args:
        on_everything: is told of every everything-fence that is larger than the last of its shard.
    """

    def __init__(self, address: RedisAddress, options: StoreOptions, on_everything: Callable[[int], object]) -> None:
        self.address = address
        self.options = options
        self.on_everything = on_everything
        self.admission = Admission(address)
        self.link: Link = connect(address, self.admission.greet)
        self.steady = SteadyClock()
        #: What every script is told first.
        self.preface = (str(options.lifetime_ms).encode(), b"1" if options.accept_amnesia else b"0")
        count = self.link.shards
        self.all = [
            Shard(index, f"{address} (shard {index})" if count > 1 else str(address), self) for index in range(count)
        ]
        # Which have not been told the lifetime. One server is told by the first question.
        self._unannounced = self.all if count > 1 else []
        self._announce_at = 0.0

    def everything(self) -> int:
        """The largest everything-fence of all."""
        return max(shard.epoch.everything for shard in self.all)

    def group(self, keys: Sequence[bytes], *, everywhere: bool) -> dict[Shard, list[bytes]]:
        """*keys* by shard. The everything-fence is in every one; it is asked for where the others are."""
        count = len(self.all)
        groups: dict[Shard, list[bytes]] = {}
        for key in keys:
            if key != EVERYTHING:
                groups.setdefault(self.all[key[0] % count], []).append(key)
        if EVERYTHING in keys:
            for shard in self.all if everywhere else groups or self.all[:1]:
                groups.setdefault(shard, []).append(EVERYTHING)
        return groups

    def announce(self, until: float) -> None:
        """Tell every shard the lifetime: sessions of this process may be revoked where it never asks anything.

        One that is away ends it; the others are told after a while.
        """
        if not self._unannounced or monotonic() < self._announce_at:
            return
        self._announce_at = monotonic() + _ANNOUNCE_EVERY
        waiting, self._unannounced = self._unannounced, []
        waiting = list(waiting)
        while waiting:
            try:
                waiting[0].pulse(until)
            except (*FAILURES, Refused):
                self._unannounced = [*waiting[1:], waiting[0]]
                return
            del waiting[0]

    def close(self) -> None:
        self.link.close()


def _values(reply: Any) -> list[bytes | None]:
    """The values of an MGET."""
    if isinstance(reply, (AskError, MovedError, TryAgainError)):
        raise Refused("the slot of these keys is being moved") from reply
    if isinstance(reply, Exception):
        raise reply
    values: list[bytes | None] = reply
    return values
