"""Moving in: the session of another system, as its cookie carries it, is taken for an early epoch of a login here.

So everything that holds for epochs holds for it. Its cookie is translated into one of ours before the request is looked
at, and the response begins the next epoch, which one compare-and-raise decides: of two requests one moves in, and the
old cookie is refused from then on. A logout that presents it ends the login, wherever it has got to meanwhile.

Knows no framework: ``migration`` has what reads their cookies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from . import token
from .cookies import LONGEST_HEADER, Sent, SetCookie
from .document import EMPTY, check, encode, identity
from .errors import ConfigurationError, RollSessionError, SessionConflict, SessionTooLarge, StoreUnavailable
from .exchange import Exchange
from .policy import CLOCK_TOLERANCE_MS
from .presented import Site
from .revocation.fence import EVERYTHING, tag_key
from .seal import LIMIT, seal_session
from .standing import Change
from .token import NEVER, Record

log = logging.getLogger("wsgi_rollsession")

#: The version of a session that has not moved in yet: the first of epoch 0. A login that began here has the same; what
#: moves in begins epoch 1.
_VERSION = 1
#: A browser may send a name twice, for two paths. Of so many values one is looked for that is authentic.
_MOST_VALUES = 4


class Refused(ValueError):
    """An old cookie is not accepted. The message is logged: it must quote nothing of the cookie, or of its session."""


class OldSession(NamedTuple):
    """What an old cookie says. Times are Unix seconds."""

    #: Names the session: the same for all of its cookies, if they tell; else a text that only this cookie has.
    name: str
    data: dict[str, Any]
    created: float
    #: When the cookie was issued, and until when it is accepted.
    issued: float
    ends: float


class OldCookies(Protocol):
    """Reads the cookies of another system."""

    cookie_name: str
    path: str
    domain: str | None
    #: The longest time, in seconds after its issue, for which a cookie is accepted.
    lifetime_s: int
    #: Unix seconds: until then a revocation store may be new, rather than one that has lost its data.
    switched_by: float

    def read(self, value: str) -> OldSession:
        """What a cookie says.

        Raises:
            ValueError: it is not authentic, or nothing that can move in. The log shows the message of ``Refused`` only.
        """


class Moving:
    """All old cookies of a site.

    Raises:
        ConfigurationError: nobody could tell who is logged in by them, or whose they are.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._all: Sequence[OldCookies] = site.settings.moving_in
        ours, settings = site.cookies.anonymous, site.settings
        if settings.identity_key is None:
            raise ConfigurationError("identity_key: required with moving_in, received None")
        for old in self._all:
            if old.cookie_name == ours or old.cookie_name.startswith(f"{ours}-"):
                raise ConfigurationError(
                    f"cookie_name: requires another name than the old cookie's, received {settings.cookie_name!r}"
                )
            if old.lifetime_s * 1000 > settings.absolute_ms:
                log.warning(
                    "absolute_timeout is shorter than the lifetime of the old cookie %r: sessions that began longer ago"
                    " do not move in",
                    old.cookie_name,
                )

    def find(self, header: str) -> Move | None:
        """What a request with this Cookie header may move in with."""
        for old in self._all:
            if f"{old.cookie_name}=" in header:
                move = self._move(old, header)
                if move is not None:
                    return move
        return None

    def _move(self, old: OldCookies, header: str) -> Move | None:
        refusal, level = "", logging.INFO
        for value in _values(header, old.cookie_name):
            try:
                return self._translated(old, old.read(value), header)
            except (ValueError, RollSessionError) as error:
                # Others' messages may quote the cookie. (An error kept in a frame that it refers to would be a cycle.)
                refusal = str(error) if isinstance(error, (Refused, RollSessionError)) else type(error).__name__
                level = logging.WARNING if isinstance(error, SessionTooLarge) else logging.INFO
        if refusal:
            log.log(level, "old cookie %r refused: %s", old.cookie_name, refusal)
        return None

    def _translated(self, old: OldCookies, session: OldSession, header: str) -> Move:
        """The session as an early epoch of a login here; or, if nobody is logged in, its data.

        Raises:
            Refused, RollSessionError: it cannot move in.
        """
        site = self._site
        settings, cookies = site.settings, site.cookies
        now, created = int(settings.clock() * 1000), int(session.created * 1000)
        if now >= min(session.ends, session.issued + old.lifetime_s) * 1000:
            raise Refused("it has expired")
        if max(session.issued * 1000, created) > now + CLOCK_TOLERANCE_MS:
            raise Refused("it was issued in the future")
        for key, value in session.data.items():
            check(key, value)
        data = encode(session.data).encode("utf-8") if session.data else EMPTY
        assert settings.identity_key is not None  # required by the settings
        user = identity(settings.identity_key, session.data.get(settings.identity_key))
        opening = site.open_header(header)
        # Who has logged in here, or out, does not move in any more: what the old system sent late must not log in.
        is_late = bool(opening.slot) or any(map(cookies.is_login, opening.session_names))
        ends = NEVER if settings.absolute_ms == NEVER else created + settings.absolute_ms
        tags = () if user is None else (tag_key(f"user:{user}"),)
        passed = (self._beginning(old), *(0 for _ in tags))
        id_ = sha256(b"wsgi_rollsession/v1/moving in\0" + session.name.encode()).digest()[: token.ID_SIZE]
        name = cookies.in_pair(cookies.next_pair(opening.slot, opening.session_names))
        record = Record(id_, _VERSION, created, created, settings.idle_s, 0 if is_late else ends, 0, passed, tags, data)
        sealed = seal_session(site.ring, name, now, token.pack(record))
        if cookies.size(cookies.other_half(name), sealed, settings.absolute_ms // 1000) > LIMIT:
            raise SessionTooLarge(f"its session does not fit into a cookie of {LIMIT} bytes")
        if user is None:
            return Move(old, None, id_, {} if is_late else session.data, planted=False)
        return Move(old, Sent(name, sealed, None), id_, {}, planted=name not in opening.session_names)

    def _beginning(self, old: OldCookies) -> int:
        """The number of a store's beginning, which is no loss of data if it began with the switch."""
        store = self._site.store
        try:
            number = store.lookup((EVERYTHING,))[0]
        except StoreUnavailable:
            number = store.last_known((EVERYTHING,))[0]
        return number if number & 1 and number <= old.switched_by else 0


class Move:
    """What one request may move in with.

    Args:
        sent: the cookie of ours that stands for the old one; None: nobody is logged in by that.
        id_: of the login that it becomes.
        data: what is stored for a visitor, if *sent* is None.
        planted: the browser has no cookie of the name that *sent* has.
    """

    __slots__ = ("_data", "_id", "_old", "_planted", "_sent")

    def __init__(self, old: OldCookies, sent: Sent | None, id_: bytes, data: dict[str, Any], *, planted: bool) -> None:
        self._old = old
        self._sent = sent
        self._id = id_
        self._data = data
        self._planted = planted

    def translated(self, header: str) -> str:
        """The Cookie header with our cookie in it."""
        return header if self._sent is None else f"{header}; {self._sent.name}={self._sent.value}"

    def bring(self, exchange: Exchange) -> None:
        """Store a visitor's data, unless there are some already."""
        if self._data and not exchange.arrival.opening.session_names:
            document = exchange.changing()
            for key, value in self._data.items():
                document.set(key, value)

    def prepare(self, exchange: Exchange) -> None:
        """Have the response move the session in, if anybody has looked at it, and has not ended it.

        Raises:
            StoreUnavailable: something was stored in it, and it cannot move in.
        """
        document = exchange.document
        if document is None:
            if self._sent is not None and exchange.arrival.alone is not None and not exchange.outbox:
                exchange.committed = True  # it is not ours yet, and cannot be extended
            return
        session = exchange.session
        if exchange.committed or session is None or session.record.id != self._id:
            return
        if token.epoch(session.record.version) or exchange.regeneration is not None or exchange.leaves:
            return
        change = exchange.change(document.dump())
        if change is not Change.SAME and change is not Change.WRITTEN:
            return
        try:
            exchange.regenerate(None, None, None, None)
        except SessionConflict:
            pass  # another request was first: what was stored is dropped, and the log says so
        except StoreUnavailable:
            if change is Change.WRITTEN:
                exchange.revert()
                raise

    def replace(self, sent: Sequence[Sent]) -> tuple[list[Sent], list[SetCookie]]:
        """What is sent of ours, and the deletion of the old cookie, if it is to be deleted."""
        ours, is_over = list(sent), False
        if self._sent is None:
            is_over = any(each.value is not None and not each.name.endswith(("-lease", "-slot")) for each in sent)
        else:
            deletion = Sent(self._sent.name, None, None)
            is_over = deletion in sent
            if is_over and self._planted:
                ours.remove(deletion)
        return ours, [self._deletion] if is_over else []

    @property
    def _deletion(self) -> SetCookie:
        old = self._old
        return SetCookie(old.cookie_name, "", 0, old.path, old.domain, False, True, "", False)


def _values(header: str, name: str) -> Iterator[str]:
    """The values of the cookie *name*."""
    found = 0
    for pair in header[-LONGEST_HEADER:].split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name and found < _MOST_VALUES:
            found += 1
            yield value.strip(' \t"')


def deletion(part: SetCookie) -> str:
    """The Set-Cookie value that deletes an old cookie."""
    domain = f"; Domain={part.domain}" if part.domain else ""
    return f"{part.name}=; Max-Age=0; Path={part.path}{domain}; HttpOnly"
