"""A Pyramid application for the tests over HTTP, with ``remember()`` and ``forget()``: as ``flask_site``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import forget, remember

from wsgi_rollsession import RollSession, SessionConflict, Sessions

from ..http_app import CONFIG, Site, _confirm_gate, _then_hold, hold
from .test_pyramid import Policy


def login(request: Any) -> Response:
    headers = remember(request, request.GET["user"])
    request.session["pad"] = "x" * int(request.GET.get("size", 0))
    return answer(None, headers)


def logout(request: Any) -> Response:
    return answer(None, forget(request))


def read(request: Any) -> Response:
    key = request.GET.get("key", "user")
    return answer(request.authenticated_userid if key == "user" else request.session.get(key))


def write(request: Any) -> Response:
    request.session[request.GET["key"]] = request.GET["value"]
    return answer(None)


def elevate(request: Any) -> Response:
    request.session.regenerate()
    request.session["role"] = "admin"
    if "late_gate" in request.GET:
        hold(_gates() / request.GET["late_gate"])
    return answer(None)


def conflict(error: Exception, request: Any) -> Response:
    return answer("conflict")


def answer(result: Any, headers: Any = ()) -> Response:
    """As the applications of tests/http_app.py answer."""
    response = Response(json_body={"pid": os.getpid(), "result": result})
    response.headers.extend(headers)
    return response


def waiting(view: Any) -> Any:
    """A view behind the gates."""

    def behind(request: Any) -> Any:
        if "gate" in request.GET:
            request.session.get("auth.userid")
            hold(_gates() / request.GET["gate"])
        if "confirm_gate" in request.GET:
            _confirm_gate.set(_gates() / request.GET["confirm_gate"])
        return view(request)

    return behind


def application(*, around: bool = False, **options: Any) -> Any:
    """The application, by its adapter alone or with the filter *around*. *options* are those of ``Sessions``."""
    options.setdefault("identity_key", "auth.userid")
    sessions = None if around else Sessions(**options)
    config = Configurator(settings={} if sessions is None else {"rollsession.sessions": sessions})
    config.include("wsgi_rollsession.pyramid")
    config.set_security_policy(Policy())
    for view in (login, logout, read, write, elevate):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(waiting(view), route_name=view.__name__)
    config.add_exception_view(conflict, context=SessionConflict)
    made = config.make_wsgi_app()
    if sessions is None:
        made = RollSession(made, **options)
        sessions = made.sessions
    gated(sessions)
    return made


def gated(sessions: Sessions) -> None:
    """Have requests wait, where a test wants it, after the session layer has asked the store."""
    store: Any = sessions.revocations
    for name in ("lookup_now", "compare_and_raise"):
        setattr(store, name, _then_hold(getattr(store, name)))


def _gates() -> Path:
    return Path(json.loads(Path(os.environ[CONFIG]).read_text())["gates"])


def create() -> Site:
    """The site that the environment describes."""
    config = json.loads(Path(os.environ[CONFIG]).read_text())
    return Site({name: application(**options) for name, options in config["mounts"].items()})
