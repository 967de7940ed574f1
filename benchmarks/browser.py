"""A browser reduced to its cookie jar, and the two ways in which it reaches a contender."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from .tiny import SECONDS, Gates


@dataclass(frozen=True)
class Response:
    status: int
    set_cookies: tuple[str, ...]
    body: bytes
    location: str | None = None

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except ValueError:
            value = {}
        return value if isinstance(value, dict) else {}


class Server(Protocol):
    gates: Any

    def request(self, path: str, cookies: dict[str, str]) -> Response: ...


def make_environ(path: str, cookies: dict[str, str]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if cookies:
        environ["HTTP_COOKIE"] = cookie_header(cookies)
    return environ


def cookie_header(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


class WSGIServer:
    """Calls a WSGI application directly, in the calling thread."""

    def __init__(self, application: Callable[..., Any], gates: Gates) -> None:
        self.application = application
        self.gates = gates

    def request(self, path: str, cookies: dict[str, str]) -> Response:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
            started[:] = [status, headers]
            return lambda data: None

        result = self.application(make_environ(path, cookies), start_response)
        try:
            body = b"".join(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        status, headers = started
        set_cookies = tuple(value for name, value in headers if name.lower() == "set-cookie")
        return Response(int(status[:3]), set_cookies, body)


class HTTPGates:
    """The gates of a contender in another process, moved over HTTP."""

    saw = None

    def __init__(self, server: HTTPServer) -> None:
        self._server = server

    def arm(self, name: str) -> None:
        self._server.request(f"/_gates/arm?name={name}", {})

    def entered(self, name: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            if self._server.request(f"/_gates/entered?name={name}", {}).body == b"true":
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)

    def release(self, name: str) -> None:
        self._server.request(f"/_gates/release?name={name}", {})


class HTTPServer:
    """Reaches a contender over HTTP on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.gates = HTTPGates(self)

    def request(self, path: str, cookies: dict[str, str]) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            headers = {"Host": f"localhost:{self.port}"}
            if cookies:
                headers["Cookie"] = cookie_header(cookies)
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            set_cookies = tuple(reply.headers.get_all("Set-Cookie") or ())
            return Response(reply.status, set_cookies, reply.read(), reply.headers["Location"])
        finally:
            connection.close()


class Browser:
    """A cookie jar keyed by name that applies ``Set-Cookie`` in order of arrival, deletions included."""

    def __init__(self, server: Server, jar: dict[str, str] | None = None) -> None:
        self.server = server
        self.jar = dict(jar or {})

    def copy(self) -> Browser:
        """The same cookies in other hands: what a thief has, or a look that must not change the browser."""
        return Browser(self.server, self.jar)

    def send(self, path: str) -> Response:
        """Send a request; its response has not reached the browser yet (see ``receive``)."""
        return self.server.request(path, self.jar)

    def receive(self, response: Response) -> None:
        for header in response.set_cookies:
            name, value, gone = parse_set_cookie(header, time.time())
            self.jar.pop(name, None)
            if not gone:
                self.jar[name] = value

    def get(self, path: str) -> Response:
        """Send a request, receive its response, and follow redirects as a browser does."""
        following: str | None = path
        while following is not None:
            response = self.send(following)
            self.receive(response)
            following = self._redirected(response)
        return response

    def get_at_once(self, path: str, tabs: int) -> None:
        """Open *path* in several tabs at once: all are sent before the first answer arrives, and so are redirects."""
        paths = [path] * tabs
        while paths:
            responses = [self.send(each) for each in paths]
            for response in responses:
                self.receive(response)
            paths = [there for response in responses if (there := self._redirected(response)) is not None]

    def _redirected(self, response: Response) -> str | None:
        """Where the browser goes next on this server, be it by way of another origin; None if it stays."""
        while response.location is not None and 300 <= response.status < 400:
            there = urlsplit(response.location)
            path = f"{there.path or '/'}?{there.query}" if there.query else there.path or "/"
            port = there.port if there.hostname else None
            if port is None or port == getattr(self.server, "port", None):
                return path
            # The OpenID provider: another origin, which gets none of these cookies.
            response = HTTPServer(port).request(path, {})
        return None

    @property
    def header_bytes(self) -> int:
        """The length of the ``Cookie`` header field as a server receives it, its name and line end included."""
        return len(f"Cookie: {cookie_header(self.jar)}\r\n")

    def me(self) -> dict[str, Any]:
        """Who the server takes the holder of these cookies for; the browser itself does not change."""
        return self.copy().get("/me").json()

    def user(self) -> str | None:
        return self.me().get("user")


class Flight:
    """A request on its way. ``land`` waits for its response and lets it reach the browser."""

    def __init__(self, browser: Browser, path: str) -> None:
        self._browser, self._path = browser, path
        self._jar = browser.copy()
        self._response: Response | BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._response = self._jar.send(self._path)
        except BaseException as error:  # handed to the thread that waits for it
            self._response = error

    def held(self, gate: str) -> bool:
        """Wait until the request is held at *gate*. False if it was answered without coming there."""
        for _ in range(int(SECONDS / 0.05)):
            if self._browser.server.gates.entered(gate, 0.05):
                return True
            if not self._thread.is_alive():
                return False
        raise TimeoutError(f"{self._path} neither reached the {gate} gate nor was answered")

    def answered(self) -> Response:
        """Wait for the response, without giving it to the browser."""
        self._thread.join(SECONDS)
        if isinstance(self._response, BaseException):
            raise self._response
        if self._response is None:
            raise TimeoutError(f"no answer to {self._path}")
        return self._response

    def land(self) -> Response:
        response = self.answered()
        self._browser.receive(response)
        return response


def parse_set_cookie(header: str, now: float) -> tuple[str, str, bool]:
    """Name, value, and whether the header deletes the cookie (RFC 6265, 5.2 and 5.3: Max-Age before Expires)."""
    pair, *attributes = header.split(";")
    name, _, value = pair.partition("=")
    found = {}
    for attribute in attributes:
        key, _, text = attribute.partition("=")
        found[key.strip().lower()] = text.strip()
    gone = False
    if "max-age" in found:
        gone = int(found["max-age"]) <= 0
    elif "expires" in found:
        gone = parsedate_to_datetime(found["expires"]).timestamp() <= now
    return name.strip(), value.strip(), gone
