"""Whether the groups of what nobody named are the classes that they came from.

    python tools/bench/clusters.py FOLDER [--bundle BUNDLE] [--cache rows.npz] [--taught 61 20]

FOLDER holds CLASS/photo.jpg. Of some classes five photos are taught; of all others ten photos each
are the moments to be grouped. Told are the V-measure (Rosenberg and Hirschberg 2007; 1: groups are
classes) and the number of groups, as means of four draws, at several thresholds, in the space that
`accrue.learn.clusters` uses and by plain cosines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import find_accrue, progress, table
from embedded import rows_of
from sklearn.metrics import v_measure_score

find_accrue()
from accrue.learn import State  # noqa: E402
from accrue.learn import clusters as grouping  # noqa: E402

TAUGHT_SHOTS, MOMENTS, DRAWS = 5, 10, 4
THRESHOLDS = {"within classes": (0.2, 0.25, 0.3, 0.35, 0.4), "cosine": (0.5, 0.6, 0.7, 0.8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--cache", type=Path, help=".npz of the embeddings, read or written")
    parser.add_argument("--taught", type=int, nargs="+", default=[61, 20], help="classes")
    args = parser.parse_args()
    rows, labels = rows_of(args.folder, args.bundle, args.cache)
    names = np.unique(labels)
    lines = []
    for taught in args.taught:
        found: dict[tuple[str, float], list[tuple[float, int]]] = {}
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            order = rng.permutation(names)
            state = State("0" * 64, rows.shape[1])
            for name in order[:taught]:
                mine = rng.permutation(np.flatnonzero(labels == name))
                state.add(str(name), rows[mine[:TAUGHT_SHOTS]])
            strangers = np.concatenate(
                [
                    rng.permutation(np.flatnonzero(labels == name))[:MOMENTS]
                    for name in order[taught:]
                ]
            )
            for space, thresholds in THRESHOLDS.items():
                transform, centre = grouping._within(state)
                if space == "cosine":
                    transform = None
                x = grouping._units([rows[i][None] for i in strangers], transform, centre)
                for threshold in thresholds:
                    groups = grouping._average_linkage(x @ x.T, threshold)
                    measure = float(v_measure_score(labels[strangers], groups))
                    found.setdefault((space, threshold), []).append((measure, max(groups) + 1))
            progress(f"{taught} classes taught, draw {draw}")
        for (space, threshold), results in found.items():
            measure, groups = np.mean(results, axis=0)
            lines.append(
                (str(taught), str(len(names) - taught), space, f"{threshold:.2f}",
                 f"{measure:.3f}", f"{groups:.0f}")
            )  # fmt: skip
    print(table(["taught", "strangers", "space", "above", "V-measure", "groups"], lines))


if __name__ == "__main__":
    main()
