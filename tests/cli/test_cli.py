"""The command line as an operator and a script see it: real processes' worth of calls."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accrue.cli.main import GLOBAL_FLAGS, main
from accrue.cli.run import hoisted

Photos = dict[str, list[Path]]


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
def accrue(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_bundle: Path,
) -> Any:
    monkeypatch.setenv("ACCRUE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ACCRUE_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("ACCRUE_ACTOR", "tester")
    monkeypatch.setenv("ACCRUE_DUPLICATES", "1")  # flat drawings repeat one another
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return lambda *words: Call(capsys, *words)


def draw(path: Path, colour: tuple[int, int, int], seed: int) -> Path:
    """A photo-like file: a coloured field with a seeded square on it."""
    image = Image.new("RGB", (90 + seed, 80), colour)
    side = 10 + 3 * seed
    image.paste(tuple(255 - c for c in colour), (5 + seed, 5, 5 + seed + side, 5 + side))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    colours = {"bolt": (200, 40, 40), "gear": (40, 200, 40), "valve": (40, 40, 200)}
    return {
        name: [draw(tmp_path / "photos" / name / f"{i}.png", colour, i) for i in range(6)]
        for name, colour in colours.items()
    }


def teach_all(accrue: Any, photos: Photos) -> None:
    for name, paths in photos.items():
        assert accrue("class", "teach", name, *paths).code == 0


def test_teach_acknowledges_each_shot_with_its_id(accrue: Any, photos: Photos) -> None:
    call = accrue("class", "teach", "bolt", *photos["bolt"], "--jsonl")
    lines = [json.loads(line) for line in call.out.splitlines()]
    assert [line["path"] for line in lines] == [str(p) for p in photos["bolt"]]
    assert len({line["shot"] for line in lines}) == 6
    shown = accrue("class", "show", "bolt", "--json").json
    assert sorted(s["id"] for s in shown["shot_list"]) == sorted(line["shot"] for line in lines)


def test_list_tells_name_shots_rows_and_digests(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    listed = accrue("class", "list", "--json").json
    assert listed["schema"] == 1
    assert {c["name"]: (c["shots"], c["rows"]) for c in listed["classes"]} == dict.fromkeys(
        photos,
        (6, 60),  # ten views of each photo
    )
    assert all(len(c["digest"]) == 64 for c in listed["classes"])
    assert len(listed["digest"]) == 64


def test_a_removed_class_leaves_the_digest_of_a_state_that_never_saw_it(
    accrue: Any, photos: Photos
) -> None:
    accrue("class", "teach", "bolt", *photos["bolt"])
    accrue("class", "teach", "gear", *photos["gear"])
    before = accrue("class", "list", "--json").json["digest"]
    accrue("class", "teach", "valve", *photos["valve"])
    assert accrue("class", "list", "--json").json["digest"] != before
    assert accrue("class", "remove", "valve").code == 0
    assert accrue("class", "list", "--json").json["digest"] == before
    accrue("undo")
    assert accrue("class", "list", "--json").json["digest"] != before
    assert [c["name"] for c in accrue("class", "list", "--json").json["classes"]] == [
        "bolt",
        "gear",
        "valve",
    ]


def test_the_order_of_teaching_does_not_show_in_the_digest(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    teach_all(accrue, photos)
    first = accrue("class", "list", "--json").json["digest"]
    other = tmp_path / "other"
    for name in reversed(list(photos)):
        for path in reversed(photos[name]):
            accrue("class", "teach", name, path, "--state", other)
    assert accrue("class", "list", "--json", "--state", other).json["digest"] == first


def test_predict_answers_each_file_with_every_promised_field(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    call = accrue("predict", photos["gear"][0], photos["bolt"][0], "--json")
    answers = call.json["predictions"]
    assert [a["label"] for a in answers] == ["gear", "bolt"]
    for answer in answers:
        assert set(answer) == {"path", "label", "verdict", "score", "margin", "alternatives"}
        assert answer["verdict"] in ("sure", "maybe", "unknown", "not_ready")
        assert answer["alternatives"][0]["label"] == answer["label"]


def test_predict_before_teaching_is_not_ready(accrue: Any, photos: Photos) -> None:
    answer = accrue("predict", photos["gear"][0], "--json").json["predictions"][0]
    assert (answer["label"], answer["verdict"], answer["score"]) == (None, "not_ready", None)


def test_rename_keeps_the_old_name_and_the_digest(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    before = accrue("class", "list", "--json").json["digest"]
    assert accrue("class", "rename", "gear", "cog wheel").code == 0
    listed = accrue("class", "list", "--json").json
    assert listed["digest"] == before
    assert accrue("class", "show", "GEAR", "--json").json["name"] == "cog wheel"
    clash = accrue("class", "rename", "bolt", "Cog Wheel")
    assert clash.code == 5
    assert "has that name" in clash.err


def test_merge_split_relabel_and_undo_return_to_the_same_digest(
    accrue: Any, photos: Photos
) -> None:
    teach_all(accrue, photos)
    digests = [accrue("class", "list", "--json").json["digest"]]
    shots = [s["id"] for s in accrue("class", "show", "gear", "--json").json["shot_list"]]
    for words in (
        ("class", "merge", "bolt", "valve"),
        ("class", "split", "gear", "small gear", *shots[:2]),
        ("class", "relabel", "valve", shots[3]),
    ):
        assert accrue(*words).code == 0
        digests.append(accrue("class", "list", "--json").json["digest"])
    assert len(set(digests)) == 4
    for expected in reversed(digests[:-1]):
        assert accrue("undo").code == 0
        assert accrue("class", "list", "--json").json["digest"] == expected
    verbs = [e["verb"] for e in accrue("history", "--json").json["entries"]]
    assert verbs[:3] == ["undo"] * 3


def test_evaluate_with_train_leaves_the_state_alone(accrue: Any, photos: Photos) -> None:
    root = photos["bolt"][0].parent.parent
    call = accrue("evaluate", root, "--train", root, "--shots", 3, "--seed", 1, "--json")
    found = call.json
    assert call.code == 0
    assert (found["classes"], found["shots"], found["photos"]) == (3, 9, 18)
    assert found["accuracy"] == pytest.approx(
        sum(c["accuracy"] * c["photos"] for c in found["per_class"].values()) / 18
    )
    assert {"encode_train", "learn", "encode_per_photo", "decide_per_photo"} <= set(
        found["seconds"]
    )
    assert accrue("class", "list", "--json").json["classes"] == []
    for head in ("prototype", "gaussian", "ridge"):
        named = accrue("evaluate", root, "--train", root, "--head", head, "--json").json
        assert named["head"].startswith(head)


def test_evaluate_with_a_protocol_draws_several_times(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    """Mean and spread over the seeds, each measurement in the CSV, and the state left alone."""
    root = photos["bolt"][0].parent.parent
    words = ["evaluate", root, "--train", root, "--protocol", "shots", "--shots", "2,all"]
    words += ["--seed", 3, "--seeds", 2]
    call = accrue(*words, "--csv", tmp_path / "runs.csv", "--json")
    assert call.code == 0
    found = call.json
    assert (found["protocol"], found["seeds"]) == ("shots", [3, 4])
    assert list(found["settings"]) == ["2", "all"]
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["setting"], line["seed"]) for line in lines} == {
        (setting, seed) for setting in ("2", "all") for seed in ("3", "4")
    }
    values = [
        float(line["value"])
        for line in lines
        if (line["setting"], line["measurement"]) == ("2", "accuracy")
    ]
    assert found["settings"]["2"]["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert accrue("class", "list", "--json").json["classes"] == []
    shown = accrue(*words).out
    assert shown.splitlines()[0].split()[:2] == ["setting", "accuracy"]
    assert "±" in shown


def test_evaluate_reads_embeddings_from_a_file(accrue: Any, tmp_path: Path) -> None:
    """An .npz needs no photos and no encoder: one draw, or a protocol."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.eye(4, 16), 6, axis=0) + 0.05 * rng.normal(size=(24, 16))
    labels = np.repeat(np.arange(4), 6)
    file = tmp_path / "embeddings.npz"
    parts = {"train": rows.astype(np.float32), "test": rows[:, None].astype(np.float32)}
    np.savez(file, train_labels=labels, test_labels=labels, names=list("abcd"), **parts)
    found = accrue("evaluate", file, "--shots", 3, "--bundle", tmp_path / "none", "--json").json
    assert (found["accuracy"], found["shots"], found["photos"]) == (1.0, 12, 24)
    assert found["per_class"]["c"] == {"accuracy": 1.0, "photos": 6}
    noise = accrue("evaluate", file, "--protocol", "noise", "--seeds", 1, "--json").json
    assert list(noise["settings"]) == ["10%", "20%", "30%", "40%"]
    clash = accrue("evaluate", file, "--train", tmp_path)
    assert (clash.code, "of its own" in clash.err) == (2, True)


def test_evaluate_says_what_a_protocol_needs(accrue: Any, photos: Photos, tmp_path: Path) -> None:
    """One line and exit code 2 for words that do not go together; nothing is written."""
    root = photos["bolt"][0].parent.parent
    for words, said in (
        (("--protocol", "shots"), "--train DIR"),
        (("--train", root, "--protocol", "noises"), "expected shots, sessions, unknown, noise"),
        (("--train", root, "--shots", "1,5"), "without a protocol"),
        (("--train", root, "--shots", "few"), "expected whole numbers"),
        (("--train", root, "--shots", 0), "expected whole numbers"),
        (("--train", root, "--csv", tmp_path / "x.csv"), "add --protocol"),
        (
            ("--train", root, "--protocol", "shots", "--csv", tmp_path / "none" / "x.csv"),
            "no folder",
        ),
    ):
        call = accrue("evaluate", root, *words)
        assert call.code == 2, words
        assert said in call.err, words
    assert not (tmp_path / "x.csv").exists()


def test_evaluate_the_own_state_counts_never_taught_apart(accrue: Any, photos: Photos) -> None:
    accrue("class", "teach", "bolt", *photos["bolt"])
    accrue("class", "teach", "gear", *photos["gear"])
    found = accrue("evaluate", photos["bolt"][0].parent.parent, "--json").json
    assert (found["photos"], found["never_taught"]) == (12, 6)


def test_backup_and_restore_on_a_second_box(accrue: Any, photos: Photos, tmp_path: Path) -> None:
    teach_all(accrue, photos)
    digest = accrue("class", "list", "--json").json["digest"]
    file = tmp_path / "all.accrue"
    assert accrue("backup", file).code == 0
    second = tmp_path / "second"
    assert accrue("restore", file, "--state", second).code == 0
    assert accrue("class", "list", "--json", "--state", second).json["digest"] == digest
    refused = accrue("restore", file, "--state", second)
    assert refused.code == 5
    assert "add --yes" in refused.err
    assert accrue("restore", file, "--state", second, "--yes").code == 0


def test_purge_needs_yes_and_takes_the_class_off_the_disk(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    refused = accrue("class", "remove", "gear", "--purge")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert accrue("class", "remove", "gear", "--purge", "--yes").code == 0
    assert accrue("class", "show", "gear").code == 3


def test_thumbnails_are_kept_only_when_asked_for(accrue: Any, photos: Photos) -> None:
    accrue("class", "teach", "bolt", photos["bolt"][0])
    accrue("class", "teach", "bolt", photos["bolt"][1], "--thumbnails", "32")
    shots = accrue("class", "show", "bolt", "--json").json["shot_list"]
    assert [s["has_thumb"] for s in shots] == [False, True]


# ---- bad input: one clear line, the right exit code, nothing lost ------------------------------


def test_a_missing_file_stops_the_call_before_anything_is_taught(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    call = accrue("class", "teach", "bolt", photos["bolt"][0], tmp_path / "nowhere.jpg")
    assert call.code == 3
    assert "nowhere.jpg" in call.err
    assert "Traceback" not in call.err
    assert accrue("class", "list", "--json").json["classes"] == []


def test_an_empty_folder_is_named(accrue: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    call = accrue("predict", tmp_path / "empty")
    assert call.code == 3
    assert str(tmp_path / "empty") in call.err


@pytest.mark.parametrize("kind", ["text", "one_pixel", "huge", "truncated"])
def test_an_unusable_image_is_refused_and_the_others_are_taught(
    accrue: Any, photos: Photos, tmp_path: Path, kind: str
) -> None:
    bad = tmp_path / "bad.jpg"
    if kind == "text":
        bad.write_text("this is no photograph\n")
    elif kind == "one_pixel":
        Image.new("RGB", (1, 1)).save(bad)
    elif kind == "huge":
        Image.new("L", (20_000, 8)).save(bad)
    else:
        draw(tmp_path / "whole.jpg", (9, 99, 199), 3)
        bad.write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    call = accrue("class", "teach", "bolt", photos["bolt"][0], bad, photos["bolt"][1])
    assert call.code == 1
    complaints = call.err.splitlines()
    assert len(complaints) == 1
    assert str(bad) in complaints[0]
    assert accrue("class", "show", "bolt", "--json").json["shots"] == 2
    answered = accrue("predict", bad, photos["bolt"][0], "--json")
    assert answered.code == 1
    assert "error" in answered.json["predictions"][0]
    assert "label" in answered.json["predictions"][1]


def test_a_bundle_with_a_changed_byte_is_refused(
    accrue: Any, photos: Photos, tmp_path: Path, tiny_bundle: Path
) -> None:
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in (p for p in tiny_bundle.rglob("*") if p.is_file()):
        target = altered / file.relative_to(tiny_bundle)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    data = bytearray((altered / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (altered / "encoder.onnx").write_bytes(data)
    call = accrue("class", "teach", "bolt", photos["bolt"][0], "--bundle", altered)
    assert call.code == 1
    assert "encoder.onnx" in call.err


def test_another_encoder_is_a_conflict_that_names_both_spaces(
    accrue: Any, photos: Photos, other_bundle: Path
) -> None:
    teach_all(accrue, photos)
    call = accrue("class", "teach", "bolt", photos["bolt"][0], "--bundle", other_bundle)
    assert call.code == 5
    assert call.err.count("space") >= 2
    assert accrue("predict", photos["bolt"][0], "--bundle", other_bundle).code == 5


@pytest.mark.parametrize(
    "name",
    [
        "Schraube Ä6",
        "螺栓",
        "صمام",
        "🔩 M8",
        "a/b\\c",
        "-5 °C probe",
        "'; DROP TABLE class;--",
        "café",
    ],
)
def test_a_class_may_have_any_unicode_name(accrue: Any, photos: Photos, name: str) -> None:
    assert accrue("class", "teach", "--", name, photos["bolt"][0]).code == 0
    assert accrue("class", "list", "--json").json["classes"][0]["name"] == name
    assert accrue("class", "show", "--json", "--", name.upper()).code == 0


@pytest.mark.parametrize("name", ["x" * 10_000, "", "   ", "a\nb", "\ud800"])
def test_an_impossible_name_is_one_line_and_changes_nothing(
    accrue: Any, photos: Photos, name: str
) -> None:
    call = accrue("class", "teach", name, photos["bolt"][0])
    assert call.code == 2
    assert len(call.err.splitlines()) <= 2
    assert len(call.err) < 500
    assert accrue("class", "list", "--json").json["classes"] == []


def test_unknown_class_offers_the_nearest_name(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    call = accrue("class", "show", "gaer")
    assert call.code == 3
    assert "gear" in call.err


def test_errors_are_json_too_when_json_is_asked_for(accrue: Any) -> None:
    call = accrue("class", "show", "bolt", "--json")
    assert call.code == 3
    assert call.json["error"]["kind"] == "NotFound"


def test_a_state_folder_that_is_a_file(accrue: Any, photos: Photos, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    call = accrue("class", "teach", "bolt", photos["bolt"][0], "--state", tmp_path / "file")
    assert call.code == 1
    assert "is a file" in call.err


def test_a_damaged_database_is_kept_and_named(accrue: Any, photos: Photos, tmp_path: Path) -> None:
    teach_all(accrue, photos)
    database = tmp_path / "state" / "state.db"
    for other in database.parent.glob("state.db-*"):
        other.unlink()
    damaged = b"not a database any more" * 400
    database.write_bytes(damaged)
    call = accrue("class", "list")
    assert call.code == 1
    assert str(database) in call.err
    assert database.read_bytes() == damaged


def test_settings_tell_their_origin(
    accrue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accrue.yaml"
    file.write_text("reject: 0.1\nbudget: 50\nhead: ridge\n")
    monkeypatch.setenv("ACCRUE_BUDGET", "60")
    call = accrue("config", "show", "--origin", "--json", "--config", file, "--threads", "2")
    settings = call.json["settings"]
    assert settings["threads"] == {"value": 2, "origin": "flag --threads"}
    assert settings["budget"] == {"value": 60, "origin": "environment ACCRUE_BUDGET"}
    assert settings["reject"] == {"value": 0.1, "origin": f"file {file}"}
    assert settings["thumbnails"] == {"value": 0, "origin": "default"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("budgett: 5\n", "unknown key 'budgett'"),
        ("reject: 0.9\n", "expected a number between 0 and 0.5"),
        ("- a\n", "is a list; expected `key: value` lines"),
        ("a: [\n", "cannot read configuration"),
        ("budget: yes\n", "expected a whole number"),
    ],
)
def test_a_bad_configuration_names_file_key_and_expectation(
    accrue: Any, tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "accrue.yaml"
    file.write_text(text)
    call = accrue("class", "list", "--config", file)
    assert call.code == 2
    assert complaint in call.err
    assert str(file) in call.err


def test_bundle_verify_and_doctor_find_all_well(accrue: Any, photos: Photos) -> None:
    teach_all(accrue, photos)
    assert accrue("bundle", "verify").code == 0
    assert accrue("bundle", "show", "--json").json["dim"] == 64
    call = accrue("doctor", "--json")
    assert call.code == 0, call.out
    assert {check["status"] for check in call.json["checks"]} <= {"ok", "warn"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(accrue: Any, shell: str) -> None:
    call = accrue("completion", shell)
    assert call.code == 0
    assert "accrue" in call.out
    assert accrue("completion", "tcsh").code == 2


def test_global_flags_may_stand_anywhere_but_not_behind_two_dashes() -> None:
    words = ["class", "list", "--state", "a", "--bundle=b", "--", "--state", "c"]
    assert hoisted(words, GLOBAL_FLAGS) == [
        "--state",
        "a",
        "--bundle=b",
        "class",
        "list",
        "--",
        "--state",
        "c",
    ]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "17"), ({"OPENBLAS_THREAD_TIMEOUT": "28"}, "28")]
)
def test_threads_of_openblas_sleep_soon_unless_told_otherwise(
    given: dict[str, str], expected: str
) -> None:
    """It is read when numpy is imported, so it must be there before."""
    others = {k: v for k, v in os.environ.items() if k != "OPENBLAS_THREAD_TIMEOUT"}
    code = (
        "import os, sys\nfrom accrue.cli.main import main\n"
        "assert 'numpy' not in sys.modules\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**others, **given},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == expected


def test_help_loads_neither_numpy_nor_the_encoder() -> None:
    """What keeps `accrue --help` fast; the time itself is measured by tools/bench."""
    code = (
        "import sys\nfrom accrue.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnxruntime', 'PIL', 'yaml', 'sqlite3', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Teach a camera" in done.stdout


def test_output_into_a_closed_pipe_is_no_error(accrue: Any, photos: Photos, tmp_path: Path) -> None:
    teach_all(accrue, photos)
    done = subprocess.run(
        f"{sys.executable} -m accrue.cli.main class list --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_read_only_state_can_be_read_but_not_changed(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; run the tests as an ordinary user to see this one")
    teach_all(accrue, photos)
    state = tmp_path / "state"
    state.chmod(0o500)
    try:
        assert accrue("class", "list", "--json").code == 0
        call = accrue("class", "teach", "bolt", photos["bolt"][0])
        assert call.code == 1
        assert "read-only" in call.err or "cannot be written" in call.err
    finally:
        state.chmod(0o700)


def test_bundle_commands_heed_the_global_flag(accrue: Any, tmp_path: Path) -> None:
    for command in ("show", "verify"):
        call = accrue("bundle", command, "--bundle", tmp_path / "nowhere")
        assert call.code == 3
        assert "nowhere" in call.err


def test_evaluating_on_folders_that_match_no_class_says_so(accrue: Any, photos: Photos) -> None:
    accrue("class", "teach", "something else", *photos["bolt"])
    call = accrue("evaluate", photos["bolt"][0].parent.parent)
    assert call.code == 3
    assert "found bolt, gear, valve; taught are something else" in call.err


def test_json_and_jsonl_exclude_each_other(accrue: Any, photos: Photos) -> None:
    for words in (("predict",), ("class", "teach", "bolt")):
        assert accrue(*words, photos["bolt"][0], "--json", "--jsonl").code == 2


def test_a_limit_of_no_entries_is_refused(accrue: Any) -> None:
    assert accrue("history", "--limit", 0).code == 2


@pytest.mark.parametrize("flag", ["--state", "--bundle"])
def test_an_empty_path_is_refused(accrue: Any, flag: str) -> None:
    call = accrue("class", "list", flag, "")
    assert call.code == 2
    assert "expected a path" in call.err


def test_folding_is_not_offered_for_undo(accrue: Any, photos: Photos) -> None:
    accrue("class", "teach", "bolt", *photos["bolt"])
    call = accrue("class", "retention", "bolt", "--retain", "statistics", "--yes")
    assert call.code == 0
    assert "cannot be undone" in call.out
    assert "take it back" not in call.out
    assert accrue("class", "retention", "bolt").code == 2


def test_a_disabled_class_is_listed_as_such_and_teaching_it_says_so(
    accrue: Any, photos: Photos
) -> None:
    for name in ("bolt", "gear"):
        accrue("class", "teach", name, *photos[name])
    assert "answered" not in accrue("class", "list").out
    call = accrue("class", "disable", "BOLT")
    assert call.out.startswith('disabled "bolt" (entry 3; take it back')
    assert [line.split()[3] for line in accrue("class", "list").out.splitlines()] == [
        *("answered", "disabled", "yes"),
    ]
    listed = accrue("class", "list", "--json").json
    assert [one["disabled"] for one in listed["classes"]] == [True, False]
    assert 'accrue class enable "bolt"' in accrue("class", "show", "bolt").out
    labels = {
        one["label"] for one in accrue("predict", *photos["bolt"], "--json").json["predictions"]
    }
    assert "bolt" not in labels
    told = accrue("class", "teach", "bolt", photos["valve"][0])
    assert "bolt is disabled: learned, not answered" in told.err
    assert accrue("class", "disable", "bolt").code == 5
    assert accrue("class", "enable", "bolt", "--json").json["entry"]["verb"] == "enable"
    assert "answered" not in accrue("class", "list").out


def test_two_processes_of_one_command_line_agree_with_a_third(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    """Two writers at once lose nothing: the journal and the digest hold both."""
    state = tmp_path / "state"
    base = [sys.executable, "-m", "accrue.cli.main"]
    accrue("class", "teach", "start", photos["valve"][0])
    writers = [
        subprocess.Popen(
            [*base, "class", "teach", name, *map(str, photos[name]), "--state", str(state)],
            stdout=subprocess.PIPE,
        )
        for name in ("bolt", "gear")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    listed = accrue("class", "list", "--json").json["classes"]
    assert {c["name"]: c["shots"] for c in listed} == {"start": 1, "bolt": 6, "gear": 6}


def test_restore_helps_where_the_database_is_damaged(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    teach_all(accrue, photos)
    digest = accrue("class", "list", "--json").json["digest"]
    accrue("backup", tmp_path / "b")
    database = tmp_path / "state" / "state.db"
    for other in database.parent.glob("state.db-*"):
        other.unlink()
    database.write_bytes(b"no database" * 1000)
    refused = accrue("restore", tmp_path / "b")
    assert refused.code == 5
    assert "cannot be read" in refused.err
    assert accrue("restore", tmp_path / "b", "--yes").code == 0
    assert accrue("class", "list", "--json").json["digest"] == digest


def test_a_backup_onto_the_state_itself_is_refused(
    accrue: Any, photos: Photos, tmp_path: Path
) -> None:
    teach_all(accrue, photos)
    digest = accrue("class", "list", "--json").json["digest"]
    call = accrue("backup", tmp_path / "state" / "state.db")
    assert call.code == 5
    assert "is the state itself" in call.err
    assert accrue("class", "list", "--json").json["digest"] == digest


def test_evaluate_refuses_a_state_of_another_encoder(
    accrue: Any, photos: Photos, other_bundle: Path
) -> None:
    teach_all(accrue, photos)
    call = accrue("evaluate", photos["bolt"][0].parent.parent, "--bundle", other_bundle)
    assert call.code == 5


def test_a_budget_leaves_retain_as_it_was(accrue: Any, photos: Photos) -> None:
    accrue("class", "teach", "bolt", *photos["bolt"])
    accrue("class", "retention", "bolt", "--retain", "statistics", "--yes")
    accrue("class", "retention", "bolt", "--budget", "5", "--yes")
    shown = accrue("class", "show", "bolt", "--json").json
    assert (shown["retain"], shown["budget"]) == ("statistics", 5)


def test_a_failed_first_teach_does_not_bind_the_state_to_an_encoder(
    accrue: Any, photos: Photos, tmp_path: Path, other_bundle: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    assert accrue("class", "teach", "bolt", tmp_path / "text.jpg").code == 1
    call = accrue("class", "teach", "bolt", photos["bolt"][0], "--bundle", other_bundle)
    assert call.code == 0


def test_completion_completes(accrue: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accrue.cli.main"],
        env={
            **os.environ,
            "_ACCRUE_COMPLETE": "complete_bash",
            "COMP_WORDS": "accrue cl",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "class" in done.stdout, done.stderr


def test_doctor_writes_a_file_for_support_and_overwrites_none(accrue: Any, tmp_path: Path) -> None:
    file = tmp_path / "device.zip"
    call = accrue("doctor", "--support", file, "--json")
    assert (call.code, call.json["support"]) == (0, str(file))
    assert {"found", "expected"} <= set(call.json["checks"][0])
    before = file.read_bytes()
    call = accrue("doctor", "--support", file)
    assert call.code == 5
    assert call.err.startswith(f"accrue: {file} is there already\n")
    assert file.read_bytes() == before
    call = accrue("doctor")
    assert call.out.splitlines()[-1].endswith("0 at fault")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["class", "show", "--json"], "Missing argument 'NAME'."),
        (["class", "sho", "--json"], "No such command 'sho'."),
        (["history", "--limit", "x", "--json"], "Invalid value for"),
        (["predict", "--jsonl", "--nonsense"], "No such option: --nonsense"),
    ],
)
def test_words_that_do_not_parse_are_json_where_json_was_asked_for(
    accrue: Any, words: list[str], says: str
) -> None:
    call = accrue(*words)
    assert call.code == 2
    assert says in call.err
    error = call.json["error"]
    assert (error["kind"], error["hint"]) == ("UsageError", "see `accrue --help`")
    assert says in error["message"]
