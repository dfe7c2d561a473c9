"""A 1080p frame to a label: what each stage costs, and how much of it is not the encoder.

    python tools/bench/pipeline.py PHOTOS [--frames 200] [--classes 20] [--bundle BUNDLE] [--json F]
    python tools/bench/pipeline.py PHOTOS --check      # exit 1 where the rest takes over 10 %

Frames of 1920 x 1080 px are made of the photos and written as a Motion-JPEG video, which is read as
a camera is (`--frames`, every one new to the gate). Stages, one after another, on one thread but
for the encoder:

    copy        from the capture's own buffer (BGR) to an RGB frame
    gate        has it changed, is it blurred
    preprocess  to the network's input
    views       the second view that a query is made of
    encode      both views by the bundle's encoder
    decide      all classes scored, calibrated, refused ones left out
    smooth      the vote of the last eight frames, and names

`whole` is the wall time of all of them. The capture's own decoding is told beside: a camera that
gives raw frames has none. Each stage is given in milliseconds of wall time and of the thread's own
CPU time: on a machine that does other things only the second one tells what it costs. The share is
of 123 ms, which MobileCLIP2-S0 takes on the two cores that this was written on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    Spread,
    describe_machine,
    find_accrue,
    machine_line,
    progress,
    sig,
    table,
    write_json,
)
from PIL import Image

find_accrue()
from accrue.learn import quantise  # noqa: E402
from accrue.learn.smooth import Smoother  # noqa: E402
from accrue.service.box import Box, named  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.gate import NEW, Gate  # noqa: E402
from accrue.vision.sources import image_paths, rgb_of  # noqa: E402
from accrue.vision.views import make_views  # noqa: E402

WIDTH, HEIGHT = 1920, 1080
PEER_MS, SHARE = 123.0, 0.10
STAGES = ("copy", "gate", "preprocess", "views", "encode", "decide", "smooth")
REST = tuple(stage for stage in STAGES if stage != "encode")


class Stages:
    """Wall and CPU milliseconds by stage, frame after frame."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}
        self.start()

    def start(self) -> None:
        self._at, self._cpu_at = time.perf_counter(), time.thread_time()

    def split(self, name: str) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        self.wall.setdefault(name, []).append(1e3 * (now - self._at))
        self.cpu.setdefault(name, []).append(1e3 * (cpu - self._cpu_at))
        self.start()


def video(photos: list[Path], frames: int, path: Path) -> None:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    for i in range(frames):
        with Image.open(photos[i % len(photos)]) as photo:
            share = max(WIDTH / photo.width, HEIGHT / photo.height)
            size = round(photo.width * share), round(photo.height * share)
            large = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = (large.width - WIDTH) // 2, (large.height - HEIGHT) // 2
        part = large.crop((left, top, left + WIDTH, top + HEIGHT))
        writer.write(np.asarray(part)[..., ::-1].copy())
    writer.release()


def taught(box: Box, classes: int, shots: int = 5) -> None:
    """Made-up classes: what they are does not matter to how long an answer takes."""
    store = box.store(create=True)
    rng = np.random.default_rng(0)
    with store.atomic():
        for k in range(classes):
            mean = rng.normal(size=store.dim)
            teaching = store.begin_teach(f"class {k}", actor="bench")
            for _ in range(shots):
                rows = mean + rng.normal(size=(box.settings.views, store.dim))
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                store.add_shot(teaching, quantise(rows.astype(np.float32)), source="bench")


def measure(box: Box, path: Path) -> Stages:
    import cv2

    capture = cv2.VideoCapture(str(path))
    encoder, settings, learned = box.encoder, box.settings, box.learned()
    _ = learned.choice, learned.calibration, learned.refusals
    gate, smoother, stages = Gate(blurred=settings.blur), Smoother(), Stages()
    views = settings.predict_views
    while True:
        stages.start()
        there, bgr = capture.read()
        if not there:
            return stages
        stages.split("(capture)")
        whole = time.perf_counter()
        image = rgb_of(cv2, bgr)
        stages.split("copy")
        judged = gate.judge(image)
        stages.split("gate")
        encoder.preprocessor(image)
        stages.split("preprocess")
        prepared = make_views(encoder.preprocessor, image, views, mirror=settings.mirror)
        stages.split("views")  # and preprocess once more, taken off below
        rows = encoder.encode_prepared(prepared)
        stages.split("encode")
        query = rows.mean(axis=0, dtype=np.float32)
        decision = learned.decide(query[None])[0]
        stages.split("decide")
        found = smoother.add(decision, time.time())
        if found.decision is not None:
            named("frame", found.decision, learned.names)
        stages.split("smooth")
        for times in (stages.wall, stages.cpu):
            times["views"][-1] = max(0.0, times["views"][-1] - times["preprocess"][-1])
        elapsed = 1e3 * (time.perf_counter() - whole) - stages.wall["preprocess"][-1]
        stages.wall.setdefault("whole", []).append(elapsed)
        if judged != NEW:  # every stage was run all the same; the gate's figure is then too low
            stages.wall.setdefault("left out", []).append(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    machine = describe_machine(["numpy", "onnxruntime", "pillow", "opencv-python-headless"])
    print(machine_line(machine))
    photos = image_paths(args.photos)
    photos = photos[:: max(1, len(photos) // args.frames)][: args.frames]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1080p.avi"
        video(photos, args.frames, path)
        progress(f"{args.frames} frames of {len(photos)} photos written")
        settings = Settings(state=Path(folder) / "state", bundle=args.bundle, memory=0)
        with Box(settings) as box:
            taught(box, args.classes)
            manifest = box.bundle.manifest
            box.encoder.encode_prepared(np.zeros((2, manifest.size, manifest.size, 3), np.uint8))
            stages = measure(box, path)
    wall = {name: Spread.of(found) for name, found in stages.wall.items() if name != "left out"}
    cpu = {name: Spread.of(found) for name, found in stages.cpu.items()}
    blurred = len(stages.wall.get("left out", []))
    print(f"{manifest.name}: {manifest.size} px, {manifest.dim}-d; {args.classes} classes; "
          f"{args.frames} frames, {blurred} of them left out by the gate")  # fmt: skip
    rows = [(n, str(wall[n]), str(cpu[n])) for n in ("(capture)", *STAGES)]
    rest = [sum(stages.cpu[n][i] for n in REST) for i in range(len(stages.cpu["copy"]))]
    rest_wall = [sum(stages.wall[n][i] for n in REST) for i in range(len(rest))]
    rows.append(("all but encode", str(Spread.of(rest_wall)), str(Spread.of(rest))))
    rows.append(("whole", str(wall["whole"]), "-"))
    print(table(("stage", "wall ms (quartiles)", "CPU ms (quartiles)"), rows))
    share = Spread.of(rest).median / PEER_MS
    met = share <= SHARE
    print(f"all but the encoder: {sig(100 * share)} % of MobileCLIP2-S0's {PEER_MS:g} ms; "
          f"target {100 * SHARE:.0f} %: {'met' if met else 'MISSED'}")  # fmt: skip
    if args.json:
        found: dict[str, Any] = {"format": 1, "benchmark": "pipeline", "machine": machine}
        found |= {"frames": args.frames, "classes": args.classes, "wall_ms": wall, "cpu_ms": cpu}
        write_json(args.json, found | {"rest_cpu_ms": Spread.of(rest), "share": share})
    return 0 if met or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
