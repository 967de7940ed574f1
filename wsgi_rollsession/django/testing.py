"""For tests: SESSION_ENGINE = "wsgi_rollsession.django.testing" makes Django's test client work as it stands.

``Client.session``, ``login()``, ``force_login()`` and ``logout()`` know one cookie, of the name SESSION_COOKIE_NAME,
and take its value for the key of a session that they may write. So in a test, that cookie holds the cookies that a
browser would hold, as they are: sealed.

It can only be imported while Django's test environment is set up: a server with this setting does not start.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .. import Session
from ..cookies import SetCookie
from ..sessions import SESSION
from . import store
from .configuration import is_testing, sessions
from .middleware import put

if not is_testing():
    raise ImproperlyConfigured(f"SESSION_ENGINE: {__name__} is for tests, and this is none; remove the setting")

Jar = dict[str, str]


class SessionStore(store.SessionStore):
    """What the test client makes of SESSION_ENGINE: a session that is kept in its ``session_key``."""

    session_key = SessionBase.session_key

    def __init__(self, session_key: str | None = None) -> None:
        self.jar = opened(session_key)
        super().__init__(_begun(self.jar))
        self._session_key = session_key

    def save(self, must_create: bool = False) -> None:
        super().save(must_create)
        self._commit()

    def load(self) -> dict[str, object]:
        data = super().load()
        if not self.rollsession.version:
            self._session_key = None
        return data

    def cycle_key(self) -> None:
        super().cycle_key()
        self.save()

    def flush(self) -> None:
        super().flush()
        self._commit()
        self._session_key = None

    def exists(self, session_key: str | None) -> bool:
        return session_key is not None and _begun(opened(session_key)).check()

    def delete(self, session_key: str | None = None) -> None:
        _begun(opened(session_key or self.session_key)).invalidate()

    def _commit(self) -> None:
        """Receive the response, and go on with the next request."""
        _, cookies = sessions().commit_parts(self.rollsession, "200 OK", [], {})
        if cookies:
            self.jar = received(self.jar, cookies)
            self._session_key = closed(self.jar)
        looked = self._looked
        self.rollsession = _begun(self.jar)
        self._looked = False
        if looked:
            accessed = self.accessed
            self._get_session()
            self.accessed = accessed


def _begun(jar: Jar) -> Session:
    return sessions().begin_header("; ".join(f"{name}={value}" for name, value in jar.items()))


def begin(request: HttpRequest) -> store.SessionStore:
    """The session of a request by the test client; by another client, of its own cookies."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if key is None:
        return store.SessionStore(sessions().begin(request.META))
    session = _begun(opened(key))
    request.META[SESSION] = session
    return store.SessionStore(session)


def send(
    request: HttpRequest, session: store.SessionStore, response: HttpResponseBase, cookies: Sequence[SetCookie]
) -> None:
    """Have the one cookie hold what a browser would hold after the response."""
    name = settings.SESSION_COOKIE_NAME
    if name not in request.COOKIES and session.rollsession.presented:
        return put(response, cookies)
    jar = received(opened(request.COOKIES.get(name)), cookies)
    sample = cookies[0]
    response.set_cookie(
        name,
        closed(jar),
        max_age=max((each.max_age for each in cookies if each.max_age is not None), default=None),
        path=sample.path,
        domain=sample.domain,
        secure=sample.secure,
        httponly=True,
        samesite=sample.samesite,  # type: ignore[arg-type]  # settings has checked it
    )


def received(jar: Mapping[str, str], cookies: Sequence[SetCookie]) -> Jar:
    """What a browser that held *jar* holds after a response."""
    jar = dict(jar)
    for each in cookies:
        if each.value:
            jar[each.name] = each.value
        else:
            jar.pop(each.name, None)
    return jar


def closed(jar: Jar) -> str:
    """A jar as the value of a cookie."""
    return urlsafe_b64encode(json.dumps(jar).encode()).decode().rstrip("=")


def opened(text: str | None) -> Jar:
    """The jar that is the value of a cookie; an empty one for anything else."""
    try:
        jar = json.loads(urlsafe_b64decode((text or "") + "=" * (-len(text or "") % 4)))
    except ValueError:
        return {}
    return jar if isinstance(jar, dict) else {}
