"""What taking over some contributions would change: classes, shots, and what may be confused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from accrue.learn.state import State
from accrue.learn.statistics import Floats
from accrue.store.names import class_key
from accrue.sync.contribution import Scope
from accrue.sync.ledger import Heard
from accrue.sync.view import View, view

# Of two prototypes: from there on the two are worth a look. With the default encoder, 4 of 120
# pairs of different classes of tools/samples are that near, and two halves of one class have 0.75
# in the median. Another encoder may have another scale: it is a hint, and decides nothing.
NEAR_COSINE = 0.7


@dataclass(frozen=True)
class ClassSummary:
    """A root class, merged classes included. `evidence` is a digest of its rows, "" without any."""

    id: str
    name: str
    shots: int
    rows: int
    by_name: bool
    evidence: str
    prototype: Floats | None


@dataclass(frozen=True)
class Summary:
    """The classes of one state, by id."""

    classes: Mapping[str, ClassSummary]
    digest: str

    @property
    def shots(self) -> int:
        return sum(one.shots for one in self.classes.values())


@dataclass(frozen=True)
class Change:
    """A class that is added, changed or removed. `was` is its former name where that differs."""

    id: str
    name: str
    was: str
    shots_before: int
    shots_after: int
    rows_before: int
    rows_after: int


@dataclass(frozen=True)
class Collision:
    """Two classes that may be confused: of the same name, or near to one another.

    `cosine` is of their prototypes, nan where one has no shots.
    """

    first: str
    second: str
    same_name: bool
    cosine: float


@dataclass(frozen=True)
class Difference:
    added: tuple[Change, ...]
    changed: tuple[Change, ...]
    removed: tuple[Change, ...]
    collisions: tuple[Collision, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed)


def summarise(heard: Iterable[Heard], scope: Scope) -> Summary:
    """What contributions say together."""
    found = list(heard)
    seen = view((one.contribution for one in found), scope)
    contents = {digest: data for one in found for digest, data in one.parts.items()}
    return summary_of(seen, seen.state(contents))


def summary_of(seen: View, state: State) -> Summary:
    shots: dict[str, int] = {}
    by_name: dict[str, bool] = {}
    for one in seen.classes.values():
        root = seen.root(one.id)
        shots[root] = shots.get(root, 0) + len(one.shots)
        by_name[root] = by_name.get(root, False) or one.text is not None
    classes = {
        root: ClassSummary(
            root,
            seen.classes[root].name,
            count,
            state.count(root),
            by_name[root],
            evidence(state, root),
            prototype(state, root),
        )
        for root, count in shots.items()
    }
    return Summary(classes, seen.digest())


def evidence(state: State, class_id: str) -> str:
    """What a class holds, to tell a change by: cheap, where `State.class_digest` is O(dim**2)."""
    if class_id not in state:
        return ""
    kept = state.kept(class_id)
    hasher = hashlib.sha256(kept.tobytes())
    if len(kept) < state.count(class_id):  # the rest is only a sum
        hasher.update(state.sum(class_id).tobytes())
    return hasher.hexdigest()


def prototype(state: State, class_id: str) -> Floats | None:
    """The direction of the mean of a class: float64 (dim,) of unit length."""
    if class_id not in state:
        return None
    mean = state.sum(class_id)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else None


def difference(before: Summary, after: Summary) -> Difference:
    """From one to the other; collisions among what is added or changed, nearest first."""
    added = [_change(None, one) for c, one in after.classes.items() if c not in before.classes]
    removed = [_change(one, None) for c, one in before.classes.items() if c not in after.classes]
    changed = [
        _change(before.classes[c], one)
        for c, one in after.classes.items()
        if c in before.classes and _said(before.classes[c]) != _said(one)
    ]
    touched = [change.id for change in (*added, *changed)]
    return Difference(
        _sorted(added), _sorted(changed), _sorted(removed), _collisions(after, touched)
    )


def _change(old: ClassSummary | None, new: ClassSummary | None) -> Change:
    one = new or old
    assert one is not None
    return Change(
        one.id,
        one.name,
        old.name if old and new and old.name != new.name else "",
        old.shots if old else 0,
        new.shots if new else 0,
        old.rows if old else 0,
        new.rows if new else 0,
    )


def _said(one: ClassSummary) -> tuple[object, ...]:
    return one.name, one.shots, one.rows, one.by_name, one.evidence


def _sorted(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: (change.name, change.id)))


def _collisions(after: Summary, touched: list[str]) -> tuple[Collision, ...]:
    found: dict[tuple[str, str], Collision] = {}
    for one in touched:
        mine = after.classes[one]
        for other, theirs in after.classes.items():
            key = (min(one, other), max(one, other))
            if other == one or key in found:
                continue
            same = class_key(mine.name) == class_key(theirs.name)
            cosine = float("nan")
            if mine.prototype is not None and theirs.prototype is not None:
                cosine = float(mine.prototype @ theirs.prototype)
            if same or cosine >= NEAR_COSINE:
                found[key] = Collision(mine.name, theirs.name, same, cosine)
    return tuple(
        sorted(found.values(), key=lambda c: (not c.same_name, -c.cosine, c.first, c.second))
    )
