"""One byte budget: kept to, in the order that is stated, and nothing silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accrue.errors import Conflict, StoreFull
from accrue.learn.statistics import Statistics, payload_size
from accrue.store import Store
from accrue.store.memory import FOLD_ROWS, LEAST_ROWS

SPACE = "5" * 64
DIM = 4
ROW = 2 * DIM


@pytest.fixture
def opened(state: Path):
    """opened(memory) -> the store of `state` with that byte budget."""
    stores = []

    def run(memory: int = 0) -> Store:
        stores.append(Store.open(state, space_id=SPACE, dim=DIM, memory=memory))
        return stores[-1]

    yield run
    for store in stores:
        store.close()


def fill(store: Store, name: str, shots: int, seed: int = 0, thumb: bytes | None = None):
    rng = np.random.default_rng(seed)
    teaching = store.begin_teach(name)
    made = []
    for _ in range(shots):
        rows = rng.integers(-30000, 30000, (2, DIM)).astype(np.int16)
        store.add_shot(teaching, rows, thumb=thumb)
        made.append(rows)
    return made


def test_the_bytes_held_are_counted_by_kind(opened, make_rows):
    """Rows, kept or refused; thumbnails; statistics, as they lie on the disk."""
    store = opened()
    fill(store, "bolt", 3, thumb=b"x" * 50)
    store.refuse("bolt", [("a", make_rows(1, n=1))])
    assert (store.held().rows, store.held().thumbnails) == (7 * ROW, 150)
    assert store.held().statistics == 0
    store.set_retention("bolt", retain="statistics")
    held = store.held()
    assert (held.rows, held.thumbnails) == (ROW, 0)
    assert 0 < held.statistics <= payload_size(DIM) + 200


def test_thumbnails_go_first_and_the_oldest_of_them(opened):
    """No row goes while a thumbnail is there."""
    every = fill(opened(), "bolt", 8, thumb=b"x" * 100)
    limit = 16 * ROW + 500
    fill(opened(limit), "nut", 1)
    store = opened(limit)
    assert store.held().total <= limit
    has = [shot.has_thumb for shot in store.shots("bolt")]
    assert has == sorted(has)
    assert 0 < sum(has) < 8
    bolt = next(found for found in store.rows_by_class() if found.name == "bolt")
    assert bolt.statistics() == Statistics.of(np.concatenate(every))
    assert not any(shot.folded for shot in store.shots())


def test_what_was_removed_goes_next_and_cannot_be_undone_then(opened):
    """Its rows are what nobody uses; the undo says that they are gone."""
    store = opened()
    fill(store, "gone", 30, seed=1)
    every = fill(store, "bolt", 30, seed=2)
    removed = store.remove("gone")
    tight = opened(store.held().total - 10)
    fill(tight, "bolt", 1, seed=3)
    assert tight.held().rows == 62 * ROW
    with pytest.raises(Conflict, match="cannot be undone"):
        tight.undo(removed.seq)
    assert tight.check() == []
    (bolt,) = tight.rows_by_class()
    assert len(bolt.rows) == 62
    assert np.array_equal(bolt.rows[:60], np.concatenate(every))


def test_rows_are_folded_where_that_is_smaller_and_nothing_that_was_learned_changes(opened):
    """Few dimensions, many rows: statistics are smaller, the sums stay the same."""
    store = opened()
    every = fill(store, "bolt", 200, seed=1) + fill(store, "nut", 20, seed=2)
    before = store.held().total
    tight = opened(before // 2)
    every += fill(tight, "nut", 1, seed=3)
    assert tight.held().total <= before // 2
    found = {one.name: one for one in tight.rows_by_class()}
    assert found["bolt"].folded is not None
    assert len(found["bolt"].rows) >= FOLD_ROWS
    total = sum((one.statistics() for one in found.values()), Statistics.zeros(DIM))
    assert total == Statistics.of(np.concatenate(every))
    assert tight.check() == []
    assert "forget" not in [entry.verb for entry in tight.history()]


def test_rows_are_not_folded_where_that_makes_the_state_larger(state: Path):
    """Many dimensions, few rows: whole shots are forgotten, largest class first, by an entry."""
    rng = np.random.default_rng(0)
    dim = 64

    def teach(store: Store, name: str, shots: int) -> None:
        teaching = store.begin_teach(name)
        for _ in range(shots):
            store.add_shot(teaching, rng.integers(-900, 900, (1, dim)).astype(np.int16))

    with Store.open(state, space_id=SPACE, dim=dim, memory=100 * 2 * dim) as store:
        teach(store, "many", 80)
        teach(store, "few", 21)
        rows = {row.name: row.rows for row in store.classes()}
        assert rows["few"] == 21
        assert rows["many"] < 80
        assert store.held().total <= 100 * 2 * dim
        assert store.held().statistics == 0
        forgot = next(entry for entry in store.history() if entry.verb == "forget")
        assert "many" in forgot.summary
        assert store.check() == []
        with pytest.raises(Conflict, match="cannot be undone"):
            store.undo(forgot.seq)
        teachings = [entry.seq for entry in store.history() if entry.verb == "teach"]
        with pytest.raises(Conflict, match=r"cannot be undone: entry \d+ \(forgot"):
            store.undo(min(teachings))
        store.undo()  # the newest that can be: the teaching of "few"
        assert [row.name for row in store.classes()] == ["many"]


def test_where_nothing_more_may_go_a_shot_is_refused_and_nothing_changes(opened):
    """Too many classes for the budget: the error says what to do, and what was there stays."""
    limit = 8 * ROW  # four shots of two rows
    store = opened(limit)
    fill(store, "bolt", 2, seed=1)
    fill(store, "nut", 2, seed=2)
    before = [(row.name, row.rows) for row in store.classes()]
    with pytest.raises(StoreFull, match="the budget is"):
        fill(store, "valve", 1)
    assert [(row.name, row.rows) for row in store.classes()] == before
    assert store.check() == []


def test_a_class_never_loses_its_last_shot(state: Path):
    """A shot of more rows than a class must keep is not forgotten when it is the only one."""
    rows = np.ones((LEAST_ROWS + 4, 64), np.int16)
    with Store.open(state, space_id=SPACE, dim=64, memory=2 * rows.nbytes) as store:
        for name in ("bolt", "nut"):
            store.add_shot(store.begin_teach(name), rows)
        with pytest.raises(StoreFull):
            store.add_shot(store.begin_teach("valve"), rows)
        assert [row.shots for row in store.classes()] == [1, 1]


def test_a_state_of_an_older_version_is_brought_up_to_date_when_it_is_read(state: Path):
    """Listing after an update needs no teaching first."""
    import shutil

    state.mkdir()
    shutil.copyfile(Path(__file__).parents[1] / "data/store/v1/state.db", state / "state.db")
    with Store.open(state, readonly=True) as store:
        assert store.classes()
        assert store.check() == []


def test_the_teaching_under_way_loses_none_of_its_shots_while_others_can_go(state: Path):
    """So that it can be undone, though a fold came in the middle of it."""
    with Store.open(state, space_id=SPACE, dim=DIM, budget=20) as store:
        fill(store, "bolt", 9, seed=1)
        fill(store, "bolt", 5, seed=2)
        folded = [shot.folded for shot in store.shots()]
        assert any(folded[:9])
        assert not any(folded[9:])
        store.undo()
        assert len(store.shots()) == 9
        assert store.check() == []


def test_a_shot_is_not_forgotten_as_it_is_acknowledged(state: Path):
    """The newest shot stays to the last, however much it repeats the others."""
    rows = np.full((1, 64), 100, np.int16)
    with Store.open(state, space_id=SPACE, dim=64, memory=12 * rows.nbytes) as store:
        teaching = store.begin_teach("bolt")
        for _ in range(30):
            shot = store.add_shot(teaching, rows)
            assert shot in [one.id for one in store.shots()]
        assert store.held().total <= 12 * rows.nbytes
        assert store.check() == []
