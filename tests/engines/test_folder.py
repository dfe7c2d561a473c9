"""Engines on the disk: whole or not there, the former one kept, nothing read that was altered."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from accrue.errors import Conflict, EngineError, NotFound, StoreFull
from accrue.store.files import FileSteps
from accrue.vision.encode import Parity
from accrue.vision.engines import Engine, EngineFolder, EngineKey, Plan, Profile

SPACE = "5" * 64
PARITY = Parity(0.9995, 0.9999, True)
GPU = "NVIDIA GeForce RTX 4090 (SM 8.9)"
KEY = EngineKey("a" * 64, Profile(), "tensorrt-rtx", "1.7.1.116", "x86_64")


def plan(content: bytes = b"plan") -> Plan:
    return Plan(content, (), (), ())


def written(folder: EngineFolder, content: bytes = b"plan", key: EngineKey = KEY) -> Engine:
    return folder.write(
        plan(content), key, encoder="tiny", space_id=SPACE, file="encoder.onnx", build_s=1.0
    )


@pytest.fixture
def folder(tmp_path: Path) -> EngineFolder:
    return EngineFolder(tmp_path / "engines")


def test_what_was_written_is_read_back(folder: EngineFolder) -> None:
    """Plan, key and sidecar; before the golden check it does not serve."""
    engine = written(folder, b"x" * 1000)
    (found,) = folder.engines()
    assert found == engine
    assert folder.read(found) == b"x" * 1000
    assert found.stem.startswith(f"tensorrt-rtx-{KEY.digest[:12]}-")
    assert folder.serving(SPACE, "tensorrt-rtx") == []
    assert folder.unreadable() == []


def test_an_empty_or_absent_folder_holds_nothing(folder: EngineFolder) -> None:
    """And is not made by looking."""
    assert (folder.engines(), folder.unreadable(), folder.serving(SPACE, "tensorrt")) == ([],) * 3
    assert not folder.path.exists()


def test_the_engine_that_served_is_kept_as_the_previous_one(folder: EngineFolder) -> None:
    """Two places a flavour and encoder; another encoder's are not touched."""
    engines = [written(folder, bytes([i])) for i in range(3)]
    other = replace(KEY, onnx_sha256="b" * 64)
    elsewhere = folder.write(
        plan(), other, encoder="other", space_id="6" * 64, file="encoder.onnx", build_s=1.0
    )
    for engine in (elsewhere, *engines):
        folder.activate(engine, PARITY, on=GPU)
    serving = folder.serving(SPACE, "tensorrt-rtx")
    assert [e.stem for e in serving] == [engines[2].stem, engines[1].stem]
    assert serving[0].parity == PARITY
    assert [e.stem for e in folder.serving("6" * 64, "tensorrt-rtx")] == [elsewhere.stem]


def test_one_that_fails_later_makes_room_for_the_previous_one(folder: EngineFolder) -> None:
    first, second = (folder.activate(written(folder, c), PARITY, on=GPU) for c in (b"1", b"2"))
    folder.deactivate(second)
    assert [e.stem for e in folder.serving(SPACE, "tensorrt-rtx")] == [first.stem]


def test_activating_again_forgets_no_previous_one(folder: EngineFolder) -> None:
    first, second = (folder.activate(written(folder, c), PARITY, on=GPU) for c in (b"1", b"2"))
    folder.activate(second, PARITY, on=GPU)
    stems = [e.stem for e in folder.serving(SPACE, "tensorrt-rtx")]
    assert stems == [second.stem, first.stem]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.write_bytes(b"plam"),
            r"was altered: SHA-256 \w{12}…, 4 bytes;",
        ),
        (lambda path: path.write_bytes(b"pla"), r"was altered: .* 3 bytes; expected .* 4 bytes"),
    ],
)
def test_an_altered_plan_is_never_loaded(
    folder: EngineFolder, change: Callable[[Path], object], message: str
) -> None:
    """It is code: whatever its hash does not cover could run."""
    engine = written(folder)
    change(folder.plan_path(engine))
    with pytest.raises(EngineError, match=message):
        folder.read(engine)


def test_a_lost_plan_is_said_so(folder: EngineFolder) -> None:
    engine = written(folder)
    folder.plan_path(engine).unlink()
    with pytest.raises(NotFound, match="has lost its file"):
        folder.read(engine)


SIDECARS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda d: json.dumps(d).encode()[:100],
    "a list": lambda _: b"[]",
    "no key": lambda d: json.dumps({k: v for k, v in d.items() if k != "key"}).encode(),
    "future": lambda d: json.dumps(d | {"format": 2}).encode(),
    "another field": lambda d: json.dumps(d | {"more": 1}).encode(),
}


@pytest.mark.parametrize("defect", sorted(SIDECARS))
def test_an_engine_with_a_broken_sidecar_is_not_used_but_listed(
    folder: EngineFolder, defect: str
) -> None:
    """`clean` takes both files away."""
    engine = folder.activate(written(folder), PARITY, on=GPU)
    sidecar = folder.plan_path(engine).with_suffix(".json")
    sidecar.write_bytes(SIDECARS[defect](json.loads(sidecar.read_text())))
    assert folder.engines() == []
    assert folder.serving(SPACE, "tensorrt-rtx") == []
    assert folder.unreadable() == [sidecar, folder.plan_path(engine)]
    folder.clean()
    assert folder.unreadable() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"active": 1}', b'{"active": {"a": 1}}'])
def test_a_broken_list_of_active_engines_is_an_empty_one(
    folder: EngineFolder, content: bytes
) -> None:
    """The engines stay; `accrue engine verify` lets one serve again."""
    engine = folder.activate(written(folder), PARITY, on=GPU)
    (folder.path / "active.json").write_bytes(content)
    assert folder.serving(SPACE, "tensorrt-rtx") == []
    folder.activate(engine, PARITY, on=GPU)
    assert [e.stem for e in folder.serving(SPACE, "tensorrt-rtx")] == [engine.stem]


# ---- full disk, kill ---------------------------------------------------------------------------


def failing(at: int) -> FileSteps:
    """The disk is full at the step of this number, counted over all writes."""
    count = iter(range(100))

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            if next(count) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return do(*arguments)

        return step

    whole = FileSteps()
    return FileSteps(**{field.name: counted(getattr(whole, field.name)) for field in fields(whole)})


@pytest.mark.parametrize("at", range(8))
def test_a_full_disk_leaves_no_engine_and_the_active_one_serves(tmp_path: Path, at: int) -> None:
    """At each of the four steps of plan and of sidecar: one clear line, no half of an engine."""
    path = tmp_path / "engines"
    active = EngineFolder(path).activate(written(EngineFolder(path)), PARITY, on=GPU)
    before = sorted(p.name for p in path.iterdir())
    with pytest.raises(StoreFull, match="no room left to write") as raised:
        written(EngineFolder(path, steps=failing(at)), b"y" * 5000)
    assert "\n" not in str(raised.value)
    assert sorted(p.name for p in path.iterdir()) == before
    assert EngineFolder(path).serving(SPACE, "tensorrt-rtx") == [active]
    written(EngineFolder(path, steps=failing(8)), b"y" * 5000)  # one step later nothing fails


KILLS = 8
WRITER = f"""
import itertools, sys
from pathlib import Path
from accrue.vision.encode import Parity
from accrue.vision.engines import EngineFolder, EngineKey, Plan, Profile
folder = EngineFolder(Path(sys.argv[1]))
key = EngineKey("a" * 64, Profile(), "tensorrt-rtx", "1.7.1.116", "x86_64")
for i in itertools.count():
    plan = Plan(bytes([i % 256]) * 3_000_000, (), (), ())
    with folder.lock():
        engine = folder.write(
            plan, key, encoder="tiny", space_id={SPACE!r}, file="encoder.onnx", build_s=1.0
        )
        folder.activate(engine, Parity(0.9995, 0.9999, True), on="GPU")
        folder.clean()
    if not i:
        print("go", flush=True)
"""


def test_a_kill_at_any_instant_leaves_whole_engines_alone(tmp_path: Path) -> None:
    """Whatever is listed has all its bytes, something serves from the first on, and what was left
    over goes with the next build."""
    path = tmp_path / "engines"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    chance = random.Random(3)
    half_written = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"go\n"
            time.sleep(0.02 + 0.1 * chance.random())
            writer.send_signal(signal.SIGKILL)
        folder = EngineFolder(path)
        for engine in folder.engines():
            content = folder.read(engine)  # checks the hash
            assert content == content[:1] * 3_000_000
        half_written += any(path.glob(".*.tmp"))
        assert folder.serving(SPACE, "tensorrt-rtx")
        with folder.lock():
            assert not [*path.glob(".*.tmp")]
        folder.clean()
        assert folder.unreadable() == []
    print(f"{KILLS} kills, {half_written} of them in the middle of a file")


# ---- one builder at a time, cleaning -------------------------------------------------------------


def test_two_builders_do_not_write_at_once(folder: EngineFolder) -> None:
    """The second is told which process is at it."""
    with (
        folder.lock(),
        pytest.raises(Conflict, match=rf"another process \(pid {os.getpid()}\) builds an engine"),
        EngineFolder(folder.path).lock(),
    ):
        pass
    with folder.lock():  # and it is free again
        pass


def test_cleaning_keeps_what_serves_what_served_and_what_waits_for_its_check(
    folder: EngineFolder,
) -> None:
    old, previous, active = (
        folder.activate(written(folder, c), PARITY, on=GPU) for c in (b"1", b"2", b"3")
    )
    waiting = [written(folder, c) for c in (b"4", b"5")]
    (folder.path / ".left.plan.12345678.tmp").write_bytes(b"half")
    removed = {path.name for path in folder.clean()}
    gone = (old, waiting[0])
    assert removed == {f"{e.stem}.{kind}" for e in gone for kind in ("plan", "json")} | {
        ".left.plan.12345678.tmp"
    }
    assert {e.stem for e in folder.engines()} == {previous.stem, active.stem, waiting[1].stem}
    assert [e.stem for e in folder.serving(SPACE, "tensorrt-rtx")] == [active.stem, previous.stem]


def test_cleaning_everything_leaves_nothing_that_serves(folder: EngineFolder) -> None:
    folder.activate(written(folder), PARITY, on=GPU)
    folder.record(KEY, PARITY)
    folder.provider_cache(KEY)
    folder.clean(everything=True)
    assert [path.name for path in folder.path.iterdir() if path.name != ".lock"] == []


# ---- realisations by ONNX Runtime --------------------------------------------------------------


def test_a_golden_check_counts_for_its_own_key_alone(folder: EngineFolder) -> None:
    """Another ONNX Runtime, driver or encoder is checked anew."""
    folder.record(KEY, PARITY)
    assert folder.checked(KEY) == PARITY
    assert folder.checked(replace(KEY, cuda="13.2")) is None


def test_the_provider_of_onnx_runtime_never_sees_the_cache_of_another_key(
    folder: EngineFolder,
) -> None:
    """It would take another model's engine for its own."""
    keys = [KEY, replace(KEY, onnx_sha256="b" * 64), replace(KEY, tensorrt="10.3.0")]
    assert len({folder.provider_cache(key) for key in keys}) == 3
    assert folder.provider_cache(KEY) == folder.provider_cache(replace(KEY))
