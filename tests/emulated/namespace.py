"""Runs a command in a root folder, in namespaces of its own: users, mounts and processes.

    namespace.py ROOT QEMU COMMAND...

QEMU runs programs of another processor; empty for this one's. Since Linux 6.7 a user namespace has
its own binfmt_misc, so nothing is registered on the machine itself. Who kills this process kills
everything in it at once, as a power cut does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

NEW_USERS, NEW_MOUNTS, NEW_PROCESSES = 0x10000000, 0x00020000, 0x20000000  # sched.h
PARENT_DEATH = 1  # PR_SET_PDEATHSIG
ELF = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
NODES = ("null", "zero", "random", "urandom")
libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    libc.prctl(PARENT_DEATH, signal.SIGKILL)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def enter(root: str, qemu: str, words: list[str]) -> None:
    """Becomes the command."""
    if qemu:
        mount("-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc")
        with open("/proc/sys/fs/binfmt_misc/register", "w") as register:  # noqa: PTH123
            register.write(f":arm64:M::{ELF}:{MASK}:{qemu}:FP")
    mount("-t", "proc", "none", f"{root}/proc")
    for node in NODES:
        with open(f"{root}/dev/{node}", "a"):  # noqa: PTH123
            pass
        mount("--bind", f"/dev/{node}", f"{root}/dev/{node}")
    os.chroot(root)
    os.chdir("/")
    kept = {key: os.environ[key] for key in os.environ if key.startswith("ACCRUE_")}
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    os.execvpe(words[0], words, {**kept, **path, "DEBIAN_FRONTEND": "noninteractive"})


def main() -> int:
    root, qemu, *words = sys.argv[1:]
    ready, mapped = os.pipe(), os.pipe()
    middle = os.fork()
    if middle == 0:
        die_with_parent()
        if libc.unshare(NEW_USERS | NEW_MOUNTS | NEW_PROCESSES):
            raise OSError(ctypes.get_errno(), "unshare")
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        first = os.fork()
        if first == 0:
            die_with_parent()
            enter(root, qemu, words)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{middle}/{name}", "w") as file:  # noqa: PTH123
            file.write("0 0 65536\n")
    os.write(mapped[1], b"x")
    return os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1]) & 255


if __name__ == "__main__":
    sys.exit(main())
