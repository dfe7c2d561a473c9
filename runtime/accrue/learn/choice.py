"""Which head to serve: the one that does best on shots left out, where there are enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from accrue.learn.calibrated import Calibrated
from accrue.learn.cosine import Cosine
from accrue.learn.fused import Fused
from accrue.learn.gaussian import Gaussian
from accrue.learn.leave_one_out import LeftOut, leave_half_out
from accrue.learn.prototype import Prototype
from accrue.learn.random_features import RandomFeatures
from accrue.learn.ridge import Ridge
from accrue.learn.served import Head, Served
from accrue.learn.state import State
from accrue.learn.statistics import Rows

_ALL = (Cosine, Calibrated, Gaussian, Ridge, Prototype, RandomFeatures, Fused)
HEADS: dict[str, type[Head]] = {head.name: head for head in _ALL}
ENOUGH_SHOTS = 1000  # twice that and more are thinned by class: the error is below 2 % anyway
LEAST_CLASSES = 8  # below it a class resembles none of the others in particular
LEAST_SHOTS = 20  # left-out shots below which their accuracy says too little to choose by
SHRINKAGES = (0.3, 0.7)  # beside the usual one
TEXT_ROWS = (1.0, 16.0)  # beside the usual ones
RIDGE_SHARES = (0.25, 0.5)


@dataclass(frozen=True)
class Choice:
    """A solved head with its left-out scores.

    Attributes:
        left_out: of `leave_half_out`. reason: why this head, for people.
        rivals: left-out accuracy of each head that competed, by its description.
        place: of the head among the `competitors`; None where it was named.
    """

    head: Head
    served: Served
    left_out: LeftOut
    reason: str
    rivals: Mapping[str, float]
    place: int | None = None


def choose(
    state: State,
    shots: Sequence[tuple[str, Rows]],
    head: Head | None = None,
    *,
    texts: Mapping[str, NDArray[Any]] | None = None,
    views: int | None = None,
    random_features: int = 0,
) -> Choice:
    """Solves `head`, or the best of the heads where none is named.

    Without a name the heads compete by how many of the kept shots they get right when these are
    left out with the half of their class most like them (`leave_half_out`). Another head must beat
    the cosine head by more than its standard error (the rule of Breiman et al. 1984, ch. 3), or a
    shot or two of luck would change heads to and fro. With fewer than `LEAST_SHOTS` shots to
    leave out it is the cosine head; with none, the calibrated one.

    Args:
        shots: (class id, int16 (m, dim)) of each kept shot, all of them in `state`.
        texts: text vector by class id, float (dim,); see `Cosine`.
        views: how many of a shot's first rows make a query; None for all.
        random_features: width of a random-feature ridge head that competes too; 0 for none.
    """

    if head is not None:
        named = head.solve(state)
        return Choice(head, named, leave_half_out(named, shots, views), "as set", {})
    heads = competitors(state, texts or {}, random_features)
    usual = heads[0]

    def finished(place: int, served: Served, reason: str, rivals: Mapping[str, float]) -> Choice:
        left_out = leave_half_out(served, shots, views)
        return Choice(heads[place], served, left_out, reason, rivals, place)

    served = usual.solve(state)
    some = _some_classes(shots)
    left_out = leave_half_out(served, some, views)
    right = left_out.accuracy
    bar = right + math.sqrt(right * (1 - right) / len(left_out)) if len(left_out) else 1.0
    if len(left_out) == 0 and len(served) >= LEAST_CLASSES:
        few = next(k for k, one in enumerate(heads) if isinstance(one, Calibrated))
        return finished(few, heads[few].solve(state), "no class has two shots yet", {})
    if len(left_out) < LEAST_SHOTS or bar >= 1:
        return finished(0, served, "the first choice", {})
    told = {served.describe(): right}
    best: tuple[float, int, Served] = (right, 0, served)
    ridge: Served | None = None
    for place, rival in enumerate(heads[1:], 1):
        if isinstance(rival, Fused) and ridge is not None:
            tried = rival.join(served, ridge, state)
        else:
            tried = rival.solve(state)
        if isinstance(rival, Ridge):
            ridge = tried
        accuracy = leave_half_out(tried, some, views).accuracy
        told[tried.describe()] = accuracy
        if accuracy > max(best[0], bar):
            best = accuracy, place, tried
    reason = f"{best[0]:.0%} of {len(left_out)} shots right when left out"
    return finished(best[1], best[2], reason, told)


def _some_classes(shots: Sequence[tuple[str, Rows]]) -> list[tuple[str, Rows]]:
    """Shots to compare heads by: of every class, or of every so-many-th where there are many."""
    step = max(1, len(shots) // ENOUGH_SHOTS)
    chosen = set(sorted({class_id for class_id, _ in shots}, key=str.encode)[::step])
    return [(class_id, rows) for class_id, rows in shots if class_id in chosen]


def competitors(
    state: State, texts: Mapping[str, NDArray[Any]], random_features: int
) -> list[Head]:
    """The heads that `choose` chooses from, the usual one first."""
    usual = Cosine(texts=texts)
    heads: list[Head] = [usual, *(Cosine(shrinkage, texts) for shrinkage in SHRINKAGES)]
    heads.append(Calibrated(usual))
    if texts:
        heads += [Cosine(texts=texts, text_rows=rows) for rows in TEXT_ROWS]
    if texts.keys() - set(state):
        return heads  # the others cannot answer for a class that has but a name
    heads += [Gaussian(), Ridge(), Prototype(centred=True)]
    heads += [Fused(usual, Ridge(), share) for share in RIDGE_SHARES]
    if random_features and not state.folded():
        heads.append(RandomFeatures(random_features))
    return heads
