"""A Linux_for_Tegra as NVIDIA's tools leave it, in small; its scripts write down what is asked."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from accrue.board import Board, System

RECORD = """#!/bin/sh
# Writes down where it was called, as what, with which words.
python3 - "$0" "$@" <<'EOF' >> {log}
import json, os, sys
print(json.dumps({{"tool": sys.argv[1], "words": sys.argv[2:], "in": os.getcwd()}}))
EOF
"""
# As NVIDIA's script does: an account with the next number, the host name, the wizard's link gone.
CREATE_USER = """
user= name=
while [ $# -gt 0 ]; do
    case $1 in
        -u) user=$2; shift ;;
        -n) name=$2; shift ;;
        -p) password=$2; shift ;;
    esac
    shift
done
[ -e "$(dirname "$0")/fail" ] && { echo "no space left on device" >&2; exit 3; }
cd "$(dirname "$0")/../rootfs"
echo "$user:x:1000:1000::/home/$user:/bin/bash" >> etc/passwd
echo "$user:$(openssl passwd -6 "$password"):19000:0:99999:7:::" >> etc/shadow
mkdir -p "home/$user"
echo "$name" > etc/hostname
rm -f etc/systemd/system/default.target
"""
TOOLS = ("flash.sh", "l4t_initrd_flash.sh", "tools/kernel_flash/l4t_initrd_flash.sh")
DEFAULT_SHADOW = "root:*:19000:0:99999:7:::\nvideo:!:19000::::::\n"


class FakeTegra:
    """Attributes:
    folder: of it. rootfs. log: what was asked of it.
    """

    def __init__(self, folder: Path, l4t: str = "36.4.3", python: str = "3.10") -> None:
        self.folder = folder / "Linux_for_Tegra"
        self.rootfs = self.folder / "rootfs"
        self._log = folder / "asked"
        major, _, revision = l4t.partition(".")
        for name in TOOLS:
            self.script(name, RECORD.format(log=self._log))
        record = RECORD.format(log=self._log)
        self.script("tools/l4t_create_default_user.sh", record + CREATE_USER)
        for name in ("kernel/Image", "bootloader/l4t_initrd.img", "kernel/dtb/board.dtb"):
            self.file(name, f"{name}\n")
        for name in ("flash_l4t_t234_nvme.xml",):
            self.file(f"tools/kernel_flash/{name}", "<partition_layout/>\n")
        self.file("bootloader/generic/cfg/flash_t234_qspi.xml", "<partition_layout/>\n")
        for conf in (
            *("jetson-orin-nano-devkit", "jetson-orin-nano-devkit-super"),
            *("jetson-agx-orin-devkit", "jetson-agx-thor-devkit"),
        ):
            self.file(f"{conf}.conf", "# board\n")
        for link in ("bin", "lib", "sbin"):
            (self.rootfs / "usr" / link).mkdir(parents=True)
            (self.rootfs / link).symlink_to(f"usr/{link}")
        text = f"# R{major} (release), REVISION: {revision or '0'}, GCID: 1, BOARD: generic\n"
        self.file("rootfs/etc/nv_tegra_release", text)
        self.file("rootfs/boot/Image", "kernel/Image\n")
        self.file("rootfs/boot/initrd", "initrd\n")
        self.script(f"rootfs/usr/bin/python{python}", "#!/bin/sh\n")
        self.script("rootfs/usr/sbin/sshd", "#!/bin/sh\n")
        self.file("rootfs/etc/passwd", "root:x:0:0::/root:/bin/bash\nvideo:x:44:44::/:/bin/false\n")
        self.file("rootfs/etc/group", "root:x:0:\noperator:x:37:\nvideo:x:44:\n")
        self.file("rootfs/etc/shadow", DEFAULT_SHADOW)
        (self.rootfs / "etc/shadow").chmod(0o640)
        (self.rootfs / "home").mkdir()
        self.file("rootfs/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\ttegra-ubuntu\n")
        self.file("rootfs/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        self.file("rootfs/etc/ssh/ssh_host_ed25519_key", "PRIVATE KEY of all devices\n")
        self.file("rootfs/etc/ssh/ssh_host_ed25519_key.pub", "public\n")
        for target in ("nv-oem-config.target", "multi-user.target"):
            self.file(f"rootfs/usr/lib/systemd/system/{target}", "[Unit]\n")
        default = self.rootfs / "etc/systemd/system/default.target"
        default.parent.mkdir(parents=True)
        default.symlink_to("/lib/systemd/system/nv-oem-config.target")

    @classmethod
    def of(cls, folder: Path, board: Board, system: System) -> FakeTegra:
        return cls(folder, system.l4t[-1], system.python)

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def script(self, name: str, text: str) -> None:
        self.file(name, text).chmod(0o755)

    @property
    def asked(self) -> list[dict[str, object]]:
        """Calls of its scripts, oldest first."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def snapshot(self) -> dict[str, object]:
        """Every path of the root file system with its mode and content."""
        found: dict[str, object] = {}
        for path in sorted(self.rootfs.rglob("*")):
            name = path.relative_to(self.rootfs).as_posix()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[name] = stat.S_IMODE(path.stat().st_mode)
            else:
                found[name] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        return found
