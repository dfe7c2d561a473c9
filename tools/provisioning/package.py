"""`tools/provision deb`, and the options that everything made from a payload shares."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from accrue import __version__
from accrue.board import Board
from accrue.bundle import Bundle
from accrue.cli.classes import Json
from accrue.cli.output import emit, note, say
from accrue.errors import UsageError
from provisioning.debian import build_package
from provisioning.payload import Plan, check_version, chosen_bundle, epoch, target_of
from provisioning.wheelhouse import build_own, fetch

BoardName = Annotated[
    str, typer.Option("--board", metavar="NAME", help="Of device_configs, or a YAML file.")
]
SystemName = Annotated[
    str | None,
    typer.Option(
        "--system", "--jetpack", metavar="NAME", help="JetPack as 6.2, or system as debian-12."
    ),
]
BundleName = Annotated[
    str, typer.Option("--bundle", metavar="PATH", help="Encoder bundle, or default.")
]
Version = Annotated[
    str, typer.Option("--version", metavar="VERSION", help="Of the release; newer ones sort later.")
]
Wheels = Annotated[
    Path | None,
    typer.Option("--wheels", metavar="DIR", help="Take wheels from here, not from the index."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that takes what is made.")]


@contextmanager
def planned(
    board_name: str,
    system_name: str | None,
    bundle: str,
    version: str,
    wheels: Path | None,
) -> Iterator[Plan]:
    """A plan whose wheels lie in a folder that is gone afterwards.

    Raises:
        NotFound: no such board, or it has no such system; no such bundle.
        UsageError: the board has several systems and none was named, or a version that is none.
    """
    own_file = Path(board_name) if "/" in board_name or board_name.endswith(".yaml") else None
    board = Board.load(own_file or board_name)
    check_version(version)
    encoder = chosen_bundle(bundle)
    Bundle.open(encoder)
    if system_name is None and len(board.systems) > 1:
        known = ", ".join(system.jetpack or system.os for system in board.systems)
        option = "--jetpack" if board.jetson else "--system"
        raise UsageError(
            f"board {board.name} runs several systems: {known}",
            hint=f"name one, as in {option} {board.systems[-1].jetpack or board.systems[-1].os}",
        )
    system = board.system(system_name) if system_name else board.systems[0]
    target, moment = target_of(board, system), epoch()
    with tempfile.TemporaryDirectory() as scratch:
        fetched, own = Path(scratch) / "wheels", Path(scratch) / "own"
        fetched.mkdir()
        own.mkdir()
        note(f"wheels for {target.machine}, Python {target.python}, glibc {target.glibc} ...")
        found = [*fetch(target, fetched, wheels=wheels), build_own(own, target, moment)]
        size = sum(wheel.path.stat().st_size for wheel in found)
        note(f"{len(found)} wheels, {size / 1e6:.0f} MB")
        yield Plan(board, system, encoder, found, version, moment, board_file=own_file)


def command(
    board: BoardName,
    out: Out,
    system: SystemName = None,
    bundle: BundleName = "default",
    version: Version = __version__,
    wheels: Wheels = None,
    as_json: Json = False,
) -> None:
    """Make a Debian package with everything inside that a device needs."""
    with planned(board, system, bundle, version, wheels) as plan:
        note("packing ...")
        path, staged = build_package(out, plan)
    if as_json:
        emit({"package": str(path), "release": staged.id, "bytes": path.stat().st_size})
    else:
        say(str(path))
        note(f"{path.stat().st_size / 1e6:.0f} MB; on the device: sudo apt install ./{path.name}")
