"""The database of ``sqlite``: its tables, and what is done to them in one transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import NamedTuple

from ..errors import ConfigurationError
from .clock import CLOCK_STEP_MS, NEVER, expiry
from .fence import EVERYTHING

APPLICATION_ID = int.from_bytes(b"RolS", "big")

_SQLITE_BUSY = 5

_SCHEMA = (
    # AUTOINCREMENT never uses a sequence number again, and a raise replaces the row, which gives it a new one.
    # So a reader that asks for what is newer than the last number it saw misses nothing.
    "CREATE TABLE fences (seq INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE,"
    # `raised` and not when it expires: a lifetime announced later counts for it, too. In Unix milliseconds.
    " number INTEGER NOT NULL, raised INTEGER NOT NULL)",
    "CREATE INDEX fences_raised ON fences (raised)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
_RAISE = (
    "INSERT OR REPLACE INTO fences (key, number, raised) SELECT :key, max(:number, coalesce(max(number), 0)),"
    " max(:raised, coalesce(max(raised), 0)) FROM fences WHERE key = :key"
)
# More than a raise adds, so that the set shrinks to what is alive; bounded, so that no raise takes long.
_PURGE = "DELETE FROM fences WHERE seq IN (SELECT seq FROM fences WHERE raised < ? ORDER BY raised LIMIT 64)"

#: All rows after a sequence number, oldest first.
NEWER = "SELECT key, number, seq FROM fences WHERE seq > ? ORDER BY seq"
#: How many are alive, but for one key. They were raised after what ``oldest`` returns.
COUNT = "SELECT count(*) FROM fences WHERE key != ? AND raised >= ?"
_STATE = (
    "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'fences'),"
    " max(value) FILTER (WHERE name = 'id'), max(value) FILTER (WHERE name = 'clock'),"
    " max(value) FILTER (WHERE name = 'lifetime') FROM meta"
)


class State(NamedTuple):
    """What tells whether a database is still the same. 0 for what it does not hold."""

    sequence: int  # of its newest row
    database: int  # its id
    clock_ms: int  # the latest wall clock at which fences were raised
    lifetime_ms: int  # the longest that was announced


def state(connection: sqlite3.Connection) -> State:
    """Raises sqlite3.Error."""
    return State(*(value or 0 for value in connection.execute(_STATE).fetchone()))


def oldest(now_ms: int, lifetime_ms: int) -> int:
    """When what is still alive was raised at the earliest, in Unix milliseconds."""
    return now_ms - lifetime_ms - CLOCK_STEP_MS


def connect(path: str, deadline: float) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any thread. Waits for other processes until *deadline*."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        persist(connection, "PRAGMA journal_mode = WAL", deadline)
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before it returns
        connection.execute("PRAGMA journal_size_limit = 4194304")  # the WAL shrinks to 4 MB after a burst
    except BaseException:
        connection.close()
        raise
    return connection


def persist(connection: sqlite3.Connection, statement: str, deadline: float) -> None:
    """Execute *statement* as soon as no other process is in the way, until *deadline* (``time.monotonic()``).

    SQLite's own busy handler tries a dozen times in a second, so a busy writer can keep another out; and when two
    processes create a database at once, it lets one of them fail without waiting.
    """
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            # Before Python 3.11 the error does not tell its cause.
            is_busy = getattr(error, "sqlite_errorcode", _SQLITE_BUSY) & 0xFF == _SQLITE_BUSY
            if not is_busy or monotonic() >= deadline:
                raise
            sleep(0.001)
        else:
            return


def require_usable(path: str) -> None:
    """Raises ConfigurationError if there cannot be a revocation database at *path*. Creates nothing."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigurationError(f"revocations: requires an existing directory, received {directory!r}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"revocations: requires a directory it can write to, received {directory!r}")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path) or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigurationError(f"revocations: requires a file it can read and write, received {path!r}")
    # Through SQLite and not by reading the file: closing that would drop the locks of this process's connections.
    connection = sqlite3.connect(path, timeout=0)
    try:
        is_foreign = connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,) and (
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,)
        )
    except sqlite3.OperationalError:
        return  # locked, or the disk fails just now: that is an outage, not a configuration
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"revocations: requires a revocation database, received {path!r}: {error}") from error
    finally:
        connection.close()
    if is_foreign:
        raise ConfigurationError(f"revocations: requires a database of its own, received {path!r} with other tables")


class Transaction:
    """A write transaction, as a context manager: committed at its end, rolled back if that is an exception.

    Args:
        connection: from ``connect``.
        now_ms: the store's clock, in Unix milliseconds.
        deadline: until when to wait for other processes, on the clock of ``time.monotonic``.
    """

    def __init__(self, connection: sqlite3.Connection, now_ms: int, deadline: float) -> None:
        self._execute = connection.execute
        self._connection = connection
        self._deadline = deadline
        self.now_ms = now_ms
        #: What was raised: key and number.
        self.raised: list[tuple[bytes, int]] = []

    def __enter__(self) -> Transaction:
        persist(self._connection, "BEGIN IMMEDIATE", self._deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._execute("COMMIT")
        elif self._connection.in_transaction:
            self._execute("ROLLBACK")

    def create(self, database: int) -> None:
        """Create the tables, if they are missing, under the id *database*."""
        if self._execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            for statement in _SCHEMA:
                self._execute(statement)
            self.set_meta("id", database)

    def state(self) -> State:
        return state(self._connection)

    def number(self, key: bytes) -> int | None:
        """The number of *key*, None if there is none."""
        row = self._execute("SELECT number FROM fences WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        """Raise *keys* to *number*, and remove some of what has expired."""
        self.raise_all([(key, number) for key in keys])

    def raise_all(self, raises: Sequence[tuple[bytes, int]]) -> None:
        """Raise each key to its number, and remove some of what has expired."""
        now, lifetime = self.now_ms, self.meta("lifetime")
        for key, number in raises:
            # Later than now, if the number has run ahead of the clock.
            raised = expiry(now, number, lifetime) - lifetime - CLOCK_STEP_MS
            row = {"key": key, "number": number, "raised": NEVER if key == EVERYTHING else raised}
            self._execute(_RAISE, row)
            self.raised.append((key, number))
        self._execute(_PURGE, (oldest(now, lifetime),))
        self.set_meta("clock", max(now, self.meta("clock")))

    def meta(self, name: str) -> int:
        """0 if missing. In ms: ``lifetime`` (the longest announced), ``genesis`` (the last loss) and ``clock``."""
        row = self._execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def set_meta(self, name: str, value: int) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
