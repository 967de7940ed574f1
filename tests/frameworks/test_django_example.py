"""examples/django_app.py, started as its first lines say, and used as a browser would."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

pytest.importorskip("django")

from wsgi_rollsession.testing import Cookies

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_app.py"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where it listens."""
    environment = {"EXAMPLE_FOLDER": str(tmp_path), "PYTHONPATH": str(EXAMPLE.parents[1])}
    command = [sys.executable, str(EXAMPLE), "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = None
            for line in process.stdout:
                if found := re.search(r"localhost:(\d+)", line):
                    break
            assert found, "it has not started"
            yield int(found[1])
        finally:
            process.terminate()


class Visitor:
    """A browser at it."""

    def __init__(self, port: int, cookies: Cookies | None = None) -> None:
        self.port, self.cookies = port, cookies if cookies is not None else Cookies()

    def visit(self, path: str, **form: str) -> str:
        """The page that a request ends on. With *form*, it is sent as the page's form would be."""
        connection = HTTPConnection("localhost", self.port, timeout=20)
        headers = {"Cookie": self.cookies.header}
        if form:
            page = self.visit("/login/" if path == "/login/" else "/")
            form |= {"csrfmiddlewaretoken": re.findall('csrfmiddlewaretoken" value="([^"]+)"', page)[0]}
            headers = {"Cookie": self.cookies.header, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST" if form else "GET", path, urlencode(form) if form else None, headers)
        response = connection.getresponse()
        body = response.read().decode()
        self.cookies.receive(response.headers.get_all("Set-Cookie") or [])
        connection.close()
        return self.visit(response.headers["Location"]) if response.status == 302 else body


def test_the_example(port: int) -> None:
    """Alice logs in and counts; after her logout, a copy of her cookies is nobody's."""
    alice = Visitor(port)
    assert "nobody, visit 1" in alice.visit("/")
    assert "alice, visit 2" in alice.visit("/login/", username="alice", password="wonderland")
    thief = Visitor(port, Cookies(alice.cookies))
    assert "alice, visit 3" in alice.visit("/")
    assert "alice, visit 3" in thief.visit("/")
    alice = Visitor(port, alice.cookies)
    assert "nobody, visit 1" in alice.visit("/logout/", logout="1")
    thief = Visitor(port, Cookies(thief.cookies))
    assert "nobody, visit 1" in thief.visit("/")
