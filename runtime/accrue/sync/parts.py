"""Parts: the packed, content-addressed bytes of shots or of sums, and how they are arranged.

A header of 16 bytes, then raw deflate over the values with their bytes shuffled: all lowest bytes
first, then all second ones and so on, each such plane in blocks of its own, so that the high
bytes, which hardly vary, get a code of their own. For embeddings this is within 1.5 % of their
entropy where plain zlib is 13 % above it. docs/reference/wire.md defines the bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accrue.errors import FormatError, Rejected, RowsError
from accrue.learn.statistics import (
    MAX_DIM,
    ROW_LIMIT,
    Rows,
    Statistics,
    check_rows,
    payload_size,
)
from accrue.sync.contribution import PART_LIMIT_BYTES, Member, Part, PartKind

RAW_LIMIT_BYTES = 32 * 2**20  # of a part, unpacked
FAN_IN = 4  # as many parts of about one size are packed into one: a row is packed log4(n) times
MANY_PARTS = 32  # of one contribution; beyond it the smallest are packed into one ...
FEW_PARTS = 16  # ... so that this many are left
_MAGIC = b"ACRP"
_VERSION = 1
_HEAD = struct.Struct("<4sBBHII")  # magic, version, kind, reserved, dim, n
_ROWS, _STATISTICS = 1, 2


def pack_rows(rows: Rows) -> bytes:
    """The part of int16 rows (n, dim), at least one.

    Raises:
        RowsError: of another form, or more than a part may hold.
    """
    n, dim = check_rows(rows, rows.shape[-1]).shape
    if not 0 < rows.nbytes <= RAW_LIMIT_BYTES:
        raise RowsError(f"{n} rows in a part; expected 1 to {rows_limit(dim):,}", found=n)
    packed = _deflate(rows.astype("<i2"), zlib.Z_HUFFMAN_ONLY)
    return _HEAD.pack(_MAGIC, _VERSION, _ROWS, 0, dim, n) + packed


def pack_statistics(statistics: Statistics) -> bytes:
    """The part of a sum over at least one row.

    Raises:
        RowsError: of no rows, or of a dimension whose second moment is larger than a part may be.
    """
    if statistics.n < 1 or payload_size(statistics.dim) > RAW_LIMIT_BYTES:
        raise RowsError(
            f"statistics of {statistics.n} rows of dimension {statistics.dim:,} do not fit a part"
        )
    signed = np.frombuffer(statistics.payload(), "<i8").astype(np.int64)
    folded = ((signed << 1) ^ (signed >> 63)).astype("<u8")  # small whatever the sign
    head = _HEAD.pack(_MAGIC, _VERSION, _STATISTICS, 0, statistics.dim, statistics.n)
    return head + _deflate(folded, zlib.Z_RLE)


def pack(rows: Rows) -> tuple[PartKind, bytes]:
    """The smaller of the two for one set of rows: rows, or for very many their statistics."""
    n, dim = rows.shape
    as_rows = pack_rows(rows) if n <= rows_limit(dim) else None
    if n > dim // 2 and payload_size(dim) <= RAW_LIMIT_BYTES:  # never smaller below
        as_statistics = pack_statistics(Statistics.of(rows))
        if as_rows is None or len(as_statistics) < len(as_rows):
            return "statistics", as_statistics
    return "rows", pack_rows(rows) if as_rows is None else as_rows


def rows_limit(dim: int) -> int:
    """Rows that one part may hold."""
    return RAW_LIMIT_BYTES // (2 * dim)


def unpack(data: bytes, dim: int) -> Rows | Statistics:
    """The content of a part: int16 (n, dim) or statistics.

    Memory is bounded by what the header says, and that by `RAW_LIMIT_BYTES`.

    Raises:
        Rejected: malformed, oversized, wrong-space for another dimension, or not-finite for values
            that no embedding and no sum of embeddings can have.
    """
    if len(data) > PART_LIMIT_BYTES:
        raise Rejected(
            f"part of {len(data):,} bytes; at most {PART_LIMIT_BYTES:,}", reason="oversized"
        )
    if len(data) < _HEAD.size:
        raise Rejected(f"part cut short at byte {len(data)}", reason="malformed")
    magic, version, kind, reserved, found, n = _HEAD.unpack_from(data)
    if magic != _MAGIC or reserved != 0 or kind not in (_ROWS, _STATISTICS):
        raise Rejected(f"no part: its header is {data[: _HEAD.size].hex()}", reason="malformed")
    if version != _VERSION:
        raise Rejected(
            f"part of format {version}; this Accrue reads {_VERSION}",
            reason="malformed",
            hint="update Accrue",
        )
    if found != dim:
        wrong = "wrong-space" if 1 <= found <= MAX_DIM else "malformed"
        raise Rejected(f"part of dimension {found:,}; expected {dim:,}", reason=wrong)
    size = 2 * n * dim if kind == _ROWS else payload_size(dim)
    if size > RAW_LIMIT_BYTES or n > ROW_LIMIT:
        raise Rejected(
            f"part of {n:,} rows, {size:,} bytes unpacked; at most {RAW_LIMIT_BYTES:,}",
            reason="oversized",
        )
    if n == 0:
        raise Rejected("part without rows; expected at least one", reason="malformed")
    content = data[_HEAD.size :]
    try:
        if kind == _ROWS:
            return check_rows(_inflate(content, "<i2", size).astype(np.int16).reshape(n, dim), dim)
        folded = _inflate(content, "<u8", size)
        signed = (folded >> np.uint64(1)).astype(np.int64) ^ -(folded & np.uint64(1)).astype(
            np.int64
        )
        return Statistics.from_payload(n, dim, signed.astype("<i8").tobytes())
    except (RowsError, FormatError) as error:
        if isinstance(error, Rejected):
            raise
        raise Rejected(f"part with impossible values: {error}", reason="not-finite") from error


def heading(data: bytes) -> tuple[PartKind, int]:
    """Kind and number of rows of a part that has been through `unpack`."""
    _, _, kind, _, _, n = _HEAD.unpack_from(data)
    return ("rows" if kind == _ROWS else "statistics"), n


def hash_of(data: bytes) -> str:
    """The address of a part: SHA-256 of its bytes, 64 hex characters."""
    return hashlib.sha256(data).hexdigest()


def check(part: Part, data: bytes, dim: int) -> Rows | Statistics:
    """The content of a listed part, when it is what the list says.

    Raises:
        Rejected: forged where the hash differs; malformed where size, kind or number of rows do;
            and what `unpack` raises.
    """
    if hash_of(data) != part.sha256:
        raise Rejected(f"part {part.sha256[:12]} with another hash", reason="forged")
    content = unpack(data, dim)
    check_listing(part, *heading(data), len(data))
    return content


def check_listing(part: Part, kind: PartKind, n: int, size: int) -> None:
    """Raises Rejected (malformed) where a part is not what a contribution lists it as."""
    if (kind, n, size) != (part.kind, part.n_rows, part.size):
        raise Rejected(
            f"part {part.sha256[:12]} is {n:,} rows ({kind}) in {size:,} bytes; it is listed as "
            f"{part.n_rows:,} ({part.kind}) in {part.size:,}",
            reason="malformed",
        )


class Item(NamedTuple):
    """Something to be listed: rows of it, unix milliseconds, and the stamp of the fact."""

    n_rows: int
    at_ms: int
    stamp: int


def arrange(
    before: Sequence[Part],
    items: Mapping[str, Item],
    load: Callable[[str], Rows | Statistics],
    loose: Collection[str] = (),
) -> tuple[tuple[Part, ...], dict[str, bytes]]:
    """The parts that hold exactly these items, with as few new bytes as is sensible.

    A part all of whose members stay is kept as it is; one that lost a member is packed again
    without it; what is new comes into one further part, together with parts that are no larger
    once there are `FAN_IN` of them: each part costs a topic and a listing, and packing again costs
    sending again. So of n rows, taught one by one, there are at most 3 log4(n) + 1 parts, and each
    row is sent log4(n) + 1 times. Where there are more than `MANY_PARTS`, sums among them, the
    smallest are packed into one.

    Args:
        before: the parts as they were. items: subject to what is to be listed.
        load: the content of a subject: int16 (n_rows, dim), or statistics. Called only for what
            is packed.
        loose: SHA-256 of parts that were never sent, so that packing them anew costs nothing:
            what is new goes together with them.

    Returns:
        The parts, and the bytes of the new ones by their SHA-256.
    """
    kept: list[Part] = []
    waiting = dict(items)
    is_changing = items.keys() != {m.subject for part in before for m in part.members}
    for part in before:
        if is_changing and part.kind == "rows" and part.sha256 in loose:
            continue
        if all(m.subject in items and items[m.subject].n_rows == m.n_rows for m in part.members):
            kept.append(_listed(part, part.members, items))
            for member in part.members:
                waiting.pop(member.subject, None)
    packed: dict[str, bytes] = {}
    rows: dict[str, Rows] = {}
    for subject in sorted(waiting):
        content = load(subject)
        if isinstance(content, Statistics):
            kept.append(_new("statistics", [subject], items, pack_statistics(content), packed))
        else:
            rows[subject] = content
    small = sorted((part for part in kept if part.kind == "rows"), key=lambda part: part.n_rows)
    joining = _alike(small, sum(map(len, rows.values()))) if rows else []
    if len(kept) - len(joining) + bool(rows) > MANY_PARTS:
        joining = small[: max(0, len(kept) + 1 - FEW_PARTS)]
    for part in joining:
        kept.remove(part)
        rows |= {m.subject: _rows_of(m.subject, load) for m in part.members}
    subjects = sorted(rows)
    while subjects:
        room = rows_limit(rows[subjects[0]].shape[1])
        chosen = [subjects.pop(0)]
        used = len(rows[chosen[0]])
        while subjects and used + len(rows[subjects[0]]) <= room:
            used += len(rows[subjects[0]])
            chosen.append(subjects.pop(0))
        joined = np.concatenate([rows[subject] for subject in chosen])
        kept.append(_new("rows", chosen, items, pack_rows(joined), packed))
    return tuple(kept), packed


def _alike(small: Sequence[Part], n_new: int) -> list[Part]:
    """The parts, smallest first, that `n_new` rows are packed together with."""
    joining: list[Part] = []
    while True:
        n = n_new + sum(part.n_rows for part in joining)
        below = FAN_IN * FAN_IN ** _level(n)
        found = [part for part in small if part.n_rows < below]
        if len(found) == len(joining) or len(found) - len(joining) + 1 < FAN_IN:
            return joining
        joining = found


def _level(n: int) -> int:
    """The largest k with FAN_IN**k <= n."""
    level = 0
    while n >= FAN_IN:
        n //= FAN_IN
        level += 1
    return level


def _rows_of(subject: str, load: Callable[[str], Rows | Statistics]) -> Rows:
    content = load(subject)
    assert isinstance(content, np.ndarray)
    return content


def _new(
    kind: PartKind,
    subjects: Sequence[str],
    items: Mapping[str, Item],
    data: bytes,
    packed: dict[str, bytes],
) -> Part:
    sha256 = hash_of(data)
    packed[sha256] = data
    return Part(sha256, len(data), kind, tuple(Member(s, *items[s]) for s in subjects))


def _listed(part: Part, members: Sequence[Member], items: Mapping[str, Item]) -> Part:
    """The part with the times and stamps of the items."""
    now = tuple(Member(m.subject, *items[m.subject]) for m in members)
    return part if now == part.members else Part(part.sha256, part.size, part.kind, now)


def _deflate(values: NDArray[Any], strategy: int) -> bytes:
    """Raw deflate over the planes of the bytes of little-endian values."""
    planes = values.reshape(-1, 1).view(np.uint8).T  # (bytes of a value, values)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    packed = []
    for plane in planes[:-1]:
        packed += [packer.compress(plane.tobytes()), packer.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join([*packed, packer.compress(planes[-1].tobytes()), packer.flush()])


def _inflate(data: bytes, dtype: str, size: int) -> NDArray[Any]:
    """The values whose planes were deflated to `data`, if they take `size` bytes."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        raw = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise Rejected(f"part that does not unpack: {error}", reason="malformed") from error
    if len(raw) != size or not unpacker.eof or unpacker.unused_data:
        raise Rejected(
            f"part whose content is not the {size:,} bytes that its header asks for",
            reason="malformed",
        )
    width = np.dtype(dtype).itemsize
    planes = np.frombuffer(raw, np.uint8).reshape(width, -1)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()
