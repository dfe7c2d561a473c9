"""An engine in service: padded, split, checked before it serves, put aside when it fails.

What the GPU would compute is computed by ONNX Runtime here, because there is no GPU; all else is
the code that runs on a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import accrue.vision.engines.encoder as module
import accrue.vision.engines.serving as serving
from accrue.bundle import Bundle
from accrue.device import Device, Gpu, Package
from accrue.errors import BundleError, EngineError
from accrue.service.engines import Engines
from accrue.service.settings import Settings
from accrue.vision.encode import OnnxEncoder
from accrue.vision.engines import Engine, EngineKey, Plan, Profile, serve

DEVICE = Device(
    "x86_64",
    "3.12.3",
    cuda="13.0",
    gpu=Gpu("NVIDIA GeForce RTX 4090", "8.9", 128, usable=True),
    packages=(Package("tensorrt-rtx", "1.7.1.116"), Package("cuda-bindings", "13.5.0")),
)
DEFAULT_PROFILE = Profile()


class Gpuless:
    """In the place of `Execution`; remembers the batches that it was given."""

    def __init__(self, reference: OnnxEncoder) -> None:
        self.reference = reference
        self.batches: list[int] = []
        self.no_graphs = ""
        self.bend = 0.0
        self.breaks = False

    def run(self, batch: np.ndarray) -> np.ndarray:
        if self.breaks:
            raise EngineError("CUDA refused cudaGraphLaunch: cudaErrorMemoryAllocation")
        self.batches.append(len(batch))
        rows = self.reference.encode_prepared(batch)
        rows[:, 0] += np.float32(self.bend)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self) -> None:
        pass


@pytest.fixture
def engines(tiny_bundle: Path, tmp_path: Path) -> Engines:
    return Engines(Settings(state=tmp_path, bundle=tiny_bundle), DEVICE)


@pytest.fixture
def gpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Gpuless:
    execution = Gpuless(OnnxEncoder(Bundle.open(tiny_bundle), threads=1))
    monkeypatch.setattr(module, "load", lambda *_: None)
    monkeypatch.setattr(module, "Execution", lambda *_, **__: execution)
    monkeypatch.setattr(serving, "load_module", lambda _: None)
    return execution


def placed(
    engines: Engines, profile: Profile = DEFAULT_PROFILE, content: bytes = b"plan"
) -> Engine:
    """A built engine that has not been checked yet."""
    manifest = engines.bundle.manifest
    sha256 = manifest.files["encoder.onnx"].sha256
    key = EngineKey.of(DEVICE, sha256, "tensorrt-rtx", "1.7.1.116", profile, {})
    about: dict[str, Any] = {"encoder": manifest.name, "space_id": manifest.space_id}
    return engines.folder.write(
        Plan(content, (), (), ()), key, file="encoder.onnx", build_s=1.0, **about
    )


def stems(engines: Engines) -> list[str]:
    return [
        e.stem for e in engines.folder.serving(engines.bundle.manifest.space_id, "tensorrt-rtx")
    ]


@pytest.mark.parametrize(
    ("profile", "images", "batches"),
    [
        (Profile(1, 1, 8), 11, [8, 3]),
        (Profile(1, 1, 2), 5, [2, 2, 1]),
        (Profile(4, 4, 16), 9, [8, 4]),
    ],
)
def test_batches_fit_the_profile_and_the_answers_are_the_references(
    engines: Engines,
    gpu: Gpuless,
    photo: Callable[..., np.ndarray],
    profile: Profile,
    images: int,
    batches: list[int],
) -> None:
    """Too few are filled up, too many are split, and neither shows in the embeddings."""
    placed(engines, profile)
    engines.verify()
    found = serve(engines.bundle, DEVICE, engines.folder)
    assert found.candidate == "tensorrt-rtx"
    assert found.remark == ""
    photos = [photo(seed) for seed in range(images)]
    gpu.batches.clear()
    rows = found.encoder.encode(photos)
    assert gpu.batches == batches
    np.testing.assert_allclose(rows, gpu.reference.encode(photos), atol=1e-6)


def test_a_batch_beyond_the_profile_is_refused(engines: Engines, gpu: Gpuless) -> None:
    """Before it reaches the buffers."""
    encoder = serving.open_engine(engines.bundle, engines.folder, placed(engines))
    with pytest.raises(EngineError, match="a batch of 9 images; the engine takes at most 8"):
        encoder.encode_prepared(np.zeros((9, 32, 32, 3), np.uint8))
    assert gpu.batches == []


def test_an_engine_serves_only_after_its_golden_check(engines: Engines, gpu: Gpuless) -> None:
    """And its parity stands in the sidecar."""
    engine = placed(engines)
    assert stems(engines) == []
    checked = engines.verify()
    assert checked.stem == engine.stem
    assert checked.parity is not None
    assert checked.parity.min_cosine > 0.999
    assert engines.folder.engines() == [checked]
    assert stems(engines) == [engine.stem]
    assert engines.status().serves == "tensorrt-rtx"


def test_one_that_computes_something_else_never_serves_and_the_former_goes_on(
    engines: Engines, gpu: Gpuless
) -> None:
    """A failed check of a new engine changes nothing; one of the active engine puts it aside."""
    first = placed(engines, content=b"1")
    engines.verify(first.stem)
    second = placed(engines, content=b"2")
    gpu.bend = 0.5
    with pytest.raises(BundleError, match=r"golden check of bundle .* failed"):
        engines.verify(second.stem)
    assert stems(engines) == [first.stem]
    with pytest.raises(BundleError, match="golden check"):
        engines.verify(first.stem)
    assert stems(engines) == []
    gpu.bend = 0.0
    engines.verify(first.stem)
    engines.verify(second.stem)
    assert stems(engines) == [second.stem, first.stem]


def test_a_failure_of_the_gpu_at_a_check_costs_no_engine(engines: Engines, gpu: Gpuless) -> None:
    """Memory may be short for a moment; the engine is as good as before."""
    engine = placed(engines)
    engines.verify()
    gpu.breaks = True
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        engines.verify()
    assert stems(engines) == [engine.stem]


def test_a_new_engine_that_fails_its_check_leaves_no_file(
    engines: Engines, gpu: Gpuless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be loaded here is kept, to be checked where there is a GPU."""
    import accrue.service.engines as verbs

    first = placed(engines)
    engines.verify()
    monkeypatch.setattr(verbs, "load_module", lambda _: None)
    monkeypatch.setattr(verbs, "build", lambda *_, **__: Plan(b"new", (), (), ()))
    gpu.bend = 0.5
    with pytest.raises(BundleError, match="golden check"):
        engines.build(flavour="tensorrt-rtx")
    assert [e.stem for e in engines.folder.engines()] == [first.stem]
    assert stems(engines) == [first.stem]
    gpu.bend, gpu.breaks = 0.0, True
    built = engines.build(flavour="tensorrt-rtx")
    assert built.unchecked == "CUDA refused cudaGraphLaunch: cudaErrorMemoryAllocation"
    assert stems(engines) == [first.stem]
    assert built.path.exists()
    gpu.breaks = False
    assert engines.build(flavour="tensorrt-rtx").unchecked == ""
    assert stems(engines)[1] == first.stem


def test_an_engine_of_another_tensorrt_is_said_by_the_box_with_what_serves(
    engines: Engines, gpu: Gpuless
) -> None:
    """The whole line, as it goes to stderr."""
    engine = placed(engines)
    engines.verify()
    packages = (Package("tensorrt-rtx", "1.8.0.1"), Package("cuda-bindings", "13.5.0"))
    found = serve(engines.bundle, replace(DEVICE, packages=packages), engines.folder)
    assert found.remark == (
        f"engine {engine.stem} was built for TensorRT-RTX 1.7.1.116, this device has TensorRT-RTX "
        "1.8.0.1; serving with ONNX Runtime on the CPU; rebuild with `accrue engine build`"
    )
