"""Makes the benchmarks importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bench_cases import blobs

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))


@pytest.fixture
def train():
    return blobs(0)


@pytest.fixture
def test():
    return blobs(1)
