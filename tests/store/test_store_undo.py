"""Undo: an exact inverse, refused where later work stands on it; random histories against a model.

The model is a plain dictionary of classes and a stack of earlier dictionaries.
"""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accrue.errors import Conflict, NotFound
from accrue.store import Store, class_id, class_key

LABELS = ["bolt", "Bolt", "nut", "stud", "ﬁlter", "gear"]


def visible(store: Store) -> dict[str, Any]:
    """Everything that is active, as plain data."""
    with store._database.reading() as db:
        classes = db.execute(
            "SELECT id, name, counts_as, retain, budget, prompt, text FROM class "
            "WHERE active ORDER BY id"
        ).fetchall()
        names = db.execute("SELECT key, class_id FROM name WHERE active ORDER BY key").fetchall()
        shots = db.execute("SELECT id, class_id FROM shot WHERE active ORDER BY id").fetchall()
    return {"classes": classes, "names": names, "shots": shots}


def test_undo_takes_back_the_newest_and_undoing_that_brings_it_back(store, teach):
    teach(store, "bolt", shots=2)
    before = visible(store)
    undone = store.undo(actor="anna")
    assert (undone.verb, undone.undoes, undone.actor) == ("undo", 1, "anna")
    assert undone.summary == 'undid entry 1: taught "bolt": 2 shots, 4 rows'
    assert store.classes() == []
    assert store.entry(1).undone_by == 2
    with pytest.raises(NotFound, match="nothing to undo"):
        store.undo()
    redone = store.undo(2)
    assert (redone.verb, redone.undoes) == ("redo", 2)
    assert visible(store) == before
    assert store.entry(1).undone_by is None
    again = store.undo(1)
    assert (again.verb, again.undoes) == ("undo", 3)
    assert store.entry(1).undone_by == 4
    with pytest.raises(Conflict) as caught:
        store.undo(1)
    assert "is undone already, by entry 4" in caught.value.message
    assert caught.value.hint == "bring it back with `accrue undo 4`"
    assert store.check() == []


def test_undo_is_refused_while_a_later_entry_stands_on_it_and_names_it(store, teach):
    teach(store, "bolt")
    store.rename("bolt", "screw")
    teach(store, "screw")
    with pytest.raises(Conflict) as caught:
        store.undo(1)
    assert caught.value.message == (
        'entry 1 (taught "bolt": 1 shot, 2 rows) cannot be undone: '
        'entry 3 (taught "screw": 1 shot, 2 rows) changed or used the same things since'
    )
    assert caught.value.hint == "undo 3 first: `accrue undo 3`"
    store.undo(3)
    store.undo(2)
    store.undo(1)
    assert visible(store) == {"classes": [], "names": [], "shots": []}


def test_an_older_entry_is_undone_alone_where_nothing_stands_on_it(store, teach):
    teach(store, "bolt")
    (shot,) = teach(store, "bolt")
    teach(store, "bolt")
    store.undo(2)
    assert shot not in [s.id for s in store.shots()]
    assert store.resolve("bolt").shots == 2


def test_a_removal_is_not_undone_over_a_class_that_took_its_name_meanwhile(store, teach):
    teach(store, "bolt")
    store.remove("bolt")
    teach(store, "nut")
    store.rename("nut", "bolt")
    with pytest.raises(Conflict, match="undo 4 first"):
        store.undo(2)
    assert store.check() == []


def test_a_second_removal_keeps_the_first_from_being_undone(store, teach):
    teach(store, "bolt")
    store.remove("bolt")
    teach(store, "bolt")
    store.remove("bolt")
    with pytest.raises(Conflict, match="undo 4 first"):
        store.undo(2)
    with pytest.raises(Conflict, match="undo 4 first"):
        store.undo(1)


def test_a_relabelled_shot_does_not_go_back_to_a_class_that_was_removed(store, teach):
    (shot,) = teach(store, "bolt")
    store.relabel([shot], "nut")
    store.remove("bolt")
    with pytest.raises(Conflict, match="undo 3 first"):
        store.undo(2)


def test_a_teaching_that_went_on_after_a_removal_was_undone_blocks_its_redo(store, make_rows):
    teaching = store.begin_teach("bolt")
    store.add_shot(teaching, make_rows(1))
    store.remove("bolt")
    undone = store.undo()
    store.add_shot(teaching, make_rows(2))
    assert [entry.verb for entry in store.history()] == ["undo", "remove", "teach"]
    with pytest.raises(Conflict, match="undo 1 first"):
        store.undo(undone.seq)
    assert store.undo().undoes == 1
    assert store.check() == []


def test_everything_undone_can_be_redone_step_by_step(store, teach):
    teach(store, "bolt")
    store.remove("bolt")
    teach(store, "bolt")
    states, undone = [visible(store)], []
    for _ in range(3):
        undone.append(store.undo().seq)
        states.append(visible(store))
    for _ in range(3):  # there and back again: what was undone and redone counts as not later
        for seq, before in zip(reversed(undone), reversed(states[:-1]), strict=True):
            store.undo(seq)
            assert visible(store) == before
        undone = [store.undo().seq for _ in range(3)]
    assert store.check() == []


def test_undoing_an_entry_that_does_not_exist_says_so(store):
    for seq in (0, -1, 7, 2**70):
        with pytest.raises(NotFound, match=f"journal entry {seq} does not exist"):
            store.undo(seq)


@dataclass
class Model:
    """Classes by id: display name, names (keys), shots, target of a merge."""

    classes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def owner(self, label: str) -> str | None:
        key = class_key(label)
        return next((c for c, one in self.classes.items() if key in one["keys"]), None)

    def root(self, label: str) -> str | None:
        one = self.owner(label)
        while one is not None and self.classes[one]["into"] is not None:
            one = self.classes[one]["into"]
        return one

    def group(self, root: str) -> list[str]:
        return [c for c, one in self.classes.items() if self.root(one["name"]) == root]

    def create(self, label: str) -> str:
        one = class_id("default", label)
        self.classes[one] = {
            "name": label,
            "keys": {class_key(label)},
            "shots": [],
            "into": None,
            "text": (None, None),
        }
        return one

    def view(self) -> dict[str, Any]:
        return {
            "classes": sorted((c, m["name"], m["into"], None, None, *m["text"])
                              for c, m in self.classes.items()),
            "names": sorted((k, c) for c, m in self.classes.items() for k in m["keys"]),
            "shots": sorted((s, c) for c, m in self.classes.items() for s in m["shots"]),
        }  # fmt: skip


class Histories(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        self.store = Store.open(Path(self.folder.name), space_id="5" * 64, dim=2)
        with self.store._database.plain() as db:
            db.execute("PRAGMA synchronous = OFF")  # thousands of commits; durability is not here
        self.model = Model()
        self.past: list[Model] = []  # models before each change that is in effect

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            while self.past:
                self.store.undo()
                self.model = self.past.pop()
                self.agrees()
            assert visible(self.store) == {"classes": [], "names": [], "shots": []}
            with pytest.raises(NotFound):
                self.store.undo()
        finally:
            self.store.close()
            self.folder.cleanup()

    def expect(self, change: Any, *call: Any) -> None:
        """Applies a change to a copy of the model (None: it must be refused) and to the store."""
        after = copy.deepcopy(self.model)
        verb, *arguments = call
        if change(after):
            verb(*arguments)
            self.past.append(self.model)
            self.model = after
        else:
            with pytest.raises((Conflict, NotFound)):
                verb(*arguments)

    @rule(label=st.sampled_from(LABELS), n=st.integers(1, 3))
    def teach(self, label: str, n: int) -> None:
        teaching = self.store.begin_teach(label)
        rows = np.ones((1, 2), np.int16)
        shots = [self.store.add_shot(teaching, rows) for _ in range(n)]
        self.past.append(copy.deepcopy(self.model))
        self.model.classes[self.model.root(label) or self.model.create(label)]["shots"] += shots

    @rule(label=st.sampled_from(LABELS), value=st.integers(1, 2))
    def teach_by_name(self, label: str, value: int) -> None:
        text = np.array([value, 1], np.int16)
        self.store.teach_by_name(label, text, prompt=f"prompt {value}")
        self.past.append(copy.deepcopy(self.model))
        root = self.model.root(label) or self.model.create(label)
        self.model.classes[root]["text"] = (f"prompt {value}", text.astype("<i2").tobytes())

    @rule(old=st.sampled_from(LABELS), new=st.sampled_from(LABELS))
    def rename(self, old: str, new: str) -> None:
        def change(model: Model) -> bool:
            one = model.root(old)
            if one is None or model.owner(new) not in (None, one):
                return False
            mine = model.classes[one]
            if mine["name"] == new:
                return False
            mine["name"] = new
            mine["keys"].add(class_key(new))
            return True

        self.expect(change, self.store.rename, old, new)

    @rule(label=st.sampled_from(LABELS))
    def remove(self, label: str) -> None:
        def change(model: Model) -> bool:
            root = model.root(label)
            for member in model.group(root) if root else []:
                del model.classes[member]
            return root is not None

        self.expect(change, self.store.remove, label)

    @rule(one=st.sampled_from(LABELS), other=st.sampled_from(LABELS))
    def merge(self, one: str, other: str) -> None:
        def change(model: Model) -> bool:
            source, target = model.root(one), model.root(other)
            if source is None or target is None or source == target:
                return False
            model.classes[source]["into"] = target
            return True

        self.expect(change, self.store.merge, one, other)

    @rule(data=st.data(), label=st.sampled_from(LABELS))
    def relabel(self, data: Any, label: str) -> None:
        shots = self.some_shots(data)

        def change(model: Model) -> bool:
            target = model.root(label)
            group = model.group(target) if target else []
            moving = [s for s in shots if not any(s in model.classes[m]["shots"] for m in group)]
            if moving:
                self.move(model, moving, target or model.create(label))
            return bool(moving)

        if shots:
            self.expect(change, self.store.relabel, shots, label)

    @rule(data=st.data(), label=st.sampled_from(LABELS), new=st.sampled_from(LABELS))
    def split(self, data: Any, label: str, new: str) -> None:
        shots = self.some_shots(data)

        def change(model: Model) -> bool:
            root = model.root(label)
            if root is None or model.owner(new) is not None:
                return False
            mine = {s for member in model.group(root) for s in model.classes[member]["shots"]}
            if not set(shots) <= mine:
                return False
            self.move(model, shots, model.create(new))
            return True

        if shots:
            self.expect(change, self.store.split, label, shots, new)

    @rule()
    def undo(self) -> None:
        if self.past:
            self.store.undo()
            self.model = self.past.pop()

    @rule()
    def undo_and_redo(self) -> None:
        if self.past:
            before = visible(self.store)
            undone = self.store.undo()
            assert visible(self.store) == self.past[-1].view()
            self.store.undo(undone.seq)
            assert visible(self.store) == before

    @rule(data=st.data())
    def undo_any_and_redo(self, data: Any) -> None:
        """Whatever may be undone out of order leaves a sound state, and its redo is exact."""
        history = self.store.history()
        if not history:
            return
        entry = data.draw(st.sampled_from(history))
        before = visible(self.store)
        try:
            undone = self.store.undo(entry.seq)
        except Conflict:
            assert visible(self.store) == before
            return
        assert self.store.check() == []
        self.store.undo(undone.seq)
        assert visible(self.store) == before
        self.past = self.past_after_reordering()

    def past_after_reordering(self) -> list[Model]:
        """What was redone took effect last, so the models on the way back are new ones: read off
        a walk back and forth again, each step of which is checked to be exact."""
        seen, undone = [], []
        while True:
            try:
                undone.append(self.store.undo().seq)
            except NotFound:
                break
            assert self.store.check() == []
            seen.append(self.read_model())
        for seq in reversed(undone):
            self.store.undo(seq)
        return list(reversed(seen))

    def read_model(self) -> Model:
        view = visible(self.store)
        return Model(
            {
                one: {
                    "name": name,
                    "keys": {k for k, c in view["names"] if c == one},
                    "shots": [s for s, c in view["shots"] if c == one],
                    "into": into,
                    "text": tuple(text),
                }
                for one, name, into, _, _, *text in view["classes"]
            }
        )

    def some_shots(self, data: Any) -> list[str]:
        every = sorted(s for one in self.model.classes.values() for s in one["shots"])
        if not every:
            return []
        return list(data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True)))

    @staticmethod
    def move(model: Model, shots: list[str], target: str) -> None:
        for one in model.classes.values():
            one["shots"] = [s for s in one["shots"] if s not in shots]
        model.classes[target]["shots"] += shots

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "store"):
            assert visible(self.store) == self.model.view()
            assert self.store.check() == []


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
