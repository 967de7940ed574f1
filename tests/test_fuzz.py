"""Ten thousand generated Cookie headers: never an exception, never a session that was not issued, bounded work."""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_rollsession import RollSession, Session, generate_key
from wsgi_rollsession.cookies import LONGEST_HEADER
from wsgi_rollsession.keys import HMAC, KeyRing
from wsgi_rollsession.middleware import ROLL
from wsgi_rollsession.seal import seal_lease, seal_session
from wsgi_rollsession.token import NEVER, Lease, Record, pack
from wsgi_rollsession.xaes import XAES256GCM

from .browser import START, Browser, Clock, call, login, logout, put, untouched, who, wrap

KEYS = [generate_key(), generate_key()]
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LATIN = "".join(map(chr, range(256)))


class Stage(NamedTuple):
    """An application, real cookies to start from, and what a header must contain for a session to be found in it."""

    application: RollSession
    names: list[str]
    values: list[str]
    issued: dict[str, set[str]]  # the id of a session that is alive -> its cookies, as name=value
    opened: list[int]


def build() -> Stage:
    """Sessions that are alive, with and without a lease, tagged and not, small and large; and others that are not."""
    clock = Clock()
    application = wrap(clock, keys=KEYS, amnesia="accept", versioned=True)
    old = wrap(clock, keys=KEYS[1], revocations=application.sessions.revocations)
    elsewhere = wrap(clock, keys=generate_key(), amnesia="accept")
    issued: dict[str, set[str]] = {}
    names, values = [], []
    for number, (issuer, handler) in enumerate(
        [
            (application, login("alice")),
            (application, put("large", "x" * 2500)),
            (old, login("bob")),
            (application, login("logged out")),
            (elsewhere, login("somebody else")),
            (application, put("written", 0)),
        ]
    ):
        browser = Browser(issuer, clock)
        browser.jar["__Host-session-slot"] = (str(number % 4), None, "")  # so that the logins have different names
        browser.do(handler)
        if number == 5:  # an older version, which is refused where versions are checked
            names += browser.sessions
            values += [browser.cookies[name] for name in browser.sessions]
            browser.do(put("written", 1))
        clock.advance(61)
        browser.do(lambda s: s.get("user"))
        id_ = browser.do(lambda s: s.id)
        alive = [f"{name}={browser.cookies[name]}" for name in browser.sessions]
        for name in sorted(browser.cookies, key=lambda name: name.endswith("-slot")):
            names.append(name)
            values.append(browser.cookies[name])
        if number == 3:
            browser.do(logout)
        elif issuer is not elsewhere:
            issued[id_] = set(alive)
    # Authentic, but not what this program writes.
    ring = KeyRing(KEYS)
    record = Record(bytes(16), 1, int(START * 1000), 0, 3600, NEVER, 0, (0,), (), b"{}")
    for plaintext in (bytes(48), pack(record)[:48] + b"\x01\xff" + bytes(46), b"\xff" * 96):
        names.append(names[0])
        values.append(seal_session(ring, names[0], int(START * 1000), plaintext))
    names.append(names[0] + "-lease")
    values.append(seal_lease(ring, names[0] + "-lease", bytes(16), Lease(NEVER, 1 << 31, 0)))
    return Stage(application, names, values, issued, [])


@pytest.fixture
def stage() -> Stage:
    """A stage of its own for each test: a roll ends the other logins that a header presents."""
    return build()


@pytest.fixture
def counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Counts how often something is decrypted or authenticated: the part of the work that costs."""

    def count(function: Any) -> Any:
        def counting(*args: Any) -> Any:
            stage.opened.append(1)
            return function(*args)

        return counting

    monkeypatch.setattr(XAES256GCM, "open", count(XAES256GCM.open))
    monkeypatch.setattr(HMAC, "digest", count(HMAC.digest))
    return stage


# A cookie is made by choosing a name, a value, and what happens to it; a header by joining some. One number makes
# one cookie, because drawing is what takes time in ten thousand examples.

CHANGES = "no no no change cut double quote swap insert case huge strip alphabet empty".split()
BETWEEN = ["; ", "; ", "; ", ";", " ;\t", ",", " ", "=", '"; ', "\\", "\xe9;"]
header = st.lists(st.integers(0, 2**48), max_size=5)


def made(stage: Stage, numbers: list[int]) -> str:
    """The header that *numbers* describe."""
    return "".join(cookie(stage, number) for number in numbers) * (30 if sum(numbers) % 8 == 7 else 1)


def cookie(stage: Stage, number: int) -> str:
    number, change = divmod(number, len(CHANGES))
    number, between = divmod(number, len(BETWEEN))
    number, index = divmod(number, len(stage.values))
    number, stray = divmod(number, 5)  # four of five times the value under its own name
    at, other = divmod(number, len(stage.names))
    name = stage.names[other if stray == 4 else index]
    pair = f"{name}={stage.values[index]}"
    where = at % (len(pair) + 1)
    match CHANGES[change]:
        case "change":
            pair = pair[:where] + BASE64[(at >> 4) % 64] + pair[where + 1 :]
        case "cut":
            pair = pair[:where]
        case "double":
            pair = f"{pair}; {pair}"
        case "quote":
            pair = pair.replace("=", '="', 1) + '"'
        case "swap":
            pair = pair[where:] + pair[:where]
        case "insert":
            pair = pair[:where] + LATIN[at % 256] * (1 + at % 3) + pair[where:]
        case "case":
            pair = pair.swapcase()
        case "huge":
            pair = pair[:where] + BASE64[at % 64] * (at % 20_000) + pair[where:]
        case "strip":
            pair = pair.replace("__Host-", "", 1)
        case "alphabet":
            pair = pair.replace("-", "+").replace("_", "/")
        case "empty":
            pair = name + "="
    return pair + BETWEEN[between]


def look(session: Session) -> tuple[str, bool, dict[str, Any]]:
    return session.id, session.version == 0, dict(session)


@settings(max_examples=10_000, derandomize=True, database=None)
@given(header)
def check_headers(stage: Stage, found: list[str], numbers: list[int]) -> None:
    text = made(stage, numbers)
    stage.opened.clear()
    id_, is_new, data = call(stage.application, look, text, **{ROLL: False}).result
    assert len(stage.opened) <= 4096 + text.count("="), "each session once, and so many pairs of one and a lease"
    if is_new:
        assert data == {}
    else:
        # The session was issued, is alive, and stands in the header, unchanged and under its own name.
        assert any(pair in text or pair.replace("=", '="', 1) in text for pair in stage.issued[id_])
        found.append(id_)


def test_generated_headers(counted: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand headers made from real cookies never raise, open nothing that was not issued, and cost little."""
    caplog.set_level(logging.WARNING)  # ten thousand lines of information are not what is tested here
    found: list[str] = []
    check_headers(counted, found)
    assert set(found) == set(counted.issued), "the headers do hold sessions that are alive"
    assert not [record for record in caplog.records if record.name == "wsgi_rollsession"]


@settings(max_examples=1_000, derandomize=True, database=None)
@given(st.text(alphabet=LATIN, max_size=200))
@example("")
@example("=")
@example(";")
@example("__Host-session-")
@example("__Host-session-1=")
@example("__Host-session-1")
@example("__Host-session-\xe9=" + "A" * 132)
@example("__Host-session=")
@example("__Host-session-slot=\xb2")
@example("__Host-session-slot=9; __Host-session-4b-lease=")
@example("__Host-session-1=" + "\xe9" * 132)
@example("__Host-session-1=" + "A" * 132 + "; __Host-session-1-lease=" + "\xff" * 48)
def check_any_text(stage: Stage, text: str) -> None:
    for tail in (text, f"__Host-session-1={text}", f"{stage.names[0]}={stage.values[0][:100]}{text}"):
        assert call(stage.application, look, tail).result[1:] == (True, {})


def test_any_text(stage: Stage) -> None:
    """Any text of Latin-1, as WSGI hands headers on, gives an empty session."""
    check_any_text(stage)


@settings(max_examples=300, derandomize=True, database=None)
@given(header, st.sampled_from(["read", "write", "login", "logout", "untouched"]))
def check_responses(stage: Stage, numbers: list[int], action: str) -> None:
    handlers = {"read": who, "write": put("a", 1), "login": login("x"), "logout": logout, "untouched": lambda s: None}
    answer = call(stage.application, handlers[action], made(stage, numbers))
    for each in answer.set_cookies:
        assert re.fullmatch(
            r"__Host-session(-slot=[1-4]|(-[1-4]b?)?(-lease)?=[A-Za-z0-9_-]*); Max-Age=\d+"
            r"; Path=/; secure; HttpOnly; SameSite=Lax",
            each,
        ), "whatever was sent in, only cookies of ours go out"
    assert len({each.partition("=")[0] for each in answer.set_cookies}) == len(answer.set_cookies)


def alive_login(stage: Stage) -> str:
    """The cookie of a login that is alive."""
    return next(pair for pairs in stage.issued.values() for pair in pairs if re.match("__Host-session-[1-4]=", pair))


@pytest.mark.parametrize("count", [1, 8, 64, 400])
def test_junk_hides_nothing(counted: Stage, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """However much junk of our names surrounds a login, it is found; all of the junk makes one line in the log.

    What has not the shape of a session costs no cryptography, and the rest is tried once, also by a logout.
    """
    caplog.set_level(logging.INFO)
    pair = alive_login(counted)
    name, _, value = pair.partition("=")
    user = call(counted.application, who, pair).result
    assert user in ("alice", "bob")
    shapeless = "; ".join(f"{name}={value[:-1]}" if n % 2 else f"__Host-session-2=B{value[1:]}" for n in range(count))
    of_our_shape = "; ".join(f"{name}={value[:60]}{n:04}{value[64:]}" for n in range(count))
    for junk, tries in ((shapeless, 0), (of_our_shape, count)):
        header = f"{junk[:30_000]}; {pair}; {junk[:30_000]}"
        for handler in (who, untouched):
            counted.opened.clear()
            caplog.clear()
            assert call(counted.application, handler, header).result in (user, None)
            assert len(counted.opened) <= 2 * tries + 1
            assert len([each for each in caplog.records if each.name == "wsgi_rollsession"]) <= 1
        assert call(counted.application, who, header).result == user
    call(counted.application, logout, f"{of_our_shape[:30_000]}; {pair}; {of_our_shape[:30_000]}")
    assert call(counted.application, who, pair).result is None, "and a logout ends it"


@pytest.mark.parametrize("count", [1, 3, 20, 100])
def test_leases_are_not_tried_with_every_session(counted: Stage, count: int) -> None:
    """Many sessions and many leases under one name cost no more than a bound, and not the square of their number."""
    pair = alive_login(counted)
    name = pair.partition("=")[0]
    issuer = Browser(counted.application, Clock())
    sessions = []
    for n in range(count):  # all of them authentic
        issuer.jar = {"__Host-session-slot": (str((int(name[-1]) + 3) % 4), None, "")}
        issuer.do(login(str(n)))
        sessions.append(f"{name}={issuer.cookies[name]}")
    lease = seal_lease(KeyRing(KEYS), f"{name}-lease", bytes(16), Lease(int(START * 1000), 3600, 1))
    header = "; ".join([*sessions, *(f"{name}-lease={lease[:40]}{n:08}" for n in range(count))])
    assert len(header) < LONGEST_HEADER
    counted.opened.clear()
    assert call(counted.application, who, header).result is not None
    assert len(counted.opened) <= count + min(count * count, 4096)


def test_a_megabyte(counted: Stage) -> None:
    """A header of a megabyte is answered, and costs as much as its last 65,536 characters do."""
    pair = alive_login(counted)
    changed = pair[:-1] + ("A" if pair[-1] != "A" else "B")
    for text, most in (
        (f"{pair}; " * 3000, 1),  # what has been opened is remembered
        (f"{pair[:-1]}; " * 3000, 0),
        ("x" * 1_000_000, 0),
        (f"{pair}" + "A" * 1_000_000, 0),
        (f"{changed}; " * 3000, LONGEST_HEADER // len(pair)),
    ):
        counted.opened.clear()
        assert call(counted.application, who, text).status == "200 OK"
        assert len(counted.opened) <= most


def test_one_log_line_for_each_refusal_and_no_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A refused cookie gives one log line that says why; neither values nor keys are in any line."""
    caplog.set_level(logging.DEBUG)
    name, value = stage.names[0], stage.values[0]
    for refused, reason in [
        (f"{name}={value[:-1]}", "wrong length"),
        (f"{name}=abc", "wrong length"),
        (f"{name}=", "wrong length"),
        (f"{name}={value[:-1]}{'A' if value[-1] != 'A' else 'B'}", "not authentic"),
        (f"{name}={value[:40]}+{value[41:]}", "not base64url"),
        (f"{name}={'A' * 132}", "unknown format version"),
        (f"{name}=AQAAAAAA{value[8:]}", "unknown key"),
        (f"__Host-session-4b={value}", "not authentic"),
        (f"{name}={stage.values[-4]}", "too short"),
        (f"{name}={stage.values[-3]}", "exceed"),
    ]:
        caplog.clear()
        call(stage.application, who, refused)
        (record,) = [each for each in caplog.records if each.name == "wsgi_rollsession"]
        assert re.search(reason, record.getMessage()), record.getMessage()
        assert record.levelno == logging.INFO
    assert not re.search(r"[A-Za-z0-9_-]{40}", caplog.text)


def test_keys_are_in_no_log_and_no_exception(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that goes wrong with cookies shows a key, in a log record or in an exception with its locals' text."""
    caplog.set_level(logging.DEBUG)
    texts = []
    for value in stage.values:
        for changed in (value, value[:-1], "A" + value[1:], value[:50] + "é" + value[51:]):
            try:
                call(stage.application, put("a", object()), f"{stage.names[0]}={changed}")
            except Exception:
                texts.append(traceback.format_exc())
    assert texts
    sessions = stage.application.sessions
    shown = "".join(texts) + caplog.text + repr(stage.application) + repr(vars(stage.application))
    shown += repr(vars(sessions)) + repr(sessions.settings)
    for key in KEYS:
        body = key.removeprefix("rollsession_v1_")
        assert body not in shown
        assert body[:12] not in shown


def test_responses_carry_only_our_cookies() -> None:
    """Whatever a header holds, a response sets cookies of this package's form only, and none twice."""
    check_responses(build())
