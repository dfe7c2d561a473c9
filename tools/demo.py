"""What `./tools/demo` shows: teach, forget nothing, remove exactly, undo, say "unknown"."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.progress import track

from accrue.errors import AccrueError, UsageError
from accrue.service.box import Box, Learned
from accrue.service.evaluation import drawn
from accrue.service.settings import Settings
from accrue.vision.sources import labelled_images

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tools" / "samples"
STATE = ROOT / "build" / "demo-state"
SHOTS = 5  # a class
SEED = 0

Item = TypeVar("Item")
Photos = dict[str, list[Path]]
console = Console(highlight=False)


def tracked(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    """The same with a progress bar, where somebody looks."""
    if not console.is_terminal:
        return items
    return track(items, what, total, transient=True, console=Console(stderr=True))


def split(folder: Path) -> tuple[Photos, Photos, Photos]:
    """Photos to teach, to test on, and of classes that are held back."""
    photos = labelled_images(folder)
    if len(photos) < 3:
        raise UsageError(
            f"{folder} has {len(photos)} folders of photos; expected at least 3 classes, "
            "one of which is held back",
        )
    held_back = {name: photos.pop(name) for name in list(photos)[-max(1, len(photos) // 8) :]}
    few = [name for name, paths in photos.items() if len(paths) < 2]
    if few:
        raise UsageError(f"class {few[0]!r} has one photo; expected two or more, one to test on")
    teach = {
        name: drawn({name: paths}, min(SHOTS, len(paths) - 1), SEED)[name]
        for name, paths in photos.items()
    }
    test = {name: [p for p in paths if p not in teach[name]] for name, paths in photos.items()}
    return teach, test, held_back


def embeddings(box: Box, photos: Photos, what: str) -> dict[str, np.ndarray]:
    paths = [(str(path), path) for paths in photos.values() for path in paths]
    rows = []
    for source, row in tracked(box.embed(paths, box.settings.predict_views), what, len(paths)):
        if isinstance(row, AccrueError):
            console.print(f"left out: {row.message}")
        rows.append((source, row))
    by_path = {source: row for source, row in rows if not isinstance(row, AccrueError)}
    return {
        name: np.array([by_path[str(p)].mean(axis=0) for p in paths if str(p) in by_path])
        for name, paths in photos.items()
    }


def accuracy(learned: Learned, tests: dict[str, np.ndarray], names: list[str]) -> float:
    right = total = 0
    for name in names:
        answers = [learned.names[d.class_id] for d in learned.decide(tests[name])]
        right += sum(answer == name for answer in answers)
        total += len(answers)
    return right / max(total, 1)


def taught(settings: Settings, state: Path, photos: Photos) -> Box:
    shutil.rmtree(state, ignore_errors=True)
    box = Box(replace(settings, state=state))
    for name, paths in photos.items():
        for receipt in box.teach(name, ((str(p), p) for p in paths)):
            if receipt.error is not None:
                raise receipt.error
    return box


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--images", type=Path, help="your own photos, as class/photo.jpg")
    parser.add_argument("--svg", type=Path, help="also record what is shown as a picture")
    args = parser.parse_args()
    console.record = args.svg is not None
    if args.images:
        folder = Path(os.environ.get("ACCRUE_DEMO_FROM", ".")) / args.images.expanduser()
        teach, test, held_back = split(folder)
    else:
        teach = {name: paths[:SHOTS] for name, paths in labelled_images(SAMPLES / "teach").items()}
        test = labelled_images(SAMPLES / "test")
        held_back = labelled_images(SAMPLES / "never-taught")

    shutil.rmtree(STATE, ignore_errors=True)
    settings = Settings(state=STATE, actor="demo")
    with Box(settings) as box:
        console.print(
            f"\n[bold]Accrue[/] teaches a camera new classes on the device itself.\n"
            f"Encoder: {box.bundle.manifest.name}, frozen. Photos: "
            f"{'rendered samples' if not args.images else args.images}.\n"
        )
        tests = embeddings(box, test, "looking at the test photos")
        width = max(map(len, teach))
        console.print(
            f"[bold]{'taught':<{width}}  shots  ms a shot  earlier ones changed  accuracy so far[/]"
        )
        digests: dict[str, str] = {}
        for done, (name, paths) in enumerate(teach.items(), 1):
            began = time.perf_counter()
            images = ((str(p), p) for p in paths)
            receipts = list(tracked(box.teach(name, images), name, len(paths)))
            each = 1e3 * (time.perf_counter() - began) / len(receipts)
            learned = box.learned()
            share = accuracy(learned, tests, list(teach)[:done])
            now = {c: learned.state.class_digest(c) for c in learned.state}
            changed = sum(now[c] != digest for c, digest in digests.items())
            digests = now
            console.print(
                f"{name:<{width}}  {len(receipts):>5}  {each:>9.1f}  {changed:>20}  "
                f"{share:>6.0%}  {'█' * round(15 * share)}"
            )
        console.print(f"\nServed by: {learned.choice.served.describe()} ({learned.choice.reason}).")

        console.print("\n[bold]Forget exactly.[/]")
        victim = list(teach)[len(teach) // 2]
        before = box.learned().state.digest()
        box.remove(victim)
        after = box.learned().state.digest()
        others = {name: paths for name, paths in teach.items() if name != victim}
        with taught(settings, STATE.with_name("demo-never-saw-it"), others) as second:
            never = second.learned().state.digest()
        console.print(
            f"digest without {victim!r}:           {after[:32]}\n"
            f"digest of a box that never saw it: {never[:32]}"
        )
        if after != never:
            sys.exit("the digests differ: this is a bug")
        console.print("[green]The same, bit for bit.[/] Undo brings it back:")
        box.undo()
        if box.learned().state.digest() != before:
            sys.exit("undo did not restore the state: this is a bug")
        console.print(f"digest after undo = before:        {before[:32]}")

        console.print("\n[bold]Say “unknown”.[/]")
        learned = box.learned()
        strangers = embeddings(box, held_back, "looking at what was never taught")
        for name, rows in strangers.items():
            verdicts = [d.verdict for d in learned.decide(rows)]
            console.print(
                f"{name} (never taught): {verdicts.count('unknown')} of {len(verdicts)} "
                f"photos answered as unknown, {verdicts.count('sure')} as sure"
            )
        known = [d.verdict for rows in tests.values() for d in learned.decide(rows)]
        console.print(
            f"taught classes: {known.count('unknown')} of {len(known)} photos "
            f"answered as unknown, {known.count('sure')} as sure"
        )

    program = Path(sys.prefix, "bin", "accrue")
    stranger = next(iter(held_back.values()))[0]
    name = next(iter(held_back))
    show = lambda path: os.path.relpath(path, os.environ.get("ACCRUE_DEMO_FROM", "."))  # noqa: E731
    console.print(
        f"""
[bold]Next[/] (the state is in {show(STATE)}):
  export ACCRUE_STATE={show(STATE)}
  alias accrue={show(program)}
  accrue class list
  accrue predict {show(stranger)}
  accrue class teach "{name}" {show(stranger.parent)}
  accrue predict {show(stranger)}
  accrue history; accrue undo
  ./tools/demo --images DIR    # on your own photos, as DIR/class/photo.jpg""",
        soft_wrap=True,
    )
    if args.svg:
        args.svg.write_text(
            console.export_svg(title="./tools/demo", code_format=_without_webfont())
        )


def _without_webfont() -> str:
    """rich's picture of a terminal, in a font of the reader's machine: no external host."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


if __name__ == "__main__":
    try:
        main()
    except AccrueError as error:
        sys.exit(f"demo: {error}")
