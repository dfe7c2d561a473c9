"""The units on a machine that boots: systemd is its first process, and there is no network.

Where systemd-nspawn cannot boot one the tests say what is missing. What such a machine cannot
have is a GPU, a camera, and the kernel's limits of memory and device nodes, which need cgroups of
its own; the settings for these are read in test_units.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import CODE_AT, Machine, program, why_not

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

SYSTEMD = Path(__file__).parents[2] / "systemd"
SETTINGS = f"""\
state: /var/lib/accrue
listen: 0.0.0.0:8420
cameras: ["play:{CODE_AT}/tools/samples/test"]
encoder: onnx-cpu
views: 2
threads: 1
"""
# Seconds instead of minutes; and the tests wait for what has time on a device.
QUICK = {
    "accrue-engine.service": "[Service]\nNice=0\n",
    "accrue-backup.service": "[Service]\nNice=0\n",
    "accrue.service": "[Service]\nWatchdogSec=8\nRestartSec=100ms\n",
    "accrue-again.service": "[Service]\nExecStart=\nExecStart=/bin/sleep 4\n"
    "ExecStart=/bin/systemctl reset-failed accrue.service\n"
    "ExecStart=/bin/systemctl start --no-block accrue.service\n",
}


@pytest.fixture(scope="module")
def usr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a package brings to /usr."""
    usr = tmp_path_factory.mktemp("usr")
    usr.chmod(0o755)  # of the folder that it is laid over
    for kind, place in (
        ("system", "lib/systemd/system"),
        ("sysusers.d", "lib/sysusers.d"),
        ("tmpfiles.d", "lib/tmpfiles.d"),
    ):
        shutil.copytree(SYSTEMD / kind, usr / place)
    (usr / "lib/accrue").mkdir()
    shutil.copy(SYSTEMD / "accrue-display", usr / "lib/accrue")
    return usr


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, usr: Path) -> Iterator[Machine]:
    """One that was prepared, at its first boot; the tests below go on with it in order."""
    one = Machine(tmp_path_factory.mktemp("machine"), usr, {"etc/accrue/accrue.yaml": SETTINGS})
    one.write("opt/accrue/releases/one/venv/bin/accrue", program("accrue.cli.main"), 0o755)
    (one.root / "opt/accrue/current").symlink_to("releases/one")
    wants = one.root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "accrue.service").symlink_to("/usr/lib/systemd/system/accrue.service")
    timers = one.root / "etc/systemd/system/timers.target.wants"
    timers.mkdir(parents=True)
    (timers / "accrue-backup.timer").symlink_to("/usr/lib/systemd/system/accrue-backup.timer")
    for unit, text in QUICK.items():
        one.write(f"etc/systemd/system/{unit}.d/quick.conf", text)
    try:
        one.boot()
        yield one
    finally:
        one.cut_power()


def active(machine: Machine) -> dict[str, str]:
    """Once the service is ready."""

    def found() -> dict[str, str] | None:
        shown = machine.show("accrue", "ActiveState", "MainPID", "NRestarts", "StatusText")
        return shown if shown.get("ActiveState") == "active" else None

    return machine.until(found)  # type: ignore[no-any-return]


ACCRUE = "/opt/accrue/current/venv/bin/accrue"
AS_ACCRUE = [
    *("setpriv", "--reuid=accrue", "--regid=accrue", "--init-groups"),
    *("env", "ACCRUE_CONFIG=/etc/accrue/accrue.yaml", "HOME=/var/lib/accrue", ACCRUE),
]


def fetch(machine: Machine, path: str, body: dict[str, str] | None = None) -> dict[str, str]:
    """An answer of the device, from within: it is on no network."""
    code = (
        "import json, ssl, sys, urllib.request as u\n"
        "c = ssl.create_default_context(cafile='/var/lib/accrue/tls/ca.pem')\n"
        "data = sys.argv[2].encode() or None\n"
        "r = u.Request('https://127.0.0.1:8420' + sys.argv[1], data,\n"
        "    {'content-type': 'application/json'})\n"
        "print(u.urlopen(r, context=c).read().decode())\n"
    )
    words = ("/usr/bin/python3", "-c", code, path, json.dumps(body) if body else "")
    return machine.json(*words)  # type: ignore[no-any-return]


def test_it_serves_at_its_first_boot_without_a_network(machine: Machine) -> None:
    shown = active(machine)
    assert fetch(machine, "/readyz") == {"ok": True, "reason": ""}
    status = machine.until(lambda: machine.show("accrue", "StatusText").get("StatusText"))
    assert "onnx-cpu" in status
    assert shown["NRestarts"] == "0"
    failed = machine.run("systemctl", "list-units", "--failed", "--no-legend", "--plain", "accrue*")
    assert failed.stdout == ""


def test_nothing_waits_for_the_engine(machine: Machine) -> None:
    """It is built after the service is ready, and the boot does not wait for it."""
    active(machine)
    ended = ("Result", "ExecMainStatus", "ActiveEnterTimestampMonotonic", "ActiveState")
    times = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    built = machine.until(
        lambda: (
            (found := machine.show("accrue-engine", *ended, *times))
            and found["ExecMainStartTimestampMonotonic"] != "0"
            and found["ActiveState"] == "inactive"
            and found
        )
    )
    assert (built["Result"], built["ExecMainStatus"]) == ("success", "0")
    assert "nothing to build: " in machine.journal("accrue-engine")
    ready = machine.show("accrue", *times)
    began, served = built["ExecMainStartTimestampMonotonic"], ready["ActiveEnterTimestampMonotonic"]
    assert int(began) >= int(served)


def test_a_console_shows_where_and_how_to_open_it(machine: Machine) -> None:
    """agetty puts it above the login, and was told to do so anew."""
    active(machine)
    terminal, other = pty.openpty()
    try:
        machine.until(
            lambda: machine.run("test", "-s", "/etc/issue.d/50-accrue.issue").returncode == 0
        )
        words = machine.inside("agetty", "--show-issue")
        shown = subprocess.run(words, stdin=other, capture_output=True, check=True)
    finally:
        os.close(terminal)
        os.close(other)
    text = shown.stdout.decode()
    assert re.search(r"Accrue \S+ on jetson-07", text)
    assert "play:" in text
    assert re.search(r"pair     \w{4}-\w{4} makes you its owner", text)
    assert "█▀▀▀▀▀█" in text or "█" in text
    machine.until(lambda: machine.run("test", "-e", "/run/agetty.reload").returncode == 0)
    assert machine.show("accrue-display", "Result")["Result"] == "success"


def test_the_address_on_the_console_follows_the_cable(machine: Machine) -> None:
    """No network at the first boot; then somebody plugs a cable in."""
    active(machine)
    machine.run("ip", "address", "add", "192.168.55.1/24", "dev", "lo", check=True)
    issue = machine.until(
        lambda: (
            (text := machine.run("cat", "/run/accrue/issue").stdout)
            and "https://192.168.55.1:8420" in text
            and text
        )
    )
    assert "█" in issue
    word = machine.run("cat", "/var/lib/accrue/run.json").stdout
    assert json.loads(word)["url"] == "https://192.168.55.1:8420"


def test_the_code_of_the_console_makes_an_owner_and_then_goes(machine: Machine) -> None:
    active(machine)
    text = machine.run("cat", "/run/accrue/issue").stdout
    found = re.search(r"pair     (\S+) makes", text)
    assert found
    paired = fetch(machine, "/api/v1/pair", {"code": found[1], "name": "tablet"})
    assert paired["access"]["role"] == "owner"  # type: ignore[index]
    machine.until(lambda: "pair" not in machine.run("cat", "/run/accrue/issue").stdout)


def taught(machine: Machine) -> list[dict[str, object]]:
    """Its classes; two are taught where there are none."""
    if machine.run("test", "-e", "/var/lib/accrue/state.db").returncode:
        for folder in sorted((Path(__file__).parents[2] / "tools/samples/teach").iterdir())[:2]:
            there = f"{CODE_AT}/tools/samples/teach/{folder.name}"
            machine.run(*AS_ACCRUE, "class", "teach", folder.name, there, check=True)
    found = machine.json(*AS_ACCRUE, "class", "list", "--json")["classes"]
    assert len(found) == 2
    return found  # type: ignore[no-any-return]


def test_it_can_be_taught_at_once_and_answers(machine: Machine) -> None:
    active(machine)
    taught(machine)
    machine.until(lambda: 'taught "' in machine.journal("accrue"))  # the running one has heard


def test_the_process_can_do_little_but_its_work(machine: Machine) -> None:
    pid = active(machine)["MainPID"]
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = machine.run("id", "-u", "accrue").stdout.strip()
    assert facts["Uid"].split() == [uid] * 4
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    groups = {
        machine.run("getent", "group", name).stdout.split(":")[2] for name in ("video", "render")
    }
    assert groups <= set(facts["Groups"].split())
    inside = ["nsenter", f"--target={pid}", "--mount", "sh", "-c"]
    for place in ("/etc", "/usr", "/opt/accrue", "/tmp", "/var/tmp", "/sys/kernel"):
        done = machine.run(*inside, f"echo x > {place}/written-by-accrue")
        assert "ead-only" in done.stderr or "ermission" in done.stderr, (place, done.stderr)
    for place in ("/var/lib/accrue", "/var/cache/accrue", "/run/accrue"):
        done = machine.run(*inside, f"echo x > {place}/probe && rm {place}/probe")
        assert done.returncode == 0, (place, done.stderr)
    # root's home, and the processes of others, are not there
    assert machine.run(*inside, "ls -A /root; ls -A /home").stdout == ""
    as_it = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    seen = machine.run(*inside[:-2], *as_it, "ls", "/proc").stdout.split()
    assert "1" not in seen


def test_the_socket_of_the_camera_daemon_is_reached(machine: Machine) -> None:
    """Argus has its socket in /tmp: that is read-only for the service, and not another /tmp."""
    pid = active(machine)["MainPID"]
    listen = "import socket,time;s=socket.socket(socket.AF_UNIX);s.bind('/tmp/argus_socket');s.listen();import os;os.chmod('/tmp/argus_socket',0o777);print('up',flush=True);time.sleep(30)"  # noqa: E501
    with subprocess.Popen(
        machine.inside("/usr/bin/python3", "-c", listen), stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        uid = machine.run("id", "-u", "accrue").stdout.strip()
        reach = "import socket;s=socket.socket(socket.AF_UNIX);s.connect('/tmp/argus_socket')"
        enter = ("nsenter", f"--target={pid}", "--mount", "setpriv", f"--reuid={uid}")
        done = machine.run(
            *enter, f"--regid={uid}", "--clear-groups", "/usr/bin/python3", "-c", reach
        )
        daemon.kill()
    assert done.returncode == 0, done.stderr


def test_a_backup_is_taken_and_the_timer_is_set(machine: Machine) -> None:
    active(machine)
    taught(machine)
    for _ in range(2):
        done = machine.run("systemctl", "start", "accrue-backup")
        assert done.returncode == 0, machine.journal("accrue-backup")
    kept = machine.run("ls", "/var/lib/accrue/backups").stdout.split()
    assert [name[:13] for name in kept] == ["accrue-000001", "accrue-000002"]
    owner = machine.run("stat", "-c", "%U", f"/var/lib/accrue/backups/{kept[0]}").stdout
    assert owner == "accrue\n"
    assert machine.show("accrue-backup.timer", "ActiveState")["ActiveState"] == "active"


def test_what_the_owner_prepared_is_seen_by_the_service_alone(machine: Machine) -> None:
    """Root's file, 0600; the service gets a copy. Without it there is a blank one."""
    active(machine)
    there = "/run/credentials/accrue.service/enrolment"
    assert machine.run("cat", there).stdout.strip() == ""
    machine.write("etc/accrue/credentials/enrolment", "not an enrolment", 0o600)
    try:
        machine.run("systemctl", "restart", "accrue", check=True)
        pid = active(machine)["MainPID"]
        assert machine.run("cat", there).stdout == "not an enrolment"
        environment = machine.run("cat", f"/proc/{pid}/environ").stdout.split("\0")
        assert "CREDENTIALS_DIRECTORY=/run/credentials/accrue.service" in environment
        other = ["setpriv", "--reuid=nobody", "--clear-groups", "cat"]
        assert machine.run(*other, "/etc/passwd").returncode == 0
        assert machine.run(*other, there).returncode != 0
        assert machine.run(*other, "/etc/accrue/credentials/enrolment").returncode != 0
    finally:
        (machine.root / "etc/accrue/credentials/enrolment").unlink()
        machine.run("systemctl", "restart", "accrue", check=True)


def restarted(machine: Machine, before: str) -> dict[str, str]:
    def found() -> dict[str, str] | None:
        shown = machine.show("accrue", "ActiveState", "MainPID", "NRestarts")
        alive = shown["ActiveState"] == "active" and shown["MainPID"] not in ("0", before)
        return shown if alive else None

    return machine.until(found)  # type: ignore[no-any-return]


def test_one_that_was_killed_or_hangs_is_started_again_and_knows_what_it_was_taught(
    machine: Machine,
) -> None:
    before = taught(machine)
    first = active(machine)["MainPID"]
    machine.run("kill", "-KILL", first, check=True)
    second = restarted(machine, first)["MainPID"]
    machine.run("kill", "-STOP", second, check=True)  # it hangs: nothing feeds the watchdog
    restarted(machine, second)
    assert "atchdog" in machine.journal("accrue")
    assert taught(machine) == before
    machine.run("systemctl", "reset-failed", "accrue")


def test_one_that_cannot_start_rests_between_tries_and_comes_back_by_itself(
    machine: Machine,
) -> None:
    """Five tries, a rest, and the next one finds that it was mended."""
    active(machine)
    program = machine.root / "opt/accrue/releases/one/venv/bin/accrue"
    whole = program.read_text()
    program.write_text("#!/bin/sh\necho it cannot start >&2\nexit 1\n")
    try:
        machine.run("systemctl", "restart", "accrue")
        machine.until(
            lambda: machine.show("accrue-again", "ActiveState")["ActiveState"] == "activating"
        )
        assert machine.show("accrue", "ActiveState")["ActiveState"] == "failed"
        # five with the start before that went well, where that is not two minutes ago
        assert machine.journal("accrue").count("it cannot start\n") in (4, 5)
    finally:
        program.write_text(whole)
    active(machine)


def test_after_a_power_cut_it_serves_again_with_all_it_was_taught(machine: Machine) -> None:
    active(machine)
    before = taught(machine)
    owned = "pair" not in machine.until(lambda: machine.run("cat", "/run/accrue/issue").stdout)
    machine.cut_power()
    machine.boot()
    active(machine)
    assert taught(machine) == before
    text = machine.until(lambda: machine.run("cat", "/run/accrue/issue").stdout)
    assert ("pair" not in text) == owned


def test_without_a_release_nothing_fails(machine: Machine) -> None:
    """As between the image's first boot and the installation of what it brought."""
    current = machine.root / "opt/accrue/current"
    machine.run("systemctl", "stop", "accrue", check=True)
    assert machine.run("ls", "/run/accrue").returncode != 0
    target = current.readlink()
    current.unlink()
    try:
        assert machine.run("systemctl", "start", "accrue").returncode == 0
        shown = machine.show("accrue", "ActiveState", "ConditionResult")
        assert shown == {"ActiveState": "inactive", "ConditionResult": "no"}
    finally:
        with contextlib.suppress(FileExistsError):
            current.symlink_to(target)
    machine.run("systemctl", "start", "accrue", check=True)
    active(machine)
