"""The ridge head: regression of one-hot labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from accrue.errors import UsageError
from accrue.learn.served import Inverse, Served, on_grid, scatter_change
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats

GCV_OCTAVES = range(-10, 7)


@dataclass(frozen=True)
class Ridge:
    """Regression of one-hot labels on centred embeddings (ridge classifier).

    ``w_k = inv(S_t + lam I) (s_k - n_k m)``, with ``S_t`` the total scatter and ``m`` the mean of
    all rows. ``lam = strength * tr(A) / dim``. Without `strength` it is chosen by generalised
    cross-validation (Golub, Heath and Wahba 1979, eq. 1.4), the rotation-invariant leave-one-out:
    closed form, and like everything here a function of the statistics alone.

    Good with many shots; on some CLIP embeddings worse than prototypes. Large classes pull more
    than small ones, as in any least squares on counts.

    Args:
        strength: relative to the mean eigenvalue of ``A``, positive, or None to choose it. The
            ridge in force is the nearest on a grid (see `on_grid`).

    Cost: one row more is O(dim**2); a prediction O(dim**2 + C dim).
    """

    strength: float | None = None
    name: ClassVar[str] = "ridge"

    def __post_init__(self) -> None:
        if self.strength is not None and not self.strength > 0:
            raise UsageError(
                f"ridge strength {self.strength}; expected more than 0", found=self.strength
            )

    def solve(self, state: State) -> Served:
        return _RidgeServed(self, state)


class _RidgeServed(Served):
    def __init__(self, head: Ridge, state: State) -> None:
        super().__init__(state)
        self._read_sums(state)
        self.centre: Floats = self._n @ self._means / max(self._rows, 1)
        scatter = state.total / SCALE**2 - self._rows * np.outer(self.centre, self.centre)
        self.strength = head.strength or self._cross_validated(scatter)
        self.lam = self._ridge()
        scatter[np.diag_indices(self.dim)] += self.lam
        self.inverse = Inverse(scatter)

    def _read_sums(self, state: State) -> None:
        self._rows = state.n
        self._mean_eigenvalue = state.square_sum / SCALE**2 / self.dim

    def _ridge(self) -> float:
        return on_grid(self.strength * max(self._mean_eigenvalue, 1 / self.dim))

    def _cross_validated(self, scatter: Floats) -> float:
        """The strength with the least ``(RSS / N) / (1 - tr(H) / N)**2``."""
        if self._rows < 2:
            return 1.0
        values, vectors = np.linalg.eigh(scatter)
        values = np.maximum(values, 0)
        cross = self._n * (self._means - self.centre).T  # Q, (dim, C)
        power = ((vectors.T @ cross) ** 2).sum(axis=1)  # (dim,)
        variance = float(self._rows - (self._n**2).sum() / self._rows)
        best = (math.inf, 1.0)
        for octave in GCV_OCTAVES:
            strength = 2.0**octave
            shrunk = values + strength * self._mean_eigenvalue
            residual = (
                variance - 2 * (power / shrunk).sum() + (power * values / shrunk**2).sum()
            ) / self._rows
            freedom = 1 - ((values / shrunk).sum() + 1) / self._rows
            if freedom > 0:
                best = min(best, (residual / freedom**2, strength))
        return best[1]

    def describe(self) -> str:
        return f"ridge, strength {self.strength:g}"

    def _scores(self, x: Floats) -> Floats:
        if not self.ids:
            return np.empty((len(x), 0))
        y = self.inverse @ (x - self.centre)
        dots = y @ self.means.T - (y @ self.centre)[:, None]  # (n, C)
        regressed: Floats = self.n * dots + self.n / self._rows
        return regressed

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        n = self._rows + sign * len(x)
        change = scatter_change(x, self._rows, self.centre, sign)
        if n == 0 or self.inverse.update(change, sign) is None:
            return False
        self.centre = (self._rows * self.centre + sign * x.sum(axis=0)) / n
        self._rows = n
        return True

    def _settle(self, state: State) -> bool:
        self._read_sums(state)
        return self._ridge() == self.lam

    def _left_out(self, k: int, x: Floats, queries: Floats) -> Floats:
        """``y(q) - h (I - H)^-1 (y - yhat)``: H of the block's rows, h between queries and rows."""
        targets = np.zeros((len(x), len(self)))
        targets[:, k] = 1.0
        image = self.inverse @ (x - self.centre)
        hat = (x - self.centre) @ image.T + 1.0 / self.n.sum()
        between = (queries - self.centre) @ image.T + 1.0 / self.n.sum()
        residual = np.linalg.solve(np.eye(len(x)) - hat, targets - self._scores(x))
        scores: Floats = self._scores(queries) - between @ residual
        return scores
