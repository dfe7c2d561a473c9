"""Whether the suggested groups of a class are the two things that it was made of.

    python tools/bench/split.py FOLDER [--bundle BUNDLE] [--cache rows.npz] [--pairs 15]

FOLDER holds CLASS/photo.jpg, CLASS a path such as Fruit/Apple/Royal-Gala. Suggested are groups of
each class as it is, of the first two classes of each folder taken as one (varieties), and of
`--pairs` pairs of classes drawn at random taken as one. Told are how many of them are called
advisable, quartiles of the separation, and the share of shots in the right group.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import find_accrue, progress, table
from embedded import rows_of
from numpy.typing import NDArray

find_accrue()
from accrue.learn import State  # noqa: E402
from accrue.learn.groups import Groups, two_groups  # noqa: E402
from accrue.learn.statistics import Rows  # noqa: E402


def suggested(rows: Rows, labels: NDArray[np.str_], together: list[str]) -> Groups | None:
    """The groups of some classes taught as one, beside all other classes."""
    state = State("0" * 64, rows.shape[1])
    inside = np.isin(labels, together)
    state.add("together", rows[inside])
    for name in np.unique(labels[~inside]):
        state.add(str(name), rows[labels == name])
    return two_groups([row[None] for row in rows[inside]], state, "together")


def right(groups: Groups, of: NDArray[np.str_]) -> float:
    same = float((groups.second == (of == of[0])).mean())
    return max(same, 1 - same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--cache", type=Path, help=".npz of the embeddings, read or written")
    parser.add_argument("--pairs", type=int, default=15)
    args = parser.parse_args()
    rows, labels = rows_of(args.folder, args.bundle, args.cache)
    names = [str(name) for name in np.unique(labels)]
    varieties = defaultdict(list)
    for name in names:
        varieties["/".join(name.split("/")[:2])].append(name)
    rng = np.random.default_rng(0)
    asked = {
        "one class": [[name] for name in names],
        "two varieties": [found[:2] for found in varieties.values() if len(found) > 1],
        "two unrelated": [
            [str(n) for n in rng.choice(names, 2, replace=False)] for _ in range(args.pairs)
        ],
    }
    lines = []
    for what, sets in asked.items():
        found = [(suggested(rows, labels, s), labels[np.isin(labels, s)]) for s in sets]
        groups = [(g, of) for g, of in found if g is not None]
        quartiles = np.quantile([g.separation for g, _ in groups], (0.25, 0.5, 0.75))
        shares = [right(g, of) for g, of in groups]
        lines.append(
            (
                what,
                str(len(sets)),
                f"{100 * sum(g.advisable for g, _ in groups) / len(sets):.0f}",
                *(f"{q:.1f}" for q in quartiles),
                f"{100 * np.mean(shares):.0f}" if what != "one class" else "-",
            )
        )
        progress(what)
    heads = ["taught as one", "number", "advisable, %", "25 %", "median", "75 %", "right group, %"]
    print(table(heads, lines))


if __name__ == "__main__":
    main()
