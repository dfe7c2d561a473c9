"""A device's file system in a folder, and payloads that install in a second: a wheel of a few lines
that is called accrue, staged by the real `stage`."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from accrue.board import Board, System
from provisioning import payload
from provisioning.payload import Plan, Staged, stage, target_of
from provisioning.wheelhouse import look

RELEASE = Path(payload.__file__).with_name("accrue_release.py")
MODULE = """
import sys
from pathlib import Path

def main():
    if sys.argv[1:2] == ["--version"]:
        print({version!r})
    elif sys.argv[1:3] == ["bundle", "verify"]:
        good = Path(sys.argv[3], "manifest.json").is_file() and {works}
        sys.exit(None if good else "the golden images disagree (least cosine 0.31)")
    else:
        sys.exit(2)
"""
# Runs accrue-release with two of its constants shortened, and dies at the STEPth change of a file.
RUNNER = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import accrue_release
accrue_release.HEALTHY_FOR_S = 0.2
accrue_release.MARGIN_BYTES = 0
step, left = int(sys.argv.pop(1)), [0]
CHANGES = ("os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.link", "os.chmod")

def cut(event, arguments):
    write = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if event in CHANGES or write:
        left[0] += 1
        if left[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)

if step:
    sys.addaudithook(cut)
sys.exit(accrue_release.main())
"""


@cache
def pip_wheel(folder: Path) -> Path:
    """pip as a wheel: Python's own, the system's, or one made of the pip that is installed."""
    import ensurepip

    places = [Path(ensurepip.__file__).with_name("_bundled"), Path("/usr/share/python-wheels")]
    for place in places:
        if found := sorted(place.glob("pip-*.whl")):
            return found[-1]
    pytest.skip("no wheel of pip is here: apt-get install python3-venv")


def tiny_wheel(folder: Path, version: str, *, works: bool = True) -> Path:
    """A wheel of accrue that knows `--version` and `bundle verify`."""
    path = folder / f"accrue-{version}-py3-none-any.whl"
    info = f"accrue-{version}.dist-info"
    files = {
        "accrue/__init__.py": "",
        "accrue/tiny.py": MODULE.format(version=version, works=works),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: accrue\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\naccrue = accrue.tiny:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def here() -> tuple[Board, System]:
    """This machine as a board and a system of its."""
    board = Board.load("arm64" if platform.machine() == "aarch64" else "x86-cpu")
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return board, replace(board.systems[0], python=python, glibc="2.17")


class Device:
    """A root folder, and accrue-release with it as ``/``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opt = root / "opt/accrue"
        self.state = root / "var/lib/accrue"
        self.payloads = root / "usr/lib/accrue/payload"
        self.state.mkdir(parents=True)

    def command(self, *words: str, step: int = 0) -> list[str]:
        runner = RUNNER.format(folder=str(RELEASE.parent))
        return [sys.executable, "-c", runner, str(step), "--root", str(self.root), *words]

    def call(self, *words: str, step: int = 0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, step=step), check=False, capture_output=True, text=True
        )

    def do(self, *words: str) -> str:
        """What it said; it must succeed."""
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def refused(self, *words: str) -> tuple[int, str]:
        """Exit code and what it said; it must not succeed, and must not break."""
        done = self.call(*words)
        assert done.returncode not in (0, -9), done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    def status(self) -> dict:
        return json.loads(self.call("status", "--json").stdout)

    def runs(self) -> str:
        """What the current release says of its version."""
        program = self.opt / "current/venv/bin/accrue"
        done = subprocess.run(
            [program, "--version"], check=True, capture_output=True, text=True, env={}
        )
        return done.stdout.strip()

    def teach(self, rows: int, *, version: int = 1, space: str) -> None:
        """A database as the real one is seen from outside: version, space, and rows."""
        path = self.state / "state.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE meta (space_id TEXT)")
            db.execute("CREATE TABLE shot (id INTEGER)")
            db.execute("INSERT INTO meta VALUES (?)", [space])
            db.executemany("INSERT INTO shot VALUES (?)", [(i,) for i in range(rows)])
            db.execute(f"PRAGMA user_version = {version}")

    def taught(self) -> tuple[int, int]:
        """Version and rows."""
        with closing(sqlite3.connect(self.state / "state.db")) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            return version, db.execute("SELECT count(*) FROM shot").fetchone()[0]

    def migrate(self, version: int, rows: int) -> None:
        """What a newer release does with it when it starts, with another shot taught."""
        with closing(sqlite3.connect(self.state / "state.db")) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA user_version = {version}")
            db.executemany("INSERT INTO shot VALUES (?)", [(i,) for i in range(rows)])


def carried(
    folder: Path,
    bundle: Path,
    version: str,
    *,
    works: bool = True,
    **changes: object,
) -> tuple[Path, Staged]:
    """A staged root with the tiny wheel of that version, and what was staged.

    Args:
        changes: to keys of payload.json, as another machine's would have them.
    """
    board, system = here()
    folder.mkdir(parents=True)
    target = target_of(board, system)
    wheels = [
        look(p, target) for p in (pip_wheel(folder), tiny_wheel(folder, version, works=works))
    ]
    root = folder / "root"
    root.mkdir()
    staged = stage(root, Plan(board, system, bundle, wheels, version))
    if changes:
        path = root / staged.folder.lstrip("/") / "payload.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, **changes}))
        os.utime(path, (0, 0))
    return root / staged.folder.lstrip("/"), staged
