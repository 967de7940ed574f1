"""examples/flask_app.py, started as its first lines say, and used over HTTP."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from wsgi_rollsession.testing import Cookies

from ..servers import HOST, free_port

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The example behind ``flask run``."""
    number = free_port()
    log = tmp_path_factory.mktemp("flask") / "log"
    command = [
        sys.executable,
        "-m",
        "flask",
        "--app",
        str(ROOT / "examples" / "flask_app.py"),
        "run",
        "-p",
        str(number),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLSESSION")}
    environment |= {"PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((HOST, number), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield number
    finally:
        process.terminate()
        process.wait(10)


class Person:
    """A browser."""

    def __init__(self, port: int) -> None:
        self.port, self.cookies = port, Cookies()

    def go(self, path: str = "/", **form: str) -> str:
        """GET, or POST of a form, and follow the redirection: what the page says."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        headers = {"Cookie": self.cookies.header, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("GET" if path == "/" else "POST", path, urlencode(form), headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        self.cookies.receive(response.headers.get_all("Set-Cookie", []))
        if response.status == 302:
            return self.go()
        assert response.status == 200, (path, response.status, body)
        return " ".join(re.sub(r"<(title|form).*?</\1>|<[^>]*>", "", body, flags=re.DOTALL).split())

    def copied(self) -> Person:
        """A thief."""
        thief = Person(self.port)
        thief.cookies = Cookies(self.cookies)
        return thief


def test_the_story(port: int) -> None:
    """A cart is filled, goes into the login and out of it; a copy of the cookies from before the logout is nobody's."""
    alice = Person(port)
    assert alice.go() == "Nobody has nothing."
    assert alice.go("/add", item="tea") == "Nobody has tea."
    assert alice.go("/login", name="alice", password="looking-glass") == "Wrong name or password. Nobody has tea."
    assert alice.go("/login", name="alice", password="wonderland") == "Welcome. alice has tea."
    assert alice.go("/add", item="milk") == "alice has tea, milk."
    thief = alice.copied()
    assert thief.go() == "alice has tea, milk."
    assert alice.go("/logout") == "Goodbye. Nobody has tea, milk."
    assert thief.go() == "Nobody has nothing."


def test_everywhere(port: int) -> None:
    """Logging out everywhere reaches the other device, remembered or not."""
    laptop, phone, bob = (Person(port) for _ in range(3))
    laptop.go("/login", name="alice", password="wonderland")
    phone.go("/login", name="alice", password="wonderland", remember="on")
    bob.go("/login", name="bob", password="builder")
    assert "remember_token" not in phone.cookies
    assert laptop.go("/logout-everywhere") == "Goodbye, everywhere. Nobody has nothing."
    assert [each.go() for each in (laptop, phone, bob)] == ["Nobody has nothing."] * 2 + ["bob has nothing."]
