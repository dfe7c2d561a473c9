"""Identities are made for a batch, never two alike, and a device takes its own up by itself."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accrue.cli import owner as owner_cli
from accrue.errors import Conflict, FormatError, Rejected, StoreFull, UsageError
from accrue.service.box import Box
from accrue.service.fleet import Fleet
from accrue.service.http.server import ADDRESS_FILE
from accrue.service.settings import Settings
from accrue.sync.broker import BrokerFolder, password_hash
from accrue.sync.enrol import Enrolment, open_ticket
from accrue.sync.roster import open_roster
from accrue.sync.workspace import Workspace
from fleet_world import Done, World, call
from provisioning import cli, identities

DEADLINE_S = 60.0


def owner(folder: Path, *words: object, code: int = 0) -> Done:
    done = call(owner_cli.main, "--fleet", folder, "--offline", *words)
    assert done.code == code, (words, done)
    return done


def provision(*words: object, code: int = 0) -> Done:
    done = call(cli.main, *words)
    assert done.code == code, (words, done)
    return done


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """An owner's folder with a broker."""
    folder = tmp_path / "owner"
    owner(folder, "init", "plant")
    owner(folder, "broker", "--host", "broker.local")
    return folder


def make(plant: Path, out: Path, *words: object, code: int = 0) -> Done:
    return provision("identities", "--fleet", plant, "--out", out, *words, "--json", code=code)


def loaded(out: Path) -> list[Enrolment]:
    return [Enrolment.load(file) for file in sorted(out.glob("*.enrolment"))]


def until(true: Any, what: str, seconds: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(what)


# ---- a batch ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_devices_in_under_a_minute_all_different_and_verified_by_the_owner(
    plant: Path, tmp_path: Path
) -> None:
    began = time.perf_counter()
    said = make(plant, tmp_path / "ids", "--count", 1000).json
    assert time.perf_counter() - began < 60
    found = loaded(tmp_path / "ids")
    assert len(found) == len(said["devices"]) == 1000
    admissions = [open_ticket(one.identity, one.ticket) for one in found]
    for values in (
        {one.name for one in found},
        {one.identity.device for one in found},
        {one.identity.public for one in found},
        {one.identity.box_public for one in found},
        {one.ticket for one in found},
        {admission.password for admission in admissions},
    ):
        assert len(values) == 1000
    shown = owner(plant, "roster", "show", "--json").json
    assert {d["device"]: (d["name"], d["keys"][0][0]) for d in shown["devices"]} == {
        one.identity.device: (one.name, one.identity.public.hex()) for one in found
    }
    with Workspace.open(plant) as workspace:
        signed = open_roster(*workspace.roster_bytes(), workspace.public, "plant")
        assert {a.owner for a in admissions} == {workspace.public}
        assert set(signed.devices) == {one.identity.device for one in found}
        assert {(a.host, a.port, a.tls) for a in admissions} == {("broker.local", 8883, True)}
        assert [s.verb for s in workspace.log()] == ["issue", "broker", "init"]
    files = BrokerFolder(plant / "broker")
    hashes = dict(line.split(":", 1) for line in files.passwords.read_text().splitlines())
    one = admissions[517]
    salt = hashes[one.user].split("$")[3]
    import base64

    assert password_hash(one.password, base64.b64decode(salt)) == hashes[one.user]


def test_files_are_private_and_the_receipt_holds_no_secret(plant: Path, tmp_path: Path) -> None:
    make(plant, tmp_path / "ids", "--count", 3, "--prefix", "dock")
    out = tmp_path / "ids"
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    names = sorted(file.name for file in out.iterdir())
    assert names == [*(f"dock-000{i}.enrolment" for i in (1, 2, 3)), "issued.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o600}
    receipt = (out / "issued.json").read_text()
    for one in loaded(out):
        assert one.identity.device in receipt
        admission = open_ticket(one.identity, one.ticket)
        for secret in (
            admission.password,
            one.identity.key.private_bytes_raw().hex(),
            one.identity.box.private_bytes_raw().hex(),
        ):
            assert secret not in receipt
            assert secret not in repr(one)


def test_a_batch_is_one_step_that_is_undone_and_redone_with_its_accounts(
    plant: Path, tmp_path: Path
) -> None:
    said = make(plant, tmp_path / "ids", "--count", 5).json
    files = BrokerFolder(plant / "broker")
    before = files.accounts()
    assert len(before) == 7, "five devices, the owner and `enrol`"
    owner(plant, "undo", said["step"])
    assert owner(plant, "roster", "show", "--json").json["devices"] == []
    assert set(files.accounts()) == {"enrol", "owner"}
    owner(plant, "undo", said["step"] + 1)
    assert files.accounts() == before
    assert len(owner(plant, "roster", "show", "--json").json["devices"]) == 5


def test_a_step_about_many_devices_is_not_undone_after_one_of_them_was_changed(
    plant: Path, tmp_path: Path
) -> None:
    said = make(plant, tmp_path / "ids", "--count", 2).json
    owner(plant, "roster", "revoke", "box-0001")
    done = owner(plant, "undo", said["step"], code=5)
    assert "was changed again by step 4, revoked box-0001" in done.err
    assert "undo that one first: accrue-fleet undo 4" in done.err


def test_a_second_batch_goes_on_counting_and_a_second_run_makes_nothing(
    plant: Path, tmp_path: Path
) -> None:
    make(plant, tmp_path / "first", "--count", 2)
    again = make(plant, tmp_path / "first", "--count", 2, code=5)
    assert "no identity is made twice" in again.err
    make(plant, tmp_path / "second", "--count", 2)
    assert [one.name for one in loaded(tmp_path / "second")] == ["box-0003", "box-0004"]
    both = loaded(tmp_path / "first") + loaded(tmp_path / "second")
    assert len({one.identity.public for one in both}) == 4


def test_a_list_names_the_devices(plant: Path, tmp_path: Path) -> None:
    listed = tmp_path / "names"
    listed.write_text("# the north dock\ndock-1\n\ndock-2  # by the gate\n")
    make(plant, tmp_path / "ids", "--list", listed)
    assert [one.name for one in loaded(tmp_path / "ids")] == ["dock-1", "dock-2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names 0 devices; expected 1 to 10,000"),
        ("dock-1\ndock-1\n", "dock-1 comes twice"),
        ("dock 1\n", "'dock 1' is no name for a device"),
        ("../etc/passwd\n", "'../etc/passwd' is no name for a device"),
        ("Dock-1\n", "'Dock-1' is no name for a device"),
        ("-dock\n", "'-dock' is no name for a device"),
        ("\x00\n", "is no name for a device"),
    ],
)
def test_a_list_that_names_no_devices_makes_nothing(
    plant: Path, tmp_path: Path, text: str, said: str
) -> None:
    listed = tmp_path / "names"
    listed.write_text(text)
    done = make(plant, tmp_path / "ids", "--list", listed, code=2)
    assert said in done.err
    assert not (tmp_path / "ids").exists()
    assert owner(plant, "roster", "show", "--json").json["version"] == 1


def test_a_name_of_the_roster_is_not_given_again(plant: Path, tmp_path: Path) -> None:
    listed = tmp_path / "names"
    listed.write_text("dock-1\n")
    make(plant, tmp_path / "ids", "--list", listed)
    done = make(plant, tmp_path / "more", "--list", listed, code=5)
    assert "dock-1 is in the roster already; nothing was made" in done.err


def test_without_a_broker_nothing_is_made(tmp_path: Path) -> None:
    owner(tmp_path / "owner", "init", "plant")
    done = make(tmp_path / "owner", tmp_path / "ids", "--count", 1, code=3)
    assert "no broker is known for fleet plant" in done.err
    assert not (tmp_path / "ids").exists()


def test_accounts_for_a_broker_of_somebody_else_are_in_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owner"
    owner(folder, "init", "plant")
    (tmp_path / "password").write_text("secret\n")
    owner(
        *(folder, "broker", "--external", "--host", "mqtt.example.com"),
        *("--user", "owner", "--password-file", tmp_path / "password"),
    )
    said = make(folder, tmp_path / "ids", "--count", 2).json
    accounts = tmp_path / "ids" / said["accounts"]
    assert stat.S_IMODE(accounts.stat().st_mode) == 0o600
    lines = dict(line.split(":", 1) for line in accounts.read_text().splitlines())
    assert lines == {
        one.identity.device: open_ticket(one.identity, one.ticket).password
        for one in loaded(tmp_path / "ids")
    }


def test_on_a_full_disk_nobody_is_let_in_and_nothing_is_left(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Enrolment.save

    def full(self: Enrolment, path: Path) -> None:
        if path.name == "box-0003.enrolment":
            raise StoreFull(f"{path}: no space left on the device")
        saved(self, path)

    monkeypatch.setattr(Enrolment, "save", full)
    done = make(plant, tmp_path / "ids", "--count", 4, code=1)
    assert "no space left" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["owner"]
    assert owner(plant, "roster", "show", "--json").json["version"] == 1
    assert set(BrokerFolder(plant / "broker").accounts()) == {"enrol", "owner"}


def test_a_run_that_was_killed_after_the_roster_is_finished_by_the_next(
    plant: Path, tmp_path: Path
) -> None:
    said = make(plant, tmp_path / "ids", "--count", 2).json
    (tmp_path / "ids" / "issued.json").unlink()
    done = make(plant, tmp_path / "ids", "--count", 2, code=5)
    assert "its 2 devices are in the roster, and it is complete now" in done.err
    receipt = json.loads((tmp_path / "ids" / "issued.json").read_text())
    assert receipt["devices"] == said["devices"]
    assert receipt["step"] == said["step"]


def test_a_run_that_was_killed_before_the_roster_says_what_to_type(
    plant: Path, tmp_path: Path
) -> None:
    make(plant, tmp_path / "ids", "--count", 2)
    (tmp_path / "ids" / "issued.json").unlink()
    owner(plant, "undo")
    done = make(plant, tmp_path / "ids", "--count", 2, code=5)
    assert "the roster knows nothing of it" in done.err
    assert f"rm -r {tmp_path / 'ids'}, and run it again" in done.err


@pytest.mark.slow
def test_killed_at_any_moment_no_device_is_in_the_roster_without_its_file(
    plant: Path, tmp_path: Path
) -> None:
    root = Path(cli.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    killed = 0
    for i in range(6):
        out = tmp_path / f"ids-{i}"
        words = ["identities", "--fleet", plant, "--out", out, "--count", "40"]
        process = subprocess.Popen(
            [sys.executable, "-m", "provisioning", *map(str, [*words, "--prefix", f"n{i}"])],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if i % 2:  # while it writes files
            partial = tmp_path / f".ids-{i}.unfinished"
            until(lambda p=partial: p.exists() or process.poll() is not None, "it began")  # noqa: B023
        else:  # about when it is through
            until(lambda o=out: o.exists() or process.poll() is not None, "it wrote")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        killed += process.wait() < 0
        with Workspace.open(plant) as workspace:
            names = {m.name for m in workspace.roster().devices.values()}
            mine = {name for name in names if name.startswith(f"n{i}-")}
            assert len(mine) in (0, 40)
            if mine:
                assert {one.name for one in loaded(out)} == mine
    assert killed


# ---- on the device ------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path, tiny_bundle: Path) -> Iterator[Box]:
    with Box(Settings(state=tmp_path / "state", bundle=tiny_bundle)) as made:
        yield made


def one_enrolment(plant: Path, tmp_path: Path, name: str = "dock") -> Path:
    make(plant, tmp_path / name, "--count", 1, "--prefix", name)
    return next((tmp_path / name).glob("*.enrolment"))


def test_a_device_takes_its_enrolment_up_once_without_a_network(
    plant: Path, tmp_path: Path, box: Box
) -> None:
    file = one_enrolment(plant, tmp_path)
    joined = Fleet(box).enrol(file)
    assert joined is not None
    assert (joined.fleet, joined.name, joined.broker.host) == ("plant", "dock-0001", "broker.local")
    assert Fleet(box).identity().device == Enrolment.load(file).identity.device
    assert Fleet(box).enrol(file) is None
    assert Fleet(box).membership() == joined


def test_a_device_that_left_does_not_join_again_by_itself_but_takes_a_new_enrolment(
    plant: Path, tmp_path: Path, box: Box
) -> None:
    file = one_enrolment(plant, tmp_path)
    Fleet(box).enrol(file)
    Fleet(box).leave()
    assert Fleet(box).enrol(file) is None
    assert not Fleet(box).is_member()
    first = Fleet(box).identity().device
    other = one_enrolment(plant, tmp_path, "gate")
    joined = Fleet(box).enrol(other)
    assert joined is not None
    assert joined.name == "gate-0001"
    assert (Fleet(box).folder / f"identity-{first}.json").exists(), "the old key is set aside"


def test_a_device_that_is_somebody_else_already_stays_so_and_says_what_to_type(
    plant: Path, tmp_path: Path, box: Box
) -> None:
    Fleet(box).enrol(one_enrolment(plant, tmp_path))
    before = Fleet(box).identity().device
    with pytest.raises(Conflict, match="it was prepared as gate-0001") as raised:
        Fleet(box).enrol(one_enrolment(plant, tmp_path, "gate"))
    assert raised.value.hint == "to be that one: accrue fleet leave --yes, and start it again"
    assert Fleet(box).identity().device == before


def test_an_enrolment_that_is_cut_short_between_its_steps_is_taken_up_at_the_next_start(
    plant: Path, tmp_path: Path, box: Box
) -> None:
    file = one_enrolment(plant, tmp_path)
    Fleet(box).enrol(file)
    (Fleet(box).folder / "enrolled").unlink()
    assert Fleet(box).enrol(file) is None, "it is in the fleet already"
    (Fleet(box).folder / "enrolled").unlink()
    (Fleet(box).folder / "membership.json").unlink()
    assert Fleet(box).enrol(file) is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"enrolment/1"', '"enrolment/9"'),
        lambda text: text.replace('"identity"', '"identities"'),
        lambda text: re.sub(r'"device": "\w+"', '"device": "000000000000"', text),
        lambda text: re.sub(r'"ticket": "\w{8}', '"ticket": "00000000', text),
        lambda text: re.sub(r'"box": "\w{8}', '"box": "00000000', text),
    ],
)
def test_a_spoiled_enrolment_changes_nothing(
    plant: Path, tmp_path: Path, box: Box, spoil: Any
) -> None:
    file = one_enrolment(plant, tmp_path)
    file.write_text(spoil(file.read_text()))
    with pytest.raises((FormatError, Rejected)):
        Fleet(box).enrol(file)
    assert not Fleet(box).is_member()
    assert not (Fleet(box).folder / "identity.json").exists()


@pytest.mark.parametrize("data", [b"", b"\n"], ids=["empty", "the unit's own"])
def test_no_file_and_a_blank_one_are_no_enrolment(tmp_path: Path, box: Box, data: bytes) -> None:
    assert Fleet(box).enrol(tmp_path / "enrolment") is None
    (tmp_path / "enrolment").write_bytes(data)
    assert Fleet(box).enrol(tmp_path / "enrolment") is None


def test_a_prefix_that_makes_no_host_name_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a host name"):
        identities.numbered("Box", 1, set())


# ---- all of it ----------------------------------------------------------------------------------


def start(world: World, state: Path, credentials: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "accrue.cli.main"),
            *("--state", state, "--bundle", world.bundle, "run", "--listen", "127.0.0.1:0"),
        ],
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials), "ACCRUE_CONFIG": ""},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.slow
def test_a_device_joins_by_itself_once_the_broker_is_reachable(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    world = World(tmp_path, tiny_bundle)
    world.start()
    try:
        make(tmp_path / "owner", tmp_path / "ids", "--count", 1)
        world.stop_broker()
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        file = tmp_path / "ids" / "box-0001.enrolment"
        (credentials / "enrolment").write_bytes(file.read_bytes())
        process = start(world, tmp_path / "state", credentials)
        try:
            membership = tmp_path / "state" / "fleet" / "membership.json"
            until(membership.exists, "it joined without a network")
            world.start_broker()

            def state() -> str:
                (one,) = world.owner("status", "--json").json["devices"]
                return str(one["state"])

            until(lambda: state() == "ready", "the owner sees it")
        finally:
            process.terminate()
            _, err = process.communicate(timeout=DEADLINE_S)
        assert "joined fleet plant as box-0001" in err
    finally:
        world.stop_broker()


@pytest.mark.slow
def test_a_device_whose_enrolment_is_spoiled_serves_all_the_same(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    (tmp_path / "enrolment").write_text("{}")
    process = start(World(tmp_path, tiny_bundle), tmp_path / "state", tmp_path)
    try:
        until((tmp_path / "state" / ADDRESS_FILE).exists, "it serves", 30)
    finally:
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "enrolment was not taken up" in err
