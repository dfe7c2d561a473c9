"""Devices and a real broker: what they end with, whatever happens in between."""

from __future__ import annotations

from light_fleet import Fleet, until

from accrue.sync.local_broker import LocalBroker


def test_two_devices_exchange_over_tls_and_end_with_equal_digests(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    first, second = fleet.ledgers.values()
    first.teach("hex bolt", fleet.rows(2))
    second.teach("hex bolt", fleet.rows(1))
    second.teach("spur gear", fleet.rows(3, near=9))
    until(
        lambda: one.is_settled and two.is_settled and len(set(fleet.digests())) == 1,
        one.step,
        two.step,
    )
    assert first.state().digest() == second.state().digest()
    assert len(first.view().classes) == 2
