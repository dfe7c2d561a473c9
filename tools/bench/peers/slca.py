"""SLCA's classifier alignment: a linear head trained on Gaussian replay.

Zhang, Wang, Kang, Chen and Wei, "SLCA: Slow Learner with Classifier Alignment for Continual
Learning on a Pre-trained Model", ICCV 2023, section 3.3. Each class leaves its mean and
covariance; after each session 256 features a class are drawn from these Gaussians in each of 5
epochs, and the linear head is trained on them by SGD (batches of 256, momentum 0.9, weight decay
5e-4, cosine schedule from 0.01) with cross-entropy of the normalised logits ``l / (|l| tau)``,
tau = 0.1. The slow learner, which tunes the encoder, is left out: the encoder is frozen here.

As in the authors' code the mean of a class of session t of T is drawn as
``(0.9 + 0.1 t / T) mu``, and 1e-4 is added to the diagonal of the covariance. The head starts from
the class means. Embeddings come at unit length; they are centred on the rows of the first session
and scaled to a mean squared length of dim, the scale of the transformer features for which the
published rates were set. All values as published; none is tuned here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peers.base import Floats, Labels, Peer, by_class, unit

EPOCHS, PER_CLASS, BATCH = 5, 256, 256
RATE, MOMENTUM, DECAY, TAU = 0.01, 0.9, 5e-4, 0.1
JITTER = 1e-4


class Slca(Peer):
    name = "SLCA"
    paper = "Zhang et al., ICCV 2023"
    seeded = True

    def __init__(
        self,
        seed: int = 0,
        text: Floats | None = None,
        epochs: int = EPOCHS,
        per_class: int = PER_CLASS,
    ) -> None:
        super().__init__(seed, text)
        self.epochs, self.per_class = epochs, per_class
        self._frame: tuple[Floats, float] | None = None  # centre, scale
        self._kept: dict[int, Floats] = {}  # rows: the factor of a covariance of that rank
        self._session: dict[int, int] = {}
        self._sessions = 0
        self._w: Floats = np.zeros((0, 0))
        self._b: Floats = np.zeros(0)

    def _learn(self, x: Floats, columns: Labels) -> None:
        self._sessions += 1
        if self._frame is None:
            centre = x.mean(axis=0)
            spread = float(((x - centre) ** 2).sum(axis=1).mean())
            self._frame = centre, np.sqrt(x.shape[1] / spread) if spread > 0 else 1.0
        x = self._framed(x)
        for k, at in by_class(columns):
            kept = [self._kept[k]] if k in self._kept else []
            self._kept[k] = np.vstack([*kept, x[at]])
            self._session[k] = self._sessions
        self._align()

    def _framed(self, x: Floats) -> Floats:
        assert self._frame is not None
        centre, scale = self._frame
        return (x - centre) * scale

    def sample(self, k: int, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """n features of class k from its Gaussian: float32 (n, dim)."""
        rows = self._kept[k]
        mean = rows.mean(axis=0)
        factor = ((rows - mean) / np.sqrt(max(len(rows) - 1, 1))).astype(np.float32)
        decay = 0.9 + 0.1 * self._session[k] / self._sessions
        drawn = rng.standard_normal((n, len(mean)), np.float32)
        drawn *= np.float32(np.sqrt(JITTER))
        drawn += rng.standard_normal((n, len(rows)), np.float32) @ factor
        drawn += (decay * mean).astype(np.float32)
        return drawn

    def _align(self) -> None:
        rng = np.random.default_rng([self.seed, self._sessions])
        classes = len(self.classes)
        dim = self._kept[0].shape[1]
        start = unit(np.stack([self._kept[k].mean(axis=0) for k in range(classes)]))
        w, b = start.astype(np.float32), np.zeros(classes, np.float32)
        vw, vb = np.zeros_like(w), np.zeros_like(b)
        for epoch in range(self.epochs):
            rate = np.float32(RATE * (1 + np.cos(np.pi * epoch / self.epochs)) / 2)
            x = np.empty((classes * self.per_class, dim), np.float32)
            for k in range(classes):
                x[k * self.per_class : (k + 1) * self.per_class] = self.sample(
                    k, self.per_class, rng
                )
            mixed = rng.permutation(len(x))
            for at in range(0, len(x), BATCH):
                pick = mixed[at : at + BATCH]
                batch = x[pick]
                slope = logit_gradient(batch @ w.T + b, pick // self.per_class)
                vw = MOMENTUM * vw + slope.T @ batch + DECAY * w
                vb = MOMENTUM * vb + slope.sum(axis=0) + DECAY * b
                w, b = w - rate * vw, b - rate * vb
        self._w, self._b = w.astype(np.float64), b.astype(np.float64)

    def _scores(self, x: Floats) -> Floats:
        logits: Floats = self._framed(x) @ self._w.T + self._b
        return logits

    def n_bytes(self) -> int:
        dim = self._kept[0].shape[1]
        return len(self.classes) * 4 * (dim * dim + 2 * dim)  # covariance, mean, weights


def logit_gradient(logits: Floats, owners: Labels) -> Floats:
    """Of the mean cross-entropy of ``l / (|l| tau)`` by l: (n, classes)."""
    length = np.linalg.norm(logits, axis=1, keepdims=True) + 1e-7
    z = logits / length
    e = np.exp(z / TAU - (z / TAU).max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), owners] -= 1
    p /= len(p) * TAU
    slope: Floats = (p - z * (p * z).sum(axis=1, keepdims=True)) / length
    return slope
