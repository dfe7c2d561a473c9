"""The golden images: drawn by the project, so that a bundle may be given to anyone."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_SEED = 20261121
_QUALITY = 72
_Colour = tuple[int, int, int]


def golden_images() -> list[tuple[str, bytes]]:
    """Eight JPEGs, name and bytes, together at most 150 KB; the same bytes at every call.

    They differ in what can go wrong between JPEG and embedding: size and shape (a wide frame that
    takes the fast path, a portrait, one smaller than the network's input), a turn by EXIF, grey
    pixels, fine detail, flat colour, noise.
    """
    rng = np.random.default_rng(_SEED)
    drawings: list[tuple[str, Image.Image, int]] = [
        ("00-shapes.jpg", _shapes(640, 480, rng), 1),
        ("01-turned.jpg", _gear(480, 360), 6),
        ("02-grey.jpg", _rings(500, 400).convert("L"), 1),
        ("03-portrait.jpg", _blobs(360, 720, rng), 1),
        ("04-wide.jpg", _landscape(1600, 900, rng), 1),
        ("05-text.jpg", _text(512, 512), 1),
        ("06-small.jpg", _noise(96, 80, rng), 1),
        ("07-checks.jpg", _checks(700, 420), 1),
    ]
    return [(name, _jpeg(image, orientation)) for name, image, orientation in drawings]


def _jpeg(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY, exif=exif)
    return content.getvalue()


def _gradient(
    width: int, height: int, top: tuple[int, ...], bottom: tuple[int, ...]
) -> Image.Image:
    t = np.linspace(0, 1, height)[:, None, None]
    rows = (1 - t) * np.array(top) + t * np.array(bottom)  # (height, 1, 3)
    return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))


def _shapes(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    image = _gradient(width, height, (240, 236, 220), (170, 180, 200))
    draw = ImageDraw.Draw(image)
    for i in range(14):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        r = int(rng.integers(20, 90))
        red, green, blue = (int(v) for v in rng.integers(20, 236, 3))
        draw_one: Callable[..., None] = (draw.ellipse, draw.rectangle)[i % 2]
        draw_one((x - r, y - r // 2, x + r, y + r // 2), fill=(red, green, blue), outline="black")
    return image


def _gear(width: int, height: int) -> Image.Image:
    image = _gradient(width, height, (30, 60, 90), (10, 20, 30))
    draw = ImageDraw.Draw(image)
    cx, cy, outer, inner = width * 0.45, height * 0.5, height * 0.42, height * 0.33
    points = []
    for tooth in range(48):
        radius = outer if tooth % 4 < 2 else inner
        angle = tooth * math.tau / 48
        points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle)))
    draw.polygon(points, fill=(214, 150, 40), outline=(90, 50, 10))
    hole = height * 0.12
    draw.ellipse((cx - hole, cy - hole, cx + hole, cy + hole), fill=(15, 30, 45))
    draw.rectangle((width * 0.9, 0, width, height), fill=(200, 30, 30))  # shows which way is up
    return image


def _rings(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width * 0.4, y - height * 0.55)
    return _from(127 + 110 * np.cos(distance / 9)[..., None] * np.ones(3))


def _blobs(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    small = rng.integers(0, 256, (10, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _landscape(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    image = _gradient(width, height, (90, 150, 230), (235, 220, 190))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.62, height * 0.08, width * 0.72, height * 0.26), fill=(255, 240, 170))
    for layer in range(4):
        base = height * (0.45 + 0.13 * layer)
        phase = rng.uniform(0, math.tau, 3)
        ridge = [
            (
                x,
                base
                - sum(
                    height * 0.06 / (k + 1) * math.sin(x / width * math.tau * (k + 1.5) + phase[k])
                    for k in range(3)
                ),
            )
            for x in range(0, width + 1, 8)
        ]
        green = 120 - 25 * layer
        draw.polygon([*ridge, (width, height), (0, height)], fill=(40 + 10 * layer, green, 60))
    return image.filter(ImageFilter.GaussianBlur(1))


def _text(width: int, height: int) -> Image.Image:
    label = Image.new("RGB", (128, 128), (250, 205, 60))
    draw = ImageDraw.Draw(label)
    font = ImageFont.load_default_imagefont()  # the same letters with and without FreeType
    for row, line in enumerate(("ACCRUE", "VALVE 3/4", "PN 40-1177", "CAUTION", "HOT")):
        draw.text((10, 8 + 22 * row), line, fill=(20, 20, 20), font=font)
    draw.rectangle((4, 4, 123, 123), outline=(160, 20, 20), width=2)
    return label.resize((width, height), Image.Resampling.BILINEAR)


def _noise(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    values: NDArray[np.float64] = rng.normal((60, 120, 90), 45, (height, width, 3))
    return _from(values)


def _checks(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    on = ((x // 35 + y // 35) % 2).astype(np.float64)[..., None]  # (h, w, 1)
    shade = (0.5 + 0.5 * x / width)[..., None]
    return _from((on * (235, 60, 160) + (1 - on) * (30, 200, 190)) * shade)


def _from(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
