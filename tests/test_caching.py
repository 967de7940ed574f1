"""What a response's headers say about caches: no lease on what a shared cache may store; none of our cookies in one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_rollsession import Session
from wsgi_rollsession.caching import Headers, is_storable, merged
from wsgi_rollsession.middleware import ROLL, SESSION

from .browser import START, Browser, Clock, Steps, call, login, logout, memory, open_browser, put, untouched, who, wrap

CC = "Cache-Control"
#: START is this Sunday at 07:06:40.
PAST, NOW, FUTURE = (f"Sun, 02 Oct 2096 {time} GMT" for time in ("07:06:39", "07:06:40", "07:06:41"))
#: Fields that speak to some caches only (RFC 9213), and what came before them.
TARGETED = (
    "CDN-Cache-Control",
    "Cloudflare-CDN-Cache-Control",
    "Vercel-CDN-Cache-Control",
    "X-LiteSpeed-Cache-Control",
    "Surrogate-Control",
    "Edge-Control",
)

#: What lets a shared cache store a response, use it without asking, and give it to somebody else.
STORABLE: list[Headers] = [
    *(
        [(CC, value)]
        for value in (
            "public",
            "public, max-age=0",
            "public, no-cache",
            "max-age=60",
            "max-age=060",
            'max-age="60"',
            "max-age=60, must-revalidate",
            "max-age=60, no-cache",
            # Who understands the status ignores no-store (RFC 9111, 5.2.2.3)
            "must-understand, no-store, max-age=60",
            "public, no-store, must-understand",
            "s-maxage=60",
            "max-age=0, s-maxage=60",
            "s-maxage=0, max-age=60",
            "immutable, max-age=31536000",
            # What cannot be read might be more than nothing
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age=soon",
            "s-maxage=0x10",
            # Of several, a cache may take the first (RFC 9111, 4.2.1), and some take the last
            "max-age=60, max-age=0",
            "max-age=0, max-age=60",
            "s-maxage=60, s-maxage=0",
            # private="field" speaks of that field alone
            'private="x", max-age=60',
            'private="x, no-store, y", max-age=60',
            'max-age=60, private="set-cookie"',
            # What is in quotes is no directive
            'x="private", max-age=60',
            'x="a, no-store", public',
            r'x="\", no-store, ", public',
            r'x="\\", public, y="no-store"',
            "x='no-store', max-age=60",
            "no-stored, max-age=60",
            "unprivate, max-age=60",
        )
    ),
    [(CC, "max-age=60"), (CC, "max-age=0")],
    [(CC, "max-age=0"), (CC, "must-revalidate"), (CC, "s-maxage=1")],
    [("Expires", FUTURE)],
    [("Expires", "Sun Oct  2 07:06:41 2096")],
    [("Expires", FUTURE), (CC, "must-revalidate")],
    [("Expires", FUTURE), (CC, 'private="x"')],
    [("Expires", FUTURE), ("Expires", PAST)],
    [("Expires", PAST), ("Expires", FUTURE)],
    [("Expires", PAST), (CC, "max-age=60")],
    *(
        [(name, value), *more]
        for name, value in (
            *product(TARGETED, ("max-age=600", "public", "s-maxage=1", 'private="x", max-age=1', "max-age=600;x=1")),
            ("Surrogate-Control", 'max-age=3600+600, content="ESI/1.0"'),
            ("Edge-Control", "!no-store, max-age=1d"),
            ("Edge-Control", "cache-maxage=10m"),
            ("X-Accel-Expires", "60"),
            ("X-Accel-Expires", "@4000000060"),
        )
        for more in ([], [(CC, "no-store")], [(CC, "private")], [("Expires", "0")])
    ),
]

#: What does not.
PRIVATE: list[Headers] = [
    [],
    [("Content-Type", "text/html")],
    [("Last-Modified", PAST), ("ETag", '"x"')],  # by a guess of the cache's; a cookie of ours then says private
    *(
        [(CC, value)]
        for value in (
            "",
            ",",
            "private",
            "private, max-age=60",
            "max-age=60, private",
            'private="x", private, max-age=60',
            "no-store",
            "no-store, public",
            "public, no-store",
            "max-age=60, no-store",
            "no-cache",
            "max-age=0",
            "max-age=00",
            'max-age="0"',
            "s-maxage=0",
            "max-age=0, must-revalidate",
            'x="public"',
            'x="max-age=60"',
            r'x="\", public, "',
            'private="x"',
            'x="never closed, public',
            "republic",
        )
    ),
    [(CC, "private"), (CC, "max-age=60")],
    [(CC, "max-age=60"), (CC, "no-store")],
    *(
        [("Expires", value)]
        for value in (
            "",
            "0",
            "-1",
            "tomorrow",
            PAST,
            NOW,
            "Sun, 02 Oct 99999 07:06:41 GMT",
            "Sun, 02 Oct 99999999999 07:06:41 GMT",
        )
    ),
    *([("Expires", FUTURE), (CC, value)] for value in ("private", "no-store", "max-age=0", "no-cache", "s-maxage=0")),
    *(
        [(name, value)]
        for name, value in product(TARGETED, ("", "no-store", "private", "max-age=0", "private, max-age=60", "x=1"))
    ),
    [("Surrogate-Control", 'content="ESI/1.0"')],
    *([("X-Accel-Expires", value)] for value in ("", "0", "off", " 0 ")),
    [("X-Cache-Controlled", "public"), ("Cache", "public"), ("Cache-Control-X", "public")],
]


def spellings(headers: Headers) -> Iterator[Headers]:
    """The same, as other servers, proxies and people write it."""
    yield headers
    yield [(name.lower(), value) for name, value in headers]
    yield [(name.upper(), value.upper() if "control" in name.lower() else value) for name, value in headers]
    lists = [
        (name, re.split(r',(?=(?:[^"\\]|\\.|"(?:[^"\\]|\\.)*")*$)', value) if "control" in name.lower() else [value])
        for name, value in headers
    ]
    yield [(name, "\t,  ,".join(part.strip() for part in parts)) for name, parts in lists]
    yield [(name, ",".join(part.strip() for part in parts)) for name, parts in lists]
    yield [(name, f" {value} ") for name, value in headers]
    if '"never' not in str(headers):
        yield [(name, part) for name, parts in lists for part in parts]
        yield [
            (name, f'ext="no-store, public, private", {value}' if "control" in name.lower() else value)
            for name, value in headers
        ]
    yield [("Content-Type", "text/html"), *headers, ("Vary", "Accept")]


@pytest.mark.parametrize("headers", STORABLE, ids=str)
def test_storable(headers: Headers) -> None:
    """Whatever lets a shared cache store a response is known, however it is written."""
    for written in spellings(headers):
        assert is_storable(written, START), written


@pytest.mark.parametrize("headers", PRIVATE, ids=str)
def test_not_storable(headers: Headers) -> None:
    """A response that no shared cache stores may carry a lease."""
    for written in spellings(headers):
        assert not is_storable(written, START), written


def says(value: str) -> set[str]:
    """The directives without an argument in a field: another parser than the one that is tested."""
    found, member, quoted, escaped = set(), "", False, False
    for character in value + ",":
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            found.add(member.strip().lower())
            member = ""
            continue
        member += character
    return found


COOKIES = ["a=b; Path=/", "c=; Max-Age=0; Path=/"]


@pytest.mark.parametrize("lease_only", [False, True], ids=["", "a lease"])
@pytest.mark.parametrize("headers", [*STORABLE, *PRIVATE], ids=str)
def test_nothing_of_ours_gets_into_a_cache(headers: Headers, lease_only: bool) -> None:
    """A response with a cookie says so itself: no-store in every field there is; for a lease, private is enough."""
    if lease_only and headers in STORABLE:
        return  # which carries none
    for written in spellings(headers):
        if any(value.count('"') % 2 for _, value in written):
            continue  # what is appended to it is in quotes that were never closed
        before = list(written)
        result = merged(written, COOKIES, lease_only=lease_only, was_read=False)
        assert written == before, "what the application gave is its own"
        assert not is_storable(result, START), result
        assert [value for name, value in result if name == "Set-Cookie"] == COOKIES
        assert any("cookie" in value.lower() for name, value in result if name.lower() == "vary")
        wanted = {"no-store", "private"} if lease_only else {"no-store"}
        plain = set().union(*(says(value) for name, value in result if name.lower() == "cache-control"))
        assert plain & wanted, result
        for name, value in result:
            if name.lower() in map(str.lower, TARGETED):
                assert says(value) & wanted, result
            if name.lower() == "x-accel-expires":
                assert value == "0"
        for (name, value), (now, then) in zip(before, result, strict=False):
            assert name == now
            assert then.startswith(value.rstrip() if value.strip() else "") or name.lower() == "x-accel-expires"


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ('private="x, no-store, y"', 'private="x, no-store, y", no-store'),
        ('private="no-store"', 'private="no-store", no-store'),
        ('no-cache="no-store"', 'no-cache="no-store", no-store'),
        ("no-store", "no-store"),
        ("NO-STORE", "NO-STORE"),
        ("private", "private, no-store"),
        ("public, max-age=60", "public, max-age=60, no-store"),
        ("must-understand, no-store", "must-understand, no-store, private"),
        ("must-understand, private", "must-understand, private, no-store"),
        ("must-understand", "must-understand, no-store, private"),
        ("", "no-store"),
        # As people write lists: some caches read one directive of another name there
        ("no-store; no-cache", "no-store; no-cache, no-store"),
        ("no-cache no-store", "no-cache no-store, no-store"),
        ("no-store=1", "no-store=1, no-store"),
        ("must-understand; no-store", "must-understand; no-store, no-store, private"),
        (r'x="\", no-store"', r'x="\", no-store", no-store'),
    ],
)
def test_no_store_is_a_directive_of_its_own(value: str, after: str) -> None:
    """``private="x, no-store, y"`` is a list of field names in quotes, and is not taken for no-store."""
    assert merged([(CC, value)], COOKIES, lease_only=False, was_read=False)[0] == (CC, after)


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("", "private"),
        ("no-cache", "no-cache, private"),
        ("private", "private"),
        ("no-store", "no-store"),
        ('private="x"', 'private="x", private'),
        ('x="private"', 'x="private", private'),
        ("must-understand, no-store", "must-understand, no-store, private"),
        ("must-understand", "must-understand, private"),
        ("private; max-age=60", "private; max-age=60, private"),
        ("max-age=0 private", "max-age=0 private, private"),
        ('private=""', 'private="", private'),
        ("no-store; x", "no-store; x, private"),
    ],
)
@pytest.mark.parametrize("name", [CC, *TARGETED])
def test_a_lease_is_private(name: str, value: str, after: str) -> None:
    """A lease makes its response private; ``private="x"`` is not, in no field."""
    assert merged([(name, value)], COOKIES, lease_only=True, was_read=False)[0] == (name, after)


@pytest.mark.parametrize(
    ("vary", "after"),
    [
        ([], ["Cookie"]),
        ([""], ["Cookie"]),
        (["Accept"], ["Accept, Cookie"]),
        (["Accept", "Origin"], ["Accept, Cookie", "Origin"]),
        (["cookie"], ["cookie"]),
        (["Accept,COOKIE ,Origin"], ["Accept,COOKIE ,Origin"]),
        (["Accept", "Cookie"], ["Accept", "Cookie"]),
        (["*"], ["*"]),
        (["Set-Cookie"], ["Set-Cookie, Cookie"]),
        (["X-Cookie, Cookie-X"], ["X-Cookie, Cookie-X, Cookie"]),
    ],
)
@pytest.mark.parametrize("was_read", [False, True])
def test_vary(vary: list[str], after: list[str], was_read: bool) -> None:
    """A response that depends on the session says so once, beside what it depends on anyway."""
    given_headers = [("Vary", value) for value in vary]
    result = merged(given_headers, () if was_read else COOKIES, lease_only=True, was_read=was_read)
    assert [value for name, value in result if name == "Vary"] == after


def test_nothing_is_added_where_nothing_was_done() -> None:
    """A response that neither read the session nor carries a cookie is the application's, to the letter."""
    for headers in (*STORABLE, *PRIVATE):
        assert merged(headers, (), lease_only=True, was_read=False) == headers


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CC, "cache-control", "Expires", "Vary", "X-Accel-Expires", *TARGETED]),
            st.text(st.sampled_from("publicrvate-nostmx=,\"\\ ;'09\t"), max_size=40),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_whatever_an_application_sends(headers: Headers, lease_only: bool) -> None:
    """No header, however malformed, raises, or loses what the application sent."""
    assert is_storable(headers, START) in (True, False)
    result = merged(headers, COOKIES, lease_only=lease_only, was_read=True)
    assert [name for name, _ in result][: len(headers)] == [name for name, _ in headers]
    assert len(result) <= len(headers) + 4


# End to end


def due(clock: Clock, **options: Any) -> Browser:
    """Alice, whose session is due to be rolled."""
    browser = open_browser(clock, revocations=memory(clock), **options)
    browser.do(login("alice"))
    clock.advance(1200)
    return browser


@pytest.mark.parametrize("handler", [untouched, who, lambda session: session.id], ids=["untouched", "read", "id"])
@pytest.mark.parametrize("headers", [headers for headers in STORABLE if "2096" not in str(headers)], ids=str)
def test_no_lease_on_what_a_shared_cache_may_store(headers: Headers, handler: Callable[[Session], Any]) -> None:
    """A response due for a roll that a shared cache may store carries no cookie; the next one rolls instead."""
    clock = Clock()
    browser = due(clock)
    answer = browser.receive(browser.call(handler, **{"test.headers": headers}))
    assert answer.set_cookies == []
    assert [pair for pair in answer.headers if pair[0] not in ("Content-Type", "Vary")] == headers
    clock.advance(10)
    assert list(browser.call(handler).sent()) == ["__Host-session-1-lease"]


@pytest.mark.parametrize("headers", PRIVATE, ids=str)
def test_a_lease_on_what_is_nobody_elses(headers: Headers) -> None:
    """A response due for a roll that no shared cache stores carries a lease, and is private in every field."""
    clock = Clock()
    browser = due(clock)
    for handler in (untouched, who):
        answer = browser.call(handler, **{"test.headers": headers})
        assert list(answer.sent()) == ["__Host-session-1-lease"]
        plain = set().union(*(says(value) for name, value in answer.headers if name.lower() == "cache-control"))
        assert '"never' in str(headers) or plain & {"private", "no-store"}


@pytest.mark.parametrize("at", [PAST, NOW, FUTURE])
def test_expires_is_judged_by_the_clock_of_the_response(at: str) -> None:
    """Whether Expires is in the future is asked of the clock when the response starts."""
    clock = Clock(START - 2400)
    browser = due(clock)
    clock.advance(1200)
    answer = browser.call(who, **{"test.headers": [("Expires", at)]})
    assert bool(answer.set_cookies) == (at is not FUTURE)


def test_dates_as_they_were_written_once() -> None:
    """All three forms of a date (RFC 9110, 5.6.7) are read."""
    for date in ("Sun, 06 Nov 2044 08:49:37 GMT", "Sunday, 06-Nov-44 08:49:37 GMT", "Sun Nov  6 08:49:37 2044"):
        assert is_storable([("Expires", date)], 1_795_000_000), date
        assert not is_storable([("Expires", date)], 2_800_000_000), date


CHANGES: dict[str, Callable[[Session], Any]] = {
    "a write": put("x", 1),
    "a login": login("bob"),
    "an epoch": lambda session: session.regenerate(),
    "a logout": logout,
    "a clear": lambda session: session.clear(),
    "forget": lambda session: session.forget(),
    "saved": lambda session: session.update(x=1) or session.save(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("headers", [headers for headers in STORABLE if "2096" not in str(headers)][::3], ids=str)
def test_what_is_more_than_a_lease_makes_its_response_unstorable(headers: Headers, change: str) -> None:
    """A session, its deletion, and the cookie that says which slot is next go out in any case, with no-store."""
    clock = Clock()
    browser = due(clock)
    answer = browser.receive(browser.call(CHANGES[change], **{"test.headers": headers}))
    assert answer.set_cookies
    assert not is_storable(answer.headers, clock())
    assert "no-store" in set().union(
        *(says(value) for name, value in answer.headers if name.lower() == "cache-control")
    )
    assert "Cookie" in (answer.header("Vary") or "")


@pytest.mark.parametrize("handler", [untouched, who], ids=["untouched", "read"])
def test_no_lease_on_what_a_cache_puts_on_a_stored_response(handler: Callable[[Session], Any]) -> None:
    """A 304 carries none: a cache puts its headers on the response that it has stored (RFC 9111, 4.3.4)."""
    clock = Clock()
    none, lease = [], ["__Host-session-1-lease"]
    for status, sent in (("304 Not Modified", none), ("304 NOT MODIFIED", none), ("304 ", none), ("200 OK", lease)):

        def application(
            environ: dict[str, Any], start_response: Callable[..., Any], status: str = status
        ) -> list[bytes]:
            environ["test.handler"](environ[SESSION])
            start_response(status, [])
            return []

        browser = due(clock)
        browser.application = wrap(clock, application, revocations=browser.application.sessions.revocations)  # type: ignore[attr-defined]
        assert list(browser.call(handler).sent()) == sent


def test_a_write_on_a_storable_response_extends_nothing() -> None:
    """What may not be rolled is written all the same, with the activity that was confirmed last."""
    clock = Clock()
    browser = due(clock)
    before = browser.do(lambda session: session.expires, **{ROLL: False})
    browser.do(put("x", 1), **{"test.headers": [("CDN-Cache-Control", "max-age=600")]})
    assert browser.do(lambda session: (session["x"], session.expires), **{ROLL: False}) == (1, before)


@pytest.mark.parametrize("change", ["untouched", "a read", *CHANGES])
def test_parts(change: str) -> None:
    """For frameworks with a cookie interface: the same headers, and the same cookies, in parts."""
    clock = Clock()
    handler = {"untouched": untouched, "a read": who, **CHANGES}[change]
    headers = [("Content-Type", "text/html"), ("Surrogate-Control", 'content="ESI/1.0"'), ("Vary", "Accept")]
    whole, parts = (Steps(due(clock, samesite="None", partitioned=True)) for clock in (Clock(), clock))
    whole.do(handler)
    parts.do(handler)
    expected = whole.answer(*headers)
    found, cookies = parts.sessions.commit_parts(parts.session, "200 OK", headers)
    assert found == [pair for pair in expected.headers if pair[0] != "Set-Cookie"]
    assert [each.name for each in cookies] == [each.partition("=")[0] for each in expected.set_cookies]
    for each, text in zip(cookies, expected.set_cookies, strict=True):
        age = re.search("Max-Age=([0-9]+)", text)
        assert each.max_age == (int(age[1]) if age else None)
        assert each.partitioned == ("Partitioned" in text)
        assert each.httponly and each.secure and each.samesite == "None" and each.path == "/" and each.domain is None
        assert bool(each.value) == (each.max_age != 0)


def test_a_body_that_reads_first_is_a_limit() -> None:
    """The headers are gone when the body first reads the session: who needs Vary has to look before, or to say it."""
    clock = Clock()

    def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield str(environ["test.handler"](environ[SESSION])).encode()

    application = wrap(clock)
    browser = Browser(application, clock)
    browser.do(login("alice"))
    browser.application = wrap(clock, late)
    answer = call(browser.application, who, browser.header())
    assert answer.body == b"alice"
    assert answer.header("Vary") is None
