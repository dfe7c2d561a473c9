"""Upper references: linear classifiers of scikit-learn, trained on all rows at once.

They keep every row and train anew after each session. Rows are centred and, where they are fewer
than dimensions, turned into their own span, which changes neither the problem nor its solution.

C by accuracy in two-fold cross-validation on at most five training rows of each class: the
smallest of `CS` within one standard error of the best (Breiman et al. 1984, ch. 3), or the middle
one where no class has two rows.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from peers.base import Floats, Labels, Peer, by_class, halves

CHOOSE_BY = 5  # rows a class


class _Joint(Peer):
    joint: ClassVar[bool] = True
    CS: ClassVar[tuple[float, ...]]

    def __init__(self, seed: int = 0, text: Floats | None = None, c: float | None = None) -> None:
        super().__init__(seed, text)
        self.c = c
        self._given = c
        self._x: Floats | None = None
        self._columns: Labels = np.zeros(0, np.intp)
        self._weights: tuple[Floats, Floats] | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        self._x = x if self._x is None else np.vstack([self._x, x])
        self._columns = np.concatenate([self._columns, columns])
        self._weights = None
        self.c = self._given or self._chosen()

    def _chosen(self) -> float:
        assert self._x is not None
        rng = np.random.default_rng(self.seed)
        few = [rng.permutation(at)[:CHOOSE_BY] for _, at in by_class(self._columns)]
        picked = np.concatenate(few)
        parts = halves(self._columns[picked], self.seed)
        if parts is None:
            return self.CS[len(self.CS) // 2]
        first, second = picked[parts[0]], picked[parts[1]]
        right = [
            sum(
                self._right(c, fit, rest)
                for fit, rest in ((first, second), (second, first))
                if len(np.unique(self._columns[fit])) > 1
            )
            for c in self.CS
        ]
        asked = len(first) + len(second)
        share = max(right) / asked
        least = max(right) - np.sqrt(share * (1 - share) * asked)
        return next(c for c, n in zip(self.CS, right, strict=True) if n >= least)

    def _right(self, c: float, fit: Labels, rest: Labels) -> int:
        assert self._x is not None
        weights, bias = self._solve(c, self._x[fit], self._columns[fit])
        scores = self._x[rest] @ weights + bias
        return int((scores.argmax(axis=1) == self._columns[rest]).sum())

    def _solve(self, c: float, x: Floats, columns: Labels) -> tuple[Floats, Floats]:
        """Weights (dim, n_classes) and bias; classes without rows get a bias of -inf."""
        centre = x.mean(axis=0)
        z, turn = x - centre, None
        if len(z) < z.shape[1]:
            turn = np.linalg.qr(z.T)[0]  # (dim, rank)
            z = z @ turn
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the cap is stated in the class
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model = self._model(c).fit(z, columns)
        coef, intercept = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            coef, intercept = np.vstack([-coef, coef]), np.append(-intercept, intercept)
        if turn is not None:
            coef = coef @ turn.T
        weights = np.zeros((x.shape[1], len(self.classes)))
        bias = np.full(len(self.classes), -np.inf)
        weights[:, model.classes_] = coef.T
        bias[model.classes_] = intercept - coef @ centre
        return weights, bias

    def _model(self, c: float) -> Any:
        raise NotImplementedError

    def _scores(self, x: Floats) -> Floats:
        assert self._x is not None
        if self._weights is None:
            if len(self.classes) == 1:
                return np.zeros((len(x), 1))
            self._weights = self._solve(float(self.c or 1), self._x, self._columns)
        weights, bias = self._weights
        logits: Floats = x @ weights + bias
        return logits

    def n_bytes(self) -> int:
        return 0 if self._x is None else 4 * self._x.size


class Logistic(_Joint):
    """Multinomial logistic regression; at most 300 steps of L-BFGS."""

    name = "logistic regression"
    paper = "scikit-learn, all rows at once"
    CS = (10.0, 100.0, 1000.0)

    def _model(self, c: float) -> Any:
        return LogisticRegression(C=c, max_iter=300, tol=1e-4)


class LinearSvm(_Joint):
    """One against the rest, squared hinge; at most 300 passes of liblinear's dual solver."""

    name = "linear SVM"
    paper = "scikit-learn, all rows at once"
    CS = (0.1, 1.0, 10.0)

    def _model(self, c: float) -> Any:
        return LinearSVC(C=c, max_iter=300, tol=1e-3, random_state=self.seed)
