"""Cameras that are plugged in, found without a setting: `auto`."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

AUTO_CAMERA = "auto"
_QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP of videodev2.h: _IOR('V', 0, 104 bytes)
_ANSWER = struct.Struct("<16s32s32s3I12x")  # driver, card, bus; version, capabilities, of the node
_CAPTURES, _OF_NODE = 0x1, 0x80000000  # V4L2_CAP_VIDEO_CAPTURE, V4L2_CAP_DEVICE_CAPS
USB = "uvcvideo"
# The sensors of a ribbon cable, which give raw pixels; the board's own pipeline makes pictures.
RIBBON = ("tegra-video", "unicam", "rp1-cfe")


class Capability(NamedTuple):
    """What a node of the kernel says of itself. `captures`: whether pictures come out of it."""

    driver: str
    card: str
    captures: bool


@dataclass(frozen=True)
class Found:
    """A camera: what `open_source` takes, and what it calls itself."""

    spec: str
    name: str


def find_cameras(
    dev: Path = Path("/dev"), ask: Callable[[Path], Capability | None] | None = None
) -> list[Found]:
    """The cameras of this machine: those of USB first, then of ribbon cables, then others.

    Nodes that give no pictures (codecs, metadata, outputs) are left out, and those that this user
    may not open.

    Args:
        dev: folder of the nodes. ask: asks a node; for tests.
    """
    ask = ask or _asked
    nodes = [path for path in dev.glob("video*") if path.name[5:].isdigit()]
    nodes.sort(key=lambda path: int(path.name[5:]))
    usb: list[Found] = []
    ribbon: list[Found] = []
    others: list[Found] = []
    for node in nodes:
        said = ask(node)
        if said is None or not said.captures:
            continue
        if said.driver in RIBBON:
            ribbon.append(Found(f"csi:{len(ribbon)}", said.card))
        else:
            found = Found(f"camera:{node.name[5:]}", said.card)
            (usb if said.driver == USB else others).append(found)
    return [*usb, *ribbon, *others]


def _asked(node: Path) -> Capability | None:
    """None where it does not answer."""
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(descriptor, _QUERYCAP, bytes(_ANSWER.size))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return capability(answer)


def capability(answer: bytes) -> Capability:
    """Of the kernel's answer to VIDIOC_QUERYCAP, 104 bytes."""
    driver, card, _, _, of_device, of_node = _ANSWER.unpack(answer)
    can = of_node if of_device & _OF_NODE else of_device
    return Capability(_text(driver), _text(card), bool(can & _CAPTURES))


def _text(field: bytes) -> str:
    text = field.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable())
