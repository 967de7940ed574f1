"""``wsgi_rollsession.testing``: what is planted is what the application finds, and what it left is what is read."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from http.cookiejar import CookieJar
from http.cookies import SimpleCookie
from textwrap import dedent
from typing import Any
from unittest.mock import Mock
from urllib.request import Request as UrllibRequest

import pytest
from webob import Request, Response
from webtest import TestApp
from werkzeug.test import Client

from wsgi_rollsession import (
    Ended,
    RollSession,
    Session,
    SessionTooLarge,
    SessionValueError,
    StoreUnavailable,
    generate_key,
    testing,
)
from wsgi_rollsession.testing import Clock, Cookies, Snapshot, fresh_revocations, read_session, session_cookies

from .browser import call, dispatch, get, put, untouched

KEY = generate_key()


def make_site(clock: Clock, **options: Any) -> RollSession:
    """A filter whose application each request brings, with a set of its own."""
    options = {"keys": KEY, "revocations": fresh_revocations(clock), "identity_key": "user_id", **options}
    return RollSession(dispatch, clock=clock, **options)


@pytest.fixture
def clock() -> Clock:
    """The clock of ``site``."""
    return Clock()


@pytest.fixture
def site(clock: Clock) -> RollSession:
    """A filter with an identity key."""
    return make_site(clock)


def at(clock: Clock) -> datetime:
    """What a session says that is stamped now."""
    return datetime.fromtimestamp(int(clock() * 1000) / 1000, timezone.utc)


# The clock


def test_a_clock_shows_the_hosts_time_and_then_stands_still() -> None:
    """A clock begins with the time of the host, and goes on only when it is told to."""
    before = time.time()
    clock = Clock()
    assert before <= clock() == clock() <= time.time()
    clock.advance(0.25)
    assert clock() == clock.now
    assert Clock(5.0)() == 5.0


def test_a_clock_does_not_go_back() -> None:
    """A negative number of seconds is refused, and nothing has moved."""
    clock = Clock(100)
    with pytest.raises(ValueError, match="seconds: requires 0 or more, received -1"):
        clock.advance(-1)
    assert clock() == 100


# The set


def test_each_application_has_a_set_of_its_own(clock: Clock) -> None:
    """One callable opens an empty set for each application: what one revokes, the other has not heard of."""
    revocations = fresh_revocations(clock)
    one, other = (make_site(clock, revocations=revocations) for _ in range(2))
    alice = session_cookies(one, {"user_id": 42})
    one.revoke("user:42")
    assert not read_session(one, alice).logged_in
    assert read_session(other, alice).logged_in


@pytest.mark.parametrize(
    ("times", "revoke"),
    [(7, lambda site: site.revoke("user:42")), (4, lambda site: site.revoke_everything())],
    ids=["tag", "everything"],
)
def test_a_set_by_a_clock_that_stands(site: RollSession, times: int, revoke: Callable[[RollSession], None]) -> None:
    """What is revoked again and again, while the clock stands still, is revoked each time."""
    began = time.monotonic()
    for _ in range(times):
        alice = session_cookies(site, {"user_id": 42})
        assert read_session(site, alice).logged_in
        revoke(site)
        assert read_session(site, alice).ended is Ended.REVOKED
    assert time.monotonic() - began < 9  # with no clock that moves, each wait lasts ten seconds


# To plant a session


@pytest.mark.parametrize(
    ("identity_key", "data", "tags", "logged_in", "has_tags"),
    [
        ("user_id", {"user_id": 42, "cart": ["tea"]}, None, True, {"user:42"}),
        ("user_id", {"user_id": "alice"}, ["tenant:7"], True, {"user:alice", "tenant:7"}),
        ("user_id", {"cart": ["tea"]}, ["tenant:7"], True, {"tenant:7"}),
        ("user_id", {"cart": ["tea"]}, [], True, set()),
        ("user_id", {}, [], True, set()),
        ("user_id", {"cart": ["tea"]}, None, False, set()),
        ("user_id", {"user_id": "", "cart": []}, None, False, set()),
        (None, {"user_id": 42}, None, False, set()),
        (None, {"user": "alice"}, ["user:alice"], True, {"user:alice"}),
    ],
)
def test_who_is_logged_in(
    clock: Clock,
    identity_key: str | None,
    data: dict[str, Any],
    tags: list[str] | None,
    logged_in: bool,
    has_tags: set[str],
) -> None:
    """Somebody is logged in by the site's identity key, or by tags; else the session is anonymous."""
    site = make_site(clock, identity_key=identity_key)
    found = read_session(site, session_cookies(site, data, tags=tags))
    assert found.data == data
    assert found.logged_in is logged_in
    assert found.ended is (None if logged_in else Ended.NEVER)
    assert found.authenticated_at == (at(clock) if logged_in else None)
    assert all(tag in found.tags for tag in has_tags) and len(found.tags) == len(has_tags)


@pytest.mark.parametrize("data", [None, {}])
def test_nothing_makes_no_session(site: RollSession, data: dict[str, Any] | None) -> None:
    """Without data and tags there is no session, and no cookie."""
    assert session_cookies(site, data) == {}


@pytest.mark.parametrize("age", [0, 100, 3599.5])
@pytest.mark.parametrize("data", [{"user_id": 42}, {"cart": ["tea"]}], ids=["login", "anonymous"])
def test_what_is_planted_is_what_the_application_would_have_sent(
    clock: Clock, site: RollSession, data: dict[str, Any], age: float
) -> None:
    """A session of some age is the one that the application would have made then, but for its id."""

    def handler(session: Session) -> None:
        session.update(data)

    made = Cookies()
    made.receive(call(site, handler, "").set_cookies)
    clock.advance(age)
    planted = session_cookies(site, data, age=age)
    assert sorted(planted) == sorted(made)
    one, other = read_session(site, planted), read_session(site, made)
    assert one.id != other.id
    assert one == Snapshot(**{**vars(other), "id": one.id})


@pytest.mark.parametrize("age", [0, 60])
def test_the_application_finds_what_is_read(clock: Clock, site: RollSession, age: float) -> None:
    """``read_session`` says of a session what the application is told of it."""
    cookies = session_cookies(site, {"user_id": 42, "cart": ["tea"]}, tags=["tenant:7"], age=age)
    found = read_session(site, cookies)

    def handler(session: Session) -> None:
        for name, value in vars(found).items():
            assert value == (session.copy() if name == "data" else getattr(session, name)), name

    call(site, handler, cookies.header)
    assert found.created == at(clock) - timedelta(seconds=age)
    assert found.expires == found.created + timedelta(hours=1)


@pytest.mark.parametrize(
    ("options", "age", "ended"),
    [
        ({"idle_timeout": "10m"}, 599, None),
        ({"idle_timeout": "10m"}, 600, Ended.IDLE),
        ({"idle_timeout": "none", "absolute_timeout": "8h"}, 8 * 3600 - 1, None),
        ({"idle_timeout": "none", "absolute_timeout": "8h"}, 8 * 3600, Ended.ABSOLUTE),
    ],
)
def test_age_ends_sessions(clock: Clock, options: dict[str, Any], age: float, ended: Ended | None) -> None:
    """A session that is too old when it is planted has ended, for the reason that the application is told."""
    site = make_site(clock, **options)
    cookies = session_cookies(site, {"user_id": 42}, age=age)
    assert read_session(site, cookies).ended is ended
    assert call(site, get("user_id"), cookies.header).result == (42 if ended is None else None)


def test_age_by_the_hosts_clock() -> None:
    """``age`` needs no clock of the test's."""
    site = RollSession(dispatch, keys=KEY, revocations=fresh_revocations(), identity_key="user_id")
    found = read_session(site, session_cookies(site, {"user_id": 42}, age=1800))
    assert found.logged_in and found.created is not None
    assert 1800 <= (datetime.now(timezone.utc) - found.created).total_seconds() < 1830


@pytest.mark.parametrize("age", [0, 100])
@pytest.mark.parametrize("end", [lambda site: site.revoke("user:42"), lambda site: site.revoke_everything()])
def test_only_what_is_revoked_later_ends_it(
    site: RollSession, clock: Clock, end: Callable[[RollSession], None], age: float
) -> None:
    """A session has passed what was revoked before it was planted, whatever its age, and nothing later."""
    end(site)
    alice = session_cookies(site, {"user_id": 42}, age=age)
    assert read_session(site, alice).logged_in
    end(site)
    assert read_session(site, alice).ended is Ended.REVOKED


@pytest.mark.parametrize(
    ("named", "arguments", "error"),
    [
        ("site", {"site": dispatch}, TypeError),
        ("age", {"age": -1}, ValueError),
        ("tags", {"tags": "user:42"}, TypeError),
        ("tags", {"tags": [str(each) for each in range(33)]}, ValueError),
        ("when", {"data": {"when": {1, 2}}}, SessionValueError),
        ("text", {"data": {"text": "x" * 5000}}, SessionTooLarge),
    ],
)
def test_what_cannot_be_planted(
    site: RollSession, named: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """What cannot be a session is an error that says why, and not a session of nobody."""
    with pytest.raises(error) as caught:
        session_cookies(**{"site": site, **arguments})
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"insecure_http": True},
        {"cookie_domain": "example.com"},
        {"cookie_path": "/shop", "cookie_name": "id"},
        {"samesite": "None", "partitioned": True},
        {"versioned": True},
        {"rolling": False},
        {"outage": "open"},
        {"outage": "closed"},
        {"absolute_timeout": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("data", [{"user_id": 42}, {"cart": ["tea"]}], ids=["login", "anonymous"])
def test_every_configuration(clock: Clock, options: dict[str, Any], data: dict[str, Any]) -> None:
    """Whatever the cookies are like, what is planted is found, written by the application, and read again."""
    site = make_site(clock, **options)
    cookies = session_cookies(site, data)
    cookies.receive(call(site, put("seen", True), cookies.header).set_cookies)
    assert read_session(site, cookies).data == {**data, "seen": True}


# To read a session


def as_jar(cookies: Mapping[str, str]) -> CookieJar:
    """The jar that ``urllib`` has after a response with these cookies."""
    jar, response = CookieJar(), Mock()
    response.info().get_all = lambda name, default: (
        [f"{each}={value}; Path=/; Secure" for each, value in cookies.items()] if name == "Set-Cookie" else default
    )
    jar.extract_cookies(response, UrllibRequest("https://example.com/"))
    assert len(jar) == len(cookies)
    return jar


@pytest.mark.parametrize(
    "form",
    [
        lambda cookies: cookies,
        lambda cookies: cookies.header,
        lambda cookies: f"theme=dark; {cookies.header}; lang=en",
        dict,
        lambda cookies: {**cookies, "theme": "dark"},
        lambda cookies: SimpleCookie(cookies.header),
        as_jar,
        lambda cookies: Request.blank("/", cookies=cookies).cookies,
        lambda cookies: [f"{name}={value}; Path=/; Secure" for name, value in cookies.items()],
        lambda cookies: (f"{name}={value}" for name, value in cookies.items()),
    ],
    ids=[
        "Cookies",
        "header",
        "among others",
        "dict",
        "dict of more",
        "SimpleCookie",
        "CookieJar",
        "WebOb",
        "list",
        "any",
    ],
)
def test_every_form_of_cookies(site: RollSession, form: Callable[[Cookies], Any]) -> None:
    """A session is read from whatever a client has its cookies in."""
    cookies = session_cookies(site, {"user_id": 42, "cart": ["tea"]})
    assert read_session(site, form(cookies)) == read_session(site, cookies)
    assert read_session(site, form(cookies)).logged_in


@pytest.mark.parametrize("nobody", ["", {}, [], Cookies(), "theme=dark"])
def test_nobody(site: RollSession, nobody: Any) -> None:
    """Without a cookie there is no session, and nobody is logged in."""
    found = read_session(site, nobody)
    assert found == Snapshot({}, None, 0, found.tags, None, None, None, None, Ended.NEVER)
    assert not found.tags and not found.logged_in


@pytest.mark.parametrize(
    "headers",
    [
        [("Set-Cookie", "a=b")],
        {"Set-Cookie": "a=b"},
        {"set-cookie": "a=b"},
        {"Cookie": "a=b"},
        {"name": 42},
        [b"a=b"],
    ],
    ids=repr,
)
def test_what_is_no_cookie_is_not_nobody(site: RollSession, headers: Any) -> None:
    """The headers of a response, given whole, are an error: they would be read as the cookies of nobody."""
    with pytest.raises(TypeError, match="cookies: requires a Cookie header, a mapping"):
        read_session(site, headers)


def test_what_is_no_site(site: RollSession) -> None:
    """The application is not the filter, and the message says what is."""
    with pytest.raises(TypeError, match=r"site: requires a RollSession or Sessions, received function"):
        read_session(dispatch, "")  # type: ignore[arg-type]
    assert read_session(site.sessions, session_cookies(site.sessions, {"user_id": 42})).logged_in


def roll(site: RollSession, clock: Clock, alice: Cookies) -> None:
    """Another browser with the same cookies writes."""
    call(site, put("cart", []), alice.header)


def regenerate(site: RollSession, clock: Clock, alice: Cookies) -> None:
    """Another browser with the same cookies gains a role."""
    call(site, lambda session: session.regenerate(), alice.header)


def log_out(site: RollSession, clock: Clock, alice: Cookies) -> None:
    """Another browser with the same cookies logs out."""
    call(site, lambda session: session.pop("user_id"), alice.header)


@pytest.mark.parametrize(
    ("happens", "ended"),
    [
        (lambda site, clock, alice: None, None),
        (roll, None),
        (regenerate, Ended.SUPERSEDED),
        (log_out, Ended.LOGGED_OUT),
        (lambda site, clock, alice: site.revoke("user:42"), Ended.REVOKED),
        (lambda site, clock, alice: site.revoke_everything(), Ended.REVOKED),
        (lambda site, clock, alice: clock.advance(3600), Ended.IDLE),
    ],
    ids=["nothing", "write", "regenerate", "logout", "revoke", "revoke_everything", "time"],
)
def test_how_it_ended(
    site: RollSession, clock: Clock, happens: Callable[[RollSession, Clock, Cookies], None], ended: Ended | None
) -> None:
    """What happened since to the session of these cookies is seen when it is read."""
    alice = session_cookies(site, {"user_id": 42})
    happens(site, clock, alice)
    assert read_session(site, alice).ended is ended


def test_keys_that_are_gone(clock: Clock, site: RollSession) -> None:
    """A session of a site with other keys is said to be one whose key is gone."""
    other = make_site(clock, keys=generate_key())
    assert read_session(other, session_cookies(site, {"user_id": 42})).ended is Ended.KEY_GONE


def test_a_response_that_logs_out_leaves_nobody(site: RollSession) -> None:
    """The Set-Cookie headers of a logout make a browser nobody's."""
    alice = session_cookies(site, {"user_id": 42})
    answer = call(site, lambda session: session.invalidate(), alice.header)
    assert not read_session(site, answer.set_cookies).logged_in
    assert any(cookie.partition("=")[2].startswith(";") for cookie in answer.set_cookies), "a deletion"


def test_reading_extends_nothing(site: RollSession, clock: Clock) -> None:
    """A session that is read again and again ends when it would have ended, and the store has raised nothing."""
    alice = session_cookies(site, {"user_id": 42})
    for _ in range(4):
        clock.advance(899)
        assert read_session(site, alice).logged_in
    clock.advance(4)
    assert read_session(site, alice).ended is Ended.IDLE
    assert site.sessions.revocations.status()["fences"] == 0


def test_what_is_read_is_a_copy(site: RollSession) -> None:
    """To change what was read changes no session."""
    alice = session_cookies(site, {"user_id": 42, "cart": ["tea"]})
    read_session(site, alice).data["cart"].append("milk")
    assert read_session(site, alice).data["cart"] == ["tea"]


@pytest.mark.parametrize(("outage", "fails"), [("degrade", False), ("open", False), ("closed", True)])
def test_a_store_that_is_away(clock: Clock, outage: str, fails: bool) -> None:
    """While the store is away, reading and planting fail where the application would."""
    store = Mock(shared=True)
    store.lookup.side_effect = store.lookup_now.side_effect = StoreUnavailable("away")
    store.compare_and_raise.side_effect = store.fence.side_effect = StoreUnavailable("away")
    store.last_known.side_effect = lambda keys: [0] * len(keys)
    away = make_site(clock, outage=outage, revocations=lambda options: store)
    alice = session_cookies(make_site(clock, outage=outage), {"user_id": 42})
    for attempt in (lambda: read_session(away, alice), lambda: session_cookies(away, {"user_id": 42})):
        if fails:
            with pytest.raises(StoreUnavailable):
                attempt()
        else:
            attempt()
    assert fails or read_session(away, session_cookies(away, {"user_id": 42})).logged_in


# Cookies


def test_cookies_do_what_responses_say() -> None:
    """Cookies are set, replaced and deleted, and those that a response does not name are left alone."""
    cookies = Cookies(theme="dark", a="1")
    cookies.receive(["a=2; Path=/; Secure", "b=x=y; Max-Age=10; HttpOnly", " c=3"])
    assert cookies == {"theme": "dark", "a": "2", "b": "x=y", "c": "3"}
    assert cookies.header == "theme=dark; a=2; b=x=y; c=3"
    cookies.receive(each for each in ("a=; Max-Age=0; Path=/", "d=; max-age=0", "c="))
    assert cookies == {"theme": "dark", "b": "x=y", "c": ""}


# Clients


def shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """An application with a login, a cart and a logout, which answers with who is logged in and what is in the cart."""
    request, session = Request(environ), environ["wsgi_rollsession.session"]
    if request.path == "/login":
        session["user_id"] = "alice"
    elif request.path == "/logout":
        session.pop("user_id", None)
    elif request.path == "/add":
        session["cart"] = [*session.get("cart", []), "tea"]
    response = Response(f"{session.get('user_id', 'nobody')} {len(session.get('cart', []))}")
    return response(environ, start_response)


def make_shop(**options: Any) -> RollSession:
    """The shop, with a set of its own."""
    clock = Clock()
    return RollSession(
        shop, keys=KEY, revocations=fresh_revocations(clock), clock=clock, identity_key="user_id", **options
    )


HTTPS = {"wsgi.url_scheme": "https", "HTTP_HOST": "localhost"}


@pytest.mark.parametrize(
    ("options", "environ", "is_kept"),
    [
        ({}, {}, False),
        ({}, {"HTTP_HOST": "example.com"}, False),
        ({}, {"wsgi.url_scheme": "https"}, True),
        ({}, HTTPS, True),
        ({}, {**HTTPS, "HTTP_HOST": "example.com"}, True),
        ({"insecure_http": True}, {}, True),
        ({"cookie_domain": "example.com"}, {**HTTPS, "HTTP_HOST": "www.example.com"}, True),
        ({"samesite": "None", "partitioned": True}, HTTPS, True),
    ],
    ids=str,
)
def test_webtest_over_http(options: dict[str, Any], environ: dict[str, str], is_kept: bool) -> None:
    """Over http, WebTest is silently nobody, but for ``insecure_http``; https is the remedy."""
    client = TestApp(make_shop(**options), extra_environ=environ)
    assert client.post("/login").text == "alice 0"
    assert client.get("/").text == ("alice 0" if is_kept else "nobody 0")
    client.post("/add")
    assert client.get("/").text == ("alice 1" if is_kept else "nobody 0")


def plant(client: TestApp, cookies: Cookies) -> None:
    """Give WebTest cookies, as docs/testing.md shows it."""
    for name, value in cookies.items():
        client.set_cookie(name, value)


@pytest.mark.parametrize("environ", [HTTPS, {**HTTPS, "HTTP_HOST": "example.com"}])
@pytest.mark.parametrize("held", [lambda client: client.cookies, lambda client: client.cookiejar], ids=["dict", "jar"])
def test_webtest(environ: dict[str, str], held: Callable[[TestApp], Any]) -> None:
    """A planted login is the user's, is written and logged out by the application, and read back from WebTest's jar."""
    site = make_shop()
    client = TestApp(site, extra_environ=environ)
    plant(client, session_cookies(site, {"user_id": "alice", "cart": ["milk"]}))
    assert client.post("/add").text == "alice 2"
    found = read_session(site, held(client))
    assert found.logged_in and "user:alice" in found.tags and found.data["cart"] == ["milk", "tea"]
    assert read_session(site, client.post("/logout").headers.getall("Set-Cookie")).data == {"cart": ["milk", "tea"]}
    assert not read_session(site, held(client)).logged_in
    assert not any(name.endswith("-1") for name in client.cookies), "the planted cookie is gone"


def test_webtest_without_a_host() -> None:
    """Without a host, WebTest keeps what was planted beside what the application sets; it logs in nobody."""
    site = make_shop()
    client = TestApp(site, extra_environ={"wsgi.url_scheme": "https"})
    plant(client, session_cookies(site, {"user_id": "alice"}))
    client.post("/add")
    assert sorted(each.name for each in client.cookiejar).count("__Host-session-1") == 2
    assert read_session(site, client.cookiejar).data["cart"] == ["tea"]
    client.post("/logout")
    assert "__Host-session-1" in client.cookies
    assert client.get("/").text == "nobody 1"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["localhost", "example.com"])
def test_werkzeug(scheme: str, host: str) -> None:
    """Werkzeug's client sends Secure cookies over http, and what is planted under its host is replaced and deleted."""
    site, base_url = make_shop(), f"{scheme}://{host}"
    client = Client(site)
    for name, value in session_cookies(site, {"user_id": "alice"}).items():
        client.set_cookie(name, value, domain=host, secure=True)
    response = client.post("/add", base_url=base_url)
    assert response.text == "alice 1"
    assert read_session(site, response.headers.getlist("Set-Cookie")).data["cart"] == ["tea"]
    response = client.get("/", base_url=base_url)
    assert read_session(site, response.request.headers["Cookie"]).data["cart"] == ["tea"]
    response = client.post("/logout", base_url=base_url)
    assert response.text == "nobody 1"
    assert client.get_cookie("__Host-session-1", domain=host) is None
    assert client.get("/", base_url=base_url).text == "nobody 1"


@pytest.mark.parametrize("client", [TestApp, Client])
def test_the_headers_of_a_clients_response_are_not_cookies(client: Callable[[RollSession], Any]) -> None:
    """The headers of a client's response, given whole, are an error, and not the cookies of nobody."""
    site = make_shop()
    with pytest.raises(TypeError, match="cookies: requires"):
        read_session(site, client(site).post("/login").headers)


def test_a_cookie_header_in_a_plain_environ(site: RollSession, clock: Clock) -> None:
    """A request with the header is the user's, and an untouched session is extended as ever."""
    alice = session_cookies(site, {"user_id": 42})
    clock.advance(1800)
    answer = call(site, untouched, alice.header)
    alice.receive(answer.set_cookies)
    clock.advance(3599)
    assert call(site, get("user_id"), alice.header).result == 42


# The module


def test_the_modules_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The example in the docstring of the module works, of an application that looks at nothing."""
    _, _, rest = (testing.__doc__ or "").partition("\n\n")
    example = dedent(rest.partition("\n\ndocs/testing.md")[0])
    assert "import" in example

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert environ["wsgi_rollsession.session"]["cart"] == ["tea"]
        start_response("200 OK", [])
        return [b""]

    exec(example, {"application": application})


def test_it_imports_no_framework_for_tests() -> None:
    """The module can be used where pytest is not installed."""
    program = "import sys, wsgi_rollsession.testing; print({'pytest', '_pytest', 'webtest'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "set()"
