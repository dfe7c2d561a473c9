"""How a shot and a prediction grow with the dimension, and with the shots of a class.

    python tools/bench/growth.py [--dims 128,...] [--shots 2,...] [--rounds 40] [--json FILE]

By dimension: 1,000 classes of five shots. By shots: 100 classes, d = 512. The heads take turns, as
in `heads.py`, which tells how they grow with classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import Spread, describe_machine, machine_line, progress, table, write_json
from heads import (
    AccrueCosine,
    AccrueGaussian,
    AccruePrototype,
    AccrueRidge,
    Data,
    Times,
    take_turn,
)

HEADS = (AccruePrototype, AccrueCosine, AccrueGaussian, AccrueRidge)
CLASSES_BY_DIM, SHOTS_BY_DIM = 1000, 5
CLASSES_BY_SHOTS, DIM_BY_SHOTS = 100, 512


def measured(dim: int, classes: int, shots: int, rounds: int) -> list[dict[str, Any]]:
    data = Data.random(dim, classes, shots, rounds)
    playing = [(kind(data), Times()) for kind in HEADS]
    for r in range(rounds):
        for contestant, times in playing:
            take_turn(contestant, times, data, r)
    found = []
    for contestant, times in playing:
        ordinary = Spread.of(times.ordinary)
        shot = times.shot(ordinary.median)
        found.append({"name": contestant.name, "shot": shot, "predict": ordinary})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dims", default="128,256,512,768,1280", metavar="D,...")
    parser.add_argument("--shots", default="2,5,20,100,500", metavar="N,...")
    parser.add_argument("--rounds", type=int, default=40, help="shots that are timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    machine = describe_machine(("accrue", "numpy"))
    print(machine_line(machine))
    sizes: dict[str, list[dict[str, Any]]] = {"dims": [], "shots": []}
    lines = []
    for by, texts in (("dims", options.dims), ("shots", options.shots)):
        for value in map(int, texts.split(",")):
            if by == "dims":
                dim, classes, shots = value, CLASSES_BY_DIM, SHOTS_BY_DIM
            else:
                dim, classes, shots = DIM_BY_SHOTS, CLASSES_BY_SHOTS, value
            progress(f"d = {dim:,}, {classes:,} classes of {shots:,} shots")
            found = measured(dim, classes, shots, options.rounds)
            sizes[by].append({"value": value, "heads": found})
            start = f"{dim:,}", f"{classes:,}", f"{shots:,}"
            lines += [(*start, h["name"], str(h["shot"]), str(h["predict"])) for h in found]
    heads = ("dimension", "classes", "shots of each", "head", "one shot, ms", "predict, ms")
    print(table(heads, lines))
    if options.json:
        write_json(options.json, {"machine": machine, **sizes})


if __name__ == "__main__":
    main()
