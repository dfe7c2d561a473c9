"""Cameras through GStreamer, in a process of its own: ``gst-launch-1.0`` writes frames to a pipe.

pip's OpenCV has no GStreamer, and without it neither the CSI cameras nor the hardware decoders of
a Jetson can be used. GStreamer runs beside the service, so what crashes in a camera driver never
takes the service with it. The pipeline is handed over as a list of words: no shell sees it.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from accrue.board import Board, Cameras
from accrue.errors import NotFound, SourceError, UsageError

PROGRAM = "gst-launch-1.0"
PACKAGES = "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
TIMEOUT_S = 10.0  # between frames
# To the first: where GStreamer was never used before, it looks through all its plugins (7 s here).
FIRST_TIMEOUT_S = 30.0
CLOSE_S = 2.0  # for the process to end by itself; a camera daemon wants to be told
STDERR_LINES = 50
LARGEST_SIDE_PX = 16_384
LARGEST_FRAME_BYTES = 1 << 28  # beyond any camera
CHUNK_BYTES = 1 << 16  # what a pipe holds
HARDWARE = {"h264": "rtsp_h264", "h265": "rtsp_h265"}
_CSI = re.compile(r"csi:(\d{1,2})(?:\?(.*))?")
_USB = re.compile(r"usb:(\d{1,3}|/dev/[A-Za-z0-9_./:+-]+)(?:\?(.*))?")
_STREAM = re.compile(r"(h264|h265)\+(rtsps?://\S+)")
# Of a URL, what GStreamer's grammar gives no meaning to; anything else is written as %21.
_PLAIN_URL = re.compile(r"rtsps?://[A-Za-z0-9._~%:/?\[\]@&=+,$*-]+")
_OPTIONS: Mapping[str, tuple[int, int]] = {
    "width": (16, 8192),
    "height": (16, 8192),
    "fps": (1, 240),
    "flip": (0, 7),
}
_FIELD = re.compile(r"(format|width|height)=\((?:string|int)\)(\w+)")
# Our elements, and what GStreamer tells of their pads. The sink's alone will not do: it is told in
# the queue's thread beside another one, and in one start of 150 GStreamer 1.22 loses it.
_OURS = "accrue_"
_CAPS = re.compile(rf":{_OURS}\w+\.GstPad:(?:sink|src): caps = ")


@dataclass(frozen=True)
class Size:
    """Of a frame in px."""

    width: int
    height: int

    @property
    def stride(self) -> int:
        """Bytes of a row: GStreamer fills rows up to whole words."""
        return (3 * self.width + 3) // 4 * 4

    @property
    def bytes(self) -> int:
        return self.stride * self.height


class Pipeline:
    """Frames of a GStreamer pipeline.

    Args:
        text: elements up to raw video in the system's memory; an appsink at its end is left out.
        name: what messages call it; no password.
        hide: takes passwords out of what GStreamer says.
        timeout_s: between frames. first_timeout_s: to the first one.

    Raises:
        SourceError: GStreamer is missing, or the text cannot be split into words.
    """

    def __init__(
        self,
        text: str,
        name: str,
        *,
        hide: Callable[[str], str] = lambda text: text,
        timeout_s: float = TIMEOUT_S,
        first_timeout_s: float = FIRST_TIMEOUT_S,
        program: str = PROGRAM,
    ) -> None:
        self.name, self._hide = name, hide
        self._timeout_s, self._first_timeout_s = timeout_s, first_timeout_s
        found = shutil.which(program)
        if found is None:
            raise SourceError(
                f"{name} needs GStreamer, and {program} is not installed",
                hint=f"apt install {PACKAGES}",
                path=name,
                expected=program,
            )
        self._size: Size | None = None
        self._changed = False
        self._said: deque[str] = deque(maxlen=STDERR_LINES)
        self._told = threading.Lock()
        self._pending = bytearray()
        self._closed = False
        self._frames = 0
        words = self._words(text)
        self._end, write_end = os.pipe()
        self._poll = select.poll()  # not select(): it knows the first 1,024 files only
        self._poll.register(self._end, select.POLLIN | select.POLLHUP)
        try:
            self._process = subprocess.Popen(
                [found, "-v", *words, f"fd={write_end}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(write_end,),
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C", "GST_DEBUG_NO_COLOR": "1"},
            )
        except OSError as error:
            os.close(self._end)
            raise SourceError(f"{name} cannot be opened: {error}", path=name) from error
        finally:
            os.close(write_end)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._listen, args=(stream,), daemon=True)
            for stream in (self._process.stdout, self._process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    def read(self) -> NDArray[np.uint8]:
        """The next frame: uint8 (h, w, 3) RGB.

        Raises:
            SourceError: no frame came in time, or GStreamer ended; it says why.
        """
        timeout = self._timeout_s if self._frames else self._first_timeout_s
        until = time.monotonic() + timeout
        while (size := self._size_told()) is None or len(self._pending) < size.bytes:
            left = until - time.monotonic()
            if left <= 0:
                raise self._failed(f"gave no frame for {timeout:g} s")
            if len(self._pending) > LARGEST_FRAME_BYTES:
                raise self._failed("does not say how large its frames are")
            # Read also while the size is not known yet: a sink that cannot write keeps
            # gst-launch from telling it.
            if self._poll.poll(1000 * min(left, 0.2)):
                some = os.read(self._end, CHUNK_BYTES)
                self._pending += some
                if not some and not self._whole_frame_left():
                    raise self._failed(self._why())
        if self._changed:
            raise self._failed("changed the size of its frames")
        self._frames += 1
        rows = np.frombuffer(bytes(self._pending[: size.bytes]), np.uint8)
        del self._pending[: size.bytes]
        rows = rows.reshape(size.height, size.stride)[:, : 3 * size.width]
        return np.ascontiguousarray(rows).reshape(size.height, size.width, 3)

    def close(self) -> None:
        """Ends the process and waits for it; may be called twice."""
        if self._closed:
            return
        self._closed = True
        os.close(self._end)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for thread in self._threads:
            thread.join(timeout=CLOSE_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _words(self, text: str) -> list[str]:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise SourceError(f"{self.name} is no pipeline: {error}", path=self.name) from None
        last = max((i for i, word in enumerate(words) if word == "!"), default=0)
        if words[last + 1 : last + 2] == ["appsink"]:
            words = words[:last]
        rgb = ["capsfilter", "caps=video/x-raw,format=RGB", f"name={_OURS}rgb"]
        queue = ["queue", "leaky=downstream", "max-size-buffers=1"]  # the newest frame, no lag
        out = ["fdsink", "sync=false", f"name={_OURS}out"]
        return [*words, "!", "videoconvert", "!", *rgb, "!", *queue, "!", *out]

    def _listen(self, stream: IO[str]) -> None:
        """Takes the size of frames out of what GStreamer says, and keeps its last lines."""
        with suppress(ValueError, OSError):  # closed meanwhile
            for line in stream:
                with self._told:
                    if _CAPS.search(line):
                        found = dict(_FIELD.findall(line))
                        if found.get("format") == "RGB" and {"width", "height"} <= set(found):
                            size = Size(int(found["width"]), int(found["height"]))
                            self._changed |= self._size not in (None, size)
                            self._size = size
                    elif stream is self._process.stderr or line.startswith(("ERROR", "WARNING")):
                        self._said.append(line.strip())

    def _size_told(self) -> Size | None:
        with self._told:
            size = self._size
        if size and not 0 < max(size.width, size.height) <= LARGEST_SIDE_PX:
            raise self._failed(f"gives frames of {size.width}x{size.height} px")
        return size

    def _whole_frame_left(self) -> bool:
        """Whether there is one, after the end of the frames and of what GStreamer said."""
        self._wait()
        size = self._size_told()
        return size is not None and len(self._pending) >= size.bytes

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        for thread in self._threads:
            thread.join(timeout=CLOSE_S)

    def _why(self) -> str:
        """How it ended, in GStreamer's own words."""
        self._wait()
        with self._told:
            said = [line for line in self._said if "ERROR" in line or "erroneous" in line]
            reason = (said or list(self._said) or [f"exit code {self._process.returncode}"])[0]
        reason = self._hide(re.sub(r"^(ERROR|WARNING): ", "", reason))[:300]
        ended = f"stopped giving frames after {self._frames:,}" if self._frames else ""
        return f"{ended or 'cannot be opened'}: {reason}"

    def _failed(self, what: str) -> SourceError:
        hint = "check cable, address and permissions, then try again"
        if found := re.search(r'no element "(\w+)"', what):
            hint = f"install what brings the element {found[1]}: gst-inspect-1.0 {found[1]}"
        return SourceError(f"{self.name} {what}", hint=hint, path=self.name, found=what)


def is_board_camera(spec: str) -> bool:
    """Whether `board_pipeline` would take it: ``csi:0``, ``usb:0``, ``h264+rtsp://...``."""
    return spec.startswith(("csi:", "usb:", "h264+", "h265+"))


def board_pipeline(spec: str, board: Callable[[], Board | None]) -> tuple[str, str]:
    """Name and pipeline of a camera, from the description of the board.

    Only numbers in their range, a device's path and a plain URL are put into it, each in its
    place; nothing else of ``spec`` reaches GStreamer.

    Args:
        spec: ``csi:N``, ``usb:N`` or ``usb:/dev/v4l/by-id/NAME``, each with options as in
            ``csi:0?width=1920&height=1080&fps=30&flip=2``; ``h264+rtsp://...`` or ``h265+...``.
        board: gives the one in force; asked only where the spec is well formed.

    Raises:
        UsageError: the spec is none of these.
        NotFound: no board is known, or it has no such camera.
    """
    values: dict[str, str] = {}
    if found := _STREAM.fullmatch(spec):
        key, name = HARDWARE[found[1]], spec
        if not _PLAIN_URL.fullmatch(found[2]):
            raise UsageError(
                "the address holds a character that cannot stand in a pipeline; expected letters, "
                "digits and ._~%:/?[]@&=+,$*-",
                hint="write others as in %21 for an exclamation mark",
            )
        values["url"] = found[2]
    elif found := _CSI.fullmatch(spec):
        key, name = "csi", f"csi:{int(found[1])}"
        values = {"sensor": str(int(found[1])), **_options(spec, found[2])}
    elif found := _USB.fullmatch(spec):
        path = f"/dev/video{int(found[1])}" if found[1].isdigit() else found[1]
        if ".." in path.split("/"):
            raise UsageError(f"{spec} is no device: its path goes up", found=spec)
        key, name = "usb", f"usb:{found[1]}"
        values = {"device": path, **_options(spec, found[2])}
    else:
        raise UsageError(
            f"{spec.partition(':')[0] + ':...' if '@' in spec else spec} is no camera of a board; "
            "expected csi:0, usb:0, usb:/dev/v4l/by-id/NAME, h264+rtsp://... or h265+rtsp://...",
            hint="options follow a question mark: csi:0?width=1920&height=1080",
        )
    here = board()
    if here is None:
        raise NotFound(
            f"{name} needs to know the board, and this is none of those that are known",
            hint="name the one that comes nearest: setting board",
        )
    return name, _filled(here, key, name, values)


def _options(spec: str, text: str | None) -> dict[str, str]:
    """Those that were given, each a whole number in its range."""
    found = {}
    for part in (text or "").split("&") if text is not None else ():
        option, _, raw = part.partition("=")
        low, high = _OPTIONS.get(option, (1, 0))
        if not raw.isascii() or not raw.isdigit() or not low <= int(raw[:9]) <= high:
            known = ", ".join(f"{o} ({low} to {high})" for o, (low, high) in _OPTIONS.items())
            raise UsageError(f"{part!r} in {spec} is no option of a camera; expected {known}")
        found[option] = str(int(raw))
    return found


def _filled(board: Board, key: str, name: str, values: dict[str, str]) -> str:
    cameras: Cameras = board.cameras
    pipeline: str = getattr(cameras, key)
    if not pipeline:
        raise NotFound(f"board {board.name} has no pipeline for {name}", found=name)
    if values.get("sensor", "0") != "0" and "{sensor}" not in pipeline:
        raise NotFound(f"board {board.name} has one camera of this kind, csi:0", found=name)
    every = {
        "width": str(cameras.width),
        "height": str(cameras.height),
        "fps": str(cameras.fps),
        "flip": "0",
        "latency": str(cameras.latency_ms),
        **values,
    }
    return re.sub(r"\{(\w+)\}", lambda found: every[found[1]], pipeline)
