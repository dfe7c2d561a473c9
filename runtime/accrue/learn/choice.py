"""Which head to serve: the one that does best on shots left out, where there are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accrue.learn.gaussian import Gaussian
from accrue.learn.leave_one_out import LeftOut, leave_one_out
from accrue.learn.prototype import Prototype
from accrue.learn.ridge import Ridge
from accrue.learn.served import Head, Served
from accrue.learn.state import State
from accrue.learn.statistics import Rows

HEADS: dict[str, type[Prototype] | type[Gaussian] | type[Ridge]] = {
    head.name: head for head in (Prototype, Gaussian, Ridge)
}
LEAST_SHOTS = 20  # left-out shots below which their accuracy says too little to choose by


@dataclass(frozen=True)
class Choice:
    """A solved head with its left-out scores.

    Attributes:
        reason: why this head, for people.
    """

    head: Head
    served: Served
    left_out: LeftOut
    reason: str


def choose(state: State, shots: Sequence[tuple[str, Rows]], head: Head | None = None) -> Choice:
    """Solves `head`, or the best of the heads where none is named.

    Without a name the heads compete by leave-one-out accuracy over the kept shots. Another head
    must beat the gaussian one by more than its standard error (the rule of Breiman et al. 1984,
    ch. 3), or a shot or two of luck would change heads to and fro. With fewer than `LEAST_SHOTS`
    shots to leave out it is the gaussian head where some class has two shots, and the prototype
    head where none has.

    Args:
        shots: (class id, int16 (m, dim)) of each kept shot, all of them in `state`.
    """
    if head is not None:
        return _solved(state, shots, head, "as set")
    gaussian = _solved(state, shots, Gaussian(), "the first choice from two shots a class on")
    if len(gaussian.left_out) == 0:
        return _solved(state, shots, Prototype(), "no class has two shots yet")
    if len(gaussian.left_out) < LEAST_SHOTS or len(state) < 2:
        return gaussian
    best = gaussian
    usual = gaussian.left_out.accuracy
    error = math.sqrt(usual * (1 - usual) / len(gaussian.left_out))
    for rival in (Ridge(), Prototype()):
        tried = _solved(state, shots, rival, "")
        if tried.left_out.accuracy > max(best.left_out.accuracy, usual + error):
            best = tried
    share = f"{best.left_out.accuracy:.0%} of {len(best.left_out)} shots right when left out"
    return Choice(best.head, best.served, best.left_out, share)


def _solved(state: State, shots: Sequence[tuple[str, Rows]], head: Head, reason: str) -> Choice:
    served = head.solve(state)
    return Choice(head, served, leave_one_out(served, shots), reason)
