"""One connection to a server: made by redis-py (TLS, users, protocol), and held to a moment by which all is over."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import redis
from redis import connection as connections
from redis.backoff import NoBackoff
from redis.retry import Retry

from .address import CONNECT_TIMEOUT, REPLY_TIMEOUT, RedisAddress

Command = tuple[Any, ...]
#: What a server says of itself (INFO): text and whole numbers.
Info = dict[str, Any]
#: What redis-py and the system raise when a server cannot be reached, or does not answer in time.
FAILURES = redis.RedisError, OSError

#: A connection that is idle is tried by the kernel after so many seconds, every so many, so many times: a firewall does
#: not forget it, and one to a host that is gone is found dead.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


# redis-py has no types for these.
_Tcp_: Any = connections.Connection
_Tls_: Any = connections.SSLConnection
_Unix_: Any = connections.UnixDomainSocketConnection


class _Socket:
    """A socket whose reads and writes end at ``until``: redis-py's time-out is one for each read, of which a reply
    may take any number."""

    __slots__ = ("_allowed", "_applied", "_socket", "until")

    def __init__(self, made: Any, until: float) -> None:
        self._socket = made
        self._allowed = self._applied = made.gettimeout()
        self.until = until

    def settimeout(self, seconds: float | None) -> None:
        self._allowed = seconds  # a system call, so only if it is needed

    def recv(self, *args: Any) -> bytes:
        self._limit()
        received: bytes = self._socket.recv(*args)
        return received

    def recv_into(self, *args: Any) -> int:
        self._limit()
        received: int = self._socket.recv_into(*args)
        return received

    def sendall(self, data: bytes) -> None:
        self._limit()
        self._socket.sendall(data)

    def _limit(self) -> None:
        seconds = self._allowed
        if seconds != 0:
            left = self.until - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            if seconds is None or left < seconds:
                seconds = left
        if seconds != self._applied:
            self._socket.settimeout(seconds)
            self._applied = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Bounded:
    """Mixed into redis-py's connections: connecting, TLS and log-in end at ``until``."""

    until = 0.0

    def _connect(self) -> Any:
        return _Socket(super()._connect(), self.until)  # type: ignore[misc]


class _Tcp(_Tcp_):  # type: ignore[misc]
    """Connects to each address of a host in turn, as redis-py does, but within one time."""

    def _connect(self) -> Any:
        failed = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in KEEPALIVE.items():
                    if hasattr(socket, name):
                        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
                made.settimeout(max(0.001, min(CONNECT_TIMEOUT, self.until - monotonic())))
                made.connect(address)
                made.settimeout(REPLY_TIMEOUT)
                return made
            except OSError as error:
                made.close()
                failed = error
        raise failed


class _TcpConnection(_Bounded, _Tcp):
    pass


class _TlsConnection(_Bounded, _Tls_, _Tcp):  # type: ignore[misc]
    pass


class _UnixConnection(_Bounded, _Unix_):  # type: ignore[misc]
    pass


def make(address: RedisAddress, host: str = "", port: int = 0, given: Mapping[str, Any] | None = None) -> Any:
    """A connection that is not connected yet. *given*: other credentials than those of the address."""
    options = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": REPLY_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),  # redis-py's own retries would multiply the time-outs
        "protocol": 2,
        "db": address.db if given is None else 0,
    }
    tls = {name: value for name, value in address.connection.items() if name.startswith("ssl_")}
    options |= address.connection if given is None else {**(tls if address.tls else {}), **given}
    made: Any
    if address.path:
        made = _UnixConnection(path=address.path, **options)
    else:
        made = (_TlsConnection if address.tls else _TcpConnection)(host=host, port=port, **options)
    made.driver_info = made.lib_name = made.lib_version = None  # telling them takes two round trips
    return made


class Channel:
    """A connection that is open, and who is at its other end."""

    def __init__(self, connection: Any, until: float) -> None:
        self.connection = connection
        #: Who answered when it was last asked: what the link's ``Greet`` returned.
        self.server: Any = None
        #: Since when nobody uses it, by ``time.monotonic()``.
        self.idle_since = 0.0
        connection.until = until
        connection.socket_connect_timeout = max(0.001, min(CONNECT_TIMEOUT, until - monotonic()))
        connection.connect()
        self.socket: _Socket = connection._sock

    def ask(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send *commands* in one go, and read a reply for each. An error reply is an element of the list."""
        self.send(commands, until)
        return [self.receive() for _ in commands]

    def send(self, commands: Sequence[Command], until: float) -> None:
        """Send *commands*; their replies have to be there by *until* (``time.monotonic()``)."""
        connection = self.connection
        self.socket.until = until
        packed = connection.pack_command(*commands[0]) if len(commands) == 1 else connection.pack_commands(commands)
        connection.send_packed_command(packed, check_health=False)

    def receive(self) -> Any:
        """The next reply."""
        try:
            return self.connection.read_response()
        except redis.ResponseError as error:
            return error

    def has_reply(self) -> bool:
        """Whether there is something to read; on an idle connection that is its end, as a rule."""
        return bool(self.connection.can_read(timeout=0))

    def is_quiet(self) -> bool:
        try:
            return not self.has_reply()
        except FAILURES:
            return False

    def close(self) -> None:
        self.connection.disconnect()


def parse_info(reply: bytes) -> Info:
    """INFO's lines as a dictionary of text and whole numbers."""
    found: Info = {}
    for line in reply.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = int(value) if value.isdecimal() else value
    return found
