"""The journal: every change is an entry of column changes, and one rule undoes any entry.

An entry mentions columns. A column that it *changed* has another value after than before; a column
that it *holds* is one that it relied on (teaching relies on the class being active) and is
mentioned with the same value twice. A new row counts as a change of `active` from 0 to 1, so
nothing that can be undone ever deletes a row.

An entry can be undone if

1. no entry that came into effect later mentions a column that it changed, and
2. every column that it mentions still has the value that it left.

The first keeps later work from losing what it stands on, the second keeps a redo from bringing
back what lost its footing meanwhile. "Later" is decided change by change (`position`), since a
teach grows shot by shot while other commands may come in between.

What was received from a fleet (`sync`) does not stand in the way: columns that it changed since are
left as they are, and the rest is undone.

An undo is an entry too; undoing it (a "redo") puts the first one into effect again. So entries
form chains by `undoes`, and only the newest of a chain, its head, can be reversed.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from accrue.errors import Conflict, NotFound
from accrue.store.records import Entry

# Table -> (primary key, columns that entries may change): nothing else ever reaches the SQL text.
TRACKED: dict[str, tuple[str, frozenset[str]]] = {
    "class": (
        "id",
        frozenset(
            {"name", "created_at", "active", "counts_as", "retain", "budget", "prompt", "text"}
            | {"disabled"}
        ),
    ),
    "name": ("key", frozenset({"text", "class_id", "active"})),
    "shot": ("id", frozenset({"class_id", "active", "folded"})),
    "folded": ("id", frozenset({"class_id", "active"})),
    "refusal": ("id", frozenset({"class_id", "active"})),
    "tombstone": ("class_id", frozenset({"covered"})),
}
_UNMADE = {"folded", "tombstone"}  # rows that come into being outside of any entry
_ENTRY = "seq, at, actor, verb, summary, undoes, undone_by, purged"


class Change(NamedTuple):
    table: str
    key: str
    column: str
    before: Any
    after: Any


class Recorder:
    """Changes rows and writes down what was changed, for one entry."""

    def __init__(self, db: sqlite3.Connection, seq: int) -> None:
        self.db = db
        self.seq = seq

    def insert(self, table: str, key: str, **columns: Any) -> None:
        """A new, active row."""
        primary, _ = _tracked(table, "active")
        names = [primary, *columns, "active"]  # the caller's keywords, never data
        self.db.execute(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [key, *columns.values(), 1],
        )
        self._write([Change(table, key, "active", 0, 1)])

    def set(self, table: str, key: str, **columns: Any) -> None:
        """New values; those that are the same already are not mentioned."""
        for column, after in columns.items():
            before = value_of(self.db, table, key, column)
            if before != after:
                self._write([Change(table, key, column, before, after)])
                _update(self.db, table, key, column, after)

    def hold(self, table: str, key: str, *columns: str) -> None:
        """Mentions columns that this entry relies on."""
        values = [(c, value_of(self.db, table, key, c)) for c in columns]
        self._write([Change(table, key, column, value, value) for column, value in values])

    def _write(self, changes: list[Change]) -> None:
        self.db.executemany(
            "INSERT INTO change (entry, tbl, key, col, before, after) VALUES (?, ?, ?, ?, ?, ?)",
            [(self.seq, *change) for change in changes],
        )


def open_entry(
    db: sqlite3.Connection,
    verb: str,
    *,
    summary: str,
    actor: str,
    at: float,
    undoes: int | None = None,
    purged: bool = False,
) -> Recorder:
    cursor = db.execute(
        "INSERT INTO journal (at, actor, verb, summary, undoes, purged) VALUES (?, ?, ?, ?, ?, ?)",
        (at, actor, verb, summary, undoes, purged),
    )
    return Recorder(db, int(cursor.lastrowid or 0))


def entry(db: sqlite3.Connection, seq: int) -> Entry:
    """Raises NotFound."""
    row = None
    if 0 < seq < 2**63:
        row = db.execute(f"SELECT {_ENTRY} FROM journal WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        raise NotFound(
            f"journal entry {seq} does not exist",
            hint="see `accrue history` for the entries",
            found=seq,
        )
    return _entry(row)


def history(db: sqlite3.Connection, limit: int | None) -> list[Entry]:
    rows = db.execute(
        f"SELECT {_ENTRY} FROM journal ORDER BY seq DESC LIMIT ?", (-1 if limit is None else limit,)
    )
    return [_entry(row) for row in rows]


def changes(db: sqlite3.Connection, seq: int) -> list[Change]:
    """What an entry mentions, each column once: its value before the first change and after the
    last."""
    first: dict[tuple[str, str, str], Change] = {}
    for row in db.execute(
        "SELECT tbl, key, col, before, after FROM change WHERE entry = ? ORDER BY position", (seq,)
    ):
        change = Change(*row)
        _tracked(change.table, change.column)
        where = change[:3]
        first[where] = first.get(where, change)._replace(after=change.after)
    return list(first.values())


def undo(db: sqlite3.Connection, seq: int | None, *, actor: str, at: float) -> Entry:
    """Reverses entry `seq`, or what last took effect, as a new entry. See the module.

    Raises:
        NotFound: no such entry, or nothing to undo.
        Conflict: undone already, purged, folded, or a later entry stands on it.
    """
    asked = _newest(db) if seq is None else entry(db, seq)
    if asked.undone_by is not None:
        raise Conflict(
            f"entry {asked.seq} ({asked.summary}) is undone already, by entry {asked.undone_by}",
            hint=f"bring it back with `accrue undo {asked.undone_by}`",
            seq=asked.seq,
            blocked_by=asked.undone_by,
        )
    chain = [asked]
    while chain[0].undoes is not None:
        chain.insert(0, entry(db, chain[0].undoes))
    while (newer := _undoing(db, chain[-1].seq)) is not None:
        chain.append(newer)
    root, head = chain[0], chain[-1]
    if asked.purged:
        raise Conflict(
            f"entry {asked.seq} ({asked.summary}) cannot be undone: what it changed was purged",
            hint="to undo an older entry, name it: `accrue undo SEQ`",
            seq=asked.seq,
        )
    mentioned = changes(db, head.seq)
    _require_nothing_later(db, asked, head.seq)
    received = {c[:3] for c in mentioned if _was_received(db, c)}
    taken_back = {key for table, key, column in received if (table, column) == ("shot", "folded")}
    if taken_back and all(c.key in taken_back for c in mentioned if c.before != c.after):
        raise Conflict(
            f"entry {asked.seq} ({asked.summary}) cannot be undone: the device that taught these "
            "shots took them back, and their rows left this device",
            hint="teach them here",
            seq=asked.seq,
        )
    _require_values(db, asked, [c for c in mentioned if c[:3] not in received])
    verb = "redo" if head.verb == "undo" else "undo"
    done = "brought back" if verb == "redo" else "undid"
    recorder = open_entry(
        db,
        verb,
        summary=f"{done} entry {root.seq}: {root.summary}",
        actor=actor,
        at=at,
        undoes=head.seq,
    )
    for table, key, column, before, after in mentioned:
        if (table, key, column) in received and value_of(db, table, key, column) != before:
            continue
        if before == after or (table, key, column) in received:
            recorder.hold(table, key, column)
        else:
            recorder.set(table, key, **{column: before})
    db.execute("UPDATE journal SET undone_by = ? WHERE seq = ?", (recorder.seq, head.seq))
    db.execute(
        "UPDATE journal SET undone_by = ? WHERE seq = ?",
        (recorder.seq if verb == "undo" else None, root.seq),
    )
    _require_no_cycle(db, asked, mentioned)
    return entry(db, recorder.seq)


def disagreements(db: sqlite3.Connection) -> list[str]:
    """Where a column does not have the value that the journal left last (empty if all is well)."""
    found = []
    for table, (primary, columns) in TRACKED.items():
        for column in sorted(columns - {"folded"}):  # folding is not undoable, so not an entry
            found += [
                f"{table} {key}: {column} is {value!r}, the journal left {after!r}"
                for key, value, after in db.execute(
                    f"""SELECT t.{primary}, t.{column}, c.after
                    FROM change AS c JOIN {table} AS t ON t.{primary} = c.key
                    WHERE c.position IN (SELECT max(position) FROM change
                        WHERE tbl = ? AND col = ? GROUP BY key)
                    AND c.after IS NOT t.{column}""",
                    (table, column),
                )
            ]
        if table not in _UNMADE:
            found += [
                f"{table} {key}: no entry of the journal made it"
                for (key,) in db.execute(
                    f"""SELECT {primary} FROM {table} WHERE {primary} NOT IN
                    (SELECT key FROM change WHERE tbl = ? AND col = 'active')""",
                    (table,),
                )
            ]
    return found


def value_of(db: sqlite3.Connection, table: str, key: str, column: str) -> Any:
    """The value now; None too where the row is gone."""
    primary, _ = _tracked(table, column)
    row = db.execute(f"SELECT {column} FROM {table} WHERE {primary} = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _update(db: sqlite3.Connection, table: str, key: str, column: str, value: Any) -> None:
    primary, _ = _tracked(table, column)
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {primary} = ?", (value, key))


def _tracked(table: str, column: str) -> tuple[str, frozenset[str]]:
    if table not in TRACKED or column not in TRACKED[table][1]:
        raise Conflict(
            f"the journal mentions {table}.{column}, which this Accrue does not know",
            hint="run `accrue doctor`",
        )
    return TRACKED[table]


def _entry(row: tuple[Any, ...]) -> Entry:
    values = [*row[:-1], bool(row[-1])]
    return Entry(*values)


def _newest(db: sqlite3.Connection) -> Entry:
    """What this device did last that still is in effect; what it received is undone by number."""
    row = db.execute(
        f"""SELECT {_ENTRY} FROM journal
        LEFT JOIN (SELECT entry, max(position) AS last FROM change GROUP BY entry) ON entry = seq
        WHERE undone_by IS NULL AND verb NOT IN ('undo', 'sync')
            AND (NOT purged OR verb = 'purge')
        ORDER BY last DESC LIMIT 1"""
    ).fetchone()
    if row is None:
        raise NotFound("nothing to undo: no entry of the journal is in effect")
    return _entry(row)


def _undoing(db: sqlite3.Connection, seq: int) -> Entry | None:
    row = db.execute(f"SELECT {_ENTRY} FROM journal WHERE undoes = ?", (seq,)).fetchone()
    return None if row is None else _entry(row)


def _require_nothing_later(db: sqlite3.Connection, asked: Entry, head: int) -> None:
    later = db.execute(
        """SELECT seq, summary, verb, mine.position FROM change AS mine
        JOIN change AS other ON other.key = mine.key AND other.col = mine.col
            AND other.tbl = mine.tbl AND other.position > mine.position
        JOIN journal ON seq = other.entry
        WHERE mine.entry = :head AND other.entry != :head AND mine.before IS NOT mine.after
            AND undone_by IS NULL AND verb NOT IN ('undo', 'sync')
        GROUP BY seq, mine.position ORDER BY max(other.position) DESC""",
        {"head": head},
    ).fetchall()
    for seq, summary, verb, position in later:
        if verb == "forget":
            raise Conflict(
                f"entry {asked.seq} ({asked.summary}) cannot be undone: entry {seq} ({summary})",
                hint="remove the class instead",
                seq=asked.seq,
                blocked_by=seq,
            )
        if verb != "redo" or not _was_in_effect(db, seq, position):
            raise _stands_on(asked, seq, summary)


def _was_in_effect(db: sqlite3.Connection, redo: int, position: int) -> bool:
    """Whether what `redo` brought back was in effect at a position: then it was undone and
    redone since, which adds up to nothing."""
    seq: int | None = entry(db, redo).undoes
    while seq is not None:
        (first,) = db.execute("SELECT min(position) FROM change WHERE entry = ?", (seq,)).fetchone()
        member = entry(db, seq)
        if first < position:
            return member.verb != "undo"
        seq = member.undoes
    return False


def _was_received(db: sqlite3.Connection, change: Change) -> bool:
    """Whether a column has another value than an entry left because another device said so."""
    table, key, column, _, after = change
    if value_of(db, table, key, column) == after:
        return False
    if (table, column) == ("shot", "folded"):
        return _is_of_another(db, key)  # it took the shot back, and the rows left this device
    row = db.execute(
        """SELECT verb FROM change JOIN journal ON seq = entry
        WHERE tbl = ? AND key = ? AND col = ? AND before IS NOT after
        ORDER BY position DESC LIMIT 1""",
        (table, key, column),
    ).fetchone()
    return row is not None and row[0] == "sync"


def _require_values(db: sqlite3.Connection, asked: Entry, mentioned: list[Change]) -> None:
    for table, key, column, _, after in mentioned:
        if value_of(db, table, key, column) == after:
            continue
        if table == "folded" and value_of(db, table, key, "active") is None:
            raise Conflict(
                f"entry {asked.seq} ({asked.summary}) cannot be undone: statistics that it removed "
                "were dropped to stay within memory",
                hint="teach the class again",
                seq=asked.seq,
            )
        if (table, column) == ("shot", "folded"):
            raise Conflict(
                f"entry {asked.seq} ({asked.summary}) cannot be undone: rows of its shots were "
                "folded into statistics, and a sum cannot be taken apart again",
                hint="remove the class instead",
                seq=asked.seq,
            )
        row = db.execute(
            """SELECT seq, summary FROM change JOIN journal ON seq = entry
            WHERE tbl = ? AND key = ? AND col = ? AND before IS NOT after
            ORDER BY position DESC LIMIT 1""",
            (table, key, column),
        ).fetchone()
        raise _stands_on(asked, *(row or (asked.seq, "nothing in the journal")))


def _is_of_another(db: sqlite3.Connection, shot: str) -> bool:
    row = db.execute("SELECT device FROM shot WHERE id = ?", (shot,)).fetchone()
    return row is not None and row[0] != ""


def _require_no_cycle(db: sqlite3.Connection, asked: Entry, mentioned: list[Change]) -> None:
    for table, key, column, _, _ in mentioned:
        if (table, column) != ("class", "counts_as"):
            continue
        seen = {key}
        here = value_of(db, "class", key, "counts_as")
        while here is not None:
            if here in seen:
                later = db.execute(
                    """SELECT seq, summary FROM change JOIN journal ON seq = entry
                    WHERE tbl = 'class' AND col = 'counts_as' AND after IS NOT NULL
                    AND key != ? AND undone_by IS NULL ORDER BY position DESC LIMIT 1""",
                    (key,),
                ).fetchone()
                raise _stands_on(asked, *later)
            seen.add(here)
            here = value_of(db, "class", here, "counts_as")


def _stands_on(asked: Entry, seq: int, summary: str) -> Conflict:
    return Conflict(
        f"entry {asked.seq} ({asked.summary}) cannot be undone: "
        f"entry {seq} ({summary}) changed or used the same things since",
        hint=f"undo {seq} first: `accrue undo {seq}`",
        seq=asked.seq,
        blocked_by=seq,
    )
