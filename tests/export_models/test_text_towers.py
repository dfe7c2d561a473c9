"""The text towers of real architectures with random weights, and CLIP's tokenizer id by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='torch is missing: pip install "accrue[export]"')
open_clip = pytest.importorskip(
    "open_clip", reason='open_clip is missing: pip install "accrue[export]"'
)
import ftfy  # noqa: E402  (comes with open_clip)
import torch  # noqa: E402

from accrue.bundle import Preprocess  # noqa: E402
from accrue.errors import BundleError, NotFound, UsageError  # noqa: E402
from accrue.service.box import Box  # noqa: E402
from accrue.service.settings import Settings  # noqa: E402
from accrue.vision.text import TextPart, TextTokenizer, TextTower  # noqa: E402
from accrue_export import golden_images, models, write_bundle  # noqa: E402
from accrue_export.text import (  # noqa: E402
    TEMPLATES,
    clip_tokenizer,
    text_contents,
    tokenizer_of,
    vocabulary,
)

NAMES = [["hex bolt", "machine screw"], ["spur gear"], ["banana"]]


def part(tokenizer: Any, dim: int = 512) -> TextPart:
    return TextPart(
        dim=dim,
        context=tokenizer.context,
        pad=tokenizer.pad,
        end=tokenizer.end,
        clean=tokenizer.clean,
        templates=TEMPLATES,
        logit_scale=1.0,
        logit_bias=0.0,
    )


def seeded(name: str) -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(name).eval()


@pytest.fixture(scope="module")
def tokenize() -> TextTokenizer:
    tokenizer = clip_tokenizer()
    return TextTokenizer(tokenizer.json, part(tokenizer))


def test_the_vocabulary_in_every_template_has_open_clips_ids(tokenize: TextTokenizer) -> None:
    names = [name for names in vocabulary() for name in names]
    texts = [template.replace("{}", name) for template in TEMPLATES for name in names]
    assert np.array_equal(tokenize(texts), open_clip.get_tokenizer("ViT-B-16")(texts).numpy())


# ftfy, which open_clip runs first, is not on a device; U+0345 is a letter for its regular
# expressions only where case is ignored, and unassigned characters differ between Unicode versions.
ORDINARY = st.characters(exclude_categories=["Cn", "Cs", "Co", "Cc"], exclude_characters="\u0345")


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(ORDINARY | st.sampled_from(" '-&;sStTdD.09"), max_size=30))
def test_any_text_that_ftfy_leaves_alone_has_open_clips_ids(
    tokenize: TextTokenizer, text: str
) -> None:
    assume(ftfy.fix_text(text) == text)
    reference = open_clip.tokenizer._tokenizer
    ids = [reference.sot_token_id, *reference.encode(text), reference.eot_token_id]
    assume(len(ids) <= 77)
    assert tokenize([text])[0].tolist() == ids + [0] * (77 - len(ids))


@pytest.mark.parametrize(
    "text",
    [
        "Nuts &amp; Bolts",
        "ΟΔΥΣΣΕΥΣ",
        "İstanbul",
        "don't 42mm M8x20",
        "<b>",
        "日本語",
        "\u00a0x \t y",
    ],
)
def test_texts_that_are_hard_to_split_have_open_clips_ids(
    tokenize: TextTokenizer, text: str
) -> None:
    assert np.array_equal(tokenize([text]), open_clip.get_tokenizer("ViT-B-16")([text]).numpy())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two exports of a real tower
@pytest.mark.parametrize(("name", "dim"), [("MobileCLIP2-S0", 512), ("ViT-B-16", 512)])
def test_a_real_tower_gives_torchs_vectors_and_the_same_bytes_twice(name: str, dim: int) -> None:
    model = seeded(name)
    tokenizer = tokenizer_of(name)
    files, entry = text_contents(model, tokenizer, dim=dim, names=NAMES)
    assert entry["min_cosine"] >= 0.99999
    assert entry["names"] == 3
    tower = TextTower(part(tokenizer, dim), files.__getitem__, "tests")
    texts = ["a photo of a wing nut.", "x", "a very long name " * 5]
    found = tower.embed(texts)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
    assert (found * expected).sum(axis=1).min() >= 0.99999
    graph = onnx.load_from_string(files["text/encoder.onnx"])
    assert not any(node.doc_string or node.metadata_props for node in graph.graph.node)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    again, _ = text_contents(model, tokenizer, dim=dim, names=NAMES)
    assert {k: v for k, v in files.items() if again[k] != v} == {}
    with torch.no_grad():
        both = model.encode_text(
            open_clip.get_tokenizer(name)(
                [t.replace("{}", n) for n in NAMES[0] for t in TEMPLATES]
            ),
            normalize=True,
        ).double()
    mean = both.mean(dim=0)
    shipped = np.frombuffer(files["text/vectors.npy"][-3 * dim * 4 :], "<f4").reshape(3, dim)
    assert float(shipped[0] @ (mean / mean.norm()).numpy()) >= 0.99999
    assert json.loads(files["text/names.json"]) == NAMES


@pytest.fixture(scope="module")
def small() -> Any:
    """A text tower of CLIP's form that exports in seconds."""
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    ).eval()


def test_a_text_tower_of_another_dimension_than_the_images_is_refused(small: Any) -> None:
    with pytest.raises(BundleError, match=r"vectors of 32 dimensions, the image tower of 64"):
        text_contents(small, clip_tokenizer(), dim=64, names=NAMES)


def test_a_model_without_a_text_tower_is_refused_with_the_way_out() -> None:
    with pytest.raises(BundleError, match="Linear has no text tower") as caught:
        text_contents(torch.nn.Linear(2, 2), clip_tokenizer(), dim=2, names=NAMES)
    assert caught.value.hint == "leave the text part out (--no-text)"


@pytest.mark.parametrize(
    "names", [[], [["nut"], ["NUT"]], [["nut", "Hex-Nut"], ["hex nut"]], [[""]]]
)
def test_a_vocabulary_that_is_ambiguous_or_empty_is_refused(small: Any, names: Any) -> None:
    with pytest.raises(UsageError, match="the vocabulary"):
        text_contents(small, clip_tokenizer(), dim=32, names=names)


def test_the_progress_tells_each_name(small: Any) -> None:
    told: list[tuple[str, int, int]] = []
    text_contents(
        small, clip_tokenizer(), dim=32, names=NAMES, progress=lambda *one: told.append(one)
    )
    assert told[1:] == [
        ("exporting the text tower", 1, 1),
        *(("embedding the vocabulary", done, 3) for done in (1, 2, 3)),
    ]


def test_a_device_learns_names_from_a_written_bundle_as_torch_would(
    small: Any, tmp_path: Path
) -> None:
    class Images(torch.nn.Module):
        def forward(self, planes: Any) -> Any:
            return small.visual(planes)

    preprocess = Preprocess(36, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tower = models.Tower(Images().eval(), "small", "tests", preprocess, "Apache-2.0", clip=small)
    files, entry = text_contents(tower.clip, clip_tokenizer(), dim=32, names=NAMES)
    bundle = write_bundle(
        tmp_path / "bundle",
        model=models.to_onnx(tower),
        name=tower.name,
        source=tower.source,
        licence_name=tower.licence,
        licence_text="Made by the tests.",
        restricted=False,
        preprocess=preprocess,
        golden=golden_images(),
        extra=files,
        text=entry,
    )
    bundle.verify()
    with Box(Settings(state=tmp_path / "state", bundle=bundle.path)) as box:
        box.teach_by_name("Machine Screw")
        box.teach_by_name("wing nut", prompt="A brass wing nut")
        shipped, typed = box.learned().texts.values()
    names = [template.replace("{}", name) for name in NAMES[0] for template in TEMPLATES]
    tokens = open_clip.get_tokenizer("ViT-B-16")([*names, "A brass wing nut"])
    with torch.no_grad():
        vectors = small.encode_text(tokens, normalize=True).double()
    mean = vectors[:-1].mean(dim=0)
    assert shipped @ (mean / mean.norm()).numpy() >= 0.99999
    assert typed @ vectors[-1].numpy() >= 0.99999


# ---- tokenizers of the hub ---------------------------------------------------------------------


@pytest.fixture
def siglip(tmp_path: Path) -> Path:
    """Files as a hub has them for SigLIP: here a tiny unigram model, closed and padded by </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz.")]
    built = Tokenizer(models.Unigram(pieces, unk_id=2))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    built.enable_truncation(4)
    (tmp_path / "tokenizer.json").write_text(built.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "</s>"}}))
    return tmp_path


def test_a_tokenizer_of_the_hub_is_taken_from_a_folder_with_its_padding(siglip: Path) -> None:
    found = tokenizer_of("ViT-B-16-SigLIP", siglip)
    assert (found.clean, found.context, found.pad, found.end) == ("canonicalize", 64, 1, 1)
    tokens = TextTokenizer(found.json, part(found, 768))(["A hex-bolt!"])
    assert tokens.shape == (1, 64)
    assert tokens[0, 10:].tolist() == [1] * 54  # "▁a▁hexbolt", then </s>
    assert 1 not in tokens[0, :10]


@pytest.mark.parametrize("lost", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_of_a_tokenizer_is_named(siglip: Path, lost: str) -> None:
    (siglip / lost).unlink()
    with pytest.raises(NotFound, match=f"{lost} is missing") as caught:
        tokenizer_of("ViT-B-16-SigLIP", siglip)
    assert "put tokenizer.json and tokenizer_config.json" in caught.value.hint


def test_a_tokenizer_without_padding_is_refused(siglip: Path) -> None:
    (siglip / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BundleError, match="names None as pad_token"):
        tokenizer_of("ViT-B-16-SigLIP", siglip)


def test_a_hub_that_cannot_be_reached_says_what_was_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(repository: str, name: str) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(
        NotFound, match=r"tokenizer.json of the hub repository timm/ViT-B-16-SigLIP"
    ):
        tokenizer_of("ViT-B-16-SigLIP")


def test_a_tokenizer_that_works_in_another_way_is_refused() -> None:
    with pytest.raises(BundleError, match=r"its tokenizer is made with .*strip_sep_token"):
        tokenizer_of("ViT-H-14-CLIPA")


def test_a_tower_that_cannot_be_exported_is_one_line(small: Any, monkeypatch: Any) -> None:
    def by_value(tokens: Any) -> Any:
        return torch.zeros(2, 32) if tokens.sum().item() > 7 else torch.ones(2, 32)

    monkeypatch.setattr(small, "encode_text", by_value)
    with pytest.raises(BundleError, match="CLIP cannot be exported: torch") as caught:
        text_contents(small, clip_tokenizer(), dim=32, names=NAMES)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound, match="open_clip has no model 'ViT-Z-1'"):
        tokenizer_of("ViT-Z-1")
