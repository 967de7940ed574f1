"""The clocks of the stores, and the numbers that are made from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.revocation.clocks import NOW, Clocks
from wsgi_rollsession.revocation.clock import RUN_AHEAD_S, SteadyClock, genesis, next_revoked_before
from wsgi_rollsession.revocation.fence import ENDED, revoked_before


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def steady(clocks: Clocks) -> SteadyClock:
    return SteadyClock(lambda: clocks.wall_ms, lambda: clocks.monotonic_ms)


def test_it_is_the_wall_clock(steady: SteadyClock, clocks: Clocks) -> None:
    """While the wall clock goes on, or jumps ahead, that is what it shows."""
    for ms in (0, 1, 1_000, 3_600_000):
        clocks.passes(ms)
        assert steady() == clocks.wall_ms
    clocks.wall_ms += 7_200_000
    assert steady() == clocks.wall_ms


@pytest.mark.parametrize("back", [1, 30_000, 7_200_000])
def test_it_goes_on_while_the_wall_clock_goes_back(steady: SteadyClock, clocks: Clocks, back: int) -> None:
    """After a step back it goes on as time passes, until the wall clock is ahead again."""
    clocks.passes(1_000)
    assert steady() == NOW + 1_000
    clocks.wall_ms -= back
    assert steady() == NOW + 1_000
    clocks.passes(500)
    assert steady() == NOW + 1_500
    clocks.wall_ms = NOW + 2_000
    assert steady() == NOW + 2_000


def test_the_first_moment_counts(steady: SteadyClock, clocks: Clocks) -> None:
    """It has looked at the wall clock when it was made."""
    clocks.wall_ms -= 30_000
    assert steady() == NOW


def test_threads_see_it_go_forward() -> None:
    """Of any two readings that one thread takes, the second is not smaller."""
    steady = SteadyClock()

    def read(_: int) -> bool:
        readings = [steady() for _ in range(1_000)]
        return readings == sorted(readings)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


@pytest.mark.parametrize("second", range(4))
def test_why_everything_was_raised(second: int) -> None:
    """A genesis is odd and larger than what was passed; a revocation of everything is even, and within its bound."""
    now = NOW + second * 1000
    clock = revoked_before(now)
    furthest = clock + RUN_AHEAD_S
    assert genesis(now) % 2 == 1
    assert furthest < genesis(now) <= furthest + 2
    for known in (furthest + 10, furthest + 11):
        assert genesis(now, [known]) % 2 == 1
        assert known < genesis(now, [known]) <= known + 2
    for held in range(clock - 1, furthest + 1):
        number = next_revoked_before(now, [held], everything=True)
        if number is not None:
            assert number % 2 == 0
            assert held < number <= furthest
        assert next_revoked_before(now, [held]) == (max(held + 1, clock) if held < furthest else None)


def test_numbers_end() -> None:
    """No number is larger than 32 bits hold."""
    assert genesis(NOW, [ENDED]) == ENDED
    for everything in (False, True):
        assert next_revoked_before(NOW, [ENDED], everything=everything) == ENDED
