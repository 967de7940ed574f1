"""What every revocation store must do, as a suite that a store of your own can run. Needs pytest.

    from wsgi_rollsession.testing.stores import SharedRevocationContract

    class TestMyStore(SharedRevocationContract):
        @pytest.fixture
        def open_store(self, my_server):
            return lambda options: MyRevocations(my_server.url, options)

``open_store`` gives a callable ``(StoreOptions) -> Revocations``. What it returns is closed by the suite. All
stores that it opens within one test see the same set, which is empty when the test begins. A store of one
process (``shared = False``) runs ``RevocationContract``, where each test opens one store only. The fixture
``kept_until`` is optional.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pytest

from ..errors import StoreUnavailable
from ..revocation import Revocations, StoreOptions
from ..revocation.fence import ENDED, EVERYTHING, revoked_before, session_key, tag_key

__all__ = ["RevocationContract", "SharedRevocationContract", "in_fork"]

HOUR_MS = 3_600_000
USER, TENANT = tag_key("user:42"), tag_key("tenant:7")
SESSION, OTHER = session_key(b"a session's id.."), session_key(b"another's id....")

T = TypeVar("T")

#: Opens one more store over the set of the test. Keyword arguments as in ``StoreOptions``.
Open = Callable[..., Revocations]
#: Until when a store keeps a key, in milliseconds of any clock. None: it does not tell.
KeptUntil = Callable[[Revocations, bytes], float] | None


def in_fork(function: Callable[[], object], seconds: float = 60.0) -> None:
    """Run *function* in a forked child. Fails if it raises there, or does not return within *seconds*."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the forked child failed; its traceback is above"
            return
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail(f"the forked child did not return within {seconds:g} s")


def eventually(function: Callable[..., T], *args: object) -> T:
    """``function(*args)``, again while it raises StoreUnavailable: under the load of a test a store may be busy."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return function(*args)
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class RevocationContract:
    """The contract of one store. Subclass it, and override ``open_store``."""

    @pytest.fixture
    def open_store(self) -> Callable[[StoreOptions], Revocations]:
        raise NotImplementedError("override the fixture open_store: (StoreOptions) -> Revocations")

    @pytest.fixture
    def open(self, open_store: Callable[[StoreOptions], Revocations]) -> Iterator[Open]:
        opened: list[Revocations] = []

        def open_one(lifetime_ms: int = HOUR_MS, accept_amnesia: bool = False) -> Revocations:
            opened.append(open_store(StoreOptions(lifetime_ms=lifetime_ms, accept_amnesia=accept_amnesia)))
            return opened[-1]

        yield open_one
        for store in opened:
            store.close()

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        """Override it to have lifetimes tested: until when a store will keep a key, in ms of any clock that goes on."""
        return None

    @pytest.fixture
    def store(self, open: Open) -> Revocations:
        return open()

    def test_a_miss_is_zero(self, store: Revocations) -> None:
        """Keys that were never raised have the number 0, however they are asked for."""
        assert list(store.lookup([SESSION, USER])) == [0, 0]
        assert list(store.lookup_now([SESSION, USER])) == [0, 0]
        assert list(store.last_known([SESSION, USER])) == [0, 0]

    def test_no_keys(self, store: Revocations) -> None:
        """Asking for nothing answers nothing."""
        assert list(store.lookup([])) == []
        assert list(store.lookup_now(())) == []

    def test_a_fence_is_seen_at_once(self, store: Revocations) -> None:
        """When ``fence`` has returned, its number is what every kind of question answers."""
        store.fence([SESSION, OTHER], ENDED)
        assert list(store.lookup_now([OTHER, USER, SESSION])) == [ENDED, 0, ENDED]
        assert list(store.lookup((SESSION,))) == [ENDED]
        assert list(store.last_known([SESSION])) == [ENDED]

    def test_numbers_answer_in_order(self, store: Revocations) -> None:
        """The numbers come in the order of the keys, also for a key asked for twice."""
        keys = [session_key(bytes([n]) * 16) for n in range(20)]
        for n, key in enumerate(keys):
            store.fence([key], n + 1)
        assert list(store.lookup_now([*reversed(keys), keys[3]])) == [*range(20, 0, -1), 4]
        assert list(store.lookup([*reversed(keys), keys[3]])) == [*range(20, 0, -1), 4]

    def test_merge_is_max(self, store: Revocations) -> None:
        """A smaller number never replaces a larger one, so the order of raises does not matter."""
        for number in (5, 3, 9, 9, 1):
            store.fence([SESSION], number)
        assert list(store.lookup_now([SESSION])) == [9]
        store.fence([SESSION], ENDED)
        store.fence([SESSION], 10)
        assert list(store.lookup_now([SESSION])) == [ENDED]

    def test_everything_is_always_present(self, open: Open) -> None:
        """A store found empty refuses what was created until now."""
        before = revoked_before(int(time.time() * 1000) - HOUR_MS)
        store = open()
        for ask in (store.lookup, store.lookup_now):
            (number,) = ask([EVERYTHING])
            assert before < number < before + 2 * HOUR_MS // 1000

    def test_amnesia_can_be_accepted(self, open: Open) -> None:
        """With ``accept_amnesia``, a store found empty refuses nothing."""
        assert list(open(accept_amnesia=True).lookup_now([EVERYTHING])) == [0]

    def test_everything_can_be_raised(self, store: Revocations) -> None:
        """``EVERYTHING`` is a key like any other to ``fence_now``."""
        (genesis,) = store.lookup_now([EVERYTHING])
        number = store.fence_now([EVERYTHING])
        assert number > genesis
        assert list(store.lookup([EVERYTHING])) == [number]

    def test_fence_now_covers_now(self, store: Revocations) -> None:
        """``fence_now`` refuses what was created until now by this host's clock, and returns its number."""
        now = int(time.time() * 1000)
        number = store.fence_now([USER, TENANT])
        assert number * 1000 >= now
        assert list(store.lookup_now([USER, TENANT, SESSION])) == [number, number, 0]

    def test_fence_now_goes_past_what_sessions_have_passed(self, store: Revocations) -> None:
        """A session that begins under a revoked-before has passed it: the next is larger, even a moment later."""
        for key in (USER, EVERYTHING):
            passed = list(store.lookup_now([key]))
            for _ in range(3):
                passed.append(store.fence_now([key]))
                assert list(store.lookup_now([key])) == passed[-1:]
            assert passed == sorted(set(passed))

    def test_numbers_do_not_run_away(self, store: Revocations) -> None:
        """However often the same is revoked, its number is at most seconds ahead of the clock."""
        numbers = [store.fence_now([USER]) for _ in range(8)]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] <= revoked_before(int(time.time() * 1000)) + 10

    def test_why_everything_was_raised(self, open: Open) -> None:
        """The number of ``EVERYTHING`` is odd where the set was new, and even where somebody revoked."""
        store = open()
        assert store.lookup_now([EVERYTHING])[0] % 2 == 1
        for keys in ([EVERYTHING], [USER, EVERYTHING]):
            assert store.fence_now(keys) % 2 == 0
            assert store.lookup_now([EVERYTHING])[0] % 2 == 0

    def test_a_clock_that_steps_back(self, open: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        """The clock steps back by 30 s: ``fence_now`` refuses what was created before the step all the same."""
        seconds, nanoseconds = time.time, time.time_ns
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: seconds() + 30)
            ahead.setattr(time, "time_ns", lambda: nanoseconds() + 30_000_000_000)
            store = open()
            store.fence([SESSION], 1)
            created = int(time.time() * 1000)
        for keys in ([USER], [EVERYTHING]):
            assert store.fence_now(keys) * 1000 >= created

    def test_a_raise_renews_the_lifetime(self, store: Revocations, kept_until: KeptUntil) -> None:
        """A raise with a smaller number than is held leaves the number, and renews the lifetime."""
        if kept_until is None:
            pytest.skip("kept_until is not overridden")
        for again in (
            lambda: store.fence([SESSION], 3),
            lambda: store.compare_and_raise([], [(SESSION, 3)]),
        ):
            store.fence([SESSION], 9)
            before = kept_until(store, SESSION)
            time.sleep(0.02)
            again()
            assert kept_until(store, SESSION) >= before + 10
            assert list(store.lookup_now([SESSION])) == [9]

    def test_a_raise_never_shortens_a_lifetime(self, store: Revocations, kept_until: KeptUntil) -> None:
        """A number ahead of the clock is kept until the clock is there, whatever smaller one is raised after."""
        if kept_until is None:
            pytest.skip("kept_until is not overridden")
        store.fence([USER], int(time.time()) + 3 * HOUR_MS // 1000)
        before = kept_until(store, USER)
        store.fence([USER], 1)
        store.compare_and_raise([], [(USER, 2)])
        assert kept_until(store, USER) >= before

    def test_compare_and_raise(self, store: Revocations) -> None:
        """It succeeds where at most the limit is held, and else raises nothing."""
        assert store.compare_and_raise([(SESSION, 0)], [(SESSION, 2)]) is True
        assert store.compare_and_raise([(SESSION, 1)], [(SESSION, 3)]) is False
        assert list(store.lookup_now([SESSION])) == [2]
        assert store.compare_and_raise([(SESSION, 2)], [(SESSION, 3)]) is True
        # The fence that said 5 has expired, or was never needed.
        assert store.compare_and_raise([(SESSION, 5)], [(SESSION, 6)]) is True
        assert list(store.lookup_now([SESSION])) == [6]

    def test_compare_and_raise_of_several_keys(self, open: Open) -> None:
        """All are raised, each to its own number, if no limit is exceeded; none is if any one is, of whatever key."""
        store = open(accept_amnesia=True)
        store.fence([TENANT], 5)
        limits = [(EVERYTHING, 0), (SESSION, 0), (TENANT, 5)]
        raises = [(SESSION, 4), (USER, 7), (OTHER, ENDED)]
        for n in range(3):
            too_low = [*limits[:2], (TENANT, 4)]
            assert store.compare_and_raise([*too_low[n:], *too_low[:n]], raises) is False
        assert list(store.lookup_now([SESSION, USER, OTHER, TENANT])) == [0, 0, 0, 5]
        assert store.compare_and_raise(limits, raises) is True
        assert list(store.lookup_now([SESSION, USER, OTHER, TENANT])) == [4, 7, ENDED, 5]
        assert list(store.last_known([SESSION, USER, OTHER])) == [4, 7, ENDED]

    def test_compare_and_raise_merges(self, store: Revocations) -> None:
        """A smaller number among the raises leaves the larger one that is held."""
        store.fence([SESSION], 9)
        assert store.compare_and_raise([(USER, 0)], [(SESSION, 4), (USER, 1)]) is True
        assert list(store.lookup_now([SESSION, USER])) == [9, 1]

    def test_compare_and_raise_without_limits(self, store: Revocations) -> None:
        """Without limits it raises; without raises it only answers whether the limits hold."""
        assert store.compare_and_raise([], [(SESSION, 4), (USER, 7)]) is True
        assert list(store.lookup_now([SESSION, USER])) == [4, 7]
        assert store.compare_and_raise([(SESSION, 4), (USER, 7)], []) is True
        assert store.compare_and_raise([(SESSION, 4), (USER, 6)], []) is False
        assert store.compare_and_raise((), ()) is True
        assert list(store.lookup_now([SESSION, USER])) == [4, 7]

    def test_compare_and_raise_of_everything(self, store: Revocations) -> None:
        """``EVERYTHING`` can be a limit, which its genesis may exceed, and can be raised."""
        (held,) = store.lookup_now([EVERYTHING])
        assert store.compare_and_raise([(EVERYTHING, held - 1), (SESSION, 0)], [(SESSION, 1)]) is False
        assert list(store.lookup_now([SESSION])) == [0]
        assert store.compare_and_raise([(EVERYTHING, held), (SESSION, 0)], [(SESSION, 1), (EVERYTHING, held + 1)])
        assert list(store.lookup_now([SESSION, EVERYTHING])) == [1, held + 1]
        assert store.compare_and_raise([(SESSION, 1), (EVERYTHING, held)], [(SESSION, 2)]) is False

    def test_compare_and_raise_never_passes_an_end(self, store: Revocations) -> None:
        """A session that was ended cannot go on."""
        store.fence([SESSION], ENDED)
        assert store.compare_and_raise([(SESSION, 7)], [(SESSION, 8), (OTHER, 1)]) is False
        assert list(store.lookup_now([SESSION, OTHER])) == [ENDED, 0]

    def test_one_of_many_raises_wins(self, store: Revocations) -> None:
        """Of threads that raise from the same number at once, exactly one succeeds."""
        for current in range(5):
            barrier = threading.Barrier(4)

            def attempt(current: int = current, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return store.compare_and_raise([(SESSION, current)], [(SESSION, current + 1), (USER, current + 1)])

            with ThreadPoolExecutor(4) as pool:
                results = [future.result() for future in [pool.submit(attempt) for _ in range(4)]]
            assert sorted(results) == [False] * 3 + [True]

    def test_concurrent_raises_are_all_kept(self, store: Revocations) -> None:
        """Threads that raise and ask at once lose nothing, and each sees its own raise."""

        def raise_some(thread: int) -> None:
            for n in range(20):
                key, number = session_key(bytes([thread, n]) * 8), thread * 20 + n + 1
                eventually(store.fence, [key, SESSION], number)
                assert list(eventually(store.lookup, [key])) == [number]

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(raise_some, thread) for thread in range(8)]:
                future.result()
        keys = [session_key(bytes([thread, n]) * 8) for thread in range(8) for n in range(20)]
        assert list(store.lookup_now([*keys, SESSION])) == [*range(1, 161), 160]

    def test_works_after_a_fork(self, store: Revocations) -> None:
        """A child of a fork can ask and raise, and its parent goes on, whether or not the store was in use before."""
        store.fence([SESSION], 4)

        def child() -> None:
            assert list(store.lookup_now([SESSION])) == [4]
            store.fence([OTHER], 5)
            assert list(store.lookup([SESSION, OTHER])) == [4, 5]

        in_fork(child)
        store.fence([SESSION], 6)
        assert list(store.lookup([SESSION])) == [6]

    def test_works_after_a_fork_amid_use(self, store: Revocations) -> None:
        """Forking while other threads raise and ask leaves no lock behind in the child."""
        stop = threading.Event()

        def use() -> None:
            while not stop.is_set():
                with suppress(StoreUnavailable):
                    store.fence([OTHER], 1)
                    store.lookup_now([OTHER])

        def child() -> None:
            eventually(store.fence, [SESSION], 4)
            assert list(eventually(store.lookup_now, [SESSION])) == [4]

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                in_fork(child)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_status(self, store: Revocations) -> None:
        """``status`` counts the fences, and tells when the store was first found empty."""
        before = store.status()
        store.fence([SESSION, USER], ENDED)
        after = store.status()
        assert after["fences"] == before["fences"] + 2
        assert abs(after["genesis"] - time.time()) < 3600

    def test_close_twice(self, store: Revocations) -> None:
        """Closing again does nothing, and a store can be closed without having been used."""
        store.close()
        store.close()


class SharedRevocationContract(RevocationContract):
    """The contract of a store that several processes share. ``open_store`` may be called several times in a test."""

    def test_says_that_it_is_shared(self, store: Revocations) -> None:
        """The middleware serves under several processes only if the store says that they share it."""
        assert store.shared is True

    def test_another_instance_confirms_at_once(self, open: Open) -> None:
        """When a raise has returned, every other instance confirms it."""
        one, other = open(), open()
        for number in range(1, 20):
            one.fence([SESSION], number)
            assert list(other.lookup_now([SESSION])) == [number]
            assert other.compare_and_raise([(OTHER, number - 1)], [(OTHER, number)]) is True
            assert list(one.lookup_now([OTHER])) == [number]
        number = one.fence_now([USER])
        assert list(other.lookup_now([USER])) == [number]

    def test_another_process_confirms_at_once(self, store: Revocations) -> None:
        """When a raise in one process has returned, every other process confirms it."""
        store.lookup_now([SESSION])
        in_fork(lambda: store.fence([SESSION], ENDED))
        assert list(store.lookup_now([SESSION])) == [ENDED]

    def test_one_of_many_instances_raises(self, open: Open) -> None:
        """Of instances that raise from the same number at once, exactly one succeeds."""
        stores = [open() for _ in range(4)]
        barrier = threading.Barrier(4)

        def attempt(store: Revocations) -> bool:
            barrier.wait()
            return store.compare_and_raise([(SESSION, 0)], [(SESSION, 1)])

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(attempt, stores)) == [False, False, False, True]

    def test_a_second_instance_is_no_genesis(self, open: Open) -> None:
        """Opening a set that is there already refuses nobody anew, whatever the amnesia policy."""
        (genesis,) = open(accept_amnesia=True).lookup_now([EVERYTHING])
        assert list(open().lookup_now([EVERYTHING])) == [genesis] == [0]

    def test_the_longest_lifetime_is_remembered(self, open: Open) -> None:
        """A process with a shorter lifetime does not shorten the store's."""
        for lifetime_ms in (2 * HOUR_MS, HOUR_MS, 3 * HOUR_MS, 2 * HOUR_MS):
            store = open(lifetime_ms=lifetime_ms)
            store.fence([SESSION], 1)
        assert store.status()["lifetime"] == 3 * HOUR_MS // 1000

    def test_closing_one_leaves_the_others(self, open: Open) -> None:
        """An instance that is closed takes nothing away from the others."""
        one, other = open(), open()
        one.fence([SESSION], ENDED)
        one.close()
        other.fence([OTHER], ENDED)
        assert list(other.lookup_now([SESSION, OTHER])) == [ENDED, ENDED]
        assert list(open().lookup_now([SESSION, OTHER])) == [ENDED, ENDED]
