"""Which head to serve: the one that does best on shots left out, where there are enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

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

HEADS: dict[str, type[Head]] = {
    head.name: head for head in (Cosine, Gaussian, Ridge, Prototype, RandomFeatures, Fused)
}
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
    """

    head: Head
    served: Served
    left_out: LeftOut
    reason: str
    rivals: Mapping[str, float]


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
    leave out it is the cosine head.

    Args:
        shots: (class id, int16 (m, dim)) of each kept shot, all of them in `state`.
        texts: text vector by class id, float (dim,); see `Cosine`.
        views: how many of a shot's first rows make a query; None for all.
        random_features: width of a random-feature ridge head that competes too; 0 for none.
    """

    def solved(head: Head, reason: str = "") -> Choice:
        served = head.solve(state)
        return Choice(head, served, leave_half_out(served, shots, views), reason, {})

    if head is not None:
        return solved(head, "as set")
    texts = texts or {}
    best = usual = solved(Cosine(texts=texts), "the first choice")
    if len(usual.left_out) < LEAST_SHOTS or len(usual.served) < 2:
        return usual
    right = usual.left_out.accuracy
    bar = right + math.sqrt(right * (1 - right) / len(usual.left_out))
    told = {usual.served.describe(): right}
    for rival in _rivals(state, texts, random_features):
        tried = solved(rival)
        accuracy = tried.left_out.accuracy
        told[tried.served.describe()] = accuracy
        if accuracy > max(best.left_out.accuracy, bar):
            best = tried
    reason = f"{best.left_out.accuracy:.0%} of {len(best.left_out)} shots right when left out"
    return replace(best, reason=reason, rivals=told)


def _rivals(state: State, texts: Mapping[str, NDArray[Any]], random_features: int) -> list[Head]:
    heads: list[Head] = [Cosine(shrinkage, texts) for shrinkage in SHRINKAGES]
    if texts:
        heads += [Cosine(texts=texts, text_rows=rows) for rows in TEXT_ROWS]
    if texts.keys() - set(state):
        return heads  # the others cannot answer for a class that has but a name
    heads += [Gaussian(), Ridge(), Prototype(centred=True)]
    heads += [Fused(Cosine(texts=texts), Ridge(), share) for share in RIDGE_SHARES]
    if random_features and not state.folded():
        heads.append(RandomFeatures(random_features))
    return heads
