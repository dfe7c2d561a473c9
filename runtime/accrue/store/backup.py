"""Backup and restore: a whole state as one checksummed file.

Layout, integers little-endian: magic `ACCRBAK\\n`, uint32 format version, uint32 length of the
header, the header (JSON), SHA-256 of all before it (32 bytes), the payload (zlib of a SQLite
database). Every byte is covered by one of the two checksums. See docs/reference/store.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, get_type_hints

from accrue.errors import (
    Conflict,
    FormatError,
    FutureVersion,
    NotFound,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    UsageError,
)
from accrue.store.database import FILE_NAME
from accrue.store.failures import full, translated
from accrue.store.files import STEPS, FileSteps, write_atomically
from accrue.store.schema import check_version, differences
from accrue.store.store import ASIDE, Store

MAGIC = b"ACCRBAK\n"
FORMAT_VERSION = 1
HEADER_LIMIT_BYTES = 64 * 1024
_FIXED = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_CHUNK_BYTES = 1 << 20
_TEMPORARY = ".accrue-backup-"
_KEPT_NAME = re.compile(r"accrue-(\d{6,})-\d{8}T\d{6}Z\.backup")
_FULL_HINT = "use another backup; the state was not touched"


@dataclass(frozen=True)
class BackupInfo:
    """The header of a backup.

    Attributes:
        space_id, dim, class_set: of the state. created: of the state, unix seconds.
        taken: when the backup was made, unix seconds.
        classes, shots, rows, entries: what is active in it; entries of the journal.
        thumbnails: whether it has them.
        database_bytes: size of the database; payload_bytes, payload_sha256: of it compressed.
    """

    space_id: str
    dim: int
    class_set: str
    created: float
    taken: float
    classes: int
    shots: int
    rows: int
    entries: int
    thumbnails: bool
    database_bytes: int
    payload_bytes: int
    payload_sha256: str


@dataclass(frozen=True)
class Restored:
    """What a restore did. `aside` is where the former database went, if there was one."""

    path: Path
    aside: Path | None
    info: BackupInfo


@dataclass(frozen=True)
class Rotated:
    """A backup in a folder of backups, and those that made room for it."""

    path: Path
    info: BackupInfo
    removed: tuple[Path, ...]


def backup(
    store: Store,
    file: Path | str,
    *,
    thumbnails: bool = True,
    clock: Callable[[], float] = time.time,
    steps: FileSteps = STEPS,
) -> BackupInfo:
    """Writes the whole state to `file`, while it is in use; an existing file is replaced whole.

    Raises:
        StoreFull, StoreReadOnly, StoreError: `file` is as it was before.
    """
    file = Path(file)
    with translated(file):
        if file.exists() and not file.is_file():
            raise UsageError(
                f"{file} is not a regular file; expected a file to write", path=str(file)
            )
        own = {store.path.resolve().with_name(FILE_NAME + end) for end in ("", "-wal", "-shm")}
        if file.resolve() in own:
            raise Conflict(
                f"{file} is the state itself; expected another file for its backup",
                path=str(file),
            )
    with (
        translated(file),
        tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=_TEMPORARY) as folder,
    ):
        database, payload = Path(folder, "database"), Path(folder, "payload")
        with closing(sqlite3.connect(database, isolation_level=None)) as copy:
            store.copy_into(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if not thumbnails:
                copy.execute("UPDATE shot SET thumb = NULL")
            copy.execute("VACUUM")
            classes, shots, rows, entries = copy.execute(
                """SELECT (SELECT count(*) FROM class WHERE active AND counts_as IS NULL),
                count(*), coalesce(sum(n_rows), 0), (SELECT count(*) FROM journal)
                FROM shot WHERE active"""
            ).fetchone()
        digest = hashlib.sha256()
        with database.open("rb") as source, payload.open("wb") as target:
            packer = zlib.compressobj(6)
            for chunk in _chunks(source):
                target.write(packer.compress(chunk))
            target.write(packer.flush())
        with payload.open("rb") as source:
            for chunk in _chunks(source):
                digest.update(chunk)
        info = BackupInfo(
            space_id=store.space_id,
            dim=store.dim,
            class_set=store.class_set,
            created=store.created,
            taken=clock(),
            classes=classes,
            shots=shots,
            rows=rows,
            entries=entries,
            thumbnails=thumbnails,
            database_bytes=database.stat().st_size,
            payload_bytes=payload.stat().st_size,
            payload_sha256=digest.hexdigest(),
        )
        with payload.open("rb") as source:
            write_atomically(file, _pieces(info, source), steps=steps)
    return info


def backup_into(
    store: Store,
    folder: Path | str,
    *,
    keep: int,
    thumbnails: bool = True,
    clock: Callable[[], float] = time.time,
    steps: FileSteps = STEPS,
) -> Rotated:
    """Writes one more backup into a folder, then removes the oldest beyond `keep`.

    They are counted, because the clock of a device without a network may stand anywhere. Files of
    other names are left alone. Nothing is removed before the new one is whole on the disk.

    Raises:
        Conflict: another process does this. UsageError: not a folder.
        StoreFull, StoreReadOnly, StoreError: those of before are as they were.
    """
    folder = Path(folder)
    with translated(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; expected a folder", path=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
    with translated(folder), (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another backup is being written into {folder}", hint="wait until it is done"
            ) from None
        for left in [*folder.glob(f"{_TEMPORARY}*"), *folder.glob(".*.tmp")]:  # of a power cut
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        before = sorted((int(found[1]), path) for path in folder.iterdir()
                        if (found := _KEPT_NAME.fullmatch(path.name)))  # fmt: skip
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock()))
        file = folder / f"accrue-{(before[-1][0] if before else 0) + 1:06}-{stamp}.backup"
        info = backup(store, file, thumbnails=thumbnails, clock=clock, steps=steps)
        read_info(file)
        removed = tuple(path for _, path in before[: max(0, len(before) + 1 - keep)])
        for path in removed:
            path.unlink()
    return Rotated(file, info, removed)


def read_info(file: Path | str) -> BackupInfo:
    """The checked header of a backup. Raises as `restore` does."""
    file = Path(file)
    with _opened(file) as source:
        return _read_header(source, file)


def restore(
    file: Path | str,
    state: Path | str,
    *,
    clock: Callable[[], float] = time.time,
    steps: FileSteps = STEPS,
) -> Restored:
    """Puts the state of a backup in place. The present database is set aside, never deleted.

    Everything is checked before anything is changed.

    Raises:
        NotFound: no such file. FormatError: not a backup, cut off or altered.
        FutureVersion: written by a newer Accrue. StoreBusy: the state is open elsewhere.
        StoreFull, StoreReadOnly, StoreError. In each case the state is as it was before; only
        where the disk fails after the exchange itself, it is that of the backup already.
    """
    file, state = Path(file), Path(state)
    with _opened(file) as source:
        info = _read_header(source, file)
        with translated(state):
            fresh = not state.exists()
            state.mkdir(parents=True, exist_ok=True)
            incoming = state / f".{FILE_NAME}.restoring"
            with _alone(state):
                try:
                    _require_room(state, info)
                    incoming.unlink(missing_ok=True)  # of a restore that was killed
                    with incoming.open("xb") as target:
                        _unpack(source, target, info, file)
                        target.flush()
                        steps.fsync(target.fileno())
                    _check_database(incoming, info, file)
                    aside = _install(incoming, state / FILE_NAME, clock(), steps)
                except BaseException:
                    incoming.unlink(missing_ok=True)
                    if fresh:
                        state.rmdir()
                    raise
    return Restored(state / FILE_NAME, aside, info)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """One restore into a folder at a time. Raises StoreBusy."""
    folder = os.open(state, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusy(
                f"another backup is being restored into {state}",
                hint="wait until it is done",
                path=str(state),
            ) from None
        yield
    finally:
        os.close(folder)


def _require_room(state: Path, info: BackupInfo) -> None:
    """Raises before a disk is filled by what cannot fit, or by a header that lies."""
    if shutil.disk_usage(state).free < info.database_bytes:
        raise full(state / FILE_NAME)


def _install(incoming: Path, path: Path, now: float, steps: FileSteps) -> Path | None:
    """Replaces the database. At every instant `path` is the old one or the new one, whole."""
    aside = None
    if path.exists():
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        aside = path.with_name(f"{path.name}{ASIDE}{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}{ASIDE}{stamp}-{number}")
        _close_off(path, aside, steps)
        try:
            os.link(path, aside)
        except OSError:  # a file system without hard links
            _copy(path, aside, steps)
        steps.fsync_folder(path.parent)
    try:
        steps.replace(incoming, path)
    except OSError:
        if aside is not None:
            aside.unlink()
        raise
    steps.fsync_folder(path.parent)
    return aside


def _close_off(path: Path, aside: Path, steps: FileSteps) -> None:
    """Brings the write-ahead log into the database; fails if another process has it open.

    A damaged database is why one restores: it is set aside as it is, its log beside it.
    """
    log, kept_log = (one.with_name(one.name + "-wal") for one in (path, aside))
    if log.exists():
        _copy(log, kept_log, steps)  # SQLite throws a log away that does not fit its database
    try:
        with (
            translated(path),
            closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as present,
        ):
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            present.execute("PRAGMA journal_mode = DELETE")
    except StoreCorrupt:
        for suffix in ("-wal", "-shm"):  # must not meet the new database
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except BaseException:
        kept_log.unlink(missing_ok=True)
        raise
    else:
        kept_log.unlink(missing_ok=True)


def _copy(source: Path, target: Path, steps: FileSteps) -> None:
    with source.open("rb") as read:
        write_atomically(target, _chunks(read), steps=steps)


def _check_database(path: Path, info: BackupInfo, file: Path) -> None:
    try:
        with translated(file), closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            version = check_version(db, file)
            if foreign := differences(db, version):
                raise _refused(file, f"its database is not one that Accrue makes: {foreign[0]}")
            problems = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            problems += [f"{t} {r}" for t, r, *_ in db.execute("PRAGMA foreign_key_check")]
            row = db.execute("SELECT space_id, dim, class_set FROM meta").fetchone()
    except FutureVersion:
        raise
    except StoreError as error:
        raise _refused(file, f"its database does not open ({error.message})") from error
    if problems:
        raise _refused(file, f"its database is damaged ({' '.join(problems[0].split())[:200]})")
    if row != (info.space_id, info.dim, info.class_set):
        raise _refused(file, "its header and its database are not of one state")


def _opened(file: Path) -> BinaryIO:
    if not file.exists():
        raise NotFound(f"no backup at {file}", hint="check the path", path=str(file))
    with translated(file):
        return file.open("rb")


def _read_header(source: BinaryIO, file: Path) -> BackupInfo:
    fixed = source.read(_FIXED.size)
    if fixed[: len(MAGIC)] != MAGIC:
        raise _refused(file, f"it begins with {fixed[:8]!r}; expected {MAGIC!r}")
    if len(fixed) < _FIXED.size:
        raise _refused(file, f"it ends after {len(fixed)} bytes")
    _, version, length = _FIXED.unpack(fixed)
    if version > FORMAT_VERSION:
        raise FutureVersion(
            f"backup {file} is of format {version}; this Accrue reads up to {FORMAT_VERSION}",
            hint="update Accrue; the state was not touched",
            path=str(file),
            found=version,
            expected=FORMAT_VERSION,
        )
    if version < 1 or length > HEADER_LIMIT_BYTES:
        raise _refused(file, f"its header claims format {version} and {length:,} bytes")
    header, digest = source.read(length), source.read(_DIGEST_BYTES)
    if hashlib.sha256(fixed + header).digest() != digest:
        raise _refused(file, "its header is cut off or altered (SHA-256 differs)")
    try:
        found = json.loads(header)
        info = BackupInfo(**{f.name: _of_kind(found[f.name], f.name) for f in fields(BackupInfo)})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(file, f"its header does not parse ({error})") from error
    start = source.tell()
    size = source.seek(0, os.SEEK_END) - start
    source.seek(start)
    if size != info.payload_bytes:
        raise _refused(file, f"its payload has {size:,} bytes; expected {info.payload_bytes:,}")
    return info


def _of_kind(value: Any, name: str) -> Any:
    """A value of the header, if it is of the kind that its field has."""
    kind = get_type_hints(BackupInfo)[name]
    good = type(value) is kind or (kind is float and type(value) is int)
    if not good or (kind in (int, float) and not 0 <= value < 2**53):
        raise ValueError(f"{name} is {str(value)[:40]!r}")
    return value


def _unpack(source: BinaryIO, target: BinaryIO, info: BackupInfo, file: Path) -> None:
    digest, unpacker, written = hashlib.sha256(), zlib.decompressobj(), 0
    try:
        for chunk in _chunks(source):
            digest.update(chunk)
            while chunk:
                piece = unpacker.decompress(chunk, _CHUNK_BYTES)
                written += len(piece)
                if written > info.database_bytes:
                    raise _refused(file, f"it unpacks to over {info.database_bytes:,} bytes")
                target.write(piece)
                chunk = unpacker.unconsumed_tail
    except zlib.error as error:
        raise _refused(file, f"its payload does not unpack ({error})") from error
    if digest.hexdigest() != info.payload_sha256:
        raise _refused(file, "its payload is altered (SHA-256 differs)")
    if written != info.database_bytes or not unpacker.eof:
        raise _refused(file, f"it unpacks to {written:,} bytes; expected {info.database_bytes:,}")


def _pieces(info: BackupInfo, payload: BinaryIO) -> Iterator[bytes]:
    header = json.dumps(asdict(info), sort_keys=True, separators=(",", ":")).encode()
    head = _FIXED.pack(MAGIC, FORMAT_VERSION, len(header)) + header
    yield head
    yield hashlib.sha256(head).digest()
    yield from _chunks(payload)


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_BYTES):
        yield chunk


def _refused(file: Path, found: str) -> FormatError:
    return FormatError(
        f"{file} is no usable backup: {found}", hint=_FULL_HINT, path=str(file), found=found
    )
