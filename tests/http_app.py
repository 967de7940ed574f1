"""An application for the tests over real HTTP: the filter several times over, and gates that work across processes.

A request that passes ``gate=NAME`` looks at the session, then waits until somebody opens that gate, then does its
thing. With ``done_gate=NAME`` it waits when it has done its thing, and with ``confirm_gate=NAME`` after the session
layer has asked the fences and before it emits a cookie.
A request with the header ``X-Worker: PID`` is turned away by every other process, before anything has happened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from wsgi_rollsession import RollSession, Session, SessionConflict, Sessions
from wsgi_rollsession.middleware import SESSION

#: What names the JSON file that ``create`` reads: {"gates": folder, "mounts": {name: options of RollSession}}.
CONFIG = "ROLLSESSION_TEST_CONFIG"
LARGE = 3_000_000
PATIENCE = 30.0

_confirm_gate: ContextVar[Path | None] = ContextVar("confirm_gate", default=None)


def hold(gate: Path) -> None:
    """Say which process waits at *gate*, and wait until it is opened."""
    entered = gate.with_suffix(".writing")
    entered.write_text(str(os.getpid()))
    entered.rename(gate.with_suffix(".entered"))  # so that nobody finds it empty
    deadline = time.monotonic() + PATIENCE
    while not gate.with_suffix(".open").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate.name}")
        time.sleep(0.005)


def arrive(gates: Path, query: Mapping[str, str], look: Callable[[], object]) -> None:
    """What a request does first: *look* at its session and wait at its ``gate``, and arm its ``confirm_gate``."""
    if "gate" in query:
        look()
        hold(gates / query["gate"])
    if "confirm_gate" in query:
        _confirm_gate.set(gates / query["confirm_gate"])


def finish(gates: Path, query: Mapping[str, str]) -> None:
    """What a request does when it has done its thing: wait at its ``done_gate``."""
    if "done_gate" in query:
        hold(gates / query["done_gate"])


def told(result: object) -> bytes:
    """The body of every answer: who gives it, and what the operation returned."""
    return json.dumps({"pid": os.getpid(), "result": result}).encode()


def _login(session: Session, query: dict[str, str]) -> None:
    session.regenerate(tags=[f"user:{query['user']}"])
    session["user"] = query["user"]
    if "size" in query:
        session["page"] = "x" * int(query["size"])


def _elevate(session: Session, query: dict[str, str]) -> None:
    session.regenerate()
    session["role"] = "admin"


def _leave(session: Session, query: dict[str, str]) -> None:
    how = query["how"]
    if how == "pop":
        session.pop("user", None)
    elif how == "del":
        del session["user"]
    elif how == "None":
        session["user"] = None
    elif how == "invalidate":
        session.invalidate()
    else:
        session.clear()
        if how != "clear":
            session["message"] = "You were logged out."


def _logout(session: Session, query: dict[str, str]) -> None:
    session.invalidate()


def _read(session: Session, query: dict[str, str]) -> Any:
    return session.get(query.get("key", "user"))


def _write(session: Session, query: dict[str, str]) -> None:
    session[query.get("key", "note")] = query.get("value", "from R1")


def _untouched(session: Session, query: dict[str, str]) -> None:
    pass


OPERATIONS: dict[str, Callable[[Session, dict[str, str]], Any]] = {
    "login": _login,
    "elevate": _elevate,
    "leave": _leave,
    "logout": _logout,
    "read": _read,
    "write": _write,
    "untouched": _untouched,
}


class Endpoints:
    """The wrapped application."""

    def __init__(self, gates: Path) -> None:
        self.gates = gates

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        session = environ[SESSION]
        operation = environ["PATH_INFO"].strip("/")
        arrive(self.gates, query, lambda: session.get("user"))
        if operation == "file":
            return self._file(environ, start_response)
        if operation == "stream":
            return self._stream(session, start_response)
        if operation == "old-style":
            return self._write_callable(session, start_response)
        try:
            result = OPERATIONS[operation](session, query)
            finish(self.gates, query)
            return self._json("200 OK", result, start_response)
        except SessionConflict:
            return self._json("409 Conflict", None, start_response, sys.exc_info())

    @staticmethod
    def _json(status: str, result: Any, start_response: Callable[..., Any], exc_info: Any = None) -> Iterable[bytes]:
        body = told(result)
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], exc_info)
        return [body]

    @staticmethod
    def _file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = Path(__file__)
        headers = [("Content-Type", "text/x-python"), ("Content-Length", str(path.stat().st_size))]
        # Which wrapper it is tells the test whether the server's own is still on offer.
        wrapper = environ.get("wsgi.file_wrapper")
        headers.append(("X-File-Wrapper", f"{wrapper.__module__}.{wrapper.__qualname__}" if wrapper else "none"))
        start_response("200 OK", headers)
        return wrapper(path.open("rb"), 4096) if wrapper else [path.read_bytes()]

    @staticmethod
    def _stream(session: Session, start_response: Callable[..., Any]) -> Iterable[bytes]:
        session["streamed"] = True
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        for _ in range(LARGE // 10_000):
            yield b"x" * 10_000

    @staticmethod
    def _write_callable(session: Session, start_response: Callable[..., Any]) -> Iterable[bytes]:
        session["written"] = True
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        write(b"old")
        return [b"-st"]


class Site:
    """The outermost application: ``/mount/operation``."""

    def __init__(self, mounts: Mapping[str, Callable[..., Iterable[bytes]]]) -> None:
        self.mounts = mounts

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_X_WORKER", str(os.getpid())) != str(os.getpid()):
            start_response("421 Misdirected Request", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return [b""]
        mount, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
        if not mount:
            body = str(os.getpid()).encode()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
            return [body]
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"/{mount}", f"/{rest}"
        return self.mounts[mount](environ, start_response)


def gated(sessions: Sessions) -> None:
    """Have requests wait at their ``confirm_gate``, if they have one, when the store has been asked."""
    store: Any = sessions.revocations
    for name in ("lookup_now", "compare_and_raise"):
        setattr(store, name, _then_hold(getattr(store, name)))


def _with_gate(application: RollSession) -> RollSession:
    gated(application.sessions)
    return application


def _then_hold(ask: Callable[..., Any]) -> Callable[..., Any]:
    def ask_then_hold(*arguments: Any) -> Any:
        answer = ask(*arguments)
        gate = _confirm_gate.get()
        if gate is not None:
            _confirm_gate.set(None)
            hold(gate)
        return answer

    return ask_then_hold


def endpoints_factory(global_conf: dict[str, str], gates: str) -> Endpoints:
    """``paste.app_factory``."""
    return Endpoints(Path(gates))


def site_factory(loader: Any, global_conf: dict[str, str], **mounts: str) -> Site:
    """``paste.composite_factory``: what is mounted, by the name of its section."""
    return Site({name: _with_gate(loader.get_app(section)) for name, section in mounts.items()})


def described() -> tuple[Path, dict[str, dict[str, Any]]]:
    """What the environment describes: the folder of the gates, and the options of each mount."""
    config = json.loads(Path(os.environ[CONFIG]).read_text())
    return Path(config["gates"]), config["mounts"]


def create() -> Site:
    """The site that the environment describes."""
    gates, mounts = described()
    endpoints = Endpoints(gates)
    return Site({name: _with_gate(RollSession(endpoints, **options)) for name, options in mounts.items()})
