"""`accrue-export` without torch: import, verify, compare, and what goes wrong with them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason='onnx is missing: pip install "accrue[export]"')

import onnx
from onnx import TensorProto, helper, numpy_helper

from accrue.bundle import Bundle, default_bundle_path
from accrue.errors import BundleError, UsageError
from accrue.learn import Prototype, State, quantise
from accrue.vision.decode import decode
from accrue.vision.encode import OnnxEncoder
from accrue.vision.sources import labelled_images
from accrue_export import write
from accrue_export.catalogue import known, require_acceptance, require_licence
from accrue_export.cli import main
from accrue_export.parity import parity

PX = 32  # of the fixture tiny_onnx
HALF = "0.5,0.5,0.5"
FLAGS = ["--size", PX, "--interpolation", "bicubic", "--mean", HALF, "--std", HALF]
FREE = ["--licence", "Apache-2.0"]


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message: its line and its hint, without the lines of progress."""
    said = capsys.readouterr().err.splitlines()
    lines = [text for text in said if "accrue" in text or "  " in text]
    assert 1 <= len(lines) <= 2, lines
    assert lines[0].startswith("accrue-export: ")
    return "\n".join(lines)


@pytest.fixture
def tiny_file(tmp_path: Path, tiny_onnx: onnx.ModelProto) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_onnx.SerializeToString())
    return path


def one_op(
    *nodes: onnx.NodeProto,
    shape: tuple[object, ...] = ("b", 3, PX, PX),
    output: tuple[object, ...] = ("b", 3),
    more: tuple[onnx.ValueInfoProto, ...] = (),
    constants: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    f = TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", f, shape), *more],
        [helper.make_tensor_value_info("y", f, output)],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# ---- import --------------------------------------------------------------------------------------


def test_an_imported_file_becomes_a_whole_bundle_with_float16_and_a_report(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its preprocessing as said; the licence's text inside; the report names parity, not a date."""
    out = tmp_path / "b"
    words = ["import", tiny_file, *FLAGS, *FREE, "--resize", 36, "--source", "the tests", "-o", out]
    assert call(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    bundle = Bundle.open(out)
    bundle.verify()
    manifest = bundle.manifest
    assert said["space_id"] == manifest.space_id
    assert (manifest.preprocess.resize, manifest.size, manifest.name) == (36, PX, "tiny")
    assert manifest.precisions["fp16"].min_cosine >= 0.999
    assert "Apache License" in bundle.read("LICENSE.txt").decode()
    report = bundle.read("REPORT.md").decode()
    assert manifest.space_id in report
    assert "| encoder.fp16.onnx | encoder.onnx | 0.99" in report or "| 1.000000 |" in report
    assert "the tests" in report
    assert str(time.localtime().tm_year) not in report


@pytest.mark.parametrize("name", ["b.accrue", "b.zip", "b"])
def test_the_same_call_gives_the_same_bytes(tiny_file: Path, tmp_path: Path, name: str) -> None:
    """Of every file, with the report; a name with .zip or .accrue makes one file."""
    contents = []
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        out = tmp_path / folder / name
        assert call("import", tiny_file, *FLAGS, *FREE, "-o", out) == 0
        assert out.is_file() == (name != "b")
        files = [out] if out.is_file() else sorted(p for p in out.rglob("*") if p.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_weights_that_lie_beside_the_file_are_taken_in(
    tiny_onnx: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where they are missing, they are named."""
    copied = onnx.ModelProto()
    copied.CopyFrom(tiny_onnx)
    options: Any = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(copied, tmp_path / "m.onnx", **options)
    words = ["import", tmp_path / "m.onnx", *FLAGS, *FREE, "-o"]
    assert call(*words, tmp_path / "b") == 0
    (tmp_path / "w.bin").unlink()
    capsys.readouterr()
    assert call(*words, tmp_path / "c") == 1
    text = error(capsys)
    assert "m.onnx lie in w.bin, which is not beside it" in text
    assert f"put w.bin into {tmp_path}" in text
    assert not (tmp_path / "c").exists()


def pooled(**shape: Any) -> onnx.ModelProto:
    nodes = (
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    )
    return one_op(*nodes, **shape)


def with_second_input() -> onnx.ModelProto:
    more = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["b", 3])
    nodes = (
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Mul", ["f", "mask"], ["y"]),
    )
    return one_op(*nodes, more=(more,))


def of_length_zero() -> onnx.ModelProto:
    empty = numpy_helper.from_array(np.zeros((3 * PX * PX, 0), np.float32), "w")
    nodes = (
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    )
    return one_op(*nodes, output=("b", 0), constants=(empty,))


def all_zero() -> onnx.ModelProto:
    nothing = numpy_helper.from_array(np.zeros((3 * PX * PX, 4), np.float32), "w")
    nodes = (
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    )
    return one_op(*nodes, output=("b", 4), constants=(nothing,))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (
            with_second_input,
            "its inputs are x, mask; expected one float32 input (batch, 3, ",
        ),
        (
            lambda: pooled(shape=("b", PX, PX, 3), output=("b", PX)),
            "its input is x: float (?, 32, 32, 3), channels last; expected one float32 input",
        ),
        (
            lambda: one_op(
                helper.make_node("Relu", ["x"], ["y"]),
                shape=("b", 3, "h", "w"),
                output=("b", 3, "h", "w"),
            ),
            "its output is y: float (?, 3, ?, ?); expected one float32 output (batch, dim)",
        ),
        (of_length_zero, "its output is y: float (?, 0); expected one float32 output"),
        (all_zero, "it gave an embedding of length"),
    ],
)
def test_a_model_that_is_no_encoder_is_refused_in_a_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], onnx.ModelProto],
    found: str,
) -> None:
    """What was found and what is expected; nothing is written."""
    path = tmp_path / "odd.onnx"
    path.write_bytes(make().SerializeToString())
    assert call("import", path, *FLAGS, *FREE, "-o", tmp_path / "b") == 1
    assert found in error(capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.onnx"]


def test_an_open_input_size_is_taken_where_one_vector_comes_out(tmp_path: Path) -> None:
    """The bundle fixes the size."""
    path = tmp_path / "open.onnx"
    path.write_bytes(pooled(shape=("b", 3, "h", "w")).SerializeToString())
    assert call("import", path, *FLAGS, *FREE, "--no-fp16", "-o", tmp_path / "b") == 0
    assert Bundle.open(tmp_path / "b").manifest.dim == 3


@pytest.mark.parametrize(
    ("words", "code", "found"),
    [
        (["import", "none.onnx", *FLAGS, *FREE], 3, "no ONNX file none.onnx"),
        (["import", "text.onnx", *FLAGS, *FREE], 1, "text.onnx is no ONNX model"),
        (
            ["import", "tiny.onnx", *FLAGS[:-1], "0.5,0.5", *FREE],
            2,
            "--std '0.5,0.5'; expected ",
        ),
        (
            ["import", "tiny.onnx", *FLAGS, *FREE, "--resize", "8"],
            2,
            "--size 32 --resize 8; ",
        ),
        (["import", "tiny.onnx", *FLAGS, "--licence", "mine"], 2, "add: --accept-licence mine"),
        (["import", "tiny.onnx", *FLAGS, *FREE, "-o", "none/b"], 3, "no folder none to write into"),
        (["import", "tiny.onnx", *FLAGS, *FREE, "-o", "tiny.onnx"], 5, "tiny.onnx exists already"),
        (["import", "tiny.onnx", *FLAGS, *FREE, "--licence-file", "no"], 3, "cannot read no: "),
        (["build", "ViT-B-16", "--weights", "no", "-o", "b"], 3, "no weights file no"),
        (["build", "ViT-B-16", "--random", 1, "--pretrained", "x", "-o", "b"], 2, "--random makes"),
        (["verify", "none"], 3, "no bundle at none"),
        (["verify", "none", "--train", "a"], 2, "expected --data DIR, or --train DIR with --test"),
        (["compare", "one", "--train", "a", "--test", "b"], 2, "one bundle; expected two or more"),
        (
            ["compare", default_bundle_path(), "no", "--train", ".", "--test", "."],
            3,
            "no bundle at no",
        ),
    ],
)
def test_wrong_words_give_one_line_and_their_exit_code(
    tmp_path: Path,
    tiny_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    code: int,
    found: str,
) -> None:
    """What was found, what was expected, what to type; and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("not a model at all")
    if words[0] == "import" and "-o" not in words:
        words = [*words, "-o", "b"]
    assert call(*words) == code
    assert found in error(capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.onnx", "tiny.onnx"]


def test_an_accepted_restricted_licence_is_written_into_the_bundle(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the text that was given, so that `accrue doctor` can warn on the device."""
    terms = tmp_path / "terms.txt"
    terms.write_text("research only")
    out = tmp_path / "b"
    words = ["import", tiny_file, *FLAGS, "--licence", "terms-7", "--licence-file", terms]
    assert call(*words, "--accept-licence", "terms-7", "-o", out) == 0
    assert "licence: terms-7, which restricts its use" in capsys.readouterr().out
    bundle = Bundle.open(out)
    assert (bundle.manifest.licence_name, bundle.manifest.licence_restricted) == ("terms-7", True)
    assert bundle.read("LICENSE.txt") == b"research only"


def test_what_is_not_known_to_be_free_needs_a_word() -> None:
    """No licence found is asked for; a restricting one wants its own name, not another's."""
    with pytest.raises(UsageError, match=r"licence of the weights of m is not known here; say it"):
        require_licence("", "m")
    assert require_licence("apache-2.0", "m") == "Apache-2.0"
    require_acceptance("MIT", "", "m")
    require_acceptance("apple-amlr", "apple-amlr", "m")
    with pytest.raises(UsageError, match=r"--accept-licence apple-amlr"):
        require_acceptance("apple-amlr", "MIT", "m")


def test_models_lists_size_dimension_input_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    """Restricted ones marked; the same rows as JSON."""
    assert call("models") == 0
    shown = capsys.readouterr().out
    assert call("models", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert len(rows) == len(known())
    for row in rows:
        assert row["name"] in shown
        assert row["restricted"] == (row["licence"] not in ("MIT", "Apache-2.0", "BSD-3-Clause"))
    assert any(row["restricted"] for row in rows)
    assert "apple-amlr !" in shown


# ---- a full disk, an interrupted build -----------------------------------------------------------


def test_a_full_disk_in_mid_write_leaves_nothing(
    tiny_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each file that is written, in turn, as a folder and as one file."""
    real = Path.write_bytes
    count = 0
    fail_at = 0

    def write_bytes(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count == fail_at:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    words = ["import", tiny_file, *FLAGS, *FREE, "--no-fp16", "-o"]
    assert call(*words, tmp_path / "whole") == 0
    writes, total = count, 0
    for fail_at in range(1, writes + 1, 4):  # noqa: B007  write_bytes reads it
        for name in ("b", "b.zip"):
            count = 0
            capsys.readouterr()
            assert call(*words, tmp_path / name) == 1
            assert error(capsys) == (
                f"accrue-export: cannot write {tmp_path / name}: No space left on device"
            )
            total += 1
    assert total >= 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.onnx", "whole"]


PAUSED = """
import signal, sys, time
from accrue_export import write
from accrue_export.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
def wait(folder):
    print("writing", flush=True)
    time.sleep(60)
write._fsync_tree = wait
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("number", "code", "left"), [(signal.SIGINT, 130, 0), (signal.SIGKILL, -9, 1)]
)
def test_an_interrupted_build_leaves_no_bundle_and_the_next_one_clears_up(
    tiny_file: Path, tmp_path: Path, number: signal.Signals, code: int, left: int
) -> None:
    """Ctrl-C clears up itself; what a kill leaves is hidden, and gone after the next build."""
    folder = tmp_path / "out"
    folder.mkdir()
    words = [str(w) for w in ("import", tiny_file, *FLAGS, *FREE, "--no-fp16", "-o", folder / "b")]
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    # A writer at work is not in the way of another, nor is its folder taken for abandoned.
    assert len(list(folder.iterdir())) == 1
    write._remove_abandoned(folder, ".b.part-")
    assert len(list(folder.iterdir())) == 1
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    names = [path.name for path in folder.iterdir()]
    assert len(names) == left
    assert all(name.startswith(".b.part-") for name in names)
    assert call(*words) == 0
    assert [path.name for path in folder.iterdir()] == ["b"]
    Bundle.open(folder / "b").verify()


# ---- verify and compare --------------------------------------------------------------------------


@pytest.fixture
def bundle(tiny_file: Path, tmp_path: Path) -> Path:
    assert call("import", tiny_file, *FLAGS, *FREE, "-o", tmp_path / "tiny") == 0
    return tmp_path / "tiny"


def test_verify_measures_each_realisation(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cosines, nearest class and margin, for people and as JSON."""
    capsys.readouterr()
    assert call("verify", bundle, "--json") == 0
    found = json.loads(capsys.readouterr().out)["golden"]
    assert list(found) == ["encoder.onnx", "encoder.fp16.onnx"]
    for one in found.values():
        assert 0.999 <= one["min_cosine"] <= one["median_cosine"] <= 1
        assert one["same_nearest"] == 1
        assert abs(one["margin_change"]) < 0.01
    assert call("verify", bundle) == 0
    assert "encoder.fp16.onnx" in capsys.readouterr().out


def test_a_realisation_below_the_bound_is_refused_with_exit_6(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file swapped for another, with hashes that fit, so that only parity can tell."""
    import hashlib

    altered = onnx.load(bundle / "encoder.fp16.onnx")
    for tensor in altered.graph.initializer:
        if tensor.name.startswith("net/w3"):
            values = numpy_helper.to_array(tensor)[::-1].copy()
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    content = altered.SerializeToString()
    (bundle / "encoder.fp16.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["files"]["encoder.fp16.onnx"] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert call("verify", bundle) == 6
    assert "encoder.fp16.onnx of bundle" in error(capsys)


def test_accuracy_is_that_of_the_heads_on_the_same_rows(
    bundle: Path,
    photo_classes: Callable[..., dict[str, list[Path]]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """At 16 shots every photo is taught, so a batch by hand gives the same share."""
    photo_classes("train", classes=4, each=6)
    photo_classes("test", classes=4, each=5, first=10)
    (tmp_path / "test" / "kind-0" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    capsys.readouterr()
    words = ["verify", bundle, "--train", tmp_path / "train", "--test", tmp_path / "test", "--json"]
    assert call(*words) == 0
    found = json.loads(capsys.readouterr().out)
    encoder = OnnxEncoder(Bundle.open(bundle))
    state = State(found["space_id"], found["dim"])
    for name, paths in labelled_images(tmp_path / "train").items():
        state.add(name, quantise(encoder.encode([decode(path) for path in paths])))
    served = Prototype().solve(state)
    right = []
    for name, paths in labelled_images(tmp_path / "test").items():
        whole = [path for path in paths if path.name != "torn.jpg"]
        scores = served.scores(encoder.encode([decode(path) for path in whole]))
        right += [served.ids[i] == name for i in scores.argmax(axis=1)]
    assert found["accuracy"]["16"]["prototype"] == pytest.approx(np.mean(right))
    assert (found["classes"], found["train"], found["test"]) == (4, 24, 20)
    assert len(found["refused"]) == 1
    split = found["split"]["prototype"]
    assert split["base_before"] >= split["base"]
    assert split["harmonic_mean"] == pytest.approx(
        2 * split["base"] * split["new"] / (split["base"] + split["new"])
    )
    assert (split["base"] + split["new"]) / 2 == pytest.approx(np.mean(right))
    assert found["photos"]["encoder.fp16.onnx"]["min_cosine"] > 0.999
    assert found["latency_ms"] > 0


def test_one_folder_is_halved(
    bundle: Path,
    photo_classes: Callable[..., dict[str, list[Path]]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """By the order of names; no photo is both taught and asked."""
    photo_classes("data", classes=3, each=5)
    capsys.readouterr()
    assert call("verify", bundle, "--data", tmp_path / "data", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train"], found["test"]) == (6, 9)


BUILD = ("build", "resnet18", "--random", "1", "-o", "never-written")


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    """The command itself loads without onnx."""
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError('no onnx', name='onnx')")
    places = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "from accrue_export.cli import main; main()", *BUILD],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": places},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "accrue-export: onnx is not installed here",
        '  pip install "accrue[export]"',
    ]


def test_compare_puts_encoders_side_by_side(
    bundle: Path,
    photo_classes: Callable[..., dict[str, list[Path]]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A row for each encoder and head; the plot of the same figures has the same bytes."""
    pytest.importorskip("matplotlib", reason='matplotlib is missing: pip install "accrue[export]"')
    photo_classes("train", classes=3, each=3)
    photo_classes("test", classes=3, each=2, first=10)
    words = ["compare", bundle, default_bundle_path(), "--train", tmp_path / "train"]
    words += ["--test", tmp_path / "test", "--plot", tmp_path / "p.svg"]
    capsys.readouterr()
    assert call(*words) == 0
    shown = capsys.readouterr().out
    for head in ("prototype", "ridge", "gaussian"):
        assert len([row for row in shown.splitlines() if head in row]) == 2
    picture = (tmp_path / "p.svg").read_text()
    assert picture.startswith("<?xml")
    assert "<dc:date>" not in picture
    assert call(*words[:-1], tmp_path / "p.txt") == 2
    assert "expected .svg, .png, .pdf" in capsys.readouterr().err


def test_parity_refuses_what_is_no_number() -> None:
    """NaN is below every bound, and rounding does not make it 1."""
    rows = np.eye(3, 4, dtype=np.float32)
    broken = rows.copy()
    broken[1, 1] = np.nan
    assert parity(rows, rows).accepted
    found = parity(broken, rows)
    assert np.isnan(found.min_cosine)
    assert not found.accepted


def test_margin_and_nearest_class_are_those_of_the_definition() -> None:
    """Two classes at right angles: turning one row by 60 degrees changes its nearest class."""
    reference = np.array([[1, 0], [0, 1]], np.float32)
    turned = np.array([[0.5, 3**0.5 / 2], [0, 1]], np.float32)
    found = parity(turned, reference)
    assert found.min_cosine == pytest.approx(0.5)
    assert found.same_nearest == 0.5
    margins = [(3**0.5 / 2 - 0.5) - 1, 0.0]
    assert found.margin_change == pytest.approx(np.median(margins), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([], "a list as 'precisions'; expected an object"),
        (
            {"fp16": {"file": "none"}},
            "'none' as 'precisions.fp16.file'; expected the name",
        ),
        (
            {"fp16": {"file": "encoder.onnx", "min_cosine": 2}},
            "2 as 'precisions.fp16.min_cosine'; expected a number from -1 to 1",
        ),
    ],
)
def test_a_manifest_with_odd_precisions_is_refused(bundle: Path, value: object, found: str) -> None:
    """And one without the key is whole: format 1 as it always was."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    document["precisions"] = value
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=found):
        Bundle.open(bundle)
    del document["precisions"]
    path.write_text(json.dumps(document))
    assert Bundle.open(bundle).manifest.precisions == {}
