"""A bundle's encoder as a TensorRT engine."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from accrue.bundle import Bundle
from accrue.errors import EngineError
from accrue.vision.encode import BATCH, BundleEncoder, Embeddings
from accrue.vision.engines.cuda import Execution
from accrue.vision.engines.key import Profile
from accrue.vision.engines.trt import load
from accrue.vision.preprocess import Pixels


class EngineEncoder(BundleEncoder):
    """An engine on the GPU. Of several threads, one at a time gets at it, for one batch each.

    Args:
        bundle: that the engine was built from.
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        content: the serialised engine.
        profile: that it was built with.
        graphs: use CUDA graphs for one image and for full batches.

    Raises:
        EngineError: TensorRT or CUDA refuses, as without a driver.
    """

    def __init__(
        self, bundle: Bundle, trt: Any, content: bytes, profile: Profile, *, graphs: bool = True
    ) -> None:
        super().__init__(bundle, batch=min(BATCH, profile.most))
        self._least, self._most = profile.least, profile.most
        self._turn = threading.Lock()
        self._execution = Execution(
            trt, load(trt, content), self._size, self._dim, profile.most, graphs=graphs
        )

    @property
    def no_graphs(self) -> str:
        """Why CUDA graphs are not used; "" where they are."""
        return self._execution.no_graphs

    def close(self) -> None:
        self._execution.close()

    def _run(self, batch: Pixels) -> Embeddings:
        count = len(batch)
        if count > self._most:
            raise EngineError(f"a batch of {count} images; the engine takes at most {self._most}")
        if count < self._least:
            filling = np.zeros((self._least - count, *batch.shape[1:]), np.uint8)
            batch = np.concatenate([batch, filling])
        with self._turn:
            return self._execution.run(batch)[:count]
