"""Whatever is said, lost, repeated or reordered: devices that hold the same see the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet_cases import (
    DEVICES,
    NOW_MS,
    bodies,
    exchange,
    inbox,
    key_for,
    ledger,
    require_learned,
    require_same,
    rows,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accrue.errors import Conflict, NotFound
from accrue.sync.chunks import cut
from accrue.sync.clock import SKEW_MS, Clock
from accrue.sync.replica import MemoryLedger
from accrue.sync.view import view

NAMES = ["bolt", "BOLT", "nut", "gear", "spur gear"]
MINUTE_MS = 60_000
Message = tuple[str, tuple[Any, ...]]  # what an inbox is called with


class _Device:
    """A ledger, its inbox, its wall clock and what is on the way to it."""

    def __init__(self, fleet: _Fleet, device: str) -> None:
        self.skew_ms = 0
        clock = Clock(now_ms=lambda: fleet.now_ms + self.skew_ms)
        self.ledger = MemoryLedger(ledger().scope, device, key_for(device), clock)
        self.inbox = inbox(self.ledger)
        self.on_the_way: list[Message] = []

    def take(self, message: Message) -> None:
        kind, args = message
        reason = getattr(self.inbox, kind)(*args)
        assert reason in (None, "replayed", "future")
        self.ledger.hear(self.inbox.ready())


class _Fleet(RuleBasedStateMachine):
    """Devices and a broker that keeps the newest contribution of each, and the parts it lists."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.seed = 0
        self.retained: dict[tuple[str, str], list[Message]] = {}

    @initialize(count=st.integers(2, 4))
    def start(self, count: int) -> None:
        self.devices = [_Device(self, device) for device in DEVICES[:count]]

    # ---- what people do -------------------------------------------------------------------------

    def _do(self, data: st.DataObject, verb: Callable[[MemoryLedger], object]) -> None:
        device = data.draw(st.sampled_from(self.devices))
        self.now_ms += data.draw(st.sampled_from([0, 1, 1000]))
        try:
            verb(device.ledger)
        except (NotFound, Conflict):
            return

    def _rows(self, n: int = 1) -> Any:
        self.seed += 1
        return rows(self.seed, n)

    @rule(data=st.data(), name=st.sampled_from(NAMES), n=st.integers(1, 3))
    def teach(self, data: st.DataObject, name: str, n: int) -> None:
        self._do(data, lambda one: one.teach(name, self._rows(n)))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def refuse(self, data: st.DataObject, name: str) -> None:
        self._do(data, lambda one: one.refuse(name, self._rows()))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def teach_text(self, data: st.DataObject, name: str) -> None:
        self._do(data, lambda one: one.teach_text(name, f"a {name}", self._rows()[0]))

    @rule(data=st.data(), name=st.sampled_from(NAMES), kept=st.booleans())
    def keep(self, data: st.DataObject, name: str, kept: bool) -> None:
        self._do(data, lambda one: one.keep(name, kept))

    @rule(data=st.data(), name=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, data: st.DataObject, name: str, new: str) -> None:
        self._do(data, lambda one: one.rename(name, new))

    @rule(data=st.data(), name=st.sampled_from(NAMES), into=st.sampled_from(NAMES))
    def merge(self, data: st.DataObject, name: str, into: str) -> None:
        self._do(data, lambda one: one.merge(name, into))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def remove(self, data: st.DataObject, name: str) -> None:
        self._do(data, lambda one: one.remove(name))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def relabel(self, data: st.DataObject, name: str) -> None:
        def verb(one: MemoryLedger) -> None:
            known = sorted(s for s in one.view().placements if s.startswith("shot/"))
            if known:
                one.relabel(data.draw(st.sampled_from(known)), name)

        self._do(data, verb)

    @rule(data=st.data())
    def take_away(self, data: st.DataObject) -> None:
        def verb(one: MemoryLedger) -> None:
            known = sorted(one.view().placements)
            if known:
                one.take_away(data.draw(st.sampled_from(known)))

        self._do(data, verb)

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def fold(self, data: st.DataObject, name: str) -> None:
        self._do(data, lambda one: one.fold(name))

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        self._do(data, lambda one: one.undo())

    # ---- what happens to messages ---------------------------------------------------------------

    def _publish(self, device: _Device) -> None:
        own = device.ledger
        for class_id in own.unsent():
            said = own.own(class_id)
            messages: list[Message] = [
                ("chunk", (own.device, sha256, i, chunk))
                for sha256, packed in sorted(said.parts.items())
                for i, chunk in enumerate(cut(packed, 40))
            ]
            messages.append(("contribution", (said.envelope, own.device, class_id)))
            self.retained[own.device, class_id] = messages
            for other in self.devices:
                if other is not device:
                    other.on_the_way += messages
            own.acknowledge(class_id, said.contribution.revision)

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        self._publish(data.draw(st.sampled_from(self.devices)))

    @rule(data=st.data(), keep_it=st.sampled_from([False, False, False, True]))
    def deliver_one(self, data: st.DataObject, keep_it: bool) -> None:
        """Any message first, and some of them twice."""
        device = data.draw(st.sampled_from(self.devices))
        if device.on_the_way:
            at = data.draw(st.integers(0, len(device.on_the_way) - 1))
            message = device.on_the_way[at] if keep_it else device.on_the_way.pop(at)
            device.take(message)

    @rule(data=st.data(), backwards=st.booleans())
    def deliver_all(self, data: st.DataObject, backwards: bool) -> None:
        device = data.draw(st.sampled_from(self.devices))
        messages, device.on_the_way = device.on_the_way, []
        for message in reversed(messages) if backwards else messages:
            device.take(message)

    @rule(data=st.data())
    def partition(self, data: st.DataObject) -> None:
        """All that is on the way to a device is lost."""
        data.draw(st.sampled_from(self.devices)).on_the_way.clear()

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """What was on the disk is still there; half-heard contributions and the index are not."""
        device = data.draw(st.sampled_from(self.devices))
        own = device.ledger
        own.clock = Clock(own.clock.last, own.clock.now_ms)
        own.replica._index = None
        device.inbox = inbox(own)
        device.on_the_way.clear()

    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        """The retained messages are sent again."""
        device = data.draw(st.sampled_from(self.devices))
        for (author, _), messages in self.retained.items():
            if author != device.ledger.device:
                device.on_the_way += messages

    @rule(data=st.data(), minutes=st.sampled_from([-120, -9, -1, 0, 1, 9, 25]))
    def set_clock(self, data: st.DataObject, minutes: int) -> None:
        """Up to ten minutes off nothing is refused; beyond, until the clocks are right again."""
        data.draw(st.sampled_from(self.devices)).skew_ms = minutes * MINUTE_MS

    # ---- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_index_is_the_function_of_what_is_held(self) -> None:
        for device in getattr(self, "devices", []):
            replica = device.ledger.replica
            afresh = view(replica.contributions.values(), replica.scope)
            assert replica.view().digest() == afresh.digest()

    def teardown(self) -> None:
        if not hasattr(self, "devices"):
            return
        self.now_ms += 60 * MINUTE_MS + SKEW_MS
        for device in self.devices:
            device.skew_ms = 0
            self._publish(device)
        late = _Device(self, "deck0000000e")  # was never there before
        for turn, device in enumerate([*self.devices, late]):
            known = [
                m
                for key, said in self.retained.items()
                if key[0] != device.ledger.device
                for m in said
            ]
            for message in reversed(known) if turn % 2 else known:
                device.take(message)
            assert device.inbox.waiting() == 0
        first = self.devices[0].ledger
        for device in [*self.devices[1:], late]:
            assert device.ledger.replica.fingerprint() == first.replica.fingerprint()
            assert device.ledger.view().digest() == first.view().digest()
            assert device.ledger.state().digest() == first.state().digest()
        require_learned(first)
        require_same(late.ledger.view(), bodies(first))


_Fleet.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestFleet(_Fleet.TestCase):
    """Several devices, any interleaving, equal digests in the end."""


def test_shots_of_one_class_from_two_devices_are_one_device_taught_all() -> None:
    a, b, both = ledger(DEVICES[0]), ledger(DEVICES[1]), ledger(DEVICES[2])
    for seed in range(6):
        (a if seed % 2 else b).teach("pallet jack", rows(seed, 2))
        both.teach("Pallet Jack", rows(seed, 2))
    exchange(a, b)
    assert a.state().digest() == b.state().digest() == both.state().digest()
    assert a.view().digest() == b.view().digest()
