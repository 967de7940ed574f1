"""The local_set in the process: a map that merges by maximum and forgets by generation, however large it is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from linecache import getline
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_rollsession.revocation import local_set as module
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.local_set import GENERATIONS, RECENT, LocalSet
from wsgi_rollsession.testing.stores import in_fork

HOUR_MS = 3_600_000
GENERATION_MS = HOUR_MS // GENERATIONS


def key(n: int) -> bytes:
    """A key that is as evenly spread as the real ones, which are hashes."""
    return sha256(b"%d" % n).digest()[:16]


def test_an_empty_local_set() -> None:
    """Nothing is in it, and it answers 0."""
    local_set = LocalSet(HOUR_MS)
    assert local_set.numbers([key(1), EVERYTHING]) == [0, 0]
    assert local_set.numbers(()) == []
    assert len(local_set) == 0


@pytest.mark.parametrize("count", [10, RECENT - 1, RECENT + 1, 3 * RECENT + 5])
def test_all_are_found_at_any_size(count: int) -> None:
    """Each key has its own number, and others have none, on either side of the limit of the dictionary."""
    local_set = LocalSet(HOUR_MS)
    local_set.load((key(n), n + 1, 1 + n * HOUR_MS // count) for n in range(count))
    assert local_set.numbers([key(n) for n in range(count)]) == [*range(1, count + 1)]
    assert local_set.numbers([key(-n - 1) for n in range(1000)]) == [0] * 1000
    assert len(local_set) == count


def test_merge_is_max_at_any_size() -> None:
    """A key that was raised again has the larger number, wherever its older one is."""
    local_set = LocalSet(HOUR_MS)
    count = RECENT + 10
    for numbers in (range(count), range(count, 0, -1)):
        local_set.load((key(n), number, HOUR_MS) for n, number in enumerate(numbers))
    expected = [max(n, count - n) for n in range(count)]
    assert local_set.numbers([key(n) for n in range(count)]) == expected
    local_set.add(key(5), 1, HOUR_MS)
    assert local_set.numbers([key(5)]) == expected[5:6]
    local_set.add(key(5), ENDED, HOUR_MS)
    assert local_set.numbers([key(5)]) == [ENDED]


def test_keys_of_one_bucket_and_misaligned_matches() -> None:
    """A record is found by its whole and not by bytes that straddle two of them."""
    local_set = LocalSet(HOUR_MS)
    # The suffixes and numbers are made of the same bytes, so that a search finds many matches off the boundary.
    keys = [b"\0\0" + bytes(n >> bit & 1 for bit in range(6)) + bytes(8) for n in range(64)]
    local_set.load((one, 0x01000100 + n, HOUR_MS) for n, one in enumerate(keys))
    local_set.load((key(n), 1, HOUR_MS) for n in range(RECENT))
    assert local_set.numbers(keys) == [0x01000100 + n for n in range(64)]
    assert local_set.numbers([b"\0\0" + b"\2" * 6 + bytes(8)]) == [0]


@pytest.mark.parametrize("first_expires", [HOUR_MS, HOUR_MS + 1])
def test_keys_that_the_table_cannot_tell_apart(first_expires: int) -> None:
    """Two keys that agree in 64 bits are moved together: neither has a smaller number than before."""
    local_set = LocalSet(HOUR_MS)
    one, other = b"\0\0abcdef" + b"1" * 8, b"\0\0abcdef" + b"2" * 8
    local_set.load([(one, 100, first_expires), (other, 5, HOUR_MS)])
    local_set.load((key(n), 1, HOUR_MS) for n in range(RECENT))
    assert local_set.numbers([one, other]) == [100, 100]


def test_everything_never_leaves() -> None:
    """``EVERYTHING`` stays whatever expires, and whatever its expiry was said to be."""
    local_set = LocalSet(HOUR_MS)
    local_set.add(EVERYTHING, 17, 1)
    local_set.load((key(n), 1, HOUR_MS) for n in range(RECENT + 10))
    local_set.purge(10 * HOUR_MS)
    assert local_set.numbers([EVERYTHING, key(0)]) == [17, 0]
    assert len(local_set) == 1


@pytest.mark.parametrize("count", [800, RECENT * 4])
def test_generations_leave(count: int) -> None:
    """What has expired leaves within a generation of its expiry, and never before it."""
    local_set = LocalSet(HOUR_MS)
    start = 1_000 * HOUR_MS
    expiry = [start + n * 2 * HOUR_MS // count for n in range(count)]
    local_set.load((key(n), n + 1, expiry[n]) for n in range(count))
    for now in range(start, start + 3 * HOUR_MS, GENERATION_MS):
        local_set.purge(now)
        alive = [n for n in range(count) if expiry[n] >= now]
        assert local_set.numbers([key(n) for n in alive]) == [n + 1 for n in alive]
        kept = sum(one >= now - GENERATION_MS for one in expiry)
        # and what is moved at once from the dictionary into the table shares a generation
        assert len(local_set) <= kept + GENERATION_MS * count / (2 * HOUR_MS) + 1
    assert len(local_set) == 0


def test_a_raised_key_lives_as_long_as_its_last_raise() -> None:
    """A key that is raised again keeps its number until the later expiry."""
    for filling in (0, RECENT + 10):
        local_set = LocalSet(HOUR_MS)
        local_set.add(key(-1), 5, HOUR_MS)
        local_set.load((key(n), 1, HOUR_MS) for n in range(filling))
        local_set.add(key(-1), 3, 3 * HOUR_MS)
        local_set.load((key(n), 1, 3 * HOUR_MS) for n in range(filling, 2 * filling))
        local_set.purge(2 * HOUR_MS)
        assert local_set.numbers([key(-1)]) == [5]


def test_the_table_goes_when_it_is_empty() -> None:
    """After a burst the local_set is a dictionary again, as fast and as small as before."""
    local_set = LocalSet(HOUR_MS)
    local_set.load((key(n), 1, HOUR_MS) for n in range(RECENT + 10))
    assert local_set._state[1] is not None
    local_set.purge(2 * HOUR_MS)
    assert local_set._state[1] is None
    local_set.add(key(1), 2, 3 * HOUR_MS)
    assert local_set.numbers([key(1)]) == [2]


def test_a_clock_that_goes_back_does_not_stop_the_purge() -> None:
    """Entries still leave after the clock was far ahead for a while."""
    local_set = LocalSet(HOUR_MS)
    local_set.purge(1000 * HOUR_MS)
    local_set.add(key(1), 1, 2 * HOUR_MS)
    local_set.purge(3 * HOUR_MS)
    assert len(local_set) == 0


def test_clear() -> None:
    """Nothing is left, not even ``EVERYTHING``."""
    local_set = LocalSet(HOUR_MS)
    local_set.load((key(n), 1, HOUR_MS) for n in range(RECENT + 10))
    local_set.add(EVERYTHING, 1, HOUR_MS)
    local_set.clear()
    assert local_set.numbers([key(1), EVERYTHING]) == [0, 0]
    assert len(local_set) == 0


def test_one_that_expires_far_too_late_keeps_nothing_else() -> None:
    """One fence was raised by a clock that was a year ahead. The others leave in their time, as without it."""

    def held(*expiries: int) -> int:
        local_set, now = LocalSet(HOUR_MS), 1_000 * HOUR_MS
        local_set.purge(now)
        local_set.load((key(-n - 1), 7, expiry) for n, expiry in enumerate(expiries))
        for step in range(48):
            now += GENERATION_MS
            local_set.load((key(n), 1, now + HOUR_MS) for n in range(step * RECENT, step * RECENT + RECENT))
            local_set.purge(now)
        assert local_set.numbers([key(-n - 1) for n in range(len(expiries))]) == [7] * len(expiries)
        return len(local_set)

    assert held(9_000 * HOUR_MS, 9_001 * HOUR_MS) <= held() + 2


def test_many_that_expire_late() -> None:
    """If too many for the dictionary expire late, they are moved like all others, and none is missed."""
    local_set = LocalSet(HOUR_MS)
    local_set.purge(HOUR_MS)
    local_set.load((key(n), n + 1, 9_000 * HOUR_MS) for n in range(3 * RECENT))
    local_set.purge(8_000 * HOUR_MS)
    assert local_set.numbers([key(n) for n in range(3 * RECENT)]) == [*range(1, 3 * RECENT + 1)]


class Interrupted(BaseException):
    """What a signal handler raises."""


def interrupted(function: Callable[..., object], after: int, *args: object) -> bool:
    """Call *function*, and raise ``Interrupted`` before the *after*-th line of the local_set's code.

    False if it has fewer. ``with`` does not count: there, where a lock is released, Python runs no signal handler.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and not getline(module.__file__, frame.f_lineno).strip().startswith("with "):
            lines += 1
            if lines == after:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_exception_from_a_signal_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before whichever line of a load, a move or a purge a signal handler raises: no fence that was there is missed,
    the lock is free, and everything works afterwards."""
    monkeypatch.setattr(module, "RECENT", 5)
    monkeypatch.setattr(module, "_BUCKETS", 2)
    keys = [bytes([0, n % 2]) + key(n)[2:] for n in range(24)]

    def filled() -> LocalSet:
        local_set = LocalSet(8)
        local_set.purge(10)
        for n, one in enumerate(keys[:18]):
            local_set.add(one, n + 1, 20 + n)
        return local_set

    for name, args in (("load", ([(one, 100, 45) for one in keys[15:]],)), ("purge", (30,))):
        after, more = 1, True
        while more:
            local_set = filled()
            more = interrupted(getattr(local_set, name), after, *args)
            assert not local_set._lock.locked()
            alive = range(10, 18) if name == "purge" else range(18)
            assert all(number >= n + 1 for n, number in zip(alive, local_set.numbers([keys[n] for n in alive])))
            getattr(local_set, name)(*args)
            local_set.load([(one, 200, 50) for one in keys])
            local_set.purge(46)
            assert local_set.numbers(keys) == [200] * 24
            local_set.purge(60)
            assert len(local_set) == 0
            after += 1
        assert after > 20


rows = st.lists(st.tuples(st.integers(0, 30), st.integers(1, ENDED), st.integers(1, 20)), max_size=60)


@given(rows, st.integers(1, 25))
def test_it_behaves_like_a_dictionary(rows: list[tuple[int, int, int]], now: int) -> None:
    """In any order of raises, each key has its maximum until its last expiry; then it may be gone, wholly."""
    limits = module.RECENT, module._BUCKETS
    module.RECENT, module._BUCKETS = 5, 1  # so that a few rows fill the table, and it is made quickly
    try:
        local_set = LocalSet(8)
        model: dict[bytes, tuple[int, int]] = {}
        for n, number, expires in rows:
            one = bytes([0, 0, n % 3, n, 0, 0, n % 2, n]) * 2
            local_set.add(one, number, expires)
            held = model.get(one, (0, 0))
            model[one] = max(held[0], number), max(held[1], expires)
        assert local_set.numbers(list(model)) == [number for number, _ in model.values()]
        local_set.purge(now)
        for one, (number, expires) in model.items():
            assert local_set.numbers([one])[0] in ([number] if expires >= now else range(number + 1))
    finally:
        module.RECENT, module._BUCKETS = limits


def test_readers_never_miss_what_was_there() -> None:
    """While entries are added, moved to the table and purged, a look-up always finds those that must be there."""
    local_set = LocalSet(HOUR_MS)
    stop, failures = threading.Event(), []
    pinned = [key(-n - 1) for n in range(3)]
    local_set.load((one, 7, 100 * HOUR_MS) for one in pinned)

    def read() -> None:
        while not stop.is_set():
            if (found := local_set.numbers(pinned)) != [7, 7, 7]:
                failures.append(found)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        limit, module.RECENT = module.RECENT, 500
        for hour in range(1, 6):
            local_set.load((key(hour * 10_000 + n), 1, hour * HOUR_MS + n * 300) for n in range(3_000))
            local_set.purge((hour - 1) * HOUR_MS + HOUR_MS // 2)
    finally:
        module.RECENT = limit
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_fork_in_the_middle_of_a_load() -> None:
    """A child can write at once, although another thread of its parent was writing when it was forked."""
    local_set = LocalSet(HOUR_MS)
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            local_set.load((key(n % 50), n, HOUR_MS) for _ in range(50))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            in_fork(lambda: local_set.add(key(99), 1, HOUR_MS))
            time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
