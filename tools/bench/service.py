"""How soon a device answers after it was started, and what it takes of memory and processor.

    python tools/bench/service.py [PHOTOS] [--classes 10 100 1000] [--starts 5] [--hold 2]
        [--json FILE]

A state of so many made-up classes of five shots is opened by a real `accrue run`, which watches
PHOTOS as a camera of ten frames a second. Measured from the start of the process: the first
answer of a camera in its file of events, and beside it, in a process of its own each time, the
first answer of `accrue predict PHOTO`; "the first time" is that of a state of which nothing was
worked out before. Memory is resident memory (VmRSS) at rest, `--settle`
seconds after the first answer, and after a further shot was taught from the command line; the
encoder's own is that of a process which has opened it and encoded a shot of ten views. `core` is
the processor's time in those `--settle` seconds, 100 % being one core; with `--hold 0.1` each
frame shows another photo, as where all is in motion.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import (
    ROOT,
    Clock,
    Spread,
    describe_machine,
    find_accrue,
    machine_line,
    progress,
    resident_mb,
    table,
    write_json,
)
from refresh import Objects, filled

find_accrue()
import accrue  # noqa: E402
from accrue.bundle import Bundle, default_bundle_path  # noqa: E402
from accrue.cli.run import BLAS_SPIN  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.sources import image_paths  # noqa: E402

SHOTS, LONGEST_S = 5, 120.0
ENCODER_ALONE = """
import sys, time
import numpy as np
from accrue.bundle import Bundle, default_bundle_path
from accrue.vision.encode import OnnxEncoder
bundle = Bundle.open(default_bundle_path())
encoder = OnnxEncoder(bundle)
size = bundle.manifest.size
encoder.encode_views([np.zeros((size, size, 3), np.uint8)], 10)
print("ready", flush=True)
sys.stdin.read()
"""
HELD = """
from accrue.cli.main import main
from accrue.vision import sources
sources.PLAY_HOLD_S = {}
main()
"""


def environment() -> dict[str, str]:
    """Of the processes; `HELD` imports numpy before `main` can say how long threads stay awake."""
    source = str(Path(accrue.__file__).parents[1])
    return {"OPENBLAS_THREAD_TIMEOUT": BLAS_SPIN, **os.environ, "PYTHONPATH": source}


def encoder_mb() -> float:
    words = [sys.executable, "-c", ENCODER_ALONE]
    with subprocess.Popen(
        words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        found = resident_mb(child.pid)
        child.stdin.close()
    return found


def command(state: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "accrue.cli.main", "--state", str(state), *words]


class Running:
    """`accrue run` on a state, from its start on."""

    def __init__(self, state: Path, camera: Path, hold_s: float) -> None:
        self.events = state.parent / "events.jsonl"
        self.events.unlink(missing_ok=True)
        self._clock = Clock()
        program = sys.executable, "-c", HELD.format(hold_s)
        self.process = subprocess.Popen(
            [*program, "--state", str(state), "run", f"play:{camera}", "--listen", "127.0.0.1:0"],
            env={**environment(), "ACCRUE_EVENTS": str(self.events)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def first_answer_ms(self) -> float:
        while self._clock.ms < 1e3 * LONGEST_S:
            if self.process.poll() is not None:
                assert self.process.stderr
                raise SystemExit(f"accrue run ended: {self.process.stderr.read().decode()[-500:]}")
            if self.events.exists() and '"answer"' in self.events.read_text():
                return self._clock.ms
            time.sleep(0.005)
        raise SystemExit(f"no answer after {LONGEST_S:.0f} s")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def measure(classes: int, options: argparse.Namespace, alone: float) -> Any:
    photos, starts, settle_s = options.photos, options.starts, options.settle
    dim = Bundle.open(default_bundle_path()).manifest.dim
    photo = image_paths(photos)[0]
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with Box(Settings(state=state, memory=0)) as box:
            filled(box, Objects(dim), classes, SHOTS)
        device = Running(state, photos, options.hold)
        try:
            fresh = device.first_answer_ms()  # nothing is kept yet of what was worked out before
        finally:
            device.stop()
        run, predict, at_rest, taught, core = [], [], [], [], []
        for n in range(-1, starts):
            clock = Clock()
            subprocess.run(
                command(state, "predict", str(photo), "--json"),
                env=environment(),
                check=True,
                capture_output=True,
            )
            if n < 0:  # it works out what later starts find
                first = clock.ms
                continue
            predict.append(clock.ms)
            device = Running(state, photos, options.hold)
            try:
                run.append(device.first_answer_ms())
                if n == starts - 1:
                    process = psutil.Process(device.process.pid)
                    before, watched = sum(process.cpu_times()[:2]), Clock()
                    time.sleep(settle_s)
                    used = sum(process.cpu_times()[:2]) - before
                    core.append(100 * used / (watched.ms / 1e3))
                    at_rest.append(resident_mb(device.process.pid))
                    subprocess.run(
                        command(state, "class", "teach", "one more", str(photo)),
                        env=environment(),
                        check=True,
                        capture_output=True,
                    )
                    time.sleep(settle_s)
                    taught.append(resident_mb(device.process.pid))
            finally:
                device.stop()
        size = sum(f.stat().st_size for f in state.rglob("*") if f.is_file())
    return {
        "classes": classes,
        "fresh_run_ms": fresh,
        "fresh_predict_ms": first,
        "run_ms": Spread.of(run),
        "predict_ms": Spread.of(predict),
        "core_percent": core[0],
        "rest_mb": at_rest[0],
        "taught_mb": taught[0],
        "beside_encoder_mb": taught[0] - alone,
        "disk_mb": size / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "photos", nargs="?", type=Path, default=ROOT / "tools/samples/teach", metavar="PHOTOS"
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before memory is read")
    parser.add_argument("--hold", type=float, default=2.0, help="seconds that a photo is shown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    machine = describe_machine(("accrue", "numpy", "onnxruntime"))
    print(machine_line(machine))
    alone = encoder_mb()
    sizes = []
    for classes in options.classes:
        progress(f"{classes} classes")
        sizes.append(measure(classes, options, alone))
    heads = (
        "classes",
        "accrue run to answer, ms",
        "the first time, ms",
        "accrue predict, ms",
        "the first time, ms",
        "at rest, MB",
        "taught, MB",
    )
    heads += ("beside the encoder, MB", "on disk, MB", "core, %")
    print(f"the encoder alone: {alone:.0f} MB")
    print(
        table(
            heads,
            [
                (
                    str(one["classes"]),
                    str(one["run_ms"]),
                    f"{one['fresh_run_ms']:,.0f}",
                    str(one["predict_ms"]),
                    f"{one['fresh_predict_ms']:,.0f}",
                    *(f"{one[key]:.0f}" for key in ("rest_mb", "taught_mb", "beside_encoder_mb")),
                    f"{one['disk_mb']:.1f}",
                    f"{one['core_percent']:.0f}",
                )
                for one in sizes
            ],
        )
    )
    if options.json:
        write_json(options.json, {"machine": machine, "encoder_mb": alone, "sizes": sizes})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
