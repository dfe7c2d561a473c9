"""Who this device is in a fleet: its id, its keys, and the fleet that it belongs to.

All of it is in one private folder, `<state>/fleet/` (0700, files 0600):

    identity.json    device id, signing keys, the key that secrets are sealed to
    membership.json  fleet, the owner's public key, the broker and the user name there
    password         of the broker's account
    ca.crt           whom the broker's certificate must come from
    roster           the newest roster that was accepted
    enrolled         digest of the enrolment that was taken up
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from accrue.errors import Conflict, FormatError, FutureVersion, NotFound, UsageError
from accrue.store.failures import translated
from accrue.store.files import STEPS, FileSteps, write_atomically
from accrue.store.names import shown

FOLDER = "fleet"
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32, lower case
DEVICE_ID = re.compile(rf"[{ALPHABET}]{{12}}")
FLEET_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
KEY_BYTES = 32
MQTT_TLS_PORT, MQTT_PORT = 8883, 1883
_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_IDENTITY, _MEMBERSHIP, _PASSWORD, _CA = "identity.json", "membership.json", "password", "ca.crt"
ENROLLED = "enrolled"
_LARGEST_FILE_BYTES = 1 << 20
_FORMAT = 1


def new_device_id() -> str:
    """12 characters of Crockford base32: 60 random bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(12))


def clean_fleet(fleet: str) -> str:
    """Raises UsageError where this is no fleet id."""
    if not FLEET_ID.fullmatch(fleet):
        raise UsageError(
            f"fleet {shown(fleet)}; expected 1 to 32 of a-z, 0-9 and -",
            hint="for example: plant-2",
            found=fleet,
        )
    return fleet


def fingerprint(public_key: bytes) -> str:
    """64 bits of a public key's SHA-256, for two people to compare: `1f0c-9a55-2f6d-0c9b`."""
    digest = hashlib.sha256(public_key).hexdigest()[:16]
    return "-".join(digest[i : i + 4] for i in range(0, 16, 4))


def hex_key(text: Any, what: str) -> bytes:
    """The 32 bytes of a key. Raises FormatError."""
    if not isinstance(text, str) or not _HEX_KEY.fullmatch(text):
        raise FormatError(f"{what}: expected 64 hex characters")
    return bytes.fromhex(text)


# ---- private files ------------------------------------------------------------------------------


def _create_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


PRIVATE = replace(STEPS, create=_create_private)


def write_private(path: Path, data: bytes, *, steps: FileSteps = PRIVATE) -> None:
    """Writes a file that its owner alone may read, whole or not at all; makes its folder, 0700."""
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, [data], steps=steps)


def read_file(path: Path, limit: int, *, missing: str, hint: str) -> bytes:
    """At most `limit` bytes of a file, and one more where it is larger.

    Raises:
        NotFound: there is none; its message is `missing`. StoreError: it cannot be read.
    """
    with translated(path):
        try:
            with path.open("rb") as file:
                # not more than there is: what is asked for is set aside before it is read
                size = os.fstat(file.fileno()).st_size
                return file.read(min(size, limit) + 1)
        except FileNotFoundError:
            raise NotFound(missing, hint=hint, path=str(path)) from None


def read_json(path: Path, what: str, hint: str) -> dict[str, Any]:
    """The object in a file of ours, of a format that this version reads.

    Raises:
        NotFound: no such file. FormatError: no object with `accrue` of this kind.
        FutureVersion: written by a newer Accrue.
    """
    kind = what.rpartition(" ")[2]
    data = read_file(path, _LARGEST_FILE_BYTES, missing=f"no {what} at {path}", hint=hint)
    try:
        if len(data) > _LARGEST_FILE_BYTES:
            raise ValueError("larger than 1 MiB")
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        name, _, version = str(found.get("accrue", "")).partition("/")
        if name != kind or not version.isascii() or not version.isdigit():
            raise ValueError(f'no "accrue": "{kind}/{_FORMAT}"')
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no {what}: {error}", hint=hint, path=str(path)) from None
    if int(version) > _FORMAT:
        raise FutureVersion(
            f"{path} is of format {version}; this Accrue reads up to {_FORMAT}",
            hint="update Accrue",
            path=str(path),
        )
    return found


def write_json(path: Path, kind: str, value: Mapping[str, Any]) -> None:
    text = json.dumps({"accrue": f"{kind}/{_FORMAT}", **value}, indent=2, sort_keys=True)
    write_private(path, text.encode() + b"\n")


# ---- identity -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldKey:
    """A signing key and the stamp that it is for, and what comes after."""

    private: Ed25519PrivateKey
    from_stamp: int

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()


@dataclass(frozen=True)
class Identity:
    """A device, in private: id and keys.

    Attributes:
        device: 12 characters, made once.
        keys: in use or used before, oldest first.
        box: what secrets for this device are sealed to.
        following: a key that was made but that the fleet's roster does not have yet.
    """

    device: str
    keys: tuple[HeldKey, ...]
    box: X25519PrivateKey
    following: HeldKey | None = None

    @classmethod
    def create(cls, device: str | None = None) -> Identity:
        key = HeldKey(Ed25519PrivateKey.generate(), 0)
        return cls(device or new_device_id(), (key,), X25519PrivateKey.generate())

    @property
    def key(self) -> Ed25519PrivateKey:
        return self.keys[-1].private

    @property
    def public(self) -> bytes:
        """The public signing key in use: 32 bytes."""
        return self.keys[-1].public

    @property
    def box_public(self) -> bytes:
        return self.box.public_key().public_bytes_raw()

    def key_at(self, stamp: int) -> Ed25519PrivateKey:
        """The newest key that is for this stamp."""
        return next(
            (held.private for held in reversed(self.keys) if held.from_stamp <= stamp),
            self.keys[0].private,
        )

    def with_following(self, stamp: int) -> Identity:
        """With a new key on its way into the roster; the one that waits already, if there is."""
        if self.following is not None:
            return self
        return replace(self, following=HeldKey(Ed25519PrivateKey.generate(), stamp))

    def settled(self, public_keys: frozenset[bytes]) -> Identity:
        """After a roster with these keys of this device: the waiting key is in use if it is there.

        A key that the roster has no longer is dropped, but the newest.
        """
        keys, following = self.keys, self.following
        if following is not None and following.public in public_keys:
            keys, following = (*keys, following), None
        kept = tuple(held for held in keys[:-1] if held.public in public_keys)
        return replace(self, keys=(*kept, keys[-1]), following=following)

    def to_body(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "keys": [_held(held) for held in self.keys],
            "following": self.following and _held(self.following),
            "box": self.box.private_bytes_raw().hex(),
        }

    @classmethod
    def from_body(cls, found: Any) -> Identity:
        """Raises KeyError, TypeError, ValueError or FormatError: this is no identity."""
        following = found["following"]
        identity = cls(
            found["device"],
            tuple(_read_held(held) for held in found["keys"]),
            X25519PrivateKey.from_private_bytes(hex_key(found["box"], "box")),
            following and _read_held(following),
        )
        if not DEVICE_ID.fullmatch(identity.device) or not identity.keys:
            raise ValueError("no device id or no key")
        return identity

    def save(self, folder: Path) -> None:
        write_json(folder / _IDENTITY, "identity", self.to_body())

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Raises NotFound, FormatError."""
        path = folder / _IDENTITY
        found = read_json(path, "device identity", "make one: accrue fleet identity")
        try:
            return cls.from_body(found)
        except (KeyError, TypeError, ValueError, FormatError) as error:
            raise FormatError(
                f"{path} is no device identity: {error}",
                hint="put it back from a backup, or remove the folder and join again",
                path=str(path),
            ) from None

    def replace(self, folder: Path) -> None:
        """Saves it in the place of another device's, which is set aside beside it."""
        if (folder / _IDENTITY).exists():
            present = Identity.load(folder)
            if present.device == self.device:
                return
            with translated(folder):
                (folder / _IDENTITY).rename(folder / f"identity-{present.device}.json")
        self.save(folder)

    @classmethod
    def load_or_create(cls, folder: Path) -> Identity:
        if (folder / _IDENTITY).exists():
            return cls.load(folder)
        identity = cls.create()
        identity.save(folder)
        return identity


def _held(held: HeldKey) -> dict[str, Any]:
    return {"seed": held.private.private_bytes_raw().hex(), "from": held.from_stamp}


def _read_held(found: Any) -> HeldKey:
    stamp = found["from"]
    if type(stamp) is not int or stamp < 0:
        raise ValueError("a key without a stamp")
    return HeldKey(Ed25519PrivateKey.from_private_bytes(hex_key(found["seed"], "key")), stamp)


# ---- membership ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and as whom to go there.

    Attributes:
        tls: whether the connection is encrypted. ca: certificates in PEM that the broker's must
            come from; empty: those of the system.
        password: kept apart from the rest, never printed.
    """

    host: str
    port: int
    tls: bool
    user: str
    password: str
    ca: str = ""

    def __repr__(self) -> str:
        return f"Broker({self.host}:{self.port}, tls={self.tls}, user={self.user})"


@dataclass(frozen=True)
class Membership:
    """The fleet that a device belongs to, and how it gets there."""

    fleet: str
    owner: bytes
    name: str
    broker: Broker

    def save(self, folder: Path) -> None:
        broker = self.broker
        write_private(folder / _PASSWORD, broker.password.encode())
        if broker.ca:
            write_private(folder / _CA, broker.ca.encode())
        else:
            (folder / _CA).unlink(missing_ok=True)
        write_json(
            folder / _MEMBERSHIP,
            "membership",
            {
                "fleet": self.fleet,
                "owner": self.owner.hex(),
                "name": self.name,
                "host": broker.host,
                "port": broker.port,
                "tls": broker.tls,
                "user": broker.user,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Membership:
        """Raises NotFound where the device is in no fleet, FormatError."""
        path = folder / _MEMBERSHIP
        if not path.exists():
            raise NotFound(
                "this device is in no fleet",
                hint="join one: accrue fleet join CODE --broker HOST",
                path=str(path),
            )
        found = read_json(path, "fleet membership", "join again: accrue fleet join CODE")
        try:
            ca = folder / _CA
            broker = Broker(
                str(found["host"]),
                int(found["port"]),
                bool(found["tls"]),
                str(found["user"]),
                (folder / _PASSWORD).read_text(),
                ca.read_text() if ca.exists() else "",
            )
            fleet = str(found["fleet"])
            if not FLEET_ID.fullmatch(fleet):
                raise ValueError("no fleet id")
            return cls(fleet, hex_key(found["owner"], "owner"), str(found["name"]), broker)
        except (KeyError, TypeError, ValueError, OverflowError, OSError, FormatError) as error:
            raise FormatError(
                f"{path} is no fleet membership: {error}",
                hint="join again: accrue fleet join CODE --broker HOST",
                path=str(path),
            ) from None


def leave(folder: Path) -> None:
    """Forgets the fleet; id and keys stay, so that the device is the same when it comes back.

    That an enrolment was taken up is kept, too: it would join again by itself.
    """
    with translated(folder):
        for path in folder.iterdir():
            if not path.name.startswith(("identity", ENROLLED)) and path.is_file():
                path.unlink()


def read_secret(read: Callable[[], str], what: str) -> str:
    """One line that is never printed. Raises UsageError where it is empty."""
    secret = read().strip("\r\n")
    if not secret:
        raise UsageError(f"no {what} was given", hint=f"give the {what} on one line")
    return secret


def require_private(path: Path) -> None:
    """Raises Conflict where others than its owner may read a key."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Conflict(
            f"{path} may be read by others (mode {mode:04o}); expected 0600",
            hint=f"chmod 600 {path}",
            path=str(path),
            found=f"{mode:04o}",
            expected="0600",
        )
