"""Which realisation serves on every device of the table, from recorded descriptions of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from accrue.device import Device, Package
from accrue.vision.engines import CANDIDATES, Facts, cannot_build, select
from accrue.vision.engines.selection import Why

RECORDED = Path(__file__).parents[1] / "data" / "devices"
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))
FITS = {"tensorrt": None, "tensorrt-rtx": None}  # as if an engine were there and fitted
GPU_CANDIDATES = ("tensorrt", "tensorrt-rtx", "onnx-cuda")
NOT_BUILT = "no engine was built"
NO_GPU = "no NVIDIA GPU was found"
PIP_RTX = 'TensorRT-RTX is not installed; pip install "accrue[rtx]"'
ONE_RUNTIME = "install one ONNX Runtime that has it: docs/engines.md, ONNX Runtime on a GPU"
PROVIDER = "has no CUDAExecutionProvider; " + ONE_RUNTIME
JETPACK_5 = "JetPack 5.1.2 (L4T 35.4.1) is out of support here; expected JetPack 6 or 7"


def device(name: str) -> Device:
    return Device.from_document(json.loads((RECORDED / f"{name}.json").read_text())["device"])


# With an engine that fits: what serves, and why not what comes before it or beside it.
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "jetpack-6.0-agx-orin": (
        "onnx-cpu",
        {
            "tensorrt": "TensorRT 8.6.2 has no strongly typed networks; expected 10 or newer; "
            "JetPack 6.1 brings 10.3",
            "tensorrt-rtx": PIP_RTX,
            "onnx-cuda": f"onnxruntime 1.23.2 {PROVIDER}",
        },
    ),
    "jetpack-6.1-orin-nx": ("tensorrt", {"tensorrt-rtx": PIP_RTX}),
    "jetpack-6.2-orin-nano-pip-tensorrt": (
        "onnx-cpu",
        {
            "tensorrt": "pip's TensorRT 10.16.1.11 in /home/op/accrue/lib/python3.10/site-packages "
            "hides JetPack's 10.3.0.30 and cannot build for SM 8.7; pip uninstall tensorrt, in an "
            "environment made with --system-site-packages",
            "onnx-cuda": "numpy is 2.2.6, and the onnxruntime-gpu of JetPack 6.2 was built for "
            "numpy 1; pip install 'numpy<2'",
        },
    ),
    "jetpack-6.2-orin-nano-closed-venv": (
        "onnx-cpu",
        {
            "tensorrt": "the system's TensorRT 10.3.0.30 is installed, but this Python does not "
            "see it; make its environment with --system-site-packages",
            "onnx-cuda": f"onnxruntime 1.23.2 {PROVIDER}",
        },
    ),
    "jetpack-7.0-thor": ("tensorrt", {"tensorrt-rtx": PIP_RTX}),
    "jetpack-7.1-thor": (
        "onnx-cpu",
        {
            "tensorrt": "cuda-python is not installed; pip install cuda-python",
            "onnx-cuda": f"onnxruntime 1.31.1 {PROVIDER}",
        },
    ),
    "jetpack-7.2-agx-orin": ("tensorrt", {}),
    "jetpack-7.2-thor": ("tensorrt", {}),
    "jetpack-5-xavier": ("onnx-cpu", dict.fromkeys(GPU_CANDIDATES, JETPACK_5)),
    "rtx-4090": (
        "tensorrt-rtx",
        {
            "tensorrt": 'TensorRT is not installed; pip install "accrue[tensorrt]"',
            "onnx-cuda": f"onnxruntime 1.31.1 {PROVIDER}",
        },
    ),
    "h100-both-runtimes": (
        "tensorrt",
        {
            "tensorrt-rtx": "TensorRT-RTX has no kernels for SM 9.0 (NVIDIA H100 80GB HBM3); it "
            "has 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
            "onnx-cuda": "onnxruntime 1.31.1 and onnxruntime-gpu 1.29.0 are both installed and "
            f"overwrite each other, and what is left has no CUDAExecutionProvider; {ONE_RUNTIME}",
        },
    ),
    "x86-cpu": ("onnx-cpu", dict.fromkeys(GPU_CANDIDATES, NO_GPU)),
    "raspberry-pi-5": ("onnx-cpu", dict.fromkeys(GPU_CANDIDATES, NO_GPU)),
}


def test_every_recorded_device_has_its_case_and_tells_its_source() -> None:
    """A description without one would be tested by nobody; one without a source is a guess."""
    assert sorted(CASES) == NAMES
    for name in NAMES:
        assert len(json.loads((RECORDED / f"{name}.json").read_text())["source"]) > 20


@pytest.mark.parametrize("name", NAMES)
def test_what_serves_where_an_engine_fits_and_why_not_the_others(name: str) -> None:
    """The whole line of each reason, as `accrue engine status` prints it."""
    serves, reasons = CASES[name]
    found = select(Facts(device(name), engines=FITS))
    assert found.left[0] == serves
    for candidate, reason in reasons.items():
        assert str(found.why_not(candidate)) == reason
    assert found.left[-1] == "onnx-cpu"
    assert {*found.left, *(d.candidate for d in found.dropped)} == set(CANDIDATES)


@pytest.mark.parametrize("name", NAMES)
def test_without_an_engine_onnx_runtime_serves_and_the_chain_says_why(name: str) -> None:
    """On the GPU where it can."""
    found = select(Facts(device(name)))
    on_gpu = "CUDAExecutionProvider" in device(name).providers
    numpy = name == "jetpack-6.2-orin-nano-pip-tensorrt"
    assert found.left[0] == ("onnx-cuda" if on_gpu and not numpy else "onnx-cpu")
    serves = CASES[name][0]
    if serves.startswith("tensorrt"):
        assert str(found.why_not(serves)) == f"{NOT_BUILT}; accrue engine build"


def test_the_reason_of_an_engine_that_does_not_fit_is_handed_on() -> None:
    """The filter says what the look into the folder found."""
    why = Why("engine X was built for TensorRT 10.3", "rebuild with `accrue engine build`")
    found = select(Facts(device("jetpack-7.2-agx-orin"), engines={"tensorrt": why}))
    drop = found.why_not("tensorrt")
    assert drop is not None
    assert (drop.filter, drop.reason, drop.hint) == ("engine", *why)
    assert found.left[0] == "onnx-cuda"


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ("auto", ("tensorrt", "onnx-cuda", "onnx-cpu")),
        ("tensorrt", ("tensorrt", "onnx-cuda", "onnx-cpu")),
        ("tensorrt-rtx", ("onnx-cuda", "onnx-cpu")),
        ("onnx-tensorrt", ("onnx-tensorrt", "onnx-cuda", "onnx-cpu")),
        ("onnx-cuda", ("onnx-cuda", "onnx-cpu")),
        ("onnx-cpu", ("onnx-cpu",)),
    ],
)
def test_the_setting_names_the_best_that_may_serve(wanted: str, left: tuple[str, ...]) -> None:
    """What comes after it stays as its fall-back; ONNX Runtime's TensorRT is never a fall-back."""
    assert select(Facts(device("jetpack-6.1-orin-nx"), wanted, FITS)).left == left


def test_choosing_changes_nothing_and_gives_the_same_again() -> None:
    """The filters are pure: no state, no clock, no look at this machine."""
    facts = Facts(device("rtx-4090"), engines=FITS)
    before = repr(facts)
    assert select(facts) == select(facts)
    assert repr(facts) == before


@pytest.mark.parametrize(
    ("cuda", "bindings", "reason"),
    [
        ("12.6", "13.5.0", "cuda-python 13.5.0 is too new for CUDA 12.6; pip install 'cuda-p"),
        ("13.0", "13.5.0", "CUDA does not answer; load the driver, and let this user open"),
        ("12.6", "", "cuda-python is not installed; pip install 'cuda-python>=12.6.1,<13'"),
        ("13.0", "", "cuda-python is not installed; pip install cuda-python"),
    ],
)
def test_where_cuda_does_not_answer_the_reason_tells_the_likeliest_cause(
    cuda: str, bindings: str, reason: str
) -> None:
    """A version that cannot work is named before the driver is suspected."""
    known = device("jetpack-6.1-orin-nx")
    assert known.gpu is not None
    others = tuple(p for p in known.packages if p.name != "cuda-bindings")
    packages = (*others, Package("cuda-bindings", bindings)) if bindings else others
    mute = replace(known, cuda=cuda, packages=packages, gpu=replace(known.gpu, usable=False))
    found = select(Facts(mute, engines=FITS)).why_not("tensorrt")
    assert found is not None
    assert str(found).startswith(reason)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_can_be_built_where_its_tensorrt_can(name: str) -> None:
    """TensorRT on the GPU that will run it; TensorRT-RTX wherever it is installed."""
    known = device(name)
    builds = {"jetpack-6.1-orin-nx", "jetpack-7.0-thor", "jetpack-7.1-thor", "h100-both-runtimes"}
    builds |= {"jetpack-7.2-agx-orin", "jetpack-7.2-thor"}
    assert (cannot_build(known, "tensorrt") is None) == (name in builds)
    rtx = known.package("tensorrt-rtx") is not None
    assert (cannot_build(known, "tensorrt-rtx") is None) == rtx


def test_a_description_goes_through_json_unchanged() -> None:
    """`accrue engine status --json` prints it, and a recorded one is read back."""
    for name in NAMES:
        known = device(name)
        assert Device.from_document(json.loads(json.dumps(known.document()))) == known
