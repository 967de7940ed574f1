"""A copy of the revocation set inside the process: 16-byte key -> 32-bit number, in about ten bytes a fence.

Small sets are a dictionary. Past ``RECENT`` entries it is moved into a table of 65536 buckets: the first two
bytes of a key (it is a hash already, so evenly spread) choose the bucket, a byte string of ten-byte records
(six more bytes of the key, and the number) which ``rfind`` searches. Measured against its rivals by
benchmarks/local_set_candidates.py, see docs/local-set.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from struct import Struct

from .fence import EVERYTHING
from .forks import ForkSafeLock

#: Into how many generations a lifetime is divided. An entry may stay one generation longer than it has to.
GENERATIONS = 8
#: How many entries the dictionary holds before they move into the table. A dictionary's entry takes some
#: 200 bytes, so this bounds what it costs to about 2 MB, and makes nearly every deployment's set a dictionary.
RECENT = 8_192

_BUCKETS = 65_536
_RECORD = 10
_split = Struct(">H6s8x").unpack
_join = Struct(">6sI").pack
_number = Struct(">I").unpack_from


class LocalSet:
    """Thread-safe: look-ups take no lock and never wait; writers take turns. Safe to use after a fork.

    Entries are dropped a generation at a time by ``purge``; ``EVERYTHING`` never is.

    Args:
        lifetime_ms: how long an entry usually lives, in milliseconds. Set the attribute when it grows: it
            decides only how long a generation is.
    """

    def __init__(self, lifetime_ms: int) -> None:
        self.lifetime_ms = lifetime_ms
        self._lock = ForkSafeLock()
        # The dictionary, the table, and when each key in the dictionary expires (it may hold more keys). Replaced as a
        # whole, so that a reader, and an exception from a signal handler, find them as they belong together.
        self._state: tuple[dict[bytes, int], _Table | None, dict[bytes, int]] = {}, None, {}
        self._purged_ms = 0

    def numbers(self, keys: Sequence[bytes]) -> list[int]:
        """The number of each of *keys*, 0 for those that are not here."""
        recent, table, _ = self._state
        if table is None:
            return [recent[key] if key in recent else 0 for key in keys]
        get = recent.get
        return [get(key) or table.number(key) for key in keys]  # in both: the dictionary's is at least as large

    def add(self, key: bytes, number: int, expires_ms: int) -> None:
        """Raise *key* to *number* (merge is ``max``), and keep it at least until *expires_ms* (Unix milliseconds)."""
        self.load(((key, number, expires_ms),))

    def load(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """``add`` many rows of (key, number, expires_ms). Rows in order of expiry are dropped most promptly."""
        with self._lock:
            recent, table, expires = self._state
            for key, number, expires_ms in rows:
                held = recent.get(key)
                if held is None:
                    held = 0 if table is None else table.number(key)
                    # The table does not tell when it expires there, but when the last does.
                    expires[key] = max(expires_ms, table.last) if table is not None and held else expires_ms
                elif expires_ms > expires[key]:
                    expires[key] = expires_ms
                recent[key] = number if number > held else held
                if len(recent) > RECENT:
                    recent, table, expires = self._move()

    def purge(self, now_ms: int) -> None:
        """Drop what expired before *now_ms* (Unix milliseconds). Costs nothing if called again within a generation."""
        if abs(now_ms - self._purged_ms) < self.lifetime_ms // GENERATIONS:
            return
        with self._lock:
            recent, table, expires = self._state
            kept = [key for key in recent if expires[key] >= now_ms or key == EVERYTHING]
            if table is not None and table.purge(now_ms):
                table = None
            self._state = {key: recent[key] for key in kept}, table, {key: expires[key] for key in kept}
            self._purged_ms = now_ms

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._state = {}, None, {}

    def __len__(self) -> int:
        """How many entries are held. A key that was raised again may count twice for a while."""
        recent, table, _ = self._state
        return len(recent) + (sum(map(len, table.buckets)) // _RECORD if table is not None else 0)

    def _move(self) -> tuple[dict[bytes, int], _Table | None, dict[bytes, int]]:
        """Move the dictionary into the table. A reader sees the one or the other."""
        recent, table, expires = self._state
        if table is None:
            table = _Table()
        # What expires long after all others would keep in the table what comes after it. If it is few, it stays here.
        far = self._purged_ms + 2 * self.lifetime_ms
        kept = [key for key in recent if expires[key] > far or key == EVERYTHING]
        if len(kept) > RECENT // 2:
            kept = [EVERYTHING] if EVERYTHING in recent else []
        moved = sorted(recent.keys() - kept, key=expires.__getitem__)
        if len({key[:8] for key in moved}) < len(moved):
            moved.sort(key=recent.__getitem__)  # of keys that are one to the table, the last number counts
        table.extend(moved, recent, expires, self.lifetime_ms // GENERATIONS)
        self._state = {key: recent[key] for key in kept}, table, {key: expires[key] for key in kept}
        return self._state


class _Table:
    """The buckets, and where the generations in them end.

    Records are only ever appended, nearly in order of expiry (a straggler lives longer than it has to). So a
    generation is a stretch at the front of every bucket, and dropping it is cutting that off.
    """

    def __init__(self) -> None:
        self.buckets = [b""] * _BUCKETS
        self._cut = array("I", bytes(4 * _BUCKETS))  # bytes that each bucket has lost at its front, modulo 2**32
        self._ended: list[tuple[int, array[int]]] = []  # per ended generation: last expiry, and `_cut` without it
        self._begun = 0  # the first expiry in the generation that is being filled
        self.last = 0  # the last expiry of all

    def number(self, key: bytes) -> int:
        index, suffix = _split(key)
        bucket = self.buckets[index]
        at = bucket.rfind(suffix)  # the last record of a key holds its largest number
        while at > 0 and at % _RECORD:
            at = bucket.rfind(suffix, 0, at + 5)
        return _number(bucket, at + 6)[0] if at >= 0 else 0

    def extend(self, keys: list[bytes], numbers: dict[bytes, int], expires: dict[bytes, int], step_ms: int) -> None:
        """Append *keys*, which are in order of expiry. A generation is *step_ms* long."""
        buckets, last = self.buckets, self.last
        for key in keys:
            expiry = expires[key]
            if expiry - self._begun > step_ms:
                if last:
                    ends = array("I", ((cut + len(b)) & 0xFFFF_FFFF for cut, b in zip(self._cut, buckets)))
                    self._ended.append((last, ends))
                self._begun = expiry
            if expiry > last:
                last = expiry
            index, suffix = _split(key)
            buckets[index] += _join(suffix, numbers[key])
        self.last = last

    def purge(self, now_ms: int) -> bool:
        """Cut off the generations that expired before *now_ms*. True if nothing is left."""
        buckets, cuts = self.buckets, self._cut
        while self._ended and self._ended[0][0] < now_ms:
            for index, end in enumerate(self._ended[0][1]):
                cut = cuts[index]
                if cut != end:
                    bucket = buckets[index]
                    cuts[index] = end  # first: if an exception from a signal handler comes now, too little is cut
                    buckets[index] = bucket[(end - cut) & 0xFFFF_FFFF :]
            del self._ended[0]
        return self.last < now_ms
