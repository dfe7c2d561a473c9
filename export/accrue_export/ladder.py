"""The acceptance ladder: what a bundle's realisations are worth, measured step by step."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.bundle import ENCODER, Bundle
from accrue.errors import AccrueError, NotFound, Refused, UsageError
from accrue.learn import Gaussian, Prototype, Ridge, State, quantise
from accrue.service.evaluation import drawn
from accrue.vision.decode import decode
from accrue.vision.encode import BATCH, MIN_COSINE, OnnxEncoder
from accrue.vision.preprocess import Preprocessor
from accrue.vision.sources import labelled_images
from accrue.vision.text import TextEncoder
from accrue_export.parity import Parity, Rows, parity, run_onnx
from accrue_export.steps import Step, silent

SHOTS = (1, 5, 16)
SEEDS = (0, 1, 2)  # draws of the shots; accuracies are their mean
LATENCY_RUNS = 30
PARITY_PHOTOS = 48  # float16 is slow on a CPU
HEADS: dict[str, Callable[[], Any]] = {
    "prototype": Prototype,
    "ridge": Ridge,
    "gaussian": Gaussian,
}
Photos = Mapping[str, Sequence[Path]]
Progress = Callable[[str, int, int], None]


@dataclass
class Ladder:
    """What was measured of a bundle; accuracies are shares of the test photos, 0 to 1.

    Attributes:
        golden: parity of each realisation on the golden images, by file.
        photos: the same on test photos, nearest class among the taught ones; of realisations other
            than the reference.
        latency_ms: median of one image through the reference in ONNX Runtime on this machine.
        accuracy: by shots, then head; mean of the draws.
        zero_shot: the same by the vectors of the classes' names alone; None where the bundle has no
            text part.
        split: by head: ``base`` and ``new`` after both halves of the classes were taught, one
            after the other, their harmonic mean, and ``base_before`` the second half came.
        refused: what could not be read, with the reason.
    """

    name: str
    space_id: str
    dim: int
    size: int
    golden: dict[str, Parity] = field(default_factory=dict)
    photos: dict[str, Parity] = field(default_factory=dict)
    latency_ms: float = float("nan")
    classes: int = 0
    train: int = 0
    test: int = 0
    accuracy: dict[int, dict[str, float]] = field(default_factory=dict)
    zero_shot: float | None = None
    split: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def check(bundle: Bundle, step: Step = silent) -> Ladder:
    """Every byte, and the parity of every realisation on the golden images.

    Raises:
        BundleError: the bundle is altered or a realisation does not run.
        Refused: a realisation is below `MIN_COSINE`.
    """
    manifest = bundle.manifest
    ladder = Ladder(manifest.name, manifest.space_id, manifest.dim, manifest.size)
    bundle.verify()
    golden = bundle.golden()
    reference = np.stack([row for _, _, row in golden])
    preprocessor = Preprocessor(manifest.preprocess)
    prepared = np.stack([preprocessor(decode(jpeg, name=name)) for name, jpeg, _ in golden])
    encoder = OnnxEncoder(bundle)
    with step(f"{manifest.name}: {ENCODER}"):
        found = np.concatenate([encoder.encode_prepared(i[None]) for i in prepared])
        ladder.golden[ENCODER] = parity(found, reference)
        ladder.latency_ms = _latency(encoder, prepared[:1])
    for one in manifest.precisions.values():
        with step(f"{manifest.name}: {one.file}"):
            ladder.golden[one.file] = parity(run_onnx(bundle.read(one.file), prepared), reference)
    for file, measured in ladder.golden.items():
        if not measured.accepted:
            raise Refused(
                f"{file} of bundle {bundle.path} has a least cosine of {measured.min_cosine:.6f} "
                f"to the reference; expected {MIN_COSINE}",
                hint="it computes other embeddings here than where the bundle was made",
                path=str(bundle.path),
                file=file,
                found=measured.min_cosine,
                expected=MIN_COSINE,
            )
    return ladder


def climb(bundle: Bundle, train: Photos, test: Photos, ladder: Ladder, progress: Progress) -> None:
    """Accuracy of each head taught on ``train`` and asked about ``test``, into ``ladder``.

    Raises:
        NotFound: ``test`` has no photo of a class of ``train``.
    """
    test = {name: paths for name, paths in test.items() if name in train}
    if not test:
        raise NotFound(
            "no folder of the test photos bears the name of a taught class",
            hint="both folders hold CLASS/PHOTO.jpg with the same class names",
        )
    encoder = OnnxEncoder(bundle)
    rows = _embedded(encoder, train, f"{ladder.name}: teaching photos", ladder, progress)
    asked = _embedded(encoder, test, f"{ladder.name}: test photos", ladder, progress)
    labels = [name for name, paths in test.items() for path in paths if path in asked]
    paths = [path for group in test.values() for path in group if path in asked]
    queries = np.stack([asked[path] for path in paths])
    ladder.classes, ladder.train, ladder.test = len(train), len(rows), len(queries)
    for shots in SHOTS:
        totals = dict.fromkeys(HEADS, 0.0)
        for seed in SEEDS:
            state = State(ladder.space_id, ladder.dim)
            _teach(state, drawn(_lists(train), shots, seed), rows)
            for head in HEADS:
                totals[head] += _accuracy(head, state, queries, labels) / len(SEEDS)
        ladder.accuracy[shots] = totals
    if bundle.manifest.text is not None:
        progress(f"{ladder.name}: names of the classes", 0, 1)
        ladder.zero_shot = _zero_shot(bundle, sorted(train), queries, labels)
        progress(f"{ladder.name}: names of the classes", 1, 1)
    ladder.split = _split(ladder, train, rows, queries, labels)
    _photo_parity(bundle, encoder, train, rows, paths, ladder, progress)


def folders(
    data: Path | None, train: Path | None, test: Path | None
) -> tuple[Photos, Photos] | None:
    """Photos to teach and photos to ask about; None where no folder was named.

    Of a single folder, the first half of each class's photos, in the order of their names, is
    taught and the rest asked about: photos of one series then mostly stay on one side.

    Raises:
        UsageError: half a pair of folders, or all three.
        NotFound: a folder without classes, or without a class of two photos.
    """
    if (train is None) != (test is None) or (data and train):
        raise UsageError("expected --data DIR, or --train DIR with --test DIR")
    if train and test:
        return labelled_images(train), labelled_images(test)
    if data is None:
        return None
    both = {name: paths for name, paths in labelled_images(data).items() if len(paths) > 1}
    if not both:
        raise NotFound(
            f"no class in {data} has two photos: one to teach and one to test", path=str(data)
        )
    halves = {name: len(paths) // 2 for name, paths in both.items()}
    return (
        {name: paths[: halves[name]] for name, paths in both.items()},
        {name: paths[halves[name] :] for name, paths in both.items()},
    )


def _latency(encoder: OnnxEncoder, one: NDArray[np.uint8]) -> float:
    """Median, ms; the first runs warm up."""
    times = []
    for _ in range(LATENCY_RUNS + 3):
        began = time.perf_counter()
        encoder.encode_prepared(one)
        times.append(time.perf_counter() - began)
    return round(float(np.median(times[3:])) * 1000, 2)


def _embedded(
    encoder: OnnxEncoder, photos: Photos, what: str, ladder: Ladder, progress: Progress
) -> dict[Path, Rows]:
    paths = [path for group in photos.values() for path in group]
    found: dict[Path, Rows] = {}
    for start in range(0, len(paths), BATCH):
        images, read = [], []
        for path in paths[start : start + BATCH]:
            try:
                images.append(decode(path, short_side=encoder.preprocessor.short_side))
                read.append(path)
            except AccrueError as error:
                ladder.refused.append(str(error))
        found |= dict(zip(read, encoder.encode(images), strict=True))
        progress(what, min(start + BATCH, len(paths)), len(paths))
    return found


def _teach(state: State, photos: Photos, rows: Mapping[Path, Rows]) -> None:
    for name, paths in photos.items():
        taught = [rows[path] for path in paths if path in rows]
        if taught:
            state.add(name, quantise(np.stack(taught)))


def _accuracy(head: str, state: State, queries: Rows, labels: Sequence[str]) -> float:
    return float(np.mean(_right(head, state, queries, labels)))


def _right(head: str, state: State, queries: Rows, labels: Sequence[str]) -> NDArray[np.bool_]:
    served = HEADS[head]().solve(state)
    chosen = np.array(served.ids)[served.scores(queries).argmax(axis=1)]
    right: NDArray[np.bool_] = chosen == np.array(labels)
    return right


def _zero_shot(
    bundle: Bundle, classes: Sequence[str], queries: Rows, labels: Sequence[str]
) -> float:
    """By the last part of a class's path, as words: Fruit/Golden-Delicious is golden delicious."""
    names = [re.sub(r"[\s_-]+", " ", name.rpartition("/")[2]).lower() for name in classes]
    vectors = TextEncoder(bundle).embed(names)  # (n_classes, dim)
    chosen = np.array(classes)[(queries @ vectors.T).argmax(axis=1)]
    return float(np.mean(chosen == np.array(labels)))


def _split(
    ladder: Ladder,
    train: Photos,
    rows: Mapping[Path, Rows],
    queries: Rows,
    labels: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Half of the classes, in the order of their names, then the other half."""
    photos = drawn(_lists(train), max(SHOTS), SEEDS[0])
    names = sorted(photos)
    first = set(names[: len(names) // 2])
    is_base = np.array([label in first for label in labels])
    if not first or is_base.all() or not is_base.any():
        return {}
    state = State(ladder.space_id, ladder.dim)
    _teach(state, {name: photos[name] for name in names if name in first}, rows)
    base = [label for label in labels if label in first]
    before = {head: _accuracy(head, state, queries[is_base], base) for head in HEADS}
    _teach(state, {name: photos[name] for name in names if name not in first}, rows)
    found = {}
    for head in HEADS:
        right = _right(head, state, queries, labels)
        old, new = float(right[is_base].mean()), float(right[~is_base].mean())
        mean = 2 * old * new / (old + new) if old + new else 0.0
        found[head] = {
            "base_before": before[head],
            "base": old,
            "new": new,
            "harmonic_mean": mean,
        }
    return found


def _photo_parity(
    bundle: Bundle,
    encoder: OnnxEncoder,
    train: Photos,
    rows: Mapping[Path, Rows],
    paths: Sequence[Path],
    ladder: Ladder,
    progress: Progress,
) -> None:
    means = [
        np.mean([rows[path] for path in group if path in rows], axis=0)
        for group in train.values()
        if any(path in rows for path in group)
    ]
    chosen = list(paths)[:: max(1, len(paths) // PARITY_PHOTOS)][:PARITY_PHOTOS]
    short_side = encoder.preprocessor.short_side
    prepared = np.stack([encoder.preprocessor(decode(p, short_side=short_side)) for p in chosen])
    for one in bundle.manifest.precisions.values():
        reference = np.concatenate([encoder.encode_prepared(i[None]) for i in prepared])
        progress(f"{ladder.name}: {one.file}", 0, 1)
        found = run_onnx(bundle.read(one.file), prepared)
        ladder.photos[one.file] = parity(found, reference, np.stack(means))
        progress(f"{ladder.name}: {one.file}", 1, 1)


def _lists(photos: Photos) -> dict[str, list[Path]]:
    return {name: list(paths) for name, paths in photos.items()}
