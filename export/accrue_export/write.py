"""Writing an encoder bundle from an ONNX model of an image encoder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accrue import __version__
from accrue.bundle import (
    ENCODER,
    ENCODER_FP16,
    GOLDEN_EMBEDDINGS,
    MANIFEST,
    Bundle,
    FileEntry,
    Manifest,
    Precision,
    Preprocess,
    is_entry_name,
    space_id,
)
from accrue.errors import BundleError, Conflict, NotFound, Refused
from accrue.vision.decode import decode
from accrue.vision.encode import MIN_COSINE, OnnxEncoder, golden_check
from accrue.vision.preprocess import Preprocessor
from accrue_export.graph import unfit, wrap
from accrue_export.parity import Parity, parity, run_onnx
from accrue_export.precision import to_fp16
from accrue_export.report import REPORT, report
from accrue_export.steps import Step, silent

PACKED = (".zip", ".accrue")  # an output with such a name becomes one file
MIN_EXPORT_COSINE = 0.99999  # of the graph to the model it was exported from
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
    fp16: bool = False,
    reference: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    text: Mapping[str, Any] | None = None,
    producer: Mapping[str, str] = MappingProxyType({}),
    notes: Sequence[str] = (),
    step: Step = silent,
) -> Bundle:
    """Write a bundle; the same arguments give the same bytes of ``encoder.onnx``.

    It is built in a folder beside ``out``, checked, and only then renamed, so that a half-written
    bundle never stands under its name. What an earlier call left when it was killed is removed.

    Args:
        out: must not exist. With the suffix ``.zip`` or ``.accrue`` it becomes one file.
        model: float32 image (batch or 1, 3, H, W), RGB, normalised by mean and std, to float32
            (batch, dim) or (batch, dim, 1, 1). It is not changed.
        source: where the weights come from.
        licence_name: an SPDX identifier or a name; ``restricted`` where it limits use.
        preprocess: its mean and std move into the graph.
        golden: file names (``00.jpg``) and JPEG bytes, at least one.
        fp16_weights: store large weights as float16, half the file. Computing stays float32, and
            the reference embeddings are those of the rounded weights.
        fp16: add ``encoder.fp16.onnx``, mixed precision, if it comes near enough to the reference.
        reference: embeddings, of any length, that the original model gives for preprocessed images
            (n, crop, crop, 3); the written encoder must come within `MIN_EXPORT_COSINE`.
        extra: further files, content by entry name (``text/vocabulary.json``).
        text: the manifest's ``text``, an object that JSON can hold; its files go into ``extra``.
        producer: versions of what made the model, by name.
        notes: sentences for the report.
        step: called with what takes longer than a second; see `accrue_export.steps`.

    Raises:
        Conflict: ``out`` exists.
        Refused: float16 comes no nearer than the golden check allows, or the graph does not
            compute what ``reference`` does.
        ImageError: a golden image cannot be decoded.
        BundleError: the model, a name or the written bundle does not fit the format.
    """
    if out.exists():
        raise Conflict(f"{out} exists already", hint="give another path", path=str(out))
    _check_golden(golden)
    with step("normalisation into the graph"):
        wrapped, dim = wrap(model, preprocess, fp16_weights=fp16_weights)
        encoder: bytes = wrapped.SerializeToString(deterministic=True)
    contents = {ENCODER: encoder, "LICENSE.txt": licence_text.encode()}
    contents |= {f"golden/{file}": jpeg for file, jpeg in golden}
    _check_extra(extra, {*contents, GOLDEN_EMBEDDINGS, ENCODER_FP16, REPORT})
    contents |= extra
    encoder_sha256 = hashlib.sha256(encoder).hexdigest()
    precisions: dict[str, Precision] = {}

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
            producer={"accrue": __version__, "onnx": onnx.__version__, **producer},
            precisions=precisions,
            text=text,
        )

    with _temporary_folder(out) as temporary:
        folder = temporary / "bundle"
        folder.mkdir()
        _write_files(folder, contents, manifest())
        with step("reference embeddings"):
            onnx_encoder = OnnxEncoder(Bundle.open(folder))
            preprocessor = Preprocessor(preprocess)
            inputs = np.stack(
                [preprocessor.exact(decode(jpeg, name=file)) for file, jpeg in sorted(golden)]
            )
            embeddings = np.concatenate([onnx_encoder.encode_prepared(i[None]) for i in inputs])
            _check_batches(onnx_encoder, inputs, embeddings)
        contents[GOLDEN_EMBEDDINGS] = _npy(embeddings)
        exported = None
        if reference:
            with step("comparing with the original model"):
                exported = parity(embeddings, reference(inputs))
            _check_export(exported)
        if fp16:
            with step("float16"):
                half, near = _mixed(wrapped, inputs, embeddings)
            contents[ENCODER_FP16] = half
            precisions["fp16"] = near
        contents[REPORT] = report(manifest(), exported=exported, notes=notes)
        with step("writing and checking"):
            _write_files(folder, contents, manifest())
            bundle = Bundle.open(folder)
            bundle.verify()
            golden_check(onnx_encoder, bundle)
            if out.suffix in PACKED:
                pack(folder, out)
            else:
                _fsync_tree(folder)
                folder.rename(out)
    _fsync(out.parent)
    return Bundle.open(out)


def _check_export(exported: Parity) -> None:
    if not exported.min_cosine >= MIN_EXPORT_COSINE:
        raise Refused(
            f"the ONNX graph does not compute what the model does: least cosine "
            f"{exported.min_cosine:.6f} on the golden images; expected {MIN_EXPORT_COSINE}",
            hint="report this with the model's name; nothing was written",
            found=exported.min_cosine,
            expected=MIN_EXPORT_COSINE,
        )


def _mixed(
    model: onnx.ModelProto, inputs: NDArray[np.uint8], reference: NDArray[np.float32]
) -> tuple[bytes, Precision]:
    for grouped in (True, False):
        half: bytes = to_fp16(model, grouped=grouped).SerializeToString(deterministic=True)
        near = parity(run_onnx(half, inputs), reference)
        if near.accepted and near.same_nearest == 1:
            return half, Precision(
                ENCODER_FP16, near.min_cosine, near.median_cosine, near.same_nearest
            )
    raise Refused(
        f"in float16 this encoder has a least cosine of {near.min_cosine:.6f} to the reference "
        f"on the golden images; expected {MIN_COSINE}, each image nearest to its own",
        hint="nothing was written; to build without float16: --no-fp16",
        found=near.min_cosine,
        expected=MIN_COSINE,
    )


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


def _check_extra(extra: Mapping[str, bytes], taken: set[str]) -> None:
    for name in extra:
        if not is_entry_name(name) or name in taken:
            raise BundleError(
                f"a further file is named {name!r}; expected a plain relative path that the "
                "bundle does not use itself",
                found=name,
            )


def _check_batches(
    encoder: OnnxEncoder, inputs: NDArray[np.uint8], single: NDArray[np.float32]
) -> None:
    """A model exported with a fixed batch size fails, or mixes images, when it meets two."""
    pair = inputs[[0, len(inputs) - 1]]
    try:
        together = encoder.encode_prepared(pair)
    except BundleError as error:
        raise unfit(
            f"it cannot encode two images at once ({error.fields['found']})", "a dynamic batch"
        ) from error
    worst = float((together * single[[0, len(inputs) - 1]]).sum(axis=1).min())
    if worst < MIN_COSINE:
        raise unfit(
            f"an image has cosine {worst:.6f} to itself in a batch of two", "a dynamic batch"
        )


def _npy(embeddings: NDArray[np.float32]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, embeddings.astype("<f4"), version=(1, 0))
    return content.getvalue()


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.document(), indent=1, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, gone at the end; so are those of writers that were killed.

    A lock on it, which the system drops when its process ends, tells the two apart.
    """
    _need_folder(out.parent)
    try:
        prefix = f".{out.name}.part-"
        _remove_abandoned(out.parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
    except OSError as error:
        raise _cannot_write(out, error) from error


def _remove_abandoned(parent: Path, prefix: str) -> None:
    for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(OSError):  # in use, or not ours: left alone
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotFound(f"no folder {folder} to write into", path=str(folder))


def _cannot_write(out: Path, error: OSError) -> BundleError:
    reason = error.strerror or str(error)
    return BundleError(f"cannot write {out}: {reason}", path=str(out), found=reason)


def _write_files(folder: Path, contents: dict[str, bytes], manifest: Manifest) -> None:
    for name, content in {**contents, MANIFEST: _manifest_bytes(manifest)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
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
