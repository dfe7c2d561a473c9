"""From a bundle to the encoder that serves it on this device, with the reasons."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from accrue.bundle import ENCODER, Bundle
from accrue.device import Device
from accrue.errors import AccrueError, StoreError
from accrue.vision.encode import CPU_PROVIDER, BundleEncoder, OnnxEncoder, golden_check
from accrue.vision.engines.encoder import EngineEncoder
from accrue.vision.engines.folder import Engine, EngineFolder
from accrue.vision.engines.key import FLAVOURS, RTX, TENSORRT, EngineKey, Profile, difference
from accrue.vision.engines.selection import (
    AUTO,
    ONNX_CPU,
    ONNX_CUDA,
    ONNX_TENSORRT,
    PROVIDERS,
    Dropped,
    Facts,
    Selection,
    Why,
    select,
)
from accrue.vision.engines.trt import load_module

NAMES = {
    TENSORRT: "TensorRT",
    RTX: "TensorRT-RTX",
    ONNX_TENSORRT: "ONNX Runtime's TensorRT provider",
    ONNX_CUDA: "ONNX Runtime on the GPU",
    ONNX_CPU: "ONNX Runtime on the CPU",
}


@dataclass(frozen=True)
class Serving:
    """An open encoder.

    Attributes:
        encoder: to encode with.
        candidate: which one it is.
        dropped: every better candidate, and why it does not serve.
        remark: one line where something better was expected to serve than does; else "".
        engine: name of the engine; "" where it is none.
    """

    encoder: BundleEncoder
    candidate: str
    dropped: tuple[Dropped, ...]
    remark: str
    engine: str = ""


def serve(
    bundle: Bundle,
    device: Device,
    folder: EngineFolder,
    *,
    wanted: str = AUTO,
    threads: int | None = None,
) -> Serving:
    """The best encoder that opens here; where a better one does not, the next, with the reason.

    An encoder on the GPU serves only after it has passed the golden check on this device: an
    engine when it was built, ONNX Runtime on the GPU at its first start.

    Raises:
        AccrueError: not even ONNX Runtime on the CPU opens.
    """
    selection, fitting = choose(bundle, device, folder, wanted)
    dropped = list(selection.dropped)
    encoder: BundleEncoder | None = None
    for candidate in selection.left:
        try:
            encoder = _open(candidate, bundle, device, folder, fitting.get(candidate), threads)
            break
        except AccrueError as error:
            if candidate == ONNX_CPU:
                raise
            dropped.append(Dropped(candidate, "opening", error.message, error.hint))
    assert encoder is not None  # ONNX Runtime on the CPU is never dropped
    built = {e.key.flavour for e in folder.engines() if e.space_id == encoder.space_id}
    remark = _remark(candidate, wanted, dropped, built)
    stem = fitting[candidate].stem if candidate in fitting else ""
    return Serving(encoder, candidate, tuple(dropped), remark, stem)


def choose(
    bundle: Bundle, device: Device, folder: EngineFolder, wanted: str = AUTO
) -> tuple[Selection, dict[str, Engine]]:
    """The selection, and the engine that fits for each flavour that has one."""
    fitting: dict[str, Engine] = {}
    reasons: dict[str, Why | None] = {}
    for flavour in FLAVOURS:
        found = fitting_engine(bundle, device, folder, flavour)
        if isinstance(found, Engine):
            fitting[flavour], reasons[flavour] = found, None
        else:
            reasons[flavour] = found
    return select(Facts(device, wanted, reasons)), fitting


def fitting_engine(
    bundle: Bundle, device: Device, folder: EngineFolder, flavour: str
) -> Engine | Why:
    """The engine to serve with, or why there is none.

    The active one, else the previous one, where its key is this device's; so a system that went
    back to its former TensorRT finds its former engine.
    """
    space_id = bundle.manifest.space_id
    candidates = folder.serving(space_id, flavour)
    fitting = [engine for engine in candidates if not mismatch(engine, bundle, device)]
    for engine in fitting:
        if engine.checked_on == device.gpu_title:
            return engine
    if fitting:  # a portable engine that came with a copied folder, or another GPU in the box
        return Why(
            f"engine {fitting[0].stem} passed the golden check on {fitting[0].checked_on}, and "
            f"not yet on {device.gpu_title or 'this device'}",
            "accrue engine verify",
        )
    if candidates:
        engine = candidates[0]
        return Why(
            f"engine {engine.stem} was {mismatch(engine, bundle, device)}",
            "rebuild with `accrue engine build`",
        )
    if any(e.space_id == space_id and e.key.flavour == flavour for e in folder.engines()):
        return Why(
            "the engine that was built has not passed the golden check on this device",
            "accrue engine verify",
        )
    return Why("no engine was built", "accrue engine build")


def mismatch(engine: Engine, bundle: Bundle, device: Device) -> str:
    """Why an engine does not fit bundle and device; "" where it does. Batch sizes and flags are
    the engine's own: whoever built it chose them."""
    entry = bundle.manifest.files.get(engine.file)
    here = EngineKey.of(
        device,
        entry.sha256 if entry else "",
        engine.key.flavour,
        device.version_of(engine.key.flavour),
        engine.key.profile,
        engine.key.flags,
    )
    return difference(engine.key, here)


def open_engine(
    bundle: Bundle, folder: EngineFolder, engine: Engine, *, graphs: bool = True
) -> EngineEncoder:
    """Raises EngineError where TensorRT or CUDA refuses."""
    trt = load_module(engine.key.flavour)
    return EngineEncoder(bundle, trt, folder.read(engine), engine.key.profile, graphs=graphs)


def _open(
    candidate: str,
    bundle: Bundle,
    device: Device,
    folder: EngineFolder,
    engine: Engine | None,
    threads: int | None,
) -> BundleEncoder:
    if engine is not None:
        return open_engine(bundle, folder, engine)
    if candidate == ONNX_CPU:
        return OnnxEncoder(bundle, threads=threads)
    key = _provider_key(candidate, bundle, device)
    options = provider_options(candidate, lambda: folder.provider_cache(key))
    encoder = OnnxEncoder(
        bundle, threads=threads, providers=[(PROVIDERS[candidate], options), CPU_PROVIDER]
    )
    if folder.checked(key) is None:
        parity = golden_check(encoder, bundle)
        with suppress(StoreError):  # a state folder that cannot be written: checked at each start
            folder.record(key, parity)
    return encoder


def provider_options(candidate: str, cache: Callable[[], Path]) -> dict[str, str]:
    """For ONNX Runtime. Its TensorRT provider finds engines in a folder by the graph's name, and
    has taken one of another model for its own; so each key has a folder of its own."""
    if candidate != ONNX_TENSORRT:
        return {}
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache())}


def _provider_key(candidate: str, bundle: Bundle, device: Device) -> EngineKey:
    runtime = device.package("onnxruntime-gpu") or device.package("onnxruntime")
    tensorrt = device.version_of(TENSORRT) if candidate == ONNX_TENSORRT else ""
    sha256 = bundle.manifest.files[ENCODER].sha256
    flags = {"onnxruntime": runtime.version if runtime else ""}
    return EngineKey.of(device, sha256, candidate, tensorrt, Profile(), flags)


def _remark(serving: str, wanted: str, dropped: list[Dropped], built: set[str]) -> str:
    """Where an engine was built, or a better one is named in the settings, and it does not serve.

    Args:
        built: flavours that have an engine for this encoder, whether it fits or not.
    """
    for drop in dropped:
        if drop.filter != "setting" and (drop.candidate == wanted or drop.candidate in built):
            how = f"; {drop.hint}" if drop.hint else ""
            return f"{drop.reason}; serving with {NAMES[serving]}{how}"
    return ""
