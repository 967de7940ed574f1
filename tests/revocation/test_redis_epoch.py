"""``Epoch``: whether the data in Redis are still the same, as a table. What each row plays is in tests/faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS
from wsgi_rollsession.revocation.redis.epoch import (
    EMPTY,
    EVICTED,
    LOST,
    RESTARTED,
    Act,
    Epoch,
    Record,
    Server,
    Sighting,
)

LIFETIME = 3_600_000
KNOWN = 1001  # the everything-fence when the data were last seen
#: The server that the data were last seen in, and what they say of it.
FIRST = Server(run_id=b"run1", replid=b"history1", aof=True)
RECORD = Record.of(FIRST, b"word")
#: Others, in which they are found.
RESTARTED_ONE = Server(run_id=b"run2", replid=b"history2", aof=True)
FROM_A_SNAPSHOT_OF_REDIS_7 = replace(RESTARTED_ONE, replid2=b"history1")
PROMOTED = replace(FROM_A_SNAPSHOT_OF_REDIS_7, replicated=True)
PROMOTED_LATER = replace(PROMOTED, replid2=b"history1b")
NODE = replace(FIRST, node=b"node1")
NODE_AGAIN = replace(NODE, run_id=b"run2")
NODE_PROMOTED = Server(run_id=b"run2", replid=b"history2", replid2=b"history1", node=b"node2")
NOTHING = {"everything": None, "lifetime": None, "record": None}
OTHER_NODE = Server(run_id=b"run2", replid=b"history2", node=b"node2")


def seen(**changes: Any) -> Sighting:
    """What is seen when all is well, with *changes*."""
    return replace(Sighting(everything=KNOWN, lifetime=LIFETIME, record=RECORD, server=FIRST), **changes)


def epoch(known: bool = True, **options: Any) -> Epoch:
    """One that has seen the data before, or nothing yet."""
    one = Epoch(LIFETIME, **options)
    if known:
        one.accept(KNOWN, b"word")
    return one


@pytest.mark.parametrize("known", [True, False], ids=["a process that knows", "a new process"])
@pytest.mark.parametrize(
    ("changes", "acts", "why"),
    [
        ({}, [], ""),
        ({"lifetime": LIFETIME * 2}, [], ""),
        ({"lifetime": LIFETIME - 1}, [Act.ANNOUNCE], ""),
        ({"lifetime": None}, [Act.ANNOUNCE], ""),
        ({"server": Server()}, [], ""),
        ({"server": replace(FIRST, replid=b"history1b")}, [Act.ADOPT], ""),
        ({"server": RESTARTED_ONE}, [Act.DISTRUST, Act.ADOPT], RESTARTED),
        ({"server": RESTARTED_ONE, "durable": True}, [Act.ADOPT], ""),
        ({"server": FROM_A_SNAPSHOT_OF_REDIS_7}, [Act.DISTRUST, Act.ADOPT], RESTARTED),
        ({"server": PROMOTED}, [Act.ADOPT], ""),
        ({"server": PROMOTED_LATER}, [Act.DISTRUST, Act.ADOPT], RESTARTED),
        ({"server": replace(FIRST, evicted=3)}, [Act.DISTRUST, Act.ADOPT], EVICTED.format(3)),
        ({"server": replace(PROMOTED, evicted=3)}, [Act.ADOPT], ""),
        ({"server": FIRST, "record": replace(RECORD, evicted=3)}, [Act.ADOPT], ""),
        ({"server": OTHER_NODE, "record": Record.of(NODE, b"word")}, [Act.ADOPT], ""),
        (
            {"server": replace(NODE, run_id=b"run2"), "record": Record.of(NODE, b"word")},
            [Act.DISTRUST, Act.ADOPT],
            RESTARTED,
        ),
        (
            {"server": replace(OTHER_NODE, replid2=b"history1"), "record": Record.of(NODE, b"word")},
            [Act.DISTRUST, Act.ADOPT],
            RESTARTED,
        ),
    ],
    ids=[
        "as it was",
        "another announced a longer lifetime",
        "another announced a shorter lifetime",
        "the lifetime is gone",
        "INFO is forbidden",
        "its first replica has come",
        "restarted",
        "restarted, with appendfsync always",
        "restarted from a snapshot that names its history",
        "fail-over",
        "two fail-overs that nobody saw",
        "keys were evicted",
        "a fail-over to one that evicted keys before",
        "its counters were reset",
        "a slot that was moved",
        "a cluster's node was restarted",
        "a cluster's replica that was restarted and promoted",
    ],
)
def test_what_follows_from_who_the_server_is(known: bool, changes: dict[str, Any], acts: list[Act], why: str) -> None:
    """Whatever the process knew, the data and the server say whether the data may lack something."""
    steps = epoch(known).judge(seen(**changes), 0, 0)
    assert [step.act for step in steps] == acts
    assert [step.why for step in steps if step.why] == [why] * bool(why)
    goes_up = [step.number for step in steps if step.act is Act.ADOPT]
    assert goes_up in ([], [int(bool(why))])


@pytest.mark.parametrize(
    ("known", "changes", "steps"),
    [
        (False, NOTHING, [(Act.DISTRUST, EMPTY), (Act.ANNOUNCE, ""), (Act.ADOPT, "")]),
        (True, NOTHING, [(Act.DISTRUST, LOST), (Act.ANNOUNCE, ""), (Act.ADOPT, "")]),
        (True, {"everything": None}, [(Act.DISTRUST, LOST), (Act.ANNOUNCE, "")]),
        (True, {"everything": KNOWN + 2, "record": replace(RECORD, word=b"other")}, [(Act.DISTRUST, LOST)]),
        (True, {"record": replace(RECORD, word=b"other")}, [(Act.DISTRUST, LOST), (Act.RESTORE, "")]),
        (True, {"everything": KNOWN + 2, "record": None}, [(Act.DISTRUST, LOST), (Act.ADOPT, "")]),
        (True, {"everything": KNOWN - 2}, [(Act.RESTORE, "")]),
        (True, {"everything": KNOWN - 2, "server": PROMOTED}, [(Act.ADOPT, ""), (Act.RESTORE, "")]),
        (False, {"record": None}, [(Act.ADOPT, "")]),
    ],
    ids=[
        "new, or emptied",
        "emptied",
        "the everything-fence was deleted",
        "emptied, and another process has begun it anew",
        "emptied, and begun anew below what is known",
        "emptied, and a script has begun it anew",
        "the last raise of everything is gone",
        "and a fail-over took it",
        "nobody has said yet which server it is",
    ],
)
def test_what_follows_from_the_data(known: bool, changes: dict[str, Any], steps: list[tuple[Act, str]]) -> None:
    """What is missing, others or less than what the process knows is a loss, or is put back."""
    found = epoch(known).judge(seen(**changes), 0, 0)
    assert [(step.act, step.why) for step in found] == steps


def test_what_was_passed_is_exceeded() -> None:
    """Data that are others refuse what had passed the number before; what is merely behind is put back to it."""
    (_, restore) = epoch().judge(seen(record=replace(RECORD, word=b"other")), 0, 0)
    assert restore.number > KNOWN
    assert restore.number % 2 == 1
    (restore,) = epoch().judge(seen(everything=KNOWN - 2), 0, 0)
    assert restore.number == KNOWN


def test_accepting_amnesia_raises_nothing() -> None:
    """With amnesia=accept a loss is noticed, and nothing goes up for it."""
    one = epoch(accept_amnesia=True)
    steps = one.judge(seen(server=RESTARTED_ONE, everything=0), 0, 0)
    assert [(step.act, step.number) for step in steps] == [(Act.DISTRUST, 0), (Act.ADOPT, 0)]


def test_accepting_eviction_leaves_the_count_for_others() -> None:
    """With eviction=accept an eviction is no loss; a process that does not accept it can still see it."""
    assert epoch(accept_eviction=True).judge(seen(server=replace(FIRST, evicted=3)), 0, 0) == []


def test_a_loss_that_could_not_be_written_counts_here_once() -> None:
    """The first number counts until the server has been told; then the next loss is one of its own."""
    one = epoch()
    one.lost(2001)
    one.lost(3001)
    assert (one.everything, one.owed) == (2001, True)
    assert [step.act for step in one.judge(seen(), 0, 0)] == [Act.RESTORE]
    one.accept(2001, b"word")
    assert not one.owed
    one.lost(4001)
    assert one.everything == 4001


def test_what_a_script_began_is_no_second_loss() -> None:
    """A raise that found no data has written genesis: that there is no record then is no news."""
    one = epoch()
    one.begun(KNOWN + 2)
    assert [step.act for step in one.judge(seen(everything=KNOWN + 2, record=None), 0, 0)] == [Act.ADOPT]


FAR = CLOCK_STEP_MS + 1_000


@pytest.mark.parametrize(
    ("server", "wall", "lost"),
    [(0, 0, False), (CLOCK_STEP_MS, 0, False), (FAR, 0, True), (-FAR, 0, False), (0, -FAR, False), (FAR, FAR, False)],
    ids=["runs", "a little forward", "forward", "back", "this host's back", "both forward"],
)
def test_clock(server: int, wall: int, lost: bool) -> None:
    """Only a server's clock that goes forward, alone and by more than the margin, has dropped fences too early."""
    one = epoch()
    assert one.judge(seen(server_ms=1e6), 1e6, 0) == []
    steps = one.judge(seen(server_ms=1e6 + 1000 + server), 1e6 + 1000 + wall, 1000)
    assert [step.act for step in steps] == [Act.CLOCK] * lost
    assert one.judge(seen(server_ms=1e6 + 2000 + server), 1e6 + 2000 + wall, 2000) == []
    assert bool(one.clock.host_stepped_back) is (wall < 0)


def test_both_clocks_come_back() -> None:
    """Server and application on one host: fences expired while its clock was ahead, and sessions revive."""
    one = epoch()
    for ahead, lost in ((0, False), (FAR, False), (0, True), (0, False)):
        steps = one.judge(seen(server_ms=1e6 + ahead), 1e6 + ahead, 0)
        assert [step.act for step in steps] == [Act.CLOCK] * lost


@pytest.mark.parametrize("record", [RECORD, Record.of(NODE), Record.of(Server(run_id=b"r"), b"w")])
def test_record_is_text(record: Record) -> None:
    """A record is written as one line of words, and read back as it was."""
    assert Record.parse(bytes(record)) == record


@pytest.mark.parametrize("text", [b"", b"x", b"a b c d", b"a b c x e", b"a b c 1 d e"])
def test_what_is_no_record_is_refused(text: bytes) -> None:
    """What another program has put there is not taken for a record."""
    with pytest.raises(ValueError):
        Record.parse(text)
