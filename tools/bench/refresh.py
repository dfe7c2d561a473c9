"""From a shot that is on the disk to answers that know it, while cameras are watched.

    python tools/bench/refresh.py [--classes 10 100 1000] [--shots 5] [--lessons 5] [--json FILE]

A state of so many classes is made of random clusters (ten rows a shot). Then a lesson at a time is
taught by one box, and measured is the time from its receipt until the head that answers, kept up
to date by `accrue.service.knowledge.Knowledge`, has the shot: another shot of a class, and a
new class.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import (
    Spread,
    describe_machine,
    find_accrue,
    machine_line,
    progress,
    table,
    write_json,
)

find_accrue()
from accrue.bundle import Bundle, default_bundle_path  # noqa: E402
from accrue.learn import quantise  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.knowledge import Knowledge  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402

VIEWS, LONGEST_S = 10, 300.0


class Objects:
    """Random shots of made-up objects: a mean for each, shots about it, views about these."""

    def __init__(self, dim: int) -> None:
        self._rng = np.random.default_rng(0)
        self._dim = dim
        self._means: dict[str, np.ndarray] = {}

    def shot(self, name: str) -> np.ndarray:
        draw = lambda *shape: self._rng.normal(size=(*shape, self._dim))  # noqa: E731
        mean = self._means.setdefault(name, draw())
        rows = mean + 0.9 * draw() + 0.4 * draw(VIEWS)
        return quantise((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def filled(box: Box, objects: Objects, classes: int, shots: int) -> None:
    store = box.store(create=True)
    with store.atomic():
        for k in range(classes):
            teaching = store.begin_teach(f"class {k}", actor="bench")
            for _ in range(shots):
                store.add_shot(teaching, objects.shot(f"class {k}"), source="bench")


def taught_ms(box: Box, knowledge: Knowledge, objects: Objects, name: str) -> float:
    store = box.store(create=True)
    shot = store.add_shot(store.begin_teach(name, actor="b"), objects.shot(name), source="bench")
    started = time.perf_counter()
    while shot not in knowledge.current.shot_ids[-1:] and shot not in knowledge.current.shot_ids:
        time.sleep(0.002)
        if time.perf_counter() - started > LONGEST_S:
            raise SystemExit(f"not answered after {LONGEST_S:.0f} s")
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--lessons", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    args = parser.parse_args()
    machine = describe_machine(["numpy"])
    print(machine_line(machine))
    manifest = Bundle.open(default_bundle_path()).manifest
    lines, sizes = [], []
    for classes in args.classes:
        objects = Objects(manifest.dim)
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(state=Path(folder) / "state", memory=0)
            with Box(settings) as box:
                filled(box, objects, classes, args.shots)
                progress(f"{classes} classes: filled")
                clock = time.perf_counter()
                knowledge = Knowledge(settings)
                opening = time.perf_counter() - clock
                progress(f"opened in {opening:.1f} s")
                again = [
                    taught_ms(box, knowledge, objects, f"class {i % classes}")
                    for i in range(args.lessons)
                ]
                new = [taught_ms(box, knowledge, objects, f"new {i}") for i in range(args.lessons)]
                knowledge.close()
        spreads = Spread.of(again), Spread.of(new)
        lines.append((str(classes), f"{opening:.2f}", *map(str, spreads)))
        found = {"classes": classes, "start_s": opening}
        sizes.append({**found, "again_ms": spreads[0], "new_ms": spreads[1]})
        progress(f"{classes} classes done")
    heads = ("classes", "start, s", "another shot to answer, ms", "new class to answer, ms")
    print(table(heads, lines))
    if args.json:
        write_json(args.json, {"machine": machine, "sizes": sizes})


if __name__ == "__main__":
    main()
