"""TEEN: prototypes of few-shot classes calibrated toward the base classes.

Wang, Zhou, Liu, Ye, Bian, Zhan and Zhao, "Few-Shot Class-Incremental Learning via Training-Free
Prototype Calibration", NeurIPS 2023, section 4.2, with unit-length base prototypes ``B`` and the
prototype ``p`` of a new class:

    w = softmax(tau p B^T)                 over the base classes
    p' = (1 - alpha) p + alpha unit(w B)

and the cosine to ``p'`` as score. tau = 16 and alpha = 0.1 as in the authors' code. Base classes
are those of the first session; where all come in one, nothing is calibrated and this is SimpleCIL.
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, unit
from peers.simplecil import SimpleCil

TAU, ALPHA = 16.0, 0.1


class Teen(SimpleCil):
    name = "TEEN"
    paper = "Wang et al., NeurIPS 2023"

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        tau: float = TAU,
        alpha: float = ALPHA,
    ) -> None:
        super().__init__(seed, text)
        self.tau, self.alpha = tau, alpha
        self.base = 0  # classes of the first session

    def _learn(self, x: Floats, columns: Labels) -> None:
        super()._learn(x, columns)
        self.base = self.base or len(self.classes)

    def prototypes(self) -> Floats:
        """float64 (n_classes, dim) at unit length."""
        p = unit(self.means.mu)
        base, new = p[: self.base], p[self.base :]
        if len(new):
            logits = self.tau * new @ base.T
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            toward = unit(weights @ base)
            p = np.vstack([base, (1 - self.alpha) * new + self.alpha * toward])
        return unit(p)

    def _scores(self, x: Floats) -> Floats:
        cosine: Floats = unit(x) @ self.prototypes().T
        return cosine
