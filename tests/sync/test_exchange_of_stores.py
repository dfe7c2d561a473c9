"""Full devices, with their state on the disk, over a real broker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from light_fleet import FLEET, QUICK, device_id, until

from accrue.store import Store
from accrue.sync.clock import Clock
from accrue.sync.exchange import Exchange
from accrue.sync.inbox import Inbox
from accrue.sync.local_broker import LocalBroker
from accrue.sync.shelf import StoreLedger
from accrue.sync.trust import KnownKeys

ONE, TWO = device_id(1), device_id(2)
DIM = 64
KEYS = {device: Ed25519PrivateKey.generate() for device in (ONE, TWO)}
TRUST = KnownKeys({device: key.public_key() for device, key in KEYS.items()})


class Full:
    """A device with a state folder."""

    def __init__(self, broker: LocalBroker, folder: Path, device: str) -> None:
        self.device = device
        self.store = Store.open(folder, space_id="ab" * 32, dim=DIM)
        self.store.join_fleet(FLEET, device)
        self.ledger = StoreLedger(self.store, lambda revision, data: KEYS[device].sign(data))
        inbox = Inbox(
            self.ledger.scope,
            TRUST,
            Clock(),
            self.ledger.part,
            known=self.ledger.revisions(),
            own=device,
        )
        self.exchange = Exchange(self.ledger, inbox, broker.endpoint(device), timing=QUICK)
        self.exchange.open()

    def step(self, timeout_s: float) -> None:
        self.exchange.step(timeout_s)

    def teach(self, name: str, seed: int) -> None:
        rows = np.random.default_rng(seed).integers(-9_000, 9_000, (2, DIM)).astype(np.int16)
        teaching = self.store.begin_teach(name)
        self.store.add_shot(teaching, rows, source="a.jpg", thumb=None)

    def close(self) -> None:
        self.exchange.stop()
        self.exchange.close()
        self.store.close()


@pytest.fixture
def start(broker: LocalBroker, tmp_path: Path) -> Iterator[Callable[..., Full]]:
    """``start(device)``: the device on its folder of that name; at the end all are closed."""
    running: dict[str, Full] = {}

    def make(device: str) -> Full:
        if device in running:
            running.pop(device).close()
        running[device] = Full(broker, tmp_path / device, device)
        return running[device]

    yield make
    for one in running.values():
        one.close()


def agree(*devices: Full) -> None:
    until(
        lambda: (
            all(one.exchange.is_settled for one in devices)
            and len({one.ledger.view().digest() for one in devices}) == 1
        ),
        *(one.step for one in devices),
    )
    assert len({one.ledger.state().digest() for one in devices}) == 1


def test_two_stores_end_with_the_same_digest_and_the_same_state(
    start: Callable[..., Full],
) -> None:
    one, two = start(ONE), start(TWO)
    one.teach("hex bolt", 1)
    two.teach("hex bolt", 2)
    two.teach("spur gear", 3)
    agree(one, two)
    one.store.rename("hex bolt", "M8")
    two.store.remove("spur gear")
    agree(one, two)
    assert [row.name for row in two.store.classes()] == ["M8"]


def test_what_was_taught_while_the_device_was_off_the_net_goes_out_later(
    broker: LocalBroker, start: Callable[..., Full]
) -> None:
    one = start(ONE)
    broker.stop()
    one.teach("hex bolt", 1)
    one = start(ONE)
    assert one.ledger.unsent()
    broker.start()
    two = start(TWO)
    agree(one, two)
    assert [row.name for row in two.store.classes()] == ["hex bolt"]


def test_a_device_restored_from_a_backup_says_again_what_it_has(
    start: Callable[..., Full], tmp_path: Path
) -> None:
    """What it taught after the backup is gone from it, so it is gone from the fleet."""
    one, two = start(ONE), start(TWO)
    one.teach("hex bolt", 1)
    agree(one, two)
    one.close()
    shutil.copytree(tmp_path / ONE, tmp_path / "backup")
    one = start(ONE)
    one.teach("hex bolt", 2)
    one.teach("spur gear", 3)
    agree(one, two)
    assert len(two.store.classes()) == 2
    one.close()
    shutil.rmtree(tmp_path / ONE)
    shutil.copytree(tmp_path / "backup", tmp_path / ONE)
    one = start(ONE)
    agree(one, two)
    assert [(row.name, row.shots) for row in two.store.classes()] == [("hex bolt", 1)]


def test_an_empty_state_with_an_old_identity_takes_nothing_from_the_fleet(
    start: Callable[..., Full], tmp_path: Path
) -> None:
    one, two = start(ONE), start(TWO)
    one.teach("hex bolt", 1)
    agree(one, two)
    one.close()
    shutil.rmtree(tmp_path / ONE)
    one = start(ONE)
    until(lambda: one.exchange.is_settled and two.exchange.is_settled, one.step, two.step)
    assert [row.name for row in two.store.classes()] == ["hex bolt"]
    assert "a new state with the identity of an older one" in str(
        one.exchange.problems["forgotten"]
    )
