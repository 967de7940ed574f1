"""A pytest plugin for Pyramid's own tests: sessions are this package's. Run by tests/frameworks/upstream_pyramid.py.

``SignedCookieSessionFactory`` makes the adapter's sessions, and the cookies that the tests sign for it move in. Dicts
that stand for sessions elsewhere, and ``DummySession``, become the adapter's sessions with these data.

It imports nothing of ``tests``, for that is Pyramid's here.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pyramid.session
import pyramid.testing
from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from upstream_hooks import WANTED, opened, pytest_sessionfinish, pytest_terminal_summary
from upstream_hooks import pytest_collection_modifyitems as exclude

from wsgi_rollsession import Sessions, generate_key
from wsgi_rollsession.migration import PyramidCookie
from wsgi_rollsession.testing import fresh_revocations

__all__ = ["WANTED", "pytest_collection_modifyitems", "pytest_sessionfinish", "pytest_terminal_summary"]

KEY = generate_key()


def adapted(
    secret: Any,
    cookie_name: str = "session",
    max_age: Any = None,
    path: str = "/",
    domain: str | None = None,
    secure: bool = False,
    httponly: bool = False,
    samesite: str = "Lax",
    set_on_exception: bool = True,
    timeout: Any = 1200,
    reissue_time: Any = 0,
    hashalg: str = "sha512",
    salt: Any = "pyramid.session.",
    serializer: Any = None,
) -> Any:
    """``SignedCookieSessionFactory``, by the adapter. A timeout of None is ten years."""
    old = PyramidCookie(
        secret,
        switched_by="2200-01-01",
        lifetime="3650d" if timeout is None else timeout,
        cookie_name=cookie_name,
        hashalg=hashalg,
        salt=salt,
    )
    options: dict[str, Any] = {"rolling": False} if reissue_time is None else {"renew_after": reissue_time}
    sessions = Sessions(
        keys=KEY,
        revocations=fresh_revocations(),
        identity_key="auth.userid",
        cookie_path=path,
        cookie_domain=domain,
        samesite=samesite,
        idle_timeout=timeout,
        moving_in=[old],
        **options,
    )
    factory = _factory(sessions, set_on_exception=set_on_exception)

    def make(request: Any) -> Any:
        cookies = getattr(request, "cookies", {})
        texts = {name: value if isinstance(value, str) else value.decode() for name, value in cookies.items()}
        request.environ["HTTP_COOKIE"] = "; ".join(f"{name}={value}" for name, value in texts.items())
        return factory(request)

    return make


def _factory(sessions: Sessions, *, set_on_exception: bool = True) -> Any:
    settings = {"rollsession.sessions": sessions, "rollsession.set_on_exception": set_on_exception}
    config = Configurator(settings=settings)
    config.include("wsgi_rollsession.pyramid")
    config.commit()
    factory = config.registry.getUtility(ISessionFactory)

    def make(request: Any) -> Any:
        opened.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])
        return factory(request)

    return make


_plain = _factory(Sessions(keys=KEY, revocations=fresh_revocations(), identity_key="userid"))


def session(data: Any = ()) -> Any:
    """A session that holds *data*."""
    nobody = SimpleNamespace(environ={}, add_response_callback=[].append, add_finished_callback=[].append)
    made = _plain(nobody)
    made.update(data)
    return made


class _Session:
    """An attribute that takes a dict for a session."""

    def __get__(self, request: Any, owner: Any) -> Any:
        return self if request is None else request.__dict__.get("session")

    def __set__(self, request: Any, value: Any) -> None:
        request.__dict__["session"] = session(value) if type(value) is dict else value


pyramid.session.SignedCookieSessionFactory = adapted
pyramid.testing.DummySession = session


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """The tests' own requests, too, get the adapter's sessions."""
    for module in {item.module for item in items}:
        name = module.__name__.rpartition(".")[2]
        if name in ("test_csrf", "test_authentication"):
            module.DummyRequest.session = _Session()
        if hasattr(module, "DummySession"):  # it has its token under another key
            module.DummySession = lambda data: session({"_csrft_": data["csrf_token"]})
        helper = getattr(module, "TestSessionAuthenticationHelper", None)
        if helper is not None:
            helper._makeRequest = lambda self, data=(): SimpleNamespace(session=session(data or {}))
    exclude(items)
