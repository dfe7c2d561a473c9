"""Debian in a folder: for arm64 under qemu, for this processor under its own systemd.

The roots are made once, by mmdebstrap, and kept beside the environments of `tools/test`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("ACCRUE_ENVIRONMENTS", REPOSITORY)) / ".venv-emulated"
# usr-is-merged in the place of usrmerge, which brings perl and works for a minute, to no effect.
SUITE, INCLUDED = "bookworm", ("libstdc++6", "python3", "systemd", "usr-is-merged")
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
NAMESPACE = Path(__file__).with_name("namespace.py")
LIMIT_S = 600.0
# qemu 7.2 loses a signal once in a while, and a shell that waits for its child then waits for ever
# (seen here in sigsuspend). To what runs in there it is a power cut: the command is given again.
TRIES = 2


def require(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return found


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("a file system of its own is made as root: sudo ./tools/test tests/emulated")


def qemu() -> str:
    """The emulator, installed or taken out of its package. Installing it is not needed, and would
    register it on the machine where binfmt-support is there."""
    if platform.machine() == "aarch64":
        return ""
    if installed := shutil.which("qemu-aarch64-static"):
        return installed
    kept = CACHE / "qemu/usr/bin/qemu-aarch64-static"
    if not kept.is_file():
        require("apt-get", "apt")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            got = subprocess.run(
                ["apt-get", "download", "qemu-user-static"],
                cwd=scratch,
                capture_output=True,
                text=True,
                check=False,
            )
            packages = list(Path(scratch).glob("*.deb"))
            if got.returncode or not packages:
                pytest.skip("qemu is missing: apt-get install qemu-user-static")
            subprocess.run(["dpkg-deb", "-x", packages[0], CACHE / "qemu"], check=True)
    return str(kept)


def namespaces_work() -> None:
    """Skips where a user namespace has no binfmt_misc of its own."""
    try_it = ["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *try_it],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(
            f"no binfmt_misc of its own in a user namespace (Linux 6.7 or newer; this is "
            f"{platform.release()}): {done.stderr.strip()}"
        )


def root_archive(architecture: str) -> Path:
    """A minimal Debian as a tar, made where it is not kept yet."""
    require("mmdebstrap", "mmdebstrap")
    stamp = hashlib.sha256(json.dumps([SUITE, INCLUDED, architecture]).encode()).hexdigest()[:8]
    kept = CACHE / f"{SUITE}-{architecture}-{stamp}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:  # of two processes of tests one makes it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_file():
            _make_root(kept, architecture)
    return kept


def _make_root(kept: Path, architecture: str) -> None:
    draft = kept.with_suffix(".part.tar")
    words = ["mmdebstrap", "--mode=root", f"--architectures={architecture}", "--quiet"]
    words += ["--variant=essential", f"--include={','.join(INCLUDED)}", f"--hook-dir={MERGED}"]
    words += ["--skip=check/qemu", "--aptopt=APT::Sandbox::User root"]
    words += ["--dpkgopt=force-unsafe-io", SUITE, str(draft)]
    emulator = qemu() if architecture == "arm64" else ""
    if emulator:
        words = [sys.executable, str(NAMESPACE), "/", emulator, *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        draft.unlink(missing_ok=True)
        raise AssertionError(f"mmdebstrap failed: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    draft.replace(kept)


class Root:
    """A Debian below `folder`.

    Args:
        emulator: that runs its programs; "" where this processor does.
    """

    def __init__(self, archive: Path, folder: Path, emulator: str = "") -> None:
        self.path, self.emulator = folder, emulator
        folder.mkdir(parents=True)
        words = ["tar", "--extract", f"--file={archive}", f"--directory={folder}"]
        subprocess.run([*words, "--numeric-owner", "--preserve-permissions"], check=True)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(NAMESPACE), str(self.path), self.emulator, *words]

    def run(
        self, *words: str, limit_s: float = LIMIT_S, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        for _ in range(TRIES):
            with suppress(subprocess.TimeoutExpired):
                return subprocess.run(
                    self.command(*words),
                    check=False,
                    capture_output=True,
                    text=True,
                    stdin=subprocess.DEVNULL,
                    timeout=limit_s,
                    env={**os.environ, **environment},
                )
        raise AssertionError(f"{words} hung {TRIES} times for {limit_s:.0f} s")

    def do(self, *words: str, limit_s: float = LIMIT_S, **environment: str) -> str:
        """What it printed; it must succeed."""
        done = self.run(*words, limit_s=limit_s, **environment)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def take(self, source: Path, name: str) -> str:
        """Copies a file or folder into it; its path there."""
        target = self.path / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)
        return f"/{name.lstrip('/')}"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.do("accrue-release", "status", "--json"))
        return found


class Machine:
    """A root that is booted: its first process is its own systemd."""

    def __init__(self, root: Root, log: Path) -> None:
        self.root, self.log = root, log
        self._leader = 0
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"]
        words += [f"--directory={self.root.path}", "--private-network", "--console=read-only"]
        words += ["--kill-signal=SIGRTMIN+3", "--link-journal=no", "systemd.unit=multi-user.target"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.until(self._found)
        self.until(
            lambda: (
                self.run("systemctl", "is-system-running").stdout.strip()
                in ("running", "degraded", "starting")
            )
        )

    def _found(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]
        process = self._process.pid
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            name = Path(f"/proc/{child}/comm")
            if name.is_file() and name.read_text().strip() == "systemd":
                self._leader = int(child)
                return True
        return False

    def run(self, *words: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._leader}", "--all", "--wd=/", "/usr/bin/env", "-i"]
        return subprocess.run(
            [*enter, "PATH=/usr/sbin:/usr/bin", "DEBIAN_FRONTEND=noninteractive", *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=limit_s,
        )

    def do(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.do("accrue-release", "status", "--json"))
        return found

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.2)
        raise AssertionError(f"it did not come to hold: {self.log.read_text(errors='replace')}")

    def cut_power(self) -> None:
        """Everything in it is gone at once."""
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
            self._leader = 0
        if self._process is not None:
            self._process.wait(60)
            self._process = None
