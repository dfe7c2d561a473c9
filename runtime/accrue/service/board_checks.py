"""What the doctor finds of the board: which one it is, and how it is doing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from accrue.board import Board, Fact, Match, is_super
from accrue.device import Device
from accrue.errors import AccrueError
from accrue.service.checks import OK, WARN, Check
from accrue.service.settings import Settings
from accrue.vision.pipeline import PACKAGES, PROGRAM, board_pipeline, is_board_camera
from accrue.vision.sources import camera_number, without_password
from accrue.vitals import Vitals, known_mode, preferred, video_devices

# Earlier than this Accrue was made: certificates and the journal would be wrong.
LEAST_TIME_S = 1_790_000_000
ARGUS_SOCKET = "tmp/argus_socket"  # of the daemon that serves the CSI cameras of a Jetson
ELEMENT_LIMIT_S = 10
_ALARMS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "over-current"}
_HINTS = {
    "numpy": "pip install 'numpy{expected}'",
    "Python": "make the environment with the system's own python3",
    "system": "packages are made for those; others may work, but nobody tried",
    "memory": "is it the board that the setting board names?",
    "module": "is it the board that the setting board names?",
    "processor": "name another one in the setting board, or auto",
}


def board_checks(
    found: Match,
    device: Device,
    vitals: Vitals,
    *,
    root: Path = Path("/"),
    may: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK),
    now: Callable[[], float] = time.time,
) -> Iterator[Check]:
    """Findings about the board.

    Args:
        root: folder that stands for ``/``.
        may: whether this user may open a device node. now: Unix time in seconds.
    """
    yield from _which(found)
    board = found.board
    if board is not None:
        yield from _super(device)
        yield from _power(board, device, vitals)
        yield from _nodes(board, device, root, may)
    yield from _heat(board, vitals)
    yield from _alarms(vitals)
    if now() < LEAST_TIME_S:
        today = time.strftime("%Y-%m-%d", time.gmtime(now()))
        yield Check(
            "clock",
            WARN,
            f"the clock says {today}; expected a day after Accrue was made, or certificates do "
            "not hold",
            "give it a time server, or a battery for its clock",
            found=today,
        )


def _which(found: Match) -> Iterator[Check]:
    board = found.board
    if board is None:
        yield Check(
            "board",
            WARN,
            f"{found.by}; general defaults are in force",
            "name the one that comes nearest: setting board",
        )
        return
    facts = ", ".join(f"{fact.name} {fact.found}" for fact in found.matched)
    yield Check("board", OK, f"{board.title}, known by {found.by}", found=board.name)
    if facts:
        yield Check("board facts", OK, f"as expected: {facts}")
    for fact in found.differing:
        yield _differs(fact)


def _differs(fact: Fact) -> Check:
    return Check(
        "board facts",
        WARN,
        f"{fact.name} is {fact.found}; expected {fact.expected}",
        _HINTS.get(fact.name, "").format(expected=fact.expected),
        found=fact.found,
        expected=fact.expected,
    )


def _super(device: Device) -> Iterator[Check]:
    """Whether the firmware was flashed for the same power modes as the file system."""
    if not device.tnspec:
        return
    here, flashed = is_super(device), "-super" in device.tnspec
    if here != flashed:
        words = ("without", "with")
        yield Check(
            "power",
            WARN,
            f"the device tree is {words[here]} Super, what was flashed is {words[flashed]}; "
            "expected both alike",
            "flash it again with one configuration",
            found=device.tnspec,
        )


def _power(board: Board, device: Device, vitals: Vitals) -> Iterator[Check]:
    if not board.power.file:
        return
    if not vitals.modes:
        yield Check("power", WARN, f"no power mode in {board.power.file}; expected NVIDIA's list")
        return
    here = {mode.name for mode in vitals.modes}
    lost = [
        mode.name
        for mode in board.power.modes
        if (mode.super_id if is_super(device) else mode.id) >= 0 and mode.name not in here
    ]
    if lost:
        yield Check(
            "power",
            WARN,
            f"{board.power.file} has {', '.join(m.name for m in vitals.modes)}; expected "
            f"{', '.join(lost)}, too",
            "an upgrade may have lost them: flash it with the Super configuration",
            expected=", ".join(lost),
        )
    if vitals.mode is None:
        yield Check("power", WARN, "the power mode in force is not told", "sudo nvpmodel -q")
        return
    known, best = known_mode(board, vitals.mode), preferred(board, vitals.modes)
    on = known.multiprocessors if known else 0
    counted = device.gpu.sm_count if device.gpu else 0
    said = f"power mode {vitals.mode.name} (id {vitals.mode.id} here)"
    hint = f"sudo nvpmodel -m {best.id}  # {best.name}" if best and best != vitals.mode else ""
    expected = best.name if best else ""
    if on and counted and on != counted:
        yield Check(
            "power",
            WARN,
            f"{said} has {on} multiprocessors on; CUDA counts {counted}",
            "restart the board: some modes need it",
            found=str(counted),
            expected=str(on),
        )
    elif 0 < on < board.compute.multiprocessors:
        total = board.compute.multiprocessors
        yield Check(
            "power",
            WARN,
            f"{said} turns {total - on} of {total} multiprocessors off",
            f"{hint}; an engine fits one number of them, so build it anew" if hint else "",
            found=vitals.mode.name,
            expected=expected,
        )
    else:
        count = f", {on} multiprocessors on" if on else ""
        more = f"; {best.name} is recommended" if hint and best else ""
        yield Check("power", OK, f"{said}{count}{more}", found=vitals.mode.name, expected=expected)


def _heat(board: Board | None, vitals: Vitals) -> Iterator[Check]:
    hottest = vitals.hottest
    if hottest is not None:
        zone, celsius = hottest
        limit = board.sensors.warn_c if board else 0
        rails = ", ".join(f"{name} {watts:.1f} W" for name, watts in vitals.watts)
        said = f"{zone} is at {celsius:.0f} °C, the hottest of {len(vitals.celsius)}"
        power = f"; {rails}" if rails else ""
        hot = 0 < limit <= celsius
        yield Check(
            "temperature",
            WARN if hot else OK,
            f"{said}{f'; expected less than {limit} °C' if hot else ''}{power}",
            "cool it: fan, heat sink, room around it" if hot else "",
            found=f"{celsius:.0f}",
            expected=f"<{limit}" if limit else "",
        )
    zones = board.sensors.zones if board else ()
    if zones and not set(zones) & {zone for zone, _ in vitals.celsius}:
        yield Check(
            "temperature",
            WARN,
            f"none of its thermal zones can be read; expected {', '.join(zones)}",
            "is /sys hidden from this container?",
            expected=", ".join(zones),
        )
    if vitals.throttling:
        yield Check(
            "temperature",
            WARN,
            f"it throttles now: {', '.join(vitals.throttling)}",
            "cool it, or choose a lower power mode",
        )


def _alarms(vitals: Vitals) -> Iterator[Check]:
    for name, count in vitals.alarms:
        number = re.search(r"\boc\d\b|(?<=\s)oc\d", name)
        kind = _ALARMS.get(number[0], "power") if number else "under-voltage"
        yield Check(
            "power supply",
            WARN,
            f"{kind} alarm: {name} is {count}; expected 0",
            "use the power supply that the maker names",
            found=str(count),
            expected="0",
        )


def _nodes(
    board: Board, device: Device, root: Path, may: Callable[[Path], bool]
) -> Iterator[Check]:
    """Whether this user may open what CUDA opens."""
    if device.gpu is None:
        return
    absent, locked = [], []
    for pattern in board.compute.nodes:
        nodes = sorted(root.glob(pattern.lstrip("/")))
        if not nodes:
            absent.append(pattern)
        locked += [f"/{node.relative_to(root)}" for node in nodes if not may(node)]
    if absent:
        yield Check(
            "GPU nodes",
            WARN,
            f"not there: {', '.join(absent)}",
            "the driver is not loaded, or this container was not given them",
            expected=", ".join(board.compute.nodes),
        )
    if locked:
        yield Check(
            "GPU nodes",
            WARN,
            f"this user may not open {', '.join(locked)}",
            "sudo usermod -aG video,render $USER, then log in again",
        )
    if not absent and not locked and board.compute.nodes:
        yield Check("GPU nodes", OK, f"{len(board.compute.nodes)} can be opened")


# ---- cameras -------------------------------------------------------------------------------------


def camera_checks(
    settings: Settings,
    board: Board | None,
    *,
    root: Path = Path("/"),
    may: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK),
    has_element: Callable[[str], bool] | None = None,
) -> Iterator[Check]:
    """Whether each camera of the settings could be opened, without opening it."""
    has_element = has_element or _has_element
    there = video_devices(root)
    listed = ", ".join(f"{node} ({name})" for node, name in there) or "none on /dev/video*"
    if not settings.cameras:
        yield Check("camera", OK, f"found: {listed}; none in the settings", found=listed)
    for spec in settings.cameras:
        problem, hint = "", ""
        name = without_password(spec)
        try:
            problem, hint = _camera_problem(spec, board, root, may, has_element)
        except AccrueError as error:
            problem, hint = error.message, error.hint
        if problem:
            yield Check("camera", WARN, f"{name}: {problem}; found: {listed}", hint, found=listed)
        else:
            yield Check("camera", OK, f"{name} can be tried; found: {listed}", found=listed)


def _camera_problem(
    spec: str,
    board: Board | None,
    root: Path,
    may: Callable[[Path], bool],
    has_element: Callable[[str], bool],
) -> tuple[str, str]:
    """What is wrong and what to do about it; ("", "") where nothing is."""
    pipeline = spec if " ! " in spec else ""
    if is_board_camera(spec):
        _, pipeline = board_pipeline(spec, lambda: board)
    if pipeline:
        if shutil.which(PROGRAM) is None:
            return f"{PROGRAM} is not installed", f"apt install {PACKAGES}"
        for element in re.findall(r"(?:^|! )([a-z]\w+)(?= |$)", pipeline):
            if element != "appsink" and not has_element(element):
                return (
                    f"GStreamer has no element {element}",
                    f"install what brings it: gst-inspect-1.0 {element}",
                )
        if "nvarguscamerasrc" in pipeline and not (root / ARGUS_SOCKET).exists():
            return "nvargus-daemon does not run", "sudo systemctl restart nvargus-daemon"
    device = re.search(r"device=(\S+)", pipeline)
    number = camera_number(spec)
    node = device[1] if device else f"/dev/video{number}" if number is not None else ""
    if not node:
        return "", ""
    path = root / node.lstrip("/")
    if not path.exists():
        return f"{node} is not there", "plug the camera in, and look with: ls -l /dev/v4l/by-id"
    if not may(path):
        return f"this user may not open {node}", "sudo usermod -aG video $USER, then log in again"
    return "", ""


def _has_element(name: str) -> bool:
    """Whether GStreamer knows it; True where it cannot be asked."""
    try:
        asked = subprocess.run(
            ["gst-inspect-1.0", "--exists", name],
            capture_output=True,
            timeout=ELEMENT_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return asked.returncode == 0


# ---- the service ---------------------------------------------------------------------------------


def service_checks(ask: Callable[[str], str] | None = None) -> Iterator[Check]:
    """How systemd sees the service; nothing where it does not know it.

    Args:
        ask: gives what ``systemctl show UNIT`` prints; default: runs it.
    """
    text = (ask or _systemctl)("accrue.service")
    about = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if about.get("LoadState") != "loaded":
        return
    state = f"{about.get('ActiveState', '')} ({about.get('SubState', '')})"
    restarts = int(about.get("NRestarts") or 0)
    said = f"accrue.service is {state}, restarted by itself {restarts} times since the start"
    if about.get("ActiveState") == "active" and restarts < 3:
        yield Check("service", OK, said, found=state, expected="active")
    else:
        hint = "journalctl -u accrue -n 50"
        yield Check("service", WARN, said, hint, found=state, expected="active")


def _systemctl(unit: str) -> str:
    if not Path("/run/systemd/system").is_dir():
        return ""
    try:
        return subprocess.run(
            ["systemctl", "show", unit, "-p", "LoadState,ActiveState,SubState,NRestarts"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
