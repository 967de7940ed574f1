"""The revocation set inside Redis: its keys, what is asked, and what is checked about the server.

Of each shard ``{n}`` (one without a cluster), with the prefix ``rollsession``:

    rollsession:{0}:<16 bytes>   a fence: its number as decimal text; expires by itself
    rollsession:{0}:<EVERYTHING> the everything-fence; never expires. Missing: the shard has lost its data
    rollsession:{0}:lifetime     the longest lifetime ever announced, in milliseconds
    rollsession:{0}:log          a stream of every raise, 16 bytes of key and 4 of number; trimmed by that lifetime
    rollsession:{0}:server       which server process has this data, since when, and a random word
    rollsession:{0}:followers    a hash: what each process that follows last said of itself

Every shard has an everything-fence of its own, so a cluster that loses one primary's data refuses the sessions
whose fences were there. A script writes fence and log entry together, so the log is complete.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import AskError, ClusterDownError, MasterDownError, MovedError, NoScriptError, TryAgainError

from . import StoreOptions
from .clock import CLOCK_STEP_MS, SteadyClock, genesis
from .fence import EVERYTHING
from .redis_link import Command, Info, connect
from .redis_scripts import ADOPT, FENCE, HELLO, Script
from .redis_url import RedisAddress

log = logging.getLogger("wsgi_rollsession")

#: Seconds between two looks at the server's clock and role; they travel with a question that is asked anyway.
_PULSE = 1.0
#: Seconds between two tries to tell all shards of a cluster the lifetime, while one of them is away.
_ANNOUNCE_EVERY = 5.0
#: Milliseconds that WAIT waits for replicas; the reply must come before the connection's time-out.
WAIT_MS = 250


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


class Shards:
    """The set in Redis, by commands. Raises redis errors and ``OSError``; the store above translates them."""

    def __init__(self, address: RedisAddress, options: StoreOptions) -> None:
        self.address = address
        self.lifetime_ms = options.lifetime_ms
        self._accept_amnesia = options.accept_amnesia
        self.link = connect(address, self._greet)
        self.names = [Names.of(address.prefix, shard) for shard in range(self.link.shards)]
        self._preface = (str(options.lifetime_ms).encode(), b"1" if options.accept_amnesia else b"0")
        self._steady = SteadyClock()
        self._said: set[str] = set()
        self._pulse_at = [0.0] * self.link.shards
        #: The largest everything-fence seen, by shard.
        self.seen = [0] * self.link.shards
        # Which shards have not been told the lifetime. One server is told by the first question.
        self._unannounced = list(range(self.link.shards)) if self.link.shards > 1 else []
        self._announce_at = 0.0
        self._record = [b""] * self.link.shards  # Names.server when it was last seen
        self._contact = [(b"", 0.0)] * self.link.shards  # the server process that answered last, and when
        # The server's clock, less this host's wall clock and less its monotonic one, when it was least ahead.
        self._clock: list[tuple[float, float] | None] = [None] * self.link.shards
        # The server's clock and this host's wall clock, both less the monotonic one, when they were furthest ahead.
        self._furthest = [(float("-inf"), float("-inf"))] * self.link.shards

    def group(self, keys: Sequence[bytes], *, everywhere: bool) -> dict[int, list[bytes]]:
        """*keys* by shard. The everything-fence is in every one; it is asked for where the others are."""
        count = self.link.shards
        groups: dict[int, list[bytes]] = {}
        for key in keys:
            if key != EVERYTHING:
                groups.setdefault(key[0] % count, []).append(key)
        if EVERYTHING in keys:
            for shard in range(count) if everywhere else groups or (0,):
                groups.setdefault(shard, []).append(EVERYTHING)
        return groups

    def numbers(self, shard: int, keys: Sequence[bytes]) -> list[int]:
        """The numbers of *keys*, in one round trip."""
        names = self.names[shard]
        base = names.base
        commands: list[Command] = [(b"MGET", *names.state, *[base + key for key in keys])]
        now = time.monotonic()
        if pulse := now >= self._pulse_at[shard]:
            self._pulse_at[shard] = now + _PULSE
            commands += ((b"ROLE",), (b"TIME",))
        replies, info = self.link.exchange(shard, commands, retry=True)
        found = replies[0]
        if isinstance(found, (AskError, MovedError, TryAgainError)):
            raise Refused("the slot of these keys is being moved") from found
        if isinstance(found, Exception):
            raise found
        if pulse:
            self._take_pulse(shard, replies[1], replies[2])
        everything = self.everything(shard, found, info, now)
        if self._unannounced and now >= self._announce_at:
            self._announce()
        return [
            everything if key == EVERYTHING else int(number or 0) for key, number in zip(keys, found[3:], strict=True)
        ]

    def everything(self, shard: int, state: Sequence[bytes | None], info: Info, asked: float) -> int:
        """The everything-fence of a shard whose ``Names.state`` was read from the server *info*.

        *asked*: when, by ``time.monotonic()``. Not when the answer is taken: the server may be another one by then.

        Raises it first if the data is not, or may not be, what it was.
        """
        everything, lifetime, server = state[:3]
        run_id = str(info.get("run_id", "")).encode()
        is_new = bool(run_id) and (server is None or not server.startswith(run_id))
        lost = is_new and self._may_have_lost(shard, server or b"", info)
        before = self._record[shard]
        # In one server process the record changes, or goes, only if the data is lost: by FLUSHALL for example.
        replaced = before not in (b"", server) and (server is None or server.startswith(before.split()[0]))
        self._record[shard] = server or before
        try:
            if everything is None or lifetime is None or int(lifetime) < self.lifetime_ms:
                everything = self.script(shard, HELLO, (), retry=True)
            if is_new:
                record = b"%s %d %s" % (run_id, time.time(), os.urandom(4).hex().encode())
                everything = self.script(shard, ADOPT, (), server or b"", record, int(lost), retry=True)
            # A fail-over may have lost the last raise of it.
            least = self.seen[shard] + 1 | 1 if replaced else self.seen[shard]
            if int(everything) < least and not self._accept_amnesia:
                everything = self.script(shard, FENCE, [EVERYTHING], least, retry=True)
        except Exception as error:
            if not isinstance(error, Refused) or everything is None or lost or replaced:
                self._record[shard] = before  # the next question finds the same, and tries again
                raise
            # Only bookkeeping was refused (by a full memory, say): what was read is good, and the next one tries again.
        self._contact[shard] = run_id, asked
        self.seen[shard] = max(int(everything), self.seen[shard])
        return self.seen[shard]

    def _announce(self) -> None:
        """Tell every shard the lifetime: sessions of this process may be revoked where it never asks anything.

        One that is away ends it, so that a call waits for one of them at most; the others are told after a while.
        """
        self._announce_at = time.monotonic() + _ANNOUNCE_EVERY
        waiting, self._unannounced = self._unannounced, []
        while waiting:
            try:
                self.hello(waiting[0])
            except (redis.RedisError, Refused, OSError):
                self._unannounced = [*waiting[1:], waiting[0]]
                return
            del waiting[0]

    def hello(self, shard: int) -> None:
        """Announce the lifetime, and write genesis if the shard is empty."""
        self.seen[shard] = max(int(self.script(shard, HELLO, (), retry=True)), self.seen[shard])

    def _may_have_lost(self, shard: int, server: bytes, info: Info) -> bool:
        """The data is in another server process than *server*, after a fail-over or a restart: must it be distrusted?

        What a restart brings back from a snapshot (RDB) is older than the last fences, and does not show it; and an
        append-only file can lack the last two seconds, unless ``appendfsync`` is ``always``. So without that, a server
        that did not run yet while the previous one was still seen has lost data.
        """
        if not server:
            return False
        seen_run_id, seen = self._contact[shard]
        if seen_run_id and server.startswith(seen_run_id):
            since = time.monotonic() - seen  # since we were in contact with the previous one
        else:
            since = time.time() - int(server.split()[1])
        uptime = int(info["uptime_in_seconds"]) + time.monotonic() - info["asked_at"]
        if uptime > since + 1 or (info.get("aof_enabled") and self._syncs_always(shard)):
            return False
        what = "accepted nevertheless (amnesia=accept)" if self._accept_amnesia else "refused"
        log.error(
            "revocation store %s was restarted without an append-only file and appendfsync always, so recent fences"
            " may be lost: sessions created before now are %s",
            self.address,
            what,
        )
        return not self._accept_amnesia

    def _syncs_always(self, shard: int) -> bool:
        """Whether the server is known to answer a write only when it is on its disk."""
        ((reply,), _) = self.link.exchange(shard, [("CONFIG", "GET", "*appendfsync*")], retry=True)
        # It may not permit the question. Then the default is likelier, which is another.
        found = dict(zip(reply[::2], reply[1::2])) if isinstance(reply, list) else {}
        return found.get(b"appendfsync") == b"always" and found.get(b"no-appendfsync-on-rewrite") == b"no"

    def script(
        self, shard: int, script: Script, keys: Sequence[bytes], *args: int | bytes, retry: bool, wait: int = 0
    ) -> bytes:
        """Run *script*, and have *wait* replicas confirm it. Returns its value.

        Raises:
            Refused: the server is there, but did not do it, or too few replicas confirmed it.
        """
        names = self.names[shard]
        words = [names.everything, names.lifetime, names.log, *[names.base + key for key in keys]]
        # A session that began under the everything-fence has passed it. So if it is lost, the new one must go past the
        # old one; and the first ones of a cluster's shards are alike, or a session could begin before that of one.
        least = self.seen[shard] + 1 if self.seen[shard] else max(self.seen)
        call = (len(words), *words, *self._preface, least, self._steady(), *args)
        waiting: list[Command] = [("WAIT", wait, WAIT_MS)] if wait else []
        replies, _ = self.link.exchange(shard, [("EVALSHA", script.sha, *call), *waiting], retry=retry)
        if isinstance(replies[0], NoScriptError):
            replies, _ = self.link.exchange(shard, [("EVAL", script.text, *call), *waiting], retry=retry)
        for reply in replies:
            if isinstance(reply, (redis.ReadOnlyError, ClusterDownError, MasterDownError)):
                raise reply
            if isinstance(reply, Exception):
                raise Refused(str(reply)) from reply
        if wait and replies[1] < wait:
            raise Refused(f"{replies[1]} of {wait} replicas confirmed it in time; it may have happened")
        now, value = replies[0]
        if EVERYTHING in keys:
            self.seen[shard] = max(int(value), self.seen[shard])
        self._watch_clock(shard, now)
        return bytes(value)

    def clock_ahead_ms(self, shard: int) -> float | None:
        """How far the server's clock is ahead of ours, if that is known."""
        clock = self._clock[shard]
        return None if clock is None else clock[0]

    def close(self) -> None:
        self.link.close()

    # What is checked about the server

    def say_once(self, level: int, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.log(level, "revocation store %s %s", self.address, message)

    def _greet(self, info: Info) -> None:
        """Refuse a connection to a server that must not be trusted with fences."""
        if not info:
            self.say_once(logging.WARNING, "does not permit INFO: its role and eviction policy could not be checked")
            return
        if info.get("role") == "slave":
            raise redis.ConnectionError("it is a read-only replica")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and info.get("maxmemory"):
            message = f"drops fences when its memory is full: maxmemory-policy must be noeviction, it is {policy}"
            self.say_once(logging.ERROR, message)
            if not self.address.accept_eviction:
                raise redis.ConnectionError(f"it {message} (eviction=accept in the URL takes the risk)")

    def check_role(self, role: Any) -> None:
        """Raise a redis error if *role*, the reply to ROLE, is that of a replica."""
        if isinstance(role, list) and role[0] != b"master":
            self.link.forget()  # the next connection looks for the primary
            raise redis.ConnectionError("it has become a read-only replica")

    def _take_pulse(self, shard: int, role: Any, now: Any) -> None:
        self.check_role(role)
        if isinstance(now, list):
            self._watch_clock(shard, int(now[0]) * 1000 + int(now[1]) // 1000)

    def _watch_clock(self, shard: int, server_ms: int) -> None:
        """Notice that the server's clock has stepped so that fences have expired before the sessions they refuse."""
        self._steady()  # which knows of the wall clock what it has seen
        state = self._clock[shard], self._furthest[shard]
        step = self._clock_step(shard, server_ms)
        if not step:
            return
        if not self._accept_amnesia:
            try:
                number = genesis(self._steady(), (self.seen[shard],))
                self.script(shard, FENCE, [EVERYTHING], number, retry=True)
            except BaseException:
                self._clock[shard], self._furthest[shard] = state  # the next question notices it again
                self._pulse_at[shard] = 0.0
                raise
        log.error("the clock of revocation store %s %s: fences lost", self.address, step)

    def _clock_step(self, shard: int, server_ms: int) -> str:
        """What the server's clock has done since it was last looked at, if fences were lost by it, or an empty text."""
        monotonic, wall = time.monotonic() * 1000, time.time() * 1000
        ahead, ticks, ours = server_ms - wall, server_ms - monotonic, wall - monotonic
        before, furthest = self._clock[shard], self._furthest[shard]
        if before is None or ahead < before[0]:
            self._clock[shard] = before = ahead, ticks
        # On one host, both clocks go forward together, and fences expire; when both come back, sessions revive.
        back = min(furthest[0] - ticks, furthest[1] - ours)
        if back > CLOCK_STEP_MS:
            self._furthest[shard] = ticks, ours
            return f"and that of this host stepped back by {back / 1000:.0f} s"
        self._furthest[shard] = max(furthest[0], ticks), max(furthest[1], ours)
        if ahead <= before[0] + CLOCK_STEP_MS:
            return ""
        self._clock[shard] = ahead, ticks
        step = (ahead - before[0]) / 1000
        if ticks < before[1] + CLOCK_STEP_MS:
            log.error("this host's clock stepped back by %.0f s: it accepts sessions for so much longer", step)
            return ""
        return f"stepped forward by {step:.0f} s"
