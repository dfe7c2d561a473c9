"""A contribution: all that one device says about one class, and its strict parser.

docs/reference/merge.md says what it means, docs/reference/wire.md how it is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from accrue.errors import Rejected
from accrue.learn.statistics import LARGEST, MAX_DIM, ROW_LIMIT, Rows
from accrue.store.names import NAME_LIMIT, PROMPT_LIMIT
from accrue.sync.clock import COUNTER_BITS, STAMP_LIMIT
from accrue.sync.signed import canonical

FORMAT = "contribution/1"
PART_LIMIT_BYTES = 16 * 2**20  # packed
CONTENT_LIMIT_BYTES = 16 * 2**20  # of all parts of one contribution, packed
PARTS_LIMIT = 64
FACTS_LIMIT = 2_048
GONE_LIMIT = 2_048
KEY_LIMIT = 18 * NAME_LIMIT  # characters: what NFKC makes of one character at most
SUBJECTS = ("shot", "folded", "refusal", "name", "merged", "text", "kept", "label")
EVIDENCE = ("shot", "folded", "refusal")  # subjects with content in a part

PartKind = Literal["rows", "statistics"]
Value: TypeAlias = str | bool | tuple[str, str] | None

_DEVICE = re.compile(r"[0-9a-hjkmnp-tv-z]{12}")
_FLEET = re.compile(r"[a-z0-9-]{1,32}")
_CLASS_SET = re.compile(r"[a-z0-9_-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_CLASS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EVIDENCE_ID = re.compile(r"[a-z0-9-]{1,64}")
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


@dataclass(frozen=True)
class Scope:
    """What may be added up: contributions of one scope.

    Attributes:
        fleet: 1 to 32 of a-z, 0-9 and hyphen. class_set: 1 to 64 of these and underscore.
        space: the space id, 64 hex characters. dim: of its embeddings.
    """

    fleet: str
    class_set: str
    space: str
    dim: int

    def __post_init__(self) -> None:
        for value, pattern, what in (
            (self.fleet, _FLEET, "fleet id"),
            (self.class_set, _CLASS_SET, "class set"),
            (self.space, _HASH, "space id"),
        ):
            _require(type(value) is str and pattern.fullmatch(value), what, value)
        _integer(self.dim, 1, MAX_DIM, "dimension")

    @property
    def space16(self) -> str:
        """The space as topics have it: the first 16 characters."""
        return self.space[:16]


class Fact(NamedTuple):
    """What a device said about a subject, and when (a stamp of that device).

    `value` is a class id, text, true or false, (prompt, base64 of the vector) for a text,
    (class id, text) for a label, or None: taken away. docs/reference/merge.md has the table.
    """

    stamp: int
    value: Value


class Member(NamedTuple):
    """One shot, sum or refusal in a part; the owner's fact that it is of the contribution's class.

    Attributes:
        subject: shot/, folded/ or refusal/ with its id.
        n_rows: rows of it in the part. at_ms: unix milliseconds. stamp: of the fact.
    """

    subject: str
    n_rows: int
    at_ms: int
    stamp: int


@dataclass(frozen=True)
class Part:
    """A listed piece of content.

    Attributes:
        sha256: of the packed bytes, 64 hex characters. size: their number.
        kind: rows, of the members one after another; or statistics, of one member that is a sum.
    """

    sha256: str
    size: int
    kind: PartKind
    members: tuple[Member, ...]

    @cached_property
    def n_rows(self) -> int:
        return sum(member.n_rows for member in self.members)


class Content(NamedTuple):
    """Where the content of a member is: rows `start` to `start + n_rows` of the part, or all of it
    where `kind` is "statistics"."""

    owner: str
    sha256: str
    kind: PartKind
    start: int
    n_rows: int
    at_ms: int


class Claim(NamedTuple):
    """A fact with its author, the class that it is filed under and, of a member, the content.

    Of two claims on a subject the greater one wins: the first three fields never agree.
    """

    stamp: int
    device: str
    class_id: str
    value: Value
    content: Content | None


@dataclass(frozen=True)
class Contribution:
    """All that one device says about one class: a single-writer register.

    Attributes:
        scope: what it belongs to. device: who says it. class_id: about which class.
        revision: a stamp of the device, of which the highest replaces the others whole.
        facts: subject to fact. gone: device to stamp; the class was removed, and with it all that
            these devices had said about it up to then.
        parts: the evidence that the device owns.
    """

    scope: Scope
    device: str
    class_id: str
    revision: int
    facts: Mapping[str, Fact] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.device, self.class_id

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing any more; it must still be sent, to replace what it said."""
        return not (self.facts or self.gone or self.parts)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical body."""
        return hashlib.sha256(canonical(self.to_body())).digest()

    @cached_property
    def claims(self) -> Mapping[str, Claim]:
        """What it says, by subject: its facts and its members."""
        device, class_id = self.device, self.class_id
        found = {
            subject: Claim(fact.stamp, device, class_id, fact.value, None)
            for subject, fact in self.facts.items()
        }
        for part in self.parts:
            start = 0
            for subject, n_rows, at_ms, stamp in part.members:
                content = Content(device, part.sha256, part.kind, start, n_rows, at_ms)
                found[subject] = Claim(stamp, device, class_id, class_id, content)
                start += n_rows
        return found

    def to_body(self) -> dict[str, Any]:
        """The object that is signed and sent."""
        return {
            "accrue": FORMAT,
            "fleet": self.scope.fleet,
            "set": self.scope.class_set,
            "space": self.scope.space,
            "dim": self.scope.dim,
            "device": self.device,
            "class": self.class_id,
            "revision": self.revision,
            "facts": {
                subject: [stamp, list(value) if isinstance(value, tuple) else value]
                for subject, (stamp, value) in self.facts.items()
            },
            "gone": dict(self.gone),
            "parts": [
                {
                    "sha256": part.sha256,
                    "bytes": part.size,
                    "kind": part.kind,
                    "members": [list(member) for member in part.members],
                }
                for part in self.parts
            ],
        }

    @classmethod
    def from_body(cls, obj: Any) -> Contribution:
        """Reads `to_body`, and checks everything that can be checked without the parts.

        Raises:
            Rejected: malformed, oversized, or not-finite for a text vector.
        """
        body = _table(obj, _BODY, "contribution")
        _require(body["accrue"] == FORMAT, "format", body["accrue"], FORMAT)
        scope = Scope(body["fleet"], body["set"], body["space"], body["dim"])
        device = _matched(body["device"], _DEVICE, "device id")
        class_id = _matched(body["class"], _CLASS, "class id")
        revision = _integer(body["revision"], 1, STAMP_LIMIT - 1, "revision")
        facts: dict[str, Fact] = {}
        for subject, pair in _table(body["facts"], None, "facts", FACTS_LIMIT).items():
            stamp, value = _listed(pair, 2, 2, "fact")
            facts[subject] = Fact(
                _integer(stamp, 1, revision, "stamp"), _value(subject, value, class_id, scope.dim)
            )
        gone = _table(body["gone"], None, "gone", GONE_LIMIT)
        for covered, stamp in gone.items():
            _matched(covered, _DEVICE, "device id")
            _integer(stamp, 1, revision, "stamp")
        parts = tuple(
            _part(part, revision)
            for part in _listed(body["parts"], 0, PARTS_LIMIT, "list of parts")
        )
        size = sum(part.size for part in parts)
        if size > CONTENT_LIMIT_BYTES:
            raise Rejected(
                f"contribution with {size:,} bytes of parts; at most {CONTENT_LIMIT_BYTES:,}",
                reason="oversized",
                found=size,
                expected=CONTENT_LIMIT_BYTES,
            )
        subjects = [*facts, *(m.subject for part in parts for m in part.members)]
        _require(len(set(subjects)) == len(subjects), "subject", "one that is there twice", "once")
        return cls(scope, device, class_id, revision, facts, gone, parts)


_HEAD = ["accrue", "fleet", "set", "space", "dim", "device", "class", "revision"]
_BODY = frozenset([*_HEAD, "facts", "gone", "parts"])
_PART = frozenset(["sha256", "bytes", "kind", "members"])


def text_value(prompt: str, vector: Rows) -> tuple[str, str]:
    """The value of a `text/` fact. ``vector`` is int16 (dim,)."""
    return prompt, base64.b64encode(vector.astype("<i2").tobytes()).decode()


def text_vector(value: Value) -> Rows:
    """The int16 (dim,) vector of the value of a `text/` fact."""
    _, packed = cast(tuple[str, str], value)
    return np.frombuffer(base64.b64decode(packed), "<i2").astype(np.int16)


def is_device_id(text: str) -> bool:
    return _DEVICE.fullmatch(text) is not None


def is_class_id(text: str) -> bool:
    return _CLASS.fullmatch(text) is not None


def is_hash(text: str) -> bool:
    """Whether this is a SHA-256 or a space id: 64 lower-case hex characters."""
    return _HASH.fullmatch(text) is not None


def _part(obj: Any, revision: int) -> Part:
    part = _table(obj, _PART, "part")
    sha256 = _matched(part["sha256"], _HASH, "SHA-256")
    size = part["bytes"]
    if type(size) is int and size > PART_LIMIT_BYTES:
        raise Rejected(
            f"part of {size:,} bytes; at most {PART_LIMIT_BYTES:,}",
            reason="oversized",
            found=size,
            expected=PART_LIMIT_BYTES,
        )
    _integer(size, 1, PART_LIMIT_BYTES, "size of a part")
    kind = part["kind"]
    _require(kind in ("rows", "statistics"), "kind of part", kind, "rows or statistics")
    members = []
    for obj in _listed(part["members"], 1, None, "part"):
        subject, n_rows, at_ms, stamp = _listed(obj, 4, 4, "member")
        group, _, name = _subject(subject)
        _require(group in EVIDENCE, "member", subject, "a shot, a sum or a refusal")
        _matched(name, _EVIDENCE_ID, "id")
        _require(kind == "rows" or group == "folded", "member of statistics", subject, "a sum")
        members.append(
            Member(
                subject,
                _integer(n_rows, 1, ROW_LIMIT, "rows"),
                _integer(at_ms, 0, (STAMP_LIMIT >> COUNTER_BITS) - 1, "time"),
                _integer(stamp, 1, revision, "stamp"),
            )
        )
    _require(kind == "rows" or len(members) == 1, "members of statistics", len(members), 1)
    found = Part(sha256, size, kind, tuple(members))
    _integer(found.n_rows, 1, ROW_LIMIT, "rows of a part")
    return found


def _subject(subject: Any) -> tuple[str, str, str]:
    _require(type(subject) is str, "subject", subject, "text")
    return cast(tuple[str, str, str], subject.partition("/"))


def _value(subject: str, value: Any, class_id: str, dim: int) -> Value:
    """The checked value of a fact that is filed under `class_id`."""
    group, _, name = _subject(subject)
    if group in EVIDENCE:
        _matched(name, _EVIDENCE_ID, "id")
        _require(value in (class_id, None), subject, value, class_id)
        return cast(Value, value)
    if group == "label":
        _line(name, KEY_LIMIT, "key of a label")
        if value is None:
            return None
        target, text = _listed(value, 2, 2, "label")
        _require(target == class_id, subject, target, class_id)
        return target, _line(text, NAME_LIMIT, "name")
    _require(group in SUBJECTS, "subject", subject, ", ".join(SUBJECTS))
    _require(name == class_id, "subject", subject, f"{group}/{class_id}")
    if value is None:
        return None
    if group == "kept":
        _require(type(value) is bool, subject, value, "true or false")
        return cast(bool, value)
    if group == "name":
        return _line(value, NAME_LIMIT, "name")
    if group == "merged":
        target = _matched(value, _CLASS, "class id")
        _require(target != class_id, subject, target, "another class")
        return target
    prompt, packed = _listed(value, 2, 2, "text")
    _line(prompt, PROMPT_LIMIT, "prompt")
    _require_vector(packed, dim)
    return prompt, packed


def _require_vector(packed: Any, dim: int) -> None:
    _require(type(packed) is str, "vector", packed, "base64")
    try:
        data = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected(f"vector that is not base64: {error}", reason="malformed") from error
    _require(base64.b64encode(data).decode() == packed, "vector", packed, "canonical base64")
    _require(len(data) == 2 * dim, "bytes of a vector", len(data), 2 * dim)
    vector = np.frombuffer(data, "<i2")
    if vector.min() < -LARGEST or not vector.any():
        raise Rejected("vector with -32768 in it, or of length zero", reason="not-finite")


def _line(text: Any, limit: int, what: str) -> str:
    """Text of one line. Only what no version of Unicode changes is checked."""
    _require(type(text) is str and text != "", what, text, "text")
    if len(text) > limit:
        raise Rejected(
            f"{what} of {len(text):,} characters; at most {limit:,}",
            reason="oversized",
            found=len(text),
            expected=limit,
        )
    printable = text.isprintable() or not any(
        unicodedata.category(character) in _UNPRINTABLE for character in text
    )
    _require(printable, what, text, "one line that can be printed")
    return cast(str, text)


def _table(obj: Any, keys: frozenset[str] | None, what: str, limit: int = 0) -> dict[str, Any]:
    _require(type(obj) is dict, what, obj, "an object")
    if keys is not None:
        _require(obj.keys() == keys, f"keys of a {what}", sorted(obj), sorted(keys))
    elif len(obj) > limit:
        raise Rejected(
            f"{what} with {len(obj):,} entries; at most {limit:,}",
            reason="oversized",
            found=len(obj),
            expected=limit,
        )
    return cast(dict[str, Any], obj)


def _listed(obj: Any, least: int, most: int | None, what: str) -> list[Any]:
    _require(type(obj) is list, what, obj, "a list")
    _require(len(obj) >= least, f"entries of a {what}", len(obj), f"{least} or more")
    if most is not None and len(obj) > most:
        raise Rejected(
            f"{what} of {len(obj):,} entries; at most {most:,}",
            reason="malformed" if most == least else "oversized",
            found=len(obj),
            expected=most,
        )
    return cast(list[Any], obj)


def _matched(value: Any, pattern: re.Pattern[str], what: str) -> str:
    _require(type(value) is str and pattern.fullmatch(value), what, value)
    return cast(str, value)


def _integer(value: Any, least: int, most: int, what: str) -> int:
    _require(type(value) is int and least <= value <= most, what, value, f"{least} to {most}")
    return cast(int, value)


def _require(holds: object, what: str, found: object, expected: object = "") -> None:
    if not holds:
        shown = ascii(found)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        said = f"; expected {ascii(expected) if isinstance(expected, list) else expected}"
        raise Rejected(
            f"{what} {shown}{said if expected != '' else ' does not have its form'}",
            reason="malformed",
        )
