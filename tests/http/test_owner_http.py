"""What a fleet's owner decides over HTTP, with a real broker and devices that follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_cases import Running, until

from accrue.service.http.app import operations
from accrue.service.settings import Settings
from fleet_world import World

Photos = list[list[Path]]
READS = ("", "/proposals", "/manifests", "/diff", "/log")


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"DUPLICATES": "1", "BLUR": "1", "VIEWS": "2", "ACTOR": "tester"}.items():
        monkeypatch.setenv(f"ACCRUE_{name}", value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture
def photos(photo_classes: Callable[..., dict[str, list[Path]]]) -> Photos:
    return list(photo_classes("photos", classes=2, each=4).values())


@pytest.fixture
def desk(world: World, settings: Settings, run: Callable[..., Running]) -> Running:
    """A device that its fleet's owner gave the folder."""
    return run(settings, fleet_owner=world.folder / "owner")


def gather(client: Any) -> dict[str, Any]:
    """Asks the broker; what the job found."""
    job = client.post("/fleet/owner/propose").json()
    done = until(lambda: (j := client.get(f"/jobs/{job['id']}").json())["state"] != "running" and j)
    assert done["state"] == "done", done
    return dict(done["result"])


def the_set(client: Any) -> dict[str, Any]:
    (found,) = client.get("/fleet/owner").json()["sets"]
    return dict(found)


@pytest.mark.slow
def test_from_a_proposal_to_a_rollback_and_back(
    world: World, desk: Running, photos: Photos
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:3])
    world.sync("dock-1", "dock-2")
    with desk.client("owner") as client:
        before = client.get("/fleet/owner").json()
        assert (before["fleet"], before["visited_at"], before["sets"]) == ("plant", None, [])
        assert gather(client) == {"proposals": 0, "refused": {}, "missing": 0}
        known = client.get("/fleet/owner").json()
        assert [(d["name"], d["state"]) for d in known["devices"]] == [
            ("dock-1", "stopped"),
            ("dock-2", "stopped"),
        ]
        assert (known["sets"][0]["policy"], known["sets"][0]["shots"]) == ("open", 3)
        assert known["visited_at"] > 0
        refused = client.post("/fleet/owner/publish", json={})
        assert (refused.status_code, refused.json()["kind"]) == (409, "Conflict")

        body = {"set": "default", "policy": "curated"}
        steps = client.post("/fleet/owner/policy", json=body).json()["steps"]
        assert [step["verb"] for step in steps] == ["publish", "policy"]
        world.device("dock-1", "class", "teach", "gear", *photos[1][:2])
        world.sync("dock-1", "dock-2")
        assert gather(client)["proposals"] == 1
        assert (the_set(client)["manifest"], the_set(client)["drafts"]) == (1, 1)
        (one,) = client.get("/fleet/owner/proposals").json()["proposals"]
        assert (one["class"], [by["name"] for by in one["entries"]]) == ("gear", ["dock-1"])
        assert one["difference"]["added"][0]["shots_after"] == 2
        diff = client.get("/fleet/owner/diff").json()
        assert [change["name"] for change in diff["difference"]["added"]] == ["gear"]

        etag = the_set(client)["etag"]
        decision = {"proposals": [one["id"]], "remark": "good light"}
        (step,) = client.post("/fleet/owner/approve", json=decision).json()["steps"]
        assert (step["actor"], step["summary"]) == (
            "a owner",
            f"approved proposal {one['id']}, gear: good light",
        )
        again = client.post("/fleet/owner/deny", json=decision)
        assert (again.status_code, again.json()["kind"]) == (409, "Conflict")
        stale = client.post("/fleet/owner/publish", json={}, headers={"if-match": etag})
        assert (stale.status_code, stale.json()["kind"]) == (412, "Stale")
        assert the_set(client)["manifest"] == 1, "nothing was changed"

        tried = client.post("/fleet/owner/canary", json={"percent": 100}).json()
        assert tried["devices"] == ["dock-1", "dock-2"]
        said = world.sync("dock-1")["events"]
        assert 'what this device taught of "gear" was approved: good light' in said
        headers = {"if-match": the_set(client)["etag"]}
        step = client.post("/fleet/owner/publish", json={}, headers=headers).json()
        assert step["summary"] == "published manifest 2 of default"
        world.sync("dock-2")
        assert world.classes("dock-2") == {"bolt": 3, "gear": 2}
        found = client.get("/fleet/owner/manifests").json()["manifests"]
        assert [(m["number"], m["in_force"]) for m in found] == [(1, False), (2, True)]
        assert found[1]["remarks"][0]["text"] == "good light"

        step = client.post("/fleet/owner/rollback", json={"note": "too early"}).json()
        world.sync("dock-1", "dock-2")
        assert world.classes("dock-1") == world.classes("dock-2") == {"bolt": 3}
        back = client.post("/fleet/owner/undo", json={"step": step["seq"]}).json()
        assert back["undoes"] == step["seq"]
        world.sync("dock-1", "dock-2")
        assert world.classes("dock-1") == world.classes("dock-2") == {"bolt": 3, "gear": 2}
        log = client.get("/fleet/owner/log", params={"limit": 100}).json()["steps"]
        assert {s["actor"] for s in log} == {"tester", "a owner"}
        events = [e.data["message"] for e in desk.device.events.since(0) if e.type == "fleet"]
        assert "published manifest 2 of default" in events


@pytest.mark.slow
def test_without_the_broker_nothing_is_decided_unless_that_is_wanted(
    world: World, desk: Running, photos: Photos
) -> None:
    world.join("dock-1")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1")
    with desk.client("owner") as client:
        gather(client)
        steps = len(client.get("/fleet/owner/log", params={"limit": 100}).json()["steps"])
        world.stop_broker()
        body = {"set": "default", "policy": "curated"}
        refused = client.post("/fleet/owner/policy", json=body)
        assert (refused.status_code, refused.json()["kind"]) == (502, "BrokerUnreachable")
        log = client.get("/fleet/owner/log", params={"limit": 100}).json()["steps"]
        assert len(log) == steps, "nothing was half done"
        client.post("/fleet/owner/policy", json={**body, "offline": True}).raise_for_status()
        known = client.get("/fleet/owner").json()
        assert (known["sets"][0]["policy"], known["untold"]) == ("curated", 2)
        world.start_broker()
        gather(client)
        assert client.get("/fleet/owner").json()["untold"] == 0
    world.device("dock-1", "class", "teach", "gear", *photos[1][:2])
    world.sync("dock-1")
    assert [one["drafts"] for one in world.owner("status", "--json").json["sets"]] == [1]


def test_a_device_without_the_owners_folder_says_where_to_decide(
    settings: Settings, run: Callable[..., Running]
) -> None:
    with run(settings).client("owner") as client:
        for path in READS:
            answer = client.get(f"/fleet/owner{path}")
            assert answer.status_code == 404, path
            assert "decide on the owner's computer: accrue-fleet" in answer.json()["hint"]
        assert client.post("/fleet/owner/undo", json={}).status_code == 404


def test_a_key_that_others_may_read_is_not_used(
    settings: Settings, run: Callable[..., Running], tmp_path: Path
) -> None:
    from accrue.sync.workspace import Workspace

    Workspace.create(tmp_path / "owner", "plant").close()
    (tmp_path / "owner" / "owner.key").chmod(0o644)
    with run(settings, fleet_owner=tmp_path / "owner").client("owner") as client:
        answer = client.get("/fleet/owner")
        assert answer.status_code == 409
        assert answer.json()["hint"].startswith("chmod 600")
        found = {one["name"]: one for one in client.get("/doctor").json()["checks"]}
        assert found["fleet owner"]["status"] == "fail"
        (tmp_path / "owner" / "owner.key").chmod(0o600)
        found = {one["name"]: one for one in client.get("/doctor").json()["checks"]}
        assert found["fleet owner"]["message"].startswith("holds the key of fleet plant")


def test_a_set_that_nobody_knows_is_not_written_into_the_roster(
    settings: Settings, run: Callable[..., Running], tmp_path: Path
) -> None:
    from accrue.sync.workspace import Workspace

    Workspace.create(tmp_path / "owner", "plant").close()
    with run(settings, fleet_owner=tmp_path / "owner").client("owner") as client:
        for name in ("default", "../..", "#", "", "x" * 2000, "\0", "\ud800"):
            for policy, expected in (("open", "Conflict"), ("curated", "NotFound")):
                body = json.dumps({"set": name, "policy": policy, "offline": True})
                headers = {"content-type": "application/json"}
                answer = client.post("/fleet/owner/policy", content=body, headers=headers)
                kind = "UsageError" if name == "\ud800" else expected
                assert answer.json()["kind"] == kind, (name, policy)
        assert client.get("/fleet/owner").json()["roster"] == 1


@pytest.mark.slow
def test_a_device_gets_its_new_key_is_cut_off_and_forgotten_and_all_of_it_undone(
    world: World, desk: Running, photos: Photos
) -> None:
    world.join("dock-1", "dock-2")
    world.device("dock-1", "class", "teach", "bolt", *photos[0][:2])
    world.sync("dock-1", "dock-2")
    with desk.client("owner") as client:
        none = client.post("/fleet/owner/rotate", json={})
        assert (none.status_code, none.json()["kind"]) == (404, "NotFound")
        world.device("dock-1", "fleet", "rotate")
        world.sync("dock-1")
        gather(client)
        asking = {
            d["name"]: d["asks_for_key"] for d in client.get("/fleet/owner").json()["devices"]
        }
        assert asking == {"dock-1": True, "dock-2": False}
        (step,) = client.post("/fleet/owner/rotate", json={"grace": 0}).json()["steps"]
        assert step["verb"] == "rotate"
        assert "the new key is in use" in world.sync("dock-1")["events"]

        revoked = client.post("/fleet/owner/revoke", json={"device": "dock-1"}).json()
        assert "does not accept user" in world.device("dock-1", "fleet", "sync", code=1).err
        again = client.post("/fleet/owner/revoke", json={"device": "dock-1"})
        assert (again.status_code, again.json()["kind"]) == (409, "Conflict")
        forgot = client.post("/fleet/owner/forget-device", json={"device": "dock-1"}).json()
        world.sync("dock-2")
        assert world.classes("dock-2") == {}
        states = {d["name"]: d["state"] for d in client.get("/fleet/owner").json()["devices"]}
        assert states == {"dock-1": "forgotten", "dock-2": "stopped"}
        for step in (forgot["steps"][0], revoked):
            client.post("/fleet/owner/undo", json={"step": step["seq"]}).raise_for_status()
        world.sync("dock-1", "dock-2")
        assert world.classes("dock-2") == {"bolt": 2}


def test_who_is_no_owner_of_the_device_sees_and_decides_nothing(
    settings: Settings, run: Callable[..., Running], tmp_path: Path
) -> None:
    from accrue.sync.workspace import Workspace

    Workspace.create(tmp_path / "owner", "plant").close()
    running = run(settings, fleet_owner=tmp_path / "owner")
    asked = set()
    for role, expected in (("viewer", 403), ("operator", 403), (None, 401)):
        with running.client(role) as client:
            for operation in operations():
                if operation.path.startswith("/fleet/owner"):
                    answer = client.request(operation.method, operation.path, json={})
                    assert answer.status_code == expected, (role, operation.path)
                    asked.add(operation.path.removeprefix("/fleet/owner/"))
    assert asked > {"propose", "approve", "deny", "policy", "publish", "canary", "rollback", "undo"}
