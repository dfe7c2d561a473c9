"""A device that watches and is taught for a long time, and one that is killed while it is taught.

    ./tools/soak [--minutes 30] [--kills 10] [--photos DIR] [--state DIR] [--json FILE] [--check]

First a device watches the photos as a camera shows them, 10 frames a second, each for 2 s, while a
session of 1 s teaches what it sees every 5 s under the name of the photo's folder. Told are the
oldest frame that was answered, the resident memory after three minutes and at the end (medians of a
tenth of the time each), and every error or warning.

Then a device is taught bursts as fast as it can and killed (SIGKILL) in the midst of one, again and
again on the same state: every shot that it had acknowledged must be there when it is opened, and
the database and its journal must be sound.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from accrue.errors import AccrueError
from accrue.service.box import Box
from accrue.service.daemon import Device
from accrue.service.settings import Settings
from accrue.service.watch import Sighting, Watch
from accrue.store import Store
from accrue.vision.sources import PLAY, PLAY_FPS, PLAY_HOLD_S, image_paths

SAMPLES = Path(__file__).parent / "samples" / "teach"
EVERY_S, RECORD_S = 5.0, 1.0
OLDEST_S, FLAT = 1.0, 0.05
WARM_S = 180.0  # until every cache is full; a third of the time where that is shorter
PAGE = os.sysconf("SC_PAGE_SIZE")


class Soaked(Device):
    """A device that keeps how old each answered frame was."""

    oldest_s, answered, late = 0.0, 0, 0

    def _take(self, watch: Watch, seen: Sighting) -> None:
        super()._take(watch, seen)
        age = time.time() - seen.at
        self.oldest_s = max(self.oldest_s, age)
        self.late += age > OLDEST_S
        self.answered += 1


class Heard(logging.Handler):
    """Counts what is worth a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.said[record.getMessage()] += 1


def settings_of(state: Path) -> Settings:
    # what repeats a shot is taught too, so that there is always something to learn
    return Settings(state=state, actor="soak", duplicates=1.0, blur=1.0, thumbnails=120)


def shown_class(photos: list[Path], index: int) -> str:
    """The folder of the photo that a played camera shows at a frame."""
    return photos[int(index / (PLAY_FPS * PLAY_HOLD_S)) % len(photos)].parent.name


def teach(device: Device, photos: list[Path], record_s: float) -> str:
    """One burst of what the camera shows; the id of its shot, which is on the disk."""
    frame = device.frame(0)
    if frame is None:
        return ""
    session = device.begin_teach(shown_class(photos, frame.index), 0, "soak")
    time.sleep(record_s)
    return device.commit_teach(session.id, "soak").shot


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def soak(state: Path, folder: Path, minutes: float) -> dict[str, Any]:
    photos = image_paths(folder)
    heard = Heard()
    logging.getLogger("accrue").addHandler(heard)
    memory: list[tuple[float, int]] = []
    taught, failed = 0, Counter[str]()
    with Soaked(settings_of(state), cameras=[f"{PLAY}{folder}"]) as device:
        started = time.monotonic()
        over, next_lesson, next_word = started + 60 * minutes, started + EVERY_S, started + 30.0
        while (now := time.monotonic()) < over:
            if now >= next_lesson:
                next_lesson += EVERY_S
                try:
                    taught += bool(teach(device, photos, RECORD_S))
                except AccrueError as error:
                    failed[error.message] += 1
            memory.append((time.monotonic() - started, resident()))
            if now >= next_word:
                next_word += 60.0
                print(
                    f"{now - started:6.0f} s: {device.answered} answers, oldest frame "
                    f"{device.oldest_s:.2f} s, {taught} shots, {memory[-1][1] / 1e6:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(0.25)
        status = device.cameras()[0]
        figures = {name: n for (name, _), n in device.figures.all().items() if "error" in name}
    tenth, warm = 6 * minutes, min(WARM_S, 20 * minutes)
    early = statistics.median(m for at, m in memory if warm <= at < warm + tenth)
    late = statistics.median(m for at, m in memory if at >= 9 * tenth)
    found = {
        "minutes": minutes,
        "answered": device.answered,
        "frames": status.frames,
        "dropped": status.dropped,
        "oldest_s": device.oldest_s,
        "late": device.late,
        "taught": taught,
        "memory_early_bytes": early,
        "memory_late_bytes": late,
        "growth": late / early - 1,
        "errors": {**figures, **failed, **heard.said},
    }
    print(
        f"{minutes:g} minutes: {found['answered']} answers of {found['frames']} frames "
        f"({found['dropped']} replaced by a newer one), oldest {device.oldest_s:.2f} s, "
        f"{device.late} older than {OLDEST_S:g} s; {taught} shots taught; memory "
        f"{early / 1e6:.0f} MB, then {late / 1e6:.0f} MB ({100 * found['growth']:+.1f} %); "
        f"errors: {found['errors'] or 'none'}"
    )
    found["passed"] = not found["errors"] and found["late"] == 0 and found["growth"] <= FLAT
    return found


def child(state: Path, folder: Path) -> None:
    """Teaches bursts until it is killed; a line for each shot that is on the disk."""
    photos = image_paths(folder)
    with Device(settings_of(state), cameras=[f"{PLAY}{folder}"]) as device:
        while device.frame(0) is None:
            time.sleep(0.05)
        os.write(1, b"go\n")
        while True:
            if shot := teach(device, photos, 0.3):
                os.write(1, f"{shot}\n".encode())


def kills(state: Path, folder: Path, count: int) -> dict[str, Any]:
    acknowledged: list[str] = []
    chance = random.Random(1)
    for number in range(count):
        words = [sys.executable, __file__, "--child", "--photos", folder, "--state", state]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "go\n"
            for _ in range(chance.randrange(1, 4)):
                acknowledged.append(process.stdout.readline().strip())
            time.sleep(chance.random() * 0.5)  # some instant of the next burst
            process.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in process.stdout]
        with Store.open(state) as store:
            there = {shot.id for shot in store.shots()}
            wrong = store.check()
        lost = [shot for shot in acknowledged if shot not in there]
        print(
            f"kill {number + 1}: {len(acknowledged)} acknowledged, {len(there)} there, "
            f"{len(lost)} lost, {len(wrong)} faults",
            file=sys.stderr,
            flush=True,
        )
        if lost or wrong:
            break
    with Box(replace(settings_of(state))) as box:
        readable = len(box.learned().shots)
    print(
        f"{count} kills: {len(acknowledged)} shots acknowledged, {len(lost)} lost, "
        f"{len(there) - len(acknowledged)} there beyond them, {len(wrong)} faults"
    )
    return {
        "kills": number + 1,
        "acknowledged": len(acknowledged),
        "there": len(there),
        "readable": readable,
        "lost": lost,
        "faults": wrong,
        "passed": not lost and not wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--photos", type=Path, default=SAMPLES)
    parser.add_argument("--state", type=Path, help="an empty folder; else a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 where it does not hold")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.state, args.photos)
    with tempfile.TemporaryDirectory() as temporary:
        state = args.state or Path(temporary)
        found: dict[str, Any] = {}
        if args.minutes > 0:
            found["soak"] = soak(state / "soak", args.photos, args.minutes)
        if args.kills > 0:
            found["kills"] = kills(state / "kills", args.photos, args.kills)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    passed = all(part["passed"] for part in found.values())
    return 0 if passed or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
