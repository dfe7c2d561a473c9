"""A real Mosquitto from what `write_broker` writes, and devices that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from light_fleet import FLEET, Fleet, device_id

from accrue.errors import NotFound
from accrue.sync.broker import BrokerPlan
from accrue.sync.local_broker import LocalBroker, find_mosquitto
from accrue.sync.topics import Role


@pytest.fixture(scope="session")
def mosquitto() -> Path:
    try:
        return find_mosquitto()
    except NotFound as error:
        pytest.skip(f"{error.message}: {error.hint}; ./tools/test installs it")


@pytest.fixture
def make_broker(mosquitto: Path, tmp_path: Path) -> Iterator[Callable[..., LocalBroker]]:
    """``make_broker(accounts={user: role}, devices=2, **plan)``: one that runs."""
    made: list[LocalBroker] = []

    def make(accounts: dict[str, Role] | None = None, devices: int = 2, **plan: Any) -> LocalBroker:
        named: dict[str, Role] = {device_id(i): "device" for i in range(1, devices + 1)}
        broker = LocalBroker(
            tmp_path / f"broker-{len(made)}",
            BrokerPlan(FLEET, **plan),
            {**named, "owner": "owner", **(accounts or {})},
        )
        made.append(broker)
        broker.start()
        return broker

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., LocalBroker]) -> LocalBroker:
    """TLS, passwords, access lists, persistence, packets of 2,000,000 bytes; two devices."""
    return make_broker()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


@pytest.fixture
def make_fleet() -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        made.append(Fleet(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()
