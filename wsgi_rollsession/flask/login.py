"""Flask-Login: what it tells itself in the session during one request, and its remember-me cookie."""

from __future__ import annotations

from typing import Any

import flask
from werkzeug.datastructures import ImmutableMultiDict

#: The key under which it keeps who is logged in.
USER_ID = "_user_id"
#: The key under which it says, until the response, what becomes of its cookie; and for how long that is to last.
REMEMBER, REMEMBER_S = "_remember", "_remember_seconds"


class Passing(dict[str, Any]):
    """What Flask-Login has put under ``REMEMBER``, until the response. Being elsewhere than in the session, it costs no
    loading: Flask-Login looks for it in every request, also for a static file, or when the store does not answer.

    Args:
        hides_cookie: its cookie is not set. What it wants to be remembered is ``wanted`` of the login instead.
    """

    __slots__ = ("_hides_cookie", "wanted")

    def __init__(self, *, hides_cookie: bool) -> None:
        self._hides_cookie = hides_cookie
        #: Arguments for ``regenerate()``.
        self.wanted: dict[str, Any] = {}

    def takes(self, key: str, value: Any) -> bool:
        """Keep here what is stored in the session, if it belongs here."""
        if key == REMEMBER:
            if value == "set" and self._hides_cookie:
                self.wanted["persistent"] = True
            else:
                self[key] = value
            return True
        if key == REMEMBER_S and self._hides_cookie:
            self.wanted["absolute_timeout"] = max(int(value), 1)
            return True
        return False


class FlaskLogin:
    """Flask-Login beside the sessions of an application.

    Args:
        app: the application.
        keeps_cookie: its remember-me cookie is set and accepted, as without these sessions.
    """

    def __init__(self, app: flask.Flask, *, keeps_cookie: bool) -> None:
        self._config = app.config
        self._keeps_cookie = keeps_cookie

    def passing(self) -> Passing:
        """What a request begins with."""
        return Passing(hides_cookie=not self._keeps_cookie)

    def hide_cookie(self, request: flask.Request) -> bool:
        """Have nobody find a remember-me cookie that is not accepted: it logs in whoever shows it, after a logout and
        after ``revoke()`` too. Whether there was one.
        """
        if self._keeps_cookie or "HTTP_COOKIE" not in request.environ:
            return False
        name = self._name
        if f"{name}=" not in request.environ["HTTP_COOKIE"] or name not in request.cookies:
            return False
        others = [(key, value) for key, value in request.cookies.items(multi=True) if key != name]
        request.cookies = ImmutableMultiDict(others)
        return True

    def delete_cookie(self, response: flask.Response) -> None:
        """Have the browser delete a remember-me cookie that is not accepted."""
        path = self._config.get("REMEMBER_COOKIE_PATH", "/")
        response.delete_cookie(self._name, path=path, domain=self._config.get("REMEMBER_COOKIE_DOMAIN"))

    @property
    def _name(self) -> str:
        """Of its cookie, as Flask-Login asks for it: in each request."""
        name: str = self._config.get("REMEMBER_COOKIE_NAME", "remember_token")
        return name
