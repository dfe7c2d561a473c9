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
from accrue.vision.views import make_views, most_views  # noqa: E402

Labels = NDArray[np.intp]
Rows = NDArray[np.float32]


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


def embed(
    bundle: Path, train: Path, test: Path, views: int, test_views: int, threads: int | None
) -> Data:
    """Encodes both folders. A class that only the test folder has is kept, and never taught."""
    if not 1 <= max(views, test_views) <= most_views():
        raise ValueError(f"{max(views, test_views)} views; expected 1 to {most_views()}")
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
        found = [path for path, _ in parts[part]]
        rows[part] = np.stack(list(_encoded(encoder, found, short_side, wanted, part)))
        labels[part] = np.array([place[name] for _, name in parts[part]], np.intp)
    return Data(rows["train"], labels["train"], rows["test"], labels["test"], tuple(listed))


def _encoded(
    encoder: OnnxEncoder, paths: list[Path], short_side: int, views: int, what: str
) -> Iterator[Rows]:
    """float32 (views, dim) of each photo; the first is the photo as it is."""
    for done, path in enumerate(paths):
        if done % 250 == 0:
            progress(f"{what}: {done:,} of {len(paths):,} photos")
        image = decode(path, short_side=short_side)
        yield encoder.encode_prepared(make_views(encoder.preprocessor, image, views))
