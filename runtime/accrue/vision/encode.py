"""From images to embeddings, and the check against the golden images; here by ONNX Runtime."""

from __future__ import annotations

import ctypes
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from accrue.bundle import ENCODER, Bundle
from accrue.errors import AccrueError, BundleError, ConfigError
from accrue.vision.decode import decode
from accrue.vision.preprocess import Pixels, Preprocessor, check_image
from accrue.vision.views import make_views

Embeddings = NDArray[np.float32]

CPU_PROVIDER = "CPUExecutionProvider"
BATCH = 8  # images
# On a CPU more gains nothing and takes memory: docs/experiments.md, "Images at once".
CPU_BATCH = 2
SPIN_US = 200  # that a thread of ONNX Runtime stays awake for its next piece of work
_TIMED_SPIN = 1, 26  # ONNX Runtime; older ones cannot be told how long
MIN_COSINE = 0.999  # of every golden image to its reference
_FATAL = 4  # severity in ONNX Runtime's log
_LENGTH_TOLERANCE = 1e-2  # of the unit norm; fp16 engines stay within 1e-3


class Encoder(Protocol):
    """Anything that realises an embedding space."""

    @property
    def space_id(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, images: Sequence[Pixels]) -> Embeddings:
        """uint8 (h, w, 3) RGB images of any sizes to unit-norm float32 (n, dim)."""
        ...


@dataclass(frozen=True)
class Parity:
    """How near an encoder comes to the reference on the golden images.

    Attributes:
        min_cosine, median_cosine: over the golden images.
        same_nearest: each image is nearer to its own reference than to any other's.
    """

    min_cosine: float
    median_cosine: float
    same_nearest: bool


class BundleEncoder(ABC):
    """What all realisations of a bundle's encoder share: preprocessing, batches, checks.

    Args:
        bundle: read once.
        batch: images that are run together at most.
    """

    def __init__(self, bundle: Bundle, *, batch: int = BATCH) -> None:
        self._path: Path = bundle.path
        self._size = bundle.manifest.size
        self._dim = bundle.manifest.dim
        self._space_id = bundle.manifest.space_id
        self._batch = batch
        self.preprocessor = Preprocessor(bundle.manifest.preprocess)

    @abstractmethod
    def _run(self, batch: Pixels) -> Embeddings:
        """Whatever comes out for uint8 (n, size, size, 3), unchecked."""

    @property
    def space_id(self) -> str:
        return self._space_id

    @property
    def dim(self) -> int:
        return self._dim

    def encode(self, images: Sequence[Pixels]) -> Embeddings:
        """Unit-norm float32 (n, dim) of uint8 (h, w, 3) RGB images of any sizes.

        Raises:
            ImageError: an image has another shape or dtype.
            BundleError: the encoder fails, or gives what is no embedding.
        """
        for i, image in enumerate(images):
            check_image(image, f"image {i}")
        batches = [images[i : i + self._batch] for i in range(0, len(images), self._batch)]
        parts = [
            self.encode_prepared(np.stack([self.preprocessor(image) for image in batch]))
            for batch in batches
        ]
        return np.concatenate(parts) if parts else np.empty((0, self._dim), np.float32)

    def encode_views(
        self, images: Sequence[Pixels], count: int, *, mirror: bool = True
    ) -> Embeddings:
        """Unit-norm float32 (n, count, dim): of each image the first views (see `make_views`).

        Raises as `encode`.
        """
        if not images:
            return np.empty((0, count, self._dim), np.float32)
        views = [
            view
            for image in images
            for view in make_views(self.preprocessor, image, count, mirror=mirror)
        ]
        batches = [views[i : i + self._batch] for i in range(0, len(views), self._batch)]
        rows = [self.encode_prepared(np.stack(batch)) for batch in batches]
        return np.concatenate(rows).reshape(len(images), -1, self._dim)

    def encode_prepared(self, batch: Pixels) -> Embeddings:
        """Unit-norm float32 (n, dim) of preprocessed images, uint8 (n, size, size, 3), n > 0."""
        embeddings = self._run(batch)
        expected = (len(batch), self._dim)
        if embeddings.shape != expected:
            raise self._error(f"it gave {embeddings.shape}", expected=str(expected))
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        # Written so that NaN fails as well.
        if not (np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all():
            worst = int(np.nanargmax(np.nan_to_num(np.abs(lengths - 1), nan=np.inf)))
            raise self._error(
                f"it gave an embedding of length {lengths[worst]:.6g}", expected="length 1"
            )
        return embeddings

    def _error(self, found: str, *, expected: str = "") -> BundleError:
        message = f"encoder of bundle {self._path}: {found}"
        return BundleError(
            f"{message}; expected {expected}" if expected else message,
            hint="export the bundle again",
            path=str(self._path),
            found=found,
            expected=expected,
        )


class OnnxEncoder(BundleEncoder):
    """A bundle's ``encoder.onnx`` in ONNX Runtime.

    Args:
        bundle: read once; its encoder's hash is checked again.
        threads: for one image or batch; default: the cores this process may use.
        providers: of ONNX Runtime, best first, as names or as (name, options).

    Raises:
        ConfigError: this ONNX Runtime lacks a provider or cannot use the first one, or threads is
            below 1.
        BundleError: the encoder does not load, or its input or output is not as the format says.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        providers: Sequence[str | tuple[str, dict[str, str]]] = (CPU_PROVIDER,),
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected at least 1", found=threads)
        ort = _onnxruntime()
        available = ort.get_available_providers()
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        for name in names:
            if name not in available:
                raise ConfigError(
                    f"this ONNX Runtime has no {name}; it has {', '.join(available)}",
                    hint="for a GPU: see docs/engines.md, ONNX Runtime on a GPU",
                    found=available,
                    expected=name,
                )
        on_gpu = names[0] != CPU_PROVIDER
        super().__init__(bundle, batch=BATCH if on_gpu else CPU_BATCH)
        self._failures = _failures(ort)
        options = _session_options(ort, threads)
        content = bundle.read(ENCODER)
        if on_gpu:
            _prepare_gpu(ort)
        try:
            self._session = ort.InferenceSession(
                content, options, providers=list(providers), enable_fallback=False
            )
        except self._failures as error:
            if on_gpu:
                raise _unusable(ort, names[0], error) from error
            raise self._error(f"ONNX Runtime cannot load it: {_one_line(error)}") from error
        if names[0] not in self.providers:  # it goes on without one that it cannot start
            raise _unusable(ort, names[0])
        self._check_signature()

    @property
    def providers(self) -> tuple[str, ...]:
        """Those that ONNX Runtime really uses."""
        return tuple(self._session.get_providers())

    def _run(self, batch: Pixels) -> Embeddings:
        try:
            found: Embeddings = self._session.run(["embedding"], {"image": batch})[0]
        except self._failures as error:
            raise self._error(f"ONNX Runtime cannot run it: {_one_line(error)}") from error
        return found

    def _check_signature(self) -> None:
        size, dim = self._size, self._dim
        inputs = [(i.name, i.type, list(i.shape)) for i in self._session.get_inputs()]
        outputs = [(o.name, o.type, list(o.shape)) for o in self._session.get_outputs()]
        if [i[:2] for i in inputs] != [("image", "tensor(uint8)")]:
            raise self._error(
                f"its inputs are {_listed(inputs)}", expected=f"image: uint8 (n, {size}, {size}, 3)"
            )
        if len(inputs[0][2]) != 4 or inputs[0][2][1:] != [size, size, 3]:
            raise self._error(
                f"its input is {_listed(inputs)}", expected=f"image: uint8 (n, {size}, {size}, 3)"
            )
        if isinstance(inputs[0][2][0], int):
            raise self._error(
                f"its input is {_listed(inputs)}: only batches of {inputs[0][2][0]}",
                expected="a batch of any size",
            )
        if [o[:2] for o in outputs] != [("embedding", "tensor(float)")]:
            raise self._error(
                f"its outputs are {_listed(outputs)}", expected=f"embedding: float32 (n, {dim})"
            )
        shape = outputs[0][2]
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != dim):
            raise self._error(
                f"its output is {_listed(outputs)}", expected=f"embedding: float32 (n, {dim})"
            )


def golden_check(encoder: Encoder, bundle: Bundle) -> Parity:
    """Compare an encoder with the reference embeddings, starting from the golden JPEGs.

    Raises:
        BundleError: the encoder is of another space, a cosine is below `MIN_COSINE`, or an image
            is nearer to another one's reference.
    """
    if encoder.space_id != bundle.manifest.space_id:
        raise BundleError(
            f"encoder of space {encoder.space_id[:12]}… was checked against bundle {bundle.path} "
            f"of space {bundle.manifest.space_id[:12]}…",
            path=str(bundle.path),
            found=encoder.space_id,
            expected=bundle.manifest.space_id,
        )
    golden = bundle.golden()
    reference = np.stack([row for _, _, row in golden]).astype(np.float64)  # (n, dim)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    images = [decode(jpeg, name=f"{bundle.path}/{name}") for name, jpeg, _ in golden]
    found = encoder.encode(images).astype(np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    cosines = found @ reference.T  # (n, n)
    own = np.diagonal(cosines)
    nearest = bool((own >= cosines.max(axis=1)).all())
    parity = Parity(float(own.min()), float(np.median(own)), nearest)
    if not (parity.min_cosine >= MIN_COSINE and nearest):
        name = golden[int(own.argmin())][0]
        what = (
            f"{name} has cosine {parity.min_cosine:.6f} to its reference"
            if nearest
            else "a golden image is nearer to another one's reference than to its own"
        )
        raise BundleError(
            f"golden check of bundle {bundle.path} failed: {what}; expected at least {MIN_COSINE}",
            hint="the encoder computes other embeddings here than where the bundle was made",
            path=str(bundle.path),
            found=parity.min_cosine,
            expected=MIN_COSINE,
        )
    return parity


def _onnxruntime() -> Any:
    """The module, imported late: it takes longer than all of ``accrue --help`` may."""
    try:
        import onnxruntime
    except ImportError as error:
        raise AccrueError(
            f"ONNX Runtime cannot be imported: {_one_line(error)}", hint="pip install onnxruntime"
        ) from error
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _session_options(ort: Any, threads: int | None) -> Any:
    """As a session of a device has them; threads: None for the cores that this process may use."""
    options = ort.SessionOptions()
    options.enable_mem_pattern = False  # it holds the memory of each batch size that it saw
    options.intra_op_num_threads = threads or _cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # By default a thread without work turns round for up to half a second, at ten frames a second
    # for ever: 52 ms of a core for a photo of 10. Long enough to go from one node to the next, no
    # longer, is as fast where photos follow upon each other. See docs/experiments.md.
    major, minor = (int(part) for part in ort.__version__.split(".")[:2])
    if (major, minor) >= _TIMED_SPIN:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _prepare_gpu(ort: Any) -> None:
    """Loads CUDA and cuDNN where they came as Python packages, and keeps ONNX Runtime quiet about
    what it cannot load: `_unusable` tells it."""
    ort.set_default_logger_severity(_FATAL)
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _unusable(ort: Any, provider: str, error: Exception | None = None) -> ConfigError:
    """Why ONNX Runtime cannot use a provider that it has: mostly a library that is not there."""
    kind = provider.removesuffix("ExecutionProvider").lower()
    folder = Path(ort.__file__).parent / "capi"
    reason = _one_line(error) if error else "it gave no reason"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{kind}.so"))
    except OSError as missing:
        reason = _one_line(missing)
    return ConfigError(
        f"ONNX Runtime {ort.__version__} cannot use {provider} here: {reason}",
        hint="it needs the CUDA, cuDNN and TensorRT that it was built for: docs/engines.md",
        found=reason,
        expected=provider,
    )


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises: its own exceptions have no common base."""
    own = vars(ort.capi.onnxruntime_pybind11_state).values()
    classes = [e for e in own if isinstance(e, type) and issubclass(e, Exception)]
    return (*classes, RuntimeError, ValueError, TypeError)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _listed(values: list[tuple[str, str, list[Any]]]) -> str:
    kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}
    return ", ".join(
        f"{name}: {kinds.get(kind, kind)} ({', '.join(str(s) for s in shape)})"
        for name, kind, shape in values
    )
