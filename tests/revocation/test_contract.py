"""The contract suite over the built-in stores that need no server. Those of Redis run it in test_redis.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wsgi_rollsession.revocation import Revocations, StoreOptions, open_store
from wsgi_rollsession.testing.stores import RevocationContract, SharedRevocationContract


class TestMemory(RevocationContract):
    @pytest.fixture
    def open_store(self) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store("memory://", options)


class TestSQLite(SharedRevocationContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[StoreOptions], Revocations]:
        return lambda options: open_store(f"sqlite:///{tmp_path}/revocations.db", options)
