"""``RollSessions``: the Flask extension."""

from __future__ import annotations

from typing import Any, cast

import flask

from ..errors import StoreUnavailable
from ..sessions import Sessions
from .interface import FlaskSessionInterface


class RollSessions:
    """Gives a Flask application sessions that stay logged out.

        app.config.update(ROLLSESSION_KEYS=…, ROLLSESSION_REVOCATIONS="sqlite:////var/lib/shop/revocations.db")
        rollsessions = RollSessions(app)

    The configuration is read once, here or in ``init_app``.

    Args:
        app: the application, if it is there already.

    Raises:
        ConfigurationError: names the key, what it requires and what it received.
    """

    def __init__(self, app: flask.Flask | None = None) -> None:
        self._app: flask.Flask | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Give *app* its sessions. Raises ``ConfigurationError``."""
        interface = FlaskSessionInterface(app)
        app.session_interface = interface
        app.extensions["rollsession"] = interface
        if interface.sessions.settings.outage.value == "closed":
            app.before_request(interface.require_store)
        handlers = app.error_handler_spec[None][None]
        handlers.setdefault(StoreUnavailable, _unavailable)
        self._app = self._app or app

    @property
    def sessions(self) -> Sessions:
        """Those of the current application; outside of any, of the first that was initialised."""
        app = flask.current_app if flask.has_app_context() else self._app
        interface = None if app is None else app.extensions.get("rollsession")
        if interface is None:
            raise RuntimeError("RollSessions.init_app() was not called with this application")
        return cast(FlaskSessionInterface, interface).sessions

    def revoke(self, tag: str, *tags: str) -> None:
        """Log out everywhere: ``revoke("user:42")``. See ``Sessions.revoke``."""
        self.sessions.revoke(tag, *tags)

    def revoke_session(self, session_id: str) -> None:
        """See ``Sessions.revoke_session``."""
        self.sessions.revoke_session(session_id)

    def revoke_everything(self) -> None:
        """See ``Sessions.revoke_everything``."""
        self.sessions.revoke_everything()


def _unavailable(error: Exception) -> Any:
    """For an application without an ``errorhandler`` for it, or what it is a kind of. The store has logged why."""
    handlers = flask.current_app.error_handler_spec[None][None]
    for kind in StoreUnavailable.__mro__[1:]:
        if kind in handlers:
            return flask.current_app.ensure_sync(handlers[kind])(error)
    body = "The session cannot be checked at the moment. Please try again.\n"
    headers = {"Cache-Control": "no-store", "Retry-After": "1"}
    return flask.Response(body, 503, headers, mimetype="text/plain")
