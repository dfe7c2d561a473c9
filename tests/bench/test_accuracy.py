"""The protocols and the command of `tools/bench/accuracy`."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import pytest
from accrue_learner import AccrueLearner
from bench_cases import CLASSES, DIM, blobs
from embeddings import Data, photos, read, write
from peers.acil import Acil
from peers.base import Peer
from peers.ranpac import RanPac
from protocols import (
    METHODS,
    PROTOCOLS,
    SIMPLE_SCORES,
    BaseToNew,
    Imbalance,
    Invariance,
    Noise,
    OpenSet,
    Options,
    Sessions,
    Shots,
    Streams,
    cells,
    measure,
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few random features: what is tested here does not need many."""
    monkeypatch.setattr(Acil, "BUFFER", 64)
    monkeypatch.setattr(RanPac, "WIDTH", 64)


@pytest.fixture
def data() -> Data:
    """Easy embeddings of two views, with text vectors that lie near the classes."""
    rows, labels = blobs(0, each=10, views=2)
    queries, wanted = blobs(1, each=6, views=2)
    text = np.stack([rows[labels == c].mean(axis=(0, 1)) for c in range(CLASSES)])
    names = tuple(f"class {c}" for c in range(CLASSES))
    return Data(rows, labels, queries, wanted, names, text)


class Recorder(Peer):
    """Answers rightly for `good` classes and remembers what it was taught."""

    taught: list[Any]
    good: frozenset[int] = frozenset()

    def __init__(self, seed: int = 0, text: Any = None) -> None:
        super().__init__(seed, text)
        type(self).taught = []

    def partial_fit(self, rows: Any, labels: Any) -> None:
        type(self).taught.append((rows, labels))
        super().partial_fit(rows, labels)

    def _learn(self, x: Any, columns: Any) -> None:
        pass

    def n_bytes(self) -> int:
        return 10


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(METHODS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "predict", lambda self, x: np.full(len(x), self.classes[0]))
    return Recorder


# ---- protocols ---------------------------------------------------------------------------------


def test_shots_teaches_k_of_each_class_and_another_draw_by_another_seed(
    data: Data, recorder: type[Recorder]
) -> None:
    """k rows a class, the same for the same seed; all of them once for all seeds."""
    shots = Shots(Options())
    drawn = []
    for seed in (0, 0, 1):
        shots.measure(data, "recorder", "3", seed)
        rows, labels = recorder.taught[0]
        assert (np.bincount(labels) == 3).all()
        drawn.append(rows)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    both = [c for c in cells(shots, data, ["GDA", "SLCA"], 5) if c.setting == "all"]
    count = [sum(c.method == m and c.views == "one" for c in both) for m in ("GDA", "SLCA")]
    assert count == [1, 5]  # the second draws random numbers of its own


def test_sessions_bring_each_class_once_with_few_shots_after_the_base(
    data: Data, recorder: type[Recorder]
) -> None:
    """Base with all rows, then steps of few; a learner that always says one class is measured
    as right on its share alone, and forgets nothing it never knew."""
    sessions = Sessions(Options(base=2, step=2, novel_shots=4))
    plan = sessions.plan(data, "few-shot", seed=3)
    assert [len(part) for part in plan] == [2, 2, 1]
    assert sorted(np.concatenate(plan)) == list(range(CLASSES))
    found = sessions.measure(data, "recorder", "few-shot", 3)
    sizes = [np.bincount(labels)[np.unique(labels)].tolist() for _, labels in recorder.taught]
    assert sizes == [[10, 10], [4, 4], [4]]
    assert found["last"] == pytest.approx(1 / CLASSES)
    assert found["average"] == pytest.approx(np.mean([1 / 2, 1 / 4, 1 / 5]))
    assert (found["base"], found["new"], found["harmonic"]) == (0.5, 0.0, 0.0)
    assert found["forgetting"] == 0.0
    assert [len(part) for part in sessions.plan(data, "equal", 0)] == [2, 2, 1]


@pytest.mark.parametrize("setting", ["generalised", "si-blurry"])
def test_streams_deal_each_row_once_and_bring_classes_again(data: Data, setting: str) -> None:
    """The sessions part the training rows; some class is in more than one of them."""
    several = replace(data, **dict(zip(("train", "train_labels"), blobs(0, each=40), strict=True)))
    plan = Streams(Options()).plan(several, setting, seed=1)
    assert sorted(np.concatenate(plan)) == list(range(len(several.train)))
    inside = [set(several.train_labels[at]) for at in plan]
    assert sum(len(part) for part in inside) > CLASSES
    again = Streams(Options()).plan(several, setting, seed=1)
    assert all((a == b).all() for a, b in zip(plan, again, strict=True))


def test_si_blurry_keeps_most_rows_of_a_class_at_home(data: Data) -> None:
    """A disjoint class is in one session; a blurry one has about a tenth elsewhere."""
    many = replace(data, **dict(zip(("train", "train_labels"), blobs(0, each=400), strict=True)))
    plan = Streams(Options()).plan(many, "si-blurry", seed=2)
    counts = np.stack([np.bincount(many.train_labels[at], minlength=CLASSES) for at in plan])
    shares = counts.max(axis=0) / counts.sum(axis=0)
    assert (shares == 1).sum() == CLASSES - CLASSES // 2
    assert ((shares > 0.85) & (shares < 0.98)).sum() == CLASSES // 2


def test_imbalance_has_a_long_tail(data: Data, recorder: type[Recorder]) -> None:
    """From all there are, down to one row."""
    found = Imbalance(Options()).measure(data, "recorder", "1:20", 0)
    counts = np.sort(np.bincount(recorder.taught[0][1]))
    assert counts[0] == 1
    assert counts[-1] == 10
    assert (np.diff(counts) >= 0).all()
    assert found["accuracy"] == pytest.approx(1 / CLASSES)


def test_open_set_never_teaches_the_unknown_and_every_score_ranks(data: Data) -> None:
    """On easy data all scores rank known above unknown; Accrue also says what it refuses."""
    protocol = OpenSet(Options(left_out=0.4))
    for method in protocol.methods():
        found = protocol.measure(data, method, "all", 0)
        assert found["auroc"] > (0.5 if method == "max-softmax" else 0.8), method
        assert 0 <= found["false_accepts"] <= 1
        assert ("caught" in found) == (method == AccrueLearner.name)


def test_simple_scores_do_not_depend_on_which_label_a_class_has(data: Data) -> None:
    """Labels with gaps give the same scores."""
    moved = data.train_labels * 7 + 2
    for name, score in SIMPLE_SCORES.items():
        first = score(data.train, data.train_labels, data.test)
        np.testing.assert_allclose(score(data.train, moved, data.test), first, err_msg=name)


def test_relative_mahalanobis_is_the_difference_of_two_distances(data: Data) -> None:
    """With dense inverses: nearest class under the within covariance, less that of all rows."""
    one = data.one_view()
    x, labels = one.train[:, 0].astype(float), one.train_labels
    q = one.test[:, 0].astype(float)
    mu = np.stack([x[labels == c].mean(axis=0) for c in range(CLASSES)])

    def distance(v: Any, centred: Any) -> Any:
        n = len(centred)
        cov = centred.T @ centred / (n - 1)
        inverse = DIM * np.linalg.inv((n - 1) * cov + np.trace(cov) * np.eye(DIM))
        return np.einsum("md,de,me->m", v, inverse, v)

    near = np.min([distance(q - m, x - mu[labels]) for m in mu], axis=0)
    total = distance(q - x.mean(axis=0), x - x.mean(axis=0))
    found = SIMPLE_SCORES["relative Mahalanobis"](one.train, labels, one.test)
    np.testing.assert_allclose(found, total - near, rtol=1e-6, atol=1e-6)
    found = SIMPLE_SCORES["Mahalanobis"](one.train, labels, one.test)
    np.testing.assert_allclose(found, -near, rtol=1e-6, atol=1e-6)


def test_noise_finds_wrong_labels_better_than_chance(data: Data) -> None:
    """Of 20 % wrong labels in easy data, nearly all are in the first third of Accrue's list."""
    found = Noise(Options(shots=(None,))).measure(data, AccrueLearner.name, "20% of all", 0)
    assert found["found"] >= 0.7
    assert found["accuracy"] > 0.6
    plain = Noise(Options(shots=(None,))).measure(data, "GDA", "20% of all", 0)
    assert set(plain) == {"accuracy"}


def test_accrue_is_the_same_in_any_order_and_the_published_slda_is_not(data: Data) -> None:
    """Digest and answers equal for Accrue; the leak of Deep-SLDA depends on the order."""
    ours = Invariance(Options()).measure(data, AccrueLearner.name, "", 0)
    assert (ours["same"], ours["digest"], ours["off_by"]) == (1.0, 1.0, 0.0)
    assert Invariance(Options()).measure(data, "Deep-SLDA", "", 0)["off_by"] > 1e-3
    assert Invariance(Options()).measure(data, "SLDA, exact", "", 0)["off_by"] < 1e-9


def test_base_to_new_asks_new_classes_by_their_names(data: Data) -> None:
    """With good text vectors the new classes are found; without any the protocol is empty."""
    protocol = BaseToNew(Options())
    for method in protocol.methods():
        found = protocol.measure(data, method, "16", 0)
        assert found["new"] > 0.7, method
        assert found["base"] > 0.7, method
        assert found["harmonic"] <= max(found["base"], found["new"])
    assert protocol.settings(replace(data, text=None)) == []


def test_views_are_measured_apart_from_one_view(data: Data) -> None:
    """Where the file has views each method is measured with the first alone and with all."""
    shots = Shots(Options(shots=(2,)))
    both = list(cells(shots, data, ["GDA"], 2))
    assert [(c.views, c.seed) for c in both] == [("one", 0), ("one", 1), ("same", 0), ("same", 1)]
    assert {c.views for c in cells(shots, data.one_view(), ["GDA"], 2)} == {"one"}
    numbers = measure(shots, data, both[2])
    assert numbers["bytes"] == 4 * (CLASSES * (DIM + 1) + DIM * DIM)


# ---- the command -------------------------------------------------------------------------------


def run(*words: Any) -> int:
    return accuracy.main([str(word) for word in words])


def test_a_run_writes_everything_goes_on_and_measures_again(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, CSV, JSON and Markdown; a second run measures nothing, `--again` one method."""
    write(tmp_path / "e.npz", data)
    out = tmp_path / "out"
    chosen = ["--protocol", "shots", "noise", "--method", "Accrue", "GDA"]
    words = ["run", tmp_path / "e.npz", "--quick", "--no-plots", "-o", out, *chosen]
    assert run(*words) == 0
    table = capsys.readouterr().out
    assert "Accrue" in table
    assert "±" in table
    log = (out / "results.jsonl").read_text(encoding="utf-8")
    # shots 1 and 5 and one noise, two methods, two seeds, one view and two
    assert len(log.splitlines()) == 3 * 2 * 2 * 2
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]
    assert {(e["method"], e["views"], e["setting"]) for e in found if e["protocol"] == "shots"} == {
        (method, views, setting)
        for method in ("Accrue", "GDA")
        for views in ("one", "same")
        for setting in ("1", "5")
    }
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    values = [
        float(line["value"])
        for line in lines
        if (line["protocol"], line["setting"], line["views"], line["method"], line["measurement"])
        == ("shots", "5", "one", "GDA", "accuracy")
    ]
    entry = next(e for e in found if (e["method"], e["setting"], e["views"]) == ("GDA", "5", "one"))
    assert entry["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert entry["accuracy"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert "| GDA |" in (out / "tables.md").read_text(encoding="utf-8")
    assert run(*words) == 0
    assert (out / "results.jsonl").read_text(encoding="utf-8") == log
    assert run(*words, "--again", "Accrue") == 0
    assert len((out / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 24 + 12


def test_a_run_plots_each_protocol(data: Data, tmp_path: Path) -> None:
    """One picture a protocol, as SVG with every method in it and as PNG."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    write(tmp_path / "e.npz", data)
    words = ["--protocol", "shots", "open-set", "--method", "Accrue", "GDA", "cosine"]
    out = tmp_path / "out"
    assert run("run", tmp_path / "e.npz", "-o", out, "--shots", "5", "--seeds", 1, *words) == 0
    for name in ("shots", "open-set"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "Accrue" in (out / f"{name}.svg").read_text(encoding="utf-8")


def test_results_of_other_embeddings_are_not_mixed_in(data: Data, tmp_path: Path) -> None:
    """The same folder with another file measures again."""
    words = ["--protocol", "shots", "--shots", "2", "--method", "GDA", "--seeds", 1, "--no-plots"]
    for part in (data.one_view(), replace(data.one_view(), test=-data.one_view().test)):
        write(tmp_path / "e.npz", part)
        assert run("run", tmp_path / "e.npz", "-o", tmp_path / "out", *words) == 0
    log = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    accuracies = [json.loads(line)["numbers"]["accuracy"] for line in log]
    assert len(accuracies) == 2
    assert accuracies[0] > accuracies[1]


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_runs_with_every_method(protocol: str, data: Data, tmp_path: Path) -> None:
    """On one view of small data, from the command to the tables."""
    write(tmp_path / "e.npz", data.one_view())
    words = ["--quick", "--seeds", 1, "--protocol", protocol, "--shots", "5", "--no-plots"]
    assert run("run", tmp_path / "e.npz", "-o", tmp_path / "out", *words) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    kind = PROTOCOLS[protocol](Options())
    assert {e["method"] for e in found["results"]} == set(kind.methods())


def test_a_run_says_in_one_line_what_is_wrong(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, a file without a key, no text, and nothing to run on."""
    np.savez(tmp_path / "short.npz", train=data.train)
    write(tmp_path / "plain.npz", replace(data, text=None))
    for words, said in (
        (["run", tmp_path / "none.npz"], "no file"),
        (["run", tmp_path / "short.npz"], "has no train_labels, test, test_labels, names"),
        (["run", tmp_path / "plain.npz", "--protocol", "base-to-new"], "needs the key `text`"),
        (["run", tmp_path / "plain.npz", "--setting", "7"], "no such method or setting"),
        (["run"], "either FILE.npz, or --train DIR and --test DIR"),
    ):
        assert run(*words, "-o", tmp_path / "out", "--no-plots") == 1
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_embed_reads_class_folders_and_an_index(
    tmp_path: Path, tiny_bundle: Path, photo_file: Any
) -> None:
    """An index with names and folders of the same names give the same embeddings."""
    for part, each in (("train", 3), ("test", 2)):
        lines = ["path,fine_label"]
        for label, name in enumerate(("hex bolt", "spur gear")):
            for i in range(each):
                seed = 100 * label + i + (50 if part == "test" else 0)
                photo_file(f"index/{part}/{name}/{i}.jpg", seed=seed, kind=label)
                photo_file(f"folders/{part}/{name}/{i}.jpg", seed=seed, kind=label)
                lines.append(f"{name}/{i}.jpg,{label}")
        (tmp_path / "index" / part / "index.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "index" / "train" / "classes.csv").write_text(
        "Class Name (str),Class ID (int)\nhex bolt,0\nspur gear,1\n"
    )
    made = []
    for kind in ("index", "folders"):
        root = tmp_path / kind
        words = ["--bundle", tiny_bundle, "--train", root / "train", "--test", root / "test"]
        assert run("embed", *words, "-o", tmp_path / f"{kind}.npz") == 0
        made.append(read(tmp_path / f"{kind}.npz"))
    assert made[0].names == made[1].names == ("hex bolt", "spur gear")
    assert made[0].train.shape == (6, 1, 64)
    assert made[0].digest() == made[1].digest()
    assert [name for _, name in photos(tmp_path / "folders" / "test")][:3] == [
        "hex bolt",
        "hex bolt",
        "spur gear",
    ]


def test_embed_makes_views_of_which_the_first_is_the_photo_itself(
    tmp_path: Path, tiny_bundle: Path, photo_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three views to teach and two to ask; view 0 is what one view would have been."""
    for i in range(2):
        photo_file(f"photos/bolt/{i}.jpg", seed=i)
        photo_file(f"photos/gear/{i}.jpg", seed=9 + i)
    folder = tmp_path / "photos"
    words = ["embed", "--bundle", tiny_bundle, "--train", folder, "--test", folder]
    assert run(*words, "-o", tmp_path / "one.npz") == 0
    more = ["--views", 3, "--test-views", 2, "-o", tmp_path / "more.npz"]
    assert run(*words, *more) == 0
    one, several = read(tmp_path / "one.npz"), read(tmp_path / "more.npz")
    assert (several.train.shape, several.test.shape) == ((4, 3, 64), (4, 2, 64))
    np.testing.assert_allclose(several.train[:, :1], one.train, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(several.train, axis=2), 1, atol=1e-5)
    assert run(*words, "--views", 1000, "-o", tmp_path / "none.npz") == 1
    assert "1000 views; expected 1 to" in capsys.readouterr().err
