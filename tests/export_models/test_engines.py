"""Real TensorRT-RTX engines on a machine without a GPU: built, keyed and kept, never half.

Loading and running one needs a driver, and belongs to `tools/gpu_check`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.bundle import Bundle, default_bundle_path
from accrue.device import Device, Gpu, Package, describe
from accrue.errors import BundleError, Cancelled, EngineError, StoreFull
from accrue.service.engines import Engines
from accrue.service.settings import Settings
from accrue.store.files import FileSteps
from accrue.vision.engines import EngineFolder, Profile, build, choose, load_module
from accrue.vision.engines.cuda import Execution
from accrue.vision.engines.trt import Plan, Tensor, load

trt = pytest.importorskip(
    "tensorrt_rtx", reason="needs tensorrt-rtx: the packages of requirements/export.txt"
)
onnx = pytest.importorskip("onnx", reason="needs onnx: the packages of requirements/export.txt")
RTX = "tensorrt-rtx"
NO_DRIVER = r"CUDA driver version is insufficient for CUDA runtime version \(cudaError 35\)"
without_driver = pytest.mark.skipif(
    describe().gpu is not None, reason="asks what happens without a GPU; here is one"
)


def built(bundle: Bundle, file: str = "encoder.onnx", **options: Any) -> Plan:
    options = {"profile": Profile(1, 1, 8), "workspace_mib": 512} | options
    manifest = bundle.manifest
    module = load_module(RTX)
    return build(module, bundle.read(file), manifest.size, manifest.dim, **options)


def check(plan: Plan, size: int, dim: int, profile: Profile) -> None:
    """I/O names, types and shapes of the parsed network, and the profile that was taken."""
    assert plan.inputs == (Tensor("image", "UINT8", (-1, size, size, 3)),)
    assert plan.outputs == (Tensor("embedding", "FLOAT", (-1, dim)),)
    batches = (profile.least, profile.best, profile.most)
    assert plan.profile == tuple((n, size, size, 3) for n in batches)


@pytest.fixture(scope="module")
def default() -> Bundle:
    return Bundle.open(default_bundle_path())


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    return Engines(Settings(state=tmp_path))


# ---- what is built -------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [Profile(1, 1, 8), Profile(1, 1, 1), Profile(2, 4, 16)])
def test_the_default_encoder_becomes_a_real_engine(default: Bundle, profile: Profile) -> None:
    """No GPU, no timing cache; the plan holds at least the weights."""
    plan = built(default, profile=profile)
    check(plan, 192, 256, profile)
    assert len(plan.content) > default.manifest.files["encoder.onnx"].bytes / 2
    assert plan.flags == {"strongly_typed": True, "workspace_mib": 512}


REAL = {"MobileCLIP2-S0": 256, "MobileCLIP-S1": 256, "ViT-B-16": 224}  # px


@pytest.mark.timeout(900)  # s; the first to ask for a bundle waits for its export
@pytest.mark.parametrize("model", sorted(REAL))
def test_a_real_architecture_becomes_real_engines_in_both_precisions(
    built_bundle: Callable[[str], Path], model: str
) -> None:
    """The same signature from both, float32 at its ends; the fp16 plan holds half the bytes."""
    bundle = Bundle.open(built_bundle(model))
    sizes = {}
    for file in ("encoder.onnx", "encoder.fp16.onnx"):
        plan = built(bundle, file, profile=Profile(1, 1, 8))
        check(plan, REAL[model], 512, Profile(1, 1, 8))
        sizes[file] = len(plan.content)
    assert sizes["encoder.onnx"] > 0.9 * bundle.manifest.files["encoder.onnx"].bytes
    assert sizes["encoder.fp16.onnx"] < 0.65 * sizes["encoder.onnx"]


@pytest.mark.timeout(900)
def test_an_engine_is_built_from_fp16_where_the_bundle_carries_it(
    built_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its key holds that file's hash; float32 is still to be had by name."""
    engines = Engines(Settings(state=tmp_path, bundle=built_bundle("MobileCLIP2-S0")))
    files = engines.bundle.manifest.files
    engine = engines.build(flavour=RTX).engine
    assert engine.file == "encoder.fp16.onnx"
    assert engine.key.onnx_sha256 == files["encoder.fp16.onnx"].sha256
    assert engines.file("fp32") == "encoder.onnx"


def test_progress_goes_from_none_to_all(default: Bundle) -> None:
    """Of the outermost phase, which never goes back."""
    told: list[tuple[str, int, int]] = []
    built(default, step=lambda *what: told.append(what))
    names = {name for name, _, _ in told}
    assert names == {"Building engine"}
    done = [d for _, d, _ in told]
    assert (done[0], done[-1]) == (0, told[-1][2])
    assert done == sorted(done)


@without_driver
def test_plan_key_and_sidecar_are_on_the_disk_and_the_engine_waits_for_a_gpu(
    engines: Engines,
) -> None:
    """Without a driver it can be built, not checked, and so it does not serve."""
    found = engines.build(flavour=RTX)
    sidecar = json.loads(found.path.with_suffix(".json").read_text())
    manifest = engines.bundle.manifest
    assert found.path.read_bytes() == engines.folder.read(found.engine)
    assert sidecar["bytes"] == found.path.stat().st_size > 1_000_000
    assert sidecar["key"] == {
        "onnx_sha256": manifest.files["encoder.onnx"].sha256,
        "profile": {"least": 1, "best": 1, "most": 8},
        "flavour": RTX,
        "tensorrt": trt.__version__,
        "machine": engines.device.machine,
        "flags": {"strongly_typed": True, "workspace_mib": 1024},
        "cuda": "",
        "l4t": "",
        "gpu": "",
        "compute_capability": "",
        "sm_count": 0,
    }
    assert sidecar["parity"] is None
    assert sidecar["space_id"] == manifest.space_id
    assert "CUDA driver version is insufficient" in found.unchecked
    assert engines.folder.serving(manifest.space_id, RTX) == []
    status = engines.status()
    assert status.serves == "onnx-cpu"
    assert [(e.stem, place, why) for e, place, why in status.engines] == [
        (found.engine.stem, "", "")
    ]


@without_driver
def test_on_an_rtx_box_that_engine_fits_and_asks_for_its_check(engines: Engines) -> None:
    """TensorRT-RTX is portable: the key that was made without a GPU is the key there."""
    engines.build(flavour=RTX)
    packages = (Package(RTX, trt.__version__), Package("cuda-bindings", "13.5.0"))
    gpu = Gpu("NVIDIA GeForce RTX 4090", "8.9", 128, usable=True)
    box = Device(engines.device.machine, "3.12.3", cuda="13.0", gpu=gpu, packages=packages)
    selection, _ = choose(engines.bundle, box, engines.folder)
    assert str(selection.why_not(RTX)) == (
        "the engine that was built has not passed the golden check on this device; "
        "accrue engine verify"
    )
    newer = (Package(RTX, "9.9.9"), packages[1])
    status = Engines(engines.settings, Device(box.machine, "3.12.3", gpu=gpu, packages=newer))
    ((_, _, misfit),) = status.status().engines
    assert misfit == (
        f"built for TensorRT-RTX {trt.__version__}, this device has TensorRT-RTX 9.9.9"
    )


@without_driver
def test_loading_without_a_driver_gives_one_clear_reason(default: Bundle) -> None:
    """And so does an execution: whoever asked is told, and ONNX Runtime serves."""
    content = built(default).content
    with pytest.raises(EngineError, match=NO_DRIVER) as raised:
        load(load_module(RTX), content)
    assert "\n" not in str(raised.value)
    pytest.importorskip("cuda.bindings", reason="needs cuda-python")
    with pytest.raises(EngineError, match="CUDA refused cudaStreamCreate: cudaErrorInsuff"):
        Execution(trt, None, 192, 256, 8)


def test_every_name_of_the_code_that_cannot_run_here_exists() -> None:
    """The execution needs a GPU; that it calls what TensorRT and CUDA have can be seen without."""
    names = {
        trt.ICudaEngine: ["create_execution_context", "create_runtime_config"],
        trt.IRuntimeConfig: ["dynamic_shapes_kernel_specialization_strategy"],
        trt.DynamicShapesKernelSpecializationStrategy: ["EAGER"],
        trt.IExecutionContext: ["set_tensor_address", "set_input_shape", "execute_async_v3"],
        trt.Runtime: ["deserialize_cuda_engine"],
    }
    for owner, wanted in names.items():
        assert [name for name in wanted if not hasattr(owner, name)] == []
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    source = Path(sys.modules[Execution.__module__].__file__ or "").read_text()
    called = set(re.findall(r"[\".](cuda[A-Z]\w+)", source))
    kinds = {*dir(runtime.cudaMemcpyKind), *dir(runtime.cudaStreamCaptureMode)}
    assert len(called) >= 15
    assert [name for name in called if not hasattr(runtime, name) and name not in kinds] == []


# ---- what TensorRT cannot take -------------------------------------------------------------------


def model(*nodes: Any, inputs: int = 1, dim: int = 3) -> bytes:
    """uint8 (n, 32, 32, 3) to float32 (n, 3), by these nodes."""
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [
            helper.make_tensor_value_info(name, types.UINT8, ["n", 32, 32, 3])
            for name in ("image", "second")[:inputs]
        ],
        [helper.make_tensor_value_info("embedding", types.FLOAT, ["n", dim])],
        [onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.domain", 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return made


def node(op: str, given: list[str], gives: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(op, given, [gives], **attributes)


def cast_first() -> Any:
    return node("Cast", ["image"], "f", to=onnx.TensorProto.FLOAT, name="cast")


def mean() -> Any:
    return node("ReduceMean", ["f", "axes"], "embedding", keepdims=0, name="mean")


REFUSED: dict[str, tuple[Any, str]] = {
    "an operator that it does not have": (
        lambda: model(cast_first(), node("Det", ["f"], "embedding", name="/head/Det")),
        r"cannot take node '/head/Det' \(Det\) of the encoder: it does not support this operator",
    ),
    "an operator of somebody's own": (
        lambda: model(
            cast_first(), node("Frobnicate", ["f"], "embedding", name="frob", domain="my.domain")
        ),
        r"cannot take node 'frob' \(Frobnicate\) of the encoder: .*Plugin not found",
    ),
    "a node without a name": (
        lambda: model(cast_first(), node("Bernoulli", ["f"], "b"), mean()),
        r"cannot take node 'number 1' \(Bernoulli\)",
    ),
    "uint8 that is turned before it is cast": (
        lambda: model(
            node("Transpose", ["image"], "t", perm=[0, 3, 1, 2], name="first"),
            node("Cast", ["t"], "f", to=1, name="cast"),
            mean(),
        ),
        r"cannot take node 'first' \(Transpose\) of the encoder: .*UInt8 but must have type Float",
    ),
    "no ONNX": (lambda: b"no onnx", "cannot take the file of the encoder: .*Failed to parse"),
    "two inputs": (
        lambda: model(
            cast_first(), node("Cast", ["second"], "unused", to=1, name="c2"), mean(), inputs=2
        ),
        r"inputs are image: UINT8 \(-1, 32, 32, 3\), second: UINT8 .*; expected image: UINT8",
    ),
    "another size": (
        lambda: model(cast_first(), mean()),
        r"inputs are image: UINT8 \(-1, 32, 32, 3\); expected image: UINT8 \(-1, 48, 48, 3\)",
    ),
}


@pytest.mark.parametrize("defect", sorted(REFUSED))
def test_what_tensorrt_cannot_take_is_named_on_one_line(defect: str) -> None:
    """With its node and operator."""
    make, message = REFUSED[defect]
    size = 48 if defect == "another size" else 32
    with pytest.raises(BundleError, match=message) as raised:
        build(load_module(RTX), make(), size, 3, profile=Profile(), workspace_mib=256)
    assert "\n" not in str(raised.value)


def test_the_control_of_those_is_taken() -> None:
    """Cast first, then the rest: the same graph without a defect builds."""
    plan = build(
        load_module(RTX), model(cast_first(), mean()), 32, 3, profile=Profile(), workspace_mib=256
    )
    check(plan, 32, 3, Profile())


# ---- stopped in the middle ----------------------------------------------------------------------


def left_of_a_build(folder: Path) -> list[str]:
    """What lies there beside the lock and the notes on builds."""
    return [path.name for path in folder.iterdir() if path.name not in (".lock", "builds.json")]


def counted_as_begun(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "builds.json").read_text())["begun"]
    return found


def test_a_build_that_is_cancelled_writes_nothing(engines: Engines) -> None:
    """After the third step that TensorRT tells of."""
    asked = iter(range(10_000))
    with pytest.raises(Cancelled, match="the build was stopped; no engine was written"):
        engines.build(flavour=RTX, cancelled=lambda: next(asked) >= 3)
    assert left_of_a_build(engines.folder.path) == []
    assert counted_as_begun(engines.folder.path) == {}


@pytest.mark.parametrize("step", ["create", "fsync", "replace", "fsync_folder"])
def test_a_full_disk_leaves_no_half_of_an_engine(engines: Engines, step: str) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engines.folder = EngineFolder(engines.folder.path, steps=FileSteps(**{step: full}))
    with pytest.raises(StoreFull, match="no room left to write"):
        engines.build(flavour=RTX)
    assert left_of_a_build(engines.folder.path) == []


def started(tmp_path: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["engine", "build", "--flavour", RTX, "--state", str(tmp_path)]
    return subprocess.Popen(
        [sys.executable, "-m", "accrue.cli.main", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_lock(tmp_path: Path) -> None:
    """The build has begun."""
    until = time.monotonic() + 60
    while not (tmp_path / "engines" / ".lock").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_ctrl_c_ends_a_build_with_code_130_and_leaves_no_file(tmp_path: Path) -> None:
    """Asked of the real command, in the middle of TensorRT's work."""
    with started(tmp_path) as process:
        wait_for_lock(tmp_path)
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the build was stopped; no engine was written" in errors
    assert left_of_a_build(tmp_path / "engines") == []
    assert counted_as_begun(tmp_path / "engines") == {}


@without_driver
def test_a_kill_at_any_instant_leaves_no_engine_or_a_whole_one(tmp_path: Path) -> None:
    """And the next build goes through."""
    chance = random.Random(4)
    for _ in range(5):
        with started(tmp_path) as process:
            wait_for_lock(tmp_path)
            time.sleep(1.2 * chance.random())
            process.send_signal(signal.SIGKILL)
            process.communicate()
        folder = EngineFolder(tmp_path / "engines")
        for engine in folder.engines():
            folder.read(engine)  # checks the hash
    settings = Settings(state=tmp_path)
    found = Engines(settings).build(flavour=RTX)
    folder.clean()
    assert [engine.stem for engine in folder.engines()] == [found.engine.stem]
    assert folder.unreadable() == []
