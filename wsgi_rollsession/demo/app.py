"""The application of the demo: one login, kept twice, by RollSession and in a plain signed cookie that is re-sent.

Both see the very same requests. Two things make the race visible: ``/update`` can be held until a gate opens, and every
answer reports which cookies the browser sent and which the answer sets, for a page cannot read HttpOnly cookies.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webob import Request, Response
from webob.cookies import SignedCookieProfile
from webob.dec import wsgify
from webob.exc import HTTPBadRequest, HTTPNotFound

from .. import RollSession

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PAGE = Path(__file__).with_name("page.html")
HELD_FOR = 120.0  # seconds until a held request is answered with a 400, for somebody who walked away from the page


class Gates:
    """Lets one request hold another, in whichever worker process either of them runs: files in a shared folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, name: str) -> None:
        """Announce a request, and wait until its gate is opened."""
        self._path(name, "held").write_text(str(os.getpid()))
        deadline = time.monotonic() + HELD_FOR
        while not self._path(name, "open").exists():
            if time.monotonic() > deadline:
                raise HTTPBadRequest("nobody opened the gate")
            time.sleep(0.005)

    def holder(self, name: str) -> int | None:
        """The worker process of the request that is held there."""
        path = self._path(name, "held")
        text = path.read_text() if path.exists() else ""
        return int(text) if text else None

    def open(self, name: str) -> None:
        self._path(name, "open").touch()

    def _path(self, name: str, state: str) -> Path:
        if not re.fullmatch(r"[a-z0-9]{1,40}", name):
            raise HTTPBadRequest("a gate's name has up to 40 letters and digits")
        return self._folder / f"{name}.{state}"


class Users:
    """The application proper. Everything it knows of a user is in the two sessions."""

    def __init__(self, plain: SignedCookieProfile, gates: Gates) -> None:
        self._plain = plain
        self._gates = gates

    @wsgify
    def __call__(self, request: Request) -> Response:
        endpoint = {
            "/login": self.login,
            "/update": self.update,
            "/logout": self.logout,
            "/whoami": self.whoami,
        }.get(request.path_info)
        if endpoint is None:
            raise HTTPNotFound()
        session = request.environ["wsgi_rollsession.session"]
        plain = self._plain.bind(request).get_value() or {}
        had_plain = bool(plain)
        endpoint(request, session, plain)
        response = Response(json_body={"rollsession": session.get("user"), "plain": plain.get("user")})
        # What a rolling cookie-only session does, here and in the libraries that are built like this: send it again.
        if plain:
            response.headers.extend(self._plain.get_headers(plain))
        elif had_plain:
            response.headers.extend(self._plain.get_headers(None))
        return response

    def login(self, request: Request, session: Any, plain: dict[str, Any]) -> None:
        user = request.GET.get("user", "alice")
        session.regenerate(tags=[f"user:{user}"])
        session["user"] = plain["user"] = user
        session["updates"] = plain["updates"] = 0

    def update(self, request: Request, session: Any, plain: dict[str, Any]) -> None:
        for data in (session, plain):
            if "user" in data:
                data["updates"] += 1
        if request.GET.get("slow") == "application":
            self._gates.hold(request.GET["gate"])

    def logout(self, request: Request, session: Any, plain: dict[str, Any]) -> None:
        session.invalidate()
        plain.clear()

    def whoami(self, request: Request, session: Any, plain: dict[str, Any]) -> None:
        session.get("user")


class Demo:
    """Around both: the page, the gates, and the report of the cookies that an answer received and sets."""

    def __init__(self, users: RollSession, gates: Gates) -> None:
        self._users = users
        self.close = users.close
        self._gates = gates

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response: Response = self._answer(Request(environ))
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            path = request.path_info
            if path == "/":
                return Response(
                    body=PAGE.read_bytes(), content_type="text/html", charset="utf-8", cache_control="no-store"
                )
            if path == "/cookies":
                return self._report(request, Response(json_body={}))
            if path == "/gate":
                return self._gate(request)
            response = request.get_response(self._users)
            if response.status_code != 200:
                return response
            if request.GET.get("slow") == "network":
                # The answer is complete, cookies included, and takes its time on the way to the browser.
                self._gates.hold(request.GET["gate"])
            return self._report(request, response)
        except (HTTPBadRequest, HTTPNotFound) as error:
            return error

    def _gate(self, request: Request) -> Response:
        name = request.GET.get("gate", "")
        if request.method == "POST":
            self._gates.open(name)
        return Response(json_body={"worker": self._gates.holder(name)})

    @staticmethod
    def _report(request: Request, response: Response) -> Response:
        response.json_body |= {
            "worker": os.getpid(),
            "received": dict(sorted(request.cookies.items())),
            "set": response.headers.getall("Set-Cookie"),
        }
        response.cache_control = "no-store"
        return response


def create(folder: str, keys: str, secret: str, insecure_http: bool = False) -> Demo:
    """The demo, with its state in *folder*. Called in every worker of gunicorn."""
    secure = not insecure_http
    plain = SignedCookieProfile(
        secret,
        "demo",
        cookie_name="__Host-plain" if secure else "plain",
        secure=secure,
        httponly=True,
        samesite="Lax",
        max_age=3600,
    )
    gates = Gates(Path(folder))
    users = RollSession(
        Users(plain, gates),
        keys=keys,
        revocations=f"sqlite:///{folder}/revocations.db",
        renew_after=0,  # roll on every answer, as the plain cookie does
        insecure_http=insecure_http,
    )
    return Demo(users, gates)


def from_environment() -> Demo:
    """``gunicorn "wsgi_rollsession.demo.app:from_environment()"``."""
    # That a write of a dead session is dropped, which is logged as a warning, is what the demo is about.
    logging.getLogger("wsgi_rollsession").setLevel(logging.ERROR)
    read = os.environ
    return create(
        read["ROLLSESSION_DEMO_FOLDER"],
        read["ROLLSESSION_KEYS"],
        read["ROLLSESSION_DEMO_SECRET"],
        read.get("ROLLSESSION_DEMO_INSECURE_HTTP") == "1",
    )
