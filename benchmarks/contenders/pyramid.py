"""Pyramid's session factories, WebOb's cookie profile under them, and this project's adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tiny import BareVisit, Lab, act, plain_app
from . import Contender
from .redis_client import gated_redis
from .rollsession import adapter, finished, session_options

#: Seconds of age from which a cookie is re-issued where nothing is to roll.
LATER = 600


class PyramidVisit:
    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def session(self) -> Any:
        return self._request.session

    def renew(self, user: str) -> None:
        self.session.invalidate()  # Pyramid's documented protection against session fixation

    def elevate(self) -> None:
        # pyramid.interfaces.ISession.invalidate: a new session is created to store the data, "such as in the case of
        # changing privilege levels".
        kept = dict(self.session)
        self.session.invalidate()
        self.session.update(kept)

    def end(self) -> None:
        self.session.invalidate()

    def leave(self) -> None:
        # https://docs.pylonsproject.org/projects/pyramid/en/latest/narr/security.html#writing-a-security-policy:
        # forget(), both the policy spelled out and the SessionAuthenticationHelper, which removes the key.
        if "user" in self.session:
            del self.session["user"]


class PyramidRollVisit(PyramidVisit):
    def renew(self, user: str) -> None:
        pass  # storing the user is the login

    def elevate(self) -> None:
        self.session.regenerate()


def build(lab: Lab, make_factory: Callable[[Lab], Any] | None) -> Any:
    """A Pyramid application with one route; without a factory, on the adapter. Bare: the same without sessions."""
    from pyramid.config import Configurator
    from pyramid.response import Response

    visit_of = PyramidVisit if make_factory else PyramidRollVisit

    def view(request: Any) -> Any:
        visit = BareVisit() if lab.bare else visit_of(request)
        body = act(request.path_info, request.query_string, visit, lab.gates)
        return Response(body, content_type="application/json")

    with Configurator() as configurator:
        configurator.add_route("all", "/*path")
        configurator.add_view(view, route_name="all")
        if lab.bare:
            return configurator.make_wsgi_app()
        if make_factory:
            configurator.set_session_factory(make_factory(lab))
            return configurator.make_wsgi_app()
        from wsgi_rollsession import SessionConflict, Sessions

        options = session_options(lab)
        sessions = Sessions(**options)
        configurator.add_settings({"rollsession.sessions": sessions})
        configurator.include("wsgi_rollsession.pyramid")
        configurator.add_exception_view(lambda error, request: Response(status=409), context=SessionConflict)
    return finished(configurator.make_wsgi_app(), sessions, options, lab)


def signed(lab: Lab) -> Any:
    from pyramid.session import JSONSerializer, SignedCookieSessionFactory

    return SignedCookieSessionFactory(
        "s" * 64,
        serializer=JSONSerializer(),
        timeout=3600,
        max_age=3600,
        reissue_time=0 if lab.rolls else LATER,
        secure=True,
        httponly=True,
    )


def nacl(lab: Lab) -> Any:
    from pyramid.session import JSONSerializer
    from pyramid_nacl_session import EncryptedCookieSessionFactory

    return EncryptedCookieSessionFactory(
        b"k" * 32,
        serializer=JSONSerializer(),
        timeout=3600,
        max_age=3600,
        reissue_time=0 if lab.rolls else LATER,
        secure=True,
        httponly=True,
    )


def redis_sessions(lab: Lab) -> Any:
    from pyramid_session_redis import RedisSessionFactory

    client = gated_redis(lab)
    return RedisSessionFactory("s" * 64, redis_client_callable=lambda request, **options: client, cookie_secure=True)


class ProfileVisit:
    """A session of one's own over ``webob.cookies.SignedCookieProfile``: the profile seals, the application rolls."""

    def __init__(self, profile: Any, request: Any) -> None:
        self._profile, self._request = profile.bind(request), request
        self._session: dict[str, Any] | None = None
        self._before: dict[str, Any] | None = None

    @property
    def session(self) -> dict[str, Any]:
        if self._session is None:
            self._before = self._profile.get_value()
            self._session = dict(self._before or {})
        return self._session

    def renew(self, user: str) -> None:
        self.session.clear()

    def elevate(self) -> None:
        pass

    def end(self) -> None:
        self.session.clear()

    #: https://docs.pylonsproject.org/projects/webob/en/stable/api/cookies.html, make_cookie: None deletes the cookie.
    leave = end

    def headers(self, roll: bool) -> list[tuple[str, str]]:
        if self._session is None:
            return []
        if not self._session:
            return self._profile.get_headers(None, max_age=0) if self._before is not None else []
        if roll or self._session != self._before:
            return self._profile.get_headers(self._session)
        return []


def build_profile(lab: Lab) -> Any:
    if lab.bare:
        return plain_app(lambda environ: BareVisit(), lab.gates)
    from webob import Request
    from webob.cookies import SignedCookieProfile

    profile = SignedCookieProfile(
        "s" * 64, "contender", "session", secure=True, max_age=3600, httponly=True, samesite=b"Lax"
    )

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        visit = ProfileVisit(profile, Request(environ))
        body = act(environ["PATH_INFO"], environ["QUERY_STRING"], visit, lab.gates)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers + visit.headers(lab.rolls))
        return [body]

    return application


CONTENDERS = [
    Contender(
        "pyramid-signed",
        "pyramid",
        "SignedCookieSessionFactory, reissue_time=0, JSON",
        lambda lab: build(lab, signed),
    ),
    adapter("pyramid", lambda lab: build(lab, None)),
    Contender(
        "pyramid-nacl",
        "pyramid-nacl-session",
        "reissue_time=0, JSON",
        lambda lab: build(lab, nacl),
        encrypts=True,
    ),
    Contender(
        "pyramid-session-redis",
        "pyramid_session_redis",
        "defaults",
        lambda lab: build(lab, redis_sessions),
        stored=True,
        redis=True,
    ),
    Contender("webob-profile", "WebOb", "SignedCookieProfile, sent on every response", build_profile),
]
