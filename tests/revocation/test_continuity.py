"""Is it still the same data? The table of what the fault tests do to a SQLite store's files, and what it has to say."""

from __future__ import annotations

import pytest

from wsgi_rollsession.revocation.clock import CLOCK_STEP_MS
from wsgi_rollsession.revocation.sqlite.continuity import (
    FileState,
    Found,
    Generation,
    Mark,
    Verdict,
    Witness,
    judge,
    lost_until,
)

NOW = 1_800_000_000_000
LIFETIME = 3_600_000
OLDER, X, Y, Z = (Mark(n, 1000 + n, NOW - 60_000 + 1000 * n) for n in range(1, 5))
FILE = FileState(inode=7, changed_ns=NOW * 1_000_000 + 123_456_789, size=40_960)
CHANGED = FILE._replace(changed_ns=FILE.changed_ns + 1)
EVERYTHING = NOW // 1000 - 3000


def found(
    tip: Mark | None, parent: int = 0, everything: int | None = EVERYTHING, *, has_position: bool = True
) -> Found:
    return Found(tip, parent, everything, has_position, NOW - LIFETIME)


def witness(
    stamp: Mark | None,
    recorded: FileState = FILE,
    file: FileState | None = FILE,
    *,
    intent: int = 0,
    held: Generation | None = None,
    position: Mark | None = None,
    everything: int = EVERYTHING,
    has_trace: bool = False,
) -> Witness:
    generation = Generation(stamp, recorded) if stamp else None
    return Witness(file, generation, intent, held, position, everything, has_trace)


HELD = Generation(X, FILE)
TABLE = [
    # what happened, what is found, what speaks for it, what it is
    ("nothing", found(X), witness(X), Verdict.SAME),
    ("nothing, seen by a process that knows it", found(X), witness(X, position=X), Verdict.SAME),
    ("others have raised since this process has looked", found(Y), witness(Y, position=X), Verdict.SAME),
    ("all files are new", found(None, everything=None), witness(None), Verdict.NEW),
    ("the tables are empty, the stamp is not", found(None, everything=None), witness(X), Verdict.EMPTY),
    ("all files were deleted under a process", found(None, everything=None), witness(None, position=X), Verdict.EMPTY),
    ("all files were deleted, a stamp was open", found(None, everything=None), witness(None, held=HELD), Verdict.EMPTY),
    ("what was damaged was set aside", found(None, everything=None), witness(None, has_trace=True), Verdict.EMPTY),
    ("EVERYTHING was deleted by hand", found(X, everything=None), witness(X), Verdict.EMPTY),
    ("an older copy while nothing runs", found(OLDER), witness(X, FILE, CHANGED), Verdict.REPLACED),
    ("an older copy, its stamp put back with it", found(OLDER), witness(OLDER, FILE, CHANGED), Verdict.REPLACED),
    ("the newest copy in the place of the file", found(X), witness(X, file=FILE._replace(inode=8)), Verdict.REPLACED),
    ("in place, with the times of the copy", found(OLDER), witness(OLDER, file=CHANGED), Verdict.REPLACED),
    ("truncated and so healed", found(X), witness(X, file=FILE._replace(size=4096)), Verdict.REPLACED),
    ("an equal length, another history", found(X._replace(id=5)), witness(X), Verdict.REPLACED),
    ("another history, known to a process", found(Y, has_position=False), witness(Y, position=X), Verdict.FORKED),
    ("the stamp is gone while nothing runs", found(X), witness(None), Verdict.UNKNOWN),
    ("the stamp is gone, a process had it open", found(X), witness(None, held=HELD, position=X), Verdict.SAME),
    ("the stamp is gone, the database is changed", found(X), witness(None, file=CHANGED, held=HELD), Verdict.UNKNOWN),
    ("the stamp is gone, the process is behind", found(Y), witness(None, held=HELD, position=X), Verdict.UNKNOWN),
    ("a stamp of before, a process had the newest open", found(X), witness(OLDER, held=HELD), Verdict.SAME),
    ("a writer died before its commit", found(X), witness(X, intent=Y.id), Verdict.SAME),
    ("a writer died in its commit, undone", found(X), witness(X, file=CHANGED, intent=Y.id), Verdict.UNFINISHED),
    ("a writer died after its commit", found(Y, X.id), witness(X, file=CHANGED, intent=Y.id), Verdict.UNFINISHED),
    ("a commit that nobody announced", found(Y, X.id), witness(X, file=CHANGED), Verdict.REPLACED),
    ("another commit than was announced", found(Z, X.id), witness(X, file=CHANGED, intent=Y.id), Verdict.REPLACED),
    ("announced after another one", found(Y, OLDER.id), witness(X, file=CHANGED, intent=Y.id), Verdict.REPLACED),
    ("the clock went back", found(X._replace(at_ms=NOW + CLOCK_STEP_MS + 1)), witness(X), Verdict.CLOCK),
    ("the clock went back by little", found(X._replace(at_ms=NOW + CLOCK_STEP_MS)), witness(X), Verdict.SAME),
    ("the database was deleted, its place is empty", found(X), witness(X, file=None), Verdict.REPLACED),
]


@pytest.mark.parametrize(("found", "witness", "verdict"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table(found: Found, witness: Witness, verdict: Verdict) -> None:
    """What is found, and what speaks for it, decides whether the set begins anew."""
    assert judge(found, witness, NOW) is verdict


COVERS = -(-X.at_ms // 1000)


@pytest.mark.parametrize(
    ("everything", "known", "position", "verdict"),
    [
        (COVERS, EVERYTHING, X, Verdict.SAME),  # somebody has acted on the loss
        (COVERS - 1, EVERYTHING, X, Verdict.FORKED),  # that was another loss, before what this process knows
        (COVERS, COVERS, X, Verdict.FORKED),  # sessions may have passed it
        (EVERYTHING, EVERYTHING, X._replace(at_ms=NOW - LIFETIME - 1), Verdict.SAME),  # what it knows has expired
    ],
)
def test_another_history(everything: int, known: int, position: Mark, verdict: Verdict) -> None:
    """A process that finds another history is content if EVERYTHING covers all that it knows."""
    other = found(Z, everything=everything, has_position=False)
    assert judge(other, witness(Z, position=position, everything=known), NOW) is verdict


def test_accepted() -> None:
    """With amnesia=accept EVERYTHING is never raised, and a process goes over to another history."""
    other = found(Z, everything=0, has_position=False)
    assert judge(other, witness(Z, position=X), NOW, accept_amnesia=True) is Verdict.SAME


@pytest.mark.parametrize("now", [X.at_ms - 1000, NOW])
def test_until_when(now: int) -> None:
    """Lost is what was confirmed until now, or by a clock that was ahead until the newest commit that is known."""
    empty = found(None, everything=None)
    for known in (witness(X), witness(None, held=HELD), witness(None, position=X)):
        assert lost_until(empty, known, now) == max(now, X.at_ms)
    assert lost_until(found(X), witness(None), now) == max(now, X.at_ms)


def test_a_time_that_lost_its_fraction() -> None:
    """A small file system forgets the nanoseconds of a file that it has not in memory any more."""
    rounded = FILE._replace(changed_ns=FILE.changed_ns // 1_000_000_000 * 1_000_000_000)
    assert rounded.is_the_same(FILE)
    assert not rounded._replace(changed_ns=rounded.changed_ns + 1_000_000_000).is_the_same(FILE)
    assert not FILE.is_the_same(rounded)


def test_what_is_a_loss() -> None:
    """All verdicts but two begin the set anew."""
    assert {verdict for verdict in Verdict if not verdict.is_loss} == {Verdict.SAME, Verdict.UNFINISHED}
