"""Bits of the database that flip are found, told, set aside and restored."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from accrue.errors import StoreCorrupt, StoreError
from accrue.store import Store, backup, restore

SPACE, DIM = "5" * 64, 64


@pytest.fixture
def state(memory_folder: Path) -> Path:
    """Ten classes: kept, folded, by name, with what is not of one."""
    state = memory_folder / "state"
    chance = np.random.default_rng(0)

    def rows(n: int = 5) -> np.ndarray:
        return chance.integers(-32767, 32768, (n, DIM)).astype(np.int16)

    with Store.open(state, space_id=SPACE, dim=DIM) as store:
        for number in range(10):
            teaching = store.begin_teach(f"class {number}")
            for _ in range(8):
                store.add_shot(teaching, rows(), source="a.jpg")
        store.set_retention("class 1", retain="statistics")
        store.teach_by_name("class 2", rows(1)[0])
        store.refuse("class 3", [("b.jpg", rows())])
        backup(store, memory_folder / "backup")
    return state


def learned(state: Path) -> list[Any]:
    """What a device makes of it."""
    with Store.open(state, readonly=True) as store:
        return sorted(
            (
                one.name,
                one.statistics().digest(),
                one.shot_ids,
                one.refused.tobytes(),
                b"" if one.text is None else one.text.tobytes(),
            )
            for one in store.rows_by_class()
        )


def test_no_flipped_bit_changes_what_is_learned_unnoticed(state: Path, nightly: bool) -> None:
    """One bit anywhere: what is learned is the same, or it is refused, or `check` tells."""
    path = state / "state.db"
    good, before = path.read_bytes(), learned(state)
    chance = Random(None if nightly else 5)
    ends: Counter[str] = Counter()
    for _ in range(5000 if nightly else 250):
        data = bytearray(good)
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            found = learned(state)
            with Store.open(state, readonly=True) as store:
                told = store.check()
        except StoreError as error:
            ends["refused" if len(str(error).splitlines()) == 1 else str(error)] += 1
            continue
        ends["told" if told else "harmless"] += 1
        assert told or found == before, f"byte {at}"
    assert ends["refused"] > 40, ends
    assert ends.keys() <= {"refused", "told", "harmless"}


def test_rows_that_are_not_as_they_were_written_are_told_with_their_shot(state: Path) -> None:
    with Store.open(state, readonly=True) as store:
        found = {one.name: one for one in store.rows_by_class()}["class 5"]
    path = state / "state.db"
    data = bytearray(path.read_bytes())
    at = data.index(found.rows[:1].tobytes())
    data[at + 3] ^= 4
    path.write_bytes(data)
    line = f"shot {found.shot_ids[0]}: its bytes are not those that were written (CRC-32)"
    with Store.open(state, readonly=True) as store:
        assert store.check() == [line]
        with pytest.raises(StoreCorrupt) as caught:
            store.rows_by_class()
    assert line in caught.value.message
    assert "restore a backup with `accrue restore FILE`" in caught.value.hint


def test_a_damaged_database_is_set_aside_whole_and_the_backup_takes_its_place(state: Path) -> None:
    path, before = state / "state.db", learned(state)
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 517):
        data[at] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        learned(state)
    done = restore(state.parent / "backup", state)
    assert done.aside is not None
    assert done.aside.read_bytes() == data
    assert learned(state) == before
    with Store.open(state) as store:
        assert store.check() == []


def test_a_backup_of_what_is_damaged_is_told_apart_from_one_that_is_well(state: Path) -> None:
    """A flipped bit goes into a backup as it is: its own checksums fit. Reading it finds it."""
    path = state / "state.db"
    with Store.open(state, readonly=True) as store:
        rows = store.rows_by_class()[6].rows[:1].tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(rows)] ^= 1
    path.write_bytes(data)
    with Store.open(state, readonly=True) as store:
        backup(store, state.parent / "late")
    other = state.parent / "other"
    restore(state.parent / "late", other)
    with Store.open(other, readonly=True) as store:
        assert len(store.check()) == 1
    shutil.rmtree(other)
    restore(state.parent / "backup", other)
    with Store.open(other, readonly=True) as store:
        assert store.check() == []
