"""One request's dealings with its session: what it is, what the application asks for, and what the response carries.

The order that makes dead sessions stay dead: what is to be sent is stamped with this moment, *then* sealed, which can
fail for its size, *then* the store is asked, or told what ends, *then* the clock is read again, *then* the cookie is
emitted. A fence raised after the store's answer outlives what was emitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import urandom
from threading import Lock
from typing import NamedTuple, NoReturn

from . import policy, successor, token
from .arrival import Arrival, is_fresh
from .document import EMPTY, Document, encode, identity
from .errors import SessionCommitted, SessionConflict, SessionTooLarge, StoreUnavailable
from .policy import Ended
from .presented import Presented, Site
from .revocation.clock import next_revoked_before
from .revocation.fence import ENDED, EVERYTHING, tag_key
from .seal import LIMIT, seal_lease, seal_session
from .standing import ACTS, Act, Ask, Change, Standing, Without, may_go_on
from .successor import Regeneration, is_another_user
from .token import FAIL_OPEN, TRANSIENT, UNLIMITED, Record

log = logging.getLogger("wsgi_rollsession")

WantsRoll = Callable[[], bool]


class Sent(NamedTuple):
    """A cookie that the response carries: its value, None to delete it, and its Max-Age in seconds."""

    name: str
    value: str | None
    max_age: int | None


class Exchange:
    """The session of one request. Loading is safe from several threads; the rest is used by one at a time.

    Nothing that it refers to refers to it: it is gone with its request, and does not wait for the garbage collector.

    Args:
        header: the Cookie header, whatever it holds.
        carried: cookies of a pass of the same request that was discarded: *header* has them, the browser has not.
    """

    # Class attributes are the initial values: most requests leave most of them as they are.
    standing = Standing.UNREAD
    #: The session as it is by now: that which the browser holds, or which this request has sealed. None: there is none.
    session: Presented | None = None
    #: Its data, and None until somebody asks for them.
    document: Document | None = None
    #: The response has been decided on.
    committed = False
    _arrival: Arrival | None = None
    _ended: Ended | None = None  # why nobody is logged in; None while somebody is
    _slot: int | None = None  # the pair used last; None: as presented
    _id: bytes | None = None  # that of the session that begins in this request
    # What the application asked for, and what has not been done yet
    _regeneration: Regeneration | None = None
    _cleared = False
    _left = False  # it took the identity out
    _identity: tuple[str | None] | None = None  # who was logged in before the identity key was first changed

    def __init__(self, site: Site, header: str, carried: Sequence[Sent] = ()) -> None:
        self.site = site
        self._header = header
        self._lock = Lock()
        #: What the response carries in any case: what has been done, by name, in the order in which it is sent.
        self._settled = {each.name: each for each in carried} if carried else {}

    # Loading

    def load(self) -> Document:
        """The data of the session that the request presents."""
        document = self.document
        if document is None:
            with self._lock:
                document = self.document
                if document is None:
                    document = self._find()
                    document.read()
                    self.document = document  # last, for this lets other threads use it
        return document

    @property
    def arrival(self) -> Arrival:
        """What the request presents."""
        arrival = self._arrival
        if arrival is None:
            arrival = self._arrival = Arrival(self.site, self._header)
        return arrival

    @property
    def settled(self) -> list[Sent]:
        """What has been done, and has to reach the browser even if this pass of the request is discarded."""
        return list(self._settled.values())

    def _now(self) -> int:
        return int(self.site.clock() * 1000)

    def _find(self) -> Document:
        arrival = self.arrival
        session = self.session = arrival.choose(self.site, self._now(), self._look_up)
        self._ended = arrival.ended
        self.standing = Standing.NEW if session is None else Standing.HELD
        return Document(EMPTY if session is None else session.record.data)

    def _look_up(self, keys: tuple[bytes, ...]) -> Sequence[int]:
        store = self.site.store
        try:
            # Loaded once the response is on its way, it must not be alive again after a roll was refused.
            return store.lookup_now(keys) if self.committed else store.lookup(keys)
        except StoreUnavailable:
            if self._without(Ask.LOAD) is Without.FAIL:
                raise
            return store.last_known(keys)

    def _without(self, ask: Ask, record: Record | None = None) -> Without:
        """How to go on: the store has not answered."""
        fail_open = record is not None and bool(record.flags & FAIL_OPEN)
        return may_go_on(self.site.settings.outage, ask, fail_open=fail_open)

    # What it is, by what was asked for until now

    @property
    def alive(self) -> Presented | None:
        """The session that goes on if something is stored, and None if another begins then."""
        self.load()
        if self._cleared or self.standing is Standing.LOST or self.standing is Standing.NEW:
            return None
        if self._regeneration is not None and not self._is_renewed():
            return None
        return self.session

    @property
    def regeneration(self) -> Regeneration | None:
        """What ``regenerate()`` asked for, if it has not been done yet."""
        return self._regeneration

    @property
    def id(self) -> bytes:
        """That of the session, or of the one that begins if something is stored."""
        alive = self.alive
        if alive is not None:
            return alive.record.id
        return self._next_id()

    @property
    def ended(self) -> Ended | None:
        """Why nobody is logged in, or None while somebody is."""
        self.load()
        if self._regeneration is not None:
            return None
        return Ended.LOGGED_OUT if self._cleared and self._ended is None else self._ended

    @property
    def changed(self) -> bool:
        """Whether the application has asked for anything that has not been done yet."""
        document = self.document
        return document is not None and (self._left or self._change(document.dump()) is not Change.SAME)

    def _is_somebody(self) -> bool:
        """Whether the session is that of a user."""
        return self.session is not None and self.session.is_login and not self._cleared

    def _identities(self) -> tuple[str | None, str | None]:
        """Who was logged in when the session was loaded, or last saved; and who is by now."""
        key, document = self.site.identity_key, self.document
        if key is None or document is None:
            return None, None
        now = identity(key, document.read().get(key))
        return (now if self._identity is None else self._identity[0]), now

    def _is_renewed(self) -> bool:
        """Whether ``regenerate()`` was called by the user who is logged in."""
        session, what = self.session, self._regeneration
        if session is None or what is None or not self._is_somebody():
            return False
        before, after = self._identities()
        if before is not None and after is not None:
            return before == after
        return what.tags is None or not is_another_user(session.record.tags, what.tags)

    def _change(self, raw: bytes) -> Change:
        """What the application has done with the session, whose data are *raw* by now."""
        before, after = self._identities()
        if self._cleared:
            return Change.CLEARED if self._regeneration is None and after is None else Change.LOGGED_IN
        if after is None and (before is not None or (self._left and self._is_somebody())):
            return Change.LOGGED_OUT
        if self._regeneration is not None:
            if not self._is_somebody():
                return Change.LOGGED_IN
            return Change.RENEWED if self._is_renewed() else Change.SWITCHED
        if before != after:
            return Change.LOGGED_IN if before is None else Change.SWITCHED
        assert self.document is not None
        return Change.SAME if raw is self.document.raw else Change.WRITTEN

    # What the application asks for

    def changing(self) -> Document:
        """The data, to be changed.

        Raises:
            SessionCommitted: it is too late.
        """
        if self.committed:
            raise SessionCommitted("the response headers were sent: this change of the session cannot be kept")
        return self.load()

    def identity_changes(self, value: object) -> None:
        """The identity key is about to get *value*; None if it is removed, or would be if it were there.

        Raises:
            SessionValueError: it cannot be an identity.
        """
        key = self.site.identity_key
        assert key is not None
        self._left = identity(key, value) is None
        if self._identity is None:
            self._identity = (identity(key, self.changing().read().get(key)),)

    def clear(self) -> None:
        """Begin with nothing. If somebody is logged in, that ends when the response starts."""
        self.changing()
        self._discard()
        self._cleared = True
        self.document = Document(EMPTY)

    def revert(self) -> None:
        """Go back to what was loaded, or last saved."""
        self.changing()
        self._discard()
        self.document = Document(EMPTY if self.session is None else self.session.record.data)

    def _discard(self) -> None:
        """Nothing is asked for any more."""
        self._regeneration, self._cleared, self._left, self._identity, self._id = None, False, False, None, None

    def regenerate(
        self, tags: tuple[bytes, ...] | None, idle_s: int | None, absolute_s: int | None, persistent: bool | None
    ) -> None:
        """Have the response carry a login, or the next epoch of one; if the session may go on.

        Raises:
            SessionConflict, StoreUnavailable
        """
        document = self.changing()
        session = None if self._cleared else self.session
        if self.standing is Standing.LOST and session is not None:
            if session.is_login:
                raise SessionConflict(self._why_lost())
            session = None
        at, store = self._now(), self.site.store
        asked = session.keys if session is not None else ()
        keys = tuple(dict.fromkeys((EVERYTHING, *asked, *(tags or ()))))
        unasked = False
        try:
            numbers = store.lookup_now(keys)
        except StoreUnavailable:
            if self._without(Ask.END if self._somebody_may_live(at) else Ask.BEGIN) is Without.FAIL:
                raise
            numbers, unasked = store.last_known(keys), True
        held = dict(zip(keys, numbers, strict=True))
        if session is not None:
            ended = session.expired(at) or policy.refused([held[key] for key in asked], session.limits)
            if ended is not None:
                self._lose(ended)
                if session.is_login:
                    raise SessionConflict(str(ended))
        self._regeneration = Regeneration(tags, idle_s, absolute_s, persistent, at, held, unasked)
        if self.standing is Standing.LOST or (self.site.identity_key is None and self._is_switched()):
            document.keep_assigned()

    def _is_switched(self) -> bool:
        return self._is_somebody() and not self._is_renewed()

    def revoke_others(self, tag: bytes) -> None:
        """End all other sessions with *tag*, and begin the next epoch of this one, at once.

        Raises:
            ValueError, SessionConflict, SessionTooLarge, StoreUnavailable
        """
        document = self.changing()
        session = self.session
        if session is None or self._cleared or tag not in session.record.tags:
            raise ValueError("tag: requires a tag of this session")
        if self.standing is Standing.LOST:
            raise SessionConflict(self._why_lost())
        held = self.site.store.lookup_now((tag,))[0]
        number = next_revoked_before(self._now(), (held,))
        if number is None:
            raise StoreUnavailable("the same tag is being revoked again and again")
        record = successor.renewed(self.site.settings, session.record, session.record.tags, None, document.dump())
        record = record._replace(
            passed=(
                record.passed[0],
                *(number if each == tag else passed for each, passed in zip(record.tags, record.passed[1:])),
            )
        )
        # In one step with the epoch: so it cannot pass off somebody else's revocation of the tag as its own.
        self._begin_epoch(session, record, limits=[(tag, held)], raises=[(tag, number)])
        self._done()

    def invalidate(self) -> None:
        """End everything that the request presented, now. The data are gone.

        Raises:
            StoreUnavailable
        """
        self.load()
        everyone = self._everyone()
        if everyone:
            self.site.store.fence(_fences(everyone), ENDED)
        for each in everyone:
            each.ended = Ended.LOGGED_OUT
        self._start_over(Ended.LOGGED_OUT if any(each.is_login for each in everyone) else self._ended)

    def forget(self) -> None:
        """Have the response delete what the request presented. It ends nothing.

        Raises:
            SessionCommitted
        """
        self.changing()
        self._start_over(self._ended or Ended.LOGGED_OUT)

    def save(self) -> None:
        """Check, and seal what changed.

        Raises:
            SessionConflict, SessionTooLarge, SessionValueError, StoreUnavailable
        """
        document = self.changing()
        act = ACTS[self.standing][self._change(document.dump())]
        if act is Act.DROP or (act is Act.NOTHING and self.standing is Standing.LOST):
            raise SessionConflict(self._why_lost())
        self._perform(act, None)

    def check(self) -> bool:
        """Whether the session is alive, now.

        Raises:
            StoreUnavailable: as the outage policy has it.
        """
        self.load()
        session = self.session
        if session is None or self.standing is Standing.LOST:
            return False
        try:
            numbers = self.site.store.lookup_now(session.keys)
        except StoreUnavailable:
            if self._without(Ask.LOAD) is Without.FAIL:
                raise
            numbers = self.site.store.last_known(session.keys)
        ended = session.expired(self._now()) or policy.refused(numbers, session.limits)
        if ended is not None:
            self._lose(ended)
        return ended is None

    # What becomes of it

    def _lose(self, ended: Ended) -> None:
        """The session turns out to be dead: its data must not live on."""
        session = self.session
        assert session is not None
        session.ended = ended
        if session.is_login:
            self._ended = ended
        if self.standing is Standing.SEALED:
            self._settled.pop(session.name, None)
        self.standing = Standing.LOST

    def _conflict(self, ended: Ended) -> NoReturn:
        self._lose(ended)
        raise SessionConflict(str(ended))

    def _why_lost(self) -> str:
        return str(self.session.ended if self.session is not None else self._ended)

    def _start_over(self, ended: Ended | None) -> None:
        """Have the browser forget everything that it presented, and go on with nothing."""
        self._forget(self._names())
        self._advance_slot()
        self._discard()
        self.session, self.standing, self._ended = None, Standing.NEW, ended
        self.document = Document(EMPTY)

    def _become(self, session: Presented) -> None:
        """The session is one that this request has sealed."""
        self.session, self.standing = session, Standing.SEALED
        self._ended = None if session.is_login else self._ended

    def _done(self) -> None:
        """What was asked for has been done: changes count from here."""
        self._discard()
        assert self.document is not None
        self.document.rebase(EMPTY if self.session is None else self.session.record.data)

    def _everyone(self) -> list[Presented]:
        """All authentic sessions of the request: those presented, and what it has sealed."""
        presented, session = self.arrival.presented, self.session
        return [*presented, session] if session is not None and session not in presented else [*presented]

    def _logins(self) -> list[Presented]:
        return [each for each in self._everyone() if each.is_login]

    def _somebody_may_live(self, now: int) -> bool:
        return any(each.may_live_elsewhere(now) for each in self._logins())

    # The cookies of the response

    def _settle(self, sent: Sent) -> None:
        self._settled.pop(sent.name, None)  # the order is that of the last time
        self._settled[sent.name] = sent

    def _names(self) -> list[str]:
        """The names of all cookies that are there, or would be: of sessions and leases."""
        settled = [each.name for each in self._settled.values() if each.name != self.site.cookies.slot]
        return [*self.arrival.found.names, *settled]

    def _forget(self, names: Sequence[str]) -> None:
        """Delete cookies, and do not send them."""
        presented = self.arrival.found.names
        for name in names:
            if name in presented:
                self._settle(Sent(name, None, None))
            elif self._settled[name].value is not None:
                del self._settled[name]

    def _advance_slot(self) -> str:
        """The slot that a login takes. From now on its pair counts as used."""
        cookies, arrival = self.site.cookies, self.arrival
        pair = cookies.next_pair(arrival.found.slot if self._slot is None else self._slot, arrival.names)
        self._slot = pair
        self._settle(Sent(cookies.slot, str(pair), self.site.settings.absolute_ms // 1000))
        return cookies.in_pair(pair)

    def _seal(self, name: str, record: Record, issued: int, now: int) -> Sent:
        """The cookie *name* for a record.

        Raises:
            SessionTooLarge
        """
        site = self.site
        value = seal_session(site.ring, name, issued, token.pack(record))
        sent = Sent(name, value, None if record.flags & TRANSIENT else max((record.ends - now) // 1000, 0))
        size = len(site.cookies.header(*sent))
        if size > LIMIT:
            assert self.document is not None
            sizes = sorted(((len(encode(item)), key) for key, item in self.document.read().items()), reverse=True)
            largest = ", ".join(f"{key!r} ({length} bytes)" for length, key in sizes[:3])
            raise SessionTooLarge(
                f"the session cookie would have {size} bytes and browsers accept {LIMIT}; the largest keys are {largest}"
            )
        return sent

    # The response

    def commit(self, wants_roll: WantsRoll) -> list[Sent]:
        """The cookies of the response. Called when it starts, and again if it starts over.

        Args:
            wants_roll: asked only if the session is due to be rolled, or was written.

        Raises:
            SessionTooLarge, SessionValueError: the session cannot be kept.
            SessionConflict: a login, or ``regenerate()``, found that the session has ended.
            StoreUnavailable: the store did not confirm what the outage policy wants to be confirmed.
            After any of these, the session is what it was before, and a second call sends what had been done.
        """
        if not self.committed:
            if self.document is not None:
                self._decide(self.document, wants_roll)
            elif self._looks_due():
                self._roll_unread(wants_roll)
            self.committed = True
        return [*self._settled.values()] if self._settled else []

    def _decide(self, document: Document, wants_roll: WantsRoll) -> None:
        try:
            act = ACTS[self.standing][self._change(document.dump())]
            if act is Act.DROP:
                self._log_dropped(self._why_lost())
            elif act is Act.ROLL and not self._left:  # as for most requests
                if self.session is not None:
                    self._roll(self.session, wants_roll)
            else:
                self._perform(act, wants_roll)
        except SessionConflict as error:
            if act is not Act.WRITE and act is not Act.SEND:
                self.revert()
                raise
            self._log_dropped(str(error))
        except BaseException:
            self.revert()
            raise

    def _log_dropped(self, why: str) -> None:
        session = self.session
        log.warning("session %s: a write was dropped: %s", session.record.id.hex() if session else "-", why)

    def _perform(self, act: Act, wants_roll: WantsRoll | None) -> None:
        """Carry out an act. *wants_roll* is None for ``save()``, whose write is activity."""
        if self._left and act is not Act.LOGOUT and self._identities()[1] is None:
            self._end_unseen()
        match act:
            case Act.ROLL | Act.SEND:
                if wants_roll is None or act is Act.SEND:
                    self._confirm(Ask.SEND if act is Act.SEND else self._ask_to_write())
                elif self.session is not None:
                    self._roll(self.session, wants_roll)
                return
            case Act.BEGIN:
                self._begin()
            case Act.WRITE:
                self._write(wants_roll)
            case Act.LOGIN:
                self._log_in()
            case Act.RENEW:
                self._renew()
            case Act.LOGOUT:
                self._log_out()
            case Act.CONFLICT:
                raise SessionConflict(self._why_lost())
            case _:
                return
        self._done()

    # The acts

    def _looks_due(self) -> bool:
        """Whether a roll looks due, by time stamps that are not authenticated: whoever forges them gets less."""
        site = self.site
        settings = site.settings
        if not settings.rolls or not site.cookies.may_present(self._header):
            return False
        if not settings.renew_after_ms:  # then no stamp is fresh, but one of a clock that is ahead: _roll looks
            return bool(self.arrival.names)
        now = self._now()
        since = now - settings.renew_after_ms
        if is_fresh(site.cookies.last_time(self._header), since, now):
            return False  # as for most requests
        return self.arrival.looks_due(since, now)

    def _roll_unread(self, wants_roll: WantsRoll) -> None:
        """Roll a session that nobody has looked at. It is not loaded for that, if it is the only one, as nearly always.

        So the fences are asked once, authoritatively.
        """
        if not wants_roll():
            return
        session = self.arrival.alone(self.site, self._now())
        if session is None:
            self.load()
            session = self.session
        if session is not None:
            self._roll(session, lambda: True)

    def _roll(self, session: Presented, wants_roll: WantsRoll) -> None:
        """Send a lease, if one is due and the session is alive."""
        site, now = self.site, self._now()
        settings = site.settings
        if not settings.rolls or now - session.last_activity < settings.renew_after_ms or session.expired(now):
            return
        if not wants_roll():
            return
        record = session.record
        try:
            numbers = site.store.lookup_now(session.keys)
        except StoreUnavailable:
            if self._without(Ask.ROLL, record) is Without.SKIP:
                return
            numbers = site.store.last_known(session.keys)
        ended = policy.refused(numbers, session.limits)
        if ended is not None:
            log.info("session %s not rolled: %s", record.id.hex(), ended)
            if self.session is session:
                self._lose(ended)
            return
        if session.expired(self._now()):  # suspended since, it would be revived by the stamp from before
            return
        name = site.cookies.lease_name(session.name)
        value = seal_lease(site.ring, name, record.id, (now, session.idle, record.version))
        left = None if record.flags & TRANSIENT else min((session.ends - now) // 1000, session.idle)
        self._settle(Sent(name, value, left))
        session.last_activity = now
        self._end_others(session)

    def _end_others(self, session: Presented) -> None:
        """End the other logins that the request presents: requests that logged in have raced, and one is *the* login.

        Deleted from the browser only, they would escape its logout.
        """
        if len(self.arrival.presented) < 2 or not session.is_login:
            return
        others = [
            each
            for each in self.arrival.presented
            if each.is_login and each.ended is None and each.record.id != session.record.id
        ]
        if others:
            try:
                self.site.store.fence(_fences(others), ENDED)
            except StoreUnavailable:
                return  # by the table, for Ask.OTHERS: the next roll tries again
            for each in others:
                each.ended = Ended.LOGGED_OUT

    def _ask_to_write(self) -> Ask:
        return Ask.VERSIONED if self.site.settings.versioned else Ask.WRITE

    def _confirm(self, ask: Ask) -> bool:
        """Ask the fences, authoritatively, whether the session may be issued. False: nobody answered, and it may.

        Raises:
            SessionConflict: a fence, or the clock, refuses it.
            StoreUnavailable: nobody answered, and the outage policy is not to go on then.
        """
        session, store = self.session, self.site.store
        assert session is not None
        confirmed = True
        try:
            numbers = store.lookup_now(session.keys)
        except StoreUnavailable:
            without = self._without(ask, session.record)
            if without is Without.FAIL:
                if ask is Ask.SEND:
                    self._lose(session.ended or Ended.SUPERSEDED)
                raise
            confirmed = without is Without.EXTEND
            numbers = store.last_known(session.keys)
        ended = policy.refused(numbers, session.limits) or session.expired(self._now())
        if ended is not None:
            self._conflict(ended)
        return confirmed

    def _find_out(self, session: Presented) -> Ended | None:
        """Why the store refused a change of the session."""
        return policy.refused(self.site.store.lookup_now(session.keys), session.limits)

    def _everything(self) -> tuple[int, bool]:
        """The number of everything, for a session that begins now, and whether nobody could be asked."""
        try:
            return self.site.store.lookup_now((EVERYTHING,))[0], False
        except StoreUnavailable:
            if self._without(Ask.BEGIN) is Without.FAIL:
                raise
            return 0, True

    def _begin(self) -> None:
        """Begin an anonymous session."""
        assert self.document is not None
        now, (everything, unasked) = self._now(), self._everything()
        record = successor.begun(
            self.site.settings, self.id, now, everything, unasked=unasked, data=self.document.dump()
        )
        self._send(record, self.site.cookies.anonymous, now, now)

    def _send(self, record: Record, name: str, issued: int, now: int) -> None:
        self._settle(self._seal(name, record, issued, now))
        self._become(Presented(name, self.site.opened(issued, record)))

    def _write(self, wants_roll: WantsRoll | None) -> None:
        """Send the next version."""
        session, document, site, now = self.session, self.document, self.site, self._now()
        assert session is not None
        assert document is not None
        record = session.record
        ended = session.expired(now)
        if ended is not None:
            self._conflict(ended)
        version = record.version + 1
        if token.is_worn(record.version):
            if session.is_login:
                return self._renew()
            version = token.next_epoch(record.version)  # nothing else tells the epochs of an anonymous session apart
        extends = wants_roll is None or wants_roll()
        data, settings = document.dump(), site.settings

        def sealed() -> tuple[Sent, Presented]:
            # What extends nothing keeps the last confirmed activity, and what limits it.
            issued, idle = (now, min(record.idle, settings.idle_s)) if extends else (session.last_activity, session.idle)
            following = successor.written(record, version, idle=idle, ends=session.ends, data=data)
            return self._seal(session.name, following, issued, now), Presented(
                session.name, site.opened(issued, following)
            )

        sent, following = sealed()
        if settings.versioned:
            limits = tuple(zip(session.keys, session.limits))
            if not site.store.compare_and_raise(limits, ((session.key, version),)):
                self._conflict(self._find_out(session) or Ended.SUPERSEDED)
            if session.expired(self._now()):
                self._conflict(Ended.IDLE)
        elif not self._confirm(Ask.WRITE) and extends:
            extends = False
            sent, following = sealed()
        self._settle(sent)
        self._become(following)
        self._end_others(following)

    def _renew(self) -> None:
        """Begin the next epoch of the login."""
        session, document, what = self.session, self.document, self._regeneration
        assert session is not None
        assert document is not None
        record, settings = session.record, self.site.settings
        tags = record.tags if what is None or what.tags is None else what.tags
        tags = self._with_identity(tags)
        what = self._with_numbers(what, tags, record.tags)
        try:
            following = successor.renewed(settings, record, tags, what, document.dump())
        except OverflowError:
            raise SessionConflict("the login has had all its epochs: log in again") from None
        self._begin_epoch(session, following)

    def _with_identity(self, tags: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """*tags*, and that of who is logged in."""
        user = self._identities()[1]
        if user is not None and (key := tag_key(f"user:{user}")) not in tags:
            tags = (*tags, key)
        if len(tags) > token.MAX_TAGS:
            raise ValueError(f"tags: requires at most {token.MAX_TAGS}, received {len(tags)}")
        return tags

    def _with_numbers(
        self, what: Regeneration | None, tags: tuple[bytes, ...], known: tuple[bytes, ...] = ()
    ) -> Regeneration:
        """What ``regenerate()`` asked for; if nobody called it, as if it had been called now. It knows all *tags*."""
        if what is None:
            what = Regeneration(None, None, None, None, self._now(), {}, False)
        missing = tuple(key for key in (EVERYTHING, *tags) if key not in what.numbers and key not in known)
        if missing and not what.unasked:
            try:
                numbers = self.site.store.lookup_now(missing)
            except StoreUnavailable:
                if self._without(Ask.END if self._somebody_may_live(what.at) else Ask.BEGIN) is Without.FAIL:
                    raise
                return what._replace(unasked=True)
            what = what._replace(numbers={**what.numbers, **dict(zip(missing, numbers, strict=True))})
        return what

    def _begin_epoch(
        self,
        session: Presented,
        record: Record,
        limits: Sequence[tuple[bytes, int]] = (),
        raises: Sequence[tuple[bytes, int]] = (),
    ) -> None:
        """Send the next epoch of a login, in the other half of its pair, and end the one before.

        Raises:
            SessionConflict: another request was first.
            SessionTooLarge, StoreUnavailable
        """
        now = self._now()
        ended = session.expired(now)
        if ended is not None:
            self._conflict(ended)
        site = self.site
        name = site.cookies.other_half(session.name)
        sent = self._seal(name, record, now, now)
        others = [each for each in self._logins() if each.record.id != record.id]
        limits = (*zip(session.keys, session.limits), *limits)
        raises = ((session.key, record.version), *raises, *((key, ENDED) for key in _fences(others)))
        if not site.store.compare_and_raise(limits, raises):
            self._conflict(self._find_out(session) or Ended.SUPERSEDED)
        if session.expired(self._now()):
            self._conflict(Ended.IDLE)
        for each in others:
            each.ended = Ended.LOGGED_OUT
        self._forget(self._names())
        self._settle(sent)
        self._become(Presented(name, site.opened(now, record)))

    def _log_in(self) -> None:
        """Begin a login, and end what the request presented."""
        document, site = self.document, self.site
        assert document is not None
        session = self.session if not self._cleared and self.standing in (Standing.HELD, Standing.SEALED) else None
        is_lost = self.standing is Standing.LOST and not self._cleared
        if is_lost or self._change(document.dump()) is Change.SWITCHED:
            document.keep_assigned()
        now = self._now()
        if session is not None and (ended := session.expired(now)) is not None:
            return self._log_in_without(session, ended)
        asked = self._regeneration
        tags = self._with_identity((asked.tags if asked is not None else None) or ())
        what = self._with_numbers(asked, tags)
        record = successor.logged_in(site.settings, self._next_id(), tags, what, document.dump())
        cookies = site.cookies
        slot = self._slot if self._slot is not None else self.arrival.found.slot
        name = cookies.in_pair(cookies.next_pair(slot, self.arrival.names))
        sent = self._seal(name, record, now, now)
        opened = site.opened(now, record)
        everyone = self._everyone()
        if everyone or asked is not None:
            # What was raised since the call, too, ends the new session.
            limits = [*zip(opened.keys, opened.limits), *(zip(session.keys, session.limits) if session else ())]
            try:
                done = site.store.compare_and_raise(limits, [(key, ENDED) for key in _fences(everyone)])
            except StoreUnavailable:
                if self._without(Ask.END if self._somebody_may_live(now) else Ask.BEGIN) is Without.FAIL:
                    raise
                log.warning("a session began while the revocation store was unavailable; what it follows was not ended")
                record = successor.logged_in(
                    site.settings, record.id, tags, what._replace(unasked=True), document.dump()
                )
                sent, opened, done = self._seal(name, record, now, now), site.opened(now, record), True
            if not done:
                ended = self._find_out(session) if session is not None else None
                if session is None or ended is None:
                    raise SessionConflict("the login was revoked before its response")
                return self._log_in_without(session, ended)
            if session is not None and session.expired(self._now()):
                self._conflict(Ended.IDLE)
            for each in everyone:
                each.ended = Ended.LOGGED_OUT
        self._forget(self._names())
        self._advance_slot()
        self._settle(sent)
        self._become(Presented(name, opened))

    def _log_in_without(self, session: Presented, ended: Ended) -> None:
        """The session that a login was to follow is dead. If it was a user's, that is a conflict."""
        self._lose(ended)
        if session.is_login:
            raise SessionConflict(str(ended))
        self._log_in()

    def _log_out(self) -> None:
        """End every login presented. What is left goes on in an anonymous session, if the one before was alive."""
        document, site = self.document, self.site
        assert document is not None
        session = self.session if not self._cleared and self.standing in (Standing.HELD, Standing.SEALED) else None
        ending = self._logins() if session is None or session.is_login else [*self._logins(), session]
        sent = left = None
        if (session is not None or self._cleared) and document.dump() != EMPTY:
            now, (everything, unasked) = self._now(), self._everything()
            record = successor.begun(
                site.settings, self._next_id(), now, everything, unasked=unasked, data=document.dump()
            )
            sent = self._seal(site.cookies.anonymous, record, now, now)
            left = Presented(sent.name, site.opened(now, record))
        raises = [(key, ENDED) for key in _fences(ending)]
        if session is not None and left is not None:
            is_alive = not session.expired(self._now()) and site.store.compare_and_raise(
                tuple(zip(session.keys, session.limits)), raises
            )
            if not is_alive:
                site.store.compare_and_raise((), raises)
            if not is_alive or session.expired(self._now()):
                sent = left = None
        elif raises:
            site.store.compare_and_raise((), raises)
        was_login = bool(self._logins())
        for each in ending:
            each.ended = Ended.LOGGED_OUT
        self._forget(self._names())
        self._advance_slot()
        self.session, self.standing = None, Standing.NEW
        self._ended = Ended.LOGGED_OUT if was_login else self._ended
        if sent is None or left is None:
            self.document = Document(EMPTY)
        else:
            self._settle(sent)
            self._become(left)

    def _end_unseen(self) -> None:
        """The identity was taken out of a session in which nobody is logged in: a newer one may be on its way."""
        logins = self._logins()
        if logins:
            self.site.store.fence(_fences(logins), ENDED)
            for each in logins:
                each.ended = Ended.LOGGED_OUT
            self._ended = Ended.LOGGED_OUT
        is_ours = self.site.cookies.is_login
        self._forget([name for name in self._names() if is_ours(name.removesuffix("-lease"))])
        self._advance_slot()
        self._left = False

    def _next_id(self) -> bytes:
        if self._id is None:
            self._id = urandom(token.ID_SIZE)
        return self._id


def _fences(sessions: Sequence[Presented]) -> list[bytes]:
    """The sessions' own fences, each once."""
    return list({each.key: None for each in sessions})
