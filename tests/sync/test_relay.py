"""What devices publish reaches whoever follows the relay, whole and once; on a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accrue.sync.batch import Batch, read_state
from accrue.sync.broker import BrokerPlan
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent, Timing
from accrue.sync.local_broker import LocalBroker
from accrue.sync.relay import Relay
from accrue.sync.topics import BY_NAME, Topics

DEVICE, READER = "0123456789ab", "cdefghjkmnpq"
SPACE = "0123456789abcdef"
CLASSES = [f"0000000{n}-0000-5000-8000-000000000000" for n in range(8)]
TOPICS = Topics("dock")
QUICK = Timing(backoff_base_s=0.05, backoff_cap_s=0.2)


class Client:
    def __init__(self, broker: LocalBroker, user: str, loop: Loop) -> None:
        self.link = Link(broker.endpoint(user), user, self, timing=QUICK)
        self.heard: list[Received] = []
        self.filters: list[str] = []
        loop.add(self.link)
        self.link.open()

    def on_up(self, limits: Limits) -> None:
        if self.filters:
            self.link.subscribe(self.filters)

    def on_down(self, error: Exception) -> None: ...

    def on_message(self, message: Received) -> None:
        self.heard.append(message)

    def batches(self) -> list[Batch]:
        return [Batch.from_bytes(m.payload) for m in self.heard if "/batch/" in m.topic]

    def messages(self) -> list[tuple[str, bytes]]:
        return [message for batch in self.batches() for message in batch.messages]

    def states(self) -> list[str]:
        return [read_state(m.payload)[1] for m in self.heard if m.topic.endswith("relay/state")]

    def say(self, number: int, payload: bytes) -> str:
        topic = TOPICS.path(
            "class", device=DEVICE, set="default", space=SPACE, class_id=CLASSES[number]
        )
        self.link.send(Message(topic, payload, BY_NAME["class"]))
        return topic[len(TOPICS.prefix) :]


class World:
    """A broker, a device that speaks, one that reads batches, and relays."""

    def __init__(self, broker: LocalBroker) -> None:
        self.broker = broker
        self.loop = Loop()
        self.speaker = Client(broker, DEVICE, self.loop)
        self.reader = Client(broker, READER, self.loop)
        self.reader.filters = [TOPICS.filter("batch"), TOPICS.path("relay-state")]
        self.relays: list[Relay] = []
        self.until(lambda: self.speaker.link.is_up and self.reader.link.is_up)

    def relay(self, name: str = "relay", window_s: float = 0.05) -> Relay:
        found = Relay(
            self.broker.endpoint("relay"), "dock", client_id=name, window_s=window_s, timing=QUICK
        )
        found.open()
        self.relays.append(found)
        return found

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(1000):
            if done():
                return
            self.loop.step(0.005)
            for relay in self.relays:
                relay.step(0.005)
        raise AssertionError("it did not come to that within ten seconds")

    def close(self) -> None:
        for relay in self.relays:
            relay.loop.close()
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    accounts = {DEVICE: "device", READER: "device", "relay": "relay"}
    with LocalBroker(tmp_path, BrokerPlan("dock", tls=False, autosave_s=1), accounts) as broker:
        found = World(broker)
        yield found
        found.close()


def test_messages_of_a_moment_come_as_one_batch_byte_for_byte(world: World) -> None:
    world.relay(window_s=0.3)
    world.until(lambda: "ready" in world.reader.states())
    names = [world.speaker.say(n, bytes([n]) * (n + 1)) for n in range(5)]
    world.until(lambda: len(world.reader.messages()) >= 5)
    assert world.reader.messages() == [(names[n], bytes([n]) * (n + 1)) for n in range(5)]
    assert len(world.reader.batches()) == 1


def test_of_two_versions_within_a_window_the_newer_one_is_passed_on(world: World) -> None:
    world.relay(window_s=0.3)
    world.until(lambda: "ready" in world.reader.states())
    name = world.speaker.say(1, b"old")
    world.speaker.say(1, b"new")
    world.until(lambda: bool(world.reader.messages()))
    assert world.reader.messages() == [(name, b"new")]


def test_numbers_go_up_by_one_and_the_state_names_the_last(world: World) -> None:
    relay = world.relay()
    world.until(lambda: "ready" in world.reader.states())
    for n in range(3):
        world.speaker.say(n, b"x")
        world.until(lambda n=n: len(world.reader.batches()) == n + 1)
    assert [b.number for b in world.reader.batches()] == [1, 2, 3]
    relay.close()
    world.relays.remove(relay)
    world.until(lambda: "stopped" in world.reader.states())
    last = json.loads(world.reader.heard[-1].payload)["last"]
    assert last == {f"default/{SPACE}": 3}


def test_what_was_retained_before_it_came_is_left_to_the_snapshot(world: World) -> None:
    world.speaker.say(1, b"before")
    world.until(lambda: not world.speaker.link.unsent)
    world.relay()
    world.until(lambda: "ready" in world.reader.states())
    name = world.speaker.say(2, b"after")
    world.until(lambda: bool(world.reader.messages()))
    assert world.reader.messages() == [(name, b"after")]


def test_after_a_lost_connection_it_has_another_epoch(world: World) -> None:
    relay = world.relay()
    world.until(lambda: "ready" in world.reader.states())
    world.speaker.say(1, b"one")
    world.until(lambda: bool(world.reader.messages()))
    world.reader.heard.clear()
    before = relay.epoch
    relay.link.abort()
    world.until(lambda: "offline" in world.reader.states())
    world.until(lambda: "ready" in world.reader.states())
    world.speaker.say(2, b"two")
    world.until(lambda: bool(world.reader.messages()))
    (batch,) = world.reader.batches()
    assert (batch.epoch, batch.number) == (relay.epoch, 1)
    ended = [m.payload for m in world.reader.heard if b"offline" in m.payload]
    assert [read_state(payload)[0] for payload in ended] == [before]
    assert before != relay.epoch


def test_a_killed_broker_is_followed_by_a_relay_that_goes_on(world: World) -> None:
    world.relay()
    world.until(lambda: "ready" in world.reader.states())
    world.broker.kill()
    world.until(lambda: not world.reader.link.is_up)
    world.broker.start()
    world.until(lambda: world.reader.link.is_up and world.speaker.link.is_up)
    world.reader.heard.clear()
    world.until(lambda: "ready" in world.reader.states())
    world.speaker.say(3, b"again")
    world.until(lambda: b"again" in [payload for _, payload in world.reader.messages()])


def test_a_second_relay_stands_by_and_takes_over(world: World) -> None:
    first = world.relay("first")
    world.until(lambda: "ready" in world.reader.states())
    second = world.relay("second")
    world.until(lambda: second.standing_by)
    world.speaker.say(1, b"x")
    world.until(lambda: bool(world.reader.messages()))
    assert {b.epoch for b in world.reader.batches()} == {first.epoch}
    first.close()
    world.relays.remove(first)
    world.until(lambda: not second.standing_by)
    world.speaker.say(2, b"y")
    world.until(lambda: len(world.reader.messages()) >= 2)
    assert world.reader.batches()[-1].epoch == second.epoch
    assert not first.standing_by


def test_a_cleared_topic_is_not_passed_on(world: World) -> None:
    world.relay()
    world.until(lambda: "ready" in world.reader.states())
    world.speaker.say(1, b"x")
    world.speaker.say(2, b"y")
    world.until(lambda: len(world.reader.messages()) == 2)
    world.speaker.say(1, b"")
    name = world.speaker.say(3, b"z")
    world.until(lambda: len(world.reader.messages()) >= 3)
    assert world.reader.messages()[2:] == [(name, b"z")]


def test_a_device_may_not_publish_batches(world: World) -> None:
    outcomes: list[Sent] = []
    topic = TOPICS.path("batch", set="default", space=SPACE)
    world.speaker.link.send(Message(topic, b"x", BY_NAME["batch"]), outcomes.append)
    world.until(lambda: bool(outcomes))
    assert outcomes == [Sent.DENIED]


def test_batches_stay_below_the_brokers_maximum(tmp_path: Path) -> None:
    plan = BrokerPlan("dock", tls=False, max_packet_bytes=131_072)
    accounts = {DEVICE: "device", READER: "device", "relay": "relay"}
    with LocalBroker(tmp_path, plan, accounts) as broker:
        world = World(broker)
        world.relay(window_s=0.3)
        world.until(lambda: "ready" in world.reader.states())
        for n in range(8):
            world.speaker.say(n, bytes([n]) * 60_000)
        world.until(lambda: len(world.reader.messages()) == 8)
        assert len(world.reader.batches()) == 4
        world.close()


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"epoch":1,"state":"ready","last":{}}', b"\xff", b"[" * 9999]
)
def test_a_state_that_cannot_be_read_says_nothing(payload: bytes) -> None:
    assert read_state(payload) == ("", "", {})


def test_the_command_relays_until_it_is_interrupted(world: World, tmp_path: Path) -> None:
    file = tmp_path / "relay.password"
    file.write_text(world.broker.passwords["relay"] + "\n")
    words = ["fleet", "relay", "dock", "--broker", "127.0.0.1", "--no-tls", "--json"]
    words += ["--port", str(world.broker.port), "--password-file", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "accrue.cli.main", *words],
        stdout=subprocess.PIPE,
        text=True,
        # whoever runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        world.until(lambda: "ready" in world.reader.states())
        name = world.speaker.say(1, b"x")
        world.until(lambda: bool(world.reader.messages()))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert world.reader.messages() == [(name, b"x")]
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["state"] == "ready"
    world.until(lambda: "stopped" in world.reader.states())
