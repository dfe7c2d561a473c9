"""The state format once more, in plain integers, written from docs/reference/state-format.md.

It shares no line with accrue.learn and needs no numpy: what the two agree on is the page.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

LARGEST = 32_767
ROW_LIMIT = 2**23
MAX_DIM = 65_536


@dataclass(frozen=True)
class Sums:
    """n, s and the upper triangle of S by rows."""

    n: int
    s: list[int]
    upper: list[int]


@dataclass(frozen=True)
class Model:
    """A state: its space and the sums of each class."""

    space: str
    dim: int
    classes: dict[str, Sums]


def sums(rows: list[list[int]], dim: int) -> Sums:
    """Adds rows up, value by value."""
    s = [sum(row[i] for row in rows) for i in range(dim)]
    upper = [sum(row[i] * row[j] for row in rows) for i in range(dim) for j in range(i, dim)]
    return Sums(len(rows), s, upper)


def payload(found: Sums) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in found.s + found.upper)


def write_statistics(found: Sums) -> bytes:
    head = b"ACCRSTAT" + (1).to_bytes(2, "little") + bytes(2)
    return (
        head + len(found.s).to_bytes(4, "little") + found.n.to_bytes(8, "little") + payload(found)
    )


def class_digest(found: Sums) -> str:
    return hashlib.sha256(write_statistics(found)).hexdigest()


def _ordered(model: Model) -> list[str]:
    return sorted(model.classes, key=lambda class_id: class_id.encode())


def _state_header(model: Model) -> bytes:
    head = b"ACCRUEST" + (1).to_bytes(2, "little") + bytes(2) + model.dim.to_bytes(4, "little")
    return head + bytes.fromhex(model.space) + len(model.classes).to_bytes(4, "little")


def _class_header(class_id: str, n: int) -> bytes:
    name = class_id.encode()
    return len(name).to_bytes(2, "little") + n.to_bytes(8, "little") + name


def write_state(model: Model) -> bytes:
    parts = [_state_header(model)]
    for class_id in _ordered(model):
        found = model.classes[class_id]
        parts += [_class_header(class_id, found.n), payload(found)]
    return b"".join(parts)


def state_digest(model: Model) -> str:
    told = _state_header(model)
    for class_id in _ordered(model):
        found = model.classes[class_id]
        told += _class_header(class_id, found.n) + bytes.fromhex(class_digest(found))
    return hashlib.sha256(told).hexdigest()


class Broken(ValueError):
    """Bytes that a reader refuses."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Broken("cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def sums(self, n: int, dim: int) -> Sums:
        if n > ROW_LIMIT:
            raise Broken("too many rows")
        body = self.take(8 * (dim + dim * (dim + 1) // 2))
        values = list(struct.unpack(f"<{len(body) // 8}q", body))
        if any(abs(value) > 2**53 for value in values):
            raise Broken("beyond exact sums")
        found = Sums(n, values[:dim], values[dim:])
        _require_possible(found)
        return found

    def end(self) -> None:
        if self.at != len(self.data):
            raise Broken("trailing bytes")


def _require_possible(found: Sums) -> None:
    dim = len(found.s)
    if found.n == 0:
        if any(found.s) or any(found.upper):
            raise Broken("sums of no rows")
        return
    second = {}
    values = iter(found.upper)
    for i in range(dim):
        for j in range(i, dim):
            second[i, j] = next(values)
    for i in range(dim):
        if not 0 <= second[i, i] <= found.n * LARGEST**2:
            raise Broken("impossible sums")
        if found.s[i] ** 2 > found.n * second[i, i]:
            raise Broken("impossible sums")
    for i in range(dim):
        for j in range(i, dim):
            if second[i, j] ** 2 > second[i, i] * second[j, j]:
                raise Broken("impossible sums")


def read_statistics(data: bytes) -> Sums:
    reader = _Reader(data)
    dim = _read_start(reader, b"ACCRSTAT")
    n = reader.number(8)
    found = reader.sums(n, dim)
    reader.end()
    return found


def _read_start(reader: _Reader, magic: bytes) -> int:
    if reader.take(8) != magic:
        raise Broken("wrong magic")
    if reader.number(2) != 1 or reader.number(2) != 0:
        raise Broken("other version")
    dim = reader.number(4)
    if not 1 <= dim <= MAX_DIM:
        raise Broken("dimension")
    return dim


def read_state(data: bytes) -> Model:
    reader = _Reader(data)
    dim = _read_start(reader, b"ACCRUEST")
    space = reader.take(32).hex()
    count = reader.number(4)
    classes: dict[str, Sums] = {}
    previous, rows = b"", 0
    for _ in range(count):
        length, n = reader.number(2), reader.number(8)
        name = reader.take(length)
        if n == 0 or name <= previous:
            raise Broken("empty class or out of order")
        previous = name
        rows += n
        if rows > ROW_LIMIT:
            raise Broken("too many rows")
        try:
            classes[name.decode()] = reader.sums(n, dim)
        except UnicodeDecodeError:
            raise Broken("id not UTF-8") from None
    reader.end()
    return Model(space, dim, classes)
