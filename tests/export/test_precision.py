"""Mixed float16: near the reference, sensitive steps in float32, refused where it is not near."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason='onnx is missing: pip install "accrue[export]"')

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from accrue.bundle import Bundle, Preprocess
from accrue.errors import Refused
from accrue_export import golden_images, write_bundle
from accrue_export.graph import wrap
from accrue_export.parity import parity, run_onnx
from accrue_export.precision import to_fp16

SIDE = 32
PREPROCESS = Preprocess(SIDE, SIDE, "bicubic", (0.5,) * 3, (0.5,) * 3)
DIM = 48


def transformer(scale: float = 1.0, patch: float = 1.0) -> onnx.ModelProto:
    """One attention block with everything that overflows: softmax, LayerNorm whole and in parts,
    a square, a root, erf; float32 (n, 3, 32, 32) to (n, 48). ``scale`` multiplies the tokens,
    ``patch`` the weights of the first convolution."""
    rng = np.random.default_rng(3)
    f = np.float32
    weights = {
        "patch": patch * rng.normal(0, 0.05, (DIM, 3, 8, 8)),
        "gamma": rng.normal(1, 0.1, DIM),
        "beta": rng.normal(0, 0.1, DIM),
        "wq": rng.normal(0, 0.15, (DIM, DIM)),
        "wk": rng.normal(0, 0.15, (DIM, DIM)),
        "wv": rng.normal(0, 0.15, (DIM, DIM)),
        "w1": rng.normal(0, 0.15, (DIM, 2 * DIM)),
        "w2": rng.normal(0, 0.15, (2 * DIM, DIM)),
        "scale": np.array(scale),
        "eps": np.array(1e-6),
        "root2": np.array(2**0.5),
        "one": np.array(1.0),
        "half": np.array(0.5),
    }
    ints = {"shape": np.array([0, DIM, 16]), "last": np.array([-1]), "middle": np.array([1])}
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "patch"], ["c"], strides=[8, 8]),  # (n, 48, 4, 4)
        n("Reshape", ["c", "shape"], ["r"]),
        n("Transpose", ["r"], ["t0"], perm=[0, 2, 1]),  # (n, 16, 48)
        n("Mul", ["t0", "scale"], ["t"]),
        n("LayerNormalization", ["t", "gamma", "beta"], ["ln"], axis=-1, epsilon=1e-6),
        n("MatMul", ["ln", "wq"], ["q"]),
        n("MatMul", ["ln", "wk"], ["k"]),
        n("MatMul", ["ln", "wv"], ["v"]),
        n("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        n("MatMul", ["q", "kt"], ["qk"]),
        n("Softmax", ["qk"], ["a"], axis=-1),
        n("MatMul", ["a", "v"], ["av"]),
        n("Add", ["t", "av"], ["res"]),
        n("ReduceMean", ["res", "last"], ["mean"], keepdims=1),
        n("Sub", ["res", "mean"], ["d"]),
        n("Mul", ["d", "d"], ["d2"]),
        n("ReduceMean", ["d2", "last"], ["var"], keepdims=1),
        n("Add", ["var", "eps"], ["ve"]),
        n("Sqrt", ["ve"], ["sd"]),
        n("Div", ["d", "sd"], ["normed"]),
        n("MatMul", ["normed", "w1"], ["h"]),
        n("Div", ["h", "root2"], ["hr"]),
        n("Erf", ["hr"], ["e"]),
        n("Add", ["e", "one"], ["e1"]),
        n("Mul", ["h", "e1"], ["g"]),
        n("Mul", ["g", "half"], ["gelu"]),
        n("MatMul", ["gelu", "w2"], ["o"]),
        n("ReduceMean", ["o", "middle"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", DIM])],
        [numpy_helper.from_array(v.astype(f), k) for k, v in weights.items()]
        + [numpy_helper.from_array(v.astype(np.int64), k) for k, v in ints.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def images(photo: Callable[..., np.ndarray]) -> np.ndarray:
    return np.stack([photo(seed, (SIDE, SIDE)) for seed in range(6)])


def types(model: onnx.ModelProto) -> dict[str, int]:
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = [*found.input, *found.value_info, *found.output]
    return {v.name: v.type.tensor_type.elem_type for v in known} | {
        t.name: t.data_type for t in model.graph.initializer
    }


def test_weights_and_products_are_float16_and_sensitive_steps_float32(
    photo: Callable[..., np.ndarray],
) -> None:
    """Every MatMul and Conv works on float16 alone; softmax, LayerNorm (whole or in its parts),
    reductions, roots, erf and the final normalisation on float32 alone."""
    whole, _ = wrap(transformer(), PREPROCESS)
    before = whole.SerializeToString()
    half = to_fp16(whole)
    assert whole.SerializeToString() == before
    kinds = types(half)
    seen = set()
    for node in half.graph.node:
        floats = {kinds[n] for n in [*node.input, *node.output] if kinds.get(n) in (1, 10)}
        if node.op_type in ("Conv", "MatMul"):
            assert floats == {TensorProto.FLOAT16}, node
        fragile = ("LayerNormalization", "Softmax", "ReduceMean", "Sqrt", "Erf", "LpNormalization")
        parts = node.output[0] in ("net/d", "net/d2", "net/ve", "net/normed")
        if node.op_type in fragile or parts:
            assert floats == {TensorProto.FLOAT}, node
            seen.add(node.op_type)
    assert {"LayerNormalization", "Softmax", "ReduceMean", "Sqrt", "Erf", "Mul"} <= seen
    assert len(half.SerializeToString()) < 0.7 * len(before)
    prepared = images(photo)
    near = parity(run_onnx(half.SerializeToString(), prepared), run_onnx(before, prepared))
    assert near.min_cosine > 0.9999
    assert near.min_cosine < 1 or near.margin_change != 0  # it did compute in float16


def test_large_activations_survive_where_plain_float16_overflows(
    photo: Callable[..., np.ndarray],
) -> None:
    """Tokens of some hundreds: their squares are beyond 65,504, their LayerNorm is not."""
    whole, _ = wrap(transformer(scale=700.0), PREPROCESS)
    prepared = images(photo)
    reference = run_onnx(whole.SerializeToString(), prepared)
    mixed = run_onnx(to_fp16(whole).SerializeToString(), prepared)
    assert parity(mixed, reference).min_cosine > 0.999
    session = onnxruntime.InferenceSession(
        exposed(whole, "net/res").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    tokens = session.run(["net/res"], {"image": prepared})[0]
    assert (tokens**2).max() > 65_504


def exposed(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copied


def test_an_encoder_that_overflows_in_float16_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    """The weights fit, their sums do not, and what comes out is no number; the way out is named."""
    arguments = {
        "model": transformer(patch=2e5),
        "name": "loud",
        "source": "the tests",
        "licence_name": "MIT",
        "licence_text": "free",
        "restricted": False,
        "preprocess": PREPROCESS,
        "golden": golden_images(),
    }
    with pytest.raises(Refused, match=r"in float16 .* cosine of nan .*expected 0\.999") as raised:
        write_bundle(tmp_path / "b", fp16=True, **arguments)  # type: ignore[arg-type]
    assert "--no-fp16" in raised.value.hint
    assert raised.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []
    write_bundle(tmp_path / "b", fp16=False, **arguments)  # type: ignore[arg-type]


def test_a_weight_beyond_float16_stays_float32(photo: Callable[..., np.ndarray]) -> None:
    """And so does the product that uses it; the others do not."""
    model = transformer()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            values = numpy_helper.to_array(tensor) * np.float32(1e6)
            tensor.CopyFrom(numpy_helper.from_array(values, "w2"))
    whole, _ = wrap(model, PREPROCESS)
    half = to_fp16(whole)
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds["net/w2"] == TensorProto.FLOAT
    assert kinds["net/w1.fp16"] == TensorProto.FLOAT16
    prepared = images(photo)
    found = [run_onnx(m.SerializeToString(), prepared) for m in (half, whole)]
    assert parity(*found).min_cosine > 0.9999


def test_what_a_branch_reads_keeps_its_type(photo: Callable[..., np.ndarray]) -> None:
    """The body of an If reads a value from outside by name, where no cast can be put."""
    n = helper.make_node
    out = helper.make_tensor_value_info
    then = helper.make_graph(
        [n("Relu", ["f"], ["p"])], "yes", [], [out("p", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [n("Identity", ["f"], ["q"])], "no", [], [out("q", TensorProto.FLOAT, None)]
    )
    rng = np.random.default_rng(0)
    nodes = [
        n("Flatten", ["x"], ["flat"]),
        n("MatMul", ["flat", "w"], ["f"]),
        n("If", ["yes"], ["y0"], then_branch=then, else_branch=other),
        n("MatMul", ["y0", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branch",
        [out("x", TensorProto.FLOAT, ["b", 3, SIDE, SIDE])],
        [out("y", TensorProto.FLOAT, ["b", 8])],
        [
            numpy_helper.from_array(rng.normal(0, 0.1, (3072, 16)).astype(np.float32), "w"),
            numpy_helper.from_array(rng.normal(0, 0.1, (16, 8)).astype(np.float32), "w2"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    whole, _ = wrap(model, PREPROCESS)
    prepared = images(photo)
    found = [run_onnx(m.SerializeToString(), prepared) for m in (to_fp16(whole), whole)]
    assert parity(*found).min_cosine > 0.9999


def test_functions_and_constant_nodes_are_taken_apart(photo: Callable[..., np.ndarray]) -> None:
    """Exporters write both; a constant becomes a float16 weight like any other."""
    model = transformer()
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("mine", "Product", ["a", "b"], ["c"], body, opsets)
    for node in model.graph.node:
        if node.output[0] == "q":
            node.op_type, node.domain = "Product", "mine"
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    constant = helper.make_node("Constant", [], ["wv"], value=weights["wv"])
    kept = [tensor for name, tensor in weights.items() if name != "wv"]
    nodes = [constant, *model.graph.node]
    graph = helper.make_graph(nodes, "g", model.graph.input, model.graph.output, kept)
    opsets.append(helper.make_opsetid("mine", 1))
    odd = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)
    whole, _ = wrap(odd, PREPROCESS)
    half = to_fp16(whole)
    assert "Product" not in {node.op_type for node in half.graph.node}
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds["net/wv.fp16"] == TensorProto.FLOAT16
    prepared = images(photo)
    found = [run_onnx(m.SerializeToString(), prepared) for m in (half, whole)]
    assert parity(*found).min_cosine > 0.9999


def test_the_manifest_tells_how_near_float16_came(tmp_path: Path) -> None:
    """And the same build gives the same bytes of every file."""
    bundles = [
        write_bundle(
            tmp_path / name,
            model=transformer(),
            name="block",
            source="the tests",
            licence_name="MIT",
            licence_text="free",
            restricted=False,
            preprocess=PREPROCESS,
            golden=golden_images(),
            fp16=True,
        )
        for name in ("1", "2")
    ]
    one = Bundle.open(tmp_path / "1").manifest.precisions["fp16"]
    assert one.file == "encoder.fp16.onnx"
    assert 0.999 <= one.min_cosine <= one.median_cosine <= 1
    assert one.same_nearest == 1
    assert bundles[0].manifest == bundles[1].manifest
