"""The arm64 package on an emulated Debian: installed without a network, taught, asked, cut off."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from emulation import Root
from release_world import pip_wheel, tiny_wheel

from accrue.board import Board
from accrue.bundle import default_bundle_path
from conftest import Wheels
from provisioning.archive import write_tar
from provisioning.debian import build_package
from provisioning.payload import Plan, stage, target_of
from provisioning.wheelhouse import look

SAMPLES = Path(__file__).resolve().parents[2] / "tools/samples"
CLASSES = ("ball-bearing", "hex-bolt")
# Emulated, a view takes a second; what is shown is that it works, not how well it learns.
FEW = {"ACCRUE_VIEWS": "2", "ACCRUE_PREDICT_VIEWS": "1", "ACCRUE_THREADS": "1"}
CUTS = int(os.environ.get("ACCRUE_CUTS", "4"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400 + 120 * CUTS)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, arm64_wheels: Wheels) -> Path:
    plan = Plan(
        arm64_wheels.board, arm64_wheels.system, default_bundle_path(), arm64_wheels.found, "1.0"
    )
    return build_package(tmp_path_factory.mktemp("package"), plan)[0]


@pytest.fixture(scope="module")
def device(arm64: Root, package: Path) -> Root:
    """With the package installed."""
    arm64.do("dpkg", "--install", arm64.take(package, f"root/{package.name}"))
    return arm64


def test_the_package_installs_without_a_network_for_its_processor(device: Root) -> None:
    assert device.do("uname", "-m").strip() == "aarch64"
    assert "Status: install ok installed" in device.do("dpkg", "--status", "accrue")
    found = device.status()
    assert (found["version"], found["board"], found["problems"]) == ("1.0", "arm64", [])
    release = device.path / "opt/accrue/releases" / found["current"]
    libraries = list(release.rglob("*.so*"))
    assert len(libraries) > 20
    for library in libraries:
        head = library.read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        assert int.from_bytes(head[18:20], "little") == 183, library
    for unit in ("accrue.service", "accrue-backup.timer"):
        assert device.do("systemctl", "is-enabled", unit).strip() == "enabled"


def test_it_is_taught_and_recognises_photos_that_it_has_not_seen(device: Root) -> None:
    for name in CLASSES:
        photos = [
            device.take(SAMPLES / "teach" / name / f"{i:02}.jpg", f"srv/teach/{name}/{i}.jpg")
            for i in (1, 2, 3)
        ]
        device.do("accrue", "class", "teach", name, *photos, **FEW)
    asked = [
        device.take(SAMPLES / "test" / name / "01.jpg", f"srv/test/{name}.jpg") for name in CLASSES
    ]
    answers = json.loads(device.do("accrue", "predict", *asked, "--json", **FEW))
    nearest = [re.search("|".join(CLASSES), json.dumps(one)) for one in answers["predictions"]]
    assert [found and found[0] for found in nearest] == list(CLASSES)


def test_what_was_taught_belongs_to_the_user_of_the_service(device: Root) -> None:
    owner = (device.path / "var/lib/accrue").stat()
    assert owner.st_uid != 0
    for path in (device.path / "var/lib/accrue").rglob("*"):
        assert path.lstat().st_uid == owner.st_uid, path


def test_a_package_for_another_processor_is_refused(
    device: Root, tmp_path: Path, amd64_wheels: Wheels
) -> None:
    plan = Plan(
        amd64_wheels.board, amd64_wheels.system, default_bundle_path(), amd64_wheels.found, "9.0"
    )
    other = build_package(tmp_path, plan)[0]
    done = device.run("dpkg", "--install", device.take(other, f"root/{other.name}"))
    assert done.returncode != 0
    assert "does not match system" in done.stderr
    done = device.run("accrue-release", "install", _payload_of(device, other))
    assert done.returncode == 6
    assert "is for x86_64, this device has aarch64 (processor)" in done.stderr
    assert device.status()["version"] == "1.0"


def _payload_of(device: Root, package: Path) -> str:
    subprocess.run(["dpkg-deb", "-x", package, device.path / "srv/other"], check=True)
    folder = next((device.path / "srv/other/usr/lib/accrue/payload").iterdir())
    return f"/srv/other/usr/lib/accrue/payload/{folder.name}"


def test_it_is_removed_and_purged_without_what_was_taught(device: Root) -> None:
    before = (device.path / "var/lib/accrue/state.db").read_bytes()
    device.do("dpkg", "--remove", "accrue")
    for gone in ("opt/accrue", "usr/lib/accrue", "usr/bin/accrue"):
        assert not (device.path / gone).exists(), gone
    assert (device.path / "etc/accrue/accrue.yaml").is_file()
    said = device.do("dpkg", "--purge", "accrue")
    assert "sudo rm -r /var/lib/accrue" in said
    assert not (device.path / "etc/accrue/accrue.yaml").exists()
    assert (device.path / "var/lib/accrue/state.db").read_bytes() == before


# --- the power is cut, in the emulated root -------------------------------------------------------


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Staged trees with a wheel of a few lines, so that an install takes seconds here."""
    board = Board.load("arm64")
    system = board.system("debian-12")
    made = {}
    for version in ("1.0", "2.0"):
        folder = tmp_path_factory.mktemp(f"tree-{version[0]}")
        target = target_of(board, system)
        wheels = [look(path, target) for path in (pip_wheel(folder), tiny_wheel(folder, version))]
        staged = stage(folder / "root", Plan(board, system, default_bundle_path(), wheels, version))
        made[version] = folder / "root", staged.folder
    return made


def test_an_overlay_installs_itself_at_the_first_start_and_a_cut_leaves_the_old_or_the_new(
    arm64: Root, trees: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    """SIGKILL of everything at random moments of the first start, and of an update."""
    shutil.rmtree(arm64.path / "opt/accrue", ignore_errors=True)
    shutil.rmtree(arm64.path / "usr/lib/accrue", ignore_errors=True)
    for tree, _ in trees.values():
        overlay = tmp_path / "overlay.tar.gz"
        write_tar(tree, overlay)
        subprocess.run(["tar", "-xzpf", overlay, "-C", arm64.path, "--numeric-owner"], check=True)
    arm64.do("systemd-sysusers", "accrue.conf")
    (new,) = (folder for version, (_, folder) in trees.items() if version == "2.0")
    aside = arm64.path / "srv/new"
    shutil.rmtree(aside, ignore_errors=True)
    (arm64.path / new.lstrip("/")).rename(aside)  # the image carries the old one

    moments = random.Random(None if os.environ.get("ACCRUE_RANDOM") else 11)
    started = time.monotonic()
    arm64.do("accrue-release", "boot")
    took = time.monotonic() - started
    seen = set()
    for number in range(CUTS):
        first = number % 2 == 0
        if first:
            shutil.rmtree(arm64.path / "opt/accrue")
            words = ("boot",)
        else:
            if arm64.status()["version"] == "2.0":
                arm64.do("accrue-release", "rollback")
                for folder in (arm64.path / "opt/accrue/releases").glob("2.0*"):
                    shutil.rmtree(folder)
            words = ("install", "/srv/new", "--trial", "--no-wait")
        with subprocess.Popen(
            arm64.command("accrue-release", *words), stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(moments.uniform(0, took))
            process.send_signal(signal.SIGKILL)
        arm64.do("accrue-release", "boot")
        found = arm64.status()
        assert found["version"] in (("1.0",) if first else ("1.0", "2.0"))
        assert not found["problems"]
        program = "/opt/accrue/current/venv/bin/accrue"
        assert arm64.do(program, "--version").strip() == found["version"]
        seen.add(found["version"])
        print(f"cut {number + 1} of {CUTS}, in {' '.join(words)}: runs {found['version']}")
    assert "1.0" in seen
