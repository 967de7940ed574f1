"""This project: each store in the isolated layout, the single layout, strict versions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
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
        self.session.pop("user", None)


def store_url(lab: Lab, store: str) -> str:
    if store == "memory":
        return "memory://"
    if store == "sqlite":
        return f"sqlite:///{lab.directory}/revocations.db"
    return lab.redis_url + ("?follow=1" if store == "follow" else "")


def build(lab: Lab, store: str, **options: Any) -> Any:
    if lab.bare:
        return plain_app(lambda environ: BareVisit(), lab.gates)
    from wsgi_rollsession import RollSession, generate_key

    def open_visit(environ: dict[str, Any]) -> Visit:
        return RollVisit(environ["wsgi_rollsession.session"])

    if lab.dated_back:
        options["amnesia"] = "accept"  # costs the same
    if lab.rolls:
        options["renew_after"] = 0
    # Several workers of one server must agree on the key; elsewhere a fresh one does.
    keys = os.environ.get("ROLLSESSION_KEYS") or generate_key()
    application = RollSession(plain_app(open_visit, lab.gates), keys=keys, revocations=store_url(lab, store), **options)
    if lab.gated:
        gate_checks(application.revocations, lab)
    return application


def gate_checks(revocations: Any, lab: Lab) -> None:
    """There is no write of a record to hold: the store gate holds a request between its last check and its answer."""
    confirm = revocations.confirm

    def gated(keys: Sequence[bytes]) -> Sequence[int]:
        numbers: Sequence[int] = confirm(keys)
        lab.gates.enter("store")
        return numbers

    revocations.confirm = gated


#: When the first browser settled, by application.
FIRST: dict[int, float] = {}


def settle(application: Any, browser: Browser, path: str) -> None:
    """Most requests of a session carry a lease too, which takes a while to get: let the login be a minute ago.

    From then on the clock stands still, or on a slow machine a roll would come due where none is to be measured.
    """
    context = getattr(application, "_context", None)
    if context is None:  # the bare application
        browser.get(path)
        return
    now = FIRST.setdefault(id(application), time.time())
    context.clock = lambda: now - 61
    browser.get(path)
    context.clock = lambda: now
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


CONTENDERS = [
    contender("rollsession-memory", "memory", "memory"),
    contender("rollsession-sqlite", "SQLite", "sqlite"),
    contender("rollsession-redis", "Redis, direct", "redis"),
    contender("rollsession-follow", "Redis, follow=1", "follow"),
    contender("rollsession-sqlite-strict", "SQLite, strict", "sqlite", timed=False, strict=True),
    contender("rollsession-redis-strict", "Redis, strict", "redis", timed=False, strict=True),
    contender("rollsession-memory-single", "memory, single layout", "memory", timed=False, cookie_layout="single"),
    contender("rollsession-sqlite-single", "SQLite, single layout", "sqlite", timed=False, cookie_layout="single"),
    contender("rollsession-redis-single", "Redis, single layout", "redis", timed=False, cookie_layout="single"),
    contender(
        "rollsession-follow-single", "Redis, follow=1, single layout", "follow", timed=False, cookie_layout="single"
    ),
]
