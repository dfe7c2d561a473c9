"""Embeddings that the tests of the benchmarks run on."""

from __future__ import annotations

import numpy as np

DIM, CLASSES, EACH = 12, 5, 8


def blobs(seed: int = 0, each: int = EACH, positive: bool = False, views: int = 1):
    """float32 (n, views, dim) at unit length, of classes with one stretched covariance."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, DIM))
    stretch = np.linspace(0.1, 0.9, DIM)
    labels = np.repeat(np.arange(CLASSES), each)
    rows = centres[labels] + rng.normal(size=(len(labels), DIM)) * stretch
    made = rows[:, None] + 0.05 * rng.normal(size=(len(labels), views, DIM))
    made = np.abs(made) if positive else made
    made /= np.linalg.norm(made, axis=2, keepdims=True)
    return made.astype(np.float32), labels
