"""What the store hands out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.statistics import Statistics


@dataclass(frozen=True)
class ClassRow:
    """One class as it is now.

    Attributes:
        id: UUIDv5 of class set and first label.
        name: display name (NFC).
        aliases: further names that lead here, sorted; those of merged classes too.
        shots, rows, folded_rows: active shots; their rows that are kept; rows that are only in the
            statistics. Of a root with merged classes: the totals.
        created_at: unix seconds.
        counts_as: id of the class that this one was merged into, else None.
        merged: names of the classes that count as this one.
        retain: "rows" or "statistics"; budget: rows kept at most.
        prompt: the text that it was taught by, or None. Of a root, its own.
        devices: other devices of the fleet with evidence in it, sorted.
        disabled: whether it is left out of what is answered.
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    shots: int
    rows: int
    folded_rows: int
    created_at: float
    counts_as: str | None
    merged: tuple[str, ...]
    retain: str
    budget: int
    prompt: str | None
    devices: tuple[str, ...] = ()
    disabled: bool = False


@dataclass(frozen=True)
class Shot:
    """One labelled piece of evidence, without its rows. `at` is in unix seconds.

    `device` says which device of the fleet taught it; it is empty for this one.
    """

    id: str
    class_id: str
    rows: int
    source: str
    actor: str
    at: float
    folded: bool
    has_thumb: bool
    device: str = ""


@dataclass(frozen=True)
class Refusal:
    """One "not this": an image that is not of its class. `at` and `device` as of a shot."""

    id: str
    class_id: str
    rows: int
    source: str
    actor: str
    at: float
    device: str = ""


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The evidence of one root class, merged classes included.

    Attributes:
        id, name: of the root class.
        rows: int16 (n, dim), shot after shot, oldest first.
        shot_ids: one per kept shot; counts: int64 (shots,), rows of each, adding up to n.
        folded: statistics of the rows that are not kept any more, or None.
        refused: int16 (m, dim), rows that the operator said are not of this class.
        text: int16 (dim,), what the root class was taught by name, or None.
        disabled: whether the root class is left out of what is answered.
    """

    id: str
    name: str
    rows: NDArray[np.int16]
    shot_ids: tuple[str, ...]
    counts: NDArray[np.int64]
    folded: Statistics | None
    refused: NDArray[np.int16]
    text: NDArray[np.int16] | None
    disabled: bool = False

    def statistics(self) -> Statistics:
        """Kept and folded rows together."""
        kept = Statistics.of(self.rows)
        return kept if self.folded is None else kept + self.folded

    def by_shot(self) -> Iterator[tuple[str, NDArray[np.int16]]]:
        """Shot ids with their rows, int16 (n_rows, dim)."""
        start = 0
        for shot, count in zip(self.shot_ids, self.counts.tolist(), strict=True):
            yield shot, self.rows[start : start + count]
            start += count


@dataclass(frozen=True)
class Entry:
    """One entry of the journal.

    Attributes:
        seq: its number, ascending. at: unix seconds.
        verb: teach, rename, remove, relabel, merge, split, retention, disable, enable, refuse,
            allow, forget, purge, sync, undo or redo.
        undoes: the entry that this undo (or redo, of an undo) reversed.
        undone_by: the entry that reversed this one; None while it is in effect.
        purged: what it changed was purged, so it cannot be undone any more.
    """

    seq: int
    at: float
    actor: str
    verb: str
    summary: str
    undoes: int | None
    undone_by: int | None
    purged: bool


@dataclass
class Teaching:
    """One teach command on its way; `Store.add_shot` fills it."""

    name: str
    actor: str
    seq: int | None = None
    class_id: str | None = None
    class_name: str = ""
    shots: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Purged:
    """What a purge deleted for good.

    Attributes:
        also_in: files that may still hold bytes of it: databases that a restore set aside, and the
            write-ahead log where another process read meanwhile or the disk failed. What is in
            the log goes when no process has the state open any more.
    """

    classes: int
    shots: int
    rows: int
    also_in: tuple[str, ...]
