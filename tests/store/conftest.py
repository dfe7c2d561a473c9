from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from accrue.store import Store

SPACE = "5" * 64
DIM = 4


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder that every user may enter, in memory where the system has that."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="accrue-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    with Store.open(state, space_id=SPACE, dim=DIM) as opened:
        yield opened


@pytest.fixture
def make_rows() -> Callable[..., NDArray[np.int16]]:
    def rows(seed: int = 0, n: int = 2, dim: int = DIM) -> NDArray[np.int16]:
        values = np.random.default_rng(seed).integers(-32767, 32768, (n, dim))
        return values.astype(np.int16)

    return rows


@pytest.fixture
def teach(make_rows: Callable[..., NDArray[np.int16]]) -> Callable[..., list[str]]:
    """teach(store, name, shots=1, n=2) -> shot ids, one entry of the journal."""
    seeds = iter(range(10**6))

    def run(store: Store, name: str, shots: int = 1, n: int = 2) -> list[str]:
        teaching = store.begin_teach(name, actor="test")
        return [
            store.add_shot(teaching, make_rows(next(seeds), n, store.dim), source="a.jpg")
            for _ in range(shots)
        ]

    return run
