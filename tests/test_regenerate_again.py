"""``regenerate()`` again: twice in one request, and of somebody who is logged in and authenticated once more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wsgi_rollsession import Session, SessionConflict

from .browser import START, Clock, login, memory, open_browser, who


def both(session: Session) -> None:
    """A login, then what is to be added to it."""
    session.regenerate(tags=["user:alice"], idle_timeout="10m")
    session.regenerate(absolute_timeout="1h", persistent=False)


def test_the_second_call_adds_to_the_first() -> None:
    """Tags and durations of the first call stay where the second leaves them open."""
    clock = Clock()
    browser = open_browser(clock)
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
    browser = open_browser(clock, revocations=memory(clock))

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
    browser = open_browser(clock)
    browser.do(login("alice"))
    for _ in range(10):
        browser.do(lambda s: s.revoke_others("user:alice"))
    assert browser.do(who) == "alice"
    assert 3 < clock() - START < 10


def test_authenticated_again_with_the_same_tags() -> None:
    """``tags=session.tags`` states that the user was authenticated again: the login time is new, tags and id stay."""
    clock = Clock()
    browser = open_browser(clock, absolute_timeout="2h")
    browser.do(login("alice"))
    id_ = browser.do(lambda s: s.id)
    clock.advance(3000)
    browser.do(lambda s: s.regenerate(tags=s.tags))
    found = browser.do(lambda s: (s.id, "user:alice" in s.tags, s.authenticated_at.timestamp() - clock(), s["user"]))
    assert found == (id_, True, 0, "alice")
    for _ in range(2):
        clock.advance(3000)
        assert browser.do(who) == "alice"
    browser.application.revoke("user:alice")  # type: ignore[attr-defined]
    assert browser.do(who) is None


@pytest.mark.parametrize(
    ("again", "idle_s", "absolute_s"),
    [
        ({}, 600, 1200),
        ({"idle_timeout": "20m"}, 1200, 1200),
        ({"absolute_timeout": "40m"}, 600, 2400),
        ({"idle_timeout": "24h", "absolute_timeout": "48h"}, 3600, 86400),
    ],
)
def test_lengths_of_a_login_that_is_authenticated_again(again: dict[str, str], idle_s: int, absolute_s: int) -> None:
    """Lengths that are not given are those the login had; those that are given replace them, as at a login."""
    clock = Clock()
    browser = open_browser(clock)
    browser.do(lambda s: s.regenerate(tags=["user:alice"], idle_timeout="10m", absolute_timeout="20m"))
    clock.advance(60)
    browser.do(lambda s: s.regenerate(tags=["user:alice"], **again))
    clock.advance(idle_s - 1)
    assert browser.do(lambda s: s.ended) is None, "the idle timeout"
    browser.jar = {name: kept for name, kept in browser.jar.items() if not name.endswith("-lease")}
    clock.advance(1)
    assert browser.do(lambda s: s.ended) is not None, "the idle timeout"
    browser.do(lambda s: s.invalidate())
    browser.do(lambda s: s.regenerate(tags=["user:alice"], idle_timeout="10m", absolute_timeout="20m"))
    clock.advance(60)
    browser.do(lambda s: s.regenerate(tags=["user:alice"], **again))
    ends = clock() + absolute_s
    while clock() + 300 < ends:
        clock.advance(300)
        assert browser.do(lambda s: s.ended) is None, "the absolute timeout"
    clock.advance(ends - clock())
    assert browser.do(lambda s: s.ended) is not None, "the absolute timeout"
