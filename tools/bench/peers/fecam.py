"""FeCAM: Mahalanobis distance with a covariance for each class.

Goswami, Liu, Twardowski and van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class
Distributions in Exemplar-Free Continual Learning", NeurIPS 2023, section 3: Tukey's transform
``x^0.5``, the class covariance shrunk as ``Sigma + g1 V1 I + g2 V2 (1 1^T - I)`` with ``V1`` and
``V2`` the mean diagonal and off-diagonal entries, then its correlation matrix, and the least
``(x - mu) C^-1 (x - mu)`` of rows and means at unit length. Without a log-determinant.

Hyperparameters as published for convolutional networks: lambda 0.5, g1 = g2 = 1, shrunk twice as
in the authors' code. Where an embedding has negative entries (the transform does not exist for
them) as for transformers: no transform, g2 = 0, shrunk once. A class of one row has no covariance
and gets the identity.

A class of n rows has a covariance of rank n - 1, and each shrinking adds ``a I + b 1 1^T`` to it,
so the inverse is taken by Woodbury's identity; no (dim, dim) matrix is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peers.base import Floats, Labels, Peer, by_class, unit


@dataclass
class _Class:
    """``Sigma = F^T F + a I + b 1 1^T`` with F (n, dim)."""

    mean: Floats
    factor: Floats
    a: float = 0.0
    b: float = 0.0

    @property
    def diagonal(self) -> Floats:
        found: Floats = (self.factor**2).sum(axis=0) + self.a + self.b
        return found

    def shrink(self, g1: float, g2: float) -> None:
        dim = self.factor.shape[1]
        trace = float(self.diagonal.sum())
        everything = float((self.factor.sum(axis=1) ** 2).sum()) + self.a * dim + self.b * dim**2
        v1, v2 = trace / dim, (everything - trace) / (dim * (dim - 1))
        self.a += g1 * v1 - g2 * v2
        self.b += g2 * v2

    def distance(self, x: Floats) -> Floats:
        """float64 (m,) of rows (m, dim) at unit length."""
        v = x - unit(self.mean[None])
        if self.a <= 0:  # one row, or rows all alike
            plain: Floats = (v**2).sum(axis=1)
            return plain
        v = v * np.sqrt(self.diagonal)  # of the correlation matrix: D^.5 Sigma^-1 D^.5
        ones = np.ones((1, v.shape[1]))
        u = np.vstack([self.factor, np.sqrt(abs(self.b)) * ones])
        signs = np.append(np.ones(len(self.factor)), np.sign(self.b) or 1.0)
        inner = np.diag(signs) + u @ u.T / self.a
        uv = v @ u.T
        found: Floats = (v**2).sum(axis=1) / self.a
        found -= np.einsum("mi,im->m", uv, np.linalg.solve(inner, uv.T)) / self.a**2
        return found


class FeCam(Peer):
    name = "FeCAM"
    paper = "Goswami et al., NeurIPS 2023"

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        tukey: float | None = None,
        shrinkage: tuple[float, float] | None = None,
        times: int | None = None,
        covariances: bool = True,
    ) -> None:
        """`tukey`, `shrinkage` (g1, g2) and `times`: None for the published rule."""
        super().__init__(seed, text)
        self.tukey, self.shrinkage, self.times = tukey, shrinkage, times
        self.covariances = covariances
        self._rows: dict[int, Floats] = {}
        self._solved: list[_Class] = []
        self._negative: bool | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        if self._negative is None:
            self._negative = bool((x < 0).any())
        for k, at in by_class(columns):
            kept = [self._rows[k]] if k in self._rows else []
            self._rows[k] = np.vstack([*kept, self._transformed(x[at])])
        self._solved = []

    def _transformed(self, x: Floats) -> Floats:
        power = self.tukey if self.tukey is not None else (1.0 if self._negative else 0.5)
        # a first session without negative entries, and then one: nothing to take the root of
        return x if power == 1 else np.maximum(x, 0) ** power

    def _solve(self, rows: Floats) -> _Class:
        mean = rows.mean(axis=0)
        found = _Class(mean, (rows - mean) / np.sqrt(max(len(rows) - 1, 1)))
        if len(rows) > 1 and self.covariances:
            g1, g2 = self.shrinkage or ((1.0, 0.0) if self._negative else (1.0, 1.0))
            for _ in range(self.times or (1 if self._negative else 2)):
                found.shrink(g1, g2)
        return found

    def _scores(self, x: Floats) -> Floats:
        if not self._solved:
            self._solved = [self._solve(self._rows[k]) for k in range(len(self.classes))]
        x = unit(self._transformed(x))
        return -np.stack([c.distance(x) for c in self._solved], axis=1)

    def n_bytes(self) -> int:
        dim = self._rows[0].shape[1]
        return len(self.classes) * 4 * (dim + dim * dim)  # a mean and a covariance a class
