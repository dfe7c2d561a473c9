"""The one idea: what was learned is a sum of integers.

An embedding of unit length is stored as ``q = rint(x * 2**15)`` (int16). For a set of rows the
statistics are ``n`` (their count), ``s = sum q`` and ``S = sum q q^T``. They are integers held in
float64: every product is below 2**30, so for up to 2**23 rows every partial sum is below 2**53 and
therefore exact, whatever the order, the batch size, the thread count or the machine.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.errors import FormatError, FutureVersion, RowsError

Rows = NDArray[np.int16]
Floats = NDArray[np.float64]

SCALE = 2**15  # one unit of length in int16 steps
LARGEST = 32_767  # +1.0 would be 32,768, one more than int16 holds
ROW_LIMIT = 2**23  # n * 2**30 must stay within the 2**53 that float64 counts exactly
FORMAT_VERSION = 1
MAX_DIM = 65_536
_MAGIC = b"ACCRSTAT"
_HEAD = struct.Struct("<8sHHIQ")  # magic, version, reserved, dim, n
_BLOCK_ROWS = 4096


def quantise(embeddings: NDArray[Any]) -> Rows:
    """Embeddings as stored rows: unit length, then ``rint(x * 2**15)``.

    Args:
        embeddings: float (n, dim), of any length but zero.

    Returns:
        int16 (n, dim), clipped to +-32767.

    Raises:
        RowsError: not two-dimensional, not finite, or a row of length zero.
    """
    x = np.asarray(embeddings)
    if x.ndim != 2:
        raise RowsError(
            f"embeddings of shape {x.shape}; expected (n, dim)", found=x.shape, expected="(n, dim)"
        )
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise RowsError(f"embedding {row} has a value that is not finite (NaN or infinity)")
    largest = np.abs(x).max(axis=1, initial=0.0)
    if len(x) and largest.min() == 0:
        raise RowsError(f"embedding {int(largest.argmin())} has length zero")
    x = np.ldexp(x, -np.frexp(largest)[1][:, None])  # squares neither overflow nor vanish
    length = np.sqrt(np.einsum("ij,ij->i", x, x))
    q = np.rint(x / length[:, None] * SCALE)
    clipped: Rows = np.clip(q, -LARGEST, LARGEST).astype(np.int16)
    return clipped


def check_rows(rows: NDArray[Any], dim: int) -> Rows:
    """The same rows, if they are int16 (n, dim) and hold no -32768.

    Raises:
        RowsError: other dtype (a float row has not been through `quantise`), shape or value.
    """
    if rows.dtype != np.int16:
        raise RowsError(
            f"rows of dtype {rows.dtype}; expected int16 as quantise() makes them",
            found=str(rows.dtype),
            expected="int16",
        )
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise RowsError(
            f"rows of shape {rows.shape}; expected (n, {dim})", found=rows.shape, expected=dim
        )
    if rows.size and rows.min() < -LARGEST:
        raise RowsError(f"a row holds -32768; expected values within +-{LARGEST}")
    return rows


def gram(rows: Rows) -> Floats:
    """``sum q q^T`` of int16 rows (n, dim): float64 (dim, dim), exact."""
    dim = rows.shape[1]
    total = np.zeros((dim, dim))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS].astype(np.float64)
        total += block.T @ block
    return total


def require_room(n: int) -> None:
    """Raises RowsError where ``n`` rows would leave the range in which sums are exact."""
    if n > ROW_LIMIT:
        raise RowsError(
            f"{n:,} rows; at most {ROW_LIMIT:,} (2**23) can be summed exactly",
            hint="split the class set",
            found=n,
            expected=ROW_LIMIT,
        )


@dataclass(frozen=True, eq=False)
class Statistics:
    """Count, sum and second moment of a set of rows.

    Attributes:
        n: number of rows.
        s: float64 (dim,), integer valued, ``sum q``.
        S: float64 (dim, dim), integer valued, symmetric, ``sum q q^T``.
    """

    n: int
    s: Floats
    S: Floats

    @property
    def dim(self) -> int:
        return len(self.s)

    @classmethod
    def zeros(cls, dim: int) -> Statistics:
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, rows: Rows) -> Statistics:
        """Statistics of int16 rows (n, dim)."""
        check_rows(rows, rows.shape[-1])
        require_room(len(rows))
        return cls(len(rows), rows.sum(axis=0, dtype=np.int64).astype(np.float64), gram(rows))

    def __add__(self, other: Statistics) -> Statistics:
        self._require_same_dim(other)
        require_room(self.n + other.n)
        return Statistics(self.n + other.n, self.s + other.s, self.S + other.S)

    def __sub__(self, other: Statistics) -> Statistics:
        """What is left when `other` is taken away again.

        Raises:
            RowsError: `other` cannot have been part of this sum.
        """
        self._require_same_dim(other)
        left = Statistics(self.n - other.n, self.s - other.s, self.S - other.S)
        if not left.is_possible():
            raise RowsError(
                f"{other.n} rows to take away were never part of this sum of {self.n} rows",
                found=other.n,
                expected=self.n,
            )
        return left

    def _require_same_dim(self, other: Statistics) -> None:
        if self.dim != other.dim:
            raise RowsError(
                f"statistics of dimension {other.dim}; expected {self.dim}",
                found=other.dim,
                expected=self.dim,
            )

    def is_possible(self) -> bool:
        """Whether some set of ``n`` rows could have these sums (necessary, not sufficient)."""
        if self.n <= 0:
            return self.n == 0 and not self.s.any() and not self.S.any()
        diagonal = self.S.diagonal()
        return bool(
            (diagonal >= 0).all()
            and (diagonal <= self.n * float(LARGEST**2)).all()
            and (self.s**2 <= self.n * diagonal).all()  # Cauchy and Schwarz
            and (np.square(self.S) <= np.outer(diagonal, diagonal)).all()
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics):
            return NotImplemented
        return (
            self.n == other.n
            and np.array_equal(self.s, other.s)
            and np.array_equal(self.S, other.S)
        )

    __hash__ = None  # type: ignore[assignment]

    def payload(self) -> bytes:
        """``s`` then the upper triangle of ``S`` by rows, int64 little-endian."""
        upper = self.S[np.triu_indices(self.dim)]
        return np.concatenate([self.s, upper]).astype("<i8").tobytes()

    def to_bytes(self) -> bytes:
        """Canonical bytes (docs/reference/state-format.md): equal sums give equal bytes."""
        return _HEAD.pack(_MAGIC, FORMAT_VERSION, 0, self.dim, self.n) + self.payload()

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """Reads `to_bytes`.

        Raises:
            FormatError: other magic or length, or sums that no rows can have.
            FutureVersion: written by a newer Accrue.
            RowsError: more than 2**23 rows.
        """
        _, _, dim, n = read_head(data, _HEAD, _MAGIC, "statistics")
        return cls.from_payload(n, dim, data[_HEAD.size :])

    @classmethod
    def from_payload(cls, n: int, dim: int, payload: bytes) -> Statistics:
        expected = payload_size(dim)
        if len(payload) != expected:
            raise FormatError(
                f"statistics of {len(payload):,} bytes; expected {expected:,} for dimension {dim}",
                found=len(payload),
                expected=expected,
            )
        require_room(n)
        values = np.frombuffer(payload, "<i8")
        if values.size and (values.max() > 2**53 or values.min() < -(2**53)):
            raise FormatError("statistics hold a value beyond 2**53; expected exact sums")
        values = values.astype(np.float64)
        second = np.zeros((dim, dim))
        second[np.triu_indices(dim)] = values[dim:]
        second += np.triu(second, 1).T
        found = cls(n, values[:dim], second)
        if not found.is_possible():
            raise FormatError(f"statistics that no {n} rows can have; the bytes were altered")
        return found

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex characters."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read_head(data: bytes, head: struct.Struct, magic: bytes, what: str) -> tuple[Any, ...]:
    """The fields of a header of this format after its magic: version, reserved, dim, the rest.

    Raises:
        FormatError: another magic, cut short, no version 1 header, or an impossible dimension.
        FutureVersion: written by a newer Accrue.
    """
    if data[:8] != magic:
        raise FormatError(f"no {what}: expected {magic!r} at the start, found {data[:8]!r}")
    if len(data) < head.size:
        raise FormatError(f"{what} cut short at byte {len(data):,}", found=len(data))
    fields = head.unpack_from(data)[1:]
    version, reserved, dim = fields[:3]
    if version > FORMAT_VERSION:
        raise FutureVersion(
            f"{what} of format {version}; this Accrue reads up to {FORMAT_VERSION}",
            hint="update Accrue",
            found=version,
            expected=FORMAT_VERSION,
        )
    if version < 1 or reserved != 0:
        raise FormatError(f"{what} of format {version}.{reserved}; the bytes were altered")
    if not 1 <= dim <= MAX_DIM:
        raise FormatError(f"dimension {dim}; expected 1 to {MAX_DIM:,}", found=dim)
    return fields


def payload_size(dim: int) -> int:
    """Bytes of `Statistics.payload` at this dimension."""
    return 8 * (dim + dim * (dim + 1) // 2)
