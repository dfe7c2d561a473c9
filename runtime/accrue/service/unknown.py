"""What the cameras saw and nobody named: a bounded ring of moments, to be named in groups.

It is a file of its own, `unknown.db`: these are questions, not evidence, and losing one costs
nothing that was taught.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from accrue.errors import NotFound
from accrue.learn.statistics import SCALE
from accrue.store.database import Database

FILE_NAME = "unknown.db"
DEFAULT_MOMENTS = 300
SAME = 0.97  # cosine to the newest moments of a camera from which it is one of them again
SAME_WITHIN_S = 600.0
SPACING_S = 2.0  # between two moments of one camera
MIGRATIONS = (  # as of `Database.versioned`
    (
        """CREATE TABLE moment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    last_at REAL NOT NULL,
    seen INTEGER NOT NULL,
    camera TEXT NOT NULL,
    space_id TEXT NOT NULL,
    n_rows INTEGER NOT NULL CHECK (n_rows > 0),
    rows BLOB NOT NULL,
    thumb BLOB,
    verdict TEXT NOT NULL,
    class_id TEXT NOT NULL,
    margin REAL,
    shot TEXT)""",
    ),
)


@dataclass(frozen=True)
class Moment:
    """Something that was not recognised, or hardly.

    Attributes:
        at, last_at: Unix seconds of its first and last frame. seen: how often.
        verdict, class_id, margin: of the answer at its first frame: `unknown` or `maybe`, and the
            nearest class; margin None where there was no second.
        shot: id of the shot that it became when it was named, else "".
    """

    id: int
    at: float
    last_at: float
    seen: int
    camera: str
    rows: int
    verdict: str
    class_id: str
    margin: float | None
    shot: str


_COLUMNS = "id, at, last_at, seen, camera, n_rows, verdict, class_id, margin, coalesce(shot, '')"


class Queue:
    """The ring, in the state folder. When it is full, the oldest moment makes room.

    Args:
        space_id: of the encoder in use; moments of another one are not shown and go first.
        most: moments to keep.
    """

    def __init__(
        self,
        state: Path,
        space_id: str,
        dim: int,
        *,
        most: int = DEFAULT_MOMENTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._space_id, self._dim, self._most, self._clock = space_id, dim, most, clock
        self._database = Database.versioned(
            state / FILE_NAME,
            MIGRATIONS,
            hint="update Accrue, or move the file away: it holds questions, no evidence",
        )

    def close(self) -> None:
        self._database.close()

    def wants(self, camera: str, query: NDArray[np.float32], at: float) -> bool:
        """Whether a moment would be new, so that its views are worth encoding.

        One that repeats a moment of the last ten minutes is counted as that moment again; one that
        comes within 2 s of the last of its camera is left out.

        Args:
            query: float32 (dim,) of unit length or less.
        """
        with self._database.atomic() as db:
            recent = db.execute(
                """SELECT id, rows, last_at FROM moment
                WHERE camera = ? AND space_id = ? AND last_at > ? AND last_at <= ?
                ORDER BY id DESC LIMIT 50""",  # later ones are of a clock that was set back since
                (camera, self._space_id, at - SAME_WITHIN_S, at),
            ).fetchall()
            for number, blob, _ in recent:
                first = _rows(blob, self._dim)[0] / SCALE
                cosine = first @ query / max(float(np.linalg.norm(query)), 1e-12)
                if cosine >= SAME:
                    db.execute(
                        "UPDATE moment SET seen = seen + 1, last_at = ? WHERE id = ?", (at, number)
                    )
                    return False
            return all(at - last_at >= SPACING_S for *_, last_at in recent)

    def add(
        self,
        camera: str,
        rows: NDArray[np.int16],
        *,
        at: float,
        verdict: str,
        class_id: str,
        margin: float | None,
        thumb: bytes | None = None,
    ) -> int:
        """Keeps a moment; its id. The oldest go where there are more than `most`.

        Args:
            rows: int16 (views, dim). thumb: a small JPEG.
        """
        with self._database.atomic() as db:
            db.execute("DELETE FROM moment WHERE space_id != ?", (self._space_id,))
            cursor = db.execute(
                """INSERT INTO moment (at, last_at, seen, camera, space_id, n_rows, rows, thumb,
                verdict, class_id, margin) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    at, at, camera, self._space_id, len(rows), rows.astype("<i2").tobytes(),
                    thumb, verdict, class_id, margin,
                ),
            )  # fmt: skip
            db.execute(
                """DELETE FROM moment WHERE id NOT IN
                (SELECT id FROM moment ORDER BY id DESC LIMIT ?)""",
                (self._most,),
            )
            return int(cursor.lastrowid or 0)

    def moments(self) -> list[tuple[Moment, NDArray[np.int16]]]:
        """Those of this encoder, oldest first, with their rows, int16 (views, dim)."""
        with self._database.reading() as db:
            found = db.execute(
                f"SELECT rows, {_COLUMNS} FROM moment WHERE space_id = ? ORDER BY id",
                (self._space_id,),
            ).fetchall()
        return [(Moment(*row[1:]), _rows(row[0], self._dim)) for row in found]

    def thumb(self, moment: int) -> bytes | None:
        """The thumbnail's bytes (JPEG). Raises NotFound."""
        with self._database.reading() as db:
            row = db.execute("SELECT thumb FROM moment WHERE id = ?", (moment,)).fetchone()
        if row is None:
            raise _gone(moment)
        return None if row[0] is None else bytes(row[0])

    def named(self, moment: int, shot: str) -> None:
        """Says which shot a moment became; it is not asked about while that shot is there."""
        with self._database.atomic() as db:
            db.execute("UPDATE moment SET shot = ? WHERE id = ?", (shot, moment))

    def ignore(self, moments: Sequence[int]) -> None:
        """Deletes moments for good. Raises NotFound; then none is deleted."""
        with self._database.atomic() as db:
            for moment in moments:
                if db.execute("DELETE FROM moment WHERE id = ?", (moment,)).rowcount == 0:
                    raise _gone(moment)


def present(state: Path) -> bool:
    return (state / FILE_NAME).exists()


def _gone(moment: int) -> NotFound:
    return NotFound(
        f"no moment {moment}: it was ignored, or newer ones took its place",
        hint="see `accrue unknown list`",
        found=moment,
    )


def _rows(blob: bytes, dim: int) -> NDArray[np.int16]:
    return np.frombuffer(blob, "<i2").reshape(-1, dim).astype(np.int16)
