"""What a curated class set holds, as its owner signed it, and what is about to come.

Two layers. The *content* lists, class by class, which revision of which device counts, and what
else was considered. The *head* is the small retained message: it says which content is in force,
and during a canary which one a share of the devices takes instead. Heads are numbered by `version`,
which only rises: to roll back is to sign a new head that points at an older content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from accrue.errors import Rejected, UsageError
from accrue.sync.content import Pointer, fields, malformed, pack, unpack
from accrue.sync.identity import DEVICE_ID
from accrue.sync.signed import open_sealed, seal

FORMAT = "manifest/1"
COMING = "coming/1"
CLASS_LIMIT = 65_536
REMARK_LIMIT = 500  # characters
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Listed:
    """One contribution that counts: its author, its revision, the digest of its signed bytes."""

    device: str
    revision: int
    sha256: str


@dataclass(frozen=True)
class ListedClass:
    """One class: where the parcel with its contributions is, and which they are."""

    parcel: Pointer
    entries: tuple[Listed, ...]


@dataclass(frozen=True)
class Remark:
    """What the owner said to a contribution; `taken` is whether it was approved."""

    device: str
    class_id: str
    revision: int
    taken: bool
    text: str


@dataclass(frozen=True)
class Manifest:
    """The content.

    Attributes:
        number: counts the contents of a set, from 1.
        classes: by class id.
        considered: (device, class id) -> the revision up to which the owner has looked. What a
            device has said later is its draft.
        remarks: to what was decided for this number.
        previous: the number that it was made from; 0: none.
        note: what the owner says of it.
    """

    fleet: str
    class_set: str
    space: str
    dim: int
    number: int
    classes: Mapping[str, ListedClass] = field(default_factory=dict)
    considered: Mapping[tuple[str, str], int] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    previous: int = 0
    note: str = ""

    def entries(self) -> dict[tuple[str, str], Listed]:
        """(device, class id) -> what is listed of it."""
        return {
            (entry.device, class_id): entry
            for class_id, listed in self.classes.items()
            for entry in listed.entries
        }

    def packed(self) -> bytes:
        return pack(
            {
                "accrue": FORMAT,
                "fleet": self.fleet,
                "set": self.class_set,
                "space": self.space,
                "dim": self.dim,
                "number": self.number,
                "classes": {
                    class_id: [
                        listed.parcel.sha256,
                        listed.parcel.size,
                        [[e.device, e.revision, e.sha256] for e in listed.entries],
                    ]
                    for class_id, listed in self.classes.items()
                },
                "considered": [
                    [device, class_id, revision]
                    for (device, class_id), revision in sorted(self.considered.items())
                ],
                "remarks": [
                    [r.device, r.class_id, r.revision, r.taken, r.text] for r in self.remarks
                ],
                "previous": self.previous,
                "note": self.note,
            }
        )

    @classmethod
    def open(cls, data: bytes, head: ManifestHead, pointer: Pointer) -> Manifest:
        """The content that a head points at. Raises Rejected."""
        body = fields(
            unpack(data, pointer),
            "manifest",
            accrue=str,
            fleet=str,
            set=str,
            space=str,
            dim=int,
            number=int,
            classes=dict,
            considered=list,
            remarks=list,
            previous=int,
            note=str,
        )
        if body["accrue"] != FORMAT or not 1 <= body["number"] <= _LARGEST:
            raise malformed("manifest", f"{FORMAT} and a number of 1 or more")
        if (body["fleet"], body["set"], body["space"], body["dim"]) != head.scope:
            raise Rejected("manifest whose content is of another set", reason="wrong-scope")
        if len(body["classes"]) > CLASS_LIMIT or len(body["note"]) > REMARK_LIMIT:
            raise malformed("manifest", f"at most {CLASS_LIMIT:,} classes")
        considered: dict[tuple[str, str], int] = {}
        for device, class_id, revision in _rows(body["considered"], 3, "considered"):
            considered[_device(device), _text(class_id)] = _revision(revision)
        remarks = []
        for device, class_id, revision, taken, text in _rows(body["remarks"], 5, "remarks"):
            if type(taken) is not bool or len(_text(text)) > REMARK_LIMIT:
                raise malformed("manifest, remarks", f"at most {REMARK_LIMIT} characters")
            remarks.append(
                Remark(_device(device), _text(class_id), _revision(revision), taken, text)
            )
        return cls(
            *head.scope,
            body["number"],
            {_text(key): _listed_class(value) for key, value in body["classes"].items()},
            considered,
            tuple(remarks),
            body["previous"],
            body["note"],
        )


def _listed_class(value: Any) -> ListedClass:
    if not isinstance(value, list) or len(value) != 3:
        raise malformed("manifest, classes", "digest, length and entries")
    digest, length, entries = value
    pointer = Pointer.from_body({"sha256": digest, "bytes": length})
    return ListedClass(
        pointer,
        tuple(
            Listed(_device(device), _revision(revision), _text(sha256))
            for device, revision, sha256 in _rows(entries, 3, "entries")
        ),
    )


@dataclass(frozen=True)
class Version:
    """A content by its number, and where it is."""

    number: int
    content: Pointer

    def to_body(self) -> dict[str, Any]:
        return {"number": self.number, **self.content.to_body()}

    @classmethod
    def from_body(cls, body: Any) -> Version:
        found = fields(body, "version of a manifest", number=int, sha256=str, bytes=int)
        if not 1 <= found["number"] <= _LARGEST:
            raise malformed("manifest, number", "1 or more")
        return cls(
            found["number"],
            Pointer.from_body({"sha256": found["sha256"], "bytes": found["bytes"]}),
        )


@dataclass(frozen=True)
class Canary:
    """A share of the devices, chosen by their ids and a salt, that takes another content."""

    percent: int
    salt: str
    version: Version

    def chooses(self, device: str) -> bool:
        """Whether a device is one of them: always the same ones for the same salt."""
        digest = hashlib.sha256(f"{self.salt}\0{device}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * 100 < self.percent << 64


@dataclass(frozen=True)
class ManifestHead:
    """The signed, retained message. `stable` is None where a canary is the first content."""

    fleet: str
    class_set: str
    space: str
    dim: int
    version: int
    stable: Version | None
    canary: Canary | None = None

    @property
    def scope(self) -> tuple[str, str, str, int]:
        return self.fleet, self.class_set, self.space, self.dim

    def version_for(self, device: str) -> Version | None:
        """Which content this device is to take."""
        if self.canary is not None and self.canary.chooses(device):
            return self.canary.version
        return self.stable

    def sealed(self, owner: Ed25519PrivateKey) -> bytes:
        canary = self.canary
        return seal(
            "manifest",
            {
                "accrue": FORMAT,
                "fleet": self.fleet,
                "set": self.class_set,
                "space": self.space,
                "dim": self.dim,
                "version": self.version,
                "stable": self.stable and self.stable.to_body(),
                "canary": canary
                and {
                    "percent": canary.percent,
                    "salt": canary.salt,
                    "version": canary.version.to_body(),
                },
            },
            owner,
        )

    @classmethod
    def open(cls, envelope: bytes, owner: bytes) -> ManifestHead:
        """Raises Rejected: `forged` where this is not what the owner signed."""
        found = fields(
            open_sealed("manifest", envelope, Ed25519PublicKey.from_public_bytes(owner)),
            "manifest",
            accrue=str,
            fleet=str,
            set=str,
            space=str,
            dim=int,
            version=int,
            stable=None,
            canary=None,
        )
        if found["accrue"] != FORMAT or not 1 <= found["version"] <= _LARGEST:
            raise malformed("manifest", f"{FORMAT} and a version of 1 or more")
        canary = None
        if found["canary"] is not None:
            body = fields(found["canary"], "canary", percent=int, salt=str, version=None)
            if not 0 <= body["percent"] <= 100 or len(body["salt"]) > 64:
                raise malformed("canary", "0 to 100 percent and a salt")
            canary = Canary(body["percent"], body["salt"], Version.from_body(body["version"]))
        return cls(
            found["fleet"],
            found["set"],
            found["space"],
            found["dim"],
            found["version"],
            None if found["stable"] is None else Version.from_body(found["stable"]),
            canary,
        )


@dataclass(frozen=True)
class Coming:
    """That a class set will be served from another embedding space too, so devices can prepare.

    `bundle` is the SHA-256 of the encoder bundle's manifest, and `note` where to get it, in words:
    an encoder or an engine never comes over the broker.
    """

    fleet: str
    class_set: str
    space: str
    dim: int
    bundle: str
    note: str
    version: int

    def sealed(self, owner: Ed25519PrivateKey) -> bytes:
        return seal(
            "manifest",
            {
                "accrue": COMING,
                "fleet": self.fleet,
                "set": self.class_set,
                "space": self.space,
                "dim": self.dim,
                "bundle": self.bundle,
                "note": self.note,
                "version": self.version,
            },
            owner,
        )

    @classmethod
    def open(cls, envelope: bytes, owner: bytes) -> Coming:
        """Raises Rejected."""
        found = fields(
            open_sealed("manifest", envelope, Ed25519PublicKey.from_public_bytes(owner)),
            "announcement",
            accrue=str,
            fleet=str,
            set=str,
            space=str,
            dim=int,
            bundle=str,
            note=str,
            version=int,
        )
        if found["accrue"] != COMING or len(found["note"]) > REMARK_LIMIT:
            raise malformed("announcement", COMING)
        return cls(
            *(found[key] for key in ("fleet", "set", "space", "dim", "bundle", "note", "version"))
        )


def clean_remark(text: str) -> str:
    """Raises UsageError where it is too long or cannot be printed."""
    clean = " ".join(text.split())
    if len(clean) > REMARK_LIMIT or not (clean.isprintable() or not clean):
        raise UsageError(
            f"a remark of {len(clean):,} characters; expected at most {REMARK_LIMIT} that can be "
            "printed",
            hint="shorten it",
            found=len(clean),
            expected=REMARK_LIMIT,
        )
    return clean


def _rows(value: Any, width: int, what: str) -> list[list[Any]]:
    if not isinstance(value, list) or any(
        not isinstance(row, list) or len(row) != width for row in value
    ):
        raise malformed(f"manifest, {what}", f"rows of {width}")
    return value


def _device(value: Any) -> str:
    if not isinstance(value, str) or not DEVICE_ID.fullmatch(value):
        raise malformed("manifest", "device ids of 12 characters")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise malformed("manifest", "text")
    return value


def _revision(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise malformed("manifest", "revisions")
    return value
