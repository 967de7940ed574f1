"""An application that has left Beaker, for the tests over HTTP: as ``flask_site``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from wsgi_rollsession import SessionConflict
from wsgi_rollsession.beaker import SessionMiddleware

from ..http_app import CONFIG, Site, _confirm_gate, hold
from .pyramid_site import gated


def shop(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The application."""
    session, query = environ["beaker.session"], dict(parse_qsl(environ.get("QUERY_STRING", "")))
    gates = Path(json.loads(Path(os.environ[CONFIG]).read_text())["gates"])
    if "gate" in query:
        session.get("user")
        hold(gates / query["gate"])
    if "confirm_gate" in query:
        _confirm_gate.set(gates / query["confirm_gate"])
    try:
        result = act(environ["PATH_INFO"].strip("/"), session, query)
        if "late_gate" in query:
            hold(gates / query["late_gate"])
        return answer(result, start_response)
    except SessionConflict:
        return answer("conflict", start_response)


def act(operation: str, session: Any, query: dict[str, str]) -> Any:
    """What an application with Beaker does."""
    if operation == "read":
        return session.get(query.get("key", "user"))
    if operation == "login":
        session["user"] = query["user"]
        session["pad"] = "x" * int(query.get("size", 0))
    elif operation == "logout":
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
    body = json.dumps({"pid": os.getpid(), "result": result}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def create() -> Site:
    """The site that the environment describes."""
    config = json.loads(Path(os.environ[CONFIG]).read_text())
    mounts: dict[str, Any] = {}
    for name, options in config["mounts"].items():
        mounts[name] = SessionMiddleware(shop, identity_key="user", **options)
        gated(mounts[name].sessions)
    return Site(mounts)
