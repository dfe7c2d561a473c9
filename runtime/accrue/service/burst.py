"""A burst or a clip: many frames of one thing, of which one shot is made."""

from __future__ import annotations

import io
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from accrue.errors import NotFound, Refused
from accrue.learn import quantise
from accrue.learn.statistics import Rows
from accrue.vision.gate import CHANGE
from accrue.vision.keyframes import (
    BLURRED,
    BRIGHT,
    DARK,
    DUPLICATE,
    OFF_OBJECT,
    Keyframes,
    strangers,
)
from accrue.vision.preprocess import Pixels, check_image
from accrue.vision.sources import open_source
from accrue.vision.thumbnail import glimpse, thumbnail
from accrue.vision.views import make_views

if TYPE_CHECKING:
    from accrue.bundle import Bundle
    from accrue.service.settings import Settings
    from accrue.vision.encode import BundleEncoder

THUMBNAIL_PX = 160
THUMBNAILS = 200  # of frames that were left out; those of older ones make room
ENOUGH = 5  # keyframes of one object that show it from all sides one may hope
CLIP_FPS = 10.0  # frames a second of a video that are looked at

TURN, CLOSER, BACKGROUND = "turn", "closer", "background"
STEADY, LIGHT, GLARE = "steady", "light", "glare"
HINTS = {
    TURN: "turn it, or show another side",
    CLOSER: "go closer, so that it fills the picture",
    BACKGROUND: "show it in front of another background",
    STEADY: "hold it still for a moment",
    LIGHT: "more light is needed",
    GLARE: "less light is needed",
}
_ALIKE = 0.9  # median cosine between keyframes above which they show one side
_SMALL = 0.25  # share of the picture that changes below which the object is small in it


@dataclass(frozen=True)
class Note:
    """What became of one frame.

    Attributes:
        n: its number, from 0. at: Unix seconds. kept: whether it goes into the shot.
        reason: why not: `near-duplicate`, `blurred`, `off-object`, `too dark`, `too bright`; "" for
            a kept one.
        of: the frame that it repeats. measure: as in `accrue.vision.keyframes.Judged`.
    """

    n: int
    at: float
    kept: bool
    reason: str = ""
    of: int | None = None
    measure: float = math.nan


class Burst:
    """Frames of one thing as they come, to be reviewed and then taught as one shot.

    `feed` is for one thread; everything may be read from others meanwhile. What is held is bounded:
    `accrue.vision.keyframes.MOST` keyframes with their views, thumbnails of the last 200 others,
    and a line for each frame.

    >>> burst = box.burst()                                             # doctest: +SKIP
    >>> for frame in frames: burst.feed(frame.image, frame.at)          # doctest: +SKIP
    >>> burst.stop()                                                    # doctest: +SKIP
    >>> box.teach_burst("hex bolt", burst)                              # doctest: +SKIP

    Args:
        encoder: in use. bundle: of that encoder; it tells how alike two different things are.
        settings: `views`, `mirror`, `duplicates`, `blur`.
    """

    def __init__(
        self,
        encoder: BundleEncoder,
        bundle: Bundle,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._encoder, self._bundle, self._settings = encoder, bundle, settings
        self._clock = clock
        self._keyframes = Keyframes(
            lambda image: encoder.encode([image])[0],
            duplicates=settings.duplicates,
            blurred=settings.blur,
        )
        self._lock = threading.RLock()
        self._notes: list[Note] = []
        self._views: dict[int, Pixels] = {}  # of keyframes: uint8 (views, crop, crop, 3)
        self._thumbs: dict[int, bytes] = {}
        self._pixels = max(THUMBNAIL_PX, settings.thumbnails)

    # ---- taking frames in -----------------------------------------------------------------------

    def feed(self, image: Pixels, at: float | None = None) -> Note:
        """Takes one frame, uint8 (h, w, 3) RGB. Raises ImageError."""
        check_image(image)
        with self._lock:
            judged = self._keyframes.feed(image)
            note = Note(
                judged.n,
                self._clock() if at is None else at,
                judged.kept,
                judged.reason,
                judged.of,
                judged.measure,
            )
            self._notes.append(note)
            if judged.kept:
                settings = self._settings
                self._views[note.n] = make_views(
                    self._encoder.preprocessor, image, settings.views, mirror=settings.mirror
                )
            if (gone := judged.gave_way) is not None:
                self._views.pop(gone, None)
                self._notes[gone] = replace(
                    self._notes[gone], kept=False, reason=DUPLICATE, of=judged.took_over
                )
            self._thumbs[note.n] = glimpse(image, self._pixels)
            others = [n for n in self._thumbs if n not in self._views]
            for n in others[: max(0, len(others) - THUMBNAILS)]:
                del self._thumbs[n]
        return note

    def clip(
        self,
        source: str | Path,
        *,
        seconds: float = math.inf,
        heard: Callable[[Note], object] = lambda _: None,
    ) -> int:
        """Takes the frames of a video, a photo or a camera; how many.

        Of a video file at most `CLIP_FPS` frames a second are looked at.

        Args:
            seconds: after which no more is read, of the video or of the clock.
            heard: is told of each frame.

        Raises:
            as `open_source` and `__next__` of the source; what was read before stays.
        """
        taken = 0
        with open_source(source, board=self._settings.board) as frames:
            fps = getattr(frames, "fps", 0.0)
            started = time.monotonic()
            step = max(1, round(fps / CLIP_FPS))
            for frame in frames:
                passed = frame.index / fps if fps else time.monotonic() - started
                if passed > seconds:
                    break
                if frame.index % step == 0:
                    heard(self.feed(frame.image, frame.at))
                    taken += 1
        self.stop()
        return taken

    def stop(self) -> None:
        """No more frames for now: leaves out those that show something else."""
        with self._lock:
            numbers = sorted(self._views)
            if not numbers:
                return
            for n in numbers:
                self._notes[n] = replace(self._notes[n], kept=True, reason="")
            weights = np.array([self._keyframes.stands_for(n) for n in numbers], np.float64)
            for i in strangers(self._keyframes.rows(numbers), weights, self._apart):
                n = numbers[i]
                self._notes[n] = replace(self._notes[n], kept=False, reason=OFF_OBJECT)

    def close(self) -> None:
        """Lets go of what a shot is made of, most of the memory; notes and pictures stay."""
        with self._lock:
            self._views.clear()

    @cached_property
    def _apart(self) -> float:
        """Cosine of two different things in this space: the median of the golden images'."""
        rows = np.array([row for _, _, row in self._bundle.golden()], np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return float(np.median((rows @ rows.T)[np.triu_indices(len(rows), 1)]))

    # ---- the review -----------------------------------------------------------------------------

    @property
    def notes(self) -> list[Note]:
        """Of every frame, in order."""
        with self._lock:
            return list(self._notes)

    @property
    def kept(self) -> int:
        return sum(note.kept for note in self.notes)

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were left out, by reason."""
        return dict(Counter(note.reason for note in self.notes if not note.kept))

    @property
    def choosable(self) -> list[int]:
        """Numbers of the frames that may be kept: the keyframes, off-object ones too."""
        with self._lock:
            return sorted(self._views)

    def thumb(self, n: int) -> bytes:
        """A small JPEG of a frame; of one that is not held any more, of the frame it repeats.

        Raises NotFound.
        """
        with self._lock:
            seen: set[int] = set()
            while 0 <= n < len(self._notes) and n not in seen:
                if n in self._thumbs:
                    return self._thumbs[n]
                seen.add(n)
                of = self._notes[n].of
                n = -1 if of is None else of
        raise NotFound("no picture of this frame is held any more", found=n)

    @property
    def hint(self) -> str:
        """What would help most now: a key of `HINTS`, or "" where nothing is missing."""
        with self._lock:
            notes = self._notes[-30:]  # of the last seconds
            cells = self._keyframes.cells()
            rows = self._keyframes.rows(self._keyframes.kept)
            kept = sum(note.kept for note in self._notes)
        return _hint(notes, kept, cells, rows)

    @property
    def enough(self) -> bool:
        """Whether the frames show enough of the object for a good shot."""
        return self.kept >= ENOUGH and self.hint == ""

    # ---- the shot -------------------------------------------------------------------------------

    def rows(self, keep: Sequence[int] | None = None) -> Rows:
        """The shot: int16 (m, dim), m at most the setting `views`.

        Args:
            keep: numbers of the frames that it is made of; None for those that are kept.

        Raises:
            NotFound: a number that is not in `choosable`. Refused: no frame is left.
        """
        with self._lock:
            numbers = self._chosen(keep)
            views = [self._views[n] for n in numbers]
            plan = pooled(self._keyframes.rows(numbers), len(views[0]))
        made = np.stack([views[frame][view] for frame, view in plan])
        return quantise(self._encoded(made))

    def picture(self, keep: Sequence[int] | None, longest_px: int) -> bytes:
        """A JPEG of the frame that stands for the shot; arguments and errors as for `rows`."""
        with self._lock:
            numbers = self._chosen(keep)
            found = self.thumb(numbers[_spread(self._keyframes.rows(numbers), 1)[0]])
        small = PIL.Image.open(io.BytesIO(found))
        return found if max(small.size) <= longest_px else thumbnail(np.asarray(small), longest_px)

    def _chosen(self, keep: Sequence[int] | None) -> list[int]:
        if keep is None:
            numbers = [note.n for note in self._notes if note.kept]
        else:
            numbers = list(dict.fromkeys(keep))
        for n in numbers:
            if n not in self._views:
                raise NotFound(
                    f"frame {n} is not held: it repeats another one, or cannot be used",
                    hint=f"choose among {', '.join(map(str, sorted(self._views)))}",
                    found=n,
                )
        if not numbers:
            raise Refused(
                f"nothing to teach: {told(len(self._notes), self.dropped)}",
                hint=HINTS.get(self.hint, "show it again"),
            )
        return numbers

    def _encoded(self, prepared: Pixels) -> NDArray[np.float32]:
        batches = [prepared[i : i + 8] for i in range(0, len(prepared), 8)]
        return np.concatenate([self._encoder.encode_prepared(batch) for batch in batches])


def pooled(rows: NDArray[np.float32], views: int) -> list[tuple[int, int]]:
    """Which views of which frames make the shot: (position of the frame, number of the view).

    First the first two views of the frame most like all others, which are what a query of it would
    be; then in turn the frames that differ most from those before, each with its next view.

    Args:
        rows: unit-length float32 (frames, dim). views: of a frame, and of the shot.
    """
    order = _spread(rows, views)
    turns = [(frame, turn) for turn in range(views) for frame in order]
    lead = [(order[0], view) for view in range(min(2, views))]
    return (lead + [one for one in turns if one not in lead])[:views]


def _spread(rows: NDArray[np.float32], most: int) -> list[int]:
    """The most central frame, then always the one farthest from those before."""
    cosines = rows @ rows.T
    order = [int(cosines.mean(axis=1).argmax())]
    while len(order) < min(most, len(rows)):
        nearest = cosines[:, order].max(axis=1)
        nearest[order] = np.inf
        order.append(int(nearest.argmin()))
    return order


def told(frames: int, dropped: Mapping[str, int]) -> str:
    """ "kept 7 of 12: 3 near-duplicates, 2 blurred", the most frequent reason first."""
    text = f"kept {frames - sum(dropped.values())} of {frames}"
    parts = [
        f"{n} {reason}{'s' if reason == DUPLICATE and n > 1 else ''}"
        for reason, n in sorted(dropped.items(), key=lambda item: -item[1])
    ]
    return f"{text}: {', '.join(parts)}" if parts else text


def _hint(
    notes: Sequence[Note],
    kept: int,
    cells: NDArray[np.float32],
    rows: NDArray[np.float32],
) -> str:
    """From why the last frames were left out, and from how far the kept ones differ.

    Args:
        notes: of the last frames. kept: frames so far. cells: float32 (keyframes, rows, columns),
            grey levels. rows: unit-length float32 (keyframes, dim).
    """
    reasons = Counter(note.reason for note in notes)
    for reason, hint in ((DARK, LIGHT), (BRIGHT, GLARE), (BLURRED, STEADY)):
        if notes and 2 * reasons[reason] > len(notes):
            return hint
    if len(rows) < 2:
        return TURN if notes else ""
    cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    change = np.ptp(cells, axis=0)  # (rows, columns) of the picture
    changed = change > CHANGE
    inner = changed[3:-3, 4:-4]
    outer = np.concatenate([changed[0], changed[-1], changed[:, 0], changed[:, -1]])
    if changed.mean() < _SMALL:
        return CLOSER
    if kept < ENOUGH or float(np.median(cosines)) > _ALIKE:
        return TURN
    if inner.mean() > 0.5 and outer.mean() < 0.25:
        return BACKGROUND
    return ""
