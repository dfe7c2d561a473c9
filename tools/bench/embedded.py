"""Labelled photos as embeddings, for the benchmarks of repair and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import find_accrue, progress
from numpy.typing import NDArray

find_accrue()
from accrue.errors import AccrueError  # noqa: E402
from accrue.learn import quantise  # noqa: E402
from accrue.learn.statistics import Rows  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.sources import labelled_images  # noqa: E402


def rows_of(folder: Path, bundle: Path | None, cache: Path | None) -> tuple[Rows, NDArray[np.str_]]:
    """int16 (n, dim) and the class of each photo of CLASS/photo.jpg, classes and photos sorted.

    Args:
        cache: an .npz to read instead where it is there, and to write where it is not.
    """
    if cache is not None and cache.exists():
        found = np.load(cache)
        return found["rows"], found["labels"]
    photos = [(name, path) for name, paths in labelled_images(folder).items() for path in paths]
    made, labels = [], []
    with Box(Settings(bundle=bundle)) as box:
        images = ((str(path), path) for _, path in photos)
        for (name, _), (source, row) in zip(photos, box.embed(images), strict=True):
            if isinstance(row, AccrueError):
                progress(f"left out: {row.message}")
                continue
            made.append(row[0])
            labels.append(name)
            if len(made) % 500 == 0:
                progress(f"{len(made)} of {len(photos)}: {source}")
    rows = quantise(np.array(made))
    if cache is not None:
        np.savez(cache, rows=rows, labels=np.array(labels))
    return rows, np.array(labels)
