"""The stamp beside a SQLite database: whether anybody has written since, and whether the file is what was written.

``<database>-stamp`` holds a ``Generation`` (64 bytes: a label, the mark, the file, a checksum) and an *intent* (24
bytes: the id of a commit, a time, a checksum), in the host's byte order. A writer, and only in its turn,

    announces its commit (the intent), commits, writes the generation, waits a ``LEASE``, and returns.

A reader compares these bytes with those under which it has loaded its rows, and the file with what they say; that holds
for a ``LEASE``. So before a raise returns, everybody has noticed it. The file is read, never mapped into memory: a
process that reads a mapping of a file that somebody truncates is killed (docs/decisions.md).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import random
from struct import Struct
from time import monotonic, sleep
from zlib import crc32

from ...errors import StoreUnavailable
from ..breaker import Busy
from .continuity import FileState, Generation, Mark

#: Seconds for which a look at the stamp holds, and a raise waits. Longer than the grain of a file's time of change
#: (that of the kernel's clock: 4 ms, or 1), so that who changes the file after a raise has returned changes that, too.
#: And than Python's switch interval (5 ms), or a thread that looks again and again keeps all others waiting.
LEASE = 0.008

_label = b"RollS\x00\x02\n"
_settled = Struct("=8s7Q")
_intent = Struct("=3Q")
SETTLED = _settled.size
SIZE = _settled.size + _intent.size
#: How the intent begins when there is none.
NOTHING = bytes(8)


class GenerationFile:
    """An open stamp file, which is created if it is missing.

    Args:
        path: of the database.

    Raises:
        OSError: it cannot be opened, or the disk is full.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-stamp"
        database = os.stat(path)
        mode = database.st_mode & 0o666
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        #: It was missing.
        self.is_new = True
        try:
            self.fd = os.open(self._path, flags | os.O_EXCL, mode)
        except FileExistsError:
            self.is_new = False
            self.fd = os.open(self._path, flags, mode)
        try:
            found = os.fstat(self.fd)
            with suppress(PermissionError):  # it is somebody else's
                if (found.st_uid, found.st_gid) != (database.st_uid, database.st_gid):
                    os.fchown(self.fd, database.st_uid, database.st_gid)
                if found.st_mode & 0o777 != mode:
                    os.fchmod(self.fd, mode)  # whatever the umask is
            if found.st_size < SIZE:
                os.pwrite(self.fd, bytes(SIZE - found.st_size), found.st_size)
            self.inode = found.st_ino
        except BaseException:
            os.close(self.fd)
            raise
        self._others_wait_until = 0.0

    def content(self) -> bytes:
        """All that is in it. Raises OSError."""
        return os.pread(self.fd, SIZE, 0)

    def intend(self, mark_id: int) -> None:
        """Announce that the commit *mark_id* is about to be made. Raises OSError."""
        while True:
            now_ns = time.time_ns()
            os.pwrite(self.fd, _intent.pack(mark_id, now_ns, _checksum(mark_id, now_ns)), SETTLED)
            if self._is_untouched(now_ns):  # and not held up in between
                return

    def intent(self, content: bytes) -> int:
        """The id of the commit announced in *content* that has not come to its end. 0: none.

        None either if the file was touched since: then it may be a copy, which does not tell what came after it.
        """
        mark_id, at_ns, checksum = _intent.unpack_from(content.ljust(SIZE, b"\0"), SETTLED)
        return mark_id if checksum == _checksum(mark_id, at_ns) and self._is_untouched(at_ns) else 0

    def _is_untouched(self, since_ns: int) -> bool:
        return os.fstat(self.fd).st_ctime_ns <= since_ns + int(LEASE * 1_000_000_000)

    def settle(self, generation: Generation) -> None:
        """Tell all readers that the database has changed, or that nothing is under way any more. Raises OSError."""
        os.pwrite(self.fd, encoded(generation), 0)
        # Or after a power failure it would not know of the newest commit. And not just its data: with the time of its
        # change, a file system writes down that of the database.
        os.fsync(self.fd)

    def is_in_place(self) -> bool:
        """False if the file was deleted or replaced."""
        found = file_state(self._path)
        return found is not None and found.inode == self.inode

    @contextmanager
    def turn(self, deadline: float, longest: float = 0.0) -> Iterator[None]:
        """Wait until no other process is writing.

        Args:
            deadline: until when, on the clock of ``time.monotonic``; as long again when others have written meanwhile.
            longest: but not after that, if it is later.

        Raises:
            Busy: not in time, and others have written meanwhile.
            StoreUnavailable: not in time, and nobody has.
        """
        begun = monotonic()
        if begun < self._others_wait_until:
            sleep(self._others_wait_until - begun)
        content, waited, patience = self.content(), False, deadline - begun
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            now, waited = monotonic(), True
            if now >= deadline:
                before, content = content, self.content()
                if content == before:
                    raise StoreUnavailable("another process is in the middle of a write")
                if now >= longest:
                    raise Busy("so many processes write that it was not this one's turn in time")
                deadline = min(now + patience, longest)
            # Who has waited longer asks more often. So nobody is passed over for long.
            sleep((0.5 + random()) * max(0.001, 0.006 / (1 + 10 * (now - begun))))  # noqa: S311
        try:
            yield
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self._others_wait_until = monotonic() + 0.008 if waited else 0.0

    def close(self) -> None:
        os.close(self.fd)


def encoded(generation: Generation) -> bytes:
    """The bytes of a stamp file without an intent."""
    numbers = (*generation.mark, *generation.file)
    settled = _settled.pack(_label, *numbers, 0)
    return _settled.pack(_label, *numbers, crc32(settled)) + bytes(_intent.size)


def decoded(content: bytes) -> Generation | None:
    """The generation in a stamp file, None if it is not there, or not whole."""
    label, *numbers, checksum = _settled.unpack_from(content.ljust(SIZE, b"\0"))
    if label != _label or checksum != crc32(_settled.pack(label, *numbers, 0)):
        return None
    return Generation(Mark(*numbers[:3]), FileState(*numbers[3:]))


def _checksum(mark_id: int, at_ns: int) -> int:
    return crc32(b"%d %d" % (mark_id, at_ns))


def file_state(path: str) -> FileState | None:
    """How the file at *path* looks, None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return FileState(found.st_ino, found.st_ctime_ns, found.st_size)
