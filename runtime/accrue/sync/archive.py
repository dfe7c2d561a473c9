"""Class sets away from the broker: as a parcel of one class, and as one signed file.

A *parcel* is what an owner publishes for each class of a curated set: the signed contributions and
their parts. A *file* holds the parcels of a whole class set under one signature, to carry on a USB
stick. Neither holds an image. docs/reference/wire.md has the bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from accrue.errors import FormatError, FutureVersion, Rejected
from accrue.store.files import STEPS, FileSteps, write_atomically
from accrue.sync.content import Pointer, fields, malformed, sha256
from accrue.sync.contribution import Contribution, Scope
from accrue.sync.identity import hex_key, read_file
from accrue.sync.ledger import Heard
from accrue.sync.signed import open_sealed, parse, seal, split

FORMAT = "classset/1"
MAGIC = b"ACCRSET\n"
VERSION = 1
NO_FLEET = "-"  # in place of a fleet id, in a file of a device that is in none
LARGEST_FILE_BYTES = 1 << 30
LARGEST_PARCEL_BYTES = 32 << 20
_FIXED = struct.Struct("<8sII")  # magic, version, length of the head
_LENGTH = struct.Struct("<I")
_HINT = "ask for the file again; nothing was changed"


def parcel(heard: Sequence[Heard]) -> bytes:
    """The contributions of one class and their parts; the same ones always give the same bytes."""
    envelopes = sorted(one.envelope for one in heard)
    parts = {digest: data for one in heard for digest, data in one.parts.items()}
    return _framed([_LENGTH.pack(len(envelopes)), *envelopes, *(parts[d] for d in sorted(parts))])


def open_parcel(data: bytes) -> list[Heard]:
    """What `parcel` packed: each contribution parsed and whole. Signatures are not checked.

    Raises:
        Rejected: `malformed`, or `forged` where a part is missing or another one.
    """
    frames = list(_frames(data))
    if not frames or len(frames[0]) != _LENGTH.size:
        raise malformed("parcel", "contributions and parts")
    (count,) = _LENGTH.unpack(frames[0])
    if count > len(frames) - 1:
        raise malformed("parcel", f"{count} contributions")
    parts = {sha256(frame): frame for frame in frames[1 + count :]}
    found, named = [], set()
    for envelope in frames[1 : 1 + count]:
        contribution = Contribution.from_body(parse(split(envelope)[1]))
        named |= {part.sha256 for part in contribution.parts}
        try:
            own = {part.sha256: parts[part.sha256] for part in contribution.parts}
        except KeyError as error:
            raise Rejected(
                f"parcel without part {str(error.args[0])[:12]} of device {contribution.device}",
                reason="forged",
            ) from None
        found.append(Heard(contribution, envelope, own))
    if parts.keys() - named:
        raise malformed("parcel", "no part that nothing names")
    return found


@dataclass(frozen=True)
class SetFile:
    """A class set in a file.

    Attributes:
        signer: id of the device that wrote it; empty: a fleet's owner.
        key: public key that its signature was checked with. Whose it is, the file cannot prove.
        at_ms: when it was written, unix milliseconds.
        heard: every contribution with all of its parts.
    """

    scope: Scope
    signer: str
    key: bytes
    at_ms: int
    heard: tuple[Heard, ...]


def write_set(
    path: Path,
    scope: Scope,
    heard: Iterable[Heard],
    *,
    signer: str,
    key: Ed25519PrivateKey,
    at_ms: int,
    steps: FileSteps = STEPS,
) -> int:
    """Writes a class set to `path`, whole or not at all. Returns its bytes."""
    by_class: dict[str, list[Heard]] = {}
    for one in heard:
        by_class.setdefault(one.contribution.class_id, []).append(one)
    body = zlib.compress(_framed([parcel(by_class[class_id]) for class_id in sorted(by_class)]), 6)
    head = seal(
        "classset",
        {
            "accrue": FORMAT,
            "fleet": scope.fleet,
            "set": scope.class_set,
            "space": scope.space,
            "dim": scope.dim,
            "signer": signer,
            "key": key.public_key().public_bytes_raw().hex(),
            "at_ms": at_ms,
            "classes": len(by_class),
            "sha256": sha256(body),
            "bytes": len(body),
        },
        key,
    )
    fixed = _FIXED.pack(MAGIC, VERSION, len(head))
    return write_atomically(path, [fixed, head, body], steps=steps)


def read_set(path: Path) -> SetFile:
    """A class set from a file whose signature and every digest fit.

    Raises:
        NotFound: no such file. FutureVersion: written by a newer Accrue.
        FormatError: not a class set, cut off or too large. Rejected: `forged`, `malformed`.
    """
    data = _read(path)
    if len(data) < _FIXED.size or not data.startswith(MAGIC):
        raise _unfit(path, "it does not begin as one")
    _, version, length = _FIXED.unpack_from(data)
    if version != VERSION:
        if version > VERSION:
            raise FutureVersion(
                f"{path} is of format {version}; this Accrue reads up to {VERSION}",
                hint="update Accrue; nothing was changed",
                path=str(path),
                found=version,
                expected=VERSION,
            )
        raise _unfit(path, f"format {version}")
    envelope = data[_FIXED.size : _FIXED.size + length]
    if len(envelope) < length:
        raise _unfit(path, f"cut off at byte {len(data):,}")
    head = fields(
        parse(split(envelope)[1]),
        "class set",
        accrue=str,
        fleet=str,
        set=str,
        space=str,
        dim=int,
        signer=str,
        key=str,
        at_ms=int,
        classes=int,
        sha256=str,
        bytes=int,
    )
    key = hex_key(head["key"], "key")
    open_sealed("classset", envelope, Ed25519PublicKey.from_public_bytes(key))
    if head["accrue"] != FORMAT:
        raise malformed("class set, accrue", FORMAT)
    scope = Scope(head["fleet"], head["set"], head["space"], head["dim"])
    body = data[_FIXED.size + length :]
    if len(body) != head["bytes"]:
        raise _unfit(path, f"{len(body):,} bytes of content; expected {head['bytes']:,}")
    Pointer(head["sha256"], head["bytes"]).check(body)
    found = [one for packed in _frames(_inflated(path, body)) for one in open_parcel(packed)]
    for one in found:
        if one.contribution.scope != scope:
            raise Rejected(f"{path} holds a contribution to another set", reason="wrong-scope")
    return SetFile(scope, head["signer"], key, head["at_ms"], tuple(found))


def _read(path: Path) -> bytes:
    data = read_file(
        path,
        LARGEST_FILE_BYTES,
        missing=f"no file {path}",
        hint="give the path of a class set file",
    )
    if len(data) > LARGEST_FILE_BYTES:
        raise _unfit(path, "larger than 1 GiB")
    return data


def _inflated(path: Path, body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(body, LARGEST_FILE_BYTES)
    except zlib.error as error:
        raise _unfit(path, str(error)) from None
    if not unpacker.eof or unpacker.unused_data:
        raise _unfit(path, "its content is cut off or larger than 1 GiB")
    return plain


def _unfit(path: Path, found: str) -> FormatError:
    return FormatError(
        f"{path} is no class set file: {found}", hint=_HINT, path=str(path), found=found
    )


def _framed(frames: Iterable[bytes]) -> bytes:
    return b"".join(piece for frame in frames for piece in (_LENGTH.pack(len(frame)), frame))


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise malformed("frame", "a length")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise malformed("frame", f"{length:,} bytes")
        yield data[at : at + length]
        at += length


def class_ids(found: SetFile) -> set[str]:
    return {one.contribution.class_id for one in found.heard}


__all__ = [
    "NO_FLEET",
    "SetFile",
    "class_ids",
    "open_parcel",
    "parcel",
    "read_set",
    "write_set",
]
