"""Full devices on disk that exchange by hand, for the tests of `accrue.sync.shelf`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accrue.learn.statistics import Rows
from accrue.store import Store, fleet
from accrue.sync.contribution import Contribution
from accrue.sync.ledger import Applied, Heard
from accrue.sync.shelf import StoreLedger

SPACE, DIM, FLEET = "5" * 64, 4, "plant"
START_S = 1_790_000_000.0
_seeds = iter(range(10**9))


def some_rows(n: int = 2, dim: int = DIM) -> Rows:
    """Other rows at each call."""
    values = np.random.default_rng(next(_seeds)).integers(-32767, 32768, (n, dim))
    return values.astype(np.int16)


def no_key(revision: int, data: bytes) -> bytes:
    """In place of a signature, where nothing checks it."""
    return bytes(64)


class Wall:
    """A wall clock that tests advance."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        self.now_s += 0.01
        return self.now_s


class Loyal(StoreLedger):
    """A ledger that makes sure that telling the others never changes what the operator did."""

    def speak(self, db: Any) -> None:
        untold = fleet.untold(db)
        if untold == []:
            return
        before = _seen(db)
        super().speak(db)
        after = _seen(db)
        for what in self._promised(db, untold or []):
            for key, value in before[what].items() ^ after[what].items():
                if what == "name" and key not in before["name"]:
                    continue  # of a class that came back, or that shows a name that became free
                if key not in before[what] and any(one[0] == "tombstone" for one in untold or []):
                    continue  # what others have said since of a class that is back
                if not self._may_differ(what, key, value, before, after):
                    raise AssertionError(f"{what} {key}: was {before[what]}, is {after[what]}")

    def _promised(self, db: Any, untold: list[Any]) -> list[str]:
        verb = self._verb(db)
        promised = ["shot", "sum"]
        if verb in ("refuse", "allow"):
            promised += ["refusal"]
        if verb in ("merge", "rename", "relabel", "split", "remove"):
            promised += ["class", "text"]
        if verb == "merge":
            promised += ["target"]
        if not any(one[0] == "tombstone" for one in untold):  # else names come back with a class
            promised += ["name"]
            if verb in ("undo", "redo"):
                promised += ["class", "text", "target"]
        return promised

    def _verb(self, db: Any) -> str:
        newest = db.execute("SELECT verb FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
        return newest[0] if newest else ""

    def _may_differ(self, what: str, key: str, value: Any, before: Any, after: Any) -> bool:
        there = {*before["shot"].values(), *before["sum"].values()}
        if not (there - before["class"].keys()).isdisjoint((key, value)):
            return True  # an undo leaves a class there that holds what others gave
        if what == "target" and before["target"][key] not in after["class"]:
            return True  # what it counted as is gone
        return what == "name" and before[what].get(key, value) not in before["class"]


def _seen(db: Any) -> dict[str, dict[Any, Any]]:
    """What is active, and how, by table."""
    queries = {
        "shot": "SELECT id, class_id FROM shot WHERE active = 1 AND (folded = 0 OR device = '')",
        "sum": "SELECT id, class_id FROM folded WHERE active = 1",
        "refusal": "SELECT id, class_id FROM refusal WHERE active = 1",
        "name": "SELECT key, class_id FROM name WHERE active = 1",
        "class": "SELECT id, name FROM class WHERE active = 1",
        "target": "SELECT id, counts_as FROM class WHERE active = 1",
        "text": "SELECT id, hex(text) FROM class WHERE active = 1",
    }
    return {what: dict(db.execute(query).fetchall()) for what, query in queries.items()}


class Device:
    """A store, its ledger, and what a test does with them."""

    def __init__(
        self,
        folder: Path | str,
        device: str,
        wall: Wall | None = None,
        *,
        skew_s: float = 0.0,
        kind: type[StoreLedger] = StoreLedger,
        join: bool = True,
        **options: Any,
    ) -> None:
        self.folder, self.id = Path(folder), device
        self.kind = kind
        self.wall, self.skew_s = wall or Wall(), skew_s
        self.options = {"space_id": SPACE, "dim": DIM} | options
        self.open()
        if join:
            self.join()

    def open(self) -> None:
        self.store = Store.open(
            self.folder, clock=lambda: self.wall() + self.skew_s, **self.options
        )
        if self.store.joined is not None:
            self.ledger = self.kind(self.store, no_key)

    def join(self) -> None:
        self.store.join_fleet(FLEET, self.id)
        self.ledger = self.kind(self.store, no_key)
        self.ledger.catch_up()

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def teach(self, name: str, shots: int = 1, rows: Sequence[Rows] = ()) -> list[str]:
        teaching = self.store.begin_teach(name)
        given = rows or [some_rows(dim=self.store.dim) for _ in range(shots)]
        return [self.store.add_shot(teaching, one, source="a.jpg", thumb=b"jpg") for one in given]

    def names(self) -> dict[str, int]:
        """Display name of each root class, and its shots."""
        return {row.name: row.shots for row in self.store.classes()}

    def said(self) -> list[Heard]:
        """All that it says, whole."""
        found = []
        for class_id in self.ledger.owned():
            own = self.ledger.own(class_id)
            found.append(Heard(own.contribution, own.envelope, own.parts))
        return found

    def hear(self, messages: Iterable[Heard]) -> Applied:
        """As an exchange hands it over: newer ones only, and only parts that are not here."""
        revisions = self.ledger.revisions()
        given = []
        for each in messages:
            one = each.contribution
            if one.device == self.id or one.revision <= revisions.get(one.key, 0):
                continue
            parts = {h: d for h, d in each.parts.items() if not self.ledger.has_part(h)}
            given.append(Heard(one, each.envelope, parts))
        return self.ledger.hear(given)

    def problems(self) -> list[str]:
        return self.ledger.check()

    def own(self, class_id: str) -> Contribution:
        return self.ledger.own(class_id).contribution


def exchange(*devices: Device) -> None:
    """Everybody hears everybody; then all say, know and have learned the same."""
    said = [each for device in devices for each in device.said()]
    for device in devices:
        device.hear(said)
        if device.ledger.missing():  # purged here, and wanted again: at the next connection
            device.hear(said)
    require_same(*devices)


def require_sound(device: Device) -> None:
    found = device.problems()
    assert found == [], f"{device.id}: {found}"


def require_same(*devices: Device) -> None:
    for device in devices:
        require_sound(device)
        assert device.ledger.missing() == set(), device.id
    assert len({device.ledger.view().digest() for device in devices}) == 1
    assert len({device.ledger.state().digest() for device in devices}) == 1
    first = devices[0].ledger
    contents = {h: d for device in devices for each in device.said() for h, d in each.parts.items()}
    if first.view().scope is not None:
        assert first.view().state(contents).digest() == first.state().digest()
