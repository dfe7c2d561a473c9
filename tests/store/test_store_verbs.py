"""What each verb does, what it refuses, and what is read back."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from accrue.errors import Conflict, NotFound, RowsError, UsageError
from accrue.learn.statistics import Statistics
from accrue.store import Store, class_id


def names(store: Store) -> list[str]:
    return [row.name for row in store.classes()]


def test_a_taught_class_reads_back_with_its_rows_source_and_thumbnail(store, make_rows):
    teaching = store.begin_teach("  Bolt ", actor="anna")
    shot = store.add_shot(teaching, make_rows(1), source="a/b.jpg", thumb=b"\xff\xd8jpeg")
    (row,) = store.classes()
    assert (row.id, row.name, row.shots, row.rows) == (class_id("default", "bolt"), "Bolt", 1, 2)
    (found,) = store.shots("BOLT")
    assert (found.id, found.source, found.actor) == (shot, "a/b.jpg", "anna")
    assert (found.folded, found.has_thumb) == (False, True)
    assert store.thumb(shot) == b"\xff\xd8jpeg"
    (evidence,) = store.rows_by_class()
    assert np.array_equal(evidence.rows, make_rows(1))
    assert evidence.shot_ids == (shot,)
    assert evidence.counts.tolist() == [2]
    assert [s for s, _ in evidence.by_shot()] == [shot]


def test_one_command_is_one_entry_and_one_without_a_shot_is_none(store, teach):
    store.begin_teach("nut")
    assert store.history() == []
    teach(store, "bolt", shots=3)
    (entry,) = store.history()
    assert (entry.verb, entry.summary) == ("teach", 'taught "bolt": 3 shots, 6 rows')


def test_shot_ids_ascend_even_when_the_clock_goes_back(state: Path, teach):
    times = iter([100.0, 2e9, 50.0, 50.0, 50.0, 50.0])
    with Store.open(state, space_id="5" * 64, dim=4, clock=lambda: next(times)) as store:
        ids = teach(store, "bolt", shots=5)
    assert ids == sorted(set(ids))
    assert all(len(i) == 16 and i == i.lower() for i in ids)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((1, 4)), "rows of dtype float64; expected int16"),
        (np.zeros((1, 5), np.int16), "rows of shape (1, 5); expected (n, 4)"),
        (np.zeros((0, 4), np.int16), "a shot without rows; expected at least one"),
        (np.full((1, 4), -32768, np.int16), "-32768"),
    ],
)
def test_rows_that_cannot_be_embeddings_leave_nothing_behind(store, rows, text):
    with pytest.raises(RowsError) as caught:
        store.add_shot(store.begin_teach("bolt"), rows)
    assert text in caught.value.message
    assert store.classes() == []
    assert store.history() == []


def test_a_source_path_that_is_not_utf8_is_kept_escaped(store, make_rows):
    store.add_shot(store.begin_teach("bolt"), make_rows(), source="caf\udce9.jpg")
    assert store.shots()[0].source == "caf\\udce9.jpg"


def test_a_renamed_class_answers_to_both_names_and_teaching_the_old_one_adds_to_it(store, teach):
    teach(store, "bolt")
    store.rename("bolt", "Screw")
    teach(store, "BOLT")
    (row,) = store.classes()
    assert (row.name, row.aliases, row.shots) == ("Screw", ("bolt",), 2)
    assert row.id == class_id("default", "bolt")
    store.rename("screw", "Bolt")
    assert (store.resolve("screw").name, store.resolve("screw").aliases) == ("Bolt", ("Screw",))


def test_a_rename_to_a_name_or_alias_of_another_class_is_refused_and_hints_at_merging(store, teach):
    teach(store, "bolt")
    teach(store, "nut")
    store.rename("nut", "hex nut")
    for taken in ("HEX NUT", "Nut"):
        with pytest.raises(Conflict) as caught:
            store.rename("bolt", taken)
        assert caught.value.message == (
            f'cannot rename "bolt" to "{taken}": class "hex nut" has that name or alias'
        )
        assert "merge" in caught.value.hint
    with pytest.raises(Conflict, match='class "bolt" is called that already'):
        store.rename("bolt", "bolt")


def test_a_removed_class_taught_again_starts_fresh_under_the_same_id(store, teach):
    teach(store, "bolt", shots=2)
    store.rename("bolt", "screw")
    store.set_retention("screw", budget=7)
    store.remove("bolt")
    assert store.classes() == []
    with pytest.raises(NotFound):
        store.resolve("screw")
    teach(store, "bolt")
    (row,) = store.classes()
    assert (row.id, row.name) == (class_id("default", "bolt"), "bolt")
    assert (row.aliases, row.shots, row.budget) == ((), 1, 1000)


def test_an_unknown_name_gives_the_nearest_ones(store, teach):
    teach(store, "bolt")
    teach(store, "pallet jack")
    with pytest.raises(NotFound) as caught:
        store.resolve("bollt")
    assert caught.value.message == 'no class "bollt"'
    assert caught.value.hint == 'did you mean "bolt"?'
    for odd in ("\U0001f600", "((((", "a" * 200, "\u0301x"):
        with pytest.raises(NotFound):
            store.resolve(odd)


def test_merging_is_an_edge_that_chains_and_can_be_undone(store, teach):
    for name in ("a", "b", "c"):
        teach(store, name, shots=2)
    store.merge("a", "b")
    store.merge("b", "c")
    (row,) = store.classes()
    assert (row.name, row.shots, row.aliases, row.merged) == ("c", 6, ("a", "b"), ("a", "b"))
    assert store.resolve("a").name == "c"
    assert [r.counts_as is None for r in store.classes(merged=True)] == [False, False, True]
    (evidence,) = store.rows_by_class()
    assert len(evidence.rows) == 12
    assert evidence.shot_ids == tuple(sorted(evidence.shot_ids))
    teach(store, "a")
    assert store.resolve("c").shots == 7
    for pair in (("a", "c"), ("c", "a"), ("a", "a")):
        with pytest.raises(Conflict, match='both are class "c" already'):
            store.merge(*pair)
    store.undo(5)
    assert [(r.name, r.shots) for r in store.classes()] == [("b", 4), ("c", 3)]
    assert store.check() == []


def test_redoing_a_merge_that_would_close_a_cycle_is_refused(store, teach):
    teach(store, "a")
    teach(store, "b")
    store.merge("a", "b")
    undone = store.undo()
    store.merge("b", "a")
    with pytest.raises(Conflict) as caught:
        store.undo(undone.seq)
    assert caught.value.fields["blocked_by"] == 5
    assert names(store) == ["a"]
    assert store.check() == []


def test_removing_a_class_takes_along_what_was_merged_into_it(store, teach):
    teach(store, "a")
    teach(store, "b")
    store.merge("a", "b")
    store.remove("a")
    assert store.classes() == []
    teach(store, "a")
    assert [(r.name, r.shots, r.merged) for r in store.classes()] == [("a", 1, ())]
    assert store.check() == []


def test_relabelled_shots_count_for_the_other_class(store, teach):
    first, second = teach(store, "bolt", shots=2)
    store.relabel([first, first], "nut")
    assert [(r.name, r.shots) for r in store.classes()] == [("bolt", 1), ("nut", 1)]
    with pytest.raises(Conflict, match='every shot given is of class "nut" already'):
        store.relabel([first], "nut")
    with pytest.raises(NotFound, match='no shot "nope"'):
        store.relabel([second, "nope"], "nut")
    with pytest.raises(UsageError, match="no shots were given"):
        store.relabel([], "nut")
    assert store.history()[0].summary == 'relabelled 1 shot as "nut"'


def test_splitting_makes_a_new_class_of_some_shots(store, teach):
    ids = teach(store, "bolt", shots=3)
    (other,) = teach(store, "nut")
    store.split("bolt", ids[:2], "stud")
    assert [(r.name, r.shots) for r in store.classes()] == [("bolt", 1), ("nut", 1), ("stud", 2)]
    with pytest.raises(Conflict, match='class "nut" exists already'):
        store.split("bolt", ids[2:], "nut")
    with pytest.raises(NotFound, match='is not one of class "bolt"'):
        store.split("bolt", [other], "x")


def test_rows_past_the_budget_are_folded_and_nothing_is_lost(state, make_rows):
    with Store.open(state, space_id="5" * 64, dim=4, budget=10) as store:
        teaching = store.begin_teach("bolt")
        for seed in range(20):
            store.add_shot(teaching, make_rows(seed), thumb=b"jpeg")
            (row,) = store.classes()
            assert row.rows <= 10
            assert row.rows + row.folded_rows == 2 * (seed + 1)
        shots = store.shots()
        assert not any(shot.has_thumb for shot in shots if shot.folded)
        (evidence,) = store.rows_by_class()
        every = np.concatenate([make_rows(seed) for seed in range(20)])
        assert evidence.statistics() == Statistics.of(every)
        assert store.check() == []


def test_folded_shots_can_neither_be_undone_nor_moved_and_it_is_said(store, teach):
    ids = teach(store, "bolt", shots=2)
    entry = store.set_retention("bolt", retain="statistics")
    assert "2 shots folded, which cannot be undone" in entry.summary
    ids += teach(store, "bolt")
    assert [shot.folded for shot in store.shots("bolt")] == [True] * 3
    with pytest.raises(Conflict) as caught:
        store.undo(3)
    assert "rows of its shots were folded into statistics" in caught.value.message
    for move in (lambda: store.relabel(ids[:1], "nut"), lambda: store.split("bolt", ids, "nut")):
        with pytest.raises(Conflict, match="its rows were folded into the statistics"):
            move()
    before = store.rows_by_class()[0].statistics()
    store.remove("bolt")
    assert store.rows_by_class() == []
    store.undo()
    assert store.rows_by_class()[0].statistics() == before
    assert store.check() == []


def test_a_redo_that_would_revive_or_drop_folded_rows_by_halves_is_refused(store, teach):
    teach(store, "bolt")
    store.remove("bolt")
    undone = store.undo()
    retention = store.set_retention("bolt", retain="statistics")
    with pytest.raises(Conflict, match=f"undo {retention.seq} first"):
        store.undo(undone.seq)
    store.undo(retention.seq)
    with pytest.raises(Conflict, match="folded into statistics"):
        store.undo(undone.seq)
    assert store.check() == []


@pytest.mark.parametrize(("value", "text"), [(-1, "budget of -1 rows"), (2**70, "budget of")])
def test_a_budget_out_of_range_is_refused(store, teach, value, text):
    teach(store, "bolt")
    with pytest.raises(UsageError, match=text):
        store.set_retention("bolt", budget=value)
    with pytest.raises(UsageError, match='retain is "images"; expected rows or statistics'):
        store.set_retention("bolt", retain="images")


def test_removing_a_class_in_the_middle_of_its_teaching_stops_the_teaching(store, make_rows):
    teaching = store.begin_teach("bolt")
    store.add_shot(teaching, make_rows())
    store.remove("bolt")
    with pytest.raises(Conflict, match='class "bolt" was removed, or its teaching undone, after 1'):
        store.add_shot(teaching, make_rows())
    assert store.check() == []


def test_several_changes_in_one_atomic_are_all_or_nothing(store, teach, make_rows):
    teach(store, "bolt")
    teaching = store.begin_teach("nut")

    class StopError(Exception):
        pass

    def remove_twice() -> None:
        with store.atomic():
            store.remove("screw")
            store.remove("screw")

    def change_and_stop() -> None:
        with store.atomic():
            store.add_shot(teaching, make_rows())
            store.rename("bolt", "screw")
            with pytest.raises(NotFound):
                remove_twice()
            assert store.resolve("screw").shots == 1  # the inner level took back only its own
            raise StopError

    with pytest.raises(StopError):
        change_and_stop()
    assert names(store) == ["bolt"]
    assert len(store.history()) == 1
    store.add_shot(teaching, make_rows())
    assert names(store) == ["bolt", "nut"]
    assert store.check() == []


def test_the_revision_tells_of_own_and_of_others_changes(store, state, teach):
    seen = [store.revision]
    assert store.revision == seen[0]
    teach(store, "bolt")
    seen.append(store.revision)
    with Store.open(state) as other:
        teach(other, "bolt")
    seen.append(store.revision)
    store.purge("bolt")
    seen.append(store.revision)
    assert len(set(seen)) == 4


def test_threads_may_share_one_store(store, make_rows):
    def work(name: str) -> None:
        teaching = store.begin_teach(name)
        for seed in range(20):
            store.add_shot(teaching, make_rows(seed))

    threads = [threading.Thread(target=work, args=(n,)) for n in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.shots for row in store.classes()] == [20, 20, 20]
    assert len(store.history()) == 3
    assert store.check() == []


def test_history_is_newest_first_and_limited(store, teach):
    teach(store, "a")
    teach(store, "b")
    assert [entry.seq for entry in store.history()] == [2, 1]
    assert [entry.seq for entry in store.history(1)] == [2]
    with pytest.raises(NotFound, match="journal entry 9 does not exist"):
        store.entry(9)


def test_the_check_finds_a_row_that_the_journal_did_not_change(store, teach):
    (shot,) = teach(store, "bolt")
    with store._database.atomic() as db:
        db.execute("UPDATE shot SET active = 0")
    assert store.check() == [f"shot {shot}: active is 0, the journal left 1"]
