"""What a device is installed from, as a tree of files below a folder that stands for ``/``.

A package, an overlay and a copy over SSH carry this same tree; docs/updates.md draws it. The tree
depends on the plan alone: staged twice, it is the same in content, owner, mode and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from accrue.board import Board, System, boards_folder
from accrue.bundle import MANIFEST, Bundle, default_bundle_path
from accrue.errors import UsageError
from accrue.service import access, unknown
from accrue.service.settings import load_settings
from accrue.store import database
from accrue.store.schema import MIGRATIONS
from provisioning.archive import normalise
from provisioning.wheelhouse import ROOT, Target, Wheel, requirements

FORMAT = 1
EPOCH = 1_767_225_600  # 2026-01-01, where SOURCE_DATE_EPOCH is not given
UNITS = ("accrue.service", "accrue-backup.timer")  # that start by themselves
# What an installed wheel takes beside its content: bytecode is about as large as the source, and
# a file system gives whole blocks.
INSTALLED = 1.3
RELEASE = Path(__file__).with_name("accrue_release.py")
VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]{0,63}")
STORES = {
    database.FILE_NAME: len(MIGRATIONS),
    unknown.FILE_NAME: len(unknown.MIGRATIONS),
    access.FILE_NAME: len(access.MIGRATIONS),
}


@dataclass(frozen=True)
class Plan:
    """What to stage.

    Attributes:
        board, system: that it is for. bundle: encoder, folder or file.
        wheels: everything to install, pip and Accrue included.
        version: of the release; as a Debian package has it, without revision.
        epoch: seconds, the time of all files.
        settings: lines of accrue.yaml beside those that every device has.
        board_file: description of the board; None for the one that comes with Accrue.
    """

    board: Board
    system: System
    bundle: Path
    wheels: Sequence[Wheel]
    version: str
    epoch: int = EPOCH
    settings: Mapping[str, Any] = field(default_factory=dict)
    board_file: Path | None = None


@dataclass(frozen=True)
class Staged:
    """What was staged. `folder` is the payload's own, as on the device."""

    id: str
    folder: str
    files: int
    bytes: int


def epoch() -> int:
    """Of SOURCE_DATE_EPOCH, else a fixed one. Raises UsageError."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return EPOCH
    if not given.isascii() or not given.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}; expected seconds since 1970")
    return int(given)


def target_of(board: Board, system: System) -> Target:
    """For which wheels are fetched."""
    if system.cuda.startswith("12."):
        lock = "jetpack6"
    else:
        lock = "cuda13" if board.identity.gpu else "console"
    return Target(board.architecture, system.python, system.glibc, lock, system.numpy)


def stage(root: Path, plan: Plan) -> Staged:
    """Writes everything that a device is installed from below `root`.

    Raises:
        NotFound, BundleError: no bundle, or not a whole one.
        UsageError: a version that no package can have.
        ConfigError: a setting that is not known, or a value that does not fit.
    """
    check_version(plan.version)
    umask = os.umask(0o022)
    try:
        payload = _payload(root, plan)
        _programs(root)
        _units(root)
        _settings(root, plan)
    finally:
        os.umask(umask)
    normalise(root, plan.epoch)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return Staged(
        payload.name,
        f"/{payload.relative_to(root).as_posix()}",
        len(files),
        sum(path.stat().st_size for path in files),
    )


def check_version(version: str) -> None:
    """Raises UsageError for one that no package can have."""
    if not VERSION.fullmatch(version):
        raise UsageError(
            f"version {version!r} is none; expected digits, letters, '.', '+' and '~'",
            hint="as in --version 1.4.0",
        )


def _payload(root: Path, plan: Plan) -> Path:
    """usr/lib/accrue/payload/ID."""
    payloads = root / "usr/lib/accrue/payload"
    draft = payloads / "draft"
    (draft / "wheels").mkdir(parents=True)
    for wheel in plan.wheels:
        _copy(wheel.path, draft / "wheels" / wheel.path.name)
    _write(draft / "requirements.txt", "\n".join(requirements(list(plan.wheels))) + "\n")
    bundle = _bundle(plan.bundle, draft / "bundle")
    described = plan.board_file or boards_folder() / f"{plan.board.name}.yaml"
    _copy(described, draft / "board.yaml")
    files = {
        path.relative_to(draft).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(draft.rglob("*"))
        if path.is_file()
    }
    size = sum(wheel.unpacked_bytes for wheel in plan.wheels) * INSTALLED
    document = {
        "format": FORMAT,
        "version": plan.version,
        "board": plan.board.name,
        "system": plan.system.name,
        "machine": plan.board.architecture,
        "python": plan.system.python,
        "glibc": plan.system.glibc,
        "l4t": list(plan.system.l4t),
        "modules": list(plan.board.identity.modules),
        "compatible": list(plan.board.identity.compatible),
        "encoder": bundle.manifest.name,
        "space_id": bundle.manifest.space_id,
        "stores": STORES,
        "installed_bytes": int(size) + sum(e.bytes for e in bundle.manifest.files.values()),
        "files": files,
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    identifier = f"{plan.version}-{digest[:12]}"
    text = json.dumps({"id": identifier, **document}, indent=1, sort_keys=True)
    _write(draft / "payload.json", text + "\n")
    return draft.rename(payloads / identifier)


def _bundle(source: Path, target: Path) -> Bundle:
    """A folder with exactly the files that the bundle lists, each of them checked."""
    bundle = Bundle.open(source)
    bundle.verify()
    for name in bundle.manifest.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(bundle.read(name))
    if source.is_dir():
        _copy(source / MANIFEST, target / MANIFEST)
    else:
        _write(target / MANIFEST, json.dumps(bundle.manifest.document(), indent=1) + "\n")
    return Bundle.open(target)


def _programs(root: Path) -> None:
    """usr/lib/accrue, usr/bin and usr/sbin."""
    _copy(RELEASE, root / "usr/lib/accrue/accrue-release", mode=0o755)
    (root / "usr/sbin").mkdir(parents=True, exist_ok=True)
    (root / "usr/sbin/accrue-release").symlink_to("../lib/accrue/accrue-release")
    for name in ("accrue", "accrue-fleet"):
        _write(root / "usr/bin" / name, _WRAPPER.format(name=name, user=_USERS[name]), mode=0o755)


# As root it becomes the user who owns what was taught, or root's files would lie in between.
_USERS = {
    "accrue": """if [ "$(id -u)" = 0 ]; then
    export HOME=/var/lib/accrue LOGNAME="${SUDO_USER:-root}"
    exec setpriv --reuid=accrue --regid=accrue --init-groups -- "$program" "$@"
fi
""",
    "accrue-fleet": "",
}
_WRAPPER = """#!/bin/sh
# {name} of the release that is current.
program=/opt/accrue/current/venv/bin/{name}
if [ ! -x "$program" ]; then
    echo "{name}: no release is installed here; sudo accrue-release status" >&2
    exit 1
fi
export ACCRUE_CONFIG="${{ACCRUE_CONFIG:-/etc/accrue/accrue.yaml}}"
{user}exec "$program" "$@"
"""


def _units(root: Path) -> None:
    source = ROOT / "systemd"
    for unit in sorted((source / "system").rglob("*")):
        if unit.is_file():
            _copy(unit, root / "usr/lib/systemd/system" / unit.relative_to(source / "system"))
    for kind in ("sysusers.d", "tmpfiles.d"):
        _copy(source / kind / "accrue.conf", root / "usr/lib" / kind / "accrue.conf")
    _copy(source / "accrue-display", root / "usr/lib/accrue/accrue-display", 0o755)


def _settings(root: Path, plan: Plan) -> None:
    """etc/accrue/accrue.yaml, tried before it is written down for good."""
    path = root / "etc/accrue/accrue.yaml"
    values = {
        "state": "/var/lib/accrue",
        "bundle": "/opt/accrue/current/bundle",
        "listen": "0.0.0.0:8420",
        "cameras": ["auto"],
        **plan.settings,
    }
    _write(
        path,
        "# Settings of this device. docs/reference/settings.md lists every key.\n"
        + yaml.safe_dump(dict(values), sort_keys=False),
    )
    load_settings({}, {}, path)


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def chosen_bundle(name: str) -> Path:
    """The bundle that --bundle names; "default" is the one that comes with Accrue."""
    return default_bundle_path() if name == "default" else Path(name)


def payload_files(root: Path) -> Iterator[Path]:
    """Every file and link below a staged root, sorted."""
    yield from (path for path in sorted(root.rglob("*")) if not path.is_dir() or path.is_symlink())
