"""For tests: SESSION_ENGINE = "wsgi_rollsession.django.testing" makes Django's test client work as it stands.

``Client.session``, ``login()``, ``force_login()`` and ``logout()`` know one cookie, of the name SESSION_COOKIE_NAME,
and take its value for the key of a session that they may write. So in a test that cookie is a name for the cookies
that a browser would hold, which are kept here, in the process that runs the tests.

It can only be imported while Django's test environment is set up: a server with this setting does not start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.crypto import get_random_string

from .. import Session
from ..cookies import SetCookie
from ..sessions import SESSION
from . import store
from .configuration import is_testing, sessions
from .middleware import put

if not is_testing():
    raise ImproperlyConfigured(f"SESSION_ENGINE: {__name__} is for tests, and this is none; remove the setting")

Jar = dict[str, str]

#: What a browser would hold, by the value of the one cookie.
_jars: dict[str, Jar] = {}


class SessionStore(store.SessionStore):
    """What the test client makes of SESSION_ENGINE: a session that can be opened by its ``session_key``, and saved."""

    session_key = SessionBase.session_key

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(_begun(session_key))
        self._session_key = session_key

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError:
            self._begin_again()
            raise
        self._receive()

    def load(self) -> dict[str, object]:
        data = super().load()
        if not self.rollsession.version:
            self._session_key = None
        return data

    def cycle_key(self) -> None:
        held = self.session_key
        super().cycle_key()
        self._session_key = None
        self.save()
        _jars.pop(held or "", None)

    def flush(self) -> None:
        super().flush()
        self._receive()
        self._session_key = None

    def exists(self, session_key: str | None) -> bool:
        return _begun(session_key).check()

    def delete(self, session_key: str | None = None) -> None:
        _begun(session_key or self.session_key).invalidate()

    def _receive(self) -> None:
        """Receive the response, and go on as in the next request."""
        _, cookies = sessions().commit_parts(self.rollsession, "200 OK", [], {})
        key = self.session_key
        self._session_key = _keep(received(_jars.get(key or "", {}), cookies), key if key in _jars else None)
        looked, accessed = self._looked, self.accessed
        self._begin_again()
        if looked:  # a session that somebody else ends from now on must not be saved again
            self._get_session()
            self.accessed = accessed

    def _begin_again(self) -> None:
        self.rollsession, self._looked = _begun(self.session_key), False


def begin(request: HttpRequest) -> store.SessionStore:
    """The session of a request by the test client; by another client, of its own cookies."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if key is None:
        return store.SessionStore(sessions().begin(request.META))
    session = request.META[SESSION] = _begun(key)
    return store.SessionStore(session)


def send(
    request: HttpRequest, session: store.SessionStore, response: HttpResponseBase, cookies: Sequence[SetCookie]
) -> None:
    """Have the one cookie stand for what a browser would hold after the response."""
    name = settings.SESSION_COOKIE_NAME
    key = request.COOKIES.get(name)
    if key is None and session.rollsession.presented:
        return put(response, cookies)
    # After a login, a logout and the like it is another key: who still has the old one has what a thief would have.
    is_next = any(not each.value or each.name.endswith("-slot") for each in cookies)
    key = _keep(received(_jars.get(key or "", {}), cookies), key if key in _jars and not is_next else None)
    ages = [each.max_age for each in cookies if each.value and not each.name.endswith("-slot")]
    put(response, [cookies[0]._replace(name=name, value=key, max_age=ages[0] if ages else None)])


def _begun(key: str | None) -> Session:
    jar = _jars.get(key or "", {})
    return sessions().begin_header("; ".join(f"{name}={value}" for name, value in jar.items()))


def _keep(jar: Jar, key: str | None) -> str:
    """Keep *jar*, under *key* or a new one."""
    key = key or get_random_string(32)
    _jars[key] = jar
    return key


def received(jar: Mapping[str, str], cookies: Sequence[SetCookie]) -> Jar:
    """What a browser that held *jar* holds after a response."""
    jar = dict(jar)
    for each in cookies:
        if each.value:
            jar[each.name] = each.value
        else:
            jar.pop(each.name, None)
    return jar
