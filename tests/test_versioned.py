"""Writes of several requests to one session, with versions checked and without."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest

from wsgi_rollsession import Session, SessionConflict, token
from wsgi_rollsession.revocation.fence import session_key

from .browser import (
    Clock,
    Handler,
    get,
    logged_in,
    login,
    logout,
    memory,
    open_browser,
    presenting,
    put,
    store_of,
    untouched,
    who,
)

HOUR, DAY = 3600, 86400
LONG = "x" * 2000


def test_without_versions_the_last_write_to_arrive_wins(clock: Clock) -> None:
    """Without versions, of two writes from one version the browser keeps the one whose response comes last."""
    browser = logged_in(clock)
    one, other = browser.call(put("n", 1)), browser.call(put("n", 2))
    browser.receive(other)
    browser.receive(one)
    assert browser.do(get("n")) == 1


def test_versioned_save_raises_for_the_second_writer(clock: Clock) -> None:
    """With versions checked, the second of two writes from one version raises ``SessionConflict`` from ``save``."""
    browser = logged_in(clock, versioned=True)

    def second(session: Session) -> None:
        session["n"] = 2
        browser.do(put("n", 1))
        with pytest.raises(SessionConflict, match=r"another request|later version"):
            session.save()

    answer = browser.call(second)
    assert not answer.set_cookies
    browser.receive(answer)
    assert browser.do(get("n")) == 1


def test_versioned_drops_the_second_write(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With versions checked, the second of two writes from one version is dropped at its response; the log says so."""
    browser = logged_in(clock, versioned=True)

    def second(session: Session) -> None:
        session["n"] = 2
        browser.do(put("n", 1))

    answer = browser.receive(browser.call(second))
    assert answer.status == "200 OK"
    assert not answer.set_cookies
    assert browser.do(get("n")) == 1
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING and "amnesia" not in each.message]
    assert "a write was dropped" in warning.message


def test_versioned_is_atomic(clock: Clock) -> None:
    """With versions checked, a write that lands just before another is confirmed wins; the other is refused."""
    browser = logged_in(clock, versioned=True)
    store = store_of(browser)
    compare_and_raise, armed = store.compare_and_raise, [True]

    def write_then_ask(*arguments: Any) -> Any:
        if armed:
            armed.clear()
            browser.do(put("n", 1))
        return compare_and_raise(*arguments)

    def second(session: Session) -> None:
        session["n"] = 2
        with pytest.raises(SessionConflict, match="superseded by a later version"):
            session.save()

    store.compare_and_raise = write_then_ask  # type: ignore[method-assign]
    answer = browser.receive(browser.call(second))
    assert not answer.set_cookies
    assert browser.do(get("n")) == 1


def test_versioned_writes_several_times_in_one_request(clock: Clock) -> None:
    """With versions checked, a request may save several times, and the response carries the last."""
    browser = logged_in(clock, versioned=True)
    browser.do(lambda s: (s.update(n=1), s.save(), s.update(n=2), s.save(), s.update(n=3)))
    assert browser.do(lambda s: (s["n"], s.version)) == (3, 4)


def test_versioned_refuses_older_copies(clock: Clock) -> None:
    """With versions checked, a copy from before the last write is refused: an old balance cannot be had back."""
    browser = logged_in(clock, versioned=True)
    browser.do(put("balance", 100))
    rich = browser.header()
    browser.do(put("balance", 0))
    assert presenting(browser, rich, get("balance")) is None
    assert browser.do(get("balance")) == 0


def test_without_versions_older_copies_are_accepted(clock: Clock) -> None:
    """Without versions, a copy from before the last write is a session like any other."""
    browser = logged_in(clock)
    browser.do(put("balance", 100))
    rich = browser.header()
    browser.do(put("balance", 0))
    assert presenting(browser, rich, get("balance")) == 100


def test_versioned_refuses_older_copies_when_their_fence_is_gone(clock: Clock) -> None:
    """With versions checked, fresh leases do not keep an old copy alive until the fence that refuses it is gone."""
    browser = logged_in(clock, versioned=True, revocations=memory(clock, HOUR))
    browser.do(put("balance", 100))
    ((name, value),) = browser.sessions.items()
    rich = f"{name}={value}"
    browser.do(put("balance", 0))
    key = session_key(bytes.fromhex(browser.do(lambda s: s.id)))
    for _ in range(4):
        clock.advance(3000)
        browser.do(who)
    other = logged_in(clock, "bob")
    other.application = browser.application
    other.do(logout)  # raising a fence drops those that have expired
    store = store_of(browser)
    assert list(store.lookup_now([key])) == [0]
    (lease,) = [each for each in browser.header().split("; ") if "-lease=" in each]
    assert presenting(browser, f"{rich}; {lease}", get("balance")) is None
    assert browser.do(get("balance")) == 0


def test_a_lease_for_an_earlier_version_extends_a_later_one(clock: Clock) -> None:
    """A lease sent before a write, and arriving after it, extends the session that was written."""
    browser = logged_in(clock)
    clock.advance(100)
    rolled = browser.call(who)
    browser.do(put("a", 1))
    browser.receive(rolled)
    clock.advance(HOUR - 0.001)
    assert browser.do(get("a")) == 1


def test_versioned_does_not_log_out_who_is_a_version_behind(clock: Clock) -> None:
    """With versions checked, a request sent before a write and handled after it deletes nothing, and writes nothing."""
    browser = logged_in(clock, versioned=True, renew_after=0)
    old = browser.header()
    written = browser.call(put("n", 1))
    behind = [browser.call(handler, header=old) for handler in (who, untouched, lambda s: s.pop("n", None))]
    browser.receive(written)
    for answer in behind:
        assert not answer.set_cookies
        browser.receive(answer)
    assert browser.do(get("n")) == 1


def test_a_read_is_not_rolled_after_another_wrote(clock: Clock) -> None:
    """With versions checked, a response whose session was written meanwhile carries no lease, and deletes nothing."""
    browser = logged_in(clock, versioned=True, renew_after=0)

    def reader(session: Session) -> None:
        session.get("user")
        browser.do(put("n", 1))

    assert not browser.call(reader).set_cookies
    assert browser.do(get("n")) == 1


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("begin", [login("alice"), put("a", 1)], ids=["login", "visitor"])
def test_the_writes_of_an_epoch_run_out(clock: Clock, begin: Handler, versioned: bool) -> None:
    """Where an epoch has no more writes, the next write begins another of the same session, with its data."""
    browser = open_browser(clock, versioned=versioned)
    browser.do(begin)
    (name,) = browser.sessions
    id_ = browser.do(lambda s: s.id)
    with mock.patch.object(token, "is_worn", lambda version: version & token.MOST_WRITES == 3):
        for n in range(5):
            copy = browser.copied()
            browser.do(put("n", n))
            assert browser.do(lambda s: (s.id, s["n"])) == (id_, n)
            if n == 2:
                assert browser.do(lambda s: s.version) == 1 << 16 | 1
                assert (copy.do(dict) == {}) == (versioned or name != "__Host-session")
                assert list(browser.sessions) == [name if name == "__Host-session" else f"{name}b"]
