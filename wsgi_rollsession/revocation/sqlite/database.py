"""The database of ``sqlite``: its tables, and what is done to them in one transaction."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from ...errors import ConfigurationError
from ..clock import CLOCK_STEP_MS, NEVER, expiry
from ..fence import EVERYTHING
from .continuity import Found, Mark

T = TypeVar("T")

APPLICATION_ID = int.from_bytes(b"RolS", "big")
#: Of the tables. Those of another version are not read.
VERSION = 2

_SQLITE_BUSY = 5

_SCHEMA = (
    # A raise replaces the row, under the next number. So a reader that asks for what is newer than what it has seen
    # misses nothing.
    "CREATE TABLE fences (seq INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,"
    # `raised` and not when it expires: a lifetime announced later counts for it, too. In Unix milliseconds.
    " number INTEGER NOT NULL, raised INTEGER NOT NULL)",
    "CREATE INDEX fences_raised ON fences (raised)",
    # `rows` and `total` are those of fences after the commit, and of their numbers. A file that is changed in place
    # while a commit is being written looks as if the commit had changed it; but then they do not fit.
    "CREATE TABLE history (sequence INTEGER PRIMARY KEY, id INTEGER NOT NULL, at INTEGER NOT NULL,"
    " rows INTEGER NOT NULL, total INTEGER NOT NULL)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
_RAISE = (
    "INSERT OR REPLACE INTO fences SELECT :seq, :key, max(:number, coalesce(max(number), 0)),"
    " max(:raised, coalesce(max(raised), 0)) FROM fences WHERE key = :key"
)
# More than a raise adds, so that the set shrinks to what is alive; bounded, so that no raise takes long.
_EXPIRED = "SELECT seq FROM fences WHERE raised < ? ORDER BY raised LIMIT 64"
_PURGE_HISTORY = (
    "DELETE FROM history WHERE sequence IN"
    " (SELECT sequence FROM (SELECT sequence, at FROM history ORDER BY sequence LIMIT 64) WHERE at < ?)"
)
_NEWEST = "SELECT max(coalesce(max(sequence), 0), (SELECT coalesce(max(seq), 0) FROM fences)) FROM history"
_TALLY = "SELECT rows, total FROM history ORDER BY sequence DESC LIMIT 1"
_FITS = f"SELECT (SELECT count(*) = rows AND coalesce(sum(seq), 0) = total FROM fences) FROM ({_TALLY})"  # noqa: S608
_MISTYPED = (
    "SELECT 1 FROM fences WHERE typeof(key) != 'blob' OR length(key) != 16 OR typeof(number) != 'integer'"
    " OR number NOT BETWEEN 0 AND 4294967295 OR typeof(raised) != 'integer'"
    " UNION ALL SELECT 1 FROM history WHERE typeof(id) != 'integer' OR typeof(at) != 'integer'"
    " UNION ALL SELECT 1 FROM meta WHERE typeof(value) != 'integer'"
)

# All that a reader wants to know, in one row. Every step of a statement gives up the interpreter, and other threads may
# keep it for milliseconds; but as long as a reader reads, nobody can commit.
_READ = """
    WITH kept (lifetime, oldest) AS (
        SELECT ms, :now - :step - ms FROM (SELECT coalesce((SELECT value FROM meta WHERE name = 'lifetime'), 0) AS ms)
    )
    SELECT tip.sequence, tip.id, tip.at,
        (SELECT id FROM history ORDER BY sequence DESC LIMIT 1 OFFSET 1),
        (SELECT number FROM fences WHERE key = :everything),
        EXISTS (SELECT 1 FROM history WHERE sequence = :position AND id = :position_id),
        kept.oldest, kept.lifetime,
        CASE WHEN :census THEN (SELECT count(*) = rows AND coalesce(sum(seq), 0) = total FROM fences) ELSE 1 END,
        alive.newest, alive.keys, alive.numbers
    FROM kept LEFT JOIN (SELECT * FROM history ORDER BY sequence DESC LIMIT 1) AS tip LEFT JOIN (
        SELECT max(seq) AS newest, group_concat(hex(key), '') AS keys, group_concat(number) AS numbers FROM (
            SELECT seq, key, number FROM fences WHERE raised >= (SELECT oldest FROM kept) AND seq > CASE
                WHEN EXISTS (SELECT 1 FROM history WHERE sequence = :loaded AND id = :loaded_id) THEN :after ELSE 0 END
            ORDER BY seq LIMIT :most
        )
    ) AS alive
"""
#: How many are alive, but for one key. They were raised after what ``oldest`` returns.
COUNT = "SELECT count(*) FROM fences WHERE key != :everything AND raised >= :oldest"


class DamagedError(Exception):
    """The file cannot be read as the revocation database that it was."""


#: What reading a damaged file can raise: SQLite may find it, or Python, which decodes what SQLite has found.
UNREADABLE = (DamagedError, sqlite3.DatabaseError, ValueError, TypeError, ArithmeticError, struct.error)


def oldest(now_ms: int, lifetime_ms: int) -> int:
    """When what is still alive was raised at the earliest, in Unix milliseconds."""
    return now_ms - lifetime_ms - CLOCK_STEP_MS


def connect(path: str) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any thread. Creates the file, and reads nothing."""
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def configure(connection: sqlite3.Connection, deadline: float) -> None:
    """What every connection needs. Undoes what a dead writer has left. Raises sqlite3.Error."""
    connection.execute("PRAGMA mmap_size = 0")  # to read what somebody truncates must be an error, not a signal
    # Not WAL: its index is mapped into memory, whatever that says. And DELETE and TRUNCATE take longer.
    persist(connection, "PRAGMA journal_mode = PERSIST", deadline)
    persist(connection, "PRAGMA synchronous = FULL", deadline)  # a commit is on the disk before it returns
    persist(connection, "PRAGMA journal_size_limit = 1048576", deadline)


class Reading(NamedTuple):
    """What the database holds, at one moment."""

    found: Found
    lifetime_ms: int  # the longest that was announced
    is_complete: bool  # the rows are those that the newest commit has counted; or nobody asked
    fences: list[tuple[bytes, int]]  # key and number
    newest: int  # the number of the last of those rows


def read(
    connection: sqlite3.Connection,
    deadline: float,
    look: Callable[[], T],
    now_ms: int,
    position: Mark | None,
    *,
    loaded: Mark | None = None,
    after: int = 0,
    most: int = 0,
    census: bool = False,
) -> tuple[Reading, T]:
    """Read, and call *look* before anybody else can commit, so it has to be short.

    Args:
        connection: from ``connect``.
        deadline: until when to wait for a commit that is being written, on the clock of ``time.monotonic``.
        look: its result is returned, too.
        now_ms: the store's clock, in Unix milliseconds.
        position: a commit that may be in the history.
        loaded: the commit up to which rows have been read.
        after: the number of the last of them.
        most: how many rows to read at most that have come since, the oldest ones, without those that have expired. If
            *loaded* is not in the history, it is from the beginning.
        census: whether to count all rows.

    Raises:
        sqlite3.Error: commits were being written until *deadline*, or the file cannot be read.
        ValueError: it holds what was never written.
    """
    names = {
        "everything": EVERYTHING,
        "position": position and position.sequence,
        "position_id": position and position.id,
        "loaded": loaded and loaded.sequence,
        "loaded_id": loaded and loaded.id,
        "after": after,
        "now": now_ms,
        "step": CLOCK_STEP_MS,
        "census": census,
        "most": most,
    }
    cursor = persist(connection, _READ, deadline, names)
    try:
        seen = look()  # until the row is fetched, the statement, and its lock, last
        row = cursor.fetchone()
    finally:
        cursor.close()
    sequence, mark_id, at, parent, everything, has_position, oldest_ms, lifetime_ms, is_complete, newest, *columns = row
    tip = None if sequence is None else Mark(sequence, mark_id, at)
    found = Found(tip, parent or 0, everything, bool(has_position), oldest_ms)
    return Reading(found, lifetime_ms, bool(is_complete), _fences(*columns), newest or 0), seen


def _fences(keys: str | None, numbers: str | None) -> list[tuple[bytes, int]]:
    """Raises ValueError if they are of other types than were written."""
    packed, values = bytes.fromhex(keys or ""), [int(each) for each in numbers.split(",")] if numbers else []
    if len(packed) != 16 * len(values):
        raise ValueError("a key is not of 16 bytes")
    return [(packed[16 * n : 16 * n + 16], value) for n, value in enumerate(values)]


def is_busy(error: BaseException) -> bool:
    """Whether another connection was in the way."""
    # Before Python 3.11 the error does not tell its cause.
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return bool(code & 0xFF == _SQLITE_BUSY)


def is_damage(error: BaseException) -> bool:
    """Whether what is in the file is not the database that it was."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error) or "decode" in str(error)  # a table or a column; a text
    return isinstance(error, UNREADABLE)


def persist(connection: sqlite3.Connection, statement: str, deadline: float, parameters: Any = ()) -> sqlite3.Cursor:
    """Execute *statement* as soon as no other connection is in the way, until *deadline* (``time.monotonic()``).

    SQLite's own busy handler waits ever longer between its attempts, so who is busy can keep another out.
    """
    while True:
        try:
            return connection.execute(statement, parameters)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or monotonic() >= deadline:
                raise
            sleep(0.001)


def require_usable(path: str) -> None:
    """Raises ConfigurationError if there cannot be a revocation database at *path*. Creates and changes nothing."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigurationError(f"revocations: requires an existing directory, received {directory!r}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"revocations: requires a directory it can write to, received {directory!r}")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path) or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigurationError(f"revocations: requires a file it can read and write, received {path!r}")
    if os.stat(path).st_nlink > 1:
        raise ConfigurationError(
            f"revocations: requires a database with one name, received {path!r}, which has another (a hard link):"
            " a logout under one name would not reach who uses the other"
        )
    if is_mounted(path):
        raise ConfigurationError(
            f"revocations: requires a database in a directory that all processes share, received {path!r}, which is"
            " mounted by itself, without the files beside it: mount its directory"
        )
    require_own(path)


def application_id(path: str) -> int:
    """What the header of the database at *path* says. 0: nothing. Raises sqlite3.Error."""
    with _untouched(path) as connection:
        return int(connection.execute("PRAGMA application_id").fetchone()[0])


@contextmanager
def _untouched(path: str) -> Iterator[sqlite3.Connection]:
    # Through SQLite and not by reading the file: closing that would drop the locks of this process's connections. And
    # immutable: what a dead writer has left is undone when it can be judged.
    name = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{name}?immutable=1", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def require_own(path: str) -> None:
    """Raises ConfigurationError if the file at *path* is something else."""
    try:
        if application_id(path) == APPLICATION_ID:
            return
        with _untouched(path) as connection:
            is_foreign = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,)
    except sqlite3.OperationalError:
        return  # the disk fails just now, say: that is an outage, not a configuration
    except UNREADABLE as error:
        if os.path.exists(f"{path}-stamp"):
            return  # it was one, and is damaged
        raise ConfigurationError(f"revocations: requires a revocation database, received {path!r}: {error}") from error
    if is_foreign and not os.path.exists(f"{path}-stamp"):
        raise ConfigurationError(f"revocations: requires a database of its own, received {path!r} with other tables")


def is_mounted(path: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether something is mounted on just this path, as far as the system tells."""
    try:
        with open(mounts, "rb") as lines:
            points = {line.split(b" ")[4] for line in lines}
    except (OSError, IndexError):
        return False
    escaped = os.fsencode(path)
    for character in b"\\ \t\n":
        escaped = escaped.replace(bytes([character]), b"\\%03o" % character)
    return escaped in points


class Transaction:
    """A write transaction, as a context manager: committed at its end if it has raised anything, or else rolled back.

    Args:
        connection: from ``connect``.
        now_ms: the store's clock, in Unix milliseconds.
        deadline: until when to wait for others, on the clock of ``time.monotonic``.
        before_commit: called with the id of the commit.
    """

    def __init__(
        self, connection: sqlite3.Connection, now_ms: int, deadline: float, before_commit: Callable[[int], object]
    ) -> None:
        self._execute = connection.execute
        self._connection = connection
        self._deadline = deadline
        self._before_commit = before_commit
        self._sequence = 0  # of the newest row; 0: not asked yet
        self._rows = self._total = 0
        self._is_changed = False
        self._begins_anew = False
        #: The commit was announced.
        self.is_announced = False
        self.now_ms = now_ms
        #: What was raised: key and number.
        self.raised: list[tuple[bytes, int]] = []
        #: The commit, if there is one.
        self.mark: Mark | None = None

    def __enter__(self) -> Transaction:
        persist(self._connection, "BEGIN IMMEDIATE", self._deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._is_changed:
                self._commit()
        finally:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")

    def _commit(self) -> None:
        oldest_ms = oldest(self.now_ms, self.meta("lifetime"))
        mark_id, sequence = int.from_bytes(os.urandom(7), "big") + 1, self._next()
        for (seq,) in self._execute(_EXPIRED, (oldest_ms,)).fetchall():
            self._execute("DELETE FROM fences WHERE seq = ?", (seq,))
            self._count(seq, -1)
        self._execute(_PURGE_HISTORY, (oldest_ms,))
        (latest_ms,) = self._execute("SELECT at FROM history ORDER BY sequence DESC LIMIT 1").fetchone() or (0,)
        at_ms = self.now_ms if self._begins_anew else max(self.now_ms, latest_ms)
        mark = Mark(sequence, mark_id, at_ms)
        self._execute("INSERT INTO history VALUES (?, ?, ?, ?, ?)", (*mark, self._rows, self._total))
        self.is_announced = True
        self._before_commit(mark.id)
        persist(self._connection, "COMMIT", self._deadline)
        self.mark = mark

    def create(self) -> None:
        """Create the tables, if there are none.

        Raises:
            DamagedError: there are, but not those.
        """
        tables = {name for (name,) in self._execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in _SCHEMA:
                self._execute(statement)
        elif tables != {"fences", "history", "meta"} or self._execute("PRAGMA user_version").fetchone() != (VERSION,):
            raise DamagedError("it has not the tables of this version")

    def require_intact(self) -> None:
        """Raises DamagedError, or sqlite3.DatabaseError, if what is in the file does not fit together."""
        (found,) = self._execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise DamagedError(" ".join(found.split()))
        if self._execute(_FITS).fetchone() == (0,):
            raise DamagedError("rows are missing")
        if self._execute(_MISTYPED).fetchone() is not None:
            raise DamagedError("a row holds what was never written")

    def found(self, position: Mark | None) -> Found:
        return read(self._connection, self._deadline, int, self.now_ms, position)[0].found

    def number(self, key: bytes) -> int | None:
        """The number of *key*, None if there is none."""
        row = self._execute("SELECT number FROM fences WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        """Raise *keys* to *number*."""
        self.raise_all([(key, number) for key in keys])

    def raise_all(self, raises: Sequence[tuple[bytes, int]]) -> None:
        """Raise each key to its number."""
        now, lifetime = self.now_ms, self.meta("lifetime")
        for key, number in raises:
            # Later than now, if the number has run ahead of the clock.
            raised = expiry(now, number, lifetime) - lifetime - CLOCK_STEP_MS
            seq = self._next()
            held = self._execute("SELECT seq FROM fences WHERE key = ?", (key,)).fetchone()
            if held is not None:
                self._count(held[0], -1)
            row = {"seq": seq, "key": key, "number": number, "raised": NEVER if key == EVERYTHING else raised}
            self._execute(_RAISE, row)
            self._count(seq, 1)
            self.raised.append((key, number))

    def _next(self) -> int:
        if not self._sequence:
            self._sequence = self._execute(_NEWEST).fetchone()[0]
            self._rows, self._total = self._execute(_TALLY).fetchone() or (0, 0)
        self._is_changed = True
        self._sequence += 1
        return self._sequence

    def _count(self, seq: int, rows: int) -> None:
        self._rows += rows
        self._total += rows * seq

    def begin_anew(self, number: int) -> None:
        """Raise EVERYTHING to *number*, for what may be lost. The clock of the past does not count any more."""
        self._begins_anew = True
        self.fence((EVERYTHING,), number)
        self.set_meta("genesis", self.now_ms)

    def meta(self, name: str) -> int:
        """0 if missing. In ms: ``lifetime`` (the longest announced) and ``genesis`` (the last loss)."""
        row = self._execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def set_meta(self, name: str, value: int) -> None:
        self._is_changed = True
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
