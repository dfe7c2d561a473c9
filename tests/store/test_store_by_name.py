"""A class that exists by name: its own column, and every verb that it goes through."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from accrue.errors import Conflict, RowsError, StoreReadOnly, UsageError
from accrue.store import Store, backup, class_id, restore
from accrue.store.schema import MIGRATIONS

V1 = Path(__file__).parents[1] / "data/store/v1"
A, B = np.array([1, 2, 3, 4], np.int16), np.array([-5, 6, -7, 8], np.int16)


def texts(store: Store) -> dict[str, list[int]]:
    return {one.name: one.text.tolist() for one in store.rows_by_class() if one.text is not None}


def test_a_class_taught_by_name_has_the_text_and_no_shot(store):
    entry = store.teach_by_name(" Gear ", A, actor="anna")
    assert (entry.verb, entry.actor, entry.summary) == ("teach", "anna", 'taught "Gear" by name')
    (row,) = store.classes()
    assert (row.id, row.name, row.prompt) == (class_id("default", "gear"), "Gear", "Gear")
    assert (row.shots, row.rows) == (0, 0)
    (evidence,) = store.rows_by_class()
    assert evidence.text.tolist() == A.tolist()
    assert evidence.statistics().n == 0
    assert store.check() == []


def test_a_class_with_shots_keeps_them_and_an_alias_leads_to_it(store, teach):
    teach(store, "bolt", shots=2)
    store.rename("bolt", "hex bolt")
    entry = store.teach_by_name("BOLT", A, prompt="a photo  of a bolt ")
    assert entry.summary == 'taught "hex bolt" by name: "a photo of a bolt"'
    (row,) = store.classes()
    assert (row.name, row.shots, row.prompt) == ("hex bolt", 2, "a photo of a bolt")
    assert store.check() == []


def test_teaching_by_name_again_replaces_it_and_undo_goes_back_step_by_step(store):
    store.teach_by_name("gear", A)
    store.teach_by_name("gear", B, prompt="a cog")
    assert texts(store) == {"gear": B.tolist()}
    with pytest.raises(Conflict, match="undo 2 first"):
        store.undo(1)
    undone = store.undo()
    assert texts(store) == {"gear": A.tolist()}
    assert store.classes()[0].prompt == "gear"
    store.undo(undone.seq)
    assert texts(store) == {"gear": B.tolist()}
    store.undo()
    store.undo()
    assert store.classes() == []
    assert store.check() == []


def test_a_text_on_a_class_with_shots_is_undone_alone(store, teach):
    teach(store, "bolt")
    entry = store.teach_by_name("bolt", A)
    teach(store, "bolt")
    store.undo(entry.seq)
    assert texts(store) == {}
    assert store.resolve("bolt").shots == 2
    assert store.check() == []


def test_a_class_that_its_teaching_by_name_made_cannot_vanish_under_later_shots(store, teach):
    store.teach_by_name("gear", A)
    teach(store, "gear")
    with pytest.raises(Conflict, match="undo 2 first"):
        store.undo(1)


def test_a_removed_class_comes_back_with_its_text_by_undo_and_without_by_teaching(store, teach):
    store.teach_by_name("gear", A)
    store.remove("gear")
    assert texts(store) == {}
    store.undo()
    assert texts(store) == {"gear": A.tolist()}
    store.remove("gear")
    teach(store, "gear")
    assert store.classes()[0].prompt is None
    assert texts(store) == {}
    store.undo()
    store.undo()
    assert texts(store) == {"gear": A.tolist()}
    assert store.check() == []


def test_renaming_keeps_the_text(store):
    store.teach_by_name("gear", A)
    store.rename("gear", "cog")
    assert texts(store) == {"cog": A.tolist()}
    assert store.resolve("gear").prompt == "gear"


def test_of_merged_classes_the_text_of_the_root_counts(store):
    store.teach_by_name("gear", A)
    store.teach_by_name("cog", B)
    store.merge("gear", "cog")
    assert texts(store) == {"cog": B.tolist()}
    store.teach_by_name("gear", A, prompt="a gear")
    assert texts(store) == {"cog": A.tolist()}
    store.undo()
    store.undo()
    assert texts(store) == {"gear": A.tolist(), "cog": B.tolist()}
    assert store.check() == []


def test_a_class_merged_into_one_without_text_does_not_lend_its_own(store, teach):
    store.teach_by_name("gear", A)
    teach(store, "cog")
    store.merge("gear", "cog")
    assert texts(store) == {}
    assert store.classes()[0].prompt is None


def test_purging_leaves_no_byte_of_text_and_prompt(state: Path):
    text = np.random.default_rng(1).integers(-32767, 32768, 64).astype(np.int16)
    with Store.open(state, space_id="5" * 64, dim=64) as store:
        store.teach_by_name("gear", text, prompt="a secret prompt")
        store.purge("gear")
        for path in state.iterdir():
            content = path.read_bytes()
            assert text.tobytes()[:32] not in content
            assert b"secret" not in content
        assert store.check() == []


def test_backup_and_restore_keep_the_text(store, tmp_path):
    store.teach_by_name("gear", A, prompt="a gear")
    backup(store, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "other")
    with Store.open(tmp_path / "other") as other:
        assert texts(other) == {"gear": A.tolist()}
        assert other.classes()[0].prompt == "a gear"
        assert other.check() == []


@pytest.mark.parametrize(
    "text",
    [
        np.zeros(4),
        np.zeros(4, np.int16),
        np.zeros(5, np.int16),
        np.zeros((1, 4), np.int16),
        np.full(4, -32768, np.int16),
    ],
)
def test_a_row_that_cannot_be_an_embedding_is_refused_and_leaves_nothing(store, text):
    with pytest.raises(RowsError):
        store.teach_by_name("gear", text)
    assert store.history() == []


@pytest.mark.parametrize("prompt", ["", " \n ", "x" * 1001, "\x1b[31mred"])
def test_a_prompt_that_cannot_be_one_is_refused_in_one_line(store, prompt):
    with pytest.raises(UsageError, match="expected one line of 1 to 1,000") as caught:
        store.teach_by_name("gear", A, prompt=prompt)
    assert caught.value.message.isprintable()
    assert store.history() == []


def test_the_check_finds_a_text_that_is_cut_short(store):
    store.teach_by_name("gear", A)
    with store._database.atomic() as db:
        db.execute("UPDATE class SET text = x'00'")
    (gear,) = (row.id for row in store.classes())
    assert f"class {gear}: a text of 1 bytes; expected 8 and its prompt" in store.check()


def test_a_state_of_version_1_is_brought_up_to_date_by_reading_it(state):
    state.mkdir()
    shutil.copyfile(V1 / "state.db", state / "state.db")
    with Store.open(state, readonly=True) as store:
        assert [row.prompt for row in store.classes()] == [None] * len(store.classes())
        with pytest.raises(StoreReadOnly):
            store.teach_by_name("gear", A)
    with closing(sqlite3.connect(state / "state.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
