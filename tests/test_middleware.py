"""The filter as WSGI has it: every way to start a response, headers that survive, and what is refused."""

from __future__ import annotations

import gc
import io
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from webob import Request

from wsgi_rollsession import (
    ConfigurationError,
    RollSession,
    RollSessionError,
    SessionCommitted,
    SessionTooLarge,
    StoreUnavailable,
)
from wsgi_rollsession.middleware import ROLL, SESSION
from wsgi_rollsession.revocation.fence import EVERYTHING, session_key
from wsgi_rollsession.session import exchange_of

from .browser import (
    KEY,
    Answer,
    Browser,
    Clock,
    call,
    dispatch,
    get,
    login,
    open_browser,
    put,
    store_of,
    untouched,
    who,
    wrap,
)

Application = Callable[..., Iterable[bytes]]
HEADERS = [("Content-Type", "text/plain")]


class Server:
    """The server's side of WSGI, as strict as PEP 3333 has it; headers are sent with the first byte of the body."""

    def __init__(self) -> None:
        self.started: tuple[str, list[tuple[str, str]]] | None = None
        self.sent: tuple[str, list[tuple[str, str]]] | None = None
        self.body = b""

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.started:
            raise AssertionError("start_response was called twice without exc_info")
        self.started = status, list(headers)
        return self.write

    def write(self, data: bytes) -> None:
        assert self.started, "write() before start_response()"
        self.sent = self.sent or self.started
        self.body += data

    def run(self, application: Application, environ: dict[str, Any]) -> Answer:
        """One request, as a server runs it."""
        iterable = application(environ, self.start_response)
        try:
            for data in iterable:
                if data:
                    self.write(data)
            self.write(b"")
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
        assert self.sent
        return Answer(*self.sent, None, self.body)


def environ(browser: Browser | None = None, **more: Any) -> dict[str, Any]:
    """What a server hands to an application."""
    made: dict[str, Any] = Request.blank("/", base_url="https://localhost").environ
    if browser is not None and browser.cookies:
        made["HTTP_COOKIE"] = browser.header()
    return {**made, **more}


# Ways to respond. The generators do not call start_response before the server asks for their first part.


def plain(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    start_response("200 OK", list(HEADERS))
    return [b"body"]


def streaming(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    start_response("200 OK", list(HEADERS))
    return (part for part in (b"bo", b"", b"dy"))


def by_write(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    write = start_response("200 OK", list(HEADERS))
    write(b"bo")
    write(b"dy")
    return []


def late(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    start_response("200 OK", list(HEADERS))
    yield b"body"


def in_the_loop(environ: dict[str, Any], start_response: Any) -> Any:
    for part in (b"bo", b"dy"):
        if part == b"bo":
            environ[SESSION]["a"] = 1
            start_response("200 OK", list(HEADERS))
        yield part


def twice(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    start_response("200 OK", list(HEADERS))
    try:
        raise ValueError("while making the body")
    except ValueError:
        start_response("500 Oops", list(HEADERS), sys.exc_info())
    return [b"body"]


def thrice(environ: dict[str, Any], start_response: Any) -> Any:
    environ[SESSION]["a"] = 1
    start_response("200 OK", list(HEADERS))
    for status in ("500 Oops", "503 Later"):
        try:
            raise ValueError("while making the body")
        except ValueError:
            start_response(status, list(HEADERS), sys.exc_info())
    return [b"body"]


WAYS = [plain, streaming, by_write, late, in_the_loop, twice, thrice]


@pytest.mark.parametrize("way", WAYS)
def test_the_cookie_is_on_every_kind_of_response(clock: Clock, way: Application) -> None:
    """The session is sent, once, whether the application streams, calls write(), starts late, or starts over."""
    browser = open_browser(clock, way)
    answer = browser.receive(Server().run(browser.application, environ()))
    assert answer.body == b"body"
    assert len(answer.set_cookies) == 1
    browser.application = wrap(clock, revocations=store_of(browser))
    assert browser.do(get("a")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_roll_is_on_every_kind_of_response(clock: Clock, way: Application) -> None:
    """A session that is due is rolled, once, in the same cases."""
    browser = open_browser(clock)
    browser.do(put("a", 1))
    clock.advance(100)
    (name,) = browser.sessions
    application = wrap(clock, way, revocations=store_of(browser))
    answer = Server().run(application, environ(browser))
    assert list(answer.sent()) == [f"{name}-lease"]


def test_raising_after_start_response(clock: Clock) -> None:
    """An application that raises after start_response raises through the filter, and what it stored is decided."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = 1
        start_response("200 OK", list(HEADERS))
        raise LookupError("the application's own")

    server = Server()
    with pytest.raises(LookupError, match="the application's own"):
        server.run(wrap(clock, application), environ())
    assert server.started
    assert [name for name, _ in server.started[1]].count("Set-Cookie") == 1


def test_an_error_page_outside_the_filter(clock: Clock) -> None:
    """An error that leaves the application before it started a response leaves the filter unchanged."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = 1
        raise LookupError("the application's own")

    with pytest.raises(LookupError, match="the application's own"):
        Server().run(wrap(clock, application), environ())


def test_headers_sent_already(clock: Clock) -> None:
    """Starting over after the body began raises the application's error, as the server does it."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", list(HEADERS))
        write(b"begun")
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("500 Oops", list(HEADERS), sys.exc_info())
        return []

    with pytest.raises(LookupError, match="too late"):
        Server().run(wrap(clock, application), environ())


def test_a_session_too_large_leaves_the_error_page_alone(clock: Clock) -> None:
    """When the session cannot be sent, start_response raises once; the error page that follows goes out without it."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = "x" * 5000
        try:
            start_response("200 OK", list(HEADERS))
        except SessionTooLarge:
            start_response("500 Oops", list(HEADERS), sys.exc_info())
        return [b"sorry"]

    answer = Server().run(wrap(clock, application), environ())
    assert (answer.status, answer.body, answer.set_cookies) == ("500 Oops", b"sorry", [])


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_a_body_that_reads_after_a_refused_roll(clock: Clock, beside: bool) -> None:
    """A session that turned out to have ended when the response began is not alive again for the response's body.

    A store's look-ups may be a little behind what it confirms. Another login that is presented beside it is found.
    """
    wrapped = wrap(clock)
    alice, bob = Browser(wrapped, clock), Browser(wrapped, clock)
    alice.do(login("alice"))
    clock.advance(5)
    bob.do(login("bob"))
    ended = bob.do(lambda session: session.id)
    header = f"{alice.header()}; {bob.header()}" if beside else bob.header()
    clock.advance(100)
    store = wrapped.sessions.revocations
    behind = store.lookup
    known = {key: number for key in (EVERYTHING, session_key(bytes.fromhex(ended))) for number in store.lookup((key,))}
    wrapped.revoke_session(ended)
    store.lookup_now = store.last_known  # which is all that there is, in memory
    store.lookup = lambda keys: [known.get(key, 0) for key in keys]  # type: ignore[method-assign]
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        seen.append(environ[SESSION].get("user"))
        yield b""

    wrapped._application = application
    answers: list[Any] = []
    list(wrapped(environ(HTTP_COOKIE=header), lambda status, headers, exc_info=None: answers.extend(headers)))
    store.lookup = behind  # type: ignore[method-assign]
    assert seen == ["alice" if beside else None]
    assert "Set-Cookie" not in dict(answers), "and nothing is deleted"


@pytest.mark.parametrize("body", [[b"a"], (b"a",), iter([b"a"]), FileWrapper(io.BytesIO(b"file"))])
def test_the_body_is_left_alone(clock: Clock, body: Any) -> None:
    """The filter returns the very iterable of the application, so that a server can use sendfile for it."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = 1
        start_response("200 OK", list(HEADERS))
        return body

    for outage in ("degrade", "closed"):
        assert wrap(clock, application, outage=outage)(environ(), Server().start_response) is body


def test_a_change_after_an_untouched_response_began(clock: Clock) -> None:
    """A session that is looked at for the first time in the body can be read, and not changed in silence."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(HEADERS))
        assert environ[SESSION].get("a") is None
        with pytest.raises(SessionCommitted):
            environ[SESSION]["a"] = 1
        return [b"done"]

    assert Server().run(wrap(clock, application), environ()).body == b"done"


def test_file_wrapper(clock: Clock) -> None:
    """``wsgi.file_wrapper`` is the server's own, and its object comes back to the server."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = 1
        start_response("200 OK", list(HEADERS))
        return environ["wsgi.file_wrapper"](io.BytesIO(b"the file"))

    made = environ()
    made["wsgi.file_wrapper"] = FileWrapper
    returned = wrap(clock, application)(made, Server().start_response)
    assert type(returned) is FileWrapper
    assert b"".join(returned) == b"the file"


def test_start_response_result_is_the_servers(clock: Clock) -> None:
    """What the filter's start_response returns is the server's own write callable."""
    writes = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        writes.append(start_response("200 OK", list(HEADERS)))
        return []

    server = Server()
    wrap(clock, application)(environ(), server.start_response)
    assert writes == [server.write]


@pytest.mark.parametrize("way", [plain, streaming, by_write, late, in_the_loop, twice])
@pytest.mark.parametrize("outage", ["degrade", "closed"])
def test_validator_outside_and_inside(clock: Clock, way: Application, outage: str) -> None:
    """The filter is a correct application to its server, and a correct server to its application."""

    browser = open_browser(clock, validator(way), outage=outage)
    outside = validator(browser.application)
    for _ in range(2):
        browser.receive(Server().run(outside, environ(browser)))
        clock.advance(100)
    assert len(browser.cookies) == 2


def test_validator_on_503(clock: Clock) -> None:
    """The answer of ``outage="closed"`` is a correct one."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    closed = wrap(clock, validator(dispatch), outage="closed", revocations="unix:///nonexistent/redis.sock")
    answer = Server().run(validator(closed), environ(browser))
    assert answer.status == "503 Service Unavailable"
    closed.close()


# Headers


def with_headers(*headers: tuple[str, str]) -> dict[str, Any]:
    return {"test.headers": headers}


MERGED: list[tuple[str, list[tuple[str, str]], str | None]] = [
    ("Vary", [], "Cookie"),
    ("Vary", [("Vary", "Accept")], "Accept, Cookie"),
    ("Vary", [("vary", "Accept-Encoding, Origin")], "Accept-Encoding, Origin, Cookie"),
    ("Vary", [("VARY", "cookie")], "cookie"),
    ("Vary", [("Vary", "Accept, COOKIE ,Origin")], "Accept, COOKIE ,Origin"),
    ("Vary", [("Vary", "*")], "*"),
    ("Vary", [("Vary", "")], "Cookie"),
    ("Vary", [("Vary", "Cookies")], "Cookies, Cookie"),
    ("Cache-Control", [], "no-store"),
    ("Cache-Control", [("Cache-Control", "private, max-age=0")], "private, max-age=0, no-store"),
    ("Cache-Control", [("cache-control", "No-Store")], "No-Store"),
    ("Cache-Control", [("Cache-Control", "")], "no-store"),
]


@pytest.mark.parametrize(("name", "headers", "merged"), MERGED)
def test_merging(clock: Clock, name: str, headers: list[tuple[str, str]], merged: str) -> None:
    """``Vary`` and ``Cache-Control`` of the application survive, and get what is missing in them."""
    answer = call(wrap(clock), put("a", 1), "", **with_headers(*headers))
    assert answer.header(name) == merged


SENT: list[tuple[str, Any, int, str | None, str | None]] = [
    ("untouched", untouched, 0, None, None),
    ("read", who, 0, "Cookie", None),
    ("written", put("a", 2), 0, "Cookie", "no-store"),
    ("rolled", who, 100, "Cookie", "private"),
    ("rolled, untouched", untouched, 100, "Cookie", "private"),
    ("ended", lambda s: s.invalidate(), 0, "Cookie", "no-store"),
]


@pytest.mark.parametrize(
    ("handler", "later", "vary", "control"), [row[1:] for row in SENT], ids=[row[0] for row in SENT]
)
def test_caching_headers(clock: Clock, handler: Any, later: int, vary: str | None, control: str | None) -> None:
    """Who read the session gets ``Vary: Cookie``; who sends a cookie, ``no-store`` too, or ``private`` for a lease."""
    browser = open_browser(clock)
    browser.do(put("a", 1))
    clock.advance(later)
    answer = browser.call(handler)
    assert (answer.header("Vary"), answer.header("Cache-Control")) == (vary, control)


@pytest.mark.parametrize("options", [{}, {"renew_after": 0}, {"rolling": False}, {"outage": "closed"}])
def test_untouched_headers_are_the_very_ones(clock: Clock, options: dict[str, Any]) -> None:
    """A response that has nothing to do with the session gets the list that the application made."""
    made = [("X-A", "1")]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", made)
        return []

    seen = []
    wrap(clock, application, **options)(environ(), lambda status, headers, exc_info=None: seen.append(headers))
    assert seen[0] is made


def test_the_applications_headers_are_not_changed(clock: Clock) -> None:
    """The list that the application passes to start_response stays as it is."""
    made = [("Vary", "Accept")]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[SESSION]["a"] = 1
        start_response("200 OK", made)
        return []

    answer = Server().run(wrap(clock, application), environ())
    assert made == [("Vary", "Accept")]
    assert answer.header("Vary") == "Accept, Cookie"


def test_other_set_cookies_survive(clock: Clock) -> None:
    """Set-Cookie headers of the application survive, also one whose name resembles ours."""
    own = [("Set-Cookie", "a=1; Path=/"), ("set-cookie", "__Host-session=2; Path=/; secure")]
    answer = call(wrap(clock), put("a", 1), "", **with_headers(*own))
    assert answer.headers[1:3] == own
    assert len(answer.set_cookies) == 3


# When not to roll


@pytest.mark.parametrize(
    ("control", "rolls"),
    [
        ("public", False),
        ("Public, max-age=60", False),
        ("max-age=60,public", False),
        ("s-maxage=60", False),
        ("max-age=0, S-MaxAge = 60", False),
        ("private", True),
        ("no-cache", True),
        ("max-age=60", False),
        ("max-age=60, private", True),
        ("republic", True),
        ('ext="a, publicity"', True),
        ("", True),
    ],
)
@pytest.mark.parametrize("handler", [untouched, who])
def test_public_responses_are_not_rolled(clock: Clock, handler: Any, control: str, rolls: bool) -> None:
    """A response that shared caches may keep carries no lease."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    clock.advance(100)
    answer = browser.call(handler, **with_headers(("Cache-Control", control)))
    assert bool(answer.set_cookies) is rolls


@pytest.mark.parametrize("handler", [untouched, who])
def test_roll_if_receives_the_environ(clock: Clock, handler: Any) -> None:
    """``roll_if`` is asked once per due request, with the environ, and its false answer means no roll."""
    asked = []

    def roll_if(environ: dict[str, Any]) -> Any:
        asked.append(environ["PATH_INFO"])
        return environ["PATH_INFO"] != "/poll" or 0

    browser = open_browser(clock, roll_if=roll_if)
    browser.do(login("alice"))
    assert not browser.call(handler, PATH_INFO="/").set_cookies
    assert asked == [], "not due: not asked"
    clock.advance(100)
    assert not browser.call(handler, PATH_INFO="/poll").set_cookies
    assert browser.call(handler, PATH_INFO="/page").set_cookies
    assert asked == ["/poll", "/page"]


@pytest.mark.parametrize("handler", [untouched, who])
def test_roll_if_that_raises(clock: Clock, handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The exception of ``roll_if`` is logged with its traceback, means no roll, and does not reach the response."""

    def roll_if(environ: dict[str, Any]) -> bool:
        raise LookupError("in roll_if")

    browser = open_browser(clock, roll_if=roll_if)
    browser.do(login("alice"))
    clock.advance(100)
    answer = browser.call(handler)
    assert (answer.status, answer.set_cookies) == ("200 OK", [])
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "roll_if" in record.message
    assert record.exc_info
    assert "in roll_if" in str(record.exc_info[1])


@pytest.mark.parametrize("last", ["lease", "session", "slot"])
def test_what_is_not_due_is_not_asked_about(clock: Clock, last: str) -> None:
    """Whatever the order of the cookies, ``roll_if`` is not asked about a session that has just been rolled."""
    asked: list[Any] = []
    browser = open_browser(clock, roll_if=lambda environ: asked.append(1) or True)
    browser.do(login("alice"))
    clock.advance(100)
    browser.do(untouched)
    assert asked == [1]
    (name,) = browser.sessions
    names = {"lease": f"{name}-lease", "session": name, "slot": "__Host-session-slot"}
    pairs = sorted(browser.header().split("; "), key=lambda pair: pair.partition("=")[0] == names[last])
    assert not browser.call(untouched, header="; ".join(pairs)).set_cookies
    assert asked == [1]


@pytest.mark.parametrize("login_last", [True, False])
def test_a_login_beside_a_fresh_anonymous_session(clock: Clock, login_last: bool) -> None:
    """What is due is the login, which comes before an anonymous session, wherever it stands and whoever looks."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    (name,) = browser.sessions
    clock.advance(100)
    anonymous = call(browser.application, put("a", 1), "").set_cookies[0].partition(";")[0]
    both = [anonymous, browser.header()] if login_last else [browser.header(), anonymous]
    for handler in (who, untouched):
        assert list(browser.call(handler, header="; ".join(both)).sent()) == [f"{name}-lease"]


def test_a_session_issued_by_a_clock_ahead_is_not_due(clock: Clock) -> None:
    """A session issued by a clock that is up to a minute ahead counts as fresh: ``roll_if`` is not asked."""
    asked: list[Any] = []
    browser = open_browser(clock, roll_if=lambda environ: asked.append(1))
    browser.do(login("alice"))
    clock.advance(-60)
    assert not browser.call(untouched).set_cookies
    assert asked == []


@pytest.mark.parametrize(("value", "rolls"), [(False, False), (True, True), (None, True)])
@pytest.mark.parametrize("handler", [untouched, who])
def test_opt_out_in_the_environ(clock: Clock, handler: Any, value: Any, rolls: bool) -> None:
    """An application can keep a request, such as a poll, from extending the session."""
    browser = open_browser(clock)
    browser.do(login("alice"))
    clock.advance(100)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ[ROLL] = value
        return dispatch(environ, start_response)

    browser.application = wrap(clock, application, revocations=store_of(browser))
    assert bool(browser.call(handler).set_cookies) is rolls


# Where it is mounted


def test_mounted_twice(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Of two filters around an application, the inner one uses the outer one's session, says so, and sends nothing."""
    inner = wrap(clock, cookie_name="inner")
    browser = open_browser(clock, inner, cookie_name="outer")
    answer = browser.receive(browser.call(put("a", 1)))
    assert list(answer.sent()) == ["__Host-outer"]
    assert browser.do(get("a")) == 1
    assert any("mounted inside another" in record.message for record in caplog.records)


def test_what_is_mounted_inside_has_no_sessions_to_end(clock: Clock) -> None:
    """``revoke…`` on a filter that is inside another would end nothing: it raises, and points to the outer one."""
    inner = wrap(clock, cookie_name="inner")
    outer = wrap(clock, inner, cookie_name="outer")
    Browser(outer, clock).do(who)
    for end in (lambda: inner.revoke("user:alice"), lambda: inner.revoke_session("0" * 32), inner.revoke_everything):
        with pytest.raises(RollSessionError, match=r"^revoke\w*: .*inside another one.* on the outer one$"):
            end()
    outer.revoke("user:alice")


def test_two_applications_beside_each_other(clock: Clock) -> None:
    """Two filters with different names on one host do not see each other's sessions."""
    browser = open_browser(clock, cookie_name="one")
    browser.do(put("a", 1))
    browser.application = wrap(clock, cookie_name="two", amnesia="accept")
    assert browser.do(get("a")) is None
    browser.do(put("a", 2))
    assert len(browser.cookies) == 2


@pytest.mark.parametrize("options", [{}, {"insecure_http": True}], ids=["", "plain http"])
@pytest.mark.parametrize("other", ["session2", "session.b", "mysession", "my.session"])
@pytest.mark.parametrize("later", ["ours", "the other's"])
def test_the_lease_of_an_application_beside_it_delays_no_roll(
    clock: Clock, other: str, later: str, options: dict[str, Any]
) -> None:
    """Whoever is active in two applications of one host, whose names contain each other, stays in both."""
    ours, others = (wrap(clock, cookie_name=name, **options) for name in ("session", other))
    browser = Browser(ours, clock)
    for application in (ours, others) if later == "the other's" else (others, ours):
        browser.application = application
        browser.do(login("alice"))
        clock.advance(61)
        browser.do(untouched)  # its lease is last in the jar
    for _ in range(130):
        for application in (others, ours):
            clock.advance(30)
            browser.application = application
            browser.do(untouched)
    for application in (ours, others):
        browser.application = application
        assert browser.do(who) == "alice"


def test_memory_is_refused_under_several_processes(clock: Clock) -> None:
    """The store of one process is refused as soon as a server says that it runs several."""
    with pytest.raises(ConfigurationError, match=r"^revocations: requires a store that all processes share"):
        call(wrap(clock), untouched, "", **{"wsgi.multiprocess": True})
    call(wrap(clock), untouched, "", **{"wsgi.multiprocess": False})


def test_shared_stores_are_fine_under_several_processes(clock: Clock, tmp_path: Any) -> None:
    """A store that processes share serves several."""
    application = wrap(clock, revocations=f"sqlite:///{tmp_path}/revocations.db")
    call(application, put("a", 1), "", **{"wsgi.multiprocess": True})
    application.close()


@pytest.mark.parametrize(
    ("handler", "last_activity"),
    [
        (untouched, 900),
        (who, 900),
        (put("a", 1), 900),
        (lambda s: s.regenerate(), 900),
        (lambda s: (s.update(a=1), s.save()), 300),
    ],
    ids=["untouched", "read", "write", "regenerate", "save"],
)
def test_what_is_sent_is_stamped_when_it_is_made(clock: Clock, handler: Any, last_activity: int) -> None:
    """A slow response is activity when it starts, or at ``save()``, and not when its request arrived."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        clock.advance(300)
        handler(environ[SESSION])
        clock.advance(600)
        start_response("200 OK", [])
        return []

    browser = open_browser(clock)
    browser.do(login("alice"))
    begun = clock()
    slow = wrap(clock, application, revocations=store_of(browser))
    browser.receive(Server().run(slow, environ(browser)))
    assert browser.do(lambda s: s.last_activity.timestamp()) == begun + last_activity


@pytest.mark.parametrize("question", ["lookup_now", "compare_and_raise"])
@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("handler", [untouched, who, put("a", 1)], ids=["untouched", "read", "write"])
def test_a_process_that_was_suspended(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, handler: Any, versioned: bool, question: str
) -> None:
    """After the store's answer the clock is read again: a session that is over by then is not sent anew."""
    browser = open_browser(clock, versioned=versioned)
    browser.do(login("alice"))
    clock.advance(100)
    store = store_of(browser)
    ask = getattr(store, question)

    def suspended(*arguments: Any) -> Any:
        answer = ask(*arguments)
        clock.advance(3600)
        return answer

    monkeypatch.setattr(store, question, suspended)
    answer = browser.call(handler)
    asked = "compare_and_raise" if versioned and handler not in (untouched, who) else "lookup_now"
    assert bool(answer.set_cookies) is (asked != question)


@pytest.mark.parametrize(
    "handler",
    [untouched, get("user"), put("a", 1), lambda s: s.regenerate(), lambda s: s.save(), lambda s: s.invalidate()],
    ids=["untouched", "read", "write", "regenerate", "save", "invalidate"],
)
@pytest.mark.parametrize("later", [1, 100], ids=["fresh", "due"])
def test_a_session_is_gone_with_its_request(clock: Clock, handler: Any, later: int) -> None:
    """A request leaves no cycles: what it needed is freed at its end, not when the garbage collector comes by."""
    held = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        held.append(weakref.ref(exchange_of(environ[SESSION])))
        handler(environ[SESSION])
        start_response("200 OK", [])
        return []

    wrapped = wrap(clock)
    browser = Browser(wrapped, clock)
    browser.do(login("alice"))
    clock.advance(later)
    wrapped._application = application
    gc.disable()
    try:
        wrapped(environ(browser), lambda status, headers, exc_info=None: None)
        assert held[0]() is None
    finally:
        gc.enable()


def test_webob(clock: Clock) -> None:
    """A WebOb request gets the session through the filter, and its cookie parser reads what the filter sends."""
    application = wrap(clock)
    holder: dict[str, Any] = {}
    request = Request.blank("/", base_url="https://localhost")
    request.environ.update({"test.handler": put("a", 1), "test.holder": holder})
    response = request.get_response(application)
    (header,) = response.headers.getall("Set-Cookie")
    name, value = re.match("([^=]+)=([^;]+)", header).groups()  # type: ignore[union-attr]
    request = Request.blank("/", base_url="https://localhost")
    request.cookies[name] = value
    request.environ.update({"test.handler": get("a"), "test.holder": holder})
    request.get_response(application)
    assert holder["result"] == 1


# outage="closed"


@pytest.fixture
def closed(clock: Clock) -> Iterator[RollSession]:
    """A filter that refuses to serve sessions which it cannot check, and whose store does not answer."""
    application = wrap(clock, outage="closed", revocations="unix:///nonexistent/redis.sock")
    yield application
    application.close()


def presented(clock: Clock) -> Browser:
    browser = open_browser(clock)
    browser.do(login("alice"))
    return browser


@pytest.mark.parametrize("handler", [untouched, who, put("a", 1)])
def test_closed_refuses_presented_sessions(clock: Clock, closed: RollSession, handler: Any) -> None:
    """A request that presents a session gets 503, uncached, before the application is called."""
    browser = presented(clock)
    called = []
    answer = call(closed, lambda s: called.append(handler(s)), browser.header())
    assert answer.status == "503 Service Unavailable"
    assert answer.header("Cache-Control") == "no-store"
    assert answer.header("Content-Length") == str(len(answer.body))
    assert not called
    assert not answer.set_cookies


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (untouched, "200 OK"),
        (who, "200 OK"),
        (put("a", 1), "503 Service Unavailable"),
        (login("a"), "503 Service Unavailable"),
    ],
)
def test_closed_serves_requests_without_a_session(closed: RollSession, handler: Any, status: str) -> None:
    """A request without a session is served, unless it begins one."""
    assert call(closed, handler, "a=1; b=2").status == status


@pytest.mark.parametrize("checked", [True, False])
def test_closed_with_a_generator(closed: RollSession, checked: bool) -> None:
    """An application that begins only when its body is asked for gets a 503 in its place too, and is closed."""
    ended = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            environ[SESSION]["a"] = 1
            start_response("200 OK", list(HEADERS))
            yield b"stored"
        finally:
            ended.append(True)

    closed._application = validator(application) if checked else application
    answer = Server().run(validator(closed), environ())
    assert (answer.status, answer.header("Retry-After")) == ("503 Service Unavailable", "1")
    assert b"stored" not in answer.body
    assert ended


def test_closed_leaves_a_late_body_to_the_server(closed: RollSession) -> None:
    """The body of an application that begins late is closed once, also if the visitor goes away in the middle."""
    closes = []

    class Body:
        def __init__(self, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Body:
            return self

        def __next__(self) -> bytes:
            self.start_response("200 OK", list(HEADERS))
            return b"chunk"

        def close(self) -> None:
            closes.append(True)

    closed._application = lambda environ, start_response: Body(start_response)
    result = closed(environ(), Server().start_response)
    iterator = iter(result)
    assert next(iterator) == b"chunk"
    result.close()
    del iterator, result
    assert closes == [True]


def test_closed_after_the_response_has_begun(closed: RollSession) -> None:
    """When the store fails a request whose body has begun, the error reaches the server, not a second response."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(HEADERS))(b"begun")
        closed.revoke("user:alice")

    closed._application = application
    with pytest.raises(StoreUnavailable):
        Server().run(closed, environ())


# Ending sessions from outside a request


def test_revoke_session(clock: Clock) -> None:
    """``revoke_session`` ends one session by its id, and no other."""
    application = wrap(clock)
    alice, bob = Browser(application, clock), Browser(application, clock)
    for browser, user in ((alice, "alice"), (bob, "bob")):
        browser.do(login(user))
    application.revoke_session(alice.do(lambda s: s.id))
    assert (alice.do(who), bob.do(who)) == (None, "bob")


@pytest.mark.parametrize("session_id", ["", "xyz", "ab", "0" * 31, "0" * 33, "0" * 64, " " + "0" * 31, "é" * 32])
def test_revoke_session_of_what_is_no_id(clock: Clock, session_id: str) -> None:
    """An id that no session can have is refused, rather than fenced in vain."""
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        wrap(clock).revoke_session(session_id)


@pytest.mark.parametrize("session_id", [None, 1, b"0" * 32, ["0" * 32]])
def test_revoke_session_of_what_is_no_text(clock: Clock, session_id: Any) -> None:
    """Bytes, or a session that was forgotten to be asked for its id, are refused as what is no id."""
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        wrap(clock).revoke_session(session_id)


def test_revoke_nothing(clock: Clock) -> None:
    """Revoking no tag at all is a mistake of the caller, and not a success."""
    with pytest.raises(TypeError, match="tag"):
        wrap(clock).revoke()  # type: ignore[call-arg]


def test_close_twice(clock: Clock, tmp_path: Any) -> None:
    """Closing the filter closes its store, and is harmless when repeated."""
    application = wrap(clock, keys=KEY, revocations=f"sqlite:///{tmp_path}/revocations.db")
    call(application, put("a", 1), "")
    application.close()
    application.close()


def test_closed_through_webob(clock: Clock, closed: RollSession) -> None:
    """A WebOb caller outside the filter gets the 503 as a response, and not an exception."""
    request = Request.blank("https://localhost/", headers={"Cookie": presented(clock).header()})
    response = request.get_response(closed)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
