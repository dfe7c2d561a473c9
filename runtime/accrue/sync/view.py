"""What all contributions together say: classes, names, merges, and where each shot counts.

A pure function of the newest contribution of each device for each class. docs/reference/merge.md
states the rules; the numbers in this file are theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, cast

from accrue.errors import NotFound
from accrue.learn.state import State
from accrue.learn.statistics import Statistics
from accrue.store.names import class_key
from accrue.sync.contribution import (
    EVIDENCE,
    SUBJECTS,
    Claim,
    Content,
    Contribution,
    PartKind,
    Scope,
    Value,
)
from accrue.sync.parts import unpack
from accrue.sync.signed import canonical

_EVIDENCE = tuple(f"{group}/" for group in EVIDENCE)


class Placement(NamedTuple):
    """Where a live shot, sum or refusal counts, and where its content is.

    Attributes:
        class_id: the class it counts for, before merges. owner: the device that has the content.
        sha256: of the part that holds it; rows `start` to `start + n_rows` of it, or all of it
            where `kind` is "statistics".
        at_ms: when it was made, unix milliseconds, as its owner says.
    """

    class_id: str
    owner: str
    sha256: str
    kind: PartKind
    start: int
    n_rows: int
    at_ms: int


class Label(NamedTuple):
    """A name that leads to a class.

    Attributes:
        class_id: before merges. text: as typed.
        asserted: somebody said so (rule 6); otherwise the class shows this name and nobody else
            has it (rule 6, second half).
    """

    class_id: str
    text: str
    asserted: bool


@dataclass(frozen=True)
class ClassView:
    """One live class.

    Attributes:
        id: class id. name: display name. aliases: the other names that lead to it, sorted.
        counts_as: the class that it was merged into, or None.
        text: (prompt, base64 of the int16 vector) of a class taught by its name, or None.
        kept: exists although it may be empty.
        since: stamp of the oldest thing that keeps it alive.
        shots, folded, refusals: subjects of the live evidence that counts for it, sorted.
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    counts_as: str | None
    text: tuple[str, str] | None
    kept: bool
    since: int
    shots: tuple[str, ...]
    folded: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class View:
    """What a set of contributions says.

    Attributes:
        classes: live classes by id. labels: key of a name to where it leads.
        homonyms: ids of live root classes that show the same name, each group sorted: a merge to
            suggest.
        placements: subject to where it counts.
    """

    scope: Scope | None
    classes: Mapping[str, ClassView]
    labels: Mapping[str, Label]
    homonyms: tuple[tuple[str, ...], ...]
    placements: Mapping[str, Placement]

    def root(self, class_id: str) -> str:
        """The class that a live class counts as in the end. Raises NotFound."""
        try:
            while (target := self.classes[class_id].counts_as) is not None:
                class_id = target
        except KeyError:
            raise NotFound(f"no class {class_id!r} in this view", found=class_id) from None
        return class_id

    def find(self, name: str) -> str | None:
        """The root class that a name leads to: a display name, an alias or a class id."""
        label = self.labels.get(class_key(name))
        if label is not None:
            return self.root(label.class_id)
        return self.root(name) if name in self.classes else None

    @cached_property
    def _digest(self) -> str:
        hasher = hashlib.sha256()
        for class_id in sorted(self.classes):
            one = self.classes[class_id]
            subjects = (*one.shots, *one.folded, *one.refusals)
            hasher.update(
                canonical(
                    [
                        [one.id, one.name, one.aliases, one.counts_as, one.text, one.kept],
                        one.since,
                        [[subject, self.placements[subject]] for subject in subjects],
                    ]
                )
            )
        hasher.update(canonical(self.labels))
        return hasher.hexdigest()

    def digest(self) -> str:
        """SHA-256 of everything in the view, 64 hex characters.

        The content is in it by the hashes of the parts, so no bytes are needed. Two devices with
        the same digest show, know and have learned the same.
        """
        return self._digest

    def state(self, contents: Mapping[str, bytes]) -> State:
        """What follows for the learner: the evidence of each root class, exact sums.

        Args:
            contents: packed bytes by SHA-256, of every part that a placement names.

        Raises:
            NotFound: a part is missing, or there is no scope (no contribution at all).
            Rejected: bytes that are no part. RowsError: more than 2**23 rows.
        """
        if self.scope is None:
            raise NotFound("a view of nothing has no space")
        state = State(self.scope.space, self.scope.dim)
        unpacked = {}
        for one in self.classes.values():
            root = self.root(one.id)
            for subject in (*one.shots, *one.folded):
                place = self.placements[subject]
                if place.sha256 not in unpacked:
                    if place.sha256 not in contents:
                        raise NotFound(f"part {place.sha256[:12]} is missing", found=place.sha256)
                    unpacked[place.sha256] = unpack(contents[place.sha256], self.scope.dim)
                content = unpacked[place.sha256]
                if isinstance(content, Statistics):
                    state.add_statistics(root, content)
                else:
                    state.add(root, content[place.start : place.start + place.n_rows])
        return state


def view(contributions: Iterable[Contribution], scope: Scope | None = None) -> View:
    """The view of contributions, of which there is at most one for each device and class."""
    index = Index(scope)
    for contribution in contributions:
        index.put(contribution)
    return index.view()


@dataclass
class _Class:
    """What is filed under one class."""

    contributions: dict[str, Contribution] = field(default_factory=dict)  # by device
    covered: dict[str, int] = field(default_factory=dict)  # rule 2: device to stamp
    live: dict[str, Claim] = field(default_factory=dict)  # subject to its winner, where it is live
    shown: _Shown | None = None  # None: to be made again


class _Shown(NamedTuple):
    """What follows from one class alone."""

    view: ClassView  # as if it were not merged
    key: str  # of its name
    labels: Mapping[str, Label]
    merged: Claim | None


class Index:
    """Contributions, arranged so that changing one costs what it changes and not all there is.

    Args:
        scope: of the view where there is no contribution to take it from.
    """

    def __init__(self, scope: Scope | None = None) -> None:
        self._scope = scope
        self._claims: dict[str, tuple[Claim, ...]] = {}  # subject to all that is said of it
        self._classes: dict[str, _Class] = {}
        self._where: dict[str, str] = {}  # live subject to the class that it is filed under
        self._placements: dict[str, Placement] = {}
        self._view: View | None = None

    def put(self, contribution: Contribution) -> None:
        """Adds a contribution, in the place of the one of this device and class, if any."""
        self._scope = contribution.scope
        self._replace(contribution.device, contribution.class_id, contribution)

    def drop(self, device: str, class_id: str) -> None:
        """Takes the contribution of this device for this class away, if there is one."""
        self._replace(device, class_id, None)

    def _replace(self, device: str, class_id: str, new: Contribution | None) -> None:
        one = self._classes.setdefault(class_id, _Class())
        old = one.contributions.pop(device, None)
        if new is not None:
            one.contributions[device] = new
        before = {} if old is None else old.claims
        after = {} if new is None else new.claims
        changed = {subject for subject, claim in before.items() if after.get(subject) != claim}
        for subject in changed:
            left = tuple(
                c for c in self._claims[subject] if (c.device, c.class_id) != (device, class_id)
            )
            if left:
                self._claims[subject] = left
            else:
                del self._claims[subject]
        for subject, claim in after.items():
            if before.get(subject) != claim:
                self._claims[subject] = (*self._claims.get(subject, ()), claim)
                changed.add(subject)
        if (old.gone if old else {}) != (new.gone if new else {}):
            changed |= self._cover(one)
        for subject in changed:
            self._settle(subject)
        one.shown = None
        if not one.contributions:
            del self._classes[class_id]
        self._view = None

    def _cover(self, one: _Class) -> set[str]:
        """Brings `covered` up to date; the subjects for which that may matter."""
        covered: dict[str, int] = {}
        for contribution in one.contributions.values():
            for device, stamp in contribution.gone.items():
                covered[device] = max(stamp, covered.get(device, 0))
        touched = {
            device
            for device in covered.keys() | one.covered.keys()
            if covered.get(device) != one.covered.get(device)
        }
        one.covered = covered
        return {
            subject
            for device in touched & one.contributions.keys()
            for subject in one.contributions[device].claims
        }

    def _settle(self, subject: str) -> None:
        """Rules 1 to 3 for one subject."""
        filed = self._where.pop(subject, None)
        if filed is not None:
            self._classes[filed].live.pop(subject)
            self._classes[filed].shown = None
            self._placements.pop(subject, None)
        claims = self._claims.get(subject)
        if claims is None:
            return
        winner = claims[0] if len(claims) == 1 else max(claims)  # rule 1
        one = self._classes[winner.class_id]
        if winner.value is None or one.covered.get(winner.device, 0) >= winner.stamp:  # rule 2
            return
        if subject.startswith(_EVIDENCE):
            listed = winner
            if listed.content is None:
                found = [claim for claim in claims if claim.content is not None]
                if not found:  # rule 3
                    return
                listed = max(found)
            self._placements[subject] = Placement(winner.class_id, *cast(Content, listed.content))
        self._where[subject] = winner.class_id
        one.live[subject] = winner
        one.shown = None

    def value(self, subject: str) -> Value:
        """The value of a live subject, else None."""
        filed = self._where.get(subject)
        return None if filed is None else self._classes[filed].live[subject].value

    def view(self) -> View:
        """The view of what is there now. The same object until something changes."""
        if self._view is None:
            self._view = self._build()
        return self._view

    def _build(self) -> View:
        shown: dict[str, _Shown] = {}
        for class_id in sorted(self._classes):
            one = self._classes[class_id]
            if one.shown is None:
                one.shown = _show(class_id, one)
            if one.shown is not _DEAD:
                shown[class_id] = one.shown
        targets = _merge_edges(shown)
        classes = {
            class_id: replace(each.view, counts_as=targets[class_id])
            if class_id in targets
            else each.view
            for class_id, each in shown.items()
        }
        labels = {key: label for each in shown.values() for key, label in each.labels.items()}
        same: dict[str, list[str]] = {}
        for class_id, each in sorted(shown.items(), key=lambda item: (item[1].view.since, item[0])):
            if each.key not in labels:
                labels[each.key] = Label(class_id, each.view.name, asserted=False)  # rule 6
            if class_id not in targets:
                same.setdefault(each.key, []).append(class_id)
        homonyms = sorted(tuple(sorted(group)) for group in same.values() if len(group) > 1)
        return View(self._scope, classes, labels, tuple(homonyms), dict(self._placements))


_DEAD = _Shown(ClassView("", "", (), None, None, False, 0, (), (), ()), "", {}, None)


def _show(class_id: str, one: _Class) -> _Shown:
    """Rules 4 and 5 for one class."""
    groups: dict[str, list[str]] = {group: [] for group in SUBJECTS}
    for subject in one.live:
        groups[subject.partition("/")[0]].append(subject)

    def value_of(group: str) -> Value:
        return one.live[groups[group][0]].value if groups[group] else None

    kept = bool(value_of("kept"))
    alive = [*groups["shot"], *groups["folded"], *groups["text"], *groups["kept"] * kept]
    if not alive:  # rule 4
        return _DEAD
    leading = sorted((one.live[subject][:3], subject) for subject in groups["label"])
    name = value_of("name")
    if name is None and leading:
        name = _text(one.live[leading[0][1]])
    if name is None:
        name = _lost_name(one) or class_id
    key = class_key(cast(str, name))
    labels = {
        subject.partition("/")[2]: Label(class_id, _text(one.live[subject]), asserted=True)
        for _, subject in leading
    }
    view = ClassView(
        id=class_id,
        name=cast(str, name),
        aliases=tuple(sorted(label.text for k, label in labels.items() if k != key)),
        counts_as=None,
        text=cast("tuple[str, str] | None", value_of("text")),
        kept=kept,
        since=min(one.live[subject].stamp for subject in alive),
        shots=tuple(sorted(groups["shot"])),
        folded=tuple(sorted(groups["folded"])),
        refusals=tuple(sorted(groups["refusal"])),
    )
    merged = one.live[groups["merged"][0]] if groups["merged"] else None
    return _Shown(view, key, labels, merged)


def _text(claim: Claim) -> str:
    return cast("tuple[str, str]", claim.value)[1]


def _lost_name(one: _Class) -> str | None:
    """The text of the oldest label that ever led here, although it is void or leads elsewhere."""
    found = [
        ((fact.stamp, device), subject, cast("tuple[str, str]", fact.value)[1])
        for device, contribution in one.contributions.items()
        for subject, fact in contribution.facts.items()
        if fact.value is not None and subject.startswith("label/")
    ]
    return min(found)[2] if found else None


def _merge_edges(shown: Mapping[str, _Shown]) -> dict[str, str]:
    """Rule 7: class to the one that it counts as, oldest edges first, none that closes a cycle."""
    edges = sorted(
        (each.merged, class_id)
        for class_id, each in shown.items()
        if each.merged is not None and each.merged.value in shown
    )
    targets: dict[str, str] = {}
    for claim, class_id in edges:
        end = target = cast(str, claim.value)
        while end in targets:
            end = targets[end]
        if end != class_id:
            targets[class_id] = target
    return targets
