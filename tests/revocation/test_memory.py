"""What the memory store does beyond the contract."""

from __future__ import annotations

import time

import pytest

from tests.revocation.clocks import Clocks
from wsgi_rollsession import ConfigurationError, StoreUnavailable
from wsgi_rollsession.revocation import StoreOptions, open_store
from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS, RUN_AHEAD_S, next_revoked_before
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING, revoked_before, session_key
from wsgi_rollsession.revocation.memory import MemoryRevocations

HOUR_MS = 3_600_000
A, B = session_key(b"a session's id.."), session_key(b"another's id....")


def test_it_says_that_it_is_not_shared() -> None:
    """The middleware refuses to serve several processes with it."""
    assert open_store("memory://", StoreOptions(HOUR_MS)).shared is False


@pytest.mark.parametrize("url", ["memory://", "memory:"])
def test_urls(url: str) -> None:
    """Its URL is the scheme alone."""
    assert isinstance(open_store(url, StoreOptions(HOUR_MS)), MemoryRevocations)


@pytest.mark.parametrize("url", ["memory://name", "memory:///", "memory://?x=1"])
def test_wrong_urls(url: str) -> None:
    """A URL that goes on is refused, and the message shows it."""
    with pytest.raises(ConfigurationError, match="requires just memory://") as caught:
        open_store(url, StoreOptions(HOUR_MS))
    assert repr(url) in str(caught.value)


@pytest.fixture
def no_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in this process has opened ``memory://`` yet."""
    monkeypatch.setattr(MemoryRevocations, "_of_process", None)


@pytest.mark.usefixtures("no_set")
def test_one_set_a_process() -> None:
    """Two filters with ``memory://`` in one process have one set, and it outlives each of them."""
    one = open_store("memory://", StoreOptions(HOUR_MS))
    one.fence([A], ENDED)
    one.close()
    other = open_store("memory:", StoreOptions(HOUR_MS))
    assert other.lookup_now([A]) == [ENDED]
    other.fence([B], ENDED)
    assert one.lookup_now([B]) == [ENDED]


@pytest.mark.usefixtures("no_set")
def test_the_longest_lifetime_of_a_process() -> None:
    """Whoever opens the set: a fence is kept for the longest lifetime."""
    for lifetime, longest in ((2, 2), (1, 2), (3, 3)):
        assert open_store("memory://", StoreOptions(lifetime * HOUR_MS)).status()["lifetime"] == longest * 3600


@pytest.mark.usefixtures("no_set")
@pytest.mark.parametrize("policies", [(True, True), (True, False), (False, True), (True, False, True)])
def test_amnesia_is_accepted_by_all_or_none(policies: tuple[bool, ...]) -> None:
    """If one of the filters refuses what was created before the process began, the set does."""
    stores = [open_store("memory://", StoreOptions(HOUR_MS, accept_amnesia)) for accept_amnesia in policies]
    for store in stores:
        assert (store.lookup_now([EVERYTHING]) == [0]) is all(policies)


def test_made_by_hand_it_is_a_set_of_its_own() -> None:
    """A store that a test makes by itself shares nothing."""
    one, other = MemoryRevocations(StoreOptions(HOUR_MS)), MemoryRevocations(StoreOptions(HOUR_MS))
    one.fence([A], ENDED)
    assert other.lookup_now([A]) == [0]


@pytest.fixture
def clock() -> Clocks:
    return Clocks()


@pytest.fixture
def store(clock: Clocks) -> MemoryRevocations:
    return MemoryRevocations(StoreOptions(HOUR_MS), _clock=lambda: clock.wall_ms, _monotonic=lambda: clock.monotonic_ms)


def test_it_is_bounded_by_itself(store: MemoryRevocations, clock: Clocks) -> None:
    """However many lifetimes pass, no more than the fences of one, and of the margins, are held."""
    for step in range(1000):
        clock.passes(HOUR_MS // 20)
        store.fence([session_key(step.to_bytes(16, "big"))], ENDED)
        assert store.lookup([session_key(step.to_bytes(16, "big")), EVERYTHING])[0] == ENDED
        assert store.status()["fences"] <= 20 + 5


def test_the_wall_clock_jumps_ahead_and_back(store: MemoryRevocations, clock: Clocks) -> None:
    """Logout; the wall clock is two hours ahead; another logout, which drops what has expired; the clock is right
    again, a minute after the logout: the session is still refused."""
    store.fence([A], ENDED)
    clock.wall_ms += 2 * HOUR_MS
    store.fence([B], ENDED)
    clock.wall_ms -= 2 * HOUR_MS - 60_000
    assert store.lookup_now([A, B]) == [ENDED, ENDED]


def test_the_wall_clock_goes_back(store: MemoryRevocations, clock: Clocks) -> None:
    """A fence expires and is dropped; then the wall clock goes back to when its session was alive, or later does so
    while nothing is raised: all sessions from before are refused. A small step is nothing."""
    store.fence([A], ENDED)
    created = clock.wall_ms
    for back in (2 * HOUR_MS, HOUR_MS):
        clock.passes(3 * HOUR_MS)
        store.fence([B], ENDED)
        assert store.lookup_now([A]) == [0]
        (before,) = store.lookup_now([EVERYTHING])
        clock.wall_ms -= CLOCK_STEP_MS // 2
        assert store.lookup_now([EVERYTHING]) == [before]
        clock.wall_ms -= back
        (everything,) = store.lookup_now([EVERYTHING])
        assert everything > before
        assert everything * 1000 >= created
        assert store.lookup_now([EVERYTHING]) == [everything]


def test_the_wall_clock_goes_back_between_two_raises(store: MemoryRevocations, clock: Clocks) -> None:
    """Logout; half a lifetime passes, and the wall clock is set back by as much, so that by it no time has passed;
    after more than a lifetime the next logout drops the fence, while its session still has half of its own to live:
    it is refused by the fence of everything."""
    store.fence([A], ENDED)
    created, before = clock.wall_ms, store.lookup_now([EVERYTHING])[0]
    clock.passes(HOUR_MS // 2)
    clock.wall_ms -= HOUR_MS // 2
    clock.passes(HOUR_MS // 2 + 2 * CLOCK_STEP_MS)
    store.fence([B], ENDED)
    assert before < store.lookup_now([EVERYTHING])[0] >= created // 1000


def test_a_small_step_back_hides_nobody(store: MemoryRevocations, clock: Clocks) -> None:
    """The clock steps back by 30 s: a revocation covers what was created before the step; time goes on from there."""
    created = clock.wall_ms
    clock.wall_ms -= 30_000
    assert store.fence_now([A]) == revoked_before(created)
    clock.passes(10_000)
    assert store.fence_now([B]) == revoked_before(created + 10_000)
    clock.passes(60_000)
    clock.wall_ms += 30_000
    assert store.fence_now([session_key(b"a third's id....")]) == revoked_before(clock.wall_ms)


# How far the numbers run ahead of the clock


def test_revoking_everything_again_and_again(store: MemoryRevocations, clock: Clocks) -> None:
    """Everything is revoked until that has to wait; a session begins, and has passed the last number; then the data
    is lost. The genesis, a second later, is a larger number, so the session is refused."""
    clock.passes(60_000)
    first = revoked_before(clock.wall_ms)
    first += first % 2
    numbers = [store.fence_now([EVERYTHING]) for _ in range(RUN_AHEAD_S // 2 + 1)]
    assert numbers == [first, first + 2, first + 4]
    assert next_revoked_before(clock.wall_ms, numbers, everything=True) is None
    clock.passes(1000)
    other = MemoryRevocations(StoreOptions(HOUR_MS), _clock=lambda: clock.wall_ms)
    assert other.lookup_now([EVERYTHING])[0] > numbers[-1]
    clock.passes(1000)
    assert store.fence_now([EVERYTHING]) == numbers[-1] + 2


def test_a_revocation_waits_for_the_clock() -> None:
    """More revocations of one tag within a second than numbers may run ahead: each is larger than the one before."""
    store = MemoryRevocations(StoreOptions(HOUR_MS))
    numbers = [store.fence_now([A]) for _ in range(RUN_AHEAD_S + 2)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] <= revoked_before(int(time.time() * 1000)) + RUN_AHEAD_S


def test_others_revoke_the_same_all_the_time(store: MemoryRevocations, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation that never gets its turn fails instead of waiting for ever."""
    monkeypatch.setattr("wsgi_rollsession.revocation.clock._RETRY_S", 0.0)
    with pytest.raises(StoreUnavailable, match="again and again"):
        for _ in range(RUN_AHEAD_S + 2):
            store.fence_now([A])  # the clock stands still


def test_a_tag_that_was_revoked_before_the_clock_was_set_back() -> None:
    """Its number is far ahead of the clock, and the next one is larger, without waiting until the clock is there."""
    now = 500_000 * HOUR_MS
    assert next_revoked_before(now, [revoked_before(now + HOUR_MS)]) == revoked_before(now + HOUR_MS) + 1


def test_numbers_end_at_32_bits(store: MemoryRevocations) -> None:
    """A key that has ended stays ended, whatever is done to it."""
    store.fence([A], ENDED)
    assert store.fence_now([A]) == ENDED
    assert store.lookup_now([A]) == [ENDED]
