"""A Flask application with Flask-Login for the tests over HTTP, mounted once for each configuration.

``gate=NAME`` and ``confirm_gate=NAME`` are those of tests/http_app.py: they hold a request that has looked at its
session, or that the session layer has asked the store for. ``elevate`` has ``late_gate`` too: it holds it afterwards.
"""

from __future__ import annotations

import json
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import flask
import flask_login

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.flask import RollSessions, session

from ..http_app import CONFIG, Site, hold

_confirm_gate: ContextVar[Path | None] = ContextVar("confirm_gate", default=None)


class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    """Anybody."""

    def __init__(self, name: str) -> None:
        self.id = name


def application(gates: Path, **options: Any) -> flask.Flask:
    """The application. *options* are those of ``Sessions``."""
    app = flask.Flask("shop")
    app.secret_key = "of Flask-Login"
    app.config.update({f"ROLLSESSION_{name.upper()}": value for name, value in options.items()})
    sessions = RollSessions(app).sessions
    _gate(sessions.revocations)
    flask_login.LoginManager(app).user_loader(User)

    @app.before_request
    def wait() -> None:
        arguments = flask.request.args
        if "gate" in arguments:
            flask.session.get("_user_id")
            hold(gates / arguments["gate"])
        if "confirm_gate" in arguments:
            _confirm_gate.set(gates / arguments["confirm_gate"])

    @app.errorhandler(SessionConflict)
    def conflict(error: Exception) -> flask.Response:
        return answer("conflict")

    @app.route("/login")
    def login() -> flask.Response:
        flask_login.login_user(User(flask.request.args["user"]))
        flask.session["pad"] = "x" * int(flask.request.args.get("size", 0))
        return answer(None)

    @app.route("/logout")
    def logout() -> flask.Response:
        flask_login.logout_user()
        return answer(None)

    @app.route("/read")
    def read() -> flask.Response:
        key = flask.request.args.get("key", "user")
        if key != "user":
            return answer(flask.session.get(key))
        return answer(flask_login.current_user.id if flask_login.current_user.is_authenticated else None)

    @app.route("/write")
    def write() -> flask.Response:
        flask.session[flask.request.args["key"]] = flask.request.args["value"]
        return answer(None)

    @app.route("/elevate")
    def elevate() -> flask.Response:
        session.regenerate()
        flask.session["role"] = "admin"
        if "late_gate" in flask.request.args:
            hold(gates / flask.request.args["late_gate"])
        return answer(None)

    return app


def answer(result: Any) -> flask.Response:
    """As the applications of tests/http_app.py answer."""
    return flask.jsonify(pid=os.getpid(), result=result)


def _gate(store: Any) -> None:
    for name in ("lookup_now", "compare_and_raise"):
        ask = getattr(store, name)

        def ask_then_hold(*arguments: Any, ask: Any = ask) -> Any:
            found = ask(*arguments)
            gate = _confirm_gate.get()
            if gate is not None:
                _confirm_gate.set(None)
                hold(gate)
            return found

        setattr(store, name, ask_then_hold)


def create() -> Site:
    """The site that the environment describes."""
    config = json.loads(Path(os.environ[CONFIG]).read_text())
    mounts: dict[str, Any] = {
        name: application(Path(config["gates"]), **options) for name, options in config["mounts"].items()
    }
    return Site(mounts)
