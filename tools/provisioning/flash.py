#!/usr/bin/python3 -I
"""Applies an overlay to NVIDIA's Linux_for_Tegra, and says how the board is flashed then.

This file is the `apply` of an overlay: it runs on the machine that flashes, which has NVIDIA's
tools and Python 3.10 and nothing of ours. So it needs nothing but the standard library.

    sudo ./apply --l4t Linux_for_Tegra --storage nvme --hostname box-0001 --user admin \\
        --enrolment box-0001.enrolment

Everything is looked at before anything is written: the tree, the board, the overlay. What will be
done is shown, and asked for. It is done whole or, where it fails, taken back. Nothing is fetched,
and no board is touched unless --flash is given.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import filecmp
import getpass
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT = "overlay/1"
DESCRIPTION, TAR = "overlay.json", "rootfs.tar.gz"
RECORD = "usr/lib/accrue/overlay.json"  # in the tree: what was applied, so that it can be taken out
CREDENTIALS, ENROLMENT = "etc/accrue/credentials", "etc/accrue/credentials/enrolment"
SETTINGS = "etc/accrue/accrue.yaml"
ROOTS = ("etc", "opt", "usr", "var")
WIZARD = "nv-oem-config.target"
INITRD_TOOL = "tools/kernel_flash/l4t_initrd_flash.sh"
BOARD_ID = "nvautoflash.sh"
MARGIN_BYTES = 256 << 20
MOST_MEMBERS, LARGEST_TEXT_BYTES = 100_000, 1 << 16
USAGE, NOT_FOUND, CONFLICT, REFUSED, INTERRUPTED = 2, 3, 5, 6, 130
GUESSED = ("accrue", "admin", "jetson", "nvidia", "password", "raspberry", "root", "ubuntu", "")
HOST_KEYS = """\
# No host key is in the image, or all devices would have the same: each makes its own.
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
"""
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\"accrue\": *\"enrolment/")
_EEPROM = re.compile(r"\b(?:p?(3701|3767|3834))[-/: ]+(\d{4})\b")


class Problem(Exception):
    """One line for whoever flashes: what was found and expected, and what to type."""

    def __init__(self, message: str, hint: str = "", *, code: int = 1) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- how a board is flashed ---------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What a flash command is for.

    Attributes:
        l4t: of the tree, as "36.4.3". storage: nvme, sd, usb or emmc.
        super: with the configuration that allows the higher power modes.
        prepared: make the images first, write them later.
        massflash: as many boards at once, 0: one by one. fab, sku, revision: of the boards' EEPROM,
            which has to be known beforehand where images are made without a board.
    """

    l4t: str
    storage: str
    super: bool = False
    prepared: bool = False
    massflash: int = 0
    fab: str = ""
    sku: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Command:
    """One command, typed in Linux_for_Tegra (`folder` empty) or in what the one before made."""

    words: tuple[str, ...]
    what: str
    folder: str = ""

    @property
    def line(self) -> str:
        return " ".join(_quoted(word) for word in self.words)


def _quoted(word: str) -> str:
    """As a person would type it: NAME=value stays, what has a space gets quotes."""
    return word if re.fullmatch(r"[\w./=:+,@%-]+", word) else f'"{word}"'


def begins(version: str, prefixes: Sequence[str]) -> bool:
    """Whether a version is one of these or begins with one: 36.4.3 with 36.4, not with 36.40."""
    parts = version.split(".")
    return any(parts[: len(p)] == p for p in (prefix.split(".") for prefix in prefixes))


def commands(name: str, flash: Mapping[str, Any], choice: Choice) -> list[Command]:
    """The exact commands for a board.

    Args:
        name: of the board. flash: section `flash` of its description (device_configs).

    Raises:
        Problem: it is not known how, with what is known; or a fact of the EEPROM is missing.
    """
    if not flash.get("ways"):
        raise Problem(
            f"{name} is not flashed by NVIDIA's tools",
            "install the package instead: tools/provision deb, or tools/provision ssh",
            code=USAGE,
        )
    ways = [way for way in flash["ways"] if begins(choice.l4t, way["l4t"])]
    if not ways:
        known = sorted({prefix for way in flash["ways"] for prefix in way["l4t"]})
        raise Problem(
            f"it is not known how {name} is flashed with L4T {choice.l4t}; known: "
            f"L4T {', '.join(known)}",
            "take the BSP of another JetPack, or see device_configs",
            code=CONFLICT,
        )
    way = next((way for way in ways if way["storage"] == choice.storage), None)
    if way is None:
        storages = ", ".join(dict.fromkeys(way["storage"] for way in ways))
        raise Problem(
            f"it is not known how {name} is flashed to {choice.storage} with L4T {choice.l4t}; "
            f"known: {storages}",
            f"for example --storage {ways[0]['storage']}",
            code=CONFLICT,
        )
    targets = [t for t in flash["targets"] if begins(choice.l4t, t["l4t"])]
    target = next((t for t in targets if bool(t["super"]) == choice.super), None)
    if target is None:
        raise Problem(
            f"L4T {choice.l4t} has no {'Super' if choice.super else 'plain'} configuration for "
            f"{name}",
            "leave --super out" if choice.super else "add --super",
            code=CONFLICT,
        )
    conf, root = str(target["conf"]), str(way["root"])
    tool, arguments = str(way["tool"]), [str(word) for word in way["arguments"]]
    if choice.massflash or choice.prepared:
        if tool == "flash.sh":  # it writes at once; the other tool makes images
            tool = INITRD_TOOL
        if "--network" not in arguments:
            arguments = [*arguments, "--network", "usb0"]
    words = [f"./{tool}", *arguments]
    end = [conf, root]
    if choice.massflash:
        known = _eeprom(name, flash, choice)
        many = ["--massflash", str(choice.massflash)]
        made = f"mfi_{conf}"
        return [
            Command(
                ("sudo", *known, words[0], "--no-flash", *many, *words[1:], *end),
                "makes the images once, without a board",
            ),
            Command(("sudo", "tar", "xpf", f"{made}.tar.gz"), "unpacks them, here or elsewhere"),
            Command(
                ("sudo", words[0], "--flash-only", *many, "--network", "usb0"),
                f"writes them to {choice.massflash} boards at once; again for the next ones",
                made,
            ),
        ]
    if choice.prepared:
        known = _eeprom(name, flash, choice)
        return [
            Command(
                ("sudo", *known, words[0], "--no-flash", *words[1:], *end),
                "makes the images, without a board",
            ),
            Command(
                ("sudo", words[0], "--flash-only", *words[1:], *end),
                "writes them; needs no network, and can be done again for each board",
            ),
        ]
    return [Command(("sudo", *words, *end), "makes the images and writes them")]


def _eeprom(name: str, flash: Mapping[str, Any], choice: Choice) -> list[str]:
    """What the tools otherwise read from the board. Raises Problem where it is not known."""
    skus = [str(sku) for sku in flash.get("board_skus", ())]
    sku = choice.sku or (skus[0] if len(skus) == 1 else "")
    fab = choice.fab or str(flash.get("fab", ""))
    if choice.sku and skus and choice.sku not in skus:
        raise Problem(
            f"{name} has SKU {' or '.join(skus)}; --sku says {choice.sku}",
            "look at a board: sudo ./nvautoflash.sh --print_boardid",
            code=CONFLICT,
        )
    missing = [flag for flag, value in (("--sku", sku), ("--fab", fab)) if not value]
    if missing:
        said = f"; {name} is {' or '.join(skus)}" if not sku and skus else ""
        raise Problem(
            f"images are made without a board, so {' and '.join(missing)} must be given{said}",
            "read them from one board: sudo ./nvautoflash.sh --print_boardid",
            code=USAGE,
        )
    return [
        f"BOARDID={flash['board_id']}",
        f"BOARDSKU={sku}",
        f"FAB={fab}",
        f"BOARDREV={choice.revision}",
    ]


# ---- the tree -----------------------------------------------------------------------------------


class Tree:
    """A Linux_for_Tegra.

    Attributes:
        folder: of it. rootfs: what will be the root file system of the device.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rootfs = folder / "rootfs"

    @property
    def l4t(self) -> str:
        """As "36.4.3". Raises Problem."""
        if not (self.folder / "flash.sh").is_file():
            raise Problem(
                f"{self.folder} is no Linux_for_Tegra: flash.sh is missing",
                "unpack the BSP: tar xjf Jetson_Linux_R..._aarch64.tbz2",
                code=NOT_FOUND,
            )
        path = self.rootfs / "etc/nv_tegra_release"
        if not path.is_file():
            empty = not (self.rootfs / "etc").is_dir()
            raise Problem(
                f"{path} is missing: "
                + ("the root file system is empty" if empty else "the BSP is not in it yet"),
                "sudo tar xpjf Tegra_Linux_Sample-Root-Filesystem_R..._aarch64.tbz2 -C "
                f"{self.rootfs}"
                if empty
                else f"cd {self.folder} && sudo ./apply_binaries.sh",
                code=NOT_FOUND,
            )
        found = _RELEASE.search(path.read_text(errors="replace"))
        if found is None:
            raise Problem(f"{path} names no release", "unpack the BSP again", code=CONFLICT)
        return f"{found[1]}.{found[2]}"

    def lacks(self, flash: Mapping[str, Any], made: Sequence[Command]) -> list[str]:
        """What an image that can be flashed needs and this tree does not have."""
        found = []
        for name in ("kernel/Image", "bootloader/l4t_initrd.img"):
            if not (self.folder / name).is_file():
                found.append(f"{name} is missing: the BSP is not complete")
        for name in ("kernel/dtb", "bootloader"):
            if not _holds(self.folder / name):
                found.append(f"{name} is empty: the BSP is not complete")
        for name in ("boot/Image", "boot/initrd"):
            if not (self.rootfs / name).is_file():
                found.append(f"rootfs/{name} is missing: run apply_binaries.sh")
        image, copied = self.folder / "kernel/Image", self.rootfs / "boot/Image"
        if image.is_file() and copied.is_file() and not filecmp.cmp(image, copied, shallow=False):
            found.append("rootfs/boot/Image is not kernel/Image: run apply_binaries.sh")
        for name in ("bin", "lib", "sbin"):
            if not (self.rootfs / name).is_symlink():
                found.append(f"rootfs/{name} is no link to usr/{name}: unpack the root file system")
        command = made[0]
        tool = next(word for word in command.words if word.startswith("./"))
        if not os.access(self.folder / tool, os.X_OK):
            found.append(f"{tool} is missing: the BSP is not complete")
        conf = f"{command.words[-2]}.conf"
        if not (self.folder / conf).is_file():
            found.append(f"{conf} is missing: this BSP does not know the board")
        words = [inner for word in command.words for inner in shlex.split(word)]
        for before, word in pairwise(words):
            if before == "-c" and word.endswith(".xml") and not (self.folder / word).is_file():
                found.append(f"{word} is missing: the BSP is not complete")
        if not (self.folder / "tools/l4t_create_default_user.sh").is_file():
            found.append("tools/l4t_create_default_user.sh is missing: the BSP is not complete")
        return found


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


# ---- the overlay --------------------------------------------------------------------------------


def member_problem(member: tarfile.TarInfo) -> str:
    """Why a member must not be in an overlay; "" where it may.

    An entry below `lib`, `bin` or `sbin` would replace the link of a merged-usr system by a folder,
    and the device would not boot.
    """
    name = member.name
    path = PurePosixPath(name)
    if name.startswith("/") or ".." in path.parts or str(path) != name or not path.parts:
        return f"{name!r} leads out of the tree"
    if path.parts[0] not in ROOTS:
        return f"{name} is below /{path.parts[0]}; expected {', '.join(ROOTS)}"
    if member.uid or member.gid:
        return f"{name} belongs to {member.uid}:{member.gid}; expected 0:0"
    if member.issym():
        if not member.linkname.startswith("/"):
            depth = 0
            for part in PurePosixPath(path.parent, member.linkname).parts:
                depth += -1 if part == ".." else 1
                if depth < 0:
                    return f"{name} leads out of the tree: {member.linkname}"
        return ""
    if not (member.isreg() or member.isdir()):
        return f"{name} is neither a file nor a folder nor a link"
    if member.mode & ~0o755:
        return f"{name} has mode {member.mode:04o}; expected at most 0755"
    if member.isdir() and member.mode & 0o700 != 0o700:
        return f"{name} has mode {member.mode:04o}; its owner cannot use it"
    if member.isreg() and path.is_relative_to(CREDENTIALS) and member.size:
        return f"{name} is a secret of one device; an overlay is for many"
    return ""


def secret_problem(name: str, data: bytes) -> str:
    """Why the beginning of a file must not be in an image for many devices; "" where it may."""
    if _PRIVATE_KEY.search(data):
        return f"{name} holds a private key"
    return ""


def members_of(file: Path) -> list[tarfile.TarInfo]:
    """All of them, each looked at. Raises Problem."""
    try:
        with tarfile.open(file, "r:gz") as tar:
            found = []
            for member in tar:
                found.append(member)
                problem = member_problem(member)
                if not problem and member.isreg() and member.size <= LARGEST_TEXT_BYTES:
                    source = tar.extractfile(member)
                    assert source is not None
                    problem = secret_problem(member.name, source.read())
                if problem or len(found) > MOST_MEMBERS:
                    raise Problem(
                        f"{file}: {problem or 'too many entries'}", "make it again", code=REFUSED
                    )
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise Problem(f"{file} cannot be read: {error}", "copy the overlay again") from None
    return found


@dataclass(frozen=True)
class Overlay:
    """A folder with `overlay.json`, `rootfs.tar.gz` and this program.

    Attributes:
        board, title: of the board. jetpack: as "6.2". l4t: beginnings of what it is for.
        python: of that system. flash: section of the board's description.
    """

    folder: Path
    id: str
    board: str
    title: str
    jetpack: str
    l4t: tuple[str, ...]
    python: str
    sha256: str
    flash: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Overlay:
        """Raises Problem."""
        path = folder / DESCRIPTION
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["accrue"] != FORMAT:
                raise Problem(
                    f"{path} is of format {found['accrue']!r}; this program reads {FORMAT}",
                    "use the `apply` that is beside it",
                )
            return cls(
                folder,
                *(str(found[key]) for key in ("id", "board", "title", "jetpack")),
                tuple(str(one) for one in found["l4t"]),
                str(found["python"]),
                str(found["sha256"]),
                dict(found["flash"]),
            )
        except FileNotFoundError:
            raise Problem(
                f"{path} is missing", "run `apply` in the folder of the overlay", code=NOT_FOUND
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Problem(f"{path} cannot be read: {error}", "copy the overlay again") from None

    @property
    def tar(self) -> Path:
        return self.folder / TAR

    def verify(self) -> list[tarfile.TarInfo]:
        """Raises Problem where it is not what its description says."""
        digest = hashlib.sha256()
        try:
            with self.tar.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise Problem(f"{self.tar} cannot be read: {error.strerror}", code=NOT_FOUND) from None
        if digest.hexdigest() != self.sha256:
            raise Problem(f"{self.tar} is damaged: another SHA-256", "copy the overlay again")
        return members_of(self.tar)


# ---- what will be done --------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        password: of the first user, never shown. enrolment: bytes of a file of one device.
        ssh_keys: public keys that the first user is let in by.
    """

    choice: Choice
    hostname: str
    user: str
    password: str = field(repr=False)
    enrolment: bytes = field(default=b"", repr=False)
    ssh_keys: str = ""


@dataclass(frozen=True)
class Plan:
    """What is done once it is agreed to."""

    overlay: Overlay
    tree: Tree
    wanted: Wanted
    members: list[tarfile.TarInfo] = field(repr=False)
    commands: list[Command]
    has_user: bool

    def lines(self) -> Iterator[str]:
        choice = self.wanted.choice
        files = sum(member.isreg() for member in self.members)
        yield f"board       {self.overlay.title}, L4T {choice.l4t}, to {choice.storage}"
        yield f"overlay     {self.overlay.id}: {files} files into {self.tree.rootfs}"
        yield f"host name   {self.wanted.hostname}"
        made = "gets the password given" if self.has_user else "is made, with the password given"
        yield f"first user  {self.wanted.user} {made}; the wizard of the first boot is off"
        if self.wanted.enrolment:
            yield f"identity    {enrolled_as(self.wanted.enrolment)}, for this one device"
        for command in self.commands:
            where = f"cd {command.folder} && " if command.folder else ""
            yield f"then        {where}{command.line}"


def plan(overlay: Overlay, tree: Tree, wanted: Wanted) -> Plan:
    """Looks at everything; writes nothing. Raises Problem."""
    choice = wanted.choice
    if not begins(choice.l4t, overlay.l4t):
        raise Problem(
            f"this overlay is for JetPack {overlay.jetpack} (L4T {', '.join(overlay.l4t)}); "
            f"{tree.folder} has L4T {choice.l4t}",
            f"make one for it: tools/provision overlay --board {overlay.board} --jetpack ...",
            code=CONFLICT,
        )
    made = commands(overlay.board, overlay.flash, choice)
    lacking = tree.lacks(overlay.flash, made)
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise Problem(
            f"{tree.folder} is not ready: {lacking[0]}{more}",
            f"cd {tree.folder} && sudo ./tools/l4t_flash_prerequisites.sh && "
            f"sudo ./apply_binaries.sh {' '.join(overlay.flash.get('apply_binaries', ()))}".strip(),
            code=CONFLICT,
        )
    python = tree.rootfs / f"usr/bin/python{overlay.python}"
    if not python.exists():
        raise Problem(
            f"{tree.rootfs} has no Python {overlay.python}, which JetPack {overlay.jetpack} brings",
            "take NVIDIA's sample root file system of this release, flavour desktop or basic",
            code=CONFLICT,
        )
    if not _HOSTNAME.fullmatch(wanted.hostname):
        raise Problem(
            f"{wanted.hostname!r} is no host name; expected a-z, 0-9 and -, at most 63",
            "for example --hostname box-0001",
            code=USAGE,
        )
    taken = _account(tree.rootfs, wanted.user)
    if not _USER.fullmatch(wanted.user) or (taken is not None and taken < 1000):
        raise Problem(
            f"{wanted.user!r} cannot be the first user"
            + (f": the system has it with number {taken}" if taken is not None else ""),
            "for example --user operator",
            code=USAGE,
        )
    if len(wanted.password) < 8 or wanted.password.lower() in (*GUESSED, wanted.user):
        raise Problem(
            "the password is too short or one that everybody tries; expected 8 or more characters",
            "give another with --password-file, or type it when asked",
            code=USAGE,
        )
    if wanted.enrolment:
        enrolled = enrolled_as(wanted.enrolment)
        if choice.massflash or choice.prepared:
            raise Problem(
                f"the identity of {enrolled} is for one device; these images are for many",
                "leave --enrolment out, and give each device its own later: docs/provision.md",
                code=CONFLICT,
            )
        if enrolled != wanted.hostname:
            raise Problem(
                f"the enrolment is for {enrolled}; the host name is {wanted.hostname}",
                f"--hostname {enrolled}",
                code=CONFLICT,
            )
    members = overlay.verify()
    for member in members:
        _require_free(tree.rootfs, member)
    needed = sum(member.size for member in members) + MARGIN_BYTES
    free = shutil.disk_usage(tree.rootfs).free
    if free < needed:
        raise Problem(
            f"{tree.rootfs} needs {needed >> 20} MiB; {free >> 20} MiB are free",
            "make room, and run it again",
        )
    return Plan(overlay, tree, wanted, members, made, taken is not None)


def enrolled_as(data: bytes) -> str:
    """The name in an enrolment. Raises Problem where it is none."""
    try:
        found = json.loads(data)
        if not str(found["accrue"]).startswith("enrolment/"):
            raise ValueError
        return str(found["name"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Problem(
            "this is no enrolment of a device",
            "make it: tools/provision identities",
            code=USAGE,
        ) from None


def _account(rootfs: Path, user: str) -> int | None:
    """The number of an account of the root file system."""
    for line in _lines(rootfs / "etc/passwd"):
        fields = line.split(":")
        if fields[0] == user and len(fields) > 3 and fields[2].isdigit():
            return int(fields[2])
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _require_free(rootfs: Path, member: tarfile.TarInfo) -> None:
    """Raises Problem where a member would go through a link, or take the place of another kind."""
    path = PurePosixPath(member.name)
    for parent in list(path.parents)[-2::-1]:
        at = rootfs / parent
        if at.is_symlink() or (at.exists() and not at.is_dir()):
            raise Problem(f"{at} is no folder; the overlay has {member.name}", code=CONFLICT)
    at = rootfs / path
    if member.isdir():
        fits = not at.is_symlink() and (at.is_dir() or not at.exists())
    elif member.issym():
        fits = at.is_symlink() or not at.exists()
    else:
        fits = not at.is_symlink() and (at.is_file() or not at.exists())
    if not fits:
        raise Problem(f"{at} is something else than the overlay has there", code=CONFLICT)


# ---- doing it -----------------------------------------------------------------------------------


class Undo:
    """What was done to the tree, so that a failure takes it back."""

    def __init__(self, rootfs: Path) -> None:
        self.rootfs = rootfs
        self._steps: list[Callable[[], object]] = []

    def keep(self, path: Path) -> None:
        """Remembers a path as it is: a file with its bytes, a link, or that nothing is there."""
        if path.is_symlink():
            target = path.readlink()
            self._steps.append(lambda: (path.unlink(missing_ok=True), path.symlink_to(target)))
        elif path.is_file():
            status, data = path.stat(), path.read_bytes()
            self._steps.append(lambda: _write(path, data, stat.S_IMODE(status.st_mode), status))
        elif not path.exists():
            self._steps.append(lambda: _vanish(path))

    def back(self) -> None:
        for step in reversed(self._steps):
            try:
                step()
            except OSError as error:
                note(f"apply: could not be taken back: {error}")
        self._steps.clear()


def _vanish(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes, mode: int, owner: os.stat_result | None = None) -> None:
    """Whole or not at all, in the place of a link too. What a killed run left is written over."""
    temporary = path.with_name(f".{path.name}.accrue-new")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as out:
            out.write(data)
            os.fchmod(out.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(out.fileno(), owner.st_uid if owner else 0, owner.st_gid if owner else 0)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _folder(path: Path, mode: int, undo: Undo) -> None:
    if not path.is_dir():
        _folder(path.parent, 0o755, undo)
        undo.keep(path)
        path.mkdir()
        path.chmod(mode)


def execute(
    made: Plan, run: Callable[[Sequence[str], Path], int], say: Callable[[str], None] = note
) -> None:
    """Does it. Raises Problem; the tree is as it was then."""
    undo = Undo(made.tree.rootfs)
    try:
        say(f"apply: unpacking {made.overlay.id}")
        _unpack(made, undo)
        say(f"apply: host name {made.wanted.hostname}, first user {made.wanted.user}")
        _first_user(made, run, undo)
        _identity(made, undo)
        _clean(made, undo)
        wrong = staged_problems(made.tree.rootfs, made.members, made.wanted.user)
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise Problem(f"the tree is not as it must be: {wrong[0]}{more}", code=REFUSED)
    except BaseException as error:
        undo.back()
        if isinstance(error, OSError):
            raise Problem(
                f"{error.filename or made.tree.rootfs}: {error.strerror}; all was taken back",
                "make room, and run it again" if error.errno == 28 else "",
            ) from None
        raise


def _unpack(made: Plan, undo: Undo) -> None:
    rootfs = made.tree.rootfs
    before = _record(rootfs)
    files = {}
    with tarfile.open(made.overlay.tar, "r:gz") as tar:
        for member in made.members:
            path = rootfs / member.name
            if member.isdir():
                _folder(path, member.mode, undo)
                continue
            _folder(path.parent, 0o755, undo)
            if member.issym():
                files[member.name] = ""
                undo.keep(path)
                path.unlink(missing_ok=True)
                path.symlink_to(member.linkname)
                continue
            source = tar.extractfile(member)
            assert source is not None
            data = source.read()
            files[member.name] = hashlib.sha256(data).hexdigest()
            if member.name == SETTINGS and path.exists():
                present = hashlib.sha256(path.read_bytes()).hexdigest()
                if present not in (files[member.name], before.get(member.name)):
                    note(f"apply: {path} was changed by hand and stays as it is")
                    continue
            if _is(path, data, member.mode):
                continue
            undo.keep(path)
            _write(path, data, member.mode)
    for name in before:  # of another overlay that was applied before
        if name not in files and (rootfs / name).is_symlink() | (rootfs / name).is_file():
            undo.keep(rootfs / name)
            (rootfs / name).unlink()
    record = {"accrue": FORMAT, "id": made.overlay.id, "board": made.overlay.board, "files": files}
    undo.keep(rootfs / RECORD)
    _folder((rootfs / RECORD).parent, 0o755, undo)
    _write(rootfs / RECORD, (json.dumps(record, indent=1) + "\n").encode(), 0o644)


def _is(path: Path, data: bytes, mode: int) -> bool:
    """Whether a file is there already, as a second run finds it."""
    if not path.is_file():
        return False
    status = path.stat()
    right = (stat.S_IMODE(status.st_mode), status.st_size) == (mode, len(data))
    owned = os.geteuid() != 0 or (status.st_uid, status.st_gid) == (0, 0)
    return right and owned and path.read_bytes() == data


def _record(rootfs: Path) -> dict[str, str]:
    """The files of the overlay that was applied before; none where there was none."""
    try:
        found = json.loads((rootfs / RECORD).read_text())["files"]
        return {
            name: digest
            for name, digest in found.items()
            if PurePosixPath(name).parts[0] in ROOTS and ".." not in PurePosixPath(name).parts
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}


def _first_user(made: Plan, run: Callable[[Sequence[str], Path], int], undo: Undo) -> None:
    """By NVIDIA's own script, which also turns the wizard of the first boot off. The password that
    it gets on its command line, which others on this machine can see, is made up and replaced at
    once by the hash of the real one."""
    rootfs, wanted = made.tree.rootfs, made.wanted
    for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid", "hostname", "hosts"):
        undo.keep(rootfs / "etc" / name)
    default = rootfs / "etc/systemd/system/default.target"
    undo.keep(default)
    undo.keep(rootfs / "home" / wanted.user)
    if not made.has_user:
        words = ["./tools/l4t_create_default_user.sh", "-u", wanted.user]
        words += ["-p", secrets.token_urlsafe(18), "-n", wanted.hostname, "--accept-license"]
        code = run(words, made.tree.folder)
        if code != 0:
            raise Problem(
                f"NVIDIA's l4t_create_default_user.sh ended with {code}; everything was taken back",
                "what it printed is above",
            )
        if _account(rootfs, wanted.user) is None:
            raise Problem(
                f"NVIDIA's l4t_create_default_user.sh made no user {wanted.user}; everything was "
                "taken back",
                "what it printed is above",
            )
    if default.is_symlink() and default.readlink().name == WIZARD:
        default.unlink()
    _write(rootfs / "etc/hostname", f"{wanted.hostname}\n".encode(), 0o644)
    hosts = [line for line in _lines(rootfs / "etc/hosts") if not line.startswith("127.0.1.1")]
    text = "\n".join([*hosts, f"127.0.1.1\t{wanted.hostname}", ""])
    _write(rootfs / "etc/hosts", text.encode(), 0o644)
    shadow = rootfs / "etc/shadow"
    hashed = hash_of(wanted.password)
    lines = []
    for line in _lines(shadow):
        fields = line.split(":")
        if fields[0] == wanted.user:
            fields[1] = hashed
        lines.append(":".join(fields))
    if not any(line.startswith(f"{wanted.user}:") for line in lines):
        raise Problem(
            f"{shadow} has no line for {wanted.user}; everything was taken back",
            "unpack the root file system anew",
        )
    status = shadow.stat()
    text = "\n".join([*lines, ""])
    _write(
        shadow,
        text.encode("utf-8", "surrogateescape"),
        stat.S_IMODE(status.st_mode) & 0o640,
        status,
    )


def _identity(made: Plan, undo: Undo) -> None:
    rootfs, wanted = made.tree.rootfs, made.wanted
    at = rootfs / ENROLMENT
    _folder(at.parent, 0o700, undo)
    at.parent.chmod(0o700)
    undo.keep(at)
    if wanted.enrolment:
        _write(at, wanted.enrolment, 0o600)
    else:
        at.unlink(missing_ok=True)  # of the device that was flashed before
    if wanted.ssh_keys:
        number = _account(rootfs, wanted.user)
        assert number is not None
        folder = rootfs / "home" / wanted.user / ".ssh"
        _folder(folder, 0o700, undo)
        undo.keep(folder / "authorized_keys")
        _write(folder / "authorized_keys", wanted.ssh_keys.encode(), 0o600)
        if os.geteuid() == 0:
            for path in (folder, folder / "authorized_keys"):
                os.chown(path, number, number)


def _clean(made: Plan, undo: Undo) -> None:
    """What would be the same on all devices goes, and each makes its own."""
    rootfs = made.tree.rootfs
    machine = rootfs / "etc/machine-id"
    undo.keep(machine)
    _write(machine, b"", 0o444)  # empty, not absent: absent would enable every unit there is
    bus = rootfs / "var/lib/dbus/machine-id"
    if bus.is_file() and not bus.is_symlink():
        undo.keep(bus)
        bus.unlink()
    for path in (rootfs / "etc/.updated", rootfs / "var/.updated"):
        if path.is_file():  # with it, the first boot may leave our accounts and folders unmade
            undo.keep(path)
            path.unlink()
    for key in sorted((rootfs / "etc/ssh").glob("ssh_host_*_key*")):
        undo.keep(key)
        key.unlink()
    if (rootfs / "usr/sbin/sshd").exists():
        drop_in = rootfs / "etc/systemd/system/ssh.service.d/accrue-host-keys.conf"
        _folder(drop_in.parent, 0o755, undo)
        undo.keep(drop_in)
        _write(drop_in, HOST_KEYS.encode(), 0o644)


# ---- the staged tree ----------------------------------------------------------------------------


def staged_problems(rootfs: Path, members: Sequence[tarfile.TarInfo], user: str) -> list[str]:
    """What is wrong with a tree that is about to be an image: owners, modes, links, the wizard,
    the machine's id, host keys, passwords that everybody knows."""
    found = [
        f"/{name} is no link to usr/{name} any more"
        for name in ("bin", "lib", "sbin")
        if not (rootfs / name).is_symlink() or (rootfs / name).readlink() != Path("usr", name)
    ]
    root = os.geteuid() == 0
    for member in members:
        path = rootfs / member.name
        try:
            status = path.lstat()
        except FileNotFoundError:
            found.append(f"/{member.name} is missing")
            continue
        if root and (status.st_uid, status.st_gid) != (0, 0):
            found.append(f"/{member.name} belongs to {status.st_uid}:{status.st_gid}, not to root")
        if member.issym():
            if not path.is_symlink() or str(path.readlink()) != member.linkname:
                found.append(f"/{member.name} is not the link that the overlay has")
        elif status.st_mode & 0o022 or (member.isreg() and status.st_mode & 0o7000):
            mode = stat.S_IMODE(status.st_mode)
            found.append(f"/{member.name} has mode {mode:04o}: others may change it")
    default = rootfs / "etc/systemd/system/default.target"
    if default.is_symlink() and default.readlink().name == WIZARD:
        found.append("the wizard of the first boot is armed: it would wait for a keyboard")
    if default.is_symlink() and not _inside(rootfs, default).exists():
        found.append(f"default.target leads to {default.readlink()}, which is not there")
    machine = rootfs / "etc/machine-id"
    if not machine.is_file() or machine.read_bytes().strip():
        found.append("/etc/machine-id is not empty: all devices would have the same")
    found += [f"/etc/ssh/{key.name} is a host key: all devices would have the same"
              for key in sorted((rootfs / "etc/ssh").glob("ssh_host_*_key"))]  # fmt: skip
    credentials = rootfs / CREDENTIALS
    if credentials.is_dir() and stat.S_IMODE(credentials.stat().st_mode) != 0o700:
        found.append(f"/{CREDENTIALS} may be read by others; expected mode 0700")
    if credentials.is_dir():
        found += [
            f"/{CREDENTIALS}/{one.name} may be read by others; expected mode 0600"
            for one in sorted(credentials.iterdir())
            if one.stat().st_mode & 0o077
        ]
    found += list(_passwords(rootfs, user))
    return found


def _inside(rootfs: Path, link: Path) -> Path:
    """Where a link leads when rootfs is the root."""
    target = link.readlink()
    return rootfs / target.relative_to("/") if target.is_absolute() else link.parent / target


def _passwords(rootfs: Path, user: str) -> Iterator[str]:
    for line in _lines(rootfs / "etc/shadow"):
        name, _, rest = line.partition(":")
        hashed = rest.partition(":")[0]
        if not hashed:
            yield f"{name} can log in without a password"
        elif hashed[0] in "!*":
            continue
        elif any(crypt(word, hashed) == hashed for word in (*GUESSED, name)):
            yield f"the password of {name} is one that everybody tries"
    if not any(line.startswith(f"{user}:$") for line in _lines(rootfs / "etc/shadow")):
        yield f"{user} has no password, so nobody could log in"


def crypt(password: str, setting: str) -> str:
    """crypt(3); "" where the library or the method is not here."""
    name = ctypes.util.find_library("crypt") or "libcrypt.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return ""
    library.crypt.restype = ctypes.c_char_p
    found = library.crypt(password.encode(), setting.encode())
    return found.decode() if found else ""


def hash_of(password: str) -> str:
    """SHA-512 of a new salt, as /etc/shadow has it. Raises Problem."""
    found = crypt(password, f"$6${secrets.token_hex(8)}")
    if not found.startswith("$6$"):
        raise Problem(
            "the password cannot be hashed: libcrypt is missing", "apt-get install libcrypt1"
        )
    return found


# ---- flashing -----------------------------------------------------------------------------------


def in_recovery(flash: Mapping[str, Any], usb: Path = Path("/sys/bus/usb/devices")) -> list[str]:
    """USB ids of attached boards of this kind in recovery mode."""
    found = []
    for device in sorted(usb.glob("*")):
        try:
            vendor = (device / "idVendor").read_text().strip()
            product = (device / "idProduct").read_text().strip()
        except OSError:
            continue
        if f"{vendor}:{product}" in flash.get("recovery_usb", ()):
            found.append(f"{vendor}:{product}")
    return found


def board_disagrees(name: str, flash: Mapping[str, Any], printed: str) -> str:
    """What nvautoflash.sh read from the board's EEPROM against the description; "" where it does
    not say otherwise. What it does not tell is no disagreement."""
    found = _EEPROM.search(printed)
    if found is None:
        return ""
    if found[1] != flash["board_id"] or found[2] not in flash["board_skus"]:
        expected = " or ".join(f"{flash['board_id']}-{sku}" for sku in flash["board_skus"])
        return f"the board is {found[1]}-{found[2]}; {name} is {expected}"
    return ""


# ---- the program --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="apply", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--l4t", type=Path, required=True, metavar="DIR", help="Linux_for_Tegra.")
    top.add_argument("--storage", choices=("nvme", "sd", "usb", "emmc"), default="nvme")
    top.add_argument("--super", action="store_true", help="With the higher power modes.")
    top.add_argument("--hostname", metavar="NAME", help="Else that of the enrolment, or `accrue`.")
    top.add_argument("--user", default="operator", metavar="NAME", help="First user: `operator`.")
    top.add_argument("--password-file", type=Path, metavar="FILE", help="Its password; else asked.")
    top.add_argument("--ssh-key", type=Path, metavar="FILE", help="Public keys that may log in.")
    top.add_argument("--enrolment", type=Path, metavar="FILE", help="Identity of this one device.")
    top.add_argument("--prepared", action="store_true", help="Make images now, write them later.")
    top.add_argument("--massflash", type=int, default=0, metavar="N", help="N boards at once.")
    top.add_argument("--sku", default="", metavar="SKU", help="BOARDSKU, as in 0005.")
    top.add_argument("--fab", default="", metavar="FAB", help="FAB, as in 300.")
    top.add_argument("--revision", default="", metavar="REV", help="BOARDREV, as in J.0.")
    top.add_argument("--check", action="store_true", help="Look and print, change nothing.")
    top.add_argument("--flash", action="store_true", help="Then also flash the attached board.")
    top.add_argument("--yes", action="store_true", help="Do not ask.")
    top.add_argument("--json", action="store_true", help="The outcome as JSON on stdout.")
    return top


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"no {what} {path}: {error.strerror}", code=NOT_FOUND) from None


def _asked(question: str) -> bool:
    if not sys.stdin.isatty():
        raise Problem("it is asked before anything is done", "add --yes", code=USAGE)
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _password(words: argparse.Namespace) -> str:
    if words.password_file is not None:
        text = _read(words.password_file, "password file").decode(errors="replace")
        return (text.splitlines() or [""])[0]
    if not sys.stdin.isatty():
        raise Problem("the first user needs a password", "--password-file FILE", code=USAGE)
    return getpass.getpass(f"password of {words.user}: ", stream=sys.stderr)


def _run(words: Sequence[str], folder: Path) -> int:
    sys.stderr.flush()
    return subprocess.run(words, cwd=folder, check=False, stdout=2).returncode  # 2: stderr


def apply(words: argparse.Namespace, here: Path) -> dict[str, Any]:
    """Raises Problem."""
    overlay, tree = Overlay.read(here), Tree(words.l4t.absolute())
    choice = Choice(
        tree.l4t,
        words.storage,
        words.super,
        words.prepared,
        words.massflash,
        words.fab,
        words.sku,
        words.revision,
    )
    if words.massflash < 0 or words.massflash > 100:
        raise Problem(f"--massflash {words.massflash}; expected 1 to 100", code=USAGE)
    enrolment = _read(words.enrolment, "enrolment") if words.enrolment else b""
    enrolled = enrolled_as(enrolment) if words.enrolment else ""
    hostname = words.hostname or enrolled or "accrue"
    if not words.check and os.geteuid() != 0:
        raise Problem("this needs root, for owners and modes", "sudo ./apply ...", code=4)
    password = secrets.token_urlsafe(18) if words.check else _password(words)
    keys = _read(words.ssh_key, "public key").decode(errors="replace") if words.ssh_key else ""
    if "PRIVATE KEY" in keys:
        raise Problem(f"{words.ssh_key} is a private key; expected the .pub beside it", code=USAGE)
    made = plan(overlay, tree, Wanted(choice, hostname, words.user, password, enrolment, keys))
    for line in made.lines():
        note(line)
    outcome = {
        "board": overlay.board,
        "jetpack": overlay.jetpack,
        "l4t": choice.l4t,
        "storage": choice.storage,
        "hostname": hostname,
        "user": words.user,
        "commands": [{"line": c.line, "folder": c.folder, "what": c.what} for c in made.commands],
        "applied": False,
        "flashed": False,
    }
    if words.check:
        return outcome
    if not words.yes and not _asked("Apply it?"):
        raise Problem("nothing was done", code=INTERRUPTED)
    execute(made, _run)
    outcome["applied"] = True
    if words.flash:
        _flash(made, words)
        outcome["flashed"] = True
    return outcome


def _flash(made: Plan, words: argparse.Namespace) -> None:
    """Raises Problem: the tree is ready all the same."""
    flash, name = made.overlay.flash, made.overlay.board
    if words.massflash or words.prepared:
        raise Problem("--flash is for one board, at once", "type the commands above", code=USAGE)
    attached = in_recovery(flash)
    if len(attached) != 1:
        raise Problem(
            f"{len(attached)} boards in recovery mode (USB {', '.join(flash['recovery_usb'])}); "
            "expected one. The tree is ready",
            "hold the recovery button while it gets power, then: " + made.commands[0].line,
            code=NOT_FOUND,
        )
    if (made.tree.folder / BOARD_ID).is_file():
        asked = subprocess.run(
            [f"./{BOARD_ID}", "--print_boardid"],
            cwd=made.tree.folder,
            check=False,
            capture_output=True,
            text=True,
        )
        problem = board_disagrees(name, flash, asked.stdout)
        if problem:
            raise Problem(
                f"{problem}; nothing was flashed", "attach the right board", code=CONFLICT
            )
    command = made.commands[0]
    if not words.yes and not _asked(
        f"Everything on the {words.storage} of the board is lost. Flash it?"
    ):
        raise Problem("nothing was flashed; the tree is ready", code=INTERRUPTED)
    code = _run(command.words[1:], made.tree.folder)  # without sudo: this is root
    if code != 0:
        raise Problem(
            f"{command.words[1]} ended with {code}; what it printed is above",
            "put the board into recovery mode again, then: " + command.line,
        )


def main(arguments: Sequence[str] | None = None, here: Path | None = None) -> int:
    """Runs one call; the exit code."""
    words = parser().parse_args(arguments)
    try:
        outcome = apply(words, here or Path(__file__).resolve().parent)
    except Problem as problem:
        note(f"apply: {problem.message}")
        if problem.hint:
            note(f"  {problem.hint}")
        if words.json:
            error = {"message": problem.message, "hint": problem.hint}
            print(json.dumps({"schema": 1, "error": error}, indent=2))
        return problem.code
    except KeyboardInterrupt:
        note("apply: interrupted; everything was taken back")
        return INTERRUPTED
    if words.json:
        print(json.dumps({"schema": 1, **outcome}, indent=2))
        return 0
    if outcome["applied"] and not outcome["flashed"]:
        note("apply: the tree is ready. Put the board into recovery mode, and type there:")
    for command in outcome["commands"]:
        if not outcome["flashed"]:
            folder = Path(words.l4t.absolute(), command["folder"])
            print(f"cd {folder} && {command['line']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
