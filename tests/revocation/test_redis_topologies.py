"""Sentinel and Cluster: the contract, and what is particular to each. Their failures are in tests/faults."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.servers import (
    HOUR,
    ClusterGroup,
    Opener,
    SentinelGroup,
    as_user,
    documented_acl,
    kept_in_redis,
    running,
    wait_until,
)
from wsgi_rollsession.errors import StoreUnavailable
from wsgi_rollsession.revocation import Revocations, StoreOptions, open_store
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis.address import CALL_TIMEOUT
from wsgi_rollsession.revocation.redis.cluster import CLUSTER_SHARDS
from wsgi_rollsession.revocation.redis.sentinel import PRIMARY_CHECK, SENTINEL_TIMEOUT
from wsgi_rollsession.testing.stores import KeptUntil, SharedRevocationContract


def key(shard: int | None = None) -> bytes:
    word = os.urandom(16)
    return word if shard is None else bytes([shard]) + word[1:]


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelGroup]:
    with running(SentinelGroup()) as group:
        yield group


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterGroup]:
    with running(ClusterGroup()) as group:
        yield group


@pytest.fixture
def sentinel_url(sentinels: SentinelGroup) -> str:
    """The group's URL; its data is gone."""
    sentinels.primary.command("FLUSHALL")
    return sentinels.url


@pytest.fixture
def cluster_url(cluster: ClusterGroup) -> str:
    """The cluster's URL; its data is gone."""
    for server in cluster.primaries:
        server.command("FLUSHALL")
    return cluster.url


class TestSentinelContract(SharedRevocationContract):
    """The primary that Sentinels name keeps the contract, with every raise confirmed by both replicas."""

    @pytest.fixture
    def open_store(self, sentinel_url: str) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(sentinel_url + "?wait=2", options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


class TestClusterContract(SharedRevocationContract):
    """A cluster keeps the contract, asked directly."""

    @pytest.fixture
    def open_store(self, cluster_url: str) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(cluster_url, options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


class TestClusterFollowContract(SharedRevocationContract):
    """A cluster keeps the contract, followed."""

    @pytest.fixture
    def open_store(self, cluster_url: str) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(cluster_url + "?follow=1", options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


class TestRestrictedClusterContract(SharedRevocationContract):
    """A cluster's nodes, whose user has the rights that docs/operating-redis.md prints, keep the contract, followed."""

    @pytest.fixture
    def open_store(self, cluster: ClusterGroup, cluster_url: str) -> Iterator[Callable[[StoreOptions], Revocations]]:
        for server in cluster.primaries:
            server.command(*documented_acl("cluster", "+xlen"))
        yield lambda options: open_store(as_user(cluster_url) + "?follow=1", options)
        for server in cluster.primaries:
            server.command("ACL", "DELUSER", "rollsession")

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_redis


def test_restricted_users_of_sentinels(sentinels: SentinelGroup, sentinel_url: str, opened: Opener) -> None:
    """With the documented rights, at the servers and at the Sentinels, a store finds the primary and has its replicas
    confirm."""
    for server in sentinels.servers:
        server.command(*documented_acl("follow", "+wait"))
    for sentinel in sentinels.sentinels:
        sentinel.command("ACL", "SETUSER", "watcher", "ON", ">hunter3", "-@all", "+sentinel|master")
    try:
        url = as_user(sentinel_url) + "?sentinel_username=watcher&sentinel_password=hunter3&wait=2&follow=1"
        store, session = opened(url), key()
        store.fence([session], ENDED)
        store.lookup([session])
        wait_until(lambda: time.monotonic() < store._follower.fresh_until)
        assert list(store.lookup([session])) == [ENDED]
    finally:
        for server in sentinels.servers:
            server.command("ACL", "DELUSER", "rollsession")
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "DELUSER", "watcher")


def test_one_sentinel_is_enough(sentinels: SentinelGroup, sentinel_url: str, opened: Opener) -> None:
    """Sentinels that are away are passed over, within the time bound."""
    hosts, _, service = sentinel_url.removeprefix("redis+sentinel://").partition("/")
    store = opened(f"redis+sentinel://127.0.0.1:1,{hosts.split(',')[0]}/{service}")
    store.fence([key()], ENDED)
    with pytest.raises(StoreUnavailable):
        opened(f"redis+sentinel://127.0.0.1:1/{service}").lookup_now([EVERYTHING])
    with pytest.raises(StoreUnavailable):
        opened(sentinel_url + "x").lookup_now([EVERYTHING])


def test_sentinels_that_hang_are_asked_seldom(sentinels: SentinelGroup, sentinel_url: str, opened: Opener) -> None:
    """A connected process goes on without Sentinels: a call now and then waits for them, for a part of its time."""
    store = opened(sentinel_url)
    store.lookup_now([EVERYTHING])
    for sentinel in sentinels.sentinels:
        sentinel.suspend()
    try:
        time.sleep(PRIMARY_CHECK)
        took = []
        while sum(took) < 4.0:
            begun = time.monotonic()
            store.fence([key()], ENDED)
            took.append(time.monotonic() - begun)
        assert max(took) < CALL_TIMEOUT + 2.0
        assert 1 <= sum(each > 0.9 * SENTINEL_TIMEOUT for each in took) <= 3
    finally:
        for sentinel in sentinels.sentinels:
            sentinel.resume()


def test_wait_counts_replicas(sentinels: SentinelGroup, sentinel_url: str, opened: Opener) -> None:
    """wait=2 succeeds with two replicas; with one of them hanging it raises, and says that it may have happened."""
    store, session = opened(sentinel_url + "?wait=2"), key()
    store.fence([session], ENDED)
    replica = sentinels.replicas[0]
    replica.suspend()
    try:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="1 of 2 replicas"):
            store.fence([key()], ENDED)
        assert time.monotonic() - begun < 3
        opened(sentinel_url + "?wait=1").fence([key()], ENDED)
    finally:
        replica.resume()
    wait_until(lambda: sentinels.replicas[0].client().info("replication")["master_link_status"] == "up", 30)
    for each in sentinels.replicas:
        assert each.client().get(b"rollsession:{0}:" + session) == str(ENDED).encode()


def test_a_script_touches_one_slot(cluster: ClusterGroup, cluster_url: str, opened: Opener) -> None:
    """Keys of all shards can be raised and asked for together, and every node holds some of them."""
    store = opened(cluster_url)
    sessions = [key(shard) for shard in range(CLUSTER_SHARDS)]
    store.fence(sessions, ENDED)
    number = store.fence_now([key(shard) for shard in range(CLUSTER_SHARDS)])
    assert number > time.time()
    assert list(store.lookup_now([*sessions, EVERYTHING]))[:-1] == [ENDED] * CLUSTER_SHARDS
    assert all(server.command("DBSIZE") for server in cluster.primaries)


def test_compare_and_raise_in_several_shards(cluster_url: str, opened: Opener) -> None:
    """A limit that is exceeded in any shard keeps every shard from being raised, whichever the deciding one is."""
    store = opened(cluster_url)
    own, other, third = key(1), key(2), key(3)
    store.fence([own, other], 5)
    fresh = opened(cluster_url)
    (everything,) = fresh.lookup_now([EVERYTHING])
    for limits in ([(own, 4), (other, 5)], [(own, 5), (other, 4)], [(EVERYTHING, everything - 1), (own, 5)]):
        assert opened(cluster_url).compare_and_raise(limits, [(own, 6), (third, 7)]) is False
        assert list(fresh.lookup_now([own, other, third])) == [5, 5, 0]
    limits = [(EVERYTHING, everything), (own, 5), (other, 5)]
    assert opened(cluster_url).compare_and_raise(limits, [(own, 6), (third, 7)]) is True
    assert list(fresh.lookup_now([own, other, third])) == [6, 5, 7]


def test_one_of_many_instances_decides_for_several_shards(cluster_url: str, opened: Opener) -> None:
    """Of instances that raise from the same number at once, the shard of the first raise lets exactly one do so."""
    stores = [opened(cluster_url) for _ in range(4)]
    own, others = key(1), [key(shard) for shard in range(4)]
    barrier = threading.Barrier(4)

    def attempt(each: int) -> bool:
        barrier.wait()
        return stores[each].compare_and_raise([(own, 0)], [(own, 1), (others[each], ENDED)])

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(attempt, range(4)))
    assert sorted(done) == [False, False, False, True]
    assert list(opened(cluster_url).lookup_now(others)) == [ENDED if each else 0 for each in done]


def test_everything_raised_by_compare_and_raise_is_in_every_shard(cluster_url: str, opened: Opener) -> None:
    """``EVERYTHING`` among the raises is raised in every shard, and this process knows it of every one."""
    store = opened(cluster_url)
    number = store.lookup_now([EVERYTHING])[0] + 1
    assert store.compare_and_raise([(EVERYTHING, number - 1)], [(EVERYTHING, number)]) is True
    for shard in range(CLUSTER_SHARDS):
        assert list(opened(cluster_url).lookup_now([EVERYTHING, key(shard)])) == [number, 0]
        assert list(store.last_known([EVERYTHING, key(shard)])) == [number, 0]


def test_everything_is_raised_in_every_shard(cluster_url: str, opened: Opener) -> None:
    """A session is asked about in its shard only, so revoking everything reaches all before it returns."""
    store = opened(cluster_url)
    number = store.fence_now([EVERYTHING])
    for shard in range(CLUSTER_SHARDS):
        assert list(opened(cluster_url).lookup_now([EVERYTHING, key(shard)])) == [number, 0]


def test_fence_now_goes_past_what_any_shard_holds(cluster_url: str, opened: Opener) -> None:
    """A key of one shard whose number has run ahead is raised too when it is revoked with a key of another shard.

    A session begins, and passes the number of its tag in shard 5; a revocation of that tag and one in shard 2, whose
    number is smaller, asks shard 2 first.
    """
    store, first, second = opened(cluster_url), key(2), key(5)
    passed = [store.fence_now([second]) for _ in range(3)][-1]
    number = store.fence_now([first, second])
    assert number > passed
    assert list(store.lookup_now([first, second])) == [number, number]


@pytest.mark.parametrize("nodes", [1, 2])
def test_nodes_that_hang_hold_the_first_call_no_longer(nodes: int, opened: Opener) -> None:
    """The first call of a process waits once for each node that hangs, not once more for each shard."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(nodes)]
        hosts = ",".join(f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners)
        store = opened(f"redis+cluster://{hosts}")
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.lookup_now([EVERYTHING, key()])
        assert time.monotonic() - begun < CALL_TIMEOUT + 1.0


def test_every_shard_is_told_the_lifetime(cluster: ClusterGroup, cluster_url: str, opened: Opener) -> None:
    """The first question tells the lifetime to shards that it does not ask, for others revoke there."""
    opened(cluster_url).lookup_now([EVERYTHING, key(3)])
    with contextlib.closing(redis.RedisCluster("127.0.0.1", cluster.primaries[0].port)) as client:
        for shard in range(CLUSTER_SHARDS):
            assert client.get(f"rollsession:{{{shard}}}:lifetime") == str(HOUR.lifetime_ms).encode()


def test_a_shard_that_lost_its_data_is_noticed(cluster: ClusterGroup, cluster_url: str, opened: Opener) -> None:
    """When one primary is emptied, sessions whose fences were there are refused, and the others go on."""
    store = opened(cluster_url)
    before = [store.lookup_now([EVERYTHING, key(shard)])[0] for shard in range(CLUSTER_SHARDS)]
    time.sleep(2.1)  # a genesis is odd: those of two seconds may be one number
    cluster.primaries[0].command("FLUSHALL")
    fresh = [opened(cluster_url).lookup_now([EVERYTHING, key(shard)])[0] for shard in range(CLUSTER_SHARDS)]
    changed = [now > then for now, then in zip(fresh, before, strict=True)]
    assert any(changed)
    assert not all(changed)


def test_one_thread_follows_all_shards(cluster_url: str, opened: Opener) -> None:
    """A process that follows a cluster has one thread, and hears of raises in every shard."""
    follower, writer = opened(cluster_url + "?follow=1"), opened(cluster_url)
    follower.lookup([EVERYTHING])
    wait_until(lambda: time.monotonic() < follower._follower.fresh_until)
    assert sum(thread.name == "rollsession-follower" for thread in threading.enumerate()) == 1
    sessions = [key(shard) for shard in range(CLUSTER_SHARDS)]
    writer.fence(sessions, ENDED)
    wait_until(lambda: list(follower.lookup(sessions)) == [ENDED] * CLUSTER_SHARDS)
    number = writer.fence_now([EVERYTHING])
    wait_until(lambda: list(follower.lookup([EVERYTHING])) == [number])
    status = wait_until(lambda: (s := writer.status())["followers"] and s)
    assert status["shards"] == CLUSTER_SHARDS
