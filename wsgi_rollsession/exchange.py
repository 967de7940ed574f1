"""One request's dealings with its session: open, judge, and decide what the response carries.

The order that makes dead sessions stay dead: the new expiry follows from the time the request arrived, *then* the
fences are asked, *then* the cookie is emitted. A fence raised after the answer outlives what was emitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from os import urandom
from typing import NamedTuple

from . import policy, token
from .cookies import CANDIDATES, LIMIT, PRESENTED, Cookies
from .errors import SessionConflict, SessionTooLarge, StoreUnavailable
from .keys import KeyRing
from .policy import FINAL, Decision, Why
from .revocation import Revocations
from .revocation.fence import ENDED, EVERYTHING, session_digest
from .seal import Unsealable, open_lease, open_session, peek, seal_lease, seal_session
from .session import EMPTY, Session, _encode
from .settings import Settings
from .token import NEVER, UNLIMITED, Lease, Record

log = logging.getLogger("wsgi_rollsession")


#: Session cookies remembered as opened, in each process. A roll does not change the session cookie, so a browser sends
#: the same value with every request until something is written.
REMEMBERED = 1024


class Opened(NamedTuple):
    """What the value of a session cookie says by itself, whenever it is presented."""

    issued: int
    record: Record
    #: Those of the fences that apply, as ``policy.refused`` wants them. The second is the session's own.
    keys: tuple[bytes, ...]
    ends: int


class Context:
    """What every request shares: made once."""

    __slots__ = (
        "absolute_ms",
        "cookies",
        "idle_s",
        "open",
        "outage",
        "renew_after_ms",
        "ring",
        "rolls",
        "store",
        "strict",
    )

    def __init__(self, settings: Settings, ring: KeyRing, store: Revocations) -> None:
        self.ring = ring
        self.store = store
        self.cookies = Cookies(settings)
        self.rolls = settings.rolls
        self.strict = settings.strict
        self.outage = settings.outage
        self.idle_s = settings.idle_s
        self.absolute_ms = settings.absolute_ms
        self.renew_after_ms = settings.renew_after_ms
        # A pure function of name and value: whether the session is alive is asked every time. What does not open
        # raises, and is not remembered.
        self.open: Callable[[str, str], Opened] = lru_cache(REMEMBERED)(self._open)

    def _open(self, name: str, value: str) -> Opened:
        issued, plaintext = open_session(self.ring, name, value)
        record = token.unpack(plaintext)
        keys = (EVERYTHING, session_digest(record.id)[:16], *record.tags)
        return Opened(issued, record, keys, policy.end(record, self.absolute_ms))


class Presented:
    """A session whose cookie the request carried, and which is authentic."""

    __slots__ = ("ends", "has_lease", "idle", "keys", "name", "record", "seen", "why")

    def __init__(self, context: Context, name: str, value: str, lease_value: str | None, now: int) -> None:
        issued, record, keys, ends = context.open(name, value)
        seen, idle = issued, record.idle
        if lease_value is not None:
            try:
                lease = open_lease(context.ring, context.cookies.lease_name(name), record.id, lease_value)
                seen, idle = policy.extended(record, issued, lease)
            except Unsealable as error:
                log.info("lease of session cookie %r ignored: %s", name, error)
        if idle > context.idle_s:
            idle = context.idle_s
        self.name = name
        self.has_lease = lease_value is not None
        self.record = record
        self.keys = keys
        self.seen = seen
        self.idle = idle
        self.ends = ends
        #: Why the session is not alive, or None.
        self.why = policy.expired(now, seen, idle, ends)

    @property
    def key(self) -> bytes:
        """The session's own fence."""
        return self.keys[1]


class Exchange:
    """The session of one request. Used by one thread.

    Args:
        header: the Cookie header, whatever it holds.
        now: when the request arrived, in Unix milliseconds. The clock is not read again.
    """

    # Class attributes are the initial values: most requests leave most of them as they are.
    _sessions: list[tuple[str, str]] | None = None
    _leases: dict[str, str]
    _presented: Sequence[Presented] = ()
    _beyond = False  # the sessions past CANDIDATES have been opened too
    _base: Presented | None = None  # the session as the browser holds it, if it is alive and still ours
    _regenerated = False
    _pending: Record | None = None  # the session as the response will carry it
    _doomed: dict[str, bool]  # session cookies to delete -> whether there is a lease to delete
    _gave_up = False

    def __init__(self, context: Context, header: str, now: int) -> None:
        self._context = context
        self._header = header
        self._now = now
        self.session = Session(self)

    # Loading

    def _parse(self) -> list[tuple[str, str]]:
        sessions = self._sessions
        if sessions is None:
            sessions, self._leases = self._context.cookies.parse(self._header)
            self._sessions = sessions
        return sessions

    @property
    def presents(self) -> bool:
        """Whether the request carries anything that looks like a session."""
        return bool(self._parse())

    def _open(self, sessions: list[tuple[str, str]]) -> list[Presented]:
        found = []
        for name, value in sessions:
            try:
                found.append(Presented(self._context, name, value, self._leases.get(name), self._now))
            except (Unsealable, ValueError) as error:
                log.info("session cookie %r refused: %s", name, error)
        return found

    def load(self) -> None:
        """Find the session: of those presented that are alive, the latest login, else the latest."""
        self._doomed = {}
        presented = self._presented = self._open(self._parse()[-CANDIDATES:])
        self._judge(presented)
        base = None
        for each in presented:
            if each.why is not None:
                log.info("session cookie %r refused: %s", each.name, each.why.value)
                self._doom(each)
            elif base is None or _rank(each) > _rank(base):
                base = each
        self._base = base
        if base is None:
            self._begin()
        else:
            if self._doomed:
                self._doomed.pop(base.name, None)  # a header may hold a name twice
            self.session._adopt(base.record, new=False)

    def _judge(self, presented: Sequence[Presented]) -> None:
        if len(presented) == 1:  # as nearly always
            one = presented[0]
            if one.why is None:
                one.why = policy.refused(one.record.created, one.record.version, self._lookup(one.keys))
            return
        living = [each for each in presented if each.why is None]
        if living:
            keys = tuple(key for each in living for key in each.keys)
            numbers = self._lookup(keys)
            start = 0
            for each in living:
                stop = start + len(each.keys)
                each.why = policy.refused(each.record.created, each.record.version, numbers[start:stop])
                start = stop

    def _lookup(self, keys: tuple[bytes, ...]) -> Sequence[int]:
        store = self._context.store
        try:
            return store.lookup(keys)
        except StoreUnavailable:
            if self._context.outage == "closed":
                raise
            return store.recall(keys)

    def _begin(self) -> None:
        """Start over, with nothing."""
        self.session._adopt(self._new_record(self._now, ()), new=True)

    def _new_record(self, created: int, tags: tuple[bytes, ...]) -> Record:
        """A session that nobody holds yet: version 0, and deadlines from now."""
        return Record(urandom(token.ID_SIZE), 0, created, self._context.idle_s, self._ends(), False, tags, EMPTY)

    def _ends(self) -> int:
        """The absolute deadline of a session that begins now."""
        absolute_ms = self._context.absolute_ms
        return NEVER if absolute_ms == NEVER else self._now + absolute_ms

    def _doom(self, each: Presented) -> None:
        """Have the response delete the cookies of a session that is dead for good.

        In the single layout the browser may hold another session under that name by now, so they are left.
        """
        if each.why in FINAL and self._context.cookies.isolated:
            self._delete(each)

    def _delete(self, each: Presented) -> None:
        self._doomed[each.name] = self._doomed.get(each.name, False) or each.has_lease

    # What the application asks for

    def _everyone(self) -> list[bytes]:
        """The fence keys of all sessions that must end at a logout: those presented, however many there are.

        Also of those that are not alive as presented: their browser may hold a later version, or lease, by now.
        """
        session = self.session
        if not self._beyond:
            self._beyond = True
            more = self._open(self._parse()[-PRESENTED:-CANDIDATES])
            self._presented = [*more, *self._presented]
        keys = {each.key: None for each in self._presented if each.why is not Why.ENDED}
        if session._version and self._base is None:  # sealed in this very request
            keys[session_digest(session._id)[:16]] = None
        return list(keys)

    def invalidate(self) -> None:
        keys = self._everyone()
        if keys:
            self._context.store.fence(keys, ENDED)
        self._forget()
        self._begin()

    def _forget(self) -> None:
        for each in self._presented:
            each.why = Why.ENDED
            self._delete(each)
        self._base = None
        self._pending = None
        self._regenerated = False

    def regenerate(self, tags: tuple[bytes, ...] | None) -> None:
        session, context = self.session, self._context
        if tags is None:
            tags = session._tags
        if len(tags) > token.MAX_TAGS:
            raise ValueError(f"tags: requires at most {token.MAX_TAGS}, received {len(tags)}")
        keys = self._everyone()
        asked = (EVERYTHING, *tags)
        try:
            if keys:
                context.store.fence(keys, ENDED)
            numbers = context.store.confirm(asked)
        except StoreUnavailable:
            # An anonymous session may be left behind; one that says who somebody is must not.
            if session._tags or any(each.record.tags for each in self._presented if each.why not in FINAL):
                raise
            if context.outage == "closed":
                raise
            log.warning("a session began while the revocation store was unavailable; the one before it was not ended")
            numbers = context.store.recall(asked)
        self._forget()
        self._regenerated = True
        data = session._data
        session._adopt(self._new_record(policy.created_after(self._now, numbers), tags), new=True)
        session._data, session._suspect, session._nested = data, True, True

    def save(self) -> None:
        raw = self.session._dump()
        if self._emptied(raw):
            self.invalidate()
        elif self._changed(raw):
            self._seal(raw, extends=True)  # checks all there is to check; the response seals it again
        elif self._base is not None or self._pending is not None:
            self._check()

    def _changed(self, raw: bytes) -> bool:
        session = self.session
        return raw is not session._raw or (self._regenerated and self._pending is None and bool(session._tags))

    def _emptied(self, raw: bytes) -> bool:
        return raw == EMPTY and self._base is not None and self._base.record.data != EMPTY

    # What the response carries

    def commit(self, wants_roll: Callable[[], bool]) -> tuple[list[str], bool]:
        """The values of the response's Set-Cookie headers, and whether the session itself is among them.

        Called when the response starts, and again if it starts over.

        Args:
            wants_roll: asked only if the session is due to be rolled.

        Raises:
            SessionTooLarge, SessionValueError: the session cannot be kept. A second call gives up on it.
            StoreUnavailable: the session was emptied, which is a logout, and the store did not confirm it;
                or the outage policy refuses the write.
        """
        session = self.session
        if not session._loaded:
            if not self._looks_due() or not wants_roll():
                session._committed = True
                return _NOTHING
            session._load()
            wants_roll = _yes
        session._committed = True
        if self._gave_up:
            return _NOTHING
        self._gave_up = True  # until it went well
        written, lease = self._decide(wants_roll)
        self._gave_up = False
        self._end_others()
        cookies = self._context.cookies
        set_cookies = [each for each in (written, lease) if each is not None]
        for name, has_lease in self._doomed.items():
            if written is None or cookies.isolated:
                set_cookies.append(cookies.delete(name))
            if has_lease:
                set_cookies.append(cookies.delete(cookies.lease_name(name)))
        return set_cookies, written is not None

    def _looks_due(self) -> bool:
        """Whether a roll looks due, by time stamps that are not authenticated: whoever forges them gets less."""
        context = self._context
        if not context.rolls:
            return False
        newest = -1
        for name, value in self._parse()[-CANDIDATES:]:
            newest = max(newest, peek(value))
            lease = self._leases.get(name)
            if lease is not None:
                newest = max(newest, peek(lease))
        return newest >= 0 and self._now - newest >= context.renew_after_ms

    def _decide(self, wants_roll: Callable[[], bool]) -> tuple[str | None, str | None]:
        """The Set-Cookie values of session and lease."""
        context, base, pending = self._context, self._base, self._pending is not None
        raw = self.session._dump()
        changed = self._changed(raw)
        decision = policy.decide(
            alive=base is not None or changed or pending,
            changed=changed or pending,
            emptied=changed and self._emptied(raw),
            due=base is not None and context.rolls and self._now - base.seen >= context.renew_after_ms,
        )
        if decision is Decision.NOTHING:
            return None, None
        if decision is Decision.ROLL:
            assert base is not None
            return self._roll(base) if wants_roll() else (None, None)
        if decision is Decision.END:
            self.invalidate()
            return None, None
        try:
            return self._seal(raw if changed else None, extends=base is None or wants_roll()), None
        except SessionConflict as error:
            log.warning("session %s: a write was dropped: %s", self.session.id, error)
            return None, None

    def _check(self) -> bool:
        """Ask the fences, authoritatively, whether the session may be issued. False if nobody could be asked.

        Raises:
            SessionConflict: a fence refuses it. Its cookies will be deleted.
            StoreUnavailable: nobody could be asked, and the outage policy is not to write then.
        """
        context, session, base = self._context, self.session, self._base
        keys = base.keys if base is not None else (EVERYTHING, session_digest(session._id)[:16], *session._tags)
        confirmed = True
        try:
            numbers = context.store.confirm(keys)
        except StoreUnavailable:
            if context.outage == "closed" or (context.strict and base is not None):
                raise
            confirmed = False
            numbers = context.store.recall(keys)
        if base is None and not self._regenerated and not session._version:
            session._created = policy.created_after(self._now, numbers[:1])
        why = policy.refused(session._created, max(session._version, 1), numbers)
        if why is not None:
            if base is not None:
                base.why = why
                self._doom(base)
                self._base = None
            self._pending = None
            raise SessionConflict(why.value)
        return confirmed

    def _seal(self, raw: bytes | None, *, extends: bool) -> str:
        """The Set-Cookie value of the session: a version later with the data *raw*, or as it was saved.

        *extends*: the write is activity that keeps the session alive.
        """
        context, session, base = self._context, self.session, self._base
        confirmed = self._check()
        # Unchecked, a write must not extend anything: it keeps the last confirmed activity.
        extends = extends and (confirmed or context.outage == "open")
        issued = self._now if base is None or extends else base.seen
        if raw is None:
            assert self._pending is not None
            return self._session_cookie(self._pending, issued)
        if base is None:  # begun in this request: no older copy exists
            version, idle, ends, established = 1, context.idle_s, self._ends(), self._regenerated
        else:
            version, idle, ends = session._version + 1, min(base.record.idle, context.idle_s), base.ends
            established = base.record.established
        record = Record(session._id, version, session._created, idle, ends, established, session._tags, raw)
        set_cookie = self._session_cookie(record, issued)
        if context.strict and base is not None and not context.store.advance(base.key, session._version, version):
            raise SessionConflict("another request wrote the session first, or ended it")
        self._pending = record
        session._version, session._raw = version, raw
        return set_cookie

    def _session_cookie(self, record: Record, issued: int) -> str:
        context = self._context
        name = self._base.name if self._base is not None else context.cookies.name(session_digest(record.id))
        value = seal_session(context.ring, name, issued, token.pack(record))
        left = (record.ends - self._now) // 1000
        if not context.cookies.isolated and record.idle != UNLIMITED:
            left = min(left, record.idle)  # it is sent again with every roll
        set_cookie = context.cookies.set(name, value, max(left, 0))
        if len(set_cookie) > LIMIT:
            sizes = sorted(((len(_encode(value)), key) for key, value in self.session.items()), reverse=True)
            largest = ", ".join(f"{key!r} ({size} bytes)" for size, key in sizes[:3])
            raise SessionTooLarge(
                f"the session cookie would have {len(set_cookie)} bytes and browsers accept {LIMIT};"
                f" the largest keys are {largest}"
            )
        return set_cookie

    def _roll(self, base: Presented) -> tuple[str | None, str | None]:
        context, now, record = self._context, self._now, base.record
        try:
            why = policy.refused(record.created, record.version, context.store.confirm(base.keys))
        except StoreUnavailable:
            if context.outage != "open":
                return None, None
            why = policy.refused(record.created, record.version, context.store.recall(base.keys))
        if why is not None:
            log.info("session %s not rolled: %s", self.session.id, why.value)
            base.why = why
            self._doom(base)
            self._base = None
            return None, None
        if not context.cookies.isolated:
            idle, ends = min(record.idle, context.idle_s), base.ends
            return self._session_cookie(record._replace(idle=idle, ends=ends), now), None
        left = (base.ends - now) // 1000
        name = context.cookies.lease_name(base.name)
        value = seal_lease(context.ring, name, record.id, Lease(now, base.idle, record.version))
        return None, context.cookies.set(name, value, min(left, base.idle))

    def _end_others(self) -> None:
        """A request may present several sessions, if requests that began one have raced: one of them is the session."""
        base = self._base
        if base is None or len(self._presented) == 1:
            return
        others = [each for each in self._presented if each.why is None and each.record.id != base.record.id]
        if not others:
            return
        try:
            # Deleted from the browser only, they would escape its logout.
            self._context.store.fence([each.key for each in others], ENDED)
        except StoreUnavailable:
            return
        for each in others:
            each.why = Why.ENDED
            self._doom(each)


_NOTHING: tuple[list[str], bool] = ([], False)


def _yes() -> bool:
    return True


def _rank(each: Presented) -> tuple[bool, int, int, int]:
    """Which of several sessions is *the* session: the largest.

    A login outranks a session that merely came to be because a request stored something and presented none: such
    a request may be in flight during the login, be answered after it, and would hide it.
    """
    record = each.record
    return record.established, record.created, record.version, each.seen
