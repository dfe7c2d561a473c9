"""How blurred a picture is, as the encoder will see it."""

from __future__ import annotations

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from accrue.vision.preprocess import Pixels

SIDE_PX = 224  # short side at which blur is measured: finer detail never reaches an encoder
WINDOW_PX = 9  # of the averaging that a sharp picture changes under and a blurred one does not
FAINT = 0.5  # grey levels a pixel; less change than this is noise of the sensor, not detail


def blur(image: Pixels) -> float:
    """0 for a picture of sharp edges to 1 for one without any detail left to lose.

    The blur effect of Crete, Dolmiere, Ladret and Nicolas 2007 ("The blur effect: perception and
    estimation with a new no-reference perceptual blur metric", eq. 1-6): the picture is averaged
    along rows and along columns, and what is told is the share of its neighbouring differences
    that this leaves in place, of the worse of the two directions, so that motion blur shows. It
    does not depend on contrast. A picture without any change to speak of (a wall) gives 0: there
    is nothing in it that blur could have taken.

    Args:
        image: uint8 (h, w, 3) RGB.
    """
    grey = _grey(image)
    return max(_kept(grey), _kept(grey.T))


def _grey(image: Pixels) -> NDArray[np.float32]:
    step = max(
        1, int(min(image.shape[:2]) / (1.5 * SIDE_PX))
    )  # rows of a large frame that are read
    picture = PIL.Image.fromarray(image[::step]).convert("L")
    height, width = image.shape[:2]
    share = SIDE_PX / min(width, height)
    if share < 1:  # enlarging a small picture would make it blurred
        size = (max(1, round(width * share)), max(1, round(height * share)))
        picture = picture.resize(size, PIL.Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


def _kept(grey: NDArray[np.float32]) -> float:
    """The share of differences down the columns that averaging down the columns keeps."""
    if len(grey) <= WINDOW_PX:
        return 0.0
    reach = WINDOW_PX // 2
    padded = np.pad(grey, ((reach, reach), (0, 0)), "edge")
    before = np.abs(np.diff(grey, axis=0))
    averaged = np.abs(padded[WINDOW_PX:] - padded[:-WINDOW_PX]) / WINDOW_PX  # difference of means
    lost = np.maximum(0, before - averaged)
    total = float(before.sum())
    return 1 - float(lost.sum()) / total if total > FAINT * before.size else 0.0
