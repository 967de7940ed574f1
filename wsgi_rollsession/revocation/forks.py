"""Locks that a forked child finds free, whatever the parent's threads were doing at that moment."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

_locks: list[weakref.ref[ForkSafeLock]] = []  # in order of creation, so that an outer lock is taken before an inner one
_held: list[ForkSafeLock] = []


class ForkSafeLock:
    """A ``threading.Lock`` that is held across every fork of Python's own.

    So nobody is in the middle of what it protects when the process is copied, and both copies release it
    afterwards. A lock that is taken while another is held must have been created after that one.

    Args:
        before_fork: called in the parent with this lock, and all created before it, held.
    """

    def __init__(self, before_fork: Callable[[], object] | None = None) -> None:
        self._lock = threading.Lock()
        self.before_fork = before_fork
        _locks.append(weakref.ref(self, _locks.remove))

    def acquire(self, timeout: float = -1) -> bool:
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


def _before() -> None:
    for lock in [lock for reference in list(_locks) if (lock := reference()) is not None]:
        lock.acquire()
        _held.append(lock)
        if lock.before_fork is not None:
            lock.before_fork()


def _after() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
