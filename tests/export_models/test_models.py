"""Real architectures with random weights: torch -> ONNX -> ONNX Runtime -> float16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_cases import SEED, prepared_images, torch_features

from accrue.bundle import Bundle
from accrue.errors import AccrueError, BundleError, NotFound
from accrue.vision.text import TextEncoder
from accrue_export import models
from accrue_export.catalogue import known, open_clip_licence
from accrue_export.cli import main
from accrue_export.parity import parity, run_onnx

ARCHITECTURES = ["MobileCLIP2-S0", "MobileCLIP-S1", "ViT-B-16", "mobilenetv4_conv_small"]
SMALL = "mobilenetv4_conv_small"  # the quickest; for what does not depend on the architecture
pytestmark = pytest.mark.timeout(900)  # a ViT-B/16 takes minutes on two busy cores
TINY_VIT = "test_vit"  # of timm, for its own tests: 0.4 million parameters


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message: its line and its hint, without the lines of progress."""
    lines = [text for text in capsys.readouterr().err.splitlines() if not text.endswith(" ...")]
    assert len(lines) <= 2, lines
    return "\n".join(lines)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_onnx_computes_what_torch_does_and_float16_comes_near(
    built_bundle: Callable[[str], Path], model: str
) -> None:
    """Cosine at least 0.99999 to torch in float32, and 0.999 to that in float16; one image and a
    batch; half the size."""
    path = built_bundle(model)
    bundle = Bundle.open(path)
    bundle.verify()
    prepared = prepared_images(bundle)
    whole = run_onnx(bundle.read("encoder.onnx"), prepared)
    assert parity(whole, torch_features(path)).min_cosine >= 0.99999
    half = run_onnx(bundle.read("encoder.fp16.onnx"), prepared[:2])
    assert parity(half, whole[:2]).min_cosine >= 0.999
    sizes = {name: entry.bytes for name, entry in bundle.manifest.files.items()}
    assert sizes["encoder.fp16.onnx"] < 0.52 * sizes["encoder.onnx"] + 100_000


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_normalisations_of_the_float16_graph_compute_in_float32(
    built_bundle: Callable[[str], Path], model: str
) -> None:
    """LayerNorm, softmax, reductions and the final L2 norm; and it is not float32 all over."""
    graph = onnx.load_from_string(Bundle.open(built_bundle(model)).read("encoder.fp16.onnx"))
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    found: dict[str, set[int]] = {}
    for node in graph.graph.node:
        found.setdefault(node.op_type, set()).add(kinds[node.output[0]])
    for op in ("LayerNormalization", "Softmax", "ReduceMean", "Erf", "LpNormalization"):
        assert found.get(op, {onnx.TensorProto.FLOAT}) == {onnx.TensorProto.FLOAT}
    work = found.get("MatMul", set()) | found.get("Conv", set())
    assert onnx.TensorProto.FLOAT16 in work
    assert onnx.TensorProto.FLOAT16 not in found["LpNormalization"]


def test_the_graph_holds_one_branch_where_training_had_several(
    built_bundle: Callable[[str], Path],
) -> None:
    """MobileCLIP's blocks are reparameterised: no weight of a training branch is left."""
    graph = onnx.load_from_string(Bundle.open(built_bundle("MobileCLIP2-S0")).read("encoder.onnx"))
    names = [tensor.name for tensor in graph.graph.initializer]
    assert any("reparam_conv" in name for name in names)
    assert not any("conv_kxk" in name or "conv_scale" in name for name in names)


def test_preprocessing_is_that_of_the_weights(built_bundle: Callable[[str], Path]) -> None:
    """MobileCLIP has mean 0 and std 1, bilinear; the library's default for a file would be
    OpenAI's. timm's crop fraction becomes the resized short side."""
    clip = Bundle.open(built_bundle("MobileCLIP2-S0")).manifest.preprocess
    assert (clip.mean, clip.std, clip.interpolation) == ((0, 0, 0), (1, 1, 1), "bilinear")
    assert (clip.resize, clip.crop) == (256, 256)
    timm = Bundle.open(built_bundle(SMALL)).manifest.preprocess
    assert timm.resize > timm.crop
    assert timm.mean == (0.485, 0.456, 0.406)


def test_another_process_on_another_day_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    """Whatever the order of Python's sets; of every file of the bundle, packed as one."""
    here, there = tmp_path / "here.accrue", tmp_path / "there.accrue"
    words = ["build", TINY_VIT, "--random", "0", "--json", "-o"]
    assert call(*words, here) == 0
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "accrue_export.cli", *words, str(there)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["space_id"] == Bundle.open(here).manifest.space_id
    assert here.read_bytes() == there.read_bytes()


def test_a_clip_brings_its_text_tower_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vectors for the vocabulary, here of two entries; its tokenizer needs no hub."""
    monkeypatch.setattr("accrue_export.text.vocabulary", lambda: [("hex bolt",), ("gear", "cog")])
    out = tmp_path / "b"
    assert call("build", "MobileCLIP2-S0", "--random", "0", "--no-fp16", "-o", out) == 0
    bundle = Bundle.open(out)
    bundle.verify()
    encoder = TextEncoder(bundle)
    assert encoder.known("cog") == ("gear", "cog")
    vectors = encoder.embed(["hex bolt", "gear"])
    assert vectors.shape == (2, bundle.manifest.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


# ---- weights files -------------------------------------------------------------------------------


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    import timm

    torch.manual_seed(5)
    path = tmp_path / "tiny.pt"
    torch.save(timm.create_model(TINY_VIT, num_classes=1000).state_dict(), path)
    return path


def test_a_local_file_gives_the_embeddings_of_its_weights(tiny_weights: Path) -> None:
    """Torch or safetensors, classifier cut off; the same as timm's own model with them."""
    import timm
    from safetensors.torch import save_file

    state = torch.load(tiny_weights, weights_only=True)
    safe = tiny_weights.with_suffix(".safetensors")
    save_file(state, safe)
    peer = timm.create_model(TINY_VIT, num_classes=1000).eval()
    peer.load_state_dict(state)
    peer.reset_classifier(0)
    planes = torch.rand(2, 3, 160, 160)
    for file in (tiny_weights, safe):
        tower = models.load(models.Request(TINY_VIT, tag="r160_in1k", weights=file))
        with torch.no_grad():
            assert torch.allclose(tower.module(planes), peer(planes), atol=1e-5)
        assert tower.licence == "Apache-2.0"
        assert file.name in tower.source


def test_a_weights_file_of_another_model_is_refused_in_a_line(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For timm and open_clip; and no bundle is left."""
    out = tmp_path / "b"
    for words in ((SMALL, "--pretrained", "e2400_r224_in1k"), ("MobileCLIP2-S0",)):
        accept = ["--accept-licence", "apple-amlr"]
        assert call("build", *words, *accept, "--weights", tiny_weights, "-o", out) == 1
        assert f"{tiny_weights} does not hold the weights of" in line(capsys)
    assert not out.exists()


class _Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("sprung"),)


def test_a_weights_file_cannot_run_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle with more than tensors is refused before it is carried out."""
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Trap()}, tmp_path / "trap.pt")
    words = ["build", TINY_VIT, "--pretrained", "r160_in1k", "--weights", "trap.pt", "-o", "b"]
    assert call(*words) == 1
    assert "trap.pt holds no weights" in line(capsys)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_unsaid_descent_are_asked_for_their_preprocessing(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ViT-B-16 was trained with two activation functions; a file does not say with which."""
    assert call("build", "ViT-B-16", "--weights", tiny_weights, "-o", tmp_path / "b") == 2
    text = line(capsys)
    assert "a file does not say which it has" in text
    assert "--pretrained (openai, " in text


# ---- names, network, licences --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"), [("MobileCLIP2-SO", "MobileCLIP2-S0"), ("mobilenetv4_conv_smal", SMALL)]
)
def test_an_unknown_model_offers_the_nearest_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, near: str
) -> None:
    """Of both libraries."""
    assert call("build", name, "-o", tmp_path / "b") == 2
    text = line(capsys)
    assert f"neither open_clip nor timm has a model '{name}'" in text
    assert near in text


def test_an_unknown_tag_and_a_missing_one_offer_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are never chosen in silence."""
    assert call("build", "ViT-B-16", "--pretrained", "openia", "-o", tmp_path / "b") == 2
    assert "ViT-B-16 has no pretrained weights 'openia'\n  near it: openai" in line(capsys)
    assert call("build", "ViT-B-16", "-o", tmp_path / "b") == 2
    assert "ViT-B-16: which weights?\n  add --pretrained TAG (openai" in line(capsys)


def test_the_hub_away_and_the_hub_breaking_off(tmp_path: Path) -> None:
    """Without a network: what was sought and how to bring it, in a line and a hint, exit 3, nothing
    written. A download that broke off goes on where it was, and gives a bundle."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(6)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model(TINY_VIT, num_classes=1000).state_dict(), weights)
    child = Path(__file__).with_name("hub_child.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(child), str(weights), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *without, last, asked = [json.loads(text) for text in done.stdout.splitlines()]
    sought = [
        "model.safetensors of timm/test_vit.r160_in1k",
        "open_clip_config.json of nobody/nothing",
        "open_clip_model.safetensors of laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    ]
    for one, what in zip(without, sought, strict=True):
        lines = [text for text in one["said"].splitlines() if not text.endswith(" ...")]
        assert one["code"] == 3, one
        assert len(lines) == 2, one
        assert lines[0].startswith(f"accrue-export: cannot fetch {what} from the hub: ")
        assert "--weights FILE" in lines[1]
    assert last["code"] == 0, last
    bundle = Bundle.open(tmp_path / "bundle")
    assert "timm/test_vit.r160_in1k on the Hugging Face hub" in bundle.manifest.source
    assert bundle.manifest.licence_name == "Apache-2.0"
    assert asked[0] == ""
    assert any(wanted.startswith("bytes=") and wanted != "bytes=0-" for wanted in asked[1:])


def test_restricted_weights_name_what_to_type_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Apple's weights are for research only."""
    words = ["build", "MobileCLIP2-S0", "--pretrained", "dfndr2b", "-o", tmp_path / "b"]
    assert call(*words) == 2
    text = line(capsys)
    assert "under apple-amlr, which may limit" in text
    assert "--accept-licence apple-amlr" in text


def test_nothing_but_our_errors_leaves_the_loading(tmp_path: Path) -> None:
    """Of files that are empty, text, or not there."""
    empty, words = tmp_path / "empty.pt", tmp_path / "words.safetensors"
    empty.write_bytes(b"")
    words.write_text("not weights")
    for file, kind in ((empty, BundleError), (words, BundleError), (tmp_path / "no", NotFound)):
        for model, tag in ((TINY_VIT, "r160_in1k"), ("MobileCLIP2-S0", "dfndr2b")):
            with pytest.raises(AccrueError) as raised:
                models.load(models.Request(model, tag=tag, weights=file))
            assert type(raised.value) is kind
            assert "\n" not in str(raised.value)


# ---- the catalogue -------------------------------------------------------------------------------


def test_each_row_of_the_catalogue_is_in_its_library_with_that_size_and_licence() -> None:
    """Names, tags, input and licence; the rest was counted at export."""
    import open_clip
    import timm

    rows = known()
    assert len(rows) >= 10
    for row in rows:
        if row.library == "open_clip":
            assert row.tag in open_clip.list_pretrained_tags_by_model(row.name)
            config = open_clip.get_model_config(row.name)
            assert (config["embed_dim"], config["vision_cfg"]["image_size"]) == (row.dim, row.size)
            assert open_clip_licence(row.name, row.tag) == row.licence
        else:
            config = timm.get_pretrained_cfg(f"{row.name}.{row.tag}")
            assert config.input_size[1] == row.size
            assert str(config.license).lower() == row.licence.lower()


def test_the_seed_is_the_only_chance(built_bundle: Callable[[str], Path]) -> None:
    """`--random 0` twice is the same space, as every test here relies on."""
    tower = models.load(models.Request(SMALL, seed=SEED))
    prepared = prepared_images(Bundle.open(built_bundle(SMALL)))[:1]
    first = torch_features(built_bundle(SMALL))[:1]
    np.testing.assert_allclose(models.features(tower, prepared), first, rtol=1e-4, atol=1e-5)
