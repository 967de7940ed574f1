"""``Sessions``: everything but WSGI, for the filter, for adapters to frameworks, and for tests.

Cookie header -> cookies (names) -> seal (open) -> token (record) -> presented, arrival (alive? policy, revocation)
        -> exchange (one request) -> session (the mapping) -> the application
        -> standing (what to do) -> successor (the next record) -> seal -> revocation -> cookies (Set-Cookie)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import caching, response
from .caching import Headers
from .cookies import Sent, SetCookie
from .exchange import Exchange
from .moving import Moving, deletion
from .presented import Site
from .revocation import Revocations, StoreOptions, open_store
from .revocation.fence import ENDED, EVERYTHING, session_key, tag_key
from .session import Session, exchange_of
from .settings import Options, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("wsgi_rollsession")

#: Where the environ holds the session.
SESSION = "wsgi_rollsession.session"
#: Set to False in the environ: this response extends nothing.
ROLL = "wsgi_rollsession.roll"

_is_id = re.compile("[0-9A-Fa-f]{32}").fullmatch


class Sessions:
    """The sessions of a site. Make one at start-up; it is safe to use from any thread, and after a fork.

        sessions = Sessions(keys=…, revocations=…)
        session = sessions.begin(environ)
        …
        headers = sessions.commit(session, status, headers, environ)

    Args:
        options: see docs/configuration.md; ``keys`` and ``revocations`` are required.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        settings = Settings.parse(options)
        self.settings = settings
        store_options = StoreOptions(lifetime_ms=settings.fence_lifetime_ms, accept_amnesia=settings.accept_amnesia)
        opened = settings.revocations
        #: The revocation set.
        self.revocations: Revocations = (
            open_store(opened, store_options) if isinstance(opened, str) else opened(store_options)
        )
        self._site = Site(settings, self.revocations)
        self._moving = Moving(self._site) if settings.moving_in else None
        if not settings.secure:
            log.warning("insecure_http: session cookies go over plain http; use this for development only")
        if settings.outage.value == "open":
            log.warning("outage=open: while the store is unavailable, sessions that it has ended may be accepted")
        if settings.accept_amnesia:
            log.warning("amnesia=accept: a store that lost its data revives sessions; use this to move to a new store")

    # One request

    def begin(self, environ: dict[str, Any]) -> Session:
        """The session of a WSGI request, which ``environ["wsgi_rollsession.session"]`` is then, too.

        A request whose environ has passed here before is run again: what its first pass has done, by ``save()`` or in
        a response that was discarded, is still done, and is sent with this one. With other cookies it is another
        request, perhaps of another browser.
        """
        header = environ.get("HTTP_COOKIE", "")
        carried: Sequence[Sent] = ()
        if SESSION in environ and self.owns(environ[SESSION]):
            before = exchange_of(environ[SESSION])
            if before.received == header:
                carried = before.settled
        session = environ[SESSION] = Session(self._begin(header, carried))
        return session

    def begin_header(self, header: str) -> Session:
        """The session of a request with this Cookie header, for frameworks that are not WSGI's."""
        return Session(self._begin(header, ()))

    def _begin(self, header: str, carried: Sequence[Sent]) -> Exchange:
        move = None if self._moving is None else self._moving.find(header)
        received = header
        if move is not None:
            header = move.translated(header)
        exchange = Exchange(self._site, _applied(header, carried) if carried else header, carried)
        exchange.received = received
        if move is not None:
            exchange.move = move
            move.bring(exchange)
        return exchange

    def owns(self, session: Session) -> bool:
        """Whether *session* was begun here, and not by another ``Sessions``."""
        return exchange_of(session).site is self._site

    def by_clock(self, clock: Callable[[], float]) -> Sessions:
        """The same sessions by another clock, in Unix seconds: for tests, of what happened some time ago."""
        other = copy(self)
        other.settings = replace(self.settings, clock=clock)
        other._site = Site(other.settings, self.revocations)
        other._moving = Moving(other._site) if other.settings.moving_in else None
        return other

    def commit(
        self, session: Session, status: str, headers: Sequence[tuple[str, str]], environ: dict[str, Any] | None = None
    ) -> Headers:
        """The headers of the response that starts now: the application's, with the session's.

        Args:
            status: such as ``"200 OK"``.
            headers: the application's.
            environ: what ``roll_if`` is asked about, and where ``wsgi_rollsession.roll`` may stand.

        Raises:
            SessionTooLarge, SessionValueError: the session cannot be kept.
            SessionConflict: a login over somebody found that this session has ended.
            StoreUnavailable: a logout, or a login over somebody, was not confirmed; or as the outage policy has it.
            After any of these, the session is what it was before the request, but for what ``save()``,
            ``invalidate()`` and ``revoke_others()`` have done, and the next call, for an error page, sends that.
        """
        exchange = exchange_of(session)
        if response.leaves_alone(exchange):  # as for most requests
            return headers if isinstance(headers, list) else list(headers)
        sent, old = self._commit(exchange, status, headers, environ)
        if sent or old:
            cookies = self._site.cookies
            set_cookies = [deletion(each) for each in old]
            for each in sent:
                if each.value is None:
                    set_cookies += cookies.deletions(each.name)
                else:
                    set_cookies.append(cookies.header(each.name, each.value, each.max_age))
            return caching.merged(headers, set_cookies, lease_only=self._is_lease(sent), was_read=session.loaded)
        if session.loaded:
            return caching.merged(headers, (), lease_only=True, was_read=True)
        return headers if isinstance(headers, list) else list(headers)

    def commit_parts(
        self, session: Session, status: str, headers: Sequence[tuple[str, str]], environ: dict[str, Any] | None = None
    ) -> tuple[Headers, list[SetCookie]]:
        """As ``commit``, for frameworks with a cookie interface: headers without our cookies, and these in parts."""
        exchange = exchange_of(session)
        if response.leaves_alone(exchange):
            return list(headers), []
        sent, old = self._commit(exchange, status, headers, environ)
        any_cookie = bool(sent or old)
        merged = caching.merged(
            headers, ("stand-in",) if any_cookie else (), lease_only=self._is_lease(sent), was_read=session.loaded
        )
        if any_cookie:
            merged.pop()  # the stand-in
        return merged, [*old, *(part for each in sent for part in self._site.cookies.parts(*each))]

    def _commit(
        self, exchange: Exchange, status: str, headers: Sequence[tuple[str, str]], environ: dict[str, Any] | None
    ) -> tuple[Sequence[Sent], Sequence[SetCookie]]:
        """The cookies of the response, and the deletion of the old cookie that it moves in with, if it does."""
        move = exchange.move
        if move is not None:
            move.prepare(exchange)
        sent = response.commit(exchange, lambda: self._wants_roll(status, headers, environ))
        return (sent, ()) if move is None else move.replace(sent)

    def _is_lease(self, sent: Sequence[Sent]) -> bool:
        return len(sent) == 1 and sent[0].value is not None and sent[0].name.endswith("-lease")

    def _wants_roll(self, status: str, headers: Sequence[tuple[str, str]], environ: dict[str, Any] | None) -> bool:
        """Whether the response may extend the session."""
        if status.startswith("304"):  # RFC 9111, 4.3.4: a cache puts its headers on the response that it has stored
            return False
        if environ is not None and environ.get(ROLL) is False:
            return False
        settings = self.settings
        if caching.is_storable(headers, settings.clock()):
            return False
        if settings.roll_if is None:
            return True
        try:
            return bool(settings.roll_if(environ if environ is not None else {}))
        except Exception:
            log.exception("roll_if failed: the session is not rolled")
            return False

    # What ends sessions from outside a request

    def revoke(self, tag: str, *tags: str) -> None:
        """Log out everywhere: end every session that carries one of the tags and was created until now.

        A session that begins afterwards is not affected. To keep one's own, see ``Session.revoke_others``.

        Raises:
            StoreUnavailable: the store did not confirm it. The sessions may still be alive.
            ValueError: a tag is empty.
            TypeError: a tag is no text.
        """
        self.revocations.fence_now([tag_key(each) for each in (tag, *tags)])

    def revoke_session(self, session_id: str) -> None:
        """End the login with this ``session.id``, whoever holds it.

        Raises:
            StoreUnavailable: as ``revoke``.
            ValueError: it is not 32 hexadecimal digits.
        """
        if not isinstance(session_id, str) or not _is_id(
            session_id
        ):  # a fence for anything else would end nothing, and look like success
            raise ValueError("session_id: requires the 32 hexadecimal digits of a session.id")
        self.revocations.fence([session_key(bytes.fromhex(session_id))], ENDED)

    def revoke_everything(self) -> None:
        """End every session created until now. Raises ``StoreUnavailable``, as ``revoke``."""
        self.revocations.fence_now([EVERYTHING])

    def close(self) -> None:
        """Release the store's connections and threads."""
        self.revocations.close()


def _applied(header: str, sent: Sequence[Sent]) -> str:
    """The Cookie header of a browser that had *header*, and has received *sent*."""
    ours = {each.name for each in sent}
    kept = [pair for pair in header.split(";") if pair.partition("=")[0].strip() not in ours]
    return ";".join([*kept, *(f" {each.name}={each.value}" for each in sent if each.value is not None)]).strip("; ")
