"""A Flask application with Flask-Login for the tests over HTTP. The paths and gates are those of tests/http_app.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask
import flask_login

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.flask import RollSessions, session

from ..http_app import Site, arrive, described, finish, gated, told


class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    """Anybody."""

    def __init__(self, name: str) -> None:
        self.id = name


def application(gates: Path, **options: Any) -> flask.Flask:
    """The application. *options* are those of ``Sessions``."""
    app = flask.Flask("shop")
    app.secret_key = "of Flask-Login"
    app.config.update({f"ROLLSESSION_{name.upper()}": value for name, value in options.items()})
    gated(RollSessions(app).sessions)
    flask_login.LoginManager(app).user_loader(User)

    @app.before_request
    def wait() -> None:
        arrive(gates, flask.request.args, lambda: flask.session.get("_user_id"))

    @app.after_request
    def wait_again(response: flask.Response) -> flask.Response:
        finish(gates, flask.request.args)
        return response

    @app.errorhandler(SessionConflict)
    def conflict(error: Exception) -> flask.Response:
        return answer("conflict")

    @app.route("/login")
    def login() -> flask.Response:
        flask_login.login_user(User(flask.request.args["user"]))
        flask.session["pad"] = "x" * int(flask.request.args.get("size", 0))
        return answer(None)

    @app.route("/leave")
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
        return answer(None)

    @app.route("/untouched")
    def untouched() -> flask.Response:
        return answer(None)

    return app


def answer(result: Any) -> flask.Response:
    """As the applications of tests/http_app.py answer."""
    return flask.Response(told(result), mimetype="application/json")


def create() -> Site:
    """The site that the environment describes."""
    gates, mounts = described()
    return Site({name: application(gates, **options) for name, options in mounts.items()})
