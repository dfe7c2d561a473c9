"""Where images come from: files, folders, videos, cameras and streams, behind one interface."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np

from accrue.board import AUTO, which
from accrue.errors import NotFound, SourceError, UsageError
from accrue.vision.decode import decode, shown
from accrue.vision.finding import AUTO_CAMERA, find_cameras
from accrue.vision.pipeline import Pipeline, board_pipeline, is_board_camera
from accrue.vision.preprocess import Pixels, check_image

_IMAGES = "jpg jpeg jpe jfif mpo png webp tif tiff bmp gif ppm pgm pbm"
_VIDEOS = "mp4 m4v mov mkv avi webm mpg mpeg ts mjpeg mjpg"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _IMAGES.split())
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _VIDEOS.split())
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp")
TIMEOUT_MS = 10_000  # to open a stream and to wait for a frame; OpenCV's 30 s look like a hang
PLAY = "play:"  # before a path: its photos as a camera would show them
PLAY_FPS, PLAY_HOLD_S = 10.0, 2.0
_CAMERA = re.compile(r"(?:camera:)?([0-9]{1,3})")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"(://[^/\s:@]*):\S*@")
_SourceT = TypeVar("_SourceT", bound="Source")


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image: uint8 (h, w, 3) RGB.
        name: the file, or the source with the frame's number; no password.
        index: from 0, counted per source.
        at: Unix time in seconds at which it was read.
    """

    image: Pixels
    name: str
    index: int
    at: float


class Source(Protocol):
    """An iterator of frames that is closed by ``with``, and may be closed twice.

    ``__next__`` raises ImageError for a file that is no image, after which iterating may go on,
    and SourceError when a camera or stream fails, after which it may not.
    """

    name: str

    def __iter__(self: _SourceT) -> _SourceT: ...

    def __next__(self) -> Frame: ...

    def __enter__(self: _SourceT) -> _SourceT: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def close(self) -> None: ...


class _Base:
    """What all sources share: numbering, the clock and closing."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._clock = clock
        self._index = 0

    def __iter__(self: _BaseT) -> _BaseT:
        return self

    def __enter__(self: _BaseT) -> _BaseT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to close; a capture overrides this."""

    def _frame(self, image: Pixels, name: str) -> Frame:
        frame = Frame(image, name, self._index, self._clock())
        self._index += 1
        return frame


_BaseT = TypeVar("_BaseT", bound=_Base)


class FileSource(_Base):
    """Image files, one after the other."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        *,
        short_side: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, clock)
        self._paths = iter(paths)
        self._short_side = short_side

    def __next__(self) -> Frame:
        path = next(self._paths)
        return self._frame(decode(path, short_side=self._short_side), shown(path))


class FakeSource(_Base):
    """A camera for tests: gives these images (uint8 RGB), or raises these errors, then ends."""

    def __init__(
        self,
        images: Sequence[Pixels | Exception],
        *,
        name: str = "fake",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, clock)
        self._images = iter(images)
        self.closed = False

    def __next__(self) -> Frame:
        if self.closed:
            raise StopIteration
        image = next(self._images)
        if isinstance(image, Exception):
            raise image
        return self._frame(check_image(image), f"{self.name}#{self._index}")

    def close(self) -> None:
        self.closed = True


class PlaySource(_Base):
    """Photos as a camera would show them: 10 frames a second, each photo for 2 s, over and over.

    It stands in for a camera where none is at hand, in tests and in a demonstration.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        *,
        short_side: int | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(name, clock)
        self._paths, self._short_side = paths, short_side
        self._ticks, self._sleep = ticks, sleep
        self._shown: tuple[int, Pixels] | None = None
        self._next_tick = ticks()
        self._closed = False

    def __next__(self) -> Frame:
        if self._closed:
            raise StopIteration
        now = self._ticks()
        self._sleep(max(0.0, self._next_tick - now))
        self._next_tick = max(now, self._next_tick) + 1 / PLAY_FPS
        which = int(self._index / (PLAY_FPS * PLAY_HOLD_S)) % len(self._paths)
        if self._shown is None or self._shown[0] != which:
            self._shown = which, decode(self._paths[which], short_side=self._short_side)
        return self._frame(self._shown[1], f"{self.name}#{self._index}")

    def close(self) -> None:
        self._closed = True


class PipelineSource(_Base):
    """A camera by GStreamer, in a process of its own. Its end is a failure.

    Args:
        pipeline: as for `Pipeline`.
        name: what messages call it.
    """

    def __init__(self, pipeline: str, name: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(name, clock)
        self._pipeline: Pipeline | None = Pipeline(pipeline, name, hide=without_password)

    def __next__(self) -> Frame:
        if self._pipeline is None:
            raise StopIteration
        try:
            image = self._pipeline.read()
        except SourceError:
            self.close()
            raise
        return self._frame(check_image(image), f"{self.name}#{self._index}")

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None


class CaptureSource(_Base):
    """A video file, camera or stream, by OpenCV.

    Args:
        target: what OpenCV opens.
        name: what messages call it.
        api: OpenCV's backend, by the name of its constant.
        settings: pairs of an OpenCV property's name and its value, given at opening.
        live: the end of the frames is a failure, not the end.
    """

    def __init__(
        self,
        target: str | int,
        name: str,
        *,
        api: str = "CAP_ANY",
        settings: Sequence[tuple[str, int]] = (),
        live: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, clock)
        self._cv2 = cv2 = _opencv()
        self._live = live
        self._capture: Any = None
        self.fps = 0.0
        backend = getattr(cv2, api)
        if backend != cv2.CAP_ANY and not cv2.videoio_registry.hasBackend(backend):
            raise SourceError(
                f"{name} cannot be opened: this OpenCV is built without {api.removeprefix('CAP_')}",
                hint='pip install "accrue[camera]"',
                path=name,
                expected=api,
            )
        numbers = [n for key, value in settings for n in (getattr(cv2, key), value)]
        try:
            self._capture = cv2.VideoCapture(target, backend, numbers)
            opened = self._capture.isOpened()
        except cv2.error as error:
            raise self._failed(f"cannot be opened: {_one_line(error)}") from error
        if opened:
            # of the video, 0 where it does not say; a camera's own figure is often made up
            self.fps = 0.0 if live else max(0.0, self._capture.get(cv2.CAP_PROP_FPS) or 0.0)
        else:
            self.close()
            raise self._failed("cannot be opened" if live else "is no video that OpenCV can read")

    def __next__(self) -> Frame:
        if self._capture is None:
            raise StopIteration
        try:
            there, bgr = self._capture.read()
        except self._cv2.error as error:
            raise self._failed(f"failed at frame {self._index}: {_one_line(error)}") from error
        if not there:
            count = self._index
            self.close()
            if count == 0:
                raise self._failed("was opened but gave no frame")
            if self._live:
                raise self._failed(f"stopped giving frames after {count:,}")
            raise StopIteration
        return self._frame(check_image(rgb_of(self._cv2, bgr)), f"{self.name}#{self._index}")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _failed(self, what: str) -> SourceError:
        hint = "check cable, address and permissions, then try again" if self._live else ""
        return SourceError(f"{self.name} {what}", hint=hint, path=self.name, found=what)


def open_source(
    spec: str | Path,
    *,
    short_side: int | None = None,
    clock: Callable[[], float] = time.time,
    board: str = AUTO,
) -> Source:
    """The source that a person means by ``spec``.

    ``auto`` (the first camera that is found and opens, see `find_cameras`; a file called so is
    ``./auto``), a camera of the board (``csi:0``, ``usb:0``, ``h264+rtsp://...``, see
    `board_pipeline`), a GStreamer pipeline (contains `` ! ``), a stream's URL (rtsp, http ...), a
    camera (``0`` or ``camera:0``; a file called 0 is ``./0``), ``play:`` and a path (its photos
    as a camera would show them), or the path of an image file, a folder of images (recursive,
    sorted) or a video file.

    Args:
        short_side: px, passed on to `decode` for image files.
        clock: Unix time in seconds.
        board: the setting `board`, for the board's own cameras.

    Raises:
        NotFound: no such file or folder, a folder without images, or a camera that the board has
            not.
        UsageError: a URL of a kind that is no video, or a camera of the board that is ill formed.
        SourceError: OpenCV or GStreamer is missing, or cannot open it.
    """
    if isinstance(spec, str):
        if spec == AUTO_CAMERA:
            return _first_camera(clock, board)
        if " ! " in spec:
            return PipelineSource(spec, "GStreamer pipeline", clock=clock)
        if is_board_camera(spec):
            name, pipeline = board_pipeline(spec, lambda: which(board).board)
            return PipelineSource(pipeline, without_password(name), clock=clock)
        if spec.startswith(PLAY):
            paths = image_paths(spec.removeprefix(PLAY))
            return PlaySource(spec, paths, short_side=short_side, clock=clock)
        if match := _SCHEME.match(spec):
            name = without_password(spec)
            if match[1].lower() not in STREAM_SCHEMES:
                raise UsageError(
                    f"{name} is a URL of kind {match[1]}; expected {', '.join(STREAM_SCHEMES)}",
                    found=match[1],
                    expected=STREAM_SCHEMES,
                )
            timeouts = (
                ("CAP_PROP_OPEN_TIMEOUT_MSEC", TIMEOUT_MS),
                ("CAP_PROP_READ_TIMEOUT_MSEC", TIMEOUT_MS),
            )
            return CaptureSource(spec, name, api="CAP_FFMPEG", settings=timeouts, clock=clock)
        if (number := camera_number(spec)) is not None:
            return CaptureSource(number, f"camera:{number}", clock=clock)
    path = Path(spec)
    if _is_video(path):
        return CaptureSource(str(path), shown(path), live=False, clock=clock)
    return FileSource(shown(path), image_paths(path), short_side=short_side, clock=clock)


def _first_camera(clock: Callable[[], float], board: str) -> Source:
    failed = []
    for found in find_cameras():
        try:
            source = open_source(found.spec, clock=clock, board=board)
        except (SourceError, NotFound) as error:
            failed.append(error.message)
            continue
        source.name = f"{found.spec} ({found.name})" if found.name else found.spec
        return source
    raise SourceError(
        "no camera was found" + "".join(f"; {reason}" for reason in failed),
        hint="plug one in; or name one: setting cameras",
        found=len(failed),
    )


def without_password(spec: str) -> str:
    """The same with `***` for the password of a URL."""
    return _PASSWORD.sub(r"\1:***@", spec)


def camera_number(spec: str) -> int | None:
    """2 of ``2`` and ``camera:2``; None where it is something else."""
    found = _CAMERA.fullmatch(spec)
    return int(found[1]) if found else None


def is_stream(spec: str) -> bool:
    """Whether `open_source` would play it (camera, stream, pipeline, video), not read images."""
    return (
        spec == AUTO_CAMERA
        or " ! " in spec
        or is_board_camera(spec)
        or _SCHEME.match(spec) is not None
        or camera_number(spec) is not None
        or spec.startswith(PLAY)
        or _is_video(Path(spec))
    )


def _is_video(path: Path) -> bool:
    # os.path.isfile says no where Path.is_file raises: over-long names, folders without access
    return path.suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(path)  # noqa: PTH113


def image_paths(path: str | Path) -> list[Path]:
    """The image files at a path: itself if it is a file, else those below it, sorted.

    Images are known by their suffix (`IMAGE_SUFFIXES`, in any case); a file named by the caller
    need not have one. Hidden files and folders are left out, links to folders are not followed.

    Raises:
        NotFound: nothing is there, or a folder without images.
        SourceError: a folder that cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        found = sorted(_below(path), key=lambda p: p.relative_to(path).parts)
    except FileNotFoundError as error:
        raise NotFound(f"no file or folder {shown(path)}", path=str(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or _one_line(error)
        where = shown(getattr(error, "filename", None) or path)
        raise SourceError(f"{where} cannot be read: {reason}", path=where, found=reason) from error
    if not found:
        raise NotFound(
            f"no image in {shown(path)}",
            hint=f"images end in {' '.join(sorted(IMAGE_SUFFIXES))}",
            path=str(path),
        )
    return found


def labelled_images(folder: str | Path) -> dict[str, list[Path]]:
    """Images sorted into folders: class name to photos, both sorted.

    The class is the path of the photo's folder below ``folder``, with forward slashes
    (``Fruit/Apple/Golden-Delicious``). Photos directly in ``folder`` have no class and are left
    out.

    Raises:
        NotFound: no folder, or no image in a folder below it.
        SourceError: a folder that cannot be read.
    """
    folder = Path(folder)
    paths = image_paths(folder)
    if paths == [folder]:
        raise NotFound(
            f"{shown(folder)} is a file; expected a folder of CLASS/PHOTO.jpg", path=str(folder)
        )
    classes: dict[str, list[Path]] = {}
    for path in paths:
        classes.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    unlabelled = classes.pop(".", [])
    if not classes:
        raise NotFound(
            f"no class in {shown(folder)}: its {len(unlabelled)} images lie in the folder itself",
            hint="put each class's images into a folder of its own: CLASS/PHOTO.jpg",
            path=str(folder),
        )
    return dict(sorted(classes.items()))


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(root, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield path


def _raise(error: OSError) -> None:
    raise error


def _opencv() -> Any:
    """The module, imported only where a camera or video is opened: it is an extra."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its own lines on stderr; ours say it
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    try:
        import cv2
    except ImportError as error:
        raise SourceError(
            f"cameras and videos need OpenCV, which cannot be imported: {_one_line(error)}",
            hint='pip install "accrue[camera]"',
        ) from error
    return cv2


def rgb_of(cv2: Any, bgr: Any) -> Any:
    """OpenCV's order of colours, uint8 (h, w, 3), as RGB in an array of its own.

    What is no such picture (a grey one of a pipeline) comes back as it is, to be refused.
    """
    if bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3:
        return bgr
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
