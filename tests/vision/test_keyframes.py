"""Keyframes: what differs and is sharp stays, what repeats or shows nothing is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from accrue.vision.keyframes import (
    BLURRED,
    BRIGHT,
    DARK,
    DUPLICATE,
    Keyframes,
    strangers,
)

Photo = Callable[..., np.ndarray]
PX = (320, 240)


def grey_means(image: np.ndarray) -> np.ndarray:
    """An embedding for tests: the picture in 8 x 6 parts, without its mean."""
    small = np.asarray(Image.fromarray(image).resize((8, 6), Image.Resampling.BOX), np.float32)
    row = (small - small.mean()).ravel()
    return (row / np.linalg.norm(row)).astype(np.float32)


@pytest.fixture
def keyframes() -> Keyframes:
    return Keyframes(grey_means, blurred=0.6)


def textured(seed: int) -> np.ndarray:
    """A picture with sharp edges everywhere: uint8 (240, 320, 3)."""
    tiles = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return tiles.repeat(20, axis=0).repeat(20, axis=1)


def softened(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def test_frames_of_different_sights_are_kept_in_order(keyframes: Keyframes, photo: Photo) -> None:
    judged = [keyframes.feed(photo(i, PX)) for i in range(4)]
    assert [j.kept for j in judged] == [True] * 4
    assert keyframes.kept == [0, 1, 2, 3]
    assert keyframes.rows([2]).shape == (1, 144)


def test_a_still_camera_gives_one_keyframe_however_long_it_is_held(
    keyframes: Keyframes, photo: Photo
) -> None:
    still = photo(1, PX).astype(np.int16)
    rng = np.random.default_rng(0)
    for _ in range(30):
        noisy = np.clip(still + rng.integers(-3, 4, still.shape), 0, 255).astype(np.uint8)
        judged = keyframes.feed(noisy)
    assert (judged.reason, judged.of) == (DUPLICATE, 0)
    assert keyframes.kept == [0]
    assert keyframes.stands_for(0) == 30


def test_a_return_to_an_earlier_sight_repeats_that_one(keyframes: Keyframes, photo: Photo) -> None:
    for seed in (1, 2, 1):
        judged = keyframes.feed(photo(seed, PX))
    assert (judged.kept, judged.reason, judged.of) == (False, DUPLICATE, 0)


def test_the_sharpest_of_frames_that_repeat_one_another_is_kept(photo: Photo) -> None:
    keyframes = Keyframes(grey_means)
    sharp = textured(3)
    keyframes.feed(softened(sharp, 2))
    judged = keyframes.feed(sharp)
    assert (judged.kept, judged.gave_way, judged.took_over) == (True, 0, 1)
    assert keyframes.kept == [1]
    assert keyframes.feed(softened(sharp, 2)).of == 1
    assert keyframes.stands_for(1) == 3


def test_an_embedding_that_has_not_changed_makes_a_duplicate_of_other_pixels(photo: Photo) -> None:
    row = np.array([1, 0], np.float32)
    keyframes = Keyframes(lambda _: row)
    keyframes.feed(photo(1, PX))
    judged = keyframes.feed(photo(2, PX))
    assert (judged.reason, judged.of, judged.measure) == (DUPLICATE, 0, 1.0)
    everything = Keyframes(lambda _: row, duplicates=1)
    assert [everything.feed(photo(i, PX)).kept for i in range(3)] == [True] * 3


def test_a_blurred_a_dark_and_a_bright_frame_are_told_apart(
    keyframes: Keyframes, photo: Photo
) -> None:
    image = textured(3)
    judged = [
        keyframes.feed(softened(image, 12)),
        keyframes.feed((image // 20).astype(np.uint8)),
        keyframes.feed(np.full_like(image, 250)),
    ]
    assert [j.reason for j in judged] == [BLURRED, DARK, BRIGHT]
    assert [j.kept for j in judged] == [False] * 3
    assert judged[0].measure > 0.6
    assert len(keyframes) == 0


def test_beyond_its_limit_the_most_different_frames_are_held(photo: Photo) -> None:
    keyframes = Keyframes(grey_means, most=4)
    for seed in range(12):
        keyframes.feed(photo(seed, PX))
    assert len(keyframes) == 4
    rows = keyframes.rows(keyframes.kept)
    limited = (rows @ rows.T)[np.triu_indices(4, 1)].max()
    first = np.stack([grey_means(photo(seed, PX)) for seed in range(4)])
    assert limited < (first @ first.T)[np.triu_indices(4, 1)].max()
    assert sum(keyframes.stands_for(n) for n in keyframes.kept) == 12


def turned(steps: int, degrees: float, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Rows of an object that is turned: each a few degrees from the one before."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    angles = np.deg2rad(degrees) * np.arange(steps)
    rows = np.cos(angles)[:, None] * basis[0] + np.sin(angles)[:, None] * basis[1]
    return rows.astype(np.float32)


def test_an_object_that_is_turned_all_round_is_one_object() -> None:
    rows = turned(10, 20)
    assert rows[0] @ rows[9] < -0.9
    assert strangers(rows, np.ones(10), apart=0.0) == []


def test_what_is_there_at_once_is_a_stranger_wherever_it_stands() -> None:
    rows = turned(8, 15)
    other = turned(2, 15, seed=1)
    mixed = np.concatenate([other[:1], rows, other[1:]])
    assert strangers(mixed, np.ones(10), apart=0.0) == [0, 9]


def test_the_object_is_what_is_shown_longest_not_what_has_most_keyframes() -> None:
    rows = np.concatenate([turned(2, 10), turned(4, 10, seed=1)])
    weights = np.array([30, 20, 1, 1, 1, 1], float)
    assert strangers(rows, weights, apart=0.0) == [2, 3, 4, 5]


def test_of_two_frames_none_is_a_stranger() -> None:
    assert strangers(np.eye(2, dtype=np.float32), np.ones(2), apart=0.0) == []
