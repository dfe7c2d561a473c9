"""What was chosen is there at the next start, for the same evidence alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from accrue.learn import LeftOut, quantise
from accrue.service import box as box_module
from accrue.service.box import Box, Learned
from accrue.service.knowledge import Knowledge
from accrue.service.recall import FILE_NAME, MANY_SHOTS
from accrue.service.settings import Settings

CLASSES, SHOTS = 10, 2 * MANY_SHOTS // 10


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", guard=1.0)


@pytest.fixture
def filled(settings: Settings) -> Settings:
    rng = np.random.default_rng(0)
    with Box(settings) as box:
        store = box.store(create=True)
        with store.atomic():
            for k in range(CLASSES):
                mean = rng.normal(size=store.dim)
                teaching = store.begin_teach(f"class {k}", actor="tester")
                for _ in range(SHOTS):
                    rows = mean + 4 * rng.normal(size=(2, store.dim))
                    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                    store.add_shot(teaching, quantise(rows.astype(np.float32)), source="made up")
    return settings


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a head was chosen."""
    counted: list[int] = []
    real = box_module.choose

    def choose(*args: object, **more: object) -> object:
        counted.append(1)
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(box_module, "choose", choose)
    return counted


def chosen(settings: Settings) -> Learned:
    with Box(settings) as box:
        learned = box.learned()
        _ = learned.choice
    return learned


def assert_alike(one: LeftOut, other: LeftOut) -> None:
    for field in fields(LeftOut):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_the_next_process_answers_bit_for_bit_the_same_without_choosing(
    filled: Settings, choosing: list[int]
) -> None:
    first = chosen(filled)
    again = chosen(filled)
    assert len(choosing) == 1
    assert_alike(again.choice.left_out, first.choice.left_out)
    assert (again.choice.reason, again.choice.rivals, again.choice.place) == (
        first.choice.reason,
        first.choice.rivals,
        first.choice.place,
    )
    assert len(first.choice.rivals) > 1  # there was something to choose from
    queries = np.random.default_rng(1).normal(size=(20, first.state.dim))
    assert again.decide(queries) == first.decide(queries)


def teach_more(settings: Settings) -> Settings:
    with Box(settings) as box:
        rows = np.eye(2, box.store().dim, dtype=np.float32)
        box.store().add_shot(
            box.store().begin_teach("class 3", actor="t"), quantise(rows), source="made up"
        )
    return settings


def disable(settings: Settings) -> Settings:
    with Box(settings) as box:
        box.disable("class 3")
    return settings


@pytest.mark.parametrize(
    "change",
    [
        teach_more,
        disable,
        lambda settings: replace(settings, head="gaussian"),
        lambda settings: replace(settings, predict_views=1),
        lambda settings: replace(settings, random_features=64),
    ],
    ids=["taught", "disabled", "head", "views", "features"],
)
def test_other_evidence_or_settings_choose_anew(
    filled: Settings, choosing: list[int], change: Callable[[Settings], Settings]
) -> None:
    chosen(filled)
    now = change(filled)
    chosen(now)
    assert len(choosing) == 2
    chosen(now)
    assert len(choosing) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_what_is_damaged_is_worked_out_again(
    filled: Settings, choosing: list[int], damage: str
) -> None:
    first = chosen(filled)
    path = filled.state / FILE_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {"cut": content[:-50], "flipped": content, "empty": b"", "text": b"no zip"}[damage]
        )
    assert_alike(chosen(filled).choice.left_out, first.choice.left_out)
    assert len(choosing) == 2


def test_a_device_that_starts_again_has_the_best_head_at_once(
    filled: Settings, choosing: list[int]
) -> None:
    before = Knowledge(replace(filled))
    before.close()
    first = chosen(filled)
    device = Knowledge(filled)
    try:
        found = device.current.answering.choice
        assert found.reason == first.choice.reason
        assert_alike(found.left_out, first.choice.left_out)
    finally:
        device.close()
    assert len(choosing) == 1


def test_a_purge_leaves_no_scores_behind(filled: Settings) -> None:
    with Box(filled) as box:
        _ = box.learned().choice
    assert (filled.state / FILE_NAME).exists()
    with Box(filled) as box:
        _ = box.learned().choice
        box.remove("class 3")
        box.purge("class 3")
    assert not (filled.state / FILE_NAME).exists()
