"""From a model's float NCHW graph to the bundle's: pixels in, unit-norm embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from accrue.bundle import Preprocess
from accrue.errors import BundleError, NotFound

OLDEST_OPSET = 13
FP16_FROM_ELEMENTS = 1_000  # smaller tensors (biases, scales) stay float32: no size, some accuracy
FP16_LARGEST = 65_504.0
_PREFIX = "net/"  # so that no name of the model can be "image" or "embedding"
_WEIGHTS_LIMIT_BYTES = 2**31 - 2**24  # one protobuf message holds 2 GiB; 16 MiB for the graph


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model of a file, with the weights that lie beside it.

    Raises:
        NotFound: no file. BundleError: it is no ONNX model, or its weights are missing.
    """
    if not path.is_file():
        raise NotFound(f"no ONNX file {path}", path=str(path))
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's error has another home in every version
        raise BundleError(
            f"{path} is no ONNX model: {' '.join(str(error).split())}", path=str(path)
        ) from error
    if not model.graph.node:
        raise BundleError(f"{path} is no ONNX model: it has no graph", path=str(path))
    files = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for file in sorted(files):
        if not (path.parent / file).is_file():
            raise BundleError(
                f"the weights of {path} lie in {file}, which is not beside it",
                hint=f"put {file} into {path.parent}",
                path=str(path),
                file=file,
            )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise BundleError(
            f"the weights of {path} cannot be read: {' '.join(str(error).split())}", path=str(path)
        ) from error
    return model


def wrap(
    model: onnx.ModelProto, preprocess: Preprocess, *, fp16_weights: bool = False
) -> tuple[onnx.ModelProto, int]:
    """The model with uint8 NHWC ``image`` in and unit-norm float32 ``embedding`` out, and its dim.

    Raises:
        BundleError: the model has another signature, an old opset or weights outside the file.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise unfit(f"it uses opset {opset}", f"at least {OLDEST_OPSET}")
    size = preprocess.crop
    source_name = _only_input(model, size)
    result_name, dim = _only_output(model)
    inner = onnx.compose.add_prefix(model, _PREFIX)
    graph = inner.graph
    mean = np.array(preprocess.mean, np.float64) * 255
    std = np.array(preprocess.std, np.float64) * 255
    # Cast comes first: TensorRT refuses to transpose uint8.
    before = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),  # (n, 3, H, W)
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [_PREFIX + source_name]),
    ]
    after = [
        helper.make_node("Flatten", [_PREFIX + result_name], ["features"], axis=1),  # (n, dim)
        helper.make_node("LpNormalization", ["features"], ["embedding"], axis=1, p=2),
    ]
    constants = [
        numpy_helper.from_array(values.astype(np.float32).reshape(1, 3, 1, 1), key)
        for key, values in (("mean", mean), ("std", std))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])
    nodes = [*before, *graph.node, *after]
    return _sealed(inner, nodes, constants, image, dim, fp16_weights=fp16_weights), dim


def wrap_text(
    model: onnx.ModelProto, context: int, *, fp16_weights: bool = False
) -> tuple[onnx.ModelProto, int]:
    """The text tower with int64 ``tokens`` (batch, context) in and unit-norm float32 ``embedding``
    out, and its dim.

    Args:
        model: one int64 input (batch, context), one float32 output (batch, dim) of any length.

    Raises:
        BundleError: the model has another signature, or weights outside the file.
    """
    inputs = [(_type_of(i), i.name) for i in model.graph.input]
    if len(inputs) != 1 or inputs[0][0] != (TensorProto.INT64, [None, context]):
        found = ", ".join(_described(i) for i in model.graph.input)
        raise unfit(f"its inputs are {found or 'none'}", f"one int64 input (batch, {context})")
    result_name, dim = _only_output(model)
    inner = onnx.compose.add_prefix(model, _PREFIX)
    before = [helper.make_node("Identity", ["tokens"], [_PREFIX + inputs[0][1]])]
    after = [
        helper.make_node("LpNormalization", [_PREFIX + result_name], ["embedding"], axis=1, p=2)
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", context])
    nodes = [*before, *inner.graph.node, *after]
    return _sealed(inner, nodes, [], tokens, dim, fp16_weights=fp16_weights), dim


def _sealed(
    inner: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    source: onnx.ValueInfoProto,
    dim: int,
    *,
    fp16_weights: bool,
) -> onnx.ModelProto:
    """The nodes with the weights of `inner` as a model that says nothing of where it was made."""
    initializers = [_plain(tensor) for tensor in inner.graph.initializer]
    casts: list[onnx.NodeProto] = []
    if fp16_weights:
        initializers, casts = _halved(initializers)
    initializers += constants
    weights = sum(len(tensor.raw_data) for tensor in initializers)
    if weights > _WEIGHTS_LIMIT_BYTES:
        raise unfit(f"its weights have {weights:,} bytes", f"at most {_WEIGHTS_LIMIT_BYTES:,}")
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
    # value_info is left out: it may hold the fixed batch size of the export.
    outer = helper.make_graph([*casts, *nodes], "encoder", [source], [embedding], initializers)
    sealed = helper.make_model(
        outer,
        opset_imports=list(inner.opset_import),
        functions=list(inner.functions),
        ir_version=inner.ir_version,
        producer_name="accrue",
    )
    _strip(sealed.graph.node)
    for function in sealed.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        _strip(function.node)
    try:
        onnx.checker.check_model(sealed)
    except onnx.checker.ValidationError as error:
        raise unfit(" ".join(str(error).split()), "a valid ONNX model") from error
    return sealed


def _only_input(model: onnx.ModelProto, size: int) -> str:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    expected = f"one float32 input (batch, 3, {size}, {size})"
    if len(inputs) != 1:
        raise unfit(f"its inputs are {', '.join(i.name for i in inputs) or 'none'}", expected)
    kind, shape = _type_of(inputs[0])
    sides = [side for side in shape[2:] if side is not None]
    if (
        kind != TensorProto.FLOAT
        or len(shape) != 4
        or shape[1] not in (3, None)
        or any(side != size for side in sides)
    ):
        last = ", channels last" if len(shape) == 4 and shape[3] == 3 else ""
        raise unfit(f"its input is {_described(inputs[0])}{last}", expected)
    name: str = inputs[0].name
    return name


def _only_output(model: onnx.ModelProto) -> tuple[str, int]:
    expected = "one float32 output (batch, dim) or (batch, dim, 1, 1)"
    if len(model.graph.output) != 1:
        raise unfit(f"its outputs are {', '.join(o.name for o in model.graph.output)}", expected)
    output = model.graph.output[0]
    kind, shape = _type_of(output)
    if len(shape) < 2 or shape[1] is None:
        try:
            output = onnx.shape_inference.infer_shapes(model).graph.output[0]
        except onnx.shape_inference.InferenceError as error:
            raise unfit(" ".join(str(error).split()), "a valid ONNX model") from error
        kind, shape = _type_of(output)
    if (
        kind != TensorProto.FLOAT
        or len(shape) not in (2, 4)
        or not shape[1]
        or any(side != 1 for side in shape[2:])
    ):
        raise unfit(f"its output is {_described(output)}", expected)
    return output.name, shape[1]


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, list[int | None]]:
    tensor = value.type.tensor_type
    return tensor.elem_type, [
        d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim
    ]


def _described(value: onnx.ValueInfoProto) -> str:
    kind, shape = _type_of(value)
    sides = ", ".join("?" if side is None else str(side) for side in shape)
    kind_name: str = TensorProto.DataType.Name(kind)
    return f"{value.name}: {kind_name.lower()} ({sides})"


def _plain(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """One representation per value: raw bytes, and nothing about where it was exported."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise unfit(f"{tensor.name} lies outside the file", "all weights loaded (onnx.load)")
    if not tensor.HasField("raw_data"):
        return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    copied = onnx.TensorProto()
    copied.CopyFrom(tensor)
    copied.doc_string = ""
    del copied.metadata_props[:]
    return copied


def _halved(
    tensors: Sequence[onnx.TensorProto],
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Large float32 tensors as float16, each with a Cast back, which ONNX Runtime folds."""
    kept, casts = [], []
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        if (
            values.dtype != np.float32
            or values.size <= FP16_FROM_ELEMENTS
            or np.abs(values).max() > FP16_LARGEST
        ):
            kept.append(tensor)
            continue
        half = f"{tensor.name}.fp16"
        kept.append(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT))
    return kept, casts


def _strip(nodes: Sequence[onnx.NodeProto]) -> None:
    """Removes what exporters note on nodes: stack traces with the paths of their machine."""
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                graph.doc_string = ""
                del graph.metadata_props[:]
                del graph.value_info[:]
                _strip(graph.node)


def unfit(found: str, expected: str) -> BundleError:
    return BundleError(
        f"model cannot become a bundle: {found}; expected {expected}",
        hint="export the model to ONNX anew",
        found=found,
        expected=expected,
    )
