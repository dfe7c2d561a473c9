"""The wheels of a device are chosen for its processor, Python and C library, and looked into."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from accrue.board import boards
from accrue.errors import AccrueError, Refused
from provisioning.payload import target_of
from provisioning.wheelhouse import ROOT, Pin, Target, fetch, look, pins, refuse_name

ORIN = Target("aarch64", "3.10", "2.35", "jetpack6", "<2")
ROWS = [(board, system) for board in boards() for system in board.systems]


def wheel(folder: Path, name: str, machine: int | None = None) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "")
        if machine is not None:
            head = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little")
            archive.writestr("thing/core.so", head + bytes(44))
    return path


def test_every_platform_tag_of_the_c_library_is_given() -> None:
    assert ORIN.platforms[0] == "manylinux_2_35_aarch64"
    assert "manylinux_2_28_aarch64" in ORIN.platforms
    assert "manylinux_2_17_aarch64" in ORIN.platforms
    assert "manylinux2014_aarch64" in ORIN.platforms
    assert "manylinux_2_36_aarch64" not in ORIN.platforms


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].name}-{row[1].name}")
def test_every_row_has_locked_packages_that_its_system_can_live_with(row: tuple) -> None:
    target = target_of(*row)
    found = {pin.name: pin for pin in pins(ROOT / "requirements" / f"{target.lock}.txt", target)}
    assert {"numpy", "onnxruntime", "opencv-python-headless", "starlette"} <= found.keys()
    assert not {"colorama", "pyreadline3", "tensorrt", "torch", "onnxruntime-gpu"} & found.keys()
    assert ("cuda-bindings" in found) == (row[1].jetpack != "" or row[0].identity.gpu)
    if row[1].jetpack:
        major = row[1].cuda.split(".")[0]
        assert found["cuda-bindings"].version.split(".")[0] == major
        assert found["numpy"].version.startswith("1.") == row[1].jetpack.startswith("6")
    for pin in found.values():
        assert pin.hashes, f"{pin.name} is not pinned by hash"
        refuse_name(pin, target)


@pytest.mark.parametrize(
    "name", ["tensorrt", "tensorrt-cu12", "tensorrt-cu12-libs", "onnxruntime-gpu"]
)
def test_what_would_hide_a_package_of_jetpack_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="must not be in a wheelhouse"):
        refuse_name(Pin(name, "10.3", ()), ORIN)


def test_numpy_2_is_refused_where_the_system_needs_numpy_1() -> None:
    with pytest.raises(Refused, match=r"has numpy 2\.2\.6; this system needs numpy <2"):
        refuse_name(Pin("numpy", "2.2.6", ()), ORIN)


@pytest.mark.parametrize(
    "name",
    [
        "thing-1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "thing-1-cp310-cp310-manylinux_2_28_x86_64.whl",
        "thing-1-cp310-cp310-manylinux_2_39_aarch64.whl",
        "thing-1-cp310-cp310-musllinux_1_2_aarch64.whl",
    ],
)
def test_a_wheel_with_a_tag_that_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match=r"does not fit aarch64, Python 3\.10, glibc 2\.35"):
        look(wheel(tmp_path, name), ORIN)


@pytest.mark.parametrize(
    "name",
    [
        "thing-1-cp310-cp310-manylinux_2_28_aarch64.whl",
        "thing-1-cp37-abi3-manylinux2014_aarch64.whl",
        "thing-1-py3-none-any.whl",
    ],
)
def test_a_wheel_that_fits_is_taken(tmp_path: Path, name: str) -> None:
    assert look(wheel(tmp_path, name, machine=183), ORIN).name == "thing"


def test_a_library_for_another_processor_is_found_whatever_the_tag_says(tmp_path: Path) -> None:
    path = wheel(tmp_path, "thing-1-cp310-cp310-manylinux_2_28_aarch64.whl", machine=62)
    with pytest.raises(Refused, match=r"thing/core\.so for ELF machine 62; expected 183"):
        look(path, ORIN)


def test_wheels_that_are_not_to_be_had_are_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(AccrueError, match="cannot be had in") as caught:
        fetch(ORIN, tmp_path / "out", wheels=tmp_path)
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_the_wheels_of_jetpack_6_come_from_the_index_for_its_processor(tmp_path: Path) -> None:
    found = {wheel.name: wheel for wheel in fetch(ORIN, tmp_path)}
    assert found["numpy"].version.startswith("1.")
    assert "aarch64" in found["onnxruntime"].path.name
    assert "cp310" in found["numpy"].path.name
    assert not [name for name in found if name.startswith("tensorrt")]
