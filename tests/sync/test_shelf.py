"""A store in a fleet: what its verbs say, what it makes of what it hears, and what it costs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from shelf_cases import (
    DIM,
    FLEET,
    SPACE,
    Device,
    Wall,
    exchange,
    require_same,
    require_sound,
    some_rows,
)

from accrue.errors import Conflict, NotFound, StoreFull
from accrue.learn.state import State
from accrue.store import Store, backup, class_id, restore
from accrue.store.memory import Held
from accrue.sync.ledger import Heard

BOLT = class_id("default", "bolt")


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def dock(tmp_path: Path, wall: Wall) -> Device:
    return Device(tmp_path / "dock", "d" * 12, wall)


@pytest.fixture
def gate(tmp_path: Path, wall: Wall) -> Device:
    return Device(tmp_path / "gate", "g" * 12, wall)


# ---- exactness ----------------------------------------------------------------------------------


def test_two_machines_taught_different_shots_of_a_class_are_one_machine_taught_all(
    dock, gate, tmp_path
):
    shots = [some_rows(3) for _ in range(9)]
    dock.teach("pallet jack", rows=shots[:5])
    gate.teach("Pallet Jack", rows=shots[5:])
    gate.teach("bolt", rows=[shots[0]])
    exchange(dock, gate)
    alone = Device(tmp_path / "alone", "0" * 12, join=False)
    alone.teach("pallet jack", rows=shots)
    alone.teach("bolt", rows=[shots[0]])
    joint = State(SPACE, DIM)
    for found in alone.store.rows_by_class():
        joint.add(found.id, found.rows)
    assert dock.ledger.state().digest() == gate.ledger.state().digest() == joint.digest()


def test_folding_moves_shots_into_a_sum_of_the_device_and_changes_no_digest(dock, gate):
    dock.teach("bolt", 4)
    gate.teach("bolt", 2)
    exchange(dock, gate)
    before = gate.ledger.state().digest()
    dock.store.set_retention("bolt", retain="statistics")
    (subject,) = [m.subject for part in dock.own(BOLT).parts for m in part.members]
    assert subject.startswith(f"folded/{'d' * 12}-")
    exchange(dock, gate)
    assert gate.ledger.state().digest() == before
    (row,) = gate.store.classes()
    assert (row.shots, row.rows, row.folded_rows, row.devices) == (2, 4, 8, ("d" * 12,))
    dock.teach("bolt")  # the sum grows
    exchange(dock, gate)
    assert gate.store.resolve("bolt").folded_rows == 10


def test_a_sum_is_covered_by_a_removal_that_covered_its_shots(dock, gate):
    dock.teach("bolt", 3)
    exchange(dock, gate)
    gate.store.remove("bolt")
    dock.store.set_retention("bolt", retain="statistics")  # no news, though it is said later
    exchange(dock, gate)
    assert dock.names() == gate.names() == {}
    gate.store.undo()
    exchange(dock, gate)
    assert dock.names() == {"bolt": 3}
    assert dock.store.check() == []


# ---- verbs and undo -----------------------------------------------------------------------------


def test_undoing_a_teach_takes_only_own_shots_and_leaves_the_class_its_name(dock, gate):
    dock.teach("Bolt", 2)
    exchange(dock, gate)
    gate.teach("bolt", 3)  # into the class of the other, whose name alone it has
    exchange(dock, gate)
    dock.store.undo(1)
    exchange(dock, gate)
    assert dock.names() == gate.names() == {"Bolt": 3}
    dock.store.undo(dock.store.entry(1).undone_by)
    exchange(dock, gate)
    assert gate.names() == {"Bolt": 5}


def test_undo_of_a_removal_gives_back_everything_that_was_in_the_class(dock, gate):
    dock.teach("bolt", 2)
    gate.teach("bolt", 3)
    exchange(dock, gate)
    before = gate.ledger.state().digest()
    dock.store.remove("bolt")
    assert set(dock.own(BOLT).gone) == {"d" * 12, "g" * 12}
    exchange(dock, gate)
    assert gate.names() == {}
    dock.store.undo()
    assert dock.own(BOLT).gone == {}
    exchange(dock, gate)
    assert gate.names() == {"bolt": 5}
    assert gate.ledger.state().digest() == before


def test_what_was_taught_elsewhere_while_a_class_was_removed_stays(dock, gate):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    dock.store.remove("bolt")
    (kept,) = gate.teach("bolt")
    exchange(dock, gate)
    assert dock.names() == {"bolt": 1}
    assert [shot.id for shot in dock.store.shots("bolt")] == [kept]
    dock.store.undo(2)  # it is not in the way
    exchange(dock, gate)
    assert gate.names() == {"bolt": 3}


def test_the_receiver_of_a_removal_can_undo_it_and_all_have_the_class_back(dock, gate):
    dock.teach("bolt", 2)
    gate.teach("bolt")
    exchange(dock, gate)
    dock.store.remove("bolt")
    exchange(dock, gate)
    entry = gate.store.history(1)[0]
    assert (entry.verb, entry.actor) == ("sync", "fleet")
    assert entry.summary == f'received from {"d" * 12}: "bolt" removed'
    gate.store.undo(entry.seq)
    exchange(dock, gate)
    assert dock.names() == {"bolt": 3}


def test_what_was_received_can_be_undone_and_the_others_hear_of_it(dock, gate):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    entry = gate.store.history(1)[0]
    assert entry.summary == f'received from {"d" * 12}: "bolt" +2 shots'
    with pytest.raises(NotFound, match="nothing to undo"):
        gate.store.undo()  # without a number, only what this device did
    undone = gate.store.undo(entry.seq)
    exchange(dock, gate)
    assert dock.names() == gate.names() == {}
    gate.store.undo(undone.seq)
    exchange(dock, gate)
    assert dock.names() == {"bolt": 2}


def test_a_shot_of_another_device_can_be_relabelled_and_put_back(dock, gate):
    shot, _ = dock.teach("bolt", 2)
    gate.teach("nut")
    exchange(dock, gate)
    gate.store.relabel([shot], "nut")
    exchange(dock, gate)
    assert dock.names() == {"bolt": 1, "nut": 2}
    assert dock.store.shot(shot).device == ""
    assert gate.store.shot(shot).device == "d" * 12
    gate.store.undo()
    assert not gate.own(class_id("default", "nut")).facts.keys() & {f"shot/{shot}"}
    exchange(dock, gate)
    assert dock.names() == {"bolt": 2, "nut": 1}


def test_merges_in_both_directions_leave_the_older_one(dock, gate):
    dock.teach("a")
    gate.teach("b")
    exchange(dock, gate)
    dock.store.merge("a", "b")
    gate.store.merge("b", "a")
    exchange(dock, gate)
    assert dock.names() == gate.names() == {"b": 2}


def test_a_name_taught_here_and_given_there_shows_two_classes_of_one_name(dock, gate):
    dock.teach("bolt")
    exchange(dock, gate)
    dock.store.rename("bolt", "screw")
    gate.teach("screw", 2)
    exchange(dock, gate)
    assert [row.name for row in dock.store.classes()] == ["screw", "screw"]
    assert dock.ledger.view().homonyms == (tuple(sorted([BOLT, class_id("default", "screw")])),)
    assert dock.store.resolve(BOLT).shots == 1  # by its id, where the name leads to the other
    dock.store.merge(BOLT, class_id("default", "screw"))
    exchange(dock, gate)
    assert gate.names() == {"screw": 3}


def test_a_name_that_the_fleet_has_as_an_alias_teaches_that_class(dock, gate):
    dock.teach("bolt")
    dock.store.rename("bolt", "screw")
    exchange(dock, gate)
    gate.teach("BOLT")
    exchange(dock, gate)
    assert dock.names() == {"screw": 2}


def test_not_this_travels_and_can_be_taken_back_anywhere(dock, gate):
    dock.teach("bolt")
    dock.store.refuse("bolt", [("x.jpg", some_rows(1))])
    exchange(dock, gate)
    (refused,) = gate.store.refusals("bolt")
    assert refused.device == "d" * 12
    gate.store.allow([refused.id])
    exchange(dock, gate)
    assert dock.store.refusals("bolt") == []


def test_a_class_by_name_alone_reaches_the_others(dock, gate):
    row = some_rows(1)[0]
    dock.store.teach_by_name("washer", row, prompt="a photo of a washer")
    exchange(dock, gate)
    (found,) = gate.store.rows_by_class()
    assert found.text is not None
    np.testing.assert_array_equal(found.text, row)
    assert gate.store.resolve("washer").prompt == "a photo of a washer"


def test_a_class_that_others_emptied_goes_and_one_emptied_here_stays(dock, gate):
    (shot,) = dock.teach("bolt")
    exchange(dock, gate)
    gate.store.relabel([shot], "nut")
    exchange(dock, gate)
    assert dock.names() == {"bolt": 0, "nut": 1}
    dock.store.undo(1)  # takes back the shot and "bolt"; "nut" was the other's
    exchange(dock, gate)
    assert gate.names() == {"nut": 0}


# ---- purge, forget, leave -----------------------------------------------------------------------


def test_a_purge_takes_the_bytes_from_this_device_and_own_ones_from_all(dock, gate):
    mine, theirs = some_rows(2), some_rows(2)
    dock.teach("bolt", rows=[mine])
    gate.teach("bolt", rows=[theirs])
    dock.teach("nut")
    exchange(dock, gate)
    packed = {h: d for each in (*dock.said(), *gate.said()) for h, d in each.parts.items()}
    dock.store.purge("bolt")
    assert dock.own(BOLT).gone.keys() == {"d" * 12, "g" * 12}
    assert dock.own(BOLT).parts == ()
    exchange(dock, gate)
    assert gate.names() == {"nut": 1}
    dock.store.close()
    files = b"".join(path.read_bytes() for path in dock.folder.iterdir() if path.is_file())
    for gone in (mine.tobytes(), theirs.tobytes()):
        assert gone not in files
    assert sum(data in files for data in packed.values()) == 1  # the nut
    with closing(sqlite3.connect(gate.folder / "state.db")) as db:
        rows = [row[0] for row in db.execute("SELECT rows FROM shot WHERE rows IS NOT NULL")]
    assert mine.tobytes() not in rows  # who heard of it dropped what the other gave
    dock.open()
    gate.store.undo(gate.store.history(1)[0].seq)  # and may still want its own back
    gate.store.close(), gate.open()
    exchange(dock, gate)
    assert dock.names() == {"nut": 1, "bolt": 1}


def test_a_program_without_a_voice_does_not_purge(dock):
    dock.teach("bolt")
    dock.store.voice = None
    with pytest.raises(Conflict, match="cannot tell of a purge"):
        dock.store.purge("bolt")
    assert dock.names() == {"bolt": 1}


def test_a_forgotten_device_leaves_nothing_but_what_others_taught(dock, gate):
    dock.teach("bolt", 2)
    gate.teach("bolt", 3)
    gate.teach("nut")
    exchange(dock, gate)
    dock.ledger.forget("g" * 12)
    require_sound(dock)
    assert dock.names() == {"bolt": 2}
    assert all(key[0] != "g" * 12 for key in dock.ledger.revisions())
    dock.hear(gate.said())  # it is in the roster again
    require_same(dock, gate)


def test_who_leaves_keeps_what_it_taught_and_can_join_another_fleet(dock, gate):
    dock.teach("bolt", 2)
    gate.teach("bolt")
    gate.teach("nut")
    exchange(dock, gate)
    dock.ledger.leave()
    assert dock.names() == {"bolt": 2}
    assert dock.store.joined is None
    assert dock.store.check() == []
    dock.teach("stud")
    dock.store.join_fleet("other", "e" * 12)
    with pytest.raises(Conflict, match="is device eeeeeeeeeeee of fleet"):
        dock.store.join_fleet("third", "e" * 12)


def test_two_classes_that_show_one_name_have_two_when_the_device_leaves(dock, gate):
    dock.teach("bolt")
    dock.teach("nut")
    exchange(dock, gate)
    gate.store.rename("nut", "gear")
    dock.store.rename("bolt", "gear")
    exchange(dock, gate)
    dock.ledger.leave()
    assert dock.store.check() == []
    assert len(set(dock.names())) == 2


# ---- joining, restarting, other processes -------------------------------------------------------


def test_joining_says_all_that_was_taught_before(tmp_path, wall, gate):
    old = Device(tmp_path / "old", "o".replace("o", "n") * 12, wall, join=False)
    old.teach("bolt", 3)
    old.teach("nut")
    old.store.set_retention("nut", retain="statistics")
    old.store.merge("nut", "bolt")
    old.store.teach_by_name("washer", some_rows(1)[0])
    old.teach("gone")
    old.store.remove("gone")
    old.join()
    exchange(old, gate)
    assert gate.names() == {"bolt": 3, "washer": 0}
    assert gate.store.resolve("bolt").folded_rows == 2
    assert gate.store.resolve("NUT").id == BOLT
    old.store.undo()  # of a removal before it joined
    exchange(old, gate)
    assert "gone" in gate.names()


def test_a_store_that_never_joined_says_nothing(tmp_path):
    alone = Device(tmp_path, "d" * 12, join=False)
    alone.teach("bolt", 2)
    alone.store.remove("bolt")
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        for table in ("contribution", "part", "tombstone"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert db.execute("SELECT clock, said, generation FROM meta").fetchone() == (0, 0, 0)


def test_a_second_process_teaches_while_the_first_hears(dock, gate, tmp_path):
    other = Device(dock.folder, dock.id, dock.wall)  # the same state, opened twice
    gate.teach("bolt", 2)
    exchange(dock, gate)
    other.teach("bolt")
    gate.teach("nut")
    dock.hear(gate.said())
    other.store.rename("nut", "gear")
    dock.teach("gear")
    for device in (dock, other):
        require_sound(device)
    exchange(dock, gate)
    require_same(dock, other, gate)
    assert gate.names() == {"bolt": 3, "gear": 2}


def test_what_a_program_without_a_voice_taught_is_said_by_the_next_that_has_one(dock, gate):
    with Store.open(dock.folder) as plain:
        teaching = plain.begin_teach("bolt")
        plain.add_shot(teaching, some_rows())
        plain.add_shot(teaching, some_rows())
        plain.set_retention("bolt", retain="statistics")
    assert dock.ledger.unsent() == [BOLT]
    exchange(dock, gate)
    assert gate.store.resolve("bolt").folded_rows == 4


def test_an_old_backup_is_said_anew_over_what_the_fleet_had_since(dock, gate, tmp_path):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    backup(dock.store, tmp_path / "file")
    dock.teach("bolt")
    dock.teach("nut")
    exchange(dock, gate)
    later = dock.said()
    assert gate.names() == {"bolt": 3, "nut": 1}
    dock.store.close()
    restore(tmp_path / "file", dock.folder)
    dock.open()
    dock.ledger.hear([Heard(one.contribution, one.envelope, {}) for one in later])
    assert set(dock.ledger.unsent()) == {BOLT, class_id("default", "nut")}
    exchange(dock, gate)
    assert dock.names() == gate.names() == {"bolt": 2}


def test_a_failed_verb_leaves_nothing_said(dock, gate):
    dock.teach("bolt")
    before = dock.ledger.owned()

    def change() -> None:
        with dock.store.atomic():
            dock.teach("nut")
            dock.store.remove("bolt")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert dock.ledger.owned() == before
    require_sound(dock)
    dock.teach("gear")
    exchange(dock, gate)
    assert gate.names() == {"bolt": 1, "gear": 1}


def test_hearing_again_changes_nothing_and_makes_no_entry(dock, gate):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    entries = len(gate.store.history())
    whole = [Heard(one.contribution, one.envelope, one.parts) for one in dock.said()]
    assert gate.ledger.hear(whole + whole).taken == 0
    assert len(gate.store.history()) == entries


def test_the_broker_acknowledges_a_revision_and_not_a_later_one(dock):
    dock.teach("bolt")
    own = dock.own(BOLT)
    dock.teach("bolt")
    dock.ledger.acknowledge(BOLT, own.revision)
    assert dock.ledger.unsent() == [BOLT]
    dock.ledger.acknowledge(BOLT, dock.own(BOLT).revision)
    assert dock.ledger.unsent() == []
    with pytest.raises(NotFound):
        dock.ledger.own(class_id("default", "never"))


# ---- room ---------------------------------------------------------------------------------------


def test_the_byte_budget_counts_packed_parts_and_lets_go_of_own_shots_alone(tmp_path, wall, gate):
    gate.teach("bolt", 200)
    small = Device(tmp_path / "small", "s" * 12, wall, memory=28_000)
    small.teach("bolt", 3)
    small.hear(gate.said())
    require_sound(small)
    assert small.store.resolve("bolt").shots >= 201
    held = small.store.held()
    assert isinstance(held, Held)
    assert held.total <= 28_000
    assert [s.device for s in small.store.shots() if s.device].count("g" * 12) == 200
    tight = Device(tmp_path / "tight", "t" * 12, wall, memory=2_000)
    with pytest.raises(StoreFull):
        tight.hear(gate.said())
    require_sound(tight)
    assert tight.names() == {}
    assert tight.ledger.revisions() == {}


def test_parts_dropped_for_room_are_known_and_given_again_when_needed(dock, gate):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    with gate.store.database(write=True) as db:
        db.execute("UPDATE part SET body = NULL WHERE own = 0")
    (part,) = dock.own(BOLT).parts[:1]
    assert gate.ledger.has_part(part.sha256)
    assert gate.ledger.part(part.sha256) is None
    require_sound(gate)
    dock.store.remove("bolt")
    exchange(dock, gate)
    dock.store.undo()
    exchange(dock, gate)
    assert gate.names() == {"bolt": 2}


def test_more_shots_than_a_message_can_list_are_summed(tmp_path, wall, monkeypatch):
    monkeypatch.setattr("accrue.store.fleet.MOST_SHOTS", 10)
    many = Device(tmp_path / "many", "n" * 12, wall, join=False)
    many.teach("bolt", 25)
    many.join()
    require_sound(many)
    assert sum(not shot.folded for shot in many.store.shots()) <= 10
    assert many.store.resolve("bolt").shots == 25
    many.teach("bolt", 12)
    require_sound(many)
    assert sum(not shot.folded for shot in many.store.shots()) <= 10


# ---- curated ------------------------------------------------------------------------------------


def entries(*devices: Device) -> list[Heard]:
    return [each for device in devices for each in device.said()]


def considered(*devices: Device) -> dict[tuple[str, str], int]:
    return {
        (device.id, c): revision
        for device in devices
        for c, revision in device.ledger.owned().items()
    }


def test_a_curated_set_is_what_the_manifest_lists_and_own_drafts(dock, gate):
    gate.teach("bolt", 2)
    dock.teach("nut")
    dock.ledger.install(entries(gate), {})
    require_sound(dock)
    assert dock.names() == {"bolt": 2, "nut": 1}
    assert dock.ledger.policy == "curated"
    assert list(dock.ledger.drafts()) == [class_id("default", "nut")]
    gate.teach("bolt")
    dock.hear(gate.said())  # known, and not in force
    require_sound(dock)
    assert dock.names() == {"bolt": 2, "nut": 1}
    dock.ledger.open_policy()
    require_sound(dock)
    assert dock.names() == {"bolt": 3, "nut": 1}


def test_own_work_that_was_considered_becomes_what_is_listed_of_it(dock, gate):
    dock.teach("bolt", 2)
    approved = entries(dock)
    dock.teach("bolt", 3)
    dock.teach("nut")
    seen = considered(dock)
    applied = dock.ledger.install(approved, seen, "installed manifest 4")
    require_sound(dock)
    assert dock.names() == {"bolt": 2}
    assert applied.summary.startswith("installed manifest 4: ")
    assert dock.ledger.drafts() == {}
    owned = dock.ledger.owned()
    dock.ledger.install(approved, owned and seen | considered(dock))
    assert dock.ledger.owned() == owned  # what is the same is not said again
    dock.teach("bolt")
    require_sound(dock)
    assert dock.names() == {"bolt": 3}
    assert list(dock.ledger.drafts()) == [BOLT]
    dock.store.undo(next(e.seq for e in dock.store.history() if e.verb == "sync"))
    require_sound(dock)
    assert dock.names()["nut"] == 1  # as a draft again


def test_an_installation_that_is_rolled_back_leaves_everything_as_it_was(dock, gate):
    gate.teach("bolt", 2)
    dock.teach("nut")
    before, owned = dock.ledger.view().digest(), dock.ledger.owned()

    def try_out() -> None:
        with dock.store.atomic():
            dock.ledger.install(entries(gate), considered(dock))
            assert dock.names() == {"bolt": 2}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        try_out()
    require_sound(dock)
    assert (dock.ledger.view().digest(), dock.ledger.owned()) == (before, owned)
    assert dock.ledger.policy == "open"
    assert dock.names() == {"nut": 1}


def test_reopened_a_curated_device_is_the_same(dock, gate):
    gate.teach("bolt", 2)
    dock.teach("bolt")
    dock.ledger.install(entries(gate), considered(dock))
    dock.teach("bolt")
    before = dock.ledger.view().digest(), dock.names()
    dock.reopen()
    require_sound(dock)
    assert (dock.ledger.view().digest(), dock.names()) == before


def test_the_ledger_of_a_store_of_no_fleet_is_refused(tmp_path):
    from accrue.sync.shelf import StoreLedger

    with (
        Store.open(tmp_path, space_id=SPACE, dim=DIM) as store,
        pytest.raises(Conflict, match="belongs to no fleet"),
    ):
        StoreLedger(store)
    assert FLEET == "plant"


def test_disabling_a_class_is_of_this_device_alone_and_survives_what_is_heard(dock, gate):
    dock.teach("bolt", 2)
    exchange(dock, gate)
    gate.store.disable("bolt")
    exchange(dock, gate)
    dock.teach("bolt", 1)
    exchange(dock, gate)
    assert [row.disabled for row in gate.store.classes()] == [True]
    assert [row.disabled for row in dock.store.classes()] == [False]
    assert dock.ledger.state().digest() == gate.ledger.state().digest()
    assert dock.ledger.view().digest() == gate.ledger.view().digest()
    assert gate.store.check() == gate.ledger.check() == []
    assert BOLT not in gate.ledger.owned()
    gate.store.undo()  # what was heard since does not stand in the way
    assert [row.disabled for row in gate.store.classes()] == [False]
