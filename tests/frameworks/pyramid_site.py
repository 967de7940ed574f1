"""A Pyramid application for the tests over HTTP, with ``remember()`` and ``forget()``: as ``flask_site``."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import forget, remember

from wsgi_rollsession import RollSession, SessionConflict, Sessions

from ..http_app import Site, arrive, described, finish, gated, told
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
    return answer(None)


def untouched(request: Any) -> Response:
    return answer(None)


def conflict(error: Exception, request: Any) -> Response:
    return answer("conflict")


def answer(result: Any, headers: Any = ()) -> Response:
    """As the applications of tests/http_app.py answer."""
    response = Response(told(result), content_type="application/json")
    response.headers.extend(headers)
    return response


def waiting(view: Any) -> Any:
    """A view behind the gates."""

    def behind(request: Any) -> Any:
        gates, _ = described()
        arrive(gates, request.GET, lambda: request.session.get("auth.userid"))
        response = view(request)
        finish(gates, request.GET)
        return response

    return behind


def application(*, around: bool = False, **options: Any) -> Any:
    """The application, by its adapter alone or with the filter *around*. *options* are those of ``Sessions``."""
    options.setdefault("identity_key", "auth.userid")
    sessions = None if around else Sessions(**options)
    config = Configurator(settings={} if sessions is None else {"rollsession.sessions": sessions})
    config.include("wsgi_rollsession.pyramid")
    config.set_security_policy(Policy())
    views = {each.__name__: each for each in (login, logout, read, write, elevate, untouched)}
    for name, view in {**views, "leave": logout}.items():
        config.add_route(name, f"/{name}")
        config.add_view(waiting(view), route_name=name)
    config.add_exception_view(conflict, context=SessionConflict)
    made = config.make_wsgi_app()
    if sessions is None:
        made = RollSession(made, **options)
        sessions = made.sessions
    gated(sessions)
    return made


def create() -> Site:
    """The site that the environment describes."""
    return Site({name: application(**options) for name, options in described()[1].items()})
