"""The nodes of a Redis cluster, and who of them holds which shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import monotonic
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from . import wire
from .address import CONNECT_TIMEOUT, RedisAddress
from .node import Answer, Greet, Node
from .wire import FAILURES, Channel, Command

#: Hash-tagged groups of keys in a cluster: {0} to {7}. A script touches one of them, and so one slot.
CLUSTER_SHARDS = 8
#: How often a command follows a cluster's redirections, and seconds between tries while a slot is being moved.
_REDIRECTIONS = 5
_TRY_AGAIN_PAUSE = 0.02
#: Seconds that one node has to say who holds which shard, connecting included, before the next one is asked.
NODE_TIMEOUT = CONNECT_TIMEOUT

_Place = tuple[str, int]


class ClusterLink:
    """The nodes of a cluster, each with its own connections."""

    shards = CLUSTER_SHARDS

    def __init__(self, address: RedisAddress, greet: Greet) -> None:
        self._address = address
        self._greet = greet
        self._nodes: dict[_Place, Node] = {}
        #: Who is asked for the owners: also a replica may be, so these are greeted by nobody.
        self._guides: dict[_Place, Node] = {}
        self._places: list[_Place] = list(address.hosts)
        self._owners: list[_Place] | None = None

    def exchange(self, shard: int, commands: Sequence[Command], until: float, *, retry: bool) -> Answer:
        for attempt in range(_REDIRECTIONS):
            owner = self._owner(shard, until)
            try:
                answer = self._node(owner).exchange(shard, commands, until, retry=retry)
            except redis.TimeoutError:
                self.forget()
                raise
            except (redis.ConnectionError, OSError):
                self.forget()  # a replica may have been promoted meanwhile
                if not retry or attempt or self._owner(shard, until) == owner:
                    raise
                continue
            # A redirected command was not carried out, and the others name no key: all of them are sent again.
            error = _redirection(answer)
            if isinstance(error, AskError):
                if isinstance(error, MovedError):
                    self.forget()
                answer = self._ask_named_node(shard, error, commands, until, retry)
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

    def _ask_named_node(
        self, shard: int, error: AskError, commands: Sequence[Command], until: float, retry: bool
    ) -> Answer:
        asking: list[Command] = []
        for command in commands:
            asking += [("ASKING",), command]
        replies, channel = self._node((error.host, error.port)).exchange(shard, asking, until, retry=retry)
        return replies[1::2], channel

    def open(self, shard: int, until: float) -> Channel:
        try:
            return self._node(self._owner(shard, until)).open(shard, until)
        except FAILURES:
            self._owners = None
            raise

    def is_current(self, channel: Channel, until: float) -> bool:
        return True  # the nodes tell each other, and answer with a redirection

    def forget(self) -> None:
        self._owners = None

    def _node(self, place: _Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            node = Node(lambda until: wire.make(self._address, *place), self._greet, self._address.max_connections)
            node = self._nodes.setdefault(place, node)
        return node

    def _guide(self, place: _Place) -> Node:
        guide = self._guides.get(place)
        if guide is None:
            guide = Node(
                lambda until: wire.make(self._address, *place),
                lambda channel, until: None,
                self._address.max_connections,
            )
            guide = self._guides.setdefault(place, guide)
        return guide

    def _owner(self, shard: int, until: float) -> _Place:
        owners = self._owners
        if owners is None:
            owners = self._owners = self._discover(until)
        return owners[shard]

    def _discover(self, until: float) -> list[_Place]:
        """Ask one node after the other who holds which shard. One that fails is asked last from now on."""
        failure: Exception = redis.ConnectionError("no node of the cluster says who holds the slots")
        for place in self._places:
            question = ("CLUSTER", "SLOTS")
            try:
                (reply,), _ = self._guide(place).exchange(
                    0, [question], min(until, monotonic() + NODE_TIMEOUT), retry=True
                )
                owners = _owners(reply, place[0])
            except FAILURES as error:
                failure = error
                self._places = [*(each for each in self._places if each != place), place]
                continue
            self._places = list(dict.fromkeys([*self._places, *owners]))
            return owners
        raise failure

    def close(self) -> None:
        for node in [*self._nodes.values(), *self._guides.values()]:
            node.close()


def _owners(slots: Any, asked: str) -> list[_Place]:
    """The owner of each shard, by the reply to CLUSTER SLOTS of the node at *asked*, who may not know its own name."""
    if isinstance(slots, Exception):
        raise slots
    found: dict[int, _Place] = {}
    wanted = {shard: key_slot(f"{{{shard}}}".encode()) for shard in range(CLUSTER_SHARDS)}
    for first, last, (host, port, *_), *_ in slots:
        for shard, slot in wanted.items():
            if first <= slot <= last:
                found[shard] = (host or b"").decode() or asked, int(port)
    if missing := wanted.keys() - found.keys():
        raise redis.ConnectionError(f"no node of the cluster holds slot {wanted[min(missing)]}")
    return [found[shard] for shard in range(CLUSTER_SHARDS)]


def _redirection(answer: Answer) -> redis.RedisError | None:
    kinds = AskError, MovedError, TryAgainError
    return next((reply for reply in answer[0] if isinstance(reply, kinds)), None)
