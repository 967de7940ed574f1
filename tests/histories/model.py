"""What may be so: sessions, what ended them and when, what each request asked for. Knows no cookies, keys or stores.

Events are numbered in the order in which the store took them: whoever asked the store at number 7 knows what happened
until 7. Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

EVERYTHING = "*"
UNLIMITED = (1 << 32) - 1
NOBODY = (None, None)
#: How far ahead of the clock a number that revokes may be (ms): what is rounded up, and what runs ahead.
AHEAD_MS = 20_000


class Vague:
    """A verdict: it may be alive or not."""


VAGUE = Vague()
#: None: it is alive. Text: it is dead, and which invariant is broken if it is accepted.
Verdict = str | Vague | None


class Setup(NamedTuple):
    """How a process is configured."""

    idle_s: int = 600
    absolute_s: int = 3600
    renew_after_s: int = 0
    rolling: bool = True
    versioned: bool = False
    outage: str = "degrade"
    identity: bool = True
    keys: tuple[int, ...] = (0,)


class Life:
    """A login from its beginning to its end, or an anonymous session."""

    __slots__ = (
        "browser",
        "ended",
        "failed",
        "floors",
        "is_login",
        "late",
        "number",
        "pending",
        "renewed",
        "turn",
        "untold",
        "user",
        "vague",
    )

    def __init__(self, number: int, user: str | None, is_login: bool) -> None:
        self.number, self.user, self.is_login = number, user, is_login
        #: The event that ended it.
        self.ended: int | None = None
        #: (event, version, what is broken if an earlier version is accepted from then on)
        self.floors: list[tuple[int, int, str]] = []
        self.renewed: list[int] = []  # the events that began its epochs
        self.pending = 0  # something that may end it is under way
        self.vague = False
        self.failed = False  # a response that presented it has failed
        self.browser: Any = None
        # Which browser logged in, how often it had been told its slot when it asked, and how often when it was answered
        self.turn = self.late = 0
        self.untold = False  # nobody told it any more

    def __repr__(self) -> str:
        return f"{'login' if self.is_login else 'session'} {self.number} of {self.user}"


class Copy(NamedTuple):
    """A session as it was sealed once."""

    life: Life
    version: int
    stamp: int
    idle_s: int
    ends: int
    created: int
    authenticated: int
    fail_open: bool
    tags: frozenset[str]
    #: By tag, and for everything: the last event that it knew when it began; negative if nobody could be asked.
    passed: dict[str, int]
    data: dict[str, Any]

    @property
    def epoch(self) -> int:
        return self.version >> 16


class Lease(NamedTuple):
    """A copy was seen alive."""

    life: Life
    version: int
    renewed: int
    idle_s: int


class Held(NamedTuple):
    """A copy, as somebody presents it with leases."""

    copy: Copy
    activity: int
    idle_s: int

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        copy = self.copy
        return copy.life.is_login, copy.created, copy.version, self.activity


def held(copy: Copy, leases: Iterable[Lease]) -> Held:
    """A copy with the best of *leases*."""
    activity, idle = copy.stamp, copy.idle_s
    for lease in leases:
        if (
            lease.life is copy.life
            and lease.version >> 16 == copy.epoch
            and lease.version <= copy.version
            and lease.renewed > activity
        ):
            activity, idle = lease.renewed, min(copy.idle_s, lease.idle_s)
    return Held(copy, activity, idle)


class Model:
    """The lives, and what revoked them."""

    def __init__(self) -> None:
        self.event = 0
        self.lives: list[Life] = []
        #: By tag: (event, the steady clock then, what is broken if one from before is accepted)
        self.revoked: dict[str, list[tuple[int, int, str]]] = {}
        #: When the store lost its data: the event, and the clock, or 0 while that was behind what it had been. What is
        #: from later may be accepted then: a store that is new does not know that the clock was set back.
        self.losses: list[tuple[int, int]] = []

    def tick(self) -> int:
        """Something happened."""
        self.event += 1
        return self.event

    def life(self, user: str | None, is_login: bool) -> Life:
        """One begins."""
        life = Life(len(self.lives), user, is_login)
        self.lives.append(life)
        return life

    def end(self, lives: Iterable[Life], event: int) -> None:
        """They have been ended, and somebody was told so."""
        for life in lives:
            if life.ended is None or life.ended > event:
                life.ended = event

    def revoke(self, tag: str, event: int, steady: int, broken: str = "1: alive after it was revoked") -> None:
        """Everything with *tag* that began until *event* is over."""
        self.revoked.setdefault(tag, []).append((event, steady, broken))
        self.revoked[tag].sort()

    def dead(self, copy: Copy, event: int) -> Verdict:
        """What somebody who knew what happened until *event* has to say of a copy, but for the clock."""
        life = copy.life
        if self.losses:
            begun = copy.passed[EVERYTHING]
            for at, wall in self.losses:
                if at <= event and begun < at and copy.created > wall:
                    return VAGUE
        if life.ended is not None and life.ended <= event:
            return "1: alive after its end"
        vague = life.vague or life.pending > 0
        if self.revoked:
            for tag, passed in copy.passed.items():
                for at, steady, broken in self.revoked.get(tag, ()):
                    if at > event:
                        break
                    if passed < 0:  # the time of creation decides
                        if at > -1 - passed:
                            return broken
                        vague = vague or copy.created <= steady + AHEAD_MS
                    elif at > passed:
                        return broken
        for at, version, broken in life.floors:
            if at <= event and copy.version < version:
                return broken
        return VAGUE if vague else None

    def judge(self, this: Held, now: int, idle_s: int, absolute_ms: int, event: int) -> Verdict:
        """Whether a process with these timeouts, which knows what happened until *event*, may accept a copy."""
        copy = this.copy
        verdict = self.dead(copy, event)
        if isinstance(verdict, str):
            return verdict
        if now >= min(copy.ends, (copy.authenticated or copy.created) + absolute_ms):
            return "4: alive past its absolute deadline"
        idle = min(this.idle_s, idle_s)
        if idle != UNLIMITED and now >= this.activity + idle * 1000:
            return "4: alive past its idle timeout"
        if this.activity > now + 60_000:
            return "4: alive, from the future"
        return verdict


class Regeneration(NamedTuple):
    """What ``regenerate()`` was asked for, and when."""

    tags: frozenset[str] | None
    idle_s: int | None
    absolute_s: int | None
    persistent: bool | None
    at: int
    #: By tag, and for everything: what was known of it.
    asked: dict[str, int]
    unasked: bool

    def then(self, second: Regeneration) -> Regeneration:
        """Two calls in one request: the second adds to the first."""
        return Regeneration(
            self.tags if second.tags is None else second.tags,
            self.idle_s if second.idle_s is None else second.idle_s,
            self.absolute_s if second.absolute_s is None else second.absolute_s,
            self.persistent if second.persistent is None else second.persistent,
            self.at,
            {**second.asked, **self.asked},
            self.unasked or second.unasked,
        )


class Visit:
    """What the application has asked of its session in one pass of a request."""

    def __init__(self, identity: bool, base: Held | None) -> None:
        self.identity = identity
        self.base = base
        self.standing = "new" if base is None else "held"
        self.stored: dict[str, Any] = dict(base.copy.data) if base is not None else {}
        self.data = dict(self.stored)
        self.assigned: set[str] = set()
        self.cleared = self.leaves = False
        self.who: tuple[str | None] | None = None
        self.regeneration: Regeneration | None = None

    # Who

    def user_in_data(self) -> str | None:
        return (self.data.get("user") or None) if self.identity else None

    @property
    def identities(self) -> tuple[str | None, str | None]:
        if not self.identity:
            return NOBODY
        now = self.user_in_data()
        return (now if self.who is None else self.who[0]), now

    @property
    def is_somebody(self) -> bool:
        return self.base is not None and self.base.copy.life.is_login and not self.cleared

    @property
    def is_renewed(self) -> bool:
        what = self.regeneration
        if self.base is None or what is None or not self.is_somebody:
            return False
        before, after = self.identities
        if before is not None and after is not None:
            return before == after
        held = self.base.copy.tags
        return what.tags is None or what.tags <= held or held <= what.tags

    def user(self) -> str | None:
        """For whom something is stored now."""
        after = self.identities[1]
        if after is not None:
            return after
        if self.regeneration is not None and self.regeneration.tags:
            return user_of(self.regeneration.tags)
        return self.base.copy.life.user if self.base is not None and self.is_somebody else None

    # What is asked for

    def assign(self, key: str, value: Any) -> None:
        if self.identity and key == "user":
            self.leaves = not value
            if self.who is None:
                self.who = (self.user_in_data(),)
        self.data[key] = value
        self.assigned.add(key)

    def remove(self, key: str) -> None:
        if self.identity and key == "user":
            self.leaves = True
            if self.who is None:
                self.who = (self.user_in_data(),)
        if key in self.data:
            del self.data[key]
            self.assigned.discard(key)

    def discard(self) -> None:
        self.regeneration, self.cleared, self.leaves, self.who = None, False, False, None

    def clear(self) -> None:
        self.discard()
        self.cleared = True
        self.data, self.stored, self.assigned = {}, {}, set()

    def revert(self) -> None:
        self.discard()
        self.stored = dict(self.base.copy.data) if self.base is not None else {}
        self.data, self.assigned = dict(self.stored), set()

    def keep_assigned(self) -> None:
        self.data = {key: value for key, value in self.data.items() if key in self.assigned}

    def start_over(self) -> None:
        self.discard()
        self.base, self.standing = None, "new"
        self.data, self.stored, self.assigned = {}, {}, set()

    def become(self, base: Held | None) -> None:
        """What was asked for has been done."""
        self.discard()
        self.base, self.standing = base, "new" if base is None else "sealed"
        self.stored = dict(base.copy.data) if base is not None else {}
        self.data, self.assigned = dict(self.stored), set()

    # What that means

    def change(self) -> str:
        before, after = self.identities
        # With the identity taken out, and no tags, regenerate() is how some log out: it is no login of nobody.
        what = self.regeneration
        begins = what is not None and not (self.leaves and after is None and what.tags is None)
        if self.cleared:
            begins = begins and what is not None and (what.tags is not None or not self.identity)
            return "login" if begins or after is not None else "logout"
        if after is None and (before is not None or (self.leaves and self.is_somebody)):
            return "logout"
        if begins:
            if not self.is_somebody:
                return "login"
            return "renew" if self.is_renewed else "switch"
        if before != after:
            is_switch = before is not None or (self.is_somebody and self.standing == "lost")
            if self.is_somebody and self.base is not None:  # without an identity: its tags tell whose it is
                tags = self.base.copy.tags
                is_switch = is_switch or (bool(tags) and f"user:{after}" not in tags)
            return "switch" if is_switch else "login"
        return "same" if [*self.data.items()] == [*self.stored.items()] else "write"  # JSON has an order

    def act(self) -> str:
        """What the response, or ``save()``, is to do."""
        change = self.change()
        if change in ("login", "logout"):
            return change
        if self.standing == "lost":
            return {"same": "nothing", "write": "drop", "renew": "drop"}.get(change, "conflict")
        if change == "switch":
            return "login"
        if change == "same":
            return {"new": "nothing", "held": "roll", "sealed": "send"}[self.standing]
        if change == "write" and self.standing == "new":
            return "begin"
        return change


def user_of(tags: Iterable[str]) -> str | None:
    """The user whom *tags* name."""
    return next((tag[5:] for tag in sorted(tags) if tag.startswith("user:")), None)
