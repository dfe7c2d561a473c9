""" "Not this" in the store: follows its class everywhere, is undone and purged like all else."""

from __future__ import annotations

import numpy as np
import pytest

from accrue.errors import Conflict, NotFound, RowsError, UsageError
from accrue.store import Store, backup, restore


def refused(store: Store) -> dict[str, list[list[int]]]:
    return {one.name: one.refused.tolist() for one in store.rows_by_class() if len(one.refused)}


@pytest.fixture
def noted(store, teach, make_rows):
    """A store with two classes and a photo of two views that is not a bolt."""
    teach(store, "bolt", shots=2)
    teach(store, "nut", shots=2)
    store.refuse("BOLT", [("wrong.jpg", make_rows(77))], actor="me")
    return store


def test_a_refused_image_reads_back_with_its_rows_and_provenance(noted, make_rows):
    """It is of its class, and in no sum."""
    assert refused(noted) == {"bolt": make_rows(77).tolist()}
    (one,) = noted.refusals("bolt")
    assert (one.source, one.actor, one.rows) == ("wrong.jpg", "me", 2)
    assert noted.refusals("nut") == []
    assert [len(found.rows) for found in noted.rows_by_class()] == [4, 4]
    assert noted.check() == []


def test_it_follows_renaming_and_merging(noted, make_rows):
    """Under the new name, and for the class that the old one counts as."""
    noted.rename("bolt", "screw")
    assert list(refused(noted)) == ["screw"]
    noted.merge("screw", "nut")
    assert refused(noted) == {"nut": make_rows(77).tolist()}
    assert len(noted.refusals("nut")) == 1


def test_it_goes_and_comes_back_with_its_class(noted, make_rows):
    """Removing the class takes it along, undoing that brings it back, teaching anew does not."""
    entry = noted.remove("bolt")
    assert refused(noted) == {}
    assert noted.check() == []
    noted.undo(entry.seq)
    assert refused(noted) == {"bolt": make_rows(77).tolist()}
    noted.remove("bolt")
    teaching = noted.begin_teach("bolt")
    noted.add_shot(teaching, make_rows(1))
    assert refused(noted) == {}


def test_it_is_undone_redone_and_taken_back(noted, make_rows):
    """Undo, redo, allow, and undoing the allowing."""
    undone = noted.undo()
    assert refused(noted) == {}
    noted.undo(undone.seq)
    allowed = noted.allow([noted.refusals("bolt")[0].id])
    assert refused(noted) == {}
    noted.undo(allowed.seq)
    assert refused(noted) == {"bolt": make_rows(77).tolist()}
    assert noted.check() == []


def test_allowing_is_not_undone_over_a_class_that_was_removed(noted):
    """Or a refusal would be active without its class."""
    allowed = noted.allow([noted.refusals("bolt")[0].id])
    noted.remove("bolt")
    with pytest.raises(Conflict, match="cannot be undone"):
        noted.undo(allowed.seq)


def test_a_purge_deletes_it(noted):
    """Its bytes leave the database with those of its class."""
    noted.purge("bolt")
    assert noted.check() == []
    assert refused(noted) == {}
    with noted._database.reading() as db:
        assert db.execute("SELECT count(*) FROM refusal").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM change WHERE tbl = 'refusal'").fetchone() == (0,)


def test_it_is_in_a_backup(noted, tmp_path, make_rows):
    """Restored with everything else."""
    backup(noted, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "other")
    with Store.open(tmp_path / "other") as other:
        assert refused(other) == {"bolt": make_rows(77).tolist()}


def test_what_cannot_be_noted_or_taken_back_is_said(noted, make_rows):
    """No class, no images, no rows, rows of another form, ids that are not there; all or none."""
    with pytest.raises(NotFound, match="no class"):
        noted.refuse("valve", [("a", make_rows(1))])
    with pytest.raises(UsageError, match="nothing to refuse"):
        noted.refuse("bolt", [])
    with pytest.raises(RowsError, match="without rows"):
        noted.refuse("bolt", [("a", make_rows(1)), ("b", make_rows(1)[:0])])
    with pytest.raises(RowsError, match="float64"):
        noted.refuse("bolt", [("a", make_rows(1).astype(np.float64))])
    with pytest.raises(NotFound, match="no refused image"):
        noted.allow([noted.refusals("bolt")[0].id, "0000000000000000"])
    assert len(noted.refusals("bolt")) == 1


def test_the_check_finds_a_refusal_of_another_length(noted):
    """A blob that does not fit its number of rows is told."""
    with noted._database.atomic() as db:
        db.execute("UPDATE refusal SET n_rows = 3")
    assert any("expected 3 rows" in problem for problem in noted.check())
