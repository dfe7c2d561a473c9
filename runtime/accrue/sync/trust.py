"""Who may say something in a fleet, and the words for why a message was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from accrue.sync.signed import is_signed

Reason = Literal[
    "forged",
    "unknown-device",
    "revoked",
    "replayed",
    "future",
    "oversized",
    "not-finite",
    "wrong-space",
    "wrong-scope",
    "malformed",
]

REASONS: Final[Mapping[Reason, str]] = {
    "forged": "the signature, or the hash of a part, does not fit the bytes",
    "unknown-device": "the device is not in the roster",
    "revoked": "the device, or the key that it signed with, was revoked before this revision",
    "replayed": "a revision that is not newer than the one held; harmless",
    "future": "stamped more than ten minutes ahead of the own clock",
    "oversized": "more bytes, rows or entries than the format allows",
    "not-finite": "values that no embedding and no sum of embeddings can have",
    "wrong-space": "of another encoder: its embeddings do not mix with the own ones",
    "wrong-scope": "of another fleet, class set, device or class than the topic it came on",
    "malformed": "bytes that do not follow the format",
}


class Trust(Protocol):
    """Decides whose signature counts.

    Attributes:
        version: changes whenever an answer of `verify` may change; a memory of earlier answers
            is good for one version.
    """

    @property
    def version(self) -> int: ...

    def verify(
        self, device: str, revision: int, signature: bytes, signed_bytes: bytes
    ) -> Reason | None:
        """None where the signature is good, else why not: forged, unknown-device or revoked."""
        ...


class KnownKeys:
    """The simplest trust: a fixed list of devices and their keys.

    Example:
        >>> KnownKeys({}).verify("0123456789ab", 1, bytes(64), b"")
        'unknown-device'
    """

    version = 0

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    def verify(
        self, device: str, revision: int, signature: bytes, signed_bytes: bytes
    ) -> Reason | None:
        key = self._keys.get(device)
        if key is None:
            return "unknown-device"
        return None if is_signed(key, signature, signed_bytes) else "forged"
