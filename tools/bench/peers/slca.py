"""SLCA with a frozen encoder: a linear head, aligned by Gaussian replay.

Zhang, Wang, Kang, Chen and Wei, "SLCA: Slow Learner with Classifier Alignment for Continual
Learning on a Pre-trained Model", ICCV 2023, section 3. The slow learner tunes the encoder by a
small rate; here the rate is 0, as the authors' code allows, and what is left is the head:

1. The columns of the session's classes are trained on its rows by SGD: 20 epochs in batches of
   128, rate 0.01 and a tenth of it for the last two, momentum 0.9, weight decay 5e-4, with the
   cross-entropy of these columns alone.
2. Each class leaves its mean and covariance (1e-4 added to its diagonal). From these Gaussians 256
   features a class are drawn in each of 5 epochs, the mean of a class of session t of T as
   ``(0.9 + 0.1 t / T) mu``, and all columns are trained on them in batches of 256, rate from 0.01
   by a cosine, with the cross-entropy of the normalised logits ``l / (|l| tau)``, tau = 0.1.

The authors' code leaves step 2 out in the first session. It is done there too, because without it
nothing of the method would be seen in one session. Embeddings come at unit length; they are
centred on the rows of the first session and scaled to a mean squared length of dim, that of the
transformer features for which the rates were set. All values as published; none is tuned here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers.base import Floats, Labels, Peer, by_class

Rows = NDArray[np.float32]

FIT_EPOCHS, FIT_BATCH, LOW_EPOCHS = 20, 128, 2
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
        self._head = Head(0, 0)

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
        rng = np.random.default_rng([self.seed, self._sessions])
        self._head = self._head.grown(len(self.classes), x.shape[1])
        self._fit(x.astype(np.float32), columns, rng)
        self._align(rng)

    def _framed(self, x: Floats) -> Floats:
        assert self._frame is not None
        centre, scale = self._frame
        return (x - centre) * scale

    def sample(self, k: int, n: int, rng: np.random.Generator) -> Rows:
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

    def _fit(self, x: Rows, columns: Labels, rng: np.random.Generator) -> None:
        """Step 1."""
        here, owners = np.unique(columns, return_inverse=True)
        head = Head(len(here), x.shape[1])
        head.w, head.b = self._head.w[here], self._head.b[here]
        for epoch in range(FIT_EPOCHS):
            rate = RATE if epoch < FIT_EPOCHS - LOW_EPOCHS else RATE / 10
            mixed = rng.permutation(len(x))
            for at in range(0, len(x), FIT_BATCH):
                pick = mixed[at : at + FIT_BATCH]
                logits = head(x[pick])
                slope = softmax(logits)
                slope[np.arange(len(pick)), owners[pick]] -= 1
                head.step(x[pick], slope / len(pick), rate)
        self._head.w[here], self._head.b[here] = head.w, head.b

    def _align(self, rng: np.random.Generator) -> None:
        """Step 2."""
        head = self._head
        head.vw, head.vb = np.zeros_like(head.w), np.zeros_like(head.b)
        classes = len(self.classes)
        x = np.empty((classes * self.per_class, head.w.shape[1]), np.float32)
        for epoch in range(self.epochs):
            rate = RATE * (1 + np.cos(np.pi * epoch / self.epochs)) / 2
            for k in range(classes):
                part = slice(k * self.per_class, (k + 1) * self.per_class)
                x[part] = self.sample(k, self.per_class, rng)
            mixed = rng.permutation(len(x))
            for at in range(0, len(x), BATCH):
                pick = mixed[at : at + BATCH]
                batch = x[pick]
                slope = logit_gradient(head(batch), pick // self.per_class)
                head.step(batch, slope, rate)

    def _scores(self, x: Floats) -> Floats:
        return self._head(self._framed(x)).astype(np.float64)

    def n_bytes(self) -> int:
        dim = self._kept[0].shape[1]
        return len(self.classes) * 4 * (dim * dim + 2 * dim)  # covariance, mean, weights


class Head:
    """A linear layer under SGD with momentum and weight decay, in float32."""

    def __init__(self, classes: int, dim: int) -> None:
        self.w: Rows = np.zeros((classes, dim), np.float32)
        self.b: Rows = np.zeros(classes, np.float32)
        self.vw, self.vb = np.zeros_like(self.w), np.zeros_like(self.b)

    def grown(self, classes: int, dim: int) -> Head:
        found = Head(classes, dim)
        found.w[: len(self.w)] = self.w if len(self.w) else 0
        found.b[: len(self.b)] = self.b
        return found

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        return x @ self.w.T + self.b

    def step(self, x: Rows, slope: Rows, rate: float) -> None:
        self.vw = MOMENTUM * self.vw + slope.T @ x + DECAY * self.w
        self.vb = MOMENTUM * self.vb + slope.sum(axis=0) + DECAY * self.b
        self.w = self.w - np.float32(rate) * self.vw
        self.b = self.b - np.float32(rate) * self.vb


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def logit_gradient(logits: NDArray[Any], owners: Labels) -> NDArray[Any]:
    """Of the mean cross-entropy of ``l / (|l| tau)`` by l: (n, classes)."""
    length = np.linalg.norm(logits, axis=1, keepdims=True) + 1e-7
    z = logits / length
    p = softmax(z / TAU)
    p[np.arange(len(p)), owners] -= 1
    p /= len(p) * TAU
    return np.asarray((p - z * (p * z).sum(axis=1, keepdims=True)) / length)
