"""A Debian package is the same bytes each time, and holds what it should where it should."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from release_world import here, pip_wheel, tiny_wheel

from accrue.board import boards_folder
from accrue.errors import ConfigError, UsageError
from provisioning.archive import entries, write_tar
from provisioning.debian import build_package
from provisioning.payload import Plan, stage, target_of
from provisioning.wheelhouse import build_own, look

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is missing: apt-get install dpkg"
)


@pytest.fixture
def plan(tmp_path: Path, tiny_bundle: Path) -> Plan:
    board, system = here()
    target = target_of(board, system)
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheels = [look(path, target) for path in (pip_wheel(folder), tiny_wheel(folder, "1.0"))]
    return Plan(board, system, tiny_bundle, wheels, "1.0")


@needs_dpkg
def test_the_same_plan_gives_the_same_package_byte_for_byte(tmp_path: Path, plan: Plan) -> None:
    first, staged = build_package(tmp_path / "a", plan)
    time.sleep(1.1)  # another second on the clock, other times of the files that it is made from
    os.umask(0o077)
    try:
        second, again = build_package(tmp_path / "b", plan)
    finally:
        os.umask(0o022)
    assert (first.name, staged) == (second.name, again)
    assert first.read_bytes() == second.read_bytes()


@needs_dpkg
def test_the_package_says_what_it_is_for(tmp_path: Path, plan: Plan) -> None:
    path, staged = build_package(tmp_path, plan)
    fields = subprocess.run(
        ["dpkg-deb", "--field", path], check=True, capture_output=True, text=True
    ).stdout
    assert "Package: accrue\nVersion: 1.0\n" in fields
    assert f"python3 (>= {plan.system.python}~), python3 (<< 3." in fields
    assert f"Release {staged.id}." in fields
    assert path.name.startswith(f"accrue_1.0_{plan.board.name}_")


def test_the_tree_has_no_folder_that_would_replace_a_link_of_the_system(
    tmp_path: Path, plan: Plan
) -> None:
    """`lib`, `bin` and `sbin` are links in a merged-usr system; a folder in their place ends it."""
    root = tmp_path / "root"
    stage(root, plan)
    assert {path.name for path in root.iterdir()} == {"usr", "etc"}


def test_owner_mode_and_time_do_not_depend_on_who_stages(tmp_path: Path, plan: Plan) -> None:
    root = tmp_path / "root"
    stage(root, plan)
    for entry in entries(root):
        assert (entry.uid, entry.gid, entry.mtime) == (0, 0, plan.epoch), entry.name
        program = entry.name.startswith(("usr/bin/", "usr/lib/accrue/accrue-"))
        expected = 0o777 if entry.issym() else 0o755 if entry.isdir() or program else 0o644
        assert entry.mode == expected, entry.name


def test_a_tree_is_the_same_archive_each_time(tmp_path: Path, plan: Plan) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stage(tmp_path / name, plan)
        write_tar(tmp_path / name, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert tar.getmember("usr/sbin/accrue-release").linkname == "../lib/accrue/accrue-release"


def test_the_payload_lists_every_file_of_it_with_its_hash(tmp_path: Path, plan: Plan) -> None:
    staged = stage(tmp_path, plan)
    folder = tmp_path / staged.folder.lstrip("/")
    document = json.loads((folder / "payload.json").read_text())
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(document["files"]) == found - {"payload.json"}
    for name, entry in document["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["accrue"]
    assert "--hash=sha256:" in lines[0]


def test_a_board_of_ones_own_goes_along(tmp_path: Path, plan: Plan) -> None:
    own = tmp_path / "own.yaml"
    own.write_text((boards_folder() / f"{plan.board.name}.yaml").read_text() + "# of ours\n")
    staged = stage(tmp_path / "root", replace(plan, board_file=own))
    carried = tmp_path / "root" / staged.folder.lstrip("/") / "board.yaml"
    assert carried.read_text().endswith("# of ours\n")


@pytest.mark.slow
def test_the_wheel_of_this_checkout_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    target = target_of(*here())
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found.append(build_own(tmp_path / name, target, 1_767_225_600).sha256)
    assert found[0] == found[1]


def test_a_version_that_no_package_can_have_and_a_setting_that_is_none_are_refused(
    tmp_path: Path, plan: Plan
) -> None:
    with pytest.raises(UsageError, match="version 'next week' is none"):
        stage(tmp_path / "a", replace(plan, version="next week"))
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        stage(tmp_path / "b", replace(plan, settings={"colour": "red"}))
