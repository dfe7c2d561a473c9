"""From a decoded image to the network's input: resize the short side, then crop the centre."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from accrue.bundle import Preprocess
from accrue.errors import ImageError

Pixels = NDArray[np.uint8]

FAST_FROM = 3  # times the resized short side; below it the exact path costs little
MAX_ASPECT = 4  # a longer image is not resized whole: 16,384 x 2 px would become 2,097,152 x 256
# Resizing in two steps stays indistinguishable as long as the second one shrinks by this much.
REDUCING_GAP = 3.0
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
        short, long = sorted((height, width))
        if short >= FAST_FROM * self.preprocess.resize or long > MAX_ASPECT * short:
            return self.fast(image)
        return self.exact(image)

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
        crop = self.preprocess.crop
        (new_width, new_height), (left, top) = self._geometry(width, height)
        across, down = width / new_width, height / new_height  # source px per resized px
        # Filters reach 2 resized px beyond the crop, and the reduction up to one more.
        x0, x1 = _span(left * across, (left + crop) * across, 4 * across, width)
        y0, y1 = _span(top * down, (top + crop) * down, 4 * down, height)
        box = (
            left * across - x0,
            top * down - y0,
            min((left + crop) * across - x0, x1 - x0),
            min((top + crop) * down - y0, y1 - y0),
        )
        region = Image.fromarray(image[y0:y1, x0:x1])
        return np.asarray(region.resize((crop, crop), self.filter, box, REDUCING_GAP))

    def _geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) after resizing, (left, top) of the crop), rounded as torchvision."""
        short, crop = self.preprocess.resize, self.preprocess.crop
        if width <= height:
            size = short, int(short * height / width)
        else:
            size = int(short * width / height), short
        return size, (round((size[0] - crop) / 2), round((size[1] - crop) / 2))


def _span(begin: float, end: float, margin: float, limit: int) -> tuple[int, int]:
    return max(0, int(begin - margin)), min(limit, int(end + margin) + 1)


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
