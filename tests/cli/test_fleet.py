"""A fleet from an empty folder, through the real programs and a real Mosquitto."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accrue.cli import main as device_cli
from accrue.cli import owner as owner_cli
from accrue.service.daemon import Device
from accrue.service.settings import Settings
from accrue.sync.manifest import Manifest
from accrue.sync.owner import OwnerLine
from accrue.sync.workspace import Workspace
from fleet_world import World, call

Photos = dict[str, list[Path]]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCRUE_ACTOR", "tester")
    monkeypatch.setenv("ACCRUE_DUPLICATES", "1")
    monkeypatch.setenv("ACCRUE_BLUR", "1")
    monkeypatch.setenv("ACCRUE_VIEWS", "2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture
def photos(photo_classes: Callable[..., Photos]) -> list[list[Path]]:
    """Three classes of twelve photos that can be told apart."""
    return list(photo_classes("photos", classes=3, each=12).values())


def test_what_one_device_is_taught_another_recognises(
    world: World, photos: list[list[Path]]
) -> None:
    for name in ("dock-1", "dock-2"):
        code = world.owner("roster", "invite", name).out.strip()
        words = ("fleet", "join", code, "--broker", "127.0.0.1", "--port", str(world.port))
        joining = world.start_device(name, *words)
        accepted = world.owner("roster", "accept", "--for", 60, "--json").json
        out, err = joining.communicate(timeout=60)
        assert joining.returncode == 0, (out, err)
        (joined,) = accepted["joined"]
        assert (joined["name"], f"key {joined['fingerprint']}") == (
            name,
            err.split("; ")[1].split("\n")[0],
        )
    world.device("dock-1", "class", "teach", "bolt", *photos[0])
    world.device("dock-1", "class", "teach", "gear", *photos[1])
    assert world.sync("dock-1")["sent"] == 2
    events = world.sync("dock-2")["events"]
    assert 'received from dock-1: "bolt" +12 shots, "gear" +12 shots' in events
    answer = world.device("dock-2", "predict", photos[0][0], "--json").json["predictions"][0]
    assert answer["label"] == "bolt"
    assert world.digest("dock-1") == world.digest("dock-2")
    status = world.owner("status", "--json").json
    assert {d["name"]: d["sets"][0]["digest"] for d in status["devices"]} == dict.fromkeys(
        ("dock-1", "dock-2"), status["sets"][0]["digest"]
    )
    assert [d["state"] for d in status["devices"]] == ["stopped", "stopped"]
    assert all(d["refused"] == {} for d in status["devices"])


def test_two_devices_that_teach_one_class_are_one_that_was_taught_all(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:6])
    world.device("dock-2", "class", "teach", "bolt", *photos[0][6:])
    world.sync("dock-1", "dock-2", "dock-1")
    world.device("alone", "class", "teach", "bolt", *photos[0])
    assert world.digest("dock-1") == world.digest("dock-2") == world.digest("alone")


def test_a_removal_and_its_undo_reach_the_fleet(world: World, photos: list[list[Path]]) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1", "dock-2")
    world.device("dock-2", "class", "remove", "bolt")
    world.sync("dock-2", "dock-1")
    assert world.classes("dock-1") == {}
    world.device("dock-2", "undo")
    world.sync("dock-2", "dock-1")
    assert world.classes("dock-1") == {"bolt": 2}


def test_a_curated_set_changes_when_its_owner_says_so_and_back(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:4])
    world.sync("dock-1", "dock-2")
    world.owner("policy", "default", "curated")
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-2") == {"bolt": 4}, "nothing changes on the day it becomes curated"

    world.device("dock-1", "class", "teach", "gear", *photos[1][:4])
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-1") == {"bolt": 4, "gear": 4}
    assert world.classes("dock-2") == {"bolt": 4}
    (proposal,) = world.owner("propose", "--json").json["proposals"]
    assert (proposal["class"], proposal["difference"]["added"][0]["shots_after"]) == ("gear", 4)
    world.owner("approve", proposal["id"], "--remark", "good light")
    assert world.owner("canary", 100, "--json").json["devices"] == ["dock-1", "dock-2"]
    said = world.sync("dock-1")["events"]
    assert 'what this device taught of "gear" was approved: good light' in said
    world.owner("publish")
    world.sync("dock-2")
    assert world.classes("dock-2") == {"bolt": 4, "gear": 4}
    assert world.digest("dock-1") == world.digest("dock-2")

    rolled = world.owner("rollback", "--json").json["step"]["seq"]
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-1") == world.classes("dock-2") == {"bolt": 4}
    world.owner("undo", rolled)
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-1") == world.classes("dock-2") == {"bolt": 4, "gear": 4}

    world.owner("policy", "default", "open")
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-1") == world.classes("dock-2") == {"bolt": 4, "gear": 4}


def test_what_is_denied_is_dropped_by_the_device_that_taught_it(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:4])
    world.sync("dock-1")
    world.owner("policy", "default", "curated")
    world.device("dock-2", "class", "teach", "junk", *photos[1][:4])
    world.sync("dock-2")
    (proposal,) = world.owner("propose", "--json").json["proposals"]
    world.owner("deny", proposal["id"], "--remark", "not ours")
    world.owner("publish")
    said = world.sync("dock-2")["events"]
    assert 'what this device taught of "junk" was not approved: not ours' in said
    assert world.classes("dock-2") == {"bolt": 4}
    assert world.owner("propose", "--json").json["proposals"] == []
    world.device("dock-2", "class", "teach", "junk", *photos[2][:2])
    world.sync("dock-2")
    (again,) = world.owner("propose", "--json").json["proposals"]
    assert again["difference"]["added"][0]["shots_after"] == 2, "what was denied does not return"


def test_a_canary_is_a_share_of_the_devices_and_can_be_ended(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2", "dock-3", "dock-4")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1", "dock-2", "dock-3", "dock-4")
    world.owner("policy", "default", "curated")
    world.device("dock-1", "class", "teach", "gear", *photos[1][:2])
    world.sync("dock-1")
    world.owner("approve", world.owner("propose", "--json").json["proposals"][0]["id"])
    chosen = world.owner("canary", 50, "--json").json["devices"]
    for name in ("dock-2", "dock-3", "dock-4"):
        world.sync(name)
        expected = {"bolt": 2, "gear": 2} if name in chosen else {"bolt": 2}
        assert world.classes(name) == expected
    world.owner("rollback")
    for name in ("dock-2", "dock-3", "dock-4"):
        world.sync(name)
        assert world.classes(name) == {"bolt": 2}


def test_a_device_goes_back_by_itself_where_answers_get_worse(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    for name, shots in zip(("bolt", "gear", "valve"), photos, strict=True):
        world.device("dock-2", "class", "teach", name, *shots)
    world.sync("dock-2")
    world.owner("policy", "default", "curated")
    world.sync("dock-2", "dock-1")
    world.device("dock-1", "class", "teach", "bolt", *photos[1])
    world.device("dock-1", "class", "teach", "gear", *photos[2])
    world.device("dock-1", "class", "teach", "valve", *photos[0])
    world.sync("dock-1")
    found = world.owner("propose", "--json").json["proposals"]
    world.owner("approve", *[one["id"] for one in found])
    world.owner("publish")
    before = world.digest("dock-2")
    said = world.sync("dock-2")["events"]
    assert any(line.startswith("rolled manifest 2 back: accuracy on kept shots") for line in said)
    assert world.digest("dock-2") == before
    status = world.owner("status", "--json").json
    (reported,) = [d["sets"][0] for d in status["devices"] if d["name"] == "dock-2"]
    assert (reported["manifest"], reported["wanted"]) == (1, 2)
    assert reported["refused"].startswith("accuracy on kept shots would fall from")
    assert world.sync("dock-2")["events"] == [], "it is not tried again"
    world.owner("rollback")
    world.sync("dock-2")
    assert world.digest("dock-2") == before
    status = world.owner("status", "--json").json
    (reported,) = [d["sets"][0] for d in status["devices"] if d["name"] == "dock-2"]
    assert (reported["manifest"], reported["wanted"], reported["refused"]) == (3, 3, "")


def test_a_revoked_device_is_not_heard_and_a_forgotten_one_leaves_nothing(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][2:4])
    revoked = world.owner("roster", "revoke", "dock-1", "--json").json["step"]["seq"]
    refused = world.device("dock-1", "fleet", "sync", code=1)
    assert "does not accept user" in refused.err
    world.sync("dock-2")
    assert world.classes("dock-2") == {"bolt": 2}, "what it said before stays"
    world.owner("undo", revoked)
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-2") == {"bolt": 4}, "its account is back as well"

    forgotten = world.owner("forget-device", "dock-1", "--json").json["step"]["seq"]
    world.sync("dock-2")
    assert world.classes("dock-2") == {}
    world.owner("undo", forgotten)
    world.sync("dock-2")
    assert world.classes("dock-2") == {"bolt": 4}


def test_a_new_key_is_used_once_the_roster_has_it(world: World, photos: list[list[Path]]) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1", "dock-2")
    new = world.device("dock-1", "fleet", "rotate", "--json").json["new_key"]
    world.device("dock-1", "class", "teach", "bolt", photos[0][2])
    world.sync("dock-1")
    assert [d["asks_for_key"] for d in world.owner("status", "--json").json["devices"]] == [
        True,
        False,
    ]
    world.owner("roster", "rotate", "--grace", 0)
    assert "the new key is in use" in world.sync("dock-1")["events"]
    assert world.device("dock-1", "fleet", "status", "--json").json["fingerprint"] == new
    world.device("dock-1", "class", "teach", "bolt", photos[0][3])
    world.sync("dock-1")
    assert world.sync("dock-2")["refused"] == {}
    assert world.classes("dock-2") == {"bolt": 4}
    assert world.owner("roster", "rotate", code=3).err.startswith(
        "accrue-fleet: no device asks for a new key"
    )


def test_a_broker_that_lost_everything_is_filled_again(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1")
    world.owner("policy", "default", "curated")
    world.stop_broker()
    (world.configuration.parent / "data" / "mosquitto.db").unlink(missing_ok=True)
    world.start_broker()
    world.owner("status")
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-2") == {"bolt": 2}


def test_a_class_set_is_handed_over_as_a_file(
    world: World, photos: list[list[Path]], tmp_path: Path
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "hex bolt", *photos[0][:3])
    world.device("dock-1", "class", "rename", "hex bolt", "bolt")
    world.sync("dock-1", "dock-2")  # which brings dock-2 the roster
    world.device("dock-1", "class", "teach", "gear", *photos[1][:3])
    file = tmp_path / "classes.set"
    written = world.device("dock-1", "set", "export", file, "--json").json
    assert (written["classes"], written["shots"], written["devices"]) == (2, 6, 1)
    for name, as_theirs, known in (("dock-2", True, "device dock-1"), ("alone", False, None)):
        seen = world.device(name, "set", "diff", file, "--json").json
        assert (seen["taken"], seen["as_theirs"], seen["known"]) == (False, as_theirs, known)
        assert [one["name"] for one in seen["difference"]["added"]][-1] == "gear"
        before = world.classes(name)
        refused = world.device(name, "set", "import", file, "--json", code=2)
        assert "nobody was there to ask; nothing was changed" in refused.err
        assert world.classes(name) == before
        world.device(name, "set", "import", file, "--yes")
        assert world.digest(name) == world.digest("dock-1")
        again = world.device(name, "set", "import", file, "--yes", "--json").json
        assert again["difference"]["added"] == again["difference"]["changed"] == []
        assert world.digest(name) == world.digest("dock-1"), "nothing is counted twice"
    shown = world.device("alone", "class", "show", "hex bolt", "--json").json
    assert shown["name"] == "bolt", "aliases came along"
    world.sync("dock-1", "dock-2")
    assert world.digest("dock-2") == world.digest("dock-1"), "nor when it comes over the broker"
    entries = world.device("alone", "history", "--json").json["entries"]
    for entry in entries:
        world.device("alone", "undo", entry["seq"])
    assert world.classes("alone") == {}


def test_leaving_takes_what_others_taught(world: World, photos: list[list[Path]]) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.device("dock-2", "class", "teach", "gear", *photos[1][:2])
    world.sync("dock-1", "dock-2")
    assert world.classes("dock-2") == {"gear": 2, "bolt": 2}
    assert "add --yes" in world.device("dock-2", "fleet", "leave", code=2).err
    world.device("dock-2", "fleet", "leave", "--yes")
    assert world.classes("dock-2") == {"gear": 2}
    assert "this device is in no fleet" in world.device("dock-2", "fleet", "sync", code=3).err
    world.join("dock-2")
    world.sync("dock-2")
    assert world.classes("dock-2") == {"gear": 2, "bolt": 2}


def test_another_space_is_announced_but_never_sent(
    world: World, photos: list[list[Path]], other_bundle: Path
) -> None:
    world.join("dock-1")
    world.owner("coming", "default", "--bundle", other_bundle, "--note", "on the stick")
    (line,) = [e for e in world.sync("dock-1")["events"] if "too" in e]
    assert line.startswith("class set default will be taught with space ")
    assert line.endswith(" too: on the stick")
    assert world.sync("dock-1")["events"] == [], "it is said once"


def test_a_code_works_once(world: World) -> None:
    code = world.owner("roster", "invite", "dock-1").out.strip()
    words = ("fleet", "join", code, "--broker", "127.0.0.1", "--port", str(world.port))
    first = world.start_device("dock-1", *words)
    world.owner("roster", "accept", "--for", 60)
    assert first.wait(60) == 0
    first.communicate()
    assert "no invitation is open" in world.owner("roster", "accept", "--for", 1, code=3).err
    again = world.owner("roster", "invite", "dock-1").err
    assert "dock-1 is in the roster already (" in again
    late = world.device("dock-2", *words, "--for", 1, code=3)
    assert "the owner of fleet plant did not answer within 1 s" in late.err


def test_secrets_are_for_their_owner_alone_and_printed_nowhere(world: World) -> None:
    world.join("dock-1")
    secret = (world.folder / "dock-1" / "fleet" / "password").read_text()
    shown = [
        world.device("dock-1", "fleet", "status", "--json"),
        world.device("dock-1", "fleet", "sync", "--json"),
        world.owner("roster", "show", "--json"),
        world.owner("status", "--json"),
        world.owner("log", "--json"),
    ]
    assert all(secret not in done.out + done.err for done in shown)
    for folder in ("owner", "dock-1/fleet"):
        for path in (world.folder / folder).iterdir():
            if path.is_file() and path.name not in ("ca.crt", "outbox.db"):
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_who_has_the_broker_but_not_the_owners_key_changes_nothing(
    world: World, photos: list[list[Path]]
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.device("dock-1", "class", "teach", "gear", *photos[1][:2])
    world.sync("dock-1", "dock-2")
    world.owner("policy", "default", "curated")
    world.sync("dock-1", "dock-2")
    before = world.digest("dock-2")
    with Workspace.open(world.folder / "owner") as owner:
        known, first, head = (
            owner.broker,
            owner.roster_bytes(1),
            owner.head_bytes(owner.scopes()[0]),
        )
        scope = owner.scopes()[0]
    assert known is not None
    assert head is not None
    with Workspace.create(world.folder / "thief", "plant") as thief:
        thief.set_broker(known)
        for _ in range(9):  # a higher version than the owner's
            thief.set_policy("default", "curated")
            thief.set_policy("default", "open")
        nothing = thief.add_manifest(
            scope,
            lambda n: Manifest(scope.fleet, scope.class_set, scope.space, scope.dim, n),
        )
        for _ in range(9):
            thief.set_head(scope, nothing, None, "publish", "nothing is in force")
        with OwnerLine(thief) as line:
            line.publish()
    done = world.sync("dock-2")
    assert done["refused"] == {"forged": 2}, "the roster and the manifest"
    assert (world.digest("dock-2"), world.classes("dock-2")) == (before, {"bolt": 2, "gear": 2})

    with Workspace.open(world.folder / "thief") as thief, OwnerLine(thief) as line:
        line.put("roster", first[0])
        line.put("manifest", head[:-1] + b" ", set=scope.class_set, space=scope.space16)
    done = world.sync("dock-2")
    assert done["refused"] == {"forged": 1}, "an old roster is only old"
    assert world.digest("dock-2") == before

    world.owner("status")  # puts back what the owner signed
    assert world.sync("dock-2")["refused"] == {}
    assert world.digest("dock-2") == before


def test_another_space_of_a_curated_set_starts_with_nothing_and_is_decided_on_its_own(
    world: World, photos: list[list[Path]], other_bundle: Path
) -> None:
    world.join("dock-1")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1")
    world.owner("policy", "default", "curated")
    world.bundles = dict.fromkeys(("dock-3", "dock-4"), other_bundle)
    world.join("dock-3", "dock-4")
    world.device("dock-3", "class", "teach", "gear", *photos[1][:2])
    world.sync("dock-3", "dock-4")
    assert (world.classes("dock-3"), world.classes("dock-4")) == ({"gear": 2}, {})
    assert "2 class sets fit" in world.owner("propose", code=5).err
    space = next(
        one["space"] for one in world.owner("status", "--json").json["sets"] if one["drafts"]
    )
    (proposal,) = world.owner("propose", "--space", space[:8], "--json").json["proposals"]
    world.owner("approve", proposal["id"])
    world.owner("publish", "--space", space[:8])
    world.sync("dock-4", "dock-1")
    assert world.classes("dock-4") == {"gear": 2}
    assert world.classes("dock-1") == {"bolt": 2}, "spaces live side by side"


def test_an_old_copy_of_the_owners_folder_is_noticed(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "owner", tmp_path / "copy")
    world.join("dock-1")
    done = call(owner_cli.main, "--fleet", tmp_path / "copy", "status")
    assert done.code == 5
    assert "this folder is an old copy" in done.err


def test_a_code_can_be_waited_for(world: World) -> None:
    inviting = world.start_owner("roster", "invite", "dock-1", "--wait")
    assert inviting.stdout is not None
    code = inviting.stdout.readline().strip()
    where = ("--broker", "127.0.0.1", "--port", world.port)
    joined = world.device("dock-1", "fleet", "join", code, *where, "--json").json
    out, err = inviting.communicate(timeout=60)
    assert inviting.returncode == 0, err
    assert f"let dock-1 in: device {joined['device']}" in out


# ---- refusals, without a broker ----------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path, tiny_bundle: Path) -> World:
    return World(tmp_path, tiny_bundle)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fleet", "sync"], 3, "accrue: this device is in no fleet"),
        (["fleet", "status"], 3, "accrue: this device is in no fleet"),
        (["fleet", "rotate"], 3, "accrue: this device is in no fleet"),
        (["fleet", "leave", "--yes"], 3, "accrue: this device is in no fleet"),
        (["fleet", "join"], 2, "accrue: a fleet is joined with a code or with a ticket"),
        (["fleet", "join", "plant-7k3q9-mztx8"], 2, "accrue: no --broker was given"),
        (
            ["fleet", "join", "plant", "--broker", "h"],
            2,
            'accrue: "plant" is no code; expected the fleet and twice five characters',
        ),
        (["fleet", "join", "--ticket", "nowhere"], 3, "accrue: no file nowhere"),
        (["set", "export", "x.set"], 3, "accrue: there is nothing to export: no class has been"),
        (["set", "diff", "nowhere"], 3, "accrue: no file nowhere"),
    ],
)
def test_a_device_says_what_is_missing(
    alone: World, words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alone.folder)
    done = alone.device("dock", *words, code=code)
    assert done.err.startswith(said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status"], 3, "accrue-fleet: no broker is known for fleet plant"),
        (["init", "plant"], 5, "accrue-fleet: {folder}/owner holds owner.key already"),
        (["init", "Plant 2"], 2, 'accrue-fleet: fleet "Plant 2"; expected 1 to 32 of a-z'),
        (["broker"], 2, "accrue-fleet: no --host was given"),
        (["roster", "invite", "dock"], 3, "accrue-fleet: no broker is known for fleet plant"),
        (["propose", "--offline"], 3, "accrue-fleet: no class set is known in fleet plant"),
        (["publish", "--offline"], 3, "accrue-fleet: no class set is known in fleet plant"),
        (["approve", "7"], 3, "accrue-fleet: no proposal 7"),
        (["undo", "--offline"], 3, "accrue-fleet: nothing to undo"),
        (["undo", "1", "--offline"], 5, "accrue-fleet: step 1 cannot be undone: made fleet plant"),
        (["undo", "9", "--offline"], 3, "accrue-fleet: no step 9"),
        (["roster", "revoke", "x", "--offline"], 3, 'accrue-fleet: no device "x" in the roster'),
        (["policy", "default", "free", "--offline"], 2, "accrue-fleet: policy 'free'; expected"),
        (["roster", "add", "nowhere", "--ticket", "t"], 3, "accrue-fleet: no file nowhere"),
        (["forget-device", "x", "--clear"], 2, "accrue-fleet: what the broker retains of the"),
    ],
)
def test_the_owner_is_told_what_is_missing(
    alone: World, words: list[str], code: int, said: str
) -> None:
    alone.owner("init", "plant")
    done = alone.owner(*words, code=code)
    assert done.err.startswith(said.format(folder=alone.folder))


def test_an_owner_key_that_others_may_read_is_refused(alone: World) -> None:
    alone.owner("init", "plant")
    key = alone.folder / "owner" / "owner.key"
    key.chmod(0o644)
    assert "may be read by others (mode 0644)" in alone.owner("log", code=5).err


def test_the_programs_know_their_versions() -> None:
    assert call(owner_cli.main, "--version").out.startswith("accrue-fleet ")
    assert call(device_cli.main, "--version").out.startswith("accrue ")


def test_a_running_device_follows_its_fleet_joins_late_and_goes_on_after_a_restore(
    world: World, photos: list[list[Path]], tmp_path: Path
) -> None:
    world.join("dock-1")
    world.device("dock-1", "class", "teach", "bolt", *photos[0])
    world.sync("dock-1")
    settings = Settings(state=tmp_path / "dock-2", bundle=world.bundle, views=2)
    with Device(settings, cameras=[]) as device:
        assert device.fleet() is None
        world.join("dock-2")  # by the command line, while the device runs

        def names() -> set[str]:
            with device.reading() as box:
                return {row.name for row in box.classes()}

        wait_for(lambda: "bolt" in names())
        wait_for(lambda: (device.fleet() or {}).get("peers") == 1)
        with device.writing("olga") as box:
            list(box.teach("gear", [(str(path), path) for path in photos[1]]))
        wait_for(lambda: (device.fleet() or {}).get("sent", 0) >= 1)  # what it says is 2 s old
        world.sync("dock-1")
        assert world.classes("dock-1") == {"bolt": 12, "gear": 12}
        with device.reading() as box:
            backup = tmp_path / "both.backup"
            box.backup(backup)
        with device.writing("olga") as box:
            box.remove("gear")
        device.restore(backup, "olga", replace=True)
        wait_for(lambda: bool((device.fleet() or {}).get("connected")))
        assert names() == {"bolt", "gear"}
        texts = [e.data["message"] for e in device.events.since(0) if e.type == "fleet"]
        assert any('"bolt" +12 shots' in text for text in texts)


def test_a_broker_that_is_away_is_shown_and_stops_nothing(
    world: World, photos: list[list[Path]], tmp_path: Path
) -> None:
    world.join("dock-1")
    world.stop_broker()
    settings = Settings(state=tmp_path / "dock-1", bundle=world.bundle, views=2)
    with Device(settings, cameras=[]) as device:
        with device.writing("olga") as box:
            list(box.teach("gear", [(str(path), path) for path in photos[1]]))
        wait_for(lambda: (device.fleet() or {}).get("unsent") == 1)
        wait_for(lambda: bool((device.fleet() or {})["problems"]))
        fleet = device.fleet()
        assert fleet is not None
        assert not fleet["connected"]
        assert "nothing listens at 127.0.0.1" in fleet["problems"][0]
        world.start_broker()
        wait_for(lambda: (device.fleet() or {}).get("unsent") == 0)


def wait_for(true: Callable[[], bool], deadline_s: float = 60.0) -> None:
    until = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
