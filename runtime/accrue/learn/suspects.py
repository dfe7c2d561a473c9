"""The shots to look at: those that the rest of the evidence speaks against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accrue.learn.leave_one_out import LeftOut


@dataclass(frozen=True)
class Suspect:
    """A kept shot and what the others say of it.

    Attributes:
        shot: its position in the sequence that was left out from.
        class_id: the class that it was taught as.
        rival_id: the class that it looks most like otherwise.
        margin: left-out score of its class less that of the rival, in standard deviations of the
            left-out margins; negative where the rival wins.
    """

    shot: int
    class_id: str
    rival_id: str
    margin: float


def suspects(left_out: LeftOut, class_ids: Sequence[str]) -> list[Suspect]:
    """Every shot that can be left out, the most suspect first.

    By the left-out margin: how much its own class loses to the best other one once the shot
    itself, with all its views, is taken out of the sums. (Ranking labels by the margin of a score
    from which the example was held out is the "normalised margin" of Northcutt, Jiang and Chuang
    2021, Confident Learning, sec. 3.2; here the held-out score is exact and costs no refit.)

    A shot that is all there is of its class has nothing to be held against, and is not listed.

    Args:
        left_out: `leave_one_out` of all kept shots, under the served head.
        class_ids: the class of each kept shot.
    """
    margins = left_out.margin
    finite = margins[np.isfinite(margins)]
    spread = float(finite.std()) if len(finite) else 0.0
    scaled = margins / spread if spread > 0 else margins
    order = np.argsort(margins, kind="stable")
    return [
        Suspect(
            int(left_out.shots[i]),
            class_ids[left_out.shots[i]],
            left_out.rival_id[i],
            float(scaled[i]),
        )
        for i in order
        if left_out.rival_id[i]
    ]
