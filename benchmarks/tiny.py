"""The application that every contender serves, and the gates that hold a request where a scenario needs it.

Paths: ``/untouched`` ``/read`` ``/me`` ``/write?k=&v=`` ``/login?user=&size=`` ``/elevate`` ``/logout`` ``/leave``.
With ``gate=1`` in the query the request reads its session, then waits in the handler until the harness lets it go on;
``/elevate?gate=after`` waits when it has changed its session.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from string import ascii_letters, digits
from typing import Any, Protocol
from urllib.parse import parse_qsl

SECONDS = 20.0  # the longest that anything here waits before it calls the run broken
MODES = ("bare", "still", "roll")  # without the session layer; with it, no roll due; with it, every response rolls


class Gates:
    """Named places where one request waits: ``handler`` (in the application) and ``store`` (before a store write).

    A gate lets everybody pass until it is armed; then it holds the first to come, and only that one.
    """

    def __init__(self) -> None:
        #: Who the last /me was taken for by the application, whatever the visitor was then answered.
        self.saw: str | None = None
        self._armed: dict[str, tuple[threading.Event, threading.Event]] = {}
        self._held: dict[str, tuple[threading.Event, threading.Event]] = {}

    def arm(self, name: str) -> None:
        self._armed[name] = self._held[name] = (threading.Event(), threading.Event())

    def enter(self, name: str) -> None:
        armed = self._armed.pop(name, None)
        if armed is not None:
            entered, released = armed
            entered.set()
            if not released.wait(SECONDS):
                raise TimeoutError(f"nobody opened the {name} gate")

    def entered(self, name: str, seconds: float) -> bool:
        """Whether a request is held at the gate, waiting up to *seconds* for one."""
        return self._held[name][0].wait(seconds)

    def release(self, name: str) -> None:
        self._armed.pop(name, None)
        self._held[name][1].set()


@dataclass
class Lab:
    """What a contender may use: the mode it is built in, a Redis server, a directory of its own, the gates."""

    mode: str = "roll"
    redis_url: str = ""
    #: Whether the store gate must be built in. It costs a little, so where time is measured it is left out.
    gated: bool = False
    #: Whether logins are to be dated back (see ``Contender.settle``), to before the store began.
    dated_back: bool = False
    gates: Gates = field(default_factory=Gates)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rollsession-bench-")))

    @property
    def bare(self) -> bool:
        return self.mode == "bare"

    @property
    def rolls(self) -> bool:
        return self.mode == "roll"


class Visit(Protocol):
    """One request's session, as the contender's own documentation says to use it."""

    @property
    def session(self) -> MutableMapping[str, Any]: ...

    def renew(self, user: str) -> None:
        """What the contender documents for the moment of a login, before the user is stored."""

    def elevate(self) -> None:
        """What the contender documents for a change of privileges, before the role is stored: the user and data stay.

        Nothing where a session has no id to cycle: storing the role issues a new cookie.
        """

    def end(self) -> None:
        """The most thorough logout that the contender offers: what S1 to S10 are played with."""

    def leave(self) -> None:
        """The logout that the contender's documentation shows."""


class BareVisit:
    """No session layer: a dictionary that lives as long as the request."""

    def __init__(self) -> None:
        self.session: dict[str, Any] = {}

    def renew(self, user: str) -> None:
        pass

    def elevate(self) -> None:
        pass

    def end(self) -> None:
        self.session.clear()

    def leave(self) -> None:
        self.session.clear()


@lru_cache
def content(user: str, size: int) -> tuple[tuple[str, Any], ...]:
    """What a session of *size* bytes of JSON holds: what sessions commonly hold, if it fits, and text that fills up."""
    usual = {"roles": ["admin", "editor"], "cart": [{"sku": "X-1", "n": 2}], "lang": "en", "theme": "dark", "seen": 173}
    for values in ({"user": user, **usual, "pad": ""}, {"user": user, "pad": ""}):
        left = size - len(json.dumps(values, separators=(",", ":")))
        if left >= 0:
            break
    # It does not compress well, and is always the same.
    values["pad"] = "".join(Random(size).choices(ascii_letters + digits, k=left))
    return tuple(values.items())


def act(path: str, query_string: str, visit: Visit, gates: Gates) -> bytes:
    """Do what *path* asks for, and say who the visitor is."""
    if path == "/untouched":
        return b"{}"
    query = dict(parse_qsl(query_string))
    session = visit.session
    if path == "/login":
        visit.renew(query["user"])
        session = visit.session
        session["user"] = query["user"]
        if "size" in query:
            for key, value in content(query["user"], int(query["size"])):
                session[key] = value
    elif path == "/logout":
        visit.end()
        return b"{}"
    elif path == "/leave":
        visit.leave()
        return b"{}"
    user, gate = session.get("user"), query.get("gate")
    if path == "/elevate" and gate == "after":
        elevate(visit)
    if gate is not None:
        gates.enter("handler")
    if path == "/elevate" and gate != "after":
        elevate(visit)
    if path == "/write":
        session[query["k"]] = query["v"]
    if path == "/me":
        gates.saw = user
        return json.dumps({"user": user, "cart": session.get("cart")}).encode()
    return json.dumps({"user": user}).encode()


def elevate(visit: Visit) -> None:
    visit.elevate()
    visit.session["role"] = "admin"


def plain_app(open_visit: Callable[[dict[str, Any]], Visit], gates: Gates) -> Callable[..., list[bytes]]:
    """The application as a bare WSGI callable."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = act(environ["PATH_INFO"], environ["QUERY_STRING"], open_visit(environ), gates)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application
