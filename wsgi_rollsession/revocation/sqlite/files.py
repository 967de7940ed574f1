"""What a process has open of a SQLite store: opened, compared with what is in place, and closed as a whole."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, suppress

from .continuity import FileState
from .database import configure, connect
from .generation import GenerationFile, file_state

#: What a fork not announced by Python left in the child. To close it there would disturb the parent.
_inherited: list[object] = []


class Files:
    """The database, opened twice, and its stamp. What is missing is created, and nothing is read.

    Two connections, so that a writer that waits for another process does not keep the readers waiting.

    Args:
        path: of the database.

    Raises:
        OSError, sqlite3.Error: they cannot be opened, or are being replaced.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = os.getpid()
        #: An error has left a connection in a state that is not known.
        self.is_spoiled = False
        with ExitStack() as opened:
            before = file_state(path)
            self.writer: sqlite3.Connection = connect(path)
            opened.callback(self.writer.close)
            if before is None:
                _belong_to_directory(path)
            self.generation = GenerationFile(path)
            opened.callback(self.generation.close)
            self.reader: sqlite3.Connection = connect(path)
            opened.callback(self.reader.close)
            place = file_state(path)
            if place is None or (before is not None and place.inode != before.inode):
                raise FileNotFoundError(f"{path} is being replaced")
            self.inode = place.inode
            opened.pop_all()

    def state(self) -> FileState | None:
        """How the database looks now. None if it is not in place any more."""
        found = file_state(self._path)
        return found if found is not None and found.inode == self.inode else None

    def look(self) -> tuple[bytes, int, FileState | None]:
        """What the stamp says, the commit that is announced there, and how the database looks. Raises OSError."""
        content = self.generation.content()
        return content, self.generation.intent(content), self.state()

    def are_usable(self) -> bool:
        """Whether this process has opened them, and they are still in place."""
        return (
            not self.is_spoiled
            and self._process == os.getpid()
            and self.state() is not None
            and self.generation.is_in_place()
        )

    def configure(self, deadline: float) -> None:
        """Make the connections ready, in this process' turn. Raises sqlite3.Error."""
        configure(self.writer, deadline)
        configure(self.reader, deadline)

    def set_aside(self) -> str:
        """Rename the database and what is left of its last transaction; in this process' turn. Where it is then.

        To be closed afterwards.
        """
        is_in_place = self.state() is not None
        self.writer.close()
        self.reader.close()
        aside = f"{self._path}-damaged"
        if is_in_place:
            owner = os.stat(self._path)
            os.replace(self._path, aside)
            for suffix in ("-journal", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.replace(self._path + suffix, aside + suffix)
            connection = connect(self._path)
            connection.close()
            with suppress(PermissionError):
                os.chown(self._path, owner.st_uid, owner.st_gid)
                os.chmod(self._path, owner.st_mode & 0o777)
        return aside

    def close(self) -> None:
        if self._process != os.getpid():
            _inherited.append(self)
            return
        for opened in (self.writer, self.reader, self.generation):
            opened.close()


def _belong_to_directory(path: str) -> None:
    """What root creates belongs to whom its directory belongs to: root runs the command line, others the workers."""
    if os.geteuid() == 0:
        directory = os.stat(os.path.dirname(path))
        with suppress(PermissionError):
            os.chown(path, directory.st_uid, directory.st_gid)
