"""``RedisRevocations`` on one server: what it promises, command by command, against a real server."""

from __future__ import annotations

import contextlib
import datetime
import logging
import multiprocessing
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers import (
    Opener,
    Proxy,
    RedisServer,
    answers,
    as_user,
    documented_acl,
    is_fresh,
    kept_in_redis,
    key,
    running,
    wait_until,
)
from wsgi_rollsession.errors import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import Revocations, StoreOptions, open_store
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS, RUN_AHEAD_S
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, revoked_before
from wsgi_rollsession.revocation.redis import RedisRevocations
from wsgi_rollsession.revocation.redis.address import CALL_TIMEOUT, parse
from wsgi_rollsession.revocation.redis.sentinel import SentinelLink
from wsgi_rollsession.testing.stores import KeptUntil, SharedRevocationContract

#: The documented bound, and what a busy machine may add to it.
BOUND = CALL_TIMEOUT + 2.0


# The URL


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("redis://", None),
        ("redis://h", {"hosts": (("h", 6379),), "db": 0, "prefix": "rollsession", "follow": False, "wait": 0}),
        ("redis://h:7/3?prefix=app&wait=2", {"hosts": (("h", 7),), "db": 3, "prefix": "app", "wait": 2}),
        ("redis://[::1]:7", {"hosts": (("::1", 7),)}),
        ("redis://u:p%40ss@h", {"connection": {"username": "u", "password": "p@ss"}}),
        ("redis://:p@h", {"connection": {"password": "p"}}),
        ("redis://h?username=u&password=p", {"connection": {"username": "u", "password": "p"}}),
        ("rediss://h?ssl_ca_certs=/ca", {"tls": True, "connection": {"ssl_ca_certs": "/ca"}}),
        ("unix:///run/r.sock?db=2", {"path": "/run/r.sock", "db": 2}),
        ("redis://h?follow=1&max_staleness=0.5", {"follow": True, "max_staleness": 0.5}),
        ("redis+sentinel://a:1,b/svc/2", {"hosts": (("a", 1), ("b", 26379)), "service": "svc", "db": 2}),
        ("redis+sentinel://a/svc?sentinel_password=p", {"sentinel": {"password": "p"}}),
        ("redis+cluster://a:1,b:2?tls=1", {"hosts": (("a", 1), ("b", 2)), "tls": True}),
        ("redis://a,b", None),
        ("redis://h/x", None),
        ("redis://h#x", None),
        ("redis://h?follow=maybe", None),
        ("redis://h?max_staleness=0", None),
        ("redis://h?max_staleness=6", None),
        ("redis://h?wait=-1", None),
        ("redis://h?prefix=a{b", None),
        ("redis://h?eviction=perhaps", None),
        ("redis://h?wait=1&wait=2", None),
        ("redis://h?retry_on_timeout=1", None),
        ("redis://h?sentinel_password=p", None),
        ("redis://h?ssl_ca_certs=/ca", None),
        ("redis+sentinel://a:1", None),
        ("redis+cluster://a:1/1", None),
        ("redis+cluster://a:1?db=1", None),
        ("unix://", None),
    ],
)
def test_url_is_read_and_refused_by_name(url: str, fields: dict[str, object] | None) -> None:
    """Every part of a URL has a meaning or is refused when the store is opened, before anything is connected."""
    if fields is None:
        with pytest.raises(ConfigurationError, match=r"^revocations: "):
            parse(url)
    else:
        address = parse(url)
        assert {name: getattr(address, name) for name in fields} == fields


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:1",
        "redis://user:hunter2@127.0.0.1:1?password=hunter2",
        "redis://:hunter2/x@127.0.0.1:1",
        "redis://:hunter2?x@127.0.0.1:1",
        "redis://:hunter2#x@127.0.0.1:1",
        "redis://:hunter2@127.0.0.1:nonsense",
        "redis+sentinel://:hunter2@127.0.0.1:1/svc?sentinel_password=hunter2",
        "redis+cluster://:hunter2@127.0.0.1:1",
    ],
)
def test_passwords_are_never_shown(url: str, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """No message and no log line holds a password, whether the URL is malformed or the server is away."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises((ConfigurationError, StoreUnavailable)) as caught:
        opened(url).lookup_now([EVERYTHING])
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


# What it is asked, and what that costs


def test_a_question_is_one_command(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """Loads and rolls ask everything in one MGET; once a second, the server's role and clock travel with it."""
    store = opened(redis_url)
    store.lookup_now([EVERYTHING, key()])
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(100):
        store.lookup([EVERYTHING, key(), key()])
        store.lookup_now([EVERYTHING, key()])
    counts = redis_server.commandstats()
    assert counts.pop("mget") == 200
    ours = set(counts) - {"config|resetstat", "config", "info", "hello", "client|setinfo", "client"}
    assert ours <= {"role", "time"}
    assert counts.get("role", 0) < 20


def test_a_raise_is_one_script(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """A logout is one EVALSHA; the script is sent in full only to a server that does not know it."""
    store = opened(redis_url)
    store.fence([key()], ENDED)
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(20):
        store.fence([key(), key()], ENDED)
        store.fence_now([key()])
        store.compare_and_raise([(key(), 0)], [(key(), 1)])
    counts = redis_server.commandstats()
    assert counts["evalsha"] == 60
    assert counts.get("eval", 0) <= 2
    redis_server.command("SCRIPT", "FLUSH")
    store.fence([key()], ENDED)
    assert redis_server.commandstats()["eval"] == counts.get("eval", 0) + 1


def test_merge_is_max(opened: Opener, redis_url: str) -> None:
    """Raising to a smaller number changes nothing, wherever it is asked."""
    one, other, session = opened(redis_url), opened(redis_url), key()
    one.fence([session], 5)
    other.fence([session], 3)
    assert list(opened(redis_url).lookup_now([session])) == [5]
    assert list(one.lookup_now([session])) == list(other.lookup_now([session])) == [5]


def test_fence_now_uses_the_servers_clock_and_goes_past_the_last(opened: Opener, redis_url: str) -> None:
    """Log out everywhere twice within a second gives two numbers: what was created after the first is refused too."""
    store, tag = opened(redis_url), key()
    before = revoked_before(int(time.time() * 1000) - 1000)
    first, second = store.fence_now([tag]), store.fence_now([tag])
    assert before <= first < second
    assert list(store.lookup_now([tag])) == [second]


def test_genesis_exceeds_what_was_passed(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """A fresh process that finds the set lost refuses a session that had passed the furthest of many revocations.

    Everything is revoked until its number runs ahead as far as it may; somebody logs in, and so has passed that
    number, and logs out; FLUSHALL, at once; a process that knows nothing of all this writes genesis.
    """
    store = opened(redis_url)
    for _ in range(3):
        passed = store.fence_now([EVERYTHING])
    created_ms = int(time.time() * 1000)
    store.fence([key()], ENDED)
    redis_server.command("FLUSHALL")
    (genesis,) = opened(redis_url).lookup_now([EVERYTHING])
    assert genesis > passed
    assert genesis * 1000 >= created_ms


def test_compare_and_raise_is_atomic(opened: Opener, redis_url: str) -> None:
    """Of many that raise from the same version, one succeeds."""
    session = key()
    stores = [opened(redis_url) for _ in range(8)]
    barrier = threading.Barrier(8)
    done: list[bool] = []

    def run(store: RedisRevocations) -> None:
        barrier.wait()
        done.append(store.compare_and_raise([(session, 1)], [(session, 2)]))

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False] * 7 + [True]


def test_fences_expire_and_the_log_is_trimmed(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """Each fence has a time to live of the lifetime and the clock's margin; the log and nothing else grows with it."""
    store = opened(redis_url, StoreOptions(lifetime_ms=5_000))
    sessions = [key() for _ in range(20)]
    store.fence(sessions, ENDED)
    base = b"rollsession:{0}:"
    with redis_server.client() as client:
        for session in sessions:
            assert 0 < client.pttl(base + session) <= 5_000 + CLOCK_STEP_MS
        assert 0 < client.pttl(base + b"log") <= 5_000 + CLOCK_STEP_MS
        assert client.pttl(base + EVERYTHING) == -1
        # An entry as old as that is trimmed by the next raise (exactly, once its whole node is that old).
        client.delete(base + b"log")
        old = int(time.time() * 1000) - 5_000 - CLOCK_STEP_MS - 1_000
        for number in range(300):
            client.xadd(base + b"log", {"f": bytes(20)}, id=f"{old}-{number}")
        store.fence([key()], ENDED)
        assert client.xlen(base + b"log") <= 100


def test_the_longest_lifetime_counts(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """A process with a short lifetime keeps its fences as long as the longest that was ever announced."""
    short = opened(redis_url, StoreOptions(lifetime_ms=1_000))
    short.lookup_now([EVERYTHING])
    opened(redis_url, StoreOptions(lifetime_ms=900_000)).lookup([EVERYTHING])
    session = key()
    short.fence([session], ENDED)
    assert redis_server.client().pttl(b"rollsession:{0}:" + session) > 890_000


def test_compare_and_raise_knows_what_the_process_does(
    opened: Opener, redis_url: str, redis_server: RedisServer
) -> None:
    """A fence that a fail-over lost, and this process knows, refuses compare_and_raise as it refuses a load."""
    store, session = opened(redis_url), key()
    store.fence([session], ENDED)
    redis_server.command("DEL", b"rollsession:{0}:" + session)
    assert list(store.lookup_now([session])) == [ENDED]
    assert not store.compare_and_raise([(session, 3)], [(session, 4)])


# Amnesia


def test_genesis_is_written_once(opened: Opener, redis_url: str) -> None:
    """Who first finds the set empty writes when that was; later processes find it."""
    (first,) = opened(redis_url).lookup([EVERYTHING])
    assert abs(first - revoked_before(int(time.time() * 1000)) - RUN_AHEAD_S) <= 2
    time.sleep(1.1)
    assert list(opened(redis_url).lookup_now([EVERYTHING])) == [first]


@pytest.mark.parametrize("accept", [False, True])
def test_amnesia_is_noticed_by_the_next_question(
    opened: Opener, redis_url: str, redis_server: RedisServer, accept: bool
) -> None:
    """After FLUSHALL, sessions created before it are refused; amnesia=accept takes the loss."""
    store = opened(redis_url, StoreOptions(lifetime_ms=3_600_000, accept_amnesia=accept))
    (before,) = store.lookup_now([EVERYTHING])
    time.sleep(1.1)
    redis_server.command("FLUSHALL")
    (after,) = store.lookup_now([EVERYTHING, key()][:1])
    assert (after > before) is (not accept)
    assert accept is (list(opened(redis_url).lookup_now([EVERYTHING])) == [0])


def test_a_flush_between_two_questions_is_a_genesis(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """Data that is lost, whoever notices it, raises everything to an odd number, also from an even one."""
    store = opened(redis_url)
    number = store.fence_now([EVERYTHING])
    assert number % 2 == 0
    redis_server.command("FLUSHALL")
    (genesis,) = store.lookup_now([EVERYTHING])
    assert genesis > number
    assert genesis % 2 == 1
    assert redis_server.command("GET", b"rollsession:{0}:" + EVERYTHING) == str(genesis).encode()


def test_a_flush_right_after_the_first_question_is_noticed(
    opened: Opener, redis_url: str, redis_server: RedisServer
) -> None:
    """Emptied, the store is as it was when it was first found; but it must not be so again."""
    store = opened(redis_url)
    redis_server.command("FLUSHALL")
    assert store.lookup_now([EVERYTHING])[0] > 0
    assert redis_server.command("EXISTS", b"rollsession:{0}:" + EVERYTHING)
    store.fence([session := key()], ENDED)
    redis_server.command("FLUSHALL")
    (genesis,) = store.lookup_now([EVERYTHING])
    assert list(opened(redis_url).lookup_now([EVERYTHING, session])) == [genesis, 0]


def test_prefixes_are_separate_sets(opened: Opener, redis_url: str) -> None:
    """Two applications share a server by prefix=, and see nothing of each other."""
    session = key()
    opened(redis_url).fence([session], ENDED)
    assert list(opened(redis_url + "?prefix=other").lookup_now([session])) == [0]


# What is checked about the server


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(
    opened: Opener, redis_url: str, redis_server: RedisServer, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy that drops fences when memory is full is refused, said once, and shown; eviction=accept takes it."""
    redis_server.command("CONFIG", "SET", "maxmemory", "100mb")
    redis_server.command("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        with pytest.raises(StoreUnavailable, match=f"must be noeviction, it is {policy}"):
            opened(redis_url).fence([key()], ENDED)
        store = opened(redis_url + "?eviction=accept")
        for _ in range(3):
            store.fence([key()], ENDED)
        assert store.status()["maxmemory_policy"] == policy
        said = [r for r in caplog.records if "drops fences" in r.getMessage() and r.levelno == logging.ERROR]
        assert 1 <= len(said) <= 3  # by the one at its start and as the reason of the outage, by the other once
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
        redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    opened(redis_url).fence([key()], ENDED)


def test_status_tells_what_an_operator_asks(opened: Opener, redis_url: str) -> None:
    """Status gives fences, genesis, lifetime, stream, memory, replication, policy and version."""
    store = opened(redis_url)
    store.fence([key() for _ in range(10)], ENDED)
    status = store.status()
    assert status["fences"] == status["stream_length"] == 11  # the everything-fence is one
    assert status["lifetime"] == 3600
    assert abs(status["genesis"] - time.time()) < 10
    assert status["memory_bytes"] > 500
    assert status["role"] == "master"
    assert status["maxmemory_policy"] == "noeviction"
    assert status["server"].startswith(("Redis ", "Valkey "))
    assert status["followers"] == {}


@pytest.fixture
def restricted(redis_server: RedisServer) -> Iterator[Callable[..., None]]:
    """Makes the user of docs/operating-redis.md, with more or fewer rights, and takes it away after the test."""

    def make(mode: str, *more: str) -> None:
        redis_server.command(*documented_acl(mode, *more))

    yield make
    redis_server.command("ACL", "DELUSER", "rollsession")


def test_a_restricted_user_may_ask_for_the_status(
    opened: Opener, redis_url: str, redis_server: RedisServer, restricted: Callable[..., None]
) -> None:
    """The ACL of docs/operating-redis.md is enough for follow mode, and with what it names beside it for status."""
    restricted("follow", "+xlen", "+xrevrange", "+hgetall", "+memory|usage")
    store, session = opened(as_user(redis_url) + "?follow=1"), key()
    store.fence([session], ENDED)
    store.lookup([session])
    wait_until(lambda: time.monotonic() < store._follower.fresh_until)
    wait_until(lambda: store.status()["followers"])
    assert store.status()["memory_bytes"] > 0
    refused = [entry["object"] for entry in redis_server.client().acl_log()]
    assert not refused


#: What the store works without. Without each of the others it is unavailable.
OPTIONAL = {"+role", "+info", "+config|get", "+hset", "+hdel", "+hgetall"}


@pytest.mark.parametrize("word", [word for word in documented_acl("follow") if word.startswith("+")])
def test_no_right_is_superfluous(
    opened: Opener, redis_url: str, redis_server: RedisServer, restricted: Callable[..., None], word: str
) -> None:
    """Without any one of its rights the store does not work, or lacks what the documentation says."""
    redis_server.command("HSET", "rollsession:{0}:followers", "gone", '{"at": 0}')  # a process that has ended
    restricted("follow", "-" + word[1:].partition("|")[0])
    redis_server.command("ACL", "LOG", "RESET")
    store = opened(as_user(redis_url) + "?follow=1")
    failed = 0
    for act in (
        lambda: store.fence([key()], ENDED),
        lambda: store.lookup_now([key()]),
        lambda: store.fence([key()], 1),
    ):
        try:
            act()
        except StoreUnavailable:
            failed += 1
    store.lookup([EVERYTHING]) if not failed else None
    if word == "+config|get":
        return  # asked after a restart only: test_a_restart_is_trusted_where_writes_are_on_disk
    if word == "+eval":
        redis_server.command("SCRIPT", "FLUSH")
        with pytest.raises(StoreUnavailable):
            store.fence([key()], ENDED)
        return
    wait_until(lambda: redis_server.client().acl_log() or failed, what=f"{word} is asked for")
    if word in OPTIONAL:
        wait_until(lambda: is_fresh(store), what="it follows")
        assert not failed
    elif word == "+xread":
        time.sleep(1.0)
        assert not is_fresh(store)
        assert not failed
    else:
        assert failed


@pytest.mark.parametrize("how", ["forbidden", "unknown"])
@pytest.mark.parametrize("commands", ["INFO", "ROLE", "CONFIG", "MEMORY", "INFO ROLE CONFIG MEMORY"])
def test_what_it_works_without(opened: Opener, how: str, commands: str, caplog: pytest.LogCaptureFixture) -> None:
    """Commands that the user may not call, or that the server does not know, are done without; INFO is said, once."""
    options: dict[str, Any] = {}
    if how == "unknown":
        options["rename_command"] = "\nrename-command ".join(f'{command} ""' for command in commands.split())
    else:
        options["user"] = "default on nopass ~* &* +@all " + " ".join(f"-{word.lower()}" for word in commands.split())
    with running(RedisServer(**options)) as server:
        store, follower, session = opened(server.url), opened(server.url + "?follow=1"), key()
        store.fence([session], ENDED)
        for _ in range(3):
            assert list(store.lookup_now([session])) == [ENDED]
            time.sleep(0.5)
        assert not store.compare_and_raise([(session, 0)], [(session, 1)])
        follower.lookup([EVERYTHING])
        wait_until(lambda: is_fresh(follower) and list(follower.last_known([session])) == [ENDED])
        assert store.status()["fences"] >= 1
        (before,) = store.lookup_now([EVERYTHING])
        time.sleep(2.1)
        server.command("FLUSHALL")
        wait_until(lambda: store.lookup_now([EVERYTHING])[0] > before)
        wait_until(lambda: follower.last_known([EVERYTHING])[0] > before)
    said = [record.getMessage() for record in caplog.records if "does not permit INFO" in record.getMessage()]
    assert len(said) == (2 if "INFO" in commands else 0)  # once by each store
    assert "is unavailable" not in caplog.text


def test_wrong_password_is_an_outage(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """A server that refuses the password is unavailable, not a traceback of redis-py's."""
    redis_server.command("CONFIG", "SET", "requirepass", "hunter2")
    try:
        with pytest.raises(StoreUnavailable):
            opened(redis_url.replace("redis://", "redis://:wrong@")).lookup_now([EVERYTHING])
        opened(redis_url.replace("redis://", "redis://:hunter2@")).lookup_now([EVERYTHING])
    finally:
        with redis_server.client(password="hunter2") as client:
            client.config_set("requirepass", "")


# Transports


@pytest.mark.parametrize("name", [b"fence", b"lifetime", b"server", EVERYTHING])
def test_what_cannot_be_read_is_an_outage(
    opened: Opener, redis_url: str, redis_server: RedisServer, name: bytes
) -> None:
    """A number that is none, as another program may have put it there, is a store that is unavailable."""
    session = key()
    opened(redis_url).fence([session], ENDED)
    redis_server.command("SET", b"rollsession:{0}:" + (session if name == b"fence" else name), b"x")
    with pytest.raises(StoreUnavailable):
        opened(redis_url).lookup_now([EVERYTHING, session])


def test_unix_socket(opened: Opener, tmp_path: Path) -> None:
    """unix:// works as redis:// does."""
    path = tmp_path / "r.sock"
    with running(RedisServer(unixsocket=path)):
        store, session = opened(f"unix://{path}?follow=1"), key()
        store.fence([session], ENDED)
        assert list(store.lookup_now([session])) == [ENDED]


def _certificate(folder: Path) -> Path:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(__import__("ipaddress").ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(private, hashes.SHA256())
    )
    path = folder / "tls.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        certificate.public_bytes(pem)
        + private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_tls(opened: Opener, redis_url: str, redis_server: RedisServer, tmp_path: Path) -> None:
    """rediss:// verifies the server's certificate, also in follow mode, and refuses one that it does not know.

    The server's end of TLS is the test's proxy: not every redis-server is built with TLS.
    """
    pem = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with running(Proxy(redis_server.port, tls=context)) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}"
        store, session = opened(f"{url}?ssl_ca_certs={pem}&follow=1"), key()
        store.fence([session], ENDED)
        opened(redis_url).fence([other := key()], ENDED)
        store.lookup([EVERYTHING])
        wait_until(lambda: list(store.last_known([session, other])) == [ENDED, ENDED])
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            opened(url).lookup_now([EVERYTHING])


# Threads and processes


def test_threads_do_not_wait_for_each_other(opened: Opener, redis_url: str, proxy: Proxy) -> None:
    """Sixteen threads on a server that hangs all fail within the bound, and then at once."""
    store = opened(proxy.url)
    store.lookup_now([EVERYTHING])
    proxy.stalled = True
    seconds: list[float] = []

    def run() -> None:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.lookup_now([EVERYTHING])
        seconds.append(time.monotonic() - begun)

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seconds) == 16
    assert max(seconds) < BOUND
    begun = time.monotonic()
    failures = 0
    for _ in range(200):
        with contextlib.suppress(StoreUnavailable):
            store.lookup_now([EVERYTHING])
            continue
        failures += 1
    assert failures == 200
    assert time.monotonic() - begun < BOUND  # one of them may have tried the server, the others did not
    proxy.stalled = False
    wait_until(lambda: answers(store))


def _child(store: RedisRevocations, session: bytes, pipe: object) -> None:
    store.fence([session], ENDED)
    pipe.send(list(store.lookup_now([session, EVERYTHING])))  # type: ignore[attr-defined]
    os._exit(0)


@pytest.mark.parametrize("follow", ["", "?follow=1"])
def test_fork(opened: Opener, redis_url: str, follow: str) -> None:
    """A store that was used before a fork (gunicorn --preload) works in the child and goes on in the parent."""
    store = opened(redis_url + follow)
    session = key()
    everything = list(store.lookup([EVERYTHING]))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    children = [context.Process(target=_child, args=(store, session, there)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(50):
        assert list(store.lookup_now([EVERYTHING])) == everything
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    for _ in children:
        assert here.recv() == [ENDED, *everything]
    assert list(store.lookup_now([session])) == [ENDED]


# Broken connections (the outages themselves are in tests/faults)


def test_a_dead_pooled_connection_is_replaced_at_once(opened: Opener, redis_url: str, proxy: Proxy) -> None:
    """A connection that the server closed while it was idle costs no failure, whatever is asked next."""
    store, session = opened(proxy.url), key()
    for act in (
        lambda: store.lookup_now([session]),
        lambda: store.fence([session], 1),
        lambda: store.fence_now([key()]),
        lambda: store.compare_and_raise([(session, 1)], [(session, 2)]),
    ):
        act()
        proxy.cut()
        time.sleep(0.05)
        act() if act is not None else None
    # The second raise from 1 was refused, by its number and not by an error.
    assert list(store.lookup_now([session])) == [2]


def test_a_reply_cut_in_the_middle(opened: Opener, redis_url: str, proxy: Proxy) -> None:
    """A question is asked again on a fresh connection; a conditional raise is not, for it may have happened."""
    store, session = opened(proxy.url), key()
    store.fence([session], 7)
    fresh = opened(redis_url)
    for size in (0, 1, 3, 9):
        proxy.cut_replies_after = size
        assert next(iter(store.lookup_now([session, EVERYTHING]))) == 7
        assert proxy.cut_replies_after is None
    proxy.cut_replies_after = 3
    store.fence([session], 8)
    assert list(fresh.lookup_now([session])) == [8]
    proxy.cut_replies_after = 3
    with pytest.raises(StoreUnavailable):
        store.compare_and_raise([(session, 8)], [(session, 9)])
    assert list(fresh.lookup_now([session])) == [9]


def test_what_may_be_repeated(opened: Opener, redis_url: str, proxy: Proxy) -> None:
    """A raise without limits, or with those that it does not exceed itself, is asked again on a fresh connection."""
    store, session, other = opened(proxy.url), key(), key()
    store.fence([session], 7)
    proxy.cut_replies_after = 3
    assert store.compare_and_raise([], [(session, 8)]) is True
    proxy.cut_replies_after = 3
    assert store.compare_and_raise([(session, 8)], [(session, 8), (other, 1)]) is True
    assert list(opened(redis_url).lookup_now([session, other])) == [8, 1]


def test_a_write_that_the_server_refuses_is_not_an_outage(
    opened: Opener, redis_url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of memory: logouts fail with the server's words, logged once; questions are answered all the while."""
    store, session = opened(redis_url), key()
    store.fence([session], ENDED)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                store.fence([key()], ENDED)
            assert list(store.lookup_now([session])) == [ENDED]
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    store.fence([key()], ENDED)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("is unavailable" in line for line in lines) == 1
    assert sum("is available again" in line for line in lines) == 1


def test_wait_without_replicas_is_an_error(opened: Opener, redis_url: str) -> None:
    """wait=1 on a server without replicas: the logout raises, although the fence is there: it may have happened."""
    store, session = opened(redis_url + "?wait=1"), key()
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        store.fence([session], ENDED)
    assert list(store.lookup_now([session])) == [ENDED]


def test_a_replica_is_refused(opened: Opener, redis_url: str, redis_server: RedisServer) -> None:
    """A URL that leads to a read-only replica is an outage: what a replica says may be old."""
    with running(RedisServer(replicaof=f"127.0.0.1 {redis_server.port}")) as replica:
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            opened(replica.url).lookup_now([EVERYTHING])


def test_a_demoted_primary_is_noticed(opened: Opener, redis_server: RedisServer) -> None:
    """A primary that is made a replica under open connections is distrusted within about a second."""
    with running(RedisServer()) as demoted:
        store = opened(demoted.url)
        store.lookup_now([EVERYTHING])
        demoted.command("REPLICAOF", "127.0.0.1", redis_server.port)
        wait_until(lambda: not answers(store), 10, "the replica is refused")
        with pytest.raises(StoreUnavailable):
            store.fence([key()], ENDED)


def test_closing_twice_is_harmless(opened: Opener, redis_url: str) -> None:
    """close() may be called again, and a store that was never used closes as well."""
    for url in (redis_url, redis_url + "?follow=1"):
        opened(url).close()
        store = opened(url)
        store.lookup([EVERYTHING])
        store.close()
        store.close()


# The contract of every store


class TestContract(SharedRevocationContract):
    """Redis, asked directly, keeps the contract of every store."""

    @pytest.fixture
    def open_store(self, redis_url: str) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(redis_url, options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


class TestFollowContract(SharedRevocationContract):
    """Redis in follow mode keeps the contract of every store."""

    @pytest.fixture
    def open_store(self, redis_url: str) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(redis_url + "?follow=1", options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


class TestContractOfARestrictedUser(SharedRevocationContract):
    """With the rights that docs/operating-redis.md prints, and no more, the contract is kept."""

    @pytest.fixture(params=["direct", "follow"])
    def open_store(
        self, request: pytest.FixtureRequest, redis_url: str, restricted: Callable[..., None]
    ) -> Callable[[StoreOptions], Revocations]:
        restricted(request.param, "+xlen")  # for the status
        url = as_user(redis_url) + ("?follow=1" if request.param == "follow" else "")
        return lambda options: open_store(url, options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


@pytest.mark.parametrize(
    ("options", "trusted"),
    [
        ({"appendfsync": "always"}, True),
        ({"appendfsync": "everysec"}, False),
        ({"appendfsync": "always", "no_appendfsync_on_rewrite": "yes"}, False),
        ({"appendfsync": "always", "user": "blind on >hunter2 ~* &* +@all -config"}, False),
        ({"appendfsync": "always", "appendonly": "no"}, False),
    ],
    ids=["always", "everysec", "not while it rewrites", "may not be asked", "no file"],
)
def test_a_restart_is_trusted_where_writes_are_on_disk(opened: Opener, options: dict[str, str], trusted: bool) -> None:
    """A restarted server may have forgotten what it confirmed, unless it is known to write before it answers."""
    with running(RedisServer(**{"appendonly": "yes", **options})) as server:
        url = server.url.replace("redis://", "redis://blind:hunter2@") if "user" in options else server.url
        store = opened(url)
        (genesis,) = store.lookup_now([EVERYTHING])
        if not trusted:
            time.sleep(2.1)  # the genesis of a set that is found empty within two seconds may be the same number
        server.kill()
        server.start()
        assert (store.lookup_now([EVERYTHING])[0] == genesis) is trusted


def test_a_restart_while_an_answer_was_waiting(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process is held up between an answer and taking it, contact was when it asked: a restart is noticed."""
    with running(RedisServer(appendonly="yes", appendfsync="everysec")) as server:
        store = opened(server.url)
        (genesis,) = store.lookup_now([EVERYTHING])
        link: Any = store._shards.link
        exchange = link.exchange

        def held_up(*args: Any, **options: Any) -> Any:
            answer = exchange(*args, **options)
            monkeypatch.undo()
            server.kill()
            server.start()
            time.sleep(3)
            return answer

        monkeypatch.setattr(link, "exchange", held_up)
        store.lookup_now([EVERYTHING])
        assert store.lookup_now([EVERYTHING])[0] > genesis


def test_threads_that_ask_sentinels_lose_none() -> None:
    """A Sentinel that fails is asked last from now on, and all of them stay, however many threads ask at once."""
    barrier = threading.Barrier(2)

    class Asked:
        def __init__(self, name: str) -> None:
            self.name = name

        def exchange(self, *_: Any, **__: Any) -> Any:
            if self.name == "down":
                barrier.wait(10)
                raise redis.ConnectionError("down")
            return [[b"ip", b"127.0.0.1", b"port", b"1", b"flags", b"master"]], None

    link: Any = SentinelLink(parse("redis+sentinel://127.0.0.1:1/mymaster"), lambda channel, until: None)
    link._sentinels = [Asked("down"), Asked("b"), Asked("c")]
    threads = [threading.Thread(target=link.find, args=(time.monotonic() + 10,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [each.name for each in link._sentinels] == ["b", "c", "down"]
