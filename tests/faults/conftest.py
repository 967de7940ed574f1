"""``report``: what a fault test promised and saw, for the table in docs/faults.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

from tests.servers import require_redis_server


@cache
def version() -> str:
    """Of the server program, such as ``Redis 7.0.15``."""
    text = subprocess.run([require_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\w+) server v=(\S+)", text)
    assert found, text
    return f"{found[1]} {found[2]}"


@pytest.fixture
def report() -> Callable[..., None]:
    """Appends a line to the file named by ROLLSESSION_FAULT_REPORT, if that is set."""

    def write(*, store: str, fault: str, promise: str, observed: str) -> None:
        if path := os.environ.get("ROLLSESSION_FAULT_REPORT"):
            with open(path, "a", encoding="utf-8") as out:
                line = {"store": store, "fault": fault, "promise": promise, "observed": observed, "server": version()}
                out.write(json.dumps(line) + "\n")

    return write
