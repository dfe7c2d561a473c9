"""One SQLite connection: how it is opened, its transactions, and nothing of classes or shots."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accrue.errors import FutureVersion, NotFound, StoreError
from accrue.store.failures import read_only, translated
from accrue.store.files import STEPS
from accrue.store.schema import add_functions

FILE_NAME = "state.db"
BUSY_SECONDS = 5.0


class Database:
    """A connection with a nesting `atomic()` whose outermost level is BEGIN IMMEDIATE.

    It may be used from several threads: a lock lets one in at a time.
    """

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._level = 0
        self._lock = threading.RLock()
        self._undo_in_memory: list[Callable[[], None]] = []
        with translated(path):
            self._connection = self._open_to_read() if readonly else self._open_to_write()

    def _open_to_write(self) -> sqlite3.Connection:
        folder = self.path.parent
        fresh = not _size(self.path)  # it may have been made, for its owner alone
        if folder.exists() and not folder.is_dir():
            raise StoreError(
                f"the state folder {folder} is a file; expected a folder",
                hint="choose another folder with --state",
                path=str(folder),
            )
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, self.path):
            if path.exists() and not os.access(path, os.W_OK):
                raise read_only(path)
        connection = self._connect("mode=rwc")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # an acknowledged shot is on the disk
            connection.execute("PRAGMA cache_size = -512")  # KiB; the system caches it too
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # folded and purged rows are zeroed
            if fresh:
                STEPS.fsync_folder(folder)
                STEPS.fsync_folder(folder.absolute().parent)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_to_read(self) -> sqlite3.Connection:
        if not self.path.exists():
            if self.path.parent.exists() and not self.path.parent.is_dir():
                found = "that is a file"
            elif self.path.parent.exists():
                found = f"{FILE_NAME} is not there"
            else:
                found = "the folder does not exist"
            raise NotFound(
                f"no state in {self.path.parent}: {found}",
                hint="teach a first class with `accrue class teach NAME FILE...`",
                path=str(self.path),
            )
        # Not by opening it: closing a file drops every POSIX lock that this process has on it, that
        # of a connection which writes too. Another process would then take itself for the last
        # one, and delete the log under the writer (sqlite.org/howtocorrupt.html, 2.2).
        if not os.access(self.path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        if os.access(self.path.parent, os.W_OK):
            mode = "mode=rw" if os.access(self.path, os.W_OK) else "mode=ro"
        elif _size(self.path.with_name(FILE_NAME + "-wal")):
            mode = "mode=ro"  # a writer is at work or was cut off: the -wal holds what it wrote
        else:
            mode = "mode=ro&immutable=1"  # WAL needs a file beside the database, which cannot be
        connection = self._connect(mode)
        try:
            connection.execute("PRAGMA cache_size = -512")  # KiB; the system caches it too
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, options: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{options}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        add_functions(connection)
        return connection

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Levels nest: an inner one that fails takes back only what it did.

        Raises:
            StoreReadOnly, StoreBusy, StoreFull, StoreCorrupt, StoreError
        """
        if self.readonly:
            raise read_only(self.path)
        with self._lock, translated(self.path):
            level = self._level
            remembered = len(self._undo_in_memory)
            run = self._connection.execute
            run("BEGIN IMMEDIATE" if level == 0 else f"SAVEPOINT level_{level}")
            self._level += 1
            try:
                yield self._connection
                run("COMMIT" if level == 0 else f"RELEASE level_{level}")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have rolled back already
                    if level == 0:
                        run("ROLLBACK")
                    else:
                        run(f"ROLLBACK TO level_{level}")
                        run(f"RELEASE level_{level}")
                while len(self._undo_in_memory) > remembered:
                    self._undo_in_memory.pop()()
                raise
            finally:
                self._level = level
                if level == 0:
                    self._undo_in_memory.clear()

    def on_rollback(self, action: Callable[[], None]) -> None:
        """Calls `action` if the present level of `atomic()`, or one around it, is rolled back."""
        if self._level:
            self._undo_in_memory.append(action)

    @classmethod
    def versioned(
        cls, path: Path, migrations: Sequence[Sequence[str]], *, hint: str = "update Accrue"
    ) -> Database:
        """Open a file beside the state to write, made or brought up to date.

        Args:
            migrations: statements; the first ones make version 1 of the file, and so on.
            hint: for a file of a newer version.

        Raises:
            FutureVersion: the file is newer than the last migration.
            StoreReadOnly, StoreBusy, StoreFull, StoreCorrupt, StoreError
        """
        database = cls(path, readonly=False)
        try:
            with database.atomic() as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version > len(migrations):
                    raise FutureVersion(
                        f"{path} is of version {version}; this Accrue reads up to "
                        f"{len(migrations)}",
                        hint=hint,
                        path=str(path),
                        found=version,
                        expected=len(migrations),
                    )
                for statements in migrations[version:]:
                    for statement in statements:
                        db.execute(statement)
                if version < len(migrations):
                    db.execute(f"PRAGMA user_version = {len(migrations)}")
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Several queries that see one state."""
        with self._lock, translated(self.path):
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("COMMIT")

    @contextmanager
    def plain(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of any transaction, for VACUUM, checkpoints and backups."""
        with self._lock, translated(self.path):
            if self._connection.in_transaction:
                raise StoreError(
                    f"{self.path}: this cannot run inside a transaction", hint="call it on its own"
                )
            yield self._connection

    def close(self) -> None:
        with self._lock, translated(self.path):
            self._connection.close()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
