"""A browser that speaks HTTP, and the servers that it speaks to, started and stopped by process id."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from wsgi_rollsession import generate_key

from .browser import Answer, Browser
from .http_app import CONFIG, PATIENCE

HOST = "127.0.0.1"
ROOT = Path(__file__).parent.parent


def request(port: int, path: str, headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE + 10)
    try:
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    answer = Answer(f"{response.status} {response.reason}", response.getheaders(), None, body)
    if answer.header("Content-Type") == "application/json":
        answer.result = json.loads(body)["result"]
    return answer


class WebBrowser(Browser):
    """A browser in front of one mount of one server."""

    def __init__(self, port: int, mount: str, gates: Path | None = None) -> None:
        super().__init__(None, time.time)  # type: ignore[arg-type]  # there is no application in this process
        self.port, self.mount, self.gates = port, mount, gates

    def fetch(self, path: str, *, on: int | None = None, header: str | None = None) -> Answer:
        """Send a request, and take its answer without letting it arrive. *on*: the process that must serve it."""
        headers = {}
        cookie = self.header() if header is None else header
        if cookie:
            headers["Cookie"] = cookie
        if on is not None:
            headers["X-Worker"] = str(on)
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = request(self.port, f"/{self.mount}/{path}", headers)
            if not answer.status.startswith("421"):
                assert answer.status.startswith(("200", "409")), (path, answer.status, answer.body)
                return answer
            assert time.monotonic() < deadline, f"process {on} does not serve"

    def go(self, path: str, *, on: int | None = None) -> Any:
        """Send a request, and let its answer arrive: what the operation returned."""
        return self.receive(self.fetch(path, on=on)).result

    @contextmanager
    def in_flight(self, path: str, *, on: int | None = None, kind: str = "gate") -> Iterator[Future[Answer]]:
        """A request that waits in its handler, or before its emission, until the block ends. Then its answer."""
        assert self.gates is not None
        gate = self.gates / uuid.uuid4().hex
        header = self.header()
        path = f"{path}{'&' if '?' in path else '?'}{kind}={gate.name}"
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.fetch, path, on=on, header=header)
            try:
                deadline = time.monotonic() + PATIENCE
                while not gate.with_suffix(".entered").exists():
                    assert not answer.done(), answer
                    assert time.monotonic() < deadline, "the request has not reached its gate"
                    time.sleep(0.002)
                if on is not None:
                    assert gate.with_suffix(".entered").read_text() == str(on)
                yield answer
            finally:
                gate.with_suffix(".open").touch()
        answer.result()


def listen() -> socket.socket:
    """A listening socket on a free port, to be handed over: so nobody can take the port in between."""
    listener = socket.create_server((HOST, 0), backlog=128)
    listener.set_inheritable(True)
    return listener


class Server:
    """A server process that is up. Attributes: ``port``; ``workers``, the processes that serve; ``gates``, a folder."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.folder, self.port, self.process, self.log = folder, port, process, log
        self.gates = folder
        self.workers: list[int] = []
        self.name = ""

    def browser(self, mount: str) -> WebBrowser:
        return WebBrowser(self.port, mount, self.gates)

    def find_workers(self, count: int) -> None:
        """Wait until *count* processes have answered."""
        deadline = time.monotonic() + PATIENCE
        found: set[int] = set()
        while len(found) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            try:
                found.add(int(request(self.port, "/").body))
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
        self.workers = sorted(found)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def serve(
    folder: Path, mounts: dict[str, dict[str, Any]], arguments: Callable[[int], list[str]], *, workers: int = 1
) -> Iterator[Server]:
    """Python with ``arguments(number of a listening socket)``, serving *mounts*: options of RollSession by name."""
    folder.mkdir(exist_ok=True)
    for options in mounts.values():
        options.setdefault("keys", generate_key())
    config, log = folder / "config.json", folder / "server.log"
    config.write_text(json.dumps({"gates": str(folder), "mounts": mounts}))
    environment = os.environ | {CONFIG: str(config), "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    environment.pop("GUNICORN_CMD_ARGS", None)
    with listen() as listener, log.open("wb") as out:
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, *arguments(number)],
            env=environment,
            pass_fds=[number],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        server = Server(folder, listener.getsockname()[1], process, log)
        try:
            server.find_workers(workers)
            yield server
        finally:
            server.stop()


def gunicorn(
    folder: Path,
    mounts: dict[str, dict[str, Any]],
    *,
    application: tuple[str, ...] = ("tests.http_app:create()",),
    workers: int = 2,
    **settings: Any,
) -> AbstractContextManager[Server]:
    """gunicorn with *settings* of its configuration file."""
    folder.mkdir(exist_ok=True)
    settings = {
        "workers": workers,
        "graceful_timeout": 1,
        "loglevel": "warning",
        # Of gunicorn 25 and later. In a file, for an older one ignores there what it does not know.
        "control_socket_disable": True,
        **settings,
    }
    path = folder / "settings.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    command = ["-m", "gunicorn", "-c", str(path)]
    return serve(folder, mounts, lambda number: [*command, "--bind", f"fd://{number}", *application], workers=workers)
