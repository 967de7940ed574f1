"""The session of a request: judged by the clock and by the fences in one question, and chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from wsgi_rollsession.arrival import Arrival
from wsgi_rollsession.policy import Ended
from wsgi_rollsession.presented import NOTHING, Opened, Opening, Presented
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.token import Record

T = 1_800_000_000_000
HOUR = 3_600_000
Fences = dict[bytes, int]


def session(name: str, last_activity: int = T, **fields: Any) -> tuple[str, Opened]:
    """A session by the name of its cookie; its fence is named so too, and its tag's is ``tag``."""
    record = Record(name.encode(), 3, T, T, 3600, T + 24 * HOUR, 0, (0, 0), (b"tag",), b"{}")._replace(**fields)
    keys = (EVERYTHING, name.encode(), b"tag")
    limits = (T // 1000 + 3, record.version, T // 1000 + 3)
    return name, Opened(last_activity, record.idle, record.ends, record, keys, limits)


def opening(*sessions: tuple[str, Opened], refusals: tuple[str, ...] = (), key_is_gone: bool = False) -> Opening:
    names = tuple(name for name, _ in sessions)
    return Opening(sessions, names, names, 0, refusals, key_is_gone)


def choose(
    arrived: Opening, fences: Fences | None = None, now: int = T
) -> tuple[str | None, Ended | None, list[tuple[bytes, ...]]]:
    """The name of the session that was chosen, why nobody is logged in, and what the store was asked."""
    asked: list[tuple[bytes, ...]] = []

    def look_up(keys: tuple[bytes, ...]) -> Sequence[int]:
        asked.append(keys)
        return [(fences or {}).get(key, 0) for key in keys]

    arrival = Arrival(arrived)
    chosen = arrival.choose(now, look_up)
    return (chosen.name if chosen is not None else None), arrival.ended, asked


ANONYMOUS = session("anonymous", authenticated=0)
ALICE = session("alice")


def test_nothing() -> None:
    """Without a session nobody is logged in, and the store is not asked."""
    assert choose(NOTHING) == (None, Ended.NEVER, [])


@pytest.mark.parametrize(
    ("fences", "now", "ended"),
    [
        ({}, T, None),
        ({b"alice": 3}, T, None),
        ({b"alice": 4}, T, Ended.SUPERSEDED),
        ({b"alice": ENDED}, T, Ended.LOGGED_OUT),
        ({b"tag": T // 1000 + 4}, T, Ended.REVOKED),
        ({EVERYTHING: T // 1000 + 4}, T, Ended.REVOKED),
        ({EVERYTHING: T // 1000 + 5}, T, Ended.STORE_LOST),
        ({}, T + HOUR, Ended.IDLE),
        ({b"alice": ENDED}, T + HOUR, Ended.IDLE),
        ({}, T + 24 * HOUR, Ended.ABSOLUTE),
        ({}, T - HOUR, Ended.FUTURE),
    ],
)
def test_why_a_login_has_ended(fences: Fences, now: int, ended: Ended | None) -> None:
    """A login that has ended is not the session, and says why; what the clock has ended is not asked for."""
    name, why, asked = choose(opening(ALICE), fences, now)
    assert (name, why) == ("alice" if ended is None else None, ended)
    assert len(asked) == (0 if ended in (Ended.IDLE, Ended.ABSOLUTE, Ended.FUTURE) else 1)


@pytest.mark.parametrize("fences", [{}, {b"anonymous": ENDED}])
def test_an_anonymous_session_is_nobodys(fences: Fences) -> None:
    """Beside an anonymous session, alive or not, nobody has been logged in."""
    name, why, _ = choose(opening(ANONYMOUS), fences)
    assert (name, why) == (None if fences else "anonymous", Ended.NEVER)


@pytest.mark.parametrize(
    ("sessions", "fences", "chosen", "why"),
    [
        ([ANONYMOUS, ALICE], {}, "alice", None),
        ([ALICE, ANONYMOUS], {}, "alice", None),
        ([ANONYMOUS, ALICE], {b"alice": ENDED}, "anonymous", Ended.LOGGED_OUT),
        ([ANONYMOUS, ALICE], {b"anonymous": ENDED}, "alice", None),
        ([ALICE, session("bob", created=T + 1)], {}, "bob", None),
        ([session("bob", created=T + 1), ALICE], {}, "bob", None),
        ([ALICE, session("bob", created=T + 1)], {b"bob": ENDED}, "alice", None),
        ([ALICE, session("bob", created=T + 1)], {b"bob": 9, b"alice": ENDED}, None, Ended.SUPERSEDED),
        ([ALICE, session("bob", created=T + 1)], {b"bob": ENDED, b"alice": 9}, None, Ended.LOGGED_OUT),
        ([ALICE, session("alice", version=4)], {b"alice": 4}, "alice", None),
        ([ALICE, ANONYMOUS], {EVERYTHING: T // 1000 + 4}, None, Ended.REVOKED),
    ],
)
def test_chosen(sessions: list[tuple[str, Opened]], fences: Fences, chosen: str | None, why: Ended | None) -> None:
    """Of those alive the newest login, else the anonymous one. Of logins that are all dead, the newest says why."""
    name, ended, asked = choose(opening(*sessions), fences)
    assert (name, ended) == (chosen, why)
    assert len(asked) == 1, "one question for all"
    assert asked[0] == tuple(key for _, opened in sessions for key in opened.keys)


def test_who_is_dead_by_the_clock_is_not_asked_for() -> None:
    """The one question is for those that the clock has not ended."""
    idle = session("idle", last_activity=T - HOUR)
    _, _, asked = choose(opening(idle, ALICE, ANONYMOUS))
    assert asked == [(EVERYTHING, b"alice", b"tag", EVERYTHING, b"anonymous", b"tag")]
    assert choose(opening(idle, session("too", last_activity=T - HOUR)))[2] == []


@pytest.mark.parametrize(
    ("sessions", "fences", "why"),
    [
        ((), {}, Ended.KEY_GONE),
        ((ANONYMOUS,), {}, Ended.KEY_GONE),
        ((ALICE,), {}, None),
        ((ALICE,), {b"alice": ENDED}, Ended.LOGGED_OUT),
    ],
)
def test_a_key_that_is_gone(sessions: tuple[tuple[str, Opened], ...], fences: Fences, why: Ended | None) -> None:
    """A login that no key opens says so, unless another says more."""
    assert choose(opening(*sessions, refusals=("unknown key",), key_is_gone=True), fences)[1] is why


@pytest.mark.parametrize(
    ("sessions", "refusals", "fences", "line"),
    [
        ((ALICE,), (), {}, None),
        ((), (), {}, None),
        ((ALICE, ANONYMOUS), (), {}, None),
        ((), ("this",), {}, "this"),
        ((ALICE,), ("this",), {}, "this"),
        ((), ("this", "that", "these"), {}, "this, and 2 more"),
        ((ALICE,), (), {b"alice": ENDED}, "session cookie 'alice' refused: logged out"),
        ((ALICE, ANONYMOUS), ("this",), {b"alice": ENDED, b"anonymous": ENDED}, "this, and 2 more"),
    ],
)
def test_one_line(
    caplog: pytest.LogCaptureFixture,
    sessions: tuple[tuple[str, Opened], ...],
    refusals: tuple[str, ...],
    fences: Fences,
    line: str | None,
) -> None:
    """Whatever was refused, and however much, is one line in the log; what was not is none."""
    caplog.set_level(logging.DEBUG)
    for _ in range(2):  # a header is remembered: the second time it is the same
        caplog.clear()
        choose(opening(*sessions, refusals=refusals), fences)
        assert [record.getMessage() for record in caplog.records] == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("opening", "name"),
    [
        (lambda: NOTHING, None),
        (lambda: opening(ALICE), "alice"),
        (lambda: opening(ALICE, ANONYMOUS), None),
        (lambda: opening(ALICE)._replace(session_names=("alice", "junk")), None),
        (lambda: opening()._replace(session_names=("junk",)), None),
    ],
)
def test_alone(opening: Callable[[], Opening], name: str | None) -> None:
    """The only session of a request, if there is no other cookie of a session, authentic or not."""
    alone: Presented | None = Arrival(opening()).alone
    assert (alone.name if alone is not None else None) == name
