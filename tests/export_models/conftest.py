"""Bundles of real architectures with random weights; each is built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="torch is missing: ./tools/test installs requirements/export.txt"
)

from export_cases import SEED, prepared_images

from accrue.bundle import Bundle
from accrue_export import golden_images, models, write_bundle


@pytest.fixture(scope="session")
def built_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``built_bundle("ViT-B-16")``: a bundle folder with float16; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Path] = {}

    def build(model: str) -> Path:
        if model not in made:
            made[model] = _build(model, folder / model)
        return made[model]

    return build


def _build(model: str, out: Path) -> Path:
    tower = models.load(models.Request(model=model, seed=SEED))
    graph = models.to_onnx(tower)
    del tower.clip
    write_bundle(
        out,
        model=graph,
        name=tower.name,
        source=tower.source,
        licence_name=tower.licence,
        licence_text="random numbers",
        restricted=False,
        preprocess=tower.preprocess,
        golden=golden_images(),
        fp16=True,
        notes=tower.notes,
    )
    prepared = prepared_images(Bundle.open(out))
    np.save(out.parent / f"{model}.torch.npy", models.features(tower, prepared))
    return out
