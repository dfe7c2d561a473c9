"""How a board is doing now: power mode, temperatures, throttling, power rails, alarms.

All of it is read from files, without root and without a program of the vendor. What is not there or
cannot be read is left out: a zone of a part that is switched off fails to read, and that is no
fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from accrue.board import Board, Mode, Sensors

STATUS = "var/lib/nvpmodel/status"  # world-readable, unlike what `nvpmodel -q` asks
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_STATUS = re.compile(r"pmode:0*(\d+)")
# Below it a sensor that is switched off reads; above it none of them works.
_SANE_C = (-40.0, 150.0)


@dataclass(frozen=True)
class PowerMode:
    """A power mode as the board's own nvpmodel.conf has it. Ids differ from board to board."""

    id: int
    name: str


@dataclass(frozen=True)
class Vitals:
    """Readings of one moment.

    Attributes:
        mode: the one in force; None where the board has none or does not tell.
        modes: that the board has, in the order of its file.
        celsius: by thermal zone. watts: by power rail, as "ina3221 VDD_IN".
        throttling: cooling devices of throttling that are on.
        alarms: counts and flags of under-voltage and over-current that are not 0, by name.
    """

    mode: PowerMode | None = None
    modes: tuple[PowerMode, ...] = ()
    celsius: tuple[tuple[str, float], ...] = ()
    watts: tuple[tuple[str, float], ...] = ()
    throttling: tuple[str, ...] = ()
    alarms: tuple[tuple[str, int], ...] = ()

    @property
    def hottest(self) -> tuple[str, float] | None:
        return max(self.celsius, key=lambda one: one[1], default=None)


def read_vitals(board: Board | None, root: Path = Path("/")) -> Vitals:
    """The readings of now; only thermal zones where the board is not known.

    Args:
        root: folder that stands for ``/``.
    """
    sensors = board.sensors if board else Sensors()
    modes = power_modes(root / board.power.file.lstrip("/")) if board and board.power.file else ()
    return Vitals(
        mode=_mode(modes, root),
        modes=modes,
        celsius=tuple(_celsius(root)),
        watts=tuple(_watts(root, sensors)),
        throttling=tuple(_throttling(root, sensors)),
        alarms=tuple(_alarms(root, sensors)),
    )


def power_modes(file: Path) -> tuple[PowerMode, ...]:
    """Those of an nvpmodel.conf; () where it is not there."""
    return tuple(PowerMode(int(id), name) for id, name in _MODE.findall(_text(file)))


def known_mode(board: Board, mode: PowerMode | None) -> Mode | None:
    """What the board's description says of a mode, by its name."""
    return next((m for m in board.power.modes if mode and m.name == mode.name), None)


def preferred(board: Board, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode that the board's description would use, with the id that it has here."""
    by_name = {mode.name: mode for mode in modes}
    return next((by_name[name] for name in board.power.prefer if name in by_name), None)


def video_devices(root: Path = Path("/")) -> tuple[tuple[str, str], ...]:
    """Cameras that the kernel knows: device and name. A camera may have several devices, of which
    the first gives the pictures."""
    found = [
        (f"/dev/{folder.name}", _text(folder / "name").strip())
        for folder in _folders(root / "sys/class/video4linux", "video")
        if (_number(folder / "index") or 0) == 0
    ]
    return tuple(found)


def _mode(modes: tuple[PowerMode, ...], root: Path) -> PowerMode | None:
    found = _STATUS.search(_text(root / STATUS))
    return next((mode for mode in modes if found and mode.id == int(found[1])), None)


def _celsius(root: Path) -> Iterator[tuple[str, float]]:
    for zone in _folders(root / "sys/class/thermal", "thermal_zone"):
        value = _number(zone / "temp")
        name = _text(zone / "type").strip()
        if name and value is not None and _SANE_C[0] < value / 1000 < _SANE_C[1]:
            yield name, value / 1000


def _throttling(root: Path, sensors: Sensors) -> Iterator[str]:
    for device in _folders(root / "sys/class/thermal", "cooling_device"):
        name = _text(device / "type").strip()
        if name in sensors.throttles and (_number(device / "cur_state") or 0) > 0:
            yield name


def _watts(root: Path, sensors: Sensors) -> Iterator[tuple[str, float]]:
    """Of each rail: what its monitor says, else volts times amperes."""
    for name, monitor in _monitors(root, sensors.power):
        for n in range(1, 9):
            power = _number(monitor / f"power{n}_input")  # microwatt
            volts, amperes = (_number(monitor / f"{what}{n}_input") for what in ("in", "curr"))
            if power is None and (volts is None or amperes is None):
                continue
            label = _text(monitor / f"in{n}_label").strip() or str(n)
            watts = power / 1e6 if power is not None else volts * amperes / 1e6  # type: ignore[operator]
            yield f"{name} {label}", watts


def _alarms(root: Path, sensors: Sensors) -> Iterator[tuple[str, int]]:
    """Counters since the start of the board, and flags that stand now."""
    for name, monitor in _monitors(root, sensors.alarms):
        with suppress(OSError):
            for file in sorted(monitor.iterdir()):
                if re.search(r"_(event_cnt|alarm)$", file.name) and (_number(file) or 0) > 0:
                    yield f"{name} {file.name}", int(_number(file) or 0)


def _monitors(root: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Monitors of these names; their numbers change from start to start."""
    for monitor in _folders(root / "sys/class/hwmon", "hwmon"):
        name = _text(monitor / "name").strip()
        if name in names:
            yield name, monitor


def _folders(parent: Path, beginning: str) -> list[Path]:
    """In the order of their numbers."""
    try:
        found = [p for p in parent.iterdir() if p.name.startswith(beginning)]
    except OSError:
        return []
    return sorted(found, key=lambda p: int(re.sub(r"\D", "", p.name) or 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
