"""From a decoded image to the network's input: resize the short side, then crop the centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from accrue.bundle import Preprocess
from accrue.errors import ImageError

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in px

FAST_FROM = 3  # times the resized short side; below it the exact path costs little
MAX_ASPECT = 4  # a longer image is not resized whole: 16,384 x 2 px would become 2,097,152 x 256
# Resizing in two steps stays indistinguishable as long as the second one shrinks by this much.
REDUCING_GAP = 3.0
# Down the columns it may shrink by less: of the two passes that one costs most. By how much less is
# held by the golden images and by tests/vision/test_preprocess.py; a view that is no reference may
# come a little further from what a single step would give.
ROWS_GAP = 2.4
GAPS = (REDUCING_GAP, ROWS_GAP)  # along rows, down columns
VIEW_GAPS = (1.9, 1.9)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Preprocessor:
    """Exactly what the manifest says, by Pillow's antialiased filters.

    A frame whose short side is at least `FAST_FROM` times the resized one takes the fast path:
    only the pixels under the crop are read, and very large frames are first reduced by a whole
    factor. On 1080p frames it takes half the time or less, and embeddings keep a cosine of at
    least 0.999 to the exact path (tests/vision/test_preprocess.py holds that).
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.filter = _FILTERS[preprocess.interpolation]

    @property
    def short_side(self) -> int:
        """px; what `decode` should be given as ``short_side``."""
        return self.preprocess.resize

    def __call__(self, image: Pixels) -> Pixels:
        """uint8 (h, w, 3) RGB to uint8 (crop, crop, 3).

        Raises:
            ImageError: another shape or dtype.
        """
        height, width = check_image(image).shape[:2]
        return self.fast(image) if self.takes_fast(width, height) else self.exact(image)

    def exact(self, image: Pixels) -> Pixels:
        """The reference: the whole image resized, then cropped."""
        height, width = check_image(image).shape[:2]
        crop = self.preprocess.crop
        resized, (left, top) = self._geometry(width, height)
        whole = Image.fromarray(image).resize(resized, self.filter)
        return np.asarray(whole.crop((left, top, left + crop, top + crop)))

    def fast(self, image: Pixels) -> Pixels:
        """The same grid of samples, taken from the region under the crop alone."""
        height, width = check_image(image).shape[:2]
        box = self.box(width, height)
        return Parts(image, [box], self.preprocess.crop).resized(box, self.filter)

    def takes_fast(self, width: int, height: int) -> bool:
        """Whether a frame of this size takes the fast path."""
        short, long = sorted((height, width))
        return short >= FAST_FROM * self.preprocess.resize or long > MAX_ASPECT * short

    def box(self, width: int, height: int) -> Box:
        """What lies under the crop, in px of the image: left, top, right, bottom."""
        crop = self.preprocess.crop
        (new_width, new_height), (left, top) = self._geometry(width, height)
        across, down = width / new_width, height / new_height  # source px per resized px
        return (
            left * across,
            top * down,
            min((left + crop) * across, width),
            min((top + crop) * down, height),
        )

    def _geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) after resizing, (left, top) of the crop), rounded as torchvision."""
        short, crop = self.preprocess.resize, self.preprocess.crop
        if width <= height:
            size = short, int(short * height / width)
        else:
            size = int(short * width / height), short
        return size, (round((size[0] - crop) / 2), round((size[1] - crop) / 2))


class Parts:
    """Parts of one image, each resized to a square; what they share is read and reduced once.

    Where a part is large it is first reduced by whole factors, and then resized.

    Args:
        image: uint8 (h, w, 3) RGB. boxes: left, top, right, bottom of the parts that will be asked
            for, in px, in fractions too. side: px of the resized ones.
    """

    def __init__(self, image: Pixels, boxes: Sequence[Box], side: int) -> None:
        height, width = image.shape[:2]
        self._side = side
        # Filters reach 2 resized px beyond a part, and the reduction up to one more.
        margin = 4 * max(max(b[2] - b[0], b[3] - b[1]) / side for b in boxes)
        x0, y0 = (max(0, int(min(b[axis] for b in boxes) - margin)) for axis in (0, 1))
        x1, y1 = (int(max(b[axis] for b in boxes) + margin) + 1 for axis in (2, 3))
        region = Image.fromarray(image[y0 : min(y1, height), x0 : min(x1, width)])
        self._reduced = {(1, 1): (region, x0, y0)}  # by factors: an image, and where it begins

    def resized(
        self,
        box: Box,
        resampling: Image.Resampling,
        gaps: tuple[float, float] = GAPS,
    ) -> Pixels:
        """One of the parts: uint8 (side, side, 3).

        Args:
            gaps: times that the second step shrinks by at least, along rows and down columns.
        """
        left, top, right, bottom = box
        across = max(1, int((right - left) / self._side / gaps[0]))
        down = max(1, int((bottom - top) / self._side / gaps[1]))
        found, x, y = self._smaller(across, down)
        inner = (
            (left - x) / across,
            (top - y) / down,
            min((right - x) / across, found.width),
            min((bottom - y) / down, found.height),
        )
        return np.asarray(found.resize((self._side,) * 2, resampling, inner))

    def _smaller(self, across: int, down: int) -> tuple[Image.Image, int, int]:
        """All that was read, reduced; and where in the image it begins.

        It begins at a multiple of the factors: the same grid whatever other parts are asked for.
        """
        if (across, down) not in self._reduced:
            if across > 1 and down > 1:
                image, x, y = self._smaller(1, down)
                image = image.reduce((across, 1), (-x % across, 0, *image.size))
                self._reduced[across, down] = image, x + -x % across, y
            else:
                image, x, y = self._reduced[1, 1]
                image = image.reduce((across, down), (-x % across, -y % down, *image.size))
                self._reduced[across, down] = image, x + -x % across, y + -y % down
        return self._reduced[across, down]


def check_image(image: NDArray[Any], name: str = "image") -> Pixels:
    """The same array, if it is uint8 (h, w, 3) of at least 2 x 2 px.

    Raises:
        ImageError: it is not.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or min(image.shape[:2]) < 2
    ):
        found = (
            f"{image.dtype} {image.shape}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise ImageError(
            f"{name} is {found}; expected uint8 (height, width, 3) of at least 2 x 2 px",
            found=found,
            expected="uint8 (height, width, 3)",
        )
    return image
