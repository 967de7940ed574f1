"""A browser's cookie jar, a clock that stands still, and an application whose handler each test brings."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from wsgi_rollsession import RollSession, RollSessionError, Session, SessionConflict, StoreUnavailable, generate_key
from wsgi_rollsession.middleware import SESSION
from wsgi_rollsession.revocation import Revocations, StoreOptions
from wsgi_rollsession.revocation.clock import SteadyClock
from wsgi_rollsession.revocation.fence import EVERYTHING
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.settings import Settings

Handler = Callable[[Session], Any]
KEY = generate_key()
#: Later than any real clock, with which some stores begin; and early enough for an unsigned 32-bit number.
START = 4_000_000_000.0


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._stepped = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def step(self, seconds: float) -> None:
        """Set the clock: no time passes."""
        self.now += seconds
        self._stepped += seconds

    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets."""
        return self.now - self._stepped


class Answer:
    """A response, not yet seen by the browser."""

    def __init__(self, status: str, headers: list[tuple[str, str]], result: Any, body: bytes) -> None:
        self.status, self.headers, self.result, self.body = status, headers, result, body

    @property
    def set_cookies(self) -> list[str]:
        """The values of its Set-Cookie headers, without the blanks around them, which no client sees."""
        return [value.strip() for name, value in self.headers if name.lower() == "set-cookie"]

    def header(self, name: str) -> str | None:
        """The value of a header that occurs once."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, found
        return found[0] if found else None

    def sent(self) -> dict[str, str]:
        """What it sets, by name; a deletion is an empty value."""
        return {cookie.partition("=")[0]: cookie.partition("=")[2].partition(";")[0] for cookie in self.set_cookies}

    def issued(self) -> dict[str, str]:
        """What it sets, without what it deletes, and without the slot."""
        return {name: value for name, value in self.sent().items() if value and not name.endswith("-slot")}

    def max_ages(self) -> list[int]:
        """The Max-Age of everything that it sets, but for the slot; of deletions too."""
        found = [re.search("; Max-Age=([^;]*)", each) for each in self.set_cookies if "-slot=" not in each]
        return [int(each[1]) for each in found if each is not None]


class Browser:
    """A cookie jar that obeys Max-Age and the rules of cookie prefixes, and applies answers in order of arrival."""

    def __init__(self, application: Callable[..., Iterable[bytes]], clock: Clock | None = None) -> None:
        self.application = application
        self.clock = clock or Clock()
        self.jar: dict[str, tuple[str, float | None, str]] = {}  # value, expiry, attributes
        self.partition: dict[
            str, tuple[str, float | None, str]
        ] = {}  # those that are Partitioned: others, to a browser

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that would be sent, by name."""
        return dict(self._sent())

    @property
    def sessions(self) -> dict[str, str]:
        """The session cookies that would be sent, by name: leases and the slot are none."""
        return {name: value for name, value in self.cookies.items() if not name.endswith(("-lease", "-slot"))}

    def _sent(self) -> list[tuple[str, str]]:
        now = self.clock()
        kept = [*self.jar.items(), *self.partition.items()]
        return [(name, value) for name, (value, expires, _) in kept if expires is None or expires > now]

    def header(self) -> str:
        """The Cookie header."""
        return "; ".join(f"{name}={value}" for name, value in self._sent())

    def copied(self) -> Browser:
        """One that holds what this one holds now, and keeps it whatever Max-Age says: a thief's."""
        thief = Browser(self.application, self.clock)
        thief.jar = {name: (value, None, rest) for name, (value, _, rest) in self.jar.items()}
        thief.partition = {name: (value, None, rest) for name, (value, _, rest) in self.partition.items()}
        return thief

    def call(self, handler: Handler, *, header: str | None = None, **environ: Any) -> Answer:
        """Send a request whose answer has not arrived yet."""
        return call(self.application, handler, self.header() if header is None else header, **environ)

    def receive(self, answer: Answer) -> Answer:
        """Let an answer arrive."""
        for cookie in answer.set_cookies:
            pair, *attributes = cookie.split("; ")
            name, _, value = pair.partition("=")
            lowered = [each.lower() for each in attributes]
            if name.startswith("__Host-"):
                assert "secure" in lowered and "path=/" in lowered, cookie
                assert not any(each.startswith("domain=") for each in lowered), cookie
            age = next((int(each[8:]) for each in lowered if each.startswith("max-age=")), None)
            rest = "; ".join(each for each in attributes if not each.lower().startswith("max-age="))
            jar = self.partition if "partitioned" in lowered else self.jar
            if age is not None and age <= 0:
                if name in jar:
                    assert jar[name][2] == rest, "a deletion repeats the attributes"
                    del jar[name]
            else:
                jar[name] = (value, None if age is None else self.clock() + age, rest)
        return answer

    def take(self, answer: Answer) -> None:
        """Receive an answer as a thief does, who obeys no deletion."""
        kept = [("Set-Cookie", each) for each in answer.set_cookies if "Max-Age=0" not in each]
        self.receive(Answer(answer.status, kept, None, b""))

    def do(self, handler: Handler, **environ: Any) -> Any:
        """A request and its answer; the handler's result."""
        return self.receive(self.call(handler, **environ)).result


class Steps:
    """A request whose parts happen when the test says so: it is looked up, handled, answered.

    An answer that cannot start for one of our errors starts again, as an error page; ``error`` tells.
    """

    def __init__(self, browser: Browser, header: str | None = None) -> None:
        self.sessions = browser.application.sessions  # type: ignore[attr-defined]
        self.session: Session = self.sessions.begin_header(browser.header() if header is None else header)
        self.error: RollSessionError | None = None

    def look(self) -> Steps:
        """Have the session loaded."""
        bool(self.session)
        return self

    def do(self, handler: Handler) -> Any:
        """Let the application do something; an error of ours ends that, and is kept."""
        try:
            return handler(self.session)
        except RollSessionError as error:
            self.error = error

    def answer(self, *headers: tuple[str, str]) -> Answer:
        """Decide on the response."""
        try:
            return Answer("200 OK", self.sessions.commit(self.session, "200 OK", list(headers)), None, b"")
        except RollSessionError as error:
            self.error = error
        status = "500 Internal Server Error"
        return Answer(status, self.sessions.commit(self.session, status, list(headers)), None, b"")


def call(application: Callable[..., Iterable[bytes]], handler: Handler, header: str, **environ: Any) -> Answer:
    """One request, by the WSGI protocol."""
    started: list[Any] = []
    holder: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started[:] = [status, headers]
        return lambda data: None

    full: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "test.handler": handler,
        "test.holder": holder,
        **environ,
    }
    if header:
        full["HTTP_COOKIE"] = header
    iterable = application(full, start_response)
    body = b"".join(iterable)
    close = getattr(iterable, "close", None)
    if close is not None:
        close()
    return Answer(started[0], started[1], holder.get("result"), body)


def dispatch(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The wrapped application: calls the request's handler with the session."""
    environ["test.holder"]["result"] = environ["test.handler"](environ[SESSION])
    start_response("200 OK", [("Content-Type", "text/plain"), *environ.get("test.headers", ())])
    return [b"ok"]


def with_error_page(error: type[Exception], status: str) -> Callable[..., list[bytes]]:
    """As ``dispatch``, but it answers with *status* when its handler, or the start of its response, raises *error*."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        try:
            return dispatch(environ, start_response)
        except error:
            start_response(status, [], sys.exc_info())
        return [b""]

    return application


#: An application with a page for conflicts.
answering = with_error_page(SessionConflict, "409 Conflict")


def settings(**options: Any) -> Settings:
    """What options mean, when nothing else is said."""
    return Settings.parse({"keys": KEY, "revocations": "memory://", **options})


def wrap(clock: Clock | None = None, application: Any = dispatch, **options: Any) -> RollSession:
    """The filter around an application, at a clock of the test's.

    ``revocations`` may be a URL, a callable that opens a store, or a store that the test has made. Without it, it is a
    store in memory that began long ago, at the same clock.
    """
    options.setdefault("keys", KEY)
    store = options.pop("revocations", "memory://")
    if clock is not None:
        options.setdefault("clock", clock)
        if store == "memory://":
            store = _running_for_long(clock)
    if not isinstance(store, str) and not callable(store):
        made: Revocations = store

        def store(_: StoreOptions) -> Revocations:
            return made

    wrapped = RollSession(application, revocations=store, **options)
    if isinstance(clock, Clock):
        # Held against the real monotonic clock, a clock that stands still would fall behind by as long as a test takes.
        wrapped.sessions._site.steady_clock = _steady(clock)
    return wrapped


def _steady(clock: Clock) -> SteadyClock:
    return SteadyClock(lambda: int(clock() * 1000), lambda: int(clock.monotonic() * 1000))


def open_browser(clock: Clock, application: Any = dispatch, **options: Any) -> Browser:
    """A browser before an application of its own. The store is as if it had been there for long."""
    return Browser(wrap(clock, application, **options), clock)


def logged_in(clock: Clock, user: str = "alice", **options: Any) -> Browser:
    """A browser in which somebody has just logged in, before an application of its own."""
    browser = open_browser(clock, **options)
    browser.do(login(user))
    return browser


def another(browser: Browser, **options: Any) -> RollSession:
    """The same application under other options, with the same store."""
    return wrap(browser.clock, **{"revocations": store_of(browser), **options})


def raced(clock: Clock, handlers: Sequence[Handler], **options: Any) -> Browser:
    """A browser that holds what requests have begun that did not know of each other, a second apart: four at most."""
    browser = open_browser(clock, **options)
    for handler in handlers:
        known = [each for each in browser.header().split("; ") if "-slot=" in each]
        browser.receive(browser.call(handler, header="; ".join(known)))
        clock.advance(1)
    assert len(browser.sessions) == len(handlers)
    return browser


def filter_of(browser: Browser) -> RollSession:
    """The application that the browser is in front of."""
    assert isinstance(browser.application, RollSession)
    return browser.application


def store_of(browser: Browser) -> Revocations:
    """The store behind the browser's application."""
    return filter_of(browser).sessions.revocations


def presenting(browser: Browser, header: str, handler: Handler | None = None) -> Any:
    """The result for somebody who sends *header*."""
    return call(browser.application, handler or who, header).result


def memory(clock: Clock, lifetime_s: float = 0) -> MemoryRevocations:
    """An empty store, whose clocks are the test's."""
    return MemoryRevocations(
        StoreOptions(lifetime_ms=int(lifetime_s * 1000)),
        _clock=lambda: int(clock() * 1000),
        _monotonic=lambda: int(clock.monotonic() * 1000),
    )


def _running_for_long(clock: Clock) -> Callable[[StoreOptions], MemoryRevocations]:
    """A store that has lost nothing in living memory: it accepts what was begun before the test."""

    def opened(options: StoreOptions) -> MemoryRevocations:
        running = False
        store = MemoryRevocations(
            options,
            _clock=lambda: int(clock() * 1000) if running else 0,
            _monotonic=lambda: int(clock.monotonic() * 1000) if running else 0,
        )
        running = True
        return store

    return opened


class Fragile:
    """A store that fails when the test says so, and counts what it is asked for authoritatively.

    Args:
        store: the one that answers until then.
    """

    _AUTHORITATIVE = frozenset(("lookup_now", "fence", "fence_now", "compare_and_raise"))

    def __init__(self, store: MemoryRevocations) -> None:
        self._store = store
        self.shared = store.shared
        self.asked: list[str] = []
        #: Everything fails, but for what a process knows.
        self.is_down = False
        #: The authoritative question of this number, from 0, fails; and if *does_it*, has been done all the same.
        self.fails_at: int | None = None
        self.does_it = False
        #: What happens before the authoritative question of a number, and after it.
        self.before: dict[int, Callable[[], object]] = {}
        self.after: dict[int, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        answer = getattr(self._store, name)
        if name not in self._AUTHORITATIVE and name != "lookup":
            return answer

        def ask(*arguments: Any) -> Any:
            number = len(self.asked) if name in self._AUTHORITATIVE else -1
            if number >= 0:
                self.asked.append(name)
                self.before.pop(number, bool)()
            fails = self.is_down or number == self.fails_at
            if fails and not (self.does_it and not self.is_down):
                raise StoreUnavailable("the test says so")
            result = answer(*arguments)
            self.after.pop(number, bool)()
            if fails:
                raise StoreUnavailable("the test says so, after it was done")
            return result

        return ask


class Lagging(MemoryRevocations):
    """A store whose loads answer from a copy that has not heard of anything yet, and which counts what it is asked."""

    def __init__(self, clock: Clock) -> None:
        now = lambda: int(clock() * 1000)  # noqa: E731
        super().__init__(StoreOptions(lifetime_ms=86_400_000), _clock=now, _monotonic=now)
        self.asked: list[str] = []

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        self.asked.append("lookup")
        return [super().lookup((EVERYTHING,))[0], *(0 for _ in keys[1:])]

    def lookup_now(self, keys: Sequence[bytes]) -> Sequence[int]:
        self.asked.append("lookup_now")
        return super().lookup(keys)


def announce(store: MemoryRevocations, application: RollSession) -> int:
    """Tell a store that a test has made how long fences live, as one that processes share is told by each.

    Returns the lifetime that counts, in milliseconds: the longest.
    """
    lifetime_ms = max(store._options.lifetime_ms, application.sessions.settings.fence_lifetime_ms)
    store._options = replace(store._options, lifetime_ms=lifetime_ms)
    store._local.lifetime_ms = lifetime_ms
    return lifetime_ms


# Handlers


def login(user: str) -> Handler:
    """Log in as *user*."""

    def handler(session: Session) -> None:
        session.regenerate(tags=[f"user:{user}"])
        session["user"] = user

    return handler


def logout(session: Session) -> None:
    """Log out."""
    session.invalidate()


def who(session: Session) -> str | None:
    """Who is logged in."""
    user: str | None = session.get("user")
    return user


def put(key: str, value: Any) -> Handler:
    """Store something."""

    def handler(session: Session) -> None:
        session[key] = value

    return handler


def get(key: str) -> Handler:
    """Read something."""
    return lambda session: session.get(key)


def in_turn(*handlers: Handler) -> Handler:
    """One after the other."""

    def handler(session: Session) -> None:
        for each in handlers:
            each(session)

    return handler


def regenerate(session: Session) -> None:
    """Begin another epoch, or a login."""
    session.regenerate()


def elevate(session: Session) -> None:
    """What an application does when its user gains or gives up rights."""
    session.regenerate()
    session["role"] = "admin"


def farewell(session: Session) -> None:
    """Flask's and others' logout: empty the session, and say goodbye in it."""
    session.clear()
    session["message"] = "You were logged out."


def untouched(session: Session) -> None:
    """Do not look at the session."""
