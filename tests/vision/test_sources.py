"""Files, folders, videos, cameras and streams give frames in one way, and fail in one way."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accrue.errors import ImageError, NotFound, SourceError, UsageError
from accrue.vision import FakeSource, decode, image_paths, labelled_images, open_source

Photos = Callable[..., Path]


class Clock:
    """Each call is one second later."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Camera(ModuleType):
    """Stands in for cv2: a capture of ``frames`` BGR images that then fails."""

    CAP_ANY, CAP_FFMPEG = 0, 1900
    CAP_PROP_OPEN_TIMEOUT_MSEC, CAP_PROP_READ_TIMEOUT_MSEC = 53, 54
    COLOR_BGR2RGB = 4

    @staticmethod
    def cvtColor(bgr: np.ndarray, code: int) -> np.ndarray:  # noqa: N802
        assert code == Camera.COLOR_BGR2RGB
        return np.ascontiguousarray(bgr[..., ::-1])

    class error(Exception):  # noqa: N801
        pass

    def __init__(self, frames: list[Any], *, opens: bool = True) -> None:
        super().__init__("cv2")
        self.frames, self.opens = frames, opens
        self.opened_with: list[Any] = []
        self.released = 0
        self.videoio_registry = SimpleNamespace(hasBackend=lambda _: True)

    def VideoCapture(self, *arguments: Any) -> Any:  # noqa: N802
        self.opened_with.append(arguments)
        if isinstance(self.opens, Exception):
            raise self.opens
        waiting = iter(self.frames)

        def read() -> tuple[bool, Any]:
            frame = next(waiting, None)
            if isinstance(frame, Exception):
                raise frame
            return frame is not None, frame

        def release() -> None:
            self.released += 1

        return SimpleNamespace(isOpened=lambda: self.opens, read=read, release=release)


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Camera]:
    def install(frames: list[Any], **more: Any) -> Camera:
        fake = Camera(frames, **more)
        monkeypatch.setitem(sys.modules, "cv2", fake)
        return fake

    return install


BLUE_BGR = np.zeros((4, 6, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


def test_an_image_file_is_a_source_of_one_frame(photo_file: Photos) -> None:
    """Its pixels, name, place and time; then it ends."""
    path = photo_file("a.png")
    with open_source(str(path), clock=Clock()) as source:
        (frame,) = list(source)
    np.testing.assert_array_equal(frame.image, decode(path))
    assert (frame.name, frame.index, frame.at) == (str(path), 0, 1_001.0)


def test_a_folder_gives_its_images_sorted(photo_file: Photos, tmp_path: Path) -> None:
    """Recursive, any case of suffix; other and hidden files are left out."""
    names = ["b/2.JPG", "b/10.png", "a.webp", "c/d/e.jpeg"]
    for name in [*names, ".hidden.jpg", ".cache/x.jpg", "b/._2.jpg"]:
        photo_file(f"in/{name}", format="PNG")
    (tmp_path / "in/notes.txt").write_text("x")
    paths = image_paths(tmp_path / "in")
    found = [p.relative_to(tmp_path / "in").as_posix() for p in paths]
    assert found == ["a.webp", "b/10.png", "b/2.JPG", "c/d/e.jpeg"]
    with open_source(tmp_path / "in") as source:
        frames = list(source)
    assert [f.name for f in frames] == [str(p) for p in paths]
    assert [f.index for f in frames] == [0, 1, 2, 3]


def test_a_bad_file_does_not_end_a_folder(photo_file: Photos, tmp_path: Path) -> None:
    """The error is raised at its turn; the next call goes on behind it."""
    for name in ("1.png", "3.png"):
        photo_file(f"in/{name}")
    (tmp_path / "in/2.png").write_text("words")
    with open_source(tmp_path / "in") as source:
        assert next(source).name.endswith("1.png")
        with pytest.raises(ImageError, match=r"in/2.png is no image that Accrue can read"):
            next(source)
        last = next(source)
        assert last.name.endswith("3.png")
        assert last.index == 1
        assert list(source) == []


def test_large_files_are_decoded_for_their_use(photo_file: Photos) -> None:
    """short_side reaches the decoder."""
    path = photo_file("a.jpg", size=(1_600, 1_200))
    with open_source(path, short_side=100) as source:
        assert next(source).image.shape == (300, 400, 3)


def test_missing_and_empty_paths_are_not_found(tmp_path: Path) -> None:
    """With the path, and for a folder with what an image is."""
    with pytest.raises(NotFound, match=rf"^no file or folder {tmp_path}/none$"):
        open_source(tmp_path / "none")
    with pytest.raises(NotFound, match=rf"^no image in {tmp_path}; images end in .bmp .gif .jfif"):
        open_source(str(tmp_path))
    with pytest.raises(NotFound, match="no file or folder"):
        open_source(tmp_path / "none.mp4")
    with pytest.raises(SourceError, match=r"'a\\x00b' cannot be read: .*null (byte|character)"):
        open_source("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_locked_folder_is_named(photo_file: Photos, tmp_path: Path) -> None:
    """Photos behind it are not left out in silence."""
    photo_file("in/locked/a.jpg")
    photo_file("in/b.jpg")
    (tmp_path / "in/locked").chmod(0)
    try:
        with pytest.raises(SourceError, match=r"in/locked cannot be read: Permission denied"):
            image_paths(tmp_path / "in")
    finally:
        (tmp_path / "in/locked").chmod(0o700)


def test_labels_are_the_folders_below_the_root(photo_file: Photos, tmp_path: Path) -> None:
    """Nested folders make one name with slashes; photos in the root itself have none."""
    for name in ("b/1.jpg", "a/x/2.jpg", "a/x/1.jpg", "loose.jpg"):
        photo_file(f"in/{name}")
    root = tmp_path / "in"
    found = labelled_images(root)
    assert found == {"a/x": [root / "a/x/1.jpg", root / "a/x/2.jpg"], "b": [root / "b/1.jpg"]}
    assert list(found) == ["a/x", "b"]


def test_a_folder_without_classes_is_not_found(photo_file: Photos, tmp_path: Path) -> None:
    """The message tells the one who gave a class's own folder what is expected."""
    path = photo_file("in/1.jpg")
    with pytest.raises(NotFound, match=r"its 1 images lie in the folder itself; put each class's"):
        labelled_images(tmp_path / "in")
    with pytest.raises(NotFound, match=r"is a file; expected a folder of CLASS/PHOTO.jpg"):
        labelled_images(path)
    with pytest.raises(NotFound, match="no file or folder"):
        labelled_images(tmp_path / "none")


def test_the_fake_source_gives_images_and_errors_in_order() -> None:
    """What the daemon's tests need of a camera."""
    image = np.zeros((4, 4, 3), np.uint8)
    source = FakeSource([image, SourceError("gone"), image], clock=Clock())
    with source as same:
        assert same is source
        assert (next(source).name, source.name) == ("fake#0", "fake")
        with pytest.raises(SourceError, match=r"^gone$"):
            next(source)
        assert (next(source).index, source.closed) == (1, False)
    assert source.closed
    assert list(source) == []
    with pytest.raises(ImageError, match=r"image is float64 \(2, 2\)"):
        next(FakeSource([np.zeros((2, 2))]))


@pytest.mark.parametrize(("spec", "index"), [("0", 0), ("camera:2", 2), ("7", 7)])
def test_a_number_is_a_camera(camera: Callable[..., Camera], spec: str, index: int) -> None:
    """Frames arrive as RGB, and the device is released once."""
    cv2 = camera([BLUE_BGR, BLUE_BGR])
    with open_source(spec, clock=Clock()) as source:
        frame = next(source)
        np.testing.assert_array_equal(frame.image[0, 0], (0, 0, 255))
        assert frame.image.flags.c_contiguous
        assert (frame.name, frame.index) == (f"camera:{index}#0", 0)
        assert next(source).at == 1_002.0
    assert cv2.opened_with == [(index, cv2.CAP_ANY, [])]
    assert cv2.released == 1
    source.close()
    assert cv2.released == 1
    assert list(source) == []


def test_a_camera_that_stops_is_a_failure(camera: Callable[..., Camera]) -> None:
    """The end of a live source is never taken for the end of the work."""
    camera([BLUE_BGR])
    with open_source("0") as source:
        next(source)
        with pytest.raises(SourceError, match=r"^camera:0 stopped giving frames after 1; check"):
            next(source)


def test_a_camera_that_does_not_open_or_gives_nothing_is_a_failure(
    camera: Callable[..., Camera],
) -> None:
    """OpenCV's own errors are mapped, too, and a capture that failed is released."""
    cv2 = camera([], opens=False)
    with pytest.raises(SourceError, match=r"^camera:0 cannot be opened; check cable"):
        open_source("0")
    assert cv2.released == 1
    camera([])
    with open_source("0") as source, pytest.raises(SourceError, match="opened but gave no frame"):
        next(source)
    camera([], opens=Camera.error("deep\nreason"))
    with pytest.raises(SourceError, match=r"^camera:0 cannot be opened: deep reason; check"):
        open_source("0")
    camera([BLUE_BGR, Camera.error("lost")])
    with open_source("0") as source:
        next(source)
        with pytest.raises(SourceError, match=r"^camera:0 failed at frame 1: lost"):
            next(source)


def test_a_stream_has_timeouts_and_keeps_its_password(camera: Callable[..., Camera]) -> None:
    """Neither messages nor frame names show it."""
    cv2 = camera([BLUE_BGR])
    url = "rtsp://admin:secret@10.0.0.7:554/main"
    with open_source(url) as source:
        assert next(source).name == "rtsp://admin:***@10.0.0.7:554/main#0"
        with pytest.raises(SourceError) as raised:
            next(source)
    assert "secret" not in str(raised.value) + repr(raised.value.fields)
    assert cv2.opened_with == [(url, cv2.CAP_FFMPEG, [53, 10_000, 54, 10_000])]


def test_a_url_of_another_kind_is_a_usage_error() -> None:
    """Before OpenCV is asked."""
    with pytest.raises(UsageError, match=r"^ftp://x/y is a URL of kind ftp; expected rtsp, rtsps"):
        open_source("ftp://x/y")


def test_without_opencv_a_camera_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And images still work without it."""
    plain_import = builtins.__import__

    def no_opencv(name: str, *more: Any) -> Any:
        if name == "cv2":
            raise ImportError("No module named 'cv2'")
        return plain_import(name, *more)

    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_opencv)
    with pytest.raises(SourceError) as raised:
        open_source("0")
    assert "cameras and videos need OpenCV, which cannot be imported" in str(raised.value)
    assert raised.value.hint == 'pip install "accrue[camera]"'


def test_a_video_file_gives_its_frames_and_ends(
    tmp_path: Path, photo: Callable[..., np.ndarray]
) -> None:
    """With the real OpenCV: RGB, in order, StopIteration at the end."""
    cv2 = pytest.importorskip("cv2", reason='OpenCV is missing: pip install "accrue[camera]"')
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    images = [photo(s) for s in range(5)]
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    with open_source(path) as source:
        frames = list(source)
    assert [f.name for f in frames] == [f"{path}#{i}" for i in range(5)]
    for frame, image in zip(frames, images, strict=True):
        error = np.abs(frame.image.astype(int) - image).mean()
        swapped = np.abs(frame.image[..., ::-1].astype(int) - image).mean()
        assert error < 12
        assert error < 0.7 * swapped  # the channels are the right way round


def test_a_text_file_called_mp4_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the real OpenCV, which prints nothing of its own."""
    pytest.importorskip("cv2", reason='OpenCV is missing: pip install "accrue[camera]"')
    path = tmp_path / "clip.mp4"
    path.write_text("words")
    with pytest.raises(SourceError, match=rf"^{path} is no video that OpenCV can read$"):
        open_source(path)
    assert capfd.readouterr() == ("", "")
