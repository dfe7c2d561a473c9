"""What Home Assistant is told: once, completely, again when it asks, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accrue.errors import ConfigError
from accrue.sync.broker import BrokerPlan
from accrue.sync.discovery import HomeAssistant, Publication, fits_prefix
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent
from accrue.sync.local_broker import LocalBroker
from accrue.sync.topics import ANNOUNCEMENT, JSON, Topic, Topics

DEVICE, OTHER = "0123456789ab", "cdefghjkmnpq"


class Client:
    """A link with what it heard."""

    def __init__(self, broker: LocalBroker, user: str, loop: Loop) -> None:
        self.link = Link(broker.endpoint(user), user, self)
        self.heard: list[Received] = []
        self._loop = loop
        loop.add(self.link)
        self.link.open()
        self.until(lambda: self.link.is_up)

    def on_up(self, limits: Limits) -> None: ...

    def on_down(self, error: Exception) -> None: ...

    def on_message(self, message: Received) -> None:
        self.heard.append(message)

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(500):
            if done():
                return
            self._loop.step(0.02)
        raise AssertionError("it did not come to that within ten seconds")

    def subscribe(self, *filters: str) -> None:
        granted: list[bool] = []
        self.link.subscribe(filters, granted.append)
        self.until(lambda: bool(granted))
        assert granted == [True]

    def publish(self, home: HomeAssistant) -> list[Sent]:
        """Sends all that is due, until nothing is any more."""
        outcomes: list[Sent] = []
        while found := home.due():
            expected = len(outcomes) + len(found)
            for one in found:

                def sent(outcome: Sent, one: Publication = one) -> None:
                    outcomes.append(outcome)
                    if outcome is Sent.DONE:
                        home.acknowledged(one)

                self.link.send(Message(one.topic, one.payload, one.kind), sent)
            self.until(lambda expected=expected: len(outcomes) == expected)
        return outcomes

    def retained(self, topic: str) -> dict[str, bytes]:
        """What the broker keeps below a topic."""
        self.heard.clear()
        self.subscribe(topic)
        fence = "homeassistant/status"
        self.subscribe(fence)
        self.link.send(Message(fence, b"fence", Topic("status", fence, "home", (), "", JSON)))
        self.until(lambda: any(m.payload == b"fence" and not m.retained for m in self.heard))
        self.link.unsubscribe([topic, fence])
        return {m.topic: m.payload for m in self.heard if m.retained and m.topic != fence}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    plan = BrokerPlan("dock", tls=False, home_assistant="homeassistant")
    folder = tmp_path_factory.mktemp("broker")
    with LocalBroker(
        folder, plan, {DEVICE: "device", OTHER: "device", "assistant": "home"}
    ) as found:
        yield found


@pytest.fixture
def clients(broker: LocalBroker) -> Iterator[tuple[Client, Client]]:
    """The device, and Home Assistant."""
    loop = Loop()
    yield Client(broker, DEVICE, loop), Client(broker, "assistant", loop)
    loop.close()


def home(folder: Path, prefix: str = "homeassistant", *, versions: bool = False) -> HomeAssistant:
    return HomeAssistant(
        folder / "home-assistant.json",
        prefix=prefix,
        fleet="dock",
        device=DEVICE,
        name="Dock 3",
        software="1.2.3",
        versions=versions,
    )


def taken(found: HomeAssistant) -> list[Publication]:
    """What is due, acknowledged, until nothing is."""
    every = []
    while now := found.due():
        for one in now:
            found.acknowledged(one)
        every += now
    return every


CONFIG = f"homeassistant/device/{DEVICE}/accrue-dock/config"


def test_the_announcement_has_what_device_discovery_asks_for(tmp_path: Path) -> None:
    (only,) = home(tmp_path, versions=True).due()
    assert (only.topic, only.kind.retain) == (CONFIG, True)
    said = json.loads(only.payload)
    assert {"device", "origin", "components", "availability", "qos"} == set(said)
    assert said["device"]["identifiers"] == [f"accrue_{DEVICE}"]
    assert said["origin"]["name"] == "accrue"
    platforms = {key: part["platform"] for key, part in said["components"].items()}
    assert platforms == {"answer": "sensor", "version": "update"}
    topics = Topics("dock")
    assert said["availability"][0]["topic"] == topics.path("state", device=DEVICE)
    for key, part in said["components"].items():
        assert part["unique_id"] == f"accrue_{DEVICE}_{key}"
        assert part["state_topic"] == topics.path(key, device=DEVICE)


def test_renaming_a_device_keeps_the_ids_of_its_entities(tmp_path: Path) -> None:
    def ids(name: str) -> list[str]:
        found = HomeAssistant(
            tmp_path / "list.json",
            prefix="homeassistant",
            fleet="dock",
            device=DEVICE,
            name=name,
            software="1",
        )
        said = json.loads(found.due()[0].payload)
        assert said["device"]["name"] == name
        return [part["unique_id"] for part in said["components"].values()]

    assert ids("Dock 3") == ids("Gate 1")


def test_without_a_prefix_nothing_is_said(tmp_path: Path) -> None:
    found = home(tmp_path, prefix="")
    found.answer("hex bolt", "sure")
    assert found.due() == []
    assert found.subscriptions == []
    assert not (tmp_path / "home-assistant.json").exists()


@pytest.mark.parametrize("prefix", ["a b", "home/#", "+", "/a", "a/", "a//b", "a/b/c/d/e", "ä"])
def test_a_prefix_that_no_topic_can_have_is_refused(tmp_path: Path, prefix: str) -> None:
    assert not fits_prefix(prefix)
    with pytest.raises(ConfigError, match="expected a topic prefix"):
        home(tmp_path, prefix=prefix)


@pytest.mark.parametrize(
    ("label", "verdict", "shown"),
    [
        ("hex bolt", "sure", "hex bolt"),
        ("hex bolt", "maybe", "hex bolt"),
        ("hex bolt", "unknown", "unknown"),
        (None, "not_ready", "not_ready"),
        ("é" * 400, "sure", "é" * 255),
    ],
)
def test_the_answer_is_the_class_or_else_the_verdict(tmp_path, label, verdict, shown) -> None:
    found = home(tmp_path)
    taken(found)
    found.answer(label, verdict)
    (only,) = found.due()
    assert json.loads(only.payload) == {"label": shown, "verdict": verdict}
    assert not only.kind.retain


def test_an_answer_that_did_not_change_is_not_said_again(tmp_path: Path) -> None:
    found = home(tmp_path)
    found.answer("hex bolt", "sure")
    taken(found)
    found.answer("hex bolt", "sure")
    assert found.due() == []


def test_what_was_not_acknowledged_is_said_again_after_a_new_connection(tmp_path: Path) -> None:
    found = home(tmp_path)
    found.answer("hex bolt", "sure")
    first = found.due()
    assert found.due() == []
    found.reconnected()
    assert found.due() == first


def test_what_the_broker_refused_is_left_until_there_is_a_new_connection(tmp_path: Path) -> None:
    found = home(tmp_path)
    (only,) = found.due()
    found.refused(only)
    assert found.is_settled
    found.reconnected()
    assert found.due() == [only]


def test_an_unreadable_list_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "home-assistant.json").write_text('{"topics": {"other/topic": {}}}')
    found = home(tmp_path)
    assert [one.topic for one in taken(found)] == [CONFIG]
    assert (tmp_path / "home-assistant.json.unreadable").exists()


def test_home_assistant_finds_the_device_its_version_and_its_answer(tmp_path, clients) -> None:
    device, assistant = clients
    assistant.subscribe("homeassistant/#", "accrue/v1/dock/dev/+/answer")
    found = home(tmp_path, versions=True)
    found.version(3, 4, "parts")
    found.answer("hex bolt", "sure")
    assert set(device.publish(found)) == {Sent.DONE}
    assistant.until(lambda: len(assistant.heard) >= 2)
    assert assistant.heard[-1].topic == f"accrue/v1/dock/dev/{DEVICE}/answer"
    kept = assistant.retained("accrue/v1/dock/dev/+/version")
    assert json.loads(kept[f"accrue/v1/dock/dev/{DEVICE}/version"]) == {
        "installed_version": "3",
        "latest_version": "4",
        "title": "parts",
    }
    assert CONFIG in assistant.retained("homeassistant/#")


def test_when_home_assistant_comes_up_everything_is_said_again(tmp_path, clients) -> None:
    device, assistant = clients
    found = home(tmp_path, versions=True)
    found.version(3, 3, "parts")
    found.answer("hex bolt", "sure")
    device.publish(found)
    device.subscribe(*found.subscriptions)
    device.heard.clear()
    status = Topic("status", "homeassistant/status", "home", (), "", JSON, retain=False)
    assistant.link.send(Message("homeassistant/status", b"online", status))
    device.until(lambda: any(m.payload == b"online" for m in device.heard))
    assert all(found.hear(m.topic, m.payload) for m in device.heard)
    said = [one.topic.rpartition("/")[2] for one in found.due()]
    assert said == ["config", "version", "answer"]


def test_another_prefix_and_switching_off_leave_nothing_on_the_broker(tmp_path, clients) -> None:
    device, assistant = clients
    found = home(tmp_path, versions=True)
    found.version(1, 1, "parts")
    device.publish(found)
    assert CONFIG in assistant.retained("homeassistant/#")
    assert assistant.retained("accrue/v1/dock/dev/+/version")
    device.publish(home(tmp_path, prefix=""))
    assert CONFIG not in assistant.retained("homeassistant/#")
    assert assistant.retained("accrue/v1/dock/dev/+/version") == {}
    assert home(tmp_path, prefix="").due() == []


def test_an_entity_that_is_no_more_is_removed_and_then_left_out(tmp_path: Path) -> None:
    taken(home(tmp_path, versions=True))
    cleared, first, second = taken(home(tmp_path, versions=False))
    assert (cleared.topic.rpartition("/")[2], cleared.payload) == ("version", b"")
    assert json.loads(first.payload)["components"]["version"] == {"platform": "update"}
    assert set(json.loads(second.payload)["components"]) == {"answer"}
    assert [set(json.loads(one.payload)["components"]) for one in taken(home(tmp_path))] == [
        {"answer"}
    ]


def test_versions_come_and_go_with_the_policy(tmp_path: Path) -> None:
    found = home(tmp_path)
    taken(found)
    found.follow_versions(True)
    found.version(1, 2, "parts")
    assert [one.topic.rpartition("/")[2] for one in taken(found)] == ["config", "version"]
    found.follow_versions(False)
    cleared, first, second = taken(found)
    assert (cleared.topic.rpartition("/")[2], cleared.payload) == ("version", b"")
    assert json.loads(first.payload)["components"]["version"] == {"platform": "update"}
    assert set(json.loads(second.payload)["components"]) == {"answer"}
    found.hear("homeassistant/status", b"online")
    assert [one.topic for one in taken(found)] == [CONFIG]


def test_a_clearing_that_the_broker_never_acknowledged_is_tried_again(tmp_path: Path) -> None:
    taken(home(tmp_path))
    assert [one.payload for one in home(tmp_path, prefix="").due()] == [b""]
    assert [one.payload for one in home(tmp_path, prefix="").due()] == [b""]


def test_a_device_cannot_announce_another_one(tmp_path, clients) -> None:
    device, _ = clients
    outcomes: list[Sent] = []
    topic = CONFIG.replace(DEVICE, OTHER)
    device.link.send(Message(topic, b"{}", ANNOUNCEMENT), outcomes.append)
    device.until(lambda: bool(outcomes))
    assert outcomes == [Sent.DENIED]
