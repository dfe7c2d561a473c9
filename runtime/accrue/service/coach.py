"""The coach: which photos to leave out while teaching, and what each class still needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.quality import ClassQuality, likest
from accrue.learn.statistics import Rows
from accrue.vision.preprocess import Pixels
from accrue.vision.quality import blur

DUPLICATE, BLURRED = "near-duplicate", "blurred"


@dataclass(frozen=True)
class Skipped:
    """Why a photo was not taught: `DUPLICATE` or `BLURRED`.

    Attributes:
        measure: the cosine to the shot that it repeats, or its blur; both 0 to 1.
        of: id of that shot; "" for a blurred one.
    """

    reason: str
    measure: float
    of: str = ""


class Screen:
    """Looks at each photo of one teach command before it becomes a shot.

    Args:
        shots: (shot id, int16 rows) of what the class holds already.
        duplicates: cosine from which a photo repeats a kept one; 1 lets everything through.
        blurred: blur above which a photo is left out; 1 lets everything through.
    """

    def __init__(self, shots: list[tuple[str, Rows]], duplicates: float, blurred: float) -> None:
        self._ids = [shot for shot, _ in shots]
        self._rows = [rows[0] for _, rows in shots]
        self._duplicates = duplicates
        self._blurred = blurred

    def skips(self, image: Pixels | None, rows: Rows) -> Skipped | None:
        """Why to leave this photo out, or None.

        Args:
            image: uint8 (h, w, 3) RGB, where it is at hand.
            rows: int16 (m, dim) of its views; the first is the photo as it is.
        """
        if image is not None and self._blurred < 1 and (found := blur(image)) > self._blurred:
            return Skipped(BLURRED, found)
        if self._duplicates < 1:
            near, cosine = likest(rows[0], self._kept(rows))
            if cosine >= self._duplicates:
                return Skipped(DUPLICATE, cosine, self._ids[near])
        return None

    def keep(self, shot: str, rows: Rows) -> None:
        """Tells of a shot that was taught."""
        self._ids.append(shot)
        self._rows.append(rows[0])

    def _kept(self, rows: Rows) -> NDArray[np.int16]:
        return np.array(self._rows, np.int16).reshape(-1, rows.shape[1])


@dataclass(frozen=True)
class Confusable:
    """Another class, and the share of this one's left-out shots that it wins, 0 to 1."""

    label: str
    share: float


@dataclass(frozen=True)
class Report:
    """One class as `accrue.learn.quality.ClassQuality` tells, classes by name."""

    name: str
    verdict: str
    shots: int
    accuracy: float
    margin: float
    confusable: tuple[Confusable, ...]
    balance: float
    imbalanced: bool


def report(found: ClassQuality, names: dict[str, str]) -> Report:
    return Report(
        name=names.get(found.class_id, found.class_id),
        verdict=found.verdict,
        shots=found.shots,
        accuracy=found.accuracy,
        margin=found.margin,
        confusable=tuple(
            Confusable(names.get(r.class_id, r.class_id), r.share) for r in found.rivals
        ),
        balance=found.balance,
        imbalanced=found.imbalanced,
    )
