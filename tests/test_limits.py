"""The size of a cookie: the largest session that fits is kept, and one byte more is a named error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import Session, SessionConflict, SessionTooLarge
from wsgi_rollsession.keys import KeyRing
from wsgi_rollsession.revocation.fence import tag_key
from wsgi_rollsession.seal import seal_session
from wsgi_rollsession.token import MOST_WRITES, NEVER, Record, pack

from .browser import KEY, START, Browser, Clock, call, get, login, open_browser, put, with_error_page, wrap

LIMIT = 4096
error_page = with_error_page(SessionTooLarge, "500 Internal Server Error")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"cookie_name": "a"},
    {"cookie_name": "n" * 64},
    {"cookie_path": "/a/rather/long/path", "cookie_domain": "a-rather-long-host.example.org"},
    {"samesite": "None", "partitioned": True},
    {"insecure_http": True},
]


def room(application: Any, tags: int | None = None) -> int:
    """How many bytes of JSON fit into a cookie, reckoned from docs/format.md and one cookie that was sent.

    Args:
        tags: how many a login has; None for an anonymous session, whose name is shorter.
    """

    def little(session: Session) -> None:
        if tags is not None:
            session.regenerate(tags=[f"tag:{number}" for number in range(tags)])
        session["k"] = ""

    cookie = max(call(application, little, "").set_cookies, key=len)  # the other one is the slot's
    _, value = cookie[: cookie.index(";")].split("=")
    characters = LIMIT - (len(cookie) - len(value))
    blocks = (characters * 3 // 4 - 51) // 48
    return blocks * 48 - 58 - 20 * (tags or 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_largest_session_is_kept_and_one_byte_more_is_refused(clock: Clock, options: dict[str, Any]) -> None:
    """A session whose cookie browsers just accept is kept; with one more byte, ``SessionTooLarge`` names its keys."""
    browser = open_browser(clock, amnesia="accept", **options)
    size = room(browser.application) - len('{"k":""}')
    assert size > 2500
    answer = browser.receive(browser.call(put("k", "x" * size)))
    assert len(answer.set_cookies[0]) <= LIMIT
    assert browser.do(get("k")) == "x" * size
    with pytest.raises(SessionTooLarge, match=rf"'k' \({size + 3} bytes\)$"):
        browser.call(put("k", "x" * (size + 1)))
    assert browser.do(get("k")) == "x" * size


@pytest.mark.parametrize("tags", [0, 1, 7, 32])
def test_tags_take_room(clock: Clock, tags: int) -> None:
    """Every tag takes twenty bytes of the room."""
    application = wrap(clock)
    size = room(application, tags) - len('{"k":""}')

    def login(more: int) -> Callable[[Session], None]:
        def handler(session: Session) -> None:
            session.regenerate(tags=[f"tag:{number}" for number in range(tags)])
            session["k"] = "x" * (size + more)

        return handler

    assert call(application, login(0), "").set_cookies
    with pytest.raises(SessionTooLarge):
        call(application, login(1), "")


@pytest.mark.parametrize(
    ("character", "bytes_each"),
    [("x", 1), ("é", 2), ("日", 3), ("🍪", 4), ('"', 2), ("\\", 2), ("\n", 2), ("\x00", 6), ("/", 1), ("\u2028", 3)],
)
def test_text_counts_in_bytes(clock: Clock, character: str, bytes_each: int) -> None:
    """Text counts as the bytes of its UTF-8, and what JSON has to escape as its escape."""
    browser = open_browser(clock, amnesia="accept")
    size = room(browser.application) - len('{"k":""}')
    fits = character * (size // bytes_each)
    browser.do(put("k", fits))
    assert browser.do(get("k")) == fits
    with pytest.raises(SessionTooLarge, match="'k'"):
        browser.call(put("k", fits + character))


def test_the_error_names_the_largest_keys(clock: Clock) -> None:
    """``SessionTooLarge`` names the three largest keys with their sizes, largest first, and shows no value."""

    def handler(session: Session) -> None:
        session.update(small="x" * 10, large="y" * 2000, larger=["z" * 2500], medium="w" * 100)

    message = (
        r"^the session cookie would have \d{4} bytes and browsers accept 4096;"
        r" the largest keys are 'larger' \(2504 bytes\), 'large' \(2002 bytes\), 'medium' \(102 bytes\)$"
    )
    with pytest.raises(SessionTooLarge, match=message):
        call(wrap(clock), handler, "")


def test_save_raises_at_once(clock: Clock) -> None:
    """``save`` raises ``SessionTooLarge`` where it is called; made smaller, the session can be saved."""

    def handler(session: Session) -> None:
        session["k"] = "x" * 5000
        with pytest.raises(SessionTooLarge):
            session.save()
        session["k"] = "x"
        session.save()

    browser = open_browser(clock, amnesia="accept")
    browser.do(handler)
    assert browser.do(get("k")) == "x"


@pytest.mark.parametrize("versioned", [False, True])
def test_a_session_that_grew_too_large_is_still_what_it_was(clock: Clock, versioned: bool) -> None:
    """A write that does not fit changes nothing: the browser's session is alive, as it was."""
    browser = open_browser(clock, amnesia="accept", versioned=versioned)
    browser.do(login("alice"))
    browser.do(put("k", "before"))
    with pytest.raises(SessionTooLarge):
        browser.call(put("k", "x" * 5000))
    assert browser.do(lambda s: (s["k"], s.version)) == ("before", 2)
    browser.do(put("k", "after"))
    assert browser.do(get("k")) == "after"


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_what_was_saved_is_kept_when_a_later_change_is_too_large(clock: Clock, versioned: bool, new: bool) -> None:
    """1. ``save``. 2. A change that does not fit. 3. The error page: it carries what was saved."""

    browser = open_browser(clock, error_page, amnesia="accept", versioned=versioned)
    if not new:
        browser.do(login("alice"))
    answer = browser.receive(browser.call(lambda s: (s.update(n=1), s.save(), s.update(big="x" * 5000))))
    assert answer.status == "500 Internal Server Error"
    assert browser.do(dict) == ({"n": 1} if new else {"user": "alice", "n": 1})


def test_the_error_page_goes_out(clock: Clock) -> None:
    """An application that catches ``SessionTooLarge`` can answer; that answer does not carry the session."""
    answer = call(wrap(clock, error_page), put("k", "x" * 5000), "")
    assert (answer.status, answer.set_cookies) == ("500 Internal Server Error", [])


def test_the_error_page_of_a_login_logs_nobody_in(clock: Clock) -> None:
    """A login whose session does not fit is not completed by the error page, without its data."""
    answer = call(wrap(clock, error_page), lambda s: (login("alice")(s), s.update(big="x" * 5000)), "")
    assert (answer.status, answer.set_cookies) == ("500 Internal Server Error", [])


def test_the_error_page_rolls(clock: Clock) -> None:
    """The error page of a write that does not fit rolls the session that the browser has, if that is due."""
    browser = open_browser(clock, error_page, amnesia="accept")
    browser.do(login("alice"))
    (name,) = browser.sessions
    clock.advance(100)
    assert list(browser.call(put("big", "x" * 5000)).sent()) == [f"{name}-lease"]


def test_the_error_page_of_a_login_leaves_everything(clock: Clock) -> None:
    """A login that does not fit ends nothing: the cart of the anonymous session before it is still there."""
    browser = open_browser(clock, error_page, amnesia="accept", identity_key="user")
    browser.do(put("cart", [1]))
    before = dict(browser.cookies)
    for handler in (
        lambda s: (login("alice")(s), s.update(big="x" * 5000)),
        lambda s: s.update(user="alice", big="x" * 5000),
    ):
        answer = browser.receive(browser.call(handler))
        assert answer.status == "500 Internal Server Error"
        assert answer.set_cookies == []
        assert browser.cookies == before
        assert browser.do(get("cart")) == [1]


@pytest.mark.parametrize("tags", [0, 32])
def test_a_new_epoch_that_does_not_fit(clock: Clock, tags: int) -> None:
    """A ``regenerate`` whose tags or whose name leave too little room is refused, and the login goes on as it was."""
    browser = open_browser(clock, amnesia="accept")
    size = room(browser.application, 1) - len('{"user":"alice","k":""}')
    browser.do(lambda s: (login("alice")(s), s.update(k="x" * size)))
    with pytest.raises(SessionTooLarge):
        browser.call(lambda s: (s.regenerate(tags=[f"user:{n}" for n in range(tags)]), s.update(k="x" * (size + 48))))
    assert browser.do(lambda s: (s["user"], s.version)) == ("alice", 1)


def test_a_roll_is_small(clock: Clock) -> None:
    """However large a session is, a response that only extends it carries at most 200 bytes."""
    for options in OPTIONS:
        browser = open_browser(clock, amnesia="accept", **options)
        size = room(browser.application, 1) - len('{"user":"alice","k":""}')
        browser.do(lambda s, size=size: (login("alice")(s), s.update(k="x" * size)))
        clock.advance(100)
        (lease,) = browser.call(get("user")).set_cookies
        assert len(lease) <= 200 or "cookie_domain" in options


LAST_EPOCH = 16_383 << 16
ATTRIBUTES = "Path=/; secure; HttpOnly; SameSite=Lax"


def worn(clock: Clock, version: int, *, anonymous: bool = False) -> Browser:
    """A browser with a session of this version, in which alice is logged in, or nobody."""
    name, now = ("__Host-session" if anonymous else "__Host-session-1"), int(START * 1000)
    tags = () if anonymous else (tag_key("user:alice"),)
    record = Record(
        bytes(16), version, now, 0 if anonymous else now, 3600, NEVER, 0, (0,) * (len(tags) + 1), tags, b"{}"
    )
    browser = open_browser(clock)
    browser.jar[name] = (seal_session(KeyRing(KEY), name, now, pack(record)), None, ATTRIBUTES)
    return browser


def test_the_writes_of_an_epoch(clock: Clock) -> None:
    """After the last write of an epoch the next begins: of a login in the other half of its pair, else in its place."""
    browser = worn(clock, MOST_WRITES)
    old = browser.header()
    answer = browser.call(put("a", 1))
    assert [name for name, value in answer.sent().items() if value] == ["__Host-session-1b"]
    browser.jar = {"__Host-session-1b": (answer.sent()["__Host-session-1b"], None, "")}
    assert browser.do(lambda s: (s.version, s["a"], s.id)) == (1 << 16 | 1, 1, bytes(16).hex())
    assert browser.call(lambda s: s.version, header=old).result == 0, "superseded"
    browser = worn(clock, MOST_WRITES, anonymous=True)
    assert list(browser.receive(browser.call(put("a", 1))).sent()) == ["__Host-session"]
    assert browser.do(lambda s: (s.version, s["a"])) == (1 << 16 | 1, 1)


@pytest.mark.parametrize(
    "handler",
    [
        lambda s: (s.regenerate(), s.save()),
        lambda s: s.revoke_others("user:alice"),
    ],
    ids=["regenerate", "revoke others"],
)
def test_the_last_epoch(clock: Clock, handler: Callable[[Session], Any]) -> None:
    """After the last epoch of a login there is none, which is a conflict; the login goes on."""
    browser = worn(clock, LAST_EPOCH | 1)
    with pytest.raises(SessionConflict, match="log in again"):
        browser.call(handler)
    assert browser.do(lambda s: (s.version, s.ended)) == (LAST_EPOCH | 1, None)
    browser.do(put("a", 1))
    assert browser.do(lambda s: (s.version, s["a"])) == (LAST_EPOCH | 2, 1)


def test_the_last_write(clock: Clock) -> None:
    """A write after the last of the last epoch is a conflict too; another login begins at the beginning."""
    browser = worn(clock, LAST_EPOCH | MOST_WRITES)
    with pytest.raises(SessionConflict, match="log in again"):
        browser.call(lambda s: (s.update(a=1), s.save()))
    assert browser.do(get("a")) is None
    browser.receive(browser.call(lambda s: (s.invalidate(), login("alice")(s))))
    assert browser.do(lambda s: (s.version, s["user"])) == (1, "alice")


def test_the_last_write_of_an_anonymous_session(clock: Clock) -> None:
    """Of an anonymous session likewise: what cannot be kept is dropped, and nobody is harmed."""
    browser = worn(clock, LAST_EPOCH | MOST_WRITES, anonymous=True)
    with pytest.raises(SessionConflict):
        browser.call(lambda s: (s.update(a=1), s.save()))
    assert browser.call(put("a", 1)).set_cookies == []


def test_a_cookie_of_just_what_browsers_accept(clock: Clock) -> None:
    """The length of a cookie goes in steps of 64; with a name that makes it 4096 bytes, it is kept."""
    for length in range(1, 65):
        browser = open_browser(clock, cookie_name="n" * length)
        (smallest,) = browser.call(put("a", "")).set_cookies
        missing = 4096 - len(smallest)
        if missing % 64 == 0:
            break
    (cookie,) = browser.receive(browser.call(put("a", "x" * (missing // 64 * 48)))).set_cookies
    assert len(cookie) == 4096
    with pytest.raises(SessionTooLarge, match="4160 bytes"):
        browser.call(put("a", "x" * (missing // 64 * 48 + 48)))
