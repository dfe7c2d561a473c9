"""Whether a change may go live: what was known must not get worse by more than was allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

ALLOWED = 0.02  # fall of a share that is let through: a shot in fifty
LEAST_SHOTS = 20  # as for choosing a head: under that, one shot is more than chance


@dataclass(frozen=True)
class Measured:
    """How good a state is by what it holds itself.

    Attributes:
        accuracy: of kept shots when left out, 0 to 1; nan where there are none.
        shots: how many were left out.
        zero_shot: share of the classes that exist by name alone whose text is still answered as
            them, 0 to 1; nan where there are none.
    """

    accuracy: float
    shots: int
    zero_shot: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """`passed`, and else in words what fell and from what to what."""

    passed: bool
    reason: str


def compare(before: Measured, after: Measured, allowed: float = ALLOWED) -> Verdict:
    """Whether `after` may replace `before`.

    Each share may fall by `allowed` at most, left-out accuracy by its standard error more: a shot
    or two of luck is no fall. A share that either side lacks decides nothing, and so does left-out
    accuracy over fewer than `LEAST_SHOTS` shots.

    >>> compare(Measured(0.92, 200), Measured(0.85, 200)).reason
    'accuracy on kept shots would fall from 92.0 % to 85.0 %'
    """
    enough = min(before.shots, after.shots) >= LEAST_SHOTS
    luck = _standard_error(before.accuracy, before.shots) if enough else math.nan
    fallen = [
        f"{what} would fall from {100 * old:.1f} % to {100 * new:.1f} %"
        for what, old, new, bar in (
            ("accuracy on kept shots", before.accuracy, after.accuracy, allowed + luck),
            ("zero-shot agreement", before.zero_shot, after.zero_shot, allowed),
        )
        if old - new > bar  # false where one is nan
    ]
    return Verdict(not fallen, "; ".join(fallen))


def _standard_error(share: float, n: int) -> float:
    """Of a share of n, with one case of either kind added (Agresti and Coull 1998): a share of 1
    among few is not certain."""
    p = (share * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / (n + 2))
