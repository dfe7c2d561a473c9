"""ACIL and G-ACIL: recursive ridge regression on random features.

Zhuang et al., "ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy
Protection", NeurIPS 2022, Theorem 1, and Zhuang et al., "GACL: Exemplar-Free Generalized Analytic
Continual Learning", NeurIPS 2024, Theorem 3.1. With features ``B = ReLU(X V)``, ``V`` random and
fixed, and one-hot labels ``Y``, a session changes

    R <- R - R B^T (I + B R B^T)^-1 B R
    W <- W + R B^T (Y - B W)                  with the new R

starting from ``R = I / gamma``; a new class is a new column of zeros in ``W``. ACIL's theorem is
the case in which no class comes again, G-ACIL's gain for exposed classes is the term ``R B^T Y``
of theirs; both equal ridge regression on all rows of all sessions.

Hyperparameters: 4,096 features (the papers take 8,192 and more, on larger data). gamma by
leave-one-out squared error on the rows of the first session, from 10^-4 to 10^2 times the mean
squared length of a feature row; the papers fix it for each encoder.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from peers.base import Floats, Labels, Peer, one_hot

GAMMAS = 10.0 ** np.arange(-4, 3)  # of the mean squared length of a feature row


class RandomFeatures:
    """``ReLU(x V)``, V normal, (dim, width); drawn when the first rows tell dim."""

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self._rng = np.random.default_rng(seed)
        self._v: Floats | None = None

    def __call__(self, x: Floats) -> Floats:
        if self._v is None:
            self._v = self._rng.normal(size=(x.shape[1], self.width))
        lifted: Floats = np.maximum(x @ self._v, 0)
        return lifted


def leave_one_out_error(gram: Floats, y: Floats, ridges: Floats) -> Floats:
    """Mean squared left-out residual for each ridge: ``(K a)_i / K_ii`` with ``K = (G + r I)^-1``.

    Args:
        gram: ``B B^T``, (n, n). y: (n, classes).
    """
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ y
    errors = []
    for ridge in ridges:
        inverse = 1 / (np.maximum(values, 0) + ridge)
        residual = vectors @ (inverse[:, None] * projected)
        residual /= ((vectors**2) @ inverse)[:, None]
        errors.append(float((residual**2).mean()))
    return np.array(errors)


class Acil(Peer):
    name = "ACIL / G-ACIL"
    paper = "Zhuang et al., NeurIPS 2022 and 2024"
    seeded = True
    BUFFER: ClassVar[int] = 4096

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        buffer: int | None = None,
        gamma: float | None = None,
    ) -> None:
        super().__init__(seed, text)
        buffer = buffer or self.BUFFER
        self.features = RandomFeatures(buffer, seed)
        self.gamma = gamma
        self.weights: Floats = np.zeros((buffer, 0))
        self._r: Floats | None = None  # None: I / gamma
        self._waiting: tuple[Floats, Floats] | None = None  # (R B^T, its gain), not yet in R

    def _learn(self, x: Floats, columns: Labels) -> None:
        b = self.features(x)  # (n, buffer)
        y = one_hot(columns, len(self.classes))
        if self.gamma is None:
            self.gamma = self._chosen(b, y)
        self._settle()
        new = len(self.classes) - self.weights.shape[1]
        self.weights = np.hstack([self.weights, np.zeros((len(self.weights), new))])
        rb = b.T / self.gamma if self._r is None else self._r @ b.T  # (buffer, n)
        gain = np.linalg.inv(np.eye(len(b)) + b @ rb)  # (n, n)
        self.weights += rb @ (gain @ (y - b @ self.weights))  # new R B^T = R B^T gain
        self._waiting = rb, gain

    def _settle(self) -> None:
        """R of the session before; put off, because the last session never needs it."""
        if self._waiting is None:
            return
        rb, gain = self._waiting
        if self._r is None:
            self._r = np.eye(len(rb)) / self.gamma
        self._r -= (rb @ gain) @ rb.T
        self._waiting = None

    def _chosen(self, b: Floats, y: Floats) -> float:
        gram = b @ b.T
        ridges = GAMMAS * float(np.trace(gram)) / len(gram)
        return float(ridges[leave_one_out_error(gram, y, ridges).argmin()])

    def _scores(self, x: Floats) -> Floats:
        scores: Floats = self.features(x) @ self.weights
        return scores

    def n_bytes(self) -> int:
        m = self.features.width
        return 8 * m * m + 8 * self.weights.size  # float64, as their code has it
