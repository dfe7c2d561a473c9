"""How a burst becomes a shot: accuracy of several ways, and what is left out of a clip.

    python tools/bench/bursts.py rows TRAIN TEST -o rows.npz [--bundle BUNDLE]
    python tools/bench/bursts.py shots rows.npz [--frames 6] [--bursts 1 3] [--draws 5]
    python tools/bench/bursts.py strangers TRAIN [--bundle BUNDLE] [--clips 60]
    python tools/bench/bursts.py camera TRAIN TEST rows.npz [--bundle BUNDLE] [--draws 3]

`rows` encodes CLASS/photo.jpg once: ten views of what is taught, two of what is asked.

`shots`: photos that follow one another in their folder are mostly of one item, so that each run of
`--frames` of them stands for a burst. Each class is taught `--bursts` of them, and the photos of
TEST are asked. Compared are ways to make rows of a burst.

`strangers`: bursts made of one photo by moving, zooming and lighting it, with some frames of
another photo put in: how many of these are left out, and how many others with them.

`camera`: the same bursts through all of `accrue.service.burst`, one for a class, against the photo
itself as a shot.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import find_accrue, progress, table
from numpy.typing import NDArray

find_accrue()
from accrue.bundle import Bundle, default_bundle_path  # noqa: E402
from accrue.learn import State, choose, quantise  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.burst import pooled  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.decode import decode  # noqa: E402
from accrue.vision.encode import OnnxEncoder  # noqa: E402
from accrue.vision.keyframes import Keyframes, strangers  # noqa: E402
from accrue.vision.sources import labelled_images  # noqa: E402

Floats32 = NDArray[np.float32]
Shots = list[Floats32]  # (rows, dim) each
VIEWS, ASKED = 10, 2
BURST_FRAMES = 30


def unit(rows: Any) -> Floats32:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def central(burst: Floats32) -> int:
    first = burst[:, 0]
    return int((first @ first.T).mean(axis=1).argmax())


def grid(burst: Floats32, frames: int) -> Shots:
    """`frames` evenly spaced frames, each with its first views, ten rows in all."""
    chosen = np.unique(np.linspace(0, len(burst) - 1, frames).astype(int))
    each = VIEWS // len(chosen)
    return [np.concatenate([burst[f, :each] for f in chosen])]


def turns(burst: Floats32) -> Shots:
    """As the product does: `accrue.service.burst.pooled`."""
    return [np.stack([burst[f, v] for f, v in pooled(burst[:, 0], VIEWS)])]


def frames_of_pooled(burst: Floats32, most: int) -> Shots:
    """`pooled` of the most central frames only."""
    first = burst[:, 0]
    near = np.argsort(-(first @ first.T).mean(axis=1), kind="stable")[:most]
    return turns(burst[np.sort(near)])


WAYS: dict[str, Callable[[Floats32], Shots]] = {
    "first frame": lambda b: [b[0]],
    "most central frame": lambda b: [b[central(b)]],
    "2 frames x 5 views": lambda b: grid(b, 2),
    "5 frames x 2 views": lambda b: grid(b, 5),
    "in turn, farthest first (as shipped)": turns,
    "in turn, 3 central frames": lambda b: frames_of_pooled(b, 3),
    "mean over frames of each view": lambda b: [unit(b.mean(axis=0))],
    "all rows as one shot": lambda b: [b.reshape(-1, b.shape[2])],
    "each frame a shot": lambda b: list(b),
}


def accuracy(shots: list[tuple[str, Floats32]], asked: Floats32, labels: NDArray[Any]) -> float:
    """Share of right answers, head as shipped; classes that were not taught are not asked."""
    state = State("0" * 64, asked.shape[1])
    kept = []
    for label, rows in shots:
        quantised = quantise(rows)
        state.add(label, quantised)
        kept.append((label, quantised))
    served = choose(state, kept, views=ASKED).served
    ids = np.array(served.ids)
    known = np.isin(labels, ids)
    return float((ids[served.scores(asked[known]).argmax(axis=1)] == labels[known]).mean())


def labelled(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, paths in labelled_images(folder).items():
        for path in paths:
            yield name, path


def rows_command(args: argparse.Namespace) -> None:
    encoder = OnnxEncoder(Bundle.open(args.bundle or default_bundle_path()))
    found: dict[str, Any] = {}
    for part, folder, views in (("train", args.train, VIEWS), ("test", args.test, ASKED)):
        photos = list(labelled(folder))
        rows = []
        for number, (_, path) in enumerate(photos, 1):
            rows.append(encoder.encode_views([decode(path)], views)[0])
            if number % 500 == 0:
                progress(f"{part}: {number} of {len(photos)}")
        found |= {part: np.array(rows), f"{part}_labels": np.array([name for name, _ in photos])}
    np.savez(args.output, **found)


def shots_command(args: argparse.Namespace) -> None:
    found = np.load(args.rows)
    train, labels = found["train"], found["train_labels"]
    asked, asked_labels = unit(found["test"].mean(axis=1)), found["test_labels"]
    lines = []
    for bursts in args.bursts:
        got: dict[str, list[float]] = {}
        uneven: dict[str, list[float]] = {}
        for draw in range(args.draws):
            rng = np.random.default_rng(draw)
            windows = []
            for name in np.unique(labels):
                mine = np.flatnonzero(labels == name)
                starts = rng.permutation(np.arange(0, len(mine) - args.frames + 1, args.frames))
                windows += [(name, mine[s : s + args.frames]) for s in starts[:bursts]]
            few = set(rng.permutation(np.unique(labels))[: len(np.unique(labels)) // 4])
            for way, make in WAYS.items():
                shots = [(n, rows) for n, w in windows for rows in make(train[w])]
                got.setdefault(way, []).append(accuracy(shots, asked, asked_labels))
                mixed = [
                    (n, rows)
                    for n, w in windows
                    for rows in (make(train[w]) if n in few else [train[w][0]])
                ]
                uneven.setdefault(way, []).append(accuracy(mixed, asked, asked_labels))
            progress(f"{bursts} bursts, draw {draw}")
        for way in WAYS:
            lines.append((way, str(bursts), spread(got[way]), spread(uneven[way])))
    heads = ("a burst becomes", "bursts a class", "all classes", "a quarter, others photos")
    print(table(heads, lines))


def spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def moved(image: NDArray[np.uint8], rng: np.random.Generator, frames: int) -> list[Any]:
    """A hand-held burst of a photo: a window of 60 to 95 % that wanders, light that changes."""
    height, width = image.shape[:2]
    x, y, zoom, light = rng.uniform(0.3, 0.7, 4)
    made = []
    for _ in range(frames):
        x, y, zoom, light = np.clip(
            np.array([x, y, zoom, light]) + rng.normal(0, 0.07, 4), 0.0, 1.0
        )
        side = (0.6 + 0.35 * zoom) * min(height, width)
        left, top = int(x * (width - side)), int(y * (height - side))
        part = image[top : top + int(side), left : left + int(side)]
        made.append(np.clip(part * (0.75 + 0.5 * light), 0, 255).astype(np.uint8))
    return made


def strangers_command(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle or default_bundle_path())
    encoder = OnnxEncoder(bundle)
    golden = unit(np.array([row for _, _, row in bundle.golden()]))
    apart = float(np.median((golden @ golden.T)[np.triu_indices(len(golden), 1)]))
    photos = list(labelled(args.train))
    rng = np.random.default_rng(0)
    clips = []
    for number in range(args.clips):
        (name, own), (other_name, other) = (photos[i] for i in rng.choice(len(photos), 2))
        if name == other_name:
            continue
        frames = [(image, False) for image in moved(decode(own), rng, BURST_FRAMES)]
        at = int(rng.choice([0, len(frames) // 2, len(frames)]))
        frames[at:at] = [(image, True) for image in moved(decode(other), rng, 4)]
        keyframes = Keyframes(lambda image: encoder.encode([image])[0], duplicates=0.97)
        for image, _ in frames:
            keyframes.feed(image)
        kept = keyframes.kept
        weights = np.array([keyframes.stands_for(n) for n in kept], float)
        clips.append((keyframes.rows(kept), weights, np.array([frames[n][1] for n in kept])))
        if number % 20 == 0:
            progress(f"clip {number}: {len(kept)} keyframes")
    lines = []
    for nearer in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7):
        caught = wrong = there = others = 0
        for rows, weights, foreign in clips:
            out = np.isin(np.arange(len(rows)), strangers(rows, weights, apart, nearer))
            caught, there = caught + (out & foreign).sum(), there + foreign.sum()
            wrong, others = wrong + (out & ~foreign).sum(), others + (~foreign).sum()
        lines.append((f"{nearer:.2f}", f"{caught / there:.1%}", f"{wrong / others:.1%}"))
    kept_of = np.mean([len(rows) for rows, _, _ in clips])
    print(f"{len(clips)} clips of {BURST_FRAMES + 4} frames, {kept_of:.1f} keyframes; "
          f"two different things: cosine {apart:.2f}")  # fmt: skip
    print(table(("nearer", "strangers left out", "others left out"), lines))


def camera_command(args: argparse.Namespace) -> None:
    found = np.load(args.rows)
    train, labels = found["train"], found["train_labels"]
    asked, asked_labels = unit(found["test"].mean(axis=1)), found["test_labels"]
    photos = list(labelled(args.train))
    got: dict[str, list[float]] = {}
    kept = []
    with Box(Settings(bundle=args.bundle)) as box:
        for draw in range(args.draws):
            rng = np.random.default_rng(draw)
            ways: dict[str, list[tuple[str, Floats32]]] = {}
            for name in np.unique(labels):
                which = int(rng.choice(np.flatnonzero(labels == name)))
                burst = box.burst()
                for image in moved(decode(photos[which][1]), rng, BURST_FRAMES):
                    burst.feed(image)
                burst.stop()
                kept.append(burst.kept)
                first = burst.choosable[:1]
                ways.setdefault("the photo", []).append((name, train[which]))
                ways.setdefault("first frame", []).append((name, real(burst.rows(first))))
                ways.setdefault("the burst", []).append((name, real(burst.rows())))
            for way, shots in ways.items():
                got.setdefault(way, []).append(accuracy(shots, asked, asked_labels))
            progress(f"draw {draw}")
    print(f"keyframes kept of {BURST_FRAMES}: median {np.median(kept):.0f}")
    print(table(("one shot is", "accuracy"), [(way, spread(v)) for way, v in got.items()]))


def real(rows: NDArray[np.int16]) -> Floats32:
    return unit(rows.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    add = functools.partial(commands.add_parser)
    command = add("rows")
    command.add_argument("train", type=Path)
    command.add_argument("test", type=Path)
    command.add_argument("-o", "--output", type=Path, required=True)
    command.set_defaults(run=rows_command)
    command = add("shots")
    command.add_argument("rows", type=Path)
    command.add_argument("--frames", type=int, default=6)
    command.add_argument("--bursts", type=int, nargs="+", default=[1, 3])
    command.add_argument("--draws", type=int, default=5)
    command.set_defaults(run=shots_command)
    command = add("strangers")
    command.add_argument("train", type=Path)
    command.add_argument("--clips", type=int, default=60)
    command.set_defaults(run=strangers_command)
    command = add("camera")
    command.add_argument("train", type=Path)
    command.add_argument("test", type=Path)
    command.add_argument("rows", type=Path)
    command.add_argument("--draws", type=int, default=3)
    command.set_defaults(run=camera_command)
    for command in commands.choices.values():
        command.add_argument("--bundle", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
