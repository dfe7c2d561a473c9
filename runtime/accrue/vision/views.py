"""Views of one image: the image as it is, mirrored, nearer, farther, from its corners.

A shot is taught as several views, which tell the head how embeddings of one and the same thing
vary, and a query may be the mean of the first few. The first view is exactly what the
preprocessing makes of the image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from accrue.bundle import Preprocess
from accrue.vision.preprocess import (
    VIEW_GAPS,
    Box,
    Parts,
    Pixels,
    Preprocessor,
    check_image,
)


class View(NamedTuple):
    """A square of the image.

    Attributes:
        side: as a share of the short side; 0 for that of the preprocessing's own crop.
        x, y: -1 left or top, 0 centre, 1 right or bottom, within the central square.
        mirrored: left and right exchanged.
    """

    side: float
    x: int = 0
    y: int = 0
    mirrored: bool = False


# In the order in which each helps most, as measured on groceries (docs/experiments.md).
VIEWS = (
    View(0),
    View(0.7, mirrored=True),
    View(0, mirrored=True),
    View(0.7),
    View(0.75, -1, -1),
    View(0.75, 1, 1),
    View(0.75, 1, -1, mirrored=True),
    View(0.75, -1, 1, mirrored=True),
    View(1),
    View(1, mirrored=True),
    View(0.55),
    View(0.55, mirrored=True),
    View(0.75, -1, -1, mirrored=True),
    View(0.75, 1, 1, mirrored=True),
    View(0.75, 1, -1),
    View(0.75, -1, 1),
)
UNMIRRORED = tuple(view for view in VIEWS if not view.mirrored)


def most_views(mirror: bool = True) -> int:
    """How many views there are to have, with mirrored ones or without."""
    return len(VIEWS if mirror else UNMIRRORED)


def short_side(preprocess: Preprocess, count: int, *, mirror: bool = True) -> int:
    """px; what `decode` should be given for this many views, so that no view is enlarged."""
    chosen = (VIEWS if mirror else UNMIRRORED)[:count]
    nearest = min((view.side for view in chosen if view.side > 0), default=1.0)
    return max(preprocess.resize, math.ceil(preprocess.crop / nearest))


def make_views(
    preprocessor: Preprocessor, image: Pixels, count: int, *, mirror: bool = True
) -> Pixels:
    """The first `count` views of an image, ready for the encoder: uint8 (count, crop, crop, 3).

    Args:
        image: uint8 (h, w, 3) RGB.
        count: 1 to `most_views`; more are taken as that many.
        mirror: False where left and right tell classes apart, such as a left and a right bracket.

    Raises:
        ImageError: another shape or dtype.
    """
    height, width = check_image(image).shape[:2]
    chosen = (VIEWS if mirror else UNMIRRORED)[: max(count, 1)]
    boxes = {view: _box((width, height), view) for view in chosen if view.side > 0}
    fast = preprocessor.takes_fast(width, height)
    own_box = preprocessor.box(width, height)
    shared = [*boxes.values(), own_box] if fast else [*boxes.values()]
    parts = Parts(image, shared, preprocessor.preprocess.crop) if shared else None
    own = parts.resized(own_box, preprocessor.filter) if parts and fast else preprocessor(image)
    made = []
    for view in chosen:
        pixels = own
        if parts and view in boxes:
            pixels = parts.resized(boxes[view], preprocessor.filter, VIEW_GAPS)
        made.append(pixels[:, ::-1] if view.mirrored else pixels)
    return np.stack(made)


def _box(size: tuple[int, int], view: View) -> Box:
    width, height = size
    side = view.side * min(size)
    room = min(size) - side
    left = (width - side + view.x * room) / 2
    top = (height - side + view.y * room) / 2
    left, top = max(left, 0.0), max(top, 0.0)
    return left, top, min(left + side, float(width)), min(top + side, float(height))
