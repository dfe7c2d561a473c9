"""The bundled default encoder: whole, small, and as good as the README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from accrue.bundle import Bundle, default_bundle_path
from accrue.service.box import Box
from accrue.service.evaluation import evaluate
from accrue.service.settings import Settings
from accrue.vision.encode import OnnxEncoder, golden_check

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
LIMIT_BYTES = 6 * 10**6


def test_it_is_whole_and_reproduces_its_golden_embeddings() -> None:
    bundle = Bundle.open(default_bundle_path())
    bundle.verify()
    assert golden_check(OnnxEncoder(bundle), bundle).min_cosine > 0.9999


def test_it_is_at_most_six_megabytes_and_permissive() -> None:
    files = [path for path in default_bundle_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    manifest = Bundle.open(default_bundle_path()).manifest
    assert manifest.dim >= 256
    assert manifest.size >= 128
    assert not manifest.licence_restricted


def test_it_tells_the_sample_parts_apart_from_five_shots(tmp_path: Path) -> None:
    samples = ROOT / "tools" / "samples"
    with Box(Settings(state=tmp_path)) as box:
        found = evaluate(box, samples / "test", train=samples / "teach", shots=5)
    assert found.refused == []
    assert found.accuracy >= 0.6


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "grocery-val").is_dir(),
    reason="needs the Grocery Store Dataset as ../shared/data/grocery-train and grocery-val "
    "(github.com/marcusklasson/GroceryStoreDataset); it is not part of this repository",
)
def test_five_shots_of_real_groceries_reach_58_percent_on_the_mean_of_five_draws(
    tmp_path: Path,
) -> None:
    with Box(Settings(state=tmp_path, views=1, predict_views=1)) as box:
        found = [
            evaluate(box, DATA / "grocery-val", train=DATA / "grocery-train", shots=5, seed=seed)
            for seed in range(5)
        ]
    assert sum(result.accuracy for result in found) / 5 >= 0.58
