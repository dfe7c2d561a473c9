"""The board in force reaches settings, engines, the doctor, the figures and the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from recorded_boards import Recorded, laid_out

from accrue.board import Board, boards_folder, match
from accrue.device import Device
from accrue.errors import ConfigError
from accrue.service import doctor
from accrue.service.box import Box
from accrue.service.doctor import examine
from accrue.service.engines import Engines
from accrue.service.http import health
from accrue.service.settings import Settings, load_settings
from accrue.service.watch import Watch
from accrue.vision.engines import Profile
from accrue.vitals import Vitals, read_vitals

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[str], Recorded]:
    return lambda name: laid_out(name, tmp_path / name)


# ---- the setting --------------------------------------------------------------------------------


def test_the_setting_takes_auto_a_name_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shutil.copy(boards_folder() / "arm64.yaml", path)
    for given in ("auto", "arm64", str(path)):
        settings, origins = load_settings({}, {"ACCRUE_BOARD": given})
        assert settings.board == given
        assert origins["board"].text == "environment ACCRUE_BOARD"
    assert Settings().board == "auto"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "jetson-nano",
            r"^board is 'jetson-nano' \(environment ACCRUE_BOARD\): no board 'jetson-n",
        ),
        (
            "./none.yaml",
            r"^board is './none.yaml' \(environment ACCRUE_BOARD\): no board file none",
        ),
    ],
)
def test_a_board_that_is_not_there_ends_the_call_with_exit_code_2(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_settings({}, {"ACCRUE_BOARD": given})
    assert raised.value.hint.startswith("known boards: arm64, jetson-agx-orin-32gb")


def test_a_description_with_a_slip_of_the_pen_ends_the_call(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((boards_folder() / "arm64.yaml").read_text() + "colour: green\n")
    with pytest.raises(ConfigError, match=r"^unknown key colour in .*mine.yaml; known keys there"):
        load_settings({}, {"ACCRUE_BOARD": str(path)})


# ---- engines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch", "workspace_mib"),
    [
        ("jetson-orin-nano-4gb.6.2", (1, 1, 8), 256),
        ("jetson-agx-orin-64gb.7.2", (1, 2, 16), 2048),
        ("arm64.debian-13", (1, 1, 8), 1024),
    ],
)
def test_an_engine_is_built_as_the_board_advises(
    name: str,
    batch: tuple[int, int, int],
    workspace_mib: int,
    recorded: Callable[[str], Recorded],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Where the call does not say otherwise; the memory that the doctor asks for follows it."""
    settings = Settings(state=tmp_path / "state", bundle=tiny_bundle)
    engines = Engines(settings, recorded(name).device)
    key = engines._key("encoder.onnx", "tensorrt", "10.3.0.30", None, None)
    assert (key.profile, key.flags["workspace_mib"]) == (Profile(*batch), workspace_mib)
    assert engines.needed_bytes() >> 20 >= workspace_mib
    told = engines._key("encoder.onnx", "tensorrt", "10.3.0.30", Profile(1, 4, 4), 300)
    assert (told.profile, told.flags["workspace_mib"]) == (Profile(1, 4, 4), 300)


def test_a_board_that_is_named_is_asked_instead(
    recorded: Callable[[str], Recorded], tiny_bundle: Path, tmp_path: Path
) -> None:
    device = recorded("jetson-agx-orin-64gb.7.2").device
    settings = Settings(state=tmp_path, bundle=tiny_bundle, board="jetson-orin-nano-4gb")
    assert Engines(settings, device).advice.workspace_mib == 256


# ---- cameras ------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None,
    reason="GStreamer is missing: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base",
)
def test_the_service_watches_a_camera_of_the_board_that_is_set(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """From the setting to an answer, with a board whose CSI camera is GStreamer's test picture."""
    document = yaml.safe_load((boards_folder() / "x86-cpu.yaml").read_text())
    document["cameras"]["csi"] = (
        "videotestsrc is-live=true pattern={sensor} "
        "! video/x-raw,width={width},height={height},framerate={fps}/1"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    settings = Settings(state=tmp_path / "state", bundle=tiny_bundle, board=str(path))
    with Box(settings) as box, Watch(box, ["csi:1?width=64&height=48&fps=10"]) as watch:
        sighting = watch.step(30)
        assert sighting is not None
        assert sighting.camera == "csi:1"
        assert sighting.frame.image.shape == (48, 64, 3)
        assert watch.cameras[0].reason == ""


# ---- the doctor ---------------------------------------------------------------------------------


def examined(
    one: Recorded, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> dict[str, list[str]]:
    """Messages of the whole doctor on a recorded device, by check."""
    monkeypatch.setattr(doctor, "describe", lambda root: one.device)
    found: dict[str, list[str]] = {}
    for check in examine(Settings(**settings), root=one.root):
        found.setdefault(check.name, []).append(check.message)
    return found


def test_the_doctor_begins_with_the_board(
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    one = recorded("jetson-orin-nano-8gb.6.2.super")
    found = examined(one, monkeypatch, state=tmp_path / "state", bundle=tiny_bundle)
    assert list(found)[:3] == ["python", "board", "board facts"]
    assert found["board"] == [
        "NVIDIA Jetson Orin Nano 8 GB (module, developer kit, Super), known by module p3767-0005 "
        "in compatible"
    ]
    assert found["board facts"][0].startswith(
        "as expected: processor aarch64, module p3767-0005, memory 8 GiB, cores 6, "
    )
    assert found["power"] == ["power mode 25W (id 1 here), 8 multiprocessors on"]
    assert found["temperature"] == [
        "cpu-thermal is at 48 °C, the hottest of 4; ina3221 VDD_IN 6.4 W"
    ]
    assert "GPU nodes" in found
    assert "camera" in found


def test_the_doctor_warns_of_an_encoder_and_a_disk_that_the_board_is_not_meant_for(
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """With a description of one's own, that wants much and allows little."""
    document = yaml.safe_load((boards_folder() / "x86-cpu.yaml").read_text())
    document |= {
        "encoder": {"recommended": "default", "largest_mib": 1},
        "storage": {"release_mib": 1 << 20, "engines_mib": 1 << 20, "state_mib": 1 << 30},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    one = recorded("x86-cpu.debian-12")
    found = examined(
        one, monkeypatch, state=tmp_path / "state", bundle=tiny_bundle, board=str(path)
    )
    assert found["board"] == [f"{document['title']}, known by the setting board"]
    assert "; releases, engines and state of this board are meant to have " in found["disk"][0]
    assert len(found["encoder"]) == 1  # the tiny one is small enough
    found = examined(one, monkeypatch, state=tmp_path / "state", board=str(path))
    assert found["encoder"][1].endswith("board x86-cpu is meant for up to 1")


def test_a_description_that_is_gone_is_a_finding_and_the_others_go_on(
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    one = recorded("x86-cpu.debian-12")
    found = examined(
        one, monkeypatch, state=tmp_path / "s", bundle=tiny_bundle, board="/gone/board.yaml"
    )
    assert found["board"] == ["no board file /gone/board.yaml"]
    assert {"packages", "encoder", "state", "disk", "camera"} <= set(found)


# ---- the figures --------------------------------------------------------------------------------


def test_the_figures_tell_heat_power_throttling_and_alarms(
    recorded: Callable[[str], Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recorded("jetson-orin-nx-16gb.6.2")
    (one.root / "sys/class/hwmon/hwmon3/oc3_event_cnt").write_text("2\n")
    (one.root / "sys/class/thermal/cooling_device2/cur_state").write_text("1\n")
    board = match(one.device).board
    monkeypatch.setattr(health, "read_vitals", lambda board: read_vitals(board, one.root))
    lines = list(health._board(SimpleNamespace(board=board)))  # type: ignore[arg-type]
    assert 'accrue_temperature_celsius{zone="gpu-thermal"} 45.25' in lines
    assert 'accrue_power_watts{rail="ina3221 VDD_IN"} 6.4' in lines
    assert 'accrue_board_alarms{alarm="soctherm_oc oc3_event_cnt"} 2' in lines
    assert "accrue_throttling 1" in lines
    monkeypatch.setattr(health, "read_vitals", lambda board: Vitals())
    assert list(health._board(SimpleNamespace(board=None))) == []  # type: ignore[arg-type]


# ---- the package --------------------------------------------------------------------------------


def test_the_descriptions_are_in_the_wheel_and_read_from_there(tmp_path: Path) -> None:
    """All ten, as they are here; an installed Accrue has no `device_configs` beside it."""
    pytest.importorskip("hatchling", reason="hatchling is missing: it is in requirements/build.txt")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    source = sorted(path.name for path in (ROOT / "device_configs").glob("*.yaml"))
    assert sorted(path.name for path in (site / "accrue/boards").iterdir()) == source
    code = (
        "import json; from accrue.board import boards, boards_folder;"
        "print(json.dumps([b.name for b in boards()]), boards_folder())"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(site)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    names, _, folder = asked.stdout.strip().rpartition(" ")
    assert json.loads(names) == [name.removesuffix(".yaml") for name in source]
    assert folder == str(site / "accrue/boards")
    assert Board.load("arm64").architecture == Device("aarch64", "3.12").machine
