"""What real pages do, in a real Chromium: many images, many tabs, a logout in the middle, the back button."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from wsgi_rollsession import RollSession, Session, generate_key
from wsgi_rollsession.middleware import SESSION

from ..chromium import chromium

__all__ = ["chromium"]

IMAGE = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00"
IMAGE += b"\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
#: How many connections to one host a browser has.
CONNECTIONS = 6


class Site:
    """A site whose requests wait where a test tells them to."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.entered: dict[str, threading.Event] = {}
        self.longest_header = 0
        self.together = threading.Barrier(CONNECTIONS)

    def gate(self, name: str) -> None:
        """Let requests that pass ``gate=name`` wait."""
        self.gates[name], self.entered[name] = threading.Event(), threading.Event()

    def _wait(self, name: str | None) -> None:
        if name is not None:
            self.entered[name].set()
            assert self.gates[name].wait(20)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        session, path, query = environ[SESSION], environ["PATH_INFO"], dict(parse_qsl(environ.get("QUERY_STRING", "")))
        self.longest_header = max(self.longest_header, len(environ.get("HTTP_COOKIE", "")))
        headers = [("Content-Type", "text/html; charset=utf-8")]
        body = b"ok"
        if path == "/gallery":
            body = b"".join(b'<img src="/image?n=%d">' % n for n in range(30))
        elif path == "/image":
            session[f"seen-{query['n']}"] = True
            headers, body = [("Content-Type", "image/gif")], IMAGE
        elif path == "/tabs":
            body = b"".join(b'<iframe src="/login?together=1&size=2000&n=%d"></iframe>' % n for n in range(15))
        elif path == "/login":
            self._log_in(session, query)
        elif path == "/logout":
            session.invalidate()
        elif path == "/role":
            session.get("user_id")
            self._wait(query.get("before"))
            session.regenerate()
        elif path == "/private":
            headers.append(("Cache-Control", "no-store"))
            body = f"<p id=who>{session.get('user_id')}</p>".encode()
        elif path == "/me":
            body = str(session.get("user_id")).encode()
        start_response("200 OK", headers)
        self._wait(query.get("after"))  # the answer is decided on, and under way
        yield body

    def _log_in(self, session: Session, query: dict[str, str]) -> None:
        if "together" in query:
            try:
                self.together.wait(2)
            except threading.BrokenBarrierError:  # the last ones are fewer
                self.together.reset()
        session["user_id"] = "alice"
        session["pad"] = "x" * int(query.get("size", "0"))


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    """The site, by http on localhost, where Chromium accepts Secure cookies."""
    application = RollSession(
        site, keys=generate_key(), revocations="memory://", amnesia="accept", identity_key="user_id", renew_after=0
    )
    server = make_server("localhost", 0, application, Server, Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def names(browser: webdriver.Chrome) -> list[str]:
    """The cookies that the browser itself says it holds, HttpOnly ones included."""
    return sorted(each["name"] for each in browser.get_cookies())


def fetch(browser: webdriver.Chrome, path: str) -> str:
    """What a script of the page gets."""
    script = "const done = arguments[arguments.length - 1]; fetch(arguments[0]).then(r => r.text()).then(done)"
    return str(browser.execute_async_script(script, path))


def begin(browser: webdriver.Chrome, path: str) -> None:
    """Let a script of the page send a request, and not wait for it."""
    browser.execute_script("window.late = fetch(arguments[0]).then(r => r.text())", path)


def arrive(browser: webdriver.Chrome) -> None:
    """Wait for what ``begin`` has sent."""
    browser.execute_async_script("window.late.then(arguments[0])")


def test_a_first_visit_with_thirty_images(chromium: webdriver.Chrome, site: Site, address: str) -> None:
    """Thirty requests in parallel, each of which begins a session, leave one cookie."""
    chromium.get(f"{address}/gallery")
    assert chromium.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth)")
    assert [name for name in names(chromium) if "lease" not in name] == ["__Host-session"]
    site.longest_header = 0
    assert fetch(chromium, "/me") == "None"
    assert site.longest_header < 2000


def test_fifteen_tabs_log_in_at_once(chromium: webdriver.Chrome, site: Site, address: str) -> None:
    """Fifteen logins of 2 kB each, as many at once as the browser allows, leave one login, and it is answered."""
    chromium.get(f"{address}/tabs")
    WebDriverWait(chromium, 30).until(lambda _: "__Host-session-slot" in names(chromium))
    site.longest_header = 0
    assert fetch(chromium, "/me") == "alice"
    assert len([name for name in names(chromium) if "lease" not in name and "slot" not in name]) == 1
    assert site.longest_header < 4200


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_logout_while_a_regenerate_is_under_way(
    chromium: webdriver.Chrome, site: Site, address: str, when: str
) -> None:
    """A role changes; its answer is held back, before or after it is decided on; the user logs out; it arrives."""
    chromium.get(f"{address}/login")
    site.gate("role")
    begin(chromium, f"/role?{when}=role")
    assert site.entered["role"].wait(20)
    fetch(chromium, "/logout")
    site.gates["role"].set()
    arrive(chromium)
    assert fetch(chromium, "/me") == "None"


def test_the_back_button_after_a_logout(chromium: webdriver.Chrome, site: Site, address: str) -> None:
    """A page that says ``no-store`` is asked for again by the back button, and the session has ended."""
    chromium.get(f"{address}/login")
    chromium.get(f"{address}/private")
    assert chromium.find_element(By.ID, "who").text == "alice"
    chromium.get(f"{address}/logout")
    chromium.back()
    WebDriverWait(chromium, 10).until(lambda _: chromium.current_url.endswith("/private"))
    assert chromium.find_element(By.ID, "who").text == "None"
