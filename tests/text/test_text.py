"""From a typed name to a vector: the vocabulary, the tower, and what is refused."""

from __future__ import annotations

import builtins
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.bundle import Bundle
from accrue.errors import AccrueError, BundleError, NotFound, UsageError
from accrue.vision.text import TextEncoder, TextTower, clean, name_key


@pytest.fixture
def encoder(text_bundle: Path) -> TextEncoder:
    return TextEncoder(Bundle.open(text_bundle))


@pytest.fixture
def without_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `text` is not installed."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ImportError("No module named 'tokenizers'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def changed(bundle: Path, to: Path, **text: Any) -> Path:
    """A copy of the bundle with other values in the manifest's text; None leaves a key out."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_text())
    for key, value in text.items():
        manifest["text"][key] = value
        if value is None:
            del manifest["text"][key]
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def replaced(bundle: Path, to: Path, file: str, content: bytes) -> Path:
    """A copy of the bundle with another, rightly listed, file."""
    shutil.copytree(bundle, to)
    (to / file).write_bytes(content)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["files"][file] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_names_become_unit_vectors_of_the_space(encoder: TextEncoder) -> None:
    vectors = encoder.embed(["hex bolt", "wing nut", "teapot"])
    assert vectors.shape == (3, 64)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert encoder.embed([]).shape == (0, 64)


@pytest.mark.parametrize(
    "name", ["hex bolt", "HEX BOLT", " Hex-Bolt ", "hex_bolt", "Machine Screw"]
)
def test_a_name_or_synonym_in_any_case_has_the_shipped_vector(
    encoder: TextEncoder, text_files: Any, name: str
) -> None:
    shipped = np.frombuffer(text_files[0]["text/vectors.npy"][-3 * 64 * 4 :], "<f4").reshape(3, 64)
    assert np.array_equal(encoder.embed([name])[0], shipped[0])
    assert encoder.known(name) == ("hex bolt", "machine screw")


def test_the_vocabulary_needs_neither_tower_nor_tokenizers(
    text_bundle: Path, without_tokenizers: None
) -> None:
    encoder = TextEncoder(Bundle.open(text_bundle))
    assert encoder.embed(["cog", "washer"]).shape == (2, 64)
    assert encoder.known("teapot") == ()


def test_another_name_is_the_normalised_mean_over_the_templates(encoder: TextEncoder) -> None:
    one, two = encoder.tower.embed(["a photo of a wing nut.", "wing nut on a bench"])
    mean = (one.astype(np.float64) + two) / 2
    expected = mean / np.linalg.norm(mean)
    assert encoder.embed(["wing nut"])[0] == pytest.approx(expected, abs=1e-6)


def test_a_prompt_is_taken_as_it_is_whatever_its_case_and_spaces(encoder: TextEncoder) -> None:
    plain, other = encoder.tower.embed(["a red {} nut", "A  red {} NUT "])
    assert np.array_equal(plain, other)
    assert encoder.tower.embed(["hex bolt"])[0] @ encoder.embed(["hex bolt"])[0] < 0.999


def test_many_texts_are_the_same_as_one_by_one(encoder: TextEncoder) -> None:
    texts = [f"part number {i}" for i in range(40)]
    together = encoder.tower.embed(texts)
    alone = np.concatenate([encoder.tower.embed([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-6)
    assert len({row.tobytes() for row in together}) == 40


def test_a_bundle_without_text_says_what_to_do_instead(tiny_bundle: Path) -> None:
    with pytest.raises(NotFound) as caught:
        TextEncoder(Bundle.open(tiny_bundle))
    assert caught.value.message == (
        f"bundle {tiny_bundle} has no text part, so its encoder cannot learn from a name alone"
    )
    assert caught.value.hint.startswith("teach from photos, or use a bundle of a model with a text")


def test_without_the_package_a_new_name_says_what_to_install(
    encoder: TextEncoder, without_tokenizers: None
) -> None:
    with pytest.raises(AccrueError) as caught:
        encoder.embed(["wing nut"])
    assert "not in the bundle's vocabulary needs the package tokenizers" in caught.value.message
    assert caught.value.hint == 'pip install "accrue[text]"'


def test_a_name_that_is_too_long_for_the_tower_is_refused_with_both_lengths(
    encoder: TextEncoder,
) -> None:
    with pytest.raises(UsageError, match=r"has 75 tokens; the text tower reads at most 48") as c:
        encoder.embed(["x" * 60])
    assert c.value.hint == "use fewer words"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dim", 32, "expected 64, as its images have"),
        ("context", 0, "expected a whole number from 2 to 4,096"),
        ("pad", "0", "expected a whole number"),
        ("end", None, "expected a whole number"),
        ("clean", ["lower"], "expected whitespace or lower or canonicalize"),
        ("clean", "ftfy", "expected whitespace or lower or canonicalize"),
        ("templates", [], "expected a list of texts with one {} each"),
        ("templates", ["a photo"], "expected a list of texts with one {} each"),
        ("logit_scale", "high", "expected a number"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_names_the_key(
    text_bundle: Path, tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    bundle = Bundle.open(changed(text_bundle, tmp_path / "bundle", **{key: value}))
    with pytest.raises(BundleError, match=rf"'text\.{key}'") as caught:
        TextEncoder(bundle)
    assert expected in caught.value.message


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("text/names.json", b"{", "no JSON"),
        ("text/names.json", b'["hex bolt"]', "expected a list of texts"),
        ("text/names.json", b"[[]]", "expected a list of texts"),
        ("text/names.json", b'[["hex bolt"]]', "expected float32 (1, 64)"),
        ("text/vectors.npy", b"\x93NUMPY", "no array file"),
        ("text/tokenizer.json", b"{}", "text/tokenizer.json"),
        ("text/encoder.onnx", b"no model", "ONNX Runtime cannot load it"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_that_names_it(
    text_bundle: Path, tmp_path: Path, file: str, content: bytes, text: str
) -> None:
    bundle = Bundle.open(replaced(text_bundle, tmp_path / "bundle", file, content))
    with pytest.raises(BundleError) as caught:
        TextEncoder(bundle).embed(["wing nut"])
    assert text in caught.value.message
    assert "text/" in caught.value.message
    assert "\n" not in str(caught.value)


def test_vectors_that_are_not_of_unit_length_are_refused(
    text_bundle: Path, tmp_path: Path, text_files: Any
) -> None:
    content = text_files[0]["text/vectors.npy"]
    longer = content[: -64 * 4] + (2 * np.frombuffer(content[-64 * 4 :], "<f4")).tobytes()
    bundle = Bundle.open(replaced(text_bundle, tmp_path / "b", "text/vectors.npy", longer))
    with pytest.raises(BundleError, match="not of length 1"):
        TextEncoder(bundle)


def test_an_image_encoder_in_place_of_the_tower_is_refused(
    text_bundle: Path, tmp_path: Path
) -> None:
    image = (text_bundle / "encoder.onnx").read_bytes()
    bundle = Bundle.open(replaced(text_bundle, tmp_path / "b", "text/encoder.onnx", image))
    with pytest.raises(BundleError, match="its signature is"):
        TextEncoder(bundle).embed(["wing nut"])


def test_a_tokenizer_that_ends_otherwise_than_the_manifest_says_is_refused(
    text_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(changed(text_bundle, tmp_path / "bundle", end=7))
    with pytest.raises(BundleError, match=r"its last token is \[257\]; expected 7"):
        TextEncoder(bundle).embed(["wing nut"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("whitespace", "A big_Bolt & Nut's"),
        ("lower", "a big_bolt & nut's"),
        ("canonicalize", "a big bolt nuts"),
    ],
)
def test_a_text_is_cleaned_as_the_model_was_trained(kind: str, expected: str) -> None:
    assert clean("  A  big_Bolt &amp;\tNut's ", kind) == expected


def test_the_key_of_a_name_ignores_case_width_hyphens_and_underscores() -> None:
    same = ["hex bolt", "Hex-Bolt", "HEX_BOLT", " ｈｅｘ  bolt"]
    assert len({name_key(name) for name in same}) == 1
    assert name_key("Straße") == name_key("STRASSE")
    assert name_key("hexbolt") != name_key("hex bolt")


def test_vectors_that_cancel_out_are_an_error_and_not_nan(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opposite = np.stack([np.eye(1, 64)[0], -np.eye(1, 64)[0]]).astype(np.float32)
    monkeypatch.setattr(TextTower, "embed", lambda self, texts: opposite)
    with pytest.raises(BundleError, match="cancel out"):
        encoder.embed(["wing nut"])


def test_embedding_a_new_name_imports_no_network_and_no_torch(text_bundle: Path) -> None:
    code = f"""
import sys
from accrue.bundle import Bundle
from accrue.vision.text import TextEncoder
encoder = TextEncoder(Bundle.open({str(text_bundle)!r}))
encoder.embed(["hex bolt"])
assert "tokenizers" not in sys.modules and "onnxruntime" not in sys.modules
encoder.embed(["wing nut"])
loaded = {{name.split(".")[0] for name in sys.modules}}
print(sorted(loaded & {{"torch", "transformers", "huggingface_hub", "httpx", "requests"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
