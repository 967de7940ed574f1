"""A cluster of three primaries with a replica each: moving slots, and losing a primary, under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis.crc import key_slot

from tests.faults.load import Load, kept
from tests.servers import ClusterGroup, running, wait_until
from wsgi_rollsession.revocation.redis.cluster import CLUSTER_SHARDS

STORE = "Redis Cluster (three primaries, a replica each)"
KEPT = "with wait=1, no confirmed logout is forgotten; nobody else is logged out"

Report = Callable[..., None]


@pytest.fixture
def cluster() -> Iterator[ClusterGroup]:
    with running(ClusterGroup(replicas=1)) as group:
        yield group


def test_slots_move(cluster: ClusterGroup, report: Report) -> None:
    """Every shard is moved to another node, key by key, while it is in use."""
    with Load(cluster.url + "?wait=1") as load:
        for shard in range(CLUSTER_SHARDS):
            slot = key_slot(f"{{{shard}}}".encode())
            source = cluster.owner(slot)
            target = cluster.primaries[(cluster.primaries.index(source) + 1) % 3]
            cluster.migrate(slot, target, pause=0.005)
            assert cluster.owner(slot) is target
    kept(load)
    report(store=STORE, fault="all slots in use are moved to other nodes", promise=KEPT, observed=load.observed())


def test_a_primary_dies(cluster: ClusterGroup, report: Report) -> None:
    """kill -9 of a primary: its replica takes over with every confirmed fence, and the other shards go on."""
    slot = key_slot(b"{0}")
    with Load(cluster.url + "?wait=1") as load:
        old = cluster.owner(slot)
        old.kill()
        wait_until(lambda: cluster.owner(slot) not in (None, old), 40, "a new owner")
    kept(load)
    report(store=STORE, fault="kill -9 of a primary, fail-over", promise=KEPT, observed=load.observed())
