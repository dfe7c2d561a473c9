"""Trees of files as bytes that are the same each time: order, owner, mode and time are given."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path


def normalise(root: Path, epoch: int) -> None:
    """Gives everything below `root` the time `epoch`, folders last, links too."""
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(root, (epoch, epoch))


def entries(root: Path) -> Iterator[tarfile.TarInfo]:
    """What is below `root`, sorted, owned by root. Names begin with no ``./``.

    Raises:
        ValueError: something that is no file, folder or link.
    """
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        found = path.lstat()
        entry = tarfile.TarInfo(path.relative_to(root).as_posix())
        entry.mode, entry.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        if path.is_symlink():
            entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
            entry.mode = 0o777
        elif path.is_dir():
            entry.type = tarfile.DIRTYPE
        elif path.is_file():
            entry.size = found.st_size
        else:
            raise ValueError(f"{path} is no file, folder or link")
        yield entry


def write_tar(root: Path, out: Path) -> int:
    """`root` as a .tar.gz; the same tree gives the same bytes.

    Returns:
        Bytes written.

    Raises:
        OSError: `out` is as it was.
    """
    temporary = out.with_name(f".{out.name}.part")
    try:
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            for entry in entries(root):
                if entry.isfile():
                    with (root / entry.name).open("rb") as content:
                        tar.addfile(entry, content)
                else:
                    tar.addfile(entry)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out.stat().st_size
