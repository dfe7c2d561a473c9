"""Purging deletes bytes, not only rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accrue.errors import Conflict, NotFound, StoreBusy
from accrue.store import Store, backup, restore

SPACE = "5" * 64


def occurs(state: Path, needle: bytes) -> list[str]:
    return [path.name for path in state.iterdir() if needle in path.read_bytes()]


def rows_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32767, 32768, (2, 64)).astype(np.int16)


@pytest.mark.parametrize("removed", [False, True])
def test_no_byte_of_a_purged_class_is_in_any_file_of_the_state(state: Path, removed: bool):
    rows, thumb = rows_of(1), b"\xff\xd8a thumbnail of a secret"
    with Store.open(state, space_id=SPACE, dim=64) as store:
        store.add_shot(store.begin_teach("nut"), rows_of(2))
        store.add_shot(store.begin_teach("Secret thing"), rows, thumb=thumb, source="vault.jpg")
        assert occurs(state, rows.tobytes()[:64])
        if removed:
            store.remove("secret thing")
        purged = store.purge("SECRET THING")
        assert (purged.classes, purged.shots, purged.rows, purged.also_in) == (1, 1, 2, ())
        for needle in (rows.tobytes()[:64], thumb, b"vault.jpg", b"Secret thing", b"secret thing"):
            assert occurs(state, needle) == []
        assert [row.name for row in store.classes()] == ["nut"]
        assert store.check() == []
    for needle in (rows.tobytes()[:64], thumb, b"vault.jpg", b"ecret thing"):
        assert occurs(state, needle) == []


def test_folded_rows_leave_no_bytes_once_the_log_is_written_back(state: Path):
    rows = rows_of(1)
    with Store.open(state, space_id=SPACE, dim=64) as store:
        store.add_shot(store.begin_teach("bolt"), rows)
        store.set_retention("bolt", retain="statistics")
    assert occurs(state, rows.tobytes()[:64]) == []


def test_entries_that_touched_a_purged_class_stay_without_names_and_cannot_be_undone(store, teach):
    teach(store, "bolt")
    (moved,) = teach(store, "secret")
    store.relabel([moved], "bolt")
    store.purge("secret")
    assert [(e.verb, e.summary, e.purged) for e in store.history()] == [
        ("purge", "purged 1 class: 0 shots, 0 rows", True),
        ("relabel", "relabel of a class since purged", True),
        ("teach", "teach of a class since purged", True),
        ("teach", 'taught "bolt": 1 shot, 2 rows', False),
    ]
    with pytest.raises(Conflict, match=r"entry 3 .* cannot be undone: what it changed was purged"):
        store.undo(3)
    with pytest.raises(Conflict, match=r"entry 4 .* cannot be undone"):
        store.undo()
    assert store.resolve("bolt").shots == 2
    assert store.check() == []
    teach(store, "secret")
    store.undo()
    assert [row.name for row in store.classes()] == ["bolt"]
    assert store.check() == []


def test_purging_takes_along_what_was_merged_and_frees_what_was_removed_before(store, teach):
    for name in ("a", "b", "c"):
        teach(store, name)
    store.merge("a", "b")
    store.remove("a")
    teach(store, "b")
    store.merge("c", "b")
    assert store.purge("c").classes == 2
    assert store.classes() == []
    assert store.check() == []
    teach(store, "a")
    assert store.check() == []


def test_purging_an_unknown_class_says_so(store):
    with pytest.raises(NotFound, match='no class "bolt"'):
        store.purge("bolt")


def test_a_purge_under_a_reader_is_refused_before_anything_is_deleted(store, state, teach):
    teach(store, "bolt")
    store._database._connection.execute("PRAGMA busy_timeout = 50")
    with Store.open(state, readonly=True) as reader, reader._database.reading() as db:
        db.execute("SELECT * FROM shot").fetchall()
        teach(store, "bolt")
        with pytest.raises(StoreBusy, match="is in use by another process"):
            store.purge("bolt")
    assert store.resolve("bolt").shots == 2


def test_a_purge_names_the_databases_that_were_set_aside(state, tmp_path, teach):
    with Store.open(state, space_id=SPACE, dim=4) as store:
        teach(store, "bolt")
        backup(store, tmp_path / "b")
    aside = restore(tmp_path / "b", state).aside
    with Store.open(state) as store:
        assert store.purge("bolt").also_in == (str(aside),)
