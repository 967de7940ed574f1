"""``regenerate()`` twice in one request: an adapter logs somebody in, and the application adds what it knows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wsgi_rollsession import Session, SessionConflict

from .browser import START, Browser, Clock, login, memory, who, wrap


def both(session: Session) -> None:
    """A login, then what is to be added to it."""
    session.regenerate(tags=["user:alice"], idle_timeout="10m")
    session.regenerate(absolute_timeout="1h", persistent=False)


def test_the_second_call_adds_to_the_first() -> None:
    """Tags and durations of the first call stay where the second leaves them open."""
    clock = Clock()
    browser = Browser(wrap(clock), clock)
    answer = browser.receive(browser.call(both))
    assert "Max-Age" not in "".join(each for each in answer.set_cookies if "-slot" not in each)
    found = browser.do(lambda s: ("user:alice" in s.tags, s.expires - s.last_activity, s.ended))
    assert found == (True, timedelta(minutes=10), None)
    clock.advance(9 * 60)
    for _ in range(5):
        assert browser.do(lambda s: s.ended) is None
        clock.advance(9 * 60)
    clock.advance(6 * 60)
    assert browser.do(lambda s: str(s.ended)) == "absolute timeout"


@pytest.mark.parametrize("tags", [None, ["user:alice"]])
def test_a_revocation_between_the_two_is_not_passed(tags: list[str] | None) -> None:
    """1. A login. 2. The account is disabled. 3. ``regenerate()`` again: nobody checked the password once more."""
    clock = Clock()
    browser = Browser(wrap(clock, revocations=memory(clock)), clock)

    def handler(session: Session) -> None:
        login("alice")(session)
        browser.application.revoke("user:alice")  # type: ignore[attr-defined]
        session.regenerate(tags=tags)

    with pytest.raises(SessionConflict):
        browser.call(handler)
    assert browser.do(who) is None


def test_revoke_others_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten calls in one second: numbers may not run far ahead of the clock, so some wait, as of ``revoke``."""
    clock = Clock()
    monkeypatch.setattr("wsgi_rollsession.revocation.clock.time.sleep", clock.advance)
    browser = Browser(wrap(clock), clock)
    browser.do(login("alice"))
    for _ in range(10):
        browser.do(lambda s: s.revoke_others("user:alice"))
    assert browser.do(who) == "alice"
    assert 3 < clock() - START < 10
