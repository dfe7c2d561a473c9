"""A store as a device of a fleet: what it says, what it hears, and its tables in step with both.

`StoreLedger` is the `Ledger` of a full device and the `Voice` of its store. In every transaction,
and so after a power cut at any instant, the tables are what follows from the contributions in
the same database.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from accrue.errors import Conflict, NotFound
from accrue.learn.state import State
from accrue.store import Store, fleet, shown
from accrue.store import journal as store_journal
from accrue.store.fleet import Policy, Said, Source
from accrue.store.journal import Recorder
from accrue.sync.clock import Clock
from accrue.sync.contribution import Contribution, Fact, Member, Part, Scope
from accrue.sync.ledger import Applied, Heard, Own
from accrue.sync.parts import check
from accrue.sync.signed import SIGNATURE_BYTES, canonical, signed_bytes, split
from accrue.sync.speaker import Draft, speak
from accrue.sync.tables import (
    Delta,
    Settling,
    Tables,
    Touched,
    Watched,
    between,
    differences,
    drop_unlisted,
)
from accrue.sync.view import View

Sign = Callable[[int, bytes], bytes]  # (revision, bytes to sign) -> signature of 64 bytes
_Key = tuple[str, str, Source]
_TOLD_CLASSES = 4  # in one line for people


class StoreLedger:
    """The ledger of a store that belongs to a fleet; attaches itself as the store's voice.

    Safe for use from several threads as the store is, and beside other processes on the same
    state: each reads what the others wrote.

    Args:
        store: writable, and joined (`Store.join_fleet`).
        sign: signs what is sent, with the key that is for a revision. Teaching needs none.
        name_of: a device id as people know it.

    Raises:
        Conflict: the store is in no fleet.
    """

    def __init__(
        self,
        store: Store,
        sign: Sign | None = None,
        *,
        name_of: Callable[[str], str] = lambda device: device,
    ) -> None:
        joined = store.joined
        if joined is None:
            raise Conflict(
                f"{store.path} belongs to no fleet",
                hint="join one: `accrue fleet join CODE --broker HOST`",
                path=str(store.path),
            )
        self._store = store
        self._sign = sign
        self._name_of = name_of
        self._scope = Scope(joined.fleet, store.class_set, store.space_id, store.dim)
        self._device = joined.device
        self._clock = Clock(now_ms=store.now_ms)
        self._generations: dict[_Key, int]
        self._forget_held()
        store.voice = self

    @property
    def scope(self) -> Scope:
        return self._scope

    @property
    def device(self) -> str:
        return self._device

    # ---- what is sent ---------------------------------------------------------------------------

    def unsent(self) -> list[str]:
        self.catch_up()
        with self._store.database() as db:
            return fleet.unsent(db)

    def own(self, class_id: str) -> Own:
        """Raises NotFound where nothing was ever said, Conflict without a key to sign with."""
        key: _Key = (self._device, class_id, "own")
        with self._store.database(write=True) as db:
            said = fleet.contribution(db, *key)
            if said is None:
                raise NotFound(f"nothing said about class {class_id}", found=class_id)
            signature = said.signature
            if signature is None:
                signature = self._signed(said)
                fleet.sign(db, key, signature)
            contribution = _read(said, self._scope)
            return Own(contribution, signature + said.body, self._parts_of(db, contribution))

    def _signed(self, said: Said) -> bytes:
        if self._sign is None:
            raise Conflict(
                "there is no key to sign with",
                hint="see `accrue fleet status`",
                found=said.class_id,
            )
        return self._sign(said.revision, signed_bytes("contribution", said.body))

    def _parts_of(self, db: sqlite3.Connection, contribution: Contribution) -> dict[str, bytes]:
        found = {}
        for part in contribution.parts:
            data = fleet.part(db, part.sha256)
            if data is None:
                raise NotFound(f"part {part.sha256[:12]} is not here", found=part.sha256)
            found[part.sha256] = data
        return found

    def acknowledge(self, class_id: str, revision: int) -> None:
        with self._store.database(write=True) as db:
            fleet.acknowledge(db, class_id, revision)

    def owned(self) -> dict[str, int]:
        with self._store.database() as db:
            return {c: r for (_, c), r in fleet.revisions(db, "own").items()}

    # ---- what was heard -------------------------------------------------------------------------

    def revisions(self) -> dict[tuple[str, str], int]:
        """As the protocol says; one whose live content has left this device counts as not heard."""
        with self._store.database() as db:
            self._load(db)
            found = fleet.revisions(db, "peer")
            for subject in self._missing(db):
                place = self._index.view().placements[subject]
                for device, class_id in list(found):
                    if device == place.owner and self._lists(device, class_id, place.sha256):
                        del found[device, class_id]
            return found

    def _lists(self, device: str, class_id: str, sha256: str) -> bool:
        held = self._held.get((device, class_id, "peer"))
        return held is not None and any(part.sha256 == sha256 for part in held.parts)

    def has_part(self, sha256: str) -> bool:
        with self._store.database() as db:
            here = fleet.has_part(db, sha256)
            if here is not False:
                return bool(here)
            self._load(db)
            tables = self._tables(db)
            listed = [
                member.subject
                for held in self._held.values()
                for part in held.parts
                if part.sha256 == sha256
                for member in part.members
            ]
            return bool(listed) and all(map(tables.has_content, listed))

    def part(self, sha256: str) -> bytes | None:
        with self._store.database() as db:
            return fleet.part(db, sha256)

    def contributions(self) -> list[tuple[Contribution, bytes]]:
        """All that was heard from others, with the envelopes as they were signed."""
        with self._store.database() as db:
            return [
                (_read(said, self._scope), (said.signature or bytes(SIGNATURE_BYTES)) + said.body)
                for said in fleet.contributions(db, "peer")
            ]

    def hear(self, heard: Sequence[Heard]) -> Applied:
        """As the protocol says. What changes is one entry of the journal, which can be undone.

        Raises:
            StoreFull: it does not fit the byte budget; nothing was taken.
        """
        with self._writing() as db:
            taken: set[tuple[str, str]] = set()
            before = self._index.view()
            self._index.changed.clear()
            unlisted: set[str] = set()
            arrived: set[str] = set()
            dropped: set[str] = set()
            for each in heard:
                one = each.contribution
                self._require_scope(one)
                self._clock.observe(one.revision)
                if one.device == self._device:
                    self._say_again(db, one.class_id, one.revision)
                    continue
                key: _Key = (one.device, one.class_id, "peer")
                held = self._held.get(key)
                arrived |= self._shelve(db, one, each.parts)
                if held is not None and not _is_newer(one, held):
                    continue
                unlisted |= self._listed_by(held) - self._listed_by(one)
                signature, body = split(each.envelope)
                self._write(db, key, one.revision, body, signature)
                dropped |= self._hold(key, one)
                taken.add(one.key)
            if not taken and not arrived:
                return Applied()
            by = ", ".join(sorted({self._name_of(device) for device, _ in taken})[:_TOLD_CLASSES])
            delta, summary = self._settle(
                db,
                before,
                f"received from {by}",
                changed=self._index.changed,
                arrived=arrived,
                unlisted=unlisted,
            )
            self._drop_parts(db, dropped)
            self._store.make_room(db)
            self.speak(db)  # where own shots were folded for room
            return Applied(len(taken), delta.classes | {c for _, c in taken}, summary)

    def forget(self, device: str) -> None:
        if device == self._device:
            raise Conflict("a device does not forget itself", hint="leave the fleet instead")
        with self._writing() as db:
            before = self._index.view()
            gone = [key for key in self._held if key[0] == device and key[2] == "peer"]
            unlisted = {s for key in gone for s in self._listed_by(self._held[key])}
            fleet.drop(db, source="peer", device=device)
            for key in gone:
                self._release(key)
            summary = f"forgot what {self._name_of(device)} said"
            self._settle(db, before, summary, unlisted=unlisted)
            self._drop_parts(db)

    # ---- governance -----------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """Whether what others say counts at once, or what the owner's manifest lists."""
        with self._store.database() as db:
            return fleet.policy(db)

    def install(
        self,
        entries: Sequence[Heard],
        considered: Mapping[tuple[str, str], int],
        summary: str = "installed the owner's set",
    ) -> Applied:
        """Puts the owner's manifest in the place of the one before; from then on it is what counts.

        Own work that the manifest has not considered yet goes on counting, as a draft; what it
        has considered becomes what it lists of it, or nothing. Call it within `Store.atomic()` to
        look at the outcome before it is final.

        Args:
            entries: what the manifest lists, own contributions included.
            considered: (device, class id) to the revision that the owner has seen.
            summary: one line for the journal.
        """
        with self._writing() as db:
            before = self._index.view()
            listed_before = self._all_listed()
            fleet.set_policy(db, "curated")
            fleet.drop(db, source="manifest")
            self._release_all("manifest")
            arrived: set[str] = set()
            for each in entries:
                one = each.contribution
                self._require_scope(one)
                self._clock.observe(one.revision)
                arrived |= self._shelve(db, one, each.parts)
                signature, body = split(each.envelope)
                manifest_key: _Key = (one.device, one.class_id, "manifest")
                self._write(db, manifest_key, one.revision, body, signature)
                self._held[manifest_key] = one
            self._curated = True
            for class_id in sorted({c for _, c, source in self._held if source == "own"}):
                seen = considered.get((self._device, class_id), 0)
                self._adopt(db, class_id, seen)
            self._rebuild()
            delta, line = self._settle(
                db,
                before,
                summary,
                arrived=arrived,
                unlisted=listed_before - self._all_listed(),
            )
            self._drop_parts(db)
            self._store.make_room(db)
            self.speak(db)  # where own shots were folded for room
            return Applied(len(entries), delta.classes, line)

    def open_policy(self, summary: str = "left the owner's set") -> Applied:
        """From now on what others say counts at once."""
        with self._writing() as db:
            before = self._index.view()
            listed_before = self._all_listed()
            fleet.set_policy(db, "open")
            fleet.drop(db, source="manifest")
            self._release_all("manifest")
            self._curated = False
            self._rebuild()
            delta, line = self._settle(
                db, before, summary, unlisted=listed_before - self._all_listed()
            )
            self._drop_parts(db)
            return Applied(0, delta.classes, line)

    def drafts(self) -> dict[str, int]:
        """Class id to own revision, of what the owner's manifest has not considered."""
        with self._store.database() as db:
            if fleet.policy(db) == "open":
                return {}
            return {
                said.class_id: said.revision
                for said in fleet.contributions(db, "own")
                if said.revision > said.considered
            }

    def _adopt(self, db: sqlite3.Connection, class_id: str, seen: int) -> None:
        key: _Key = (self._device, class_id, "own")
        own = self._held[key]
        if own.revision > max(seen, self._considered.get(class_id, 0)):
            return  # a draft; what an earlier manifest made of it is none
        listed = self._held.get((self._device, class_id, "manifest"))
        facts = dict(listed.facts) if listed else {}
        gone = dict(listed.gone) if listed else {}
        parts = listed.parts if listed else ()
        if (dict(own.facts), dict(own.gone), own.parts) != (facts, gone, parts):
            own = Contribution(
                self._scope, self._device, class_id, self._clock.tick(), facts, gone, parts
            )
            self._write(db, key, own.revision, canonical(own.to_body()))
            fleet.restore_tombstone(db, class_id, gone)
            self._held[key] = own
            for part in parts:
                data = fleet.part(db, part.sha256)
                if data is not None:
                    fleet.put_part(db, part.sha256, data, own=True)
        fleet.consider(db, class_id, own.revision)
        self._considered[class_id] = own.revision

    # ---- leaving --------------------------------------------------------------------------------

    def leave(self) -> None:
        """Drops all that others said; the store is one of its own again, with what it taught."""
        with self._writing() as db:
            before = self._index.view()
            listed_before = self._all_listed()
            for source in ("peer", "manifest"):
                fleet.drop(db, source=source)
            self._release_all("peer")
            self._release_all("manifest")
            self._curated = False
            self._rebuild()
            unlisted = listed_before - self._all_listed()
            self._settle(db, before, f"left fleet {self._scope.fleet}", unlisted=unlisted)
            fleet.leave(db)
        self._store.voice = None

    # ---- the voice ------------------------------------------------------------------------------

    def speak(self, db: sqlite3.Connection) -> None:
        """Says what the tables hold and the contributions do not. See `accrue.sync.speaker`."""
        self._load(db)
        untold = fleet.untold(db)
        if untold == []:
            return
        tables = self._tables(db)
        own = {key[1]: held for key, held in self._held.items() if key[2] == "own"}
        draft = Draft(db, self._scope, self._device, own, self._index, tables, self._clock)
        recorder = self._newest_entry(db)
        touched = speak(draft, tables, untold, recorder, lambda s: self._listed[s] > 0)
        dropped: set[str] = set()
        for new in draft.write():
            key: _Key = (new.device, new.class_id, "own")
            self._generations[key] = fleet.generation_of(db, key)
            dropped |= self._hold(key, new, indexed=True)
        settling = Settling(tables, self._index.view(), self._device, recorder)
        settling.settle(touched)
        self._drop_parts(db, dropped)
        fleet.set_clock(db, self._clock.last)
        fleet.told(db)
        self._generation = fleet.generation(db)

    def purge(self, db: sqlite3.Connection, class_ids: Collection[str]) -> None:
        """Drops the packed parts of classes, but those with something that counts elsewhere."""
        self._load(db)
        placements = self._index.view().placements
        doomed = set(class_ids)
        for (_, class_id, source), held in self._held.items():
            if class_id not in doomed or source == "own":
                continue
            fleet.drop_parts(
                db,
                [
                    part.sha256
                    for part in held.parts
                    if all(
                        place is None or place.class_id in doomed
                        for place in (placements.get(m.subject) for m in part.members)
                    )
                ],
            )

    def catch_up(self) -> None:
        """Says what a process without a voice changed."""
        with self._store.database() as db:
            untold = fleet.untold(db)
        if untold != []:
            with self._store.database(write=True) as db:
                self.speak(db)

    # ---- looking --------------------------------------------------------------------------------

    def view(self) -> View:
        """What all that counts says together."""
        with self._store.database() as db:
            self._load(db)
            return self._index.view()

    def state(self) -> State:
        """What follows for the learner, out of the tables."""
        state = State(self._scope.space, self._scope.dim)
        for found in self._store.rows_by_class():
            state.add(found.id, found.rows)
            if found.folded is not None:
                state.add_statistics(found.id, found.folded)
        return state

    def missing(self) -> set[str]:
        """Subjects that count, but whose content is not here."""
        with self._store.database() as db:
            self._load(db)
            return self._missing(db)

    def check(self) -> list[str]:
        """What is wrong with the store, and where its tables and the view do not agree."""
        found = self._store.check()
        with self._store.database() as db:
            self._load(db)
            if fleet.untold(db) != []:
                return [*found, "the last changes were not said yet"]
            tables = self._tables(db)
            found += differences(tables, self._index.view(), self._device, self._missing(db))
            for (device, class_id, source), held in sorted(self._held.items()):
                if source == "own":
                    for part in held.parts:
                        data = fleet.part(db, part.sha256)
                        if data is None:
                            found.append(f"own part {part.sha256} of {class_id} is not here")
                            continue
                        check(part, data, self._scope.dim)
                    if dict(held.gone) != fleet.tombstone(db, class_id):
                        found.append(f"tombstone of {class_id} is not what was said")
                if device == self._device and source == "peer":
                    found.append(f"contribution on {class_id}: heard from itself")
        return found

    # ---- inside: transactions and what is held in memory ----------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that begins with everything said, and in which `_settle` is told."""
        with self._store.database(write=True) as db:
            self.speak(db)
            yield db
            fleet.set_clock(db, self._clock.last)
            self._generation = fleet.generation(db)

    def _forget_held(self) -> None:
        self._held: dict[_Key, Contribution] = {}
        self._generations = {}
        self._considered: dict[str, int] = {}
        self._listed: Counter[str] = Counter()  # subjects, by how many contributions
        self._parts: Counter[str] = Counter()  # hashes, likewise
        self._index = Watched(self._scope)
        self._curated = False
        self._generation = -1
        self._clock.last = 0

    def _load(self, db: sqlite3.Connection) -> None:
        """Brings what is held in memory up to what this transaction sees."""
        self._store.on_rollback(self._forget_held)
        self._clock.last = max(self._clock.last, fleet.clock(db))
        generation = fleet.generation(db)
        if generation == self._generation:
            return
        self._index.changed.clear()
        present = fleet.generations(db)
        curated = fleet.policy(db) == "curated"
        rebuild = curated != self._curated
        self._curated = curated
        for key in [key for key in self._held if key not in present]:
            self._release(key)
        for key, written in present.items():
            if self._generations.get(key) != written:
                said = fleet.contribution(db, *key)
                assert said is not None
                if key[2] == "own":
                    self._considered[key[1]] = said.considered
                self._hold(key, _read(said, self._scope))
        if rebuild:
            self._rebuild()
        self._generations = present
        self._generation = generation

    def _write(
        self,
        db: sqlite3.Connection,
        key: _Key,
        revision: int,
        body: bytes,
        signature: bytes | None = None,
    ) -> None:
        fleet.put(db, key, revision, body, signature)
        self._generations[key] = self._generation = fleet.generation(db)

    def _hold(self, key: _Key, one: Contribution, *, indexed: bool = False) -> set[str]:
        """Takes a contribution into memory; hashes of parts that it lists no more."""
        before = self._held.get(key)
        self._held[key] = one
        self._count(one, 1)
        self._count(before, -1)
        if not indexed:
            self._put(key[0], key[1])
        return _hashes(before) - _hashes(one)

    def _release(self, key: _Key) -> None:
        self._count(self._held.pop(key), -1)
        self._generations.pop(key, None)
        self._put(key[0], key[1])

    def _release_all(self, source: Source) -> None:
        """As `_release`, where the index is made anew afterwards."""
        for key in [key for key in self._held if key[2] == source]:
            del self._held[key], self._generations[key]

    def _count(self, one: Contribution | None, n: int) -> None:
        for part in one.parts if one is not None else ():
            self._parts[part.sha256] += n
            for member in part.members:
                self._listed[member.subject] += n

    def _put(self, device: str, class_id: str) -> None:
        """Brings the index up to what counts of a device about a class."""
        counting = self._counting(device, class_id)
        if counting is None:
            self._index.drop(device, class_id)
        else:
            self._index.put(counting)

    def _counting(self, device: str, class_id: str) -> Contribution | None:
        own = self._held.get((device, class_id, "own"))
        if not self._curated:
            return own or self._held.get((device, class_id, "peer"))
        if own is not None and own.revision > self._considered.get(class_id, 0):
            return own
        return self._held.get((device, class_id, "manifest"))

    def _rebuild(self) -> None:
        self._index = Watched(self._scope)
        self._listed, self._parts = Counter(), Counter()
        for held in self._held.values():
            self._count(held, 1)
        for device, class_id in sorted({key[:2] for key in self._held}):
            self._put(device, class_id)

    def _listed_by(self, one: Contribution | None) -> set[str]:
        return {m.subject for part in one.parts for m in part.members} if one else set()

    def _all_listed(self) -> set[str]:
        return {subject for subject, count in self._listed.items() if count > 0}

    # ---- inside: the rest -----------------------------------------------------------------------

    def _tables(self, db: sqlite3.Connection) -> Tables:
        return Tables(db, self._scope.dim, self._device)

    def _require_scope(self, one: Contribution) -> None:
        if one.scope != self._scope:
            raise Conflict(
                f"contribution of {one.scope}; this state is of {self._scope}",
                found=str(one.scope),
                expected=str(self._scope),
            )

    def _shelve(
        self, db: sqlite3.Connection, one: Contribution, parts: Mapping[str, bytes]
    ) -> set[str]:
        """Keeps packed parts; the subjects whose content was not here before."""
        arrived: set[str] = set()
        for part in one.parts:
            data = parts.get(part.sha256)
            if data is not None and not fleet.has_part(db, part.sha256):
                check(part, data, self._scope.dim)
                fleet.put_part(db, part.sha256, data)
                arrived |= {member.subject for member in part.members}
        return arrived

    def _say_again(self, db: sqlite3.Connection, class_id: str, revision: int) -> None:
        """What this device says replaces what it said later, before a backup was restored."""
        key: _Key = (self._device, class_id, "own")
        own = self._held.get(key)
        if own is not None and own.revision > revision:
            return
        new = Contribution(
            self._scope,
            self._device,
            class_id,
            self._clock.tick(),
            own.facts if own else {},
            own.gone if own else {},
            own.parts if own else (),
        )
        self._write(db, key, new.revision, canonical(new.to_body()))
        if own is not None and own.revision <= self._considered.get(class_id, 0):
            fleet.consider(db, class_id, new.revision)
            self._considered[class_id] = new.revision
        self._hold(key, new)

    def _settle(
        self,
        db: sqlite3.Connection,
        before: View,
        summary: str,
        *,
        changed: Collection[str] | None = None,
        arrived: Collection[str] = (),
        unlisted: Collection[str] = (),
    ) -> tuple[Delta, str]:
        """Brings the tables to the view, as one entry of the journal if anything changes."""
        tables, after = self._tables(db), self._index.view()
        touched = between(before, after, changed)
        touched.add(Touched(subjects=set(arrived)))
        opened: list[Recorder] = []

        def recorder() -> Recorder:
            if not opened:
                opened.append(
                    store_journal.open_entry(
                        db, "sync", summary=summary, actor="fleet", at=self._store.now_ms() / 1000
                    )
                )
            return opened[0]

        settling = Settling(tables, after, self._device, recorder)
        settling.settle(touched)
        drop_unlisted(tables, [s for s in unlisted if self._listed[s] <= 0], recorder)
        line = ""
        if opened:
            line = summary + _told(settling.delta, before, after)
            db.execute("UPDATE journal SET summary = ? WHERE seq = ?", (line, opened[0].seq))
        fleet.told(db)
        return settling.delta, line

    def _newest_entry(self, db: sqlite3.Connection) -> Callable[[], Recorder]:
        def recorder() -> Recorder:
            row = db.execute("SELECT entry FROM change ORDER BY position DESC LIMIT 1").fetchone()
            if row is None:
                return store_journal.open_entry(
                    db, "sync", summary="joined", actor="fleet", at=self._store.now_ms() / 1000
                )
            return Recorder(db, row[0])

        return recorder

    def _drop_parts(self, db: sqlite3.Connection, hashes: Collection[str] | None = None) -> None:
        """Drops packed parts that nobody lists any more, among these or among all."""
        if hashes is None:
            hashes = fleet.part_hashes(db).keys()
        gone = [one for one in hashes if self._parts[one] <= 0]
        fleet.drop_parts(db, gone)
        left = set(hashes).difference(gone)
        if left:
            for (_, _, source), held in self._held.items():
                if source == "own":
                    left -= _hashes(held)
            fleet.disown_parts(db, left)

    def _missing(self, db: sqlite3.Connection) -> set[str]:
        known = fleet.part_hashes(db)
        tables = self._tables(db)
        return {
            subject
            for subject, place in self._index.view().placements.items()
            if not known.get(place.sha256) and not tables.has_content(subject)
        }


def _read(said: Said, scope: Scope) -> Contribution:
    """A stored contribution, which was parsed strictly when it was taken."""
    body = json.loads(said.body)
    return Contribution(
        scope,
        said.device,
        said.class_id,
        said.revision,
        {
            subject: Fact(stamp, tuple(value) if isinstance(value, list) else value)
            for subject, (stamp, value) in body["facts"].items()
        },
        body["gone"],
        tuple(
            Part(
                part["sha256"],
                part["bytes"],
                part["kind"],
                tuple(Member(*member) for member in part["members"]),
            )
            for part in body["parts"]
        ),
    )


def _hashes(one: Contribution | None) -> set[str]:
    return {part.sha256 for part in one.parts} if one is not None else set()


def _is_newer(one: Contribution, held: Contribution) -> bool:
    if one.revision != held.revision:
        return one.revision > held.revision
    return one.digest > held.digest  # a device that said two things at once: all choose the same


def _told(delta: Delta, before: View, after: View) -> str:
    """What changed, for people: `: "bolt" +3 shots, "nut" removed`."""
    words = []
    for class_id in sorted(delta.classes):
        one = after.classes.get(class_id) or before.classes.get(class_id)
        name = shown(one.name if one else class_id)
        n = delta.shots.get(class_id, 0)
        if class_id in delta.ended:
            words.append(f"{name} removed")
        elif n:
            words.append(f"{name} {n:+,} {'shot' if abs(n) == 1 else 'shots'}")
        elif class_id in delta.begun:
            words.append(f"{name} new")
        else:
            words.append(f"{name} changed")
    if not words:
        return ""
    more = len(words) - _TOLD_CLASSES
    return ": " + ", ".join(words[:_TOLD_CLASSES]) + (f" and {more} more" if more > 0 else "")
