"""`accrue-fleet broker` lets a relay and Home Assistant in; a device tells the latter of itself."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accrue.service.daemon import Device
from accrue.service.settings import Settings
from accrue.sync.endpoint import Endpoint
from accrue.sync.link import Limits, Link, Loop, Received
from fleet_world import World


class Reader:
    """An account of the broker, and what it heard."""

    def __init__(self, world: World, user: str) -> None:
        self.heard: dict[str, bytes] = {}
        self.granted: list[bool] = []
        owner = world.folder / "owner"
        password = (owner / f"{user}.password").read_text().strip()
        ca = owner / "broker" / "ca.crt"
        self.link = Link(Endpoint("127.0.0.1", world.port, user, password, ca), user, self)
        self._loop = Loop()
        self._loop.add(self.link)
        self.link.open()
        self.until(lambda: self.link.is_up)

    def on_up(self, limits: Limits) -> None: ...

    def on_down(self, error: Exception) -> None: ...

    def on_message(self, message: Received) -> None:
        self.heard[message.topic] = message.payload

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(3000):
            if done():
                return
            self._loop.step(0.02)
        raise AssertionError("it did not come to that within a minute")

    def close(self) -> None:
        self._loop.close()


@pytest.mark.slow
def test_a_member_announces_itself_and_sweeps_when_switched_off(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, tiny_bundle)
    world.owner("init", "plant")
    where = ["--host", "127.0.0.1", "--port", world.port, "--bind", "127.0.0.1"]
    if os.geteuid() == 0:
        where += ["--run-as", pwd.getpwuid(0).pw_name]
    world.owner("broker", *where, "--relay", "--home-assistant", "homeassistant")
    before = (tmp_path / "owner" / "relay.password").read_text()
    world.owner("broker", *where, "--relay", "--home-assistant", "homeassistant")
    assert (tmp_path / "owner" / "relay.password").read_text() == before
    reader = None
    world.start_broker()
    try:
        world.join("dock")
        monkeypatch.setenv("ACCRUE_HOME_ASSISTANT", "homeassistant")
        world.device("dock", "fleet", "sync", "--once", "--json")
        device = json.loads(world.device("dock", "fleet", "status", "--json").out)["device"]
        config = f"homeassistant/device/{device}/accrue-plant/config"
        reader = Reader(world, "home-assistant")
        reader.link.subscribe(["homeassistant/#", "accrue/v1/plant/dev/+/state"])
        reader.until(lambda: len(reader.heard) >= 2)
        said = json.loads(reader.heard[config])
        assert said["device"]["name"] == "dock"
        assert json.loads(reader.heard[said["availability"][0]["topic"]])["state"] == "stopped"
        reader.link.subscribe(["accrue/v1/plant/dev/+/class/#"], reader.granted.append)
        reader.until(lambda: bool(reader.granted))
        monkeypatch.delenv("ACCRUE_HOME_ASSISTANT")
        world.device("dock", "fleet", "sync", "--once", "--json")
        reader.until(lambda: reader.heard[config] == b"")
        relay = Reader(world, "relay")
        relay.close()
    finally:
        if reader is not None:
            reader.close()
        world.stop_broker()


@pytest.mark.slow
def test_a_running_device_tells_home_assistant_what_its_camera_shows(
    tmp_path: Path,
    tiny_bundle: Path,
    photo: Callable[..., Any],
    photo_file: Callable[..., Path],
) -> None:
    world = World(tmp_path, tiny_bundle)
    world.owner("init", "plant")
    where = ["--host", "127.0.0.1", "--port", world.port, "--bind", "127.0.0.1"]
    if os.geteuid() == 0:
        where += ["--run-as", pwd.getpwuid(0).pw_name]
    world.owner("broker", *where, "--home-assistant", "homeassistant")
    world.start_broker()
    world.join("dock")
    reader = Reader(world, "home-assistant")
    shown = photo_file("shown/a.png", 150, kind=1).parent
    settings = Settings(
        state=tmp_path / "dock", bundle=tiny_bundle, views=2, home_assistant="homeassistant"
    )
    try:
        reader.link.subscribe(["homeassistant/#", "accrue/v1/plant/dev/+/answer"])
        with Device(settings, cameras=[f"play:{shown}"]) as device:
            with device.writing("olga") as box:
                for name, kind in (("bolt", 1), ("nut", 2)):
                    images = [(str(i), photo(100 * kind + i, kind=kind)) for i in range(6)]
                    list(box.teach(name, images))

            def answers() -> list[str]:
                topics = [topic for topic in reader.heard if topic.endswith("/answer")]
                return [json.loads(reader.heard[topic])["label"] for topic in topics]

            reader.until(lambda: answers() == ["bolt"])
    finally:
        reader.close()
        world.stop_broker()
