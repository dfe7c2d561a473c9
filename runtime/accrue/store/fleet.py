"""The fleet's side of the database: which fleet, what was said by whom, and the packed parts.

SQL alone. What a contribution means, and how the tables follow from all of them, is in
`accrue.sync`; a `Voice` from there keeps the two together.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple, Protocol

Source = Literal["own", "peer", "manifest"]
Policy = Literal["open", "curated"]
MOST_SHOTS = 1_500  # own ones of a class: the list of more would not fit a message
COMPARE_ALL = -1  # as `said`: what the journal tells is not enough


class Joined(NamedTuple):
    """The fleet that a store belongs to, and what this device is called there."""

    fleet: str
    device: str


class Said(NamedTuple):
    """A stored contribution.

    Attributes:
        body: canonical bytes. signature: of them, None where an own one was not sent yet.
        acknowledged: own: revision that the broker has.
        considered: own: revision up to which the owner's manifest knew it.
        generation: when it was written: ascending over the whole store.
    """

    device: str
    class_id: str
    source: Source
    revision: int
    body: bytes
    signature: bytes | None
    acknowledged: int
    considered: int
    generation: int

    @property
    def key(self) -> tuple[str, str, Source]:
        return self.device, self.class_id, self.source


class Voice(Protocol):
    """Keeps a store's own contributions in step with its tables, inside its transactions."""

    def speak(self, db: sqlite3.Connection) -> None:
        """Says what the tables hold and the contributions do not, before the change commits."""
        ...

    def purge(self, db: sqlite3.Connection, class_ids: Collection[str]) -> None:
        """Drops the packed content of classes that are being purged."""
        ...


def joined(db: sqlite3.Connection) -> Joined | None:
    fleet, device = db.execute("SELECT fleet, device FROM meta").fetchone()
    return None if fleet is None else Joined(fleet, device)


def join(db: sqlite3.Connection, fleet: str, device: str) -> None:
    db.execute(
        "UPDATE meta SET fleet = ?, device = ?, policy = 'open', said = ?",
        (fleet, device, COMPARE_ALL),
    )


def leave(db: sqlite3.Connection) -> None:
    """Forgets the fleet and all that was said. The clock stays: stamps never go back."""
    for table in ("contribution", "part", "tombstone"):
        db.execute(f"DELETE FROM {table}")
    db.execute("DELETE FROM change WHERE tbl = 'tombstone'")
    db.execute(
        """UPDATE meta SET fleet = NULL, device = NULL, policy = 'open', said = 0,
        generation = generation + 1"""
    )


# ---- clock, policy, and how far the journal has been told ---------------------------------------


def clock(db: sqlite3.Connection) -> int:
    """The greatest stamp made or heard."""
    return int(db.execute("SELECT clock FROM meta").fetchone()[0])


def set_clock(db: sqlite3.Connection, stamp: int) -> None:
    db.execute("UPDATE meta SET clock = ?", (stamp,))


def policy(db: sqlite3.Connection) -> Policy:
    found: Policy = db.execute("SELECT policy FROM meta").fetchone()[0]
    return found


def set_policy(db: sqlite3.Connection, policy: Policy) -> None:
    db.execute("UPDATE meta SET policy = ?, generation = generation + 1", (policy,))


def untold(db: sqlite3.Connection) -> list[tuple[str, str, str, bool]] | None:
    """(table, key, column, changed) that the journal mentions since `told`; None: compare all."""
    (said,) = db.execute("SELECT said FROM meta").fetchone()
    if said == COMPARE_ALL:
        return None
    return [
        (row[0], row[1], row[2], bool(row[3]))
        for row in db.execute(
            "SELECT tbl, key, col, before IS NOT after FROM change WHERE position > ?", (said,)
        )
    ]


def told(db: sqlite3.Connection) -> None:
    db.execute("UPDATE meta SET said = (SELECT coalesce(max(position), 0) FROM change)")


def compare_all(db: sqlite3.Connection) -> None:
    """Notes that rows changed without the journal: folded, dropped or purged."""
    db.execute("UPDATE meta SET said = ? WHERE fleet IS NOT NULL", (COMPARE_ALL,))


# ---- contributions ------------------------------------------------------------------------------


def generation(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT generation FROM meta").fetchone()[0])


def generations(db: sqlite3.Connection) -> dict[tuple[str, str, Source], int]:
    """(device, class, source) of every contribution to when it was written."""
    return {
        (row[0], row[1], row[2]): row[3]
        for row in db.execute("SELECT device, class_id, source, generation FROM contribution")
    }


def generation_of(db: sqlite3.Connection, key: tuple[str, str, Source]) -> int:
    row = db.execute(
        "SELECT generation FROM contribution WHERE device = ? AND class_id = ? AND source = ?", key
    ).fetchone()
    return int(row[0])


def contribution(db: sqlite3.Connection, device: str, class_id: str, source: Source) -> Said | None:
    row = db.execute(
        "SELECT * FROM contribution WHERE device = ? AND class_id = ? AND source = ?",
        (device, class_id, source),
    ).fetchone()
    return None if row is None else Said(*row)


def contributions(db: sqlite3.Connection, source: Source) -> list[Said]:
    return [
        Said(*row)
        for row in db.execute(
            "SELECT * FROM contribution WHERE source = ? ORDER BY device, class_id", (source,)
        )
    ]


def put(
    db: sqlite3.Connection,
    key: tuple[str, str, Source],
    revision: int,
    body: bytes,
    signature: bytes | None = None,
) -> None:
    """Writes a contribution in the place of the one before."""
    db.execute("UPDATE meta SET generation = generation + 1")
    db.execute(
        """INSERT INTO contribution
        (device, class_id, source, revision, body, signature, generation)
        VALUES (?, ?, ?, ?, ?, ?, (SELECT generation FROM meta))
        ON CONFLICT DO UPDATE SET revision = excluded.revision, body = excluded.body,
        signature = excluded.signature, generation = excluded.generation""",
        (*key, revision, body, signature),
    )


def sign(db: sqlite3.Connection, key: tuple[str, str, Source], signature: bytes) -> None:
    db.execute(
        "UPDATE contribution SET signature = ? WHERE device = ? AND class_id = ? AND source = ?",
        (signature, *key),
    )


def sign_again(db: sqlite3.Connection, stamp: int) -> None:
    """Forgets the signatures of own contributions from a stamp on: a new key is for them."""
    db.execute(
        """UPDATE contribution SET signature = NULL, acknowledged = 0
        WHERE source = 'own' AND revision >= ?""",
        (stamp,),
    )


def drop(db: sqlite3.Connection, *, source: Source, device: str | None = None) -> int:
    """Deletes contributions of a source, of one device or of all; how many."""
    db.execute("UPDATE meta SET generation = generation + 1")
    return db.execute(
        "DELETE FROM contribution WHERE source = ? AND device = coalesce(?, device)",
        (source, device),
    ).rowcount


def acknowledge(db: sqlite3.Connection, class_id: str, revision: int) -> None:
    db.execute(
        """UPDATE contribution SET acknowledged = max(acknowledged, ?)
        WHERE class_id = ? AND source = 'own'""",
        (revision, class_id),
    )


def consider(db: sqlite3.Connection, class_id: str, revision: int) -> None:
    db.execute(
        "UPDATE contribution SET considered = ? WHERE class_id = ? AND source = 'own'",
        (revision, class_id),
    )


def unsent(db: sqlite3.Connection) -> list[str]:
    """Classes whose own contribution the broker has not acknowledged, oldest change first."""
    return [
        row[0]
        for row in db.execute(
            """SELECT class_id FROM contribution WHERE source = 'own' AND revision > acknowledged
            ORDER BY revision"""
        )
    ]


def revisions(db: sqlite3.Connection, source: Source) -> dict[tuple[str, str], int]:
    return {
        (row[0], row[1]): row[2]
        for row in db.execute(
            "SELECT device, class_id, revision FROM contribution WHERE source = ?", (source,)
        )
    }


def covering(db: sqlite3.Connection, class_id: str) -> dict[str, int]:
    """Device to revision: all that is known to have been said about a class."""
    return dict(
        db.execute(
            """SELECT device, max(revision) FROM contribution WHERE class_id = ?
            GROUP BY device ORDER BY device""",
            (class_id,),
        ).fetchall()
    )


# ---- tombstones ---------------------------------------------------------------------------------


def tombstone(db: sqlite3.Connection, class_id: str) -> dict[str, int]:
    """What this device said is gone: device to stamp; empty where it removed nothing."""
    row = db.execute("SELECT covered FROM tombstone WHERE class_id = ?", (class_id,)).fetchone()
    found: dict[str, int] = json.loads(row[0]) if row else {}
    return found


def tombstones(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    return {
        class_id: json.loads(covered)
        for class_id, covered in db.execute("SELECT class_id, covered FROM tombstone")
    }


def with_all_said(db: sqlite3.Connection, class_id: str) -> str:
    """The tombstone of a class after all that is known of it is removed, as it is stored."""
    covered = tombstone(db, class_id)
    for device, revision in covering(db, class_id).items():
        covered[device] = max(revision, covered.get(device, 0))
    return _dumped(covered)


def raise_tombstone(db: sqlite3.Connection, class_id: str) -> None:
    """Makes a row for an entry of the journal to change."""
    db.execute("INSERT OR IGNORE INTO tombstone (class_id, covered) VALUES (?, '{}')", (class_id,))


def set_tombstone(db: sqlite3.Connection, class_id: str, covered: str) -> None:
    """Outside of the journal: an undo cannot take it back."""
    raise_tombstone(db, class_id)
    db.execute("UPDATE tombstone SET covered = ? WHERE class_id = ?", (covered, class_id))
    db.execute("DELETE FROM change WHERE tbl = 'tombstone' AND key = ?", (class_id,))


def restore_tombstone(db: sqlite3.Connection, class_id: str, covered: dict[str, int]) -> None:
    """As `set_tombstone`, from what was said."""
    if covered or tombstone(db, class_id):
        set_tombstone(db, class_id, _dumped(covered))


def _dumped(covered: dict[str, int]) -> str:
    return json.dumps(covered, sort_keys=True, separators=(",", ":"))


# ---- parts --------------------------------------------------------------------------------------


def part(db: sqlite3.Connection, sha256: str) -> bytes | None:
    """Packed bytes; None where it is not here, or only unpacked in the tables."""
    row = db.execute("SELECT body FROM part WHERE sha256 = ?", (sha256,)).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def part_hashes(db: sqlite3.Connection) -> dict[str, bool]:
    """SHA-256 of each known part, and whether its packed bytes are here."""
    return {
        row[0]: bool(row[1])
        for row in db.execute("SELECT sha256, length(body) IS NOT NULL FROM part")
    }


def has_part(db: sqlite3.Connection, sha256: str) -> bool | None:
    """Whether its packed bytes are here; None where it is not known at all."""
    row = db.execute(
        "SELECT length(body) IS NOT NULL FROM part WHERE sha256 = ?", (sha256,)
    ).fetchone()
    return None if row is None else bool(row[0])


def put_part(db: sqlite3.Connection, sha256: str, body: bytes, *, own: bool = False) -> None:
    db.execute(
        """INSERT INTO part (sha256, body, own) VALUES (?, ?, ?)
        ON CONFLICT DO UPDATE SET body = excluded.body, own = max(own, excluded.own)""",
        (sha256, body, own),
    )


def drop_parts(db: sqlite3.Connection, hashes: Iterable[str]) -> None:
    db.executemany("DELETE FROM part WHERE sha256 = ?", [(one,) for one in hashes])


def disown_parts(db: sqlite3.Connection, hashes: Iterable[str]) -> None:
    """Notes that this device does not list parts any more; another still does."""
    db.executemany("UPDATE part SET own = 0 WHERE sha256 = ?", [(one,) for one in hashes])


# ---- check --------------------------------------------------------------------------------------


def problems(db: sqlite3.Connection) -> list[str]:
    """What is wrong with these tables by themselves, in words. Reads every part."""
    member = joined(db)
    found: list[str] = []
    if member is None:
        for table in ("contribution", "part", "tombstone"):
            (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
            found += [f"{table}: {count} rows in a state of no fleet"] if count else []
        return found
    last, told_to = db.execute("SELECT clock, said FROM meta").fetchone()
    (position,) = db.execute("SELECT coalesce(max(position), 0) FROM change").fetchone()
    if told_to > position:
        found.append(f"meta: said is {told_to}, the journal ends at {position}")
    for device, class_id, source, revision, body in db.execute(
        "SELECT device, class_id, source, revision, body FROM contribution"
    ):
        what = f"contribution {source} of {device} on {class_id}"
        try:
            head: Any = json.loads(body)
            of = head["device"], head["class"], head["revision"]
        except (ValueError, TypeError, KeyError, RecursionError):
            of = None
        if of != (device, class_id, revision):
            found.append(f"{what}: its body is of something else")
        if source == "own" and device != member.device:
            found.append(f"{what}: this device is {member.device}")
        if source == "peer" and device == member.device:
            found.append(f"{what}: this device is no peer of its own")
        if revision > last:
            found.append(f"{what}: revision {revision} is beyond the clock {last}")
    found += [
        f"part {sha256}: its bytes are of another"
        for sha256, body in db.execute("SELECT sha256, body FROM part WHERE body IS NOT NULL")
        if hashlib.sha256(body).hexdigest() != sha256
    ]
    return found
