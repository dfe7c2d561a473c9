"""The byte budget of a device: what goes first when a state outgrows it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from accrue.learn.statistics import payload_size

DEFAULT_MEMORY_BYTES = 2**30
ROOM = 0.95  # of the budget once it is exceeded: one clearing for many shots, not one for each
FOLD_ROWS = 20  # of a class that stay as rows when others are folded: they calibrate and explain
LEAST_ROWS = 5  # of a class that stay when whole shots have to go; and never less than one shot
_THUMBS = 256  # thumbnails dropped at a time

_FoldShots = Callable[[str, int], int]  # (class id, rows to keep) -> how many were let go


@dataclass(frozen=True)
class Held:
    """Bytes of what was taught, as the budget counts them (the journal and names are not)."""

    rows: int
    thumbnails: int
    statistics: int
    packed: int = 0  # parts of a fleet, as they are sent

    @property
    def total(self) -> int:
        return self.rows + self.thumbnails + self.statistics + self.packed


def held(db: sqlite3.Connection, dim: int) -> Held:
    """From indexes alone: rows and thumbnails are not read."""
    rows, refused, thumbs, statistics, packed = db.execute(
        """SELECT (SELECT coalesce(sum(n_rows * (1 - folded)), 0) FROM shot),
        (SELECT coalesce(sum(n_rows), 0) FROM refusal),
        (SELECT coalesce(sum(length(thumb)), 0) FROM shot WHERE thumb IS NOT NULL),
        (SELECT coalesce(sum(length(statistics)), 0) FROM folded),
        (SELECT coalesce(sum(length(body)), 0) FROM part)"""
    ).fetchone()
    return Held(2 * dim * (rows + refused), thumbs, statistics, packed)


def clear(
    db: sqlite3.Connection, dim: int, budget: int, fold: _FoldShots, forget: _FoldShots
) -> bool:
    """Brings the state under its budget, where it is over. What goes, in this order:

    1. thumbnails, oldest shot first; then the packed parts of other devices, whose content is in
       the tables as well;
    2. rows, thumbnails and statistics of what was removed or undone: it stays that way for good;
    3. rows into the statistics of their class, where that makes the state smaller: a class with
       statistics already, else one with so many rows that they outweigh the statistics, which
       take ``8 * (dim + dim * (dim + 1) / 2)`` bytes; the largest gain first. What was learned
       does not change;
    4. whole shots, of the class with the most rows each time: what was learned is then what the
       remaining shots teach.

    In 3 and 4 own shots alone are let go of: those that the others of the class reconstruct best;
    `FOLD_ROWS` rows of each class stay in 3, `LEAST_ROWS` in 4.

    Returns:
        False where all that may go is gone, and it is still over.
    """
    if held(db, dim).total <= budget:
        return True
    target = int(budget * ROOM)

    def over() -> int:
        return held(db, dim).total - target

    while over() > 0 and _drop_thumbs(db, over()):
        pass
    if over() > 0:
        db.execute("UPDATE part SET body = NULL WHERE own = 0")
    if over() > 0:
        _drop_inactive(db)
    for class_id, n_rows in _by_gain(db, dim):
        excess = over()
        if excess <= 0:
            break
        cost = 0 if _has_statistics(db, class_id) else payload_size(dim)
        wanted = -(-(excess + cost) // (2 * dim))
        fold(class_id, max(FOLD_ROWS, n_rows - wanted))
    while (excess := over()) > 0:
        largest = _largest(db)
        if largest is None:
            break
        class_id, n_rows, second = largest
        wanted = min(-(-excess // (2 * dim)), max(n_rows - second, n_rows // 10, 1))
        if not forget(class_id, max(LEAST_ROWS, n_rows - wanted)):
            break
    return held(db, dim).total <= budget


def _drop_thumbs(db: sqlite3.Connection, excess: int) -> bool:
    oldest = db.execute(
        "SELECT id, length(thumb) FROM shot WHERE thumb IS NOT NULL ORDER BY id LIMIT ?", (_THUMBS,)
    ).fetchall()
    gone = []
    for shot, size in oldest:
        if excess <= 0:
            break
        gone.append((shot,))
        excess -= size
    db.executemany("UPDATE shot SET thumb = NULL WHERE id = ?", gone)
    return bool(gone)


def _drop_inactive(db: sqlite3.Connection) -> None:
    """A journal entry that would bring these back finds `folded` changed, and is refused."""
    db.execute("UPDATE shot SET rows = NULL, folded = 1 WHERE active = 0 AND folded = 0")
    db.execute("DELETE FROM folded WHERE active = 0")


def _by_gain(db: sqlite3.Connection, dim: int) -> list[tuple[str, int]]:
    """(class id, kept rows) of classes that folding makes smaller, by how much it would."""
    found = []
    for class_id, rows in _kept(db):
        cost = 0 if _has_statistics(db, class_id) else payload_size(dim)
        gain = 2 * dim * (rows - FOLD_ROWS) - cost
        if gain > 0:
            found.append((gain, class_id, rows))
    return [(class_id, rows) for _, class_id, rows in sorted(found, reverse=True)]


def _largest(db: sqlite3.Connection) -> tuple[str, int, int] | None:
    """The class with the most kept rows, how many, and how many the next one has."""
    rows = sorted(((n, c) for c, n in _kept(db)), reverse=True)
    if not rows or rows[0][0] <= LEAST_ROWS:
        return None
    return rows[0][1], rows[0][0], rows[1][0] if len(rows) > 1 else 0


def _kept(db: sqlite3.Connection) -> list[tuple[str, int]]:
    return db.execute(
        """SELECT class_id, sum(n_rows) FROM shot
        WHERE active = 1 AND folded = 0 AND device = '' GROUP BY class_id"""
    ).fetchall()


def _has_statistics(db: sqlite3.Connection, class_id: str) -> bool:
    row = db.execute(
        "SELECT 1 FROM folded WHERE class_id = ? AND active = 1 AND device = ''", (class_id,)
    )
    return row.fetchone() is not None
