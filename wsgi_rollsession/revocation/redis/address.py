"""What the URL of a Redis store says. docs/operating-redis.md describes it for people.

redis://[user:password@]host[:port][/db][?option=...]       rediss:// is the same over TLS
unix:///path/to/socket[?db=0&option=...]
redis+sentinel://[user:password@]host:port,.../service[/db][?option=...]
redis+cluster://[user:password@]host:port,...[?option=...]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

#: Seconds to wait for a connection, and for a reply.
CONNECT_TIMEOUT = 0.25
REPLY_TIMEOUT = 0.5
#: Seconds that a call takes at most, whatever it does: looking for the primary, waiting for a connection of its own,
#: connecting, asking several shards, asking again.
CALL_TIMEOUT = CONNECT_TIMEOUT + REPLY_TIMEOUT

#: The longest ``max_staleness``: a fence's lifetime has room for what a load may be behind (settings.py).
LONGEST_STALENESS = 5.0

_DEFAULT_PORT = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}
_SSL_TEXT = ("ca_certs", "ca_path", "certfile", "keyfile", "keyfile_password", "cert_reqs")


@dataclass(frozen=True)
class RedisAddress:
    """A validated URL. ``str()`` of it carries no password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    db: int = 0
    service: str = ""
    tls: bool = False
    #: For redis-py's connections: credentials and TLS options.
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: For the connections to Sentinels, which have users of their own.
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)
    prefix: str = "rollsession"
    follow: bool = False
    #: Seconds that a load may be behind in follow mode.
    max_staleness: float = 1.0
    #: Replicas that must have a fence before its raising returns.
    wait: int = 0
    accept_eviction: bool = False
    #: Connections of this process to one server; that of follow mode is one more.
    max_connections: int = 50

    def __str__(self) -> str:
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{where}" + (f"/{self.service}" if self.service else "")


def parse(url: str) -> RedisAddress:
    """
    Raises:
        ConfigurationError: names the part of the URL, what it requires and what it received.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError("revocations: requires a well-formed Redis URL") from None
    if parts.fragment:
        raise ConfigurationError("revocations: requires a URL without '#' (in a password, write it as %23)")
    if "@" in parts.path and parts.scheme != "unix":
        raise ConfigurationError("revocations: requires %2F for a slash in the user or password of a Redis URL")
    scheme = parts.scheme
    credentials, _, netloc = parts.netloc.rpartition("@")
    fields: dict[str, Any] = {"scheme": scheme, "tls": scheme == "rediss"}
    words = [unquote(word) for word in parts.path.split("/") if word]
    if scheme == "unix":
        if not words:
            raise ConfigurationError("revocations: requires a path, as in unix:///run/redis.sock, received none")
        fields |= {"path": unquote(parts.path), "hosts": ()}
    else:
        fields["hosts"] = _hosts(netloc, _DEFAULT_PORT[scheme], several="+" in scheme)
        if scheme == "redis+sentinel":
            if not words:
                raise ConfigurationError("revocations: requires redis+sentinel://hosts/SERVICE, received no service")
            fields["service"] = words.pop(0)
        if words:
            if scheme == "redis+cluster":
                raise ConfigurationError(f"revocations: a cluster has only database 0, received /{'/'.join(words)}")
            fields["db"] = _whole("database", "/".join(words))
    return _with_options(fields, credentials, options)


def _with_options(fields: dict[str, Any], credentials: str, options: list[tuple[str, str]]) -> RedisAddress:
    connection: dict[str, Any] = {}
    sentinel: dict[str, Any] = {}
    user, _, password = credentials.partition(":")
    if user:
        connection["username"] = unquote(user)
    if password:
        connection["password"] = unquote(password)
    seen = set()
    for name, value in options:
        if name in seen:
            raise ConfigurationError(f"revocations: requires {name}= at most once")
        seen.add(name)
        match name:
            case "prefix":
                if not value or set(value) & set("{}"):
                    raise ConfigurationError(f"revocations: prefix= requires text without braces, received {value!r}")
                fields[name] = value
            case "follow" | "tls":
                fields[name] = _flag(name, value)
            case "db":
                fields[name] = _whole(name, value)
            case "wait":
                fields[name] = _whole(name, value)
            case "max_connections":
                fields[name] = _whole(name, value, least=1)
            case "max_staleness":
                fields[name] = _seconds(name, value)
            case "eviction":
                if value not in ("refuse", "accept"):
                    raise ConfigurationError(f"revocations: eviction= requires refuse or accept, received {value!r}")
                fields["accept_eviction"] = value == "accept"
            case "username" | "password":
                connection[name] = value
            case "sentinel_username" | "sentinel_password" if fields["scheme"] == "redis+sentinel":
                sentinel[name.removeprefix("sentinel_")] = value
            case "ssl_check_hostname":
                connection[name] = _flag(name, value)
            case _ if name.startswith("ssl_") and name.removeprefix("ssl_") in _SSL_TEXT:
                connection[name] = value
            case _:
                raise ConfigurationError(f"revocations: unknown option {name!r} in the URL of a Redis store")
    if fields["scheme"] == "redis+cluster" and fields.get("db"):
        raise ConfigurationError(f"revocations: a cluster has only database 0, received db={fields['db']}")
    tls_options = [name for name in connection if name.startswith("ssl_")]
    if tls_options and not fields["tls"]:
        raise ConfigurationError(f"revocations: {tls_options[0]}= requires TLS (rediss://, or tls=1)")
    return RedisAddress(connection=connection, sentinel=sentinel, **fields)


def _hosts(netloc: str, default_port: int, *, several: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for one in netloc.split(","):
        try:
            parts = urlsplit(f"//{one}")
            if not parts.hostname or parts.username:
                raise ValueError
            found.append((parts.hostname, parts.port or default_port))
        except ValueError:
            # What was received is not shown: an unescaped character may have made a part of the password look like it.
            raise ConfigurationError(
                "revocations: requires host:port in a Redis URL, and %-escapes in its user and password"
            ) from None
    if len(found) > 1 and not several:
        raise ConfigurationError(f"revocations: requires one host, received {len(found)}")
    return tuple(found)


def _whole(name: str, value: str, least: int = 0) -> int:
    if not value.isdecimal() or int(value) < least:
        at_least = f" of at least {least}" if least else ""
        raise ConfigurationError(f"revocations: {name} requires a whole number{at_least}, received {value!r}")
    return int(value)


def _flag(name: str, value: str) -> bool:
    match value.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ConfigurationError(f"revocations: {name}= requires 1 or 0, received {value!r}")


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= LONGEST_STALENESS:
        raise ConfigurationError(
            f"revocations: {name}= requires seconds from 0.1 to {LONGEST_STALENESS:g}, received {value!r}"
        )
    return seconds
