"""The record that follows from what happened: pure functions. Times are Unix milliseconds, timeouts are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import policy
from .revocation.fence import EVERYTHING
from .settings import Settings
from .standing import Outage
from .token import FAIL_OPEN, NEVER, TRANSIENT, UNASKED, Record, next_epoch


class Regeneration(NamedTuple):
    """What ``regenerate()`` asked for, and what was so at its call."""

    #: None: those of the session, whose login time and deadlines stay.
    tags: tuple[bytes, ...] | None
    idle_s: int | None
    absolute_s: int | None
    persistent: bool | None
    #: When it was called.
    at: int
    #: The numbers that the fences of everything and of the tags had at the call.
    numbers: Mapping[bytes, int]
    #: The store could not be asked.
    unasked: bool


def both(first: Regeneration, second: Regeneration) -> Regeneration:
    """What two calls in one request ask for: the second adds to the first, and what it leaves open stays.

    The moment is that of the first call: a revocation between the two is not passed.
    """
    return Regeneration(
        first.tags if second.tags is None else second.tags,
        first.idle_s if second.idle_s is None else second.idle_s,
        first.absolute_s if second.absolute_s is None else second.absolute_s,
        first.persistent if second.persistent is None else second.persistent,
        first.at,
        {**second.numbers, **first.numbers},
        first.unasked or second.unasked,
    )


def begun(settings: Settings, id_: bytes, now: int, everything: int, *, unasked: bool, data: bytes) -> Record:
    """An anonymous session that begins at *now*, when the fence of everything had the number *everything*."""
    flags = (FAIL_OPEN if settings.outage is Outage.OPEN else 0) | (UNASKED if unasked else 0)
    ends = _after(now, settings.absolute_ms)
    return Record(id_, 1, now, 0, settings.idle_s, ends, flags, (0 if unasked else everything,), (), data)


def written(record: Record, version: int, *, idle: int, ends: int, data: bytes) -> Record:
    """The same session with other data."""
    id_, _, created, authenticated, _, _, flags, passed, tags, _ = record
    return Record(id_, version, created, authenticated, idle, ends, flags, passed, tags, data)  # cheaper than _replace


def logged_in(settings: Settings, id_: bytes, tags: tuple[bytes, ...], what: Regeneration, data: bytes) -> Record:
    """A login: it begins at the call, and has passed what was raised until then."""
    flags = (FAIL_OPEN if settings.outage is Outage.OPEN else 0) | (UNASKED if what.unasked else 0)
    flags |= TRANSIENT if what.persistent is False else 0
    passed = tuple(0 if what.unasked else what.numbers[key] for key in (EVERYTHING, *tags))
    idle = _shorter(settings.idle_s, what.idle_s)
    ends = _after(what.at, _shorter(settings.absolute_ms, _ms(what.absolute_s)))
    return Record(id_, 1, what.at, what.at, idle, ends, flags, passed, tags, data)


def renewed(
    settings: Settings, record: Record, tags: tuple[bytes, ...], what: Regeneration | None, data: bytes
) -> Record:
    """The next epoch of a login. If it was authenticated again, its deadlines begin anew, with the lengths they had.

    Lengths that are given can only shorten it; if it was authenticated again, as at a login, the configuration's only.

    Args:
        what: None if nobody asked for it: the epoch's writes have run out.

    Raises:
        SessionConflict: there is no next epoch.
    """
    id_, version, created, authenticated, idle, ends, flags, passed, _, _ = record
    held = dict(zip((EVERYTHING, *record.tags), passed, strict=True))
    ends = policy.end(record, settings.absolute_ms)
    idle = _shorter(settings.idle_s, idle)
    if what is not None:
        if what.tags is not None:  # authenticated again: lengths that are given replace those it had
            length = NEVER if record.ends == NEVER else record.ends - authenticated
            authenticated = what.at
            idle = settings.idle_s if what.idle_s is not None else idle
            ends = _after(
                authenticated,
                settings.absolute_ms if what.absolute_s is not None else min(length, settings.absolute_ms),
            )
        ends = min(ends, _after(authenticated, _shorter(NEVER, _ms(what.absolute_s))))
        idle = _shorter(idle, what.idle_s)
        if what.persistent is not None:
            flags = flags & ~TRANSIENT | (0 if what.persistent else TRANSIENT)
    passing = tuple(held[key] if key in held else what.numbers[key] if what is not None else 0 for key in tags)
    return Record(
        id_, next_epoch(version), created, authenticated, idle, ends, flags, (passed[0], *passing), tags, data
    )


def is_another_user(held: tuple[bytes, ...], tags: tuple[bytes, ...]) -> bool:
    """Whether a login with *tags* is of another user than a session with the tags *held*, as far as tags can tell."""
    one, other = set(held), set(tags)
    return not (one <= other or other <= one)


def _ms(duration_s: int | None) -> int | None:
    return None if duration_s is None else duration_s * 1000


def _shorter(one: int, other: int | None) -> int:
    return one if other is None or one <= other else other


def _after(now: int, duration_ms: int) -> int:
    return NEVER if duration_ms >= NEVER else now + duration_ms
