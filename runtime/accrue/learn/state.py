"""The learned state: the statistics of each class, and their total."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np

from accrue.errors import FormatError, NotFound, RowsError, SpaceMismatch
from accrue.learn.statistics import (
    FORMAT_VERSION,
    MAX_DIM,
    Floats,
    Rows,
    Statistics,
    check_rows,
    gram,
    payload_size,
    read_head,
    require_room,
)

_MAGIC = b"ACCRUEST"
_HEAD = struct.Struct("<8sHHI32sI")  # magic, version, reserved, dim, space id, classes
_CLASS = struct.Struct("<HQ")  # length of the id in UTF-8, n
# what waits before one matrix product adds it to the total
_PENDING_ROWS, _PENDING_BLOCKS = 1024, 128


class _Class:
    """Sums of one class. Few rows are far smaller than their second moment, so they stay rows."""

    __slots__ = ("_digest", "blocks", "folded", "n", "s")

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.s: Floats = np.zeros(dim)
        self.blocks: list[Rows] = []  # as they were added; none is ever written to
        self.folded: Statistics | None = None
        self._digest: bytes | None = None

    def copy(self) -> _Class:
        """The same; rows, statistics and digest are never changed in place, and are shared."""
        other = _Class(0)
        other.n, other.s, other.blocks = self.n, self.s.copy(), self.blocks.copy()
        other.folded, other._digest = self.folded, self._digest
        return other

    def add(self, rows: Rows) -> None:
        self.blocks.append(rows.copy() if rows.flags.writeable else rows)
        self.n += len(rows)
        self.s += rows.sum(axis=0, dtype=np.int64)
        self._digest = None

    def subtract(self, rows: Rows) -> None:
        held, gone = _counted(self.blocks), _counted([rows])
        if gone <= held:
            self.blocks = [self._joined(held - gone)]
        elif self.folded is not None:
            self.folded = self.statistics() - Statistics.of(rows)
            self.blocks = []
        else:
            missing = (gone - held).total()
            raise RowsError(f"{missing} rows to take away were never added to this class")
        self.n -= len(rows)
        self.s -= rows.sum(axis=0, dtype=np.int64)
        self._digest = None

    def fold(self, statistics: Statistics) -> None:
        self.folded = statistics if self.folded is None else self.folded + statistics
        self.n += statistics.n
        self.s += statistics.s
        self._digest = None

    def kept(self) -> Rows:
        """The rows kept as rows: int16 (n, dim), in an order that only they decide."""
        return self._joined(_counted(self.blocks))

    def _joined(self, rows: Counter[bytes]) -> Rows:
        joined = b"".join(row * count for row, count in sorted(rows.items()))
        return np.frombuffer(joined, np.int16).reshape(-1, len(self.s))

    def second_moment(self) -> Floats:
        total = gram(self.kept())
        return total if self.folded is None else total + self.folded.S

    def statistics(self) -> Statistics:
        return Statistics(self.n, self.s.copy(), self.second_moment())

    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = bytes.fromhex(self.statistics().digest())
        return self._digest


def _counted(blocks: list[Rows]) -> Counter[bytes]:
    """How often each row is there."""
    return Counter(row.tobytes() for block in blocks for row in block)


class State:
    """Classes of one embedding space, as exact sums.

    Adding, merging, subtracting and removing are integer arithmetic: any order and any split of
    the same rows gives the same `digest`, and a class removed leaves what a state holds that
    never saw it. It does no I/O and is not safe to share between threads.

    Cost: `add` of a row is O(dim), `subtract` goes through the rows of its class; the O(dim**2) sum
    waits for `total`. Memory is 2 * dim bytes a row, none for rows that were given as an array that
    cannot be written to, which is kept itself; 8 * dim**2 bytes for a class given as `Statistics`,
    and 8 * dim**2 for the total.

    Args:
        space: the space id, 64 hex characters.
        dim: dimension of the embeddings.
    """

    def __init__(self, space: str, dim: int) -> None:
        if len(space) != 64 or any(c not in "0123456789abcdef" for c in space):
            raise FormatError(f"space id {space!r}; expected 64 hex characters", found=space)
        if not 1 <= dim <= MAX_DIM:
            raise FormatError(f"dimension {dim}; expected 1 to {MAX_DIM:,}", found=dim)
        self.space = space
        self.dim = dim
        self.n = 0
        self.square_sum = 0.0  # the trace of the total, exact like it
        self._classes: dict[str, _Class] = {}
        self._shared: set[str] = set()  # classes that a copy holds too, until one of them changes
        self._total: Floats = np.zeros((0, 0))  # (dim, dim) with the first row: see `_summed`
        self._pending: dict[int, list[Rows]] = {1: [], -1: []}
        self._pending_rows = 0

    def copy(self) -> State:
        """The same state, to be changed by itself. O(classes + dim**2); rows are not copied."""
        other = State(self.space, self.dim)
        other._total = self.total.copy() if self.n or len(self._total) else np.zeros((0, 0))
        other.n, other.square_sum = self.n, self.square_sum
        other._classes = self._classes.copy()
        self._shared, other._shared = set(self._classes), set(self._classes)
        return other

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, class_id: object) -> bool:
        return class_id in self._classes

    def __iter__(self) -> Iterator[str]:
        """Class ids in canonical order (by their UTF-8 bytes)."""
        return iter(sorted(self._classes, key=str.encode))

    def count(self, class_id: str) -> int:
        """Rows of a class; 0 where it is not known."""
        found = self._classes.get(class_id)
        return found.n if found else 0

    def sum(self, class_id: str) -> Floats:
        """``s`` of a class: float64 (dim,), not to be written to."""
        return self._known(class_id).s

    def kept(self, class_id: str) -> Rows:
        """Rows of a class that are held as rows: int16 (n, dim)."""
        return self._known(class_id).kept()

    def folded(self) -> list[str]:
        """Ids of the classes whose rows are not all held as rows."""
        return [class_id for class_id in self if self._classes[class_id].folded is not None]

    def statistics(self, class_id: str) -> Statistics:
        return self._known(class_id).statistics()

    def counts(self) -> Floats:
        """Rows of each class in canonical order: float64 (n_classes,)."""
        return np.array([float(self._classes[c].n) for c in self])

    def sums(self) -> Floats:
        """``s`` of each class in canonical order: float64 (n_classes, dim)."""
        return np.array([self._classes[c].s for c in self]).reshape(-1, self.dim)

    @property
    def total(self) -> Floats:
        """``A``, the sum of all classes' ``S``: float64 (dim, dim), not to be written to."""
        total = self._summed()
        for sign, waiting in self._pending.items():
            if waiting:
                total += sign * gram(np.concatenate(waiting))
                waiting.clear()
        self._pending_rows = 0
        return total

    def _summed(self) -> Floats:
        """The total without what is pending; a header alone must not ask for dim**2 of memory."""
        if len(self._total) != self.dim:
            self._total = np.zeros((self.dim, self.dim))
        return self._total

    def add(self, class_id: str, rows: Rows) -> None:
        """Adds int16 rows (n, dim), creating the class where it is new.

        Raises:
            RowsError: wrong dtype or shape, or more than 2**23 rows in all.
        """
        check_rows(rows, self.dim)
        require_room(self.n + len(rows))
        if len(rows) == 0:
            return
        if class_id not in self._classes:
            _require_id(class_id)
            self._classes[class_id] = _Class(self.dim)
        self._own(class_id).add(rows)
        self._change(rows, +1)

    def subtract(self, class_id: str, rows: Rows) -> None:
        """Takes away rows that were added before; a class without rows is gone.

        Raises:
            NotFound: no such class.
            RowsError: wrong dtype or shape, or rows that this class does not hold.
        """
        check_rows(rows, self.dim)
        self._known(class_id)
        found = self._own(class_id)
        found.subtract(rows)
        if found.n == 0:
            del self._classes[class_id]
        self._change(rows, -1)

    def _change(self, rows: Rows, sign: int) -> None:
        self.n += sign * len(rows)
        flat = rows.ravel().astype(np.float64)
        self.square_sum += sign * float(flat @ flat)
        self._pending[sign].append(rows.copy())
        self._pending_rows += len(rows)
        blocks = len(self._pending[1]) + len(self._pending[-1])
        if self._pending_rows >= _PENDING_ROWS or blocks >= _PENDING_BLOCKS:
            _ = self.total

    def add_statistics(self, class_id: str, statistics: Statistics) -> None:
        """Adds the sums of rows that are no longer at hand."""
        if statistics.dim != self.dim:
            raise RowsError(
                f"statistics of dimension {statistics.dim}; expected {self.dim}",
                found=statistics.dim,
                expected=self.dim,
            )
        require_room(self.n + statistics.n)
        if statistics.n == 0:
            return
        if class_id not in self._classes:
            _require_id(class_id)
            self._classes[class_id] = _Class(self.dim)
        self._own(class_id).fold(statistics)
        total = self._summed()
        total += statistics.S
        self.square_sum += float(statistics.S.trace())
        self.n += statistics.n

    def remove(self, class_id: str) -> Statistics:
        """Forgets a class; returns what it held. The rest is as if it had never been taught."""
        gone = self._known(class_id).statistics()
        total = self._summed()
        total -= gone.S  # the pending rows of this class will still be added: order is free
        self.square_sum -= float(gone.S.trace())
        self.n -= gone.n
        del self._classes[class_id]
        return gone

    def merge(self, other: State) -> None:
        """Adds everything that another state of the same space holds.

        Raises:
            SpaceMismatch: the other state is of another embedding space.
        """
        if (other.space, other.dim) != (self.space, self.dim):
            raise SpaceMismatch(
                f"state of space {other.space[:12]} ({other.dim}-d) cannot be added to one of "
                f"space {self.space[:12]} ({self.dim}-d)",
                hint="teach both with the same encoder bundle",
                found=other.space,
                expected=self.space,
            )
        require_room(self.n + other.n)
        for class_id in other:
            theirs = other._classes[class_id]
            self.add(class_id, theirs.kept())
            if theirs.folded is not None:
                self.add_statistics(class_id, theirs.folded)

    def _own(self, class_id: str) -> _Class:
        """A class that is there, to be changed."""
        if class_id in self._shared:
            self._shared.discard(class_id)
            self._classes[class_id] = self._classes[class_id].copy()
        return self._classes[class_id]

    def _known(self, class_id: str) -> _Class:
        try:
            return self._classes[class_id]
        except KeyError:
            raise NotFound(f"no class {class_id!r} in this state", found=class_id) from None

    def class_digest(self, class_id: str) -> str:
        """SHA-256 of the class's statistics, 64 hex characters."""
        return self._known(class_id).digest().hex()

    def digest(self) -> str:
        """SHA-256 over the header, and id, count and digest of each class in canonical order.

        Two states with the same digest have learned the same thing.
        """
        hasher = hashlib.sha256(self._header())
        for class_id in self:
            found = self._classes[class_id]
            hasher.update(_class_header(class_id, found.n) + found.digest())
        return hasher.hexdigest()

    def _header(self) -> bytes:
        return _HEAD.pack(
            _MAGIC, FORMAT_VERSION, 0, self.dim, bytes.fromhex(self.space), len(self._classes)
        )

    def to_bytes(self) -> bytes:
        """Canonical bytes (docs/reference/state-format.md): about 4 * dim**2 bytes a class."""
        parts = [self._header()]
        for class_id in self:
            found = self._classes[class_id]
            parts += [_class_header(class_id, found.n), found.statistics().payload()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Reads `to_bytes`.

        Raises:
            FormatError: not a state, cut short, too long, or not in canonical order.
            FutureVersion: written by a newer Accrue.
            RowsError: more than 2**23 rows in all.
        """
        _, _, dim, space, classes = read_head(data, _HEAD, _MAGIC, "state")
        size, at, previous = payload_size(dim), _HEAD.size, b""
        if at + classes * (_CLASS.size + 1 + size) > len(data):  # before memory is set aside
            raise FormatError(f"state cut short at byte {len(data):,}", found=len(data))
        state = cls(space.hex(), dim)
        for _ in range(classes):
            if at + _CLASS.size > len(data):
                raise FormatError(f"state cut short at byte {len(data):,}", found=len(data))
            length, n = _CLASS.unpack_from(data, at)
            at += _CLASS.size
            if at + length + size > len(data):
                raise FormatError(f"state cut short at byte {len(data):,}", found=len(data))
            name = data[at : at + length]
            if n == 0 or name <= previous:
                raise FormatError("state with an empty class or classes out of order")
            at, previous = at + length, name
            try:
                class_id = name.decode()
            except UnicodeDecodeError:
                raise FormatError(f"state with a class id that is not UTF-8: {name!r}") from None
            state.add_statistics(class_id, Statistics.from_payload(n, dim, data[at : at + size]))
            at += size
        if at != len(data):
            raise FormatError(f"state of {len(data):,} bytes; expected {at:,}", found=len(data))
        return state


def _require_id(class_id: str) -> None:
    try:
        class_id.encode()
    except UnicodeEncodeError:
        raise RowsError(f"class id {class_id!r}; expected text that UTF-8 can hold") from None
    if not 1 <= len(class_id.encode()) <= 65_535:
        raise RowsError(f"class id of {len(class_id)} characters; expected 1 to 65,535 bytes")


def _class_header(class_id: str, n: int) -> bytes:
    name = class_id.encode()
    return _CLASS.pack(len(name), n) + name
