"""The cosine head: the angle to the class mean, where directions that vary within classes count
little."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accrue.errors import RowsError, UsageError
from accrue.learn.gaussian import Gaussian, GaussianServed, Picked, Screening, Without
from accrue.learn.served import Served
from accrue.learn.state import State
from accrue.learn.statistics import Floats, Rows

USUAL_SHRINKAGE = 0.5  # nothing between 0.3 and 0.7 is better by more than noise, see measurements


@dataclass(frozen=True)
class Cosine:
    """Cosine scoring after within-class covariance normalisation (WCCN).

    ``s_k(x) = cos(L (x - m), L (mu_k - m))`` with ``L^T L = P``, the inverse of the gaussian
    head's shrunk within-class covariance, and ``m`` the mean of the class means. WCCN is of Hatch,
    Kajarekar and Stolcke 2006, cosine scoring after it of Dehak et al. 2011 (section III-B).
    Against the gaussian head, which is linear in x, the length of a class mean and of a query no
    longer counts: few shots leave means whose length is mostly chance.

    A class may have a text vector, or nothing but one: an embedding of its name. Text and image
    embeddings lie apart (Liang et al. 2022, "Mind the gap"), so text vectors are moved and scaled
    to have the mean and the spread of the class means that have shots, and then count as
    `text_rows` rows in the mean of their class. They never count in the covariance.

    The head to have from the first shot on, if a shot is several views: then the covariance is
    that of the views. Not the head for given class priors, which need a density (`Gaussian`).

    Args:
        shrinkage: ``a`` as in `Gaussian`.
        texts: text vector by class id, float (dim,). Classes without shots are answered too.
        text_rows: how many rows a text vector weighs as much as.

    Cost: one row more is O(dim**2), with texts an exact solve; a prediction O(dim**2 + C dim).
    """

    shrinkage: float = USUAL_SHRINKAGE
    texts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    text_rows: float = 4.0
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        Gaussian(self.shrinkage)  # checks it
        if not (self.text_rows > 0 and math.isfinite(self.text_rows)):
            raise UsageError(
                f"text_rows {self.text_rows}; expected more than 0", found=self.text_rows
            )

    def solve(self, state: State) -> Served:
        for class_id, text in self.texts.items():
            if np.shape(text) != (state.dim,) or not np.isfinite(text).all() or not np.any(text):
                raise RowsError(
                    f"text vector of class {class_id!r} is of shape {np.shape(text)} or not "
                    f"finite; expected ({state.dim},), finite, of a length above 0"
                )
        return _CosineServed(self, state)


class _CosineServed(GaussianServed):
    def __init__(self, cosine: Cosine, state: State) -> None:
        super().__init__(Gaussian(cosine.shrinkage), state)
        self._texts, self._text_rows = len(cosine.texts), cosine.text_rows
        self._blended: tuple[Floats, Floats] | None = None  # with texts: means of rows, weights
        if self._texts:
            self._blend(cosine)
        self._sum_of_means: Floats = self.means.sum(axis=0)
        self._inverse_lengths: Floats | None = None

    def _blend(self, cosine: Cosine) -> None:
        """Lets texts into the means, after the covariance has been taken about those of rows."""
        for class_id in sorted(cosine.texts.keys() - self.index.keys(), key=str.encode):
            self._append(class_id)
        named = np.array([self.index[c] for c in cosine.texts])
        texts = np.array([np.asarray(t, np.float64) for t in cosine.texts.values()])
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        taught = self.means[self.n > 0]
        if len(taught):
            here, there = taught.mean(axis=0), texts.mean(axis=0)
            wanted = np.linalg.norm(taught - here, axis=1).mean()
            spread = np.linalg.norm(texts - there, axis=1).mean()
            texts = here + (texts - there) * (wanted / spread if min(spread, wanted) > 0 else 1.0)
        weights = self._n.copy()  # rows behind each mean, those of its text included
        weights[named] += cosine.text_rows
        self._blended = self._means.copy(), weights
        share = (cosine.text_rows / weights[named])[:, None]
        self._means[named] = (1 - share) * self._means[named] + share * texts
        self._quadratic = np.einsum("kd,kd->k", self.inverse @ self._means, self._means)

    def describe(self) -> str:
        texts = f", {self._texts} texts of {self._text_rows:g} rows" if self._texts else ""
        return f"cosine, shrinkage {self.shrinkage:.2f}{texts}"

    @property
    def centre(self) -> Floats:
        """``m``, the mean of the class means, of one class alone zero: float64 (dim,)."""
        if len(self) < 2:
            return np.zeros(self.dim)
        centre: Floats = self._sum_of_means / len(self)
        return centre

    @property
    def _origin(self) -> Floats:
        return self.centre

    def _finish(self, y: Floats, image: Floats, dots: Floats, pick: Picked = slice(None)) -> Floats:
        own = np.einsum("nd,nd->n", image, y)
        found: Floats = dots - (image @ self.centre)[:, None]
        found *= self._shortening[pick]
        found /= np.sqrt(_positive(own))[:, None]
        return np.clip(found, -1.0, 1.0, out=found)

    def _screening(self) -> Screening:
        weights = self._shortening.astype(np.float32)
        return Screening(self.centre, weights, 0.0, float(weights.max()), 0.0)

    @property
    def _shortening(self) -> Floats:
        """One over the length of each centred and whitened mean: float64 (n_classes,)."""
        if self._inverse_lengths is None:
            centre = self.centre
            image = self.inverse @ centre
            squares = self.quadratic
            lengths = squares - 2 * (self.means @ image) + float(image @ centre)
            self._inverse_lengths = _one_over_root(lengths, squares)
        return self._inverse_lengths

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        if self._texts:
            return False  # text vectors move with all means
        before = self._mean_of(class_id)
        followed = super().follow(state, class_id, rows, sign)
        self._sum_of_means += self._mean_of(class_id) - before
        self._inverse_lengths = None
        return followed

    def _mean_of(self, class_id: str) -> Floats:
        k = self.index.get(class_id)
        return np.zeros(self.dim) if k is None else self._means[k].copy()

    def _origins(self, k: int) -> list[Floats]:
        of_rows = self._means if self._blended is None else self._blended[0]
        return [of_rows[k], self.centre, self._means[k]]

    def _scores_without(self, k: int, left: Without, query: Floats) -> Floats:
        x = np.pad(query, ((0, 0), (0, left.size - left.m)))
        centre_at, blended_at = left.m + 1, left.m + 2  # behind the rows and their mean
        weight = self._n[k] if self._blended is None else self._blended[1][k]
        mean = np.zeros(left.size)  # (weight * blended mean - rows) / (weight - m)
        mean[: left.m] = -1.0
        mean[blended_at] = weight
        mean /= weight - left.m
        centre = np.zeros(left.size)
        if len(self) > 1:
            centre = mean / len(self)
            centre[centre_at] += 1.0
            centre[blended_at] -= 1.0 / len(self)
        y = x - centre
        against, square = left.with_means(centre), left.dot(centre, centre)
        dots = left.with_means(y) - left.dot(y, centre)[:, None]
        squares = left.squares(self.quadratic)
        lengths = squares - 2 * against + square
        own_class = mean - centre
        dots[:, k] = left.dot(y, own_class)
        lengths[k] = squares[k] = left.dot(own_class, own_class)
        own = np.array([left.dot(one, one) for one in y])
        found: Floats = dots * _one_over_root(lengths, squares) / np.sqrt(_positive(own))[:, None]
        return np.clip(found, -1.0, 1.0)


def _one_over_root(lengths: Floats, squares: Floats) -> Floats:
    """Of squared lengths, 0 where they are rounding alone; `squares`: before centring."""
    there = lengths > 1e-9 * squares
    found: Floats = there / np.sqrt(np.where(there, lengths, 1.0))
    return found


def _positive(squares: Floats) -> Floats:
    return np.maximum(squares, 1e-300)
