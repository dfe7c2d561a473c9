"""Devices that follow a relay end as devices without one do, whatever becomes of the relay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from light_fleet import FLEET, QUICK, Fleet, device_id, until

from accrue.sync.exchange import Exchange
from accrue.sync.follow import Follow
from accrue.sync.local_broker import LocalBroker
from accrue.sync.relay import Relay

ONE, TWO = device_id(1), device_id(2)


class Town:
    """Two devices that follow a relay at a real broker."""

    def __init__(self, broker: LocalBroker, fleet: Fleet) -> None:
        self.broker = broker
        self.fleet = fleet
        self.relays = [self.relay()]
        self.devices = [
            fleet.exchange(broker.endpoint(one), follow=Follow(spread=lambda most: 0.0))
            for one in (ONE, TWO)
        ]
        self.until(lambda: all(one.follow.following for one in self.devices))

    def relay(self) -> Relay:
        made = Relay(self.broker.endpoint("relay"), FLEET, client_id="relay", timing=QUICK)
        made.open()
        return made

    def until(self, done: Callable[[], object]) -> None:
        until(done, *(one.step for one in [*self.devices, *self.relays]))

    def teach(self, which: int, name: str) -> None:
        ledger = self.fleet.ledgers[(ONE, TWO)[which]]
        ledger.teach(name, self.fleet.rows())

    def settled(self) -> bool:
        return all(one.is_settled for one in self.devices) and len(set(self.fleet.digests())) == 1

    def has(self, exchange: Exchange, name: str) -> bool:
        return exchange.ledger.view().find(name) is not None  # type: ignore[attr-defined]


@pytest.fixture
def town(make_broker: Callable[..., LocalBroker]) -> Iterator[Town]:
    fleet = Fleet()
    made = Town(make_broker({"relay": "relay"}), fleet)
    yield made
    fleet.close()
    for relay in made.relays:
        relay.loop.close()


def test_what_is_taught_comes_through_the_relay_alone(town: Town) -> None:
    one, two = town.devices
    before = two.link.received_bytes, two.follow.snapshots
    town.teach(0, "hex bolt")
    town.until(lambda: town.has(two, "hex bolt") and town.settled())
    assert two.follow.batches == 1
    assert two.follow.following
    assert two.follow.snapshots == before[1] == 1
    assert two.figures.fetched == 0
    assert one.ledger.unsent() == []


def test_when_the_relay_is_lost_devices_hear_each_other_directly(town: Town) -> None:
    relay = town.relays.pop()
    relay.link.abort()  # as if its machine lost power: the broker sends the last will
    relay.loop.close()
    town.until(lambda: not any(one.follow.following for one in town.devices))
    town.teach(0, "hex bolt")
    town.until(lambda: town.has(town.devices[1], "hex bolt") and town.settled())
    assert town.devices[1].follow.snapshots == 2


def test_what_a_relay_gathered_and_never_sent_is_not_lost(town: Town) -> None:
    relay = town.relays[0]
    relay._window_s = 3600.0
    town.teach(0, "hex bolt")
    town.until(lambda: not town.devices[0].ledger.unsent() and relay._since is not None)
    assert not town.has(town.devices[1], "hex bolt")
    town.relays.remove(relay)
    relay.link.abort()
    relay.loop.close()
    town.until(lambda: town.has(town.devices[1], "hex bolt") and town.settled())


def test_another_relay_is_followed_from_a_new_snapshot(town: Town) -> None:
    first = town.relays.pop()
    first.close()
    town.until(lambda: not any(one.follow.following for one in town.devices))
    town.teach(0, "hex bolt")
    town.relays.append(town.relay())
    town.until(lambda: all(one.follow.following for one in town.devices))
    town.teach(1, "spur gear")
    town.until(lambda: town.has(town.devices[0], "spur gear") and town.settled())
    assert town.has(town.devices[1], "hex bolt")
    assert {one.follow.relay for one in town.devices} == {town.relays[0].epoch}


def test_a_broker_that_lost_everything_is_refilled_though_all_followed_a_relay(town: Town) -> None:
    town.teach(0, "hex bolt")
    town.until(lambda: town.has(town.devices[1], "hex bolt") and town.settled())
    town.broker.kill()
    town.broker.forget_everything()
    town.until(lambda: not any(one.link.is_up for one in town.devices))
    town.teach(1, "spur gear")
    town.broker.start()
    town.until(lambda: town.has(town.devices[0], "spur gear") and town.settled())
    town.until(lambda: all(one.follow.following for one in town.devices))
    assert town.devices[0].figures.refilled == 1
