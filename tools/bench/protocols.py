"""The protocols of `accuracy`: what is taught, in which order, and what is counted.

Each protocol lists its settings and measures one method under one setting with one seed; a
measurement is a flat dict of numbers, shares from 0 to 1. A protocol never shows a method a test
row or label before it is asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from accrue_learner import AccrueLearner
from embeddings import Data, Labels
from numpy.typing import NDArray
from peers import PEERS, Peer, ZeroShot
from peers.base import Floats, queries, samples
from peers.gda import Gda

from accrue.service.protocols import auroc, forgetting, mean_where, mislabelled

Numbers = dict[str, float]
METHODS: dict[str, type[Peer]] = {kind.name: kind for kind in (AccrueLearner, *PEERS)}


@dataclass(frozen=True)
class Options:
    """What the call chose.

    Attributes:
        shots: of a class; None for all. base, step: classes of the first and of each later
            session, 0 for half and a tenth of them.
    """

    shots: tuple[int | None, ...] = (1, 2, 5, 10, None)
    base: int = 0
    step: int = 0
    novel_shots: int = 5
    noise: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    left_out: float = 0.25


def shots_name(shots: int | None) -> str:
    return "all" if shots is None else str(shots)


def shots_of(name: str) -> int | None:
    return None if name == "all" else int(name)


def accuracy(learner: Peer, data: Data, at: Labels | None = None) -> float:
    """Share of the test rows (those at `at`) that get their own label; nan without rows."""
    pick = np.arange(len(data.test)) if at is None else at
    if len(pick) == 0:
        return math.nan
    return float((learner.predict(data.test[pick]) == data.test_labels[pick]).mean())


def harmonic(a: float, b: float) -> float:
    """Harmonic mean; 0 where one of them is."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


class Protocol:
    """One question.

    Attributes:
        seeds: at most, where an answer is dear. shown: measurements in the tables, with headings.
        plain: those of them that are no share of 1.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    seeds: ClassVar[int] = 100
    shown: ClassVar[dict[str, str]]
    plain: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Options) -> None:
        self.options = options

    def settings(self, data: Data) -> list[str]:
        raise NotImplementedError

    def methods(self) -> list[str]:
        return list(METHODS)

    def same_for_all_seeds(self, method: str, setting: str) -> bool:
        return False

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        raise NotImplementedError


class Shots(Protocol):
    name = "shots"
    about = "k shots a class, drawn by the seed; accuracy on the test photos of taught classes"
    shown: ClassVar = {"accuracy": "accuracy", "fit_s": "fit, s", "class_bytes": "bytes a class"}
    plain = ("fit_s", "class_bytes")

    def settings(self, data: Data) -> list[str]:
        return [shots_name(k) for k in self.options.shots]

    def same_for_all_seeds(self, method: str, setting: str) -> bool:
        return setting == "all" and not METHODS[method].seeded

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        at = data.drawn(shots_of(setting), seed)
        learner = METHODS[method](seed)
        start = time.perf_counter()
        learner.fit(data.train[at], data.train_labels[at])
        learner.predict(data.test[:1])  # some solve when first asked
        fit_s = time.perf_counter() - start
        taught = np.flatnonzero(np.isin(data.test_labels, learner.classes))
        start = time.perf_counter()
        right = accuracy(learner, data, taught)
        n_bytes = learner.n_bytes()
        return {
            "accuracy": right,
            "fit_s": fit_s,
            "predict_ms": 1e3 * (time.perf_counter() - start) / max(len(taught), 1),
            "bytes": n_bytes,
            "class_bytes": n_bytes / len(learner.classes),
        }


class Sessions(Protocol):
    """Class-incremental learning.

    `few-shot`: a base of all rows, then sessions of `novel_shots` rows a class (Tao et al. 2020).
    `equal`: sessions of `step` classes from the start, with all their rows.

    Measurements: `last` and `average` accuracy over the sessions on all classes so far;
    `forgetting`, the mean over earlier sessions of the best accuracy that their classes ever had
    less the last (Chaudhry et al. 2018, eq. 3); `harmonic`, the harmonic mean of the last accuracy
    on the classes of the first session (`base`) and on the others (`new`).
    """

    name = "sessions"
    about = "classes come in sessions, in an order drawn by the seed"
    seeds = 3
    shown: ClassVar = {
        "last": "last",
        "average": "average",
        "forgetting": "forgetting",
        "base": "base",
        "new": "new",
        "harmonic": "harmonic",
    }

    def settings(self, data: Data) -> list[str]:
        return ["few-shot", "equal"]

    def plan(self, data: Data, setting: str, seed: int) -> list[Labels]:
        """The classes of each session."""
        order = np.random.default_rng(seed).permutation(np.unique(data.train_labels))
        step = self.options.step or max(1, math.ceil(len(order) / 10))
        base = step
        if setting == "few-shot":
            base = self.options.base or math.ceil(len(order) / 2)
        cuts = range(base, len(order), step)
        return [part for part in np.split(order, list(cuts)) if len(part)]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        sessions = self.plan(data, setting, seed)
        learner = METHODS[method](seed)
        few = data.drawn(self.options.novel_shots, seed)
        so_far: list[float] = []
        by_session: list[list[float]] = []  # after session l, on the classes of session j
        for number, classes in enumerate(sessions):
            at = np.flatnonzero(np.isin(data.train_labels, classes))
            if setting == "few-shot" and number:
                at = np.intersect1d(at, few)
            learner.partial_fit(data.train[at], data.train_labels[at])
            known = np.concatenate(sessions[: number + 1])
            tested = np.flatnonzero(np.isin(data.test_labels, known))
            labels = data.test_labels[tested]
            right = learner.predict(data.test[tested]) == labels
            so_far.append(float(right.mean()))
            by_session.append(
                [mean_where(right, np.isin(labels, past)) for past in sessions[: number + 1]]
            )
        base = by_session[-1][0]
        new = mean_where(right, ~np.isin(labels, sessions[0]))
        return {
            "last": so_far[-1],
            "average": float(np.mean(so_far)),
            "forgetting": forgetting(by_session),
            "base": base,
            "new": new,
            "harmonic": harmonic(base, new),
            "sessions": len(sessions),
        }


class Streams(Protocol):
    """Old and new classes mixed.

    `generalised`: each session has a random half of the classes, and the rows of a class are dealt
    at random over the sessions that have it (Mi et al. 2020). `si-blurry`: half of the classes are
    disjoint, the others leave a tenth of their rows to other sessions; both are dealt over
    sessions of random size (Moon et al. 2023). Five sessions, measured after each.
    """

    name = "streams"
    about = "five sessions in which classes come again"
    seeds = 3
    shown: ClassVar = {"last": "last", "average": "average"}
    SESSIONS: ClassVar[int] = 5
    BLURRY: ClassVar[float] = 0.1  # share of a blurry class's rows that go elsewhere

    def settings(self, data: Data) -> list[str]:
        return ["generalised", "si-blurry"]

    def plan(self, data: Data, setting: str, seed: int) -> list[Labels]:
        """The training rows of each session."""
        rng = np.random.default_rng(seed)
        classes = np.unique(data.train_labels)
        session = np.empty(len(data.train_labels), np.intp)
        if setting == "generalised":
            has = rng.random((len(classes), self.SESSIONS)) < 0.5
            has[np.arange(len(classes)), rng.integers(self.SESSIONS, size=len(classes))] = True
            for k, label in enumerate(classes):
                at = np.flatnonzero(data.train_labels == label)
                session[at] = rng.choice(np.flatnonzero(has[k]), len(at))
        else:
            home = rng.integers(self.SESSIONS, size=len(classes))
            session[:] = home[np.searchsorted(classes, data.train_labels)]
            blurry = rng.permutation(classes)[: len(classes) // 2]
            leaves = np.isin(data.train_labels, blurry) & (rng.random(len(session)) < self.BLURRY)
            session[leaves] = rng.integers(self.SESSIONS, size=int(leaves.sum()))
        parts = [rng.permutation(np.flatnonzero(session == s)) for s in range(self.SESSIONS)]
        return [part for part in parts if len(part)]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        learner = METHODS[method](seed)
        so_far = []
        for at in self.plan(data, setting, seed):
            learner.partial_fit(data.train[at], data.train_labels[at])
            tested = np.flatnonzero(np.isin(data.test_labels, learner.classes))
            so_far.append(accuracy(learner, data, tested))
        return {"last": so_far[-1], "average": known_mean(so_far)}


class Imbalance(Protocol):
    """A long tail: class number r of C has ``most * ratio^(-r / (C - 1))`` rows, in an order of
    classes drawn by the seed. Accuracy is the mean over classes; `many` and `few` are those of the
    third of the classes with the most and the fewest rows."""

    name = "imbalance"
    about = "a long tail, from 20 rows a class down to 1; mean accuracy of classes"
    shown: ClassVar = {"accuracy": "all classes", "many": "many rows", "few": "few rows"}
    MOST: ClassVar[int] = 20

    def settings(self, data: Data) -> list[str]:
        return [f"1:{self.MOST}"]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        rng = np.random.default_rng(seed)
        order = rng.permutation(np.unique(data.train_labels))
        counts = self.MOST ** (1 - np.arange(len(order)) / max(len(order) - 1, 1))
        at = np.concatenate(
            [
                rng.permutation(np.flatnonzero(data.train_labels == label))[: max(1, round(n))]
                for label, n in zip(order, counts, strict=True)
            ]
        )
        at = rng.permutation(at)
        learner = METHODS[method](seed).fit(data.train[at], data.train_labels[at])
        right = learner.predict(data.test) == data.test_labels
        by_class = {c: mean_where(right, data.test_labels == c) for c in order}
        third = max(1, len(order) // 3)
        groups = {"accuracy": order, "many": order[:third], "few": order[-third:]}
        return {name: known_mean([by_class[c] for c in part]) for name, part in groups.items()}


def known_mean(values: Sequence[float]) -> float:
    """Of the values that are no nan; nan where all are."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


class BaseToNew(Protocol):
    """The first half of the classes is taught, the others exist by their names alone (Zhou et al.
    2022, CoOp's protocol): accuracy among the base classes, among the new ones, their harmonic
    mean, and accuracy of all photos among all classes."""

    name = "base-to-new"
    about = "half of the classes taught by 16 shots, the others by name"
    shown: ClassVar = {"base": "base", "new": "new", "harmonic": "harmonic", "all": "among all"}
    SHOTS: ClassVar[int] = 16

    def settings(self, data: Data) -> list[str]:
        return [str(self.SHOTS)] if data.text is not None else []

    def methods(self) -> list[str]:
        return [AccrueLearner.name, ZeroShot.name, "Tip-Adapter", "GDA"]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        assert data.text is not None
        kind = ZeroShot if method == ZeroShot.name else METHODS[method]
        order = np.arange(data.classes)
        base = order[: math.ceil(len(order) / 2)]
        at = data.drawn(self.SHOTS, seed)
        at = at[np.isin(data.train_labels[at], base)]
        learner = kind(seed, text=data.text.astype(np.float64))
        learner.fit(data.train[at], data.train_labels[at])
        learner.name_classes([int(c) for c in order])
        scores = learner.scores(data.test)  # (m, C) in the order of learner.classes
        column = np.argsort(learner.classes)
        scores = scores[:, column]
        is_base = np.isin(data.test_labels, base)
        right = {
            "base": (base[scores[:, base].argmax(axis=1)] == data.test_labels, is_base),
            "all": (scores.argmax(axis=1) == data.test_labels, is_base | True),
        }
        new = order[len(base) :]
        right["new"] = (new[scores[:, new].argmax(axis=1)] == data.test_labels, ~is_base)
        found = {name: mean_where(hits, where) for name, (hits, where) in right.items()}
        return found | {"harmonic": harmonic(found["base"], found["new"])}


class OpenSet(Protocol):
    """A quarter of the classes is never taught; their test photos should rank below the others.

    The simple scores are those of a gaussian classifier (`peers.gda`): its largest softmax and
    logit; the cosine to the nearest class mean; Mahalanobis distance to the nearest class mean
    (Lee et al. 2018), and that less the distance to the mean of all rows under the covariance of
    all rows (Ren et al. 2021, eq. 3).

    Measurements: `auroc`; `false_accepts` at a threshold that refuses 5 % of the known photos;
    for Accrue also `false_rejects` and `caught`, the shares of known and of unknown photos that
    it refuses by its own threshold, which never saw a test photo.
    """

    name = "open-set"
    about = "a quarter of the classes never taught: are they known as unknown?"
    shown: ClassVar = {
        "auroc": "AUROC",
        "false_accepts": "false accepts at 5 % rejects",
        "false_rejects": "rejects at own threshold",
        "caught": "unknown caught there",
    }
    REJECT: ClassVar[float] = 0.05

    def settings(self, data: Data) -> list[str]:
        several = [k for k in self.options.shots if k is None or k >= 5]
        return [shots_name(k) for k in several]

    def methods(self) -> list[str]:
        return [AccrueLearner.name, *SIMPLE_SCORES]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        order = np.random.default_rng(seed).permutation(data.classes)
        unknown = order[: int(self.options.left_out * data.classes)]
        at = data.drawn(shots_of(setting), seed)
        at = at[~np.isin(data.train_labels[at], unknown)]
        rows, labels = data.train[at], data.train_labels[at]
        is_known = ~np.isin(data.test_labels, unknown)
        found: Numbers = {}
        if method == AccrueLearner.name:
            learner = AccrueLearner(seed)
            learner.fit(rows, labels)
            score, refused = learner.known(data.test)
            found["false_rejects"] = mean_where(refused, is_known)
            found["caught"] = mean_where(refused, ~is_known)
        else:
            score = SIMPLE_SCORES[method](rows, labels, data.test)
        found["auroc"] = auroc(score[is_known], score[~is_known])
        threshold = np.quantile(score[is_known], self.REJECT)
        found["false_accepts"] = float((score[~is_known] >= threshold).mean())
        return found


def _gaussian(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    return Gda().fit(rows, labels).scores(x)


def _max_logit(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    return np.asarray(_gaussian(rows, labels, x).max(axis=1))


def _max_softmax(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    logits = _gaussian(rows, labels, x)
    return np.asarray(-np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)))


def _cosine(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    return np.asarray(METHODS["SimpleCIL (NMC)"]().fit(rows, labels).scores(x).max(axis=1))


def _mahalanobis(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    return -_distances(rows, labels, x)[0]


def _relative(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> Floats:
    near, background = _distances(rows, labels, x)
    return background - near


def _distances(rows: NDArray[Any], labels: Labels, x: NDArray[Any]) -> tuple[Floats, Floats]:
    """Squared Mahalanobis distance to the nearest class mean and to the mean of all rows, each
    under its covariance, shrunk as by `peers.gda`."""
    z, owners = samples(rows, labels)
    q = queries(x)
    means = np.stack([z[owners == c].mean(axis=0) for c in np.unique(owners)])
    centred = z - means[np.searchsorted(np.unique(owners), owners)]
    within = _precision(centred)
    mu = z.mean(axis=0)
    total = _precision(z - mu)
    xp = q @ within
    squares = (xp * q).sum(axis=1)[:, None] - 2 * xp @ means.T
    squares = squares + ((means @ within) * means).sum(axis=1)
    background = (((q - mu) @ total) * (q - mu)).sum(axis=1)
    return squares.min(axis=1), background


def _precision(centred: Floats) -> Floats:
    n, dim = centred.shape
    cov = centred.T @ centred / max(n - 1, 1)
    spread = max(float(np.trace(cov)), 1e-9)
    return dim * np.linalg.inv((n - 1) * cov + spread * np.eye(dim))


SIMPLE_SCORES: dict[str, Callable[[NDArray[Any], Labels, NDArray[Any]], Floats]] = {
    "max-softmax": _max_softmax,
    "max-logit": _max_logit,
    "cosine": _cosine,
    "Mahalanobis": _mahalanobis,
    "relative Mahalanobis": _relative,
}


class Noise(Protocol):
    """A share of the training labels is wrong, each another class drawn at random.

    `found`: share of the wrong ones in the first third of the shots that the learner would have
    looked at first; chance is a third. Only Accrue has such a list.
    """

    name = "noise"
    about = "wrong labels among the shots; tested on right ones"
    seeds = 3
    shown: ClassVar = {"accuracy": "accuracy", "found": "wrong labels in the first third"}

    def settings(self, data: Data) -> list[str]:
        shots = shots_name(self.options.shots[-1])
        return [f"{share:.0%} of {shots}" for share in self.options.noise]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        share, _, shots = setting.partition("% of ")
        at = data.drawn(shots_of(shots), seed)
        noisy, wrong = mislabelled(data.train_labels[at], float(share) / 100, seed)
        learner = METHODS[method](seed).fit(data.train[at], noisy)
        found = {"accuracy": accuracy(learner, data)}
        if isinstance(learner, AccrueLearner):
            first = learner.suspects()[: len(at) // 3]
            found["found"] = float(wrong[first].sum() / max(wrong.sum(), 1))
        return found


class Invariance(Protocol):
    """The same five shots a class in one batch, and in another order in batches of random size:
    `same`, the share of test photos that get the same label; `off_by`, the largest difference of
    a score, relative to the largest score; `digest`, 1 where the state's SHA-256 is the same."""

    name = "invariance"
    about = "the same shots in another order and in other batches"
    seeds = 2
    shown: ClassVar = {"same": "same answers", "off_by": "scores off by", "digest": "same digest"}
    plain = ("off_by",)
    SHOTS: ClassVar[int] = 5
    BATCHES: ClassVar[int] = 4

    def settings(self, data: Data) -> list[str]:
        return ["order and batches"]

    def measure(self, data: Data, method: str, setting: str, seed: int) -> Numbers:
        rng = np.random.default_rng(seed)
        at = data.drawn(self.SHOTS, seed)
        whole = METHODS[method](seed).fit(data.train[at], data.train_labels[at])
        parts = METHODS[method](seed)
        cuts = np.sort(rng.choice(np.arange(1, len(at)), self.BATCHES - 1, replace=False))
        for part in np.split(rng.permutation(at), cuts):
            parts.partial_fit(data.train[part], data.train_labels[part])
        first, second = _in_order(whole, data), _in_order(parts, data)
        found = {
            "same": float((first.argmax(axis=1) == second.argmax(axis=1)).mean()),
            "off_by": float(np.abs(first - second).max() / np.abs(first).max()),
        }
        if isinstance(whole, AccrueLearner) and isinstance(parts, AccrueLearner):
            found["digest"] = float(whole.digest() == parts.digest())
        return found


def _in_order(learner: Peer, data: Data) -> Floats:
    return learner.scores(data.test)[:, np.argsort(learner.classes)]


PROTOCOLS: dict[str, type[Protocol]] = {
    kind.name: kind
    for kind in (Shots, Sessions, Streams, Imbalance, BaseToNew, OpenSet, Noise, Invariance)
}


@dataclass(frozen=True)
class Cell:
    """One measurement: a method in a protocol, under a setting, with a seed.

    `views` is "one" (view 0 alone) or "same" (all views that the file has)."""

    protocol: str
    method: str
    views: str
    setting: str
    seed: int

    def key(self) -> str:
        return "|".join([self.protocol, self.method, self.views, self.setting, str(self.seed)])


def cells(protocol: Protocol, data: Data, methods: Sequence[str], seeds: int) -> Iterable[Cell]:
    """All measurements of a protocol, setting by setting."""
    for setting in protocol.settings(data):
        for views in ("one", "same") if data.has_views else ("one",):
            for method in protocol.methods():
                if methods and method not in methods:
                    continue
                drawn = 1 if protocol.same_for_all_seeds(method, setting) else seeds
                for seed in range(min(drawn, protocol.seeds)):
                    yield Cell(protocol.name, method, views, setting, seed)


def measure(protocol: Protocol, data: Data, cell: Cell) -> Numbers:
    used = data if cell.views == "same" else data.one_view()
    used = replace(used, text=data.text)
    return protocol.measure(used, cell.method, cell.setting, cell.seed)
