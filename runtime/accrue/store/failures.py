"""The one place where errors of sqlite3 and of the file system become errors of Accrue."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accrue.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreReadOnly

RESTORE_HINT = "restore a backup with `accrue restore FILE`; the damaged file is kept"
_FULL_BELOW_BYTES = 64 * 1024  # SQLite says "disk I/O error" when its -shm file finds no room
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns every sqlite3.Error and OSError raised inside into a StoreError that names `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(error, path) from error
    except OSError as error:
        raise of_os(error, path) from error


def full(path: Path) -> StoreFull:
    return StoreFull(
        f"no room left to write {path}; nothing was changed by this step",
        hint="free some space on that disk and try again",
        path=str(path),
    )


def read_only(path: Path) -> StoreReadOnly:
    return StoreReadOnly(
        f"{path} cannot be written: the file, its folder or the disk is read-only for this user",
        hint="check its owner and permissions, or choose another folder with --state",
        path=str(path),
    )


def corrupt(path: Path, found: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{path} is damaged or no Accrue state: {found}",
        hint=RESTORE_HINT,
        path=str(path),
        found=found,
    )


def of_os(error: OSError, path: Path) -> StoreError:
    if error.errno in _FULL:
        return full(path)
    if error.errno == errno.EROFS:
        return read_only(path)
    if error.errno in _DENIED:
        return StoreReadOnly(
            f"{path}: permission denied for this user",
            hint="check the owner and permissions of the file and its folder",
            path=str(path),
        )
    return StoreError(
        f"{path}: {error.strerror or error}", hint="check the path and the disk", path=str(path)
    )


def _of_sqlite(error: sqlite3.Error, path: Path) -> StoreError:
    """By message: Python 3.10 gives no error code."""
    text = str(error)
    low = text.lower()
    vague = "disk i/o error" in low or "unable to open" in low
    if "is full" in low or (vague and _disk_is_full(path)):
        return full(path)
    if "readonly" in low or "read-only" in low:
        return read_only(path)
    if "locked" in low:
        return StoreBusy(
            f"{path} is in use by another process",
            hint="try again in a moment, or stop the other process",
            path=str(path),
        )
    if any(word in low for word in ("malformed", "not a database", "encrypted", "decode")):
        return corrupt(path, text)
    if "unable to open" in low and not os.access(path.parent, os.W_OK):
        return read_only(path)
    return StoreError(f"{path}: {text}", hint="run `accrue doctor`", path=str(path), found=text)


def _disk_is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FULL_BELOW_BYTES
    except OSError:
        return False
