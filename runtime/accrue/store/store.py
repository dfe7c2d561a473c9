"""The store: classes, their shots and the journal, in one SQLite file that survives a power cut.

Every method that changes something is one transaction and one journal entry, and has reached the
disk when it returns. docs/reference/store.md describes the file for other readers.
"""

from __future__ import annotations

import secrets
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accrue.errors import (
    Conflict,
    FormatError,
    NotFound,
    RowsError,
    SpaceMismatch,
    StoreError,
    StoreFull,
    UsageError,
)
from accrue.learn.reduce import dispensable
from accrue.learn.statistics import Statistics, check_rows
from accrue.store import fleet, journal, memory
from accrue.store.database import FILE_NAME, Database
from accrue.store.failures import corrupt
from accrue.store.fleet import Joined, Voice
from accrue.store.journal import Recorder
from accrue.store.memory import Held
from accrue.store.names import class_id, class_key, clean_name, clean_prompt, shown
from accrue.store.records import ClassRow, ClassRows, Entry, Purged, Refusal, Shot, Teaching
from accrue.store.schema import MIGRATIONS, check_version, crc_of, migrate

DEFAULT_CLASS_SET = "default"
DEFAULT_BUDGET_ROWS = 1000  # per class: 1 MB at 512 dimensions
BUDGET_LIMIT_ROWS = 2**23  # more could not be summed exactly
_KEPT_SHARE = 0.9  # of the budget once it is exceeded: one fold for many shots, not one for each
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32
_ID_TIME_DIGITS, _ID_RANDOM_DIGITS = 10, 6
ASIDE = ".before-restore-"

Retain = Literal["rows", "statistics"]
_Groups = dict[str, list[str]]  # id of a root class -> ids of it and of what counts as it


class Store:
    """The state of one device, in `<state>/state.db`.

    Safe for use from several threads and processes. Reading methods see one consistent state;
    `revision` tells when to read again.

    Attributes:
        path: the database file. readonly: whether changes are refused.
        space_id, dim: of the embeddings (int16 rows of `dim` values) that it holds.
        class_set: from which class ids follow. created: unix seconds.
        voice: in a fleet, what says each change to the others; without one, the changes are said
            by the next process that has one.
    """

    voice: Voice | None = None

    def __init__(
        self,
        database: Database,
        *,
        budget: int,
        retain: Retain = "rows",
        memory: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._database = database
        self._budget = budget
        self._retain: Retain = retain
        self._clock = clock
        self.path = database.path
        self.readonly = database.readonly
        with database.reading() as db:
            row = db.execute("SELECT space_id, dim, class_set, created FROM meta").fetchone()
        if row is None:
            raise corrupt(self.path, "the table meta is empty")
        self.space_id: str = row[0]
        self.dim: int = row[1]
        self.class_set: str = row[2]
        self.created: float = row[3]

    @classmethod
    def open(
        cls,
        state: Path | str,
        *,
        space_id: str | None = None,
        dim: int | None = None,
        class_set: str | None = None,
        budget: int = DEFAULT_BUDGET_ROWS,
        retain: Retain = "rows",
        memory: int = 0,
        readonly: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Store:
        """Opens the state folder; writable, it is created and brought up to date where needed.

        Args:
            space_id, dim: of the bundle in use; needed to create, checked otherwise if given.
            class_set: "default" for a new state; checked otherwise if given.
            budget, retain: of a class that has none of its own: rows kept, and whether shots are
                kept as "rows" or folded into "statistics" at once.
            memory: bytes of rows, thumbnails and statistics in all; 0: as many as there are.
                `accrue.store.memory.clear` says what goes when there are more.
            readonly: never writes, but to bring a state of an older version up to date; works in
                a folder that cannot be written.

        Raises:
            NotFound: nothing there, and `readonly` or no space id to create it with.
            SpaceMismatch: made with another encoder. Conflict: another class set.
            FutureVersion, StoreReadOnly, StoreBusy, StoreFull, StoreCorrupt, StoreError.
        """
        _check_budget(budget)
        path = Path(state) / FILE_NAME
        if not readonly and (space_id is None or dim is None) and not path.exists():
            Database(path, readonly=True).close()  # raises, naming what is missing
        database = Database(path, readonly=readonly)
        try:
            if readonly:
                with database.reading() as db:
                    version = check_version(db, path)
                if 0 < version < len(MIGRATIONS):
                    database.close()
                    _update(path, clock())
                    database = Database(path, readonly=True)
                if version == 0:
                    raise NotFound(
                        f"no state in {path.parent}: {path.name} is empty",
                        hint="teach a first class with `accrue class teach NAME FILE...`",
                        path=str(path),
                    )
            else:
                _prepare(database, space_id, dim, class_set or DEFAULT_CLASS_SET, clock())
            store = cls(database, budget=budget, retain=retain, memory=memory, clock=clock)
            store.require_same(space_id, dim, class_set)
        except BaseException:
            database.close()
            raise
        return store

    def require_same(
        self, space_id: str | None, dim: int | None, class_set: str | None = None
    ) -> None:
        """Raises SpaceMismatch or Conflict where what is given differs from what is stored."""
        if space_id not in (None, self.space_id) or dim not in (None, self.dim):
            raise SpaceMismatch(
                f"{self.path} holds embeddings of space {self.space_id[:12]} ({self.dim} "
                f"dimensions); the encoder in use makes space {str(space_id)[:12]} ({dim} "
                "dimensions), and the two do not mix",
                hint="use the bundle that it was taught with (--bundle), "
                "or teach into another folder (--state)",
                path=str(self.path),
                found=space_id,
                expected=self.space_id,
            )
        if class_set not in (None, self.class_set):
            raise Conflict(
                f"{self.path} belongs to class set {shown(self.class_set)}, "
                f"not to {shown(str(class_set))}",
                hint="use another folder with --state",
                found=class_set,
                expected=self.class_set,
            )

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Several changes, all or none. Nests. Nothing is durable before the outermost ends."""
        with self._database.atomic():
            yield

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One change of what is taught: a transaction that, in a fleet, says it as well."""
        with self._database.atomic() as db:
            yield db
            if self.voice is not None:
                self.voice.speak(db)

    # ---- the fleet ------------------------------------------------------------------------------

    @contextmanager
    def database(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The database itself, for what keeps the tables of `accrue.store.fleet`.

        Reading, one consistent state; writing, one transaction, in which `on_rollback` serves
        what is held in memory beside it.
        """
        with self._database.atomic() if write else self._database.reading() as db:
            yield db

    def on_rollback(self, action: Callable[[], None]) -> None:
        """Calls `action` if the transaction under way, or one around it, is rolled back."""
        self._database.on_rollback(action)

    def make_room(self, db: sqlite3.Connection) -> None:
        """Raises StoreFull, so that nothing is changed, where the byte budget allows no more."""
        self._make_room(db, 0)

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return max(0, int(self._clock() * 1000))

    @property
    def joined(self) -> Joined | None:
        """The fleet that this state belongs to."""
        with self._database.reading() as db:
            return fleet.joined(db)

    def join_fleet(self, name: str, device: str) -> None:
        """Makes the state one of a fleet; a voice then says all that is in it.

        Raises:
            Conflict: it belongs to another fleet, or is another device of this one.
        """
        with self._database.atomic() as db:
            present = fleet.joined(db)
            if present == Joined(name, device):
                return
            if present is not None:
                raise Conflict(
                    f"{self.path} is device {present.device} of fleet {shown(present.fleet)}, "
                    f"not {device} of {shown(name)}",
                    hint="leave that one first: `accrue fleet leave`",
                    found=present.fleet,
                    expected=name,
                )
            fleet.join(db, name, device)
            for (one,) in db.execute("SELECT id FROM class WHERE active = 1").fetchall():
                self._fold(db, one, 0)

    # ---- teaching -------------------------------------------------------------------------------

    def begin_teach(self, name: str, *, actor: str = "") -> Teaching:
        """The start of one teach command. Writes nothing: an entry without a shot never exists."""
        return Teaching(name=clean_name(name), actor=_text(actor))

    def add_shot(
        self,
        teaching: Teaching,
        rows: NDArray[np.int16],
        *,
        source: str = "",
        thumb: bytes | None = None,
    ) -> str:
        """Adds a shot, in a transaction of its own, and its id once it is on the disk.

        The first one makes the journal entry and, for a new name, the class.

        Args:
            rows: int16 (views, dim), one row per view of the shot, at least one.
            source: where it came from. thumb: a small JPEG.

        Raises:
            RowsError: rows of another form. Conflict: the class was removed meanwhile.
        """
        rows = check_rows(np.asarray(rows), self.dim)
        if len(rows) == 0:
            raise RowsError("a shot without rows; expected at least one", found=0, expected=1)
        with self._changing() as db:
            at = self._clock()
            before = vars(teaching).copy()
            self._database.on_rollback(lambda: vars(teaching).update(before))
            recorder = self._extend(db, teaching, at)
            shot = _next_shot_id(db, at)
            recorder.insert(
                "shot",
                shot,
                class_id=teaching.class_id,
                n_rows=len(rows),
                rows=rows.astype("<i2").tobytes(),
                source=_text(source),
                actor=teaching.actor,
                at=at,
                thumb=thumb,
                folded=0,
            )
            recorder.hold("shot", shot, "folded")
            teaching.shots += 1
            teaching.rows += len(rows)
            _summarise(
                db,
                recorder,
                f"taught {shown(teaching.class_name)}: "
                f"{_count(teaching.shots, 'shot')}, {_count(teaching.rows, 'row')}",
            )
            self._fold(db, str(teaching.class_id), recorder.seq)
            self._make_room(db, recorder.seq)
        return shot

    def _make_room(self, db: sqlite3.Connection, teaching: int) -> None:
        """Raises StoreFull, so that nothing is changed, where the byte budget allows no more."""
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        if self._memory == 0 or pages * page_bytes <= self._memory:  # the file holds it all
            return
        if memory.held(db, self.dim).total <= self._memory:
            return
        fleet.compare_all(db)
        if memory.clear(
            db,
            self.dim,
            self._memory,
            lambda target, keep: self._fold_to(db, target, keep, teaching),
            lambda target, keep: self._forget_to(db, target, keep, teaching),
        ):
            return
        if self.voice is not None:
            self.voice.speak(db)  # which drops the packed bytes of what was let go of
        if memory.held(db, self.dim).total > self._memory:
            raise StoreFull(
                f"what was taught takes {memory.held(db, self.dim).total:,} bytes at the least; "
                f"the budget is {self._memory:,}",
                hint="raise the setting `memory`, or purge classes: "
                "`accrue class remove NAME --purge`",
                path=str(self.path),
                expected=self._memory,
            )

    def _extend(self, db: sqlite3.Connection, teaching: Teaching, at: float) -> Recorder:
        """The entry of a teach command, opened with its first shot."""
        if teaching.seq is None or teaching.class_id is None:
            recorder = journal.open_entry(db, "teach", summary="", actor=teaching.actor, at=at)
            found = self._root(db, teaching.name)
            teaching.seq = recorder.seq
            teaching.class_id = found or self._create(recorder, teaching.name, at)
            teaching.class_name = journal.value_of(db, "class", teaching.class_id, "name")
            if found:
                recorder.hold("class", found, "active")
            return recorder
        entry = journal.entry(db, teaching.seq)
        if entry.undone_by or not journal.value_of(db, "class", teaching.class_id, "active"):
            raise Conflict(
                f"class {shown(teaching.class_name)} was removed, or its teaching undone, "
                f"after {_count(teaching.shots, 'shot')} of this command",
                hint="teach it again",
                seq=teaching.seq,
            )
        recorder = Recorder(db, teaching.seq)
        (newest,) = db.execute("SELECT entry FROM change ORDER BY position DESC LIMIT 1").fetchone()
        if newest != teaching.seq:  # others came in between: this shot relies on the class anew
            recorder.hold("class", teaching.class_id, "active")
        return recorder

    def _create(self, recorder: Recorder, name: str, at: float) -> str:
        """A class that starts fresh under an unused name, on the row of a removed one if any."""
        db = recorder.db
        new = class_id(self.class_set, name)
        active = journal.value_of(db, "class", new, "active")
        if active is None:
            recorder.insert("class", new, name=name, created_at=at)
        elif active == 0:
            recorder.set(
                "class", new, active=1, name=name, created_at=at,
                counts_as=None, retain=None, budget=None, prompt=None, text=None, disabled=0,
            )  # fmt: skip
        elif fleet.joined(db) is None:
            raise corrupt(self.path, f"active class {new} does not bear its own name")
        _claim_name(recorder, name, new)
        return _follow(db, new)

    def teach_by_name(
        self, name: str, text: NDArray[np.int16], *, prompt: str | None = None, actor: str = ""
    ) -> Entry:
        """Gives a class the embedding of a text; again, it replaces the one before.

        A new name makes a class without shots. A name that leads to a class with shots gives it
        the text beside them.

        Args:
            text: int16 (dim,), as `quantise` makes it.
            prompt: the text; `name` if None.

        Raises:
            RowsError: a row of another form. UsageError: not a name, or a prompt that is empty,
                too long or cannot be printed.
        """
        name = clean_name(name)
        prompt = name if prompt is None else clean_prompt(prompt)
        row = check_rows(np.asarray(text)[None], self.dim)
        if not row.any():
            raise RowsError("a text of length zero; expected a unit vector from quantise()")
        with self._changing() as db:
            at = self._clock()
            recorder = journal.open_entry(db, "teach", summary="", actor=_text(actor), at=at)
            found = self._root(db, name)
            target = found or self._create(recorder, name, at)
            if found:
                recorder.hold("class", found, "active")
            recorder.set("class", target, prompt=prompt, text=row.astype("<i2").tobytes())
            display = journal.value_of(db, "class", target, "name")
            said = "" if prompt == display else f": {shown(prompt)}"
            _summarise(db, recorder, f"taught {shown(display)} by name{said}")
            return journal.entry(db, recorder.seq)

    # ---- the other verbs ------------------------------------------------------------------------

    def rename(self, old: str, new: str, *, actor: str = "") -> Entry:
        """Gives a class another display name; the old one stays as an alias.

        Raises:
            NotFound: no class `old`. Conflict: `new` is a name or alias of another class.
        """
        new = clean_name(new)
        with self._changing() as db:
            target = self._require_root(db, old)
            present = journal.value_of(db, "class", target, "name")
            if new == present:
                raise Conflict(f"class {shown(new)} is called that already")
            owner = _owner(db, new)
            if owner not in (None, target):
                other = journal.value_of(db, "class", str(owner), "name")
                raise Conflict(
                    f"cannot rename {shown(present)} to {shown(new)}: "
                    f"class {shown(other)} has that name or alias",
                    hint="if both are one thing, merge them: `accrue class merge A B`",
                    found=other,
                )
            recorder = self._entry(db, "rename", f"renamed {shown(present)} to {shown(new)}", actor)
            recorder.hold("class", target, "active")
            recorder.set("class", target, name=new)
            if owner is None:
                _claim_name(recorder, new, target)
            else:
                recorder.set("name", class_key(new), text=new)
            return journal.entry(db, recorder.seq)

    def remove(self, name: str, *, actor: str = "") -> Entry:
        """Deactivates a class with its shots, statistics and names, and what was merged into it.

        Teaching the name again starts fresh, under the same class id. Nothing is deleted: it can
        be undone; `purge` deletes.
        """
        with self._changing() as db:
            root = self._require_root(db, name)
            group = _groups(db)[root]
            display = journal.value_of(db, "class", root, "name")
            shots = [s for member in group for (s,) in _active(db, "shot", member)]
            recorder = self._entry(
                db, "remove", f"removed {shown(display)}: {_count(len(shots), 'shot')}", actor
            )
            for member in group:
                recorder.hold("class", member, "name", "counts_as")
                recorder.set("class", member, active=0)
                for table in ("name", "folded", "refusal"):
                    for (key,) in _active(db, table, member):
                        recorder.set(table, key, active=0)
                if fleet.joined(db):
                    fleet.raise_tombstone(db, member)
                    recorder.set("tombstone", member, covered=fleet.with_all_said(db, member))
            for shot in shots:
                recorder.hold("shot", shot, "folded")
                recorder.set("shot", shot, active=0)
            return journal.entry(db, recorder.seq)

    def relabel(self, shots: Sequence[str], name: str, *, actor: str = "") -> Entry:
        """Moves shots to class `name`, which is created if it does not exist.

        Raises:
            NotFound: no such shot. Conflict: folded, or all of that class already.
        """
        name = clean_name(name)
        with self._changing() as db:
            found = self._root(db, name)
            roots = {m: root for root, group in _groups(db).items() for m in group}
            moving = [s for s in self._movable(db, shots) if roots[s.class_id] != found]
            if not moving:
                raise Conflict(
                    f"nothing to relabel: every shot given is of class {shown(name)} already"
                )
            recorder = self._entry(
                db, "relabel", f"relabelled {_count(len(moving), 'shot')} as {shown(name)}", actor
            )
            return self._move(recorder, moving, found, name)

    def split(self, name: str, shots: Sequence[str], new: str, *, actor: str = "") -> Entry:
        """Moves some shots of class `name` to the new class `new`.

        Raises:
            NotFound: no such class, or no such shot in it. Conflict: `new` exists, or folded.
        """
        new = clean_name(new)
        with self._changing() as db:
            root = self._require_root(db, name)
            display = journal.value_of(db, "class", root, "name")
            group = _groups(db)[root]
            moving = self._movable(db, shots)
            for shot in moving:
                if shot.class_id not in group:
                    raise NotFound(
                        f"shot {shot.id} is not one of class {shown(display)}",
                        hint="see `accrue class show NAME` for its shots",
                        found=shot.id,
                    )
            if self._root(db, new):
                raise Conflict(
                    f"cannot split {shown(display)}: class {shown(new)} exists already",
                    hint="to move shots to a class that exists, use `accrue class relabel`",
                    found=new,
                )
            recorder = self._entry(
                db,
                "split",
                f"split {_count(len(moving), 'shot')} of {shown(display)} off as {shown(new)}",
                actor,
            )
            return self._move(recorder, moving, None, new)

    def _movable(self, db: sqlite3.Connection, shots: Sequence[str]) -> list[Shot]:
        if not shots:
            raise UsageError("no shots were given; expected at least one shot id")
        found = []
        for shot in (_shot(db, s) for s in dict.fromkeys(shots)):
            if shot.folded:
                raise Conflict(
                    f"shot {shot.id} cannot move: its rows were folded into the statistics of its "
                    "class, and a sum cannot be taken apart again",
                    hint="remove the class, or leave the shot where it is",
                    found=shot.id,
                )
            found.append(shot)
        return found

    def _move(self, recorder: Recorder, moving: list[Shot], found: str | None, name: str) -> Entry:
        db = recorder.db
        for source in dict.fromkeys(shot.class_id for shot in moving):
            recorder.hold("class", source, "active")
        if found:
            recorder.hold("class", found, "active")
        target = found or self._create(recorder, name, self._clock())
        for shot in moving:
            recorder.hold("shot", shot.id, "active", "folded")
            recorder.set("shot", shot.id, class_id=target)
        self._fold(db, target, recorder.seq)
        return journal.entry(db, recorder.seq)

    def merge(self, name: str, into: str, *, actor: str = "") -> Entry:
        """From now on `name` counts as `into`: an edge between the two, no data is moved.

        Raises:
            NotFound. Conflict: it does so already, or it would count as itself.
        """
        with self._changing() as db:
            source, target = self._require_root(db, name), self._require_root(db, into)
            names = [journal.value_of(db, "class", c, "name") for c in (source, target)]
            if source == target:
                raise Conflict(
                    f"cannot merge {shown(clean_name(name))} into {shown(clean_name(into))}: "
                    f"both are class {shown(names[1])} already",
                    hint="see `accrue class list`",
                )
            recorder = self._entry(
                db, "merge", f"merged {shown(names[0])} into {shown(names[1])}", actor
            )
            recorder.hold("class", source, "active")
            recorder.hold("class", target, "active")
            recorder.set("class", source, counts_as=target)
            return journal.entry(db, recorder.seq)

    def refuse(
        self,
        name: str,
        images: Sequence[tuple[str, NDArray[np.int16]]],
        *,
        actor: str = "",
    ) -> Entry:
        """Stores images as "not this" of class `name`; `accrue.learn.Refusals` says what follows.

        It stays with the class through renaming and merging, and goes with it when it is removed.

        Args:
            images: (source, int16 (views, dim)) of each, at least one.

        Raises:
            NotFound: no such class. RowsError: rows of another form.
        """
        if not images:
            raise UsageError("nothing to refuse; expected at least one image")
        with self._changing() as db:
            target = self._require_root(db, name)
            display = journal.value_of(db, "class", target, "name")
            recorder = self._entry(
                db,
                "refuse",
                f"noted {_count(len(images), 'image')} as not {shown(display)}",
                actor,
            )
            recorder.hold("class", target, "active")
            for source, rows in images:
                checked = check_rows(np.asarray(rows), self.dim)
                if len(checked) == 0:
                    raise RowsError("an image without rows; expected at least one", found=0)
                at = self._clock()
                recorder.insert(
                    "refusal",
                    _next_shot_id(db, at, "refusal"),
                    class_id=target,
                    n_rows=len(checked),
                    rows=checked.astype("<i2").tobytes(),
                    source=_text(source),
                    actor=_text(actor),
                    at=at,
                )
            self._make_room(db, recorder.seq)
            return journal.entry(db, recorder.seq)

    def allow(self, refusals: Sequence[str], *, actor: str = "") -> Entry:
        """Takes "not this" images back, by their ids. Raises NotFound."""
        if not refusals:
            raise UsageError("no ids were given; expected at least one id of a refused image")
        with self._changing() as db:
            for one in refusals:
                if journal.value_of(db, "refusal", _text(one), "active") != 1:
                    raise NotFound(
                        f"no refused image {shown(one)}: it never was, or it was taken back",
                        hint="see `accrue class show NAME` for those of a class",
                        found=one,
                    )
            gone = list(dict.fromkeys(_text(one) for one in refusals))
            recorder = self._entry(
                db, "allow", f"took back {_count(len(gone), 'refused image')}", actor
            )
            owners = [_owner_of_refusal(db, one) for one in gone]
            for owner in dict.fromkeys(owners):
                recorder.hold("class", owner, "active")
            for one in gone:
                recorder.set("refusal", one, active=0)
            return journal.entry(db, recorder.seq)

    def set_retention(
        self,
        name: str,
        *,
        retain: Retain | None = None,
        budget: int | None = None,
        actor: str = "",
    ) -> Entry:
        """Sets how a class keeps its rows; None leaves that part as it is.

        The setting can be undone. Rows that it makes fold into statistics cannot come back.
        """
        if retain not in (None, "rows", "statistics"):
            raise UsageError(
                f"retain is {shown(str(retain))}; expected rows or statistics", found=retain
            )
        if budget is not None:
            _check_budget(budget)
        with self._changing() as db:
            target = self._require_root(db, name)
            display = journal.value_of(db, "class", target, "name")
            recorder = self._entry(db, "retention", "", actor)
            recorder.hold("class", target, "active")
            given = {"retain": retain, "budget": budget}
            recorder.set("class", target, **{k: v for k, v in given.items() if v is not None})
            folded = self._fold(db, target, recorder.seq)
            lost = f"; {_count(folded, 'shot')} folded, which cannot be undone" if folded else ""
            _summarise(
                db,
                recorder,
                f"set {shown(display)} to keep {retain or self._retain}, "
                f"budget {self._budget if budget is None else budget} rows{lost}",
            )
            return journal.entry(db, recorder.seq)

    def disable(self, name: str, *, actor: str = "") -> Entry:
        """Leaves a class, with what counts as it, out of what this device answers.

        Nothing of it is touched: it can be taught, renamed and merged as before, its statistics
        stay in the state and its digest, and the fleet is told nothing.

        Raises:
            NotFound: no such class. Conflict: it is disabled already.
        """
        return self._set_disabled(name, "disable", actor)

    def enable(self, name: str, *, actor: str = "") -> Entry:
        """Takes a disabled class back in. Raises NotFound; Conflict where it is not disabled."""
        return self._set_disabled(name, "enable", actor)

    def _set_disabled(self, name: str, verb: Literal["disable", "enable"], actor: str) -> Entry:
        value = int(verb == "disable")
        with self._changing() as db:
            target = self._require_root(db, name)
            display = journal.value_of(db, "class", target, "name")
            if journal.value_of(db, "class", target, "disabled") == value:
                raise Conflict(
                    f"class {shown(display)} is {verb}d already", hint="see `accrue class list`"
                )
            recorder = self._entry(db, verb, f"{verb}d {shown(display)}", actor)
            recorder.hold("class", target, "active")
            recorder.set("class", target, disabled=value)
            return journal.entry(db, recorder.seq)

    def undo(self, seq: int | None = None, *, actor: str = "") -> Entry:
        """Reverses entry `seq`, or what last took effect; of an undo, that is a redo.

        Raises:
            NotFound: no such entry. Conflict: see `accrue.store.journal`.
        """
        with self._changing() as db:
            return journal.undo(db, seq, actor=_text(actor), at=self._clock())

    def purge(self, name: str, *, actor: str = "") -> Purged:
        """Deletes a class for good, active or removed, so that its bytes leave the disk's files.

        What was merged into it goes too. Entries of the journal that changed it stay as a line
        that names nothing and cannot be undone. Give a name or the id of a class.

        Raises:
            NotFound. StoreBusy: another process reads; nothing was deleted.
        """
        self._empty_wal()
        with self._changing() as db:
            doomed = self._doomed(db, name)
            self._say_purged(db, doomed)
            marks = ", ".join("?" * len(doomed))
            shots, rows = db.execute(
                f"SELECT count(*), coalesce(sum(n_rows), 0) FROM shot WHERE class_id IN ({marks})",
                doomed,
            ).fetchone()
            keys = f"""(tbl = 'class' AND key IN ({marks}))
                OR (tbl = 'name' AND key IN (SELECT key FROM name WHERE class_id IN ({marks})))
                OR (tbl = 'shot' AND key IN (SELECT id FROM shot WHERE class_id IN ({marks})))
                OR (tbl = 'folded' AND key IN (SELECT id FROM folded WHERE class_id IN ({marks})))
                OR (tbl = 'refusal' AND key IN (SELECT id FROM refusal WHERE class_id IN ({marks})))
                """
            values = f"(before IN ({marks}) OR after IN ({marks}))"
            db.execute(
                f"""UPDATE journal SET purged = 1, summary = verb || ' of a class since purged'
                WHERE seq IN (SELECT entry FROM change WHERE {keys} OR {values})""",
                doomed * 7,
            )
            db.execute(
                f"DELETE FROM change WHERE {keys} OR (col = 'counts_as' AND {values})", doomed * 7
            )
            for table in ("shot", "folded", "refusal", "name"):
                db.execute(f"DELETE FROM {table} WHERE class_id IN ({marks})", doomed)
            db.execute(f"UPDATE class SET counts_as = NULL WHERE counts_as IN ({marks})", doomed)
            db.execute(f"DELETE FROM class WHERE id IN ({marks})", doomed)
            recorder = journal.open_entry(
                db,
                "purge",
                summary=f"purged {_count(len(doomed), 'class', 'classes')}: "
                f"{_count(shots, 'shot')}, {_count(rows, 'row')}",
                actor=_text(actor),
                at=self._clock(),
                purged=True,
            )
            db.execute(  # gives the entry its place in the order of changes
                "INSERT INTO change (entry, tbl, key, col) VALUES (?, 'purge', '', '')",
                (recorder.seq,),
            )
        also_in = sorted(self.path.parent.glob(f"{FILE_NAME}{ASIDE}*"))
        try:
            with self._database.plain() as db:
                db.execute("VACUUM")
            self._empty_wal()
        except StoreError:  # the class is gone for good; its bytes are where nothing reads them
            also_in.append(self.path.with_name(FILE_NAME + "-wal"))
        return Purged(len(doomed), shots, rows, tuple(map(str, also_in)))

    def _say_purged(self, db: sqlite3.Connection, doomed: list[str]) -> None:
        """In a fleet: all that is known of these classes is gone, and packed bytes with it."""
        if fleet.joined(db) is None:
            return
        if self.voice is None:
            raise Conflict(
                f"{self.path} belongs to a fleet, which this program cannot tell of a purge",
                hint="purge it with `accrue class remove NAME --purge`",
                path=str(self.path),
            )
        for one in doomed:
            fleet.set_tombstone(db, one, fleet.with_all_said(db, one))
        self.voice.purge(db, doomed)
        fleet.compare_all(db)

    def _doomed(self, db: sqlite3.Connection, name: str) -> list[str]:
        if db.execute("SELECT 1 FROM class WHERE id = ?", (name,)).fetchone():
            found = [name]
        elif root := self._root(db, name):
            found = [root]
        else:
            key = class_key(clean_name(name))
            found = [
                row[0]
                for row in db.execute("SELECT id, name FROM class WHERE active = 0 ORDER BY id")
                if class_key(row[1]) == key
            ]
            found += [
                row[0]
                for row in db.execute("SELECT class_id FROM name WHERE key = ?", (key,))
                if row[0] not in found
            ]
        if not found:
            self._require_root(db, name)
        groups = _groups(db)
        return sorted({member for one in found for member in groups.get(one, [one])})

    def _empty_wal(self) -> None:
        with self._database.plain() as db:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError("database is locked")

    # ---- folding --------------------------------------------------------------------------------

    def _fold(self, db: sqlite3.Connection, target: str, entry: int) -> int:
        """Folds shots of a class past its budget into its statistics; how many."""
        retain, budget = db.execute(
            "SELECT retain, budget FROM class WHERE id = ?", (target,)
        ).fetchone()
        budget = self._budget if budget is None else budget
        where = "class_id = ? AND active = 1 AND folded = 0 AND device = ''"
        shots, kept = db.execute(
            f"SELECT count(*), coalesce(sum(n_rows), 0) FROM shot WHERE {where}", (target,)
        ).fetchone()
        if (retain or self._retain) == "statistics":
            keep = 0
        elif kept > budget:
            keep = int(budget * _KEPT_SHARE)
        elif shots > fleet.MOST_SHOTS and fleet.joined(db):
            keep = int(kept * fleet.MOST_SHOTS * _KEPT_SHARE / shots)
        else:
            return 0
        return self._fold_to(db, target, keep, entry)

    def _fold_to(self, db: sqlite3.Connection, target: str, keep: int, entry: int) -> int:
        """Folds what the rest reconstructs best until `keep` rows are left; how many shots."""
        shots = self._dispensable(db, target, keep, entry)
        if not shots:
            return 0
        fleet.compare_all(db)
        total = Statistics.of(np.concatenate([rows for _, rows in shots]))
        row = db.execute(
            """SELECT id, statistics FROM folded
            WHERE class_id = ? AND active = 1 AND device = ''""",
            (target,),
        ).fetchone()
        if row is None:
            newest = max(shot for shot, _ in shots)
            db.execute(
                "INSERT INTO folded (id, class_id, n, statistics, active) VALUES (?, ?, ?, ?, 1)",
                (newest, target, total.n, _packed(total)),
            )
        else:
            total = total + _unpacked(row[1], self.dim, self.path)
            db.execute(
                "UPDATE folded SET n = ?, statistics = ? WHERE id = ?",
                (total.n, _packed(total), row[0]),
            )
        _drop_rows(db, [shot for shot, _ in shots])
        return len(shots)

    def _forget_to(self, db: sqlite3.Connection, target: str, keep: int, entry: int) -> int:
        """Forgets, for want of room, what the rest reconstructs best; how many shots."""
        shots = self._dispensable(db, target, keep, entry)
        (kept,) = db.execute(
            """SELECT count(*) FROM shot
            WHERE class_id = ? AND active = 1 AND folded = 0 AND device = ''""",
            (target,),
        ).fetchone()
        if len(shots) == kept:
            shots = shots[:-1]  # a class keeps one
        if not shots:
            return 0
        display = shown(journal.value_of(db, "class", target, "name"))
        recorder = journal.open_entry(
            db,
            "forget",
            summary=f"forgot {_count(len(shots), 'shot')} of {display} to stay within memory, "
            "which cannot be undone",
            actor="accrue",
            at=self._clock(),
            purged=True,
        )
        for shot, _ in shots:
            recorder.set("shot", shot, active=0)
        _drop_rows(db, [shot for shot, _ in shots])
        return len(shots)

    def _dispensable(
        self, db: sqlite3.Connection, target: str, keep: int, entry: int
    ) -> list[tuple[str, NDArray[np.int16]]]:
        """Own shots of a class to let go of, so that at most `keep` rows stay.

        Those that `entry` mentions only where the others are not enough, so that the teaching
        under way can be undone; and its newest, which is acknowledged next, last of all.
        """
        shots = [
            (shot, self._as_rows(blob), bool(spared))
            for shot, blob, spared in db.execute(
                """SELECT id, rows, id IN (SELECT key FROM change WHERE entry = ? AND tbl = 'shot')
                FROM shot WHERE class_id = ? AND active = 1 AND folded = 0 AND device = ''
                ORDER BY 3, id""",
                (entry, target),
            )
        ]
        rows = [row for _, row, _ in shots]
        total = sum(map(len, rows))
        for candidates in (sum(not spared for *_, spared in shots), len(shots) - 1):
            gone = dispensable(rows, keep, candidates) if keep and candidates > 0 else []
            if gone and total - sum(len(rows[i]) for i in gone) <= keep:
                return [shots[i][:2] for i in gone]
        return [shot[:2] for shot in shots] if total > keep else []

    # ---- reading --------------------------------------------------------------------------------

    @property
    def revision(self) -> tuple[int, int]:
        """Differs from an earlier value of this object whenever anything may have changed since."""
        with self._database.reading() as db:
            (version,) = db.execute("PRAGMA data_version").fetchone()
            return version, db.total_changes

    def classes(self, *, merged: bool = False) -> list[ClassRow]:
        """Active classes, oldest first: the roots with the totals of what counts as them.

        With `merged`, every active class by itself, those that count as another included.
        """
        with self._database.reading() as db:
            return list(self._class_rows(db, by_itself=merged))

    def resolve(self, name: str) -> ClassRow:
        """The root class that a name or alias leads to.

        Raises:
            NotFound: with the nearest names. UsageError: `name` cannot be a name.
        """
        with self._database.reading() as db:
            root = self._require_root(db, name)
            return next(row for row in self._class_rows(db) if row.id == root)

    def shots(self, name: str | None = None) -> list[Shot]:
        """Active shots, oldest first, of one root class or of all."""
        with self._database.reading() as db:
            if name is None:
                group = [m for members in _groups(db).values() for m in members]
            else:
                group = _groups(db)[self._require_root(db, name)]
            found = [shot for member in group for shot in _shots(db, "class_id", member)]
        return sorted(found, key=lambda shot: shot.id)

    def refusals(self, name: str) -> list[Refusal]:
        """What was said not to be of a root class, oldest first."""
        with self._database.reading() as db:
            group = _groups(db)[self._require_root(db, name)]
            found = [
                Refusal(*row)
                for member in group
                for row in db.execute(
                    """SELECT id, class_id, n_rows, source, actor, at, device FROM refusal
                    WHERE class_id = ? AND active = 1""",
                    (member,),
                )
            ]
        return sorted(found, key=lambda refusal: refusal.id)

    def shot(self, shot: str) -> Shot:
        """Raises NotFound if there is no such shot, or not any more."""
        with self._database.reading() as db:
            return _shot(db, shot)

    def holds(self, shot: str) -> bool:
        """Whether there is such a shot, and it was neither undone nor removed."""
        with self._database.reading() as db:
            return bool(journal.value_of(db, "shot", shot, "active") == 1)

    def thumb(self, shot: str) -> bytes | None:
        """The thumbnail's bytes (JPEG). Raises NotFound as `shot` does."""
        with self._database.reading() as db:
            _shot(db, shot)
            found = db.execute("SELECT thumb FROM shot WHERE id = ?", (shot,)).fetchone()[0]
            return None if found is None else bytes(found)

    def rows_by_class(self, known: Iterable[ClassRows] = ()) -> list[ClassRows]:
        """All evidence, per root class in the order of `classes()`.

        Args:
            known: evidence that was read before; rows of classes with the same shots are taken
                from it, because rows of a shot never change.
        """
        held = {one.shot_ids: one for one in known}
        with self._database.reading() as db:
            groups = _groups(db)
            names = dict(db.execute("SELECT id, name FROM class").fetchall())
            texts = {
                one: self._sound(f"class {one}, text", text, crc)
                for one, text, crc in db.execute(
                    "SELECT id, text, crc FROM class WHERE active = 1 AND text IS NOT NULL"
                )
            }
            disabled = {row[0] for row in db.execute("SELECT id FROM class WHERE disabled = 1")}
            shots: dict[str, list[str]] = {}
            for member, shot in db.execute(
                "SELECT class_id, id FROM shot WHERE active = 1 AND folded = 0"
            ):
                shots.setdefault(member, []).append(shot)
            folded: dict[str, list[Statistics]] = {}
            for member, data in db.execute(
                "SELECT class_id, statistics FROM folded WHERE active = 1 ORDER BY id"
            ):
                folded.setdefault(member, []).append(_unpacked(data, self.dim, self.path))
            refused: dict[str, bytes] = {}
            for member, one, rows, crc in db.execute(
                "SELECT class_id, id, rows, crc FROM refusal WHERE active = 1 ORDER BY id"
            ):
                rows = self._sound(f"refusal {one}", rows, crc)
                refused[member] = refused.get(member, b"") + rows
            found = []
            for root, group in groups.items():
                mine = tuple(sorted(shot for member in group for shot in shots.get(member, ())))
                sums = [one for member in group for one in folded.get(member, ())]
                old = held.get(mine)
                rows, counts = (old.rows, old.counts) if old else self._rows_of(db, mine)
                found.append(
                    ClassRows(
                        root,
                        names[root],
                        rows,
                        mine,
                        counts,
                        sum(sums[1:], sums[0]) if sums else None,
                        self._as_rows(b"".join(refused.get(member, b"") for member in group)),
                        self._as_rows(texts[root])[0] if root in texts else None,
                        root in disabled,
                    )
                )
        return found

    def _rows_of(
        self, db: sqlite3.Connection, shots: Sequence[str]
    ) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Rows of kept shots, one after another, and how many each has."""
        blobs, counts = [], []
        for shot in shots:
            found = db.execute(
                "SELECT n_rows, rows, crc FROM shot WHERE id = ?", (shot,)
            ).fetchall()
            if not found:
                raise corrupt(self.path, f"shot {shot} is in an index and nowhere else")
            n, blob, crc = found[0]
            blobs.append(self._sound(f"shot {shot}", blob, crc))
            counts.append(n)
        return self._as_rows(b"".join(blobs)), np.array(counts, dtype=np.int64)

    def _as_rows(self, blob: bytes) -> NDArray[np.int16]:
        """int16 (n, dim), not to be written to."""
        if len(blob) % (2 * self.dim):
            raise corrupt(
                self.path, f"{len(blob)} bytes of rows are no multiple of {self.dim} int16 values"
            )
        rows = np.frombuffer(blob, "<i2").reshape(-1, self.dim)
        return rows if sys.byteorder == "little" else rows.astype(np.int16)

    def _sound(self, what: str, blob: bytes, crc: int) -> bytes:
        """The blob, if it is as it was written. Raises StoreCorrupt."""
        if crc_of(blob) != crc:
            raise corrupt(self.path, f"{what}: its bytes are not those that were written (CRC-32)")
        return blob

    def history(self, limit: int | None = None) -> list[Entry]:
        """Entries of the journal, newest first."""
        with self._database.reading() as db:
            return journal.history(db, limit)

    def entry(self, seq: int) -> Entry:
        """Raises NotFound."""
        with self._database.reading() as db:
            return journal.entry(db, seq)

    def changes(self, seq: int) -> list[journal.Change]:
        """The column changes of an entry. Raises NotFound."""
        with self._database.reading() as db:
            journal.entry(db, seq)
            return journal.changes(db, seq)

    def copy_into(self, target: sqlite3.Connection) -> None:
        """Copies the whole database, as it is at one instant, into another connection."""
        with self._database.plain() as db:
            db.backup(target)

    def check(self) -> list[str]:
        """What is wrong with the database, in words; empty if nothing is. Reads all of it."""
        with self._database.reading() as db:
            found = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            found += [
                f"{table} row {row}: refers to a missing {parent}"
                for table, row, parent, _ in db.execute("PRAGMA foreign_key_check")
            ]
            found += journal.disagreements(db)
            found += fleet.problems(db)
            found += [
                f"shot {shot}: {size} bytes; expected {n_rows} rows of {self.dim}"
                for shot, n_rows, size in db.execute(
                    """SELECT id, n_rows, length(rows) FROM shot
                    WHERE folded = 0 AND length(rows) != n_rows * ? * 2""",
                    (self.dim,),
                )
            ]
            found += [
                f"refusal {one}: {size} bytes; expected {n_rows} rows of {self.dim}"
                for one, n_rows, size in db.execute(
                    """SELECT id, n_rows, length(rows) FROM refusal
                    WHERE length(rows) != n_rows * ? * 2""",
                    (self.dim,),
                )
            ]
            found += [
                f"class {one}: a text of {size} bytes; expected {2 * self.dim} and its prompt"
                for one, size in db.execute(
                    """SELECT id, length(text) FROM class
                    WHERE (text IS NULL) != (prompt IS NULL) OR length(text) != ? * 2""",
                    (self.dim,),
                )
            ]
            found += [
                f"{table} {one}: its bytes are not those that were written (CRC-32)"
                for table, blob in (("shot", "rows"), ("refusal", "rows"), ("class", "text"))
                for (one,) in db.execute(
                    f"SELECT id FROM {table} WHERE crc IS NOT accrue_crc32({blob})"
                )
            ]
            found += [
                f"{table} {key}: active, though its class is not"
                for table, column in (
                    ("shot", "id"),
                    ("name", "key"),
                    ("folded", "id"),
                    ("refusal", "id"),
                )
                for (key,) in db.execute(
                    f"""SELECT t.{column} FROM {table} AS t JOIN class ON class.id = t.class_id
                    WHERE t.active = 1 AND class.active = 0"""
                )
            ]
            found += [
                f"class {one}: its name leads to {_owner(db, name)}"
                for one, name in db.execute("SELECT id, name FROM class WHERE active = 1")
                if _owner(db, name) != one and fleet.joined(db) is None
            ]
            found += [
                f"class {one}: counts as {target}, which is not active"
                for one, target in db.execute(
                    """SELECT a.id, b.id FROM class AS a JOIN class AS b ON b.id = a.counts_as
                    WHERE a.active = 1 AND b.active = 0"""
                )
            ]
            found += [
                f"class {one}: {counted} rows folded, its statistics hold {n}"
                for one, counted, n in db.execute(
                    """SELECT * FROM (SELECT class.id,
                    (SELECT coalesce(sum(n_rows), 0) FROM shot
                        WHERE class_id = class.id AND active AND folded AND device = '') AS counted,
                    (SELECT coalesce(sum(n), 0) FROM folded
                        WHERE class_id = class.id AND active AND device = '') AS held
                    FROM class) WHERE counted != held"""
                )
            ]
        return found

    def held(self) -> Held:
        """Bytes of rows, thumbnails and statistics, as the byte budget counts them."""
        with self._database.reading() as db:
            return memory.held(db, self.dim)

    # ---- inside ---------------------------------------------------------------------------------

    def _entry(self, db: sqlite3.Connection, verb: str, summary: str, actor: str) -> Recorder:
        return journal.open_entry(db, verb, summary=summary, actor=_text(actor), at=self._clock())

    def _root(self, db: sqlite3.Connection, name: str) -> str | None:
        clean = clean_name(name)
        owner = _owner(db, clean)
        if owner is None and journal.value_of(db, "class", clean, "active") == 1:
            owner = clean  # by its id: of two classes with one name, the name leads to one
        return None if owner is None else _follow(db, owner)

    def _require_root(self, db: sqlite3.Connection, name: str) -> str:
        root = self._root(db, name)
        if root is None:
            key = class_key(clean_name(name))
            known = dict(db.execute("SELECT key, text FROM name WHERE active = 1").fetchall())
            near = [shown(known[k]) for k in get_close_matches(key, known, n=3, cutoff=0.6)]
            hint = f"did you mean {' or '.join(near)}?" if near else "see `accrue class list`"
            raise NotFound(f"no class {shown(clean_name(name))}", hint=hint, found=clean_name(name))
        return root

    def _class_rows(self, db: sqlite3.Connection, *, by_itself: bool = False) -> Iterator[ClassRow]:
        groups = _groups(db)
        if by_itself:
            groups = {m: [m] for group in groups.values() for m in group}
        totals = {
            row[0]: row[1:]
            for row in db.execute(
                """SELECT class_id, count(*), sum(n_rows * (1 - folded)), sum(n_rows * folded),
                group_concat(DISTINCT nullif(device, '')) FROM shot
                WHERE active = 1 GROUP BY class_id"""
            )
        }
        received: dict[str, dict[str, int]] = {}
        for owner, device, n in db.execute(
            """SELECT class_id, device, sum(n) FROM folded WHERE active = 1 AND device != ''
            GROUP BY class_id, device"""
        ):
            received.setdefault(owner, {})[device] = n
        names: dict[str, list[str]] = {}
        for owner, text in db.execute("SELECT class_id, text FROM name WHERE active = 1"):
            names.setdefault(owner, []).append(text)
        columns = {
            row[0]: row[1:]
            for row in db.execute(
                """SELECT id, name, created_at, counts_as, retain, budget, prompt, disabled
                FROM class"""
            )
        }
        for root, group in sorted(groups.items(), key=lambda item: (columns[item[0]][1], item[0])):
            name, created_at, counts_as, retain, budget, prompt, disabled = columns[root]
            counts = [totals.get(member, (0, 0, 0, None)) for member in group]
            sums = [received.get(member, {}) for member in group]
            devices = {d for c in counts if c[3] for d in c[3].split(",")}
            yield ClassRow(
                id=root,
                name=name,
                aliases=tuple(sorted(t for m in group for t in names.get(m, ()) if t != name)),
                shots=sum(c[0] for c in counts),
                rows=sum(c[1] for c in counts),
                folded_rows=sum(c[2] for c in counts) + sum(sum(n.values()) for n in sums),
                created_at=created_at,
                counts_as=counts_as,
                merged=tuple(columns[m][0] for m in group if m != root),
                retain=retain or self._retain,
                budget=self._budget if budget is None else budget,
                prompt=prompt,
                devices=tuple(sorted(devices.union(*sums))),
                disabled=bool(disabled),
            )


def _prepare(
    database: Database, space_id: str | None, dim: int | None, class_set: str, at: float
) -> None:
    """Brings the schema up to date and, in the same transaction, says what a new state is for."""
    with database.reading() as db:
        if check_version(db, database.path) == len(MIGRATIONS):
            return
    with database.atomic() as db:
        migrate(db, database.path)
        if db.execute("SELECT count(*) FROM meta").fetchone()[0] == 0:
            if space_id is None or dim is None:
                raise NotFound(
                    f"no state in {database.path.parent}: {database.path.name} is empty",
                    hint="teach a first class with `accrue class teach NAME FILE...`",
                    path=str(database.path),
                )
            db.execute(
                "INSERT INTO meta (one, space_id, dim, class_set, created) VALUES (1, ?, ?, ?, ?)",
                (space_id, dim, class_set, at),
            )


def _update(path: Path, at: float) -> None:
    """Brings a database of an older version up to date. Raises StoreReadOnly where that fails."""
    database = Database(path, readonly=False)
    try:
        _prepare(database, None, None, DEFAULT_CLASS_SET, at)
    finally:
        database.close()


def _groups(db: sqlite3.Connection) -> _Groups:
    """Active root classes, oldest first, each with itself and the classes that count as it."""
    edges = dict(
        db.execute("SELECT id, counts_as FROM class WHERE active = 1 ORDER BY created_at, id")
    )
    groups: _Groups = {one: [one] for one, target in edges.items() if target is None}
    for one, target in edges.items():
        if target is not None:
            groups[_follow(db, one)].append(one)
    return groups


def _follow(db: sqlite3.Connection, one: str) -> str:
    """The end of the chain of "counts as"."""
    seen = {one}
    while (target := journal.value_of(db, "class", one, "counts_as")) is not None:
        one = str(target)
        if one in seen:  # no verb makes such a ring, bytes from elsewhere may
            path = db.execute("PRAGMA database_list").fetchone()[2]
            raise corrupt(Path(path), f"class {one} counts as itself")
        seen.add(one)
    return one


def _owner(db: sqlite3.Connection, name: str) -> str | None:
    """The class that an active name or alias belongs to, before merge edges."""
    row = db.execute(
        "SELECT class_id FROM name WHERE key = ? AND active = 1", (class_key(name),)
    ).fetchone()
    return None if row is None else str(row[0])


def _claim_name(recorder: Recorder, name: str, owner: str) -> None:
    """Makes an unused name lead to a class."""
    key = class_key(name)
    if journal.value_of(recorder.db, "name", key, "active") is None:
        recorder.insert("name", key, text=name, class_id=owner)
    else:
        recorder.set("name", key, class_id=owner, text=name, active=1)


def _active(db: sqlite3.Connection, table: str, owner: str) -> list[tuple[str]]:
    """Keys of the active rows of a table that belong to a class."""
    primary, _ = journal.TRACKED[table]
    return db.execute(
        f"SELECT {primary} FROM {table} WHERE class_id = ? AND active = 1 ORDER BY {primary}",
        (owner,),
    ).fetchall()


def _shots(db: sqlite3.Connection, column: Literal["id", "class_id"], value: str) -> Iterable[Shot]:
    for row in db.execute(
        f"""SELECT id, class_id, n_rows, source, actor, at, folded, thumb IS NOT NULL, device
        FROM shot WHERE {column} = ? AND active = 1""",
        (value,),
    ):
        values = [*row[:-3], bool(row[-3]), bool(row[-2]), row[-1]]
        yield Shot(*values)


def _shot(db: sqlite3.Connection, shot: str) -> Shot:
    for found in _shots(db, "id", _text(shot)):
        return found
    raise NotFound(
        f"no shot {shown(shot)}: it was never taught, or it was undone or removed",
        hint="see `accrue class show NAME` for the shots of a class",
        found=shot,
    )


def _drop_rows(db: sqlite3.Connection, shots: list[str]) -> None:
    db.executemany(
        "UPDATE shot SET rows = NULL, thumb = NULL, folded = 1 WHERE id = ?",
        [(shot,) for shot in shots],
    )


def _owner_of_refusal(db: sqlite3.Connection, one: str) -> str:
    return str(db.execute("SELECT class_id FROM refusal WHERE id = ?", (one,)).fetchone()[0])


def _next_shot_id(
    db: sqlite3.Connection, at: float, table: Literal["shot", "refusal"] = "shot"
) -> str:
    """Sorts after every own id of this table, even where the clock was set back."""
    (last,) = db.execute(f"SELECT max(id) FROM {table} WHERE device = ''").fetchone()
    now = max(0, int(at * 1000))
    if last is not None:
        digits = [_ID_ALPHABET.index(c) for c in last[:_ID_TIME_DIGITS]]
        now = max(now, 1 + sum(d << 5 * (len(digits) - 1 - i) for i, d in enumerate(digits)))
    time_digits = [now >> 5 * i & 31 for i in reversed(range(_ID_TIME_DIGITS))]
    random_digits = [secrets.randbelow(32) for _ in range(_ID_RANDOM_DIGITS)]
    return "".join(_ID_ALPHABET[d] for d in time_digits + random_digits)


def _summarise(db: sqlite3.Connection, recorder: Recorder, summary: str) -> None:
    db.execute("UPDATE journal SET summary = ? WHERE seq = ?", (summary, recorder.seq))


def _packed(statistics: Statistics) -> bytes:
    return zlib.compress(statistics.to_bytes(), 1)


def _unpacked(data: bytes, dim: int, path: Path) -> Statistics:
    try:
        found = Statistics.from_bytes(zlib.decompress(data))
    except (zlib.error, FormatError) as error:
        raise corrupt(path, f"statistics that do not parse ({error})") from error
    if found.dim != dim:
        raise corrupt(path, f"statistics of dimension {found.dim} in a state of {dim}")
    return found


def _text(text: str) -> str:
    """Text that SQLite takes: a path may hold bytes that are no UTF-8, as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _count(n: int, thing: str, plural: str = "") -> str:
    return f"{n:,} {thing if n == 1 else plural or thing + 's'}"


def _check_budget(budget: int) -> None:
    if not 0 <= budget <= BUDGET_LIMIT_ROWS:
        raise UsageError(
            f"a budget of {budget} rows; expected 0 to {BUDGET_LIMIT_ROWS:,}", found=budget
        )
