"""A machine whose first process is systemd, for tests of the units: systemd-nspawn over this one.

Its /usr is this machine's, read-only, with what is staged laid over it; /etc and /var are new. So
it boots in seconds, needs no download, and nothing of this machine is changed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BOOT_S, COMMAND_S, HOLDS_S = 120.0, 240.0, 240.0  # a busy machine starts Python in a minute
LINKS = ("bin", "sbin", "lib", "lib64")


# This Python, its packages and the code under test, where the units' sandboxes see them: they hide
# /tmp, /home and /root. A Python of the system is in /usr anyway.
PYTHON_AT, PACKAGES_AT, CODE_AT = "/opt/python", "/opt/packages", "/opt/code"
BASE = Path(sys.base_prefix)
OWN_PYTHON = Path("/usr") not in [BASE, *BASE.parents]
BOUND = {
    **({str(BASE): PYTHON_AT} if OWN_PYTHON else {}),
    sysconfig.get_path("purelib"): PACKAGES_AT,
    str(REPOSITORY): CODE_AT,
}
INTERPRETER = os.path.realpath(sys.executable)
if OWN_PYTHON:
    INTERPRETER = INTERPRETER.replace(str(BASE.resolve()), PYTHON_AT, 1)


def program(module: str) -> str:
    """A shell script that runs a module of the code under test."""
    path = f"{CODE_AT}/runtime:{CODE_AT}/export:{PACKAGES_AT}"
    own = f"LD_LIBRARY_PATH={PYTHON_AT}/lib " if OWN_PYTHON else ""
    return f'#!/bin/sh\n{own}PYTHONPATH={path} exec {INTERPRETER} -m {module} "$@"\n'


def why_not() -> str:
    """Why no machine can be booted here; "" where one can."""
    if os.geteuid() != 0:
        return "a machine with systemd is booted as root: sudo ./tools/test tests/systemd"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not here: apt-get install systemd-container"
    if not Path("/bin").is_symlink():
        return "this machine's /bin is no link to /usr/bin, so its /usr alone does not boot"
    return ""


class Machine:
    """A root below `folder`, booted by `boot`.

    Args:
        usr: a tree to lay over /usr. files: further ones, by path from the root.
    """

    def __init__(self, folder: Path, usr: Path, files: dict[str, str] | None = None) -> None:
        self.root, self.usr = folder / "root", usr
        self.name = f"accrue-{secrets.token_hex(3)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self.console = folder / "console.txt"
        for name in ("etc", "var", "usr", "run", "tmp", "proc", "sys", "dev", "root", "opt"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in LINKS:
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(Path("/", name).readlink())
        first = {
            "etc/machine-id": f"{secrets.token_hex(16)}\n",
            "etc/hostname": "jetson-07\n",
            "etc/os-release": "ID=test\n",  # systemd-nspawn looks for it before /usr is there
            "etc/issue": "Debian \\n \\l\n",
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
            "etc/group": "root:x:0:\n",
        }
        for name, text in {**first, **(files or {})}.items():
            self.write(name, text)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of the root, by its path from there; while it runs, too."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def boot(self, *parameters: str) -> None:
        """Starts it, and waits until its manager answers."""
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"]
        words += [f"--directory={self.root}", f"--machine={self.name}", "--private-network"]
        words += ["--console=read-only", "--kill-signal=SIGRTMIN+3", "--link-journal=no"]
        words += [f"--overlay-ro=/usr:{self.usr}:/usr"]
        words += [f"--bind-ro={path}" for path in ("/etc/ld.so.cache", "/etc/alternatives")]
        words += [f"--bind-ro={here}:{there}" for here, there in BOUND.items()]
        words += ["systemd.unit=multi-user.target", *parameters]
        with self.console.open("ab") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        self.until(self._found, BOOT_S)
        self.until(lambda: self.run("systemctl", "is-system-running").stdout.strip()
                   in ("running", "degraded", "starting"), BOOT_S)  # fmt: skip

    def _found(self) -> bool:
        """Its first process: the child of systemd-nspawn."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"it did not boot: {self.console.read_text()[-3000:]}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for child in children.read_text().split():
            try:
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self._leader = int(child)
                    return True
            except OSError:
                continue
        return False

    def inside(self, *words: str) -> list[str]:
        """The words that run a command in it, as root."""
        enter = ["nsenter", f"--target={self._leader}", "--all"]
        return [*enter, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", *words]

    def run(self, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs a command in it; with `check`, one that has to succeed."""
        done = subprocess.run(
            self.inside(*words), capture_output=True, text=True, check=False, timeout=COMMAND_S
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        words = ["systemctl", "show", unit, *[f"--property={name}" for name in properties]]
        lines = self.run(*words).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str = "") -> str:
        return self.run(
            "journalctl", "--no-pager", "-o", "cat", *(["-u", unit] if unit else [])
        ).stdout

    def json(self, *words: str) -> Any:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def until(self, holds: Callable[[], Any], seconds: float = HOLDS_S) -> Any:
        """Waits for something to hold; its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.1)
        said = self.journal()[-6000:] if self._leader else self.console.read_text()[-3000:]
        raise AssertionError(f"it did not come to hold; the journal:\n{said}")

    def cut_power(self) -> None:
        """Everything in it is gone at once."""
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)  # the first process: the kernel kills the rest
            self._leader = 0
        if self._process is not None:
            self._process.wait(BOOT_S)
            self._process = None
