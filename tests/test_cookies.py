"""Cookie names, the Cookie header, and Set-Cookie."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from wsgi_rollsession.cookies import LONGEST, Cookies
from wsgi_rollsession.revocation.fence import session_digest
from wsgi_rollsession.settings import Settings

from .browser import KEY

SESSION = "__Host-session-AAAAAAAA"
OTHER = "__Host-session-BBBBBBBB"
V, W = "v" * 132, "w" * 196
LEASE = "l" * 48


def cookies(**options: Any) -> Cookies:
    return Cookies(Settings(keys=KEY, revocations="memory://", **options))


HEADERS: list[tuple[str, str, list[tuple[str, str]], dict[str, str]]] = [
    ("empty", "", [], {}),
    ("one", f"{SESSION}={V}", [(SESSION, V)], {}),
    ("with lease", f"{SESSION}={V}; {SESSION}-lease={LEASE}", [(SESSION, V)], {SESSION: LEASE}),
    ("lease first", f"{SESSION}-lease={LEASE}; {SESSION}={V}", [(SESSION, V)], {SESSION: LEASE}),
    ("lease alone", f"{SESSION}-lease={LEASE}", [], {SESSION: LEASE}),
    ("among others", f"a=1; {SESSION}={V}; b=2", [(SESSION, V)], {}),
    ("two", f"{SESSION}={V}; {OTHER}={W}", [(SESSION, V), (OTHER, W)], {}),
    ("twice", f"{SESSION}={V}; {SESSION}={W}", [(SESSION, V), (SESSION, W)], {}),
    ("no space", f"a=1;{SESSION}={V};b=2", [(SESSION, V)], {}),
    ("many spaces", f" \t a=1;   {SESSION}={V}  ; b=2", [(SESSION, V)], {}),
    ("leading space", f"  {SESSION}={V}", [(SESSION, V)], {}),
    ("tab", f"a=1;\t{SESSION}={V}\t", [(SESSION, V)], {}),
    ("quoted", f'{SESSION}="{V}"; {SESSION}-lease="{LEASE}"', [(SESSION, V)], {SESSION: LEASE}),
    ("trailing semicolon", f"{SESSION}={V};", [(SESSION, V)], {}),
    ("empty cookies", f";;; {SESSION}={V};;;", [(SESSION, V)], {}),
    ("no value", f"{SESSION}; {OTHER}={V}", [(OTHER, V)], {}),
    ("empty value", f"{SESSION}=; {OTHER}={V}", [(SESSION, ""), (OTHER, V)], {}),
    ("too short", f"{SESSION}={V[1:]}", [(SESSION, V[1:])], {}),
    ("too long", f"{SESSION}={'v' * 4097}; {OTHER}={V}", [(SESSION, "v" * 4097), (OTHER, V)], {}),
    ("longer name", f"{SESSION}x={V}", [], {}),
    ("shorter name", f"{SESSION[:-1]}={V}", [], {}),
    ("similar prefix", f"my{SESSION}={V}; __Host-sessions={V}; __Host-session={V}; session-AAAAAAAA={V}", [], {}),
    ("other case", f"{SESSION.lower()}={V}", [], {}),
    ("other suffix", f"{SESSION}-least={LEASE}; {SESSION}-lease-lease={LEASE}", [], {}),
    ("in another's value", f"a={SESSION}={V}; b=x {SESSION}={V}", [], {}),
    ("in another's quotes", f'a="{SESSION}={V}"', [], {}),
    ("in our own value", f"{SESSION}={OTHER}={V}", [(SESSION, f"{OTHER}={V}")], {}),
    ("commas", f"a=1, {SESSION}={V}", [], {}),
    ("not ASCII", f"é=ü; {SESSION}={V}; ß", [(SESSION, V)], {}),
    ("control characters", f"\x00\x01=\x7f; {SESSION}={V}", [(SESSION, V)], {}),
]


@pytest.mark.parametrize(
    ("header", "sessions", "leases"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_header(header: str, sessions: list[tuple[str, str]], leases: dict[str, str]) -> None:
    """Of a Cookie header, exactly our cookies are found, in order, whatever stands around them."""
    assert cookies().parse(header) == (sessions, leases)


def stamped(stamp: int) -> str:
    """A value with a clear time stamp."""
    return urlsafe_b64encode(b"\x01" * 5 + stamp.to_bytes(6, "big") + bytes(88)).decode("ascii")


@pytest.mark.parametrize(
    ("header", "stamp"),
    [
        ("", 0),
        ("x" * 200, 0),
        (f"{SESSION}=garbage", 0),
        (f"{SESSION}={stamped(7)}", 7),
        (f"{SESSION}-lease={stamped(7)}", 7),
        (f"{SESSION}={stamped(7)}; {SESSION}-lease={stamped(8)}; b=2", 8),
        (f"{SESSION}={stamped(8)}; {OTHER}={stamped(7)}", 7),
    ],
)
def test_the_last_time_stamp(header: str, stamp: int) -> None:
    """The last cookie that looks like ours gives its clear time stamp; no such cookie, or garbage, gives 0."""
    assert cookies().last_stamp(header) == stamp


def test_the_last_time_stamp_in_the_single_layout() -> None:
    """The single layout takes its one cookie's time stamp, and not that of what another has called a lease."""
    made = cookies(cookie_layout="single")
    assert made.last_stamp(f"__Host-session={stamped(7)}") == 7
    assert made.last_stamp(f"__Host-session={stamped(7)}; __Host-session-lease={stamped(8)}") != 8


@pytest.mark.parametrize(
    ("header", "sessions"),
    [
        (f"__Host-session={V}", [("__Host-session", V)]),
        (f"a=1; __Host-session={V}; b=2", [("__Host-session", V)]),
        (f"__Host-session-AAAAAAAA={V}; __Host-sessions={V}; x__Host-session={V}", []),
        (f"__Host-session-lease={LEASE}; __Host-session={V}", [("__Host-session", V)]),
    ],
)
def test_header_in_the_single_layout(header: str, sessions: list[tuple[str, str]]) -> None:
    """The single layout has one cookie of exactly the configured name, and no lease, whatever else is called one."""
    assert cookies(cookie_layout="single").parse(header) == (sessions, {})


NAMES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "__Host-session-", "; Path=/; secure; HttpOnly; SameSite=Lax"),
    ({"cookie_name": "sid"}, "__Host-sid-", "; Path=/; secure; HttpOnly; SameSite=Lax"),
    ({"cookie_layout": "single"}, "__Host-session", "; Path=/; secure; HttpOnly; SameSite=Lax"),
    ({"samesite": "strict"}, "__Host-session-", "; Path=/; secure; HttpOnly; SameSite=Strict"),
    ({"insecure_http": True}, "session-", "; Path=/; HttpOnly; SameSite=Lax"),
    ({"cookie_path": "/app"}, "__Secure-session-", "; Path=/app; secure; HttpOnly; SameSite=Lax"),
    (
        {"cookie_domain": "example.org"},
        "__Secure-session-",
        "; Domain=example.org; Path=/; secure; HttpOnly; SameSite=Lax",
    ),
    (
        {"samesite": "None", "partitioned": True},
        "__Host-session-",
        "; Path=/; secure; HttpOnly; SameSite=None; Partitioned",
    ),
]


@pytest.mark.parametrize(("options", "prefix", "attributes"), NAMES)
def test_names_and_attributes(options: dict[str, Any], prefix: str, attributes: str) -> None:
    """A cookie has the strictest name prefix that its attributes allow, and is always HttpOnly."""
    made = cookies(**options)
    name = made.name(session_digest(bytes(16)))
    assert name == (prefix if options.get("cookie_layout") == "single" else prefix + "M8O-SqhM")
    assert made.set(name, "value", 5) == f"{name}=value; Max-Age=5{attributes}"


@pytest.mark.parametrize(("options", "prefix", "attributes"), NAMES)
def test_deletion_repeats_the_attributes(options: dict[str, Any], prefix: str, attributes: str) -> None:
    """A deletion has the Path, Domain, Secure, SameSite and Partitioned of what it deletes, or browsers ignore it."""
    assert cookies(**options).delete("name") == f"name=; Max-Age=0{attributes}"


@pytest.mark.parametrize(("max_age", "sent"), [(0, 0), (1, 1), (LONGEST - 1, LONGEST - 1), (LONGEST + 1, LONGEST)])
def test_max_age(max_age: int, sent: int) -> None:
    """Max-Age is what was asked for, up to the 400 days that browsers allow."""
    assert f"; Max-Age={sent};" in cookies().set("name", "value", max_age)


def test_each_session_has_its_own_name() -> None:
    """The names of two sessions differ, by eight characters that follow from the session's id."""
    made = cookies()
    names = {made.name(session_digest(bytes([number]) * 16)) for number in range(256)}
    assert len(names) == 256
    assert {len(name) for name in names} == {len("__Host-session-") + 8}


def test_a_megabyte_of_cookies_is_parsed_at_once() -> None:
    """Parsing takes time in proportion to the header, for the headers that are worst for it."""
    made = cookies()
    for header in (
        "__Host-session-" * 70_000,
        "; __Host-session-AAAAAAAA" * 40_000,
        " " * 1_000_000 + "__Host-session-",
        (" " * 100 + "__Host-session-;") * 10_000,
        '"' * 1_000_000,
    ):
        assert made.parse(header) == ([], {})
    assert made.parse(f"{SESSION}=" * 40_000) == ([(SESSION, f"{SESSION}=" * 39_999)], {})
