"""An owner's folder and light devices, without a broker between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from accrue.learn import quantise
from accrue.learn.statistics import Rows
from accrue.sync.clock import Clock
from accrue.sync.contribution import Scope
from accrue.sync.identity import Identity
from accrue.sync.ledger import Heard
from accrue.sync.replica import MemoryLedger
from accrue.sync.roster import KeyWindow, Member
from accrue.sync.workspace import Workspace

DIM = 16
SCOPE = Scope("plant", "default", "ab" * 32, DIM)
START_MS = 1_700_000_000_000


def rows(seed: int, kind: int = 0, n: int = 2) -> Rows:
    """int16 (n, DIM): a shot; shots of one kind are near to one another."""
    centre = np.random.default_rng([7, kind]).normal(size=DIM)
    return quantise(centre + 0.1 * np.random.default_rng([seed, kind]).normal(size=(n, DIM)))


class Plant:
    """A fleet in memory: `hand_over` is what a visit at the broker does."""

    def __init__(self, folder: Path) -> None:
        self.now = START_MS / 1000
        self.workspace = Workspace.create(folder / "owner", "plant", now=lambda: self.now)
        self.devices: dict[str, MemoryLedger] = {}
        self.identities: dict[str, Identity] = {}

    def join(self, name: str) -> MemoryLedger:
        identity = Identity.create()
        clock = Clock(now_ms=self.milliseconds)
        ledger = MemoryLedger(SCOPE, identity.device, identity.key, clock)
        self.devices[name], self.identities[name] = ledger, identity
        member = Member(name, (KeyWindow(identity.public),))
        self.workspace.set_device(identity.device, member, "add", f"added {name}")
        return ledger

    def milliseconds(self) -> int:
        self.now += 0.001
        return int(self.now * 1000)

    def hand_over(self) -> None:
        ledger = self.workspace.ledger(SCOPE)
        for device in self.devices.values():
            said = [device.own(one) for one in device.owned()]
            ledger.hear([Heard(one.contribution, one.envelope, one.parts) for one in said])


Made = Callable[[], Plant]
