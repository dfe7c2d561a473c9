"""Views: the photo itself first, then what of it is worth teaching besides."""

from __future__ import annotations

import numpy as np
import pytest

from accrue.bundle import Preprocess
from accrue.errors import ImageError
from accrue.vision.preprocess import Preprocessor
from accrue.vision.views import UNMIRRORED, VIEWS, make_views, most_views, short_side

PREPROCESS = Preprocess(40, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PREPROCESSOR = Preprocessor(PREPROCESS)
rng = np.random.default_rng(0)
PHOTO = np.kron(rng.integers(0, 255, (12, 20, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def test_the_first_view_is_what_the_preprocessing_makes() -> None:
    """The identity of the embedding space rests on it."""
    made = make_views(PREPROCESSOR, PHOTO, len(VIEWS))
    assert made.shape == (len(VIEWS), 32, 32, 3)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[0], PREPROCESSOR(PHOTO))


def test_fewer_views_are_the_first_of_more() -> None:
    """What was taught with few views is comparable with what is taught with many."""
    many = make_views(PREPROCESSOR, PHOTO, 9)
    np.testing.assert_array_equal(make_views(PREPROCESSOR, PHOTO, 3), many[:3])


def test_views_of_a_large_frame_are_the_same_however_many_are_made() -> None:
    """What they share is read once, on one grid."""
    frame = np.asarray(rng.integers(0, 255, (540, 961, 3)), np.uint8)
    many = make_views(PREPROCESSOR, frame, len(VIEWS)).astype(int)
    assert np.abs(many[0] - PREPROCESSOR(frame)).max() <= 1
    for count in (2, 5):
        assert np.abs(make_views(PREPROCESSOR, frame, count) - many[:count]).max() <= 1


def test_all_views_differ() -> None:
    """None is made twice: each costs a run of the encoder."""
    made = make_views(PREPROCESSOR, PHOTO, len(VIEWS))
    assert len({view.tobytes() for view in made}) == len(VIEWS)


@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (33, 90)], ids=str)
def test_a_mirrored_photo_has_mirrored_views(shape: tuple[int, int]) -> None:
    """Centre views of a mirrored photo are those of the photo, mirrored."""
    photo = np.asarray(np.kron(rng.integers(0, 255, (*shape, 3)), np.ones((1, 1, 1))), np.uint8)
    for view, ours, theirs in zip(
        VIEWS,
        make_views(PREPROCESSOR, photo, len(VIEWS)),
        make_views(PREPROCESSOR, photo[:, ::-1].copy(), len(VIEWS)),
        strict=True,
    ):
        if view.side > 0 and (view.x, view.y) == (0, 0):
            assert np.abs(ours.astype(int) - theirs[:, ::-1]).max() <= 1


def test_without_mirroring_no_view_is_mirrored() -> None:
    """A left bracket is never taught as a right one."""
    assert most_views(mirror=False) == len(UNMIRRORED) == 8
    assert not any(view.mirrored for view in UNMIRRORED)
    left = np.zeros((64, 64, 3), np.uint8)
    left[:, :20] = 255
    made = make_views(PREPROCESSOR, left, 16, mirror=False)
    assert len(made) == 8
    for view in made:  # the bright part stays on the left
        assert view[:, :16].mean() >= view[:, 16:].mean()


def test_photos_are_decoded_large_enough_for_the_nearest_view() -> None:
    """No view is enlarged from a photo that was decoded too small."""
    assert short_side(PREPROCESS, 1) == 40
    assert short_side(PREPROCESS, 2) == 46  # 32 / 0.7
    assert short_side(PREPROCESS, 16) == 59  # 32 / 0.55


def test_what_is_no_image_is_refused() -> None:
    """As by the preprocessing itself."""
    with pytest.raises(ImageError):
        make_views(PREPROCESSOR, np.zeros((8, 8), np.uint8), 4)
