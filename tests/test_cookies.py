"""Cookie names, the Cookie header, and Set-Cookie."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from wsgi_rollsession.cookies import LONGEST_HEADER, LONGEST_S, PAIRS, Cookies, SetCookie

from .browser import settings

ANONYMOUS = "__Host-session"
SESSION = "__Host-session-1"
OTHER = "__Host-session-2b"
SLOT = "__Host-session-slot"
V, W = "v" * 132, "w" * 196
LEASE = "l" * 48


def cookies(**options: Any) -> Cookies:
    return Cookies(settings(**options))


HEADERS: list[tuple[str, str, list[tuple[str, str]], dict[str, list[str]]]] = [
    ("empty", "", [], {}),
    ("one", f"{SESSION}={V}", [(SESSION, V)], {}),
    ("with lease", f"{SESSION}={V}; {SESSION}-lease={LEASE}", [(SESSION, V)], {SESSION: [LEASE]}),
    ("lease first", f"{SESSION}-lease={LEASE}; {SESSION}={V}", [(SESSION, V)], {SESSION: [LEASE]}),
    ("lease alone", f"{SESSION}-lease={LEASE}", [], {SESSION: [LEASE]}),
    ("two leases", f"{SESSION}-lease={LEASE}; {SESSION}-lease=x", [], {SESSION: [LEASE, "x"]}),
    ("anonymous", f"{ANONYMOUS}={V}; {ANONYMOUS}-lease={LEASE}", [(ANONYMOUS, V)], {ANONYMOUS: [LEASE]}),
    ("among others", f"a=1; {SESSION}={V}; b=2", [(SESSION, V)], {}),
    ("two", f"{SESSION}={V}; {OTHER}={W}", [(SESSION, V), (OTHER, W)], {}),
    ("twice", f"{SESSION}={V}; {SESSION}={W}", [(SESSION, V), (SESSION, W)], {}),
    ("no space", f"a=1;{SESSION}={V};b=2", [(SESSION, V)], {}),
    ("many spaces", f" \t a=1;   {SESSION}={V}  ; b=2", [(SESSION, V)], {}),
    ("leading space", f"  {SESSION}={V}", [(SESSION, V)], {}),
    ("tab", f"a=1;\t{SESSION}={V}\t", [(SESSION, V)], {}),
    ("quoted", f'{SESSION}="{V}"; {SESSION}-lease="{LEASE}"', [(SESSION, V)], {SESSION: [LEASE]}),
    ("trailing semicolon", f"{SESSION}={V};", [(SESSION, V)], {}),
    ("empty cookies", f";;; {SESSION}={V};;;", [(SESSION, V)], {}),
    ("no value", f"{SESSION}; {OTHER}={V}", [(OTHER, V)], {}),
    ("empty value", f"{SESSION}=; {OTHER}={V}", [(SESSION, ""), (OTHER, V)], {}),
    ("too short", f"{SESSION}={V[1:]}", [(SESSION, V[1:])], {}),
    ("too long", f"{SESSION}={'v' * 4097}; {OTHER}={V}", [(SESSION, "v" * 4097), (OTHER, V)], {}),
    ("longer name", f"{SESSION}x={V}", [], {}),
    ("shorter name", f"{SESSION[:-1]}={V}", [], {}),
    ("similar prefix", f"my{SESSION}={V}; __Host-sessions={V}; __Host-session-5={V}; session-1={V}", [], {}),
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
def test_header(header: str, sessions: list[tuple[str, str]], leases: dict[str, list[str]]) -> None:
    """Of a Cookie header, exactly our cookies are found, in order, whatever stands around them."""
    assert cookies().parse(header) == (sessions, leases, 0)


SLOTS = [f"{ANONYMOUS}-{pair}{half}" for pair in (1, 2, 3, 4) for half in ("", "b")]


@pytest.mark.parametrize("name", [ANONYMOUS, *SLOTS])
def test_every_name_is_found(name: str) -> None:
    """Nine names are those of sessions, and each has its lease."""
    found = cookies().parse(f"a=1; {name}={V}; {name}-lease={LEASE}; b=2")
    assert found == ([(name, V)], {name: [LEASE]}, 0)
    assert found.names == [name, f"{name}-lease"]
    assert cookies().is_login(name) is (name != ANONYMOUS)


@pytest.mark.parametrize(
    ("header", "slot"),
    [
        *((f"{SLOT}={pair}", pair) for pair in (1, 2, 3, 4)),
        (f"a=1; {SLOT}=2; b=2", 2),
        (f'{SLOT}="3"', 3),
        (f"{SLOT}= 3 ", 3),
        (f"{SLOT}=1; {SLOT}=2", 2),
        (f"{SLOT}=1; {SLOT}=x", 0),
        *(
            (f"{SLOT}={value}", 0)
            for value in ("", "0", "5", "-1", "11", "x", "1x", "\u0663", "\xb2", "1.0", "a" * 5000)
        ),
        (f"x{SLOT}=1", 0),
        (f"{SLOT}-lease=1", 0),
        (f"a={SLOT}=1", 0),
    ],
)
def test_the_slot_cookie(header: str, slot: int) -> None:
    """The slot cookie holds a digit from 1 to 4; whatever else it holds is 0, for anybody can write it."""
    assert cookies().parse(header) == ([], {}, slot)


@pytest.mark.parametrize(
    ("slot", "presented", "pair"),
    [
        (0, [], 1),
        (1, [], 2),
        (2, [], 3),
        (3, [], 4),
        (4, [], 1),
        (1, [f"{ANONYMOUS}-2"], 3),
        (1, [f"{ANONYMOUS}-2b"], 3),
        (3, [f"{ANONYMOUS}-4", f"{ANONYMOUS}-1b"], 2),
        (1, [f"{ANONYMOUS}-2", f"{ANONYMOUS}-3", f"{ANONYMOUS}-4"], 1),
        (2, [f"{ANONYMOUS}-{pair}" for pair in (1, 2, 3, 4)], 3),
        (0, SLOTS, 1),
        (1, [ANONYMOUS], 2),
    ],
)
def test_the_pair_that_a_login_takes(slot: int, presented: list[str], pair: int) -> None:
    """It is the next in which the request presents nothing; if it presents something in all, the next."""
    made = cookies()
    assert made.next_pair(slot, presented) == pair
    assert made.in_pair(pair) == f"{ANONYMOUS}-{pair}", "the half without b"


@pytest.mark.parametrize("name", SLOTS)
def test_the_other_half(name: str) -> None:
    """The two slots of a pair are each other's other half."""
    made = cookies()
    other = made.other_half(name)
    assert other != name
    assert other in SLOTS
    assert made.other_half(other) == name
    assert other[: len(ANONYMOUS) + 2] == name[: len(ANONYMOUS) + 2]


def test_four_logins_share_no_name() -> None:
    """Of logins one after the other, each of four takes a pair of its own, whatever the first was."""
    made = cookies()
    for slot in range(PAIRS + 1):
        taken = []
        for _ in range(PAIRS):
            slot = made.next_pair(slot, [])
            taken.append(slot)
        assert sorted(taken) == [1, 2, 3, 4]


def lease(renewed: int) -> str:
    """A value that reads like a lease."""
    clear = b"\x01" * 5 + renewed.to_bytes(6, "big") + (3600).to_bytes(4, "big") + (1).to_bytes(4, "big")
    return urlsafe_b64encode(clear + bytes(17)).decode("ascii")


@pytest.mark.parametrize(
    ("header", "renewed"),
    [
        ("", None),
        ("x" * 200, None),
        (f"{SESSION}=garbage", None),
        (f"{SESSION}-lease=garbage", None),
        (f"{SESSION}-lease={'=' * 48}", None),
        (f"{SESSION}={lease(7)}", None),
        (f"{SESSION}-lease={lease(7)}", 7),
        (f"{SESSION}=x; {SESSION}-lease={lease(8)}; b=2", 8),
        (f"{SESSION}-lease={lease(8)}; {OTHER}-lease={lease(7)}", 7),
        (f"{SESSION}-lease={lease(8)}; {OTHER}=x", None),
        (f"{SESSION}-lease={lease(8)}; __Host-session-slot=1", None),
        # Of another filter, or of nobody
        (f"{SESSION}-lease={lease(8)}; __Host-session2-lease={lease(7)}", None),
        (f"{SESSION}-lease={lease(8)}; x{SESSION}-lease={lease(7)}", None),
        (f"{SESSION}-lease={lease(8)}; x={SESSION}-lease={lease(7)}", None),
        (f"{SESSION}-lease={lease(8)}; {SESSION}-lease-lease={lease(7)}", None),
        (f"a=b;{SESSION}-lease={lease(8)}", 8),
        (f"a=b;\t{SESSION}-lease={lease(8)}", 8),
    ],
)
def test_the_last_lease(header: str, renewed: int | None) -> None:
    """The last cookie that looks like ours says what it is, if it is a lease."""
    found = cookies().last_lease(header)
    assert (None if found is None else found.renewed) == renewed


NAMES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "__Host-session", "; Path=/; secure; HttpOnly; SameSite=Lax"),
    ({"cookie_name": "sid"}, "__Host-sid", "; Path=/; secure; HttpOnly; SameSite=Lax"),
    ({"samesite": "strict"}, "__Host-session", "; Path=/; secure; HttpOnly; SameSite=Strict"),
    ({"insecure_http": True}, "session", "; Path=/; HttpOnly; SameSite=Lax"),
    ({"cookie_path": "/app"}, "__Secure-session", "; Path=/app; secure; HttpOnly; SameSite=Lax"),
    (
        {"cookie_domain": "example.org"},
        "__Secure-session",
        "; Domain=example.org; Path=/; secure; HttpOnly; SameSite=Lax",
    ),
    (
        {"samesite": "None", "partitioned": True},
        "__Host-session",
        "; Path=/; secure; HttpOnly; SameSite=None; Partitioned",
    ),
]


@pytest.mark.parametrize(("options", "anonymous", "attributes"), NAMES)
def test_names_and_attributes(options: dict[str, Any], anonymous: str, attributes: str) -> None:
    """A cookie has the strictest name prefix that its attributes allow, and is always HttpOnly."""
    made = cookies(**options)
    assert made.anonymous == anonymous
    assert made.slot == f"{anonymous}-slot"
    assert [made.in_pair(pair) for pair in (1, 2, 3, 4)] == [f"{anonymous}-{pair}" for pair in (1, 2, 3, 4)]
    assert made.lease_name(anonymous) == f"{anonymous}-lease"
    assert made.header(anonymous, "value", 5) == f"{anonymous}=value; Max-Age=5{attributes}"
    assert made.header(anonymous, "value", None) == f"{anonymous}=value{attributes}", "until the browser is closed"
    assert made.parse(f"{anonymous}={V}; {anonymous}-2={W}; {anonymous}-slot=1")[0] == [
        (anonymous, V),
        (f"{anonymous}-2", W),
    ]


@pytest.mark.parametrize(("options", "anonymous", "attributes"), NAMES)
def test_deletion_repeats_the_attributes(options: dict[str, Any], anonymous: str, attributes: str) -> None:
    """A deletion has the Path, Domain, Secure and SameSite of what it deletes, or browsers ignore it.

    A Partitioned cookie and one from before the site was partitioned are two, and both are deleted.
    """
    deletions = cookies(**options).deletions("name")
    assert deletions[0] == f"name=; Max-Age=0{attributes}"
    assert deletions[1:] == ([f"name=; Max-Age=0{attributes[:-13]}"] if "Partitioned" in attributes else [])


@pytest.mark.parametrize(
    ("max_age", "sent"), [(0, 0), (1, 1), (LONGEST_S - 1, LONGEST_S - 1), (LONGEST_S + 1, LONGEST_S)]
)
def test_max_age(max_age: int, sent: int) -> None:
    """Max-Age is what was asked for, up to the 400 days that browsers allow."""
    assert f"; Max-Age={sent};" in cookies().header("name", "value", max_age)
    assert cookies().parts("name", "value", max_age)[0].max_age == sent


def assembled(part: SetCookie) -> str:
    """The Set-Cookie value that a framework makes of a cookie's parts."""
    text = f"{part.name}={part.value}"
    text += f"; Max-Age={part.max_age}" if part.max_age is not None else ""
    text += f"; Domain={part.domain}" if part.domain else ""
    text += f"; Path={part.path}"
    text += "; secure" if part.secure else ""
    text += "; HttpOnly" if part.httponly else ""
    return text + f"; SameSite={part.samesite}" + ("; Partitioned" if part.partitioned else "")


@pytest.mark.parametrize("options", [options for options, _, _ in NAMES])
def test_parts_say_the_same(options: dict[str, Any]) -> None:
    """A cookie in parts is the cookie of the header, and so are deletions."""
    made = cookies(**options)
    for max_age in (None, 0, 5, LONGEST_S + 1):
        assert [assembled(each) for each in made.parts("name", "v", max_age)] == [made.header("name", "v", max_age)]
    assert [assembled(each) for each in made.parts("name", None, None)] == made.deletions("name")


def test_names_can_be_listed() -> None:
    """However long a site runs, its cookies have nineteen names: proxies and consent tools can list them."""
    made = cookies()
    sessions = [made.anonymous, *(name for pair in (1, 2, 3, 4) for name in _pair(made, pair))]
    names = {made.slot, *sessions, *(made.lease_name(name) for name in sessions)}
    assert len(names) == 19


def _pair(made: Cookies, pair: int) -> list[str]:
    name = made.in_pair(pair)
    assert made.pair(name) == made.pair(made.other_half(name)) == pair
    return [name, made.other_half(name)]


def test_a_megabyte_of_cookies_is_parsed_at_once() -> None:
    """Parsing takes time in proportion to the header, for the headers that are worst for it."""
    made = cookies()
    for header in (
        "__Host-session-" * 70_000,
        "; __Host-session-9" * 40_000,
        " " * 1_000_000 + "__Host-session-",
        (" " * 100 + "__Host-session-;") * 10_000,
        '"' * 1_000_000,
        f"{SESSION}=" * 40_000,
    ):
        assert made.parse(header) == ([], {}, 0)
    assert made.parse(f"{SESSION}=" * 3_000) == ([(SESSION, f"{SESSION}=" * 2_999)], {}, 0)


def test_the_end_of_a_long_header() -> None:
    """Of a long header its last 65,536 characters are looked at: there is what a browser has got last."""
    made, ours = cookies(), f"{SESSION}={V}"
    junk = "; a=" + "x" * LONGEST_HEADER
    assert made.parse(f"{ours}{junk}; {OTHER}={W}") == ([(OTHER, W)], {}, 0)
    assert made.parse(ours + junk[: LONGEST_HEADER - len(ours)])[0] == [(SESSION, V)]
    assert made.parse(ours + junk[: LONGEST_HEADER - len(ours) + 1])[0] == []
