"""Events below a prefix of one's own, at a real Mosquitto: each once, in order, over cuts too."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from http_cases import until
from paho.mqtt.enums import CallbackAPIVersion

from accrue.errors import ConfigError, NotFound
from accrue.service import mqtt as mqtt_module
from accrue.service.daemon import Device
from accrue.service.mqtt import FIGURE, MqttEvents, broker_of
from accrue.service.outputs import Outputs, told
from accrue.service.settings import Settings, load_settings
from accrue.sync.broker import BrokerPlan
from accrue.sync.link import Timing
from accrue.sync.local_broker import LocalBroker, find_mosquitto, free_port

QUICK = Timing(connect_s=5.0, backoff_base_s=0.02, backoff_cap_s=0.2)


class Broker:
    """A Mosquitto that lets everybody in, on loopback."""

    def __init__(self, folder: Path) -> None:
        try:
            self.program = find_mosquitto()
        except NotFound as error:
            pytest.skip(f"{error.message}: {error.hint}; ./tools/test installs it")
        self.port = free_port()
        self.conf = folder / "mosquitto.conf"
        self.conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, "-c", self.conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    made.start()
    yield made
    made.stop()


class Ear:
    """Somebody who listens to everything: topic, payload and whether it was kept."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = lambda _, __, m: self.heard.append((m.topic, m.payload, m.retain))
        until(lambda: self._connected(broker.port))
        self._client.loop_start()

    def _connected(self, port: int) -> bool:
        try:
            return self._client.connect("127.0.0.1", port) == 0
        except OSError:
            return False

    def on(self, topic: str) -> list[Any]:
        return [json.loads(payload) for at, payload, _ in list(self.heard) if at == topic]

    def status(self) -> list[bytes]:
        return [payload for at, payload, _ in list(self.heard) if at == "plant/line-3/status"]

    def close(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()


@pytest.fixture
def hear() -> Iterator[Callable[[Broker], Ear]]:
    ears: list[Ear] = []

    def make(broker: Broker) -> Ear:
        ears.append(Ear(broker))
        return ears[-1]

    yield make
    for ear in ears:
        ear.close()


@pytest.fixture
def device(settings: Settings, broker: Broker) -> Device:
    """Not started: events alone."""
    address = f"mqtt://127.0.0.1:{broker.port}/plant/line-3"
    return Device(replace(settings, mqtt=address), cameras=())


def figure(device: Device, what: str) -> float:
    return device.figures.all().get((FIGURE, (("what", what),)), 0)


def test_events_arrive_in_order_and_the_last_answer_is_kept_for_who_comes_later(
    device: Device, broker: Broker, hear: Callable[[Broker], Ear]
) -> None:
    ear = hear(broker)
    parts = Outputs(device)
    until(lambda: ear.status() == [b"online"])
    for n in range(20):
        device.events.publish("classes", n=n)
    device.events.publish("answer", camera=1, new=True, label="bolt")
    device.events.publish("answer", camera=1, new=False, label="bolt")
    device.events.publish("answer", camera=1, new=True, label="Zahnrad ⚙")
    device.events.publish("access", change="paired")  # for nobody
    device.events.publish("camera", camera=0, state="playing")
    until(lambda: ear.on("plant/line-3/camera/0"))
    assert [event["n"] for event in ear.on("plant/line-3/classes")] == list(range(20))
    answers = ear.on("plant/line-3/answer/1")
    assert [one["label"] for one in answers] == ["bolt", "Zahnrad ⚙"]
    assert {topic.rpartition("line-3/")[2] for topic, _, _ in ear.heard} == {
        *("status", "classes", "answer/1", "camera/0")
    }
    assert figure(device, "sent") == 23
    late = hear(broker)
    until(lambda: len(late.heard) == 3)
    assert {topic for topic, _, kept in late.heard if kept} == {
        *("plant/line-3/status", "plant/line-3/answer/1", "plant/line-3/camera/0")
    }
    parts.close()
    until(lambda: ear.status() == [b"online", b"offline"])


def test_what_happens_while_the_broker_is_away_is_sent_when_it_is_back(
    device: Device,
    broker: Broker,
    hear: Callable[[Broker], Ear],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "accrue.outputs"):
        slow = replace(QUICK, backoff_base_s=6.0, backoff_cap_s=6.0)  # the ear is back before it
        events = MqttEvents(device, told, timing=slow)
        until(lambda: events._link.is_up)
        events._link._jitter = lambda: 1.0
        broker.stop()
        for n in range(30):
            device.events.publish("classes", n=n)
        until(lambda: any("was lost" in r.getMessage() for r in caplog.records))
        broker.start()
        ear = hear(broker)
        until(lambda: figure(device, "sent") == 30)
        until(lambda: len(ear.on("plant/line-3/classes")) == 30)
        assert [one["n"] for one in ear.on("plant/line-3/classes")] == list(range(30))
        events.close()
    told_last = [r.getMessage() for r in caplog.records if r.name == "accrue.outputs"][-1]
    assert told_last == f"the MQTT broker 127.0.0.1:{broker.port} takes events again"


def test_the_will_tells_that_a_device_was_cut_off(
    device: Device, broker: Broker, hear: Callable[[Broker], Ear]
) -> None:
    ear = hear(broker)
    events = MqttEvents(device, told, timing=QUICK)
    until(lambda: ear.status() == [b"online"])
    events._over.set()
    events._leave = lambda: None  # type: ignore[method-assign]
    events._link.close = events._link.cut  # type: ignore[method-assign]  # as a power cut would
    events._thread.join(10)
    until(lambda: ear.status() == [b"online", b"offline"])


def test_a_heap_of_events_does_not_grow_where_nobody_listens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_module, "WAITING", 10)
    address = f"mqtt://127.0.0.1:{free_port()}/x"
    device = Device(replace(settings, mqtt=address), cameras=())
    events = MqttEvents(device, told, timing=QUICK)
    for n in range(60):
        device.events.publish("classes", n=n)
    until(lambda: figure(device, "dropped") == 50)
    assert [event.data["n"] for event in events._waiting] == list(range(50, 60))
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 3
    assert not events._thread.is_alive()


def test_with_tls_and_a_password_and_a_topic_that_is_forbidden_there(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        find_mosquitto()
    except NotFound as error:
        pytest.skip(f"{error.message}: {error.hint}; ./tools/test installs it")
    user = "000000000001"
    fleet = LocalBroker(tmp_path / "broker", BrokerPlan("dock"), {user: "device"})
    fleet.start()
    try:
        secret = tmp_path / "secret"
        secret.write_text(fleet.passwords[user] + "\n")
        address = f"mqtts://{user}@127.0.0.1:{fleet.port}/plant"
        given = replace(settings, mqtt=address, mqtt_password=secret, mqtt_ca=fleet.files.ca)
        device = Device(given, cameras=())
        with caplog.at_level(logging.WARNING, "accrue.outputs"):
            events = MqttEvents(device, told, timing=QUICK)
            device.events.publish("classes", n=1)
            until(lambda: figure(device, "denied") == 1)
            events.close()
        assert "events for MQTT: classes is denied" in [r.getMessage() for r in caplog.records]
        secret.write_text("another")
        caplog.clear()
        with caplog.at_level(logging.WARNING, "accrue.outputs"):
            events = MqttEvents(device, told, timing=QUICK)
            until(lambda: any("does not accept user" in r.getMessage() for r in caplog.records))
            events.close()
    finally:
        fleet.stop()
    assert fleet.passwords[user] not in caplog.text


def test_a_password_that_cannot_be_read_stops_the_start(settings: Settings) -> None:
    given = replace(settings, mqtt="mqtt://u@h/x", mqtt_password=settings.state / "none")
    with pytest.raises(ConfigError, match=r"cannot be read from .*none: No such file"):
        Outputs(Device(given, cameras=()))


@pytest.mark.parametrize(
    ("address", "host", "port", "user", "prefix", "tls"),
    [
        ("mqtt://broker.local/plant/line-3", "broker.local", 1883, "", "plant/line-3", False),
        ("mqtts://b/x/", "b", 8883, "", "x", True),
        ("mqtt://an%40na@[::1]:1884/x", "::1", 1884, "an@na", "x", False),
    ],
)
def test_an_address_is_read(
    address: str, host: str, port: int, user: str, prefix: str, tls: bool
) -> None:
    settings, _ = load_settings({}, {"ACCRUE_MQTT": address, "ACCRUE_CONFIG": ""})
    endpoint, found = broker_of(settings)
    assert (endpoint.host, endpoint.port, endpoint.user) == (host, port, user)
    assert (endpoint.tls, found) == (tls, prefix)


@pytest.mark.parametrize(
    "address",
    [
        *("broker/x", "http://b/x", "mqtt:///x", "mqtt://b", "mqtt://b/", "mqtt://b/a/#"),
        *("mqtt://b/+", "mqtt://b/a b", "mqtt://b/accrue/v1/dock", "mqtt://b/$SYS"),
        *(
            "mqtt://u:p@b/x",
            "mqtt://b:99999/x",
            "mqtt://b:0/x",
            "mqtt://b/x?y",
            "mqtt://b/1/2/3/4/5",
        ),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected mqtt://"):
        load_settings({}, {"ACCRUE_MQTT": address, "ACCRUE_CONFIG": ""})
