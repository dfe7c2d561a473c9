"""FeTrIL: old classes stand in as translated features of new ones.

Petit, Popescu, Schindler, Picard and Delezoide, "FeTrIL: Feature Translation for Exemplar-Free
Class-Incremental Learning", WACV 2023, eq. 1: a feature of a new class ``n`` becomes a
pseudo-feature of a past class ``p`` by ``f + mu_p - mu_n``; ``n`` is the new class whose mean is
nearest by cosine (the paper's FeTrIL^1). A linear support vector classifier (scikit-learn's, as in
the authors' code) is trained on the pseudo-features and the new features.

In one session there is no past class, and this is a linear SVM. C as for `LinearSvm`. A class that
comes again is a new class in that session; its mean runs on.
"""

from __future__ import annotations

import numpy as np

from peers.base import Floats, Labels, Means, Peer, by_class, unit
from peers.joint import LinearSvm


class FeTril(Peer):
    name = "FeTrIL"
    paper = "Petit et al., WACV 2023"

    def __init__(self, seed: int = 0, text: Floats | None = None, c: float | None = None) -> None:
        super().__init__(seed, text)
        self.means = Means()
        self.c = c
        self._svm: LinearSvm | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        self.means.add(x, columns, len(self.classes))
        pseudo, owners = self.pseudo_features(x, columns)
        self._svm = LinearSvm(self.seed, c=self.c)
        self._svm.fit(np.vstack([x, pseudo]), np.concatenate([columns, owners]))

    def pseudo_features(self, x: Floats, columns: Labels) -> tuple[Floats, Labels]:
        """Of each past class, translated from the nearest class of this session."""
        mu = self.means.mu
        new = dict(by_class(columns))
        here = np.array(sorted(new))
        parts, owners = [x[:0]], [columns[:0]]
        for past in sorted(set(range(len(self.classes))) - set(new)):
            near = int(here[int((unit(mu[here]) @ unit(mu[past])).argmax())])
            moved = x[new[near]] + mu[past] - mu[near]  # eq. 1
            parts.append(moved)
            owners.append(np.full(len(moved), past))
        return np.vstack(parts), np.concatenate(owners)

    def _scores(self, x: Floats) -> Floats:
        assert self._svm is not None
        found = np.full((len(x), len(self.classes)), -np.inf)
        found[:, self._svm.classes] = self._svm.scores(x)
        return found

    def n_bytes(self) -> int:
        return 2 * self.means.n_bytes  # means and the weights of the classifier
