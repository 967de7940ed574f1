"""Everybody logs out at once: contention is no outage."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.storm import storm
from wsgi_rollsession.revocation.sqlite.store import LONGEST_WAIT

from .workers import report


@pytest.mark.parametrize(
    ("processes", "threads", "rounds"),
    [(8, 4, 3), pytest.param(64, 4, 1, marks=[pytest.mark.slow])],
)
def test_all_are_confirmed(tmp_path: Path, processes: int, threads: int, rounds: int) -> None:
    """All logouts of all threads of all processes are confirmed, within the documented bound."""
    found = storm(tmp_path / "r.db", processes, threads, rounds)
    print(found)
    assert found["failures"] == 0, found["first_failure"]
    assert found["logouts"] == processes * threads * rounds
    assert found["longest_s"] <= LONGEST_WAIT
    report(
        f"{processes} processes with {threads} threads each log out at once, {rounds} times without a pause",
        f"contention is no outage: all are confirmed, in turn, within {LONGEST_WAIT:g} s",
        f"{found['logouts']} of {found['logouts']} confirmed; median {found['median_s']:.1f} s,"
        f" p99 {found['p99_s']:.1f} s, longest {found['longest_s']:.1f} s",
    )
