"""Whether a database still holds all that was confirmed. Pure: no file, no clock.

Every commit is a ``Mark`` with a random id, and the database keeps the marks of a lifetime: its history. The stamp
beside it (a ``Generation``) says of which commit the file is, and how the file looked after it: its inode, its size and
the time of its last change, which no tool can set. So whatever else touches the file makes the two differ. An older
copy has another inode or another time of change, wherever it comes from, and even if its stamp was put back with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from ..clock import has_stepped_back

_SECOND_NS = 1_000_000_000


class Mark(NamedTuple):
    """One commit."""

    sequence: int  # of the newest row
    id: int  # random
    at_ms: int  # the wall clock at which it was made


class FileState(NamedTuple):
    """How a file looks from outside."""

    inode: int
    changed_ns: int  # Unix time of the last change, also to its owner, mode and name
    size: int

    def is_the_same(self, earlier: FileState) -> bool:
        """Whether it is the file that was seen earlier, and has not been changed since."""
        # Small ext4 and ext3 file systems forget the fraction of the second when the file leaves the cache.
        is_rounded = self.changed_ns % _SECOND_NS == 0
        before_ns = earlier.changed_ns - earlier.changed_ns % _SECOND_NS if is_rounded else earlier.changed_ns
        return self == earlier._replace(changed_ns=before_ns)


class Generation(NamedTuple):
    """What a stamp says: after this commit, the file looked like that."""

    mark: Mark
    file: FileState


class Found(NamedTuple):
    """What the database holds."""

    tip: Mark | None  # its newest commit; None: no table, or an empty one
    parent: int  # the id of the commit before
    everything: int | None  # the number of EVERYTHING
    has_position: bool  # whether the commit that this process knows is in its history
    oldest_ms: int  # fences raised before have expired


class Witness(NamedTuple):
    """What speaks for it."""

    file: FileState | None  # the database in place
    stamp: Generation | None  # what the stamp in place says
    intent: int  # the id of a commit that was announced there and has not come to its end; 0: none
    held: Generation | None  # what the stamp said that this process has, or had, open
    position: Mark | None  # the newest commit that this process has read or made
    everything: int  # the number of EVERYTHING that this process knows
    has_trace: bool = False  # there is something else: a stamp, whole or not, or a damaged database


class Verdict(Enum):
    SAME = "nothing is missing"
    UNFINISHED = "a writer has not come to its end"  # what was confirmed is there if the file is intact
    NEW = "there is nothing, and nobody knows of anything"
    EMPTY = "its tables are gone"
    CLOCK = "the clock went back"
    FORKED = "it lacks what this process has seen in it"
    REPLACED = "somebody else has changed, replaced or moved it"
    UNKNOWN = "its stamp is gone, and no running process knows that it is complete"

    @property
    def is_loss(self) -> bool:
        """Whether the set begins anew."""
        return self not in (Verdict.SAME, Verdict.UNFINISHED)


def judge(found: Found, witness: Witness, now_ms: int, *, accept_amnesia: bool = False) -> Verdict:
    """Whether the database may have lost fences."""
    tip, stamp, intent, position = found.tip, witness.stamp, witness.intent, witness.position
    if tip is None or found.everything is None:
        is_known = stamp or witness.held or position or witness.has_trace
        return Verdict.EMPTY if is_known else Verdict.NEW
    if has_stepped_back(now_ms, tip.at_ms):
        return Verdict.CLOCK
    if position is not None and not found.has_position and not accept_amnesia:
        # Whoever acts on a loss raises EVERYTHING, for what was created until then, and past what a session may have
        # passed.
        is_covered = found.everything * 1000 >= position.at_ms and found.everything > witness.everything
        if position.at_ms >= found.oldest_ms and not is_covered:
            return Verdict.FORKED
    for generation in (stamp, witness.held):
        if generation and witness.file and generation.mark.id == tip.id and witness.file.is_the_same(generation.file):
            return Verdict.SAME
    if stamp is None:
        return Verdict.UNKNOWN
    is_made = tip.id == intent and found.parent == stamp.mark.id
    if intent and (is_made or tip.id == stamp.mark.id):
        return Verdict.UNFINISHED
    return Verdict.REPLACED


def lost_until(found: Found, witness: Witness, now_ms: int) -> int:
    """Until when (Unix milliseconds) sessions were created whose fences may be lost."""
    known: Sequence[Mark | None] = (
        found.tip,
        witness.position,
        witness.stamp and witness.stamp.mark,
        witness.held and witness.held.mark,
    )
    return max(now_ms, *(mark.at_ms if mark else 0 for mark in known))
