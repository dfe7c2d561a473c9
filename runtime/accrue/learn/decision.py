"""From scores to an answer: sure, maybe A or B, unknown, or not ready.

Both decisions are conformal (Vovk, Gammerman and Shafer 2005, ch. 2): a query is compared with
what the kept shots scored when they were left out, so that a stated share of known objects is
rejected, whatever the head and the units of its scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from accrue.learn.leave_one_out import LeftOut, familiarity
from accrue.learn.statistics import Floats

SURE, MAYBE, UNKNOWN, NOT_READY = "sure", "maybe", "unknown", "not_ready"
MOST_TOLD = 5  # alternatives: more are no help to a person
LEAST_SHOTS = 5  # left-out shots below which a spread cannot be told


@dataclass(frozen=True)
class Alternative:
    """A class and how much is to be said for it: the share of left-out shots of known classes
    that won by no more than this class would have to (a conformal p-value, 0 to 1)."""

    class_id: str
    p: float


@dataclass(frozen=True)
class Decision:
    """An answer.

    Attributes:
        class_id: best class; "" where nothing has been taught.
        verdict: `SURE`, `MAYBE`, `UNKNOWN` or `NOT_READY`.
        score: how usual such scores are among left-out known shots, 0 to 1; under the reject
            share the verdict is unknown. nan where the verdict is not ready.
        margin: best less second-best score, in the units of the head; inf with one class.
        alternatives: the classes that cannot be ruled out, best first, never empty once taught.
    """

    class_id: str
    verdict: str
    score: float
    margin: float
    alternatives: tuple[Alternative, ...]


class Calibration:
    """Left-out scores to compare with. Under `LEAST_SHOTS` of them nothing is decided.

    What is rejected is decided by `familiarity`, compared with that of left-out shots.

    Args:
        left_out: of all kept shots, under the head that will be asked.
        reject: share of known objects that may be called unknown, 0 to 0.5.
    """

    def __init__(self, left_out: LeftOut, reject: float = 0.05) -> None:
        self.reject = reject
        self._margin = np.sort(left_out.margin[np.isfinite(left_out.margin)])
        self._known = np.sort(left_out.familiarity)

    @property
    def ready(self) -> bool:
        return min(len(self._known), len(self._margin)) >= LEAST_SHOTS

    def decide(self, scores: Floats, ids: list[str], most: int = MOST_TOLD) -> Decision:
        """The answer to one query.

        Args:
            scores: float64, of one query: of all classes, or of the best as of `Served.top`.
            ids: class id of each.
            most: how many alternatives to tell at most.
        """
        if not ids:
            return Decision("", NOT_READY, math.nan, math.nan, ())
        order = np.argsort(-scores, kind="stable")[: max(most, 2)]
        first = ids[order[0]]
        margin = float(scores[order[0]] - scores[order[1]]) if len(ids) > 1 else math.inf
        if not self.ready:
            return Decision(first, NOT_READY, math.nan, margin, (Alternative(first, math.nan),))
        typical = share_below(self._known, float(familiarity(scores[None])[0]))
        gaps = scores[order] - scores[order[0]]
        gaps[0] = margin
        told = [
            Alternative(ids[k], share_below(self._margin, float(gap)))
            for k, gap in zip(order, gaps, strict=True)
        ]
        # a margin smaller than known shots have, even for the best class, rules out neither of two
        possible = tuple(a for a in told if a.p > self.reject) or tuple(told[:2])
        known = SURE if len(possible) == 1 else MAYBE
        verdict = known if typical >= self.reject else UNKNOWN
        return Decision(first, verdict, typical, margin, possible[:most])


def share_below(known: Floats, value: float) -> float:
    """The share of known values at or under this one: ``(1 + #{known <= value}) / (n + 1)``.

    With fewer than 100 known values the steps of that share are too coarse to reject by, so its
    lower tail is continued by a normal distribution of their mean and spread (predictive, with
    the factor ``sqrt(1 + 1 / n)``).
    """
    n = len(known)
    counted = (1 + int(np.searchsorted(known, value, side="right"))) / (n + 1)
    if counted > 2 / (n + 1) or n >= 100:
        return counted
    spread = float(known.std(ddof=1)) * math.sqrt(1 + 1 / n)
    if spread == 0:
        return counted if value >= known[0] else 0.0
    return min(counted, 0.5 * math.erfc((float(known.mean()) - value) / (spread * math.sqrt(2))))
