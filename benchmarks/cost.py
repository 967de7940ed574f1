"""What a request costs over the bare application, timed by pyperf; and what its primitives alone would cost.

Every round gives each contender a fresh process, in which the bare application and its wrapped forms are measured
side by side. Overheads and ratios are taken within a round; their spread is over the rounds.

Run by itself for one contender: ``python -m benchmarks.cost --contender NAME`` (and pyperf's own options).
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from .browser import Browser, WSGIServer, make_environ
from .contenders import Contender, contenders
from .tiny import MODES, Lab, content

#: Bytes of a session as JSON. 2800 is about the most that fits a cookie of 4096 bytes once sealed.
SIZES = (50, 200, 1000, 2800)
SIZE = 200
#: pyperf as its worker, in the process that it is started in: the round is the unit that is repeated.
PYPERF = ("--worker", "--quiet", "--warmups", "1", "--loops", "200")
#: This project remembers the session cookies that a process opened last. So many visitors in turn, and it never does.
CROWD = 1500
FLOOR = "floor"
STEPS = "steps"
FLOOR_SIZE = 180


def login_path(size: int) -> str:
    return f"/login?user=alice&size={size}"


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
    return print


def serve(application: Any, template: dict[str, Any]) -> None:
    """One request, as a server makes it: an environ of its own, the body drained."""
    result = application(dict(template), start_response)
    for _ in result:
        pass
    if hasattr(result, "close"):
        result.close()


def serve_next(application: Any, templates: Iterator[dict[str, Any]]) -> None:
    serve(application, next(templates))


def serve_login_logout(application: Any, template: dict[str, Any]) -> None:
    """A login and the logout of that session: what a logout costs is this less a login."""
    browser = Browser(WSGIServer(application, None))  # type: ignore[arg-type]
    browser.receive(browser.send(template["login"]))
    browser.send("/logout")


class Bench:
    """One contender's three applications in this process, each with a live session of every size that it can hold."""

    def __init__(self, contender: Contender, redis_url: str, sizes: tuple[int, ...], crowd: int = CROWD) -> None:
        directory = Lab().directory
        self.applications = {
            mode: contender.build(Lab(mode, redis_url, directory=directory, dated_back=True)) for mode in MODES
        }
        self.environs: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.too_large: list[int] = []
        for mode, application in self.applications.items():
            for size in sizes:
                browser = Browser(WSGIServer(application, None))  # type: ignore[arg-type]
                try:
                    contender.settle(application, browser, login_path(size))
                except Exception:  # every package has its own way to say that it is too large
                    self.too_large.append(size)
                    continue
                if mode != "bare" and browser.user() != "alice":
                    raise RuntimeError(f"{contender.name} does not know who has just logged in")
                for path in ("/untouched", "/read", "/write?k=note&v=1"):
                    self.environs[mode, path.partition("?")[0][1:], size] = make_environ(path, browser.jar)
        self.crowds = {mode: self._crowd(contender, mode, crowd) for mode in MODES} if contender.ours else {}
        gc.collect()
        gc.freeze()  # what was made here is not what requests leave to the collector
        self._born = time.monotonic()

    def _crowd(self, contender: Contender, mode: str, crowd: int) -> list[dict[str, Any]]:
        application, environs = self.applications[mode], []
        for _ in range(crowd):
            browser = Browser(WSGIServer(application, None))  # type: ignore[arg-type]
            contender.settle(application, browser, login_path(SIZE))
            environs.append(make_environ("/read", browser.jar))
        return environs

    def age(self) -> None:
        """Some peers re-issue a cookie only when it is a whole second old."""
        time.sleep(max(0.0, self._born + 2.1 - time.monotonic()))

    def verify(self) -> None:
        """The sessions that were measured must have been alive: a refused cookie is cheap."""
        for (mode, path, size), environ in self.environs.items():
            if mode != "bare" and path == "read":
                body = b"".join(self.applications[mode](dict(environ), start_response))
                if b"alice" not in body:
                    raise RuntimeError(f"the session of {mode}/{path}/{size} was not alive: {body!r}")
        for mode in self.crowds:
            if mode != "bare" and bool(self.set_cookie_bytes(mode, "read", SIZE)) is not (mode == "roll"):
                raise RuntimeError(f"{mode}: rolled where it should not have, or did not where it should")

    def set_cookie_bytes(self, mode: str, path: str, size: int) -> int:
        sent: list[str] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
            sent.extend(value for name, value in headers if name.lower() == "set-cookie")
            return print

        for _ in self.applications[mode](dict(self.environs[mode, path, size]), start):
            pass
        return sum(map(len, sent))

    def cases(self, sizes: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], None]]]:
        """Names and functions: the bare cases, the wrapped ones without a roll, then those with one."""
        for mode in MODES:
            if mode == "roll":
                self.age()
            for path in ("untouched", "read", "write"):
                for size in sizes if path == "read" else (SIZE,):
                    if mode == "roll" and path != "read":
                        continue
                    if (mode, path, size) in self.environs:
                        case = "roll" if mode == "roll" else path
                        environ = self.environs[mode, path, size]
                        yield f"{mode}/{case}/{size}", partial(serve, self.applications[mode], environ)
            if mode in self.crowds:
                case = "roll" if mode == "roll" else "read"
                crowd = cycle(self.crowds[mode])
                yield f"{mode}/{case}-new/{SIZE}", partial(serve_next, self.applications[mode], crowd)


def floor_functions() -> dict[str, Callable[[], Any]]:
    """The primitives that no sealed JSON cookie can do without, called bare: JSON, AES-GCM, base64, both ways.

    A request that does not write needs one half only: reads and rolls are held against opening, writes against both.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    session = dict(content("alice", FLOOR_SIZE))
    sealed = urlsafe_b64encode(cipher.encrypt(nonce, json.dumps(session).encode(), None))

    def seal() -> bytes:
        return urlsafe_b64encode(cipher.encrypt(nonce, json.dumps(session).encode(), None))

    def unseal() -> None:
        json.loads(cipher.decrypt(nonce, urlsafe_b64decode(sealed), None))

    def both() -> None:
        unseal()
        seal()

    return {"open": unseal, "seal": seal, "both": both}


def main() -> None:
    """Measure one contender in this process, in one round."""
    import pyperf

    runner = pyperf.Runner()
    runner.argparser.add_argument("--contender", required=True)
    runner.argparser.add_argument("--redis", default="")
    runner.argparser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    runner.argparser.add_argument("--facts", help="where to write what is not a time")
    arguments = runner.parse_args()
    if arguments.contender in (FLOOR, STEPS):
        from . import steps

        functions = floor_functions() if arguments.contender == FLOOR else steps.functions()
        for name, function in functions.items():
            runner.bench_func(name, function)
        return
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    bench = Bench(contenders()[arguments.contender], arguments.redis, sizes)
    for name, function in bench.cases(sizes):
        runner.bench_func(name, function)
    bench.verify()
    for mode in ("bare", "still"):
        login = {"login": login_path(SIZE)}
        template = make_environ(login["login"], {})
        runner.bench_func(f"{mode}/login/{SIZE}", serve, bench.applications[mode], template)
        runner.bench_func(f"{mode}/login+logout/{SIZE}", serve_login_logout, bench.applications[mode], login)
    if arguments.facts:
        held = [size for size in sizes if size not in bench.too_large]
        facts = {
            "roll_bytes": {size: bench.set_cookie_bytes("roll", "read", size) for size in held},
            "write_bytes": {size: bench.set_cookie_bytes("still", "write", size) for size in held},
            "too_large": sorted(set(bench.too_large)),
        }
        Path(arguments.facts).write_text(json.dumps(facts))


def measure(name: str, redis_url: str, options: tuple[str, ...]) -> tuple[dict[str, float], dict[str, Any]]:
    """One round of one contender: seconds of each case (the least of pyperf's values), and the facts."""
    import pyperf

    with tempfile.TemporaryDirectory(prefix="rollsession-cost-") as directory:
        out, facts = Path(directory, "times.json"), Path(directory, "facts.json")
        command = [sys.executable, "-m", "benchmarks.cost", "--contender", name, "--redis", redis_url]
        command += ["--facts", str(facts), "-o", str(out), *PYPERF, *options]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": directory})
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        suite = pyperf.BenchmarkSuite.load(str(out))
        times = {bench.get_name(): min(bench.get_values()) for bench in suite.get_benchmarks()}
        return times, json.loads(facts.read_text()) if facts.exists() else {}


if __name__ == "__main__":
    main()
