"""The breaker: a store that fails is left alone for a while, and each transition is logged once."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsgi_rollsession import StoreUnavailable
from wsgi_rollsession.revocation import forks
from wsgi_rollsession.revocation.breaker import Breaker
from wsgi_rollsession.revocation.forks import ForkSafeLock
from wsgi_rollsession.testing.stores import in_fork


class Store:
    """Something that fails when told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.fails = False
        self.calls = 0

    def ask(self, value: int = 1) -> int:
        self.calls += 1
        if self.fails:
            raise StoreUnavailable("it does not answer")
        return value


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "wsgi_rollsession"]


def test_it_passes_calls_through(caplog: pytest.LogCaptureFixture) -> None:
    """While the store answers, nothing is added, and nothing logged."""
    store, breaker = Store(), Breaker("a store")
    assert [breaker.call(store.ask, n) for n in range(3)] == [0, 1, 2]
    assert not breaker.is_down
    assert levels(caplog) == []


def test_a_failing_store_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """After a failure, calls fail at once without asking, and the failure is logged once."""
    store, breaker = Store(), Breaker("a store", pause=60)
    store.fails = True
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            breaker.call(store.ask)
    assert store.calls == 1
    assert breaker.is_down
    assert levels(caplog) == ["ERROR"]
    assert "a store is unavailable: it does not answer" in caplog.text


def test_it_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """After the pause one call tries; a success ends the outage, and is logged once."""
    caplog.set_level(logging.INFO)
    store, breaker = Store(), Breaker("a store", pause=0.01)
    store.fails = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            breaker.call(store.ask)
        time.sleep(0.02)
    assert store.calls == 3
    store.fails = False
    assert breaker.call(store.ask, 7) == 7
    assert not breaker.is_down
    assert breaker.call(store.ask, 8) == 8
    assert levels(caplog) == ["ERROR", "WARNING"]


def test_one_thread_tries_for_all() -> None:
    """While one thread waits for the store after the pause, the others fail at once."""
    store, breaker = Store(), Breaker("a store", pause=60)
    store.fails = True
    with pytest.raises(StoreUnavailable):
        breaker.call(store.ask)
    breaker._retry_at = 0.0  # the pause is over
    trying, answer = threading.Event(), threading.Event()

    def slow() -> int:
        trying.set()
        assert answer.wait(30)
        return 1

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(breaker.call, slow)
        assert trying.wait(30)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="next try in"):
                breaker.call(store.ask)
        answer.set()
        assert first.result() == 1
    assert store.calls == 1
    assert not breaker.is_down


def test_other_exceptions_are_not_its_business() -> None:
    """Only StoreUnavailable opens it."""
    breaker = Breaker("a store")

    def wrong() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        breaker.call(wrong)
    assert not breaker.is_down


@pytest.mark.parametrize("after", ["an outage", "no outage"])
def test_after_a_fork(after: str) -> None:
    """A child can use it, although threads of its parent were failing when it was forked."""
    store, breaker = Store(), Breaker("a store", pause=0.0)
    store.fails = after == "an outage"
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            with contextlib.suppress(StoreUnavailable):
                breaker.call(store.ask)

    def child() -> None:
        store.fails = False
        assert breaker.call(store.ask, 7) == 7

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_fork(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_two_threads_fork_at_once() -> None:
    """Thread 1 holds all locks and forks, while thread 2 begins to take them: what the one releases, the other must
    not believe that it holds, so that in every child all locks are free."""
    locks = [ForkSafeLock() for _ in range(30)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            for lock in locks:
                with lock:
                    pass

    def child() -> None:
        assert all(lock.acquire(timeout=0) for lock in locks)

    def fork() -> None:
        for _ in range(120):
            in_fork(child)

    user = threading.Thread(target=use)
    user.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(fork) for _ in range(3)]:
                future.result(120)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        user.join()
    assert not any(lock.locked() for lock in locks)


def test_what_is_done_before_a_fork_keeps_nothing_alive() -> None:
    """A lock, and the method to call before a fork, go when their owner goes; until then the method is called."""

    class Owner:
        def __init__(self) -> None:
            self.calls = 0
            self.lock = ForkSafeLock(before_fork=self.release)

        def release(self) -> None:
            assert self.lock.locked()
            self.calls += 1

    owner = Owner()
    in_fork(lambda: None)
    assert owner.calls == 1
    gone, count = weakref.ref(owner), len(forks._locks)
    del owner
    gc.collect()
    assert gone() is None
    assert len(forks._locks) < count
