"""A folder whose file system fails, or whose every change is written down (see faulty.c).

Only in a process that was started with `preloaded()`; its other files are as always.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("faulty.c")
_HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_long,
    ctypes.c_long,
)
# What a full disk refuses; a change that needs no room goes through.
_NEEDS_ROOM = ("open", "write", "truncate", "mkdir", "link", "rename")


def built(folder: Path) -> Path | None:
    """The library, compiled; None where there is no compiler, or none of its headers."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "faulty.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "stdio.h" in done.stderr:  # a compiler without the headers of the C library
        return None
    assert done.returncode == 0, done.stderr
    return library


def preloaded(library: Path) -> dict[str, str]:
    """The environment of a process whose file system can be made to fail."""
    return os.environ | {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Change:
    """One call that would change a file. `other`: where a rename or link leads."""

    call: str
    path: str
    other: str
    bytes: bytes
    offset: int
    length: int
    fresh: bool  # open: there was no such file


@dataclass
class Failing:
    """Counts changes and fails one of them, or all from it on.

    Attributes:
        at: number of the change that fails, from 1; 0: none does.
        error: errno. lasting: what comes after it fails, too.
        changes: seen so far. failed: of those, failed.
    """

    at: int = 0
    error: int = errno.EIO
    lasting: bool = False
    changes: int = 0
    failed: list[str] = field(default_factory=list)

    def __call__(self, change: Change) -> int:
        self.changes += 1
        hit = self.changes == self.at or (self.lasting and 0 < self.at <= self.changes)
        if not hit:
            return 0
        if self.error == errno.ENOSPC and not self._needs_room(change):
            if not self.lasting:
                self.at += 1  # the next one that needs room
            return 0
        self.failed.append(f"{change.call} {Path(change.path).name}")
        return self.error

    @staticmethod
    def _needs_room(change: Change) -> bool:
        if change.call == "open":
            return change.fresh and bool(change.offset & os.O_CREAT)
        return change.call in _NEEDS_ROOM


@contextmanager
def watched(folder: Path, answer: Callable[[Change], int]) -> Iterator[None]:
    """Asks before every change below a folder; what is answered is its errno, 0 lets it be."""
    library = ctypes.CDLL(None)

    def hook(call: bytes, path: bytes, other: bytes, data: int, offset: int, length: int) -> int:
        name = path.decode()
        content = ctypes.string_at(data, length) if data else b""
        fresh = call == b"open" and not os.path.lexists(name)
        if call == b"open" and not fresh and not offset & os.O_TRUNC:
            if Failing in type(answer).__mro__ and answer.error == errno.EROFS:  # type: ignore[attr-defined]
                return answer(Change("open", name, "", b"", offset, 0, False))
            return 0  # opening what is there changes nothing
        return answer(Change(call.decode(), name, other.decode(), content, offset, length, fresh))

    kept = _HOOK(hook)
    library.faulty_arm(os.fsencode(folder), kept)
    try:
        yield
    finally:
        library.faulty_arm(b"", _HOOK(0))


class Replay:
    """The same changes on another folder, up to an instant at which the power fails.

    What was written and not synced may be there or not: `keep` says so for each such write.
    Names are on the disk once their folder was synced; before that, `keep` says so too.
    """

    def __init__(self, changes: list[Change], source: Path) -> None:
        self._changes, self._source = changes, source

    def onto(self, folder: Path, upto: int, keep: Callable[[int], bool]) -> None:
        """Makes the state after a power cut behind the change number `upto`.

        Args:
            keep: whether the change of this number survives though nothing had synced it.
        """
        synced = self._synced(upto)
        for number, change in enumerate(self._changes[:upto]):
            if number in synced or keep(number):
                with suppress(FileNotFoundError):
                    self._apply(folder, change)

    def _synced(self, upto: int) -> set[int]:
        found: set[int] = set()
        by_file: dict[str, list[int]] = {}
        by_folder: dict[str, list[int]] = {}
        for number, change in enumerate(self._changes[:upto]):
            if change.call in ("write", "truncate"):
                by_file.setdefault(change.path, []).append(number)
            elif change.call == "fsync":
                found.update(by_file.pop(change.path, []))
                found.update(by_folder.pop(change.path, []))
            else:
                for path in filter(None, (change.path, change.other)):
                    by_folder.setdefault(str(Path(path).parent), []).append(number)
                if change.call == "rename":
                    by_file[change.other] = by_file.pop(change.path, [])
        return found

    def _there(self, folder: Path, path: str) -> Path:
        return folder / Path(path).relative_to(self._source)

    def _apply(self, folder: Path, change: Change) -> None:
        path = self._there(folder, change.path)
        if change.call == "open":
            path.touch()
            if change.offset & os.O_TRUNC:
                os.truncate(path, 0)
        elif change.call == "write":
            with path.open("r+b") as file:
                file.seek(change.offset)
                file.write(change.bytes)
        elif change.call == "truncate":
            os.truncate(path, change.length)
        elif change.call == "unlink":
            path.unlink()
        elif change.call == "mkdir":
            path.mkdir(exist_ok=True)
        elif change.call == "rmdir":
            path.rmdir()
        elif change.call == "rename":
            path.replace(self._there(folder, change.other))
        elif change.call == "link":
            os.link(path, self._there(folder, change.other))
