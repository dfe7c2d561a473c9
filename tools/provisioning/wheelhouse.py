"""The wheels of one kind of device, fetched on another: right processor, Python and C library.

pip takes a platform tag literally, and one tag alone yields an old wheel or none, so every tag that
the device's C library can load is given. What comes is looked into before it is believed: tags,
and the processor in the header of every library.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from accrue.errors import AccrueError, NotFound, Refused

ROOT = Path(__file__).resolve().parents[2]
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine in the ELF specification
OLDEST_GLIBC_MINOR = 17  # manylinux2014
# JetPack has them, tied to its own CUDA; a second one from the index would go before it.
NEVER = re.compile(r"tensorrt(-cu\d+|-lean|-dispatch|-libs|-bindings)*(-cu\d+)?|onnxruntime-gpu")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)\s*(?:;\s*(.+?))?\s*\\?$")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Target:
    """What wheels are for.

    Attributes:
        machine: as ``uname -m``. python: as "3.10". glibc: as "2.35".
        lock: file of ``requirements`` with what is installed. numpy: constraint; "" for any.
    """

    machine: str
    python: str
    glibc: str
    lock: str
    numpy: str = ""

    @property
    def platforms(self) -> list[str]:
        """Every platform tag that loads there, the newest first."""
        newest = int(self.glibc.split(".")[1])
        minors = range(newest, OLDEST_GLIBC_MINOR - 1, -1)
        return [
            *(f"manylinux_2_{minor}_{self.machine}" for minor in minors),
            f"manylinux2014_{self.machine}",
            f"linux_{self.machine}",
        ]

    @property
    def abi(self) -> str:
        return "cp" + self.python.replace(".", "")

    def tags(self) -> frozenset[Tag]:
        """That fit."""
        version = tuple(int(part) for part in self.python.split("."))
        return frozenset(
            (
                *cpython_tags(version, [self.abi], self.platforms),
                *compatible_tags(version, self.abi, self.platforms),
            )
        )

    def environment(self) -> dict[str, str]:
        """What markers are asked with."""
        return {
            **{"implementation_name": "cpython", "platform_python_implementation": "CPython"},
            **{"os_name": "posix", "platform_system": "Linux", "sys_platform": "linux"},
            **{"python_version": self.python, "python_full_version": f"{self.python}.99"},
            **{"platform_machine": self.machine, "extra": ""},
        }


@dataclass(frozen=True)
class Pin:
    """One package of a lock file."""

    name: str
    version: str
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Wheel:
    """A wheel that was looked into. `unpacked_bytes` is what it takes on the disk."""

    path: Path
    name: str
    version: str
    sha256: str
    unpacked_bytes: int


def pins(lock: Path, target: Target) -> list[Pin]:
    """The packages of a lock file that such a device installs."""
    environment = target.environment()
    logical = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    found = []
    for line in logical:
        words = line.split(" --hash=", 1)[0].strip()
        match = _PIN.match(words)
        if match is None or (match[3] and not Marker(match[3]).evaluate(environment)):
            continue
        found.append(Pin(canonicalize_name(match[1]), match[2], tuple(_HASH.findall(line))))
    return found


def fetch(target: Target, folder: Path, *, wheels: Path | None = None) -> list[Wheel]:
    """Fetches and checks the wheels of the target's lock file, and pip's own.

    Args:
        folder: empty, that takes them. wheels: folder to take them from instead of the index.

    Raises:
        AccrueError: pip cannot get them.
        Refused: one of them is not for the target.
    """
    listed = ROOT / "requirements"
    wanted = [
        *pins(listed / f"{target.lock}.txt", target),
        *(pin for pin in pins(listed / "provision.txt", target) if pin.name == "pip"),
    ]
    for pin in wanted:
        refuse_name(pin, target)
    lines = [
        f"{pin.name}=={pin.version} {' '.join(f'--hash={one}' for one in pin.hashes)}"
        for pin in wanted
    ]
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder)),
        *("--implementation", "cp", "--python-version", target.python),
        *(word for abi in (target.abi, "abi3", "none") for word in ("--abi", abi)),
        *(word for tag in target.platforms for word in ("--platform", tag)),
    ]
    if wheels is not None:
        if not wheels.is_dir():
            raise NotFound(f"no folder of wheels {wheels}", path=str(wheels))
        command += ["--no-index", "--find-links", str(wheels)]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        done = subprocess.run(
            [*command, "-r", str(file)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        last = (errors or done.stderr.splitlines() or ["pip said nothing"])[-1]
        where = f"in {wheels}" if wheels else "from the package index"
        raise AccrueError(
            f"the wheels for {target.machine}, Python {target.python} cannot be had {where}: "
            f"{last.removeprefix('ERROR: ')[:300]}",
            hint="is there a network? else name a folder that holds them: --wheels DIR",
        )
    found = [look(path, target) for path in sorted(folder.iterdir())]
    missing = {pin.name for pin in wanted} - {wheel.name for wheel in found}
    if missing:
        raise AccrueError(f"pip left out {', '.join(sorted(missing))}")
    return found


def refuse_name(pin: Pin, target: Target) -> None:
    """Refuses what must never be beside JetPack's own packages."""
    if NEVER.fullmatch(pin.name):
        raise Refused(
            f"{pin.name} must not be in a wheelhouse: the one of the system would be hidden by it",
            hint=f"take it out of requirements/{target.lock}.txt",
            found=pin.name,
        )
    if pin.name == "numpy" and target.numpy and pin.version not in SpecifierSet(target.numpy):
        raise Refused(
            f"requirements/{target.lock}.txt has numpy {pin.version}; this system needs "
            f"numpy {target.numpy}",
            hint="./tools/lock, with the constraint in the .in file",
            found=pin.version,
            expected=target.numpy,
        )


def look(path: Path, target: Target) -> Wheel:
    """Looks into a wheel. Raises Refused where it is not for the target."""
    name, version, _, tags = parse_wheel_filename(path.name)
    if not tags & target.tags():
        raise Refused(
            f"{path.name} does not fit {target.machine}, Python {target.python}, glibc "
            f"{target.glibc}",
            found=path.name,
            expected=target.platforms[0],
        )
    size = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            size += entry.file_size
            with archive.open(entry) as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF":
                machine = int.from_bytes(head[18:20], "little")
                if machine != ELF_MACHINES[target.machine]:
                    raise Refused(
                        f"{path.name} holds {entry.filename} for ELF machine {machine}; expected "
                        f"{ELF_MACHINES[target.machine]} ({target.machine})",
                        found=machine,
                        expected=ELF_MACHINES[target.machine],
                    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(path, name, str(version), digest, size)


def build_own(folder: Path, target: Target, epoch: int) -> Wheel:
    """The wheel of this checkout, the same bytes each time.

    Raises:
        AccrueError: it cannot be built.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )
    found = sorted(folder.glob("accrue-*.whl"))
    if done.returncode or not found:
        last = (done.stderr.splitlines() or ["hatchling said nothing"])[-1]
        raise AccrueError(f"the wheel of Accrue cannot be built: {last}")
    return look(found[0], target)


def requirements(wheels: list[Wheel]) -> Iterator[str]:
    """Lines of a requirements.txt with exactly these wheels. pip itself is not installed."""
    for wheel in sorted(wheels, key=lambda wheel: wheel.name):
        if wheel.name != "pip":
            yield f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}"
