from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulation import Machine, Root, namespaces_work, qemu, require, require_root, root_archive

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "tests" / "provision"))  # its tiny payloads


@dataclass(frozen=True)
class Wheels:
    """All that a device of one kind installs, fetched once."""

    board: object
    system: object
    found: list


@pytest.fixture(scope="session")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """An emulated Debian for arm64."""
    require_root()
    namespaces_work()
    emulator = qemu()
    return Root(root_archive("arm64"), tmp_path_factory.mktemp("arm64") / "root", emulator)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A Debian of this processor, booted."""
    require_root()
    require("systemd-nspawn", "systemd-container")
    folder = tmp_path_factory.mktemp("amd64")
    booted = Machine(Root(root_archive("amd64"), folder / "root"), folder / "console.txt")
    booted.boot()
    yield booted
    booted.cut_power()


def fetched(folder: Path, board_name: str) -> Wheels:
    from accrue.board import Board
    from provisioning.payload import EPOCH, target_of
    from provisioning.wheelhouse import build_own, fetch

    board = Board.load(board_name)
    system = board.system("debian-12")
    target = target_of(board, system)
    (folder / "wheels").mkdir()
    (folder / "own").mkdir()
    wheels = fetch(target, folder / "wheels")
    return Wheels(board, system, [*wheels, build_own(folder / "own", target, EPOCH)])


@pytest.fixture(scope="session")
def arm64_wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return fetched(tmp_path_factory.mktemp("arm64-wheels"), "arm64")


@pytest.fixture(scope="session")
def amd64_wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    return fetched(tmp_path_factory.mktemp("amd64-wheels"), "x86-cpu")
