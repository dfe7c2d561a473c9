"""RanPAC: class prototypes decorrelated in a random feature space.

McDonnell, Gong, Parvaneh, Abbasnejad and van den Hengel, "RanPAC: Random Projections and
Pre-trained Models for Continual Learning", NeurIPS 2023, Algorithm 1 without its first phase (no
encoder is trained here): ``h = ReLU(x V)``, ``G = sum h h^T``, ``Q = sum h y^T``,
``W = (G + lambda I)^-1 Q``.

lambda by the authors' rule: of 10^-8, 10^-7 ... 10^8 the one with the least squared error on a
fifth of the rows of the current session, fitted to the other four fifths; the winner is applied to
the pooled ``G``. 5,000 features (the paper takes 10,000). Rows are mixed before the split.

While there are fewer rows than features, ``W`` is solved from the same rows in its dual form
``H^T (H H^T + lambda I)^-1 Y``, which is the same matrix.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from peers.acil import RandomFeatures
from peers.base import Floats, Labels, Peer, one_hot

RIDGES = 10.0 ** np.arange(-8, 9)
TRAINED = 0.8  # share of the rows of a session


class RanPac(Peer):
    name = "RanPAC"
    paper = "McDonnell et al., NeurIPS 2023"
    seeded = True
    WIDTH: ClassVar[int] = 5000

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        width: int | None = None,
        ridge: float | None = None,
    ) -> None:
        super().__init__(seed, text)
        width = width or self.WIDTH
        self.features = RandomFeatures(width, seed)
        self.ridge = ridge
        self._fixed = ridge is not None
        self._h: Floats = np.zeros((0, width))
        self._columns: Labels = np.zeros(0, np.intp)
        self._weights: Floats | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        h = self.features(x)  # (n, width)
        if not self._fixed and len(h) >= 2:
            self.ridge = self._chosen(h, one_hot(columns, len(self.classes)))
        self._h = np.vstack([self._h, h])
        self._columns = np.concatenate([self._columns, columns])
        self._weights = None

    def _chosen(self, h: Floats, y: Floats) -> float:
        mixed = np.random.default_rng(self.seed).permutation(len(h))
        cut = max(1, int(TRAINED * len(h)))
        fit, rest = mixed[:cut], mixed[cut:]
        errors = [((h[rest] @ w - y[rest]) ** 2).mean() for w in ridge_path(h[fit], y[fit], RIDGES)]
        return float(RIDGES[int(np.argmin(errors))])

    def _scores(self, x: Floats) -> Floats:
        if self._weights is None:
            y = one_hot(self._columns, len(self.classes))
            ridge = 1.0 if self.ridge is None else self.ridge
            self._weights = _solved(self._h, y, ridge)
        scores: Floats = self.features(x) @ self._weights
        return scores

    def n_bytes(self) -> int:
        m = self.features.width
        return 4 * m * m + 4 * m * len(self.classes)  # G and Q in float32, as in their code


def _solved(h: Floats, y: Floats, ridge: float) -> Floats:
    """``(H^T H + r I)^-1 H^T Y``, on the smaller side."""
    if len(h) < h.shape[1]:
        weights: Floats = h.T @ np.linalg.solve(h @ h.T + ridge * np.eye(len(h)), y)
        return weights
    return np.linalg.solve(h.T @ h + ridge * np.eye(h.shape[1]), h.T @ y)


def ridge_path(h: Floats, y: Floats, ridges: Floats) -> list[Floats]:
    """The same for each of many ridges, by one eigendecomposition."""
    dual = len(h) < h.shape[1]
    values, vectors = np.linalg.eigh(h @ h.T if dual else h.T @ h)
    values = np.maximum(values, 0)
    projected = vectors.T @ (y if dual else h.T @ y)
    found = []
    for ridge in ridges:
        solved = vectors @ (projected / (values + ridge)[:, None])
        found.append(h.T @ solved if dual else solved)
    return found
