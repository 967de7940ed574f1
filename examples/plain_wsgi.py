"""A cart, with nothing but WSGI. Whoever logs out is out: also a copy of the cookie, and a request in flight.

    pip install .                               # in a checkout
    python examples/plain_wsgi.py 8000

alice's password is "wonderland", bob's is "builder".
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

from wsgi_rollsession import RollSession, StoreUnavailable, generate_key

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
LOGIN = '<input name="name" placeholder="alice"> <input name="password" type="password"> <button>Log in</button>'
ADD = '<input name="item" value="tea"> <button>Add</button>'


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The cart, its forms, and what they do."""
    session, path = environ["wsgi_rollsession.session"], environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "GET" and path == "/":
        body = page(session).encode()  # before the response starts, for it changes the session
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [body]
    if environ["REQUEST_METHOD"] != "POST" or path not in ACTIONS:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is nothing here.\n"]
    sent = parse_qs(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())
    fields = {key: values[0] for key, values in sent.items()}
    if not secrets.compare_digest(fields.get("token", "").encode(), session.get("token", " ").encode()):
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"The form was too old. Load the page again.\n"]
    try:
        ACTIONS[path](session, fields)
        start_response("303 See Other", [("Location", "/")])
        return [b""]
    except StoreUnavailable:  # a logout that was not confirmed is none: say so, and let this browser forget
        session.forget()
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"Logging out could not be confirmed. Close your browser, and try again later.\n"]


def page(session: Any) -> str:
    """The page, in HTML."""
    user, message = session.get("user_id"), session.pop("message", "")
    token = session.setdefault("token", secrets.token_urlsafe(16))  # against forms of other sites
    cart = escape(", ".join(session.get("cart", [])) or "nothing")
    forms = {"/add": ADD}
    if user is None:
        forms["/login"] = LOGIN
    else:
        forms |= {"/logout": "<button>Log out</button>", "/logout-everywhere": "<button>Log out everywhere</button>"}
    rows = [
        f'<form method="post" action="{action}"><input type="hidden" name="token" value="{token}">{inside}</form>'
        for action, inside in forms.items()
    ]
    message = f"<p><strong>{escape(message)}</strong></p>" if message else ""
    return f"<!doctype html><title>Cart</title>{message}<p>{escape(user or 'Nobody')} has {cart}.</p>{''.join(rows)}"


def add(session: Any, fields: dict[str, str]) -> None:
    """Put something into the cart."""
    session.setdefault("cart", []).append(fields["item"])


def login(session: Any, fields: dict[str, str]) -> None:
    """Whoever has the password is logged in by the identity key."""
    name, password = fields.get("name", ""), fields.get("password", "")
    if name in PASSWORDS and secrets.compare_digest(PASSWORDS[name].encode(), password.encode()):
        session["user_id"] = name
        session["token"] = secrets.token_urlsafe(16)
        session["message"] = "Welcome."
    else:
        session["message"] = "Wrong name or password."


def logout(session: Any, fields: dict[str, str]) -> None:
    """Take the identity out: the cart stays, in an anonymous session."""
    session.pop("user_id", None)
    session["message"] = "Goodbye."


def logout_everywhere(session: Any, fields: dict[str, str]) -> None:
    """On every device."""
    user = session.get("user_id")
    if user is not None:
        wrapped.revoke(f"user:{user}")
    session.invalidate()  # this session has ended with the others, and takes no message: begin another
    session["message"] = "Goodbye, everywhere."


ACTIONS = {"/add": add, "/login": login, "/logout": logout, "/logout-everywhere": logout_everywhere}

wrapped = RollSession(
    application,
    # Of a site, both are in its configuration: another key at each start logs everybody out.
    keys=os.environ.get("ROLLSESSION_KEYS") or generate_key(),
    revocations=os.environ.get("ROLLSESSION_REVOCATIONS") or f"sqlite:///{tempfile.mkdtemp()}/revocations.db",
    identity_key="user_id",
    insecure_http=True,  # wsgiref has no TLS; a site leaves this out
)

if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000, wrapped) as server:
        server.serve_forever()
