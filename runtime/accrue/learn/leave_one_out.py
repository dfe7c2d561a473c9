"""What each head would have said of every kept shot, had it never been taught.

Closed form: a shot of m rows changes the inverse by rank m + 1 at most, and everything needed of
it lies in the span of the shot's rows and its class mean, so the left-out scores come from small
matrices (the block form of the classical leave-one-out identities, Cook and Weisberg 1982). The
regulariser is held at the value in force. A shot is left out as a whole: views of one shot would
otherwise vouch for each other. And photos of a class come in runs, of one object in one light,
which vouch for each other as well: `leave_half_out` leaves out the half of the class that a shot
is most like (blocked cross-validation, Roberts et al. 2017). It tells what to expect of the next
object of the class; leaving one shot out tells which shots do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.served import Served
from accrue.learn.statistics import SCALE, Floats, Rows


@dataclass(frozen=True)
class LeftOut:
    """Scores of left-out shots.

    Attributes:
        shots: int (n,), position of each in the sequence that was given; shots whose class has
            nothing else are missing, because without them there is nothing to compare.
        own: float64 (n,), score of the right class.
        rival: float64 (n,), best score of another class (-inf where there is none).
        rival_id: class id of that rival ("" where there is none).
        familiarity: float64 (n,), `familiarity` of all scores.
    """

    shots: NDArray[np.intp]
    own: Floats
    rival: Floats
    rival_id: list[str]
    familiarity: Floats

    def __len__(self) -> int:
        return len(self.shots)

    @property
    def margin(self) -> Floats:
        return self.own - self.rival

    @property
    def accuracy(self) -> float:
        """Share of left-out shots whose own class won; nan where there are none."""
        return float((self.margin > 0).mean()) if len(self) else math.nan


def familiarity(scores: Floats) -> Floats:
    """How much queries look like something taught: best score less half of the second best.

    The best score alone takes what resembles many classes a little for known. The half was the
    best of the plain rules on groceries with classes left out (docs/experiments.md).

    Args:
        scores: float64 (n, n_classes).

    Returns:
        float64 (n,), in the units of the head.
    """
    best: Floats = scores.max(axis=1)
    if scores.shape[1] < 2:
        return best
    second: Floats = np.partition(scores, -2, axis=1)[:, -2]
    return best - second / 2


def leave_one_out(
    served: Served, shots: Sequence[tuple[str, Rows]], views: int | None = None
) -> LeftOut:
    """Left-out scores of kept shots, each left out by itself.

    Args:
        served: a solved head, in step with a state that contains the shots.
        shots: (class id, int16 (m, dim)) of each kept shot.
        views: how many of a shot's first rows make a query, as their mean; None for all.

    Cost: O(N dim**2 + N C dim) for N rows and C classes.
    """
    return _left_out(served, shots, views, lambda rows: [[i] for i in range(len(rows))])


def leave_half_out(
    served: Served, shots: Sequence[tuple[str, Rows]], views: int | None = None
) -> LeftOut:
    """Left-out scores of kept shots, each left out with the half of its class most like it.

    Arguments as of `leave_one_out`; costs about the same.
    """
    return _left_out(served, shots, views, halves)


def halves(shots: Sequence[Floats]) -> list[list[int]]:
    """Two halves of a class's shots, as unlike as their main direction of variation makes them.

    Args:
        shots: float64 (m, dim) of each.

    Returns:
        Positions of the shots in each half; of a single shot one half.
    """
    if len(shots) < 2:
        return [[i] for i in range(len(shots))]
    means = np.array([shot.mean(axis=0) for shot in shots])
    means -= means.mean(axis=0)
    along = np.linalg.eigh(means @ means.T)[1][:, -1]  # projection on the first principal axis
    order = [int(i) for i in np.argsort(along * np.sign(along[np.abs(along).argmax()]))]
    middle = len(order) // 2
    return [sorted(order[:middle]), sorted(order[middle:])]


def _left_out(
    served: Served,
    shots: Sequence[tuple[str, Rows]],
    views: int | None,
    split: Callable[[list[Floats]], list[list[int]]],
) -> LeftOut:
    by_class: dict[str, list[int]] = {}
    for i, (class_id, _) in enumerate(shots):
        by_class.setdefault(class_id, []).append(i)
    positions: list[int] = []
    own: list[float] = []
    rivals: list[tuple[float, str]] = []
    familiar: list[float] = []
    classes = len(served)
    for class_id, members in by_class.items():
        k = served.index[class_id]
        rows = [shots[i][1].astype(np.float64) / SCALE for i in members]
        blocks = split(rows)
        found = served.left_out(k, [[rows[j] for j in block] for block in blocks], views)
        for block, scores in zip(blocks, found, strict=True):
            if scores is None:
                continue
            others = np.delete(scores, k, axis=1)
            positions += [members[j] for j in block]
            own += scores[:, k].tolist()
            familiar += familiarity(scores).tolist()
            if classes > 1:
                best = others.argmax(axis=1)
                ids = [served.ids[j + (j >= k)] for j in best.tolist()]
                rivals += zip(others.max(axis=1).tolist(), ids, strict=True)
            else:
                rivals += [(-math.inf, "")] * len(block)
    order = np.argsort(positions, kind="stable")
    return LeftOut(
        np.array(positions, np.intp)[order],
        np.array(own)[order],
        np.array([score for score, _ in rivals])[order],
        [rivals[i][1] for i in order],
        np.array(familiar)[order],
    )
