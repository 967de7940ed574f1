"""What the pytest plugins for other distributions' tests have in common. Imports nothing of ``tests``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

#: What is wanted of this run.
WANTED: dict[str, Any] = {"at_least": 0, "configuration": {}, "exclusions": {}} | json.loads(
    os.environ.get("ROLLSESSION_UPSTREAM", "{}")
)
#: The tests in which the adapter had a part.
opened: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An excluded test has to fail: if it does not, or is not there, its exclusion has to go."""
    exclusions: dict[str, str] = dict(WANTED["exclusions"])
    for item in items:
        reason = exclusions.pop(item.nodeid, None)
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    if exclusions:
        raise pytest.UsageError(f"excluded, and not there: {', '.join(exclusions)}")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A run in which the adapter had no part shows nothing."""
    if len(opened) < WANTED["at_least"] and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tests the adapter had a part in."""
    terminalreporter.line(f"the adapter opened sessions in {len(opened)} tests; required: {WANTED['at_least']}")
