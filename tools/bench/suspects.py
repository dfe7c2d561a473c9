"""How many wrong labels stand in the first third of "look at this one".

    python tools/bench/suspects.py FOLDER [--bundle BUNDLE] [--share 0.2] [--shots N] [--run R]
        [--head auto] [--seeds 5] [--cache rows.npz] [--json FILE]

FOLDER holds CLASS/photo.jpg. A share of the labels, drawn at random, is replaced by another class,
drawn at random (symmetric noise). `--run R` mislabels R photos in a row instead of one: the
photos of a series vouch for each other. Told are, as mean and least over the seeds, the share of
the wrong labels in the first third of `accrue class suspects`, and in as many as there are wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import find_accrue, progress, table, write_json
from embedded import rows_of
from numpy.typing import NDArray

find_accrue()
from accrue.learn import State, choose, leave_one_out  # noqa: E402
from accrue.learn.statistics import Rows  # noqa: E402
from accrue.learn.suspects import suspects  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402


def drawn(
    labels: NDArray[np.str_], shots: int | None, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Positions of `shots` photos of each class, in the order of the folder."""
    if shots is None:
        return np.arange(len(labels))
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def mislabelled(
    labels: NDArray[np.str_], share: float, run: int, rng: np.random.Generator
) -> NDArray[np.str_]:
    """Labels of which `share` is wrong, `run` in a row of one class alike."""
    names = np.unique(labels)
    wrong = labels.copy()
    starts = [i for c in names for i in np.flatnonzero(labels == c)[::run]]
    for start in rng.permutation(starts)[: round(share * len(starts))]:
        other = rng.choice(names[names != labels[start]])
        members = np.arange(start, min(start + run, len(labels)))
        wrong[members[labels[members] == labels[start]]] = other
    return wrong


def found(rows: Rows, labels: NDArray[np.str_], bad: NDArray[np.bool_], head: str) -> list[float]:
    """Share of the bad ones in the first third of the list, and in its first `bad.sum()`."""
    state = State("0" * 64, rows.shape[1])
    shots = [(str(label), rows[i : i + 1]) for i, label in enumerate(labels)]
    for class_id, row in shots:
        state.add(class_id, row)
    choice = choose(state, shots, Settings(head=head).chosen_head())
    listed = [s.shot for s in suspects(leave_one_out(choice.served, shots), [c for c, _ in shots])]
    return [float(bad[listed[:n]].sum() / bad.sum()) for n in (len(labels) // 3, int(bad.sum()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--cache", type=Path, help=".npz of the embeddings, read or written")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--shots", type=int, help="of each class; default: all")
    parser.add_argument("--run", type=int, default=1, help="photos in a row with one wrong label")
    parser.add_argument("--head", default="gaussian", help="setting `head`")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, labels = rows_of(args.folder, args.bundle, args.cache)
    results = []
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        pick = drawn(labels, args.shots, rng)
        wrong = mislabelled(labels[pick], args.share, args.run, rng)
        results.append(found(rows[pick], wrong, wrong != labels[pick], args.head))
        progress(f"seed {seed}: {results[-1][0]:.1%} in the first third")
    values = np.array(results)
    lines = [
        (what, f"{100 * column.mean():.1f}", f"{100 * column.min():.1f}")
        for what, column in zip(
            ("in the first third, %", "in as many as are wrong, %"), values.T, strict=True
        )
    ]
    print(f"{len(pick)} shots of {len(np.unique(labels))} classes, {args.share:.0%} wrong labels")
    print(table(["wrong labels found", "mean", "least"], lines))
    if args.json:
        write_json(args.json, {**vars(args), "folder": str(args.folder), "found": results})


if __name__ == "__main__":
    main()
