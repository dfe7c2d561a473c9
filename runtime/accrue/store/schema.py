"""The schema of `state.db`: ordered migrations, each committed together with its record.

The record is `PRAGMA user_version`, which SQLite keeps in the file's header and rolls back with
the rest of a transaction. docs/reference/store.md explains every table.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from accrue.errors import FutureVersion
from accrue.store.failures import corrupt

APPLICATION_ID = 0x41434352  # "ACCR" in the header of the file

Migration = tuple[str, ...]

_VERSION_1: Migration = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        space_id TEXT NOT NULL,
        dim INTEGER NOT NULL CHECK (dim > 0),
        class_set TEXT NOT NULL,
        created REAL NOT NULL)""",
    """CREATE TABLE class (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        created_at REAL NOT NULL,
        active INTEGER NOT NULL CHECK (active IN (0, 1)),
        counts_as TEXT REFERENCES class (id) CHECK (counts_as != id),
        retain TEXT CHECK (retain IN ('rows', 'statistics')),
        budget INTEGER CHECK (budget >= 0))""",
    "CREATE INDEX class_by_target ON class (counts_as)",
    """CREATE TABLE name (
        key TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        class_id TEXT NOT NULL REFERENCES class (id),
        active INTEGER NOT NULL CHECK (active IN (0, 1)))""",
    "CREATE INDEX name_by_class ON name (class_id)",
    """CREATE TABLE shot (
        id TEXT PRIMARY KEY,
        class_id TEXT NOT NULL REFERENCES class (id),
        n_rows INTEGER NOT NULL CHECK (n_rows > 0),
        rows BLOB,
        source TEXT NOT NULL,
        actor TEXT NOT NULL,
        at REAL NOT NULL,
        thumb BLOB,
        active INTEGER NOT NULL CHECK (active IN (0, 1)),
        folded INTEGER NOT NULL CHECK (folded IN (0, 1)),
        CHECK ((rows IS NULL) = folded))""",
    "CREATE INDEX shot_by_class ON shot (class_id, active, folded, id, n_rows)",
    """CREATE TABLE folded (
        id TEXT PRIMARY KEY,
        class_id TEXT NOT NULL REFERENCES class (id),
        n INTEGER NOT NULL CHECK (n > 0),
        statistics BLOB NOT NULL,
        active INTEGER NOT NULL CHECK (active IN (0, 1)))""",
    "CREATE INDEX folded_by_class ON folded (class_id)",
    """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        verb TEXT NOT NULL,
        summary TEXT NOT NULL,
        undoes INTEGER UNIQUE REFERENCES journal (seq),
        undone_by INTEGER REFERENCES journal (seq),
        purged INTEGER NOT NULL DEFAULT 0 CHECK (purged IN (0, 1)))""",
    """CREATE TABLE change (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        entry INTEGER NOT NULL REFERENCES journal (seq),
        tbl TEXT NOT NULL,
        key TEXT NOT NULL,
        col TEXT NOT NULL,
        before,
        after)""",
    "CREATE INDEX change_by_entry ON change (entry)",
    "CREATE INDEX change_by_column ON change (key, col, tbl)",
)

_VERSION_2: Migration = (
    "ALTER TABLE class ADD COLUMN prompt TEXT",
    "ALTER TABLE class ADD COLUMN text BLOB",
    """CREATE TABLE refusal (
        id TEXT PRIMARY KEY,
        class_id TEXT NOT NULL REFERENCES class (id),
        n_rows INTEGER NOT NULL CHECK (n_rows > 0),
        rows BLOB NOT NULL,
        source TEXT NOT NULL,
        actor TEXT NOT NULL,
        at REAL NOT NULL,
        active INTEGER NOT NULL CHECK (active IN (0, 1)))""",
    "CREATE INDEX refusal_by_class ON refusal (class_id, n_rows)",
    "CREATE INDEX shot_with_thumb ON shot (id, length(thumb)) WHERE thumb IS NOT NULL",
    "CREATE INDEX folded_sizes ON folded (length(statistics))",
)

_VERSION_3: Migration = (
    "ALTER TABLE shot ADD COLUMN device TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE folded ADD COLUMN device TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE refusal ADD COLUMN device TEXT NOT NULL DEFAULT ''",
    "DROP INDEX shot_by_class",
    "CREATE INDEX shot_by_class ON shot (class_id, active, folded, id, n_rows, device)",
    "CREATE INDEX shot_own ON shot (id) WHERE device = ''",
    "CREATE INDEX shot_of_others ON shot (device) WHERE device != ''",
    "ALTER TABLE meta ADD COLUMN fleet TEXT",
    "ALTER TABLE meta ADD COLUMN device TEXT CHECK ((device IS NULL) = (fleet IS NULL))",
    "ALTER TABLE meta ADD COLUMN clock INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE meta ADD COLUMN said INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE meta ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
    """ALTER TABLE meta ADD COLUMN policy TEXT NOT NULL DEFAULT 'open'
        CHECK (policy IN ('open', 'curated'))""",
    """CREATE TABLE contribution (
        device TEXT NOT NULL,
        class_id TEXT NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('own', 'peer', 'manifest')),
        revision INTEGER NOT NULL CHECK (revision > 0),
        body BLOB NOT NULL,
        signature BLOB,
        acknowledged INTEGER NOT NULL DEFAULT 0,
        considered INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL,
        PRIMARY KEY (device, class_id, source))""",
    "CREATE INDEX contribution_by_class ON contribution (class_id, device, revision)",
    """CREATE TABLE part (
        sha256 TEXT PRIMARY KEY,
        body BLOB,
        own INTEGER NOT NULL CHECK (own IN (0, 1)),
        CHECK (own = 0 OR body IS NOT NULL))""",
    "CREATE INDEX part_sizes ON part (length(body))",
    """CREATE TABLE tombstone (
        class_id TEXT PRIMARY KEY,
        covered TEXT NOT NULL)""",
)

_VERSION_4: Migration = (
    "ALTER TABLE class ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1))",
)

_VERSION_5: Migration = (  # a CRC-32 beside every blob of rows, kept by triggers whoever writes it
    *(
        statement
        for table, blob in (("shot", "rows"), ("refusal", "rows"), ("class", "text"))
        for statement in (
            f"ALTER TABLE {table} ADD COLUMN crc INTEGER",
            f"UPDATE {table} SET crc = accrue_crc32({blob})",
            f"""CREATE TRIGGER {table}_crc_of_new AFTER INSERT ON {table} BEGIN
                UPDATE {table} SET crc = accrue_crc32(new.{blob}) WHERE id = new.id; END""",
            f"""CREATE TRIGGER {table}_crc_of_changed AFTER UPDATE OF {blob} ON {table} BEGIN
                UPDATE {table} SET crc = accrue_crc32(new.{blob}) WHERE id = new.id; END""",
        )
    ),
)

MIGRATIONS: tuple[Migration, ...] = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
)


def add_functions(connection: sqlite3.Connection) -> None:
    """What the triggers call; every connection that writes needs it."""
    connection.create_function("accrue_crc32", 1, crc_of, deterministic=True)


def crc_of(blob: bytes | None) -> int | None:
    """CRC-32 of a blob of rows, as it stands beside it; None of none."""
    return None if blob is None else zlib.crc32(blob)


def check_version(connection: sqlite3.Connection, path: Path, known: int = len(MIGRATIONS)) -> int:
    """The schema version of the file, 0 for an empty one.

    Raises:
        FutureVersion: a newer Accrue wrote it.
        StoreCorrupt: a database of something else.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    found = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (tables or version) and found != APPLICATION_ID:
        raise corrupt(path, f"a database of another program (application id {found:#x})")
    if version > known:
        raise FutureVersion(
            f"{path} is of version {version}; this Accrue reads up to version {known}",
            hint="update Accrue, or use another folder with --state; nothing was changed",
            path=str(path),
            found=version,
            expected=known,
        )
    return version


def differences(connection: sqlite3.Connection, version: int) -> list[str]:
    """What of a schema is not as the migrations up to a version make it: foreign tables, views,
    triggers and indices, and others than ours under our names. Statistics of ANALYZE are let be."""
    with closing(sqlite3.connect(":memory:")) as made:
        add_functions(made)
        for migration in MIGRATIONS[:version]:
            for statement in migration:
                made.execute(statement)
        expected = _objects(made)
    found = _objects(connection)
    return [
        f"{kind} {name!r} {'differs' if (kind, name) in expected else 'is foreign'}"
        for (kind, name), sql in sorted(found.items())
        if expected.get((kind, name)) != sql
    ] + [f"{kind} {name!r} is missing" for kind, name in sorted(expected.keys() - found.keys())]


def _objects(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    return {
        (kind, name): " ".join((sql or "").split())
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master")
        if not name.startswith("sqlite_stat")
    }


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Runs what is missing. To be called within one transaction, which a failure rolls back."""
    for number in range(check_version(connection, path, len(migrations)), len(migrations)):
        for statement in migrations[number]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
