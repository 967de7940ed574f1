"""What a request presents: opened, judged, and the session chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from . import policy
from .policy import Ended
from .presented import Opening, Presented, rank

log = logging.getLogger("wsgi_rollsession")

LookUp = Callable[[tuple[bytes, ...]], Sequence[int]]


class Arrival:
    """The sessions of one request."""

    __slots__ = ("ended", "opening", "presented")

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        #: Those that are authentic.
        self.presented = [Presented(name, opened) for name, opened in opening.sessions]
        #: Why nobody is logged in, or None; once a session was chosen.
        self.ended: Ended | None = None

    def choose(self, now: int, look_up: LookUp) -> Presented | None:
        """The session: of those that are alive, the latest login, else the anonymous one.

        Args:
            now: Unix milliseconds.
            look_up: asks for the numbers of fences. Called once at most.
        """
        presented = self.presented
        if len(presented) == 1:  # as nearly always
            one = presented[0]
            one.ended = one.expired(now) or policy.refused(look_up(one.keys), one.limits)
            if one.ended is None and one.is_login and not self.opening.refusals:
                return one
        else:
            judge(presented, now, look_up)
        chosen, dead, refusals = None, None, self.opening.refusals
        for each in presented:
            if each.ended is None:
                if chosen is None or rank(each) > rank(chosen):
                    chosen = each
            else:
                refusals = (*refusals, f"session cookie {each.name!r} refused: {each.ended}")
                if each.is_login and (dead is None or rank(each) > rank(dead)):
                    dead = each
        if refusals:  # one line, whatever a client sends
            more = f", and {len(refusals) - 1} more" if len(refusals) > 1 else ""
            log.info("%s%s", refusals[0], more)
        if chosen is None or not chosen.is_login:
            key_is_gone = self.opening.key_is_gone
            self.ended = dead.ended if dead is not None else Ended.KEY_GONE if key_is_gone else Ended.NEVER
        return chosen

    @property
    def alone(self) -> Presented | None:
        """The session, if it is the only one."""
        return self.presented[0] if len(self.opening.session_names) == 1 == len(self.presented) else None


def judge(presented: Sequence[Presented], now: int, look_up: LookUp) -> None:
    """Find out why each is dead, if it is, by the clock and by the fences, in one question."""
    living = []
    for each in presented:
        each.ended = each.expired(now)
        if each.ended is None:
            living.append(each)
    if living:
        numbers = look_up(tuple(key for each in living for key in each.keys))
        start = 0
        for each in living:
            stop = start + len(each.keys)
            each.ended = policy.refused(numbers[start:stop], each.limits)
            start = stop
