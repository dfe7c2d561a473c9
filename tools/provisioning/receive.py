#!/usr/bin/python3 -I
"""On a device: puts what `tools/provision ssh` has copied into place, and installs it.

    python3 -I receive.py FOLDER ID     FOLDER holds `root`, the staged tree; ID is of its payload

Standard library alone. Each file is exchanged by one rename; what was there is kept until the
release is installed, and put back where it is not. Run twice, it changes nothing the second time.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

BASE = Path("/usr/lib/accrue")
SETTINGS = "etc/accrue/accrue.yaml"
UNITS = ("accrue.service", "accrue-backup.timer")


def say(text: str) -> None:
    print(f"accrue: {text}", file=sys.stderr, flush=True)


def call(*words: str) -> int:
    return subprocess.run(words, check=False, stdin=subprocess.DEVNULL, stdout=2).returncode


def put(source: Path, target: Path) -> None:
    """A copy with its mode, by one rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.incoming")
    temporary.unlink(missing_ok=True)
    if source.is_symlink():
        temporary.symlink_to(source.readlink())
    else:
        shutil.copyfile(source, temporary)
        temporary.chmod(source.stat().st_mode & 0o755)
    temporary.replace(target)


def same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return (
        other.is_file()
        and filecmp.cmp(one, other, shallow=False)
        and (one.stat().st_mode ^ other.stat().st_mode) & 0o755 == 0
    )


class Exchange:
    """Files that were put into place, and what was there before.

    Args:
        before: folder that takes what was there.
    """

    def __init__(self, before: Path) -> None:
        self.before = before
        self._replaced: list[tuple[Path, Path]] = []
        self._made: list[Path] = []

    def put(self, source: Path, target: Path) -> None:
        if same(source, target):
            return
        if target.is_symlink() or target.exists():
            kept = self.before / target.relative_to("/")
            put(target, kept)
            self._replaced.append((kept, target))
        else:
            self._made.append(target)
        put(source, target)

    @property
    def changed(self) -> int:
        return len(self._replaced) + len(self._made)

    def back(self) -> None:
        for kept, target in self._replaced:
            put(kept, target)
        for target in self._made:
            target.unlink(missing_ok=True)


def on_disk(folder: Path) -> None:
    """Sees to it that a power cut leaves what is in a folder, before it gets its name."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def running() -> bool:
    return Path("/run/systemd/system").is_dir()


def ready_system() -> None:
    """Accounts, folders, and the units that start at boot."""
    call("systemd-sysusers", "accrue.conf")
    call("systemd-tmpfiles", "--create", "accrue.conf")
    if running():
        call("systemctl", "daemon-reload")
    call("systemctl", "--quiet", "enable", *UNITS)


def receive(folder: Path, identifier: str) -> int:
    root, payloads = folder / "root", BASE / "payload"
    exchange = Exchange(folder / "before")
    payload, incoming = payloads / identifier, root / "usr/lib/accrue/payload" / identifier
    try:
        shutil.rmtree(payload, ignore_errors=True)  # of a run before, perhaps damaged
        payloads.mkdir(parents=True, exist_ok=True)
        on_disk(incoming)
        incoming.rename(payload)
        for source in sorted(root.rglob("*")):
            if source.is_dir() and not source.is_symlink():
                continue
            name = source.relative_to(root)
            target = Path("/") / name
            if source.is_relative_to(root / "usr/lib/accrue/payload"):
                continue
            if str(name) == SETTINGS and target.exists():
                continue  # they are the device's own
            exchange.put(source, target)
        ready_system()
        code = call(str(BASE / "accrue-release"), "install", str(payload), "--trial")
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        code = 1
    if code != 0:
        exchange.back()
        shutil.rmtree(payload, ignore_errors=True)
        if running():
            call("systemctl", "daemon-reload")
        say("not installed; the files of the system are as they were")
        return code
    for other in payloads.iterdir():
        if other.name != identifier:
            shutil.rmtree(other, ignore_errors=True)
    say(f"{exchange.changed} files of the system changed")
    return 0


def main() -> int:
    # The connection may go at any moment; what was begun is finished or taken back all the same.
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    folder = Path(sys.argv[1])
    try:
        return receive(folder, sys.argv[2])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
