"""Times learning and predicting beside scikit-learn and river, on the same rows in the same run.

    python tools/bench/heads.py [--quick] [--json FILE] [--classes 10,100] [--dims 512,1280]

Figures, per dimension and number of classes, with `--shots` shots a class:

* one shot: from one more embedding to a head that uses it. What a contestant puts off until it is
  next asked is counted: teaching, plus the first prediction after it, less an ordinary prediction.
  For scikit-learn, which cannot add a row to these classifiers, that is a refit.
* new class: the same for the first shot of a class, the largest of five.
* predict: one query, the scores of every class and the best of them.
* cold: the head from all rows, as when a device starts.
* memory: bytes that the fitted contestant holds, with what it needs to learn the next shot (rows
  or statistics), as tracemalloc counts them in a process of its own.
* off by: largest difference to an independent result, relative to the largest score. For Accrue's
  heads that is an exact solve, every so many shots; for LDA and RidgeClassifier it is Accrue's
  gaussian and ridge head with the same regularisation on the same rows.

Contestants take turns, in random order, so that what else the machine does hits all of them.
Rows are random (class means, and noise whose spectrum falls off); times do not depend on that.
Peers get float64 rows, as Accrue computes in float64; `--peer-dtype float32` gives them float32.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from common import (
    Clock,
    Spread,
    describe_machine,
    find_accrue,
    machine_line,
    progress,
    sig,
    size,
    table,
    write_json,
)
from numpy.typing import NDArray

find_accrue()

from accrue.learn import HEADS, SCALE, Gaussian, Learner, State, quantise  # noqa: E402

SEED = 20261121
SPACE = "0" * 64
N_QUERIES = 50
N_NEW = 5
N_CHECKS = 5
MEMORY_SHARE = 0.6  # of what is available; a contestant that needs more is left out
REFIT_LIMIT_S = 60.0
FORESEE_FROM = 100  # classes; with fewer, what does not grow with them is most of a refit
SPIN_S = 0.03  # OpenBLAS's idle threads spin this long, on the next contestant's cores
PACKAGES = ("accrue", "numpy", "scipy", "scikit-learn", "river")
Floats = NDArray[Any]


@dataclass(frozen=True)
class Data:
    """Rows to start from, shots to add, and queries.

    Attributes:
        rows: int16 (n, dim), sorted by class.
        labels: int (n,).
        shots: float32 (m + N_NEW, dim) embeddings to add one by one.
        shot_labels: int (m + N_NEW,); the last N_NEW are of one new class each.
        queries: float32 (N_QUERIES, dim).
        query_labels: int (N_QUERIES,).
    """

    rows: NDArray[np.int16]
    labels: NDArray[np.intp]
    shots: NDArray[np.float32]
    shot_labels: NDArray[np.intp]
    queries: NDArray[np.float32]
    query_labels: NDArray[np.intp]

    @classmethod
    def random(cls, dim: int, classes: int, per_class: int, n_shots: int) -> Data:
        rng = np.random.default_rng((SEED, dim, classes))
        centre = rng.normal(size=dim).astype(np.float32)
        means = rng.normal(size=(classes + N_NEW, dim)).astype(np.float32) * 0.5 + centre
        spread = (1.6 * (1 + np.arange(dim)) ** -0.25).astype(np.float32)

        def draw(labels: NDArray[np.intp]) -> NDArray[np.float32]:
            noise = rng.standard_normal((len(labels), dim), np.float32)
            x: NDArray[np.float32] = means[labels] + noise * spread
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            return x

        labels = np.repeat(np.arange(classes), per_class)
        rows = np.empty((len(labels), dim), np.int16)
        for start in range(0, len(labels), 4096):
            rows[start : start + 4096] = quantise(draw(labels[start : start + 4096]))
        shot_labels = np.append(rng.integers(classes, size=n_shots), classes + np.arange(N_NEW))
        query_labels = rng.integers(classes, size=N_QUERIES)
        return cls(rows, labels, draw(shot_labels), shot_labels, draw(query_labels), query_labels)


class Contestant(ABC):
    """Something that learns; made with all rows learned, which is its cold start.

    Attributes:
        rival: the Accrue head that it is compared with.
        refits: whether one more shot means fitting all rows again.
    """

    name: ClassVar[str]
    rival: ClassVar[str]
    refits: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, data: Data) -> None: ...

    @abstractmethod
    def learn(self, x: NDArray[np.float32], label: int) -> None:
        """One more embedding, float32 (dim,)."""

    @abstractmethod
    def predict(self, x: NDArray[np.float32]) -> int:
        """The label of one embedding, float32 (dim,)."""


class Accrue(Contestant):
    """One of Accrue's heads, kept in step by `Learner`. Class id = label, zero-padded."""

    head: ClassVar[str]

    def __init__(self, data: Data) -> None:
        state = State(SPACE, data.rows.shape[1])
        starts = np.flatnonzero(np.diff(data.labels, prepend=-1))
        for start, rows in zip(starts, np.split(data.rows, starts[1:]), strict=True):
            state.add(_class_id(int(data.labels[start])), rows)
        self.learner = Learner(state, HEADS[self.head]())

    def learn(self, x: NDArray[np.float32], label: int) -> None:
        self.learner.add(_class_id(label), quantise(x[None]))

    def predict(self, x: NDArray[np.float32]) -> int:
        served = self.learner.served
        return int(served.ids[served.top(x, 1)[0][0]])

    def scores(self, x: NDArray[np.float32]) -> Floats:
        """float64 (n, C), in the order of the labels."""
        order = np.argsort([int(c) for c in self.learner.served.ids])
        return self.learner.scores(x)[:, order]

    def off_by(self, queries: NDArray[np.float32]) -> float:
        """How far the served head has drifted from an exact solve of its state."""
        exact = Learner(self.learner.state, self.learner.head)
        ids = [exact.served.index[c] for c in self.learner.served.ids]
        return _relative(self.learner.scores(queries), exact.scores(queries)[:, ids])


class AccruePrototype(Accrue):
    name = "accrue prototype"
    rival = "accrue prototype"
    head = "prototype"


class AccrueCosine(Accrue):
    name = "accrue cosine"
    rival = "accrue cosine"
    head = "cosine"


class AccrueGaussian(Accrue):
    name = "accrue gaussian"
    rival = "accrue gaussian"
    head = "gaussian"


class AccrueRidge(Accrue):
    name = "accrue ridge"
    rival = "accrue ridge"
    head = "ridge"


class Refit(Contestant):
    """A scikit-learn classifier: keeps the rows (with room for more) and fits them all again."""

    refits = True
    dtype: ClassVar[type] = np.float64

    def __init__(self, data: Data) -> None:
        self.n = len(data.rows)
        self.rows: Floats = np.empty((self.n + len(data.shots), data.rows.shape[1]), self.dtype)
        np.divide(data.rows, SCALE, out=self.rows[: self.n], casting="unsafe")
        self.labels = np.concatenate([data.labels, np.zeros(len(data.shots), np.intp)])
        self.model = self.make(data)
        self.model.fit(self.rows[: self.n], self.labels[: self.n])

    def make(self, data: Data) -> Any:
        raise NotImplementedError

    def learn(self, x: NDArray[np.float32], label: int) -> None:
        self.rows[self.n] = x
        self.labels[self.n] = label
        self.n += 1
        self.model.fit(self.rows[: self.n], self.labels[: self.n])

    def predict(self, x: NDArray[np.float32]) -> int:
        return int(self.model.predict(x[None].astype(self.dtype))[0])

    def scores(self, x: NDArray[np.float32]) -> Floats:
        found: Floats = self.model.decision_function(x.astype(self.dtype))
        return found


class SklearnNearestCentroid(Refit):
    name = "sklearn NearestCentroid"
    rival = "accrue prototype"

    def make(self, data: Data) -> Any:
        return importlib.import_module("sklearn.neighbors").NearestCentroid()


class SklearnLda(Refit):
    """With the shrinkage that Accrue's gaussian head has in force on these rows."""

    name = "sklearn LDA (lsqr, shrinkage)"
    rival = "accrue gaussian"

    def make(self, data: Data) -> Any:
        n, dim = data.rows.shape
        sums = np.add.reduceat(
            data.rows, np.flatnonzero(np.diff(data.labels, prepend=-1)), dtype=np.float64
        )
        counts = np.bincount(data.labels)
        squares = sum(
            float((block.astype(np.float64) ** 2).sum())
            for block in np.array_split(data.rows, 1 + n // 4096)
        )
        within = (squares - float(((sums**2).sum(axis=1) / counts).sum())) / SCALE**2
        rho = Gaussian().ridge(n, dim, within)
        module = importlib.import_module("sklearn.discriminant_analysis")
        return module.LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=rho * dim / (within + rho * dim)
        )


class SklearnRidge(Refit):
    """With a fixed alpha, set by `alpha` to what Accrue's ridge head chose for these rows."""

    name = "sklearn RidgeClassifier"
    rival = "accrue ridge"
    alpha: ClassVar[float] = 1.0

    def make(self, data: Data) -> Any:
        return importlib.import_module("sklearn.linear_model").RidgeClassifier(
            alpha=self.alpha, solver="cholesky"
        )

    def scores(self, x: NDArray[np.float32]) -> Floats:
        return (super().scores(x) + 1) / 2  # its targets are -1 and 1, Accrue's 0 and 1


class River(Contestant):
    """A river classifier, one `learn_one` a row, features as a dict (its only form)."""

    def __init__(self, data: Data) -> None:
        self.model = self.make()
        for row, label in zip(data.rows, data.labels, strict=True):
            self.learn((row / SCALE).astype(np.float32), int(label))

    def make(self) -> Any:
        raise NotImplementedError

    def learn(self, x: NDArray[np.float32], label: int) -> None:
        self.model.learn_one(dict(enumerate(x.tolist())), label)

    def predict(self, x: NDArray[np.float32]) -> int:
        return int(self.model.predict_one(dict(enumerate(x.tolist()))))


class RiverBayes(River):
    """The river classifier nearest in kind: a mean and a variance a class, exact one by one."""

    name = "river GaussianNB"
    rival = "accrue gaussian"

    def make(self) -> Any:
        return importlib.import_module("river.naive_bayes").GaussianNB()


class RiverSoftmax(River):
    """Its linear classifier of many classes: one gradient step a row, so not an exact fit."""

    name = "river SoftmaxRegression"
    rival = "accrue ridge"

    def make(self) -> Any:
        return importlib.import_module("river.linear_model").SoftmaxRegression()


class Product(Contestant):
    """The yardstick for a prediction: one float32 product of a (C, dim) matrix and a vector."""

    name = "numpy float32 W @ x"
    rival = "accrue gaussian"

    def __init__(self, data: Data) -> None:
        rng = np.random.default_rng(SEED)
        shape = int(data.labels[-1]) + 1, data.rows.shape[1]
        self.weights = rng.standard_normal(shape, np.float32)

    def learn(self, x: NDArray[np.float32], label: int) -> None:
        self.weights[label] = x

    def predict(self, x: NDArray[np.float32]) -> int:
        self.weights @ x
        return -1


CONTESTANTS: tuple[type[Contestant], ...] = (
    AccruePrototype,
    AccrueCosine,
    AccrueGaussian,
    AccrueRidge,
    SklearnNearestCentroid,
    SklearnLda,
    SklearnRidge,
    RiverBayes,
    RiverSoftmax,
    Product,
)
RIVER_LARGEST = 100  # classes; at ten times as many a river prediction takes a second


@dataclass
class Result:
    """What one contestant took at one size; times in ms."""

    name: str
    rival: str
    cold: Spread
    memory_bytes: int | None = None
    accuracy: float | None = None
    off_by: float | None = None
    exact_solves: int | None = None
    shot: Spread | None = None
    predict: Spread | None = None
    shot_ratio: float | None = None
    predict_ratio: float | None = None
    predict_to_product: float | None = None
    teach_only: Spread | None = None
    new_class: Spread | None = None


@dataclass
class Times:
    """What the turns of one contestant took, in ms: teaching, the first prediction after it,
    and ordinary predictions."""

    teach: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    ordinary: list[float] = field(default_factory=list)

    def shot(self, ordinary_ms: float) -> Spread:
        """Teaching, and what the first prediction costs beyond an ordinary one."""
        return Spread.of([a + b - ordinary_ms for a, b in zip(self.teach, self.first, strict=True)])


class Bench:
    """One run over all sizes; remembers how long refits took, so as to foresee the next."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.refit_s: dict[tuple[str, int], tuple[int, float]] = {}  # (classes, seconds)

    def size(self, dim: int, classes: int) -> dict[str, Any]:
        """All contestants at one size."""
        options = self.options
        data = Data.random(dim, classes, options.shots, options.rounds)
        progress(f"d={dim}, {classes:,} classes, {len(data.rows):,} rows")
        playing: list[tuple[Contestant, Result]] = []
        skipped: list[dict[str, str]] = []
        for kind in CONTESTANTS:
            reason = self.reason_to_skip(kind, dim, classes)
            if reason:
                progress(f"  {kind.name}: left out, {reason}")
                skipped.append({"name": kind.name, "reason": reason})
            else:
                playing.append(self.enter(kind, data))
                if kind.name == AccrueRidge.name:
                    SklearnRidge.alpha = vars(playing[-1][0])["learner"].served.lam
        self.judge(playing, data)
        self.play(playing, data)
        check_exact(playing, data)
        for contestant, result in playing:
            if isinstance(contestant, Accrue):
                result.exact_solves = contestant.learner.exact_solves
        names = [result.name for _, result in playing]
        kinds = [kind for kind in CONTESTANTS if kind.name in names]
        results = [result for _, result in playing]
        playing.clear()
        gc.collect()
        if not options.no_memory:
            for kind, result in zip(kinds, results, strict=True):
                result.memory_bytes = memory_of(kind, dim, classes, options.shots)
        compare(results)
        return {
            "dim": dim,
            "classes": classes,
            "rows": len(data.rows),
            "contestants": [asdict(result) for result in results],
            "skipped": skipped,
        }

    def reason_to_skip(self, kind: type[Contestant], dim: int, classes: int) -> str:
        package = "sklearn" if issubclass(kind, Refit) else "river"
        if issubclass(kind, (Refit, River)) and importlib.util.find_spec(package) is None:
            return f"{package} is not installed (pip install -r requirements/bench.in)"
        if issubclass(kind, River) and classes > RIVER_LARGEST:
            return f"dicts in Python; beyond {RIVER_LARGEST} classes a prediction takes seconds"
        if issubclass(kind, SklearnRidge):
            needed = 4 * 8 * self.options.shots * classes**2  # one-hot targets and their copies
            free = importlib.import_module("psutil").virtual_memory().available
            if needed > MEMORY_SHARE * free:
                return f"its one-hot targets need about {size(needed)}, {size(free)} are free"
        known = self.refit_s.get((kind.name, dim))
        if known and known[0] >= FORESEE_FROM:
            expected = known[1] * classes / known[0]
            if expected > self.options.refit_limit:
                return f"a refit would take about {expected:.0f} s"
        return ""

    def enter(self, kind: type[Contestant], data: Data) -> tuple[Contestant, Result]:
        """A contestant with all rows learned, up to three times if that is quick."""
        tiny = Data.random(8, 3, 3, 1)
        kind(tiny).predict(tiny.queries[0])  # imports are not its cold start
        times: list[float] = []
        while len(times) < 3 and sum(times) < 1000 * self.options.budget / 4:
            gc.collect()
            clock = Clock()
            contestant = kind(data)
            contestant.predict(data.queries[0])
            times.append(clock.ms)
        result = Result(kind.name, kind.rival, Spread.of(times))
        progress(f"  {kind.name}: cold {result.cold} ms")
        if contestant.refits:
            classes = int(data.labels[-1]) + 1
            self.refit_s[kind.name, data.rows.shape[1]] = classes, min(times) / 1000
        return contestant, result

    def judge(self, playing: list[tuple[Contestant, Result]], data: Data) -> None:
        """Accuracy on the queries, and whether peers of the same definition agree."""
        by_name = {result.name: contestant for contestant, result in playing}
        for contestant, result in playing:
            if isinstance(contestant, Product):
                continue
            found = np.array([contestant.predict(q) for q in data.queries])
            result.accuracy = float((found == data.query_labels).mean())
            if isinstance(contestant, (SklearnLda, SklearnRidge)):
                rival = by_name[result.rival]
                if isinstance(rival, Accrue):
                    result.off_by = _relative(
                        rival.scores(data.queries), contestant.scores(data.queries)
                    )

    def play(self, playing: list[tuple[Contestant, Result]], data: Data) -> None:
        """The rounds. A contestant too slow for all of them plays some, evenly spread."""
        rounds = len(data.shots) - N_NEW
        turns = []
        for contestant, result in playing:
            clock = Clock()
            contestant.predict(data.queries[0])
            once = 7 * clock.ms + (result.cold.median if contestant.refits else 0)
            turns.append(int(np.clip(1000 * self.options.budget / max(once, 1e-3), 1, rounds)))
        times = [Times() for _ in playing]
        new = [Times() for _ in playing]
        rng = np.random.default_rng(SEED)
        for r in range(rounds):
            for i in rng.permutation(len(playing)):
                if (r + 1) * turns[i] // rounds > r * turns[i] // rounds:
                    take_turn(playing[i][0], times[i], data, r)
            if (r + 1) % max(1, rounds // N_CHECKS) == 0:
                check_exact(playing, data)
        for r in range(rounds, len(data.shots)):
            for i in rng.permutation(len(playing)):
                if turns[i] >= N_NEW and not isinstance(playing[i][0], Product):
                    take_turn(playing[i][0], new[i], data, r)
        for i, (contestant, result) in enumerate(playing):
            result.predict = Spread.of(times[i].ordinary)
            if not isinstance(contestant, Product):
                result.teach_only = Spread.of(times[i].teach)
                result.shot = times[i].shot(result.predict.median)
            if new[i].teach:
                result.new_class = new[i].shot(float(np.median(new[i].ordinary)))


def check_exact(playing: list[tuple[Contestant, Result]], data: Data) -> None:
    """Keeps the largest difference of each served Accrue head to an exact solve of its state."""
    for contestant, result in playing:
        if isinstance(contestant, Accrue):
            result.off_by = max(result.off_by or 0.0, contestant.off_by(data.queries))


def take_turn(contestant: Contestant, times: Times, data: Data, r: int) -> None:
    """One shot, the prediction after it, and three ordinary ones, all with warm caches."""
    queries = np.roll(data.queries, -r, axis=0)
    time.sleep(SPIN_S)
    for query in queries[:3]:
        contestant.predict(query)
    label = int(data.shot_labels[r])
    clock = Clock()
    contestant.learn(data.shots[r], label)
    times.teach.append(clock.ms)
    clock = Clock()
    contestant.predict(queries[3])
    times.first.append(clock.ms)
    for query in queries[4:7]:
        clock = Clock()
        contestant.predict(query)
        times.ordinary.append(clock.ms)


def compare(results: list[Result]) -> None:
    """Fills in ratios: to the Accrue head of the same kind, and to the matrix-vector product."""
    by_name = {result.name: result for result in results}
    product = by_name[Product.name].predict
    for result in results:
        rival = by_name[result.rival]
        if result.predict and rival.predict and product:
            result.predict_ratio = result.predict.median / rival.predict.median
            result.predict_to_product = result.predict.median / product.median
        if result.shot and rival.shot:
            result.shot_ratio = result.shot.median / rival.shot.median


def memory_of(kind: type[Contestant], dim: int, classes: int, shots: int) -> int | None:
    """Bytes that a contestant holds, counted in a process of its own; None where that died."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            counted: int = pool.submit(
                _count_bytes, kind.name, dim, classes, shots, SklearnRidge.alpha, Refit.dtype
            ).result()
        except BrokenProcessPool:
            progress(f"  {kind.name}: the process that counted its memory died")
            return None
    return counted


def _count_bytes(name: str, dim: int, classes: int, shots: int, alpha: float, dtype: type) -> int:
    SklearnRidge.alpha, Refit.dtype = alpha, dtype
    kind = next(kind for kind in CONTESTANTS if kind.name == name)
    data = Data.random(dim, classes, shots, 1)
    tiny = Data.random(8, 3, 3, 1)
    kind(tiny).predict(tiny.queries[0])  # imports are not its memory
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    contestant = kind(data)
    contestant.predict(data.queries[0])
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def startup(repeats: int) -> list[dict[str, Any]]:
    """Wall time of fresh processes, interleaved: Python itself, numpy, Accrue, the peers."""
    runs: dict[str, list[str]] = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import accrue.learn": ["-c", "import accrue.learn"],
    }
    if importlib.util.find_spec("accrue.cli") and importlib.util.find_spec("accrue.cli.main"):
        runs["accrue --help"] = ["-m", "accrue.cli.main", "--help"]
    else:
        progress("start-up: accrue.cli.main does not exist yet, left out")
    for module in ("sklearn.discriminant_analysis", "river.naive_bayes"):
        if importlib.util.find_spec(module.split(".")[0]):
            runs[f"import {module}"] = ["-c", f"import {module}"]
    home = str(Path(importlib.import_module("accrue").__file__ or "").parents[1])
    environment = {**os.environ, "PYTHONPATH": home}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(repeats + 1):
        for name, arguments in runs.items():
            clock = Clock()
            done = subprocess.run(
                [sys.executable, *arguments], env=environment, capture_output=True, check=True
            )
            if "--help" in name and b"Usage" not in done.stdout:
                raise SystemExit(f"`{name}` printed no usage")
            if r:  # the first reads from the disk
                times[name].append(clock.ms)
    return [{"name": name, "ms": Spread.of(found)} for name, found in times.items()]


def print_size(found: dict[str, Any]) -> None:
    """One table on stdout."""
    print(f"\nd={found['dim']}, {found['classes']:,} classes, {found['rows']:,} rows")
    rows = []
    for c in found["contestants"]:
        shot = Spread(**c["shot"]) if c["shot"] else None
        rows.append(
            [
                c["name"],
                str(shot) if shot else "-",
                _optional(shot and shot.mean, sig),
                _optional(c["shot_ratio"], lambda v: f"{sig(v)}x"),
                _optional(c["new_class"], lambda v: sig(v["largest"])),
                str(Spread(**c["predict"])),
                _optional(c["predict_ratio"], lambda v: f"{sig(v)}x"),
                _optional(c["predict_to_product"], lambda v: f"{sig(v)}x"),
                sig(c["cold"]["median"]),
                _optional(c["memory_bytes"], size),
                _optional(c["exact_solves"], str),
                _optional(c["accuracy"], lambda v: f"{v:.0%}"),
                _optional(c["off_by"], lambda v: f"{v:.0e}"),
            ]
        )
    heads = (
        "",
        "one shot, ms",
        "mean",
        "to Accrue",
        "new class",
        "predict, ms",
        "to Accrue",
        "to W @ x",
        "cold, ms",
        "memory",
        "solves",
        "right",
        "off by",
    )
    print(table(heads, rows))
    for left_out in found["skipped"]:
        print(f"left out: {left_out['name']}: {left_out['reason']}")


def _optional(value: Any, form: Callable[[Any], str]) -> str:
    return "-" if value is None else form(value)


def _class_id(label: int) -> str:
    return f"{label:06d}"


def _relative(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, sizes and repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--classes", type=_numbers, metavar="N,...", help="ascending")
    parser.add_argument("--dims", type=_numbers, metavar="D,...")
    parser.add_argument("--shots", type=int, default=5, help="per class, before the first round")
    parser.add_argument("--rounds", type=int, help="shots that are timed")
    parser.add_argument("--budget", type=float, help="seconds a contestant and size may take")
    parser.add_argument("--refit-limit", type=float, default=REFIT_LIMIT_S, help="in seconds")
    parser.add_argument("--peer-dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out")
    options = parser.parse_args()
    if options.shots < 2:
        parser.error(f"--shots {options.shots}; LDA fits from 2 shots a class on")
    quick = options.quick
    options.classes = options.classes or ([10, 1000] if quick else [10, 100, 1000, 10_000])
    options.dims = options.dims or ([512] if quick else [512, 1280])
    options.rounds = options.rounds or (20 if quick else 100)
    options.budget = options.budget or (3.0 if quick else 20.0)
    Refit.dtype = np.float32 if options.peer_dtype == "float32" else np.float64

    # LDA, of the first shot of a class; to fit it all the same is what is timed
    warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
    machine = describe_machine(PACKAGES)
    print(machine_line(machine))
    bench = Bench(options)
    sizes = []
    for dim in options.dims:
        for classes in options.classes:
            sizes.append(bench.size(dim, classes))
            print_size(sizes[-1])
    started = startup(3 if quick else 10)
    print("\nStart-up, whole process")
    print(table(("", "ms"), [(s["name"], str(s["ms"])) for s in started]))
    if options.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        write_json(
            options.json,
            {
                "format": 1,
                "benchmark": "heads",
                "machine": machine,
                "settings": settings,
                "sizes": sizes,
                "startup": started,
            },
        )


if __name__ == "__main__":
    main()
