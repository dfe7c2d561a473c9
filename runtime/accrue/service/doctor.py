"""What is well and what is not on this device."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from accrue import __version__
from accrue.board import Board, which
from accrue.bundle import ENCODER, Bundle, default_bundle_path
from accrue.device import Device, describe
from accrue.errors import AccrueError
from accrue.service.board_checks import board_checks, camera_checks, service_checks
from accrue.service.box import Box
from accrue.service.checks import FAIL, OK, WARN, Check
from accrue.service.engines import Engines, Status
from accrue.service.settings import Settings
from accrue.vision.encode import golden_check
from accrue.vision.engines import FLAVOURS, TENSORRT, Dropped, cannot_build
from accrue.vision.engines.selection import ONNX_CUDA, both_installed
from accrue.vision.engines.serving import NAMES
from accrue.vitals import read_vitals

LEAST_FREE_BYTES = 100 * 2**20


def examine(settings: Settings, *, root: Path = Path("/")) -> Iterator[Check]:
    """Each check in turn; one that fails does not stop the others.

    Args:
        root: folder that stands for ``/``, for what is read of the board.
    """
    device = describe(root)
    board: Board | None = None

    def look_at_board() -> Iterator[Check]:
        nonlocal board
        found = which(settings.board, device)
        board = found.board
        yield from board_checks(found, device, read_vitals(board, root), root=root)

    for name, look in (
        ("python", _python),
        ("board", look_at_board),
        ("packages", lambda: _packages(device)),
        ("encoder", lambda: _encoder(settings, board)),
        ("engines", lambda: _engines(settings)),
        ("state", lambda: _state(settings)),
        ("fleet owner", lambda: _fleet_owner(settings)),
        ("disk", lambda: _disk(settings, board)),
        ("camera", lambda: _camera(settings, board, root)),
        ("service", service_checks),
    ):
        yield from _tried(name, look)


def _tried(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except AccrueError as error:
        yield Check(name, FAIL, error.message, error.hint)
    except Exception as error:  # a check that breaks is a finding, not the end of the others
        yield Check(name, FAIL, f"{type(error).__name__}: {error}")


def _python() -> Iterator[Check]:
    yield Check(
        "python", OK, f"{platform.python_version()} on {platform.machine()}, Accrue {__version__}"
    )


def _packages(device: Device) -> Iterator[Check]:
    found = [f"{p.name} {p.version}" for p in device.packages if not p.hidden]
    with suppress(PackageNotFoundError):
        found.append(f"pillow {version('pillow')}")
    providers = ", ".join(device.providers) or "none"
    yield Check("packages", OK, f"{', '.join(found)}; providers {providers}")
    if "torch" in sys.modules:
        yield Check("packages", WARN, "torch has been imported; the runtime never needs it")
    if both := both_installed(device):
        yield Check(
            "packages",
            WARN,
            both,
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install the one that you want",
        )


def _encoder(settings: Settings, board: Board | None) -> Iterator[Check]:
    bundle = Bundle.open(settings.bundle or default_bundle_path())
    manifest = bundle.manifest
    yield Check(
        "encoder",
        OK,
        f"{manifest.name}, {manifest.dim}-d, space {manifest.space_id[:12]}, at {bundle.path}",
    )
    size_mib = manifest.files[ENCODER].bytes / 2**20
    if board and size_mib > board.encoder.largest_mib:
        yield Check(
            "encoder",
            WARN,
            f"its ONNX file has {size_mib:,.0f} MiB; board {board.name} is meant for up to "
            f"{board.encoder.largest_mib:,}",
            "export a smaller encoder",
            found=f"{size_mib:.0f} MiB",
            expected=f"{board.encoder.recommended}, or up to {board.encoder.largest_mib} MiB",
        )
    restricted = "; restricted, see its terms" if manifest.licence_restricted else ""
    yield Check(
        "licence",
        WARN if manifest.licence_restricted else OK,
        f"{manifest.licence_name}{restricted}",
    )
    bundle.verify()
    with Box(settings) as box:
        parity = golden_check(box.encoder, bundle)
        serving = NAMES[box.serving.candidate]
    yield Check(
        "golden images", OK, f"least cosine {parity.min_cosine:.6f} to the reference, by {serving}"
    )


def _engines(settings: Settings) -> Iterator[Check]:
    """What serves, and each thing that keeps something better from it."""
    engines = Engines(settings)
    yield from engine_checks(engines.status(), engines.needed_bytes())


def engine_checks(status: Status, needed_bytes: int) -> Iterator[Check]:
    """Findings from the status of the engines.

    Args:
        needed_bytes: free memory that building an engine is expected to take.
    """
    device = status.device
    yield Check("engines", OK, f"{NAMES[status.serves]} serves")
    if device.gpu is None:
        return
    told = set()
    for drop in status.dropped:
        if drop.reason not in told and _to_be_mended(drop, device):
            told.add(drop.reason)
            yield Check(NAMES[drop.candidate], WARN, drop.reason, drop.hint)
    for engine, place, misfit in status.engines:
        if place == "active" and misfit:
            yield Check(
                "engines", WARN, f"engine {engine.stem} was {misfit}", "accrue engine build"
            )
    for path in status.unreadable:
        yield Check("engines", WARN, f"{path} cannot be read as an engine", "accrue engine clean")
    builds = any(cannot_build(device, flavour) is None for flavour in FLAVOURS)
    if builds and 0 < device.memory_available_bytes < needed_bytes:
        yield Check(
            "memory",
            WARN,
            f"{device.memory_available_bytes / 2**20:,.0f} MiB are free; building an engine takes "
            f"about {needed_bytes / 2**20:,.0f}",
            "stop other programs, add swap, or build with --workspace 256",
        )


def _to_be_mended(drop: Dropped, device: Device) -> bool:
    """Whether a candidate was dropped by a fault of this device's set-up, not by its nature."""
    if drop.filter == "package":
        return drop.candidate == TENSORRT and bool(device.tensorrt_system)
    if drop.filter == "provider":
        return drop.candidate == ONNX_CUDA
    return drop.filter in ("jetpack", "shadow", "cuda-python", "numpy", "version", "opening")


def _state(settings: Settings) -> Iterator[Check]:
    with Box(settings) as box:
        store = box.reading()
        if store is None:
            yield Check("state", OK, f"nothing taught yet in {settings.state}")
            return
        problems = store.check()
        for problem in problems:
            yield Check("state", FAIL, problem, "restore a backup: accrue restore FILE")
        if problems:
            return
        rows = store.classes()
        shots = sum(row.shots for row in rows)
        yield Check("state", OK, f"{len(rows)} classes, {shots} shots in {store.path}, sound")
        held, limit = store.held(), settings.memory
        said = f"rows {_mib(held.rows)}, thumbnails {_mib(held.thumbnails)}"
        room = f", of {_mib(limit)} in all" if limit else ""
        yield Check("memory", OK, f"{said}, statistics {_mib(held.statistics)}{room}")
        box.require_same_space()


def _fleet_owner(settings: Settings) -> Iterator[Check]:
    if settings.fleet_owner is None:
        return
    from accrue.sync.workspace import Workspace

    with Workspace.open(settings.fleet_owner) as workspace:
        yield Check(
            "fleet owner",
            OK,
            f"holds the key of fleet {workspace.fleet}: whoever is owner of this device decides "
            "for all of it",
        )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


def _disk(settings: Settings, board: Board | None) -> Iterator[Check]:
    folder = settings.state
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**30:.1f} GiB free at {folder}"
    budget = board.storage.total_mib * 2**20 if board else 0
    if free < LEAST_FREE_BYTES:
        yield Check("disk", WARN, f"{free / 2**20:.0f} MiB free at {folder}", "make room")
    elif free + _held(settings) < budget:
        yield Check(
            "disk",
            WARN,
            f"{said}; releases, engines and state of this board are meant to have "
            f"{budget / 2**30:.1f} GiB in all",
            "make room",
            found=f"{free // 2**20} MiB",
            expected=f"{budget // 2**20} MiB",
        )
    else:
        yield Check("disk", OK, said, found=f"{free // 2**20} MiB")


def _held(settings: Settings) -> int:
    """Bytes of what Accrue keeps already."""
    folders = {settings.state, settings.engines_folder}
    if settings.engines_folder.is_relative_to(settings.state):
        folders.discard(settings.engines_folder)
    total = 0
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(OSError):  # gone meanwhile, or not ours to look at
            total += path.lstat().st_size
    return total


def _camera(settings: Settings, board: Board | None, root: Path) -> Iterator[Check]:
    if find_spec("cv2") is None:
        yield Check(
            "camera",
            WARN,
            "OpenCV is not installed, so photos and GStreamer can be read but no other camera or "
            "video",
            'pip install "accrue[camera]"',
        )
    yield from camera_checks(settings, board, root=root)
