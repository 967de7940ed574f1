"""A pytest plugin for the test suites of Flask and its extensions: their applications get this package's sessions.

Run by tests/frameworks/upstream.py. An application without a secret key has no sessions, as in Flask; every other one
is given the adapter when it opens its first session, and again whenever its configuration has changed since.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

import flask
from flask.sessions import SecureCookieSessionInterface, SessionMixin

from wsgi_rollsession.flask import FlaskSessionInterface, RollSessions
from wsgi_rollsession.keys import PREFIX

from .upstream_hooks import (
    WANTED,
    opened,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

__all__ = ["pytest_collection_modifyitems", "pytest_sessionfinish", "pytest_terminal_summary"]

_STATE = "rollsession-upstream"


class Adapted(SecureCookieSessionInterface):
    """Flask's own, until an application has a secret key."""

    def open_session(self, app: flask.Flask, request: flask.Request) -> Any:
        """As Flask; the adapter's session, if it has a secret key."""
        interface = adapted(app)
        return super().open_session(app, request) if interface is None else interface.open_session(app, request)

    def save_session(self, app: flask.Flask, session: SessionMixin, response: flask.Response) -> None:
        """As ``open_session``."""
        interface = adapted(app)
        if interface is None:
            super().save_session(app, session, response)
        else:
            interface.save_session(app, session, response)


def adapted(app: flask.Flask) -> FlaskSessionInterface | None:
    """The adapter for *app*, by its configuration of now."""
    if not app.secret_key or type(app).session_interface is not _adapted:
        return None
    opened.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])
    secrets = [app.secret_key, *(app.config.get("SECRET_KEY_FALLBACKS") or ())]
    app.config["ROLLSESSION_KEYS"] = [_key(secret) for secret in secrets]
    app.config["ROLLSESSION_REVOCATIONS"] = "memory://"
    app.config["ROLLSESSION_INSECURE_HTTP"] = not app.config["SESSION_COOKIE_SECURE"]
    app.config.update(WANTED["configuration"])
    names = [key for key in app.config if key.startswith(("ROLLSESSION_", "SESSION_", "PERMANENT_", "APPLICATION_"))]
    configuration = {key: app.config[key] for key in names}
    held = app.extensions.get(_STATE)
    if held is None or held[0] != configuration:
        RollSessions(app)
        interface: Any = app.session_interface
        del app.session_interface  # back to the class's, so that the next session comes here too
        held = app.extensions[_STATE] = configuration, interface
    found: FlaskSessionInterface = held[1]
    return found


def _key(secret: str | bytes) -> str:
    raw = secret.encode() if isinstance(secret, str) else secret
    return PREFIX + urlsafe_b64encode(sha256(raw).digest()).decode().rstrip("=")


_adapted = flask.Flask.session_interface = Adapted()
