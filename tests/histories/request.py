"""One request, and the application that does what it is told to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from wsgi_rollsession.middleware import SESSION

from .model import Held, Life, Visit
from .world import SLOT, Browser, Call, Cookie, Process


class Failure(RuntimeError):
    """What the application raises."""


class Logs(logging.Handler):
    """Counts the lines about what requests present."""

    infos = 0

    def handle(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO and " cookie " in record.getMessage():
            self.infos += 1
        return True


class Request:
    """One request, from its sending to the arrival of its answer."""

    def __init__(self, number: int, browser: Browser | None, process: Process, pairs: list[tuple[str, str]]) -> None:
        self.number, self.browser, self.process, self.pairs = number, browser, process, pairs
        self.turn = browser.turn if browser is not None else -1
        self.sent_at = 0  # the event
        self.state = "sent"
        self.junk = False
        self.environ: dict[str, Any] = {}
        self.session: Any = None
        self.start: Any = None
        self.steps: Iterator[bytes] = iter(())
        self.job: Callable[[], None] | None = None
        self.started: list[tuple[str, str]] | None = None
        self.visit: Visit | None = None
        #: What it presents that is authentic to its process, and by which names.
        self.presented: list[tuple[Cookie, Held]] = []
        self.others: list[tuple[Life, bool]] = []  # other logins that were alive at the load, and whether surely
        self.acts: set[str] = set()
        self.begun: list[Life] = []  # the logins that began in it
        self.turns = False  # it carries a login or a logout
        self.deletes = False  # something that has been done deletes cookies
        self.known: set[str] = set()  # the values that this response carries in any case
        self.busy = False
        self.blurred = False  # nobody can say where it stands
        self.committed_at = 0
        self.wanted = self.extends = True  # whether its response may extend the session, and did not fail to
        self.answer: list[tuple[str, str | None, int | None]] = []
        self.calls: list[Call] = []  # of the last thing that it did, and the event before it
        self.start_event = 0

    @property
    def began(self) -> int:
        """When what begins in it begins, if it was not answered: when it asked."""
        return next((each.event for each in self.calls if not each.answered), self.start_event)

    @property
    def is_untold(self) -> bool:
        """Whether the browser had forgotten the slot: its Max-Age was over."""
        return self.turn > 0 and all(name != SLOT for name, _ in self.pairs)

    @property
    def degraded(self) -> bool:
        """Whether it was not answered what it asked about itself, when it asked last."""
        return any(not each.answered and each.method != "fence" for each in self.calls)

    def body(self) -> Iterator[bytes]:
        """The application: does one thing after another, as it is told to."""
        while True:
            yield b""
            if self.job is None:
                return
            self.job()


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """The wrapped application."""
    request = environ["test.request"]
    request.session, request.start = environ[SESSION], start_response
    return request.body()  # type: ignore[no-any-return]


def cookies_of(headers: Sequence[tuple[str, str]] | None) -> list[tuple[str, str | None, int | None]]:
    """The cookies of a response: name, value (None: it is deleted) and Max-Age."""
    found: list[tuple[str, str | None, int | None]] = []
    for header, text in headers or ():
        if header == "Set-Cookie":
            pair, _, attributes = text.partition("; ")
            name, _, value = pair.partition("=")
            age = int(attributes[8:].partition(";")[0]) if attributes.startswith("Max-Age=") else None
            found.append((name, None if age == 0 and not value else value, age))
    return found
