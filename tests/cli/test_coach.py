"""The coach and repair on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_cli import Call

SAMPLES = Path(__file__).resolve().parents[2] / "tools" / "samples"
Photos = dict[str, list[Path]]


@pytest.fixture
def accrue(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_bundle: Path,
) -> Any:
    monkeypatch.setenv("ACCRUE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ACCRUE_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return lambda *words: Call(capsys, *words)


@pytest.fixture
def taught(accrue: Any, photo_classes: Callable[..., Photos]) -> Photos:
    """Three classes of eight photos, all of them kept."""
    photos = photo_classes(each=8)
    for name, paths in photos.items():
        assert accrue("class", "teach", name, *paths, "--keep-all").code == 0
    return photos


@pytest.fixture
def samples(accrue: Any, monkeypatch: pytest.MonkeyPatch) -> Photos:
    """Ten photos of each of three things, under the encoder that comes with Accrue."""
    monkeypatch.delenv("ACCRUE_BUNDLE")
    names = ("spur-gear", "wing-nut", "ball-valve")
    return {name: sorted((SAMPLES / "test" / name).glob("*.jpg")) for name in names}


def ids(accrue: Any, name: str) -> list[str]:
    return [shot["id"] for shot in accrue("class", "show", name, "--json").json["shot_list"]]


# ---- photos that are left out -------------------------------------------------------------------


@pytest.fixture
def burst(tmp_path: Path) -> list[Path]:
    """Three photos of a thing, one of them saved once more, and one of them blurred."""
    folder = SAMPLES / "test" / "spur-gear"
    paths = [folder / "01.jpg", folder / "02.jpg", folder / "05.jpg"]
    again, blurred = tmp_path / "again.jpg", tmp_path / "blurred.jpg"
    Image.open(paths[0]).save(again, quality=90)
    Image.open(paths[1]).filter(ImageFilter.GaussianBlur(5)).save(blurred, quality=92)
    return [*paths, again, blurred]


def test_a_repeated_and_a_blurred_photo_are_left_out_with_counts_and_why(
    accrue: Any, burst: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the default encoder and the default settings, with exit code 0."""
    monkeypatch.delenv("ACCRUE_BUNDLE")
    call = accrue("class", "teach", "gear", *burst)
    assert call.code == 0
    assert call.out.splitlines()[0] == "taught gear: kept 3 of 5: 1 near-duplicate, 1 blurred"
    first = ids(accrue, "gear")[0]
    assert f"again.jpg left out: near-duplicate of shot {first} (cosine " in call.err
    assert "blurred.jpg left out: blurred (blur 0." in call.err
    repeated = accrue("class", "teach", "gear", burst[0], "--json")
    assert repeated.code == 0
    assert repeated.json["shots"] == []
    (skipped,) = repeated.json["skipped"]
    assert (skipped["reason"], skipped["of"]) == ("near-duplicate", first)
    assert len(ids(accrue, "gear")) == 3


def test_the_same_photo_may_be_taught_as_another_class(accrue: Any, taught: Photos) -> None:
    """Only the class's own shots make a photo a repetition."""
    call = accrue("class", "teach", "other", taught["kind-0"][0], "--json")
    assert len(call.json["shots"]) == 1


def test_keep_all_leaves_nothing_out(accrue: Any, burst: list[Path]) -> None:
    """Each photo is a shot, in JSON lines too."""
    call = accrue("class", "teach", "gear", *burst, "--keep-all", "--jsonl")
    assert call.out.count('"skipped"') == 0
    assert len(ids(accrue, "gear")) == 5


def test_a_photo_left_out_is_a_line_without_a_shot(accrue: Any, burst: list[Path]) -> None:
    """JSON lines tell it as it happens: no shot, and why."""
    accrue("class", "teach", "gear", burst[0])
    (line,) = accrue("class", "teach", "gear", burst[0], "--jsonl").out.splitlines()
    assert '"shot": null' in line
    assert '"reason": "near-duplicate"' in line


def test_an_undone_shot_may_be_taught_again(accrue: Any, burst: list[Path]) -> None:
    """What was taken back is not there to be repeated."""
    accrue("class", "teach", "gear", burst[0])
    accrue("undo")
    assert len(accrue("class", "teach", "gear", burst[0], "--json").json["shots"]) == 1


# ---- quality, suspects, relabel -----------------------------------------------------------------


def test_teaching_ends_with_what_the_class_still_needs(
    accrue: Any, photo_classes: Callable[..., Photos]
) -> None:
    """A class of three shots is told to need more, in words and in JSON."""
    photos = photo_classes(each=6, classes=2)
    call = accrue("class", "teach", "a", *photos["kind-0"][:3])
    assert "a: needs shots (3 shots" in call.out
    call = accrue("class", "teach", "a", *photos["kind-0"][3:], "--json")
    assert call.json["quality"]["shots"] == 6


def test_quality_tells_of_every_class(accrue: Any, taught: Photos) -> None:
    """As a table and as JSON, the same."""
    found = accrue("class", "quality", "--json").json["classes"]
    assert [c["name"] for c in found] == list(taught)
    assert all(0 <= c["accuracy"] <= 1 and c["shots"] == 8 for c in found)
    text = accrue("class", "quality").out
    assert all(name in text for name in taught)


def test_a_mislabelled_shot_is_found_righted_and_the_righting_undone(
    accrue: Any, samples: Photos
) -> None:
    """Taught wrongly, first among the suspects, relabelled: the state that never was wrong."""
    for name, paths in samples.items():
        accrue("class", "teach", name, *paths)
    right = accrue("class", "list", "--json").json["digest"]
    wrong = accrue("class", "relabel", "wing-nut", ids(accrue, "spur-gear")[3], "--force")
    assert wrong.code == 0
    first = accrue("class", "suspects", "--json").json["suspects"][0]
    assert (first["label"], first["looks_like"]) == ("wing-nut", "spur-gear")
    assert first["margin"] < 0
    (listed,) = accrue("class", "suspects", "wing-nut", "--limit", 1, "--json").json["suspects"]
    assert listed == first
    assert first["shot"]["id"] in accrue("class", "suspects").out
    assert accrue("class", "relabel", "spur-gear", first["shot"]["id"]).code == 0
    assert accrue("class", "list", "--json").json["digest"] == right
    accrue("undo")
    assert accrue("class", "list", "--json").json["digest"] != right


# ---- not this, why ------------------------------------------------------------------------------


def test_not_this_changes_the_answer_near_it_and_no_other_until_it_is_undone(
    accrue: Any, taught: Photos, photo_file: Callable[..., Path]
) -> None:
    """The refused photo gets another answer, which survives teaching and merging; the class's
    own photos keep theirs; undo brings the first answer back."""
    new = photo_file("new.jpg", seed=4242, kind=0)

    def answers() -> list[str]:
        asked = accrue("predict", new, *taught["kind-0"], "--json").json["predictions"]
        return [one["label"] for one in asked]

    before = answers()
    assert before == ["kind-0"] * 9
    noted = accrue("class", "not", "kind-0", new, "--json")
    assert noted.code == 0
    assert answers()[0] != "kind-0"
    assert answers()[1:] == before[1:]
    (shown,) = accrue("class", "show", "kind-0", "--json").json["not_this"]
    assert shown["source"] == str(new)
    assert "not this" in accrue("class", "show", "kind-0").out
    accrue("class", "teach", "kind-2", photo_file("more.jpg", seed=555, kind=2))
    accrue("class", "rename", "kind-0", "first")
    assert answers()[0] != "first"
    assert accrue("why", new, "--json").json["answers"][0]["refused"] == ["first"]
    accrue("class", "allow", shown["id"])
    assert answers()[0] == "first"


def test_a_photo_that_is_of_no_class_is_unknown(accrue: Any, taught: Photos) -> None:
    """Where every class is refused for it, the answer is unknown."""
    stranger = Path(taught["kind-0"][0].parent.parent, "stranger.png")
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stranger)
    for name in taught:
        accrue("class", "not", name, stranger)
    (answer,) = accrue("predict", stranger, "--json").json["predictions"]
    assert (answer["verdict"], answer["label"]) == ("unknown", None)
    assert accrue("predict", stranger).out == f"{stranger}\tunknown\n"


def test_why_names_the_photo_itself_first(accrue: Any, taught: Photos) -> None:
    """A taught photo is nearest to its own shot, and the runner-up is another class."""
    path = taught["kind-1"][2]
    (answer,) = accrue("why", path, "--json", "--most", 2).json["answers"]
    winner, runner_up = answer["reasons"]
    assert (winner["label"], len(winner["shots"])) == ("kind-1", 2)
    assert winner["shots"][0]["shot"]["source"] == str(path)
    assert winner["shots"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert runner_up["label"] != "kind-1"
    assert str(path) in accrue("why", path).out


def test_why_of_what_is_no_photo_says_so(accrue: Any, taught: Photos, tmp_path: Path) -> None:
    """One line, exit code 1, and the others are answered."""
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    call = accrue("why", bad, taught["kind-0"][0], "--json")
    assert call.code == 1
    assert [("error" in one) for one in call.json["answers"]] == [True, False]


# ---- split, guard -------------------------------------------------------------------------------


def test_a_suggested_split_takes_two_things_apart_and_can_be_undone(
    accrue: Any, samples: Photos
) -> None:
    """Two things taught as one: the second group is one of them, split off, and put back."""
    accrue("class", "teach", "both", *samples["spur-gear"], *samples["ball-valve"][:6])
    accrue("class", "teach", "other", *samples["wing-nut"])
    before = accrue("class", "list", "--json").json["digest"]
    found = accrue("class", "split", "both", "--suggest", "--json").json
    second = {Path(shot["source"]) for shot in found["second"]}
    assert second == set(samples["ball-valve"][:6])
    assert "accrue class split" in accrue("class", "split", "both", "--suggest").err
    assert accrue("class", "list", "--json").json["digest"] == before
    assert accrue("class", "split", "both", "new", "--apply").code == 0
    shots = {c["name"]: c["shots"] for c in accrue("class", "list", "--json").json["classes"]}
    assert (shots["both"], shots["new"]) == (10, 6)
    accrue("undo")
    assert accrue("class", "list", "--json").json["digest"] == before


@pytest.mark.parametrize(
    "words", [[], ["new"], ["new", "--suggest"], ["--apply"], ["new", "x", "--apply"]]
)
def test_a_split_that_cannot_be_meant_is_a_usage_error(
    accrue: Any, taught: Photos, words: list[str]
) -> None:
    """Exit code 2 and nothing changed."""
    assert accrue("class", "split", "kind-0", *words).code == 2
    assert len(ids(accrue, "kind-0")) == 8


def test_a_class_of_few_shots_has_no_suggestion(accrue: Any, taught: Photos) -> None:
    """It is a conflict that says how many are needed."""
    accrue("class", "teach", "few", taught["kind-0"][0])
    call = accrue("class", "split", "few", "--suggest")
    assert call.code == 5
    assert "6 or more" in call.err


def test_a_relabelling_that_makes_the_answers_worse_is_held_back_unless_forced(
    accrue: Any, taught: Photos
) -> None:
    """Half a class called another: exit code 6, nothing changed; with --force it is done."""
    before = accrue("class", "list", "--json").json["digest"]
    some = ids(accrue, "kind-0")[:4]
    call = accrue("class", "relabel", "kind-1", *some)
    assert call.code == 6
    assert "held back, nothing was changed: accuracy on kept shots would fall from" in call.err
    assert accrue("class", "list", "--json").json["digest"] == before
    assert len(accrue("history", "--json").json["entries"]) == 3
    assert accrue("class", "relabel", "kind-1", *some, "--force").code == 0
    assert accrue("class", "list", "--json").json["digest"] != before


def test_a_merge_that_does_no_harm_goes_through(accrue: Any, samples: Photos) -> None:
    """Two halves of one thing: the guard looks and lets it pass."""
    for name, paths in samples.items():
        accrue("class", "teach", name, *paths[:5])
    accrue("class", "teach", "more gears", *samples["spur-gear"][5:])
    accrue("class", "teach", "wing-nut", *samples["wing-nut"][5:])
    assert accrue("class", "merge", "more gears", "spur-gear").code == 0
