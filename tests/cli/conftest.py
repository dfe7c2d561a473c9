from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from accrue.bundle import space_id


@pytest.fixture(scope="session")
def other_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with another interpolation: a space of its own."""
    other = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(tiny_bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["preprocess"]["interpolation"] = "bilinear"
    manifest["space_id"] = space_id(
        manifest["files"]["encoder.onnx"]["sha256"], manifest["preprocess"], None
    )
    (other / "manifest.json").write_text(json.dumps(manifest))
    return other
