"""Writing an encoder bundle from an ONNX model of an image encoder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accrue import __version__
from accrue.bundle import (
    ENCODER,
    GOLDEN_EMBEDDINGS,
    MANIFEST,
    Bundle,
    FileEntry,
    Manifest,
    Preprocess,
    is_entry_name,
    space_id,
)
from accrue.errors import BundleError, Conflict, NotFound
from accrue.vision.decode import decode
from accrue.vision.encode import MIN_COSINE, OnnxEncoder, golden_check
from accrue.vision.preprocess import Preprocessor

OLDEST_OPSET = 13
FP16_FROM_ELEMENTS = 1_000  # smaller tensors (biases, scales) stay float32: no size, some accuracy
_FP16_LARGEST = 65_504.0
_PREFIX = "net/"  # so that no name of the model can be "image" or "embedding"
_WEIGHTS_LIMIT_BYTES = 2**31 - 2**24  # one protobuf message holds 2 GiB; 16 MiB for the graph
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o644


def write_bundle(
    out: Path,
    *,
    model: onnx.ModelProto,
    name: str,
    source: str,
    licence_name: str,
    licence_text: str,
    restricted: bool,
    preprocess: Preprocess,
    golden: Sequence[tuple[str, bytes]],
    fp16_weights: bool = False,
) -> Bundle:
    """Write a bundle folder; the same arguments give the same bytes of ``encoder.onnx``.

    It is built in a folder beside ``out``, checked, and only then renamed, so that a half-written
    bundle never stands under its name.

    Args:
        out: must not exist.
        model: float32 image (batch or 1, 3, H, W), RGB, normalised by mean and std, to float32
            (batch, dim) or (batch, dim, 1, 1). It is not changed.
        source: where the weights come from.
        licence_name: an SPDX identifier or a name; ``restricted`` where it limits use.
        preprocess: its mean and std move into the graph.
        golden: file names (``00.jpg``) and JPEG bytes, at least one.
        fp16_weights: store large weights as float16, half the file. Computing stays float32, and
            the reference embeddings are those of the rounded weights.

    Raises:
        Conflict: ``out`` exists.
        ImageError: a golden image cannot be decoded.
        BundleError: the model, a name or the written bundle does not fit the format.
    """
    if out.exists():
        raise Conflict(f"{out} exists already", hint="give another path", path=str(out))
    _check_golden(golden)
    wrapped, dim = wrap(model, preprocess, fp16_weights=fp16_weights)
    encoder: bytes = wrapped.SerializeToString(deterministic=True)
    contents = {ENCODER: encoder, "LICENSE.txt": licence_text.encode()}
    contents |= {f"golden/{file}": jpeg for file, jpeg in golden}
    encoder_sha256 = hashlib.sha256(encoder).hexdigest()

    def manifest() -> Manifest:
        return Manifest(
            name=name,
            space_id=space_id(encoder_sha256, preprocess.document(), None),
            dim=dim,
            size=preprocess.crop,
            preprocess=preprocess,
            source=source,
            licence_name=licence_name,
            licence_restricted=restricted,
            files={
                file: FileEntry(hashlib.sha256(content).hexdigest(), len(content))
                for file, content in contents.items()
            },
            producer={"accrue": __version__, "onnx": onnx.__version__},
        )

    with _temporary_folder(out) as folder:
        _write_files(folder, contents, manifest())
        onnx_encoder = OnnxEncoder(Bundle.open(folder))
        preprocessor = Preprocessor(preprocess)
        inputs = np.stack(
            [preprocessor.exact(decode(jpeg, name=file)) for file, jpeg in sorted(golden)]
        )
        embeddings = np.concatenate([onnx_encoder.encode_prepared(i[None]) for i in inputs])
        _check_batches(onnx_encoder, inputs, embeddings)
        contents[GOLDEN_EMBEDDINGS] = _npy(embeddings)
        _write_files(folder, contents, manifest())
        bundle = Bundle.open(folder)
        bundle.verify()
        golden_check(onnx_encoder, bundle)
        _fsync_tree(folder)
        folder.rename(out)
    _fsync(out.parent)
    return Bundle.open(out)


def pack(bundle_dir: Path, out_file: Path) -> Bundle:
    """Write a bundle folder as one file; the same bundle gives the same bytes.

    Raises:
        NotFound, BundleError: ``bundle_dir`` is no whole bundle.
        Conflict: ``out_file`` exists.
    """
    bundle = Bundle.open(bundle_dir)
    bundle.verify()
    if out_file.exists():
        raise Conflict(f"{out_file} exists already", hint="give another path", path=str(out_file))
    contents = [(name, bundle.read(name)) for name in sorted(bundle.manifest.files)]
    _need_folder(out_file.parent)
    temporary = out_file.with_name(f".{out_file.name}.part")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in [(MANIFEST, _manifest_bytes(bundle.manifest)), *contents]:
                    entry = zipfile.ZipInfo(name, _ZIP_TIME)
                    entry.create_system = 3  # Unix, on every system
                    entry.external_attr = _FILE_MODE << 16
                    archive.writestr(entry, content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out_file)
    except OSError as error:
        raise _cannot_write(out_file, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(out_file.parent)
    packed = Bundle.open(out_file)
    packed.verify()
    return packed


def wrap(
    model: onnx.ModelProto, preprocess: Preprocess, *, fp16_weights: bool = False
) -> tuple[onnx.ModelProto, int]:
    """The model with uint8 NHWC ``image`` in and unit-norm float32 ``embedding`` out, and its dim.

    Raises:
        BundleError: the model has another signature, an old opset or weights outside the file.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise _unfit(f"it uses opset {opset}", f"at least {OLDEST_OPSET}")
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
    initializers = [_plain(tensor) for tensor in graph.initializer]
    casts: list[onnx.NodeProto] = []
    if fp16_weights:
        initializers, casts = _halved(initializers)
    for key, values in (("mean", mean), ("std", std)):
        shaped = values.astype(np.float32).reshape(1, 3, 1, 1)
        initializers.append(numpy_helper.from_array(shaped, key))
    weights = sum(len(tensor.raw_data) for tensor in initializers)
    if weights > _WEIGHTS_LIMIT_BYTES:
        raise _unfit(f"its weights have {weights:,} bytes", f"at most {_WEIGHTS_LIMIT_BYTES:,}")
    nodes = [*casts, *before, *graph.node, *after]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
    # value_info is left out: it may hold the fixed batch size of the export.
    outer = helper.make_graph(nodes, "encoder", [image], [embedding], initializers)
    wrapped = helper.make_model(
        outer,
        opset_imports=list(inner.opset_import),
        functions=list(inner.functions),
        ir_version=inner.ir_version,
        producer_name="accrue",
    )
    _strip(wrapped.graph.node)
    for function in wrapped.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        _strip(function.node)
    try:
        onnx.checker.check_model(wrapped)
    except onnx.checker.ValidationError as error:
        raise _unfit(" ".join(str(error).split()), "a valid ONNX model") from error
    return wrapped, dim


def _only_input(model: onnx.ModelProto, size: int) -> str:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    expected = f"one float32 input (batch, 3, {size}, {size})"
    if len(inputs) != 1:
        raise _unfit(f"its inputs are {', '.join(i.name for i in inputs) or 'none'}", expected)
    kind, shape = _type_of(inputs[0])
    sides = [side for side in shape[2:] if side is not None]
    if (
        kind != TensorProto.FLOAT
        or len(shape) != 4
        or shape[1] not in (3, None)
        or any(side != size for side in sides)
    ):
        raise _unfit(f"its input is {_described(inputs[0])}", expected)
    name: str = inputs[0].name
    return name


def _only_output(model: onnx.ModelProto) -> tuple[str, int]:
    expected = "one float32 output (batch, dim) or (batch, dim, 1, 1)"
    if len(model.graph.output) != 1:
        raise _unfit(f"its outputs are {', '.join(o.name for o in model.graph.output)}", expected)
    output = model.graph.output[0]
    kind, shape = _type_of(output)
    if len(shape) < 2 or shape[1] is None:
        try:
            output = onnx.shape_inference.infer_shapes(model).graph.output[0]
        except onnx.shape_inference.InferenceError as error:
            raise _unfit(" ".join(str(error).split()), "a valid ONNX model") from error
        kind, shape = _type_of(output)
    if (
        kind != TensorProto.FLOAT
        or len(shape) not in (2, 4)
        or not shape[1]
        or any(side != 1 for side in shape[2:])
    ):
        raise _unfit(f"its output is {_described(output)}", expected)
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
        raise _unfit(f"{tensor.name} lies outside the file", "all weights loaded (onnx.load)")
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
            or np.abs(values).max() > _FP16_LARGEST
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


def _check_golden(golden: Sequence[tuple[str, bytes]]) -> None:
    names = [name for name, _ in golden]
    if not names or len(set(names)) != len(names):
        raise BundleError(
            f"golden images are {', '.join(names) or 'missing'}; expected different names"
        )
    for name, jpeg in golden:
        if not (is_entry_name(f"golden/{name}") and name.endswith(".jpg") and "/" not in name):
            raise BundleError(
                f"golden image is named {name!r}; expected a plain name like '00.jpg'", found=name
            )
        if not jpeg.startswith(b"\xff\xd8\xff"):
            raise BundleError(f"golden image {name} is no JPEG", found=name)


def _check_batches(
    encoder: OnnxEncoder, inputs: NDArray[np.uint8], single: NDArray[np.float32]
) -> None:
    """A model exported with a fixed batch size fails, or mixes images, when it meets two."""
    pair = inputs[[0, len(inputs) - 1]]
    try:
        together = encoder.encode_prepared(pair)
    except BundleError as error:
        raise _unfit(
            f"it cannot encode two images at once ({error.fields['found']})", "a dynamic batch"
        ) from error
    worst = float((together * single[[0, len(inputs) - 1]]).sum(axis=1).min())
    if worst < MIN_COSINE:
        raise _unfit(
            f"an image has cosine {worst:.6f} to itself in a batch of two", "a dynamic batch"
        )


def _unfit(found: str, expected: str) -> BundleError:
    return BundleError(
        f"model cannot become a bundle: {found}; expected {expected}",
        hint="export the model to ONNX anew",
        found=found,
        expected=expected,
    )


def _npy(embeddings: NDArray[np.float32]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, embeddings.astype("<f4"), version=(1, 0))
    return content.getvalue()


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.document(), indent=1, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, gone again unless it was renamed."""
    _need_folder(out.parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        folder.chmod(0o755)  # mkdtemp keeps it to one user
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(out, error) from error


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotFound(f"no folder {folder} to write into", path=str(folder))


def _cannot_write(out: Path, error: OSError) -> BundleError:
    reason = error.strerror or str(error)
    return BundleError(f"cannot write {out}: {reason}", path=str(out), found=reason)


def _write_files(folder: Path, contents: dict[str, bytes], manifest: Manifest) -> None:
    for name, content in {**contents, MANIFEST: _manifest_bytes(manifest)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _fsync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
