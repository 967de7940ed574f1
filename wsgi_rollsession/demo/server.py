"""Starts gunicorn with the demo's application, and stops it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from ..errors import RollSessionError
from ..keys import generate_key
from .gunicorn_conf import workers
from .story import HOST, Browser

FIRST_PORT, LAST_PORT = 8000, 8099


class DemoError(RollSessionError):
    """The demo cannot run here. The message says what it needs."""


def listen(port: int | None) -> socket.socket:
    """A listening socket on this machine's loopback interface: on *port*, or on the first free one from 8000."""
    for candidate in [port] if port is not None else range(FIRST_PORT, LAST_PORT + 1):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            listener.close()
            if port is not None:
                raise DemoError(f"--port: requires a free port of {HOST}, received {port} ({error})") from None
        else:
            return listener
    raise DemoError(f"all ports from {FIRST_PORT} to {LAST_PORT} of {HOST} are in use; choose one with --port")


@contextmanager
def running(port: int | None, insecure_http: bool) -> Iterator[int]:
    """gunicorn with two workers and the SQLite store in a temporary folder. Gives the port."""
    if find_spec("gunicorn") is None:
        raise DemoError("the demo requires gunicorn: pip install gunicorn")
    with tempfile.TemporaryDirectory(prefix="rollsession-demo-") as folder, listen(port) as listener:
        environment = os.environ | {
            "ROLLSESSION_DEMO_FOLDER": folder,
            "ROLLSESSION_KEYS": generate_key(),
            "ROLLSESSION_DEMO_SECRET": secrets.token_hex(64),
            "ROLLSESSION_DEMO_INSECURE_HTTP": "1" if insecure_http else "",
        }
        environment.pop("GUNICORN_CMD_ARGS", None)
        # The socket is handed over, so nobody can take the port in between.
        number = listener.fileno()
        command = [sys.executable, "-m", "gunicorn", "-c", "python:wsgi_rollsession.demo.gunicorn_conf"]
        command += ["--bind", f"fd://{number}", "wsgi_rollsession.demo.app:from_environment()"]
        server = subprocess.Popen(command, env=environment, pass_fds=[number])
        try:
            _wait_until_ready(server, listener.getsockname()[1])
            yield listener.getsockname()[1]
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Until every worker has answered: a race within one process would show less."""
    deadline = time.monotonic() + 30
    seen: set[int] = set()
    while time.monotonic() < deadline and server.poll() is None:
        with Browser(port) as browser, suppress(OSError):
            seen.add(browser.fetch("GET", "/cookies").worker)
        if len(seen) == workers:
            return
        time.sleep(0.01)
    raise DemoError("gunicorn did not start; its messages are above")
