"""The description of a device, read from a recorded tree of files and from this machine."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from accrue.device import Device, Gpu, Package, describe, installed_packages, major_minor

TREE = Path(__file__).parents[1] / "data" / "devices" / "tree-orin-nx"
VENV = str(TREE / "home/op/accrue/lib/python3.10/site-packages")
SYSTEM = str(TREE / "usr/lib/python3.10/dist-packages")


def described(root: Path = TREE, search: tuple[str, ...] = (VENV, SYSTEM), smi: str = "") -> Device:
    return describe(
        root,
        search=search,
        ask_cuda=lambda: None,
        ask_smi=lambda: smi,
        ask_providers=lambda: ("CPUExecutionProvider",),
    )


def test_a_jetson_is_read_from_its_files() -> None:
    """System, packages, GPU and memory; the GPU by its chip where CUDA cannot be asked."""
    found = described()
    assert found.model == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert (found.l4t, found.jetpack, found.cuda) == ("36.4.4", "6.2.1", "12.6")
    assert found.tensorrt_system == "10.3.0.30"
    assert found.gpu == Gpu("tegra234", "8.7", 0, usable=False)
    assert found.memory_total_bytes == 16_032_168 * 1024
    assert found.memory_available_bytes == 12_650_240 * 1024
    assert found.python == platform.python_version()


def test_pips_tensorrt_hides_jetpacks() -> None:
    """Both are told, in the order in which Python looks."""
    found = described()
    assert found.package("tensorrt") == Package("tensorrt", "10.16.1.11", VENV)
    assert found.hidden("tensorrt") == Package("tensorrt", "10.3.0", SYSTEM, True, True)
    assert found.version_of("tensorrt") == "10.16.1.11"
    turned = described(search=(SYSTEM, VENV))
    assert turned.package("tensorrt") == Package("tensorrt", "10.3.0", SYSTEM, system=True)
    assert turned.version_of("tensorrt") == "10.3.0.30"  # the system's package has it in full


def test_packages_are_known_by_their_normal_names() -> None:
    """The folder is onnxruntime_gpu, the package onnxruntime-gpu; others are not listed."""
    names = [package.name for package in installed_packages([VENV])]
    assert sorted(names) == ["numpy", "onnxruntime-gpu", "tensorrt"]
    assert installed_packages(["/nowhere"]) == ()


def test_an_empty_tree_is_a_plain_machine(tmp_path: Path) -> None:
    """Nothing is there, and nothing is raised."""
    found = described(tmp_path, ())
    assert (found.l4t, found.jetpack, found.cuda, found.model, found.gpu) == ("", "", "", "", None)
    assert found.packages == ()
    assert not found.jetson


@pytest.mark.parametrize(
    ("line", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic", "36.3.0", "6.0"),
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic", "36.4.0", "6.1"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 5.0, GCID: 1, BOARD: generic", "36.5.0", "6.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "38.2.0", "7.0"),
        ("# R38 (release), REVISION: 4.0, GCID: 1, BOARD: generic", "38.4.0", "7.1"),
        ("# R39 (release), REVISION: 2.1, GCID: 1, BOARD: generic", "39.2.1", "7.2"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1", "5"),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic", "99.1.0", ""),
        ("something else", "", ""),
    ],
)
def test_the_jetpack_follows_from_l4t_where_its_package_is_absent(
    tmp_path: Path, line: str, l4t: str, jetpack: str
) -> None:
    """As on an image without the `nvidia-jetpack` package."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(line + "\n")
    found = described(tmp_path)
    assert (found.l4t, found.jetpack) == (l4t, jetpack)


@pytest.mark.parametrize(
    ("smi", "gpu", "cuda"),
    [
        (
            "NVIDIA GeForce RTX 4090, 8.9, 580.65.06\nCUDA Version: 13.0",
            Gpu("NVIDIA GeForce RTX 4090", "8.9"),
            "13.0",
        ),
        ("Orin (nvgpu), [N/A], 540.4.0\nCUDA Version: 12.6", None, "12.6"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver\n", None, ""),
        ("", None, ""),
    ],
)
def test_what_nvidia_smi_says_is_read_or_left(
    tmp_path: Path, smi: str, gpu: Gpu | None, cuda: str
) -> None:
    """On a Jetson it gives no compute capability; without a driver, an excuse."""
    found = described(tmp_path, smi=smi)
    assert (found.gpu, found.cuda) == (gpu, cuda)


def test_what_cuda_says_goes_before_all_else() -> None:
    """It alone knows how many multiprocessors are on."""
    orin = Gpu("Orin", "8.7", 4, usable=True)
    found = describe(TREE, search=(), ask_cuda=lambda: orin, ask_smi=str, ask_providers=tuple)
    assert found.gpu == orin


def test_this_machine_is_described() -> None:
    """What is imported here is what the description names."""
    import numpy
    import onnxruntime

    found = describe()
    package = found.package("numpy")
    assert package is not None
    assert package.version == numpy.__version__
    assert not package.system
    assert list(found.providers) == onnxruntime.get_available_providers()
    assert found.machine == platform.machine()
    assert 0 < found.memory_available_bytes <= found.memory_total_bytes
    assert Device.from_document(found.document()) == found


def test_a_version_is_compared_by_its_first_two_numbers() -> None:
    assert major_minor("10.3.0.30") == (10, 3)
    assert major_minor("2") == (2, 0)
    assert major_minor("") == (0, 0)
    assert replace(described(), jetpack="").jetson
