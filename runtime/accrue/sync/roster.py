"""Who belongs to a fleet, signed by its owner, and what follows for what a device says.

A roster has a version, which only rises. A device keeps the newest that it has seen and refuses
an older one, so nobody can bring a revoked device back by repeating an old message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from accrue.errors import Conflict, FormatError, NotFound, Rejected, UsageError
from accrue.store.names import shown
from accrue.sync.content import Pointer, fields, malformed, pack, unpack
from accrue.sync.identity import DEVICE_ID, FLEET_ID, KEY_BYTES, hex_key
from accrue.sync.signed import open_sealed, seal
from accrue.sync.trust import Reason

FORMAT = "roster/1"
LARGEST_STAMP = 2**63 - 1
NAME_LIMIT = 64  # characters
KEY_LIMIT = 32  # keys of one device; the oldest are of no use by then
DEVICE_LIMIT = 100_000
POLICIES = ("open", "curated")
ROLES = ("device", "relay")

Policy = Literal["open", "curated"]


@dataclass(frozen=True)
class KeyWindow:
    """A public key and the revisions that it may sign, both ends included."""

    key: bytes
    from_stamp: int = 0
    until_stamp: int | None = None

    def covers(self, stamp: int) -> bool:
        return self.from_stamp <= stamp and (self.until_stamp is None or stamp <= self.until_stamp)


@dataclass(frozen=True)
class Member:
    """A device of the fleet.

    Attributes:
        name: for people. role: what it is there for.
        revoked: what it says with a later revision is refused. forgotten: and so is what it said
            up to this one.
    """

    name: str
    keys: tuple[KeyWindow, ...]
    role: str = "device"
    revoked: int | None = None
    forgotten: int | None = None

    @property
    def public(self) -> bytes:
        """The newest key."""
        return self.keys[-1].key

    def to_body(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "keys": [[w.key.hex(), w.from_stamp, w.until_stamp] for w in self.keys],
            "role": self.role,
            "revoked": self.revoked,
            "forgotten": self.forgotten,
        }

    @classmethod
    def from_body(cls, body: Any) -> Member:
        found = fields(
            body, "device in a roster", name=str, keys=list, role=str, revoked=None, forgotten=None
        )
        windows = []
        for entry in found["keys"]:
            if not isinstance(entry, list) or len(entry) != 3:
                raise malformed("key in a roster", "key, first and last stamp")
            key, first, last = entry
            if not _is_stamp(first) or not (last is None or _is_stamp(last)):
                raise malformed("key in a roster", "stamps")
            windows.append(KeyWindow(_key(key), first, last))
        if not 1 <= len(windows) <= KEY_LIMIT or not 1 <= len(found["name"]) <= NAME_LIMIT:
            raise malformed("device in a roster", f"a name and 1 to {KEY_LIMIT} keys")
        for name in ("revoked", "forgotten"):
            if not (found[name] is None or _is_stamp(found[name])):
                raise malformed(f"device in a roster, {name}", "a stamp or null")
        if found["role"] not in ROLES:
            raise malformed("device in a roster, role", " or ".join(ROLES))
        return cls(
            found["name"], tuple(windows), found["role"], found["revoked"], found["forgotten"]
        )


@dataclass(frozen=True)
class Roster:
    """All that the owner says of who may do what; `devices` by id, `sets` by class set."""

    fleet: str
    version: int
    owner: bytes
    devices: Mapping[str, Member] = field(default_factory=dict)
    sets: Mapping[str, Policy] = field(default_factory=dict)

    def policy(self, class_set: str) -> Policy:
        return self.sets.get(class_set, "open")

    def member(self, device: str) -> Member:
        """Raises NotFound."""
        if device not in self.devices:
            raise NotFound(
                f"no device {shown(device)} in the roster of fleet {self.fleet}",
                hint="see: accrue-fleet roster show",
                found=device,
            )
        return self.devices[device]

    def find(self, name_or_id: str) -> str:
        """The id of a device by its name or id. Raises NotFound, Conflict where two bear it."""
        if name_or_id in self.devices:
            return name_or_id
        found = [device for device, member in self.devices.items() if member.name == name_or_id]
        if len(found) > 1:
            raise Conflict(
                f"{len(found)} devices are called {shown(name_or_id)}: {', '.join(sorted(found))}",
                hint="give the id",
                found=name_or_id,
            )
        if not found:
            self.member(name_or_id)
        return found[0]

    # ---- the next version -----------------------------------------------------------------------

    def with_device(self, device: str, member: Member | None) -> Roster:
        """The next version, with this device as given; None: without it."""
        return self.with_devices({device: member})

    def with_devices(self, members: Mapping[str, Member | None]) -> Roster:
        """As `with_device`, many at once: one next version."""
        devices = {key: value for key, value in self.devices.items() if key not in members}
        devices |= {key: value for key, value in members.items() if value is not None}
        return replace(self, version=self.version + 1, devices=devices)

    def with_policy(self, class_set: str, policy: Policy | None) -> Roster:
        sets = {key: value for key, value in self.sets.items() if key != class_set}
        if policy is not None:
            sets[class_set] = policy
        return replace(self, version=self.version + 1, sets=sets)

    # ---- bytes ----------------------------------------------------------------------------------

    def to_body(self) -> dict[str, Any]:
        return {
            "accrue": FORMAT,
            "fleet": self.fleet,
            "version": self.version,
            "owner": self.owner.hex(),
            "devices": {key: member.to_body() for key, member in self.devices.items()},
            "sets": dict(self.sets),
        }

    @classmethod
    def from_body(cls, body: Any) -> Roster:
        """Raises Rejected."""
        found = fields(
            body,
            "roster",
            accrue=str,
            fleet=str,
            version=int,
            owner=str,
            devices=dict,
            sets=dict,
        )
        if found["accrue"] != FORMAT:
            raise malformed("roster, accrue", FORMAT)
        if not FLEET_ID.fullmatch(found["fleet"]) or not 1 <= found["version"] <= LARGEST_STAMP:
            raise malformed("roster", "a fleet id and a version of 1 or more")
        if len(found["devices"]) > DEVICE_LIMIT:
            raise malformed("roster, devices", f"at most {DEVICE_LIMIT:,}")
        for device in found["devices"]:
            if not DEVICE_ID.fullmatch(device):
                raise malformed("roster, devices", "device ids of 12 characters")
        if any(policy not in POLICIES for policy in found["sets"].values()):
            raise malformed("roster, sets", " or ".join(POLICIES))
        return cls(
            found["fleet"],
            found["version"],
            _key(found["owner"]),
            {key: Member.from_body(member) for key, member in found["devices"].items()},
            found["sets"],
        )

    def sealed(self, owner: Ed25519PrivateKey) -> tuple[bytes, bytes]:
        """(signed head, content)."""
        content = pack(self.to_body())
        head = {
            "accrue": FORMAT,
            "fleet": self.fleet,
            "version": self.version,
            **Pointer.to(content).to_body(),
        }
        return seal("roster", head, owner), content


@dataclass(frozen=True)
class RosterHead:
    """What the signed message says of the roster: where its content is."""

    fleet: str
    version: int
    content: Pointer

    @classmethod
    def open(cls, envelope: bytes, owner: bytes) -> RosterHead:
        """Raises Rejected: `forged` where this is not what the owner signed."""
        body = open_sealed("roster", envelope, Ed25519PublicKey.from_public_bytes(owner))
        found = fields(body, "roster", accrue=str, fleet=str, version=int, sha256=str, bytes=int)
        if found["accrue"] != FORMAT or not 1 <= found["version"] <= LARGEST_STAMP:
            raise malformed("roster", f"{FORMAT} and a version of 1 or more")
        pointer = Pointer.from_body({"sha256": found["sha256"], "bytes": found["bytes"]})
        return cls(found["fleet"], found["version"], pointer)


def open_roster(head: bytes, content: bytes, owner: bytes, fleet: str | None = None) -> Roster:
    """The roster that the owner of this fleet signed.

    Raises:
        Rejected: `forged`, `malformed`, `oversized`, or `wrong-scope` where it is of another fleet.
    """
    opened = RosterHead.open(head, owner)
    roster = Roster.from_body(unpack(content, opened.content))
    if (roster.fleet, roster.version, roster.owner) != (opened.fleet, opened.version, owner):
        raise Rejected("roster whose content is not what its head says", reason="forged")
    if fleet is not None and roster.fleet != fleet:
        raise Rejected(
            f"roster of fleet {roster.fleet}; expected {fleet}",
            reason="wrong-scope",
            found=roster.fleet,
            expected=fleet,
        )
    return roster


class RosterTrust:
    """The rule by which what a device says is taken or refused. `roster` None: nobody is known."""

    def __init__(self, roster: Roster | None = None) -> None:
        self.roster = roster
        self._keys: dict[bytes, Ed25519PublicKey] = {}

    @property
    def version(self) -> int:
        return 0 if self.roster is None else self.roster.version

    def renew(self, roster: Roster) -> bool:
        """Takes a newer roster; whether it did.

        Raises:
            Rejected: `replayed`, an older one; `forged`, another one of the same version.
        """
        if self.roster is not None:
            if roster.version < self.roster.version:
                raise Rejected(
                    f"roster of version {roster.version}; version {self.roster.version} was seen",
                    reason="replayed",
                    found=roster.version,
                    expected=self.roster.version,
                )
            if roster.version == self.roster.version:
                if roster != self.roster:
                    raise Rejected(
                        f"two rosters of version {roster.version}",
                        hint="the owner's folder was put back from a backup, or its key is "
                        "known to others: ask the owner",
                        reason="forged",
                    )
                return False
        self.roster = roster
        return True

    def verify(
        self, device: str, revision: int, signature: bytes, signed_bytes: bytes
    ) -> Reason | None:
        """None, or the reason to refuse it: `unknown-device`, `revoked` or `forged`."""
        member = None if self.roster is None else self.roster.devices.get(device)
        if member is None:
            return "unknown-device"
        if member.forgotten is not None and revision <= member.forgotten:
            return "revoked"
        if member.revoked is not None and revision > member.revoked:
            return "revoked"
        for window in reversed(member.keys):
            if window.covers(revision):
                try:
                    self._public(window.key).verify(signature, signed_bytes)
                except InvalidSignature:
                    continue
                return None
        return "forged"

    def _public(self, key: bytes) -> Ed25519PublicKey:
        if key not in self._keys:
            self._keys[key] = Ed25519PublicKey.from_public_bytes(key)
        return self._keys[key]


# ---- what an owner does to a device -------------------------------------------------------------


def rotated(member: Member, key: bytes, from_stamp: int, until_stamp: int) -> Member:
    """With a new key from one stamp on; the older ones until another, so that both overlap.

    Raises:
        Conflict: the key is there already.
    """
    if any(window.key == key for window in member.keys):
        raise Conflict(f"device {shown(member.name)} has that key already")
    ended = [
        replace(window, until_stamp=until_stamp)
        if window.until_stamp is None or window.until_stamp > until_stamp
        else window
        for window in member.keys
    ]
    kept = tuple(ended[-(KEY_LIMIT - 1) :])
    return replace(member, keys=(*kept, KeyWindow(key, from_stamp)))


def clean_device_name(name: str) -> str:
    """Raises UsageError where this is no name for a device."""
    clean = " ".join(name.split())
    if not (1 <= len(clean) <= NAME_LIMIT and clean.isprintable()):
        raise UsageError(
            f"device name {shown(clean)}; expected 1 to {NAME_LIMIT} characters of one line",
            hint="for example: dock-3",
            found=clean,
        )
    return clean


def _is_stamp(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_STAMP


def _key(value: Any) -> bytes:
    try:
        key = hex_key(value, "key")
    except FormatError:
        raise malformed("key", f"{KEY_BYTES} bytes in hex") from None
    return key
