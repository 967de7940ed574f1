"""One request's dealings with its session: open, judge, and decide what the response carries.

The order that makes dead sessions stay dead: the new expiry follows from the time the request arrived, *then* the
fences are asked, *then* the cookie is emitted. A fence raised after the answer outlives what was emitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import urandom
from typing import NoReturn

from . import policy, token
from .cookies import CANDIDATES, PRESENTED
from .errors import SessionConflict, SessionTooLarge, StoreUnavailable
from .policy import CLOCK_TOLERANCE_MS, FINAL, OVER, Why
from .presented import Context, Presented
from .revocation.clock import next_revoked_before
from .revocation.fence import ENDED, EVERYTHING, session_digest
from .seal import LIMIT, Unsealable, peek, seal_lease, seal_session
from .session import EMPTY, Session, _encode
from .token import ESTABLISHED, NEVER, UNCHECKED, UNLIMITED, Record

log = logging.getLogger("wsgi_rollsession")


class Exchange(Session):
    """The session of one request, as its cookies have it. Used by one thread.

    Nothing that it refers to refers to it: it is gone with its request, and does not wait for the garbage collector.

    Args:
        header: the Cookie header, whatever it holds.
        now: when the request arrived, in Unix milliseconds. Everything that is decided is decided by it.
    """

    # Class attributes are the initial values: most requests leave most of them as they are.
    _sessions: list[tuple[str, str]] | None = None
    _leases: dict[str, str]
    _presented: Sequence[Presented] = ()
    _beyond = False  # the sessions past CANDIDATES have been opened too
    _base: Presented | None = None  # the session as the browser holds it; None if it holds none, or another by now
    _lost: Why | None = None  # why the session that was loaded is not alive any more: its data must not live on
    _unsent = False  # self._record is sealed already, by save(), and the browser lacks it
    _doomed: dict[str, bool]  # session cookies to delete -> whether there is a lease to delete
    _gave_up = False  # the response could not be decided on: the next attempt leaves out what changed

    def __init__(self, context: Context, header: str, now: int) -> None:
        self._context = context
        self._header = header
        self._now = now

    # Loading

    def _parse(self) -> list[tuple[str, str]]:
        sessions = self._sessions
        if sessions is None:
            sessions, self._leases = self._context.cookies.parse(self._header)
            self._sessions = sessions
        return sessions

    @property
    def _presents(self) -> bool:
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

    def _find(self) -> None:
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
            self._adopt(base.record, new=False)

    def _judge(self, presented: Sequence[Presented]) -> None:
        """Ask the fences, in one question, about those that the clock has not ended."""
        if len(presented) == 1:  # as nearly always
            one = presented[0]
            if one.why is None:
                one.why = policy.refused(one.record, self._lookup(one.keys))
            return
        living = [each for each in presented if each.why is None]
        if living:
            numbers = self._lookup(tuple(key for each in living for key in each.keys))
            start = 0
            for each in living:
                stop = start + len(each.keys)
                each.why = policy.refused(each.record, numbers[start:stop])
                start = stop

    def _lookup(self, keys: tuple[bytes, ...]) -> Sequence[int]:
        store = self._context.store
        try:
            # Loaded once the response is on its way, it must not be alive again after a roll was refused.
            return store.lookup_now(keys) if self._committed else store.lookup(keys)
        except StoreUnavailable:
            if self._context.outage == "closed":
                raise
            return store.last_known(keys)

    def _begin(self) -> None:
        """Start over, with nothing."""
        self._adopt(self._new_record(0, (0,), (), self._absolute_end()), new=True)

    def _new_record(self, flags: int, passed: tuple[int, ...], tags: tuple[bytes, ...], ends: int) -> Record:
        """A session that nobody holds yet: version 0."""
        context = self._context
        if context.outage == "open":
            flags |= UNCHECKED
        return Record(urandom(token.ID_SIZE), 0, self._now, context.idle_s, ends, flags, passed, tags, EMPTY)

    def _absolute_end(self) -> int:
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

    def _lose(self, why: Why) -> NoReturn:
        """The session that was loaded, or begun in this request, turns out to be refused."""
        if self._base is not None:
            self._base.why = why
            self._doom(self._base)
            self._base = None
        self._lost = why
        self._unsent = False
        raise SessionConflict(why.value)

    # What the application asks for

    def _everyone(self) -> list[bytes]:
        """The fence keys of all sessions that must end at a logout: those presented, however many there are.

        Also of those that are not alive as presented: their browser may hold a later version, or lease, by now.
        """
        record = self._record
        if not self._beyond:
            self._beyond = True
            more = self._open(self._parse()[-PRESENTED:-CANDIDATES])
            self._presented = [*more, *self._presented]
        keys = {each.key: None for each in self._presented if each.why not in OVER}
        if record.version and self._base is None:  # sealed in this very request
            keys[session_digest(record.id)[:16]] = None
        return list(keys)

    def _end(self) -> None:
        keys = self._everyone()
        if keys:
            self._context.store.fence(keys, ENDED)
        self._leave(fenced=True)
        self._begin()

    def _leave(self, *, fenced: bool) -> None:
        """Have the browser forget every session that it presented."""
        for each in self._presented:
            if fenced and each.why not in OVER:
                each.why = Why.ENDED
            self._delete(each)
        self._base = None
        self._lost = None
        self._unsent = False

    def _begin_anew(self, tags: tuple[bytes, ...] | None, others: bytes | None = None) -> None:
        context, base = self._context, self._base
        record = self._record
        # The data of a session that has ended must not go on in another. Those of an anonymous one may, in a login that
        # was under way when it ended: a login button that was pressed twice, say. With strict, no old version may.
        asks = context.strict or bool(record.tags or record.flags & ESTABLISHED)
        if asks and self._lost is not None:
            raise SessionConflict(self._lost.value)
        # Without tags nobody says that somebody was authenticated just now, so the deadline of a login stays.
        keeps_end = tags is None and bool(record.flags & ESTABLISHED)
        if tags is None:
            tags = record.tags
        if len(tags) > token.MAX_TAGS:
            raise ValueError(f"tags: requires at most {token.MAX_TAGS}, received {len(tags)}")
        if others is not None and others not in tags:
            raise ValueError("tag: requires a tag of this session")
        asked = self._keys()
        rest = [key for key in self._everyone() if not asks or base is None or key != base.key]
        confirmed = False
        try:
            # In this order: what is raised after the question is larger than the numbers that the session has passed.
            numbers = context.store.lookup_now((*asked, *tags))
            why = self._refused(numbers[: len(asked)])
            if asks and why is not None:
                self._lose(why)
            passed = (numbers[0], *numbers[len(asked) :])
            if others is not None:
                passed = self._revoke_others(tags.index(others), others, passed)
            if (
                asks
                and base is not None
                and not context.store.compare_and_raise([(base.key, record.version)], [(base.key, ENDED)])
            ):
                self._lose(Why.SUPERSEDED)
            if rest:
                context.store.fence(rest, ENDED)
            confirmed = True
        except StoreUnavailable:
            # An anonymous session may be left behind; one that says who somebody is must not.
            somebody = any(each.is_somebody(self._now) for each in self._presented)
            if context.outage == "closed" or others is not None or somebody:
                raise
            log.warning("a session began while the revocation store was unavailable; the one before it was not ended")
            numbers = context.store.last_known((EVERYTHING, *tags))
            passed = tuple(numbers)
        ends = self._absolute_end()
        if keeps_end:  # and today's, if that is shorter than the one stamped
            ends = record.ends if base is None else base.ends
        data = self._read()
        self._leave(fenced=confirmed)
        self._adopt(self._new_record(ESTABLISHED, passed, tags, ends), new=True)
        self._data, self._suspect, self._nested = data, True, True

    def _revoke_others(self, index: int, tag: bytes, passed: tuple[int, ...]) -> tuple[int, ...]:
        """Raise a tag's fence from the number that this session has been found to pass, and pass the new one too."""
        held = passed[1 + index]
        number = next_revoked_before(int(self._context.clock() * 1000), (held,))
        if number is None:
            raise StoreUnavailable("the same tag is being revoked again and again")
        if not self._context.store.compare_and_raise([(tag, held)], [(tag, number)]):
            self._lose(Why.TAG)
        return (*passed[: 1 + index], number, *passed[2 + index :])

    def _keep(self) -> None:
        raw = self._dump()
        if self._emptied(raw):
            self._end()
        elif self._changed(raw):
            self._seal(raw, extends=True)  # checks all there is to check; the response seals it again
        elif self._base is not None or self._unsent or self._lost is not None:
            self._check()

    def _changed(self, raw: bytes) -> bool:
        record = self._record
        return raw is not record.data or (record.version == 0 and bool(record.tags))

    def _emptied(self, raw: bytes) -> bool:
        return raw == EMPTY and self._base is not None and self._base.record.data != EMPTY

    # What the response carries

    def _commit(self, wants_roll: Callable[[], bool]) -> tuple[list[str], bool]:
        """The values of the response's Set-Cookie headers, and whether the session itself is among them.

        Called when the response starts, and again if it starts over. The session was loaded.

        Args:
            wants_roll: asked only if the session is due to be rolled, or was written.

        Raises:
            SessionTooLarge, SessionValueError: the session cannot be kept.
            StoreUnavailable: the session was emptied, which is a logout, and the store did not confirm it;
                or the outage policy refuses the write.
            After any of these, a second call does what can be done without the change that failed.
        """
        self._committed = True
        if self._gave_up:
            return self._set_cookies(*self._decide_again(wants_roll))
        self._gave_up = True  # until it went well
        written, lease = self._decide(self._dump(), wants_roll)
        self._gave_up = False
        return self._set_cookies(written, lease)

    def _commit_unread(self) -> tuple[list[str], bool]:
        """As ``_commit``, of a session that was not loaded, ``_looks_due``, and may be rolled.

        It is not loaded for that, if it is the only one, as nearly always.
        """
        self._committed = self._gave_up = True  # the latter until it went well
        self._doomed = {}
        sessions = self._parse()
        alone = self._open(sessions) if len(sessions) == 1 else ()
        if alone and alone[0].why is None:
            base: Presented | None = alone[0]
        else:
            self._load()
            base = self._base
        written = lease = None
        if base is not None and self._now - base.seen >= self._context.renew_after_ms:
            written, lease = self._roll(base)
        self._gave_up = False
        return self._set_cookies(written, lease)

    def _set_cookies(self, written: str | None, lease: str | None) -> tuple[list[str], bool]:
        """What ``_commit`` returns: the session, its lease, and what is to be deleted."""
        if len(self._presented) > 1:
            self._end_others()
        set_cookies = []
        if written is not None:
            set_cookies.append(written)
        if lease is not None:
            set_cookies.append(lease)
        if self._doomed:
            cookies = self._context.cookies
            for name, has_lease in self._doomed.items():
                if written is None or cookies.isolated:
                    set_cookies.append(cookies.delete(name))
                if has_lease:
                    set_cookies.append(cookies.delete(cookies.lease_name(name)))
        return set_cookies, written is not None

    def _looks_due(self) -> bool:
        """Whether a roll looks due, by time stamps that are not authenticated: whoever forges them gets less."""
        context, now = self._context, self._now
        if not context.rolls:
            return False
        if not context.renew_after_ms:  # then no stamp is fresh, but one of a clock that is ahead: _commit_unread looks
            return bool(self._parse())
        # A stamp that no clock of ours can have made counts for nothing.
        since, until = now - context.renew_after_ms, now + CLOCK_TOLERANCE_MS
        if since < context.cookies.last_stamp(self._header) <= until:
            return False  # as for most requests
        sessions = self._parse()[-CANDIDATES:]
        values = [*(value for _, value in sessions), *(self._leases.get(name, "") for name, _ in sessions)]
        return bool(values) and not any(since < peek(value) <= until for value in values)

    def _decide(self, raw: bytes, wants_roll: Callable[[], bool]) -> tuple[str | None, str | None]:
        """The Set-Cookie values of session and lease."""
        changed = self._changed(raw)
        if not (changed or self._unsent):
            context, base = self._context, self._base
            if base is None or not context.rolls or self._now - base.seen < context.renew_after_ms or not wants_roll():
                return None, None
            return self._roll(base)
        if changed and self._emptied(raw):
            self._end()
            return None, None
        try:
            return self._seal(raw if changed else None, extends=self._base is None or wants_roll()), None
        except SessionConflict as error:
            log.warning("session %s: a write was dropped: %s", self.id, error)
            return None, None

    def _decide_again(self, wants_roll: Callable[[], bool]) -> tuple[str | None, str | None]:
        """As ``_decide``, without the change that failed: what was saved before it is kept. Raises nothing."""
        if self._record.version == 0:
            return None, None
        try:
            return self._decide(self._record.data, wants_roll)
        except (SessionTooLarge, StoreUnavailable) as error:
            log.error("session %s: not sent: %s", self.id, error)
            return None, None

    def _check(self) -> bool:
        """Ask the fences, authoritatively, whether the session may be issued. False if nobody could be asked.

        Raises:
            SessionConflict: a fence refuses it. Its cookies will be deleted.
            StoreUnavailable: nobody could be asked, and the outage policy is not to write then.
        """
        if self._lost is not None:
            raise SessionConflict(self._lost.value)
        context, base = self._context, self._base
        keys = self._keys()
        confirmed = True
        try:
            numbers = context.store.lookup_now(keys)
        except StoreUnavailable:
            # A strict write needs the store; one that save() has done is done.
            if context.outage == "closed" or (context.strict and base is not None and not self._unsent):
                raise
            confirmed = False
            numbers = context.store.last_known(keys)
        why = self._refused(numbers)
        if why is not None:
            self._lose(why)
        return confirmed

    def _keys(self) -> tuple[bytes, ...]:
        """Those of the fences that apply to the session, as it is by now."""
        if self._base is not None:
            return self._base.keys
        record = self._record
        return (EVERYTHING, session_digest(record.id)[:16], *record.tags)

    def _refused(self, numbers: Sequence[int]) -> Why | None:
        """Why the fences *numbers*, those of ``_keys``, refuse the session, or None."""
        record = self._record
        if record.version == 0 and not record.flags & ESTABLISHED:  # it begins now
            record = self._record = record._replace(passed=(numbers[0],))
        return policy.refused(record, numbers)

    def _seal(self, raw: bytes | None, *, extends: bool) -> str:
        """The Set-Cookie value of the session: a version later with the data *raw*, or as it was saved.

        *extends*: the write is activity that keeps the session alive.
        """
        context, base = self._context, self._base
        confirmed = self._check()
        record, idle, issued = self._record, context.idle_s, self._now
        if base is None:  # begun in this request: no older copy exists
            version = 1
        else:
            version = record.version + 1
            if extends and (confirmed or self._may_go_unchecked(record)):
                idle = min(record.idle, idle)
            else:  # it must not extend anything: it keeps the last confirmed activity, and what limits it
                idle, issued = base.idle, base.seen
        if raw is None:
            return self._session_cookie(record._replace(idle=idle), issued)
        ends = base.ends if base is not None else record.ends
        id_, _, created, _, _, flags, passed, tags, _ = record
        sealed = Record(id_, version, created, idle, ends, flags, passed, tags, raw)  # cheaper than _replace
        set_cookie = self._session_cookie(sealed, issued)
        if context.strict and base is not None:
            limits, raises = [(base.key, record.version)], [(base.key, version)]
            if not context.store.compare_and_raise(limits, raises):
                self._lose(Why.SUPERSEDED)
        self._record = sealed
        self._unsent = True
        return set_cookie

    def _may_go_unchecked(self, record: Record) -> bool:
        """Whether activity extends the session although the store cannot be asked.

        Only if it was so when the session began: fences raised before then do not live long enough for it.
        """
        return self._context.outage == "open" and bool(record.flags & UNCHECKED)

    def _session_cookie(self, record: Record, issued: int) -> str:
        context = self._context
        name = self._base.name if self._base is not None else context.cookies.name(session_digest(record.id))
        value = seal_session(context.ring, name, issued, token.pack(record))
        left = (record.ends - self._now) // 1000
        if not context.cookies.isolated and record.idle != UNLIMITED:
            left = min(left, record.idle)  # it is sent again with every roll
        set_cookie = context.cookies.set(name, value, max(left, 0))
        if len(set_cookie) > LIMIT:
            sizes = sorted(((len(_encode(value)), key) for key, value in self.items()), reverse=True)
            largest = ", ".join(f"{key!r} ({size} bytes)" for size, key in sizes[:3])
            raise SessionTooLarge(
                f"the session cookie would have {len(set_cookie)} bytes and browsers accept {LIMIT};"
                f" the largest keys are {largest}"
            )
        return set_cookie

    def _roll(self, base: Presented) -> tuple[str | None, str | None]:
        context, now, record = self._context, self._now, base.record
        try:
            numbers = context.store.lookup_now(base.keys)
        except StoreUnavailable:
            if not self._may_go_unchecked(record):
                return None, None
            numbers = context.store.last_known(base.keys)
        why = policy.refused(record, numbers)
        if why is not None:
            log.info("session %s not rolled: %s", record.id.hex(), why.value)
            base.why = why
            self._doom(base)
            self._base = None
            return None, None
        if not context.cookies.isolated:
            return self._session_cookie(
                record._replace(idle=min(record.idle, context.idle_s), ends=base.ends), now
            ), None
        left = (base.ends - now) // 1000
        name = context.cookies.lease_name(base.name)
        value = seal_lease(context.ring, name, record.id, (now, base.idle, record.version))
        return None, context.cookies.set(name, value, min(left, base.idle))

    def _end_others(self) -> None:
        """A request may present several sessions, if requests that began one have raced: one of them is the session."""
        base = self._base
        if base is None:
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


def _rank(each: Presented) -> tuple[bool, int, int, int]:
    """Which of several sessions is *the* session: the largest.

    A login outranks a session that merely came to be because a request stored something and presented none: such
    a request may be in flight during the login, be answered after it, and would hide it.
    """
    record = each.record
    return bool(record.flags & ESTABLISHED), record.created, record.version, each.seen
