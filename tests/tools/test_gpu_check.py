"""`tools/gpu_check` measures what is there and says what is missing, which is no success."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accrue.device import describe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    describe().gpu is not None, reason="asks what happens without a GPU; here is one"
)
def test_without_a_gpu_it_measures_the_cpu_says_what_is_missing_and_fails(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "check.json"
    done = subprocess.run(
        [str(ROOT / "tools" / "gpu_check"), "-o", str(out), "--bundle", str(tiny_bundle)],
        capture_output=True,
        text=True,
        env=os.environ | {"ACCRUE_PYTHON": sys.executable},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "nothing was measured on a GPU; what is missing stands above" in done.stderr
    result = json.loads(out.read_text())
    sections = result["sections"]
    assert sorted(sections) == ["onnx-cpu", "onnx-cuda", "tensorrt", "tensorrt-rtx"]
    for name in ("onnx-cuda", "tensorrt", "tensorrt-rtx"):
        assert not sections[name]["measured"]
        assert sections[name]["missing"] == "no NVIDIA GPU was found"
    cpu = sections["onnx-cpu"]
    assert cpu["measured"]
    assert cpu["parity"]["min_cosine"] > 0.999
    for batch in ("batch_1", "batch_8"):
        assert 0 < cpu["latency"][batch]["median_ms"] <= cpu["latency"][batch]["p95_ms"]
    assert result["device"]["gpu"] is None


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "tools" / "gpu_check"), "--bundle", "nowhere"],
        capture_output=True,
        text=True,
        env=os.environ | {"ACCRUE_PYTHON": sys.executable},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpu_check: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
