"""On what a benchmark ran, in so far as it matters for the numbers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.servers import find_redis_server

PACKAGES = ("cryptography", "gunicorn", "hiredis", "pyperf", "redis", "PyNaCl", "msgspec")


def describe() -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": memory_gb(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION,
        "redis": first_line([find_redis_server() or "redis-server", "--version"]),
        "node": first_line(["node", "--version"]),
        "wrk": first_line(["wrk", "--version"]),
        "valgrind": first_line(["valgrind", "--version"]),
        "commit": first_line(["git", "describe", "--always", "--dirty"]),
        "load": [round(value, 2) for value in os.getloadavg()],
        "packages": {name: installed for name in PACKAGES if (installed := installed_version(name))},
    }


def processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def first_line(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().partition("\n")[0] or None
