"""Devices as tests/data/boards/recorded has them, laid out as files and read like a device."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accrue.device import Device, Gpu, describe

FOLDER = Path(__file__).parents[1] / "data" / "boards" / "recorded"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def about(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return document


@dataclass(frozen=True)
class Recorded:
    """A device: its name in the folder, the root of its files, and its description."""

    name: str
    root: Path
    device: Device

    @property
    def board(self) -> str:
        return self.name.split(".")[0]

    @property
    def super(self) -> bool:
        return self.name.endswith(".super")


def laid_out(name: str, root: Path) -> Recorded:
    """The files of a device below `root`, and what `describe` makes of them."""
    said = about(name)
    for path, text in said["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for package, version, folder in said["packages"]:
        info = root / folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    folders = list(dict.fromkeys(str(root / folder) for *_, folder in said["packages"]))
    gpu = Gpu(**said["cuda"]) if said["cuda"] else None
    found = describe(
        root,
        search=folders,
        ask_cuda=lambda: gpu,
        ask_smi=str,
        ask_providers=lambda: said["providers"],
    )
    return Recorded(
        name,
        root,
        replace(found, machine=said["machine"], python=said["python"], glibc=said["glibc"]),
    )
