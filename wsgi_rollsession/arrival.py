"""What a request presents: its header taken apart, opened and judged, and the session chosen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from . import policy
from .policy import CLOCK_TOLERANCE_MS, Ended
from .presented import Presented, Site, open_presented, rank
from .seal import UnknownKey, Unsealable, unauthenticated_time

log = logging.getLogger("wsgi_rollsession")

#: How many leases are tried under one name, the last ones; fewer with each of several sessions of that name.
MOST_LEASES = 64

LookUp = Callable[[tuple[bytes, ...]], Sequence[int]]


class Arrival:
    """The sessions of one Cookie header.

    Args:
        header: the Cookie header, whatever it holds.
    """

    __slots__ = ("ended", "found", "names", "presented")

    def __init__(self, site: Site, header: str) -> None:
        self.found = site.cookies.parse(header)
        #: The names of sessions that are there, authentic or not.
        self.names = [name for name, _ in self.found.sessions]
        #: Those that are authentic, once they were opened.
        self.presented: list[Presented] = []
        #: Why nobody is logged in, or None; once a session was chosen.
        self.ended: Ended | None = None

    def choose(self, site: Site, now: int, look_up: LookUp) -> Presented | None:
        """The session: of those that are alive, the latest login, else the anonymous one.

        Args:
            now: Unix milliseconds.
            look_up: asks for the numbers of fences. Called once at most.
        """
        refusals, key_is_gone = self._open(site)
        judge(self.presented, now, look_up)
        chosen, dead = None, None
        for each in self.presented:
            if each.ended is None:
                if chosen is None or rank(each) > rank(chosen):
                    chosen = each
            else:
                refusals.append(f"session cookie {each.name!r} refused: {each.ended}")
                if each.is_login and (dead is None or rank(each) > rank(dead)):
                    dead = each
        if refusals:  # one line, whatever a client sends
            more = f", and {len(refusals) - 1} more" if len(refusals) > 1 else ""
            log.info("%s%s", refusals[0], more)
        if chosen is None or not chosen.is_login:
            self.ended = dead.ended if dead is not None else Ended.KEY_GONE if key_is_gone else Ended.NEVER
        return chosen

    def alone(self, site: Site, now: int) -> Presented | None:
        """The session, if it is the only one and the clock has not ended it: the fences are not asked."""
        if len(self.names) == 1:
            self._open(site)
            if self.presented and self.presented[0].expired(now) is None:
                return self.presented[0]
        return None

    def _open(self, site: Site) -> tuple[list[str], bool]:
        """Open what is authentic. What is to be said of the rest, and whether a login whose key is gone is among it."""
        presented, refusals, key_is_gone = [], [], False
        leases = self.found.leases
        if leases and len(self.names) > 1:
            # Each lease is tried with each session of its name: many of both would be a square of work.
            counts = Counter(self.names)
            leases = {name: each[-max(MOST_LEASES // max(counts[name], 1), 1) :] for name, each in leases.items()}
        for name, value in self.found.sessions:
            try:
                each, lease_refusal = open_presented(site, name, value, leases.get(name, ()))
            except (Unsealable, ValueError) as error:
                refusals.append(f"session cookie {name!r} refused: {error}")
                key_is_gone |= isinstance(error, UnknownKey) and site.cookies.is_login(name)
            else:
                presented.append(each)
                if lease_refusal is not None:
                    refusals.append(f"lease of session cookie {name!r} ignored: {lease_refusal}")
        self.presented = presented
        return refusals, key_is_gone

    def looks_due(self, since: int, now: int) -> bool:
        """Whether no cookie of ours has a clear time between *since* and *now* (Unix ms), or slightly later."""
        found = self.found
        values = [value for _, value in found.sessions]
        values += [value for name in self.names for value in found.leases.get(name, ())]
        return bool(values) and not any(is_fresh(unauthenticated_time(value), since, now) for value in values)


def is_fresh(time: int, since: int, now: int) -> bool:
    """Whether a clear time is later than *since*. One that no clock of ours can have made counts for nothing."""
    return since < time <= now + CLOCK_TOLERANCE_MS


def judge(presented: Sequence[Presented], now: int, look_up: LookUp) -> None:
    """Find out why each is dead, if it is, by the clock and by the fences, in one question."""
    living = []
    for each in presented:
        each.ended = each.expired(now)
        if each.ended is None:
            living.append(each)
    if len(living) == 1:  # as nearly always
        living[0].ended = policy.refused(look_up(living[0].keys), living[0].limits)
    elif living:
        numbers = look_up(tuple(key for each in living for key in each.keys))
        start = 0
        for each in living:
            stop = start + len(each.keys)
            each.ended = policy.refused(numbers[start:stop], each.limits)
            start = stop
