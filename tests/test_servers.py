"""The same short story under every server: waitress, wsgiref, gunicorn's workers, started in every supported way."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from wsgi_rollsession import generate_key
from wsgi_rollsession.middleware import SESSION

from . import http_app
from .browser import Browser, Clock, dispatch, get, login, logout, put, who, wrap
from .http_client import Server, gunicorn, serve

WAITRESS = """\
import socket, sys, waitress
from tests.http_app import create
waitress.serve(create(), sockets=[socket.socket(fileno=int(sys.argv[1]))], threads=4)
"""
WSGIREF = """\
import socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from tests.http_app import create
server = WSGIServer(("127.0.0.1", 0), WSGIRequestHandler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.server_name, server.server_port = server.socket.getsockname()
server.setup_environ()
server.set_app(create())
server.serve_forever()
"""
INI = """\
[composite:main]
paste.composite_factory = tests.http_app:site_factory
sqlite = sqlite
redis = redis

[pipeline:sqlite]
pipeline = sqlite-session endpoints

[pipeline:redis]
pipeline = redis-session endpoints

[filter:sqlite-session]
use = egg:wsgi_rollsession
keys = {keys}
revocations = {sqlite}
renew_after = 0

[filter:redis-session]
use = egg:wsgi_rollsession
keys = {keys}
revocations = {redis}
renew_after = 0

[app:endpoints]
paste.app_factory = tests.http_app:endpoints_factory
gates = {gates}
"""
MODULE = """\
from tests.http_app import create

app = create()
"""


def _waitress(folder: Path, mounts: dict[str, dict[str, Any]]) -> Any:
    return serve(folder, mounts, lambda number: ["-c", WAITRESS, str(number)])


def _wsgiref(folder: Path, mounts: dict[str, dict[str, Any]]) -> Any:
    return serve(folder, mounts, lambda number: ["-c", WSGIREF, str(number)])


def _module(folder: Path, mounts: dict[str, dict[str, Any]]) -> Any:
    (folder / "some_module.py").write_text(MODULE)
    return gunicorn(folder, mounts, application=("some_module:app",), worker_class="sync")


def _paste(folder: Path, mounts: dict[str, dict[str, Any]]) -> Any:
    ini = folder / "site.ini"
    stores = {name: options["revocations"] for name, options in mounts.items()}
    ini.write_text(INI.format(keys=generate_key(), gates=folder, **stores))
    return gunicorn(folder, mounts, application=("--paste", str(ini)), worker_class="gthread", threads=4)


def _gunicorn(**settings: Any) -> Callable[[Path, dict[str, dict[str, Any]]], Any]:
    return lambda folder, mounts: gunicorn(folder, mounts, **settings)


SERVERS: dict[str, Callable[[Path, dict[str, dict[str, Any]]], Any]] = {
    "waitress": _waitress,
    "wsgiref": _wsgiref,
    "gunicorn module:app, sync": _module,
    "gunicorn --paste, gthread": _paste,
    "gunicorn gevent": _gunicorn(worker_class="gevent"),
    "gunicorn --preload gthread": _gunicorn(worker_class="gthread", threads=4, preload_app=True),
    "gunicorn --preload sync": _gunicorn(worker_class="sync", preload_app=True),
}
#: Those that serve one request at a time in a process.
ONE_AT_A_TIME = {"wsgiref", "gunicorn module:app, sync", "gunicorn --preload sync"}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: Any
) -> Iterator[Server]:
    """A server with the filter on SQLite and on Redis, rolling on every response."""
    folder = tmp_path_factory.mktemp("server")
    mounts: dict[str, dict[str, Any]] = {
        "sqlite": {"revocations": f"sqlite:///{folder}/revocations.db", "renew_after": 0},
        "redis": {"revocations": redis_server.url, "renew_after": 0},
    }
    with SERVERS[request.param](folder, mounts) as running:
        running.name = request.param
        yield running
    assert "Traceback" not in running.log.read_text()


stores = pytest.mark.parametrize("store", ["sqlite", "redis"])


@stores
def test_story(server: Server, store: str) -> None:
    """Log in, roll, store, log out; and the cookies from before the logout are worth nothing in any process."""
    browser = server.browser(store)
    assert browser.go("read") is None
    assert browser.jar == {}
    browser.go("login?user=alice")
    (name,) = browser.sessions
    assert list(browser.receive(browser.fetch("read")).sent()) == [f"{name}-lease"]
    browser.go("write?key=cart&value=7")
    assert [browser.go("read?key=cart", on=worker) for worker in server.workers] == ["7"] * len(server.workers)
    copied = browser.header()
    browser.go("logout", on=server.workers[0])
    assert set(browser.jar) == {"__Host-session-slot"}
    for worker in server.workers:
        assert browser.fetch("read", on=worker, header=copied).result is None


@stores
def test_answered_late(server: Server, store: str) -> None:
    """A response that is under way during a logout and a login neither logs the old user in nor the new one out."""
    browser = server.browser(store)
    browser.go("login?user=alice")
    late = browser.fetch("write", on=server.workers[0])
    browser.go("logout", on=server.workers[-1])
    browser.go("login?user=bob", on=server.workers[-1])
    browser.receive(late)
    assert [browser.go("read", on=worker) for worker in server.workers] == ["bob"] * len(server.workers)


@stores
@pytest.mark.parametrize("r1", ["read", "write"])
def test_in_flight(server: Server, store: str, r1: str) -> None:
    """A request in its handler during the logout does not log the user in again, whichever process serves it."""
    pairs = [(one, other) for one in server.workers for other in server.workers]
    if server.name in ONE_AT_A_TIME:
        pairs = [(one, other) for one, other in pairs if one != other]
    for here, there in pairs:
        browser = server.browser(store)
        browser.go("login?user=alice")
        copied = browser.header()
        with browser.in_flight(r1, on=here) as late:
            browser.go("logout", on=there)
        answer = browser.receive(late.result())
        assert answer.sent() == {}
        assert browser.go("read") is None
        assert [browser.fetch("read", on=worker, header=copied).result for worker in server.workers] == [
            None for _ in server.workers
        ]


def test_file(server: Server) -> None:
    """A response through the server's own ``wsgi.file_wrapper`` arrives whole, with its headers and a lease."""
    browser = server.browser("sqlite")
    browser.go("login?user=alice")
    answer = browser.receive(browser.fetch("file"))
    content = Path(http_app.__file__).read_bytes()
    assert answer.body == content
    assert answer.header("Content-Length") == str(len(content))
    assert answer.header("Content-Type") == "text/x-python"
    assert answer.header("X-File-Wrapper") not in (None, "none")
    assert [name.endswith("-lease") for name in answer.sent()] == [True]


def test_large_stream(server: Server) -> None:
    """A large response of unknown length arrives whole, with what its generator stored before the first byte."""
    browser = server.browser("sqlite")
    answer = browser.receive(browser.fetch("stream"))
    assert answer.body == b"x" * http_app.LARGE
    assert browser.go("read?key=streamed") is True


def test_write_callable(server: Server) -> None:
    """The session of an application that uses the ``write`` callable of PEP 3333 is kept."""
    browser = server.browser("sqlite")
    answer = browser.receive(browser.fetch("old-style"))
    assert answer.body == b"old-st"
    assert browser.go("read?key=written") is True


def test_one_process_store_under_several_processes(tmp_path: Path) -> None:
    """memory:// behind several processes answers 500 and says in the log which option is wrong, and why."""
    with gunicorn(tmp_path, {"memory": {"revocations": "memory://"}}, worker_class="sync") as running:
        with pytest.raises(AssertionError, match="500"):
            running.browser("memory").fetch("read")
    assert "revocations: requires a store that all processes share" in running.log.read_text()


def test_one_process_store_under_one_process(tmp_path: Path) -> None:
    """memory:// serves threads of one process."""
    mounts = {"memory": {"revocations": "memory://", "amnesia": "accept", "renew_after": 0}}
    with gunicorn(tmp_path, mounts, workers=1, worker_class="gthread", threads=4) as running:
        browser = running.browser("memory")
        browser.go("login?user=alice")
        with browser.in_flight("write") as late:
            browser.go("logout")
        browser.receive(late.result())
        assert browser.go("read") is None


# The protocol


def test_validate_around_and_inside() -> None:
    """``wsgiref.validate`` has nothing to say about either side of the filter, whatever it does."""
    clock = Clock()

    application = wrap(clock, validator(_with_errors), renew_after=0)
    browser = Browser(validator(application), clock)
    browser.do(get("user"))
    browser.do(login("alice"))
    browser.do(put("cart", [1]))
    assert browser.do(who) == "alice"
    assert browser.receive(browser.call(put("cart", [2]), **{"test.fails": True})).status.startswith("500")
    assert browser.do(get("cart")) == [2]
    assert browser.do(who) == "alice"
    browser.do(logout)
    browser.do(logout)
    assert browser.do(who) is None


def _with_errors(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body: Iterable[bytes] = dispatch(environ, start_response)
    if environ.get("test.fails"):
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
            body = [b"failed"]
    return body


def test_the_body_is_left_alone() -> None:
    """What the application returns is what the server gets: the same object, so that it can use sendfile."""

    class FileWrapper(io.BytesIO):
        pass

    body = FileWrapper(b"file")
    started: list[Any] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ[SESSION]["seen"] = True
        start_response("200 OK", [])
        return body

    environ = {"wsgi.multiprocess": False, "wsgi.file_wrapper": FileWrapper}
    assert wrap(Clock(), application)(environ, lambda *arguments: started.append(arguments)) is body
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert "Set-Cookie" in dict(started[0][1])


def test_write_callable_is_the_servers() -> None:
    """``start_response`` returns the server's own ``write``."""
    writes: list[Any] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["test.holder"]["result"] = start_response("200 OK", [])
        return []

    def start_response(status: str, headers: Any) -> Any:
        return writes.append

    holder: dict[str, Any] = {}
    wrap(Clock(), application)({"wsgi.multiprocess": False, "test.holder": holder}, start_response)
    holder["result"](b"data")
    assert writes == [b"data"]


def test_several_set_cookie_headers_reach_the_client(server: Server) -> None:
    """All Set-Cookie headers of one response arrive: a login beside two dead sessions sends four."""
    browser = server.browser("sqlite")
    dead: dict[str, Any] = {}
    for _ in range(2):
        browser.go("login?user=alice")
        dead |= browser.jar
        browser.go("logout")
    browser.jar = dict(dead)
    answer = browser.receive(browser.fetch("login?user=bob"))
    assert sorted(bool(value) for value in answer.sent().values()) == [False, False, True, True]
    assert len(browser.sessions) == 1
    assert len(browser.jar) == 2
