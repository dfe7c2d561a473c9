"""Fixtures of the HTTP tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_cases import KINDS, Running

from accrue.service.access import Access
from accrue.service.box import Box
from accrue.service.daemon import Device
from accrue.service.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(
        state=tmp_path / "state",
        bundle=tiny_bundle,
        actor="tester",
        views=2,
        thumbnails=64,
        blur=1.0,
        duplicates=1.0,
    )


@pytest.fixture
def taught(settings: Settings, photo: Callable[..., np.ndarray]) -> Settings:
    """A state folder with three classes of five shots."""
    with Box(settings) as box:
        for name, kind in KINDS.items():
            images = [(f"{name}{i}.jpg", photo(100 * kind + i, kind=kind)) for i in range(5)]
            assert all(receipt.shot for receipt in box.teach(name, images))
    return settings


@pytest.fixture
def playing(photo_file: Callable[..., Path]) -> str:
    """A camera that shows two photographs of bolts."""
    photo_file("camera/a.jpg", 150, kind=1, size=(960, 720))
    return f"play:{photo_file('camera/b.jpg', 151, kind=1, size=(960, 720)).parent}"


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """``run(settings, cameras=(), options={}, **settings)``: starts a device and its server."""
    with ExitStack() as parts:

        def start(
            settings: Settings,
            cameras: tuple[str, ...] = (),
            options: dict[str, Any] | None = None,
            **changes: Any,
        ) -> Running:
            device = Device(replace(settings, **changes), cameras=cameras)
            parts.callback(device.stop)
            device.start()
            access = parts.enter_context(Access(settings.state))
            running = Running(device, access, **(options or {}))
            parts.callback(running.close)
            return running

        yield start
