"""Preprocessing is exactly what the manifest says, and the fast path is hardly different."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accrue.bundle import Bundle, Preprocess
from accrue.errors import ImageError
from accrue.vision import OnnxEncoder, Preprocessor, decode
from accrue.vision.encode import MIN_COSINE

HALF = (0.5, 0.5, 0.5)
COMMON = Preprocess(256, 224, "bicubic", HALF, HALF)


def plain(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Resize and centre crop written out with Pillow alone, rounded as torchvision's
    Resize(int) and CenterCrop: the long side is int(short * long / short of the image)."""
    height, width = image.shape[:2]
    short, crop = preprocess.resize, preprocess.crop
    if width < height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    resample = getattr(Image.Resampling, preprocess.interpolation.upper())
    resized = Image.fromarray(image).resize(size, resample)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


SIZES = [(640, 480), (480, 640), (300, 300), (257, 256), (224, 224), (101, 399), (60, 90), (3, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "preprocess",
    [
        COMMON,
        Preprocess(224, 224, "bilinear", HALF, HALF),
        Preprocess(36, 32, "bilinear", HALF, HALF),
        Preprocess(129, 128, "bicubic", HALF, HALF),
    ],
    ids=["256-224", "224-224", "36-32", "129-128"],
)
def test_the_exact_path_is_pillows_resize_and_centre_crop(
    photo: Callable[..., np.ndarray], size: tuple[int, int], preprocess: Preprocess
) -> None:
    """Every pixel equals `plain`, which shares no code with it."""
    image = photo(1, size)
    found = Preprocessor(preprocess).exact(image)
    assert found.shape == (preprocess.crop, preprocess.crop, 3)
    np.testing.assert_array_equal(found, plain(image, preprocess))


def test_small_frames_take_the_exact_path(photo: Callable[..., np.ndarray]) -> None:
    """Up to three times the resized short side, a call is bit for bit the exact path."""
    preprocessor = Preprocessor(COMMON)
    for size in ((640, 480), (1_020, 767)):
        image = photo(2, size)
        np.testing.assert_array_equal(preprocessor(image), plain(image, COMMON))


def test_large_frames_take_the_fast_path(photo: Callable[..., np.ndarray]) -> None:
    """From there on a call is the fast path; with rows halved first it differs by little."""
    preprocessor = Preprocessor(COMMON)
    image = photo(3, (1_920, 1_080))
    found = preprocessor(image)
    np.testing.assert_array_equal(found, preprocessor.fast(image))
    difference = np.abs(found.astype(int) - preprocessor.exact(image))
    assert difference.max() <= 6
    assert difference.mean() < 0.5


@pytest.mark.parametrize("size", [(640, 480), (480, 700), (1_921, 1_083), (799, 3_000), (227, 256)])
def test_the_fast_path_samples_the_same_grid(
    photo: Callable[..., np.ndarray], size: tuple[int, int]
) -> None:
    """At any size: no shift of even half a pixel, which would cost far more than this."""
    preprocessor = Preprocessor(COMMON)
    image = photo(4, size)
    difference = np.abs(preprocessor.fast(image).astype(int) - preprocessor.exact(image))
    assert np.percentile(difference, 99) <= 2
    assert difference.mean() < 0.5


def test_a_very_long_image_is_not_resized_whole() -> None:
    """16,384 x 2 px would become two million columns, 1.6 GB."""
    image = np.zeros((2, 16_384, 3), np.uint8)
    image[:, 8_192:] = 255
    found = Preprocessor(COMMON)(image)
    assert found.shape == (224, 224, 3)
    assert found[:, 0].max() == 0
    assert found[:, -1].min() == 255


def test_inputs_are_not_changed(photo: Callable[..., np.ndarray]) -> None:
    """Neither path writes into the frame, and strided views are welcome."""
    image = photo(5, (1_600, 1_200)).copy()
    before = image.copy()
    preprocessor = Preprocessor(COMMON)
    mirrored = image[:, ::-1]
    np.testing.assert_array_equal(preprocessor(mirrored), preprocessor(mirrored.copy()))
    preprocessor.exact(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3)), r"float64 \(4, 4, 3\)"),
        (np.zeros((1, 4, 3), np.uint8), r"uint8 \(1, 4, 3\)"),
        ([[1]], "list"),
    ],
)
def test_other_arrays_are_refused(image: object, found: str) -> None:
    """With what was found and what is expected."""
    with pytest.raises(ImageError, match=rf"image is {found}; expected uint8 \(height, width, 3\)"):
        Preprocessor(COMMON)(image)  # type: ignore[arg-type]


def mosaic(paths: list[Path], first: int) -> np.ndarray:
    """A 1080p frame of real photographs at full resolution: detail down to the single pixel,
    sharper than a lens and sensor of that size make it, so a hard case for resizing."""
    frame = Image.new("RGB", (1_920, 1_080))
    k = first
    for y in range(0, 1_080, 200):
        for x in range(0, 1_920, 200):
            frame.paste(
                Image.fromarray(decode(paths[k % len(paths)])).crop((0, 0, 200, 200)), (x, y)
            )
            k += 1
    return np.asarray(frame)


@pytest.mark.parametrize("resize", [256, 146])
def test_large_frames_keep_their_embedding_on_real_photographs(
    resize: int, mobilenet_onnx: Path, real_photos: list[Path]
) -> None:
    """Cosine >= 0.999 to the exact path, for 1080p arrays and for 1080p JPEGs, by MobileNetV2."""
    import onnxruntime

    preprocessor = Preprocessor(Preprocess(resize, 224 * resize // 256, "bicubic", HALF, HALF))
    exact, array, jpeg = [], [], []
    for first in (0, 7, 19):
        frame = mosaic(real_photos, first)
        content = io.BytesIO()
        Image.fromarray(frame).save(content, "JPEG", quality=92)
        whole = decode(content.getvalue())
        exact.append(preprocessor.exact(whole))
        array.append(preprocessor(whole))
        jpeg.append(preprocessor(decode(content.getvalue(), short_side=preprocessor.short_side)))
    session = onnxruntime.InferenceSession(mobilenet_onnx, providers=["CPUExecutionProvider"])

    def embed(inputs: list[np.ndarray]) -> np.ndarray:
        scaled = [np.asarray(Image.fromarray(i).resize((224, 224))) for i in inputs]
        planes = np.stack(scaled).astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
        return np.asarray(session.run(None, {"image": planes})[0])

    reference = embed(exact)
    assert cosines(embed(array), reference).min() >= MIN_COSINE
    assert cosines(embed(jpeg), reference).min() >= MIN_COSINE


def test_large_frames_keep_their_embedding_on_drawn_photographs(
    tiny_bundle: Path, photo: Callable[..., np.ndarray]
) -> None:
    """The same with the tiny encoder, so that it is tested without the shared data."""
    encoder = OnnxEncoder(Bundle.open(tiny_bundle), threads=1)
    preprocessor = encoder.preprocessor
    frames = [photo(seed, (1_920, 1_080)) for seed in (1, 2, 3)]
    jpegs = []
    for frame in frames:
        content = io.BytesIO()
        Image.fromarray(frame).save(content, "JPEG", quality=92)
        jpegs.append(content.getvalue())
    exact = encoder.encode_prepared(np.stack([preprocessor.exact(decode(j)) for j in jpegs]))
    fast = encoder.encode([decode(j, short_side=preprocessor.short_side) for j in jpegs])
    assert cosines(fast, exact).min() >= MIN_COSINE
