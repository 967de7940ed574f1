"""The Node peers, each in a process of its own, over HTTP on loopback (see ``benchmarks/node``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..browser import HTTPServer, Server
from ..servers import free_port, stopped_at_exit, wait_for_port
from ..tiny import Lab
from . import Contender

NODE = Path(__file__).parent.parent / "node"


def missing() -> str | None:
    """Why the Node peers cannot be driven here; None if they can."""
    if shutil.which("node") is None:
        return "Node.js is not installed on this machine"
    if not (NODE / "node_modules").is_dir():
        return "the Node packages are not installed (npm was missing, or could not reach its registry)"
    return None


def package_version(package: str) -> str:
    described = NODE / "node_modules" / package / "package.json"
    if described.is_file():
        return str(json.loads(described.read_text())["version"])
    return str(json.loads((NODE / "package.json").read_text())["dependencies"][package])


def serve(name: str) -> Any:
    @contextmanager
    def running(lab: Lab) -> Iterator[Server]:
        port = free_port()
        process = subprocess.Popen(
            ["node", "server.mjs", name, str(port), lab.redis_url],
            cwd=NODE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NODE_ENV": "development", "NO_COLOR": "1"},
        )
        with stopped_at_exit(process):
            wait_for_port(port, process)
            yield HTTPServer(port)

    return running


def contender(name: str, package: str, configuration: str, **traits: Any) -> Contender:
    return Contender(name, package, configuration, serve(name), serves="http", timed=False, **traits)


CONTENDERS = [
    contender("cookie-session", "cookie-session", "changed on every request"),
    contender("iron-session", "iron-session", "saved on every request", encrypts=True),
    contender("express-session", "express-session", "rolling, connect-redis", stored=True, redis=True),
    contender("express-openid-connect", "express-openid-connect", "cookie, rolling (default)", encrypts=True),
    contender(
        "express-openid-connect-redis",
        "express-openid-connect",
        "connect-redis store, rolling (default)",
        stored=True,
        redis=True,
    ),
    contender("nextjs", "@auth0/nextjs-auth0", "stateless, rolling (default)", encrypts=True),
    contender("nextjs-store", "@auth0/nextjs-auth0", "stateful, store without update()", stored=True),
    contender("nextjs-store-update", "@auth0/nextjs-auth0", "stateful, store with update()", stored=True),
]
