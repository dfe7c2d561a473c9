"""A device that is reached over SSH, on this machine: a real sshd in a root of its own.

The root is this machine's, under an overlay: what is installed there is gone with the mount, and
nothing of it is seen outside. What NVIDIA's or Debian's system would say of itself is written into
it. No systemd runs in there, so a release is installed and not started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from accrue.sync.local_broker import free_port

DEADLINE_S = 30.0
FRESH = ("usr/lib/accrue", "opt/accrue", "etc/accrue", "var/lib/accrue")
OS = 'ID=debian\nVERSION_ID="12"\n'
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile /etc/ssh/accrue-test-keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile {folder}/pid
LogLevel ERROR
"""
# The folders that the tests share with the device are bound into it, all else is its own.
START = """\
set -e
mount --make-rprivate /
mount -t tmpfs none {mount}
mkdir {mount}/upper {mount}/work {mount}/root
mount -t overlay none -o lowerdir=/,upperdir={mount}/upper,workdir={mount}/work {mount}/root
cd {mount}/root
mount --bind {folder} .{folder}
mount -t proc none proc
mount --bind /dev dev
mount -t tmpfs none run
mkdir -p run/sshd
rm -rf {fresh}
rm -f usr/bin/accrue usr/bin/accrue-fleet usr/sbin/accrue-release
rm -f etc/systemd/system/multi-user.target.wants/accrue.service
install -m 644 {folder}/key.pub etc/ssh/accrue-test-keys
rm -f etc/os-release && cp {folder}/os-release etc/os-release
if [ -e {folder}/nv_tegra_release ]; then cp {folder}/nv_tegra_release etc/; fi
exec chroot . /usr/sbin/sshd -D -e -f {folder}/config
"""


class Machine:
    """Attributes:
    port. key, known_hosts: for ssh. host: as ssh takes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.key, self.known_hosts = folder / "key", folder / "known_hosts"
        self.host = "root@127.0.0.1"
        self._process: subprocess.Popen[bytes] | None = None
        self.os_release = OS

    def start(self) -> None:
        """Skips the test where this machine cannot."""
        if shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists():
            pytest.skip("no sshd here: apt-get install openssh-server; ./tools/test installs it")
        if os.geteuid() != 0:
            pytest.skip("a root of its own needs root: sudo ./tools/test tests/provision")
        folder = self.folder
        (folder / "mount").mkdir(parents=True)
        for name in ("key", "host"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        public = (folder / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        (folder / "config").write_text(CONFIG.format(port=self.port, folder=folder))
        (folder / "os-release").write_text(self.os_release)
        script = START.format(folder=folder, mount=folder / "mount", fresh=" ".join(FRESH))
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--", "sh", "-c", script], stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                said = (folder / "log").read_text(errors="replace").strip()
                pytest.skip(f"no root of its own can be made here (unshare, overlay): {said}")
            if self.ssh("true", check=False).returncode == 0:
                return
            time.sleep(0.2)
        raise AssertionError((folder / "log").read_text(errors="replace"))

    def ssh(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs something on it, past the program under test."""
        return subprocess.run(
            [
                *("ssh", "-p", str(self.port), "-i", str(self.key), "-o", "BatchMode=yes"),
                *("-o", f"UserKnownHostsFile={self.known_hosts}", self.host, script),
            ],
            capture_output=True,
            text=True,
            check=check,
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None
            self._log.close()
