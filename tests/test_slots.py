"""The names of cookies: which there are, which of them a response sets and deletes, and what else may be in a header.

The rules: names are finite; an anonymous session has one, a login takes the next pair in which nothing is presented;
only a login, an epoch and a logout delete, and then all of ours that was presented; only what authenticates counts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from wsgi_rollsession import ConfigurationError, Ended, RollSession, Session, generate_key

from .browser import (
    KEY,
    Answer,
    Browser,
    Clock,
    Handler,
    Steps,
    get,
    login,
    logout,
    memory,
    open_browser,
    put,
    regenerate,
    untouched,
    who,
    wrap,
)

#: How cookies can be named, and the name of the anonymous session's.
NAMINGS: dict[str, tuple[dict[str, Any], str]] = {
    "host": ({}, "__Host-session"),
    "another name": ({"cookie_name": "sid.v1"}, "__Host-sid.v1"),
    "a path": ({"cookie_path": "/app"}, "__Secure-session"),
    "a domain": ({"cookie_domain": "example.com"}, "__Secure-session"),
    "plain http": ({"insecure_http": True}, "session"),
    "plain http, a domain": ({"insecure_http": True, "cookie_domain": "example.com"}, "session"),
    "partitioned": ({"samesite": "None", "partitioned": True}, "__Host-session"),
}
SLOTS = [f"-{pair}{half}" for pair in "1234" for half in ("", "b")]


@pytest.fixture(params=NAMINGS)
def naming(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    """The options of one way to name cookies, and the name of the anonymous session's."""
    return NAMINGS[request.param]


def all_names(base: str) -> set[str]:
    """Every name that there is."""
    sessions = {base, *(base + slot for slot in SLOTS)}
    return sessions | {f"{name}-lease" for name in sessions} | {f"{base}-slot"}


def keys(browser: Browser) -> set[str]:
    """The names of the cookies that a browser holds."""
    return set(browser.cookies)


# Names


def test_the_names_of_a_life(naming: tuple[dict[str, Any], str]) -> None:
    """A visitor's one name; a slot for a login, the other half of its pair for each epoch, the next pair afterwards."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, **options)
    browser.do(put("cart", 1))
    assert keys(browser) == {base}
    clock.advance(1200)
    browser.do(untouched)
    assert keys(browser) == {base, f"{base}-lease"}
    for at, pair in enumerate((1, 2, 3, 4, 1, 2)):
        browser.do(login(f"user{at}"))
        assert keys(browser) == {f"{base}-{pair}", f"{base}-slot"}
        assert browser.cookies[f"{base}-slot"] == str(pair)
        clock.advance(1200)
        browser.do(who)
        assert keys(browser) == {f"{base}-{pair}", f"{base}-{pair}-lease", f"{base}-slot"}
        browser.do(regenerate)
        assert keys(browser) == {f"{base}-{pair}b", f"{base}-slot"}
        clock.advance(1200)
        browser.do(who)
        assert keys(browser) == {f"{base}-{pair}b", f"{base}-{pair}b-lease", f"{base}-slot"}
        browser.do(regenerate)
        assert keys(browser) == {f"{base}-{pair}", f"{base}-slot"}
        browser.do(put("x", 1))
        assert keys(browser) == {f"{base}-{pair}", f"{base}-slot"}
    assert browser.do(who) == "user5"
    browser.do(logout)
    assert keys(browser) == {f"{base}-slot"}


@pytest.mark.parametrize("seed", range(6))
def test_names_are_finite(naming: tuple[dict[str, Any], str], seed: int) -> None:
    """Whatever happens in whatever order, a browser gets no name but the 19 that can be listed."""
    options, base = naming
    clock, chance = Clock(), random.Random(seed)
    browser = open_browser(clock, renew_after=0, **options)
    handlers: list[Handler] = [login("alice"), login("bob"), logout, regenerate, put("x", 1), who, untouched]
    handlers += [lambda session: session.clear(), lambda session: session.forget(), logout]
    under_way: list[Answer] = []
    seen: set[str] = set()
    for _ in range(150):
        clock.advance(chance.random() * 300)
        under_way.append(browser.call(chance.choice(handlers)))
        while under_way and chance.random() < 0.6:
            browser.receive(under_way.pop(chance.randrange(len(under_way))))
        seen |= keys(browser)
    assert seen <= all_names(base)
    assert len(all_names(base)) == 19
    browser.do(logout)
    assert keys(browser) == {f"{base}-slot"}


def test_other_names_are_others(naming: tuple[dict[str, Any], str]) -> None:
    """Cookies whose names only begin or end as ours, or whose values hold ours, are not ours, and are not deleted."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, **options)
    browser.do(login("alice"))
    name = f"{base}-1"
    value = browser.cookies[name]
    others = [
        *(
            f"{base}{rest}={value}"
            for rest in ("2", "-5", "-0", "-1c", "-1bb", "-11", "-1-leases", "-1-lease-lease", "_1")
        ),
        *(f"{before}{name}={value}" for before in ("x", "x-", "-", "__Host-x", "$")),
        f"x={name}={value}",
        f"x={name}",
        f'x="{name}={value}"',
        f"{name}",
        f"{name} {value}",
        f"{name.swapcase()}={value}",
    ]
    for other in others:
        steps = Steps(browser, other)
        assert steps.do(who) is None, other
        assert not steps.session.presented or other == name, other
        steps.do(logout)
        assert not any(cookie.startswith(other.partition("=")[0] + "=;") for cookie in steps.answer().set_cookies)
        assert browser.do(who) == "alice", other
    assert Steps(browser, f"{'; '.join(others)}; {name}={value}").do(who) == "alice"
    assert Steps(browser, f"{name}={value}; {'; '.join(others)}").do(who) == "alice"


@pytest.mark.parametrize(
    "text", ["{}={}", '{}="{}"', "{}= {} ", " {}={}\t", "\t{}={}", "a=b;{}={}", "a=b ; {}={};", ";;{}={};;"]
)
def test_spellings_of_a_header(naming: tuple[dict[str, Any], str], text: str) -> None:
    """White space, quotes and empty members, as clients and proxies write them, hide nothing."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, **options)
    browser.do(login("alice"))
    assert Steps(browser, text.format(f"{base}-1", browser.cookies[f"{base}-1"])).do(who) == "alice"


def test_fields_joined_by_a_comma_are_a_limit() -> None:
    """A server that joins several Cookie fields with a comma hides what follows it; a semicolon is what it takes."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(login("alice"))
    ours = f"__Host-session-1={browser.cookies['__Host-session-1']}"
    assert browser.call(who, header=f"a=b, {ours}").result is None
    assert browser.call(who, header=f"a=b; {ours}").result == "alice"


# A bounded number


def arranged(answers: list[tuple[int, Answer]], order: str) -> list[tuple[int, Answer]]:
    """The answers, in the order in which they arrive."""
    match order:
        case "as sent":
            return answers
        case "reversed":
            return answers[::-1]
    return random.Random(1).sample(answers, len(answers))


@pytest.mark.parametrize("order", ["as sent", "reversed", "shuffled"])
def test_the_images_of_a_first_visit_share_one_cookie(naming: tuple[dict[str, Any], str], order: str) -> None:
    """Thirty parallel requests that each begin an anonymous session leave one cookie, and it works."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, **options)
    answers = [(at, browser.call(put("seen", at))) for at in range(30)]
    for at, answer in arranged(answers, order):
        browser.receive(answer)
        assert keys(browser) == {base}
        assert browser.do(get("seen")) == at
    browser.do(put("more", 1))
    assert browser.do(lambda session: len(session)) == 2


@pytest.mark.parametrize("position", [0, 15, 30])
def test_a_login_among_the_images_of_a_first_visit(position: int) -> None:
    """A login that is answered among them stays, whatever comes after it: the visitor's cookie is another."""
    clock = Clock()
    browser = open_browser(clock)
    answers = [browser.call(put("seen", at)) for at in range(30)]
    answers.insert(position, browser.call(login("alice")))
    for answer in answers:
        browser.receive(answer)
    assert keys(browser) == {"__Host-session", "__Host-session-1", "__Host-session-slot"}
    assert browser.do(who) == "alice"
    assert browser.do(get("seen")) is None, "what was nobody's is not hers"
    browser.do(regenerate)
    assert keys(browser) == {"__Host-session-1b", "__Host-session-slot"}


def big(user: str) -> Handler:
    """Log in, with 2 kB of data that do not compress."""

    def handler(session: Session) -> None:
        login(user)(session)
        session["data"] = "".join(random.Random(user).choices("0123456789abcdef", k=1400))

    return handler


BEFORE: dict[str, Callable[[Browser], Any]] = {
    "nothing": lambda browser: None,
    "a visitor": lambda browser: browser.do(put("cart", 1)),
    "somebody": lambda browser: browser.do(big("zoe")),
    "somebody else's epoch": lambda browser: (browser.do(big("zoe")), browser.do(regenerate)),
    "logged out": lambda browser: (browser.do(big("zoe")), browser.do(logout)),
    "expired": lambda browser: (browser.do(big("zoe")), browser.clock.advance(3601)),
    "dead": lambda browser: (browser.do(big("zoe")), browser.application.revoke("user:zoe")),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("order", ["as sent", "reversed", "shuffled"])
@pytest.mark.parametrize("before", BEFORE)
def test_logins_in_parallel(naming: tuple[dict[str, Any], str], before: str, order: str) -> None:
    """Of fifteen logins in parallel the last to arrive stays; a server with its usual limit answers what follows."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, **options)
    BEFORE[before](browser)
    under_way = [Steps(browser).look() for _ in range(15)]
    for at, steps in enumerate(under_way):
        steps.do(big(f"user{at}"))
    answers = [(at, steps.answer()) for at, steps in enumerate(under_way)]
    answers = [(at, answer) for at, answer in answers if under_way[at].error is None]
    assert len(answers) == (1 if before.startswith("somebody") else 15), (
        "over somebody, one wins and the others conflict"
    )
    for at, answer in arranged(answers, order):
        browser.receive(answer)
        assert browser.do(who) == f"user{at}"
        assert len(f"Cookie: {browser.header()}") < 8190 / 2
    assert len([name for name in keys(browser) if name.startswith(f"{base}-") and name != f"{base}-slot"]) == 1
    browser.do(logout)
    assert keys(browser) == {f"{base}-slot"}


FLIGHTS: dict[str, Handler] = {
    "a roll": untouched,
    "a read": who,
    "a write": put("x", 1),
    "an epoch": regenerate,
}


@pytest.mark.parametrize("flight", FLIGHTS)
def test_logouts_each_with_something_in_flight(naming: tuple[dict[str, Any], str], flight: str) -> None:
    """After sixty logouts, each with an answer that comes late, there are as many orphans as slots at most."""
    options, base = naming
    clock = Clock()
    browser = open_browser(clock, renew_after=0, **options)
    most = 0
    for at in range(60):
        browser.do(login(f"user{at}"))
        clock.advance(60)
        late = browser.call(FLIGHTS[flight])
        browser.do(logout)
        browser.receive(late)
        assert browser.do(who) is None
        most = max(most, len(keys(browser)))
    assert most <= 3, "the slot, and what the last one left: a login deletes what it is presented"
    late = []
    for at in range(60):  # and if all of them come at the end
        browser.do(login(f"user{at}"))
        clock.advance(30)
        late.append(browser.call(FLIGHTS[flight]))
        browser.do(logout)
    for answer in late:
        browser.receive(answer)
    assert keys(browser) <= all_names(base)
    assert len(keys(browser)) <= 1 + 4, "one for each pair, and the slot"
    assert browser.do(who) is None
    browser.do(login("alice"))
    assert len(keys(browser)) == 2
    assert browser.do(who) == "alice"


@pytest.mark.parametrize("flight", FLIGHTS)
@pytest.mark.parametrize(("logins", "out"), [(1, False), (2, False), (3, False), (1, True)])
def test_a_late_answer_of_a_dead_session_lands_in_its_own_slot(flight: str, logins: int, out: bool) -> None:
    """It arrives beside the login that followed: three logins, or one after a logout, which counts too."""
    clock = Clock()
    browser = open_browser(clock, renew_after=0)
    browser.do(login("alice"))
    clock.advance(10)
    late = browser.call(FLIGHTS[flight])
    for at in range(logins):
        if out:
            browser.do(logout)
        browser.do(login(f"bob{at}"))
    before = dict(browser.jar)
    browser.receive(late)
    assert {name: browser.jar.get(name) for name in before} == before, "no response touches another login's cookies"
    assert browser.do(who) == f"bob{logins - 1}"
    browser.do(logout)
    assert keys(browser) == {"__Host-session-slot"}


# The slot cookie


@pytest.mark.parametrize(
    ("slot", "presented", "pair"),
    [
        (None, "", 1),
        *((str(slot), "", slot % 4 + 1) for slot in (1, 2, 3, 4)),
        *((slot, "", 1) for slot in ("0", "5", "-1", "", "x", "11", "1x", "01", "1.0", "\u0661", "\u00b2", "None")),
        ('"2"', "", 3),
        (" 2 ", "", 3),
        # Where something is presented, authentic or not, an answer may be under way
        ("1", "2", 3),
        ("1", "2b", 3),
        ("1", "2 3", 4),
        ("1", "2 3b 4", 1),
        ("4", "1 2 3", 4),
        ("2", "1 2 3 4", 3),
        ("4", "1 2 3 4", 1),
        (None, "1b 2b 3b 4b", 1),
        (None, "1", 2),
        (None, "2", 1),
        ("3", "anonymous", 4),
    ],
)
@pytest.mark.parametrize("act", ["a login", "a logout"])
def test_the_next_pair(slot: str | None, presented: str, pair: int, act: str) -> None:
    """A login takes the next pair in which nothing is presented, else the next; a logout counts it as used."""
    clock = Clock()
    browser = open_browser(clock)
    cookies = [] if slot is None else [f"__Host-session-slot={slot}"]
    cookies += ["__Host-session=x" if name == "anonymous" else f"__Host-session-{name}=x" for name in presented.split()]
    answer = browser.call(login("alice") if act == "a login" else logout, header="; ".join(cookies))
    sent = answer.sent()
    assert sent["__Host-session-slot"] == str(pair)
    assert [name for name, value in sent.items() if value and not name.endswith("slot")] == (
        [f"__Host-session-{pair}"] if act == "a login" else []
    )


def test_leases_take_no_pair() -> None:
    """Only session cookies count as presented: an orphaned lease is overwritten by its slot's next."""
    clock = Clock()
    browser = open_browser(clock)
    answer = browser.call(login("alice"), header="__Host-session-1-lease=x; __Host-session-2-lease=y")
    assert set(answer.sent()) == {
        "__Host-session-1",
        "__Host-session-slot",
        "__Host-session-1-lease",
        "__Host-session-2-lease",
    }
    assert [name for name, value in answer.sent().items() if not value] == [
        "__Host-session-1-lease",
        "__Host-session-2-lease",
    ]


@pytest.mark.parametrize(
    ("absolute", "age"),
    [("24h", 86400), ("1h", 3600), ("390d", 390 * 86400), ("500d", 400 * 86400), ("none", 400 * 86400)],
)
def test_how_long_the_slot_is_remembered(absolute: str, age: int) -> None:
    """As long as the absolute timeout, and as long as browsers keep anything."""
    clock = Clock()
    browser = open_browser(clock, absolute_timeout=absolute, idle_timeout="1h")
    for handler in (login("alice"), logout):
        (slot,) = [text for text in browser.call(handler).set_cookies if text.startswith("__Host-session-slot=")]
        assert f"; Max-Age={age};" in slot


#: What counts as a login, an epoch or a logout, and what does not.
DELETING: dict[str, Handler] = {
    "a login": login("alice"),
    "an epoch": regenerate,
    "a logout": logout,
    "a clear": lambda session: session.clear(),
    "forget": lambda session: session.forget(),
    "the identity": put("user", "bob"),
    "the identity taken out": lambda session: session.pop("user", None),
    "log out others": lambda session: session.revoke_others("user:zoe"),
    "saved": lambda session: session.regenerate() or session.save(),
}
KEEPING: dict[str, Handler] = {
    "untouched": untouched,
    "a read": who,
    "a write": put("x", 1),
    "a saved write": lambda session: session.update(x=1) or session.save(),
    "a saved nothing": lambda session: session.save(),
    "reverted": lambda session: session.clear() or session.revert(),
    "a check": lambda session: session.check(),
    "emptied": lambda session: session.pop("user2", None),
}


def crowded(naming: tuple[dict[str, Any], str], clock: Clock) -> tuple[Browser, str]:
    """Zoe, logged in, with a lease; and beside hers, an anonymous session, dead ones, orphans and junk."""
    options, base = naming
    browser = open_browser(clock, identity_key="user", **options)
    browser.do(put("cart", 1))
    visitor = dict(browser.jar), dict(browser.partition)
    browser.do(put("user", "yan"))
    yan = dict(browser.jar), dict(browser.partition)
    browser.do(put("user", "zoe"))
    clock.advance(1200)
    browser.do(who)
    for jar, older in zip((browser.jar, browser.partition), zip(visitor, yan, strict=True), strict=True):
        rest = next((rest for _, _, rest in jar.values()), None)
        for each in older:
            jar.update({name: kept for name, kept in each.items() if name not in jar})
        if rest is not None:
            jar.update({base + name: ("junk", None, rest) for name in ("-3", "-4b", "-3b-lease", "-lease")})
    return browser, base


@pytest.mark.parametrize("how", DELETING)
def test_who_deletes_deletes_all(naming: tuple[dict[str, Any], str], how: str) -> None:
    """A login, an epoch and a logout delete all names of ours that were presented, but what they set, and the slot."""
    clock = Clock()
    browser, base = crowded(naming, clock)
    presented = keys(browser)
    assert len(presented) == 9
    answer = browser.receive(browser.call(DELETING[how]))
    sent = answer.sent()
    kept = {name for name, value in sent.items() if value}
    assert {name for name, value in sent.items() if not value} == presented - kept - {f"{base}-slot"}
    assert keys(browser) == kept | {f"{base}-slot"}


@pytest.mark.parametrize("how", KEEPING)
def test_who_does_not_deletes_nothing(naming: tuple[dict[str, Any], str], how: str) -> None:
    """Reads and writes delete nothing: a deletion could take away what a logout in parallel has to present."""
    clock = Clock()
    browser, _ = crowded(naming, clock)
    clock.advance(1200)
    answer = browser.call(KEEPING[how])
    assert all(answer.sent().values())
    assert browser.receive(answer) and browser.do(who) == "zoe"


@pytest.mark.parametrize("count", [0, 1, 18])
def test_nothing_is_deleted_that_was_not_presented(count: int) -> None:
    """A login of a browser that presents nothing, or nothing of ours, deletes nothing."""
    clock = Clock()
    browser = open_browser(clock)
    header = "; ".join(f"cookie{at}={at}" for at in range(count))
    for handler in (login("alice"), logout):
        assert all(browser.call(handler, header=header).sent().values())


# Keys that are gone


@pytest.mark.parametrize("last", ["a login", "a logout"])
def test_restarts_with_new_keys(naming: tuple[dict[str, Any], str], last: str) -> None:
    """Eighteen restarts, each with a new key and a login: what no key opens any more is deleted by the next login."""
    options, _ = naming
    clock = Clock()
    browser = open_browser(clock)
    for at in range(18):
        browser.application = wrap(clock, keys=generate_key(), **options)
        assert browser.do(lambda session: session.ended) is (Ended.KEY_GONE if at else Ended.NEVER)
        clock.advance(1200)
        browser.do(put("anything", at))
        browser.do(untouched)
        browser.do(login("alice"))
        assert browser.do(who) == "alice"
        assert len(keys(browser)) == 2
        clock.advance(1200)
        browser.do(untouched)
        assert len(keys(browser)) == 3, "with its lease"
    browser.application = wrap(clock, keys=generate_key(), **options)
    browser.do(login("bob") if last == "a login" else logout)
    assert len(keys(browser)) == (2 if last == "a login" else 1)


# Junk


def forged(value: str, at: int) -> str:
    """Of the shape of *value*, and under the same key, but nobody sealed it."""
    position = 20 + at % (len(value) - 24)
    return value[:position] + ("A" if value[position] != "A" else "B") + value[position + 1 :]


JUNK: dict[str, Callable[[str, str, int], str]] = {
    "random": lambda _, value, at: "".join(random.Random(at).choices("abcdefghij-_0123", k=40)),
    "of our shape": lambda _, value, at: forged(value, at),
    "empty": lambda _, value, at: "",
    "cut off": lambda _, value, at: value[: -1 - at % 60],
    "not ASCII": lambda _, value, at: "\u00e9" * 30,
    "another name's": lambda other, value, at: other,
    "a lease": lambda _, value, at: "AZl7hW8Do1Kmj4AAAA4QAAAAAVtKmPXvXJbVfsuhX5C3Phks",
}


@pytest.mark.parametrize("where", ["before", "after", "between", "same name before", "same name after", "leases too"])
@pytest.mark.parametrize("count", [8, 64, 400])
@pytest.mark.parametrize("junk", JUNK)
def test_junk_hides_nobody(junk: str, count: int, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Planted cookies of our names and shape neither hide a login nor save it from its logout: one log line."""
    caplog.set_level(logging.INFO, "wsgi_rollsession")
    clock = Clock()
    application = wrap(clock, revocations=memory(clock))
    browser = Browser(application, clock)
    other = Browser(application, clock)
    other.do(login("mallory"))
    browser.do(logout)
    browser.do(login("alice"))  # in another slot than hers
    clock.advance(1200)
    browser.do(who)
    name = "__Host-session-2"
    value, lease = browser.cookies[name], f"{name}-lease={browser.cookies[name + '-lease']}"
    foreign = other.cookies["__Host-session-1"]
    names = (
        [name] if where.startswith("same name") else [f"__Host-session-{slot}" for slot in ("1b", "2b", "3", "4b", "2")]
    )
    planted = [f"{names[at % len(names)]}={JUNK[junk](foreign, value, at)}" for at in range(count)]
    if where == "leases too":
        planted += [f"{name}-lease={JUNK[junk](foreign, value, at)}" for at in range(count)]
    middle = len(planted) // 2
    cookies = {
        "before": [*planted, f"{name}={value}", lease],
        "after": [f"{name}={value}", lease, *planted],
        "between": [*planted[:middle], f"{name}={value}", *planted[middle:], lease],
        "same name before": [*planted, f"{name}={value}", lease],
        "same name after": [f"{name}={value}", lease, *planted],
        "leases too": [*planted[:middle], lease, f"{name}={value}", *planted[middle:]],
    }[where]
    header = "; ".join(cookies)
    if len(header) > 65_536:
        assert count == 400
        return  # which no server lets in
    caplog.clear()
    assert browser.call(who, header=header).result == "alice"
    assert len(caplog.records) == 1
    caplog.clear()
    other.do(untouched)
    clock.advance(3000)  # alive by its lease alone
    assert browser.call(who, header=header).result == "alice"
    answer = browser.call(logout, header=header)
    assert len(caplog.records) == 2
    assert {each for each, value in answer.sent().items() if not value} == {pair.partition("=")[0] for pair in cookies}
    assert browser.do(who) is None
    if junk != "another name's":
        assert other.do(who) == "mallory"


@pytest.mark.parametrize("length", [65_536, 200_000, 2_000_000])
def test_of_a_header_that_no_server_lets_in_the_end_counts(length: int) -> None:
    """The cost of a header is bounded: the last 65,536 characters are looked at."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(login("alice"))
    ours = browser.header()
    assert browser.call(who, header=f"x={'y' * length}; {ours}").result == "alice"
    assert browser.call(who, header=f"{ours}; x={'y' * length}").result is None


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]])
def test_the_best_of_several_leases_counts(order: list[int]) -> None:
    """Of several values under a lease's name, as other paths or domains leave them, the latest authentic one counts."""
    clock = Clock()
    browser = open_browser(clock, renew_after=60)
    browser.do(login("alice"))
    leases = []
    for _ in range(3):
        clock.advance(1800)
        browser.do(who)
        leases.append(browser.cookies["__Host-session-1-lease"])
    pairs = [f"__Host-session-1-lease={leases[at]}" for at in order]
    session = f"__Host-session-1={browser.cookies['__Host-session-1']}"
    clock.advance(3599)
    for header in ("; ".join([session, *pairs]), "; ".join([*pairs, "__Host-session-1-lease=junk", session])):
        assert browser.call(who, header=header).result == "alice"
    clock.advance(2)
    assert browser.call(who, header="; ".join([session, *pairs])).result is None


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("versioned", [False, True])
def test_the_newest_of_several_versions_counts(reverse: bool, versioned: bool) -> None:
    """Of several authentic values under one name, the newest version of the newest login counts."""
    clock = Clock()
    browser = open_browser(clock, versioned=versioned)
    browser.do(login("alice"))
    values = []
    for at in range(3):
        clock.advance(1)
        browser.do(put("x", at))
        values.append(f"__Host-session-1={browser.cookies['__Host-session-1']}")
    header = "; ".join(reversed(values) if reverse else values)
    assert browser.call(get("x"), header=header).result == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_a_login_outranks_every_visitor(reverse: bool) -> None:
    """However new the anonymous session beside it is, and wherever it stands."""
    clock = Clock()
    browser = open_browser(clock)
    late = browser.call(put("seen", 1))
    browser.do(login("alice"))
    clock.advance(10)
    visitor = Browser(browser.application, clock)
    visitor.do(put("seen", 2))
    for each in (visitor.header(), late.set_cookies[0].partition(";")[0]):
        pairs = [browser.header(), each]
        assert browser.call(who, header="; ".join(reversed(pairs) if reverse else pairs)).result == "alice"


def test_visitors_sessions_are_not_ended_by_reads() -> None:
    """Of two anonymous sessions in a jar neither is fenced by a read or a write: they are nobody's."""
    clock = Clock()
    store = memory(clock)
    browser = open_browser(clock, revocations=store, renew_after=0, insecure_http=True)
    one, other = Browser(browser.application, clock), Browser(browser.application, clock)
    one.do(put("cart", 1))
    clock.advance(1)
    other.do(put("cart", 2))
    fences = store.status()["fences"]
    header = f"{one.header()}; {other.header()}"
    for handler in (who, untouched, put("x", 1)):
        browser.call(handler, header=header)
    assert store.status()["fences"] == fences
    assert (one.do(get("cart")), other.do(get("cart"))) == (1, 2)


@pytest.mark.parametrize("handler", [who, untouched, put("x", 1)], ids=["a read", "untouched", "a write"])
def test_other_logins_are_ended_by_rolls_and_writes(handler: Handler) -> None:
    """Of several logins that one request presents the newest counts, and its roll or write ends the others."""
    clock = Clock()
    application = wrap(clock, revocations=memory(clock))
    one, other, three = (Browser(application, clock) for _ in range(3))
    for browser, user in ((one, "alice"), (other, "bob"), (three, "carol")):
        if user != "alice":
            browser.do(logout)  # so that it takes another slot
        if user == "carol":
            browser.do(logout)
        browser.do(login(user))
        clock.advance(10)
    mixed = Browser(application, clock)
    mixed.jar = {**other.jar, **one.jar, **three.jar}
    assert mixed.do(who) == "carol"
    assert one.do(who) == "alice", "a read that neither rolls nor writes ends nothing"
    clock.advance(1200)
    mixed.do(handler)
    assert (one.do(who), other.do(who), three.do(who)) == (None, None, "carol")


# Partitioned


@pytest.mark.parametrize("samesite", ["Lax", "Strict"])
def test_partitioned_wants_samesite_none(samesite: str) -> None:
    """An embedded page sends no other cookie: that the two do not fit together is said at start."""
    with pytest.raises(ConfigurationError, match="samesite: requires None with partitioned"):
        RollSession(untouched, keys=KEY, revocations="memory://", partitioned=True, samesite=samesite)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="samesite: requires None with partitioned"):
        RollSession(untouched, keys=KEY, revocations="memory://", partitioned=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["a login", "an epoch", "a logout", "a clear"])
def test_partitioned_is_switched_on(how: str) -> None:
    """A site that ran without it: both forms of every cookie are deleted, so nothing is left of the old ones."""
    clock = Clock()
    store = memory(clock)
    options = {"samesite": "None", "revocations": store}
    browser = open_browser(clock, **options)
    browser.do(login("zoe"))
    clock.advance(1200)
    browser.do(who)
    browser.application = wrap(clock, **options, partitioned=True)
    assert browser.do(who) == "zoe"
    clock.advance(1200)
    browser.do(untouched)
    assert set(browser.partition) == {"__Host-session-1-lease"}, "the other name of the other jar"
    browser.do(DELETING[how])
    assert not [name for name in browser.jar if not name.endswith("-slot")]
    assert len(browser.partition) == (1 if how in ("a logout", "a clear", "an epoch") else 2)
    answer = browser.call(logout)
    deletions = [text for text in answer.set_cookies if "Max-Age=0" in text]
    assert len(deletions) == 2 * len([name for name in set(browser.cookies) if not name.endswith("-slot")])


def test_partitioned_is_switched_off() -> None:
    """What is left in the partition of an embedding site is dead after a logout, though nothing can delete it there."""
    clock = Clock()
    store = memory(clock)
    options = {"samesite": "None", "revocations": store}
    browser = open_browser(clock, **options, partitioned=True)
    browser.do(login("zoe"))
    browser.application = wrap(clock, **options)
    assert browser.do(who) == "zoe"
    browser.do(login("alice"))
    assert browser.do(who) == "alice"
    browser.do(logout)
    assert browser.do(who) is None
    assert browser.do(lambda session: session.ended) is Ended.LOGGED_OUT
