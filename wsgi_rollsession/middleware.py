"""The WSGI filter: the only module that knows WSGI, and the map of all others.

    environ -> cookies (header -> candidates) -> seal (open) -> token (record) -> policy (alive?)
            -> revocation (fences) -> session (mapping) -> the application
            -> policy (decide) -> revocation (authoritative) -> token -> seal -> cookies (Set-Cookie)

``presented`` is the left half of that way, ``exchange`` leads one request along all of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import ConfigurationError, StoreUnavailable
from .exchange import Exchange
from .presented import Context
from .revocation import StoreOptions, open_store
from .revocation.fence import ENDED, EVERYTHING, session_key, tag_key
from .session import Session
from .settings import Settings

log = logging.getLogger("wsgi_rollsession")

SESSION = "wsgi_rollsession.session"
ROLL = "wsgi_rollsession.roll"

Headers = list[tuple[str, str]]

_is_id = re.compile("[0-9A-Fa-f]{32}").fullmatch
_is_shared = re.compile(r"(?:^|,)\s*(?:public\b|s-maxage\s*=)", re.IGNORECASE).search


class RollSession:
    """Wraps a WSGI application (PEP 3333) with sessions that stay logged out.

    Args:
        application: the WSGI application.
        options: see ``Settings`` and docs/configuration.md; ``keys`` and ``revocations`` are required.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], **options: Any) -> None:
        try:
            settings = Settings(**options)
        except TypeError as error:
            raise ConfigurationError(f"options: {str(error).replace('Settings.__init__()', 'RollSession')}") from None
        self.settings = settings
        self._application = application
        ring = settings.ring()
        store = open_store(
            settings.revocations,
            StoreOptions(lifetime_ms=settings.fence_lifetime_ms, accept_amnesia=settings.amnesia == "accept"),
        )
        self.revocations = store
        self._context = Context(settings, ring, store)
        self._roll_if = settings.roll_if
        self._closed = settings.outage == "closed"
        self._unshared = not store.shared
        self._is_inner = False
        if settings.insecure_http:
            log.warning("insecure_http: session cookies go over plain http; use this for development only")
        if settings.outage == "open":
            log.warning("outage=open: while the store is unavailable, sessions that it has ended may be accepted")
        if settings.amnesia == "accept":
            log.warning("amnesia=accept: a store that lost its data revives sessions; use this to move to a new store")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if SESSION in environ:
            return self._nested(environ, start_response)
        if self._unshared and environ.get("wsgi.multiprocess"):
            raise ConfigurationError(
                "revocations: requires a store that all processes share, such as sqlite:///revocations.db,"
                " received one that only this process sees; a logout would not reach the others"
            )
        context = self._context
        session = environ[SESSION] = Exchange(context, environ.get("HTTP_COOKIE", ""), int(context.clock() * 1000))

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            if session._loaded:
                set_cookies, session_sent = session._commit(lambda: self._wants_roll(environ, headers))
                headers = _merged(headers, set_cookies, session_sent, was_read=True)
            elif session._looks_due() and self._wants_roll(environ, headers):
                set_cookies, session_sent = session._commit_unread()
                headers = _merged(headers, set_cookies, session_sent, was_read=False)
            else:  # as after most requests
                session._committed = True
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        if not self._closed:
            return self._application(environ, start)
        return self._or_unavailable(session, environ, start, start_response)

    def _or_unavailable(
        self,
        session: Exchange,
        environ: dict[str, Any],
        start: Callable[..., Any],
        start_response: Callable[..., Any],
    ) -> Iterable[bytes]:
        """``outage="closed"``: a request that presents a session is served only if the store can be asked."""
        started = False

        def starting(status: str, headers: Headers, exc_info: Any = None) -> Any:
            nonlocal started
            write = start(status, headers, exc_info)
            started = True
            return write

        def otherwise() -> Iterable[bytes]:
            if started:
                # To start another response is allowed until the headers are sent, but gunicorn then sends both.
                raise  # the StoreUnavailable that is being handled
            return _unavailable(start_response)

        try:
            if session._presents:
                session._ensure_loaded()
            result = self._application(environ, starting)
        except StoreUnavailable:
            return otherwise()
        return result if started else _Late(result, otherwise)  # a generator function, say

    def _nested(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Two filters would fight over the cookies: the outer one's session serves both.
        if not self._is_inner:
            self._is_inner = True
            log.warning("RollSession is mounted inside another RollSession; the inner one does nothing")
        return self._application(environ, start_response)

    def _wants_roll(self, environ: dict[str, Any], headers: Headers) -> bool:
        if environ.get(ROLL) is False:
            return False
        for name, value in headers:
            if name.lower() == "cache-control" and _is_shared(value):
                return False
        if self._roll_if is None:
            return True
        try:
            return bool(self._roll_if(environ))  # type: ignore[operator]
        except Exception:
            log.exception("roll_if failed: the session is not rolled")
            return False

    # What ends sessions from outside a request

    def revoke(self, tag: str, *tags: str) -> None:
        """Log out everywhere: end every session that carries one of the tags and was created until now.

        A session that begins afterwards is not affected. To keep one's own, see ``Session.revoke_others``.

        Raises:
            StoreUnavailable: the store did not confirm it. The sessions may still be alive.
        """
        self.revocations.fence_now([tag_key(each) for each in (tag, *tags)])

    def revoke_session(self, session_id: str) -> None:
        """End the session with this ``session.id``, whoever holds it. Raises ``StoreUnavailable``, as ``revoke``."""
        if not _is_id(session_id):  # a fence for anything else would end nothing, and look like success
            raise ValueError("session_id: requires the 32 hexadecimal digits of a session.id")
        self.revocations.fence([session_key(bytes.fromhex(session_id))], ENDED)

    def revoke_everything(self) -> None:
        """End every session created until now. Raises ``StoreUnavailable``, as ``revoke``."""
        self.revocations.fence_now([EVERYTHING])

    def close(self) -> None:
        """Release the store's connections and threads."""
        self.revocations.close()


class _Late:
    """The body of a response that has not started: it may turn out that the session cannot be checked.

    Args:
        body: the application's.
        otherwise: starts another response, and returns its body.
    """

    def __init__(self, body: Iterable[bytes], otherwise: Callable[[], Iterable[bytes]]) -> None:
        self._body = body
        self._otherwise = otherwise

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._body:  # noqa: UP028 - `yield from` would also close it, and the server does
                yield chunk
        except StoreUnavailable:
            yield from self._otherwise()

    def close(self) -> None:
        if hasattr(self._body, "close"):
            self._body.close()


def _unavailable(start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A response in place of the application's. The store has logged why."""
    body = b"The session cannot be checked at the moment. Please try again.\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Retry-After", "1"),
    ]
    start_response("503 Service Unavailable", headers)
    return [body]


def _merged(headers: Headers, set_cookies: list[str], session_sent: bool, was_read: bool) -> Headers:
    """The response's headers with ours; what the application said stays."""
    merged = list(headers)
    if was_read:
        _include(merged, "Vary", "Cookie", unless=("cookie", "*"))
    if session_sent:
        # RFC 9111, 7.3: Set-Cookie alone does not keep a shared cache from storing the response.
        _include(merged, "Cache-Control", "no-store", unless=("no-store",))
    for set_cookie in set_cookies:
        merged.append(("Set-Cookie", set_cookie))
    return merged


def _include(headers: Headers, name: str, member: str, unless: tuple[str, ...]) -> None:
    """Put *member* into the header *name*, a comma-separated list, unless something in it makes that needless."""
    lowered = name.lower()
    for index, (given, value) in enumerate(headers):
        if given.lower() == lowered:
            if all(each.strip().lower() not in unless for each in value.split(",")):
                headers[index] = given, f"{value}, {member}" if value.strip() else member
            return
    headers.append((name, member))


__all__ = ["ROLL", "SESSION", "RollSession", "Session"]
