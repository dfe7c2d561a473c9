"""Any interleaving of verbs, undo, loss, repetition, reordering and restart ends in one fleet.

Three devices with stores on disk and clocks that disagree. After each step the tables of every
device are what follows from the contributions that it holds; after a last full exchange all hold
the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from shelf_cases import DIM, Device, Wall, exchange, some_rows

from accrue.errors import AccrueError, Conflict, NotFound
from accrue.sync.ledger import Heard

LABELS = ["bolt", "Bolt", "nut", "stud", "gear"]
NAMES = st.sampled_from(LABELS)
WHO = st.integers(0, 2)
MOST_HELD_BACK = 40


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=_memory())
        wall = Wall()
        self.devices = [
            Device(Path(self.folder.name, letter), letter * 12, wall, skew_s=skew, budget=6)
            for letter, skew in (("a", 0.0), ("b", 400.0), ("c", -500.0))
        ]
        self.sent: list[Heard] = []
        self.touched = set(range(3))

    def teardown(self) -> None:
        try:
            exchange(*self.devices)
        finally:
            for device in self.devices:
                device.store.close()
            self.folder.cleanup()

    def _at(self, who: int) -> Device:
        self.touched.add(who)
        return self.devices[who]

    @rule(who=WHO, name=NAMES, shots=st.integers(1, 3))
    def teach(self, who, name, shots):
        self._at(who).teach(name, shots)

    @rule(who=WHO, name=NAMES)
    def teach_by_name(self, who, name):
        self._at(who).store.teach_by_name(name, some_rows(1)[0])

    @rule(who=WHO, name=NAMES, to=NAMES)
    def merge(self, who, name, to):
        with _refusable():
            self._at(who).store.merge(name, to)

    @rule(who=WHO, name=NAMES, to=NAMES)
    def rename(self, who, name, to):
        with _refusable():
            self._at(who).store.rename(name, to)

    @rule(who=WHO, name=NAMES)
    def remove(self, who, name):
        with _refusable():
            self._at(who).store.remove(name)

    @rule(who=WHO, pick=st.randoms(use_true_random=False), to=NAMES)
    def relabel(self, who, pick, to):
        store = self._at(who).store
        shots = [shot.id for shot in store.shots() if not shot.folded]
        if shots:
            with _refusable():
                store.relabel(pick.sample(shots, min(len(shots), 2)), to)

    @rule(who=WHO, name=NAMES)
    def refuse(self, who, name):
        with _refusable():
            self._at(who).store.refuse(name, [("x.jpg", some_rows(1))])

    @rule(who=WHO, name=NAMES)
    def allow(self, who, name):
        store = self._at(who).store
        with _refusable():
            if refused := store.refusals(name):
                store.allow([refused[-1].id])

    @rule(who=WHO, name=NAMES, retain=st.sampled_from(["rows", "statistics"]))
    def retention(self, who, name, retain):
        with _refusable():
            self._at(who).store.set_retention(name, retain=retain)

    @rule(who=WHO, name=NAMES)
    def purge(self, who, name):
        with _refusable():
            self._at(who).store.purge(name)

    @rule(who=WHO)
    def undo_last(self, who):
        with _refusable():
            self._at(who).store.undo()

    @rule(who=WHO, pick=st.randoms(use_true_random=False))
    def undo_any(self, who, pick):
        store = self._at(who).store
        if entries := store.history():
            with _refusable():
                store.undo(pick.choice(entries).seq)

    @rule(who=WHO)
    def say(self, who):
        """What a device says at this time goes out; it may arrive late, twice or never."""
        self.sent = [*self.sent, *self._at(who).said()][-MOST_HELD_BACK:]

    @rule(who=WHO, pick=st.randoms(use_true_random=False), share=st.floats(0, 1))
    def hear(self, who, pick, share):
        given = [each for each in self.sent if pick.random() < share]
        pick.shuffle(given)
        self._at(who).hear(given + given[:2])

    @rule(who=WHO, other=WHO)
    def meet(self, who, other):
        self._at(who).hear(self.devices[other].said())

    @rule(who=WHO)
    def restart(self, who):
        self._at(who).reopen()

    @rule(who=WHO, name=NAMES)
    def teach_without_a_voice(self, who, name):
        """Another program, which knows nothing of fleets, changes the same state."""
        device = self._at(who)
        device.store.voice = None
        device.teach(name)
        with _refusable():
            device.store.undo()
        device.store.voice = device.ledger
        device.ledger.catch_up()

    @invariant()
    def tables_are_what_the_contributions_say(self):
        for who in self.touched:
            assert self.devices[who].problems() == []
        self.touched.clear()


def _refusable():
    return _Refusable()


class _Refusable:
    """A verb may say no; it must then have changed nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> bool:
        return isinstance(error, (Conflict, NotFound))


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
