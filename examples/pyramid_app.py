"""A cart, with Pyramid. Whoever logs out is out: also a copy of the cookie, and a request in flight.

    pip install '.[pyramid]' waitress           # in a checkout
    python examples/pyramid_app.py 8000

alice's password is "wonderland", bob's is "builder".
"""

from __future__ import annotations

import os
import secrets
import sys
from html import escape
from typing import Any

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token, new_csrf_token
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from pyramid.security import forget, remember
from waitress import serve

from wsgi_rollsession import StoreUnavailable, generate_key
from wsgi_rollsession.pyramid import sessions

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
LOGIN = '<input name="name" placeholder="alice"> <input name="password" type="password"> <button>Log in</button>'
ADD = '<input name="item" value="tea"> <button>Add</button>'


class SecurityPolicy:
    """As Pyramid's documentation has it."""

    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()

    def identity(self, request: Any) -> Any:
        """Who is logged in, if there still is such a user."""
        name = self.helper.authenticated_userid(request)
        return name if name in PASSWORDS else None

    authenticated_userid = identity

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        """Whoever is logged in may do everything."""
        return self.identity(request) is not None

    def remember(self, request: Any, userid: str, **kw: Any) -> Any:
        """Log in."""
        return self.helper.remember(request, userid, **kw)

    def forget(self, request: Any, **kw: Any) -> Any:
        """Log out."""
        return self.helper.forget(request, **kw)


def form(request: Any, path: str, inside: str) -> str:
    """One form, with its CSRF token."""
    token = f'<input type="hidden" name="csrf_token" value="{get_csrf_token(request)}">'
    return f'<form method="post" action="{path}">{token}{inside}</form>'


def index(request: Any) -> Response:
    """The cart, and the forms."""
    session, user = request.session, request.authenticated_userid
    messages = "".join(f"<p><strong>{escape(message)}</strong></p>" for message in session.pop_flash())
    cart = escape(", ".join(session.get("cart", [])) or "nothing")
    forms = [form(request, "/add", ADD)]
    if user is None:
        forms.append(form(request, "/login", LOGIN))
    else:
        forms.append(form(request, "/logout", "<button>Log out</button>"))
        forms.append(form(request, "/logout-everywhere", "<button>Log out everywhere</button>"))
    page = f"<!doctype html><title>Cart</title>{messages}<p>{escape(user or 'Nobody')} has {cart}.</p>{''.join(forms)}"
    return Response(page)


def add(request: Any) -> Any:
    """Put something into the cart. No ``session.changed()`` is needed."""
    request.session.setdefault("cart", []).append(request.POST["item"])
    return HTTPSeeOther("/")


def login(request: Any) -> Any:
    """As Pyramid's documentation has it."""
    name, password = request.POST["name"], request.POST["password"]
    if name not in PASSWORDS or not secrets.compare_digest(PASSWORDS[name].encode(), password.encode()):
        request.session.flash("Wrong name or password.")
        return HTTPSeeOther("/")
    headers = remember(request, name)
    new_csrf_token(request)
    request.session.flash("Welcome.")
    return HTTPSeeOther("/", headers=headers)


def logout(request: Any) -> Any:
    """As Pyramid's documentation has it."""
    request.session.flash("Goodbye.")
    return HTTPSeeOther("/", headers=forget(request))


def logout_everywhere(request: Any) -> Any:
    """On every device."""
    user = request.authenticated_userid
    if user is not None:
        sessions(request).revoke(f"user:{user}")
    request.session.invalidate()  # this session has ended with the others, and takes no message: begin another
    request.session.flash("Goodbye, everywhere.")
    return HTTPSeeOther("/")


def unconfirmed(error: Exception, request: Any) -> Response:
    """A logout that was not confirmed is none: say so, and let this browser forget."""
    request.session.forget()
    return Response("Logging out could not be confirmed. Close your browser, and try again later.\n", status=503)


def main() -> Any:
    """The WSGI application."""
    settings = {
        # Of a site, both are in its configuration: another key at each start logs everybody out.
        "rollsession.keys": os.environ.get("ROLLSESSION_KEYS") or generate_key(),
        "rollsession.revocations": os.environ.get("ROLLSESSION_REVOCATIONS") or "memory://",
        "rollsession.insecure_http": "true",  # waitress has no TLS; a site leaves this out
    }
    config = Configurator(settings=settings)
    config.include("wsgi_rollsession.pyramid")
    config.set_security_policy(SecurityPolicy())
    config.set_default_csrf_options(require_csrf=True)
    views = {"/": index, "/add": add, "/login": login, "/logout": logout, "/logout-everywhere": logout_everywhere}
    for path, view in views.items():
        config.add_route(view.__name__, path)
        config.add_view(view, route_name=view.__name__, request_method="GET" if view is index else "POST")
    config.add_exception_view(unconfirmed, context=StoreUnavailable)
    return config.make_wsgi_app()


if __name__ == "__main__":
    serve(main(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
