"""Flask's own cookie session, Flask-Session on Redis, and this project's adapter."""

from __future__ import annotations

from typing import Any

from ..tiny import BareVisit, Lab, act
from . import Contender
from .redis_client import gated_redis
from .rollsession import adapter, finished, session_options


class FlaskVisit:
    def __init__(self, application: Any) -> None:
        from flask import session

        self.session = session
        self._application = application

    def renew(self, user: str) -> None:
        self.session.permanent = True
        self.elevate()

    def elevate(self) -> None:
        # https://flask-session.readthedocs.io/en/latest/security.html#session-fixation. Flask's own has no id.
        interface = self._application.session_interface
        if hasattr(interface, "regenerate"):
            interface.regenerate(self.session)

    def end(self) -> None:
        self.session.clear()

    def leave(self) -> None:
        # https://flask.palletsprojects.com/en/stable/quickstart/#sessions; Flask-Session shows no logout of its own.
        self.session.pop("user", None)


class FlaskRollVisit(FlaskVisit):
    def renew(self, user: str) -> None:
        self.session.permanent = True  # storing the user is the login

    def elevate(self) -> None:
        self.session.regenerate()

    def end(self) -> None:
        self.session.invalidate()


def build(lab: Lab, store: str) -> Any:
    from flask import Flask, Response, request
    from flask.sessions import SessionInterface

    application = Flask("contender")
    application.secret_key = "s" * 32
    application.config.update(
        SESSION_REFRESH_EACH_REQUEST=lab.rolls, SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax"
    )

    visit_of = FlaskVisit

    class NoSessions(SessionInterface):
        def open_session(self, app: Any, request: Any) -> Any:
            return {}

        def save_session(self, app: Any, session: Any, response: Any) -> None:
            pass

    if lab.bare:
        application.session_interface = NoSessions()
    elif store == "redis":
        from flask_session import Session

        application.config.update(SESSION_TYPE="redis", SESSION_REDIS=gated_redis(lab), SESSION_PERMANENT=True)
        Session(application)
    elif store == "rollsession":
        from wsgi_rollsession import SessionConflict
        from wsgi_rollsession.flask import RollSessions

        options = session_options(lab)
        application.config.update({f"ROLLSESSION_{name.upper()}": value for name, value in options.items()})
        finished(application, RollSessions(application).sessions, options, lab)
        application.register_error_handler(SessionConflict, lambda error: ("", 409))
        visit_of = FlaskRollVisit

    @application.route("/<path:path>")
    def visit(path: str) -> Any:
        visit = BareVisit() if lab.bare else visit_of(application)
        return Response(act(f"/{path}", request.query_string.decode(), visit, lab.gates), mimetype="application/json")

    return application


CONTENDERS = [
    Contender("flask", "Flask", "cookie session, permanent (signed)", lambda lab: build(lab, "cookie")),
    adapter("flask", lambda lab: build(lab, "rollsession")),
    Contender(
        "flask-session-redis",
        "Flask-Session",
        "redis, permanent",
        lambda lab: build(lab, "redis"),
        stored=True,
        redis=True,
    ),
]
