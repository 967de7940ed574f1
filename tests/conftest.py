"""Fixtures that every test can use, and the part of the summary that names what was not tested."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from wsgi_rollsession.keys import PREFIX

from .browser import Clock
from .chromium import chromium
from .servers import opened, proxy, redis_server, redis_url

__all__ = ["chromium", "opened", "proxy", "redis_server", "redis_url"]

# A slow machine is no failure; what is bounded in time is asserted where it is promised.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture
def clock() -> Clock:
    """The clock of one test."""
    return Clock()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name every component that was skipped, with the reason, and the tests that wait for another command."""
    stats = terminalreporter.stats
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in stats.get("skipped", [])
    )
    terminalreporter.section("what was not tested")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"SKIPPED {count} test(s): {reason}")
    if config.option.markexpr == "not slow":
        terminalreporter.line("Left out: the tests marked slow, which `make test-slow` and .ci/run include.")
    if not reasons:
        terminalreporter.line("No component was skipped.")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """A key in a test's name would differ between the processes of pytest-xdist, which refuses that."""
    return "key" if isinstance(val, (str, bytes)) and PREFIX in str(val).lower() else None
