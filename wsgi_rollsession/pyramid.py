"""``request.session`` that stays logged out: ``config.include("wsgi_rollsession.pyramid")``. See docs/pyramid.md.

Settings are the options of ``Sessions`` with ``rollsession.`` before their names, as text or as what they are. Without
any, the session is that of a ``RollSession`` around the application.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from pyramid.events import ApplicationCreated, NewRequest
from pyramid.interfaces import ISecurityPolicy, ISession
from pyramid.response import Response
from pyramid.settings import asbool
from zope.interface import classImplements

from .errors import ConfigurationError, RollSessionError, StoreUnavailable
from .paste import with_keys
from .session import Session
from .sessions import SESSION, Sessions

__all__ = ["PyramidSession", "includeme"]

log = logging.getLogger("wsgi_rollsession")

PREFIX = "rollsession."
#: Where Pyramid's ``SessionAuthenticationHelper`` keeps who is logged in.
IDENTITY_KEY = "auth.userid"
#: Where the environ holds the session as Pyramid has it.
PYRAMID_SESSION = "wsgi_rollsession.pyramid"

_FLASH = "_f_"  # these two as Pyramid's own sessions have them
_CSRF = "_csrft_"
_ABSENT = object()
#: So often does the session let response callbacks go first that were added by response callbacks.
_POLITE = 100


def includeme(config: Any) -> None:
    """Give the application its sessions.

    Args:
        config: the ``Configurator``. Among its settings, ``rollsession.sessions`` may be a ``Sessions`` to be used, and
            ``rollsession.set_on_exception = false`` drops what a request that raised has changed.

    Raises:
        ConfigurationError: names the option, what it requires and what it received.
    """
    settings = config.get_settings() or {}
    options = {name[len(PREFIX) :]: value for name, value in settings.items() if name.startswith(PREFIX)}
    on_exception = asbool(options.pop("set_on_exception", True))
    sessions: Sessions | None = options.pop("sessions", None)
    if sessions is None and options:
        sessions = Sessions(**with_keys({"identity_key": IDENTITY_KEY, **options}))
    adapter = _Adapter(sessions, on_exception=on_exception)
    config.set_session_factory(adapter.session)
    config.add_subscriber(adapter.arrived, NewRequest)
    config.add_subscriber(_follow_forget, ApplicationCreated)
    if sessions is None:
        config.add_request_method(lambda request: adapter.sessions, "rollsessions", property=True)
    else:
        config.add_request_method(_Attribute(sessions), "rollsessions")
    if sessions is not None and sessions.settings.outage.value == "closed":
        config.add_exception_view(_unavailable, context=StoreUnavailable)


class _Attribute:
    """``request.rollsessions``, bound as a method is: for a property, Pyramid makes a class for each request."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def __get__(self, request: Any, owner: Any = None) -> Sessions:
        return self._sessions


class PyramidSession(MutableMapping[str, Any]):
    """``request.session``: Pyramid's ``ISession``. What it does not have is that of ``Session``, such as
    ``regenerate()``, ``revoke_others()``, ``save()``, ``id``, ``tags``, ``expires`` and ``ended``.
    """

    __slots__ = ("_clock", "rollsession")

    def __init__(self, session: Session, clock: Callable[[], float] = time.time) -> None:
        #: The session itself.
        self.rollsession: Session
        object.__setattr__(self, "rollsession", session)
        object.__setattr__(self, "_clock", clock)

    # The mapping

    def __getitem__(self, key: str) -> Any:
        return self.rollsession[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.rollsession[key] = value

    def __delitem__(self, key: str) -> None:
        del self.rollsession[key]

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """As ``Session.pop``."""
        return self.rollsession.pop(key) if default is _ABSENT else self.rollsession.pop(key, default)

    def clear(self) -> None:
        """As ``Session.clear``: if somebody is logged in, that is a logout."""
        self.rollsession.clear()

    def __iter__(self) -> Iterator[str]:
        return iter(self.rollsession)

    def __len__(self) -> int:
        return len(self.rollsession)

    def __contains__(self, key: object) -> bool:
        return key in self.rollsession

    def __repr__(self) -> str:
        return repr(self.rollsession)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.rollsession, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a session keeps no attributes: session[{name!r}] = …")

    # ISession

    @property
    def created(self) -> int:
        """When it began, or now, in Unix seconds."""
        created = self.rollsession.created
        return int(self._clock() if created is None else created.timestamp())

    @property
    def new(self) -> bool:
        """Whether no response has carried it yet."""
        return self.rollsession.version == 0

    def changed(self) -> None:
        """Nothing: nested changes are noticed."""

    def invalidate(self) -> None:
        """Log out, at once. Raises ``StoreUnavailable``: the session may still be alive."""
        self.rollsession.invalidate()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Push a flash message onto a queue."""
        queued = self.peek_flash(queue)
        if allow_duplicate or msg not in queued:
            self[_FLASH + queue] = [*queued, msg]

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove a queue, and return it."""
        messages: list[Any] = self.pop(_FLASH + queue, [])
        return messages

    def peek_flash(self, queue: str = "") -> list[Any]:
        """A queue, which stays."""
        messages: list[Any] = self.get(_FLASH + queue, [])
        return messages

    def new_csrf_token(self) -> str:
        """Make a CSRF token, and return it."""
        token = self[_CSRF] = secrets.token_hex(20)
        return token

    def get_csrf_token(self) -> str:
        """The CSRF token; if there is none, a new one."""
        token: str | None = self.get(_CSRF)
        return self.new_csrf_token() if token is None else token


classImplements(PyramidSession, ISession)


class _Pass:
    """What the environ holds while a request is served: a subrequest with a copy of the environ finds it too."""

    __slots__ = ("is_over", "session")

    def __init__(self, session: PyramidSession) -> None:
        self.session = session
        self.is_over = False

    def end(self, request: Any) -> None:
        """Called by Pyramid at the very end."""
        self.is_over = True


class _Adapter:
    """What Pyramid calls.

    Args:
        sessions: None: the session is that of a filter around the application.
    """

    def __init__(self, sessions: Sessions | None, *, on_exception: bool) -> None:
        self._sessions = sessions
        self._on_exception = on_exception
        self._unshared = sessions is not None and not sessions.revocations.shared
        self._closed = sessions is not None and sessions.settings.outage.value == "closed"
        self._clock = time.time if sessions is None else sessions.settings.clock

    @property
    def sessions(self) -> Sessions:
        """``request.rollsessions``."""
        if self._sessions is None:
            raise ConfigurationError("rollsession.keys: required for request.rollsessions; else use that of the filter")
        return self._sessions

    def arrived(self, event: Any) -> None:
        """A request has arrived, or a subrequest: even if nobody looks at its session, that may have to be extended."""
        request = event.request
        if self._sessions is None and SESSION not in request.environ:
            return  # such as a subrequest with an environ of its own: it is told if it asks
        session = self.session(request).rollsession
        if self._closed and session.presented:
            bool(session)  # loads it, which asks

    def session(self, request: Any) -> PyramidSession:
        """The session factory: that of *request*, or of the request whose subrequest it is."""
        environ = request.environ
        earlier: _Pass | None = environ.get(PYRAMID_SESSION)
        if earlier is not None and not earlier.is_over:
            return earlier.session
        session, sessions = environ.get(SESSION), self._sessions
        commit = None
        if session is not None and (sessions is None or not sessions.owns(session)):  # the filter's
            if earlier is not None and not session.committed:
                session.revert()  # pyramid_retry: nothing of an attempt that failed is kept
        elif sessions is None:
            raise ConfigurationError(
                "rollsession.keys: required where no RollSession is around the application; a subrequest has the"
                " session of its request if it is made by request.copy()"
            )
        else:
            if self._unshared and environ.get("wsgi.multiprocess"):
                raise ConfigurationError(
                    "rollsession.revocations: requires a store that all processes share, such as"
                    " sqlite:////var/lib/shop/revocations.db, received one that only this process sees;"
                    " a logout would not reach the others"
                )
            session = sessions.begin(environ)  # of an attempt that failed, it sends what had been done
            commit = sessions.commit
        now = environ[PYRAMID_SESSION] = _Pass(PyramidSession(session, self._clock))
        request.add_response_callback(_Commit(session, commit, on_exception=self._on_exception))
        request.add_finished_callback(now.end)
        return now.session


def _is_retried(request: Any, error: BaseException) -> bool:
    """Whether pyramid_retry will discard the response and serve the request again."""
    if "retry.attempts" not in request.environ:
        return False
    from pyramid_retry import is_error_retryable

    return bool(is_error_retryable(request, error))


class _Commit:
    """A response callback, that lets all others go first.

    Args:
        commit: ``Sessions.commit``; None: a filter around the application does it.
    """

    def __init__(self, session: Session, commit: Callable[..., Any] | None, *, on_exception: bool) -> None:
        self._session = session
        self._commit = commit
        self._on_exception = on_exception
        self._polite = _POLITE

    def __call__(self, request: Any, response: Any) -> None:
        if self._polite and any(each is not self for each in request.response_callbacks):
            self._polite -= 1
            request.add_response_callback(self)
            return
        session, error = self._session, getattr(request, "exception", None)
        if error is not None and session.loaded and not session.committed:
            is_kept = self._on_exception and not _is_retried(request, error)
            if not is_kept:
                session.revert()
        if self._commit is None:
            return
        try:
            headers = self._headers(request, response)
        except RollSessionError:
            # Exception views see what views raise, and this is raised later. Without one for it, it goes on.
            _replace(request, response, request.invoke_exception_view(reraise=True))
            headers = self._headers(request, response)
        if headers is not response.headerlist:
            response.headerlist = headers

    def _headers(self, request: Any, response: Any) -> Any:
        assert self._commit is not None
        status = response.status
        if getattr(response, "conditional_response", False) and (request.if_none_match or request.if_modified_since):
            status = "304 Not Modified"  # it may become one, and then must not carry a lease
        return self._commit(self._session, status, response.headerlist, request.environ)


def _replace(request: Any, response: Any, other: Any) -> None:
    """Make *response* what *other* is: callbacks cannot return another one."""
    if not isinstance(response, Response) or not isinstance(other, Response):
        raise  # the error that is being handled
    if hasattr(other, "prepare"):  # an HTTPException that has no body yet
        other.prepare(request.environ)
    close = getattr(response.app_iter, "close", None)
    if close is not None:
        close()
    response.status = other.status
    response.app_iter = other.app_iter
    response.headerlist = list(other.headerlist)


def _follow_forget(event: Any) -> None:
    """Have ``forget()`` log out also where it finds nobody: a newer session may be on its way to the browser."""
    policy = event.app.registry.queryUtility(ISecurityPolicy)
    if policy is None:
        return
    forget = policy.forget

    def forget_all(request: Any, **kw: Any) -> Any:
        headers = forget(request, **kw)
        session = request.session
        if isinstance(session, PyramidSession) and session.identity_key is not None:
            session.pop(session.identity_key, None)
        return headers

    try:
        policy.forget = forget_all
    except AttributeError:
        log.warning(
            "forget() of the security policy cannot be replaced: a logout by it does not end what is on its way to the"
            " browser; have it call request.session.pop(%r, None)",
            IDENTITY_KEY,
        )


def _unavailable(error: StoreUnavailable, request: Any) -> Response:
    """``outage="closed"``: the response in place of the application's, unless it has a view for it. The store has
    logged why.
    """
    body = b"The session cannot be checked at the moment. Please try again.\n"
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), ("Retry-After", "1")]
    return Response(body=body, status="503 Service Unavailable", headerlist=headers)
