"""Bytes and documents that are almost right."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1)


def deep(levels: int = 3000) -> Any:
    """A list in a list in a list ..."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


DEEP = deep()
# What a field of a document may hold instead of what it should. Floats, surrogates and what nests
# deep have no canonical form, so that they are not in what is signed.
SIGNABLE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**53, 2**63 - 1, -(2**63), "", "x", "é", "\0", "\n",
    "../../etc/passwd", "/etc/passwd", "A" * 5000, "‮", "0" * 64, "ff" * 32, "' OR 1=1 --",
    "<script>", "${x}", "{}", [], {}, [[]], [None], {"": ""}, {"__class__": "x"}, [0] * 2000,
)  # fmt: skip
ANY: tuple[Any, ...] = (
    *SIGNABLE, 2**64, 10**400, -0.0, 0.5, 1e308, float("inf"), float("nan"), "\ud800", DEEP,
)  # fmt: skip


def bytes_of(good: bytes, chance: Random) -> bytes:
    """The same with a few things changed: bits, bytes, numbers, runs moved, doubled or lost."""
    found = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not found:
            break
        at = chance.randrange(len(found)) if chance.random() < 0.6 else chance.randrange(64)
        at = min(at, len(found) - 1)
        end = min(len(found), at + chance.choice((1, 2, 4, 8, 64, 1024)))
        how = chance.randrange(8)
        if how == 0:
            found[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            found[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif how == 2:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) % 256**size
            found[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
        elif how == 3:
            del found[at:end]
        elif how == 4:
            found[at:at] = found[at:end] * chance.choice((1, 2, 100))
        elif how == 5:
            del found[at:]
        elif how == 6:
            found[at:at] = chance.randbytes(chance.choice((1, 3, 100)))
        else:
            other = chance.randrange(len(found))
            found[at:end] = found[other : other + end - at]
    return bytes(found)


def document_of(good: Any, chance: Random, values: tuple[Any, ...] = ANY) -> Any:
    """The same with one or two of its parts changed, lost, doubled or renamed."""
    found = copy.deepcopy(good)
    for _ in range(chance.choice((1, 1, 2))):
        places = list(_places(found))
        if not places:
            return _copy(chance.choice(values))
        parent, key = chance.choice(places)
        how = chance.randrange(6)
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict):
            parent[chance.choice(("", "more", "é", f"{key} "))] = parent[key]
        elif how == 1:
            parent.insert(key, _copy(parent[key]))
        elif how == 2 and isinstance(parent[key], int) and not isinstance(parent[key], bool):
            parent[key] += chance.choice((-1, 1, 2**32, -(2**32)))
        elif how == 3 and isinstance(parent[key], str) and parent[key]:
            text = parent[key]
            at = chance.randrange(len(text))
            parent[key] = text[:at] + chance.choice(("", "\0", "é", "/", "A")) + text[at + 1 :]
        else:
            parent[key] = _copy(chance.choice(values))
    return found


def _copy(value: Any) -> Any:
    return value if value is DEEP else copy.deepcopy(value)


def _places(found: Any) -> Any:
    """(parent, key) of every part of a document."""
    items = list(found.items()) if isinstance(found, dict) else list(enumerate(found))
    for key, value in items:
        yield found, key
        if isinstance(value, dict | list) and value and value is not DEEP:
            yield from _places(value)
