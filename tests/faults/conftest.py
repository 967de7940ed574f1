"""``report``: what a fault test promised and saw, for the table in docs/faults.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest


@pytest.fixture
def report() -> Callable[..., None]:
    """Appends a line to the file named by ROLLSESSION_FAULT_REPORT, if that is set."""

    def write(*, store: str, fault: str, promise: str, observed: str) -> None:
        if path := os.environ.get("ROLLSESSION_FAULT_REPORT"):
            with open(path, "a", encoding="utf-8") as out:
                line = {"store": store, "fault": fault, "promise": promise, "observed": observed}
                out.write(json.dumps(line) + "\n")

    return write
