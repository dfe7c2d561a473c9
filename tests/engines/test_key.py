"""The key of an engine: complete, and any difference is told."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from accrue.device import Device, Gpu
from accrue.errors import ConfigError, FormatError
from accrue.vision.engines import EngineKey, Profile, difference

KEY = EngineKey(
    onnx_sha256="a" * 64,
    profile=Profile(1, 1, 8),
    flavour="tensorrt",
    tensorrt="10.3.0.30",
    machine="aarch64",
    flags={"strongly_typed": True, "workspace_mib": 1024},
    cuda="12.6",
    l4t="36.4.3",
    gpu="Orin",
    compute_capability="8.7",
    sm_count=8,
)
OTHER: dict[str, tuple[Any, str]] = {
    "onnx_sha256": (
        "b" * 64,
        "built from another encoder (aaaaaaaaaaaa…; this one is bbbbbbbbbbbb…)",
    ),
    "profile": (Profile(1, 4, 8), "batch 1,1,8, this device has"),
    "tensorrt": (
        "10.16.2.10",
        "built for TensorRT 10.3.0.30 / SM 8.7, this device has TensorRT 10.16.2.10 / SM 8.7",
    ),
    "machine": ("x86_64", "processor aarch64, this device has"),
    "flags": ({"strongly_typed": True, "workspace_mib": 256}, "workspace_mib 1024, this device"),
    "cuda": ("13.2", "SM 8.7 / CUDA 12.6, this device has TensorRT 10.3.0.30 / SM 8.7 / CUDA 13.2"),
    "l4t": ("39.2.0", "L4T 36.4.3, this device has"),
    "gpu": ("NVIDIA Thor", "GPU Orin, this device has"),
    "compute_capability": ("11.0", "SM 8.7, this device has TensorRT 10.3.0.30 / SM 11.0"),
    "sm_count": (4, "multiprocessors 8, this device has"),
}


def test_equal_keys_differ_in_nothing() -> None:
    assert difference(KEY, replace(KEY)) == ""
    assert KEY.digest == replace(KEY, flags=dict(reversed(KEY.flags.items()))).digest


def test_every_field_of_the_key_is_put_to_the_test() -> None:
    """The flavour alone is not: engines of two flavours are never compared."""
    assert {*OTHER, "flavour"} == {field.name for field in fields(EngineKey)}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_any_difference_is_told_and_changes_the_digest(name: str) -> None:
    """A power mode that turns multiprocessors off counts too."""
    value, text = OTHER[name]
    other = replace(KEY, **{name: value})
    assert text in difference(KEY, other)
    assert other.digest != KEY.digest


def test_a_key_goes_through_its_sidecar_unchanged() -> None:
    assert EngineKey.from_document(json.loads(json.dumps(KEY.document()))) == KEY


@pytest.mark.parametrize("broken", [None, [], {}, {"profile": 1}, KEY.document() | {"new": 1}])
def test_what_is_no_key_is_refused(broken: Any) -> None:
    with pytest.raises(FormatError, match="not the key of an engine"):
        EngineKey.from_document(broken)


def test_the_key_of_a_device_holds_its_gpu_but_for_portable_engines() -> None:
    """TensorRT-RTX builds for every GPU that it knows, so its key names none."""
    gpu = Gpu("NVIDIA GeForce RTX 4090", "8.9", 128, usable=True)
    device = Device("x86_64", "3.12.3", cuda="13.0", gpu=gpu)
    common = (device, "a" * 64)
    here = EngineKey.of(*common, "tensorrt", "10.16.1.11", Profile(), {})
    assert (here.gpu, here.compute_capability, here.sm_count) == (gpu.name, "8.9", 128)
    assert here.cuda == "13.0"
    portable = EngineKey.of(*common, "tensorrt-rtx", "1.7.1.116", Profile(), {})
    assert (portable.gpu, portable.compute_capability, portable.sm_count) == ("", "", 0)
    assert portable == EngineKey.of(
        replace(device, gpu=None), "a" * 64, "tensorrt-rtx", "1.7.1.116", Profile(), {}
    )


@pytest.mark.parametrize("batches", [(0, 1, 8), (2, 1, 8), (1, 9, 8), (1, 1, 257)])
def test_a_profile_out_of_order_is_refused(batches: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="expected 1 <= LEAST <= BEST <= MOST <= 256"):
        Profile(*batches)
