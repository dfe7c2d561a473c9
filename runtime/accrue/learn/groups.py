"""Whether a class is two: its shots in two groups, and how far these stand apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.served import Inverse
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats, Rows

LEAST_SHOTS = 6  # of a class that can be asked about
LEAST_GROUP = 2  # shots; one shot apart is a suspect, not a class
# Ashman, Bird and Zepf 1994. A normal distribution cut in its middle has 2.6, a uniform one 3.5,
# and photos of one thing in two places easily 4.
APART = 5.0
ROUNDS = 50  # of Lloyd's iteration; it ends by itself long before


@dataclass(frozen=True)
class Groups:
    """The two groups of a class.

    Attributes:
        second: bool (shots,), which shots are of the smaller group.
        separation: Ashman's D along the line between the groups, each shot measured against
            means without it; `APART` or more is two things.
        advisable: whether to split.
    """

    second: NDArray[np.bool_]
    separation: float

    @property
    def advisable(self) -> bool:
        return self.separation >= APART


def two_groups(shots: list[Rows], state: State, class_id: str) -> Groups | None:
    """Splits a class's shots in two by 2-means, the same way every time.

    In the space in which the *other* classes vary alike in all directions: what separates the
    groups must be more than how any class varies. The first cut is across the principal direction
    (Ding and He 2004: it is the relaxed solution of 2-means).

    Args:
        shots: int16 (m, dim) of each kept shot of the class; a shot counts once, as its mean.
        state: everything that was taught, this class included.

    Returns:
        None where the class has fewer than `LEAST_SHOTS` shots, or no group of two comes out.
    """
    if len(shots) < LEAST_SHOTS:
        return None
    x = np.array([rows.mean(axis=0) for rows in shots]) / SCALE
    x = _whitened(x - x.mean(axis=0), state, class_id)
    direction = np.linalg.svd(x, full_matrices=False)[2][0]
    second = _two_means(x, x @ direction > 0)
    if second.sum() * 2 > len(second) or (second.sum() * 2 == len(second) and second[0]):
        second = ~second
    if second.sum() < LEAST_GROUP:
        return None
    return Groups(second, _separation(x, second))


def _whitened(x: Floats, state: State, class_id: str) -> Floats:
    """``L^T x`` with ``L L^T`` the shrunk inverse scatter of the other classes."""
    others = [c for c in state if c != class_id]
    n = sum(state.count(c) for c in others)
    if n < 2 * len(others):  # classes of one shot each do not vary
        return x
    scatter = state.total - state.statistics(class_id).S
    for c in others:
        scatter = scatter - np.outer(state.sum(c), state.sum(c)) / state.count(c)
    scatter /= SCALE**2
    dim = len(scatter)
    mean_eigenvalue = float(np.trace(scatter)) / dim
    if mean_eigenvalue <= 0:
        return x
    share = dim / (dim + n - 1)  # as the gaussian head shrinks
    scatter[np.diag_indices(dim)] += share / (1 - share) * mean_eigenvalue
    whitened: Floats = x @ np.linalg.cholesky(Inverse(scatter).base)
    return whitened


def _two_means(x: Floats, second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    for _ in range(ROUNDS):
        if second.all() or not second.any():
            break
        means = x[~second].mean(axis=0), x[second].mean(axis=0)
        distances = [((x - mean) ** 2).sum(axis=1) for mean in means]
        moved = distances[1] < distances[0]
        if (moved == second).all():
            break
        second = moved
    return second


def _separation(x: Floats, second: NDArray[np.bool_]) -> float:
    """Ashman's ``D = |m1 - m2| / sqrt((s1^2 + s2^2) / 2)`` of left-out positions."""
    t = np.empty(len(x))
    sums = {side: x[second == side].sum(axis=0) for side in (False, True)}
    counts = {side: int((second == side).sum()) for side in (False, True)}
    for i, (row, side) in enumerate(zip(x, second.tolist(), strict=True)):
        own = (sums[side] - row) / (counts[side] - 1)
        other = sums[not side] / counts[not side]
        line = (own - other) if side else (other - own)  # from the first group to the second
        t[i] = (row - (own + other) / 2) @ line / (line @ line)
    spread = np.sqrt((t[~second].var(ddof=1) + t[second].var(ddof=1)) / 2)
    return float((t[second].mean() - t[~second].mean()) / max(spread, 1e-12))
