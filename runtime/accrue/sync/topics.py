"""Every topic of a fleet in one table: who writes it, who reads it, how, and why.

`docs/reference/topics.md` shows this table, and the broker's access list is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ROOT = "accrue/v1"
MINUTE_S = 60
JSON, BINARY = "application/json", "application/octet-stream"

Role = Literal["device", "owner", "relay", "home", "joining"]
ROLES: tuple[Role, ...] = ("device", "owner", "relay", "home", "joining")
EVERYONE: tuple[Role, ...] = ("device", "owner", "relay")

FIELDS = {
    "fleet": "[a-z0-9-]{1,32}",
    "device": "[0-9a-hjkmnp-tv-z]{12}",
    "set": "[a-z0-9_-]{1,64}",
    "space": "[0-9a-f]{16}",
    "class": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "sha256": "[0-9a-f]{64}",
    "chunk": "0|[1-9][0-9]{0,4}",
}
_CHECKS = {name: re.compile(pattern) for name, pattern in FIELDS.items()}


@dataclass(frozen=True)
class Topic:
    """One kind of message.

    Attributes:
        name: what the code calls it.
        path: below ``accrue/v1/<fleet>/``; a level in angle brackets is a field of `FIELDS`.
        writer: who may publish it. A device and a joining one only with its own id as <device>.
        readers: who may subscribe to it.
        why: in a sentence.
        content: the MQTT 5 content type.
        retain: the broker keeps the last one for whoever subscribes later.
        expiry_s: seconds after which the broker drops it; None: never.
    """

    name: str
    path: str
    writer: Role
    readers: tuple[Role, ...]
    why: str
    content: str = BINARY
    retain: bool = True
    expiry_s: int | None = None
    qos: int = 1


TOPICS = (
    Topic(
        "roster",
        "roster",
        "owner",
        EVERYONE,
        "Who belongs to the fleet and with which key: the signed head of the owner's list.",
    ),
    Topic(
        "manifest",
        "set/<set>/<space>/manifest",
        "owner",
        EVERYONE,
        "What a curated class set holds: the signed head of the owner's list of contributions.",
    ),
    Topic(
        "coming",
        "set/<set>/coming",
        "owner",
        EVERYONE,
        "Another embedding space is coming, so that devices can prepare. Never an engine.",
    ),
    Topic(
        "owner-data",
        "owner/data/<sha256>/<chunk>",
        "owner",
        EVERYONE,
        "Contents of the owner's documents, in chunks, found by their hash.",
    ),
    Topic(
        "state",
        "dev/<device>/state",
        "device",
        (*EVERYONE, "home"),
        "Birth, clean stop and last will of a device, with the number of its session.",
        content=JSON,
    ),
    Topic(
        "answer",
        "dev/<device>/answer",
        "device",
        ("home",),
        "What the camera shows now, for Home Assistant. Published only where that is switched on.",
        content=JSON,
        retain=False,
        expiry_s=5 * MINUTE_S,
    ),
    Topic(
        "version",
        "dev/<device>/version",
        "device",
        ("home",),
        "Installed and newest version of a curated class set, for Home Assistant.",
        content=JSON,
    ),
    Topic(
        "report",
        "dev/<device>/report",
        "device",
        EVERYONE,
        "What a device has installed, what it lacks and what it refused; signed.",
    ),
    Topic(
        "fence",
        "dev/<device>/fence",
        "device",
        ("device",),
        "A device sends it to itself: what the broker had retained has arrived before it.",
        retain=False,
        expiry_s=MINUTE_S,
    ),
    Topic(
        "class",
        "dev/<device>/class/<set>/<space>/<class>",
        "device",
        EVERYONE,
        "All that one device says about one class; signed. Small: it names its parts by hash.",
    ),
    Topic(
        "data",
        "dev/<device>/data/<set>/<space>/<sha256>/<chunk>",
        "device",
        EVERYONE,
        "A chunk of a part (rows or statistics). Fetched by who lacks it; cleared by its device "
        "when no contribution names it any more.",
    ),
    Topic(
        "batch",
        "batch/<set>/<space>",
        "relay",
        EVERYONE,
        "The contributions of a moment in one message, as their devices signed them.",
        retain=False,
        expiry_s=MINUTE_S,
    ),
    Topic(
        "relay-state",
        "relay/state",
        "relay",
        EVERYONE,
        "Whether a relay is at work, so that devices read batches in place of single messages.",
        content=JSON,
    ),
    Topic(
        "enrol-request",
        "enrol/<device>/request",
        "joining",
        ("owner",),
        "A device with an invitation asks to be let in.",
        retain=False,
        expiry_s=15 * MINUTE_S,
    ),
    Topic(
        "enrol-reply",
        "enrol/<device>/reply",
        "owner",
        ("joining",),
        "The owner's answer, sealed for that device.",
        retain=False,
        expiry_s=15 * MINUTE_S,
    ),
)
BY_NAME = {topic.name: topic for topic in TOPICS}
ANNOUNCEMENT = Topic(
    "announcement",
    "device/<device>/+/config",
    "device",
    ("home",),
    "A device tells Home Assistant of itself; below Home Assistant's prefix, not the fleet's.",
    content=JSON,
)
_SHAPES = {
    topic.name: [level.strip("<>") if level.startswith("<") else level for level in parts]
    for topic in TOPICS
    for parts in [topic.path.split("/")]
}
_FIELD_AT = {
    topic.name: [level.startswith("<") for level in topic.path.split("/")] for topic in TOPICS
}


@dataclass(frozen=True)
class Address:
    """A topic taken apart: its kind and its fields (those that it has not are empty)."""

    topic: Topic
    device: str = ""
    set: str = ""
    space: str = ""
    class_id: str = ""
    sha256: str = ""
    chunk: int = 0

    @property
    def name(self) -> str:
        return self.topic.name


class Topics:
    """The topics of one fleet: builds them, and takes apart what arrives.

    >>> topics = Topics("dock")
    >>> topics.path("state", device="0123456789ab")
    'accrue/v1/dock/dev/0123456789ab/state'
    >>> topics.filter("data", set="default")
    'accrue/v1/dock/dev/+/data/default/+/+/+'
    >>> topics.parse("accrue/v1/dock/dev/0123456789ab/state").device
    '0123456789ab'
    >>> topics.parse("accrue/v1/dock/dev/somebody/state") is None
    True
    """

    def __init__(self, fleet: str) -> None:
        """Raises ValueError where `fleet` does not fit ``[a-z0-9-]{1,32}``."""
        _check("fleet", fleet)
        self.fleet = fleet
        self.prefix = f"{ROOT}/{fleet}/"

    def path(self, name: str, **fields: str | int) -> str:
        """The topic with all of its fields; ``class_id`` is the field <class>.

        Raises:
            ValueError: a field is missing, too many or not of its form.
        """
        given = _named(fields)
        levels = []
        for level, is_field in zip(_SHAPES[name], _FIELD_AT[name], strict=True):
            if is_field:
                if level not in given:
                    raise ValueError(f"topic {name} needs <{level}>")
                level = _check(level, given.pop(level))
            levels.append(level)
        if given:
            raise ValueError(f"topic {name} has no <{'>, <'.join(given)}>")
        return self.prefix + "/".join(levels)

    def filter(self, name: str, **fields: str | int) -> str:
        """A subscription: as `path`, with ``+`` for the fields that are not given."""
        given = _named(fields)
        levels = []
        for level, is_field in zip(_SHAPES[name], _FIELD_AT[name], strict=True):
            if is_field:
                level = _check(level, given.pop(level)) if level in given else "+"
            levels.append(level)
        if given:
            raise ValueError(f"topic {name} has no <{'>, <'.join(given)}>")
        return self.prefix + "/".join(levels)

    def parse(self, topic: str) -> Address | None:
        """None for whatever is none of this fleet's topics."""
        if not topic.startswith(self.prefix) or len(topic) > 512:
            return None
        levels = topic[len(self.prefix) :].split("/")
        for name in _candidates(levels):
            fields = {}
            for level, field, is_field in zip(levels, _SHAPES[name], _FIELD_AT[name], strict=True):
                if is_field:
                    if not _CHECKS[field].fullmatch(level):
                        return None
                    fields[field] = level
                elif level != field:
                    break
            else:
                return Address(
                    BY_NAME[name],
                    device=fields.get("device", ""),
                    set=fields.get("set", ""),
                    space=fields.get("space", ""),
                    class_id=fields.get("class", ""),
                    sha256=fields.get("sha256", ""),
                    chunk=int(fields.get("chunk", 0)),
                )
        return None


def access(
    role: Role, fleet: str, user: str = "", home_assistant: str = ""
) -> Iterator[tuple[str, str]]:
    """What a role may do at the broker: ("read" | "write", topic filter).

    A device writes under its own id alone, which is its user name. The owner reads and writes all.
    For a joining device the field is left as ``%c``, the client id, which Mosquitto fills in.
    `home_assistant` is the discovery prefix of Home Assistant, where it is in use.
    """
    if home_assistant and role == "device":
        yield "write", f"{home_assistant}/{ANNOUNCEMENT.path}".replace("<device>", user)
        yield "read", f"{home_assistant}/status"
    if home_assistant and role == "home":
        yield "read", f"{home_assistant}/#"
        yield "write", f"{home_assistant}/status"
    if role == "owner":
        yield "read", f"{ROOT}/{fleet}/#"
        yield "write", f"{ROOT}/{fleet}/#"
        return
    own = "%c" if role == "joining" else user
    for topic in TOPICS:
        if role == topic.writer:
            mine = topic.path.replace("<device>", own or "+")
            yield "write", _wild(fleet, mine)
        if role in topic.readers:
            only_own = topic.name == "fence" or role == "joining"
            path = topic.path.replace("<device>", own) if only_own else topic.path
            yield "read", _wild(fleet, path)


def is_device_id(text: str) -> bool:
    return _CHECKS["device"].fullmatch(text) is not None


def _wild(fleet: str, path: str) -> str:
    return f"{ROOT}/{fleet}/" + re.sub("<[a-z0-9]+>", "+", path)


def _named(fields: dict[str, str | int]) -> dict[str, str]:
    return {("class" if key == "class_id" else key): str(v) for key, v in fields.items()}


def _check(field: str, value: str) -> str:
    if not _CHECKS[field].fullmatch(value):
        raise ValueError(f"{value!r} is no <{field}> of a topic: it must fit {FIELDS[field]}")
    return value


_BY_FORM: dict[tuple[str, int], list[str]] = {}
for _topic in TOPICS:
    _form = (_topic.path.split("/")[0], _topic.path.count("/") + 1)
    _BY_FORM.setdefault(_form, []).append(_topic.name)


def _candidates(levels: list[str]) -> list[str]:
    return _BY_FORM.get((levels[0], len(levels)), [])
