"""The mapping that applications see."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, MutableMapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest

from wsgi_rollsession import (
    Session,
    SessionCommitted,
    SessionConflict,
    SessionValueError,
)
from wsgi_rollsession.middleware import SESSION

from .browser import (
    START,
    Answer,
    Browser,
    Clock,
    call,
    dispatch,
    get,
    login,
    logout,
    open_browser,
    put,
    untouched,
    who,
    wrap,
)


@pytest.fixture
def browser() -> Browser:
    """A browser that has talked to nobody yet, before an application with the default settings."""
    clock = Clock()
    return open_browser(clock, amnesia="accept")


def holds(browser: Browser, data: dict[str, Any]) -> None:
    """Have the browser hold a session with *data*."""
    browser.do(lambda session: session.update(data))


def contents(browser: Browser) -> dict[str, Any]:
    """What the session holds in the next request."""
    found = browser.do(dict)
    assert isinstance(found, dict)
    return found


# The mapping

OPERATIONS: list[tuple[str, Callable[[Session], Any], Any, dict[str, Any]]] = [
    ("get", lambda s: s["a"], 1, {"a": 1, "b": [1, 2]}),
    ("get or None", lambda s: s.get("z"), None, {"a": 1, "b": [1, 2]}),
    ("get or default", lambda s: s.get("z", 5), 5, {"a": 1, "b": [1, 2]}),
    ("set", lambda s: s.__setitem__("a", 2), None, {"a": 2, "b": [1, 2]}),
    ("delete", lambda s: s.__delitem__("a"), None, {"b": [1, 2]}),
    ("contains", lambda s: ("a" in s, "z" in s, 5 in s), (True, False, False), {"a": 1, "b": [1, 2]}),
    ("length", len, 2, {"a": 1, "b": [1, 2]}),
    ("truth", bool, True, {"a": 1, "b": [1, 2]}),
    ("iterate", list, ["a", "b"], {"a": 1, "b": [1, 2]}),
    ("keys", lambda s: sorted(s.keys()), ["a", "b"], {"a": 1, "b": [1, 2]}),
    ("values", lambda s: list(s.values()), [1, [1, 2]], {"a": 1, "b": [1, 2]}),
    ("items", lambda s: list(s.items()), [("a", 1), ("b", [1, 2])], {"a": 1, "b": [1, 2]}),
    ("equality", lambda s: s == {"a": 1, "b": [1, 2]}, True, {"a": 1, "b": [1, 2]}),
    ("pop", lambda s: s.pop("a"), 1, {"b": [1, 2]}),
    ("pop or default", lambda s: s.pop("z", 7), 7, {"a": 1, "b": [1, 2]}),
    ("popitem", lambda s: len(s.popitem()), 2, {"b": [1, 2]}),
    ("setdefault, there", lambda s: s.setdefault("a", 9), 1, {"a": 1, "b": [1, 2]}),
    ("setdefault, not there", lambda s: s.setdefault("z", 9), 9, {"a": 1, "b": [1, 2], "z": 9}),
    ("update", lambda s: s.update(a=3, z=4), None, {"a": 3, "b": [1, 2], "z": 4}),
    ("clear and set", lambda s: (s.clear(), s.update(z=1))[0], None, {"z": 1}),
]


@pytest.mark.parametrize(
    ("operation", "result", "after"), [row[1:] for row in OPERATIONS], ids=[row[0] for row in OPERATIONS]
)
def test_mapping(browser: Browser, operation: Callable[[Session], Any], result: Any, after: dict[str, Any]) -> None:
    """The session is a mutable mapping, and what an operation leaves in it is there in the next request."""
    holds(browser, {"a": 1, "b": [1, 2]})
    assert browser.do(operation) == result
    assert contents(browser) == after


def test_is_a_mutable_mapping(browser: Browser) -> None:
    """Whatever takes a mutable mapping takes a session."""
    assert browser.do(lambda session: isinstance(session, MutableMapping))


@pytest.mark.parametrize("operation", [lambda s: s["z"], lambda s: s.__delitem__("z"), lambda s: s.pop("z")])
def test_missing_keys(browser: Browser, operation: Callable[[Session], Any]) -> None:
    """A key that is not there raises KeyError, with and without a session."""
    for _ in range(2):
        with pytest.raises(KeyError):
            browser.call(operation)
        holds(browser, {"a": 1})


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    0.1,
    -0.0,
    1e300,
    "",
    "text",
    "größer als ASCII: 日本 🍪",
    '\x00\x1f"\\/\u2028',
    [],
    {},
    [1, [2, [3, {"four": [5]}]]],
    {"nested": {"deep": {"deeper": None}}},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values(browser: Browser, value: Any) -> None:
    """Every JSON value comes back as it was stored, with its type."""
    browser.do(put("key", value))
    back = browser.do(get("key"))
    assert back == value
    assert type(back) is type(value)


Pair = namedtuple("Pair", "a b")
Number = IntEnum("Number", {"ONE": 1})


class Text(str):
    """A subclass, as frameworks have them for text that is safe to show."""


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, 2), [1, 2]),
        (Number.ONE, 1),
        (Text("safe"), "safe"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(int, a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
    ],
    ids=repr,
)
def test_values_that_come_back_plain(browser: Browser, value: Any, back: Any) -> None:
    """Tuples come back as lists, and subclasses of JSON's types as those types."""
    browser.do(put("key", value))
    assert browser.do(get("key")) == back


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


UNFIT = [
    (b"bytes", "a bytes"),
    ({1, 2}, "a set"),
    (object(), "a object"),
    (1j, "a complex"),
    (Decimal("1.5"), "a Decimal"),
    (datetime(2026, 1, 1), "a datetime"),
    (timedelta(1), "a timedelta"),
    (UserDict(a=1), "a UserDict"),
    (Enum("Colour", "RED").RED, "a Colour"),  # type: ignore[attr-defined]
    (range(3), "a range"),
    (print, "a builtin_function_or_method"),
    (2**63, "an integer of more than 64 bits"),
    (-(2**63) - 1, "an integer of more than 64 bits"),
    (math.nan, "a float that is not finite"),
    (math.inf, "a float that is not finite"),
    (-math.inf, "a float that is not finite"),
    ("\ud800", "a string that is not Unicode text"),
    ([1, {"a": {2}}], "a set"),
    ({1: "a"}, "a dict with a key that is no string but int"),
    ({"a": {None: 1}}, "a dict with a key that is no string but NoneType"),
    ({"\udcff": 1}, "a string that is not Unicode text"),
    ((1, b""), "a bytes"),
    (OrderedDict(a=[{1}]), "a set"),
    (type("Names", (list,), {})([b""]), "a bytes"),
    (deep(66), "a value nested more than 64 deep"),
    (circular(), "a value nested more than 64 deep"),
]


@pytest.mark.parametrize(("value", "what"), UNFIT, ids=[what for _, what in UNFIT])
def test_unfit_values_raise_at_assignment(browser: Browser, value: Any, what: str) -> None:
    """A value that JSON cannot carry raises when it is assigned, naming the key, and changes nothing."""
    holds(browser, {"a": 1})

    def handler(session: Session) -> None:
        with pytest.raises(SessionValueError, match=rf"^session\['the key'\]: JSON cannot carry {what}$"):
            session["the key"] = value

    assert not browser.call(handler).set_cookies
    assert contents(browser) == {"a": 1}


@pytest.mark.parametrize(("value", "what"), UNFIT, ids=[what for _, what in UNFIT])
def test_unfit_values_raise_before_headers(browser: Browser, value: Any, what: str) -> None:
    """A value that JSON cannot carry, put inside a stored one, raises at the latest when the response starts."""
    holds(browser, {"a": 1, "the list": []})

    def handler(session: Session) -> None:
        session["the list"].append(value)

    with pytest.raises(SessionValueError, match=rf"^session\['the list'\]: JSON cannot carry {what}$"):
        browser.call(handler)
    assert contents(browser) == {"a": 1, "the list": []}


@pytest.mark.parametrize("store", [list, tuple, type("Rows", (list,), {}), lambda rows: {"rows": rows}])
@pytest.mark.parametrize("login", [False, True])
def test_unfit_values_raise_where_an_assigned_value_changes(
    clock: Clock, store: Callable[[Any], Any], login: bool
) -> None:
    """A value that JSON cannot carry, put inside one that this request assigned, of whatever type: also at a login."""
    browser = Browser(wrap(clock, identity_key="user"), clock)
    browser.do(put("user", "alice"))

    def handler(session: Session) -> None:
        inside: list[Any] = []
        session["the rows"] = store([inside])
        if login:
            session["user"] = "bob"
        inside.append({1})

    with pytest.raises(SessionValueError, match=r"^session\['the rows'\]: JSON cannot carry a set$"):
        browser.call(handler)
    assert contents(browser) == {"user": "alice"}


@pytest.mark.parametrize("key", [1, None, b"a", ("a",)])
def test_keys_are_strings(browser: Browser, key: Any) -> None:
    """A key that is not a string raises at assignment, and is simply not there when asked for."""
    with pytest.raises(SessionValueError, match=f"string, not {type(key).__name__}"):
        browser.call(put(key, 1))
    assert browser.do(lambda session: key in session) is False


def test_keys_are_text(browser: Browser) -> None:
    """A key that is not Unicode text raises at assignment."""
    with pytest.raises(SessionValueError, match="not Unicode text"):
        browser.call(put("\ud800", 1))


# What is sent


def test_nothing_is_sent_until_something_is_stored(browser: Browser) -> None:
    """Without a cookie there is an empty session, and looking at it creates and sends nothing."""
    looks: list[Callable[[Session], Any]] = [
        untouched,
        who,
        dict,
        len,
        repr,
        lambda s: (s.id, s.version, s.created, s.authenticated_at, s.last_activity, s.expires, s.tags),
        lambda s: (s.ended, s.changed, s.loaded, s.committed, s.presented),
        lambda s: s.copy(),
        lambda s: s | {"a": 1},
        lambda s: s.check(),
        lambda s: s.pop("a", None),
        lambda s: s.save(),
        lambda s: s.revert(),
        lambda s: (s.update(a=1), s.revert()),
        lambda s: (s.__setitem__("a", 1), s.__delitem__("a")),
    ]
    for look in looks:
        assert not browser.receive(browser.call(look)).set_cookies


@pytest.mark.parametrize("handler", [logout, lambda s: s.clear(), lambda s: s.forget()])
def test_a_logout_of_nobody(browser: Browser, handler: Callable[[Session], Any]) -> None:
    """Where nothing is presented, a logout moves on the slot all the same: a login may be under way."""
    for slot in "12341":
        assert browser.receive(browser.call(handler)).sent() == {"__Host-session-slot": slot}


SAME: list[tuple[str, Callable[[Session], Any]]] = [
    ("untouched", untouched),
    ("read", lambda s: s["cart"]),
    ("read inside", lambda s: s["cart"][1]["n"]),
    ("equal scalar", put("a", 1)),
    ("equal list", put("cart", [1, {"n": 2}])),
    ("equal tuple", put("cart", (1, {"n": 2}))),
    ("there and back", lambda s: (s["cart"].append(3), s["cart"].pop())),
    ("added and removed", lambda s: (s.__setitem__("z", 1), s.__delitem__("z"))),
    ("update with nothing", lambda s: s.update({})),
    ("default of what is there", lambda s: s.setdefault("a", 5)),
    ("save", lambda s: s.save()),
]


@pytest.mark.parametrize("handler", [row[1] for row in SAME], ids=[row[0] for row in SAME])
def test_an_equal_session_sends_nothing(browser: Browser, handler: Callable[[Session], Any]) -> None:
    """Assigning an equal value, or changing something back, sends nothing."""
    holds(browser, {"a": 1, "cart": [1, {"n": 2}]})
    assert not browser.call(handler).set_cookies


CHANGES: list[tuple[str, Callable[[Session], Any], dict[str, Any]]] = [
    ("append", lambda s: s["cart"].append(3), {"a": 1, "cart": [1, {"n": 2}, 3]}),
    ("deeper", lambda s: s["cart"][1].update(n=3), {"a": 1, "cart": [1, {"n": 3}]}),
    ("through get", lambda s: s.get("cart").clear(), {"a": 1, "cart": []}),
    ("through values", lambda s: list(s.values())[1].pop(), {"a": 1, "cart": [1]}),
    ("through items", lambda s: dict(s.items())["cart"].pop(), {"a": 1, "cart": [1]}),
    ("through setdefault", lambda s: s.setdefault("z", []).append(1), {"a": 1, "cart": [1, {"n": 2}], "z": [1]}),
    ("true for 1", put("a", True), {"a": True, "cart": [1, {"n": 2}]}),
    ("1.0 for 1", put("a", 1.0), {"a": 1.0, "cart": [1, {"n": 2}]}),
]


@pytest.mark.parametrize(("handler", "after"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_changes_are_kept(browser: Browser, handler: Callable[[Session], Any], after: dict[str, Any]) -> None:
    """A change is noticed wherever it is made, nested ones too, and sends the session."""
    holds(browser, {"a": 1, "cart": [1, {"n": 2}]})
    answer = browser.receive(browser.call(handler))
    assert len(answer.set_cookies) == 1
    assert repr(contents(browser)) == repr(after)


def test_an_assigned_list_may_still_change(browser: Browser) -> None:
    """A change of a list after it was assigned, and before the response starts, is kept."""

    def handler(session: Session) -> None:
        cart: list[int] = []
        session["cart"] = cart
        cart.append(1)

    browser.do(handler)
    assert browser.do(get("cart")) == [1]


# What it is


def test_a_new_session(browser: Browser) -> None:
    """Without a cookie, a session has version 0, an id that nobody has and that it keeps, and nothing else."""

    def handler(session: Session) -> tuple[Any, ...]:
        assert session.id == session.id
        return (
            session.id,
            session.version,
            session.created,
            session.authenticated_at,
            session.expires,
            set(session.tags),
        )

    one, other = browser.do(handler), browser.do(handler)
    assert one[0] != other[0]
    assert len(one[0]) == 32
    int(one[0], 16)
    assert one[1:] == (0, None, None, None, set())
    kept = browser.do(lambda s: (s.id, s.update(a=1))[0])
    assert browser.do(lambda s: s.id) == kept


def test_version_counts_writes(browser: Browser) -> None:
    """The version counts how often the session was written; the id and the creation stay."""
    holds(browser, {"a": 0})
    seen = []
    for number in range(1, 4):
        seen.append(browser.do(lambda s: (s.version, s.id, s.created)))
        browser.clock.advance(10)
        browser.do(put("a", number))
    assert [each[0] for each in seen] == [1, 2, 3]
    assert len({each[1:] for each in seen}) == 1


def test_regenerate(browser: Browser) -> None:
    """A login gives a new id, a new creation time and version, keeps the data, and ends the session it came from."""
    holds(browser, {"cart": [1]})
    old, old_header = browser.do(lambda s: s.id), browser.header()
    browser.clock.advance(100)

    def handler(session: Session) -> tuple[Any, ...]:
        session.regenerate()
        return session.id, session.version, session["cart"]

    new, version, cart = browser.do(handler)
    assert (new != old, version, cart) == (True, 0, [1])
    assert browser.do(lambda s: (s.id, s.version, s["cart"], s.created.timestamp())) == (new, 1, [1], START + 100)
    assert call(browser.application, dict, old_header).result == {}


def test_regenerate_of_a_login(browser: Browser) -> None:
    """``regenerate`` of the user who is logged in keeps the id and the creation, and ends all copies from before."""
    browser.do(login("alice"))
    before = browser.do(lambda s: (s.id, s.created))
    old_header = browser.header()
    browser.clock.advance(100)
    assert browser.do(lambda s: (s.regenerate(), (s.id, s.created), s.version)[1:]) == (before, 1)
    assert browser.do(lambda s: ((s.id, s.created), s.version, s["user"])) == (before, 1 << 16 | 1, "alice")
    assert call(browser.application, dict, old_header).result == {}


def test_tags(browser: Browser) -> None:
    """Tags are asked for by their text, kept by the session, and replaced only when new ones are given."""
    browser.do(lambda s: (s.regenerate(tags=["user:42", "tenant:7", "user:42"]), s.update(a=1)))
    assert browser.do(lambda s: ["user:42" in s.tags, "tenant:7" in s.tags, "user:4" in s.tags, len(s.tags)]) == (
        [True, True, False, 2]
    )
    browser.do(lambda s: s.regenerate())
    assert browser.do(lambda s: "user:42" in s.tags), "kept"
    browser.do(lambda s: s.regenerate(tags=["user:43"]))
    assert browser.do(lambda s: ("user:42" in s.tags, "user:43" in s.tags)) == (False, True)
    browser.do(lambda s: s.regenerate(tags=[]))
    assert browser.do(lambda s: len(s.tags)) == 0


def test_tags_are_not_in_their_representation(browser: Browser) -> None:
    """The names behind tags cannot be read from a session: it keeps their hashes."""
    browser.do(login("alice"))
    assert "alice" not in browser.do(lambda s: f"{s.tags!r} {list(s.tags)!r}")


def test_tags_alone_are_worth_a_session(browser: Browser) -> None:
    """A login that stores no data is a session all the same."""
    browser.do(lambda s: s.regenerate(tags=["user:42"]))
    assert browser.do(lambda s: (s.version, "user:42" in s.tags, dict(s))) == (1, True, {})


def test_a_text_is_not_several_tags(browser: Browser) -> None:
    """One text instead of a list of them is refused, rather than taken for a list of characters."""
    with pytest.raises(TypeError, match="requires strings"):
        browser.call(lambda s: s.regenerate(tags="user:42"))


def test_too_many_tags(browser: Browser) -> None:
    """A session takes at most 32 tags, which the error says."""
    browser.do(lambda s: s.regenerate(tags=[f"role:{number}" for number in range(32)]))
    assert browser.do(lambda s: len(s.tags)) == 32
    with pytest.raises(ValueError, match="at most 32, received 33"):
        browser.call(lambda s: s.regenerate(tags=[f"role:{number}" for number in range(33)]))


def test_representation(browser: Browser) -> None:
    """A session's representation names its id and version, and never shows its data."""
    holds(browser, {"secret": "swordfish"})
    shown = browser.do(lambda s: (repr(s), s.id, repr(s)))
    assert shown[0] == "<Session, not loaded>"
    assert shown[2] == f"<Session {shown[1]} version 1>"


# What can be asked


def test_what_can_be_asked_without_loading(browser: Browser) -> None:
    """``loaded``, ``changed``, ``committed`` and ``presented`` do not look at the session."""

    def handler(session: Session) -> list[bool]:
        return [session.loaded, session.changed, session.committed, session.presented]

    assert browser.do(handler) == [False, False, False, False]
    assert browser.do(lambda s: (s.get("a"), handler(s))[1]) == [True, False, False, False]
    holds(browser, {"a": 1})
    assert browser.do(handler) == [False, False, False, True]
    assert browser.do(lambda s: (handler(s), s.loaded)[1]) is False
    assert browser.call(handler, header="__Host-session-1=junk").result == [False, False, False, True]
    assert browser.call(handler, header="__Host-session-slot=1; a=1").result == [False, False, False, False]


@pytest.mark.parametrize(
    ("handler", "changed"),
    [
        (lambda s: s.get("cart"), False),
        (lambda s: s["cart"].append(2), True),
        (lambda s: (s["cart"].append(2), s["cart"].pop()), False),
        (put("user", "alice"), False),
        (put("user", "bob"), True),
        (lambda s: (s.update(n=1), s.save()), False),
        (lambda s: (s.update(n=1), s.revert()), False),
        (lambda s: s.regenerate(), True),
        (lambda s: (s.regenerate(), s.revert()), False),
        (lambda s: s.clear(), True),
        (lambda s: s.invalidate(), False),
    ],
)
def test_changed(browser: Browser, handler: Callable[[Session], Any], changed: bool) -> None:
    """``changed`` says whether there is anything left that the response, or ``save()``, has to do."""
    browser.do(lambda s: (login("alice")(s), s.update(cart=[1])))
    assert browser.do(lambda s: (handler(s), s.changed)[1]) is changed


def test_committed(browser: Browser) -> None:
    """``committed`` is true as soon as the response headers were decided on."""
    browser.application = wrap(browser.clock, after_headers(lambda s: s.committed))
    assert browser.do(untouched) is True


# Its life in a request


def test_invalidate(browser: Browser) -> None:
    """After ``invalidate`` the session is empty, has another id and version 0, and its cookies are deleted."""
    holds(browser, {"a": 1})

    def handler(session: Session) -> tuple[Any, ...]:
        old = session.id
        session.invalidate()
        return dict(session), session.id != old, session.version

    assert browser.do(handler) == ({}, True, 0)
    assert set(browser.cookies) == {"__Host-session-slot"}


def test_invalidate_is_harmless_when_there_is_nothing_to_end(browser: Browser) -> None:
    """Invalidating with no session, or twice, or again in the next request, is harmless."""
    browser.do(logout)
    holds(browser, {"a": 1})
    header = browser.header()
    browser.do(lambda s: (s.invalidate(), s.invalidate()))
    browser.do(logout)
    browser.call(logout, header=header)
    assert contents(browser) == {}


def test_a_session_after_invalidate_is_a_fresh_one(browser: Browser) -> None:
    """What is stored after ``invalidate`` begins a new session with a new id."""
    holds(browser, {"a": 1})
    old = browser.do(lambda s: s.id)
    browser.do(lambda s: (s.invalidate(), s.update(b=2)))
    assert contents(browser) == {"b": 2}
    assert browser.do(lambda s: s.id) != old
    assert len(browser.sessions) == 1


POPS: list[Callable[[Session], Any]] = [
    lambda s: s.__delitem__("a"),
    lambda s: s.pop("a"),
    lambda s: s.popitem(),
    lambda s: [s.pop(key) for key in list(s)],
    lambda s: (s.__delitem__("a"), s.save()),
]


@pytest.mark.parametrize("pop", POPS)
@pytest.mark.parametrize("begin", [None, ["user:42"]])
def test_removing_the_last_key_ends_nothing(
    browser: Browser, begin: list[str] | None, pop: Callable[[Session], Any]
) -> None:
    """A session without data is a session, anonymous or logged in: removing is a write like any other."""
    browser.do(lambda s: (begin and s.regenerate(tags=begin), s.update(a=1)))
    before = browser.do(lambda s: (s.id, s.ended, set(s.tags)))
    browser.do(pop)
    assert browser.do(lambda s: (dict(s), s.version)) == ({}, 2)
    assert browser.do(lambda s: (s.id, s.ended, set(s.tags))) == before


@pytest.mark.parametrize("clear", [lambda s: s.clear(), lambda s: (s.clear(), s.save())])
def test_clear_of_an_anonymous_session(browser: Browser, clear: Callable[[Session], Any]) -> None:
    """An anonymous session that is cleared becomes another; if nothing is stored in that, its cookies are deleted."""
    holds(browser, {"a": 1})
    before = browser.do(lambda s: s.id)
    assert browser.do(lambda s: (clear(s), s.id != before, dict(s), s.version)[1:]) == (True, {}, 0)
    assert set(browser.cookies) == {"__Host-session-slot"}
    holds(browser, {"a": 1})
    before = browser.do(lambda s: s.id)
    after = browser.do(lambda s: (clear(s), s.update(b=2), s.id)[2])
    assert after != before
    assert browser.do(lambda s: (dict(s), s.id)) == ({"b": 2}, after)


@pytest.mark.parametrize("clear", [lambda s: s.clear(), lambda s: (s.clear(), s.save())])
@pytest.mark.parametrize("message", [{}, {"message": "Goodbye"}])
def test_clear_is_a_logout(browser: Browser, clear: Callable[[Session], Any], message: dict[str, str]) -> None:
    """If somebody is logged in, ``clear()`` ends that; what is stored after it begins an anonymous session."""
    browser.do(login("alice"))
    thief = browser.copied()
    browser.do(lambda s: (clear(s), s.update(message)))
    assert browser.do(lambda s: (dict(s), s.authenticated_at)) == (message, None)
    assert list(browser.sessions) == (["__Host-session"] if message else [])
    assert thief.do(who) is None


def test_a_login_that_stores_and_removes(browser: Browser) -> None:
    """A login without data, in which something is stored and removed, lives on, and nothing is sent."""
    browser.do(lambda s: s.regenerate(tags=["user:42"]))
    assert not browser.receive(browser.call(lambda s: (s.update(a=1), s.pop("a")))).set_cookies
    assert browser.do(lambda s: (s.version, s.ended)) == (1, None)


def after_headers(change: Callable[[Session], Any]) -> Callable[..., Any]:
    """An application that changes the session in its body, after the headers were sent."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        session = environ[SESSION]
        session.get("a")
        start_response("200 OK", [])

        def body() -> Any:
            environ["test.holder"]["result"] = change(session)
            yield b""

        return body()

    return application


LATE: list[tuple[str, Callable[[Session], Any]]] = [
    ("set", put("a", 2)),
    ("set equal", put("a", 1)),
    ("delete", lambda s: s.__delitem__("a")),
    ("pop", lambda s: s.pop("a")),
    ("clear", lambda s: s.clear()),
    ("update", lambda s: s.update(a=2)),
    ("regenerate", lambda s: s.regenerate()),
    ("revoke others", lambda s: s.revoke_others("user:alice")),
    ("save", lambda s: s.save()),
    ("revert", lambda s: s.revert()),
    ("forget", lambda s: s.forget()),
    ("merge", lambda s: s.__ior__({"a": 2})),
]


@pytest.mark.parametrize("change", [row[1] for row in LATE], ids=[row[0] for row in LATE])
def test_changes_after_the_headers_raise(browser: Browser, change: Callable[[Session], Any]) -> None:
    """A change after the headers were sent raises ``SessionCommitted``; it is not lost in silence."""
    holds(browser, {"a": 1})
    inner = browser.application
    browser.application = wrap(browser.clock, after_headers(change), amnesia="accept")
    with pytest.raises(SessionCommitted, match="headers were sent"):
        browser.call(untouched)
    browser.application = inner
    assert contents(browser) == {"a": 1}


def test_unfit_values_raise_after_regenerate(browser: Browser) -> None:
    """What came into a list before ``regenerate`` is checked at the response, as always."""

    def handler(session: Session) -> None:
        session.setdefault("list", []).append(object())
        session.regenerate()

    with pytest.raises(SessionValueError, match="'list'"):
        browser.call(handler)


def test_reading_after_the_headers(browser: Browser) -> None:
    """A session can be read while the body is sent, whether or not it was read before."""
    holds(browser, {"a": 1})
    browser.application = wrap(browser.clock, after_headers(dict), amnesia="accept")
    assert contents(browser) == {"a": 1}


def test_logout_after_the_headers_still_ends_the_session(browser: Browser) -> None:
    """``invalidate`` while the body is sent cannot delete the cookies, but nothing accepts them any more."""
    holds(browser, {"a": 1})
    application = browser.application
    late = wrap(browser.clock, after_headers(logout), revocations=application.sessions.revocations)  # type: ignore[attr-defined]
    browser.application = late
    browser.do(untouched)
    browser.application = application
    assert contents(browser) == {}


def test_save_seals_now(browser: Browser) -> None:
    """``save`` seals at once, which the version shows; the response carries the session once, with later changes."""

    def handler(session: Session) -> list[int]:
        versions = [session.version]
        session["a"] = 1
        session.save()
        versions.append(session.version)
        return versions

    answer = browser.receive(browser.call(handler))
    assert answer.result == [0, 1]
    assert len(answer.set_cookies) == 1
    answer = browser.receive(browser.call(lambda s: (s.update(b=1), s.save(), s.update(c=1))))
    assert len(answer.set_cookies) == 1
    assert contents(browser) == {"a": 1, "b": 1, "c": 1}


def test_save_of_a_session_that_was_ended_raises(browser: Browser) -> None:
    """``save`` raises ``SessionConflict`` when another request has ended the session, changed or not."""
    for change in (lambda s: s.get("a"), put("a", 2)):
        holds(browser, {"a": 1})
        header = browser.header()

        def handler(session: Session, change: Callable[[Session], Any] = change, header: str = header) -> None:
            change(session)
            browser.call(logout, header=header)
            with pytest.raises(SessionConflict, match="logged out"):
                session.save()

        browser.do(handler)
        assert contents(browser) == {}


def test_the_session_is_the_same_object_throughout_a_request() -> None:
    """Whoever asks the environ for the session within one request gets the same object."""
    seen = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        seen.extend([environ[SESSION], environ[SESSION]])
        return dispatch(environ, start_response)

    answer: Answer = call(wrap(application=application), untouched, "")
    assert answer.status == "200 OK"
    assert seen[0] is seen[1]


@pytest.mark.parametrize("tags", [[42], ["user:42", None], [b"user:42"]])
def test_tags_are_texts(browser: Browser, tags: Any) -> None:
    """A tag that is no text is refused by name, and nothing has changed."""
    with pytest.raises(TypeError, match="requires strings"):
        browser.call(lambda s: s.regenerate(tags=tags))


@pytest.mark.parametrize("act", [lambda session: session.update(a=1), lambda session: None])
def test_ended_while_somebody_is_logged_in(act: Callable[[Session], None]) -> None:
    """Another login that the request presents is ended by a write or a roll, and the session's user stays logged in."""
    clock = Clock()
    wrapped = wrap(clock)
    one, other = Browser(wrapped, clock), Browser(wrapped, clock)
    other.do(login("bob"))
    clock.advance(1)
    one.jar = {"__Host-session-slot": ("1", None, "")}  # so that it takes another pair
    one.do(login("alice"))
    clock.advance(120)
    session = one.call(lambda session: (act(session), session)[1], header=f"{one.header()}; {other.header()}").result
    assert session["user"] == "alice"
    assert session.ended is None
    assert other.do(who) is None, "the other one is ended"
