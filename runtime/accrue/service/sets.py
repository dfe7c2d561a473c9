"""A class set as one signed file, to carry on a USB stick: writing it, and taking one over.

What devices of the own fleet signed is taken over as theirs, as if it had come over the broker.
All else, from another fleet or from a device in none, is taught here anew, as this device's own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from accrue.errors import Conflict, NotFound, Refused, SpaceMismatch
from accrue.learn.guard import Measured, compare
from accrue.learn.statistics import Rows, Statistics
from accrue.service.box import Box, Learned
from accrue.service.fleet import Fleet, ledger_of
from accrue.service.guarded import measured
from accrue.store import Store
from accrue.store import fleet as store_fleet
from accrue.store.names import class_id, class_key
from accrue.sync.archive import NO_FLEET, SetFile, read_set, write_set
from accrue.sync.clock import wall_clock_ms
from accrue.sync.contribution import Contribution, Scope, text_vector
from accrue.sync.difference import (
    ClassSummary,
    Difference,
    Summary,
    difference,
    evidence,
    prototype,
    summarise,
)
from accrue.sync.identity import fingerprint
from accrue.sync.ledger import Heard
from accrue.sync.parts import unpack
from accrue.sync.replica import MemoryLedger
from accrue.sync.roster import RosterTrust
from accrue.sync.shelf import StoreLedger
from accrue.sync.signed import parse, signed_bytes, split
from accrue.sync.view import ClassView, View, view


@dataclass(frozen=True)
class Exported:
    """What was written. `devices`: whose work is in it. `digest`: of what it says together."""

    file: Path
    size: int
    classes: int
    shots: int
    devices: int
    digest: str


@dataclass(frozen=True)
class Import:
    """What taking a file over changes, or changed.

    Attributes:
        signer, fingerprint: who wrote the file, and of which key; `known` says whose that is here:
            "owner", "device NAME", "this device", or "" for nobody that is known.
        as_theirs: whether it is taken over as the work of devices of the own fleet.
        refused: contributions that were not taken, by reason. left_out: remarks, in words.
        before, after: accuracy on the kept shots that are there before and after.
        entries: entries of the journal that it made; empty where nothing was changed.
    """

    signer: str
    fingerprint: str
    known: str
    fleet: str
    at_ms: int
    as_theirs: bool
    difference: Difference
    refused: Mapping[str, int]
    left_out: tuple[str, ...]
    before: Measured
    after: Measured
    entries: tuple[int, ...] = ()


@dataclass
class _Taken:
    refused: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)


class _LookedAt(Exception):
    """Rolls a trial back."""


# ---- export -------------------------------------------------------------------------------------


def export_set(box: Box, file: Path) -> Exported:
    """Writes all that counts on this device to a file. No image goes into it.

    Raises:
        NotFound: nothing has been taught. StoreFull, StoreReadOnly, StoreError.
    """
    if not box.classes():
        raise NotFound(
            "there is nothing to export: no class has been taught",
            hint="teach one: accrue class teach NAME FILE...",
        )
    fleet = Fleet(box)
    identity = fleet.identity()
    store = box.store()
    if store.joined is None:
        scope = Scope(NO_FLEET, store.class_set, store.space_id, store.dim)
        heard = _as_own(box, MemoryLedger(scope, identity.device, identity.key))
    else:
        ledger = StoreLedger(store, lambda revision, data: identity.key_at(revision).sign(data))
        scope, heard = ledger.scope, _counting(store, ledger)
    size = write_set(
        file, scope, heard, signer=identity.device, key=identity.key, at_ms=wall_clock_ms()
    )
    said = summarise(heard, scope)
    return Exported(
        file,
        size,
        len(said.classes),
        said.shots,
        len({one.contribution.device for one in heard}),
        said.digest,
    )


def _counting(store: Store, ledger: StoreLedger) -> list[Heard]:
    """What counts on a device of a fleet, as it was signed; its own work, drafts included."""
    found: dict[tuple[str, str], Heard] = {}
    with store.database() as db:
        said = store_fleet.contributions(db, "manifest" if ledger.policy == "curated" else "peer")
    for one in said:
        contribution = Contribution.from_body(parse(one.body))
        parts = {part.sha256: ledger.part(part.sha256) for part in contribution.parts}
        if one.signature is not None and None not in parts.values():
            found[contribution.key] = Heard(
                contribution, one.signature + one.body, cast(Mapping[str, bytes], parts)
            )
    drafts = ledger.drafts()
    for one_class in ledger.owned():
        if ledger.policy == "open" or one_class in drafts:
            own = ledger.own(one_class)
            found[own.contribution.key] = Heard(own.contribution, own.envelope, own.parts)
    return list(found.values())


def _as_own(box: Box, ledger: MemoryLedger) -> list[Heard]:
    """What a device in no fleet holds, said as a device of one would."""
    store = box.store()
    rows = store.rows_by_class()
    shown = {row.id: row for row in store.classes()}
    for found in rows:
        row = shown[found.id]
        names = _in_order(store.class_set, found.id, (*row.aliases, found.name))
        ledger.keep(names[0])
        for old, new in itertools.pairwise(names):
            ledger.rename(old, new)
        if found.text is not None:
            ledger.teach_text(found.name, row.prompt or found.name, found.text)
        for _, shot in found.by_shot():
            ledger.teach(found.name, shot)
        if found.folded is not None:
            raise Conflict(
                f'class "{found.name}" has shots that were folded into its statistics',
                hint="a device of a fleet can export those; join one, or raise the setting budget",
            )
        for refused in found.refused:
            ledger.refuse(found.name, refused[None])
    said = [ledger.own(one) for one in ledger.owned()]
    return [Heard(own.contribution, own.envelope, own.parts) for own in said]


# ---- import -------------------------------------------------------------------------------------


def look_at(box: Box, file: Path) -> Import:
    """What taking a file over would change. Changes nothing."""
    return _take(box, file, apply=False, force=False)


def import_set(box: Box, file: Path, *, force: bool = False) -> Import:
    """Takes a file over, in one transaction.

    Raises:
        NotFound, FormatError, Rejected: see `read_set`. SpaceMismatch: of another encoder.
        Refused: answers would get worse by more than the setting `guard`, and not `force`.
    """
    return _take(box, file, apply=True, force=force)


def _take(box: Box, file: Path, *, apply: bool, force: bool) -> Import:
    found = read_set(file)
    fleet, store = Fleet(box), box.store(create=True)
    if (found.scope.space, found.scope.dim) != (store.space_id, store.dim):
        raise SpaceMismatch(
            f"{file} holds embeddings of space {found.scope.space16}; this device has "
            f"{store.space_id[:16]}, and the two do not mix",
            hint="use the encoder bundle that it was taught with (--bundle)",
            found=found.scope.space,
            expected=store.space_id,
        )
    joined = store.joined
    theirs = joined is not None and joined.fleet == found.scope.fleet
    taken = _Taken()
    before = box.learned()
    newest = max((entry.seq for entry in store.history(1)), default=0)
    try:
        with store.atomic():
            if theirs:
                _hear(fleet, store, found, taken)
            else:
                _adopt(box, store, found, file.name, taken)
            after = box.read_now()
            entries = tuple(sorted(e.seq for e in store.history() if e.seq > newest))
            common = set(before.shot_ids) & set(after.shot_ids)
            was, now = measured(before, common), measured(after, common)
            done = Import(
                found.signer,
                fingerprint(found.key),
                _known(fleet, found),
                "" if found.scope.fleet == NO_FLEET else found.scope.fleet,
                found.at_ms,
                theirs,
                difference(summary_of(before), summary_of(after)),
                taken.refused,
                tuple(taken.left_out),
                was,
                now,
                entries,
            )
            if not apply:
                raise _LookedAt
            verdict = compare(was, now, box.settings.guard)
            if not force and box.settings.guard < 1 and not verdict.passed:
                raise Refused(
                    f"held back, nothing was changed: {verdict.reason}",
                    hint="see `accrue set diff`; to do it all the same, add --force",
                )
    except _LookedAt:
        return done
    return done


def _known(fleet: Fleet, found: SetFile) -> str:
    """Whose the key of a file is, as far as this device can tell."""
    if found.key in {held.public for held in fleet.identity().keys}:
        return "this device"
    if not fleet.is_member():
        return ""
    if found.key == fleet.membership().owner:
        return "owner"
    roster = fleet.roster()
    for member in roster.devices.values() if roster else ():
        if any(window.key == found.key for window in member.keys):
            return f"device {member.name}"
    return ""


def _hear(fleet: Fleet, store: Store, found: SetFile, taken: _Taken) -> None:
    """Takes over what devices of the own fleet signed."""
    ledger = ledger_of(store)
    trust = RosterTrust(fleet.roster())
    known = ledger.revisions()
    good = []
    for one in found.heard:
        said = one.contribution
        signature, body = split(one.envelope)
        reason = trust.verify(
            said.device, said.revision, signature, signed_bytes("contribution", body)
        )
        if said.scope != ledger.scope:
            reason = "wrong-scope"
        if reason is not None:
            taken.refused[reason] += 1
        elif said.device != ledger.device and said.revision > known.get(said.key, 0):
            good.append(one)
    ledger.hear(good)
    if good and ledger.policy == "curated":
        taken.left_out.append("the class set is curated: it counts once the owner publishes it")


def _adopt(box: Box, store: Store, found: SetFile, source: str, taken: _Taken) -> None:
    """Teaches what is in a file as this device's own. What is here already is not taught twice."""
    seen = view((one.contribution for one in found.heard), found.scope)
    contents = {digest: data for one in found.heard for digest, data in one.parts.items()}
    actor = box.settings.actor
    for one in sorted(seen.classes.values(), key=lambda c: (c.since, c.id)):
        _adopt_class(store, one, seen, contents, source, actor, taken)
    for one in seen.classes.values():
        if one.counts_as is not None:
            target = seen.classes[one.counts_as].name
            try:
                store.merge(one.name, target, actor=actor)
            except (Conflict, NotFound):  # they are one here already, or one has nothing
                continue
    for group in seen.homonyms:
        name = seen.classes[group[0]].name
        taken.left_out.append(f'{len(group)} classes of the file are called "{name}": one here')


def _adopt_class(
    store: Store,
    one: ClassView,
    seen: View,
    contents: Mapping[str, bytes],
    source: str,
    actor: str,
    taken: _Taken,
) -> None:
    names = _in_order(store.class_set, one.id, (*one.aliases, one.name))
    first = one.name if _is_there(store, one.name) else names[0]
    present = _rows_here(store, first)
    teaching = store.begin_teach(first, actor=actor)
    for subject in one.shots:
        place = seen.placements[subject]
        content = cast(Rows, unpack(contents[place.sha256], store.dim))
        rows = content[place.start : place.start + place.n_rows]
        if present[rows.tobytes()]:
            present[rows.tobytes()] -= 1
            continue
        store.add_shot(teaching, rows, source=f"{source}: {place.owner}")
    sums = [unpack(contents[seen.placements[s].sha256], store.dim) for s in one.folded]
    folded = sum(content.n for content in sums if isinstance(content, Statistics))
    if folded:
        taken.left_out.append(
            f'"{one.name}": {folded} rows that are only a sum; a device of fleet '
            f"{seen.scope.fleet if seen.scope else ''} can take them over"
        )
    if one.text is not None:
        store.teach_by_name(first, text_vector(one.text), prompt=one.text[0], actor=actor)
    if _is_there(store, first):
        for name in names[1:] if first == names[0] else ():
            if not _is_there(store, name):
                store.rename(first, name, actor=actor)
                first = name
        _adopt_refusals(store, one, seen, contents, source, actor)


def _adopt_refusals(
    store: Store,
    one: ClassView,
    seen: View,
    contents: Mapping[str, bytes],
    source: str,
    actor: str,
) -> None:
    here = {
        row.tobytes()
        for found in store.rows_by_class()
        if found.id == store.resolve(one.name).id
        for row in found.refused
    }
    new = []
    for subject in one.refusals:
        place = seen.placements[subject]
        content = cast(Rows, unpack(contents[place.sha256], store.dim))
        rows = content[place.start : place.start + place.n_rows]
        if any(row.tobytes() not in here for row in rows):
            new.append((f"{source}: {place.owner}", rows))
    if new:
        store.refuse(one.name, new, actor=actor)


def _in_order(class_set: str, of: str, names: Sequence[str]) -> list[str]:
    """The names of a class: the one that its id follows from first, the display name last."""
    display = names[-1]
    others = sorted(n for n in names[:-1] if class_key(n) != class_key(display))
    return [*sorted(others, key=lambda name: class_id(class_set, name) != of), display]


def _is_there(store: Store, name: str) -> bool:
    try:
        store.resolve(name)
    except NotFound:
        return False
    return True


def _rows_here(store: Store, name: str) -> Counter[bytes]:
    """The kept shots of a class, each as its bytes."""
    if not _is_there(store, name):
        return Counter()
    target = store.resolve(name).id
    return Counter(
        rows.astype("<i2").tobytes()
        for found in store.rows_by_class()
        if found.id == target
        for _, rows in found.by_shot()
    )


def summary_of(learned: Learned) -> Summary:
    """The classes of this device, as `accrue.sync.difference` compares them."""
    shots = Counter(owner for owner, _ in learned.shots)
    classes = {
        one: ClassSummary(
            one,
            name,
            shots[one],
            learned.state.count(one),
            one in learned.texts,
            evidence(learned.state, one),
            prototype(learned.state, one),
        )
        for one, name in learned.names.items()
    }
    return Summary(classes, "")
