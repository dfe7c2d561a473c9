"""Canonical JSON and the signature over it: the envelope of everything that a fleet says.

An envelope is a 64-byte Ed25519 signature (RFC 8032) followed by the body. What is signed is
``b"accrue/" + kind + b"/1\\0" + body``, so that no body counts as one of another kind.
docs/reference/wire.md defines the bytes.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NoReturn, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from accrue.errors import Rejected

Kind = Literal["contribution", "roster", "manifest", "report", "classset", "enrol"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SIGNATURE_BYTES = 64
BODY_LIMIT_BYTES = 131_072 - 2_048  # leaves room for topic, properties and signature in a packet
ENVELOPE_LIMIT_BYTES = SIGNATURE_BYTES + BODY_LIMIT_BYTES
DEPTH_LIMIT = 16
INTEGER_LIMIT = 2**63  # integers lie within +- this
_INTEGER_DIGITS = 20


def canonical(obj: Any) -> bytes:
    """JSON in UTF-8: keys sorted by code point, no spaces, nothing escaped that need not be.

    Args:
        obj: dicts with text keys, lists, tuples, text, integers, booleans and None.

    Raises:
        TypeError: a float or something else that has no canonical form.
        ValueError: text with half of a surrogate pair, too deep, or too large an integer.
    """
    _require_plain(obj, 0)
    return _dump(obj)


def parse(data: bytes, limit: int = BODY_LIMIT_BYTES) -> Any:
    """The object of canonical bytes, and of no other bytes: ``canonical(parse(x)) == x``.

    So spaces, repeated or unsorted keys, floats and needless escapes are refused.

    Raises:
        Rejected: oversized, or malformed.
    """
    if len(data) > limit:
        raise Rejected(
            f"{len(data):,} bytes of JSON; at most {limit:,}",
            reason="oversized",
            found=len(data),
            expected=limit,
        )
    try:
        obj = json.loads(
            data.decode(), parse_float=_no_float, parse_int=_integer, parse_constant=_no_float
        )
        _require_plain(obj, 0)
        if _dump(obj) == data:
            return obj
    except (ValueError, RecursionError) as error:
        raise Rejected(f"not canonical JSON: {_brief(error)}", reason="malformed") from error
    raise Rejected(
        "JSON that is not in canonical form: keys sorted, no spaces, no needless escapes",
        reason="malformed",
    )


def signed_bytes(kind: Kind, body: bytes) -> bytes:
    """What the signature of a body of this kind is made over."""
    return b"accrue/" + kind.encode() + b"/1\0" + body


def seal(kind: Kind, obj: Any, private_key: Ed25519PrivateKey) -> bytes:
    """The envelope of an object.

    Raises:
        Rejected: oversized; nobody would take it.
    """
    body = canonical(obj)
    if len(body) > BODY_LIMIT_BYTES:
        raise Rejected(
            f"{kind} of {len(body):,} bytes; at most {BODY_LIMIT_BYTES:,}",
            reason="oversized",
            found=len(body),
            expected=BODY_LIMIT_BYTES,
        )
    return private_key.sign(signed_bytes(kind, body)) + body


def split(envelope: bytes) -> tuple[bytes, bytes]:
    """Signature and body, of which nothing is checked but the length.

    Raises:
        Rejected: oversized, or malformed where it is shorter than a signature.
    """
    if len(envelope) > ENVELOPE_LIMIT_BYTES:
        raise Rejected(
            f"envelope of {len(envelope):,} bytes; at most {ENVELOPE_LIMIT_BYTES:,}",
            reason="oversized",
            found=len(envelope),
            expected=ENVELOPE_LIMIT_BYTES,
        )
    if len(envelope) <= SIGNATURE_BYTES:
        raise Rejected(
            f"envelope of {len(envelope)} bytes; expected a signature of {SIGNATURE_BYTES} "
            "and a body",
            reason="malformed",
            found=len(envelope),
        )
    return envelope[:SIGNATURE_BYTES], envelope[SIGNATURE_BYTES:]


def open_sealed(kind: Kind, envelope: bytes, public_key: Ed25519PublicKey) -> Any:
    """The object in an envelope, signed with this key as of this kind.

    Raises:
        Rejected: oversized, forged or malformed.
    """
    signature, body = split(envelope)
    if not is_signed(public_key, signature, signed_bytes(kind, body)):
        raise Rejected(f"{kind} with a signature that does not fit", reason="forged")
    return parse(body)


def is_signed(public_key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        public_key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _dump(obj: Any) -> bytes:
    return json.dumps(
        obj, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"a number that is no integer: {text[:20]}")


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _require_plain(obj: Any, depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"nested deeper than {DEPTH_LIMIT}")
    if isinstance(obj, dict):
        for key, value in obj.items():
            if type(key) is not str:
                raise TypeError(f"a key of type {type(key).__name__}; expected text")
            _require_plain(value, depth + 1)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _require_plain(value, depth + 1)
    elif type(obj) is int:
        if not -INTEGER_LIMIT <= obj < INTEGER_LIMIT:
            raise ValueError("an integer beyond 64 bits")
    elif obj is not None and type(obj) is not str and type(obj) is not bool:
        raise TypeError(f"a value of type {type(obj).__name__} has no canonical form")


def _brief(error: BaseException) -> str:
    return str(error)[:100] or type(error).__name__
