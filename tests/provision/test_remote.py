"""Over SSH a device gets the release that is for it, whole, or stays as it is. A real sshd."""

from __future__ import annotations

import contextlib
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_world import pip_wheel, tiny_wheel
from sshd import Machine

from accrue.board import Board
from accrue.device import Device
from accrue.errors import NotFound, Refused
from accrue.sync.enrol import Enrolment
from accrue.sync.identity import Identity
from fleet_world import Done, call
from provisioning import cli, payload, receive, remote
from provisioning.payload import Plan, target_of
from provisioning.wheelhouse import look

pytestmark = pytest.mark.slow


@pytest.fixture
def plans(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """``plans(version, broken=False)``: what the next run installs, without the package index."""

    def prepare(version: str, *, broken: bool = False) -> None:
        folder = tmp_path / f"wheels-{version}"
        folder.mkdir(exist_ok=True)
        paths = [pip_wheel(tmp_path), tiny_wheel(folder, version, works=not broken)]

        @contextlib.contextmanager
        def planned(board: str, system: str, *_: object) -> Iterator[Plan]:
            found = Board.load(board)
            target = target_of(found, found.system(system))
            wheels = [look(path, target) for path in paths]
            yield Plan(found, found.system(system), tiny_bundle, wheels, version)

        monkeypatch.setattr(remote, "planned", planned)

    return prepare


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "machine"
    folder.mkdir()
    made = Machine(folder)
    made.start()
    yield made
    made.stop()


def provision(machine: Machine, *words: object, code: int = 0, host: str = "") -> Done:
    done = call(
        cli.main,
        *("ssh", host or machine.host, "--port", machine.port, "--key", machine.key),
        *("--known-hosts", machine.known_hosts, *words),
    )
    assert done.code == code, done
    return done


def version_of(machine: Machine) -> str:
    return machine.ssh("/opt/accrue/current/venv/bin/accrue --version").stdout.strip()


def seen(machine: Machine) -> str:
    """All that is installed there, with modes."""
    return machine.ssh(
        "cd / && find usr/lib/accrue usr/lib/systemd/system/accrue* usr/bin/accrue* opt/accrue "
        "etc/accrue -not -path '*/venv/*' -not -name '*.json' -not -name .lock "
        "-not -name __pycache__ -printf '%p %m %l\\n' 2>/dev/null | sort",
        check=False,
    ).stdout


# ---- a real device ------------------------------------------------------------------------------


def test_a_device_is_installed_updated_and_brought_back(
    machine: Machine, plans: Callable[..., None], tmp_path: Path
) -> None:
    plans("1.0.0")
    first = provision(machine, "--yes", "--json").json
    assert (first["board"], first["system"]) == ("x86-cpu", "debian-12")
    assert first["copied"] is True
    assert first["before"] is None
    assert first["current"].startswith("1.0.0-")
    assert version_of(machine) == "1.0.0"
    wants = "/etc/systemd/system/multi-user.target.wants/accrue.service"
    shown = machine.ssh(f"readlink {wants}; ls -ld /usr/lib/accrue/.incoming", check=False)
    assert shown.stdout.endswith("/systemd/system/accrue.service\n")
    assert "No such file" in shown.stderr, "nothing is left of the copying"

    before = seen(machine)
    again = provision(machine, "--yes", "--json").json
    assert again["copied"] is False
    assert again["current"] == first["current"]
    assert seen(machine) == before

    machine.ssh("echo 'cameras: [camera:0]' > /etc/accrue/accrue.yaml")
    plans("2.0.0")
    second = provision(machine, "--yes", "--json").json
    assert second["before"] == first["current"]
    assert second["current"].startswith("2.0.0-")
    assert version_of(machine) == "2.0.0"
    settings = machine.ssh("cat /etc/accrue/accrue.yaml").stdout
    assert settings == "cameras: [camera:0]\n", "settings are the device's own"

    plans("3.0.0", broken=True)
    before = seen(machine)
    failed = provision(machine, "--yes", code=1)
    assert "did not take 3.0.0-" in failed.err
    assert "the golden images disagree" in failed.err
    assert seen(machine) == before
    assert version_of(machine) == "2.0.0"

    back = provision(machine, "--rollback", "--yes", "--json").json
    assert back["current"] == first["current"]
    assert version_of(machine) == "1.0.0"
    done = provision(machine, "--rollback", "--yes", code=1)
    assert "did not go back" in done.err
    assert version_of(machine) == "1.0.0"


def test_a_user_with_sudo_installs_and_the_password_is_on_no_command_line(
    machine: Machine, plans: Callable[..., None], tmp_path: Path
) -> None:
    if shutil.which("sudo") is None:
        pytest.skip("no sudo here: apt-get install sudo")
    machine.ssh(
        "useradd -m ada && echo 'ada:correct horse' | chpasswd && "
        "echo 'ada ALL=(ALL:ALL) ALL' > /etc/sudoers.d/ada && chmod 440 /etc/sudoers.d/ada"
    )
    password = tmp_path / "password"
    password.write_text("wrong\n")
    plans("1.0.0")
    words = ("--yes", "--sudo-password-file", password)
    done = provision(machine, *words, code=6, host="ada@127.0.0.1")
    assert "does not let this user become root by sudo" in done.err
    done = provision(machine, "--yes", code=2, host="ada@127.0.0.1")
    assert "needs a password for sudo" in done.err
    assert seen(machine) == ""
    password.write_text("correct horse\n")
    said = provision(machine, *words, "--json", host="ada@127.0.0.1").json
    assert said["current"].startswith("1.0.0-")
    assert machine.ssh("stat -c %U /usr/lib/accrue/accrue-release").stdout == "root\n"


def test_a_device_gets_its_identity_once(
    machine: Machine, plans: Callable[..., None], tmp_path: Path
) -> None:
    plans("1.0.0")
    for name in ("box-0001", "box-0002"):
        Enrolment(name, Identity.create(), b"ticket").save(tmp_path / name)
    said = provision(machine, "--yes", "--json", "--enrolment", tmp_path / "box-0001").json
    assert said["enrolled"] == "box-0001"
    place = "/etc/accrue/credentials"
    shown = machine.ssh(f"stat -c '%a %U' {place} {place}/enrolment; cat {place}/enrolment").stdout
    assert shown == "700 root\n600 root\n" + (tmp_path / "box-0001").read_text()
    again = provision(machine, "--yes", "--json", "--enrolment", tmp_path / "box-0001").json
    assert again["copied"] is False
    done = provision(machine, "--yes", "--enrolment", tmp_path / "box-0002", code=5)
    assert "has another identity already; nothing was changed" in done.err
    assert (tmp_path / "box-0001").read_text() == machine.ssh(f"cat {place}/enrolment").stdout
    (tmp_path / "none").write_text("{}")
    done = provision(machine, "--yes", "--enrolment", tmp_path / "none", code=1)
    assert "is no device enrolment" in done.err


def test_what_is_not_for_it_is_refused_before_anything_is_copied(
    machine: Machine, plans: Callable[..., None]
) -> None:
    plans("1.0.0")
    done = provision(machine, "--yes", "--board", "jetson-orin-nano-8gb", code=6)
    assert "this is for jetson-orin-nano-8gb; nothing was copied" in done.err
    done = provision(machine, "--yes", "--system", "ubuntu-24.04", code=6)
    assert "runs debian-12 (debian-12); this is for ubuntu-24.04" in done.err
    done = provision(machine, code=2)
    assert "it is asked before anything is done" in done.err
    assert "add --yes" in done.err
    machine.ssh("printf 'ID=gentoo\\nVERSION_ID=2\\n' > /etc/os-release")
    done = provision(machine, "--yes", code=6)
    assert "runs gentoo-2; x86-cpu is known with" in done.err
    assert seen(machine) == ""


def test_the_check_tells_what_it_is_and_changes_nothing(
    machine: Machine, plans: Callable[..., None]
) -> None:
    plans("1.0.0")
    said = provision(machine, "--check", "--json").json
    assert said["board"] == "x86-cpu"
    assert said["current"] is None
    assert seen(machine) == ""


def test_a_full_disk_and_a_copy_that_is_cut_off_leave_the_device_as_it_was(
    machine: Machine, plans: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans("1.0.0")
    looked, ran = remote.look, remote.Connection.run
    monkeypatch.setattr(remote, "look", lambda c: replace(looked(c), free_kib=1024))
    done = provision(machine, "--yes", code=1)
    assert "has 1 MiB free below /usr/lib" in done.err
    monkeypatch.setattr(remote, "look", looked)

    def cut(self: remote.Connection, script: str, given: Any = b"", **more: Any) -> Any:
        if isinstance(given, Path):
            given = given.read_bytes()[: given.stat().st_size // 2]
        return ran(self, script, given, **more)

    monkeypatch.setattr(remote.Connection, "run", cut)
    done = provision(machine, "--yes", code=1)
    assert "the payload could not be copied" in done.err
    assert seen(machine) in ("", "usr/lib/accrue 755 \n")
    monkeypatch.setattr(remote.Connection, "run", ran)
    assert provision(machine, "--yes", "--json").json["copied"] is True


def test_a_device_that_is_not_reached_is_said_in_one_line(
    machine: Machine, plans: Callable[..., None], tmp_path: Path
) -> None:
    plans("1.0.0")
    machine.known_hosts.write_text("")
    done = provision(machine, "--yes", code=3)
    assert "is not reached: Host key verification failed" in done.err
    assert "compare the fingerprint: ssh root@127.0.0.1" in done.err
    machine.stop()
    done = provision(machine, "--yes", code=3)
    assert "is not reached: ssh: connect to host 127.0.0.1" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "", "a;b", "a@b@c"])
def test_what_is_no_host_never_reaches_ssh(host: str, tmp_path: Path) -> None:
    done = call(cli.main, "ssh", "--yes", "--", host)
    assert done.code == 2
    assert "is no host" in done.err


# ---- which board, which system ------------------------------------------------------------------


def found(**values: Any) -> remote.Found:
    device = Device(
        **{
            **{"machine": "aarch64", "python": "3.10.12", "l4t": "36.4.3"},
            **{"compatible": ("nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234")},
            **{"memory_total_bytes": 8 << 30},
            **values,
        }
    )
    return remote.Found(device, "nano", False, 1 << 30, None, ())


def test_the_board_and_its_jetpack_are_what_the_device_says() -> None:
    board = remote.board_of(found(), "auto", any_board=False)
    assert board.name == "jetson-orin-nano-8gb"
    assert remote.system_of(found(), board, None).jetpack == "6.2"


def test_another_board_is_refused_unless_it_is_said_to_fit() -> None:
    with pytest.raises(Refused, match=r"nano is jetson-orin-nano-8gb .*; this is for jetson-agx"):
        remote.board_of(found(), "jetson-agx-orin-64gb", any_board=False)
    assert remote.board_of(found(), "jetson-agx-orin-64gb", any_board=True).name.endswith("64gb")
    with pytest.raises(Refused, match="nothing was copied"):
        remote.board_of(found(), "x86-cpu", any_board=True)
    with pytest.raises(NotFound, match="name one: --board"):
        remote.board_of(found(compatible=("nvidia,p9999-0001",)), "auto", any_board=False)


@pytest.mark.parametrize(
    ("values", "wanted", "said"),
    [
        ({"l4t": "35.4.1"}, None, "runs L4T 35.4.1; jetson-orin-nano-8gb is known with"),
        ({}, "6.0", r"runs JetPack 6.2 \(L4T 36.4.3\); this is for JetPack 6.0"),
        ({"python": "3.12.3"}, None, "has Python 3.12.3; JetPack 6.2 brings 3.10"),
        ({"python": "sh: 1: not found"}, None, "has Python sh: 1: not found"),
    ],
)
def test_another_system_is_refused(values: dict[str, str], wanted: str | None, said: str) -> None:
    board = Board.load("jetson-orin-nano-8gb")
    with pytest.raises(Refused, match=said):
        remote.system_of(found(**values), board, wanted)


# ---- on the device ------------------------------------------------------------------------------


def test_files_are_put_back_where_a_release_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "new", tmp_path / "system"
    for folder, text in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / "unit").write_text(text)
        (folder / "program").write_text("same")
        (folder / "program").chmod(0o755)
    (source / "added").write_text("added")
    (target / "link").symlink_to("old")
    (source / "link").symlink_to("new")
    exchange = receive.Exchange(tmp_path / "before")
    for name in ("unit", "program", "added", "link"):
        exchange.put(source / name, target / name)
    assert exchange.changed == 3, "what is the same is not touched"
    assert (target / "unit").read_text() == "new"
    assert (target / "link").readlink() == Path("new")
    assert stat.S_IMODE((target / "program").stat().st_mode) == 0o755
    exchange.back()
    assert (target / "unit").read_text() == "old"
    assert (target / "link").readlink() == Path("old")
    assert sorted(p.name for p in target.iterdir()) == ["link", "program", "unit"]


def test_the_same_units_start_by_themselves_however_they_were_brought() -> None:
    assert receive.UNITS == payload.UNITS


def test_the_receiver_needs_the_standard_library_alone() -> None:
    text = Path(receive.__file__).read_text()
    names = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith("impor")
    }
    names |= {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith("from")
    }
    assert names - {"__future__"} <= sys.stdlib_module_names
