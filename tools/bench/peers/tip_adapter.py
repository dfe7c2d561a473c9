"""Tip-Adapter without training: a cache of all shots.

Zhang et al., "Tip-Adapter: Training-Free Adaption of CLIP for Few-Shot Classification", ECCV 2022,
section 3.1: ``alpha phi(x K^T) L + 100 x T^T`` with the shots as keys ``K``, their one-hot labels
as values ``L`` and ``phi(c) = exp(-beta (1 - c))``. Without text only the first term is left, and
alpha does nothing.

beta (and alpha, where there is text) by leave-one-out accuracy over the cache, from the values of
the authors' ImageNet search; they search on the test photos there. Where no class has two shots:
beta 5.5 and alpha 1, the authors' defaults.
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, Peer, one_hot, unit

BETAS = (1.0, 2.5, 5.5, 7.0, 12.0, 20.0, 40.0)
ALPHAS = (0.1, 0.3, 1.0, 1.17, 3.0, 5.0)
BETA, ALPHA = 5.5, 1.0
TEXT_SCALE = 100.0


class TipAdapter(Peer):
    name = "Tip-Adapter"
    paper = "Zhang et al., ECCV 2022"

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        beta: float | None = None,
        alpha: float | None = None,
    ) -> None:
        super().__init__(seed, text)
        self.given = beta, alpha
        self.beta, self.alpha = beta, alpha
        self._keys: Floats | None = None
        self._values: Labels = np.zeros(0, np.intp)

    def _learn(self, x: Floats, columns: Labels) -> None:
        x = unit(x)
        self._keys = x if self._keys is None else np.vstack([self._keys, x])
        self._values = np.concatenate([self._values, columns])
        self.beta, self.alpha = self._chosen()

    def _chosen(self) -> tuple[float, float]:
        beta, alpha = self.given
        assert self._keys is not None
        with_others = np.bincount(self._values)[self._values] > 1
        betas = BETAS if beta is None else (beta,)
        alphas = (ALPHAS if self.text is not None else (ALPHA,)) if alpha is None else (alpha,)
        if not with_others.any() or len(betas) * len(alphas) == 1:
            return beta or BETA, alpha or ALPHA
        cosine = self._keys @ self._keys.T
        np.fill_diagonal(cosine, -np.inf)  # a shot does not vouch for itself
        labels = one_hot(self._values, len(self.classes))
        text = self._text(self._keys)
        best = (-1.0, BETA, ALPHA)
        for b in betas:
            cached = np.exp(-b * (1 - cosine)) @ labels
            for a in alphas:
                right = (a * cached + text).argmax(axis=1) == self._values
                best = max(best, (float(right[with_others].mean()), b, a), key=lambda t: t[0])
        return best[1:]

    def _text(self, x: Floats) -> Floats:
        if self.text is None:
            return np.zeros((len(x), len(self.classes)))
        logits: Floats = TEXT_SCALE * x @ self.text[self.classes].T
        return logits

    def _scores(self, x: Floats) -> Floats:
        assert self._keys is not None
        x = unit(x)
        weights = np.exp(-(self.beta or BETA) * (1 - x @ self._keys.T))
        cached = weights @ one_hot(self._values, len(self.classes))
        scores: Floats = (self.alpha or ALPHA) * cached + self._text(x)
        return scores

    def n_bytes(self) -> int:
        return 0 if self._keys is None else 2 * self._keys.size + 4 * len(self._values)  # float16
