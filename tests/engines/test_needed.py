"""What a device builds by itself, what it leaves alone, and how a running one takes it up.

What the GPU would compute is computed by ONNX Runtime, and TensorRT's builder is replaced by one
that makes a file, because there is no GPU; all else is the code that runs on a device.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import accrue.service.box as box_module
import accrue.service.engines as engines_module
import accrue.vision.engines.encoder as encoder_module
import accrue.vision.engines.serving as serving_module
from accrue.bundle import Bundle
from accrue.device import Device, Gpu, Package
from accrue.errors import BundleError, EngineError, StoreFull
from accrue.service.daemon import Device as Running
from accrue.service.engines import Engines
from accrue.service.settings import Settings
from accrue.vision.encode import OnnxEncoder
from accrue.vision.engines import EngineFolder, Plan
from accrue.vision.engines.folder import Building

GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9", 128, usable=True)
DEVICE = Device(
    "x86_64",
    "3.12.3",
    cuda="13.0",
    gpu=GPU,
    packages=(Package("tensorrt-rtx", "1.7.1.116"), Package("cuda-bindings", "13.5.0")),
)
DEADLINE_S = 20.0


class Gpuless:
    """In the place of `Execution`; `bend` turns its embeddings away from the reference."""

    def __init__(self, reference: OnnxEncoder) -> None:
        self.reference, self.no_graphs, self.bend, self.batches = reference, "", 0.0, 0

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches += 1
        rows = self.reference.encode_prepared(batch)
        rows[:, 0] += np.float32(self.bend)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self) -> None:
        pass


@pytest.fixture
def gpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Gpuless:
    execution = Gpuless(OnnxEncoder(Bundle.open(tiny_bundle), threads=1))
    monkeypatch.setattr(encoder_module, "load", lambda *_: None)
    monkeypatch.setattr(encoder_module, "Execution", lambda *_, **__: execution)
    monkeypatch.setattr(serving_module, "load_module", lambda _: None)
    monkeypatch.setattr(
        engines_module, "load_module", lambda _: SimpleNamespace(__version__="1.7.1.116")
    )
    monkeypatch.setattr(box_module, "describe", lambda: DEVICE)
    return execution


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each build."""
    made: list[str] = []

    def build(*_: object, step: Callable[[str, int, int], None], **__: object) -> Plan:
        made.append("build")
        for done in range(3):
            step("Building", done, 2)
        return Plan(f"plan {len(made)}".encode(), (), (), ())

    monkeypatch.setattr(engines_module, "build", build)
    return made


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", views=2)


def needed(settings: Settings, device: Device = DEVICE) -> tuple[str, str]:
    return Engines(settings, device).needed()


def test_what_fits_is_not_built_again(settings: Settings, gpu: Gpuless, builds: list[str]) -> None:
    assert needed(settings) == ("tensorrt-rtx", "")
    built = Engines(settings, DEVICE).build()
    assert needed(settings) == ("", f"engine {built.engine.stem} fits this device and was checked")


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (replace(DEVICE, gpu=None), "no NVIDIA GPU was found"),
        (replace(DEVICE, packages=()), "TensorRT-RTX is not installed"),
        (replace(DEVICE, gpu=replace(GPU, usable=False)), "CUDA does not answer"),
    ],
)
def test_where_none_would_serve_none_is_built(settings: Settings, device: Device, why: str) -> None:
    """TensorRT-RTX would build without a GPU; a device does not do so by itself."""
    flavour, reason = needed(settings, device)
    assert flavour == ""
    assert why in reason


def test_after_an_update_of_tensorrt_it_is_built_again(
    settings: Settings, gpu: Gpuless, builds: list[str]
) -> None:
    Engines(settings, DEVICE).build()
    newer = Package("tensorrt-rtx", "1.8.0.1")
    updated = replace(DEVICE, packages=(newer, DEVICE.packages[1]))
    assert needed(settings, updated) == ("tensorrt-rtx", "")


def test_an_engine_that_is_there_is_checked_instead_of_built(
    settings: Settings, gpu: Gpuless, builds: list[str]
) -> None:
    """As one that came with the folder of another box, or whose check a power cut took away."""
    engines = Engines(settings, DEVICE)
    engine = engines.build().engine
    engines.folder.deactivate(engine)
    assert needed(settings) == ("", f"engine {engine.stem} passed the golden check and serves")
    assert engines.folder.serving(engine.space_id, "tensorrt-rtx")[0].stem == engine.stem
    assert builds == ["build"]


def test_an_engine_that_was_altered_is_built_anew(
    settings: Settings, gpu: Gpuless, builds: list[str]
) -> None:
    engines = Engines(settings, DEVICE)
    engine = engines.build().engine
    engines.folder.deactivate(engine)
    engines.folder.plan_path(engine).write_bytes(b"other")
    assert needed(settings) == ("tensorrt-rtx", "")


def test_what_failed_the_golden_check_is_not_built_at_every_start(
    settings: Settings, gpu: Gpuless, builds: list[str]
) -> None:
    """A build takes minutes; it would fail in the same way, until something of its key changes."""
    gpu.bend = 0.5
    with pytest.raises(BundleError):
        Engines(settings, DEVICE).build()
    flavour, reason = needed(settings)
    assert flavour == ""
    assert reason.startswith("an engine was built here before, and did not serve: ")
    updated = replace(DEVICE, packages=(Package("tensorrt-rtx", "1.8.0.1"), DEVICE.packages[1]))
    assert needed(settings, updated) == ("tensorrt-rtx", "")
    engines = Engines(settings, DEVICE)
    assert engines.clean() == []  # what is remembered is no litter
    engines.clean(everything=True)
    assert needed(settings) == ("tensorrt-rtx", "")


def test_a_build_that_is_killed_again_and_again_is_left_alone(
    settings: Settings, gpu: Gpuless, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for want of memory, boot after boot. One that ends in order, or by hand, is none."""
    engines = Engines(settings, DEVICE)

    monkeypatch.setattr(EngineFolder, "end", lambda *_, **__: None)  # as a kill has it
    for _ in range(4):
        engines.build()
        engines.clean()
        for engine in engines.folder.engines():
            engines.folder.remove(engine)
        assert needed(settings) == ("tensorrt-rtx", "")
    engines.build()
    engines.folder.remove(engines.folder.engines()[0])
    flavour, reason = needed(settings)
    assert (flavour, reason[:39]) == ("", "a build was begun 5 times here and neve")
    monkeypatch.undo()


def test_without_room_on_the_disk_nothing_is_begun(
    settings: Settings, gpu: Gpuless, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 5 << 20))
    with pytest.raises(StoreFull, match=r"5 MiB are free at .*; an engine of this encoder takes"):
        Engines(settings, DEVICE).build()
    assert builds == []
    assert not settings.engines_folder.exists()


def test_how_far_a_build_is_can_be_read_while_it_lasts(tmp_path: Path) -> None:
    """By any process; and whatever a killed one left says nothing."""
    folder = EngineFolder(tmp_path / "engines")
    assert folder.building() is None
    with folder.lock() as tell:
        tell("Building", 7, 7)
        found = folder.building()
        assert isinstance(found, Building)
        assert (found.what, found.done, found.total) == ("Building", 7, 7)
    assert folder.building() is None
    child = (
        "import os, sys, time; from pathlib import Path\n"
        "from accrue.vision.engines import EngineFolder\n"
        "with EngineFolder(Path(sys.argv[1])).lock() as tell:\n"
        "    tell('Building', 3, 3); print('built', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child, str(folder.path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "built\n"
        found = folder.building()
        assert found is not None
        assert (found.pid, found.done) == (other.pid, 3)
        other.kill()
    assert folder.building() is None
    with folder.lock():
        pass


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to hold")


@pytest.fixture
def running(settings: Settings, gpu: Gpuless, playing: str) -> Iterator[Running]:
    with Running(settings, cameras=[playing]) as device:
        yield device


@pytest.fixture
def playing(photo_file: Callable[..., Path]) -> str:
    photo_file("camera/a.jpg", 1, size=(320, 240))
    photo_file("camera/b.jpg", 2, size=(320, 240))
    return f"play:{photo_file('camera/c.jpg', 3, size=(320, 240)).parent}"


def test_a_running_device_shows_the_build_and_takes_the_engine_without_a_restart(
    running: Running, settings: Settings, gpu: Gpuless, builds: list[str]
) -> None:
    """It serves by ONNX Runtime first; the loop that watches never stops."""
    assert running.status()["encoder"]["serves"] == "onnx-cpu"
    frames = until(lambda: running.cameras()[0].frames)
    engines = Engines(settings, DEVICE)
    seen: list[Any] = []

    def step(what: str, done: int, total: int) -> None:
        seen.append(until(lambda: [job for job in running.jobs.all() if job.total == total]))

    built = engines.build(step=step)
    until(lambda: running.status()["encoder"]["serves"] == "tensorrt-rtx")
    assert running.box.serving.engine == built.engine.stem
    job = until(lambda: [job for job in running.jobs.all() if job.state == "done"])[0]
    assert (job.name, job.result) == (
        "engine build",
        {"engine": built.engine.stem, "unchecked": ""},
    )
    assert seen
    with running.reading() as box:
        assert box.encoder is running.box.encoder
    before = gpu.batches
    with running.writing("tester") as box:
        list(box.teach("thing", [("a.jpg", np.full((64, 64, 3), 90, np.uint8))]))
    assert gpu.batches > before  # teaching, too, runs on the engine
    assert running.cameras()[0].frames > frames
    assert running.ready == ""
    (event,) = [e for e in running.events.since(0) if e.type == "encoder"]
    assert event.data == {"serves": "tensorrt-rtx", "engine": built.engine.stem}


def test_a_build_that_was_killed_is_told_and_the_device_goes_on(
    running: Running, settings: Settings
) -> None:
    folder = EngineFolder(settings.engines_folder)
    with folder.lock() as tell:
        tell("Building", 5, 5)
        until(lambda: [job for job in running.jobs.all() if job.done == 5])
    job = until(lambda: [job for job in running.jobs.all() if job.state == "failed"])[0]
    assert job.error is not None
    assert job.error["message"] == "the build of an engine ended without one"
    assert running.ready == ""


def test_an_engine_that_does_not_open_leaves_the_encoder_as_it_is(
    running: Running, settings: Settings, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(settings, DEVICE)
    engine = engines.build().engine
    until(lambda: running.status()["encoder"]["serves"] == "tensorrt-rtx")

    def refuses(*_: object, **__: object) -> None:
        raise EngineError("CUDA refused cuCtxCreate: out of memory")

    monkeypatch.setattr(encoder_module, "Execution", refuses)
    engines.folder.activate(replace(engine, stem=engine.stem), engine.parity, on=GPU.name)  # type: ignore[arg-type]
    time.sleep(1.5)  # two looks
    assert running.ready == ""
    with running.reading() as box:
        assert box.encoder is not None
