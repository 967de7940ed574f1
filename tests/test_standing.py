"""The two tables by which everything is decided, cell by cell: written out, and driven through the public surface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import product

import pytest

from wsgi_rollsession import Session, SessionConflict, Sessions
from wsgi_rollsession.standing import ACTS, WITHOUT, Act, Ask, Change, Outage, Standing, Without, may_go_on

from .browser import Browser, Clock, Handler, put, wrap

# What is done with a session. A dash: no application can get there.
TABLE = """
             SAME     WRITTEN  LOGGED_IN  SWITCHED  RENEWED   LOGGED_OUT  CLEARED
    UNREAD   ROLL     -        -          -         -         -           -
    NEW      NOTHING  BEGIN    LOGIN      -         -         -           LOGOUT
    HELD     ROLL     WRITE    LOGIN      LOGIN     RENEW     LOGOUT      LOGOUT
    SEALED   SEND     WRITE    LOGIN      LOGIN     RENEW     LOGOUT      LOGOUT
    LOST     NOTHING  DROP     LOGIN      CONFLICT  DROP      LOGOUT      LOGOUT
"""
# What is done where the store does not answer. Behind a slash: for a session that was not begun under ``open``.
OUTAGES = """
                degrade     closed  open
    LOAD        LAST_KNOWN  FAIL    LAST_KNOWN
    ROLL        SKIP        SKIP    EXTEND/SKIP
    WRITE       LAST_KNOWN  FAIL    EXTEND/LAST_KNOWN
    VERSIONED   FAIL        FAIL    FAIL
    SEND        LAST_KNOWN  FAIL    LAST_KNOWN
    BEGIN       LAST_KNOWN  FAIL    LAST_KNOWN
    END         FAIL        FAIL    FAIL
    OTHERS      SKIP        SKIP    SKIP
"""


def cells(table: str) -> dict[tuple[str, str], str]:
    """The cells of a table, by the names of their row and column."""
    head, *rows = [line.split() for line in table.strip().splitlines()]
    return {(row, column): cell for row, *line in rows for column, cell in zip(head, line, strict=True)}


ACT, WITHOUT_ANSWER = cells(TABLE), cells(OUTAGES)


@pytest.mark.parametrize(("standing", "change"), [*product(Standing, Change)], ids=lambda member: member.name)
def test_every_act(standing: Standing, change: Change) -> None:
    """What is done with a session is what the table at the top of this file says."""
    act = ACTS[standing].get(change)
    assert (act.name if act else "-") == ACT[standing.name, change.name]


@pytest.mark.parametrize(("ask", "outage"), [*product(Ask, Outage)], ids=lambda member: member.name)
def test_every_outage(ask: Ask, outage: Outage) -> None:
    """How a request goes on without the store is what the second table at the top of this file says."""
    fail_open, _, otherwise = WITHOUT_ANSWER[ask.name, outage.value].partition("/")
    assert may_go_on(outage, ask, fail_open=True).name == fail_open
    assert may_go_on(outage, ask).name == (otherwise or fail_open)
    assert WITHOUT[ask][outage].name == fail_open


def test_the_tables_have_no_other_rows() -> None:
    """Whatever is added to the tables has to be written into this file too."""
    assert set(ACT) == {(standing.name, change.name) for standing, change in product(Standing, Change)}
    assert set(WITHOUT_ANSWER) == {(ask.name, outage.value) for ask, outage in product(Ask, Outage)}
    assert {act.name for row in ACTS.values() for act in row.values()} == {act.name for act in Act}
    assert {each.name for row in WITHOUT.values() for each in row.values()} == {each.name for each in Without}


@pytest.mark.parametrize("ask", Ask)
def test_nothing_is_extended_where_nobody_can_be_asked(ask: Ask) -> None:
    """Only ``open`` extends a session unchecked, and only one that was begun under it."""
    for outage, fail_open in product(Outage, (False, True)):
        if may_go_on(outage, ask, fail_open=fail_open) is Without.EXTEND:
            assert outage is Outage.OPEN
            assert fail_open


# Driven: each cell is reached by an application, and the act is known by what the browser is sent.


def store(session: Session) -> None:
    session["x"] = 1


def take_out(session: Session) -> None:
    del session["user"]


CHANGES: dict[Change, Handler] = {
    Change.SAME: bool,
    Change.WRITTEN: store,
    Change.LOGGED_IN: put("user", "alice"),
    Change.SWITCHED: put("user", "bob"),
    Change.RENEWED: Session.regenerate,
    Change.LOGGED_OUT: take_out,
    Change.CLEARED: Session.clear,
}
ANYBODY = {Change.SAME, Change.WRITTEN, Change.CLEARED}
ANONYMOUS, LOGIN = "anonymous", "login"
REACHED = [
    (standing, kind, change)
    for standing, kind, change in product(Standing, (ANONYMOUS, LOGIN), Change)
    if standing is not Standing.UNREAD
    and (standing is not Standing.NEW or kind == ANONYMOUS)
    and (change in ANYBODY or (change is Change.LOGGED_IN) == (kind == ANONYMOUS))
]


class Case:
    """A request whose session has got to a standing."""

    def __init__(self, standing: Standing, kind: str, versioned: bool = False) -> None:
        self.clock = clock = Clock()
        application = wrap(clock, identity_key="user", versioned=versioned)
        self.sessions: Sessions = application.sessions
        self.browser = browser = Browser(application, clock)
        self.standing = standing
        if standing is not Standing.NEW:
            browser.do(put("user", "alice") if kind == LOGIN else put("cart", 1))
        clock.advance(100)
        self.session = self.sessions.begin_header(browser.header())
        bool(self.session)
        self.before = self.session.version
        if standing is Standing.SEALED:
            self.session["y"] = 1
            self.session.save()
            self.before += 1

    def lose(self) -> None:
        """Have the session ended elsewhere, and notice it."""
        self.sessions.revoke_session(self.sessions.begin_header(self.browser.header()).id)
        assert not self.session.check()

    def act(self) -> Act:
        """What the response does, by what it sends."""
        session, held = self.session, list(self.browser.sessions)
        _, parts = self.sessions.commit_parts(session, "200 OK", [])
        sent = {part.name: part.value for part in parts if part.value}
        slot = sent.pop("__Host-session-slot", None)
        names = [name for name in sent if not name.endswith("-lease")]
        if not names:
            return Act.LOGOUT if slot else Act.ROLL if sent else Act.NOTHING
        (name,) = names
        version = self.sessions.begin_header(f"{name}={sent[name]}").version
        if slot is not None:
            return Act.LOGOUT if name == "__Host-session" else Act.LOGIN
        if held and name != held[0]:
            assert version == (self.before >> 16) + 1 << 16 | 1
            return Act.RENEW
        if not held or self.before == 0:
            return Act.BEGIN
        assert version in (self.before, self.before + 1)
        return Act.WRITE if version > self.before else Act.SEND


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    ("standing", "kind", "change"), REACHED, ids=lambda value: value if isinstance(value, str) else value.name
)
def test_a_cell_in_action(
    standing: Standing, kind: str, change: Change, versioned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In each cell that an application can reach, the response does what the table says."""
    case = Case(standing, kind, versioned)
    if standing is Standing.LOST and change is not Change.RENEWED:
        case.lose()
    CHANGES[change](case.session)
    if standing is Standing.LOST and change is Change.RENEWED:  # which asks by itself
        case.lose()
    caplog.set_level(logging.WARNING)
    caplog.clear()
    expected = Act[ACT[standing.name, change.name]]
    if expected is Act.CONFLICT:
        with pytest.raises(SessionConflict):
            case.act()
        return
    if expected is Act.DROP:
        assert case.act() is Act.NOTHING
        assert "a write was dropped" in caplog.text
        return
    assert case.act() is expected
    assert not caplog.records


@pytest.mark.parametrize("change", [Change.SAME, Change.WRITTEN])
@pytest.mark.parametrize("kind", [ANONYMOUS, LOGIN])
def test_save_of_a_lost_session(kind: str, change: Change) -> None:
    """``save()`` of a session that has died during the request is a conflict, also if there is nothing to save."""
    case = Case(Standing.LOST, kind)
    CHANGES[change](case.session)
    case.lose()
    with pytest.raises(SessionConflict, match="logged out"):
        case.session.save()


@pytest.mark.parametrize("act", [None, Session.save])
def test_an_unread_session(act: Callable[[Session], None] | None) -> None:
    """Nobody has looked at it: it is rolled, if that is due, and ``save()`` looks."""
    case = Case(Standing.HELD, LOGIN)
    case.session = case.sessions.begin_header(case.browser.header())
    if act is not None:
        act(case.session)
    assert case.session.loaded is (act is not None)
    assert case.act() is Act.ROLL
