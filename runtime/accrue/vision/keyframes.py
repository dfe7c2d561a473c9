"""Which frames of a burst or a clip to keep: those that differ from one another and are sharp."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accrue.vision.gate import CHANGE, cell_means
from accrue.vision.preprocess import Pixels
from accrue.vision.quality import blur

Row = NDArray[np.float32]

DUPLICATE, BLURRED, OFF_OBJECT = "near-duplicate", "blurred", "off-object"
DARK, BRIGHT = "too dark", "too bright"
MOST = 24  # keyframes held at a time; a shot is made of ten rows
DARKEST, BRIGHTEST = 16.0, 240.0  # mean grey level beyond which there is nothing to be seen
SHARPER = 0.03  # blur by which another frame of the same sight is better than the kept one
NEARER = 0.45  # share of the way from a stranger's cosine to a neighbour's; see `strangers`


@dataclass(frozen=True)
class Judged:
    """What became of one frame when it came.

    Attributes:
        n: number of the frame, from 0. kept: whether it is a keyframe.
        reason: why not; "" for a keyframe.
        of: the keyframe that it repeats, for `DUPLICATE`.
        gave_way: the keyframe that is none any more, because this one is sharper or because there
            are too many; it repeats `took_over`.
        measure: blur of a blurred frame, mean grey level of a dark or bright one, the cosine to
            what it repeats where that was looked at, else NaN.
    """

    n: int
    kept: bool
    reason: str = ""
    of: int | None = None
    gave_way: int | None = None
    took_over: int | None = None
    measure: float = float("nan")


@dataclass
class _Keyframe:
    n: int
    cells: NDArray[np.float32]
    blur: float
    row: Row
    stands_for: set[int] = field(default_factory=set)


class Keyframes:
    """Takes frames one by one and keeps those that show something else than the kept ones.

    A frame repeats a kept one if no part of the picture has changed (`cell_means`), or if its
    embedding has not (cosine at `duplicates` or above). Of frames that repeat one another the
    sharpest is kept. Beyond `most`, of the two keyframes that are most alike the more blurred one
    goes: so a long clip is held as its most different frames.

    Cost: about 3 ms for a 1080p frame, and one embedding for a frame that has changed.

    Args:
        embed: uint8 (h, w, 3) RGB to a unit-length float32 (dim,).
        duplicates: cosine from which a frame repeats a kept one; 1: only what is unchanged does.
        blurred: `blur` above which a frame is left out; 1 keeps all.
        most: keyframes to hold, 2 or more.
        change: grey levels, as for `Gate`.
    """

    def __init__(
        self,
        embed: Callable[[Pixels], Row],
        *,
        duplicates: float = 0.97,
        blurred: float = 1.0,
        most: int = MOST,
        change: float = CHANGE,
    ) -> None:
        self._embed, self._most = embed, max(most, 2)
        self._duplicates, self._blurred, self._change = duplicates, blurred, change
        self._kept: list[_Keyframe] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept(self) -> list[int]:
        """Numbers of the keyframes, oldest first."""
        return sorted(one.n for one in self._kept)

    def rows(self, numbers: Iterable[int]) -> NDArray[np.float32]:
        """Embeddings of keyframes: float32 (n, dim)."""
        by_number = {one.n: one.row for one in self._kept}
        return np.array([by_number[n] for n in numbers], np.float32)

    def cells(self) -> NDArray[np.float32]:
        """Mean grey levels of the parts of each keyframe: float32 (keyframes, rows, columns)."""
        return np.array([one.cells for one in self._kept], np.float32)

    def stands_for(self, number: int) -> int:
        """How many frames a keyframe stands for, itself included."""
        return next(1 + len(one.stands_for) for one in self._kept if one.n == number)

    def feed(self, image: Pixels) -> Judged:
        """Judges the next frame, uint8 (h, w, 3) RGB."""
        n, self._count = self._count, self._count + 1
        cells = cell_means(image)
        light = float(cells.mean())
        if light < DARKEST or light > BRIGHTEST:
            return Judged(n, False, DARK if light < DARKEST else BRIGHT, measure=light)
        found = blur(image)
        if found > self._blurred:
            return Judged(n, False, BLURRED, measure=found)
        same = self._unchanged(cells)
        if same is not None and not _sharper(found, same.blur):
            same.stands_for.add(n)
            return Judged(n, False, DUPLICATE, of=same.n)
        new = _Keyframe(n, cells, found, self._embed(image))
        cosine = float("nan")
        if same is None and self._kept and self._duplicates < 1:
            cosines = np.array([one.row for one in self._kept]) @ new.row
            nearest = int(cosines.argmax())
            if (cosine := float(cosines[nearest])) >= self._duplicates:
                same = self._kept[nearest]
                if not _sharper(found, same.blur):
                    same.stands_for.add(n)
                    return Judged(n, False, DUPLICATE, of=same.n, measure=cosine)
        if same is not None:
            self._take_over(new, same)
            return Judged(n, True, gave_way=same.n, took_over=n)
        self._kept.append(new)
        if len(self._kept) <= self._most:
            return Judged(n, True)
        gone, other = self._most_alike()
        self._take_over(other, gone)
        if gone is new:
            return Judged(n, False, DUPLICATE, of=other.n)
        return Judged(n, True, gave_way=gone.n, took_over=other.n)

    def _unchanged(self, cells: NDArray[np.float32]) -> _Keyframe | None:
        """The keyframe that a frame shows again, the most alike one."""
        if not self._kept:
            return None
        moved = np.abs(self.cells() - cells).max(axis=(1, 2))  # (keyframes,)
        nearest = int(moved.argmin())
        return self._kept[nearest] if moved[nearest] < self._change else None

    def _take_over(self, one: _Keyframe, other: _Keyframe) -> None:
        """`one` stands for all that `other` stood for."""
        one.stands_for |= other.stands_for | {other.n}
        self._kept = [k for k in self._kept if k is not other and k is not one] + [one]

    def _most_alike(self) -> tuple[_Keyframe, _Keyframe]:
        """Of the two keyframes most alike: the one to go, the one to stay."""
        rows = np.array([one.row for one in self._kept])
        cosines = rows @ rows.T
        np.fill_diagonal(cosines, -np.inf)
        first, second = np.unravel_index(int(cosines.argmax()), cosines.shape)
        a, b = self._kept[first], self._kept[second]
        return (a, b) if a.blur > b.blur else (b, a)


def _sharper(one: float, other: float) -> bool:
    """By blur; a picture without any detail has 0 and is not sharper than one with some."""
    return 0 < one <= other - SHARPER


def strangers(
    rows: NDArray[np.float32], weights: NDArray[np.float64], apart: float, nearer: float = NEARER
) -> list[int]:
    """Frames of a clip that do not show what the clip is of, by position.

    An object that is turned changes step by step, another thing is there at once. So the frames
    are joined to what they are like, and the group that stands for most frames is the object. Two
    frames are alike where their cosine lies less far from that of neighbours (the median over
    frames of the cosine to the likest other one) than `1 - nearer` of the way to that of two
    different things.

    Args:
        rows: unit-length float32 (n, dim). weights: float64 (n,), frames that each stands for.
        apart: cosine that two different things have in this space.
        nearer: 0 to 1; 0 leaves out what is like a different thing, 1 half of all frames.

    Returns:
        Positions, ascending; none where there are fewer than three frames.
    """
    n = len(rows)
    if n < 3:
        return []
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    near = float(np.median(cosines.max(axis=1)))
    least = apart + nearer * (near - apart)
    group = np.full(n, -1)
    for start in range(n):
        if group[start] >= 0:
            continue
        waiting, group[start] = [start], start
        while waiting:
            joined = np.flatnonzero((cosines[waiting.pop()] >= least) & (group < 0))
            group[joined] = start
            waiting += joined.tolist()
    sizes = {g: float(weights[group == g].sum()) for g in np.unique(group)}
    object_group = max(sizes, key=lambda g: (sizes[g], -g))
    return [int(i) for i in np.flatnonzero(group != object_group)]
