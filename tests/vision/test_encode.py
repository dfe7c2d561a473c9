"""Embeddings by ONNX Runtime: right, of the promised form, or refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from accrue.bundle import Bundle, Preprocess, space_id
from accrue.errors import BundleError, ConfigError, ImageError
from accrue.vision import OnnxEncoder, decode, golden_check
from accrue.vision.encode import BATCH, _session_options

onnx = pytest.importorskip("onnx", reason="the tests build their encoders with onnx")
helper, TensorProto, numpy_helper = onnx.helper, onnx.TensorProto, onnx.numpy_helper
DIM, PX = 64, 32


@pytest.fixture
def encoder(tiny_bundle: Path) -> OnnxEncoder:
    return OnnxEncoder(Bundle.open(tiny_bundle), threads=1)


def with_encoder(tiny_bundle: Path, out: Path, content: bytes, **manifest: Any) -> Bundle:
    """The tiny bundle with other bytes as its encoder, rightly hashed."""
    shutil.copytree(tiny_bundle, out)
    (out / "encoder.onnx").write_bytes(content)
    document = json.loads((out / "manifest.json").read_text())
    sha256 = hashlib.sha256(content).hexdigest()
    document["files"]["encoder.onnx"] = {"sha256": sha256, "bytes": len(content)}
    document["space_id"] = space_id(sha256, document["preprocess"], None)
    (out / "manifest.json").write_text(json.dumps(document | manifest))
    return Bundle.open(out)


def pooled(
    *,
    image: str = "image",
    kind: int = TensorProto.UINT8,
    batch: str | int = "batch",
    side: int = PX,
    output: str = "embedding",
    dim: int = DIM,
    declared: int | None = None,
    scale: float = 0.0,
) -> bytes:
    """A graph that answers with a constant row of length ``scale`` per image."""
    rows = np.zeros((3, dim), np.float32)
    rows[0, 0] = scale
    nodes = [
        helper.make_node("Cast", [image], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),  # (n, 3)
        helper.make_node("Mul", ["m", "zero"], ["z"]),
        helper.make_node("Add", ["z", "unit"], ["u"]),  # (n, 3), each row 1 0 0
        helper.make_node("MatMul", ["u", "rows"], [output]),  # (n, dim)
    ]
    shape = [batch, declared or dim]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info(image, kind, [batch, side, side, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.zeros((1, 3), np.float32), "zero"),
            numpy_helper.from_array(np.array([[1, 0, 0]], np.float32), "unit"),
            numpy_helper.from_array(rows, "rows"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_embeddings_are_unit_rows_of_the_promised_form(
    encoder: OnnxEncoder, photo: Callable[..., np.ndarray]
) -> None:
    """float32 (n, dim) of unit length, whatever the images' sizes."""
    images = [photo(s, size) for s, size in enumerate([(160, 120), (33, 90), (1_300, 900)])]
    found = encoder.encode(images)
    assert found.shape == (3, DIM)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_no_image_gives_no_row(encoder: OnnxEncoder) -> None:
    """(0, dim), so that callers can concatenate."""
    found = encoder.encode([])
    assert (found.shape, found.dtype) == ((0, DIM), np.dtype(np.float32))


def test_batches_do_not_matter(encoder: OnnxEncoder, photo: Callable[..., np.ndarray]) -> None:
    """More images than one batch holds equal one by one, in order."""
    images = [photo(s) for s in range(2 * BATCH + 3)]
    together = encoder.encode(images)
    single = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_threads_do_not_matter(tiny_bundle: Path, photo: Callable[..., np.ndarray]) -> None:
    """One thread and the default give the same embeddings."""
    images = [photo(s) for s in range(3)]
    one, default = (
        OnnxEncoder(Bundle.open(tiny_bundle), threads=threads).encode(images)
        for threads in (1, None)
    )
    np.testing.assert_allclose(one, default, atol=1e-5)


@pytest.mark.parametrize(
    ("version", "key", "value"),
    [
        ("1.31.1", "session.intra_op.spin_duration_us", "200"),
        ("1.26.0", "session.intra_op.spin_duration_us", "200"),
        ("1.23.2", "session.intra_op.allow_spinning", "0"),
    ],
)
def test_no_thread_stays_awake_between_frames(version: str, key: str, value: str) -> None:
    """By itself it takes 52 ms of a core after each photo. Older versions know but on and off."""
    named = SimpleNamespace(SessionOptions=onnxruntime.SessionOptions, __version__=version)
    options = _session_options(named, 2)
    assert options.get_session_config_entry(key) == value
    assert options.intra_op_num_threads == 2


def test_the_session_of_a_device_has_these_options(encoder: OnnxEncoder) -> None:
    found, expected = encoder._session.get_session_options(), _session_options(onnxruntime, 1)
    assert (found.intra_op_num_threads, found.enable_mem_pattern) == (1, False)
    known = tuple(int(n) for n in onnxruntime.__version__.split(".")[:2]) >= (1, 26)
    key = f"session.intra_op.{'spin_duration_us' if known else 'allow_spinning'}"
    assert found.get_session_config_entry(key) == expected.get_session_config_entry(key)


def test_different_photographs_have_different_embeddings(
    encoder: OnnxEncoder, photo: Callable[..., np.ndarray]
) -> None:
    """The fixture that other tests learn with can tell images, and kinds of images, apart."""
    found = encoder.encode([photo(100 * k + i, kind=k) for k in range(6) for i in range(8)])
    cosines = found @ found.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < 0.999
    kinds = np.repeat(np.arange(6), 8)
    prototypes = np.stack([found[kinds == k][:4].mean(0) for k in range(6)])
    rest = np.tile(np.arange(8) >= 4, 6)
    right = (found[rest] @ prototypes.T).argmax(1) == kinds[rest]
    assert right.mean() > 0.6


def test_an_image_of_another_form_is_named_by_its_place(
    encoder: OnnxEncoder, photo: Callable[..., np.ndarray]
) -> None:
    """Before anything is encoded."""
    with pytest.raises(ImageError, match=r"image 1 is float64 \(4, 4, 3\); expected uint8"):
        encoder.encode([photo(1), np.zeros((4, 4, 3))])


def test_space_and_dim_are_the_bundles(encoder: OnnxEncoder, tiny_bundle: Path) -> None:
    """An encoder says which space it realises, and by what."""
    manifest = Bundle.open(tiny_bundle).manifest
    assert (encoder.space_id, encoder.dim) == (manifest.space_id, manifest.dim)
    assert encoder.providers == ("CPUExecutionProvider",)


def test_a_provider_that_is_not_there_is_refused(tiny_bundle: Path) -> None:
    """Instead of ONNX Runtime's silent fall back to the CPU."""
    with pytest.raises(ConfigError, match="this ONNX Runtime has no NoSuchProvider; it has"):
        OnnxEncoder(Bundle.open(tiny_bundle), providers=("NoSuchProvider",))
    with pytest.raises(ConfigError, match="threads is 0; expected at least 1"):
        OnnxEncoder(Bundle.open(tiny_bundle), threads=0)


def test_a_provider_that_cannot_start_is_refused_with_the_library_that_is_missing() -> None:
    """ONNX Runtime itself goes on without it, and prints why on stderr."""
    import onnxruntime

    from accrue.vision.encode import _unusable

    error = _unusable(onnxruntime, "CUDAExecutionProvider")
    assert error.message.startswith(
        f"ONNX Runtime {onnxruntime.__version__} cannot use CUDAExecutionProvider here: "
    )
    assert "libonnxruntime_providers_cuda.so: cannot open shared object file" in error.message
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        (b"not a model", "ONNX Runtime cannot load it: ", ""),
        (b"", "ONNX Runtime cannot load it: ", ""),
        (pooled(image="x"), r"its inputs are x: uint8", r"expected image: uint8 \(n, 32, 32, 3\)"),
        (pooled(kind=TensorProto.FLOAT), "its inputs are image: float32", "expected image: uint8"),
        (pooled(side=33), r"image: uint8 \(batch, 33, 33, 3\)", r"expected image: uint8 \(n, 32"),
        (pooled(batch=1), "only batches of 1", "expected a batch of any size"),
        (pooled(output="y"), "its outputs are y: float32", r"embedding: float32 \(n, 64\)"),
        (pooled(dim=63), r"embedding: float32 \(batch, 63\)", r"embedding: float32 \(n, 64\)"),
    ],
)
def test_an_encoder_of_another_form_is_refused_by_name(
    tiny_bundle: Path, tmp_path: Path, content: bytes, found: str, expected: str
) -> None:
    """At loading, with the bundle's path; no error of ONNX Runtime escapes."""
    bundle = with_encoder(tiny_bundle, tmp_path / "b", content)
    with pytest.raises(BundleError, match=rf"encoder of bundle {tmp_path}/b: .*{found}") as raised:
        OnnxEncoder(bundle)
    assert raised.match(expected)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scale", [0.0, 2.0, np.nan, np.inf])
def test_what_is_no_embedding_is_refused(
    tiny_bundle: Path, tmp_path: Path, scale: float, photo: Callable[..., np.ndarray]
) -> None:
    """Zero, NaN or another length never reaches the statistics."""
    encoder = OnnxEncoder(with_encoder(tiny_bundle, tmp_path / "b", pooled(scale=scale)))
    with pytest.raises(BundleError, match=f"gave an embedding of length {scale:.6g}; expected"):
        encoder.encode([photo(1)])


def test_the_golden_check_passes_on_the_machine_that_wrote_it(
    encoder: OnnxEncoder, tiny_bundle: Path
) -> None:
    """And tells how near it came."""
    parity = golden_check(encoder, Bundle.open(tiny_bundle))
    assert parity.min_cosine > 0.9995
    assert parity.median_cosine >= parity.min_cosine
    assert parity.same_nearest


class Other:
    """An encoder that answers with the true embeddings, changed."""

    def __init__(self, true: OnnxEncoder, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.space_id, self.dim, self._true, self._change = true.space_id, true.dim, true, change

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._change(self._true.encode(images))


def test_the_golden_check_refuses_other_embeddings(encoder: OnnxEncoder, tiny_bundle: Path) -> None:
    """One image off by a little, all of them swapped, or not finite."""
    bundle = Bundle.open(tiny_bundle)

    def bent(rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        rows[5] += np.float32(0.5) * rows[2]
        return rows

    with pytest.raises(
        BundleError, match=r"golden/05-text.jpg has cosine 0\.\d+ to its ref.*0.999"
    ):
        golden_check(Other(encoder, bent), bundle)
    with pytest.raises(BundleError, match="nearer to another one's reference than to its own"):
        golden_check(Other(encoder, lambda rows: rows[::-1]), bundle)
    with pytest.raises(BundleError, match="golden check of bundle"):
        golden_check(Other(encoder, lambda rows: rows * np.nan), bundle)


def test_the_golden_check_refuses_another_space(encoder: OnnxEncoder, tiny_bundle: Path) -> None:
    """Before any image is decoded; both ids are in the message."""
    other = Other(encoder, lambda rows: rows)
    other.space_id = "f" * 64
    with pytest.raises(
        BundleError, match=f"encoder of space ffffffffffff… .*{encoder.space_id[:9]}"
    ):
        golden_check(other, Bundle.open(tiny_bundle))


def test_importing_vision_loads_neither_onnxruntime_nor_opencv() -> None:
    """``accrue --help`` must answer at once."""
    code = "import accrue.vision, sys; print(sorted({'onnxruntime', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_onnxruntime_prints_nothing(tiny_bundle: Path) -> None:
    """Neither about the machine's devices nor about a model that does not load."""
    code = (
        "import sys; from accrue.bundle import Bundle; from accrue.vision import OnnxEncoder\n"
        f"OnnxEncoder(Bundle.open({str(tiny_bundle)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_mobilenet_bundle_equals_the_original_model(
    mobilenet_onnx: Path, real_photos: list[Path], tmp_path: Path
) -> None:
    """An imported bundle, from JPEG to embedding, against the ONNX with plain Pillow and numpy."""
    import onnxruntime

    out = tmp_path / "mobilenet"
    half = "0.5,0.5,0.5"
    command = [sys.executable, "-m", "accrue_export.cli", "import", str(mobilenet_onnx)]
    command += ["--size", "224", "--resize", "256", "--interpolation", "bicubic", "--mean", half]
    command += ["--std", half, "--licence", "Apache-2.0", "--no-fp16", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1280 values, 224 px" in done.stdout
    bundle = Bundle.open(out)
    assert bundle.manifest.preprocess == Preprocess(256, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    encoder = OnnxEncoder(bundle)
    assert golden_check(encoder, bundle).min_cosine > 0.9999
    photos = real_photos[::4]
    found = encoder.encode([decode(p, short_side=encoder.preprocessor.short_side) for p in photos])
    session = onnxruntime.InferenceSession(mobilenet_onnx, providers=["CPUExecutionProvider"])
    for path, row in zip(photos, found, strict=True):
        with Image.open(path) as image:
            width, height = image.size
            scale = 256 / min(width, height)
            size = (int(width * scale + 1e-9), int(height * scale + 1e-9))
            resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
        planes = (pixels / 127.5 - 1).transpose(2, 0, 1)[None]
        expected = session.run(None, {"image": np.ascontiguousarray(planes)})[0][0]
        assert row @ expected / np.linalg.norm(expected) >= 0.9999
