"""Moments that nobody named, in groups that a person can name at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accrue.learn.served import Inverse
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats, Rows

MOST = 1_000  # moments; the time grows with their square, 0.5 s here
# Measured on grocery classes taught nowhere, with two encoders (docs/experiments.md).
TOGETHER = 0.3  # mean cosine that makes a group, where classes were taught
UNTAUGHT = 0.75  # and where too little was taught to tell how a class varies


def clusters(moments: Sequence[Rows], state: State) -> list[int]:
    """Groups moments by what looks alike: average linkage of cosines.

    In the space in which taught classes vary alike in all directions, as far as anything was taught
    (as `groups.two_groups` does), since what the camera and the light make alike is no likeness.

    Args:
        moments: int16 (m, dim) of each, at most `MOST`.
        state: everything that was taught.

    Returns:
        The group of each moment, numbered from 0 in order of their first moments.
    """
    if not moments:
        return []
    transform, centre = _within(state)
    x = _units(moments, transform, centre)
    return _average_linkage(x @ x.T, UNTAUGHT if transform is None else TOGETHER)


def _units(moments: Sequence[Rows], transform: Floats | None, centre: Floats) -> Floats:
    x = np.array([rows.mean(axis=0) for rows in moments]) / SCALE
    if transform is not None:
        x = (x - centre) @ transform
    units: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return units


def _within(state: State) -> tuple[Floats | None, Floats]:
    """``L`` with ``L L^T`` the shrunk inverse of the scatter within classes, and the mean."""
    centre = np.zeros(state.dim)
    if len(state) < 2 or state.n < 2 * len(state):
        return None, centre
    sums, counts = state.sums(), state.counts()
    scatter = (state.total - (sums / counts[:, None]).T @ sums) / SCALE**2
    mean_eigenvalue = float(np.trace(scatter)) / state.dim
    if mean_eigenvalue <= 0:
        return None, centre
    share = state.dim / (state.dim + state.n - 1)
    scatter[np.diag_indices(state.dim)] += share / (1 - share) * mean_eigenvalue
    centre = sums.sum(axis=0) / (state.n * SCALE)
    return np.asarray(np.linalg.cholesky(Inverse(scatter).base), np.float64), centre


def _average_linkage(cosines: Floats, threshold: float) -> list[int]:
    """Joins the two nearest groups while their mean cosine is at least `threshold`.

    Sokal and Michener 1958, by the update of Lance and Williams 1967.
    """
    n = len(cosines)
    near = cosines.copy()
    np.fill_diagonal(near, -np.inf)
    sizes = np.ones(n)
    group: NDArray[np.intp] = np.arange(n)
    for _ in range(n - 1):
        i, j = sorted(divmod(int(near.argmax()), n))
        if near[i, j] < threshold:
            break
        joined = (sizes[i] * near[i] + sizes[j] * near[j]) / (sizes[i] + sizes[j])
        near[i], near[:, i] = joined, joined
        near[i, i] = -np.inf
        near[j], near[:, j] = -np.inf, -np.inf
        sizes[i] += sizes[j]
        group[group == j] = i
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(one), len(numbers)) for one in group]
