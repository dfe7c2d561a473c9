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
        cosine: of the query to the shot's nearest row, -1 to 1.
    """

    shot: int
    cosine: float


def nearest(
    x: NDArray[Any], shots: Sequence[tuple[str, Rows]], class_id: str, most: int = 3
) -> list[Near]:
    """The kept shots of a class that a query is nearest to by cosine, nearest first.

    Of a shot of several views the nearest view counts. By cosine whatever the head: it is the one
    measure that means the same to people under every head.

    Args:
        x: float (dim,), the query.
        shots: (class id, int16 (m, dim)) of each kept shot.
    """
    query = np.asarray(x, dtype=np.float64)
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    found = []
    for i, (owner, rows) in enumerate(shots):
        if owner == class_id:
            values = rows.astype(np.float64)
            found.append(Near(i, float((values @ query / np.linalg.norm(values, axis=1)).max())))
    return sorted(found, key=lambda near: (-near.cosine, near.shot))[:most]
