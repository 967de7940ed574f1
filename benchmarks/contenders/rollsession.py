"""This project: each store, and with versions checked. What its contenders through the adapters share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ..browser import Browser
from ..tiny import BareVisit, Lab, Visit, plain_app
from . import Contender


class RollVisit:
    def __init__(self, session: Any) -> None:
        self.session = session

    def renew(self, user: str) -> None:
        self.session.regenerate(tags=[f"user:{user}"])

    def elevate(self) -> None:
        self.session.regenerate()

    def end(self) -> None:
        self.session.invalidate()

    def leave(self) -> None:
        self.session.pop("user", None)  # a logout by identity_key


class Clock:
    """The time of one application: the machine's, until it is told to stand still."""

    def __init__(self) -> None:
        self.stands_at: float | None = None

    def __call__(self) -> float:
        return time.time() if self.stands_at is None else self.stands_at


#: By application; only of those whose logins are to be dated back.
CLOCKS: dict[int, Clock] = {}
#: Several workers of one server must agree on the key; elsewhere a fresh one does.
KEYS: list[str] = []


def store_url(lab: Lab, store: str) -> str:
    if store == "memory":
        return "memory://"
    if store == "sqlite":
        return f"sqlite:///{lab.directory}/revocations.db"
    return lab.redis_url + ("?follow=1" if store == "follow" else "")


def session_options(lab: Lab, store: str = "sqlite") -> dict[str, Any]:
    """The options of ``Sessions``, which the adapters take as well. Dated back, with a clock (see ``settle``)."""
    from wsgi_rollsession import generate_key

    if not KEYS:
        KEYS.append(os.environ.get("ROLLSESSION_KEYS") or generate_key())
    options: dict[str, Any] = {"keys": KEYS[0], "revocations": store_url(lab, store), "identity_key": "user"}
    if lab.dated_back:
        options |= {"amnesia": "accept", "clock": Clock()}  # to accept it costs the same
    if lab.rolls:
        options["renew_after"] = 0
    return options


def finished(application: Any, sessions: Any, options: dict[str, Any], lab: Lab) -> Any:
    """The *application*, with the store gate and the clock where they are needed."""
    if lab.gated:
        gate_checks(sessions.revocations, lab)
    if lab.dated_back:
        CLOCKS[id(application)] = options["clock"]
    return application


def build(lab: Lab, store: str, **options: Any) -> Any:
    if lab.bare:
        return plain_app(lambda environ: BareVisit(), lab.gates)
    from wsgi_rollsession import RollSession

    def open_visit(environ: dict[str, Any]) -> Visit:
        return RollVisit(environ["wsgi_rollsession.session"])

    options |= session_options(lab, store)
    plain = plain_app(open_visit, lab.gates)
    application = RollSession(answering_conflicts(plain) if lab.gated else plain, **options)
    return finished(application, application.sessions, options, lab)


def answering_conflicts(application: Callable[..., list[bytes]]) -> Callable[..., list[bytes]]:
    """The error page that an application has for a session that ended while it was at work, as Django has one."""
    from wsgi_rollsession import SessionConflict

    def answering(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        try:
            return application(environ, start_response)
        except SessionConflict:
            start_response("409 Conflict", [("Content-Type", "text/plain"), ("Content-Length", "0")], sys.exc_info())
            return [b""]

    return answering


def gate_checks(revocations: Any, lab: Lab) -> None:
    """There is no write of a record to hold: the store gate holds a request between its last check and its answer."""

    def gated(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asking(*arguments: Any) -> Any:
            answer = ask(*arguments)
            lab.gates.enter("store")
            return answer

        return asking

    revocations.lookup_now = gated(revocations.lookup_now)
    revocations.compare_and_raise = gated(revocations.compare_and_raise)


def settle(application: Any, browser: Browser, path: str) -> None:
    """Most requests of a session carry a lease too, which takes a while to get: let the login be a minute ago.

    From then on the clock stands still, or on a slow machine a roll would come due where none is to be measured.
    """
    clock = CLOCKS.get(id(application))
    if clock is None:  # the bare application
        browser.get(path)
        return
    now = clock()
    clock.stands_at = now - 61
    browser.get(path)
    clock.stands_at = now
    browser.get("/read")
    if sum("lease" in name for name in browser.jar) != 1:
        raise RuntimeError("no lease a minute after the login")


def contender(name: str, configuration: str, store: str, timed: bool = True, **options: Any) -> Contender:
    return Contender(
        name,
        "wsgi-rollsession",
        configuration,
        lambda lab: build(lab, store, **options),
        stored=True,  # not the session; but a copied cookie is worth no more than its fence lets it
        redis=store in ("redis", "follow"),
        encrypts=True,
        settle=settle,
        timed=timed,
    )


def adapter(framework: str, build: Callable[[Lab], Any]) -> Contender:
    """This project through its adapter to *framework*, with SQLite."""
    return Contender(
        f"rollsession-{framework}",
        "wsgi-rollsession",
        f"SQLite, through wsgi_rollsession.{framework}",
        build,
        stored=True,
        encrypts=True,
        settle=settle,
    )


CONTENDERS = [
    contender("rollsession-memory", "memory", "memory"),
    contender("rollsession-sqlite", "SQLite", "sqlite"),
    contender("rollsession-redis", "Redis, direct", "redis"),
    contender("rollsession-follow", "Redis, follow=1", "follow"),
    contender("rollsession-sqlite-versioned", "SQLite, versioned", "sqlite", timed=False, versioned=True),
    contender("rollsession-redis-versioned", "Redis, versioned", "redis", timed=False, versioned=True),
]
