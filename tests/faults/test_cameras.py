"""A real stream over HTTP that stalls, dies and returns, beside another that goes on."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accrue.service.daemon import CameraView, Device
from accrue.service.settings import Settings
from accrue.vision import live, sources

DEADLINE_S = 40.0


class Stream:
    """Motion JPEG as an IP camera gives it; may be made to hang, or to be gone."""

    def __init__(self, picture: bytes) -> None:
        self.picture, self.stalled, self.given = picture, threading.Event(), 0
        self.server: ThreadingHTTPServer | None = None
        self.port = 0
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def start(self) -> None:
        stream = self
        over = self.over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
                self.end_headers()
                try:
                    while not over.wait(0.05):
                        if stream.stalled.is_set():
                            continue
                        head = (
                            "--part\r\nContent-Type: image/jpeg\r\n"
                            f"Content-Length: {len(stream.picture)}\r\n\r\n"
                        )
                        self.wfile.write(head.encode() + stream.picture + b"\r\n")
                        stream.given += 1
                except OSError:
                    return  # who looked on has gone

            def log_message(self, *_: object) -> None: ...

        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.over.set()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def stream(photo: Callable[..., np.ndarray]) -> Iterator[Stream]:
    pytest.importorskip("cv2", reason='no OpenCV here: pip install "accrue[camera]"')
    buffer = io.BytesIO()
    Image.fromarray(photo(1, (320, 240))).save(buffer, "JPEG")
    found = Stream(buffer.getvalue())
    found.start()
    yield found
    found.stop()


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_stream_that_stalls_dies_and_returns_is_told_and_opened_again(
    stream: Stream,
    tmp_path: Path,
    tiny_bundle: Path,
    photo_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_MS", 2_000)
    monkeypatch.setattr(live, "STALLED_AFTER_S", 1.0)
    other = photo_file("camera/a.jpg", 7, size=(320, 240)).parent
    settings = Settings(state=tmp_path / "state", bundle=tiny_bundle, views=1, threads=1)
    with Device(settings, cameras=[stream.url, f"play:{other}"]) as device:

        def camera(number: int = 0) -> CameraView:
            return device.cameras()[number]

        until(lambda: camera().frames > 5 and camera().answer, "the stream plays")
        stream.stalled.set()
        until(lambda: camera().state == live.STALLED, "it is told that it stalls")
        until(lambda: camera().state == live.WAITING, "it is given up")
        assert camera().reason
        beside = camera(1).frames
        stream.stop()
        stream.stalled.clear()
        until(lambda: "cannot be opened" in camera().reason, "it is told that it is gone")
        until(lambda: camera(1).frames > beside + 5, "the other camera goes on")
        assert camera(1).state == live.PLAYING
        frames, opened = camera().frames, camera().opened
        stream.start()
        until(lambda: camera().frames > frames + 5, "it plays again")
        assert (camera().state, camera().reason) == (live.PLAYING, "")
        assert camera().opened == opened + 1
        assert device.ready == ""
