"""Which realisation of the encoder serves on a device: a chain of pure filters.

Every candidate goes through every filter, in order; a filter keeps it or drops it with a reason.
The first candidate that is left serves, and the others follow where it does not open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from accrue.device import Device, major_minor
from accrue.vision.engines.key import RTX, TENSORRT
from accrue.vision.engines.trt import LEAST_MAJOR

AUTO = "auto"
ONNX_TENSORRT, ONNX_CUDA, ONNX_CPU = "onnx-tensorrt", "onnx-cuda", "onnx-cpu"
CANDIDATES = (TENSORRT, RTX, ONNX_TENSORRT, ONNX_CUDA, ONNX_CPU)  # best first
PROVIDERS = {
    ONNX_TENSORRT: "TensorrtExecutionProvider",
    ONNX_CUDA: "CUDAExecutionProvider",
    ONNX_CPU: "CPUExecutionProvider",
}
# Of ComputeCapability in tensorrt_rtx 1.7: not 8.7 (Orin) and not 11.0 (Thor).
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_ONE_RUNTIME = "install one ONNX Runtime that has it: docs/engines.md, ONNX Runtime on a GPU"
_OWN_TENSORRT_BEFORE = 38  # L4T; until then only JetPack's own TensorRT knows a Jetson's GPU


class Why(NamedTuple):
    """A reason to drop a candidate, and what to do about it; "" where nothing can be done."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Facts:
    """What the filters look at.

    Attributes:
        device: as it stands.
        wanted: the setting ``encoder``: ``auto``, or the best candidate that may serve.
        engines: by flavour, why there is no engine to serve; None where there is one.
    """

    device: Device
    wanted: str = AUTO
    engines: Mapping[str, Why | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A candidate, the filter that dropped it, why, and what to do about it."""

    candidate: str
    filter: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}" if self.hint else self.reason


@dataclass(frozen=True)
class Selection:
    """Candidates that are left, best first, and those that were dropped."""

    left: tuple[str, ...]
    dropped: tuple[Dropped, ...]

    def why_not(self, candidate: str) -> Dropped | None:
        """None for a candidate that is left."""
        return next((d for d in self.dropped if d.candidate == candidate), None)


Filter = Callable[[Facts, str], Why | None]


def select(facts: Facts) -> Selection:
    """The candidates that a device can serve with, and why not the others."""
    left, dropped = [], []
    for candidate in CANDIDATES:
        for name, judge in FILTERS.items():
            if why := judge(facts, candidate):
                dropped.append(Dropped(candidate, name, *why))
                break
        else:
            left.append(candidate)
    return Selection(tuple(left), tuple(dropped))


def cannot_build(device: Device, flavour: str) -> Why | None:
    """Why no engine of this flavour can be built here; None where one can."""
    facts = Facts(device)
    # TensorRT-RTX builds without a GPU; TensorRT builds on the one that will run the engine.
    filters = (package,) if flavour == RTX else (jetpack, gpu, package, shadow, strongly_typed)
    return next((why for judge in filters if (why := judge(facts, flavour))), None)


# ---- the filters: why to drop a candidate, or None -----------------------------------------------


def setting(facts: Facts, candidate: str) -> Why | None:
    if facts.wanted == AUTO and candidate == ONNX_TENSORRT:
        return Why(
            "only where the setting encoder asks for it: its first start builds for minutes "
            "without a sign of progress"
        )
    if facts.wanted in (AUTO, candidate):
        return None
    better = CANDIDATES.index(candidate) < CANDIDATES.index(facts.wanted)
    if better or candidate == ONNX_TENSORRT:
        return Why(f"the setting encoder is {facts.wanted}")
    return None


def jetpack(facts: Facts, candidate: str) -> Why | None:
    device = facts.device
    if candidate == ONNX_CPU or device.jetpack.split(".")[0] not in ("4", "5"):
        return None
    return Why(
        f"JetPack {device.jetpack} (L4T {device.l4t}) is out of support here; expected "
        "JetPack 6 or 7"
    )


def gpu(facts: Facts, candidate: str) -> Why | None:
    if candidate == ONNX_CPU or facts.device.gpu is not None:
        return None
    return Why("no NVIDIA GPU was found")


def package(facts: Facts, candidate: str) -> Why | None:
    device = facts.device
    if candidate not in (TENSORRT, RTX) or device.package(candidate) is not None:
        return None
    if candidate == RTX:
        return Why("TensorRT-RTX is not installed", 'pip install "accrue[rtx]"')
    if device.tensorrt_system:
        return Why(
            f"the system's TensorRT {device.tensorrt_system} is installed, but this Python does "
            "not see it",
            "make its environment with --system-site-packages",
        )
    how = "apt install python3-libnvinfer" if device.jetson else 'pip install "accrue[tensorrt]"'
    return Why("TensorRT is not installed", how)


def shadow(facts: Facts, candidate: str) -> Why | None:
    device, found = facts.device, facts.device.package(TENSORRT)
    own = device.jetson and major_minor(device.l4t)[0] < _OWN_TENSORRT_BEFORE
    if candidate != TENSORRT or not own or found is None or found.system:
        return None
    jetpacks = device.tensorrt_system or (h.version if (h := device.hidden(TENSORRT)) else "own")
    capability = (device.gpu.compute_capability if device.gpu else "") or "of this GPU"
    return Why(
        f"pip's TensorRT {found.version} in {found.folder} hides JetPack's {jetpacks} and cannot "
        f"build for SM {capability}",
        "pip uninstall tensorrt, in an environment made with --system-site-packages",
    )


def strongly_typed(facts: Facts, candidate: str) -> Why | None:
    device, found = facts.device, facts.device.package(TENSORRT)
    if candidate != TENSORRT or found is None or major_minor(found.version)[0] >= LEAST_MAJOR:
        return None
    return Why(
        f"TensorRT {found.version} has no strongly typed networks; expected {LEAST_MAJOR} or newer",
        "JetPack 6.1 brings 10.3" if device.jetson else 'pip install "accrue[tensorrt]"',
    )


def capability(facts: Facts, candidate: str) -> Why | None:
    found = facts.device.gpu
    if candidate != RTX or found is None or not found.compute_capability:
        return None
    if found.compute_capability in RTX_CAPABILITIES:
        return None
    return Why(
        f"TensorRT-RTX has no kernels for SM {found.compute_capability} ({found.name}); it has "
        f"{', '.join(RTX_CAPABILITIES)}"
    )


def cuda_python(facts: Facts, candidate: str) -> Why | None:
    device, found = facts.device, facts.device.package("cuda-bindings")
    if candidate not in (TENSORRT, RTX) or (found and device.gpu and device.gpu.usable):
        return None
    old = device.cuda and major_minor(device.cuda)[0] < 13
    fitting = "pip install " + ("'cuda-python>=12.6.1,<13'" if old else "cuda-python")
    if found is None:
        return Why("cuda-python is not installed", fitting)
    if old and major_minor(found.version)[0] >= 13:
        return Why(f"cuda-python {found.version} is too new for CUDA {device.cuda}", fitting)
    return Why("CUDA does not answer", "load the driver, and let this user open the GPU")


def numpy(facts: Facts, candidate: str) -> Why | None:
    device, found = facts.device, facts.device.package("numpy")
    jetpack_6 = device.jetson and major_minor(device.l4t)[0] == 36
    if candidate not in (ONNX_TENSORRT, ONNX_CUDA) or not jetpack_6 or found is None:
        return None
    if device.package("onnxruntime-gpu") is None or major_minor(found.version)[0] < 2:
        return None
    return Why(
        f"numpy is {found.version}, and the onnxruntime-gpu of JetPack {device.jetpack} was built "
        "for numpy 1",
        "pip install 'numpy<2'",
    )


def provider(facts: Facts, candidate: str) -> Why | None:
    needed = PROVIDERS.get(candidate)
    if needed is None or candidate == ONNX_CPU or needed in facts.device.providers:
        return None  # where even the CPU's is missing, opening it says what is wrong
    if both := both_installed(facts.device):
        return Why(f"{both}, and what is left has no {needed}", _ONE_RUNTIME)
    here = facts.device.package("onnxruntime-gpu") or facts.device.package("onnxruntime")
    if here is None:
        return Why("ONNX Runtime is not installed", "pip install onnxruntime")
    return Why(f"{here.name} {here.version} has no {needed}", _ONE_RUNTIME)


def engine(facts: Facts, candidate: str) -> Why | None:
    if candidate not in (TENSORRT, RTX):
        return None
    return facts.engines.get(candidate, Why("no engine was built", "accrue engine build"))


FILTERS: dict[str, Filter] = {
    "setting": setting,
    "jetpack": jetpack,
    "gpu": gpu,
    "package": package,
    "shadow": shadow,
    "version": strongly_typed,
    "capability": capability,
    "cuda-python": cuda_python,
    "numpy": numpy,
    "provider": provider,
    "engine": engine,
}


def both_installed(device: Device) -> str:
    """A line where it is so, else "": in one folder, the two packages hold the same files."""
    plain, gpu = (device.package(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if plain is None or gpu is None or plain.folder != gpu.folder:
        return ""
    return (
        f"onnxruntime {plain.version} and onnxruntime-gpu {gpu.version} are both installed and "
        "overwrite each other"
    )
