"""Which frames an encoder need not look at: what has not changed, and what is blurred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accrue.vision.preprocess import Pixels
from accrue.vision.quality import blur

NEW, UNCHANGED, BLURRED = "new", "unchanged", "blurred"
CELLS = (12, 16)  # rows and columns that a frame is compared in
CHANGE = 6.0  # grey levels that the mean of one cell must move by; a still sensor stays under 2
_SAMPLES = 12  # pixels of a cell along each side that are looked at


class Gate:
    """Compares each frame with the last one that it let through.

    Cost: about 0.3 ms for a 1080p frame (it looks at 27,648 pixels), and what `blur` takes for a
    frame that has changed.

    Args:
        change: grey levels, 0 to 255, by which the mean of some cell must differ; 0 lets all
            through.
        blurred: `blur` above which a changed frame is left out; 1 lets all through.
    """

    def __init__(self, change: float = CHANGE, blurred: float = 1.0) -> None:
        self._change, self._blurred = change, blurred
        self._last: NDArray[np.float32] | None = None

    def judge(self, image: Pixels) -> str:
        """`NEW`, `UNCHANGED` or `BLURRED`; only a new frame is what the next is compared with.

        Args:
            image: uint8 (h, w, 3) RGB.
        """
        cells = cell_means(image)
        if self._last is not None and float(np.abs(cells - self._last).max()) < self._change:
            return UNCHANGED
        if self._blurred < 1 and blur(image) > self._blurred:
            return BLURRED
        self._last = cells
        return NEW


def cell_means(image: Pixels) -> NDArray[np.float32]:
    """Mean grey level of each cell, from evenly spread pixels: float32 `CELLS`."""
    rows, columns = (
        np.linspace(0, side - 1, cells * _SAMPLES).astype(np.intp)
        for side, cells in zip(image.shape[:2], CELLS, strict=True)
    )
    few = image[rows[:, None], columns]  # (rows, columns, 3)
    grey = few[..., 0].astype(np.float32) + few[..., 1] + few[..., 2]
    grey /= 3
    cells: NDArray[np.float32] = grey.reshape(CELLS[0], _SAMPLES, CELLS[1], _SAMPLES).mean((1, 3))
    return cells
