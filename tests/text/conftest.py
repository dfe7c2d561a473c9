"""A tiny text tower: bytes as tokens, an embedding table, a sum. 64 dimensions, as the images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DIM, CONTEXT, PAD, END = 64, 48, 0, 257
NAMES = [["hex bolt", "machine screw"], ["washer"], ["spur gear", "gear wheel", "cog"]]


def tower() -> bytes:
    """tokens int64 (batch, 48) -> unit-norm float32 (batch, 64): place and token both count."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    table = rng.normal(size=(END + 1, DIM)).astype(np.float32)
    table[PAD] = 0
    places = rng.normal(1, 0.3, (CONTEXT, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),  # (n, 48, 64)
        helper.make_node("Mul", ["rows", "places"], ["placed"]),
        helper.make_node("ReduceSum", ["placed", "axes"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", CONTEXT])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(places, "places"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString(deterministic=True)


def tokenizer_json() -> bytes:
    """Each byte of a text is a token, 1 to 256; END closes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {"<pad>": PAD, **{letter: i for i, letter in enumerate(letters, 1)}, "<end>": END}
    built = Tokenizer(models.BPE(vocab=ids, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", END)]
    )
    return built.to_str().encode()


def npy(vectors: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, vectors.astype("<f4"), version=(1, 0))
    return content.getvalue()


@pytest.fixture(scope="session")
def text_files() -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and manifest entry of the text part; do not change them, copy them."""
    from accrue.vision.text import TextPart, TextTower

    part = TextPart(
        dim=DIM,
        context=CONTEXT,
        pad=PAD,
        end=END,
        clean="lower",
        templates=("a photo of a {}.", "{} on a bench"),
        logit_scale=100.0,
        logit_bias=0.0,
    )
    files = {"text/encoder.onnx": tower(), "text/tokenizer.json": tokenizer_json()}
    made = TextTower(part, files.__getitem__, "tests")
    files["text/names.json"] = json.dumps(NAMES).encode()
    files["text/vectors.npy"] = npy(np.stack([made.average(names) for names in NAMES]))
    return files, part.document()


def write(path: Path, model: Any, files: dict[str, bytes], text: dict[str, Any] | None) -> Path:
    from accrue.bundle import Preprocess
    from accrue_export import golden_images, write_bundle

    return write_bundle(
        path,
        model=model,
        name="tiny with text",
        source="tests/text/conftest.py",
        licence_name="Apache-2.0",
        licence_text="Made by the tests.\n",
        restricted=False,
        preprocess=Preprocess(36, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        golden=golden_images(),
        extra=files,
        text=text,
    ).path


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Any, text_files: Any) -> Path:
    """A bundle whose images and texts have 64 dimensions; do not change it, copy it."""
    return write(tmp_path_factory.mktemp("text") / "bundle", tiny_onnx, *text_files)
