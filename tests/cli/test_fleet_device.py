"""A device that runs, as a member of a fleet: with real programs and a real Mosquitto."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accrue.service.daemon import Device
from accrue.service.settings import Settings
from fleet_world import World

DEADLINE_S = 60.0
pytestmark = pytest.mark.slow


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to hold")


def test_a_device_that_runs_joins_learns_from_others_tells_them_and_leaves(
    world: World,
    tmp_path: Path,
    tiny_bundle: Path,
    photo_classes: Callable[..., dict[str, list[Path]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in ("DUPLICATES", "BLUR"):
        monkeypatch.setenv(f"ACCRUE_{key}", "1")
    photos = list(photo_classes("photos", classes=2, each=4).values())
    settings = Settings(
        state=tmp_path / "dock-1", bundle=tiny_bundle, duplicates=1.0, blur=1.0, views=2
    )
    with Device(settings, cameras=()) as device:
        assert device.fleet() is None

        def names() -> list[str]:
            with device.reading() as box:
                return [row.name for row in box.classes()]

        world.join("dock-1", "dock-2")  # while it runs
        view = until(lambda: (v := device.fleet()) and v["connected"] and v)
        assert view["name"] == "dock-1"
        world.device("dock-2", "class", "teach", "bolt", *photos[0])
        world.sync("dock-2")
        until(lambda: names() == ["bolt"])
        told = [event.data["message"] for event in device.events.since(0) if event.type == "fleet"]
        assert any("received from dock-2" in text for text in told)
        with device.writing("eva") as box:
            images = ((str(path), path) for path in photos[1])
            assert all(receipt.shot for receipt in box.teach("gear", images))
        until(lambda: (v := device.fleet()) and v["sent"] and v["unsent"] == 0)
        world.sync("dock-2")
        assert set(world.classes("dock-2")) == {"bolt", "gear"}
        with device.reading() as box:
            digest = box.learned().state.digest()
        assert world.digest("dock-2") == digest
        assert until(lambda: (v := device.fleet()) and v["synced_at"]) <= time.time()

        world.owner("policy", "default", "curated")
        until(lambda: (v := device.fleet()) and v["installed"]["number"] == 1)
        with device.writing("eva") as box:
            gear, _ = box.show("gear")
            box.rename("gear", "gear wheel")
        assert until(lambda: (v := device.fleet()) and v["drafted"]) == [gear.id]
        with device.writing("eva") as box:
            box.undo()
        world.owner("policy", "default", "open")
        until(lambda: (v := device.fleet()) and v["policy"] == "open" and not v["drafted"])

        world.stop_broker()
        until(lambda: (v := device.fleet()) and not v["connected"] and v["problems"])
        with device.writing("eva") as box:  # a device without its broker goes on
            box.rename("gear", "cog")
        world.start_broker()
        until(lambda: (v := device.fleet()) and v["connected"])

        with device.reading() as box:
            box.backup(tmp_path / "kept.accrue")
        device.restore(tmp_path / "kept.accrue", "eva", replace=True)
        assert set(names()) == {"bolt", "cog"}

        world.device("dock-1", "fleet", "leave", "--yes")
        until(lambda: device.fleet() is None)
        assert names() == ["cog"]
