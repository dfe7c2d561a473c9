"""`accrue evaluate --protocol`: what is taught, what is counted, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from accrue.errors import FormatError, NotFound, UsageError
from accrue.service.embeddings import Embeddings, read_embeddings
from accrue.service.protocols import (
    PROTOCOLS,
    answers,
    auroc,
    forgetting,
    mislabelled,
    run_protocol,
    taught,
    to_look_at,
)
from accrue.service.settings import Settings

CLASSES, DIM = 8, 24


def made(seed: int, each: int, views: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIM))
    labels = np.repeat(np.arange(CLASSES), each)
    rows = centres[labels] + 1.3 * rng.normal(size=(len(labels), DIM))
    rows = rows[:, None] + 0.05 * rng.normal(size=(len(labels), views, DIM))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32), labels


@pytest.fixture
def data() -> Embeddings:
    names = tuple(f"part {k}" for k in range(CLASSES))
    return Embeddings(*made(0, 12), *made(1, 6), names)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


def saved(path: Path, data: Embeddings, **changes: object) -> Path:
    parts = {key: value for key, value in vars(data).items() if value is not None} | changes
    np.savez(path, **{key: np.asarray(value) for key, value in parts.items()})
    return path


# ---- what is counted ---------------------------------------------------------------------------


def test_auroc_is_scikit_learns_with_ties() -> None:
    """On scores with many ties; nan where one side is empty."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    known, unknown = rng.integers(2, 9, 50).astype(float), rng.integers(0, 7, 30).astype(float)
    expected = roc_auc_score([1] * 50 + [0] * 30, [*known, *unknown])
    assert auroc(known, unknown) == pytest.approx(expected)
    assert math.isnan(auroc(known, known[:0]))


def test_forgetting_is_the_best_ever_less_the_last() -> None:
    """Session 0 was best at 0.9 and ends at 0.6, session 1 stays: 0.15; untested ones do not
    count."""
    assert forgetting([[0.9], [0.8, 1.0], [0.6, 1.0, 0.5]]) == pytest.approx(0.15)
    assert forgetting([[math.nan], [math.nan, 1.0], [math.nan, 0.8, 0.5]]) == pytest.approx(0.2)
    assert math.isnan(forgetting([[0.9]]))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_mislabelled_changes_that_share_to_other_classes_that_there_are(share: float) -> None:
    """Exactly so many labels are wrong, each is another class of the data, and a seed decides."""
    labels = np.repeat([2, 5, 11], 40)
    noisy, wrong = mislabelled(labels, share, seed=4)
    assert wrong.sum() == round(share * 120)
    assert ((noisy != labels) == wrong).all()
    assert set(noisy) <= {2, 5, 11}
    assert (mislabelled(labels, share, seed=4)[0] == noisy).all()


# ---- the learner -------------------------------------------------------------------------------


def test_a_learner_of_embeddings_answers_by_label_over_views(
    data: Embeddings, settings: Settings
) -> None:
    """Labels come back as numbers of `names`; a query is the mean of its views."""
    at = data.drawn(None, 0)
    learned = taught(data, at, data.train_labels[at], settings)
    labels, known, verdicts = answers(learned, data.test)
    assert (labels == data.test_labels).mean() > 0.8
    scores = learned.choice.served.scores(data.test.mean(axis=1))
    ordered = np.sort(scores, axis=1)
    np.testing.assert_allclose(known, ordered[:, -1] - ordered[:, -2] / 2)
    assert set(verdicts) <= {"sure", "maybe", "unknown"}


def test_wrong_labels_are_the_first_to_look_at(data: Embeddings, settings: Settings) -> None:
    """Of 10 % wrong labels most stand in the first tenth of the list, which has all shots."""
    at = data.drawn(None, 0)
    noisy, wrong = mislabelled(data.train_labels, 0.1, seed=1)
    order = to_look_at(taught(data, at, noisy, settings))
    assert sorted(order) == list(range(len(at)))
    assert wrong[order[: wrong.sum()]].mean() > 0.7


# ---- protocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_measures_each_setting_with_each_seed(
    name: str, data: Embeddings, settings: Settings
) -> None:
    """Runs and their mean and spread agree; the same seeds give the same numbers."""
    done: list[tuple[str, int, int]] = []
    report = run_protocol(
        name,
        data,
        settings,
        shots=[2, None],
        seeds=[3, 4],
        progress=lambda *step: done.append(step),
    )
    assert len(report.runs) == 2 * len(report.settings) == len(done)
    assert done[-1][1:] == (len(done), len(done))
    for setting, numbers in report.settings.items():
        runs = [run for run in report.runs if run["setting"] == setting]
        assert [run["seed"] for run in runs] == [3, 4]
        for key, spread in numbers.items():
            values = [run[key] for run in runs if math.isfinite(run[key])]
            assert all(-1 <= value <= 1 for value in values)
            if values:
                assert spread["mean"] == pytest.approx(np.mean(values))
    again = run_protocol(name, data, settings, shots=[2, None], seeds=[3, 4])
    assert repr(again.runs) == repr(report.runs)


def test_more_shots_are_more_accurate_and_sure_answers_more_than_all(
    data: Embeddings, settings: Settings
) -> None:
    """On these embeddings 12 shots beat 1, and what is called sure is right more often."""
    found = run_protocol("shots", data, settings, shots=[1, None], seeds=[0, 1]).settings
    assert found["all"]["accuracy"]["mean"] > found["1"]["accuracy"]["mean"]
    assert found["all"]["sure_right"]["mean"] >= found["all"]["accuracy"]["mean"]


def test_nothing_is_forgotten_but_what_new_classes_take(
    data: Embeddings, settings: Settings
) -> None:
    """After the last session the answers are those of teaching all at once."""
    sessions = run_protocol("sessions", data, settings, shots=[None], seeds=[0]).settings["all"]
    at_once = run_protocol("shots", data, settings, shots=[None], seeds=[0]).settings["all"]
    assert sessions["last"]["mean"] == at_once["accuracy"]["mean"]


def test_classes_never_taught_are_found_unknown(data: Embeddings, settings: Settings) -> None:
    """They rank below, and more of them are refused than of the known."""
    found = run_protocol("unknown", data, settings, shots=[None], seeds=[0, 1, 2]).settings["all"]
    assert found["auroc"]["mean"] > 0.7
    assert found["caught"]["mean"] > found["false_rejects"]["mean"]


def test_a_protocol_says_what_it_needs(data: Embeddings, settings: Settings) -> None:
    """No such protocol, one class, and too few classes to leave some out."""
    with pytest.raises(UsageError, match="expected shots, sessions, unknown, noise"):
        run_protocol("noises", data, settings, shots=[1], seeds=[0])
    one = Embeddings(data.train[:12], data.train_labels[:12], data.test, data.test_labels, ("a",))
    with pytest.raises(UsageError, match="two classes to teach; found 1"):
        run_protocol("shots", one, settings, shots=[1], seeds=[0])
    two = Embeddings(data.train[:24], data.train_labels[:24], *made(1, 6), ("a", "b"))
    with pytest.raises(UsageError, match="fewer than two are left"):
        run_protocol("unknown", two, settings, shots=[1], seeds=[0])


# ---- the file ----------------------------------------------------------------------------------


def test_a_file_of_embeddings_reads_back(data: Embeddings, tmp_path: Path) -> None:
    """With and without text; rows of two axes are of one view."""
    text = np.ones((CLASSES, DIM), np.float32)
    found = read_embeddings(saved(tmp_path / "e.npz", data, text=text))
    assert (found.train == data.train).all()
    assert found.names == data.names
    assert found.text is not None
    flat = read_embeddings(saved(tmp_path / "f.npz", data, train=data.train[:, 0]))
    assert flat.train.shape == (len(data.train), 1, DIM)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_labels": np.zeros(3, int)}, "with train_labels"),
        ({"test_labels": np.full(48, CLASSES)}, "test_labels from 8 to 8 with 8 names"),
        ({"test": np.zeros((48, 2, 5), np.float32)}, "expected one dimension for all"),
        ({"text": np.zeros((2, DIM))}, "for 8 names"),
        ({"train": np.full((96, 2, DIM), np.nan, np.float32)}, "expected finite numbers"),
        ({"test_labels": np.zeros(48)}, "expected finite numbers and whole numbers"),
        ({"train": np.zeros((0, 2, DIM), np.float32), "train_labels": np.zeros(0, int)}, "n from"),
    ],
)
def test_a_file_at_odds_with_itself_is_refused(
    change: dict[str, np.ndarray], said: str, data: Embeddings, tmp_path: Path
) -> None:
    """Shapes, labels and numbers that do not fit are named."""
    with pytest.raises(FormatError, match=said):
        read_embeddings(saved(tmp_path / "e.npz", data, **change))


def test_a_file_that_is_none_is_refused(data: Embeddings, tmp_path: Path) -> None:
    """Missing, no archive, cut short, a key missing, and objects that would be unpickled."""
    with pytest.raises(NotFound, match="no file"):
        read_embeddings(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    whole = saved(tmp_path / "e.npz", data).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "objects.npz", train=np.array([{}], dtype=object), allow_pickle=True)
    for name in ("text", "array", "cut", "objects"):
        with pytest.raises(FormatError, match="cannot be read as"):
            read_embeddings(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "few.npz", train=data.train, names=np.array(data.names))
    with pytest.raises(FormatError, match="has no train_labels, test, test_labels"):
        read_embeddings(tmp_path / "few.npz")
