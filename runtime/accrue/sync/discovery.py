"""Home Assistant MQTT discovery: the answer, the class set's version and whether the box is there.

Optional and off by default: it puts what the camera recognised on the broker in the clear. This
module says what is to be published; who holds the connection publishes it and reports what the
broker acknowledged. https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accrue.errors import ConfigError
from accrue.store.files import write_atomically
from accrue.sync.topics import ANNOUNCEMENT, BY_NAME, Topic, Topics

PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
ANSWER_EXPIRES_S = 300  # an answer says what is seen now: older than this it is no longer shown
STATE_CHARACTERS = 255  # the longest state that Home Assistant keeps
LARGEST_LEDGER_BYTES = 1 << 20
_ANSWER, _VERSION = "answer", "version"
_PLATFORMS = {_ANSWER: "sensor", _VERSION: "update"}


@dataclass(frozen=True)
class Publication:
    """One message for the broker, sent as its kind is."""

    kind: Topic
    topic: str
    payload: bytes


def fits_prefix(prefix: str) -> bool:
    """Whether it can begin a topic: up to four levels of letters, digits, - and _; or empty."""
    return not prefix or PREFIX.fullmatch(prefix) is not None


class HomeAssistant:
    """What one device has to tell Home Assistant, and what it told before.

    A ledger on disk keeps the topics of earlier days, so that another prefix, a component that is
    no more, or being switched off leaves no ghost behind. It is written before anything is
    published, and an entry goes only when the broker acknowledged that the topic was cleared.

    Args:
        ledger: file of the ledger; its folder is there.
        prefix: discovery prefix of Home Assistant; empty: nothing but sweeping.
        fleet, device: ids. Entities are bound to them, so a rename keeps their history.
        name: what people call the device.
        software: version of Accrue.
        versions: whether a class set with versions is followed (policy curated).

    Raises:
        ConfigError: a prefix that no topic can have.
    """

    def __init__(
        self,
        ledger: Path,
        *,
        prefix: str,
        fleet: str,
        device: str,
        name: str,
        software: str,
        versions: bool = False,
    ) -> None:
        if not fits_prefix(prefix):
            raise ConfigError(
                f"home_assistant is {prefix[:80]!r}; expected a topic prefix",
                hint="homeassistant is the usual one; empty: off",
                found=prefix,
            )
        self._ledger = ledger
        self._prefix = prefix
        topics = Topics(fleet)
        self._state_topic = topics.path("state", device=device)
        self._topics = {key: topics.path(key, device=device) for key in _PLATFORMS}
        self._fleet, self._device, self._name, self._software = fleet, device, name, software
        self._wanted = {_ANSWER: _PLATFORMS[_ANSWER]}
        if versions:
            self._wanted[_VERSION] = _PLATFORMS[_VERSION]
        self._told = _read(ledger)  # topic -> component -> platform
        self._waiting: dict[str, Publication] = {}  # by topic; handed out, not acknowledged
        self._refused: dict[str, Publication] = {}
        self._due: dict[str, Publication] = {}
        self._states: dict[str, Publication] = {}
        self._announce()

    @property
    def topic(self) -> str:
        """Where the device is announced. A level of its own is the device id, so that a broker
        can allow each device its own (`pattern write PREFIX/device/%u/+/config`)."""
        return f"{self._prefix}/device/{self._device}/accrue-{self._fleet}/config"

    @property
    def is_used(self) -> bool:
        """Whether it is switched on, or was and has something to sweep."""
        return bool(self._prefix or self._told)

    @property
    def subscriptions(self) -> list[str]:
        return [f"{self._prefix}/status"] if self._prefix else []

    def answer(self, label: str | None, verdict: str) -> None:
        """What the camera shows now. `label` counts where the verdict is sure or maybe.

        Not retained: what was seen yesterday is no answer.
        """
        shown = label if label is not None and verdict in ("sure", "maybe") else verdict
        self._state(
            Publication(
                BY_NAME[_ANSWER],
                self._topics[_ANSWER],
                _json({"label": shown[:STATE_CHARACTERS], "verdict": verdict}),
            )
        )

    def version(self, installed: int | None, latest: int | None, title: str) -> None:
        """Version of the class set that is installed, and the newest one published; None: none."""
        if _VERSION not in self._wanted:
            return
        told = {
            "installed_version": str(installed or 0),
            "latest_version": str(latest or installed or 0),
            "title": title[:STATE_CHARACTERS],
        }
        self._state(Publication(BY_NAME[_VERSION], self._topics[_VERSION], _json(told)))

    def call(self, name: str) -> None:
        """What people call the device now."""
        if name != self._name:
            self._name = name
            self._announce()

    def follow_versions(self, on: bool) -> None:
        """Whether there are versions to tell of; the policy of a class set can change."""
        if on == (_VERSION in self._wanted):
            return
        if on:
            self._wanted[_VERSION] = _PLATFORMS[_VERSION]
        else:
            del self._wanted[_VERSION]
            self._states.pop(self._topics[_VERSION], None)
        self._announce()

    def hear(self, topic: str, payload: bytes) -> bool:
        """A message of the subscriptions: Home Assistant came up and must be told again.

        Returns:
            Whether it was ours.
        """
        if topic not in self.subscriptions:
            return False
        if payload == b"online":
            self._announce()
            self._due.update(self._states)
        return True

    def reconnected(self) -> None:
        """The connection is new: what was handed out may be lost."""
        self._due = {**self._refused, **self._waiting, **self._due}
        self._waiting.clear()
        self._refused.clear()

    def due(self) -> list[Publication]:
        """What is to be published now, each with QoS 1, in this order."""
        found = list(self._due.values())
        self._waiting.update(self._due)
        self._due.clear()
        return found

    @property
    def is_settled(self) -> bool:
        """Nothing is to be published, and the broker has answered all that was."""
        return not self._due and not self._waiting

    def refused(self, done: Publication) -> None:
        """The broker will not take it; said again with a new connection."""
        if self._waiting.get(done.topic) == done:
            del self._waiting[done.topic]
            self._refused[done.topic] = done

    def acknowledged(self, done: Publication) -> None:
        """The broker has it.

        Raises:
            StoreError: the ledger could not be written; nothing is lost but a later sweep.
        """
        if self._waiting.get(done.topic) != done:
            return
        del self._waiting[done.topic]
        if done.topic not in self._told:
            return
        if not done.payload:
            del self._told[done.topic]
            self._write()
        elif set(self._told[done.topic]) - set(self._wanted):
            self._told[done.topic] = dict(self._wanted)  # the removal was told; now without it
            self._write()
            self._announce()

    def _state(self, publication: Publication) -> None:
        if self._prefix and self._states.get(publication.topic) != publication:
            self._states[publication.topic] = publication
            self._due[publication.topic] = publication

    def _announce(self) -> None:
        current = self.topic if self._prefix else None
        if any(_VERSION in parts for parts in self._told.values()) and not (
            current and _VERSION in self._wanted
        ):  # first, so that the list still knows of it where this is interrupted
            topic = self._topics[_VERSION]
            self._due[topic] = Publication(BY_NAME[_VERSION], topic, b"")
        for topic in self._told:
            if topic != current:
                self._due[topic] = Publication(ANNOUNCEMENT, topic, b"")
        if current is None:
            return
        gone = {
            key: platform
            for key, platform in self._told.get(current, {}).items()
            if key not in self._wanted
        }
        if self._told.get(current) != {**self._wanted, **gone}:
            self._told[current] = {**self._wanted, **gone}
            self._write()
        self._due[current] = Publication(ANNOUNCEMENT, current, _json(self._config(gone)))

    def _config(self, gone: Mapping[str, str]) -> dict[str, Any]:
        components: dict[str, dict[str, Any]] = {
            _ANSWER: {
                "platform": _PLATFORMS[_ANSWER],
                "unique_id": f"accrue_{self._device}_answer",
                "name": "Answer",
                "icon": "mdi:shape",
                "state_topic": self._topics[_ANSWER],
                "value_template": "{{ value_json.label }}",
                "json_attributes_topic": self._topics[_ANSWER],
                "json_attributes_template": "{{ {'verdict': value_json.verdict} | tojson }}",
                "expire_after": ANSWER_EXPIRES_S,
            },
            _VERSION: {
                "platform": _PLATFORMS[_VERSION],
                "unique_id": f"accrue_{self._device}_version",
                "name": "Class set",
                "entity_category": "diagnostic",
                "state_topic": self._topics[_VERSION],
            },
        }
        removed = {key: {"platform": platform} for key, platform in gone.items()}
        return {
            "device": {
                "identifiers": [f"accrue_{self._device}"],
                "name": self._name[:STATE_CHARACTERS],
                "manufacturer": "Accrue",
                "model": f"device of fleet {self._fleet}",
                "serial_number": self._device,
                "sw_version": self._software,
            },
            "origin": {"name": "accrue", "sw_version": self._software},
            "availability": [
                {
                    "topic": self._state_topic,
                    "value_template": (
                        "{{ 'online' if value_json.state == 'ready' else 'offline' }}"
                    ),
                }
            ],
            "qos": 1,
            "components": {**{key: components[key] for key in self._wanted}, **removed},
        }

    def _write(self) -> None:
        write_atomically(self._ledger, [_json({"version": 1, "topics": self._told}), b"\n"])


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _read(ledger: Path) -> dict[str, dict[str, str]]:
    """Topics that were announced. One that cannot be read is set aside: what it listed can no
    longer be swept, which costs a ghost in Home Assistant, not what was learned."""
    try:
        if ledger.stat().st_size > LARGEST_LEDGER_BYTES:
            raise ValueError
        topics = json.loads(ledger.read_bytes())["topics"]
        if not all(
            isinstance(topic, str)
            and isinstance(parts, dict)
            and all(isinstance(word, str) for pair in parts.items() for word in pair)
            and re.fullmatch(rf"{PREFIX.pattern}/device/[a-z0-9]+/accrue-[a-z0-9-]+/config", topic)
            for topic, parts in topics.items()
        ):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        ledger.replace(ledger.with_name(f"{ledger.name}.unreadable"))
        return {}
    return dict(topics)
