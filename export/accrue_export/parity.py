"""How near one realisation of an encoder comes to another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from accrue.errors import BundleError
from accrue.vision.encode import MIN_COSINE, _failures

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """Of embeddings to their references, image by image.

    Attributes:
        min_cosine, median_cosine: -1 to 1.
        same_nearest: share of the images with the same nearest class as the reference.
        margin_change: median over the images of the change of the margin, which is the cosine to
            the nearest class less that to the second nearest; negative: classes came closer.
    """

    min_cosine: float
    median_cosine: float
    same_nearest: float
    margin_change: float

    @property
    def accepted(self) -> bool:
        """By the one number that decides. Written so that NaN is refused."""
        return self.min_cosine >= MIN_COSINE


def parity(found: Rows, reference: Rows, classes: Rows | None = None) -> Parity:
    """Compare float32 (n, dim) rows, one for each image.

    Args:
        classes: (n_classes, dim) vectors for nearest class and margin; default: the references
            themselves, each image a class of its own.
    """
    ours, theirs = _unit(found), _unit(reference)
    anchors = theirs if classes is None else _unit(classes)
    with np.errstate(invalid="ignore"):  # a NaN comes out as NaN, and is refused
        own = (ours * theirs).sum(axis=1)
        a, b = ours @ anchors.T, theirs @ anchors.T  # (n, n_classes)
    change = float(np.median(_margin(a) - _margin(b))) if len(anchors) > 1 else 0.0
    return Parity(
        min_cosine=_rounded(own.min()),
        median_cosine=_rounded(np.median(own)),
        same_nearest=float(np.mean(a.argmax(axis=1) == b.argmax(axis=1))),
        margin_change=round(change, 6) + 0.0,
    )


def run_onnx(content: bytes, prepared: NDArray[np.uint8], *, threads: int = 0) -> Rows:
    """``embedding`` (n, dim) of preprocessed images (n, size, size, 3), one image at a time.

    Raises:
        BundleError: ONNX Runtime cannot load or run it.

    ONNX Runtime's layout step is left out: in 1.31 it ends the process at a float16 Conv on a CPU
    (measured; NchwcTransformer).
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        rows = [session.run(["embedding"], {"image": i[None]})[0] for i in prepared]
    except _failures(onnxruntime) as error:
        raise BundleError(
            f"ONNX Runtime cannot run it: {' '.join(str(error).split())}", found=str(error)
        ) from error
    return np.concatenate(rows)


def _unit(rows: Rows) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _margin(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    two: NDArray[np.float64] = np.sort(cosines, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def _rounded(cosine: np.floating | float) -> float:
    """Six digits, and never above 1 by rounding; so that a report is the same every time."""
    rounded = round(float(cosine), 6)
    return 1.0 if rounded > 1 else rounded  # not min(): it would turn NaN into 1
