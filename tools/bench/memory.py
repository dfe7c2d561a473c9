"""Accuracy against the byte budget: what is kept when not all can be.

    python tools/bench/memory.py TRAIN VAL [--bundle BUNDLE] [--budgets 1.1,1.5,2,3,4,5,6,7]
        [--cache-train rows.npz] [--cache-val rows.npz] [--json FILE] [--plot FILE.svg]

TRAIN and VAL hold CLASS/photo.jpg. All of TRAIN is taught, in random order, into a store of each
budget (in MB), photo by photo as on a device. Told are what is left and how many photos of VAL
the gaussian head then gets right; beside it the same number of shots of each class kept by other
rules: the newest ones (first in, first out), and drawn at random (mean of three draws).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import find_accrue, progress, table, write_json
from embedded import rows_of
from numpy.typing import NDArray

find_accrue()
from accrue.learn import Gaussian, State  # noqa: E402
from accrue.learn.statistics import SCALE, Rows  # noqa: E402
from accrue.store import Store  # noqa: E402

MEGABYTE = 1e6
DRAWS = 3
Labels = NDArray[np.str_]


def accuracy(state: State, rows: Rows, labels: Labels) -> float:
    served = Gaussian().solve(state)
    best = served.scores(rows.astype(np.float64) / SCALE).argmax(axis=1)
    return float((np.array(served.ids)[best] == labels).mean())


def stored(rows: Rows, labels: Labels, budget: int, folder: Path) -> tuple[State, int, int]:
    """The state, kept rows and bytes of a store that was taught all of it."""
    state = State("0" * 64, rows.shape[1])
    with Store.open(folder, space_id="0" * 64, dim=rows.shape[1], memory=budget) as store:
        teachings = {}
        with store.atomic():  # one fsync; what is kept is the same
            for i, label in enumerate(labels.tolist()):
                if label not in teachings:
                    teachings[label] = store.begin_teach(label)
                store.add_shot(teachings[label], rows[i : i + 1])
        for found in store.rows_by_class():
            state.add(found.name, found.rows)
            if found.folded is not None:
                state.add_statistics(found.name, found.folded)
        kept = sum(row.rows for row in store.classes())
        return state, kept, store.held().total


def by_rule(
    rows: Rows,
    labels: Labels,
    counts: dict[str, int],
    rule: Callable[[NDArray[np.intp], int], NDArray[np.intp]],
) -> State:
    """A state of as many shots of each class, kept by another rule."""
    state = State("0" * 64, rows.shape[1])
    for name, n in counts.items():
        state.add(name, rows[rule(np.flatnonzero(labels == name), n)])
    return state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--cache-train", type=Path)
    parser.add_argument("--cache-val", type=Path)
    parser.add_argument("--budgets", default="1.1,1.5,2,3,4,5,6,7", help="MB, comma between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="draw it, with matplotlib")
    args = parser.parse_args()
    rows, labels = rows_of(args.train, args.bundle, args.cache_train)
    val, val_labels = rows_of(args.val, args.bundle, args.cache_val)
    order = np.random.default_rng(0).permutation(len(rows))
    rows, labels = rows[order], labels[order]
    results = []
    for megabytes in map(float, args.budgets.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            state, kept, held = stored(rows, labels, int(megabytes * MEGABYTE), Path(folder))
        counts = {name: state.count(name) for name in state}
        newest = by_rule(rows, labels, counts, lambda of, n: of[-n:])
        drawn = []
        for seed in range(DRAWS):
            rng = np.random.default_rng(seed)
            random = by_rule(rows, labels, counts, lambda of, n, r=rng: r.permutation(of)[:n])
            drawn.append(accuracy(random, val, val_labels))
        results.append(
            {
                "budget_mb": megabytes,
                "held_mb": held / MEGABYTE,
                "kept_rows": kept,
                "accrue": accuracy(state, val, val_labels),
                "newest": accuracy(newest, val, val_labels),
                "random": float(np.mean(drawn)),
            }
        )
        progress(f"{megabytes:g} MB: {results[-1]['accrue']:.1%}")
    lines = [
        (
            f"{r['budget_mb']:g}",
            f"{r['held_mb']:.2f}",
            str(r["kept_rows"]),
            *(f"{100 * r[rule]:.1f}" for rule in ("accrue", "newest", "random")),
        )
        for r in results
    ]
    heads = ["budget, MB", "held, MB", "rows", "Accrue, %", "newest, %", "random, %"]
    print(f"{len(rows)} shots of {len(counts)} classes, {rows.shape[1]} dimensions")
    print(table(heads, lines))
    if args.json:
        write_json(args.json, results)
    if args.plot:
        draw(results, args.plot)
    return 0


def draw(results: list[dict[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "accrue"  # the same bytes for the same figures
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    x = [r["held_mb"] for r in results]
    for rule, label, style in (
        ("accrue", "Accrue: what the rest reconstructs best goes", "o-"),
        ("newest", "the oldest goes", "s--"),
        ("random", "drawn at random", "^:"),
    ):
        axes.plot(x, [100 * r[rule] for r in results], style, label=label)
    axes.set_xlabel("bytes held, MB")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    progress(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
