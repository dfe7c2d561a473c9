"""Cameras through GStreamer: what is put into a pipeline, and frames of a real one."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from accrue.board import Board, boards
from accrue.errors import NotFound, SourceError, UsageError
from accrue.vision import open_source
from accrue.vision.live import PLAYING, Live
from accrue.vision.pipeline import Pipeline, board_pipeline

needs_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None or shutil.which("gst-inspect-1.0") is None,
    reason="GStreamer is missing: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good",
)
NANO = Board.load("jetson-orin-nano-8gb")
PI = Board.load("arm64")
OUT = "GstFdSink:accrue_out.GstPad:sink"


def made(spec: str, board: Board | None = NANO) -> str:
    return board_pipeline(spec, lambda: board)[1]


# ---- what is put into a pipeline ---------------------------------------------------------------


def test_a_camera_is_filled_in_from_the_board_and_its_options() -> None:
    """Every placeholder of every board is filled, and nothing else is changed."""
    found = made("csi:1?width=1920&height=1080&fps=60&flip=2")
    assert found.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,")
    assert "height=1080,format=NV12,framerate=60/1 ! nvvidconv flip-method=2 !" in found
    assert made("usb:3").startswith("v4l2src device=/dev/video3 ! image/jpeg,width=1280,height=720")
    assert "v4l2src device=/dev/v4l/by-id/usb-A_B-video-index0 !" in made(
        "usb:/dev/v4l/by-id/usb-A_B-video-index0"
    )
    stream = made("h265+rtsp://user:pass@192.0.2.9:554/a?b=c")
    assert stream.startswith("rtspsrc location=rtsp://user:pass@192.0.2.9:554/a?b=c protocols=tcp")
    assert "rtph265depay ! h265parse ! nvv4l2decoder" in stream
    for board in boards():
        for spec in ("csi:0", "usb:0", "h264+rtsp://a/b", "h265+rtsps://a/b"):
            if spec == "csi:0" and not board.cameras.csi:
                continue
            assert "{" not in made(spec, board)


@pytest.mark.parametrize(
    "spec",
    [
        "csi:x",
        "csi:0 ! filesink location=/etc/passwd",
        "csi:0?width=1920 ! x",
        "csi:0?width=99999",
        "csi:0?width=-1",
        "csi:0?width=",
        "csi:0?exec=1",
        "csi:0?width=1280&",
        "csi:0?width=²",
        "usb:/dev/../etc/shadow",
        "usb:/etc/shadow",
        "usb:/dev/video0 ! x",
        "usb:/dev/video0,x=y",
        'h264+rtsp://a/b"c',
        "h264+rtsp://a/b!c",
        "h264+rtsp://a/b;c",
        "h264+rtsp://a/b(c)",
        "h264+rtsp://a/b c",
        "h264+file:///etc/passwd",
        "h264+",
    ],
)
def test_only_numbers_devices_and_plain_addresses_reach_gstreamer(spec: str) -> None:
    """Whatever else is refused before the board is asked; nothing can add an element."""

    def asked() -> Board:
        raise AssertionError("the board was asked")

    with pytest.raises(UsageError):
        board_pipeline(spec, asked)


def test_a_refusal_keeps_the_password() -> None:
    for spec in ("h264+rtsp://me:secret@a/b!c", "h264+rtsp:/me:secret@a"):
        with pytest.raises(UsageError) as raised:
            made(spec)
        assert "secret" not in str(raised.value) + repr(raised.value.fields)


def test_a_camera_that_the_board_has_not_is_told() -> None:
    with pytest.raises(NotFound, match=r"^board x86-cpu has no pipeline for csi:0$"):
        made("csi:0", Board.load("x86-cpu"))
    with pytest.raises(NotFound, match=r"^board arm64 has one camera of this kind, csi:0$"):
        made("csi:1", PI)
    with pytest.raises(NotFound, match=r"^csi:0 needs to know the board, .*; name the one that"):
        made("csi:0", None)


@needs_gstreamer
def test_what_a_pipeline_asks_of_an_element_is_a_property_of_it() -> None:
    """Of all boards, for those elements that GStreamer has here; NVIDIA's are on a Jetson alone."""
    asked: dict[str, set[str]] = {}
    for board in boards():
        cameras = board.cameras
        for text in (cameras.csi, cameras.usb, cameras.rtsp_h264, cameras.rtsp_h265):
            for part in filter(None, text.split(" ! ")):
                element, *options = part.split()
                if re.fullmatch(r"[a-z]\w+", element):
                    asked.setdefault(element, set()).update(o.partition("=")[0] for o in options)
    known = set()
    for element, properties in asked.items():
        about = subprocess.run(
            ["gst-inspect-1.0", element], capture_output=True, text=True, check=False, timeout=30
        )
        if about.returncode == 0:
            known.add(element)
            assert properties <= set(re.findall(r"^  ([\w-]+) +: ", about.stdout, re.MULTILINE))
    assert {"rtspsrc", "v4l2src", "jpegdec", "rtph264depay", "rtph265depay"} <= known


# ---- frames of a real GStreamer -----------------------------------------------------------------


@needs_gstreamer
@pytest.mark.parametrize(("width", "height"), [(320, 240), (321, 7), (16, 16)])
def test_frames_come_as_rgb_whatever_their_width(width: int, height: int) -> None:
    """Rows of an odd width are filled up by GStreamer; the filling is cut off."""
    caps = f"video/x-raw,width={width},height={height},framerate=30/1"
    text = f"videotestsrc pattern=red is-live=true ! {caps} ! appsink drop=true"
    with open_source(text) as source:
        frames = [next(source) for _ in range(3)]
    for n, frame in enumerate(frames):
        assert frame.image.shape == (height, width, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.name == f"GStreamer pipeline#{n}"
        np.testing.assert_allclose(frame.image, np.full(frame.image.shape, (255, 0, 0)), atol=3)
    source.close()
    assert list(source) == []


@needs_gstreamer
def test_a_slow_reader_gets_the_newest_frame() -> None:
    """Frames are dropped on the way, so that nothing is seen late."""
    text = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1"
    pipeline = Pipeline(text, "test")
    try:
        pipeline.read()
        time.sleep(1.0)
        began = time.monotonic()
        for _ in range(8):
            pipeline.read()
        passed = time.monotonic() - began
    finally:
        pipeline.close()
    # Thirty frames have gone by; were they all kept, eight of them would come at once.
    assert passed > 3 / 30


@needs_gstreamer
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "nosuchsource ! video/x-raw,width=64,height=64",
            'csi:0 cannot be opened: erroneous pipeline: no element "nosuchsource"',
            "install what brings the element nosuchsource: gst-inspect-1.0 nosuchsource",
        ),
        (
            "v4l2src device=/dev/video987",
            "csi:0 cannot be opened: from element .*v4l2src0: Cannot identify device",
            "check cable, address and permissions, then try again",
        ),
        ("videotestsrc num-buffers=0", "csi:0 cannot be opened: ", "check cable"),
    ],
)
def test_a_pipeline_that_does_not_run_says_why_in_one_line(
    text: str, message: str, hint: str
) -> None:
    """In GStreamer's own words."""
    pipeline = Pipeline(text, "csi:0")
    try:
        with pytest.raises(SourceError, match=rf"^{message}") as raised:
            pipeline.read()
    finally:
        pipeline.close()
    assert raised.value.hint.startswith(hint)
    assert "\n" not in raised.value.message


@needs_gstreamer
def test_a_camera_that_ends_is_a_failure_and_leaves_no_process() -> None:
    caps = "video/x-raw,width=64,height=48,framerate=30/1"
    source = open_source(f"videotestsrc num-buffers=3 ! {caps}")
    child = source._pipeline._process  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match=r"^GStreamer pipeline stopped giving frames after \d"):
        list(source)
    assert child.poll() is not None


@needs_gstreamer
@pytest.mark.parametrize(
    ("sleep_us", "limits", "read"),
    [(60_000_000, {"first_timeout_s": 1.0}, 0), (4_000_000, {"timeout_s": 1.0}, 1)],
)
def test_a_camera_that_stands_still_is_a_failure(
    sleep_us: int, limits: dict[str, float], read: int
) -> None:
    """From the beginning or later; either wait has its limit, and the process is ended."""
    caps = "video/x-raw,width=64,height=48,framerate=30/1"
    text = f"videotestsrc is-live=true ! {caps} ! identity sleep-time={sleep_us}"
    pipeline = Pipeline(text, "still", **limits)
    try:
        for _ in range(read):
            pipeline.read()
        with pytest.raises(SourceError, match=r"^still gave no frame for 1 s"):
            pipeline.read()
    finally:
        pipeline.close()
    assert pipeline._process.poll() is not None


@needs_gstreamer
def test_where_gstreamer_was_never_used_the_first_frame_may_take_long(
    tmp_path: Path,
) -> None:
    """It looks through all its plugins first, for longer than a camera may stand still."""
    slow = tmp_path / "gst-launch-1.0"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {shutil.which("gst-launch-1.0")} "$@"\n')
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    caps = "video/x-raw,width=64,height=48,framerate=30/1"
    text = f"videotestsrc is-live=true ! {caps}"
    pipeline = Pipeline(text, "new", timeout_s=1.5, program=str(slow))
    try:
        assert pipeline.read().shape == (48, 64, 3)
    finally:
        pipeline.close()


@needs_gstreamer
def test_the_service_watches_a_pipeline_and_lets_go_of_it() -> None:
    """As it watches any camera: the newest frame, its state, and no process left."""
    caps = "video/x-raw,width=64,height=48,framerate=30/1"
    with Live(f"videotestsrc is-live=true ! {caps}") as live:
        deadline = time.monotonic() + 20
        while live.status.frames < 3:
            assert time.monotonic() < deadline, live.status
            with live.arrived:
                live.arrived.wait(0.2)
        assert live.status.state == PLAYING
        assert live.take() is not None


def test_without_gstreamer_a_pipeline_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError) as raised:
        open_source("videotestsrc ! appsink")
    assert raised.value.message == (
        "GStreamer pipeline needs GStreamer, and gst-launch-1.0 is not installed"
    )
    assert raised.value.hint.startswith("apt install gstreamer1.0-tools")


@pytest.mark.parametrize("pad", ["GstCapsFilter:accrue_rgb.GstPad:src", OUT])
def test_the_size_is_known_from_whichever_pad_tells_it(tmp_path: Path, pad: str) -> None:
    """GStreamer loses one of the two at times: threads that tell of their pads at once."""
    program = tmp_path / "gst-launch-1.0"
    program.write_text(
        "#!/bin/bash\n"
        "for word; do case $word in fd=*) fd=${word#fd=};; esac; done\n"
        f"echo '/P/{pad}: caps = video/x-raw, format=(string)RGB, width=(int)4, height=(int)1'\n"
        'echo -n 123456789abc >&"$fd"\nsleep 5\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    pipeline = Pipeline("x", "csi:0", program=str(program))
    try:
        assert pipeline.read().tobytes() == b"123456789abc"
    finally:
        pipeline.close()


def test_a_size_that_no_camera_has_is_refused(tmp_path: Path) -> None:
    """Whatever stands in for GStreamer is not believed: it would ask for 3 GB."""
    program = tmp_path / "gst-launch-1.0"
    program.write_text(
        "#!/bin/bash\n"
        "for word; do case $word in fd=*) fd=${word#fd=};; esac; done\n"
        f"echo '/P/{OUT}: caps = video/x-raw, format=(string)RGB, "
        "width=(int)99999, height=(int)99999'\n"
        'echo frame >&"$fd"\nsleep 5\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    pipeline = Pipeline("x", "csi:0", program=str(program))
    try:
        with pytest.raises(SourceError, match=r"^csi:0 gives frames of 99999x99999 px"):
            pipeline.read()
    finally:
        pipeline.close()


def test_the_password_of_a_stream_is_in_no_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even where GStreamer repeats the address."""
    program = tmp_path / "gst-launch-1.0"
    program.write_text('#!/bin/sh\necho "ERROR: from element rtspsrc0: no $*" >&2\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with open_source("h264+rtsp://me:secret@192.0.2.9/a", board="arm64") as source:
        assert source.name == "h264+rtsp://me:***@192.0.2.9/a"
        with pytest.raises(SourceError) as raised:
            next(source)
    assert "rtspsrc0" in raised.value.message
    assert "secret" not in str(raised.value) + repr(raised.value.fields)


# ---- a stream from a real RTSP server -----------------------------------------------------------

SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
media = GstRtspServer.RTSPMediaFactory()
media.set_launch(
    "( videotestsrc is-live=true pattern=red ! video/x-raw,width=320,height=240,framerate=15/1 "
    "! x264enc tune=zerolatency ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/test", media)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""
RTSP_PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly "
    "gstreamer1.0-libav"
)


@pytest.fixture
def rtsp() -> Iterator[str]:
    """Address of an RTSP server, by the system's Python, which has GStreamer's bindings."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("the system's Python is missing")
    for element in ("x264enc", "avdec_h264", "h264parse"):
        if os.system(f"gst-inspect-1.0 --exists {element} >/dev/null 2>&1") != 0:
            pytest.skip(f"GStreamer has no {element}: apt-get install {RTSP_PACKAGES}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with subprocess.Popen(
        [python, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        if not port:
            pytest.skip(f"GStreamer's RTSP server is missing: apt-get install {RTSP_PACKAGES}")
        yield f"rtsp://me:secret@127.0.0.1:{port}/test"
        server.kill()


@needs_gstreamer
def test_a_stream_is_played_by_the_pipeline_of_the_board(rtsp: str) -> None:
    """With a decoder in software, which is what a board without NVIDIA's has."""
    with open_source(f"h264+{rtsp}", board="x86-cpu") as source:
        frames = [next(source) for _ in range(5)]
    assert "secret" not in frames[0].name
    assert frames[-1].image.shape == (240, 320, 3)
    red, green, blue = frames[-1].image[120, 160]
    assert red > 200
    assert max(green, blue) < 50


@needs_gstreamer
def test_a_stream_that_is_not_there_says_so(rtsp: str) -> None:
    gone = rtsp.replace("/test", "/nothing")
    with (
        open_source(f"h264+{gone}", board="x86-cpu") as source,
        pytest.raises(SourceError, match=r"cannot be opened: from element .*rtspsrc0: ") as raised,
    ):
        next(source)
    assert "secret" not in str(raised.value) + repr(raised.value.fields)
