"""Everybody logs out at once: contention is no outage."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.storm import storm
from wsgi_rollsession.revocation.sqlite.store import WRITE_WAIT


@pytest.mark.parametrize(
    ("processes", "threads", "rounds"),
    [(8, 4, 3), pytest.param(64, 4, 3, marks=[pytest.mark.slow]), pytest.param(64, 4, 1, marks=[pytest.mark.slow])],
)
def test_all_are_confirmed(tmp_path: Path, processes: int, threads: int, rounds: int) -> None:
    """All logouts of all threads of all processes are confirmed, within the documented bound."""
    found = storm(tmp_path / "r.db", processes, threads, rounds)
    print(found)
    assert found["failures"] == 0, found["first_failure"]
    assert found["logouts"] == processes * threads * rounds
    assert found["longest_s"] <= WRITE_WAIT
