"""Why an answer: the kept shots that a query is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.learn.statistics import Rows


@dataclass(frozen=True)
class Near:
    """A kept shot near to a query.

    Attributes:
        shot: its position in the sequence that was given.
        cosine: of the query to the shot, -1 to 1.
    """

    shot: int
    cosine: float


def nearest(
    x: NDArray[Any],
    shots: Sequence[tuple[str, Rows]],
    class_id: str,
    most: int = 3,
    views: int | None = None,
) -> list[Near]:
    """The kept shots of a class that a query is nearest to by cosine, nearest first.

    A shot of several views is compared as a query of it would be, by their mean. By cosine
    whatever the head: it is the one measure that means the same to people under every head.

    Args:
        x: float (dim,), the query.
        shots: (class id, int16 (m, dim)) of each kept shot.
        views: how many of a shot's first rows make a query, as their mean; None for all.
    """
    query = np.asarray(x, dtype=np.float64)
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    found = []
    for i, (owner, rows) in enumerate(shots):
        if owner == class_id:
            values = rows[:views].mean(axis=0)
            found.append(Near(i, float(values @ query / max(np.linalg.norm(values), 1e-12))))
    return sorted(found, key=lambda near: (-near.cosine, near.shot))[:most]
