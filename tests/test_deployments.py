"""Changes of configuration. The store is one database, opened anew by every process that runs under other options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wsgi_rollsession import RollSession
from wsgi_rollsession.revocation.fence import tag_key
from wsgi_rollsession.settings import Settings

from .browser import (
    START,
    Browser,
    Clock,
    call,
    filter_of,
    login,
    logout,
    presenting,
    who,
    wrap,
)

HOUR, DAY = 3600, 86400
LONG = "x" * 2000


class Deployment:
    """One key, one clock and one database; ``run`` starts the application under some options."""

    def __init__(self, clock: Clock, path: Path) -> None:
        self.clock = clock
        self.url = f"sqlite:///{path / 'revocations.db'}"
        self.application: RollSession | None = None

    def run(self, **options: Any) -> RollSession:
        if self.application is not None:
            self.application.close()
        self.application = wrap(self.clock, revocations=self.url, amnesia="accept", **options)
        return self.application

    @property
    def settings(self) -> Settings:
        """What the application runs under."""
        assert self.application is not None
        return self.application.sessions.settings

    def others_log_out(self) -> None:
        """Somebody else logs out, which makes the store drop what has expired."""
        other = Browser(self.application, self.clock)  # type: ignore[arg-type]
        other.do(login("other"))
        other.do(logout)


@pytest.fixture
def deployment(clock: Clock, tmp_path: Path) -> Any:
    """A deployment that is stopped after the test."""
    deployed = Deployment(clock, tmp_path)
    yield deployed
    if deployed.application is not None:
        deployed.application.close()


NOT_ROLLING = {"rolling": False}
CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    # issued under, then run under, and how long the session then lives without activity
    ("restart", {}, {}, HOUR),
    ("idle shortened", {"idle_timeout": "1h"}, {"idle_timeout": "10m"}, 600),
    ("idle lengthened", {"idle_timeout": "10m"}, {"idle_timeout": "8h"}, 600),
    ("idle removed", {"idle_timeout": "10m"}, {"idle_timeout": None}, 600),
    ("idle introduced", {"idle_timeout": None}, {"idle_timeout": "10m"}, 600),
    ("absolute shortened", {"rolling": False}, {"rolling": False, "absolute_timeout": "2h"}, 2 * HOUR),
    ("absolute lengthened", {"rolling": False, "absolute_timeout": "2h"}, {"rolling": False}, 2 * HOUR),
    ("absolute removed", {"absolute_timeout": "30m", "idle_timeout": "30m"}, {"absolute_timeout": None}, 1800),
    ("absolute introduced", {"absolute_timeout": None}, {"absolute_timeout": "1800", "idle_timeout": "1800"}, 1800),
    ("rolling switched off", {"idle_timeout": "10m"}, NOT_ROLLING, 600),
    ("rolling switched on", NOT_ROLLING, {"idle_timeout": "10m"}, 600),
]


@pytest.mark.parametrize(("before", "after", "lives"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_the_earlier_deadline_counts(
    clock: Clock, deployment: Deployment, before: dict[str, Any], after: dict[str, Any], lives: float
) -> None:
    """A session ends at the earlier of the deadlines stamped into it and those of today's configuration."""
    browser = Browser(deployment.run(**before), clock)
    browser.do(login("alice"))
    header = browser.header()
    browser.application = deployment.run(**after)
    clock.advance(lives - 0.001)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


@pytest.mark.parametrize(("before", "after", "lives"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
@pytest.mark.parametrize(
    "keep",
    [who, lambda s: s.update(n=s.get("n", 0) + 1), lambda s: s.regenerate()],
    ids=["rolling", "writing", "regenerating"],
)
def test_no_activity_outlives_the_absolute_deadline(
    clock: Clock, deployment: Deployment, keep: Any, before: dict[str, Any], after: dict[str, Any], lives: float
) -> None:
    """Under a new configuration, activity extends a session up to the deadline it was created with, and not past it."""
    browser = Browser(deployment.run(**before), clock)
    browser.do(login("alice"))
    absolute = deployment.settings.absolute_ms
    browser.application = deployment.run(**after)
    ends = START + min(absolute, deployment.settings.absolute_ms, 2000 * DAY) / 1000
    while clock() < ends - 500:
        clock.advance(499)
        browser.do(keep)
    header = "; ".join(f"{name}={value}" for name, (value, _, _) in browser.jar.items())
    clock.now = ends
    if ends < START + 2 * DAY:
        assert presenting(browser, header) is None


def test_a_shorter_timeout_and_back(clock: Clock, deployment: Deployment) -> None:
    """A session logged out under a shorter timeout stays dead when the longer one comes back, its fence being kept."""
    browser = Browser(deployment.run(idle_timeout="4h"), clock)
    browser.do(login("alice"))
    header = browser.header()
    browser.application = deployment.run(idle_timeout="5m")
    clock.advance(100)
    browser.do(logout)
    clock.advance(1000)
    deployment.others_log_out()
    browser.application = deployment.run(idle_timeout="4h")
    deployment.others_log_out()
    assert presenting(browser, header) is None


@pytest.mark.parametrize("end", [logout, login("bob")])
@pytest.mark.parametrize("elsewhere", ["a shorter timeout", "a clock that is ahead"])
def test_past_the_absolute_deadline_where_it_is_ended(
    clock: Clock, deployment: Deployment, end: Any, elsewhere: str
) -> None:
    """A logout or login ends the presented session although it is over there: another process may not think so."""
    browser = Browser(deployment.run(absolute_timeout="1h", idle_timeout="1h"), clock)
    browser.do(login("alice"))
    header = browser.header()
    if elsewhere == "a shorter timeout":
        browser.application = deployment.run(absolute_timeout="5m", idle_timeout="5m")
        clock.advance(1000)
    else:
        clock.advance(3601)
    call(browser.application, end, header)
    if elsewhere != "a shorter timeout":
        clock.advance(-2)
    browser.application = deployment.run(absolute_timeout="1h", idle_timeout="1h")
    assert presenting(browser, header) is None


def test_a_longer_timeout_after_the_fence_is_gone(clock: Clock, deployment: Deployment) -> None:
    """A session logged out stays dead under a longer timeout, after its fence was dropped: its own deadline is past."""
    browser = Browser(deployment.run(idle_timeout="5m"), clock)
    browser.do(login("alice"))
    header = browser.header()
    browser.do(logout)
    clock.advance(1000)
    deployment.others_log_out()
    browser.application = deployment.run(idle_timeout="8h")
    deployment.others_log_out()
    assert presenting(browser, header) is None


def test_a_session_lives_through_a_restart(clock: Clock, deployment: Deployment) -> None:
    """Sessions, and logouts, survive a restart of the application."""
    alice, bob = (Browser(deployment.run(), clock) for _ in range(2))
    bob.application = alice.application = deployment.run()
    alice.do(login("alice"))
    bob.do(login("bob"))
    header = bob.header()
    bob.do(logout)
    alice.application = deployment.run()
    assert alice.do(who) == "alice"
    assert presenting(alice, header) is None


def test_a_lease_from_a_shorter_timeout_is_not_stretched(clock: Clock, deployment: Deployment) -> None:
    """A session rolled under a shorter idle timeout ends with that, though it was issued under a longer one."""
    browser = Browser(deployment.run(idle_timeout="4h"), clock)
    browser.do(login("alice"))
    browser.application = deployment.run(idle_timeout="10m")
    clock.advance(100)
    browser.do(who)
    header = browser.header()
    browser.application = deployment.run(idle_timeout="4h")
    clock.advance(599.999)
    assert presenting(browser, header) == "alice"
    clock.advance(0.001)
    assert presenting(browser, header) is None


def test_tags_are_hashed_in_the_store(clock: Clock, deployment: Deployment) -> None:
    """No name of a tag, and no session id, is in the store's files."""
    browser = Browser(deployment.run(), clock)
    browser.do(login("alice@example.org"))
    id_ = bytes.fromhex(browser.do(lambda s: s.id))
    filter_of(browser).revoke("user:alice@example.org")
    browser.do(logout)
    deployment.application.close()  # type: ignore[union-attr]
    held = b"".join(path.read_bytes() for path in Path(deployment.url[10:]).parent.iterdir())
    assert tag_key("user:alice@example.org") in held
    assert b"alice" not in held
    assert id_ not in held
