"""What each class still needs, told from shots that were left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.leave_one_out import LeftOut
from accrue.learn.state import State
from accrue.learn.statistics import Rows

ENOUGH, NEEDS_SHOTS, CONFUSABLE = "enough", "needs_shots", "confusable"
NOT_TESTED = "not_tested"
LEAST_SHOTS = 5  # of a class: with fewer, left-out accuracy comes in steps of 25 % and says little
GOOD = 0.8  # left-out accuracy from which a class is taken to be learned
CONFUSED = 0.2  # share of a class's shots that one rival wins, from which the two are confusable
IMBALANCE = 5.0  # times the median of shots from which a class is told to have many or few


@dataclass(frozen=True)
class Rival:
    """A class that wins left-out shots of another; `share` of its shots, 0 to 1."""

    class_id: str
    share: float


@dataclass(frozen=True)
class ClassQuality:
    """How well one class is taught.

    Attributes:
        verdict: `ENOUGH`, `NEEDS_SHOTS`, `CONFUSABLE` or `NOT_TESTED` (no row is kept).
        shots: kept shots, which are those that can be left out.
        accuracy: share of them that is answered rightly when left out; nan where none could be.
        margin: median left-out margin in standard deviations of all margins; nan likewise.
        rivals: the classes that win its left-out shots, most first; and where none does, the one
            that most often comes second, with share 0.
        balance: its rows over the median of all classes' rows.
    """

    class_id: str
    verdict: str
    shots: int
    accuracy: float
    margin: float
    rivals: tuple[Rival, ...]
    balance: float

    @property
    def imbalanced(self) -> bool:
        return not 1 / IMBALANCE < self.balance < IMBALANCE


def quality(left_out: LeftOut, class_ids: Sequence[str], state: State) -> list[ClassQuality]:
    """Every class of the state, in its canonical order.

    A class is confusable where one other class wins `CONFUSED` of its left-out shots, and at
    least two of them; it needs shots where it has fewer than `LEAST_SHOTS` kept ones or fewer
    than `GOOD` of them are right without being one rival's; and else it has enough.

    Args:
        left_out: `leave_one_out` of all kept shots, under the served head.
        class_ids: the class of each kept shot.
    """
    margins = left_out.margin
    finite = margins[np.isfinite(margins)]
    spread = float(finite.std()) if len(finite) else 0.0
    own = np.array([class_ids[i] for i in left_out.shots], dtype=object)
    shots = Counter(class_ids)
    usual = float(np.median([state.count(c) for c in state])) if len(state) else math.nan
    found = []
    for class_id in state:
        mine = np.flatnonzero(own == class_id)
        lost = Counter(left_out.rival_id[i] for i in mine if margins[i] <= 0)
        seconds = Counter(left_out.rival_id[i] for i in mine if left_out.rival_id[i])
        accuracy = 1 - lost.total() / len(mine) if len(mine) else math.nan
        rivals = tuple(Rival(c, n / len(mine)) for c, n in _most(lost)) or tuple(
            Rival(c, 0.0) for c, _ in _most(seconds)[:1]
        )
        most = _most(lost)[0][1] if lost else 0
        if not shots[class_id]:
            verdict = NOT_TESTED
        elif most >= 2 and most >= CONFUSED * len(mine):
            verdict = CONFUSABLE
        elif shots[class_id] < LEAST_SHOTS or accuracy < GOOD:
            verdict = NEEDS_SHOTS
        else:
            verdict = ENOUGH
        margin = float(np.median(margins[mine])) if len(mine) else math.nan
        found.append(
            ClassQuality(
                class_id,
                verdict,
                shots[class_id],
                accuracy,
                margin / spread if spread > 0 else margin,
                rivals,
                state.count(class_id) / usual,
            )
        )
    return found


def _most(counted: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def likest(row: NDArray[np.int16], kept: Rows) -> tuple[int, float]:
    """The row most like another: its position, and the cosine; (-1, -1.0) where there is none.

    Args:
        row: int16 (dim,). kept: int16 (n, dim).
    """
    if len(kept) == 0:
        return -1, -1.0
    x, values = row.astype(np.float64), kept.astype(np.float64)
    cosine = values @ x / (np.linalg.norm(values, axis=1) * np.linalg.norm(x))
    best = int(cosine.argmax())
    return best, float(cosine[best])
