"""Connections to the nodes of a Redis cluster, and who of them holds which shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from redis import cluster as clusters
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisClusterException, TryAgainError

from .redis_link import Answer, Command, Connection, Greet, Info, NodeLink, make_connection, redis_options, tls_options
from .redis_url import RedisAddress

#: Hash-tagged groups of keys in a cluster: {0} to {7}. A script touches one of them, and so one slot.
CLUSTER_SHARDS = 8
#: How often a command follows a cluster's redirections, and seconds between tries while a slot is being moved.
_REDIRECTIONS = 5
_TRY_AGAIN_PAUSE = 0.02

# redis-py has no types for these.
_cluster_node: Any = clusters.ClusterNode
# In redis-py 5 only this parser knows a cluster's redirections; later all do, and it is gone.
_redirections: Any = {"parser_class": clusters.ClusterParser} if hasattr(clusters, "ClusterParser") else {}


def _redirection(answer: Answer) -> redis.RedisError | None:
    kinds = AskError, MovedError, TryAgainError
    return next((reply for reply in answer[0] if isinstance(reply, kinds)), None)


class ClusterLink:
    """The nodes of a cluster, each with its own idle connections."""

    shards = CLUSTER_SHARDS

    def __init__(self, address: RedisAddress, greet: Greet) -> None:
        self._address = address
        self._greet = greet
        self._nodes: dict[tuple[str, int], NodeLink] = {}
        self._owners: list[tuple[str, int]] | None = None
        self._cluster: Any = None

    def exchange(self, shard: int, commands: Sequence[Command], *, retry: bool) -> Answer:
        answer: Answer = [], {}
        for attempt in range(_REDIRECTIONS):
            owner = self._owner(shard)
            try:
                answer = self._node(owner).exchange(shard, commands, retry=retry)
            except redis.TimeoutError:
                self.forget()
                raise
            except (redis.ConnectionError, OSError):
                self.forget()  # a replica may have been promoted meanwhile
                if not retry or attempt or self._owner(shard) == owner:
                    raise
                continue
            # A redirected command was not carried out, and the others name no key: all of them are sent again.
            if isinstance(error := _redirection(answer), AskError):
                answer = self._ask_importing_node(shard, error, commands, retry)
                error = _redirection(answer)
            if error is None:
                if any(isinstance(reply, (redis.ReadOnlyError, ClusterDownError)) for reply in answer[0]):
                    self.forget()
                return answer
            if isinstance(error, TryAgainError):  # the keys are on both nodes at the moment
                time.sleep(_TRY_AGAIN_PAUSE)
            else:
                self.forget()
        return answer

    def _ask_importing_node(self, shard: int, error: AskError, commands: Sequence[Command], retry: bool) -> Answer:
        asking: list[Command] = []
        for command in commands:
            asking += [("ASKING",), command]
        replies, info = self._node((error.host, error.port)).exchange(shard, asking, retry=retry)
        return replies[1::2], info

    def open(self, shard: int) -> tuple[Connection, Info]:
        try:
            return self._node(self._owner(shard)).open(shard)
        except (redis.RedisError, OSError):
            self._owners = None
            raise

    def is_current(self, connection: Connection) -> bool:
        return True  # the nodes tell each other, and answer with a redirection

    def forget(self) -> None:
        self._owners = None

    def _node(self, owner: tuple[str, int]) -> NodeLink:
        node = self._nodes.get(owner)
        if node is None:
            node = NodeLink(lambda: make_connection(self._address, *owner, **_redirections), self._greet)
            node = self._nodes.setdefault(owner, node)
        return node

    def _owner(self, shard: int) -> tuple[str, int]:
        owners = self._owners
        if owners is None:
            owners = self._owners = self._discover()
        return owners[shard]

    def _discover(self) -> list[tuple[str, int]]:
        """Ask the cluster who holds which shard."""
        try:
            return self._ask_topology()
        except RedisClusterException as error:  # not a redis.RedisError, for once
            raise redis.ConnectionError(str(error)) from error

    def _ask_topology(self) -> list[tuple[str, int]]:
        if self._cluster is None:
            nodes = [_cluster_node(host, port) for host, port in self._address.hosts]
            options = redis_options(self._address.connection, **tls_options(self._address))
            self._cluster = redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
        else:
            self._cluster.nodes_manager.initialize()
        owners = []
        for shard in range(self.shards):
            node = self._cluster.nodes_manager.get_node_from_slot(self._cluster.keyslot(f"{{{shard}}}"))
            owners.append((node.host, int(node.port)))
        return owners

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()
        if self._cluster is not None:
            self._cluster.close()
