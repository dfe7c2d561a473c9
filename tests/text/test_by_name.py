"""`accrue class teach NAME --by-name`: a class without a photo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.bundle import Bundle, space_id
from accrue.cli.main import main
from accrue.errors import SpaceMismatch
from accrue.service.box import Box
from accrue.service.settings import Settings
from accrue.vision.text import TextEncoder


class Call:
    """One `accrue` call in this process: exit code, stdout, stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        self.code = left.value.code or 0
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def settings(tmp_path: Path, text_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=text_bundle, actor="tester")


@pytest.fixture
def accrue(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text_bundle: Path,
) -> Any:
    monkeypatch.setenv("ACCRUE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ACCRUE_BUNDLE", str(text_bundle))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return lambda *words: Call(capsys, *words)


def test_what_is_learned_holds_the_unit_vector_of_the_name(settings: Settings) -> None:
    with Box(settings) as box:
        box.teach_by_name("Hex Bolt")
        box.teach_by_name("wing nut", prompt="a photo of a brass wing nut")
        learned = box.learned()
        encoder = TextEncoder(Bundle.open(settings.bundle or ""))
        expected = [encoder.embed(["hex bolt"])[0]]
        expected += [encoder.tower.embed(["a photo of a brass wing nut"])[0]]
        assert list(learned.names.values()) == ["Hex Bolt", "wing nut"]
        for found, vector in zip(learned.texts.values(), expected, strict=True):
            assert found.dtype == np.float64
            assert found == pytest.approx(vector, abs=2**-15)
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-12)
        assert (
            learned.state.digest()
            == type(learned.state)(learned.state.space, learned.state.dim).digest()
        )


def test_a_class_by_name_alone_disturbs_neither_digest_nor_answers(
    settings: Settings, tmp_path: Path, photo: Callable[..., np.ndarray]
) -> None:
    with Box(settings) as box, Box(replace(settings, state=tmp_path / "plain")) as plain:
        for one in (box, plain):
            for kind in range(2):
                photos = [(f"{i}", photo(10 * kind + i, kind=kind)) for i in range(4)]
                assert all(r.error is None for r in one.teach(f"kind {kind}", photos))
        box.teach_by_name("washer")
        assert box.learned().state.digest() == plain.learned().state.digest()
        asked = [("new", photo(99, kind=1))]
        assert [a.label for a in box.predict(asked)] == [a.label for a in plain.predict(asked)]
        assert [row.prompt for row in box.classes()] == [None, None, "washer"]


def test_a_text_that_no_longer_counts_is_no_longer_learned(settings: Settings) -> None:
    with Box(settings) as box:
        box.teach_by_name("washer")
        box.teach_by_name("disc")
        (washer, disc) = box.learned().texts
        box.merge("washer", "disc")
        assert list(box.learned().texts) == [disc]
        box.undo()
        box.remove("disc")
        assert list(box.learned().texts) == [washer]


def test_a_name_in_another_space_than_what_was_taught_is_refused(
    settings: Settings, text_bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(text_bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["preprocess"]["interpolation"] = "bilinear"
    encoder = manifest["files"]["encoder.onnx"]["sha256"]
    manifest["space_id"] = space_id(encoder, manifest["preprocess"], None)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with Box(settings) as box:
        box.teach_by_name("washer")
    with Box(replace(settings, bundle=other)) as box, pytest.raises(SpaceMismatch):
        box.teach_by_name("disc")


def test_the_command_needs_no_photo_and_listing_tells_it(accrue: Any) -> None:
    call = accrue("class", "teach", "Spur gear", "--by-name")
    assert (call.code, call.err) == (0, "")
    assert call.out == 'taught "Spur gear" by name (entry 1)\n'
    listed = accrue("class", "list").out.splitlines()
    assert listed[0].split() == ["class", "shots", "rows", "by", "name", "digest", "since"]
    assert listed[1].split()[:5] == ["Spur", "gear", "0", "0", "yes"]
    assert "by name: Spur gear" in accrue("class", "show", "spur gear").out
    (found,) = accrue("class", "list", "--json").json["classes"]
    assert (found["name"], found["by_name"], found["shots"]) == ("Spur gear", "Spur gear", 0)


def test_with_photos_it_teaches_both_and_json_tells_both(
    accrue: Any, photo_file: Callable[..., Path]
) -> None:
    photo = photo_file("a.jpg", seed=1)
    prompt = "a photo of a rusty bolt"
    call = accrue("class", "teach", "bolt", photo, "--by-name", "--prompt", prompt, "--json")
    found = call.json
    assert (found["class"], found["by_name"], len(found["shots"])) == ("bolt", prompt, 1)
    entries = accrue("history", "--json").json["entries"]
    summaries = [e["summary"] for e in reversed(entries)]
    assert summaries[0] == f'taught "bolt" by name: "{prompt}"'
    assert summaries[1].startswith('taught "bolt": 1 shot, ')
    assert len(summaries) == 2
    other = photo_file("b.jpg", seed=2)
    lines = accrue("class", "teach", "bolt", other, "--by-name", "--jsonl").out.splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [
        ["by_name", "class", "schema"],
        ["class", "path", "schema", "shot"],
    ]


def test_undo_takes_a_class_by_name_back(accrue: Any) -> None:
    accrue("class", "teach", "washer", "--by-name")
    assert accrue("undo").code == 0
    assert accrue("class", "list", "--json").json["classes"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["bolt"], 2, "nothing to teach from: neither photos nor --by-name"),
        (["bolt", "--prompt", "a bolt"], 2, "--prompt says what --by-name goes by"),
        (["bolt", "--by-name", "--prompt", ""], 2, "expected one line of 1 to 1,000"),
        (["bolt", "--by-name", "--prompt", "a\udce9 b"], 2, "that can be printed"),
        (["x" * 70, "--by-name"], 2, "tokens; the text tower reads at most 48"),
        (["bolt", "missing.jpg", "--by-name"], 3, "missing.jpg"),
    ],
)
def test_a_call_that_cannot_be_meant_changes_nothing(
    accrue: Any, words: list[str], code: int, message: str
) -> None:
    call = accrue("class", "teach", *words)
    assert call.code == code
    assert message in call.err
    assert accrue("history", "--json").json["entries"] == []


def test_a_bundle_without_text_is_named_and_nothing_is_taught(
    accrue: Any, tiny_bundle: Path, photo_file: Callable[..., Path]
) -> None:
    photo = photo_file("a.jpg", seed=1)
    call = accrue("class", "teach", "bolt", photo, "--by-name", "--bundle", tiny_bundle, "--json")
    assert call.code == 3
    assert call.json["error"]["kind"] == "NotFound"
    assert "has no text part" in call.err
    assert "teach from photos" in call.err
    assert accrue("class", "list", "--json", "--bundle", tiny_bundle).json["classes"] == []
