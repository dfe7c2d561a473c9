"""What `./tools/demo --console` runs: a device that knows half of the sample parts, in a browser.

Its cameras are the photos: one shows what it knows, one what it has yet to be taught, and one what
belongs to neither.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from accrue.errors import AccrueError
from accrue.service.box import Box
from accrue.service.settings import Settings
from accrue.vision.sources import labelled_images

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tools" / "samples"
STATE = ROOT / "build" / "demo-console"
THUMBNAILS_PX = 160
TAUGHT = 8  # of the sixteen parts


def link_photos(folder: Path, photos: list[Path]) -> str:
    """A folder whose photos a camera shows in this order."""
    folder.mkdir(parents=True)
    for number, photo in enumerate(photos):
        folder.joinpath(f"{number:03}-{photo.name}").symlink_to(photo)
    return f"play:{folder}"


def main() -> None:
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        sys.exit(f"{__doc__}\nWords behind --console go to `accrue run`, as --listen ADDRESS:PORT.")
    shutil.rmtree(STATE, ignore_errors=True)
    teach = labelled_images(SAMPLES / "teach")
    test = labelled_images(SAMPLES / "test")
    known = list(teach)[:TAUGHT]
    print(f"teaching {len(known)} parts ...", file=sys.stderr, flush=True)
    with Box(Settings(state=STATE / "state", thumbnails=THUMBNAILS_PX, actor="demo")) as box:
        for name in known:
            for receipt in box.teach(name.replace("-", " "), [(p.name, p) for p in teach[name]]):
                if receipt.error is not None:
                    raise receipt.error
    others = [name for name in teach if name not in known]
    strangers = labelled_images(SAMPLES / "never-taught")
    cameras = [
        link_photos(STATE / "known parts", [photo for name in known for photo in test[name]]),
        link_photos(STATE / "new parts", [photo for name in others for photo in teach[name]]),
        link_photos(STATE / "strangers", [photo for some in strangers.values() for photo in some]),
    ]
    program = [sys.executable, "-m", "accrue.cli.main"]
    os.execv(program[0], [*program, "--state", str(STATE / "state"), "run", *cameras, *words])


if __name__ == "__main__":
    try:
        main()
    except AccrueError as error:
        sys.exit(f"demo: {error}")
