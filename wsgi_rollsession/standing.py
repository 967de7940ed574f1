"""Every decision about a request's session, as tables: what is done with it, and what is done in an outage.

Whatever decides lives here; ``exchange`` carries it out. docs/decisions.md says how the tables came to be.
"""

from __future__ import annotations

from enum import Enum, auto


class _Member(Enum):
    """Members are looked up on the hot path: by what they are, and not by the hash of their names."""

    __hash__ = object.__hash__


class Standing(_Member):
    """Where the session of a request stands."""

    #: Nobody has looked at it.
    UNREAD = auto()
    #: The request presents no session that is alive.
    NEW = auto()
    #: It is alive, as the browser holds it.
    HELD = auto()
    #: This request has sealed it, by ``save()``, and the browser lacks it.
    SEALED = auto()
    #: It was alive when it was loaded, and has died during the request.
    LOST = auto()


class Change(_Member):
    """What the application has done with it."""

    SAME = auto()
    #: Something was stored or removed.
    WRITTEN = auto()
    #: Nobody was logged in, and now somebody is.
    LOGGED_IN = auto()
    #: Somebody was logged in, and now somebody else is.
    SWITCHED = auto()
    #: ``regenerate()``, by the user who is logged in.
    RENEWED = auto()
    #: The identity has gone.
    LOGGED_OUT = auto()
    #: ``clear()``.
    CLEARED = auto()


class Act(_Member):
    """What the response carries, or ``save()`` does."""

    NOTHING = auto()
    #: A lease, if it is due.
    ROLL = auto()
    #: What was sealed, if it is still alive.
    SEND = auto()
    #: An anonymous session that begins now.
    BEGIN = auto()
    #: The next version.
    WRITE = auto()
    #: A login: a new id in the next pair of slots. What was there before ends.
    LOGIN = auto()
    #: The next epoch of the same login, in the other half of its pair.
    RENEW = auto()
    #: Every login presented ends. What is left goes on in an anonymous session.
    LOGOUT = auto()
    #: The change cannot be kept: the log says so, and ``save()`` raises ``SessionConflict``.
    DROP = auto()
    #: ``SessionConflict``.
    CONFLICT = auto()


ACTS: dict[Standing, dict[Change, Act]] = {
    Standing.UNREAD: {Change.SAME: Act.ROLL},
    Standing.NEW: {
        Change.SAME: Act.NOTHING,
        Change.WRITTEN: Act.BEGIN,
        Change.LOGGED_IN: Act.LOGIN,
        Change.CLEARED: Act.LOGOUT,
    },
    Standing.HELD: {
        Change.SAME: Act.ROLL,
        Change.WRITTEN: Act.WRITE,
        Change.LOGGED_IN: Act.LOGIN,
        Change.SWITCHED: Act.LOGIN,
        Change.RENEWED: Act.RENEW,
        Change.LOGGED_OUT: Act.LOGOUT,
        Change.CLEARED: Act.LOGOUT,
    },
    Standing.SEALED: {
        Change.SAME: Act.SEND,
        Change.WRITTEN: Act.WRITE,
        Change.LOGGED_IN: Act.LOGIN,
        Change.SWITCHED: Act.LOGIN,
        Change.RENEWED: Act.RENEW,
        Change.LOGGED_OUT: Act.LOGOUT,
        Change.CLEARED: Act.LOGOUT,
    },
    Standing.LOST: {
        Change.SAME: Act.NOTHING,
        Change.WRITTEN: Act.DROP,
        # An anonymous session was lost: its data are gone, and a login needs none of them.
        Change.LOGGED_IN: Act.LOGIN,
        Change.SWITCHED: Act.CONFLICT,
        Change.RENEWED: Act.DROP,  # it is a write
        Change.LOGGED_OUT: Act.LOGOUT,
        Change.CLEARED: Act.LOGOUT,
    },
}


class Outage(str, Enum):
    """The policy for the time in which the revocation store does not answer."""

    DEGRADE = "degrade"
    CLOSED = "closed"
    OPEN = "open"


class Ask(_Member):
    """What the store is asked for, and does not answer."""

    #: Is a session alive that is loaded, or looked at again by ``check()``?
    LOAD = auto()
    #: May it be extended?
    ROLL = auto()
    #: May it be written?
    WRITE = auto()
    #: May it be written, if it is the newest version? (``versioned``)
    VERSIONED = auto()
    #: May what ``save()`` has sealed be sent?
    SEND = auto()
    #: What numbers does a session pass that begins now?
    BEGIN = auto()
    #: End sessions: a logout, or a login or ``regenerate()`` over somebody.
    END = auto()
    #: End the other logins that a request presents.
    OTHERS = auto()


class Without(_Member):
    """How a request goes on without an answer."""

    #: ``StoreUnavailable`` is raised.
    FAIL = auto()
    #: It is not done, and nothing is said.
    SKIP = auto()
    #: By what this process knows. What is sent extends nothing.
    LAST_KNOWN = auto()
    #: By what this process knows; extending sessions that were begun under ``open`` too.
    EXTEND = auto()


WITHOUT: dict[Ask, dict[Outage, Without]] = {
    ask: {Outage.DEGRADE: degrade, Outage.CLOSED: closed, Outage.OPEN: open_}
    for ask, degrade, closed, open_ in (
        (Ask.LOAD, Without.LAST_KNOWN, Without.FAIL, Without.LAST_KNOWN),
        (Ask.ROLL, Without.SKIP, Without.SKIP, Without.EXTEND),
        (Ask.WRITE, Without.LAST_KNOWN, Without.FAIL, Without.EXTEND),
        (Ask.VERSIONED, Without.FAIL, Without.FAIL, Without.FAIL),
        (Ask.SEND, Without.LAST_KNOWN, Without.FAIL, Without.LAST_KNOWN),
        (Ask.BEGIN, Without.LAST_KNOWN, Without.FAIL, Without.LAST_KNOWN),
        (Ask.END, Without.FAIL, Without.FAIL, Without.FAIL),
        (Ask.OTHERS, Without.SKIP, Without.SKIP, Without.SKIP),
    )
}


def may_go_on(outage: Outage, ask: Ask, *, fail_open: bool = False) -> Without:
    """How a request goes on when the store did not answer *ask*: the table of docs/configuration.md.

    Args:
        fail_open: the session was begun under ``outage="open"``. Fences raised under another policy do not live long
            enough for sessions that are extended unchecked.
    """
    without = WITHOUT[ask][outage]
    if without is Without.EXTEND and not fail_open:
        return Without.SKIP if ask is Ask.ROLL else Without.LAST_KNOWN
    return without
