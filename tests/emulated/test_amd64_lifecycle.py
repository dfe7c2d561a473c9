"""The amd64 package on a booted Debian: installed, taught, upgraded, gone back from, removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulation import Machine

from accrue.bundle import default_bundle_path
from conftest import Wheels
from provisioning import payload
from provisioning.debian import build_package
from provisioning.payload import Plan, target_of
from provisioning.wheelhouse import Wheel, look

SAMPLES = Path(__file__).resolve().parents[2] / "tools/samples"
TAUGHT = ("ball-bearing", "hex-bolt")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Of a release that brings the state to a newer format and then dies: the worst that one can do.
BROKEN = """
def run(*words, **more):
    import sqlite3, sys
    with sqlite3.connect("/var/lib/accrue/state.db") as db:
        db.execute(f"PRAGMA user_version = {version}")
    sys.exit("this release does not run")
"""


@dataclass(frozen=True)
class Packages:
    """Paths of the packages, by version."""

    path: dict[str, Path]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, amd64_wheels: Wheels) -> Packages:
    made = {}
    folder = tmp_path_factory.mktemp("packages")
    for version in ("1.0", "1.1", "1.2"):
        wheels = list(amd64_wheels.found)
        stores = dict(payload.STORES)
        if version == "1.2":
            stores["state.db"] += 1
            wheels[-1] = broken(wheels[-1], folder, stores["state.db"], amd64_wheels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(payload, "STORES", stores)
            patch.setattr(payload, "UNITS", ("accrue.service",))
            plan = Plan(
                amd64_wheels.board, amd64_wheels.system, default_bundle_path(), wheels, version
            )
            made[version] = build_package(folder, plan)[0]
    return Packages(made)


def broken(wheel: Wheel, folder: Path, version: int, wheels: Wheels) -> Wheel:
    """The same wheel, with an `accrue run` that ruins and dies."""
    path = folder / wheel.path.name
    with zipfile.ZipFile(wheel.path) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "accrue/cli/serve.py":
                content += BROKEN.replace("{version}", str(version)).encode()
            if entry.filename.endswith(".dist-info/RECORD"):  # its hash of that file is not asked
                content = b"".join(
                    line if b"cli/serve.py" not in line else b"accrue/cli/serve.py,,\n"
                    for line in content.splitlines(keepends=True)
                )
            target.writestr(entry, content)
    return look(path, target_of(wheels.board, wheels.system))


@pytest.fixture(scope="module")
def device(machine: Machine, packages: Packages) -> Machine:
    """With the first version installed, running and taught."""
    for version, path in packages.path.items():
        machine.root.take(path, f"root/{version}.deb")
    machine.do("dpkg", "--install", "/root/1.0.deb")
    machine.until(lambda: answers(machine))
    for name in TAUGHT:
        there = machine.root.take(SAMPLES / "teach" / name, f"srv/teach/{name}")
        machine.do("accrue", "class", "teach", name, there)
    return machine


def answers(machine: Machine) -> bool:
    """Whether the service is ready, as a supervisor asks."""
    code = (
        "import json, ssl, urllib.request as u;"
        "url = json.load(open('/var/lib/accrue/run.json'))['url'];"
        "port = url.rstrip('/').rpartition(':')[2];"
        "c = ssl._create_unverified_context();"
        "print(u.urlopen(f'https://127.0.0.1:{port}/readyz', context=c, timeout=5).status)"
    )
    return machine.run("python3", "-c", code).stdout.strip() == "200"


def digest(machine: Machine) -> list:
    """What is known, in an order."""
    found = json.loads(machine.do("accrue", "class", "list", "--json"))
    return sorted((one["name"], one["shots"]) for one in found["classes"])


def test_it_runs_under_systemd_as_its_own_user_and_is_taught(device: Machine) -> None:
    shown = device.do("systemctl", "show", "accrue.service", "--property=ActiveState,User")
    assert "ActiveState=active" in shown
    assert "User=accrue" in shown
    assert [name for name, _ in digest(device)] == sorted(TAUGHT)


def test_an_upgrade_is_kept_once_it_is_healthy_and_knows_the_classes(device: Machine) -> None:
    before, state = digest(device), device.status()
    device.do("dpkg", "--install", "/root/1.1.deb")
    found = device.status()
    assert (found["version"], found["trial"]) == ("1.1", None)
    assert found["previous"] == state["current"]
    assert digest(device) == before
    assert answers(device)


def test_an_upgrade_that_does_not_run_is_gone_back_from_by_itself_with_what_was_taught(
    device: Machine,
) -> None:
    before = digest(device)
    done = device.run("env", "ACCRUE_RELEASE_WAIT=20", "dpkg", "--install", "/root/1.2.deb")
    assert done.returncode != 0
    assert "is the current release again: not healthy within 20 s" in done.stderr
    found = device.status()
    assert (found["version"], found["trial"]) == ("1.1", None)
    device.until(lambda: answers(device))
    assert digest(device) == before
    assert "rolled back" in json.dumps(found["last"])
    strangers = device.do("find", "/var/lib/accrue", "!", "-user", "accrue")
    assert strangers == "", "root has looked into the databases, and left files of its own"


def test_a_trial_that_a_power_cut_left_open_is_decided_at_the_next_start(device: Machine) -> None:
    """By the units, in their sandboxes: the release does not run, so the one before comes back."""
    before, found = digest(device), device.status()
    (broken_one,) = (one for one in found["installed"] if one.startswith("1.2-"))
    unit = device.root.path / "etc/systemd/system/accrue-health.service.d/wait.conf"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nEnvironment=ACCRUE_RELEASE_WAIT=15\n")
    device.do("accrue-release", "activate", broken_one, "--trial", "--no-wait")
    device.cut_power()
    device.boot()
    device.until(lambda: device.status()["trial"] is None)
    assert device.status()["version"] == "1.1"
    assert "not healthy within 15 s" in device.status()["last"]["why"]
    device.until(lambda: answers(device))
    assert digest(device) == before
    shutil.rmtree(unit.parent)


def test_an_operator_goes_back_and_the_older_package_can_be_put_in_its_place(
    device: Machine,
) -> None:
    before = digest(device)
    device.do("dpkg", "--install", "/root/1.1.deb")
    assert device.status()["version"] == "1.1"
    device.do("accrue-release", "rollback")
    assert device.status()["version"] == "1.0"
    device.until(lambda: answers(device))
    assert digest(device) == before
    device.do("dpkg", "--install", "--force-downgrade", "/root/1.0.deb")
    assert "Version: 1.0\n" in device.do("dpkg", "--status", "accrue")
    assert device.status()["version"] == "1.0"


def test_the_power_is_cut_while_it_runs_and_it_runs_again(device: Machine) -> None:
    before = digest(device)
    device.cut_power()
    device.boot()
    device.until(lambda: answers(device))
    assert digest(device) == before


def test_removed_and_purged_nothing_of_it_is_left_but_what_was_taught(device: Machine) -> None:
    taught = subprocess.run(
        ["sha256sum", device.root.path / "var/lib/accrue/state.db"], capture_output=True, check=True
    ).stdout
    device.do("dpkg", "--remove", "accrue")
    assert "inactive" in device.run("systemctl", "is-active", "accrue.service").stdout
    said = device.do("dpkg", "--purge", "accrue")
    assert "What was taught stays in /var/lib/accrue" in said
    left = [
        path
        for folder in ("usr", "etc", "opt")
        for path in (device.root.path / folder).rglob("*accrue*")
    ]
    assert left == [], left
    assert taught.split()[0].decode() in (
        subprocess.run(
            ["sha256sum", device.root.path / "var/lib/accrue/state.db"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
