"""The Debian package: the payload, and scripts that install it and take it away again.

What was taught stays through every one of them. The package itself holds no environment: one is
made from the wheels on the device, beside the release that runs there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from accrue.errors import AccrueError, NotFound
from provisioning.archive import normalise
from provisioning.payload import UNITS, Plan, Staged, payload_files, stage

PACKAGE = "accrue"
ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
CONFFILES = ("/etc/accrue/accrue.yaml",)


def build_package(out: Path, plan: Plan) -> tuple[Path, Staged]:
    """The package of a plan, in the folder `out`; the same plan gives the same bytes.

    Raises:
        NotFound: this machine has no dpkg-deb.
        AccrueError: dpkg-deb says no.
    """
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise NotFound("dpkg-deb is missing here", hint="sudo apt-get install dpkg")
    out.mkdir(parents=True, exist_ok=True)
    architecture = ARCHITECTURES[plan.board.architecture]
    system = plan.system.name.lower().replace(" ", "-")
    path = out / f"{PACKAGE}_{plan.version}_{plan.board.name}_{system}_{architecture}.deb"
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        root.chmod(0o755)
        staged = stage(root, plan)
        _control(root, plan, staged, architecture)
        normalise(root, plan.epoch)
        draft = Path(scratch) / path.name
        # The wheels are packed already; unpacked members read alike by every dpkg.
        done = subprocess.run(
            [tool, "--root-owner-group", "-Znone", "--build", str(root), str(draft)],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(plan.epoch), "LC_ALL": "C.UTF-8"},
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise AccrueError(f"dpkg-deb cannot build {path.name}: {last}")
        draft.replace(path)
    return path, staged


def _control(root: Path, plan: Plan, staged: Staged, architecture: str) -> None:
    """DEBIAN: what dpkg reads."""
    folder = root / "DEBIAN"
    listed = [path for path in payload_files(root) if not path.is_symlink()]
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(root).as_posix()}"
        for path in listed
    ]
    major, minor = (int(part) for part in plan.system.python.split("."))
    folder.mkdir()
    folder.chmod(0o755)
    fields = {
        "Package": PACKAGE,
        "Version": plan.version,
        "Architecture": architecture,
        "Maintainer": "Accrue <root@localhost>",
        "Installed-Size": str(-(-staged.bytes // 1024)),
        "Depends": ", ".join(
            (
                f"python3 (>= {major}.{minor}~)",
                f"python3 (<< {major}.{minor + 1}~)",
                f"libc6 (>= {plan.system.glibc})",
                "libstdc++6",
                "systemd",
            )
        ),
        "Section": "science",
        "Priority": "optional",
        "Description": f"teach a camera new classes on the device itself\n"
        f" Made for {plan.board.title}, {plan.system.name}, with everything\n"
        f" that it needs from the Python package index. Release {staged.id}.",
    }
    _script(folder / "control", "".join(f"{k}: {v}\n" for k, v in fields.items()), 0o644)
    _script(folder / "conffiles", "".join(f"{path}\n" for path in CONFFILES), 0o644)
    _script(folder / "md5sums", "\n".join(sums) + "\n", 0o644)
    values = {"payload": staged.folder, "units": " ".join(UNITS)}
    for name, text in (("postinst", _POSTINST), ("prerm", _PRERM), ("postrm", _POSTRM)):
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        _script(folder / name, text, 0o755)


def _script(path: Path, text: str, mode: int) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


# Units are enabled once: what an operator has disabled stays so through upgrades.
# Installs the payload beside the release that runs. Where that does not become healthy, the release
# before runs again and dpkg is told that this package is not configured.
_POSTINST = """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
systemd-sysusers accrue.conf
systemd-tmpfiles --create accrue.conf || true
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
[ -n "$2" ] || systemctl --quiet enable @units@ || true
/usr/lib/accrue/accrue-release install @payload@ --trial
"""

_PRERM = """#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then systemctl stop 'accrue*' || true; fi
systemctl --quiet disable @units@ || true
/usr/lib/accrue/accrue-release remove
"""

_POSTRM = """#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
case "$1" in remove | purge) rm -f /etc/issue.d/50-accrue.issue ;; *) exit 0 ;; esac
[ "$1" = purge ] || exit 0
rmdir --ignore-fail-on-non-empty /etc/accrue/credentials /etc/accrue 2>/dev/null || true
if [ -d /var/lib/accrue ]; then
    echo "What was taught stays in /var/lib/accrue. To delete it for good:"
    echo "  sudo rm -r /var/lib/accrue /etc/accrue"
fi
"""
