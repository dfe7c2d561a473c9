"""Which rows to keep where not all can be: those whose moments stay nearest to those of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accrue.learn.statistics import SCALE, Floats, Rows

MOST_ROWS = 4096  # looked at together: their kernel takes 8 * MOST_ROWS**2 bytes, 134 MB


def dispensable(shots: Sequence[Rows], keep: int, candidates: int | None = None) -> list[int]:
    """The shots that the others reconstruct best, in the order in which to let them go.

    Backward elimination of the maximum mean discrepancy (Gretton et al. 2012, eq. 5) between the
    rows that stay and all rows, under the kernel ``(x . y + 1)**2``. Its features are the mean and
    the second moment, so the discrepancy is how far the statistics of what stays, taken per row,
    are from those of all: each step lets the shot go that leaves them nearest. (Kernel herding,
    Chen, Welling and Smola 2010, builds such a set up; taking away suits keeping nine in ten.)

    Args:
        shots: int16 (m, dim) of each shot of one class, oldest first. With more than `MOST_ROWS`
            rows only the oldest shots within them are candidates.
        keep: rows to keep at most; a shot goes whole, so fewer may stay.
        candidates: how many of the first shots may go; None for all. More than `keep` rows stay
            where these are not enough.

    Cost: O(n**2 dim) for n rows, once.
    """
    sizes = np.array([len(rows) for rows in shots])
    within = int(np.searchsorted(np.cumsum(sizes), MOST_ROWS, side="right"))
    first = max(1, min(within, len(shots)))
    may_go = first if candidates is None else min(first, candidates)
    total = int(sizes.sum())
    kernel = _between_shots(shots[:first])
    weights = sizes[:first].astype(np.float64)
    target = kernel.sum(axis=1) / weights.sum()  # of each shot, summed over its rows
    present = np.arange(first) < may_go
    to_kept, inside, near, rows = (
        kernel.sum(axis=1),
        float(kernel.sum()),
        target.sum(),
        weights.sum(),
    )
    own = kernel.diagonal()
    gone: list[int] = []
    while total > keep and len(gone) < may_go:
        left = rows - weights
        with np.errstate(divide="ignore", invalid="ignore"):
            discrepancy = (inside - 2 * to_kept + own) / left**2 - 2 * (near - target) / left
        discrepancy[~present | (left <= 0)] = np.inf
        i = int(discrepancy.argmin()) if np.isfinite(discrepancy).any() else int(present.argmax())
        inside += float(own[i] - 2 * to_kept[i])
        near -= float(target[i])
        rows -= float(weights[i])
        to_kept = to_kept - kernel[:, i]
        present[i] = False
        total -= int(sizes[i])
        gone.append(i)
    return gone


def _between_shots(shots: Sequence[Rows]) -> Floats:
    """The kernel summed over the rows of each pair of shots: float64 (shots, shots)."""
    x: NDArray[np.float64] = np.concatenate(list(shots)).astype(np.float64) / SCALE
    kernel = (x @ x.T + 1) ** 2
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in shots])[:-1]])
    summed: Floats = np.add.reduceat(np.add.reduceat(kernel, starts, axis=0), starts, axis=1)
    return summed
