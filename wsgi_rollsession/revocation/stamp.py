"""The stamp beside a SQLite database: one comparison tells whether anybody has written since.

``<database>-stamp`` holds three unsigned 64-bit integers in the host's byte order:

* a random number, written anew after every commit and before the call that committed returns. A reader whose
  local set was loaded under the present one is current, which it learns without a system call, from a mapping
  of the file. Random, not counted: docs/decisions.md.
* the id and the sequence number of the database at that commit. A database found with another id, or with
  a lower sequence number, has lost fences: it was deleted, or replaced by an older copy.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from struct import Struct

_layout = Struct("=QQQ")


class Stamp:
    """An open stamp file, which is created if it is missing.

    Args:
        path: where it is.
        mode: the permissions it is created with.

    Raises:
        OSError: it cannot be opened, or the disk is full.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            if os.fstat(self._file).st_size < _layout.size:
                with suppress(PermissionError):  # somebody else has created it
                    os.fchmod(self._file, mode)  # whatever the umask is
                # Random, for a reader that has seen it must notice the next one. Written, not just extended:
                # to touch a mapped page for which the disk has no room kills the process.
                self.write(0, 0)
            try:
                mapping = mmap.mmap(self._file, _layout.size, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise OSError(f"{path} was truncated: {error}") from error
            self.inode = _inode(os.fstat(self._file))
        except BaseException:
            os.close(self._file)
            raise
        #: ``view[0]`` is the random number. Stays valid after ``close``.
        self.view = memoryview(mapping).cast("Q")

    def write(self, database: int, sequence: int) -> None:
        """Tell all readers that the database has changed. Raises OSError."""
        seen_database, seen_sequence = self.read()
        if seen_database == database:
            sequence = max(sequence, seen_sequence)  # that of a later commit, whose writer was faster
        random = int.from_bytes(os.urandom(8), "big")
        os.pwrite(self._file, _layout.pack(random, database, sequence), 0)

    def read(self) -> tuple[int, int]:
        """The id and the sequence number of the database; 0 and 0 if the file is new."""
        _, database, sequence = _layout.unpack(os.pread(self._file, _layout.size, 0).ljust(_layout.size, b"\0"))
        return database, sequence

    def is_in_place(self) -> bool:
        """False if the file was deleted or replaced."""
        return inode(self._path) == self.inode

    def close(self) -> None:
        os.close(self._file)


def inode(path: str) -> tuple[int, int] | None:
    """What identifies the file at *path* while it exists, None if there is none."""
    try:
        return _inode(os.stat(path))
    except FileNotFoundError:
        return None


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
