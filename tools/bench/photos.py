"""What the thresholds of the coach rest on: cosines of changed photos, and blur.

    python tools/bench/photos.py FOLDER [--bundle BUNDLE] [--every 10]

FOLDER holds CLASS/photo.jpg. Of every tenth photo (of all for the nearest others) are told: the
cosine of its embedding to that of the same photo saved again, shifted, turned and lit otherwise;
the cosine of each photo to the nearest other one of its class; and the blur of photos as they
are, defocused (gaussian, standard deviation in px) and smeared (px), with the short side at most
256 px.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import find_accrue, table
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

find_accrue()
from accrue.learn.statistics import SCALE  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.decode import decode  # noqa: E402
from accrue.vision.quality import blur  # noqa: E402
from accrue.vision.sources import labelled_images  # noqa: E402

from embedded import rows_of  # noqa: E402  # isort: skip

Change = Callable[[Image.Image], Image.Image]
SHOWN = (0.0, 0.05, 0.5, 0.95, 0.99, 0.999, 1.0)


def saved(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def shifted(share: float) -> Change:
    return lambda image: image.crop(
        (round(share * image.width), round(share * image.height), image.width, image.height)
    )


def smeared(px: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        values = np.asarray(image, dtype=np.float32)
        return Image.fromarray(
            np.mean([np.roll(values, i, axis=1) for i in range(px)], axis=0).astype(np.uint8)
        )

    return change


CHANGES: dict[str, Change] = {
    "saved again, quality 85": saved(85),
    "saved again, quality 50": saved(50),
    "5 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "shifted by 1 %": shifted(0.01),
    "shifted by 3 %": shifted(0.03),
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
}
BLURS: dict[str, Change] = {
    "as it is": lambda image: image,
    "defocused, 2 px": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "defocused, 3 px": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "smeared, 9 px": smeared(9),
    "smeared, 15 px": smeared(15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--cache", type=Path, help=".npz of the embeddings, read or written")
    parser.add_argument("--every", type=int, default=10)
    args = parser.parse_args()
    paths = [p for paths in labelled_images(args.folder).values() for p in paths][:: args.every]
    images = [Image.fromarray(decode(path, short_side=256)) for path in paths]
    found: dict[str, list[float]] = {name: [] for name in CHANGES}
    with Box(Settings(bundle=args.bundle)) as box:
        for image in images:
            original = box.encoder.encode([np.asarray(image)])[0]
            for name, change in CHANGES.items():
                changed = box.encoder.encode([np.asarray(change(image))])[0]
                found[name].append(float(original @ changed))
    rows, labels = rows_of(args.folder, args.bundle, args.cache)
    found["nearest other photo of the class"] = nearest(rows / SCALE, labels)
    print(f"{len(paths)} photos of {args.folder}; {len(rows)} for the nearest others")
    print(quantiles("cosine", found))
    print(
        quantiles(
            "blur",
            {name: [blur(np.asarray(change(i))) for i in images] for name, change in BLURS.items()},
        )
    )


def nearest(x: NDArray[np.float64], labels: NDArray[np.str_]) -> list[float]:
    found: list[float] = []
    for name in np.unique(labels):
        mine = x[labels == name]
        cosine = mine @ mine.T - 2 * np.eye(len(mine))
        found += cosine.max(axis=1)[: len(mine) if len(mine) > 1 else 0].tolist()
    return found


def quantiles(what: str, found: dict[str, list[float]]) -> str:
    heads = [what, *(f"{100 * q:g} %" for q in SHOWN)]
    lines = [
        [name, *(f"{v:.3f}" for v in np.quantile(values, SHOWN))] for name, values in found.items()
    ]
    return table(heads, lines)


if __name__ == "__main__":
    main()
