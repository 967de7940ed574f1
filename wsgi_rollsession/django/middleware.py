"""The middleware that takes the place of Django's ``SessionMiddleware``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http.cookies import Morsel
from importlib import import_module
from inspect import iscoroutinefunction
from types import ModuleType
from typing import Any

from django.conf import settings
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from .. import ConfigurationError, RollSessionError, SessionConflict, StoreUnavailable
from ..cookies import SetCookie
from ..sessions import SESSION
from .configuration import TEST_ENGINE, sessions
from .store import SessionStore

NO_ASGI = (
    "wsgi_rollsession.django works under WSGI only: under ASGI a request can be cancelled while its session is being"
    " ended. Serve the project by its wsgi.py; its views may be async."
)


class SessionMiddleware(DjangoSessionMiddleware):
    """Has each request carry its session, and each response what becomes of it.

    What was staged happens when the response passes here: so nothing that is left out of a response has happened. As
    with Django's own, an answer of 500 or more keeps nothing but what was done at once: ``logout()``, ``flush()``,
    ``save()``.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        if iscoroutinefunction(get_response):
            raise ImproperlyConfigured(NO_ASGI)
        # Django's own would import the module that SESSION_ENGINE names, for which there is no use but in tests.
        super(DjangoSessionMiddleware, self).__init__(get_response)
        self._engine: ModuleType | None = None
        if settings.SESSION_ENGINE == TEST_ENGINE:
            self._engine = import_module(TEST_ENGINE)  # refuses to be imported, unless Django's test runner runs
        sessions()  # what is wrong with the settings is said now

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:  # type: ignore[override]
        """Begin the session of a request. With ``outage="closed"``, ask at once whether it is alive."""
        environ, served = request.META, sessions()
        if hasattr(request, "scope"):
            raise ImproperlyConfigured(NO_ASGI)
        if self._engine is None and environ.get("wsgi.multiprocess") and not served.revocations.shared:
            raise ConfigurationError(
                "revocations: requires a store that all processes share, such as sqlite:////var/lib/shop/r.db,"
                " received one that only this process sees; a logout would not reach the others"
            )
        earlier = environ.get(SESSION)
        if earlier is not None and not served.owns(earlier):
            raise ImproperlyConfigured(
                "wsgi_rollsession.RollSession is around this project, whose MIDDLEWARE has sessions of its own: two"
                " would fight over the cookies. Remove one of them."
            )
        if self._engine is not None:
            store: SessionStore = self._engine.begin(request)
        else:
            store = SessionStore(served.begin(environ))
        request.session = store
        if served.settings.outage.value == "closed" and store.rollsession.presented:
            try:
                bool(store.rollsession)  # loads it, which asks
            except StoreUnavailable:
                return self.unavailable(request)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:  # type: ignore[override]
        """Do what was staged, and put the session's cookies into the response."""
        store = getattr(request, "session", None)
        if not isinstance(store, SessionStore):
            return response
        try:
            if response.status_code >= 500:
                store.revert()
            store.settle()
            self._send(request, store, response)
        except RollSessionError as error:
            # What had been done at once is done all the same: the browser has to hear of it.
            store.revert()
            response = self._instead(request, error)
            self._send(request, store, response)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Answer a view that met with an outage, or with a session that has ended meanwhile."""
        if isinstance(exception, StoreUnavailable):
            return self.unavailable(request)
        if isinstance(exception, SessionConflict):
            return self._instead(request, exception)
        return None

    def unavailable(self, request: HttpRequest) -> HttpResponseBase:
        """The response when the store of revocations does not answer, and the view has not caught that.

        It says so: a logout that was not confirmed must not look like one.
        """
        response = HttpResponse(
            "The session cannot be checked, or ended, at the moment. Please try again.\n",
            content_type="text/plain; charset=utf-8",
            status=503,
        )
        response.headers["Cache-Control"] = "no-store"
        response.headers["Retry-After"] = "1"
        return response

    def _instead(self, request: HttpRequest, error: RollSessionError) -> HttpResponseBase:
        """The response to an error, as Django makes it: 400 for a session that has ended meanwhile."""
        if isinstance(error, StoreUnavailable):
            return self.unavailable(request)
        try:
            if isinstance(error, SessionConflict):
                raise SessionInterrupted(
                    f"The session has ended before the request completed, for example by a logout meanwhile: {error}"
                ) from error
            raise error
        except Exception as raised:
            return response_for_exception(request, raised)

    def _send(self, request: HttpRequest, store: SessionStore, response: HttpResponseBase) -> None:
        session = store.rollsession
        headers, cookies = sessions().commit_parts(
            session, str(response.status_code), list(response.items()), request.META
        )
        if not cookies and not session.loaded:
            return
        for name, value in headers:
            if response.headers.get(name) != value:
                response.headers[name] = value
        if not cookies:
            return
        cache_control = response.headers["Cache-Control"]
        if "private" not in cache_control:  # what Django's own cache looks for
            response.headers["Cache-Control"] = f"{cache_control}, private"
        if store.is_transient():
            cookies = [each if _outlives(each) else each._replace(max_age=None) for each in cookies]
        if self._engine is not None:
            self._engine.send(request, store, response, cookies)
        else:
            put(response, cookies)


def put(response: HttpResponseBase, cookies: Sequence[SetCookie]) -> None:
    """Set cookies, as they are: without an Expires, which browsers do not need and which counts against their limit."""
    for each in cookies:
        morsel = _Morsel(each.partitioned)
        morsel.set(each.name, each.value, each.value)
        morsel["path"] = each.path
        morsel["domain"] = each.domain or ""
        morsel["max-age"] = "" if each.max_age is None else str(each.max_age)
        morsel["secure"] = each.secure or ""
        morsel["httponly"] = each.httponly or ""
        morsel["samesite"] = each.samesite
        # A deletion of a partitioned cookie and one of a cookie that is not are two, of one name.
        key = each.name if each.name not in response.cookies else f"{each.name} (not partitioned)"
        dict.__setitem__(response.cookies, key, morsel)


def _outlives(cookie: SetCookie) -> bool:
    """Whether a cookie stays when the browser is closed, or is deleted now."""
    return not cookie.value or cookie.name.endswith("-slot")


class _Morsel(Morsel[str]):
    """A cookie that may be Partitioned, which ``http.cookies`` learned in Python 3.14."""

    def __init__(self, partitioned: bool) -> None:
        super().__init__()
        self._partitioned = partitioned

    def OutputString(self, attrs: Any = None) -> str:
        text = super().OutputString(attrs)
        return f"{text}; Partitioned" if self._partitioned else text
