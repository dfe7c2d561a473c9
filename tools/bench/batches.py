"""Times and memory of ten views by how many are encoded at once, each way in a process of its own.

    python tools/bench/batches.py [--bundle BUNDLE] [--rounds N] [--json FILE]

`pattern` is ONNX Runtime's own default: it plans the memory of each batch size that it has seen,
and keeps it. The runs of all ways take turns, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import (
    Clock,
    describe_machine,
    find_accrue,
    machine_line,
    progress,
    resident_mb,
    table,
    write_json,
)

find_accrue()

import onnxruntime  # noqa: E402

from accrue.bundle import ENCODER, Bundle, default_bundle_path  # noqa: E402

WAYS = [(pattern, batch) for pattern in (True, False) for batch in (8, 4, 2, 1)]
VIEWS, REPEATS = 10, 20


def measure(bundle: Bundle, pattern: bool, batch: int) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = pattern
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        bundle.read(ENCODER), options, providers=["CPUExecutionProvider"]
    )
    size = bundle.manifest.size
    views = np.random.default_rng(0).integers(0, 255, (VIEWS, size, size, 3), np.uint8)

    def run(count: int, at_once: int) -> float:
        clock = Clock()
        for start in range(0, count, at_once):
            session.run(["embedding"], {"image": views[start : min(start + at_once, count)]})
        return clock.ms

    run(1, 1)  # as a camera is watched before anything is taught
    before = resident_mb()
    times = [run(VIEWS, batch) for _ in range(REPEATS + 1)][1:]
    return {"ms": times, "before_mb": before, "after_mb": resident_mb()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle_path())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        pattern, batch = options.one
        print(json.dumps(measure(Bundle.open(options.bundle), bool(pattern), batch)))
        return 0

    machine = describe_machine(("accrue", "numpy", "onnxruntime"))
    print(machine_line(machine))
    found: dict[tuple[bool, int], list[dict[str, Any]]] = {way: [] for way in WAYS}
    for n in range(options.rounds):
        progress(f"round {n + 1} of {options.rounds}")
        for way in WAYS:
            words = [sys.executable, __file__, "--bundle", str(options.bundle)]
            words += ["--one", str(int(way[0])), str(way[1])]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
    rows = []
    for (pattern, batch), runs in found.items():
        least = sorted(min(run["ms"]) for run in runs)
        rows.append(
            {
                "memory": "pattern" if pattern else "no pattern",
                "at once": str(batch),
                "ms (median of runs' least)": f"{median(least):.1f}",
                "least to most": f"{least[0]:.1f}-{least[-1]:.1f}",
                "MB after one image": f"{median(run['before_mb'] for run in runs):.0f}",
                "MB after": f"{median(run['after_mb'] for run in runs):.0f}",
            }
        )
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    if options.json:
        write_json(options.json, {"machine": machine, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
