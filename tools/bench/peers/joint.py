"""Upper references: linear classifiers of scikit-learn, trained on all rows at once.

They keep every row and train anew after each session. Rows are centred and, where they are fewer
than dimensions, turned into their own span, which changes neither the problem nor its solution.

C is fixed: 1 for the SVM, scikit-learn's default; 100 for logistic regression, whose default of 1
leaves rows of unit length under-fitted. Nothing is chosen on test photos.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from peers.base import Floats, Labels, Peer


class _Joint(Peer):
    joint: ClassVar[bool] = True
    C: ClassVar[float]

    def __init__(self, seed: int = 0, text: Floats | None = None, c: float | None = None) -> None:
        super().__init__(seed, text)
        self.c = c or self.C
        self._x: Floats | None = None
        self._columns: Labels = np.zeros(0, np.intp)
        self._weights: tuple[Floats, Floats] | None = None

    def _learn(self, x: Floats, columns: Labels) -> None:
        self._x = x if self._x is None else np.vstack([self._x, x])
        self._columns = np.concatenate([self._columns, columns])
        self._weights = None

    def _solve(self, x: Floats, columns: Labels) -> tuple[Floats, Floats]:
        """Weights (dim, n_classes) and bias; classes without rows get a bias of -inf."""
        centre = x.mean(axis=0)
        z, turn = x - centre, None
        if len(z) < z.shape[1]:
            turn = np.linalg.qr(z.T)[0]  # (dim, rank)
            z = z @ turn
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the cap is stated in the class
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model = self._model().fit(z, columns)
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

    def _model(self) -> Any:
        raise NotImplementedError

    def _scores(self, x: Floats) -> Floats:
        assert self._x is not None
        if self._weights is None:
            if len(self.classes) == 1:
                return np.zeros((len(x), 1))
            self._weights = self._solve(self._x, self._columns)
        weights, bias = self._weights
        logits: Floats = x @ weights + bias
        return logits

    def n_bytes(self) -> int:
        return 0 if self._x is None else 4 * self._x.size


class Logistic(_Joint):
    """Multinomial logistic regression; at most 300 steps of L-BFGS."""

    name = "logistic regression"
    paper = "scikit-learn, all rows at once"
    C = 100.0

    def _model(self) -> Any:
        return LogisticRegression(C=self.c, max_iter=300, tol=1e-4)


class LinearSvm(_Joint):
    """One against the rest, squared hinge; at most 300 passes of liblinear's dual solver."""

    name = "linear SVM"
    paper = "scikit-learn, all rows at once"
    C = 1.0

    def _model(self) -> Any:
        return LinearSVC(C=self.c, max_iter=300, tol=1e-3, random_state=self.seed)
