"""Beaker: the session layer that many Paste Deploy pipelines have; and what this project has in its place."""

from __future__ import annotations

from typing import Any

from ..tiny import BareVisit, Lab, Visit, plain_app
from . import Contender
from .redis_client import gated_redis
from .rollsession import adapter, answering_conflicts, finished, session_options

KEY = "beaker.session"


class BeakerVisit:
    def __init__(self, session: Any, store: str, ending: str) -> None:
        self.session, self._store, self._ending = session, store, ending

    def renew(self, user: str) -> None:
        # Beaker 1.14.1's CookieSession has the method too, but it raises: its id is a read-only property.
        if self._store != "cookie":
            self.session.regenerate_id()

    def elevate(self) -> None:
        if self._store != "cookie":  # as above
            self.session.regenerate_id()

    def end(self) -> None:
        getattr(self.session, self._ending)()

    #: https://beaker.readthedocs.io/en/latest/sessions.html#deleting: delete(), or invalidate() where a new session is
    #: to be used in the same request.
    leave = end


def build(lab: Lab, store: str, ending: str = "delete") -> Any:
    if lab.bare:
        return plain_app(lambda environ: BareVisit(), lab.gates)
    from beaker.middleware import SessionMiddleware

    options: dict[str, Any] = {
        "session.key": "session",
        "session.auto": True,
        "session.secure": True,
        "session.httponly": True,
        "session.data_serializer": "json",
    }
    if lab.rolls:
        options |= {"session.timeout": 3600, "session.cookie_expires": 3600}
    if store == "cookie":
        options |= {
            "session.type": "cookie",
            "session.validate_key": "v" * 32,
            "session.encrypt_key": "e" * 32,
            "session.crypto_type": "cryptography",
        }
    elif store == "file":
        options |= {"session.type": "file", "session.data_dir": str(lab.directory)}
        if lab.gated:
            gate_writes(lab)
    else:
        options |= {"session.type": "ext:redis", "session.url": gated_redis(lab)}

    def open_visit(environ: dict[str, Any]) -> Visit:
        return BeakerVisit(environ[KEY], store, ending)

    return SessionMiddleware(plain_app(open_visit, lab.gates), options)


def build_rollsession(lab: Lab) -> Any:
    if lab.bare:
        return plain_app(lambda environ: BareVisit(), lab.gates)
    from wsgi_rollsession.beaker import SessionMiddleware

    plain = plain_app(lambda environ: BeakerVisit(environ[KEY], "rollsession", "delete"), lab.gates)
    options = session_options(lab)
    application = SessionMiddleware(answering_conflicts(plain) if lab.gated else plain, auto=True, **options)
    return finished(application, application.sessions, options, lab)


def gate_writes(lab: Lab) -> None:
    """Let the store gate hold a request before it takes the write lock, under which no delete could land."""
    from beaker.container import FileNamespaceManager

    take_lock = FileNamespaceManager.acquire_write_lock

    def acquire_write_lock(self: Any, *args: Any, **kwargs: Any) -> Any:
        lab.gates.enter("store")
        return take_lock(self, *args, **kwargs)

    FileNamespaceManager.acquire_write_lock = acquire_write_lock


CONTENDERS = [
    Contender(
        "beaker-cookie",
        "Beaker",
        "encrypted cookie, timeout = cookie_expires",
        lambda lab: build(lab, "cookie"),
        encrypts=True,
    ),
    adapter("beaker", build_rollsession),
    Contender("beaker-file", "Beaker", "file, logout by delete()", lambda lab: build(lab, "file"), stored=True),
    Contender(
        "beaker-file-invalidate",
        "Beaker",
        "file, logout by invalidate()",
        lambda lab: build(lab, "file", "invalidate"),
        stored=True,
        timed=False,
    ),
    Contender(
        "beaker-redis",
        "Beaker",
        "ext:redis, logout by delete()",
        lambda lab: build(lab, "redis"),
        stored=True,
        redis=True,
    ),
    Contender(
        "beaker-redis-invalidate",
        "Beaker",
        "ext:redis, logout by invalidate()",
        lambda lab: build(lab, "redis", "invalidate"),
        stored=True,
        redis=True,
        timed=False,
    ),
]
