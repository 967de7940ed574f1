"""``Sessions.commit_parts``: as ``commit``, for frameworks with a cookie interface of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsgi_rollsession import Session, Sessions

from .browser import Browser, Clock, login, open_browser, put, untouched

STEPS: dict[str, Callable[[Session], object]] = {
    "untouched": untouched,
    "read": lambda s: s.get("user"),
    "write": put("n", 1),
    "login": login("bob"),
    "logout": lambda s: s.invalidate(),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
@pytest.mark.parametrize("pause", [0, 600])
@pytest.mark.parametrize("user", [None, "alice"])
def test_it_says_what_commit_sends(step: Callable[[Session], object], pause: float, user: str | None) -> None:
    """The same cookies and other headers; none, where nobody has looked at the session and nothing is due."""

    def visited() -> Browser:
        clock = Clock()
        browser = open_browser(clock)
        if user:
            browser.do(login(user))
        clock.advance(pause)
        return browser

    whole = visited().call(step)
    browser = visited()
    sessions: Sessions = browser.application.sessions  # type: ignore[attr-defined]
    session = sessions.begin_header(browser.header())
    step(session)
    headers, cookies = sessions.commit_parts(session, "200 OK", [("Content-Type", "text/plain")])
    assert headers == [pair for pair in whole.headers if pair[0] != "Set-Cookie"]
    assert [(each.name, each.max_age == 0) for each in cookies] == [
        (each.partition("=")[0], "Max-Age=0" in each) for each in whole.set_cookies
    ]
    assert all(each.httponly and each.secure and each.path == "/" for each in cookies)
    if not pause and step is untouched:
        assert (headers, cookies) == ([("Content-Type", "text/plain")], [])
