"""An overlay in a Debian: applied as for a Jetson, then booted for the first time.

No image of NVIDIA's is at hand. A Debian stands for its root file system, with the release file of
L4T and what its TNSPEC says, and a board that is described for it; all else is as on a board.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from emulation import Machine, Root, namespaces_work, qemu, require, require_root, root_archive
from release_world import pip_wheel, tiny_wheel
from tegra import FakeTegra

from accrue.board import Board, boards_folder
from accrue.bundle import default_bundle_path
from accrue.sync.identity import FOLDER, Membership
from accrue.sync.workspace import Workspace
from conftest import Wheels
from provisioning import flash
from provisioning.identities import issue
from provisioning.overlay import build_overlay
from provisioning.payload import Plan, target_of
from provisioning.wheelhouse import look

L4T, TNSPEC = "36.4.3", "3767-300-0005-N.2-1-0-jetson-orin-nano-devkit-"
PASSWORD = "correct horse"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def as_board(folder: Path, architecture: str) -> Board:
    """The Orin Nano's description, for the Debian that stands for its system."""
    found = yaml.safe_load((boards_folder() / "jetson-orin-nano-8gb.yaml").read_text())
    system = next(one for one in found["systems"] if one["jetpack"] == "6.2")
    system |= {"os": "debian-12", "python": "3.11", "glibc": "2.36"}
    found |= {"architecture": architecture, "systems": [system]}
    path = folder / "jetson-orin-nano-8gb.yaml"
    path.write_text(yaml.safe_dump(found))
    return Board.load(path)


def as_tegra(folder: Path, archive: Path, emulator: str = "") -> tuple[FakeTegra, Root]:
    """A Linux_for_Tegra whose root file system is that Debian."""
    tegra = FakeTegra(folder, L4T, "3.11")
    shutil.rmtree(tegra.rootfs)
    root = Root(archive, tegra.rootfs, emulator)
    release = f"# R36 (release), REVISION: {L4T.removeprefix('36.')}, GCID: 1, BOARD: generic\n"
    tegra.file("rootfs/etc/nv_tegra_release", release)
    tegra.file("rootfs/etc/nv_boot_control.conf", f"TNSPEC {TNSPEC}\n")
    tegra.file("rootfs/boot/Image", "kernel/Image\n")
    tegra.file("rootfs/boot/initrd", "initrd\n")
    tegra.file("rootfs/usr/lib/systemd/system/nv-oem-config.target", "[Unit]\n")
    default = tegra.rootfs / "etc/systemd/system/default.target"
    default.parent.mkdir(parents=True, exist_ok=True)
    default.unlink(missing_ok=True)
    default.symlink_to("/lib/systemd/system/nv-oem-config.target")
    return tegra, root


def applied(folder: Path, tegra: FakeTegra, plan: Plan, *words: str) -> None:
    made = build_overlay(folder / "overlays", plan)
    (folder / "password").write_text(f"{PASSWORD}\n")
    given = ["--l4t", str(tegra.folder), "--password-file", str(folder / "password"), "--yes"]
    assert flash.main([*given, *words], made) == 0
    members = flash.members_of(made / flash.TAR)
    assert flash.staged_problems(tegra.rootfs, members, "keeper") == []


def prepared(folder: Path) -> tuple[Path, bytes]:
    """An enrolment, and the public key of the owner who made it. Its broker is not there."""
    from accrue.sync.identity import Broker

    with Workspace.create(folder / "owner", "plant") as workspace:
        workspace.set_broker(Broker("192.0.2.1", 8883, True, "owner", "secret", ""))
        issue(workspace, ["dock-0001"], folder / "identities")
        return folder / "identities/dock-0001.enrolment", workspace.public


# ---- the processor of this machine, under its own systemd ---------------------------------------


@pytest.fixture(scope="module")
def booted(
    tmp_path_factory: pytest.TempPathFactory, amd64_wheels: Wheels
) -> Iterator[tuple[Machine, Path, bytes]]:
    """A device at its first boot, its root, and its owner's key."""
    require_root()
    require("systemd-nspawn", "systemd-container")
    folder = tmp_path_factory.mktemp("overlay-amd64")
    tegra, root = as_tegra(folder, root_archive("amd64"))
    board = as_board(folder, "x86_64")
    enrolment, owner = prepared(folder)
    plan = Plan(board, board.systems[0], default_bundle_path(), amd64_wheels.found, "1.0")
    applied(folder, tegra, plan, "--enrolment", str(enrolment))
    machine = Machine(root, folder / "console.txt")
    machine.boot()
    yield machine, tegra.rootfs, owner
    machine.cut_power()


def test_the_first_boot_installs_starts_and_joins_by_itself(
    booted: tuple[Machine, Path, bytes],
) -> None:
    machine, rootfs, owner = booted
    machine.until(
        lambda: machine.run("systemctl", "is-active", "accrue.service").stdout == "active\n", 600
    )
    assert machine.status()["version"] == "1.0"
    assert machine.status()["problems"] == []
    assert machine.do("hostname").strip() == "dock-0001"
    assert len((rootfs / "etc/machine-id").read_text().strip()) == 32, "made at this boot"
    shown = machine.do("stat", "-c", "%U %a", "/var/lib/accrue", "/etc/accrue/credentials")
    assert shown == "accrue 750\nroot 700\n"
    joined = Membership.load(rootfs / "var/lib/accrue" / FOLDER)
    assert (joined.fleet, joined.name, joined.owner) == ("plant", "dock-0001", owner)
    assert joined.broker.host == "192.0.2.1", "which is not there: the device serves all the same"
    status = json.loads(machine.do("accrue", "fleet", "status", "--json"))
    assert status["fleet"] == "plant"


def test_nobody_is_asked_at_a_keyboard_and_the_timer_of_backups_runs(
    booted: tuple[Machine, Path, bytes],
) -> None:
    machine, rootfs, _ = booted
    assert not (rootfs / "etc/systemd/system/default.target").exists()
    machine.until(
        lambda: machine.run("systemctl", "is-active", "accrue-backup.timer").stdout == "active\n"
    )


# ---- arm64, emulated ----------------------------------------------------------------------------


def test_on_arm64_the_first_steps_of_a_boot_install_what_the_overlay_brought(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    """With a program of a few lines: that the real one runs emulated, the package's tests show."""
    require_root()
    namespaces_work()
    tegra, root = as_tegra(tmp_path, root_archive("arm64"), qemu())
    board = as_board(tmp_path, "aarch64")
    target = target_of(board, board.systems[0])
    (tmp_path / "wheels").mkdir()
    paths = [pip_wheel(tmp_path), tiny_wheel(tmp_path / "wheels", "1.0")]
    wheels = [look(path, target) for path in paths]
    plan = Plan(board, board.systems[0], tiny_bundle, wheels, "1.0")
    applied(tmp_path, tegra, plan, "--hostname", "dock-0001")
    for name in ("bin", "lib", "sbin"):
        assert (tegra.rootfs / name).is_symlink()
    assert root.do("uname", "-m").strip() == "aarch64"
    root.do("systemd-sysusers")
    root.do("systemd-tmpfiles", "--create", "accrue.conf")
    root.do("/usr/lib/accrue/accrue-release", "boot")
    assert root.status()["version"] == "1.0"
    assert root.status()["problems"] == []
    assert root.do("/opt/accrue/current/venv/bin/accrue", "--version").strip() == "1.0"
    for unit in ("accrue.service", "accrue-backup.timer"):
        assert root.do("systemctl", "is-enabled", unit).strip() == "enabled"
    shown = root.do("stat", "-c", "%U %a", "/var/lib/accrue", "/etc/accrue/credentials")
    assert shown == "accrue 750\nroot 700\n"
