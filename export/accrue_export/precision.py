"""Mixed float16: the same graph with what bears it in float16, and the rest in float32.

The converters of the usual libraries gave graphs that do not load as soon as an operation was to
stay float32 (two nodes of one name, a result of the wrong type; measured), so this one is small
and written here. It lists what may be float16, not what may not: an operation that it does not
know stays float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from accrue_export.graph import FP16_LARGEST, unfit

# fmt: off
# What bears the load is computed in float16,
WORK = frozenset({
    "Add", "Conv", "ConvTranspose", "Einsum", "Gemm", "HardSigmoid", "HardSwish", "MatMul", "Mul",
    "PRelu", "Sigmoid", "Sub", "Tanh",
})
# and what only moves, chooses or bounds values takes them as they come.
FOLLOW = frozenset({
    "Clip", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "LeakyRelu", "Max",
    "MaxPool", "Min", "Neg", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
})
# fmt: on
_ELEMENTWISE = frozenset({"Add", "Mul", "Neg", "Sub"})
# Squares, sums and what undoes them: 256 * 256 is beyond float16, and 1e-6 is nearly nothing in it.
# fmt: off
_SENSITIVE = frozenset({
    "Div", "Exp", "GlobalAveragePool", "Log", "LpNormalization", "Pow", "Reciprocal",
    "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Sqrt",
})
# fmt: on


def to_fp16(model: onnx.ModelProto, *, grouped: bool = True) -> onnx.ModelProto:
    """A copy with float16 weights and products; the same input and output.

    Args:
        grouped: depthwise and other grouped convolutions as well. They sum few products, so that
            rounding averages out least there: a MobileNetV2 went from a least cosine of 0.99898
            to 0.99987 without them (measured).

    Softmax, every normalisation and reduction, powers, roots, divisions, erf and the elementwise
    steps beside them stay float32, as does what uses a weight beyond float16's range (65,504).

    Raises:
        BundleError: the graph's types cannot be inferred.
    """
    model = _inlined(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    floats = _floats(model)
    large = {
        name
        for name, tensor in constants.items()
        if name in floats and not _fits(numpy_helper.to_array(tensor))
    }
    half_nodes = _half_nodes(graph, floats, large, grouped=grouped)
    half_values = {name for i in half_nodes for name in graph.node[i].output if name in floats}
    _keep_outputs(graph, half_values)
    nodes: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    casts: set[str] = set()

    def as_half(name: str) -> str:
        if name in half_values or name not in floats:
            return name
        half = f"{name}.fp16"
        if name in constants:
            values = numpy_helper.to_array(constants[name]).astype(np.float16)
            made.setdefault(half, numpy_helper.from_array(values, half))
        elif half not in casts:
            casts.add(half)
            nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16))
        return half

    def as_float(name: str) -> str:
        if name not in half_values:
            return name
        whole = f"{name}.fp32"
        if whole not in casts:
            casts.add(whole)
            nodes.append(helper.make_node("Cast", [name], [whole], to=TensorProto.FLOAT))
        return whole

    for i, node in enumerate(graph.node):
        fit = as_half if i in half_nodes else as_float
        inputs = [fit(name) if name else name for name in node.input]
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = inputs
        nodes.append(changed)
    used = {name for node in nodes for name in node.input} | set(_captured(graph))
    kept = [tensor for name, tensor in constants.items() if name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *made.values()])
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise unfit(" ".join(str(error).split()), "a graph that holds in float16") from error
    return model


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without functions, whose small float constants are initializers."""
    if model.functions:
        copied: onnx.ModelProto = inliner.inline_local_functions(model)
    else:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
    graph, nodes = copied.graph, []
    for node in copied.graph.node:
        value = node.attribute[0] if node.op_type == "Constant" else None
        if value is not None and value.name == "value":
            tensor = numpy_helper.from_array(numpy_helper.to_array(value.t), node.output[0])
            graph.initializer.append(tensor)
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return copied


def _floats(model: onnx.ModelProto) -> set[str]:
    """The names of all float32 values."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:  # its type matters, its values do not
            info = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims)
            light.graph.input.append(info)
        else:
            light.graph.initializer.append(tensor)
    try:
        inferred = onnx.shape_inference.infer_shapes(light).graph
    except onnx.shape_inference.InferenceError as error:
        raise unfit(" ".join(str(error).split()), "a graph whose types can be inferred") from error
    known = [*inferred.input, *inferred.value_info, *inferred.output]
    return {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _fits(values: np.ndarray) -> bool:
    return bool(values.size == 0 or np.abs(values).max() <= FP16_LARGEST)


def _half_nodes(
    graph: onnx.GraphProto, floats: set[str], large: set[str], *, grouped: bool
) -> set[int]:
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    captured = set(_captured(graph))

    def sensitive(node: onnx.NodeProto) -> bool:
        if node.op_type not in _ELEMENTWISE:
            return False
        before = [makers[name].op_type for name in node.input if name in makers]
        after = [user.op_type for name in node.output for user in users.get(name, [])]
        square = node.op_type == "Mul" and len(set(node.input)) == 1
        return square or not _SENSITIVE.isdisjoint([*before, *after])

    def may(node: onnx.NodeProto) -> bool:
        return (
            node.domain in ("", "ai.onnx")
            and node.output[0] in floats
            and large.isdisjoint(node.input)
            and captured.isdisjoint(node.output)
            and not sensitive(node)
            and (grouped or not any(a.name == "group" and a.i > 1 for a in node.attribute))
        )

    chosen: set[int] = set()
    half_values: set[str] = set()
    for i, node in enumerate(graph.node):  # in the order of computing: inputs are decided
        made = [name for name in node.input if name in floats and name in makers]
        follows = node.op_type in FOLLOW and bool(made) and half_values.issuperset(made)
        if (node.op_type in WORK or follows) and may(node):
            chosen.add(i)
            half_values |= floats.intersection(node.output)
    return chosen


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that the bodies of loops and branches read."""
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (name for inner in body.node for name in inner.input)
                yield from (output.name for output in body.output)
                yield from _captured(body)


def _keep_outputs(graph: onnx.GraphProto, half_values: set[str]) -> None:
    """An output is float32 whatever makes it; here it is always the final normalisation."""
    for output in graph.output:
        if output.name in half_values:
            raise unfit(f"its output {output.name} would be float16", "a float32 output")
