"""What this device is: one frozen description, which every choice of an encoder is made from.

Reading takes a root folder, so that a recorded tree of files reads like the device it came from.
Nothing here raises for what is not there: an absent file is a fact too.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
)
SMI_LIMIT_S = 10
_SYSTEM = re.compile(r"/usr(/local)?/lib/python3[^/]*/dist-packages")
_NORMAL = re.compile(r"[-_.]+")
# Of the compatible string of the system on chip; every Orin is 8.7.
_CHIPS = {"nvidia,tegra194": "7.2", "nvidia,tegra234": "8.7", "nvidia,tegra264": "11.0"}
# NVIDIA's JetPack archive; releases that share an L4T are told apart by the package alone.
_JETPACKS = (
    ((36, 2), "6.0"),
    ((36, 3), "6.0"),
    ((36, 4, 0), "6.1"),
    ((36,), "6.2"),
    ((38, 2), "7.0"),
    ((38,), "7.1"),
    ((39,), "7.2"),
    ((35,), "5"),
    ((32,), "4"),
)


@dataclass(frozen=True)
class Package:
    """An installed Python package.

    Attributes:
        name, version: as its metadata says.
        folder: that holds it.
        system: it belongs to the operating system (dist-packages), as JetPack's TensorRT does.
        hidden: a package of the same name goes before it.
    """

    name: str
    version: str
    folder: str = ""
    system: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU.

    Attributes:
        name: as CUDA has it, or the chip of a Jetson.
        compute_capability: as "8.7"; "" where it could not be asked.
        sm_count: streaming multiprocessors that are on; a power mode can turn some off. 0 where
            it could not be asked.
        usable: CUDA answered, so that a kernel can run.
    """

    name: str
    compute_capability: str = ""
    sm_count: int = 0
    usable: bool = False


@dataclass(frozen=True)
class Device:
    """A device as it stands.

    Attributes:
        machine: of the processor, as ``uname -m``.
        model: of the board; "" where the firmware tells none.
        l4t: NVIDIA's Linux for Tegra as "36.4.3"; "" where it is no Jetson.
        jetpack: as "6.2"; from its package, else from `l4t`; "" where it is no Jetson.
        python, cuda: versions; "" for no CUDA.
        tensorrt_system: version that the operating system's package manager has for Python.
        gpu: None where there is no NVIDIA GPU.
        packages: of `PACKAGES`, in the order of the search path, hidden ones after what hides them.
        providers: of ONNX Runtime.
        memory_total_bytes, memory_available_bytes: of the system, which a Jetson's GPU shares.
        compatible: entries of the device tree, most telling first; () where there is none.
        tnspec: what a Jetson was flashed as; "" where it is not told.
        os: as "ubuntu-22.04". glibc: as "2.35". "" where it is not told.
        cpus: cores that it has, also those that a power mode turned off; 0 where it is not told.
    """

    machine: str
    python: str
    model: str = ""
    l4t: str = ""
    jetpack: str = ""
    cuda: str = ""
    tensorrt_system: str = ""
    gpu: Gpu | None = None
    packages: tuple[Package, ...] = ()
    providers: tuple[str, ...] = ()
    memory_total_bytes: int = 0
    memory_available_bytes: int = 0
    compatible: tuple[str, ...] = ()
    tnspec: str = ""
    os: str = ""
    glibc: str = ""
    cpus: int = 0

    def package(self, name: str) -> Package | None:
        """The one that Python imports."""
        return next((p for p in self.packages if p.name == name and not p.hidden), None)

    def hidden(self, name: str) -> Package | None:
        return next((p for p in self.packages if p.name == name and p.hidden), None)

    def version_of(self, name: str) -> str:
        """The full version of a package; JetPack's metadata may leave out the last number."""
        found = self.package(name)
        if found is None:
            return ""
        full = self.tensorrt_system
        longer = name == "tensorrt" and found.system and full.startswith(f"{found.version}.")
        return full if longer else found.version

    @property
    def gpu_title(self) -> str:
        """The GPU in a few words; "" where there is none."""
        found = self.gpu
        return f"{found.name} (SM {found.compute_capability or 'unknown'})" if found else ""

    @property
    def jetson(self) -> bool:
        return bool(self.l4t)

    def document(self) -> dict[str, Any]:
        """As JSON; `from_document` reads it back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Device:
        values = dict(document)
        gpu = values.pop("gpu", None)
        packages = tuple(Package(**p) for p in values.pop("packages", ()))
        for name in ("providers", "compatible"):
            values[name] = tuple(values.get(name, ()))
        return cls(gpu=Gpu(**gpu) if gpu else None, packages=packages, **values)


def major_minor(version: str) -> tuple[int, int]:
    """(10, 3) of "10.3.0.30"; zeros where there are no numbers."""
    found = [int(part) for part in re.findall(r"\d+", version)[:2]]
    return (*found, 0, 0)[:2]  # type: ignore[return-value]


def describe(
    root: Path = Path("/"),
    *,
    search: Sequence[str] | None = None,
    ask_cuda: Callable[[], Gpu | None] | None = None,
    ask_smi: Callable[[], str] | None = None,
    ask_providers: Callable[[], Iterable[str]] | None = None,
) -> Device:
    """This device.

    Args:
        root: folder that stands for ``/``.
        search: folders where Python looks for packages; default: its own.
        ask_cuda: gives the GPU as CUDA sees it; default: by ``cuda-python`` where it is installed.
        ask_smi: gives what ``nvidia-smi`` prints about the GPU; default: runs it.
        ask_providers: gives those of ONNX Runtime; default: imports it.
    """
    l4t = _l4t(root)
    smi = _of_smi((ask_smi or _run_smi)())
    gpu = (ask_cuda or _ask_cuda)() or smi[0] or _of_tree(root)
    system = ("nvidia-jetpack", "python3-libnvinfer")
    installed = _dpkg(root, system) if l4t or gpu else {}  # a large file, of no use without one
    total, available = _memory(root)
    return Device(
        machine=platform.machine(),
        python=platform.python_version(),
        model=_text(root / "proc/device-tree/model").strip("\0\n "),
        l4t=l4t,
        jetpack=_upstream(installed.get("nvidia-jetpack", "")) or _jetpack(l4t),
        cuda=_cuda(root) or smi[1],
        tensorrt_system=_upstream(installed.get("python3-libnvinfer", "")),
        gpu=gpu,
        packages=installed_packages(sys.path if search is None else search),
        providers=tuple((ask_providers or _ask_providers)()),
        memory_total_bytes=total,
        memory_available_bytes=available,
        compatible=_compatible(root),
        tnspec=_tnspec(root),
        os=_os(root),
        glibc=platform.libc_ver()[1],
        cpus=_cpus(root),
    )


def installed_packages(search: Sequence[str]) -> tuple[Package, ...]:
    """Those of `PACKAGES` in these folders; a later one of the same name is hidden."""
    found: list[Package] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(entry or "." for entry in search):
        for distribution in importlib.metadata.distributions(path=[folder]):
            name = _NORMAL.sub("-", distribution.metadata["Name"] or "").lower()
            if name not in PACKAGES:
                continue
            system = _SYSTEM.search(folder) is not None
            found.append(Package(name, distribution.version, folder, system, name in seen))
            seen.add(name)
    return tuple(found)


def with_memory(device: Device, root: Path = Path("/")) -> Device:
    """The same, with what is free now."""
    total, available = _memory(root)
    return replace(device, memory_total_bytes=total, memory_available_bytes=available)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _l4t(root: Path) -> str:
    """ "# R36 (release), REVISION: 4.3, GCID: ..." is 36.4.3."""
    found = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release")
    )
    return f"{found[1]}.{found[2]}" if found else ""


def _compatible(root: Path) -> tuple[str, ...]:
    text = _text(root / "proc/device-tree/compatible")
    return tuple(entry for entry in text.strip().split("\0") if entry)


def _tnspec(root: Path) -> str:
    """ "TNSPEC 3767-300-0005-R.1-1-1-jetson-orin-nano-devkit-" without its first word."""
    text = _text(root / "etc/nv_boot_control.conf")
    found = re.search(r"^TNSPEC\s+(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _cpus(root: Path) -> int:
    """ "0-5" is 6, "0,2-3" is 3."""
    count = 0
    for first, last in re.findall(
        r"(\d+)(?:-(\d+))?", _text(root / "sys/devices/system/cpu/present")
    ):
        count += int(last or first) - int(first) + 1
    return count


def _os(root: Path) -> str:
    found = dict(
        re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', _text(root / "etc/os-release"), re.MULTILINE)
    )
    return "-".join(found[key] for key in ("ID", "VERSION_ID") if found.get(key))


def _jetpack(l4t: str) -> str:
    numbers = tuple(int(part) for part in l4t.split(".")) if l4t else ()
    return next((name for prefix, name in _JETPACKS if numbers[: len(prefix)] == prefix), "")


def _dpkg(root: Path, wanted: Sequence[str]) -> dict[str, str]:
    """Versions of installed packages of the operating system."""
    found = {}
    for entry in re.split(r"\n\n+", _text(root / "var/lib/dpkg/status")):
        name = re.match(r"\s*Package: (\S+)", entry)
        if name and name[1] in wanted and re.search(r"^Status: .* installed$", entry, re.MULTILINE):
            version = re.search(r"^Version: (\S+)", entry, re.MULTILINE)
            found[name[1]] = version[1] if version else ""
    return found


def _upstream(version: str) -> str:
    """ "10.3.0.30-1+cuda12.5" is 10.3.0.30; "6.2.1+b38" is 6.2.1."""
    return re.split(r"[-+]", version.rpartition(":")[2])[0]


def _cuda(root: Path) -> str:
    try:
        document = json.loads(_text(root / "usr/local/cuda/version.json"))
        return ".".join(str(document["cuda"]["version"]).split(".")[:2])
    except (ValueError, KeyError, TypeError):
        return ""


def _of_tree(root: Path) -> Gpu | None:
    """The GPU of a Jetson, by its chip, where CUDA cannot be asked."""
    for entry in _compatible(root):
        if entry in _CHIPS:
            return Gpu(entry.removeprefix("nvidia,"), _CHIPS[entry])
    return None


def _memory(root: Path) -> tuple[int, int]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    return 1024 * int(found.get("MemTotal", 0)), 1024 * int(found.get("MemAvailable", 0))


def _run_smi() -> str:
    """ "name, compute capability, driver" and, on the next line, the CUDA that the driver takes."""
    if not Path("/dev/nvidiactl").exists():
        return ""
    query = ["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        first, whole = (
            subprocess.run(
                ["nvidia-smi", *words],
                capture_output=True,
                text=True,
                timeout=SMI_LIMIT_S,
                check=False,
            ).stdout
            for words in (query, [])
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version = re.search(r"CUDA Version: *[\d.]+", whole)
    return f"{first.splitlines()[0] if first.strip() else ''}\n{version[0] if version else ''}"


def _of_smi(text: str) -> tuple[Gpu | None, str]:
    """GPU and CUDA version."""
    cuda = re.search(r"CUDA Version: *([\d.]+)", text)
    fields = [part.strip() for part in text.split("\n")[0].split(",")]
    if len(fields) < 3 or not re.fullmatch(r"\d+\.\d+", fields[1]):
        return None, cuda[1] if cuda else ""
    return Gpu(fields[0], fields[1]), cuda[1] if cuda else ""


def _ask_cuda() -> Gpu | None:
    """By ``cuda-python``; None where it is not installed or CUDA does not answer."""
    if find_spec("cuda") is None:
        return None
    try:
        from cuda.bindings import runtime
    except Exception:  # it raises what it likes where a driver is missing
        return None
    error, count = runtime.cudaGetDeviceCount()
    if int(error) != 0 or count < 1:
        return None
    error, properties = runtime.cudaGetDeviceProperties(0)
    if int(error) != 0:
        return None
    return Gpu(
        name=bytes(properties.name).split(b"\0")[0].decode(errors="replace"),
        compute_capability=f"{properties.major}.{properties.minor}",
        sm_count=int(properties.multiProcessorCount),
        usable=True,
    )


def _ask_providers() -> tuple[str, ...]:
    if find_spec("onnxruntime") is None:
        return ()
    try:
        import onnxruntime
    except Exception:  # a broken installation is for the doctor to report
        return ()
    onnxruntime.disable_telemetry_events()
    return tuple(onnxruntime.get_available_providers())
