"""The protocol over one SQLite database file.

The database is the authority: a raise is committed and on the disk before it returns. Each process holds a local set,
and looks at the stamp to learn whether it is current (``generation``), so a check takes less than a microsecond: once a
``LEASE`` it takes three system calls, and else none. What that rests on is an order:

* a writer commits, then writes the stamp, then waits a lease, then returns;
* a reader reads the stamp, then the rows newer than those it has, then remembers that stamp.

Once a ``PERIOD`` a check reads the rows whatever the stamp says, which finds the commit of a writer that died before it
wrote the stamp, and looks whether the files are still those it has open.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from time import monotonic, sleep
from typing import Any

from ...errors import ConfigurationError, StoreUnavailable
from .. import StoreOptions
from ..breaker import Breaker, Busy
from ..clock import (
    SteadyClock,
    expiry,
    genesis,
    has_stepped_back,
    monotonic_ms,
    next_revoked_before,
    wall_clock_ms,
    when_it_may,
)
from ..fence import ENDED, EVERYTHING, exceed
from ..forks import ForkSafeLock
from ..local_set import LocalSet
from .continuity import FileState, Generation, Mark, Verdict, Witness, judge, lost_until
from .database import (
    APPLICATION_ID,
    COUNT,
    UNREADABLE,
    Transaction,
    application_id,
    is_busy,
    is_damage,
    oldest,
    persist,
    read,
    require_usable,
)
from .files import Files
from .generation import LEASE, NOTHING, SETTLED, GenerationFile, decoded, file_state

log = logging.getLogger("wsgi_rollsession")

#: Seconds that a check waits at most for other threads and processes. Longer only for a slow disk, or while a thread
#: of this process loads a large set.
WAIT = 1.0
#: And a raise, while nobody commits. When everybody logs out at once, they are served one after another.
WRITE_WAIT = 5.0
#: And while others do.
LONGEST_WAIT = 15.0
#: Seconds after which a check looks at the files and the rows whatever the stamp says.
PERIOD = 1.0
#: Seconds for which a look at the stamp holds.
LOOK = LEASE
#: Seconds after a loss was found, before the set begins anew. Numbers are whole seconds: a genesis that was written
#: just before, and is lost as well, must be smaller. And a running process may know that nothing is lost.
_BEGIN_ANEW = 2.1
#: How many rows are read at once, between which other threads and processes may write.
_BATCH = 4096


class _Job:
    """A change that a thread wants to be made. One thread commits what others have brought meanwhile, too."""

    def __init__(self, change: Callable[[Transaction], Any]) -> None:
        self.change = change
        self.process = os.getpid()
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.seen_by_all_at = 0.0


class SQLiteRevocations:
    """The protocol over one database file. Opened when first used, and again in every forked process.

    Args:
        path: the database; it is created if missing. Beside it are ``-journal`` and ``-stamp``, so its directory must
            be writable, and on a local disk.
        options: see ``StoreOptions``.

    Raises:
        ConfigurationError: the directory does not exist or is not writable, or the file is something else, or has
            several names.
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
        self._write_lock = ForkSafeLock()
        self._read_lock = ForkSafeLock(before_fork=self._release)  # if both are held, taken second
        self._steady = SteadyClock(_clock, _monotonic)
        self._local = LocalSet(options.lifetime_ms)
        self._reading = Breaker(f"{self._name} (reading)")
        self._writing = Breaker(f"{self._name} (writing)")
        self._jobs: deque[_Job] = deque()
        self._files: Files | None = None
        self._held: Generation | None = None  # what the stamp said that is, or was, open
        self._position: Mark | None = None  # the newest commit that this process has read or made
        self._loaded: Mark | None = None  # and the one up to which the local set holds its rows
        self._is_suspect = False  # some of the database could not be read
        self._latest_ms = 0  # the latest wall clock at which it has read any
        self._loading = False  # rows are being read just now, or another process is waited for
        self._closed = False
        # What a look compares: the open stamp, what it said when the rows were read, and the database.
        self._look: tuple[GenerationFile, bytes, FileState] | None = None
        self._current_until = 0.0
        self._check_at = 0.0
        self._census_at = 0.0

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
        store = cls(path, options)
        if not os.path.isabs(path):
            log.warning(
                "revocations: %r is relative to the working directory, and means %s. Processes with another working"
                " directory would use another database: give the absolute path",
                url,
                f"sqlite:///{store._path}",
            )
        return store

    # Reading

    def lookup(self, keys: Sequence[bytes]) -> Sequence[int]:
        if monotonic() >= self._current_until and not self._is_current():
            self._reading.call(self._refresh)
        return self._local.numbers(keys)

    lookup_now = lookup

    def last_known(self, keys: Sequence[bytes]) -> Sequence[int]:
        return self._local.numbers(keys)

    def _is_current(self) -> bool:
        """Whether stamp and database are as they were when the rows were read. If so, that holds for a lease."""
        begun = monotonic()
        if self._look is None or begun >= self._check_at:
            return False
        generation, settled, state = self._look
        try:
            content = generation.content()  # if another thread closes it meanwhile, this fails, or differs
            if not content.startswith(settled) or not generation.is_in_place():
                return False
            # While a commit is under way the file changes, and what it raises has not been confirmed to anybody.
            if content.startswith(NOTHING, SETTLED) and file_state(self._path) != state:
                return False
        except OSError:
            return False
        self._current_until = begun + LOOK
        return True

    def _refresh(self) -> None:
        """Make the local set current, as of this call."""
        begun = monotonic()
        try:
            self._make_current(begun)
        except StoreUnavailable:
            if begun >= self._current_until:  # else another thread has done it, and this one has not even got the lock
                raise

    def _make_current(self, begun: float) -> None:
        deadline = begun + WAIT
        with self._holding(deadline, self._read_lock):
            if begun < self._current_until:
                return  # another thread has done it meanwhile
            if self._files is not None and self._files.are_usable():
                if self._is_current() or self._read_rows(self._files, deadline):
                    return
        with self._holding(deadline, self._write_lock, self._read_lock):
            if begun < self._current_until:
                return
            files = self._open(monotonic() + WRITE_WAIT)
            if not self._read_rows(files, monotonic() + WAIT):
                raise StoreUnavailable(f"{self._name} is being replaced again and again")

    def _read_rows(self, files: Files, deadline: float) -> bool:
        """Load the rows that are new. False if it has to be asked, in a turn of one's own, whether any were lost."""
        now, begun = self._clock(), monotonic()
        self._steady()  # which knows of the wall clock what it has seen
        loaded, accept = self._loaded, self._options.accept_amnesia
        after = loaded.sequence if loaded else 0
        try:
            while True:
                position = self._position
                asked, is_due = monotonic(), loaded is None or monotonic() >= self._census_at
                reading, (content, intent, state) = read(
                    files.reader,
                    deadline,
                    files.look,
                    now,
                    position,
                    loaded=loaded,
                    after=after,
                    most=_BATCH,
                    census=is_due,
                )
                found, stamp = reading.found, decoded(content)
                witness = Witness(state, stamp, intent, None, position, self._everything())
                verdict = judge(found, witness, now, accept_amnesia=accept)
                # The writer of an early commit has yet to write the stamp, or died.
                is_early = verdict is Verdict.UNFINISHED and found.tip and found.tip.id == intent
                if stamp is None or found.tip is None or not (verdict is Verdict.SAME or is_early):
                    return False
                if has_stepped_back(now, self._latest_ms) or reading.lifetime_ms != self._local.lifetime_ms:
                    # Fences live longer than they were kept: read them all again.
                    self._loaded, loaded, after = None, None, 0
                    self._latest_ms = now
                    self._local.lifetime_ms = reading.lifetime_ms
                    continue
                if is_due:
                    self._census_at = monotonic() + max(PERIOD, 100 * (monotonic() - asked))
                if not reading.is_complete:
                    self._is_suspect = True
                    return False
                self._loading = True
                if self._position is position:
                    self._position = found.tip  # before what it has of EVERYTHING is known
                self._learn(reading.fences)
                loaded = found.tip
                if len(reading.fences) < _BATCH:
                    break
                after, deadline = reading.newest, monotonic() + WAIT
        except UNREADABLE as error:
            self._mistrust(files, error)
            if is_damage(error):
                return False
            raise
        finally:
            self._loading = False
        self._loaded, self._held = loaded, stamp
        self._local.purge(self._monotonic())
        self._latest_ms = max(now, self._latest_ms)
        self._check_at = begun + PERIOD
        self._look = files.generation, content[:SETTLED], stamp.file
        self._current_until = begun + LOOK  # last, for this lets other threads use the local set
        return True

    def _mistrust(self, files: Files, error: BaseException) -> None:
        """An error has left a connection in a state that is not known."""
        if not is_busy(error):
            files.is_spoiled = True
            self._is_suspect = self._is_suspect or is_damage(error)

    def _learn(self, fences: Iterable[tuple[bytes, int]]) -> None:
        """Put *fences* into the local set. It keeps them for a lifetime from now on, by a clock that never steps."""
        wall, now, lifetime = self._clock(), self._monotonic(), self._local.lifetime_ms
        usual = now + expiry(wall, 0, lifetime) - wall
        far = (wall + lifetime) // 1000
        self._local.load(
            (key, number, usual if number <= far or number == ENDED else now + expiry(wall, number, lifetime) - wall)
            for key, number in fences
        )

    def _everything(self) -> int:
        return self._local.numbers((EVERYTHING,))[0]

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

    def _write(self, change: Callable[[Transaction], Any]) -> Any:
        """Have *change* made, together with what other threads want to be made. Its result."""
        job, begun = _Job(change), monotonic()
        self._jobs.append(job)
        try:
            with self._holding(begun + WRITE_WAIT, self._write_lock, longest=begun + LONGEST_WAIT):
                if not job.is_done:
                    self._commit_all(begun + LONGEST_WAIT)
        finally:
            with suppress(ValueError):
                self._jobs.remove(job)
        if isinstance(job.error, StoreUnavailable):
            raise StoreUnavailable(str(job.error)) from job.error
        if job.error is not None:
            raise StoreUnavailable(f"{self._name}: {job.error}") from job.error
        if (seconds := job.seen_by_all_at - monotonic()) > 0:
            sleep(seconds)
        return job.result

    def _commit_all(self, longest: float) -> None:
        """Make all changes that are wanted, in one commit. The write lock is held."""
        deadline = monotonic() + WRITE_WAIT
        for _ in range(3):
            if self._files is None or not self._files.are_usable():
                with self._holding(deadline, self._read_lock):
                    self._open(deadline)
            assert self._files is not None
            files = self._files
            jobs: list[_Job] = []
            try:
                is_made = self._commit(files, jobs, deadline, longest)
                if not is_made or not files.are_usable():
                    with self._holding(deadline, self._read_lock):
                        # If just the stamp was lost, everybody learns from the new one what was written. But what was
                        # written to a database that is no longer in place, nobody will ever see.
                        is_made = self._open(deadline).inode == files.inode and is_made
            except BaseException as error:
                for job in jobs:
                    job.is_done, job.error = True, error
                if jobs and isinstance(error, Exception):
                    return
                raise
            if is_made:
                for job in jobs:
                    job.is_done = True
                return
            self._jobs.extendleft(reversed(jobs))
        raise StoreUnavailable(f"{self._name} is being replaced again and again")

    def _commit(self, files: Files, jobs: list[_Job], deadline: float, longest: float) -> bool:
        """Make and announce the changes, which are moved to *jobs*. False if the database may have lost rows."""
        generation, process = files.generation, os.getpid()
        with generation.turn(deadline, longest):
            deadline = max(deadline, monotonic() + WAIT)
            content = generation.content()
            stamp = decoded(content)
            witness = Witness(None, stamp, generation.intent(content), None, self._position, self._everything())
            transaction = Transaction(files.writer, self._clock(), deadline, generation.intend)
            try:
                with transaction:
                    if not self._is_same(transaction, witness._replace(file=files.state())):
                        return False  # the stamp must not be overwritten before that has been acted upon
                    while self._jobs:
                        job = self._jobs.popleft()
                        if job.process == process:  # and not of the process that this one was forked from
                            jobs.append(job)
                            job.result = job.change(transaction)
            except BaseException as error:
                self._mistrust(files, error)
                if transaction.is_announced and stamp is not None:
                    self._undo(files, stamp.mark)
                raise
            if transaction.mark is None:
                return True  # nothing was raised
            self._learn(transaction.raised)
            self._position = transaction.mark
            state = files.state()
            if state is None:
                return False
            self._settle(files, transaction.mark, state)
        for job in jobs:
            job.seen_by_all_at = monotonic() + LEASE
        return True

    def _is_same(self, transaction: Transaction, witness: Witness) -> bool:
        found, accept = transaction.found(self._position), self._options.accept_amnesia
        return judge(found, witness, transaction.now_ms, accept_amnesia=accept) is Verdict.SAME

    def _settle(self, files: Files, mark: Mark, state: FileState) -> None:
        self._held = Generation(mark, state)
        files.generation.settle(self._held)

    def _undo(self, files: Files, mark: Mark) -> None:
        """A commit after *mark* was announced, and has failed. Undoing it has changed the file. The turn is held."""
        with suppress(sqlite3.Error, OSError):
            reading, state = read(files.writer, monotonic(), files.state, self._clock(), None)
            if reading.found.tip == mark and state is not None:
                self._settle(files, mark, state)

    # The files

    @contextmanager
    def _holding(self, deadline: float, *locks: Lock, longest: float = 0.0) -> Iterator[None]:
        """Hold *locks*, and turn errors into ``StoreUnavailable``.

        Waits until *deadline*. Longer while the thread that has the lock loads rows; and while commits are made, until
        *longest* at most.
        """
        patience = deadline - monotonic()
        with ExitStack() as stack:
            for lock in locks:
                loading, content = self._loading, self._content()
                while not lock.acquire(timeout=max(0.0, deadline - monotonic())):
                    now = monotonic()
                    loaded, loading = loading, self._loading
                    before, content = content, self._content()
                    if loading or loaded:  # one that has just loaded may not have released it yet
                        deadline = now + WAIT
                    elif content == before:
                        raise StoreUnavailable(f"{self._name}: the other threads took too long")
                    elif now >= longest:
                        raise Busy(f"{self._name}: so many write that it was not this one's turn in time")
                    else:
                        deadline = min(now + patience, longest)
                stack.callback(lock.release)
            if self._closed:
                raise StoreUnavailable(f"{self._name} has been closed")
            try:
                yield
            except (*UNREADABLE, OSError) as error:
                raise StoreUnavailable(f"{self._name}: {error}") from error

    def _content(self) -> bytes:
        """What the stamp says, which every commit changes."""
        with suppress(OSError, AttributeError):  # if another thread closes it meanwhile
            return self._files.generation.content()  # type: ignore[union-attr]
        return b""

    def _open(self, deadline: float) -> Files:
        """Open the files, create what is missing, and act on a loss. Both locks are held."""
        damage, act_at = "", monotonic() + _BEGIN_ANEW
        while True:
            self._release()
            files = self._files = Files(self._path)
            generation = files.generation
            with generation.turn(deadline):
                try:
                    verdict = self._prepare(files, deadline, damage, act_at)
                except UNREADABLE as error:
                    if not is_damage(error):
                        files.is_spoiled = True
                        raise
                    self._require_own(files, error)
                    damage = f"{error}; it is now {files.set_aside()}"
                    self._is_suspect = False
                    continue
            if verdict is None:
                return files
            self._loading = True
            try:
                stamp = generation.content()
                # A process that runs and knows that the database is complete writes a stamp, as soon as it looks. One
                # that begins it anew, too.
                while monotonic() < act_at and generation.is_in_place() and generation.content() == stamp:
                    sleep(0.02)
            finally:
                self._loading = False
            deadline = monotonic() + WAIT

    def _require_own(self, files: Files, error: Exception) -> None:
        """Before a damaged file is renamed: whether it is, or was, this store's. Raises StoreUnavailable."""
        if self._held or self._position or decoded(files.generation.content()):
            return
        with suppress(sqlite3.Error):
            if application_id(self._path) == APPLICATION_ID:
                return
        raise StoreUnavailable(f"{self._name} is something else: {error}") from error

    def _prepare(self, files: Files, deadline: float, damage: str, act_at: float) -> Verdict | None:
        """Find out whether anything was lost, and from *act_at* on act on it. A verdict: not yet, ask again then.

        Raises:
            DamagedError, sqlite3.Error: the database cannot be read.
        """
        generation = files.generation
        content = generation.content()
        stamp, intent = decoded(content), generation.intent(content)
        files.configure(deadline)
        with Transaction(files.writer, self._clock(), deadline, generation.intend) as transaction:
            transaction.create()
            witness = Witness(
                files.state(),
                stamp,
                intent,
                self._held,
                self._position,
                self._everything(),
                bool(damage) or not generation.is_new,
            )
            found = transaction.found(self._position)
            accept = self._options.accept_amnesia
            verdict = judge(found, witness, transaction.now_ms, accept_amnesia=accept)
            if verdict.is_loss and verdict not in (Verdict.NEW, Verdict.CLOCK) and not accept and monotonic() < act_at:
                return verdict
            if self._is_suspect or verdict not in (Verdict.SAME, Verdict.NEW, Verdict.EMPTY, Verdict.CLOCK):
                transaction.require_intact()
                self._is_suspect = False
            if transaction.meta("lifetime") < self._options.lifetime_ms:
                transaction.set_meta("lifetime", self._options.lifetime_ms)
            if verdict.is_loss:
                lost_until_ms = lost_until(found, witness, transaction.now_ms)
                known = found.everything or 0, self._everything()
                number = 0 if accept else genesis(max(lost_until_ms, self._steady()), known)
                transaction.begin_anew(number)
        mark, state = transaction.mark or found.tip, files.state()
        if state is None:
            raise FileNotFoundError(f"{self._path} is being replaced")
        assert mark is not None
        if transaction.mark is not None or verdict is Verdict.UNFINISHED or Generation(mark, state) != stamp:
            self._settle(files, mark, state)
        if transaction.mark is not None:
            self._learn(transaction.raised)
            self._position = mark
        if verdict.is_loss:
            self._tell(verdict, damage)
        return None

    def _tell(self, verdict: Verdict, damage: str) -> None:
        """Log that the set begins anew."""
        refused = (
            "nobody is refused for it (amnesia=accept)"
            if self._options.accept_amnesia
            else ("all sessions from before are refused")
        )
        if damage:
            log.error("%s has lost fences: it was damaged: %s; %s", self._name, damage, refused)
        elif verdict is Verdict.NEW:
            log.warning("%s is a new revocation database; %s", self._name, refused)
        else:
            log.error("%s has lost fences: %s; %s", self._name, verdict.value, refused)

    def _release(self) -> None:
        """Close the files. Both locks are held."""
        self._look, self._current_until = None, 0.0
        files, self._files = self._files, None
        if files is not None:
            with suppress(OSError):
                self._held = decoded(files.generation.content()) or self._held
            files.close()

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._closed = True
            self._release()

    def status(self) -> dict[str, Any]:
        return self._reading.call(self._status)

    def _status(self) -> dict[str, Any]:
        self._refresh()
        deadline = monotonic() + WAIT
        with self._holding(deadline, self._read_lock):
            if self._files is None:
                raise StoreUnavailable(f"{self._name} has just become unavailable")
            reader = self._files.reader
            meta = dict(persist(reader, "SELECT name, value FROM meta", deadline))
            alive = {"everything": EVERYTHING, "oldest": oldest(self._clock(), meta["lifetime"])}
            (fences,) = persist(reader, COUNT, deadline, alive).fetchone()
            return {
                "store": "sqlite",
                "path": self._path,
                "fences": fences,
                "genesis": meta["genesis"] // 1000,
                "lifetime": meta["lifetime"] // 1000,
                "database_bytes": os.path.getsize(self._path),
            }
