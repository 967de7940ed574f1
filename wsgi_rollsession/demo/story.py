"""The story of the race, played over real HTTP by a client that keeps cookies as a browser does."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

HOST = "127.0.0.1"
ROLLSESSION, PLAIN = KINDS = ("rollsession", "plain")


class Phase(Enum):
    """Where in the race a step is."""

    IN_FLIGHT = "sent, and not answered yet"
    ANSWERED = "sent and answered"
    LATE = "sent before, and answered now"


@dataclass(frozen=True)
class Change:
    """One Set-Cookie header, as far as the story is concerned."""

    name: str
    value: str
    deletes: bool

    @classmethod
    def parse(cls, header: str) -> Change:
        pair, *attributes = (part.strip() for part in header.split(";"))
        name, _, value = pair.partition("=")
        return cls(name, value, deletes="max-age=0" in (each.lower() for each in attributes))

    @property
    def kind(self) -> str:
        """Which of the two sessions it belongs to."""
        return PLAIN if self.name.endswith(PLAIN) else ROLLSESSION


@dataclass(frozen=True)
class Step:
    """A request and what came of it, as observed by the client."""

    title: str
    phase: Phase
    worker: int  # process id
    #: By kind: who the application says this is. Empty without an answer.
    users: dict[str, str | None] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Round:
    """How one round came out."""

    user_after_login: dict[str, str | None]
    user_after_logout: dict[str, str | None]
    user_at_the_end: dict[str, str | None]
    workers: frozenset[int]

    @property
    def took_place(self) -> bool:
        """Whether both logins and both logouts worked as long as nothing was late: otherwise it says nothing."""
        both, nobody = {ROLLSESSION: "alice", PLAIN: "alice"}, {ROLLSESSION: None, PLAIN: None}
        return self.user_after_login == both and self.user_after_logout == nobody

    @property
    def held(self) -> bool:
        return self.took_place and self.user_at_the_end[ROLLSESSION] is None

    @property
    def plain_came_back(self) -> bool:
        return self.took_place and self.user_at_the_end[PLAIN] == "alice"


class Browser:
    """Keeps cookies by name, in the order in which answers *arrive*. Sends what it has when a request *leaves*."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[http.client.HTTPConnection] = []
        self.cookies: dict[str, str] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *unused: object) -> None:
        for connection in self._open:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=30)
        self._open.append(connection)
        return connection

    def send(self, connection: http.client.HTTPConnection, method: str, path: str) -> None:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, headers={"Cookie": cookies} if cookies else {})

    def receive(self, connection: http.client.HTTPConnection, title: str, phase: Phase = Phase.ANSWERED) -> Step:
        answer = _json(connection)
        changes = tuple(Change.parse(header) for header in answer["set"])
        for change in changes:
            self.cookies.pop(change.name, None)
            if not change.deletes:
                self.cookies[change.name] = change.value
        users = {kind: answer[kind] for kind in (ROLLSESSION, PLAIN) if kind in answer}
        return Step(title, phase, answer["worker"], users, changes)

    def fetch(self, method: str, path: str, connection: http.client.HTTPConnection | None = None) -> Step:
        connection = connection or self.connect()
        self.send(connection, method, path)
        return self.receive(connection, f"{method} {path.partition('?')[0]}")

    def connect_to_another_worker(self, worker: int) -> http.client.HTTPConnection:
        """A connection to a process other than *worker*, so that the race is one of processes; any, failing that."""
        for _ in range(200):
            connection = self.connect()
            connection.request("GET", "/cookies")
            if _json(connection)["worker"] != worker:
                break
        return connection


def play(port: int, slow: str) -> Iterator[Step | Round]:
    """Play the race once: the steps as they happen, then how it came out.

    Args:
        slow: where ``/update`` takes its time: in the ``application``, or, answered already, on the ``network``.
    """
    gate = secrets.token_hex(8)
    with Browser(port) as browser:
        login = browser.fetch("POST", "/login?user=alice")
        yield login

        late, control = browser.connect(), browser.connect()
        browser.send(late, "POST", f"/update?slow={slow}&gate={gate}")
        deadline = time.monotonic() + 30
        while (worker := _ask(control, "GET", gate)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("/update did not reach the application within 30 s")
            time.sleep(0.005)
        yield Step("POST /update", Phase.IN_FLIGHT, worker)

        logout = browser.fetch("POST", "/logout", browser.connect_to_another_worker(worker))
        yield logout
        between = browser.fetch("GET", "/whoami")
        yield between

        _ask(control, "POST", gate)
        update = browser.receive(late, "POST /update arrives late", Phase.LATE)
        yield update
        end = browser.fetch("GET", "/whoami")
        yield end
    yield Round(login.users, between.users, end.users, frozenset((update.worker, logout.worker)))


def _ask(connection: http.client.HTTPConnection, method: str, gate: str) -> int | None:
    connection.request(method, f"/gate?gate={gate}")
    worker = _json(connection)["worker"]
    return None if worker is None else int(worker)


def _json(connection: http.client.HTTPConnection) -> dict[str, Any]:
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ConnectionError(f"the demo answered {response.status} {response.reason}")
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer
