"""How a device and an owner come to know each other: by a short code, or by two files.

Online. The owner makes a code of 45 random bits, good for one device and 15 minutes, and tells it
to whoever stands at the device. The device sends its public keys under a MAC that only the code
gives. The owner answers with its own public key and the account at the broker, encrypted with a
key that follows from the code *and* from an X25519 agreement with the device. So who answers knows
the code, and who reads the code later can open nothing.

Offline. The device writes its public keys to a file, the owner writes a ticket for it: signed, and
what is secret in it sealed to the device's X25519 key.

docs/reference/trust.md has the protocol byte by byte and what it does not do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from accrue.errors import FormatError, Rejected, UsageError
from accrue.store.names import shown
from accrue.sync.content import fields, malformed
from accrue.sync.identity import (
    ALPHABET,
    DEVICE_ID,
    FLEET_ID,
    KEY_BYTES,
    Broker,
    Identity,
    hex_key,
    read_json,
    write_json,
)
from accrue.sync.signed import canonical, open_sealed, parse, seal, split

FORMAT = "enrol/1"
TICKET = "ticket/1"
CODE_CHARACTERS = 10  # 45 bits and a check character
CODE_SECONDS = 15 * 60
LARGEST_MESSAGE_BYTES = 64 << 10
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1  # 32 MiB and some 0.1 s a guess
_NONCE_BYTES = 12
_READ_AS = str.maketrans("oil", "011")  # as Crockford's base32 reads them


# ---- the code -----------------------------------------------------------------------------------


def new_code() -> str:
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARACTERS - 1))
    return next(drawn + last for last in ALPHABET if _luhn(drawn + last) == 0)


def _luhn(code: str) -> int:
    """0 for a code that was typed right: Luhn mod N with N = 32 (ISO/IEC 7812-1, annex B, has
    it for 10). No other code differs from it in one character, and few in two that changed places.
    """
    total, n = 0, len(ALPHABET)
    for place, character in enumerate(reversed(code)):
        value = ALPHABET.index(character) * (1 + place % 2)
        total += value // n + value % n
    return total % n


def spoken(fleet: str, code: str) -> str:
    """What the owner tells: `plant-7k3q9-mztx8`."""
    return f"{fleet}-{code[:5]}-{code[5:]}"


def read_code(text: str) -> tuple[str, str]:
    """(fleet, code) of what was told; case and mistaken letters (o, i, l) do not matter.

    Raises:
        UsageError: no such code.
    """
    words = text.strip().lower().split("-")
    fleet, code = "-".join(words[:-2]), "".join(words[-2:]).translate(_READ_AS)
    if (
        not FLEET_ID.fullmatch(fleet)
        or len(code) != CODE_CHARACTERS
        or any(c not in ALPHABET for c in code)
    ):
        raise UsageError(
            f"{shown(text)} is no code; expected the fleet and twice five characters",
            hint="for example plant-7k3q9-mztx8, as `accrue-fleet roster invite` shows it",
        )
    if _luhn(code):
        raise UsageError(
            f"{shown(text)} is no code: a character of it is wrong",
            hint="compare it with what `accrue-fleet roster invite` shows",
        )
    return fleet, code


@dataclass(frozen=True)
class CodeKeys:
    """What follows from a code, a fleet and a device: 32 bytes for each direction."""

    request: bytes
    reply: bytes

    @classmethod
    def derive(cls, fleet: str, code: str, device: str) -> CodeKeys:
        salt = f"accrue/enrol/1\0{fleet}\0{device}".encode()
        stretched = Scrypt(salt, 2 * KEY_BYTES, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P).derive(
            code.encode()
        )
        return cls(stretched[:KEY_BYTES], stretched[KEY_BYTES:])


# ---- sealing to a device ------------------------------------------------------------------------


def seal_to(box: bytes, plain: bytes, *, key: bytes = b"", about: bytes) -> bytes:
    """`plain` encrypted so that only the holder of `box` (and of `key`) can read it."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    agreed = ephemeral.exchange(X25519PublicKey.from_public_bytes(box))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    cipher = ChaCha20Poly1305(_agreed_key(agreed, key, public + box))
    return public + nonce + cipher.encrypt(nonce, plain, about)


def open_to(box: X25519PrivateKey, sealed: bytes, *, key: bytes = b"", about: bytes) -> bytes:
    """Raises Rejected: `forged`, where it was sealed to another, by another code or altered."""
    public, nonce = sealed[:KEY_BYTES], sealed[KEY_BYTES : KEY_BYTES + _NONCE_BYTES]
    own = box.public_key().public_bytes_raw()
    try:
        agreed = box.exchange(X25519PublicKey.from_public_bytes(public))
        cipher = ChaCha20Poly1305(_agreed_key(agreed, key, public + own))
        return cipher.decrypt(nonce, sealed[KEY_BYTES + _NONCE_BYTES :], about)
    except (InvalidTag, ValueError):
        raise Rejected(
            "a secret that was sealed with another code or for another device",
            hint="ask the owner for a new code",
            reason="forged",
        ) from None


def _agreed_key(agreed: bytes, key: bytes, publics: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=publics, info=b"accrue/enrol/1 box").derive(
        agreed + key
    )


# ---- what a device says of itself ---------------------------------------------------------------


@dataclass(frozen=True)
class Applicant:
    """The public side of a device: id, signing key, box key, and what it wants to be called."""

    device: str
    key: bytes
    box: bytes
    name: str = ""

    @classmethod
    def of(cls, identity: Identity, name: str = "") -> Applicant:
        return cls(identity.device, identity.public, identity.box_public, name)

    def to_body(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "key": self.key.hex(),
            "box": self.box.hex(),
            "name": self.name,
        }

    @classmethod
    def from_body(cls, body: Any) -> Applicant:
        """Raises Rejected."""
        found = fields(body, "device", device=str, key=str, box=str, name=str)
        if not DEVICE_ID.fullmatch(found["device"]) or len(found["name"]) > 64:
            raise malformed("device", "a device id and a name of at most 64 characters")
        try:
            key, box = hex_key(found["key"], "key"), hex_key(found["box"], "box")
        except FormatError as error:
            raise malformed("device", error.message) from None
        return cls(found["device"], key, box, found["name"])

    @classmethod
    def from_file(cls, data: bytes) -> Applicant:
        """What `accrue fleet identity --json` printed. Raises Rejected."""
        try:
            found = json.loads(data)
            return cls.from_body({key: found[key] for key in ("device", "key", "box", "name")})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Rejected(
                "not the identity of a device",
                hint="expected what `accrue fleet identity --json` prints on the device",
                reason="malformed",
            ) from None


# ---- online -------------------------------------------------------------------------------------


def make_request(identity: Identity, fleet: str, code: str, name: str) -> tuple[bytes, CodeKeys]:
    """(message, keys to open the answer with)."""
    keys = CodeKeys.derive(fleet, code, identity.device)
    body = {"accrue": FORMAT, "fleet": fleet, **Applicant.of(identity, name).to_body()}
    body["mac"] = _mac(keys.request, body)
    return seal("enrol", body, identity.key), keys


@dataclass(frozen=True)
class Request:
    """A request whose signature is right; whether it knows a code is asked with `knows`."""

    fleet: str
    applicant: Applicant
    body: dict[str, Any]
    digest: bytes

    @classmethod
    def open(cls, envelope: bytes, fleet: str) -> Request:
        """Raises Rejected: `malformed`, `forged`, `wrong-scope`, `oversized`."""
        if len(envelope) > LARGEST_MESSAGE_BYTES:
            raise Rejected("a request that is too long", reason="oversized")
        body = parse(split(envelope)[1])
        found = fields(
            body, "request", accrue=str, fleet=str, device=str, key=str, box=str, name=str, mac=str
        )
        applicant = Applicant.from_body(
            {key: found[key] for key in ("device", "key", "box", "name")}
        )
        open_sealed("enrol", envelope, Ed25519PublicKey.from_public_bytes(applicant.key))
        if found["accrue"] != FORMAT:
            raise malformed("request, accrue", FORMAT)
        if found["fleet"] != fleet:
            raise Rejected(
                f"a request to join fleet {shown(found['fleet'])}; this is {fleet}",
                reason="wrong-scope",
            )
        return cls(fleet, applicant, found, hashlib.sha256(envelope).digest())

    def knows(self, code: str) -> CodeKeys | None:
        """The keys of a code, if the device knows it. Takes a tenth of a second."""
        keys = CodeKeys.derive(self.fleet, code, self.applicant.device)
        right = _mac(keys.request, {k: v for k, v in self.body.items() if k != "mac"})
        return keys if hmac.compare_digest(right.encode(), self.body["mac"].encode()) else None


@dataclass(frozen=True)
class Admission:
    """What a device needs of its fleet: the owner's key, the account, and the roster's version.

    `host` is empty where the device knows better how to reach the broker.
    """

    fleet: str
    owner: bytes
    user: str
    password: str
    roster: int
    ca: str = ""
    host: str = ""
    port: int = 0
    tls: bool = True

    def __repr__(self) -> str:
        return f"Admission({self.fleet}, {self.user}, roster {self.roster})"

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "fleet": self.fleet,
                "owner": self.owner.hex(),
                "user": self.user,
                "password": self.password,
                "roster": self.roster,
                "ca": self.ca,
                "host": self.host,
                "port": self.port,
                "tls": self.tls,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Admission:
        found = fields(
            parse(data, LARGEST_MESSAGE_BYTES),
            "admission",
            fleet=str,
            owner=str,
            user=str,
            password=str,
            roster=int,
            ca=str,
            host=str,
            port=int,
            tls=bool,
        )
        return cls(**{**found, "owner": hex_key(found["owner"], "owner")})

    def broker(self, host: str = "", port: int = 0, tls: bool | None = None) -> Broker:
        """The account, at the address given here or else at the one that was told."""
        return Broker(
            host or self.host,
            port or self.port,
            self.tls if tls is None else tls,
            self.user,
            self.password,
            self.ca,
        )


def make_reply(request: Request, keys: CodeKeys, admission: Admission) -> bytes:
    return seal_to(
        request.applicant.box, admission.to_bytes(), key=keys.reply, about=request.digest
    )


def open_reply(identity: Identity, request: bytes, keys: CodeKeys, reply: bytes) -> Admission:
    """Raises Rejected: `forged` where it is not the answer of who made the code."""
    if len(reply) > LARGEST_MESSAGE_BYTES:
        raise Rejected("an answer that is too long", reason="oversized")
    about = hashlib.sha256(request).digest()
    return Admission.from_bytes(open_to(identity.box, reply, key=keys.reply, about=about))


# ---- offline ------------------------------------------------------------------------------------


def make_ticket(applicant: Applicant, admission: Admission, owner: Ed25519PrivateKey) -> bytes:
    """A file for one device: signed by the owner, its secrets sealed to the device."""
    body = {
        "accrue": TICKET,
        "device": applicant.device,
        "owner": admission.owner.hex(),
        "sealed": seal_to(
            applicant.box, admission.to_bytes(), about=applicant.device.encode()
        ).hex(),
    }
    return seal("enrol", body, owner)


def open_ticket(identity: Identity, data: bytes) -> Admission:
    """Raises Rejected: `malformed`, `forged`, or `wrong-scope` for the ticket of another device.

    That the owner is the one who is meant, only whoever hands the file over can say.
    """
    if len(data) > LARGEST_MESSAGE_BYTES:
        raise Rejected("a ticket that is too long", reason="oversized")
    body = parse(split(data)[1])
    found = fields(body, "ticket", accrue=str, device=str, owner=str, sealed=str)
    if found["accrue"] != TICKET:
        raise malformed("ticket, accrue", TICKET)
    try:
        owner, sealed = hex_key(found["owner"], "owner"), bytes.fromhex(found["sealed"])
    except (ValueError, FormatError):
        raise malformed("ticket", "keys in hex") from None
    open_sealed("enrol", data, Ed25519PublicKey.from_public_bytes(owner))
    if found["device"] != identity.device:
        raise Rejected(
            f"a ticket for device {found['device']}; this is {identity.device}",
            hint="each device needs its own: accrue-fleet roster add FILE --ticket OUT",
            reason="wrong-scope",
            found=found["device"],
            expected=identity.device,
        )
    admission = Admission.from_bytes(open_to(identity.box, sealed, about=identity.device.encode()))
    if admission.owner != owner:
        raise Rejected("a ticket that names another owner than signed it", reason="forged")
    return admission


# ---- before the first start ---------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolment:
    """What a device is given before it is switched on: who it is, and the ticket to its fleet.

    One file, a secret of this one device. `tools/provision identities` makes it; the device takes
    it up by itself (`accrue.service.fleet.Fleet.enrol`).
    """

    name: str
    identity: Identity
    ticket: bytes

    def __repr__(self) -> str:
        return f"Enrolment({self.name}, {self.identity.device})"

    def save(self, path: Path) -> None:
        """Whole or not at all, for its owner alone."""
        body = {"name": self.name, "identity": self.identity.to_body(), "ticket": self.ticket.hex()}
        write_json(path, "enrolment", body)

    @classmethod
    def load(cls, path: Path) -> Enrolment:
        """Raises NotFound, FormatError, FutureVersion."""
        hint = "the owner makes it: tools/provision identities"
        found = read_json(path, "device enrolment", hint)
        try:
            name, ticket = str(found["name"]), bytes.fromhex(found["ticket"])
            return cls(name, Identity.from_body(found["identity"]), ticket)
        except (KeyError, TypeError, ValueError, FormatError) as error:
            raise FormatError(
                f"{path} is no device enrolment: {error}", hint=hint, path=str(path)
            ) from None


def _mac(key: bytes, body: dict[str, Any]) -> str:
    return hmac.new(key, canonical(body), hashlib.sha256).hexdigest()
