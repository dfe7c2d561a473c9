"""Zero-shot by text: the cosine to the class's text vector.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
section 3.1: the reference for classes that exist by name alone. No shots, no hyperparameters.
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, Peer, unit


class ZeroShot(Peer):
    name = "zero-shot text"
    paper = "Radford et al., ICML 2021"

    def _learn(self, x: Floats, columns: Labels) -> None:
        if self.text is None:
            raise ValueError("zero-shot needs text vectors, float (n_classes, dim)")

    def _scores(self, x: Floats) -> Floats:
        assert self.text is not None
        cosine: Floats = unit(x) @ unit(np.asarray(self.text, np.float64))[self.classes].T
        return cosine

    def n_bytes(self) -> int:
        return 0 if self.text is None else 4 * self.text.size
