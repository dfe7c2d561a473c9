"""Writing a file so that a power cut leaves either the old one or the new one, whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from accrue.store.failures import translated


def _create(path: Path) -> BinaryIO:
    return path.open("xb")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileSteps:
    """The steps of an atomic write. Tests put a full disk or a power cut into any of them."""

    create: Callable[[Path], BinaryIO] = _create
    fsync: Callable[[int], None] = os.fsync
    replace: Callable[[Path, Path], object] = os.replace
    fsync_folder: Callable[[Path], None] = _fsync_folder


STEPS = FileSteps()


def write_atomically(path: Path, chunks: Iterable[bytes], *, steps: FileSteps = STEPS) -> int:
    """Writes `chunks` to `path`: temporary file, fsync, rename, fsync of the folder.

    Returns:
        Bytes written.

    Raises:
        StoreFull, StoreReadOnly, StoreError: `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    written = 0
    with translated(path):
        try:
            with steps.create(temporary) as file:
                for chunk in chunks:
                    file.write(chunk)
                    written += len(chunk)
                file.flush()
                steps.fsync(file.fileno())
            steps.replace(temporary, path)
            steps.fsync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return written
