"""The questions of `accrue evaluate --protocol`: shots, sessions, unknown, noise.

Each answers for the learner as it is set up, over several draws, from embeddings made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.errors import UsageError
from accrue.learn import State, quantise
from accrue.learn.decision import SURE, UNKNOWN
from accrue.learn.leave_one_out import familiarity
from accrue.learn.statistics import Floats, Rows
from accrue.service.box import Learned
from accrue.service.embeddings import Embeddings, Labels, Progress
from accrue.service.settings import Settings

Numbers = dict[str, float]
Run = tuple[str, int, Numbers]  # setting, seed, measurements: shares from 0 to 1

SESSIONS = 10
NEVER_TAUGHT = 0.25  # share of the classes
NOISE = (0.1, 0.2, 0.3, 0.4)  # shares of wrong labels


@dataclass
class Report:
    """What came out.

    Attributes:
        settings: mean and standard deviation over the seeds, by setting and measurement.
        runs: every measurement: setting, seed, and the numbers.
        refused: photos that could not be read.
    """

    protocol: str
    seeds: list[int]
    settings: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


def run_protocol(
    name: str,
    data: Embeddings,
    settings: Settings,
    *,
    shots: Sequence[int | None],
    seeds: Sequence[int],
    progress: Progress = lambda *_: None,
) -> Report:
    """Measures, for each setting and seed.

    Args:
        name: a key of `PROTOCOLS`.
        shots: of a class, None for all. `shots` and `unknown` measure each, `sessions` and `noise`
            the last.

    Raises:
        UsageError: no such protocol, or fewer than two classes to teach.
    """
    require_protocol(name)
    if len(np.unique(data.train_labels)) < 2:
        raise UsageError(f"protocol {name} needs two classes to teach; found 1")
    settings_of, measure = PROTOCOLS[name]
    report = Report(name, list(seeds))
    cells = [(setting, value, seed) for setting, value in settings_of(shots) for seed in seeds]
    for done, (setting, value, seed) in enumerate(cells, 1):
        numbers = measure(data, settings, value, seed)
        report.runs.append({"setting": setting, "seed": seed, **numbers})
        progress(name, done, len(cells))
    for setting in dict.fromkeys(setting for setting, _, _ in cells):
        runs = [run for run in report.runs if run["setting"] == setting]
        report.settings[setting] = {
            key: _spread([run[key] for run in runs]) for key in runs[0] if key not in _KEYS
        }
    return report


def require_protocol(name: str) -> None:
    """Raises UsageError where there is no such protocol."""
    if name not in PROTOCOLS:
        raise UsageError(f"protocol {name!r}; expected {', '.join(PROTOCOLS)}", found=name)


_KEYS = ("setting", "seed")


def _spread(values: list[float]) -> dict[str, float]:
    known = np.array([value for value in values if math.isfinite(value)])
    return {
        "mean": float(known.mean()) if len(known) else math.nan,
        "sd": float(known.std(ddof=1)) if len(known) > 1 else 0.0,
    }


# ---- the learner -------------------------------------------------------------------------------


def taught(data: Embeddings, at: Labels, labels: Labels, settings: Settings) -> Learned:
    """A learner of the training rows at `at`, with these labels; a shot is all views of a photo."""
    state = State("0" * 64, data.dim)
    kept: list[tuple[str, Rows]] = []
    for i, label in zip(at, labels, strict=True):
        kept.append((f"{label:06d}", quantise(data.train[i])))
        state.add(*kept[-1])
    return Learned(state, kept, {c: data.names[int(c)] for c in state}, settings)


def scored(learned: Learned, x: NDArray[Any]) -> Floats:
    """Scores of the mean of each query's views, (m, views, dim): float64 (m, n_classes)."""
    return learned.choice.served.scores(x.mean(axis=1))


def answers(learned: Learned, x: NDArray[Any]) -> tuple[Labels, Floats, list[str]]:
    """Label (m,), familiarity (m,) and verdict of queries (m, views, dim)."""
    scores = scored(learned, x)
    ids = learned.choice.served.ids
    decided = [learned.calibration.decide(row, ids) for row in scores]
    labels = np.array([int(d.class_id) for d in decided], np.intp)
    return labels, familiarity(scores), [d.verdict for d in decided]


def to_look_at(learned: Learned) -> Labels:
    """Positions of the kept shots, the most doubtful first: by left-out margin."""
    left_out = learned.choice.left_out
    return left_out.shots[np.argsort(left_out.margin, kind="stable")]


# ---- the protocols -----------------------------------------------------------------------------


def _by_shots(shots: Sequence[int | None]) -> list[tuple[str, Any]]:
    return [("all" if k is None else str(k), k) for k in shots]


def _last_shots(shots: Sequence[int | None]) -> list[tuple[str, Any]]:
    return _by_shots(shots[-1:])


def _by_noise(shots: Sequence[int | None]) -> list[tuple[str, Any]]:
    return [(f"{share:.0%}", (share, shots[-1])) for share in NOISE]


def _shots(data: Embeddings, settings: Settings, shots: int | None, seed: int) -> Numbers:
    """`accuracy`; `sure`, the share of photos that got a sure answer, and `sure_right` of those;
    `unknown`, the share called unknown. Test photos of taught classes alone."""
    at = data.drawn(shots, seed)
    learned = taught(data, at, data.train_labels[at], settings)
    tested = np.isin(data.test_labels, data.train_labels)
    labels, _, verdicts = answers(learned, data.test[tested])
    right = labels == data.test_labels[tested]
    sure = np.array([v == SURE for v in verdicts])
    return {
        "accuracy": mean_where(right, right | True),
        "sure": mean_where(sure, right | True),
        "sure_right": mean_where(right, sure),
        "unknown": float(np.mean([v == UNKNOWN for v in verdicts])),
    }


def _sessions(data: Embeddings, settings: Settings, shots: int | None, seed: int) -> Numbers:
    """Ten sessions of new classes in an order drawn by the seed. `last` and `average` accuracy on
    the classes so far, and `forgetting`."""
    order = np.random.default_rng(seed).permutation(np.unique(data.train_labels))
    sessions = [part for part in np.array_split(order, SESSIONS) if len(part)]
    drawn = data.drawn(shots, seed)
    so_far: list[float] = []
    by_session: list[list[float]] = []
    for number in range(len(sessions)):
        known = np.concatenate(sessions[: number + 1])
        at = drawn[np.isin(data.train_labels[drawn], known)]
        learned = taught(data, at, data.train_labels[at], settings)
        tested = np.isin(data.test_labels, known)
        if not tested.any():
            so_far.append(math.nan)
            by_session.append([math.nan] * (number + 1))
            continue
        labels = data.test_labels[tested]
        right = answers(learned, data.test[tested])[0] == labels
        so_far.append(float(right.mean()))
        by_session.append([mean_where(right, np.isin(labels, s)) for s in sessions[: number + 1]])
    return {
        "last": so_far[-1],
        "average": float(np.nanmean(so_far)) if np.isfinite(so_far).any() else math.nan,
        "forgetting": forgetting(by_session),
    }


def _unknown(data: Embeddings, settings: Settings, shots: int | None, seed: int) -> Numbers:
    """A quarter of the classes is never taught. `auroc` of the familiarity; `false_rejects` and
    `caught`, the shares of known and of never-taught photos that are answered as unknown."""
    classes = np.random.default_rng(seed).permutation(len(data.names))
    unknown = classes[: max(1, int(NEVER_TAUGHT * len(classes)))]
    at = data.drawn(shots, seed)
    at = at[~np.isin(data.train_labels[at], unknown)]
    if len(np.unique(data.train_labels[at])) < 2:
        raise UsageError("protocol unknown needs more classes: fewer than two are left to teach")
    learned = taught(data, at, data.train_labels[at], settings)
    taught_too = np.isin(data.test_labels, data.train_labels[at])
    _, known, verdicts = answers(learned, data.test)
    refused = np.array([v == UNKNOWN for v in verdicts])
    return {
        "auroc": auroc(known[taught_too], known[~taught_too]),
        "false_rejects": mean_where(refused, taught_too),
        "caught": mean_where(refused, ~taught_too),
    }


def _noise(
    data: Embeddings, settings: Settings, setting: tuple[float, int | None], seed: int
) -> Numbers:
    """A share of the labels is wrong. `accuracy` on right ones, and `found`, the share of the
    wrong labels in the first third of what `to_look_at` lists."""
    share, shots = setting
    at = data.drawn(shots, seed)
    noisy, wrong = mislabelled(data.train_labels[at], share, seed)
    learned = taught(data, at, noisy, settings)
    tested = np.isin(data.test_labels, data.train_labels)
    right = answers(learned, data.test[tested])[0] == data.test_labels[tested]
    first = to_look_at(learned)[: len(at) // 3]
    return {
        "accuracy": mean_where(right, right | True),
        "found": float(wrong[first].sum() / wrong.sum()) if wrong.any() else math.nan,
    }


SettingsOf = Callable[[Sequence[int | None]], list[tuple[str, Any]]]
Measure = Callable[[Embeddings, Settings, Any, int], Numbers]
PROTOCOLS: dict[str, tuple[SettingsOf, Measure]] = {
    "shots": (_by_shots, _shots),
    "sessions": (_last_shots, _sessions),
    "unknown": (_by_shots, _unknown),
    "noise": (_by_noise, _noise),
}


# ---- what is counted ---------------------------------------------------------------------------


def mean_where(hits: NDArray[Any], where: NDArray[np.bool_]) -> float:
    """Mean of `hits` at `where`; nan where there is nothing."""
    return float(hits[where].mean()) if where.any() else math.nan


def auroc(positive: Floats, negative: Floats) -> float:
    """Chance that a positive ranks above a negative; ties count half (Mann and Whitney 1947).

    nan where there are none of the one or the other.
    """
    if not len(positive) or not len(negative):
        return math.nan
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).mean() / 2 / len(negative))


def forgetting(by_session: Sequence[Sequence[float]]) -> float:
    """Mean over the earlier sessions of the best accuracy that their classes ever had, less the
    last (Chaudhry et al. 2018, eq. 3); nan with one session.

    Args:
        by_session: after session l, the accuracy on the classes of each session up to l; nan
            where none of them was tested.
    """
    lost = []
    for j in range(len(by_session) - 1):
        before = [after[j] for after in by_session[j:-1] if math.isfinite(after[j])]
        if before:
            lost.append(max(before) - by_session[-1][j])
    return float(np.nanmean(lost)) if np.isfinite(lost).any() else math.nan


def mislabelled(labels: Labels, share: float, seed: int) -> tuple[Labels, NDArray[np.bool_]]:
    """Labels of which `share` were changed to another class that there is, and which (n,)."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    place = np.searchsorted(classes, labels)
    moved = (place + rng.integers(1, len(classes), size=len(labels))) % len(classes)
    return np.where(wrong, classes[moved], labels), wrong
