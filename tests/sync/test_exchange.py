"""Devices and a real broker: what they end with, whatever happens in between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from light_fleet import FLEET, QUICK, Fleet, device_id, until
from proxy import Proxy

from accrue.errors import AccrueError, BrokerDenied, LinkError, StoreBusy, StoreFull
from accrue.sync.chunks import cut
from accrue.sync.exchange import Exchange, Stage
from accrue.sync.ledger import Applied, Heard
from accrue.sync.link import Limits, Link, Loop, Message, Phase, Received, Sent
from accrue.sync.local_broker import LocalBroker
from accrue.sync.outbox import DiskOutbox, MemoryOutbox
from accrue.sync.parts import hash_of
from accrue.sync.presence import Presence, Watch
from accrue.sync.topics import BY_NAME, Address, Topics

ONE, TWO, THREE = (device_id(i) for i in (1, 2, 3))
TOPICS = Topics(FLEET)


def agreed(fleet: Fleet, *exchanges: Exchange) -> bool:
    """All are settled and show the same."""
    return all(one.is_settled for one in exchanges) and (
        len({one.ledger.view().digest() for one in exchanges}) == 1
    )


def settle(fleet: Fleet, *exchanges: Exchange) -> None:
    until(lambda: agreed(fleet, *exchanges), *(one.step for one in exchanges))


class Reader:
    """A client of the owner's that reads what the broker has."""

    def __init__(self, broker: LocalBroker) -> None:
        self.messages: list[Received] = []
        self.link = Link(broker.endpoint("owner"), "reader", self, timing=QUICK)
        self.loop = Loop()
        self.loop.add(self.link)
        self.link.open()
        until(lambda: self.link.is_up, self.step)

    def on_up(self, limits: Limits) -> None: ...
    def on_down(self, error: AccrueError) -> None: ...
    def on_message(self, message: Received) -> None:
        self.messages.append(message)

    def step(self, timeout_s: float) -> None:
        self.loop.step(timeout_s)

    def subscribe(self, *filters: str) -> None:
        done: list[bool] = []
        self.link.subscribe(filters, done.append)
        until(lambda: done, self.step)

    def send(self, topic: str, payload: bytes, kind: str = "roster") -> None:
        sent: list[Sent] = []
        self.link.send(Message(topic, payload, BY_NAME[kind]), sent.append)
        until(lambda: sent, self.step)
        assert sent == [Sent.DONE]

    def close(self) -> None:
        self.loop.close()


def retained(broker: LocalBroker, *filters: str) -> dict[str, bytes]:
    """Topic to payload, of all that the broker retains there."""
    reader = Reader(broker)
    fence = TOPICS.path("fence", device="0" * 12)
    reader.subscribe(*filters, fence)
    reader.send(fence, b"fence", "fence")
    until(lambda: any(m.topic == fence for m in reader.messages), reader.step)
    reader.close()
    return {m.topic: m.payload for m in reader.messages if m.topic != fence}


# ---- two devices ---------------------------------------------------------------------------------


def test_two_devices_exchange_over_tls_and_end_with_equal_digests(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    first, second = fleet.ledgers.values()
    first.teach("hex bolt", fleet.rows(2))
    second.teach("hex bolt", fleet.rows(1))
    second.teach("spur gear", fleet.rows(3, near=9))
    settle(fleet, one, two)
    assert first.state().digest() == second.state().digest()
    assert len(first.view().classes) == 2
    assert one.problems == two.problems == {}
    assert not one.inbox.refused


def test_each_change_after_the_start_reaches_the_other(broker: LocalBroker, fleet: Fleet) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    settle(fleet, one, two)
    first, second = fleet.ledgers[ONE], fleet.ledgers[TWO]
    shot = first.teach("hex bolt", fleet.rows())
    settle(fleet, one, two)
    assert second.view().find("hex bolt")
    second.rename("hex bolt", "M8 bolt")
    settle(fleet, one, two)
    assert first.view().find("M8 bolt") == first.view().find("hex bolt")
    second.relabel(shot, "washer")
    settle(fleet, one, two)
    assert first.view().placements[shot].class_id == second.view().find("washer")
    first.remove("washer")
    settle(fleet, one, two)
    assert second.view().find("washer") is None
    assert one.link.connections == two.link.connections == 1


def test_what_one_taught_reaches_who_comes_when_it_is_gone(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    for name in ("hex bolt", "spur gear", "washer"):
        for _ in range(3):
            fleet.ledgers[ONE].teach(name, fleet.rows())
    until(lambda: one.is_settled, one.step)
    assert one.stop()
    two = fleet.exchange(broker.endpoint(TWO))
    until(lambda: two.is_settled and len(fleet.ledgers[TWO].view().classes) == 3, two.step)
    assert len(set(fleet.digests())) == 1
    assert two.figures.fetched > 0


# ---- the broker ----------------------------------------------------------------------------------


def test_what_is_retained_survives_a_restart_of_the_broker(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows(2))
    until(lambda: one.is_settled, one.step)
    one.stop()
    broker.stop()
    broker.start()
    two = fleet.exchange(broker.endpoint(TWO))
    until(lambda: two.is_settled and len(set(fleet.digests())) == 1, two.step)
    assert fleet.ledgers[TWO].view().find("hex bolt")


def test_a_broker_that_lost_everything_is_refilled_by_each_of_its_devices(
    make_broker: Callable[..., LocalBroker], make_fleet: Callable[..., Fleet]
) -> None:
    broker, fleet = make_broker(devices=3), make_fleet(devices=3)
    one, two = (fleet.exchange(broker.endpoint(d)) for d in (ONE, TWO))
    for i, name in enumerate(("hex bolt", "spur gear", "washer")):
        fleet.ledgers[ONE].teach(name, fleet.rows(2, near=i))
    fleet.ledgers[TWO].teach("hex bolt", fleet.rows())
    settle(fleet, one, two)
    before = retained(broker, TOPICS.filter("class"), TOPICS.filter("data"))
    broker.kill()
    broker.forget_everything()
    broker.start()
    until(lambda: one.link.connections == two.link.connections == 2, one.step, two.step)
    settle(fleet, one, two)
    assert (one.figures.refilled, two.figures.refilled) == (3, 1)
    assert retained(broker, TOPICS.filter("class"), TOPICS.filter("data")) == before
    three = fleet.exchange(broker.endpoint(THREE))
    until(lambda: three.is_settled and len(set(fleet.digests())) == 1, three.step)


def test_a_broker_that_has_everything_is_sent_nothing_again(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows(2))
    until(lambda: one.is_settled, one.step)
    one.link.abort()
    until(lambda: one.link.connections == 2 and one.is_settled, one.step)
    assert (one.figures.sent, one.figures.refilled) == (1, 0)


def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_again_and_again(
    broker: LocalBroker, fleet: Fleet
) -> None:
    """It saves nothing in between, so each time it comes back with what it had at first."""
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    for i in range(5):
        fleet.ledgers[ONE].teach(f"class {i}", fleet.rows(near=i))
        fleet.ledgers[TWO].teach("all of them", fleet.rows(near=i))
        until(lambda i=i: one.link.connections > i and one.is_settled, one.step, two.step)
        broker.kill()
        broker.start()
    until(lambda: two.link.connections >= 6 and one.link.connections >= 6, one.step, two.step)
    settle(fleet, one, two)
    assert len(fleet.ledgers[TWO].view().classes) == 6
    assert fleet.ledgers[ONE].state().digest() == fleet.ledgers[TWO].state().digest()


# ---- killed at any moment ------------------------------------------------------------------------


class Killed(BaseException):
    """A power cut."""


STAGES = [Phase.TCP, Phase.TLS, Phase.MQTT, *list(Stage)[1:5], "acknowledged", "cleared"]


@pytest.mark.parametrize("moment", STAGES, ids=[getattr(m, "name", m) for m in STAGES])
def test_a_device_killed_at_any_stage_of_the_start_ends_as_if_it_had_not_been(
    broker: LocalBroker,
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Phase | Stage | str,
) -> None:
    """Killed when it gets there, the ledger being what is left; and then started again."""
    ledger, two = fleet.ledgers[ONE], fleet.exchange(broker.endpoint(TWO))
    early = fleet.exchange(broker.endpoint(ONE), outbox=DiskOutbox(tmp_path / "outbox.db"))
    kept = ledger.teach("hex bolt", fleet.rows())
    taken = ledger.teach("hex bolt", fleet.rows(3))
    settle(fleet, early, two)
    early.stop()
    ledger.take_away(taken)
    ledger.teach("spur gear", fleet.rows(2))
    fleet.ledgers[TWO].teach("spur gear", fleet.rows())

    outbox = DiskOutbox(tmp_path / "outbox.db")
    one = fleet.exchange(broker.endpoint(ONE), outbox=outbox)
    killed = False
    with monkeypatch.context() as patch:
        _kill_at(patch, one, moment)
        try:
            until(lambda: one.figures.cleared or one.is_settled, one.step)
        except Killed:
            killed = True
    assert killed
    one.close()
    outbox.close()

    again = fleet.exchange(broker.endpoint(ONE), outbox=DiskOutbox(tmp_path / "outbox.db"))
    settle(fleet, again, two)
    until(lambda: not again._outbox.entries(), again.step)
    assert set(fleet.ledgers[TWO].view().placements) >= {kept}
    assert taken not in fleet.ledgers[TWO].view().placements
    assert len(fleet.ledgers[TWO].view().classes) == 2
    assert _data_topics(broker, ONE) == _listed(fleet, ONE)


@pytest.mark.parametrize("stage", list(Stage)[1:5], ids=lambda stage: stage.name)
def test_a_broker_killed_at_any_stage_of_a_devices_start_is_filled_when_it_is_back(
    broker: LocalBroker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """It had saved nothing, so all of it must come again from the devices."""
    two = fleet.exchange(broker.endpoint(TWO))
    fleet.ledgers[TWO].teach("spur gear", fleet.rows())
    until(lambda: two.is_settled, two.step)
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows(3))
    one = fleet.exchange(broker.endpoint(ONE))
    with monkeypatch.context() as patch:
        _kill_at(patch, one, stage)
        with pytest.raises(Killed):
            until(lambda: one.is_settled, one.step, two.step)
        broker.kill()
    broker.start()
    until(lambda: one.link.connections == two.link.connections == 2, one.step, two.step)
    settle(fleet, one, two)
    assert len(fleet.ledgers[TWO].view().classes) == 2
    assert _data_topics(broker, ONE) == _listed(fleet, ONE)


def _kill_at(patch: pytest.MonkeyPatch, one: Exchange, moment: Phase | Stage | str) -> None:
    """Makes the attempt to get to a phase, a stage or past a call end in `Killed`."""

    def die(*args: object) -> None:
        raise Killed

    if moment == "acknowledged":
        patch.setattr(one.ledger, "acknowledge", die)
    elif moment == "cleared":
        patch.setattr(one._outbox, "remove", die)
    else:
        target = one.link if isinstance(moment, Phase) else one
        name = "phase" if isinstance(moment, Phase) else "stage"

        class Watched(type(target)):  # type: ignore[misc]
            def __setattr__(self, key: str, value: object) -> None:
                super().__setattr__(key, value)
                if key == name and value is moment:
                    raise Killed

        patch.setattr(target, "__class__", Watched)


def _data_topics(broker: LocalBroker, device: str) -> set[str]:
    return {
        topic.split("/")[-2] for topic in retained(broker, TOPICS.filter("data", device=device))
    }


def _listed(fleet: Fleet, device: str) -> set[str]:
    ledger = fleet.ledgers[device]
    return {part.sha256 for name in ledger.owned() for part in ledger.own(name).contribution.parts}


def test_parts_that_nothing_names_any_more_are_cleared_from_the_broker(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    ledger = fleet.ledgers[ONE]
    shots = [ledger.teach("hex bolt", fleet.rows()) for _ in range(4)]
    settle(fleet, one, two)
    for shot in shots[:3]:
        ledger.take_away(shot)
        settle(fleet, one, two)
    until(lambda: _data_topics(broker, ONE) == _listed(fleet, ONE), one.step)
    assert one.figures.cleared > 0
    assert len(fleet.ledgers[TWO].view().placements) == 1


# ---- presence ------------------------------------------------------------------------------------


def test_a_late_last_will_of_an_earlier_session_does_not_mark_a_live_device_as_lost(
    broker: LocalBroker, fleet: Fleet
) -> None:
    """A second connection of the device, with another client id, has a will of session 1."""
    one = fleet.exchange(broker.endpoint(ONE))
    until(lambda: one.is_settled, one.step)
    reader, watch = Reader(broker), Watch()
    reader.subscribe(TOPICS.filter("state"))
    until(lambda: reader.messages, reader.step)
    state = TOPICS.path("state", device=ONE)
    will = Message(state, Presence("offline", 1).to_bytes(), BY_NAME["state"])
    ghost = Link(broker.endpoint(ONE), "ghost", reader, will=lambda: will, timing=QUICK)
    loop = Loop()
    loop.add(ghost)
    ghost.open()
    until(lambda: ghost.is_up, loop.step)
    ghost.cut()
    until(lambda: any(b"offline" in m.payload for m in reader.messages), reader.step)
    until(lambda: b"ready" in reader.messages[-1].payload, reader.step, one.step)
    for message in reader.messages:
        watch.heard(ONE, message.payload)
        assert watch.devices[ONE].is_here
    assert Presence.from_bytes(retained(broker, state)[state]).state == "ready"
    loop.close()
    reader.close()


def test_a_clean_stop_and_a_loss_are_told_apart(broker: LocalBroker, fleet: Fleet) -> None:
    state = TOPICS.path("state", device=ONE)
    one = fleet.exchange(broker.endpoint(ONE))
    until(lambda: one.is_ready, one.step)
    assert one.stop()
    found = Presence.from_bytes(retained(broker, state)[state])
    assert (found.state, found.session) == ("stopped", one._sessions.last)
    again = fleet.exchange(broker.endpoint(ONE))
    until(lambda: again.is_ready, again.step)
    again.close()
    until(lambda: Presence.from_bytes(retained(broker, state)[state]).state == "offline")
    assert Presence.from_bytes(retained(broker, state)[state]).session == again._sessions.last


def test_stopping_sends_what_is_unsent(broker: LocalBroker, fleet: Fleet) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    until(lambda: one.is_ready, one.step)
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    assert one.stop()
    assert fleet.ledgers[ONE].unsent() == []


def test_the_state_is_init_until_all_of_its_own_is_acknowledged(
    broker: LocalBroker, fleet: Fleet
) -> None:
    reader = Reader(broker)
    reader.subscribe(TOPICS.filter("state"), TOPICS.filter("class"))
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    one = fleet.exchange(broker.endpoint(ONE))
    until(lambda: one.is_settled, one.step)
    until(lambda: any(b"ready" in m.payload for m in reader.messages), reader.step)
    kinds = [TOPICS.parse(m.topic).name for m in reader.messages]
    assert kinds == ["state", "class", "state"]
    assert Presence.from_bytes(reader.messages[0].payload).state == "init"
    reader.close()


# ---- duplicates, cuts, partitions ----------------------------------------------------------------


def test_messages_that_come_twice_or_late_change_nothing(broker: LocalBroker, fleet: Fleet) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    reader = Reader(broker)
    reader.subscribe(TOPICS.filter("class"), TOPICS.filter("data"))
    for i in range(6):
        fleet.ledgers[ONE].teach("hex bolt", fleet.rows(near=i))
        until(lambda: one.is_settled, one.step, two.step)
    settle(fleet, one, two)
    until(lambda: len(reader.messages) >= 12, reader.step)
    digest, applied = fleet.digests()[1], two.figures.applied
    heard = [m for m in reader.messages if m.payload]
    for message in [*heard, *reversed(heard)]:
        reader.send(message.topic, message.payload, "class")
    until(lambda: two.inbox.refused["replayed"] >= 12, two.step)
    assert fleet.digests()[1] == digest
    assert two.figures.applied == applied
    assert set(two.inbox.refused) == {"replayed"}
    reader.close()


def test_connections_that_are_cut_at_random_lose_nothing(broker: LocalBroker, fleet: Fleet) -> None:
    rng = random.Random(3)
    proxies = [Proxy(broker.port) for _ in fleet.ids]
    one, two = (
        fleet.exchange(broker.endpoint(d, p.port)) for d, p in zip(fleet.ids, proxies, strict=True)
    )
    for i in range(40):
        ledger = fleet.ledgers[rng.choice(fleet.ids)]
        ledger.teach(rng.choice(["hex bolt", "washer"]), fleet.rows(near=i))
        for _ in range(rng.randrange(3)):
            one.step(0.005)
            two.step(0.005)
        if i % 4 == 3:
            rng.choice(proxies).cut()
    settle(fleet, one, two)
    shots = fleet.ledgers[ONE].view().placements
    assert len(shots) == 40
    assert one.link.connections + two.link.connections > 4
    for proxy in proxies:
        proxy.close()


def test_devices_apart_for_a_while_agree_when_they_meet_again(
    broker: LocalBroker, fleet: Fleet
) -> None:
    proxy = Proxy(broker.port)
    one = fleet.exchange(broker.endpoint(ONE))
    two = fleet.exchange(broker.endpoint(TWO, proxy.port), timing=replace(QUICK, keepalive_s=1))
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    settle(fleet, one, two)
    proxy.silence()
    fleet.ledgers[ONE].rename("hex bolt", "M8")
    fleet.ledgers[TWO].teach("hex bolt", fleet.rows())
    fleet.ledgers[TWO].teach("washer", fleet.rows())
    until(lambda: two.stage is Stage.DOWN and one.is_settled, one.step, two.step)
    assert len(set(fleet.digests())) == 2
    proxy.cut()
    proxy.speak()
    settle(fleet, one, two)
    assert fleet.ledgers[TWO].view().find("M8") == fleet.ledgers[ONE].view().find("hex bolt")
    proxy.close()


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [16_384, 131_072, 2_000_000])
def test_large_parts_pass_in_chunks_below_the_brokers_maximum(
    make_broker: Callable[..., LocalBroker], make_fleet: Callable[..., Fleet], limit: int
) -> None:
    broker, fleet = make_broker(max_packet_bytes=limit), make_fleet(dim=512)
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows(400))
    settle(fleet, one, two)
    chunks = retained(broker, TOPICS.filter("data"))
    assert len(chunks) >= 3
    assert all(len(chunk) <= min(98_304, limit) for chunk in chunks.values())
    assert fleet.ledgers[ONE].state().digest() == fleet.ledgers[TWO].state().digest()
    assert (one.link.connections, two.link.connections) == (1, 1)
    late = make_fleet(dim=512)
    late.keys, late.trust = fleet.keys, fleet.trust
    late.ledgers[TWO] = late.new_ledger(TWO)
    two.stop()
    again = late.exchange(broker.endpoint(TWO))
    until(lambda: again.is_settled and late.ledgers[TWO].view().classes, again.step)
    assert late.ledgers[TWO].state().digest() == fleet.ledgers[ONE].state().digest()


def test_a_contribution_above_the_brokers_maximum_never_loops_reconnects(
    make_broker: Callable[..., LocalBroker], fleet: Fleet
) -> None:
    """It stays here and is reported, and goes out to a broker that takes it."""
    broker = make_broker(max_packet_bytes=16_384)
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    ledger = fleet.ledgers[ONE]
    large = "hex bolt"
    for _ in range(300):
        ledger.teach(large, fleet.rows())
    ledger.teach("washer", fleet.rows())
    class_id = ledger.view().find(large)
    assert len(ledger.own(class_id).envelope) > 16_384
    until(
        lambda: class_id in one.problems and one.is_settled and two.is_settled, one.step, two.step
    )
    problem = one.problems[class_id]
    assert type(problem) is LinkError
    assert "does not fit the broker's packets of 16,384 bytes" in problem.message
    assert "max_packet_size" in problem.hint
    assert ledger.unsent() == [class_id]
    assert len(fleet.ledgers[TWO].view().classes) == 1
    for _ in range(50):
        one.step(0.01)
        two.step(0.01)
    assert (one.link.connections, two.link.connections) == (1, 1)
    assert one.figures.oversized == 1
    broker.stop()
    other = make_broker()
    for exchange in (one, two):
        exchange.close()
    settle(fleet, *(fleet.exchange(other.endpoint(d)) for d in fleet.ids))
    assert ledger.unsent() == []


@pytest.mark.parametrize(("shots", "views"), [(1, 5), (5, 1)])
def test_what_five_rows_of_a_class_cost_on_the_wire(
    make_broker: Callable[..., LocalBroker],
    make_fleet: Callable[..., Fleet],
    shots: int,
    views: int,
) -> None:
    """d=512: counted on the socket, TLS, topics, signatures and acknowledgements included."""
    broker, fleet = make_broker(), make_fleet(dim=512, devices=1)
    proxy = Proxy(broker.port)
    one = fleet.exchange(broker.endpoint(ONE, proxy.port))
    until(lambda: one.is_settled, one.step)
    for _ in range(shots):
        fleet.ledgers[ONE].teach("hex bolt", fleet.rows(views))
    plain, wire = one.link.sent_bytes + one.link.received_bytes, proxy.up_bytes + proxy.down_bytes
    until(lambda: one.is_settled, one.step)
    plain = one.link.sent_bytes + one.link.received_bytes - plain
    wire = proxy.up_bytes + proxy.down_bytes - wire
    print(f"{shots} shots of {views} rows: {plain:,} MQTT bytes, {wire:,} on the socket with TLS")
    assert 5 * 512 < plain < wire <= 6_000
    proxy.close()


# ---- errors --------------------------------------------------------------------------------------


def test_what_the_access_list_forbids_is_a_problem_and_the_rest_goes_on(
    broker: LocalBroker, fleet: Fleet
) -> None:
    """The account is that of another device, so nothing of its own may be written."""
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    fleet.ledgers[TWO].teach("washer", fleet.rows())
    wrong = fleet.exchange(broker.endpoint(TWO), device=ONE)
    class_id = fleet.ledgers[ONE].view().find("hex bolt")
    until(lambda: class_id in wrong.problems, wrong.step)
    assert isinstance(wrong.problems[class_id], BrokerDenied)
    assert "the user name must be the device id" in wrong.problems["fence"].hint
    assert fleet.ledgers[ONE].unsent() == [class_id]
    assert wrong.link.connections == 1


def test_what_the_ledger_could_not_write_is_offered_again(
    broker: LocalBroker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    settle(fleet, one, two)
    ledger = fleet.ledgers[TWO]
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    busy = [3]

    def hear(heard: Sequence[Heard]) -> Applied:
        if busy[0]:
            busy[0] -= 1
            raise StoreBusy("another process holds the lock")
        return type(ledger).hear(ledger, heard)

    monkeypatch.setattr(ledger, "hear", hear)
    monkeypatch.setattr("accrue.sync.exchange.BUSY_S", 0.05)
    until(lambda: two.problems, one.step, two.step)
    assert "holds the lock" in two.problems["store"].message
    until(lambda: len(set(fleet.digests())) == 1, one.step, two.step)
    assert busy == [0]
    assert two.problems == {}


def test_what_has_no_room_keeps_neither_the_rest_out_nor_the_own_in(
    broker: LocalBroker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped, not piled up in memory, and asked for again after a while."""
    one, two = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    settle(fleet, one, two)
    ledger, room = fleet.ledgers[TWO], [False]
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    (too_large,) = fleet.ledgers[ONE].owned()
    fleet.ledgers[ONE].teach("wing nut", fleet.rows())

    def hear(heard: Sequence[Heard]) -> Applied:
        if not room[0] and any(each.contribution.class_id == too_large for each in heard):
            raise StoreFull("the budget is spent")
        return type(ledger).hear(ledger, heard)

    monkeypatch.setattr(ledger, "hear", hear)
    monkeypatch.setattr("accrue.sync.exchange.FULL_S", 0.2)
    until(lambda: len(ledger.revisions()) == 1 and "full" in two.problems, one.step, two.step)
    fleet.ledgers[TWO].teach("screw", fleet.rows())
    until(lambda: len(fleet.ledgers[ONE].revisions()) == 1, one.step, two.step)
    room[0] = True
    until(lambda: len(set(fleet.digests())) == 1 and not two.problems, one.step, two.step)


def test_a_message_of_another_scope_is_not_even_looked_at(
    broker: LocalBroker, fleet: Fleet
) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    until(lambda: one.is_ready, one.step)
    for field, value in (("set", "other"), ("space", "0" * 16)):
        fields = {**one._own, "device": TWO, field: value}
        address = TOPICS.parse(TOPICS.path("class", **fields, class_id=str(_uuid())))
        one.hear(address, b"x" * 100)
    assert (one.figures.heard, dict(one.inbox.refused)) == (0, {})


def _uuid() -> str:
    return "cc3f499f-c10d-509d-b57c-e6c5a79b6775"


# ---- documents and reports -----------------------------------------------------------------------


def test_documents_of_the_owner_arrive_and_their_contents_are_fetched_by_hash(
    broker: LocalBroker, fleet: Fleet
) -> None:
    reader = Reader(broker)
    data = np.random.default_rng(1).bytes(300_000)
    sha256 = hash_of(data)
    reader.send(TOPICS.path("roster"), b"head of the roster")
    got: list[tuple[str, bytes]] = []
    contents: list[bytes] = []

    def document(address: Address, payload: bytes) -> None:
        got.append((address.name, payload))

    one = fleet.exchange(broker.endpoint(ONE), on_document=document)
    until(lambda: one.is_ready, one.step)
    assert got == [("roster", b"head of the roster")]
    one.fetch(sha256, contents.append)
    for chunk in (b"", b"\x01\x00\x00\x00forged"):  # nothing yet, then something else
        reader.send(TOPICS.path("owner-data", sha256=sha256, chunk=0), chunk)
    for i, chunk in enumerate(cut(data)):
        reader.send(TOPICS.path("owner-data", sha256=sha256, chunk=i), chunk)
    until(lambda: contents, one.step)
    assert contents == [data]
    reader.send(TOPICS.path("manifest", **one._others), b"head of a manifest")
    until(lambda: len(got) == 2, one.step)
    assert got[1] == ("manifest", b"head of a manifest")
    reader.close()


def test_a_report_is_retained_and_made_anew_when_something_changed(
    broker: LocalBroker, fleet: Fleet
) -> None:
    made: list[int] = []

    def report() -> bytes:
        made.append(len(fleet.ledgers[ONE].owned()))
        return f"report {len(made)}".encode()

    topic = TOPICS.path("report", device=ONE)
    one = fleet.exchange(broker.endpoint(ONE), report=report)
    until(lambda: made and one.is_settled, one.step)
    assert retained(broker, topic) == {topic: b"report 1"}
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    until(lambda: one.is_settled, one.step)
    one.stop()
    assert made[-1] == 1
    assert retained(broker, topic) == {topic: f"report {len(made)}".encode()}


# ---- the outbox ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_outbox_keeps_the_latest_of_each_topic_in_order(tmp_path: Path, kind: str) -> None:
    box = MemoryOutbox() if kind == "memory" else DiskOutbox(tmp_path / "outbox.db")
    box.put("a", b"1")
    box.put("b", b"")
    box.put("a", b"2")
    assert box.entries() == [("b", b""), ("a", b"2")]
    box.remove("a", b"1")  # sent, but replaced in the meantime
    assert box.entries() == [("b", b""), ("a", b"2")]
    box.remove("b", b"")
    assert box.entries() == [("a", b"2")]
    if isinstance(box, DiskOutbox):
        box.close()
        again = DiskOutbox(tmp_path / "outbox.db")
        assert again.entries() == [("a", b"2")]
        again.close()


def test_idle_steps_send_nothing(broker: LocalBroker, fleet: Fleet) -> None:
    one = fleet.exchange(broker.endpoint(ONE))
    fleet.ledgers[ONE].teach("hex bolt", fleet.rows())
    until(lambda: one.is_settled, one.step)
    before, end = one.link.sent_bytes, time.monotonic() + 1.0
    while time.monotonic() < end:
        one.step(0.05)
    assert one.link.sent_bytes == before


def test_one_device_is_looked_at_without_reading_the_others_again(
    broker: LocalBroker, fleet: Fleet
) -> None:
    first, second = (fleet.exchange(broker.endpoint(d)) for d in fleet.ids)
    for name in ("bolt", "gear", "valve"):
        fleet.ledgers[TWO].teach(name, fleet.rows())
    settle(fleet, first, second)
    heard, looked = first.figures.heard, []
    first.look_at([TWO], lambda: looked.append(TWO))
    until(lambda: looked, first.step)
    assert first.figures.heard == heard + 3
    first.look_at([THREE], lambda: looked.append(THREE))
    until(lambda: THREE in looked, first.step)
    assert first.figures.heard == heard + 3
    fleet.ledgers[TWO].teach("bolt", fleet.rows())
    settle(fleet, first, second)
