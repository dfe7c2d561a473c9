"""One message with the messages of many devices: what a relay sends and a device takes apart.

A batch carries original messages, byte for byte: signatures are checked by the reader as if each
had come by itself, so a relay needs no key and no trust. It can withhold, not forge.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accrue.errors import FormatError

_HEAD = struct.Struct("<4sB8sQI")  # magic, version, epoch, number, messages
_MESSAGE = struct.Struct("<HI")  # bytes of the topic, bytes of the payload
_MAGIC, _VERSION = b"ACCB", 1
LARGEST_TOPIC_BYTES = 1024

Message = tuple[str, bytes]  # topic below `accrue/v1/<fleet>/`, payload


@dataclass(frozen=True)
class Batch:
    """Attributes:
    epoch: 16 hex characters, drawn anew whenever a relay starts.
    number: counts up by one within an epoch; a gap means that something was missed.
    messages: (topic below the fleet's, payload), in the order in which the relay heard them.
    """

    epoch: str
    number: int
    messages: tuple[Message, ...]

    def to_bytes(self) -> bytes:
        parts = [
            _HEAD.pack(_MAGIC, _VERSION, bytes.fromhex(self.epoch), self.number, len(self.messages))
        ]
        for topic, payload in self.messages:
            name = topic.encode()
            parts += [_MESSAGE.pack(len(name), len(payload)), name, payload]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        """Reads `to_bytes`.

        Raises:
            FormatError: another magic or version, cut short, or longer than it says.
        """
        if len(data) < _HEAD.size:
            raise FormatError(f"batch of {len(data)} bytes; expected at least {_HEAD.size}")
        magic, version, epoch, number, count = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise FormatError(f"no batch of version {_VERSION}: it begins with {data[:5]!r}")
        return cls(epoch.hex(), number, tuple(_messages(data, count)))


def _messages(data: bytes, count: int) -> Iterator[Message]:
    at = _HEAD.size
    for _ in range(count):
        if at + _MESSAGE.size > len(data):
            raise FormatError(f"batch cut short at byte {len(data):,}")
        named, size = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        end = at + named + size
        if end > len(data):
            raise FormatError(f"batch cut short at byte {len(data):,}; expected {end:,}")
        if named > LARGEST_TOPIC_BYTES:
            raise FormatError(f"topic of {named} bytes in a batch")
        try:
            topic = data[at : at + named].decode()
        except UnicodeDecodeError:
            raise FormatError("a topic in a batch is not UTF-8") from None
        yield topic, data[at + named : end]
        at = end
    if at != len(data):
        raise FormatError(f"batch of {len(data):,} bytes; expected {at:,}")


def packed_bytes(topic: str, payload: bytes) -> int:
    """Bytes that a message takes within a batch."""
    return _MESSAGE.size + len(topic.encode()) + len(payload)


def divided(messages: Sequence[Message], limit: int) -> Iterator[tuple[Message, ...]]:
    """The messages in groups that fit in `limit` bytes as a batch; one that fits in none is left
    out: whoever sent it was held to the same limit, less the head."""
    group: list[Message] = []
    room = limit - _HEAD.size
    for topic, payload in messages:
        size = packed_bytes(topic, payload)
        if size > limit - _HEAD.size:
            continue
        if size > room:
            yield tuple(group)
            group, room = [], limit - _HEAD.size
        group.append((topic, payload))
        room -= size
    if group:
        yield tuple(group)


def read_state(payload: bytes) -> tuple[str, str, dict[str, int]]:
    """What `relay/state` says: epoch, state, and the number of the last batch of each set and
    space; ("", "", {}) where it says nothing that can be read."""
    try:
        found = json.loads(payload)
        epoch, state, last = found["epoch"], found["state"], found["last"]
        if not (
            type(epoch) is str
            and len(epoch) == 16
            and type(state) is str
            and all(type(n) is int for n in last.values())
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", "", {}
    return epoch, state, last
