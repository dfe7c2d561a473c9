"""`tools/provision overlay` and `flash`: a root file system overlay for NVIDIA's flashing tools.

An overlay is a folder: the files, as a tar that is the same each time; what it is for; and `apply`,
which puts it into a Linux_for_Tegra and says how to flash (`provisioning.flash`, on its own there).
One overlay serves any number of devices: who each of them is, `apply` is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from accrue import __version__
from accrue.board import Board, System
from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say
from accrue.errors import AccrueError, Conflict, NotFound, UsageError
from accrue.store.failures import translated
from provisioning import flash
from provisioning.archive import normalise, write_tar
from provisioning.package import BoardName, BundleName, Out, SystemName, Version, Wheels, planned
from provisioning.payload import UNITS, Plan, stage

APPLY = "apply"
_WANTED_BY = re.compile(r"^WantedBy=(.+)$", re.MULTILINE)
_KINDS: dict[int, type[AccrueError]] = {
    flash.USAGE: UsageError,
    flash.NOT_FOUND: NotFound,
    flash.CONFLICT: Conflict,
}


@contextmanager
def as_ours() -> Iterator[None]:
    """Problems of `provisioning.flash` as errors of Accrue, with the same exit codes."""
    try:
        yield
    except flash.Problem as problem:
        kind = _KINDS.get(problem.code, AccrueError)
        raise kind(problem.message, hint=problem.hint) from None


def require_jetson(board: Board) -> None:
    """Raises UsageError for a board that NVIDIA's tools do not flash."""
    if not board.flash.ways:
        raise UsageError(
            f"{board.name} is not flashed by NVIDIA's tools",
            hint="make a package: tools/provision deb; or install it: tools/provision ssh",
        )


def build_overlay(out: Path, plan: Plan) -> Path:
    """The overlay of a plan as a folder in `out`; the same plan gives the same bytes.

    Raises:
        UsageError: a board without NVIDIA's tools. Conflict: another overlay of this name is there.
        as `stage`.
    """
    require_jetson(plan.board)
    name = f"accrue-overlay_{plan.version}_{plan.board.name}_jetpack-{plan.system.jetpack}"
    target = out / name
    with translated(out):
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch, translated(out):
        root, made = Path(scratch) / "root", Path(scratch) / name
        root.mkdir()
        made.mkdir()
        staged = stage(root, plan)
        enable(root)
        normalise(root, plan.epoch)
        write_tar(root, made / flash.TAR)
        with as_ours():
            flash.members_of(made / flash.TAR)
        document = {
            "accrue": flash.FORMAT,
            "id": staged.id,
            "sha256": hashlib.sha256((made / flash.TAR).read_bytes()).hexdigest(),
            "bytes": staged.bytes,
            **facts(plan.board, plan.system),
        }
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        (made / flash.DESCRIPTION).write_text(text, encoding="utf-8")
        shutil.copyfile(Path(flash.__file__), made / APPLY)
        (made / APPLY).chmod(0o755)
        if target.exists():
            present = target / flash.DESCRIPTION
            if present.is_file() and present.read_text(encoding="utf-8") == text:
                return target
            raise Conflict(
                f"{target} is there already, and is another one; nothing was changed",
                hint="give another --version or --out, or delete it",
                path=str(target),
            )
        made.rename(target)
    return target


def facts(board: Board, system: System) -> dict[str, object]:
    """What `apply` has to know of a board and its system."""
    return {
        "board": board.name,
        "title": board.title,
        "jetpack": system.jetpack,
        "l4t": list(system.l4t),
        "python": system.python,
        "flash": asdict(board.flash),
    }


def enable(root: Path) -> None:
    """The links that start units at boot, as `systemctl enable` makes them on a device."""
    for unit in UNITS:
        text = (root / "usr/lib/systemd/system" / unit).read_text(encoding="utf-8")
        for wanted in " ".join(_WANTED_BY.findall(text)).split():
            folder = root / "etc/systemd/system" / f"{wanted}.wants"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")
    for folder in (root / "etc", *(root / "etc").rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            os.chmod(folder, 0o755)  # noqa: PTH101  # nosec B103 - folders of etc


def command(
    board: BoardName,
    out: Out,
    system: SystemName = None,
    bundle: BundleName = "default",
    version: Version = __version__,
    wheels: Wheels = None,
    as_json: Json = False,
) -> None:
    """Make an overlay for NVIDIA's Linux_for_Tegra, for devices that are flashed."""
    require_jetson(Board.load(Path(board) if "/" in board else board))
    with planned(board, system, bundle, version, wheels) as plan:
        note("packing ...")
        made = build_overlay(out, plan)
    size = (made / flash.TAR).stat().st_size
    if as_json:
        emit({"overlay": str(made), "board": plan.board.name, "jetpack": plan.system.jetpack,
              "l4t": list(plan.system.l4t), "bytes": size})  # fmt: skip
        return
    say(str(made))
    note(
        f"{size / 1e6:.0f} MB, for JetPack {plan.system.jetpack} (L4T {', '.join(plan.system.l4t)})"
    )
    note(f"next: sudo {made / APPLY} --l4t Linux_for_Tegra --help")


Storage = Annotated[str, typer.Option("--storage", metavar="KIND", help="nvme, sd, usb or emmc.")]


def show(
    board: BoardName,
    storage: Storage = "nvme",
    system: SystemName = None,
    l4t: Annotated[
        str, typer.Option("--l4t", metavar="VERSION", help="Instead of --jetpack, as 36.4.3.")
    ] = "",
    super_: Annotated[
        bool, typer.Option("--super", help="With the configuration of the higher power modes.")
    ] = False,
    prepared: Annotated[
        bool, typer.Option("--prepared", help="Make images first, write them later.")
    ] = False,
    massflash: Annotated[
        int, typer.Option("--massflash", min=0, max=100, metavar="N", help="N boards at once.")
    ] = 0,
    sku: Annotated[str, typer.Option("--sku", metavar="SKU", help="BOARDSKU, as 0005.")] = "",
    fab: Annotated[str, typer.Option("--fab", metavar="FAB", help="FAB, as 300.")] = "",
    revision: Annotated[
        str, typer.Option("--revision", metavar="REV", help="BOARDREV, as J.0.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show how a board is flashed: the exact commands, to be typed in Linux_for_Tegra."""
    found = Board.load(Path(board) if "/" in board else board)
    require_jetson(found)
    if bool(l4t) == bool(system):
        known = ", ".join(one.jetpack for one in found.systems)
        raise UsageError(
            "the release is given by --jetpack or by --l4t",
            hint=f"{found.name} runs JetPack {known}",
        )
    release = l4t or found.system(system or "").l4t[-1]
    choice = flash.Choice(
        release, storage, super_, prepared, massflash, fab=fab, sku=sku, revision=revision
    )
    with as_ours():
        made = flash.commands(found.name, asdict(found.flash), choice)
    if as_json:
        emit({"board": found.name, "l4t": release,
              "commands": [{"line": c.line, "folder": c.folder, "what": c.what} for c in made],
              "recovery_usb": list(found.flash.recovery_usb),
              "reset_after": found.flash.reset_after})  # fmt: skip
        return
    for one in made:
        say(f"cd {one.folder} && {one.line}" if one.folder else one.line)
    note(f"in recovery mode the board is USB {' or '.join(found.flash.recovery_usb)}")
    if found.flash.reset_after:
        note("afterwards it has to be reset by hand")
