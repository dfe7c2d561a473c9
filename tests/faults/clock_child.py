"""A device whose clock is set while it watches and is taught; started with faulty.so preloaded.

    python clock_child.py STATE BUNDLE PHOTOS

Prints what went wrong, as JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from accrue.errors import AccrueError
from accrue.service.access import Access
from accrue.service.daemon import Device
from accrue.service.http.live import Hub
from accrue.service.settings import Settings

HOUR_S, YEAR_S = 3600, 365 * 86_400
SET = (2 * HOUR_S, -3 * HOUR_S, YEAR_S, -5 * YEAR_S, 0)  # against the true time, one after another
DEADLINE_S = 20.0


def set_clock(seconds: int) -> None:
    ctypes.CDLL(None).faulty_clock(ctypes.c_long(seconds))


def until(holds: Callable[[], object]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


def looked_at(device: Device) -> float:
    return sum(n for (name, _), n in device.figures.all().items() if name == "accrue_frames_total")


def after(seconds: int, device: Device, hub: Hub, access: Access) -> list[str]:
    """Sets the clock in the midst of everything; what does not go on."""
    wrong = []
    session = device.begin_teach("bolt", 0, "tests")
    until(lambda: session.view().kept > 0)
    shown = asyncio.run(hub.picture(0))
    frames, answered = device.cameras()[0].frames, looked_at(device)
    set_clock(seconds)
    if not until(lambda: device.cameras()[0].frames > frames + 5):
        wrong.append("no frame comes")
    if device.cameras()[0].state != "playing":
        wrong.append(f"the camera is {device.cameras()[0].state}")
    if not until(lambda: looked_at(device) > answered + 5):
        wrong.append("no frame is looked at")
    if shown is None or not until(lambda: asyncio.run(hub.picture(0, shown.at))):
        wrong.append("the picture stands still")
    time.sleep(0.6)  # the loop has looked for sessions whose time is up
    if session.state != "recording":
        wrong.append(f"the teach session is {session.state}")
    before = [entry.seq for entry in device.box.history()]
    try:
        receipt = device.commit_teach(session.id, "tests")
    except AccrueError as error:
        return [*wrong, f"teaching: {error}"]
    newest = device.box.history(1)[0]
    if newest.seq <= max(before, default=0) or not receipt.shot:
        wrong.append("what was taught is not the newest entry")
    shots = [shot.id for shot in device.box.reading().shots()]
    if shots != sorted(shots) or shots[-1] != receipt.shot:
        wrong.append("the newest shot is not the last")
    code = access.invite("viewer", by="tests")
    if access.redeem(code.code, "somebody")[0].role != "viewer":
        wrong.append("a fresh code does not pair")
    return wrong


def main() -> None:
    state, bundle, photos = map(Path, sys.argv[1:4])
    settings = Settings(
        state=state, bundle=bundle, views=1, blur=1.0, duplicates=1.0, threads=1, unknown=50
    )
    wrong = []
    with Device(settings, cameras=[f"play:{photos}"]) as device, Access(state) as access:
        hub = Hub(device, access)
        if not until(lambda: device.frame(0)):
            wrong.append("no first frame")
        for seconds in SET:
            wrong += [f"set to {seconds:+} s: {one}" for one in after(seconds, device, hub, access)]
        wrong += device.box.reading().check()
        taught = len(device.box.reading().shots())
    print(json.dumps({"wrong": wrong, "taught": taught, "set": len(SET)}))


if __name__ == "__main__":
    main()
