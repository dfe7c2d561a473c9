"""Blur: told apart from sharpness, whatever the contrast, size and direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from accrue.service.settings import Settings
from accrue.vision.decode import decode
from accrue.vision.quality import blur

LIMIT = Settings().blur
SAMPLES = Path(__file__).resolve().parents[2] / "tools" / "samples" / "test"


def smeared(image: np.ndarray, px: int, axis: int) -> np.ndarray:
    moved = [np.roll(image, i, axis).astype(np.float64) for i in range(px)]
    return np.mean(moved, axis=0).astype(np.uint8)


def defocused(image: np.ndarray, px: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(px)))


def test_sharp_photographs_pass_and_blurred_ones_do_not(real_photos) -> None:
    """Of real photographs none is refused as it is, and nine in ten are once they are blurred or
    smeared along either axis."""
    images = [decode(path) for path in real_photos]
    assert max(blur(image) for image in images) < LIMIT
    for worsen in (
        lambda image: defocused(image, 3),
        lambda image: smeared(image, 20, 0),
        lambda image: smeared(image, 20, 1),
    ):
        found = [blur(worsen(image)) > LIMIT for image in images]
        assert np.mean(found) >= 0.9


def test_blur_grows_with_defocus() -> None:
    """More defocus, more blur."""
    image = decode(SAMPLES / "spur-gear" / "01.jpg")
    found = [blur(defocused(image, px)) for px in (0, 1, 2, 4)]
    assert found == sorted(found)
    assert found[-1] > LIMIT > found[0]


def test_contrast_does_not_count_as_sharpness(photo: Callable[..., np.ndarray]) -> None:
    """Half the contrast, the same blur."""
    image = photo(5)
    faint = (image // 2 + 64).astype(np.uint8)
    assert blur(faint) == pytest.approx(blur(image), abs=0.02)


def test_a_bare_wall_and_a_tiny_picture_are_not_called_blurred() -> None:
    """Where there is nothing that blur could have taken, none is told."""
    assert blur(np.full((240, 320, 3), 127, np.uint8)) == 0
    assert blur(np.zeros((2, 2, 3), np.uint8)) == 0
