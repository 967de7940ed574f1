"""An application that has left Beaker, for the tests over HTTP: as ``flask_site``."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.beaker import SessionMiddleware

from ..http_app import Site, arrive, described, finish, gated, told


def shop(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The application."""
    session, query = environ["beaker.session"], dict(parse_qsl(environ.get("QUERY_STRING", "")))
    gates, _ = described()
    arrive(gates, query, lambda: session.get("user"))
    try:
        result = act(environ["PATH_INFO"].strip("/"), session, query)
        finish(gates, query)
        return answer(result, start_response)
    except SessionConflict:
        return answer("conflict", start_response)


def act(operation: str, session: Any, query: dict[str, str]) -> Any:
    """What an application with Beaker does."""
    if operation == "untouched":
        return None
    if operation == "read":
        return session.get(query.get("key", "user"))
    if operation == "login":
        session["user"] = query["user"]
        session["pad"] = "x" * int(query.get("size", 0))
    elif operation in ("leave", "logout"):
        session.pop("user", None)
    elif operation == "write":
        session[query["key"]] = query["value"]
    elif operation == "elevate":
        session.regenerate_id()
        session["role"] = "admin"
    session.save()
    return None


def answer(result: Any, start_response: Any) -> list[bytes]:
    """As the applications of tests/http_app.py answer."""
    body = told(result)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def create() -> Site:
    """The site that the environment describes."""
    mounts: dict[str, Any] = {}
    for name, options in described()[1].items():
        mounts[name] = SessionMiddleware(shop, identity_key="user", **options)
        gated(mounts[name].sessions)
    return Site(mounts)
