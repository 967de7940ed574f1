"""examples/flask_app.py, pyramid_app.py and plain_wsgi.py, started as their first lines say, and used over HTTP."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest

from wsgi_rollsession.testing import Cookies

from ..servers import HOST, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


COMMANDS: dict[str, Sequence[str]] = {
    "flask_app": ("-m", "flask", "--app", str(EXAMPLES / "flask_app.py"), "run", "-p"),
    "pyramid_app": (str(EXAMPLES / "pyramid_app.py"),),
    "plain_wsgi": (str(EXAMPLES / "plain_wsgi.py"),),
}


@pytest.fixture(scope="module", params=COMMANDS)
def example(request: pytest.FixtureRequest) -> str:
    """Its name."""
    return str(request.param)


@pytest.fixture(scope="module")
def port(example: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the example listens."""
    number, log = free_port(), tmp_path_factory.mktemp("example") / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLSESSION")}
    environment |= {"PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, *COMMANDS[example], str(number)]
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
        self.port, self.cookies, self.hidden = port, Cookies(), {"": ""}

    def go(self, path: str = "/", **form: str) -> str:
        """GET, or POST of the page's form, and follow the redirection: what the page says."""
        status, page = self.send(path, form | self.hidden)
        assert status == 200, (path, status, page)
        return " ".join(re.sub(r"<(title|form).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL).split())

    def send(self, path: str, form: dict[str, str]) -> tuple[int, str]:
        """The status and the page that a request ends on."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        headers = {"Cookie": self.cookies.header, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("GET" if path == "/" else "POST", path, urlencode(form), headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        self.cookies.receive(response.headers.get_all("Set-Cookie", []))
        self.hidden = dict(re.findall('type="hidden" name="([^"]+)" value="([^"]+)"', body)) or self.hidden
        return self.send("/", {}) if response.status in (302, 303) else (response.status, body)

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
    assert thief.copied().go() == "Nobody has nothing."


def test_everywhere(port: int) -> None:
    """Logging out everywhere reaches the other device, remembered or not, and nobody else."""
    laptop, phone, bob = (Person(port) for _ in range(3))
    for person, name, password, wish in (
        (laptop, "alice", "wonderland", {}),
        (phone, "alice", "wonderland", {"remember": "on"}),
        (bob, "bob", "builder", {}),
    ):
        person.go()
        person.go("/login", name=name, password=password, **wish)
    assert "remember_token" not in phone.cookies
    assert laptop.go("/logout-everywhere") == "Goodbye, everywhere. Nobody has nothing."
    assert [each.go() for each in (laptop, phone, bob)] == ["Nobody has nothing."] * 2 + ["bob has nothing."]


@pytest.mark.parametrize("example", ["pyramid_app", "plain_wsgi"], indirect=True)
def test_forms_of_other_sites(port: int) -> None:
    """A form without the page's token is refused. (Flask's own forms have none.)"""
    person = Person(port)
    person.go()
    assert person.send("/add", {"item": "tea", "csrf_token": "x", "token": "x"})[0] == 400
    assert person.go() == "Nobody has nothing."
