"""The WSGI filter: the only module that knows WSGI (PEP 3333). Everything else is ``sessions.Sessions``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .caching import Headers
from .errors import ConfigurationError, RollSessionError, StoreUnavailable
from .session import Session
from .sessions import ROLL, SESSION, Sessions
from .settings import Options
from .standing import Outage

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("wsgi_rollsession")


class RollSession:
    """Wraps a WSGI application with sessions that stay logged out.

        application = RollSession(application, keys=…, revocations=…, identity_key="user_id")

    Args:
        application: the WSGI application.
        options: see docs/configuration.md; ``keys`` and ``revocations`` are required.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], **options: Unpack[Options]) -> None:
        self.sessions = sessions = Sessions(**options)
        self._application = application
        self._closed = sessions.settings.outage is Outage.CLOSED
        self._unshared = not sessions.revocations.shared
        self._is_inner = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sessions = self.sessions
        if SESSION in environ and not sessions.owns(environ[SESSION]):
            return self._nested(environ, start_response)
        if self._unshared and environ.get("wsgi.multiprocess"):
            raise ConfigurationError(
                "revocations: requires a store that all processes share, such as sqlite:///revocations.db,"
                " received one that only this process sees; a logout would not reach the others"
            )
        session = sessions.begin(environ)

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = sessions.commit(session, status, headers, environ)
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        if not self._closed:
            return self._application(environ, start)
        return self._or_unavailable(session, environ, start, start_response)

    # What ends sessions from outside a request

    def revoke(self, tag: str, *tags: str) -> None:
        """See ``Sessions.revoke``. Raises ``RollSessionError`` if this filter is inside another one."""
        self._require_outer("revoke")
        self.sessions.revoke(tag, *tags)

    def revoke_session(self, session_id: str) -> None:
        """See ``Sessions.revoke_session``. Raises ``RollSessionError``, as ``revoke``."""
        self._require_outer("revoke_session")
        self.sessions.revoke_session(session_id)

    def revoke_everything(self) -> None:
        """See ``Sessions.revoke_everything``. Raises ``RollSessionError``, as ``revoke``."""
        self._require_outer("revoke_everything")
        self.sessions.revoke_everything()

    def _require_outer(self, method: str) -> None:
        if self._is_inner:
            raise RollSessionError(
                f"{method}: this RollSession is mounted inside another one, whose sessions its application uses; it has"
                f" none to end. Call {method} on the outer one"
            )

    def close(self) -> None:
        """Release the store's connections and threads."""
        self.sessions.close()

    # WSGI

    def _or_unavailable(
        self, session: Session, environ: dict[str, Any], start: Callable[..., Any], start_response: Callable[..., Any]
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
            if session.loaded and not session.committed:
                session.revert()  # the application did not get to its response
            for _ in range(2):  # with all that was done; then without what the store would have to confirm
                with suppress(StoreUnavailable):
                    return _unavailable(start)
            return _unavailable(start_response)

        try:
            if session.presented:
                bool(session)  # loads it, which asks
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


__all__ = ["ROLL", "SESSION", "RollSession", "Session"]
