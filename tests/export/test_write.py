"""What export writes is a whole bundle whose graph computes what the model computed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason='onnx is missing: pip install "accrue[export]"')

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from accrue.bundle import Bundle, Preprocess
from accrue.errors import BundleError, Conflict, ImageError, NotFound
from accrue.vision import OnnxEncoder, golden_check
from accrue_export import golden_images, pack, write_bundle

TINY_DIM, TINY_PX = 64, 32  # of the fixture tiny_onnx
PREPROCESS = Preprocess(36, TINY_PX, "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


@pytest.fixture
def model(tiny_onnx: onnx.ModelProto) -> onnx.ModelProto:
    return tiny_onnx


def write(out: Path, model: onnx.ModelProto, **other: object) -> Bundle:
    arguments: dict[str, object] = {
        "name": "tiny",
        "source": "the tests",
        "licence_name": "Apache-2.0",
        "licence_text": "free\n",
        "restricted": False,
        "preprocess": PREPROCESS,
        "golden": golden_images(),
    }
    return write_bundle(out, model=model, **(arguments | other))  # type: ignore[arg-type]


def small(
    *,
    shape: tuple[object, ...] = ("batch", 3, TINY_PX, TINY_PX),
    kind: int = TensorProto.FLOAT,
    output: tuple[object, ...] = ("batch", 3, 1, 1),
    opset: int = 17,
    nodes: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """Global average of each colour, output (batch, 3, 1, 1)."""
    if nodes is None:
        nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, output)],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model: onnx.ModelProto | bytes, image: np.ndarray) -> np.ndarray:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


def test_the_graph_takes_pixels_and_gives_unit_rows(
    model: onnx.ModelProto, tmp_path: Path, photo: Callable[..., np.ndarray]
) -> None:
    """uint8 NHWC in, mean, std and L2 norm inside, equal to numpy around the bare model."""
    bundle = write(tmp_path / "b", model)
    batch = np.stack([photo(s, (TINY_PX, TINY_PX)) for s in range(5)])
    scaled = (batch / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    expected = run(model, scaled.astype(np.float32).transpose(0, 3, 1, 2).copy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = run(bundle.read("encoder.onnx"), batch)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_first_node_casts(model: onnx.ModelProto, tmp_path: Path) -> None:
    """TensorRT refuses any other operation on uint8."""
    written = onnx.load_from_string(write(tmp_path / "b", model).read("encoder.onnx"))
    users = [n.op_type for n in written.graph.node if "image" in n.input]
    assert users == ["Cast"]
    (image,), (embedding,) = written.graph.input, written.graph.output
    sides = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, sides) == ("image", ["batch", TINY_PX, TINY_PX, 3])
    sides = [d.dim_param or d.dim_value for d in embedding.type.tensor_type.shape.dim]
    assert (embedding.name, sides) == ("embedding", ["batch", TINY_DIM])


def test_a_written_bundle_is_whole_and_passes_its_check(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    """Nothing but the bundle is left behind in the folder."""
    bundle = write(tmp_path / "b", model)
    bundle.verify()
    assert golden_check(OnnxEncoder(bundle), bundle).min_cosine > 0.9995
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    assert bundle.read("LICENSE.txt") == b"free\n"
    assert {"accrue", "onnx"} == set(bundle.manifest.producer)


def test_the_same_model_gives_the_same_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Encoder and space id; and the model given is not changed."""
    before = model.SerializeToString()
    first, second = write(tmp_path / "1", model), write(tmp_path / "2", model)
    assert first.read("encoder.onnx") == second.read("encoder.onnx")
    assert first.manifest.space_id == second.manifest.space_id
    assert model.SerializeToString() == before


def test_what_exporters_note_stays_at_home(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Stack traces with paths of the exporting machine neither ship nor change the space."""
    noted = onnx.ModelProto()
    noted.CopyFrom(model)
    noted.doc_string = noted.graph.doc_string = "/home/me/export.py"
    noted.producer_name = "pytorch"
    for node in noted.graph.node:
        node.doc_string = "/home/me/model.py, line 7"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/model.py")
    noted.graph.initializer[0].doc_string = "/home/me/weights"
    encoder = write(tmp_path / "noted", noted).read("encoder.onnx")
    assert b"/home/me" not in encoder
    assert encoder == write(tmp_path / "plain", model).read("encoder.onnx")


def test_fp16_weights_halve_the_file_and_keep_the_embeddings(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    """Biases stay float32; the bundle is a space of its own."""
    whole = write(tmp_path / "32", model)
    half = write(tmp_path / "16", model, fp16_weights=True)
    sizes = [b.manifest.files["encoder.onnx"].bytes for b in (whole, half)]
    assert sizes[1] < 0.56 * sizes[0]
    assert whole.manifest.space_id != half.manifest.space_id
    for (_, _, a), (_, _, b) in zip(whole.golden(), half.golden(), strict=True):
        assert a @ b > 0.9999
    written = onnx.load_from_string(half.read("encoder.onnx"))
    kinds = {t.name: t.data_type for t in written.graph.initializer}
    assert kinds["net/w3.fp16"] == TensorProto.FLOAT16
    assert kinds["net/b3"] == TensorProto.FLOAT


def test_a_weight_too_large_for_fp16_stays_float32(tmp_path: Path, model: onnx.ModelProto) -> None:
    """65,504 is the largest float16; infinity in its place would ruin every embedding."""
    large = onnx.ModelProto()
    large.CopyFrom(model)
    for tensor in large.graph.initializer:
        if tensor.name in ("w3", "b3"):
            values = numpy_helper.to_array(tensor) * np.float32(1e6)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    bundle = write(tmp_path / "b", large, fp16_weights=True)
    written = onnx.load_from_string(bundle.read("encoder.onnx"))
    assert "net/w3" in {t.name for t in written.graph.initializer}


def test_a_map_of_one_by_one_becomes_a_row(tmp_path: Path) -> None:
    """(batch, dim, 1, 1), a fixed batch of 1 and an open input size are all taken."""
    for i, shape in enumerate([("batch", 3, TINY_PX, TINY_PX), (1, 3, "h", "w")]):
        output = (shape[0], 3, 1, 1)
        bundle = write(tmp_path / str(i), small(shape=shape, output=output))
        assert bundle.manifest.dim == 3
        assert run(bundle.read("encoder.onnx"), np.zeros((4, 32, 32, 3), np.uint8)).shape == (4, 3)


def fixed_reshape() -> onnx.ModelProto:
    """An export whose Reshape holds the batch size 1."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node(
            "Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, 3], np.int64))
        ),
        helper.make_node("Reshape", ["p", "s"], ["y"]),
    ]
    return small(nodes=nodes, shape=(1, 3, TINY_PX, TINY_PX), output=(1, 3))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: small(opset=11), "it uses opset 11; expected at least 13"),
        (
            lambda: small(kind=TensorProto.FLOAT16),
            r"its input is x: float16 .*expected one float32",
        ),
        (
            lambda: small(shape=("b", 3, 64, 64)),
            r"its input is x: float \(\?, 3, 64, 64\); expected",
        ),
        (lambda: small(shape=("b", 1, 32, 32)), r"its input is x: float \(\?, 1, 32, 32\)"),
        (lambda: small(shape=("b", 3, 32)), r"its input is x: float \(\?, 3, 32\)"),
        (
            lambda: small(output=("b", 3, 2, 2)),
            r"its output is y: float \(\?, 3, 2, 2\); expected one",
        ),
        (lambda: small(output=("b", 3, 1)), r"its output is y: float \(\?, 3, 1\)"),
        (fixed_reshape, "it cannot encode two images at once"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], reason: str
) -> None:
    """By what was found and what is expected, and nothing is left behind."""
    with pytest.raises(BundleError, match=f"model cannot become a bundle: {reason}") as raised:
        write(tmp_path / "b", make())
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_outside_the_file_are_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    """The space id would not cover them."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # saving moves the weights out of the model itself
    onnx.save(
        copied, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    with pytest.raises(BundleError, match=r"lies outside the file; expected all weights loaded"):
        write(tmp_path / "b", bare)
    write(tmp_path / "b", onnx.load(tmp_path / "m.onnx"))


GOOD_JPEG = golden_images()[0][1]


@pytest.mark.parametrize(
    ("golden", "kind", "reason"),
    [
        ([], BundleError, "golden images are missing"),
        ([("a.jpg", GOOD_JPEG)] * 2, BundleError, "golden images are a.jpg, a.jpg; expected diff"),
        ([("../a.jpg", GOOD_JPEG)], BundleError, r"golden image is named '../a.jpg'"),
        ([("a.png", GOOD_JPEG)], BundleError, r"golden image is named 'a.png'"),
        ([("a.jpg", b"\x89PNG")], BundleError, "golden image a.jpg is no JPEG"),
        ([("a.jpg", GOOD_JPEG[:500])], ImageError, "a.jpg is damaged or cut off"),
    ],
)
def test_bad_golden_images_are_refused(
    model: onnx.ModelProto,
    tmp_path: Path,
    golden: list[tuple[str, bytes]],
    kind: type[Exception],
    reason: str,
) -> None:
    """And no folder, half-written or temporary, remains."""
    with pytest.raises(kind, match=reason):
        write(tmp_path / "b", model, golden=golden)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Neither a folder nor a file; a missing parent is not made."""
    (tmp_path / "b").mkdir()
    with pytest.raises(Conflict, match=rf"^{tmp_path}/b exists already; give another path$"):
        write(tmp_path / "b", model)
    with pytest.raises(NotFound, match=rf"^no folder {tmp_path}/none to write into$"):
        write(tmp_path / "none/b", model)


def test_packing_gives_one_file_with_the_same_content(tiny_bundle: Path, tmp_path: Path) -> None:
    """Stored entries, the same bytes every time, and an encoder that passes its check."""
    first, second = pack(tiny_bundle, tmp_path / "1.zip"), pack(tiny_bundle, tmp_path / "2.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    folder = Bundle.open(tiny_bundle)
    assert first.manifest == folder.manifest
    assert all(first.read(name) == folder.read(name) for name in folder.manifest.files)
    golden_check(OnnxEncoder(first), first)
    with pytest.raises(Conflict, match=r"1.zip exists already"):
        pack(tiny_bundle, tmp_path / "1.zip")
    with pytest.raises(NotFound, match="no folder"):
        pack(tiny_bundle, tmp_path / "none/1.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.zip", "2.zip"]


def test_golden_images_are_small_varied_and_always_the_same() -> None:
    """Eight JPEGs in 150 KB: one turned, one grey, one portrait, one 1,600 px wide, one small."""
    images = golden_images()
    assert images == golden_images()
    assert len({name for name, _ in images}) == 8
    assert sum(len(jpeg) for _, jpeg in images) <= 150_000
    opened = [Image.open(io.BytesIO(jpeg)) for _, jpeg in images]
    assert all(image.format == "JPEG" for image in opened)
    assert len({image.size for image in opened}) == 8
    assert any(image.getexif().get(0x0112) == 6 for image in opened)
    assert any(image.mode == "L" for image in opened)
    assert any(image.height > image.width for image in opened)
    assert any(image.width == 1_600 for image in opened)
    assert any(max(image.size) < 128 for image in opened)


def test_golden_images_have_clearly_different_embeddings(tiny_bundle: Path) -> None:
    """Otherwise the check could not tell a swapped pair."""
    rows = np.stack([row for _, _, row in Bundle.open(tiny_bundle).golden()])
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < 0.98


def test_further_files_and_what_the_manifest_says_of_text_are_carried(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    """Listed with their hashes, read back as given, and without a word on the space id."""
    text = {"dim": 4, "templates": ["a photo of {}"]}
    extra = {"text/words.json": b"[]", "text/deep/er.txt": b"x"}
    bundle = write(tmp_path / "b", model, extra=extra, text=text)
    bundle.verify()
    assert bundle.manifest.text == text
    assert {name: bundle.read(name) for name in extra} == extra
    plain = write(tmp_path / "plain", model)
    assert plain.manifest.space_id == bundle.manifest.space_id
    assert plain.manifest.text is None


@pytest.mark.parametrize("name", ["../up", "manifest.json", "encoder.onnx", "golden/00-shapes.jpg"])
def test_a_further_file_with_a_taken_or_unsafe_name_is_refused(
    model: onnx.ModelProto, tmp_path: Path, name: str
) -> None:
    """It would overwrite the bundle's own, or leave its folder."""
    with pytest.raises(BundleError, match="a further file is named"):
        write(tmp_path / "b", model, extra={name: b"x"})
    assert list(tmp_path.iterdir()) == []
