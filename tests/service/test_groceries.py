"""Real photographs: the gaussian head beside scikit-learn's on the same rows."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from accrue.learn import Gaussian, State, leave_one_out, quantise
from accrue.learn.statistics import SCALE
from accrue.learn.suspects import suspects
from accrue.service.box import Box
from accrue.service.evaluation import drawn, evaluate
from accrue.service.settings import Settings
from accrue.vision.sources import labelled_images

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SHOTS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SHARED / "data" / "grocery-val").is_dir(),
        reason="needs the Grocery Store Dataset as ../shared/data/grocery-train and grocery-val "
        "(github.com/marcusklasson/GroceryStoreDataset) and ../shared/encoders/"
        "mobilenetv2-imagenet.onnx; they are not part of this repository",
    ),
]


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnx

    from accrue.bundle import Preprocess
    from accrue_export import golden_images, write_bundle

    return write_bundle(
        tmp_path_factory.mktemp("mobilenet") / "bundle",
        model=onnx.load(SHARED / "encoders" / "mobilenetv2-imagenet.onnx"),
        name="mobilenetv2",
        source="shared data",
        licence_name="Apache-2.0",
        licence_text="Apache-2.0",
        restricted=False,
        preprocess=Preprocess(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        golden=golden_images(),
    ).path


def test_gaussian_scores_are_those_of_scikit_learn_and_no_less_accurate(
    mobilenet: Path, tmp_path: Path
) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    train = drawn(labelled_images(SHARED / "data" / "grocery-train"), SHOTS, seed=0)
    test = labelled_images(SHARED / "data" / "grocery-val")
    settings = Settings(
        state=tmp_path,
        bundle=mobilenet,
        head="gaussian",
        shrinkage=0.5,
        views=1,
        predict_views=1,
    )
    with Box(settings) as box:
        embedded = [
            np.array([v[0] for _, v in box.embed((str(p), p) for ps in part.values() for p in ps)])
            for part in (train, test)
        ]
        ours = evaluate(
            box,
            SHARED / "data" / "grocery-val",
            train=SHARED / "data" / "grocery-train",
            shots=SHOTS,
            seed=0,
        )
    labels = [[name for name, paths in part.items() for _ in paths] for part in (train, test)]
    rows = quantise(embedded[0])
    state = State(box.bundle.manifest.space_id, rows.shape[1])
    for name, row in zip(labels[0], rows, strict=True):
        state.add(name, row[None])
    counts = state.counts()
    priors = dict(zip(state, counts / counts.sum(), strict=True))
    served = Gaussian(0.5, priors=priors).solve(state)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=served.shrinkage)
        peer.fit(rows / SCALE, labels[0])
    assert list(peer.classes_) == served.ids
    expected = peer.decision_function(embedded[1])
    found = served.scores(embedded[1])
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    right = [
        np.mean(np.array(served.ids)[scores.argmax(axis=1)] == labels[1])
        for scores in (found, expected)
    ]
    assert right[0] >= right[1]
    assert ours.accuracy >= right[1]


def test_the_first_third_of_the_suspects_holds_most_wrong_labels(mobilenet: Path) -> None:
    """With 20 % of the labels of five shots a class replaced at random, over five seeds."""
    photos = drawn(labelled_images(SHARED / "data" / "grocery-train"), SHOTS, seed=0)
    with Box(Settings(bundle=mobilenet)) as box:
        embedded = box.embed((str(p), p) for paths in photos.values() for p in paths)
        rows = quantise(np.array([views[0] for _, views in embedded]))
    right = [name for name, paths in photos.items() for _ in paths]
    names = list(photos)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        wrong = set(rng.permutation(len(right))[: len(right) // 5].tolist())
        labels = [
            str(rng.choice([n for n in names if n != name])) if i in wrong else name
            for i, name in enumerate(right)
        ]
        state = State("0" * 64, rows.shape[1])
        shots = [(name, row[None]) for name, row in zip(labels, rows, strict=True)]
        for name, row in shots:
            state.add(name, row)
        listed = suspects(leave_one_out(Gaussian().solve(state), shots), labels)
        first = {s.shot for s in listed[: len(right) // 3]}
        assert len(first & wrong) >= 0.7 * len(wrong)
