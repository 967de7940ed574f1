"""``sqlite:///path``: the revocation set of all processes on one host, in a SQLite database.

The database is the authority: a raise is committed and on the disk before it returns. Each process holds a
local set, and compares the ``Stamp`` to learn whether it is current, so a check takes about a microsecond,
without a system call and without releasing the interpreter lock. What that rests on is an order:

* a writer commits, then writes the stamp, then returns;
* a reader reads the stamp, then the rows newer than those it has, then remembers that stamp.

Once a ``PERIOD`` a check reads the rows whatever the stamp says, which finds the commit of a writer that died
before it wrote the stamp, and looks whether the files are still those it has open.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from time import monotonic
from typing import Any, Protocol, TypeAlias, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from . import StoreOptions
from .breaker import Breaker
from .clock import (
    SteadyClock,
    expiry,
    genesis,
    has_stepped_back,
    monotonic_ms,
    next_revoked_before,
    wall_clock_ms,
    when_it_may,
)
from .fence import ENDED, EVERYTHING, exceed
from .forks import ForkSafeLock
from .local_set import LocalSet
from .sqlite_file import COUNT, NEWER, Transaction, connect, oldest, require_usable, state
from .stamp import Stamp, inode

log = logging.getLogger("wsgi_rollsession")
T = TypeVar("T")

#: Of the database, its write-ahead log and the index of that.
_Inodes: TypeAlias = tuple[tuple[int, int] | None, tuple[int, int] | None, tuple[int, int] | None]

#: Seconds that a call waits at most for other threads and processes. Longer only for a slow disk, or while a thread
#: of this process loads a large set.
WAIT = 1.0
#: Seconds after which a check looks at the files whatever the stamp says.
PERIOD = 1.0
#: How many rows are read at once, between which other threads may write.
_BATCH = 4096

#: What a fork not announced by Python left in the child. To close it there would disturb the parent.
_inherited: list[object] = []


class SQLiteRevocations:
    """The protocol over one database file. Opened when first used, and again in every forked process.

    Args:
        path: the database; it is created if missing. Beside it are ``-wal``, ``-shm`` and ``-stamp``, so its
            directory must be writable, and on a local disk: SQLite's WAL does not work over a network.
        options: see ``StoreOptions``.

    Raises:
        ConfigurationError: the directory does not exist or is not writable, or the file is something else.
    """

    shared = True

    def __init__(
        self,
        path: str,
        options: StoreOptions,
        *,
        _clock: Callable[[], int] = wall_clock_ms,
        _monotonic: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._path = os.path.realpath(path)  # so that all who use it use the same stamp
        self._name = f"sqlite:///{self._path}"
        self._options = options
        self._clock = _clock  # of the database
        self._monotonic = _monotonic  # of the local set
        require_usable(self._path)
        # Two connections, so that a writer that waits for another process does not keep the readers waiting.
        self._write_lock = ForkSafeLock()
        self._read_lock = ForkSafeLock(before_fork=self._release)  # if both are held, taken second
        self._steady = SteadyClock(_clock, _monotonic)
        self._local = LocalSet(options.lifetime_ms)
        self._reading = Breaker(f"{self._name} (reading)")
        self._writing = Breaker(f"{self._name} (writing)")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._stamp: Stamp | None = None
        self._inodes: _Inodes = (None, None, None)
        self._process = 0  # that opened them
        self._database = 0  # the id of the database that the local set was loaded from
        self._sequence = 0  # and of the newest row in it
        self._newest = 0  # the newest row that this process has read or written
        self._latest_ms = 0  # the latest wall clock at which it has read any
        self._loading = False  # rows are being read just now
        self._closed = False
        # What `lookup` compares. They differ until the local set has been loaded.
        self._view: Sequence[int] = (0,)
        self._seen = -1
        self._check_at = 0.0

    @classmethod
    def from_url(cls, url: str, options: StoreOptions) -> SQLiteRevocations:
        """``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

        Raises:
            ConfigurationError: another form, an empty path, ``:memory:``, or a query.
        """
        path = url.removeprefix("sqlite:///")
        if path == url or not path or path.startswith(":") or path.endswith("/") or "?" in path or "#" in path:
            raise ConfigurationError(
                "revocations: requires sqlite:///relative.db or sqlite:////absolute/path.db, without a query,"
                f" received {url!r}"
            )
        return cls(path, options)

    # Reading

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        if self._view[0] != self._seen or monotonic() >= self._check_at:
            self._reading.call(self._refresh)
        return self._local.numbers(keys)

    lookup_now = lookup

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._local.numbers(keys)

    def _refresh(self) -> None:
        """Make the local set current."""
        deadline = monotonic() + WAIT
        with self._holding(deadline, self._read_lock):
            if self._is_usable(self._reader):
                if self._view[0] == self._seen and monotonic() < self._check_at:
                    return  # another thread has just done it
                if self._read_rows():
                    return
        with self._holding(deadline, self._write_lock, self._read_lock):
            self._open(deadline)
            if not self._read_rows():
                raise StoreUnavailable(f"{self._name} is being replaced again and again")

    def _read_rows(self) -> bool:
        """Load the rows that are new. False if the database has lost rows since this process opened it."""
        assert self._reader is not None
        now = self._clock()
        self._steady()  # which knows of the wall clock what it has seen
        newest = self._newest
        stamp = self._view[0]  # before the rows: who commits after this writes another one
        try:
            found = state(self._reader)
            if found.database != self._database or found.sequence < newest or has_stepped_back(now, found.clock_ms):
                return False
            self._newest = max(self._newest, found.sequence)
            if has_stepped_back(now, self._latest_ms) or found.lifetime_ms != self._local.lifetime_ms:
                self._sequence = 0  # fences live longer than the local set would keep them: read them all again
                self._latest_ms = now
                self._local.lifetime_ms = found.lifetime_ms
            self._load(self._reader)
        except BaseException:
            self._discard(self._reader)
            self._reader = None
            raise
        self._local.purge(self._monotonic())
        self._latest_ms = max(now, self._latest_ms)
        self._check_at = monotonic() + PERIOD
        self._seen = stamp  # last, for this lets other threads use the local set
        return True

    def _load(self, reader: sqlite3.Connection) -> None:
        rows = reader.execute(NEWER, (self._sequence,))
        self._loading = True
        try:
            while batch := rows.fetchmany(_BATCH):
                self._learn((key, number) for key, number, _ in batch)
                self._sequence = batch[-1][2]
        finally:
            self._loading = False

    def _learn(self, fences: Iterable[tuple[bytes, int]]) -> None:
        """Put *fences* into the local set. It keeps them for a lifetime from now on, by a clock that never steps."""
        wall, now, lifetime = self._clock(), self._monotonic(), self._local.lifetime_ms
        usual = now + expiry(wall, 0, lifetime) - wall
        far = (wall + lifetime) // 1000
        self._local.load(
            (key, number, usual if number <= far or number == ENDED else now + expiry(wall, number, lifetime) - wall)
            for key, number in fences
        )

    # Writing

    def fence(self, keys: Sequence[bytes], number: int) -> None:
        self._writing.call(self._write, lambda transaction: transaction.fence(keys, number))

    def fence_now(self, keys: Sequence[bytes]) -> int:
        def change(transaction: Transaction) -> int | None:
            held = [transaction.number(key) or 0 for key in keys]
            number = next_revoked_before(self._steady(), held, everything=EVERYTHING in keys)
            if number is not None:
                transaction.fence(keys, number)
            return number

        return when_it_may(lambda: self._writing.call(self._write, change))

    def compare_and_raise(self, limits: Sequence[tuple[bytes, int]], raises: Sequence[tuple[bytes, int]]) -> bool:
        keys = [key for key, _ in limits]
        if not raises:
            return not exceed(self.lookup_now(keys), limits)

        def change(transaction: Transaction) -> bool:
            held = [transaction.number(key) or 0 for key in keys]
            # The database may have lost what this process knows.
            if exceed(held, limits) or exceed(self._local.numbers(keys), limits):
                return False
            transaction.raise_all(raises)
            return True

        is_raised: bool = self._writing.call(self._write, change)
        return is_raised

    def _write(self, change: Callable[[Transaction], T]) -> T:
        deadline = monotonic() + WAIT
        with self._holding(deadline, self._write_lock):
            for _ in range(3):
                if not self._is_usable(self._writer):
                    with self._holding(deadline, self._read_lock):
                        self._open(deadline)
                place = self._inodes
                made = self._commit(change, deadline)
                if made and self._is_usable(self._writer):
                    return made[0]
                with self._holding(deadline, self._read_lock):
                    self._open(deadline)
                # If just the stamp was lost, everybody learns from the new one what was written. But what was written
                # to a database that is no longer in place, nobody will ever see.
                if made and place == self._inodes:
                    return made[0]
            raise StoreUnavailable(f"{self._name} is being replaced again and again")

    def _commit(self, change: Callable[[Transaction], T], deadline: float) -> tuple[T] | None:
        """Make and announce a change. None if it was not made, because the database has lost rows."""
        assert self._writer is not None
        assert self._stamp is not None
        try:
            with Transaction(self._writer, self._clock(), deadline) as transaction:
                if self._lost_until(transaction, self._stamp):
                    return None  # the stamp must not be overwritten before that has been acted upon
                result = change(transaction)
                found = transaction.state()
        except BaseException:
            self._discard(self._writer)
            self._writer = None
            raise
        if transaction.raised:
            self._learn(transaction.raised)
            self._newest = max(self._newest, found.sequence)
            self._stamp.write(found.database, found.sequence)
        return (result,)

    # The files

    @contextmanager
    def _holding(self, deadline: float, *locks: Lock) -> Iterator[None]:
        """Hold *locks*, and turn errors into ``StoreUnavailable``."""
        with ExitStack() as stack:
            for lock in locks:
                loading = self._loading
                while not lock.acquire(timeout=max(0.0, deadline - monotonic())):
                    loaded, loading = loading, self._loading
                    if not (loading or loaded):  # one that has just loaded may not have released it yet
                        raise StoreUnavailable(f"{self._name}: the other threads took longer than {WAIT:g} s")
                    deadline = monotonic() + WAIT  # the one that has it does what this one waits for
                stack.callback(lock.release)
            if self._closed:
                raise StoreUnavailable(f"{self._name} has been closed")
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailable(f"{self._name}: {error}") from error

    def _is_usable(self, connection: sqlite3.Connection | None) -> bool:
        """Whether this process has opened it, and the files are still in place."""
        if connection is None or self._stamp is None or self._process != os.getpid():
            return False
        return self._find_inodes() == self._inodes and self._stamp.is_in_place()

    def _find_inodes(self) -> _Inodes:
        return inode(self._path), inode(f"{self._path}-wal"), inode(f"{self._path}-shm")

    def _open(self, deadline: float) -> None:
        """Open the files, create what is missing. Both locks are held. If it fails, what is in place stays open."""
        if not self._is_usable(self._reader):
            # SQLite lets all connections of a process share what it knows about a write-ahead log. One that is opened
            # beside another whose log was deleted would use the wrong one.
            self._release()
        with ExitStack() as opened:
            place = inode(self._path)  # before it is opened: replaced in between, it will be opened again
            writer = connect(self._path, deadline)
            opened.callback(writer.close)
            stamp = Stamp(f"{self._path}-stamp", os.stat(self._path).st_mode & 0o666)
            opened.callback(stamp.close)
            database, sequence = self._prepare(writer, stamp, deadline)
            stamp.write(database, sequence)
            reader = connect(self._path, deadline)
            reader.execute(f"PRAGMA busy_timeout = {int(WAIT * 1000)}")
            opened.pop_all()
        self._release()
        if database != self._database:
            self._sequence = 0  # read all of it; what the local set knows already stays
        self._newest = sequence
        self._writer, self._reader, self._database = writer, reader, database
        found = self._find_inodes()
        self._inodes = place or found[0], *found[1:]
        self._process = os.getpid()
        self._seen = -1
        self._stamp, self._view = stamp, stamp.view

    def _prepare(self, writer: sqlite3.Connection, stamp: Stamp, deadline: float) -> tuple[int, int]:
        """Create the tables, announce the lifetime, and act on a loss. Returns the database's id and sequence."""
        with Transaction(writer, self._clock(), deadline) as transaction:
            new_id = int.from_bytes(os.urandom(7), "big") + 1
            transaction.create(new_id)
            transaction.set_meta("lifetime", max(transaction.meta("lifetime"), self._options.lifetime_ms))
            lost_until_ms = self._lost_until(transaction, stamp)
            if lost_until_ms:
                if self._database or stamp.read() != (0, 0):
                    log.error(
                        "%s has lost fences: the file was deleted or replaced, or the clock went back", self._name
                    )
                known = [transaction.number(EVERYTHING) or 0, *self._local.numbers((EVERYTHING,))]
                number = 0 if self._options.accept_amnesia else genesis(max(lost_until_ms, self._steady()), known)
                transaction.fence((EVERYTHING,), number)
                transaction.set_meta("id", new_id)  # its sequence numbers may be those of other rows
                transaction.set_meta("genesis", transaction.now_ms)
                transaction.set_meta("clock", transaction.now_ms)
            found = transaction.state()
        return found.database, found.sequence

    def _lost_until(self, transaction: Transaction, stamp: Stamp) -> int:
        """0, or until when (Unix milliseconds) sessions were created whose fences the database may have lost."""
        found = transaction.state()
        if has_stepped_back(transaction.now_ms, found.clock_ms):
            return found.clock_ms

        def lacks(database: int, sequence: int) -> bool:
            return database != 0 and (database != found.database or sequence > found.sequence)

        everything = transaction.number(EVERYTHING)
        is_lost = everything is None or lacks(*stamp.read())
        if not is_lost and lacks(self._database, self._newest):
            # Whoever acts on a loss gives the database a new id, and raises EVERYTHING.
            (known,) = self._local.numbers((EVERYTHING,))
            has_grown = everything is not None and everything > known
            is_lost = found.database == self._database or not (has_grown or self._options.accept_amnesia)
        return transaction.now_ms if is_lost else 0

    def _release(self) -> None:
        """Close the files. Both locks are held. The view, and with it `lookup`, stays valid."""
        for opened in (self._writer, self._reader, self._stamp):
            self._discard(opened)
        self._writer = self._reader = self._stamp = None

    def _discard(self, opened: _Closable | None) -> None:
        if opened is not None and self._process == os.getpid():
            opened.close()
        elif opened is not None:
            _inherited.append(opened)

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._closed = True
            self._release()
            self._view, self._seen = (0,), -1

    def status(self) -> dict[str, Any]:
        return self._reading.call(self._status)

    def _status(self) -> dict[str, Any]:
        self._refresh()
        with self._holding(monotonic() + WAIT, self._read_lock):
            if self._reader is None:
                raise StoreUnavailable(f"{self._name} has just become unavailable")
            meta = dict(self._reader.execute("SELECT name, value FROM meta"))
            alive = EVERYTHING, oldest(self._clock(), meta["lifetime"])
            (fences,) = self._reader.execute(COUNT, alive).fetchone()
            return {
                "store": "sqlite",
                "path": self._path,
                "fences": fences,
                "genesis": meta["genesis"] // 1000,
                "lifetime": meta["lifetime"] // 1000,
                "database_bytes": os.path.getsize(self._path),
                "wal_bytes": os.path.getsize(f"{self._path}-wal"),
            }


class _Closable(Protocol):
    def close(self) -> None: ...
