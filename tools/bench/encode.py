"""Times what one photo costs from file to embedding: decode, preprocess, encode, and whole.

    python tools/bench/encode.py [PHOTOS] [--bundle BUNDLE] [--threads N] [--json FILE]

PHOTOS is a file or a folder, by default the sample photos; BUNDLE by default the bundled encoder.
Each photo is timed once a round, all four figures in turn; `whole` is timed by itself, as the
device does it, and compared with the target of 12 ms on two cores. `encode` is what
`OnnxEncoder.encode` takes of the decoded photo, less the preprocessing in it. With `--check` the
exit code is 1 where the median whole is above the target.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import (
    ROOT,
    Clock,
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
from accrue.vision.decode import decode  # noqa: E402
from accrue.vision.encode import OnnxEncoder  # noqa: E402
from accrue.vision.preprocess import Preprocessor  # noqa: E402
from accrue.vision.sources import image_paths  # noqa: E402

TARGET_MS = 12.0
PACKAGES = ("accrue", "numpy", "onnxruntime", "pillow")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "photos", nargs="?", type=Path, default=ROOT / "tools/samples/test", metavar="PHOTOS"
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle_path())
    parser.add_argument("--threads", type=int, help="of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=3, help="times that each photo is timed")
    parser.add_argument("--limit", type=int, default=200, help="photos, evenly spread")
    parser.add_argument("--quick", action="store_true", help="one round, 20 photos")
    parser.add_argument("--check", action="store_true", help="fail above the target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    rounds, limit = (1, 20) if options.quick else (options.rounds, options.limit)

    machine = describe_machine(PACKAGES)
    print(machine_line(machine))
    paths = image_paths(options.photos)
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, limit).astype(int))]
    clock = Clock()
    bundle = Bundle.open(options.bundle)
    encoder = OnnxEncoder(bundle, threads=options.threads)
    opening_ms = clock.ms
    preprocess = Preprocessor(bundle.manifest.preprocess)
    short_side = bundle.manifest.preprocess.resize

    times: dict[str, list[float]] = {"decode": [], "preprocess": [], "encode": [], "whole": []}
    encoder.encode([decode(paths[0], short_side=short_side)])
    for r in range(rounds):
        progress(f"round {r + 1} of {rounds}, {len(paths)} photos")
        for path in paths:
            clock = Clock()
            image = decode(path, short_side=short_side)
            times["decode"].append(clock.ms)
            clock = Clock()
            preprocess(image)
            times["preprocess"].append(clock.ms)
            clock = Clock()
            encoder.encode([image])
            times["encode"].append(clock.ms - times["preprocess"][-1])
            clock = Clock()
            encoder.encode([decode(path, short_side=short_side)])
            times["whole"].append(clock.ms)

    spreads = {name: Spread.of(found) for name, found in times.items()}
    manifest = bundle.manifest
    print(
        f"{manifest.name}: {manifest.size} px, {manifest.dim}-d; "
        f"{len(paths)} photos x {rounds}; opening the bundle {opening_ms:.0f} ms"
    )
    rows = [(name, str(s), f"{s.mean:.2f}", f"{s.largest:.1f}") for name, s in spreads.items()]
    print(table(("per photo", "ms (quartiles)", "mean", "largest"), rows))
    met = spreads["whole"].median <= TARGET_MS
    print(f"target {TARGET_MS:.0f} ms whole, median: {'met' if met else 'MISSED'}")
    if options.json:
        write_json(
            options.json,
            {
                "format": 1,
                "benchmark": "encode",
                "machine": machine,
                "bundle": {
                    "name": manifest.name,
                    "space_id": manifest.space_id,
                    "dim": manifest.dim,
                    "size": manifest.size,
                },
                "photos": len(paths),
                "rounds": rounds,
                "threads": options.threads,
                "opening_ms": opening_ms,
                "target_ms": TARGET_MS,
                "ms": spreads,
            },
        )
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
