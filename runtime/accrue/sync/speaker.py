"""From what changed in the tables to what this device says.

The tables after a verb are what the operator wants. Where the view of all contributions says
something else, the device takes back what it said, and if that is not enough, says it anew with
a fresh stamp. docs/reference/merge.md states what the words mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accrue.errors import Conflict
from accrue.store import fleet
from accrue.store.journal import Recorder, value_of
from accrue.sync.clock import Clock
from accrue.sync.contribution import Contribution, Fact, Part, Scope, Value
from accrue.sync.parts import Item, arrange
from accrue.sync.signed import BODY_LIMIT_BYTES, canonical
from accrue.sync.tables import (
    Class,
    Content,
    Packed,
    Place,
    Tables,
    Touched,
    Watched,
    between,
    placement,
)
from accrue.sync.view import Placement, View

_FEW = 32  # questions that are not worth a table
Mention = tuple[str, str, str, bool]  # table, key, column, and whether it was changed


class Draft:
    """Own contributions in the making.

    Args:
        own: as they are, by class. index: of the view that they are part of.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        scope: Scope,
        device: str,
        own: Mapping[str, Contribution],
        index: Watched,
        tables: Tables,
        clock: Clock,
    ) -> None:
        self._db = db
        self._scope = scope
        self.device = device
        self._own = own
        self.index = index
        self._tables = tables
        self._clock = clock
        self._edits: dict[str, _Edit] = {}
        self._changed: set[str] = set()
        self._packed: dict[str, bytes] = {}
        self._where: dict[str, list[str]] | None = None
        self._asked = 0
        self._now = 0

    def now(self) -> int:
        """One stamp for all that is said at this time."""
        self._now = self._now or self._clock.tick()
        return self._now

    def of(self, class_id: str) -> _Edit:
        """What is said about a class, to look at."""
        if class_id not in self._edits:
            self._edits[class_id] = _Edit.of(self._own.get(class_id))
        return self._edits[class_id]

    def edit(self, class_id: str) -> _Edit:
        """What is said about a class, to change."""
        found = self.of(class_id)
        found.pending = True
        self._changed.add(class_id)
        return found

    def listed(self) -> set[str]:
        """Subjects whose content this device lists as yet."""
        return {
            member.subject
            for own in self._own.values()
            for part in own.parts
            for member in part.members
        }

    def listing(self, subject: str) -> tuple[str, Item] | None:
        """Where this device lists the content of a subject: class, and how."""
        for class_id in self._about(subject):
            item = self.of(class_id).items.get(subject)
            if item is not None:
                return class_id, item
        return None

    def withdraw(self, subject: str) -> bool:
        """Takes own facts about a subject back; whether there were any."""
        found = [c for c in self._about(subject) if subject in self.of(c).facts]
        for class_id in found:
            del self.edit(class_id).facts[subject]
        return bool(found)

    def unlist(self, subject: str) -> None:
        for class_id in self._about(subject):
            if subject in self.of(class_id).items:
                del self.edit(class_id).items[subject]

    def _about(self, subject: str) -> list[str]:
        """Classes in whose own contribution a subject is, or may be."""
        self._asked += 1
        if self._where is None:
            if self._asked < _FEW:
                known = [c for c, own in self._own.items() if subject in own.claims]
                return [*known, *(c for c in self._changed if c not in known)]
            self._where = {}
            for class_id, own in self._own.items():
                for one in own.claims:
                    self._where.setdefault(one, []).append(class_id)
        edited = [c for c in self._changed if c not in self._where.get(subject, ())]
        return [*self._where.get(subject, ()), *edited]

    def say(self, class_id: str, subject: str, value: Value) -> None:
        """A fact, now, in the place of others of this device about the subject."""
        self.withdraw(subject)
        self.edit(class_id).facts[subject] = Fact(self.now(), value)

    def view(self) -> View:
        """The view with what was said so far."""
        for class_id in sorted(self._changed):
            edit = self._edits[class_id]
            if not edit.pending:
                continue
            edit.listed, packed = arrange(edit.listed, edit.items, self._content)
            self._packed.update(packed)
            edit.pending = False
            self.index.put(self._contribution(class_id, edit))
        return self.index.view()

    def _content(self, subject: str) -> Content:
        found = self._tables.content(subject)
        if found is None:
            found = self._listed_content(subject)
        if found is None:
            raise Conflict(f"{subject} is listed, but its content is not here")
        return found

    def _listed_content(self, subject: str) -> Content | None:
        for class_id, own in self._own.items():
            claim = own.claims.get(subject)
            if claim is not None and claim.content is not None:
                packed = Packed(self._db, self._scope.dim)
                return packed.content(Placement(class_id, *claim.content))
        return None

    def _contribution(self, class_id: str, edit: _Edit) -> Contribution:
        return Contribution(
            self._scope,
            self.device,
            class_id,
            self.now(),
            dict(edit.facts),
            dict(edit.gone),
            edit.listed,
        )

    def write(self) -> list[Contribution]:
        """Writes what changed to the database; the contributions that are new.

        Raises:
            Conflict: what is said about a class is too much for one message.
        """
        self.view()
        said = []
        for class_id in sorted(self._changed):
            new = self._contribution(class_id, self._edits[class_id])
            body = canonical(new.to_body())
            if len(body) > BODY_LIMIT_BYTES:
                raise Conflict(
                    f"what this device says about class {class_id} takes {len(body):,} bytes; "
                    f"a message holds {BODY_LIMIT_BYTES:,}",
                    hint="let its shots be folded: `accrue class retention NAME --budget ROWS`",
                    found=len(body),
                    expected=BODY_LIMIT_BYTES,
                )
            fleet.put(self._db, (self.device, class_id, "own"), new.revision, body)
            for part in new.parts:
                if part.sha256 in self._packed:
                    fleet.put_part(self._db, part.sha256, self._packed[part.sha256], own=True)
            said.append(new)
        return said


@dataclass
class _Edit:
    facts: dict[str, Fact]
    gone: dict[str, int]
    items: dict[str, Item]
    listed: tuple[Part, ...]
    pending: bool = True

    @classmethod
    def of(cls, before: Contribution | None) -> _Edit:
        if before is None:
            return cls({}, {}, {}, ())
        items = {
            m.subject: Item(m.n_rows, m.at_ms, m.stamp)
            for part in before.parts
            for m in part.members
        }
        return cls(dict(before.facts), dict(before.gone), items, before.parts)


def speak(
    draft: Draft,
    tables: Tables,
    untold: list[Mention] | None,
    recorder: Callable[[], Recorder],
    is_listed: Callable[[str], bool],
) -> Touched:
    """Says what the tables hold and the view does not; what may still differ.

    Args:
        untold: what the journal mentions since; None: compare everything.
        recorder: the journal entry of the change.
        is_listed: whether any device gives the content of a subject.
    """
    return _Speaking(draft, tables, untold, recorder, is_listed).run()


class _Speaking:
    def __init__(
        self,
        draft: Draft,
        tables: Tables,
        untold: list[Mention] | None,
        recorder: Callable[[], Recorder],
        is_listed: Callable[[str], bool],
    ) -> None:
        self.draft = draft
        self.tables = tables
        self.recorder = recorder
        self.is_listed = is_listed
        self.packed = Packed(tables.db, tables.dim)
        self.touched = Touched()
        self.summed: dict[str, list[Item]] = {}
        self.tombstones: set[str] = set()
        self.places: dict[str, Place] | None = None
        self.had_label: set[str] = set()
        self.columns: dict[str, set[str]] = {}  # of classes, that were changed
        if untold is None:
            self._touch_all()
        else:
            self._touch(untold)

    def _touch_all(self) -> None:
        view = self.draft.view()
        self.places = self.tables.places()
        self.touched = Touched(
            self.places.keys() | view.placements.keys() | self.draft.listed(),
            self.tables.active_classes() | view.classes.keys(),
            self.tables.labels().keys() | view.labels.keys(),
        )
        self.tombstones = set(fleet.tombstones(self.tables.db))

    def _touch(self, untold: list[Mention]) -> None:
        for table, key, column, changed in untold:
            if table == "class":
                self.touched.classes.add(key)
                if changed:
                    self.columns.setdefault(key, set()).add(column)
            elif table == "name":
                self.touched.keys.add(key)
            elif table == "tombstone":
                self.tombstones.add(key)
            else:
                self.touched.subjects.add(self.tables.subject_of_row(table, key))

    def run(self) -> Touched:
        before = self.draft.view()
        self.draft.index.changed.clear()
        for class_id in sorted(self.tombstones):
            covered = fleet.tombstone(self.tables.db, class_id)
            if self.draft.of(class_id).gone != covered:
                self.draft.edit(class_id).gone = covered
        differing = self._take_back_evidence(self.draft.view())
        rows = {c: self._row(c) for c in sorted(self.touched.classes)}
        self._take_back(self.draft.view(), rows)
        self._say_evidence(self.draft.view(), differing)
        self._say_classes(self.draft.view(), rows)
        for class_id, row in rows.items():
            if row is not None:
                self.touched.keys |= self.tables.keys_of(class_id)
        changed = between(before, self.draft.view(), ())  # a class that is back may claim a name
        self.touched.keys |= {key for key in changed.keys if self.tables.label(key)}
        for _ in range(2):  # a name that a class had without anybody's word may go with the first
            self._say_labels(self.draft.view())
            self._say_names(self.draft.view(), rows)
        self._end_classes(self.draft.view(), rows)
        touched = self.touched
        touched.add(between(before, self.draft.view(), self.draft.index.changed))
        return touched

    # ---- evidence -------------------------------------------------------------------------------

    def _take_back_evidence(self, view: View) -> dict[str, Place | None]:
        """Lists own evidence where the tables have it; what others say otherwise is left over."""
        draft, differing = self.draft, {}
        sums = []
        for subject in sorted(self.touched.subjects):
            place, meant = self._place(subject), placement(view, subject)
            listing = draft.listing(subject)
            for class_id in (place and place.class_id, meant and meant.class_id):
                if class_id:
                    self.touched.classes.add(class_id)
            if place is not None and subject.startswith("folded/") and place.device == "":
                sums.append((subject, place))
                continue
            if place is None:
                if listing and not self.tables.has_content(subject):
                    self.summed.setdefault(listing[0], []).append(listing[1])
                    draft.unlist(subject)
                elif meant is None:
                    if listing and self.places is None and not self._is_covered(listing):
                        draft.unlist(subject)  # void by what another said; now not said at all
                    continue
                elif not self._is_at_hand(subject, meant):
                    continue
                draft.unlist(subject)
                draft.withdraw(subject)
            elif meant is not None and meant.class_id == place.class_id:
                continue
            else:
                draft.withdraw(subject)
                if place.device == "" or listing:
                    self._list(subject, place, draft.now())
            differing[subject] = place
        for subject, place in sums:
            if self._list_sum(subject, place, placement(view, subject)):
                differing[subject] = place
        return differing

    def _place(self, subject: str) -> Place | None:
        return self.tables.place(subject) if self.places is None else self.places.get(subject)

    def _is_at_hand(self, subject: str, meant: Placement) -> bool:
        """Whether this device has what a subject holds; what never arrived was not taken away."""
        return self.tables.has_content(subject) or self.packed.content(meant) is not None

    def _is_covered(self, listing: tuple[str, Item]) -> bool:
        gone = self.draft.of(listing[0]).gone
        return gone.get(self.draft.device, 0) >= listing[1].stamp

    def _list(self, subject: str, place: Place, stamp: int) -> None:
        self.draft.unlist(subject)
        item = Item(place.n_rows, place.at_ms, stamp)
        self.draft.edit(place.class_id).items[subject] = item

    def _list_sum(self, subject: str, place: Place, meant: Placement | None) -> bool:
        """Own shots that became a sum are no news: it keeps the stamp of the newest of them."""
        listing = self.draft.listing(subject)
        is_right = meant is not None and meant.class_id == place.class_id
        if is_right and listing and listing[1].n_rows == place.n_rows:
            return False
        parts = list(self.summed.get(place.class_id, ()))
        if listing and listing[0] == place.class_id:
            parts.append(listing[1])
        stamp = self.draft.now()
        if parts and sum(part.n_rows for part in parts) == place.n_rows:
            stamp = max(part.stamp for part in parts)
        self.draft.withdraw(subject)
        self._list(subject, place, stamp)
        return True

    def _say_evidence(self, view: View, differing: Mapping[str, Place | None]) -> None:
        for subject, place in differing.items():
            meant = placement(view, subject)
            if place is None:
                if meant is not None:
                    self.draft.say(meant.class_id, subject, None)
            elif meant is not None and meant.class_id == place.class_id:
                continue
            elif (listing := self.draft.listing(subject)) is not None:
                if (
                    listing[1].stamp != self.draft.now()
                ):  # what became a sum counted by another's word
                    self._list(subject, place, self.draft.now())
            elif self.is_listed(subject):
                self.draft.say(place.class_id, subject, place.class_id)

    # ---- classes --------------------------------------------------------------------------------

    def _row(self, class_id: str) -> Class | None:
        """The active class row. One that went although others' evidence is in it, comes back."""
        row = self.tables.one_class(class_id)
        if row is None or row.active:
            return row
        if not any(s.startswith(("shot/", "folded/")) for s in self.tables.places_in(class_id)):
            return None
        self.recorder().set("class", class_id, active=1)
        for key in sorted(self.touched.keys):
            if value_of(self.tables.db, "name", key, "class_id") == class_id:
                self.recorder().set("name", key, active=1)
        return self.tables.one_class(class_id)

    def _take_back(self, view: View, rows: Mapping[str, Class | None]) -> None:
        for class_id, row in rows.items():
            shown = view.classes.get(class_id)
            if row is None:
                if shown is not None:
                    for group in ("name", "merged", "text", "kept"):
                        self.draft.withdraw(f"{group}/{class_id}")
                continue
            if shown is None:
                continue
            for group, column, wanted, said in (
                ("name", "name", row.name, shown.name),
                ("merged", "counts_as", row.counts_as, shown.counts_as),
                ("text", "text", row.text, shown.text),
            ):
                if wanted != said and self._was_changed(class_id, column):
                    self.draft.withdraw(f"{group}/{class_id}")
        for key in self.touched.keys:
            label = view.labels.get(key)
            wanted, said = self.tables.label(key), label and (label.class_id, label.text)
            if wanted is None and label is not None and not label.asserted:
                continue  # a name that has become free, for another class that shows it
            if said != wanted and self.draft.withdraw(f"label/{key}"):
                self.had_label.add(key)

    def _was_changed(self, class_id: str, column: str) -> bool:
        """Whether a column is what the operator wants, and not only as it was."""
        changed = self.columns.get(class_id, ())
        return self.places is not None or column in changed or "active" in changed

    def _say_classes(self, view: View, rows: Mapping[str, Class | None]) -> None:
        for class_id, row in rows.items():
            if row is None:
                continue
            shown = view.classes.get(class_id)
            was_changed = self._was_changed
            if row.text != (shown.text if shown else None) and was_changed(class_id, "text"):
                self.draft.say(class_id, f"text/{class_id}", row.text)
            if shown is None and row.text is None:
                self.draft.say(class_id, f"kept/{class_id}", True)
            target = shown.counts_as if shown else None
            if row.counts_as != target and was_changed(class_id, "counts_as"):
                self.draft.say(class_id, f"merged/{class_id}", row.counts_as)

    def _say_labels(self, view: View) -> None:
        for key in sorted(self.touched.keys):
            label, wanted = view.labels.get(key), self.tables.label(key)
            if wanted is not None:
                if label is None or (label.class_id, label.text) != wanted:
                    self.draft.say(wanted[0], f"label/{key}", wanted)
            elif label is not None and label.asserted and key not in self.had_label:
                self.draft.say(label.class_id, f"label/{key}", None)

    def _say_names(self, view: View, rows: Mapping[str, Class | None]) -> None:
        for class_id, row in rows.items():
            shown = view.classes.get(class_id)
            if row is None or shown is None or shown.name == row.name:
                continue
            if self._was_changed(class_id, "name"):
                self.draft.say(class_id, f"name/{class_id}", row.name)

    def _end_classes(self, view: View, rows: Mapping[str, Class | None]) -> None:
        """What others still say of a class that is to go, is gone."""
        for class_id, row in rows.items():
            if row is None and class_id in view.classes:
                fleet.set_tombstone(
                    self.tables.db, class_id, fleet.with_all_said(self.tables.db, class_id)
                )
                self.draft.edit(class_id).gone = fleet.tombstone(self.tables.db, class_id)
