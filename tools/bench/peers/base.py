"""What every peer shares: the interface, class means, and how several views are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


def samples(rows: NDArray[Any], labels: Labels) -> tuple[Floats, Labels]:
    """(n, views, dim) or (n, dim) to float64 (n * views, dim): each view is a row of its own."""
    if rows.ndim == 2:
        rows = rows[:, None]
    n, views, dim = rows.shape
    return rows.reshape(n * views, dim).astype(np.float64), np.repeat(labels, views)


def queries(x: NDArray[Any]) -> Floats:
    """(m, dim), or (m, views, dim) to the mean of the views at unit length: float64 (m, dim)."""
    x = np.asarray(x, np.float64)
    return unit(x.mean(axis=1)) if x.ndim == 3 else x


def unit(x: Floats) -> Floats:
    """Rows at unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Floats = x / np.where(lengths > 0, lengths, 1)
    return scaled


def one_hot(columns: Labels, classes: int) -> Floats:
    return np.eye(classes)[columns]


class Peer:
    """A classifier on frozen embeddings.

    `fit` may be called once; `partial_fit` once for each batch or session, in their order. The
    columns of `scores` are the classes in `classes`, in the order in which they came.

    Attributes:
        name: as in the tables. paper: authors, venue, year. joint: keeps all rows and solves
            anew, so it is an upper reference and no incremental method. seeded: whether the seed
            changes the result.
        text: float (n_classes, dim) of all labels there are, for the peers that use text.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    joint: ClassVar[bool] = False
    seeded: ClassVar[bool] = False

    def __init__(self, seed: int = 0, text: Floats | None = None) -> None:
        self.seed = seed
        self.text = text
        self.classes: list[int] = []

    def fit(self, rows: NDArray[Any], labels: Labels) -> Peer:
        """Learns float (n, views, dim) or (n, dim) with int labels (n,)."""
        self.partial_fit(rows, labels)
        return self

    def partial_fit(self, rows: NDArray[Any], labels: Labels) -> None:
        """The same, beside what was learned before."""
        x, labels = samples(rows, labels)
        known = set(self.classes)
        self.classes += [int(c) for c in np.unique(labels) if int(c) not in known]
        place = {c: k for k, c in enumerate(self.classes)}
        self._learn(x, np.array([place[int(c)] for c in labels], np.intp))

    def scores(self, x: NDArray[Any]) -> Floats:
        """float64 (m, n_classes) of float (m, dim) or (m, views, dim); the largest wins."""
        return self._scores(queries(x))

    def predict(self, x: NDArray[Any]) -> Labels:
        """Labels (m,)."""
        return np.array(self.classes, np.intp)[self.scores(x).argmax(axis=1)]

    def name_classes(self, labels: list[int]) -> None:
        """Adds classes that have no rows and exist by their text alone."""
        self.classes += [c for c in labels if c not in set(self.classes)]

    def n_bytes(self) -> int:
        """What the method has to keep to go on learning and to predict."""
        raise NotImplementedError

    def _learn(self, x: Floats, columns: Labels) -> None:
        raise NotImplementedError

    def _scores(self, x: Floats) -> Floats:
        raise NotImplementedError


class Means:
    """Count and sum of each class."""

    def __init__(self) -> None:
        self.n: Floats = np.zeros(0)
        self.sums: Floats = np.zeros((0, 0))

    def add(self, x: Floats, columns: Labels, classes: int) -> None:
        if classes > len(self.n):
            n, sums = np.zeros(classes), np.zeros((classes, x.shape[1]))
            n[: len(self.n)] = self.n
            if len(self.n):
                sums[: len(self.n)] = self.sums
            self.n, self.sums = n, sums
        np.add.at(self.n, columns, 1)
        self.sums += one_hot(columns, classes).T @ x

    @property
    def mu(self) -> Floats:
        """float64 (n_classes, dim)."""
        means: Floats = self.sums / self.n[:, None]
        return means

    @property
    def n_bytes(self) -> int:
        return 4 * (self.n.size + self.sums.size)  # as float32, like the papers' own code


def by_class(columns: Labels) -> Iterator[tuple[int, Labels]]:
    """Each class that occurs, and where."""
    for k in np.unique(columns):
        yield int(k), np.flatnonzero(columns == k)


def halves(columns: Labels, seed: int) -> tuple[Labels, Labels] | None:
    """Two parts of the rows with half of each class in each; None where no class has two rows.

    A class of one row is in the first part alone.
    """
    rng = np.random.default_rng(seed)
    first: list[int] = []
    second: list[int] = []
    for _, at in by_class(columns):
        mixed = rng.permutation(at)
        middle = (len(mixed) + 1) // 2
        first += mixed[:middle].tolist()
        second += mixed[middle:].tolist()
    return (np.array(first, np.intp), np.array(second, np.intp)) if second else None
