"""Which realisation of the encoder serves on a device: a chain of pure filters.

Every candidate goes through every filter, in order; a filter keeps it or drops it with a reason.
The first candidate that is left serves, and the others follow where it does not open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
_OWN_TENSORRT_BEFORE = 38  # L4T; until then only JetPack's own TensorRT knows a Jetson's GPU


@dataclass(frozen=True)
class Facts:
    """What the filters look at.

    Attributes:
        device: as it stands.
        wanted: the setting ``encoder``: ``auto``, or the best candidate that may serve.
        engines: by flavour, why there is no engine to serve; "" where there is one.
    """

    device: Device
    wanted: str = AUTO
    engines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A candidate, the filter that dropped it, and why."""

    candidate: str
    filter: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """Candidates that are left, best first, and those that were dropped."""

    left: tuple[str, ...]
    dropped: tuple[Dropped, ...]

    def reason(self, candidate: str) -> str:
        """Why it was dropped; "" where it was not."""
        return next((d.reason for d in self.dropped if d.candidate == candidate), "")


Filter = Callable[[Facts, str], str]


def select(facts: Facts, filters: Mapping[str, Filter] | None = None) -> Selection:
    """The candidates that a device can serve with, and why not the others."""
    left, dropped = [], []
    for candidate in CANDIDATES:
        for name, judge in (FILTERS if filters is None else filters).items():
            if reason := judge(facts, candidate):
                dropped.append(Dropped(candidate, name, reason))
                break
        else:
            left.append(candidate)
    return Selection(tuple(left), tuple(dropped))


def can_build(device: Device, flavour: str) -> str:
    """Why no engine of this flavour can be built here; "" where one can."""
    return next((d for judge in BUILDING if (d := judge(Facts(device), flavour))), "")


# ---- the filters: the reason to drop a candidate, or "" ------------------------------------------


def setting(facts: Facts, candidate: str) -> str:
    if facts.wanted == AUTO:
        if candidate == ONNX_TENSORRT:
            return (
                "only where the setting encoder asks for it: its first start builds for minutes "
                "without a sign of progress"
            )
        return ""
    better = CANDIDATES.index(candidate) < CANDIDATES.index(facts.wanted)
    if better or (candidate == ONNX_TENSORRT and candidate != facts.wanted):
        return f"the setting encoder is {facts.wanted}"
    return ""


def jetpack(facts: Facts, candidate: str) -> str:
    device = facts.device
    if _on_gpu(candidate) and device.jetpack in ("4", "5"):
        return (
            f"JetPack {device.jetpack} (L4T {device.l4t}) is out of support here; expected "
            "JetPack 6 or 7"
        )
    return ""


def gpu(facts: Facts, candidate: str) -> str:
    if _on_gpu(candidate) and facts.device.gpu is None:
        return "no NVIDIA GPU was found"
    return ""


def package(facts: Facts, candidate: str) -> str:
    if candidate not in (TENSORRT, RTX) or facts.device.package(candidate) is not None:
        return ""
    if candidate == RTX:
        return 'TensorRT-RTX is not installed; pip install "accrue[rtx]"'
    if facts.device.tensorrt_system:
        return (
            f"the system's TensorRT {facts.device.tensorrt_system} is installed, but this Python "
            "does not see it; make its environment with --system-site-packages"
        )
    how = 'pip install "accrue[tensorrt]"'
    if facts.device.jetson:
        how = "apt install python3-libnvinfer"
    return f"TensorRT is not installed; {how}"


def shadow(facts: Facts, candidate: str) -> str:
    device, found = facts.device, facts.device.package(TENSORRT)
    own = device.jetson and major_minor(device.l4t)[0] < _OWN_TENSORRT_BEFORE
    if candidate != TENSORRT or not own or found is None or found.system:
        return ""
    jetpacks = device.tensorrt_system or (h.version if (h := device.hidden(TENSORRT)) else "")
    return (
        f"pip's TensorRT {found.version} in {found.folder} hides JetPack's {jetpacks or 'own'} and "
        f"cannot build for SM {_capability(device)}; pip uninstall tensorrt, and make the "
        "environment with --system-site-packages"
    )


def strongly_typed(facts: Facts, candidate: str) -> str:
    found = facts.device.package(TENSORRT)
    if candidate != TENSORRT or found is None or major_minor(found.version)[0] >= LEAST_MAJOR:
        return ""
    upgrade = "; JetPack 6.1 brings 10.3" if facts.device.jetson else ""
    return (
        f"TensorRT {found.version} has no strongly typed networks; expected {LEAST_MAJOR} or "
        f"newer{upgrade}"
    )


def capability(facts: Facts, candidate: str) -> str:
    found = facts.device.gpu
    if candidate != RTX or found is None or not found.compute_capability:
        return ""
    if found.compute_capability in RTX_CAPABILITIES:
        return ""
    return (
        f"TensorRT-RTX has no kernels for SM {found.compute_capability} ({found.name}); it has "
        f"{', '.join(RTX_CAPABILITIES)}"
    )


def cuda_python(facts: Facts, candidate: str) -> str:
    device = facts.device
    if candidate not in (TENSORRT, RTX):
        return ""
    found = device.package("cuda-bindings")
    if found is None:
        return f"cuda-python is not installed; {_cuda_pin(device)}"
    if device.gpu is None or device.gpu.usable:
        return ""
    if device.cuda and major_minor(found.version)[0] > major_minor(device.cuda)[0]:
        return f"cuda-python {found.version} is too new for CUDA {device.cuda}; {_cuda_pin(device)}"
    return "CUDA does not answer; is the driver loaded, and may this user open the GPU?"


def numpy(facts: Facts, candidate: str) -> str:
    device, found = facts.device, facts.device.package("numpy")
    built_for_1 = device.jetson and major_minor(device.l4t)[0] == 36  # JetPack 6
    if candidate not in (ONNX_TENSORRT, ONNX_CUDA) or not built_for_1 or found is None:
        return ""
    if device.package("onnxruntime-gpu") is None or major_minor(found.version)[0] < 2:
        return ""
    return (
        f"numpy is {found.version}, and the onnxruntime-gpu of JetPack {device.jetpack} was built "
        "for numpy 1; pip install 'numpy<2'"
    )


def provider(facts: Facts, candidate: str) -> str:
    needed = PROVIDERS.get(candidate)
    if needed is None or needed in facts.device.providers:
        return ""
    plain, gpu = (facts.device.package(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if plain is not None and gpu is not None:
        return f"{both_installed(facts.device)}, and what was left has no {needed}"
    here = gpu or plain
    name = f"{here.name} {here.version}" if here else "ONNX Runtime, which is not installed,"
    return f"{name} has no {needed}; expected onnxruntime-gpu built for this device"


def engine(facts: Facts, candidate: str) -> str:
    return (
        facts.engines.get(candidate, "no engine was built; accrue engine build")
        if (candidate in (TENSORRT, RTX))
        else ""
    )


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
# TensorRT-RTX builds without a GPU and without cuda-python; TensorRT has a `gpu` check of its own.
BUILDING: tuple[Filter, ...] = (
    lambda facts, flavour: "" if flavour == RTX else jetpack(facts, flavour),
    lambda facts, flavour: "" if flavour == RTX else gpu(facts, flavour),
    package,
    shadow,
    strongly_typed,
)


def both_installed(device: Device) -> str:
    """ "" where it is not so: the two packages hold the same files."""
    plain, gpu = (device.package(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if plain is None or gpu is None:
        return ""
    return (
        f"onnxruntime {plain.version} and onnxruntime-gpu {gpu.version} are both installed and "
        "overwrite each other"
    )


def _on_gpu(candidate: str) -> bool:
    return candidate != ONNX_CPU


def _capability(device: Device) -> str:
    return (device.gpu.compute_capability if device.gpu else "") or "of this GPU"


def _cuda_pin(device: Device) -> str:
    if device.cuda and major_minor(device.cuda)[0] < 13:
        return "pip install 'cuda-python>=12.6.1,<13'"
    return "pip install cuda-python"
