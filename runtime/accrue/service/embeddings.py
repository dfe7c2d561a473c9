"""Embeddings to evaluate on: from an `.npz`, or from folders of photos, each encoded once."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accrue.errors import AccrueError, FormatError, NotFound, UsageError, error_object

if TYPE_CHECKING:
    from accrue.service.box import Box

Progress = Callable[[str, int, int], None]  # what is done, how many, of how many
Labels = NDArray[np.intp]
Views = NDArray[np.float32]  # (n, views, dim)

KEYS = ("train", "train_labels", "test", "test_labels", "names")


@dataclass(frozen=True)
class Embeddings:
    """What a protocol runs on, with the keys of the file.

    Attributes:
        train: float32 (n, views, dim), a shot each. test: float32 (m, views, dim); its views may
            be fewer.
        train_labels, test_labels: int (n,), (m,): positions in `names`.
        text: float32 (n_classes, dim), vectors of the names, where there are any.
    """

    train: Views
    train_labels: Labels
    test: Views
    test_labels: Labels
    names: tuple[str, ...]
    text: NDArray[np.float32] | None = None

    @property
    def dim(self) -> int:
        return int(self.train.shape[2])

    def drawn(self, shots: int | None, seed: int) -> Labels:
        """Positions of `shots` training rows of each class, all where it has no more."""
        labels = self.train_labels
        if shots is None:
            return np.arange(len(labels))
        rng = np.random.default_rng(seed)
        picked = [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]
        return np.sort(np.concatenate(picked))


def read_embeddings(path: Path) -> Embeddings:
    """Reads an `.npz` with the keys of `Embeddings`; rows of (n, dim) are of one view.

    Raises:
        NotFound: no such file. FormatError: no `.npz`, or keys missing or at odds.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}", path=str(path))
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path} cannot be read as .npz: {reason}", path=str(path)) from error
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise FormatError(
            f"{path} has no {', '.join(missing)}; expected the keys {', '.join(KEYS)}",
            path=str(path),
            found=sorted(found),
            expected=KEYS,
        )
    names = tuple(str(name) for name in found["names"])
    parts = [_part(path, found, part, len(names)) for part in ("train", "test")]
    (train, train_labels), (test, test_labels) = parts
    text = found.get("text")
    if train.shape[2] != test.shape[2] or (
        text is not None and text.shape != (len(names), train.shape[2])
    ):
        shapes = f"train {train.shape}, test {test.shape}"
        shapes += "" if text is None else f", text {text.shape} for {len(names)} names"
        raise FormatError(f"{path}: {shapes}; expected one dimension for all", path=str(path))
    text = None if text is None else np.asarray(text, np.float32)
    return Embeddings(train, train_labels, test, test_labels, names, text)


def _part(path: Path, found: dict[str, Any], part: str, classes: int) -> tuple[Views, Labels]:
    rows, labels = found[part], found[f"{part}_labels"]
    rows = rows[:, None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or labels.shape != rows.shape[:1] or rows.size == 0:
        raise FormatError(
            f"{path}: {part} {rows.shape} with {part}_labels {labels.shape}; expected (n, views, "
            "dim) and (n,), n from 1 on",
            path=str(path),
        )
    numbers = np.issubdtype(rows.dtype, np.floating) and np.issubdtype(labels.dtype, np.integer)
    if not numbers or not np.isfinite(rows).all():
        raise FormatError(
            f"{path}: {part} is {rows.dtype} and {part}_labels {labels.dtype}; expected finite "
            "numbers and whole numbers",
            path=str(path),
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise FormatError(
            f"{path}: {part}_labels from {labels.min()} to {labels.max()} with {classes} names",
            path=str(path),
        )
    return np.asarray(rows, np.float32), labels.astype(np.intp)


def embed_folders(
    box: Box, train: dict[str, list[Path]], test: dict[str, list[Path]], progress: Progress
) -> tuple[Embeddings, list[dict[str, Any]]]:
    """Encodes photos by class, and the photos that could not be read, with the reason.

    Raises:
        UsageError: not one photo to teach, or none to test, could be read.
    """
    names = sorted({*train, *test})
    refused: list[dict[str, Any]] = []
    rows: dict[str, Views] = {}
    labels: dict[str, Labels] = {}
    for part, photos in (("teaching", train), ("testing", test)):
        views = box.settings.views if part == "teaching" else box.settings.predict_views
        kept = list(embedded(box, photos, views, part, refused, progress))
        if not kept:
            raise UsageError(f"not one photo for {part} could be read; found {len(refused)} broken")
        rows[part] = np.stack([rows_of for _, rows_of in kept])
        labels[part] = np.array([names.index(name) for name, _ in kept], np.intp)
    return (
        Embeddings(
            rows["teaching"], labels["teaching"], rows["testing"], labels["testing"], tuple(names)
        ),
        refused,
    )


def embedded(
    box: Box,
    photos: dict[str, list[Path]],
    views: int,
    what: str,
    refused: list[dict[str, Any]],
    progress: Progress,
) -> Iterable[tuple[str, Any]]:
    """(class name, float32 (views, dim)) of each photo; what cannot be read goes to `refused`."""
    total = sum(len(paths) for paths in photos.values())
    names = [name for name, paths in photos.items() for _ in paths]
    images = ((str(path), path) for paths in photos.values() for path in paths)
    rows = zip(names, box.embed(images, views), strict=True)
    for done, (name, (source, found)) in enumerate(rows, 1):
        progress(what, done, total)
        if isinstance(found, AccrueError):
            refused.append({"path": source, "error": error_object(found)})
            continue
        yield name, found
