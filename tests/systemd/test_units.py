"""The units: read by systemd without a word, known to JetPack 6's systemd, and shut tightly."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(SYSTEMD.glob("system/*"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
OLDEST = 249  # of JetPack 6 (Ubuntu 22.04); it ignores newer keys with a warning in the journal
MOST_EXPOSED = 2.5
HOST_UNITS = Path("/usr/lib/systemd/system")

# The systemd that has known a key first, by its NEWS and by systemd.directives(7). A key that is
# not here is one to look up.
SINCE = {
    "Unit": {
        **dict.fromkeys(["Description", "Wants", "After", "Before", "Conflicts", "OnFailure"], 1),
        **dict.fromkeys(["ConditionPathExists", "RequiresMountsFor"], 201),
        **dict.fromkeys(["StartLimitIntervalSec", "StartLimitBurst"], 230),
    },
    "Install": {"WantedBy": 1},
    "Path": {"PathChanged": 1},
    "Timer": {"OnCalendar": 186, "Persistent": 212, "RandomizedDelaySec": 229},
    "Service": {
        **dict.fromkeys(["Type", "ExecStart", "User", "Group", "SupplementaryGroups", "UMask"], 1),
        **dict.fromkeys(["Restart", "RestartSec", "NotifyAccess", "RemainAfterExit"], 1),
        **dict.fromkeys(["TimeoutStartSec", "TimeoutStopSec", "WatchdogSec"], 188),
        **dict.fromkeys(["Environment", "Nice", "IOSchedulingClass", "OOMScoreAdjust"], 1),
        **dict.fromkeys(["LimitNOFILE", "LimitCORE", "PrivateTmp", "PrivateNetwork"], 1),
        **dict.fromkeys(["PrivateDevices", "NoNewPrivileges", "CapabilityBoundingSet"], 209),
        **dict.fromkeys(
            ["SystemCallFilter", "SystemCallErrorNumber", "SystemCallArchitectures"], 209
        ),
        **dict.fromkeys(["DevicePolicy", "DeviceAllow"], 208),
        **dict.fromkeys(["RuntimeDirectory", "RuntimeDirectoryMode"], 211),
        **dict.fromkeys(["RestrictAddressFamilies"], 211),
        **dict.fromkeys(["ProtectHome", "ProtectSystem"], 214),
        "TasksMax": 227,
        "AmbientCapabilities": 229,
        **dict.fromkeys(["MemoryHigh", "MemoryMax", "ReadWritePaths", "RestrictRealtime"], 231),
        "MemoryDenyWriteExecute": 231,
        **dict.fromkeys(["CPUWeight", "RemoveIPC", "PrivateUsers"], 232),
        **dict.fromkeys(["ProtectKernelTunables", "ProtectKernelModules"], 232),
        **dict.fromkeys(["ProtectControlGroups"], 232),
        "RestrictNamespaces": 233,
        **dict.fromkeys(["StateDirectory", "StateDirectoryMode"], 235),
        **dict.fromkeys(["CacheDirectory", "CacheDirectoryMode"], 235),
        **dict.fromkeys(["KeyringMode", "LockPersonality", "IPAddressAllow", "IPAddressDeny"], 235),
        **dict.fromkeys(["ProtectHostname", "RestrictSUIDSGID"], 242),
        "OOMPolicy": 243,
        "ProtectKernelLogs": 244,
        "ProtectClock": 245,
        **dict.fromkeys(["ProtectProc", "LoadCredential", "SetCredential"], 247),
    },
}


def settings_of(unit: Path) -> list[tuple[str, str, str]]:
    """(section, key, value) of each line."""
    found, section = [], ""
    for line in unit.read_text().splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, f"{unit.name}: {line!r} is no setting"
            found.append((section, key, value))
    return found


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here; it comes with systemd: apt-get install systemd")
    return subprocess.run(
        ["systemd-analyze", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_every_key_is_known_to_the_systemd_of_jetpack_6(unit: Path) -> None:
    for section, key, _ in settings_of(unit):
        assert key in SINCE[section], f"{key} in [{section}]: look up since when it is known"
        assert SINCE[section][key] <= OLDEST, f"{key} is known from systemd {SINCE[section][key]}"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units, what they start, and the targets of this machine's systemd."""
    root = tmp_path_factory.mktemp("root")
    there = root / "usr/lib/systemd/system"
    there.mkdir(parents=True)
    if not HOST_UNITS.is_dir():
        pytest.skip(f"no units in {HOST_UNITS}: apt-get install systemd")
    for unit in [*HOST_UNITS.glob("*.target"), *HOST_UNITS.glob("systemd-tmpfiles-setup.service")]:
        shutil.copy(unit, there)
    for name in ("systemd-sysusers.service", "systemd-journald.socket"):
        shutil.copy(HOST_UNITS / name, there)
    for unit in UNITS:
        shutil.copy(unit, there)
    lines = [line for unit in UNITS for line in settings_of(unit)]
    programs = {value.lstrip("-").split()[0] for _, key, value in lines if key == "ExecStart"}
    for program in programs | {"/usr/bin/systemd-tmpfiles", "/usr/bin/systemd-sysusers"}:
        path = root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return root


def complaints(root: Path, unit: str) -> list[str]:
    """What `systemd-analyze verify` says of a unit; its exit code is 0 for keys it ignores."""
    done = analyze("verify", f"--root={root}", "--man=no", "--recursive-errors=no", unit)
    return done.stdout.splitlines()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_reads_it_without_a_word(staged: Path, unit: Path) -> None:
    assert complaints(staged, unit.name) == []


def test_the_check_would_hear_of_a_key_that_is_ignored(staged: Path) -> None:
    """It exits 0 then, so the test above stands on what it prints."""
    bad = staged / "usr/lib/systemd/system/accrue-bad.service"
    text = (staged / "usr/lib/systemd/system/accrue-backup.service").read_text()
    bad.write_text(text.replace("UMask=0077", "UMasc=0077"))
    try:
        assert any("UMasc" in line for line in complaints(staged, bad.name))
    finally:
        bad.unlink()


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_what_a_service_could_do_beside_its_work_is_little(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= MOST_EXPOSED, done.stdout
    assert "Invalid" not in done.stdout
    assert "Unknown" not in done.stdout


def test_what_is_left_off_has_its_reason_beside_it() -> None:
    """Each protection that CUDA, cameras or the network cannot live with is named in a comment."""
    comments = "\n".join(
        line
        for line in (SYSTEMD / "system/accrue.service").read_text().splitlines()
        if line.startswith("#")
    )
    given = {key: value for _, key, value in settings_of(SYSTEMD / "system/accrue.service")}
    for key in (
        *("PrivateDevices", "PrivateTmp", "MemoryDenyWriteExecute", "ProcSubset"),
        *("PrivateUsers", "PrivateNetwork", "IPAddressDeny"),
    ):
        assert given.get(key, "no") == "no"
        assert re.search(rf"^# .*{key}", comments, re.M), key


def test_the_service_and_the_build_see_the_same_gpu() -> None:
    """A node that the one may open and the other not would make engines that do not load."""
    nodes = {
        name: {v for _, k, v in settings_of(SYSTEMD / "system" / name) if k == "DeviceAllow"}
        for name in ("accrue.service", "accrue-engine.service")
    }
    cameras = {"char-video4linux rw", "char-media rw", "char-*capture* rw"}
    assert nodes["accrue.service"] - cameras == nodes["accrue-engine.service"]
    groups = {
        name: {k: v for _, k, v in settings_of(SYSTEMD / "system" / name)}
        for name in ("accrue.service", "accrue-engine.service")
    }
    for both in ("User", "Group", "SupplementaryGroups", "StateDirectory"):
        assert groups["accrue.service"][both] == groups["accrue-engine.service"][both]


def test_users_and_folders_are_made_in_a_root_of_another_machine(tmp_path: Path) -> None:
    """As when an image is made on a workstation: no program of the image runs."""
    for tool in ("systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here: apt-get install systemd")
    root = tmp_path / "root"
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(SYSTEMD / kind, root / "usr/lib" / kind)
    (root / "etc").mkdir()
    (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    made = subprocess.run(["systemd-sysusers", f"--root={root}", "accrue.conf"], check=False)
    assert made.returncode == 0
    groups = dict(line.split(":", 1) for line in (root / "etc/group").read_text().splitlines())
    assert groups["video"] == "x:44:accrue"
    assert groups["render"].endswith(":accrue")
    assert "accrue" in groups
    assert "/var/lib/accrue:/usr/sbin/nologin" in (root / "etc/passwd").read_text()
    done = subprocess.run(
        ["systemd-tmpfiles", f"--root={root}", "--create", "accrue.conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (root / "etc/accrue/credentials").stat().st_mode & 0o777 == 0o700
    assert (root / "var/lib/accrue/backups").is_dir()
    assert str((root / "etc/issue.d/50-accrue.issue").readlink()) == "/run/accrue/issue"
