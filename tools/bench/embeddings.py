"""Embeddings to measure on: read from an `.npz`, or made from folders of photos.

Keys of the file:

| key | form |
|---|---|
| `train` | float32 (n, views, dim): one shot a photo, view 0 the photo as it is |
| `train_labels` | int (n,), from 0 |
| `test` | float32 (m, views, dim); its views may be fewer |
| `test_labels` | int (m,) |
| `names` | text (n_classes,), by label |
| `text` | optional float32 (n_classes, dim): the vectors of the class names |
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import find_accrue, progress
from numpy.typing import NDArray

find_accrue()

from accrue.bundle import Bundle  # noqa: E402
from accrue.service.embeddings import KEYS, Embeddings, read_embeddings  # noqa: E402
from accrue.vision.decode import decode  # noqa: E402
from accrue.vision.encode import OnnxEncoder  # noqa: E402
from accrue.vision.sources import labelled_images  # noqa: E402

Labels = NDArray[np.intp]
Rows = NDArray[np.float32]
AT_ONCE = 16  # photos decoded before they are encoded


class Data(Embeddings):
    """What the protocols run on."""

    @property
    def classes(self) -> int:
        return len(self.names)

    def one_view(self) -> Data:
        return replace(self, train=self.train[:, :1], test=self.test[:, :1])

    @property
    def has_views(self) -> bool:
        return self.train.shape[1] > 1 or self.test.shape[1] > 1

    def digest(self) -> str:
        """SHA-256 of all of it: results of other data are not mixed with these."""
        hasher = hashlib.sha256()
        for part in (self.train, self.train_labels, self.test, self.test_labels, self.text):
            if part is not None:
                hasher.update(repr(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return hasher.hexdigest()


def read(path: Path) -> Data:
    """Reads an `.npz`; raises as `accrue.service.embeddings.read_embeddings`."""
    return Data(**vars(read_embeddings(path)))


def write(path: Path, data: Data) -> None:
    parts = {key: getattr(data, key) for key in KEYS if key != "names"}
    if data.text is not None:
        parts["text"] = data.text
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, names=np.array(data.names), **parts)
    progress(f"wrote {path}: {data.train.shape} to teach, {data.test.shape} to test")


def photos(folder: Path) -> list[tuple[Path, str]]:
    """(photo, class) of a folder: by `index.csv` (path, fine_label) where there is one, with the
    names of `classes.csv` beside it, else by the folders below."""
    index = folder / "index.csv"
    if not index.exists():
        return [(path, name) for name, paths in labelled_images(folder).items() for path in paths]
    names = _names(folder / "classes.csv")
    with index.open(encoding="utf-8", newline="") as file:
        return [
            (folder / row["path"], names.get(row["fine_label"], row["fine_label"]))
            for row in csv.DictReader(file)
        ]


def _names(listing: Path) -> dict[str, str]:
    if not listing.exists():
        return {}
    with listing.open(encoding="utf-8", newline="") as file:
        return {row["Class ID (int)"]: row["Class Name (str)"] for row in csv.DictReader(file)}


def views_of(image: NDArray[np.uint8], views: int) -> list[NDArray[np.uint8]]:
    """The first `views` views of a photo, itself first. Here is where more views plug in."""
    if views == 1:
        return [image]
    try:
        from accrue.vision.views import enrolment_views
    except ImportError:
        raise ValueError(f"--views {views}; this Accrue makes one view of a photo") from None
    found = list(enrolment_views(image))
    if len(found) < views:
        raise ValueError(f"--views {views}; this Accrue makes {len(found)} of a photo")
    return found[:views]


def embed(
    bundle: Path, train: Path, test: Path, views: int, test_views: int, threads: int | None
) -> Data:
    """Encodes both folders. A class that only the test folder has is kept, and never taught."""
    encoder = OnnxEncoder(Bundle.open(bundle), threads=threads)
    short_side = Bundle.open(bundle).manifest.preprocess.resize
    parts = {"train": photos(train), "test": photos(test)}
    # named by classes.csv of the training folder wherever the test folder has none of its own
    names = _names(train / "classes.csv")
    parts["test"] = [(path, names.get(name, name)) for path, name in parts["test"]]
    seen = {name for part in parts.values() for _, name in part}
    listed = [*names.values(), *sorted(seen - set(names.values()))]
    place = {name: k for k, name in enumerate(listed)}
    rows: dict[str, Rows] = {}
    labels: dict[str, Labels] = {}
    for part, wanted in (("train", views), ("test", test_views)):
        made = (views_of(decode(path, short_side=short_side), wanted) for path, _ in parts[part])
        rows[part] = _encoded(encoder, made, len(parts[part]), part)
        labels[part] = np.array([place[name] for _, name in parts[part]], np.intp)
    return Data(rows["train"], labels["train"], rows["test"], labels["test"], tuple(listed))


def _encoded(
    encoder: OnnxEncoder, photos: Iterator[list[NDArray[np.uint8]]], total: int, what: str
) -> Rows:
    """float32 (n, views, dim) of the views of each photo."""
    found: list[Rows] = []
    while batch := list(itertools.islice(photos, AT_ONCE)):
        flat = encoder.encode([view for views in batch for view in views])
        found.append(flat.reshape(len(batch), len(batch[0]), -1))
        if len(found) % 20 == 1:
            progress(f"{what}: {AT_ONCE * (len(found) - 1) + len(batch):,} of {total:,} photos")
    return np.concatenate(found)
