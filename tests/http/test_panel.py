"""What a device shows without a browser: to who stands in front of it, and to systemd."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from http_cases import Running, until

from accrue.service.http.server import Place
from accrue.service.notify import Notifier
from accrue.service.panel import Panel, Shown, qr
from accrue.service.settings import Settings
from accrue.vision.engines import EngineFolder

PLACE = Place("0.0.0.0", 8420, "https://192.168.1.20:8420", None)
NEW = Shown(
    name="jetson-07",
    ready="",
    url="https://192.168.1.20:8420",
    local=False,
    code="2AC7-9WX8",
    until="20:55",
    cameras=("camera:0 (HD Webcam) is playing",),
    serves="onnx-cpu",
    building=40,
    playing=True,
)
Run = Callable[..., Running]


def unowned(running: Running) -> None:
    for grant in running.access.all():
        running.access.revoke(grant.id)


def scanned(lines: list[str]) -> str:
    """What a phone reads off the console: light is a glyph, dark is a gap."""
    cv2 = pytest.importorskip("cv2", reason="reads the QR picture: pip install 'accrue[camera]'")
    import numpy as np

    light = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows = []
    for line in lines:
        rows += [[light[c][half] for c in line] for half in (0, 1)]
    picture = np.kron(np.array(rows, np.uint8) * 255, np.ones((8, 8), np.uint8))
    picture = np.pad(picture, 32, constant_values=255)
    return str(cv2.QRCodeDetector().detectAndDecode(picture)[0])


def test_a_new_device_shows_where_and_with_which_code_it_is_opened() -> None:
    lines = NEW.text().splitlines()
    assert re.fullmatch(r"Accrue \S+ on jetson-07", lines[0])
    assert lines[1:5] == [
        "  camera   camera:0 (HD Webcam) is playing",
        "  encoder  onnx-cpu; building an engine: 40 %",
        "  address  https://192.168.1.20:8420",
        "  pair     2AC7-9WX8 makes you its owner, until 20:55",
    ]
    picture = [line for line in lines[5:] if line]
    assert scanned(picture) == "https://192.168.1.20:8420/#pair=2AC7-9WX8"
    assert len(lines) <= 24  # a console has 25, and the login is one
    assert max(map(len, lines)) <= 80


def test_one_that_is_owned_shows_no_code() -> None:
    text = replace(NEW, code=None, until="", building=None).text()
    assert "pair" not in text
    assert "building" not in text
    assert scanned([x for x in text.splitlines()[4:] if x]) == "https://192.168.1.20:8420"


def test_one_that_listens_to_itself_alone_shows_no_picture_that_a_phone_could_not_open() -> None:
    text = replace(NEW, local=True, url="http://127.0.0.1:8420").text()
    assert "from this machine alone" in text
    assert "█" not in text


@pytest.mark.parametrize(
    ("changes", "lamp"),
    [
        ({}, "pair"),
        ({"code": None}, "build"),
        ({"code": None, "building": None}, "ready"),
        ({"playing": False}, "trouble"),
        ({"ready": "the loop that watches is not running"}, "trouble"),
    ],
)
def test_an_led_shows_the_most_pressing_thing(changes: dict[str, object], lamp: str) -> None:
    assert replace(NEW, **changes).lamp == lamp  # type: ignore[arg-type]


def test_what_a_camera_calls_itself_cannot_steer_the_terminal() -> None:
    """agetty takes backslashes for its own codes, and a terminal takes escapes."""
    text = replace(NEW, cameras=("evil \x1b[2J\\l\n\x07 is playing", "x" * 500)).text()
    assert "\x1b" not in text
    assert "\\" not in text
    assert "evil /[2J/l// is playing" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    "text",
    [
        "https://10.0.0.1:8420",
        "https://device-07.hall-3.factory.example:8420/#pair=2AC7-9WX8",
        "https://[fd12:3456:789a:1::20]:8420/#pair=2AC7-9WX8",
    ],
)
def test_the_picture_is_read_whatever_its_size(text: str) -> None:
    assert scanned(qr(text)) == text


def test_the_code_on_the_panel_pairs_an_owner_and_then_goes(
    run: Run, settings: Settings, playing: str, tmp_path: Path
) -> None:
    running = run(settings, cameras=(playing,))
    unowned(running)
    until(lambda: running.device.cameras()[0].frames)
    file = tmp_path / "run" / "issue"
    file.parent.mkdir()
    panel = Panel(running.device, running.access, lambda: PLACE, Notifier({}), file, "ACT")
    panel.show()
    assert (tmp_path / "run" / "lamp").read_text() == "ACT pair\n"
    found = re.search(r"pair     (\S+) makes you its owner", file.read_text())
    assert found
    panel.show()
    assert found[1] in file.read_text()  # it stays the same while it is good
    body = {"code": found[1], "name": "phone"}
    paired = httpx.post(f"{running.url}/api/v1/pair", json=body)
    assert paired.json()["access"]["role"] == "owner"
    panel.show()
    assert "pair" not in file.read_text()
    assert (tmp_path / "run" / "lamp").read_text() == "ACT ready\n"
    panel.close()
    assert list(file.parent.iterdir()) == []


def test_a_code_is_made_anew_before_it_ends(
    run: Run, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A display may be plugged in hours after the first start."""
    running = run(settings)
    unowned(running)
    now = time.time()
    monkeypatch.setattr(running.access, "_clock", lambda: now)
    file = tmp_path / "issue"
    panel = Panel(
        running.device, running.access, lambda: PLACE, Notifier({}), file, clock=lambda: now
    )

    def code() -> str:
        panel.show()
        found = re.search(r"pair     (\S+)", file.read_text())
        assert found
        return found[1]

    first = code()
    now += 500
    assert code() == first
    now += 200
    second = code()
    assert second != first
    assert running.access.redeem(second, "phone")[0].role == "owner"


def test_without_a_display_no_code_is_made(run: Run, settings: Settings) -> None:
    """A code that nobody can read would only be one more to guess."""
    running = run(settings)
    unowned(running)
    panel = Panel(running.device, running.access, lambda: PLACE, Notifier({}), None)
    panel.show()
    assert panel.look().code is None


def test_systemd_is_told_how_it_goes(run: Run, settings: Settings, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(20)
        running = run(settings)
        notifier = Notifier({"NOTIFY_SOCKET": str(address)})
        panel = Panel(running.device, running.access, lambda: PLACE, notifier, None)
        panel.show()
        assert systemd.recv(4096).decode() == f"STATUS=ready; {PLACE.url}; onnx-cpu"
        with EngineFolder(settings.engines_folder).lock() as tell:
            for done in (20, 21, 40):
                tell(f"phase {done}", done, 50)
                panel.show()
        systemd.settimeout(0)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(systemd.recv(4096).decode().rpartition("; ")[2])
        assert told == ["building an engine: 40 %", "building an engine: 80 %"]


def test_a_panel_that_cannot_be_written_stops_nothing(
    run: Run, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = run(settings)
    file = tmp_path / "gone" / "issue"
    panel = Panel(running.device, running.access, lambda: PLACE, Notifier({}), file)
    panel.start()
    until(lambda: "the panel cannot be shown" in caplog.text)
    file.parent.mkdir()
    until(file.exists)
    assert running.device.ready == ""
    panel.close()


def test_a_console_shows_it_above_the_login(tmp_path: Path) -> None:
    """agetty itself reads it, and changes nothing of it."""
    agetty = shutil.which("agetty", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if agetty is None:
        pytest.skip("agetty is not here; it comes with util-linux: apt-get install util-linux")
    issue = tmp_path / "issue"
    issue.write_text(NEW.text(), encoding="utf-8")
    words = [agetty, "--show-issue", "--issue-file", str(issue)]
    terminal, other = pty.openpty()
    try:
        done = subprocess.run(words, stdin=other, capture_output=True, check=False)
    finally:
        os.close(terminal)
        os.close(other)
    assert done.returncode == 0, done.stderr
    assert NEW.text().rstrip() in done.stdout.decode().replace("\r\n", "\n")
