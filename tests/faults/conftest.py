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
def version(program: str) -> str:
    """Of a server program, such as ``Redis 7.0.15``."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\w+) server v=(\S+)", text)
    assert found, text
    return f"{found[1]} {found[2]}"


@pytest.fixture
def report() -> Callable[..., None]:
    """Appends a line to the file named by ROLLSESSION_FAULT_REPORT, if that is set. *program*: the server's, if not
    the usual one."""

    def write(*, store: str, fault: str, promise: str, observed: str, program: str = "") -> None:
        if path := os.environ.get("ROLLSESSION_FAULT_REPORT"):
            server = version(program or require_redis_server())
            line = {"store": store, "fault": fault, "promise": promise, "observed": observed, "server": server}
            with open(path, "a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")

    return write
