"""Broken folders, disks and databases: one line, the right kind, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import accrue.store.database
from accrue.errors import (
    Conflict,
    FutureVersion,
    NotFound,
    SpaceMismatch,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from accrue.store import FileSteps, Store, write_atomically
from accrue.store.schema import MIGRATIONS, migrate

SPACE = "5" * 64
V1 = Path(__file__).parents[1] / "data/store/v1"


def one_line(error: BaseException) -> str:
    assert len(str(error).splitlines()) == 1
    return str(error)


def fill(store: Store, teach, done: list[str]) -> None:
    while True:
        done += teach(store, "bolt", n=100)


def test_a_database_that_runs_full_keeps_what_was_acknowledged(store, teach):
    """A page limit makes SQLite report SQLITE_FULL as a full disk does."""
    db = store._database._connection
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 8}")
    done: list[str] = []
    with pytest.raises(StoreFull) as caught:
        fill(store, teach, done)
    assert "no room left to write" in one_line(caught.value)
    db.execute("PRAGMA max_page_count = 1000000")
    assert [shot.id for shot in store.shots()] == done
    assert len(store.history()) == len(done)
    assert store.check() == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root: mount")
def test_a_really_full_disk_is_named_and_loses_nothing(tmp_path: Path, teach):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        done: list[str] = []
        with Store.open(disk / "state", space_id=SPACE, dim=4) as store:
            with pytest.raises(StoreFull, match="no room left to write"):
                fill(store, teach, done)
            assert [shot.id for shot in store.shots()] == done
        with Store.open(disk / "state", readonly=True) as store:
            assert [shot.id for shot in store.shots()] == done
            assert store.check() == []
        shutil.rmtree(disk / "state")
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        with pytest.raises(StoreFull, match="no room left to write"):
            Store.open(disk / "state", space_id=SPACE, dim=4)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


AS_NOBODY = """
import os, sys, urllib.parse
from accrue.errors import AccrueError
from accrue.store import Store
if os.geteuid() == 0:  # permissions do not bind root
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
def report(action):
    try:
        print(action())
    except AccrueError as error:
        print(error.kind, error)
"""


def as_nobody(script: str, state: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + script, str(state)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_state_in_a_folder_that_cannot_be_written_is_read_and_not_changed(memory_folder, teach):
    state = memory_folder / "state"
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt", shots=2)
    state.chmod(0o555)
    (state / "state.db").chmod(0o444)
    try:
        shots, undo, write = as_nobody(
            """
with Store.open(sys.argv[1], readonly=True) as store:
    report(lambda: store.classes()[0].shots)
    report(store.undo)
report(lambda: Store.open(sys.argv[1]))
""",
            state,
        )
    finally:
        state.chmod(0o755)
    assert shots == "2"
    assert undo.startswith("StoreReadOnly ")
    assert write.startswith(f"StoreReadOnly {state} cannot be written: the file, its folder")
    assert [path.name for path in state.iterdir()] == ["state.db"]


def test_a_state_that_may_not_be_read_says_permission_denied(memory_folder, teach):
    state = memory_folder / "state"
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
    (state / "state.db").chmod(0o000)
    (line,) = as_nobody("report(lambda: Store.open(sys.argv[1], readonly=True))", state)
    assert line.startswith(f"StoreReadOnly {state / 'state.db'}: permission denied for this user")


def test_a_store_opened_to_read_refuses_every_change(store, state, teach):
    teach(store, "bolt")
    with Store.open(state, readonly=True) as reader:
        teach(store, "bolt")
        assert reader.classes()[0].shots == 2
        with pytest.raises(StoreReadOnly):
            reader.remove("bolt")


def test_a_state_folder_that_is_a_file_is_named(tmp_path: Path):
    path = tmp_path / "state"
    path.write_text("precious")
    with pytest.raises(StoreError) as caught:
        Store.open(path, space_id=SPACE, dim=4)
    assert f"the state folder {path} is a file; expected a folder" in one_line(caught.value)
    with pytest.raises(NotFound, match="that is a file"):
        Store.open(path, readonly=True)
    with pytest.raises(StoreError, match="Not a directory"):
        Store.open(path / "deeper", space_id=SPACE, dim=4)
    assert path.read_text() == "precious"


def test_no_state_is_not_found_and_nothing_is_created(state: Path):
    for options in ({"readonly": True}, {}):
        with pytest.raises(NotFound) as caught:
            Store.open(state, **options)
        assert caught.value.message == f"no state in {state}: the folder does not exist"
    assert not state.exists()


def test_another_space_is_refused_naming_both(store, state):
    with pytest.raises(SpaceMismatch) as caught:
        Store.open(state, space_id="7" * 64, dim=8)
    assert "holds embeddings of space 555555555555 (4 dimensions)" in caught.value.message
    assert "makes space 777777777777 (8 dimensions)" in caught.value.message
    assert "--bundle" in caught.value.hint
    with pytest.raises(Conflict, match='belongs to class set "default", not to "other"'):
        Store.open(state, class_set="other")


def test_a_locked_database_is_busy_and_retryable(store, state, teach, monkeypatch):
    monkeypatch.setattr(accrue.store.database, "BUSY_SECONDS", 0.05)
    with Store.open(state) as other, store.atomic():
        teach(store, "bolt")
        with pytest.raises(StoreBusy) as caught:
            other.undo()
    assert f"{state / 'state.db'} is in use by another process" in one_line(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "content", [b"a text file\n" * 500, b"SQLite format 3\x00" + b"\xee" * 9000]
)
def test_a_file_that_is_no_database_is_named_and_left_as_it_is(state: Path, content: bytes):
    state.mkdir()
    path = state / "state.db"
    path.write_bytes(content)
    for readonly in (True, False):
        with pytest.raises(StoreCorrupt) as caught:
            Store.open(state, space_id=SPACE, dim=4, readonly=readonly)
        assert f"{path} is damaged or no Accrue state" in one_line(caught.value)
        assert "restore a backup with `accrue restore FILE`" in caught.value.hint
    assert path.read_bytes() == content


def test_a_damaged_page_is_corrupt_and_the_file_is_kept(state, teach):
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt", shots=50, n=50)
    path = state / "state.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt), Store.open(state) as store:
        store.rows_by_class()
    assert path.read_bytes() == content


def test_damaged_rows_or_statistics_are_corrupt(store, teach):
    teach(store, "bolt")
    store.set_retention("bolt", retain="statistics")
    with store._database.atomic() as db:
        db.execute("UPDATE folded SET statistics = x'00'")
    with pytest.raises(StoreCorrupt, match="statistics that do not parse"):
        store.rows_by_class()
    teach(store, "nut")
    with store._database.atomic() as db:
        db.execute("DELETE FROM folded")
        db.execute("UPDATE shot SET rows = x'000000' WHERE folded = 0")
    with pytest.raises(StoreCorrupt, match="3 bytes of rows are no multiple of 4 int16 values"):
        store.rows_by_class()
    assert len(store.check()) == 2


def test_a_database_of_another_program_is_refused(state: Path):
    state.mkdir()
    with sqlite3.connect(state / "state.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StoreCorrupt, match="a database of another program"):
        Store.open(state, space_id=SPACE, dim=4)


def test_a_database_of_a_future_version_is_refused_naming_both(state, teach):
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
        store._database._connection.execute("PRAGMA user_version = 99")
    before = (state / "state.db").read_bytes()
    for readonly in (True, False):
        with pytest.raises(FutureVersion) as caught:
            Store.open(state, readonly=readonly)
        assert f"is of version 99; this Accrue reads up to version {len(MIGRATIONS)}" in one_line(
            caught.value
        )
        assert "update Accrue" in caught.value.hint
    assert (state / "state.db").read_bytes() == before


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        lines = [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
    db.close()
    return lines


def test_a_failed_migration_leaves_schema_rows_and_version_untouched(store, state, teach):
    teach(store, "bolt")
    before = dump(state / "state.db")
    broken = (
        *MIGRATIONS,
        ("ALTER TABLE shot ADD COLUMN place TEXT", "UPDATE shot SET n_rows = 9"),
        ("CREATE TABLE outbox (x)", "UPDATE absent SET x = 1"),
    )
    with pytest.raises(StoreError, match="no such table: absent"), store._database.atomic() as db:
        migrate(db, store.path, broken)
    assert dump(state / "state.db") == before


def test_a_migration_brings_an_older_database_up_to_date_once(store, state, teach):
    teach(store, "bolt")
    newer = (*MIGRATIONS, ("ALTER TABLE shot ADD COLUMN place TEXT DEFAULT 'bench'",))
    for _ in range(2):
        with store._database.atomic() as db:
            migrate(db, store.path, newer)
    with store._database.reading() as db:
        assert db.execute("SELECT place FROM shot").fetchall() == [("bench",)]
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_an_empty_file_left_by_a_power_cut_is_a_new_state(state: Path, teach):
    state.mkdir()
    (state / "state.db").write_bytes(b"")
    with pytest.raises(NotFound, match=r"state\.db is empty"):
        Store.open(state, readonly=True)
    with pytest.raises(NotFound, match=r"state\.db is empty"):
        Store.open(state)
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")


def test_a_state_path_with_odd_characters_opens(tmp_path: Path, teach):
    state = tmp_path / "a ?#%20&mode=memory é"
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
    assert (state / "state.db").stat().st_size > 0
    with Store.open(state, readonly=True) as store:
        assert store.resolve("bolt").shots == 1


def test_a_closed_store_says_so_in_a_store_error(store):
    store.close()
    with pytest.raises(StoreError, match="closed database"):
        store.classes()


def test_durability_settings_hold(store):
    db = store._database._connection
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert db.execute("PRAGMA secure_delete").fetchone() == (1,)
    assert db.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_no_file_of_the_store_lets_an_error_of_sqlite_escape():
    """Only the modules that map errors reach for sqlite3's error classes."""
    package = Path(accrue.store.database.__file__).parent
    using = {
        path.name
        for path in package.glob("*.py")
        if re.search(r"except .*sqlite3", path.read_text())
    }
    assert using == {"failures.py"}


class PowerCutError(Exception):
    pass


def cut(*_: object) -> None:
    raise PowerCutError


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["create", "fsync", "replace", "fsync_folder"])
def test_a_power_cut_in_any_step_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(PowerCutError):
        write_atomically(path, [b"n", b"ew"], steps=FileSteps(**{step: cut}))
    assert path.read_bytes() == (b"new" if step == "fsync_folder" else b"old")


@pytest.mark.parametrize("step", ["create", "fsync", "replace"])
def test_a_full_disk_in_any_step_leaves_the_old_file_alone(tmp_path: Path, step: str):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(StoreFull) as caught:
        write_atomically(path, [b"new"], steps=FileSteps(**{step: no_space}))
    assert f"no room left to write {path}" in one_line(caught.value)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_the_steps_are_in_order_and_the_data_is_synced_before_the_rename(tmp_path: Path):
    order: list[str] = []
    plain = FileSteps()

    def noted(name: str):
        def run(*arguments):
            order.append(name)
            return getattr(plain, name)(*arguments)

        return run

    steps = FileSteps(**{n: noted(n) for n in ("create", "fsync", "replace", "fsync_folder")})
    assert write_atomically(tmp_path / "file", [b"new"], steps=steps) == 3
    assert order == ["create", "fsync", "replace", "fsync_folder"]


def test_a_chunk_that_finds_no_room_is_a_full_disk(tmp_path: Path):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            pass

        write = staticmethod(no_space)

    with pytest.raises(StoreFull):
        write_atomically(tmp_path / "file", [b"x"], steps=FileSteps(create=lambda _: Full()))
