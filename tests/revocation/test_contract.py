"""The contract suite over the built-in stores that need no server. Those of Redis run it in test_redis.py."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from wsgi_rollsession.revocation import Revocations, StoreOptions, open_store
from wsgi_rollsession.revocation.local_set import LocalSet
from wsgi_rollsession.revocation.memory import MemoryRevocations
from wsgi_rollsession.revocation.sqlite import database
from wsgi_rollsession.testing.stores import HOUR_MS, KeptUntil, RevocationContract, SharedRevocationContract


def kept_in_memory(store: Any, key: bytes) -> float:
    """Until when, by the monotonic clock."""
    return float(store._local._state[2][key])


def kept_in_sqlite(store: Any, key: bytes) -> float:
    """Until when, by the wall clock, less the lifetime and the margin."""
    with contextlib.closing(sqlite3.connect(store._path)) as connection:
        (raised,) = connection.execute("SELECT raised FROM fences WHERE key = ?", (key,)).fetchone()
    return float(raised)


class TestMemory(RevocationContract):
    @pytest.fixture
    def open_store(self) -> Callable[[StoreOptions], Revocations]:
        return MemoryRevocations

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_memory


class TestSQLite(SharedRevocationContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(f"sqlite:///{tmp_path}/revocations.db", options)

    @pytest.fixture
    def kept_until(self) -> KeptUntil:
        return kept_in_sqlite


def renews_only_what_grows(self: LocalSet, rows: Iterable[tuple[bytes, int, int]]) -> None:
    """A raise with a smaller number is not looked at."""
    _load(self, [row for row in rows if row[1] > self.numbers((row[0],))[0]])


def the_last_lifetime_counts(self: LocalSet, rows: Iterable[tuple[bytes, int, int]]) -> None:
    """Of two lifetimes not the larger one is kept."""
    rows = list(rows)
    for key, _, expires_ms in rows:
        self._state[2][key] = expires_ms
    _load(self, rows)


_load = LocalSet.load
_RAISE = database._RAISE
LIFETIMES = [
    (TestMemory.test_a_raise_renews_the_lifetime, LocalSet, "load", renews_only_what_grows),
    (TestMemory.test_a_raise_never_shortens_a_lifetime, LocalSet, "load", the_last_lifetime_counts),
    (
        TestSQLite.test_a_raise_renews_the_lifetime,
        database,
        "_RAISE",
        _RAISE.replace("max(:raised, coalesce(max(raised), 0))", "coalesce(max(raised), :raised)"),
    ),
    (
        TestSQLite.test_a_raise_never_shortens_a_lifetime,
        database,
        "_RAISE",
        _RAISE.replace("max(:raised, coalesce(max(raised), 0))", ":raised"),
    ),
]


@pytest.mark.parametrize(("test", "owner", "name", "double"), LIFETIMES)
def test_mutants_of_the_lifetime(test: Any, owner: Any, name: str, double: Any, tmp_path: Path) -> None:
    """A store that merges numbers but not lifetimes by the larger fails the contract."""
    options, kept = StoreOptions(HOUR_MS), kept_in_memory if owner is LocalSet else kept_in_sqlite
    url = f"sqlite:///{tmp_path}/mutant.db"
    assert getattr(owner, name) != double
    with mock.patch.object(owner, name, double):
        store: Any = MemoryRevocations(options) if owner is LocalSet else open_store(url, options)
        with contextlib.closing(store), pytest.raises(AssertionError):
            test(None, store, kept)
