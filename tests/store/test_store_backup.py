"""Backup and restore: everything comes back, nothing damaged gets in, the present is never lost."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from accrue.errors import (
    AccrueError,
    Conflict,
    FormatError,
    FutureVersion,
    NotFound,
    StoreBusy,
    StoreFull,
    UsageError,
)
from accrue.store import FileSteps, Store, backup, backup_into, read_info, restore

SPACE = "5" * 64
DAY = 86_400.0


@pytest.fixture
def saved(state: Path, tmp_path: Path, make_rows, teach) -> Path:
    """A backup of a state with a kept, a folded, a merged and a removed class."""
    with Store.open(state, space_id=SPACE, dim=4) as store:
        store.add_shot(store.begin_teach("bolt"), make_rows(1), thumb=b"\xff\xd8thumbnail")
        for name in ("nut", "stud", "gear"):
            teach(store, name)
        store.set_retention("nut", retain="statistics")
        store.merge("stud", "bolt")
        store.remove("gear")
        backup(store, tmp_path / "one.accrue", clock=lambda: DAY)
    return tmp_path / "one.accrue"


def facts(state: Path) -> list[object]:
    with Store.open(state, readonly=True) as store:
        evidence = [(c.name, c.statistics().digest(), c.shot_ids) for c in store.rows_by_class()]
        return [store.classes(merged=True), store.shots(), store.history(), evidence]


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_everything_comes_back_and_can_still_be_undone(state, saved, tmp_path):
    done = restore(saved, tmp_path / "other")
    assert (done.path, done.aside) == (tmp_path / "other/state.db", None)
    assert facts(tmp_path / "other") == facts(state)
    with Store.open(tmp_path / "other") as store:
        assert store.check() == []
        assert store.thumb(store.shots()[0].id) == b"\xff\xd8thumbnail"
        store.undo()
        assert "gear" in [row.name for row in store.classes()]


def test_the_header_says_what_is_inside(saved):
    info = read_info(saved)
    assert (info.space_id, info.dim, info.class_set) == (SPACE, 4, "default")
    assert (info.classes, info.shots, info.rows, info.entries) == (2, 3, 6, 7)
    assert (info.taken, info.thumbnails) == (DAY, True)


def test_without_thumbnails_none_travels(state, tmp_path, make_rows):
    with Store.open(state, space_id=SPACE, dim=4) as store:
        shot = store.add_shot(store.begin_teach("bolt"), make_rows(), thumb=b"\xff\xd8secret")
        info = backup(store, tmp_path / "b", thumbnails=False)
        assert store.thumb(shot) == b"\xff\xd8secret"
    assert not info.thumbnails
    restore(tmp_path / "b", tmp_path / "other")
    assert b"secret" not in (tmp_path / "other/state.db").read_bytes()
    with Store.open(tmp_path / "other") as store:
        assert store.thumb(shot) is None


def test_the_present_database_is_set_aside_whole(state, saved, teach):
    with Store.open(state) as store:
        (later,) = teach(store, "later")
    aside = restore(saved, state, clock=lambda: DAY).aside
    assert aside is not None
    assert aside.name == "state.db.before-restore-19700102T000000Z"
    with Store.open(state, readonly=True) as store:
        assert later not in [shot.id for shot in store.shots()]
    again = restore(saved, state, clock=lambda: DAY).aside
    assert again is not None
    assert again.name == "state.db.before-restore-19700102T000000Z-2"
    shutil.copy(aside, state / "state.db")
    with Store.open(state, readonly=True) as store:
        assert later in [shot.id for shot in store.shots()]


def test_a_damaged_present_database_is_set_aside_too(state, saved):
    (state / "state.db").write_bytes(b"broken" * 1000)
    (state / "state.db-wal").write_bytes(b"old log")
    aside = restore(saved, state).aside
    assert aside is not None
    assert aside.read_bytes() == b"broken" * 1000
    assert (state / (aside.name + "-wal")).read_bytes() == b"old log"
    assert sorted(content(state)) == ["state.db", aside.name, aside.name + "-wal"]
    assert facts(state)


def test_a_log_left_by_a_killed_process_is_set_aside_inside_its_database(state, saved, teach):
    with Store.open(state) as store:
        (late,) = teach(store, "late")
        killed = content(state)
    for name, data in killed.items():
        if not name.endswith("-shm"):
            (state / name).write_bytes(data)
    assert len(killed["state.db-wal"]) > 0
    aside = restore(saved, state).aside
    assert aside is not None
    assert sorted(content(state)) == ["state.db", aside.name]
    with sqlite3.connect(aside) as db:
        assert db.execute("SELECT count(*) FROM shot WHERE id = ?", (late,)).fetchone() == (1,)
    db.close()


def test_a_folder_without_hard_links_gets_a_copy(state, saved, monkeypatch):
    before = facts(state)
    monkeypatch.setattr("os.link", no_space)
    aside = restore(saved, state).aside
    assert aside is not None
    (state / "state.db").unlink()
    aside.rename(state / "state.db")
    assert facts(state) == before


def test_a_state_that_is_in_use_is_not_replaced(state, saved):
    with Store.open(state) as store:
        store.classes()
        before = store.history()
        with pytest.raises(StoreBusy, match="is in use by another process"):
            restore(saved, state)
        assert store.history() == before
    assert sorted(content(state)) == ["state.db"]


def test_every_flipped_byte_is_refused_by_name_and_the_state_is_untouched(state, saved):
    good, before = saved.read_bytes(), content(state)
    generator = np.random.default_rng(0)
    places = {*range(16), *generator.integers(0, len(good), 120).tolist()}
    for place in sorted(places):
        bad = bytearray(good)
        bad[place] ^= 1 << int(generator.integers(8))
        saved.write_bytes(bad)
        with pytest.raises(FormatError) as caught:
            restore(saved, state)
        assert str(saved) in caught.value.message
        assert len(str(caught.value).splitlines()) == 1
    assert content(state) == before


def test_every_truncation_is_refused_and_the_state_is_untouched(state, saved):
    good, before = saved.read_bytes(), content(state)
    for length in [0, 1, 7, 8, 15, 16, 40, 400, len(good) // 2, len(good) - 1]:
        saved.write_bytes(good[:length])
        with pytest.raises(FormatError, match="is no usable backup"):
            restore(saved, state)
    saved.write_bytes(good + b"x")
    with pytest.raises(FormatError, match="its payload has"):
        restore(saved, state)
    assert content(state) == before


def test_foreign_files_are_refused_and_no_folder_is_made(tmp_path):
    for number, data in enumerate([b"a text", b"\xff\xd8\xff\xe0 a picture", b"PK\x03\x04" * 99]):
        foreign = tmp_path / f"foreign{number}"
        foreign.write_bytes(data)
        with pytest.raises(FormatError, match="expected b'ACCRBAK"):
            restore(foreign, tmp_path / "new")
    with pytest.raises(NotFound, match="no backup at"):
        restore(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(AccrueError, match="Is a directory"):
        restore(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backup_of_a_future_format_or_database_is_refused_naming_both(state, saved, tmp_path):
    good, before = saved.read_bytes(), content(state)
    saved.write_bytes(good[:8] + (7).to_bytes(4, "little") + good[12:])
    with pytest.raises(FutureVersion, match="is of format 7; this Accrue reads up to 1"):
        restore(saved, state)
    assert content(state) == before
    with Store.open(state) as store:
        store._database._connection.execute("PRAGMA user_version = 99")
        backup(store, tmp_path / "future")
    before = content(state)
    with pytest.raises(FutureVersion, match="is of version 99"):
        restore(tmp_path / "future", state)
    with pytest.raises(FutureVersion):
        restore(tmp_path / "future", tmp_path / "new")
    assert content(state) == before
    assert not (tmp_path / "new").exists()


class PowerCutError(Exception):
    pass


def cut(*_: object) -> None:
    raise PowerCutError


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace", "fsync_folder"])
@pytest.mark.parametrize("failure", [cut, no_space])
def test_a_restore_cut_off_in_any_step_leaves_the_present_state(state, saved, step, failure):
    before = facts(state)
    with pytest.raises((PowerCutError, StoreFull)):
        restore(saved, state, steps=FileSteps(**{step: failure}))
    assert facts(state) == before
    with Store.open(state) as store:
        assert store.check() == []


def test_a_backup_that_finds_no_room_leaves_the_older_one(state, saved):
    good, before = saved.read_bytes(), sorted(saved.parent.iterdir())
    with Store.open(state) as store, pytest.raises(StoreFull):
        backup(store, saved, steps=FileSteps(fsync=no_space))
    assert saved.read_bytes() == good
    assert sorted(saved.parent.iterdir()) == before


def test_a_backup_into_a_missing_folder_says_so(store, tmp_path):
    with pytest.raises(AccrueError, match="No such file or directory"):
        backup(store, tmp_path / "absent/b")


def test_a_backup_is_taken_while_another_process_writes(state, tmp_path, teach):
    with Store.open(state, space_id=SPACE, dim=4) as writer, Store.open(state) as reader:
        teach(writer, "bolt")
        with writer.atomic():
            teach(writer, "nut")
            assert backup(reader, tmp_path / "b").classes == 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_folder_of_backups_keeps_the_newest_however_the_clock_stands(state, tmp_path, teach):
    """A device without a network may start in 1970 again; files of others are left alone."""
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine.backup").write_bytes(b"mine")
    with Store.open(state, space_id=SPACE, dim=4) as store:
        for at in (2 * DAY, 3 * DAY, 0.0):
            teach(store, f"class at {at}")
            done = backup_into(store, folder, keep=2, clock=lambda at=at: at)
    assert [path.name for path in done.removed] == ["accrue-000001-19700103T000000Z.backup"]
    assert names(folder) == [
        "accrue-000002-19700104T000000Z.backup",
        "accrue-000003-19700101T000000Z.backup",
        "mine.backup",
    ]
    assert read_info(done.path).classes == 3
    restore(done.path, tmp_path / "other")
    assert facts(tmp_path / "other") == facts(state)


def test_a_full_disk_removes_no_backup_of_before(state, tmp_path, teach):
    folder = tmp_path / "backups"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
        first = backup_into(store, folder, keep=1).path
        with pytest.raises(StoreFull):
            backup_into(store, folder, keep=1, steps=FileSteps(fsync=full))
        assert names(folder) == [first.name]
        assert read_info(first).classes == 1
        (folder / ".accrue-backup-left").mkdir()
        (folder / ".accrue-backup-left" / "database").write_bytes(b"half")
        (folder / ".accrue-000002.0.tmp").write_bytes(b"half")
        second = backup_into(store, folder, keep=1)  # what a power cut left goes, too
        assert names(folder) == [second.path.name]
        assert second.removed == (first,)


def test_two_do_not_back_up_into_one_folder_at_once(state, tmp_path, teach):
    import fcntl

    folder = tmp_path / "backups"
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
        backup_into(store, folder, keep=3)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(Conflict, match="another backup is being written into"):
                backup_into(store, folder, keep=3)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UsageError, match="is a file; expected a folder"):
            backup_into(store, tmp_path / "file", keep=3)
