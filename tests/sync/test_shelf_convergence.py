"""Any interleaving of verbs, undo, loss, repetition, reordering and restart ends in one fleet.

Three devices with stores on disk and clocks that disagree. After each step the tables of a device
are what follows from the contributions that it holds, and telling the others has not changed what
its operator did; after a last full exchange all hold the same.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from shelf_cases import Device, Loyal, Wall, exchange, require_same, require_sound, some_rows

from accrue.errors import Conflict, NotFound
from accrue.store import Store
from accrue.sync.ledger import Heard

LABELS = ["bolt", "Bolt", "nut", "stud", "gear"]
WHO = st.integers(0, 2)
CHANCE = st.integers(0, 2**32 - 1).map(Random)
MOST_HELD_BACK = 60


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        wall = Wall()
        self.devices = [
            Device(
                Path(self.folder.name, letter),
                letter * 12,
                wall,
                skew_s=skew,
                kind=Loyal,
                budget=8,
            )
            for letter, skew in (("a", 0.0), ("b", 400.0), ("c", -500.0))
        ]
        self.sent: list[Heard] = []

    @initialize(chance=CHANCE)
    def begin(self, chance):
        """Some of the same, some of their own, and some of it known to the others already."""
        for device in self.devices:
            device.teach("bolt", chance.randrange(1, 4))
            device.teach(chance.choice(LABELS))
        if chance.random() < 0.7:
            exchange(*self.devices)

    def teardown(self) -> None:
        try:
            exchange(*self.devices)
        finally:
            for device in self.devices:
                device.store.close()
            self.folder.cleanup()

    def _try(self, who: int, verb: Any) -> None:
        """A verb may say no; whatever it did, the tables are what the contributions say."""
        device = self.devices[who]
        with suppress(Conflict, NotFound):
            verb(device.store)
        require_sound(device)

    def _name(self, who: int, chance: Random) -> str:
        """Mostly of a class that is there, by its name, an alias or its id."""
        rows = self.devices[who].store.classes()
        if not rows or chance.random() < 0.1:
            return chance.choice(LABELS)
        row = chance.choice(rows)
        return chance.choice([row.name, row.name, row.id, *row.aliases])

    @rule(who=WHO, name=st.sampled_from(LABELS), shots=st.integers(1, 3))
    def teach(self, who, name, shots):
        self.devices[who].teach(name, shots)
        require_sound(self.devices[who])

    @rule(who=WHO, chance=CHANCE)
    def teach_by_name(self, who, chance):
        name = self._name(who, chance)
        self._try(who, lambda store: store.teach_by_name(name, some_rows(1)[0]))

    @rule(who=WHO, chance=CHANCE)
    def merge(self, who, chance):
        one, two = self._name(who, chance), self._name(who, chance)
        self._try(who, lambda store: store.merge(one, two))

    @rule(who=WHO, chance=CHANCE, to=st.sampled_from(LABELS))
    def rename(self, who, chance, to):
        self._try(who, lambda store: store.rename(self._name(who, chance), to))

    @rule(who=WHO, chance=CHANCE)
    def remove(self, who, chance):
        self._try(who, lambda store: store.remove(self._name(who, chance)))

    @rule(who=WHO, chance=CHANCE)
    def relabel(self, who, chance):
        def verb(store: Store) -> None:
            shots = [shot.id for shot in store.shots() if not shot.folded]
            if shots:
                picked = chance.sample(shots, min(len(shots), chance.randrange(1, 4)))
                store.relabel(picked, chance.choice([self._name(who, chance), *LABELS]))

        self._try(who, verb)

    @rule(who=WHO, chance=CHANCE)
    def refuse(self, who, chance):
        name = self._name(who, chance)
        self._try(who, lambda store: store.refuse(name, [("x.jpg", some_rows(1))]))

    @rule(who=WHO, chance=CHANCE)
    def allow(self, who, chance):
        def verb(store: Store) -> None:
            if refused := store.refusals(self._name(who, chance)):
                store.allow([chance.choice(refused).id])

        self._try(who, verb)

    @rule(who=WHO, chance=CHANCE, retain=st.sampled_from(["rows", "statistics"]))
    def retention(self, who, chance, retain):
        self._try(who, lambda store: store.set_retention(self._name(who, chance), retain=retain))

    @rule(who=WHO, chance=CHANCE)
    def disable_or_enable(self, who, chance):
        verb = chance.choice([Store.disable, Store.enable])
        self._try(who, lambda store: verb(store, self._name(who, chance)))

    @rule(who=WHO, chance=CHANCE)
    def purge(self, who, chance):
        if chance.random() < 0.3:
            self._try(who, lambda store: store.purge(self._name(who, chance)))

    @rule(who=WHO)
    def undo_last(self, who):
        self._try(who, lambda store: store.undo())

    @rule(who=WHO, chance=CHANCE)
    def undo_any(self, who, chance):
        def verb(store: Store) -> None:
            if entries := store.history(12):
                store.undo(chance.choice(entries).seq)

        self._try(who, verb)

    @rule(who=WHO)
    def say(self, who):
        """What a device says at this time goes out; it may arrive late, twice or never."""
        self.sent = [*self.sent, *self.devices[who].said()][-MOST_HELD_BACK:]

    @rule(who=WHO, chance=CHANCE)
    def hear(self, who, chance):
        share = chance.random()
        given = [each for each in self.sent if chance.random() < share]
        chance.shuffle(given)
        self.devices[who].hear(given + given[:2])
        require_sound(self.devices[who])

    @rule(who=WHO, other=WHO)
    def meet(self, who, other):
        self.devices[who].hear(self.devices[other].said())
        require_sound(self.devices[who])

    @rule()
    def meet_all(self):
        exchange(*self.devices)

    @rule(who=WHO)
    def restart(self, who):
        self.devices[who].reopen()
        require_sound(self.devices[who])

    @rule(who=WHO, chance=CHANCE)
    def change_without_a_voice(self, who, chance):
        """Another program, which knows nothing of fleets, changes the same state."""
        device = self.devices[who]
        device.store.voice = None
        with suppress(Conflict, NotFound):
            device.teach(chance.choice(LABELS))
            device.store.remove(self._name(who, chance))
            if chance.random() < 0.5:
                device.store.undo()
        device.store.voice = device.ledger
        device.ledger.catch_up()
        require_sound(device)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    derandomize=not os.environ.get("ACCRUE_RANDOM"),  # set: other walks every time
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_three_empty_devices_are_the_same(tmp_path):
    devices = [Device(tmp_path / letter, letter * 12) for letter in "abc"]
    require_same(*devices)
