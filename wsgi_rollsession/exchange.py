"""One request's session: what it is, and what the application asks for. ``response`` and ``logins`` carry it out."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from os import urandom
from typing import TYPE_CHECKING, NoReturn

from . import policy, successor, token
from .arrival import Arrival
from .cookies import Sent
from .document import EMPTY, Document, encode, identity, known_identity
from .errors import SessionCommitted, SessionConflict, SessionTooLarge, StoreUnavailable
from .policy import Ended
from .presented import Presented, Site
from .revocation.fence import EVERYTHING, tag_key
from .seal import LIMIT, seal_session
from .standing import Ask, Change, Standing, Without, may_go_on
from .successor import Regeneration, is_another_user
from .token import FAIL_OPEN, TRANSIENT, Record

if TYPE_CHECKING:
    from .moving import Move

_LOGINS = frozenset((Change.LOGGED_IN, Change.SWITCHED, Change.RENEWED))


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
    #: Why nobody is logged in; None while somebody is.
    nobody: Ended | None = None
    #: The response has been decided on.
    committed = False
    # What the application asked for, and what has not been done yet:
    regeneration: Regeneration | None = None
    is_cleared = False
    leaves = False  # it took the identity out
    _identity: tuple[str | None] | None = None  # who was logged in before the identity key was first changed
    _id: bytes | None = None  # of the session that begins then
    _arrival: Arrival | None = None
    _pair: int | None = None  # the pair of slots that it has taken
    _carried: Collection[str] = ()  # names that a pass before has settled: the browser may have them all the same
    #: What it may move in with (``moving``).
    move: Move | None = None
    #: The Cookie header as it came.
    received = ""

    def __init__(self, site: Site, header: str, carried: Sequence[Sent] = ()) -> None:
        self.site = site
        self.header = header
        self._lock = threading.Lock()  # looked up now, for gevent may have come since
        #: What the response carries in any case: what has been done, by name, in the order in which it is sent.
        self.outbox = {each.name: each for each in carried} if carried else {}
        if carried:
            self._carried = [*self.outbox]
            if (slot := self.outbox.get(site.cookies.slot)) is not None:
                self._pair = int(slot.value or 0) or None

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

    def unload(self) -> None:
        """Have the session loaded again, if anybody looks."""
        self.document, self.session, self.nobody, self.standing = None, None, None, Standing.UNREAD

    @property
    def arrival(self) -> Arrival:
        """What the request presents."""
        arrival = self._arrival
        if arrival is None:
            arrival = self._arrival = Arrival(self.site.open_header(self.header))
        return arrival

    @property
    def settled(self) -> list[Sent]:
        """What has been done, and has to reach the browser even if this pass of the request is discarded."""
        return list(self.outbox.values())

    def now(self) -> int:
        return int(self.site.clock() * 1000)

    def _find(self) -> Document:
        arrival = self.arrival
        session = self.session = arrival.choose(self.now(), self._look_up)
        self.nobody = arrival.ended
        self.standing = Standing.NEW if session is None else Standing.HELD
        return Document(EMPTY if session is None else session.record.data)

    def _look_up(self, keys: tuple[bytes, ...]) -> Sequence[int]:
        store = self.site.store
        try:
            # Loaded once the response is on its way, it must not be alive again after a roll was refused.
            return store.lookup_now(keys) if self.committed else store.lookup(keys)
        except StoreUnavailable:
            if self.without(Ask.LOAD) is Without.FAIL:
                raise
            return store.last_known(keys)

    def without(self, ask: Ask, record: Record | None = None) -> Without:
        """How to go on: the store has not answered."""
        fail_open = record is not None and bool(record.flags & FAIL_OPEN)
        return may_go_on(self.site.settings.outage, ask, fail_open=fail_open)

    @property
    def current(self) -> Presented | None:
        """The session that this is, or None if another begins, by what was asked for until now."""
        self.load()
        return self.session if self.turn() in (None, Change.RENEWED) else None

    @property
    def asked(self) -> Regeneration | None:
        """What ``regenerate()`` asked for, if a login or an epoch comes of it."""
        self.load()
        return self.regeneration if self.turn() in _LOGINS else None

    @property
    def tags(self) -> tuple[bytes, ...]:
        """Those of the session that this is, or of the login that begins."""
        current, asked = self.current, self.asked
        tags = () if current is None else current.record.tags
        if asked is not None and asked.tags is not None:
            tags = asked.tags
        return self.with_identity(tags) if self.turn() in _LOGINS else tags

    @property
    def id(self) -> bytes:
        """That of the session, or of the one that begins if something is stored."""
        current = self.current
        return self.next_id() if current is None else current.record.id

    @property
    def ended(self) -> Ended | None:
        """Why nobody is logged in, or None while somebody is."""
        self.load()
        turn = self.turn()
        if turn is None or turn is Change.RENEWED:
            return self.nobody
        return None if turn in _LOGINS else self.nobody or Ended.LOGGED_OUT

    @property
    def changed(self) -> bool:
        """Whether the application has asked for anything that has not been done yet."""
        document = self.document
        return document is not None and (self.leaves or self.change(document.dump()) is not Change.SAME)

    @property
    def logs_in_or_out(self) -> bool:
        """Whether the response carries a login, a logout, or the next epoch of a login."""
        self.changing()
        return self.turn() is not None

    def is_somebody(self) -> bool:
        """Whether the session is that of a user."""
        return self.session is not None and self.session.is_login and not self.is_cleared

    def identities(self) -> tuple[str | None, str | None]:
        """Who was logged in when the session was loaded, or last saved; and who is by now."""
        key, document = self.site.identity_key, self.document
        if key is None or document is None:
            return None, None
        if self._identity is None:
            now = known_identity(key, document.read().get(key))
            return now, now
        return self._identity[0], identity(key, document.read().get(key))

    def is_renewed(self) -> bool:
        """Whether ``regenerate()`` was called by the user who is logged in."""
        session, what = self.session, self.regeneration
        if session is None or what is None or not self.is_somebody():
            return False
        before, after = self.identities()
        if before is not None and after is not None:
            return before == after
        return what.tags is None or not is_another_user(session.record.tags, what.tags)

    def change(self, raw: bytes) -> Change:
        """What the application has done with the session, whose data are *raw* by now."""
        assert self.document is not None
        return self.turn() or (Change.SAME if raw is self.document.raw else Change.WRITTEN)

    def turn(self) -> Change | None:
        """How somebody logs in or out, or goes on in another epoch; None: nobody does, as in most requests."""
        if self._identity is None and self.regeneration is None and not self.is_cleared and not self.leaves:
            return None
        before, after = self.identities()
        # With the identity taken out, and no tags, regenerate() is how some log out: it is no login of nobody.
        what = self.regeneration
        begins = what is not None and not (self.leaves and after is None and what.tags is None)
        if self.is_cleared:
            begins = begins and what is not None and (what.tags is not None or self.site.identity_key is None)
            return Change.LOGGED_IN if begins or after is not None else Change.CLEARED
        if after is None and (before is not None or (self.leaves and self.is_somebody())):
            return Change.LOGGED_OUT
        if begins:
            if not self.is_somebody():
                return Change.LOGGED_IN
            return Change.RENEWED if self.is_renewed() else Change.SWITCHED
        if before != after:
            return Change.SWITCHED if before is not None or self._was_another(after) else Change.LOGGED_IN
        # An anonymous session from before there was an identity key may hold one: it is assigned again, by a login.
        return Change.LOGGED_IN if after is not None and not self.is_somebody() else None

    def _was_another(self, user: str | None) -> bool:
        """Whether a login without an identity may be of somebody else than *user*, who is stored now."""
        if self.session is None or not self.is_somebody():
            return False
        tags = self.session.record.tags
        return self.standing is Standing.LOST or (bool(tags) and tag_key(f"user:{user}") not in tags)

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
        self.leaves = identity(key, value) is None
        if self._identity is None:
            self._identity = (known_identity(key, self.changing().read().get(key)),)

    def clear(self) -> None:
        """Begin with nothing. If somebody is logged in, that ends when the response starts."""
        self.changing()
        self.discard()
        self.is_cleared = True
        self.document = Document(EMPTY)

    def revert(self) -> None:
        """Go back to what was loaded, or last saved."""
        self.changing()
        self.discard()
        self.document = Document(EMPTY if self.session is None else self.session.record.data)

    def logged_out(self, sessions: Sequence[Presented]) -> None:
        """They have been ended."""
        for each in sessions:
            each.ended = Ended.LOGGED_OUT
        if any(each.is_login for each in sessions):
            self.nobody = Ended.LOGGED_OUT

    def discard(self) -> None:
        """Nothing is asked for any more."""
        self.regeneration, self.is_cleared, self.leaves, self._identity, self._id = None, False, False, None, None

    def regenerate(
        self, tags: tuple[bytes, ...] | None, idle_s: int | None, absolute_s: int | None, persistent: bool | None
    ) -> None:
        """Have the response carry a login, or the next epoch of one; if the session may go on.

        Raises:
            SessionConflict, StoreUnavailable
        """
        document = self.changing()
        session = None if self.is_cleared else self.session
        if self.standing is Standing.LOST and session is not None:
            if session.is_login:
                raise SessionConflict(self.why_lost())
            session = None
        at, store = self.now(), self.site.store
        asked = session.keys if session is not None else ()
        keys = tuple(dict.fromkeys((EVERYTHING, *asked, *self.with_identity(tags or ()))))
        unasked = False
        try:
            numbers = store.lookup_now(keys)
        except StoreUnavailable:
            if self.without(Ask.END if self.somebody_may_live(at) else Ask.BEGIN) is Without.FAIL:
                raise
            numbers, unasked = store.last_known(keys), True
        held = dict(zip(keys, numbers, strict=True))
        if session is not None:
            if session.is_login:
                token.next_epoch(session.record.version)  # is there one?
            ended = session.expired(at) or policy.refused([held[key] for key in asked], session.limits)
            if ended is not None:
                self.lose(ended)
                if session.is_login:
                    raise SessionConflict(str(ended))
        asked_now = Regeneration(tags, idle_s, absolute_s, persistent, at, held, unasked)
        before = self.regeneration
        self.regeneration = asked_now if before is None else successor.both(before, asked_now)
        if self.standing is Standing.LOST or (self.site.identity_key is None and self.is_switched()):
            document.keep_assigned()

    def is_switched(self) -> bool:
        return self.is_somebody() and not self.is_renewed()

    def forget(self) -> None:
        """Have the response delete what the request presented. It ends nothing.

        Raises:
            SessionCommitted
        """
        self.changing()
        self.nobody = self.nobody or Ended.LOGGED_OUT
        self.start_over()

    def check(self) -> bool:
        """Whether the session is alive, now.

        Raises:
            StoreUnavailable: as the outage policy has it.
        """
        self.load()
        session = self.session
        if session is None or self.is_cleared or self.standing is Standing.LOST:
            return False
        try:
            numbers = self.site.store.lookup_now(session.keys)
        except StoreUnavailable:
            if self.without(Ask.LOAD) is Without.FAIL:
                raise
            numbers = self.site.store.last_known(session.keys)
        ended = session.expired(self.now()) or policy.refused(numbers, session.limits)
        if ended is not None:
            self.lose(ended)
        return ended is None

    def lose(self, ended: Ended) -> None:
        """The session turns out to be dead: its data must not live on."""
        session = self.session
        assert session is not None
        session.ended = ended
        if session.is_login:
            self.nobody = ended
        if self.standing is Standing.SEALED:
            self.outbox.pop(session.name, None)
        self.standing = Standing.LOST

    def conflict(self, ended: Ended) -> NoReturn:
        self.lose(ended)
        raise SessionConflict(str(ended))

    def why_lost(self) -> str:
        return str(self.session.ended if self.session is not None else self.nobody)

    def start_over(self) -> None:
        """Have the browser forget everything that it presented, and go on with nothing."""
        self.forget_cookies(self.names())
        self.advance_slot()
        self.discard()
        self.session, self.standing = None, Standing.NEW
        self.document = Document(EMPTY)

    def become(self, session: Presented) -> None:
        """The session is one that this request has sealed."""
        self.session, self.standing = session, Standing.SEALED
        self.nobody = None if session.is_login else self.nobody

    def done(self) -> None:
        """What was asked for has been done: changes count from here."""
        self.discard()
        assert self.document is not None
        self.document.rebase(EMPTY if self.session is None else self.session.record.data)

    def everyone(self) -> list[Presented]:
        """All authentic sessions of the request: those presented, and what it has sealed."""
        presented, session = self.arrival.presented, self.session
        return [*presented, session] if session is not None and session not in presented else [*presented]

    @property
    def following(self) -> Presented | None:
        """The session that ends with a login or logout, or goes on in a new epoch, if it is alive."""
        return None if self.is_cleared or self.standing is Standing.LOST else self.session

    def logins(self) -> list[Presented]:
        return [each for each in self.everyone() if each.is_login]

    def somebody_may_live(self, now: int) -> bool:
        return any(each.may_live_elsewhere(now) for each in self.logins())

    def settle(self, sent: Sent) -> None:
        self.outbox.pop(sent.name, None)  # the order is that of the last time
        self.outbox[sent.name] = sent

    def names(self) -> list[str]:
        """The names of all cookies that are there, or would be: of sessions and leases."""
        settled = [each.name for each in self.outbox.values() if each.name != self.site.cookies.slot]
        return [*self.arrival.opening.names, *settled]

    def forget_cookies(self, names: Sequence[str]) -> None:
        """Delete cookies that the browser has, and do not send those that it lacks."""
        presented = self.arrival.opening.names
        for name in names:
            if name in presented or name in self._carried:
                self.settle(Sent(name, None, None))
            elif self.outbox[name].value is not None:
                del self.outbox[name]

    @property
    def next_pair(self) -> int:
        """The pair of slots that a login takes. A request takes one, whatever ends and begins in it."""
        if self._pair is not None:
            return self._pair
        opening = self.arrival.opening
        return self.site.cookies.next_pair(opening.slot, opening.session_names)

    def advance_slot(self) -> None:
        """Let the pair that a login takes count as used."""
        self._pair = self.next_pair
        self.settle(Sent(self.site.cookies.slot, str(self._pair), self.site.settings.absolute_ms // 1000))

    def seal(self, name: str, record: Record, issued: int, now: int) -> Sent:
        """The cookie *name* for a record.

        Raises:
            SessionTooLarge
        """
        site = self.site
        value = seal_session(site.ring, name, issued, token.pack(record))
        sent = Sent(name, value, None if record.flags & TRANSIENT else max((record.ends - now) // 1000, 0))
        size = site.cookies.size(name, value, sent.max_age)
        if size > LIMIT:
            data = Document(record.data).read()
            sizes = sorted(((len(encode(item)), key) for key, item in data.items()), reverse=True)
            largest = ", ".join(f"{key!r} ({length} bytes)" for length, key in sizes[:3])
            raise SessionTooLarge(
                f"the session cookie would have {size} bytes and browsers accept {LIMIT};"
                f" the largest keys are {largest}"
            )
        return sent

    def find_out(self, session: Presented) -> Ended | None:
        """Why the store refused a change of the session."""
        return policy.refused(self.site.store.lookup_now(session.keys), session.limits)

    def number_of_everything(self) -> tuple[int, bool]:
        """The number of everything, for a session that begins now, and whether nobody could be asked."""
        try:
            return self.site.store.lookup_now((EVERYTHING,))[0], False
        except StoreUnavailable:
            if self.without(Ask.BEGIN) is Without.FAIL:
                raise
            return 0, True

    def with_identity(self, tags: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """*tags*, and that of who is logged in."""
        user = self.identities()[1]
        if user is not None and (key := tag_key(f"user:{user}")) not in tags:
            tags = (*tags, key)
        if len(tags) > token.MAX_TAGS:
            raise ValueError(f"tags: requires at most {token.MAX_TAGS}, received {len(tags)}")
        return tags

    def with_numbers(
        self, what: Regeneration | None, tags: tuple[bytes, ...], known: tuple[bytes, ...] = ()
    ) -> Regeneration:
        """What ``regenerate()`` asked for; if nobody called it, as if it had been called now. It knows all *tags*."""
        if what is None:
            what = Regeneration(None, None, None, None, self.now(), {}, False)
        missing = tuple(key for key in (EVERYTHING, *tags) if key not in what.numbers and key not in known)
        if missing and not what.unasked:
            try:
                numbers = self.site.store.lookup_now(missing)
            except StoreUnavailable:
                if self.without(Ask.END if self.somebody_may_live(what.at) else Ask.BEGIN) is Without.FAIL:
                    raise
                return what._replace(unasked=True)
            what = what._replace(numbers={**what.numbers, **dict(zip(missing, numbers, strict=True))})
        return what

    def next_id(self) -> bytes:
        if self._id is None:
            with self._lock:  # to ask for it is to look
                self._id = self._id or urandom(token.ID_SIZE)
        return self._id
