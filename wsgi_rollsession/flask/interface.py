"""What Flask asks for sessions: one is opened when a request begins, and saved into its response."""

from __future__ import annotations

import logging
from typing import Any

import flask
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin
from flask.signals import got_request_exception

from ..errors import ConfigurationError, RollSessionError
from ..session import Session
from ..sessions import SESSION
from .configuration import Configuration
from .login import USER_ID, FlaskLogin
from .mapping import FlaskSession

log = logging.getLogger("wsgi_rollsession")

#: Where the environ holds the session as Flask has it.
FLASK_SESSION = "wsgi_rollsession.flask"


class FlaskSessionInterface(SessionInterface):
    """What Flask asks for sessions. ``app.session_interface``, made by ``RollSessions``.

    Raises:
        ConfigurationError
    """

    def __init__(self, app: flask.Flask) -> None:
        #: Carries what JSON does not; ``serializer.register`` adds types.
        self.serializer = TaggedJSONSerializer()
        self.configuration = Configuration(app)
        self.sessions = self.configuration.sessions
        self._unshared = not self.sessions.revocations.shared
        self._nested = False
        self._is_unfollowed = False
        #: Flask-Login, if it is there, and says by the identity key who is logged in.
        self._flask_login: FlaskLogin | None = None
        self._follow_flask_login(app)
        got_request_exception.connect(self.failed, app)

    def open_session(self, app: flask.Flask, request: flask.Request) -> FlaskSession:
        """The session of a request, not loaded. Called by Flask."""
        environ = request.environ
        if self._unshared and environ.get("wsgi.multiprocess"):
            raise ConfigurationError(
                "ROLLSESSION_REVOCATIONS: requires a store that all processes share, such as"
                " sqlite:////var/lib/shop/revocations.db, received one that only this process sees;"
                " a logout would not reach the others"
            )
        outer = environ.get(SESSION)
        if outer is not None and not self.sessions.owns(outer):
            core = self._outer(outer)
        else:
            core = self.sessions.begin(environ)
        login = self._flask_login
        passing = None if login is None else login.passing()
        opened = environ[FLASK_SESSION] = FlaskSession(core, self.configuration, self.serializer, passing)
        if login is not None:
            opened.presents_remember_cookie = login.hide_cookie(request)
        return opened

    def save_session(self, app: flask.Flask, session: SessionMixin | None, response: flask.Response) -> None:
        """Put the session's cookies into the response. Called by Flask.

        Raises:
            RollSessionError: as ``Sessions.commit``, if the application has no ``errorhandler`` for it.
        """
        if not isinstance(session, FlaskSession):  # it was not opened: Flask shows the page for that
            return
        environ = flask.request.environ
        if environ.get(SESSION) is not None and not self.sessions.owns(environ[SESSION]):
            session.sync()
            return
        try:
            session.settle()
            held = list(response.headers)
            headers = self.sessions.commit(session.rollsession, response.status, held, environ)
        except RollSessionError as error:
            session.fail()
            if session.has_error_page:  # it is that page which cannot be sent: Flask has another for what it raises
                raise
            session.has_error_page = True
            # Flask shows errorhandler() what views raise, and this is raised later. Without a handler it goes on.
            _replace(response, app.process_response(app.make_response(app.handle_user_exception(error))))
            return
        if headers is not held:
            response.headers.clear()
            response.headers.extend(headers)
        if session.accessed:
            response.vary.add("Cookie")
        if session.presents_remember_cookie and self._flask_login is not None:
            self._flask_login.delete_cookie(response)

    def require_store(self) -> None:
        """``outage="closed"``: a request that presents a session is served only if the store can be asked."""
        session = _current()
        if session is not None and session.rollsession.presented:
            bool(session)  # loads it, which asks

    def failed(self, app: flask.Flask, **_: Any) -> None:
        """Nobody has handled what the application raised: what it did to the session until then is not kept."""
        session = _current()
        if session is not None:
            session.fail()

    def logged_in(self, app: flask.Flask, **_: Any) -> None:
        """``login_user()`` was called."""
        session = _current()
        if session is not None:
            session.logged_in()

    def logged_out(self, app: flask.Flask, **_: Any) -> None:
        """``logout_user()`` was called. It does not touch a session in which it finds nobody, and a newer may live."""
        session = _current()
        if session is not None:
            session.pop(USER_ID, None)

    def not_followed(self, app: flask.Flask, **_: Any) -> None:
        """``login_user()`` was called, and another key than Flask-Login's says who is logged in."""
        if not self._is_unfollowed:
            self._is_unfollowed = True
            log.warning(
                "ROLLSESSION_IDENTITY_KEY is not %r, where Flask-Login keeps its user: logout_user() ends no session,"
                " and the remember-me cookie is accepted",
                USER_ID,
            )

    def _outer(self, outer: Session) -> Session:
        wanted = self.configuration.identity_key
        if outer.identity_key != wanted:
            raise ConfigurationError(
                f"identity_key: requires {wanted!r} in the RollSession around this Flask application, received"
                f" {outer.identity_key!r}; a logout would end nothing. Or remove that RollSession, which is not needed"
            )
        if not self._nested:
            self._nested = True
            log.warning("a RollSession is around this Flask application: its session serves both")
        return outer

    def _follow_flask_login(self, app: flask.Flask) -> None:
        try:
            from flask_login import user_logged_in, user_logged_out
        except ImportError:
            return
        if self.configuration.identity_key != USER_ID:
            user_logged_in.connect(self.not_followed, app)
            return
        user_logged_in.connect(self.logged_in, app)
        user_logged_out.connect(self.logged_out, app)
        keeps_cookie = self.configuration.remember_cookie
        self._flask_login = FlaskLogin(app, keeps_cookie=keeps_cookie)
        if keeps_cookie:
            log.warning(
                "ROLLSESSION_REMEMBER_COOKIE: Flask-Login's remember-me cookie is a signed user id;"
                " a copy of it logs in again after a logout, and after revoke()"
            )


def _current() -> FlaskSession | None:
    """The session of the current request, if it has been opened."""
    found: FlaskSession | None = flask.request.environ.get(FLASK_SESSION) if flask.has_request_context() else None
    return found


def _replace(response: flask.Response, other: flask.Response) -> None:
    """Let *response*, which Flask is about to return, be *other*."""
    if hasattr(response.response, "close"):
        response.call_on_close(response.response.close)
    response.response, response.direct_passthrough = other.response, other.direct_passthrough
    response.status, response.headers = other.status, other.headers
    response.call_on_close(other.close)
