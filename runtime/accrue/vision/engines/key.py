"""What an engine was built from and for. Any difference means that it does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from accrue.bundle import canonical_json
from accrue.device import Device
from accrue.errors import ConfigError, FormatError

LARGEST_BATCH = 256  # images; beyond it no device here gains, and buffers grow with it
TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
FLAVOURS = (TENSORRT, RTX)


@dataclass(frozen=True)
class Profile:
    """Batch sizes, in images: the least and the most that the engine takes, and the one that it
    is tuned for.

    Raises:
        ConfigError: they are not ordered, below 1 or above `LARGEST_BATCH`.
    """

    least: int = 1
    best: int = 1
    most: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most <= LARGEST_BATCH:
            raise ConfigError(
                f"batch profile is {self.least},{self.best},{self.most}; expected "
                f"1 <= LEAST <= BEST <= MOST <= {LARGEST_BATCH}",
                hint="for one camera: --batch 1,1,8",
                found=f"{self.least},{self.best},{self.most}",
            )


@dataclass(frozen=True)
class EngineKey:
    """All that decides whether an engine fits this device and this encoder.

    Attributes:
        onnx_sha256: of the ONNX file that it was built from, 64 hex characters.
        profile: batch sizes.
        flags: what the builder was told, by name.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        tensorrt: its full version.
        machine: of the processor, as ``x86_64``.
        cuda, l4t, gpu, compute_capability, sm_count: of the device. Empty for TensorRT-RTX, whose
            engines fit every GPU that it knows (`accrue.vision.engines.selection`).
    """

    onnx_sha256: str
    profile: Profile
    flavour: str
    tensorrt: str
    machine: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    cuda: str = ""
    l4t: str = ""
    gpu: str = ""
    compute_capability: str = ""
    sm_count: int = 0

    @classmethod
    def of(
        cls,
        device: Device,
        onnx_sha256: str,
        flavour: str,
        tensorrt: str,
        profile: Profile,
        flags: Mapping[str, Any],
    ) -> EngineKey:
        """The key of an engine that is built on, or sought for, this device."""
        common = cls(onnx_sha256, profile, flavour, tensorrt, device.machine, dict(flags))
        if flavour == RTX or device.gpu is None:
            return common
        return cls(
            **{
                **vars(common),
                "cuda": device.cuda,
                "l4t": device.l4t,
                "gpu": device.gpu.name,
                "compute_capability": device.gpu.compute_capability,
                "sm_count": device.gpu.sm_count,
            }
        )

    @property
    def digest(self) -> str:
        """64 hex characters; equal for equal keys."""
        return hashlib.sha256(canonical_json(self.document())).hexdigest()

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> EngineKey:
        """Raises FormatError where it is not one."""
        try:
            values = dict(document)
            return cls(**{**values, "profile": Profile(**values["profile"])})
        except (TypeError, KeyError, ValueError, ConfigError) as error:
            raise FormatError(f"not the key of an engine: {error}") from error


def difference(engine: EngineKey, device: EngineKey) -> str:
    """Why an engine of the one key does not fit the other; "" where it does.

    As "built for TensorRT 10.3.0 / SM 8.7, this device has TensorRT 10.16.2 / SM 8.7": what
    people know a device by always stands there, and whatever else differs.
    """
    if engine == device:
        return ""
    if engine.onnx_sha256 != device.onnx_sha256:
        return (
            f"built from another encoder ({engine.onnx_sha256[:12]}…; "
            f"this one is {device.onnx_sha256[:12]}…)"
        )
    mine, here = _facts(engine), _facts(device)
    shown = [
        name for name in mine if mine[name] != here[name] or name.startswith(("TensorRT", "SM"))
    ]
    built = " / ".join(f"{name} {mine[name] or 'unknown'}" for name in shown)
    found = " / ".join(f"{name} {here[name] or 'unknown'}" for name in shown)
    return f"built for {built}, this device has {found}"


def _facts(key: EngineKey) -> dict[str, str]:
    """By the name that a reader knows, most telling first."""
    profile = key.profile
    facts = {
        "TensorRT-RTX" if key.flavour == RTX else "TensorRT": key.tensorrt,
        "SM": key.compute_capability,
        "CUDA": key.cuda,
        "L4T": key.l4t,
        "GPU": key.gpu,
        "multiprocessors": str(key.sm_count or ""),
        "processor": key.machine,
        "batch": f"{profile.least},{profile.best},{profile.most}",
        "flags": ", ".join(f"{name} {value}" for name, value in sorted(key.flags.items())),
    }
    if key.flavour == RTX:
        for name in ("SM", "CUDA", "L4T", "GPU", "multiprocessors"):
            del facts[name]
    return facts
