"""``request.session`` that stays logged out: ``config.include("wsgi_rollsession.pyramid")``. See docs/pyramid.md.

Settings are the options of ``Sessions`` with ``rollsession.`` before their names, as text or as what they are. Without
any, the session is that of a ``RollSession`` around the application.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from pyramid.interfaces import PHASE3_CONFIG, ISecurityPolicy, ISession
from pyramid.response import Response
from pyramid.settings import asbool
from pyramid.tweens import EXCVIEW
from zope.interface import classImplements

from .errors import ConfigurationError, RollSessionError, StoreUnavailable
from .facade import Facade
from .paste import with_keys
from .session import Session
from .sessions import SESSION, Sessions

__all__ = ["PyramidSession", "includeme", "sessions"]

log = logging.getLogger("wsgi_rollsession")

PREFIX = "rollsession."
#: Where Pyramid's ``SessionAuthenticationHelper`` keeps who is logged in.
IDENTITY_KEY = "auth.userid"
#: Where the environ holds the session as Pyramid has it.
PYRAMID_SESSION = "wsgi_rollsession.pyramid"

_FLASH = "_f_"  # these two as Pyramid's own sessions have them
_CSRF = "_csrft_"
#: So often does the session let callbacks go first that were added by callbacks.
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
    made: Sessions | None = options.pop("sessions", None)
    if made is None and options:
        made = Sessions(**with_keys({"identity_key": IDENTITY_KEY, **options}))
    adapter = _Adapter(made, on_exception=on_exception)
    config.set_session_factory(adapter.session)
    # And no subscriber: one would have the router send all of its events, in every request.
    config.registry[PYRAMID_SESSION] = adapter
    config.add_tween(f"{__name__}.tween_factory", under=EXCVIEW)  # which sees what the tween raises
    config.action(None, _follow_forget, (config.registry,), order=PHASE3_CONFIG + 1)
    if made is not None and made.settings.outage.value == "closed":
        config.add_exception_view(_unavailable, context=StoreUnavailable)


def sessions(of: Any) -> Sessions:
    """The ``Sessions`` of an application: for ``sessions(request).revoke("user:42")``.

    Args:
        of: a request, or the application's registry.

    Raises:
        ConfigurationError: they are those of a filter around the application.
    """
    adapter: _Adapter = getattr(of, "registry", of)[PYRAMID_SESSION]
    return adapter.sessions


def tween_factory(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """For ``pyramid.tweens``: has each request begin with its session, so that it is extended if nobody looks at it."""
    _follow_forget(registry)  # also if its policy was set after a ``config.commit()``
    arrived = registry[PYRAMID_SESSION].arrived

    def tween(request: Any) -> Any:
        arrived(request)
        return handler(request)

    return tween


class PyramidSession(Facade):
    """``request.session``: Pyramid's ``ISession``. What it does not have is that of ``Session``, such as
    ``regenerate()``, ``revoke_others()``, ``save()``, ``id``, ``tags``, ``expires`` and ``ended``.
    """

    __slots__ = ()

    def get(self, key: str, default: Any = None) -> Any:
        """What is stored under *key*, else *default*."""
        return self.rollsession.get(key, default)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.rollsession, name)

    # ISession

    @property
    def created(self) -> int:
        """When it began, or now, in Unix seconds."""
        created = self.rollsession.created
        return int(time.time() if created is None else created.timestamp())

    @property
    def new(self) -> bool:
        """Whether no response has carried it yet."""
        return self.rollsession.version == 0

    def changed(self) -> None:
        """Nothing: nested changes are noticed."""

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

    @property
    def sessions(self) -> Sessions:
        """Those that are configured here."""
        if self._sessions is None:
            raise ConfigurationError("rollsession.keys: required for these sessions; else ask the filter for its own")
        return self._sessions

    def arrived(self, request: Any) -> None:
        """A request has arrived: even if nobody looks at its session, that may have to be extended."""
        if self._sessions is None and SESSION not in request.environ:
            return  # whoever looks at it is told
        session = self._served(request).session
        if self._closed and session.presented:
            bool(session)  # loads it, which asks

    def session(self, request: Any) -> PyramidSession:
        """The session factory: that of *request*, or of the request whose subrequest it is."""
        return PyramidSession(self._served(request).session)

    def _served(self, request: Any) -> _Served:
        environ = request.environ
        earlier: _Served | None = environ.get(PYRAMID_SESSION)
        if earlier is not None and not earlier.is_over:
            return earlier
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
        served = environ[PYRAMID_SESSION] = _Served(session, commit, on_exception=self._on_exception)
        request.add_response_callback(served)
        request.add_finished_callback(served.end)
        return served


class _Served:
    """What the environ holds while a request is served: a subrequest with a copy of the environ finds it too.

    It is the response callback that sends the session, and lets all others go first.

    Args:
        commit: ``Sessions.commit``; None: a filter around the application does it.
    """

    __slots__ = ("_commit", "_on_exception", "_polite", "is_over", "session")

    def __init__(self, session: Session, commit: Callable[..., Any] | None, *, on_exception: bool) -> None:
        self.session = session
        self.is_over = False
        self._commit = commit
        self._on_exception = on_exception
        self._polite = _POLITE

    def end(self, request: Any) -> None:
        """Called by Pyramid at the very end. Other callbacks go first: what they would change is late, and raises."""
        if request.finished_callbacks and self._polite:
            self._polite -= 1
            request.add_finished_callback(self.end)
            return
        self.is_over = True

    def __call__(self, request: Any, response: Any) -> None:
        callbacks = request.response_callbacks
        if callbacks and self._polite and any(each is not self for each in callbacks):
            self._polite -= 1
            request.add_response_callback(self)
            return
        session, error = self.session, getattr(request, "exception", None)
        if error is not None and session.loaded and not session.committed:
            is_kept = self._on_exception and not _is_retried(request, error)
            if not is_kept:
                session.revert()
        if self._commit is None:
            return
        held = response.headerlist
        try:
            headers = self._commit(session, _status(request, response), held, request.environ)
        except RollSessionError:
            # Exception views see what views raise, and this is raised later. Without one for it, it goes on.
            _replace(request, response, request.invoke_exception_view(reraise=True))
            held = None
            headers = self._commit(session, response.status, response.headerlist, request.environ)
        if headers is not held:
            response.headerlist = headers


def _is_retried(request: Any, error: BaseException) -> bool:
    """Whether pyramid_retry will discard the response and serve the request again."""
    if "retry.attempts" not in request.environ:
        return False
    from pyramid_retry import is_error_retryable

    return bool(is_error_retryable(request, error))


def _status(request: Any, response: Any) -> Any:
    """The response's status; that of the response that it may become when it is sent, which must carry no lease."""
    if getattr(response, "conditional_response", False) and (request.if_none_match or request.if_modified_since):
        return "304 Not Modified"
    return response.status


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


def _follow_forget(registry: Any) -> None:
    """Have ``forget()`` log out also where it finds nobody: a newer session may be on its way to the browser."""
    policy = registry.queryUtility(ISecurityPolicy)
    if policy is None or isinstance(policy.forget, _Forget):
        return
    try:
        policy.forget = _Forget(policy.forget)
    except AttributeError:
        log.warning(
            "forget() of the security policy cannot be replaced: a logout by it does not end what is on its way to the"
            " browser; have it call request.session.pop(%r, None)",
            IDENTITY_KEY,
        )


class _Forget:
    """A security policy's ``forget``, and then the session's."""

    def __init__(self, forget: Callable[..., Any]) -> None:
        self._forget = forget
        self._is_told = False

    def __call__(self, request: Any, **kw: Any) -> Any:
        headers = self._forget(request, **kw)
        session = request.session
        if isinstance(session, PyramidSession):
            if session.identity_key is not None:
                session.pop(session.identity_key, None)
            elif not self._is_told:
                self._is_told = True
                log.warning("forget() has ended no session: identity_key is not set; %r is usual", IDENTITY_KEY)
        return headers


def _unavailable(error: StoreUnavailable, request: Any) -> Response:
    """``outage="closed"``: the response in place of the application's, unless it has a view for it. The store has
    logged why.
    """
    body = b"The session cannot be checked at the moment. Please try again.\n"
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), ("Retry-After", "1")]
    return Response(body=body, status="503 Service Unavailable", headerlist=headers)
