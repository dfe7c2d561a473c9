"""From a bundle to what serves it: the fall-back is real, and says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accrue.bundle import Bundle
from accrue.device import Device
from accrue.errors import EngineError, NotFound, UsageError
from accrue.service.box import Box
from accrue.service.doctor import engine_checks
from accrue.service.engines import Engines, Status
from accrue.service.settings import Settings
from accrue.vision.encode import OnnxEncoder, Parity
from accrue.vision.engines import (
    Engine,
    EngineFolder,
    EngineKey,
    Facts,
    Plan,
    Profile,
    choose,
    mismatch,
    select,
    serve,
)
from accrue.vision.engines.serving import provider_options

DEVICES = Path(__file__).parents[1] / "data" / "devices"
PARITY = Parity(0.9995, 0.9999, True)


def recorded(name: str) -> Device:
    return Device.from_document(json.loads((DEVICES / f"{name}.json").read_text())["device"])


@pytest.fixture
def folder(tmp_path: Path) -> EngineFolder:
    return EngineFolder(tmp_path / "engines")


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def placed(folder: EngineFolder, bundle: Bundle, device: Device, flavour: str) -> Engine:
    """An engine of that device's key, checked there; its plan is no real one."""
    sha256 = bundle.manifest.files["encoder.onnx"].sha256
    version = device.version_of(flavour)
    key = EngineKey.of(device, sha256, flavour, version, Profile(), {"workspace_mib": 1024})
    engine = folder.write(
        Plan(b"no plan", (), (), ()),
        key,
        encoder=bundle.manifest.name,
        space_id=bundle.manifest.space_id,
        file="encoder.onnx",
        build_s=90.0,
    )
    return folder.activate(engine, PARITY, on=device.gpu_title)


def test_an_engine_of_this_device_fits_and_one_of_another_tensorrt_does_not(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """The board moves from JetPack 6.2 to 7.2: the line says from what to what, and what to do."""
    after = recorded("jetpack-7.2-agx-orin")
    before = replace(
        after,
        cuda="12.6",
        l4t="36.4.3",
        jetpack="6.2",
        tensorrt_system="10.3.0.30",
        packages=tuple(
            replace(p, version="10.3.0") if p.name == "tensorrt" else p for p in after.packages
        ),
    )
    engine = placed(folder, bundle, before, "tensorrt")
    selection, fitting = choose(bundle, before, folder)
    assert selection.left[0] == "tensorrt"
    assert fitting["tensorrt"] == engine
    selection, fitting = choose(bundle, after, folder)
    assert fitting == {}
    assert selection.left[0] == "onnx-cuda"
    assert str(selection.why_not("tensorrt")) == (
        f"engine {engine.stem} was built for TensorRT 10.3.0.30 / SM 8.7 / CUDA 12.6 / L4T 36.4.3, "
        "this device has TensorRT 10.16.2.10 / SM 8.7 / CUDA 13.2 / L4T 39.2.0; "
        "rebuild with `accrue engine build`"
    )


def test_a_system_that_goes_back_finds_its_former_engine(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """As after a failed update of an A/B system: the previous engine is why it is kept."""
    old = recorded("jetpack-7.0-thor")
    new = replace(old, cuda="13.2", l4t="39.2.0")
    first = placed(folder, bundle, old, "tensorrt")
    second = placed(folder, bundle, new, "tensorrt")
    assert choose(bundle, new, folder)[1]["tensorrt"] == second
    assert choose(bundle, old, folder)[1]["tensorrt"] == first


def test_a_power_mode_that_turns_multiprocessors_off_is_another_device(
    folder: EngineFolder, bundle: Bundle
) -> None:
    whole = recorded("jetpack-6.1-orin-nx")
    assert whole.gpu is not None
    engine = placed(folder, bundle, whole, "tensorrt")
    saving = replace(whole, gpu=replace(whole.gpu, sm_count=4))
    assert mismatch(engine, bundle, whole) == ""
    assert "multiprocessors 8, this device has" in mismatch(engine, bundle, saving)


def test_an_engine_of_another_file_of_the_bundle_does_not_fit(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """Nor one of a file that the bundle no longer has."""
    device = recorded("rtx-4090")
    engine = placed(folder, bundle, device, "tensorrt-rtx")
    assert "built from another encoder" in mismatch(
        replace(engine, file="encoder.fp16.onnx"), bundle, device
    )
    key = replace(engine.key, onnx_sha256="c" * 64)
    assert "built from another encoder (cccc" in mismatch(replace(engine, key=key), bundle, device)


def test_a_portable_engine_is_checked_again_on_another_gpu(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """Its key is the same there; its embeddings need not be."""
    first = recorded("rtx-4090")
    assert first.gpu is not None
    engine = placed(folder, bundle, first, "tensorrt-rtx")
    other = replace(first.gpu, name="NVIDIA GeForce RTX 3060", compute_capability="8.6")
    second = replace(first, gpu=other)
    assert mismatch(engine, bundle, second) == ""
    assert str(choose(bundle, second, folder)[0].why_not("tensorrt-rtx")) == (
        f"engine {engine.stem} passed the golden check on NVIDIA GeForce RTX 4090 (SM 8.9), and "
        "not yet on NVIDIA GeForce RTX 3060 (SM 8.6); accrue engine verify"
    )
    assert choose(bundle, first, folder)[1]["tensorrt-rtx"] == engine


def test_an_engine_that_was_not_checked_does_not_serve(
    folder: EngineFolder, bundle: Bundle
) -> None:
    device = recorded("rtx-4090")
    engine = placed(folder, bundle, device, "tensorrt-rtx")
    folder.deactivate(engine)
    assert str(choose(bundle, device, folder)[0].why_not("tensorrt-rtx")) == (
        "the engine that was built has not passed the golden check on this device; "
        "accrue engine verify"
    )


def test_where_the_best_does_not_open_the_next_serves_with_the_reason(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """A device that claims what this machine has not: every claim fails at opening, the CPU
    serves, and its embeddings are the reference's."""
    claimed = replace(
        recorded("rtx-4090"),
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    )
    placed(folder, bundle, claimed, "tensorrt-rtx")
    found = serve(bundle, claimed, folder)
    assert found.candidate == "onnx-cpu"
    reasons = {d.candidate: d for d in found.dropped if d.filter == "opening"}
    assert sorted(reasons) == ["onnx-cuda", "tensorrt-rtx"]
    assert "this ONNX Runtime has no CUDAExecutionProvider" in reasons["onnx-cuda"].reason
    assert found.remark.endswith(
        f"; serving with ONNX Runtime on the CPU; {reasons['tensorrt-rtx'].hint}"
    )
    image = np.full((40, 40, 3), 127, np.uint8)
    np.testing.assert_array_equal(
        found.encoder.encode([image]), OnnxEncoder(bundle).encode([image])
    )


def test_there_is_no_remark_where_nothing_better_was_expected(
    folder: EngineFolder, bundle: Bundle
) -> None:
    """A plain CPU is no fault; a setting that cannot be met is."""
    plain = recorded("x86-cpu")
    assert serve(bundle, plain, folder).remark == ""
    wanted = serve(bundle, plain, folder, wanted="onnx-cuda")
    assert wanted.remark == "no NVIDIA GPU was found; serving with ONNX Runtime on the CPU"


def test_the_box_tells_its_remark_once_and_serves(tiny_bundle: Path, tmp_path: Path) -> None:
    """The command line prints it on stderr."""
    remarks: list[str] = []
    settings = Settings(state=tmp_path, bundle=tiny_bundle, encoder="tensorrt")
    with Box(settings, remark=remarks.append) as box:
        first, again = box.encoder, box.encoder
    assert first is again
    assert len(remarks) == 1
    assert remarks[0].endswith("serving with ONNX Runtime on the CPU")


def test_only_the_tensorrt_provider_gets_a_cache_and_only_its_own(tmp_path: Path) -> None:
    assert provider_options("onnx-cuda", lambda: tmp_path) == {}
    options = provider_options("onnx-tensorrt", lambda: tmp_path / "k")
    assert options == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path / "k"),
    }


# ---- the verbs -----------------------------------------------------------------------------------


@pytest.fixture
def settings(tiny_bundle: Path, tmp_path: Path) -> Settings:
    return Settings(state=tmp_path, bundle=tiny_bundle)


def test_what_cannot_be_built_here_is_refused_before_anything_is_written(
    settings: Settings,
) -> None:
    """With the reason of each flavour."""
    engines = Engines(settings, recorded("raspberry-pi-5"))
    with pytest.raises(EngineError) as raised:
        engines.build()
    assert raised.value.message == (
        "no engine can be built here: no NVIDIA GPU was found; TensorRT-RTX is not installed"
    )
    with pytest.raises(EngineError, match="no tensorrt engine can be built here: no NVIDIA GPU"):
        engines.build(flavour="tensorrt")
    assert not engines.folder.path.exists()


def test_the_flavour_is_the_first_that_builds_here(settings: Settings) -> None:
    for name, flavour in (
        ("jetpack-7.0-thor", "tensorrt"),
        ("rtx-4090", "tensorrt-rtx"),
        ("h100-both-runtimes", "tensorrt"),
    ):
        assert Engines(settings, recorded(name)).flavour() == flavour


def test_a_bundle_without_fp16_is_built_in_float32(settings: Settings) -> None:
    engines = Engines(settings, recorded("rtx-4090"))
    assert engines.file(None) == engines.file("fp32") == "encoder.onnx"
    with pytest.raises(UsageError, match="carries no fp16 encoder"):
        engines.file("fp16")


def test_verifying_without_an_engine_says_how_to_get_one(settings: Settings) -> None:
    with pytest.raises(NotFound, match=r"no engine for this encoder and device in .*; build"):
        Engines(settings, recorded("rtx-4090")).verify()
    with pytest.raises(NotFound, match="no engine tensorrt-1"):
        Engines(settings, recorded("rtx-4090")).verify("tensorrt-1")


def test_verifying_an_engine_of_another_device_says_what_differs(settings: Settings) -> None:
    """It is not even loaded."""
    engines = Engines(settings, recorded("jetpack-6.1-orin-nx"))
    engine = placed(engines.folder, engines.bundle, engines.device, "tensorrt")
    elsewhere = Engines(settings, recorded("jetpack-7.2-agx-orin"))
    with pytest.raises(NotFound, match=r"it was built for TensorRT 10\.3\.0\.30 / SM 8\.7"):
        elsewhere.verify()
    with pytest.raises(EngineError, match=f"engine {engine.stem} was built for TensorRT 10.3.0.30"):
        elsewhere.verify(engine.stem)


# ---- the doctor ----------------------------------------------------------------------------------

GIB = 2**30


def findings(name: str, engines: tuple[tuple[Engine, str, str], ...] = (), **changed: object):
    """Of a recorded device: (status, message, hint) of each finding."""
    device = replace(recorded(name), **changed)
    chain = select(Facts(device))
    status = Status(device, chain.left[0], chain.dropped, engines, ())
    return [(c.status, c.message, c.hint) for c in engine_checks(status, GIB)]


def test_the_doctor_finds_pips_tensorrt_before_jetpacks_numpy_2_and_too_little_memory() -> None:
    """All three at once on one recorded board, each with what to type."""
    found = findings("jetpack-6.2-orin-nano-pip-tensorrt")
    assert found[0] == ("ok", "ONNX Runtime on the CPU serves", "")
    texts = {message.split(" in ")[0]: (status, hint) for status, message, hint in found[1:]}
    assert texts == {
        "pip's TensorRT 10.16.1.11": (
            "warn",
            "pip uninstall tensorrt, in an environment made with --system-site-packages",
        ),
        "numpy is 2.2.6, and the onnxruntime-gpu of JetPack 6.2 was built for numpy 1": (
            "warn",
            "pip install 'numpy<2'",
        ),
    }
    assert "10.3.0.30" in found[1][1]


def test_the_doctor_finds_too_little_memory_where_an_engine_could_be_built() -> None:
    found = findings("jetpack-6.1-orin-nx", memory_available_bytes=500 * 2**20)
    assert found[-1] == (
        "warn",
        "500 MiB are free; building an engine takes about 1,024",
        "stop other programs, add swap, or build with --workspace 256",
    )
    assert len(findings("jetpack-6.1-orin-nx")) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jetpack-6.2-orin-nano-closed-venv", "the system's TensorRT 10.3.0.30 is installed, but"),
        ("rtx-4090", "onnxruntime 1.31.1 has no CUDAExecutionProvider"),
        ("h100-both-runtimes", "onnxruntime 1.31.1 and onnxruntime-gpu 1.29.0 are both installed"),
        ("jetpack-7.1-thor", "cuda-python is not installed"),
        ("jetpack-6.0-agx-orin", "TensorRT 8.6.2 has no strongly typed networks"),
        ("jetpack-5-xavier", "JetPack 5.1.2 (L4T 35.4.1) is out of support here"),
    ],
)
def test_the_doctor_finds_what_keeps_a_gpu_from_serving(name: str, message: str) -> None:
    """Once, although several candidates fall by the same cause."""
    found = [m for status, m, _ in findings(name) if status == "warn"]
    assert sum(m.startswith(message) for m in found) == 1


def test_the_doctor_finds_an_engine_of_another_version(
    folder: EngineFolder, bundle: Bundle
) -> None:
    device = recorded("jetpack-7.2-agx-orin")
    engine = placed(folder, bundle, recorded("jetpack-6.1-orin-nx"), "tensorrt")
    misfit = mismatch(engine, bundle, device)
    found = findings("jetpack-7.2-agx-orin", ((engine, "active", misfit),))
    assert found[-1] == ("warn", f"engine {engine.stem} was {misfit}", "accrue engine build")


@pytest.mark.parametrize("name", ["x86-cpu", "raspberry-pi-5", "jetpack-7.2-thor"])
def test_the_doctor_has_nothing_to_say_of_a_device_that_is_well(name: str) -> None:
    """No GPU is no fault."""
    assert [status for status, _, _ in findings(name)] == ["ok"]
