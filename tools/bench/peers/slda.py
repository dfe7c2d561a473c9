"""Streaming linear discriminant analysis, by the published rule and exactly.

Hayes and Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis",
CVPR workshops 2020, eqs. 2 to 4, for one row ``z`` of class ``y`` as the (t+1)-th of the stream:

    mu_y    <- (c_y mu_y + z) / (c_y + 1)                                 (2)
    Sigma   <- (t Sigma + Delta) / (t + 1)                                (3)
    Delta    = t (z - mu_y)(z - mu_y)^T / (t + 1)                         (4)

with ``mu_y`` before its own update, and then ``Lambda = ((1 - eps) Sigma + eps I)^-1``,
``w_k = Lambda mu_k``, ``b_k = -mu_k . Lambda mu_k / 2``; eps = 1e-4 as published.

`DeepSlda` is that rule. It counts the whole first row of each class as spread (``mu_y`` is 0
then), and scales by the place in the stream where the exact factor is ``c_y / (c_y + 1)``.
`ExactSlda` has that factor, so that ``t Sigma`` is the within-class scatter.
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, Means, Peer, by_class

EPS = 1e-4


class ExactSlda(Peer):
    name = "SLDA, exact"
    paper = "Hayes and Kanan, CVPRW 2020, exact covariance"

    def __init__(self, seed: int = 0, text: Floats | None = None, eps: float = EPS) -> None:
        super().__init__(seed, text)
        self.eps = eps
        self.means = Means()
        self.scatter: Floats | None = None  # t Sigma, (dim, dim)
        self.t = 0
        self._solved: tuple[Floats, Floats] | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        if self.scatter is None:
            self.scatter = np.zeros((x.shape[1], x.shape[1]))
        v, seen = self._innovations(x, columns)
        weighted = v * self._factor(seen, self.t + np.arange(len(x)))[:, None]
        self.scatter += weighted.T @ v  # the rank-one terms of eq. 4, all at once
        self.means.add(x, columns, len(self.classes))
        self.t += len(x)
        self._solved = None

    def _innovations(self, x: Floats, columns: Labels) -> tuple[Floats, Floats]:
        """``z - mu_y`` of each row with the mean before it, and ``c_y``."""
        v, seen = x.copy(), np.zeros(len(x))
        for k, at in by_class(columns):
            known = k < len(self.means.n)
            n = self.means.n[k] if known else 0.0
            start = self.means.sums[k] if known else np.zeros(x.shape[1])
            before = start + np.vstack([np.zeros(x.shape[1]), np.cumsum(x[at], axis=0)[:-1]])
            seen[at] = n + np.arange(len(at))
            v[at] -= before / np.maximum(seen[at], 1)[:, None]
        return v, seen

    def _factor(self, seen: Floats, t: Labels) -> Floats:
        factor: Floats = seen / (seen + 1)
        return factor

    def _scores(self, x: Floats) -> Floats:
        if self._solved is None:
            assert self.scatter is not None
            mu = self.means.mu
            sigma = self.scatter / self.t
            weights = np.linalg.solve(
                (1 - self.eps) * sigma + self.eps * np.eye(len(sigma)), mu.T
            )  # (dim, C)
            self._solved = weights, -np.einsum("kd,dk->k", mu, weights) / 2
        weights, bias = self._solved
        logits: Floats = x @ weights + bias
        return logits

    def n_bytes(self) -> int:
        return self.means.n_bytes + 4 * (self.scatter.size if self.scatter is not None else 0)


class DeepSlda(ExactSlda):
    name = "Deep-SLDA"
    paper = "Hayes and Kanan, CVPRW 2020"

    def _factor(self, seen: Floats, t: Labels) -> Floats:
        return np.asarray(t / (t + 1), np.float64)
