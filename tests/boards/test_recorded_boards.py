"""Every board under every JetPack: which one it is, what serves, what the doctor says, how it is
flashed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_boards import NAMES, Recorded, about, laid_out

from accrue.board import Board, boards, compare, is_super, match, module_of, which
from accrue.device import Device, Gpu
from accrue.errors import NotFound
from accrue.service.board_checks import board_checks, camera_checks, service_checks
from accrue.service.checks import OK, WARN, Check
from accrue.service.settings import Settings
from accrue.vision.engines import Facts, Profile, select
from accrue.vision.engines.key import EngineKey, difference
from accrue.vitals import PowerMode, preferred, read_vitals

# FACTS.md, JetPack: what each row brings.
JETPACKS = {
    "6.0": ("36.3.0", "3.10", "12.2", "8.6.2"),
    "6.1": ("36.4.0", "3.10", "12.6", "10.3"),
    "6.2": ("36.4.3", "3.10", "12.6", "10.3"),
    "7.0": ("38.2.0", "3.12", "13.0", "10.13"),
    "7.1": ("38.4.0", "3.12", "13.0", "10.13"),
    "7.2": ("39.2.0", "3.12", "13.2", "10.16.2"),
}
FITS = {"tensorrt": None, "tensorrt-rtx": None}  # as if an engine were there and fitted
JETSONS = [name for name in NAMES if name.startswith("jetson")]
# The mode that each starts in turns off half of its multiprocessors.
HALF = ("jetson-orin-nx-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb")
NOON = 1_800_000_000.0


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[str], Recorded]:
    return lambda name: laid_out(name, tmp_path / name)


def checks(one: Recorded, device: Device | None = None, **more: Any) -> list[Check]:
    found = match(device or one.device)
    vitals = read_vitals(found.board, one.root)
    more = {"may": lambda _: True, "now": lambda: NOON, **more}
    return list(board_checks(found, device or one.device, vitals, root=one.root, **more))


def warned(found: list[Check]) -> list[str]:
    return [check.message for check in found if check.status != OK]


def nodes(one: Recorded) -> None:
    """The device nodes of its GPU."""
    for pattern in Board.load(one.board).compute.nodes:
        path = one.root / pattern.lstrip("/").replace("*", "128")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# ---- all of them --------------------------------------------------------------------------------


def test_every_row_of_the_jetpack_table_is_there_for_every_board_that_runs_it() -> None:
    expected = {
        f"{board.name}.{system.jetpack}"
        for board in boards()
        for system in board.systems
        if system.jetpack
    }
    there = {name.removesuffix(".super") for name in JETSONS}
    assert there == expected
    assert {name.split(".", 1)[1] for name in there} == set(JETPACKS)
    assert {name.split(".")[0] for name in NAMES} == {board.name for board in boards()}
    assert all(len(about(name)["source"]) > 20 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_device_is_known_as_its_board_and_all_its_facts_are_as_expected(
    name: str, recorded: Callable[[str], Recorded]
) -> None:
    one = recorded(name)
    found = match(one.device)
    assert found.board is not None
    assert (found.board.name, found.differing) == (one.board, ())
    names = {fact.name for fact in found.matched}
    assert {"processor", "system", "glibc"} <= names
    if one.device.jetson:
        assert found.by.startswith(f"module {module_of(one.device)[0]} in compatible")
        assert {"module", "memory", "cores", "compute capability"} <= names
        assert {"Python", "CUDA", "TensorRT", "numpy"} <= names
        assert is_super(one.device) == one.super


@pytest.mark.parametrize("name", JETSONS)
def test_a_row_of_the_table_is_read_from_its_files(
    name: str, recorded: Callable[[str], Recorded]
) -> None:
    """L4T, Python, CUDA and TensorRT as FACTS has them for this JetPack."""
    device = recorded(name).device
    jetpack = ".".join(name.split(".")[1:3])
    l4t, python, cuda, tensorrt = JETPACKS[jetpack]
    assert (device.l4t, device.jetpack, device.cuda) == (l4t, jetpack, cuda)
    assert device.python.startswith(python + ".")
    assert device.tensorrt_system.startswith(tensorrt)
    found = device.package("tensorrt")
    assert found is not None
    assert found.system


@pytest.mark.parametrize("name", NAMES)
def test_what_serves_with_an_engine_and_without(
    name: str, recorded: Callable[[str], Recorded]
) -> None:
    """TensorRT from JetPack 6.1 on, TensorRT-RTX on a workstation, else ONNX Runtime."""
    device = recorded(name).device
    with_engine, without = select(Facts(device, engines=FITS)), select(Facts(device))
    if ".6.0" in name:
        why = with_engine.why_not("tensorrt")
        assert why is not None
        assert why.reason.startswith("TensorRT 8.6.2 has no strongly typed networks")
        assert with_engine.left[0] == without.left[0] == "onnx-cpu"
    elif device.jetson:
        assert (with_engine.left[0], without.left[0]) == ("tensorrt", "onnx-cuda")
    elif name.startswith("x86-rtx"):
        assert (with_engine.left[0], without.left[0]) == ("tensorrt-rtx", "onnx-cpu")
    else:
        assert (with_engine.left[0], without.left[0]) == ("onnx-cpu", "onnx-cpu")


@pytest.mark.parametrize("name", NAMES)
def test_the_doctor_has_little_to_say_of_a_board_as_it_comes(
    name: str, recorded: Callable[[str], Recorded]
) -> None:
    """Where its default mode turns half of the GPU off, it says that and what to type."""
    one = recorded(name)
    nodes(one)
    found = checks(one)
    half = one.board in HALF and not one.super
    assert [check.name for check in found if check.status != OK] == (["power"] if half else [])
    if half:
        (power,) = [check for check in found if check.name == "power"]
        board = Board.load(one.board)
        best = preferred(board, read_vitals(board, one.root).modes)
        assert best is not None
        assert power.hint.startswith(f"sudo nvpmodel -m {best.id}  # {best.name}; an engine")
        assert power.message.endswith(f"of {board.compute.multiprocessors} multiprocessors off")
    assert any(check.name == "temperature" for check in found)


@pytest.mark.parametrize("name", JETSONS)
def test_there_is_a_command_to_flash_it_for_its_l4t(
    name: str, recorded: Callable[[str], Recorded]
) -> None:
    one = recorded(name)
    board = Board.load(one.board)
    target = board.flash.target(one.device.l4t, super=one.super)
    assert target is not None
    assert target.conf.endswith("-super") == one.super
    assert target.conf in one.device.tnspec
    ways = [board.flash.way(storage, one.device.l4t) for storage in ("nvme", "emmc")]
    assert any(ways)


# ---- boards that look alike ---------------------------------------------------------------------


def orin(*compatible: str, **more: Any) -> Device:
    values: dict[str, Any] = {"machine": "aarch64", "python": "3.10.12", "l4t": "36.4.3", **more}
    return Device(compatible=compatible, **values)


@pytest.mark.parametrize(
    ("device", "board", "by"),
    [
        (
            orin("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
            "jetson-orin-nano-8gb",
            "module p3767-0005 in compatible",
        ),
        (  # a carrier that calls itself something else
            orin("nvidia,p3768-0000+p3767-0000", model="NVIDIA Jetson Orin NX ARK PAB"),
            "jetson-orin-nx-16gb",
            "module p3767-0000 in compatible",
        ),
        (  # the first developer kit: 32 GB like the small one, GPU of the large one
            orin("nvidia,p3737-0000+p3701-0000", memory_total_bytes=30 << 30),
            "jetson-agx-orin-64gb",
            "module p3701-0000 in compatible",
        ),
        (
            orin(
                "vendor,own-carrier",
                "nvidia,tegra234",
                tnspec="3767-300-0001-R.1-1-1-vendor-",
                model="Vendor Box",
            ),
            "jetson-orin-nx-8gb",
            "module p3767-0001 in TNSPEC",
        ),
        (  # what is there goes before what stands in for it
            orin("nvidia,p3767-0003", tnspec="3767-300-0001-R.1-1-1-x-"),
            "jetson-orin-nano-8gb",
            "module p3767-0003 in compatible",
        ),
        (
            orin(
                "vendor,x",
                model="NVIDIA Jetson Orin Nano Developer Kit",
                memory_total_bytes=7_935_623_168,
            ),
            "jetson-orin-nano-8gb",
            "model NVIDIA Jetson Orin Nano Developer Kit and 8 GiB",
        ),
        (
            orin(
                "vendor,x",
                model="NVIDIA Jetson Orin Nano Developer Kit",
                memory_total_bytes=3_600 << 20,
            ),
            "jetson-orin-nano-4gb",
            "model NVIDIA Jetson Orin Nano Developer Kit and 4 GiB",
        ),
    ],
)
def test_boards_that_look_alike_are_told_apart(device: Device, board: str, by: str) -> None:
    """By the module, never by the model where the module stands somewhere."""
    found = match(device)
    assert found.board is not None
    assert (found.board.name, found.by) == (board, by)


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (
            orin("nvidia,p3834-0000", model="NVIDIA Jetson AGX Thor T4000"),
            "no board is known for module p3834-0000",
        ),
        (
            orin("nvidia,p3668-0000", model="NVIDIA Jetson Xavier NX Developer Kit"),
            "no board is known for module p3668-0000",
        ),
        (
            orin(
                "vendor,x",
                model="NVIDIA Jetson AGX Thor Developer Kit",
                memory_total_bytes=62 << 30,
            ),
            "no board is known for NVIDIA Jetson AGX Thor Developer Kit",
        ),
        (Device("armv7l", "3.11.2"), "no board is known for armv7l"),
    ],
)
def test_a_board_that_is_like_a_known_one_is_not_taken_for_it(device: Device, why: str) -> None:
    """The T4000 has less of everything than the T5000: an engine's advice would not fit."""
    found = match(device)
    assert (found.board, found.by) == (None, why)
    (check,) = list(board_checks(found, device, read_vitals(None, Path("/nowhere"))))[:1]
    assert (check.name, check.status) == ("board", WARN)
    assert check.message == f"{why}; general defaults are in force"


def test_the_setting_names_a_board_and_the_doctor_says_what_differs(
    recorded: Callable[[str], Recorded],
) -> None:
    one = recorded("jetson-orin-nano-8gb.6.2")
    found = which("jetson-orin-nx-16gb", one.device)
    assert found.board is not None
    assert (found.board.name, found.by) == ("jetson-orin-nx-16gb", "the setting board")
    assert {(f.name, f.expected, f.found) for f in found.differing} == {
        ("module", "p3767-0000", "p3767-0005"),
        ("memory", "16 GiB", "8 GiB"),
        ("cores", "8", "6"),
    }
    said = warned(list(board_checks(found, one.device, read_vitals(found.board, one.root))))
    assert "module is p3767-0005; expected p3767-0000" in said
    with pytest.raises(NotFound):
        which("jetson-nano", one.device)


def test_a_system_that_the_board_does_not_know_is_told(
    recorded: Callable[[str], Recorded],
) -> None:
    """L4T 38 is for Thor alone; TensorRT of another release is a fact that differs."""
    one = recorded("jetson-orin-nano-8gb.6.2").device
    (fact,) = match(replace(one, l4t="38.2.0")).differing
    assert (fact.name, fact.found) == ("system", "L4T 38.2.0")
    assert fact.expected.startswith("L4T 36.2/36.3, L4T 36.4.0/36.4.2, ")
    (fact,) = match(replace(one, tensorrt_system="10.7.0.23")).differing
    assert (fact.name, fact.expected, fact.found) == ("TensorRT", "10.3", "10.7.0.23")
    packages = tuple(
        replace(package, version="2.2.6") if package.name == "numpy" else package
        for package in one.packages
    )
    (fact,) = match(replace(one, packages=packages)).differing
    assert (fact.name, fact.expected, fact.found) == ("numpy", "<2", "2.2.6")
    other = compare(Board.load("x86-cpu"), Device("x86_64", "3.13.1", os="fedora-42"))
    assert [(f.name, f.found) for f in other.differing] == [("system", "fedora-42")]


# ---- how it is doing ----------------------------------------------------------------------------


def test_readings_come_by_name_and_what_fails_to_read_is_left_out(
    recorded: Callable[[str], Recorded],
) -> None:
    """hwmon and zone numbers differ from start to start."""
    one = recorded("jetson-orin-nano-8gb.6.2.super")
    board = Board.load(one.board)
    found = read_vitals(board, one.root)
    assert found.mode == PowerMode(1, "25W")
    assert dict(found.celsius)["gpu-thermal"] == 45.25
    assert "cv0-thermal" not in dict(found.celsius)  # its part is switched off
    assert found.hottest == ("cpu-thermal", 47.5)
    assert found.watts == (("ina3221 VDD_IN", 6.4),)
    assert found.throttling == found.alarms == ()
    hwmon = one.root / "sys/class/hwmon"
    (hwmon / "hwmon5").rename(hwmon / "hwmon11")
    assert read_vitals(board, one.root) == found
    (one.root / "sys/class/thermal/thermal_zone0/temp").write_text("-256000\n")
    assert read_vitals(board, one.root).hottest == ("tj-thermal", 47.5)
    thor = recorded("jetson-agx-thor.7.2")
    assert read_vitals(Board.load(thor.board), thor.root).watts == (("ina238 VIN", 38.5),)
    nothing = read_vitals(board, one.root / "nowhere")
    assert (nothing.mode, nothing.modes, nothing.celsius) == (None, (), ())


def test_a_power_mode_is_known_by_its_name_and_its_id_is_the_boards_own(
    recorded: Callable[[str], Recorded],
) -> None:
    """7W is mode 1 on the plain Nano and mode 3 on the Super; 25W is mode 1 there."""
    plain, other = (recorded(f"jetson-orin-nano-8gb.6.2{end}") for end in ("", ".super"))
    for one, id in ((plain, 1), (other, 3)):
        (one.root / "var/lib/nvpmodel/status").write_text(f"pmode:{id:04d}\n")
        device = replace(one.device, gpu=Gpu("Orin", "8.7", 4, usable=True))
        (power,) = [check for check in checks(one, device) if check.name == "power"]
        assert power.status == WARN
        assert power.message == f"power mode 7W (id {id} here) turns 4 of 8 multiprocessors off"
    hints = [next(c.hint for c in checks(one) if c.name == "power") for one in (plain, other)]
    assert hints[0].startswith("restart the board")  # CUDA still counts 8 there
    device = replace(plain.device, gpu=Gpu("Orin", "8.7", 4, usable=True))
    hints = [
        next(
            c.hint
            for c in checks(
                one, replace(device, compatible=one.device.compatible, tnspec=one.device.tnspec)
            )
            if c.name == "power"
        )
        for one in (plain, other)
    ]
    assert hints[0].startswith("sudo nvpmodel -m 0  # 15W;")
    assert hints[1].startswith("sudo nvpmodel -m 1  # 25W;")


def test_another_number_of_multiprocessors_is_another_engine() -> None:
    """So that an engine that was tuned for the whole GPU is not used with half of it."""
    device = orin("nvidia,p3767-0005", gpu=Gpu("Orin", "8.7", 8, usable=True))
    half = replace(device, gpu=Gpu("Orin", "8.7", 4, usable=True))
    keys = [
        EngineKey.of(one, "0" * 64, "tensorrt", "10.3.0.30", Profile(), {})
        for one in (device, half)
    ]
    assert keys[0].digest != keys[1].digest
    assert "multiprocessors 8, this device has" in difference(*keys)


def test_heat_throttling_alarms_and_the_clock_are_told(
    recorded: Callable[[str], Recorded],
) -> None:
    one = recorded("jetson-agx-orin-32gb.6.2")
    nodes(one)
    thermal = one.root / "sys/class/thermal"
    (thermal / "thermal_zone3/temp").write_text("91000\n")
    (thermal / "cooling_device2/cur_state").write_text("1\n")
    (one.root / "sys/class/hwmon/hwmon3/oc1_event_cnt").write_text("7\n")
    assert warned(checks(one, now=lambda: 0.0)) == [
        "tj-thermal is at 91 °C, the hottest of 4; expected less than 85 °C; ina3221 VDD_IN 6.4 W",
        "it throttles now: gpu-throttle-alert",
        "under-voltage alarm: soctherm_oc oc1_event_cnt is 7; expected 0",
        "the clock says 1970-01-01; expected a day after Accrue was made, or certificates do "
        "not hold",
    ]
    pi = recorded("arm64.debian-13")
    (pi.root / "sys/class/hwmon/hwmon2/in0_lcrit_alarm").write_text("1\n")
    assert warned(checks(pi)) == ["under-voltage alarm: rpi_volt in0_lcrit_alarm is 1; expected 0"]


def test_a_board_whose_heat_cannot_be_read_is_told(recorded: Callable[[str], Recorded]) -> None:
    one = recorded("jetson-agx-thor.7.1")
    nodes(one)
    shutil.rmtree(one.root / "sys/class/thermal")
    assert warned(checks(one)) == [
        "none of its thermal zones can be read; expected cpu-thermal, gpu-thermal, tj-thermal"
    ]


def test_a_super_board_that_lost_its_modes_and_one_flashed_by_halves_are_found(
    recorded: Callable[[str], Recorded],
) -> None:
    one = recorded("jetson-orin-nano-8gb.7.2.super")
    nodes(one)
    conf = one.root / "etc/nvpmodel.conf"
    conf.write_text("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n")
    (one.root / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    assert warned(checks(one)) == ["/etc/nvpmodel.conf has 15W, 7W; expected 25W, MAXN_SUPER, too"]
    halves = replace(one.device, tnspec="3767-300-0005-R.1-1-1-jetson-orin-nano-devkit-")
    assert warned(checks(one, halves))[0] == (
        "the device tree is with Super, what was flashed is without; expected both alike"
    )
    conf.unlink()
    assert warned(checks(one)) == ["no power mode in /etc/nvpmodel.conf; expected NVIDIA's list"]


def test_device_nodes_of_the_gpu_are_looked_at(recorded: Callable[[str], Recorded]) -> None:
    """Absent ones by their names, and those that this user may not open."""
    one = recorded("jetson-orin-nx-16gb.6.2.super")
    (message,) = warned(checks(one))
    assert message.startswith("not there: /dev/nvmap, /dev/nvhost-gpu, ")
    nodes(one)
    assert warned(checks(one)) == []
    found = checks(one, may=lambda path: path.name not in ("nvmap", "renderD128"))
    (check,) = [check for check in found if check.status == WARN]
    assert check.message == "this user may not open /dev/nvmap, /dev/dri/renderD128"
    assert check.hint.startswith("sudo usermod -aG video,render $USER")


# ---- cameras and service ------------------------------------------------------------------------


def camera(
    spec: str, root: Path, board: str = "jetson-orin-nano-8gb", **more: Any
) -> tuple[str, str]:
    more = {"may": lambda _: True, "has_element": lambda _: True, **more}
    settings = Settings(state=root, cameras=(spec,))
    (check,) = camera_checks(settings, Board.load(board), root=root, **more)
    return check.status, check.message


def test_cameras_are_looked_at_without_opening_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/gst-launch-1.0")
    none = "found: none on /dev/video*"
    assert camera("csi:0", tmp_path) == (WARN, f"csi:0: nvargus-daemon does not run; {none}")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/argus_socket").touch()
    assert camera("csi:0", tmp_path) == (OK, f"csi:0 can be tried; {none}")
    assert camera("csi:0", tmp_path, has_element=lambda name: name != "nvvidconv") == (
        WARN,
        f"csi:0: GStreamer has no element nvvidconv; {none}",
    )
    assert camera("csi:0", tmp_path, "x86-cpu") == (
        WARN,
        f"csi:0: board x86-cpu has no pipeline for csi:0; {none}",
    )
    for spec in ("camera:2", "2", "usb:2"):
        assert camera(spec, tmp_path) == (WARN, f"{spec}: /dev/video2 is not there; {none}")
    for n, index in ((2, 0), (3, 1)):
        folder = tmp_path / f"sys/class/video4linux/video{n}"
        folder.mkdir(parents=True)
        (folder / "name").write_text("HD Webcam\n")
        (folder / "index").write_text(f"{index}\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video2").touch()
    there = "found: /dev/video2 (HD Webcam)"
    assert camera("camera:2", tmp_path) == (OK, f"camera:2 can be tried; {there}")
    assert camera("usb:2", tmp_path, may=lambda _: False) == (
        WARN,
        f"usb:2: this user may not open /dev/video2; {there}",
    )
    status, message = camera("h264+rtsp://me:secret@192.0.2.9/a", tmp_path)
    assert (status, message) == (OK, f"h264+rtsp://me:***@192.0.2.9/a can be tried; {there}")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert camera("csi:0", tmp_path)[1].startswith("csi:0: gst-launch-1.0 is not installed")
    (check,) = camera_checks(Settings(state=tmp_path), None, root=tmp_path)
    assert check.message == f"{there}; none in the settings"


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        (
            "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=0\n",
            OK,
            "accrue.service is active (running), restarted by itself 0 times since the start",
        ),
        (
            "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=7\n",
            WARN,
            "accrue.service is active (running), restarted by itself 7 times since the start",
        ),
        (
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nNRestarts=5\n",
            WARN,
            "accrue.service is failed (failed), restarted by itself 5 times since the start",
        ),
    ],
)
def test_the_service_is_told_as_systemd_sees_it(said: str, status: str, message: str) -> None:
    (check,) = service_checks(lambda _: said)
    assert (check.status, check.message) == (status, message)


def test_a_device_without_the_service_says_nothing_of_it() -> None:
    assert list(service_checks(lambda _: "LoadState=not-found\nActiveState=inactive\n")) == []
    assert list(service_checks(lambda _: "")) == []
