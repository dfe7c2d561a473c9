"""The camera that is plugged in is found, and what is none is not taken for one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import accrue.vision.sources as sources
from accrue.errors import SourceError, UsageError
from accrue.vision.finding import Capability, Found, capability, find_cameras
from accrue.vision.live import WAITING, Live
from accrue.vision.sources import FileSource, is_stream, open_source

# Nodes as boards have them: a webcam has a node for pictures and one for metadata; Tegra's decoder
# and the Pi's codecs are nodes, too.
BOARDS = {
    "webcam": {
        "video0": Capability("uvcvideo", "HD Pro Webcam C920", True),
        "video1": Capability("uvcvideo", "HD Pro Webcam C920", False),
    },
    "jetson with two ribbons and a webcam": {
        "video0": Capability("tegra-video", "vi-output, imx219 9-0010", True),
        "video1": Capability("tegra-video", "vi-output, imx219 10-0010", True),
        "video10": Capability("uvcvideo", "webcam", True),
    },
    "pi without a camera": {
        "video10": Capability("bcm2835-codec", "bcm2835-codec-decode", False),
        "video11": None,
    },
}
EXPECTED = {
    "webcam": [Found("camera:0", "HD Pro Webcam C920")],
    "jetson with two ribbons and a webcam": [
        Found("camera:10", "webcam"),
        Found("csi:0", "vi-output, imx219 9-0010"),
        Found("csi:1", "vi-output, imx219 10-0010"),
    ],
    "pi without a camera": [],
}


@pytest.mark.parametrize("board", BOARDS)
def test_pictures_come_from_what_is_a_camera(board: str, tmp_path: Path) -> None:
    for node in [*BOARDS[board], "video-dec0", "vide"]:
        (tmp_path / node).write_bytes(b"")
    assert find_cameras(tmp_path, lambda node: BOARDS[board][node.name]) == EXPECTED[board]


def test_the_kernels_answer_is_read_as_its_header_has_it() -> None:
    """A webcam's second node has the capabilities of the device and not those of a capture."""
    caps = (0x60800, 0x84A00001, 0x04A00000)  # version, of the device, of the node
    names = (b"uvcvideo", b"Cam \x1b[2J\xff", b"usb-1")
    answer = struct.pack("<16s32s32s3I12x", *names, *caps)
    assert len(answer) == 104
    assert capability(answer) == Capability("uvcvideo", "Cam [2J\N{REPLACEMENT CHARACTER}", False)
    older = struct.pack("<16s32s32sIII3I", b"uvcvideo", b"Cam", b"usb-1", 0, 0x00000001, 0, 0, 0, 0)
    assert capability(older).captures


def test_a_file_that_is_no_device_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "video0").write_bytes(b"")
    assert find_cameras(tmp_path) == []
    assert find_cameras(tmp_path / "nowhere") == []


def test_auto_opens_the_first_that_opens_and_says_which(
    monkeypatch: pytest.MonkeyPatch, photo_file
) -> None:
    there = [Found("camera:7", "broken"), Found(f"play:{photo_file()}", "drawn")]
    monkeypatch.setattr(sources, "find_cameras", lambda: there)
    assert is_stream("auto")
    with open_source("auto") as source:
        assert source.name == f"play:{photo_file()} (drawn)"
        assert next(source).image.shape == (120, 160, 3)


def test_auto_without_a_camera_says_what_to_do_and_looks_again(
    monkeypatch: pytest.MonkeyPatch, photo_file
) -> None:
    """A camera that is plugged in later plays; nothing has to be started again."""
    there: list[Found] = []
    monkeypatch.setattr(sources, "find_cameras", lambda: there)
    with pytest.raises(SourceError, match=r"^no camera was found; plug one in"):
        open_source("auto")
    with Live("auto", draw=lambda: 0.0) as live:
        with live.arrived:
            assert live.arrived.wait_for(lambda: live.status.state == WAITING, 20)
            assert live.status.reason == "no camera was found"
        there.append(Found(f"play:{photo_file()}", "drawn"))
        with live.arrived:
            assert live.arrived.wait_for(lambda: live.newest is not None, 20)
        assert live.status.name.endswith("(drawn)")


def test_a_file_called_auto_is_named_with_its_folder(
    photo_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_file("auto.jpg").rename(photo_file("auto.jpg").with_name("auto"))
    monkeypatch.chdir(photo_file("other.jpg").parent)
    with open_source("./auto") as source:
        assert isinstance(source, FileSource)
    with pytest.raises(UsageError):
        open_source("csi:0?speed=1")
