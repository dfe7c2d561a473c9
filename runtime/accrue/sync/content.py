"""What a signed head points at: canonical JSON, compressed, found by its SHA-256.

A head is small, signed and retained. Its content may be large, is found by its digest, and needs
no signature of its own.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

from accrue.errors import Rejected
from accrue.sync.signed import canonical, parse

LARGEST_PACKED_BYTES = 32 << 20
LARGEST_PLAIN_BYTES = 64 << 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Pointer:
    """The digest and the length of some bytes."""

    sha256: str
    size: int

    @classmethod
    def to(cls, data: bytes) -> Pointer:
        return cls(sha256(data), len(data))

    def to_body(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "bytes": self.size}

    @classmethod
    def from_body(cls, body: Any) -> Pointer:
        """Raises Rejected."""
        found = fields(body, "pointer", sha256=str, bytes=int)
        if not is_digest(found["sha256"]) or not 0 < found["bytes"] <= LARGEST_PACKED_BYTES:
            raise malformed("pointer to content", "a digest and a length")
        return cls(found["sha256"], found["bytes"])

    def check(self, data: bytes) -> bytes:
        """The same bytes, if they are the ones that are meant. Raises Rejected."""
        if len(data) != self.size or sha256(data) != self.sha256:
            raise Rejected(
                f"content of {len(data):,} bytes ({sha256(data)[:12]}) is not what was signed; "
                f"expected {self.size:,} bytes ({self.sha256[:12]})",
                reason="forged",
            )
        return data


def pack(body: dict[str, Any]) -> bytes:
    return zlib.compress(canonical(body), 9)


def unpack(data: bytes, pointer: Pointer) -> Any:
    """The object in checked and bounded bytes. Raises Rejected."""
    pointer.check(data)
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, LARGEST_PLAIN_BYTES)
    except zlib.error as error:
        raise Rejected(f"content that does not unpack: {error}", reason="malformed") from None
    if not unpacker.eof or unpacker.unused_data:
        raise Rejected("content that is cut off or larger than it may be", reason="oversized")
    return parse(plain, LARGEST_PLAIN_BYTES)


def malformed(what: str, expected: str) -> Rejected:
    return Rejected(f"{what}: expected {expected}", reason="malformed")


def fields(body: Any, what: str, **kinds: Any) -> dict[str, Any]:
    """The fields of an object that has these and no others, each of its type (None: any).

    Raises:
        Rejected: `malformed`.
    """
    if not isinstance(body, dict) or body.keys() != kinds.keys():
        raise malformed(what, f"an object with {', '.join(kinds)}")
    for key, kind in kinds.items():
        if kind is not None and type(body[key]) is not kind:
            raise malformed(f"{what}, {key}", kind.__name__)
    return body


def is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
