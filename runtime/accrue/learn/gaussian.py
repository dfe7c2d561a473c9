"""The gaussian head: linear discriminant analysis with a shrunk covariance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accrue.errors import UsageError
from accrue.learn.served import (
    WAITING_UPDATES,
    Inverse,
    Served,
    best_of,
    on_grid,
    query_rows,
    scatter_change,
)
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats, Rows

SCREEN_FROM = 2**20  # values of the class means; below it one product with all is as fast
BLOCKS = 64  # of classes then; the more, the fewer are scored exactly
Picked = slice | NDArray[np.intp]
VARIANCE_FLOOR = 1e-4  # share of the mean variance below which classes are taken to vary at all


@dataclass(frozen=True)
class Gaussian:
    """Linear discriminant analysis with one shrunk covariance for all classes (GDA).

    ``w_k = P mu_k``, ``b_k = -mu_k . P mu_k / 2 + log pi_k`` with ``P`` the inverse of
    ``(1 - a) S_w / N + a tr(S_w) / (N dim) I``. Without `shrinkage`,
    ``a = dim / (dim + N - 1)``, which makes ``P`` the estimator
    ``dim * inv((N - 1) S + tr(S) I)`` of Kubokawa and Srivastava 2008 that Wang et al. 2024
    ("A Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation", eq. 6) use for few shots.

    The head to have from two shots a class on. With one shot in each class the within-class
    scatter is zero, and it becomes nearest class mean by distance.

    Args:
        shrinkage: ``a``, between 0 and 1 exclusive, or None for the rule above. The value in
            force is the nearest on a grid (see `on_grid`); `describe` tells it.
        priors: probability by class id; classes not named share what is left. None: all equal.

    Cost: one row more is O(dim**2); a prediction O(dim**2 + C dim).
    """

    shrinkage: float | None = None
    priors: Mapping[str, float] | None = None
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 0 < self.shrinkage < 1:
            raise UsageError(
                f"shrinkage {self.shrinkage}; expected a number between 0 and 1, both exclusive",
                found=self.shrinkage,
            )
        given = self.priors or {}
        if any(p <= 0 for p in given.values()) or sum(given.values()) > 1 + 1e-9:
            raise UsageError(f"priors {dict(given)}; expected positive numbers with a sum up to 1")

    def ridge(self, n: int, dim: int, within: float) -> float:
        """``rho`` such that the shrunk covariance is proportional to ``S_w + rho I``."""
        share = self.shrinkage if self.shrinkage is not None else dim / (dim + max(n - 1, 1))
        spread = max(within, VARIANCE_FLOOR * max(n, 1))
        return on_grid(share / (1 - share) * spread / dim)

    def log_priors(self, ids: list[str]) -> Floats:
        given = self.priors or {}
        known = [given.get(c) for c in ids]
        unnamed = sum(p is None for p in known)
        left = max(1 - sum(p for p in known if p is not None), 1e-9) / max(unnamed, 1)
        logs: Floats = np.log([left if p is None else p for p in known])
        return logs

    def solve(self, state: State) -> Served:
        return GaussianServed(self, state)


@dataclass(frozen=True)
class Screening:
    """What ranks the classes as their scores do, in float32, from ``dots = mu_k . R y``:
    ``(dots - R y . centre) * weights``, or ``dots + offset`` where there are no weights."""

    centre: Floats
    weights: NDArray[np.float32] | None
    offset: NDArray[np.float32] | float
    largest_weight: float
    largest_offset: float


class GaussianServed(Served):
    per_class: ClassVar[tuple[str, ...]] = ("_n", "_means", "_squares", "_quadratic")

    def __init__(self, head: Gaussian, state: State) -> None:
        super().__init__(state)
        self._head = head
        self._squares: Floats = self._square_means()
        self._read_sums(state)
        self.rho = head.ridge(state.n, self.dim, self.within)
        weighted = self._means * np.sqrt(self._n)[:, None]
        scatter = state.total / SCALE**2 - weighted.T @ weighted  # S_w, (dim, dim)
        scatter[np.diag_indices(self.dim)] += self.rho
        self.inverse = Inverse(scatter)
        self._quadratic: Floats = np.einsum("kd,kd->k", self.inverse @ self._means, self._means)
        self._terms: list[tuple[Floats, float]] = []  # changes of the inverse not yet in _quadratic
        self._log_priors: Floats | None = None
        self._half: NDArray[np.float32] | None = None  # the means once more, to screen by
        self._screen: Screening | None = None

    def _square_means(self) -> Floats:
        squares: Floats = self._n * np.einsum("kd,kd->k", self._means, self._means)
        return squares

    def _read_sums(self, state: State) -> None:
        self._rows = state.n
        within = state.square_sum / SCALE**2 - float(self._squares[: len(self)].sum())
        self.within = within if within > 1e-9 * self._rows else 0.0  # tr S_w; rounding is no spread

    @property
    def shrinkage(self) -> float:
        """The share ``a`` of the spherical covariance that is in force."""
        return self.rho * self.dim / (self.within + self.rho * self.dim)

    @property
    def scale(self) -> float:
        """``P = scale * inv(S_w + rho I)``: keeps the trace of the covariance."""
        spread = max(self.within, VARIANCE_FLOOR * max(self._rows, 1))
        return self._rows * (self.within + self.rho * self.dim) / spread

    def describe(self) -> str:
        return f"gaussian, shrinkage {self.shrinkage:.2f}"

    @property
    def quadratic(self) -> Floats:
        """``mu_k . R mu_k`` for each class: float64 (n_classes,)."""
        if self._terms:
            vectors = np.array([u for u, _ in self._terms])
            weights = np.array([w for _, w in self._terms])
            self._quadratic[: len(self)] += (self.means @ vectors.T) ** 2 @ weights
            self._terms.clear()
        return self._quadratic[: len(self)]

    @property
    def log_priors(self) -> Floats:
        if self._log_priors is None:
            self._log_priors = self._head.log_priors(self.ids)
        return self._log_priors

    def _scores(self, x: Floats) -> Floats:
        if not self.ids:
            return np.empty((len(x), 0))
        y = x - self._origin
        image = self.inverse @ y
        return self._finish(y, image, image @ self.means.T)

    @property
    def _origin(self) -> Floats | float:
        """What is taken off queries before all else."""
        return 0.0

    def _finish(self, y: Floats, image: Floats, dots: Floats, pick: Picked = slice(None)) -> Floats:
        """Scores from ``R y`` and its products with the class means, or with the picked ones."""
        logits: Floats = self.scale * (dots - self.quadratic[pick] / 2) + self.log_priors[pick]
        return logits

    def _screening(self) -> Screening:
        offset = self.log_priors / self.scale - self.quadratic / 2
        return Screening(
            np.zeros(self.dim), None, offset.astype(np.float32), 1.0, float(np.abs(offset).max())
        )

    def top(self, x: NDArray[Any], most: int) -> tuple[NDArray[np.intp], Floats]:
        """As `Served.top`. Many classes are screened in float32, which halves what is read; those
        that rounding could have hidden are scored exactly."""
        if self.means.size < SCREEN_FROM or not most < BLOCKS < len(self):
            return super().top(x, most)
        if self._half is None:
            self._half = self._means.astype(np.float32)
        if self._screen is None:
            self._screen = self._screening()
        screen = self._screen
        y = np.asarray(x, np.float64) - self._origin
        image = self.inverse @ y
        rough = self._half[: len(self)] @ image.astype(np.float32)
        if screen.weights is None:
            rough += screen.offset
        else:
            rough -= np.float32(image @ screen.centre)
            rough *= screen.weights
        # dim products of unit roundoff u err by about u sqrt(dim) (Higham and Mary 2019); the
        # operations after them by u each
        error = 8 * (math.sqrt(self.dim) + 1) * math.sqrt(image @ image) * screen.largest_weight
        error = 2.0**-24 * (error + 4 * screen.largest_offset)
        # the best of each block are that many classes, so the best of all are no worse
        blocks = rough[: len(rough) // BLOCKS * BLOCKS].reshape(BLOCKS, -1).max(axis=1)
        least = np.partition(blocks, -most)[-most]
        picked = np.flatnonzero(rough >= least - np.float32(2 * error))
        exact = self._finish(y[None], image[None], (self._means[picked] @ image)[None], picked)[0]
        order = best_of(exact, most)
        return picked[order], exact[order]

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        followed = super().follow(state, class_id, rows, sign)
        self._screen = None
        if self._half is not None:
            k = self.index.get(class_id)
            if k is None or len(self._half) != len(self._means):
                self._half = None
            else:
                self._half[k] = self._means[k]
        return followed

    def _append(self, class_id: str) -> int:
        k = super()._append(class_id)
        self._squares[k] = self._quadratic[k] = 0
        self._log_priors = None
        return k

    def _drop(self, k: int) -> None:
        _ = self.quadratic
        super()._drop(k)
        self._log_priors = None

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        change = scatter_change(x, self._n[k], self._means[k], sign)
        if len(self._terms) + len(change) > WAITING_UPDATES:
            _ = self.quadratic
        followed = self.inverse.update(change, sign, mean)
        if followed is None:
            return False
        vectors, weights, quadratic = followed
        # quadratic will add every waiting term to this class too: leave them out here
        self._terms += zip(vectors, weights.tolist(), strict=True)
        for u, weight in self._terms:
            quadratic -= weight * float(u @ mean) ** 2
        self._quadratic[k] = quadratic
        self._squares[k] = (self._n[k] + sign * len(x)) * float(mean @ mean)
        return True

    def _settle(self, state: State) -> bool:
        self._read_sums(state)
        return bool(self.ids) and self._head.ridge(state.n, self.dim, self.within) == self.rho

    def left_out(
        self, k: int, blocks: Sequence[Sequence[Floats]], views: int | None = None
    ) -> list[Floats | None]:
        n, origins = self.n[k], self._origins(k)
        basis = np.vstack([*(shot for block in blocks for shot in block), *origins])
        image = self.inverse @ basis  # for all blocks at once
        against = image @ self.means.T
        behind = list(range(len(basis) - len(origins), len(basis)))
        result: list[Floats | None] = []
        start = 0
        for block in blocks:
            m = sum(len(shot) for shot in block)
            pick = [*range(start, start + m), *behind]
            start += m
            if n <= m:
                result.append(None)
                continue
            left = Without(image[pick] @ basis[pick].T, against[pick], n, m)
            result.append(self._scores_without(k, left, query_rows(block, views)))
        return result

    def _origins(self, k: int) -> list[Floats]:
        """What `Without` needs beside the rows of class k: its mean first."""
        return [self._means[k]]

    def _scores_without(self, k: int, left: Without, query: Floats) -> Floats:
        x = np.pad(query, ((0, 0), (0, left.size - left.m)))  # (shots, size)
        mean = left.mean()
        dots = left.with_means(x)
        dots[:, k] = left.dot(x, mean)
        squares = left.squares(self.quadratic)
        squares[k] = left.dot(mean, mean)
        logits: Floats = self.scale * (dots - squares / 2) + self.log_priors
        return logits


class Without:
    """Inner products ``a . R b`` as they are when m rows of a class of n are taken away.

    What the class's scatter loses has rank m + 1 at most: the rows about their mean, and that
    mean about what is left (the block form of the leave-one-out identities). Vectors are given by
    coordinates in the basis of the m rows, the class mean and whatever else stands behind them.

    Args:
        K: ``B R B^T`` of the basis, (size, size). against: ``B R M^T``, (size, n_classes).
    """

    def __init__(self, K: Floats, against: Floats, n: float, m: int) -> None:
        self.n, self.m, self.size = n, m, len(K)
        self._K, self._against = K, against
        T = np.zeros((m + 1, self.size))  # V = T B is what the scatter loses
        T[:m, :m] = np.eye(m) - 1.0 / m
        T[m, :m] = math.sqrt(n * m / (n - m)) / m
        T[m, m] = -math.sqrt(n * m / (n - m))
        self._VB = T @ K
        self._VM = T @ against
        self._gain = np.linalg.inv(np.eye(m + 1) - self._VB @ T.T)

    def mean(self) -> Floats:
        """Coordinates of the mean of what is left of the class."""
        c = np.zeros(self.size)
        c[: self.m] = -1.0 / (self.n - self.m)
        c[self.m] = self.n / (self.n - self.m)
        return c

    def dot(self, a: Floats, b: Floats) -> Floats:
        """For coordinates a (..., size) and b (size,): float64 (...)."""
        found: Floats = a @ (self._K @ b) + (a @ self._VB.T) @ (self._gain @ (self._VB @ b))
        return found

    def with_means(self, a: Floats) -> Floats:
        """With every class mean, unchanged ones: float64 (..., n_classes)."""
        found: Floats = a @ self._against + (a @ self._VB.T) @ self._gain @ self._VM
        return found

    def squares(self, quadratic: Floats) -> Floats:
        """``mu . R mu`` of every class mean, from what it was before: float64 (n_classes,)."""
        found: Floats = quadratic + np.einsum("ic,ic->c", self._VM, self._gain @ self._VM)
        return found
