"""The owner's folder: what is signed only rises, each step is written down, and can be undone."""

from __future__ import annotations

import fcntl
import stat
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from owner_cases import SCOPE, Plant, rows

from accrue.errors import (
    Conflict,
    FormatError,
    FutureVersion,
    LinkError,
    NotFound,
    Rejected,
    UsageError,
)
from accrue.sync import curation, owner
from accrue.sync.content import sha256
from accrue.sync.difference import summarise
from accrue.sync.identity import Broker
from accrue.sync.manifest import Canary, Manifest, ManifestHead, Version
from accrue.sync.roster import RosterTrust
from accrue.sync.workspace import Workspace


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


@pytest.fixture
def curated(plant: Plant) -> Plant:
    """One device that taught bolt, and a class set that is curated since."""
    plant.join("dock-1").teach("bolt", rows(1))
    plant.hand_over()
    curation.curate(plant.workspace, "default", [SCOPE])
    return plant


def listed(plant: Plant) -> dict[str, int]:
    """Class name to shots, as the stable content has it."""
    head = plant.workspace.head(SCOPE)
    assert head is not None
    assert head.stable is not None
    manifest = plant.workspace.manifest(SCOPE, head.stable)
    found = summarise(plant.workspace.listed(manifest).values(), SCOPE)
    return {one.name: one.shots for one in found.classes.values()}


def publish_all(plant: Plant) -> None:
    plant.hand_over()
    for proposal in curation.propose(plant.workspace, SCOPE):
        plant.workspace.decide(proposal.id, "approved", "")
    curation.publish(plant.workspace, SCOPE)


def test_a_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "owner", "plant").close()
    assert stat.S_IMODE((tmp_path / "owner").stat().st_mode) == 0o700
    for name in ("owner.key", "owner.json", "owner.db"):
        assert stat.S_IMODE((tmp_path / "owner" / name).stat().st_mode) == 0o600
    with Workspace.open(tmp_path / "owner") as again:
        assert again.roster().version == 1
        assert again.roster().owner == again.public


def test_a_fleet_is_not_made_over_another(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "owner", "plant").close()
    key = (tmp_path / "owner" / "owner.key").read_bytes()
    with pytest.raises(Conflict, match="nothing was changed"):
        Workspace.create(tmp_path / "owner", "other")
    assert (tmp_path / "owner" / "owner.key").read_bytes() == key


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no fleet owner at"):
        Workspace.open(tmp_path)
    Workspace.create(tmp_path / "owner", "plant").close()
    (tmp_path / "owner" / "owner.key").write_text("not a key\n")
    with pytest.raises(FormatError, match="is no owner's folder: key: expected 64 hex"):
        Workspace.open(tmp_path / "owner")
    (tmp_path / "owner" / "owner.key").unlink()
    with pytest.raises(NotFound, match=r"the fleet's private key .* is not there"):
        Workspace.open(tmp_path / "owner")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["add", "revoke", "restore", "open", "curated", "undo"]), max_size=12
    )
)
def test_versions_only_rise_and_undoing_everything_leaves_what_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    plant = Plant(tmp_path_factory.mktemp("plant"))
    workspace = plant.workspace
    device = plant.join("dock-1").device
    first = replace(workspace.roster(), version=0)
    seen = RosterTrust()
    seen.renew(workspace.roster())
    done = 0
    for step in steps:
        member = workspace.roster().devices[device]
        before = workspace.roster().version
        try:
            if step == "undo":
                open_ones = [
                    s.seq
                    for s in workspace.log()
                    if s.subject and s.undone_by is None and s.undoes is None
                ]
                if max(open_ones) == 2:  # that dock-1 was added stays
                    continue
                workspace.undo()
            elif step in ("open", "curated"):
                workspace.set_policy("default", "open" if step == "open" else "curated")
            else:
                revoked = workspace.tick() if step == "revoke" else None
                workspace.set_device(device, replace(member, revoked=revoked), step, step)
        except (Conflict, NotFound):
            assert workspace.roster().version == before
            continue
        assert workspace.roster().version == before + 1
        assert seen.renew(workspace.roster())
        done += 1
    log = workspace.log()
    for entry in log:
        if entry.subject and entry.undone_by is None and entry.undoes is None and entry.seq > 2:
            workspace.undo(entry.seq)
    assert replace(workspace.roster(), version=0) == first
    assert len(workspace.log()) >= len(log)
    workspace.close()


def test_a_step_that_a_later_one_changed_again_is_not_undone(plant: Plant) -> None:
    device = plant.join("dock-1").device
    workspace = plant.workspace
    member = workspace.roster().member(device)
    first = workspace.set_device(device, replace(member, name="a"), "rename", "named a")
    second = workspace.set_device(device, replace(member, name="b"), "rename", "named b")
    with pytest.raises(Conflict) as raised:
        workspace.undo(first.seq)
    assert raised.value.message == (
        f"step {first.seq} cannot be undone: what it changed was changed again by step "
        f"{second.seq}, named b"
    )
    assert raised.value.hint == f"undo that one first: accrue-fleet undo {second.seq}"
    undone = workspace.undo(second.seq)
    assert workspace.roster().member(device).name == "a"
    with pytest.raises(Conflict, match=f"step {second.seq} was undone by step {undone.seq}"):
        workspace.undo(second.seq)
    workspace.undo(undone.seq)
    assert workspace.roster().member(device).name == "b", "undoing an undo is a redo"


def test_invitations_end_by_themselves(plant: Plant) -> None:
    invite = plant.workspace.invite("dock-1")
    assert plant.workspace.invites() == [invite]
    plant.now += 15 * 60 + 1
    assert plant.workspace.invites() == []
    plant.workspace.close()
    with Workspace.open(plant.workspace.folder, now=lambda: plant.now) as again:
        with again.database.reading() as db:
            kept = db.execute("SELECT count(*) FROM invite").fetchone()[0]
        assert kept == 0, "no code is kept longer"


def test_stamps_rise_over_restarts_and_clocks_set_back(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    first = plant.workspace.tick()
    plant.workspace.close()
    with Workspace.open(tmp_path / "owner", now=lambda: plant.now - 3600) as again:
        assert again.tick() > first


# ---- curated sets ------------------------------------------------------------------------------


def test_what_is_there_when_a_set_becomes_curated_is_its_first_content(curated: Plant) -> None:
    assert listed(curated) == {"bolt": 1}
    assert curation.propose(curated.workspace, SCOPE) == []
    with pytest.raises(Conflict, match='class set "default" is curated already'):
        curation.curate(curated.workspace, "default", [SCOPE])


def test_an_open_set_has_nothing_to_publish(plant: Plant) -> None:
    plant.join("dock-1").teach("bolt", rows(1))
    plant.hand_over()
    for act in (curation.propose, curation.publish, curation.rollback, curation.end_canary):
        with pytest.raises(Conflict, match='class set "default" is open') as raised:
            act(plant.workspace, SCOPE)
        assert raised.value.hint == "to decide what goes live: accrue-fleet policy default curated"


def test_only_what_was_approved_goes_in_and_only_when_published(curated: Plant) -> None:
    device = curated.devices["dock-1"]
    device.teach("gear", rows(1, 1))
    device.teach("junk", rows(1, 2))
    curated.hand_over()
    found = {p.name: p for p in curation.propose(curated.workspace, SCOPE)}
    assert set(found) == {"gear", "junk"}
    curated.workspace.decide(found["gear"].id, "approved", "fine")
    curated.workspace.decide(found["junk"].id, "denied", "not ours")
    assert listed(curated) == {"bolt": 1}
    curation.publish(curated.workspace, SCOPE)
    assert listed(curated) == {"bolt": 1, "gear": 1}
    head = curated.workspace.head(SCOPE)
    assert head is not None
    assert head.stable is not None
    manifest = curated.workspace.manifest(SCOPE, head.stable)
    assert {(r.taken, r.text) for r in manifest.remarks} == {(True, "fine"), (False, "not ours")}
    assert curation.propose(curated.workspace, SCOPE) == [], "both were looked at"


def test_what_was_approved_is_what_was_looked_at(curated: Plant) -> None:
    """A device that goes on teaching before the set is published does not slip anything in."""
    device = curated.devices["dock-1"]
    device.teach("gear", rows(1, 1))
    curated.hand_over()
    (proposal,) = curation.propose(curated.workspace, SCOPE)
    curated.workspace.decide(proposal.id, "approved", "")
    device.teach("gear", rows(2, 1))
    curated.hand_over()
    curation.publish(curated.workspace, SCOPE)
    assert listed(curated) == {"bolt": 1, "gear": 1}
    (later,) = curation.propose(curated.workspace, SCOPE)
    assert later.name == "gear"


def test_a_newer_draft_replaces_the_open_proposal_and_the_same_one_does_not(
    curated: Plant,
) -> None:
    device = curated.devices["dock-1"]
    device.teach("gear", rows(1, 1))
    curated.hand_over()
    (first,) = curation.propose(curated.workspace, SCOPE)
    assert [p.id for p in curation.propose(curated.workspace, SCOPE)] == [first.id]
    device.teach("gear", rows(2, 1))
    curated.hand_over()
    (second,) = curation.propose(curated.workspace, SCOPE)
    assert second.id > first.id
    assert curated.workspace.proposal(first.id).status == "replaced"
    with pytest.raises(Conflict, match=f"proposal {first.id} is replaced already"):
        curated.workspace.decide(first.id, "approved", "")


def test_nothing_decided_is_nothing_to_publish(curated: Plant) -> None:
    with pytest.raises(Conflict, match='nothing new was decided for class set "default"'):
        curation.publish(curated.workspace, SCOPE)


def test_a_canary_can_be_widened_ended_and_made_to_hold_for_all(curated: Plant) -> None:
    workspace = curated.workspace
    curated.devices["dock-1"].teach("gear", rows(1, 1))
    curated.hand_over()
    workspace.decide(curation.propose(workspace, SCOPE)[0].id, "approved", "")
    curation.publish(workspace, SCOPE, percent=10)
    assert listed(curated) == {"bolt": 1}
    head = workspace.head(SCOPE)
    assert head is not None
    assert head.canary is not None
    with pytest.raises(Conflict, match="is on trial with 10 % of the devices already"):
        curation.publish(workspace, SCOPE, percent=10)
    curation.publish(workspace, SCOPE, percent=30)
    wider = workspace.head(SCOPE)
    assert wider is not None
    assert wider.canary is not None
    assert wider.canary.salt == head.canary.salt, "those that have it keep it"
    curation.publish(workspace, SCOPE, percent=0)
    ended = workspace.head(SCOPE)
    assert ended is not None
    assert (ended.canary, listed(curated)) == (None, {"bolt": 1})
    curation.publish(workspace, SCOPE)
    assert listed(curated) == {"bolt": 1, "gear": 1}


@given(percent=st.integers(0, 100), salt=st.text("0123456789abcdef", min_size=1, max_size=16))
@settings(max_examples=50, deadline=None)
def test_a_canary_takes_about_its_share_and_grows_only(percent: int, salt: str) -> None:
    version = Version.from_body({"number": 1, "sha256": "0" * 64, "bytes": 1})
    devices = [f"{i:012}" for i in range(400)]
    chosen = {d for d in devices if Canary(percent, salt, version).chooses(d)}
    assert abs(len(chosen) - 4 * percent) <= 45  # 4.5 standard deviations at the most
    wider = {d for d in devices if Canary(min(100, percent + 10), salt, version).chooses(d)}
    assert chosen <= wider
    assert (len(chosen) == 0) if percent == 0 else (percent < 100 or len(chosen) == 400)


def test_a_rollback_is_a_new_content_and_keeps_what_was_considered(curated: Plant) -> None:
    curated.devices["dock-1"].teach("gear", rows(1, 1))
    publish_all(curated)
    step = curation.rollback(curated.workspace, SCOPE)
    assert listed(curated) == {"bolt": 1}
    assert [n for n, _, _ in curated.workspace.numbers(SCOPE)] == [1, 2, 3]
    assert curation.propose(curated.workspace, SCOPE) == [], "it does not live on as a draft"
    with pytest.raises(Conflict, match=r"manifest 3 .* is the first; there is none before it"):
        curation.rollback(curated.workspace, SCOPE)
    curated.workspace.undo(step.seq)
    assert listed(curated) == {"bolt": 1, "gear": 1}
    curation.rollback(curated.workspace, SCOPE, to=1)
    assert listed(curated) == {"bolt": 1}
    with pytest.raises(NotFound, match="no manifest 9"):
        curation.rollback(curated.workspace, SCOPE, to=9)


def test_versions_of_a_head_only_rise(curated: Plant) -> None:
    versions = []
    curated.devices["dock-1"].teach("gear", rows(1, 1))
    publish_all(curated)
    for act in (
        lambda: curation.rollback(curated.workspace, SCOPE),
        lambda: curated.workspace.undo(),
        lambda: curated.workspace.undo(),
    ):
        act()
        head = curated.workspace.head(SCOPE)
        assert head is not None
        versions.append(head.version)
    assert versions == sorted(set(versions))


def test_a_forgotten_device_is_in_no_manifest(curated: Plant) -> None:
    other = curated.join("dock-2")
    other.teach("bolt", rows(5))
    publish_all(curated)
    assert listed(curated) == {"bolt": 2}
    member = curated.workspace.roster().member(other.device)
    stamp = curated.workspace.tick()
    step = curated.workspace.set_device(
        other.device, replace(member, revoked=stamp, forgotten=stamp), "forget", "forgot dock-2"
    )
    (published,) = curation.without_forgotten(curated.workspace)
    assert listed(curated) == {"bolt": 1}
    curated.workspace.undo(published.seq)
    curated.workspace.undo(step.seq)
    assert listed(curated) == {"bolt": 2}


def test_classes_that_did_not_change_keep_their_parcel(curated: Plant) -> None:
    before = set(curated.workspace.needed())
    curated.devices["dock-1"].teach("gear", rows(1, 1))
    publish_all(curated)
    head = curated.workspace.head(SCOPE)
    assert head is not None
    assert head.stable is not None
    kept = [
        one.parcel.sha256
        for one in curated.workspace.manifest(SCOPE, head.stable).classes.values()
        if one.parcel.sha256 in before
    ]
    assert len(kept) == 1


def test_a_difference_names_what_is_new_and_what_may_be_confused(curated: Plant) -> None:
    device = curated.devices["dock-1"]
    device.teach("bolt again", rows(9))
    device.teach("bolt", rows(3))
    curated.hand_over()
    found = curation.compare(curated.workspace, SCOPE, None, None)
    assert [(one.name, one.shots_after) for one in found.added] == [("bolt again", 1)]
    assert [(one.name, one.shots_before, one.shots_after) for one in found.changed] == [
        ("bolt", 1, 2)
    ]
    (pair,) = found.collisions
    assert {pair.first, pair.second} == {"bolt", "bolt again"}
    assert pair.cosine > 0.9
    assert not pair.same_name
    publish_all(curated)
    turned = curation.compare(curated.workspace, SCOPE, 2, 1)
    assert [one.name for one in turned.removed] == ["bolt again"]
    assert curation.compare(curated.workspace, SCOPE, 2, 2).is_empty


def test_two_classes_of_one_name_are_pointed_out(curated: Plant) -> None:
    other = curated.join("dock-2")
    other.teach("gear", rows(1, 3))
    other.rename("gear", "bolt")
    curated.hand_over()
    (proposal,) = curation.propose(curated.workspace, SCOPE)
    change = curation.proposed_differences(curated.workspace, [proposal])[proposal.id]
    (pair,) = change.collisions
    assert pair.same_name
    assert (pair.first, pair.second) == ("bolt", "bolt")


# ---- manifests on the wire ---------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_and_no_other_way(curated: Plant) -> None:
    workspace = curated.workspace
    head = workspace.head(SCOPE)
    assert head is not None
    assert head.stable is not None
    envelope = workspace.head_bytes(SCOPE)
    assert envelope is not None
    assert ManifestHead.open(envelope, workspace.public) == head
    content = workspace.content(head.stable.content.sha256)
    manifest = Manifest.open(content, head, head.stable.content)
    assert manifest.packed() == content
    with pytest.raises(Rejected) as forged:
        ManifestHead.open(envelope, bytes(31) + b"\1")
    assert forged.value.reason == "forged"
    with pytest.raises(Rejected, match="is not what was signed"):
        Manifest.open(content + b"x", head, head.stable.content)
    with pytest.raises(Rejected) as other:
        Manifest.open(content, replace(head, class_set="other"), head.stable.content)
    assert other.value.reason == "wrong-scope"


def test_what_devices_need_is_found_by_its_digest(curated: Plant) -> None:
    needed = curated.workspace.needed()
    assert all(sha256(body) == digest for digest, body in needed.items())
    assert len(needed) == 3, "roster, manifest, and the parcel of the one class"


def test_a_set_that_nobody_knows_is_not_made_curated(plant: Plant) -> None:
    with pytest.raises(NotFound, match='no class set "tools" is known in fleet plant'):
        curation.curate(plant.workspace, "tools", [])
    with pytest.raises(NotFound, match="no class set is known in fleet plant"):
        plant.workspace.scope(None, None)


def test_a_remark_has_its_limits() -> None:
    from accrue.sync.manifest import clean_remark

    assert clean_remark("  two\nlines ") == "two lines"
    with pytest.raises(UsageError, match="a remark of 501 characters; expected at most 500"):
        clean_remark("x" * 501)


# ---- who took a step, and what the broker knows -------------------------------------------------


def test_a_step_tells_who_took_it(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "owner", "plant", actor="Olga").close()
    with Workspace.open(tmp_path / "owner", actor="Otto") as workspace:
        workspace.set_policy("default", "curated")
        workspace.undo()
        assert [(s.verb, s.actor) for s in workspace.log()] == [
            ("undo", "Otto"),
            ("policy", "Otto"),
            ("init", "Olga"),
        ]


def test_a_folder_of_before_is_brought_up_to_date_and_keeps_its_log(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "owner", "plant", actor="Olga") as workspace:
        workspace.set_policy("default", "curated")
        with workspace.database.atomic() as db:  # as version 1 was
            db.execute("ALTER TABLE log DROP COLUMN actor")
            db.execute("PRAGMA user_version = 1")
    with Workspace.open(tmp_path / "owner", actor="Otto") as workspace:
        assert [(s.verb, s.actor) for s in workspace.log()] == [("policy", ""), ("init", "")]
        assert workspace.undo().actor == "Otto"


def test_a_folder_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "owner", "plant")
    with made, made.database.atomic() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(FutureVersion, match="is of version 99; this Accrue reads up to 2"):
        Workspace.open(tmp_path / "owner")


def test_steps_that_the_broker_was_not_told_of_are_counted(curated: Plant) -> None:
    workspace = curated.workspace
    workspace.note_told(workspace.last_step())
    assert workspace.untold == 0
    curated.devices["dock-1"].teach("gear", rows(2))
    curated.hand_over()
    (proposal,) = curation.propose(workspace, SCOPE)
    workspace.decide(proposal.id, "approved", "")
    assert workspace.untold == 0, "what was decided is for the next manifest, not for the broker"
    curation.publish(workspace, SCOPE)
    assert workspace.untold == 1
    workspace.undo()
    assert workspace.untold == 2
    workspace.note_told(workspace.last_step())
    assert workspace.untold == 0


def test_two_visits_wait_for_one_another_and_the_second_gives_up(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "WAIT_S", 0.2)
    monkeypatch.setattr(owner, "CONNECT_S", 0.1)
    plant.workspace.set_broker(Broker("127.0.0.1", 1, False, "owner", "x", ""))
    lock = plant.workspace.folder / owner.LOCK_FILE
    with pytest.raises(LinkError), owner.OwnerLine(plant.workspace):
        pass
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(Conflict, match="another visit at the broker of fleet plant"),
            owner.OwnerLine(plant.workspace),
        ):
            pass
    with pytest.raises(LinkError), owner.OwnerLine(plant.workspace):  # which was let go
        pass
