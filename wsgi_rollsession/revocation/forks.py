"""Locks that a forked child finds free, whatever the parent's threads were doing at that moment."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

#: In order of creation, so that an outer lock is taken before an inner one. And a method to call with it held.
_locks: list[tuple[weakref.ref[Any], weakref.WeakMethod[Any] | None]] = []
#: What each thread that forks just now holds. Per thread, because two may fork at once, one waiting for the other.
_held = threading.local()


def ForkSafeLock(before_fork: Callable[[], object] | None = None) -> threading.Lock:
    """A ``threading.Lock`` that is held across every fork of Python's own.

    So nobody is in the middle of what it protects when the process is copied, and both copies release it
    afterwards. A lock that is taken while another is held must have been created after that one.

    No class of its own: ``with`` over one of Python's would leave it held if a signal handler raised in between.

    Args:
        before_fork: a method, called in the parent with this lock, and all created before it, held.
    """
    lock = threading.Lock()
    hook = None if before_fork is None else weakref.WeakMethod(before_fork)
    entry = weakref.ref(lock, lambda _: _locks.remove(entry)), hook
    _locks.append(entry)
    return lock


def _before() -> None:
    _held.locks = []
    for reference, hook in list(_locks):
        lock = reference()
        if lock is not None:
            lock.acquire()
            _held.locks.append(lock)
            method = None if hook is None else hook()
            if method is not None:
                method()


def _after() -> None:
    for lock in reversed(_held.__dict__.pop("locks", ())):
        lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
