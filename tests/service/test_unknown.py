"""What nobody named is kept in a ring, asked about in groups, and named from what was embedded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.cli.main import main
from accrue.errors import FutureVersion, NotFound
from accrue.learn import quantise
from accrue.service.box import Box
from accrue.service.settings import Settings
from accrue.service.unknown import SAME_WITHIN_S, SPACING_S, Queue
from accrue.service.watch import Watch
from accrue.vision import FakeSource
from accrue.vision.live import Live

Photo = Callable[..., np.ndarray]
DIM = 16


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", views=2)


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    found = Queue(tmp_path, "a" * 64, DIM, most=5)
    yield found
    found.close()


def unit(k: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[k]


def add(queue: Queue, k: int, at: float, camera: str = "gate") -> int:
    return queue.add(
        camera, quantise(unit(k)[None]), at=at, verdict="unknown", class_id="", margin=None
    )


def test_a_moment_that_comes_again_is_counted_and_not_kept_twice(queue: Queue) -> None:
    assert queue.wants("gate", unit(0), 100.0)
    add(queue, 0, 100.0)
    assert not queue.wants("gate", unit(0) * 0.5, 101.0)
    assert not queue.wants("gate", unit(0), 102.0)
    ((moment, _),) = queue.moments()
    assert (moment.seen, moment.at, moment.last_at) == (3, 100.0, 102.0)
    assert queue.wants("yard", unit(0), 102.0)  # another camera
    assert queue.wants("gate", unit(0), 102.0 + SAME_WITHIN_S + 1)


def test_moments_of_one_camera_keep_their_distance_in_time(queue: Queue) -> None:
    add(queue, 0, 100.0)
    assert not queue.wants("gate", unit(1), 100.0 + SPACING_S - 0.1)
    assert queue.wants("gate", unit(1), 100.0 + SPACING_S)


def test_the_ring_forgets_the_oldest_first(queue: Queue) -> None:
    ids = [add(queue, k, 100.0 + 10 * k) for k in range(8)]
    assert [moment.id for moment, _ in queue.moments()] == ids[3:]
    with pytest.raises(NotFound, match=f"no moment {ids[0]}"):
        queue.thumb(ids[0])


def test_ignoring_is_all_or_nothing(queue: Queue) -> None:
    first = add(queue, 0, 100.0)
    with pytest.raises(NotFound, match="no moment 99"):
        queue.ignore([first, 99])
    assert len(queue.moments()) == 1
    queue.ignore([first])
    assert queue.moments() == []


def test_moments_of_another_encoder_are_not_shown_and_make_room(tmp_path: Path) -> None:
    old = Queue(tmp_path, "a" * 64, DIM)
    add(old, 0, 100.0)
    old.close()
    new = Queue(tmp_path, "b" * 64, DIM)
    assert new.moments() == []
    add(new, 1, 200.0)
    with new._database.reading() as db:
        assert db.execute("SELECT count(*) FROM moment").fetchone() == (1,)
    new.close()


def test_a_queue_of_a_newer_version_is_left_alone(tmp_path: Path, queue: Queue) -> None:
    with queue._database.atomic() as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(FutureVersion, match="is of version 2; this Accrue reads up to 1"):
        Queue(tmp_path, "a" * 64, DIM)


def teach(box: Box, photo: Photo, kinds: dict[str, int], count: int = 6) -> None:
    for name, kind in kinds.items():
        images = [(f"{name}{i}", photo(100 * kind + i, kind=kind)) for i in range(count)]
        assert all(receipt.shot for receipt in box.teach(name, images))


def keep(box: Box, photo: Photo, kind: int, count: int, at: float = 0.0) -> list[int]:
    """As `Watch` does it, without waiting."""
    ids = []
    with box.unknown_queue() as queue:
        for i in range(count):
            rows = box.encoder.encode_views([photo(100 * kind + 50 + i, kind=kind)], 2)[0]
            ids.append(queue.add(
                "gate", quantise(rows), at=at + 10 * i, verdict="unknown", class_id="", margin=None
            ))  # fmt: skip
    return ids


def test_a_group_is_named_at_once_and_what_was_taught_is_what_was_seen(
    box: Box, photo: Photo
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    gears, wheels = keep(box, photo, 3, 4), keep(box, photo, 4, 3, at=1000.0)
    groups = box.unknown()
    assert sorted(m.id for g in groups for m in g.moments) == sorted(gears + wheels)
    receipts = box.name_unknown(gears, "gear")
    assert len(receipts) == 4
    rows = next(r for r in box.store().rows_by_class() if r.name == "gear").rows
    seen = box.encoder.encode_views([photo(350, kind=3)], 2)[0]
    assert np.array_equal(rows[:2], quantise(seen))
    assert sorted(m.id for g in box.unknown() for m in g.moments) == sorted(wheels)
    assert box.history(1)[0].summary == 'taught "gear": 4 shots, 8 rows'


def test_undoing_a_name_asks_again(box: Box, photo: Photo) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    gears = keep(box, photo, 3, 2)
    box.name_unknown(gears, "gear")
    assert box.unknown() == []
    box.undo()
    assert sorted(m.id for g in box.unknown() for m in g.moments) == gears


def test_an_unknown_number_teaches_nothing(box: Box, photo: Photo) -> None:
    teach(box, photo, {"bolt": 1})
    gears = keep(box, photo, 3, 2)
    with pytest.raises(NotFound, match="no moment 77"):
        box.name_unknown([*gears, 77], "gear")
    assert [c.name for c in box.classes()] == ["bolt"]


def test_the_biggest_group_is_asked_first(box: Box, photo: Photo) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    few, many = keep(box, photo, 3, 1), keep(box, photo, 4, 5, at=1000.0)
    first = box.unknown()[0]
    assert len(first.moments) > len(few)
    assert {m.id for m in first.moments} <= set(many)


def test_watching_fills_the_queue_with_whole_shots(
    box: Box, settings: Settings, photo: Photo
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    asked = replace(settings, reject=0.4)  # a tiny random encoder: half of all is a stranger
    images = [photo(900 + i, kind=6) for i in range(6)]
    with Box(asked) as watcher:
        source = FakeSource(images)
        with Watch(
            watcher, ["x"],
            opened=lambda spec, arrived: Live(spec, arrived=arrived, opener=lambda _: source),
        ) as watch:  # fmt: skip
            seen = [*watch]
        kept = [m for g in watcher.unknown() for m in g.moments]
    asked_about = [s for s in seen if s.answer.verdict in ("unknown", "maybe")]
    assert bool(kept) == bool(asked_about)
    assert all(m.rows == settings.views for m in kept)


def test_the_commands_list_name_and_ignore(
    box: Box, settings: Settings, photo: Photo, capsys: Any, tmp_path: Path
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["--state", str(settings.state), "--bundle", str(settings.bundle), *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    assert "nothing waits to be named" in call("unknown", "list")[2]
    ids = keep(box, photo, 3, 3)
    groups = json.loads(call("unknown", "list", "--json")[1])["groups"]
    assert [m["id"] for g in groups for m in g["moments"]] == ids
    assert call("unknown", "ignore", str(ids[0]))[1] == "ignored 1 moment\n"
    assert call("unknown", "name", "gear", *map(str, ids[1:]))[1] == "taught gear: 2 shots\n"
    code, _, err = call("unknown", "name", "gear", "77")
    assert code == 3
    assert "no moment 77: it was ignored, or newer ones took its place" in err
