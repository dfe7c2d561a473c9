"""GDA, the "hard-to-beat" training-free baseline.

Wang, Liang, Sheng, He, Wang and Tan, "A Hard-to-Beat Baseline for Training-Free CLIP-Based
Adaptation", ICLR 2024: Gaussian discriminant analysis with one covariance,
``w_k = P mu_k``, ``b_k = log(1/C) - mu_k . P mu_k / 2``, and ``P = d ((n-1) S + tr(S) I)^-1``
(eq. 6, after Kubokawa and Srivastava 2008). With text ``T``: ``100 x T^T + alpha (x W + b)``.

alpha is chosen on training rows: by accuracy on one half of each class's rows of a classifier
taught with the other, from the authors' 10^-4 to 10^2. With one row a class there is no spread,
``P`` does not exist, and the identity stands in for it (the authors make ten crops of each shot).
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, Means, Peer, halves

ALPHAS = 10.0 ** np.arange(-4, 3)
TEXT_SCALE = 100.0  # CLIP's temperature


class Gda(Peer):
    name = "GDA"
    paper = "Wang et al., ICLR 2024"

    def __init__(
        self, seed: int = 0, text: Floats | None = None, alpha: float | None = None
    ) -> None:
        super().__init__(seed, text)
        self.alpha = alpha
        self.means = Means()
        self._moment: Floats | None = None  # sum x x^T
        self._solved: tuple[Floats, Floats] | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        if self.text is not None and self.alpha is None:
            self.alpha = self._chosen(x, columns)
        moment = x.T @ x
        self._moment = moment if self._moment is None else self._moment + moment
        self.means.add(x, columns, len(self.classes))
        self._solved = None

    def _chosen(self, x: Floats, columns: Labels) -> float:
        assert self.text is not None
        parts = halves(columns, self.seed)
        if parts is None:
            return 1.0
        taught = np.unique(columns[parts[0]])
        place = np.searchsorted(taught, columns)
        half = Gda(self.seed).fit(x[parts[0]], place[parts[0]])
        text = x[parts[1]] @ self.text[[self.classes[k] for k in taught]].T
        gaussian = half.scores(x[parts[1]])
        right = [
            ((TEXT_SCALE * text + a * gaussian).argmax(axis=1) == place[parts[1]]).mean()
            for a in ALPHAS
        ]
        return float(ALPHAS[int(np.argmax(right))])

    def _scores(self, x: Floats) -> Floats:
        if self._solved is None:
            self._solved = self._solve()
        weights, bias = self._solved
        logits: Floats = x @ weights + bias
        if self.text is None:
            return logits
        by_name = len(self.classes) - logits.shape[1]  # no rows: no evidence to either side
        logits = np.hstack([logits, np.repeat(logits.mean(axis=1, keepdims=True), by_name, axis=1)])
        mixed: Floats = TEXT_SCALE * x @ self.text[self.classes].T + (self.alpha or 1.0) * logits
        return mixed

    def _solve(self) -> tuple[Floats, Floats]:
        assert self._moment is not None
        mu, n = self.means.mu, self.means.n
        rows, dim = n.sum(), mu.shape[1]
        scatter = self._moment - (mu.T * n) @ mu
        cov = scatter / max(rows - 1, 1)
        spread = float(np.trace(cov))
        if spread < 1e-9:
            weights = mu.T
        else:
            weights = dim * np.linalg.solve(scatter + spread * np.eye(dim), mu.T)
        bias = -np.log(len(mu)) - np.einsum("kd,dk->k", mu, weights) / 2
        return weights, bias

    def n_bytes(self) -> int:
        return self.means.n_bytes + 4 * (0 if self._moment is None else self._moment.size)
