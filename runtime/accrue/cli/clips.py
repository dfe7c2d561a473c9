"""Teaching from cameras, videos and bursts of photos: each is one shot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accrue.cli.output import count, note
from accrue.errors import AccrueError, error_object

if TYPE_CHECKING:
    from accrue.service.box import Box
    from accrue.service.burst import Burst, Note
    from accrue.service.coach import Skipped

CAMERA_S = 5.0  # that a camera is watched where nothing else is said


@dataclass(frozen=True)
class Clip:
    """What became of one clip.

    Attributes:
        shot: its id; "" where it could not be used (`error`) or repeats a shot (`skipped`).
        dropped: frames that were left out, by reason. hint: what would have helped most.
    """

    source: str
    class_name: str
    shot: str = ""
    frames: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    hint: str = ""
    error: AccrueError | None = None
    skipped: Skipped | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "shot": self.shot or None,
            "path": self.source,
            "class": self.class_name,
            "frames": self.frames,
            "kept": self.kept,
            "dropped": self.dropped,
            "hint": self.hint or None,
            **({"error": error_object(self.error)} if self.error else {}),
            **({"skipped": asdict(self.skipped)} if self.skipped else {}),
        }


def teach_clips(
    box: Box, name: str, sources: Sequence[str], seconds: float | None
) -> Iterator[Clip]:
    """Each camera or video as one shot, once it is on the disk."""
    from accrue.vision.sources import VIDEO_SUFFIXES

    for source in sources:
        live = Path(source).suffix.lower() not in VIDEO_SUFFIXES
        limit = seconds if seconds is not None else CAMERA_S if live else float("inf")
        burst = box.burst()
        if live:
            note(f"accrue: watching {source} for {limit:g} s")
        try:
            burst.clip(source, seconds=limit, heard=_Coach(burst, live))
        except AccrueError as error:
            if not burst.kept:
                yield Clip(source, name, error=error)
                continue
            note(f"accrue: {error.message}; what was seen before that is taught")
            burst.stop()
        yield _taught(box, name, burst, source)


def teach_photos(box: Box, name: str, paths: Sequence[Path]) -> Iterator[Clip]:
    """All photos as one shot; those that cannot be read come first, each as a clip of its own.

    Somebody chose them, so that none is taken for something else.
    """
    from accrue.vision.decode import decode

    burst = box.burst()
    taken = 0
    for path in paths:
        try:
            burst.feed(decode(path))
            taken += 1
        except AccrueError as error:
            yield Clip(str(path), name, error=error)
    if taken:
        first = str(paths[0])
        source = first if taken == 1 else f"{first} and {count(taken - 1, 'more photo')}"
        yield _taught(box, name, burst, source)


def _taught(box: Box, name: str, burst: Burst, source: str) -> Clip:
    told: dict[str, Any] = {
        "frames": len(burst.notes),
        "kept": burst.kept,
        "dropped": burst.dropped,
        "hint": "" if burst.enough else burst.hint,
    }
    try:
        receipt = box.teach_burst(name, burst, source=source)
    except AccrueError as error:
        return Clip(source, name, error=error, **told)
    return Clip(source, receipt.class_name, receipt.shot, skipped=receipt.skipped, **told)


class _Coach:
    """Says while a camera is watched what would help most, not more than once in two seconds."""

    def __init__(self, burst: Burst, live: bool) -> None:
        self._burst, self._live = burst, live
        self._said, self._said_at = "", time.monotonic()

    def __call__(self, _: Note) -> None:
        from accrue.service.burst import HINTS

        now = time.monotonic()
        if not self._live or now - self._said_at < 2.0:
            return
        hint = self._burst.hint
        if hint != self._said:
            self._said, self._said_at = hint, now
            if hint:
                note(f"accrue: {HINTS[hint]}")
