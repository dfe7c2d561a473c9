"""An overlay goes whole into the tree that it is for, or not at all; what is flashed is exact."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from recorded_boards import FOLDER, laid_out
from tegra import DEFAULT_SHADOW, FakeTegra

from accrue.board import Board, board_names, boards, match
from accrue.errors import Conflict, UsageError
from accrue.sync.enrol import Enrolment
from accrue.sync.identity import Identity
from provisioning import cli, flash, overlay
from provisioning.payload import Plan

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse"
JETSONS = [board.name for board in boards() if board.flash.ways]


def plan_of(bundle: Path, board: str = "jetson-orin-nano-8gb", jetpack: str = "6.2") -> Plan:
    found = Board.load(board)
    return Plan(found, found.system(jetpack), bundle, [], "1.2.3")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """An overlay for the Orin Nano and JetPack 6.2, without wheels."""
    return overlay.build_overlay(tmp_path_factory.mktemp("overlay"), plan_of(tiny_bundle))


@pytest.fixture
def tegra(tmp_path: Path) -> FakeTegra:
    if os.geteuid() != 0:
        pytest.skip("owners and modes need root: sudo ./tools/test tests/provision")
    return FakeTegra(tmp_path)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture
def apply(
    made: Path, tegra: FakeTegra, password: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `apply` as whoever flashes does; exit code, stdout, stderr."""

    def call(*words: object, folder: Path = made) -> tuple[int, str, str]:
        given = ("--l4t", tegra.folder, "--password-file", password, "--yes", *words)
        code = flash.main([str(word) for word in given], folder)
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


def enrolment(tmp_path: Path, name: str = "box-0001") -> Path:
    path = tmp_path / f"{name}.enrolment"
    Enrolment(name, Identity.create(), b"ticket").save(path)
    return path


# ---- what is flashed, exactly -------------------------------------------------------------------

R36_NVME = (
    "sudo ./tools/kernel_flash/l4t_initrd_flash.sh --external-device nvme0n1p1 "
    "-c tools/kernel_flash/flash_l4t_t234_nvme.xml "
    '-p "-c bootloader/generic/cfg/flash_t234_qspi.xml" --showlogs --network usb0'
)
EXACT = [
    ("jetson-orin-nano-8gb", "36.3", "nvme", False, f"{R36_NVME} jetson-orin-nano-devkit internal"),
    (
        *("jetson-orin-nano-8gb", "36.4.3", "nvme", True),
        f"{R36_NVME} jetson-orin-nano-devkit-super internal",
    ),
    (
        *("jetson-orin-nano-4gb", "36.4.3", "sd", False),
        f"{R36_NVME} jetson-orin-nano-devkit internal".replace("nvme0n1p1", "mmcblk0p1"),
    ),
    (
        *("jetson-orin-nx-16gb", "36.4.0", "usb", False),
        f"{R36_NVME} jetson-orin-nano-devkit internal".replace("nvme0n1p1", "sda1"),
    ),
    (
        *("jetson-orin-nx-8gb", "39.2", "nvme", True),
        "sudo ./l4t_initrd_flash.sh --erase-all jetson-orin-nano-devkit-super internal",
    ),
    (
        *("jetson-agx-orin-64gb", "36.4.3", "emmc", False),
        "sudo ./flash.sh jetson-agx-orin-devkit internal",
    ),
    (
        *("jetson-agx-orin-32gb", "36.4.3", "nvme", False),
        "sudo ./tools/kernel_flash/l4t_initrd_flash.sh --external-device nvme0n1p1 "
        "-c tools/kernel_flash/flash_l4t_t234_nvme.xml --showlogs --network usb0 "
        "jetson-agx-orin-devkit external",
    ),
    (
        *("jetson-agx-thor", "38.4", "nvme", False),
        "sudo ./l4t_initrd_flash.sh jetson-agx-thor-devkit internal",
    ),
]


@pytest.mark.parametrize(("board", "l4t", "storage", "super_", "line"), EXACT)
def test_the_flash_command_is_the_vendors_word_for_word(
    board: str, l4t: str, storage: str, super_: bool, line: str
) -> None:
    facts = asdict(Board.load(board).flash)
    (command,) = flash.commands(board, facts, flash.Choice(l4t, storage, super_))
    assert command.line == line


@pytest.mark.parametrize("board", JETSONS)
def test_each_board_storage_and_jetpack_has_a_command_and_its_variants(board: str) -> None:
    found = Board.load(board)
    facts, seen = asdict(found.flash), 0
    for system in found.systems:
        for l4t in system.l4t:
            for way in found.flash.ways:
                if not flash.begins(l4t, way.l4t):
                    continue
                known = {"fab": "300", "sku": found.flash.board_skus[0]}
                for super_ in (False, True):
                    if found.flash.target(l4t, super=super_) is None:
                        continue
                    once = flash.commands(board, facts, flash.Choice(l4t, way.storage, super_))
                    assert len(once) == 1
                    assert once[0].words[-1] == way.root
                    many = flash.commands(
                        board, facts, flash.Choice(l4t, way.storage, super_, massflash=4, **known)
                    )
                    assert [("--no-flash" in c.words, "--flash-only" in c.words) for c in many] == [
                        *((True, False), (False, False), (False, True))
                    ]
                    assert all("flash.sh" not in w.split("/")[-1:] for c in many for w in c.words)
                    two = flash.commands(
                        board, facts, flash.Choice(l4t, way.storage, super_, True, **known)
                    )
                    assert len(two) == 2
                    seen += 1
    assert seen


GOLDEN = ROOT / "tests/data/boards/flash-commands.txt"


@pytest.mark.parametrize(
    "file", sorted(FOLDER.glob("jetson-*.json")), ids=lambda f: f.stem.replace(".", "-")
)
def test_each_recorded_jetson_is_flashed_by_exactly_the_commands_that_are_written_down(
    file: Path, tmp_path: Path
) -> None:
    device = laid_out(file.stem, tmp_path).device
    board = match(device).board
    assert board is not None
    is_super = any("-super" in entry for entry in device.compatible)
    facts = asdict(board.flash)
    ways = [way for way in board.flash.ways if flash.begins(device.l4t, way.l4t)]
    assert ways
    given = [
        f"{file.stem}\t{way.storage}\t"
        + flash.commands(board.name, facts, flash.Choice(device.l4t, way.storage, is_super))[0].line
        for way in ways
    ]
    golden = GOLDEN.read_text().splitlines()
    assert given == [line for line in golden if line.split("\t")[0] == file.stem]


def test_every_row_of_the_jetpack_table_is_recorded() -> None:
    listed = {tuple(line.split("\t")[0].split(".", 1)) for line in GOLDEN.read_text().splitlines()}
    releases = {release.removesuffix(".super") for _, release in listed}
    assert releases == {"6.0", "6.1", "6.2", "7.0", "7.1", "7.2"}
    assert {board for board, _ in listed} == set(JETSONS)


def test_a_massflash_without_the_facts_of_the_eeprom_says_how_to_read_them() -> None:
    facts = asdict(Board.load("jetson-agx-orin-64gb").flash)
    with pytest.raises(flash.Problem, match="--sku and --fab must be given") as raised:
        flash.commands("x", facts, flash.Choice("36.4.3", "emmc", massflash=2))
    assert raised.value.hint == ("read them from one board: sudo ./nvautoflash.sh --print_boardid")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (flash.Choice("35.4.1", "nvme"), "it is not known how x is flashed with L4T 35.4.1"),
        (flash.Choice("36.4.3", "emmc"), "flashed to emmc with L4T 36.4.3; known: nvme, sd, usb"),
        (flash.Choice("36.3", "nvme", True), "L4T 36.3 has no Super configuration for x"),
        (flash.Choice("36.4.3", "nvme", massflash=2, sku="0001"), "x has SKU 0003 or 0005"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(choice: flash.Choice, said: str) -> None:
    with pytest.raises(flash.Problem, match=said):
        flash.commands("x", asdict(Board.load("jetson-orin-nano-8gb").flash), choice)


def test_the_command_is_shown_without_an_overlay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["flash", "--board", "jetson-agx-thor", "--jetpack", "7.2"])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert said.out == "sudo ./l4t_initrd_flash.sh jetson-agx-thor-devkit internal\n"
    assert "0955:7026" in said.err
    assert "reset by hand" in said.err


# ---- the artifact -------------------------------------------------------------------------------


def test_two_overlays_of_one_plan_are_the_same_byte_for_byte(
    made: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    again = overlay.build_overlay(tmp_path, plan_of(tiny_bundle))
    assert sorted(p.name for p in again.iterdir()) == ["apply", "overlay.json", "rootfs.tar.gz"]
    for file in again.iterdir():
        assert file.read_bytes() == (made / file.name).read_bytes(), file.name


def test_an_overlay_is_made_once_and_never_in_the_place_of_another(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    first = overlay.build_overlay(tmp_path, plan_of(tiny_bundle))
    assert overlay.build_overlay(tmp_path, plan_of(tiny_bundle)) == first
    (first / "overlay.json").write_text("{}")
    with pytest.raises(Conflict, match="is there already, and is another one"):
        overlay.build_overlay(tmp_path, plan_of(tiny_bundle))
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_nothing_in_it_replaces_a_link_of_a_merged_usr_system(made: Path) -> None:
    members = flash.members_of(made / "rootfs.tar.gz")
    assert {member.name.split("/")[0] for member in members} == {"etc", "usr"}
    assert {(m.uid, m.gid) for m in members} == {(0, 0)}
    wants = {m.name: m.linkname for m in members if m.issym() and ".wants/" in m.name}
    assert wants == {
        "etc/systemd/system/multi-user.target.wants/accrue.service": (
            "/usr/lib/systemd/system/accrue.service"
        ),
        "etc/systemd/system/timers.target.wants/accrue-backup.timer": (
            "/usr/lib/systemd/system/accrue-backup.timer"
        ),
    }


def test_a_board_without_nvidias_tools_has_no_overlay(tmp_path: Path, tiny_bundle: Path) -> None:
    for name in board_names():
        if name in JETSONS:
            continue
        found = Board.load(name)
        with pytest.raises(UsageError, match="is not flashed by NVIDIA's tools"):
            overlay.build_overlay(tmp_path, Plan(found, found.systems[0], tiny_bundle, [], "1.2.3"))


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, **values: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.mode = 0o644
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("one", "data", "said"),
    [
        (member("lib/systemd/system/x.service"), b"", "is below /lib; expected etc, opt, usr, var"),
        (member("bin/x"), b"", "is below /bin"),
        (member("sbin/x"), b"", "is below /sbin"),
        (member("lib", type=tarfile.DIRTYPE, mode=0o755), b"", "is below /lib"),
        (member("/etc/passwd"), b"", "leads out of the tree"),
        (member("usr/../../etc/passwd"), b"", "leads out of the tree"),
        (member("./usr/x"), b"", "leads out of the tree"),
        (member("usr/x", uid=1000), b"", "belongs to 1000:0; expected 0:0"),
        (member("usr/x", mode=0o4755), b"", "has mode 4755; expected at most 0755"),
        (member("usr/x", mode=0o666), b"", "has mode 0666"),
        (member("usr/x", type=tarfile.CHRTYPE), b"", "is neither a file nor a folder nor a link"),
        (member("usr/x", type=tarfile.LNKTYPE, linkname="etc/shadow"), b"", "is neither a file"),
        (member("usr/x", type=tarfile.SYMTYPE, linkname="../../etc"), b"", "leads out of the tree"),
        (member("etc/accrue/credentials/enrolment"), b"x", "is a secret of one device"),
        (
            member("etc/x.pem"),
            b"-----BEGIN " + b"OPENSSH PRIVATE KEY-----\n",
            "holds a private key",
        ),
        (member("usr/x"), b'{"accrue": ' + b'"enrolment/1"}', "holds a private key"),
    ],
)
def test_what_must_not_be_in_an_image_is_refused(
    tmp_path: Path, one: tarfile.TarInfo, data: bytes, said: str
) -> None:
    with pytest.raises(flash.Problem, match=said):
        flash.members_of(tar_with(tmp_path / "x.tar.gz", (one, data)))


# ---- applying it --------------------------------------------------------------------------------


def test_an_overlay_is_applied_and_the_exact_command_is_printed(
    apply: Callable[..., Any], made: Path, tegra: FakeTegra, tmp_path: Path
) -> None:
    code, out, err = apply("--user", "ada", "--enrolment", enrolment(tmp_path))
    assert code == 0, err
    assert out == f"cd {tegra.folder} && {R36_NVME} jetson-orin-nano-devkit internal\n"
    (asked,) = tegra.asked
    assert asked["in"] == str(tegra.folder)
    words = asked["words"]
    assert isinstance(words, list)
    assert words[:3] == ["-u", "ada", "-p"]
    assert words[4:] == ["-n", "box-0001", "--accept-license"]
    assert PASSWORD not in words, "others on this machine see command lines"
    root = tegra.rootfs
    assert (root / "etc/hostname").read_text() == "box-0001\n"
    hosts = (root / "etc/hosts").read_text()
    assert hosts == "127.0.0.1\tlocalhost\n127.0.1.1\tbox-0001\n"
    assert not (root / "etc/systemd/system/default.target").is_symlink(), "no wizard"
    assert (root / "etc/machine-id").read_bytes() == b""
    assert list((root / "etc/ssh").iterdir()) == []
    assert (
        "ssh-keygen -A"
        in (root / "etc/systemd/system/ssh.service.d/accrue-host-keys.conf").read_text()
    )
    hashed = dict(line.split(":")[:2] for line in (root / "etc/shadow").read_text().splitlines())[
        "ada"
    ]
    assert flash.crypt(PASSWORD, hashed) == hashed
    assert not any(flash.crypt(w, hashed) == hashed for w in words)
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640
    credentials = root / "etc/accrue/credentials"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o700
    assert stat.S_IMODE((credentials / "enrolment").stat().st_mode) == 0o600
    assert Enrolment.load(credentials / "enrolment").name == "box-0001"
    assert (root / "lib").is_symlink()
    assert os.access(root / "usr/lib/accrue/accrue-release", os.X_OK)
    members = flash.members_of(made / "rootfs.tar.gz")
    assert flash.staged_problems(root, members, "ada") == []


def test_a_second_run_changes_nothing(
    apply: Callable[..., Any], tegra: FakeTegra, tmp_path: Path
) -> None:
    words = ("--enrolment", enrolment(tmp_path))
    assert apply(*words)[0] == 0
    before = tegra.snapshot()
    code, _, err = apply(*words)
    assert code == 0, err
    assert len(tegra.asked) == 1, "the user is there already"
    after = tegra.snapshot()
    shadow = "etc/shadow"  # the same password, with a new salt
    assert {k: v for k, v in after.items() if k != shadow} == {
        k: v for k, v in before.items() if k != shadow
    }


def test_the_next_device_gets_its_own_identity_and_name_and_nothing_of_the_one_before(
    apply: Callable[..., Any], tegra: FakeTegra, tmp_path: Path
) -> None:
    assert apply("--enrolment", enrolment(tmp_path))[0] == 0
    assert apply("--enrolment", enrolment(tmp_path, "box-0002"))[0] == 0
    found = Enrolment.load(tegra.rootfs / "etc/accrue/credentials/enrolment")
    assert found.name == "box-0002"
    assert (tegra.rootfs / "etc/hostname").read_text() == "box-0002\n"
    assert apply("--hostname", "plain")[0] == 0
    assert not (tegra.rootfs / "etc/accrue/credentials/enrolment").exists()
    text = b"".join(v[1] for v in tegra.snapshot().values() if isinstance(v, tuple))
    assert b"box-0001" not in text


def test_settings_that_were_changed_by_hand_stay(
    apply: Callable[..., Any], tegra: FakeTegra
) -> None:
    assert apply()[0] == 0
    settings = tegra.rootfs / "etc/accrue/accrue.yaml"
    settings.write_text("cameras: [camera:0]\n")
    code, _, err = apply()
    assert code == 0
    assert settings.read_text() == "cameras: [camera:0]\n"
    assert "was changed by hand and stays" in err


def test_files_of_an_older_overlay_go_when_a_newer_one_is_applied(
    apply: Callable[..., Any], tegra: FakeTegra, tmp_path: Path, tiny_bundle: Path
) -> None:
    assert apply()[0] == 0
    board = Board.load("jetson-orin-nano-8gb")
    newer = Plan(board, board.system("6.2"), tiny_bundle, [], "2.0.0")
    folder = overlay.build_overlay(tmp_path / "newer", newer)
    code, _, err = apply(folder=folder)
    assert code == 0, err
    payloads = tegra.rootfs / "usr/lib/accrue/payload"
    files = {p.relative_to(payloads).parts[0] for p in payloads.rglob("*") if p.is_file()}
    assert [name.split("-")[0] for name in files] == ["2.0.0"]


def test_a_public_key_lets_the_first_user_in(
    apply: Callable[..., Any], tegra: FakeTegra, tmp_path: Path
) -> None:
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAA ada\n")
    assert apply("--ssh-key", tmp_path / "id.pub")[0] == 0
    keys = tegra.rootfs / "home/operator/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA ada\n"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert keys.stat().st_uid == 1000


def test_the_check_changes_nothing_and_needs_no_password(made: Path, tegra: FakeTegra) -> None:
    before = tegra.snapshot()
    done = subprocess.run(
        [sys.executable, "-I", made / "apply", "--l4t", tegra.folder, "--check", "--json"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    said = json.loads(done.stdout)
    assert said["l4t"] == "36.4.3"
    assert said["applied"] is False
    assert said["commands"][0]["line"] == f"{R36_NVME} jetson-orin-nano-devkit internal"
    assert tegra.snapshot() == before
    assert tegra.asked == []


def test_it_asks_before_anything(made: Path, tegra: FakeTegra, password: Path) -> None:
    before = tegra.snapshot()
    words = [sys.executable, "-I", made / "apply", "--l4t", tegra.folder]
    done = subprocess.run(
        [*words, "--password-file", password],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "it is asked before anything is done" in done.stderr
    assert "add --yes" in done.stderr
    controller, terminal = os.openpty()
    os.write(controller, b"no\n")
    done = subprocess.run(
        [*words, "--password-file", password],
        capture_output=True,
        text=True,
        check=False,
        stdin=terminal,
    )
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 130
    assert "nothing was done" in done.stderr
    assert f"then        {R36_NVME} jetson-orin-nano-devkit internal" in done.stderr
    assert tegra.snapshot() == before
    assert tegra.asked == []


def missing(name: str) -> Callable[[FakeTegra], object]:
    return lambda tegra: (tegra.folder / name).unlink()


def emptied(tegra: FakeTegra) -> None:
    shutil.rmtree(tegra.rootfs)
    tegra.rootfs.mkdir()


def unmerged(tegra: FakeTegra) -> None:
    (tegra.rootfs / "lib").unlink()
    (tegra.rootfs / "lib").mkdir()


def through_a_link(tegra: FakeTegra) -> None:
    shutil.rmtree(tegra.rootfs / "etc/accrue", ignore_errors=True)
    (tegra.rootfs / "etc/accrue").symlink_to("/tmp")


def other_release(tegra: FakeTegra) -> None:
    tegra.file("rootfs/etc/nv_tegra_release", "# R38 (release), REVISION: 4.0, GCID: 1\n")


BAD_TREES: list[tuple[Callable[[FakeTegra], object], Sequence[str], int, str]] = [
    (missing("flash.sh"), (), 3, "is no Linux_for_Tegra: flash.sh is missing"),
    (emptied, (), 3, "the root file system is empty"),
    (missing("rootfs/etc/nv_tegra_release"), (), 3, "the BSP is not in it yet"),
    (
        *(other_release, (), 5),
        "this overlay is for JetPack 6.2 (L4T 36.4.3, 36.4.4, 36.4.7, 36.5)",
    ),
    (missing("kernel/Image"), (), 5, "kernel/Image is missing: the BSP is not complete"),
    (missing("rootfs/boot/Image"), (), 5, "rootfs/boot/Image is missing: run apply_binaries.sh"),
    (
        lambda tegra: tegra.file("rootfs/boot/Image", "another\n"),
        *((), 5, "rootfs/boot/Image is not kernel/Image"),
    ),
    (unmerged, (), 5, "rootfs/lib is no link to usr/lib"),
    (missing("jetson-orin-nano-devkit.conf"), (), 5, "this BSP does not know the board"),
    (missing("tools/kernel_flash/flash_l4t_t234_nvme.xml"), (), 5, "nvme.xml is missing"),
    (
        missing("bootloader/generic/cfg/flash_t234_qspi.xml"),
        *((), 5, "flash_t234_qspi.xml is missing"),
    ),
    (missing("rootfs/usr/bin/python3.10"), (), 5, "has no Python 3.10, which JetPack 6.2 brings"),
    (through_a_link, (), 5, "etc/accrue is something else than the overlay has there"),
    (lambda _: None, ("--storage", "emmc"), 5, "known: nvme, sd, usb"),
    (lambda _: None, ("--hostname", "My Box"), 2, "'My Box' is no host name"),
    (lambda _: None, ("--user", "root"), 2, "'root' cannot be the first user"),
    (lambda _: None, ("--user", "video"), 2, "the system has it with number 44"),
    (lambda _: None, ("--massflash", "2", "--sku", "0001"), 5, "has SKU 0003 or 0005"),
    (lambda _: None, ("--enrolment", "/dev/null"), 2, "this is no enrolment of a device"),
    (lambda _: None, ("--enrolment", "/nowhere"), 3, "no enrolment /nowhere"),
]


@pytest.mark.parametrize(("spoil", "words", "code", "said"), BAD_TREES)
def test_what_does_not_fit_is_one_clear_line_and_changes_nothing(
    apply: Callable[..., Any],
    tegra: FakeTegra,
    spoil: Callable[[FakeTegra], object],
    words: Sequence[str],
    code: int,
    said: str,
) -> None:
    spoil(tegra)
    before = tegra.snapshot()
    found, out, err = apply(*words)
    assert said in err
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    assert tegra.snapshot() == before
    assert tegra.asked == []


@pytest.mark.parametrize("word", ["short", "password", "nvidia"])
def test_a_password_that_everybody_tries_is_refused(
    apply: Callable[..., Any], tegra: FakeTegra, password: Path, word: str
) -> None:
    password.write_text(f"{word}\n")
    code, _, err = apply()
    assert code == 2
    assert "too short or one that everybody tries" in err
    assert tegra.asked == []


def test_an_identity_is_refused_for_images_that_are_for_many(
    apply: Callable[..., Any], tegra: FakeTegra, tmp_path: Path
) -> None:
    before = tegra.snapshot()
    code, _, err = apply("--massflash", 3, "--sku", "0005", "--enrolment", enrolment(tmp_path))
    assert code == 5
    assert "the identity of box-0001 is for one device; these images are for many" in err
    code, _, err = apply("--hostname", "other", "--enrolment", enrolment(tmp_path))
    assert code == 5
    assert "the enrolment is for box-0001; the host name is other" in err
    assert tegra.snapshot() == before


def test_a_damaged_overlay_is_refused(
    apply: Callable[..., Any], made: Path, tegra: FakeTegra, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    data = bytearray((copy / "rootfs.tar.gz").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "rootfs.tar.gz").write_bytes(data)
    before = tegra.snapshot()
    code, _, err = apply(folder=copy)
    assert code == 1
    assert "is damaged: another SHA-256" in err
    assert tegra.snapshot() == before


def test_where_nvidias_script_fails_everything_is_taken_back(
    apply: Callable[..., Any], tegra: FakeTegra
) -> None:
    tegra.file("tools/fail", "")
    before = tegra.snapshot()
    code, _, err = apply()
    assert code == 1
    assert "l4t_create_default_user.sh ended with 3; everything was taken back" in err
    assert "no space left on device" in err, "what it printed is shown"
    assert tegra.snapshot() == before


def test_a_disk_that_gets_full_at_any_write_leaves_the_tree_as_it_was(
    made: Path, tegra: FakeTegra, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tegra.snapshot()
    written, plain = 0, flash._write
    fails_at = 0

    def write(path: Path, *words: Any) -> None:
        nonlocal written
        written += 1
        if written == fails_at:
            raise OSError(28, "No space left on device", str(path))
        plain(path, *words)

    monkeypatch.setattr(flash, "_write", write)
    wanted = flash.Wanted(flash.Choice("36.4.3", "nvme"), "box", "ada", PASSWORD, b"", "ssh-x\n")
    ready = flash.plan(flash.Overlay.read(made), flash.Tree(tegra.folder), wanted)

    def run(words: Sequence[str], folder: Path) -> int:
        return subprocess.run(words, cwd=folder, check=False).returncode

    flash.execute(ready, run, lambda _: None)
    steps = written
    assert steps > 20
    shutil.rmtree(tegra.rootfs)
    FakeTegra(tegra.folder.parent / "again").rootfs.rename(tegra.rootfs)
    before = tegra.snapshot()
    for fails_at in range(1, steps + 1):
        written = 0
        with pytest.raises(flash.Problem, match="No space left on device; all was taken back"):
            flash.execute(ready, run, lambda _: None)
        fails, fails_at = fails_at, 0
        assert tegra.snapshot() == before, fails


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_completes_it(
    apply: Callable[..., Any], made: Path, tegra: FakeTegra, password: Path, tmp_path: Path
) -> None:
    file = enrolment(tmp_path)
    words = [sys.executable, "-I", made / "apply", "--l4t", tegra.folder, "--yes"]
    words += ["--password-file", password, "--enrolment", file]
    killed = 0
    for i in range(8):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        for line in process.stderr:
            if b"apply: unpacking" in line:
                break
        time.sleep(0.004 * i)
        process.kill()
        killed += process.wait() < 0
        process.stderr.close()
        shadow = tegra.rootfs / "etc/shadow"
        if "operator:x:" in (tegra.rootfs / "etc/passwd").read_text() and (
            "operator:" not in shadow.read_text()
        ):  # within NVIDIA's script: its tree has to be unpacked anew
            shadow.write_text(DEFAULT_SHADOW + "operator:!:19000::::::\n")
    assert killed
    code, _, err = apply("--enrolment", file)
    assert code == 0, err
    members = flash.members_of(made / "rootfs.tar.gz")
    assert flash.staged_problems(tegra.rootfs, members, "operator") == []
    assert not list(tegra.rootfs.rglob("*.accrue-new"))


# ---- the staged tree ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: (r / "usr/lib/accrue/accrue-release").chmod(0o777), "others may change it"),
        (lambda r: os.chown(r / "usr/bin/accrue", 1000, 0), "belongs to 1000:0, not to root"),
        (lambda r: (r / "usr/bin/accrue").unlink(), "/usr/bin/accrue is missing"),
        (lambda r: (r / "etc/machine-id").write_text("x\n"), "/etc/machine-id is not empty"),
        (lambda r: (r / "etc/ssh/ssh_host_rsa_key").touch(), "is a host key"),
        (
            lambda r: (r / "etc/systemd/system/default.target").symlink_to(
                "/lib/systemd/system/nv-oem-config.target"
            ),
            "the wizard of the first boot is armed",
        ),
        (
            lambda r: (r / "etc/systemd/system/default.target").symlink_to("/lib/nowhere.target"),
            "default.target leads to /lib/nowhere.target, which is not there",
        ),
        (
            lambda r: (r / "etc/shadow").write_text(f"operator:{flash.hash_of('nvidia')}:1\n"),
            "the password of operator is one that everybody tries",
        ),
        (
            lambda r: (r / "etc/shadow").write_text("operator::1\n"),
            "operator can log in without a password",
        ),
        (lambda r: (r / "etc/shadow").write_text("operator:!:1\n"), "operator has no password"),
        (lambda r: (r / "etc/accrue/credentials").chmod(0o755), "expected mode 0700"),
        (lambda r: (r / "etc/accrue/credentials/x").touch(0o644), "expected mode 0600"),
        (
            lambda r: ((r / "lib").unlink(), (r / "lib").mkdir()),
            "/lib is no link to usr/lib any more",
        ),
    ],
)
def test_a_tree_that_would_make_a_bad_image_is_named(
    apply: Callable[..., Any],
    made: Path,
    tegra: FakeTegra,
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    assert apply()[0] == 0
    members = flash.members_of(made / "rootfs.tar.gz")
    assert flash.staged_problems(tegra.rootfs, members, "operator") == []
    spoil(tegra.rootfs)
    (found, *_) = flash.staged_problems(tegra.rootfs, members, "operator")
    assert said in found


# ---- flashing -----------------------------------------------------------------------------------


def attach(folder: Path, *ids: str) -> Path:
    for n, one in enumerate(ids):
        vendor, product = one.split(":")
        (folder / f"1-{n}").mkdir(parents=True)
        (folder / f"1-{n}/idVendor").write_text(f"{vendor}\n")
        (folder / f"1-{n}/idProduct").write_text(f"{product}\n")
    (folder / "1-9:1.0").mkdir(parents=True)  # an interface has no ids
    return folder


def flashing(
    monkeypatch: pytest.MonkeyPatch, made: Path, tegra: FakeTegra, password: Path, usb: Path
) -> tuple[int, FakeTegra]:
    seen = flash.in_recovery
    monkeypatch.setattr(flash, "in_recovery", lambda facts: seen(facts, usb))
    words = ["--l4t", tegra.folder, "--password-file", password, "--yes", "--flash"]
    return flash.main([str(word) for word in words], made), tegra


def test_one_board_in_recovery_mode_is_flashed_with_exactly_what_was_shown(
    monkeypatch: pytest.MonkeyPatch, made: Path, tegra: FakeTegra, password: Path, tmp_path: Path
) -> None:
    usb = attach(tmp_path / "usb", "1d6b:0002", "0955:7523")
    assert flashing(monkeypatch, made, tegra, password, usb)[0] == 0
    asked = tegra.asked[-1]
    assert asked["tool"] == "./tools/kernel_flash/l4t_initrd_flash.sh"
    facts = asdict(Board.load("jetson-orin-nano-8gb").flash)
    (command,) = flash.commands("x", facts, flash.Choice("36.4.3", "nvme"))
    assert asked["words"] == list(command.words[2:])
    assert "-c bootloader/generic/cfg/flash_t234_qspi.xml" in command.words


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((), "0 boards in recovery mode (USB 0955:7523); expected one"),
        (("0955:7023",), "0 boards in recovery mode"),
        (("0955:7523", "0955:7523"), "2 boards in recovery mode"),
    ],
)
def test_without_exactly_one_board_of_the_kind_nothing_is_flashed(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    made: Path,
    tegra: FakeTegra,
    password: Path,
    tmp_path: Path,
    ids: Sequence[str],
    said: str,
) -> None:
    usb = attach(tmp_path / "usb", *ids)
    assert flashing(monkeypatch, made, tegra, password, usb)[0] == 3
    assert said in capfd.readouterr().err
    assert [call["tool"] for call in tegra.asked] == ["./tools/l4t_create_default_user.sh"]


def test_a_board_whose_eeprom_says_otherwise_is_not_flashed(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    made: Path,
    tegra: FakeTegra,
    password: Path,
    tmp_path: Path,
) -> None:
    tegra.script("nvautoflash.sh", "#!/bin/sh\necho 'Board ID(3767) SKU...'\necho 3767-0001\n")
    usb = attach(tmp_path / "usb", "0955:7523")
    assert flashing(monkeypatch, made, tegra, password, usb)[0] == 5
    said = capfd.readouterr().err
    assert "the board is 3767-0001; jetson-orin-nano-8gb is 3767-0003 or 3767-0005" in said
    assert [call["tool"] for call in tegra.asked] == ["./tools/l4t_create_default_user.sh"]


@pytest.mark.parametrize("printed", ["", "nothing known\n", "p3767-0005\n", "3767/0003/300\n"])
def test_an_eeprom_that_agrees_or_tells_nothing_is_no_reason_to_stop(printed: str) -> None:
    facts = asdict(Board.load("jetson-orin-nano-8gb").flash)
    assert flash.board_disagrees("x", facts, printed) == ""
