"""How good is it: teach from one part, test on another, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from accrue.errors import Conflict, NotFound, UsageError
from accrue.learn import State, quantise
from accrue.learn.decision import UNKNOWN
from accrue.learn.statistics import Rows
from accrue.service.box import Box, Learned
from accrue.service.embeddings import Progress, embed_folders, embedded, read_embeddings
from accrue.service.protocols import Report, require_protocol, run_protocol, taught
from accrue.store import class_key
from accrue.vision.sources import labelled_images


@dataclass
class Evaluation:
    """What came out.

    Attributes:
        accuracy: share of the photos of taught classes that got the right label, whatever the
            verdict; nan where there were none.
        per_class: accuracy and photos of each taught class that was tested.
        verdicts: photos of taught classes by verdict.
        never_taught: photos of classes that were not taught; `never_taught_unknown` of them were
            answered as unknown.
        refused: photos that could not be read, with the reason.
    """

    head: str = ""
    reason: str = ""
    classes: int = 0
    shots: int = 0
    digest: str = ""
    photos: int = 0
    accuracy: float = float("nan")
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    never_taught: int = 0
    never_taught_unknown: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate(
    box: Box,
    test: Path,
    *,
    train: Path | None = None,
    shots: int | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Tests on `class/photo.jpg` folders, or on the test part of an `.npz`.

    Args:
        test: a folder, or an `.npz` (see `read_embeddings`), whose training part is then taught
            into a state that is thrown away.
        train: folder to teach from, into a state that is thrown away; None for the box's own.
        shots: photos of each class to teach, drawn with `seed`; None for all of them.

    Raises:
        NotFound: a folder without photos, or none that bears the name of a taught class.
        Conflict: nothing taught. UsageError: `shots` without `train`.
    """
    if is_file_of_embeddings(test):
        return _of_file(box, test, train, shots, seed)
    if shots is not None and (train is None or shots < 1):
        raise UsageError(
            f"--shots {shots} draws from a training folder; expected 1 or more, with --train DIR"
        )
    tests = labelled_images(test)
    result = Evaluation()
    if train is None:
        box.require_same_space()
        learned = box.learned().answering
        if not learned.names:
            raise Conflict(
                "nothing has been taught, so there is nothing to evaluate",
                hint="teach classes first, or name a folder to teach from with --train DIR",
            )
    else:
        learned = _taught(box, drawn(labelled_images(train), shots, seed), result, progress)
    result.head = learned.choice.served.describe()
    result.reason = learned.choice.reason
    result.classes = len(learned.state)
    result.digest = learned.state.digest()
    if train is None:
        rows = [row for row in box.classes() if not row.disabled]
        result.shots = sum(row.shots for row in rows)
        resolved = {
            class_key(label): row.name for row in rows for label in (row.name, *row.aliases)
        }
        tests = _renamed(tests, resolved)
    if not set(tests) & set(learned.names.values()):
        raise NotFound(
            f"no folder in {test} bears the name of a taught class: found "
            f"{_some(tests)}; taught are {_some(learned.names.values())}",
            hint="rename the folders, or teach from a folder with --train DIR",
            path=str(test),
        )
    views = box.settings.predict_views
    _score(learned, embedded(box, tests, views, "testing", result.refused, progress), result)
    return result


def protocol(
    box: Box,
    name: str,
    test: Path,
    *,
    train: Path | None = None,
    shots: Sequence[int | None],
    seeds: Sequence[int],
    progress: Progress = lambda *_: None,
) -> Report:
    """Runs a protocol (see `accrue.service.protocols`) on two folders or on an `.npz`.

    Each photo is encoded once, whatever the shots and seeds.

    Raises:
        UsageError: no such protocol, a folder without `train`, or too few classes for it.
    """
    require_protocol(name)  # before any photo is encoded
    refused: list[dict[str, Any]] = []
    if is_file_of_embeddings(test):
        _one_source(train)
        data = read_embeddings(test)
    elif train is None:
        raise UsageError(
            "--protocol teaches and tests many times",
            hint="name the folder to teach from with --train DIR, or give an .npz of embeddings",
        )
    else:
        data, refused = embed_folders(box, labelled_images(train), labelled_images(test), progress)
    report = run_protocol(name, data, box.settings, shots=shots, seeds=seeds, progress=progress)
    report.refused = refused
    return report


def is_file_of_embeddings(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _one_source(train: Path | None) -> None:
    if train is not None:
        raise UsageError(
            f"--train {train} beside an .npz, which has a training part of its own",
            hint="leave --train out",
        )


def _of_file(box: Box, file: Path, train: Path | None, shots: int | None, seed: int) -> Evaluation:
    _one_source(train)
    if shots is not None and shots < 1:
        raise UsageError(f"--shots {shots}; expected 1 or more")
    data = read_embeddings(file)
    result = Evaluation()
    at = data.drawn(shots, seed)
    began = time.perf_counter()
    learned = taught(data, at, data.train_labels[at], box.settings)
    _ = learned.calibration
    result.seconds["learn"] = time.perf_counter() - began
    result.head = learned.choice.served.describe()
    result.reason = learned.choice.reason
    result.classes, result.shots = len(learned.state), len(at)
    result.digest = learned.state.digest()
    names = (data.names[label] for label in data.test_labels)
    _score(learned, zip(names, data.test, strict=True), result)
    del result.seconds["encode_per_photo"]  # nothing was
    return result


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def drawn(photos: dict[str, list[Path]], shots: int | None, seed: int) -> dict[str, list[Path]]:
    """`shots` photos of each class, drawn without replacement; all where it has no more."""
    if shots is None:
        return photos
    rng = np.random.default_rng(seed)
    return {
        name: [paths[i] for i in sorted(rng.permutation(len(paths))[:shots])]
        for name, paths in photos.items()
    }


def _renamed(photos: dict[str, list[Path]], resolved: dict[str, str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name, paths in photos.items():
        found.setdefault(resolved.get(class_key(name), name), []).extend(paths)
    return found


def _taught(
    box: Box, photos: dict[str, list[Path]], result: Evaluation, progress: Progress
) -> Learned:
    manifest = box.bundle.manifest
    state = State(manifest.space_id, manifest.dim)
    kept: list[tuple[str, Rows]] = []
    began = time.perf_counter()
    views = box.settings.views
    for name, row in embedded(box, photos, views, "teaching", result.refused, progress):
        rows = quantise(row)
        state.add(name, rows)
        kept.append((name, rows))
    result.shots = len(kept)
    result.seconds["encode_train"] = time.perf_counter() - began
    began = time.perf_counter()
    learned = Learned(state, kept, {name: name for name in state}, box.settings)
    _ = learned.calibration
    result.seconds["learn"] = time.perf_counter() - began
    return learned


def _score(learned: Learned, tests: Iterable[tuple[str, Any]], result: Evaluation) -> None:
    """Asks for each (class name, float32 (views, dim))."""
    known = set(learned.names.values())
    right: Counter[str] = Counter()
    tested: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    began, deciding = time.perf_counter(), 0.0
    for name, views in tests:
        start = time.perf_counter()
        decision = learned.decide(views.mean(axis=0)[None])[0]  # as the device answers
        deciding += time.perf_counter() - start
        if name not in known:
            result.never_taught += 1
            result.never_taught_unknown += decision.verdict == UNKNOWN
            continue
        tested[name] += 1
        right[name] += learned.names[decision.class_id] == name
        verdicts[decision.verdict] += 1
    result.photos = tested.total()
    if result.photos:
        result.accuracy = right.total() / result.photos
    result.per_class = {
        name: {"accuracy": right[name] / n, "photos": n} for name, n in sorted(tested.items())
    }
    result.verdicts = dict(verdicts)
    photos = max(result.photos + result.never_taught, 1)
    encoding = time.perf_counter() - began - deciding
    result.seconds |= {"encode_per_photo": encoding / photos, "decide_per_photo": deciding / photos}
