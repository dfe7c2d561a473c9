"""SimpleCIL, the nearest class mean by cosine.

Zhou, Cai, Ye, Zhan and Liu, "Revisiting Class-Incremental Learning with Pre-Trained Models:
Generalizability and Adaptivity are All You Need", IJCV 2024 (arXiv 2303.07338), the prototype
equation of section 4.1: ``p_k = 1/n_k sum_{y_i = k} x_i``, which is put in the place of the
classifier's weights; the score is the cosine. No hyperparameters.

The authors' code overwrites the prototype of a class that comes again. Here the mean runs on, as
the equation says.
"""

from __future__ import annotations

from peers.base import Floats, Labels, Means, Peer, unit


class SimpleCil(Peer):
    name = "SimpleCIL (NMC)"
    paper = "Zhou et al., IJCV 2024"

    def __init__(self, seed: int = 0, text: Floats | None = None) -> None:
        super().__init__(seed, text)
        self.means = Means()

    def _learn(self, x: Floats, columns: Labels) -> None:
        self.means.add(x, columns, len(self.classes))

    def _scores(self, x: Floats) -> Floats:
        cosine: Floats = unit(x) @ unit(self.means.mu).T
        return cosine

    def n_bytes(self) -> int:
        return self.means.n_bytes
