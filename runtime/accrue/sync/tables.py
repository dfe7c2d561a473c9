"""The tables of a store beside the view: what they hold, and bringing them to what it says.

In a fleet, the tables are what follows from all contributions. `Tables` reads them in the words
of the view, and `settle` writes what differs, through the journal, so that it can be undone.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from accrue.errors import Rejected
from accrue.learn.statistics import Rows, Statistics
from accrue.store import fleet
from accrue.store.journal import Recorder, value_of
from accrue.sync.clock import stamp_ms
from accrue.sync.contribution import Scope, text_vector
from accrue.sync.parts import unpack
from accrue.sync.view import ClassView, Index, Placement, View

Content = Rows | Statistics


@dataclass
class Touched:
    """What may differ between tables and view: subjects of evidence, class ids, keys of names."""

    subjects: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def add(self, other: Touched) -> None:
        self.subjects |= other.subjects
        self.classes |= other.classes
        self.keys |= other.keys


class Watched(Index):
    """An index that notes for which subjects something changed."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.changed: set[str] = set()

    def _settle(self, subject: str) -> None:
        self.changed.add(subject)
        super()._settle(subject)


def between(old: View, new: View, changed: Iterable[str] | None = None) -> Touched:
    """What two views say differently, of evidence among the subjects `changed`, if given."""
    if old is new:
        return Touched()
    if changed is None:
        subjects = _different(old.placements, new.placements)
    else:
        subjects = {s for s in changed if old.placements.get(s) != new.placements.get(s)}
    return Touched(
        subjects,
        _different(old.classes, new.classes),
        _different(old.labels, new.labels),
    )


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    changed = {key for key, value in new.items() if (one := old.get(key)) is not value != one}
    return changed | (old.keys() - new.keys())


def placement(view: View, subject: str) -> Placement | None:
    """Where a subject counts; "not this" of a class that is not there does not."""
    place = view.placements.get(subject)
    if place is None or place.class_id in view.classes or not subject.startswith("refusal/"):
        return place
    return None


@dataclass(frozen=True)
class Class:
    """A class row in the words of the view."""

    active: bool
    name: str
    counts_as: str | None
    text: tuple[str, str] | None


@dataclass(frozen=True)
class Place:
    """An active shot, sum or refusal that has its content."""

    class_id: str
    n_rows: int
    at_ms: int
    device: str


class Tables:
    """The evidence, classes and names of a database, by the subjects of the view.

    Args:
        db: in a transaction. device: this one's id, which own sums have in their subject.
    """

    def __init__(self, db: Any, dim: int, device: str) -> None:
        self.db = db
        self.dim = dim
        self._prefix = f"folded/{device}-"

    # ---- subjects and rows ----------------------------------------------------------------------

    def row_of(self, subject: str) -> tuple[str, str]:
        """Table and key of a subject."""
        if subject.startswith(self._prefix):
            return "folded", subject[len(self._prefix) :]
        table, _, key = subject.partition("/")
        return table, key

    def subject_of(self, table: str, key: str, device: str = "") -> str:
        return self._prefix + key if (table, device) == ("folded", "") else f"{table}/{key}"

    def subject_of_row(self, table: str, key: str) -> str:
        device = ""
        if table == "folded":
            row = self.db.execute("SELECT device FROM folded WHERE id = ?", (key,)).fetchone()
            device = row[0] if row else ""
        return self.subject_of(table, key, device)

    # ---- evidence -------------------------------------------------------------------------------

    def place(self, subject: str) -> Place | None:
        """Where a subject counts by the tables; None where it does not, or only in a sum."""
        table, key = self.row_of(subject)
        found = dict(self._places(table, "AND id = ?", (key,)))
        return found.get(subject)

    def places(self) -> dict[str, Place]:
        """All that counts."""
        return {
            subject: place
            for table in ("shot", "folded", "refusal")
            for subject, place in self._places(table)
        }

    def places_in(self, class_id: str) -> dict[str, Place]:
        """What counts for one class, merges aside."""
        return {
            subject: place
            for table in ("shot", "folded", "refusal")
            for subject, place in self._places(table, "AND class_id = ?", (class_id,))
        }

    def _places(
        self, table: str, where: str = "", values: tuple[str, ...] = ()
    ) -> Iterable[tuple[str, Place]]:
        columns, only = "n_rows, at", ""
        if table == "shot":
            only = "AND folded = 0"
        elif table == "folded":
            columns = "n, 0"
        for key, class_id, device, n_rows, at in self.db.execute(
            f"SELECT id, class_id, device, {columns} FROM {table} WHERE active = 1 {only} {where}",
            values,
        ):
            place = Place(class_id, n_rows, max(0, int(at * 1000)), device)
            yield self.subject_of(table, key, device), place

    def content(self, subject: str) -> Content | None:
        """What a subject holds, active or not; None where the tables do not have it."""
        table, key = self.row_of(subject)
        column = "statistics" if table == "folded" else "rows"
        row = self.db.execute(f"SELECT {column} FROM {table} WHERE id = ?", (key,)).fetchone()
        if row is None or row[0] is None:
            return None
        if table == "folded":
            return Statistics.from_bytes(zlib.decompress(row[0]))
        rows = np.frombuffer(row[0], "<i2").reshape(-1, self.dim)
        return rows.astype(np.int16)

    def has_content(self, subject: str) -> bool:
        table, key = self.row_of(subject)
        column = "statistics" if table == "folded" else "rows"
        row = self.db.execute(
            f"SELECT length({column}) IS NOT NULL FROM {table} WHERE id = ?", (key,)
        ).fetchone()
        return row is not None and bool(row[0])

    # ---- classes and names ----------------------------------------------------------------------

    def one_class(self, class_id: str) -> Class | None:
        row = self.db.execute(
            "SELECT active, name, counts_as, prompt, text FROM class WHERE id = ?", (class_id,)
        ).fetchone()
        if row is None:
            return None
        active, name, counts_as, prompt, text = row
        pair = None if text is None else (prompt, base64.b64encode(text).decode())
        return Class(bool(active), name, counts_as, pair)

    def active_classes(self) -> set[str]:
        return {row[0] for row in self.db.execute("SELECT id FROM class WHERE active = 1")}

    def label(self, key: str) -> tuple[str, str] | None:
        """The class that a name leads to before merges, and the name as typed."""
        return cast(
            "tuple[str, str] | None",
            self.db.execute(
                "SELECT class_id, text FROM name WHERE key = ? AND active = 1", (key,)
            ).fetchone(),
        )

    def keys_of(self, class_id: str) -> set[str]:
        """Keys of the names that lead to a class."""
        return {
            row[0]
            for row in self.db.execute(
                "SELECT key FROM name WHERE class_id = ? AND active = 1", (class_id,)
            )
        }

    def labels(self) -> dict[str, tuple[str, str]]:
        return {
            row[0]: (row[1], row[2])
            for row in self.db.execute("SELECT key, class_id, text FROM name WHERE active = 1")
        }


class Packed:
    """Content out of packed parts, each unpacked once."""

    def __init__(self, db: Any, dim: int) -> None:
        self._db = db
        self._dim = dim
        self._unpacked: dict[str, Content | None] = {}

    def content(self, place: Placement) -> Content | None:
        """What a placement names; None where its part is not here, or is no part."""
        if place.sha256 not in self._unpacked:
            data = fleet.part(self._db, place.sha256)
            try:
                found = None if data is None else unpack(data, self._dim)
            except Rejected:
                found = None
            self._unpacked[place.sha256] = found
        content = self._unpacked[place.sha256]
        if content is None or isinstance(content, Statistics):
            return content
        return content[place.start : place.start + place.n_rows]


@dataclass
class Delta:
    """What `settle` changed, for people: class ids, with how many shots more or fewer."""

    shots: dict[str, int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    other: set[str] = field(default_factory=set)

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self.shots) | self.begun | self.ended | self.other


class Settling:
    """Brings tables to a view where it says something else.

    Args:
        recorder: gives the journal entry that changes are written in, when there is one.
        device: this device's id; its evidence has no device in the tables.
    """

    def __init__(
        self, tables: Tables, view: View, device: str, recorder: Callable[[], Recorder]
    ) -> None:
        self._tables = tables
        self._db = tables.db
        self._view = view
        self._device = device
        self._recorder = recorder
        self._packed = Packed(tables.db, tables.dim)
        self.delta = Delta()

    def settle(self, touched: Touched) -> None:
        view = self._view
        live = sorted(c for c in touched.classes if c in view.classes)
        dead = sorted(c for c in touched.classes if c not in view.classes)
        needed = {
            place.class_id
            for subject in touched.subjects
            if (place := view.placements.get(subject)) is not None
        }
        for class_id in sorted(needed - set(live)):
            if class_id in view.classes:
                live.append(class_id)
        subjects = set(touched.subjects)
        for class_id in live:
            subjects.update(view.classes[class_id].refusals)
            self._class(view.classes[class_id])
        for class_id in dead:  # "not this" goes and comes with its class
            subjects.update(s for s in self._tables.places_in(class_id) if "refusal/" in s)
        for subject in sorted(subjects):
            self._evidence(subject)
        for key in sorted(touched.keys):
            self._name(key)
        for class_id in live:
            self._set("class", class_id, counts_as=view.classes[class_id].counts_as)
        for class_id in dead:
            if value_of(self._db, "class", class_id, "active") == 1:
                self._recorder().set("class", class_id, active=0)
                self.delta.ended.add(class_id)

    # ---- classes and names ----------------------------------------------------------------------

    def _class(self, one: ClassView) -> None:
        prompt = one.text[0] if one.text else None
        text = text_vector(one.text).astype("<i2").tobytes() if one.text else None
        active = value_of(self._db, "class", one.id, "active")
        if active is None:
            self._recorder().insert(
                "class", one.id, name=one.name, created_at=stamp_ms(one.since) / 1000
            )
            self.delta.begun.add(one.id)
        elif not active:
            self._recorder().set("class", one.id, active=1)
            self.delta.begun.add(one.id)
        self._set("class", one.id, name=one.name, prompt=prompt, text=text)

    def _name(self, key: str) -> None:
        label = self._view.labels.get(key)
        active = value_of(self._db, "name", key, "active")
        if label is None:
            if active == 1:
                self._recorder().set("name", key, active=0)
        elif active is None:
            self._recorder().insert("name", key, text=label.text, class_id=label.class_id)
        else:
            self._set("name", key, text=label.text, class_id=label.class_id, active=1)

    def _set(self, table: str, key: str, **columns: Any) -> None:
        changed = {
            column: value
            for column, value in columns.items()
            if value_of(self._db, table, key, column) != value
        }
        if changed:
            self._recorder().set(table, key, **changed)
            if table == "class":
                self.delta.other.add(key)

    # ---- evidence -------------------------------------------------------------------------------

    def _evidence(self, subject: str) -> None:
        place = placement(self._view, subject)
        table, key = self._tables.row_of(subject)
        if place is None:
            self._end(table, key)
        else:
            self._begin(table, key, place)

    def _end(self, table: str, key: str) -> None:
        row = self._db.execute(
            f"SELECT active, class_id FROM {table} WHERE id = ?", (key,)
        ).fetchone()
        if row is None or row[0] == 0:
            return
        if table == "shot" and value_of(self._db, "shot", key, "folded") and self._is_own(key):
            return  # in a sum, with which it goes
        self._recorder().set(table, key, active=0)
        self._count(table, row[1], -1)
        if table == "folded":
            self._end_summed(key, row[1])

    def _begin(self, table: str, key: str, place: Placement) -> None:
        device = "" if place.owner == self._device else place.owner
        row = self._db.execute(
            f"SELECT active, class_id, device FROM {table} WHERE id = ?", (key,)
        ).fetchone()
        if row is None:
            self._insert(table, key, place, device)
            return
        active, class_id, owner = row
        if table == "folded":
            if device:
                self._refresh_sum(key, place)
        elif table == "shot" and not self._refill(key, place, bool(active)):
            return
        if owner != device:
            self._db.execute(f"UPDATE {table} SET device = ? WHERE id = ?", (device, key))
        if not active:
            if table == "folded" and not device:
                self._begin_summed(key)
            self._recorder().set(table, key, active=1)
            self._count(table, place.class_id, 1)
        if class_id != place.class_id:
            if table == "folded" and not device:
                for shot in self._summed(class_id):
                    self._recorder().set("shot", shot, class_id=place.class_id)
            self._recorder().set(table, key, class_id=place.class_id)
            if active:
                self._count(table, class_id, -1)
                self._count(table, place.class_id, 1)

    def _insert(self, table: str, key: str, place: Placement, device: str) -> None:
        content = self._packed.content(place)
        if content is None:
            return  # its part comes later
        columns: dict[str, Any] = {"class_id": place.class_id, "device": device}
        if table == "folded":
            total = content if isinstance(content, Statistics) else Statistics.of(content)
            columns |= {"n": total.n, "statistics": _compressed(total)}
        elif isinstance(content, Statistics):
            return
        else:
            columns |= {
                "n_rows": len(content),
                "rows": content.astype("<i2").tobytes(),
                "source": "",
                "actor": "",
                "at": place.at_ms / 1000,
            }
            if table == "shot":
                columns |= {"thumb": None, "folded": 0}
        self._recorder().insert(table, key, **columns)
        self._count(table, place.class_id, 1)

    def _refill(self, key: str, place: Placement, active: bool) -> bool:
        """Puts rows back that had left this device; False where they are not at hand."""
        if not value_of(self._db, "shot", key, "folded"):
            return True
        if active and self._is_own(key):
            return False  # in a sum
        content = self._packed.content(place)
        if content is None or isinstance(content, Statistics):
            if active:
                self._recorder().set("shot", key, active=0)
            return False
        self._db.execute(
            "UPDATE shot SET rows = ?, n_rows = ?, folded = 0 WHERE id = ?",
            (content.astype("<i2").tobytes(), len(content), key),
        )
        return True

    def _refresh_sum(self, key: str, place: Placement) -> None:
        content = self._packed.content(place)
        if content is None:
            return
        total = content if isinstance(content, Statistics) else Statistics.of(content)
        self._db.execute(
            "UPDATE folded SET n = ?, statistics = ? WHERE id = ?",
            (total.n, _compressed(total), key),
        )

    def _end_summed(self, key: str, class_id: str) -> None:
        """An own sum goes, and with it the shots in it."""
        if self._db.execute("SELECT device FROM folded WHERE id = ?", (key,)).fetchone()[0]:
            return
        for shot in self._summed(class_id):
            self._recorder().hold("shot", shot, "folded")
            self._recorder().set("shot", shot, active=0)

    def _summed(self, class_id: str) -> list[str]:
        """Own shots of a class that are in its sum."""
        rows = self._db.execute(
            """SELECT id FROM shot WHERE class_id = ? AND active = 1 AND folded = 1
            AND device = ''""",
            (class_id,),
        )
        return [row[0] for row in rows.fetchall()]

    def _begin_summed(self, key: str) -> None:
        """An own sum comes back, and with it the shots that went with it."""
        shots = self._db.execute(
            """SELECT DISTINCT key FROM change JOIN shot ON shot.id = key
            WHERE entry = (SELECT entry FROM change WHERE tbl = 'folded' AND key = ?
                AND col = 'active' ORDER BY position DESC LIMIT 1)
            AND tbl = 'shot' AND col = 'folded' AND after = 1
            AND class_id = (SELECT class_id FROM folded WHERE id = ?)""",
            (key, key),
        ).fetchall()
        for (shot,) in shots:
            self._recorder().set("shot", shot, active=1)

    def _is_own(self, shot: str) -> bool:
        row = self._db.execute("SELECT device FROM shot WHERE id = ?", (shot,)).fetchone()
        return row is not None and row[0] == ""

    def _count(self, table: str, class_id: str, n: int) -> None:
        if table == "shot":
            self.delta.shots[class_id] = self.delta.shots.get(class_id, 0) + n
        else:
            self.delta.other.add(class_id)


def drop_unlisted(
    tables: Tables, subjects: Collection[str], recorder: Callable[[], Recorder]
) -> None:
    """Deletes the content of others' evidence that its device does not give any more."""
    for subject in sorted(subjects):
        table, key = tables.row_of(subject)
        row = tables.db.execute(f"SELECT device FROM {table} WHERE id = ?", (key,)).fetchone()
        if row is None or row[0] == "":
            continue
        if table == "shot":
            if not value_of(tables.db, "shot", key, "folded"):
                recorder().hold("shot", key, "folded")  # keeps an undo from finding nothing
                tables.db.execute(
                    "UPDATE shot SET rows = NULL, thumb = NULL, folded = 1 WHERE id = ?", (key,)
                )
        else:
            tables.db.execute(f"DELETE FROM {table} WHERE id = ?", (key,))


def _compressed(total: Statistics) -> bytes:
    return zlib.compress(total.to_bytes(), 1)


def differences(tables: Tables, view: View, device: str, missing: Collection[str]) -> list[str]:
    """Where tables and view do not agree, in words; `missing` subjects aside."""
    found = []
    places = tables.places()
    for subject in sorted(places.keys() | view.placements.keys()):
        one, two = places.get(subject), placement(view, subject)
        said = None if one is None else (one.class_id, one.n_rows, one.device or device)
        meant = None if two is None else (two.class_id, two.n_rows, two.owner)
        if said != meant and subject not in missing:
            found.append(f"{subject}: the tables have {said}, the fleet {meant}")
    for class_id in sorted(tables.active_classes() | view.classes.keys()):
        row, shown = tables.one_class(class_id), view.classes.get(class_id)
        here = (row.name, row.counts_as, row.text) if row and row.active else None
        there = (shown.name, shown.counts_as, shown.text) if shown else None
        if here != there:
            found.append(f"class {class_id}: the tables have {here}, the fleet {there}")
    labels = tables.labels()
    for key in sorted(labels.keys() | view.labels.keys()):
        label = view.labels.get(key)
        meant_label = None if label is None else (label.class_id, label.text)
        if labels.get(key) != meant_label:
            found.append(f"name {key}: leads to {labels.get(key)}, in the fleet to {meant_label}")
    return found
